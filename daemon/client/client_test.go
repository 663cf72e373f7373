package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// serve starts a server and returns a client of it with the token t0.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(Options{BaseURL: s.URL, Token: "t0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"socket and url":       {Socket: "x.sock", BaseURL: DefaultBaseURL},
		"socket and client":    {Socket: "x.sock", HTTPClient: http.DefaultClient},
		"TLS and client":       {BaseURL: "https://host/", TLS: &tls.Config{}, HTTPClient: http.DefaultClient},
		"TLS and socket":       {Socket: "x.sock", TLS: &tls.Config{}},
		"TLS and plain HTTP":   {BaseURL: "http://host/", TLS: &tls.Config{}},
		"no scheme":            {BaseURL: "127.0.0.1:8420"},
		"other scheme":         {BaseURL: "ftp://host/"},
		"no host":              {BaseURL: "http:///x"},
		"control character":    {BaseURL: "http://host/\x01"},
		"user":                 {BaseURL: "http://me:secret@host/"},
		"query":                {BaseURL: "http://host/?a=b"},
		"fragment":             {BaseURL: "http://host/#a"},
		"token with a newline": {Token: "abc\nX-Other: 1"},
		"token beyond ASCII":   {Token: "tök"},
		"account with newline": {Account: "a\r\nb"},
		"agent with newline":   {UserAgent: "a\nb"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := New(o)
			if err == nil {
				t.Fatalf("New(%+v) = %v, want an error", o, c)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "X-Other") {
				t.Errorf("the error repeats a value: %v", err)
			}
		})
	}
}

func TestNewDefaults(t *testing.T) {
	t.Parallel()
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Address(); got != DefaultBaseURL {
		t.Errorf("Address() = %q", got)
	}
}

// seen is a request as the server saw it.
type seen struct {
	method, target, contentType, key, body string
}

// second is so many seconds after eight o'clock.
func second(n int) time.Time { return time.Date(2026, 11, 22, 8, 0, n, 0, time.UTC) }

