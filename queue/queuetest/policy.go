package queuetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"herald/queue"
)

func policyScenarios() []scenario {
	return []scenario{
		{"BatchFills", batchFills},
		{"BatchWaits", batchWaits},
		{"BatchesWaitForThemselvesOnly", batchesWaitAlone},
		{"BatchStaysTogether", batchStaysTogether},
		{"BatchDissolves", batchDissolves},
		{"BatchOverSegments", batchOverSegments},
		{"TotalBoundsRecords", totalBounds},
		{"BytesBoundBatches", bytesBound},
		{"BytesFillBatches", bytesFill},
		{"DiscardAgainAndAgain", discardAgain},
		{"StrictOrder", strictOrder},
		{"OrderGoesOnAtOnce", orderGoesOn},
		{"OrderByKey", orderByKey},
		{"KeyBehindManyOfAnother", keyBehindMany},
		{"Discard", discard},
		{"DiscardManyRetries", discardManyRetries},
		{"RetryDeadByChoice", retryDeadByChoice},
		{"RetryDeadAtARate", retryDeadAtARate},
		{"RetryDeadKeepsNobodyWaiting", retryDeadKeepsNobody},
		{"Hasten", hasten},
		{"ListByReason", listByReason},
		{"LaneStats", laneStats},
	}
}

// inBatches gives lanes room for pushes of n records.
func inBatches(n int, wait time.Duration) func(queue.Lane) queue.Room {
	return func(queue.Lane) queue.Room { return queue.Room{Pushes: 1 << 20, Records: n, Wait: wait} }
}

func ordered(o queue.Order) func(queue.Lane) queue.Room {
	return func(queue.Lane) queue.Room {
		return queue.Room{Pushes: 1 << 20, Order: o, Key: byResource, KeyID: "resource"}
	}
}

func seqsOf(c queue.Claim) []uint64 {
	var list []uint64
	for _, d := range c.Deliveries {
		list = append(list, d.Seq)
	}
	return list
}

func (r *rig) wantSeqs(c queue.Claim, want ...uint64) {
	r.t.Helper()
	if got := seqsOf(c); !slices.Equal(got, want) {
		r.t.Fatalf("claimed %v, want %v", got, want)
	}
}

// acceptN accepts n events for lane 1, on the resources given in turn.
func (r *rig) acceptN(n int, resources ...int) {
	r.t.Helper()
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = submission(append(resources, i)[i%max(len(resources), 1)], laneOf(1))
	}
	r.accept(subs...)
}

func batchFills(r *rig) {
	r.acceptN(10)
	r.step()
	got := r.claimWith(10, inBatches(4, 0))
	if len(got) != 3 {
		r.t.Fatalf("%d claims of 10 deliveries", len(got))
	}
	r.wantSeqs(got[0], 1, 2, 3, 4)
	r.wantSeqs(got[2], 9, 10)
	r.wantStats(0, 0, 10, 0)
	for _, c := range got {
		r.settle(delivered(c))
	}
	r.step()
	for seq := range uint64(10) {
		r.want(queue.DeliveryID{Seq: seq + 1, Lane: laneOf(1)}, queue.StateDelivered, 1)
	}
}

func batchWaits(r *rig) {
	r.acceptN(3)
	start := time.Now()
	room := inBatches(4, time.Minute)
	if got := r.claimWith(1, room); len(got) != 0 {
		r.t.Fatalf("a push went before it was full: %v", seqsOf(got[0]))
	}
	r.step()
	time.Sleep(time.Until(start.Add(time.Minute - 2*time.Millisecond)))
	if got := r.claimWith(1, room); len(got) != 0 {
		r.t.Fatal("a push went before its time")
	}
	time.Sleep(3 * time.Millisecond)
	got := r.claimWith(2, room)
	if len(got) != 1 {
		r.t.Fatalf("%d pushes when the wait was over", len(got))
	}
	r.wantSeqs(got[0], 1, 2, 3)
	r.settle(delivered(got[0]))
	// Full, it does not wait; what does not fill another does.
	r.acceptN(5)
	got = r.claimWith(5, room)
	if len(got) != 1 {
		r.t.Fatalf("%d pushes of 5 deliveries, 4 in one", len(got))
	}
	r.wantSeqs(got[0], 4, 5, 6, 7)
	r.settle(delivered(got[0]))
	// Whoever wakes the lane may have another mind about the wait.
	r.q.Wake(laneOf(1))
	got = r.claimWith(5, inBatches(4, 0))
	if len(got) != 1 {
		r.t.Fatal("the lane waits for what nobody asks for any more")
	}
	r.wantSeqs(got[0], 8)
}

