package daemon_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a subscriber can say of how deliveries are made, and see of how they go. That they are made so is
// tested elsewhere.

// wholePolicy sets every member of the policy, and what goes with it.
func wholePolicy() fields {
	return fields{
		"numberOfRecords": 100.0, "maxWaitSeconds": 0.5,
		"filter": fields{"customer.country": fields{"$in": []any{"NL", "BE"}}, "total": fields{"$gte": 10.5}},
		"delivery": fields{
			"timeoutSeconds": 2.5, "retrySchedule": "quick", "maxConcurrency": 3.0, "rateLimit": 0.5, "rateBurst": 7.0,
			"ordering": "key", "orderingKey": "customer.id", "disableAfter": fields{"duration": "120h", "failures": 50.0}, "onDisabled": "discard",
		},
	}
}

// same fails the test unless the members of want are those of got.
func same(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	for name := range want {
		if fmt.Sprint(got[name]) != fmt.Sprint(want[name]) {
			t.Errorf("%s: %s is %v, want %v", what, name, got[name], want[name])
		}
	}
}

func TestContract_PolicyIsKept(t *testing.T) {
	t.Parallel()
	h := start(t)
	whole := wholePolicy()
	id := h.subscribe("http://127.0.0.1:8421/", whole)
	read := h.read(id)
	same(t, "as made", read, whole)
	// It outlives the daemon, and a read may be sent back.
	h = h.restart()
	same(t, "after a restart", h.read(id), whole)
	for _, method := range []string{"PUT", "PATCH"} {
		same(t, "sent back by "+method, h.admin().do(method, "/subscriptions/"+id, read).is(200).object(), whole)
	}
	// A patch changes what it names, down to the parts; a filter it replaces.
	patched := h.admin().do("PATCH", "/subscriptions/"+id, fields{
		"filter": fields{"vip": true}, "delivery": fields{"rateBurst": nil, "disableAfter": fields{"failures": nil}, "timeoutSeconds": 4},
	}).is(200).object()
	policy := maps.Clone(whole["delivery"].(fields))
	delete(policy, "rateBurst")
	policy["disableAfter"], policy["timeoutSeconds"] = fields{"duration": "120h"}, 4
	same(t, "patched", patched, fields{"filter": fields{"vip": true}, "delivery": policy, "numberOfRecords": 100})
	// Off is not the same as not set.
	patched = h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": fields{"disableAfter": fields{}}}).is(200).object()
	policy["disableAfter"] = fields{}
	same(t, "never disabled", patched, fields{"delivery": policy})
	// What a replacement does not name is gone, and null takes everything away.
	same(t, "replaced", h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/", "delivery": fields{"onDisabled": "hold"}}).is(200).object(),
		fields{"filter": nil, "numberOfRecords": 1, "maxWaitSeconds": 1, "delivery": fields{"onDisabled": "hold"}})
	same(t, "nothing left", h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": nil}).is(200).object(), fields{"delivery": nil})
}

func TestContract_PolicyRefusals(t *testing.T) {
	t.Parallel()
	h := start(t)
	const url = "http://127.0.0.1:8421/"
	id := h.subscribe(url, fields{"events": []string{"no.such"}})
	before := fmt.Sprint(h.read(id))
	policy := func(name string, value any) fields { return fields{"delivery": fields{name: value}} }
	for _, c := range []struct {
		body  fields
		field string
		words []string
	}{
		{fields{"numberOfRecords": 1001}, "numberOfRecords", []string{"1000"}},
		{fields{"numberOfRecords": 2, "method": "GET"}, "numberOfRecords", []string{"GET"}},
		{fields{"maxWaitSeconds": 3601}, "maxWaitSeconds", []string{"3600"}},
		{policy("rateLimit", 0), "/delivery/rateLimit", []string{"100000"}},
		{policy("rateLimit", "5/s"), "/delivery/rateLimit", []string{"number"}},
		{policy("rateBurst", 5), "/delivery/rateBurst", []string{"rateLimit"}},
		{policy("ordering", "fifo"), "/delivery/ordering", []string{"none", "key", "strict"}},
		{policy("orderingKey", "customer.id"), "/delivery/orderingKey", []string{"ordering"}},
		{fields{"delivery": fields{"ordering": "key", "orderingKey": "a..b"}}, "/delivery/orderingKey", nil},
		{policy("disableAfter", fields{"duration": "30s"}), "/delivery/disableAfter/duration", []string{"1m", "365d"}},
		{policy("disableAfter", fields{"duration": "366d"}), "/delivery/disableAfter/duration", []string{"365d"}},
		{policy("disableAfter", fields{"failures": 0}), "/delivery/disableAfter/failures", []string{"1000000"}},
		{policy("disableAfter", fields{"pushes": 5}), "/delivery/disableAfter/pushes", []string{"duration", "failures"}},
		{policy("onDisabled", "drop"), "/delivery/onDisabled", []string{"hold", "discard"}},
		{fields{"filter": fields{}}, "filter", []string{"null"}},
		{fields{"filter": fields{"total": fields{"$above": 5}}}, "/filter/total/$above", []string{"$gt"}},
		{fields{"filter": fields{"a": []int{1, 2}}}, "/filter/a", []string{"$in"}},
	} {
		c.body["dataCallbackURL"] = url
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			names(t, fmt.Sprintf("%s with %v", method, c.body), h.admin().do(method, path, c.body).problem(400), append(c.words, "\n"+c.field+": ")...)
		}
	}
	if after := fmt.Sprint(h.read(id)); after != before || len(h.admin().do("GET", "/subscriptions", nil).is(200).list()) != 1 {
		t.Errorf("refused, and all the same there is %s", after)
	}
}

