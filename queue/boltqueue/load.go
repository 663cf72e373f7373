package boltqueue

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The loader fills windows from the disk: lanes that run low while more of theirs is stored. It reads for
// many lanes at once, so that an event with very many lanes is decoded once for all of them.

const (
	// loadLanes is how many lanes are filled in one pass.
	loadLanes = 1024
	// loadEvents is how many events one read transaction looks at.
	loadEvents = 4096
)

// load serves hungry lanes until the context ends.
func (q *Queue) load(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.feed:
		}
		for ctx.Err() == nil {
			q.mu.Lock()
			n := min(len(q.hungry), loadLanes)
			lanes := slices.Clone(q.hungry[:n])
			q.hungry = append(q.hungry[:0], q.hungry[n:]...)
			q.mu.Unlock()
			if n == 0 {
				break
			}
			if err := q.feedLanes(lanes); err != nil {
				q.log.Error("reading deliveries from the queue's file", "error", err)
				q.space.broken(err)
				return
			}
		}
	}
}

// feedLanes fills the windows and retries of the lanes.
func (q *Queue) feedLanes(lanes []*lane) error {
	for _, l := range lanes {
		if err := q.loadRetries(l); err != nil {
			return err
		}
	}
	if err := q.loadWindows(lanes); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	nowMs := time.Now().UnixMilli()
	for _, l := range lanes {
		l.hungry = false
		q.place(l, nowMs)
	}
	return nil
}

// loadRetries reads the lane's nearest retries when none is in memory.
func (q *Queue) loadRetries(l *lane) error {
	for {
		q.mu.Lock()
		if !l.moreRetries || len(l.retries) > 0 || l.dropped {
			q.mu.Unlock()
			return nil
		}
		version := l.retryVersion
		// Leased ones stand on disk, too, and are passed over.
		limit := retryLimit + int(l.leasedRetries)
		q.mu.Unlock()
		var page []retryRef
		more := false
		err := q.db.View(func(tx *bolt.Tx) error {
			prefix := string(key32(l.number))
			c := tx.Bucket(bucketDue).Cursor()
			for k, _ := c.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
				if len(page) == limit {
					more = true
					break
				}
				_, due, seq, _ := parseLaneTime(k)
				page = append(page, retryRef{due, seq})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("load retries: %w", err)
		}
		q.mu.Lock()
		if l.retryVersion != version || l.dropped {
			q.mu.Unlock()
			continue
		}
		page = slices.DeleteFunc(page, func(r retryRef) bool {
			_, leased := q.leases[leaseKey{r.seq, l.number}]
			return leased
		})
		l.retries = append(l.retries[:0], page...)
		l.moreRetries = more
		q.mu.Unlock()
		return nil
	}
}

// found is a delivery on disk for a lane that asked.
type found struct {
	lane *lane
	ref  ref
}

// loadWindows fills windows, one stretch of one segment after the other, beginning with the oldest any of the
// lanes waits for.
func (q *Queue) loadWindows(lanes []*lane) error {
	for {
		pass := q.planPass(lanes)
		if pass == nil {
			return nil
		}
		if err := q.db.View(pass.read); err != nil {
			return fmt.Errorf("load deliveries: %w", err)
		}
		q.mergePass(pass)
	}
}

// pass is one look at a stretch of a segment.
type pass struct {
	segment  *segment
	first    uint64 // the segment's
	from, to uint64 // events
	next     uint64 // where the pass ended
	wanted   map[uint32]*wanted
	found    []found
}

type wanted struct {
	lane *lane
	from uint64
	room int
	// until is the first event that was not looked at for this lane.
	until uint64
}

// planPass decides what to read next, or nil when no lane needs anything.
func (q *Queue) planPass(lanes []*lane) *pass {
	q.mu.Lock()
	defer q.mu.Unlock()
	var p *pass
	for _, l := range lanes {
		for len(l.shares) > 0 && (l.shares[0].count == 0 || q.segmentOf(l.shares[0].segment.first) != l.shares[0].segment || l.shares[0].segment.retiring) {
			l.shares = slices.Delete(l.shares, 0, 1)
		}
		if l.dropped || l.aside || len(l.shares) == 0 || l.windowLen() >= windowLow || l.mayLoad(q) <= 0 {
			continue
		}
		s := l.shares[0].segment
		if p == nil || s.first < p.first {
			p = &pass{segment: s, first: s.first, from: math.MaxUint64, to: min(s.next, q.distributed+1), wanted: map[uint32]*wanted{}}
		}
		if s == p.segment {
			from := max(l.cursor, s.first)
			p.from = min(p.from, from)
			p.wanted[l.number] = &wanted{lane: l, from: from, room: l.mayLoad(q), until: from}
		}
	}
	return p
}

// read collects the undone deliveries of the lanes that asked.
func (p *pass) read(tx *bolt.Tx) error {
	started := time.Now()
	bits := newBitReader(tx)
	p.next = p.from
	bucket := tx.Bucket(bucketEvent).Bucket(key64(p.first))
	if bucket == nil {
		p.next = p.to
		return nil
	}
	c := bucket.Cursor()
	var b block
	looked, open := 0, len(p.wanted)
	k, v := floor(c, key64(p.from))
	if k == nil {
		k, v = c.First()
	}
	for ; k != nil && p.next < p.to; k, v = c.Next() {
		if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
			return err
		}
		for i := range b.events {
			seq := b.first + uint64(i)
			if seq < p.from || seq >= p.to {
				continue
			}
			if looked >= loadEvents || open == 0 || looked&63 == 63 && time.Since(started) > viewBudget {
				return nil
			}
			looked++
			targets, err := b.targets(i)
			if err != nil {
				return err
			}
			for j, n := range targets {
				w := p.wanted[n]
				if w == nil || seq < w.from || w.room == 0 {
					continue
				}
				ordinal := b.events[i].ordinal + uint32(j)
				set, err := bits.get(p.first, ordinal)
				if err != nil {
					return err
				}
				if !set {
					p.found = append(p.found, found{w.lane, ref{seq, ordinal}})
					w.until = seq + 1
					if w.room--; w.room == 0 {
						open--
					}
				}
			}
			p.next = seq + 1
		}
	}
	p.next = p.to
	return nil
}

// mergePass puts what was found into the windows.
func (q *Queue) mergePass(p *pass) {
	q.mu.Lock()
	defer q.mu.Unlock()
	alive := q.segmentOf(p.first) == p.segment && !p.segment.retiring
	for _, f := range p.found {
		l := f.lane
		if !alive || l.dropped || len(l.shares) == 0 || l.shares[0].segment != p.segment || l.shares[0].count == 0 {
			continue
		}
		l.window = append(l.window, f.ref)
		q.windows++
		l.shares[0].count--
		l.cursor = f.ref.seq + 1
	}
	for _, w := range p.wanted {
		l := w.lane
		if l.dropped || len(l.shares) == 0 || l.shares[0].segment != p.segment {
			continue
		}
		if w.room > 0 {
			// All of the stretch was seen for this lane.
			l.cursor = max(l.cursor, p.next)
		}
		if l.shares[0].count == 0 || p.next >= p.segment.next && w.room > 0 {
			l.shares = slices.Delete(l.shares, 0, 1)
		}
	}
}
