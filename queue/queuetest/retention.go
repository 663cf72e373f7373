package queuetest

import (
	"bytes"
	"errors"
	"time"

	"herald/queue"
)

func retentionScenarios() []scenario {
	return []scenario{
		{"RetentionOfEvents", retentionEvents},
		{"RetentionOfDead", retentionDead},
		{"RetentionWaitsForLeases", retentionLeases},
		{"RetentionOfAttempts", retentionAttempts},
		{"RetentionByBytes", retentionBytes},
		{"RetentionOfIDs", retentionIDs},
		{"RetentionOfDroppedLanes", retentionLanes},
	}
}

// term is what ages are counted in here: long beside the two hours by which an engine may drop things later. An engine works
// through each second of it.
const term = 6 * time.Hour

// settleDown gives an engine the time that "within seconds" allows.
func settleDown(r *rig) {
	time.Sleep(20 * time.Second)
	r.rest()
}

func retentionEvents(r *rig) {
	r.configure(queue.Retention{Events: 2 * term, Attempts: 30 * term, Dead: 10 * term})
	ids := r.accept(submission(1, laneOf(1)), submission(2, laneOf(1)), submission(3, laneOf(1)), submission(4))
	got := r.claim(2)
	r.settle(delivered(got[0]), retrying(got[1], 3*term))
	r.step()
	time.Sleep(2*term - time.Minute)
	for i, id := range ids {
		if _, err := r.q.Event(r.t.Context(), account, id.ID); err != nil {
			r.t.Fatalf("event %d before its age: %v", i, err)
		}
	}
	r.step()
	time.Sleep(2 * time.Hour) // an engine may drop events in groups
	settleDown(r)
	r.step()
	r.none()
	if s := r.q.Stats(); s.Events != 0 || s.Pending != 0 || s.Retrying != 0 || s.Dead != 2 {
		r.t.Fatalf("stats: %+v", s)
	}
	_, _, err := r.q.Delivery(r.t.Context(), account, got[0].Delivery(0))
	r.wantErr(err, queue.ErrNotFound)
	for i, attempts := range []int{1, 0} {
		id := queue.DeliveryID{Seq: got[1].Deliveries[0].Seq + uint64(i), Lane: laneOf(1)}
		if d := r.want(id, queue.StateDead, attempts); d.Reason != queue.ReasonExpired {
			r.t.Errorf("reason %q", d.Reason)
		}
	}
	list, err := r.q.Events(r.t.Context(), queue.EventFilter{AccountID: account, Limit: 10})
	if err != nil || len(list) != 0 {
		r.t.Errorf("events: %v, %v", list, err)
	}
	dead, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{AccountID: account, Limit: 10})
	if err != nil || len(dead) != 2 {
		r.t.Errorf("deliveries: %v, %v", dead, err)
	}
}

func retentionDead(r *rig) {
	r.configure(queue.Retention{Events: term, Attempts: 30 * term, Dead: 5 * term})
	s := submission(1, laneOf(1), laneOf(2), laneOf(3))
	s.ID, s.Digest = "kept", [16]byte{1}
	r.accept(s, submission(2, laneOf(1)))
	var ss []queue.Settlement
	got := r.claim(4)
	for _, c := range got {
		ss = append(ss, dead(c))
	}
	r.settle(ss...)
	r.step()
	time.Sleep(term + 2*time.Hour)
	settleDown(r)
	r.step()
	r.wantStats(0, 0, 0, 4)
	ev, err := r.q.Event(r.t.Context(), account, "kept")
	if err != nil || string(ev.Data) != string(s.Data) {
		r.t.Fatalf("the event of a dead delivery: %v, %v", ev, err)
	}
	list, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{AccountID: account, EventID: "kept", Limit: 10})
	if err != nil || len(list) != 3 {
		r.t.Fatalf("its deliveries: %d, %v", len(list), err)
	}
	// It can still be tried again.
	if err := r.q.Retry(r.t.Context(), account, queue.DeliveryID{Seq: 1, Lane: laneOf(2)}); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	c := r.claimOne()
	if c.Deliveries[0].Event.ID != "kept" || c.Attempt != 2 || string(c.Deliveries[0].Event.Data) != string(s.Data) {
		r.t.Fatalf("%+v", c)
	}
	r.settle(delivered(c))
	r.step()
	r.want(c.Delivery(0), queue.StateDelivered, 2)
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(3), queue.DeadSelection{}); n != 1 || err != nil {
		r.t.Fatalf("RetryDead: %d, %v", n, err)
	}
	r.step()
	c = r.claimOne()
	r.settle(dead(c))
	r.step()
	r.want(c.Delivery(0), queue.StateDead, 2)
	time.Sleep(4 * term)
	settleDown(r)
	r.step()
	r.wantStats(0, 0, 0, 1)
	time.Sleep(2 * term)
	settleDown(r)
	r.step()
	r.wantStats(0, 0, 0, 0)
	_, err = r.q.Event(r.t.Context(), account, "kept")
	r.wantErr(err, queue.ErrNotFound)
	_, _, err = r.q.Delivery(r.t.Context(), account, c.Delivery(0))
	r.wantErr(err, queue.ErrNotFound)
}

