package queuetest

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"herald/queue"
)

func shapedScenarios() []scenario {
	var list []scenario
	for seed := range seeds() {
		list = append(list, scenario{fmt.Sprint("Shaped", seed), func(r *rig) { shaped(r, seed) }})
	}
	return list
}

func byResource(ev *queue.Event) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(ev.Resource)) // documented never to fail
	return h.Sum64()
}

// shape is how a lane of the random scenario is to be claimed.
type shape struct {
	records int
	wait    time.Duration
	order   queue.Order
	// since is the newest event at the time the lane got its order: order is promised for later ones.
	since uint64
}

func (s *shape) room(pushes int) queue.Room {
	return queue.Room{Pushes: pushes, Records: s.records, Wait: s.wait, Order: s.order, Key: byResource, KeyID: "resource"}
}

// item is what the model says of one delivery.
type item struct {
	id       queue.DeliveryID
	key      string
	state    queue.State
	attempts int
	retries  int
	due      time.Time
	accepted time.Time
	batch    []uint64    // tried together and to be tried together again
	byHand   bool        // made due by hand, by a replay, or for the time it was accepted for, since its last scheduled retry
	planned  bool        // accepted for a time, and not tried or made due since
	late     bool        // accepted for a time: its retries come before older first attempts, and behind batches that begin before it
	replay   bool        // made due by a replay and not delivered or dead since
	was      queue.State // before the replay; "" when it made the delivery
	wasDue   time.Time   // then
	extra    bool        // only a replay has made it
	doomed   bool        // its lane was given up while it was leased
	leasedIn *shape      // of its lane when it was leased
}

func (i *item) unfinished() bool {
	return i.state == queue.StatePending || i.state == queue.StateRetrying || i.state == queue.StateDelivering
}

// world is the model beside the engine.
type world struct {
	r      *rig
	rnd    *rand.Rand
	seq    uint64
	items  []*item
	byID   map[queue.DeliveryID]*item
	shapes map[queue.Lane]*shape
	leased []queue.Claim
	// keys are those of all events, replays those of each lane.
	keys    []string
	replays map[queue.Lane][]*replaying
}

// shaped does what comes to its mind with lanes of every shape: batches, orders, lanes that are given up.
func shaped(r *rig, seed uint64) {
	w := &world{
		r: r, rnd: rand.New(rand.NewPCG(seed, 11)), //nolint:gosec // a load that can be repeated
		byID: map[queue.DeliveryID]*item{}, shapes: map[queue.Lane]*shape{}, replays: map[queue.Lane][]*replaying{},
	}
	for l := range 6 {
		w.shapes[laneOf(l)] = w.newShape()
	}
	long := 10_000 * time.Hour
	r.configure(queue.Retention{Events: long, Attempts: long, Dead: long})
	for range 250 {
		switch w.rnd.IntN(14) {
		case 0, 1, 2:
			w.accept()
		case 3, 4, 5:
			w.claim()
		case 6, 7:
			w.settle()
		case 8:
			time.Sleep(time.Duration(w.rnd.IntN(300)) * time.Second)
		case 9:
			w.retryByHand()
		case 10, 11:
			w.replay()
		case 12:
			switch w.rnd.IntN(3) {
			case 0:
				w.discard()
			case 1:
				l := laneOf(w.rnd.IntN(6))
				w.hasten(l)
				w.shapes[l] = w.newShape()
				r.q.Wake(l)
			default:
				w.retryDead()
			}
		default:
			r.step()
			if r.mode != running {
				w.restarted()
			}
		}
	}
	w.drain()
}

func (w *world) newShape() *shape {
	s := &shape{records: 1 + w.rnd.IntN(2)*w.rnd.IntN(9), order: queue.Order(w.rnd.IntN(3)), since: w.seq} //nolint:gosec // 0 to 2
	if w.rnd.IntN(3) == 0 {
		s.wait = time.Duration(w.rnd.IntN(60)) * time.Second
	}
	return s
}

