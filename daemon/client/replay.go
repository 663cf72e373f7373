package client

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// The states of a replay.
const (
	// ReplayRunning has deliveries to make due, or some that were not tried yet.
	ReplayRunning = "running"
	// ReplayDone has come to its end, ReplayCancelled was ended before that.
	ReplayDone      = "done"
	ReplayCancelled = "cancelled"
)

// ReplayInput says which events are to be delivered again: those of a Date, or those accepted at Since or later and before
// Until.
type ReplayInput struct {
	// Date is a day in UTC such as 2026-11-21, instead of Since and Until.
	Date string
	// Until may be zero, for all up to now.
	Since, Until time.Time
	// Failed: only what was tried or given up and has not arrived.
	Failed bool
	// Rate is how many deliveries a second become due, 0.0001 to 100000; 0 means 1000.
	Rate float64
}

// Replay is a replay as it stands.
type Replay struct {
	ID string `json:"id"`
	// State is one of the Replay constants.
	State string    `json:"state"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Outcome is "failed" when only what has not arrived is replayed, else "".
	Outcome string  `json:"outcome,omitempty"`
	Rate    float64 `json:"rate"`
	// Deliveries is how many became due so far, ReachedAt when the last event it has looked at was accepted; zero before
	// the first.
	Deliveries int64     `json:"deliveries"`
	ReachedAt  time.Time `json:"reachedAt,omitzero"`
	CreatedAt  time.Time `json:"createdAt"`
	// EndedAt is when it was done or cancelled; zero while it runs.
	EndedAt time.Time `json:"endedAt,omitzero"`
}

type replayRequest struct {
	Date    string    `json:"date,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero"`
	Outcome string    `json:"outcome,omitempty"`
	Rate    float64   `json:"rate,omitempty"`
	DryRun  bool      `json:"dryRun,omitempty"`
}

func (c *Client) replay(ctx context.Context, id string, in ReplayInput, dryRun bool, out any) error {
	path, err := join("/subscriptions", id, "replay")
	if err != nil {
		return err
	}
	r := replayRequest{Date: in.Date, Since: in.Since.UTC(), Until: in.Until.UTC(), Rate: in.Rate, DryRun: dryRun}
	if in.Failed {
		r.Outcome = "failed"
	}
	return c.submit(ctx, http.MethodPost, path, r, out)
}

// Replay has events delivered to the subscription again, behind live traffic, and returns the replay as it begins. It
// does not wait for it.
func (c *Client) Replay(ctx context.Context, id string, in ReplayInput) (Replay, error) {
	var out Replay
	err := c.replay(ctx, id, in, false, &out)
	return out, err
}

// CountReplay returns how many deliveries Replay would make due.
func (c *Client) CountReplay(ctx context.Context, id string, in ReplayInput) (int, error) {
	var out struct {
		Count int `json:"count"`
	}
	err := c.replay(ctx, id, in, true, &out)
	return out.Count, err
}

// Replays lists the replays of a subscription, newest first: those that run, and the last 20 that have ended.
func (c *Client) Replays(ctx context.Context, id string) iter.Seq2[Replay, error] {
	path, err := join("/subscriptions", id, "replays")
	if err != nil {
		return func(yield func(Replay, error) bool) { yield(Replay{}, err) }
	}
	return list[Replay](ctx, c, path, nil)
}

// ReplayByID returns one replay of a subscription.
func (c *Client) ReplayByID(ctx context.Context, id, replayID string) (Replay, error) {
	var out Replay
	path, err := join("/subscriptions", id, "replays", replayID)
	if err == nil {
		err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	}
	return out, err
}

// CancelReplay ends a replay. What it has made due and was not tried yet is as it was before; one that has ended stays as it is.
func (c *Client) CancelReplay(ctx context.Context, id, replayID string) error {
	path, err := join("/subscriptions", id, "replays", replayID)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}
