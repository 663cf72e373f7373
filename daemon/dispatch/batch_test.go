package dispatch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

func batches(n int, wait time.Duration) func(*store.Subscription) {
	return func(s *store.Subscription) { s.NumberOfRecords, s.MaxWait = n, wait }
}

// pushes records what is sent.
type pushes struct {
	mu    sync.Mutex
	start time.Time
	all   []sent
}

type sent struct {
	at      time.Duration
	id      string
	attempt int
	events  []string
}

func (p *pushes) wrap(f sendFunc) sendFunc {
	return func(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
		x := sent{at: time.Since(p.start), id: push.ID, attempt: push.Attempt}
		for _, e := range push.Events {
			x.events = append(x.events, e.ID)
		}
		p.mu.Lock()
		p.all = append(p.all, x)
		p.mu.Unlock()
		return f(ctx, sub, push)
	}
}

func (p *pushes) list() []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

func (p *pushes) sizes() []int {
	var n []int
	for _, x := range p.list() {
		n = append(n, len(x.events))
	}
	return n
}

// The id of a batch says what it holds: the same for the same deliveries, today and tomorrow, another for
// others.
func TestBatchID(t *testing.T) {
	t.Parallel()
	claim := func(lane byte, seqs ...uint64) *queue.Claim {
		c := &queue.Claim{Lane: nth(lane)}
		for _, s := range seqs {
			c.Deliveries = append(c.Deliveries, queue.Leased{Seq: s})
		}
		return c
	}
	if got := batchID(claim(7, 1, 2, 3)); got != "bat_oelg2cula3jmusefl8qnhknbhc" {
		t.Errorf("the id is %s, and was another", got)
	}
	seen := make(map[string]string)
	for _, c := range []*queue.Claim{claim(1, 1), claim(2, 1), claim(1, 2), claim(1, 1, 2), claim(1, 2, 1), claim(1, 1, 2, 3), claim(1, 0x0102), claim(1)} {
		id := batchID(c)
		text := fmt.Sprint(c.Lane, c.Deliveries)
		if other := seen[id]; other != "" || len(id) != 30 || id != strings.ToLower(id) || id != batchID(c) {
			t.Errorf("%s has the id %s, like %s", text, id, other)
		}
		seen[id] = text
	}
}

// A batch is sent in the form of many, tried again as the same batch with the same id, also after a restart,
// and makes one attempt of each of its deliveries.
func TestBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p pushes
		n := 0
		send := p.wrap(func(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
			if n++; n <= 3 {
				return failed(ctx, sub, push)
			}
			return delivered(ctx, sub, push)
		})
		o := Options{Sender: send, Defaults: Defaults{Schedule: mustSchedule(t, "10s,10s,10s")}}
		b := newBench(t, o)
		p.start = time.Now()
		go func() { b.ended <- b.Run(t.Context()) }()
		b.subscribe(nth(1), batches(4, time.Second))
		b.q.add(nth(1), 10)
		time.Sleep(15 * time.Second)
		b.stop(t)
		again := newBench(t, o)
		again.q.items, again.q.batches, again.s.subs = b.q.items, b.q.batches, b.s.subs
		go func() { again.ended <- again.Run(t.Context()) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		all := p.list()
		want := []sent{
			{0, all[0].id, 1, []string{"evt_1", "evt_2", "evt_3", "evt_4"}},
			{0, all[1].id, 1, []string{"evt_5", "evt_6", "evt_7", "evt_8"}},
			{time.Second, all[2].id, 1, []string{"evt_9", "evt_10"}},
			{10 * time.Second, all[0].id, 2, []string{"evt_1", "evt_2", "evt_3", "evt_4"}},
			{10 * time.Second, all[1].id, 2, []string{"evt_5", "evt_6", "evt_7", "evt_8"}},
			{11 * time.Second, all[2].id, 2, []string{"evt_9", "evt_10"}},
		}
		if got := fmt.Sprint(all); got != fmt.Sprint(want) {
			t.Errorf("pushes %v, want %v", got, want)
		}
		again.q.done(t, 10)
		for _, it := range again.q.items {
			if it.last.Attempt.Number != 2 || !strings.HasPrefix(all[0].id, "bat_") {
				t.Errorf("delivery %d: %+v", it.Deliveries[0].Seq, it.last)
			}
		}
		again.stop(t)
	})
}

// One record of a subscription that takes one has the id of the event; one that takes more, that of a batch.
func TestPushID(t *testing.T) {
	t.Parallel()
	for records, prefix := range map[int]string{0: "evt_1", 1: "evt_1", 2: "bat_"} {
		var p pushes
		inBubble(t, Options{Sender: p.wrap(delivered)}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), batches(records, 0))
			b.q.add(nth(1), 1)
			synctest.Wait()
			if got := p.list()[0]; !strings.HasPrefix(got.id, prefix) || len(got.events) != 1 {
				t.Errorf("%d records: %+v", records, got)
			}
		})
	}
}

