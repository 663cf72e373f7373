package store

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func validating(t *testing.T) (*Subscription, time.Time) {
	t.Helper()
	id, err := NewSubscriptionID()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 9, 0, 0, 5e6, time.UTC)
	s := &Subscription{
		ID: id, State: StatePending, DataCallbackURL: "https://data.example/in", ValidationCallbackURL: "https://ask.example/validate",
	}
	s.BeginValidation(now)
	return s, now
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://Data.Example/in?x=1":  "https://data.example:443",
		"http://data.example":          "http://data.example:80",
		"http://data.example:8080/a/b": "http://data.example:8080",
		"HTTP://data.example:80":       "http://data.example:80",
		"http://[2001:DB8::1]/":        "http://[2001:db8::1]:80",
		"":                             "",
		"not a url":                    "",
		"http://%zz/":                  "",
	} {
		if got := Origin(text); got != want {
			t.Errorf("the origin of %q is %q, want %q", text, got, want)
		}
	}
}

func TestVouchedNamesBothHosts(t *testing.T) {
	t.Parallel()
	s := Subscription{DataCallbackURL: "https://a.example/x"}
	if got := s.Vouched(); got != "https://a.example:443" {
		t.Errorf("without a validation URL: %q", got)
	}
	s.ValidationCallbackURL = "https://A.example:443/y"
	if got := s.Vouched(); got != "https://a.example:443" {
		t.Errorf("with one of the same host: %q", got)
	}
	s.ValidationCallbackURL = "http://a.example/y"
	if got := s.Vouched(); got != "https://a.example:443 http://a.example:80" {
		t.Errorf("with another scheme: %q", got)
	}
}

// A signature holds for one subscription, its URLs as they are, and until it expires.
func TestValidationSignatureIsBound(t *testing.T) {
	t.Parallel()
	s, now := validating(t)
	sig := s.ValidationSignature()
	if strings.ContainsAny(sig, "+/= &%\"") {
		t.Errorf("the signature %q needs escapes", sig)
	}
	if sig != s.ValidationSignature() {
		t.Error("the signature of one record is not the same twice")
	}
	if !s.CheckValidation(sig, now) || !s.CheckValidation(sig, now.Add(ValidationLifetime-time.Millisecond)) {
		t.Error("the signature is refused while it is valid")
	}
	if s.CheckValidation(sig, now.Add(ValidationLifetime)) {
		t.Error("an expired signature is taken")
	}
	for what, change := range map[string]func(*Subscription){
		"another subscription":   func(s *Subscription) { s.ID[15]++ },
		"another data URL":       func(s *Subscription) { s.DataCallbackURL += "2" },
		"another validation URL": func(s *Subscription) { s.ValidationCallbackURL += "2" },
		"no validation URL":      func(s *Subscription) { s.ValidationCallbackURL = "" },
		"another secret":         func(s *Subscription) { s.Validation.Secret[0] ^= 1 },
		"no secret":              func(s *Subscription) { s.Validation.Secret = nil },
		"letters moved between the URLs": func(s *Subscription) {
			s.DataCallbackURL, s.ValidationCallbackURL = "https://data.example/inh", "ttps://ask.example/validate"
		},
	} {
		c := s.Clone()
		change(c)
		if c.CheckValidation(sig, now) {
			t.Errorf("with %s the signature is taken", what)
		}
	}
	_, mac, _ := strings.Cut(sig, ".")
	for _, forged := range []string{
		"", ".", mac, "." + mac, "x." + mac, "9999999999999." + mac, strings.Replace(sig, ".", "", 1), sig + "=", sig + "\n", sig[:len(sig)-1],
		sig[:strings.IndexByte(sig, '.')+1], "0" + sig + "0", sig + "." + mac,
	} {
		if s.CheckValidation(forged, now) {
			t.Errorf("the signature %q is taken", forged)
		}
	}
}

// A new record does not void the signature of the one before, which may be on its way; its own is another.
func TestBeginValidationAgain(t *testing.T) {
	t.Parallel()
	s, now := validating(t)
	first, secret := s.ValidationSignature(), bytes.Clone(s.Validation.Secret)
	s.Validation.Attempts, s.Validation.LastError, s.Validation.NextAt = 7, "no", time.Time{}
	later := now.Add(time.Hour)
	s.BeginValidation(later)
	if v := s.Validation; !bytes.Equal(v.Secret, secret) || v.Attempts != 0 || v.LastError != "" || !v.NextAt.Equal(later) ||
		!v.ExpiresAt.Equal(later.Add(ValidationLifetime)) {
		t.Errorf("begun again: %+v", v)
	}
	if second := s.ValidationSignature(); second == first || !s.CheckValidation(second, later) || !s.CheckValidation(first, later) {
		t.Error("the signatures of two records are not both valid and different")
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	for state, want := range map[State]State{
		StatePending: StateActive, StateActive: StateActive, StatePaused: StatePaused, StateDisabled: StateDisabled,
	} {
		s, now := validating(t)
		s.State, s.StateSince = state, now
		if s.Validated() {
			t.Error("validated before it was confirmed")
		}
		later := now.Add(time.Minute)
		s.Confirm(later)
		if s.State != want || s.StateSince.Equal(later) != (state == StatePending) {
			t.Errorf("%s became %s since %v", state, s.State, s.StateSince)
		}
		if v := s.Validation; !v.ExpiresAt.IsZero() || !v.NextAt.IsZero() || len(v.Secret) == 0 || !s.Validated() {
			t.Errorf("after the confirmation: %+v", v)
		}
		s.DataCallbackURL = "https://data.example/elsewhere"
		if !s.Validated() {
			t.Error("another path is taken for another host")
		}
		s.DataCallbackURL = "https://other.example/in"
		if s.Validated() {
			t.Error("another host is taken for a confirmed one")
		}
	}
}

func FuzzCheckValidation(f *testing.F) {
	f.Add("1795424400005.AAAA")
	f.Add(".")
	s := &Subscription{DataCallbackURL: "https://a.example/"}
	now := time.Unix(1_795_424_400, 0)
	s.BeginValidation(now)
	right := s.ValidationSignature()
	f.Fuzz(func(t *testing.T, signature string) {
		if s.CheckValidation(signature, now) && signature != right {
			// Another time in another spelling may not pass either.
			t.Errorf("%q is taken", signature)
		}
	})
}
