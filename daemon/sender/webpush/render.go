package webpush

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"herald/store"
)

// Headers are what a push says to the push service, and not to the browser.
type Headers struct {
	// Urgency is very-low, low, normal or high (RFC 8030, section 5.3).
	Urgency string `json:"u"`
	// Topic replaces what still waits with the same (RFC 8030, section 5.4); "" replaces nothing.
	Topic string `json:"t,omitempty"`
}

// maxTopic is the length of the longest Topic, in characters of base64url.
const maxTopic = 32

// payload is what the page's service worker reads. title and options are the arguments of ServiceWorkerRegistration.showNotification, so that it
// needs no more than
//
//	self.addEventListener("push", (e) => { const n = e.data.json(); e.waitUntil(self.registration.showNotification(n.title, n.options)) })
//	self.addEventListener("notificationclick", (e) => { e.notification.close(); e.waitUntil(clients.openWindow(e.notification.data.url)) })
type payload struct {
	// Title stands always, but in a silent notification, which is not to be shown.
	Title *string `json:"title,omitzero"`
	// Silent: nothing is to be shown. Title and the options but data are missing.
	Silent bool `json:"silent,omitzero"`
	// AppBadge is the number for navigator.setAppBadge, 0 to take it away.
	AppBadge *int    `json:"appBadge,omitzero"`
	Options  options `json:"options"`
}

// options are those of the Notifications API, which leaves out what a browser does not know.
type options struct {
	Body    string   `json:"body,omitzero"`
	Lang    string   `json:"lang,omitzero"`
	Icon    string   `json:"icon,omitzero"`
	Image   string   `json:"image,omitzero"`
	Badge   string   `json:"badge,omitzero"`
	Tag     string   `json:"tag,omitzero"`
	Actions []action `json:"actions,omitzero"`
	// RequireInteraction leaves it on the screen until somebody acts. Renotify alerts again where one with the same Tag stands; without a Tag
	// showNotification would throw.
	RequireInteraction bool `json:"requireInteraction,omitzero"`
	Renotify           bool `json:"renotify,omitzero"`
	// Data is that of the notification, and under "url" where a click leads. It stands always.
	Data map[string]string `json:"data"`
}

type action struct {
	Action string `json:"action"`
	Title  string `json:"title"`
	Icon   string `json:"icon,omitzero"`
}

// targetKey is the member of the data that holds where a click leads; data of its name gives way to it.
const targetKey = "url"

// Render makes the payload, JSON for the page's service worker as docs/devices.md describes it, and the headers, in the language of a device of that locale. The error
// is a *store.MessageError when it is over the limit of MaxPayload.
func Render(n *store.Notification, locale string) (text []byte, h Headers, err error) {
	p := payload{Silent: n.Silent, AppBadge: n.Badge, Options: options{Data: n.Data}}
	if n.Web.TargetURL != "" {
		p.Options.Data = make(map[string]string, len(n.Data)+1)
		maps.Copy(p.Options.Data, n.Data)
		p.Options.Data[targetKey] = n.Web.TargetURL
	}
	if !n.Silent {
		lang := n.Language(locale)
		title := n.Title[lang]
		p.Title = &title
		o := &p.Options
		o.Body, o.Lang, o.Image = n.Text[lang], lang, n.ImageURL
		o.Icon, o.Badge, o.Tag = n.Web.IconURL, n.Web.BadgeURL, n.Web.Tag
		o.RequireInteraction, o.Renotify = n.Web.RequireInteraction, n.Web.Renotify && n.Web.Tag != ""
		for _, a := range n.Actions {
			o.Actions = append(o.Actions, action{a.ID, a.Title, a.IconURL})
		}
	}
	if text, err = json.Marshal(&p, json.Deterministic(true)); err != nil {
		return nil, Headers{}, fmt.Errorf("write the payload: %w", err)
	}
	if len(text) > MaxPayload {
		return nil, Headers{}, tooLarge(&p, len(text))
	}
	return text, headers(n), nil
}

func headers(n *store.Notification) Headers {
	h := Headers{Urgency: "normal", Topic: n.CollapseKey}
	switch {
	case n.High:
		h.Urgency = "high"
	case n.Silent:
		h.Urgency = "low"
	}
	if !isTopic(h.Topic) {
		sum := sha256.Sum256([]byte(n.CollapseKey))
		h.Topic = base64.RawURLEncoding.EncodeToString(sum[:])[:maxTopic]
	}
	return h
}

// isTopic tells whether a text can stand in a Topic header as it is, or is no topic at all.
func isTopic(s string) bool {
	return len(s) <= maxTopic && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// tooLarge blames what takes the most.
func tooLarge(p *payload, size int) *store.MessageError {
	data := 0
	for k, v := range p.Options.Data {
		data += len(k) + len(v)
	}
	shown := len(p.Options.Body)
	if p.Title != nil {
		shown += len(*p.Title)
	}
	e := &store.MessageError{Field: "body"}
	shorten := "shorten the title, the text or the data"
	if data > shown {
		e.Field, shorten = "data", "shorten the data, or let the page ask for it"
	}
	e.Detail = fmt.Sprintf("is %s bytes for web, %s more than the %s that push services take; %s",
		thousands(size), thousands(size-MaxPayload), thousands(MaxPayload), shorten)
	return e
}

// thousands writes a number that is not negative as people read it: 4,310.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
