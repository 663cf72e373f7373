package boltqueue

import (
	"context"
	"fmt"
	"math"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// CountReplay implements queue.Queue.
func (q *Queue) CountReplay(ctx context.Context, r queue.Replay, match func(*queue.Event) bool) (int, error) {
	p := replayPage{q: q, replay: &replay{Replay: r, next: 1}, step: queue.ReplayStep{Match: match, Limit: math.MaxInt}}
	q.mu.Lock()
	p.lane, p.replay.to = q.lanes[r.Lane], q.seq
	q.mu.Unlock()
	if p.lane == nil {
		p.lane = &lane{id: r.Lane} // which no event names
	}
	n := 0
	for p.next = 1; p.next <= p.replay.to; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		p.found = p.found[:0]
		if err := q.view(p.read); err != nil {
			return n, fmt.Errorf("count replay: %w", err)
		}
		n += len(p.found)
	}
	return n, nil
}

// AdvanceReplay implements queue.Queue.
func (q *Queue) AdvanceReplay(ctx context.Context, id queue.Lane, s queue.ReplayStep) (queue.Replay, int, error) {
	if s.Limit < 1 {
		return queue.Replay{}, 0, fmt.Errorf("advance replay: the limit is %d; at least 1 is needed", s.Limit)
	}
	if err := ctx.Err(); err != nil {
		return queue.Replay{}, 0, err
	}
	p := replayPage{q: q, step: s}
	q.mu.Lock()
	waits := false
	if p.lane = q.lanes[id]; p.lane != nil {
		p.replay = firstRunning(p.lane.replays)
		waits = p.lane.converting
	}
	if p.replay != nil {
		p.next, p.reached = p.replay.next, p.replay.Reached
		waits = waits || p.next > p.replay.to && p.lane.replayed > 0
	}
	q.mu.Unlock()
	switch {
	case !q.running.Load():
		return queue.Replay{}, 0, queue.ErrClosed
	case p.replay == nil:
		return queue.Replay{}, 0, queue.ErrNotFound
	case waits:
		return p.replay.Replay, 0, nil
	}
	if p.next <= p.replay.to {
		if err := q.view(p.read); err != nil {
			return queue.Replay{}, 0, fmt.Errorf("advance replay: %w", err)
		}
	}
	if err := q.do(ctx, &operation{lazy: s.Due.After(time.Now()), write: p.write, after: p.after}); err != nil {
		return queue.Replay{}, 0, fmt.Errorf("advance replay: %w", err)
	}
	return p.made.Replay, len(p.rows), nil
}

// replayPage is one step of a replay.
type replayPage struct {
	q      *Queue
	lane   *lane
	replay *replay
	step   queue.ReplayStep
	// What was found in the file, and how far that is.
	found   []replayable
	next    uint64
	reached time.Time
	// What was written.
	rows   []revived
	splits []*dissolved
	made   *replay
	list   []*replay
}

// replayable is an event of which a delivery may become due.
type replayable struct {
	seq  uint64
	size uint32
}

// read looks at further events for as long as a read transaction may, until there are as many as the step takes.
func (p *replayPage) read(tx *bolt.Tx) error {
	started := time.Now()
	reader := eventReader{tx: tx}
	looked := 0
	more := func() bool {
		looked++
		return len(p.found) < p.step.Limit && (looked&31 != 0 || time.Since(started) < viewBudget)
	}
	root := tx.Bucket(bucketEvent)
	segments := root.Cursor()
	name, _ := floor(segments, key64(p.next))
	if name == nil {
		name, _ = segments.First()
	}
	for ; name != nil; name, _ = segments.Next() {
		if len(name) != 8 {
			return fmt.Errorf("%w: segment %x", errDamaged, name)
		}
		first := big.Uint64(name)
		if whole, err := p.readKept(tx, &reader, first, more); err != nil || !whole {
			return err
		}
		if p.next > p.replay.to {
			return nil
		}
		if p.skips(first) {
			continue
		}
		if whole, err := p.readSegment(root.Bucket(name), &reader, more); err != nil || !whole {
			return err
		}
	}
	whole, err := p.readKept(tx, &reader, p.replay.to+1, more)
	if whole {
		p.next = p.replay.to + 1
	}
	return err
}

