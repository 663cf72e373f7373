package boltqueue

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// A lane is given up again, or dropped, in the commit in which what was given up before has been dealt with: the later word holds, and of
// both that it was dropped, also after a restart.
func TestGiveUpWhileGivingUp(t *testing.T) {
	discard := func(q *Queue, lane queue.Lane) error {
		return q.Discard(context.Background(), lane, queue.ReasonDisabled)
	}
	drop := func(q *Queue, lane queue.Lane) error { return q.DropLane(context.Background(), lane) }
	for _, c := range []struct {
		name   string
		again  []func(*Queue, queue.Lane) error
		reason string
	}{
		{"discarded", []func(*Queue, queue.Lane) error{discard}, queue.ReasonDisabled},
		{"dropped", []func(*Queue, queue.Lane) error{drop}, queue.ReasonUnsubscribed},
		{"dropped and discarded", []func(*Queue, queue.Lane) error{drop, discard}, queue.ReasonUnsubscribed},
		{"discarded and dropped", []func(*Queue, queue.Lane) error{discard, drop}, queue.ReasonDisabled},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Path: filepath.Join(t.TempDir(), FileName), NoPace: true}
			inBubble(t, func(t *testing.T) {
				q, end := start(t, o)
				lane := queue.Lane{1}
				try := func(fn func() error) {
					go func() {
						if err := fn(); err != nil {
							t.Error(err)
						}
					}()
					synctest.Wait()
				}
				accept := func() error {
					_, err := q.Accept(context.Background(), []queue.Submission{event(1, lane)})
					return err
				}
				// What is submitted until it is released comes in one commit.
				hold := func() (release func()) {
					held := make(chan struct{})
					try(func() error {
						return q.do(context.Background(), &operation{write: func(*bolt.Tx, *stage) error { <-held; return nil }})
					})
					return func() { close(held); synctest.Wait() }
				}
				try(accept)
				release := hold()
				try(func() error { return q.Discard(context.Background(), lane, "first") })
				next := hold()
				release()
				q.mu.Lock()
				l := q.lanes[lane]
				q.mu.Unlock()
				try(accept)
				for _, again := range c.again {
					try(func() error { return again(q, lane) })
				}
				try(func() error { _, err := q.convertPage(context.Background(), l); return err })
				next()
				for range 2 {
					if err := q.Check(t.Context()); err != nil {
						t.Error(err)
					}
					d, _, err := q.Delivery(t.Context(), "a", queue.DeliveryID{Seq: 2, Lane: lane})
					if err != nil || d.State != queue.StateDiscarded || d.Reason != c.reason {
						t.Errorf("%+v (%v)", d, err)
					}
					if err := end(); err != nil {
						t.Error(err)
					}
					q, end = start(t, o)
				}
				if err := end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