// batchesWaitAlone has lanes whose batches wait before and behind one that may go.
func batchesWaitAlone(r *rig) {
	for n := range 100 {
		r.accept(submission(n, laneOf(n)))
	}
	r.step()
	seen := map[queue.Lane]bool{}
	for range 2 {
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		got, err := r.q.Claim(ctx, 1, func(l queue.Lane) queue.Room {
			room := queue.Room{Pushes: 1, Records: 5, Wait: time.Hour}
			if l == laneOf(3) || l == laneOf(99) {
				room.Wait = 0
			}
			return room
		}, nil)
		cancel()
		if err != nil || len(got) != 1 {
			r.t.Fatalf("%d claims (%v) while others wait for their batches to fill", len(got), err)
		}
		seen[got[0].Lane] = true
		r.settle(delivered(got[0]))
	}
	if !seen[laneOf(3)] || !seen[laneOf(99)] {
		r.t.Fatalf("claimed of %v", seen)
	}
}

func batchStaysTogether(r *rig) {
	r.acceptN(6)
	got := r.claimWith(10, inBatches(3, 0))
	r.settle(retrying(got[0], time.Minute), retrying(got[1], time.Minute))
	r.wantStats(0, 6, 0, 0)
	r.step()
	for i := 2; i < 6; i++ {
		r.none()
		time.Sleep(time.Minute)
		// However few there would be in a new push.
		got = r.claimWith(10, inBatches(1+i%2, 0))
		if len(got) != 2 || got[0].Attempt != i || got[0].Retries != i-1 {
			r.t.Fatalf("claims %+v", got)
		}
		slices.SortFunc(got, func(a, b queue.Claim) int { return int(a.Deliveries[0].Seq) - int(b.Deliveries[0].Seq) }) //nolint:gosec // small
		r.wantSeqs(got[0], 1, 2, 3)
		r.wantSeqs(got[1], 4, 5, 6)
		r.settle(retrying(got[0], time.Minute), retrying(got[1], time.Minute))
		r.step()
	}
	// One that is made due by hand goes alone, and the others for themselves.
	if err := r.q.Retry(r.t.Context(), account, queue.DeliveryID{Seq: 2, Lane: laneOf(1)}); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	c := r.claimOne()
	r.wantSeqs(c, 2)
	r.settle(delivered(c))
	r.step()
	time.Sleep(time.Minute)
	got = r.claim(10)
	if len(got) != 3 {
		r.t.Fatalf("%d claims, want 1, 3, and 4 to 6", len(got))
	}
	for _, c := range got {
		if n := len(c.Deliveries); n != 1 && n != 3 {
			r.t.Fatalf("claimed %v", seqsOf(c))
		}
		r.settle(dead(c))
	}
	r.step()
	r.wantStats(0, 0, 0, 5)
	r.want(queue.DeliveryID{Seq: 3, Lane: laneOf(1)}, queue.StateDead, 6)
	r.want(queue.DeliveryID{Seq: 2, Lane: laneOf(1)}, queue.StateDelivered, 6)
}

func batchDissolves(r *rig) {
	r.acceptN(3)
	c := r.claimWith(1, inBatches(3, 0))[0]
	s := retrying(c, 0)
	s.Dissolve = true
	r.settle(s)
	r.step()
	got := r.claimWith(10, inBatches(3, 0))
	if len(got) != 3 || len(got[0].Deliveries) != 1 || got[0].Attempt != 2 || got[0].Retries != 0 {
		r.t.Fatalf("dissolved came %+v", got)
	}
	for _, c := range got {
		r.settle(delivered(c))
	}
	r.none()
}

