package daemon

import (
	"context"

	"herald/queue"
	"herald/store"
)

// nudging is the queue as the API sees it: who retries a delivery by hand, asks for a test push or starts a replay wants to see
// an attempt now, not when the receiver's rest is over, the next probe of its circuit breaker is due, or a batch is full.
type nudging struct {
	queue.Queue
	nudge    func(queue.Lane)
	replayed func()
}

// Accept implements queue.Queue.
func (n nudging) Accept(ctx context.Context, subs []queue.Submission) ([]queue.Receipt, error) {
	receipts, err := n.Queue.Accept(ctx, subs)
	if err == nil && len(subs) == 1 && subs[0].Type == store.PingType {
		for _, lane := range subs[0].Lanes {
			n.nudge(lane)
		}
	}
	return receipts, err
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

// StartReplay implements queue.Queue.
func (n nudging) StartReplay(ctx context.Context, r queue.Replay) (queue.Replay, error) {
	made, err := n.Queue.StartReplay(ctx, r)
	if err == nil {
		n.replayed()
	}
	return made, err
}
