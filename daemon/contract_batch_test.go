package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Row D10: numberOfRecords, and what goes with it.

// steady takes the chance out of retry schedules.
const steady = "delivery: {jitter: 0}"

// publishAll accepts events in one request and returns their ids, in order. Each has the type task.create and
// its number as data; more changes that.
func (h *herald) publishAll(n int, more func(i int, event fields)) []string {
	h.t.Helper()
	list := make([]fields, n)
	for i := range list {
		list[i] = fields{"type": "task.create", "data": fields{"n": i}}
		if more != nil {
			more(i, list[i])
		}
	}
	out := make([]string, n)
	for i, e := range h.admin().do("POST", "/events", list).is(202).list() {
		out[i], _ = e["id"].(string)
	}
	return out
}

// records are those of a push in the form of many, whose number must be right.
func (p push) records(t *testing.T) []map[string]any {
	t.Helper()
	var b struct {
		NumberOfRecords int
		Records         []map[string]any
	}
	if err := json.Unmarshal(p.body, &b); err != nil {
		t.Fatalf("the push is not a batch: %v: %s", err, p.body)
	}
	if got := members(p.object(t)); !slices.Equal(got, []string{"numberOfRecords", "records"}) || b.NumberOfRecords != len(b.Records) || len(b.Records) == 0 {
		t.Errorf("a batch of %d records says %s", len(b.Records), p.body)
	}
	return b.Records
}

// carried are the ids of the events in a batch, in its order.
func carried(t *testing.T, p push) []string {
	t.Helper()
	var out []string
	for _, r := range p.records(t) {
		id, _ := r["id"].(string)
		out = append(out, id)
	}
	return out
}

// allCarried are the ids of the events in batches, in the order of arrival.
func allCarried(t *testing.T, pushes []push) []string {
	t.Helper()
	var out []string
	for _, p := range pushes {
		out = append(out, carried(t, p)...)
	}
	return out
}

// quiet fails the test when the receiver gets anything within the time.
func (r *receiver) quiet(what string, within time.Duration) {
	r.t.Helper()
	before := len(r.got())
	<-time.After(within)
	if got := r.got(); len(got) != before {
		r.t.Errorf("%s: %d pushes came, such as %s", what, len(got)-before, got[before].body)
	}
}

// arrived waits until each of the events has been in a batch, and fails the test unless each was in just one.
func (r *receiver) arrived(events ...string) {
	r.t.Helper()
	want := slices.Sorted(slices.Values(events))
	eventually(r.t, fmt.Sprintf("%d records have arrived", len(want)), func() bool { return len(allCarried(r.t, r.got())) >= len(want) })
	if got := slices.Sorted(slices.Values(allCarried(r.t, r.got()))); !slices.Equal(got, want) {
		r.t.Errorf("there arrived %v, want %v", got, want)
	}
}

// statuses are those of a delivery's attempts.
func statuses(t *testing.T, delivery map[string]any) []int {
	t.Helper()
	var out []int
	for _, a := range attempts(t, delivery) {
		status, _ := a["status"].(float64)
		out = append(out, int(status))
	}
	return out
}

