package daemon_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"
)

// The rows P3 to P7 and P18 by count of failures: when a subscription is disabled, what becomes of its deliveries,
// and how it comes back.

// stopping is a policy by which n failed pushes in a row disable a subscription that is pushed to one by one.
func stopping(n int, more fields) fields {
	policy := fields{"retrySchedule": []string{"1s"}, "maxConcurrency": 1, "disableAfter": fields{"failures": n}}
	maps.Copy(policy, more)
	return fields{"delivery": policy}
}

// disabled waits until a subscription is, for the reason, and returns it.
func (h *herald) disabled(id, reason string) (s map[string]any) {
	h.t.Helper()
	h.eventually("the subscription is disabled", func() bool {
		s = h.read(id)
		return s["state"] == "disabled"
	})
	if s["stateReason"] != reason {
		h.t.Errorf("the subscription is disabled because of %v, want %s", s["stateReason"], reason)
	}
	return s
}

// enable enables a subscription.
func (h *herald) enable(id string) {
	h.t.Helper()
	if s := h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200).object(); s["state"] != "active" || s["stateReason"] != nil {
		h.t.Errorf("enabling answered with %v (%v)", s["state"], s["stateReason"])
	}
}

// allHeld waits until n deliveries of a subscription are held and nothing else is to do for it.
func (h *herald) allHeld(id string, n int) {
	h.t.Helper()
	want := fmt.Sprintf("dead 0 delivering 0 held %d pending 0 retrying 0", n)
	var last string
	h.eventually(fmt.Sprintf("%d deliveries are held", n), func() bool {
		last = counts(h.status(id))
		return last == want
	})
}

func TestContract_P3_P18_FailuresInARowDisable(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, mixed := receive(t), receive(t)
	// Whatever the failure is: an opinion about the order counts like a broken connection.
	answers := []int{http.StatusUnprocessableEntity, 0, http.StatusInternalServerError, http.StatusNotFound, http.StatusFound}
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if answers[n-1] == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Connection", "close") // on a used connection the break would look like one closed while idle
		w.WriteHeader(answers[n-1])
	})
	// A success between them begins the count anew.
	mixed.respond(func(n int, _ push, w http.ResponseWriter) {
		if n%4 != 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	began := time.Now()
	id := h.subscribe(r.URL, stopping(4, fields{"retrySchedule": []string{"1h"}}))
	beside := h.subscribe(mixed.URL, stopping(4, fields{"retrySchedule": []string{"1h"}}))
	const events = 7
	h.publishAll(events, nil)

	s := h.disabled(id, "failures")
	if since := moment(t, s["stateSince"]); since.Before(began.Add(-time.Millisecond)) || since.After(time.Now()) {
		t.Errorf("published at %v, disabled since %v", began, since)
	}
	h.allHeld(id, events)
	if n := len(r.got()); n != 4 {
		t.Errorf("%d pushes went out, want the 4 that disabled it", n)
	}
	status := h.status(id)
	if status["state"] != "disabled" || status["stateReason"] != "failures" || status["stateSince"] != s["stateSince"] ||
		status["disableAt"] != nil || status["failuresLeft"] != nil || status["nextRetryAt"] != nil {
		t.Errorf("the status is %v", status)
	}
	if n := len(h.admin().do("GET", "/deliveries?state=held&subscription="+id, nil).is(200).list()); n != events {
		t.Errorf("%d deliveries are listed as held, want %d", n, events)
	}
	// The other has failed as often, with a success between.
	mixed.wait(events)
	h.eventually("three failures are counted", func() bool { return h.breaker(beside)["failures"] == 3.0 })
	if s := h.status(beside); s["state"] != "active" || s["failuresLeft"] != 1.0 {
		t.Errorf("three failures, a success and three failures made it %v", s)
	}
	// One may be enough.
	one := receive(t)
	one.status(http.StatusInternalServerError)
	sole := h.subscribe(one.URL, fields{"events": []string{"single.*"}, "delivery": fields{"disableAfter": fields{"failures": 1}}})
	h.publish("single.create", "", fields{})
	h.disabled(sole, "failures")
}

func TestContract_P4_P7_HeldUntilEnabled(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusBadGateway)
	id := h.subscribe(r.URL, stopping(2, fields{"retrySchedule": []string{"1s", "1s"}}))
	queued := h.publishAll(6, nil)
	h.disabled(id, "failures")
	r.status(http.StatusOK) // and nobody said so
	meanwhile := h.publishAll(4, nil)
	h.allHeld(id, 10)
	h = h.restart(steady)
	meanwhile = append(meanwhile, h.publish("task.create", "", fields{}))
	h.sentinel()
	r.quiet("while it is disabled, and its retries are due", 1100*time.Millisecond)
	h.disabled(id, "failures")
	h.allHeld(id, 11)
	if n := len(r.got()); n != 2 {
		t.Errorf("%d pushes went out, want the 2 that disabled it", n)
	}

	h.enable(id)
	after := h.publish("task.create", "", fields{})
	all := append(append(slices.Clone(queued), meanwhile...), after)
	for _, e := range all {
		h.delivery(e, id, "delivered")
	}
	got := ids(t, r.got()[2:])
	if want := slices.Sorted(slices.Values(all)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("after enabling came %v, want each of %v once", got, want)
	}
	// What had not been tried comes in the order of acceptance, what is newest last; what had been, takes turns.
	fresh := slices.DeleteFunc(slices.Clone(got), func(e string) bool { return slices.Contains(queued[:2], e) })
	if want := all[2:]; !slices.Equal(fresh, want) {
		t.Errorf("after enabling came %v, want %v", fresh, want)
	}
	// The failures of before are forgotten: one more does not disable it.
	if s := h.status(id); s["breaker"].(fields)["failures"] != 0.0 || s["failuresLeft"] != nil {
		t.Errorf("after enabling the status is %v", s)
	}
}

