package boltqueue

import (
	"context"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// position is where a delivery of a retained event stands.
type position struct {
	segment uint64
	ordinal uint32
	account string
}

// find returns the position of a delivery within its segment, or false when there is none.
func (r *eventReader) find(segment, seq uint64, number uint32) (position, bool, error) {
	i, err := r.locate(segment, seq)
	if err != nil || i < 0 {
		return position{}, false, err
	}
	targets, err := r.block.targets(i)
	if err != nil {
		return position{}, false, err
	}
	at, found := slices.BinarySearch(targets, number)
	if !found {
		return position{}, false, nil
	}
	e := &r.block.events[i]
	return position{segment, e.ordinal + uint32(at), string(r.block.accounts[e.account])}, true, nil
}

// Retry implements queue.Queue.
func (q *Queue) Retry(ctx context.Context, accountID string, id queue.DeliveryID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var l *lane
	var old, now fate
	var retried bool
	key := leaseKey{seq: id.Seq}
	return q.do(ctx, &operation{
		write: func(tx *bolt.Tx, st *stage) error {
			q.mu.Lock()
			l = q.lanes[id.Lane]
			segment := q.segmentOf(id.Seq)
			gone, leased := false, false
			if l != nil {
				key.lane = l.number
				_, leased = q.leases[key]
				gone = l.dropped
			}
			q.mu.Unlock()
			if l == nil {
				return refuse(queue.ErrNotFound)
			}
			v := tx.Bucket(bucketFate).Get(keySeqLane(key.seq, key.lane))
			account, unset, err := whereabouts(tx, segment, key, v != nil, st)
			switch {
			case err != nil:
				return err
			case account == nil || accountID != "" && *account != accountID:
				return refuse(queue.ErrNotFound)
			case gone:
				return refuse(queue.ErrGone)
			case leased || unset:
				return nil
			}
			old = fate{state: fateDelivered, attempts: 1}
			if v != nil {
				if old, err = decodeFate(v); err != nil {
					return fmt.Errorf("delivery %d/%d: %w", key.seq, key.lane, err)
				}
			}
			now = fate{state: fateRetrying, attempts: old.attempts, at: st.nowMs}
			retried = true
			return replaceFate(tx, key, old, now, segment == nil)
		},
		after: func(st *stage) {
			if retried {
				q.revive(l, key, old, now)
				q.place(l, st.nowMs)
			}
		},
	})
}

// whereabouts returns the account of a delivery (nil when it does not exist) and whether it still waits
// for its first attempt.
func whereabouts(tx *bolt.Tx, s *segment, key leaseKey, recorded bool, st *stage) (account *string, unset bool, err error) {
	if s == nil {
		if !recorded {
			return nil, false, nil
		}
		ev, err := kept(tx, key.seq)
		if ev == nil || err != nil {
			return nil, false, err
		}
		return &ev.AccountID, false, nil
	}
	reader := eventReader{tx: tx}
	p, found, err := reader.find(s.first, key.seq, key.lane)
	if err != nil || !found {
		return nil, false, err
	}
	set, err := newBitReader(tx).get(p.segment, p.ordinal)
	if err != nil {
		return nil, false, err
	}
	// A bit this commit is about to set counts as set: its delivery has just been settled.
	set = set || slices.Contains(st.marks, mark{p.segment, p.ordinal})
	return &p.account, !set, nil
}

// replaceFate writes a fate over another, with the indexes of both.
func replaceFate(tx *bolt.Tx, key leaseKey, old, now fate, orphan bool) error {
	switch {
	case old.state == fateRetrying:
		if err := tx.Bucket(bucketDue).Delete(keyLaneTime(key.lane, old.at, key.seq)); err != nil {
			return err
		}
	case old.indexed(orphan):
		if err := tx.Bucket(bucketDied).Delete(keyLaneTime(key.lane, old.at, key.seq)); err != nil {
			return err
		}
	}
	return putFate(tx, key, now, orphan)
}

// revive brings memory up to date with a delivery that was made due again. The lock is held.
func (q *Queue) revive(l *lane, key leaseKey, old, now fate) {
	segment := q.segmentOf(key.seq)
	l.retryVersion++
	if old.state == fateRetrying {
		l.removeRetry(retryRef{old.at, key.seq})
	} else {
		l.addRetrying(q, 1)
		if segment != nil {
			segment.unfinished++
		}
		if old.state == fateDead {
			l.dead--
			q.dead--
		}
	}
	if l.dropped {
		q.convert(l)
		return
	}
	if _, leased := q.leases[key]; !leased {
		l.insertRetry(retryRef{now.at, key.seq})
	}
}

// pageRecords is how many records an operation changes in one commit.
const pageRecords = 1000

// RetryDead implements queue.Queue.
func (q *Queue) RetryDead(ctx context.Context, id queue.Lane, _ queue.DeadSelection) (int, error) {
	total := 0
	var from []byte
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, next, err := q.retryPage(ctx, id, from)
		total += n
		if err != nil || next == nil {
			return total, err
		}
		from = next
	}
}

// retryPage makes some dead deliveries of a lane due, those from the given key of died on, and returns the key to
// go on with.
func (q *Queue) retryPage(ctx context.Context, id queue.Lane, from []byte) (n int, next []byte, err error) {
	type revived struct {
		key      leaseKey
		old, now fate
	}
	var l *lane
	var list []revived
	err = q.do(ctx, &operation{
		write: func(tx *bolt.Tx, st *stage) error {
			q.mu.Lock()
			l = q.lanes[id]
			gone := l != nil && l.dropped
			q.mu.Unlock()
			if gone {
				return refuse(queue.ErrGone)
			}
			if l == nil {
				return nil
			}
			prefix := string(key32(l.number))
			c := tx.Bucket(bucketDied).Cursor()
			seek := from
			if seek == nil {
				seek = []byte(prefix)
			}
			seen := 0
			k, _ := c.Seek(seek)
			for ; len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
				if seen++; seen > pageRecords {
					next = slices.Clone(k)
					break
				}
				_, _, seq, _ := parseLaneTime(k)
				key := leaseKey{seq, l.number}
				f, err := decodeFate(tx.Bucket(bucketFate).Get(keySeqLane(seq, l.number)))
				if err != nil {
					return fmt.Errorf("delivery %d/%d: %w", seq, l.number, err)
				}
				if f.state == fateDead {
					list = append(list, revived{key, f, fate{state: fateRetrying, attempts: f.attempts, at: st.nowMs}})
				}
			}
			for _, r := range list {
				if err := replaceFate(tx, r.key, r.old, r.now, !q.retains(r.key.seq)); err != nil {
					return err
				}
			}
			return nil
		},
		after: func(st *stage) {
			for _, r := range list {
				q.revive(l, r.key, r.old, r.now)
			}
			if l != nil {
				q.place(l, st.nowMs)
			}
		},
	})
	if err != nil {
		return 0, nil, err
	}
	return len(list), next, nil
}
