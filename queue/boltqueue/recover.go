package boltqueue

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/store/boltkit"
)

// afterCrash is the time over which retries that are overdue after an unclean stop are spread, so that
// they do not all go out in one moment.
const afterCrash = time.Second

// recoverSafely is recover for a file that may be damaged: bbolt panics on pages that are not what they
// should be, or follows a length out of the mapped file, which is a fault.
func (q *Queue) recoverSafely() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v; restore it from a backup", boltkit.ErrDamaged, p)
		}
	}()
	return q.recover()
}

// recover rebuilds memory from the file. Segments all of whose deliveries are done cost one row and their
// bitmap; of the others the block headers are read. It runs before anything else uses the queue.
func (q *Queue) recover() error {
	return q.db.View(func(tx *bolt.Tx) error {
		// What uses a bucket takes it for granted, also long after the start.
		for _, name := range buckets() {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: bucket %s is missing; restore it from a backup", boltkit.ErrDamaged, name)
			}
		}
		q.seq = tx.Bucket(bucketEvent).Sequence()
		q.distributed = q.seq
		if err := q.recoverLanes(tx); err != nil {
			return err
		}
		if err := q.recoverSegments(tx); err != nil {
			return err
		}
		if err := q.recoverFates(tx); err != nil {
			return err
		}
		nowMs := time.Now().UnixMilli()
		for _, l := range q.numbers {
			if l.converting || l.dropped && l.retrying > 0 {
				q.convert(l)
			}
			if !l.dropped {
				l.recoverHoldOff(q, nowMs)
				q.place(l, nowMs)
			}
		}
		return nil
	})
}

func (l *lane) recoverHoldOff(q *Queue, nowMs int64) {
	if due, timed := l.dueAt(); timed && due < nowMs && !q.db.Clean() {
		l.notBefore = nowMs + rand.Int64N(afterCrash.Milliseconds()) //nolint:gosec // spreads load, protects nothing
	}
}

func (q *Queue) recoverLanes(tx *bolt.Tx) error {
	b := tx.Bucket(bucketLane)
	q.lastLane = uint32(b.Sequence())
	return b.ForEach(func(k, v []byte) error {
		r, err := decodeLane(v)
		if err != nil || len(k) != 4 {
			return fmt.Errorf("lane %x: %w", k, orDamaged(err))
		}
		id := r.id
		l := &lane{
			number: big.Uint32(k), id: id, dropped: r.dropped, floor: r.floor, floorReason: r.reason, converting: r.converting, cursor: r.floor + 1,
		}
		if r.dropped {
			l.lastUse = q.seq // not known exactly: forgotten when all there is now is gone
		}
		replays, err := replaysOf(b.Tx(), l)
		if err != nil {
			return err
		}
		q.setReplays(l, replays)
		if q.lanes[id] != nil {
			return fmt.Errorf("lane %d: %w: its id has two numbers", l.number, errDamaged)
		}
		q.lanes[id], q.numbers[l.number] = l, l
		return nil
	})
}

func orDamaged(err error) error {
	if err == nil {
		return errDamaged
	}
	return err
}

func (q *Queue) recoverSegments(tx *bolt.Tx) error {
	root, rows := tx.Bucket(bucketEvent), tx.Bucket(bucketSeg)
	var b block
	return root.ForEachBucket(func(name []byte) error {
		if len(name) != 8 {
			return fmt.Errorf("segment %x: %w", name, errDamaged)
		}
		first := big.Uint64(name)
		s := &segment{extent: extent{first: first, next: first}}
		bucket := root.Bucket(name)
		if row := rows.Get(name); row != nil {
			e, err := decodeExtent(first, row)
			if err != nil {
				return fmt.Errorf("segment %d: %w", first, err)
			}
			s.extent = e
		}
		set, err := countBits(tx, first)
		if err != nil {
			return err
		}
		if !s.sealed || set < int64(s.deliveries) {
			if err := q.recoverBlocks(tx, s, bucket, &b); err != nil {
				return err
			}
		}
		q.segments = append(q.segments, s)
		q.events += int64(s.next - s.first)
		q.lastMs = max(q.lastMs, s.maxMs)
		return nil
	})
}

