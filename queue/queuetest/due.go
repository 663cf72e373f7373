package queuetest

import (
	"context"
	"time"

	"herald/queue"
)

func dueScenarios() []scenario {
	return []scenario{
		{"DueWaits", dueWaits},
		{"DueInThePast", duePast},
		{"DueWakesTheLane", dueWakes},
		{"DueOfMany", dueOfMany},
		{"DueKeepsNobodyWaiting", dueKeepsNobody},
		{"DueIsNotHastened", dueIsNotHastened},
		{"DueIsNotReplayed", dueIsNotReplayed},
		{"DueGivenBack", dueGivenBack},
		{"DueGivenUp", dueGivenUp},
		{"DueExpires", dueExpires},
	}
}

// later is a submission for the time from now on.
func later(wait time.Duration, n int, lanes ...queue.Lane) queue.Submission {
	s := submission(n, lanes...)
	s.Due = time.Now().Add(wait)
	return s
}

func dueWaits(r *rig) {
	s := later(time.Hour, 1, laneOf(1), laneOf(2))
	s.Due = s.Due.Add(300 * time.Microsecond)
	r.accept(s, submission(2, laneOf(1)))
	r.step()
	r.wantStats(1, 2, 0, 0)
	if d := r.want(on(1), queue.StateRetrying, 0); d.NextAttemptAt.Before(s.Due) || d.NextAttemptAt.Sub(s.Due) >= time.Millisecond || d.Reason != "" {
		r.t.Fatalf("%+v, asked for %v", d, s.Due)
	}
	st := r.q.LaneStats(laneOf(2))
	if st.Pending != 0 || st.Retrying != 1 || !st.OldestPending.IsZero() || st.NextRetry.Before(s.Due) || st.NextRetry.Sub(s.Due) >= time.Millisecond {
		r.t.Fatalf("the lane's stats are %+v", st)
	}
	list, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{State: queue.StateRetrying, Limit: 10})
	if err != nil || len(list) != 2 {
		r.t.Fatalf("%d are listed (%v)", len(list), err)
	}
	if c := r.claimOne(); c.Deliveries[0].Seq != 2 {
		r.t.Fatalf("%v came before its time", c.Delivery(0))
	} else {
		r.settle(delivered(c))
	}
	r.step()
	time.Sleep(time.Until(s.Due) - time.Millisecond)
	r.none()
	time.Sleep(2 * time.Millisecond)
	got := r.claim(3)
	if len(got) != 2 {
		r.t.Fatalf("%d came at their time", len(got))
	}
	for _, c := range got {
		ev := c.Deliveries[0].Event
		if c.Attempt != 1 || c.Retries != 0 || c.Replay || c.Deliveries[0].Seq != 1 || string(ev.Data) != string(s.Data) {
			r.t.Fatalf("claimed %+v", c)
		}
		r.want(c.Delivery(0), queue.StateDelivering, 0)
	}
	r.settle(delivered(got[0]), retrying(got[1], time.Minute))
	r.step()
	r.want(got[0].Delivery(0), queue.StateDelivered, 1)
	r.want(got[1].Delivery(0), queue.StateRetrying, 1)
	time.Sleep(time.Minute)
	if c := r.claimOne(); c.Attempt != 2 || c.Retries != 1 {
		r.t.Fatalf("after the first attempt: %+v", c)
	}
}

func duePast(r *rig) {
	r.accept(submission(1, laneOf(1)), later(0, 2, laneOf(1)), later(-time.Hour, 3, laneOf(1)), later(time.Minute, 4), submission(5, laneOf(1)))
	r.step()
	r.wantStats(4, 0, 0, 0)
	for i, c := range r.claim(5) {
		if want := []uint64{1, 2, 3, 5}[i]; c.Deliveries[0].Seq != want {
			r.t.Fatalf("%v in place of %d", c.Delivery(0), want)
		}
		r.settle(delivered(c))
	}
}

