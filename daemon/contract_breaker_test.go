package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// The circuit breaker: after a run of failures one probe at a time, and the rest waits at no cost.

// breaker is that of a status.
func (h *herald) breaker(id string) map[string]any {
	h.t.Helper()
	b, _ := h.status(id)["breaker"].(map[string]any)
	return b
}

// breakers is how many are open, as the metric tells.
func (h *herald) breakers() float64 {
	h.t.Helper()
	return sample(h.t, string(h.as("").do("GET", "/metrics", nil).is(200).body), "herald_dispatch_open_breakers")
}

// opened waits until the circuit breaker of a subscription is open, and returns it.
func (h *herald) opened(id string) (b map[string]any) {
	h.t.Helper()
	h.eventually("the breaker is open", func() bool {
		b = h.breaker(id)
		return b["state"] == "open"
	})
	return b
}

// attemptCounts tells how many deliveries of a subscription in a state have had how many attempts.
func (h *herald) attemptCounts(id, state string) map[float64]int {
	h.t.Helper()
	out := map[float64]int{}
	for _, d := range h.admin().do("GET", "/deliveries?limit=1000&subscription="+id+"&state="+state, nil).is(200).list() {
		n, _ := d["attemptCount"].(float64)
		out[n]++
	}
	return out
}

func TestContract_Breaker_OneProbeAtATime(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	sick, well := receive(t), receive(t)
	sick.status(http.StatusInternalServerError)
	id := h.subscribe(sick.URL, fields{"delivery": promptly(20)})
	beside := h.subscribe(well.URL, nil)
	if b := h.breaker(id); b["state"] != "closed" || b["since"] != nil || b["nextProbeAt"] != nil || b["failures"] != 0.0 {
		t.Errorf("before anything the breaker is %v", b)
	}
	const events = 20
	began := time.Now()
	first := h.publishAll(events, nil)
	well.wait(events)
	if took := time.Since(began); took > prompt {
		t.Errorf("the healthy receiver waited %v", took)
	}

	// Five in a row, and no more.
	b := h.opened(id)
	since, failing, next := moment(t, b["since"]), moment(t, b["failingSince"]), moment(t, b["nextProbeAt"])
	if wait := next.Sub(since); wait < 990*time.Millisecond || wait > 1010*time.Millisecond {
		t.Errorf("opened at %v, and the first probe comes at %v, want a second later", since, next)
	}
	if failing.Before(began.Add(-2*time.Millisecond)) || failing.After(since) {
		t.Errorf("published at %v, failing since %v, opened at %v", began, failing, since)
	}
	// The probe waits for its answer, and nothing goes out beside it although all is due by now.
	g := sick.hold(http.StatusServiceUnavailable)
	g.taken(t, 1)
	got := sick.got()
	if len(got) != 6 || got[5].at.Before(next.Add(-time.Millisecond)) {
		t.Errorf("%d pushes went out, the last at %v, want five and a probe at %v", len(got), got[len(got)-1].at, next)
	}
	sick.quiet("while the probe is under way", 300*time.Millisecond)
	s := h.status(id)
	if b := s["breaker"].(fields); b["state"] != "half-open" || b["failures"] != 5.0 {
		t.Errorf("while the probe is under way the breaker is %v", b)
	}
	if c := s["concurrency"].(fields); c["inFlight"] != 1.0 || c["window"] != 1.0 {
		t.Errorf("while the probe is under way there is %v", c)
	}
	// What waits has not been tried.
	if got := h.attemptCounts(id, "pending"); got[0] < 14 || len(got) != 1 {
		t.Errorf("what waits for its first attempt shows attempts: %v", got)
	}
	if n := h.breakers(); n != 1 {
		t.Errorf("the metric says %v open breakers", n)
	}
	// A failed probe puts off the next one.
	g.open()
	h.eventually("the probe has failed", func() bool { return h.breaker(id)["failures"] == 6.0 })
	b = h.opened(id)
	if later := moment(t, b["nextProbeAt"]); later.Sub(next) < 990*time.Millisecond || !moment(t, b["since"]).Equal(since) {
		t.Errorf("after a failed probe the breaker is %v, the probe was due at %v, opened at %v", b, next, since)
	}
	// Others go on.
	began = time.Now()
	more := h.publishAll(events, nil)
	well.wait(2 * events)
	if took := time.Since(began); took > prompt {
		t.Errorf("the healthy receiver waited %v", took)
	}

	// The first success lets the rest flow, a little more at a time.
	before, ramp := len(sick.got()), sick.hold(http.StatusOK)
	ramp.taken(t, 1)
	if n := len(sick.got()); n != before+1 {
		t.Errorf("%d probes went out at once", n-before)
	}
	ramp.open()
	rest := sick.hold(http.StatusOK)
	rest.taken(t, 1)
	<-time.After(200 * time.Millisecond) // for more than the ramp allows
	if n := len(sick.got()) - before; n > 5 {
		t.Errorf("after one success %d more went out at once", n-1)
	}
	rest.open()
	all := append(slices.Clone(first), more...)
	for _, e := range all {
		h.delivery(e, id, "delivered")
		if tries := attempts(t, h.delivery(e, beside, "delivered")); len(tries) != 1 {
			t.Errorf("a delivery to the healthy receiver took %d attempts", len(tries))
		}
	}
	if n := len(sick.got()); n != 6+2*events {
		t.Errorf("%d pushes went out, want the six that failed and %d", n, 2*events)
	}
	// Waiting has used up no attempts: six failed, on at most six deliveries.
	if got := h.attemptCounts(id, "delivered"); got[1] < 2*events-6 || got[1]+got[2]+got[3] != 2*events {
		t.Errorf("deliveries by attempts: %v", got)
	}
	if b := h.breaker(id); b["state"] != "closed" || b["failures"] != 0.0 || b["failingSince"] != nil || b["nextProbeAt"] != nil || b["since"] != nil {
		t.Errorf("after the success the breaker is %v", b)
	}
	if n := h.breakers(); n != 0 {
		t.Errorf("the metric says %v open breakers", n)
	}
}

