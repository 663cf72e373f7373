package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"herald/daemon"
	"herald/daemon/client"
	"herald/daemon/config"
)

// serve runs a real daemon and returns a client with admin rights over its socket, and its address.
func serve(t *testing.T) (*client.Client, string) {
	t.Helper()
	dir := t.TempDir()
	cfg, err := config.Parse("test", []byte("data_dir: "+dir+"\nlisten:\n  address: 127.0.0.1:0\negress:\n  allow_networks: [127.0.0.0/8]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(t.Context(), daemon.Options{Config: cfg, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	admin, err := client.New(client.Options{Socket: filepath.Join(dir, "herald.sock")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		admin.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	until(t, "the daemon is ready", func() bool { return admin.Ready(t.Context()) == nil })
	return admin, "http://" + d.Addr().String()
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func all[T any](t *testing.T, list iter.Seq2[T, error]) []T {
	t.Helper()
	var out []T
	for v, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// status is that of a problem, 0 for any other error or none.
func status(err error) int {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return p.StatusCode
	}
	return 0
}

// Every call, to the daemon that ships: the two agree on paths, members and meaning.
func TestRealDaemon(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	admin, address := serve(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); bytes.Contains(b, []byte("reject")) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "no, thanks")
		}
	}))
	t.Cleanup(receiver.Close)

	if err := admin.Health(ctx); err != nil {
		t.Error(err)
	}
	if page := must[[]byte](t)(admin.Metrics(ctx)); !bytes.Contains(page, []byte("herald_build_info")) {
		t.Error("the metrics are not Herald's")
	}

	// Backup.
	body, size, err := admin.Backup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if b := must[[]byte](t)(io.ReadAll(body)); int64(len(b)) != size || !bytes.HasPrefix(b, []byte("manifest.json")) {
		t.Errorf("a backup of %d bytes has %d", size, len(b))
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}

	// Accounts.
	if a := must[client.Account](t)(admin.CreateAccount(ctx, "acme", "Acme <1>")); a.Name != "Acme <1>" || a.CreatedAt.IsZero() {
		t.Errorf("created %+v", a)
	}
	if _, err := admin.CreateAccount(ctx, "acme", "again"); status(err) != 409 {
		t.Errorf("the same account again: %v", err)
	}
	name := "Acme 2"
	must[client.Account](t)(admin.UpdateAccount(ctx, "acme", client.AccountPatch{Name: &name}))
	must[client.Account](t)(admin.ReplaceAccount(ctx, "acme", "Acme 3", false))
	if a := must[client.Account](t)(admin.Account(ctx, "acme")); a.Name != "Acme 3" {
		t.Errorf("read %+v", a)
	}
	if list := all(t, admin.Accounts(ctx)); len(list) != 2 {
		t.Errorf("accounts: %+v", list)
	}

	// Tokens.
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	token := must[client.Token](t)(admin.CreateToken(ctx, client.NewToken{
		AccountID: "acme", Name: "t", Scopes: []string{client.ScopePublish, client.ScopeSubscribe}, ExpiresAt: expires,
	}))
	if token.Secret == "" || token.AccountID != "acme" || !token.ExpiresAt.Equal(expires) {
		t.Errorf("minted %+v", token)
	}
	for _, x := range all(t, admin.Tokens(ctx)) {
		if x.Secret != "" {
			t.Error("a list shows a token")
		}
	}
	if _, err := admin.CreateToken(ctx, client.NewToken{Scopes: client.Scopes()}); err != nil {
		t.Errorf("a token with every scope: %v", err)
	}
	c := must[*client.Client](t)(client.New(client.Options{BaseURL: address, Token: token.Secret}))
	t.Cleanup(c.Close)
	elsewhere := must[*client.Client](t)(client.New(client.Options{BaseURL: address, Token: token.Secret, Account: "default"}))
	t.Cleanup(elsewhere.Close)
	if _, err := elsewhere.Publish(ctx, client.Event{Type: "a.b", Data: []byte("{}")}); status(err) != 403 {
		t.Errorf("another account without the admin scope: %v", err)
	}

	// Resources.
	must[client.Resource](t)(c.PutResource(ctx, client.Resource{Type: "project", ID: "p1", Name: "One"}))
	if err := c.PutResources(ctx, []client.Resource{{Type: "project", ID: "p2", Name: "Two"}, {Type: "order", ID: "o1"}}); err != nil {
		t.Fatal(err)
	}
	if r := must[client.Resource](t)(c.Resource(ctx, "project", "p2")); r.Type != "project" || r.ID != "p2" {
		t.Errorf("read %+v", r)
	}
	if list := all(t, c.Resources(ctx, "project")); len(list) != 2 {
		t.Errorf("resources: %+v", list)
	}
	if err := c.DeleteResource(ctx, "project", "p1"); err != nil {
		t.Error(err)
	}

	// Subscriptions.
	wait := 0.5
	in := client.SubscriptionInput{
		DataCallbackURL: receiver.URL + "/?a=1&b=2", Resource: "project/p2", Events: []string{"task.*"}, Payload: "data", Method: "PUT",
		ExportFormat: "application/json", NumberOfRecords: 1, MaxWaitSeconds: &wait,
		Authentication: &client.Authentication{Type: "basic", Username: "u", Password: "p"},
		Delivery:       &client.DeliveryPolicy{TimeoutSeconds: 5, RetrySchedule: client.Schedule{Waits: []string{"1s"}}, MaxConcurrency: 2},
	}
	s := must[client.Subscription](t)(c.CreateSubscription(ctx, in))
	if s.SigningSecret == "" || s.State != client.StateActive || s.Delivery.RetrySchedule.Waits[0] != "1s" ||
		s.DataCallbackURL != in.DataCallbackURL || s.Authentication.Username != "u" || !s.Authentication.PasswordSet {
		t.Errorf("created %+v", s)
	}
	if r := must[client.Subscription](t)(c.Subscription(ctx, s.ID)); r.SigningSecret != "" || !r.SigningSecretSet || r.ID != s.ID {
		t.Errorf("read %+v", r)
	}
	if list := all(t, c.Subscriptions(ctx)); len(list) != 1 {
		t.Errorf("subscriptions: %+v", list)
	}
	in.Method, in.Unsigned = "POST", true
	if r := must[client.Subscription](t)(c.ReplaceSubscription(ctx, s.ID, in)); r.Method != "POST" || r.SigningSecretSet {
		t.Errorf("replaced with %+v", r)
	}
	if secret := must[string](t)(c.RotateSecret(ctx, s.ID)); !strings.HasPrefix(secret, "whsec_") {
		t.Errorf("new secret %q", secret)
	}
	patched := must[client.Subscription](t)(c.PatchSubscription(ctx, s.ID, map[string]any{"events": []string{"task.*", "x.y"}, "delivery": map[string]any{"retrySchedule": "day"}}))
	if len(patched.Events) != 2 || patched.Delivery.RetrySchedule.Name != "day" {
		t.Errorf("patched %+v", patched)
	}
	if r := must[client.Subscription](t)(c.PauseSubscription(ctx, s.ID)); r.State != client.StatePaused {
		t.Errorf("paused: %+v", r)
	}
	if r := must[client.Subscription](t)(c.EnableSubscription(ctx, s.ID)); r.State != client.StateActive {
		t.Errorf("enabled: %+v", r)
	}

	// Events.
	data := json.RawMessage(`{ "n":1.50,  "h":"<&>ü" }`)
	id := must[string](t)(c.Publish(ctx, client.Event{Type: "task.create", Resource: "project/p2", Time: time.Now(), Data: data}))
	e := must[client.Event](t)(c.Event(ctx, id))
	if !bytes.Equal(e.Data, data) || e.AccountID != "acme" || e.AcceptedAt.IsZero() || len(e.Deliveries) != 1 {
		t.Errorf("read %+v, data %s", e, e.Data)
	}
	batch := client.Batch{IdempotencyKey: "k1", Events: []client.Event{{Type: "a.b", Data: data}, {Type: "a.c", Data: data}}}
	ids := must[[]string](t)(c.PublishBatch(ctx, batch))
	if again := must[[]string](t)(c.PublishBatch(ctx, batch)); len(ids) != 2 || again[0] != ids[0] || again[1] != ids[1] {
		t.Errorf("the same batch again: %q, then %q", ids, again)
	}
	if ids := must[[]string](t)(c.PublishLines(ctx, strings.NewReader(`{"type":"a.d","data":{}}`+"\n\n"+`{"type":"a.e","data":{}}`), "")); len(ids) != 2 {
		t.Errorf("lines: %q", ids)
	}
	// Pages of two, so that links are followed.
	events := all(t, c.Events(ctx, client.EventFilter{PageSize: 2}))
	if len(events) != 5 || events[0].Type != "a.e" || events[4].ID != id {
		t.Errorf("%d events, the first of %+v", len(events), events[0])
	}
	if later := all(t, c.Events(ctx, client.EventFilter{After: events[3].ID})); len(later) != 1 {
		t.Errorf("%d events before the last but one", len(later))
	}

	// Deliveries.
	rejected := must[string](t)(c.Publish(ctx, client.Event{Type: "task.create", Resource: "project/p2", Data: []byte(`{"x":"reject"}`)}))
	ping := must[string](t)(c.Ping(ctx, s.ID))
	delivery := func(event string) client.Delivery {
		list := all(t, c.Deliveries(ctx, client.DeliveryFilter{Subscription: s.ID, Event: event}))
		if len(list) != 1 {
			t.Fatalf("event %s has the deliveries %+v", event, list)
		}
		return list[0]
	}
	until(t, "the ping is delivered", func() bool { return delivery(ping).State == client.DeliveryDelivered })
	until(t, "the rejected one waits for its retry", func() bool { return delivery(rejected).AttemptCount >= 1 })
	d := must[client.Delivery](t)(c.Delivery(ctx, delivery(rejected).ID))
	if d.EventID != rejected || d.SubscriptionID != s.ID || len(d.Attempts) == 0 || d.Attempts[0].Status != 500 ||
		d.Attempts[0].Response != "no, thanks" || d.Attempts[0].Outcome != "retry" || d.Attempts[0].Time.IsZero() {
		t.Errorf("read %+v", d)
	}
	if r := must[client.Delivery](t)(c.RetryDelivery(ctx, d.ID)); r.ID != d.ID {
		t.Errorf("retried %+v", r)
	}
	if list := all(t, c.Deliveries(ctx, client.DeliveryFilter{State: client.DeliveryDelivered, Since: time.Now().Add(-time.Minute), PageSize: 1})); len(list) != 2 {
		t.Errorf("delivered: %+v", list)
	}
	if n := must[int](t)(c.CountDead(ctx, s.ID, client.DeadSelection{Reason: client.ReasonExhausted, Since: time.Now().Add(-time.Hour)})); n != 0 {
		t.Errorf("%d dead ones counted", n)
	}
	if n := must[int](t)(c.RetryDead(ctx, s.ID, client.DeadSelection{})); n != 0 {
		t.Errorf("%d dead ones retried", n)
	}
	if list := all(t, c.Deliveries(ctx, client.DeliveryFilter{State: client.DeliveryDead, Reason: client.ReasonExpired})); len(list) != 0 {
		t.Errorf("dead: %+v", list)
	}

	// Replays. The ping is of no type that is subscribed to, and the two tasks have arrived or waited for their retry.
	span := client.ReplayInput{Since: time.Now().Add(-time.Hour).Truncate(time.Second)}
	until(t, "both are to be replayed, once the one that was retried is under way no more", func() bool {
		return must[int](t)(c.CountReplay(ctx, s.ID, span)) == 2
	})
	if _, err := c.Replay(ctx, s.ID, client.ReplayInput{Date: "20261121"}); status(err) != 400 {
		t.Errorf("a replay of no day: %v", err)
	}
	must[client.Subscription](t)(c.PauseSubscription(ctx, s.ID))
	slow := must[client.Replay](t)(c.Replay(ctx, s.ID, client.ReplayInput{Since: span.Since, Until: time.Now(), Failed: true, Rate: 0.5}))
	if slow.State != client.ReplayRunning || slow.Outcome != "failed" || slow.Rate != 0.5 || !slow.Since.Equal(span.Since) || slow.CreatedAt.IsZero() {
		t.Errorf("a replay begins as %+v", slow)
	}
	if err := c.CancelReplay(ctx, s.ID, slow.ID); err != nil {
		t.Error(err)
	}
	must[client.Subscription](t)(c.EnableSubscription(ctx, s.ID))
	quick := must[client.Replay](t)(c.Replay(ctx, s.ID, span))
	read := func() client.Replay { return must[client.Replay](t)(c.ReplayByID(ctx, s.ID, quick.ID)) }
	until(t, "the replay is done", func() bool { return read().State == client.ReplayDone })
	if r := read(); r.Deliveries != 2 || r.Rate != 1000 || r.ReachedAt.IsZero() || r.EndedAt.IsZero() {
		t.Errorf("a replay ends as %+v", r)
	}
	if list := all(t, c.Replays(ctx, s.ID)); len(list) != 2 || list[0].ID != quick.ID || list[1].State != client.ReplayCancelled {
		t.Errorf("replays: %+v", list)
	}
	if _, err := c.ReplayByID(ctx, s.ID, "none"); status(err) != 404 {
		t.Errorf("a replay that is none: %v", err)
	}
	if err := c.CancelReplay(ctx, s.ID, "none"); status(err) != 404 {
		t.Errorf("a replay that is none was cancelled: %v", err)
	}

	if x := must[client.Status](t)(c.SubscriptionStatus(ctx, s.ID)); x.State != client.StateActive || x.Breaker.State != client.BreakerClosed ||
		x.Concurrency.Max != 2 || x.Deliveries.Dead != 0 {
		t.Errorf("status %+v", x)
	}
	in.Filter, in.NumberOfRecords = json.RawMessage(`{"x":{"$prefix":"re"}}`), 5
	in.Delivery = &client.DeliveryPolicy{
		RateLimit: 2.5, RateBurst: 4, Ordering: client.OrderKey, OrderingKey: "x",
		DisableAfter: &client.DisableAfter{Duration: "5d", Failures: 7}, OnDisabled: client.OnDisabledDiscard,
	}
	replaced := must[client.Subscription](t)(c.ReplaceSubscription(ctx, s.ID, in))
	in.Delivery.DisableAfter.Duration = "120h"
	if !bytes.Equal(replaced.Filter, in.Filter) || replaced.NumberOfRecords != 5 || !reflect.DeepEqual(replaced.Delivery, in.Delivery) {
		t.Errorf("replaced with %+v, delivery %+v", replaced, replaced.Delivery)
	}

	// The end of it all.
	if err := c.DeleteSubscription(ctx, s.ID); err != nil {
		t.Error(err)
	}
	if err := c.DeleteSubscription(ctx, s.ID); status(err) != 404 {
		t.Errorf("deleted twice: %v", err)
	}
	if err := admin.DeleteToken(ctx, token.ID); err != nil {
		t.Error(err)
	}
	if _, err := c.Event(ctx, id); status(err) != 401 {
		t.Errorf("with a revoked token: %v", err)
	}
	if err := admin.DeleteAccount(ctx, "acme"); err != nil {
		t.Error(err)
	}
	if err := admin.DeleteAccount(ctx, "default"); status(err) != 409 {
		t.Errorf("the default account: %v", err)
	}
}
