package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// today is the day of events that are published now, in UTC. Around midnight it is the one before, and the span begins there.
func spanOfToday() fields {
	return fields{"since": time.Now().UTC().Add(-time.Hour).Format(time.RFC3339Nano)}
}

// replay starts a replay of a subscription and returns its id.
func (h *herald) replay(id string, body any) string {
	h.t.Helper()
	a := h.admin().do("POST", "/subscriptions/"+id+"/replay", body).is(202)
	made := a.object()
	replay, _ := made["id"].(string)
	if made["state"] != "running" || a.header.Get("Location") != "/subscriptions/"+id+"/replays/"+replay {
		h.t.Errorf("%s answered %v with Location %s", a.request, made, a.header.Get("Location"))
	}
	return replay
}

// ended waits until a replay is done or cancelled and returns it.
func (h *herald) ended(id, replay string) map[string]any {
	h.t.Helper()
	var r map[string]any
	h.eventually("the replay ends", func() bool {
		r = h.admin().do("GET", "/subscriptions/"+id+"/replays/"+replay, nil).is(200).object()
		return r["state"] != "running"
	})
	moment(h.t, r["endedAt"])
	return r
}

// again are the event ids of the pushes after the first n, all of which must be replays.
func (r *receiver) replayed(n, want int) []string {
	r.t.Helper()
	pushes := r.wait(n + want)[n:]
	for _, p := range pushes {
		if p.header.Get("Herald-Replay") != "true" {
			r.t.Errorf("a replayed push has the headers %v", p.header)
		}
	}
	return ids(r.t, pushes)
}

func TestContract_D8_ReplayDeliversAgain(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "signingSecret": aSecret})
	events := h.publishAll(3, nil)
	h.publish("user.create", "", fields{})
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
	for _, p := range r.got() {
		if p.header.Get("Herald-Replay") != "" {
			t.Errorf("a first push has the headers %v", p.header)
		}
	}
	replay := h.replay(id, spanOfToday())
	if got := r.replayed(3, 3); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(events))) {
		t.Errorf("replayed were %v, want %v", got, events)
	}
	p := r.got()[3]
	if !p.verifies(t, aSecret) || p.header.Get("Herald-Attempt") != "2" || p.id() != p.object(t)["id"] {
		t.Errorf("a replayed push is not signed, or not with the old id: %v", p.header)
	}
	if v := h.ended(id, replay); v["state"] != "done" || v["deliveries"] != 3.0 || v["rate"] != 1000.0 || v["outcome"] != nil {
		t.Errorf("the replay ended as %v", v)
	}
	d := h.delivery(events[0], id, "delivered")
	if s := statuses(t, d); !slices.Equal(s, []int{200, 200}) {
		t.Errorf("a replayed delivery has the attempts %v", s)
	}
	h.sentinel()
	if n := len(r.got()); n != 6 {
		t.Errorf("%d pushes arrived, want 6", n)
	}
}

// It is by the selection as it stands now, and also for events that were published before there was the subscription.
func TestContract_D8_ReplayBySelectionAsItIsNow(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	h.catalogue("project/proj1", "project/proj2")
	before := []string{
		h.publish("task.create", "project/proj1", fields{"n": 1}), h.publish("task.create", "project/proj2", fields{"n": 2}),
		h.publish("task.delete", "project/proj1", fields{"n": 3}), h.publish("user.create", "project/proj1", fields{"n": 4}),
	}
	other := h.account("another", "publish")
	other.do("POST", "/events", fields{"type": "task.create", "data": fields{"n": 5}}).is(202)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"none.*"}})
	h.ended(id, h.replay(id, spanOfToday()))
	if n := len(r.got()); n != 0 {
		t.Errorf("%d pushes of a selection that selects nothing", n)
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"events": []string{"task.*"}, "resource": "project/proj1", "filter": fields{"n": fields{"$gt": 1}}}).is(200)
	count := spanOfToday()
	count["dryRun"] = true
	if a := h.admin().do("POST", "/subscriptions/"+id+"/replay", count).is(200).object(); a["count"] != 1.0 || len(a) != 1 {
		t.Errorf("counted are %v", a)
	}
	h.ended(id, h.replay(id, spanOfToday()))
	r.only(before[2])
	d := h.delivery(before[2], id, "delivered")
	if s := statuses(t, d); !slices.Equal(s, []int{200}) {
		t.Errorf("the delivery that the replay made has the attempts %v", s)
	}
	if got := h.found(id, "state=delivered"); !slices.Equal(got, []string{before[2]}) {
		t.Errorf("listed are %v", got)
	}
	if got := h.admin().deliveries(before[2]); len(got) != 1 {
		t.Errorf("the event has the deliveries %v", got)
	}
}

