package queuetest

import (
	"bytes"
	"strings"
	"time"

	"herald/queue"
)

func settleScenarios() []scenario {
	return []scenario{
		{"SettleDelivered", settleDelivered},
		{"SettleRetrying", settleRetrying},
		{"SettleForNoFaultOfItsOwn", settleDissolved},
		{"SettleDeadAndDiscarded", settleDead},
		{"SettleGivenBack", settleGivenBack},
		{"SettleWithoutLease", settleWithoutLease},
		{"AttemptsAreTrimmed", attemptsTrimmed},
		{"RetriesDoNotStarve", retriesDoNotStarve},
		{"ManyRetries", manyRetries},
		{"RetriesBesideTheWindow", retriesBeside},
	}
}

func settleDelivered(r *rig) {
	r.accept(submission(1, laneOf(1)))
	c := r.claimOne()
	r.want(c.Delivery(0), queue.StateDelivering, 0)
	s := delivered(c)
	r.settle(s)
	r.step()
	d := r.want(c.Delivery(0), queue.StateDelivered, 1)
	if d.EventID != c.Deliveries[0].Event.ID || d.EventType != "task.create" || d.AccountID != account || !d.AcceptedAt.Equal(c.Deliveries[0].Event.AcceptedAt) || d.Reason != "" || !d.NextAttemptAt.IsZero() {
		r.t.Errorf("delivery is %+v", d)
	}
	_, log, _ := r.q.Delivery(r.t.Context(), "", c.Delivery(0))
	want := *s.Attempt
	if a := log[0]; !a.StartedAt.Equal(want.StartedAt.Truncate(time.Millisecond)) || a.StartedAt.Location() != time.UTC || a.Duration != 1234*time.Microsecond ||
		a.Class != want.Class || a.Status != 204 || a.Error != "" || len(a.Response) != 0 {
		r.t.Errorf("attempt is %+v", a)
	}
	_, _, err := r.q.Delivery(r.t.Context(), "other", c.Delivery(0))
	r.wantErr(err, queue.ErrNotFound)
	_, _, err = r.q.Delivery(r.t.Context(), "", queue.DeliveryID{Seq: c.Deliveries[0].Seq, Lane: laneOf(2)})
	r.wantErr(err, queue.ErrNotFound)
	r.none()
	r.wantStats(0, 0, 0, 0)
}

func settleRetrying(r *rig) {
	r.accept(submission(1, laneOf(1)))
	c := r.claimOne()
	for i := 1; i <= 4; i++ {
		wait := time.Duration(i) * time.Hour
		s := retrying(c, wait)
		r.settle(s)
		r.step()
		d := r.want(c.Delivery(0), queue.StateRetrying, i)
		if gap := d.NextAttemptAt.Sub(s.Due); gap < 0 || gap >= time.Millisecond {
			r.t.Fatalf("next attempt at %v, asked for %v", d.NextAttemptAt, s.Due)
		}
		r.wantStats(0, 1, 0, 0)
		time.Sleep(time.Until(s.Due) - 10*time.Millisecond)
		r.none()
		time.Sleep(11 * time.Millisecond)
		c = r.claimOne()
		if c.Attempt != i+1 || c.Retries != i || c.Delivery(0) != d.ID || c.Deliveries[0].Event.ID != d.EventID {
			r.t.Fatalf("claim %d is %+v", i, c)
		}
	}
	// A wait that used up nothing of the schedule.
	r.settle(queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StateRetrying, Due: time.Now().Add(time.Minute)})
	r.step()
	time.Sleep(time.Minute)
	c = r.claimOne()
	if c.Attempt != 5 || c.Retries != 4 {
		r.t.Fatalf("after a wait without an attempt: %+v", c)
	}
	r.settle(delivered(c))
	r.step()
	r.want(c.Delivery(0), queue.StateDelivered, 5)
	r.none()
}

