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
	ready   []*host // those that have an entry waiting and may get another attempt; they take turns
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
	index   int                // in the heap; -1 outside
	queued  bool               // it waits at its host
	cancel  context.CancelFunc // not nil while an attempt is under way
}

// host counts the attempts to one origin; waiting are the entries that are due, in turn. An entry that was changed or
// forgotten stays in the list until its turn comes, and then is passed over.
type host struct {
	origin  string
	busy    int
	waiting []*entry
	ready   bool // it is in loop.ready
}

// next takes the entry whose turn it is; nil if there is none.
func (at *host) next() *entry {
	for len(at.waiting) > 0 {
		e := at.waiting[0]
		at.waiting[0] = nil
		at.waiting = at.waiting[1:]
		if e.queued && e.origin == at.origin {
			e.queued = false
			return e
		}
	}
	return nil
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
	e.at, e.queued = at, false
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
	e.queued = false
	delete(l.entries, id)
}

// startDue starts the attempts that are due, as many as may be. It returns how long it is until the next one is due, and false
// when there is nothing to wait for but the end of an attempt or a change.
func (l *loop) startDue(ctx context.Context) (time.Duration, bool) {
	for now := time.Now(); len(l.due) > 0 && !l.due[0].at.After(now); {
		e := heap.Pop(&l.due).(*entry)
		at := l.hosts[e.origin]
		if at == nil {
			at = &host{origin: e.origin}
			l.hosts[e.origin] = at
		}
		e.queued = true
		at.waiting = append(at.waiting, e)
		l.offer(at)
	}
	for len(l.ready) > 0 && l.busy < MaxAttempts && ctx.Err() == nil {
		at := l.ready[0]
		l.ready[0] = nil
		l.ready, at.ready = l.ready[1:], false
		if e := at.next(); e != nil {
			at.busy++
			l.start(ctx, e)
		}
		l.offer(at)
	}
	if len(l.due) == 0 {
		return 0, false
	}
	return time.Until(l.due[0].at), true
}

// offer gives a host its turn if it may use one, and forgets it when nothing is left to do there.
func (l *loop) offer(at *host) {
	switch {
	case at.ready:
	case len(at.waiting) > 0 && at.busy < MaxPerHost:
		at.ready = true
		l.ready = append(l.ready, at)
	case len(at.waiting) == 0 && at.busy == 0:
		delete(l.hosts, at.origin)
	}
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
	l.offer(at)
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
