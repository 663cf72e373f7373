package boltkit

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The pacing rules, as measured. They exist to make commits larger where nobody waits for a single one.
const (
	// LazyWait is how long lazy items alone wait for company.
	LazyWait = 5 * time.Millisecond
	// LazyLimit is the weight of waiting lazy items at which they are committed without company.
	LazyLimit = 512
	// PaceGap is the least time between the starts of two commits under load. With 64 to 100 callers 2 ms
	// gave more throughput than 4 ms, whose batches cost less, and than none at all.
	PaceGap = 2 * time.Millisecond
	// PaceWeight is the weight of a batch from which on there is load.
	PaceWeight = 32
	// FullWait is how long items that must not be given up wait before they are tried again on a full
	// disk.
	FullWait = 250 * time.Millisecond
)

// Defaults of CommitterOptions.
const (
	defaultMaxBatch = 4096
	defaultMaxBytes = 4 << 20
)

// Cost is what an item adds to a batch.
type Cost struct {
	// Weight is how many records it writes, at least 1; Bytes about how much.
	Weight int
	Bytes  int64
	// Lazy: nobody waits for it, so it may wait a little for company.
	Lazy bool
}

// CommitterOptions describe the work of a Committer.
type CommitterOptions[T any] struct {
	DB *DB
	// Apply writes the batch; it is called in a write transaction. An error rolls all of it back, so Apply
	// must keep what it changes in memory apart until Settled, and is fatal: an item that may fail on its own has
	// to be checked before it writes. When there was no room Apply is called again with fewer items.
	Apply func(tx *bolt.Tx, batch []T) error
	// Settled is called after the batch was committed, or could not be, once for each item, in the
	// order of submission, from the writer's goroutine. The error is nil, or "full" (IsFull), or a *FatalError.
	// The slice is used again afterwards.
	Settled func(batch []T, err error)
	// Cost weighs an item; nil means Cost{Weight: 1} for each.
	Cost func(T) Cost
	// Keep says which items must survive a full disk: when a commit finds no room, the others are settled
	// with the error, and those kept are tried alone, again and again. Nil keeps none.
	Keep func(T) bool
	// MaxBatch and MaxBytes bound one commit by its weight (0: 4096) and bytes (0: 4 MiB); a single item
	// may exceed them.
	MaxBatch int
	MaxBytes int64
	// Pace switches the waits of the pacing rules on. Without it every commit starts at once.
	Pace bool
}

// Committer writes the work of many callers in common transactions: while one commit is being synced the
// next batch collects, so that no timer is needed. One Committer at a time may run on a DB.
type Committer[T any] struct {
	o CommitterOptions[T]

	mu      sync.Mutex
	waiting []T
	weight  int   // of waiting
	bytes   int64 // of waiting
	urgent  int   // items waiting that are not lazy
	sleep   sleepState
	closed  bool
	wake    chan struct{}

	// Used by Run only.
	batch      []T
	lastStart  time.Time
	lastWeight int
}

// sleepState says what the writer waits for, so that Submit wakes it only for that.
type sleepState int

const (
	awake sleepState = iota
	idle
	lazy
)

// NewCommitter returns a Committer; it does nothing until Run.
func NewCommitter[T any](o CommitterOptions[T]) *Committer[T] {
	if o.Cost == nil {
		o.Cost = func(T) Cost { return Cost{Weight: 1} }
	}
	if o.Keep == nil {
		o.Keep = func(T) bool { return false }
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = defaultMaxBatch
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	return &Committer[T]{o: o, wake: make(chan struct{}, 1)}
}

// Submit hands items over, in order; Settled will be called for each. It never blocks. False means that
// the Committer ended and took none of them. Items may be submitted before Run.
func (c *Committer[T]) Submit(items ...T) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	for _, it := range items {
		cost := c.o.Cost(it)
		c.weight += cost.Weight
		c.bytes += cost.Bytes
		if !cost.Lazy {
			c.urgent++
		}
	}
	c.waiting = append(c.waiting, items...)
	rouse := c.sleep == idle || c.sleep == lazy && c.ripe()
	if rouse {
		c.sleep = awake
	}
	c.mu.Unlock()
	if rouse {
		c.rouse()
	}
	return true
}

// Waiting returns the weight and bytes of what was submitted and is not part of a commit yet.
func (c *Committer[T]) Waiting() (weight int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.weight, c.bytes
}

// ripe says whether what waits should be committed without waiting for company.
func (c *Committer[T]) ripe() bool {
	return c.urgent > 0 || c.weight >= LazyLimit || !c.o.Pace && len(c.waiting) > 0
}

