package dispatch

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"herald/queue"
	"herald/store"
)

// When Run is told to end, nothing new starts; what is under way may finish within the grace, and what
// does not is given back without being counted.
func TestShutdown(t *testing.T) {
	t.Parallel()
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		return takes(time.Duration(sub.ID[15])*time.Second)(ctx, sub, p)
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Sender: sendFunc(send), Grace: 10 * time.Second, Defaults: Defaults{Timeout: time.Minute}})
		go func() { b.ended <- b.Run(t.Context()) }()
		synctest.Wait()
		for _, i := range []byte{5, 20} {
			b.subscribe(nth(i))
			b.q.add(nth(i), 1)
		}
		b.subscribe(nth(30), inState(store.StatePaused))
		b.q.add(nth(30), 1)
		synctest.Wait()
		start := time.Now()
		b.cancel()
		synctest.Wait()
		b.subscribe(nth(1))
		b.q.add(nth(1), 1)
		b.Changed(nth(30))
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("ended after %v, want the grace", took)
		}
		b.checkIdle(t)
		b.q.done(t, 1)
		if it := b.q.items[0]; it.last.State != queue.StateDelivered {
			t.Errorf("the one within the grace: %+v", it.last)
		}
		if it := b.q.items[1]; it.last.State != queue.StatePending || it.last.Attempt != nil || it.leased {
			t.Errorf("the one beyond the grace: %+v", it.last)
		}
		if it := b.q.items[3]; it.leased || len(it.last.Deliveries) != 0 {
			t.Errorf("the one after the end: %+v", it.last)
		}
		if err := b.Run(t.Context()); err == nil {
			t.Error("Run runs twice")
		}
	})
}

// With nothing under way the end is at once; a rest of a lane does not hold it up and leaves no timer.
func TestShutdownWhenIdle(t *testing.T) {
	t.Parallel()
	inBubble(t, Options{Sender: sendFunc(delivered)}, func(t *testing.T, b *bench) {
		b.s.readErr = errors.New("disk on fire")
		b.q.add(nth(1), 1)
		synctest.Wait()
		start := time.Now()
		b.stop(t)
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		wakes := b.q.wakes
		time.Sleep(2 * storeDelay)
		synctest.Wait()
		if b.q.wakes != wakes {
			t.Error("a timer went off after the end")
		}
		b.ended <- nil
	})
}

func TestClaimFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Sender: sendFunc(delivered)})
		b.q.failing = queue.ErrClosed
		if err := b.Run(t.Context()); !errors.Is(err, queue.ErrClosed) {
			t.Errorf("Run: %v, want that the queue is closed", err)
		}
	})
}

// P10, P11: what is sent is the subscription of the moment, also for a delivery that waited.
func TestNewestSubscriptionIsUsed(t *testing.T) {
	t.Parallel()
	var c calls
	n := 0
	send := c.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if n++; n < 3 {
			return failed(ctx, sub, p)
		}
		return delivered(ctx, sub, p)
	})
	inBubble(t, Options{Sender: send}, func(t *testing.T, b *bench) {
		for _, token := range []string{"a", "b", "c"} {
			b.subscribe(nth(1), func(s *store.Subscription) { s.Authentication.Token = token })
			if token == "a" {
				b.q.add(nth(1), 1)
			} else {
				b.Changed(nth(1))
				time.Sleep(5 * time.Minute)
			}
			synctest.Wait()
		}
		for i, token := range []string{"a", "b", "c"} {
			if got := c.subs[i].Authentication.Token; got != token {
				t.Errorf("attempt %d was sent with %s, want %s", i+1, got, token)
			}
		}
		b.q.done(t, 1)
	})
}

func TestInvalidOwnSchedule(t *testing.T) {
	t.Parallel()
	inBubble(t, Options{Sender: sendFunc(failed), Defaults: Defaults{Schedule: mustSchedule(t, "1m")}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1), func(s *store.Subscription) { s.Delivery.RetrySchedule = "never" })
		it := b.q.add(nth(1), 1)[0]
		synctest.Wait()
		if it.last.State != queue.StateRetrying || !it.last.Due.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("settled %+v", it.last)
		}
	})
}

