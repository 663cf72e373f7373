package daemon_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Operational events: what Herald itself has to tell, to whoever asks for it.

// notice waits for the next push of a receiver beyond those seen, which must be of the type, and returns its data.
func (r *receiver) notice(seen *int, eventType string) map[string]any {
	r.t.Helper()
	p := r.wait(*seen + 1)[*seen]
	*seen++
	e := p.object(r.t)
	if e["type"] != eventType || e["accountId"] != "default" || p.id() != e["id"] {
		r.t.Errorf("there came %s, want %s", p.body, eventType)
	}
	moment(r.t, e["time"])
	if strings.Contains(string(p.body), "hidden") {
		r.t.Errorf("more than the host of a URL is told: %s", p.body)
	}
	data, _ := e["data"].(map[string]any)
	return data
}

// tells fails the test unless the members of the data are these.
func tells(t *testing.T, what string, data map[string]any, want fields, moments ...string) {
	t.Helper()
	all := append(members(want), moments...)
	slices.Sort(all)
	if !slices.Equal(members(data), all) {
		t.Errorf("%s has the members %v, want %v", what, members(data), all)
	}
	same(t, what, data, want)
	for _, m := range moments {
		moment(t, data[m])
	}
}

// again retries a delivery by hand.
func (h *herald) again(delivery string) {
	h.t.Helper()
	h.admin().do("POST", "/deliveries/"+delivery+"/retry", nil).is(202)
}

func TestContract_Notices_OfASubscriptionThatFails(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	ops, all, patterns, sick := receive(t), receive(t), receive(t), receive(t)
	opsID := h.subscribe(ops.URL, fields{"events": []string{"herald.*"}, "signingSecret": aSecret, "delivery": fields{"ordering": "strict"}})
	h.subscribe(all.URL, nil)
	h.subscribe(patterns.URL, fields{"events": []string{"*.disabled", "task.*", "*.dead", "*.subscription.gone"}})
	h.account("other", "subscribe")
	foreign := receive(t)
	h.admin().with("Herald-Account", "other").do("POST", "/subscriptions", fields{"dataCallbackURL": foreign.URL, "events": []string{"herald.*"}}).is(200)
	sick.status(http.StatusServiceUnavailable)
	u, err := url.Parse(sick.URL)
	if err != nil {
		t.Fatal(err)
	}
	id := h.subscribe(sick.URL+"/hidden?key=hidden", fields{
		"events": []string{"task.*"}, "delivery": fields{"retrySchedule": []string{"1h"}, "disableAfter": fields{"duration": "2h", "failures": 10}},
	})

	event := h.publish("task.create", "", fields{})
	d := h.delivery(event, id, "retrying")["id"].(string)
	seen := 0
	for failures := 1; failures <= 10; failures++ {
		if failures > 1 {
			h.eventually("the last attempt is written down", func() bool {
				return h.admin().do("GET", "/deliveries/"+d, nil).is(200).object()["attemptCount"] == float64(failures-1)
			})
			h.again(d)
		}
		if failures < 10 {
			h.eventually(fmt.Sprintf("%d pushes have failed", failures), func() bool { return h.breaker(id)["failures"] == float64(failures) })
		}
		percent := map[int]float64{5: 50, 8: 75, 9: 90}[failures]
		if percent == 0 {
			continue
		}
		data := ops.notice(&seen, "herald.subscription.warning")
		tells(t, "a warning", data, fields{
			"subscriptionId": id, "state": "active", "dataCallbackHost": u.Host, "failures": failures, "percent": percent, "disableFailures": 10,
		}, "failingSince", "disableAt")
		if wait := moment(t, data["disableAt"]).Sub(moment(t, data["failingSince"])); wait != 2*time.Hour {
			t.Errorf("failing since %v, and disabled at %v", data["failingSince"], data["disableAt"])
		}
		if s := h.status(id); s["warnedPercent"] != percent || s["failuresLeft"] != float64(10-failures) {
			t.Errorf("after %d failures the status is %v", failures, s)
		}
	}
	tells(t, "the notice of the disabling", ops.notice(&seen, "herald.subscription.disabled"), fields{
		"subscriptionId": id, "state": "disabled", "reason": "failures", "dataCallbackHost": u.Host, "failures": 10,
	}, "failingSince")
	h.disabled(id, "failures")

	sick.status(http.StatusGone)
	h.enable(id)
	tells(t, "the notice of the enabling", ops.notice(&seen, "herald.subscription.enabled"), fields{
		"subscriptionId": id, "state": "active", "dataCallbackHost": u.Host,
	})
	h.again(d)
	tells(t, "the notice of 410", ops.notice(&seen, "herald.subscription.gone"), fields{
		"subscriptionId": id, "state": "disabled", "reason": "gone", "dataCallbackHost": u.Host,
	})
	h.enable(id) // active again, and nothing to tell when it is already
	ops.notice(&seen, "herald.subscription.enabled")
	h.disabled(id, "gone") // what was answered 410 is due at once
	ops.notice(&seen, "herald.subscription.gone")
	sick.status(http.StatusOK)
	h.enable(id)
	ops.notice(&seen, "herald.subscription.enabled")
	h.enable(id)
	h.delivery(event, id, "delivered")
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)

	h.sentinel()
	if n := len(ops.got()); n != seen {
		t.Errorf("%d notices came, want %d, beyond them %s", n, seen, ops.got()[seen].body)
	}
	for i, p := range ops.got() {
		if !p.verifies(t, aSecret) || p.header.Get("Herald-Subscription") != opsID || p.header.Get("Herald-Attempt") != "1" {
			t.Errorf("notice %d does not come like any other push: %v", i, p.header)
		}
	}
	for what, r := range map[string]*receiver{"without a pattern": all, "with other patterns": patterns} {
		r.only(event)
		if n := len(r.got()); n != 1 {
			t.Errorf("a subscription %s got %d pushes", what, n)
		}
	}
	if n := len(foreign.got()); n != 0 {
		t.Errorf("another account was told %d things", n)
	}
}

