package boltqueue

import (
	"sync"
	"testing"
	"time"

	"herald/queue"
)

// Readers go on beside commits, which put longer segments in place of what is read: for the race detector.
func TestReadersBesideCommits(t *testing.T) {
	lane := queue.Lane{1}
	q := running(t, Options{NoPace: true, Retention: queue.Retention{Events: time.Hour}})
	receipts, err := q.Accept(t.Context(), []queue.Submission{event(0, lane)})
	if err != nil {
		t.Fatal(err)
	}
	id := receipts[0].ID
	pending, err := q.Deliveries(t.Context(), queue.DeliveryFilter{Lane: lane, Limit: 1})
	if err != nil || len(pending) != 1 {
		t.Fatal(pending, err)
	}
	read := map[string]func() error{
		"delivery": func() error {
			_, _, err := q.Delivery(t.Context(), "a", pending[0].ID)
			return err
		},
		"deliveries": func() error {
			_, err := q.Deliveries(t.Context(), queue.DeliveryFilter{AccountID: "a", Lane: lane, Limit: 10})
			return err
		},
		"event": func() error {
			_, err := q.Event(t.Context(), "a", id)
			return err
		},
		"events": func() error {
			_, err := q.Events(t.Context(), queue.EventFilter{AccountID: "a", Limit: 10})
			return err
		},
		"counts": func() error {
			q.Stats()
			q.LaneStats(lane)
			return nil
		},
	}
	over := make(chan struct{})
	var wg sync.WaitGroup
	for name, one := range read {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if err := one(); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	for i := range 100 {
		if _, err := q.Accept(t.Context(), []queue.Submission{event(i, lane)}); err != nil {
			t.Error(err)
			break
		}
	}
	close(over)
	wg.Wait()
}
