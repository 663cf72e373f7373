package queuetest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"herald/queue"
)

func listScenarios() []scenario {
	return []scenario{
		{"ListEvents", listEvents},
		{"ListDeliveries", listDeliveries},
		{"ListDeliveriesInPages", listPages},
		{"ListWithoutATypeOfEvents", listWithout},
		{"ReadFromANumber", readFrom},
		{"ReadKeptFromANumber", readKeptFrom},
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

// listWithout has events that are left out, alone and in runs, in every state, retained and kept.
func listWithout(r *rig) {
	const n = 60
	r.configure(queue.Retention{Events: term, Attempts: 30 * term, Dead: 30 * term})
	hidden := func(seq uint64) bool { return seq%4 != 1 }
	next := uint64(1)
	accept := func(n int) {
		var subs []queue.Submission
		for range n {
			s := submission(int(next), laneOf(1), laneOf(2)) //nolint:gosec // small
			if s.Type = "herald.notice"; hidden(next) {
				s.Type = "herald.notification.fcm"
			}
			if next == 5 || next == 6 {
				s.ID = fmt.Sprint("five or six: ", next)
			}
			subs = append(subs, s)
			next++
		}
		r.accept(subs...)
	}
	settle := func(n int) {
		var ss []queue.Settlement
		for i, c := range r.claim(n) {
			ss = append(ss, []queue.Settlement{dead(c), retrying(c, 5*time.Hour), delivered(c)}[i%3])
		}
		r.settle(ss...)
	}
	accept(20)
	settle(40)
	time.Sleep(term + 2*time.Hour)
	settleDown(r)
	accept(n - 20)
	settle(60)
	r.step()
	r.claim(5)
	for _, without := range []string{"herald.notification.", "herald.notification.fcm", "herald.notification.fcm.", "herald.", "x", ""} {
		out := func(kind string) bool { return without != "" && strings.HasPrefix(kind, without) }
		for _, limit := range []int{1, 7, 1000} {
			r.sameEvents(queue.EventFilter{AccountID: account, Limit: limit}, without, out)
			for _, f := range []queue.DeliveryFilter{
				{},
				{State: queue.StateDead},
				{State: queue.StateRetrying},
				{State: queue.StateDelivered},
				{State: queue.StatePending},
				{State: queue.StateDelivering},
				{Lane: laneOf(1)},
				{Lane: laneOf(2), State: queue.StateDead},
				{Lane: laneOf(2), State: queue.StateRetrying},
				{State: queue.StateHeld, Held: func(l queue.Lane) bool { return l == laneOf(2) }},
				{EventID: "five or six: 5"},
				{EventID: "five or six: 6"},
			} {
				f.AccountID, f.Limit = account, limit
				r.sameDeliveries(f, without, out)
			}
		}
	}
}

// sameEvents checks that a listing without some is, page by page, the listing of all, less those.
func (r *rig) sameEvents(f queue.EventFilter, without string, out func(kind string) bool) {
	r.t.Helper()
	page := func() []*queue.Event {
		list, err := r.q.Events(r.t.Context(), f)
		if err != nil || len(list) > f.Limit {
			r.t.Fatalf("%+v: %d events (%v)", f, len(list), err)
		}
		return list
	}
	limit := f.Limit
	f.Limit = 1000
	var want, got []uint64
	for _, ev := range page() {
		if !out(ev.Type) {
			want = append(want, ev.Seq)
		}
	}
	f.Without, f.Limit = without, limit
	for list := page(); len(list) > 0; list = page() {
		for _, ev := range list {
			got = append(got, ev.Seq)
		}
		f.After = list[len(list)-1].ID
	}
	if !slices.Equal(got, want) {
		r.t.Fatalf("%+v: %v, want %v", f, got, want)
	}
}

func (r *rig) sameDeliveries(f queue.DeliveryFilter, without string, out func(kind string) bool) {
	r.t.Helper()
	page := func() []*queue.Delivery {
		list, err := r.q.Deliveries(r.t.Context(), f)
		if err != nil || len(list) > f.Limit {
			r.t.Fatalf("%+v: %d deliveries (%v)", f, len(list), err)
		}
		return list
	}
	limit := f.Limit
	f.Limit = 1000
	var want, got []queue.DeliveryID
	for _, d := range page() {
		if !out(d.EventType) {
			want = append(want, d.ID)
		}
	}
	f.Without, f.Limit = without, limit
	for list := page(); len(list) > 0; list = page() {
		for _, d := range list {
			got = append(got, d.ID)
		}
		f.After = list[len(list)-1].ID
	}
	if !slices.Equal(got, want) {
		r.t.Fatalf("%+v: %v, want %v", f, got, want)
	}
}

// from reads events and deliveries of the account from a number on, and checks that they are what is read one by one. It returns
// the numbers of the events, and how many deliveries there are.
func (r *rig) from(accountID string, seq uint64, n int) (seqs []uint64, deliveries int) {
	r.t.Helper()
	events, err := r.q.EventsFrom(r.t.Context(), accountID, seq, n)
	if err != nil {
		r.t.Fatal(err)
	}
	byID := map[string]*queue.Event{}
	for _, ev := range events {
		one, err := r.q.Event(r.t.Context(), ev.AccountID, ev.ID)
		if err != nil || one.Seq != ev.Seq || one.Type != ev.Type || string(one.Data) != string(ev.Data) || !one.AcceptedAt.Equal(ev.AcceptedAt) {
			r.t.Fatalf("event %d is %+v; alone it is %+v (%v)", ev.Seq, ev, one, err)
		}
		if accountID != "" && ev.AccountID != accountID {
			r.t.Fatalf("event %d is of %s", ev.Seq, ev.AccountID)
		}
		byID[ev.ID] = ev
		seqs = append(seqs, ev.Seq)
	}
	list, err := r.q.DeliveriesFrom(r.t.Context(), accountID, seq, n)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, d := range list {
		if i > 0 && d.ID.Seq < list[i-1].ID.Seq {
			r.t.Fatalf("%d after %d", d.ID.Seq, list[i-1].ID.Seq)
		}
		if ev := byID[d.EventID]; ev == nil || ev.Seq != d.ID.Seq {
			r.t.Fatalf("%+v is of event %+v", d, ev)
		}
		if one, _, err := r.q.Delivery(r.t.Context(), accountID, d.ID); err != nil || *one != *d {
			r.t.Fatalf("%+v is alone %+v (%v)", d, one, err)
		}
	}
	return seqs, len(list)
}

func readFrom(r *rig) {
	const n = 90
	for from := 0; from < n; from += 10 {
		var subs []queue.Submission
		for i := from; i < from+10; i++ {
			s := submission(i, laneOf(i%3))
			switch i % 9 {
			case 0:
				s.Lanes = append(s.Lanes, laneOf(1), laneOf(2))
			case 1:
				s.Lanes = nil
			case 2:
				s.AccountID = "other"
			case 3:
				s.Due = time.Now().Add(time.Hour)
			}
			subs = append(subs, s)
		}
		r.accept(subs...)
	}
	var ss []queue.Settlement
	for i, c := range r.claim(60) {
		switch i % 5 {
		case 0:
			ss = append(ss, retrying(c, time.Hour))
		case 1:
			ss = append(ss, dead(c))
		case 2, 3:
			ss = append(ss, delivered(c))
		}
	}
	r.settle(ss...)
	r.step()
	if err := r.q.DropLane(r.t.Context(), laneOf(2)); err != nil {
		r.t.Fatal(err)
	}
	// Deliveries that only a replay has made.
	r.startReplay(queue.Replay{Lane: laneOf(7)})
	if _, got, err := r.q.AdvanceReplay(r.t.Context(), laneOf(7), queue.ReplayStep{Match: all, Limit: 5}); got != 5 || err != nil {
		r.t.Fatalf("%d were replayed (%v)", got, err)
	}
	r.step()
	for _, c := range []struct {
		account    string
		seq        uint64
		n          int
		first      uint64
		events     int
		deliveries int
	}{
		{account, 1, n, 1, 80, 95},
		{account, 0, n, 1, 80, 95},
		{account, 1, math.MaxInt, 1, 80, 95},
		{"", 1, n, 1, n, 105},
		{"other", 1, n, 3, 10, 10},
		{"nobody", 1, n, 0, 0, 0},
		{account, 10, 1, 10, 1, 3},
		{account, 11, 1, 11, 1, 0},
		{account, 12, 1, 0, 0, 0},
		{account, 37, 18, 37, 16, 18},
		{account, 82, 100, 82, 8, 9},
		{account, n, 5, n, 1, 1},
		{account, n + 1, 5, 0, 0, 0},
		{account, 1<<64 - 1, math.MaxInt, 0, 0, 0},
	} {
		seqs, deliveries := r.from(c.account, c.seq, c.n)
		if !slices.IsSorted(seqs) || len(seqs) != c.events || deliveries != c.deliveries || len(seqs) > 0 && seqs[0] != c.first {
			r.t.Errorf("%d from %d of %q: events %v with %d deliveries; want %d from %d with %d", c.n, c.seq, c.account, seqs, deliveries, c.events, c.first, c.deliveries)
		}
	}
	if _, err := r.q.EventsFrom(r.t.Context(), account, 1, 0); err == nil {
		r.t.Error("no events were asked for")
	}
	if _, err := r.q.DeliveriesFrom(r.t.Context(), account, 1, 0); err == nil {
		r.t.Error("no deliveries were asked for")
	}
}

// readKeptFrom reads events that are kept for a dead delivery only, between, before and behind others.
func readKeptFrom(r *rig) {
	r.configure(queue.Retention{Events: term, Attempts: 30 * term, Dead: 30 * term})
	r.accept(submission(1, laneOf(1)), submission(2, laneOf(1)), submission(3, laneOf(1), laneOf(2)))
	for _, c := range r.claim(4) {
		if c.Deliveries[0].Seq == 2 {
			r.settle(delivered(c))
		} else {
			r.settle(dead(c))
		}
	}
	time.Sleep(term + 2*time.Hour)
	settleDown(r)
	r.accept(submission(4, laneOf(1)), submission(5, laneOf(2)))
	r.step()
	for _, c := range []struct {
		seq        uint64
		n          int
		want       []uint64
		deliveries int
	}{{1, 5, []uint64{1, 3, 4, 5}, 5}, {2, 2, []uint64{3}, 2}, {2, 1, nil, 0}, {3, 2, []uint64{3, 4}, 3}} {
		if seqs, deliveries := r.from(account, c.seq, c.n); !slices.Equal(seqs, c.want) || deliveries != c.deliveries {
			r.t.Errorf("%d from %d: %v with %d deliveries, want %v with %d", c.n, c.seq, seqs, deliveries, c.want, c.deliveries)
		}
	}
}