// batchOverSegments lets the older part of a batch expire.
func batchOverSegments(r *rig) {
	r.configure(queue.Retention{Events: 10 * time.Hour, Attempts: time.Hour, Dead: 100 * time.Hour})
	r.acceptN(2)
	time.Sleep(2 * time.Hour) // long enough for another segment
	r.acceptN(2)
	c := r.claimWith(1, inBatches(4, 0))[0]
	r.wantSeqs(c, 1, 2, 3, 4)
	r.settle(retrying(c, 9*time.Hour))
	r.step()
	time.Sleep(8*time.Hour + 10*time.Minute)
	r.rest()
	r.want2(1, queue.StateDead, queue.ReasonExpired)
	r.want2(2, queue.StateDead, queue.ReasonExpired)
	r.want2(3, queue.StateRetrying, "")
	r.step()
	time.Sleep(time.Hour)
	got := r.claim(10)
	if len(got) != 2 {
		r.t.Fatalf("%d claims, want 3 and 4", len(got))
	}
	for _, c := range got {
		r.settle(delivered(c))
	}
	r.step()
	r.wantStats(0, 0, 0, 2)
}

// want2 checks state and reason of a delivery of lane 1, whatever its log has lost.
func (r *rig) want2(seq uint64, state queue.State, reason string) {
	r.t.Helper()
	d, _, err := r.q.Delivery(r.t.Context(), account, queue.DeliveryID{Seq: seq, Lane: laneOf(1)})
	if err != nil || d.State != state || d.Reason != reason {
		r.t.Fatalf("delivery %d is %+v (%v), want %s %s", seq, d, err, state, reason)
	}
}

func totalBounds(r *rig) {
	r.acceptN(10)
	room := map[queue.Lane]int{laneOf(1): 1}
	got := r.claimWith(10, func(l queue.Lane) queue.Room {
		room[l]--
		return queue.Room{Pushes: 10 * (room[l] + 1), Records: 3, Total: 5}
	})
	if len(got) != 2 {
		r.t.Fatalf("%d claims, want 3 and 2 deliveries", len(got))
	}
	r.wantSeqs(got[1], 4, 5)
}

// bytesBound claims batches of which few deliveries, or only one, fit into a push.
func bytesBound(r *rig) {
	const n = 60
	for i := range n {
		s := submission(i, laneOf(1), laneOf(2))
		size := 100
		if i%10 == 0 {
			size = 5000
		}
		s.Data = fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", size-8))
		r.accept(s)
	}
	r.step()
	for _, order := range []queue.Order{queue.OrderNone, queue.OrderStrict} {
		lane := laneOf(1 + int(order))
		room := func(l queue.Lane) queue.Room {
			if l != lane {
				return queue.Room{}
			}
			return queue.Room{Pushes: 1, Records: 50, Bytes: 1000, Order: order}
		}
		next := uint64(1)
		for next <= n {
			r.q.Wake(lane)
			got := r.claimWith(1, room)
			if len(got) != 1 {
				r.t.Fatalf("nothing came after %d", next-1)
			}
			size := 0
			for _, d := range got[0].Deliveries {
				if d.Seq != next {
					r.t.Fatalf("claimed %v, want them from %d on", seqsOf(got[0]), next)
				}
				next++
				size += len(d.Event.Data)
			}
			if k := len(got[0].Deliveries); size > 1000 && k > 1 || k == 1 && size < 1000 && next%10 != 1 {
				r.t.Fatalf("%d deliveries of %d bytes in one push", k, size)
			}
			r.settle(delivered(got[0]))
			if next%7 == 0 {
				r.step()
			}
		}
	}
	r.wantStats(0, 0, 0, 0)
}

// bytesFill has a batch that is full by its size, and does not wait for more.
func bytesFill(r *rig) {
	room := func(queue.Lane) queue.Room {
		return queue.Room{Pushes: 1 << 20, Records: 100, Bytes: 10_000, Wait: time.Hour}
	}
	for i := range 7 {
		s := submission(i, laneOf(1))
		s.Data = fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", 3000))
		r.accept(s)
	}
	r.step()
	got := r.claimWith(10, room)
	if len(got) != 2 {
		r.t.Fatalf("%d full pushes of 7 events, 3 in one", len(got))
	}
	r.wantSeqs(got[0], 1, 2, 3)
	r.wantSeqs(got[1], 4, 5, 6)
}

// discardAgain gives a lane up and uses it again, one right after the other.
func discardAgain(r *rig) {
	for i := range 60 {
		r.acceptN(2)
		c := r.claimOneOf(2)
		r.q.Settle(retrying(c, time.Hour))
		for range 1 + i%3 {
			if err := r.q.Discard(r.t.Context(), laneOf(1), queue.ReasonDisabled); err != nil {
				r.t.Fatal(err)
			}
		}
		r.acceptN(1)
		c = r.claimOneOf(1)
		r.wantSeqs(c, uint64(3*i+3)) //nolint:gosec // small
		r.settle(delivered(c))
	}
	r.wantStats(0, 0, 0, 0)
}

