package dispatch

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"herald/queue"
	"herald/store"
)

// sub returns the subscription as the store has it.
func (b *bench) sub(id queue.Lane) *store.Subscription {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.subs[store.SubscriptionID(id)]
}

// change changes the subscription like the API: durably, and then told.
func (b *bench) change(id queue.Lane, change func(*store.Subscription)) {
	b.s.mu.Lock()
	c := b.s.subs[store.SubscriptionID(id)].Clone()
	change(c)
	b.s.subs[c.ID] = c
	b.s.mu.Unlock()
	b.Changed(id)
}

func (b *bench) updates() int {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.updates
}

// faulty is a receiver that fails until it is mended.
type faulty struct {
	calls
	mended     atomic.Bool
	status     atomic.Int32
	retryAfter atomic.Int64
}

func (f *faulty) send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	return f.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if f.mended.Load() {
			return delivered(ctx, sub, p)
		}
		out := failed(ctx, sub, p)
		if s := f.status.Load(); s != 0 {
			out.Status = int(s)
		}
		out.RetryAfter = time.Duration(f.retryAfter.Load())
		return out
	})(ctx, sub, p)
}

// five is what comes before a breaker opens when a receiver answers at once.
func five(then ...time.Duration) []time.Duration {
	return append(make([]time.Duration, breakerAfter), then...)
}

// After five failures in a row one probe goes out at a time, at the exact moments of the schedule, whose last
// wait repeats; then the rest flows, and all is as if nothing had been.
func TestBreaker(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for _, jitter := range []struct{ share, u float64 }{{0, 0.9}, {0.1, 0}, {0.1, math.Nextafter(1, 0)}, {0.5, 0.25}} {
		var f faulty
		vary := func(d time.Duration) time.Duration {
			return time.Duration(float64(d) * (1 + jitter.share*(2*jitter.u-1)))
		}
		o := Options{
			Sender: sendFunc(f.send), Rand: func() float64 { return jitter.u },
			Defaults: Defaults{Jitter: jitter.share, Schedule: mustSchedule(t, "5s,1m,10m")},
		}
		inBubble(t, o, func(t *testing.T, b *bench) {
			f.start = time.Now()
			start := f.start
			b.subscribe(nth(1))
			b.q.add(nth(1), 100)
			synctest.Wait()
			want := five()
			at := time.Duration(0)
			waits := []time.Duration{5 * time.Second, minute, 10 * minute, 10 * minute, 10 * minute}
			for i, wait := range waits {
				wait = vary(wait)
				s := b.Status(nth(1))
				if s.Breaker != BreakerOpen || s.Failures != len(want) || !s.Since.Equal(start) || !s.FailingSince.Equal(start) ||
					!s.ProbeAt.Equal(start.Add(at+wait).Truncate(time.Millisecond)) || s.Window != 1 {
					t.Errorf("before probe %d the status is %+v", i, s)
				}
				h := b.sub(nth(1)).Health
				if h.Failures != len(want) || h.Probes != i || !h.OpenedAt.Equal(start) || !h.ProbeAt.Equal(s.ProbeAt) || !h.FailingSince.Equal(start) {
					t.Errorf("before probe %d the store has %+v", i, h)
				}
				if n := b.updates(); n != i+1 {
					t.Errorf("before probe %d: %d updates of the store", i, n)
				}
				if i == len(waits)-1 {
					f.mended.Store(true)
				}
				time.Sleep(wait - 1)
				synctest.Wait()
				if got := f.times(); len(got) != len(want) {
					t.Fatalf("before probe %d: attempts at %v", i, got[len(want):])
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				at += wait
				want = append(want, at)
			}
			got := f.times()
			if !slices.Equal(got[:len(want)], want) {
				t.Errorf("attempts at %v, want %v", got[:len(want)], want)
			}
			if got[len(got)-1] != at || len(got) < 100 {
				t.Errorf("%d attempts, the last at %v: the rest did not flow at %v", len(got), got[len(got)-1], at)
			}
			if h := b.sub(nth(1)).Health; h != (store.Health{}) {
				t.Errorf("in the end the store has %+v", h)
			}
			if s := b.Status(nth(1)); s.Breaker != BreakerClosed || s.Failures != 0 || s.ProbeAt != (time.Time{}) {
				t.Errorf("in the end the status is %+v", s)
			}
			if n := b.updates(); n != len(waits)+1 {
				t.Errorf("%d updates of the store", n)
			}
			if u := b.sub(nth(1)).UpdatedAt; !u.IsZero() {
				t.Errorf("the subscription seems updated at %v", u)
			}
			time.Sleep(3 * trimEvery)
			if b.knownLanes() != 0 {
				t.Error("the lane is still remembered")
			}
		})
	}
}

// The first success opens the lane to one more with each success, not to all that waits.
func TestRampUp(t *testing.T) {
	t.Parallel()
	var f faulty
	var g gauge
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if f.mended.Load() {
			return takes(time.Second/2)(ctx, sub, p)
		}
		return f.send(ctx, sub, p)
	}
	o := Options{Sender: g.wrap(send), Defaults: Defaults{Schedule: mustSchedule(t, "10s"), MaxConcurrency: 20}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.q.add(nth(1), 1000)
		synctest.Wait()
		f.mended.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := b.Status(nth(1)); s.Breaker != BreakerHalfOpen || s.InFlight != 1 {
			t.Errorf("the probe: %+v", s)
		}
		for _, want := range []int{1, 2, 4, 8, 16, 20, 20} {
			if now, _ := g.of(nth(1)); now != want {
				t.Errorf("%d under way, want %d", now, want)
			}
			time.Sleep(time.Second / 2)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
	})
}

