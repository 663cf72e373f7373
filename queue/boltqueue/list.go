package boltqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// Listings go from the newest event to the oldest, and within an event from the highest lane number to
// the lowest. They read block headers in short transactions, and go on in the next one where the
// last one stopped.

// place is a position in a listing: everything before it was seen. The next candidate is below it.
type place struct {
	seq  uint64
	lane uint32
}

// before says whether the delivery comes after the position, that is, has not been seen.
func (p place) before(seq uint64, lane uint32) bool {
	return seq < p.seq || seq == p.seq && lane < p.lane
}

// Event implements queue.Queue.
func (q *Queue) Event(ctx context.Context, accountID, id string) (*queue.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ev, _, err := q.findEvent(accountID, id)
	return ev, err
}

// findEvent finds an event by its id: by the number in an id the queue gave, else by the hash of one a
// publisher chose. With "" for the account only the former can be found.
func (q *Queue) findEvent(accountID, id string) (ev *queue.Event, seq uint64, err error) {
	number, given := seqOfID(id)
	first := uint64(0)
	if given {
		first = q.segmentFirst(number)
	}
	err = q.view(func(tx *bolt.Tx) error {
		reader := eventReader{tx: tx}
		if given {
			e, err := lookUp(tx, &reader, first, number)
			if err != nil {
				return err
			}
			if e != nil && e.ID == id && (accountID == "" || e.AccountID == accountID) {
				ev, seq = e, number
				return nil
			}
		}
		x := &ids{q: q, tx: tx, st: &stage{}}
		c, found, err := x.find(keyOfID(accountID, id))
		if err != nil || !found {
			return err
		}
		e, err := lookUp(tx, &reader, q.segmentFirst(c.seq), c.seq)
		if e != nil && e.ID == id && e.AccountID == accountID {
			ev, seq = e, c.seq
		}
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("event: %w", err)
	}
	if ev == nil {
		return nil, 0, queue.ErrNotFound
	}
	return ev, seq, nil
}

// lookUp reads an event from its segment, or from the kept ones.
func lookUp(tx *bolt.Tx, reader *eventReader, segment, seq uint64) (*queue.Event, error) {
	if segment != 0 {
		if ev, err := reader.event(segment, seq); ev != nil || err != nil {
			return ev, err
		}
	}
	return kept(tx, seq)
}

// Events implements queue.Queue.
func (q *Queue) Events(ctx context.Context, f queue.EventFilter) ([]*queue.Event, error) {
	if f.Limit < 1 {
		return nil, fmt.Errorf("list events: the limit is %d; at least 1 is needed", f.Limit)
	}
	at := place{seq: math.MaxUint64}
	if f.After != "" {
		_, seq, err := q.findEvent(f.AccountID, f.After)
		if err != nil {
			return nil, err
		}
		at = place{seq: seq}
	}
	var list []*queue.Event
	err := q.walk(ctx, at, nil, func(_ *scan, b *block, i int) (bool, error) {
		if f.AccountID != "" && string(b.accounts[b.events[i].account]) != f.AccountID {
			return true, nil
		}
		if out, err := b.leftOut(i, f.Without); out || err != nil {
			return true, err
		}
		ev, err := b.event(i)
		if err != nil {
			return false, err
		}
		list = append(list, ev)
		return len(list) < f.Limit, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return list, nil
}

// scan is one read transaction of a listing.
type scan struct {
	tx      *bolt.Tx
	bits    *bitReader
	fates   *bolt.Bucket
	segment uint64
	// at is where the listing stands; whoever stops within an event sets its lane.
	at *place
	// pass says which segments have nothing to show; nil: none.
	pass func(segment uint64) bool
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// walk calls fn for each retained event from the position on, newest first, until it says stop.
func (q *Queue) walk(ctx context.Context, at place, pass func(uint64) bool, fn func(s *scan, b *block, i int) (more bool, err error)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		q.mu.Lock()
		if at.seq > q.seq {
			at = place{seq: q.seq + 1} // what is being committed at this moment is not listed yet
		}
		q.mu.Unlock()
		done := false
		err := q.view(func(tx *bolt.Tx) error {
			s := &scan{tx: tx, bits: newBitReader(tx), fates: tx.Bucket(bucketFate), at: &at, pass: pass}
			var err error
			done, err = s.walk(fn)
			return err
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil || done {
			return err
		}
	}
}

// walk goes on for as long as a read transaction may; done says that the oldest event was seen.
func (s *scan) walk(fn func(s *scan, b *block, i int) (bool, error)) (done bool, err error) {
	started := time.Now()
	root := s.tx.Bucket(bucketEvent)
	segments := root.Cursor()
	var b block
	looked := 0
	for name, _ := floor(segments, key64(s.at.seq)); name != nil; name, _ = segments.Prev() {
		bucket := root.Bucket(name)
		if bucket == nil || len(name) != 8 {
			return false, fmt.Errorf("%w: segment %x", errDamaged, name)
		}
		s.segment = big.Uint64(name)
		if s.pass != nil && s.pass(s.segment) {
			continue
		}
		c := bucket.Cursor()
		for k, v := floor(c, key64(s.at.seq)); k != nil; k, v = c.Prev() {
			if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
				return false, err
			}
			for i := range slices.Backward(b.events) {
				seq := b.first + uint64(i)
				if seq > s.at.seq || seq == s.at.seq && s.at.lane == 0 {
					continue
				}
				if looked++; looked&31 == 0 && time.Since(started) > viewBudget {
					return false, nil
				}
				if seq < s.at.seq {
					*s.at = place{seq, math.MaxUint32}
				}
				more, err := fn(s, &b, i)
				if err != nil {
					return false, err
				}
				if !more {
					return false, errEnough
				}
				*s.at = place{seq: seq}
			}
		}
	}
	return true, nil
}

// Delivery implements queue.Queue.
func (q *Queue) Delivery(ctx context.Context, accountID string, id queue.DeliveryID) (*queue.Delivery, []queue.Attempt, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	q.mu.Lock()
	l := q.lanes[id.Lane]
	segment := q.segmentOf(id.Seq)
	q.mu.Unlock()
	if l == nil {
		if !q.running.Load() {
			return nil, nil, queue.ErrClosed
		}
		return nil, nil, queue.ErrNotFound
	}
	var d *queue.Delivery
	err := q.view(func(tx *bolt.Tx) error {
		if segment != nil {
			reader := eventReader{tx: tx}
			p, found, err := reader.find(segment.first, id.Seq, l.number)
			if err != nil {
				return err
			}
			if found {
				i := reader.block.index(id.Seq)
				ev, err := reader.block.event(i)
				if err != nil {
					return err
				}
				d, err = q.describe(tx.Bucket(bucketFate), newBitReader(tx), segment.first, p.ordinal, id.Seq, l, ev)
				return err
			}
		}
		f, ok, err := readFate(tx, leaseKey{id.Seq, l.number})
		if !ok || err != nil {
			return err
		}
		first := uint64(0)
		if segment != nil {
			first = segment.first
		}
		ev, err := lookUp(tx, &eventReader{tx: tx}, first, id.Seq)
		if ev == nil || err != nil {
			return err
		}
		d = q.describeFate(id.Seq, l, ev, f)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("delivery: %w", err)
	}
	if d == nil || accountID != "" && d.AccountID != accountID {
		return nil, nil, queue.ErrNotFound
	}
	attempts, err := q.attemptsOf(id.Seq, l.number)
	if err != nil {
		return nil, nil, fmt.Errorf("delivery: %w", err)
	}
	return d, attempts, nil
}

// describe says how a delivery of a retained event stands.
func (q *Queue) describe(fates *bolt.Bucket, bits *bitReader, segment uint64, ordinal uint32, seq uint64, l *lane, ev *queue.Event) (*queue.Delivery, error) {
	f, err := standing(fates, bits, segment, ordinal, seq, l.number)
	if err != nil {
		return nil, err
	}
	return q.describeFate(seq, l, ev, f), nil
}

// standing returns the fate of a delivery of a retained event, also where none is recorded; its state is 0 when
// the delivery waits for its first attempt.
func standing(fates *bolt.Bucket, bits *bitReader, segment uint64, ordinal uint32, seq uint64, number uint32) (fate, error) {
	set, err := bits.get(segment, ordinal)
	if err != nil || !set {
		return fate{}, err
	}
	v := fates.Get(keySeqLane(seq, number))
	if v == nil {
		return fate{state: fateDelivered, attempts: 1}, nil
	}
	f, err := decodeFate(v)
	if err != nil {
		return fate{}, fmt.Errorf("delivery %d/%d: %w", seq, number, err)
	}
	return f, nil
}

// stands is how a delivery stands, by what the file and memory say.
type stands struct {
	state  queue.State
	reason string
	next   time.Time
}

func (q *Queue) stands(seq uint64, l *lane, f fate) stands {
	at := stands{state: queue.StatePending}
	if f.state != 0 {
		at.state, at.reason = f.state.state(), f.reason
	}
	if at.state == queue.StateDelivered || at.state == queue.StateDead {
		return at
	}
	q.mu.Lock()
	_, leased := q.leases[leaseKey{seq, l.number}]
	reason, gone := l.gaveUp(seq)
	// A retry of before the floor is one made due by hand since, but for the moment in which the others are converted.
	gone = gone && (l.dropped || f.state == 0 || l.converting)
	q.mu.Unlock()
	switch {
	case leased:
		at.state, at.reason = queue.StateDelivering, "" // also when its lane was given up meanwhile
	case at.state == queue.StateDiscarded:
	case gone:
		at.state, at.reason = queue.StateDiscarded, reason
	case f.state == fateRetrying:
		at.next = timeOf(f.at)
	}
	return at
}

// describeFate puts together what the file and memory say.
func (q *Queue) describeFate(seq uint64, l *lane, ev *queue.Event, f fate) *queue.Delivery {
	return describeAt(seq, l, ev, f, q.stands(seq, l, f))
}

func describeAt(seq uint64, l *lane, ev *queue.Event, f fate, at stands) *queue.Delivery {
	return &queue.Delivery{
		ID: queue.DeliveryID{Seq: seq, Lane: l.id}, AccountID: ev.AccountID, EventID: ev.ID, EventType: ev.Type,
		State: at.state, Reason: at.reason, Attempts: f.attempts, AcceptedAt: ev.AcceptedAt, NextAttemptAt: at.next,
	}
}

// Deliveries implements queue.Queue.
func (q *Queue) Deliveries(ctx context.Context, f queue.DeliveryFilter) ([]*queue.Delivery, error) {
	if f.Limit < 1 {
		return nil, fmt.Errorf("list deliveries: the limit is %d; at least 1 is needed", f.Limit)
	}
	at := place{seq: math.MaxUint64}
	q.mu.Lock()
	if !f.After.IsZero() {
		at = place{seq: f.After.Seq}
		if l := q.lanes[f.After.Lane]; l != nil {
			at.lane = l.number
		}
	}
	only := uint32(0)
	if f.Lane != (queue.Lane{}) {
		l := q.lanes[f.Lane]
		if l == nil {
			q.mu.Unlock()
			if !q.running.Load() {
				return nil, queue.ErrClosed
			}
			return nil, nil
		}
		only = l.number
	}
	extras := q.extras
	q.mu.Unlock()
	x := &deliveryList{q: q, f: f, only: only, extras: extras}
	var err error
	switch {
	case f.EventID != "":
		err = x.ofEvent(at)
	case f.State == queue.StateRetrying || f.State == queue.StateDead:
		err = x.recorded(ctx, at)
	case f.State == queue.StateDelivering:
		err = x.leased(at)
	case f.State == queue.StateHeld && !x.anyHeld():
	default:
		// Events that were kept while younger ones stayed lie between the segments, so both are asked
		// for a whole page.
		kept := &deliveryList{q: q, f: f, only: only}
		if err = errors.Join(q.walk(ctx, at, x.passed(), x.visit), kept.orphans(ctx, at)); err == nil && len(kept.list) > 0 {
			x.list = append(x.list, kept.list...)
			slices.SortStableFunc(x.list, func(a, b *queue.Delivery) int { return cmp.Compare(b.ID.Seq, a.ID.Seq) })
			x.list = x.list[:min(len(x.list), f.Limit)]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return x.list, nil
}

// deliveryList collects deliveries that a filter selects.
type deliveryList struct {
	q    *Queue
	f    queue.DeliveryFilter
	only uint32 // lane number, 0 for any
	// extras: replays have made deliveries of events that do not name their lanes, perhaps.
	extras bool
	list   []*queue.Delivery
}

// passed says which segments hold none of the deliveries that are asked for: those all of whose deliveries are finished, when it is
// others that are wanted.
func (x *deliveryList) passed() func(uint64) bool {
	switch x.f.State {
	case queue.StatePending, queue.StateDelivering, queue.StateHeld:
	default:
		return nil
	}
	return func(first uint64) bool {
		x.q.mu.Lock()
		defer x.q.mu.Unlock()
		s := x.q.segmentOf(first)
		return s != nil && s.unfinished == 0
	}
}

// visit takes the deliveries of one event.
func (x *deliveryList) visit(s *scan, b *block, i int) (more bool, err error) {
	if b.ms < x.since() {
		return false, nil
	}
	account := b.accounts[b.events[i].account]
	if x.f.AccountID != "" && string(account) != x.f.AccountID {
		return true, nil
	}
	if out, err := b.leftOut(i, x.f.Without); out || err != nil {
		return true, err
	}
	targets, err := b.targets(i)
	if err != nil {
		return false, err
	}
	seq := b.first + uint64(i)
	var ev *queue.Event
	for n, named := range x.lanesOf(s, seq, targets) {
		var f fate
		var err error
		if named < 0 {
			f, _, err = readFate(s.tx, leaseKey{seq, n})
		} else {
			f, err = standing(s.fates, s.bits, s.segment, b.events[i].ordinal+uint32(named), seq, n)
		}
		if err != nil {
			return false, err
		}
		l := x.q.laneOf(n)
		if l == nil {
			continue
		}
		// Looking at the event is what costs: it is where the disk is read.
		stands := x.q.stands(seq, l, f)
		if !x.selects(l, &stands) {
			continue
		}
		if ev == nil {
			if ev, err = b.event(i); err != nil {
				return false, err
			}
		}
		if !x.take(describeAt(seq, l, ev, f, stands)) {
			return false, nil
		}
	}
	return true, nil
}

// lanesOf yields the lanes an event has deliveries for that come after the position, and are asked for: from the highest number
// to the lowest, each with its place among those the event names, or -1.
func (x *deliveryList) lanesOf(s *scan, seq uint64, targets []uint32) iter.Seq2[uint32, int] {
	return func(yield func(uint32, int) bool) {
		extras := x.extrasOf(s, seq)
		high, low := len(targets), 0
		if x.only != 0 {
			at, found := slices.BinarySearch(targets, x.only)
			if low, high = at, at; found {
				high++
			}
		}
		for j := high - 1; j >= low || len(extras) > 0; {
			n, named := uint32(0), -1
			if k := len(extras) - 1; k >= 0 && (j < low || extras[k] > targets[j]) {
				n, extras = extras[k], extras[:k]
			} else {
				n, named = targets[j], j
				j--
			}
			if s.at.before(seq, n) && !yield(n, named) {
				return
			}
		}
	}
}

// extrasOf returns the lanes an event does not name and has deliveries for all the same, ascending.
func (x *deliveryList) extrasOf(s *scan, seq uint64) []uint32 {
	if !x.extras {
		return nil
	}
	var list []uint32
	c := s.fates.Cursor()
	for k, v := c.Seek(keySeqLane(seq, x.only)); len(k) == 12 && big.Uint64(k) == seq; k, v = c.Next() {
		_, n, _ := parseSeqLane(k)
		if x.only != 0 && n != x.only {
			break
		}
		if isExtra(v) {
			list = append(list, n)
		}
	}
	return list
}

func (x *deliveryList) since() int64 {
	if x.f.Since.IsZero() {
		return math.MinInt64
	}
	// Acceptance has milliseconds: the first whole one at or after Since.
	return ceilMs(x.f.Since)
}

// selects says whether the filter wants a delivery that stands so, and calls it held where that is what it is.
func (x *deliveryList) selects(l *lane, at *stands) bool {
	if (at.state == queue.StatePending || at.state == queue.StateRetrying) && x.f.Held != nil && x.f.Held(l.id) {
		at.state = queue.StateHeld
	}
	return (x.f.State == "" || at.state == x.f.State) && (x.f.Reason == "" || at.reason == x.f.Reason)
}

// take adds a delivery; more says whether there is room for another.
func (x *deliveryList) take(d *queue.Delivery) (more bool) {
	x.list = append(x.list, d)
	return len(x.list) < x.f.Limit
}

func (q *Queue) laneOf(number uint32) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.numbers[number]
}

// ofEvent lists the deliveries of one event.
func (x *deliveryList) ofEvent(at place) error {
	ev, seq, err := x.q.findEvent(x.f.AccountID, x.f.EventID)
	if errors.Is(err, queue.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if seq > at.seq {
		return nil
	}
	segment := x.q.segmentFirst(seq)
	return x.q.view(func(tx *bolt.Tx) error {
		s := &scan{tx: tx, bits: newBitReader(tx), fates: tx.Bucket(bucketFate), segment: segment, at: &at}
		reader := eventReader{tx: tx}
		if segment != 0 {
			if seq < at.seq {
				at = place{seq, math.MaxUint32}
			}
			i, err := reader.locate(segment, seq)
			if err == nil && i >= 0 {
				_, err = x.visit(s, &reader.block, i)
			}
			return err
		}
		if ev.AcceptedAt.UnixMilli() < x.since() {
			return nil
		}
		if seq < at.seq {
			at = place{seq, math.MaxUint32}
		}
		r := recordReader{x: x, tx: tx, reader: eventReader{tx: tx}}
		_, err := r.visitAll(seq, at)
		return err
	})
}