// What room tells the queue is what the subscription asks for.
func TestRoom(t *testing.T) {
	t.Parallel()
	event := &queue.Event{Resource: "project/1", Data: []byte(`{"customer":{"id":7},"n":1}`)}
	same := &queue.Event{Resource: "project/1", Data: []byte(`{"n":2,"customer":{"id":7.0}}`)}
	for name, c := range map[string]struct {
		defaults Defaults
		change   func(*store.Subscription)
		want     queue.Room
		key      bool
	}{
		"plain":            {change: func(*store.Subscription) {}, want: queue.Room{Records: 1}},
		"wait without use": {change: batches(1, time.Minute), want: queue.Room{Records: 1}},
		"batches":          {change: batches(100, 3*time.Second), want: queue.Room{Records: 100, Wait: 3 * time.Second}},
		"limited":          {change: limited(5, 7), want: queue.Room{Records: 1, Total: 7}},
		"strict":           {change: func(s *store.Subscription) { s.Delivery.Ordering = store.OrderStrict }, want: queue.Room{Records: 1, Order: queue.OrderStrict}},
		"strict by default": {
			defaults: Defaults{Ordering: store.OrderStrict}, change: func(s *store.Subscription) { s.Delivery.MaxConcurrency = 9 },
			want: queue.Room{Records: 1, Order: queue.OrderStrict},
		},
		"none in spite of the default": {
			defaults: Defaults{Ordering: store.OrderStrict}, change: func(s *store.Subscription) { s.Delivery.Ordering = store.OrderNone },
			want: queue.Room{Records: 1},
		},
		"by resource": {change: func(s *store.Subscription) { s.Delivery.Ordering = store.OrderKey }, want: queue.Room{Records: 1, Order: queue.OrderKey}, key: true},
		"by a field": {
			change: func(s *store.Subscription) {
				s.Delivery.Ordering, s.Delivery.OrderingKey = store.OrderKey, "customer.id"
			},
			want: queue.Room{Records: 1, Order: queue.OrderKey, KeyID: "customer.id"}, key: true,
		},
	} {
		inBubble(t, Options{Sender: sendFunc(delivered), Defaults: c.defaults}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), c.change)
			b.q.add(nth(1), 1)
			time.Sleep(time.Hour)
			synctest.Wait()
			got := b.q.rooms[nth(1)]
			key := got.Key
			if got.Bytes != maxBatchBytes {
				t.Errorf("%s: %d bytes", name, got.Bytes)
			}
			got.Key, got.Pushes, got.Bytes = nil, 0, 0
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
				t.Errorf("%s: room %+v, want %+v", name, got, c.want)
			}
			if (key != nil) != c.key || key != nil && (key(event) != key(same) || key(event) == key(&queue.Event{Resource: "project/2", Data: []byte(`{"customer":{"id":8}}`)})) {
				t.Errorf("%s: the key is not right", name)
			}
			b.mu.Lock()
			if l := b.lanes[nth(1)]; l != nil && c.want.Order == queue.OrderStrict && l.policy.max != 1 {
				t.Errorf("%s: %d at once", name, l.policy.max)
			}
			b.mu.Unlock()
		})
	}
}

// A batch that is too large is dissolved at once, which is no failure; smaller ones are tried from then on,
// until a change.
func TestBatchTooLarge(t *testing.T) {
	t.Parallel()
	const fits = 10
	var p pushes
	send := p.wrap(func(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
		if len(push.Events) > fits {
			return queue.Outcome{Class: queue.ClassRetry, Status: 413, Error: "too large"}
		}
		return delivered(ctx, sub, push)
	})
	inBubble(t, Options{Sender: send, Defaults: Defaults{MaxConcurrency: 1, DisableAfter: store.DisableAfter{Failures: 1}}}, func(t *testing.T, b *bench) {
		p.start = time.Now()
		b.subscribe(nth(1), batches(100, 0))
		b.q.add(nth(1), 500)
		synctest.Wait()
		b.q.done(t, 500)
		var large []int
		most := 0
		for _, n := range p.sizes() {
			if n > fits {
				large = append(large, n)
			} else {
				most = max(most, n)
			}
		}
		if want := []int{100, 50, 25, 12}; !slices.Equal(large, want) || most != 6 {
			t.Errorf("refused were %v, want %v; taken at most %d", large, want, most)
		}
		if s := b.Status(nth(1)); s.BatchLimit != 6 || s.Failures != 0 || s.Breaker != BreakerClosed {
			t.Errorf("status %+v", s)
		}
		if n := b.updates(); n != 0 {
			t.Errorf("%d updates of the store", n)
		}
		for _, it := range b.q.items {
			if it.last.Attempt.Number > 2 {
				t.Errorf("delivery %d took %d attempts", it.Deliveries[0].Seq, it.last.Attempt.Number)
			}
		}
		for _, s := range b.q.settled {
			if len(s.Deliveries) > fits && (!s.Dissolve || s.State != queue.StateRetrying || !s.Due.Equal(p.start) || s.Attempt == nil) {
				t.Errorf("settled %d with %+v", len(s.Deliveries), s)
			}
		}
		b.change(nth(1), batches(80, 0))
		before := len(p.list())
		b.q.add(nth(1), 80)
		synctest.Wait()
		if n := p.sizes()[before]; n != 80 {
			t.Errorf("after a change the first has %d", n)
		}
	})
}

