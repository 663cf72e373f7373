package boltqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// leaseKey names a leased delivery.
type leaseKey struct {
	seq  uint64
	lane uint32
}

// lease is a delivery in the hands of whoever claimed it. It lives in memory only.
type lease struct {
	ordinal  uint32
	size     uint32
	fresh    bool
	settling bool // a settlement is on its way to the disk
	// doomed: its lane was given up meanwhile, so it is not tried again.
	doomed   bool
	due      int64 // of a retry, in milliseconds
	attempts int32
	retries  int32
	key      uint64 // in a lane with an order
	unkeyed  bool   // leased before the lane got its order
	released bool   // delivered, and its key given to the next, though the disk does not know of it yet
	byHand   bool   // of a retry: it was made due by hand, or by a replay
	replay   bool   // of a retry: it was made due by a replay, and has not arrived since
	extra    bool   // of a retry: its event does not name the lane
	batch    uint64 // the first event of the batch it was retried in, 0 for none
}

// pick is one claim in the making: parts[from:to] of Queue.parts.
type pick struct {
	lane     *lane
	from, to int
	leased   int // how many of the parts were leased when it was picked
	fresh    bool
	dropped  bool // what is on disk says it is no longer to be tried
	again    bool // it cannot be tried just now
}

// part is one delivery of a pick.
type part struct {
	seq     uint64
	lease   lease
	segment uint64 // 0 when it is gone
	event   *queue.Event
}

// farAway is how long Claim waits when no timer is set.
const farAway = time.Hour

// Claim implements queue.Queue.
func (q *Queue) Claim(ctx context.Context, limit int, room func(queue.Lane) queue.Room, dst []queue.Claim) ([]queue.Claim, error) {
	if limit < 1 {
		return dst, fmt.Errorf("claim: the limit is %d; at least 1 is needed", limit)
	}
	if q.claimed.Swap(true) {
		return dst, errors.New("claim: another Claim is under way")
	}
	defer q.claimed.Store(false)
	var timer *time.Timer
	for {
		if err := ctx.Err(); err != nil {
			return dst, err
		}
		if !q.running.Load() {
			return dst, queue.ErrClosed
		}
		next := q.pick(limit, room)
		if len(q.picks) > 0 {
			claims, err := q.complete(dst)
			if err != nil || len(claims) > len(dst) {
				return claims, err
			}
			continue
		}
		wait := farAway
		if next != math.MaxInt64 {
			wait = max(time.Until(time.UnixMilli(next)), 0)
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-q.work:
		case <-timer.C:
		case <-q.stopped:
		case <-ctx.Done():
		}
	}
}

// pick leases the deliveries of up to limit pushes, lanes taking turns. When there is none it returns when
// the next is due.
func (q *Queue) pick(limit int, room func(queue.Lane) queue.Room) (next int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	nowMs := time.Now().UnixMilli()
	for len(q.timers) > 0 && q.timers[0].heapDue <= nowMs {
		q.place(q.timers[0], nowMs)
	}
	q.round++
	clear(q.parts) // they hold events
	q.picks, q.parts = q.picks[:0], q.parts[:0]
	// What a lane takes in one turn: all of it when it is alone, one when many wait.
	turn := max(1, limit/max(1, q.ready.len()))
	for idle := 0; len(q.picks) < limit && idle < q.ready.len(); {
		l := q.ready.pop()
		l.ready = false
		if l.dropped || l.aside {
			continue
		}
		if l.round != q.round {
			l.round = q.round
			r := room(l.id)
			if r.Pushes <= 0 {
				l.allowance = 0
				l.aside, l.asideMs = true, nowMs
				q.untimer(l)
				continue
			}
			q.admit(l, r)
		}
		taken := 0
		for taken < turn && l.allowance > 0 && l.total > 0 && len(q.picks) < limit {
			if !q.next(l, nowMs) {
				break
			}
			l.allowance--
			taken++
		}
		q.place(l, nowMs)
		switch {
		case taken > 0:
			idle = 0
		case l.ready:
			idle++ // it has had its share; the others are still to be looked at
		}
	}
	next = math.MaxInt64
	if len(q.timers) > 0 {
		next = q.timers[0].heapDue
	}
	return next
}

