package boltqueue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// position is where a delivery of a retained event stands.
type position struct {
	segment uint64
	ordinal uint32
	account string
}

// find returns the position of a delivery within its segment. It is false when the event does not name the lane, and without an
// account when there is no such event.
func (r *eventReader) find(segment, seq uint64, number uint32) (position, bool, error) {
	i, err := r.locate(segment, seq)
	if err != nil || i < 0 {
		return position{}, false, err
	}
	targets, err := r.block.targets(i)
	if err != nil {
		return position{}, false, err
	}
	e := &r.block.events[i]
	p := position{segment: segment, account: string(r.block.accounts[e.account])}
	at, found := slices.BinarySearch(targets, number)
	if found {
		p.ordinal = e.ordinal + uint32(at)
	}
	return p, found, nil
}

// Retry implements queue.Queue.
func (q *Queue) Retry(ctx context.Context, accountID string, id queue.DeliveryID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var l *lane
	var old, now fate
	var split *dissolved
	var order keyed
	retried := false
	key := leaseKey{seq: id.Seq}
	return q.do(ctx, &operation{
		write: func(tx *bolt.Tx, st *stage) error {
			q.mu.Lock()
			l = q.lanes[id.Lane]
			segment := q.segmentOf(id.Seq)
			gone, leased, discarded := false, false, false
			if l != nil {
				key.lane = l.number
				_, leased = q.leases[key]
				gone, discarded = l.dropped, id.Seq <= l.floor
			}
			q.mu.Unlock()
			if l == nil {
				return refuse(queue.ErrNotFound)
			}
			reader := eventReader{tx: tx}
			stood, err := whereabouts(tx, &reader, segment, key, st)
			switch {
			case err != nil:
				return err
			case stood == nil || stood.fate.state == 0 && !stood.named || accountID != "" && stood.account != accountID:
				return refuse(queue.ErrNotFound)
			case gone:
				return refuse(queue.ErrGone)
			case leased || stood.unset && !discarded:
				return nil
			}
			if old, split, err = stood.take(tx, st, key); err != nil {
				return err
			}
			if order, err = q.keyFor(tx, &reader, l, segment, key.seq); err != nil {
				return err
			}
			now = fate{state: fateRetrying, byHand: true, reason: old.reason, attempts: old.attempts, at: st.nowMs, extra: old.extra}
			retried = true
			return replaceFate(tx, key, old, now, segment == nil)
		},
		after: func(st *stage) {
			if retried {
				q.scatter(split)
				q.revive(l, key, old, now, order)
				q.place(l, st.nowMs)
			}
		},
	})
}

// keyed is the key of a delivery in a lane with an order, and the order it was asked of.
type keyed struct {
	ord *ordering
	key uint64
}

// keyFor reads the event of a delivery for its key, if its lane has an order by key.
func (q *Queue) keyFor(tx *bolt.Tx, reader *eventReader, l *lane, s *segment, seq uint64) (keyed, error) {
	q.mu.Lock()
	k := keyed{ord: l.ord}
	q.mu.Unlock()
	if k.ord == nil || k.ord.key == nil {
		return k, nil
	}
	first := uint64(0)
	if s != nil {
		first = s.first
	}
	ev, err := lookUp(tx, reader, first, seq)
	if err == nil && ev == nil {
		err = fmt.Errorf("%w: event %d is missing", errDamaged, seq)
	}
	if err != nil {
		return k, err
	}
	k.key = k.ord.keyOf(ev)
	return k, nil
}

// stood is how a delivery stands on disk that may be made due.
type stood struct {
	position
	// named: its event names the lane. unset: its bit is not set, so it has not left the first-attempt stage.
	named, unset bool
	// fate is its record, or what the lack of one says; its state is 0 for one that is unset, and for one that is not named
	// and has no record: there is no such delivery yet.
	fate fate
}

