package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"herald/store"
)

// implementation makes one that has Android devices.
func (h *house) implementation(account, id string) *store.Implementation {
	h.Helper()
	i, err := h.store.CreateImplementation(ctx, &store.Implementation{
		AccountID: account, ID: id, CreatedAt: moment(1), UpdatedAt: moment(1),
		Android: &store.FCM{ProjectID: "project", ClientEmail: "sender@project.example", PrivateKey: []byte{1}},
	}, 0)
	h.is(err, nil)
	return i
}

// fullImplementation sets every member but those that the store gives.
func fullImplementation(account, id string) *store.Implementation {
	fcm := func(n byte) *store.FCM {
		return &store.FCM{ //nolint:gosec // no credentials
			ProjectID: fmt.Sprint("project", n), ClientEmail: "sender@project.example", TokenURI: "https://token.example", KeyID: "key",
			PrivateKey: bytes.Repeat([]byte{n, 0, 255}, 400),
		}
	}
	return &store.Implementation{
		AccountID: account, ID: id, Name: "The app – Ä", CreatedAt: moment(1), UpdatedAt: moment(2), Android: fcm(1),
		IOSProvider: store.ProviderAPNs, IOSFCM: fcm(2), APNs: &store.APNs{
			Key: []byte{3, 0}, KeyID: "KEY", TeamID: "TEAM", Chain: "-----BEGIN CERTIFICATE-----", CertificateKey: []byte{4}, Topic: "org.example.app", Sandbox: true,
		},
		Web: true, VAPID: &store.VAPID{PrivateKey: bytes.Repeat([]byte{5}, 32), PublicKey: bytes.Repeat([]byte{4}, 65), Subject: "mailto:push@example.org"},
		WebFCM: fcm(6), StatusSecret: bytes.Repeat([]byte{7}, 32), StatusOrigins: []string{"https://a.example", "https://b.example:8443"},
	}
}

// getImplementation returns one that has to be there.
func (h *house) getImplementation(s store.Store, account, id string) *store.Implementation {
	h.Helper()
	i, err := s.Implementation(ctx, account, id)
	h.is(err, nil)
	return i
}

func testCreateImplementation(h *house) {
	given := fullImplementation("acme", "app")
	var full, bare, other *store.Implementation
	h.step(func(s store.Store) {
		_, err := s.CreateImplementation(ctx, given, 0)
		h.is(err, store.ErrNotFound)
		h.account("acme")
		h.account("other")
		_, err = s.Implementation(ctx, "acme", "app")
		h.is(err, store.ErrNotFound)
		full, err = s.CreateImplementation(ctx, given, 0)
		h.is(err, nil)
		if full.Number == 0 || full.UID == [16]byte{} {
			h.Fatalf("number %d and UID %x were not given", full.Number, full.UID)
		}
		given.Number, given.UID = full.Number, full.UID
		same(h, full, given)
		same(h, h.getImplementation(s, "acme", "app"), full)
	})
	h.step(func(s store.Store) {
		_, err := s.CreateImplementation(ctx, fullImplementation("acme", "app"), 0)
		h.is(err, store.ErrExists)
		bare, err = s.CreateImplementation(ctx, &store.Implementation{AccountID: "acme", ID: "bare"}, 2)
		h.is(err, nil)
		_, err = s.CreateImplementation(ctx, &store.Implementation{AccountID: "acme", ID: "third"}, 2)
		h.is(err, store.ErrLimit)
		other, err = s.CreateImplementation(ctx, &store.Implementation{AccountID: "other", ID: "app"}, 1)
		h.is(err, nil)
		if full.Number == bare.Number || bare.Number == other.Number || full.UID == other.UID {
			h.Fatal("two implementations have the same number or UID")
		}
	})
	h.step(func(s store.Store) {
		same(h, h.getImplementation(s, "acme", "app"), full)
		same(h, h.getImplementation(s, "acme", "bare"), bare)
		same(h, h.getImplementation(s, "other", "app"), other)
		_, err := s.Implementation(ctx, "other", "bare")
		h.is(err, store.ErrNotFound)
		_, err = s.Implementation(ctx, "nobody", "app")
		h.is(err, store.ErrNotFound)
		for _, id := range []string{"", strings.Repeat("x", 65), "a\x00b"} {
			if _, err := s.CreateImplementation(ctx, &store.Implementation{AccountID: "acme", ID: id}, 0); err == nil {
				h.Fatalf("created with the id %q", id)
			}
		}
	})
}