// One line an attempt, with what it came to, and without anything secret.
func TestLog(t *testing.T) {
	t.Parallel()
	n := 0
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if n++; n == 1 {
			return failed(ctx, sub, p)
		}
		return delivered(ctx, sub, p)
	}
	inBubble(t, Options{Sender: sendFunc(send), Defaults: Defaults{Schedule: mustSchedule(t, "1m")}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		it := b.q.add(nth(1), 1)[0]
		time.Sleep(time.Hour)
		log := b.log.String()
		lines := strings.Split(strings.TrimSpace(log), "\n")
		if len(lines) != 2 {
			t.Fatalf("log:\n%s", log)
		}
		id := store.SubscriptionID(nth(1)).String()
		for i, want := range [][]string{
			{"level=INFO", "msg=attempt", "attempt=1", "outcome=retry", "status=500", `error="the receiver answered 500`, "next=2000-01-01T00:01:00"},
			{"level=DEBUG", "msg=attempt", "attempt=2", "outcome=delivered", "status=204", "next=delivered"},
		} {
			for _, w := range append(want, "subscription="+id, "delivery="+it.Delivery(0).String(), "event=evt_1", "duration_ms=", "account=", "type=", "host=") {
				if !strings.Contains(lines[i], w) {
					t.Errorf("line %q lacks %s", lines[i], w)
				}
			}
		}
		if strings.Contains(log, "secret") {
			t.Errorf("log tells a secret:\n%s", log)
		}
	})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var classes []queue.Class
	send := func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
		c := classes[0]
		classes = classes[1:]
		return queue.Outcome{Class: c, Duration: time.Millisecond, StartedAt: time.Now()}
	}
	inBubble(t, Options{Sender: sendFunc(send), Registerer: reg, Workers: 77, Defaults: Defaults{Schedule: mustSchedule(t, "1m"), MaxConcurrency: 1}}, func(t *testing.T, b *bench) {
		problems, err := testutil.GatherAndLint(reg)
		if err != nil || len(problems) > 0 {
			t.Errorf("lint: %v %v", problems, err)
		}
		classes = []queue.Class{queue.ClassDelivered, queue.ClassRejected, queue.ClassMisconfigured, queue.ClassRetry, queue.ClassGone}
		b.subscribe(nth(1))
		b.q.add(nth(1), 4)
		time.Sleep(time.Hour)
		synctest.Wait()
		for _, w := range []struct {
			name string
			want string
		}{
			{"herald_dispatch_attempts_total", `
				# HELP herald_dispatch_attempts_total Pushes by what they came to.
				# TYPE herald_dispatch_attempts_total counter
				herald_dispatch_attempts_total{outcome="delivered"} 1
				herald_dispatch_attempts_total{outcome="gone"} 1
				herald_dispatch_attempts_total{outcome="misconfigured"} 1
				herald_dispatch_attempts_total{outcome="rejected"} 1
				herald_dispatch_attempts_total{outcome="retry"} 1
			`},
			{"herald_dispatch_dead_total", `
				# HELP herald_dispatch_dead_total Deliveries given up, by reason.
				# TYPE herald_dispatch_dead_total counter
				herald_dispatch_dead_total{reason="exhausted"} 0
				herald_dispatch_dead_total{reason="rejected"} 1
			`},
			{"herald_dispatch_disabled_total", `
				# HELP herald_dispatch_disabled_total Subscriptions disabled, by reason.
				# TYPE herald_dispatch_disabled_total counter
				herald_dispatch_disabled_total{reason="failing"} 0
				herald_dispatch_disabled_total{reason="failures"} 0
				herald_dispatch_disabled_total{reason="gone"} 1
			`},
			{"herald_dispatch_workers", `
				# HELP herald_dispatch_workers How many pushes may be in hand at once.
				# TYPE herald_dispatch_workers gauge
				herald_dispatch_workers 77
			`},
			{"herald_dispatch_held_lanes", `
				# HELP herald_dispatch_held_lanes Subscriptions that are held: paused, disabled, or resting after a failure of the store.
				# TYPE herald_dispatch_held_lanes gauge
				herald_dispatch_held_lanes 1
			`},
		} {
			if err := testutil.GatherAndCompare(reg, strings.NewReader(w.want), w.name); err != nil {
				t.Error(err)
			}
		}
	})
}
