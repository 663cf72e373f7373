package storetest

import (
	"errors"
	"fmt"

	"herald/store"
)

func testCreateAccount(h *house) {
	a := store.Account{ID: "acme", Name: "Acme – Ä \"quoted\"", Suspended: true, CreatedAt: moment(1)}
	h.step(func(s store.Store) {
		_, err := s.Account(ctx, a.ID)
		h.is(err, store.ErrNotFound)
		h.is(s.CreateAccount(ctx, a), nil)
		got, err := s.Account(ctx, a.ID)
		h.is(err, nil)
		same(h, got, a)
	})
	h.step(func(s store.Store) {
		h.is(s.CreateAccount(ctx, store.Account{ID: a.ID, Name: "another"}), store.ErrExists)
	})
	h.step(func(s store.Store) {
		got, err := s.Account(ctx, a.ID)
		h.is(err, nil)
		same(h, got, a)
		_, err = s.Account(ctx, "Acme") // case counts
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		// Not one of these may reach the file, nor stop the store.
		for _, id := range []string{"", string(make([]byte, 100_000))} {
			if s.CreateAccount(ctx, store.Account{ID: id}) == nil {
				h.Fatalf("an account with an id of %d bytes was created", len(id))
			}
		}
		list, err := s.Accounts(ctx, "", 0)
		h.is(err, nil)
		if len(list) != 2 {
			h.Fatalf("accounts: %+v", list)
		}
	})
}

func testAccounts(h *house) {
	h.step(func(store.Store) {
		for _, id := range []string{"b", "a.b", "a", "B", "zz"} {
			h.account(id)
		}
	})
	h.step(func(s store.Store) {
		for _, p := range []page[string]{
			{"", 0, []string{"B", "a", "a.b", "b", "default", "zz"}},
			{"", 2, []string{"B", "a"}},
			{"a", 2, []string{"a.b", "b"}},
			{"a.a", 1, []string{"a.b"}}, // need not exist
			{"default", 0, []string{"zz"}},
			{"zz", 5, nil},
			{"zzz", 0, nil},
			{"", 100, []string{"B", "a", "a.b", "b", "default", "zz"}},
		} {
			list, err := s.Accounts(ctx, p.after, p.limit)
			h.is(err, nil)
			var got []string
			for _, a := range list {
				got = append(got, a.ID)
			}
			h.lists(fmt.Sprintf("after %q, at most %d", p.after, p.limit), got, p.want)
		}
	})
}

func testUpdateAccount(h *house) {
	a := store.Account{ID: "acme", Name: "Acme", CreatedAt: moment(1)}
	h.step(func(s store.Store) { h.is(s.CreateAccount(ctx, a), nil) })
	h.step(func(s store.Store) {
		got, err := s.UpdateAccount(ctx, a.ID, func(x *store.Account) error {
			same(h, *x, a)
			x.Name, x.Suspended = "Acme Ltd", true
			return nil
		})
		h.is(err, nil)
		a.Name, a.Suspended = "Acme Ltd", true
		same(h, got, a)
		got, err = s.Account(ctx, a.ID)
		h.is(err, nil)
		same(h, got, a)
	})
	h.step(func(s store.Store) {
		mine := errors.New("mine")
		_, err := s.UpdateAccount(ctx, a.ID, func(x *store.Account) error { x.Name = "no"; return mine })
		if err != mine { //nolint:errorlint // as it is, not wrapped
			h.Fatalf("got error %v, want the one of change as it is", err)
		}
		got, err := s.Account(ctx, a.ID)
		h.is(err, nil)
		same(h, got, a)
	})
	h.step(func(s store.Store) {
		// Refused or put right, but never changed.
		_, _ = s.UpdateAccount(ctx, a.ID, func(x *store.Account) error { x.ID = "other"; return nil })
		_, err := s.Account(ctx, "other")
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		got, err := s.Account(ctx, a.ID)
		h.is(err, nil)
		same(h, got, a)
		_, err = s.UpdateAccount(ctx, "nobody", func(*store.Account) error {
			h.Error("change was called for an account that does not exist")
			return nil
		})
		h.is(err, store.ErrNotFound)
	})
}

