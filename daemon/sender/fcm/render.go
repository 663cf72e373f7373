package fcm

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"herald/daemon/sender"
	"herald/store"
)

// The members of a message that are sent, under the names of the discovery document of FCM HTTP v1.
type (
	message struct {
		Notification *basic            `json:"notification,omitempty"`
		Data         map[string]string `json:"data,omitempty"`
		Android      *android          `json:"android,omitzero"`
		APNs         *apns             `json:"apns,omitzero"`
		Webpush      *webpush          `json:"webpush,omitzero"`
	}
	basic struct {
		Title string `json:"title,omitzero"`
		Body  string `json:"body,omitzero"`
		Image string `json:"image,omitzero"`
	}

	android struct {
		Priority     string               `json:"priority"`
		CollapseKey  string               `json:"collapseKey,omitzero"`
		TTL          string               `json:"ttl"`
		Notification *androidNotification `json:"notification,omitempty"`
	}
	androidNotification struct {
		Icon              string   `json:"icon,omitzero"`
		Color             string   `json:"color,omitzero"`
		Sound             string   `json:"sound,omitzero"`
		Tag               string   `json:"tag,omitzero"`
		ClickAction       string   `json:"clickAction,omitzero"`
		TitleLocKey       string   `json:"titleLocKey,omitzero"`
		TitleLocArgs      []string `json:"titleLocArgs,omitempty"`
		BodyLocKey        string   `json:"bodyLocKey,omitzero"`
		BodyLocArgs       []string `json:"bodyLocArgs,omitempty"`
		ChannelID         string   `json:"channelId,omitzero"`
		NotificationCount int      `json:"notificationCount,omitzero"`
	}

	apns struct {
		Headers map[string]string `json:"headers"`
		Payload struct {
			APS sender.APS `json:"aps"`
		} `json:"payload"`
		Options *apnsOptions `json:"fcmOptions,omitzero"`
	}
	apnsOptions struct {
		Image string `json:"image"`
	}
	webpush struct {
		Headers      map[string]string  `json:"headers"`
		Notification *sender.WebOptions `json:"notification,omitempty"`
		Options      *webOptions        `json:"fcmOptions,omitzero"`
	}
	webOptions struct {
		Link string `json:"link"`
	}
)

// Render makes the message for a platform in a language of the device, without its target: what Send takes. The life of one for iOS, which
// APNs knows as a moment, begins now.
//
// It fails with a *store.MessageError when the message is over the limit of FCM. FCM counts the notification and the data (for iOS what it makes
// of them for APNs); here the whole of the JSON counts, which is a little more: what passes here FCM takes.
func Render(n *store.Notification, p store.Platform, locale string) ([]byte, error) {
	m := message{Data: n.Data}
	language := n.Language(locale)
	title, text := n.Title[language], n.Text[language]
	switch p {
	case store.PlatformAndroid:
		m.Android = &android{Priority: "NORMAL", CollapseKey: n.CollapseKey, TTL: seconds(n.TTL, n.Android.TTL) + "s"}
		if n.High {
			m.Android.Priority = "HIGH"
		}
		if !n.Silent {
			m.android(n, title, text)
		}
	case store.PlatformIOS:
		m.ios(n, language)
	case store.PlatformWeb:
		m.web(n, title, text)
	}
	b, err := json.Marshal(&m, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, &store.MessageError{Field: "body", Detail: "cannot be put into a message for " + string(p) + ": a number is not one that JSON has"}
	}
	if len(b) > store.MaxPayload {
		return nil, sender.TooLarge(n, language, p, "FCM takes", len(b), store.MaxPayload)
	}
	return b, nil
}

// seconds is how long a provider keeps the notification, as the platform has it or else all.
func seconds(all time.Duration, own *time.Duration) string {
	if own != nil {
		all = *own
	}
	return strconv.FormatInt(int64(all/time.Second), 10)
}

// android fills in what is shown. The SDK looks at a localized key only where there is no text, so one takes the place of the other.
func (m *message) android(n *store.Notification, title, text string) {
	o := &n.Android
	m.Notification = &basic{Title: title, Body: text, Image: n.ImageURL}
	m.Android.Notification = &androidNotification{
		Icon: o.Icon, Color: o.Color, Sound: n.Sound, Tag: o.Tag, ClickAction: o.ClickAction, ChannelID: o.ChannelID,
	}
	if o.LocalizedTitle != "" {
		m.Notification.Title = ""
		m.Android.Notification.TitleLocKey, m.Android.Notification.TitleLocArgs = o.LocalizedTitle, o.LocalizedTitleArgs
	}
	if o.LocalizedText != "" {
		m.Notification.Body = ""
		m.Android.Notification.BodyLocKey, m.Android.Notification.BodyLocArgs = o.LocalizedText, o.LocalizedTextArgs
	}
	if n.Badge != nil {
		m.Android.Notification.NotificationCount = *n.Badge // 0 cannot be told from none there
	}
}

// ios fills in the APNs block. All texts stand in its alert, which takes the place of the basic notification, so that none is sent twice.
func (m *message) ios(n *store.Notification, language string) {
	expires := "0"
	if s := seconds(n.TTL, n.APNs.TTL); s != "0" {
		life, _ := strconv.ParseInt(s, 10, 64) // seconds wrote it
		expires = strconv.FormatInt(time.Now().Unix()+life, 10)
	}
	m.APNs = &apns{Headers: map[string]string{"apns-expiration": expires}}
	m.APNs.Payload.APS = sender.NewAPS(n, language)
	h := m.APNs.Headers
	if n.CollapseKey != "" {
		h["apns-collapse-id"] = n.CollapseKey
	}
	if n.Silent {
		// A background notification has priority 5.
		h["apns-push-type"], h["apns-priority"] = "background", "5"
		return
	}
	h["apns-push-type"], h["apns-priority"] = "alert", "5"
	if n.High {
		h["apns-priority"] = "10"
	}
	if n.ImageURL != "" {
		m.APNs.Options = &apnsOptions{n.ImageURL}
	}
}

// web fills in the block of the Web Push protocol.
func (m *message) web(n *store.Notification, title, text string) {
	o := &n.Web
	m.Webpush = &webpush{Headers: map[string]string{"TTL": seconds(n.TTL, o.TTL), "Urgency": "normal"}}
	if n.High {
		m.Webpush.Headers["Urgency"] = "high"
	}
	if n.CollapseKey != "" {
		m.Webpush.Headers["Topic"] = sender.PushTopic(n.CollapseKey)
	}
	if n.Silent {
		return
	}
	m.Notification = &basic{Title: title, Body: text}
	m.Webpush.Notification = new(sender.NewWebOptions(n))
	if o.TargetURL != "" {
		m.Webpush.Options = &webOptions{o.TargetURL}
	}
}