func TestContract_Notices_OfADeadDelivery(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	ops, warned, sick := receive(t), receive(t), receive(t)
	h.subscribe(ops.URL, fields{"events": []string{"herald.delivery.dead"}, "numberOfRecords": 10, "maxWaitSeconds": 0.2})
	h.subscribe(warned.URL, fields{"events": []string{"herald.subscription.*"}})
	sick.respond(func(_ int, _ push, w http.ResponseWriter) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte("hidden"))
	})
	u, err := url.Parse(sick.URL)
	if err != nil {
		t.Fatal(err)
	}
	id := h.subscribe(sick.URL+"/hidden", fields{"events": []string{"task.*"}, "delivery": promptly(1)})
	events := h.publishAll(2, nil)
	of := map[any]map[string]any{}
	eventually(t, "both deaths are told", func() bool { return len(allCarried(t, ops.got())) >= 2 })
	for _, p := range ops.got() {
		if strings.Contains(string(p.body), "hidden") {
			t.Errorf("too much is told: %s", p.body)
		}
		for _, r := range p.records(t) {
			data, _ := r["data"].(map[string]any)
			if r["type"] != "herald.delivery.dead" {
				t.Errorf("there came %v", r)
			}
			of[data["eventId"]] = data
		}
	}
	for _, e := range events {
		d := h.delivery(e, id, "dead")
		tells(t, "the notice of a death", of[e], fields{
			"subscriptionId": id, "state": "active", "reason": "exhausted", "dataCallbackHost": u.Host, "deliveryId": d["id"],
			"eventId": e, "eventType": "task.create", "attempts": 2, "lastStatus": 500, "lastError": attempts(t, d)[1]["error"],
		})
	}
	h.sentinel()
	if n := len(warned.got()); n != 0 {
		t.Errorf("deaths were told to who asked for subscriptions: %s", warned.got()[0].body)
	}
}

