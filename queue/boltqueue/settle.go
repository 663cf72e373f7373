package boltqueue

import (
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// settlement is that of one delivery on its way to the disk.
type settlement struct {
	lane  *lane
	key   leaseKey
	lease lease
	// What the caller said.
	attempt *queue.Attempt
	state   queue.State
	due     int64
	reason  string
	// batch is all deliveries of the push, when they are to be tried again together.
	batch []uint64
	// dissolve: they are to be tried one by one, which uses up no retry.
	dissolve bool
	// What was written, and what it replaced.
	fate, old fate
	// retried: it was a retry, whose record was replaced.
	retried bool
}

// Settle implements queue.Queue.
func (q *Queue) Settle(ss ...queue.Settlement) {
	if len(ss) == 0 || !q.running.Load() {
		return
	}
	nowMs := time.Now().UnixMilli()
	n := 0
	for i := range ss {
		n += len(ss[i].Deliveries)
	}
	list := make([]settlement, 0, n)
	q.mu.Lock()
	for q.unsettled >= q.o.MaxUnsettled && q.running.Load() {
		q.settledUp.Wait()
	}
	for i := range ss {
		if l := q.lanes[ss[i].Lane]; l != nil {
			list = q.settlePush(list, l, &ss[i], nowMs)
		}
	}
	q.unsettled += len(list)
	q.mu.Unlock()
	if len(list) > 0 {
		q.commits.Submit(work{settled: list}) // when the queue ended, a crash could not do worse
	}
}

// settlePush appends the settlements of the deliveries of a push that are leased. The lock is held.
func (q *Queue) settlePush(list []settlement, l *lane, s *queue.Settlement, nowMs int64) []settlement {
	out := settlement{lane: l, attempt: s.Attempt, state: s.State, reason: s.Reason, dissolve: s.Dissolve}
	switch s.State {
	case queue.StateDelivered, queue.StateDead, queue.StateDiscarded:
	case queue.StateRetrying:
		out.due = nowMs
		if !s.Due.IsZero() {
			// Rounded up: a retry is never early.
			out.due = max(ceilMs(s.Due), 1)
		}
	default: // given back
		// What has been tried is no longer one that waits for its first attempt.
		out.state, out.due = queue.StatePending, nowMs
	}
	from := len(list)
	for i := range s.Deliveries {
		out.key = leaseKey{s.Deliveries[i].Seq, l.number}
		le, ok := q.leases[out.key]
		switch {
		case !ok || le.settling:
			continue
		case out.state == queue.StatePending && s.Attempt == nil:
			q.unlease(l, out.key.seq, le, true)
			continue
		}
		le.settling = true
		if le.replay && le.byHand {
			l.replayedNow++
		}
		if l.ord != nil && s.State == queue.StateDelivered {
			// The next of its key need not wait for the disk: after a crash both are delivered again, in their order.
			l.ord.release(le.key)
			le.released = true
		}
		q.leases[out.key] = le
		out.lease = le
		list = append(list, out)
	}
	if l.ord != nil {
		q.place(l, nowMs)
	}
	if push := list[from:]; out.due != 0 && len(push) > 1 && !s.Dissolve {
		seqs := make([]uint64, len(push))
		for i := range push {
			seqs[i] = push[i].key.seq
		}
		slices.Sort(seqs)
		for i := range push {
			push[i].batch = seqs
		}
	}
	return list
}

// settleOne writes what became of one delivery.
func (q *Queue) settleOne(tx *bolt.Tx, st *stage, s *settlement) error {
	q.mu.Lock()
	dropped := s.lane.dropped
	reason := queue.ReasonUnsubscribed
	if q.leases[s.key].doomed {
		dropped, reason = true, s.lane.floorReason
	}
	segment := q.segmentOf(s.key.seq)
	q.mu.Unlock()
	f := fate{}
	if !s.lease.fresh {
		var ok bool
		var err error
		if f, ok, err = readFate(tx, s.key); err == nil && !ok {
			err = fmt.Errorf("delivery %d/%d: %w: its record is missing", s.key.seq, s.key.lane, errDamaged)
		}
		if err != nil {
			return err
		}
		// Otherwise its lane was given up meanwhile, and it has been discarded.
		s.retried, s.old = f.state == fateRetrying, f
		if err := withdraw(tx, s.key, f, segment == nil); err != nil {
			return err
		}
	}
	before := f
	if s.attempt != nil {
		f.attempts++
		st.log = append(st.log, entry{s.key.seq, s.key.lane, trimAttempt(*s.attempt, f.attempts)})
	}
	f.at, f.reason, f.batch, f.byHand, f.planned, f.was, f.wasAt = st.nowMs, "", 0, false, false, 0, 0
	switch {
	case s.state == queue.StateDelivered:
		f.state = fateDelivered
	case dropped:
		if s.lease.fresh && s.attempt == nil {
			s.fate = fate{state: fateDiscarded}
			return nil // an unset bit says discarded
		}
		f.state, f.reason = fateDiscarded, reason
		if was, undone := before.undone(st.nowMs); undone {
			f.state, f.reason = was.state, was.reason
		} else if before.state.ended() {
			f.state, f.reason = before.state, before.reason
		}
	case s.state == queue.StateDead:
		f.state, f.reason = fateDead, s.reason
	case s.state == queue.StateDiscarded:
		f.state, f.reason = fateDiscarded, s.reason
	default:
		f.state, f.at = fateRetrying, s.due
		if s.attempt != nil && s.state == queue.StateRetrying && !s.dissolve {
			f.retries++
		}
		if len(s.batch) > 0 {
			f.batch = s.batch[0]
			if f.batch == s.key.seq {
				if err := tx.Bucket(bucketBatch).Put(keySeqLane(s.key.seq, s.key.lane), encodeBatch(s.batch[0], s.batch[1:])); err != nil {
					return err
				}
			}
		}
	}
	f.replay = f.replay && f.state == fateRetrying
	s.fate = f
	if s.lease.fresh {
		st.marks = append(st.marks, mark{segment.first, s.lease.ordinal})
		if f.state == fateDelivered && f.attempts == 1 {
			return nil // the usual way needs no record
		}
	}
	return putFate(tx, s.key, f, segment == nil)
}

// unwait takes a retry out of the order of its lane's retries, and its batch's record with the first of it.
func unwait(tx *bolt.Tx, key leaseKey, f fate) error {
	if !f.waits(key.seq) {
		return nil
	}
	if f.batch != 0 {
		if err := tx.Bucket(bucketBatch).Delete(keySeqLane(key.seq, key.lane)); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketDue).Delete(keyLaneTime(key.lane, f.at, key.seq))
}

// putFate writes a fate and its entry in the index it belongs to.
func putFate(tx *bolt.Tx, key leaseKey, f fate, orphan bool) error {
	switch {
	case f.waits(key.seq):
		var replay []byte
		if f.waitsReplay() {
			replay = []byte{1}
		}
		if err := tx.Bucket(bucketDue).Put(keyLaneTime(key.lane, f.at, key.seq), replay); err != nil {
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
	l, f := s.lane, s.fate
	le := q.leases[s.key]
	delete(q.leases, s.key)
	if le.replay && le.byHand {
		l.replayedNow--
	}
	l.leased--
	if !le.released {
		l.ord.release(le.key)
	}
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
		l.recount(s.old, f)
	}
	if s.old.state == fateDead {
		l.dead--
		q.dead--
	}
	if f.state == fateRetrying {
		l.addRetrying(q, 1)
		l.retryVersion++
		if l.dropped {
			q.convert(l) // dropped by the same commit
			return
		}
		le.byHand = false
		q.waitFor(l, s.key.seq, f.at, le, f.batch)
		q.place(l, st.nowMs)
		return
	}
	q.place(l, st.nowMs)
	if segment != nil && (s.lease.fresh || s.retried) {
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
