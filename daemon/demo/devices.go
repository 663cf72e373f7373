package demo

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"herald/daemon/client"
	"herald/daemon/standin"
)

// notification is what the page's service worker is given, as far as the demo looks at it.
type notification struct {
	Title   string `json:"title"`
	Options struct {
		Body string `json:"body"`
		Lang string `json:"lang"`
	} `json:"options"`
}

// demoApp is the implementation of the demo.
const demoApp = "shop"

// browser is somebody's browser, and the push service that it has chosen. Nothing but a browser's own subscription tells the daemon where
// it is, and nothing but the browser can read what is pushed to it.
type browser struct {
	service *standin.WebPush
	caFile  string

	mu    sync.Mutex
	shown []notification
	watch func(notification)
}

// newBrowser starts one; the certificate of its push service goes into a file in dir.
func newBrowser(dir string) (*browser, error) {
	b := &browser{}
	var err error
	if b.service, err = standin.NewWebPush(standin.WebPushOptions{Received: b.receive}); err != nil {
		return nil, err
	}
	if b.caFile, err = b.service.CAFile(dir); err != nil {
		b.service.Close()
		return nil, err
	}
	return b, nil
}

func (b *browser) receive(m standin.WebPushMessage) {
	var n notification
	if err := json.Unmarshal(m.Payload, &n); err != nil {
		n.Title = fmt.Sprintf("what is no JSON: %q", m.Payload)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown = append(b.shown, n)
	if b.watch != nil {
		b.watch(n)
	}
}

// follow calls f, under the browser's lock, for each notification shown from now on.
func (b *browser) follow(f func(notification)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watch = f
}

// all returns the notifications so far.
func (b *browser) all() []notification {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.shown)
}

// await waits for the notification of that number, counted from 1.
func (b *browser) await(ctx context.Context, number int) (notification, error) {
	var n notification
	err := until(ctx, func() (bool, error) {
		if faults := b.service.Faults(); len(faults) > 0 {
			return false, fmt.Errorf("the push service or the browser finds fault: %s", faults[0])
		}
		all := b.all()
		if len(all) >= number {
			n = all[number-1]
		}
		return len(all) >= number, nil
	})
	if err != nil {
		return n, fmt.Errorf("wait for a notification: %w", err)
	}
	return n, nil
}

// registerSubscription hands a subscription over as the browser made it, an object, which the client would write as a text. It returns whom the answer names.
func (t *story) registerSubscription(ctx context.Context, contact string, subscription []byte) (string, error) {
	body := fmt.Sprintf(`{"implementationId":%q,"routeeContactId":%q,"locale":"nl-BE","token":%s}`, demoApp, contact, subscription)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.daemon.url+"/messages/web", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+t.token.Secret)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&tracer{next: t.transport, out: t.out, names: t.names}).RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("register: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return "", fmt.Errorf("register: %w", err)
	}
	var registered struct {
		ContactID string `json:"routeeContactId"`
	}
	if res.StatusCode != http.StatusOK || json.Unmarshal(answer, &registered) != nil {
		return "", fmt.Errorf("the registration was answered %d, it should be %d: %s", res.StatusCode, http.StatusOK, answer)
	}
	return registered.ContactID, nil
}

// registerBrowser makes the credentials of an app, and registers a browser that has subscribed with them.
func (t *story) registerBrowser(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	app, err := api.CreateImplementation(ctx, client.ImplementationInput{
		ID: demoApp, Name: "The shop", Web: &client.WebInput{VAPID: client.VAPIDInput{Subject: "mailto:push@shop.example"}},
	})
	if err != nil {
		return err
	}
	if app.Web == nil {
		return errors.New("the implementation has no web")
	}
	key, err := base64.RawURLEncoding.DecodeString(app.Web.VAPID.PublicKey)
	if err != nil || len(key) != 65 {
		return fmt.Errorf("the public key of the implementation is %q, which is no point of 65 bytes", app.Web.VAPID.PublicKey)
	}
	t.out.note("a VAPID pair was made for it; Herald keeps the private key, and the page subscribes with the public one:")
	t.out.note("%s", app.Web.VAPID.PublicKey)
	subscription, err := t.browser.service.Subscribe(key)
	if err != nil {
		return err
	}
	t.out.note("the browser answers with an endpoint at its push service and a key; the page hands both over as they are")
	contact, err := t.registerSubscription(ctx, "anna", subscription)
	if err != nil {
		return err
	}
	if contact != "anna" {
		return fmt.Errorf("the browser was registered for %q, not for anna", contact)
	}
	t.out.proved("the browser is one of anna's devices, and is spoken to in Dutch")
	return nil
}

