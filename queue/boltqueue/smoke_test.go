package boltqueue

import (
	"context"
	"testing"
	"time"

	"herald/queue"
)

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	q, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	<-q.Started()
	l := queue.Lane{1}
	r, err := q.Accept(ctx, []queue.Submission{{Event: queue.Event{AccountID: "a", Type: "t.x", Time: time.Now(), Data: []byte(`{}`)}, Lanes: []queue.Lane{l}}})
	t.Log(r, err)
	c, err := q.Claim(ctx, 10, func(queue.Lane) int { return 5 }, nil)
	t.Log(c, err)
	q.Settle(queue.Settlement{Delivery: c[0].Delivery, Attempt: &queue.Attempt{StartedAt: time.Now(), Class: queue.ClassRetry, Status: 500, Error: "x"}, State: queue.StateRetrying, Due: time.Now().Add(100 * time.Millisecond)})
	c, err = q.Claim(ctx, 10, func(queue.Lane) int { return 5 }, nil)
	t.Log(c, err)
	q.Settle(queue.Settlement{Delivery: c[0].Delivery, Attempt: &queue.Attempt{StartedAt: time.Now(), Class: queue.ClassDelivered, Status: 200}, State: queue.StateDelivered})
	time.Sleep(20 * time.Millisecond)
	d, a, err := q.Delivery(ctx, "a", c[0].Delivery)
	t.Logf("%+v %+v %v", d, a, err)
	t.Logf("%+v", q.Stats())
	if err := q.Check(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	t.Log(<-done, q.Close())
}
