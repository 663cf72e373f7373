package client_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"herald/daemon/client"
)

// The handshake as a receiver written with this package does it, against a real daemon.
func TestValidationAgainstTheDaemon(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	admin, address := serve(t)
	records := make(chan client.ValidationRecord, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var record client.ValidationRecord
		if err := json.NewDecoder(r.Body).Decode(&record); err != nil {
			t.Errorf("the record: %v", err)
		}
		records <- record
	}))
	t.Cleanup(receiver.Close)
	next := func() client.ValidationRecord {
		t.Helper()
		select {
		case r := <-records:
			return r
		case <-time.After(20 * time.Second):
			t.Fatal("no record came")
			return client.ValidationRecord{}
		}
	}
	in := client.SubscriptionInput{
		DataCallbackURL: receiver.URL + "/data", ValidationCallbackURL: receiver.URL + "/validate", Events: []string{"no.such"},
	}
	s := must[client.Subscription](t)(admin.CreateSubscription(ctx, in))
	if s.State != client.StatePending || s.ValidationCallbackURL != in.ValidationCallbackURL {
		t.Errorf("created %+v", s)
	}
	first := next()
	if first.ConfirmationURL != address+"/subscriptions/"+s.ID+"/confirmation" {
		t.Errorf("the record is %+v", first)
	}
	v := must[client.Status](t)(admin.SubscriptionStatus(ctx, s.ID)).Validation
	if v == nil || v.ExpiresAt.IsZero() {
		t.Errorf("the status has the validation %+v", v)
	}
	if v := must[client.Validation](t)(admin.RequestValidation(ctx, s.ID)); v.Attempts != 0 || v.NextAttemptAt.IsZero() || v.LastError != "" {
		t.Errorf("requested again: %+v", v)
	}
	second := next()

	anyone := must[*client.Client](t)(client.New(client.Options{BaseURL: address}))
	t.Cleanup(anyone.Close)
	if err := anyone.ConfirmSubscription(ctx, s.ID, "1.x"); status(err) != 403 {
		t.Errorf("a wrong signature: %v", err)
	}
	for _, signature := range []string{second.Signature, first.Signature} {
		if err := anyone.ConfirmSubscription(ctx, s.ID, signature); err != nil {
			t.Errorf("confirmed: %v", err)
		}
	}
	if s := must[client.Subscription](t)(admin.Subscription(ctx, s.ID)); s.State != client.StateActive {
		t.Errorf("after the confirmation: %+v", s)
	}
	if v := must[client.Status](t)(admin.SubscriptionStatus(ctx, s.ID)).Validation; v != nil {
		t.Errorf("after the confirmation: %+v", v)
	}
	in.ValidationCallbackURL = ""
	if s := must[client.Subscription](t)(admin.ReplaceSubscription(ctx, s.ID, in)); s.ValidationCallbackURL != "" {
		t.Errorf("replaced: %+v", s)
	}
	for what, err := range map[string]error{
		"no signature": anyone.ConfirmSubscription(ctx, s.ID, ""), "no id": anyone.ConfirmSubscription(ctx, "", "x"),
	} {
		if err == nil || status(err) != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := admin.RequestValidation(ctx, ""); err == nil || status(err) != 0 {
		t.Errorf("a validation of nothing: %v", err)
	}
}