// The date is a form field, a JSON member or a query parameter; a missing, malformed or future one is 400.
func TestContract_D28_ReplayNeedsADate(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	path := "/subscriptions/" + id + "/replay"
	h.publish("task.create", "", fields{})
	r.wait(1)
	today, tomorrow := time.Now().UTC(), time.Now().UTC().Add(25*time.Hour)
	dates := []string{today.Format(time.DateOnly)}
	if at := today.Truncate(24 * time.Hour); today.Sub(at) < time.Minute {
		dates = append([]string{at.Add(-time.Hour).Format(time.DateOnly)}, dates...) // the event may be of yesterday
	}
	arrived := 1
	for _, send := range []func(date string) *answer{
		func(date string) *answer { return h.admin().do("POST", path+"?date="+date, nil) },
		func(date string) *answer { return h.admin().do("POST", path, fields{"date": date}) },
		func(date string) *answer {
			return h.admin().with("Content-Type", "application/x-www-form-urlencoded").do("POST", path, "date="+date)
		},
	} {
		for _, date := range dates {
			send(date).is(202)
		}
		arrived++
		r.wait(arrived)
	}
	for what, a := range map[string]*answer{
		"nothing":        h.admin().do("POST", path, nil),
		"an empty one":   h.admin().do("POST", path, fields{"date": ""}),
		"another name":   h.admin().do("POST", path, fields{"day": "2026-11-21"}),
		"a time":         h.admin().do("POST", path, fields{"date": "2026-11-21T00:00:00Z"}),
		"no day":         h.admin().do("POST", path+"?date=2026-02-30", nil),
		"a number":       h.admin().do("POST", path, fields{"date": 20261121}),
		"the future":     h.admin().do("POST", path, fields{"date": tomorrow.Format(time.DateOnly)}),
		"future since":   h.admin().do("POST", path, fields{"since": tomorrow.Format(time.RFC3339)}),
		"only an end":    h.admin().do("POST", path, fields{"until": "2026-11-21T00:00:00Z"}),
		"backward":       h.admin().do("POST", path, fields{"since": "2026-11-21T00:00:00Z", "until": "2026-11-20T00:00:00Z"}),
		"wrong outcome":  h.admin().do("POST", path, fields{"date": "2026-11-21", "outcome": "all"}),
		"a rate of none": h.admin().do("POST", path, fields{"date": "2026-11-21", "rate": 0}),
	} {
		if detail := a.problem(400); detail == "" {
			t.Errorf("%s is refused without a reason", what)
		}
	}
	h.admin().do("GET", path, nil).problem(405)
	h.admin().do("POST", "/subscriptions/"+missing+"/replay?date=2026-11-21", nil).problem(404)
	h.account("another", "subscribe").do("POST", path+"?date=2026-11-21", nil).problem(404)
	h.token("default", "publish").do("POST", path+"?date=2026-11-21", nil).problem(403)
}

