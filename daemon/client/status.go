package client

import (
	"context"
	"net/http"
	"time"
)

// Status is how a subscription fares at this moment.
type Status struct {
	// State is one of the State constants, since StateSince, because of StateReason.
	State       string    `json:"state"`
	StateReason string    `json:"stateReason,omitempty"`
	StateSince  time.Time `json:"stateSince,omitzero"`
	// Deliveries counts those that are not finished, and the dead ones.
	Deliveries DeliveryCounts `json:"deliveries"`
	// OldestPendingAt is when the oldest event that waits for its first attempt was accepted, NextRetryAt when
	// the next retry is due; zero if there is none.
	OldestPendingAt time.Time `json:"oldestPendingAt,omitzero"`
	NextRetryAt     time.Time `json:"nextRetryAt,omitzero"`
	// Breaker is the circuit breaker, Concurrency how many pushes are under way.
	Breaker     Breaker     `json:"breaker"`
	Concurrency Concurrency `json:"concurrency"`
	// RestUntil is until when the receiver asked for no pushes; zero if it did not.
	RestUntil time.Time `json:"restUntil,omitzero"`
	// CatchingUp says that what was held flows at a bounded rate.
	CatchingUp bool `json:"catchingUp,omitempty"`
	// BatchLimit is the most records of a push the receiver is known to take; 0 if it has refused none.
	BatchLimit int `json:"batchLimit,omitempty"`
	// DisableAt is when the subscription is disabled if it goes on failing, FailuresLeft after how many more
	// failed pushes; zero if that is not ahead. WarnedPercent is how far of it was warned of.
	DisableAt     time.Time `json:"disableAt,omitzero"`
	FailuresLeft  int       `json:"failuresLeft,omitempty"`
	WarnedPercent int       `json:"warnedPercent,omitempty"`
	// Validation is the handshake while it is under way; nil when there is none.
	Validation *Validation `json:"validation,omitempty"`
}

// DeliveryCounts are numbers of deliveries by their state.
type DeliveryCounts struct {
	Pending    int64 `json:"pending"`
	Retrying   int64 `json:"retrying"`
	Delivering int64 `json:"delivering"`
	Dead       int64 `json:"dead"`
	// Held would be pending or retrying, but the subscription is paused or disabled.
	Held int64 `json:"held"`
}

// The states of a circuit breaker.
const (
	BreakerClosed   = "closed"
	BreakerOpen     = "open"
	BreakerHalfOpen = "half-open"
)

// Breaker is the circuit breaker of a subscription.
type Breaker struct {
	// State is one of the Breaker constants, since Since as far as that is known.
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Failures in a row, the first of them at FailingSince.
	Failures     int       `json:"failures"`
	FailingSince time.Time `json:"failingSince,omitzero"`
	// NextProbeAt is when the next push is tried while the breaker is open.
	NextProbeAt time.Time `json:"nextProbeAt,omitzero"`
}

// Concurrency is how many pushes are under way, how many may be now, and how many may be at most.
type Concurrency struct {
	InFlight int `json:"inFlight"`
	Window   int `json:"window"`
	Max      int `json:"max"`
}

// SubscriptionStatus tells how a subscription fares. It costs the daemon the same whatever waits.
func (c *Client) SubscriptionStatus(ctx context.Context, id string) (Status, error) {
	var out Status
	path, err := join("/subscriptions", id, "status")
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}
