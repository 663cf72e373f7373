package boltqueue

import (
	"cmp"
	"math"
	"slices"

	"herald/queue"
)

// A lane with an order leases nothing of a key while an older delivery of it is leased or waits for its retry. Strict
// order is the same with one key for all. First attempts that have to wait for their key are parked: taken out
// of the window, so that those behind them, of other keys, are found.

// lookAhead is how many first attempts of a lane may be parked. Beyond it the lane waits until a key moves on.
const lookAhead = 1 << 16

// ordering is what a lane with an order knows beside the others.
type ordering struct {
	key    func(*queue.Event) uint64 // nil in strict order
	keys   map[uint64]*keyState
	groups []*group          // by due time
	batch  map[uint64]*group // those of more than one, by first event
	free   []uint64          // keys that may have come free while first attempts of theirs are parked, the longest first
	parked int
	// loaded: groups has all retries there are. Before that nothing is leased.
	loaded bool
	// more: there are later ones on disk than lookAhead.
	more bool
}

// keyState is one key of which something is leased, retrying or parked.
type keyState struct {
	leased int
	turn   uint64   // the push they were leased for
	groups []*group // by first event
	// replays are the groups of replays, by first event: they keep the order among themselves.
	replays []*group
	parked  []ref // ascending
}

// group is what is tried again as one push. It waits in every key it has a delivery of.
type group struct {
	due  int64
	seqs []uint64 // ascending
	keys []uint64 // of each
	// loose: made due by hand, by a replay, or of an event that was not for the lane. It keeps nothing waiting but while it is
	// leased.
	loose bool
	// replay: by a replay; it keeps waiting what else replays made due.
	replay bool
}

func compareGroups(a, b *group) int {
	return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.seqs[0], b.seqs[0]))
}

func (o *ordering) state(key uint64) *keyState {
	k := o.keys[key]
	if k == nil {
		k = &keyState{}
		o.keys[key] = k
	}
	return k
}

// keyOf returns the key of an event.
func (o *ordering) keyOf(ev *queue.Event) uint64 {
	if o == nil || o.key == nil {
		return 0
	}
	return o.key(ev)
}

// settle notes that something of a key changed: it may have come free, or be of no interest any more.
func (o *ordering) settle(key uint64) {
	k := o.keys[key]
	switch {
	case k == nil || k.leased > 0 || len(k.groups) > 0:
	case len(k.parked) > 0:
		o.free = append(o.free, key)
	case len(k.replays) == 0:
		delete(o.keys, key)
	}
}

// lease counts a lease of the key for the push under way.
func (o *ordering) lease(key, turn uint64) {
	k := o.state(key)
	k.leased++
	k.turn = turn
}

// release ends a lease of the key.
func (o *ordering) release(key uint64) {
	if o == nil {
		return
	}
	if k := o.keys[key]; k != nil && k.leased > 0 {
		k.leased--
		o.settle(key)
	}
}

// wait adds deliveries that are to be tried again together.
func (o *ordering) wait(g *group) {
	at, _ := slices.BinarySearchFunc(o.groups, g, compareGroups)
	o.groups = slices.Insert(o.groups, at, g)
	if len(g.seqs) > 1 {
		o.batch[g.seqs[0]] = g
	}
	for i := range g.keys {
		o.queue(g, g.keys[i])
	}
}

// queue puts a group in its place in a key, if it keeps anything waiting.
func (o *ordering) queue(g *group, key uint64) {
	if g.loose && !g.replay {
		return
	}
	k := o.state(key)
	list := &k.groups
	if g.replay {
		list = &k.replays
	}
	if slices.Contains(*list, g) {
		return
	}
	at, _ := slices.BinarySearchFunc(*list, g, func(a, b *group) int { return cmp.Compare(a.seqs[0], b.seqs[0]) })
	*list = slices.Insert(*list, at, g)
}

// join adds another delivery to a group that is waiting.
func (o *ordering) join(g *group, seq, key uint64) {
	if len(g.seqs) == 1 {
		o.batch[g.seqs[0]] = g
	}
	g.seqs, g.keys = append(g.seqs, seq), append(g.keys, key)
	o.queue(g, key)
}

