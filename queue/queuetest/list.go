package queuetest

import (
	"fmt"
	"slices"
	"time"

	"herald/queue"
)

func listScenarios() []scenario {
	return []scenario{
		{"ListEvents", listEvents},
		{"ListDeliveries", listDeliveries},
		{"ListDeliveriesInPages", listPages},
	}
}

func listEvents(r *rig) {
	var ids []string
	for i := range 30 {
		s := submission(i, laneOf(1))
		if i%3 == 2 {
			s.AccountID = "other"
		}
		if i%4 == 1 {
			s.ID = fmt.Sprint("mine-", i)
		}
		id := r.accept(s)[0].ID
		if s.AccountID == account {
			ids = append(ids, id)
		}
	}
	slices.Reverse(ids)
	r.step()
	for _, limit := range []int{1, 7, 20, 100} {
		var got []string
		after := ""
		for {
			page, err := r.q.Events(r.t.Context(), queue.EventFilter{AccountID: account, After: after, Limit: limit})
			if err != nil {
				r.t.Fatal(err)
			}
			if len(page) > limit {
				r.t.Fatalf("%d events, limit %d", len(page), limit)
			}
			for _, ev := range page {
				got = append(got, ev.ID)
			}
			if len(page) < limit {
				break
			}
			after = page[len(page)-1].ID
		}
		if !slices.Equal(got, ids) {
			r.t.Fatalf("limit %d: events are %v, want %v", limit, got, ids)
		}
	}
	all, err := r.q.Events(r.t.Context(), queue.EventFilter{Limit: 100})
	if err != nil || len(all) != 30 {
		r.t.Fatalf("%d events of every account, %v", len(all), err)
	}
	for _, after := range []string{"nothing", "evt_00000000000000000000000000", all[0].ID} {
		_, err := r.q.Events(r.t.Context(), queue.EventFilter{AccountID: account, After: after, Limit: 1})
		if all[0].AccountID == account && after == all[0].ID {
			continue
		}
		r.wantErr(err, queue.ErrNotFound)
	}
	if _, err := r.q.Events(r.t.Context(), queue.EventFilter{AccountID: account}); err == nil {
		r.t.Error("a limit of 0 was taken")
	}
}

