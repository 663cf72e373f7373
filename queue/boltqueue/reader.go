package boltqueue

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// eventReader finds events by their number within one transaction; it keeps the block it read last.
type eventReader struct {
	tx      *bolt.Tx
	segment uint64
	bucket  *bolt.Bucket
	block   block
	loaded  bool
}

// locate reads the block of an event in a segment, and returns the event's position in it, or -1.
func (r *eventReader) locate(segment, seq uint64) (int, error) {
	if r.loaded && r.segment == segment {
		if i := r.block.index(seq); i >= 0 {
			return i, nil
		}
	}
	if r.bucket == nil || r.segment != segment {
		r.loaded = false
		r.segment = segment
		if r.bucket = r.tx.Bucket(bucketEvent).Bucket(key64(segment)); r.bucket == nil {
			return -1, nil
		}
	}
	r.loaded = false
	k, v := floor(r.bucket.Cursor(), key64(seq))
	if k == nil {
		return -1, nil
	}
	if len(k) != 8 {
		return -1, fmt.Errorf("segment %d: %w: key %x", segment, errDamaged, k)
	}
	if err := r.block.read(big.Uint64(k), packedValue(r.bucket, k, v)); err != nil {
		return -1, err
	}
	r.loaded = true
	return r.block.index(seq), nil
}

// event returns an event of a segment, or nil when it is not there.
func (r *eventReader) event(segment, seq uint64) (*queue.Event, error) {
	i, err := r.locate(segment, seq)
	if err != nil || i < 0 {
		return nil, err
	}
	return r.block.event(i)
}

// segmentFirst returns the first number of the retained segment of an event, or 0.
func (q *Queue) segmentFirst(seq uint64) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.segmentOf(seq); s != nil {
		return s.first
	}
	return 0
}

// A kept event, whose segment is gone while a delivery of it is dead: version, account, acceptance, whether
// its id was the publisher's, with what digest, and the record.
func encodeKept(ev *queue.Event, chosen bool, digest [16]byte) []byte {
	b := []byte{recordVersion, 0}
	if chosen {
		b[1] = 1
	}
	b = append(b, digest[:]...)
	b = appendText(b, ev.AccountID)
	b = big.AppendUint64(b, uint64(ev.AcceptedAt.UnixMilli()))
	return appendRecord(b, ev)
}

func decodeKept(seq uint64, b []byte) (ev *queue.Event, chosen bool, err error) {
	d := decoder{b: b}
	d.version()
	flag := d.byte()
	if flag > 1 {
		d.fail("unknown flag")
	}
	d.bytes(16)
	account := d.text()
	raw := d.bytes(8)
	if d.err != nil {
		return nil, false, d.err
	}
	ev, err = decodeRecord(d.b, seq, account, int64(big.Uint64(raw)))
	return ev, flag == 1, err
}

// kept returns the kept event of that number, or nil.
func kept(tx *bolt.Tx, seq uint64) (*queue.Event, error) {
	v := tx.Bucket(bucketKeep).Get(key64(seq))
	if v == nil {
		return nil, nil
	}
	ev, _, err := decodeKept(seq, v)
	if err != nil {
		return nil, fmt.Errorf("kept event %d: %w", seq, err)
	}
	return ev, nil
}