func TestCalls(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	at := time.Date(2026, 11, 22, 9, 0, 0, 5e6, time.FixedZone("x", 3600))
	name := "N"
	wait := 0.0
	left := operations(t)
	for _, c := range []struct {
		name   string
		call   func(*Client) (any, error)
		want   seen
		answer string
		result any
	}{
		{
			"backup",
			func(c *Client) (any, error) {
				body, size, err := c.Backup(ctx)
				if err != nil {
					return nil, err
				}
				text, err := io.ReadAll(body)
				return fmt.Sprintf("%s (%d)", text, size), errors.Join(err, body.Close())
			},
			seen{"GET", "/admin/backup", "", "", ""},
			"all of it",
			"all of it (9)",
		},
		{
			"create account",
			func(c *Client) (any, error) { return c.CreateAccount(ctx, "a1", "<One>") },
			seen{"POST", "/accounts", "application/json", "", `{"id":"a1","name":"<One>"}`},
			`{"id":"a1","name":"<One>","suspended":false,"createdAt":"2026-11-22T08:00:00Z"}`,
			Account{ID: "a1", Name: "<One>", CreatedAt: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)},
		},
		{
			"account",
			func(c *Client) (any, error) { return c.Account(ctx, "a/1 ?") },
			seen{"GET", "/accounts/a%2F1%20%3F", "", "", ""},
			`{"id":"a/1 ?","suspended":true}`,
			Account{ID: "a/1 ?", Suspended: true},
		},
		{
			"update account",
			func(c *Client) (any, error) { return c.UpdateAccount(ctx, "a1", AccountPatch{Name: &name}) },
			seen{"PATCH", "/accounts/a1", "application/merge-patch+json", "", `{"name":"N"}`},
			`{"id":"a1","name":"N"}`,
			Account{ID: "a1", Name: "N"},
		},
		{
			"replace account",
			func(c *Client) (any, error) { return c.ReplaceAccount(ctx, "a1", "N", true) },
			seen{"PUT", "/accounts/a1", "application/json", "", `{"name":"N","suspended":true}`},
			`{"id":"a1","name":"N","suspended":true}`,
			Account{ID: "a1", Name: "N", Suspended: true},
		},
		{
			"resource",
			func(c *Client) (any, error) { return c.Resource(ctx, "project", "p/1") },
			seen{"GET", "/resources/project/p%2F1", "", "", ""},
			`{"type":"project","id":"p/1"}`,
			Resource{Type: "project", ID: "p/1"},
		},
		{
			"delete account",
			func(c *Client) (any, error) { return nil, c.DeleteAccount(ctx, "a1") },
			seen{"DELETE", "/accounts/a1", "", "", ""},
			"", nil,
		},
		{
			"create token",
			func(c *Client) (any, error) {
				return c.CreateToken(ctx, NewToken{AccountID: "a1", Name: "ci", Scopes: []string{ScopePublish}, ExpiresAt: at})
			},
			seen{"POST", "/tokens", "application/json", "", `{"accountId":"a1","name":"ci","scopes":["publish"],"expiresAt":"2026-11-22T08:00:00.005Z"}`},
			`{"id":"tok_1","accountId":"a1","name":"ci","scopes":["publish"],"token":"hrld_x"}`,
			Token{ID: "tok_1", AccountID: "a1", Name: "ci", Scopes: []string{"publish"}, Secret: "hrld_x"},
		},
		{
			"create token, least",
			func(c *Client) (any, error) { return c.CreateToken(ctx, NewToken{Scopes: []string{ScopeAdmin}}) },
			seen{"POST", "/tokens", "application/json", "", `{"name":"","scopes":["admin"]}`},
			`{"id":"tok_1"}`,
			Token{ID: "tok_1"},
		},
		{
			"delete token",
			func(c *Client) (any, error) { return nil, c.DeleteToken(ctx, "tok_1") },
			seen{"DELETE", "/tokens/tok_1", "", "", ""},
			"", nil,
		},
		{
			"put resource",
			func(c *Client) (any, error) {
				return c.PutResource(ctx, Resource{Type: "project", ID: "p.1", Name: "P"})
			},
			seen{"PUT", "/resources/project/p.1", "application/json", "", `{"name":"P"}`},
			`{"type":"project","id":"p.1","name":"P"}`,
			Resource{Type: "project", ID: "p.1", Name: "P"},
		},
		{
			"put resources",
			func(c *Client) (any, error) { return nil, c.PutResources(ctx, []Resource{{Type: "a", ID: "1"}}) },
			seen{"PUT", "/resources", "application/json", "", `[{"type":"a","id":"1"}]`},
			`{"resources":1}`, nil,
		},
		{
			"put no resources",
			func(c *Client) (any, error) { return nil, c.PutResources(ctx, nil) },
			seen{"PUT", "/resources", "application/json", "", `[]`},
			`{"resources":0}`, nil,
		},
		{
			"delete resource",
			func(c *Client) (any, error) { return nil, c.DeleteResource(ctx, "project", "p1") },
			seen{"DELETE", "/resources/project/p1", "", "", ""},
			"", nil,
		},
		{
			"create subscription, all of it",
			func(c *Client) (any, error) {
				return c.CreateSubscription(ctx, SubscriptionInput{
					DataCallbackURL: "https://x/?a=b&c=d", ExportFormat: "application/json", NumberOfRecords: 1, MaxWaitSeconds: &wait,
					Resource: "a/1", Events: []string{"a.*"}, Payload: "data", Method: "PUT",
					Authentication: &Authentication{Type: "basic", Username: "u", Password: "p"},
					SigningSecret:  "whsec_x",
					Delivery:       &DeliveryPolicy{TimeoutSeconds: 1.5, RetrySchedule: Schedule{Waits: []string{"1s", "2s"}}, MaxConcurrency: 3},
				})
			},
			seen{"POST", "/subscriptions", "application/json", "", `{"dataCallbackURL":"https://x/?a=b&c=d","exportFormat":"application/json","numberOfRecords":1,` +
				`"maxWaitSeconds":0,"resource":"a/1","events":["a.*"],"payload":"data","method":"PUT",` +
				`"authentication":{"type":"basic","username":"u","password":"p"},"signingSecret":"whsec_x",` +
				`"delivery":{"timeoutSeconds":1.5,"retrySchedule":["1s","2s"],"maxConcurrency":3}}`},
			`{"id":"s1","signingSecretSet":true,"state":"active","delivery":{"retrySchedule":"quick"},` +
				`"authentication":{"type":"basic","username":"u","passwordSet":true}}`,
			Subscription{
				ID: "s1", SigningSecretSet: true, State: StateActive, Delivery: &DeliveryPolicy{RetrySchedule: Schedule{Name: "quick"}},
				Authentication: &AuthenticationInfo{Type: "basic", Username: "u", PasswordSet: true},
			},
		},
		{
			"create subscription, least",
			func(c *Client) (any, error) {
				return c.CreateSubscription(ctx, SubscriptionInput{DataCallbackURL: "https://x/", Unsigned: true})
			},
			seen{"POST", "/subscriptions", "application/json", "", `{"dataCallbackURL":"https://x/","signingSecret":null}`},
			`{"id":"s1"}`,
			Subscription{ID: "s1"},
		},
		{
			"subscription",
			func(c *Client) (any, error) { return c.Subscription(ctx, "s1") },
			seen{"GET", "/subscriptions/s1", "", "", ""},
			`{"id":"s1","delivery":{"retrySchedule":["5s","1m"]}}`,
			Subscription{ID: "s1", Delivery: &DeliveryPolicy{RetrySchedule: Schedule{Waits: []string{"5s", "1m"}}}},
		},
		{
			"replace subscription",
			func(c *Client) (any, error) {
				return c.ReplaceSubscription(ctx, "s1", SubscriptionInput{
					DataCallbackURL: "https://x/", Delivery: &DeliveryPolicy{RetrySchedule: Schedule{Name: "day"}},
				})
			},
			seen{"PUT", "/subscriptions/s1", "application/json", "", `{"dataCallbackURL":"https://x/","delivery":{"retrySchedule":"day"}}`},
			`{"id":"s1"}`,
			Subscription{ID: "s1"},
		},
		{
			"patch subscription",
			func(c *Client) (any, error) {
				return c.PatchSubscription(ctx, "s1", map[string]any{"events": []string{"b.*"}, "resource": nil})
			},
			seen{"PATCH", "/subscriptions/s1", "application/merge-patch+json", "", `{"events":["b.*"],"resource":null}`},
			`{"id":"s1"}`,
			Subscription{ID: "s1"},
		},
		{
			"delete subscription",
			func(c *Client) (any, error) { return nil, c.DeleteSubscription(ctx, "s1") },
			seen{"DELETE", "/subscriptions/s1", "", "", ""},
			"", nil,
		},
		{
			"enable",
			func(c *Client) (any, error) { return c.EnableSubscription(ctx, "s1") },
			seen{"POST", "/subscriptions/s1/enable", "", "", ""},
			`{"id":"s1","state":"active"}`,
			Subscription{ID: "s1", State: StateActive},
		},
		{
			"pause",
			func(c *Client) (any, error) { return c.PauseSubscription(ctx, "s1") },
			seen{"POST", "/subscriptions/s1/pause", "", "", ""},
			`{"id":"s1","state":"paused"}`,
			Subscription{ID: "s1", State: StatePaused},
		},
		{
			"rotate secret",
			func(c *Client) (any, error) { return c.RotateSecret(ctx, "s1") },
			seen{"POST", "/subscriptions/s1/secret", "", "", ""},
			`{"signingSecret":"whsec_y"}`, "whsec_y",
		},
		{
			"ping",
			func(c *Client) (any, error) { return c.Ping(ctx, "s1") },
			seen{"POST", "/subscriptions/s1/ping", "", "", ""},
			`{"id":"evt_1"}`, "evt_1",
		},
		{
			"retry dead",
			func(c *Client) (any, error) { return c.RetryDead(ctx, "s1", DeadSelection{}) },
			seen{"POST", "/subscriptions/s1/retry", "application/json", "", `{}`},
			`{"retried":3}`, 3,
		},
		{
			"retry some dead",
			func(c *Client) (any, error) {
				return c.RetryDead(ctx, "s1", DeadSelection{ReasonExpired, "task.create", at, at.Add(time.Hour), 2.5})
			},
			seen{
				"POST", "/subscriptions/s1/retry", "application/json", "",
				`{"reason":"expired","type":"task.create","since":"2026-11-22T08:00:00.005Z","until":"2026-11-22T09:00:00.005Z","rate":2.5}`,
			},
			`{"retried":3}`, 3,
		},
		{
			"count dead",
			func(c *Client) (any, error) { return c.CountDead(ctx, "s1", DeadSelection{Reason: ReasonExhausted}) },
			seen{"POST", "/subscriptions/s1/retry", "application/json", "", `{"reason":"exhausted","dryRun":true}`},
			`{"count":4}`, 4,
		},
		{
			"replay of a day",
			func(c *Client) (any, error) { return c.Replay(ctx, "s1", ReplayInput{Date: "2026-11-21"}) },
			seen{"POST", "/subscriptions/s1/replay", "application/json", "", `{"date":"2026-11-21"}`},
			`{"id":"r1","state":"running","since":"2026-11-22T08:00:00Z","until":"2026-11-22T08:00:01Z","rate":1000,"deliveries":0,"createdAt":"2026-11-22T08:00:02Z"}`,
			Replay{ID: "r1", State: ReplayRunning, Since: second(0), Until: second(1), Rate: 1000, CreatedAt: second(2)},
		},
		{
			"replay of what failed",
			func(c *Client) (any, error) {
				return c.Replay(ctx, "s1", ReplayInput{Since: at, Until: at.Add(time.Hour), Failed: true, Rate: 2.5})
			},
			seen{
				"POST", "/subscriptions/s1/replay", "application/json", "",
				`{"since":"2026-11-22T08:00:00.005Z","until":"2026-11-22T09:00:00.005Z","outcome":"failed","rate":2.5}`,
			},
			`{"id":"r1","outcome":"failed","rate":2.5}`,
			Replay{ID: "r1", Outcome: "failed", Rate: 2.5},
		},
		{
			"count replay",
			func(c *Client) (any, error) { return c.CountReplay(ctx, "s1", ReplayInput{Since: at}) },
			seen{"POST", "/subscriptions/s1/replay", "application/json", "", `{"since":"2026-11-22T08:00:00.005Z","dryRun":true}`},
			`{"count":4}`, 4,
		},
		{
			"replays",
			func(c *Client) (any, error) { return collect(c.Replays(ctx, "s1")) },
			seen{"GET", "/subscriptions/s1/replays", "", "", ""},
			`[{"id":"r2"},{"id":"r1"}]`,
			[]Replay{{ID: "r2"}, {ID: "r1"}},
		},
		{
			"one replay",
			func(c *Client) (any, error) { return c.ReplayByID(ctx, "s1", "r/1") },
			seen{"GET", "/subscriptions/s1/replays/r%2F1", "", "", ""},
			`{"id":"r/1","state":"done","deliveries":7,"reachedAt":"2026-11-22T08:00:03Z","endedAt":"2026-11-22T08:00:04Z"}`,
			Replay{ID: "r/1", State: ReplayDone, Deliveries: 7, ReachedAt: second(3), EndedAt: second(4)},
		},
		{
			"cancel replay",
			func(c *Client) (any, error) { return nil, c.CancelReplay(ctx, "s1", "r1") },
			seen{"DELETE", "/subscriptions/s1/replays/r1", "", "", ""},
			"", nil,
		},
		{
			"status",
			func(c *Client) (any, error) { return c.SubscriptionStatus(ctx, "s1") },
			seen{"GET", "/subscriptions/s1/status", "", "", ""},
			`{"state":"active","stateSince":"2026-11-22T08:00:00Z","deliveries":{"pending":1,"retrying":2,"delivering":3,"dead":4,"held":5},` +
				`"oldestPendingAt":"2026-11-22T08:00:01Z","nextRetryAt":"2026-11-22T08:00:02Z","breaker":{"state":"half-open","since":"2026-11-22T08:00:03Z",` +
				`"failures":6,"failingSince":"2026-11-22T08:00:04Z","nextProbeAt":"2026-11-22T08:00:05Z"},"concurrency":{"inFlight":7,"window":8,"max":9},` +
				`"restUntil":"2026-11-22T08:00:06Z","catchingUp":true,"batchLimit":11,"disableAt":"2026-11-22T08:00:07Z","failuresLeft":10,"warnedPercent":50}`,
			Status{
				State: StateActive, StateSince: second(0), Deliveries: DeliveryCounts{1, 2, 3, 4, 5},
				OldestPendingAt: second(1), NextRetryAt: second(2),
				Breaker:     Breaker{BreakerHalfOpen, second(3), 6, second(4), second(5)},
				Concurrency: Concurrency{7, 8, 9}, RestUntil: second(6), CatchingUp: true, BatchLimit: 11,
				DisableAt: second(7), FailuresLeft: 10, WarnedPercent: 50,
			},
		},
		{
			"create by policy",
			func(c *Client) (any, error) {
				return c.CreateSubscription(ctx, SubscriptionInput{
					DataCallbackURL: "u", NumberOfRecords: 100, Filter: json.RawMessage(`{ "a<b":1.50}`),
					Delivery: &DeliveryPolicy{
						RateLimit: 0.5, RateBurst: 3, Ordering: OrderKey, OrderingKey: "customer.id",
						DisableAfter: &DisableAfter{Duration: "5d", Failures: 9}, OnDisabled: OnDisabledDiscard,
					},
				})
			},
			seen{
				"POST", "/subscriptions", "application/json", "", `{"dataCallbackURL":"u","numberOfRecords":100,"filter":{"a<b":1.50},"delivery":{"rateLimit":0.5,` +
					`"rateBurst":3,"ordering":"key","orderingKey":"customer.id","disableAfter":{"duration":"5d","failures":9},"onDisabled":"discard"}}`,
			},
			`{"id":"s1","filter":{"a<b":1.50},"delivery":{"rateLimit":0.5,"disableAfter":{"duration":"120h"}}}`,
			Subscription{
				ID: "s1", Filter: json.RawMessage(`{"a<b":1.50}`),
				Delivery: &DeliveryPolicy{RateLimit: 0.5, DisableAfter: &DisableAfter{Duration: "120h"}},
			},
		},
		{
			"never disabled",
			func(c *Client) (any, error) {
				return c.ReplaceSubscription(ctx, "s1", SubscriptionInput{DataCallbackURL: "u", Delivery: &DeliveryPolicy{DisableAfter: &DisableAfter{}}})
			},
			seen{"PUT", "/subscriptions/s1", "application/json", "", `{"dataCallbackURL":"u","delivery":{"disableAfter":{}}}`},
			`{"id":"s1","delivery":{"disableAfter":{}}}`,
			Subscription{ID: "s1", Delivery: &DeliveryPolicy{DisableAfter: &DisableAfter{}}},
		},
		{
			"publish keeps the data byte for byte",
			func(c *Client) (any, error) {
				return c.Publish(ctx, Event{ID: "e1", Type: "a.b", Resource: "a/1", Time: at, Data: []byte("{ \"n\":1.50,\n\"h\":\"<&>ü\" }")})
			},
			seen{"POST", "/events", "application/json", "", `{"id":"e1","type":"a.b","resource":"a/1","time":"2026-11-22T09:00:00.005+01:00","data":{ "n":1.50,` + "\n" + `"h":"<&>ü" }}`},
			`{"id":"e1"}`, "e1",
		},
		{
			"publish does not send what the daemon sets",
			func(c *Client) (any, error) {
				return c.Publish(ctx, Event{Type: "a.b", Data: []byte("{}"), AccountID: "x", AcceptedAt: at, Deliveries: []Delivery{{ID: "d"}}})
			},
			seen{"POST", "/events", "application/json", "", `{"type":"a.b","data":{}}`},
			`{"id":"evt_1"}`, "evt_1",
		},
		{
			"publish batch",
			func(c *Client) (any, error) {
				return c.PublishBatch(ctx, Batch{Events: []Event{{Type: "a", Data: []byte("{}")}, {Type: "b", Data: []byte("{ }")}}, IdempotencyKey: "k 1"})
			},
			seen{"POST", "/events", "application/json", "k 1", `[{"type":"a","data":{}},{"type":"b","data":{ }}]`},
			`[{"id":"1"},{"id":"2"}]`,
			[]string{"1", "2"},
		},
		{
			"publish lines",
			func(c *Client) (any, error) { return c.PublishLines(ctx, strings.NewReader("{}\n\n{}"), "k") },
			seen{"POST", "/events", "application/x-ndjson", "k", "{}\n\n{}"},
			`[{"id":"1"},{"id":"2"}]`,
			[]string{"1", "2"},
		},
		{
			"event",
			func(c *Client) (any, error) { return c.Event(ctx, "e/1") },
			seen{"GET", "/events/e%2F1", "", "", ""},
			`{"id":"e/1","type":"a","data":{ "x":1 },"deliveries":[{"id":"dlv_1","state":"dead"}]}`,
			Event{ID: "e/1", Type: "a", Data: []byte(`{ "x":1 }`), Deliveries: []Delivery{{ID: "dlv_1", State: DeliveryDead}}},
		},
		{
			"delivery",
			func(c *Client) (any, error) { return c.Delivery(ctx, "dlv_1") },
			seen{"GET", "/deliveries/dlv_1", "", "", ""},
			`{"id":"dlv_1","attemptCount":1,"attempts":[{"number":1,"time":"2026-11-22T08:00:00Z","durationMs":1.25,"status":500,"outcome":"retry","error":"e","response":"r"}]}`,
			Delivery{ID: "dlv_1", AttemptCount: 1, Attempts: []Attempt{{
				Number: 1, Time: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), DurationMs: 1.25, Status: 500, Outcome: "retry", Error: "e", Response: "r",
			}}},
		},
		{
			"retry delivery",
			func(c *Client) (any, error) { return c.RetryDelivery(ctx, "dlv_1") },
			seen{"POST", "/deliveries/dlv_1/retry", "", "", ""},
			`{"id":"dlv_1","state":"pending"}`,
			Delivery{ID: "dlv_1", State: DeliveryPending},
		},
		{
			"health",
			func(c *Client) (any, error) { return nil, c.Health(ctx) },
			seen{"GET", "/healthz", "", "", ""},
			`{"status":"ok"}`, nil,
		},
		{
			"ready",
			func(c *Client) (any, error) { return nil, c.Ready(ctx) },
			seen{"GET", "/readyz", "", "", ""},
			`{"status":"ok"}`, nil,
		},
		{
			"metrics",
			func(c *Client) (any, error) { return c.Metrics(ctx) },
			seen{"GET", "/metrics", "", "", ""},
			"a 1\n", []byte("a 1\n"),
		},
		{
			"validation",
			func(c *Client) (any, error) { return c.RequestValidation(ctx, "s1") },
			seen{"POST", "/subscriptions/s1/validation", "", "", ""},
			`{"attempts":1}`,
			Validation{Attempts: 1},
		},
		{
			"confirmation",
			func(c *Client) (any, error) { return nil, c.ConfirmSubscription(ctx, "s1", "1.x") },
			seen{"POST", "/subscriptions/s1/confirmation", "application/json", "", `{"signature":"1.x"}`},
			"", nil,
		},
		{
			"certificates",
			func(c *Client) (any, error) { return c.Certificates(ctx) },
			seen{"GET", "/certificates/default", "", "", ""},
			"PEM", []byte("PEM"),
		},
		{
			"document",
			func(c *Client) (any, error) { return c.OpenAPI(ctx) },
			seen{"GET", "/openapi.json", "", "", ""},
			"{}", []byte("{}"),
		},
		{
			"accounts",
			func(c *Client) (any, error) { return collect(c.Accounts(ctx)) },
			seen{"GET", "/accounts", "", "", ""},
			`[]`, []Account(nil),
		},
		{
			"tokens",
			func(c *Client) (any, error) { return collect(c.Tokens(ctx)) },
			seen{"GET", "/tokens", "", "", ""},
			`[{"id":"tok_1"},{"id":"tok_2"}]`,
			[]Token{{ID: "tok_1"}, {ID: "tok_2"}},
		},
		{
			"resources",
			func(c *Client) (any, error) { return collect(c.Resources(ctx, "a b")) },
			seen{"GET", "/resources?type=a+b", "", "", ""},
			`[{"type":"a b","id":"1"}]`,
			[]Resource{{Type: "a b", ID: "1"}},
		},
		{
			"subscriptions",
			func(c *Client) (any, error) { return collect(c.Subscriptions(ctx)) },
			seen{"GET", "/subscriptions", "", "", ""},
			`[{"id":"s1"}]`,
			[]Subscription{{ID: "s1"}},
		},
		{
			"events",
			func(c *Client) (any, error) { return collect(c.Events(ctx, EventFilter{After: "e9", PageSize: 5})) },
			seen{"GET", "/events?after=e9&limit=5", "", "", ""},
			`[{"id":"e8"}]`,
			[]Event{{ID: "e8"}},
		},
		{
			"deliveries",
			func(c *Client) (any, error) {
				return collect(c.Deliveries(ctx, DeliveryFilter{Subscription: "s1", Event: "e1", State: DeliveryDead, Since: at, After: "d9", PageSize: 2}))
			},
			seen{"GET", "/deliveries?after=d9&event=e1&limit=2&since=2026-11-22T08%3A00%3A00.005Z&state=dead&subscription=s1", "", "", ""},
			`[{"id":"d8"}]`,
			[]Delivery{{ID: "d8"}},
		},
		{
			"create implementation",
			func(c *Client) (any, error) {
				return c.CreateImplementation(ctx, ImplementationInput{
					ID: "app", Android: &AndroidInput{json.RawMessage(`{"a":1}`)}, IOS: &IOSInput{Certificate: []byte("x"), Password: "p"}, Web: &WebInput{VAPID: VAPIDInput{Subject: "mailto:a@b.example"}},
				})
			},
			seen{"POST", "/implementations", "application/json", "", `{"id":"app","android":{"serviceAccount":{"a":1}},"ios":{"certificate":"eA==","password":"p"},"web":{"vapid":{"subject":"mailto:a@b.example"}}}`},
			`{"id":"app","android":{"serviceAccount":{"project_id":"p"}},"status":[{"platform":"android","provider":"fcm","state":"active","waiting":3}],"statusSigningSecret":"whsec_x"}`,
			Implementation{
				ID: "app", Android: &AndroidInfo{&ServiceAccountInfo{ProjectID: "p"}},
				Status: []PlatformStatus{{Platform: "android", Provider: "fcm", State: "active", Waiting: 3}}, StatusSigningSecret: "whsec_x",
			},
		},
		{
			"implementation",
			func(c *Client) (any, error) { return c.Implementation(ctx, "app") },
			seen{"GET", "/implementations/app", "", "", ""},
			`{"id":"app","ios":{"provider":"fcm"}}`,
			Implementation{ID: "app", IOS: &IOSInfo{Provider: "fcm"}},
		},
		{
			"implementations",
			func(c *Client) (any, error) { return collect(c.Implementations(ctx)) },
			seen{"GET", "/implementations", "", "", ""},
			`[{"id":"app"}]`,
			[]Implementation{{ID: "app"}},
		},
		{
			"patch implementation",
			func(c *Client) (any, error) { return c.PatchImplementation(ctx, "app", map[string]any{"web": nil}) },
			seen{"PATCH", "/implementations/app", "application/merge-patch+json", "", `{"web":null}`},
			`{"id":"app"}`,
			Implementation{ID: "app"},
		},
		{
			"delete implementation",
			func(c *Client) (any, error) { return nil, c.DeleteImplementation(ctx, "app") },
			seen{"DELETE", "/implementations/app", "", "", ""},
			"", nil,
		},
		{
			"register device",
			func(c *Client) (any, error) {
				return nil, c.RegisterDevice(ctx, DeviceIOS, Registration{ContactID: "+31", ImplementationID: "app", Token: "aa", Replaces: "bb", Locale: "nl"})
			},
			seen{"POST", "/messages/ios", "application/json", "", `{"routeeContactId":"+31","token":"aa","implementationId":"app","replaces":"bb","locale":"nl"}`},
			`{"routeeContactId":"+31"}`, nil,
		},
		{
			"devices",
			func(c *Client) (any, error) { return collect(c.Devices(ctx, "a/b", "app")) },
			seen{"GET", "/contacts/a%2Fb/devices?implementationId=app", "", "", ""},
			`[{"id":"dev_1","tokenHint":"x"}]`,
			[]Device{{ID: "dev_1", TokenHint: "x"}},
		},
		{
			"device",
			func(c *Client) (any, error) { return c.Device(ctx, "dev_1") },
			seen{"GET", "/devices/dev_1", "", "", ""},
			`{"id":"dev_1"}`,
			Device{ID: "dev_1"},
		},
		{
			"delete device",
			func(c *Client) (any, error) { return nil, c.DeleteDevice(ctx, "dev_1") },
			seen{"DELETE", "/devices/dev_1", "", "", ""},
			"", nil,
		},
		{
			"delete contact",
			func(c *Client) (any, error) { return nil, c.DeleteContact(ctx, "+31") },
			seen{"DELETE", "/contacts/+31", "", "", ""},
			"", nil,
		},
		{
			"send message",
			func(c *Client) (any, error) {
				return c.SendMessage(ctx, Message{ImplementationID: "app", ContactID: "c", IdempotencyKey: "k", Notification: Notification{Body: &NotificationBody{Title: "T"}}})
			},
			seen{"POST", "/messages", "application/json", "", `{"implementationId":"app","routeeContactId":"c","body":{"title":"T"},"idempotencyKey":"k"}`},
			`{"trackingId":"evt_1"}`, "evt_1",
		},
		{
			"try message to many",
			func(c *Client) (any, error) {
				return c.TryMessage(ctx, Message{ImplementationID: "app", Contacts: []string{"c"}, Notification: Notification{Silent: true}})
			},
			seen{"POST", "/messages/multicast", "application/json", "", `{"implementationId":"app","contacts":["c"],"silent":true,"dryRun":true}`},
			`{"dryRun":true,"devices":2,"payloadBytes":{"ios":9}}`,
			DryRun{2, map[string]int{"ios": 9}},
		},
		{
			"message",
			func(c *Client) (any, error) { return c.Message(ctx, "evt_1", "5", 10) },
			seen{"GET", "/messages/evt_1?after=5&limit=10", "", "", ""},
			`{"trackingId":"evt_1","status":"SENT","devices":[{"deviceId":"dev_1","status":"SENT","statuses":[{"status":"QUEUED"}]}],"next":"15"}`,
			MessageStatus{
				TrackingID: "evt_1", Status: MessageSent, Next: "15",
				Devices: []MessageDevice{{DeviceID: "dev_1", Status: MessageSent, Statuses: []StatusInfo{{Status: MessageQueued}}}},
			},
		},
		{
			"create subscription that notifies",
			func(c *Client) (any, error) {
				return c.CreateSubscription(ctx, SubscriptionInput{Notification: &NotificationTemplate{ImplementationID: "app", ContactID: "{{id}}"}})
			},
			seen{"POST", "/subscriptions", "application/json", "", `{"notification":{"implementationId":"app","routeeContactId":"{{id}}"}}`},
			`{"id":"s1","notification":{"implementationId":"app","routeeContactId":"{{id}}","ttl":5}}`,
			Subscription{ID: "s1", Notification: &NotificationTemplate{ImplementationID: "app", ContactID: "{{id}}", Notification: Notification{TTL: new(5)}}},
		},
	} {
		for name, call := range left {
			if call.MatchString(c.want.method + " " + c.want.target) {
				delete(left, name)
			}
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got seen
			api := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got = seen{r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Idempotency-Key"), string(body)}
				if a := r.Header.Get("Authorization"); a != "Bearer t0" {
					t.Errorf("Authorization: %q", a)
				}
				if c.answer == "" {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				_, _ = io.WriteString(w, c.answer)
			})
			result, err := c.call(api)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("sent\n%+v, want\n%+v", got, c.want)
			}
			if !reflect.DeepEqual(result, c.result) {
				t.Errorf("returned\n%+v, want\n%+v", result, c.result)
			}
		})
	}
	for name := range left {
		t.Errorf("no call of this client is %s", name)
	}
}

