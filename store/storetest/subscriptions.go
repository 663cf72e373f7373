package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"herald/store"
)

// fullSubscription sets every member.
func (h *house) fullSubscription(account string) *store.Subscription {
	h.Helper()
	return &store.Subscription{
		ID: h.newID(), AccountID: account, CreatedAt: moment(1), UpdatedAt: moment(2),
		DataCallbackURL: "https://receiver.example/hook?key=unlisted", ExportFormat: "application/json",
		NumberOfRecords: 7, MaxWait: 1500 * time.Millisecond, Resource: "project/p-1",
		Events: []string{"task.create", "task.*", "*.delete"}, Payload: store.PayloadData, Method: "PUT",
		Authentication: store.Authentication{
			Type: store.AuthBasic, Token: "a token", Username: "a user", Password: "a password", Name: "X-Name", Value: "a value ü",
		},
		SigningSecrets: []store.SigningSecret{
			{Key: bytes.Repeat([]byte{0, 255, 7}, 10)},
			{Key: bytes.Repeat([]byte{9}, 64), ExpiresAt: moment(4)},
		},
		Delivery: store.DeliveryPolicy{Timeout: 15 * time.Second, RetrySchedule: "5s,5m", MaxConcurrency: 3},
		State:    store.StateDisabled, StateReason: store.ReasonGone, StateSince: moment(5),
		ValidationKind: store.ValidationCloudEvents,
		Validation: store.Validation{
			Secret: bytes.Repeat([]byte{5, 0}, 16), Confirmed: "cloudevents x", Origin: "herald.example", AllowedRate: 120, ExpiresAt: moment(9),
			Attempts: 2, NextAt: moment(6), LastError: "the receiver answered 503",
		},
	}
}

func testCreateSubscription(h *house) {
	full, bare := h.fullSubscription("acme"), &store.Subscription{ID: h.newID(), AccountID: "acme"}
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, full, 0), store.ErrNotFound)
		_, err := s.Subscription(ctx, full.ID)
		h.is(err, store.ErrNotFound)
		if len(chosen(s, "acme", "task.create", "project/p-1")) != 0 {
			h.Fatal("a subscription that was refused is chosen")
		}
		h.account("acme")
		h.is(s.CreateSubscription(ctx, full, 0), nil)
		h.is(s.CreateSubscription(ctx, bare, 0), nil)
		got, err := s.Subscription(ctx, full.ID)
		h.is(err, nil)
		same(h, got, full)
	})
	h.step(func(s store.Store) {
		again := h.subscription("acme")
		again.ID = full.ID
		h.is(s.CreateSubscription(ctx, again, 0), store.ErrExists)
		again.AccountID = store.DefaultAccount
		h.is(s.CreateSubscription(ctx, again, 0), store.ErrExists)
	})
	for range 2 {
		h.step(func(s store.Store) {
			for _, want := range []*store.Subscription{full, bare, full} {
				got, err := s.Subscription(ctx, want.ID)
				h.is(err, nil)
				same(h, got, want)
			}
		})
	}
	h.step(func(s store.Store) {
		for _, x := range []struct {
			what     string
			got      time.Time
			wantZero bool
		}{{"a zero time", h.get(s, bare.ID).CreatedAt, true}, {"a time", h.get(s, full.ID).CreatedAt, false}} {
			if x.got.IsZero() != x.wantZero || x.got.Location() != time.UTC {
				h.Errorf("%s came back as %v", x.what, x.got)
			}
		}
	})
}

func (h *house) get(s store.Store, id store.SubscriptionID) *store.Subscription {
	h.Helper()
	got, err := s.Subscription(ctx, id)
	h.is(err, nil)
	return got
}

