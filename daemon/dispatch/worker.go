package dispatch

import (
	"context"
	"time"

	"herald/queue"
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
}

// assign ends the round of claiming and gives each claim a worker.
func (d *Dispatcher) assign(claims []queue.Claim) {
	var over []queue.Claim
	d.mu.Lock()
	d.claiming = false
	for i := range claims {
		c := &claims[i]
		l := d.lanes[c.Delivery.Lane]
		if l == nil || l.round != d.round || l.allowance == 0 || d.inFlight == d.workers {
			// More than was asked for. Given back it costs a round through the queue, no more: the lane has
			// no room the next time.
			over = append(over, *c)
			continue
		}
		l.allowance--
		l.inFlight++
		d.inFlight++
		j := job{claim: *c, lane: l, gen: l.gen}
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
	for i, l := range d.asked {
		d.forget(l)
		d.asked[i] = nil
	}
	d.asked = d.asked[:0]
	d.mu.Unlock()
	d.giveBack(returnedOver, over)
}

func (d *Dispatcher) work(w *worker, j job) {
	for ok := true; ok; j, ok = <-w.jobs {
		d.deliver(&j)
		again, goOn := d.finish(w, j.lane)
		j = job{} // while idle it would keep an event in memory
		if again != nil {
			d.queue.Wake(again...)
		}
		if !goOn {
			return
		}
	}
}

// finish takes a job that was settled off the books. It returns the lanes the caller has to wake, and
// whether the worker is to wait for another job.
func (d *Dispatcher) finish(w *worker, l *lane) (wake []queue.Lane, goOn bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.inFlight--
	d.inFlight--
	if d.wake(l) {
		wake = append(wake, l.id)
	}
	if len(d.starved) > 0 && 2*(d.workers-d.inFlight) >= d.workers {
		for i, s := range d.starved {
			s.starved = false
			if d.wake(s) {
				wake = append(wake, s.id)
			}
			d.forget(s)
			d.starved[i] = nil
		}
		d.starved = d.starved[:0]
	}
	d.forget(l)
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

// trimEvery is how long a worker may be idle, within a factor of two, before it is let go.
const trimEvery = 10 * time.Second

// trim lets go of the workers that were not needed since the last time: the goroutines of a burst
// should not hold their stacks for ever.
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
		d.mu.Unlock()
	}
}
