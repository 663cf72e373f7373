package dispatch

import (
	"time"

	"herald/queue"
)

// lane is what the dispatcher knows of one subscription while it has something to remember: attempts
// under way, or a reason to leave it alone. It is guarded by Dispatcher.mu.
type lane struct {
	id       queue.Lane
	inFlight int
	// max is the subscription's own MaxConcurrency, 0 for the default; it counts once known is set.
	max   int
	known bool
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
}

func (l *lane) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// room says how many deliveries of a lane may be claimed now; the queue calls it from within Claim,
// with its own lock held. Asked again in the same Claim it answers the same, as the answer is for the
// whole of it.
//
// A lane is let have half of what it would leave free for the others, so that however many lanes
// hang, each holds no more workers than are free for the rest, and a lane that has none under way
// always gets one. A lane of which nothing is known yet gets one too: its attempt finds out.
func (d *Dispatcher) room(id queue.Lane) int {
	limit := d.defaults.Load().MaxConcurrency
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[id]
	if l == nil {
		l = &lane{id: id}
		d.lanes[id] = l
	}
	if l.round == d.round {
		return l.allowance
	}
	l.round, l.allowance = d.round, 0
	d.asked = append(d.asked, l)
	if l.held {
		return 0
	}
	if !l.known {
		limit = 1
	} else if l.max > 0 {
		limit = l.max
	}
	share := (d.workers - d.inFlight - d.granted - l.inFlight + 1) / 2
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
	return l.allowance
}

// wake makes sure that the queue asks again for a lane that it set aside, and says whether the
// caller must call queue.Wake for it, after letting go of mu. While nobody claims it is enough to
// remember the lane: many are then woken in one call.
func (d *Dispatcher) wake(l *lane) bool {
	if !l.refused || l.held {
		return false
	}
	l.refused = false
	if d.claiming {
		return true
	}
	d.toWake = append(d.toWake, l.id)
	return false
}

// forget frees the state of a lane that has nothing to remember. A lane that room saw in the Claim
// under way is kept until that has returned.
func (d *Dispatcher) forget(l *lane) {
	if l.inFlight > 0 || l.held || l.starved || l.refused || d.claiming && l.round == d.round {
		return
	}
	delete(d.lanes, l.id)
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
		l.known = false
		l.refused = false
		d.setHeld(l, false)
		d.forget(l)
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
		d.forget(l)
		d.mu.Unlock()
		d.queue.Wake(l.id)
	})
	l.timer = t
}