// An open breaker outlives the daemon, and ends when the owner says that something has changed.
func TestContract_Breaker_OutlivesRestartEndsByOwner(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	const events = 12
	type ending struct {
		act    func(id string, r *receiver)
		closes bool
	}
	endings := map[string]ending{
		"enable": {func(id string, _ *receiver) { h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200) }, true},
		"pause, enable": {func(id string, _ *receiver) {
			h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
			h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
		}, true},
		"another URL": {func(id string, r *receiver) {
			h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL + "/new"}).is(200)
		}, true},
		"another token": {func(id string, _ *receiver) {
			h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "bearer", "token": "n3w"}}).is(200)
		}, true},
		"a retry by hand": {func(id string, _ *receiver) {
			d := h.admin().do("GET", "/deliveries?limit=1&state=retrying&subscription="+id, nil).is(200).list()
			h.admin().do("POST", "/deliveries/"+d[0]["id"].(string)+"/retry", nil).is(202)
		}, true}, // by the success of its probe
		"another limit": {func(id string, _ *receiver) {
			h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": fields{"maxConcurrency": 7}}).is(200)
		}, false},
		"a new event": {func(id string, _ *receiver) { h.publish("other.create", "", fields{}) }, false},
	}
	receivers, subs, before := map[string]*receiver{}, map[string]string{}, map[string]string{}
	for name := range endings {
		r := receive(t)
		r.status(http.StatusInternalServerError)
		receivers[name], subs[name] = r, h.subscribe(r.URL, fields{"delivery": patiently()})
	}
	h.publishAll(events, nil)
	for name, id := range subs {
		b := h.opened(id)
		if at := moment(t, b["nextProbeAt"]); at.Sub(moment(t, b["since"])) < 59*time.Minute {
			t.Errorf("%s: the probe comes by another schedule: %v", name, b)
		}
		before[name] = fmt.Sprint(b)
	}
	h = h.restart(steady)
	h.eventually("the metric tells of the breakers of before the restart", func() bool { return h.breakers() == float64(len(subs)) })
	for name, id := range subs {
		if b := fmt.Sprint(h.breaker(id)); b != before[name] {
			t.Errorf("%s: before the restart %s, after it %s", name, before[name], b)
		}
		receivers[name].status(http.StatusOK)
	}
	h.sentinel()
	receivers["enable"].quiet("after the restart", 200*time.Millisecond)
	for name, r := range receivers {
		if n := len(r.got()); n != 5 {
			t.Errorf("%s: after the restart the receiver has got %d pushes, want the 5 of before", name, n)
		}
	}
	for name, e := range endings {
		e.act(subs[name], receivers[name])
	}
	for name, e := range endings {
		id, r := subs[name], receivers[name]
		if !e.closes {
			if b := h.breaker(id); b["state"] != "open" || len(r.got()) != 5 {
				t.Errorf("%s: the breaker is %v, and %d pushes came", name, b, len(r.got()))
			}
			continue
		}
		h.eventually(name+" closes the breaker", func() bool { return h.breaker(id)["state"] == "closed" })
		r.wait(events) // those that had not been tried
		h.eventually(name+" lets flow what waits", func() bool { return h.status(id)["deliveries"].(fields)["pending"] == 0.0 })
	}
}