// What the receiver cannot take whatever the moment, or has only too much of at once, opens no breaker, and
// does not close one either.
func TestBreakerCountsFailuresOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		out  queue.Outcome
		open bool
	}{
		"500":           {queue.Outcome{Class: queue.ClassRetry, Status: 500}, true},
		"timeout":       {queue.Outcome{Class: queue.ClassRetry}, true},
		"401":           {queue.Outcome{Class: queue.ClassMisconfigured, Status: 401}, true},
		"413 for one":   {queue.Outcome{Class: queue.ClassRetry, Status: 413}, true},
		"of a new kind": {queue.Outcome{Class: "unheard of"}, true},
		"rejected":      {queue.Outcome{Class: queue.ClassRejected, Status: 400}, false},
	} {
		send := func(context.Context, *store.Subscription, queue.Push) queue.Outcome { return c.out }
		inBubble(t, Options{Sender: sendFunc(send), Defaults: Defaults{Schedule: mustSchedule(t, "1h")}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1))
			b.q.add(nth(1), 20)
			synctest.Wait()
			if open := b.Status(nth(1)).Breaker == BreakerOpen; open != c.open {
				t.Errorf("%s: open is %t", name, open)
			}
			if n := b.locked(func() int { return b.open }); (n == 1) != c.open {
				t.Errorf("%s: %d breakers are counted", name, n)
			}
		})
	}
}

// Four failures between successes are no outage: nothing is written, nothing waits.
func TestFlappingReceiverCostsNoWrites(t *testing.T) {
	t.Parallel()
	n := 0
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if n++; n%5 != 0 {
			return failed(ctx, sub, p)
		}
		return delivered(ctx, sub, p)
	}
	inBubble(t, Options{Sender: sendFunc(send), Defaults: Defaults{Schedule: mustSchedule(t, "1s,1s,1s,1s,1s,1s,1s,1s"), MaxConcurrency: 1}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.q.add(nth(1), 200)
		time.Sleep(time.Minute)
		synctest.Wait()
		if u := b.updates(); u != 0 {
			t.Errorf("%d updates of the store", u)
		}
		if b.Status(nth(1)).Breaker == BreakerOpen {
			t.Error("the breaker is open")
		}
	})
}

// A probe waits as long as the receiver asks for; a lane whose breaker is closed rests as well.
func TestRetryAfterHoldsTheLane(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		asked, probe time.Duration
	}{{0, 10 * time.Second}, {9 * time.Second, 10 * time.Second}, {time.Minute, time.Minute}, {1 << 62, MaxRetryAfter}} {
		var f faulty
		inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "10s,10s")}}, func(t *testing.T, b *bench) {
			f.start = time.Now()
			b.subscribe(nth(1))
			b.q.add(nth(1), breakerAfter-1)
			synctest.Wait()
			f.retryAfter.Store(int64(c.asked))
			b.q.add(nth(1), 1)
			synctest.Wait()
			b.q.add(nth(1), 5)
			time.Sleep(c.probe - 1)
			synctest.Wait()
			if got := f.times(); !slices.Equal(got, five()) {
				t.Errorf("asked for %v: attempts at %v", c.asked, got)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if got := f.times(); !slices.Equal(got, five(c.probe)) {
				t.Errorf("asked for %v: attempts at %v", c.asked, got)
			}
		})
	}
	var f faulty
	f.status.Store(429)
	f.retryAfter.Store(int64(time.Minute))
	inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "1s")}}, func(t *testing.T, b *bench) {
		f.start = time.Now()
		b.subscribe(nth(1))
		b.q.add(nth(1), 100)
		synctest.Wait()
		f.mended.Store(true)
		if s := b.Status(nth(1)); s.Breaker != BreakerClosed || !s.RestUntil.Equal(f.start.Add(time.Minute)) {
			t.Errorf("status %+v", s)
		}
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		if got := f.times(); len(got) != 1 {
			t.Errorf("%d attempts while the receiver rests", len(got))
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		b.q.done(t, 100)
	})
}

