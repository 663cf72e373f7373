package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

// It is 2026-11-21T08:30:00Z.
func TestStartingReplays(t *testing.T) {
	t.Parallel()
	day := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	hour := testNow.Add(-time.Hour)
	now := testNow.Add(time.Millisecond)
	form, multi := "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
	for _, x := range []struct {
		query, contentType, body string
		want                     queue.Replay
	}{
		{"?date=2026-11-21", "", "", queue.Replay{Since: day, Until: day.AddDate(0, 0, 1), Rate: 1000}},
		{"", form, "date=2026-11-20", queue.Replay{Since: day.AddDate(0, 0, -1), Until: day, Rate: 1000}},
		{"", multi, "--b\r\nContent-Disposition: form-data; name=\"date\"\r\n\r\n2026-11-20\r\n--b--\r\n", queue.Replay{Since: day.AddDate(0, 0, -1), Until: day, Rate: 1000}},
		{"", typeJSON, `{"date":"2020-02-29","outcome":"failed","rate":2.5}`, queue.Replay{
			Since: time.Date(2020, 2, 29, 0, 0, 0, 0, time.UTC), Until: time.Date(2020, 3, 1, 0, 0, 0, 0, time.UTC), Failed: true, Rate: 2.5,
		}},
		{"", typeJSON, `{"Since":"2026-11-21T07:30:00Z","until":null,"rate":null,"outcome":null,"date":null}`, queue.Replay{Since: hour, Until: now, Rate: 1000}},
		{"?rate=7&outcome=failed", form, "since=2026-11-21T07:30:00Z&until=2026-11-21T09:00:00%2B01:00", queue.Replay{
			Since: hour, Until: testNow.Add(-30 * time.Minute), Failed: true, Rate: 7,
		}},
		{"?since=2026-11-21T07:30:00Z", "", "", queue.Replay{Since: hour, Until: now, Rate: 1000}},
		{"?until=2026-11-21T08:30:00Z", typeJSON, `{"since":"2026-11-21T07:30:00Z"}`, queue.Replay{Since: hour, Until: testNow, Rate: 1000}},
	} {
		b := newBed(t)
		_, path := b.subscribe(minimal)
		headers := []string{}
		if x.contentType != "" {
			headers = []string{"Content-Type", x.contentType}
		}
		w := b.request(http.MethodPost, path+"/replay"+x.query, "sub", x.body, headers...)
		v := wantJSON[replayView](t, w, 202)
		x.want.ID, x.want.State, x.want.CreatedAt = queue.ReplayID{15: 1}, queue.ReplayRunning, testNow
		x.want.AccountID, x.want.Lane = "acme", queue.Lane(b.stored().ID)
		if len(b.queue.replays) != 1 || b.queue.replays[0] != x.want {
			t.Errorf("%s %s: asked for %+v, want %+v", x.query, x.body, b.queue.replays, x.want)
		}
		where := path + "/replays/00000000-0000-0000-0000-000000000001"
		if w.Header().Get("Location") != where || v.ID != x.want.ID.String() || v.State != "running" || (v.Outcome == "failed") != x.want.Failed {
			t.Errorf("%s %s: %s, %s", x.query, x.body, w.Body, w.Header().Get("Location"))
		}
	}
}

func TestReplayRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	form := "application/x-www-form-urlencoded"
	for _, x := range []struct {
		query, contentType, body, field string
		words                           []string
	}{
		{"", "", "", "date", []string{"2026-11-21", "since"}},
		{"", "application/json", "{}", "date", []string{"is needed"}},
		{"", form, "outcome=failed", "date", []string{"is needed"}},
		{"?date=", "", "", "date", []string{"is empty"}},
		{"", form, "date=", "date", []string{"is empty"}},
		{"?date=21.11.2026", "", "", "date", []string{"such as 2026-11-21"}},
		{"?date=2026-02-29", "", "", "date", []string{"such as 2026-11-21"}},
		{"?date=2026-11-21T00:00:00Z", "", "", "date", []string{"such as 2026-11-21"}},
		{"?date=0000-01-01", "", "", "date", []string{"such as 2026-11-21"}},
		{"?date=2026-11-22", "", "", "date", []string{"future"}},
		{"", "application/json", `{"date":20261121}`, "date", []string{"string"}},
		{"?date=2026-11-20", "application/json", `{"date":"2026-11-20"}`, "date", []string{"in the query and in the body"}},
		{"?date=2026-11-20", form, `date=2026-11-20`, "date", []string{"in the query and in the body"}},
		{"", form, `date=2026-11-20&date=2026-11-20`, "date", []string{"2 times"}},
		{"?date=2026-11-20&since=2026-11-20T00:00:00Z", "", "", "date", []string{"either"}},
		{"?since=yesterday", "", "", "since", []string{"RFC 3339"}},
		{"?since=2026-11-21T08:30:00.001Z", "", "", "since", []string{"future"}},
		{"?until=2026-11-21T08:00:00Z", "", "", "since", []string{"is needed"}},
		{"?since=2026-11-21T08:00:00Z&until=2026-11-21T08:00:00Z", "", "", "until", []string{"later than since"}},
		{"?since=2026-11-21T08:00:00Z&until=2026-11-21T08:31:00Z", "", "", "until", []string{"future"}},
		{"?date=2026-11-20&outcome=delivered", "", "", "outcome", []string{"failed"}},
		{"?date=2026-11-20&rate=0", "", "", "rate", []string{"0.0001", "100000"}},
		{"?date=2026-11-20&dryRun=yes", "", "", "dryRun", []string{"true or false"}},
		{"?date=2026-11-20&day=x", "", "", "day", []string{"known are date, since"}},
		{"", form, "date=2026-11-20&day=x", "day", []string{"known are date, since"}},
		{"", "application/json", `{"date":"2026-11-20","day":1}`, "day", []string{"not known"}},
	} {
		headers := []string{}
		if x.contentType != "" {
			headers = []string{"Content-Type", x.contentType}
		}
		w := b.request(http.MethodPost, path+"/replay"+x.query, "sub", x.body, headers...)
		detail := wantProblem(t, w, 400)
		for _, word := range append(x.words, x.field) {
			if !strings.Contains(detail.Detail, word) {
				t.Errorf("%s %s: %q does not say %q", x.query, x.body, detail.Detail, word)
			}
		}
	}
	wantProblem(t, b.request(http.MethodPost, path+"/replay", "sub", "date=2026-11-20", "Content-Type", "text/plain"), 415)
	wantProblem(t, b.request(http.MethodPost, path+"/replay?date=2026-11-20", "alien", ""), 404)
	if len(b.queue.replays) != 0 {
		t.Errorf("replays were started: %+v", b.queue.replays)
	}
	for range queue.MaxReplays {
		wantJSON[replayView](t, b.request(http.MethodPost, path+"/replay?date=2026-11-20", "sub", ""), 202)
	}
	wantProblem(t, b.request(http.MethodPost, path+"/replay?date=2026-11-20", "sub", ""), 409)
	b.queue.setFail(queue.ErrFull)
	wantProblem(t, b.request(http.MethodPost, path+"/replay?date=2026-11-20", "sub", ""), 503)
}

