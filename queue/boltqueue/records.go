package boltqueue

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// recorded lists deliveries with a record of their own, below the position.
func (x *deliveryList) recorded(ctx context.Context, at place) error {
	if x.only != 0 {
		if done, err := x.ofLane(at); done || err != nil {
			return err
		}
	}
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := x.q.view(func(tx *bolt.Tx) error {
			var err error
			more, err = x.page(tx, &at)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fewRecords is up to how many records of a lane are found by its own indexes and sorted; with more, the records of all lanes
// are looked through, among which it then has many.
const fewRecords = 20_000

// ofLane lists the dead or retrying deliveries of the one lane asked for when they are few; done says that it has. The file alone
// is asked: what memory counts follows it by a moment.
func (x *deliveryList) ofLane(at place) (done bool, err error) {
	err = x.q.view(func(tx *bolt.Tx) error {
		var seqs []uint64
		index, batches := bucketDied, tx.Bucket(bucketBatch)
		if x.f.State == queue.StateRetrying {
			index = bucketDue
		}
		prefix := string(key32(x.only))
		c := tx.Bucket(index).Cursor()
		for k, _ := c.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
			_, _, seq, _ := parseLaneTime(k)
			seqs = append(seqs, seq)
			if v := batches.Get(keySeqLane(seq, x.only)); v != nil && x.f.State == queue.StateRetrying {
				rest, err := decodeBatch(seq, v)
				if err != nil {
					return fmt.Errorf("batch %d/%d: %w", seq, x.only, err)
				}
				seqs = append(seqs, rest...)
			}
			if len(seqs) > fewRecords {
				return nil
			}
		}
		done = true
		slices.Sort(seqs)
		r := recordReader{x: x, tx: tx, reader: eventReader{tx: tx}}
		for _, seq := range slices.Backward(seqs) {
			if !at.before(seq, x.only) {
				continue
			}
			v := tx.Bucket(bucketFate).Get(keySeqLane(seq, x.only))
			if more, err := r.visit(seq, x.only, v); err != nil || !more {
				return err
			}
		}
		return nil
	})
	return done, err
}

// page reads records below at for as long as a read transaction may, and moves at.
func (x *deliveryList) page(tx *bolt.Tx, at *place) (more bool, err error) {
	started := time.Now()
	r := recordReader{x: x, tx: tx, reader: eventReader{tx: tx}}
	c := tx.Bucket(bucketFate).Cursor()
	k, v := below(c, keySeqLane(at.seq, at.lane))
	for looked := 1; k != nil; k, v = c.Prev() {
		seq, n, ok := parseSeqLane(k)
		if !ok {
			return false, fmt.Errorf("%w: record %x", errDamaged, k)
		}
		if looked++; looked&63 == 0 && time.Since(started) > viewBudget {
			return true, nil
		}
		*at = place{seq, n}
		if more, err := r.visit(seq, n, v); err != nil || !more {
			return false, err
		}
	}
	return false, nil
}

// below moves the cursor to the last key under key.
func below(c *bolt.Cursor, key []byte) (k, v []byte) {
	if k, _ = c.Seek(key); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// anyHeld says whether a lane that is asked for is held and has something waiting.
func (x *deliveryList) anyHeld() bool {
	var lanes []queue.Lane
	x.q.mu.Lock()
	for n, l := range x.q.numbers {
		if (x.only == 0 || n == x.only) && !l.dropped && l.pending+l.retrying > 0 {
			lanes = append(lanes, l.id)
		}
	}
	x.q.mu.Unlock()
	return x.f.Held != nil && slices.ContainsFunc(lanes, x.f.Held)
}

// leased lists the deliveries under way, which memory knows.
func (x *deliveryList) leased(at place) error {
	var keys []leaseKey
	x.q.mu.Lock()
	for key := range x.q.leases {
		if (x.only == 0 || key.lane == x.only) && at.before(key.seq, key.lane) {
			keys = append(keys, key)
		}
	}
	x.q.mu.Unlock()
	slices.SortFunc(keys, func(a, b leaseKey) int { return cmp.Or(cmp.Compare(b.seq, a.seq), cmp.Compare(b.lane, a.lane)) })
	return x.q.view(func(tx *bolt.Tx) error {
		r := recordReader{x: x, tx: tx, reader: eventReader{tx: tx}}
		bits := newBitReader(tx)
		for _, key := range keys {
			f, recorded, err := readFate(tx, key)
			if segment := x.q.segmentFirst(key.seq); err == nil && !recorded && segment != 0 {
				// It is the first attempt, or one that has just succeeded: the bit says so before memory ends the lease.
				var p position
				if p, _, err = r.reader.find(segment, key.seq, key.lane); err == nil {
					f, err = standing(tx.Bucket(bucketFate), bits, segment, p.ordinal, key.seq, key.lane)
				}
			}
			if err != nil {
				return err
			}
			if more, err := r.take(key.seq, key.lane, f); err != nil || !more {
				return err
			}
		}
		return nil
	})
}

// recordReader takes deliveries by their records within one read transaction.
type recordReader struct {
	x      *deliveryList
	tx     *bolt.Tx
	reader eventReader
	event  *queue.Event
	seq    uint64
}

func (r *recordReader) visit(seq uint64, n uint32, v []byte) (more bool, err error) {
	x := r.x
	if x.only != 0 && n != x.only {
		return true, nil
	}
	f, err := decodeFate(v)
	if err != nil {
		return false, fmt.Errorf("delivery %d/%d: %w", seq, n, err)
	}
	if x.f.State == queue.StateDead && f.state != fateDead || x.f.State == queue.StateRetrying && f.state != fateRetrying {
		return true, nil
	}
	return r.take(seq, n, f)
}

// take adds a delivery if the filter selects it.
func (r *recordReader) take(seq uint64, n uint32, f fate) (more bool, err error) {
	x := r.x
	l := x.q.laneOf(n)
	if l == nil {
		return true, nil
	}
	stands := x.q.stands(seq, l, f)
	if !x.selects(l, &stands) {
		return true, nil
	}
	if r.event == nil || r.seq != seq {
		if r.event, err = lookUp(r.tx, &r.reader, x.q.segmentFirst(seq), seq); err != nil {
			return false, err
		}
		r.seq = seq
	}
	ev := r.event
	if ev == nil {
		return true, nil // its segment is being dropped
	}
	if ev.AcceptedAt.UnixMilli() < x.since() {
		return false, nil
	}
	if x.f.AccountID != "" && ev.AccountID != x.f.AccountID || x.f.Without != "" && strings.HasPrefix(ev.Type, x.f.Without) {
		return true, nil
	}
	return x.take(describeAt(seq, l, ev, f, stands)), nil
}

// orphans lists the deliveries whose segment is gone: those of kept events.
func (x *deliveryList) orphans(ctx context.Context, at place) error {
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := x.q.view(func(tx *bolt.Tx) error {
			more = false
			started := time.Now()
			r := recordReader{x: x, tx: tx, reader: eventReader{tx: tx}}
			c := tx.Bucket(bucketKeep).Cursor()
			for k, _ := floor(c, key64(at.seq)); k != nil; k, _ = c.Prev() {
				if len(k) != 8 {
					return fmt.Errorf("%w: kept event %x", errDamaged, k)
				}
				seq := big.Uint64(k)
				if time.Since(started) > viewBudget {
					more = true
					return nil
				}
				if seq < at.seq {
					at = place{seq, math.MaxUint32}
				}
				if x.q.segmentFirst(seq) != 0 {
					continue
				}
				if full, err := r.visitAll(seq, at); err != nil || full {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// visitAll takes the deliveries of one kept event below the position.
func (r *recordReader) visitAll(seq uint64, at place) (full bool, err error) {
	c := r.tx.Bucket(bucketFate).Cursor()
	for k, v := below(c, keySeqLane(seq, at.lane)); k != nil; k, v = c.Prev() {
		s, n, ok := parseSeqLane(k)
		if !ok || s != seq {
			break
		}
		if more, err := r.visit(seq, n, v); err != nil || !more {
			return true, err
		}
	}
	return false, nil
}