// whereabouts finds out how a delivery stands; nil when there is no such event.
func whereabouts(tx *bolt.Tx, reader *eventReader, s *segment, key leaseKey, st *stage) (*stood, error) {
	f, recorded, err := readFate(tx, key)
	if err != nil {
		return nil, err
	}
	w := &stood{fate: f}
	if s == nil {
		ev, err := kept(tx, key.seq)
		if ev == nil || err != nil {
			return nil, err
		}
		w.account = ev.AccountID
		return w, nil
	}
	if w.position, w.named, err = reader.find(s.first, key.seq, key.lane); err != nil || w.account == "" {
		return nil, err
	}
	if !w.named || recorded {
		return w, nil
	}
	set, err := newBitReader(tx).get(w.segment, w.ordinal)
	if err != nil {
		return nil, err
	}
	// A bit this commit is about to set counts as set: its delivery has just been settled.
	if set || slices.Contains(st.marks, mark{w.segment, w.ordinal}) {
		w.fate = fate{state: fateDelivered, attempts: 1}
	} else {
		w.unset = true
	}
	return w, nil
}

// take returns what became of the delivery so far, and prepares it to become something else: out of its batch, which has to be told
// to memory after the commit. One that was given up before its first attempt has neither bit nor record.
func (w *stood) take(tx *bolt.Tx, st *stage, key leaseKey) (old fate, split *dissolved, err error) {
	if w.unset {
		st.marks = append(st.marks, mark{w.segment, w.ordinal})
		return fate{state: fateDiscarded}, nil, nil
	}
	old = w.fate
	if old.batch != 0 {
		split, err = dissolve(tx, leaseKey{old.batch, key.lane})
		old.batch = 0
	}
	return old, split, err
}

// replaceFate writes a fate over another, with the indexes of both.
func replaceFate(tx *bolt.Tx, key leaseKey, old, now fate, orphan bool) error {
	if err := withdraw(tx, key, old, orphan); err != nil {
		return err
	}
	return putFate(tx, key, now, orphan)
}

// withdraw takes a fate out of the indexes it stands in.
func withdraw(tx *bolt.Tx, key leaseKey, f fate, orphan bool) error {
	switch {
	case f.state == fateRetrying:
		return unwait(tx, key, f)
	case f.indexed(orphan):
		return tx.Bucket(bucketDied).Delete(keyLaneTime(key.lane, f.at, key.seq))
	}
	return nil
}

// revive brings memory up to date with a delivery that was made due again, or for the first time by a replay. The lock is held.
func (q *Queue) revive(l *lane, key leaseKey, old, now fate, order keyed) {
	segment := q.segmentOf(key.seq)
	l.retryVersion++
	if old.state == fateRetrying {
		l.removeRetry(retryRef{due: old.at, seq: key.seq})
	} else {
		l.addRetrying(q, 1)
		if segment != nil {
			segment.unfinished++
		}
		if old.state == fateDead {
			l.dead--
			q.dead--
		}
	}
	l.recount(old, now)
	if l.dropped {
		q.convert(l)
		return
	}
	if _, leased := q.leases[key]; leased {
		return
	}
	if l.ord != order.ord {
		l.reloadRetries() // the key was asked of another order
		return
	}
	q.waitFor(l, key.seq, now.at, lease{key: order.key, byHand: now.byHand, replay: now.replay, extra: now.extra}, now.batch)
}

// pageRecords is how many records an operation changes in one commit.
const pageRecords = 1000

// RetryDead implements queue.Queue. What an earlier call has made due for later is first made dead again, so that all that
// the selection names is dealt with in one way.
func (q *Queue) RetryDead(ctx context.Context, id queue.Lane, s queue.DeadSelection) (int, error) {
	r := revival{q: q, id: id, s: s, startMs: time.Now().UnixMilli()}
	recalled, err := r.pages(ctx, true)
	if err != nil {
		return 0, err
	}
	n, err := r.pages(ctx, false)
	if s.DryRun {
		n += recalled
	}
	return n, err
}

// revival makes dead deliveries of a lane due again, page by page.
type revival struct {
	q       *Queue
	id      queue.Lane
	s       queue.DeadSelection
	startMs int64
	// recall: the pages are those of due, and what was made due by hand for later becomes dead again.
	recall bool
	total  int
	lane   *lane
	list   []revived
	// The page begins at the key from, and the next one at the key next; nil is the beginning, and that there is none.
	from, next []byte
}

type revived struct {
	key      leaseKey
	old, now fate
	order    keyed
}

