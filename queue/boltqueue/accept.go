package boltqueue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// acceptance is one call of Accept on its way through the writer.
type acceptance struct {
	subs     []queue.Submission
	events   []queue.Event
	lists    [][]uint32 // the lanes' numbers; nil where one was not known yet
	epoch    uint64     // Queue.laneEpoch when lists was made
	receipts []queue.Receipt
	bytes    int64
	err      error
	done     chan error
}

// Accept implements queue.Queue.
func (q *Queue) Accept(ctx context.Context, subs []queue.Submission) ([]queue.Receipt, error) {
	if len(subs) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !q.running.Load() {
		return nil, queue.ErrClosed
	}
	a := &acceptance{subs: subs, events: make([]queue.Event, len(subs)), receipts: make([]queue.Receipt, len(subs)), done: make(chan error, 1)}
	for i := range subs {
		if len(subs[i].ID) > queue.MaxIDLength {
			return nil, fmt.Errorf("submission %d: the id has %d bytes; at most %d are allowed", i, len(subs[i].ID), queue.MaxIDLength)
		}
		a.events[i] = subs[i].Event
		a.events[i].Time = subs[i].Time.UTC()
		a.bytes += int64(len(subs[i].Data)+len(subs[i].Attributes)+len(subs[i].Type)+len(subs[i].Resource)+traceCost(subs[i].Trace)) + 64 + 3*int64(len(subs[i].Lanes))
	}
	if err := q.space.admit(q); err != nil {
		return nil, err
	}
	// A call that is larger than the bounds goes through alone.
	n := int64(len(subs))
	defer func() { q.waiting.Add(-n); q.waitingBytes.Add(-a.bytes) }()
	if w := q.waiting.Add(n); w > int64(q.o.MaxWaiting) && w > n {
		q.waitingBytes.Add(a.bytes)
		return nil, queue.ErrBusy
	}
	if w := q.waitingBytes.Add(a.bytes); w > q.o.MaxWaitingBytes && w > a.bytes {
		return nil, queue.ErrBusy
	}
	q.number(a)
	if !q.commits.Submit(work{accept: a}) {
		return nil, queue.ErrClosed
	}
	select {
	case err := <-a.done:
		if err != nil {
			return nil, err
		}
		return a.receipts, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// number resolves the lanes of the submissions as far as they are known, so that the writer need not.
func (q *Queue) number(a *acceptance) {
	a.lists = make([][]uint32, len(a.subs))
	q.mu.Lock()
	defer q.mu.Unlock()
	a.epoch = q.laneEpoch
	page := 0
	for i := range a.subs {
		a.lists[i] = sortLanes(a.subs[i].Lanes, func(id queue.Lane) uint32 {
			if page++; page%pageLanes == 0 {
				q.mu.Unlock()
				q.mu.Lock()
			}
			if l := q.lanes[id]; l != nil {
				return l.number
			}
			return 0
		})
	}
}

// sortLanes returns the numbers of the lanes, ascending and each once, or nil when one has no number.
func sortLanes(ids []queue.Lane, numberOf func(queue.Lane) uint32) []uint32 {
	list := make([]uint32, 0, len(ids))
	for _, id := range ids {
		n := numberOf(id)
		if n == 0 {
			return nil
		}
		list = append(list, n)
	}
	if len(list) > 1 {
		slices.Sort(list)
		list = slices.Compact(list)
	}
	return list
}

// acceptAll writes the events of all acceptances of a commit that are in order, and leaves the errors of
// the others with them.
func (q *Queue) acceptAll(tx *bolt.Tx, st *stage, batch []work) error {
	n := 0
	for i := range batch {
		if a := batch[i].accept; a != nil {
			n += len(a.subs)
		}
	}
	if n == 0 {
		return nil
	}
	random := make([]byte, 8*n)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	st.placed = make([]placed, 0, n)
	ids := q.openIDs(tx, st)
	w := blockWriter{q: q, tx: tx, st: st}
	for i := range batch {
		a := batch[i].accept
		if a == nil {
			continue
		}
		a.err = ids.screen(a)
		if conflict := (*queue.ConflictError)(nil); errors.As(a.err, &conflict) {
			continue
		}
		if a.err != nil {
			return a.err
		}
		if err := q.numberRest(tx, st, a); err != nil {
			return err
		}
		for j := range a.events {
			if a.receipts[j].Duplicate {
				continue
			}
			ev := &a.events[j]
			own := ev.ID != ""
			if err := w.add(ev, a.lists[j], big.Uint64(random)); err != nil {
				return err
			}
			random = random[8:]
			if due := ceilMs(a.subs[j].Due); due > st.nowMs {
				if err := w.plan(due); err != nil {
					return err
				}
			}
			a.receipts[j].ID = ev.ID
			if own {
				if err := ids.claim(ev.AccountID, ev.ID, a.subs[j].Digest, st.seq); err != nil {
					return err
				}
			}
		}
		// A duplicate within the call answers like the submission it repeats.
		for j := range a.receipts {
			if a.receipts[j].Duplicate {
				a.receipts[j].ID = a.subs[j].ID
			}
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	st.nAccepted = len(st.placed)
	return tx.Bucket(bucketEvent).SetSequence(st.seq)
}

// numberRest gives numbers to lanes seen for the first time.
func (q *Queue) numberRest(tx *bolt.Tx, st *stage, a *acceptance) error {
	var err error
	for i := range a.subs {
		if a.lists[i] != nil && a.epoch == q.laneEpoch { // only the writer changes laneEpoch
			continue
		}
		a.lists[i] = sortLanes(a.subs[i].Lanes, func(id queue.Lane) uint32 {
			l, e := q.intern(tx, st, id)
			if e != nil {
				err = e
				return 0
			}
			return l.number
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// intern returns the lane, with a number given in this commit when it has none.
func (q *Queue) intern(tx *bolt.Tx, st *stage, id queue.Lane) (*lane, error) {
	if l := st.byID[id]; l != nil {
		return l, nil
	}
	q.mu.Lock()
	l := q.lanes[id]
	q.mu.Unlock()
	if l != nil {
		return l, nil
	}
	b := tx.Bucket(bucketLane)
	n, err := b.NextSequence()
	if err != nil {
		return nil, err
	}
	if n > 1<<32-1 {
		return nil, errors.New("no lane numbers are left")
	}
	l = &lane{number: uint32(n), id: id}
	b.FillPercent = 1
	if err := b.Put(key32(l.number), l.record().encode()); err != nil {
		return nil, err
	}
	if st.byID == nil {
		st.byID = map[queue.Lane]*lane{}
	}
	st.byID[id] = l
	st.lanes = append(st.lanes, l)
	return l, nil
}

// blockWriter packs the events of a commit into blocks, one for each segment they fall into.
type blockWriter struct {
	q    *Queue
	tx   *bolt.Tx
	st   *stage
	open bool
}

// add gives the event its number and time, and its id if it has none.
func (w *blockWriter) add(ev *queue.Event, lanes []uint32, random uint64) error {
	st := w.st
	seq := st.seq + 1
	if ev.ID == "" {
		ev.ID = generatedID(seq, random)
	}
	ev.Seq, ev.AcceptedAt = seq, timeOf(st.nowMs)
	size := recordSize(ev) + 8
	if st.tail == nil || !st.tail.fits(st.nowMs, len(lanes), size) && st.tail.next > st.tail.first {
		if err := w.seal(); err != nil {
			return err
		}
		st.tail = &segment{extent: extent{first: seq, next: seq, minMs: st.nowMs, maxMs: st.nowMs}}
		st.fresh = append(st.fresh, st.tail)
	}
	s := st.tail
	if !w.open {
		w.q.builder.reset(seq, s.deliveries, st.nowMs)
		s.blocks = append(s.blocks, blockMark{seq, st.nowMs})
		w.open = true
	}
	ordinal := w.q.builder.add(ev, lanes)
	st.seq = seq
	s.next = seq + 1
	s.deliveries += uint32(len(lanes))
	s.bytes += int64(size)
	s.maxMs = max(s.maxMs, st.nowMs)
	st.placed = append(st.placed, placed{event: ev, seq: seq, ordinal: ordinal, lanes: lanes})
	return nil
}

// plan makes the deliveries of the event added last wait for a time, as if they had been leased and settled so.
func (w *blockWriter) plan(due int64) error {
	p := &w.st.placed[len(w.st.placed)-1]
	p.due = due
	for i, n := range p.lanes {
		w.st.marks = append(w.st.marks, mark{w.st.tail.first, p.ordinal + uint32(i)})
		f := fate{state: fateRetrying, byHand: true, planned: true, at: due}
		if err := putFate(w.tx, leaseKey{p.seq, n}, f, false); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the block under way.
func (w *blockWriter) flush() error {
	if !w.open {
		return nil
	}
	w.open = false
	b := &w.q.builder
	bucket, err := w.tx.Bucket(bucketEvent).CreateBucketIfNotExists(key64(w.st.tail.first))
	if err != nil {
		return err
	}
	value := b.appendTo(w.q.buffer(b.size()))
	w.st.buffers = append(w.st.buffers, value)
	return putPacked(bucket, key64(b.first), value)
}

// seal ends the open segment, if there is one.
func (w *blockWriter) seal() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.st.seal(w.tx)
}

// seal writes the row of the open segment.
func (st *stage) seal(tx *bolt.Tx) error {
	s := st.tail
	if s == nil {
		return nil
	}
	s.sealed = true
	st.sealed = append(st.sealed, s)
	st.tail = nil
	b := tx.Bucket(bucketSeg)
	b.FillPercent = 1
	return b.Put(key64(s.first), s.encode())
}