func testSubscriptionLimit(h *house) {
	one, two, three := h.subscription("acme"), h.subscription("acme"), h.subscription("acme")
	h.step(func(s store.Store) {
		h.account("acme")
		h.is(s.CreateSubscription(ctx, h.subscription(store.DefaultAccount), 1), nil)
		h.is(s.CreateSubscription(ctx, one, 2), nil)
		h.is(s.CreateSubscription(ctx, two, 2), nil)
	})
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, three, 2), store.ErrLimit)
		h.is(s.CreateSubscription(ctx, three, 1), store.ErrLimit)
		_, err := s.Subscription(ctx, three.ID)
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) { h.is(s.DeleteSubscription(ctx, "", one.ID), nil) })
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, three, 2), nil)
		h.is(s.CreateSubscription(ctx, one, 2), store.ErrLimit)
		h.is(s.CreateSubscription(ctx, one, 0), nil)
	})
	h.step(func(s store.Store) {
		list, err := s.Subscriptions(ctx, "acme", store.SubscriptionID{}, 0)
		h.is(err, nil)
		if len(list) != 3 {
			h.Fatalf("the account has %d subscriptions, want 3", len(list))
		}
	})
}

func testSubscriptions(h *house) {
	name := make(map[store.SubscriptionID]string)
	id := make(map[string]store.SubscriptionID)
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		var subs []*store.Subscription
		for i, account := range []string{"acme", "other", "acme", "acme", "other"} {
			x := h.subscription(account)
			name[x.ID] = fmt.Sprint(i)
			id[fmt.Sprint(i)] = x.ID
			subs = append(subs, x)
		}
		for _, i := range []int{3, 0, 4, 2, 1} { // not in their order
			h.is(s.CreateSubscription(ctx, subs[i], 0), nil)
		}
	})
	h.step(func(s store.Store) {
		for _, x := range []struct {
			account string
			page[string]
		}{
			{"", page[string]{"", 0, []string{"0", "1", "2", "3", "4"}}},
			{"", page[string]{"", 2, []string{"0", "1"}}},
			{"", page[string]{"1", 2, []string{"2", "3"}}},
			{"", page[string]{"4", 0, nil}},
			{"acme", page[string]{"", 0, []string{"0", "2", "3"}}},
			{"acme", page[string]{"0", 1, []string{"2"}}},
			{"acme", page[string]{"1", 0, []string{"2", "3"}}},
			{"other", page[string]{"", 0, []string{"1", "4"}}},
			{"default", page[string]{"", 0, nil}},
			{"nobody", page[string]{"", 0, nil}},
		} {
			list, err := s.Subscriptions(ctx, x.account, id[x.after], x.limit)
			h.is(err, nil)
			var got []string
			for _, sub := range list {
				got = append(got, name[sub.ID])
			}
			h.lists(fmt.Sprintf("of %q after %q, at most %d", x.account, x.after, x.limit), got, x.want)
		}
	})
}

func testSubscriptionsManyPages(h *house) {
	const n = 2100
	h.step(func(s store.Store) {
		h.parallel(64, n, func(int) error { return s.CreateSubscription(ctx, h.subscription(store.DefaultAccount), 0) })
	})
	h.step(func(s store.Store) {
		for _, account := range []string{"", store.DefaultAccount} {
			list, err := s.Subscriptions(ctx, account, store.SubscriptionID{}, 0)
			h.is(err, nil)
			if len(list) != n || !slices.IsSortedFunc(list, func(a, b *store.Subscription) int { return bytes.Compare(a.ID[:], b.ID[:]) }) {
				h.Fatalf("of %q: %d subscriptions, want %d in order", account, len(list), n)
			}
			part, err := s.Subscriptions(ctx, account, list[499].ID, 1500)
			h.is(err, nil)
			if len(part) != 1500 || part[0].ID != list[500].ID || part[1499].ID != list[1999].ID {
				h.Fatalf("of %q after the 500th: %d subscriptions, not the next 1500", account, len(part))
			}
		}
		if got := len(chosen(s, store.DefaultAccount, "task.create", "")); got != n {
			h.Fatalf("%d chosen, want %d", got, n)
		}
	})
}

