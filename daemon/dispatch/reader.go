package dispatch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"herald/queue"
	"herald/store"
)

// readBatch is how many lanes the reader sees to before it wakes them.
const readBatch = 128

// toRead has the reader look at the lane's subscription. While a lane has no policy nothing of it is claimed.
// The caller holds mu.
func (d *Dispatcher) toRead(l *lane) {
	if l.reading {
		return
	}
	l.reading = true
	d.unread = append(d.unread, l)
	rouse(d.readable)
}

// reading is a lane that is looked at.
type reading struct {
	l   *lane
	gen uint64
}

// read is the reader: it learns the policies of lanes, and does what a lane needs that is not pushed to. It
// ends with ctx.
func (d *Dispatcher) read(ctx context.Context) {
	batch := make([]reading, 0, readBatch)
	var wake []queue.Lane
	for {
		d.mu.Lock()
		n := min(len(d.unread), readBatch)
		for _, l := range d.unread[:n] {
			batch = append(batch, reading{l, l.gen})
		}
		clear(d.unread[:n])
		if d.unread = d.unread[n:]; len(d.unread) == 0 {
			d.unread = nil
		}
		d.mu.Unlock()
		for _, r := range batch {
			if ctx.Err() != nil {
				return
			}
			if d.look(ctx, r) {
				wake = append(wake, r.l.id)
			}
		}
		if len(wake) > 0 {
			d.queue.Wake(wake...)
		}
		clear(batch)
		batch, wake = batch[:0], wake[:0]
		if n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-d.readable:
		}
	}
}

// look reads the subscription of a lane and does what follows from it; it says whether the queue has to
// consider the lane again.
func (d *Dispatcher) look(ctx context.Context, r reading) (wake bool) {
	l := r.l
	sub, err := d.store.Subscription(ctx, store.SubscriptionID(l.id))
	var p *policy
	var since time.Time
	missing := errors.Is(err, store.ErrNotFound)
	switch {
	case err == nil:
		d.storeRead.worked(d.log, "read subscription")
		if sub.State == store.StateActive {
			p = d.policyOf(sub, d.defaults.Load())
			since = d.backlogBefore(sub)
		}
	case !missing && ctx.Err() == nil:
		d.storeRead.failed(d.log, "read subscription", err)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	l.reading = false
	switch {
	case l.gen != r.gen:
		d.toRead(l)
	case missing, err == nil && p == nil && sub.Discarding:
		d.suspend(l)
		l.reading = true // until the sweeper is done with it
		d.unswept = append(d.unswept, sweeping{reading: r, drop: missing})
		rouse(d.sweepable)
	case err != nil:
		l.policy = nil
		d.holdFor(l, storeDelay)
	case p == nil:
		d.suspend(l)
	default:
		d.activate(l, p, sub, since)
		l.refused, l.until = false, 0
		d.setAlarm(l)
		return true
	}
	return false
}

// sweeping is a lane whose deliveries nobody wants: all of it is dropped, or what it has is discarded.
type sweeping struct {
	reading
	drop bool
	err  error
}

// sweepers is how many lanes are swept at once: they share the commits of the queue.
const sweepers = 32

// sweep is the sweeper: it tells the queue what is not wanted, which waits for the disk and would hold up
// the reader. It ends with ctx.
func (d *Dispatcher) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		d.mu.Lock()
		n := min(len(d.unswept), sweepers)
		batch := slices.Clone(d.unswept[:n])
		if d.unswept = d.unswept[n:]; len(d.unswept) == 0 {
			d.unswept = nil
		}
		d.mu.Unlock()
		var wg sync.WaitGroup
		for i := range batch {
			s := &batch[i]
			wg.Go(func() {
				if s.drop {
					s.err = d.queue.DropLane(ctx, s.l.id)
				} else {
					s.err = d.queue.Discard(ctx, s.l.id, queue.ReasonDisabled)
				}
			})
		}
		wg.Wait()
		d.mu.Lock()
		for i := range batch {
			d.swept(&batch[i], ctx.Err() != nil)
		}
		d.mu.Unlock()
		if n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-d.sweepable:
		}
	}
}

// swept takes what came of it. The caller holds mu.
func (d *Dispatcher) swept(s *sweeping, ended bool) {
	l := s.l
	l.reading = false
	switch {
	case l.gen != s.gen:
		d.toRead(l)
	case s.err != nil:
		d.holdFor(l, storeDelay) // until the queue knows, the lane keeps coming up
	case s.drop:
		d.setHeld(l, false)
		l.refused = false
	}
	switch {
	case s.err == nil:
		d.laneDrop.worked(d.log, "drop deliveries")
	case !ended:
		d.laneDrop.failed(d.log, "drop deliveries", s.err)
	}
}

// backlogBefore returns when the subscription came to be active, if deliveries wait that were accepted before:
// they were held.
func (d *Dispatcher) backlogBefore(sub *store.Subscription) time.Time {
	if !sub.StateSince.After(sub.CreatedAt) {
		return time.Time{}
	}
	s := d.queue.LaneStats(queue.Lane(sub.ID))
	held := !s.OldestPending.IsZero() && s.OldestPending.Before(sub.StateSince) ||
		!s.NextRetry.IsZero() && s.NextRetry.Before(sub.StateSince)
	if !held {
		return time.Time{}
	}
	return sub.StateSince
}

// suspend holds a lane whose subscription is not active. The caller holds mu.
func (d *Dispatcher) suspend(l *lane) {
	d.setHeld(l, true)
	d.forgetTrouble(l)
	l.policy, l.bucket, l.catchUp, l.until, l.nudged = nil, bucket{}, time.Time{}, 0, false
	d.setAlarm(l)
}

// activate gives a lane its policy. The caller holds mu.
func (d *Dispatcher) activate(l *lane, p *policy, sub *store.Subscription, catchUp time.Time) {
	now := time.Now()
	old := l.policy
	moved := l.target != 0 && (l.target != p.target || !l.since.Equal(p.since))
	l.policy, l.target, l.since = p, p.target, p.since
	d.setHeld(l, false)
	if !catchUp.IsZero() || moved {
		l.catchUp = catchUp
	}
	if !old.limitedAs(p) || !catchUp.IsZero() {
		d.limitLane(l, int64(now.Sub(d.epoch)))
	}
	d.adopt(l, sub, moved, now)
	if l.nudged {
		l.nudged, l.hurried, l.rest = false, true, 0
		if l.trouble.open() {
			d.probeAt(l, now, now)
		}
	}
}

// refresh gives a lane another policy between two pushes. The caller holds mu.
func (d *Dispatcher) refresh(l *lane, p *policy) {
	old := l.policy
	l.policy = p
	if !old.limitedAs(p) {
		d.limitLane(l, d.clock())
	}
}