// status reads how a subscription fares.
func (h *herald) status(id string) map[string]any {
	h.t.Helper()
	return h.admin().do("GET", "/subscriptions/"+id+"/status", nil).is(200).object()
}

// counts are the deliveries of a status, in the order of their names.
func counts(status map[string]any) string {
	m, _ := status["deliveries"].(map[string]any)
	var b strings.Builder
	for _, name := range members(m) {
		fmt.Fprintf(&b, "%s %v ", name, m[name])
	}
	return strings.TrimSpace(b.String())
}

func TestContract_StatusTellsWhatWaits(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {max_concurrency: 5}")
	r := receive(t)
	id := h.subscribe(r.URL, fields{"delivery": patiently()})
	none := "dead 0 delivering 0 held 0 pending 0 retrying 0"
	fresh := h.status(id)
	if counts(fresh) != none || fresh["state"] != "active" || fresh["breaker"].(fields)["state"] != "closed" || fresh["concurrency"].(fields)["max"] != 5.0 {
		t.Errorf("before anything: %v", fresh)
	}
	for _, absent := range []string{"oldestPendingAt", "nextRetryAt", "disableAt", "restUntil", "warnedPercent"} {
		if v, there := fresh[absent]; there {
			t.Errorf("before anything: %s is %v", absent, v)
		}
	}
	moment(t, fresh["stateSince"])

	// What is under way is counted, and then what waits for its retry.
	g := r.hold(500)
	event := h.publish("task.create", "", fields{})
	g.taken(t, 1)
	if s := h.status(id); counts(s) != "dead 0 delivering 1 held 0 pending 0 retrying 0" || s["concurrency"].(fields)["inFlight"] != 1.0 {
		t.Errorf("under way: %v", s)
	}
	g.open()
	h.delivery(event, id, "retrying")
	h.eventually("the failure is counted", func() bool { return h.status(id)["breaker"].(fields)["failures"] == 1.0 })
	s := h.status(id)
	if counts(s) != "dead 0 delivering 0 held 0 pending 0 retrying 1" {
		t.Errorf("failed: %v", s)
	}
	since := moment(t, s["breaker"].(fields)["failingSince"])
	if at := moment(t, s["disableAt"]); at.Sub(since) != 5*24*time.Hour {
		t.Errorf("failing since %v, and disabled at %v", since, at)
	}
	if at := moment(t, s["nextRetryAt"]); at.Sub(since) < 50*time.Minute || at.Sub(since) > 70*time.Minute {
		t.Errorf("failing since %v, and retried at %v", since, at)
	}

	// Held is what would be pending or retrying.
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	h.publish("task.create", "", fields{})
	h.publish("task.create", "", fields{})
	if s := h.status(id); counts(s) != "dead 0 delivering 0 held 3 pending 0 retrying 0" || s["state"] != "paused" || s["stateReason"] != "owner" || s["nextRetryAt"] != nil {
		t.Errorf("paused: %v", s)
	}
	moment(t, h.status(id)["oldestPendingAt"])
	h = h.restart("delivery: {max_concurrency: 5}")
	if s := h.status(id); counts(s) != "dead 0 delivering 0 held 3 pending 0 retrying 0" {
		t.Errorf("after a restart: %v", s)
	}
	r.status(200)
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	h.admin().do("POST", "/deliveries/"+h.admin().deliveries(event)[0]["id"].(string)+"/retry", nil).is(202)
	h.eventually("nothing waits", func() bool { return counts(h.status(id)) == none })
	if s := h.status(id); s["state"] != "active" || s["breaker"].(fields)["failures"] != 0.0 || s["disableAt"] != nil {
		t.Errorf("well again: %v", s)
	}
	// It is nobody else's.
	h.account("other", "subscribe").do("GET", "/subscriptions/"+id+"/status", nil).problem(404)
	h.token("default", "publish").do("GET", "/subscriptions/"+id+"/status", nil).problem(403)
}