// operations are the calls that the daemon describes, with what their requests look like: but those of version 1.1, and the permission
// of a receiver, which is given the whole URL and has only to follow it.
func operations(t *testing.T) map[string]*regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash("../api/openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*regexp.Regexp)
	for path, item := range document.Paths {
		for method, text := range item {
			var o struct {
				Deprecated  bool
				OperationID string
			}
			if json.Unmarshal(text, &o) == nil && o.OperationID != "" && !o.Deprecated && !strings.HasPrefix(o.OperationID, "permitSubscription") {
				name := strings.ToUpper(method) + " " + path
				all[name] = regexp.MustCompile("^" + regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(name), `[^/?]+`) + `(\?.*)?$`)
			}
		}
	}
	return all
}

func TestCallsRefusedHere(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var calls atomic.Int32
	c := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	for name, call := range map[string]func() error{
		"empty id":            func() error { return c.DeleteSubscription(ctx, "") },
		"dot":                 func() error { return c.DeleteAccount(ctx, ".") },
		"two dots":            func() error { return c.DeleteResource(ctx, "project", "..") },
		"empty resource type": func() error { _, err := c.PutResource(ctx, Resource{ID: "x"}); return err },
		"empty account":       func() error { _, err := c.Account(ctx, ""); return err },
		"update no account":   func() error { _, err := c.UpdateAccount(ctx, "", AccountPatch{}); return err },
		"empty token":         func() error { return c.DeleteToken(ctx, "") },
		"empty subscription":  func() error { _, err := c.Subscription(ctx, ""); return err },
		"replace nothing":     func() error { _, err := c.ReplaceSubscription(ctx, "", SubscriptionInput{}); return err },
		"patch nothing":       func() error { _, err := c.PatchSubscription(ctx, "", nil); return err },
		"status of nothing":   func() error { _, err := c.SubscriptionStatus(ctx, ""); return err },
		"retry nothing":       func() error { _, err := c.RetryDead(ctx, "", DeadSelection{}); return err },
		"replay to nothing":   func() error { _, err := c.Replay(ctx, "", ReplayInput{}); return err },
		"count to nothing":    func() error { _, err := c.CountReplay(ctx, "", ReplayInput{}); return err },
		"replays of nothing":  func() error { _, err := collect(c.Replays(ctx, "")); return err },
		"no replay":           func() error { _, err := c.ReplayByID(ctx, "s1", ""); return err },
		"cancel no replay":    func() error { return c.CancelReplay(ctx, "s1", "") },
		"broken filter": func() error {
			_, err := c.CreateSubscription(ctx, SubscriptionInput{Filter: json.RawMessage(`{},"method":"GET"`)})
			return err
		},
		"ping nothing": func() error { _, err := c.Ping(ctx, ""); return err },
		"event":        func() error { _, err := c.Event(ctx, ""); return err },
		"delivery":     func() error { _, err := c.Delivery(ctx, ""); return err },
		"retry":        func() error { _, err := c.RetryDelivery(ctx, ""); return err },
		"no data":      func() error { _, err := c.Publish(ctx, Event{Type: "a"}); return err },
		"broken data": func() error {
			_, err := c.PublishBatch(ctx, Batch{Events: []Event{{Type: "a", Data: []byte(`{},"id":"x"`)}}})
			return err
		},
		"unencodable patch": func() error { _, err := c.PatchSubscription(ctx, "s1", func() {}); return err },
		"signed and unsigned": func() error {
			_, err := c.CreateSubscription(ctx, SubscriptionInput{SigningSecret: "whsec_", Unsigned: true})
			return err
		},
		"year 10000": func() error {
			_, err := c.Publish(ctx, Event{Type: "a", Data: []byte("{}"), Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)})
			return err
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    Options
		want map[string]string
	}{
		{Options{}, map[string]string{"Authorization": "", "Herald-Account": "", "User-Agent": "herald-client"}},
		{
			Options{Token: "x", Account: "a1", UserAgent: "me/1"},
			map[string]string{"Authorization": "Bearer x", "Herald-Account": "a1", "User-Agent": "me/1"},
		},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for name, want := range c.want {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if r.URL.Path != "/prefix/healthz" {
				t.Errorf("path %s", r.URL.Path)
			}
		}))
		o := c.o
		o.BaseURL = s.URL + "/prefix/"
		api, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := api.Health(t.Context()); err != nil {
			t.Error(err)
		}
		s.Close()
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, contentType, body string
		status                  int
		retryAfter              string
		want                    Problem
	}{
		{
			"whole", "application/problem+json; charset=utf-8",
			`{"title":"Bad request","statusCode":400,"detail":"two","instance":"/events","errors":[{"field":"a","detail":"b"},{"field":"c","detail":"d"}]}`,
			400, "",
			Problem{
				Title: "Bad request", StatusCode: 400, Detail: "two", Instance: "/events",
				Errors: []FieldError{{"a", "b"}, {"c", "d"}},
			},
		},
		{
			"the status counts, not what the body claims", "application/problem+json", `{"title":"T","statusCode":200,"detail":"x","instance":"/i"}`,
			503, "7",
			Problem{Title: "T", StatusCode: 503, Detail: "x", Instance: "/i", RetryAfter: 7 * time.Second},
		},
		{
			"a proxy's page", "text/html", `<h1>Bad gateway</h1>`, 502, "", Problem{
				Title: "Bad Gateway", StatusCode: 502, Instance: "/healthz",
				Detail: "the answer is no problem document: this may not be Herald, or a proxy answered in its place",
			},
		},
		{
			"broken JSON", "application/problem+json", `{"title":`, 500, "", Problem{
				Title: "Internal Server Error", StatusCode: 500, Instance: "/healthz",
				Detail: "the answer is no problem document: this may not be Herald, or a proxy answered in its place",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			api := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			err := api.Health(t.Context())
			p, ok := errors.AsType[*Problem](err)
			if !ok {
				t.Fatalf("error %T %v, want a *Problem", err, err)
			}
			if !reflect.DeepEqual(*p, c.want) {
				t.Errorf("got\n%+v, want\n%+v", *p, c.want)
			}
		})
	}
	p := &Problem{Title: "Bad", StatusCode: 400, Detail: "two", Errors: []FieldError{{"a", "b"}, {"c", "d"}}}
	if got, want := p.Error(), "400 Bad: two (a: b; c: d)"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	p = &Problem{Title: "Bad", StatusCode: 400, Detail: "scopes: are wrong", Errors: []FieldError{{"scopes", "are wrong"}}}
	if got, want := p.Error(), "400 Bad: scopes: are wrong"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "3": 3 * time.Second, "-3": 0, "x": 0, "1.5": 0,
		"99999999999999999999":          0,
		"2147483647":                    time.Hour,
		"Sun, 22 Nov 2026 08:00:30 GMT": 30 * time.Second,
		"Sun, 22 Nov 2026 07:00:00 GMT": 0,
		"Sun, 22 Nov 2099 07:00:00 GMT": time.Hour,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", text, got, want)
		}
	}
}