// dueWakes has a lane that had nothing to do until then, and one that hears of an earlier time while Claim waits.
func dueWakes(r *rig) {
	start := time.Now().Truncate(time.Millisecond).Add(time.Millisecond)
	s := submission(1, laneOf(1))
	s.Due = start.Add(3 * time.Hour)
	r.accept(s)
	r.step()
	go func() {
		time.Sleep(time.Until(start.Add(time.Hour)))
		s := submission(2, laneOf(1))
		s.Due = start.Add(2 * time.Hour)
		if _, err := r.q.Accept(context.Background(), []queue.Submission{s}); err != nil {
			r.t.Error(err)
		}
	}()
	for i, want := range []uint64{2, 1} {
		got, err := r.q.Claim(r.t.Context(), 2, unlimited, nil)
		if err != nil || len(got) != 1 || got[0].Deliveries[0].Seq != want {
			r.t.Fatalf("claimed %+v (%v), want event %d", got, err, want)
		}
		if at := start.Add(time.Duration(2+i) * time.Hour); !time.Now().Equal(at) {
			r.t.Fatalf("event %d came at %v, not at %v", want, time.Now(), at)
		}
		r.settle(delivered(got[0]))
	}
}

// dueOfMany holds more in a lane than an engine keeps in memory, in no order of their times, over two runs of events.
func dueOfMany(r *rig) {
	const n = 9000
	start := time.Now()
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = submission(i, laneOf(i%3/2))
		subs[i].Due = start.Add(time.Hour + time.Duration(i*7919%n)*time.Second)
	}
	r.accept(subs...)
	r.step()
	r.wantStats(0, n, 0, 0)
	if err := r.q.Check(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	seen := 0
	for _, part := range []time.Duration{n / 3, n / 2, n} {
		time.Sleep(time.Until(start.Add(time.Hour + part*time.Second)))
		got := r.claim(n)
		var ss []queue.Settlement
		for _, c := range got {
			if s := subs[c.Deliveries[0].Seq-1]; s.Due.After(time.Now()) || c.Attempt != 1 {
				r.t.Fatalf("%+v came before %v", c, s.Due)
			}
			ss = append(ss, delivered(c))
		}
		r.settle(ss...)
		if seen += len(got); seen < int(part)-10 || seen > int(part)+10 {
			r.t.Fatalf("%d came of the first %d", seen, part)
		}
		r.step()
	}
	if seen != n {
		r.t.Fatalf("%d of %d came", seen, n)
	}
}

func dueKeepsNobody(r *rig) {
	for _, order := range []queue.Order{queue.OrderStrict, queue.OrderKey} {
		room := ordered(order)
		next := r.lastSeq() + 1
		start := time.Now()
		// The lane learns of its order first.
		r.accept(submission(1, laneOf(1)))
		r.settle(delivered(r.claimWith(1, room)[0]))
		r.accept(later(time.Hour, 1, laneOf(1)), later(time.Hour, 1, laneOf(1)), submission(1, laneOf(1)))
		r.step()
		got := r.claimWith(3, room)
		if len(got) != 1 {
			r.t.Fatalf("order %d: %d claims before the time", order, len(got))
		}
		r.wantSeqs(got[0], next+3)
		time.Sleep(time.Until(start.Add(time.Hour + 2*time.Second)))
		if got := r.claimWith(3, room); len(got) != 0 {
			r.t.Fatalf("order %d: %v came while a delivery of its key is under way", order, seqsOf(got[0]))
		}
		r.settle(delivered(got[0]))
		r.step()
		// Their time has come: one after the other, and what was tried has its place in the order.
		r.accept(submission(1, laneOf(1)))
		got = r.claimWith(3, room)
		for len(got) == 1 && got[0].Deliveries[0].Seq == next+4 {
			r.settle(delivered(got[0]))
			got = r.claimWith(3, room)
		}
		if len(got) != 1 {
			r.t.Fatalf("order %d: %d claims at the time", order, len(got))
		}
		r.wantSeqs(got[0], next+1)
		r.settle(retrying(got[0], time.Minute))
		r.accept(submission(1, laneOf(1)))
		r.step()
		got = r.claimWith(3, room)
		if len(got) != 1 {
			r.t.Fatalf("order %d: %d claims while one waits for its retry", order, len(got))
		}
		r.wantSeqs(got[0], next+2)
		r.settle(delivered(got[0]))
		if got := r.claimWith(3, room); len(got) != 0 {
			r.t.Fatalf("order %d: %v came before an older retry", order, seqsOf(got[0]))
		}
		time.Sleep(time.Minute)
		for got := r.claimWith(3, room); len(got) > 0; got = r.claimWith(3, room) {
			r.settle(delivered(got[0]))
		}
		for seq := next; seq <= r.lastSeq(); seq++ {
			if d, _, err := r.q.Delivery(r.t.Context(), account, on(seq)); err != nil || d.State != queue.StateDelivered {
				r.t.Fatalf("order %d: in the end %+v (%v)", order, d, err)
			}
		}
	}
}