func TestContract_D10_BatchBody(t *testing.T) {
	t.Parallel()
	h := start(t)
	full, data := receive(t), receive(t)
	three := h.subscribe(full.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 3600, "signingSecret": aSecret})
	bare := h.subscribe(data.URL, fields{"numberOfRecords": 2, "maxWaitSeconds": 3600, "payload": "data", "method": "PUT"})
	const odd = `{"title":"x",  "hours":1.50,"u":"\u00e9<&>"}`
	var list []string
	for i := range 7 {
		list = append(list, fmt.Sprintf(`{"id":"e%d","type":"task.create","resource":"project/p","time":"2026-11-21T10:00:00+02:00","data":%s}`, i, odd))
	}
	h.admin().do("POST", "/events", "["+strings.Join(list, ",")+"]").is(202)

	// Full ones go at once, in order; what is left waits.
	got := full.wait(2)
	if ids := allCarried(t, got); !slices.Equal(ids, []string{"e0", "e1", "e2", "e3", "e4", "e5"}) {
		t.Errorf("the full batches carry %v", ids)
	}
	full.quiet("a batch that is not full, within its time", 200*time.Millisecond)
	if s := h.status(three); counts(s) != "dead 0 delivering 0 held 0 pending 1 retrying 0" {
		t.Errorf("one of seven waits for two more: %v", s)
	}
	seen := map[string]bool{}
	for i, p := range got {
		record := `{"id":"e%d","type":"task.create","resource":"project/p","time":"2026-11-21T08:00:00Z","accountId":"default","data":` + odd + `}`
		want := fmt.Sprintf(`{"numberOfRecords":3,"records":[`+record+","+record+","+record+"]}", 3*i, 3*i+1, 3*i+2)
		if string(p.body) != want {
			t.Errorf("a batch is\n%s\nwant\n%s", p.body, want)
		}
		if p.id() == "" || seen[p.id()] || strings.HasPrefix(p.id(), "e") {
			t.Errorf("the id of a batch is %q, want one of its own", p.id())
		}
		seen[p.id()] = true
		if p.header.Get("Herald-Attempt") != "1" || p.header.Get("Herald-Subscription") != three || p.header.Get("Content-Type") != "application/json" || p.method != "POST" {
			t.Errorf("a batch has the headers %v", p.header)
		}
		if !p.verifies(t, aSecret) || p.verifies(t, anotherSecret) {
			t.Error("the signature of a batch does not verify")
		}
		p.body = append(p.body, ' ')
		if p.verifies(t, aSecret) {
			t.Error("the signature of a batch does not cover its whole body")
		}
	}
	// Each delivery shows the attempt of its batch.
	for i := range 6 {
		d := h.delivery(fmt.Sprintf("e%d", i), three, "delivered")
		if x := statuses(t, d); !slices.Equal(x, []int{200}) || d["attemptCount"] != 1.0 {
			t.Errorf("the delivery of e%d shows %v", i, d)
		}
	}
	// Two more fill the batch that has waited.
	h.publish("task.create", "", fields{})
	h.publish("task.create", "", fields{})
	if ids := carried(t, full.wait(3)[2]); len(ids) != 3 || ids[0] != "e6" {
		t.Errorf("the batch that was filled later carries %v", ids)
	}

	// The form of the records is that of the payload.
	for _, p := range data.wait(4)[:3] {
		if want := `{"numberOfRecords":2,"records":[` + odd + "," + odd + "]}"; p.method != "PUT" || string(p.body) != want {
			t.Errorf("a batch of data is %s %s, want %s", p.method, p.body, want)
		}
	}
	h.eventually("one of nine waits for another", func() bool { return counts(h.status(bare)) == "dead 0 delivering 0 held 0 pending 1 retrying 0" })
}

func TestContract_D10_LoneRecordAfterMaxWait(t *testing.T) {
	t.Parallel()
	h := start(t)
	soon, never, at, later := receive(t), receive(t), receive(t), receive(t)
	h.subscribe(soon.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 0.4})
	h.subscribe(at.URL, fields{"numberOfRecords": 1000, "maxWaitSeconds": 0})
	h.subscribe(later.URL, fields{"numberOfRecords": 3}) // a second, by default
	patched := h.subscribe(never.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 3600})
	began := time.Now()
	first := h.publish("task.create", "", fields{})
	at.wait(1)
	for r, wait := range map[*receiver]time.Duration{soon: 400 * time.Millisecond, later: time.Second} {
		p := r.wait(1)[0]
		// What is accepted counts in milliseconds.
		if took := p.at.Sub(began); took < wait-2*time.Millisecond {
			t.Errorf("a lone record came after %v, want %v", took, wait)
		}
		if got := carried(t, p); !slices.Equal(got, []string{first}) {
			t.Errorf("a lone record came as %s", p.body)
		}
	}
	if got := carried(t, at.got()[0]); !slices.Equal(got, []string{first}) {
		t.Errorf("without a wait came %v", got)
	}
	// A change holds for what waits already.
	if n := len(never.got()); n != 0 {
		t.Errorf("%d pushes came before their time", n)
	}
	h.admin().do("PATCH", "/subscriptions/"+patched, fields{"maxWaitSeconds": 0}).is(200)
	if got := carried(t, never.wait(1)[0]); !slices.Equal(got, []string{first}) {
		t.Errorf("after the change came %v", got)
	}
}

// What waits for a batch to fill is on disk: it outlives the daemon, with the time it has waited.
func TestContract_D10_FillingOverRestart(t *testing.T) {
	t.Parallel()
	h := start(t)
	long, short := receive(t), receive(t)
	h.subscribe(long.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 3600})
	h.subscribe(short.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 0.3})
	events := h.publishAll(2, nil)
	h = h.restart()
	if got := carried(t, short.wait(1)[0]); !slices.Equal(got, events) {
		t.Errorf("after the restart came %v, want %v", got, events)
	}
	events = append(events, h.publish("task.create", "", fields{}))
	if got := carried(t, long.wait(1)[0]); !slices.Equal(got, events) {
		t.Errorf("filled after the restart came %v, want %v", got, events)
	}
}