// settleDissolved has deliveries tried alone for whose failure they are not to blame: at the first attempt, and at later ones.
func settleDissolved(r *rig) {
	for _, order := range []queue.Order{queue.OrderNone, queue.OrderStrict, queue.OrderKey} {
		room := ordered(order)
		r.accept(submission(1, laneOf(1)))
		attempts, retries := 0, 0
		for _, dissolve := range []bool{true, true, false, true, false, false, true} {
			got := r.claimWith(2, room)
			if len(got) != 1 || got[0].Attempt != attempts+1 || got[0].Retries != retries || len(got[0].Deliveries) != 1 {
				r.t.Fatalf("after %d attempts and %d retries: claimed %+v", attempts, retries, got)
			}
			s := retrying(got[0], time.Minute)
			s.Dissolve = dissolve
			r.settle(s)
			if attempts++; !dissolve {
				retries++
			}
			r.step()
			r.want(got[0].Delivery(0), queue.StateRetrying, attempts)
			if got := r.claimWith(1, room); len(got) > 0 {
				r.t.Fatalf("%+v came before its time", got[0])
			}
			time.Sleep(time.Minute)
		}
		got := r.claimWith(2, room)
		if len(got) != 1 || got[0].Attempt != attempts+1 || got[0].Retries != retries {
			r.t.Fatalf("in the end: %+v", got)
		}
		r.settle(delivered(got[0]))
		r.want(got[0].Delivery(0), queue.StateDelivered, attempts+1)
	}
}

func settleDead(r *rig) {
	r.accept(submission(1, laneOf(1)), submission(2, laneOf(1)), submission(3, laneOf(1)))
	got := r.claim(3)
	r.settle(dead(got[0]),
		queue.Settlement{Lane: got[1].Lane, Deliveries: got[1].Deliveries, State: queue.StateDiscarded, Reason: queue.ReasonUnsubscribed},
		queue.Settlement{Lane: got[2].Lane, Deliveries: got[2].Deliveries, State: queue.StateDead, Reason: queue.ReasonExhausted})
	r.step()
	for i, want := range []struct {
		state    queue.State
		reason   string
		attempts int
	}{{queue.StateDead, queue.ReasonRejected, 1}, {queue.StateDiscarded, queue.ReasonUnsubscribed, 0}, {queue.StateDead, queue.ReasonExhausted, 0}} {
		if d := r.want(got[i].Delivery(0), want.state, want.attempts); d.Reason != want.reason {
			r.t.Errorf("%d: reason %q", i, d.Reason)
		}
	}
	r.none()
	r.wantStats(0, 0, 0, 2)
}

func settleGivenBack(r *rig) {
	r.accept(submission(1, laneOf(1)), submission(2, laneOf(1)), submission(3, laneOf(1)))
	got := r.claim(3)
	back := func(c queue.Claim) queue.Settlement {
		return queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StatePending}
	}
	r.settle(back(got[1]), back(got[0]), back(got[2]))
	r.wantStats(3, 0, 0, 0)
	r.step()
	again := r.claim(3)
	for i := range again {
		if again[i].Delivery(0) != got[i].Delivery(0) || again[i].Attempt != 1 {
			r.t.Fatalf("given back, and now in place %d: %+v", i, again[i])
		}
	}
	r.settle(retrying(again[0], time.Minute), delivered(again[1]), delivered(again[2]))
	r.step()
	time.Sleep(time.Minute)
	c := r.claimOne()
	r.settle(back(c))
	r.wantStats(0, 1, 0, 0)
	r.step()
	if again := r.claimOne(); again.Delivery(0) != c.Delivery(0) || again.Attempt != 2 || again.Retries != 1 {
		r.t.Fatalf("a retry given back: %+v", again)
	} else {
		// An attempt that was made counts, also when the delivery is given back.
		s := back(again)
		s.Attempt = attempt(queue.ClassRetry, 500)
		r.settle(s)
	}
	r.step()
	if again := r.claimOne(); again.Attempt != 3 || again.Retries != 1 {
		r.t.Fatalf("given back after an attempt: %+v", again)
	}
}

func settleWithoutLease(r *rig) {
	r.accept(submission(1, laneOf(1)))
	c := r.claimOne()
	r.settle(queue.Settlement{Lane: laneOf(1), Deliveries: []queue.Leased{{Seq: 99}}, State: queue.StateDead},
		queue.Settlement{Lane: laneOf(9), Deliveries: []queue.Leased{{Seq: 1}}, State: queue.StateDead})
	r.q.Settle(delivered(c))
	r.q.Settle(dead(c))
	r.settle(dead(c), retrying(c, 0))
	r.settle()
	r.step()
	r.want(c.Delivery(0), queue.StateDelivered, 1)
	r.settle(dead(c))
	r.want(c.Delivery(0), queue.StateDelivered, 1)
	r.none()
}