// admit takes over what the lane may have. The lock is held.
func (q *Queue) admit(l *lane, r queue.Room) {
	l.allowance, l.fill, l.bytes, l.waitMs = r.Pushes, max(r.Records, 1), r.Bytes, 0
	if r.Wait > 0 && l.fill > 1 {
		l.waitMs = r.Wait.Milliseconds()
	}
	if l.total = r.Total; l.total <= 0 {
		l.total = math.MaxInt
	}
	if r.Order != l.order || r.Order == queue.OrderKey && r.KeyID != l.keyID {
		q.reorder(l, r)
	}
}

// next leases what the lane's next push carries: a retry whose time has come and first attempts take turns.
func (q *Queue) next(l *lane, nowMs int64) bool {
	if l.converting || l.cancelling {
		return false
	}
	if l.ord != nil {
		return q.nextInOrder(l, nowMs)
	}
	for {
		fresh := l.freshReady(q, nowMs)
		at, timed := l.retryReady(nowMs, fresh)
		switch {
		case fresh && (!timed || l.freshTurn):
			l.freshTurn = false
			if q.takeFresh(l, min(l.fill, l.total)) {
				return true
			}
		case timed:
			l.freshTurn = true
			r := l.retries[at]
			l.retries = slices.Delete(l.retries, at, at+1)
			l.retryVersion++
			if q.takeRetry(l, r) {
				return true
			}
		default:
			return false
		}
	}
}

// retryReady returns which of the lane's retries is to go next, if one may: while there are first attempts none that a replay made due.
func (l *lane) retryReady(nowMs int64, fresh bool) (at int, ok bool) {
	if l.notBefore > nowMs {
		return 0, false
	}
	for i, r := range l.retries {
		if r.due > nowMs {
			break
		}
		if !fresh || !r.replay {
			return i, true
		}
	}
	return 0, false
}

// takeFresh leases up to n first attempts of the window as one push.
func (q *Queue) takeFresh(l *lane, n int) bool {
	from := len(q.parts)
	size := int64(0)
	for len(q.parts)-from < n && l.windowLen() > 0 && !l.tooMuch(l.window[l.head], size) {
		if r := l.pop(q); q.leaseFresh(l, r) {
			size += int64(r.size)
		}
	}
	return q.picked(l, from, true)
}

// leaseFresh leases a first attempt, if its segment is not about to go.
func (q *Queue) leaseFresh(l *lane, r ref) bool {
	s := q.segmentOf(r.seq)
	if s == nil || s.retiring {
		return false
	}
	p := part{seq: r.seq, lease: lease{ordinal: r.ordinal, size: r.size, fresh: true, key: r.key}, segment: s.first}
	p.event = q.recall(s, r.seq)
	l.addPending(q, -1)
	q.leaseOut(l, &p, s)
	return true
}

// takeRetry leases a retry; what else belongs to its push is found in the file.
func (q *Queue) takeRetry(l *lane, r retryRef) bool {
	from := len(q.parts)
	q.leaseRetry(l, r, 0, 0)
	if !q.picked(l, from, false) {
		return false
	}
	if l.fill > 1 && l.total < math.MaxInt32 {
		l.total = 0 // how many more it brings along is not known yet, and may be all there may be
	}
	return true
}

// leaseRetry leases a retry, unless it is leased or its segment is about to go.
func (q *Queue) leaseRetry(l *lane, r retryRef, key, batch uint64) bool {
	s := q.segmentOf(r.seq)
	if _, taken := q.leases[leaseKey{r.seq, l.number}]; taken || s != nil && s.retiring {
		return false
	}
	p := part{seq: r.seq, lease: lease{due: r.due, key: key, batch: batch}}
	if s != nil {
		p.segment = s.first
	}
	l.addLeasedRetries(q, 1)
	q.leaseOut(l, &p, s)
	return true
}

func (q *Queue) leaseOut(l *lane, p *part, s *segment) {
	q.leases[leaseKey{p.seq, l.number}] = p.lease
	l.leased++
	if s != nil {
		s.leased++
	}
	q.parts = append(q.parts, *p)
}

