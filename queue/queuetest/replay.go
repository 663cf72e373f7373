package queuetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"herald/queue"
)

func replayScenarios() []scenario {
	return []scenario{
		{"ReplayOfEveryState", replayOfEveryState},
		{"ReplayOfFailed", replayOfFailed},
		{"ReplayOfASpan", replayOfASpan},
		{"ReplayForANewLane", replayForANewLane},
		{"ReplayGoesBehind", replayGoesBehind},
		{"ReplayAtARate", replayAtARate},
		{"ReplayInBatches", replayInBatches},
		{"ReplayFails", replayFails},
		{"ReplayInStrictOrder", replayInStrictOrder},
		{"ReplayInOrderByKey", replayInOrderByKey},
		{"ReplayCancelled", replayCancelled},
		{"ReplayOfBatchesCancelled", replayOfBatchesCancelled},
		{"ReplaysTakeTurns", replaysTakeTurns},
		{"ReplayOfALaneGivenUp", replayOfALaneGivenUp},
		{"ReplayOfKeptEvents", replayOfKeptEvents},
		{"ReplayExpires", replayExpires},
		{"ReplayOfMany", replayOfMany},
	}
}

func all(*queue.Event) bool { return true }

// replay starts a replay of lane 1 of all that was accepted so far.
func (r *rig) replay(failed bool) queue.Replay {
	r.t.Helper()
	return r.startReplay(queue.Replay{Lane: laneOf(1), Failed: failed})
}

func (r *rig) startReplay(want queue.Replay) queue.Replay {
	r.t.Helper()
	want.AccountID = account
	if want.Until.IsZero() {
		want.Since, want.Until = time.Now().Add(-1000*time.Hour), time.Now().Add(time.Millisecond)
	}
	made, err := r.q.StartReplay(r.t.Context(), want)
	if err != nil {
		r.t.Fatalf("StartReplay: %v", err)
	}
	if made.ID == (queue.ReplayID{}) || made.State != queue.ReplayRunning || made.CreatedAt.IsZero() || made.Lane != want.Lane || made.Failed != want.Failed || made.Rate != want.Rate {
		r.t.Fatalf("StartReplay answers %+v", made)
	}
	return made
}

// advance makes up to n deliveries of lane 1 due, and returns how many it were.
func (r *rig) advance(n int) (queue.Replay, int) {
	r.t.Helper()
	return r.advanceBy(queue.ReplayStep{Match: all, Limit: n})
}

func (r *rig) advanceBy(s queue.ReplayStep) (queue.Replay, int) {
	r.t.Helper()
	if s.Match == nil {
		s.Match = all
	}
	replay, n, err := r.q.AdvanceReplay(r.t.Context(), laneOf(1), s)
	if err != nil {
		r.t.Fatalf("AdvanceReplay: %v", err)
	}
	return replay, n
}

// replayed claims what a replay made due, in the order of events.
func (r *rig) replayed(want ...uint64) []queue.Claim {
	r.t.Helper()
	got := r.claim(len(want) + 1)
	slices.SortFunc(got, func(a, b queue.Claim) int { return int(a.Deliveries[0].Seq) - int(b.Deliveries[0].Seq) }) //nolint:gosec // small
	var seqs []uint64
	for _, c := range got {
		if !c.Replay {
			r.t.Fatalf("%v is not said to be replayed", seqsOf(c))
		}
		seqs = append(seqs, seqsOf(c)...)
	}
	if !slices.Equal(seqs, want) {
		r.t.Fatalf("replayed are %v, want %v", seqs, want)
	}
	return got
}

// finishReplay checks that the replay of lane 1 comes to its end having made n deliveries due.
func (r *rig) finishReplay(n int64) {
	r.t.Helper()
	var last queue.Replay
	for range 10 {
		var made int
		if last, made = r.advance(100); made > 0 {
			r.t.Fatalf("%d more deliveries became due", made)
		}
		if last.State == queue.ReplayDone {
			break
		}
	}
	if last.State != queue.ReplayDone || last.EndedAt.IsZero() || last.Deliveries != n {
		r.t.Fatalf("the replay ends as %+v, want it done after %d deliveries", last, n)
	}
	if _, _, err := r.q.AdvanceReplay(r.t.Context(), laneOf(1), queue.ReplayStep{Match: all, Limit: 1}); err == nil {
		r.t.Fatal("a replay that is done goes on")
	}
}