func testImplementations(h *house) {
	h.step(func(store.Store) {
		h.account("acme")
		for _, id := range []string{"b", "a.b", "a", "B"} {
			h.implementation("acme", id)
		}
		h.implementation(store.DefaultAccount, "aa")
	})
	h.step(func(s store.Store) {
		for _, p := range []page[string]{
			{"", 0, []string{"B", "a", "a.b", "b"}},
			{"", 2, []string{"B", "a"}},
			{"a", 1, []string{"a.b"}},
			{"aa", 0, []string{"b"}}, // need not exist
			{"b", 0, nil},
		} {
			list, err := s.Implementations(ctx, "acme", p.after, p.limit)
			h.is(err, nil)
			var got []string
			for _, i := range list {
				got = append(got, i.ID)
			}
			h.lists(fmt.Sprintf("after %q, at most %d", p.after, p.limit), got, p.want)
		}
		list, err := s.Implementations(ctx, "nobody", "", 0)
		h.is(err, nil)
		same(h, list, nil)
	})
}

// lanesAre fails the test unless the lanes of the implementation are there, as the store's rules have them, and no others.
func (h *house) lanesAre(s store.Store, i *store.Implementation, want ...*store.Subscription) {
	h.Helper()
	all, err := s.Subscriptions(ctx, "", store.SubscriptionID{}, 0)
	h.is(err, nil)
	got := make(map[store.SubscriptionID]*store.Subscription)
	for _, sub := range all {
		if sub.Role != store.RoleNone && sub.AccountID == i.AccountID && sub.ImplementationID == i.ID {
			got[sub.ID] = sub
		}
	}
	if len(got) != len(want) {
		h.Fatalf("%d lanes in the list of all, want %d", len(got), len(want))
	}
	for _, lane := range want {
		same(h, h.get(s, lane.ID), lane)
		same(h, got[lane.ID], lane)
	}
}

func testLanesAreHidden(h *house) {
	var i *store.Implementation
	mine := h.subscription(store.DefaultAccount)
	h.step(func(s store.Store) {
		var err error
		i, err = s.CreateImplementation(ctx, fullImplementation(store.DefaultAccount, "app"), 0)
		h.is(err, nil)
		if n := len(i.Lanes()); n != 7 {
			h.Fatalf("%d lanes, want 5 and one for each of 2 origins", n)
		}
		h.lanesAre(s, i, i.Lanes()...)
	})
	h.step(func(s store.Store) {
		h.lanesAre(s, i, i.Lanes()...)
		h.is(s.CreateSubscription(ctx, mine, 1), nil) // they do not count
		h.is(s.CreateSubscription(ctx, h.subscription(store.DefaultAccount), 1), store.ErrLimit)
		list, err := s.Subscriptions(ctx, store.DefaultAccount, store.SubscriptionID{}, 0)
		h.is(err, nil)
		same(h, list, []*store.Subscription{mine})
		if got := chosen(s, store.DefaultAccount, "task.create", ""); len(got) != 1 || !got[mine.ID] {
			h.Fatalf("chosen: %v", got)
		}
		lane := i.Lanes()[0]
		h.is(s.DeleteSubscription(ctx, "", lane.ID), store.ErrNotFound)
		h.is(s.DeleteSubscription(ctx, store.DefaultAccount, lane.ID), store.ErrNotFound)
		lane.ID = h.newID()
		if s.CreateSubscription(ctx, lane, 0) == nil {
			h.Fatal("a subscription with a role was created")
		}
	})
	lanes := i.Lanes()
	h.step(func(s store.Store) {
		got, err := s.UpdateSubscription(ctx, lanes[1].ID, func(x *store.Subscription) error {
			x.Role, x.ImplementationID = store.RoleNone, "other"
			x.Health.Suspended, x.Health.OpenedAt = "the key was revoked", moment(3)
			return nil
		})
		h.is(err, nil)
		lanes[1].Health.Suspended, lanes[1].Health.OpenedAt = "the key was revoked", moment(3)
		same(h, got, lanes[1])
		if got := chosen(s, store.DefaultAccount, "task.create", ""); len(got) != 1 {
			h.Fatalf("chosen after a change of a lane: %v", got)
		}
	})
	h.step(func(s store.Store) {
		h.lanesAre(s, i, lanes...)
		if got := chosen(s, store.DefaultAccount, "task.create", ""); len(got) != 1 || !got[mine.ID] {
			h.Fatalf("chosen: %v", got)
		}
	})
}

