package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing/synctest"
	"time"

	"herald/queue"
)

func acceptScenarios() []scenario {
	return []scenario{
		{"AcceptKeepsEverything", acceptKeepsEverything},
		{"AcceptIsRepeatable", acceptIsRepeatable},
		{"AcceptNumbersInOrder", acceptNumbersInOrder},
		{"AcceptAllOrNone", acceptAllOrNone},
		{"AcceptRepeatsWithinOneCommit", acceptWithinOneCommit},
		{"AcceptIDsThatLookGiven", acceptIDsThatLookGiven},
		{"ClosedOutsideRun", closedOutsideRun},
		{"ContextsThatEnded", contextsThatEnded},
	}
}

func acceptKeepsEverything(r *rig) {
	before := time.Now()
	long := strings.Repeat("x", queue.MaxIDLength)
	subs := []queue.Submission{submission(0, laneOf(1)), submission(1), submission(2, laneOf(1), laneOf(2))}
	subs[1].ID = long
	subs[2].Data = bytes.Repeat([]byte(`{"a":"é\u0000  "}`), 3000)
	subs[2].Resource = ""
	subs[2].Time = time.Date(1969, 1, 1, 0, 0, 0, 5, time.UTC)
	subs[0].Attributes = []byte(`{"id":"1","source":"/é"}`)
	subs[0].Trace, subs[1].Trace = &queue.Trace{Parent: "parent", State: "state"}, &queue.Trace{Parent: "parent"}
	subs[0].Time = time.Date(2026, 1, 1, 0, 0, 0, 999_999_999, time.UTC)
	receipts := r.accept(subs...)
	for i := range subs {
		r.step()
		ev, err := r.q.Event(r.t.Context(), account, receipts[i].ID)
		if err != nil {
			r.t.Fatalf("Event %d: %v", i, err)
		}
		want := subs[i].Event
		switch {
		case ev.ID != receipts[i].ID || receipts[i].Duplicate:
			r.t.Errorf("event %d: id %q, receipt %+v", i, ev.ID, receipts[i])
		case i == 1 && ev.ID != long:
			r.t.Errorf("the publisher's id became %q", ev.ID)
		case i != 1 && (len(ev.ID) != 30 || !strings.HasPrefix(ev.ID, "evt_")):
			r.t.Errorf("the id given is %q", ev.ID)
		case !bytes.Equal(ev.Data, want.Data) || string(ev.Attributes) != string(want.Attributes) || !reflect.DeepEqual(ev.Trace, want.Trace) || ev.Type != want.Type || ev.Resource != want.Resource || ev.AccountID != account || !ev.Time.Equal(want.Time):
			r.t.Errorf("event %d came back as %+v", i, ev)
		case ev.AcceptedAt.Before(before.Truncate(time.Millisecond)) || ev.AcceptedAt.After(time.Now()) || ev.AcceptedAt.Location() != time.UTC || ev.AcceptedAt.Nanosecond()%1e6 != 0:
			r.t.Errorf("event %d was accepted at %v", i, ev.AcceptedAt)
		}
		_, err = r.q.Event(r.t.Context(), "other", receipts[i].ID)
		r.wantErr(err, queue.ErrNotFound)
	}
	if s := r.q.Stats(); s.Events != 3 || s.Pending != 3 {
		r.t.Errorf("stats: %+v", s)
	}
	_, err := r.q.Event(r.t.Context(), account, "evt_00000000000000000000000000")
	r.wantErr(err, queue.ErrNotFound)
	tooLong := submission(4)
	tooLong.ID = long + "x"
	if _, err := r.q.Accept(r.t.Context(), []queue.Submission{tooLong}); err == nil {
		r.t.Error("an id over MaxIDLength was accepted")
	}
}

func named(n int, id string, digest byte, lanes ...queue.Lane) queue.Submission {
	s := submission(n, lanes...)
	s.ID, s.Digest = id, [16]byte{digest}
	return s
}

func acceptIsRepeatable(r *rig) {
	first := r.accept(named(1, "order-1", 1, laneOf(1)))
	r.step()
	again := r.accept(named(1, "order-1", 1, laneOf(1)), submission(2, laneOf(1)))
	if first[0].Duplicate || !again[0].Duplicate || again[0].ID != "order-1" || again[1].Duplicate {
		r.t.Fatalf("receipts %v, then %v", first, again)
	}
	r.step()
	_, err := r.q.Accept(r.t.Context(), []queue.Submission{submission(3, laneOf(1)), named(1, "order-1", 2, laneOf(1))})
	var conflict *queue.ConflictError
	if !errors.As(err, &conflict) || conflict.Index != 1 || conflict.ID != "order-1" {
		r.t.Fatalf("another content for the same id: %v", err)
	}
	r.step()
	other := named(1, "order-1", 2, laneOf(1))
	other.AccountID = "other"
	if got := r.accept(other); got[0].Duplicate {
		r.t.Fatal("another account's id counts as ours")
	}
	if s := r.q.Stats(); s.Events != 3 || s.Pending != 3 {
		r.t.Fatalf("stats: %+v", s)
	}
}