// skips says whether a segment has nothing of the span, and goes on behind it, as what is known of it in memory tells.
func (p *replayPage) skips(first uint64) bool {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	s := p.q.segmentOf(first)
	if s == nil || s.first != first || s.next <= p.next {
		return s != nil && s.first == first
	}
	if s.maxMs < ceilMs(p.replay.Since) {
		p.next = s.next
		return true
	}
	return false
}

// readSegment looks at the events of a segment; whole says that it came to its end, or to that of the replay.
func (p *replayPage) readSegment(bucket *bolt.Bucket, reader *eventReader, more func() bool) (whole bool, err error) {
	since, until := ceilMs(p.replay.Since), ceilMs(p.replay.Until)
	var b block
	c := bucket.Cursor()
	k, v := floor(c, key64(p.next))
	if k == nil {
		k, v = c.First()
	}
	for ; k != nil; k, v = c.Next() {
		if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
			return false, err
		}
		end := b.first + uint64(len(b.events))
		switch {
		case b.ms < since:
			p.next = max(p.next, end)
			continue
		case b.ms >= until:
			p.next = p.replay.to + 1
			return true, nil
		}
		for i := range b.events {
			seq := b.first + uint64(i)
			if seq < p.next {
				continue
			}
			if seq > p.replay.to {
				p.next = seq
				return true, nil
			}
			if !more() {
				return false, nil
			}
			if string(b.accounts[b.events[i].account]) == p.replay.AccountID {
				ev, err := b.event(i)
				if err == nil {
					err = p.consider(reader, seq, b.events[i].size(), ev)
				}
				if err != nil {
					return false, err
				}
			}
			p.next, p.reached = seq+1, timeOf(b.ms)
		}
	}
	return true, nil
}

// readKept looks at the kept events below the one given; whole says that these were all.
func (p *replayPage) readKept(tx *bolt.Tx, reader *eventReader, below uint64, more func() bool) (whole bool, err error) {
	c := tx.Bucket(bucketKeep).Cursor()
	for k, _ := c.Seek(key64(p.next)); len(k) == 8 && big.Uint64(k) < below; k, _ = c.Next() {
		seq := big.Uint64(k)
		if !more() {
			p.next = seq
			return false, nil
		}
		ev, err := kept(tx, seq)
		if err != nil {
			return false, err
		}
		if ms := ev.AcceptedAt.UnixMilli(); ms >= ceilMs(p.replay.Since) && ms < ceilMs(p.replay.Until) && ev.AccountID == p.replay.AccountID && p.q.segmentFirst(seq) == 0 {
			if err := p.consider(reader, seq, sizeOf(ev), ev); err != nil {
				return false, err
			}
			p.reached = ev.AcceptedAt
		}
		p.next = seq + 1
	}
	return true, nil
}

// consider takes an event whose delivery is to become due.
func (p *replayPage) consider(reader *eventReader, seq uint64, size uint32, ev *queue.Event) error {
	if !p.step.Match(ev) {
		return nil
	}
	key := leaseKey{seq, p.lane.number}
	stood, err := p.stood(reader, key, &stage{})
	if stood != nil {
		p.found = append(p.found, replayable{seq, size})
	}
	return err
}

// stood returns how a delivery stands that is to become due; nil for one that is not.
func (p *replayPage) stood(reader *eventReader, key leaseKey, st *stage) (*stood, error) {
	q := p.q
	q.mu.Lock()
	_, leased := q.leases[key]
	floor, s := p.lane.floor, q.segmentOf(key.seq)
	q.mu.Unlock()
	if leased {
		return nil, nil
	}
	w, err := whereabouts(reader.tx, reader, s, key, st)
	if w == nil || err != nil {
		return nil, err
	}
	missed := w.unset || w.fate.state == fateRetrying || w.fate.state == fateDead || w.fate.state == fateDiscarded
	if w.unset && key.seq > floor || w.fate.planned || w.fate.waitsReplay() || p.replay.Failed && !missed {
		return nil, nil
	}
	return w, nil
}