// remove takes a group out.
func (o *ordering) remove(g *group) {
	if at, found := slices.BinarySearchFunc(o.groups, g, compareGroups); found {
		o.groups = slices.Delete(o.groups, at, at+1)
	}
	delete(o.batch, g.seqs[0])
	for _, key := range g.keys {
		if k := o.keys[key]; k != nil {
			same := func(x *group) bool { return x == g }
			k.groups, k.replays = slices.DeleteFunc(k.groups, same), slices.DeleteFunc(k.replays, same)
			o.settle(key)
		}
	}
}

// clearGroups takes all groups out, to be read anew.
func (o *ordering) clearGroups() {
	o.groups = nil
	clear(o.batch)
	for key, k := range o.keys {
		k.groups, k.replays = nil, nil
		o.settle(key)
	}
}

// find returns the group of one that waits for the time, or nil.
func (o *ordering) find(r retryRef) *group {
	at, found := slices.BinarySearchFunc(o.groups, &group{due: r.due, seqs: []uint64{r.seq}}, compareGroups)
	if !found {
		return nil
	}
	return o.groups[at]
}

// first says whether a group is the next of all its keys.
func (o *ordering) first(g *group) bool {
	for _, key := range g.keys {
		if k := o.keys[key]; k != nil && (k.leased > 0 || !g.loose && k.groups[0] != g || g.replay && k.replays[0] != g) {
			return false
		}
	}
	return true
}

// next returns the group that is to go next, which may be later; with behind none of a replay.
func (o *ordering) next(behind bool) *group {
	for _, g := range o.groups {
		if (!behind || !g.replay) && o.first(g) {
			return g
		}
	}
	return nil
}

// blocked says whether a first attempt of the key has to wait.
func (o *ordering) blocked(key, turn uint64) bool {
	k := o.keys[key]
	return k != nil && (len(k.groups) > 0 || len(k.parked) > 0 || k.leased > 0 && k.turn != turn)
}

// unpark returns the next parked first attempt whose key has come free, unless it is too much for the push.
func (o *ordering) unpark(turn uint64, tooMuch func(ref) bool) (r ref, ok bool) {
	for len(o.free) > 0 {
		k := o.keys[o.free[0]]
		if k == nil || len(k.groups) > 0 || len(k.parked) == 0 || k.leased > 0 && k.turn != turn {
			o.free = o.free[1:]
			continue
		}
		if tooMuch(k.parked[0]) {
			return ref{}, false
		}
		r = k.parked[0]
		k.parked = k.parked[1:]
		o.parked--
		return r, true
	}
	o.free = nil
	return ref{}, false
}

// park keeps a first attempt until its key is free.
func (o *ordering) park(r ref) {
	k := o.state(r.key)
	at, _ := slices.BinarySearchFunc(k.parked, r, func(a, b ref) int { return cmp.Compare(a.seq, b.seq) })
	k.parked = slices.Insert(k.parked, at, r)
	o.parked++
}

// reorder gives a lane another order. What is not leased is found again on disk, with its keys. The lock is held.
func (q *Queue) reorder(l *lane, r queue.Room) {
	l.order, l.keyID = r.Order, r.KeyID
	q.unload(l)
	l.ord = nil
	if r.Order == queue.OrderNone {
		return
	}
	l.ord = &ordering{keys: map[uint64]*keyState{}, batch: map[uint64]*group{}, loaded: l.retrying == 0}
	if r.Order == queue.OrderKey {
		l.ord.key = r.Key
	}
	for k, le := range q.leases {
		if k.lane == l.number && !le.released {
			// Its key was not asked for. In strict order all wait until it ends.
			le.key, le.unkeyed = 0, true
			q.leases[k] = le
			l.ord.lease(0, math.MaxUint64)
		}
	}
}

