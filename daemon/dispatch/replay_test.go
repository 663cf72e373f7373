package dispatch_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/dispatch"
	"herald/queue"
	"herald/store"
)

// replayRig is a house whose sender notes what goes out.
type replayRig struct {
	*house
	t    *testing.T
	mu   sync.Mutex
	sent []sentPush
	fail func(p queue.Push) bool
	slow time.Duration
}

type sentPush struct {
	at     time.Time
	id     string
	n      int
	replay bool
}

func newReplayRig(t *testing.T) *replayRig {
	t.Helper()
	r := &replayRig{t: t}
	r.house = build(t, dispatch.Options{Sender: sendFunc(func(_ context.Context, _ *store.Subscription, p queue.Push) queue.Outcome {
		r.mu.Lock()
		r.sent = append(r.sent, sentPush{time.Now(), p.Events[0].ID, len(p.Events), p.Replay})
		failed, slow := r.fail != nil && r.fail(p), r.slow
		r.mu.Unlock()
		time.Sleep(slow)
		if failed {
			return queue.Outcome{Class: queue.ClassRetry, Status: 500, Error: "the receiver answered 500"}
		}
		return queue.Outcome{Class: queue.ClassDelivered, Status: 204}
	})})
	return r
}

// replay starts a replay of all there is.
func (r *replayRig) replay(sub *store.Subscription, rate float64) {
	r.t.Helper()
	_, err := r.queue.StartReplay(r.t.Context(), queue.Replay{
		Lane: queue.Lane(sub.ID), AccountID: sub.AccountID, Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Second), Rate: rate,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.d.Replayed()
}

// taken are the pushes since the last call.
func (r *replayRig) taken() []sentPush {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.sent
	r.sent = nil
	return list
}

func (r *replayRig) state(sub *store.Subscription) queue.Replay {
	r.t.Helper()
	list := r.queue.Replays(queue.Lane(sub.ID))
	return list[len(list)-1]
}

func (r *replayRig) change(sub *store.Subscription, change func(*store.Subscription)) {
	r.t.Helper()
	if _, err := r.store.UpdateSubscription(r.t.Context(), sub.ID, func(s *store.Subscription) error { change(s); return nil }); err != nil {
		r.t.Fatal(err)
	}
	r.d.Changed(queue.Lane(sub.ID))
}

// Each replayed delivery goes at its moment: the rate holds from the first on, whatever it is, and no second sees more.
func TestReplayRate(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0.5, 7, 100, 1000, 3000} {
		synctest.Test(t, func(t *testing.T) {
			r := newReplayRig(t)
			sub := r.subscribe(t, "https://example.com", nil)
			n := int(min(rate*10, 5000))
			n = max(n, 5)
			for range n / 5 {
				r.publish(t, 5)
			}
			n = n / 5 * 5
			start := time.Now()
			r.replay(sub, rate)
			length := time.Duration(float64(n) / rate * float64(time.Second))
			time.Sleep(length + time.Minute)
			sent := r.taken()
			if len(sent) != n {
				t.Fatalf("at %v a second %d of %d were replayed", rate, len(sent), n)
			}
			if first := sent[0].at.Sub(start); first > 50*time.Millisecond {
				t.Errorf("at %v a second the first came after %v", rate, first)
			}
			every := time.Duration(float64(time.Second) / rate)
			for i, p := range sent {
				// None is early; the commit, and the moments that the queue rounds up to, make it a little late.
				at, due := p.at.Sub(start), time.Duration(i)*every
				if !p.replay || at < due-2*time.Millisecond || at > due+due/10+80*time.Millisecond {
					t.Fatalf("at %v a second number %d came after %v, want %v", rate, i, at, due)
				}
			}
			if s := r.state(sub); s.State != queue.ReplayDone || s.Deliveries != int64(n) {
				t.Errorf("it ended as %+v", s)
			}
			r.stop()
		})
	}
}

// While the subscription is not active nothing is made due, and what becomes of the selection meanwhile holds.
func TestReplayWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		sub := r.subscribe(t, "https://example.com", nil)
		r.publish(t, 300)
		r.replay(sub, 10)
		time.Sleep(5 * time.Second)
		if n := len(r.taken()); n < 48 || n > 52 {
			t.Fatalf("%d went out in 5 s at 10 a second", n)
		}
		r.change(sub, func(s *store.Subscription) { s.State = store.StatePaused })
		time.Sleep(time.Hour)
		if n := len(r.taken()); n > 0 {
			t.Fatalf("%d went out while it was paused", n)
		}
		if s := r.state(sub); s.State != queue.ReplayRunning || s.Deliveries > 150 {
			t.Fatalf("a paused one is made due: %+v", s)
		}
		r.change(sub, func(s *store.Subscription) { s.State = store.StateActive })
		time.Sleep(time.Second)
		if n := len(r.taken()); n == 0 || n > 64 {
			t.Fatalf("%d went out in the first second", n)
		}
		r.change(sub, func(s *store.Subscription) { s.Events = []string{"other.kind"} })
		time.Sleep(time.Hour)
		r.taken()
		if s := r.state(sub); s.State != queue.ReplayDone || s.Deliveries > 150 {
			t.Fatalf("after nothing is selected any more: %+v", s)
		}
		// One that is deleted takes its replays with it.
		r.replay(sub, 10)
		if err := r.store.DeleteSubscription(t.Context(), "", sub.ID); err != nil {
			t.Fatal(err)
		}
		r.d.Changed(queue.Lane(sub.ID))
		time.Sleep(time.Minute)
		if list := r.queue.Replaying(); len(list) != 0 {
			t.Errorf("%d lanes have replays", len(list))
		}
		r.stop()
	})
}

