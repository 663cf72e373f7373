package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// Dead deliveries: found by why they died, tried again one by one or by choice.

// dead waits until n deliveries of a subscription are.
func (h *herald) dead(id string, n int) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d deliveries are dead", n), func() bool { return h.status(id)["deliveries"].(fields)["dead"] == float64(n) })
}

// found are the events of the deliveries of a subscription that a query selects, newest first.
func (h *herald) found(id, query string) []string {
	h.t.Helper()
	var out []string
	for _, d := range h.admin().do("GET", "/deliveries?subscription="+id+"&"+query, nil).is(200).list() {
		event, _ := d["eventId"].(string)
		out = append(out, event)
	}
	return out
}

// retryDead retries dead deliveries and returns how many, or only counts them.
func (h *herald) retryDead(id, query string, body any) int {
	h.t.Helper()
	a := h.admin().do("POST", "/subscriptions/"+id+"/retry"+query, body)
	member := "retried"
	if a.status == http.StatusOK {
		member = "count"
	} else {
		a.is(202)
	}
	got := a.object()
	if at, there := got["lastDueAt"]; there { // at a rate, the last one is due later
		moment(h.t, at)
		delete(got, "lastDueAt")
	}
	if !slices.Equal(members(got), []string{member}) {
		h.t.Errorf("%s answered with %v", a.request, got)
	}
	n, _ := a.object()[member].(float64)
	return int(n)
}

func deadOneByOne(t *testing.T) {
	t.Helper()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	events := h.publishAll(2, nil)
	h.dead(id, 2)
	if got := h.found(id, "state=dead&reason=exhausted"); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(events))) {
		t.Errorf("dead by exhaustion are %v, want %v", got, events)
	}
	first := h.delivery(events[0], id, "dead")
	if s := statuses(t, first); first["reason"] != "exhausted" || !slices.Equal(s, []int{500, 500}) || first["nextAttemptAt"] != nil {
		t.Errorf("a dead delivery is %v", first)
	}
	h = h.restart(steady) // it stays
	h.dead(id, 2)

	// Its schedule begins anew: it fails once more, waits, and is delivered. The other one stays dead.
	failures := len(r.got())
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == failures+1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	h.again(first["id"].(string))
	d := h.delivery(events[0], id, "delivered")
	if s := statuses(t, d); d["id"] != first["id"] || !slices.Equal(s, []int{500, 500, 500, 200}) || d["reason"] != nil {
		t.Errorf("tried again it is %v", d)
	}
	got := r.got()
	for i, p := range got[failures:] {
		if p.id() != events[0] || p.header.Get("Herald-Attempt") != fmt.Sprint(3+i) {
			t.Errorf("the attempt %s of %s, want %d of %s", p.header.Get("Herald-Attempt"), p.id(), 3+i, events[0])
		}
	}
	if got := h.found(id, "state=dead"); !slices.Equal(got, events[1:]) {
		t.Errorf("dead are %v, want %v", got, events[1:])
	}
	// Neither is anybody else's.
	second := h.delivery(events[1], id, "dead")["id"].(string)
	other := h.account("other", "subscribe")
	other.do("POST", "/deliveries/"+second+"/retry", nil).problem(404)
	other.do("POST", "/subscriptions/"+id+"/retry", nil).problem(404)
	other.do("POST", "/subscriptions/"+id+"/retry?dryRun=true", nil).problem(404)
	h.token("default", "publish").do("POST", "/subscriptions/"+id+"/retry", nil).problem(403)
}

func TestContract_Dead_RetriedByChoice(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1), "numberOfRecords": 10, "maxWaitSeconds": 0.3})
	kind := func(k string) func(int, fields) { return func(_ int, e fields) { e["type"] = k } }
	early := h.publishAll(1, kind("a.one"))
	// Milliseconds are what acceptance counts in.
	middle := time.Now().Add(2 * time.Millisecond).UTC()
	<-time.After(5 * time.Millisecond)
	late := append(h.publishAll(1, kind("a.one")), h.publishAll(1, kind("b.two"))...)
	split := middle.Format(time.RFC3339Nano)
	h.dead(id, 3)
	// What is not dead is not meant.
	r.status(http.StatusOK)
	live := h.publishAll(1, kind("a.one"))
	h.delivery(live[0], id, "delivered")
	before := len(r.got())

	count := func(query string, body any, want int) {
		t.Helper()
		if got := h.retryDead(id, query, body); got != want {
			t.Errorf("%s %v counts %d, want %d", query, body, got, want)
		}
	}
	count("?dryRun=true", nil, 3)
	count("?dryRun=true&type=a.one", nil, 2)
	count("?dryRun=true&type=a", nil, 0)
	count("?dryRun=true&until="+split, nil, 1)
	count("?dryRun=true&since="+split, nil, 2)
	count("?dryRun=true&reason=exhausted&type=b.two&since="+split, nil, 1)
	count("?dryRun=true&reason=rejected", nil, 0)
	count("", fields{"dryRun": true, "since": split, "type": "a.one", "reason": "exhausted"}, 1)
	count("?dryRun=true&rate=0.5", nil, 3)
	h.sentinel()
	if n := len(r.got()); n != before {
		t.Errorf("counting sent %d pushes", n-before)
	}
	h.dead(id, 3)

	count("?until="+split, nil, 1)
	h.delivery(early[0], id, "delivered")
	count("?until="+split, nil, 0)
	count("", fields{"type": "b.two"}, 1)
	h.delivery(late[1], id, "delivered")
	count("?dryRun=false", nil, 1)
	h.delivery(late[0], id, "delivered")
	h.dead(id, 0)
	h.sentinel()
	if got, want := slices.Sorted(slices.Values(allCarried(t, r.got()[before:]))), slices.Sorted(slices.Values(append(early, late...))); !slices.Equal(got, want) {
		t.Errorf("retried were %v, want %v", got, want)
	}
}