// claimOneOf claims the oldest of n deliveries that are due.
func (r *rig) claimOneOf(n int) queue.Claim {
	r.t.Helper()
	for range 100 {
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		got, err := r.q.Claim(ctx, 1, unlimited, nil)
		cancel()
		if err == nil {
			return got[0]
		}
	}
	r.t.Fatalf("none of %d deliveries came; the lane has %+v", n, r.q.LaneStats(laneOf(1)))
	return queue.Claim{}
}

func strictOrder(r *rig) {
	room := ordered(queue.OrderStrict)
	r.acceptN(4)
	for seq := uint64(1); seq <= 4; seq++ {
		for try := 1; try <= 3; try++ {
			got := r.claimWith(10, room)
			if len(got) != 1 {
				r.t.Fatalf("%d claims at once in strict order", len(got))
			}
			r.wantSeqs(got[0], seq)
			if try < 3 {
				r.settle(retrying(got[0], time.Hour))
				r.step()
				if got := r.claimWith(10, room); len(got) != 0 {
					r.t.Fatalf("%v went before %d", seqsOf(got[0]), seq)
				}
				time.Sleep(time.Hour)
				continue
			}
			if seq%2 == 0 {
				r.settle(dead(got[0]))
			} else {
				r.settle(delivered(got[0]))
			}
			r.step()
		}
	}
	if got := r.claimWith(1, room); len(got) != 0 {
		r.t.Fatal("something is left")
	}
}

// orderGoesOn has the next delivery come as soon as the one before it has arrived, and not only when the disk knows.
func orderGoesOn(r *rig) {
	for lane, order := range []queue.Order{queue.OrderStrict, queue.OrderKey} {
		n := 10
		for range n {
			r.accept(submission(1, laneOf(lane)))
		}
		room := ordered(order)
		start := time.Now()
		for range n {
			ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
			got, err := r.q.Claim(ctx, 10, room, nil)
			cancel()
			if err != nil || len(got) != 1 {
				r.t.Fatalf("%d claims (%v)", len(got), err)
			}
			r.q.Settle(delivered(got[0]))
		}
		if took := time.Since(start); took > time.Millisecond {
			r.t.Errorf("%d deliveries in order took %v", n, took)
		}
		r.step()
	}
	r.wantStats(0, 0, 0, 0)
}

func orderByKey(r *rig) {
	room := ordered(queue.OrderKey)
	r.acceptN(9, 1, 2, 3) // 1 4 7 · 2 5 8 · 3 6 9
	r.step()
	got := r.claimWith(20, room)
	if len(got) != 3 {
		r.t.Fatalf("%d claims of three keys", len(got))
	}
	// The first of resource 1 fails for good while the others go on.
	r.settle(retrying(got[0], time.Hour), delivered(got[1]), delivered(got[2]))
	r.step()
	got = r.claimWith(20, room)
	if len(got) != 2 {
		r.t.Fatalf("%d claims of the two keys that are free", len(got))
	}
	r.wantSeqs(got[0], 5)
	r.wantSeqs(got[1], 6)
	r.settle(delivered(got[0]), delivered(got[1]))
	r.step()
	got = r.claimWith(20, room)
	if len(got) != 2 {
		r.t.Fatalf("%d claims of the two keys that are free", len(got))
	}
	r.wantSeqs(got[0], 8)
	r.settle(delivered(got[0]), delivered(got[1]))
	r.step()
	if got := r.claimWith(20, room); len(got) != 0 {
		r.t.Fatalf("%v went before 1", seqsOf(got[0]))
	}
	time.Sleep(time.Hour)
	for _, want := range []uint64{1, 4, 7} {
		got := r.claimWith(20, room)
		if len(got) != 1 {
			r.t.Fatalf("%d claims of one key", len(got))
		}
		r.wantSeqs(got[0], want)
		r.settle(delivered(got[0]))
		r.step()
	}
}

