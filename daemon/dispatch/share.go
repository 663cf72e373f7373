package dispatch

import "herald/queue"

// share says how many more pushes of a lane may start: as many as it is good for, and no more than leaves
// enough workers to the others. The caller holds mu.
//
// A lane may have no more workers than half of what it leaves free for the others. So each further lane
// that takes all it may leaves two thirds of what it found, and a lane that has none under way gets
// one as long as there is one.
//
// That alone would let very many lanes hold all workers with one push each. So those whose last push failed
// may together hold half of the workers, and with those that are slow, or of which nothing is known yet,
// three quarters. A receiver that works, and one that is new, finds a worker beside any number that hang.
func (d *Dispatcher) share(l *lane) int {
	own := l.limit() - l.inFlight
	if own <= 0 {
		return 0
	}
	share := (d.workers - d.inFlight - d.granted - 2*l.inFlight + 2) / 3
	if l.inFlight == 0 {
		share = max(share, 1)
	}
	if share <= 0 && !l.starved {
		l.starved = true
		d.starved = append(d.starved, l)
	}
	if quota := d.quota(l); quota <= 0 {
		d.enqueue(l)
		share = 0
	} else {
		share = min(share, quota)
	}
	return min(own, share)
}

// suspect says whether the lane has yet to show that its receiver answers well.
func (l *lane) suspect() bool { return l.failed || l.slow || !l.proven }

// failedLimit and suspectLimit are how many workers lanes may have together whose last push failed, or that are
// suspect.
func (d *Dispatcher) failedLimit() int  { return max(d.workers/2, 1) }
func (d *Dispatcher) suspectLimit() int { return max(d.workers*3/4, 1) }

// quota is how many more workers lanes like this one may have.
func (d *Dispatcher) quota(l *lane) int {
	left := d.workers
	if l.failed {
		left = min(left, d.failedLimit()-d.busy.failed-d.promised.failed)
	}
	if l.suspect() {
		left = min(left, d.suspectLimit()-d.busy.suspect-d.promised.suspect)
	}
	return left
}

// tally counts workers by how the lanes that have them do.
type tally struct{ failed, suspect int }

func (t *tally) add(l *lane, n int) {
	if l.failed {
		t.failed += n
	}
	if l.suspect() {
		t.suspect += n
	}
}

// grant notes what room allowed. A lane that waits for a batch to fill may leave it unused for long, and
// therefore does not keep others from workers meanwhile. The caller holds mu.
func (d *Dispatcher) grant(l *lane) {
	if l.policy.wait == 0 {
		d.granted += l.allowance
		d.promised.add(l, l.allowance)
	}
}

// unstarve finds the lanes that were refused workers for the sake of others and may have some now; it
// appends those that the caller has to wake to wake. The caller holds mu.
func (d *Dispatcher) unstarve(wake []queue.Lane) []queue.Lane {
	if len(d.starved) > 0 && 2*(d.workers-d.inFlight) >= d.workers {
		for i, l := range d.starved {
			l.starved = false
			if d.wake(l) {
				wake = append(wake, l.id)
			}
			d.starved[i] = nil
		}
		d.starved = d.starved[:0]
	}
	if len(d.queued.suspect)+len(d.queued.failed) > 0 {
		left := d.suspectLimit() - d.busy.suspect
		d.queued.suspect, wake = d.dequeue(d.queued.suspect, left, d.busy.suspect, wake)
		left = min(left, d.failedLimit()-d.busy.failed)
		d.queued.failed, wake = d.dequeue(d.queued.failed, left, d.busy.failed, wake)
	}
	return wake
}

// enqueue notes a lane that was refused a worker for its quota. The caller holds mu.
func (d *Dispatcher) enqueue(l *lane) {
	switch {
	case l.queued:
		return
	case l.failed:
		d.queued.failed = append(d.queued.failed, l)
	default:
		d.queued.suspect = append(d.queued.suspect, l)
	}
	l.queued = true
}

// dequeue wakes as many lanes as there is room for: one for one, so that it costs nothing that very many
// wait. All of them come when none of their kind is in use, so that none is left behind because another did
// not take its turn. The caller holds mu.
func (d *Dispatcher) dequeue(from []*lane, room, busy int, wake []queue.Lane) (left []*lane, woken []queue.Lane) {
	if busy == 0 {
		room = len(from)
	}
	for ; room > 0 && len(from) > 0; room-- {
		l := from[0]
		from[0] = nil
		from = from[1:]
		l.queued = false
		if d.wake(l) {
			wake = append(wake, l.id)
		}
	}
	return from, wake
}