// A redirect must not take the token to another host, whoever's http.Client is used.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var visits atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	t.Cleanup(other.Close)
	s := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusPermanentRedirect))
	t.Cleanup(s.Close)
	followed := false
	own := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { followed = true; return nil }}
	for _, h := range []*http.Client{nil, own} {
		c, err := New(Options{BaseURL: s.URL, Token: "t0", HTTPClient: h})
		if err != nil {
			t.Fatal(err)
		}
		p, ok := errors.AsType[*Problem](c.Health(t.Context()))
		if !ok || p.StatusCode != http.StatusPermanentRedirect || !strings.Contains(p.Detail, "redirect") {
			t.Errorf("got %v, want a problem with status 308", p)
		}
	}
	if n := visits.Load(); n != 0 || followed {
		t.Errorf("the redirect was followed %d times, own check asked: %t", n, followed)
	}
	if err := own.CheckRedirect(nil, nil); err != nil {
		t.Error("the caller's http.Client was changed")
	}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "h.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "localhost" || r.Header.Get("Authorization") != "" {
			t.Errorf("host %q, authorization %q", r.Host, r.Header.Get("Authorization"))
		}
		_, _ = io.WriteString(w, `[{"id":"tok_1"}]`)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	c, err := New(Options{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	if c.Address() != path {
		t.Errorf("Address() = %q", c.Address())
	}
	if got, err := collect(c.Tokens(t.Context())); err != nil || len(got) != 1 {
		t.Errorf("Tokens = %v, %v", got, err)
	}
	c.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-done
	unreachable(t, c, path, syscall.ENOENT) // closing the listener removed the file
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(nil)
	address := s.URL
	s.Close()
	c, err := New(Options{BaseURL: address})
	if err != nil {
		t.Fatal(err)
	}
	unreachable(t, c, address, syscall.ECONNREFUSED)
}

func unreachable(t *testing.T, c *Client, address string, cause error) {
	t.Helper()
	err := c.Health(t.Context())
	u, ok := errors.AsType[*UnreachableError](err)
	if !ok || u.Address != address || !errors.Is(err, cause) || !strings.Contains(err.Error(), address) {
		t.Errorf("error %v (%T), want an UnreachableError for %s with %v", err, err, address, cause)
	}
}

func TestContextEndsCall(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/tokens" {
			_, _ = io.WriteString(w, `[{"id":"tok_1"},`)
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	})
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for _, err := range c.Tokens(ctx) {
		if last = err; err == nil {
			n++
			cancel() // in the middle of the list
		}
	}
	if n != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d tokens, then %v", n, last)
	}
	if err := c.Health(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Health: %v", err)
	}
}

