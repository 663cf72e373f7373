// Package storetest is the conformance suite of store.Store.
//
// It promises that an engine which passes keeps every sentence of the contract, with the store used on,
// closed and opened again after each step, and copied while it is open and opened from the copy, as
// after a crash. It looks at an engine through the contract only.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"testing"
	"time"

	"herald/store"
)

// Engine is what the suite needs of an engine beside the contract.
type Engine interface {
	store.Store
	// Run makes changes durable until the context ends, commits what was handed in, and returns nil.
	Run(ctx context.Context) error
	// Close ends Run and releases all files.
	Close() error
}

// Open opens the engine whose files are in the directory, or makes a new one when it is empty. A copy of
// a directory made while no change was under way must open with everything acknowledged in it.
type Open func(dir string) (Engine, error)

// Run tests the engine that open opens. With -short the store is not reopened after each step.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		test func(*house)
	}{
		{"NewStore", testNewStore},
		{"CreateAccount", testCreateAccount},
		{"Accounts", testAccounts},
		{"UpdateAccount", testUpdateAccount},
		{"DeleteAccount", testDeleteAccount},
		{"DeleteAccountWithMuch", testDeleteAccountWithMuch},
		{"DeletedIDIsRetired", testDeletedIDIsRetired},
		{"DeleteRacesCreate", testDeleteRacesCreate},
		{"CreateToken", testCreateToken},
		{"TokenByHash", testTokenByHash},
		{"Tokens", testTokens},
		{"DeleteToken", testDeleteToken},
		{"PutResources", testPutResources},
		{"HasResourceType", testHasResourceType},
		{"Resources", testResources},
		{"ResourcesManyPages", testResourcesManyPages},
		{"DeleteResource", testDeleteResource},
		{"CreateSubscription", testCreateSubscription},
		{"SubscriptionLimit", testSubscriptionLimit},
		{"Subscriptions", testSubscriptions},
		{"SubscriptionsManyPages", testSubscriptionsManyPages},
		{"UpdateSubscription", testUpdateSubscription},
		{"DeleteSubscription", testDeleteSubscription},
		{"Select", testSelect},
		{"SelectByState", testSelectByState},
		{"SelectByFilter", testSelectByFilter},
		{"CreateImplementation", testCreateImplementation},
		{"Implementations", testImplementations},
		{"UpdateImplementation", testUpdateImplementation},
		{"DeleteImplementation", testDeleteImplementation},
		{"DeleteAccountWithDevices", testDeleteAccountWithDevices},
		{"LanesAreHidden", testLanesAreHidden},
		{"NotificationSubscription", testNotificationSubscription},
		{"PutDevice", testPutDevice},
		{"MoveDevice", testMoveDevice},
		{"ReplaceToken", testReplaceToken},
		{"DevicesOfAccounts", testDevicesOfAccounts},
		{"Devices", testDevices},
		{"UpdateDevice", testUpdateDevice},
		{"DeleteDevice", testDeleteDevice},
		{"DeleteContact", testDeleteContact},
		{"ConcurrentPutDevice", testConcurrentPutDevice},
		{"ValuesAreNotShared", testValuesAreNotShared},
		{"EndedContext", testEndedContext},
		{"PanicOfChange", testPanicOfChange},
		{"AfterTheEnd", testAfterTheEnd},
		{"ConcurrentReadYourWrites", testConcurrentReadYourWrites},
		{"ConcurrentUpdates", testConcurrentUpdates},
		{"ConcurrentSwitch", testConcurrentSwitch},
		{"ConcurrentCreates", testConcurrentCreates},
	}
	for _, m := range []struct {
		name  string
		again func(*house)
	}{
		{"UsedOn", func(*house) {}},
		{"Reopened", (*house).reopen},
		{"Crashed", (*house).crash},
	} {
		if testing.Short() && m.name != "UsedOn" {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for _, x := range tests {
				t.Run(x.name, func(t *testing.T) {
					t.Parallel()
					h := &house{T: t, open: open, again: m.again, dir: t.TempDir()}
					h.start()
					t.Cleanup(h.leave)
					x.test(h)
				})
			}
		})
	}
}