// recoverBlocks reads the block headers of a segment and hands the deliveries that wait for their first
// attempt to their lanes.
func (q *Queue) recoverBlocks(tx *bolt.Tx, s *segment, bucket *bolt.Bucket, b *block) error {
	bits := newBitReader(tx)
	open := extent{first: s.first, next: s.first}
	c := bucket.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(k) != 8 {
			return fmt.Errorf("segment %d: %w: key %x", s.first, errDamaged, k)
		}
		value := packedValue(bucket, k, v)
		if err := b.read(big.Uint64(k), value); err != nil {
			return err
		}
		if b.first != open.next {
			return fmt.Errorf("segment %d: %w: block %d where %d should be", s.first, errDamaged, b.first, open.next)
		}
		s.blocks = append(s.blocks, blockMark{b.first, b.ms})
		if open.next == open.first {
			open.minMs = b.ms
		}
		open.maxMs = max(open.maxMs, b.ms)
		open.next += uint64(len(b.events))
		open.bytes += int64(len(value))
		for i := range b.events {
			targets, err := b.targets(i)
			if err != nil {
				return err
			}
			open.deliveries += uint32(len(targets))
			for j, n := range targets {
				ordinal := b.events[i].ordinal + uint32(j)
				set, err := bits.get(s.first, ordinal)
				if err != nil {
					return err
				}
				if set {
					continue
				}
				l := q.numbers[n]
				if l == nil {
					return fmt.Errorf("event %d: %w: it names lane %d, which is not there", b.first+uint64(i), errDamaged, n)
				}
				if _, gone := l.gaveUp(b.first + uint64(i)); !gone {
					l.add(q, s, ref{seq: b.first + uint64(i), ordinal: ordinal, size: b.events[i].size()}, nil)
					s.unfinished++
				}
			}
		}
	}
	if !s.sealed {
		s.extent = open
	}
	return nil
}

// recoverFates counts the records of deliveries and finds each lane's nearest retries.
func (q *Queue) recoverFates(tx *bolt.Tx) error {
	c := tx.Bucket(bucketFate).Cursor()
	var s *segment
	for k, v := c.First(); k != nil; k, v = c.Next() {
		seq, number, ok := parseSeqLane(k)
		if !ok {
			return fmt.Errorf("record %x: %w", k, errDamaged)
		}
		f, err := decodeFate(v)
		if err != nil {
			return fmt.Errorf("delivery %d/%d: %w", seq, number, err)
		}
		l := q.numbers[number]
		if l == nil {
			return fmt.Errorf("delivery %d/%d: %w: there is no such lane", seq, number, errDamaged)
		}
		q.extras = q.extras || f.extra
		if s == nil || seq < s.first || seq >= s.next {
			s = q.segmentOf(seq)
		}
		if f.state != fateRetrying {
			q.ended(l, f, s == nil)
			continue
		}
		l.addRetrying(q, 1)
		l.recount(fate{}, f)
		if s != nil {
			s.unfinished++
		}
		if !l.dropped && (f.batch == 0 || f.batch == seq) {
			l.recoverRetry(retryRef{due: f.at, seq: seq, replay: f.waitsReplay()})
		}
	}
	for _, l := range q.numbers {
		l.retries = slices.Clip(l.retries)
	}
	return nil
}

// recoverRetry keeps the nearest retries while all are seen in no order of time.
func (l *lane) recoverRetry(r retryRef) {
	if len(l.retries) == retryLimit && compareRetries(r, l.retries[retryLimit-1]) > 0 {
		l.moreRetries = true
		return
	}
	at, _ := slices.BinarySearchFunc(l.retries, r, compareRetries)
	l.retries = slices.Insert(l.retries, at, r)
	if len(l.retries) > retryLimit {
		l.retries, l.moreRetries = l.retries[:retryLimit], true
	}
}
