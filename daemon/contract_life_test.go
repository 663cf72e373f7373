package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The life of a delivery: retries, holding, ending.

func TestContract_RetryUntilDead(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "broken for the %d. time", n)
	})
	id := h.subscribe(r.URL, fields{"delivery": promptly(2)})
	event := h.publish("task.create", "", fields{})
	d := h.delivery(event, id, "dead")
	if d["reason"] != "exhausted" || d["attemptCount"] != float64(3) || d["nextAttemptAt"] != nil || d["eventId"] != event || d["subscriptionId"] != id {
		t.Errorf("the dead delivery is %v", d)
	}
	tries := attempts(t, d)
	if len(tries) != 3 {
		t.Fatalf("there are %d attempts, want 3", len(tries))
	}
	for i, x := range tries {
		if ms, _ := x["durationMs"].(float64); x["status"] != float64(500) || x["outcome"] != "retry" || ms < 0 || ms > 20_000 ||
			x["response"] != fmt.Sprintf("broken for the %d. time", i+1) || !strings.Contains(fmt.Sprint(x["error"]), "500") {
			t.Errorf("attempt %d is %v", i+1, x)
		}
		if i > 0 {
			if wait := moment(t, x["time"]).Sub(moment(t, tries[i-1]["time"])); wait < time.Second || wait > patience {
				t.Errorf("attempt %d came after %v, want a second", i+1, wait)
			}
		}
	}
	got := r.wait(3)
	for i, p := range got {
		if p.id() != event || p.header.Get("Herald-Attempt") != strconv.Itoa(i+1) || string(p.body) != string(got[0].body) {
			t.Errorf("push %d has the id %s, the attempt %s and %s", i+1, p.id(), p.header.Get("Herald-Attempt"), p.body)
		}
	}
	h.sentinel()
	if n := len(r.got()); n != 3 {
		t.Errorf("a dead delivery was pushed %d times", n)
	}

	// One is retried by its id, all dead ones by their subscription.
	r.status(http.StatusOK)
	if a := h.admin().do("POST", "/deliveries/"+d["id"].(string)+"/retry", nil).is(202).object(); a["id"] != d["id"] {
		t.Errorf("the retry answered %v", a)
	}
	d = h.delivery(event, id, "delivered")
	if tries := attempts(t, d); len(tries) != 4 || tries[3]["status"] != float64(200) || d["reason"] != nil {
		t.Errorf("after a retry by hand the delivery is %v", d)
	}
	if p := r.wait(4)[3]; p.header.Get("Herald-Attempt") != "4" || p.id() != event {
		t.Errorf("the retry by hand was attempt %s of %s", p.header.Get("Herald-Attempt"), p.id())
	}
}

func TestContract_RetryAllDead(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	other := h.subscribe(r.URL, fields{"delivery": promptly(1), "method": "PUT"})
	var events []string
	for i := range 3 {
		events = append(events, h.publish("task.create", "", fields{"n": i}))
	}
	for _, e := range events {
		h.delivery(e, id, "dead")
		h.delivery(e, other, "dead")
	}
	r.status(http.StatusOK)
	if n := h.admin().do("POST", "/subscriptions/"+id+"/retry", nil).is(202).object()["retried"]; n != float64(3) {
		t.Errorf("%v deliveries were retried, want 3", n)
	}
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
	if n := h.admin().do("POST", "/subscriptions/"+id+"/retry", nil).is(202).object()["retried"]; n != float64(0) {
		t.Errorf("%v deliveries were retried although none is dead", n)
	}
	h.sentinel()
	if l := h.admin().do("GET", "/deliveries?state=dead", nil).is(200).list(); len(l) != 3 || l[0]["subscriptionId"] != other {
		t.Errorf("dead are %v, want the 3 of the other subscription", l)
	}
}

