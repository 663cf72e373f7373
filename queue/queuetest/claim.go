package queuetest

import (
	"context"
	"slices"
	"testing/synctest"
	"time"

	"herald/queue"
)

func claimScenarios() []scenario {
	return []scenario{
		{"ClaimOldestFirst", claimOldestFirst},
		{"ClaimLanesTakeTurns", claimLanesTakeTurns},
		{"ClaimAsksForRoom", claimAsksForRoom},
		{"ClaimWaits", claimWaits},
		{"LeasesEndWithTheProcess", leasesEnd},
		{"ClaimLargeBacklog", claimLargeBacklog},
		{"ClaimLargeFanOut", claimLargeFanOut},
	}
}

func claimOldestFirst(r *rig) {
	for i := range 20 {
		r.accept(submission(i, laneOf(1)))
	}
	r.step()
	last := uint64(0)
	for range 4 {
		got := r.claim(5)
		if len(got) != 5 {
			r.t.Fatalf("%d of 5 claimed", len(got))
		}
		var ss []queue.Settlement
		for _, c := range got {
			if c.Deliveries[0].Seq <= last || c.Lane != laneOf(1) || c.Attempt != 1 || c.Retries != 0 {
				r.t.Fatalf("after event %d came %+v", last, c)
			}
			ev, err := r.q.Event(r.t.Context(), account, c.Deliveries[0].Event.ID)
			if err != nil || ev.Resource != c.Deliveries[0].Event.Resource || string(ev.Data) != string(c.Deliveries[0].Event.Data) {
				r.t.Fatalf("the claim's event is %+v, the queue's %+v (%v)", c.Deliveries[0].Event, ev, err)
			}
			last = c.Deliveries[0].Seq
			ss = append(ss, delivered(c))
		}
		r.settle(ss...)
		r.step()
	}
	r.none()
}

func claimLanesTakeTurns(r *rig) {
	for i := range 100 {
		r.accept(submission(i, laneOf(1)))
	}
	r.accept(submission(100, laneOf(2)), submission(101, laneOf(2)), submission(102, laneOf(3)))
	r.step()
	seen := map[queue.Lane]int{}
	for _, c := range r.claim(8) {
		seen[c.Lane]++
	}
	if seen[laneOf(2)] != 2 || seen[laneOf(3)] != 1 {
		r.t.Errorf("a long lane was preferred: %v", seen)
	}
}

func claimAsksForRoom(r *rig) {
	for i := range 10 {
		r.accept(submission(i, laneOf(1), laneOf(2)))
	}
	r.step()
	asked := map[queue.Lane]int{}
	room := map[queue.Lane]int{laneOf(1): 3}
	got := r.claimWith(100, func(l queue.Lane) queue.Room {
		asked[l]++
		n := room[l]
		room[l] = 0
		return queue.Room{Pushes: n}
	})
	if len(got) != 3 {
		r.t.Fatalf("%d claimed with room for 3", len(got))
	}
	// Both lanes are set aside now, and nobody asks about them.
	before := asked[laneOf(1)] + asked[laneOf(2)]
	count := func(l queue.Lane) queue.Room { asked[l]++; return queue.Room{Pushes: 10} }
	if got := r.claimWith(100, count); len(got) != 0 || asked[laneOf(1)]+asked[laneOf(2)] != before {
		r.t.Fatalf("%d claimed of lanes set aside; asked %v", len(got), asked)
	}
	r.accept(submission(11, laneOf(2)))
	if got := r.claimWith(100, count); len(got) != 0 {
		r.t.Fatal("a new event brought a lane back that was set aside")
	}
	r.q.Wake(laneOf(2), laneOf(7))
	if got := r.claim(100); len(got) != 11 {
		r.t.Fatalf("%d of 11 claimed after Wake", len(got))
	}
	r.q.Wake(laneOf(1), laneOf(1))
	if got := r.claim(100); len(got) != 7 {
		r.t.Fatalf("%d of 7 claimed after Wake", len(got))
	}
}

