package dispatch

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

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
			if s.State != want.state || s.Reason != want.reason || s.Delivery != it.Delivery {
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
			if n := len(b.q.settled); n != 1 || b.q.settled[0].Attempt != nil || b.q.settled[0].State != queue.StatePending {
				t.Errorf("%s: %d settlements %+v, want that one delivery was given back", state, n, b.q.settled)
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
		b.q.done(t, 1)
		b.q.mu.Lock()
		if s := b.q.settled[0]; s.State != queue.StateDiscarded || s.Reason != queue.ReasonUnsubscribed || s.Attempt != nil {
			t.Errorf("settled %+v", s)
		}
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
				t.Errorf("delivery %d had attempt %d", it.Delivery.Seq, it.last.Attempt.Number)
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
			var once sync.Once
			b.s.afterRead = func(*store.Subscription) {
				once.Do(func() { close(read); <-goOn })
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

// gauge counts how many calls are under way, per subscription and in all.
type gauge struct {
	mu       sync.Mutex
	now, max map[store.SubscriptionID]int
	all, top int
}

func (g *gauge) wrap(f sendFunc) sendFunc {
	g.now, g.max = make(map[store.SubscriptionID]int), make(map[store.SubscriptionID]int)
	return func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		g.mu.Lock()
		g.now[sub.ID]++
		g.all++
		g.max[sub.ID], g.top = max(g.max[sub.ID], g.now[sub.ID]), max(g.top, g.all)
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			g.now[sub.ID]--
			g.all--
			g.mu.Unlock()
		}()
		return f(ctx, sub, p)
	}
}

func (g *gauge) of(l queue.Lane) (now, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now[store.SubscriptionID(l)], g.max[store.SubscriptionID(l)]
}

func takes(d time.Duration) sendFunc {
	return func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		select {
		case <-ctx.Done():
			return queue.Outcome{Class: queue.ClassRetry, Error: "the receiver did not answer"}
		case <-time.After(d):
			return delivered(ctx, sub, p)
		}
	}
}

// after is a delay that a test can change while its sender runs.
type after struct{ atomic.Int64 }

func (a *after) send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	if d := time.Duration(a.Load()); d > 0 {
		return takes(d)(ctx, sub, p)
	}
	return delivered(ctx, sub, p)
}

// The limit of a subscription holds, is used in full, and costs no time.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ own, byDefault, want int }{{3, 5, 3}, {0, 5, 5}, {1, 5, 1}, {200, 5, 34}} {
		var g gauge
		var delay after
		inBubble(t, Options{Sender: g.wrap(delay.send), Workers: 100, Defaults: Defaults{MaxConcurrency: c.byDefault}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), func(s *store.Subscription) { s.Delivery.MaxConcurrency = c.own })
			b.warm(t, nth(1))
			delay.Store(int64(time.Second))
			const n = 150
			b.q.add(nth(1), n)
			time.Sleep(time.Duration((n+c.want-1)/c.want)*time.Second - 1)
			synctest.Wait()
			if now, most := g.of(nth(1)); now == 0 || most != c.want {
				t.Errorf("%+v: at most %d at once, %d still", c, most, now)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			b.q.done(t, b.workers+100+n)
		})
	}
}

// The window of a lane opens with successes, closes when answers fail to come, and stays as it is when
// the receiver is quick to refuse.
func TestWindow(t *testing.T) {
	t.Parallel()
	l := &lane{window: 1}
	for _, c := range []struct {
		out  queue.Outcome
		want int
	}{
		{queue.Outcome{Class: queue.ClassDelivered, Status: 200}, 2},
		{queue.Outcome{Class: queue.ClassDelivered, Status: 200}, 3},
		{queue.Outcome{Class: queue.ClassRetry, Status: 500}, 3},
		{queue.Outcome{Class: queue.ClassRejected, Status: 400}, 3},
		{queue.Outcome{Class: queue.ClassDelivered, Status: 200}, 4},
		{queue.Outcome{Class: queue.ClassDelivered, Status: 200}, 5},
		{queue.Outcome{Class: queue.ClassDelivered, Status: 200}, 5},
		{queue.Outcome{Class: queue.ClassRetry, Status: 503}, 2},
		{queue.Outcome{Class: queue.ClassRetry}, 1},
		{queue.Outcome{Class: queue.ClassRetry}, 1},
		{queue.Outcome{Class: queue.ClassDelivered, Status: 200}, 2},
		{queue.Outcome{Class: queue.ClassRetry, Status: 429}, 1},
	} {
		if l.learn(&c.out, 5); l.window != c.want {
			t.Errorf("after %+v the window is %d, want %d", c.out, l.window, c.want)
		}
	}
}

