package boltqueue

import (
	"cmp"
	"fmt"
	"maps"
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

// chunkKey names a chunk.
type chunkKey struct {
	segment uint64
	chunk   uint32
}

// setBits sets all marks, reading and writing each chunk once.
func setBits(tx *bolt.Tx, marks []mark) error {
	if len(marks) == 0 {
		return nil
	}
	done := tx.Bucket(bucketDone)
	done.FillPercent = 0.9
	chunks := map[chunkKey][]byte{}
	var last chunkKey
	var value []byte
	for _, m := range marks {
		key := chunkKey{m.segment, m.ordinal / chunkBits}
		if value == nil || key != last {
			last = key
			if value = chunks[key]; value == nil {
				old := done.Get(keyChunk(key.segment, key.chunk))
				if old != nil && len(old) != chunkBytes {
					return fmt.Errorf("bitmap %d/%d: %w: %d bytes", key.segment, key.chunk, errDamaged, len(old))
				}
				value = make([]byte, chunkBytes)
				copy(value, old)
				chunks[key] = value
			}
		}
		bit := m.ordinal % chunkBits
		value[bit/8] |= 1 << (bit % 8)
	}
	// In the order of the keys, which is how bbolt writes best.
	keys := slices.SortedFunc(maps.Keys(chunks), func(a, b chunkKey) int {
		return cmp.Or(cmp.Compare(a.segment, b.segment), cmp.Compare(a.chunk, b.chunk))
	})
	for _, key := range keys {
		if err := done.Put(keyChunk(key.segment, key.chunk), chunks[key]); err != nil {
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
