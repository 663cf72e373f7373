package client

import (
	"context"
	"net/http"
	"time"
)

// The reasons of dead and discarded deliveries.
const (
	// ReasonExhausted, ReasonRejected and ReasonExpired are those of dead ones: the schedule is used up, it can
	// never be sent, its event got too old.
	ReasonExhausted = "exhausted"
	ReasonRejected  = "rejected"
	ReasonExpired   = "expired"
	// ReasonUnsubscribed and ReasonDisabled are those of discarded ones: the subscription was deleted, or
	// disabled and does not want what waited.
	ReasonUnsubscribed = "unsubscribed"
	ReasonDisabled     = "disabled"
)

// DeadSelection says which dead deliveries of a subscription are meant; zero members do not restrict.
type DeadSelection struct {
	// Reason is why they are dead, EventType the type of their events.
	Reason    string
	EventType string
	// Since and Until bound the acceptance of their events: at Since or later, before Until.
	Since, Until time.Time
	// Rate is how many a second become due, 0.0001 to 100000; 0 makes all due at once.
	Rate float64
}

type deadRequest struct {
	Reason string    `json:"reason,omitempty"`
	Type   string    `json:"type,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Rate   float64   `json:"rate,omitempty"`
	DryRun bool      `json:"dryRun,omitempty"`
}

func (c *Client) retryDead(ctx context.Context, id string, s DeadSelection, dryRun bool, out any) error {
	path, err := join("/subscriptions", id, "retry")
	if err != nil {
		return err
	}
	return c.submit(ctx, http.MethodPost, path, deadRequest{s.Reason, s.EventType, s.Since.UTC(), s.Until.UTC(), s.Rate, dryRun}, out)
}

// RetryDead makes the dead deliveries of the subscription due that the selection names, and returns how many.
// It does not wait for them.
func (c *Client) RetryDead(ctx context.Context, id string, s DeadSelection) (int, error) {
	var out struct {
		Retried int `json:"retried"`
	}
	err := c.retryDead(ctx, id, s, false, &out)
	return out.Retried, err
}

// CountDead returns how many deliveries RetryDead would make due.
func (c *Client) CountDead(ctx context.Context, id string, s DeadSelection) (int, error) {
	var out struct {
		Count int `json:"count"`
	}
	err := c.retryDead(ctx, id, s, true, &out)
	return out.Count, err
}