// What is rejected in a batch is found: the others are delivered, and the next batches are as large as ever.
func TestBatchRejected(t *testing.T) {
	t.Parallel()
	var p pushes
	send := p.wrap(func(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
		if slices.ContainsFunc(push.Events, func(e *queue.Event) bool { return e.ID == "evt_4" }) {
			return queue.Outcome{Class: queue.ClassRejected, Error: "one of them cannot be sent"}
		}
		return delivered(ctx, sub, push)
	})
	inBubble(t, Options{Sender: send, Defaults: Defaults{MaxConcurrency: 1, DisableAfter: store.DisableAfter{Failures: 1}}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1), batches(10, 0))
		b.q.add(nth(1), 20)
		synctest.Wait()
		b.q.done(t, 20)
		for i, it := range b.q.items {
			want, attempts := queue.StateDelivered, 1
			if i < 10 {
				attempts = 2
			}
			if i == 3 {
				want = queue.StateDead
			}
			if it.last.State != want || it.last.Attempt.Number != attempts {
				t.Errorf("delivery %d: %+v", i, it.last)
			}
		}
		if s := b.Status(nth(1)); s.BatchLimit != 0 || s.Failures != 0 || s.Breaker != BreakerClosed {
			t.Errorf("status %+v", s)
		}
	})
}

// A batch that is too large for a probe is neither a failure nor a success: a smaller one goes at once.
func TestProbeTooLarge(t *testing.T) {
	t.Parallel()
	var f faulty
	f.status.Store(500)
	send := func(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
		if f.mended.Load() && len(push.Events) > 3 {
			return queue.Outcome{Class: queue.ClassRetry, Status: 413}
		}
		return f.send(ctx, sub, push)
	}
	inBubble(t, Options{Sender: sendFunc(send), Defaults: Defaults{Schedule: mustSchedule(t, "1m,1m,1m,1m")}}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1), batches(10, 0))
		b.q.add(nth(1), 500)
		synctest.Wait()
		f.mended.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.q.done(t, 500)
		if s := b.Status(nth(1)); s.Breaker != BreakerClosed {
			t.Errorf("status %+v", s)
		}
	})
}

// Deliveries that were claimed together for a subscription that takes fewer by the time of the attempt go one
// by one, and the refusal to send them so is no attempt.
func TestFewerRecordsThanClaimed(t *testing.T) {
	t.Parallel()
	for _, retried := range []bool{false, true} {
		var p pushes
		fail := retried
		send := p.wrap(func(ctx context.Context, sub *store.Subscription, push queue.Push) queue.Outcome {
			if fail {
				return failed(ctx, sub, push)
			}
			return delivered(ctx, sub, push)
		})
		inBubble(t, Options{Sender: send, Defaults: Defaults{Schedule: mustSchedule(t, "1m,1m")}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), batches(10, 0))
			if retried {
				b.q.add(nth(1), 10)
				synctest.Wait()
				fail = false
				b.change(nth(1), batches(1, 0))
			} else {
				var reads atomic.Int32
				b.s.afterRead = func(*store.Subscription) {
					if reads.Add(1) == 2 { // the attempt's: the change comes before it starts
						b.change(nth(1), batches(1, 0))
					}
				}
				b.q.add(nth(1), 10)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			b.q.done(t, 10)
			sizes := p.sizes()
			if retried {
				sizes = sizes[1:]
			}
			if !slices.Equal(sizes, slices.Repeat([]int{1}, 10)) {
				t.Errorf("pushes of %v", sizes)
			}
			for _, it := range b.q.items {
				if n := it.last.Attempt.Number; n != 1 && !retried || n > 2 {
					t.Errorf("delivery %d was counted %d attempts", it.Deliveries[0].Seq, n)
				}
			}
		})
	}
}
