package boltqueue

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// EventsFrom implements queue.Queue.
func (q *Queue) EventsFrom(ctx context.Context, accountID string, seq uint64, n int) ([]*queue.Event, error) {
	var list []*queue.Event
	err := q.span(ctx, seq, n, func(_ *scan, b *block, i int) error {
		if accountID != "" && string(b.accounts[b.events[i].account]) != accountID {
			return nil
		}
		ev, err := b.event(i)
		list = append(list, ev)
		return err
	}, func(tx *bolt.Tx, seq uint64) error {
		ev, err := kept(tx, seq)
		if ev != nil && (accountID == "" || ev.AccountID == accountID) {
			list = append(list, ev)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("events from %d: %w", seq, err)
	}
	slices.SortFunc(list, func(a, b *queue.Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return list, nil
}

// DeliveriesFrom implements queue.Queue.
func (q *Queue) DeliveriesFrom(ctx context.Context, accountID string, seq uint64, n int) ([]*queue.Delivery, error) {
	x := &deliveryList{q: q, f: queue.DeliveryFilter{AccountID: accountID, Limit: math.MaxInt}}
	q.mu.Lock()
	x.extras = q.extras
	q.mu.Unlock()
	err := q.span(ctx, seq, n, func(s *scan, b *block, i int) error {
		_, err := x.visit(s, b, i)
		return err
	}, func(tx *bolt.Tx, seq uint64) error {
		r := recordReader{x: x, tx: tx, reader: eventReader{tx: tx}}
		_, err := r.visitAll(seq, place{seq, math.MaxUint32})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("deliveries from %d: %w", seq, err)
	}
	slices.SortStableFunc(x.list, func(a, b *queue.Delivery) int { return cmp.Compare(a.ID.Seq, b.ID.Seq) })
	return x.list, nil
}

// span calls inBlock for the events of segments among the n from seq on, and alone for those that were kept, in short
// transactions. What is found twice in none of them: each transaction looks for both in the same stretch.
func (q *Queue) span(ctx context.Context, seq uint64, n int, inBlock func(s *scan, b *block, i int) error, alone func(tx *bolt.Tx, seq uint64) error) error {
	if n < 1 {
		return fmt.Errorf("the number of events is %d; at least 1 is needed", n)
	}
	if !q.running.Load() {
		return queue.ErrClosed
	}
	q.mu.Lock()
	end := q.seq + 1 // what is being committed at this moment is not there yet
	q.mu.Unlock()
	if seq = max(seq, 1); seq < end {
		end = seq + min(uint64(n), end-seq)
	}
	for seq < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := q.view(func(tx *bolt.Tx) error {
			s := &scan{tx: tx, bits: newBitReader(tx), fates: tx.Bucket(bucketFate), at: &place{seq: math.MaxUint64}}
			next, err := s.forward(seq, end, inBlock)
			if err == nil {
				err = s.kept(seq, next, alone)
			}
			seq = next
			return err
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// forward calls fn for the events of segments from a number up to another for as long as a read transaction may, and returns where
// it stopped.
func (s *scan) forward(from, end uint64, fn func(s *scan, b *block, i int) error) (next uint64, err error) {
	started := time.Now()
	root := s.tx.Bucket(bucketEvent)
	segments := root.Cursor()
	name, _ := floor(segments, key64(from))
	if name == nil {
		name, _ = segments.First()
	}
	var b block
	looked := 0
	for ; name != nil; name, _ = segments.Next() {
		bucket := root.Bucket(name)
		if bucket == nil || len(name) != 8 {
			return end, fmt.Errorf("%w: segment %x", errDamaged, name)
		}
		if s.segment = big.Uint64(name); s.segment >= end {
			break
		}
		c := bucket.Cursor()
		k, v := floor(c, key64(from))
		if k == nil {
			k, v = c.First()
		}
		for ; k != nil && big.Uint64(k) < end; k, v = c.Next() {
			if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
				return end, err
			}
			for seq := max(from, b.first); seq < min(end, b.first+uint64(len(b.events))); seq++ {
				if looked++; looked&31 == 0 && time.Since(started) > viewBudget {
					return seq, nil
				}
				if err := fn(s, &b, int(seq-b.first)); err != nil {
					return end, err
				}
			}
		}
	}
	return end, nil
}

// kept calls fn for the kept events from a number up to another that are in no segment any more.
func (s *scan) kept(from, end uint64, fn func(tx *bolt.Tx, seq uint64) error) error {
	reader := eventReader{tx: s.tx}
	c := s.tx.Bucket(bucketKeep).Cursor()
	for k, _ := c.Seek(key64(from)); len(k) == 8 && big.Uint64(k) < end; k, _ = c.Next() {
		seq := big.Uint64(k)
		if name, _ := floor(s.tx.Bucket(bucketEvent).Cursor(), key64(seq)); name != nil {
			if i, err := reader.locate(big.Uint64(name), seq); i >= 0 || err != nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		if err := fn(s.tx, seq); err != nil {
			return err
		}
	}
	return nil
}
