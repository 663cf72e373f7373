package queuetest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"herald/queue"
)

func randomScenarios() []scenario {
	var list []scenario
	for seed := range seeds() {
		list = append(list, scenario{fmt.Sprint("Random", seed), func(r *rig) { random(r, seed) }})
	}
	return list
}

// seeds is how many loads are made up of each kind. Each goes on one goroutine: the race detector needs few of them.
func seeds() uint64 {
	if testing.Short() {
		return 2
	}
	return 6
}

// known is what the model says of a delivery.
type known struct {
	state    queue.State
	attempts int
	retries  int
	due      time.Time
	planned  bool // accepted for a time
}

// random does what comes to its mind and keeps a model beside the engine.
func random(r *rig, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 5)) //nolint:gosec // a load that can be repeated
	model := map[queue.DeliveryID]*known{}
	leased := map[queue.DeliveryID]queue.Claim{}
	dropped := map[queue.Lane]bool{}
	seq := uint64(0)
	release := func() {
		for id := range leased {
			k := model[id]
			k.state = queue.StatePending
			if k.attempts > 0 || k.planned {
				k.state = queue.StateRetrying
			}
			if dropped[id.Lane] {
				k.state = queue.StateDiscarded
			}
			delete(leased, id)
		}
	}
	for range 150 {
		switch rnd.IntN(10) {
		case 0, 1, 2:
			var subs []queue.Submission
			for range 1 + rnd.IntN(30) {
				seq++
				var lanes []queue.Lane
				var due time.Time
				if rnd.IntN(5) == 0 {
					due = time.Now().Add(time.Duration(rnd.IntN(1000)) * time.Second)
				}
				for l := range 12 {
					if rnd.IntN(3) == 0 {
						lanes = append(lanes, laneOf(l))
						k := &known{state: queue.StatePending, due: due, planned: due.After(time.Now())}
						if k.planned {
							k.state = queue.StateRetrying
						}
						if dropped[laneOf(l)] {
							k.state = queue.StateDiscarded
						}
						model[queue.DeliveryID{Seq: seq, Lane: laneOf(l)}] = k
					}
				}
				s := submission(int(seq), lanes...)
				s.Due = due
				subs = append(subs, s)
			}
			r.accept(subs...)
		case 3, 4:
			for _, c := range r.claim(rnd.IntN(100)) {
				k := model[c.Delivery(0)]
				if k == nil || k.state != queue.StatePending && k.state != queue.StateRetrying {
					r.t.Fatalf("%v was claimed; the model says %+v", c.Delivery(0), k)
				}
				if k.state == queue.StateRetrying && time.Now().Before(k.due) || c.Attempt != k.attempts+1 || c.Retries != k.retries {
					r.t.Fatalf("claimed %+v; the model says %+v", c, k)
				}
				k.state = queue.StateDelivering
				leased[c.Delivery(0)] = c
			}
		case 5, 6:
			var ss []queue.Settlement
			for id, c := range leased {
				if rnd.IntN(4) == 0 {
					continue
				}
				k := model[id]
				var s queue.Settlement
				switch rnd.IntN(6) {
				case 0:
					s = dead(c)
					k.state = queue.StateDead
				case 1, 2:
					s = retrying(c, time.Duration(rnd.IntN(1000))*time.Second)
					k.state, k.due, k.retries = queue.StateRetrying, s.Due, k.retries+1
				case 3:
					s = queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StatePending}
					k.attempts-- // none was made
					if k.state = queue.StatePending; k.attempts >= 0 || k.planned {
						k.state = queue.StateRetrying
					}
				default:
					s = delivered(c)
					k.state = queue.StateDelivered
				}
				k.attempts++
				if dropped[id.Lane] && k.state != queue.StateDelivered {
					k.state = queue.StateDiscarded
				}
				ss = append(ss, s)
				delete(leased, id)
			}
			r.settle(ss...)
		case 7:
			for id, k := range model {
				if err := r.q.Retry(r.t.Context(), account, id); err != nil {
					if !dropped[id.Lane] {
						r.t.Fatal(err)
					}
				} else if k.state != queue.StatePending && k.state != queue.StateDelivering {
					k.state, k.retries, k.due = queue.StateRetrying, 0, time.Now()
				}
				break
			}
		case 8:
			if l := laneOf(rnd.IntN(40)); rnd.IntN(4) == 0 {
				if err := r.q.DropLane(r.t.Context(), l); err != nil {
					r.t.Fatal(err)
				}
				dropped[l] = true
				for id, k := range model {
					if id.Lane == l && (k.state == queue.StatePending || k.state == queue.StateRetrying) {
						k.state = queue.StateDiscarded
					}
				}
			}
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Second)
		case 9:
			r.step()
			if r.mode != running {
				release()
			}
			if err := r.q.Check(r.t.Context()); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	r.rest()
	for id, k := range model {
		d, _, err := r.q.Delivery(r.t.Context(), account, id)
		if err != nil {
			r.t.Fatal(err)
		}
		// What a dropped lane had tried may have been forgotten with it.
		if d.State != k.state || d.Attempts != k.attempts && !dropped[id.Lane] {
			r.t.Fatalf("%v is %+v; the model says %+v", id, d, k)
		}
	}
	all, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{Limit: len(model) + 1})
	if err != nil || len(all) != len(model) {
		r.t.Fatalf("%d deliveries are listed, the model has %d (%v)", len(all), len(model), err)
	}
}