// delivery of lane 1.
func on(seq uint64) queue.DeliveryID { return queue.DeliveryID{Seq: seq, Lane: laneOf(1)} }

// everyState makes events of lane 1: 1 delivered, 2 dead, 3 discarded, 4 retrying, 5 for lane 2 only and 6 waiting for its
// first attempt.
func everyState(r *rig) {
	r.t.Helper()
	r.acceptN(4)
	got := r.claim(4)
	discarded := queue.Settlement{Lane: got[2].Lane, Deliveries: got[2].Deliveries, State: queue.StateDiscarded, Reason: queue.ReasonDisabled}
	r.settle(delivered(got[0]), dead(got[1]), discarded, retrying(got[3], 100*time.Hour))
	r.accept(submission(5, laneOf(2)))
	r.settle(delivered(r.claimOne()))
	r.accept(submission(6, laneOf(1)))
	r.step()
}

func replayOfEveryState(r *rig) {
	everyState(r)
	made := r.replay(false)
	if n, err := r.q.CountReplay(r.t.Context(), made, all); err != nil || n != 5 {
		r.t.Fatalf("CountReplay says %d (%v), want 5", n, err)
	}
	r.step()
	if got := r.q.Replaying(); len(got) != 1 || got[0] != laneOf(1) {
		r.t.Fatalf("lanes with replays: %v", got)
	}
	_, n := r.advance(2)
	r.step()
	replay, m := r.advance(100)
	if n != 2 || m != 3 || replay.Deliveries != 5 || replay.State != queue.ReplayRunning || replay.Reached.IsZero() {
		r.t.Fatalf("%d and %d became due: %+v", n, m, replay)
	}
	if s := r.q.LaneStats(laneOf(1)); s.Replayed != 5 || s.Retrying != 5 || s.Pending != 1 {
		r.t.Fatalf("lane stats %+v", s)
	}
	r.step()
	r.settle(delivered(r.claim(1)[0])) // event 6, which goes before them
	if replay, n := r.advance(100); n != 0 || replay.State != queue.ReplayRunning {
		r.t.Fatalf("the replay is %s before all was tried", replay.State)
	}
	attempts := map[uint64]int{1: 2, 2: 2, 3: 1, 4: 2, 5: 1, 6: 1}
	for _, c := range r.replayed(1, 2, 3, 4, 5) {
		if seq := c.Deliveries[0].Seq; c.Attempt != attempts[seq] || c.Retries != 0 || c.Deliveries[0].Event.Resource != fmt.Sprintf("project/%d", resourceOf(seq)) {
			r.t.Fatalf("replayed as %+v", c)
		}
		r.settle(delivered(c))
	}
	r.step()
	r.finishReplay(5)
	r.step()
	for seq, n := range attempts {
		r.want(on(seq), queue.StateDelivered, n)
	}
	// The one that the replay has made is found like any other.
	for what, f := range map[string]queue.DeliveryFilter{
		"lane":  {Lane: laneOf(1)},
		"state": {Lane: laneOf(1), State: queue.StateDelivered},
	} {
		f.AccountID, f.Limit = account, 100
		if list, err := r.q.Deliveries(r.t.Context(), f); err != nil || len(list) != 6 || list[1].ID != on(5) {
			r.t.Fatalf("by %s: %d deliveries (%v)", what, len(list), err)
		}
	}
	d := r.want(on(5), queue.StateDelivered, 1)
	for _, f := range []queue.DeliveryFilter{{EventID: d.EventID}, {Since: d.AcceptedAt}} {
		f.AccountID, f.Limit = account, 100
		list, err := r.q.Deliveries(r.t.Context(), f)
		if err != nil || !slices.ContainsFunc(list, func(d *queue.Delivery) bool { return d.ID == on(5) }) ||
			!slices.ContainsFunc(list, func(d *queue.Delivery) bool { return d.ID.Lane == laneOf(2) }) {
			r.t.Fatalf("%+v: %d deliveries (%v)", f, len(list), err)
		}
		// Page by page, one after the other.
		var pages []*queue.Delivery
		for f.Limit = 1; len(pages) < 20; {
			page, err := r.q.Deliveries(r.t.Context(), f)
			if err != nil || len(page) == 0 {
				break
			}
			pages = append(pages, page...)
			f.After = page[0].ID
		}
		if !slices.EqualFunc(list, pages, func(a, b *queue.Delivery) bool { return a.ID == b.ID }) {
			r.t.Fatalf("%d deliveries at once and %d one by one", len(list), len(pages))
		}
	}
	r.wantStats(0, 0, 0, 0)
}