// Test pushes come from the replay service: a new subscription gets what there is, as often as it is asked for.
func TestContract_D30_ReplayForTestPushes(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	event := h.publish("task.create", "", fields{"n": 1})
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	for i := range 3 {
		h.ended(id, h.replay(id, spanOfToday()))
		if got := r.replayed(i, 1); got[0] != event {
			t.Errorf("the test push is of %v", got)
		}
	}
}

// It is asynchronous: 202 while the receiver is not even there; it waits while the subscription is paused, and goes on when it is
// enabled, also over a restart.
func TestContract_D31_ReplayIsAsynchronous(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	events := h.publishAll(5, nil)
	for _, e := range events {
		h.delivery(e, id, "delivered")
	}
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	replay := h.replay(id, spanOfToday())
	h = h.restart(steady)
	h.sentinel()
	if v := h.admin().do("GET", "/subscriptions/"+id+"/replays/"+replay, nil).is(200).object(); v["state"] != "running" || len(r.got()) != 5 {
		t.Errorf("a paused subscription's replay is %v after %d pushes", v, len(r.got()))
	}
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	if v := h.ended(id, replay); v["state"] != "done" || v["deliveries"] != 5.0 {
		t.Errorf("it ended as %v", v)
	}
	r.replayed(5, 5)
}

// A replay goes on where it was when the daemon is restarted in the middle of it, at its rate.
func TestContract_D31_ReplaySurvivesARestart(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	const n = 60
	h.publishAll(n, nil)
	r.wait(n)
	h.eventually("all is settled", func() bool { return len(h.found(id, "state=delivered&limit=100")) == n })
	want := spanOfToday()
	want["rate"] = 40
	started := time.Now()
	replay := h.replay(id, want)
	r.wait(n + 10)
	h = h.restart(steady)
	if v := h.ended(id, replay); v["state"] != "done" || v["deliveries"] != float64(n) || v["rate"] != 40.0 {
		t.Errorf("it ended as %v", v)
	}
	if took := time.Since(started); took < (n-10)*time.Second/40 {
		t.Errorf("%d at 40 a second took %v", n, took)
	}
	// At least once; what was under way may have come twice.
	seen := map[string]int{}
	for _, e := range ids(t, r.got()[n:]) {
		seen[e]++
	}
	if len(seen) != n || len(r.got()) > 2*n+10 {
		t.Errorf("%d of %d events were replayed in %d pushes", len(seen), n, len(r.got())-n)
	}
}

// outcome=failed takes what has not arrived, and a replayed delivery that arrives is dead no longer.
func TestContract_D8_ReplayOfWhatFailed(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	var lost []string
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		if p.object(t)["type"] == "task.delete" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	for _, kind := range []string{"task.create", "task.delete", "task.delete"} {
		lost = append(lost, h.publish(kind, "", fields{}))
	}
	lost = lost[1:]
	h.dead(id, 2)
	r.wait(5)
	r.status(http.StatusOK)
	want := spanOfToday()
	want["outcome"] = "failed"
	if v := h.ended(id, h.replay(id, want)); v["outcome"] != "failed" || v["deliveries"] != 2.0 {
		t.Errorf("it ended as %v", v)
	}
	if got := r.replayed(5, 2); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(lost))) {
		t.Errorf("replayed were %v, want %v", got, lost)
	}
	h.dead(id, 0)
	h.sentinel()
	if len(r.got()) != 7 {
		t.Errorf("%d pushes arrived", len(r.got()))
	}
}

// A replayed push that fails is tried again on the schedule, and still says that it is a replay. One that waits for its retry goes at
// once.
func TestContract_D8_ReplayIsRetried(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": patiently()})
	event := h.publish("task.create", "", fields{})
	h.delivery(event, id, "retrying")
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": promptly(2)}).is(200)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == 2 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	h.ended(id, h.replay(id, spanOfToday()))
	r.replayed(1, 2)
	if s := statuses(t, h.delivery(event, id, "delivered")); !slices.Equal(s, []int{500, 500, 200}) {
		t.Errorf("its attempts are %v", s)
	}
}

