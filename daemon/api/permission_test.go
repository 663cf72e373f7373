package api

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"herald/store"
)

const toPermit = `{"dataCallbackURL":"https://r.example/x","validation":"cloudevents"}`

// asked makes a subscription whose receiver is asked for permission, and returns it with its path.
func (b *bed) asked() (s *store.Subscription, path string) {
	b.t.Helper()
	v, path := b.subscribe(toPermit)
	if v["state"] != "pending" || v["validation"] != "cloudevents" {
		b.t.Fatalf("created %v", v)
	}
	return b.stored(), path
}

// A permission in an answer counts for the subscription as it was asked for, once.
func TestGrant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*store.Subscription) // between the request and the answer
		granted bool
	}{
		"as it was":         {func(*store.Subscription) {}, true},
		"another filter":    {func(s *store.Subscription) { s.Events = []string{"a.*"} }, true},
		"another URL":       {func(s *store.Subscription) { s.DataCallbackURL += "y" }, false},
		"another kind":      {func(s *store.Subscription) { s.ValidationKind = store.ValidationConfirmation }, false},
		"another request":   {func(s *store.Subscription) { s.BeginValidation(testNow.Add(time.Minute)) }, false},
		"granted meanwhile": {func(s *store.Subscription) { s.Permit("by.callback.example", 7, testNow) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			asked, _ := b.asked()
			b.set(c.change)
			before := *b.stored()
			b.now = testNow.Add(time.Hour)
			changes := len(b.changed)
			if err := b.api.Grant(t.Context(), asked, "herald.example", 120); err != nil {
				t.Fatal(err)
			}
			s := b.stored()
			if !c.granted {
				if s.State != before.State || s.Validation.Origin != before.Validation.Origin || len(b.changed) != changes {
					t.Errorf("it became %+v", s)
				}
				return
			}
			if s.State != store.StateActive || !s.StateSince.Equal(b.now) || s.AllowedRate() != 120 || s.PushOrigin() != "herald.example" ||
				len(b.changed) != changes+1 || len(b.queue.hastened) == 0 {
				t.Errorf("it became %+v, told %v", s, b.changed)
			}
		})
	}
}

func TestGrantFailures(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	asked, path := b.asked()
	disk := errors.New("disk on fire")
	for after := range 2 { // it cannot be read; it can be read and not be written
		b.store.setFail(disk, after)
		if err := b.api.Grant(t.Context(), asked, "herald.example", 0); !errors.Is(err, disk) {
			t.Errorf("after %d steps: %v", after, err)
		}
	}
	b.store.setFail(nil, 0)
	b.queue.setFail(disk)
	if err := b.api.Grant(t.Context(), asked, "herald.example", 0); !errors.Is(err, disk) {
		t.Errorf("the queue: %v", err)
	}
	b.queue.setFail(nil)
	if s := b.stored(); s.State != store.StatePending {
		t.Errorf("failures left %+v", s)
	}

	// At the callback URL too; and nobody keeps the disk busy by calling it again.
	callback := path + "/permission?signature=" + asked.ValidationSignature()
	b.store.setFail(disk, 1)
	wantProblem(t, b.request(http.MethodGet, callback, "", ""), 503)
	b.store.setFail(nil, 0)
	wantJSON[jsonObject](t, b.request(http.MethodGet, callback, "", ""), 200)
	b.store.setFail(disk, 1)
	if got := wantJSON[jsonObject](t, b.request(http.MethodPost, callback, "", ""), 200); got["state"] != "active" || len(got) != 1 {
		t.Errorf("granted twice: %v", got)
	}
	b.store.setFail(nil, 0)
	b.now = testNow.Add(store.ValidationLifetime)
	wantProblem(t, b.request(http.MethodGet, callback, "", ""), 403, "expired")

	if err := b.store.DeleteSubscription(t.Context(), "acme", asked.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.api.Grant(t.Context(), asked, "herald.example", 0); err != nil {
		t.Errorf("of one that was deleted: %v", err)
	}
}

// Whatever a change is, permission is for the URL.
func TestChangesAndPermission(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state    store.State
		required bool
		patch    string
		want     store.State
		begun    bool
	}{
		"another path":            {store.StateActive, false, `{"dataCallbackURL":"https://r.example/y"}`, store.StatePending, true},
		"another query":           {store.StateActive, false, `{"dataCallbackURL":"https://r.example/x?a=b"}`, store.StatePending, true},
		"nothing of it":           {store.StateActive, false, `{"events":["a.*"]}`, store.StateActive, false},
		"paused, another path":    {store.StatePaused, false, `{"dataCallbackURL":"https://r.example/y"}`, store.StatePaused, true},
		"pending, another path":   {store.StatePending, false, `{"dataCallbackURL":"https://r.example/y"}`, store.StatePending, true},
		"no kind":                 {store.StatePending, false, `{"validation":null}`, store.StateActive, false},
		"no kind, but required":   {store.StateActive, true, `{"validation":null}`, store.StatePending, true},
		"the record in its place": {store.StateActive, false, `{"validation":"confirmation","validationCallbackURL":"https://r.example/v"}`, store.StatePending, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, Settings{ValidationRequired: c.required})
			_, path := b.asked()
			b.set(func(s *store.Subscription) {
				if c.state != store.StatePending {
					s.Permit("herald.example", 60, testNow)
				}
				s.State = c.state
			})
			b.now = testNow.Add(time.Hour)
			got := wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", c.patch), 200)
			s := b.stored()
			if got["state"] != string(c.want) || s.Validation.NextAt.Equal(b.now) != c.begun {
				t.Errorf("it is %v with %+v", got, s.Validation)
			}
			if shown := got["allowedRatePerMinute"] != nil; shown != s.Validated() || shown && s.ValidationKind != store.ValidationCloudEvents {
				t.Errorf("it shows %v", got)
			}
		})
	}
	// Chosen again before anything else was confirmed, the permission still holds.
	b := newBed(t, Settings{ValidationRequired: true})
	_, path := b.asked()
	b.set(func(s *store.Subscription) { s.Permit("herald.example", 60, testNow) })
	got := wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"validation":null}`), 200)
	if got["state"] != "pending" {
		t.Errorf("without it: %v", got)
	}
	got = wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"validation":"cloudevents"}`), 200)
	if s := b.stored(); got["state"] != "active" || got["allowedRatePerMinute"] != 60.0 || !s.Validation.NextAt.IsZero() {
		t.Errorf("chosen again: %v", got)
	}
}
