package api

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

// lose gives the only subscription a delivery in the state, for the reason.
func (b *bed) lose(state queue.State, reason, eventType string) {
	b.t.Helper()
	seq := uint64(len(b.queue.deliveries) + 1)
	b.queue.deliveries = append(b.queue.deliveries, &queue.Delivery{
		ID: queue.DeliveryID{Seq: seq, Lane: queue.Lane(b.stored().ID)}, AccountID: "acme", EventID: "e", EventType: eventType,
		State: state, Reason: reason, AcceptedAt: testNow,
	})
}

func TestRetryingTheDead(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	since, until := testNow, testNow.Add(time.Hour)
	for _, x := range []struct {
		query, body string
		want        queue.DeadSelection
		status      int
		answer      string
	}{
		{"", "", queue.DeadSelection{}, 202, `{"retried":3}`},
		{"", "{}", queue.DeadSelection{}, 202, `{"retried":3}`},
		{"", `{"reason":null,"rate":null,"dryRun":null}`, queue.DeadSelection{}, 202, `{"retried":3}`},
		{"?reason=exhausted", "", queue.DeadSelection{Reason: "exhausted"}, 202, `{"retried":2}`},
		{"", `{"REASON":"expired"}`, queue.DeadSelection{Reason: "expired"}, 202, `{"retried":1}`},
		{"?type=task.create&dryRun=true", `{"reason":"exhausted"}`, queue.DeadSelection{Reason: "exhausted", EventType: "task.create", DryRun: true}, 200, `{"count":1}`},
		{"?dryRun=false", "", queue.DeadSelection{}, 202, `{"retried":3}`},
		{"", `{"dryRun":true}`, queue.DeadSelection{DryRun: true}, 200, `{"count":3}`},
		{"?type=herald.ping", "", queue.DeadSelection{EventType: "herald.ping"}, 202, `{"retried":0}`},
		{
			"?since=2026-11-21T08:30:00Z&until=2026-11-21T10:30:00%2B01:00&rate=0.5", "",
			queue.DeadSelection{Since: since, Until: until, Rate: 0.5},
			202, `{"retried":3,"lastDueAt":"2026-11-21T08:30:04Z"}`,
		},
		{
			"", `{"since":"2026-11-21T08:30:00Z","until":"2026-11-21T09:30:00Z","rate":1e5}`,
			queue.DeadSelection{Since: since, Until: until, Rate: 100000},
			202, `{"retried":3,"lastDueAt":"2026-11-21T08:30:00Z"}`,
		},
	} {
		b.queue.deliveries, b.queue.selections = nil, nil
		b.lose(queue.StateDead, queue.ReasonExhausted, "task.create")
		b.lose(queue.StateDead, queue.ReasonExhausted, "task.delete")
		b.lose(queue.StateDead, queue.ReasonExpired, "task.create")
		b.lose(queue.StateDiscarded, queue.ReasonDisabled, "task.create")
		w := b.request(http.MethodPost, path+"/retry"+x.query, "sub", x.body)
		if w.Code != x.status || w.Body.String() != x.answer || len(b.queue.selections) != 1 || b.queue.selections[0] != x.want {
			t.Errorf("%s %s: %d %s, asked for %+v", x.query, x.body, w.Code, w.Body, b.queue.selections)
		}
	}
	b.lose(queue.StateDead, queue.ReasonExhausted, "task.create")
	if w := b.request(http.MethodPost, path+"/retry", "sub", "dryRun=true&reason=exhausted", "Content-Type", "application/x-www-form-urlencoded"); w.Code != 200 || w.Body.String() != `{"count":1}` {
		t.Errorf("a form: %d %s", w.Code, w.Body)
	}
	b.queue.setFail(queue.ErrGone)
	wantProblem(t, b.request(http.MethodPost, path+"/retry", "sub", ""), 409)
	b.queue.setFail(errors.New("disk on fire"))
	wantProblem(t, b.request(http.MethodPost, path+"/retry", "sub", ""), 503)
}

