package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

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
			b.settle(nth(1), time.Second)
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

// A receiver that hangs comes to hold a single worker at most, and gets all it may have when it works again.
func TestHangingLaneIsProbed(t *testing.T) {
	t.Parallel()
	var g gauge
	var delay after
	o := Options{Sender: g.wrap(delay.send), Defaults: Defaults{Timeout: 10 * time.Second, Schedule: mustSchedule(t, "5s")}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		b.subscribe(nth(1))
		b.warm(t, nth(1))
		delay.Store(int64(time.Hour))
		b.q.add(nth(1), 1000)
		synctest.Wait()
		if now, _ := g.of(nth(1)); now != 64 {
			t.Errorf("%d under way when it begins to hang, want 64", now)
		}
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{10*time.Second + 1, 0}, {5*time.Second - 2, 0}, {1, 1}, {10*time.Second - 1, 1}, {1, 0}, {5 * time.Second, 1}} {
			time.Sleep(c.after)
			synctest.Wait()
			if now, _ := g.of(nth(1)); now != c.want {
				t.Errorf("%d under way %v later, want %d", now, c.after, c.want)
			}
		}
		delay.Store(0)
		time.Sleep(20 * time.Second)
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
		synctest.Wait()
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
		inBubble(t, Options{Sender: g.wrap(takes(time.Second - 1)), Workers: workers}, func(t *testing.T, b *bench) {
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
