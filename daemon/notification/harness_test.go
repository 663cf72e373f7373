package notification

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/dispatch"
	"herald/daemon/sender"
	"herald/daemon/sender/apns"
	"herald/daemon/sender/fcm"
	"herald/daemon/sender/webpush"
	"herald/queue"
	"herald/queue/boltqueue"
	"herald/store"
	"herald/store/boltstore"
)

// house is a Notifier over the engines that ship and the real dispatcher, in virtual time. Its providers are functions.
type house struct {
	dir   string
	store *boltstore.Store
	queue *boltqueue.Queue
	n     *Notifier
	d     *dispatch.Dispatcher
	close func(t *testing.T)
	fake  *providers
	log   *bytes.Buffer // of the attempts; read it when nothing is under way
}

// providers stand for all of them.
type providers struct {
	mu       sync.Mutex
	sent     []attempt
	answer   func(a attempt) sender.Result
	pushes   []push
	callback func(push) queue.Outcome
	forgot   []string
}

// attempt is what a provider was handed.
type attempt struct {
	at          time.Time
	provider    store.Provider
	owner       string
	token       string
	payload     string
	other       bool
	id          string
	expires     time.Time
	ttl         time.Duration
	credentials string
}

// push is what a callback was handed.
type push struct {
	at   time.Time
	url  string
	id   string
	data string
}

func (p *providers) take(a attempt) sender.Result {
	a.at = time.Now()
	p.mu.Lock()
	p.sent = append(p.sent, a)
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		return answer(a)
	}
	return taken(a)
}

func taken(a attempt) sender.Result {
	return sender.Result{
		Outcome: queue.Outcome{Class: queue.ClassDelivered, Status: 200, StartedAt: a.at, Duration: time.Millisecond},
		Device:  sender.DeviceSeen, MessageID: "provider-" + a.token,
	}
}

func answered(c queue.Class, status int, device sender.DeviceFate) sender.Result {
	return sender.Result{Outcome: queue.Outcome{Class: c, Status: status, Error: "said so"}, Device: device}
}

func (p *providers) attempts() []attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

// tokens returns the tokens of all attempts so far, sorted.
func (p *providers) tokens() []string {
	var list []string
	for _, a := range p.attempts() {
		list = append(list, a.token)
	}
	slices.Sort(list)
	return list
}

func (p *providers) pushed() []push {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pushes)
}

