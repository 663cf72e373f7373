package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"herald/store"
)

const toConfirm = `{"dataCallbackURL":"https://r.example/x","validationCallbackURL":"https://v.example/y"}`

// pending makes a subscription that waits, and returns its path and the body that confirms it.
func (b *bed) pending() (path, body string) {
	b.t.Helper()
	v, path := b.subscribe(toConfirm)
	if v["state"] != "pending" {
		b.t.Fatalf("created %v", v)
	}
	return path, `{"signature":"` + b.stored().ValidationSignature() + `"}`
}

func TestConfirmationFailures(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	path, body := b.pending()
	path += "/confirmation"
	disk := errors.New("disk on fire")

	b.store.setFail(disk, 0)
	if p := wantProblem(t, b.request(http.MethodPost, path, "", body), 503); strings.Contains(p.Detail, "fire") {
		t.Errorf("the answer says %q", p.Detail)
	}
	b.store.setFail(disk, 1) // it can be read and not be written
	wantProblem(t, b.request(http.MethodPost, path, "", body), 503)
	b.store.setFail(nil, 0)
	b.queue.setFail(disk)
	wantProblem(t, b.request(http.MethodPost, path, "", body), 503)
	b.queue.setFail(nil)
	b.notYet = errors.New("starting")
	wantProblem(t, b.request(http.MethodPost, path, "", body), 503, "starting")
	b.notYet = nil
	if s := b.stored(); s.State != store.StatePending || s.Validation.NextAt.IsZero() {
		t.Fatalf("failed confirmations left %+v", s)
	}

	// The day is over.
	b.now = testNow.Add(store.ValidationLifetime)
	wantProblem(t, b.request(http.MethodPost, path, "", body), 403, "expired")
	b.now = testNow.Add(store.ValidationLifetime - time.Millisecond)
	changes := len(b.changed)
	if w := b.request(http.MethodPost, path, "", body); w.Code != 204 || w.Body.Len() != 0 {
		t.Fatalf("confirmed: %d %s", w.Code, w.Body)
	}
	s := b.stored()
	if s.State != store.StateActive || !s.StateSince.Equal(b.now) || !s.UpdatedAt.Equal(b.now) || len(b.changed) != changes+1 || len(b.queue.hastened) == 0 {
		t.Errorf("confirmed: %+v, told %v", s, b.changed)
	}

	// Once more changes nothing, so that nobody without a token can keep the disk busy.
	b.store.setFail(disk, 1)
	if w := b.request(http.MethodPost, path, "", body); w.Code != 204 {
		t.Errorf("confirmed twice: %d %s", w.Code, w.Body)
	}
	b.store.setFail(disk, 1)
	wantProblem(t, b.request(http.MethodPost, path, "", `{"signature":"1.x"}`), 403)
}

// Whoever calls without a token gets no more memory than a confirmation needs.
func TestConfirmationBodyIsBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	path, body := b.pending()
	large := strings.Replace(body, "{", "{"+strings.Repeat(" ", maxConfirmation), 1)
	wantProblem(t, b.request(http.MethodPost, path+"/confirmation", "", large), 413)
	if b.api.held.Load() != 0 {
		t.Error("bytes are still held")
	}
	if w := b.request(http.MethodPost, path+"/confirmation", "", body); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// The limit of the other calls is as it was.
	wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", "{"+strings.Repeat(" ", maxConfirmation)+"}"), 400, "dataCallbackURL")
}

// What an account may not see it can confirm all the same: the signature is the proof, and the account the subscription's.
func TestConfirmationKnowsNoAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	path, body := b.pending()
	if w := b.request(http.MethodPost, path+"/confirmation", "", body, "Herald-Account", "other"); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestValidationIsRequired(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{ValidationRequired: true})
	v, path := b.subscribe(`{"dataCallbackURL":"https://r.example/x"}`)
	if v["state"] != "pending" || v["validationCallbackURL"] != nil {
		t.Fatalf("created %v", v)
	}
	status := wantJSON[jsonObject](t, b.request(http.MethodGet, path+"/status", "sub", ""), 200)
	if got, _ := status["validation"].(jsonObject); got["attempts"] != 0.0 || got["nextAttemptAt"] != "2026-11-21T08:30:00Z" ||
		got["expiresAt"] != "2026-11-22T08:30:00Z" || len(got) != 3 {
		t.Errorf("the status has %v", status["validation"])
	}
}

