package daemon_test

import (
	"slices"
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
	if took := time.Since(began); took > 10*time.Second {
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
