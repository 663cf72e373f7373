package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"herald/queue"
)

// publishOperational makes an event of Herald's own durable for the subscriptions of the account that ask for
// such; nothing is stored when there are none. The id stands for the event: one that was published before a
// crash is not published again.
func (d *Daemon) publishOperational(ctx context.Context, accountID, eventType string, at time.Time, id string, data []byte) error {
	ids, _ := d.store.Select(accountID, eventType, "", data, nil)
	if len(ids) == 0 {
		return nil
	}
	lanes := make([]queue.Lane, len(ids))
	for i, s := range ids {
		lanes[i] = queue.Lane(s)
	}
	sum := sha256.Sum256(data)
	s := queue.Submission{
		Event: queue.Event{ID: id, AccountID: accountID, Type: eventType, Time: at.UTC(), Data: data},
		Lanes: lanes,
	}
	copy(s.Digest[:], sum[:])
	_, err := d.queue.Accept(ctx, []queue.Submission{s})
	if conflict := (*queue.ConflictError)(nil); errors.As(err, &conflict) {
		return nil // it was published, when the subscription still looked a little different
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", eventType, err)
	}
	return nil
}
