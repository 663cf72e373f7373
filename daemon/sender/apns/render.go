package apns

import (
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// Headers are what goes with a payload; they are stored with the notification that waits.
type Headers struct {
	// PushType is the apns-push-type, Priority the apns-priority.
	PushType string `json:"t"`
	Priority int    `json:"p"`
	// CollapseID is at most 64 bytes; "" for none.
	CollapseID string `json:"c,omitempty"`
	// TopicSuffix is what the push type adds to the topic; "" for alert and background.
	TopicSuffix string `json:"s,omitempty"`
}

// Priorities. APNs refuses a background push with another than priorityPower.
const (
	priorityNow   = 10
	priorityPower = 5
)

type (
	aps struct {
		// Alert is a text, or an alert.
		Alert             any      `json:"alert,omitempty"`
		Badge             *int     `json:"badge,omitzero"`
		Sound             any      `json:"sound,omitempty"`
		ThreadID          string   `json:"thread-id,omitempty"`
		Category          string   `json:"category,omitempty"`
		ContentAvailable  int      `json:"content-available,omitzero"`
		MutableContent    int      `json:"mutable-content,omitzero"`
		TargetContentID   string   `json:"target-content-id,omitempty"`
		InterruptionLevel string   `json:"interruption-level,omitempty"`
		RelevanceScore    *float64 `json:"relevance-score,omitzero"`
	}
	alert struct {
		Title        string   `json:"title,omitempty"`
		Subtitle     string   `json:"subtitle,omitempty"`
		Body         string   `json:"body,omitempty"`
		TitleLocKey  string   `json:"title-loc-key,omitempty"`
		TitleLocArgs []string `json:"title-loc-args,omitempty"`
		LocKey       string   `json:"loc-key,omitempty"`
		LocArgs      []string `json:"loc-args,omitempty"`
	}
	criticalSound struct {
		Critical int     `json:"critical"`
		Name     string  `json:"name"`
		Volume   float64 `json:"volume"`
	}
)

// Members of the payload beside the app's data: APNs' own, and where an extension of the app finds the image to show.
const (
	memberAPS   = "aps"
	memberImage = "image-url"
)

// Render makes payload and headers in a language of the device. It fails with a *store.MessageError when the payload is over 4,096
// bytes, or when the data has a member that is taken.
func Render(n *store.Notification, locale string) (payload []byte, h Headers, err error) {
	members := make(map[string]any, len(n.Data)+2)
	for name, value := range n.Data {
		members[name] = value
	}
	language := n.Language(locale)
	title, text := n.Title[language], n.Text[language]
	own := map[string]any{memberAPS: payloadOf(n, title, text)}
	if n.ImageURL != "" {
		own[memberImage] = n.ImageURL
	}
	for name, value := range own {
		if _, taken := members[name]; taken {
			return nil, Headers{}, &store.MessageError{Field: "data", Detail: "has the member " + name +
				", which the payload for ios has a use of its own for; name it otherwise"}
		}
		members[name] = value
	}
	payload, err = json.Marshal(members, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, Headers{}, &store.MessageError{Field: "body", Detail: "cannot be put into a payload for ios: a number is not one that JSON has"}
	}
	if len(payload) > store.MaxPayload {
		return nil, Headers{}, tooLarge(len(payload), n.Data, title, text)
	}
	h = Headers{PushType: "alert", Priority: priorityPower, CollapseID: n.CollapseKey}
	switch {
	case n.Silent:
		h.PushType = "background"
	case n.High:
		h.Priority = priorityNow
	}
	return payload, h, nil
}

func payloadOf(n *store.Notification, title, text string) aps {
	if n.Silent { // a background push has nothing else
		return aps{ContentAvailable: 1}
	}
	o := &n.APNs
	a := aps{
		Badge: n.Badge, ThreadID: o.ThreadID, Category: o.Category, TargetContentID: o.TargetContent,
		InterruptionLevel: o.InterruptionLevel, RelevanceScore: o.RelevanceScore,
	}
	// A localized key takes the place of the text.
	shown := alert{Title: title, Subtitle: o.Subtitle, Body: text}
	if o.LocalizedTitle != "" {
		shown.Title, shown.TitleLocKey, shown.TitleLocArgs = "", o.LocalizedTitle, o.LocalizedTitleArgs
	}
	if o.LocalizedText != "" {
		shown.Body, shown.LocKey, shown.LocArgs = "", o.LocalizedText, o.LocalizedTextArgs
	}
	switch {
	case shown.Title == "" && shown.Subtitle == "" && shown.TitleLocKey == "" && shown.LocKey == "":
		a.Alert = shown.Body
	default:
		a.Alert = shown
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

// tooLarge blames whichever is the larger part.
func tooLarge(size int, data map[string]string, title, text string) error {
	const limit = store.MaxPayload
	e := &store.MessageError{Field: "body", Detail: "is " + grouped(size) + " bytes for ios, " + grouped(size-limit) + " more than the " +
		grouped(limit) + " that APNs takes; shorten "}
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