// keyBehindMany finds a key behind more deliveries of another than a window holds.
func keyBehindMany(r *rig) {
	room := ordered(queue.OrderKey)
	r.acceptN(1, 1)
	got := r.claimWith(1, room)
	r.settle(retrying(got[0], 24*time.Hour))
	for range 10 {
		r.acceptN(500, 1)
	}
	r.acceptN(2, 2)
	r.step()
	for _, want := range []uint64{5002, 5003} {
		got := r.claimWith(20, room)
		if len(got) != 1 {
			r.t.Fatalf("%d claims, want that of the other key", len(got))
		}
		r.wantSeqs(got[0], want)
		r.settle(delivered(got[0]))
	}
	r.step()
	time.Sleep(24 * time.Hour)
	for want := uint64(1); want <= 30; want++ {
		got := r.claimWith(20, room)
		if len(got) != 1 || got[0].Deliveries[0].Seq != want {
			r.t.Fatalf("claims %+v, want %d", got, want)
		}
		r.settle(delivered(got[0]))
		if want%10 == 0 {
			r.step()
		}
	}
}

func discard(r *rig) {
	for range 3 {
		r.accept(submission(1, laneOf(1), laneOf(2)), submission(2, laneOf(1), laneOf(2)))
	}
	got := r.claimWith(4, roomOnce(map[queue.Lane]int{laneOf(1): 4}))
	r.settle(retrying(got[0], time.Minute), dead(got[1]))
	if err := r.q.Discard(r.t.Context(), laneOf(1), queue.ReasonDisabled); err != nil {
		r.t.Fatal(err)
	}
	r.rest()
	if err := r.q.Discard(r.t.Context(), laneOf(9), queue.ReasonDisabled); err != nil {
		r.t.Fatalf("a lane nobody knows: %v", err)
	}
	r.accept(submission(7, laneOf(1)))
	// What was under way counts when it arrived, and is not tried again when it did not.
	r.settle(delivered(got[2]), retrying(got[3], time.Second))
	r.step()
	r.want(got[0].Delivery(0), queue.StateDiscarded, 1)
	r.want(got[1].Delivery(0), queue.StateDead, 1)
	r.want(got[2].Delivery(0), queue.StateDelivered, 1)
	r.want(got[3].Delivery(0), queue.StateDiscarded, 1)
	if d := r.want(queue.DeliveryID{Seq: 6, Lane: laneOf(1)}, queue.StateDiscarded, 0); d.Reason != queue.ReasonDisabled {
		r.t.Errorf("discarded for the reason %q", d.Reason)
	}
	r.wantStats(7, 0, 0, 1)
	time.Sleep(time.Hour)
	r.q.Wake(laneOf(1), laneOf(2))
	mine := 0
	for _, c := range r.claim(20) {
		if c.Lane == laneOf(1) {
			mine++
			r.wantSeqs(c, 7)
		}
		r.settle(delivered(c))
	}
	if mine != 1 {
		r.t.Errorf("%d claims of what came after", mine)
	}
	// By hand they can be made due all the same.
	for _, seq := range []uint64{1, 6} {
		id := queue.DeliveryID{Seq: seq, Lane: laneOf(1)}
		if err := r.q.Retry(r.t.Context(), account, id); err != nil {
			r.t.Fatal(err)
		}
		r.step()
		c := r.claimOne()
		r.wantSeqs(c, seq)
		r.settle(delivered(c))
		r.step()
		r.want(id, queue.StateDelivered, c.Attempt)
	}
}

func discardManyRetries(r *rig) {
	const n = 3000
	r.acceptN(n)
	var ss []queue.Settlement
	for _, c := range r.claimWith(n, inBatches(7, 0)) {
		ss = append(ss, retrying(c, time.Minute))
	}
	r.settle(ss...)
	r.wantStats(0, n, 0, 0)
	if err := r.q.Discard(r.t.Context(), laneOf(1), queue.ReasonDisabled); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	r.wantStats(0, 0, 0, 0)
	time.Sleep(time.Hour)
	r.none()
	for _, seq := range []uint64{1, 1500, n} {
		r.want(queue.DeliveryID{Seq: seq, Lane: laneOf(1)}, queue.StateDiscarded, 1)
	}
}

