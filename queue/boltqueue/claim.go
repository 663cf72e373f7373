package boltqueue

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	fresh    bool
	settling bool  // a settlement is on its way to the disk
	due      int64 // of a retry, in milliseconds
	attempts int32
	retries  int32
}

// pick is a lease being handed out.
type pick struct {
	lane    *lane
	key     leaseKey
	lease   lease
	segment uint64 // 0 when it is gone
	event   *queue.Event
	dropped bool // what is on disk says it is no longer to be tried
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
		picks, next := q.pick(limit, room)
		if len(picks) > 0 {
			claims, err := q.complete(picks, dst)
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

// pick leases up to limit due deliveries, lanes taking turns. When there is none it returns when the
// next retry is due.
func (q *Queue) pick(limit int, room func(queue.Lane) queue.Room) (picks []pick, next int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	nowMs := time.Now().UnixMilli()
	for len(q.timers) > 0 && q.timers[0].heapDue <= nowMs {
		q.place(q.timers[0], nowMs)
	}
	q.round++
	// What a lane takes in one turn: all of it when it is alone, one when many wait.
	turn := max(1, limit/max(1, q.ready.len()))
	for idle := 0; len(picks) < limit && idle < q.ready.len(); {
		l := q.ready.pop()
		l.ready = false
		if l.dropped || l.aside {
			continue
		}
		if l.round != q.round {
			l.round = q.round
			if l.allowance = room(l.id).Pushes; l.allowance <= 0 {
				l.aside = true
				q.untimer(l)
				continue
			}
		}
		taken := 0
		for taken < turn && l.allowance > 0 && len(picks) < limit {
			p, ok := q.next(l, nowMs)
			if !ok {
				break
			}
			picks = append(picks, p)
			l.allowance--
			taken++
		}
		if taken == 0 {
			idle++
		} else {
			idle = 0
		}
		q.place(l, nowMs)
	}
	next = math.MaxInt64
	if len(q.timers) > 0 {
		next = q.timers[0].heapDue
	}
	return picks, next
}

// next leases the lane's next due delivery: a retry whose time has come and a first attempt take turns.
func (q *Queue) next(l *lane, nowMs int64) (pick, bool) {
	for {
		due, timed := l.dueAt()
		timed = timed && due <= nowMs
		fresh := l.windowLen() > 0
		switch {
		case fresh && (!timed || l.freshTurn):
			l.freshTurn = false
			r := l.pop(q)
			s := q.segmentOf(r.seq)
			if s == nil || s.retiring {
				continue
			}
			p := pick{lane: l, key: leaseKey{r.seq, l.number}, lease: lease{ordinal: r.ordinal, fresh: true}, segment: s.first}
			p.event = q.recall(s, r.seq)
			l.addPending(q, -1)
			return q.leaseOut(p, s), true
		case timed:
			l.freshTurn = true
			r := l.retries[0]
			l.retries = l.retries[:copy(l.retries, l.retries[1:])]
			l.retryVersion++
			s := q.segmentOf(r.seq)
			key := leaseKey{r.seq, l.number}
			if _, taken := q.leases[key]; taken || s != nil && s.retiring {
				continue
			}
			p := pick{lane: l, key: key, lease: lease{due: r.due}}
			if s != nil {
				p.segment = s.first
			}
			l.addLeasedRetries(q, 1)
			return q.leaseOut(p, s), true
		default:
			return pick{}, false
		}
	}
}

func (q *Queue) leaseOut(p pick, s *segment) pick {
	q.leases[p.key] = p.lease
	if s != nil {
		s.leased++
	}
	return p
}

// complete reads what the picks need from the file and turns them into claims.
func (q *Queue) complete(picks []pick, dst []queue.Claim) ([]queue.Claim, error) {
	read := false
	for i := range picks {
		if picks[i].event == nil || !picks[i].lease.fresh {
			read = true
			break
		}
	}
	if read {
		err := q.view(func(tx *bolt.Tx) error { return readPicks(tx, picks) })
		if err != nil {
			q.mu.Lock()
			for i := range picks {
				q.unlease(&picks[i], true)
			}
			q.mu.Unlock()
			return dst, fmt.Errorf("claim: %w", err)
		}
		q.mu.Lock()
		for i := range picks {
			p := &picks[i]
			if p.dropped {
				q.unlease(p, false)
				continue
			}
			if !p.lease.fresh {
				q.leases[p.key] = p.lease
			}
		}
		q.mu.Unlock()
	}
	for i := range picks {
		p := &picks[i]
		if p.dropped {
			continue
		}
		dst = append(dst, queue.Claim{
			Lane: p.lane.id, Deliveries: []queue.Leased{{Seq: p.key.seq, Event: p.event}},
			Attempt: int(p.lease.attempts) + 1, Retries: int(p.lease.retries),
		})
	}
	return dst, nil
}

// unlease takes a lease back. What is still to be tried goes back to its place. The lock is held.
func (q *Queue) unlease(p *pick, again bool) {
	delete(q.leases, p.key)
	l := p.lane
	s := q.segmentOf(p.key.seq)
	if s != nil {
		s.leased--
	}
	if !p.lease.fresh {
		l.addLeasedRetries(q, -1)
	}
	switch {
	case l.dropped && p.lease.fresh:
		if s != nil {
			s.unfinished-- // an unset bit of a dropped lane says discarded
		}
	case l.dropped:
		q.convert(l)
	case again && p.lease.fresh:
		l.giveBack(q, ref{p.key.seq, p.lease.ordinal})
		l.addPending(q, 1)
	case again:
		l.insertRetry(retryRef{p.lease.due, p.key.seq})
		l.retryVersion++
	}
	q.place(l, time.Now().UnixMilli())
	if s != nil && s.retiring && s.leased == 0 {
		q.tend.rouse()
	}
}

// readPicks fills in events and, for retries, what their records say.
func readPicks(tx *bolt.Tx, picks []pick) error {
	reader := eventReader{tx: tx}
	fates := tx.Bucket(bucketFate)
	for i := range picks {
		p := &picks[i]
		if !p.lease.fresh {
			v := fates.Get(keySeqLane(p.key.seq, p.key.lane))
			if v == nil {
				p.dropped = true
				continue
			}
			f, err := decodeFate(v)
			if err != nil {
				return fmt.Errorf("delivery %d/%d: %w", p.key.seq, p.key.lane, err)
			}
			if f.state != fateRetrying || f.at != p.lease.due {
				p.dropped = true
				continue
			}
			p.lease.attempts, p.lease.retries = int32(f.attempts), int32(f.retries)
		}
		if p.event != nil {
			continue
		}
		var err error
		if p.segment != 0 {
			p.event, err = reader.event(p.segment, p.key.seq)
		} else {
			p.event, err = kept(tx, p.key.seq)
		}
		if err != nil {
			return err
		}
		if p.event == nil {
			return fmt.Errorf("%w: event %d is missing", errDamaged, p.key.seq)
		}
	}
	return nil
}

// Wake implements queue.Queue.
func (q *Queue) Wake(lanes ...queue.Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	nowMs := time.Now().UnixMilli()
	for _, id := range lanes {
		if l := q.lanes[id]; l != nil && l.aside {
			l.aside = false
			q.place(l, nowMs)
		}
	}
}
