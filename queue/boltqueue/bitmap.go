package boltqueue

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// The completion bitmap of a segment: a set bit says that the delivery of that ordinal has left the
// first-attempt stage. It is stored in chunks; an absent chunk is all zero.
const (
	chunkBits  = 2048
	chunkBytes = chunkBits / 8
)

// mark is a bit to set.
type mark struct {
	segment uint64
	ordinal uint32
}

// setBits sets all marks, touching each chunk once. It reorders marks.
func setBits(tx *bolt.Tx, marks []mark) error {
	if len(marks) == 0 {
		return nil
	}
	slices.SortFunc(marks, func(a, b mark) int {
		return cmp.Or(cmp.Compare(a.segment, b.segment), cmp.Compare(a.ordinal, b.ordinal))
	})
	done := tx.Bucket(bucketDone)
	done.FillPercent = 0.9
	for i := 0; i < len(marks); {
		segment, chunk := marks[i].segment, marks[i].ordinal/chunkBits
		key := keyChunk(segment, chunk)
		value := make([]byte, chunkBytes)
		switch old := done.Get(key); len(old) {
		case 0:
		case chunkBytes:
			copy(value, old)
		default:
			return fmt.Errorf("bitmap %d/%d: %w: %d bytes", segment, chunk, errDamaged, len(old))
		}
		for ; i < len(marks) && marks[i].segment == segment && marks[i].ordinal/chunkBits == chunk; i++ {
			bit := marks[i].ordinal % chunkBits
			value[bit/8] |= 1 << (bit % 8)
		}
		if err := done.Put(key, value); err != nil {
			return err
		}
	}
	return nil
}

// bitReader reads the bits of segments within one transaction; it keeps the last chunk.
type bitReader struct {
	bucket  *bolt.Bucket
	segment uint64
	chunk   uint32
	loaded  bool
	value   []byte
}

func newBitReader(tx *bolt.Tx) *bitReader { return &bitReader{bucket: tx.Bucket(bucketDone)} }

func (r *bitReader) get(segment uint64, ordinal uint32) (bool, error) {
	chunk := ordinal / chunkBits
	if !r.loaded || r.segment != segment || r.chunk != chunk {
		r.value = r.bucket.Get(keyChunk(segment, chunk))
		r.segment, r.chunk, r.loaded = segment, chunk, true
		if r.value != nil && len(r.value) != chunkBytes {
			return false, fmt.Errorf("bitmap %d/%d: %w: %d bytes", segment, chunk, errDamaged, len(r.value))
		}
	}
	if r.value == nil {
		return false, nil
	}
	bit := ordinal % chunkBits
	return r.value[bit/8]&(1<<(bit%8)) != 0, nil
}

// countBits returns how many bits of a segment are set.
func countBits(tx *bolt.Tx, segment uint64) (int64, error) {
	var n int64
	c := tx.Bucket(bucketDone).Cursor()
	prefix := string(key64(segment))
	for k, v := c.Seek([]byte(prefix)); len(k) == 12 && string(k[:8]) == prefix; k, v = c.Next() {
		if len(v) != chunkBytes {
			return 0, fmt.Errorf("bitmap %d: %w: %d bytes", segment, errDamaged, len(v))
		}
		for i := 0; i < chunkBytes; i += 8 {
			n += int64(bits.OnesCount64(big.Uint64(v[i:])))
		}
	}
	return n, nil
}

// deleteBits removes the bitmap of a segment.
func deleteBits(tx *bolt.Tx, segment uint64, deliveries uint32) error {
	done := tx.Bucket(bucketDone)
	for at := uint64(0); at < uint64(deliveries); at += chunkBits {
		if err := done.Delete(keyChunk(segment, uint32(at/chunkBits))); err != nil {
			return err
		}
	}
	return nil
}
