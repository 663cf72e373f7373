package dispatch

import (
	"cmp"
	"net/http"
	"time"

	"herald/queue"
)

// lane is what the dispatcher knows of one subscription that has attempts under way, had some lately,
// or is to be left alone. It is guarded by Dispatcher.mu.
type lane struct {
	id       queue.Lane
	inFlight int
	// max is the subscription's own MaxConcurrency, 0 for the default.
	max int
	// window is how many attempts the receiver has shown to be good for, from 1: see learn.
	window int
	// gen grows with every Changed. An attempt may start only under the gen it read its subscription in.
	gen uint64
	// held: nothing may be claimed until Changed, or until timer when it is set.
	held  bool
	timer *time.Timer
	// refused: room said no, so the queue has set the lane aside and must be told when there is some.
	refused bool
	// starved: the lane stands in Dispatcher.starved.
	starved bool
	// round and allowance are what room answered in the Claim under way.
	round     uint64
	allowance int
	// tick is when it was last used, in ticks of trim.
	tick uint64
}

func (l *lane) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// learn adjusts the window by what an attempt came to. It opens by one with each success, and so doubles
// in the time of one answer; it is halved by each attempt that got no answer, or the answer that there
// are too many. A receiver that hangs soon holds one worker, which probes it, while the rest of its
// deliveries wait at no cost. Other failures leave the window as it is: they come quickly.
func (l *lane) learn(out *queue.Outcome, limit int) {
	switch {
	case out.Class == queue.ClassDelivered:
		l.window = min(l.window+1, limit)
	case out.Status == 0, out.Status == http.StatusTooManyRequests, out.Status == http.StatusServiceUnavailable:
		l.window = max(l.window/2, 1)
	}
}

// limit is how many attempts the lane may have under way as far as it is concerned.
func (d *Dispatcher) limit(l *lane) int {
	return cmp.Or(l.max, d.defaults.Load().MaxConcurrency)
}

// room says how many deliveries of a lane may be claimed now; the queue calls it from within Claim,
// with its own lock held. What it has allowed is for the whole of that Claim: asked again it answers the
// same. What it has refused is looked at anew, as a Claim may wait for long.
//
// A lane may have no more workers than half of what it leaves free for the others. So each further lane
// that takes all it may leaves two thirds of what it found, and a lane that has none under way gets
// one as long as there is one.
func (d *Dispatcher) room(id queue.Lane) queue.Room {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[id]
	if l == nil {
		l = &lane{id: id, window: 1, tick: d.tick}
		d.lanes[id] = l
	}
	if l.round != d.round {
		l.round, l.allowance = d.round, 0
	}
	if l.held {
		return queue.Room{}
	}
	if l.allowance > 0 {
		return queue.Room{Pushes: l.allowance}
	}
	limit := min(l.window, d.limit(l))
	share := (d.workers - d.inFlight - d.granted - 2*l.inFlight + 2) / 3
	if l.inFlight == 0 {
		share = max(share, 1)
	}
	l.allowance = min(limit-l.inFlight, share)
	if l.allowance <= 0 {
		l.allowance = 0
		l.refused = true
		if limit > l.inFlight && !l.starved {
			l.starved = true
			d.starved = append(d.starved, l)
		}
	}
	d.granted += l.allowance
	return queue.Room{Pushes: l.allowance}
}

// wake makes sure that the queue asks again for a lane that it set aside, and says whether the
// caller must call queue.Wake for it, after letting go of mu. While nobody claims it is enough to
// remember the lane: many are then woken in one call.
func (d *Dispatcher) wake(l *lane) bool {
	if !l.refused || l.held || min(l.window, d.limit(l)) <= l.inFlight {
		return false
	}
	l.refused = false
	if d.claiming {
		return true
	}
	d.toWake = append(d.toWake, l.id)
	return false
}

// forgettable tells whether a lane has nothing to remember but its window.
func (d *Dispatcher) forgettable(l *lane) bool {
	promised := d.claiming && l.round == d.round && l.allowance > 0
	return l.inFlight == 0 && !l.held && !l.starved && !l.refused && !promised
}

func (d *Dispatcher) setHeld(l *lane, held bool) {
	if l.held != held {
		l.held = held
		if held {
			d.held++
		} else {
			d.held--
		}
	}
	l.stopTimer()
}

// Changed tells the dispatcher that the subscription of a lane was changed or deleted; it is to be
// called after the store has the change and before its owner is answered. Once it has returned no
// attempt starts on what the subscription was before: none at all when it was deleted or paused.
// Attempts already started go on. A lane that was held is looked at anew.
func (d *Dispatcher) Changed(id queue.Lane) {
	d.mu.Lock()
	if l := d.lanes[id]; l != nil {
		l.gen++
		l.refused = false
		d.setHeld(l, false)
	}
	d.mu.Unlock()
	d.queue.Wake(id)
}

// holdFor leaves a lane alone for a while. The caller holds mu.
func (d *Dispatcher) holdFor(l *lane, wait time.Duration) {
	if d.draining {
		return
	}
	d.setHeld(l, true)
	var t *time.Timer
	t = time.AfterFunc(wait, func() {
		d.mu.Lock()
		if l.timer != t {
			d.mu.Unlock()
			return
		}
		l.timer = nil
		l.refused = false
		d.setHeld(l, false)
		d.mu.Unlock()
		d.queue.Wake(l.id)
	})
	l.timer = t
}
