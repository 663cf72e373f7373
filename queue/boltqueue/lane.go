package boltqueue

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"math"
	"slices"

	"herald/queue"
)

// Bounds of what a lane holds in memory.
const (
	// windowLimit is how many first attempts of a lane are in memory; windowLow is when more are loaded.
	windowLimit = 1024
	windowLow   = 256
	// windowLeast is how many a lane may load though all windows together are full.
	windowLeast = 16
	// windowsLimit bounds all windows together, in references of 24 bytes.
	windowsLimit = 1 << 20
	// retryLimit is how many of a lane's nearest retries are in memory.
	retryLimit = 128
)

// ref is a first attempt to be made.
type ref struct {
	seq     uint64
	key     uint64 // in a lane with an order by key
	ordinal uint32
	size    uint32 // of the event, in bytes
}

// retryRef is a retry to be made.
type retryRef struct {
	due int64 // milliseconds
	seq uint64
	// replay: made due by a replay and not tried since, so that first attempts go before it.
	replay bool
}

// share is how many of a lane's first attempts in a segment are on disk only.
type share struct {
	segment *segment
	count   uint32
}

// lane is one receiver's part of the queue. Its members are guarded by Queue.mu, but number and id, which
// never change.
type lane struct {
	number  uint32
	id      queue.Lane
	dropped bool
	// floor is the newest event at the time its deliveries were given up, and floorReason why; 0 when they never were.
	// An unset bit of an event up to it says discarded.
	floor       uint64
	floorReason string
	// converting: retries of events up to floor, or of a dropped lane, are being discarded.
	converting bool
	// lastUse is the newest event that names a dropped lane; its number is forgotten when no event
	// up to it is left.
	lastUse uint64

	window []ref // window[head:], ascending
	head   int
	// windowSize is the sizes of those.
	windowSize int64
	// shares lists what is beyond the window, ascending; cursor is the first event that may be there.
	shares []share
	cursor uint64
	// reloads counts how often the cursor went back, so that a page read meanwhile is not taken for the truth.
	reloads uint64
	// skip are first attempts that were leased when the cursor went back: they are found on disk like those that
	// were not.
	skip map[uint64]bool

	// What room said last: most deliveries of one push, most bytes of it, how long one waits to be full, in milliseconds, and
	// how many more there may be in all.
	fill   int
	bytes  int64
	waitMs int64
	total  int
	order  queue.Order
	keyID  string
	ord    *ordering // nil without an order

	retries []retryRef // the nearest, ascending
	// moreRetries: there are later ones on disk.
	moreRetries bool
	// retryVersion counts changes, so that a page read meanwhile is not taken for the truth.
	retryVersion uint64
	// notBefore spreads overdue retries after a crash; milliseconds.
	notBefore int64
	// freshTurn: the next claim is a first attempt, if there is one.
	freshTurn bool

	// replays are those of the lane, oldest first; replayed counts the deliveries that they made due and that were not tried
	// since, as the disk knows, replayedNow those among them whose settlement is on its way.
	replays               []*replay
	replayed, replayedNow int64

	// pending counts first attempts that are not leased, retrying and dead count records on disk.
	pending, retrying, dead int64
	// leased counts leases, leasedRetries those of retries.
	leased, leasedRetries int64
	// oldestDied is the earliest entry in died, in milliseconds, or later; 0 when there is none.
	oldestDied int64

	// cancelling: what a replay has made due is being taken back.
	cancelling bool

	ready   bool // in Queue.ready
	aside   bool // no room; waits for Wake
	asideMs int64
	hungry  bool // in Queue.hungry
	heapAt  int  // position in Queue.timers + 1; 0 when not in it
	heapDue int64
	// allowance is what is left of the room of claim number round.
	round     uint64
	allowance int
}

// The record of a lane: version, flags, id, and when its deliveries were given up: up to which event, and why. Every lane that was
// not dropped has been given deliveries.
const (
	flagDropped    = 1
	flagFloor      = 2
	flagConverting = 4
)

// laneRecord is a lane as it stands on disk.
type laneRecord struct {
	id                  queue.Lane
	dropped, converting bool
	floor               uint64
	reason              string
}

func (r *laneRecord) encode() []byte {
	var flags byte
	if r.dropped {
		flags |= flagDropped
	}
	if r.floor != 0 {
		flags |= flagFloor
	}
	if r.converting {
		flags |= flagConverting
	}
	b := append([]byte{recordVersion, flags}, r.id[:]...)
	if r.floor != 0 {
		b = append(binary.AppendUvarint(b, r.floor), r.reason...)
	}
	return b
}