func testUpdateSubscription(h *house) {
	sub := h.fullSubscription("acme")
	h.step(func(s store.Store) {
		h.account("acme")
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
	})
	next := h.subscription("acme")
	next.ID, next.CreatedAt, next.UpdatedAt = sub.ID, sub.CreatedAt, moment(30)
	next.Resource, next.Events = "task/*", []string{"a.b"}
	h.step(func(s store.Store) {
		got, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error {
			same(h, x, sub)
			*x = *next.Clone()
			return nil
		})
		h.is(err, nil)
		same(h, got, next)
		same(h, h.get(s, sub.ID), next)
		if len(chosen(s, "acme", "task.create", "project/p-1")) != 0 {
			h.Fatal("the old selection still chooses")
		}
		if !chosen(s, "acme", "a.b", "task/1")[sub.ID] {
			h.Fatal("the new selection does not choose")
		}
	})
	h.step(func(s store.Store) {
		same(h, h.get(s, sub.ID), next)
		mine := errors.New("mine")
		_, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error {
			x.Resource, x.Events[0] = "", "no.no"
			return mine
		})
		if err != mine { //nolint:errorlint // as it is, not wrapped
			h.Fatalf("got error %v, want the one of change as it is", err)
		}
		same(h, h.get(s, sub.ID), next)
		if !chosen(s, "acme", "a.b", "task/1")[sub.ID] {
			h.Fatal("a change that was refused changed the selection")
		}
	})
	h.step(func(s store.Store) {
		// Refused or put right, but never changed.
		_, _ = s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error {
			x.ID, x.AccountID, x.CreatedAt = h.newID(), store.DefaultAccount, moment(59)
			return nil
		})
		same(h, h.get(s, sub.ID), next)
		if len(chosen(s, store.DefaultAccount, "a.b", "task/1")) != 0 || !chosen(s, "acme", "a.b", "task/1")[sub.ID] {
			h.Fatal("the subscription moved to another account")
		}
	})
	h.step(func(s store.Store) {
		same(h, h.get(s, sub.ID), next)
		list, err := s.Subscriptions(ctx, "", store.SubscriptionID{}, 0)
		h.is(err, nil)
		same(h, list, []*store.Subscription{next})
		_, err = s.UpdateSubscription(ctx, h.newID(), func(*store.Subscription) error {
			h.Error("change was called for a subscription that does not exist")
			return nil
		})
		h.is(err, store.ErrNotFound)
	})
}

func testDeleteSubscription(h *house) {
	one, two := h.subscription("acme"), h.subscription("acme")
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		h.is(s.CreateSubscription(ctx, one, 0), nil)
		h.is(s.CreateSubscription(ctx, two, 0), nil)
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteSubscription(ctx, "other", one.ID), store.ErrNotFound)
		h.is(s.DeleteSubscription(ctx, "acme", h.newID()), store.ErrNotFound)
		same(h, h.get(s, one.ID), one)
		h.is(s.DeleteSubscription(ctx, "acme", one.ID), nil)
		_, err := s.Subscription(ctx, one.ID)
		h.is(err, store.ErrNotFound)
		if got := chosen(s, "acme", "task.create", ""); len(got) != 1 || !got[two.ID] {
			h.Fatalf("chosen after the deletion: %v", got)
		}
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteSubscription(ctx, "acme", one.ID), store.ErrNotFound)
		h.is(s.DeleteSubscription(ctx, "", two.ID), nil)
	})
	h.step(func(s store.Store) {
		h.is(h.emptyAccount(s, "acme"), nil)
		h.is(s.CreateSubscription(ctx, one, 1), nil)
	})
}