// acceptNumbersInOrder accepts, among others, more events in one call than an engine keeps together.
func acceptNumbersInOrder(r *rig) {
	next := uint64(1)
	for _, n := range []int{1, 3, 9000, 2} {
		subs := make([]queue.Submission, n)
		for i := range subs {
			subs[i] = submission(i)
			subs[i].Seq = 77 // which says nothing
		}
		subs[n-1].Lanes = []queue.Lane{laneOf(1)}
		subs[n/2].ID = fmt.Sprint("middle of ", n)
		stored := make([]queue.Submission, 0, n+1)
		stored = append(stored, subs[:n/2]...)
		if next > 1 {
			stored = append(stored, named(0, "middle of 1", 0)) // a duplicate takes no number
		}
		receipts := r.accept(append(stored, subs[n/2:]...)...)
		r.step()
		c := r.claimOne()
		if last := c.Deliveries[0]; last.Seq != next+uint64(n)-1 || last.Event.Seq != last.Seq {
			r.t.Fatalf("the last of %d events after %d has number %d, and %d at its event", n, next-1, last.Seq, last.Event.Seq)
		}
		r.settle(dead(c))
		for i, receipt := range receipts {
			if receipt.Duplicate {
				continue
			}
			if i%500 == 0 || i == n/2+1 || i == len(receipts)-1 {
				if ev, err := r.q.Event(r.t.Context(), account, receipt.ID); err != nil || ev.Seq != next {
					r.t.Fatalf("event %s of %d is %+v (%v), want number %d", receipt.ID, n, ev, err, next)
				}
			}
			next++
		}
	}
	list, err := r.q.Events(r.t.Context(), queue.EventFilter{AccountID: account, Limit: int(next)})
	if err != nil || len(list) != int(next)-1 {
		r.t.Fatalf("%d events are listed of %d (%v)", len(list), next-1, err)
	}
	for i, ev := range list {
		if ev.Seq != next-1-uint64(i) {
			r.t.Fatalf("event %d has number %d", i, ev.Seq)
		}
	}
}

func acceptAllOrNone(r *rig) {
	r.accept(named(1, "a", 1))
	r.step()
	for i, subs := range [][]queue.Submission{
		{submission(1, laneOf(1)), named(2, "b", 1, laneOf(1)), named(3, "b", 2, laneOf(1))},
		{submission(1, laneOf(1)), named(2, "c", 1, laneOf(1)), named(3, "a", 2, laneOf(1))},
	} {
		_, err := r.q.Accept(r.t.Context(), subs)
		var conflict *queue.ConflictError
		if !errors.As(err, &conflict) || conflict.Index != 2 {
			r.t.Fatalf("case %d: %v", i, err)
		}
	}
	for _, id := range []string{"b", "c"} {
		_, err := r.q.Event(r.t.Context(), account, id)
		r.wantErr(err, queue.ErrNotFound)
	}
	r.none()
	r.step()
	got := r.accept(named(2, "b", 1, laneOf(1)), submission(1), named(2, "b", 1, laneOf(1)))
	if got[0].Duplicate || !got[2].Duplicate || got[2].ID != "b" {
		r.t.Fatalf("a repeat within one call: %v", got)
	}
	if s := r.q.Stats(); s.Events != 3 || s.Pending != 1 {
		r.t.Fatalf("stats: %+v", s)
	}
}

func acceptWithinOneCommit(r *rig) {
	type answer struct {
		receipts []queue.Receipt
		err      error
	}
	answers := make(chan answer, 40)
	for i := range 40 {
		go func() {
			digest := byte(1)
			if i%4 == 3 {
				digest = 2
			}
			receipts, err := r.q.Accept(r.t.Context(), []queue.Submission{named(i, "same", digest, laneOf(1)), submission(i, laneOf(2))})
			answers <- answer{receipts, err}
		}()
	}
	stored, repeated, refused := 0, 0, 0
	for range 40 {
		a := <-answers
		var conflict *queue.ConflictError
		switch {
		case errors.As(a.err, &conflict):
			refused++
		case a.err != nil:
			r.t.Fatal(a.err)
		case a.receipts[0].Duplicate:
			repeated++
		default:
			stored++
		}
	}
	if stored != 1 || refused != 10 && refused != 30 {
		r.t.Errorf("%d stored, %d repeats, %d refused", stored, repeated, refused)
	}
	r.step()
	if s := r.q.Stats(); s.Pending != int64(1+stored+repeated) {
		r.t.Errorf("stats: %+v", s)
	}
}

