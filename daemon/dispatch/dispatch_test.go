package dispatch

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
	"herald/store"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := func() Options {
		return Options{Queue: newFakeQueue(), Store: &fakeStore{}, Sender: sendFunc(delivered)}
	}
	for name, change := range map[string]func(*Options){
		"no queue":             func(o *Options) { o.Queue = nil },
		"no store":             func(o *Options) { o.Store = nil },
		"no sender":            func(o *Options) { o.Sender = nil },
		"negative workers":     func(o *Options) { o.Workers = -1 },
		"too many workers":     func(o *Options) { o.Workers = MaxWorkers + 1 },
		"negative grace":       func(o *Options) { o.Grace = -1 },
		"negative timeout":     func(o *Options) { o.Defaults.Timeout = -1 },
		"long timeout":         func(o *Options) { o.Defaults.Timeout = MaxTimeout + 1 },
		"negative jitter":      func(o *Options) { o.Defaults.Jitter = -0.1 },
		"large jitter":         func(o *Options) { o.Defaults.Jitter = 0.51 },
		"jitter not a number":  func(o *Options) { o.Defaults.Jitter = math.NaN() },
		"negative concurrency": func(o *Options) { o.Defaults.MaxConcurrency = -1 },
	} {
		o := good()
		change(&o)
		if d, err := New(o); err == nil || d != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	o := good()
	o.Registerer = prometheus.NewRegistry()
	if _, err := New(o); err != nil {
		t.Fatal(err)
	}
	if _, err := New(o); err == nil {
		t.Error("metrics were registered twice")
	}
}