// notify sends a message to a contact, and looks at what the browser makes of it.
func (t *story) notify(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	id, err := api.SendMessage(ctx, client.Message{ImplementationID: demoApp, ContactID: "anna", Notification: client.Notification{
		Body: &client.NotificationBody{
			Title: map[string]string{"en": "On its way", "nl": "Onderweg"},
			Text:  map[string]string{"en": "Your order comes today", "nl": "Je bestelling komt vandaag"},
		},
	}})
	if err != nil {
		return err
	}
	t.out.note("202: on disk, synced, as %s", id)
	n, err := t.browser.await(ctx, 1)
	if err != nil {
		return err
	}
	if n.Title != "Onderweg" || n.Options.Body != "Je bestelling komt vandaag" || n.Options.Lang != "nl" {
		return fmt.Errorf("the browser shows %+v, which is not what was sent in its language", n)
	}
	t.out.proved("the push service took it, and the browser decrypted and shows: %s: %s", n.Title, n.Options.Body)

	quiet, err := t.quietly()
	if err != nil {
		return err
	}
	var m client.MessageStatus
	err = until(ctx, func() (bool, error) {
		m, err = quiet.Message(ctx, id, "", 0)
		return m.Status == client.MessageSent, err
	})
	if err != nil {
		return fmt.Errorf("wait until the message is %s; it is %q: %w", client.MessageSent, m.Status, err)
	}
	if m, err = api.Message(ctx, id, "", 0); err != nil {
		return err
	}
	t.out.proved("the message is %s", m.Status)
	return nil
}

// notifyOfEvents has events notify devices, and publishes one that goes two ways.
func (t *story) notifyOfEvents(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	s, err := api.CreateSubscription(ctx, client.SubscriptionInput{
		Resource: "project/proj1", Events: []string{"task.assigned"},
		Notification: &client.NotificationTemplate{ImplementationID: demoApp, ContactID: "{{owner}}", Notification: client.Notification{
			Body: &client.NotificationBody{Title: "{{title}}", Text: map[string]string{"en": "Due at {{due.time}}", "nl": "Klaar om {{due.time}}"}},
		}},
	})
	if err != nil {
		return err
	}
	if s.State != client.StateActive {
		return fmt.Errorf("the new subscription is %q, it should be %s", s.State, client.StateActive)
	}
	data := []byte(`{"title":"Call back","owner":"anna","due":{"time":"17:00"}}`)
	id, err := api.Publish(ctx, client.Event{Type: "task.assigned", Resource: "project/proj1", Data: data})
	if err != nil {
		return err
	}
	t.expect(id, data)
	as, err := t.arrived(ctx, id)
	if err != nil {
		return err
	}
	n, err := t.browser.await(ctx, 2)
	if err != nil {
		return err
	}
	if n.Title != "Call back" || n.Options.Body != "Klaar om 17:00" {
		return fmt.Errorf("the browser shows %+v, which is not what the template makes of %s", n, data)
	}
	t.out.proved("the receiver took it, verified: %s", as[0].data)
	t.out.proved("anna's browser decrypted and shows: %s: %s", n.Title, n.Options.Body)
	return nil
}

// onlyNotified checks that the browser has shown what the steps sent, and nothing else.
func (t *story) onlyNotified() error {
	if faults := t.browser.service.Faults(); len(faults) > 0 {
		return errors.New("the push service or the browser finds fault: " + faults[0])
	}
	if n := len(t.browser.all()); n != 2 {
		return fmt.Errorf("the browser has shown %d notifications, 2 were sent to it", n)
	}
	return nil
}