func TestContract_RetryAfter(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	type heard struct {
		id    string
		r     *receiver
		after time.Duration // from the first attempt to the next
	}
	var all []*heard
	for _, c := range []struct {
		status int
		header string
		after  time.Duration
	}{
		{429, "3600", time.Hour},
		{503, "3600", time.Hour},
		{503, time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat), 2 * time.Hour},
		{500, "3600", time.Second}, // it obeys nothing but 429 and 503
		{400, "3600", time.Second},
		{503, "", time.Second},
		{503, "soon", time.Second},
		{429, "-5", time.Second},
		{429, "0", time.Second},
		{429, "Thu, 01 Jan 1970 00:00:00 GMT", time.Second},
	} {
		r := receive(t)
		r.respond(func(n int, _ push, w http.ResponseWriter) {
			if n > 1 {
				return
			}
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.status)
		})
		all = append(all, &heard{h.subscribe(r.URL+"/"+strconv.Itoa(c.status)+"?"+strings.ReplaceAll(c.header, " ", "_"), fields{"delivery": promptly(1)}), r, c.after})
	}
	waits := receive(t)
	waits.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	two := h.subscribe(waits.URL, fields{"delivery": promptly(1)})

	event := h.publish("task.create", "", fields{})
	for _, x := range all {
		if x.after == time.Second {
			h.delivery(event, x.id, "delivered")
			if got := x.r.wait(2); got[1].at.Sub(got[0].at) < 900*time.Millisecond || got[1].at.Sub(got[0].at) > patience {
				t.Errorf("%s: retried after %v, want a second", got[0].url, got[1].at.Sub(got[0].at))
			}
			continue
		}
		d := h.delivery(event, x.id, "retrying")
		wait := moment(t, d["nextAttemptAt"]).Sub(moment(t, attempts(t, d)[0]["time"]))
		if off := wait - x.after; off < -5*time.Second || off > patience {
			t.Errorf("%s: the next attempt comes after %v, want %v", x.r.got()[0].url, wait, x.after)
		}
	}
	h.delivery(event, two, "delivered")
	if got := waits.wait(2); got[1].at.Sub(got[0].at) < 1900*time.Millisecond {
		t.Errorf("Retry-After: 2 was obeyed with %v", got[1].at.Sub(got[0].at))
	}
	// A huge wait is bounded, and the delivery can be retried by hand all the same.
	waits.respond(func(_ int, _ push, w http.ResponseWriter) {
		w.Header().Set("Retry-After", "99999999999999999999")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	event = h.publish("task.create", "", fields{"huge": true})
	d := h.delivery(event, two, "retrying")
	if wait := time.Until(moment(t, d["nextAttemptAt"])); wait < 0 || wait > 31*24*time.Hour {
		t.Errorf("a huge Retry-After makes a wait of %v", wait)
	}
	waits.status(http.StatusOK)
	h.admin().do("POST", "/deliveries/"+d["id"].(string)+"/retry", nil).is(202)
	h.delivery(event, two, "delivered")
}

func TestContract_PauseHoldsAndEnableFlows(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"delivery": fields{"maxConcurrency": 1}})
	g := r.hold(http.StatusOK)
	var events []string
	for i := range 4 {
		events = append(events, h.publish("task.create", "", fields{"n": i}))
	}
	g.taken(t, 1) // the first is under way, the others wait
	if s := h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200).object(); s["state"] != "paused" || s["id"] != id {
		t.Errorf("pausing answered %v", s)
	}
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200) // once more is the same
	since := moment(t, h.read(id)["stateSince"])
	g.open()
	h.delivery(events[0], id, "delivered") // what was under way goes on
	events = append(events, h.publish("task.create", "", fields{"n": 4}))
	h.sentinel()
	r.only(events[0])
	for _, e := range events[1:] {
		if d := h.delivery(e, id, "held"); d["attemptCount"] != float64(0) {
			t.Errorf("a held delivery is %v", d)
		}
	}
	if l := h.admin().do("GET", "/deliveries?state=held&subscription="+id, nil).is(200).list(); len(l) != 4 {
		t.Errorf("%d deliveries are held, want 4", len(l))
	}
	h = h.restart() // a pause lasts
	if s := h.read(id); s["state"] != "paused" || !moment(t, s["stateSince"]).Equal(since) {
		t.Errorf("after a restart the subscription is %v since %v", s["state"], s["stateSince"])
	}
	h.sentinel()
	r.only(events[0])
	if s := h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200).object(); s["state"] != "active" {
		t.Errorf("enabling answered %v", s)
	}
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
	h.sentinel()
	r.only(events...)
}

// After the answer to DELETE no push starts; one under way may end.
func TestContract_NothingStartsAfterDelete(t *testing.T) {
	t.Parallel()
	h := start(t)
	r, failing := receive(t), receive(t)
	id := h.subscribe(r.URL, fields{"delivery": fields{"maxConcurrency": 1}})
	failing.status(http.StatusInternalServerError)
	retried := h.subscribe(failing.URL, fields{"delivery": promptly(5)})
	g := r.hold(http.StatusOK)
	var events []string
	for i := range 5 {
		events = append(events, h.publish("task.create", "", fields{"n": i}))
	}
	g.taken(t, 1)
	for _, e := range events {
		h.delivery(e, retried, "retrying")
	}
	for _, s := range []string{id, retried} {
		h.admin().do("DELETE", "/subscriptions/"+s, nil).is(204)
	}
	failed := len(failing.got())
	g.open()
	h.sentinel()
	r.only(events[0])
	for _, e := range events[1:] {
		h.delivery(e, retried, "discarded")
		if d := h.delivery(e, id, "discarded"); d["attemptCount"] != float64(0) || d["reason"] != "unsubscribed" {
			t.Errorf("the delivery of a deleted subscription is %v", d)
		}
	}
	// The second after which the retries would have come.
	soon := h.publish("task.create", "", fields{"later": true})
	again := receive(t)
	again.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	clock := h.subscribe(again.URL, fields{"delivery": promptly(3)})
	h.delivery(h.publish("task.create", "", fields{"clock": true}), clock, "delivered")
	if n := len(failing.got()); n > failed {
		t.Errorf("%d retries were pushed after the deletion", n-failed)
	}
	if l := h.admin().deliveries(soon); len(l) != 0 {
		t.Errorf("an event after the deletion has the deliveries %v", l)
	}
	// A discarded delivery of what is gone cannot be retried.
	for _, d := range h.admin().deliveries(events[1]) {
		if a := h.admin().do("POST", "/deliveries/"+d["id"].(string)+"/retry", nil); a.status != 404 && a.status != 409 {
			t.Errorf("the retry of a discarded delivery answered %d %s", a.status, a.body)
		}
	}
}

