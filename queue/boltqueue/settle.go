package boltqueue

import (
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// settlement is one on its way to the disk.
type settlement struct {
	lane  *lane
	key   leaseKey
	lease lease
	// What the caller said.
	attempt *queue.Attempt
	state   queue.State
	due     int64
	reason  string
	// What was written.
	fate fate
	// retried: it was a retry, whose record was replaced.
	retried bool
}

// Settle implements queue.Queue.
func (q *Queue) Settle(ss ...queue.Settlement) {
	if len(ss) == 0 || !q.running.Load() {
		return
	}
	nowMs := time.Now().UnixMilli()
	list := make([]settlement, 0, len(ss))
	q.mu.Lock()
	for q.unsettled >= q.o.MaxUnsettled && q.running.Load() {
		q.settledUp.Wait()
	}
	for i := range ss {
		s := &ss[i]
		l := q.lanes[s.Lane]
		if l == nil {
			continue
		}
		key := leaseKey{s.Deliveries[0].Seq, l.number}
		le, ok := q.leases[key]
		if !ok || le.settling {
			continue
		}
		out := settlement{lane: l, key: key, lease: le, attempt: s.Attempt, state: s.State, reason: s.Reason}
		switch s.State {
		case queue.StateDelivered, queue.StateDead, queue.StateDiscarded:
		case queue.StateRetrying:
			out.due = nowMs
			if !s.Due.IsZero() {
				// Rounded up: a retry is never early.
				out.due = max(s.Due.Add(time.Millisecond-1).UnixMilli(), 1)
			}
		default: // given back
			if s.Attempt == nil {
				q.unlease(&pick{lane: l, key: key, lease: le}, true)
				continue
			}
			// It has been tried, so it is no longer one that waits for its first attempt.
			out.state, out.due = queue.StatePending, nowMs
		}
		le.settling = true
		q.leases[key] = le
		list = append(list, out)
	}
	q.unsettled += len(list)
	q.mu.Unlock()
	if len(list) > 0 {
		q.commits.Submit(work{settled: list}) // when the queue ended, a crash could not do worse
	}
}

// settleOne writes what became of one delivery.
func (q *Queue) settleOne(tx *bolt.Tx, st *stage, s *settlement) error {
	q.mu.Lock()
	dropped := s.lane.dropped
	segment := q.segmentOf(s.key.seq)
	q.mu.Unlock()
	key := keySeqLane(s.key.seq, s.key.lane)
	fates := tx.Bucket(bucketFate)
	f := fate{}
	if !s.lease.fresh {
		var err error
		if f, err = decodeFate(fates.Get(key)); err != nil {
			return fmt.Errorf("delivery %d/%d: %w", s.key.seq, s.key.lane, err)
		}
		if s.retried = f.state == fateRetrying; s.retried {
			if err := tx.Bucket(bucketDue).Delete(keyLaneTime(s.key.lane, f.at, s.key.seq)); err != nil {
				return err
			}
		}
	}
	if s.attempt != nil {
		f.attempts++
		st.log = append(st.log, entry{s.key.seq, s.key.lane, trimAttempt(*s.attempt, f.attempts)})
	}
	f.at, f.reason = st.nowMs, ""
	switch {
	case s.state == queue.StateDelivered:
		f.state = fateDelivered
	case dropped:
		if s.lease.fresh {
			s.fate = fate{state: fateDiscarded}
			return nil // an unset bit of a dropped lane says discarded
		}
		f.state, f.reason = fateDiscarded, queue.ReasonUnsubscribed
	case s.state == queue.StateDead:
		f.state, f.reason = fateDead, s.reason
	case s.state == queue.StateDiscarded:
		f.state, f.reason = fateDiscarded, s.reason
	default:
		f.state, f.at = fateRetrying, s.due
		if s.attempt != nil && s.state == queue.StateRetrying {
			f.retries++
		}
	}
	s.fate = f
	if s.lease.fresh {
		st.marks = append(st.marks, mark{segment.first, s.lease.ordinal})
		if f.state == fateDelivered && f.attempts == 1 {
			return nil // the usual way needs no record
		}
	}
	return putFate(tx, s.key, f, segment == nil)
}

// putFate writes a fate and its entry in the index it belongs to.
func putFate(tx *bolt.Tx, key leaseKey, f fate, orphan bool) error {
	switch {
	case f.state == fateRetrying:
		if err := tx.Bucket(bucketDue).Put(keyLaneTime(key.lane, f.at, key.seq), nil); err != nil {
			return err
		}
	case f.indexed(orphan):
		if err := tx.Bucket(bucketDied).Put(keyLaneTime(key.lane, f.at, key.seq), nil); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketFate).Put(keySeqLane(key.seq, key.lane), f.encode())
}

// finish brings memory up to date with a settlement that is on disk. The lock is held.
func (q *Queue) finish(st *stage, s *settlement) {
	delete(q.leases, s.key)
	l, f := s.lane, s.fate
	segment := q.segmentOf(s.key.seq)
	if segment != nil {
		segment.leased--
		if segment.retiring && segment.leased == 0 {
			q.tend.rouse()
		}
	}
	if !s.lease.fresh {
		l.addLeasedRetries(q, -1)
	}
	if s.retried {
		l.addRetrying(q, -1)
	}
	if f.state == fateRetrying {
		l.addRetrying(q, 1)
		l.retryVersion++
		if l.dropped {
			q.convert(l) // dropped by the same commit
			return
		}
		l.insertRetry(retryRef{f.at, s.key.seq})
		q.place(l, st.nowMs)
		return
	}
	q.place(l, st.nowMs)
	if segment != nil {
		segment.unfinished--
	}
	q.ended(l, f, segment == nil)
}

// ended counts a delivery that came to its end. The lock is held.
func (q *Queue) ended(l *lane, f fate, orphan bool) {
	if f.state == fateDead {
		l.dead++
		q.dead++
	}
	if f.indexed(orphan) {
		l.noteDied(f.at)
	}
}

// noteDied keeps the earliest time in died of the lane.
func (l *lane) noteDied(ms int64) {
	if l.oldestDied == 0 || ms < l.oldestDied {
		l.oldestDied = ms
	}
}