// lastSeq is the number of the newest event, 0 when there is none.
func (r *rig) lastSeq() uint64 {
	r.t.Helper()
	list, err := r.q.Events(r.t.Context(), queue.EventFilter{Limit: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	if len(list) == 0 {
		return 0
	}
	return list[0].Seq
}

// dueIsNotHastened has deliveries that wait for their time beside a scheduled retry, and beside dead ones made due at a rate.
func dueIsNotHastened(r *rig) {
	r.accept(later(time.Hour, 1, laneOf(1)), later(2*time.Hour, 2, laneOf(1)), submission(3, laneOf(1)), submission(4, laneOf(1)))
	start := time.Now()
	got := r.claim(2)
	r.settle(retrying(got[0], time.Hour), dead(got[1]))
	r.step()
	if err := r.q.Hasten(r.t.Context(), laneOf(1)); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	c := r.claimOne()
	r.wantSeqs(c, 3)
	r.settle(delivered(c))
	for range 2 {
		if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{}); n > 1 || err != nil {
			r.t.Fatalf("%d were dead (%v)", n, err)
		}
	}
	r.step()
	c = r.claimOne()
	r.wantSeqs(c, 4)
	r.settle(delivered(c))
	r.want(on(1), queue.StateRetrying, 0)
	r.want(on(2), queue.StateRetrying, 0)
	// Somebody wants one of them now.
	if err := r.q.Retry(r.t.Context(), account, on(2)); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	if c = r.claimOne(); c.Attempt != 1 || c.Retries != 0 {
		r.t.Fatalf("made due by hand: %+v", c)
	}
	r.wantSeqs(c, 2)
	r.settle(delivered(c))
	time.Sleep(time.Until(start.Add(time.Hour + time.Millisecond)))
	c = r.claimOne()
	r.wantSeqs(c, 1)
	r.settle(delivered(c))
	r.step()
	time.Sleep(2 * time.Hour)
	r.none()
	r.want(on(2), queue.StateDelivered, 1)
}

func dueIsNotReplayed(r *rig) {
	start := time.Now()
	r.accept(later(time.Hour, 1, laneOf(1)), submission(2, laneOf(1)))
	r.settle(delivered(r.claimOne()))
	r.step()
	if n, err := r.q.CountReplay(r.t.Context(), r.replay(false), all); n != 1 || err != nil {
		r.t.Fatalf("%d would be replayed (%v)", n, err)
	}
	r.step()
	if _, n := r.advance(10); n != 1 {
		r.t.Fatalf("%d were replayed", n)
	}
	r.step()
	c := r.claimOne()
	r.wantSeqs(c, 2)
	r.settle(delivered(c))
	r.want(on(1), queue.StateRetrying, 0)
	time.Sleep(time.Until(start.Add(time.Hour + time.Millisecond)))
	c = r.claimOne()
	r.wantSeqs(c, 1)
	if c.Replay {
		r.t.Fatal("it came as replayed")
	}
	r.settle(delivered(c))
	r.finishReplay(1)
	// Once tried it is like any other.
	r.replay(false)
	if _, n := r.advance(10); n != 2 {
		r.t.Fatalf("%d were replayed later", n)
	}
}

func dueGivenBack(r *rig) {
	r.accept(later(time.Hour, 1, laneOf(1)))
	time.Sleep(time.Hour + time.Millisecond)
	c := r.claimOne()
	r.settle(queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StatePending})
	r.wantStats(0, 1, 0, 0)
	r.step()
	c = r.claimOne()
	r.wantStats(0, 0, 1, 0)
	if r.mode != running {
		r.step() // its lease is lost
		c = r.claimOne()
	}
	if c.Attempt != 1 || c.Retries != 0 {
		r.t.Fatalf("given back: %+v", c)
	}
	// A wait without an attempt.
	r.settle(queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StateRetrying, Due: time.Now().Add(time.Minute)})
	r.step()
	r.want(on(1), queue.StateRetrying, 0)
	time.Sleep(time.Minute)
	if c = r.claimOne(); c.Attempt != 1 || c.Retries != 0 {
		r.t.Fatalf("after a wait: %+v", c)
	}
	r.settle(delivered(c))
	r.step()
	r.want(on(1), queue.StateDelivered, 1)
}

