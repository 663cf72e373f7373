package dispatch

import (
	"context"
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

func ofDevices(sub *store.Subscription) {
	sub.Role, sub.ImplementationID, sub.DataCallbackURL = store.RoleDevices, "shop", ""
	sub.Delivery.DisableAfter = store.DisableAfter{Set: true}
}

// provider answers with what it is set to.
type provider struct {
	calls
	out atomic.Pointer[queue.Outcome]
}

func (p *provider) answer(out queue.Outcome) { p.out.Store(&out) }

func (p *provider) send(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
	return p.wrap(func(context.Context, *store.Subscription, queue.Push) queue.Outcome { return *p.out.Load() })(ctx, sub, push)
}

var refusedKey = queue.Outcome{Class: queue.ClassMisconfigured, Status: 403, Error: "InvalidProviderToken"}

// A platform whose credentials are refused is suspended at the first word of it: one attempt each 15 minutes, nothing is given up, and all
// flows when they are taken again. Events and the metric tell.
func TestSuspension(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var f provider
	var p press
	f.answer(refusedKey)
	o := Options{Sender: sendFunc(f.send), Publish: p.publish, Registerer: reg, Defaults: Defaults{Schedule: mustSchedule(t, "5s")}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		f.start = time.Now()
		b.subscribe(nth(byte(store.LaneIOS)), ofDevices)
		lane := nth(byte(store.LaneIOS))
		b.q.add(lane, 30)
		synctest.Wait()
		suspended := func() float64 {
			t.Helper()
			n, err := testutil.GatherAndCount(reg, "herald_dispatch_suspended_platforms")
			if err != nil || n != 1 {
				t.Fatalf("metric: %d, %v", n, err)
			}
			return float64(b.locked(func() int { return b.barred }))
		}
		if got := len(f.times()); got != 1 || suspended() != 1 {
			t.Fatalf("%d attempts, %v suspended", got, suspended())
		}
		for probe := range 12 {
			h := b.sub(lane).Health
			if h.Suspended != "InvalidProviderToken" || !h.OpenedAt.Equal(f.start) || !h.ProbeAt.Equal(f.start.Add(time.Duration(probe+1)*15*time.Minute)) {
				t.Fatalf("before probe %d the store has %+v", probe+1, h)
			}
			time.Sleep(15*time.Minute - 1)
			synctest.Wait()
			if got := len(f.times()); got != probe+1 {
				t.Fatalf("before probe %d there were %d attempts", probe+1, got)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
		}
		if s := b.Status(lane); s.Breaker != BreakerOpen || s.Failures != 13 {
			t.Errorf("status %+v", s)
		}
		f.answer(queue.Outcome{Class: queue.ClassDelivered, Status: 200})
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		b.q.done(t, 30)
		if suspended() != 0 || b.sub(lane).Health != (store.Health{}) {
			t.Errorf("afterwards %v suspended, the store has %+v", suspended(), b.sub(lane).Health)
		}
		if len(p.all) != 2 || p.all[0].kind != TypeSuspended || p.all[1].kind != TypeResumed {
			t.Fatalf("published %+v", p.all)
		}
		for _, part := range []string{`"implementationId":"shop"`, `"platform":"ios"`, `"state":"suspended"`, `"reason":"InvalidProviderToken"`} {
			if !strings.Contains(p.all[0].text, part) {
				t.Errorf("%s is not in %s", part, p.all[0].text)
			}
		}
	})
}

// Other credentials have it flow at once; so does a restart not.
func TestSuspensionEndsWithOtherCredentials(t *testing.T) {
	t.Parallel()
	var f provider
	f.answer(refusedKey)
	inBubble(t, Options{Sender: sendFunc(f.send)}, func(t *testing.T, b *bench) {
		lane := nth(byte(store.LaneAndroid))
		b.subscribe(lane, ofDevices, func(s *store.Subscription) {
			s.Health = store.Health{FailingSince: time.Now(), OpenedAt: time.Now(), ProbeAt: time.Now().Add(10 * time.Minute), Failures: 1, Suspended: "refused before"}
		})
		b.q.add(lane, 3)
		synctest.Wait()
		if got := len(f.times()); got != 0 {
			t.Fatalf("%d attempts after a start while suspended", got)
		}
		f.answer(queue.Outcome{Class: queue.ClassDelivered})
		b.change(lane, func(s *store.Subscription) { s.Health = store.Health{} })
		synctest.Wait()
		b.q.done(t, 3)
		if n := b.locked(func() int { return b.barred + b.open }); n != 0 {
			t.Errorf("%d counted as suspended or open", n)
		}
	})
}

// What is one device's matter is no failure of the lane, and waits for itself alone.
func TestInnocentOutcomes(t *testing.T) {
	t.Parallel()
	var f provider
	for name, out := range map[string]queue.Outcome{
		"throttled": {Class: queue.ClassRetry, Status: 429, Innocent: true, Wait: time.Minute},
		"dead":      {Class: queue.ClassGone, Status: 410, Reason: "unregistered"},
		"refused":   {Class: queue.ClassRejected, Status: 400},
	} {
		f.answer(out)
		inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "5s,5s")}}, func(t *testing.T, b *bench) {
			lane := nth(byte(store.LaneAndroid))
			b.subscribe(lane, ofDevices)
			b.q.add(lane, 20)
			start := time.Now()
			synctest.Wait()
			if s := b.Status(lane); s.Breaker != BreakerClosed || s.Failures != 0 || !s.RestUntil.IsZero() {
				t.Errorf("%s: status %+v", name, s)
			}
			if sub := b.sub(lane); sub.State != store.StateActive {
				t.Errorf("%s: the lane is %s", name, sub.State)
			}
			b.q.mu.Lock()
			defer b.q.mu.Unlock()
			for _, it := range b.q.items {
				switch last := it.last; {
				case out.Class == queue.ClassRetry && (last.State != queue.StateRetrying || !last.Due.Equal(start.Add(time.Minute))):
					t.Errorf("%s: settled as %+v", name, last)
				case out.Class == queue.ClassGone && (last.State != queue.StateDead || last.Reason != "unregistered"):
					t.Errorf("%s: settled as %+v", name, last)
				case out.Class == queue.ClassRejected && (last.State != queue.StateDead || last.Reason != queue.ReasonRejected):
					t.Errorf("%s: settled as %+v", name, last)
				}
				it.done = true
			}
		})
	}
}

