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
// may together hold half of the workers; with those that are slow, or have yet to answer, three quarters; and
// one of which nothing is known finds a place among seven eighths for its first push. The rest is for those
// whose receivers answer well: they find a worker beside any number that hang.
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
	if quota := d.quota(l.kind()); quota <= 0 {
		d.enqueue(l)
		share = 0
	} else {
		share = min(share, quota)
	}
	return min(own, share)
}

// kind is how a lane has done, as far as that decides how many workers it may have together with others.
type kind int

const (
	kindFailed  kind = iota // its last push failed
	kindSuspect             // it answers slowly, or has yet to answer
	kindUnknown             // it had no push yet
	kindGood
)

func (l *lane) kind() kind {
	switch {
	case l.failed:
		return kindFailed
	case l.proven && !l.slow:
		return kindGood
	case l.proven || l.inFlight > 0:
		return kindSuspect
	}
	return kindUnknown
}

// quota is how many more workers lanes of a kind may have together.
func (d *Dispatcher) quota(k kind) int {
	all := d.workers - d.busy.suspect - d.promised.suspect
	switch k {
	case kindFailed:
		return min(d.workers-d.workers/2-d.busy.failed-d.promised.failed, all-d.workers/4)
	case kindSuspect:
		return all - d.workers/4
	case kindUnknown:
		return all - d.workers/8
	case kindGood:
	}
	return d.workers
}

// tally counts workers: those of lanes that failed, and all of lanes that are not good.
type tally struct{ failed, suspect int }

func (t *tally) add(l *lane, n int) {
	if l.failed {
		t.failed += n
	}
	if l.failed || l.slow || !l.proven {
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
	for k := range kindGood {
		if len(d.queued[k]) > 0 {
			wake = d.dequeue(k, wake)
		}
	}
	return wake
}

// enqueue notes a lane that was refused a worker for its quota. The caller holds mu.
func (d *Dispatcher) enqueue(l *lane) {
	if !l.queued {
		l.queued = true
		k := l.kind()
		d.queued[k] = append(d.queued[k], l)
	}
}

// dequeue wakes as many lanes as there is room for: one for one, so that it costs nothing that very many
// wait. All of them come when nothing that counts is in use, so that none is left behind because another did
// not take its turn. The caller holds mu.
func (d *Dispatcher) dequeue(k kind, wake []queue.Lane) []queue.Lane {
	from := d.queued[k]
	room := d.quota(k)
	if d.busy.suspect == 0 {
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
	if len(from) == 0 {
		from = nil
	}
	d.queued[k] = from
	return wake
}
