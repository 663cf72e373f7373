package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"herald/store"
)

// parallel calls fn for 0 to n-1 from several goroutines and fails the test on an error.
func (h *house) parallel(workers, n int, fn func(i int) error) {
	h.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := fn(i); err != nil {
					h.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if h.Failed() {
		h.FailNow()
	}
}

// Each worker changes things of its own, while the others write, and reads every change back at once
// by every way there is.
func testConcurrentReadYourWrites(h *house) {
	h.step(func(s store.Store) {
		h.parallel(8, 24, func(i int) error {
			account := store.Account{ID: fmt.Sprintf("a%d", i), Name: "0"}
			sub := &store.Subscription{ID: store.SubscriptionID{1, byte(i)}, AccountID: account.ID, State: store.StateActive, Resource: "r/0"}
			hash := store.TokenHash{byte(i), 1}
			if err := s.CreateAccount(ctx, account); err != nil {
				return err
			}
			if err := s.CreateSubscription(ctx, sub, 1); err != nil {
				return err
			}
			for round := 1; round <= 8; round++ {
				now, before := fmt.Sprintf("r/%d", round), fmt.Sprintf("r/%d", round-1)
				if _, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.Resource = now; return nil }); err != nil {
					return err
				}
				if len(chosen(s, account.ID, "e", before)) != 0 || len(chosen(s, account.ID, "e", now)) != 1 {
					return fmt.Errorf("worker %d, round %d: the selection is not the one just stored", i, round)
				}
				if got, err := s.Subscription(ctx, sub.ID); err != nil || got.Resource != now {
					return fmt.Errorf("worker %d, round %d: the subscription is not the one just stored: %v, %w", i, round, got, err)
				}
				if err := s.CreateToken(ctx, store.Token{ID: account.ID, AccountID: account.ID, Name: now, Hash: hash}); err != nil {
					return err
				}
				if _, err := s.UpdateAccount(ctx, account.ID, func(a *store.Account) error { a.Name = now; return nil }); err != nil {
					return err
				}
				if token, a, err := s.TokenByHash(ctx, hash); err != nil || token.Name != now || a.Name != now {
					return fmt.Errorf("worker %d, round %d: the token is not the one just stored: %v of %v, %w", i, round, token, a, err)
				}
				if err := s.DeleteToken(ctx, "", account.ID); err != nil {
					return err
				}
				if _, _, err := s.TokenByHash(ctx, hash); !errors.Is(err, store.ErrNotFound) {
					return fmt.Errorf("worker %d, round %d: the token just deleted is still found: %w", i, round, err)
				}
			}
			if err := s.DeleteSubscription(ctx, account.ID, sub.ID); err != nil {
				return err
			}
			if _, err := s.Subscription(ctx, sub.ID); !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("worker %d: the subscription just deleted is still found: %w", i, err)
			}
			if _, err := s.DeleteAccount(ctx, account.ID); err != nil {
				return err
			}
			return nil
		})
		h.is(s.Check(ctx), nil)
	})
	h.step(func(s store.Store) {
		list, err := s.Accounts(ctx, "", 0)
		h.is(err, nil)
		if len(list) != 1 {
			h.Fatalf("left: %v", list)
		}
	})
}

// No update is lost, and all of them are on disk.
func testConcurrentUpdates(h *house) {
	const n = 200
	sub := h.subscription(store.DefaultAccount)
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
		_, err := s.UpdateAccount(ctx, store.DefaultAccount, func(a *store.Account) error { a.Name = "0"; return nil })
		h.is(err, nil)
	})
	h.step(func(s store.Store) {
		h.parallel(8, n, func(int) error {
			_, err := s.UpdateAccount(ctx, store.DefaultAccount, func(a *store.Account) error {
				i, err := strconv.Atoi(a.Name)
				a.Name = strconv.Itoa(i + 1)
				return err
			})
			if err != nil {
				return err
			}
			_, err = s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.NumberOfRecords++; return nil })
			return err
		})
	})
	h.step(func(s store.Store) {
		a, err := s.Account(ctx, store.DefaultAccount)
		h.is(err, nil)
		if got := h.get(s, sub.ID).NumberOfRecords; a.Name != strconv.Itoa(n) || got != n+1 {
			h.Fatalf("after %d updates of each: account %s, subscription %d", n, a.Name, got-1)
		}
	})
}

// A selection is switched as one step: whoever asks finds the old or the new one, never none or both; and
// what Subscription returns never goes back in time.
func testConcurrentSwitch(h *house) {
	sub := h.subscription(store.DefaultAccount)
	sub.Resource, sub.NumberOfRecords = "", 0
	sub.Events = []string{"a.x", "common"}
	h.step(func(s store.Store) {
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
		var over atomic.Bool
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				var dst []store.SubscriptionID
				last := 0
				for !over.Load() {
					if dst, _ = s.Select(store.DefaultAccount, "common", "", nil, dst[:0]); len(dst) != 1 {
						h.Errorf("chosen %d times during a switch", len(dst))
						return
					}
					got, err := s.Subscription(ctx, sub.ID)
					if err != nil || got.NumberOfRecords < last {
						h.Errorf("after version %d came %v, %v", last, got, err)
						return
					}
					last = got.NumberOfRecords
				}
			})
		}
		for i := range 150 {
			_, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error {
				x.NumberOfRecords = i + 1
				x.Events = []string{fmt.Sprintf("a.x%d", i), "common"}
				return nil
			})
			if err != nil {
				h.Error(err)
				break
			}
		}
		over.Store(true)
		wg.Wait()
	})
}

// Of those who want the same id one gets it, and a limit holds however many come at once.
func testConcurrentCreates(h *house) {
	const n, limit = 32, 5
	h.step(func(s store.Store) {
		h.account("acme")
		var won [4]atomic.Int64
		count := func(i int, err, refused error) error {
			if err == nil {
				won[i].Add(1)
			} else if !errors.Is(err, refused) {
				return err
			}
			return nil
		}
		shared := h.newID()
		h.parallel(n, n, func(i int) error {
			own := h.subscription("acme")
			common := h.subscription(store.DefaultAccount)
			common.ID = shared
			return errors.Join(
				count(0, s.CreateAccount(ctx, store.Account{ID: "same"}), store.ErrExists),
				count(1, s.CreateToken(ctx, store.Token{ID: strconv.Itoa(i), AccountID: "acme", Hash: store.TokenHash{7}}), store.ErrExists),
				count(2, s.CreateSubscription(ctx, common, 0), store.ErrExists),
				count(3, s.CreateSubscription(ctx, own, limit), store.ErrLimit),
			)
		})
		for i, want := range []int64{1, 1, 1, limit} {
			if got := won[i].Load(); got != want {
				h.Errorf("case %d: %d succeeded, want %d", i, got, want)
			}
		}
	})
	h.step(func(s store.Store) {
		if got := len(chosen(s, "acme", "task.create", "")); got != limit {
			h.Fatalf("%d chosen, want %d", got, limit)
		}
	})
}