func testDeleteAccount(h *house) {
	var subs []*store.Subscription
	other := h.subscription("other")
	token := func(id, account string, n byte) store.Token {
		return store.Token{ID: id, AccountID: account, Hash: store.TokenHash{n}, CreatedAt: moment(1)}
	}
	resource := store.Resource{ResourceKey: store.ResourceKey{Type: "project", ID: "1"}, Name: "One"}
	fill := func(s store.Store, account string) {
		h.is(s.CreateToken(ctx, token("t1", account, 1)), nil)
		h.is(s.CreateToken(ctx, token("t2", account, 2)), nil)
		h.is(s.PutResources(ctx, account, []store.Resource{resource}), nil)
	}
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		fill(s, "acme")
		for range 3 {
			x := h.subscription("acme")
			subs = append(subs, x)
			h.is(s.CreateSubscription(ctx, x, 0), nil)
		}
		h.is(s.CreateToken(ctx, token("t3", "other", 3)), nil)
		h.is(s.PutResources(ctx, "other", []store.Resource{resource}), nil)
		h.is(s.CreateSubscription(ctx, other, 0), nil)
	})
	h.step(func(s store.Store) {
		// Used before, so that an engine has them at hand.
		_, _, err := s.TokenByHash(ctx, store.TokenHash{1})
		h.is(err, nil)
		_, err = s.Subscription(ctx, subs[0].ID)
		h.is(err, nil)

		gone, err := s.DeleteAccount(ctx, "acme")
		h.is(err, nil)
		want := map[store.SubscriptionID]bool{}
		for _, x := range subs {
			want[x.ID] = true
		}
		for _, id := range gone {
			if !want[id] {
				h.Fatalf("%s went and was not the account's, or was named twice", id)
			}
			delete(want, id)
		}
		if len(want) != 0 {
			h.Fatalf("not named as gone: %v", want)
		}
		h.absent(s, subs)
	})
	h.step(func(s store.Store) {
		h.absent(s, subs)
		got, account, err := s.TokenByHash(ctx, store.TokenHash{3})
		h.is(err, nil)
		if got.ID != "t3" || account.ID != "other" {
			h.Fatalf("token of the other account: %+v of %+v", got, account)
		}
		_, err = s.Resource(ctx, "other", resource.ResourceKey)
		h.is(err, nil)
		if !chosen(s, "other", "task.create", "")[other.ID] {
			h.Fatal("the other account's subscription is not chosen any more")
		}
		_, err = s.DeleteAccount(ctx, "acme")
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		// Only the account's own id is retired: every id of what it had is free.
		h.account("next")
		fill(s, "next")
		subs[0].AccountID = "next"
		h.is(s.CreateSubscription(ctx, subs[0], 1), nil)
	})
	h.step(func(s store.Store) {
		if !chosen(s, "next", "task.create", "")[subs[0].ID] {
			h.Fatal("the subscription of the next account is not chosen")
		}
	})
}

// Whoever gets the id of a deleted account gets to see what a queue still keeps under it.
func testDeletedIDIsRetired(h *house) {
	retired := func(s store.Store) {
		h.Helper()
		h.is(s.CreateAccount(ctx, store.Account{ID: "acme"}), store.ErrRetired)
		if errors.Is(s.CreateAccount(ctx, store.Account{ID: "acme"}), store.ErrExists) {
			h.Fatal("a retired id is said to be taken by an account")
		}
		_, err := s.Account(ctx, "acme")
		h.is(err, store.ErrNotFound)
		h.is(s.CreateToken(ctx, store.Token{ID: "t", AccountID: "acme", Hash: store.TokenHash{1}}), store.ErrNotFound)
		h.is(s.CreateSubscription(ctx, h.subscription("acme"), 0), store.ErrNotFound)
		_, err = s.DeleteAccount(ctx, "acme")
		h.is(err, store.ErrNotFound)
	}
	h.step(func(s store.Store) {
		h.account("acme")
		_, err := s.DeleteAccount(ctx, "never")
		h.is(err, store.ErrNotFound)
		_, err = s.DeleteAccount(ctx, "acme")
		h.is(err, nil)
		retired(s)
	})
	h.step(retired)
	h.step(func(s store.Store) {
		// What was refused retires nothing, nor does another id that only looks alike.
		for _, id := range []string{"never", "Acme", "acme1", "acm"} {
			h.account(id)
		}
		retired(s)
		list, err := s.Accounts(ctx, "", 0)
		h.is(err, nil)
		if len(list) != 5 {
			h.Fatalf("accounts: %+v", list)
		}
	})
	h.step(retired)
}