func (w *world) accept() {
	var subs []queue.Submission
	for range 1 + w.rnd.IntN(12) {
		w.seq++
		var lanes []queue.Lane
		s := submission(w.rnd.IntN(4))
		w.keys = append(w.keys, s.Resource)
		if w.rnd.IntN(4) == 0 {
			s.Due = time.Now().Add(time.Duration(w.rnd.IntN(600)-100) * time.Second)
		}
		for l := range 6 {
			if w.rnd.IntN(2) == 0 {
				lanes = append(lanes, laneOf(l))
				i := &item{id: queue.DeliveryID{Seq: w.seq, Lane: laneOf(l)}, key: s.Resource, state: queue.StatePending, accepted: time.Now()}
				if s.Due.After(i.accepted) {
					i.state, i.due, i.byHand, i.planned, i.late = queue.StateRetrying, s.Due, true, true, true
				}
				w.items = append(w.items, i)
				w.byID[i.id] = i
			}
		}
		s.Lanes = lanes
		subs = append(subs, s)
	}
	w.r.accept(subs...)
}

func (w *world) claim() {
	pushes := 1 + w.rnd.IntN(10)
	got := w.r.claimWith(1+w.rnd.IntN(30), func(l queue.Lane) queue.Room { return w.shapes[l].room(pushes) })
	for i := range got {
		w.claimed(&got[i])
	}
	w.wake()
}

// wake makes lanes be asked about that were set aside.
func (w *world) wake() {
	for l := range w.shapes {
		w.r.q.Wake(l)
	}
}

// claimed checks a claim against the model.
func (w *world) claimed(c *queue.Claim) {
	t, s := w.r.t, w.shapes[c.Lane]
	t.Helper()
	var seqs []uint64
	fresh := 0
	for i := range c.Deliveries {
		x := w.byID[c.Delivery(i)]
		if x == nil || x.state != queue.StatePending && x.state != queue.StateRetrying {
			t.Fatalf("%v was claimed; the model says %+v", c.Delivery(i), x)
		}
		if ev := c.Deliveries[i].Event; ev == nil || ev.Resource != x.key {
			t.Fatalf("%v came with %+v", x.id, ev)
		}
		if x.state == queue.StatePending {
			fresh++
		} else if time.Now().Before(x.due) {
			t.Fatalf("%+v came too early", x)
		}
		if c.Attempt < x.attempts+1 || len(c.Deliveries) == 1 && (c.Attempt != x.attempts+1 || c.Retries != x.retries) {
			t.Fatalf("claimed %+v; the model says %+v", c, x)
		}
		seqs = append(seqs, x.id.Seq)
	}
	first := w.byID[c.Delivery(0)]
	if c.Replay != first.replay {
		t.Fatalf("claimed %+v; the model says %+v", c, first)
	}
	w.replaysInOrder(c, s, seqs)
	switch {
	case !slices.IsSorted(seqs) || fresh != 0 && fresh != len(seqs):
		t.Fatalf("claimed %v, %d of them first attempts", seqs, fresh)
	case fresh > s.records:
		t.Fatalf("%d first attempts in one claim of at most %d", fresh, s.records)
	case fresh == 0 && len(first.batch) > 0 && !slices.Equal(first.batch, seqs):
		t.Fatalf("tried together were %v, and now %v", first.batch, seqs)
	case fresh == 0 && len(first.batch) == 0 && len(seqs) > 1:
		t.Fatalf("%v were not tried together before", seqs)
	case fresh > 0 && fresh < s.records && s.wait > 0 && time.Since(first.accepted) < s.wait && w.waiting(c.Lane, s) >= s.records:
		t.Fatalf("%d of %d came before %v had passed", fresh, s.records, s.wait)
	case fresh > 0 && fresh < s.records && s.wait > 0 && s.order == queue.OrderNone && time.Since(first.accepted) < s.wait-time.Millisecond:
		t.Fatalf("%d of %d came %v after the first was accepted", fresh, s.records, time.Since(first.accepted))
	}
	for i := range c.Deliveries {
		w.inOrder(c, w.byID[c.Delivery(i)], s, seqs)
	}
	for i := range c.Deliveries {
		x := w.byID[c.Delivery(i)]
		x.state, x.leasedIn = queue.StateDelivering, s
	}
	w.leased = append(w.leased, *c)
}

