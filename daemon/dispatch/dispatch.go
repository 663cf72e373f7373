// Package dispatch takes due deliveries from the queue, has a Sender make one attempt of each, and
// settles what became of them.
//
// It promises:
//
//   - One receiver never holds up another. Each lane (subscription) has its own limit, no lane may take
//     the workers that others need, and one whose receiver hangs is probed with single attempts.
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
	// Workers is how many attempts may be under way at once over all lanes, 1 to MaxWorkers; 0 means 512.
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
	// Rand returns numbers uniform in [0, 1) for the jitter and is safe for concurrent use; nil means the
	// runtime's generator.
	Rand func() float64
}

// Defaults is the delivery policy of subscriptions that do not override it.
type Defaults struct {
	// Timeout bounds an attempt, from the dial to the end of the answer, up to MaxTimeout; 0 means 15 s.
	Timeout time.Duration
	// Schedule is the waits between attempts; one without waits means "standard".
	Schedule queue.Schedule
	// Jitter varies each wait by up to this share, 0 (none) to MaxJitter.
	Jitter float64
	// MaxConcurrency is how many attempts of one subscription may be under way at once; 0 means 64.
	MaxConcurrency int
}

func (p Defaults) complete() (*Defaults, error) {
	if p.Timeout < 0 || p.Timeout > MaxTimeout {
		return nil, fmt.Errorf("timeout %s is not between 0 and %s", p.Timeout, MaxTimeout)
	}
	if p.Timeout == 0 {
		p.Timeout = 15 * time.Second
	}
	if !(p.Jitter >= 0 && p.Jitter <= MaxJitter) { // in this form it also refuses NaN
		return nil, fmt.Errorf("jitter %v is not between 0 and %v", p.Jitter, MaxJitter)
	}
	if p.MaxConcurrency < 0 {
		return nil, fmt.Errorf("max concurrency %d is negative", p.MaxConcurrency)
	}
	if p.MaxConcurrency == 0 {
		p.MaxConcurrency = 64
	}
	if len(p.Schedule.Waits()) == 0 {
		s, err := queue.ParseSchedule("standard")
		if err != nil {
			return nil, fmt.Errorf("default schedule: %w", err)
		}
		p.Schedule = s
	}
	return &p, nil
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

	storeRead, storeWrite, laneDrop complaint

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
	inFlight int
	draining bool

	// The Claim under way.
	claiming bool
	round    uint64
	granted  int // workers promised by room in this round

	toWake  []queue.Lane // to be woken before the next Claim
	starved []*lane      // refused for the sake of other lanes
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
		o.Workers = 512
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
		log: o.Logger, rand: o.Rand,
		lanes: make(map[queue.Lane]*lane), free: make(chan struct{}, 1),
	}
	d.defaults.Store(policy)
	if d.metrics, err = newMetrics(o.Registerer, d); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	return d, nil
}

// Configure changes the default policy; attempts that start from now on follow it. On an error
// nothing has changed.
func (d *Dispatcher) Configure(p Defaults) error {
	policy, err := p.complete()
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	d.defaults.Store(policy)
	// A higher limit may make room in lanes that were refused any.
	d.mu.Lock()
	var lanes []queue.Lane
	for _, l := range d.lanes {
		if l.refused && !l.held {
			l.refused = false
			lanes = append(lanes, l.id)
		}
	}
	d.mu.Unlock()
	if len(lanes) > 0 {
		d.queue.Wake(lanes...)
	}
	return nil
}

// Run claims and delivers until ctx ends. Attempts then under way may finish within Options.Grace;
// those still going are cut off and given back without being counted. It returns nil after ctx
// ended, or the error of a queue that cannot be claimed from any more. When it returns no goroutine
// of the dispatcher is left. It may be called once.
//
// The queue has to run until Run has returned, so that the last settlements find it.
func (d *Dispatcher) Run(ctx context.Context) error {
	if d.ran.Swap(true) {
		return errors.New("dispatch: Run was called twice")
	}
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	d.hard = hard

	claimCtx, stop := context.WithCancel(ctx)
	defer stop()
	var trimmer sync.WaitGroup
	trimmer.Go(func() { d.trim(claimCtx) })

	err := d.claim(claimCtx)
	stop()
	trimmer.Wait()

	d.mu.Lock()
	d.draining = true
	for _, w := range d.idle {
		close(w.jobs)
	}
	d.idle = nil
	for _, l := range d.lanes {
		l.stopTimer()
	}
	d.mu.Unlock()

	deadline := time.AfterFunc(d.grace, cut)
	d.wg.Wait()
	deadline.Stop()
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
	d.granted = 0
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