// Several records go in one push, as the subscription has it.
func TestContract_D10_ReplayInBatches(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	events := h.publishAll(25, nil)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"numberOfRecords": 10})
	h.ended(id, h.replay(id, spanOfToday()))
	var got []string
	for _, p := range r.wait(3) {
		body := p.object(t)
		records, _ := body["records"].([]any)
		if body["numberOfRecords"] != float64(len(records)) || len(records) > 10 || p.header.Get("Herald-Replay") != "true" {
			t.Errorf("a push carries %v records: %v", body["numberOfRecords"], p.header)
		}
		for _, x := range records {
			got = append(got, x.(map[string]any)["id"].(string))
		}
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(events))) {
		t.Errorf("%d of 25 events were replayed", len(got))
	}
}

// Replays are listed, newest first, and can be cancelled; then no further push of it starts.
func TestContract_Replay_ListedAndCancelled(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	path := "/subscriptions/" + id + "/replays"
	if got := h.admin().do("GET", path, nil).is(200).list(); len(got) != 0 {
		t.Errorf("there are replays before any was asked for: %v", got)
	}
	h.publishAll(200, nil)
	r.wait(200)
	slow := spanOfToday()
	slow["rate"] = 20
	first := h.replay(id, slow)
	second := h.replay(id, spanOfToday())
	r.wait(203)
	list := h.admin().do("GET", path, nil).is(200).list()
	if len(list) != 2 || list[0]["id"] != second || list[1]["id"] != first || list[1]["state"] != "running" || list[0]["deliveries"] != 0.0 {
		t.Errorf("listed are %v", list)
	}
	page := h.admin().do("GET", path+"?limit=1", nil).is(200)
	if got := page.list(); len(got) != 1 || got[0]["id"] != second {
		t.Errorf("the first page is %v", got)
	}
	next := strings.TrimSuffix(strings.TrimPrefix(page.header.Get("Link"), "<"), `>; rel="next"`)
	if page = h.admin().do("GET", next, nil).is(200); page.list()[0]["id"] != first || page.header.Get("Link") != "" {
		t.Errorf("%s is %s with the Link %q", next, page.body, page.header.Get("Link"))
	}
	for range 2 {
		h.admin().do("DELETE", path+"/"+second, nil).is(204)
		if a := h.admin().do("DELETE", path+"/"+first, nil).is(204); len(a.body) != 0 {
			t.Errorf("204 with the body %q", a.body)
		}
	}
	if v := h.ended(id, first); v["state"] != "cancelled" {
		t.Errorf("it is %v", v)
	}
	h.eventually("those under way have arrived", func() bool { return strings.Contains(counts(h.status(id)), "delivering 0") })
	n := len(r.got())
	h.sentinel()
	time.Sleep(200 * time.Millisecond) // four would have come
	if m := len(r.got()); m != n || m > 230 {
		t.Errorf("%d pushes arrived, %d of them after it was cancelled", m, m-n)
	}
	h.eventually("everything is as it was", func() bool { return len(h.found(id, "state=delivered&limit=1000")) == 200 })
	h.admin().do("DELETE", path+"/"+missing, nil).problem(404)
	h.admin().do("GET", path+"/"+missing, nil).problem(404)
	h.admin().do("GET", "/subscriptions/"+missing+"/replays", nil).problem(404)
	h.account("another", "subscribe").do("DELETE", path+"/"+first, nil).problem(404)
	// With the subscription they are gone.
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	h.admin().do("GET", path, nil).problem(404)
}

