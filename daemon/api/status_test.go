package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	at := func(minutes int) time.Time { return testNow.Add(time.Duration(minutes) * time.Minute) }
	stats := queue.LaneStats{Pending: 5, Retrying: 2, Delivering: 1, Dead: 7, OldestPending: at(-9), NextRetry: at(3)}
	const (
		head   = `{"state":"active","stateSince":"2026-11-21T08:30:00Z",`
		counts = `"deliveries":{"pending":5,"retrying":2,"delivering":1,"dead":7,"held":0},"oldestPendingAt":"2026-11-21T08:21:00Z","nextRetryAt":"2026-11-21T08:33:00Z",`
		held   = `"deliveries":{"pending":0,"retrying":0,"delivering":1,"dead":7,"held":7},"oldestPendingAt":"2026-11-21T08:21:00Z",`
	)
	ill := store.Health{FailingSince: at(-60), Failures: 12, OpenedAt: at(-50), Probes: 2, ProbeAt: at(4), Warned: 75}
	for name, x := range map[string]struct {
		delivery string
		change   func(*store.Subscription)
		live     *LaneStatus
		stats    queue.LaneStats
		want     string
	}{
		"nothing known": {
			want: head + `"deliveries":{"pending":0,"retrying":0,"delivering":0,"dead":0,"held":0},"breaker":{"state":"closed","failures":0},` +
				`"concurrency":{"inFlight":0,"window":64,"max":64}}`,
		},
		"from the store": {
			stats: stats, delivery: `{"maxConcurrency":3}`, change: func(s *store.Subscription) { s.Health = ill },
			// Nothing goes out before the probe, whatever was due earlier.
			want: head + strings.Replace(counts, "08:33:00Z", "08:34:00Z", 1) + `"breaker":{"state":"open","since":"2026-11-21T07:40:00Z","failures":12,"failingSince":"2026-11-21T07:30:00Z",` +
				`"nextProbeAt":"2026-11-21T08:34:00Z"},"concurrency":{"inFlight":0,"window":1,"max":3},"disableAt":"2026-11-21T09:30:00Z",` +
				`"failuresLeft":8,"warnedPercent":75}`,
		},
		"alive": {
			stats: stats, change: func(s *store.Subscription) { s.Health = ill }, // older than what the dispatcher knows
			live: &LaneStatus{Breaker: "closed", Since: at(-1), InFlight: 4, Window: 5, Max: 6, RestUntil: at(1).Add(1234567), CatchingUp: true, BatchLimit: 50, Warned: 50},
			want: head + counts + `"breaker":{"state":"closed","since":"2026-11-21T08:29:00Z","failures":0},"concurrency":{"inFlight":4,"window":5,"max":6},` +
				`"restUntil":"2026-11-21T08:31:00.001Z","catchingUp":true,"batchLimit":50}`,
		},
		"failing, and about to be disabled": {
			stats: stats, delivery: `{"disableAfter":{"failures":12}}`, change: func(s *store.Subscription) { s.Health = store.Health{} },
			live: &LaneStatus{Breaker: "half-open", Since: at(-1), Failures: 12, FailingSince: at(-2), ProbeAt: at(-1), InFlight: 1, Window: 1, Max: 6, Warned: 90},
			want: head + counts + `"breaker":{"state":"half-open","since":"2026-11-21T08:29:00Z","failures":12,"failingSince":"2026-11-21T08:28:00Z",` +
				`"nextProbeAt":"2026-11-21T08:29:00Z"},"concurrency":{"inFlight":1,"window":1,"max":6},"failuresLeft":1,"warnedPercent":90}`,
		},
		"failing, and never to be disabled": {
			stats: stats, delivery: `{"disableAfter":{}}`, change: func(s *store.Subscription) { s.Health = store.Health{FailingSince: at(-2), Failures: 3} },
			want: head + counts + `"breaker":{"state":"closed","failures":3,"failingSince":"2026-11-21T08:28:00Z"},"concurrency":{"inFlight":0,"window":64,"max":64}}`,
		},
		"paused": {
			stats: stats, change: func(s *store.Subscription) { s.State, s.StateReason, s.Health = store.StatePaused, "owner", ill },
			want: `{"state":"paused","stateReason":"owner","stateSince":"2026-11-21T08:30:00Z",` + held +
				`"breaker":{"state":"closed","failures":12,"failingSince":"2026-11-21T07:30:00Z"},` +
				`"concurrency":{"inFlight":0,"window":1,"max":64}}`,
		},
		"disabled": {
			stats: stats, change: func(s *store.Subscription) {
				s.State, s.StateReason, s.Discarding = store.StateDisabled, store.ReasonFailures, false
			},
			live: &LaneStatus{Breaker: "closed", InFlight: 1, Window: 2, Max: 64, RestUntil: at(5)},
			want: `{"state":"disabled","stateReason":"failures","stateSince":"2026-11-21T08:30:00Z",` + held +
				`"breaker":{"state":"closed","failures":0},"concurrency":{"inFlight":1,"window":2,"max":64}}`,
		},
	} {
		b := newBed(t, Settings{Policy: store.DeliveryPolicy{
			MaxConcurrency: 64, DisableAfter: store.DisableAfter{Set: true, Duration: 2 * time.Hour, Failures: 20},
		}})
		body := minimal
		if x.delivery != "" {
			body = fmt.Sprintf(`{"dataCallbackURL":"https://r.example/x","delivery":%s}`, x.delivery)
		}
		_, path := b.subscribe(body)
		if x.change != nil {
			b.set(x.change)
		}
		b.queue.laneStats = x.stats
		if x.live != nil {
			b.live = map[store.SubscriptionID]LaneStatus{b.stored().ID: *x.live}
		}
		w := b.request(http.MethodGet, path+"/status", "sub", "")
		wantJSON[jsonObject](t, w, 200)
		if w.Body.String() != x.want {
			t.Errorf("%s:\n got %s\nwant %s", name, w.Body, x.want)
		}
	}
}

func TestStatusIsTheOwners(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	wantProblem(t, b.request(http.MethodGet, path+"/status", "alien", ""), 404)
	wantProblem(t, b.request(http.MethodGet, path+"/status", "pub", ""), 403)
	wantProblem(t, b.request(http.MethodGet, path+"/status", "", ""), 401)
	wantProblem(t, b.request(http.MethodPost, path+"/status", "sub", ""), 405)
	wantProblem(t, b.request(http.MethodGet, "/subscriptions/00000000-0000-7000-8000-000000000000/status", "sub", ""), 404)
	b.store.setFail(store.ErrClosed, 1)
	wantProblem(t, b.request(http.MethodGet, path+"/status", "sub", ""), 503)
}
