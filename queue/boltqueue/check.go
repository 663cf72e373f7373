package boltqueue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// maxFindings bounds what one Check reports.
const maxFindings = 100

// CheckFile is Check before Run: it reads all there is and changes nothing.
func (q *Queue) CheckFile(ctx context.Context) error {
	c := checker{q: q, ctx: ctx, content: true}
	return errors.Join(q.db.View(c.run), q.db.Check(ctx))
}

// Check implements queue.Queue. Commits wait while it reads.
func (q *Queue) Check(ctx context.Context) error {
	c := checker{q: q, ctx: ctx}
	err := q.do(ctx, &operation{write: func(*bolt.Tx, *stage) error {
		// Within the writer's turn memory and the last commit agree; what this commit is about to write is not
		// part of the transaction opened here.
		if err := q.db.View(c.run); err != nil {
			return refuse(err)
		}
		return nil
	}})
	if errors.Is(err, queue.ErrClosed) {
		return err
	}
	return errors.Join(err, q.db.Check(ctx))
}

// checker compares every index with its records, and memory with the disk.
type checker struct {
	q   *Queue
	ctx context.Context //nolint:containedctx // it lives for one call
	// content says to look at what is in the events, too.
	content bool
	tx      *bolt.Tx
	found   []error

	lanes    map[uint32]laneRecord
	lanesBy  map[queue.Lane]uint32
	segments map[uint64]extent
	tallies  map[uint32]*tally
	// fates counts the records to be found again in due and died.
	due, died int
	// together counts the deliveries of batches, batched those their records name.
	together, batched int
	events            int64
}

// tally is what the disk says of a lane.
type tally struct {
	unset, retrying, replayed, due, dead int64
}