// resourceOf is the number of the resource of an event of everyState.
func resourceOf(seq uint64) uint64 {
	if seq <= 4 {
		return seq - 1
	}
	return seq
}

func replayOfFailed(r *rig) {
	everyState(r)
	made := r.replay(true)
	if n, err := r.q.CountReplay(r.t.Context(), made, all); err != nil || n != 3 {
		r.t.Fatalf("CountReplay says %d (%v), want 3", n, err)
	}
	r.step()
	r.settle(delivered(r.claimOne()))
	if _, n := r.advance(100); n != 3 {
		r.t.Fatalf("%d became due, want 3", n)
	}
	r.step()
	for _, c := range r.replayed(2, 3, 4) {
		r.settle(delivered(c))
	}
	r.finishReplay(3)
	if _, _, err := r.q.Delivery(r.t.Context(), account, on(5)); err == nil {
		r.t.Fatal("an event that was not for the lane has a delivery")
	}
	// All has arrived: there is nothing to replay.
	r.replay(true)
	r.finishReplay(0)
}

func replayOfASpan(r *rig) {
	var times []time.Time
	for n := range 6 {
		r.accept(submission(n, laneOf(1)))
		times = append(times, time.Now())
		r.settle(delivered(r.claimOne()))
		time.Sleep(time.Hour)
	}
	other := submission(6, laneOf(1))
	other.AccountID = "another"
	r.accept(other)
	r.settle(delivered(r.claimOne()))
	r.step()
	since, until := times[1].Add(-time.Minute), times[4].Add(-time.Minute)
	made := r.startReplay(queue.Replay{Lane: laneOf(1), Since: since, Until: until, Rate: 12.5})
	third := func(ev *queue.Event) bool { return !strings.HasSuffix(ev.Resource, "/2") }
	if n, err := r.q.CountReplay(r.t.Context(), made, third); err != nil || n != 2 {
		r.t.Fatalf("CountReplay says %d (%v), want 2", n, err)
	}
	// What is accepted from now on is not meant, whatever the span says.
	r.accept(submission(7, laneOf(1)))
	r.settle(delivered(r.claimOne()))
	r.step()
	replay, n := r.advanceBy(queue.ReplayStep{Match: third, Limit: 100})
	if n != 2 || !replay.Reached.Equal(times[3].Truncate(time.Millisecond)) || replay.Rate != 12.5 ||
		replay.Since.Sub(since) >= time.Millisecond || replay.Until.Sub(until) >= time.Millisecond {
		r.t.Fatalf("%d became due: %+v, of %v", n, replay, times)
	}
	r.step()
	for _, c := range r.replayed(2, 4) {
		r.settle(delivered(c))
	}
	r.finishReplay(2)
}

// replayForANewLane has a lane that no event ever named.
func replayForANewLane(r *rig) {
	for n := range 3 {
		r.accept(submission(n))
	}
	r.step()
	r.replay(false)
	r.advance(2)
	r.step()
	got := r.replayed(1, 2)
	r.settle(dead(got[0]), retrying(got[1], time.Minute))
	r.step()
	r.want(on(1), queue.StateDead, 1)
	r.want(on(2), queue.StateRetrying, 1)
	r.wantStats(0, 1, 0, 1)
	r.advance(2)
	r.settle(delivered(r.replayed(3)[0]))
	r.finishReplay(3)
	time.Sleep(time.Minute)
	r.settle(delivered(r.replayed(2)[0]))
	r.step()
	// By hand it can be tried again like any other; then it is not a replay.
	for _, seq := range []uint64{1, 3} {
		if err := r.q.Retry(r.t.Context(), account, on(seq)); err != nil {
			r.t.Fatal(err)
		}
		if c := r.claimOne(); c.Replay || c.Attempt != 2 {
			r.t.Fatalf("retried by hand as %+v", c)
		} else {
			r.settle(delivered(c))
		}
	}
	r.step()
	r.wantStats(0, 0, 0, 0)
	r.wantErr(r.q.Retry(r.t.Context(), account, queue.DeliveryID{Seq: 2, Lane: laneOf(2)}), queue.ErrNotFound)
}

