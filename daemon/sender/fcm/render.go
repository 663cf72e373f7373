package fcm

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

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
			APS aps `json:"aps"`
		} `json:"payload"`
		Options *apnsOptions `json:"fcmOptions,omitzero"`
	}
	apnsOptions struct {
		Image string `json:"image"`
	}
	aps struct {
		Alert             *alert   `json:"alert,omitempty"`
		Badge             *int     `json:"badge,omitzero"`
		Sound             any      `json:"sound,omitzero"`
		Category          string   `json:"category,omitzero"`
		ThreadID          string   `json:"thread-id,omitzero"`
		ContentAvailable  int      `json:"content-available,omitzero"`
		MutableContent    int      `json:"mutable-content,omitzero"`
		TargetContentID   string   `json:"target-content-id,omitzero"`
		InterruptionLevel string   `json:"interruption-level,omitzero"`
		RelevanceScore    *float64 `json:"relevance-score,omitzero"`
	}
	alert struct {
		Title        string   `json:"title,omitzero"`
		Subtitle     string   `json:"subtitle,omitzero"`
		Body         string   `json:"body,omitzero"`
		TitleLocKey  string   `json:"title-loc-key,omitzero"`
		TitleLocArgs []string `json:"title-loc-args,omitempty"`
		LocKey       string   `json:"loc-key,omitzero"`
		LocArgs      []string `json:"loc-args,omitempty"`
	}
	criticalSound struct {
		Critical int     `json:"critical"`
		Name     string  `json:"name"`
		Volume   float64 `json:"volume"`
	}

	webpush struct {
		Headers      map[string]string `json:"headers"`
		Notification *webNotification  `json:"notification,omitempty"`
		Options      *webOptions       `json:"fcmOptions,omitzero"`
	}
	webOptions struct {
		Link string `json:"link"`
	}
	webNotification struct {
		Icon               string      `json:"icon,omitzero"`
		Image              string      `json:"image,omitzero"`
		Badge              string      `json:"badge,omitzero"`
		Tag                string      `json:"tag,omitzero"`
		Actions            []webAction `json:"actions,omitempty"`
		RequireInteraction bool        `json:"requireInteraction,omitzero"`
		Renotify           bool        `json:"renotify,omitzero"`
	}
	webAction struct {
		Action string `json:"action"`
		Title  string `json:"title"`
		Icon   string `json:"icon,omitzero"`
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
		m.ios(n, title, text)
	case store.PlatformWeb:
		m.web(n, title, text)
	}
	b, err := json.Marshal(&m, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, &store.MessageError{Field: "body", Detail: "cannot be put into a message for " + string(p) + ": a number is not one that JSON has"}
	}
	if len(b) > store.MaxPayload {
		return nil, tooLarge(len(b), p, n.Data, title, text)
	}
	return b, nil
}

// tooLarge blames whichever is the larger part.
func tooLarge(size int, p store.Platform, data map[string]string, title, text string) error {
	const limit = store.MaxPayload
	e := &store.MessageError{Field: "body", Detail: "is " + grouped(size) + " bytes for " + string(p) + ", " + grouped(size-limit) + " more than the " +
		grouped(limit) + " that FCM takes; shorten "}
	ofData := 0
	for k, v := range data {
		ofData += len(k) + len(v)
	}
	switch {
	case ofData > len(title)+len(text):
		e.Field = "data"
		e.Detail += "the data"
	case len(text) >= len(title):
		e.Detail += "the text"
	default:
		e.Detail += "the title"
	}
	return e
}

// grouped writes a number with commas between its thousands.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
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
func (m *message) ios(n *store.Notification, title, text string) {
	o := &n.APNs
	expires := "0"
	if s := seconds(n.TTL, o.TTL); s != "0" {
		life, _ := strconv.ParseInt(s, 10, 64) // seconds wrote it
		expires = strconv.FormatInt(time.Now().Unix()+life, 10)
	}
	m.APNs = &apns{Headers: map[string]string{"apns-expiration": expires}}
	h, a := m.APNs.Headers, &m.APNs.Payload.APS
	if n.CollapseKey != "" {
		h["apns-collapse-id"] = n.CollapseKey
	}
	if n.Silent {
		// A background notification has priority 5, and nothing beside content-available.
		h["apns-push-type"], h["apns-priority"] = "background", "5"
		a.ContentAvailable = 1
		return
	}
	h["apns-push-type"], h["apns-priority"] = "alert", "5"
	if n.High {
		h["apns-priority"] = "10"
	}
	a.Alert = &alert{Title: title, Subtitle: o.Subtitle, Body: text}
	if o.LocalizedTitle != "" {
		a.Alert.Title, a.Alert.TitleLocKey, a.Alert.TitleLocArgs = "", o.LocalizedTitle, o.LocalizedTitleArgs
	}
	if o.LocalizedText != "" {
		a.Alert.Body, a.Alert.LocKey, a.Alert.LocArgs = "", o.LocalizedText, o.LocalizedTextArgs
	}
	a.Badge, a.Category, a.ThreadID, a.TargetContentID = n.Badge, o.Category, o.ThreadID, o.TargetContent
	a.InterruptionLevel, a.RelevanceScore = o.InterruptionLevel, o.RelevanceScore
	switch {
	case o.Critical:
		name := n.Sound
		if name == "" {
			name = "default"
		}
		a.Sound = criticalSound{1, name, o.Volume}
	case n.Sound != "":
		a.Sound = n.Sound
	}
	if n.ImageURL != "" {
		m.APNs.Options = &apnsOptions{n.ImageURL}
	}
	if o.MutableContent || n.ImageURL != "" { // an image is put in by an extension of the app
		a.MutableContent = 1
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
		m.Webpush.Headers["Topic"] = pushTopic(n.CollapseKey)
	}
	if n.Silent {
		return
	}
	m.Notification = &basic{Title: title, Body: text}
	m.Webpush.Notification = &webNotification{
		Icon: o.IconURL, Image: n.ImageURL, Badge: o.BadgeURL, Tag: o.Tag, RequireInteraction: o.RequireInteraction,
		// Browsers show nothing at all when they are to renotify without a tag.
		Renotify: o.Renotify && o.Tag != "",
	}
	for _, a := range n.Actions {
		m.Webpush.Notification.Actions = append(m.Webpush.Notification.Actions, webAction{a.ID, a.Title, a.IconURL})
	}
	if o.TargetURL != "" {
		m.Webpush.Options = &webOptions{o.TargetURL}
	}
}

// pushTopic is the collapse key as a topic of Web Push, which has at most 32 characters of the URL-safe base64 alphabet (RFC 8030, section
// 5.4): itself, or a digest.
func pushTopic(key string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(key) <= 32 && strings.Trim(key, alphabet) == "" {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}