func TestContract_DeadLettersByChoice(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(500)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	create, remove := h.publish("task.create", "", fields{}), h.publish("task.delete", "", fields{})
	for _, event := range []string{create, remove} {
		h.delivery(event, id, "dead")
	}
	list := func(query string) []string {
		t.Helper()
		var events []string
		for _, d := range h.admin().do("GET", "/deliveries?subscription="+id+"&"+query, nil).is(200).list() {
			events = append(events, d["eventId"].(string))
		}
		slices.Sort(events)
		return events
	}
	both := slices.Sorted(slices.Values([]string{create, remove}))
	for query, want := range map[string][]string{
		"state=dead": both, "state=dead&reason=exhausted": both, "reason=exhausted": both, "state=dead&reason=expired": nil, "reason=disabled": nil,
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%s lists %v, want %v", query, got, want)
		}
	}
	names(t, "a strange reason", h.admin().do("GET", "/deliveries?reason=tired", nil).problem(400), "reason", "exhausted", "rejected", "expired", "unsubscribed", "disabled")
	names(t, "a reason of the living", h.admin().do("GET", "/deliveries?state=pending&reason=expired", nil).problem(400), "reason", "dead")

	// Counted first, and nothing is done by that.
	retry := "/subscriptions/" + id + "/retry"
	n := func(query string, body any, status int, member string) float64 {
		t.Helper()
		v, _ := h.admin().do("POST", retry+query, body).is(status).object()[member].(float64)
		return v
	}
	soon, past := time.Now().Add(time.Minute).UTC().Format(time.RFC3339), time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		query string
		body  any
		want  float64
	}{
		{"?dryRun=true", nil, 2},
		{"?dryRun=true&type=task.create", nil, 1},
		{"?dryRun=true", fields{"reason": "exhausted", "until": soon}, 2},
		{"", fields{"dryRun": true, "reason": "expired"}, 0},
		{"?since=" + soon, fields{"dryRun": true}, 0},
		{"?since=" + past + "&until=" + soon + "&dryRun=true&rate=5", nil, 2},
	} {
		if got := n(c.query, c.body, 200, "count"); got != c.want {
			t.Errorf("%s %v counts %v, want %v", c.query, c.body, got, c.want)
		}
	}
	if got := list("state=dead"); !slices.Equal(got, both) {
		t.Errorf("after counting %v are dead", got)
	}
	for _, c := range []struct {
		query string
		body  any
		words []string
	}{
		{"?reason=tired", nil, []string{"reason", "exhausted", "rejected", "expired"}},
		{"?reason=disabled", nil, []string{"reason", "exhausted"}},
		{"?type=task.*", nil, []string{"type"}},
		{"?since=yesterday", nil, []string{"since", "RFC 3339"}},
		{"?since=" + soon + "&until=" + past, nil, []string{"until", "since"}},
		{"?rate=0", nil, []string{"rate", "100000"}},
		{"", fields{"rate": "fast"}, []string{"rate", "number"}},
		{"?dryRun=perhaps", nil, []string{"dryRun", "true or false"}},
		{"?dryRun=true", fields{"dryRun": true}, []string{"dryRun", "once"}},
		{"?all=true", nil, []string{"all", "reason"}},
		{"", fields{"all": true}, []string{"all", "reason"}},
	} {
		names(t, fmt.Sprint(c.query, c.body), h.admin().do("POST", retry+c.query, c.body).problem(400), c.words...)
	}

	// By type, and then the rest, one after the other.
	r.status(200)
	if got := n("", fields{"type": "task.delete"}, 202, "retried"); got != 1 {
		t.Errorf("by type %v were retried", got)
	}
	h.delivery(remove, id, "delivered")
	if got := list("state=dead"); !slices.Equal(got, []string{create}) {
		t.Errorf("dead are %v, want %s", got, create)
	}
	if got := n("?reason=exhausted&rate=100", nil, 202, "retried"); got != 1 {
		t.Errorf("by reason %v were retried", got)
	}
	h.delivery(create, id, "delivered")
	if got := n("", nil, 202, "retried"); got != 0 {
		t.Errorf("%v were retried of none", got)
	}
}