// replayGoesBehind has first attempts and scheduled retries beside a replay.
func replayGoesBehind(r *rig) {
	r.acceptN(6)
	got := r.claim(6)
	r.settle(delivered(got[0]), delivered(got[1]), delivered(got[2]))
	r.settle(retrying(got[3], time.Minute), retrying(got[4], time.Minute), delivered(got[5]))
	r.replay(false)
	if _, n := r.advance(3); n != 3 {
		r.t.Fatalf("%d became due", n)
	}
	r.acceptN(3)
	r.step()
	time.Sleep(time.Minute)
	// First attempts and scheduled retries take turns; the replayed come last.
	var order []uint64
	for range 8 {
		c := r.claim(1)[0]
		if c.Replay != (c.Deliveries[0].Seq <= 3) {
			r.t.Fatalf("%+v", c)
		}
		order = append(order, c.Deliveries[0].Seq)
	}
	if slices.Sort(order[:5]); !slices.Equal(order[:5], []uint64{4, 5, 7, 8, 9}) {
		r.t.Fatalf("claimed in the order %v", order)
	}
	r.none()
}

func replayAtARate(r *rig) {
	r.acceptN(5)
	for _, c := range r.claim(5) {
		r.settle(delivered(c))
	}
	r.replay(false)
	start := time.Now().Add(time.Minute)
	if _, n := r.advanceBy(queue.ReplayStep{Limit: 4, Due: start, Every: 10 * time.Second}); n != 4 {
		r.t.Fatalf("%d became due", n)
	}
	r.step()
	for i := range 4 {
		due := start.Add(time.Duration(i) * 10 * time.Second)
		time.Sleep(time.Until(due) - 10*time.Millisecond)
		r.none()
		time.Sleep(60 * time.Millisecond)                 // the moments may be rounded up
		r.settle(delivered(r.replayed(uint64(i + 1))[0])) //nolint:gosec // small
	}
}

func replayInBatches(r *rig) {
	r.acceptN(9)
	for _, c := range r.claim(9) {
		r.settle(delivered(c))
	}
	size := int64(0)
	r.replay(false)
	if _, n := r.advanceBy(queue.ReplayStep{Limit: 7, Records: 3}); n != 7 {
		r.t.Fatalf("%d became due", n)
	}
	r.step()
	got := r.replayed(1, 2, 3, 4, 5, 6, 7)
	if len(got) != 3 {
		r.t.Fatalf("%d pushes", len(got))
	}
	r.wantSeqs(got[0], 1, 2, 3)
	r.wantSeqs(got[2], 7)
	for _, d := range got[0].Deliveries {
		size += int64(len(d.Event.Data))
	}
	r.settle(retrying(got[0], time.Minute), delivered(got[1]), delivered(got[2]))
	r.step()
	// Events with others' names take a little more room than their data: of two as large only one fits.
	if _, n := r.advanceBy(queue.ReplayStep{Limit: 7, Records: 3, Bytes: size}); n != 2 {
		r.t.Fatalf("%d became due", n)
	}
	r.step()
	if got = r.replayed(8, 9); len(got) != 2 {
		r.t.Fatalf("%d pushes, each as large as one may be", len(got))
	}
	r.settle(delivered(got[0]), delivered(got[1]))
	r.finishReplay(9)
	// What failed together is tried again together, and still is a replay.
	time.Sleep(time.Minute)
	r.step()
	if got = r.replayed(1, 2, 3); len(got) != 1 || got[0].Attempt != 3 || got[0].Retries != 1 {
		r.t.Fatalf("%+v", got)
	}
	r.settle(delivered(got[0]))
	r.step()
	r.want(on(2), queue.StateDelivered, 3)
}