func claimWaits(r *rig) {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Hour)
	defer cancel()
	started := time.Now()
	_, err := r.q.Claim(ctx, 1, unlimited, nil)
	r.wantErr(err, context.DeadlineExceeded)
	if time.Since(started) != time.Hour {
		r.t.Errorf("Claim waited %v", time.Since(started))
	}
	claims := make(chan []queue.Claim)
	claim := func() {
		got, err := r.q.Claim(r.t.Context(), 5, unlimited, nil)
		if err != nil {
			r.t.Errorf("Claim: %v", err)
		}
		claims <- got
	}
	go claim()
	synctest.Wait()
	r.accept(submission(1, laneOf(1)))
	c := (<-claims)[0]
	r.settle(retrying(c, time.Minute))
	go claim()
	started = time.Now()
	due := time.Now().Add(time.Minute - 50*time.Millisecond)
	again := (<-claims)[0]
	if again.Delivery(0) != c.Delivery(0) || time.Now().Before(due.Truncate(time.Millisecond)) || time.Now().After(due.Add(2*time.Millisecond)) {
		r.t.Errorf("the retry came after %v", time.Since(started))
	}
	r.settle(delivered(again))
}

func leasesEnd(r *rig) {
	receipt := r.accept(submission(1, laneOf(1)), submission(2, laneOf(1)))
	first := r.claim(2)
	r.wantStats(0, 0, 2, 0)
	r.none()
	r.settle(delivered(first[0]))
	if r.mode == running {
		return
	}
	r.step()
	c := r.claimOne()
	if c.Delivery(0) != first[1].Delivery(0) || c.Deliveries[0].Event.ID != receipt[1].ID || c.Attempt != 1 {
		r.t.Errorf("after the restart %+v is due", c)
	}
}

// claimLargeBacklog holds more than any window and drains it with restarts in between.
func claimLargeBacklog(r *rig) {
	const n = 9000
	for i := 0; i < n; i += 500 {
		subs := make([]queue.Submission, 500)
		for j := range subs {
			lanes := []queue.Lane{laneOf(1)}
			if j%2 == 0 {
				lanes = append(lanes, laneOf(2))
			}
			subs[j] = submission(i+j, lanes...)
		}
		r.accept(subs...)
	}
	r.step()
	last := map[queue.Lane]uint64{}
	count := map[queue.Lane]int{}
	for round := 0; ; round++ {
		got := r.claim(700)
		if len(got) == 0 {
			break
		}
		ss := make([]queue.Settlement, 0, len(got))
		for _, c := range got {
			l := c.Lane
			if c.Deliveries[0].Seq <= last[l] {
				r.t.Fatalf("event %d after %d", c.Deliveries[0].Seq, last[l])
			}
			last[l] = c.Deliveries[0].Seq
			count[l]++
			ss = append(ss, delivered(c))
		}
		r.settle(ss...)
		if round%5 == 4 {
			r.step()
		}
	}
	if count[laneOf(1)] != n || count[laneOf(2)] != n/2 {
		r.t.Fatalf("delivered %v of %d and %d", count, n, n/2)
	}
	r.wantStats(0, 0, 0, 0)
}

func claimLargeFanOut(r *rig) {
	lanes := make([]queue.Lane, 5000)
	for i := range lanes {
		lanes[i] = laneOf(i)
	}
	for i := range 3 {
		r.accept(submission(i, lanes...))
	}
	r.step()
	r.wantStats(15000, 0, 0, 0)
	seen := map[queue.DeliveryID]bool{}
	for {
		got := r.claim(4000)
		if len(got) == 0 {
			break
		}
		var ss []queue.Settlement
		for _, c := range got {
			if seen[c.Delivery(0)] {
				r.t.Fatalf("%v was given twice", c.Delivery(0))
			}
			seen[c.Delivery(0)] = true
			ss = append(ss, delivered(c))
		}
		r.settle(ss...)
		r.step()
	}
	if len(seen) != 15000 {
		r.t.Fatalf("%d of 15000 delivered", len(seen))
	}
	known, err := r.q.Lanes(r.t.Context())
	slices.SortFunc(known, func(a, b queue.Lane) int { return slices.Compare(a[:], b[:]) })
	if err != nil || !slices.Equal(known, lanes) {
		r.t.Fatalf("%d lanes are known (%v)", len(known), err)
	}
}