// Each retry of each schedule comes at its exact instant, counted from the end of the failed attempt.
func TestSchedules(t *testing.T) {
	t.Parallel()
	const took = 3 * time.Second
	for _, text := range append(queue.ScheduleNames(), "1s", "5s,5m", "10m,1s,720h") {
		for _, jitter := range []struct{ share, u float64 }{{0, 0.7}, {0.1, 0}, {0.1, 0.5}, {0.1, math.Nextafter(1, 0)}, {0.5, 0}, {0.5, math.Nextafter(1, 0)}} {
			for _, own := range []bool{false, true} {
				schedule := mustSchedule(t, text)
				defaults := Defaults{Schedule: schedule, Jitter: jitter.share}
				var change func(*store.Subscription)
				if own {
					defaults.Schedule = mustSchedule(t, "7s,7s")
					change = func(s *store.Subscription) { s.Delivery.RetrySchedule = text }
				} else {
					change = func(*store.Subscription) {}
				}
				var c calls
				send := c.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
					time.Sleep(took)
					return failed(ctx, sub, p)
				})
				o := Options{Sender: send, Defaults: defaults, Rand: func() float64 { return jitter.u }}
				inBubble(t, o, func(t *testing.T, b *bench) {
					c.start = time.Now()
					b.subscribe(nth(1), change)
					it := b.q.add(nth(1), 1)[0]
					want := []time.Duration{0}
					for _, wait := range schedule.Waits() {
						varied := time.Duration(float64(wait) * (1 + jitter.share*(2*jitter.u-1)))
						want = append(want, want[len(want)-1]+took+varied)
					}
					time.Sleep(want[len(want)-1] + time.Hour)
					synctest.Wait()
					if got := c.times(); !slices.Equal(got, want) {
						t.Errorf("%s, jitter %v: attempts at %v, want %v", text, jitter, got, want)
					}
					last := it.last
					if !it.done || last.State != queue.StateDead || last.Reason != queue.ReasonExhausted || last.Attempt.Number != len(want) {
						t.Errorf("%s: ended with %+v", text, last)
					}
				})
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		asked, want time.Duration
	}{
		{0, time.Minute},
		{-time.Hour, time.Minute},
		{time.Second, time.Minute},
		{time.Minute + 1, time.Minute + 1},
		{2 * time.Hour, 2 * time.Hour},
		{MaxRetryAfter, MaxRetryAfter},
		{MaxRetryAfter + 1, MaxRetryAfter},
		{math.MaxInt64, MaxRetryAfter},
	} {
		var calls calls
		send := calls.wrap(func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
			return queue.Outcome{Class: queue.ClassRetry, Status: 503, RetryAfter: c.asked}
		})
		inBubble(t, Options{Sender: send, Defaults: Defaults{Schedule: mustSchedule(t, "1m"), Jitter: 0.1}}, func(t *testing.T, b *bench) {
			calls.start = time.Now()
			b.subscribe(nth(1))
			it := b.q.add(nth(1), 1)[0]
			time.Sleep(100 * time.Hour)
			synctest.Wait()
			if got := calls.times(); !slices.Equal(got, []time.Duration{0, c.want}) {
				t.Errorf("asked for %v: attempts at %v, want the second at %v", c.asked, got, c.want)
			}
			if it.last.State != queue.StateDead {
				t.Errorf("asked for %v: ended %+v", c.asked, it.last)
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for class, want := range map[queue.Class]struct {
		state  queue.State
		reason string
		after  time.Duration
	}{
		queue.ClassDelivered:     {queue.StateDelivered, "", 0},
		queue.ClassRetry:         {queue.StateRetrying, "", time.Minute},
		queue.ClassRejected:      {queue.StateDead, queue.ReasonRejected, 0},
		queue.ClassGone:          {queue.StateRetrying, "", 0},
		queue.ClassMisconfigured: {queue.StateRetrying, "", time.Minute},
		"unheard of":             {queue.StateRetrying, "", time.Minute},
	} {
		started := time.Date(2026, 1, 2, 3, 4, 5, 6_789_012, time.FixedZone("", 3600))
		send := func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
			return queue.Outcome{
				Class: class, Status: 418, Error: strings.Repeat("ä", 300), Response: make([]byte, queue.MaxResponse+1),
				StartedAt: started, Duration: 1234567,
			}
		}
		inBubble(t, Options{Sender: sendFunc(send), Defaults: Defaults{Schedule: mustSchedule(t, "1m")}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1))
			it := b.q.add(nth(1), 1)[0]
			now := time.Now()
			synctest.Wait()
			b.q.mu.Lock()
			defer b.q.mu.Unlock()
			s := b.q.settled[0]
			if s.State != want.state || s.Reason != want.reason || s.Deliveries[0] != it.Deliveries[0] {
				t.Errorf("%s: settled %+v", class, s)
			}
			if s.State == queue.StateRetrying && !s.Due.Equal(now.Add(want.after)) {
				t.Errorf("%s: due after %v, want %v", class, s.Due.Sub(now), want.after)
			}
			a := s.Attempt
			if a.Number != 1 || a.Class != class || a.Status != 418 || len(a.Response) != queue.MaxResponse ||
				a.Error != strings.Repeat("ä", 256) || a.Duration != 1234*time.Microsecond ||
				!a.StartedAt.Equal(started.Truncate(time.Millisecond)) || a.StartedAt.Location() != time.UTC {
				t.Errorf("%s: attempt %+v", class, a)
			}
		})
	}
}

// A 410 stops the subscription; its deliveries wait until a person enables it, and then flow.
func TestGone(t *testing.T) {
	t.Parallel()
	gone := true
	var c calls
	send := c.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if gone {
			return queue.Outcome{Class: queue.ClassGone, Status: 410}
		}
		return delivered(ctx, sub, p)
	})
	inBubble(t, Options{Sender: send}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.q.add(nth(1), 5)
		synctest.Wait()
		sub := b.s.subs[store.SubscriptionID(nth(1))]
		if sub.State != store.StateDisabled || sub.StateReason != store.ReasonGone || !sub.StateSince.Equal(time.Now()) || !sub.UpdatedAt.Equal(time.Now()) {
			t.Errorf("subscription is %+v", sub)
		}
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		if n := len(c.times()); n != 1 {
			t.Errorf("%d attempts were made, want 1", n)
		}
		b.q.done(t, 0)
		gone = false
		b.subscribe(nth(1))
		b.Changed(nth(1))
		synctest.Wait()
		b.q.done(t, 5)
	})
}

