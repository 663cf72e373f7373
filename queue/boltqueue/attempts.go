package boltqueue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// entry is one attempt in the log.
type entry struct {
	seq     uint64
	lane    uint32
	attempt queue.Attempt
}

// sameTexts stands in place of the length of an error: the texts are those of the attempt before.
const sameTexts = queue.MaxErrorText + 1

// The classes as they stand on disk.
var classCodes = [...]queue.Class{
	1: queue.ClassDelivered, 2: queue.ClassRetry, 3: queue.ClassRejected, 4: queue.ClassGone, 5: queue.ClassMisconfigured,
}

func classCode(c queue.Class) byte {
	return byte(max(slices.Index(classCodes[1:], c), -1) + 1)
}

// appendEntries encodes the attempts of one commit and one event segment: first the fixed parts, then the
// texts, so that looking for one delivery does not touch the texts of the others.
func appendEntries(dst []byte, entries []entry) []byte {
	start := len(dst)
	dst = append(dst, recordVersion, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(len(entries)))
	lastSeq, lastMs := uint64(0), int64(0)
	for i := range entries {
		e := &entries[i]
		ms := e.attempt.StartedAt.UnixMilli()
		dst = binary.AppendVarint(dst, int64(e.seq-lastSeq))
		dst = binary.AppendUvarint(dst, uint64(e.lane))
		dst = binary.AppendUvarint(dst, uint64(e.attempt.Number))
		dst = binary.AppendVarint(dst, ms-lastMs)
		dst = binary.AppendUvarint(dst, uint64(max(e.attempt.Duration, 0)/time.Microsecond))
		dst = append(dst, classCode(e.attempt.Class))
		dst = binary.AppendUvarint(dst, uint64(max(e.attempt.Status, 0)))
		if e.repeats(entries, i) {
			dst = binary.AppendUvarint(dst, sameTexts)
		} else {
			dst = binary.AppendUvarint(dst, uint64(len(e.attempt.Error)))
			dst = binary.AppendUvarint(dst, uint64(len(e.attempt.Response)))
		}
		lastSeq, lastMs = e.seq, ms
	}
	big.PutUint32(dst[start+1:], uint32(len(dst)-start-5))
	for i := range entries {
		if e := &entries[i]; !e.repeats(entries, i) {
			dst = append(dst, e.attempt.Error...)
			dst = append(dst, e.attempt.Response...)
		}
	}
	return dst
}

// repeats says whether the texts of the i-th entry are those of the one before, as they are within a batch. Without texts it
// is not worth saying.
func (e *entry) repeats(entries []entry, i int) bool {
	if i == 0 || len(e.attempt.Error)+len(e.attempt.Response) == 0 {
		return false
	}
	before := &entries[i-1].attempt
	return e.attempt.Error == before.Error && bytes.Equal(e.attempt.Response, before.Response)
}

// readEntries calls fn for each attempt of a block that want selects. What fn gets is copied.
func readEntries(value []byte, want func(seq uint64, lane uint32) bool, fn func(entry)) error {
	d := decoder{b: value}
	d.version()
	raw := d.bytes(4)
	if d.err != nil {
		return d.err
	}
	header := d.bytes(int(big.Uint32(raw)))
	texts := d
	d = decoder{b: header, err: d.err}
	var seq uint64
	var ms int64
	var text, response []byte
	for i := range d.count() {
		seq += uint64(d.varint())
		e := entry{seq: seq, lane: uint32(d.number(math.MaxUint32))}
		e.attempt.Number = int(d.number(math.MaxInt32))
		ms += d.varint()
		e.attempt.StartedAt = timeOf(ms)
		e.attempt.Duration = time.Duration(d.number(math.MaxInt64/1000)) * time.Microsecond
		if c := d.byte(); int(c) < len(classCodes) {
			e.attempt.Class = classCodes[c]
		} else {
			d.fail("unknown class")
		}
		e.attempt.Status = int(d.number(math.MaxInt32))
		if n := int(d.number(sameTexts)); n < sameTexts {
			text, response = texts.bytes(n), texts.bytes(int(d.number(queue.MaxResponse)))
		} else if i == 0 {
			d.fail("texts of no attempt")
		}
		if d.err != nil || texts.err != nil {
			break
		}
		if want(e.seq, e.lane) {
			e.attempt.Error = string(text)
			if len(response) > 0 {
				e.attempt.Response = slices.Clone(response)
			}
			fn(e)
		}
	}
	if err := d.end(); err != nil {
		return err
	}
	return texts.end()
}

