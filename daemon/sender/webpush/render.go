package webpush

import (
	"fmt"
	"maps"

	"github.com/go-json-experiment/json"

	"herald/daemon/sender"
	"herald/store"
)

// Headers are what a push says to the push service, and not to the browser.
type Headers struct {
	// Urgency is very-low, low, normal or high (RFC 8030, section 5.3).
	Urgency string `json:"u"`
	// Topic replaces what still waits with the same (RFC 8030, section 5.4); "" replaces nothing.
	Topic string `json:"t,omitempty"`
}

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
	Body string `json:"body,omitzero"`
	Lang string `json:"lang,omitzero"`
	sender.WebOptions
	// Data is that of the notification, and under "url" where a click leads. It stands always.
	Data map[string]string `json:"data"`
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
		o.Body, o.Lang, o.WebOptions = n.Text[lang], lang, sender.NewWebOptions(n)
	}
	if text, err = json.Marshal(&p, json.Deterministic(true)); err != nil {
		return nil, Headers{}, fmt.Errorf("write the payload: %w", err)
	}
	if len(text) > MaxPayload {
		return nil, Headers{}, sender.TooLarge(n, n.Language(locale), store.PlatformWeb, "push services take", len(text), MaxPayload)
	}
	return text, headers(n), nil
}

func headers(n *store.Notification) Headers {
	h := Headers{Urgency: "normal", Topic: sender.PushTopic(n.CollapseKey)}
	switch {
	case n.High:
		h.Urgency = "high"
	case n.Silent:
		h.Urgency = "low"
	}
	return h
}