// A store that takes no updates stops no lane, is not hammered, and gets the newest state when it works.
func TestHealthWithFailingStore(t *testing.T) {
	t.Parallel()
	var f faulty
	inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "7s,1m,10m")}}, func(t *testing.T, b *bench) {
		f.start = time.Now()
		var tries atomic.Int32
		b.s.updateErr = errors.New("disk on fire")
		b.s.onUpdate = func() { tries.Add(1) }
		b.subscribe(nth(1))
		b.q.add(nth(1), 50)
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if got := f.times(); !slices.Equal(got, five(7*time.Second)) {
			t.Errorf("attempts at %v", got)
		}
		if n := tries.Load(); n < 12 || n > 14 {
			t.Errorf("%d tries in a minute, want one in %v and those of the changes", n, storeDelay)
		}
		b.s.mu.Lock()
		b.s.updateErr = nil
		b.s.mu.Unlock()
		time.Sleep(storeDelay)
		synctest.Wait()
		if h := b.sub(nth(1)).Health; h.Failures != 6 || h.Probes != 1 {
			t.Errorf("the store has %+v", h)
		}
		if log := b.log.String(); strings.Count(log, "operation works again") != 1 {
			t.Errorf("log:\n%s", log)
		}
		f.mended.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.q.done(t, 50)
		if h := b.sub(nth(1)).Health; h != (store.Health{}) {
			t.Errorf("the store has %+v", h)
		}
	})
}

// A store that does not answer at all holds up no other lane.
func TestKeeperHoldsUpNobody(t *testing.T) {
	t.Parallel()
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if sub.ID[15] == 1 {
			return failed(ctx, sub, p)
		}
		return delivered(ctx, sub, p)
	}
	hold := make(chan struct{})
	synctest.Test(t, func(t *testing.T) {
		hold = make(chan struct{})
		b := newBench(t, Options{Sender: sendFunc(send), Workers: 2})
		go func() { b.ended <- b.Run(t.Context()) }()
		b.s.onUpdate = func() { <-hold }
		b.subscribe(nth(1))
		b.subscribe(nth(2))
		b.q.add(nth(1), 20)
		synctest.Wait()
		other := b.q.add(nth(2), 20)
		synctest.Wait()
		for _, it := range other {
			if !it.done {
				t.Fatal("a delivery of another lane waits for the store")
			}
		}
		close(hold)
		b.stop(t)
	})
}

// What Configure changes holds for open breakers as well: the schedule with the next probe, the last probe
// at once.
func TestConfigureWhileOpen(t *testing.T) {
	t.Parallel()
	var f faulty
	inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "1m,10h")}}, func(t *testing.T, b *bench) {
		f.start = time.Now()
		b.subscribe(nth(1))
		b.q.add(nth(1), 50)
		synctest.Wait()
		if err := b.Configure(Defaults{Schedule: mustSchedule(t, "1s,5m,10h")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Minute)
		synctest.Wait()
		if got := f.times(); !slices.Equal(got, five(time.Minute, 6*time.Minute)) {
			t.Errorf("attempts at %v", got)
		}
		if err := b.Configure(Defaults{Schedule: mustSchedule(t, "10h"), DisableAfter: store.DisableAfter{Duration: time.Hour}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		if got := f.times(); !slices.Equal(got, five(time.Minute, 6*time.Minute, time.Hour)) {
			t.Errorf("attempts at %v", got)
		}
		if s := b.sub(nth(1)); s.State != store.StateDisabled {
			t.Errorf("state %s", s.State)
		}
	})
}

// A person's wish lets a push out at once, in spite of a rest or an open breaker, also of a lane that is not in
// memory; one, if it fails.
func TestNudge(t *testing.T) {
	t.Parallel()
	for _, opens := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var f faulty
			f.start = time.Now()
			f.retryAfter.Store(int64(10 * time.Hour))
			o := Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "5h,5h"), MaxConcurrency: 64}}
			b := newBench(t, o)
			go func() { b.ended <- b.Run(t.Context()) }()
			b.subscribe(nth(1))
			want := []time.Duration{0}
			if opens {
				f.retryAfter.Store(0)
				want = five()
			}
			b.q.add(nth(1), 100)
			time.Sleep(time.Minute)
			for i := range 2 {
				b.Nudge(nth(1))
				synctest.Wait()
				want = append(want, time.Minute+time.Duration(i)*time.Minute)
				time.Sleep(time.Minute)
			}
			synctest.Wait()
			if got := f.times(); !slices.Equal(got, want) {
				t.Errorf("attempts at %v, want %v", got, want)
			}
			b.stop(t)
			if !opens {
				return // a rest is not kept
			}
			again := newBench(t, o)
			again.q.items, again.s.subs = b.q.items, b.s.subs
			go func() { again.ended <- again.Run(t.Context()) }()
			again.Nudge(nth(1))
			again.Nudge(nth(7)) // of none
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if got := f.times(); len(got) != len(want)+1 {
				t.Errorf("attempts at %v", got)
			}
			again.stop(t)
		})
	}
}

func TestBreakerMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var f faulty
	inBubble(t, Options{Sender: sendFunc(f.send), Registerer: reg, Defaults: Defaults{Schedule: mustSchedule(t, "1m")}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.q.add(nth(1), 20)
		time.Sleep(90 * time.Second)
		compare := func(want string, names ...string) {
			t.Helper()
			synctest.Wait()
			if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
				t.Error(err)
			}
		}
		compare(`
			# HELP herald_dispatch_open_breakers Subscriptions whose circuit breaker is open.
			# TYPE herald_dispatch_open_breakers gauge
			herald_dispatch_open_breakers 1
		`, "herald_dispatch_open_breakers")
		f.mended.Store(true)
		time.Sleep(time.Minute)
		compare(`
			# HELP herald_dispatch_breaker_transitions_total Circuit breakers that came to be in a state.
			# TYPE herald_dispatch_breaker_transitions_total counter
			herald_dispatch_breaker_transitions_total{to="closed"} 1
			herald_dispatch_breaker_transitions_total{to="half-open"} 2
			herald_dispatch_breaker_transitions_total{to="open"} 2
			# HELP herald_dispatch_health_writes_total Updates of what the store knows about failing receivers.
			# TYPE herald_dispatch_health_writes_total counter
			herald_dispatch_health_writes_total 3
			# HELP herald_dispatch_open_breakers Subscriptions whose circuit breaker is open.
			# TYPE herald_dispatch_open_breakers gauge
			herald_dispatch_open_breakers 0
			# HELP herald_dispatch_probes_total Probes of open circuit breakers, by whether they succeeded.
			# TYPE herald_dispatch_probes_total counter
			herald_dispatch_probes_total{outcome="failed"} 1
			herald_dispatch_probes_total{outcome="succeeded"} 1
		`, "herald_dispatch_open_breakers", "herald_dispatch_breaker_transitions_total", "herald_dispatch_probes_total", "herald_dispatch_health_writes_total")
	})
}

// Very many open breakers are a heap and one timer: no goroutine each, and little memory.
func TestManyOpenBreakers(t *testing.T) {
	const n = 100_000
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Sender: sendFunc(failed), Defaults: Defaults{Schedule: mustSchedule(t, "1h"), DisableAfter: store.DisableAfter{Duration: 100 * time.Hour}}})
		policy := b.defaults.Load()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		now := time.Now()
		sub := &store.Subscription{State: store.StateActive}
		b.mu.Lock()
		for i := range n {
			id := queue.Lane{13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}
			l := &lane{id: id, window: 1}
			b.lanes[id] = l
			l.policy = b.policyOf(sub, policy)
			for range breakerAfter {
				b.failure(l, false, time.Duration(i), now)
			}
		}
		for _, l := range b.unstored {
			l.trouble.queued, l.trouble.dirty = false, false
		}
		b.unstored = nil
		b.mu.Unlock()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if each := float64(after.HeapAlloc-before.HeapAlloc) / n; each > 1500 {
			t.Errorf("%.0f bytes each", each)
		} else {
			t.Logf("%.0f bytes each", each)
		}
		if len(b.alarms) != 0 { // nothing is due: nobody has asked for room yet, but a warning is ahead
			if len(b.alarms) != n {
				t.Errorf("%d alarms", len(b.alarms))
			}
		}
		for id := range b.lanes {
			if r := b.room(id); r.Pushes != 0 {
				t.Fatal("room while open")
			}
		}
		if len(b.alarms) != n || !slices.IsSortedFunc(b.alarms[:1], func(x, y *lane) int { return int(x.alarm - y.alarm) }) {
			t.Errorf("%d alarms", len(b.alarms))
		}
	})
}
