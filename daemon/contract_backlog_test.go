package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// A backlog: what waits for a subscription that takes nothing.

func TestContract_Backlog_HeldThenDrainedOnce(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, beside := receive(t), receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "numberOfRecords": 50, "maxWaitSeconds": 0.1})
	h.subscribe(beside.URL, fields{"events": []string{"other.*"}})
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	const events, each = 5000, 1000
	var published []string
	for range events / each {
		published = append(published, h.publishAll(each, nil)...)
	}
	h.allHeld(id, events)
	if n := len(slices.Compact(slices.Sorted(slices.Values(published)))); n != events {
		t.Fatalf("%d events have %d ids", events, n)
	}

	// All of it is listed, newest first, page by page.
	began := time.Now()
	pages := h.admin().pages("/deliveries?state=held&limit=1000&subscription="+id, "eventId")
	if took := time.Since(began); took > prompt {
		t.Errorf("listing took %v", took)
	}
	listed := slices.Concat(pages...)
	slices.Reverse(listed)
	if !slices.Equal(listed, published) {
		t.Errorf("%d are listed in %v pages, in another order than they were published", len(listed), sizes(pages))
	}
	if !slices.Equal(sizes(pages), []int{1000, 1000, 1000, 1000, 1000}) {
		t.Errorf("the pages have %v deliveries", sizes(pages))
	}
	if got := h.admin().pages("/deliveries?state=pending&limit=1000&subscription="+id, "eventId"); len(slices.Concat(got...)) != 0 {
		t.Errorf("%d deliveries of a paused subscription are pending", len(slices.Concat(got...)))
	}
	// What waits costs others nothing.
	other := h.publishAll(50, func(_ int, e fields) { e["type"] = "other.create" })
	beside.wait(50)
	beside.only(other...)

	h = h.restart(steady)
	if s := h.status(id); counts(s) != "dead 0 delivering 0 held 5000 pending 0 retrying 0" {
		t.Errorf("after a restart: %v", s)
	}
	before := time.Now()
	h.enable(id)
	live := h.publishAll(1, nil)
	h.eventually("it catches up", func() bool { return h.status(id)["catchingUp"] == true || len(allCarried(t, r.got())) > events })
	eventually(t, "all has arrived", func() bool { return len(r.got()) > 0 && len(allCarried(t, r.got())) > events })
	// A thousand a second, a hundred of them at once.
	if took := time.Since(before); took < 4800*time.Millisecond {
		t.Errorf("%d records came within %v, which is more than a thousand a second", events, took)
	}
	h.eventually("nothing waits", func() bool { return counts(h.status(id)) == "dead 0 delivering 0 held 0 pending 0 retrying 0" })
	h.sentinel()
	r.arrived(append(slices.Clone(published), live...)...)
	for _, p := range r.got() {
		if n := len(p.records(t)); n > 50 {
			t.Errorf("a push carries %d records", n)
		}
	}
}

// Whatever policies stand side by side, and whatever is changed while they work: nothing is lost, nothing comes twice when
// it was taken, and each order is kept.
func TestContract_Backlog_PoliciesSideBySide(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	type lane struct {
		order string
		r     *receiver
		id    string
		mu    sync.Mutex
		taken []string
	}
	var lanes []*lane
	for i, order := range []string{"none", "key", "strict"} {
		for j, records := range []int{1, 4, 50} {
			l := &lane{order: order, r: receive(t)}
			failures := []int{http.StatusInternalServerError, http.StatusRequestEntityTooLarge}
			l.r.respond(func(n int, p push, w http.ResponseWriter) {
				o := p.object(t)
				events := []string{fmt.Sprint(o["id"])}
				if o["records"] != nil {
					events = carried(t, p)
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(failures) > 0 && n%3 == 2 { // of all orders: not the first push, and now and then
					w.WriteHeader(failures[0])
					failures = failures[1:]
					return
				}
				l.taken = append(l.taken, events...)
			})
			policy := fields{"ordering": order, "retrySchedule": []string{"1s", "1s", "1s", "1s"}, "disableAfter": fields{}}
			if (i+j)%2 == 1 {
				policy["rateLimit"] = 300
			}
			l.id = h.subscribe(l.r.URL, fields{"numberOfRecords": records, "maxWaitSeconds": 0.05, "delivery": policy})
			lanes = append(lanes, l)
		}
	}
	const rounds, each, keys = 3, 30, 7
	place := map[string]int{}
	for round := range rounds {
		for i, e := range h.publishAll(each, func(i int, e fields) { e["resource"] = fmt.Sprint("key/", (round*each+i)%keys) }) {
			place[e] = round*each + i
		}
		lanes[0].r.wait(1)
		for i, l := range lanes { // each round another third of them
			path := "/subscriptions/" + l.id
			switch (i + round) % rounds {
			case 0:
				h.admin().do("POST", path+"/pause", nil).is(200)
			case 1:
				h.admin().do("PATCH", path, fields{"numberOfRecords": 3 + round, "delivery": fields{"maxConcurrency": 2 + round}}).is(200)
				h.admin().do("POST", path+"/enable", nil).is(200)
			}
		}
		if round < rounds-1 {
			h = h.restart(steady)
		}
	}
	for _, l := range lanes {
		if h.read(l.id)["state"] == "paused" {
			h.enable(l.id)
		}
	}
	for i, l := range lanes {
		h.eventually("nothing waits", func() bool { return counts(h.status(l.id)) == "dead 0 delivering 0 held 0 pending 0 retrying 0" })
		l.mu.Lock()
		taken := slices.Clone(l.taken)
		l.mu.Unlock()
		if len(taken) != rounds*each || len(slices.Compact(slices.Sorted(slices.Values(taken)))) != rounds*each {
			t.Errorf("lane %d, %s: %d events came, want each of %d once", i, l.order, len(taken), rounds*each)
		}
		last := map[int]int{}
		for _, e := range taken {
			key := place[e] % keys
			if l.order == "strict" {
				key = 0
			}
			if at, known := last[key]; known && at > place[e] && l.order != "none" {
				t.Errorf("lane %d, %s: event %d came after event %d", i, l.order, place[e], at)
			}
			last[key] = place[e]
		}
	}
}