// Counting and replaying go by the selection as it is, also while the subscription is paused; not while what it gets is discarded.
func TestReplayCounts(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(`{"dataCallbackURL":"https://h.example/x","events":["task.*"],"resource":"project/proj1","filter":{"n":{"$gt":1}}}`)
	b.queue.events = []*queue.Event{
		{Type: "task.create", Resource: "project/proj1", AccountID: "acme", Data: []byte(`{"n":2}`)},
		{Type: "task.create", Resource: "project/proj1", AccountID: "acme", Data: []byte(`{"n":1}`)},
		{Type: "task.create", Resource: "project/proj2", AccountID: "acme", Data: []byte(`{"n":2}`)},
		{Type: "user.create", Resource: "project/proj1", AccountID: "acme", Data: []byte(`{"n":2}`)},
		{Type: "task.create", Resource: "project/proj1", AccountID: "other", Data: []byte(`{"n":2}`)},
	}
	b.request(http.MethodPost, path+"/pause", "sub", "")
	if w := b.request(http.MethodPost, path+"/replay?date=2026-11-20&dryRun=true", "sub", ""); w.Code != 200 || w.Body.String() != `{"count":1}` || len(b.queue.replays) != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	_, err := b.store.UpdateSubscription(t.Context(), b.stored().ID, func(s *store.Subscription) error {
		s.State, s.Discarding = store.StateDisabled, true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.request(http.MethodPost, path+"/replay?date=2026-11-20", "sub", ""), 409)
	if w := b.request(http.MethodPost, path+"/replay?date=2026-11-20&dryRun=true", "sub", ""); w.Code != 200 {
		t.Errorf("counting: %d %s", w.Code, w.Body)
	}
	b.queue.setFail(errors.New("disk on fire"))
	wantProblem(t, b.request(http.MethodPost, path+"/replay?date=2026-11-20&dryRun=true", "sub", ""), 503)
}

func TestReplaysListed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	var made []string
	for range 3 {
		made = append(made, wantJSON[replayView](t, b.request(http.MethodPost, path+"/replay?date=2026-11-20", "sub", ""), 202).ID)
	}
	slices.Reverse(made)
	list := func(query string) (ids []string, link string) {
		w := b.request(http.MethodGet, path+"/replays"+query, "sub", "")
		for _, v := range wantJSON[[]replayView](t, w, 200) {
			ids = append(ids, v.ID)
		}
		return ids, w.Header().Get("Link")
	}
	if got, link := list(""); !slices.Equal(got, made) || link != "" {
		t.Errorf("all: %v %s", got, link)
	}
	if got, link := list("?limit=2"); !slices.Equal(got, made[:2]) || !strings.Contains(link, "after="+made[1]) {
		t.Errorf("first page: %v %s", got, link)
	}
	if got, link := list("?limit=2&after=" + made[1]); !slices.Equal(got, made[2:]) || link != "" {
		t.Errorf("second page: %v %s", got, link)
	}
	if got, _ := list("?after=" + made[2]); len(got) != 0 {
		t.Errorf("after the last: %v", got)
	}
	wantProblem(t, b.request(http.MethodGet, path+"/replays?limit=0", "sub", ""), 400)
	one := path + "/replays/" + made[0]
	if v := wantJSON[replayView](t, b.request(http.MethodGet, one, "sub", ""), 200); v.ID != made[0] || v.State != "running" {
		t.Errorf("one: %+v", v)
	}
	for range 2 {
		if w := b.request(http.MethodDelete, one, "sub", ""); w.Code != 204 || w.Body.Len() != 0 {
			t.Errorf("cancelled: %d %s", w.Code, w.Body)
		}
	}
	if v := wantJSON[replayView](t, b.request(http.MethodGet, one, "sub", ""), 200); v.State != "cancelled" || v.EndedAt.IsZero() {
		t.Errorf("cancelled: %+v", v)
	}
	for _, other := range []string{path + "/replays/none", path + "/replays/" + strings.ToUpper(made[0]) + "x"} {
		wantProblem(t, b.request(http.MethodGet, other, "sub", ""), 404)
		wantProblem(t, b.request(http.MethodDelete, other, "sub", ""), 404)
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		wantProblem(t, b.request(method, one, "alien", ""), 404)
	}
	wantProblem(t, b.request(http.MethodGet, path+"/replays", "alien", ""), 404)
	b.queue.setFail(errors.New("disk on fire"))
	wantProblem(t, b.request(http.MethodDelete, one, "sub", ""), 503)
}