// While a disabled subscription discards, nothing can be retried for it; counting goes on, and whose it is stays unsaid.
func TestRetryWhileDiscarding(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	b.lose(queue.StateDead, queue.ReasonExhausted, "task.create")
	delivery := "/deliveries/" + b.queue.deliveries[0].ID.String()
	_, err := b.store.UpdateSubscription(t.Context(), b.stored().ID, func(s *store.Subscription) error {
		s.State, s.Discarding = store.StateDisabled, true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.request(http.MethodPost, path+"/retry", "sub", ""), 409)
	wantProblem(t, b.request(http.MethodPost, delivery+"/retry", "sub", ""), 409)
	if w := b.request(http.MethodPost, path+"/retry?dryRun=true", "sub", ""); w.Code != 200 {
		t.Errorf("counting: %d %s", w.Code, w.Body)
	}
	wantProblem(t, b.request(http.MethodPost, delivery+"/retry", "alien", ""), 404)
	if w := b.request(http.MethodPost, path+"/enable", "sub", ""); w.Code != 200 || len(b.queue.hastened) != 0 {
		t.Errorf("enabling: %d %s, hastened %v", w.Code, w.Body, b.queue.hastened)
	}
	if w := b.request(http.MethodPost, path+"/pause", "sub", ""); w.Code != 200 {
		t.Errorf("pausing: %d %s", w.Code, w.Body)
	}
	if w := b.request(http.MethodPost, path+"/enable", "sub", ""); w.Code != 200 || len(b.queue.hastened) != 1 {
		t.Errorf("enabling what was held: %d %s, hastened %v", w.Code, w.Body, b.queue.hastened)
	}
	b.queue.setFail(errors.New("disk on fire"))
	wantProblem(t, b.request(http.MethodPost, path+"/enable", "sub", ""), 503)
}

func TestRetryingTheDeadRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	b.lose(queue.StateDead, queue.ReasonExhausted, "task.create")
	for _, x := range []struct {
		query, body, field string
		words              []string
	}{
		{"?reason=tired", "", "reason", []string{"exhausted, rejected or expired"}},
		{"?reason=unsubscribed", "", "reason", nil},
		{"", `{"reason":"disabled"}`, "reason", nil},
		{"", `{"reason":""}`, "reason", nil},
		{"", `{"reason":1}`, "reason", []string{"a string, not a number"}},
		{"?reason=", "", "reason", []string{"empty"}},
		{"?type=task.*", "", "type", nil},
		{"", `{"type":"a b"}`, "type", nil},
		{"?since=yesterday", "", "since", []string{"RFC 3339"}},
		{"", `{"since":"2026-11-21"}`, "since", []string{"RFC 3339"}},
		{"?until=2026-11-21T08:30:00", "", "until", nil},
		{"?since=2026-11-21T08:30:00Z&until=2026-11-21T08:30:00Z", "", "until", []string{"later than since"}},
		{"?since=2026-11-21T08:30:00Z", `{"until":"2026-11-20T08:30:00Z"}`, "until", []string{"later than since"}},
		{"?rate=0", "", "rate", []string{"between 0.0001 and 100000"}},
		{"?rate=fast", "", "rate", nil},
		{"?rate=0x10", "", "rate", nil},
		{"?rate=Inf", "", "rate", nil},
		{"?rate=100001", "", "rate", nil},
		{"", `{"rate":-1}`, "rate", nil},
		{"", `{"rate":"5"}`, "rate", []string{"a number, not a string"}},
		{"?dryRun=yes", "", "dryRun", []string{"true or false"}},
		{"?dryRun=1", "", "dryRun", nil},
		{"", `{"dryRun":"true"}`, "dryRun", nil},
		{"?dryRun=true", `{"dryRun":true}`, "dryRun", []string{"in the query and in the body"}},
		{"?reason=expired", `{"reason":null}`, "reason", []string{"give it once"}},
		{"?rate=1", `{"Rate":1}`, "rate", []string{"give it once"}},
		{"?since=2026-11-21T08:30:00Z", `{"since":"2026-11-21T08:30:00Z"}`, "since", []string{"give it once"}},
		{"?dryrun=true", "", "dryrun", []string{"reason, type, since, until, rate, dryRun"}},
		{"", `{"state":"dead"}`, "state", []string{"reason, type, since, until, rate, dryRun"}},
		{"", `[]`, "body", []string{"object"}},
	} {
		p := wantProblem(t, b.request(http.MethodPost, path+"/retry"+x.query, "sub", x.body), 400, x.words...)
		if firstField(p) != x.field {
			t.Errorf("%s %s: the fault is of %q, want %q: %+v", x.query, x.body, firstField(p), x.field, p)
		}
	}
	wantProblem(t, b.request(http.MethodPost, path+"/retry", "sub", "dryRun=true", "Content-Type", "text/plain"), 415)
	wantProblem(t, b.request(http.MethodPost, path+"/retry", "sub", `{"dryRun":tru}`), 400, "position")
	p := wantProblem(t, b.request(http.MethodPost, path+"/retry?rate=0&reason=x", "sub", `{"type":"","since":1}`), 400, "4 fields")
	if len(p.Errors) != 4 || len(b.queue.selections) != 0 || b.queue.deliveries[0].State != queue.StateDead {
		t.Errorf("%+v, asked for %+v", p.Errors, b.queue.selections)
	}
}

func TestListingByReason(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.subscribe(minimal)
	for _, reason := range deadReasons() {
		b.lose(queue.StateDead, reason, "a")
	}
	for _, reason := range discardReasons() {
		b.lose(queue.StateDiscarded, reason, "a")
	}
	b.lose(queue.StateDelivered, "", "a")
	for query, want := range map[string]int{
		"?state=dead": 3, "?state=dead&reason=exhausted": 1, "?reason=rejected": 1, "?reason=expired&state=dead": 1, "?reason=unsubscribed": 1,
		"?state=discarded&reason=disabled": 1, "?state=discarded": 2, "": 6,
	} {
		if list := wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/deliveries"+query, "sub", ""), 200); len(list) != want {
			t.Errorf("%s: %v", query, list)
		}
	}
	for query, words := range map[string]string{
		"?reason=tired":                  "exhausted, rejected, expired, unsubscribed or disabled",
		"?state=dead&reason=disabled":    "exhausted, rejected or expired",
		"?state=discarded&reason=tired":  "unsubscribed or disabled",
		"?state=pending&reason=expired":  "dead or discarded",
		"?state=nowhere&reason=nonsense": "state",
		"?reason=":                       "empty",
	} {
		wantProblem(t, b.request(http.MethodGet, "/deliveries"+query, "sub", ""), 400, words)
	}
	// The next page keeps the reason.
	b.lose(queue.StateDead, queue.ReasonExpired, "a")
	w := b.request(http.MethodGet, "/deliveries?reason=expired&limit=1", "sub", "")
	if list := wantJSON[[]jsonObject](t, b.request(http.MethodGet, nextOf(w.Header()), "sub", ""), 200); len(list) != 1 || list[0]["reason"] != "expired" {
		t.Errorf("the second page: %v", list)
	}
}
