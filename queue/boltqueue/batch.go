package boltqueue

import (
	"encoding/binary"
	"fmt"
	"math"

	bolt "go.etcd.io/bbolt"
)

// A batch is deliveries of one lane that were tried together, failed, and are to be tried together again. Their fates name
// the first of them; only that one stands in due, and its record in batch lists the others. A delivery whose fate
// changes by itself, because someone retries it by hand or its segment goes, dissolves the batch.

func readFate(tx *bolt.Tx, key leaseKey) (f fate, ok bool, err error) {
	v := tx.Bucket(bucketFate).Get(keySeqLane(key.seq, key.lane))
	if v == nil {
		return fate{}, false, nil
	}
	if f, err = decodeFate(v); err != nil {
		return fate{}, false, fmt.Errorf("delivery %d/%d: %w", key.seq, key.lane, err)
	}
	return f, true, nil
}

// recordedFate is readFate of a delivery that has to have a record.
func recordedFate(tx *bolt.Tx, key leaseKey) (fate, error) {
	f, ok, err := readFate(tx, key)
	if err == nil && !ok {
		err = fmt.Errorf("delivery %d/%d: %w: its record is missing", key.seq, key.lane, errDamaged)
	}
	return f, err
}

// encodeBatch encodes the deliveries that belong to the first.
func encodeBatch(first uint64, rest []uint64) []byte {
	b := binary.AppendUvarint([]byte{recordVersion}, uint64(len(rest)))
	for _, seq := range rest {
		b = binary.AppendUvarint(b, seq-first)
		first = seq
	}
	return b
}

func decodeBatch(first uint64, b []byte) ([]uint64, error) {
	d := decoder{b: b}
	d.version()
	rest := make([]uint64, 0, min(len(b), 1024))
	for range d.count() {
		step := d.number(math.MaxUint64 - first)
		if step == 0 {
			d.fail("a delivery repeats")
		}
		first += step
		rest = append(rest, first)
	}
	return rest, d.end()
}

// readBatch returns the deliveries that belong to the first.
func readBatch(tx *bolt.Tx, first leaseKey) ([]uint64, error) {
	rest, err := decodeBatch(first.seq, tx.Bucket(bucketBatch).Get(keySeqLane(first.seq, first.lane)))
	if err != nil {
		return nil, fmt.Errorf("batch %d/%d: %w", first.seq, first.lane, err)
	}
	return rest, nil
}

// dissolve makes the deliveries of a batch retries of their own, due as before. What it returns has to be told to memory
// after the commit.
func dissolve(tx *bolt.Tx, first leaseKey) (*dissolved, error) {
	rest, err := readBatch(tx, first)
	if err != nil {
		return nil, err
	}
	d := &dissolved{lane: first.lane, first: first.seq, rest: rest}
	if err := tx.Bucket(bucketBatch).Delete(keySeqLane(first.seq, first.lane)); err != nil {
		return nil, err
	}
	for i := -1; i < len(rest); i++ {
		key := first
		if i >= 0 {
			key.seq = rest[i]
		}
		f, ok, err := readFate(tx, key)
		if err == nil && (!ok || f.state != fateRetrying || f.batch != first.seq) {
			err = fmt.Errorf("batch %d/%d: %w: delivery %d is not of it", first.seq, first.lane, errDamaged, key.seq)
		}
		if err != nil {
			return nil, err
		}
		d.due, d.byHand, d.replay = f.at, f.byHand, f.replay
		f.batch = 0
		if err := putFate(tx, key, f, false); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// dissolved is a batch that is none any more.
type dissolved struct {
	lane  uint32
	first uint64
	rest  []uint64
	due   int64
	// byHand and replay are those of all of them.
	byHand, replay bool
}

// scatter brings memory up to date with a dissolved batch. The lock is held.
func (q *Queue) scatter(d *dissolved) {
	if d == nil {
		return
	}
	l := q.numbers[d.lane]
	if l == nil || l.dropped {
		return
	}
	var g *group
	if l.ord != nil {
		g = l.ord.find(retryRef{due: d.due, seq: d.first})
	}
	l.removeRetry(retryRef{due: d.due, seq: d.first})
	for i := -1; i < len(d.rest); i++ {
		seq, key := d.first, uint64(0)
		if i >= 0 {
			seq = d.rest[i]
		}
		if g != nil && i+1 < len(g.keys) {
			key = g.keys[i+1]
		}
		if _, leased := q.leases[leaseKey{seq, d.lane}]; !leased {
			q.waitFor(l, seq, d.due, lease{key: key, unkeyed: l.ord != nil && g == nil, byHand: d.byHand, replay: d.replay}, 0)
		}
	}
}
