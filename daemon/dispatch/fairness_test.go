package dispatch

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

func wide(n int) queue.Lane {
	var l queue.Lane
	binary.BigEndian.PutUint32(l[12:], uint32(n))
	return l
}

// crowd is a dispatcher with very many lanes that hang, and a receiver of another that answers at once.
type crowd struct {
	hanging [3]atomic.Int64 // now, by round of subscribing
	good    atomic.Int64    // delivered by the others
	mended  atomic.Bool
	most    atomic.Int64
}

const firstGood = 1 << 20

func (c *crowd) send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	n := binary.BigEndian.Uint32(sub.ID[12:])
	if n >= firstGood || c.mended.Load() {
		c.good.Add(1)
		return delivered(ctx, sub, p)
	}
	now := c.hanging[0].Add(1)
	if now > c.most.Load() {
		c.most.Store(now)
	}
	defer c.hanging[0].Add(-1)
	return takes(time.Hour)(ctx, sub, p)
}

// Beside 2,000 subscriptions that hang, with 512 workers, a healthy one's pushes start at once, at any time:
// one that works, and one that is new; and those that hang are all tried.
func TestManyHangingLanes(t *testing.T) {
	t.Parallel()
	const lanes, workers = 2000, 512
	var c crowd
	tried := make(map[store.SubscriptionID]bool)
	var mu sync.Mutex
	send := func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		mu.Lock()
		tried[sub.ID] = true
		mu.Unlock()
		return c.send(ctx, sub, p)
	}
	o := Options{Sender: sendFunc(send), Workers: workers, Defaults: Defaults{Timeout: 15 * time.Second, Schedule: mustSchedule(t, "1s,1s,1s,1s,1s,1s,1s,1s,1s,1s")}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		b.subscribe(wide(firstGood))
		b.q.add(wide(firstGood), 3)
		synctest.Wait()
		for i := range lanes {
			b.subscribe(wide(i))
			b.q.add(wide(i), 2)
		}
		want, fresh := int64(3), firstGood
		for step := range 140 {
			time.Sleep(1777 * time.Millisecond)
			synctest.Wait()
			now := time.Now()
			b.q.add(wide(firstGood), 3)
			want += 3
			synctest.Wait()
			if got := c.good.Load(); got != want || !time.Now().Equal(now) {
				t.Fatalf("step %d: %d pushes of the healthy lane went out, want %d", step, got, want)
			}
			if step >= 100 { // each of them has been tried once, and is known for what it is
				fresh++
				b.subscribe(wide(fresh))
				b.q.add(wide(fresh), 1)
				want++
				synctest.Wait()
				if got := c.good.Load(); got != want {
					t.Fatalf("step %d: a new lane waits", step)
				}
			}
			b.mu.Lock()
			if b.busy.suspect > workers-workers/8 || b.busy.failed > workers/2 || b.busy.failed > b.busy.suspect || b.busy.suspect > b.inFlight {
				t.Errorf("step %d: %+v of %d", step, b.busy, b.inFlight)
			}
			b.mu.Unlock()
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		mu.Lock()
		if n := len(tried); n != lanes+fresh-firstGood+1 {
			t.Errorf("%d lanes were tried", n)
		}
		mu.Unlock()
		if most := c.most.Load(); most > workers-workers/8 || most < workers/2 {
			t.Errorf("%d were under way at most", most)
		}
		c.mended.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		b.q.mu.Lock()
		for _, it := range b.q.items {
			if !it.done {
				t.Fatalf("delivery %d was left behind: %+v", it.Deliveries[0].Seq, it.last)
			}
		}
		b.q.mu.Unlock()
		if n := b.locked(func() int { return b.busy.failed + b.busy.suspect + b.open }); n != 0 {
			t.Errorf("%d are counted in the end", n)
		}
	})
}

// Receivers that are slow but steady may together have three quarters, and no lane is left behind.
func TestSlowLanesShare(t *testing.T) {
	t.Parallel()
	var g gauge
	inBubble(t, Options{Sender: g.wrap(takes(2 * time.Second)), Workers: 16}, func(t *testing.T, b *bench) {
		for i := range 40 {
			b.subscribe(wide(i))
			b.q.add(wide(i), 10)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		b.q.done(t, 400)
		if g.top < 12 || g.top > 14 {
			t.Errorf("%d at once", g.top)
		}
	})
}

// A lane that waits for a batch to fill keeps no workers from others.
func TestWaitingBatchKeepsNoWorkers(t *testing.T) {
	t.Parallel()
	var g gauge
	inBubble(t, Options{Sender: g.wrap(takes(100 * time.Millisecond)), Workers: 4}, func(t *testing.T, b *bench) {
		for i := range 10 {
			b.subscribe(wide(i), batches(100, time.Hour))
			b.q.add(wide(i), 1)
		}
		synctest.Wait()
		b.subscribe(wide(100))
		b.q.add(wide(100), 20)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		b.q.done(t, 20)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		b.q.done(t, 30)
	})
}

// Lanes that wait for their kind's share come all when nothing of it is in use, also when those before them
// have nothing to do any more.
func TestNoLaneIsLeftBehind(t *testing.T) {
	t.Parallel()
	d := newBench(t, Options{Sender: sendFunc(delivered), Workers: 8}).Dispatcher
	p := d.policyOf(&store.Subscription{State: store.StateActive}, d.defaults.Load())
	for i := range 20 {
		l := &lane{id: wide(i), window: 1, policy: p, refused: true, held: i < 19}
		d.enqueue(l)
	}
	d.unstarve(nil)
	if len(d.toWake) != 1 || d.toWake[0] != wide(19) {
		t.Errorf("%d lanes come", len(d.toWake))
	}
}