// Whatever a change is, what it means for the validation depends on the hosts alone.
func TestChangesAndValidation(t *testing.T) {
	t.Parallel()
	const data, ask = "https://r.example/x", "https://v.example/y"
	patched := func(members string) string { return "{" + members + "}" }
	for name, c := range map[string]struct {
		state        store.State // before
		required     bool
		unasked      bool // it names no validation URL
		patch        string
		want         store.State
		begun, under bool // a new record; a record under way afterwards
	}{
		"another path":              {state: store.StateActive, patch: patched(`"dataCallbackURL":"https://r.example/z"`), want: store.StateActive},
		"the port spelt out":        {state: store.StateActive, patch: patched(`"dataCallbackURL":"https://R.example:443/x"`), want: store.StateActive},
		"another port":              {state: store.StateActive, patch: patched(`"dataCallbackURL":"https://r.example:8443/x"`), want: store.StatePending, begun: true, under: true},
		"another scheme":            {state: store.StateActive, patch: patched(`"dataCallbackURL":"http://r.example/x"`), want: store.StatePending, begun: true, under: true},
		"another host to ask":       {state: store.StateActive, patch: patched(`"validationCallbackURL":"https://w.example/y"`), want: store.StatePending, begun: true, under: true},
		"nothing of it":             {state: store.StateActive, patch: patched(`"events":["a.*"]`), want: store.StateActive},
		"no longer asked":           {state: store.StateActive, patch: patched(`"validationCallbackURL":null`), want: store.StateActive},
		"asked at the data URL":     {state: store.StateActive, required: true, patch: patched(`"validationCallbackURL":null`), want: store.StatePending, begun: true, under: true},
		"pending, no longer asked":  {state: store.StatePending, patch: patched(`"validationCallbackURL":null`), want: store.StateActive},
		"pending, another path":     {state: store.StatePending, patch: patched(`"dataCallbackURL":"https://r.example/z"`), want: store.StatePending, begun: true, under: true},
		"pending, nothing of it":    {state: store.StatePending, patch: patched(`"events":["a.*"]`), want: store.StatePending, under: true},
		"paused, another host":      {state: store.StatePaused, patch: patched(`"dataCallbackURL":"https://s.example/x"`), want: store.StatePaused, begun: true, under: true},
		"disabled, another host":    {state: store.StateDisabled, patch: patched(`"dataCallbackURL":"https://s.example/x"`), want: store.StateDisabled, begun: true, under: true},
		"never asked, another host": {state: store.StateActive, unasked: true, patch: patched(`"dataCallbackURL":"https://s.example/x"`), want: store.StateActive},
		"never asked, but required": {state: store.StateActive, unasked: true, required: true, patch: patched(`"events":["a.*"]`), want: store.StateActive},
		"required, another host":    {state: store.StateActive, unasked: true, required: true, patch: patched(`"dataCallbackURL":"https://s.example/x"`), want: store.StatePending, begun: true, under: true},
		"asked from now on":         {state: store.StateActive, unasked: true, patch: patched(`"validationCallbackURL":"https://r.example/v"`), want: store.StatePending, begun: true, under: true},
		"paused, asked from now on": {state: store.StatePaused, unasked: true, patch: patched(`"validationCallbackURL":"https://r.example/v"`), want: store.StatePaused, begun: true, under: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, Settings{ValidationRequired: c.required})
			_, path := b.subscribe(toConfirm)
			b.set(func(s *store.Subscription) {
				s.DataCallbackURL, s.ValidationCallbackURL, s.State = data, ask, c.state
				if c.unasked {
					s.ValidationCallbackURL, s.Validation = "", store.Validation{}
				} else if c.state != store.StatePending {
					s.Validation.Confirmed = s.Vouched()
					s.EndValidation()
				} else {
					s.Validation.NextAt = time.Time{} // its receiver has taken it
				}
			})
			b.now = testNow.Add(time.Hour)
			got := wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", c.patch), 200)
			s := b.stored()
			if got["state"] != string(c.want) || s.State != c.want {
				t.Errorf("it is %v, want %s", got["state"], c.want)
			}
			if changed := s.State != c.state; s.StateSince.Equal(b.now) != changed {
				t.Errorf("from %s to %s since %v", c.state, s.State, s.StateSince)
			}
			if begun := s.Validation.NextAt.Equal(b.now); begun != c.begun || s.Validation.ExpiresAt.IsZero() == c.under {
				t.Errorf("the record: %+v", s.Validation)
			}
		})
	}
}