// Once the receiver is gone, an attempt that was about to start does not.
func TestNothingStartsAfterGone(t *testing.T) {
	t.Parallel()
	var warm atomic.Bool
	var read, goOn chan struct{}
	var c calls
	send := c.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if warm.Load() {
			return delivered(ctx, sub, p)
		}
		<-read
		return queue.Outcome{Class: queue.ClassGone, Status: 410}
	})
	warm.Store(true)
	synctest.Test(t, func(t *testing.T) {
		read, goOn = make(chan struct{}), make(chan struct{})
		b := newBench(t, Options{Sender: send})
		go func() { b.ended <- b.Run(t.Context()) }()
		synctest.Wait()
		b.subscribe(nth(1))
		b.warm(t, nth(1))
		before := len(c.times())
		warm.Store(false)
		reads := 0
		b.s.mu.Lock()
		b.s.afterRead = func(*store.Subscription) {
			b.s.mu.Lock()
			reads++
			second := reads == 2
			b.s.mu.Unlock()
			if second {
				close(read)
				<-goOn
			}
		}
		b.s.mu.Unlock()
		b.q.add(nth(1), 2)
		synctest.Wait()
		close(goOn)
		synctest.Wait()
		if n := len(c.times()) - before; n != 1 {
			t.Errorf("%d attempts were made, want 1", n)
		}
		b.stop(t)
	})
}

// A 410 says nothing about an address that the owner has set since, or about what the owner stopped.
func TestGoneOfAnotherAddress(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*store.Subscription){
		"moved":  func(s *store.Subscription) { s.DataCallbackURL = "https://example.net/" },
		"paused": func(s *store.Subscription) { s.State = store.StatePaused },
	} {
		first := true
		var b *bench
		send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
			if first {
				first = false
				b.subscribe(nth(1), change)
				b.Changed(nth(1))
				return queue.Outcome{Class: queue.ClassGone, Status: 410}
			}
			return delivered(ctx, sub, p)
		}
		inBubble(t, Options{Sender: sendFunc(send)}, func(t *testing.T, with *bench) {
			b = with
			b.subscribe(nth(1))
			b.q.add(nth(1), 1)
			synctest.Wait()
			if s := b.s.subs[store.SubscriptionID(nth(1))].State; s == store.StateDisabled {
				t.Errorf("%s: disabled", name)
			}
			if name == "moved" {
				b.q.done(t, 1)
			} else {
				b.q.done(t, 0)
			}
		})
	}
}

func TestGoneWithFailingStore(t *testing.T) {
	t.Parallel()
	var c calls
	send := c.wrap(func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
		return queue.Outcome{Class: queue.ClassGone, Status: 410}
	})
	inBubble(t, Options{Sender: send}, func(t *testing.T, b *bench) {
		c.start = time.Now()
		b.s.updateErr = errors.New("disk on fire")
		b.subscribe(nth(1))
		b.q.add(nth(1), 1)
		time.Sleep(2 * storeDelay)
		synctest.Wait()
		if got, want := c.times(), []time.Duration{0, storeDelay, 2 * storeDelay}; !slices.Equal(got, want) {
			t.Errorf("attempts at %v, want %v", got, want)
		}
		b.s.mu.Lock()
		b.s.updateErr = nil
		b.s.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(c.times()); n != 4 {
			t.Errorf("%d attempts, want 4", n)
		}
		if log := b.log.String(); strings.Count(log, "disk on fire") != 1 || strings.Count(log, "operation works again") != 1 {
			t.Errorf("log:\n%s", log)
		}
	})
}
