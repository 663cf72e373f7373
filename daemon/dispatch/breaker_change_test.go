package dispatch

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

// After a restart the lane goes on from what the store has: still open, the same moment, the same counts.
func TestBreakerOutlivesRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f faulty
		f.start = time.Now()
		o := Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "5s,1m,10m")}}
		b := newBench(t, o)
		go func() { b.ended <- b.Run(t.Context()) }()
		b.subscribe(nth(1))
		b.q.add(nth(1), 50)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		before := time.Now()
		b.stop(t)
		if took := time.Since(before); took != 0 {
			t.Errorf("stopping with an open breaker took %v", took)
		}
		// What was leased is not: a restart frees it.
		again := newBench(t, o)
		again.q.items, again.s.subs = b.q.items, b.s.subs
		time.Sleep(10 * time.Second)
		go func() { again.ended <- again.Run(t.Context()) }()
		synctest.Wait()
		if s := again.Status(nth(1)); s.Breaker != BreakerOpen || s.Failures != 6 || !s.ProbeAt.Equal(f.start.Add(65*time.Second)) {
			t.Errorf("after the restart: %+v", s)
		}
		time.Sleep(35*time.Second - 1)
		synctest.Wait()
		if got := f.times(); !slices.Equal(got, five(5*time.Second)) {
			t.Errorf("attempts at %v", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := f.times(); !slices.Equal(got, five(5*time.Second, 65*time.Second, 665*time.Second)) {
			t.Errorf("attempts at %v", got)
		}
		again.stop(t)
	})
}

// While the end of an outage is written down, the successes that follow add nothing to it.
func TestRecoveryIsWrittenOnce(t *testing.T) {
	t.Parallel()
	var f faulty
	inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "1m")}}, func(t *testing.T, b *bench) {
		hold := make(chan struct{})
		var updates atomic.Int32
		b.s.onUpdate = func() {
			if updates.Add(1) > 1 {
				<-hold
			}
		}
		b.subscribe(nth(1))
		b.q.add(nth(1), 100)
		synctest.Wait()
		f.mended.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.q.done(t, 100)
		close(hold)
		synctest.Wait()
		if n := b.updates(); n != 2 || b.sub(nth(1)).Health != (store.Health{}) {
			t.Errorf("%d updates, and the store has %+v", n, b.sub(nth(1)).Health)
		}
	})
}

// Somebody who makes Health zero and says so closes the breaker; another change leaves it alone.
func TestResetClosesBreaker(t *testing.T) {
	t.Parallel()
	var f faulty
	inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "1h")}}, func(t *testing.T, b *bench) {
		f.start = time.Now()
		b.subscribe(nth(1))
		b.q.add(nth(1), 50)
		time.Sleep(time.Second)
		b.change(nth(1), func(s *store.Subscription) { s.Resource = "project/1" })
		synctest.Wait()
		if s := b.Status(nth(1)); s.Breaker != BreakerOpen || len(f.times()) != 5 {
			t.Errorf("after another change: %+v, %d attempts", s, len(f.times()))
		}
		f.mended.Store(true)
		b.change(nth(1), func(s *store.Subscription) { s.Health = store.Health{} })
		synctest.Wait()
		if n := len(f.times()); n < 50 {
			t.Errorf("%d attempts after the reset", n)
		}
		if n := b.locked(func() int { return b.open }); n != 0 {
			t.Errorf("%d breakers are counted", n)
		}
	})
}

// A reset beats an update of the keeper that is under way: when it comes to the store first, after it, and when
// it comes after it but before the keeper knows.
func TestResetWhileKeeping(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"reset", "keeper", "store"} {
		var f faulty
		inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "1h")}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1))
			hold := make(chan struct{})
			var updates atomic.Int32
			pause := func() {
				if updates.Add(1) == 2 { // that of the failed probe, after that of the opening
					<-hold
				}
			}
			if first == "store" {
				b.s.onUpdated = pause
			} else {
				b.s.onUpdate = pause
			}
			b.q.add(nth(1), breakerAfter)
			time.Sleep(time.Hour) // a probe fails, and the keeper is held up with it
			synctest.Wait()
			if first == "keeper" {
				close(hold)
				synctest.Wait()
			}
			// The others fail as well then: one too few to open the breaker.
			b.change(nth(1), func(s *store.Subscription) { s.Health = store.Health{} })
			synctest.Wait()
			if first != "keeper" {
				close(hold)
				synctest.Wait()
			}
			b.q.done(t, breakerAfter)
			if h := b.sub(nth(1)).Health; h != (store.Health{}) {
				t.Errorf("%s first: the store has %+v", first, h)
			}
			if s := b.Status(nth(1)); s.Breaker != BreakerClosed || s.Failures != breakerAfter-1 {
				t.Errorf("%s first: %+v", first, s)
			}
		})
	}
}

