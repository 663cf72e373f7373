package boltstore

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"herald/store"
	"herald/store/boltkit"
)

// disk stands between bbolt and the file and fails on demand.
type disk struct {
	errno atomic.Int64 // 0: works
	gate  atomic.Pointer[chan struct{}]
	waits atomic.Int64 // writes that have come to the gate
}

func (d *disk) writeAt(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
	if g := d.gate.Load(); g != nil {
		d.waits.Add(1)
		<-*g
	}
	if n := d.errno.Load(); n != 0 {
		return 0, &fs.PathError{Op: "write", Path: "store.db", Err: syscall.Errno(n)}
	}
	return write(b, off)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		synctest.Test(t, func(t *testing.T) {
			d := &disk{}
			path := filepath.Join(t.TempDir(), "store.db")
			s := start(t, Options{Path: path, writeAt: d.writeAt})
			sub, token := newSubscription(t), store.Token{ID: "t", AccountID: store.DefaultAccount, Hash: store.TokenHash{1}}
			must(t, s.CreateSubscription(ctx, sub, 0))
			must(t, s.CreateToken(ctx, token))
			newApp(t, s.Store, "app")
			d1, err := s.PutDevice(ctx, phone("app", "anna", "token"), "")
			must(t, err)

			d.errno.Store(int64(errno))
			_, updateErr := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.Events = []string{"other"}; return nil })
			_, accountErr := s.UpdateAccount(ctx, store.DefaultAccount, func(a *store.Account) error { a.Name = "new"; return nil })
			_, deleteErr := s.DeleteAccount(ctx, store.DefaultAccount)
			_, createErr := s.CreateImplementation(ctx, &store.Implementation{AccountID: store.DefaultAccount, ID: "new"}, 0)
			_, removeErr := s.DeleteImplementation(ctx, store.DefaultAccount, "app")
			_, putErr := s.PutDevice(ctx, phone("app", "anna", "new"), "token")
			_, contactErr := s.DeleteContact(ctx, store.DefaultAccount, "anna")
			for name, err := range map[string]error{
				"create implementation": createErr,
				"delete implementation": removeErr,
				"put device":            putErr,
				"delete contact":        contactErr,
				"delete device":         s.DeleteDevice(ctx, "", d1.ID, nil),
				"update device":         s.UpdateDevice(ctx, d1.ID, func(d *store.Device) error { d.Proven = true; return nil }),
				"create account":        s.CreateAccount(ctx, store.Account{ID: "acme"}),
				"create token":          s.CreateToken(ctx, store.Token{ID: "u", AccountID: store.DefaultAccount, Hash: store.TokenHash{2}}),
				"put resources":         s.PutResources(ctx, store.DefaultAccount, []store.Resource{{ResourceKey: store.ResourceKey{Type: "a", ID: "b"}}}),
				"create subscription":   s.CreateSubscription(ctx, newSubscription(t), 0),
				"update subscription":   updateErr,
				"update account":        accountErr,
				"delete account":        deleteErr,
				"delete token":          s.DeleteToken(ctx, "", "t"),
				"delete subscription":   s.DeleteSubscription(ctx, "", sub.ID),
			} {
				if !errors.Is(err, store.ErrFull) {
					t.Errorf("%s: got %v, want ErrFull", name, err)
				}
			}
			if err := s.Healthy(); !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), errno.Error()) {
				t.Errorf("healthy: got %v, want ErrFull and why", err)
			}
			if err := s.Commit(ctx); err != nil {
				t.Errorf("the writer works, and still: %v", err)
			}
			// Nothing changed, and reading goes on.
			if got, _, err := s.TokenByHash(ctx, token.Hash); err != nil || got.ID != "t" {
				t.Errorf("the token: %v, %v", got, err)
			}
			if got, _ := s.Select(store.DefaultAccount, "task.create", "", wanted, nil); len(got) != 1 || got[0] != sub.ID {
				t.Errorf("chosen: %v", got)
			}
			if a, err := s.Account(ctx, store.DefaultAccount); err != nil || a.Name == "new" {
				t.Errorf("the account: %v, %v", a, err)
			}
			if d, err := s.Device(ctx, "", d1.ID); err != nil || !reflect.DeepEqual(d, d1) {
				t.Errorf("the device: %v, %v", d, err)
			}
			must(t, s.Check(ctx))

			// It finds out by itself, both that there is no room yet and that there is.
			time.Sleep(10 * probeWait)
			if s.Healthy() == nil {
				t.Error("healthy while the disk is full")
			}
			d.errno.Store(0)
			time.Sleep(probeWait + time.Millisecond)
			must(t, s.Healthy())
			must(t, s.CreateAccount(ctx, store.Account{ID: "acme"}))
			must(t, s.Check(ctx))

			// A second time, ended by a change, and a third, ended by Close.
			d.errno.Store(int64(errno))
			if err := s.CreateAccount(ctx, store.Account{ID: "two"}); !errors.Is(err, store.ErrFull) {
				t.Errorf("the second time: %v", err)
			}
			d.errno.Store(0)
			must(t, s.CreateAccount(ctx, store.Account{ID: "two"}))
			must(t, s.Healthy())
			d.errno.Store(int64(errno))
			if err := s.CreateAccount(ctx, store.Account{ID: "three"}); !errors.Is(err, store.ErrFull) {
				t.Errorf("the third time: %v", err)
			}
			s.end()
			s = start(t, Options{Path: path})
			list, err := s.Accounts(ctx, "", 0)
			if err != nil || len(list) != 3 {
				t.Errorf("after a stop on a full disk: %v, %v", list, err)
			}
			s.end()
		})
	}
}

