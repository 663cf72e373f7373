package demo

import (
	"bytes"
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

// call makes a call about devices, its body as a person would type it, and decodes the answer.
func (t *story) call(ctx context.Context, next http.RoundTripper, method, path, body string, out any) error {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, t.daemon.url+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+t.token.Secret)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := next.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s was answered %d: %s", method, path, res.StatusCode, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return nil
}

// show is call, printed.
func (t *story) show(ctx context.Context, method, path, body string, out any) error {
	return t.call(ctx, &tracer{next: t.transport, out: t.out, names: t.names}, method, path, body, out)
}

// registerBrowser makes the credentials of an app, and registers a browser that has subscribed with them.
func (t *story) registerBrowser(ctx context.Context) error {
	var app struct {
		ID  string `json:"id"`
		Web struct {
			VAPID struct {
				PublicKey string `json:"publicKey"`
			} `json:"vapid"`
		} `json:"web"`
	}
	err := t.show(ctx, http.MethodPost, "/implementations", `{"id":"shop","name":"The shop","web":{"vapid":{"subject":"mailto:push@shop.example"}}}`, &app)
	if err != nil {
		return err
	}
	key, err := base64.RawURLEncoding.DecodeString(app.Web.VAPID.PublicKey)
	if err != nil || len(key) != 65 || app.ID != "shop" {
		return fmt.Errorf("the implementation %q has the public key %q, which is no point of 65 bytes", app.ID, app.Web.VAPID.PublicKey)
	}
	t.out.note("a VAPID pair was made for it; Herald keeps the private key, and the page subscribes with the public one:")
	t.out.note("%s", app.Web.VAPID.PublicKey)
	subscription, err := t.browser.service.Subscribe(key)
	if err != nil {
		return err
	}
	t.out.note("the browser answers with an endpoint at its push service and a key; the page hands both over as they are")
	var registered struct {
		ContactID string `json:"routeeContactId"`
	}
	body := `{"implementationId":"shop","routeeContactId":"anna","locale":"nl-BE","token":` + string(subscription) + `}`
	if err := t.show(ctx, http.MethodPost, "/messages/web", body, &registered); err != nil {
		return err
	}
	if registered.ContactID != "anna" {
		return fmt.Errorf("the browser was registered for %q, not for anna", registered.ContactID)
	}
	t.out.proved("the browser is one of anna's devices, and is spoken to in Dutch")
	return nil
}

// notify sends a message to a contact, and looks at what the browser makes of it.
func (t *story) notify(ctx context.Context) error {
	var sent struct {
		TrackingID string `json:"trackingId"`
	}
	err := t.show(ctx, http.MethodPost, "/messages", `{"implementationId":"shop","routeeContactId":"anna",`+
		`"body":{"title":{"en":"On its way","nl":"Onderweg"},"text":{"en":"Your order comes today","nl":"Je bestelling komt vandaag"}}}`, &sent)
	if err != nil {
		return err
	}
	t.out.note("202: on disk, synced, as %s", sent.TrackingID)
	n, err := t.browser.await(ctx, 1)
	if err != nil {
		return err
	}
	if n.Title != "Onderweg" || n.Options.Body != "Je bestelling komt vandaag" || n.Options.Lang != "nl" {
		return fmt.Errorf("the browser shows %+v, which is not what was sent in its language", n)
	}
	t.out.proved("the push service took it, and the browser decrypted and shows: %s: %s", n.Title, n.Options.Body)

	path := "/messages/" + sent.TrackingID
	var m struct{ Status string }
	err = until(ctx, func() (bool, error) {
		err := t.call(ctx, t.transport, http.MethodGet, path, "", &m)
		return m.Status == "SENT", err
	})
	if err != nil {
		return fmt.Errorf("wait until the message is SENT; it is %q: %w", m.Status, err)
	}
	if err := t.show(ctx, http.MethodGet, path, "", &m); err != nil {
		return err
	}
	t.out.proved("the message is %s", m.Status)
	return nil
}

// notifyOfEvents has events notify devices, and publishes one that goes two ways.
func (t *story) notifyOfEvents(ctx context.Context) error {
	var s client.Subscription
	err := t.show(ctx, http.MethodPost, "/subscriptions", `{"resource":"project/proj1","events":["task.assigned"],"notification":{"implementationId":"shop",`+
		`"routeeContactId":"{{owner}}","body":{"title":"{{title}}","text":{"en":"Due at {{due.time}}","nl":"Klaar om {{due.time}}"}}}}`, &s)
	if err != nil {
		return err
	}
	if s.State != client.StateActive {
		return fmt.Errorf("the new subscription is %q, it should be %s", s.State, client.StateActive)
	}
	api, err := t.as()
	if err != nil {
		return err
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
	t.out.proved("the receiver took it, verified: %s", bytes.TrimSpace(as[0].data))
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
