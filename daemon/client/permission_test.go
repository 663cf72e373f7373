package client_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"herald/daemon/client"
)

func TestPermission(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	admin, _ := serve(t)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
			w.Header().Set("WebHook-Allowed-Rate", "90")
		}
	}))
	t.Cleanup(target.Close)
	in := client.SubscriptionInput{DataCallbackURL: target.URL, Validation: client.ValidationCloudEvents, Events: []string{"no.such"}}
	s := must[client.Subscription](t)(admin.CreateSubscription(ctx, in))
	if s.State != client.StatePending || s.Validation != client.ValidationCloudEvents || s.AllowedRatePerMinute != 0 {
		t.Errorf("created %+v", s)
	}
	for end := time.Now().Add(20 * time.Second); s.State == client.StatePending && time.Now().Before(end); time.Sleep(time.Millisecond) {
		s = must[client.Subscription](t)(admin.Subscription(ctx, s.ID))
	}
	if s.State != client.StateActive || s.AllowedRatePerMinute != 90 {
		t.Errorf("permitted %+v", s)
	}
	in.Validation = ""
	if s := must[client.Subscription](t)(admin.ReplaceSubscription(ctx, s.ID, in)); s.Validation != "" || s.AllowedRatePerMinute != 0 {
		t.Errorf("replaced %+v", s)
	}
}
