package dispatch

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

func TestHeldStates(t *testing.T) {
	t.Parallel()
	for _, state := range []store.State{store.StatePaused, store.StateDisabled, store.StatePending} {
		var c calls
		inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), inState(state))
			b.q.add(nth(1), 100)
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := len(c.times()); n != 0 {
				t.Errorf("%s: %d attempts were made", state, n)
			}
			b.q.mu.Lock()
			if n := len(b.q.settled); n != 0 || b.q.asks > 2 {
				t.Errorf("%s: %d deliveries were claimed, %d times asked", state, n, b.q.asks)
			}
			b.q.mu.Unlock()
			b.q.add(nth(1), 1)
			b.subscribe(nth(1))
			b.Changed(nth(1))
			synctest.Wait()
			b.q.done(t, 101)
			time.Sleep(2 * trimEvery)
			synctest.Wait()
			if b.heldLanes() != 0 || b.knownLanes() != 0 {
				t.Errorf("%s: %d lanes are remembered, %d held", state, b.knownLanes(), b.heldLanes())
			}
		})
	}
}

func TestDeleted(t *testing.T) {
	t.Parallel()
	var c calls
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		b.q.dropErr = errors.New("disk on fire")
		b.q.add(nth(1), 3)
		time.Sleep(storeDelay - 1)
		synctest.Wait()
		b.q.done(t, 0)
		b.q.mu.Lock()
		b.q.dropErr = nil
		b.q.mu.Unlock()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		b.q.done(t, 3)
		if b.q.dropped[nth(1)] != 1 || len(c.times()) != 0 {
			t.Errorf("dropped %d times, %d attempts", b.q.dropped[nth(1)], len(c.times()))
		}
		time.Sleep(2 * trimEvery)
		synctest.Wait()
		if b.knownLanes() != 0 {
			t.Errorf("%d lanes are remembered", b.knownLanes())
		}
	})
}

// A store that cannot be read delays its deliveries; it loses none, and is not hammered.
func TestFailingStore(t *testing.T) {
	t.Parallel()
	var c calls
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.s.readErr = errors.New("disk on fire")
		b.q.add(nth(1), 10)
		time.Sleep(10*storeDelay - 1)
		synctest.Wait()
		b.s.mu.Lock()
		reads := b.s.reads
		b.s.readErr = nil
		b.s.mu.Unlock()
		if reads != 10 {
			t.Errorf("%d reads, want one in %v", reads, storeDelay)
		}
		if n := strings.Count(b.log.String(), "operation failed"); n != 2 {
			t.Errorf("%d lines for a failure of %v, want one in %v", n, 10*storeDelay, complainEvery)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		b.q.done(t, 10)
		for _, it := range b.q.items {
			if it.last.Attempt.Number != 1 {
				t.Errorf("delivery %d had attempt %d", it.Deliveries[0].Seq, it.last.Attempt.Number)
			}
		}
		if n := strings.Count(b.log.String(), "operation works again"); n != 1 {
			t.Errorf("%d lines of recovery", n)
		}
	})
}

// Changed ends a rest early: the owner may have repaired what failed.
func TestChangedEndsRest(t *testing.T) {
	t.Parallel()
	inBubble(t, Options{Sender: sendFunc(delivered)}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.s.readErr = errors.New("disk on fire")
		b.q.add(nth(1), 1)
		synctest.Wait()
		b.s.mu.Lock()
		b.s.readErr = nil
		b.s.mu.Unlock()
		b.Changed(nth(1))
		synctest.Wait()
		b.q.done(t, 1)
		time.Sleep(2 * storeDelay)
	})
}

// An attempt that had read its subscription before a change, and was then held up, does not start on
// what it read once Changed has returned.
func TestNothingStartsAfterChanged(t *testing.T) {
	t.Parallel()
	changes := map[string]func(*bench){
		"deleted": func(b *bench) { b.unsubscribe(nth(1)) },
		"paused":  func(b *bench) { b.subscribe(nth(1), inState(store.StatePaused)) },
		"token": func(b *bench) {
			b.subscribe(nth(1), func(s *store.Subscription) { s.Authentication.Token = "new" })
		},
	}
	for name, change := range changes {
		var c calls
		inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1))
			read, goOn := make(chan struct{}), make(chan struct{})
			var reads atomic.Int32
			b.s.afterRead = func(*store.Subscription) {
				if reads.Add(1) == 2 { // the first is the reader's
					close(read)
					<-goOn
				}
			}
			b.q.add(nth(1), 1)
			<-read
			change(b)
			b.Changed(nth(1))
			close(goOn)
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if name == "token" {
				if len(c.subs) != 1 || c.subs[0].Authentication.Token != "new" {
					t.Errorf("%s: sent with %+v", name, c.subs)
				}
			} else if len(c.subs) != 0 {
				t.Errorf("%s: an attempt was made all the same", name)
			}
		})
	}
}

// The same under load: every attempt is admitted with what the store held when Changed last returned,
// or newer.
func TestChangedRace(t *testing.T) {
	t.Parallel()
	var answered atomic.Int64 // the newest version whose Changed has returned
	var b *bench
	var checked atomic.Int64
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		checked.Add(1)
		return delivered(ctx, sub, p)
	}
	b = newBench(t, Options{Sender: sendFunc(send), Workers: 8})
	b.subscribe(nth(1))
	var late atomic.Int64
	b.admitted = func(sub *store.Subscription) { // called with mu held, which Changed needs to return
		if sub.UpdatedAt.UnixNano() < answered.Load() {
			late.Add(1)
		}
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- b.Dispatcher.Run(ctx) }()
	const versions = 2000
	for v := range int64(versions) {
		b.q.add(nth(1), 1)
		b.subscribe(nth(1), func(s *store.Subscription) { s.UpdatedAt = time.Unix(0, v+1) })
		b.Changed(nth(1))
		answered.Store(v + 1)
	}
	for deadline := time.Now().Add(10 * time.Second); checked.Load() < versions && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if late.Load() != 0 || checked.Load() != versions {
		t.Errorf("%d of %d attempts started on an older subscription", late.Load(), checked.Load())
	}
}