func decodeLane(b []byte) (laneRecord, error) {
	var r laneRecord
	d := decoder{b: b}
	d.version()
	flags := d.byte()
	copy(r.id[:], d.bytes(len(r.id)))
	if flags&^(flagDropped|flagFloor|flagConverting) != 0 {
		d.fail("unknown flags")
	}
	r.dropped, r.converting = flags&flagDropped != 0, flags&flagConverting != 0
	if flags&flagFloor != 0 && d.err == nil {
		if r.floor = d.number(math.MaxUint64); r.floor == 0 {
			d.fail("bad floor")
		}
		r.reason, d.b = string(d.b), nil
	}
	return r, d.end()
}

// record is the lane as it has to stand on disk.
func (l *lane) record() *laneRecord {
	return &laneRecord{id: l.id, dropped: l.dropped, converting: l.converting, floor: l.floor, reason: l.floorReason}
}

// gaveUp says whether a first attempt of the event will not be made, and why.
func (l *lane) gaveUp(seq uint64) (reason string, yes bool) {
	switch {
	case seq <= l.floor:
		return l.floorReason, true
	case l.dropped:
		return queue.ReasonUnsubscribed, true
	}
	return "", false
}

func (l *lane) windowLen() int { return len(l.window) - l.head }

// dueAt returns when the lane's next retry in memory is due, in milliseconds.
func (l *lane) dueAt() (int64, bool) {
	if l.ord != nil {
		if g := l.ord.next(false); g != nil && l.ord.loaded {
			return max(g.due, l.notBefore), true
		}
		return 0, false
	}
	if len(l.retries) == 0 {
		return 0, false
	}
	return max(l.retries[0].due, l.notBefore), true
}

// freshAt returns when first attempts in memory may be leased, in milliseconds, 0 for at once; false when there is nothing to
// lease as things are.
func (l *lane) freshAt(q *Queue) (int64, bool) {
	if l.ord != nil {
		switch {
		case !l.ord.loaded:
			return 0, false
		case len(l.ord.free) > 0:
			return 0, true
		case l.windowLen() == 0 || l.ord.parked >= lookAhead:
			return 0, false
		case l.ord.key == nil && l.ord.blocked(0, 0):
			return 0, false
		}
	}
	n := l.windowLen()
	switch {
	case n == 0:
		return 0, false
	case l.waitMs == 0 || n >= l.fill || l.bytes > 0 && l.windowSize >= l.bytes:
		return 0, true
	case len(l.shares) > 0 && l.mayLoad(q) > 0:
		return 0, false // the loader is on its way
	}
	seq := l.window[l.head].seq
	s := q.segmentOf(seq)
	if s == nil {
		return 0, true
	}
	return s.acceptedAt(seq) + l.waitMs, true
}

func (l *lane) freshReady(q *Queue, nowMs int64) bool {
	at, ok := l.freshAt(q)
	return ok && at <= nowMs
}

// sizeOf is about what the record of an event takes, which is what its size is when it is read.
func sizeOf(ev *queue.Event) uint32 {
	return uint32(min(int64(len(ev.Data)+len(ev.ID)+len(ev.Type)+len(ev.Resource)+20), math.MaxUint32))
}

// push puts a first attempt at the end of the window.
func (l *lane) push(q *Queue, r ref) {
	l.window = append(l.window, r)
	l.windowSize += int64(r.size)
	q.windows++
	l.cursor = r.seq + 1
}

// tooMuch says whether a first attempt is too much beside what a push has already.
func (l *lane) tooMuch(r ref, size int64) bool {
	return size > 0 && l.bytes > 0 && size+int64(r.size) > l.bytes
}

func (l *lane) pop(q *Queue) ref {
	r := l.window[l.head]
	l.head++
	l.windowSize -= int64(r.size)
	q.windows--
	switch {
	case l.head == len(l.window):
		l.head = 0
		if cap(l.window) > 64 {
			l.window = nil
		} else {
			l.window = l.window[:0]
		}
	case l.head >= 512 && l.head*2 >= len(l.window):
		l.window = append(l.window[:0], l.window[l.head:]...)
		l.head = 0
	}
	return r
}

