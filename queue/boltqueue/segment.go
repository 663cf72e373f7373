package boltqueue

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"
	"time"

	"herald/queue"
)

// Limits of a segment; the first that is reached seals it.
const (
	segmentEvents     = 8192
	segmentBytes      = 32 << 20
	segmentDeliveries = 1 << 20
	segmentAge        = time.Hour
)

// extent is what stands on disk of a segment: its row in seg is written when it is sealed, before that it
// is read from its blocks.
type extent struct {
	first, next  uint64 // events [first, next)
	deliveries   uint32 // implied by the target lists
	bytes        int64  // of all blocks
	minMs, maxMs int64  // acceptance
	sealed       bool
}

// grow takes over what a commit made of the extent. Its first stays untouched: it is read without the lock.
func (e *extent) grow(to *extent) {
	e.next, e.deliveries, e.bytes = to.next, to.deliveries, to.bytes
	e.minMs, e.maxMs, e.sealed = to.minMs, to.maxMs, to.sealed
}

func (e *extent) encode() []byte {
	b := []byte{recordVersion}
	b = binary.AppendUvarint(b, e.next-e.first)
	b = binary.AppendUvarint(b, uint64(e.deliveries))
	b = binary.AppendUvarint(b, uint64(e.bytes))
	b = binary.AppendUvarint(b, uint64(e.minMs))
	return binary.AppendUvarint(b, uint64(e.maxMs-e.minMs))
}

func decodeExtent(first uint64, b []byte) (extent, error) {
	d := decoder{b: b}
	d.version()
	e := extent{first: first, sealed: true}
	e.next = first + d.number(math.MaxUint32)
	e.deliveries = uint32(d.number(math.MaxUint32))
	e.bytes = int64(d.number(math.MaxInt64))
	e.minMs = int64(d.number(math.MaxInt64))
	e.maxMs = e.minMs + int64(d.number(uint64(math.MaxInt64-e.minMs)))
	return e, d.end()
}

// segment is a run of events that are stored, and in the end dropped, together.
type segment struct {
	extent
	// unfinished counts deliveries that are neither delivered, dead nor discarded.
	unfinished int64
	// leased counts leases of its deliveries.
	leased int
	// retiring: nothing of it is claimed any more, it is about to be dropped.
	retiring bool
	// blocks are the first event and time of each block, ascending.
	blocks []blockMark
	// cache holds events accepted lately, by position; nil when there is none.
	cache  []cached
	cached int
}

type blockMark struct {
	seq uint64
	ms  int64
}

// cached is an event in memory and how many of its lanes still have to claim it.
type cached struct {
	event *queue.Event
	left  int32
}

// fits says whether another event may join the segment.
func (e *extent) fits(nowMs int64, lanes, size int) bool {
	return !e.sealed && e.next-e.first < segmentEvents && e.bytes+int64(size) <= segmentBytes &&
		int64(e.deliveries)+int64(lanes) <= segmentDeliveries && nowMs-e.minMs < segmentAge.Milliseconds()
}

// acceptedAt returns the acceptance time of an event, in milliseconds.
func (s *segment) acceptedAt(seq uint64) int64 {
	i := sort.Search(len(s.blocks), func(i int) bool { return s.blocks[i].seq > seq })
	if i == 0 {
		return s.minMs
	}
	return s.blocks[i-1].ms
}

// segmentOf returns the retained segment that holds the event, or nil. The lock is held.
func (q *Queue) segmentOf(seq uint64) *segment {
	if n := len(q.segments); n > 0 && seq >= q.segments[n-1].first {
		if s := q.segments[n-1]; seq < s.next {
			return s
		}
		return nil
	}
	i := sort.Search(len(q.segments), func(i int) bool { return q.segments[i].first > seq })
	if i == 0 || seq >= q.segments[i-1].next {
		return nil
	}
	return q.segments[i-1]
}

// remember keeps an event in memory until all its lanes have claimed it, if there is room. The lock is
// held.
func (q *Queue) remember(s *segment, seq uint64, ev *queue.Event, lanes int) {
	size := cacheCost(ev)
	if lanes == 0 || q.cacheBytes+size > q.o.CacheBytes {
		return
	}
	at := int(seq - s.first)
	if at >= len(s.cache) {
		s.cache = append(s.cache, make([]cached, at+1-len(s.cache))...)
	}
	s.cache[at] = cached{ev, int32(lanes)}
	s.cached++
	q.cacheBytes += size
}

// A cached event that was not claimed for so long, in milliseconds, will not be soon: its lane rests, or is far behind. It is let
// go when the cache is half full, looked for at most so often.
const (
	cacheStale = 2000
	cacheSweep = 1000
)

// sweepCache makes room in memory for events that will be claimed soon. The lock is held.
func (q *Queue) sweepCache(nowMs int64) {
	if q.cacheBytes < q.o.CacheBytes/2 || nowMs-q.sweptMs < cacheSweep {
		return
	}
	q.sweptMs = nowMs
	limit := timeOf(nowMs - cacheStale)
	for _, s := range q.segments {
		if s.cached == 0 {
			continue
		}
		for i := range s.cache {
			c := &s.cache[i]
			if c.event == nil || !c.event.AcceptedAt.Before(limit) {
				continue
			}
			q.cacheBytes -= cacheCost(c.event)
			*c = cached{}
			s.cached--
		}
		if s.cached == 0 && s.sealed {
			s.cache = nil
		}
	}
}

// recall returns an event kept in memory, or nil, and counts one claim of it. The lock is held.
func (q *Queue) recall(s *segment, seq uint64) *queue.Event {
	at := int(seq - s.first)
	if at >= len(s.cache) || s.cache[at].event == nil {
		return nil
	}
	c := &s.cache[at]
	ev := c.event
	if c.left--; c.left <= 0 {
		*c = cached{}
		q.cacheBytes -= cacheCost(ev)
		if s.cached--; s.cached == 0 && s.sealed {
			s.cache = nil
		}
	}
	return ev
}

// forget drops what a segment keeps in memory. The lock is held.
func (q *Queue) forget(s *segment) {
	for _, c := range s.cache {
		if c.event != nil {
			q.cacheBytes -= cacheCost(c.event)
		}
	}
	s.cache, s.cached = nil, 0
}

func cacheCost(ev *queue.Event) int64 {
	return int64(len(ev.Data)+len(ev.Attributes)+len(ev.ID)+traceCost(ev.Trace)) + 200
}

// removeSegment takes a segment out of the list. The lock is held.
func (q *Queue) removeSegment(s *segment) {
	q.forget(s)
	if i := slices.Index(q.segments, s); i >= 0 {
		q.segments = slices.Delete(q.segments, i, i+1)
	}
}
