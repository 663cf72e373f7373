package dispatch

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

// fakeQueue leases from memory. It asks room once per lane and Claim, sets lanes aside and keeps due
// times as the contract says; what it does not have panics.
type fakeQueue struct {
	queue.Queue
	mu      sync.Mutex
	signal  chan struct{}
	items   []*item
	aside   map[queue.Lane]bool
	dropped map[queue.Lane]int
	settled []queue.Settlement
	asks    int // how often room was called
	wakes   int
	failing error // of Claim
	dropErr error
	// greedy leases more than room allows.
	greedy bool
}

type item struct {
	queue.Claim
	due          time.Time
	leased, done bool
	last         queue.Settlement
}

func newFakeQueue() *fakeQueue {
	return &fakeQueue{signal: make(chan struct{}, 1), aside: make(map[queue.Lane]bool), dropped: make(map[queue.Lane]int)}
}

func (q *fakeQueue) notify() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// add makes n deliveries of a lane due and returns them.
func (q *fakeQueue) add(lane queue.Lane, n int) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := len(q.items)
	for range n {
		seq := uint64(len(q.items) + 1)
		q.items = append(q.items, &item{
			Claim: queue.Claim{
				Delivery: queue.DeliveryID{Seq: seq, Lane: lane}, Attempt: 1,
				Event: &queue.Event{ID: "evt_" + strconv.FormatUint(seq, 10), AccountID: "default", Data: []byte(`{"secret":"payload"}`)},
			},
			due: time.Now(),
		})
	}
	q.notify()
	return q.items[first:]
}

func (q *fakeQueue) Claim(ctx context.Context, limit int, room func(queue.Lane) queue.Room, dst []queue.Claim) ([]queue.Claim, error) {
	for {
		q.mu.Lock()
		if q.failing != nil {
			q.mu.Unlock()
			return dst, q.failing
		}
		var next time.Time
		asked := make(map[queue.Lane]int)
		start := len(dst)
		for _, it := range q.items {
			lane := it.Lane
			if it.leased || it.done || q.aside[lane] || len(dst)-start == limit {
				continue
			}
			if wait := time.Until(it.due); wait > 0 {
				if next.IsZero() || it.due.Before(next) {
					next = it.due
				}
				continue
			}
			left, ok := asked[lane]
			if !ok {
				q.asks++
				left = room(lane)
			}
			if left <= 0 && !ok {
				q.aside[lane] = true
				continue
			}
			asked[lane] = left - 1
			if left > 0 || q.greedy {
				it.leased = true
				dst = append(dst, it.Claim)
			}
		}
		q.mu.Unlock()
		if len(dst) > start {
			return dst, nil
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return dst, ctx.Err()
		case <-q.signal:
		case <-timer:
		}
	}
}

func (q *fakeQueue) Wake(lanes ...queue.Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakes++
	for _, l := range lanes {
		delete(q.aside, l)
	}
	q.notify()
}

func (q *fakeQueue) Settle(ss ...queue.Settlement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range ss {
		it := q.items[s.Deliveries[0].Seq-1]
		if !it.leased || it.done {
			panic("settled what is not leased")
		}
		q.settled = append(q.settled, s)
		it.leased = false
		it.last = s
		if s.Attempt != nil {
			it.Attempt++
		}
		switch s.State {
		case queue.StatePending:
		case queue.StateRetrying:
			it.due = s.Due
			if s.Attempt != nil {
				it.Retries++
			}
		default:
			it.done = true
		}
	}
	q.notify()
}

func (q *fakeQueue) DropLane(_ context.Context, lane queue.Lane) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropErr != nil {
		return q.dropErr
	}
	q.dropped[lane]++
	for _, it := range q.items {
		if it.Lane == lane && !it.leased {
			it.done = true
		}
	}
	return nil
}

func (q *fakeQueue) done(t *testing.T, want int) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	done := 0
	for _, it := range q.items {
		if it.done {
			done++
		}
		if it.leased {
			t.Errorf("delivery %d is still leased", it.Deliveries[0].Seq)
		}
	}
	if done != want {
		t.Errorf("%d deliveries are done, want %d", done, want)
	}
}

// fakeStore has subscriptions only.
type fakeStore struct {
	store.Store
	mu        sync.Mutex
	subs      map[store.SubscriptionID]*store.Subscription
	readErr   error
	updateErr error
	reads     int
	// afterRead is called with what a read found, before it returns.
	afterRead func(*store.Subscription)
}

func (s *fakeStore) Subscription(_ context.Context, id store.SubscriptionID) (*store.Subscription, error) {
	s.mu.Lock()
	sub, err, hook := s.subs[id], s.readErr, s.afterRead
	s.reads++
	s.mu.Unlock()
	if hook != nil {
		hook(sub)
	}
	if err != nil {
		return nil, err
	}
	if sub == nil {
		return nil, store.ErrNotFound
	}
	return sub, nil
}