// giveBack puts a first attempt back where it belongs.
func (l *lane) giveBack(q *Queue, r ref) {
	q.windows++
	if l.ord != nil && l.ord.key != nil {
		l.ord.park(r)
		l.ord.settle(r.key)
		return
	}
	l.windowSize += int64(r.size)
	if l.head > 0 {
		l.head--
	} else {
		l.window = append(l.window, ref{})
		copy(l.window[1:], l.window)
	}
	at := l.head
	for at+1 < len(l.window) && l.window[at+1].seq < r.seq {
		l.window[at] = l.window[at+1]
		at++
	}
	l.window[at] = r
}

// low is how many first attempts in memory are too few while there are others on disk.
func (l *lane) low() int { return max(windowLow, l.fill) }

// mayLoad says how many references the lane may take into its window.
func (l *lane) mayLoad(q *Queue) int {
	limit := max(windowLimit, 4*l.fill)
	if q.windows >= windowsLimit {
		limit = windowLeast
	}
	if l.ord != nil && l.ord.parked >= lookAhead {
		return 0
	}
	return limit - l.windowLen()
}

// restsAfter is from when on a lane that was set aside is taken to rest, in milliseconds. One that is at its limit is set aside, too, but
// for moments.
const restsAfter = 1000

// rests says whether the lane's deliveries will not be claimed soon.
func (l *lane) rests(nowMs int64) bool { return l.aside && nowMs-l.asideMs > restsAfter }

// add takes a new delivery: into the window when nothing is before it on disk only, and there is room.
func (l *lane) add(q *Queue, s *segment, r ref, ev *queue.Event) {
	l.addPending(q, 1)
	if l.ord != nil && ev != nil {
		r.key = l.ord.keyOf(ev)
	}
	if len(l.shares) == 0 && l.mayLoad(q) > 0 {
		l.push(q, r)
		return
	}
	if n := len(l.shares); n > 0 && l.shares[n-1].segment == s {
		l.shares[n-1].count++
		return
	}
	l.shares = append(l.shares, share{s, 1})
}

// waitFor puts a retry where it waits: in memory only the first of a batch is there, but in a lane with an order. Of
// its lease the key matters. The lock is held.
func (q *Queue) waitFor(l *lane, seq uint64, due int64, le lease, batch uint64) {
	l.retryVersion++
	key := le.key
	switch {
	case l.ord == nil:
		if batch == 0 || batch == seq {
			l.insertRetry(retryRef{due: due, seq: seq, replay: le.replay && le.byHand})
		}
	case le.unkeyed:
		l.ord.loaded = false // it is found on disk, with its key
	case !l.ord.loaded: // so is this one
	case l.ord.find(retryRef{due: due, seq: seq}) != nil: // the loader was quicker
	case batch != 0 && batch != seq && l.ord.batch[batch] != nil:
		l.ord.join(l.ord.batch[batch], seq, key)
	default:
		g := &group{due: due, seqs: []uint64{seq}, keys: []uint64{key}, loose: le.byHand || le.replay || le.extra, replay: le.replay}
		l.ord.wait(g)
		if batch == seq {
			l.ord.batch[seq] = g
		}
	}
}

// insertRetry takes a retry into the nearest, or leaves it to the disk.
func (l *lane) insertRetry(r retryRef) {
	at, found := slices.BinarySearchFunc(l.retries, r, compareRetries)
	if found {
		return
	}
	if at == len(l.retries) && l.moreRetries {
		return // what is on disk may be due before it
	}
	l.retries = slices.Insert(l.retries, at, r)
	if len(l.retries) > retryLimit {
		l.retries = l.retries[:retryLimit]
		l.moreRetries = true
	}
}

// reloadRetries has the lane's retries read anew.
func (l *lane) reloadRetries() {
	l.retryVersion++
	l.retries, l.moreRetries = nil, l.retrying > 0
	if l.ord != nil {
		l.ord.clearGroups()
		l.ord.loaded = l.retrying == 0
	}
}

func (l *lane) removeRetry(r retryRef) {
	if l.ord != nil {
		if g := l.ord.find(r); g != nil {
			l.ord.remove(g)
		}
		return
	}
	if at, found := slices.BinarySearchFunc(l.retries, r, compareRetries); found {
		l.retries = slices.Delete(l.retries, at, at+1)
	}
}

func compareRetries(a, b retryRef) int {
	return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.seq, b.seq))
}

// addPending and addRetrying keep the lane's counts, and the queue's, which leave dropped lanes out.
func (l *lane) addPending(q *Queue, n int64) {
	l.pending += n
	if !l.dropped {
		q.pending += n
	}
}