// unload puts what the lane has in memory back to where it is on disk only. The lock is held.
func (q *Queue) unload(l *lane) {
	refs := slices.Clone(l.window[l.head:])
	if o := l.ord; o != nil {
		for key, k := range o.keys {
			refs = append(refs, k.parked...)
			k.parked = nil
			o.settle(key)
		}
		o.parked, o.free = 0, nil
	}
	q.windows -= len(refs)
	l.window, l.head, l.windowSize = nil, 0, 0
	l.reloadRetries()
	l.reloads++
	l.skip = nil
	for k, le := range q.leases {
		if k.lane == l.number && le.fresh {
			if l.skip == nil {
				l.skip = map[uint64]bool{}
			}
			l.skip[k.seq] = true
		}
	}
	if len(refs) == 0 {
		return
	}
	slices.SortFunc(refs, func(a, b ref) int { return cmp.Compare(a.seq, b.seq) })
	l.cursor = min(l.cursor, refs[0].seq)
	var shares []share
	for _, x := range refs {
		s := q.segmentOf(x.seq)
		if s == nil {
			continue
		}
		if n := len(shares); n == 0 || shares[n-1].segment != s {
			shares = append(shares, share{segment: s})
		}
		shares[len(shares)-1].count++
	}
	for _, sh := range l.shares {
		if n := len(shares); n > 0 && shares[n-1].segment == sh.segment {
			shares[n-1].count += sh.count
			continue
		}
		shares = append(shares, sh)
	}
	slices.SortStableFunc(shares, func(a, b share) int { return cmp.Compare(a.segment.first, b.segment.first) })
	l.shares = shares
}

// nextInOrder leases what the next push of a lane with an order carries.
func (q *Queue) nextInOrder(l *lane, nowMs int64) bool {
	o := l.ord
	if !o.loaded {
		return false
	}
	for {
		fresh := l.freshReady(q, nowMs)
		g := o.next(fresh)
		if fresh && (!l.timed(g, nowMs) || l.freshTurn) {
			l.freshTurn = false
			if q.takeInOrder(l, min(l.fill, l.total)) {
				return true
			}
			g = o.next(false)
		}
		if !l.timed(g, nowMs) {
			return false
		}
		for _, seq := range g.seqs {
			if s := q.segmentOf(seq); s != nil && s.retiring {
				l.notBefore = nowMs + busyAgain.Milliseconds()
				return false
			}
		}
		l.freshTurn = true
		o.remove(g)
		l.retryVersion++
		from := len(q.parts)
		q.turn++
		batch := uint64(0)
		if len(g.seqs) > 1 {
			batch = g.seqs[0]
		}
		for i, seq := range g.seqs {
			if q.leaseRetry(l, retryRef{due: g.due, seq: seq}, g.keys[i], batch) {
				o.lease(g.keys[i], q.turn)
			}
		}
		if q.picked(l, from, false) {
			return true
		}
	}
}

// timed says whether the time of a group has come, if there is one.
func (l *lane) timed(g *group, nowMs int64) bool { return g != nil && max(g.due, l.notBefore) <= nowMs }

// takeInOrder leases up to n first attempts whose keys are free as one push, and parks those it passes over.
func (q *Queue) takeInOrder(l *lane, n int) bool {
	o := l.ord
	from := len(q.parts)
	q.turn++
	size := int64(0)
	tooMuch := func(r ref) bool { return l.tooMuch(r, size) }
	for len(q.parts)-from < n {
		r, ok := o.unpark(q.turn, tooMuch)
		if ok {
			q.windows--
		}
		for !ok && l.windowLen() > 0 && o.parked < lookAhead {
			r = l.window[l.head]
			if o.blocked(r.key, q.turn) {
				if o.key == nil {
					break // of all that follow the same is true
				}
				l.pop(q)
				o.park(r)
				q.windows++
				continue
			}
			if tooMuch(r) {
				break
			}
			l.pop(q)
			ok = true
		}
		if !ok {
			break
		}
		if q.leaseFresh(l, r) {
			size += int64(r.size)
			o.lease(r.key, q.turn)
		} else {
			o.settle(r.key)
		}
	}
	return q.picked(l, from, true)
}