func testSelect(h *house) {
	name := make(map[store.SubscriptionID]string)
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		for _, x := range []struct {
			name, account, resource string
			events                  []string
		}{
			{"all", "acme", "", nil},
			{"type", "acme", "project/*", nil},
			{"one", "acme", "project/1", nil},
			{"create", "acme", "", []string{"task.create"}},
			{"task", "acme", "", []string{"task.*"}},
			{"created", "acme", "", []string{"*.create"}},
			{"several", "acme", "project/1", []string{"task.create", "task.*", "*.create", "task.delete"}},
			{"own", "acme", "", []string{"herald.*"}},
			{"other", "other", "", nil},
		} {
			sub := h.subscription(x.account)
			sub.Resource, sub.Events = x.resource, x.events
			name[sub.ID] = x.name
			h.is(s.CreateSubscription(ctx, sub, 0), nil)
		}
	})
	h.step(func(s store.Store) {
		for _, x := range []struct {
			account, event, resource string
			want                     []string
		}{
			{"acme", "task.create", "", []string{"all", "create", "created", "task"}},
			{"acme", "task.create", "project/1", []string{"all", "create", "created", "one", "several", "task", "type"}},
			{"acme", "task.create", "project/2", []string{"all", "create", "created", "task", "type"}},
			{"acme", "task.create", "task/1", []string{"all", "create", "created", "task"}},
			{"acme", "task.delete", "project/1", []string{"all", "one", "several", "task", "type"}},
			{"acme", "task", "", []string{"all"}},
			{"acme", "create", "", []string{"all"}},
			{"acme", "a.create", "", []string{"all", "created"}},
			{"acme", "herald.task.create", "project/1", []string{"own"}}, // only for those who name them
			{"other", "task.create", "project/1", []string{"other"}},
			{"default", "task.create", "", nil},
			{"nobody", "task.create", "", nil},
		} {
			// What dst holds stays in front.
			kept := store.SubscriptionID{0xff}
			dst, _ := s.Select(x.account, x.event, x.resource, nil, []store.SubscriptionID{kept})
			if dst[0] != kept {
				h.Fatal("what was in dst is gone")
			}
			var got []string
			for _, id := range dst[1:] {
				got = append(got, name[id])
			}
			slices.Sort(got)
			h.lists(fmt.Sprintf("%s, %s on %q", x.account, x.event, x.resource), got, x.want)
		}
	})
}

// A filter takes part in the choice with the change that brings it, and after a restart.
func testSelectByFilter(h *house) {
	// More than an engine's matcher asks one by one.
	const n = 50
	subs := make([]*store.Subscription, n)
	filter := func(format string, args ...any) *store.Filter {
		h.Helper()
		f, err := store.ParseFilter(fmt.Appendf(nil, format, args...))
		h.is(err, nil)
		return f
	}
	finds := func(s store.Store, data string, byData bool, want ...int) {
		h.Helper()
		ids, asked := s.Select(store.DefaultAccount, "task.create", "", []byte(data), nil)
		got := make(map[store.SubscriptionID]bool)
		for _, id := range ids {
			got[id] = true
		}
		for _, i := range want {
			if !got[subs[i].ID] {
				h.Fatalf("%s: %d is not chosen", data, i)
			}
		}
		if len(ids) != len(want) || asked != byData {
			h.Fatalf("%s: %d chosen, by data %v; want %d, %v", data, len(ids), asked, len(want), byData)
		}
	}
	h.step(func(s store.Store) {
		for i := range subs {
			subs[i] = h.subscription(store.DefaultAccount)
			subs[i].Filter = filter(`{"n":{"$in":[%d,%d]},"amount":{"$gte":1e1}}`, i, i+1)
			h.is(s.CreateSubscription(ctx, subs[i], 0), nil)
		}
		finds(s, `{"n":7,"amount":10}`, true, 6, 7)
	})
	h.step(func(s store.Store) {
		finds(s, `{"n":7.0,"amount":10}`, true, 6, 7)
		finds(s, `{"n":7,"amount":9}`, true)
		finds(s, `{"n":[0,49],"amount":10}`, true, 0, 48, 49)
		finds(s, `{}`, true)
		_, err := s.UpdateSubscription(ctx, subs[7].ID, func(x *store.Subscription) error { x.Filter = filter(`{"n":8}`); return nil })
		h.is(err, nil)
		finds(s, `{"n":7,"amount":10}`, true, 6)
		finds(s, `{"n":8}`, true, 7)
		_, err = s.UpdateSubscription(ctx, subs[6].ID, func(x *store.Subscription) error { x.Filter = nil; return nil })
		h.is(err, nil)
		finds(s, `{}`, true, 6)
		refused := errors.New("refused")
		_, err = s.UpdateSubscription(ctx, subs[5].ID, func(x *store.Subscription) error { x.Filter = nil; return refused })
		h.is(err, refused)
		finds(s, `{}`, true, 6)
	})
	h.step(func(s store.Store) {
		finds(s, `{"n":8}`, true, 6, 7)
		if got := h.get(s, subs[7].ID).Filter.Text(); got != `{"n":8}` {
			h.Fatalf("the filter is %s", got)
		}
		for i := range subs {
			if i != 6 {
				h.is(s.DeleteSubscription(ctx, "", subs[i].ID), nil)
			}
		}
		finds(s, `{"n":8}`, false, 6)
	})
}

