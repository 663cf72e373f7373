package webpush

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// An endpoint is chosen by whoever registers a browser, and all endpoints of an implementation share a lane. So what one origin
// does to its pushes must not reach the others.
const (
	// maxFailures in a row have an origin rest, from minRest and twice as long each time up to maxRest. After a rest one push tries
	// whether it is over.
	maxFailures = 5
	minRest     = 10 * time.Second
	maxRest     = 15 * time.Minute
	// crowd is how many pushes an origin may leave waiting for as long as an attempt may take. Those beyond are broken off when it has answered nothing for patience,
	// and no more are begun. Once it has left one without an answer, it has no more than crowd under way, and one more with each
	// that it takes: one that answers now and then to seem alive gets no further.
	crowd    = 16
	patience = 5 * time.Second
	// noLimit is more than a lane has under way.
	noLimit = 1024
	// trusted is how long a push that an origin took shows that its key is good.
	trusted = 24 * time.Hour
)

// life is what the end of a push shows of its origin.
type life int

const (
	// lifeUnknown: nothing can be concluded.
	lifeUnknown life = iota
	// lifeGood: it works.
	lifeGood
	// lifeBad: it does not.
	lifeBad
)

type originKey struct{ owner, origin string }

// standing is what is known of an origin. It is guarded by origins.mu.
type standing struct {
	key      originKey
	underWay int
	// answered is when it last answered anything, or when the first of those under way began.
	answered time.Time
	// limit is how many may be under way; 0 for as many as there are.
	limit    int
	failures int
	// rest is how long it rests this time, until restUntil; 0 when it does not.
	rest      time.Duration
	restUntil time.Time
	// probing: the one push is under way that tries whether the rest is over.
	probing bool
}

// pass is the leave for one push to an origin.
type pass struct {
	at    *standing
	probe bool
	// hurried: it is one of a crowd, and to be broken off when the origin answers nothing.
	hurried bool
}

type signerKey struct {
	owner string
	x     [32]byte
}

// taken are the two origins that took a push with a key last.
type taken struct {
	latest, other     string
	latestAt, otherAt time.Time
}

// origins keeps what is known of the origins, of each owner's apart: one owner's wrong key is no reason to keep another's pushes back. It is safe for concurrent
// use.
type origins struct {
	mu        sync.Mutex
	standings recent[originKey, *standing]
	signers   recent[signerKey, taken]
}

// enter asks whether a push may go to the origin now. If not, wait is how long it had better wait.
func (o *origins) enter(owner, origin string, now time.Time) (p pass, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := originKey{owner, origin}
	s, ok := o.standings.get(k)
	if !ok {
		s = &standing{key: k}
		o.standings.put(k, s)
	}
	if s.underWay == 0 {
		s.answered = now
	}
	switch left := s.restUntil.Sub(now); {
	case s.rest > 0 && left > 0:
		return pass{}, left
	case s.rest > 0 && s.probing, s.limit > 0 && s.underWay >= s.limit, s.underWay >= crowd && now.Sub(s.answered) >= patience:
		return pass{}, minRest
	}
	p = pass{at: s, probe: s.rest > 0, hurried: s.underWay >= crowd}
	s.probing = p.probe
	s.underWay++
	return p, 0
}

// leave notes how the push ended, and whether it was answered. It returns how long the origin rests when that begins with this push, else 0.
func (o *origins) leave(p pass, l life, answered bool, now time.Time) (began time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := p.at
	s.underWay--
	if p.probe {
		s.probing = false
	}
	if answered {
		s.answered = now
	}
	switch l {
	case lifeUnknown:
	case lifeGood:
		s.failures, s.rest, s.restUntil = 0, 0, time.Time{}
		if s.limit > 0 {
			s.limit = (s.limit + 1) % noLimit
		}
	case lifeBad:
		s.failures++
		if !answered {
			s.limit = crowd
		}
		// Of the pushes that were under way when the rest began, none makes it longer.
		if p.probe || s.rest == 0 && s.failures >= maxFailures {
			s.rest = min(max(2*s.rest, minRest), maxRest)
			s.restUntil, began = now.Add(s.rest), s.rest
		}
	}
	if s.underWay == 0 && s.failures == 0 && s.limit == 0 {
		if current, ok := o.standings.get(s.key); ok && current == s {
			o.standings.drop(s.key)
		}
	}
	return began
}

// errHangs is why a push of a crowd was broken off.
var errHangs = fmt.Errorf("the origin answers nothing: %w", context.DeadlineExceeded)

// hurry returns the context for a push of a crowd, which ends with errHangs once the origin has answered nothing for patience. done is to be called
// when the push has ended.
func (o *origins) hurry(parent context.Context, p pass) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(parent)
	o.mu.Lock() // else look could read its timer before that is known
	defer o.mu.Unlock()
	var timer *time.Timer
	look := func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		left := patience - time.Since(p.at.answered)
		switch {
		case ctx.Err() != nil:
		case left > 0:
			timer.Reset(left)
		default:
			cancel(errHangs)
		}
	}
	timer = time.AfterFunc(patience, look)
	return ctx, func() {
		cancel(nil)
		timer.Stop()
	}
}

// took notes that the origin took a push with the key.
func (o *origins) took(k signerKey, origin string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, _ := o.signers.get(k)
	if t.latest != origin {
		t.other, t.otherAt = t.latest, t.latestAt
	}
	t.latest, t.latestAt = origin, now
	o.signers.put(k, t)
}

// takenElsewhere tells whether another origin has taken a push with the key lately, so that the key cannot be what is wrong.
func (o *origins) takenElsewhere(k signerKey, origin string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, _ := o.signers.get(k)
	return t.latest != "" && t.latest != origin && now.Sub(t.latestAt) < trusted ||
		t.other != "" && t.other != origin && now.Sub(t.otherAt) < trusted
}

// tookBefore tells whether the origin is one of the last that took a push with the key.
func (o *origins) tookBefore(k signerKey, origin string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, _ := o.signers.get(k)
	return t.latest == origin || t.other == origin
}

// forget drops what is kept for the owner.
func (o *origins) forget(owner string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.standings.remove(func(k originKey) bool { return k.owner == owner })
	o.signers.remove(func(k signerKey) bool { return k.owner == owner })
}
