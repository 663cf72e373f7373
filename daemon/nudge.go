package daemon

import (
	"context"

	"herald/queue"
)

// nudging is the queue as the API sees it: who retries a delivery by hand wants to see an attempt now, not when
// the receiver's rest is over or the next probe of its circuit breaker is due.
type nudging struct {
	queue.Queue
	nudge func(queue.Lane)
}

// Retry implements queue.Queue.
func (n nudging) Retry(ctx context.Context, accountID string, id queue.DeliveryID) error {
	err := n.Queue.Retry(ctx, accountID, id)
	if err == nil {
		n.nudge(id.Lane)
	}
	return err
}

// RetryDead implements queue.Queue.
func (n nudging) RetryDead(ctx context.Context, lane queue.Lane, s queue.DeadSelection) (int, error) {
	count, err := n.Queue.RetryDead(ctx, lane, s)
	if count > 0 && !s.DryRun {
		n.nudge(lane)
	}
	return count, err
}
