package boltqueue

import (
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"herald/queue"
	"herald/store/boltkit"
)

// A commit is in the file a moment before memory counts it. In that moment too a list has a delivery under the one state that the
// delivery has when it is read by itself.
func TestListsBetweenFileAndMemory(t *testing.T) {
	t.Parallel()
	settled := func(state queue.State, due time.Time) func(*testing.T, *Queue, queue.Claim) {
		return func(_ *testing.T, q *Queue, c queue.Claim) {
			q.Settle(queue.Settlement{
				Lane: c.Lane, Deliveries: c.Deliveries, State: state, Due: due,
				Attempt: &queue.Attempt{StartedAt: time.Now(), Class: queue.ClassRejected, Status: 500},
			})
		}
	}
	for name, step := range map[string]func(*testing.T, *Queue, queue.Claim){
		"delivered": settled(queue.StateDelivered, time.Time{}),
		"discarded": settled(queue.StateDiscarded, time.Time{}),
		"dead":      settled(queue.StateDead, time.Time{}),
		"retrying":  settled(queue.StateRetrying, time.Now().Add(time.Hour)),
		"dead, then retried by hand": func(t *testing.T, q *Queue, c queue.Claim) {
			settled(queue.StateDead, time.Time{})(t, q, c)
			if err := errors.Join(q.Commit(t.Context()), q.Retry(t.Context(), "", c.Delivery(0))); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, err := Open(Options{Path: filepath.Join(t.TempDir(), FileName), NoPace: true})
			if err != nil {
				t.Fatal(err)
			}
			var claim atomic.Pointer[queue.Claim]
			q.commits = boltkit.NewCommitter(boltkit.CommitterOptions[work]{
				DB: q.db, Apply: q.apply, Cost: cost, Keep: mustKeep,
				Settled: func(batch []work, err error) {
					if c := claim.Load(); c != nil {
						q.listedAlike(t, c.Delivery(0))
					}
					q.settled(batch, err)
				},
			})
			end := run(q)
			if _, err := q.Accept(t.Context(), []queue.Submission{event(1, queue.Lane{1})}); err != nil {
				t.Fatal(err)
			}
			c := claimAll(t, q, 1)[0]
			claim.Store(&c)
			step(t, q, c)
			if err := errors.Join(q.Commit(t.Context()), end()); err != nil {
				t.Error(err)
			}
		})
	}
}

// listedAlike fails the test unless every list has the delivery, or has it not, as its state says.
func (q *Queue) listedAlike(t *testing.T, id queue.DeliveryID) {
	d, _, err := q.Delivery(t.Context(), "", id)
	if err != nil {
		t.Error(err)
		return
	}
	is := func(d *queue.Delivery) bool { return d.ID == id }
	for _, state := range []queue.State{
		"", queue.StatePending, queue.StateDelivering, queue.StateDelivered, queue.StateRetrying, queue.StateDead, queue.StateHeld, queue.StateDiscarded,
	} {
		for _, f := range []queue.DeliveryFilter{{State: state}, {State: state, Lane: id.Lane}, {State: state, EventID: d.EventID}} {
			f.Limit = 9
			list, err := q.Deliveries(t.Context(), f)
			if found := slices.ContainsFunc(list, is); err != nil || found != (state == "" || state == d.State) {
				t.Errorf("a delivery that is %s is in the list of %+v: %t, %v", d.State, f, found, err)
			}
		}
	}
}