// pages goes through all there is and returns how many the selection names.
func (r *revival) pages(ctx context.Context, recall bool) (int, error) {
	r.recall, r.total, r.from = recall, 0, nil
	for {
		if err := ctx.Err(); err != nil {
			return r.total, err
		}
		var err error
		if r.s.DryRun || recall && !r.anything() {
			err = r.q.view(r.read)
		} else {
			err = r.q.do(ctx, &operation{write: r.write, after: r.after})
		}
		if errors.Is(err, queue.ErrGone) {
			return r.total, queue.ErrGone
		}
		if err != nil {
			return r.total, err
		}
		r.total += len(r.list)
		if r.from = r.next; r.from == nil {
			return r.total, nil
		}
	}
}

// anything says whether the lane has retries at all: without, there is nothing to recall, and nothing to be written.
func (r *revival) anything() bool {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	l := r.q.lanes[r.id]
	return l != nil && l.retrying > 0
}

// read collects the next page.
func (r *revival) read(tx *bolt.Tx) error {
	q := r.q
	r.list, r.next = r.list[:0], nil
	q.mu.Lock()
	r.lane = q.lanes[r.id]
	gone := r.lane != nil && r.lane.dropped
	q.mu.Unlock()
	if gone {
		return refuse(queue.ErrGone)
	}
	if r.lane == nil {
		return nil
	}
	index := bucketDied
	if r.recall {
		index = bucketDue
	}
	started := time.Now()
	prefix := string(key32(r.lane.number))
	seek := r.from
	if seek == nil {
		seek = []byte(prefix)
	}
	reader := eventReader{tx: tx}
	c := tx.Bucket(index).Cursor()
	for k, _ := c.Seek(seek); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
		_, ms, seq, _ := parseLaneTime(k)
		switch {
		case r.recall && ms <= r.startMs:
			continue // it goes as it is
		case !r.recall && ms > r.startMs:
			return nil // it died meanwhile
		}
		if len(r.list) >= pageRecords || time.Since(started) > viewBudget {
			r.next = slices.Clone(k)
			return nil
		}
		key := leaseKey{seq, r.lane.number}
		f, err := recordedFate(tx, key)
		if err != nil {
			return err
		}
		wanted, err := r.wants(tx, &reader, key, f)
		if err != nil {
			return err
		}
		if wanted {
			r.list = append(r.list, revived{key: key, old: f})
		}
	}
	return nil
}

// wants says whether the selection names a delivery.
func (r *revival) wants(tx *bolt.Tx, reader *eventReader, key leaseKey, f fate) (bool, error) {
	s := &r.s
	if r.recall && (!f.byHand || f.replay || f.planned) || !r.recall && f.state != fateDead || s.Reason != "" && f.reason != s.Reason {
		return false, nil
	}
	if r.q.leased(key) {
		return false, nil // it is under way, also when its lane was given up meanwhile
	}
	if s.EventType == "" && s.Since.IsZero() && s.Until.IsZero() {
		return true, nil
	}
	ev, err := lookUp(tx, reader, r.q.segmentFirst(key.seq), key.seq)
	if ev == nil || err != nil {
		return false, err
	}
	return (s.EventType == "" || ev.Type == s.EventType) &&
		(s.Since.IsZero() || !ev.AcceptedAt.Before(s.Since)) && (s.Until.IsZero() || ev.AcceptedAt.Before(s.Until)), nil
}

func (r *revival) write(tx *bolt.Tx, st *stage) error {
	if err := r.read(tx); err != nil {
		return err
	}
	for i := range r.list {
		x := &r.list[i]
		r.q.mu.Lock()
		segment := r.q.segmentOf(x.key.seq)
		r.q.mu.Unlock()
		if r.recall {
			x.now = fate{state: fateDead, reason: x.old.reason, attempts: x.old.attempts, at: r.startMs, extra: x.old.extra}
		} else {
			x.now = fate{
				state: fateRetrying, byHand: true, reason: x.old.reason, attempts: x.old.attempts, at: r.dueAt(r.total+i, st.nowMs),
				extra: x.old.extra,
			}
			var err error
			if x.order, err = r.q.keyFor(tx, &eventReader{tx: tx}, r.lane, segment, x.key.seq); err != nil {
				return err
			}
		}
		if err := replaceFate(tx, x.key, x.old, x.now, segment == nil); err != nil {
			return err
		}
	}
	return nil
}