// Whatever is under way when a replay is cancelled, nothing breaks, and what came of it is taken back.
func TestContract_Replay_CancelledInTheMidstOfIt(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	const n = 300
	h.publishAll(n, nil)
	r := receive(t)
	for i := range 12 {
		id := h.subscribe(r.URL, nil) // younger than the events
		want := spanOfToday()
		want["rate"] = 100_000
		replay := h.replay(id, want)
		h.eventually("it runs", func() bool {
			v := h.admin().do("GET", "/subscriptions/"+id+"/replays/"+replay, nil).is(200).object()
			return v["deliveries"].(float64) > float64(5*i)
		})
		h.admin().do("DELETE", "/subscriptions/"+id+"/replays/"+replay, nil).is(204)
		h.eventually("all of it is finished or gone", func() bool {
			return len(h.found(id, "limit=1000")) == len(h.found(id, "limit=1000&state=delivered"))
		})
	}
	h.sentinel()
}

// At most ten run for one subscription.
func TestContract_Replay_NotTooMany(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	id := h.subscribe(receive(t).URL, nil)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	for range 10 {
		h.replay(id, spanOfToday())
	}
	names(t, "the eleventh", h.admin().do("POST", "/subscriptions/"+id+"/replay", spanOfToday()).problem(409), "10", "DELETE")
}

// Live traffic goes before a replay, and is not held up by it, not even by a receiver that takes one push at a time.
func TestContract_Replay_GoesBehindLiveTraffic(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	const n = 150
	published := make(chan struct{}) // closed when the live event is there
	goOn := sync.OnceFunc(func() { close(published) })
	t.Cleanup(goOn)
	r.respond(func(i int, _ push, _ http.ResponseWriter) {
		if i == n+3 {
			<-published
		}
	})
	id := h.subscribe(r.URL, fields{"delivery": fields{"ordering": "strict"}})
	h.publishAll(n, nil)
	r.wait(n)
	want := spanOfToday()
	want["rate"] = 100_000
	replay := h.replay(id, want)
	r.wait(n + 3)
	live := h.publish("task.create", "", fields{"live": true})
	goOn()
	h.delivery(live, id, "delivered")
	if i := slices.Index(ids(t, r.got()), live); i < 0 || i > n+4 {
		t.Errorf("the live event came as push %d beside a replay of %d, of which three had come", i, n)
	}
	h.ended(id, replay)
	got := ids(t, r.got())
	got = slices.DeleteFunc(got[n:], func(e string) bool { return e == live })
	if !slices.Equal(got, ids(t, r.got()[:n])) {
		t.Errorf("the replay is not in the order of acceptance")
	}
}

// A disabled subscription that discards what waits has nothing replayed until it is enabled.
func TestContract_Replay_OfADisabledOne(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusGone)
	id := h.subscribe(r.URL, fields{"delivery": fields{"onDisabled": "discard"}})
	event := h.publish("task.create", "", fields{})
	h.eventually("it is disabled", func() bool { return h.read(id)["state"] == "disabled" })
	h.delivery(event, id, "discarded")
	names(t, "a replay", h.admin().do("POST", "/subscriptions/"+id+"/replay", spanOfToday()).problem(409), "enable")
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	r.status(http.StatusOK)
	want := spanOfToday()
	want["outcome"] = "failed"
	h.ended(id, h.replay(id, want))
	if got := r.replayed(1, 1); got[0] != event {
		t.Errorf("replayed was %v", got)
	}
}

// What a program of version 1.1 is told of replays holds.
func TestContract_D8_ReplayOfTheOldPath(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	event := h.publish("task.create", "", fields{})
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	today := time.Now().UTC().Format(time.DateOnly)
	detail := h.as("").do("GET", "/repush/"+id+"/"+today, nil).problem(410)
	_, call, _ := strings.Cut(detail, "POST ")
	path, _, _ := strings.Cut(call, ",")
	if path != fmt.Sprintf("/subscriptions/%s/replay", id) {
		t.Fatalf("the old path says %q", detail)
	}
	h.admin().do("POST", path, spanOfToday()).is(202)
	if got := r.replayed(0, 1); got[0] != event {
		t.Errorf("replayed was %v", got)
	}
}