func TestContract_Breaker_RetryAfterIsForAll(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	well := receive(t)
	beside := h.subscribe(well.URL, nil)
	receivers, subs := map[int]*receiver{}, map[int]string{}
	for _, code := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		r := receive(t)
		r.respond(func(n int, _ push, w http.ResponseWriter) {
			if n == 1 {
				w.Header().Set("Retry-After", "2")
				w.WriteHeader(code)
			}
		})
		receivers[code], subs[code] = r, h.subscribe(r.URL, fields{"delivery": promptly(3)})
	}
	events := h.publishAll(5, nil)
	for code, r := range receivers {
		r.wait(1)
		h.eventually("the rest is shown", func() bool { return h.status(subs[code])["restUntil"] != nil })
		asked := r.got()[0].at.Add(2 * time.Second)
		if until := moment(t, h.status(subs[code])["restUntil"]); until.Before(asked.Add(-5*time.Millisecond)) || until.After(asked.Add(time.Second)) {
			t.Errorf("%d: asked to rest until %v, shown is %v", code, asked, until)
		}
	}
	for _, e := range events { // the others do not rest
		h.delivery(e, beside, "delivered")
	}
	more := h.publish("task.create", "", fields{})
	h.delivery(more, beside, "delivered")
	for code, r := range receivers {
		got := r.wait(7)
		if wait := got[1].at.Sub(got[0].at); wait < 1990*time.Millisecond {
			t.Errorf("%d: asked to rest for 2 s, pushed to after %v", code, wait)
		}
		for _, e := range append(events, more) {
			h.delivery(e, subs[code], "delivered")
		}
		if s := h.status(subs[code]); s["restUntil"] != nil {
			t.Errorf("%d: rested, and still shown is %v", code, s["restUntil"])
		}
	}
}

// Some failures between successes open nothing.
func TestContract_Breaker_OnlyARunOfFailuresOpens(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n%5 != 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	id := h.subscribe(r.URL, fields{"delivery": fields{"retrySchedule": []string{"1h"}, "maxConcurrency": 1}})
	h.publishAll(24, nil)
	r.wait(24)
	h.eventually("all failures are counted", func() bool { return h.breaker(id)["failures"] == 4.0 })
	if b := h.breaker(id); b["state"] != "closed" {
		t.Errorf("after four failures in a row the breaker is %v", b)
	}
}

// The metric counts the breakers of those that are pushed to, and no others.
func TestContract_Breaker_MetricFollows(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	var subs []string
	for range 4 {
		subs = append(subs, h.subscribe(r.URL, fields{"delivery": patiently()}))
	}
	h.publishAll(7, nil)
	for _, id := range subs {
		h.opened(id)
	}
	is := func(n float64, after string) {
		t.Helper()
		h.eventually(fmt.Sprintf("%v breakers are open after %s", n, after), func() bool { return h.breakers() == n })
	}
	is(4, "the failures")
	h.admin().do("POST", "/subscriptions/"+subs[0]+"/pause", nil).is(200)
	is(3, "a pause")
	h.admin().do("DELETE", "/subscriptions/"+subs[1], nil).is(204)
	is(2, "a deletion")
	r.status(http.StatusGone)
	h.again(h.admin().do("GET", "/deliveries?limit=1&subscription="+subs[2], nil).is(200).list()[0]["id"].(string))
	h.disabled(subs[2], "gone")
	is(1, "a 410")
	h = h.restart(steady)
	is(1, "a restart")
	h.enable(subs[3])
	is(0, "enabling the last")
}

// The breaker of a paused subscription is closed, in the status as in the metric.
func TestContract_Breaker_OfAPausedSubscription(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": patiently()})
	h.publishAll(7, nil)
	h.opened(id)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	h.eventually("the metric tells of none", func() bool { return h.breakers() == 0 })
	if b := h.breaker(id); b["state"] != "closed" {
		t.Errorf("the status tells of %v, the metric of no open breaker", b)
	}
}

// Who asks for a test push wants to see it.
func TestContract_Breaker_PingGoesAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, down := receive(t), receive(t)
	batches := h.subscribe(r.URL, fields{"events": []string{"no.such"}, "numberOfRecords": 10, "maxWaitSeconds": 3600})
	sick := h.subscribe(down.URL, fields{"delivery": patiently()})
	down.status(http.StatusInternalServerError)
	h.publishAll(7, nil)
	h.opened(sick)
	down.status(http.StatusOK)
	h.admin().do("POST", "/subscriptions/"+batches+"/ping", nil).is(202)
	h.admin().do("POST", "/subscriptions/"+sick+"/ping", nil).is(202)
	if p := r.wait(1)[0]; p.records(t)[0]["type"] != "herald.ping" {
		t.Errorf("the test push is %s", p.body)
	}
	h.eventually("the test push has closed the breaker", func() bool { return h.breaker(sick)["state"] == "closed" })
}