// A receiver that hangs comes to hold a single worker, and gets all it may have when it works again.
func TestHangingLaneIsProbed(t *testing.T) {
	t.Parallel()
	var g gauge
	var delay after
	inBubble(t, Options{Sender: g.wrap(delay.send), Defaults: Defaults{Timeout: 10 * time.Second}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.warm(t, nth(1))
		delay.Store(int64(time.Hour))
		b.q.add(nth(1), 1000)
		synctest.Wait()
		if now, _ := g.of(nth(1)); now != 64 {
			t.Errorf("%d under way when it begins to hang, want 64", now)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if now, _ := g.of(nth(1)); now != 1 {
			t.Errorf("%d under way when it hangs, want 1", now)
		}
		delay.Store(int64(time.Millisecond))
		time.Sleep(6 * time.Second)
		synctest.Wait()
		delay.Store(int64(time.Minute))
		b.q.add(nth(1), 1000)
		synctest.Wait()
		if now, _ := g.of(nth(1)); now != 64 {
			t.Errorf("%d under way when it has recovered, want 64", now)
		}
	})
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	var g gauge
	var delay after
	inBubble(t, Options{Sender: g.wrap(delay.send), Defaults: Defaults{MaxConcurrency: 7, Timeout: time.Hour}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.warm(t, nth(1))
		if err := b.Configure(Defaults{MaxConcurrency: 2, Timeout: time.Hour}); err != nil {
			t.Fatal(err)
		}
		delay.Store(int64(time.Minute))
		b.q.add(nth(1), 20)
		synctest.Wait()
		if now, _ := g.of(nth(1)); now != 2 {
			t.Errorf("%d at once, want 2", now)
		}
		if err := b.Configure(Defaults{Jitter: 7}); err == nil {
			t.Error("a jitter of 7 is accepted")
		}
		if err := b.Configure(Defaults{MaxConcurrency: 7, Timeout: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if now, _ := g.of(nth(1)); now != 7 {
			t.Errorf("%d at once after Configure, want 7", now)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		b.q.mu.Lock()
		defer b.q.mu.Unlock()
		late := 0
		for _, s := range b.q.settled {
			if s.State == queue.StateRetrying {
				late++
			}
		}
		if late != 5 {
			t.Errorf("%d attempts timed out by the new timeout, want the 5 that began under it", late)
		}
	})
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ own, byDefault, want time.Duration }{
		{0, 0, 15 * time.Second}, {0, time.Second, time.Second}, {time.Minute, time.Second, time.Minute},
	} {
		var got time.Duration
		send := func(ctx context.Context, _ *store.Subscription, _ queue.Push) queue.Outcome {
			deadline, _ := ctx.Deadline()
			got = time.Until(deadline)
			return queue.Outcome{Class: queue.ClassDelivered}
		}
		inBubble(t, Options{Sender: sendFunc(send), Defaults: Defaults{Timeout: c.byDefault}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), func(s *store.Subscription) { s.Delivery.Timeout = c.own })
			b.q.add(nth(1), 1)
			synctest.Wait()
			if got != c.want {
				t.Errorf("%+v: deadline after %v", c, got)
			}
		})
	}
}

// However many receivers hang, with however much queued, another gets its pushes at once.
func TestIsolation(t *testing.T) {
	t.Parallel()
	for _, hanging := range []int{1, 2, 5, 12} {
		var slow [256]bool
		var c calls
		c.start = time.Now()
		send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
			if slow[sub.ID[15]] {
				return takes(time.Hour)(ctx, sub, p)
			}
			return c.wrap(delivered)(ctx, sub, p)
		}
		inBubble(t, Options{Sender: sendFunc(send), Workers: 16, Defaults: Defaults{Timeout: 15 * time.Second}}, func(t *testing.T, b *bench) {
			for i := range hanging {
				slow[i] = true
				b.subscribe(nth(byte(i)))
				b.q.add(nth(byte(i)), 100)
			}
			b.subscribe(nth(200))
			for range 40 {
				time.Sleep(777 * time.Millisecond)
				synctest.Wait()
				now := time.Now()
				before := len(c.times())
				b.q.add(nth(200), 10)
				synctest.Wait()
				if n := len(c.times()) - before; n != 10 || !time.Now().Equal(now) {
					t.Fatalf("%d hanging: %d of 10 pushes went out at once", hanging, n)
				}
			}
		})
	}
}

// A lane gets no more than half of what it leaves free, so that what many get falls with their number.
func TestFairShare(t *testing.T) {
	t.Parallel()
	var g gauge
	var delay after
	inBubble(t, Options{Sender: g.wrap(delay.send), Workers: 64, Defaults: Defaults{Timeout: time.Hour, MaxConcurrency: 64}}, func(t *testing.T, b *bench) {
		for i := range byte(10) {
			b.subscribe(nth(i))
			b.warm(t, nth(i))
		}
		delay.Store(int64(time.Hour))
		for i := range byte(10) {
			b.q.add(nth(i), 100)
			synctest.Wait()
			now, _ := g.of(nth(i))
			free := b.freeWorkers()
			if now < 1 || i == 0 && now != 22 || now > free/2+1 {
				t.Errorf("lane %d holds %d, %d are free", i, now, free)
			}
		}
	})
}