// Settling hears of each settlement of a notification, before the queue does.
func TestSettling(t *testing.T) {
	t.Parallel()
	var f provider
	f.answer(queue.Outcome{Class: queue.ClassDelivered})
	heard := 0
	var b *bench
	o := Options{Sender: sendFunc(f.send), Settling: func(_ context.Context, sub *store.Subscription, e *queue.Event, s *queue.Settlement, out *queue.Outcome) {
		if sub.Role != store.RoleDevices || e == nil || s.State != queue.StateDelivered || out.Class != queue.ClassDelivered {
			t.Errorf("heard of %+v, %+v", s, out)
		}
		b.q.mu.Lock()
		defer b.q.mu.Unlock()
		if len(b.q.settled) != heard {
			t.Errorf("the queue has heard of %d settlements, before this of %d", len(b.q.settled), heard)
		}
		heard++
	}}
	inBubble(t, o, func(t *testing.T, made *bench) {
		b = made
		b.subscribe(nth(1), ofDevices, func(s *store.Subscription) { s.Delivery.MaxConcurrency = 1 })
		b.subscribe(nth(2))
		b.q.add(nth(1), 5)
		synctest.Wait()
		b.q.done(t, 5)
		b.q.add(nth(2), 5)
		synctest.Wait()
		if heard != 5 {
			t.Errorf("heard of %d", heard)
		}
	})
}

// A provider that asks for a pause gets it for all of the platform, also from the daemon that is started again meanwhile.
func TestProviderPause(t *testing.T) {
	t.Parallel()
	var f provider
	f.answer(queue.Outcome{Class: queue.ClassRetry, Status: 429, RetryAfter: 10 * time.Minute})
	inBubble(t, Options{Sender: sendFunc(f.send), Defaults: Defaults{Schedule: mustSchedule(t, "5s,5s,5s")}}, func(t *testing.T, b *bench) {
		lane := nth(byte(store.LaneAndroid))
		b.subscribe(lane, ofDevices)
		b.q.add(lane, 10)
		start := time.Now()
		synctest.Wait()
		if h := b.sub(lane).Health; len(f.times()) != 1 || !h.ProbeAt.Equal(start.Add(10*time.Minute)) || h.Suspended != "" {
			t.Fatalf("%d attempts, the store has %+v", len(f.times()), h)
		}
		time.Sleep(10*time.Minute - 1)
		synctest.Wait()
		if got := len(f.times()); got != 1 {
			t.Fatalf("%d attempts in the pause", got)
		}
		f.answer(queue.Outcome{Class: queue.ClassDelivered})
		time.Sleep(time.Minute)
		synctest.Wait()
		b.q.done(t, 10)
	})
}

// Where a refusal is doubtful the sender says when to ask again.
func TestDoubtfulSuspension(t *testing.T) {
	t.Parallel()
	var f provider
	doubtful := refusedKey
	doubtful.Wait = 30 * time.Second
	f.answer(doubtful)
	inBubble(t, Options{Sender: sendFunc(f.send)}, func(t *testing.T, b *bench) {
		lane := nth(byte(store.LaneWebFCM))
		b.subscribe(lane, ofDevices)
		b.q.add(lane, 10)
		synctest.Wait()
		time.Sleep(30*time.Second - 1)
		synctest.Wait()
		if got := len(f.times()); got != 1 {
			t.Fatalf("%d attempts", got)
		}
		f.answer(queue.Outcome{Class: queue.ClassDelivered})
		time.Sleep(time.Second)
		synctest.Wait()
		b.q.done(t, 10)
	})
}