// After a commit that failed for another reason nothing is acknowledged any more, and nothing that was
// acknowledged is lost.
func TestBrokenDisk(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*disk, *Store) error{
		"write": func(d *disk, _ *Store) error { d.errno.Store(int64(syscall.EIO)); return nil },
		"sync":  func(_ *disk, s *Store) error { return s.db.BreakSync() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &disk{}
			path := filepath.Join(t.TempDir(), "store.db")
			s := start(t, Options{Path: path, writeAt: d.writeAt})
			s.over = true // ended here, not by the clean-up
			sub := newSubscription(t)
			must(t, s.CreateSubscription(ctx, sub, 0))
			must(t, breakIt(d, s.Store))
			if err := s.DeleteSubscription(ctx, "", sub.ID); !errors.Is(err, store.ErrClosed) {
				t.Errorf("the change that failed: %v", err)
			}
			var fatal *boltkit.FatalError
			if err := <-s.ended; !errors.As(err, &fatal) {
				t.Errorf("run: got %v, want a FatalError", err)
			}
			if err := s.Healthy(); !errors.Is(err, store.ErrClosed) {
				t.Errorf("healthy: %v", err)
			}
			if err := s.CreateAccount(ctx, store.Account{ID: "late"}); !errors.Is(err, store.ErrClosed) {
				t.Errorf("a later change: %v", err)
			}
			if err := s.Commit(ctx); !errors.Is(err, store.ErrClosed) {
				t.Errorf("a later empty commit: %v", err)
			}
			if _, err := s.Account(ctx, store.DefaultAccount); !errors.Is(err, store.ErrClosed) {
				t.Errorf("a later read: %v", err)
			}
			// Memory was not changed by what did not become durable.
			if got, _ := s.Select(store.DefaultAccount, "task.create", "", wanted, nil); len(got) != 1 {
				t.Errorf("chosen: %v", got)
			}
			_ = s.Close() // may fail on such a file
			again := start(t, Options{Path: path})
			if _, err := again.Subscription(ctx, sub.ID); err != nil {
				t.Errorf("what was acknowledged is gone: %v", err)
			}
		})
	}
}