// replayFails has replayed deliveries fail: they go on like others, and hold up nothing.
func replayFails(r *rig) {
	r.acceptN(4)
	for _, c := range r.claim(4) {
		r.settle(delivered(c))
	}
	r.replay(false)
	r.advance(2)
	got := r.replayed(1, 2)
	r.settle(retrying(got[0], time.Minute), dead(got[1]))
	r.step()
	r.want(on(1), queue.StateRetrying, 2)
	r.want(on(2), queue.StateDead, 2)
	r.advance(2)
	for _, c := range r.replayed(3, 4) {
		r.settle(delivered(c))
	}
	r.finishReplay(4)
	r.step()
	time.Sleep(time.Minute)
	got = r.replayed(1)
	if got[0].Attempt != 3 || got[0].Retries != 1 {
		r.t.Fatalf("tried again as %+v", got[0])
	}
	r.settle(delivered(got[0]))
	r.step()
	if err := r.q.Retry(r.t.Context(), account, on(2)); err != nil {
		r.t.Fatal(err)
	}
	r.settle(delivered(r.claimOne()))
	r.wantStats(0, 0, 0, 0)
}

// replayInStrictOrder: replayed deliveries go one at a time in their order, and one that fails holds up the others of the
// replay, but not what is new.
func replayInStrictOrder(r *rig) {
	strict := ordered(queue.OrderStrict)
	r.acceptN(4)
	for range 4 {
		r.settle(delivered(r.claimWith(1, strict)[0]))
	}
	r.replay(false)
	r.advance(3)
	r.step()
	got := r.claimWith(5, strict)
	if len(got) != 1 {
		r.t.Fatalf("%d are under way at once", len(got))
	}
	r.wantSeqs(got[0], 1)
	r.settle(delivered(got[0]))
	got = r.claimWith(5, strict)
	r.wantSeqs(got[0], 2)
	r.settle(retrying(got[0], time.Hour))
	r.step()
	if got = r.claimWith(5, strict); len(got) != 0 {
		r.t.Fatalf("%v overtakes the one before it", seqsOf(got[0]))
	}
	r.acceptN(1)
	if got = r.claimWith(5, strict); len(got) != 1 || got[0].Replay {
		r.t.Fatalf("what is new is held up by a replay: %+v", got)
	}
	r.wantSeqs(got[0], 5)
	r.settle(delivered(got[0]))
	r.advance(3)
	r.step()
	time.Sleep(time.Hour)
	for _, seq := range []uint64{2, 3, 4} {
		if got = r.claimWith(5, strict); len(got) != 1 || !got[0].Replay {
			r.t.Fatalf("%+v, want event %d", got, seq)
		}
		r.wantSeqs(got[0], seq)
		r.settle(delivered(got[0]))
	}
	r.finishReplay(4)
}

func replayInOrderByKey(r *rig) {
	byKey := ordered(queue.OrderKey)
	r.acceptN(6, 1, 2)
	for done := 0; done < 6; {
		for _, c := range r.claimWith(6, byKey) {
			r.settle(delivered(c))
			done++
		}
	}
	r.replay(false)
	r.advance(100)
	r.step()
	got := r.claimWith(9, byKey)
	if len(got) != 2 {
		r.t.Fatalf("%d of two keys are under way", len(got))
	}
	slices.SortFunc(got, func(a, b queue.Claim) int { return int(a.Deliveries[0].Seq) - int(b.Deliveries[0].Seq) }) //nolint:gosec // small
	r.wantSeqs(got[0], 1)
	r.wantSeqs(got[1], 2)
	r.settle(retrying(got[0], time.Hour), delivered(got[1]))
	r.step()
	for _, seq := range []uint64{4, 6} {
		got = r.claimWith(9, byKey)
		if len(got) != 1 {
			r.t.Fatalf("%d are under way while one key waits", len(got))
		}
		r.wantSeqs(got[0], seq)
		r.settle(delivered(got[0]))
	}
	r.acceptN(1, 1)
	got = r.claimWith(9, byKey)
	if len(got) != 1 || got[0].Replay {
		r.t.Fatalf("what is new is held up by a replay: %+v", got)
	}
	r.settle(delivered(got[0]))
	time.Sleep(time.Hour)
	r.step()
	for _, seq := range []uint64{1, 3, 5} {
		if got = r.claimWith(9, byKey); len(got) != 1 {
			r.t.Fatalf("%d are under way", len(got))
		}
		r.wantSeqs(got[0], seq)
		r.settle(delivered(got[0]))
	}
	r.finishReplay(6)
}