// Enabling does not get around the confirmation, and asks for it again when the day is over.
func TestEnableWaitsForTheConfirmation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	path, _ := b.pending()
	told := len(b.told)
	b.set(func(s *store.Subscription) { s.State = store.StatePaused })
	if got := wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/enable", "sub", ""), 200); got["state"] != "pending" {
		t.Errorf("enabled: %v", got)
	}
	if !b.stored().Validation.NextAt.Equal(testNow) || len(b.told) != told {
		t.Errorf("the record: %+v, told %v", b.stored().Validation, b.told)
	}
	b.set(func(s *store.Subscription) { s.State, s.Validation.NextAt = store.StatePaused, time.Time{} })
	b.now = testNow.Add(48 * time.Hour)
	wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/enable", "sub", ""), 200)
	if v := b.stored().Validation; !v.NextAt.Equal(b.now) {
		t.Errorf("the record was not sent again: %+v", v)
	}
}

// FuzzConfirmation sends any body in any of the forms: what is not the right signature never confirms, and nothing breaks.
func FuzzConfirmation(f *testing.F) {
	for _, body := range []string{"", "signature=1.x", `{"signature":"1.x"}`, "--XX\r\nContent-Disposition: form-data; name=\"signature\"\r\n\r\n1.x\r\n--XX--\r\n"} {
		for kind := range uint8(3) {
			f.Add(body, kind)
		}
	}
	f.Fuzz(func(t *testing.T, body string, kind uint8) {
		b := newBed(t)
		path, _ := b.pending()
		types := []string{"application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=XX"}
		w := b.request(http.MethodPost, path+"/confirmation", "", body, "Content-Type", types[int(kind)%len(types)])
		if w.Code != 400 && w.Code != 403 && w.Code != 413 || b.stored().State != store.StatePending {
			t.Errorf("%q is answered with %d %s", body, w.Code, w.Body)
		}
	})
}

// staleStore answers reads with a subscription as it was.
type staleStore struct {
	*memStore
	old *store.Subscription
}

func (s staleStore) Subscription(context.Context, store.SubscriptionID) (*store.Subscription, error) {
	return s.old, nil
}

// A signature that was right a moment ago is judged once more in the step that acts on it.
func TestConfirmationOfWhatHasChanged(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	path, body := b.pending()
	old := b.stored()
	a, err := New(Options{Store: staleStore{b.store, old}, Queue: b.queue, Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	b.set(func(s *store.Subscription) { s.DataCallbackURL = "https://elsewhere.example/" })
	wantProblem(t, b.through(a.Handler(), http.MethodPost, path+"/confirmation", "", body), 403)
	if s := b.stored(); s.State != store.StatePending || s.Validation.Confirmed != "" {
		t.Errorf("it was confirmed: %+v", s)
	}
	if err := b.store.DeleteSubscription(t.Context(), "acme", old.ID); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.through(a.Handler(), http.MethodPost, path+"/confirmation", "", body), 404, "deleted")
}