func TestContract_P5_P6_Discarded(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, stopping(2, fields{"onDisabled": "discard", "retrySchedule": []string{"1h"}}))
	queued := h.publishAll(5, nil)
	h.disabled(id, "failures")
	// P5: what waited.
	for i, e := range queued {
		d := h.delivery(e, id, "discarded")
		if d["reason"] != "disabled" || d["nextAttemptAt"] != nil {
			t.Errorf("the delivery %d is %v", i, d)
		}
		if n := len(attempts(t, d)); n != map[bool]int{true: 1, false: 0}[i < 2] {
			t.Errorf("the delivery %d shows %d attempts", i, n)
		}
	}
	if l := h.admin().do("GET", "/deliveries?reason=disabled&state=discarded&subscription="+id, nil).is(200).list(); len(l) != 5 {
		t.Errorf("%d deliveries are listed as discarded because it was disabled, want 5", len(l))
	}
	// P6: what comes meanwhile.
	meanwhile := h.publishAll(3, nil)
	nothing := func(when string) {
		t.Helper()
		if s := h.status(id); counts(s) != "dead 0 delivering 0 held 0 pending 0 retrying 0" || s["state"] != "disabled" {
			t.Errorf("%s: the status is %v", when, s)
		}
		for _, e := range meanwhile {
			if l := h.admin().deliveries(e); len(l) != 0 {
				t.Errorf("%s: what came meanwhile has the deliveries %v", when, l)
			}
			h.admin().do("GET", "/events/"+e, nil).is(200) // the event is there all the same
		}
	}
	nothing("at once")
	h = h.restart(steady)
	meanwhile = append(meanwhile, h.publishAll(1, nil)...)
	nothing("after a restart")
	r.status(http.StatusOK)
	h.enable(id)
	// P7: what comes afterwards.
	after := h.publishAll(2, nil)
	for _, e := range after {
		h.delivery(e, id, "delivered")
	}
	h.sentinel()
	if got := ids(t, r.got()[2:]); !slices.Equal(got, after) {
		t.Errorf("after enabling came %v, want %v", got, after)
	}
	for _, e := range queued {
		if d := h.delivery(e, id, "discarded"); d["reason"] != "disabled" {
			t.Errorf("after enabling a discarded delivery is %v", d)
		}
	}
}

// 410 disables at once, with either choice, whatever disableAfter says.
func TestContract_P3_GoneDisablesAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	for _, way := range []string{"hold", "discard"} {
		r := receive(t)
		r.respond(func(n int, _ push, w http.ResponseWriter) {
			if n == 3 {
				w.WriteHeader(http.StatusGone)
			}
		})
		id := h.subscribe(r.URL, fields{"delivery": fields{"maxConcurrency": 1, "onDisabled": way, "disableAfter": fields{}, "retrySchedule": []string{"1h"}}})
		events := h.publishAll(6, nil)
		h.disabled(id, "gone")
		for _, e := range events[:2] {
			h.delivery(e, id, "delivered")
		}
		want := map[string]string{"hold": "held", "discard": "discarded"}[way]
		for _, e := range events[2:] {
			h.delivery(e, id, want)
		}
		if n := len(r.got()); n != 3 {
			t.Errorf("%s: %d pushes went out, want 3", way, n)
		}
		h.enable(id)
		after := h.publish("task.create", "", fields{})
		h.delivery(after, id, "delivered")
		rest := append(slices.Clone(events[2:]), after)
		if way == "discard" {
			rest = rest[4:]
		}
		for _, e := range rest { // the one answered 410 needs no hour
			h.delivery(e, id, "delivered")
		}
		h.sentinel()
		if got := slices.Sorted(slices.Values(ids(t, r.got()[3:]))); !slices.Equal(got, slices.Sorted(slices.Values(rest))) {
			t.Errorf("%s: after enabling came %v, want %v", way, got, rest)
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
}

// Pausing holds also what a disabled subscription would discard.
func TestContract_PauseHoldsAlsoWithDiscard(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"delivery": fields{"onDisabled": "discard", "maxConcurrency": 1}})
	s := h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200).object()
	if s["state"] != "paused" || s["stateReason"] != "owner" {
		t.Errorf("pausing answered with %v (%v)", s["state"], s["stateReason"])
	}
	events := h.publishAll(5, nil)
	h.allHeld(id, 5)
	h = h.restart(steady)
	events = append(events, h.publish("task.create", "", fields{}))
	h.allHeld(id, 6)
	for _, e := range events {
		h.delivery(e, id, "held")
	}
	r.quiet("while it is paused", 200*time.Millisecond)
	h.enable(id)
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
	if got := ids(t, r.got()); !slices.Equal(got, events) {
		t.Errorf("after the pause came %v, want %v", got, events)
	}
}