func (c *checker) report(format string, args ...any) {
	if len(c.found) < maxFindings {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

func (c *checker) run(tx *bolt.Tx) error {
	c.tx, c.found = tx, nil
	c.lanes, c.lanesBy, c.segments, c.tallies = map[uint32]laneRecord{}, map[queue.Lane]uint32{}, map[uint64]extent{}, map[uint32]*tally{}
	for _, step := range []func(){
		c.checkLanes, c.checkSegments, c.checkRows, c.checkFates, c.checkIndex, c.checkKept, c.checkIDs, c.checkAttempts, c.checkMemory,
	} {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		step()
	}
	return errors.Join(c.found...)
}

func (c *checker) tally(lane uint32) *tally {
	t := c.tallies[lane]
	if t == nil {
		t = &tally{}
		c.tallies[lane] = t
	}
	return t
}

func (c *checker) checkLanes() {
	b := c.tx.Bucket(bucketLane)
	_ = b.ForEach(func(k, v []byte) error {
		r, err := decodeLane(v)
		if err != nil || len(k) != 4 {
			c.report("lane %x: %w", k, orDamaged(err))
			return nil
		}
		n := big.Uint32(k)
		if other, ok := c.lanesBy[r.id]; ok {
			c.report("lanes %d and %d have the same id", other, n)
		}
		if uint64(n) > b.Sequence() {
			c.report("lane %d is above the counter %d", n, b.Sequence())
		}
		c.lanes[n], c.lanesBy[r.id] = r, n
		return nil
	})
}

// checkSegments reads every event and every bit.
func (c *checker) checkSegments() {
	root := c.tx.Bucket(bucketEvent)
	var b block
	next := uint64(0)
	_ = root.ForEachBucket(func(name []byte) error {
		if err := c.ctx.Err(); err != nil {
			return err // run ends with it, too
		}
		if len(name) != 8 {
			c.report("segment %x: bad name", name)
			return nil
		}
		e := extent{first: big.Uint64(name), next: big.Uint64(name)}
		if e.first < next {
			c.report("segment %d begins before the one before it ends", e.first)
		}
		bits := newBitReader(c.tx)
		bucket := root.Bucket(name)
		set := int64(0)
		_ = bucket.ForEach(func(k, v []byte) error {
			value := packedValue(bucket, k, v)
			if err := b.read(big.Uint64(k), value); err != nil {
				c.report("segment %d: %w", e.first, err)
				return nil
			}
			set += c.checkBlock(&e, &b, bits)
			e.bytes += int64(len(value))
			return nil
		})
		if n, err := countBits(c.tx, e.first); err != nil || n != set {
			c.report("segment %d: %d bits are set and %d of them belong to deliveries (%w)", e.first, n, set, orDamaged(err))
		}
		next = e.next
		c.events += int64(e.next - e.first)
		c.segments[e.first] = e
		return nil
	})
	if next > root.Sequence()+1 {
		c.report("the newest event is %d and the counter stands at %d", next-1, root.Sequence())
	}
}

func (c *checker) checkBlock(e *extent, b *block, bits *bitReader) (set int64) {
	if b.first != e.next {
		c.report("segment %d: block %d where %d should be", e.first, b.first, e.next)
	}
	if e.next == e.first {
		e.minMs = b.ms
	}
	if b.ms < e.maxMs {
		c.report("block %d is older than the one before it", b.first)
	}
	e.maxMs = b.ms
	e.next = b.first + uint64(len(b.events))
	for i := range b.events {
		seq := b.first + uint64(i)
		if ev, err := b.event(i); err != nil {
			c.report("%w", err)
		} else if c.content {
			c.checkContent(ev)
		}
		if b.events[i].ordinal != e.deliveries {
			c.report("event %d: its first delivery is number %d and should be %d", seq, b.events[i].ordinal, e.deliveries)
		}
		targets, err := b.targets(i)
		if err != nil {
			c.report("event %d: %w", seq, err)
			continue
		}
		e.deliveries += uint32(len(targets))
		for j, n := range targets {
			if _, ok := c.lanes[n]; !ok {
				c.report("event %d names lane %d, which is not there", seq, n)
			}
			isSet, err := bits.get(e.first, b.events[i].ordinal+uint32(j))
			if err != nil {
				c.report("event %d: %w", seq, err)
			}
			recorded := c.tx.Bucket(bucketFate).Get(keySeqLane(seq, n)) != nil
			switch {
			case isSet:
				set++
			case recorded:
				c.report("delivery %d/%d has a record and waits for its first attempt", seq, n)
			case seq > c.lanes[n].floor:
				c.tally(n).unset++
			}
		}
	}
	return set
}

// checkContent looks for what no publisher can have published, and what therefore is not what was written. Not every change of a byte
// shows.
func (c *checker) checkContent(ev *queue.Event) {
	for _, text := range []string{ev.ID, ev.AccountID, ev.Type, ev.Resource} {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			c.report("event %d: %w: its id, account, type or resource is no text", ev.Seq, errDamaged)
			break
		}
	}
	for _, object := range [][]byte{ev.Data, ev.Attributes} {
		if object = bytes.TrimLeft(object, " \t\r\n"); object != nil && (!bytes.HasPrefix(object, []byte("{")) || !utf8.Valid(object) || !json.Valid(object)) {
			c.report("event %d: %w: its data is no JSON object", ev.Seq, errDamaged)
			break
		}
	}
}

// checkRows compares the rows of sealed segments with their blocks, and looks for bitmaps of none.
func (c *checker) checkRows() {
	_ = c.tx.Bucket(bucketSeg).ForEach(func(k, v []byte) error {
		if len(k) != 8 {
			c.report("segment row %x: bad key", k)
			return nil
		}
		first := big.Uint64(k)
		row, err := decodeExtent(first, v)
		have, ok := c.segments[first]
		switch {
		case err != nil:
			c.report("segment row %d: %w", first, err)
		case !ok:
			c.report("segment row %d has no segment", first)
		case row.next != have.next || row.deliveries != have.deliveries || row.minMs != have.minMs || row.maxMs != have.maxMs:
			c.report("segment row %d does not agree with its blocks: %+v, %+v", first, row, have)
		}
		return nil
	})
	_ = c.tx.Bucket(bucketDone).ForEach(func(k, _ []byte) error {
		if len(k) != 12 {
			c.report("bitmap %x: bad key", k)
		} else if _, ok := c.segments[big.Uint64(k)]; !ok {
			c.report("bitmap %d has no segment", big.Uint64(k))
		}
		return nil
	})
}

// retained says whether the segment of an event is there.
func (c *checker) retained(seq uint64) bool {
	name, _ := floor(c.tx.Bucket(bucketEvent).Cursor(), key64(seq))
	if name == nil {
		return false
	}
	e, ok := c.segments[big.Uint64(name)]
	return ok && seq >= e.first && seq < e.next
}

func (c *checker) checkFates() {
	due, died, keep := c.tx.Bucket(bucketDue), c.tx.Bucket(bucketDied), c.tx.Bucket(bucketKeep)
	reader := eventReader{tx: c.tx}
	bits := newBitReader(c.tx)
	_ = c.tx.Bucket(bucketFate).ForEach(func(k, v []byte) error {
		seq, n, ok := parseSeqLane(k)
		f, err := decodeFate(v)
		if !ok || err != nil {
			c.report("record %x: %w", k, orDamaged(err))
			return nil
		}
		if _, ok := c.lanes[n]; !ok {
			c.report("delivery %d/%d: there is no such lane", seq, n)
		}
		retained := c.retained(seq)
		if retained {
			name, _ := floor(c.tx.Bucket(bucketEvent).Cursor(), key64(seq))
			p, found, err := reader.find(big.Uint64(name), seq, n)
			switch {
			case err != nil:
				c.report("delivery %d/%d: %w", seq, n, err)
			case found == f.extra:
				c.report("delivery %d/%d: its record says extra: %t, and its event names the lane: %t", seq, n, f.extra, found)
			case found:
				if set, err := bits.get(p.segment, p.ordinal); err != nil || !set {
					c.report("delivery %d/%d has a record and its bit is not set (%w)", seq, n, orDamaged(err))
				}
			}
		} else if keep.Get(key64(seq)) == nil {
			c.report("delivery %d/%d: its event is gone", seq, n)
		}
		index := keyLaneTime(n, f.at, seq)
		switch {
		case f.state == fateRetrying:
			c.tally(n).retrying++
			if f.waitsReplay() {
				c.tally(n).replayed++
			}
			c.checkBatch(leaseKey{seq, n}, f)
			if !f.waits(seq) {
				break
			}
			c.due++
			c.tally(n).due++
			if v := due.Get(index); v == nil || (len(v) > 0) != f.waitsReplay() {
				c.report("delivery %d/%d is not in the order of its lane's retries as what it is", seq, n)
			}
		case f.indexed(!retained):
			c.died++
			if died.Get(index) == nil {
				c.report("delivery %d/%d is not in the order of its lane's ends", seq, n)
			}
		}
		if f.state == fateDead {
			c.tally(n).dead++
		}
		return nil
	})
}

// checkBatch looks for a delivery in the record of its batch.
func (c *checker) checkBatch(key leaseKey, f fate) {
	if f.batch == 0 {
		return
	}
	c.together++
	rest, err := readBatch(c.tx, leaseKey{f.batch, key.lane})
	switch {
	case err != nil:
		c.report("delivery %d/%d: %w", key.seq, key.lane, err)
	case f.batch == key.seq:
		c.batched += 1 + len(rest)
	case !slices.Contains(rest, key.seq):
		c.report("delivery %d/%d is not in its batch", key.seq, key.lane)
	}
}

// checkIndex counts due and died: every record was found in them, so equal numbers leave no entry over.
func (c *checker) checkIndex() {
	for _, index := range []struct {
		name []byte
		want int
	}{{bucketDue, c.due}, {bucketDied, c.died}} {
		n := 0
		_ = c.tx.Bucket(index.name).ForEach(func(k, _ []byte) error {
			if _, _, _, ok := parseLaneTime(k); !ok {
				c.report("%s: bad key %x", index.name, k)
			}
			n++
			return nil
		})
		if n != index.want {
			c.report("%s has %d entries for %d records", index.name, n, index.want)
		}
	}
	if c.together != c.batched {
		c.report("%d deliveries are in batches, whose records name %d", c.together, c.batched)
	}
}

func (c *checker) checkKept() {
	fates := c.tx.Bucket(bucketFate)
	kepts := 0
	_ = c.tx.Bucket(bucketKeep).ForEach(func(k, v []byte) error {
		if len(k) != 8 {
			c.report("kept event %x: bad key", k)
			return nil
		}
		ev, _, err := decodeKept(big.Uint64(k), v)
		if err != nil {
			c.report("kept event %x: %w", k, err)
			return nil
		}
		kepts++
		if c.content {
			c.checkContent(ev)
		}
		if f, _ := fates.Cursor().Seek(k); len(f) != 12 || string(f[:8]) != string(k) {
			c.report("kept event %d: no delivery refers to it", big.Uint64(k))
		}
		id := keyOfID(ev.AccountID, ev.ID)
		if claimed, err := decodeClaimedID(c.tx.Bucket(bucketKeepID).Get(id[:])); err != nil {
			c.report("kept event %d cannot be found by its id: %w", big.Uint64(k), err)
		} else if claimed.seq != big.Uint64(k) {
			// Another event of the same id was kept later; this one goes with its deliveries.
			if c.tx.Bucket(bucketKeep).Get(key64(claimed.seq)) == nil {
				c.report("kept event %d: its id names event %d, which is not kept", big.Uint64(k), claimed.seq)
			}
		}
		return nil
	})
	if n := c.tx.Bucket(bucketKeepID).Stats().KeyN; n > kepts {
		c.report("%d ids of kept events for %d of them", n, kepts)
	}
}

// checkIDs looks up every publisher's id whose event is retained.
func (c *checker) checkIDs() {
	reader := eventReader{tx: c.tx}
	root := c.tx.Bucket(bucketIdem)
	_ = root.ForEachBucket(func(name []byte) error {
		b := root.Bucket(name)
		return b.ForEach(func(k, v []byte) error {
			id, err := decodeClaimedID(v)
			if err != nil || len(k) != 16 {
				c.report("id %x: %w", k, orDamaged(err))
				return nil
			}
			if id.seq > b.Sequence() {
				c.report("id %x names event %d and its slice ends at %d", k, id.seq, b.Sequence())
			}
			if !c.retained(id.seq) {
				return nil
			}
			first, _ := floor(c.tx.Bucket(bucketEvent).Cursor(), key64(id.seq))
			ev, err := reader.event(big.Uint64(first), id.seq)
			if err != nil || ev == nil {
				c.report("id %x: event %d: %w", k, id.seq, orDamaged(err))
				return nil
			}
			if want := keyOfID(ev.AccountID, ev.ID); string(want[:]) != string(k) {
				c.report("id %x names event %d, which has another", k, id.seq)
			}
			return nil
		})
	})
}

func (c *checker) checkAttempts() {
	root := c.tx.Bucket(bucketAtt)
	_ = root.ForEachBucket(func(name []byte) error {
		b := root.Bucket(name)
		return b.ForEach(func(k, v []byte) error {
			err := readEntries(packedValue(b, k, v), func(uint64, uint32) bool { return true }, func(e entry) {
				if ms := e.attempt.StartedAt.UnixMilli(); ms > int64(b.Sequence()) {
					c.report("attempts %x: one is later than the bucket says", name)
				}
				if e.seq < big.Uint64(name) {
					c.report("attempts %x: event %d is before the segment", name, e.seq)
				}
			})
			if err != nil {
				c.report("attempts %x/%x: %w", name, k, err)
			}
			return nil
		})
	})
}

// checkMemory compares the counts in memory with what was read.
func (c *checker) checkMemory() {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	fresh, held, replayed := map[uint32]int64{}, map[uint32]int64{}, map[uint32]int64{}
	leased := map[uint64]int{}
	for k, le := range q.leases {
		held[k.lane]++
		if le.settling && le.replay && le.byHand {
			replayed[k.lane]++
		}
		if le.fresh && k.seq > c.lanes[k.lane].floor {
			fresh[k.lane]++
		}
		if s := q.segmentOf(k.seq); s != nil {
			leased[s.first]++
		}
	}
	var pending, retrying, dead, leasedRetries int64
	windows, replays := 0, 0
	for n, l := range q.numbers {
		if r, ok := c.lanes[n]; !ok || r != *l.record() {
			c.report("lane %d: memory and disk disagree: %+v, %+v", n, *l.record(), r)
		}
		t := c.tally(n)
		windows += l.windowLen()
		if l.ord != nil {
			windows += l.ord.parked
		}
		if l.leased != held[n] {
			c.report("lane %d: %d leases are counted of %d", n, l.leased, held[n])
		}
		dead += l.dead
		if l.replayed != t.replayed || l.replayedNow != replayed[n] {
			c.report("lane %d: memory says %d replayed and %d on their way, disk %d and the leases %d", n, l.replayed, l.replayedNow, t.replayed, replayed[n])
		}
		list, err := replaysOf(c.tx, l)
		if replays += len(list); err != nil || !slices.EqualFunc(list, l.replays, func(a, b *replay) bool { return *a == *b }) {
			c.report("lane %d: memory and disk disagree on its %d and %d replays (%w)", n, len(l.replays), len(list), orDamaged(err))
		}
		if (firstRunning(l.replays) != nil) != q.replaying[l] {
			c.report("lane %d: it is listed as replaying: %t", n, q.replaying[l])
		}
		if l.dead != t.dead || l.retrying != t.retrying {
			c.report("lane %d: memory says %d retrying and %d dead, disk %d and %d", n, l.retrying, l.dead, t.retrying, t.dead)
		}
		if l.dropped {
			continue
		}
		if l.pending+fresh[n] != t.unset {
			c.report("lane %d: memory says %d pending and %d leased, disk %d", n, l.pending, fresh[n], t.unset)
		}
		hinted := int64(0)
		count := func(refs []ref) {
			for _, r := range refs {
				if s := q.segmentOf(r.seq); s != nil {
					hinted++
				}
			}
		}
		count(l.window[l.head:])
		for _, sh := range l.shares {
			if q.segmentOf(sh.segment.first) == sh.segment {
				hinted += int64(sh.count)
			}
		}
		waiting := int64(len(l.retries))
		if o := l.ord; o != nil {
			waiting = int64(len(o.groups))
			parked := 0
			for _, k := range o.keys {
				count(k.parked)
				parked += len(k.parked)
			}
			if parked != o.parked {
				c.report("lane %d: %d are parked, counted %d", n, parked, o.parked)
			}
		}
		if hinted < l.pending {
			c.report("lane %d: %d are pending and %d of them would be found", n, l.pending, hinted)
		}
		if !l.moreRetries && !l.wantsRetries() && !l.converting && waiting+l.leasedRetries < t.due {
			c.report("lane %d: %d retries are due some time and %d of them would be found", n, t.due, waiting)
		}
		pending += l.pending
		retrying += l.retrying
		leasedRetries += l.leasedRetries
	}
	if all := c.tx.Bucket(bucketReplay).Stats().KeyN; all != replays {
		c.report("%d replays are of %d lanes, which have %d", all, len(q.numbers), replays)
	}
	if len(q.numbers) != len(c.lanes) || len(q.lanes) != len(c.lanes) {
		c.report("memory knows %d lanes, the disk %d", len(q.numbers), len(c.lanes))
	}
	if pending != q.pending || retrying != q.retrying || dead != q.dead || leasedRetries != q.leasedRetries || windows != q.windows {
		c.report("the totals %d pending, %d retrying, %d dead, %d retried now, %d in windows are not the sums %d, %d, %d, %d, %d",
			q.pending, q.retrying, q.dead, q.leasedRetries, q.windows, pending, retrying, dead, leasedRetries, windows)
	}
	if q.events != c.events || q.seq != c.tx.Bucket(bucketEvent).Sequence() {
		c.report("memory counts %d events up to %d, the disk %d", q.events, q.seq, c.events)
	}
	have := maps.Clone(c.segments)
	for _, s := range q.segments {
		e, ok := have[s.first]
		if !ok || e.next != s.next || e.deliveries != s.deliveries {
			c.report("segment %d: memory and disk disagree", s.first)
		}
		delete(have, s.first)
		if s.leased != leased[s.first] {
			c.report("segment %d counts %d leases of %d", s.first, s.leased, leased[s.first])
		}
		if want := c.unfinished(e); s.unfinished != want {
			c.report("segment %d counts %d unfinished deliveries of %d", s.first, s.unfinished, want)
		}
	}
	for first := range have {
		c.report("segment %d is not known to memory", first)
	}
}

// unfinished counts the deliveries of a segment that are neither delivered, dead nor discarded.
func (c *checker) unfinished(e extent) int64 {
	n := int64(0)
	bucket := c.tx.Bucket(bucketEvent).Bucket(key64(e.first))
	if bucket == nil {
		return 0
	}
	bits := newBitReader(c.tx)
	var b block
	_ = bucket.ForEach(func(k, v []byte) error {
		if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
			return err // was reported by checkSegments
		}
		for i := range b.events {
			targets, err := b.targets(i)
			if err != nil {
				continue
			}
			for j, lane := range targets {
				set, err := bits.get(e.first, b.events[i].ordinal+uint32(j))
				if err != nil || set {
					continue
				}
				_, leased := c.q.leases[leaseKey{b.first + uint64(i), lane}]
				r := c.lanes[lane]
				if !r.dropped && b.first+uint64(i) > r.floor || leased {
					n++
				}
			}
		}
		return nil
	})
	cur := c.tx.Bucket(bucketFate).Cursor()
	for k, v := cur.Seek(key64(e.first)); k != nil; k, v = cur.Next() {
		seq, _, ok := parseSeqLane(k)
		if !ok || seq >= e.next {
			break
		}
		if f, err := decodeFate(v); err == nil && f.state == fateRetrying {
			n++
		}
	}
	return n
}
