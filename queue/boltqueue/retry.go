package boltqueue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

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
	var split *dissolved
	var order keyed
	retried := false
	key := leaseKey{seq: id.Seq}
	return q.do(ctx, &operation{
		write: func(tx *bolt.Tx, st *stage) error {
			q.mu.Lock()
			l = q.lanes[id.Lane]
			segment := q.segmentOf(id.Seq)
			gone, leased, discarded := false, false, false
			if l != nil {
				key.lane = l.number
				_, leased = q.leases[key]
				gone, discarded = l.dropped, id.Seq <= l.floor
			}
			q.mu.Unlock()
			if l == nil {
				return refuse(queue.ErrNotFound)
			}
			f, recorded, err := readFate(tx, key)
			if err != nil {
				return err
			}
			at, unset, err := whereabouts(tx, segment, key, recorded, st)
			switch {
			case err != nil:
				return err
			case at == nil || accountID != "" && at.account != accountID:
				return refuse(queue.ErrNotFound)
			case gone:
				return refuse(queue.ErrGone)
			case leased || unset && !discarded:
				return nil
			case unset:
				// What was given up before its first attempt has neither bit nor record.
				old = fate{state: fateDiscarded}
				st.marks = append(st.marks, mark{at.segment, at.ordinal})
			case recorded:
				old = f
			default:
				old = fate{state: fateDelivered, attempts: 1}
			}
			if old.batch != 0 {
				if split, err = dissolve(tx, leaseKey{old.batch, key.lane}); err != nil {
					return err
				}
				old.batch = 0
			}
			if order, err = q.keyFor(tx, l, segment, key.seq); err != nil {
				return err
			}
			now = fate{state: fateRetrying, attempts: old.attempts, at: st.nowMs}
			retried = true
			return replaceFate(tx, key, old, now, segment == nil)
		},
		after: func(st *stage) {
			if retried {
				q.scatter(split)
				q.revive(l, key, old, now, order)
				q.place(l, st.nowMs)
			}
		},
	})
}

// keyed is the key of a delivery in a lane with an order, and the order it was asked of.
type keyed struct {
	ord *ordering
	key uint64
}

// keyFor reads the event of a delivery for its key, if its lane has an order by key.
func (q *Queue) keyFor(tx *bolt.Tx, l *lane, s *segment, seq uint64) (keyed, error) {
	q.mu.Lock()
	k := keyed{ord: l.ord}
	q.mu.Unlock()
	if k.ord == nil || k.ord.key == nil {
		return k, nil
	}
	reader := eventReader{tx: tx}
	first := uint64(0)
	if s != nil {
		first = s.first
	}
	ev, err := lookUp(tx, &reader, first, seq)
	if err == nil && ev == nil {
		err = fmt.Errorf("%w: event %d is missing", errDamaged, seq)
	}
	if err != nil {
		return k, err
	}
	k.key = k.ord.keyOf(ev)
	return k, nil
}