// house is where one test lives: an engine that runs, and what to do with it after each step.
type house struct {
	*testing.T
	open  Open
	again func(*house)
	dir   string

	store  Engine
	cancel context.CancelFunc
	ended  chan error
}

// step runs one step of a test and then whatever happens between steps.
func (h *house) step(fn func(s store.Store)) {
	h.Helper()
	fn(h.store)
	h.again(h)
}

func (h *house) start() {
	h.Helper()
	s, err := h.open(h.dir)
	if err != nil {
		h.Fatalf("open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.store, h.cancel, h.ended = s, cancel, make(chan error, 1)
	go func(ended chan error) { ended <- s.Run(ctx) }(h.ended)
}

// end stops the engine, after a check.
func (h *house) end() {
	h.Helper()
	if err := h.store.Check(context.Background()); err != nil {
		h.Errorf("check before the end: %v", err)
	}
	h.cancel()
	if err := <-h.ended; err != nil {
		h.Errorf("run: %v", err)
	}
	if err := h.store.Close(); err != nil {
		h.Errorf("close: %v", err)
	}
	h.store = nil
}

func (h *house) leave() {
	if h.store != nil {
		h.end()
	}
}

func (h *house) reopen() {
	h.Helper()
	h.end()
	h.start()
}

// crash goes on with a copy of the files as they are while the engine has them open: what a process that
// was killed leaves behind.
func (h *house) crash() {
	h.Helper()
	dir := h.TempDir()
	if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
		h.Fatal(err)
	}
	h.end()
	h.dir = dir
	h.start()
}

var ctx = context.Background()

// moment is a time that has nanoseconds, so that an engine that rounds is found out.
func moment(n int) time.Time {
	return time.Date(2026, 11, 21, 10, 30, n, 123456789, time.UTC)
}

// is fails the test unless err is the wanted one; nil wants none.
func (h *house) is(err, want error) {
	h.Helper()
	if want == nil && err != nil {
		h.Fatalf("got error %v, want none", err)
	}
	if !errors.Is(err, want) {
		h.Fatalf("got error %v, want %v", err, want)
	}
}

// same fails the test unless got and want are equal, an empty list being equal to none.
func same[T any](h *house, got, want T) {
	h.Helper()
	g, w := text(h, got), text(h, want)
	if g != w {
		h.Fatalf("got  %s\nwant %s", g, w)
	}
}

func text(h *house, v any) string {
	h.Helper()
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice && r.Len() == 0 {
		return "none"
	}
	switch x := v.(type) {
	case *store.Subscription:
		v = plain(x)
	case []*store.Subscription:
		list := make([]*store.Subscription, len(x))
		for i := range x {
			list[i] = plain(x[i])
		}
		v = list
	}
	b, err := json.Marshal(v)
	if err != nil {
		h.Fatal(err)
	}
	return string(b)
}

// plain returns a copy in which empty lists are nil.
func plain(s *store.Subscription) *store.Subscription {
	c := s.Clone()
	if len(c.Events) == 0 {
		c.Events = nil
	}
	if len(c.SigningSecrets) == 0 {
		c.SigningSecrets = nil
	}
	return c
}

// account makes an account.
func (h *house) account(id string) store.Account {
	h.Helper()
	a := store.Account{ID: id, Name: "Account " + id, CreatedAt: moment(1)}
	h.is(h.store.CreateAccount(ctx, a), nil)
	return a
}

func (h *house) newID() store.SubscriptionID {
	h.Helper()
	id, err := store.NewSubscriptionID()
	h.is(err, nil)
	return id
}

// subscription returns a small one that is not stored.
func (h *house) subscription(account string) *store.Subscription {
	h.Helper()
	return &store.Subscription{
		ID: h.newID(), AccountID: account, CreatedAt: moment(2), UpdatedAt: moment(3),
		DataCallbackURL: "https://receiver.example/hook", ExportFormat: "application/json", NumberOfRecords: 1,
		Payload: store.PayloadEnvelope, Method: "POST", State: store.StateActive, StateSince: moment(2),
	}
}

// chosen returns which subscriptions an event is for.
func chosen(s store.Store, account, event, resource string) map[store.SubscriptionID]bool {
	m := make(map[store.SubscriptionID]bool)
	ids, _ := s.Select(account, event, resource, nil, nil)
	for _, id := range ids {
		m[id] = true
	}
	return m
}

// page is one way to ask for a list.
type page[K any] struct {
	after K
	limit int
	want  []string
}

func (h *house) lists(what string, got, want []string) {
	h.Helper()
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		h.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func testNewStore(h *house) {
	h.step(func(s store.Store) {
		a, err := s.Account(ctx, store.DefaultAccount)
		h.is(err, nil)
		if a.ID != store.DefaultAccount || a.Suspended || a.CreatedAt.IsZero() {
			h.Fatalf("the account that exists from the start: %+v", a)
		}
		h.is(waitHealthy(s), nil)
		h.is(s.Check(ctx), nil)
	})
	h.step(func(s store.Store) {
		list, err := s.Accounts(ctx, "", 0)
		h.is(err, nil)
		if len(list) != 1 {
			h.Fatalf("a new store has accounts %+v", list)
		}
	})
}

// waitHealthy gives a store that was just started a moment.
func waitHealthy(s store.Store) error {
	var err error
	for range 5000 {
		if err = s.Healthy(); err == nil {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

func testEndedContext(h *house) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	kept := h.subscription(store.DefaultAccount)
	kept.Resource = "project/kept"
	token := store.Token{ID: "t", AccountID: store.DefaultAccount, Hash: store.TokenHash{1}}
	resource := store.Resource{ResourceKey: store.ResourceKey{Type: "project", ID: "kept"}, Name: "Kept"}
	var app *store.Implementation
	var phone store.Device
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, kept, 0), nil)
		h.is(s.CreateToken(ctx, token), nil)
		h.is(s.PutResources(ctx, store.DefaultAccount, []store.Resource{resource}), nil)
		app = h.implementation(store.DefaultAccount, "app")
		phone = h.put(s, device("app", "anna", "token"), "")
	})
	h.step(func(s store.Store) {
		_, err := s.CreateImplementation(ended, &store.Implementation{AccountID: store.DefaultAccount, ID: "new"}, 0)
		h.is(err, context.Canceled)
		_, err = s.UpdateImplementation(ended, store.DefaultAccount, "app", func(i *store.Implementation) error { i.Name = "new"; return nil })
		h.is(err, context.Canceled)
		_, err = s.DeleteImplementation(ended, store.DefaultAccount, "app")
		h.is(err, context.Canceled)
		_, err = s.PutDevice(ended, device("app", "bert", "token"), "")
		h.is(err, context.Canceled)
		h.is(s.UpdateDevice(ended, phone.ID, func(d *store.Device) error { d.Locale = "nl"; return nil }), context.Canceled)
		h.is(s.DeleteDevice(ended, "", phone.ID, nil), context.Canceled)
		_, err = s.DeleteContact(ended, store.DefaultAccount, "anna")
		h.is(err, context.Canceled)
	})
	h.step(func(s store.Store) {
		same(h, h.getImplementation(s, store.DefaultAccount, "app"), app)
		h.devicesAre(s, "anna", "", phone)
	})
	h.step(func(s store.Store) {
		h.is(s.CreateAccount(ended, store.Account{ID: "new"}), context.Canceled)
		_, err := s.UpdateAccount(ended, store.DefaultAccount, func(a *store.Account) error { a.Name = "new"; return nil })
		h.is(err, context.Canceled)
		_, err = s.DeleteAccount(ended, store.DefaultAccount)
		h.is(err, context.Canceled)
		h.is(s.CreateToken(ended, store.Token{ID: "new", AccountID: store.DefaultAccount, Hash: store.TokenHash{2}}), context.Canceled)
		h.is(s.DeleteToken(ended, "", token.ID), context.Canceled)
		h.is(s.PutResources(ended, store.DefaultAccount, []store.Resource{{ResourceKey: store.ResourceKey{Type: "new", ID: "new"}}}), context.Canceled)
		h.is(s.DeleteResource(ended, store.DefaultAccount, resource.ResourceKey), context.Canceled)
		h.is(s.CreateSubscription(ended, h.subscription(store.DefaultAccount), 0), context.Canceled)
		_, err = s.UpdateSubscription(ended, kept.ID, func(x *store.Subscription) error { x.Resource = ""; return nil })
		h.is(err, context.Canceled)
		h.is(s.DeleteSubscription(ended, "", kept.ID), context.Canceled)
	})
	h.step(func(s store.Store) {
		accounts, err := s.Accounts(ctx, "", 0)
		h.is(err, nil)
		if len(accounts) != 1 || accounts[0].Name == "new" {
			h.Fatalf("accounts changed: %+v", accounts)
		}
		tokens, err := s.Tokens(ctx, "", "", 0)
		h.is(err, nil)
		same(h, tokens, []store.Token{token})
		resources, err := s.Resources(ctx, store.DefaultAccount, "", store.ResourceKey{}, 0)
		h.is(err, nil)
		same(h, resources, []store.Resource{resource})
		subs, err := s.Subscriptions(ctx, store.DefaultAccount, store.SubscriptionID{}, 0)
		h.is(err, nil)
		same(h, subs, []*store.Subscription{kept})
		if len(chosen(s, store.DefaultAccount, "task.create", "")) != 0 {
			h.Fatal("the selection changed")
		}
	})
}