// waiting counts first attempts of a lane that may go: those of a lane without an order.
func (w *world) waiting(l queue.Lane, s *shape) int {
	n := 0
	for _, x := range w.items {
		if x.id.Lane == l && x.state == queue.StatePending {
			n++
		}
	}
	if s.order != queue.OrderNone {
		return 0
	}
	return n
}

// inOrder checks that nothing older of the same key is unfinished.
func (w *world) inOrder(c *queue.Claim, x *item, s *shape, together []uint64) {
	if s.order == queue.OrderNone {
		return
	}
	for _, o := range w.items {
		if o == x || o.id.Lane != c.Lane || s.order == queue.OrderKey && o.key != x.key || slices.Contains(together, o.id.Seq) {
			continue
		}
		if o.state == queue.StateDelivering && o.leasedIn == s && (x.id.Seq > s.since || o.id.Seq > s.since) && !o.doomed {
			w.r.t.Fatalf("%+v was claimed while %+v is leased (%+v)", x, o, s)
		}
		if x.late && o.state == queue.StatePending || o.late && o.id.Seq > together[0] {
			continue
		}
		if !x.loose() && o.id.Seq < x.id.Seq && o.unfinished() && !o.loose() && o.id.Seq > s.since {
			w.r.t.Fatalf("%+v was claimed before %+v (%+v)", x, o, s)
		}
	}
}

func (w *world) settle() {
	var ss []queue.Settlement
	var rest []queue.Claim
	for _, c := range w.leased {
		if w.rnd.IntN(4) == 0 {
			rest = append(rest, c)
			continue
		}
		s := queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries}
		switch w.rnd.IntN(7) {
		case 0:
			s = dead(c)
		case 1, 2, 3:
			s = retrying(c, time.Duration(w.rnd.IntN(400))*time.Second)
			s.Dissolve = w.rnd.IntN(4) == 0
		case 4:
			s.State = queue.StatePending
		default:
			s = delivered(c)
		}
		for i := range c.Deliveries {
			w.settled(&s, c, w.byID[c.Delivery(i)])
		}
		ss = append(ss, s)
	}
	w.leased = rest
	w.r.settle(ss...)
	w.wake()
}

func (w *world) settled(s *queue.Settlement, c queue.Claim, x *item) {
	if s.Attempt != nil {
		x.attempts++
	}
	x.planned = x.planned && s.State == queue.StatePending
	doomed := x.doomed
	x.doomed = false
	switch {
	case s.State == queue.StateDelivered:
		x.state, x.replay = queue.StateDelivered, false
	case doomed && x.waitsReplay() && x.was != "" && x.was != queue.StateRetrying:
		x.undo()
	case doomed:
		x.state, x.replay = queue.StateDiscarded, false
	case s.State == queue.StatePending:
		if x.state = queue.StatePending; x.attempts > 0 || x.byHand {
			x.state = queue.StateRetrying
		}
	case s.State == queue.StateRetrying:
		x.state, x.due, x.byHand, x.batch = queue.StateRetrying, s.Due, false, nil
		if !s.Dissolve {
			x.retries++
		}
		if !s.Dissolve && len(c.Deliveries) > 1 {
			for i := range c.Deliveries {
				x.batch = append(x.batch, c.Deliveries[i].Seq)
			}
		}
	default:
		x.state, x.replay = s.State, false
	}
}

// apart takes a delivery out of its batch, and so the others.
func (w *world) apart(x *item) {
	for _, seq := range x.batch {
		w.byID[queue.DeliveryID{Seq: seq, Lane: x.id.Lane}].batch = nil
	}
}

func (w *world) retryByHand() {
	if len(w.items) == 0 {
		return
	}
	x := w.items[w.rnd.IntN(len(w.items))]
	if err := w.r.q.Retry(w.r.t.Context(), account, x.id); err != nil {
		w.r.t.Fatal(err)
	}
	if x.state != queue.StatePending && x.state != queue.StateDelivering {
		w.apart(x)
		x.state, x.retries, x.due, x.byHand, x.replay = queue.StateRetrying, 0, time.Now(), true, false
		x.planned = false
	}
}