// A caller whose time is over leaves before its change is taken up, and stays when it is being committed.
func TestContextEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		s := start(t, Options{writeAt: d.writeAt})
		must(t, s.CreateAccount(ctx, store.Account{ID: "first"}))
		gate := make(chan struct{})
		d.gate.Store(&gate)
		taken, stopTaken := context.WithCancel(ctx)
		waiting, stopWaiting := context.WithCancel(ctx)
		takenErr, waitingErr := make(chan error, 1), make(chan error, 1)
		go func() { takenErr <- s.CreateAccount(taken, store.Account{ID: "taken"}) }()
		synctest.Wait()
		if d.waits.Load() == 0 {
			t.Fatal("no commit is under way")
		}
		go func() { waitingErr <- s.CreateAccount(waiting, store.Account{ID: "waiting"}) }()
		synctest.Wait()
		stopTaken()
		stopWaiting()
		synctest.Wait()
		select {
		case err := <-waitingErr:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the one that waited: %v", err)
			}
		default:
			t.Error("the one that waited waits on")
		}
		select {
		case err := <-takenErr:
			t.Errorf("the one that is being committed came back: %v", err)
		default:
		}
		d.gate.Store(nil)
		close(gate)
		must(t, <-takenErr)
		must(t, s.CreateAccount(ctx, store.Account{ID: "last"}))
		if _, err := s.Account(ctx, "taken"); err != nil {
			t.Errorf("the one that was committed: %v", err)
		}
		if _, err := s.Account(ctx, "waiting"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the one that was given up: %v", err)
		}
		s.end()
	})
}

// Several changes in one commit: those that are refused do not disturb the others, and each sees what
// those before it did.
func TestRefusedChangesShareACommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		s := start(t, Options{writeAt: d.writeAt})
		must(t, s.CreateAccount(ctx, store.Account{ID: "acme"}))
		gate := make(chan struct{})
		d.gate.Store(&gate)
		var errs [6]error
		one, two := newSubscription(t), newSubscription(t)
		one.AccountID, two.AccountID = "acme", "acme"
		blocker := make(chan error, 1)
		go func() { blocker <- s.CreateAccount(ctx, store.Account{ID: "blocker"}) }()
		synctest.Wait()
		done := make(chan struct{}, len(errs))
		for i, fn := range []func() error{
			func() error { return s.CreateSubscription(ctx, one, 1) },
			func() error { return s.CreateSubscription(ctx, two, 1) },
			func() error { return s.CreateAccount(ctx, store.Account{ID: "acme"}) },
			func() error { return s.DeleteSubscription(ctx, "acme", one.ID) },
			func() error { return s.CreateSubscription(ctx, two, 1) },
			func() error {
				_, err := s.UpdateSubscription(ctx, one.ID, func(*store.Subscription) error { return nil })
				return err
			},
		} {
			go func() { errs[i] = fn(); done <- struct{}{} }()
			synctest.Wait() // so that they are handed in in this order
		}
		commits, changes := testutil.ToFloat64(s.metrics.commits), testutil.ToFloat64(s.metrics.changes)
		d.gate.Store(nil)
		close(gate)
		must(t, <-blocker)
		for range errs {
			<-done
		}
		if n := testutil.ToFloat64(s.metrics.commits) - commits; n != 2 {
			t.Errorf("%v commits, want the blocker's and one for all", n)
		}
		if n := testutil.ToFloat64(s.metrics.changes) - changes; n != 4 {
			t.Errorf("%v changes, want the blocker's and three that were not refused", n)
		}
		for i, want := range []error{nil, store.ErrLimit, store.ErrExists, nil, nil, store.ErrNotFound} {
			if !errors.Is(errs[i], want) {
				t.Errorf("change %d: got %v, want %v", i, errs[i], want)
			}
		}
		if got, _ := s.Select("acme", "task.create", "", wanted, nil); len(got) != 1 || got[0] != two.ID {
			t.Errorf("chosen: %v, want only %v", got, two.ID)
		}
		s.end()
	})
}