func TestAnswerThatIsNotJSON(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "<html>", `{"id":`, `{"id":5}`, `[]`} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if a, err := c.Account(t.Context(), "a1"); err == nil {
			t.Errorf("answer %q: got %+v", body, a)
		}
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) })
	if s, err := c.RotateSecret(t.Context(), "s1"); err == nil {
		t.Errorf("RotateSecret without a secret in the answer: %q", s)
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	m := &meter{r: strings.NewReader(strings.Repeat("x", 100)), left: 10}
	b, err := io.ReadAll(m)
	if len(b) != 10 || !errors.Is(err, errTooLarge) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	m = &meter{r: strings.NewReader("0123456789"), left: 11}
	if b, err := io.ReadAll(m); len(b) != 10 || err != nil {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	d := json.NewDecoder(&meter{r: strings.NewReader(`"` + strings.Repeat("x", 1000) + `"`), left: 500})
	var s string
	if err := d.Decode(&s); !errors.Is(err, errTooLarge) {
		t.Errorf("decoding beyond the limit: %v", err)
	}
}

func TestMetricsLimit(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		line := strings.Repeat("x", 1<<20)
		for range 18 {
			if _, err := io.WriteString(w, line); err != nil {
				return // the client has had enough, as it should
			}
		}
	})
	if b, err := c.Metrics(t.Context()); !errors.Is(err, errTooLarge) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}