// A receiver that fails opens the breaker: the replay then waits with what it has made due, and goes on when a probe succeeds.
func TestReplayBehindTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		sub := r.subscribe(t, "https://example.com", func(s *store.Subscription) { s.Delivery.RetrySchedule = "1m 1m 1m 1m 1m" })
		r.publish(t, 1000)
		r.fail = func(queue.Push) bool { return true }
		r.replay(sub, 100_000)
		time.Sleep(2 * time.Minute)
		if n := len(r.taken()); n > 80 {
			t.Fatalf("%d pushes went to a receiver that fails", n)
		}
		if s := r.state(sub); s.Deliveries > 200 {
			t.Fatalf("%d were made due of a receiver that fails", s.Deliveries)
		}
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		time.Sleep(10 * time.Minute)
		r.taken()
		if s := r.state(sub); s.State != queue.ReplayDone || s.Deliveries != 1000 {
			t.Errorf("it ended as %+v", s)
		}
		if got := len(r.deliveries(t, queue.Lane(sub.ID), queue.StateDelivered)); got != 1000 {
			t.Errorf("%d were delivered", got)
		}
		r.stop()
	})
}

// Once all is due, what takes its time is waited for: it is not asked for without end, for which no time would pass here.
func TestReplayToASlowReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		sub := r.subscribe(t, "https://example.com", func(s *store.Subscription) { s.Delivery.MaxConcurrency = 2 })
		r.publish(t, 20)
		r.slow = 12 * time.Second
		r.replay(sub, 100_000)
		time.Sleep(10 * time.Minute)
		if n := len(r.taken()); n != 20 {
			t.Errorf("%d of 20 were replayed", n)
		}
		if s := r.state(sub); s.State != queue.ReplayDone || s.EndedAt.Sub(s.CreatedAt) > 250*time.Second {
			t.Errorf("it ended as %+v", s)
		}
		r.stop()
	})
}

// What is new goes before the replay, with a receiver that is slow and takes one at a time.
func TestReplayBehindLiveTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		sub := r.subscribe(t, "https://example.com", func(s *store.Subscription) { s.Delivery.MaxConcurrency = 1 })
		r.publish(t, 500)
		r.slow = 10 * time.Millisecond
		r.replay(sub, 100_000)
		time.Sleep(time.Second)
		r.taken()
		at := time.Now()
		r.publish(t, 20, queue.Lane(sub.ID))
		time.Sleep(250 * time.Millisecond)
		live := 0
		for _, p := range r.taken() {
			if !p.replay {
				live++
			} else if live > 0 && live < 20 && p.at.Sub(at) > 15*time.Millisecond {
				t.Fatalf("a replayed push went out after %v, with %d of 20 live ones", p.at.Sub(at), live)
			}
		}
		if live != 20 {
			t.Errorf("%d of 20 live pushes came within 250 ms", live)
		}
		time.Sleep(time.Minute)
		if s := r.state(sub); s.State != queue.ReplayDone {
			t.Errorf("it is %+v", s)
		}
		r.stop()
	})
}

// With several records in a push they go together, and in the order of acceptance.
func TestReplayOfBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		sub := r.subscribe(t, "https://example.com", func(s *store.Subscription) { s.NumberOfRecords = 100; s.Delivery.Ordering = store.OrderStrict })
		r.publish(t, 2000)
		r.replay(sub, 100_000)
		time.Sleep(time.Minute)
		sent := r.taken()
		records := 0
		for _, p := range sent {
			records += p.n
		}
		if records != 2000 || len(sent) > 25 || !slices.IsSortedFunc(sent, func(a, b sentPush) int { return a.at.Compare(b.at) }) {
			t.Errorf("%d records went out in %d pushes", records, len(sent))
		}
		r.stop()
	})
}

// The rate limit of a subscription holds for batches that a replay makes, too, and live events find a place between them.
func TestReplayOfBatchesAtARateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		sub := r.subscribe(t, "https://example.com", func(s *store.Subscription) { s.NumberOfRecords = 100; s.Delivery.RateLimit = 20 })
		r.publish(t, 600)
		start := time.Now()
		r.replay(sub, 1000)
		time.Sleep(5500 * time.Millisecond)
		records := 0
		for _, p := range r.taken() {
			if records += p.n; p.n > 20 {
				t.Errorf("a push of %d records went out at 20 a second", p.n)
			}
			if most := 40 + int(p.at.Sub(start).Seconds()*20); records > most {
				t.Errorf("%d records after %v (%d)", records, p.at.Sub(start), p.n)
			}
		}
		at := time.Now()
		r.publish(t, 1, queue.Lane(sub.ID))
		time.Sleep(5 * time.Second)
		i := slices.IndexFunc(r.taken(), func(p sentPush) bool { return !p.replay })
		if i < 0 || i > 2 {
			t.Errorf("a live event came as push %d after %v", i, at)
		}
		r.stop()
	})
}

// Many subscriptions replay side by side, each at its own rate.
func TestReplaysOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplayRig(t)
		r.publish(t, 50)
		var subs []*store.Subscription
		for range 100 {
			sub := r.subscribe(t, "https://example.com", nil)
			subs = append(subs, sub)
			r.replay(sub, 10)
		}
		time.Sleep(7 * time.Second)
		if n := len(r.taken()); n != 100*50 {
			t.Errorf("%d of 5000 were replayed", n)
		}
		for _, sub := range subs {
			if s := r.state(sub); s.State != queue.ReplayDone {
				t.Fatalf("one is %+v", s)
			}
		}
		r.stop()
	})
}