func testPanicOfChange(h *house) {
	sub := h.subscription(store.DefaultAccount)
	panics := func(fn func()) {
		h.Helper()
		defer func() {
			if recover() == nil {
				h.Fatal("a panic of the caller's function did not come back to the caller")
			}
		}()
		fn()
	}
	var phone store.Device
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
		h.implementation(store.DefaultAccount, "app")
		phone = h.put(s, device("app", "anna", "token"), "")
	})
	h.step(func(s store.Store) {
		panics(func() {
			_, _ = s.UpdateImplementation(ctx, store.DefaultAccount, "app", func(i *store.Implementation) error { i.Name = "new"; panic("mine") })
		})
		panics(func() {
			_ = s.UpdateDevice(ctx, phone.ID, func(d *store.Device) error { d.Locale = "nl"; panic("mine") })
		})
		panics(func() { _ = s.DeleteDevice(ctx, "", phone.ID, func(*store.Device) bool { panic("mine") }) })
		panics(func() {
			_, _ = s.UpdateAccount(ctx, store.DefaultAccount, func(a *store.Account) error { a.Name = "new"; panic("mine") })
		})
		panics(func() {
			_, _ = s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.Method = "PUT"; panic("mine") })
		})
	})
	h.step(func(s store.Store) {
		a, err := s.Account(ctx, store.DefaultAccount)
		h.is(err, nil)
		got, err := s.Subscription(ctx, sub.ID)
		h.is(err, nil)
		h.devicesAre(s, "anna", "", phone)
		if a.Name == "new" || got.Method != sub.Method || h.getImplementation(s, store.DefaultAccount, "app").Name == "new" {
			h.Fatal("something of a change that panicked was stored")
		}
		h.is(s.CreateAccount(ctx, store.Account{ID: "next"}), nil)
	})
}