func TestContract_D10_BatchRetriedAsTheSame(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	id := h.subscribe(r.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 0, "delivery": promptly(3), "signingSecret": aSecret})
	events := h.publishAll(3, nil)
	for _, e := range events {
		h.delivery(e, id, "retrying")
	}
	h = h.restart(steady)                           // in between
	other := h.publish("task.create", "", fields{}) // which has no part in it
	var first, again, alone push
	for _, p := range r.wait(3) {
		switch {
		case p.header.Get("Herald-Attempt") == "2":
			again = p
		case len(p.records(t)) == 3:
			first = p
		default:
			alone = p
		}
	}
	if !slices.Equal(carried(t, first), events) || string(first.body) != string(again.body) || first.id() != again.id() || first.id() == "" {
		t.Errorf("a batch came as %q %s and again as %q %s", first.id(), first.body, again.id(), again.body)
	}
	if !again.verifies(t, aSecret) {
		t.Error("the second attempt does not verify")
	}
	if wait := again.at.Sub(first.at); wait < 990*time.Millisecond {
		t.Errorf("the second attempt came after %v, want a second", wait)
	}
	if got := carried(t, alone); !slices.Equal(got, []string{other}) || alone.id() == first.id() {
		t.Errorf("what came meanwhile was pushed as %s", alone.body)
	}
	for _, e := range events {
		if d := h.delivery(e, id, "delivered"); !slices.Equal(statuses(t, d), []int{500, 200}) || d["attemptCount"] != 2.0 {
			t.Errorf("a delivery of the batch shows %v", d)
		}
	}
	h.sentinel()
	if n := len(r.got()); n != 3 {
		t.Errorf("%d pushes came, want 3", n)
	}
}

func TestContract_D10_413DissolvesBatch(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	limited := func(most int) *receiver {
		r := receive(t)
		r.respond(func(_ int, p push, w http.ResponseWriter) {
			if len(p.records(t)) > most {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
		})
		return r
	}
	one, four, none := limited(1), limited(4), limited(0)
	a := h.subscribe(one.URL, fields{"events": []string{"task.*"}, "numberOfRecords": 3, "maxWaitSeconds": 0.2, "delivery": promptly(1)})
	b := h.subscribe(four.URL, fields{"events": []string{"task.*"}, "numberOfRecords": 8, "maxWaitSeconds": 0.2, "delivery": promptly(1)})
	c := h.subscribe(none.URL, fields{"events": []string{"large.*"}, "numberOfRecords": 3, "maxWaitSeconds": 0.2, "delivery": promptly(1)})
	tooLarge := h.publishAll(2, func(_ int, e fields) { e["type"] = "large.create" })
	events := h.publishAll(6, nil)
	for i, e := range events {
		for _, id := range []string{a, b} {
			d := h.delivery(e, id, "delivered")
			if s := statuses(t, d); s[0] != 413 && len(s) != 1 || s[len(s)-1] != 200 {
				t.Errorf("the delivery %d shows %v", i, s)
			}
		}
	}
	for what, r := range map[string]*receiver{"one": one, "four": four} {
		var taken []string
		for _, p := range r.got() {
			// In the form of many still, each under an id that tells it apart.
			if got := carried(t, p); what == "one" && len(got) == 1 || what == "four" && len(got) <= 4 {
				taken = append(taken, got...)
			}
		}
		if got := slices.Sorted(slices.Values(taken)); !slices.Equal(got, slices.Sorted(slices.Values(events))) {
			t.Errorf("the receiver that takes %s took %v, want %v", what, got, events)
		}
	}
	// It is learned from: what comes later is not refused time and again. And it is no failure.
	before := len(four.got())
	more := h.publishAll(8, nil)
	for _, e := range more {
		if s := statuses(t, h.delivery(e, b, "delivered")); !slices.Equal(s, []int{200}) {
			t.Errorf("a later delivery shows %v", s)
		}
	}
	if n := len(four.got()) - before; n > 4 {
		t.Errorf("8 more took %d pushes to a receiver that takes 4 and has refused 6", n)
	}
	if s := h.status(b); s["batchLimit"] != 3.0 || s["breaker"].(fields)["failures"] != 0.0 {
		t.Errorf("the status is %v", s)
	}
	// A lone record that is too large is a failure like any other, and has its whole schedule before it.
	for _, e := range tooLarge {
		d := h.delivery(e, c, "dead")
		if s := statuses(t, d); d["reason"] != "exhausted" || !slices.Equal(s, []int{413, 413, 413}) {
			t.Errorf("what is too large even alone shows %v", d)
		}
	}
}

func TestContract_D10_PatchedWhileFailedBatchWaits(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, grown := receive(t), receive(t)
	failOnce := func(n int, _ push, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}
	r.respond(failOnce)
	grown.respond(failOnce)
	shrinking := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "numberOfRecords": 3, "maxWaitSeconds": 0.2, "delivery": promptly(2)})
	growing := h.subscribe(grown.URL, fields{"events": []string{"one.*"}, "delivery": promptly(2)})
	events := h.publishAll(3, nil)
	one := h.publish("one.create", "", fields{})
	for _, e := range events {
		h.delivery(e, shrinking, "retrying")
	}
	h.delivery(one, growing, "retrying")
	h.admin().do("PATCH", "/subscriptions/"+shrinking, fields{"numberOfRecords": 1}).is(200)
	h.admin().do("PATCH", "/subscriptions/"+growing, fields{"numberOfRecords": 5, "maxWaitSeconds": 0.2}).is(200)
	for _, e := range events {
		if s := statuses(t, h.delivery(e, shrinking, "delivered")); !slices.Equal(s, []int{502, 200}) {
			t.Errorf("a delivery shows %v", s)
		}
	}
	got := r.got()[1:]
	if carried := slices.Sorted(slices.Values(ids(t, got))); !slices.Equal(carried, slices.Sorted(slices.Values(events))) {
		t.Errorf("of the batch came %v, want %v one by one", carried, events)
	}
	for _, p := range got {
		if id, _ := p.object(t)["id"].(string); p.id() != id {
			t.Errorf("the push of %s has the id %q", id, p.id())
		}
	}
	h.delivery(one, growing, "delivered")
	if got := carried(t, grown.wait(2)[1]); !slices.Equal(got, []string{one}) {
		t.Errorf("after the change came %v", got)
	}
}