func retryDeadByChoice(r *rig) {
	start := time.Now()
	for i := range 6 {
		s := submission(i, laneOf(1))
		if i%2 == 1 {
			s.Type = "task.delete"
		}
		r.accept(s)
		time.Sleep(time.Minute)
	}
	for i, c := range r.claim(6) {
		s := dead(c)
		if i >= 4 {
			s.Reason = queue.ReasonExhausted
		}
		r.settle(s)
	}
	r.step()
	for _, x := range []struct {
		s    queue.DeadSelection
		want int
	}{
		{queue.DeadSelection{}, 6},
		{queue.DeadSelection{Reason: queue.ReasonExhausted}, 2},
		{queue.DeadSelection{Reason: queue.ReasonExpired}, 0},
		{queue.DeadSelection{EventType: "task.delete"}, 3},
		{queue.DeadSelection{Since: start.Add(90 * time.Second)}, 4},
		{queue.DeadSelection{Until: start.Add(90 * time.Second)}, 2},
		{queue.DeadSelection{Since: start.Add(30 * time.Second), Until: start.Add(190 * time.Second), EventType: "task.create"}, 1},
	} {
		x.s.DryRun = true
		if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), x.s); n != x.want || err != nil {
			r.t.Fatalf("%+v names %d (%v), want %d", x.s, n, err, x.want)
		}
	}
	r.wantStats(0, 0, 0, 6)
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{EventType: "task.delete", Reason: queue.ReasonRejected}); n != 2 || err != nil {
		r.t.Fatalf("%d were made due (%v)", n, err)
	}
	r.step()
	r.wantStats(0, 2, 0, 4)
	for _, c := range r.claim(6) {
		if c.Deliveries[0].Event.Type != "task.delete" || c.Attempt != 2 || c.Retries != 0 {
			r.t.Fatalf("claimed %+v", c)
		}
	}
}

func retryDeadAtARate(r *rig) {
	const n = 2500
	r.acceptN(n)
	var ss []queue.Settlement
	for _, c := range r.claim(n) {
		ss = append(ss, dead(c))
	}
	r.settle(ss...)
	start := time.Now()
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{Rate: 10}); n != 2500 || err != nil {
		r.t.Fatalf("%d (%v) of 2500", n, err)
	}
	r.step()
	done := 0
	for _, at := range []time.Duration{10 * time.Second, 100 * time.Second, 240 * time.Second, 250 * time.Second} {
		time.Sleep(time.Until(start.Add(at - 50*time.Millisecond)))
		got := r.claim(n)
		done += len(got)
		if want := int(at / (100 * time.Millisecond)); done != want {
			r.t.Fatalf("%d were due after %v, want %d", done, at, want)
		}
		ss = ss[:0]
		for _, c := range got {
			ss = append(ss, delivered(c))
		}
		r.settle(ss...)
		r.step()
	}
}

// retryDeadKeepsNobody makes dead deliveries due far in the future, which keeps a lane in strict order from nothing, and then
// at once after all.
func retryDeadKeepsNobody(r *rig) {
	room := ordered(queue.OrderStrict)
	r.acceptN(4)
	for range 4 {
		r.settle(dead(r.claimWith(1, room)[0]))
	}
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{Rate: 0.001}); n != 4 || err != nil {
		r.t.Fatalf("%d (%v) of 4", n, err)
	}
	r.step()
	r.acceptN(2)
	var came []uint64
	for range 3 {
		got := r.claimWith(10, room)
		if len(got) != 1 {
			r.t.Fatalf("%d claims after %v, want one of 1, 5 and 6", len(got), came)
		}
		came = append(came, seqsOf(got[0])...)
		r.settle(delivered(got[0]))
		r.step()
	}
	slices.Sort(came)
	if !slices.Equal(came, []uint64{1, 5, 6}) { // first attempts and retries take turns
		r.t.Fatalf("%v came", came)
	}
	r.wantStats(0, 3, 0, 0)
	for _, dry := range []bool{true, false} {
		for _, reason := range []string{queue.ReasonExhausted, queue.ReasonRejected} {
			want := 0
			if reason == queue.ReasonRejected {
				want = 3
			}
			s := queue.DeadSelection{Reason: reason, DryRun: dry}
			if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), s); n != want || err != nil {
				r.t.Fatalf("%+v names %d (%v), want %d", s, n, err, want)
			}
		}
	}
	r.step()
	for seq := uint64(2); seq <= 4; seq++ {
		got := r.claimWith(10, room)
		if len(got) != 1 {
			r.t.Fatalf("%d claims, want that of %d", len(got), seq)
		}
		r.wantSeqs(got[0], seq)
		r.settle(delivered(got[0]))
		r.step()
	}
	r.wantStats(0, 0, 0, 0)
}

