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
		if l.dropped || !l.wantsRetries() {
			q.mu.Unlock()
			return nil
		}
		p := retryPage{q: q, lane: l, ord: l.ord}
		version := l.retryVersion
		// Leased ones stand on disk, too, and are passed over.
		p.limit = retryLimit + int(l.leasedRetries)
		if l.ord != nil {
			p.limit = lookAhead
		}
		q.mu.Unlock()
		for p.more = true; p.more && len(p.groups) < p.limit; {
			if err := q.db.View(p.read); err != nil {
				return fmt.Errorf("load retries: %w", err)
			}
		}
		q.mu.Lock()
		if l.retryVersion != version || l.ord != p.ord || l.dropped {
			q.mu.Unlock()
			continue
		}
		q.takePage(&p)
		q.mu.Unlock()
		return nil
	}
}

// retryPage is the nearest retries of a lane as they stand on disk.
type retryPage struct {
	q      *Queue
	lane   *lane
	ord    *ordering
	limit  int
	from   []byte
	groups []group
	more   bool
}

// read reads on for as long as a read transaction may.
func (p *retryPage) read(tx *bolt.Tx) error {
	p.more = false
	started := time.Now()
	prefix := string(key32(p.lane.number))
	if p.from == nil {
		p.from = []byte(prefix)
	}
	reader := eventReader{tx: tx}
	c := tx.Bucket(bucketDue).Cursor()
	for k, v := c.Seek(p.from); len(k) == 20 && string(k[:4]) == prefix; k, v = c.Next() {
		if len(p.groups) >= p.limit || time.Since(started) > viewBudget {
			p.from, p.more = slices.Clone(k), true
			return nil
		}
		_, due, seq, _ := parseLaneTime(k)
		g := group{due: due, seqs: []uint64{seq}, replay: len(v) > 0}
		if p.ord != nil {
			if err := p.members(tx, &reader, &g); err != nil {
				return err
			}
		}
		p.groups = append(p.groups, g)
	}
	return nil
}

// members completes a batch, and finds the keys of its deliveries.
func (p *retryPage) members(tx *bolt.Tx, reader *eventReader, g *group) error {
	first := leaseKey{g.seqs[0], p.lane.number}
	f, ok, err := readFate(tx, first)
	if err != nil || !ok {
		return fmt.Errorf("delivery %d/%d: %w", first.seq, first.lane, orDamaged(err))
	}
	g.loose, g.replay = f.byHand || f.replay || f.extra, f.replay
	if f.batch == first.seq {
		rest, err := readBatch(tx, first)
		if err != nil {
			return err
		}
		g.seqs = append(g.seqs, rest...)
	}
	g.keys = make([]uint64, len(g.seqs))
	for i, seq := range g.seqs {
		if p.ord.key == nil {
			continue
		}
		ev, err := lookUp(tx, reader, p.q.segmentFirst(seq), seq)
		if err != nil || ev == nil {
			return fmt.Errorf("event %d: %w", seq, orDamaged(err))
		}
		g.keys[i] = p.ord.keyOf(ev)
	}
	return nil
}

// takePage puts a page in memory. The lock is held.
func (q *Queue) takePage(p *retryPage) {
	l := p.lane
	if p.ord == nil {
		l.retries = l.retries[:0]
	} else {
		p.ord.clearGroups()
	}
	for i := range p.groups {
		g := &p.groups[i]
		if _, leased := q.leases[leaseKey{g.seqs[0], l.number}]; leased {
			continue
		}
		if p.ord == nil {
			l.retries = append(l.retries, retryRef{due: g.due, seq: g.seqs[0], replay: g.replay})
		} else {
			p.ord.wait(g)
		}
	}
	l.moreRetries = p.more
	if p.ord != nil {
		p.ord.loaded, p.ord.more = true, p.more
	}
}

// found is a delivery on disk for a lane that asked.
type found struct {
	by  *wanted
	ref ref
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
	ord  *ordering
	from uint64
	room int
	// reloads is what the lane's was when the pass was planned.
	reloads uint64
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
		if l.dropped || l.aside || len(l.shares) == 0 || l.windowLen() >= l.low() || l.mayLoad(q) <= 0 {
			continue
		}
		s := l.shares[0].segment
		if p == nil || s.first < p.first {
			p = &pass{segment: s, first: s.first, from: math.MaxUint64, to: min(s.next, q.distributed+1), wanted: map[uint32]*wanted{}}
		}
		if s == p.segment {
			from := max(l.cursor, s.first)
			p.from = min(p.from, from)
			p.wanted[l.number] = &wanted{lane: l, ord: l.ord, from: from, room: l.mayLoad(q), until: from, reloads: l.reloads}
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
					r := ref{seq: seq, ordinal: ordinal, size: b.events[i].size()}
					if w.ord != nil && w.ord.key != nil {
						ev, err := b.event(i)
						if err != nil {
							return err
						}
						r.key = w.ord.keyOf(ev)
					}
					p.found = append(p.found, found{w, r})
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
		l := f.by.lane
		if !alive || l.dropped || l.reloads != f.by.reloads || len(l.shares) == 0 || l.shares[0].segment != p.segment || l.shares[0].count == 0 {
			continue
		}
		if l.skip[f.ref.seq] {
			continue // leased, or not any more and done with
		}
		l.push(q, f.ref)
		l.shares[0].count--
	}
	for _, w := range p.wanted {
		l := w.lane
		if l.dropped || l.reloads != w.reloads || len(l.shares) == 0 || l.shares[0].segment != p.segment {
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