// A subscription that makes notifications is one like any other.
func testNotificationSubscription(h *house) {
	sub := h.subscription(store.DefaultAccount)
	badge, ttl, score := 0, time.Minute, 0.25
	sub.DataCallbackURL, sub.Notification = "", &store.Template{
		ImplementationID: "app", Contact: "{{customer.id}}", Notification: store.Notification{
			Title: map[string]string{"en": "Hello {{name}}", "nl": "Dag"}, Text: map[string]string{"en": "…"}, Data: map[string]string{"k": "{{v}}"},
			Badge: &badge, TTL: time.Hour, Actions: []store.Action{{ID: "yes", Title: "Yes"}},
			Android: store.AndroidOptions{TTL: &ttl, LocalizedTitleArgs: []string{"a"}}, APNs: store.APNsOptions{RelevanceScore: &score},
		},
	}
	h.step(func(s store.Store) { h.is(s.CreateSubscription(ctx, sub, 1), nil) })
	for range 2 {
		h.step(func(s store.Store) {
			same(h, h.get(s, sub.ID), sub)
			list, err := s.Subscriptions(ctx, store.DefaultAccount, store.SubscriptionID{}, 0)
			h.is(err, nil)
			same(h, list, []*store.Subscription{sub})
			if !chosen(s, store.DefaultAccount, "task.create", "")[sub.ID] {
				h.Fatal("not chosen")
			}
			h.is(s.CreateSubscription(ctx, h.subscription(store.DefaultAccount), 1), store.ErrLimit)
		})
	}
	h.step(func(s store.Store) { h.is(s.DeleteSubscription(ctx, store.DefaultAccount, sub.ID), nil) })
}