func (s *fakeStore) UpdateSubscription(_ context.Context, id store.SubscriptionID, change func(*store.Subscription) error) (*store.Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.updateErr != nil {
		return nil, s.updateErr
	}
	sub := s.subs[id]
	if sub == nil {
		return nil, store.ErrNotFound
	}
	c := sub.Clone()
	if err := change(c); err != nil {
		return nil, err
	}
	s.subs[id] = c
	return c, nil
}

type sendFunc func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome

func (f sendFunc) Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	return f(ctx, sub, p)
}

func delivered(context.Context, *store.Subscription, queue.Push) queue.Outcome {
	return queue.Outcome{Class: queue.ClassDelivered, Status: 204}
}

func failed(context.Context, *store.Subscription, queue.Push) queue.Outcome {
	return queue.Outcome{Class: queue.ClassRetry, Status: 500, Error: "the receiver answered 500 Internal Server Error"}
}

// bench is a dispatcher over fakes, running in a bubble.
type bench struct {
	*Dispatcher
	q      *fakeQueue
	s      *fakeStore
	log    *lockedBuffer
	cancel context.CancelFunc
	ended  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func nth(n byte) queue.Lane { return queue.Lane{15: n} }

// inBubble runs test with a dispatcher that runs, in virtual time, and stops it.
func inBubble(t *testing.T, o Options, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, o)
		go func() { b.ended <- b.Run(t.Context()) }()
		synctest.Wait()
		test(t, b)
		b.stop(t)
	})
}

func newBench(t *testing.T, o Options) *bench {
	t.Helper()
	b := &bench{
		q: newFakeQueue(), log: &lockedBuffer{},
		s:     &fakeStore{subs: make(map[store.SubscriptionID]*store.Subscription)},
		ended: make(chan error, 1),
	}
	o.Queue, o.Store = b.q, b.s
	o.Logger = slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.Rand == nil {
		o.Rand = func() float64 { return 0.5 } // no deviation
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Dispatcher = d
	return b
}

// Run shadows Dispatcher.Run with one that stop ends.
func (b *bench) Run(ctx context.Context) error {
	ctx, b.cancel = context.WithCancel(ctx)
	return b.Dispatcher.Run(ctx)
}

// stop ends Run and checks what holds afterwards.
func (b *bench) stop(t *testing.T) {
	t.Helper()
	b.cancel()
	if err := <-b.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	b.checkIdle(t)
}

func (b *bench) checkIdle(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inFlight != 0 || len(b.idle) != 0 {
		t.Errorf("left over: %d in flight, %d idle workers", b.inFlight, len(b.idle))
	}
	held := 0
	for _, l := range b.lanes {
		if l.inFlight != 0 {
			t.Errorf("lane %x has %d in flight", l.id, l.inFlight)
		}
		if l.held {
			held++
		}
	}
	if held != b.held {
		t.Errorf("%d lanes are held, counted %d", held, b.held)
	}
}

func (b *bench) locked(f func() int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return f()
}

func (b *bench) idleWorkers() int { return b.locked(func() int { return len(b.idle) }) }
func (b *bench) freeWorkers() int { return b.locked(func() int { return b.workers - b.inFlight }) }
func (b *bench) knownLanes() int  { return b.locked(func() int { return len(b.lanes) }) }
func (b *bench) heldLanes() int   { return b.locked(func() int { return b.held }) }

// subscribe puts an active subscription in the store.
func (b *bench) subscribe(id queue.Lane, changes ...func(*store.Subscription)) {
	sub := &store.Subscription{
		ID: store.SubscriptionID(id), AccountID: "default", State: store.StateActive,
		DataCallbackURL: "https://example.com/secret-path?key=secret-query",
		Authentication:  store.Authentication{Type: store.AuthBearer, Token: "secret-token"},
	}
	for _, c := range changes {
		c(sub)
	}
	b.s.mu.Lock()
	b.s.subs[sub.ID] = sub
	b.s.mu.Unlock()
}

func inState(s store.State) func(*store.Subscription) {
	return func(sub *store.Subscription) { sub.State = s }
}

func (b *bench) unsubscribe(id queue.Lane) {
	b.s.mu.Lock()
	delete(b.s.subs, store.SubscriptionID(id))
	b.s.mu.Unlock()
}

func mustSchedule(t *testing.T, text string) queue.Schedule {
	t.Helper()
	s, err := queue.ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// warm lets a lane deliver until its window is open. The sender must be quick meanwhile.
func (b *bench) warm(t *testing.T, id queue.Lane) {
	t.Helper()
	b.q.add(id, b.workers+100)
	synctest.Wait()
	for _, it := range b.q.items {
		if !it.done {
			t.Fatal("warming up failed")
		}
	}
}

// log of sends: who was called when.
type calls struct {
	mu    sync.Mutex
	start time.Time
	at    []time.Duration
	subs  []*store.Subscription
	ids   []string
}

func (c *calls) wrap(f sendFunc) sendFunc {
	return func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		c.mu.Lock()
		c.at = append(c.at, time.Since(c.start))
		c.subs = append(c.subs, sub)
		c.ids = append(c.ids, p.ID)
		c.mu.Unlock()
		return f(ctx, sub, p)
	}
}

func (c *calls) times() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.at)
}
