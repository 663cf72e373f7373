package handshake

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"herald/store"
)

// loop is the state of Run: which records are due when, and which are under way. One goroutine owns it.
type loop struct {
	h       *Handshake
	entries map[store.SubscriptionID]*entry
	due     dueHeap
	hosts   map[string]*host
	busy    int
	done    chan result // has room for every attempt, so that none waits for the loop to end
	wg      sync.WaitGroup
}

// entry is one record under way.
type entry struct {
	id      store.SubscriptionID
	at      time.Time // when it is due
	expires time.Time // tells this record from another of the subscription
	origin  string
	index   int // in the heap; -1 outside
	parked  bool
	cancel  context.CancelFunc // not nil while an attempt is under way
}

// host counts the attempts to one origin; waiting are the entries that are due and over MaxPerHost, in turn.
type host struct {
	busy    int
	waiting []*entry
}

// result says that an attempt is over, and how long the store is to be left alone.
type result struct {
	e    *entry
	rest time.Duration
}

func newLoop(h *Handshake) *loop {
	return &loop{
		h: h, entries: make(map[store.SubscriptionID]*entry), hosts: make(map[string]*host), done: make(chan result, MaxAttempts),
	}
}

// run works until ctx ends.
func (l *loop) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.h.metrics.waiting.Set(float64(len(l.entries) - l.busy))
		l.h.metrics.inFlight.Set(float64(l.busy))
		var alarm <-chan time.Time
		if wait, ok := l.startDue(ctx); ok {
			timer.Reset(wait)
			alarm = timer.C
		}
		l.h.metrics.waiting.Set(float64(len(l.entries) - l.busy))
		l.h.metrics.inFlight.Set(float64(l.busy))
		select {
		case <-ctx.Done():
			return
		case <-l.h.wake:
			for id := range l.h.takeChanged() {
				l.look(ctx, id)
			}
		case r := <-l.done:
			l.finish(ctx, r)
		case <-alarm:
		}
	}
}

// stop ends the attempts under way and waits for them.
func (l *loop) stop() {
	for _, e := range l.entries {
		if e.cancel != nil {
			e.cancel()
		}
	}
	l.wg.Wait()
	l.h.metrics.waiting.Set(0)
	l.h.metrics.inFlight.Set(0)
}

// look takes notice of what has become of a subscription.
func (l *loop) look(ctx context.Context, id store.SubscriptionID) {
	s, err := l.h.store.Subscription(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		l.forget(id)
	case err != nil:
		l.h.complain(ctx, "read subscription", err)
		l.lookLater(id)
	default:
		l.schedule(s)
	}
}

// lookLater has a subscription looked at again that could not be read.
func (l *loop) lookLater(id store.SubscriptionID) {
	e := l.entries[id]
	if e != nil && e.cancel != nil {
		return // it is looked at when the attempt is over
	}
	if e == nil {
		e = &entry{id: id, index: -1}
		l.entries[id] = e
	}
	l.put(e, time.Now().Add(storeDelay))
}

// schedule makes the entry what the subscription says.
func (l *loop) schedule(s *store.Subscription) {
	v, e := &s.Validation, l.entries[s.ID]
	if e != nil && e.cancel != nil {
		if !v.ExpiresAt.IsZero() && !v.ExpiresAt.Equal(e.expires) {
			e.cancel() // its place is another's; one that was merely confirmed may end in peace
		}
		return
	}
	if v.NextAt.IsZero() {
		l.forget(s.ID)
		return
	}
	if e == nil {
		e = &entry{id: s.ID, index: -1}
		l.entries[s.ID] = e
	}
	e.expires, e.origin = v.ExpiresAt, store.Origin(s.ValidationURL())
	l.put(e, v.NextAt)
}

// put makes the entry due at a moment.
func (l *loop) put(e *entry, at time.Time) {
	e.at, e.parked = at, false
	if e.index >= 0 {
		heap.Fix(&l.due, e.index)
	} else {
		heap.Push(&l.due, e)
	}
}

// forget removes an entry; an attempt under way is broken off.
func (l *loop) forget(id store.SubscriptionID) {
	e := l.entries[id]
	if e == nil {
		return
	}
	if e.cancel != nil {
		e.cancel()
		return
	}
	if e.index >= 0 {
		heap.Remove(&l.due, e.index)
	}
	e.parked = false
	delete(l.entries, id)
}

// startDue starts the attempts that are due, as many as may be. It returns how long it is until the next one, and false
// when there is nothing to wait for but the end of an attempt or a change.
func (l *loop) startDue(ctx context.Context) (time.Duration, bool) {
	for len(l.due) > 0 && l.busy < MaxAttempts && ctx.Err() == nil {
		e := l.due[0]
		if wait := time.Until(e.at); wait > 0 {
			return wait, true
		}
		heap.Pop(&l.due)
		at := l.hosts[e.origin]
		if at == nil {
			at = &host{}
			l.hosts[e.origin] = at
		}
		if at.busy >= MaxPerHost {
			e.parked = true
			at.waiting = append(at.waiting, e)
			continue
		}
		at.busy++
		l.start(ctx, e)
	}
	return 0, false
}

func (l *loop) start(ctx context.Context, e *entry) {
	ctx, e.cancel = context.WithCancel(ctx)
	l.busy++
	id, expires := e.id, e.expires
	l.wg.Go(func() { l.done <- result{e, l.h.attempt(ctx, id, expires)} })
}

// finish makes room for the next attempt and looks at what has become of the subscription meanwhile.
func (l *loop) finish(ctx context.Context, r result) {
	e := r.e
	e.cancel()
	e.cancel = nil
	l.busy--
	at := l.hosts[e.origin]
	at.busy--
	for len(at.waiting) > 0 {
		next := at.waiting[0]
		at.waiting[0] = nil
		at.waiting = at.waiting[1:]
		if next.parked { // else it was changed or forgotten meanwhile
			l.put(next, next.at)
			break
		}
	}
	if at.busy == 0 && len(at.waiting) == 0 {
		delete(l.hosts, e.origin)
	}
	if r.rest > 0 {
		l.put(e, time.Now().Add(r.rest))
		return
	}
	l.look(ctx, e.id)
}

// dueHeap orders entries by when they are due (container/heap).
type dueHeap []*entry

// Len implements heap.Interface.
func (d dueHeap) Len() int { return len(d) }

// Less implements heap.Interface.
func (d dueHeap) Less(i, j int) bool { return d[i].at.Before(d[j].at) }

// Swap implements heap.Interface.
func (d dueHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push implements heap.Interface.
func (d *dueHeap) Push(x any) {
	e, _ := x.(*entry)
	e.index = len(*d)
	*d = append(*d, e)
}

// Pop implements heap.Interface.
func (d *dueHeap) Pop() any {
	last := len(*d) - 1
	e := (*d)[last]
	(*d)[last] = nil
	*d, e.index = (*d)[:last], -1
	return e
}