func (w *world) retryDead() {
	l := laneOf(w.rnd.IntN(6))
	want := 0
	for _, x := range w.items {
		if x.id.Lane == l && x.state == queue.StateDead {
			want++
		}
	}
	if n, err := w.r.q.RetryDead(w.r.t.Context(), l, queue.DeadSelection{DryRun: true}); n != want || err != nil {
		w.r.t.Fatalf("%d (%v) are dead, want %d", n, err, want)
	}
	if n, err := w.r.q.RetryDead(w.r.t.Context(), l, queue.DeadSelection{}); n != want || err != nil {
		w.r.t.Fatalf("%d (%v) were made due, want %d", n, err, want)
	}
	for _, x := range w.items {
		if x.id.Lane == l && x.state == queue.StateDead {
			x.state, x.retries, x.due, x.byHand, x.batch = queue.StateRetrying, 0, time.Now(), true, nil
		}
	}
}

func (w *world) hasten(l queue.Lane) {
	if w.rnd.IntN(2) == 0 {
		return
	}
	if err := w.r.q.Hasten(w.r.t.Context(), l); err != nil {
		w.r.t.Fatal(err)
	}
	for _, x := range w.items {
		if x.id.Lane == l && x.state == queue.StateRetrying && !x.byHand && x.due.After(time.Now()) {
			x.due = time.Now()
		}
	}
}

func (w *world) discard() {
	l := laneOf(w.rnd.IntN(6))
	if err := w.r.q.Discard(w.r.t.Context(), l, queue.ReasonDisabled); err != nil {
		w.r.t.Fatal(err)
	}
	w.r.rest()
	for _, x := range w.items {
		switch {
		case x.id.Lane != l:
		case x.state == queue.StateDelivering:
			x.doomed = true
		case x.waitsReplay() && x.was != "" && x.was != queue.StateRetrying:
			x.undo()
		case x.unfinished():
			x.state, x.batch, x.replay = queue.StateDiscarded, nil, false
		}
	}
	for _, p := range w.replays[l] {
		if p.State == queue.ReplayRunning {
			p.State = queue.ReplayCancelled
		}
	}
	// Also before the restart that may follow.
	for _, x := range w.items {
		if x.id.Lane == l && x.state == queue.StateDiscarded && w.rnd.IntN(10) == 0 {
			w.r.want(x.id, queue.StateDiscarded, x.attempts)
		}
	}
}

// restarted frees all leases.
func (w *world) restarted() {
	for _, c := range w.leased {
		for i := range c.Deliveries {
			x := w.byID[c.Delivery(i)]
			switch {
			case x.doomed && x.waitsReplay() && x.was != "" && x.was != queue.StateRetrying:
				x.undo()
			case x.doomed:
				x.state, x.batch, x.replay = queue.StateDiscarded, nil, false
			case x.attempts > 0 || x.byHand:
				x.state = queue.StateRetrying
			default:
				x.state = queue.StatePending
			}
			x.doomed = false
		}
	}
	w.leased = nil
}

// drain delivers everything and compares the end.
func (w *world) drain() {
	for idle := 0; idle < 3; {
		var ss []queue.Settlement
		for _, c := range w.leased {
			s := delivered(c)
			for i := range c.Deliveries {
				w.settled(&s, c, w.byID[c.Delivery(i)])
			}
			ss = append(ss, s)
		}
		w.leased = nil
		w.r.settle(ss...)
		w.wake()
		time.Sleep(time.Hour)
		got := w.r.claimWith(1000, func(l queue.Lane) queue.Room { return w.shapes[l].room(100) })
		for i := range got {
			w.claimed(&got[i])
		}
		if idle++; len(got) > 0 {
			idle = 0
		}
	}
	for _, x := range w.items {
		if x.unfinished() {
			w.r.t.Fatalf("%+v was never finished (%+v)", x, w.shapes[x.id.Lane])
		}
		w.r.want(x.id, x.state, x.attempts)
	}
}
