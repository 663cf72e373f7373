package dispatch

import (
	"time"

	"herald/queue"
)

// lane is what the dispatcher knows of one subscription that has pushes under way, had some lately, fails,
// or is to be left alone. It is guarded by Dispatcher.mu.
type lane struct {
	id       queue.Lane
	inFlight int
	// policy is that of the subscription, which is active; nil while it has to be read.
	policy *policy
	// target and since are those of the policy the reader found last.
	target uint64
	since  time.Time
	// reading: the lane is with the reader, or stands in Dispatcher.unread.
	reading bool
	// gen grows with every Changed. An attempt may start only under the gen it read its subscription in.
	gen uint64

	// window is how many pushes the receiver has shown to be good for, from 1; pace is how quickly it
	// answers. See learn.
	window int
	pace   pace
	// most is the largest batch that may be taken, 0 when none was refused for its size.
	most int
	// proven, slow and failed are how it went: some push succeeded, the last success took long, the last
	// push failed. See share.
	proven, slow, failed bool
	// trouble is set while the receiver fails.
	trouble *trouble

	// held: nothing may be claimed until Changed, or until heldUntil when that is set.
	held      bool
	heldUntil int64
	// rest is the moment before which the receiver asked to be left alone.
	rest int64
	// bucket limits records, pushes limits pushes.
	bucket, pushes bucket
	// catchUp is set while what goes out was accepted before: when the subscription was enabled.
	catchUp time.Time

	// nudged: somebody asked for a push now, which is to be thought of when the subscription is read.
	nudged bool
	// hurried: the next push does not wait to be full.
	hurried bool

	// refused: room said no, so the queue has set the lane aside and must be told when there is some. When
	// only time helps, until is when.
	refused bool
	until   int64
	// starved: the lane stands in Dispatcher.starved; queued: in Dispatcher.queued.
	starved, queued bool
	// round and allowance are what room answered in the Claim under way.
	round     uint64
	allowance int
	// tick is when it was last used, in ticks of trim.
	tick uint64

	// warnAt is when the next warning is due. All moments are of Dispatcher.clock, 0 for none.
	warnAt int64
	// alarm is the next of the moments, alarmAt the place in Dispatcher.alarms + 1.
	alarm   int64
	alarmAt int
}

// laneOf returns the lane, which is new and to be read if it was not known. The caller holds mu.
func (d *Dispatcher) laneOf(id queue.Lane) *lane {
	l := d.lanes[id]
	if l == nil {
		l = &lane{id: id, window: 1, tick: d.tick}
		d.lanes[id] = l
		d.toRead(l)
	}
	return l
}

// limit is how many pushes the lane may have under way as far as it is concerned. Its policy is known.
func (l *lane) limit() int {
	if l.trouble.open() {
		return 1
	}
	return min(max(l.window, l.policy.least), l.policy.max)
}

// wait is when the lane may have a push again, or 0 when it may now, as far as time goes.
func (l *lane) wait(now int64) int64 {
	until := l.rest
	if l.trouble.open() {
		until = l.trouble.probeAt // in which the rest is reckoned with
	}
	if until <= now {
		until = 0
	}
	return max(until, l.bucket.next(now), l.pushes.next(now))
}

// timeless says whether wait is 0 at any time.
func (l *lane) timeless() bool {
	return l.trouble == nil && l.rest == 0 && l.bucket.interval == 0 && l.pushes.interval == 0
}

// maxBatchBytes bounds the data of a push of several records: a thousand of the largest payloads would fill the
// memory, and no receiver takes as much.
const maxBatchBytes = 4 << 20