func TestContract_EventsSurviveRestart(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	r := receive(t)
	r.status(http.StatusServiceUnavailable)
	id := h.subscribe(r.URL, fields{"delivery": promptly(40)})
	paused := h.subscribe(r.URL, fields{"method": "PUT"})
	h.admin().do("POST", "/subscriptions/"+paused+"/pause", nil).is(200)
	var events []string
	for i := range 3 {
		events = append(events, h.publish("task.create", "", fields{"n": i}))
	}
	for _, e := range events {
		h.delivery(e, id, "retrying")
	}
	before := h.admin().do("GET", "/events", nil).is(200).body
	tries := attempts(t, h.delivery(events[0], id, "retrying"))
	h = h.restart()
	if after := h.admin().do("GET", "/events", nil).is(200).body; string(after) != string(before) {
		t.Errorf("after a restart the events are %s, before they were %s", after, before)
	}
	r.status(http.StatusOK)
	h.admin().do("POST", "/subscriptions/"+paused+"/enable", nil).is(200)
	for _, e := range events {
		d := h.delivery(e, id, "delivered")
		if all := attempts(t, d); e == events[0] && (len(all) < len(tries) || fmt.Sprint(all[:len(tries)]) != fmt.Sprint(tries)) {
			t.Errorf("the attempts before the restart were %v, now all are %v", tries, all)
		}
		h.delivery(e, paused, "delivered")
	}
	last := map[string]string{}
	for _, p := range r.got() {
		if p.method == "POST" && !slices.Contains(events, p.id()) {
			t.Errorf("a push has the id %s of no event", p.id())
		}
		if p.method == "POST" {
			if n, _ := strconv.Atoi(p.header.Get("Herald-Attempt")); last[p.id()] != "" && strconv.Itoa(n-1) != last[p.id()] {
				t.Errorf("attempt %d of %s follows %s", n, p.id(), last[p.id()])
			}
			last[p.id()] = p.header.Get("Herald-Attempt")
		}
	}
}

func TestContract_PingIsATestPush(t *testing.T) {
	t.Parallel()
	h := start(t)
	r, other := receive(t), receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"task.create"}, "signingSecret": aSecret})
	h.subscribe(other.URL, nil)
	a := h.admin().do("POST", "/subscriptions/"+id+"/ping", nil).is(202)
	if m := members(a.object()); !slices.Equal(m, []string{"id"}) {
		t.Errorf("ping answered %s", a.body)
	}
	h.delivery(a.text("id"), id, "delivered")
	p := r.got()[0]
	got := p.object(t)
	if data, _ := got["data"].(map[string]any); got["type"] != "herald.ping" || data["subscriptionId"] != id || !p.verifies(t, aSecret) {
		t.Errorf("the test push is %s", p.body)
	}
	h.sentinel()
	other.only() // it is for nobody else
}