// write makes due what was found, as far as it still may be, and notes how far the replay has come.
func (p *replayPage) write(tx *bolt.Tx, st *stage) error {
	q, l := p.q, p.lane
	p.rows, p.splits = nil, nil
	var err error
	if p.list, err = replaysOf(tx, l); err != nil {
		return err
	}
	if r := firstRunning(p.list); r == nil || r.ID != p.replay.ID {
		return refuse(queue.ErrNotFound) // cancelled meanwhile
	}
	reader := eventReader{tx: tx}
	var sizes []uint32
	for _, f := range p.found {
		x := revived{key: leaseKey{f.seq, l.number}}
		w, err := p.stood(&reader, x.key, st)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		old, split, err := w.take(tx, st, x.key)
		if err != nil {
			return err
		}
		if split != nil {
			p.splits = append(p.splits, split)
		}
		q.mu.Lock()
		s := q.segmentOf(f.seq)
		q.mu.Unlock()
		if x.order, err = q.keyFor(tx, &reader, l, s, f.seq); err != nil {
			return err
		}
		if err := withdraw(tx, x.key, old, s == nil); err != nil {
			return err
		}
		x.old = old
		x.now = fate{
			state: fateRetrying, byHand: true, replay: true, was: old.state, extra: old.extra || !w.named,
			attempts: old.attempts, reason: old.reason,
		}
		if old.state == fateRetrying {
			x.now.wasAt = old.at
		}
		p.rows, sizes = append(p.rows, x), append(sizes, f.size)
	}
	if err := p.putRows(tx, sizes, st.nowMs); err != nil {
		return err
	}
	p.made = &replay{Replay: p.replay.Replay, to: p.replay.to, next: p.next}
	p.made.Reached, p.made.Deliveries = p.reached, p.made.Deliveries+int64(len(p.rows))
	q.mu.Lock()
	done := p.next > p.made.to && len(p.rows) == 0 && l.replayed == 0
	q.mu.Unlock()
	if done {
		p.made.State, p.made.EndedAt = queue.ReplayDone, timeOf(st.nowMs)
	}
	p.list, err = putReplay(tx, l.number, p.list, p.made)
	return err
}

// putRows writes the fates of a step, those that go out together as batches.
func (p *replayPage) putRows(tx *bolt.Tx, sizes []uint32, nowMs int64) error {
	for from := 0; from < len(p.rows); {
		n, size := 1, int64(sizes[from])
		for from+n < len(p.rows) && n < p.step.Records && (p.step.Bytes <= 0 || size+int64(sizes[from+n]) <= p.step.Bytes) {
			size += int64(sizes[from+n])
			n++
		}
		batch := p.rows[from : from+n]
		first := batch[0].key
		due := ceilMs(p.step.Due.Add(time.Duration(from) * p.step.Every))
		if grain := p.step.Grain.Milliseconds(); grain > 1 {
			due += grain - 1
			due -= due % grain
		}
		due = max(nowMs, due)
		var rest []uint64
		for i := range batch {
			x := &batch[i]
			if x.now.at = due; n > 1 {
				x.now.batch = first.seq
			}
			if i > 0 {
				rest = append(rest, x.key.seq)
			}
			if err := putFate(tx, x.key, x.now, false); err != nil {
				return err
			}
		}
		if n > 1 {
			if err := tx.Bucket(bucketBatch).Put(keySeqLane(first.seq, first.lane), encodeBatch(first.seq, rest)); err != nil {
				return err
			}
		}
		from += n
	}
	return nil
}

func (p *replayPage) after(st *stage) {
	for _, d := range p.splits {
		p.q.scatter(d)
	}
	for i := range p.rows {
		x := &p.rows[i]
		p.q.revive(p.lane, x.key, x.old, x.now, x.order)
		p.q.extras = p.q.extras || x.now.extra
	}
	p.q.metrics.replayed.Add(float64(len(p.rows)))
	p.q.setReplays(p.lane, p.list)
	p.q.place(p.lane, st.nowMs)
}