func replayCancelled(r *rig) {
	everyState(r)
	r.settle(delivered(r.claimOne()))
	made := r.replay(false)
	r.wantErr(r.q.CancelReplay(r.t.Context(), laneOf(2), made.ID), queue.ErrNotFound)
	if _, n := r.advance(5); n != 5 {
		r.t.Fatalf("%d became due", n)
	}
	r.step()
	under := r.claim(1)
	r.wantSeqs(under[0], 1)
	if err := r.q.CancelReplay(r.t.Context(), laneOf(1), made.ID); err != nil {
		r.t.Fatal(err)
	}
	r.settle(delivered(under[0]))
	r.step()
	r.want(on(1), queue.StateDelivered, 2)
	if d := r.want(on(2), queue.StateDead, 1); d.Reason != queue.ReasonRejected {
		r.t.Fatalf("dead for %q", d.Reason)
	}
	if d := r.want(on(3), queue.StateDiscarded, 0); d.Reason != queue.ReasonDisabled {
		r.t.Fatalf("discarded for %q", d.Reason)
	}
	r.want(on(6), queue.StateDelivered, 1)
	if _, _, err := r.q.Delivery(r.t.Context(), account, on(5)); err == nil {
		r.t.Fatal("the delivery that only the replay had made is still there")
	}
	// The one that waited for its retry does so again, until its time.
	r.none()
	time.Sleep(100 * time.Hour)
	c := r.claimOne()
	if c.Replay || c.Attempt != 2 {
		r.t.Fatalf("%+v", c)
	}
	r.wantSeqs(c, 4)
	r.settle(delivered(c))
	r.step()
	if got := r.q.Replays(laneOf(1)); len(got) != 1 || got[0].State != queue.ReplayCancelled || got[0].EndedAt.IsZero() || got[0].Deliveries != 5 {
		r.t.Fatalf("replays %+v", got)
	}
	_, _, err := r.q.AdvanceReplay(r.t.Context(), laneOf(1), queue.ReplayStep{Match: all, Limit: 1})
	r.wantErr(err, queue.ErrNotFound)
	if err := r.q.CancelReplay(r.t.Context(), laneOf(1), made.ID); err != nil {
		r.t.Fatalf("cancelled twice: %v", err)
	}
	r.wantErr(r.q.CancelReplay(r.t.Context(), laneOf(1), queue.ReplayID{1}), queue.ErrNotFound)
	r.wantErr(r.q.CancelReplay(r.t.Context(), laneOf(9), made.ID), queue.ErrNotFound)
	r.wantStats(0, 0, 0, 1)
}

func replayOfBatchesCancelled(r *rig) {
	r.acceptN(6)
	got := r.claimWith(6, inBatches(2, 0))
	r.settle(delivered(got[0]), dead(got[1]), retrying(got[2], 100*time.Hour))
	made := r.replay(false)
	if _, n := r.advanceBy(queue.ReplayStep{Limit: 6, Records: 4}); n != 6 {
		r.t.Fatalf("%d became due", n)
	}
	r.step()
	if err := r.q.CancelReplay(r.t.Context(), laneOf(1), made.ID); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	for seq, state := range map[uint64]queue.State{1: queue.StateDelivered, 2: queue.StateDelivered, 3: queue.StateDead, 4: queue.StateDead} {
		r.want(on(seq), state, 1)
	}
	if d := r.want(on(3), queue.StateDead, 1); d.Reason != queue.ReasonRejected {
		r.t.Fatalf("dead for %q", d.Reason)
	}
	r.none()
	time.Sleep(100 * time.Hour)
	for _, c := range r.claim(3) {
		if c.Replay {
			r.t.Fatalf("%+v", c)
		}
		r.settle(delivered(c))
	}
	r.step()
	r.want(on(6), queue.StateDelivered, 2)
	r.wantStats(0, 0, 0, 2)
}