func (p *providers) answerWith(f func(a attempt) sender.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

type fakeFCM struct{ *providers }

func (f fakeFCM) Send(_ context.Context, owner string, key *store.FCM, to fcm.Target, message []byte, _ bool) sender.Result {
	return f.take(attempt{provider: store.ProviderFCM, owner: owner, token: to.Token, payload: string(message), credentials: key.ProjectID})
}

type fakeAPNs struct{ *providers }

func (f fakeAPNs) Send(_ context.Context, owner string, key *store.APNs, p apns.Push) sender.Result {
	return f.take(attempt{
		provider: store.ProviderAPNs, owner: owner, token: p.Token, payload: string(p.Payload), other: p.OtherEnvironment, id: p.ID, expires: p.ExpiresAt,
		credentials: key.KeyID,
	})
}

type fakeWebPush struct{ *providers }

func (f fakeWebPush) Send(_ context.Context, owner string, key *store.VAPID, p webpush.Push) sender.Result {
	return f.take(attempt{provider: store.ProviderWebPush, owner: owner, token: p.Endpoint, payload: string(p.Payload), ttl: p.TTL, credentials: key.Subject})
}

// Forget is that of all three.
func (p *providers) Forget(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgot = append(p.forgot, owner)
}

// receiveWith sets what callbacks answer.
func (p *providers) receiveWith(f func(push) queue.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.callback = f
}

type fakeWebhook struct{ *providers }

func (f fakeWebhook) Send(_ context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := push{time.Now(), sub.DataCallbackURL, p.ID, string(p.Events[0].Data)}
	f.pushes = append(f.pushes, x)
	if f.callback != nil {
		return f.callback(x)
	}
	return queue.Outcome{Class: queue.ClassDelivered, Status: 200}
}

// inHouse runs test in virtual time, over files of its own.
func inHouse(t *testing.T, test func(t *testing.T, h *house)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &house{dir: dir, fake: &providers{}}
		if _, err := boltstore.CreateKey(filepath.Join(dir, "secrets.key")); err != nil {
			t.Fatal(err)
		}
		h.open(t)
		t.Cleanup(func() { h.close(t) })
		_, err := h.store.CreateImplementation(t.Context(), &store.Implementation{
			AccountID: store.DefaultAccount, ID: "shop", Name: "Shop", CreatedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC(),
			Android: &store.FCM{ProjectID: "project"}, IOSProvider: store.ProviderAPNs, APNs: &store.APNs{KeyID: "KEY1", Topic: "app"},
			Web: true, VAPID: &store.VAPID{Subject: "mailto:a@example.com"}, StatusSecret: []byte("0123456789abcdefghijklmn"),
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		test(t, h)
	})
}

// open starts everything over the files there are.
func (h *house) open(t *testing.T) {
	t.Helper()
	key, err := boltstore.LoadKey(filepath.Join(h.dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	if h.store, err = boltstore.Open(boltstore.Options{Path: filepath.Join(h.dir, "store.db"), Key: key}); err != nil {
		t.Fatal(err)
	}
	long := 1000 * time.Hour
	h.queue, err = boltqueue.Open(boltqueue.Options{Path: filepath.Join(h.dir, "queue.db"), Retention: queue.Retention{Events: long, Attempts: long, Dead: long}})
	if err != nil {
		t.Fatal(err)
	}
	h.n, err = New(Options{
		Store: h.store, Queue: h.queue, FCM: fakeFCM{h.fake}, APNs: fakeAPNs{h.fake}, WebPush: fakeWebPush{h.fake}, Webhook: fakeWebhook{h.fake},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.log = new(bytes.Buffer)
	h.d, err = dispatch.New(dispatch.Options{
		Queue: h.queue, Store: h.store, Sender: h.n, Settling: h.n.Settling, Describe: h.n.Describe,
		Logger: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Rand: func() float64 { return 0.5 },
	})
	if err != nil {
		t.Fatal(err)
	}
	var below, above sync.WaitGroup
	engines, stopEngines := context.WithCancel(context.Background())
	upper, stopUpper := context.WithCancel(context.Background())
	run := func(wg *sync.WaitGroup, what string, f func(context.Context) error, ctx context.Context) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	run(&below, "store", h.store.Run, engines)
	run(&below, "queue", h.queue.Run, engines)
	<-h.queue.Started()
	run(&above, "dispatcher", h.d.Run, upper)
	run(&above, "notifier", h.n.Run, upper)
	h.close = func(t *testing.T) {
		t.Helper()
		stopUpper()
		above.Wait()
		if err := errors.Join(h.queue.Check(context.Background()), h.store.Check(context.Background())); err != nil {
			t.Errorf("check: %v", err)
		}
		stopEngines()
		below.Wait()
		if err := errors.Join(h.queue.Close(), h.store.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// restart closes and opens.
func (h *house) restart(t *testing.T) {
	t.Helper()
	h.close(t)
	h.open(t)
}

func (h *house) register(t *testing.T, contact string, p store.Platform, token string) store.Device {
	t.Helper()
	return h.put(t, store.Device{Contact: contact, DeviceToken: store.DeviceToken{Platform: p, Kind: store.TokenPlain, Token: token}}, "")
}

func (h *house) put(t *testing.T, d store.Device, replaces string) store.Device {
	t.Helper()
	d.AccountID, d.ImplementationID = store.DefaultAccount, "shop"
	d, err := h.store.PutDevice(t.Context(), d, replaces)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// has tells whether the device is still there.
func (h *house) has(t *testing.T, id store.DeviceID) bool {
	t.Helper()
	_, err := h.store.Device(t.Context(), store.DefaultAccount, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func hello(change func(m *store.Message)) *store.Message {
	m := &store.Message{
		AccountID: store.DefaultAccount, ImplementationID: "shop",
		Notification: store.Notification{
			Title: map[string]string{"en": "Hello", "nl": "Hallo"}, Text: map[string]string{"en": "Your order is on its way", "nl": "Uw bestelling is onderweg"},
			TTL: time.Hour, High: true,
		},
	}
	change(m)
	return m
}

// send sends and waits until all has been done that can be done now.
func (h *house) send(t *testing.T, change func(m *store.Message)) string {
	t.Helper()
	sent, err := h.n.Accept(t.Context(), hello(change))
	if err != nil {
		t.Fatal(err)
	}
	settle()
	return sent.TrackingID
}

// settle waits until all has been done that can be done now, and is known to the queue, whose commits wait for company.
func settle() {
	synctest.Wait()
	time.Sleep(settling)
	synctest.Wait()
}

const settling = 100 * time.Millisecond

func to(contact string) func(m *store.Message) {
	return func(m *store.Message) { m.Contact = contact }
}

func (h *house) view(t *testing.T, tracking string) *store.MessageView {
	t.Helper()
	v, err := h.n.Message(t.Context(), store.DefaultAccount, tracking, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// want checks where a message is.
func (h *house) want(t *testing.T, tracking string, status store.MessageStatus, reason string) *store.MessageView {
	t.Helper()
	v := h.view(t, tracking)
	if v.Status != status || v.Reason != reason {
		t.Fatalf("the message is %s (%s), %d queued, %d sent, %d failed; want %s (%s): %+v", v.Status, v.Reason, v.Queued, v.Sent, v.Failed, status, reason, v.Devices)
	}
	return v
}

func numbered(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	return list
}
