package boltqueue

import (
	"context"
	"errors"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
	"herald/store/boltkit"
)

// work is what one caller hands to the writer: an acceptance, settlements, or an operation.
type work struct {
	accept  *acceptance
	settled []settlement
	op      *operation
}

// operation is a step of the queue's own: it writes within a commit, and changes memory after it. Both run
// on the writer's goroutine; after runs with the lock held.
type operation struct {
	write func(tx *bolt.Tx, st *stage) error
	after func(st *stage)
	// keep: it must survive a full disk.
	keep bool
	// lazy: it may wait a little for company.
	lazy bool
	done chan error
}

func cost(w work) boltkit.Cost {
	switch {
	case w.accept != nil:
		return boltkit.Cost{Weight: len(w.accept.subs), Bytes: w.accept.bytes}
	case w.op != nil:
		return boltkit.Cost{Weight: 1, Lazy: w.op.lazy}
	}
	return boltkit.Cost{Weight: len(w.settled), Bytes: int64(len(w.settled)) * 64, Lazy: true}
}

// mustKeep says what is not given up on a full disk: what was settled, and what makes room.
func mustKeep(w work) bool { return w.accept == nil && (w.op == nil || w.op.keep) }

// do hands an operation to the writer and waits until it is committed. When the context ends before
// that, the operation may still be done; what it hands to its caller must not be looked at then.
func (q *Queue) do(ctx context.Context, op *operation) error {
	op.done = make(chan error, 1)
	if !q.running.Load() || !q.commits.Submit(work{op: op}) {
		return queue.ErrClosed
	}
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Commit returns nil when a commit has gone through the writer to the disk, as an acceptance does, and also when it found no
// room: the writer works. It waits as long as the disk takes, or until the context ends. queue.ErrClosed
// says that nothing can be written any more.
func (q *Queue) Commit(ctx context.Context) error {
	err := q.do(ctx, &operation{lazy: true, write: func(*bolt.Tx, *stage) error { return nil }})
	if errors.Is(err, queue.ErrFull) {
		return nil
	}
	return err
}

// stage is what a commit changes in memory once it is on disk. Until then the writer works on copies.
type stage struct {
	nowMs  int64
	seq    uint64
	tail   *segment   // working copy of the open segment, or a new one
	sealed []*segment // copies or new ones, sealed in this commit
	fresh  []*segment // those of sealed and tail that are new
	old    *segment   // what tail or sealed[0] is a copy of
	lanes  []*lane    // new
	byID   map[queue.Lane]*lane
	placed []placed
	marks  []mark
	log    []entry
	claims map[idemKey]claimedID // publishers' ids of this commit
	failed map[*operation]error

	nAccepted, nOutcomes int
	buffers              [][]byte
}

// placed is an accepted event and where it went.
type placed struct {
	event   *queue.Event
	seq     uint64
	ordinal uint32
	lanes   []uint32
	// due is when its deliveries are, in milliseconds; 0 for at once.
	due int64
}

func (st *stage) segments() []*segment {
	if st.tail != nil {
		return append(slices.Clip(st.sealed), st.tail)
	}
	return st.sealed
}

// apply writes one commit. It is called again without the acceptances when there was no room.
func (q *Queue) apply(tx *bolt.Tx, batch []work) error {
	q.recycle()
	q.metrics.begin()
	q.mu.Lock()
	now := max(time.Now().UnixMilli(), q.lastMs)
	st := &stage{nowMs: now, seq: q.seq, failed: map[*operation]error{}}
	if n := len(q.segments); n > 0 && !q.segments[n-1].sealed {
		st.old = q.segments[n-1]
		st.tail = &segment{extent: st.old.extent}
	}
	q.mu.Unlock()
	q.stage = st
	if err := q.acceptAll(tx, st, batch); err != nil {
		return err
	}
	for i := range batch {
		for j := range batch[i].settled {
			if err := q.settleOne(tx, st, &batch[i].settled[j]); err != nil {
				return err
			}
		}
		st.nOutcomes += len(batch[i].settled)
	}
	for i := range batch {
		op := batch[i].op
		if op == nil {
			continue
		}
		if err := op.write(tx, st); err != nil {
			var refused *refusal
			if !errors.As(err, &refused) {
				return err
			}
			st.failed[op] = refused.err
		}
	}
	if err := setBits(tx, st.marks); err != nil {
		return err
	}
	return q.logAttempts(tx, st)
}

// refusal is the error of an operation that wrote nothing: it concerns its caller only.
type refusal struct{ err error }

// Error implements error.
func (r *refusal) Error() string { return r.err.Error() }

// Unwrap returns what the caller gets.
func (r *refusal) Unwrap() error { return r.err }

func refuse(err error) error { return &refusal{err} }

func (q *Queue) logAttempts(tx *bolt.Tx, st *stage) error {
	if len(st.log) == 0 {
		return nil
	}
	root := tx.Bucket(bucketAtt)
	var last *segment
	segmentOf := func(seq uint64) uint64 {
		if last == nil || seq < last.first || seq >= last.next {
			q.mu.Lock()
			last = q.segmentOf(seq)
			q.mu.Unlock()
		}
		if last != nil {
			return last.first
		}
		if name, _ := floor(root.Cursor(), key64(seq)); name != nil {
			return big.Uint64(name)
		}
		return seq
	}
	buffer := q.buffer(len(st.log) * 64)
	st.buffers = append(st.buffers, buffer)
	return putEntries(tx, st.log, segmentOf, buffer)
}

// buffer returns an empty buffer for a value that must not change before the commit is over.
func (q *Queue) buffer(size int) []byte {
	for i, b := range q.spare {
		if cap(b) >= size {
			q.spare = append(q.spare[:i], q.spare[i+1:]...)
			return b[:0]
		}
	}
	return make([]byte, 0, size+size/4)
}

// recycle takes the buffers of the commit before back.
func (q *Queue) recycle() {
	if q.stage == nil {
		return
	}
	for _, b := range q.stage.buffers {
		if len(q.spare) < 4 && cap(b) <= 8<<20 {
			q.spare = append(q.spare, b)
		}
	}
	q.stage = nil
}

// settled brings memory up to date with a commit and answers the callers.
func (q *Queue) settled(batch []work, err error) {
	if err != nil {
		q.refused(batch, err)
		return
	}
	st := q.stage
	q.mu.Lock()
	q.installSegments(st)
	for _, l := range st.lanes {
		q.lanes[l.id], q.numbers[l.number] = l, l
		q.lastLane = max(q.lastLane, l.number)
	}
	q.seq, q.lastMs = st.seq, st.nowMs
	for i := range batch {
		for j := range batch[i].settled {
			q.finish(st, &batch[i].settled[j])
		}
		q.unsettled -= len(batch[i].settled)
		if op := batch[i].op; op != nil && st.failed[op] == nil && op.after != nil {
			op.after(st)
		}
	}
	if st.nOutcomes > 0 {
		q.settledUp.Broadcast()
	}
	q.mu.Unlock()
	q.metrics.committed(st)
	if st.nAccepted > 0 {
		q.space.clear()
	}
	q.checkQuota()
	// Whoever was answered finds the deliveries counted, unless there are so many that the answer would
	// have to wait for them.
	early := st.deliveries() <= answerFirst
	if early {
		q.distribute(st)
	}
	for i := range batch {
		switch w := &batch[i]; {
		case w.accept != nil:
			w.accept.done <- w.accept.err
		case w.op != nil:
			w.op.done <- st.failed[w.op]
		}
	}
	if !early {
		q.distribute(st)
	}
}

// answerFirst is the number of new deliveries in one commit from which on its callers are answered before the
// lanes are filled.
const answerFirst = 1 << 16

// names says whether an event of this commit goes to the lane.
func (st *stage) names(lane uint32) bool {
	for i := range st.placed {
		if slices.Contains(st.placed[i].lanes, lane) {
			return true
		}
	}
	return false
}

func (st *stage) deliveries() int {
	n := 0
	for i := range st.placed {
		n += len(st.placed[i].lanes)
	}
	return n
}

// installSegments puts the copies the commit worked on in place of what they were copied from.
func (q *Queue) installSegments(st *stage) {
	for _, s := range st.segments() {
		q.events += int64(s.next - s.first)
		if st.old != nil && s.first == st.old.first {
			q.events -= int64(st.old.next - st.old.first)
			st.old.grow(&s.extent)
			if s.sealed && st.old.cached == 0 {
				st.old.cache = nil
			}
			st.old.blocks = append(st.old.blocks, s.blocks...)
			continue
		}
		q.segments = append(q.segments, s)
	}
}

// pageLanes is how many lanes are filled before the lock is given to others for a moment.
const pageLanes = 1024

// distribute hands the new deliveries to their lanes, page by page.
func (q *Queue) distribute(st *stage) {
	if len(st.placed) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer func() { q.distributed = st.seq }()
	q.sweepCache(st.nowMs)
	page := 0
	for i := range st.placed {
		p := &st.placed[i]
		s := q.segmentOf(p.seq)
		if s == nil || len(p.lanes) == 0 {
			continue
		}
		if p.due == 0 {
			q.remember(s, p.seq, p.event, len(p.lanes))
		}
		passed := 0 // lanes that will not claim the event soon, or never
		for j, n := range p.lanes {
			if page++; page%pageLanes == 0 {
				q.mu.Unlock()
				q.mu.Lock()
			}
			l := q.numbers[n]
			if p.due != 0 && l != nil {
				q.planned(l, s, p, st.nowMs)
				continue
			}
			if l == nil || l.dropped || p.seq <= l.floor {
				if l != nil && l.dropped {
					l.lastUse = p.seq
				}
				passed++
				continue
			}
			l.add(q, s, ref{seq: p.seq, ordinal: p.ordinal + uint32(j), size: sizeOf(p.event)}, p.event)
			if l.rests(st.nowMs) {
				passed++
			}
			s.unfinished++
			q.place(l, st.nowMs)
		}
		for range passed {
			q.recall(s, p.seq)
		}
	}
}

// planned hands a new delivery that waits for its time to its lane. The lock is held.
func (q *Queue) planned(l *lane, s *segment, p *placed, nowMs int64) {
	l.addRetrying(q, 1)
	s.unfinished++
	if l.dropped {
		l.lastUse = p.seq
		q.convert(l)
		return
	}
	if _, leased := q.leases[leaseKey{p.seq, l.number}]; !leased {
		q.waitFor(l, p.seq, p.due, lease{key: l.ord.keyOf(p.event), byHand: true}, 0)
	}
	q.place(l, nowMs)
}

// refused answers the callers of what could not be committed.
func (q *Queue) refused(batch []work, err error) {
	answer := queue.ErrClosed
	if boltkit.IsFull(err) {
		answer = queue.ErrFull
		if q.space.filled(err) {
			q.tend.rouse()
		}
	}
	q.metrics.failed(err)
	for i := range batch {
		switch w := &batch[i]; {
		case w.accept != nil:
			w.accept.done <- errors.Join(answer, err)
		case w.op != nil:
			w.op.done <- errors.Join(answer, err)
		}
	}
}