func replaysTakeTurns(r *rig) {
	r.acceptN(2)
	for _, c := range r.claim(2) {
		r.settle(delivered(c))
	}
	var made []queue.Replay
	for range queue.MaxReplays {
		made = append(made, r.replay(false))
		time.Sleep(2 * time.Millisecond)
	}
	_, err := r.q.StartReplay(r.t.Context(), made[0])
	r.wantErr(err, queue.ErrTooMany)
	r.step()
	// One that waits for its turn can be cancelled.
	if err := r.q.CancelReplay(r.t.Context(), laneOf(1), made[1].ID); err != nil {
		r.t.Fatal(err)
	}
	for i := range made {
		if i == 1 {
			continue
		}
		replay, n := r.advance(5)
		if n != 2 || replay.ID != made[i].ID {
			r.t.Fatalf("%d of %v became due, want 2 of %v", n, replay.ID, made[i].ID)
		}
		for _, c := range r.replayed(1, 2) {
			r.settle(delivered(c))
		}
		if replay, _ = r.advance(5); replay.State != queue.ReplayDone {
			r.t.Fatalf("replay %d is %s", i, replay.State)
		}
	}
	r.step()
	r.want(on(1), queue.StateDelivered, 10)
	// The newest are kept.
	for range queue.KeptReplays {
		made = append(made, r.replay(false))
		for replay, _ := r.advance(5); replay.State == queue.ReplayRunning; replay, _ = r.advance(5) {
			for _, c := range r.claim(5) {
				r.settle(delivered(c))
			}
		}
	}
	r.step()
	got := r.q.Replays(laneOf(1))
	if len(got) != queue.KeptReplays || got[0].ID != made[len(made)-queue.KeptReplays].ID {
		r.t.Fatalf("%d replays are kept", len(got))
	}
	if len(r.q.Replaying()) != 0 {
		r.t.Fatal("none is running")
	}
}

func replayOfALaneGivenUp(r *rig) {
	everyState(r)
	r.replay(false)
	r.replay(false)
	if _, n := r.advance(2); n != 2 {
		r.t.Fatal("nothing became due")
	}
	if err := r.q.Discard(r.t.Context(), laneOf(1), queue.ReasonDisabled); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	r.none()
	r.want(on(1), queue.StateDelivered, 1)
	r.want(on(2), queue.StateDead, 1)
	r.want(on(4), queue.StateDiscarded, 1)
	r.want(on(6), queue.StateDiscarded, 0)
	for _, x := range r.q.Replays(laneOf(1)) {
		if x.State != queue.ReplayCancelled {
			r.t.Fatalf("%+v", x)
		}
	}
	// What was given up can be replayed.
	r.replay(true)
	if _, n := r.advance(9); n != 4 {
		r.t.Fatalf("%d became due, want 4", n)
	}
	r.step()
	for _, c := range r.replayed(2, 3, 4, 6) {
		r.settle(delivered(c))
	}
	r.step()
	r.want(on(6), queue.StateDelivered, 1)
	r.finishReplay(4)
	r.replay(false)
	r.advance(3)
	if err := r.q.DropLane(r.t.Context(), laneOf(1)); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	r.none()
	if got := r.q.Replays(laneOf(1)); len(got) != 0 {
		r.t.Fatalf("%d replays of a lane that was dropped", len(got))
	}
	_, err := r.q.StartReplay(r.t.Context(), queue.Replay{Lane: laneOf(1), AccountID: account})
	r.wantErr(err, queue.ErrGone)
}

