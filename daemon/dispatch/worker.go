package dispatch

import (
	"context"
	"time"

	"herald/queue"
	"herald/store"
)

// worker is a goroutine that makes one attempt after another. They are reused because net/http grows
// a stack to many kilobytes, and growing a new one costs more than handing over.
type worker struct {
	jobs chan job // of capacity 1: handing a job to an idle worker never blocks
}

type job struct {
	claim queue.Claim
	lane  *lane
	gen   uint64 // of the lane when the job was assigned
	// policy is that of the lane then; admit brings it up to date.
	policy *policy
	// sub is the subscription as it was when the attempt started.
	sub *store.Subscription
	// probe: the breaker was open.
	probe bool
}

// assign ends the round of claiming and gives each claim a worker.
func (d *Dispatcher) assign(claims []queue.Claim) {
	var over []queue.Claim
	d.mu.Lock()
	d.claiming = false
	var now int64
	for i := range claims {
		c := &claims[i]
		l := d.lanes[c.Lane]
		if l == nil || l.round != d.round || l.allowance == 0 || d.inFlight == d.workers {
			// More than was asked for. Given back it costs a round through the queue, no more: the lane has
			// no room the next time.
			over = append(over, *c)
			continue
		}
		l.allowance--
		l.hurried = false
		l.inFlight++
		d.inFlight++
		d.busy.add(l, 1)
		j := job{claim: *c, lane: l, gen: l.gen, policy: l.policy}
		if l.trouble.open() {
			j.probe, l.trouble.probing = true, true
			d.metrics.transitions[BreakerHalfOpen].Inc()
		}
		if l.bucket.interval > 0 || l.pushes.interval > 0 {
			if now == 0 {
				now = d.clock()
			}
			l.count(c, now, d)
		}
		if n := len(d.idle); n > 0 {
			w := d.idle[n-1]
			d.idle[n-1] = nil
			d.idle = d.idle[:n-1]
			d.minIdle = min(d.minIdle, n-1)
			w.jobs <- j
			continue
		}
		w := &worker{jobs: make(chan job, 1)}
		d.wg.Go(func() { d.work(w, j) })
	}
	// Workers that were promised and not needed are there for others.
	d.granted, d.promised = 0, tally{}
	d.unstarve(nil)
	d.mu.Unlock()
	d.giveBack(returnedOver, over)
}

func (d *Dispatcher) work(w *worker, j job) {
	for ok := true; ok; j, ok = <-w.jobs {
		out, at := d.deliver(&j)
		again, goOn := d.finish(w, &j, &out, at)
		j = job{} // while idle it would keep an event in memory
		if again != nil {
			d.queue.Wake(again...)
		}
		if !goOn {
			return
		}
	}
}

// finish takes a job that was settled off the books; out has no class when no attempt was made, at is when it
// ended. It returns the lanes the caller has to wake, and whether the worker is to wait for another job.
func (d *Dispatcher) finish(w *worker, j *job, out *queue.Outcome, at time.Time) (wake []queue.Lane, goOn bool) {
	l := j.lane
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy.add(l, -l.inFlight)
	l.inFlight--
	d.inFlight--
	l.tick = d.tick
	if j.probe && l.trouble != nil {
		l.trouble.probing = false
	}
	disable := ""
	if out.Class != "" {
		disable = d.judge(j, out, at)
	}
	d.busy.add(l, l.inFlight)
	if disable != "" {
		d.setHeld(l, true)
		d.mu.Unlock()
		d.stopLane(j, disable, at)
		d.mu.Lock()
	}
	if d.wake(l) {
		wake = append(wake, l.id)
	}
	wake = d.unstarve(wake)
	if d.waiting {
		d.waiting = false
		d.free <- struct{}{} // of capacity 1, and waiting is set only after it was emptied
	}
	if d.draining {
		return wake, false
	}
	d.idle = append(d.idle, w)
	return wake, true
}

// trimEvery is how long a worker or a lane may be idle, within a factor of two, before it is let go.
const trimEvery = 10 * time.Second

// trim lets go of the workers and forgets the lanes that were not needed since the last time: a burst
// should not hold its stacks for ever.
func (d *Dispatcher) trim(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		n := min(d.minIdle, len(d.idle))
		for _, w := range d.idle[:n] {
			close(w.jobs)
		}
		rest := copy(d.idle, d.idle[n:])
		clear(d.idle[rest:])
		d.idle = d.idle[:rest]
		d.minIdle = rest
		now := d.clock()
		for id, l := range d.lanes {
			if l.tick < d.tick && d.forgettable(l, now) {
				delete(d.lanes, id)
			}
		}
		d.tick++
		d.mu.Unlock()
	}
}