func dueGivenUp(r *rig) {
	r.accept(later(time.Hour, 1, laneOf(1), laneOf(2)), submission(2, laneOf(2)))
	// Given up at the same moment as they are accepted, and before.
	errs := make(chan error, 4)
	go func() {
		_, err := r.q.Accept(context.Background(), []queue.Submission{later(time.Hour, 3, laneOf(3), laneOf(4)), later(time.Hour, 4, laneOf(1))})
		errs <- err
	}()
	go func() { errs <- r.q.DropLane(context.Background(), laneOf(3)) }()
	go func() { errs <- r.q.Discard(context.Background(), laneOf(4), queue.ReasonDisabled) }()
	go func() { errs <- r.q.DropLane(context.Background(), laneOf(5)) }()
	for range 4 {
		if err := <-errs; err != nil {
			r.t.Fatal(err)
		}
	}
	r.accept(later(time.Hour, 5, laneOf(5)))
	if err := r.q.Discard(r.t.Context(), laneOf(1), queue.ReasonDisabled); err != nil {
		r.t.Fatal(err)
	}
	if err := r.q.DropLane(r.t.Context(), laneOf(2)); err != nil {
		r.t.Fatal(err)
	}
	if err := r.q.Discard(r.t.Context(), laneOf(4), queue.ReasonDisabled); err != nil {
		r.t.Fatal(err)
	}
	r.accept(later(time.Hour, 6, laneOf(1)))
	r.step()
	settleDown(r)
	r.wantStats(0, 1, 0, 0)
	for id, reason := range map[queue.DeliveryID]string{
		{Seq: 1, Lane: laneOf(1)}: queue.ReasonDisabled, {Seq: 4, Lane: laneOf(1)}: queue.ReasonDisabled,
		{Seq: 1, Lane: laneOf(2)}: queue.ReasonUnsubscribed, {Seq: 2, Lane: laneOf(2)}: queue.ReasonUnsubscribed,
		{Seq: 3, Lane: laneOf(3)}: queue.ReasonUnsubscribed, {Seq: 3, Lane: laneOf(4)}: queue.ReasonDisabled,
		{Seq: 5, Lane: laneOf(5)}: queue.ReasonUnsubscribed,
	} {
		if d := r.want(id, queue.StateDiscarded, 0); d.Reason != reason || !d.NextAttemptAt.IsZero() {
			r.t.Errorf("%v: %+v", id, d)
		}
	}
	if err := r.q.Check(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(time.Hour)
	c := r.claimOne()
	r.wantSeqs(c, 6)
	r.settle(delivered(c))
}

func dueExpires(r *rig) {
	r.configure(queue.Retention{Events: term, Attempts: 30 * term, Dead: 30 * term})
	r.accept(later(2*term, 1, laneOf(1)), later(time.Hour, 2, laneOf(1)))
	r.step()
	time.Sleep(time.Hour)
	c := r.claimOne()
	r.wantSeqs(c, 2)
	r.settle(delivered(c))
	time.Sleep(term + 2*time.Hour)
	settleDown(r)
	r.step()
	r.wantStats(0, 0, 0, 1)
	if d := r.want(on(1), queue.StateDead, 0); d.Reason != queue.ReasonExpired {
		r.t.Fatalf("%+v", d)
	}
	time.Sleep(2 * term)
	r.none()
}