func testSelectByState(h *house) {
	sub := h.subscription(store.DefaultAccount)
	sub.State = store.StatePending
	is := func(s store.Store, want bool) {
		h.Helper()
		if chosen(s, store.DefaultAccount, "task.create", "")[sub.ID] != want {
			h.Fatalf("chosen in state %s: %v, want %v", h.get(s, sub.ID).State, !want, want)
		}
	}
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
		is(s, false)
	})
	for _, state := range []store.State{
		store.StateActive, store.StatePaused, store.StateDisabled, store.StatePending, store.StatePaused, store.StatePending,
	} {
		h.step(func(s store.Store) {
			is(s, sub.State != store.StatePending)
			_, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.State = state; return nil })
			h.is(err, nil)
			sub.State = state
			is(s, state != store.StatePending)
		})
	}
	// One that is disabled and discards is not chosen, and is again when it no longer discards or is enabled.
	for _, x := range []struct {
		state      store.State
		discarding bool
	}{{store.StateDisabled, true}, {store.StateDisabled, false}, {store.StateDisabled, true}, {store.StateActive, true}, {store.StateActive, false}} {
		h.step(func(s store.Store) {
			_, err := s.UpdateSubscription(ctx, sub.ID, func(y *store.Subscription) error { y.State, y.Discarding = x.state, x.discarding; return nil })
			h.is(err, nil)
			is(s, x.state == store.StateActive || !x.discarding)
		})
	}
	h.step(func(s store.Store) {
		h.is(s.DeleteSubscription(ctx, "", sub.ID), nil)
		if len(chosen(s, store.DefaultAccount, "task.create", "")) != 0 {
			h.Fatal("chosen after the deletion")
		}
	})
}

func testValuesAreNotShared(h *house) {
	sub := h.fullSubscription(store.DefaultAccount)
	sub.State = store.StateActive
	token := store.Token{ID: "t", AccountID: store.DefaultAccount, Hash: store.TokenHash{1}, Scopes: []store.Scope{store.ScopeSend}}
	subBefore, tokenBefore := sub.Clone(), token
	tokenBefore.Scopes = slices.Clone(token.Scopes)
	spoil := func(x *store.Subscription) {
		x.Events[0], x.SigningSecrets[0].Key[0], x.SigningSecrets[0].ExpiresAt, x.Resource = "spoilt", 77, moment(50), "spoilt"
	}
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
		spoil(sub)
		h.is(s.CreateToken(ctx, token), nil)
		token.Scopes[0] = "spoilt"
		same(h, h.get(s, sub.ID), subBefore)
		for range 2 {
			got, _, err := s.TokenByHash(ctx, token.Hash)
			h.is(err, nil)
			same(h, got, tokenBefore)
			got.Scopes[0] = "spoilt"
			list, err := s.Tokens(ctx, "", "", 0)
			h.is(err, nil)
			same(h, list, []store.Token{tokenBefore})
			list[0].Scopes[0] = "spoilt"
		}
	})
	h.step(func(s store.Store) {
		var kept *store.Subscription
		_, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error {
			x.Method = "GET"
			kept = x
			return nil
		})
		h.is(err, nil)
		spoil(kept)
		subBefore.Method = "GET"
		same(h, h.get(s, sub.ID), subBefore)
		if !chosen(s, store.DefaultAccount, "task.create", "project/p-1")[sub.ID] {
			h.Fatal("the selection changed with the caller's copy")
		}
	})
	h.step(func(s store.Store) { same(h, h.get(s, sub.ID), subBefore) })
}