func (c *Committer[T]) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run commits until the context ends and everything submitted is committed, and then returns nil. It
// returns a *FatalError when a commit failed for anything but a full disk; the file must not be used any more
// then. What waits at that moment, and what is submitted until Run has returned, is settled with
// the same error. When it ends on a full disk it returns that error. Run is called once.
func (c *Committer[T]) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.rouse)
	defer stop()
	var full error
	for {
		if !c.await(ctx, full != nil) {
			c.o.DB.worked.Store(true)
			return nil
		}
		runtime.Gosched() // lets those that are about to submit do so: it doubles small batches
		c.take(full != nil)
		c.lastStart = time.Now()
		err := c.commit()
		switch {
		case err == nil:
			full = nil
		case !IsFull(err):
			return c.fail(err)
		case ctx.Err() != nil:
			return c.end(err)
		default:
			full = err
		}
	}
}

// await waits until there is something to commit and the pacing rules let it start. False means that
// the context ended and nothing waits; the Committer is closed then.
func (c *Committer[T]) await(ctx context.Context, full bool) bool {
	if full && len(c.batch) > 0 {
		c.pause(ctx, FullWait)
		return true
	}
	for {
		c.mu.Lock()
		if len(c.waiting) == 0 && ctx.Err() != nil {
			c.closed = true
			c.mu.Unlock()
			return false
		}
		if len(c.waiting) > 0 {
			break
		}
		c.sleep = idle
		c.mu.Unlock()
		<-c.wake
	}
	if !c.ripe() && ctx.Err() == nil {
		c.sleep = lazy
		select { // a wake-up that was meant for something before
		case <-c.wake:
		default:
		}
		c.mu.Unlock()
		c.pause(ctx, LazyWait)
		c.mu.Lock()
		c.sleep = awake
	}
	c.mu.Unlock()
	if c.o.Pace && c.lastWeight >= PaceWeight && ctx.Err() == nil {
		if gap := PaceGap - time.Since(c.lastStart); gap > 0 {
			c.pauseFully(ctx, gap)
		}
	}
	return true
}

// pause waits for d, for a wake-up, or for the end of the context.
func (c *Committer[T]) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.wake:
	case <-ctx.Done():
	}
}

// pauseFully waits for d or for the end of the context.
func (c *Committer[T]) pauseFully(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// take moves what waits into the batch, as much as one commit may hold, behind what a full disk left in it.
func (c *Committer[T]) take(full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sleep = awake
	var weight int
	var bytes int64
	if !full {
		c.batch = c.batch[:0]
	}
	for _, it := range c.batch {
		cost := c.o.Cost(it)
		weight += cost.Weight
		bytes += cost.Bytes
	}
	n := 0
	for _, it := range c.waiting {
		cost := c.o.Cost(it)
		if len(c.batch)+n > 0 && (weight+cost.Weight > c.o.MaxBatch || bytes+cost.Bytes > c.o.MaxBytes) {
			break
		}
		weight += cost.Weight
		bytes += cost.Bytes
		c.weight -= cost.Weight
		c.bytes -= cost.Bytes
		if !cost.Lazy {
			c.urgent--
		}
		n++
	}
	c.batch = append(c.batch, c.waiting[:n]...)
	left := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[left:])
	c.waiting = c.waiting[:left]
	c.lastWeight = weight
}

// commit writes the batch. When there was no room it settles what need not be kept, tries the rest
// alone, and leaves in the batch what still has to be written.
func (c *Committer[T]) commit() error {
	err := c.write(c.batch)
	if err == nil || !IsFull(err) {
		if err == nil {
			c.o.Settled(c.batch, nil)
			c.empty(0)
		}
		return err
	}
	kept := 0
	dropped := make([]T, 0, len(c.batch))
	for _, it := range c.batch {
		if c.o.Keep(it) {
			c.batch[kept] = it
			kept++
		} else {
			dropped = append(dropped, it)
		}
	}
	c.empty(kept)
	if len(dropped) > 0 {
		c.o.Settled(dropped, err)
	}
	if kept == 0 || len(dropped) == 0 {
		return err
	}
	if err := c.write(c.batch); err != nil {
		return err
	}
	c.o.Settled(c.batch, nil)
	c.empty(0)
	return nil
}

func (c *Committer[T]) empty(n int) {
	clear(c.batch[n:])
	c.batch = c.batch[:n]
}

func (c *Committer[T]) write(batch []T) error {
	return c.o.DB.commit(func(tx *bolt.Tx) error { return c.o.Apply(tx, batch) }, false)
}

// fail ends the Committer for good.
func (c *Committer[T]) fail(err error) error {
	c.o.DB.failed.Store(true)
	return c.end(&FatalError{c.o.DB.path, err})
}

// end settles everything that waits with err and closes the Committer.
func (c *Committer[T]) end(err error) error {
	c.mu.Lock()
	c.closed = true
	rest := append(c.batch, c.waiting...)
	c.batch, c.waiting = nil, nil
	c.weight, c.bytes, c.urgent = 0, 0, 0
	c.mu.Unlock()
	if len(rest) > 0 {
		c.o.Settled(rest, err)
	}
	if _, fatal := errors.AsType[*FatalError](err); !fatal {
		c.o.DB.worked.Store(true)
	}
	return err
}
