package dispatch_test

import (
	"context"
	"testing"
	"time"

	"herald/daemon/dispatch"
	"herald/queue"
	"herald/store"
)

// BenchmarkEngine is a delivery from its acceptance, in batches, to its durable settlement, with a
// receiver that answers after a millisecond.
func BenchmarkEngine(b *testing.B) {
	left := int64(b.N)
	send := func(ctx context.Context, _ *store.Subscription, _ queue.Push) queue.Outcome {
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
		return queue.Outcome{Class: queue.ClassDelivered, Status: 204}
	}
	h := build(b, dispatch.Options{Sender: sendFunc(send)})
	sub := h.subscribe(b, "https://example.com", nil)
	b.ReportAllocs()
	b.ResetTimer()
	for left > 0 {
		n := min(left, 100)
		h.publish(b, int(n), queue.Lane(sub.ID))
		left -= n
	}
	for {
		if s := h.queue.Stats(); s.Pending+s.Delivering == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	h.stop()
}
