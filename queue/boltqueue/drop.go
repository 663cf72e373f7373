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
			return tx.Bucket(bucketLane).Put(key32(l.number), encodeLane(id, true))
		},
		after: func(st *stage) {
			if l.dropped {
				return
			}
			// What of it waits for a first attempt is finished now; leased ones when their leases end.
			for _, r := range l.window[l.head:] {
				if s := q.segmentOf(r.seq); s != nil {
					s.unfinished--
				}
			}
			for _, sh := range l.shares {
				sh.segment.unfinished -= int64(sh.count)
			}
			q.pending -= l.pending
			q.retrying -= l.retrying
			q.leasedRetries -= l.leasedRetries
			l.pending = 0
			l.release(q)
			l.dropped = true
			l.lastUse = st.seq
			q.place(l, st.nowMs)
			if l.retrying > 0 {
				q.convert(l)
			}
		},
	})
}

// convert asks for the retries of a dropped lane to be discarded. The lock is held.
func (q *Queue) convert(l *lane) {
	if slices.Contains(q.converting, l) {
		return
	}
	q.converting = append(q.converting, l)
	q.tend.rouse()
}

// convertPage discards some retries of a dropped lane; more says whether others are left. Leased ones are
// left to their settlement.
func (q *Queue) convertPage(ctx context.Context, l *lane) (more bool, err error) {
	var keys []leaseKey
	err = q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			prefix := string(key32(l.number))
			c := tx.Bucket(bucketDue).Cursor()
			q.mu.Lock()
			for k, _ := c.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
				if len(keys) == pageRecords {
					more = true
					break
				}
				_, _, seq, _ := parseLaneTime(k)
				key := leaseKey{seq, l.number}
				if _, leased := q.leases[key]; !leased {
					keys = append(keys, key)
				}
			}
			q.mu.Unlock()
			for _, key := range keys {
				old, err := decodeFate(tx.Bucket(bucketFate).Get(keySeqLane(key.seq, key.lane)))
				if err != nil {
					return fmt.Errorf("delivery %d/%d: %w", key.seq, key.lane, err)
				}
				now := fate{state: fateDiscarded, attempts: old.attempts, at: st.nowMs, reason: queue.ReasonUnsubscribed}
				if err := replaceFate(tx, key, old, now, !q.retains(key.seq)); err != nil {
					return err
				}
			}
			return nil
		},
		after: func(st *stage) {
			l.addRetrying(q, -int64(len(keys)))
			for _, key := range keys {
				s := q.segmentOf(key.seq)
				if s != nil {
					s.unfinished--
				} else {
					l.noteDied(st.nowMs)
				}
			}
		},
	})
	return more, err
}

// Discard implements queue.Queue.
func (q *Queue) Discard(ctx context.Context, id queue.Lane, reason string) error {
	return ctx.Err()
}