// picked makes a pick of the parts from the position given on, if there is one.
func (q *Queue) picked(l *lane, from int, fresh bool) bool {
	n := len(q.parts) - from
	if n == 0 {
		return false
	}
	if l.ord != nil {
		slices.SortFunc(q.parts[from:], func(a, b part) int { return cmp.Compare(a.seq, b.seq) })
	}
	q.picks = append(q.picks, pick{lane: l, from: from, to: len(q.parts), leased: n, fresh: fresh})
	l.total -= n
	return true
}

// complete reads what the picks need from the file and turns them into claims.
func (q *Queue) complete(dst []queue.Claim) ([]queue.Claim, error) {
	read := false
	for i := range q.picks {
		read = read || !q.picks[i].fresh
	}
	for i := range q.parts {
		read = read || q.parts[i].event == nil
	}
	if read {
		err := q.view(q.readPicks)
		q.mu.Lock()
		for i := range q.picks {
			p := &q.picks[i]
			switch {
			case err != nil:
				q.unpick(p, true)
			case p.dropped:
				q.unpick(p, false)
				// It is something else by now, perhaps a retry at another time.
				p.lane.reloadRetries()
				q.place(p.lane, time.Now().UnixMilli())
			case !p.fresh && !q.leaseRest(p):
				p.again = true
				q.unpick(p, true)
			}
		}
		q.mu.Unlock()
		if err != nil {
			return dst, fmt.Errorf("claim: %w", err)
		}
	}
	for i := range q.picks {
		p := &q.picks[i]
		if p.dropped || p.again {
			continue
		}
		parts := q.parts[p.from:p.to]
		c := queue.Claim{
			Lane: p.lane.id, Deliveries: make([]queue.Leased, len(parts)),
			Attempt: int(parts[0].lease.attempts) + 1, Retries: int(parts[0].lease.retries),
			Replay: parts[0].lease.replay,
		}
		for j := range parts {
			c.Deliveries[j] = queue.Leased{Seq: parts[j].seq, Event: parts[j].event}
			c.Attempt = max(c.Attempt, int(parts[j].lease.attempts)+1)
		}
		dst = append(dst, c)
	}
	return dst, nil
}

// leaseRest leases the deliveries of a batch that were found in the file, and notes what it says of all. It
// returns false when one of them is about to go with its segment: the batch is dissolved by that. The lock
// is held.
func (q *Queue) leaseRest(p *pick) bool {
	l := p.lane
	kept := p.from
	for i := p.from; i < p.to; i++ {
		x := q.parts[i]
		key := leaseKey{x.seq, l.number}
		s := q.segmentOf(x.seq)
		le, taken := q.leases[key]
		switch {
		case taken && i < p.from+p.leased:
			le.attempts, le.retries, le.batch = x.lease.attempts, x.lease.retries, x.lease.batch
			le.byHand, le.replay, le.extra = x.lease.byHand, x.lease.replay, x.lease.extra
			q.leases[key] = le
		case taken:
			continue // made due on its own meanwhile, and already under way
		case s != nil && s.retiring:
			p.to = kept
			return false
		default:
			q.leases[key] = x.lease
			l.leased++
			l.addLeasedRetries(q, 1)
			if s != nil {
				s.leased++
			}
		}
		q.parts[kept] = x
		kept++
	}
	p.to = kept
	return true
}

// unpick takes the leases of a pick back.
func (q *Queue) unpick(p *pick, again bool) {
	if again && !p.fresh {
		p.lane.notBefore = max(p.lane.notBefore, time.Now().Add(busyAgain).UnixMilli())
	}
	for i := p.from; i < p.to; i++ {
		x := &q.parts[i]
		if le, ok := q.leases[leaseKey{x.seq, p.lane.number}]; ok {
			q.unlease(p.lane, x.seq, le, again)
		}
	}
}

// busyAgain is when a retry is looked at again that could not be leased for what is being done to its segment.
const busyAgain = 50 * time.Millisecond