func acceptIDsThatLookGiven(r *rig) {
	given := r.accept(submission(1, laneOf(1)))[0].ID
	r.step()
	_, err := r.q.Accept(r.t.Context(), []queue.Submission{named(1, given, 1)})
	if _, ok := errors.AsType[*queue.ConflictError](err); !ok {
		r.t.Fatalf("an id the queue gave was taken again: %v", err)
	}
	// Ids of the same form that the queue never gave, of a number that exists and of one that does not.
	for i, id := range []string{given[:29] + "0", "evt_" + strings.Repeat("v", 26), strings.ToUpper(given)} {
		if id == given {
			id = given[:29] + "4"
		}
		r.step()
		if got := r.accept(named(i, id, 7, laneOf(1))); got[0].Duplicate || got[0].ID != id {
			r.t.Fatalf("%s: %v", id, got)
		}
		r.step()
		if got := r.accept(named(i, id, 7, laneOf(1))); !got[0].Duplicate {
			r.t.Fatalf("%s: its repeat was stored", id)
		}
		ev, err := r.q.Event(r.t.Context(), account, id)
		if err != nil || ev.ID != id {
			r.t.Fatalf("%s: %v %v", id, ev, err)
		}
	}
	if ev, err := r.q.Event(r.t.Context(), account, given); err != nil || ev.ID != given {
		r.t.Fatalf("the event of the queue's own id: %v %v", ev, err)
	}
}

// closedOutsideRun checks every method of an engine that does not run yet, and does not run any more.
func closedOutsideRun(r *rig) {
	id := r.accept(submission(1, laneOf(1)))[0].ID
	r.rest()
	old := r.q
	r.stop()
	closed := func(q Engine) {
		ctx := r.t.Context()
		for name, call := range map[string]func() error{
			"Accept":    func() error { _, err := q.Accept(ctx, []queue.Submission{submission(1)}); return err },
			"Claim":     func() error { _, err := q.Claim(ctx, 1, unlimited, nil); return err },
			"Retry":     func() error { return q.Retry(ctx, "", queue.DeliveryID{Seq: 1, Lane: laneOf(1)}) },
			"RetryDead": func() error { _, err := q.RetryDead(ctx, laneOf(1), queue.DeadSelection{}); return err },
			"DropLane":  func() error { return q.DropLane(ctx, laneOf(1)) },
			"Lanes":     func() error { _, err := q.Lanes(ctx); return err },
			"Event":     func() error { _, err := q.Event(ctx, account, id); return err },
			"Events":    func() error { _, err := q.Events(ctx, queue.EventFilter{Limit: 1}); return err },
			"Delivery": func() error {
				_, _, err := q.Delivery(ctx, "", queue.DeliveryID{Seq: 1, Lane: laneOf(1)})
				return err
			},
			"Deliveries": func() error { _, err := q.Deliveries(ctx, queue.DeliveryFilter{Limit: 1}); return err },
			"Healthy":    q.Healthy,
			"Check":      func() error { return q.Check(ctx) },
		} {
			if err := call(); !errors.Is(err, queue.ErrClosed) {
				r.t.Errorf("%s outside of Run: %v", name, err)
			}
		}
		q.Settle(queue.Settlement{Lane: laneOf(1), Deliveries: []queue.Leased{{Seq: 1}}, State: queue.StateDead})
		q.Wake(laneOf(1))
		q.Stats()
	}
	closed(old)
	q := r.open(r.t, r.dir)
	closed(q)
	if err := q.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
	// A Claim that waits returns when the engine ends.
	r.settle(delivered(r.claimOne()))
	result := make(chan error)
	go func() {
		_, err := r.q.Claim(context.Background(), 1, unlimited, nil)
		result <- err
	}()
	synctest.Wait()
	r.cancel()
	r.wantErr(<-result, queue.ErrClosed)
	r.stop()
	r.start()
}

func contextsThatEnded(r *rig) {
	ctx, cancel := context.WithCancel(r.t.Context())
	cancel()
	id := queue.DeliveryID{Seq: 1, Lane: laneOf(1)}
	for name, call := range map[string]func() error{
		"Accept":     func() error { _, err := r.q.Accept(ctx, []queue.Submission{submission(1)}); return err },
		"Claim":      func() error { _, err := r.q.Claim(ctx, 1, unlimited, nil); return err },
		"Events":     func() error { _, err := r.q.Events(ctx, queue.EventFilter{Limit: 1}); return err },
		"Deliveries": func() error { _, err := r.q.Deliveries(ctx, queue.DeliveryFilter{Limit: 1}); return err },
		"Delivery":   func() error { _, _, err := r.q.Delivery(ctx, "", id); return err },
		"Retry":      func() error { return r.q.Retry(ctx, "", id) },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			r.t.Errorf("%s with a context that ended: %v", name, fmt.Sprint(err))
		}
	}
}
