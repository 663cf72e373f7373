package dispatch

import (
	"time"

	"herald/queue"
)

// BreakerState is what the circuit breaker of a subscription does. It is a metric label.
type BreakerState string

// The states of a breaker.
const (
	// BreakerClosed: deliveries flow.
	BreakerClosed BreakerState = "closed"
	// BreakerOpen: they wait for the next probe.
	BreakerOpen BreakerState = "open"
	// BreakerHalfOpen: the probe is under way.
	BreakerHalfOpen BreakerState = "half-open"
)

// Status is how the deliveries of a subscription go, at this moment.
type Status struct {
	// Known says that the dispatcher has the subscription in memory. It has not when nothing was due for it
	// lately, or when it is not active; then the rest is zero, and Subscription.Health says what there is to say.
	Known bool
	// Breaker is the state of the circuit breaker, Since when it opened; zero while it is closed.
	Breaker BreakerState
	Since   time.Time
	// Failures is how many pushes in a row have failed, FailingSince when the first of them did.
	Failures     int
	FailingSince time.Time
	// ProbeAt is when the next probe may go out; zero while the breaker is closed.
	ProbeAt time.Time
	// Warned is the highest percentage of DisableAfter that was warned about.
	Warned int
	// InFlight is how many pushes are under way, Window how many may be, as far as the receiver has shown to be
	// good for it, Max how many the policy allows.
	InFlight, Window, Max int
	// RestUntil is when the receiver may be pushed to again, if it has asked for a rest; zero otherwise.
	RestUntil time.Time
	// CatchingUp says that what was held while the subscription was not active flows, at a bounded rate.
	CatchingUp bool
	// BatchLimit is the largest batch the receiver is known to take, 0 when it has refused none for its size.
	BatchLimit int
}

// Status returns how the deliveries of a subscription go. It is cheap, and for any number of goroutines.
func (d *Dispatcher) Status(id queue.Lane) Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[id]
	if l == nil || l.policy == nil {
		return Status{}
	}
	s := Status{
		Known: true, Breaker: BreakerClosed, InFlight: l.inFlight, Window: l.limit(), Max: l.policy.max,
		CatchingUp: !l.catchUp.IsZero(), BatchLimit: l.most,
	}
	if t := l.trouble; t != nil {
		h := &t.health
		s.Failures, s.FailingSince, s.Warned = int(h.failures), moment(h.failingSince), int(h.warned)
		s.Since, s.ProbeAt = moment(h.openedAt), moment(h.probeAt)
		switch {
		case t.open() && t.probing:
			s.Breaker = BreakerHalfOpen
		case t.open():
			s.Breaker = BreakerOpen
		}
	}
	now := time.Now()
	if rest := l.rest - int64(now.Sub(d.epoch)); l.rest > 0 && rest > 0 {
		s.RestUntil = stamp(now.Add(time.Duration(rest)))
	}
	return s
}