func TestContract_DeliveryPolicyIsChecked(t *testing.T) {
	t.Parallel()
	h := start(t)
	var long []string
	for range 51 {
		long = append(long, "1s")
	}
	for _, c := range []struct {
		field string
		value any
	}{
		{"timeoutSeconds", 0},
		{"timeoutSeconds", -1},
		{"timeoutSeconds", 301},
		{"timeoutSeconds", "15"},
		{"timeoutSeconds", 1e300},
		{"retrySchedule", "fast"},
		{"retrySchedule", "5s"},
		{"retrySchedule", []string{}},
		{"retrySchedule", []string{"500ms"}},
		{"retrySchedule", []string{"-5s"}},
		{"retrySchedule", []string{"721h"}},
		{"retrySchedule", []any{5}},
		{"retrySchedule", []string{"soon"}},
		{"retrySchedule", long},
		{"retrySchedule", 5},
		{"maxConcurrency", 0},
		{"maxConcurrency", 1001},
		{"maxConcurrency", 1.5},
		{"maxConcurrency", "4"},
		{"surprise", 1},
	} {
		names(t, fmt.Sprint(c.field, " ", c.value), h.admin().do("POST", "/subscriptions",
			fields{"dataCallbackURL": "http://127.0.0.1:8421/", "delivery": fields{c.field: c.value}}).problem(400), "/delivery/"+c.field)
	}
	for _, good := range []fields{
		{"retrySchedule": "standard"},
		{"retrySchedule": "day"},
		{"retrySchedule": "quick"},
		{"retrySchedule": long[:50]},
		{"retrySchedule": []any{"1s", "1.5s", "720h"}},
		{"timeoutSeconds": 300.0},
		{"timeoutSeconds": 0.5},
		{"maxConcurrency": 1000.0},
	} {
		id := h.subscribe("http://127.0.0.1:8421/", fields{"delivery": good})
		if got := h.read(id)["delivery"]; fmt.Sprint(got) != fmt.Sprint(good) {
			t.Errorf("the policy %v reads as %v", good, got)
		}
	}
}

// PATCH is a JSON merge patch (RFC 7396): what is absent stays, null goes back to the default.
func TestContract_PatchMerges(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{
		"events": []string{"task.create"}, "payload": "data", "authentication": fields{"type": "basic", "username": "u", "password": "p"},
		"delivery": fields{"timeoutSeconds": 5, "maxConcurrency": 3},
	})
	before := h.read(id)
	patch := h.admin().with("Content-Type", "application/merge-patch+json")
	got := patch.do("PATCH", "/subscriptions/"+id, fields{"delivery": fields{"timeoutSeconds": 7}, "authentication": fields{"username": "v"}}).is(200).object()
	if fmt.Sprint(got["delivery"]) != "map[maxConcurrency:3 timeoutSeconds:7]" || fmt.Sprint(got["authentication"]) != "map[passwordSet:true type:basic username:v]" {
		t.Errorf("the patch made %v", got)
	}
	for _, m := range []string{"dataCallbackURL", "events", "payload", "method", "createdAt", "state", "stateSince", "signingSecretSet"} {
		if fmt.Sprint(got[m]) != fmt.Sprint(before[m]) {
			t.Errorf("the patch changed %s from %v to %v", m, before[m], got[m])
		}
	}
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	if got := r.got()[0].header.Get("Authorization"); got != "Basic djpw" {
		t.Errorf("after a patch of the user name the push carries %q", got)
	}
	got = patch.do("PATCH", "/subscriptions/"+id, `{"events":null,"payload":null,"delivery":{"timeoutSeconds":null}}`).is(200).object()
	if got["events"] != nil || got["payload"] != "envelope" || fmt.Sprint(got["delivery"]) != "map[maxConcurrency:3]" {
		t.Errorf("null made %v", got)
	}
	names(t, "no URL", patch.do("PATCH", "/subscriptions/"+id, `{"dataCallbackURL":null}`).problem(400), "dataCallbackURL")
	names(t, "another type without its secret", patch.do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "bearer"}}).problem(400), "/authentication/token")
	names(t, "another type on PUT", h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "authentication": fields{"type": "header", "name": "X-Key"}}).problem(400), "/authentication/value")
	patch.do("PATCH", "/subscriptions/"+id, `[]`).problem(400)
	if after := h.read(id); fmt.Sprint(after) != fmt.Sprint(got) {
		t.Errorf("refused patches changed %v to %v", got, after)
	}
}

// The answer to DELETE and to pause is the border also under load: with one push at a time at most the
// one that was under way can still arrive.
func TestContract_NothingStartsAfterTheAnswer(t *testing.T) {
	t.Parallel()
	for _, act := range []string{"DELETE", "POST /pause"} {
		t.Run(act, func(t *testing.T) {
			t.Parallel()
			h := start(t)
			method, suffix, _ := strings.Cut(act, " ")
			for round := range 6 {
				r := receive(t)
				id := h.subscribe(r.URL, fields{"delivery": fields{"maxConcurrency": 1}})
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
								if a := h.admin().do("POST", "/events", fields{"type": "task.create", "data": fields{}}); a.status != 202 {
									t.Errorf("publishing answered %d %s", a.status, a.body)
								}
							}
						}
					})
				}
				r.wait(3 + 5*round)
				a := h.admin().do(method, "/subscriptions/"+id+suffix, nil)
				before := len(r.got())
				if a.status != 204 && a.status != 200 {
					t.Errorf("%s answered %d %s", a.request, a.status, a.body)
				}
				h.sentinel() // with the publishing going on
				close(stop)
				wg.Wait()
				h.sentinel()
				if after := len(r.got()); after > before+1 {
					t.Errorf("%d pushes started after the answer to %s", after-before, act)
				}
			}
		})
	}
}