func hasten(r *rig) {
	r.acceptN(7)
	got := r.claimWith(10, inBatches(3, 0))
	r.settle(retrying(got[0], time.Hour), retrying(got[1], time.Minute), dead(got[2]))
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{}); n != 1 || err != nil {
		r.t.Fatal(n, err)
	}
	r.settle(dead(r.claimOne()))
	r.acceptN(1)
	by := r.claimOne()
	r.settle(dead(by))
	if n, err := r.q.RetryDead(r.t.Context(), laneOf(1), queue.DeadSelection{Rate: 0.01}); n != 2 || err != nil {
		r.t.Fatal(n, err)
	}
	r.settle(delivered(r.claimOne()))
	r.step()
	r.wantStats(0, 7, 0, 0)
	r.none()
	for range 2 {
		for _, l := range []queue.Lane{laneOf(1), laneOf(9)} {
			if err := r.q.Hasten(r.t.Context(), l); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	r.step()
	got = r.claim(10)
	if len(got) != 2 {
		r.t.Fatalf("%d claims of two batches", len(got))
	}
	r.wantSeqs(got[0], 1, 2, 3)
	r.wantSeqs(got[1], 4, 5, 6)
	if got[0].Attempt != 2 || got[0].Retries != 1 {
		r.t.Errorf("hastened came %+v", got[0])
	}
	r.settle(delivered(got[0]), retrying(got[1], time.Hour))
	r.step()
	r.none()
	r.wantStats(0, 4, 0, 0)
	time.Sleep(time.Hour)
	if got := r.claim(10); len(got) != 2 {
		r.t.Fatalf("%d claims, want the batch and the one by hand", len(got))
	}
}

func listByReason(r *rig) {
	r.acceptN(6)
	for i, c := range r.claim(5) {
		s := dead(c)
		s.Reason = []string{queue.ReasonRejected, queue.ReasonExhausted}[i%2]
		if i == 4 {
			s.State, s.Reason = queue.StateDiscarded, queue.ReasonDisabled
		}
		r.settle(s)
	}
	r.step()
	for _, lane := range []queue.Lane{{}, laneOf(1)} {
		for reason, want := range map[string][]uint64{
			queue.ReasonRejected: {3, 1}, queue.ReasonExhausted: {4, 2}, queue.ReasonDisabled: {5}, queue.ReasonExpired: nil,
		} {
			for _, state := range []queue.State{"", queue.StateDead, queue.StateDiscarded} {
				list, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{AccountID: account, Lane: lane, State: state, Reason: reason, Limit: 10})
				if err != nil {
					r.t.Fatal(err)
				}
				var got []uint64
				for _, d := range list {
					got = append(got, d.ID.Seq)
				}
				expect := want
				if state != "" && (state == queue.StateDiscarded) != (reason == queue.ReasonDisabled) {
					expect = nil
				}
				if !slices.Equal(got, expect) {
					r.t.Fatalf("%s %s: %v, want %v", state, reason, got, expect)
				}
			}
		}
	}
}

func laneStats(r *rig) {
	if s := r.q.LaneStats(laneOf(1)); s != (queue.LaneStats{}) {
		r.t.Errorf("a lane nobody knows: %+v", s)
	}
	start := time.Now()
	r.acceptN(5)
	got := r.claim(3)
	s := retrying(got[0], time.Minute)
	r.settle(s, dead(got[1]))
	stats := r.q.LaneStats(laneOf(1))
	if stats.Pending != 2 || stats.Retrying != 1 || stats.Delivering != 1 || stats.Dead != 1 {
		r.t.Errorf("stats are %+v", stats)
	}
	if gap := stats.NextRetry.Sub(s.Due); gap < 0 || gap > time.Millisecond {
		r.t.Errorf("the next retry is due %v, asked for %v", stats.NextRetry, s.Due)
	}
	if stats.OldestPending.Before(start.Truncate(time.Millisecond)) || stats.OldestPending.After(start.Add(time.Second)) {
		r.t.Errorf("the oldest was accepted %v", stats.OldestPending)
	}
	r.step()
	if r.mode != running {
		if s := r.q.LaneStats(laneOf(1)); s.Pending != 3 || s.Retrying != 1 || s.Delivering != 0 || s.Dead != 1 {
			r.t.Errorf("after a restart stats are %+v", s)
		}
	}
}