// P5 and P6 as a choice that can also be made while the subscription is disabled: what waits is given up, what
// comes meanwhile is not for it, and nothing of either flows when it is enabled.
func TestContract_P5_P6_DiscardChosenWhileDisabled(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(410)
	id := h.subscribe(r.URL, fields{"events": []string{"task.*"}})
	first := h.publish("task.create", "", fields{})
	h.eventually("it is disabled", func() bool { return h.read(id)["state"] == "disabled" })
	second := h.publish("task.create", "", fields{})
	h.delivery(second, id, "held")
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": fields{"onDisabled": "discard"}}).is(200)
	for _, event := range []string{first, second} {
		if d := h.delivery(event, id, "discarded"); d["reason"] != "disabled" {
			t.Errorf("discarded because %v", d["reason"])
		}
	}
	third := h.publish("task.create", "", fields{})
	if l := h.admin().deliveries(third); len(l) != 0 {
		t.Errorf("an event that came meanwhile is for it: %v", l)
	}
	if s := h.status(id); s["state"] != "disabled" || s["stateReason"] != "gone" || counts(s) != "dead 0 delivering 0 held 0 pending 0 retrying 0" {
		t.Errorf("disabled and discarding: %v", s)
	}
	n := len(r.got())
	r.status(200)
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	fourth := h.publish("task.create", "", fields{})
	h.delivery(fourth, id, "delivered")
	h.sentinel()
	if got := ids(t, r.got()[n:]); !slices.Equal(got, []string{fourth}) {
		t.Errorf("after it was enabled came %v, want %s", got, fourth)
	}
}

// Enabling is told to whoever asks for it, with the host of the receiver and nothing more of its URL.
func TestContract_EnablingIsTold(t *testing.T) {
	t.Parallel()
	h := start(t)
	r, all := receive(t), receive(t)
	h.subscribe(r.URL, fields{"events": []string{"herald.subscription.*"}})
	h.subscribe(all.URL, nil) // all types, but not Herald's own
	id := h.subscribe("http://127.0.0.1:8421/secret-path?secret=query", fields{"events": []string{"no.such"}})
	act := func(what string) { h.admin().do("POST", "/subscriptions/"+id+"/"+what, nil).is(200) }
	act("enable") // it is active: nothing to tell
	act("pause")
	act("enable")
	p := r.wait(1)[0].object(t)
	data, _ := p["data"].(map[string]any)
	if p["type"] != "herald.subscription.enabled" || data["subscriptionId"] != id || data["state"] != "active" || data["dataCallbackHost"] != "127.0.0.1:8421" {
		t.Errorf("told %v", p)
	}
	moment(t, p["time"])
	if body := string(r.got()[0].body); strings.Contains(body, "secret") {
		t.Errorf("the event tells more than the host: %s", body)
	}
	h.sentinel()
	if len(r.got()) != 1 || len(all.got()) != 0 {
		t.Errorf("%d events for who asked, %d for who did not", len(r.got()), len(all.got()))
	}
}
