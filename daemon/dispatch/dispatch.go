// Package dispatch takes due deliveries from the queue, has a Sender make one attempt of each, and
// settles what became of them.
//
// It promises:
//
//   - One receiver never holds up another. Each lane (subscription) has its own limit, no lane may take
//     the workers that others need, and one whose receiver fails waits behind a circuit breaker, which lets
//     single probes out. What waits costs nothing.
//   - A batch is tried again as the same batch, with the same id; one the receiver refuses for its size is
//     dissolved.
//   - The subscription is read at the moment an attempt starts, so a new token, URL or policy holds for
//     the next attempt, also of deliveries queued long before. Once Changed has returned, nothing
//     starts any more on what the subscription was before.
//   - Every lease ends in exactly one settlement. What could not be tried is given back and is not
//     counted as an attempt.
//   - Memory goes by the deliveries under way and the lanes in use or held, not by the backlog.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
	"herald/store"
)

// Sender makes attempts.
type Sender interface {
	// Send makes one attempt to hand the push to the receiver of sub and says what it came to. It must
	// return soon after ctx ends, whose deadline is the timeout of the attempt; it changes neither sub
	// nor what p refers to, and keeps nothing of them. It is called from many goroutines at once.
	Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome
}

// Limits of Options and Defaults.
const (
	// MaxWorkers bounds Options.Workers.
	MaxWorkers = 100_000
	// MaxJitter bounds Defaults.Jitter.
	MaxJitter = 0.5
	// MaxTimeout bounds Defaults.Timeout.
	MaxTimeout = time.Hour
	// MaxRetryAfter is the longest a receiver may put off its next attempt with Retry-After: a day. Asked
	// for more, the dispatcher comes back after a day and can be told again.
	MaxRetryAfter = 24 * time.Hour
)

// Options say what a Dispatcher works with.
type Options struct {
	// Queue, Store and Sender are required.
	Queue  queue.Queue
	Store  store.Store
	Sender Sender
	// Workers is how many attempts may be under way at once over all lanes, 1 to MaxWorkers; 0 means 1536.
	// A worker that has nothing to do costs nothing but its stack, and is let go after some seconds.
	Workers int
	// Defaults is the policy of subscriptions that do not say otherwise.
	Defaults Defaults
	// Grace is how long attempts under way may go on after the context of Run has ended, before they are
	// cut off and given back; 0 means 15 s.
	Grace time.Duration
	// Logger takes one line per attempt: successes at debug, failures at info. Nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means they are not registered.
	Registerer prometheus.Registerer
	// Publish makes an operational event (TypeDisabled and so on) of the account durable for whoever
	// subscribes to it: data is a JSON object, and id stands for the event, so that a repeat is none. It may wait
	// for the disk. Nil: there are none.
	Publish func(ctx context.Context, accountID, eventType string, at time.Time, id string, data []byte) error
	// Settling is called before the settlement of a notification to a device (store.RoleDevices) is handed to the queue, and not again
	// unless the process ends before that is durable. It may wait for the disk, not longer than ctx. Nil: nobody wants to know.
	Settling func(ctx context.Context, sub *store.Subscription, e *queue.Event, s *queue.Settlement, out *queue.Outcome)
	// Describe returns what the line of an attempt says of an event on a lane of an implementation, beside what it says of all. It is
	// called only when the line is written. Nil: nothing.
	Describe func(ctx context.Context, e *queue.Event) []slog.Attr
	// Rand returns numbers uniform in [0, 1) for the jitter and is safe for concurrent use; nil means the
	// runtime's generator.
	Rand func() float64
}

// Dispatcher drives deliveries. Make one with New; its methods are safe for concurrent use.
type Dispatcher struct {
	queue    queue.Queue
	store    store.Store
	sender   Sender
	workers  int
	grace    time.Duration
	log      *slog.Logger
	rand     func() float64
	defaults atomic.Pointer[Defaults]
	metrics  *metrics

	publish  func(ctx context.Context, accountID, eventType string, at time.Time, id string, data []byte) error
	settling func(ctx context.Context, sub *store.Subscription, e *queue.Event, s *queue.Settlement, out *queue.Outcome)
	describe func(ctx context.Context, e *queue.Event) []slog.Attr
	epoch    time.Time // when the clock began

	storeRead, storeWrite, laneDrop, healthWrite, noticeWrite, noticeDrop, replayWrite complaint

	// admitted, set by tests only, is called with mu held for each attempt that starts.
	admitted func(*store.Subscription)

	ran  atomic.Bool
	wg   sync.WaitGroup
	hard context.Context // ends when attempts under way have to stop; set by Run before any worker starts

	// mu guards everything below and the fields of every lane. room is called by the queue with the
	// queue's own lock held and takes mu, so nothing that holds mu may call the queue.
	mu       sync.Mutex
	lanes    map[queue.Lane]*lane
	held     int // lanes with held set
	open     int // lanes with an open breaker
	barred   int // of open, those whose credentials are refused
	inFlight int
	busy     tally // of inFlight
	draining bool
	troubles uint64 // how many there have been

	// Work for the goroutines beside the workers, and what rouses them.
	alarms      alarms
	alarmed     chan struct{}
	unread      []*lane
	readable    chan struct{}
	unswept     []sweeping
	sweepable   chan struct{}
	replayable  chan struct{}
	unstored    []*lane
	keep        chan struct{}
	keepNow     chan struct{}
	saveDelay   time.Duration // the constant, but in tests
	notices     []notice
	deadNotices int // of notices
	noticed     chan struct{}

	// The Claim under way.
	claiming bool
	round    uint64
	granted  int   // workers promised by room in this round
	promised tally // of granted

	toWake  []queue.Lane // to be woken before the next Claim
	starved []*lane      // refused for the sake of other lanes
	// Lanes that were refused because their kind has its share of the workers.
	queued  [kindGood][]*lane
	free    chan struct{}
	waiting bool // the claiming goroutine waits for free

	idle    []*worker // the one that worked last is last
	minIdle int       // the fewest idle workers since the last trim
	tick    uint64    // how often trim ran
}