func attemptsTrimmed(r *rig) {
	r.accept(submission(1, laneOf(1)))
	c := r.claimOne()
	s := retrying(c, time.Hour)
	s.Attempt.Error = strings.Repeat("é", 400)
	s.Attempt.Response = bytes.Repeat([]byte("r"), 2*queue.MaxResponse)
	s.Attempt.Class = queue.ClassMisconfigured
	r.settle(s)
	r.step()
	_, log, err := r.q.Delivery(r.t.Context(), account, c.Delivery(0))
	if err != nil || len(log) != 1 {
		r.t.Fatal(log, err)
	}
	if a := log[0]; a.Error != strings.Repeat("é", 256) || len(a.Response) != queue.MaxResponse || a.Class != queue.ClassMisconfigured {
		r.t.Errorf("attempt has %d bytes of error, %d of response, class %s", len(a.Error), len(a.Response), a.Class)
	}
}

func retriesDoNotStarve(r *rig) {
	for i := range 40 {
		r.accept(submission(i, laneOf(1)))
	}
	var ss []queue.Settlement
	for _, c := range r.claim(20) {
		ss = append(ss, retrying(c, time.Second))
	}
	r.settle(ss...)
	r.step()
	time.Sleep(2 * time.Second)
	fresh, again := 0, 0
	for _, c := range r.claim(10) {
		if c.Attempt == 1 {
			fresh++
		} else {
			again++
		}
	}
	if fresh < 3 || again < 3 {
		r.t.Errorf("of 10 claims %d were first attempts and %d retries", fresh, again)
	}
}

// manyRetries holds more retries in one lane than an engine keeps in memory.
func manyRetries(r *rig) {
	const n = 1500
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = submission(i, laneOf(1+i%2))
	}
	r.accept(subs...)
	start := time.Now()
	var ss []queue.Settlement
	for i, c := range r.claim(n) {
		s := retrying(c, 0)
		s.Due = start.Add(time.Hour + time.Duration(i*7919%n)*time.Second)
		ss = append(ss, s)
	}
	r.settle(ss...)
	r.step()
	r.wantStats(0, n, 0, 0)
	time.Sleep(time.Until(start.Add(time.Hour + n/2*time.Second)))
	first := r.claim(n)
	if len(first) < n/2-3 || len(first) > n/2+3 {
		r.t.Fatalf("%d of %d retries came when half of them were due", len(first), n)
	}
	ss = ss[:0]
	for _, c := range first {
		ss = append(ss, delivered(c))
	}
	r.settle(ss...)
	r.step()
	time.Sleep(time.Until(start.Add(2 * time.Hour)))
	if rest := r.claim(n); len(rest)+len(first) != n {
		r.t.Fatalf("%d and %d of %d retries came", len(first), len(rest), n)
	}
}

// retriesBeside mixes a lane's retries, more than are in memory, with others that are due earlier.
func retriesBeside(r *rig) {
	const n = 600
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = submission(i, laneOf(1))
	}
	r.accept(subs...)
	start := time.Now()
	var ss []queue.Settlement
	for _, c := range r.claim(n) {
		s := retrying(c, 0)
		s.Due = start.Add(10 * time.Hour)
		ss = append(ss, s)
	}
	r.settle(ss[:n-1]...)
	early := ss[n-1]
	early.Due = start.Add(time.Hour)
	r.settle(early)
	r.step()
	time.Sleep(time.Until(start.Add(time.Hour + time.Second)))
	if c := r.claimOne(); c.Deliveries[0].Seq != early.Deliveries[0].Seq {
		r.t.Fatalf("%v came first", c.Delivery(0))
	} else {
		r.settle(delivered(c))
	}
	r.step()
	time.Sleep(time.Until(start.Add(11 * time.Hour)))
	if got := r.claim(n); len(got) != n-1 {
		r.t.Fatalf("%d of %d came", len(got), n-1)
	}
}
