package boltqueue

import (
	"encoding/base32"
	"encoding/binary"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The buckets of the file; doc.go describes them.
var (
	bucketLane   = []byte("lane")
	bucketEvent  = []byte("ev")
	bucketSeg    = []byte("seg")
	bucketDone   = []byte("done")
	bucketFate   = []byte("fate")
	bucketDue    = []byte("due")
	bucketDied   = []byte("died")
	bucketBatch  = []byte("batch")
	bucketReplay = []byte("replay")
	bucketAtt    = []byte("att")
	bucketKeep   = []byte("keep")
	bucketKeepID = []byte("keepid")
	bucketIdem   = []byte("idem")
	bucketProbe  = []byte("probe")
)

func buckets() [][]byte {
	return [][]byte{
		bucketLane, bucketEvent, bucketSeg, bucketDone, bucketFate, bucketDue, bucketDied, bucketBatch, bucketReplay,
		bucketAtt, bucketKeep, bucketKeepID, bucketIdem, bucketProbe,
	}
}

var big = binary.BigEndian

func key32(a uint32) []byte { return big.AppendUint32(nil, a) }
func key64(a uint64) []byte { return big.AppendUint64(nil, a) }

// keySeqLane is the key of fate: the event, then the lane.
func keySeqLane(seq uint64, lane uint32) []byte {
	return big.AppendUint32(big.AppendUint64(make([]byte, 0, 12), seq), lane)
}

func parseSeqLane(k []byte) (seq uint64, lane uint32, ok bool) {
	if len(k) != 12 {
		return 0, 0, false
	}
	return big.Uint64(k), big.Uint32(k[8:]), true
}

// keyLaneTime is the key of due and died: the lane, a time in milliseconds, the event.
func keyLaneTime(lane uint32, ms int64, seq uint64) []byte {
	k := big.AppendUint32(make([]byte, 0, 20), lane)
	return big.AppendUint64(big.AppendUint64(k, uint64(ms)), seq)
}

func parseLaneTime(k []byte) (lane uint32, ms int64, seq uint64, ok bool) {
	if len(k) != 20 {
		return 0, 0, 0, false
	}
	return big.Uint32(k), int64(big.Uint64(k[4:])), big.Uint64(k[12:]), true
}

// keyChunk is the key of done: the segment, then the number of the chunk.
func keyChunk(segment uint64, chunk uint32) []byte {
	return big.AppendUint32(big.AppendUint64(make([]byte, 0, 12), segment), chunk)
}

// packedLimit is the size from which a packed value stands alone in a nested bucket: bbolt rewrites the
// neighbours of a large value with every insert beside it, and never splits a page of four.
const packedLimit = 2048

var packedKey = []byte("p")

func putPacked(b *bolt.Bucket, key, value []byte) error {
	b.FillPercent = 1 // keys ascend, so no page needs room for later ones
	if len(value) < packedLimit {
		return b.Put(key, value)
	}
	alone, err := b.CreateBucket(key)
	if err != nil {
		return err
	}
	return alone.Put(packedKey, value)
}

// packedValue resolves what a cursor over packed values stands on.
func packedValue(b *bolt.Bucket, key, value []byte) []byte {
	if value != nil || key == nil {
		return value
	}
	if alone := b.Bucket(key); alone != nil {
		return alone.Get(packedKey)
	}
	return nil
}

// floor moves the cursor to the last key that is not above key.
func floor(c *bolt.Cursor, key []byte) (k, v []byte) {
	k, v = c.Seek(key)
	switch {
	case k == nil:
		return c.Last()
	case string(k) == string(key):
		return k, v
	}
	return c.Prev()
}

// The ids the queue gives: "evt_", then the event's number and eight random bytes, in 26 characters that sort
// like the numbers. The number finds the event without an index; the random bytes keep an id from being
// given twice when a backup is restored and numbers repeat.
const eventPrefix = "evt_"

var idText = base32.HexEncoding.WithPadding(base32.NoPadding)

func generatedID(seq, random uint64) string {
	var raw [16]byte
	big.PutUint64(raw[:], seq)
	big.PutUint64(raw[8:], random)
	return eventPrefix + strings.ToLower(idText.EncodeToString(raw[:]))
}

// seqOfID returns the number in an id that looks as if the queue had given it.
func seqOfID(id string) (uint64, bool) {
	text, ok := strings.CutPrefix(id, eventPrefix)
	if !ok || len(text) != 26 || strings.ToLower(text) != text {
		return 0, false
	}
	raw, err := idText.DecodeString(strings.ToUpper(text))
	if err != nil || len(raw) != 16 {
		return 0, false
	}
	return big.Uint64(raw), true
}