func TestContract_D10_Limits(t *testing.T) {
	t.Parallel()
	h := start(t)
	const url = "http://127.0.0.1:8421/"
	for value, word := range map[any]string{0: "1000", -1: "1000", 1001: "1000", 1.5: "whole|integer", "3": "number|integer"} {
		names(t, fmt.Sprint("numberOfRecords ", value), h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": url, "numberOfRecords": value}).problem(400), "numberOfRecords", word)
	}
	for value, word := range map[any]string{-0.1: "3600", 3600.5: "3600", "1": "number"} {
		names(t, fmt.Sprint("maxWaitSeconds ", value), h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": url, "maxWaitSeconds": value}).problem(400), "maxWaitSeconds", word)
	}
	h.subscribe(url, fields{"numberOfRecords": 1000, "maxWaitSeconds": 3600, "events": []string{"no.such"}})
	// GET has no body to carry several, whichever of the two comes first.
	names(t, "both", h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": url, "numberOfRecords": 2, "method": "GET"}).problem(400), "numberOfRecords", "GET")
	several := h.subscribe(url, fields{"numberOfRecords": 2, "events": []string{"no.such"}})
	names(t, "the method later", h.admin().do("PATCH", "/subscriptions/"+several, fields{"method": "GET"}).problem(400), "numberOfRecords|method", "GET")
	get := h.subscribe(url, fields{"method": "GET", "events": []string{"no.such"}})
	names(t, "the number later", h.admin().do("PATCH", "/subscriptions/"+get, fields{"numberOfRecords": 2}).problem(400), "numberOfRecords", "GET")
	h.admin().do("PATCH", "/subscriptions/"+several, fields{"method": "GET", "numberOfRecords": 1}).is(200)
}

// A limit of records a second makes batches wait, and does not take them apart.
func TestContract_D10_RateLimitKeepsBatches(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	h.subscribe(r.URL, fields{"numberOfRecords": 10, "maxWaitSeconds": 5, "delivery": fields{"rateLimit": 20}})
	h.publishAll(40, nil)
	eventually(t, "all have arrived", func() bool { return len(allCarried(t, r.got())) >= 40 })
	if n := len(r.got()); n > 5 {
		t.Errorf("40 records came in %d pushes, want 4 of 10", n)
	}
}
