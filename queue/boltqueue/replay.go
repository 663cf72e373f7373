package boltqueue

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// replay is a replay as it stands on disk, and in memory with its lane. One in memory is replaced, never changed.
type replay struct {
	queue.Replay
	// to is the newest event when it was made, next the first it has not looked at.
	to, next uint64
}

// ceilMs is a time in milliseconds, which is what acceptance has: the first that is not before it.
func ceilMs(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// The states of a replay on disk.
var replayStates = []queue.ReplayState{queue.ReplayRunning, queue.ReplayDone, queue.ReplayCancelled}

func (r *replay) encode() []byte {
	failed := byte(0)
	if r.Failed {
		failed = 1
	}
	b := []byte{recordVersion, byte(slices.Index(replayStates, r.State)), failed}
	b = appendText(b, r.AccountID)
	b = binary.AppendVarint(b, ceilMs(r.Since))
	b = binary.AppendVarint(b, ceilMs(r.Until))
	b = big.AppendUint64(b, math.Float64bits(r.Rate))
	for _, t := range []time.Time{r.CreatedAt, r.EndedAt, r.Reached} {
		ms := int64(0)
		if !t.IsZero() {
			ms = t.UnixMilli()
		}
		b = binary.AppendUvarint(b, uint64(ms))
	}
	for _, n := range []uint64{uint64(r.Deliveries), r.to, r.next} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func decodeReplay(lane queue.Lane, k, v []byte) (*replay, error) {
	if len(k) != 20 {
		return nil, fmt.Errorf("replay %x: %w: bad key", k, errDamaged)
	}
	r := &replay{}
	r.Lane = lane
	copy(r.ID[:], k[4:])
	d := decoder{b: v}
	d.version()
	state, failed := d.byte(), d.byte()
	if int(state) >= len(replayStates) || failed > 1 {
		d.fail("unknown state")
		state = 0
	}
	r.State, r.Failed = replayStates[state], failed == 1
	r.AccountID = d.text()
	r.Since, r.Until = timeOf(d.varint()), timeOf(d.varint())
	if raw := d.bytes(8); d.err == nil {
		r.Rate = math.Float64frombits(big.Uint64(raw))
	}
	for _, t := range []*time.Time{&r.CreatedAt, &r.EndedAt, &r.Reached} {
		if ms := d.number(math.MaxInt64); ms != 0 {
			*t = timeOf(int64(ms))
		}
	}
	r.Deliveries = int64(d.number(math.MaxInt64))
	r.to, r.next = d.number(math.MaxUint64), d.number(math.MaxUint64)
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("replay %s: %w", r.ID, err)
	}
	return r, nil
}

// keyReplay is the key of replay: the lane, then the id, so that those of a lane stand together, oldest first.
func keyReplay(lane uint32, id queue.ReplayID) []byte { return append(key32(lane), id[:]...) }

// replaysOf reads the replays of a lane, oldest first.
func replaysOf(tx *bolt.Tx, l *lane) ([]*replay, error) {
	var list []*replay
	prefix := string(key32(l.number))
	c := tx.Bucket(bucketReplay).Cursor()
	for k, v := c.Seek([]byte(prefix)); len(k) >= 4 && string(k[:4]) == prefix; k, v = c.Next() {
		r, err := decodeReplay(l.id, k, v)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// firstRunning returns the oldest that runs, or nil.
func firstRunning(list []*replay) *replay {
	if i := slices.IndexFunc(list, func(r *replay) bool { return r.State == queue.ReplayRunning }); i >= 0 {
		return list[i]
	}
	return nil
}

// putReplay writes a replay, among the others of its lane. With one that has ended the oldest goes that is too many.
func putReplay(tx *bolt.Tx, number uint32, list []*replay, r *replay) ([]*replay, error) {
	b := tx.Bucket(bucketReplay)
	if err := b.Put(keyReplay(number, r.ID), r.encode()); err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	if i := slices.IndexFunc(list, func(x *replay) bool { return x.ID == r.ID }); i >= 0 {
		list[i] = r
	} else {
		list = append(list, r)
	}
	ended := 0
	for i, x := range slices.Backward(list) {
		if x.State == queue.ReplayRunning {
			continue
		}
		if ended++; ended > queue.KeptReplays {
			if err := b.Delete(keyReplay(number, x.ID)); err != nil {
				return nil, err
			}
			list = slices.Delete(list, i, i+1)
		}
	}
	return list, nil
}

// StartReplay implements queue.Queue.
func (q *Queue) StartReplay(ctx context.Context, r queue.Replay) (queue.Replay, error) {
	if err := ctx.Err(); err != nil {
		return queue.Replay{}, err
	}
	id, err := queue.NewReplayID()
	if err != nil {
		return queue.Replay{}, err
	}
	made := &replay{Replay: r}
	made.Since, made.Until = timeOf(ceilMs(r.Since)), timeOf(ceilMs(r.Until))
	var l *lane
	var list []*replay
	err = q.do(ctx, &operation{
		write: func(tx *bolt.Tx, st *stage) error {
			var err error
			if l, err = q.intern(tx, st, r.Lane); err != nil {
				return err
			}
			if list, err = replaysOf(tx, l); err != nil {
				return err
			}
			n := 0
			for _, x := range list {
				if x.State == queue.ReplayRunning {
					n++
				}
			}
			q.mu.Lock()
			gone := l.dropped
			q.mu.Unlock()
			switch {
			case gone:
				return refuse(queue.ErrGone)
			case n >= queue.MaxReplays:
				return refuse(queue.ErrTooMany)
			}
			made.ID, made.State, made.CreatedAt, made.to, made.next = id, queue.ReplayRunning, timeOf(st.nowMs), st.seq, 1
			made.EndedAt, made.Reached, made.Deliveries = time.Time{}, time.Time{}, 0
			list, err = putReplay(tx, l.number, list, made)
			return err
		},
		after: func(*stage) { l.replays = list },
	})
	if err != nil {
		return queue.Replay{}, err
	}
	return made.Replay, nil
}

// Replays implements queue.Queue.
func (q *Queue) Replays(id queue.Lane) []queue.Replay {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[id]
	if l == nil {
		return nil
	}
	list := make([]queue.Replay, len(l.replays))
	for i, r := range l.replays {
		list[i] = r.Replay
	}
	return list
}

// Replaying implements queue.Queue.
func (q *Queue) Replaying() []queue.Lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	var lanes []queue.Lane
	for _, l := range q.numbers {
		if firstRunning(l.replays) != nil {
			lanes = append(lanes, l.id)
		}
	}
	return lanes
}

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
	if err := q.do(ctx, &operation{write: p.write, after: p.after}); err != nil {
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
	if w.unset && key.seq > floor || w.fate.waitsReplay() || p.replay.Failed && !missed {
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
		due := max(nowMs, ceilMs(p.step.Due.Add(time.Duration(from)*p.step.Every)))
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
	p.lane.replays = p.list
	p.q.place(p.lane, st.nowMs)
}

// CancelReplay implements queue.Queue.
func (q *Queue) CancelReplay(ctx context.Context, id queue.Lane, replayID queue.ReplayID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := cancellation{q: q}
	return q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			c.undone, c.lane = nil, nil
			q.mu.Lock()
			l := q.lanes[id]
			dropped := l == nil || l.dropped
			q.mu.Unlock()
			if dropped {
				return refuse(queue.ErrNotFound)
			}
			list, err := replaysOf(tx, l)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(r *replay) bool { return r.ID == replayID })
			switch {
			case i < 0:
				return refuse(queue.ErrNotFound)
			case list[i].State != queue.ReplayRunning:
				return nil
			}
			c.lane = l
			if firstRunning(list) == list[i] {
				// What waits was made due by this one: they take turns.
				if err := c.undo(tx, st); err != nil {
					return err
				}
			}
			c.list, err = putReplay(tx, l.number, list, list[i].cancelled(st.nowMs))
			return err
		},
		after: c.after,
	})
}