// New validates the options and returns a Dispatcher that does nothing yet.
func New(o Options) (*Dispatcher, error) {
	if o.Queue == nil || o.Store == nil || o.Sender == nil {
		return nil, errors.New("dispatch: a queue, a store and a sender are required")
	}
	if o.Workers == 0 {
		o.Workers = 1536
	}
	if o.Workers < 1 || o.Workers > MaxWorkers {
		return nil, fmt.Errorf("dispatch: %d workers; 1 to %d are possible", o.Workers, MaxWorkers)
	}
	if o.Grace < 0 {
		return nil, fmt.Errorf("dispatch: grace %s is negative", o.Grace)
	}
	if o.Grace == 0 {
		o.Grace = 15 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	policy, err := o.Defaults.complete()
	if err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	d := &Dispatcher{
		queue: o.Queue, store: o.Store, sender: o.Sender, workers: o.Workers, grace: o.Grace,
		log: o.Logger, rand: o.Rand, publish: o.Publish, settling: o.Settling, describe: o.Describe, epoch: time.Now(),
		lanes: make(map[queue.Lane]*lane), free: make(chan struct{}, 1),
		alarmed: make(chan struct{}, 1), readable: make(chan struct{}, 1), sweepable: make(chan struct{}, 1), replayable: make(chan struct{}, 1),
		keep: make(chan struct{}, 1), keepNow: make(chan struct{}, 1), noticed: make(chan struct{}, 1), saveDelay: saveDelay,
	}
	d.defaults.Store(policy)
	if d.metrics, err = newMetrics(o.Registerer, d); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	return d, nil
}

// Configure changes the default policy; attempts that start from now on follow it, and how much of a lane is
// claimed follows within moments. On an error nothing has changed.
func (d *Dispatcher) Configure(p Defaults) error {
	policy, err := p.complete()
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	d.defaults.Store(policy)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lanes {
		if !l.held {
			d.toRead(l)
		}
	}
	return nil
}

// Run claims and delivers until ctx ends. Attempts then under way may finish within Options.Grace;
// those still going are cut off and given back without being counted. It returns nil after ctx
// ended, or the error of a queue that cannot be claimed from any more. When it returns no goroutine
// of the dispatcher is left. It may be called once.
//
// The queue and the store have to run until Run has returned, so that the last settlements find them.
func (d *Dispatcher) Run(ctx context.Context) error {
	if d.ran.Swap(true) {
		return errors.New("dispatch: Run was called twice")
	}
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	d.hard = hard

	claimCtx, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	for _, run := range []func(context.Context){d.trim, d.ring, d.read, d.sweep, d.scan, d.replay} {
		beside.Go(func() { run(claimCtx) })
	}
	// These two have something to write down when the last attempt has ended.
	lastCtx, last := context.WithCancel(context.WithoutCancel(ctx))
	defer last()
	var behind sync.WaitGroup
	behind.Go(func() { d.keepHealth(lastCtx) })
	behind.Go(func() { d.publishNotices(lastCtx) })

	err := d.claim(claimCtx)
	stop()
	beside.Wait()

	d.mu.Lock()
	d.draining = true
	for _, w := range d.idle {
		close(w.jobs)
	}
	d.idle = nil
	d.mu.Unlock()

	deadline := time.AfterFunc(d.grace, cut)
	d.wg.Wait()
	deadline.Stop()
	last()
	behind.Wait()
	return err
}

// claim is the one goroutine that claims.
func (d *Dispatcher) claim(ctx context.Context) error {
	var claims []queue.Claim
	var wake []queue.Lane
	for {
		limit := 0
		limit, wake = d.begin(wake[:0])
		if limit == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-d.free:
				continue
			}
		}
		if len(wake) > 0 {
			d.queue.Wake(wake...)
		}
		var err error
		claims, err = d.queue.Claim(ctx, limit, d.room, claims[:0])
		stopped := ctx.Err() != nil
		if err == nil && !stopped {
			d.assign(claims)
			clear(claims) // they hold events, which may be large
			continue
		}
		d.assign(nil)
		d.giveBack(returnedShutdown, claims)
		if stopped {
			err = nil // it says no more than that
		} else {
			err = fmt.Errorf("claim deliveries: %w", err)
		}
		return err
	}
}

// begin starts a round of claiming: it returns how many workers are free and, appended to wake, the
// lanes that have to be woken first. When none is free it returns 0 and arranges for d.free.
func (d *Dispatcher) begin(wake []queue.Lane) (int, []queue.Lane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	limit := d.workers - d.inFlight
	if limit == 0 {
		d.waiting = true
		return 0, wake
	}
	d.claiming = true
	d.round++
	d.granted, d.promised = 0, tally{}
	wake = append(wake, d.toWake...)
	d.toWake = d.toWake[:0]
	return limit, wake
}

// giveBack ends leases without an attempt; the deliveries stay due as they were.
func (d *Dispatcher) giveBack(why returned, claims []queue.Claim) {
	for i := range claims {
		d.metrics.returned[why].Inc()
		d.queue.Settle(queue.Settlement{Lane: claims[i].Lane, Deliveries: claims[i].Deliveries, State: queue.StatePending})
	}
}
