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

// fakeQueue leases from memory. It asks room once per lane and Claim, honours what it says but the order, sets
// lanes aside, keeps due times and batches as the contract says; what it does not have panics.
type fakeQueue struct {
	queue.Queue
	mu        sync.Mutex
	signal    chan struct{}
	items     []*item
	aside     map[queue.Lane]bool
	dropped   map[queue.Lane]int
	discarded map[queue.Lane]int
	stats     map[queue.Lane]queue.LaneStats
	settled   []queue.Settlement
	rooms     map[queue.Lane]queue.Room // the last that allowed something
	batches   int
	asks      int // how often room was called
	wakes     int
	failing   error // of Claim
	dropErr   error
	// greedy leases more than room allows.
	greedy bool
}

type item struct {
	queue.Claim      // of one delivery
	batch        int // that it was tried in with others, 0 for none
	due, since   time.Time
	leased, done bool
	last         queue.Settlement
}

func newFakeQueue() *fakeQueue {
	return &fakeQueue{
		signal: make(chan struct{}, 1), aside: make(map[queue.Lane]bool), dropped: make(map[queue.Lane]int),
		discarded: make(map[queue.Lane]int), stats: make(map[queue.Lane]queue.LaneStats), rooms: make(map[queue.Lane]queue.Room),
	}
}

func (q *fakeQueue) notify() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// add makes n deliveries of a lane due and returns them.
func (q *fakeQueue) add(lane queue.Lane, n int) []*item { return q.addTyped(lane, n, "task.create") }

func (q *fakeQueue) addTyped(lane queue.Lane, n int, eventType string) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := len(q.items)
	for range n {
		seq := uint64(len(q.items) + 1)
		now := time.Now()
		q.items = append(q.items, &item{
			Claim: queue.Claim{
				Lane: lane, Attempt: 1,
				Deliveries: []queue.Leased{{Seq: seq, Event: &queue.Event{
					ID: "evt_" + strconv.FormatUint(seq, 10), AccountID: "default", Type: eventType, AcceptedAt: now, Data: []byte(`{"secret":"payload"}`),
				}}},
			},
			due: now, since: now,
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
		later := func(t time.Time) {
			if next.IsZero() || t.Before(next) {
				next = t
			}
		}
		rooms := make(map[queue.Lane]*queue.Room)
		start := len(dst)
		for i, it := range q.items {
			lane := it.Lane
			if it.leased || it.done || q.aside[lane] || len(dst)-start == limit {
				continue
			}
			if time.Until(it.due) > 0 {
				later(it.due)
				continue
			}
			r := rooms[lane]
			if r == nil {
				q.asks++
				answer := room(lane)
				r = &answer
				if r.Pushes <= 0 {
					q.aside[lane] = true
					continue
				}
				q.rooms[lane], rooms[lane] = answer, r
				if r.Total == 0 {
					r.Total = 1 << 30
				}
			}
			if (r.Pushes <= 0 || r.Total <= 0) && !q.greedy {
				continue
			}
			together := q.together(i, min(r.Records, r.Total))
			if full := it.since.Add(r.Wait); it.Attempt == 1 && len(together) < r.Records && time.Until(full) > 0 {
				later(full)
				continue
			}
			c := queue.Claim{Lane: lane, Attempt: it.Attempt, Retries: it.Retries}
			for _, x := range together {
				x.leased = true
				c.Deliveries = append(c.Deliveries, x.Deliveries[0])
			}
			r.Pushes--
			r.Total -= len(together)
			dst = append(dst, c)
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

// together returns what goes with the first: its batch, or other first attempts of the lane up to n.
func (q *fakeQueue) together(first, n int) []*item {
	it := q.items[first]
	all := []*item{it}
	for _, x := range q.items[first+1:] {
		switch {
		case x.Lane != it.Lane || x.leased || x.done || x.batch != it.batch:
		case it.batch != 0 || len(all) < n && it.Attempt == 1 && x.Attempt == 1:
			all = append(all, x)
		}
	}
	return all
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
		q.settled = append(q.settled, s)
		q.batches++
		for _, leased := range s.Deliveries {
			it := q.items[leased.Seq-1]
			if !it.leased || it.done {
				panic("settled what is not leased")
			}
			it.leased = false
			it.last = s
			if s.Attempt != nil {
				it.Attempt++
			}
			switch s.State {
			case queue.StatePending:
			case queue.StateRetrying:
				it.due = s.Due
				if s.Attempt != nil && !s.Dissolve {
					it.Retries++
				}
				if it.batch = 0; len(s.Deliveries) > 1 && !s.Dissolve {
					it.batch = q.batches
				}
			default:
				it.done = true
			}
		}
	}
	q.notify()
}

func (q *fakeQueue) LaneStats(lane queue.Lane) queue.LaneStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats[lane]
}

func (q *fakeQueue) Discard(_ context.Context, lane queue.Lane, _ string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropErr != nil {
		return q.dropErr
	}
	q.discarded[lane]++
	for _, it := range q.items {
		if it.Lane == lane && !it.leased {
			it.done = true
		}
	}
	return nil
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
	updates   int
	// onUpdate is called before an update, onUpdated after one, without the lock.
	onUpdate, onUpdated func()
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
	if hook := s.onUpdate; hook != nil {
		s.mu.Unlock()
		hook()
		s.mu.Lock()
	}
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
	s.updates++
	if hook := s.onUpdated; hook != nil {
		s.mu.Unlock()
		hook()
		s.mu.Lock()
	}
	return c, nil
}

func (s *fakeStore) Subscriptions(_ context.Context, _ string, after store.SubscriptionID, limit int) ([]*store.Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr != nil {
		return nil, s.readErr
	}
	var list []*store.Subscription
	for id, sub := range s.subs {
		if bytes.Compare(id[:], after[:]) > 0 {
			list = append(list, sub)
		}
	}
	slices.SortFunc(list, func(a, b *store.Subscription) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list[:min(len(list), limit)], nil
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
	d.saveDelay = 0 // what is written when is asked elsewhere
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
	synctest.Wait() // Run has begun
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

// settle has a lane used to answers that take so long.
func (b *bench) settle(id queue.Lane, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes[id].pace = pace{short: float32(d.Seconds()), long: float32(d.Seconds()), heard: longAnswers}
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

func (q *fakeQueue) Replaying() []queue.Lane { return nil }