// The same for the update that tells the store of the opening: until the keeper knows that it was made, a reset
// after it looks like the time before it.
func TestResetWhileOpening(t *testing.T) {
	t.Parallel()
	inBubble(t, Options{Sender: sendFunc(failed), Defaults: Defaults{Schedule: mustSchedule(t, "1h")}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		hold := make(chan struct{})
		var once atomic.Bool
		b.s.onUpdated = func() {
			if !once.Swap(true) {
				<-hold
			}
		}
		b.q.add(nth(1), breakerAfter)
		synctest.Wait()
		b.change(nth(1), func(s *store.Subscription) { s.Health = store.Health{} })
		synctest.Wait()
		close(hold)
		synctest.Wait()
		if s := b.Status(nth(1)); s.Breaker != BreakerClosed || s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
		if h := b.sub(nth(1)).Health; h != (store.Health{}) {
			t.Errorf("the store has %+v", h)
		}
	})
}

// A change in the middle of a probe: what the probe comes to says nothing about what is there now, and there
// is still one probe at a time.
func TestChangedDuringProbe(t *testing.T) {
	t.Parallel()
	var f faulty
	var g gauge
	var slow atomic.Bool
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if slow.Load() {
			time.Sleep(10 * time.Second)
		}
		return f.send(ctx, sub, p)
	}
	inBubble(t, Options{Sender: g.wrap(send), Defaults: Defaults{Schedule: mustSchedule(t, "1m")}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.q.add(nth(1), 50)
		synctest.Wait()
		slow.Store(true)
		time.Sleep(65 * time.Second)
		synctest.Wait()
		if s := b.Status(nth(1)); s.Breaker != BreakerHalfOpen {
			t.Fatalf("status %+v", s)
		}
		b.change(nth(1), func(s *store.Subscription) { s.Resource = "project/1" })
		synctest.Wait()
		if now, most := g.of(nth(1)); now != 1 || most != 1 {
			t.Errorf("%d under way, %d at most", now, most)
		}
		time.Sleep(6 * time.Second) // it fails, which counts for nothing, and so the next goes out
		synctest.Wait()
		if s := b.Status(nth(1)); s.Breaker != BreakerHalfOpen || s.Failures != 5 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := b.Status(nth(1)); s.Breaker != BreakerOpen || s.Failures != 6 {
			t.Errorf("status %+v", s)
		}
		if _, most := g.of(nth(1)); most != 1 {
			t.Errorf("%d at most", most)
		}
		time.Sleep(11 * time.Second)
	})
}

// An outage of many receivers is written down together, and a warning at once.
func TestHealthIsGathered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Sender: sendFunc(failed), Publish: func(context.Context, string, string, time.Time, string, []byte) error { return nil }})
		b.saveDelay = saveDelay
		go func() { b.ended <- b.Run(t.Context()) }()
		start := time.Now()
		for n := byte(1); n <= 20; n++ {
			b.subscribe(nth(n), func(s *store.Subscription) {
				s.Delivery.DisableAfter = store.DisableAfter{Set: true, Duration: time.Hour}
			})
			b.q.add(nth(n), 10)
			time.Sleep(10 * time.Millisecond)
		}
		stored := func() (n int) {
			b.s.mu.Lock()
			defer b.s.mu.Unlock()
			for _, s := range b.s.subs {
				if !s.Health.OpenedAt.IsZero() {
					n++
				}
			}
			return n
		}
		time.Sleep(time.Until(start.Add(saveDelay - time.Millisecond)))
		synctest.Wait()
		if n := stored(); n != 0 {
			t.Errorf("%d were written down at once", n)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n := stored(); n != 20 {
			t.Errorf("%d of 20 were written down together", n)
		}
		time.Sleep(time.Until(start.Add(30 * time.Minute)))
		synctest.Wait()
		b.s.mu.Lock()
		if h := b.s.subs[store.SubscriptionID(nth(1))].Health; h.Warned != 50 {
			t.Errorf("the warning was not written down at once: %+v", h)
		}
		b.s.mu.Unlock()
		b.stop(t)
	})
}

// Deliveries that died of age are told together, and those of Herald's own events not at all.
func TestExpiredAreTold(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []string
	o := Options{Sender: sendFunc(delivered), Publish: func(_ context.Context, account, kind string, _ time.Time, _ string, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, account+" "+kind+" "+string(data))
		return nil
	}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.Expired(nth(1), "task.create", 4000)
		b.Expired(nth(1), "herald.delivery.dead", 7)
		b.Expired(nth(9), "task.create", 1) // its subscription is gone
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := `default herald.delivery.dead {"subscriptionId":"00000000-0000-0000-0000-000000000001","state":"active","reason":"expired","dataCallbackHost":"example.com","eventType":"task.create","count":4000}`
		if len(told) != 1 || told[0] != want {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
