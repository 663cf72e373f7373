package sender

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	"herald/store"
)

// TooLarge is the error for a notification that makes a payload of size bytes for a platform, where taker takes no more than limit. It blames
// whichever is the larger part in that language.
func TooLarge(n *store.Notification, language string, p store.Platform, taker string, size, limit int) *store.MessageError {
	e := &store.MessageError{
		Field: "body",
		Detail: "is " + Thousands(size) + " bytes for " + string(p) + ", " + Thousands(size-limit) + " more than the " + Thousands(limit) +
			" that " + taker + "; shorten ",
	}
	title, text, data := len(n.Title[language]), len(n.Text[language]), 0
	if n.Silent { // they are not sent
		title, text = 0, 0
	}
	for k, v := range n.Data {
		data += len(k) + len(v)
	}
	switch {
	case data > title+text:
		e.Field = "data"
		e.Detail += "the data"
	case text >= title:
		e.Detail += "the text"
	default:
		e.Detail += "the title"
	}
	return e
}

// Thousands writes a number that is not negative as people read it: 4,310.
func Thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// pushTopicLength is the length of the longest Topic.
const pushTopicLength = 32

// PushTopic is a collapse key as the Topic of a web push, which has at most 32 characters of the URL-safe base64 alphabet (RFC 8030, section
// 5.4): itself, or a digest. Without a key there is none.
func PushTopic(key string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(key) <= pushTopicLength && strings.Trim(key, alphabet) == "" {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:])[:pushTopicLength]
}

type (
	// APS is the dictionary aps of a payload for iOS ("Generating a remote notification"), which FCM passes on as it is.
	APS struct {
		// Alert is an *Alert, or where there is nothing else the text.
		Alert any  `json:"alert,omitempty"`
		Badge *int `json:"badge,omitzero"`
		// Sound is a name, or that of a critical alert with its volume.
		Sound             any      `json:"sound,omitempty"`
		Category          string   `json:"category,omitzero"`
		ThreadID          string   `json:"thread-id,omitzero"`
		ContentAvailable  int      `json:"content-available,omitzero"`
		MutableContent    int      `json:"mutable-content,omitzero"`
		TargetContentID   string   `json:"target-content-id,omitzero"`
		InterruptionLevel string   `json:"interruption-level,omitzero"`
		RelevanceScore    *float64 `json:"relevance-score,omitzero"`
	}
	// Alert is what is shown.
	Alert struct {
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
)

// NewAPS makes the dictionary of a notification in a language. Its Alert is an *Alert, or nil in a silent one.
func NewAPS(n *store.Notification, language string) APS {
	if n.Silent { // a background push has nothing else
		return APS{ContentAvailable: 1}
	}
	o := &n.APNs
	shown := &Alert{Title: n.Title[language], Subtitle: o.Subtitle, Body: n.Text[language]}
	// A localized key takes the place of the text.
	if o.LocalizedTitle != "" {
		shown.Title, shown.TitleLocKey, shown.TitleLocArgs = "", o.LocalizedTitle, o.LocalizedTitleArgs
	}
	if o.LocalizedText != "" {
		shown.Body, shown.LocKey, shown.LocArgs = "", o.LocalizedText, o.LocalizedTextArgs
	}
	a := APS{
		Alert: shown, Badge: n.Badge, Category: o.Category, ThreadID: o.ThreadID, TargetContentID: o.TargetContent,
		InterruptionLevel: o.InterruptionLevel, RelevanceScore: o.RelevanceScore,
	}
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
	if o.MutableContent || n.ImageURL != "" { // an image is put in by an extension of the app
		a.MutableContent = 1
	}
	return a
}

type (
	// WebOptions are options of the Notifications API, beside the texts and the data. A browser leaves out what it does not know.
	WebOptions struct {
		Icon    string      `json:"icon,omitzero"`
		Image   string      `json:"image,omitzero"`
		Badge   string      `json:"badge,omitzero"`
		Tag     string      `json:"tag,omitzero"`
		Actions []WebAction `json:"actions,omitempty"`
		// RequireInteraction leaves it on the screen until somebody acts. Renotify alerts again where one with the same Tag stands.
		RequireInteraction bool `json:"requireInteraction,omitzero"`
		Renotify           bool `json:"renotify,omitzero"`
	}
	// WebAction is a button.
	WebAction struct {
		Action string `json:"action"`
		Title  string `json:"title"`
		Icon   string `json:"icon,omitzero"`
	}
)

// NewWebOptions makes the options of a notification that is shown.
func NewWebOptions(n *store.Notification) WebOptions {
	w := &n.Web
	o := WebOptions{
		Icon: w.IconURL, Image: n.ImageURL, Badge: w.BadgeURL, Tag: w.Tag, RequireInteraction: w.RequireInteraction,
		// To renotify without a tag makes showNotification throw, and browsers show nothing at all.
		Renotify: w.Renotify && w.Tag != "",
	}
	for _, a := range n.Actions {
		o.Actions = append(o.Actions, WebAction{a.ID, a.Title, a.IconURL})
	}
	return o
}