func testAfterTheEnd(h *house) {
	h.step(func(s store.Store) { h.is(waitHealthy(s), nil) })
	h.cancel()
	h.is(<-h.ended, nil)
	if h.store.Healthy() == nil {
		h.Error("healthy, though nothing can be made durable any more")
	}
	h.is(h.store.CreateAccount(ctx, store.Account{ID: "late"}), store.ErrClosed)
	h.is(h.store.Check(ctx), nil)
	h.is(h.store.Close(), nil)
	h.is(h.store.Close(), nil)
	_, err := h.store.Account(ctx, store.DefaultAccount)
	h.is(err, store.ErrClosed)
	_, err = h.store.Accounts(ctx, "", 0)
	h.is(err, store.ErrClosed)
	_, _, err = h.store.TokenByHash(ctx, store.TokenHash{})
	h.is(err, store.ErrClosed)
	_, err = h.store.Subscription(ctx, store.SubscriptionID{1})
	h.is(err, store.ErrClosed)
	_, err = h.store.Implementation(ctx, store.DefaultAccount, "app")
	h.is(err, store.ErrClosed)
	_, err = h.store.Device(ctx, "", store.DeviceID{1})
	h.is(err, store.ErrClosed)
	h.is(h.store.Check(ctx), store.ErrClosed)
	h.store = nil
	h.start()
	_, err = h.store.Account(ctx, "late")
	h.is(err, store.ErrNotFound)
}