// dueAt is when the n-th becomes due. Each has its own moment, so that the rate holds also over a restart.
func (r *revival) dueAt(n int, nowMs int64) int64 {
	if r.s.Rate <= 0 {
		return nowMs
	}
	at := float64(r.startMs) + math.Ceil(float64(n)*1000/r.s.Rate)
	return max(nowMs, int64(min(at, math.MaxInt64/2)))
}

func (r *revival) after(st *stage) {
	q := r.q
	for i := range r.list {
		x := &r.list[i]
		if !r.recall {
			q.revive(r.lane, x.key, x.old, x.now, x.order)
			continue
		}
		r.lane.addRetrying(q, -1)
		r.lane.removeRetry(retryRef{due: x.old.at, seq: x.key.seq})
		r.lane.retryVersion++
		s := q.segmentOf(x.key.seq)
		if s != nil {
			s.unfinished--
		}
		q.ended(r.lane, x.now, s == nil)
	}
	if r.lane != nil {
		q.place(r.lane, st.nowMs)
	}
}

func (q *Queue) leased(key leaseKey) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, leased := q.leases[key]
	return leased
}

// Hasten implements queue.Queue.
func (q *Queue) Hasten(ctx context.Context, id queue.Lane) error {
	h := hastening{q: q, id: id, startMs: time.Now().UnixMilli()}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		q.mu.Lock()
		l := q.lanes[id]
		idle := l == nil || l.dropped || l.retrying == 0
		q.mu.Unlock()
		if idle {
			if !q.running.Load() {
				return queue.ErrClosed
			}
			return nil
		}
		if err := q.do(ctx, &operation{keep: true, write: h.write, after: h.after}); err != nil {
			return err
		}
		if h.from = h.next; h.from == nil {
			return nil
		}
	}
}

// hastening makes the scheduled retries of a lane due, page by page.
type hastening struct {
	q          *Queue
	id         queue.Lane
	startMs    int64
	lane       *lane
	from, next []byte
	changed    bool
}

// write makes those of a page due at the moment the hastening began, so that none of them is met again.
func (h *hastening) write(tx *bolt.Tx, _ *stage) error {
	q := h.q
	h.next, h.changed = nil, false
	q.mu.Lock()
	h.lane = q.lanes[h.id]
	q.mu.Unlock()
	if h.lane == nil {
		return nil
	}
	prefix := string(key32(h.lane.number))
	seek := h.from
	if seek == nil {
		seek = keyLaneTime(h.lane.number, h.startMs+1, 0)
	}
	var keys []leaseKey
	c := tx.Bucket(bucketDue).Cursor()
	for k, _ := c.Seek(seek); len(k) == 20 && string(k[:4]) == prefix; k, _ = c.Next() {
		if len(keys) == pageRecords {
			h.next = slices.Clone(k)
			break
		}
		_, _, seq, _ := parseLaneTime(k)
		keys = append(keys, leaseKey{seq, h.lane.number})
	}
	for _, key := range keys {
		f, err := recordedFate(tx, key)
		if err != nil {
			return err
		}
		if f.byHand || q.leased(key) {
			continue
		}
		if err := tx.Bucket(bucketDue).Delete(keyLaneTime(key.lane, f.at, key.seq)); err != nil {
			return err
		}
		list := []uint64{key.seq}
		if f.batch == key.seq {
			rest, err := readBatch(tx, key)
			if err != nil {
				return err
			}
			list = append(list, rest...)
		}
		for _, seq := range list {
			member := leaseKey{seq, key.lane}
			f, _, err := readFate(tx, member)
			if err != nil {
				return err
			}
			f.at = h.startMs
			if err := putFate(tx, member, f, false); err != nil {
				return err
			}
		}
		h.changed = true
	}
	return nil
}

// after has the lane's retries read anew: all of them have another time.
func (h *hastening) after(st *stage) {
	l := h.lane
	if l == nil || !h.changed {
		return
	}
	l.reloadRetries()
	h.q.place(l, st.nowMs)
}
