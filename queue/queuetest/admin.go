package queuetest

import (
	"slices"
	"time"

	"herald/queue"
)

func adminScenarios() []scenario {
	return []scenario{
		{"RetryWhateverTheState", retryStates},
		{"RetryOfWhatIsNotThere", retryMissing},
		{"RetryDeadOfALane", retryDead},
		{"DropLane", dropLane},
		{"DropLaneWithManyRetries", dropManyRetries},
		{"Stats", stats},
	}
}

func retryStates(r *rig) {
	r.accept(submission(0, laneOf(1)), submission(1, laneOf(1)), submission(2, laneOf(1)), submission(3, laneOf(1)))
	got := r.claim(4)
	r.settle(delivered(got[0]), dead(got[1]), retrying(got[3], 10*time.Hour),
		queue.Settlement{Lane: got[2].Lane, Deliveries: got[2].Deliveries, Attempt: attempt(queue.ClassGone, 410), State: queue.StateDiscarded, Reason: queue.ReasonUnsubscribed})
	r.step()
	for i, c := range got {
		if err := r.q.Retry(r.t.Context(), account, c.Delivery(0)); err != nil {
			r.t.Fatalf("Retry %d: %v", i, err)
		}
		r.step()
		r.want(c.Delivery(0), queue.StateRetrying, 1)
		again := r.claimOne()
		if again.Delivery(0) != c.Delivery(0) || again.Attempt != 2 || again.Retries != 0 {
			r.t.Fatalf("retried %d: %+v", i, again)
		}
		// Under way: left as it is.
		if err := r.q.Retry(r.t.Context(), "", c.Delivery(0)); err != nil {
			r.t.Fatal(err)
		}
		r.none()
		r.settle(retrying(again, time.Hour))
		r.step()
		// The scheduled retry is replaced, and the schedule begins anew.
		if err := r.q.Retry(r.t.Context(), "", c.Delivery(0)); err != nil {
			r.t.Fatal(err)
		}
		r.step()
		third := r.claimOne()
		if third.Attempt != 3 || third.Retries != 0 {
			r.t.Fatalf("retried again %d: %+v", i, third)
		}
		r.settle(delivered(third))
		r.step()
		r.want(c.Delivery(0), queue.StateDelivered, 3)
	}
	time.Sleep(11 * time.Hour)
	r.none()
	r.accept(submission(5, laneOf(2)))
	id := queue.DeliveryID{Seq: got[3].Deliveries[0].Seq + 1, Lane: laneOf(2)}
	if err := r.q.Retry(r.t.Context(), account, id); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	r.want(id, queue.StatePending, 0)
	r.claimOne()
	r.none()
}

func retryMissing(r *rig) {
	r.accept(submission(0, laneOf(1), laneOf(2)))
	id := queue.DeliveryID{Seq: 1, Lane: laneOf(1)}
	r.step()
	for _, c := range []struct {
		account string
		id      queue.DeliveryID
	}{
		{"other", id},
		{account, queue.DeliveryID{Seq: 2, Lane: laneOf(1)}},
		{account, queue.DeliveryID{Seq: 0, Lane: laneOf(1)}},
		{account, queue.DeliveryID{Seq: 1 << 63, Lane: laneOf(1)}},
		{account, queue.DeliveryID{Seq: 1, Lane: laneOf(3)}},
		{account, queue.DeliveryID{}},
	} {
		r.wantErr(r.q.Retry(r.t.Context(), c.account, c.id), queue.ErrNotFound)
	}
	if err := r.q.DropLane(r.t.Context(), laneOf(2)); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	r.wantErr(r.q.Retry(r.t.Context(), account, queue.DeliveryID{Seq: 1, Lane: laneOf(2)}), queue.ErrGone)
	r.claimOne()
}

func retryDead(r *rig) {
	const n = 2300
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = submission(i, laneOf(1), laneOf(2))
	}
	r.accept(subs...)
	var ss []queue.Settlement
	for _, c := range r.claim(2 * n) {
		if c.Deliveries[0].Seq%10 == 0 {
			ss = append(ss, delivered(c))
		} else {
			ss = append(ss, dead(c))
		}
	}
	r.settle(ss...)
	r.step()
	r.wantStats(0, 0, 0, 2*n*9/10)
	for range 2 {
		got, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{})
		if err != nil {
			r.t.Fatal(err)
		}
		if want := n * 9 / 10; got != want && r.q.Stats().Retrying == 0 {
			r.t.Fatalf("RetryDead made %d of %d due", got, want)
		}
		r.step()
		r.wantStats(0, n*9/10, 0, n*9/10)
	}
	got := r.claim(2 * n)
	if len(got) != n*9/10 {
		r.t.Fatalf("%d came", len(got))
	}
	for _, c := range got {
		if c.Lane != laneOf(1) || c.Attempt != 2 || c.Retries != 0 {
			r.t.Fatalf("%+v", c)
		}
	}
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(9), queue.DeadSelection{}); n != 0 || err != nil {
		r.t.Fatalf("RetryDead of a lane nobody knows: %d, %v", n, err)
	}
}