// trimAttempt returns the attempt as it is recorded.
func trimAttempt(a queue.Attempt, number int) queue.Attempt {
	a.Number = number
	a.StartedAt = a.StartedAt.UTC().Truncate(time.Millisecond)
	a.Duration = max(a.Duration, 0).Truncate(time.Microsecond)
	a.Status = max(a.Status, 0)
	a.Error = queue.ErrorText(a.Error)
	if len(a.Response) > queue.MaxResponse {
		a.Response = a.Response[:queue.MaxResponse]
	}
	return a
}

// putEntries writes the attempts of a commit, one block for each segment of their events.
func putEntries(tx *bolt.Tx, entries []entry, segmentOf func(seq uint64) uint64, buffer []byte) error {
	if len(entries) == 0 {
		return nil
	}
	root := tx.Bucket(bucketAtt)
	commit, err := root.NextSequence()
	if err != nil {
		return err
	}
	key := key64(commit)
	for len(entries) > 0 {
		segment := segmentOf(entries[0].seq)
		n := gather(entries, func(seq uint64) bool { return segmentOf(seq) == segment })
		last := entries[0].attempt.StartedAt.UnixMilli()
		for i := range entries[:n] {
			last = max(last, entries[i].attempt.StartedAt.UnixMilli())
		}
		b, err := root.CreateBucketIfNotExists(key64(segment))
		if err != nil {
			return err
		}
		at := len(buffer)
		buffer = appendEntries(buffer, entries[:n])
		if err := putPacked(b, key, buffer[at:len(buffer):len(buffer)]); err != nil {
			return err
		}
		// The bucket's own counter keeps the time of its last attempt.
		if last > int64(b.Sequence()) {
			if err := b.SetSequence(uint64(last)); err != nil {
				return err
			}
		}
		entries = entries[n:]
	}
	return nil
}

// gather moves the entries that belong to the front, most often all of them, and returns how many there are.
func gather(entries []entry, belongs func(seq uint64) bool) int {
	n := 0
	for i := range entries {
		if belongs(entries[i].seq) {
			if i != n {
				entries[i], entries[n] = entries[n], entries[i]
			}
			n++
		}
	}
	return n
}

// attemptsOf reads the attempts of one delivery in pages, oldest first.
func (q *Queue) attemptsOf(seq uint64, lane uint32) ([]queue.Attempt, error) {
	var list []queue.Attempt
	var from []byte
	for more := true; more; {
		err := q.db.View(func(tx *bolt.Tx) error {
			more = false
			root := tx.Bucket(bucketAtt)
			name, _ := floor(root.Cursor(), key64(seq))
			if name == nil {
				return nil
			}
			b := root.Bucket(name)
			c := b.Cursor()
			started := time.Now()
			k, v := c.Seek(from)
			for ; k != nil; k, v = c.Next() {
				if time.Since(started) > viewBudget {
					from, more = slices.Clone(k), true
					return nil
				}
				err := readEntries(packedValue(b, k, v),
					func(s uint64, l uint32) bool { return s == seq && l == lane },
					func(e entry) { list = append(list, e.attempt) })
				if err != nil {
					return fmt.Errorf("attempts %d of segment %d: %w", big.Uint64(k), big.Uint64(name), err)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b queue.Attempt) int { return a.Number - b.Number })
	return list, nil
}