// unlease takes a lease back. What is still to be tried goes back to its place. The lock is held.
func (q *Queue) unlease(l *lane, seq uint64, le lease, again bool) {
	delete(q.leases, leaseKey{seq, l.number})
	l.leased--
	s := q.segmentOf(seq)
	if s != nil {
		s.leased--
	}
	if !le.fresh {
		l.addLeasedRetries(q, -1)
	}
	if !le.released {
		l.ord.release(le.key)
	}
	switch {
	case (l.dropped || le.doomed) && le.fresh:
		if s != nil {
			s.unfinished-- // an unset bit says discarded
		}
	case l.dropped || le.doomed:
		// It is discarded with the other retries of the lane.
	case again && le.fresh:
		l.giveBack(q, ref{seq: seq, ordinal: le.ordinal, size: le.size, key: le.key})
		l.addPending(q, 1)
		if l.skip[seq] {
			q.unload(l) // it is found on disk with the others, and no longer to be skipped
		}
	case again:
		q.waitFor(l, seq, le.due, le, le.batch)
	}
	q.place(l, time.Now().UnixMilli())
	if s != nil && s.retiring && s.leased == 0 {
		q.tend.rouse()
	}
}

// readPicks fills in events and, for retries, what their records say and what else belongs to their push.
func (q *Queue) readPicks(tx *bolt.Tx) error {
	reader := eventReader{tx: tx}
	for i := range q.picks {
		p := &q.picks[i]
		if !p.fresh {
			if err := q.readRetry(tx, p); err != nil {
				return err
			}
			if p.dropped {
				continue
			}
		}
		for j := p.from; j < p.to; j++ {
			x := &q.parts[j]
			if x.event != nil {
				continue
			}
			var err error
			if x.segment != 0 {
				x.event, err = reader.event(x.segment, x.seq)
			} else {
				x.event, err = kept(tx, x.seq)
			}
			if err != nil {
				return err
			}
			if x.event == nil {
				return fmt.Errorf("%w: event %d is missing", errDamaged, x.seq)
			}
		}
	}
	return nil
}

// readRetry reads the record of a retry, and the others of its batch when it is the first of one.
func (q *Queue) readRetry(tx *bolt.Tx, p *pick) error {
	first := &q.parts[p.from]
	key := leaseKey{first.seq, p.lane.number}
	f, ok, err := readFate(tx, key)
	if err != nil {
		return err
	}
	if !ok || f.state != fateRetrying || f.at != first.lease.due {
		p.dropped = true
		return nil
	}
	first.lease.attempts, first.lease.retries, first.lease.batch = int32(f.attempts), int32(f.retries), f.batch
	first.lease.byHand, first.lease.replay, first.lease.extra = f.byHand, f.replay, f.extra
	if f.batch == 0 {
		return nil
	}
	members, err := readBatch(tx, key)
	if err != nil {
		return err
	}
	if p.to == p.from+1 {
		// A lane without an order knows only the first. The parts of one pick stand together, at the end.
		head := *first
		p.from = len(q.parts)
		q.parts = append(q.parts, head)
		for _, seq := range members {
			q.parts = append(q.parts, part{seq: seq, segment: q.segmentFirst(seq), lease: head.lease})
		}
		p.to = len(q.parts)
	}
	for i := p.from + 1; i < p.to; i++ {
		x := &q.parts[i]
		if f.replay {
			// What a replay brought together had not been tried as often.
			if f, _, err = readFate(tx, leaseKey{x.seq, p.lane.number}); err != nil {
				return err
			}
		}
		x.lease.attempts, x.lease.retries, x.lease.batch = int32(f.attempts), int32(f.retries), f.batch
		x.lease.byHand, x.lease.replay, x.lease.extra = f.byHand, f.replay, f.extra
	}
	return nil
}

// Wake implements queue.Queue.
func (q *Queue) Wake(lanes ...queue.Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	nowMs := time.Now().UnixMilli()
	for _, id := range lanes {
		if l := q.lanes[id]; l != nil && (l.aside || l.waitMs > 0) {
			l.aside, l.waitMs = false, 0 // how long to wait is asked anew, too
			q.place(l, nowMs)
		}
	}
}