// room says how much of a lane may be claimed now, and how; the queue calls it from within Claim, with its
// own lock held. What it has allowed is for the whole of that Claim: asked again it answers the same. What it
// has refused is looked at anew, as a Claim may wait for long.
func (d *Dispatcher) room(id queue.Lane) queue.Room {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.laneOf(id)
	if l.round != d.round {
		l.round, l.allowance = d.round, 0
	}
	if l.held || l.policy == nil {
		if !l.held {
			d.toRead(l)
		}
		return queue.Room{}
	}
	var now int64
	if !l.timeless() {
		now = d.clock()
		if until := l.wait(now); until > 0 {
			l.allowance, l.refused, l.until = 0, true, until
			d.setAlarm(l)
			return queue.Room{}
		}
	}
	if l.allowance <= 0 {
		l.allowance = d.share(l)
		if l.allowance <= 0 {
			l.allowance, l.refused = 0, true
			return queue.Room{}
		}
		if l.pushes.interval > 0 {
			l.allowance = min(l.allowance, l.pushes.available(now))
		}
		d.grant(l)
	}
	p := l.policy
	r := queue.Room{Pushes: l.allowance, Records: p.records, Bytes: maxBatchBytes, Wait: p.wait, Order: p.order, Key: p.key, KeyID: p.keyID}
	if l.hurried {
		r.Wait = 0
	}
	if l.most > 0 {
		r.Records = min(r.Records, l.most)
	}
	if l.bucket.interval > 0 {
		r.Total = l.bucket.available(now)
		r.Records = min(r.Records, r.Total)
	}
	return r
}

// wake makes sure that the queue asks again for a lane that it set aside, and says whether the
// caller must call queue.Wake for it, after letting go of mu. While nobody claims it is enough to
// remember the lane: many are then woken in one call.
func (d *Dispatcher) wake(l *lane) bool {
	if !l.refused || l.held || l.policy == nil || l.limit() <= l.inFlight {
		return false
	}
	if !l.timeless() {
		until := l.wait(d.clock())
		if until != l.until {
			l.until = until
			d.setAlarm(l)
		}
		if until > 0 {
			return false
		}
	}
	l.refused = false
	if d.claiming {
		return true
	}
	d.toWake = append(d.toWake, l.id)
	return false
}

// forgettable tells whether a lane has nothing to remember but its window. The caller holds mu.
func (d *Dispatcher) forgettable(l *lane, now int64) bool {
	promised := d.claiming && l.round == d.round && l.allowance > 0
	return l.inFlight == 0 && !l.held && !l.reading && !l.starved && !l.queued && !l.refused && !promised &&
		l.trouble == nil && l.rest <= now && l.bucket.full <= now && l.pushes.full <= now && l.alarmAt == 0
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
	l.heldUntil = 0
	d.setAlarm(l)
}

// holdFor leaves a lane alone for a while, after which its subscription is read again. The caller holds mu.
func (d *Dispatcher) holdFor(l *lane, wait time.Duration) {
	d.setHeld(l, true)
	l.heldUntil = d.clock() + int64(wait)
	d.setAlarm(l)
}

// Changed tells the dispatcher that the subscription of a lane was changed or deleted; it is to be
// called after the store has the change and before its owner is answered. Once it has returned no
// attempt starts on what the subscription was before: none at all when it was deleted or paused.
// Attempts already started go on. A lane that was held is looked at anew, and what its receiver refused for
// its size is forgotten. A circuit breaker stays as it is unless the change made Subscription.Health zero.
func (d *Dispatcher) Changed(id queue.Lane) {
	d.mu.Lock()
	l := d.lanes[id]
	if l != nil {
		l.gen++
		l.most, l.policy = 0, nil
		d.setHeld(l, false)
		d.toRead(l)
	}
	d.mu.Unlock()
	if l == nil {
		d.queue.Wake(id)
	}
	rouse(d.replayable)
}

// Nudge tells the dispatcher that a person wants to see a push to the subscription now, as after
// queue.Queue.Retry: a rest that the receiver asked for is over, and the next probe of an open circuit breaker
// may go out. It does not block.
func (d *Dispatcher) Nudge(id queue.Lane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.laneOf(id)
	l.nudged = true
	d.toRead(l)
}