func (l *lane) addRetrying(q *Queue, n int64) {
	l.retrying += n
	if !l.dropped {
		q.retrying += n
	}
}

// recount keeps the count of replayed deliveries when a fate takes the place of another.
func (l *lane) recount(old, now fate) {
	if old.waitsReplay() {
		l.replayed--
	}
	if now.waitsReplay() {
		l.replayed++
	}
}

func (l *lane) addLeasedRetries(q *Queue, n int64) {
	l.leasedRetries += n
	if !l.dropped {
		q.leasedRetries += n
	}
}

// release frees what a lane holds whose deliveries are given up.
func (l *lane) release(q *Queue) {
	q.windows -= l.windowLen()
	l.window, l.head, l.windowSize, l.shares = nil, 0, 0, nil
	l.retries, l.moreRetries = nil, false
	l.retryVersion++
	l.reloads++
	if o := l.ord; o != nil {
		q.windows -= o.parked
		l.ord = &ordering{key: o.key, keys: map[uint64]*keyState{}, batch: map[uint64]*group{}, loaded: true}
		for key, k := range o.keys {
			if k.leased > 0 {
				l.ord.keys[key] = &keyState{leased: k.leased, turn: k.turn}
			}
		}
	}
}

// place puts the lane where its state belongs: among the ready ones, the timers, the hungry, or nowhere. It
// is called after every change. The lock is held.
func (q *Queue) place(l *lane, nowMs int64) {
	if l.dropped || l.aside {
		q.untimer(l)
		return // a ready one is passed over when its turn comes
	}
	if !l.hungry && (len(l.shares) > 0 && l.windowLen() < l.low() && l.mayLoad(q) > 0 || l.wantsRetries()) {
		l.hungry = true
		q.hungry = append(q.hungry, l)
		q.feed.rouse()
	}
	at, timed := l.dueAt()
	if fresh, ok := l.freshAt(q); ok && (!timed || fresh < at) {
		at, timed = fresh, true
	}
	switch {
	case l.converting || l.cancelling || !timed:
		q.untimer(l)
	case at <= nowMs:
		q.untimer(l)
		if !l.ready {
			l.ready = true
			q.ready.push(l)
			q.work.rouse()
		}
	default:
		q.timer(l, at)
	}
}

// wantsRetries says whether retries of the lane have to be read from disk.
func (l *lane) wantsRetries() bool {
	if l.ord != nil {
		return !l.ord.loaded || l.ord.more && len(l.ord.groups) < lookAhead/2
	}
	return l.moreRetries && len(l.retries) == 0
}

func (q *Queue) timer(l *lane, due int64) {
	switch {
	case l.heapAt == 0:
		l.heapDue = due
		heap.Push(&q.timers, l)
	case l.heapDue != due:
		l.heapDue = due
		heap.Fix(&q.timers, l.heapAt-1)
	default:
		return
	}
	if q.timers[0] == l {
		q.work.rouse() // whoever waits for the first timer has to look again
	}
}

func (q *Queue) untimer(l *lane) {
	if l.heapAt != 0 {
		heap.Remove(&q.timers, l.heapAt-1)
	}
}

// timerHeap orders lanes by their next retry.
type timerHeap []*lane

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].heapDue < h[j].heapDue }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i+1, j+1
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	l := x.(*lane)
	*h = append(*h, l)
	l.heapAt = len(*h)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	l.heapAt = 0
	return l
}

// laneRing is a first-in-first-out list.
type laneRing struct {
	lanes []*lane
	head  int
}

func (r *laneRing) len() int { return len(r.lanes) - r.head }

func (r *laneRing) push(l *lane) {
	if r.head > 64 && r.head*2 >= len(r.lanes) {
		n := copy(r.lanes, r.lanes[r.head:])
		clear(r.lanes[n:])
		r.lanes, r.head = r.lanes[:n], 0
	}
	r.lanes = append(r.lanes, l)
}

func (r *laneRing) pop() *lane {
	l := r.lanes[r.head]
	r.lanes[r.head] = nil
	r.head++
	if r.head == len(r.lanes) {
		r.lanes, r.head = r.lanes[:0], 0
	}
	return l
}

// signal is a one-slot wake-up.
type signal chan struct{}

func (s signal) rouse() {
	select {
	case s <- struct{}{}:
	default:
	}
}