// whereabouts returns where a delivery stands (nil when it does not exist) and whether its bit is not set.
func whereabouts(tx *bolt.Tx, s *segment, key leaseKey, recorded bool, st *stage) (at *position, unset bool, err error) {
	if s == nil {
		if !recorded {
			return nil, false, nil
		}
		ev, err := kept(tx, key.seq)
		if ev == nil || err != nil {
			return nil, false, err
		}
		return &position{account: ev.AccountID}, false, nil
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
	return &p, !set, nil
}

// replaceFate writes a fate over another, with the indexes of both.
func replaceFate(tx *bolt.Tx, key leaseKey, old, now fate, orphan bool) error {
	if err := withdraw(tx, key, old, orphan); err != nil {
		return err
	}
	return putFate(tx, key, now, orphan)
}

// withdraw takes a fate out of the indexes it stands in.
func withdraw(tx *bolt.Tx, key leaseKey, f fate, orphan bool) error {
	switch {
	case f.state == fateRetrying:
		return unwait(tx, key, f)
	case f.indexed(orphan):
		return tx.Bucket(bucketDied).Delete(keyLaneTime(key.lane, f.at, key.seq))
	}
	return nil
}

// revive brings memory up to date with a delivery that was made due again. The lock is held.
func (q *Queue) revive(l *lane, key leaseKey, old, now fate, order keyed) {
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
	if _, leased := q.leases[key]; leased {
		return
	}
	if l.ord != order.ord {
		if l.ord != nil {
			l.ord.loaded = false // the key was asked of another order
		}
		l.retries, l.moreRetries = nil, true
		return
	}
	q.waitFor(l, key.seq, now.at, lease{key: order.key}, 0)
}

// pageRecords is how many records an operation changes in one commit.
const pageRecords = 1000

// RetryDead implements queue.Queue.
func (q *Queue) RetryDead(ctx context.Context, id queue.Lane, s queue.DeadSelection) (int, error) {
	r := revival{q: q, id: id, s: s, startMs: time.Now().UnixMilli()}
	for {
		if err := ctx.Err(); err != nil {
			return r.total, err
		}
		var err error
		if s.DryRun {
			err = q.view(func(tx *bolt.Tx) error { return r.read(tx) })
		} else {
			err = q.do(ctx, &operation{write: r.write, after: r.after})
			if err != nil {
				r.list = nil // nothing of this page was done, as far as is known
			}
		}
		if errors.Is(err, queue.ErrGone) {
			return r.total, queue.ErrGone
		}
		if err != nil {
			return r.total, err
		}
		r.total += len(r.list)
		if r.next == nil {
			return r.total, nil
		}
		r.from = r.next
	}
}

// revival makes dead deliveries of a lane due again, page by page.
type revival struct {
	q       *Queue
	id      queue.Lane
	s       queue.DeadSelection
	startMs int64
	total   int
	lane    *lane
	list    []revived
	// The page begins at the key from of died, and the next one at the key next; nil is the beginning, and that there is none.
	from, next []byte
}

type revived struct {
	key      leaseKey
	old, now fate
	order    keyed
}

// read collects the next page.
func (r *revival) read(tx *bolt.Tx) error {
	q := r.q
	r.list, r.next = r.list[:0], nil
	q.mu.Lock()
	r.lane = q.lanes[r.id]
	gone := r.lane != nil && r.lane.dropped
	q.mu.Unlock()
	if gone {
		return refuse(queue.ErrGone)
	}
	if r.lane == nil {
		return nil
	}
	started := time.Now()
	prefix := string(key32(r.lane.number))
	seek := r.from
	if seek == nil {
		seek = []byte(prefix)
	}
	reader := eventReader{tx: tx}
	c := tx.Bucket(bucketDied).Cursor()
	for k, _ := c.Seek(seek); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
		_, ms, seq, _ := parseLaneTime(k)
		if ms > r.startMs {
			return nil // it died meanwhile
		}
		if len(r.list) >= pageRecords || time.Since(started) > viewBudget {
			r.next = slices.Clone(k)
			return nil
		}
		key := leaseKey{seq, r.lane.number}
		f, ok, err := readFate(tx, key)
		if err == nil && !ok {
			err = fmt.Errorf("delivery %d/%d: %w: its record is missing", seq, r.lane.number, errDamaged)
		}
		if err != nil {
			return err
		}
		if wanted, err := r.wants(tx, &reader, seq, f); err != nil || !wanted {
			if err != nil {
				return err
			}
			continue
		}
		r.list = append(r.list, revived{key: key, old: f})
	}
	return nil
}

// wants says whether the selection names a delivery.
func (r *revival) wants(tx *bolt.Tx, reader *eventReader, seq uint64, f fate) (bool, error) {
	s := &r.s
	if f.state != fateDead || s.Reason != "" && f.reason != s.Reason {
		return false, nil
	}
	if s.EventType == "" && s.Since.IsZero() && s.Until.IsZero() {
		return true, nil
	}
	ev, err := lookUp(tx, reader, r.q.segmentFirst(seq), seq)
	if ev == nil || err != nil {
		return false, err
	}
	return (s.EventType == "" || ev.Type == s.EventType) &&
		(s.Since.IsZero() || !ev.AcceptedAt.Before(s.Since)) && (s.Until.IsZero() || ev.AcceptedAt.Before(s.Until)), nil
}

func (r *revival) write(tx *bolt.Tx, st *stage) error {
	if err := r.read(tx); err != nil {
		return err
	}
	for i := range r.list {
		x := &r.list[i]
		x.now = fate{state: fateRetrying, attempts: x.old.attempts, at: st.nowMs}
		if r.s.Rate > 0 {
			// Each has its own moment, so that the rate holds also over a restart.
			at := float64(r.startMs) + math.Ceil(float64(r.total+i)*1000/r.s.Rate)
			x.now.at = max(st.nowMs, int64(min(at, math.MaxInt64/2)))
		}
		r.q.mu.Lock()
		segment := r.q.segmentOf(x.key.seq)
		r.q.mu.Unlock()
		var err error
		if x.order, err = r.q.keyFor(tx, r.lane, segment, x.key.seq); err != nil {
			return err
		}
		if err := replaceFate(tx, x.key, x.old, x.now, segment == nil); err != nil {
			return err
		}
	}
	return nil
}

func (r *revival) after(st *stage) {
	for i := range r.list {
		x := &r.list[i]
		r.q.revive(r.lane, x.key, x.old, x.now, x.order)
	}
	if r.lane != nil {
		r.q.place(r.lane, st.nowMs)
	}
}