func dropLane(r *rig) {
	for i := range 5 {
		r.accept(submission(i, laneOf(1), laneOf(2)))
	}
	one := r.claimWith(5, roomOnce(map[queue.Lane]int{laneOf(1): 4}))
	r.q.Wake(laneOf(2))
	r.settle(delivered(one[0]), retrying(one[1], time.Minute), dead(one[2]))
	for range 2 {
		if err := r.q.DropLane(r.t.Context(), laneOf(1)); err != nil {
			r.t.Fatal(err)
		}
	}
	// The fourth is leased while its lane goes: no settlement brings it back.
	r.settle(retrying(one[3], 0))
	r.step()
	seq := one[0].Deliveries[0].Seq
	for i, want := range []queue.State{queue.StateDelivered, queue.StateDiscarded, queue.StateDead, queue.StateDiscarded, queue.StateDiscarded} {
		d, _, err := r.q.Delivery(r.t.Context(), account, queue.DeliveryID{Seq: seq + uint64(i), Lane: laneOf(1)})
		if err != nil || d.State != want {
			r.t.Fatalf("delivery %d: %+v, %v; want %s", i, d, err, want)
		}
		if want == queue.StateDiscarded && d.Reason != queue.ReasonUnsubscribed {
			r.t.Errorf("delivery %d: reason %q", i, d.Reason)
		}
	}
	r.accept(submission(9, laneOf(1), laneOf(3)))
	r.step()
	d, _, err := r.q.Delivery(r.t.Context(), account, queue.DeliveryID{Seq: seq + 5, Lane: laneOf(1)})
	if err != nil || d.State != queue.StateDiscarded {
		r.t.Fatalf("what came later: %+v, %v", d, err)
	}
	time.Sleep(time.Hour)
	for _, c := range r.claim(100) {
		if c.Lane == laneOf(1) {
			r.t.Fatalf("%v was dropped and is due", c.Delivery(0))
		}
	}
	if r.mode == running {
		r.wantStats(0, 0, 6, 1)
	}
	lanes, err := r.q.Lanes(r.t.Context())
	if err != nil || len(lanes) != 2 || !slices.Contains(lanes, laneOf(2)) || !slices.Contains(lanes, laneOf(3)) {
		r.t.Fatalf("lanes are %v, %v", lanes, err)
	}
	// A lane that never had a delivery.
	if err := r.q.DropLane(r.t.Context(), laneOf(4)); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	r.accept(submission(10, laneOf(4)))
	for _, c := range r.claim(100) {
		if c.Lane == laneOf(4) {
			r.t.Fatal("a lane dropped before its first delivery is served")
		}
	}
}

func dropManyRetries(r *rig) {
	const n = 2500
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = submission(i, laneOf(1))
	}
	r.accept(subs...)
	var ss []queue.Settlement
	for _, c := range r.claim(n) {
		ss = append(ss, retrying(c, time.Hour))
	}
	r.settle(ss...)
	r.step()
	if err := r.q.DropLane(r.t.Context(), laneOf(1)); err != nil {
		r.t.Fatal(err)
	}
	r.wantStats(0, 0, 0, 0)
	r.step()
	for _, i := range []int{0, n / 2, n - 1} {
		d, _, err := r.q.Delivery(r.t.Context(), account, queue.DeliveryID{Seq: ss[i].Deliveries[0].Seq, Lane: ss[i].Lane})
		if err != nil || d.State != queue.StateDiscarded || d.Attempts != 1 {
			r.t.Fatalf("%+v, %v", d, err)
		}
	}
	time.Sleep(2 * time.Hour)
	r.none()
}

func stats(r *rig) {
	start := time.Now()
	first := r.accept(submission(1, laneOf(1), laneOf(2)))
	r.step()
	time.Sleep(time.Minute)
	r.accept(submission(2, laneOf(1)))
	r.step()
	ev, err := r.q.Event(r.t.Context(), account, first[0].ID)
	if err != nil {
		r.t.Fatal(err)
	}
	s := r.q.Stats()
	if s.Events != 2 || s.Pending != 3 || !s.OldestDue.Equal(ev.AcceptedAt) || s.OldestDue.Before(start.Truncate(time.Millisecond)) || s.FileBytes <= 0 || s.FreeBytes < 0 || s.FreeBytes > s.FileBytes {
		r.t.Errorf("stats: %+v", s)
	}
	got := r.claim(3)
	if s := r.q.Stats(); !s.OldestDue.IsZero() || s.Delivering != 3 || s.Pending != 0 {
		r.t.Errorf("all leased: %+v", s)
	}
	for _, c := range got {
		if c.Deliveries[0].Seq == 2 {
			r.settle(queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StatePending})
		} else {
			r.settle(delivered(c))
		}
	}
	if s := r.q.Stats(); s.OldestDue.Sub(ev.AcceptedAt) < time.Minute {
		r.t.Errorf("the younger one waits: %+v", s)
	}
}