func testUpdateImplementation(h *house) {
	var i *store.Implementation
	update := func(s store.Store, change func(*store.Implementation)) error {
		got, err := s.UpdateImplementation(ctx, store.DefaultAccount, "app", func(x *store.Implementation) error { change(x); return nil })
		if err == nil {
			change(i)
			same(h, got, i)
			same(h, h.getImplementation(s, store.DefaultAccount, "app"), i)
		}
		return err
	}
	h.step(func(s store.Store) {
		var err error
		i, err = s.CreateImplementation(ctx, fullImplementation(store.DefaultAccount, "app"), 0)
		h.is(err, nil)
		i = i.Clone()
	})
	h.step(func(s store.Store) {
		h.is(update(s, func(x *store.Implementation) {
			x.Name, x.UpdatedAt, x.VAPID, x.Android.PrivateKey = "New", moment(9), nil, []byte{42}
		}), nil)
		h.lanesAre(s, i, i.Lanes()...)
	})
	h.step(func(s store.Store) {
		same(h, h.getImplementation(s, store.DefaultAccount, "app"), i)
		mine := errors.New("mine")
		_, err := s.UpdateImplementation(ctx, store.DefaultAccount, "app", func(x *store.Implementation) error { x.APNs.Topic = "no"; return mine })
		if err != mine { //nolint:errorlint // as it is, not wrapped
			h.Fatalf("got error %v, want the one of change as it is", err)
		}
		// Refused or put right, but never changed.
		_, _ = s.UpdateImplementation(ctx, store.DefaultAccount, "app", func(x *store.Implementation) error {
			x.ID, x.AccountID, x.UID, x.Number, x.CreatedAt = "other", "other", [16]byte{1}, 99, moment(59)
			return nil
		})
		same(h, h.getImplementation(s, store.DefaultAccount, "app"), i)
		for _, x := range [][2]string{{store.DefaultAccount, "other"}, {"nobody", "app"}} {
			_, err := s.UpdateImplementation(ctx, x[0], x[1], func(*store.Implementation) error {
				h.Error("change was called for an implementation that does not exist")
				return nil
			})
			h.is(err, store.ErrNotFound)
		}
	})
	failing := func(s store.Store, id store.SubscriptionID) {
		_, err := s.UpdateSubscription(ctx, id, func(x *store.Subscription) error { x.Health.Failures = 3; return nil })
		h.is(err, nil)
	}
	h.step(func(s store.Store) {
		failing(s, i.StatusLane("https://a.example"))
		h.is(update(s, func(x *store.Implementation) { x.StatusOrigins = append(x.StatusOrigins, "https://c.example") }), nil)
		if got := h.get(s, i.StatusLane("https://c.example")); got.DataCallbackURL != "https://c.example" || got.Role != store.RoleStatus {
			h.Fatalf("the new lane: %+v", got)
		}
		// A new secret goes to the lanes that there are, and changes nothing else of them.
		h.is(update(s, func(x *store.Implementation) { x.StatusSecret, x.UpdatedAt = bytes.Repeat([]byte{8}, 32), moment(10) }), nil)
	})
	h.step(func(s store.Store) {
		lanes := i.Lanes()
		if len(lanes) != 8 {
			h.Fatalf("%d lanes, want 8", len(lanes))
		}
		for _, lane := range lanes {
			if lane.Role == store.RoleStatus {
				lane.UpdatedAt = moment(10)
			}
			if lane.DataCallbackURL == "https://a.example" {
				lane.Health.Failures = 3
			}
		}
		h.lanesAre(s, i, lanes...)
		h.is(update(s, func(x *store.Implementation) {
			for n := range store.MaxStatusOrigins {
				x.StatusOrigins = append(x.StatusOrigins, fmt.Sprint("https://d.example:", n))
			}
		}), store.ErrLimit)
		if update(s, func(x *store.Implementation) { x.StatusOrigins = x.StatusOrigins[1:] }) == nil {
			h.Fatal("an origin was taken away, and its lane with what may be in it")
		}
		if update(s, func(x *store.Implementation) { x.StatusOrigins = append(x.StatusOrigins, x.StatusOrigins[0]) }) == nil {
			h.Fatal("an origin is named twice")
		}
		h.lanesAre(s, i, lanes...)
	})
}

