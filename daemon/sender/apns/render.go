package apns

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"herald/daemon/sender"
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
	own := map[string]any{memberAPS: payloadOf(n, language)}
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
		return nil, Headers{}, sender.TooLarge(n, language, store.PlatformIOS, "APNs takes", len(payload), store.MaxPayload)
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

// payloadOf is aps, with a text that stands alone in the short form.
func payloadOf(n *store.Notification, language string) sender.APS {
	a := sender.NewAPS(n, language)
	if shown, ok := a.Alert.(*sender.Alert); ok && shown.Title == "" && shown.Subtitle == "" && shown.TitleLocKey == "" && shown.LocKey == "" {
		a.Alert = shown.Body
	}
	return a
}