func retentionLeases(r *rig) {
	r.configure(queue.Retention{Events: term, Attempts: term, Dead: 5 * term})
	r.accept(submission(1, laneOf(1)), submission(2, laneOf(1)))
	got := r.claim(2)
	time.Sleep(term + 2*time.Hour)
	settleDown(r)
	r.wantStats(0, 0, 2, 0)
	r.settle(delivered(got[0]), retrying(got[1], time.Hour))
	settleDown(r)
	r.step()
	r.wantStats(0, 0, 0, 1)
	_, _, err := r.q.Delivery(r.t.Context(), account, got[0].Delivery(0))
	r.wantErr(err, queue.ErrNotFound)
	d, _, err := r.q.Delivery(r.t.Context(), account, got[1].Delivery(0))
	if err != nil || d.State != queue.StateDead || d.Reason != queue.ReasonExpired || d.Attempts != 1 {
		r.t.Fatalf("%+v, %v", d, err)
	}
}

func retentionAttempts(r *rig) {
	r.configure(queue.Retention{Events: 10 * term, Attempts: term, Dead: 10 * term})
	r.accept(submission(1, laneOf(1)))
	c := r.claimOne()
	r.settle(delivered(c))
	r.step()
	r.want(c.Delivery(0), queue.StateDelivered, 1)
	time.Sleep(term + 2*time.Hour)
	settleDown(r)
	r.step()
	d, log, err := r.q.Delivery(r.t.Context(), account, c.Delivery(0))
	if err != nil || d.State != queue.StateDelivered || d.Attempts != 1 || len(log) != 0 {
		r.t.Fatalf("%+v with %d attempts in the log, %v", d, len(log), err)
	}
}

func retentionBytes(r *rig) {
	r.configure(queue.Retention{Events: 10 * term, Attempts: 10 * term, Dead: 10 * term, MaxBytes: 2 << 20})
	large := func(i int, lanes ...queue.Lane) queue.Submission {
		s := submission(i, lanes...)
		s.Data = append(append([]byte(`{"x":"`), bytes.Repeat([]byte("y"), 64<<10)...), `"}`...)
		return s
	}
	// Finished events make way, so a queue that delivers takes any number.
	for i := range 100 {
		r.accept(large(i, laneOf(1)))
		r.settle(delivered(r.claimOne()))
		if i%25 == 24 {
			r.step()
		}
	}
	settleDown(r)
	if s := r.q.Stats(); s.Events >= 100 || s.FileBytes-s.FreeBytes > 8<<20 {
		r.t.Fatalf("nothing was dropped: %+v", s)
	}
	// Undelivered ones do not.
	accepted := 0
	var err error
	for range 200 {
		if _, err = r.q.Accept(r.t.Context(), []queue.Submission{large(accepted, laneOf(1))}); err != nil {
			break
		}
		accepted++
		time.Sleep(time.Second)
	}
	if !errors.Is(err, queue.ErrFull) || accepted < 10 {
		r.t.Fatalf("after %d events over the limit: %v", accepted, err)
	}
	if r.q.Healthy() == nil {
		r.t.Error("the queue takes nothing and calls itself healthy")
	}
	r.step()
	got := r.claim(1000)
	if len(got) != accepted {
		r.t.Fatalf("%d of %d undelivered events are there", len(got), accepted)
	}
	var ss []queue.Settlement
	for _, c := range got {
		ss = append(ss, delivered(c))
	}
	r.settle(ss...)
	settleDown(r)
	r.accept(large(0, laneOf(1)))
	if err := r.q.Healthy(); err != nil {
		r.t.Errorf("with room again: %v", err)
	}
	// A new limit takes effect within seconds.
	r.configure(queue.Retention{Events: 10 * term, Attempts: 10 * term, Dead: 10 * term})
	settleDown(r)
	for i := range 50 {
		r.accept(large(i, laneOf(1)))
	}
}

func retentionIDs(r *rig) {
	r.configure(queue.Retention{Events: 10 * time.Hour, Attempts: term, Dead: term})
	s := submission(1)
	s.ID, s.Digest = "again", [16]byte{1}
	for range 3 {
		if got := r.accept(s); got[0].Duplicate {
			r.t.Fatal("an id counts as used after its event is gone")
		}
		r.step()
		time.Sleep(9 * time.Hour)
		if got := r.accept(s); !got[0].Duplicate {
			r.t.Fatal("a repeat was stored while the event is retained")
		}
		s.Digest[0]++
		_, err := r.q.Accept(r.t.Context(), []queue.Submission{s})
		if _, ok := errors.AsType[*queue.ConflictError](err); !ok {
			r.t.Fatalf("another content: %v", err)
		}
		time.Sleep(4 * time.Hour)
		settleDown(r)
		_, err = r.q.Event(r.t.Context(), account, "again")
		r.wantErr(err, queue.ErrNotFound)
		r.step()
	}
}

func retentionLanes(r *rig) {
	r.configure(queue.Retention{Events: term, Attempts: term, Dead: term})
	r.accept(submission(1, laneOf(1), laneOf(2)))
	if err := r.q.DropLane(r.t.Context(), laneOf(1)); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	time.Sleep(4 * term)
	settleDown(r)
	r.step()
	lanes, err := r.q.Lanes(r.t.Context())
	if err != nil || len(lanes) != 1 || lanes[0] != laneOf(2) {
		r.t.Fatalf("lanes are %v, %v", lanes, err)
	}
	r.wantStats(0, 0, 0, 0)
}