// The same when they all come at once, in one Claim.
func TestFairShareInOneClaim(t *testing.T) {
	t.Parallel()
	var delay after
	inBubble(t, Options{Sender: sendFunc(delay.send), Workers: 64, Defaults: Defaults{Timeout: time.Hour, MaxConcurrency: 64}}, func(t *testing.T, b *bench) {
		for i := range byte(5) {
			b.subscribe(nth(i))
			b.warm(t, nth(i))
		}
		delay.Store(int64(time.Hour))
		b.q.mu.Lock() // until all is there
		signal := b.q.signal
		b.q.signal = make(chan struct{}, 1)
		b.q.mu.Unlock()
		for i := range byte(5) {
			b.q.add(nth(i), 100)
		}
		b.q.mu.Lock()
		b.q.signal = signal
		b.q.mu.Unlock()
		b.q.notify()
		synctest.Wait()
		if free := b.freeWorkers(); free < 8 {
			t.Errorf("%d of 64 workers are free for another lane", free)
		}
	})
}

// A lane that was refused workers for the sake of others gets them when those are done, though none of
// its own attempts ends.
func TestShareIsGivenBack(t *testing.T) {
	t.Parallel()
	var g gauge
	var delay after
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if sub.ID[15] == 9 && delay.Load() > 0 {
			return takes(time.Hour)(ctx, sub, p)
		}
		return delay.send(ctx, sub, p)
	}
	inBubble(t, Options{Sender: g.wrap(send), Workers: 32, Defaults: Defaults{Timeout: time.Hour}}, func(t *testing.T, b *bench) {
		for _, i := range []byte{0, 1, 2, 3, 4, 5, 6, 7, 9} {
			b.subscribe(nth(i))
			b.warm(t, nth(i))
		}
		delay.Store(int64(time.Second))
		for i := range byte(8) {
			b.q.add(nth(i), 20)
		}
		synctest.Wait()
		b.q.add(nth(9), 100)
		time.Sleep(time.Second)
		synctest.Wait()
		if now, _ := g.of(nth(9)); now < 1 || now > 8 {
			t.Errorf("%d under way among busy lanes", now)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if now, _ := g.of(nth(9)); now != 11 {
			t.Errorf("%d under way alone, want 11", now)
		}
	})
}

func TestWorkersAreBounded(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2, 3, 10} {
		var g gauge
		inBubble(t, Options{Sender: g.wrap(takes(time.Second)), Workers: workers}, func(t *testing.T, b *bench) {
			for i := range byte(20) {
				b.subscribe(nth(i))
				b.q.add(nth(i), 5)
			}
			time.Sleep(101 * time.Second)
			synctest.Wait()
			b.q.done(t, 100)
			if g.top != workers {
				t.Errorf("%d attempts at once with %d workers", g.top, workers)
			}
			time.Sleep(2 * trimEvery)
			synctest.Wait()
			if b.knownLanes() != 0 {
				t.Errorf("%d idle lanes are remembered", b.knownLanes())
			}
		})
	}
}

// Workers are reused, and let go when they are not needed for long.
func TestWorkersAreTrimmed(t *testing.T) {
	t.Parallel()
	var delay after
	inBubble(t, Options{Sender: sendFunc(delay.send), Workers: 200}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.warm(t, nth(1))
		delay.Store(int64(time.Second / 2))
		b.q.add(nth(1), 40)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := b.idleWorkers(); n < 40 {
			t.Errorf("%d idle workers, want 40", n)
		}
		for range 45 {
			b.q.add(nth(1), 5)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := b.idleWorkers(); n != 5 {
			t.Errorf("%d idle workers, want the 5 in use", n)
		}
		time.Sleep(2 * trimEvery)
		synctest.Wait()
		if n := b.idleWorkers(); n != 0 {
			t.Errorf("%d idle workers, want none", n)
		}
	})
}

// A queue that leases more than it may is put right: the limit holds all the same.
func TestGreedyQueue(t *testing.T) {
	t.Parallel()
	var g gauge
	b := (*bench)(nil)
	inBubble(t, Options{Sender: g.wrap(takes(time.Second)), Workers: 10, Defaults: Defaults{MaxConcurrency: 2}}, func(t *testing.T, with *bench) {
		b = with
		b.q.greedy = true
		b.subscribe(nth(1))
		b.q.add(nth(1), 8)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		b.q.done(t, 8)
		if _, most := g.of(nth(1)); most > 2 {
			t.Errorf("%d at once, want 2", most)
		}
	})
}

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
		if it := b.q.items[3]; it.leased || !it.last.Delivery.IsZero() {
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
			for _, w := range append(want, "subscription="+id, "delivery="+it.Delivery.String(), "event=evt_1", "duration_ms=") {
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
				# HELP herald_dispatch_attempts_total Attempts by what they came to.
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
				# HELP herald_dispatch_disabled_total Subscriptions disabled because their receiver is gone.
				# TYPE herald_dispatch_disabled_total counter
				herald_dispatch_disabled_total 1
			`},
			{"herald_dispatch_workers", `
				# HELP herald_dispatch_workers How many deliveries may be in hand at once.
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