// A delete and creates of the same id that share commits: once it is gone, no one gets it.
func testDeleteRacesCreate(h *house) {
	h.step(func(s store.Store) {
		for round := range 10 {
			id := fmt.Sprint("a", round)
			h.account(id)
			h.parallel(8, 8, func(i int) error {
				if i == 3 {
					_, err := s.DeleteAccount(ctx, id)
					return err
				}
				err := s.CreateAccount(ctx, store.Account{ID: id})
				if !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrRetired) {
					return fmt.Errorf("create %s: got error %w, want ErrExists or ErrRetired", id, err)
				}
				return nil
			})
			h.is(s.CreateAccount(ctx, store.Account{ID: id}), store.ErrRetired)
		}
	})
	h.step(func(s store.Store) {
		for round := range 10 {
			h.is(s.CreateAccount(ctx, store.Account{ID: fmt.Sprint("a", round)}), store.ErrRetired)
		}
	})
}

// absent fails the test unless nothing of the account acme is left.
func (h *house) absent(s store.Store, subs []*store.Subscription) {
	h.Helper()
	_, err := s.Account(ctx, "acme")
	h.is(err, store.ErrNotFound)
	for _, n := range []byte{1, 2} {
		_, _, err := s.TokenByHash(ctx, store.TokenHash{n})
		h.is(err, store.ErrNotFound)
	}
	for _, x := range subs {
		_, err := s.Subscription(ctx, x.ID)
		h.is(err, store.ErrNotFound)
	}
	h.is(h.emptyAccount(s, "acme"), nil)
	_, err = s.Resource(ctx, "acme", store.ResourceKey{Type: "project", ID: "1"})
	h.is(err, store.ErrNotFound)
}

func (h *house) emptyAccount(s store.Store, id string) error {
	h.Helper()
	tokens, err := s.Tokens(ctx, id, "", 0)
	h.is(err, nil)
	resources, err := s.Resources(ctx, id, "", store.ResourceKey{}, 0)
	h.is(err, nil)
	subs, err := s.Subscriptions(ctx, id, store.SubscriptionID{}, 0)
	h.is(err, nil)
	has, err := s.HasResourceType(ctx, id, "project")
	h.is(err, nil)
	if n := len(tokens) + len(resources) + len(subs) + len(chosen(s, id, "task.create", "project/1")); n > 0 || has {
		return fmt.Errorf("%d things of account %s are left", n, id)
	}
	return nil
}

func testDeleteAccountWithMuch(h *house) {
	const subs, resources = 300, 5000
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		var rs []store.Resource
		for i := range resources {
			rs = append(rs, store.Resource{ResourceKey: store.ResourceKey{Type: "project", ID: fmt.Sprintf("p%05d", i)}})
		}
		h.is(s.PutResources(ctx, "acme", rs), nil)
		h.is(s.PutResources(ctx, "other", rs[:10]), nil)
		h.parallel(8, subs, func(int) error { return s.CreateSubscription(ctx, h.subscription("acme"), 0) })
		h.is(s.CreateSubscription(ctx, h.subscription("other"), 0), nil)
	})
	h.step(func(s store.Store) {
		gone, err := s.DeleteAccount(ctx, "acme")
		h.is(err, nil)
		if len(gone) != subs {
			h.Fatalf("%d subscriptions went, want %d", len(gone), subs)
		}
	})
	h.step(func(s store.Store) {
		left, err := s.Subscriptions(ctx, "", store.SubscriptionID{}, 0)
		h.is(err, nil)
		rs, err := s.Resources(ctx, "other", "", store.ResourceKey{}, 0)
		h.is(err, nil)
		if len(left) != 1 || len(rs) != 10 {
			h.Fatalf("%d subscriptions and %d resources are left, want 1 and 10", len(left), len(rs))
		}
	})
}