func deadAtARate(t *testing.T) {
	t.Helper()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	events := h.publishAll(2, nil)
	h.dead(id, 2)
	r.status(http.StatusOK)
	h.enable(id)
	n := len(r.got())
	began := time.Now()
	answer := h.admin().do("POST", "/subscriptions/"+id+"/retry", fields{"rate": 2}).is(202).object()
	if answer["retried"] != 2.0 {
		t.Errorf("retrying two answered with %v", answer)
	}
	answered := time.Now()
	if last := moment(t, answer["lastDueAt"]); last.Sub(began) < 499*time.Millisecond || last.Sub(answered) > 501*time.Millisecond {
		t.Errorf("at 2 a second, asked for at %v and answered at %v, the second of two is due at %v", began, answered, last)
	}
	if took := answered.Sub(began); took > prompt {
		t.Errorf("the call took %v", took)
	}
	paced(t, "at 2 a second", began, times(r.wait(n + 2)[n:], func(push) int { return 1 }), 2, 1)
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
}

// What dies of age can be tried again as long as it is kept. As ageing takes its time, the others are done meanwhile.
func TestContract_Dead_ByAgeAndByHand(t *testing.T) {
	t.Parallel()
	h := start(t, steady, "retention: {events: 1s, dead: 1h}")
	r, ops := receive(t), receive(t)
	r.status(http.StatusInternalServerError)
	h.subscribe(ops.URL, fields{"events": []string{"herald.delivery.dead"}})
	id := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "delivery": patiently()})
	event := h.publish("task.create", "", fields{})
	h.delivery(event, id, "retrying")

	t.Run("one by one", deadOneByOne)
	t.Run("at a rate", deadAtARate)
	t.Run("while paused", deadWhilePaused)

	h.dead(id, 1)
	if d := h.delivery(event, id, "dead"); d["reason"] != "expired" {
		t.Errorf("what was not delivered in time is %v", d)
	}
	if got := h.found(id, "reason=expired"); !slices.Equal(got, []string{event}) {
		t.Errorf("dead by age are %v", got)
	}
	if got := h.found(id, "state=dead&reason=exhausted"); len(got) != 0 {
		t.Errorf("dead by exhaustion are %v", got)
	}
	// It is told, with how many there were.
	seen := 0
	if data := ops.notice(&seen, "herald.delivery.dead"); data["subscriptionId"] != id || data["reason"] != "expired" || data["count"] != 1.0 {
		t.Errorf("told was %v", data)
	}
	r.status(http.StatusOK)
	if n := h.retryDead(id, "?reason=expired", nil); n != 1 {
		t.Errorf("%d were retried, want 1", n)
	}
	if got := r.wait(2); got[1].id() != event || got[1].header.Get("Herald-Attempt") != "2" {
		t.Errorf("tried again came %v", got[1].header)
	}
	h.delivery(event, id, "delivered")
}

// While the subscription is paused what is retried is held.
func deadWhilePaused(t *testing.T) {
	t.Helper()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	events := h.publishAll(2, nil)
	h.dead(id, 2)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	r.status(http.StatusOK)
	n := len(r.got())
	h.again(h.delivery(events[0], id, "dead")["id"].(string))
	if got := h.retryDead(id, "", nil); got != 1 {
		t.Errorf("%d were retried, want the other one", got)
	}
	h.allHeld(id, 2)
	h = h.restart(steady)
	h.allHeld(id, 2)
	h.sentinel()
	if got := len(r.got()); got != n {
		t.Errorf("%d pushes went out while it was paused", got-n)
	}
	h.enable(id)
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
}

// A delivery that is to be discarded is not said to be held.
func TestContract_Dead_DiscardedRetriedWhileDisabled(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusGone)
	id := h.subscribe(r.URL, fields{"delivery": fields{"onDisabled": "discard"}})
	d := h.delivery(h.publish("task.create", "", fields{}), id, "discarded")["id"].(string)
	a := h.admin().do("POST", "/deliveries/"+d+"/retry", nil)
	<-time.After(200 * time.Millisecond)
	later := h.admin().do("GET", "/deliveries/"+d, nil).is(200).text("state")
	if a.status == http.StatusAccepted && a.text("state") != later {
		t.Errorf("the answer says %s, and then it is %s", a.text("state"), later)
	}
}
