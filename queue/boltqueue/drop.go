package boltqueue

import (
	"context"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// DropLane implements queue.Queue. The mark on the lane's record is all that has to be durable: unset bits of a
// dropped lane say discarded. Its retries are turned into discarded ones page by page afterwards.
func (q *Queue) DropLane(ctx context.Context, id queue.Lane) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var l *lane
	return q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			var err error
			if l, err = q.intern(tx, st, id); err != nil {
				return err
			}
			r, err := recordedLane(tx, l)
			if err != nil {
				return err
			}
			r.dropped = true
			if err := dropReplays(tx, l); err != nil {
				return err
			}
			return tx.Bucket(bucketLane).Put(key32(l.number), r.encode())
		},
		after: func(st *stage) {
			if l.dropped {
				return
			}
			q.giveUp(l)
			q.retrying -= l.retrying
			q.leasedRetries -= l.leasedRetries
			l.dropped = true
			q.setReplays(l, nil)
			l.lastUse = st.seq
			q.place(l, st.nowMs)
			if l.retrying > 0 {
				q.convert(l)
			}
		},
	})
}

// Discard implements queue.Queue. The newest event goes on the lane's record: unset bits up to it say discarded. Retries
// are turned into discarded ones page by page afterwards; until then the lane rests.
func (q *Queue) Discard(ctx context.Context, id queue.Lane, reason string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var l *lane
	var replays []*replay
	return q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			if l = st.byID[id]; l == nil {
				q.mu.Lock()
				l = q.lanes[id]
				if l != nil && (l.dropped || l.pending+l.leased+l.retrying == 0 && firstRunning(l.replays) == nil && !st.names(l.number)) {
					l = nil
				}
				q.mu.Unlock()
			}
			if l == nil {
				return nil // there is nothing to give up
			}
			r, err := recordedLane(tx, l)
			if err != nil {
				return err
			}
			if r.dropped {
				l = nil // by this commit
				return nil
			}
			if replays, err = cancelReplays(tx, l, st.nowMs); err != nil {
				return err
			}
			r.floor, r.reason, r.converting = st.seq, reason, true
			return tx.Bucket(bucketLane).Put(key32(l.number), r.encode())
		},
		after: func(st *stage) {
			if l == nil {
				return
			}
			q.giveUp(l)
			l.floor, l.floorReason, l.converting = st.seq, reason, true
			l.cursor = st.seq + 1
			q.setReplays(l, replays)
			for key, le := range q.leases {
				if key.lane == l.number {
					le.doomed = true
					q.leases[key] = le
				}
			}
			q.convert(l)
			q.place(l, st.nowMs)
		},
	})
}

// recordedLane is the record of a lane as the commit under way has left it, which memory does not know yet.
func recordedLane(tx *bolt.Tx, l *lane) (laneRecord, error) {
	r, err := decodeLane(tx.Bucket(bucketLane).Get(key32(l.number)))
	if err != nil {
		return r, fmt.Errorf("lane %d: %w", l.number, err)
	}
	return r, nil
}

// giveUp takes what waits of a lane out of memory. First attempts are finished by it; leased ones when their leases
// end. The lock is held.
func (q *Queue) giveUp(l *lane) {
	finished := func(refs []ref) {
		for _, r := range refs {
			if s := q.segmentOf(r.seq); s != nil {
				s.unfinished--
			}
		}
	}
	finished(l.window[l.head:])
	if l.ord != nil {
		for _, k := range l.ord.keys {
			finished(k.parked)
		}
	}
	for _, sh := range l.shares {
		sh.segment.unfinished -= int64(sh.count)
	}
	q.pending -= l.pending
	l.pending = 0
	l.release(q)
}

// convert asks for the retries of a lane that were given up to be discarded. The lock is held.
func (q *Queue) convert(l *lane) {
	if slices.Contains(q.converting, l) {
		return
	}
	q.converting = append(q.converting, l)
	q.tend.rouse()
}

// convertPage discards some retries of a lane that were given up; more says whether others are left. Those leased at this
// moment are discarded too, and delivered all the same when that is what their settlement says.
func (q *Queue) convertPage(ctx context.Context, l *lane) (more bool, err error) {
	var list []changed
	done := false
	reason := queue.ReasonUnsubscribed
	err = q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			var first []leaseKey
			prefix := string(key32(l.number))
			c := tx.Bucket(bucketDue).Cursor()
			q.mu.Lock()
			floor := q.seq // what this commit accepts asks for another page
			if !l.dropped {
				floor, reason = min(floor, l.floor), l.floorReason
			}
			for k, _ := c.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
				_, _, seq, _ := parseLaneTime(k)
				key := leaseKey{seq, l.number}
				if seq > floor {
					continue
				}
				if len(first) == pageRecords {
					more = true
					break
				}
				first = append(first, key)
			}
			done = !more && l.converting
			r := *l.record()
			q.mu.Unlock()
			for _, key := range first {
				page, err := discardRetry(tx, key, st.nowMs, reason, q.retains)
				if err != nil {
					return err
				}
				list = append(list, page...)
			}
			if done {
				// A Discard or DropLane of this commit has written another record, and asks for a page of its own.
				now, err := recordedLane(tx, l)
				if done = now == r; err != nil || !done {
					return err
				}
				r.converting = false
				return tx.Bucket(bucketLane).Put(key32(l.number), r.encode())
			}
			return nil
		},
		after: func(st *stage) {
			for i := range list {
				q.gaveWay(l, &list[i])
			}
			if done {
				l.converting = false
				l.reloadRetries() // of later events, if there are any
				q.place(l, st.nowMs)
			}
		},
	})
	return more, err
}

// discardRetry discards a retry, with the others of its batch. What a replay made due and was not tried is as it was before.
func discardRetry(tx *bolt.Tx, key leaseKey, nowMs int64, reason string, retains func(uint64) bool) ([]changed, error) {
	f, err := recordedFate(tx, key)
	if err != nil {
		return nil, err
	}
	keys := []leaseKey{key}
	if f.batch == key.seq {
		rest, err := readBatch(tx, key)
		if err != nil {
			return nil, err
		}
		for _, seq := range rest {
			keys = append(keys, leaseKey{seq, key.lane})
		}
	}
	list := make([]changed, 0, len(keys))
	for _, key := range keys {
		old, ok, err := readFate(tx, key)
		if err == nil && (!ok || old.state != fateRetrying) {
			err = fmt.Errorf("delivery %d/%d: %w: it is in a batch and does not wait", key.seq, key.lane, errDamaged)
		}
		if err != nil {
			return nil, err
		}
		now, undone := old.undone(nowMs)
		if !undone {
			now = fate{state: fateDiscarded, attempts: old.attempts, at: nowMs, reason: reason, extra: old.extra}
		}
		list = append(list, changed{key, old, now})
		if err := replaceFate(tx, key, old, now, !retains(key.seq)); err != nil {
			return nil, err
		}
	}
	return list, nil
}