// swept waits until the devices of deleted implementations are removed, of which n devices are left: what is copied in the middle of it
// would be torn.
func (h *house) swept(s store.Store, n int64) {
	h.Helper()
	for range 5000 {
		if s.CountDevices() == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	h.Fatalf("%d devices are left, want %d", s.CountDevices(), n)
}

func testDeleteImplementation(h *house) {
	const n = 1200
	var gone *store.Implementation
	ids := make([]store.DeviceID, n)
	var kept store.Device
	h.step(func(s store.Store) {
		gone = h.implementation(store.DefaultAccount, "app")
		h.implementation(store.DefaultAccount, "other")
		h.parallel(32, n, func(i int) error {
			d, err := s.PutDevice(ctx, device("app", fmt.Sprint("contact", i%100), fmt.Sprint("token", i)), "")
			ids[i] = d.ID
			return err
		})
		kept = h.put(s, device("other", "contact1", "token1"), "")
	})
	absent := func(s store.Store) {
		h.Helper()
		_, err := s.Implementation(ctx, store.DefaultAccount, "app")
		h.is(err, store.ErrNotFound)
		for i, id := range ids {
			if i%100 > 2 {
				continue
			}
			_, err := s.Device(ctx, "", id)
			h.is(err, store.ErrNotFound)
			h.is(s.UpdateDevice(ctx, id, func(*store.Device) error { h.Error("change was called for a device that is gone"); return nil }), store.ErrNotFound)
			h.is(s.DeleteDevice(ctx, "", id, nil), store.ErrNotFound)
		}
		_, err = s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, "token1")
		h.is(err, store.ErrNotFound)
		_, err = s.PutDevice(ctx, device("app", "contact1", "token1"), "")
		h.is(err, store.ErrNotFound)
		h.devicesAre(s, "contact1", "", kept)
		h.devicesAre(s, "contact1", "app")
		for _, lane := range gone.Lanes() {
			_, err := s.Subscription(ctx, lane.ID)
			h.is(err, store.ErrNotFound)
		}
		removed, err := s.DeleteContact(ctx, store.DefaultAccount, "contact2")
		h.is(err, nil)
		if removed != 0 {
			h.Fatalf("%d devices of a deleted implementation were removed", removed)
		}
	}
	h.step(func(s store.Store) {
		if got := s.CountDevices(); got != n+1 {
			h.Fatalf("%d devices, want %d", got, n+1)
		}
		_, err := s.DeleteImplementation(ctx, "nobody", "app")
		h.is(err, store.ErrNotFound)
		h.goneAre(s.DeleteImplementation(ctx, store.DefaultAccount, "app"))(gone.Lanes()...)
		absent(s)
		h.swept(s, 1)
		absent(s)
	})
	h.step(func(s store.Store) {
		absent(s)
		_, err := s.DeleteImplementation(ctx, store.DefaultAccount, "app")
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		again := h.implementation(store.DefaultAccount, "app")
		if again.Number <= gone.Number || again.UID == gone.UID {
			h.Fatal("a number or UID was given again")
		}
		h.devicesAre(s, "contact1", "app")
		d := h.put(s, device("app", "contact1", "token1"), "")
		h.devicesAre(s, "contact1", "app", d)
		_, err := s.Device(ctx, "", ids[1])
		h.is(err, store.ErrNotFound)
	})
}

// goneAre returns a function that fails the test unless exactly the given ones are named as gone.
func (h *house) goneAre(ids []store.SubscriptionID, err error) func(want ...*store.Subscription) {
	h.Helper()
	h.is(err, nil)
	return func(want ...*store.Subscription) {
		h.Helper()
		left := make(map[store.SubscriptionID]bool)
		for _, x := range want {
			left[x.ID] = true
		}
		for _, id := range ids {
			if !left[id] {
				h.Fatalf("%s went and should not, or was named twice", id)
			}
			delete(left, id)
		}
		if len(left) > 0 {
			h.Fatalf("not named as gone: %v", left)
		}
	}
}

func testDeleteAccountWithDevices(h *house) {
	const n = 700
	var first, second *store.Implementation
	var kept store.Device
	mine := h.subscription("acme")
	h.step(func(s store.Store) {
		h.account("acme")
		first, second = h.implementation("acme", "first"), h.implementation("acme", "second")
		h.implementation("acme", "empty")
		h.implementation(store.DefaultAccount, "first")
		h.is(s.CreateSubscription(ctx, mine, 0), nil)
		h.parallel(32, n, func(i int) error {
			for _, app := range []string{"first", "second"} {
				d := device(app, "contact", fmt.Sprint("token", i))
				d.AccountID = "acme"
				if _, err := s.PutDevice(ctx, d, ""); err != nil {
					return err
				}
			}
			return nil
		})
		kept = h.put(s, device("first", "contact", "token1"), "")
	})
	h.step(func(s store.Store) {
		lanes := append(first.Lanes(), second.Lanes()...)
		lanes = append(lanes, h.getImplementation(s, "acme", "empty").Lanes()...)
		h.goneAre(s.DeleteAccount(ctx, "acme"))(append(lanes, mine)...)
		_, err := s.Implementation(ctx, "acme", "first")
		h.is(err, store.ErrNotFound)
		list, err := s.Devices(ctx, "acme", "contact", "", store.DeviceID{}, 0)
		h.is(err, nil)
		same(h, list, nil)
		h.swept(s, 1)
	})
	h.step(func(s store.Store) {
		h.devicesAre(s, "contact", "", kept)
		all, err := s.Subscriptions(ctx, "", store.SubscriptionID{}, 0)
		h.is(err, nil)
		if len(all) != len(store.LaneKinds()) {
			h.Fatalf("%d subscriptions are left, want the lanes of the other account", len(all))
		}
	})
}