func FuzzProblem(f *testing.F) {
	f.Add("application/problem+json", `{"title":"T","detail":"d","errors":[{"field":"a"}]}`, "5", 400)
	f.Add("text/html", "<html>", "", 302)
	f.Add("application/json", `[]`, "Sun, 22 Nov 2026 08:00:30 GMT", 599)
	f.Fuzz(func(t *testing.T, contentType, body, after string, status int) {
		u, err := url.Parse("http://host/x")
		if err != nil {
			t.Fatal(err)
		}
		p := problem(&http.Response{
			StatusCode: status, Header: http.Header{"Content-Type": {contentType}, "Retry-After": {after}},
			Body: io.NopCloser(strings.NewReader(body)), Request: &http.Request{URL: u},
		})
		if p.StatusCode != status || p.Instance == "" || p.RetryAfter < 0 || p.RetryAfter > longestRetryAfter {
			t.Errorf("%+v", p)
		}
		if p.Error() == "" {
			t.Error("no text")
		}
	})
}

// What is called with the context of a trace says so, and nothing else does.
func TestWithTrace(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(r.Header.Values("traceparent"), r.Header.Values("tracestate")...)
		_, _ = io.WriteString(w, `{"id":"e1"}`)
	})
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, x := range []struct {
		ctx  context.Context
		want []string
	}{
		{t.Context(), nil},
		{WithTrace(t.Context(), "", "a=1"), nil},
		{WithTrace(t.Context(), parent, ""), []string{parent}},
		{WithTrace(t.Context(), parent, "a=1"), []string{parent, "a=1"}},
	} {
		if _, err := c.Publish(x.ctx, Event{Type: "task.create", Data: json.RawMessage("{}")}); err != nil || !slices.Equal(got, x.want) {
			t.Errorf("sent %q, want %q (%v)", got, x.want, err)
		}
	}
}
