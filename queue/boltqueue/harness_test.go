package boltqueue

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
)

// running opens a queue, runs it, and at the end of the test checks it and closes it.
func running(t testing.TB, o Options) *Queue {
	t.Helper()
	q, end := start(t, o)
	t.Cleanup(func() {
		if err := q.Check(context.Background()); err != nil {
			t.Errorf("check: %v", err)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// start opens and runs a queue; end stops and closes it.
func start(t testing.TB, o Options) (q *Queue, end func() error) {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), FileName)
	}
	q, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return q, run(q)
}

// run runs a queue that was opened; end stops and closes it.
func run(q *Queue) (end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	<-q.Started()
	return func() error {
		cancel()
		return errors.Join(<-done, q.Close())
	}
}

// inBubble runs a test in virtual time; the queues it opens must end within it.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

func event(n int, lanes ...queue.Lane) queue.Submission {
	return queue.Submission{
		Event: queue.Event{AccountID: "a", Type: "t.x", Time: time.Now(), Data: append([]byte(`{"n":`), byte('0'+n%10), '}')},
		Lanes: lanes,
	}
}

func anyRoom(queue.Lane) queue.Room { return queue.Room{Pushes: 1 << 20} }

func claimAll(t testing.TB, q *Queue, limit int) []queue.Claim {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	got, err := q.Claim(ctx, limit, anyRoom, nil)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	return got
}

func done(c queue.Claim) queue.Settlement {
	return queue.Settlement{
		Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StateDelivered,
		Attempt: &queue.Attempt{StartedAt: time.Now(), Class: queue.ClassDelivered, Status: 200},
	}
}
