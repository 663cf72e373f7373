package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// The states of a delivery.
const (
	DeliveryPending    = "pending"
	DeliveryDelivering = "delivering"
	DeliveryDelivered  = "delivered"
	DeliveryRetrying   = "retrying"
	DeliveryDead       = "dead"
	DeliveryHeld       = "held"
	DeliveryDiscarded  = "discarded"
)

// Delivery is one event for one subscription, as it stands.
type Delivery struct {
	ID             string `json:"id"`
	EventID        string `json:"eventId"`
	EventType      string `json:"eventType"`
	SubscriptionID string `json:"subscriptionId"`
	// State is one of the Delivery constants; Reason tells why, for dead and discarded ones.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// AttemptCount is how many tries were made.
	AttemptCount int       `json:"attemptCount"`
	AcceptedAt   time.Time `json:"acceptedAt,omitzero"`
	// NextAttemptAt is set while State is DeliveryRetrying.
	NextAttemptAt time.Time `json:"nextAttemptAt,omitzero"`
	// Attempts are the retained tries, oldest first; set by Client.Delivery only.
	Attempts []Attempt `json:"attempts,omitempty"`
}

// Attempt is one HTTP try of a delivery.
type Attempt struct {
	// Number counts from 1.
	Number int `json:"number"`
	// Time is when it began; DurationMs how long it took, in milliseconds.
	Time       time.Time `json:"time"`
	DurationMs float64   `json:"durationMs"`
	// Status is the HTTP status, 0 when there was no response.
	Status int `json:"status,omitempty"`
	// Outcome is the class of the result: delivered, retry, rejected, gone or misconfigured.
	Outcome string `json:"outcome"`
	// Error says in words what went wrong; Response is the beginning of the receiver's answer.
	Error    string `json:"error,omitempty"`
	Response string `json:"response,omitempty"`
}

// DeliveryFilter selects deliveries for a listing; zero members do not restrict.
type DeliveryFilter struct {
	// Subscription and Event are ids, State is one of the Delivery constants, Reason one of the Reason constants.
	Subscription string
	Event        string
	State        string
	Reason       string
	// Since: only of events accepted at this time or later.
	Since time.Time
	// After is the id of the last delivery that is not wanted again.
	After string
	// PageSize is how many are asked for at a time, 1 to 1000; 0 means the daemon's default of 100.
	PageSize int
}

// Deliveries lists deliveries, newest event first, from page to page until the caller stops or the
// oldest is reached. Needs the subscribe scope, as all calls on deliveries do.
func (c *Client) Deliveries(ctx context.Context, f DeliveryFilter) iter.Seq2[Delivery, error] {
	q := url.Values{}
	for name, value := range map[string]string{"subscription": f.Subscription, "event": f.Event, "state": f.State, "reason": f.Reason} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	paging(q, f.PageSize, f.After)
	return list[Delivery](ctx, c, "/deliveries", q)
}

// Delivery returns one delivery with its attempts.
func (c *Client) Delivery(ctx context.Context, id string) (Delivery, error) {
	var out Delivery
	path, err := join("/deliveries", id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// RetryDelivery makes a delivery due now, whatever its state, and its schedule begin anew.
func (c *Client) RetryDelivery(ctx context.Context, id string) (Delivery, error) {
	var out Delivery
	path, err := join("/deliveries", id, "retry")
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodPost, path: path}, &out)
	return out, err
}