// A batch that failed is the same one when the subscription comes back.
func TestContract_P7_BatchIsTheSameAfterEnable(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusGone)
	id := h.subscribe(r.URL, fields{"numberOfRecords": 3, "maxWaitSeconds": 0.1, "delivery": fields{"ordering": "strict"}})
	events := h.publishAll(3, nil)
	h.disabled(id, "gone")
	h.allHeld(id, 3)
	events = append(events, h.publish("task.create", "", fields{}))
	h = h.restart(steady)
	h.allHeld(id, 4)
	r.status(http.StatusOK)
	h.enable(id)
	got := r.wait(3)
	if got[0].id() != got[1].id() || string(got[0].body) != string(got[1].body) || got[1].header.Get("Herald-Attempt") != "2" {
		t.Errorf("the batch %q %s came again as %q %s", got[0].id(), got[0].body, got[1].id(), got[1].body)
	}
	if got := allCarried(t, got[1:]); !slices.Equal(got, events) {
		t.Errorf("after enabling came %v, want %v", got, events)
	}
}

// However soon it is enabled, of what was discarded nothing flows.
func TestContract_P5_EnabledAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	for range 4 {
		r := receive(t)
		r.status(http.StatusGone)
		id := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "delivery": fields{"onDisabled": "discard"}})
		h.publishAll(200, nil)
		h.disabled(id, "gone")
		n := len(r.got())
		r.status(http.StatusOK)
		h.enable(id)
		after := h.publish("task.create", "", fields{})
		h.delivery(after, id, "delivered")
		h.eventually("nothing waits", func() bool { return counts(h.status(id)) == "dead 0 delivering 0 held 0 pending 0 retrying 0" })
		if got := ids(t, r.got()[n:]); !slices.Equal(got, []string{after}) {
			t.Errorf("of what was discarded came %d", len(got)-1)
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
}

// What a subscription does not say of its policy is as configured, and a change of the configuration is one for it.
func TestContract_PolicyDefaultsAreConfigured(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0, retry_schedule: [1h], disable_after: {failures: 2}, on_disabled: discard, ordering: strict, rate_limit: 100}")
	sick, well, own := receive(t), receive(t), receive(t)
	sick.status(http.StatusInternalServerError)
	own.status(http.StatusInternalServerError)
	f := well.failing(0, nil)
	id := h.subscribe(sick.URL, fields{"delivery": fields{"ordering": "none"}})
	h.subscribe(well.URL, nil)
	other := h.subscribe(own.URL, fields{"delivery": fields{"ordering": "none", "onDisabled": "hold", "disableAfter": fields{"failures": 1}}})
	began := time.Now()
	events := h.publishAll(5, nil)
	h.disabled(id, "failures")
	h.disabled(other, "failures")
	h.allHeld(other, 5)
	for _, e := range events {
		h.delivery(e, id, "discarded")
	}
	if got := numbers(t, well.wait(5)); !slices.Equal(got, []int{0, 1, 2, 3, 4}) || f.atMost() != 1 {
		t.Errorf("in strict order came %v, %d at once", got, f.atMost())
	}
	paced(t, "at 100 a second", began, times(well.got(), func(push) int { return 1 }), 100, 100)
	if a, b := len(sick.got()), len(own.got()); a != 2 || b != 1 {
		t.Errorf("disabled after %d and %d failures, want 2 and 1", a, b)
	}
}

// What is held flows when the subscription is enabled, also what had been tried before.
func TestContract_P7_EnableLetsHeldRetriesFlow(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	for _, c := range []struct{ way, order string }{{"pause", "none"}, {"disable", "none"}, {"pause", "strict"}, {"disable", "strict"}, {"disable", "key"}} {
		r := receive(t)
		r.status(http.StatusInternalServerError)
		settings := stopping(map[string]int{"pause": 3, "disable": 1}[c.way], fields{"ordering": c.order, "retrySchedule": []string{"1h"}})
		settings["events"] = []string{"task.*"}
		id := h.subscribe(r.URL, settings)
		events := h.publishAll(1, nil)
		if c.way == "pause" {
			h.delivery(events[0], id, "retrying")
			h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
		}
		events = append(events, h.publishAll(2, nil)...)
		h.allHeld(id, 3)
		r.status(http.StatusOK)
		h.enable(id)
		r.wait(4)
		if got := ids(t, r.got()[1:]); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(events))) || c.order != "none" && !slices.Equal(got, events) {
			t.Errorf("%s, ordering %s: after enabling came %v, want %v; %s", c.way, c.order, got, events, counts(h.status(id)))
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
}