func listDeliveries(r *rig) {
	var mid time.Time
	for i := range 12 {
		if i == 6 {
			time.Sleep(time.Minute)
			mid = time.Now()
		}
		s := submission(i, laneOf(1), laneOf(2))
		if i == 5 {
			s.AccountID = "other"
		}
		if i == 7 {
			s.ID = "seven"
		}
		r.accept(s)
	}
	r.step()
	claims := r.claimWith(12, roomOnce(map[queue.Lane]int{laneOf(1): 8}))
	if len(claims) != 8 {
		r.t.Fatalf("%d claimed", len(claims))
	}
	r.q.Wake(laneOf(1), laneOf(2))
	r.settle(delivered(claims[0]), retrying(claims[1], 10*time.Hour), dead(claims[2]),
		queue.Settlement{Lane: claims[3].Lane, Deliveries: claims[3].Deliveries, State: queue.StateDiscarded, Reason: "why not"},
		queue.Settlement{Lane: claims[4].Lane, Deliveries: claims[4].Deliveries, State: queue.StatePending})
	leased := 3
	if r.mode != running {
		leased = 0
	}
	r.step()
	held := func(l queue.Lane) bool { return l == laneOf(2) }
	for _, c := range []struct {
		name string
		f    queue.DeliveryFilter
		want int
	}{
		{"all", queue.DeliveryFilter{}, 24},
		{"account", queue.DeliveryFilter{AccountID: account}, 22},
		{"other account", queue.DeliveryFilter{AccountID: "other"}, 2},
		{"no such account", queue.DeliveryFilter{AccountID: "nobody"}, 0},
		{"lane", queue.DeliveryFilter{Lane: laneOf(1)}, 12},
		{"no such lane", queue.DeliveryFilter{Lane: laneOf(3)}, 0},
		{"event", queue.DeliveryFilter{AccountID: account, EventID: "seven"}, 2},
		{"event and lane", queue.DeliveryFilter{AccountID: account, EventID: "seven", Lane: laneOf(2)}, 1},
		{"no such event", queue.DeliveryFilter{AccountID: account, EventID: "eight"}, 0},
		{"since", queue.DeliveryFilter{Since: mid}, 12},
		{"since now", queue.DeliveryFilter{Since: time.Now().Add(time.Second)}, 0},
		{"delivered", queue.DeliveryFilter{State: queue.StateDelivered}, 1},
		{"retrying", queue.DeliveryFilter{State: queue.StateRetrying}, 1},
		{"dead", queue.DeliveryFilter{State: queue.StateDead}, 1},
		{"dead of the other lane", queue.DeliveryFilter{State: queue.StateDead, Lane: laneOf(2)}, 0},
		{"dead since", queue.DeliveryFilter{State: queue.StateDead, Since: mid}, 0},
		{"discarded", queue.DeliveryFilter{State: queue.StateDiscarded}, 1},
		{"delivering", queue.DeliveryFilter{State: queue.StateDelivering}, leased},
		{"pending", queue.DeliveryFilter{State: queue.StatePending}, 20 - leased},
		{"held", queue.DeliveryFilter{State: queue.StateHeld, Held: held}, 12},
		{"held, nobody", queue.DeliveryFilter{State: queue.StateHeld}, 0},
		{"pending, not held", queue.DeliveryFilter{State: queue.StatePending, Held: held}, 8 - leased},
		{"retrying, held", queue.DeliveryFilter{State: queue.StateRetrying, Held: func(queue.Lane) bool { return true }}, 0},
	} {
		c.f.Limit = 100
		got, err := r.q.Deliveries(r.t.Context(), c.f)
		if err != nil || len(got) != c.want {
			r.t.Errorf("%s: %d deliveries, want %d (%v)", c.name, len(got), c.want, err)
		}
		for i, d := range got {
			if i > 0 && d.ID.Seq > got[i-1].ID.Seq {
				r.t.Errorf("%s: event %d after %d", c.name, d.ID.Seq, got[i-1].ID.Seq)
			}
			if c.f.State != "" && d.State != c.f.State {
				r.t.Errorf("%s: %s", c.name, d.State)
			}
			if d.State == queue.StateHeld {
				continue
			}
			one, _, err := r.q.Delivery(r.t.Context(), "", d.ID)
			if err != nil || *one != *d {
				r.t.Errorf("%s: listed as %+v, alone %+v (%v)", c.name, d, one, err)
			}
		}
	}
	if _, err := r.q.Deliveries(r.t.Context(), queue.DeliveryFilter{}); err == nil {
		r.t.Error("a limit of 0 was taken")
	}
}

func listPages(r *rig) {
	const events, lanes = 40, 9
	var all []queue.Lane
	for i := range lanes {
		all = append(all, laneOf(i))
	}
	for i := range events {
		r.accept(submission(i, all...))
	}
	var ss []queue.Settlement
	for i, c := range r.claim(events * lanes) {
		switch i % 3 {
		case 0:
			ss = append(ss, dead(c))
		case 1:
			ss = append(ss, retrying(c, time.Hour))
		default:
			ss = append(ss, delivered(c))
		}
	}
	r.settle(ss...)
	r.step()
	for _, state := range []queue.State{"", queue.StateDead, queue.StateRetrying, queue.StateDelivered} {
		want := events * lanes
		if state != "" {
			want /= 3
		}
		for _, limit := range []int{1, 4, 50, 1000} {
			seen := map[queue.DeliveryID]bool{}
			f := queue.DeliveryFilter{State: state, Limit: limit}
			for {
				page, err := r.q.Deliveries(r.t.Context(), f)
				if err != nil {
					r.t.Fatal(err)
				}
				for _, d := range page {
					if seen[d.ID] {
						r.t.Fatalf("%q by %d: %v twice", state, limit, d.ID)
					}
					seen[d.ID] = true
				}
				if len(page) < limit {
					break
				}
				f.After = page[len(page)-1].ID
			}
			if len(seen) != want {
				r.t.Fatalf("%q by %d: %d deliveries, want %d", state, limit, len(seen), want)
			}
		}
	}
}
