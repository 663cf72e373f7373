package api

import (
	"net/http"
	"time"

	"herald/queue"
	"herald/store"
)

// LaneStatus is how pushes to one subscription go at this moment.
type LaneStatus struct {
	// Breaker is "closed", "open" or "half-open" (a probe is under way); Since is when it became so, zero when
	// that is not known.
	Breaker string
	Since   time.Time
	// Failures is how many pushes in a row have failed, FailingSince when the first of them was made; zero
	// while they succeed.
	Failures     int
	FailingSince time.Time
	// ProbeAt is when the next probe may go out while the breaker is open.
	ProbeAt time.Time
	// InFlight pushes are under way of the Window that is allowed now, which may grow up to Max.
	InFlight, Window, Max int
	// RestUntil is until when the receiver asked to be left alone; zero when it did not.
	RestUntil time.Time
	// CatchingUp says that what was held is flowing at a bounded rate.
	CatchingUp bool
	// Warned is the highest percentage of what disables it that was warned of.
	Warned int
	// BatchLimit is the most records of a push the receiver is known to take; 0 when it has refused none for
	// its size.
	BatchLimit int
}

// The states of a circuit breaker.
const (
	breakerClosed = "closed"
	breakerOpen   = "open"
)

type statusView struct {
	State       string          `json:"state"`
	StateReason string          `json:"stateReason,omitempty"`
	StateSince  time.Time       `json:"stateSince"`
	Deliveries  deliveryCounts  `json:"deliveries"`
	OldestAt    time.Time       `json:"oldestPendingAt,omitzero"`
	NextRetryAt time.Time       `json:"nextRetryAt,omitzero"`
	Breaker     breakerView     `json:"breaker"`
	Concurrency concurrencyView `json:"concurrency"`
	RestUntil   time.Time       `json:"restUntil,omitzero"`
	CatchingUp  bool            `json:"catchingUp,omitzero"`
	BatchLimit  int             `json:"batchLimit,omitzero"`
	// What is ahead of a subscription that fails.
	DisableAt     time.Time `json:"disableAt,omitzero"`
	FailuresLeft  int       `json:"failuresLeft,omitzero"`
	WarnedPercent int       `json:"warnedPercent,omitzero"`
	// Validation is the record under way.
	Validation *validationView `json:"validation,omitempty"`
}

type deliveryCounts struct {
	Pending    int64 `json:"pending"`
	Retrying   int64 `json:"retrying"`
	Delivering int64 `json:"delivering"`
	Dead       int64 `json:"dead"`
	Held       int64 `json:"held"`
}

type breakerView struct {
	State        string    `json:"state"`
	Since        time.Time `json:"since,omitzero"`
	Failures     int       `json:"failures"`
	FailingSince time.Time `json:"failingSince,omitzero"`
	NextProbeAt  time.Time `json:"nextProbeAt,omitzero"`
}

type concurrencyView struct {
	InFlight int `json:"inFlight"`
	Window   int `json:"window"`
	Max      int `json:"max"`
}

// readStatus tells how a subscription fares: what waits for it, and what is done about it. It counts nothing
// and costs the same whatever waits.
func (a *API) readStatus(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	policy := effective(&s.Delivery, &c.settings.Policy)
	live, known := a.status(s.ID)
	if !known {
		live = statusOf(&s.Health, policy.MaxConcurrency)
	}
	return c.answer(http.StatusOK, viewStatus(s, a.queue.LaneStats(queue.Lane(s.ID)), live, policy.DisableAfter))
}

// statusOf is what the store remembers of a subscription to which nothing has been pushed since the start.
func statusOf(h *store.Health, most int) LaneStatus {
	l := LaneStatus{Breaker: breakerClosed, Failures: h.Failures, FailingSince: h.FailingSince, Warned: h.Warned, Window: most, Max: most}
	if !h.OpenedAt.IsZero() {
		l.Breaker, l.Since, l.ProbeAt, l.Window = breakerOpen, h.OpenedAt, h.ProbeAt, 1
	}
	return l
}

func viewStatus(s *store.Subscription, stats queue.LaneStats, l LaneStatus, after store.DisableAfter) statusView {
	v := statusView{
		State: string(s.State), StateReason: s.StateReason, StateSince: s.StateSince.UTC(),
		Deliveries: deliveryCounts{Pending: stats.Pending, Retrying: stats.Retrying, Delivering: stats.Delivering, Dead: stats.Dead},
		OldestAt:   shown(stats.OldestPending), NextRetryAt: shown(stats.NextRetry),
		Breaker: breakerView{
			State: l.Breaker, Since: shown(l.Since), Failures: l.Failures,
			FailingSince: shown(l.FailingSince), NextProbeAt: shown(l.ProbeAt),
		},
		Concurrency: concurrencyView{l.InFlight, l.Window, l.Max},
		RestUntil:   shown(l.RestUntil), BatchLimit: l.BatchLimit,
		CatchingUp: l.CatchingUp && stats.Pending+stats.Retrying+stats.Delivering > 0,
		Validation: viewValidation(&s.Validation),
	}
	if v.Breaker.NextProbeAt.After(v.NextRetryAt) && !v.NextRetryAt.IsZero() {
		v.NextRetryAt = v.Breaker.NextProbeAt // nothing goes out before
	}
	if s.State != store.StateActive {
		v.Deliveries.Held = stats.Pending + stats.Retrying
		v.Deliveries.Pending, v.Deliveries.Retrying = 0, 0
		// Nothing goes out, so no time is ahead.
		v.NextRetryAt, v.RestUntil = time.Time{}, time.Time{}
		v.Breaker.State, v.Breaker.Since, v.Breaker.NextProbeAt = breakerClosed, time.Time{}, time.Time{}
	}
	if s.State == store.StateActive && !l.FailingSince.IsZero() {
		if after.Duration > 0 {
			v.DisableAt = shown(l.FailingSince.Add(after.Duration))
		}
		if after.Failures > 0 {
			v.FailuresLeft = max(after.Failures-l.Failures, 1) // the push that is one too many has not been made yet
		}
		v.WarnedPercent = l.Warned
	}
	return v
}

// shown is a time as answers have it: in UTC, with milliseconds; zero stays zero.
func shown(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