// A receiver of operational events that fails itself causes no stream of them.
func TestContract_Notices_DoNotLoop(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	failing, dying, well := receive(t), receive(t), receive(t)
	failing.status(http.StatusInternalServerError)
	dying.status(http.StatusInternalServerError)
	policy := promptly(1)
	policy["disableAfter"] = fields{"failures": 4}
	id := h.subscribe(failing.URL, fields{"events": []string{"herald.*", "task.*"}, "delivery": policy})
	forever := promptly(1)
	forever["disableAfter"] = fields{}
	deaf := h.subscribe(dying.URL, fields{"events": []string{"herald.*"}, "delivery": forever})
	h.subscribe(well.URL, fields{"events": []string{"herald.*"}})
	h.publishAll(2, nil)
	h.disabled(id, "failures")
	h.eventually("the deliveries of notices die", func() bool { return h.status(deaf)["deliveries"].(fields)["dead"] != 0.0 })
	// Each of the two has told of itself what there is to tell: three warnings at most, and that it was disabled.
	well.quiet("after what there was to tell", 500*time.Millisecond)
	notices := 0
	for _, e := range h.admin().do("GET", "/events?limit=1000", nil).is(200).list() {
		if kind, _ := e["type"].(string); strings.HasPrefix(kind, "herald.") {
			notices++
		}
	}
	deaths := 0
	for _, p := range well.got() {
		e := p.object(t)
		if data, _ := e["data"].(map[string]any); e["type"] == "herald.delivery.dead" {
			deaths++
			if data["eventType"] != "task.create" {
				t.Errorf("the death of a notice is told: %s", p.body)
			}
		}
	}
	if notices == 0 || notices > 6 || deaths > 2 {
		t.Errorf("there are %d notices, %d of them of deaths, of two events that failed", notices, deaths)
	}
	if n := len(well.got()); n != notices {
		t.Errorf("the receiver that is well got %d of %d notices", n, notices)
	}
}

func TestContract_Notices_AreHeraldsOwn(t *testing.T) {
	t.Parallel()
	h := start(t)
	ops := receive(t)
	h.subscribe(ops.URL, fields{"events": []string{"herald.*"}})
	publisher := h.token("default", "publish")
	for _, kind := range []string{"herald.subscription.disabled", "herald.delivery.dead", "herald.ping", "herald.x"} {
		body := fields{"type": kind, "data": fields{}}
		names(t, kind, publisher.do("POST", "/events", body).problem(400), "type", "herald.")
		names(t, kind+" by the admin", h.admin().do("POST", "/events", []any{fields{"type": "task.create", "data": fields{}}, body}).problem(400), "type", "herald.")
		names(t, kind+" as a line", publisher.with("Content-Type", "application/x-ndjson").do("POST", "/events", lines(t, body)).problem(400), "type", "herald.")
	}
	h.sentinel()
	if n := len(ops.got()); n != 0 {
		t.Errorf("%d of them came through", n)
	}
	// Without a subscriber nothing is kept.
	id := h.subscribe(ops.URL, fields{"events": []string{"task.*"}})
	for _, s := range h.admin().do("GET", "/subscriptions", nil).is(200).list() {
		if s["id"] != id {
			h.admin().do("DELETE", "/subscriptions/"+s["id"].(string), nil).is(204)
		}
	}
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	h.enable(id)
	h.sentinel()
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("nobody asked, and kept is %v", l)
	}
}

// They are chosen and shaped like other events: by type, by filter, as bare data.
func TestContract_Notices_ByFilter(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	ops, sick := receive(t), receive(t)
	sick.status(http.StatusGone)
	h.subscribe(ops.URL, fields{"events": []string{"herald.*"}, "filter": fields{"reason": "gone"}, "payload": "data", "method": "PUT"})
	id := h.subscribe(sick.URL, fields{"events": []string{"task.*"}})
	h.publish("task.create", "", fields{})
	h.disabled(id, "gone")
	sick.status(http.StatusOK)
	h.enable(id)
	p := ops.wait(1)[0]
	u, err := url.Parse(sick.URL)
	if err != nil {
		t.Fatal(err)
	}
	tells(t, "the bare notice", p.object(t), fields{"subscriptionId": id, "state": "disabled", "reason": "gone", "dataCallbackHost": u.Host})
	h.sentinel()
	if n := len(ops.got()); n != 1 || p.method != "PUT" {
		t.Errorf("%d notices came, by %s", n, p.method)
	}
}