// replayOfKeptEvents has an event over age that is kept because a delivery of it is dead.
func replayOfKeptEvents(r *rig) {
	r.configure(queue.Retention{Events: time.Hour, Attempts: 1000 * time.Hour, Dead: 1000 * time.Hour})
	r.acceptN(3)
	got := r.claim(3)
	r.settle(dead(got[0]), dead(got[1]), delivered(got[2]))
	time.Sleep(3 * time.Hour)
	r.accept(submission(9, laneOf(3)))
	r.settle(delivered(r.claimOne()))
	r.step()
	made := r.replay(false)
	r.startReplay(queue.Replay{Lane: laneOf(2)})
	if n, err := r.q.CountReplay(r.t.Context(), made, all); err != nil || n != 3 {
		r.t.Fatalf("CountReplay says %d (%v), want 3", n, err)
	}
	if _, n := r.advance(1); n != 1 {
		r.t.Fatal("nothing became due")
	}
	r.step()
	r.advance(10)
	if _, n, err := r.q.AdvanceReplay(r.t.Context(), laneOf(2), queue.ReplayStep{Match: all, Limit: 10}); err != nil || n != 3 {
		r.t.Fatalf("%d became due for another lane (%v)", n, err)
	}
	r.step()
	for _, c := range r.claim(6) {
		if !c.Replay {
			r.t.Fatalf("%+v", c)
		}
		r.settle(delivered(c))
	}
	r.step()
	r.want(on(1), queue.StateDelivered, 2)
	r.want(queue.DeliveryID{Seq: 2, Lane: laneOf(2)}, queue.StateDelivered, 1)
	r.finishReplay(3)
	// One that is cancelled leaves nothing behind.
	cancelled := r.startReplay(queue.Replay{Lane: laneOf(4)})
	if _, n, err := r.q.AdvanceReplay(r.t.Context(), laneOf(4), queue.ReplayStep{Match: all, Limit: 10}); err != nil || n != 3 {
		r.t.Fatalf("%d became due (%v)", n, err)
	}
	if err := r.q.CancelReplay(r.t.Context(), laneOf(4), cancelled.ID); err != nil {
		r.t.Fatal(err)
	}
	r.step()
	if list, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{AccountID: account, Lane: laneOf(4), Limit: 10}); err != nil || len(list) != 0 {
		r.t.Fatalf("%d deliveries of a replay that was cancelled (%v)", len(list), err)
	}
}

// replayExpires has events come over age while a replay waits.
func replayExpires(r *rig) {
	r.configure(queue.Retention{Events: 10 * time.Hour, Attempts: 1000 * time.Hour, Dead: 1000 * time.Hour})
	everyState(r)
	r.settle(delivered(r.claimOne()))
	r.replay(false)
	if _, n := r.advance(9); n != 6 {
		r.t.Fatalf("%d became due", n)
	}
	r.step()
	time.Sleep(12 * time.Hour)
	r.step()
	r.none()
	// What it was before, it is again, and so it is gone with its event, or kept as a dead one is.
	for _, seq := range []uint64{1, 3, 6} {
		if _, _, err := r.q.Delivery(r.t.Context(), account, on(seq)); err == nil {
			r.t.Fatalf("the delivery of event %d outlived it", seq)
		}
	}
	if d := r.want(on(2), queue.StateDead, 1); d.Reason != queue.ReasonRejected {
		r.t.Fatalf("dead for %q", d.Reason)
	}
	for _, seq := range []uint64{4, 5} {
		if d, _, err := r.q.Delivery(r.t.Context(), account, on(seq)); err != nil || d.State != queue.StateDead || d.Reason != queue.ReasonExpired {
			r.t.Fatalf("%+v (%v)", d, err)
		}
	}
	r.finishReplay(6)
}

// replayOfMany goes over several segments in many steps, and makes each delivery due once.
func replayOfMany(r *rig) {
	if r.mode != running {
		return // it is about how far it comes, which the others test over restarts
	}
	const n = 20_000
	for range n / 1000 {
		r.acceptN(1000)
		for range 2 {
			for _, c := range r.claimWith(1000, inBatches(1000, 0)) {
				r.settle(delivered(c))
			}
		}
		time.Sleep(time.Minute)
	}
	r.replay(false)
	seen := map[uint64]bool{}
	due := 0
	for range 2 * n / 500 {
		replay, made := r.advanceBy(queue.ReplayStep{Limit: 500, Records: 100})
		if due += made; replay.State != queue.ReplayRunning {
			break
		}
		for _, c := range r.claim(10) {
			for _, d := range c.Deliveries {
				if seen[d.Seq] {
					r.t.Fatalf("event %d became due twice", d.Seq)
				}
				seen[d.Seq] = true
			}
			r.settle(delivered(c))
		}
	}
	if due != n || len(seen) != n {
		r.t.Fatalf("%d became due and %d were claimed of %d", due, len(seen), n)
	}
}