func (r *replay) cancelled(nowMs int64) *replay {
	c := *r
	c.State, c.EndedAt = queue.ReplayCancelled, timeOf(nowMs)
	return &c
}

// cancelReplays cancels all replays of a lane that run, and returns what there is then.
func cancelReplays(tx *bolt.Tx, l *lane, nowMs int64) ([]*replay, error) {
	list, err := replaysOf(tx, l)
	for r := firstRunning(list); r != nil && err == nil; r = firstRunning(list) {
		list, err = putReplay(tx, l.number, list, r.cancelled(nowMs))
	}
	return list, err
}

// dropReplays removes all replays of a lane.
func dropReplays(tx *bolt.Tx, l *lane) error {
	list, err := replaysOf(tx, l)
	for _, r := range list {
		err = errors.Join(err, tx.Bucket(bucketReplay).Delete(keyReplay(l.number, r.ID)))
	}
	return err
}

// cancellation takes back what a replay has made due and was not tried.
type cancellation struct {
	q      *Queue
	lane   *lane
	list   []*replay
	undone []changed
}

// changed is a fate that took the place of another; its state is 0 where there is none any more.
type changed struct {
	key      leaseKey
	old, now fate
}

func (c *cancellation) undo(tx *bolt.Tx, st *stage) error {
	var firsts []leaseKey
	prefix := string(key32(c.lane.number))
	cur := tx.Bucket(bucketDue).Cursor()
	for k, v := cur.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix; k, v = cur.Next() {
		if _, _, seq, _ := parseLaneTime(k); len(v) > 0 && !c.q.leased(leaseKey{seq, c.lane.number}) {
			firsts = append(firsts, leaseKey{seq, c.lane.number})
		}
	}
	for _, first := range firsts {
		members := []uint64{first.seq}
		if tx.Bucket(bucketBatch).Get(keySeqLane(first.seq, first.lane)) != nil {
			d, err := dissolve(tx, first)
			if err != nil {
				return err
			}
			members = append(members, d.rest...)
		}
		for _, seq := range members {
			if err := c.undoOne(tx, leaseKey{seq, first.lane}, st.nowMs); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(c.undone, func(a, b changed) int { return cmp.Compare(a.key.seq, b.key.seq) })
	return nil
}

func (c *cancellation) undoOne(tx *bolt.Tx, key leaseKey, nowMs int64) error {
	f, ok, err := readFate(tx, key)
	if err == nil && !ok {
		err = fmt.Errorf("delivery %d/%d: %w: its record is missing", key.seq, key.lane, errDamaged)
	}
	if err != nil {
		return err
	}
	orphan := !c.q.retains(key.seq)
	now, ended := f.undone(nowMs)
	switch {
	case ended:
	case f.was == fateRetrying:
		now = f
		now.replay, now.was = false, 0
	default:
		if err := withdraw(tx, key, f, orphan); err != nil {
			return err
		}
		if err := tx.Bucket(bucketFate).Delete(keySeqLane(key.seq, key.lane)); err != nil {
			return err
		}
		c.undone = append(c.undone, changed{key: key, old: f})
		if orphan {
			return unkeep(tx, key.seq)
		}
		return nil
	}
	c.undone = append(c.undone, changed{key: key, old: f, now: now})
	return replaceFate(tx, key, f, now, orphan)
}

func (c *cancellation) after(st *stage) {
	if c.lane == nil {
		return
	}
	c.lane.replays = c.list
	for i := range c.undone {
		c.q.gaveWay(c.lane, &c.undone[i])
	}
	c.lane.reloadRetries()
	c.q.place(c.lane, st.nowMs)
}

// gaveWay brings the counts up to date with a retry in whose place something else stands. The lock is held.
func (q *Queue) gaveWay(l *lane, c *changed) {
	l.recount(c.old, c.now)
	if c.now.state == fateRetrying {
		return
	}
	l.addRetrying(q, -1)
	s := q.segmentOf(c.key.seq)
	if s != nil {
		s.unfinished--
	}
	if c.now.state != 0 {
		q.ended(l, c.now, s == nil)
	}
}
