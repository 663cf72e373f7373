package store

import (
	"strings"
	"testing"
	"time"
)

func TestParseAllowedRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values    []string
		requested int
		want      int // -1 for an error
	}{
		{nil, 0, 0},
		{nil, 30, 30}, // section 4.2.2: it should correspond to the requested rate
		{[]string{"*"}, 30, 0},
		{[]string{"100"}, 0, 100},
		{[]string{"100"}, 30, 100},
		{[]string{"1"}, 30, 1},
		{[]string{"007"}, 0, 7},
		{[]string{"2147483647"}, 0, MaxAllowedRate},
		{[]string{"2147483648"}, 0, MaxAllowedRate},
		{[]string{strings.Repeat("9", 5000)}, 0, MaxAllowedRate},
		{[]string{"0"}, 30, -1},
		{[]string{"000"}, 30, -1},
		{[]string{"-1"}, 30, -1},
		{[]string{"+1"}, 30, -1},
		{[]string{"1.5"}, 30, -1},
		{[]string{"1e3"}, 30, -1},
		{[]string{"0x10"}, 30, -1},
		{[]string{"1_000"}, 30, -1},
		{[]string{"100, 200"}, 30, -1},
		{[]string{"100", "100"}, 30, -1},
		{[]string{"*", "*"}, 30, -1},
		{[]string{"**"}, 30, -1},
		{[]string{""}, 30, -1},
		{[]string{"many"}, 30, -1},
		{[]string{"١٠"}, 30, -1},
		{[]string{"NaN"}, 30, -1},
	} {
		got, err := ParseAllowedRate(c.values, c.requested)
		if err != nil {
			got = -1
			if !strings.Contains(err.Error(), "WebHook-Allowed-Rate") || len(err.Error()) > 200 {
				t.Errorf("%q: %v", c.values, err)
			}
		}
		if got != c.want {
			t.Errorf("%.40q, %d requested: %d, want %d", c.values, c.requested, got, c.want)
		}
	}
}

func FuzzParseAllowedRate(f *testing.F) {
	for _, text := range []string{"*", "1", "0", "-1", "99999999999999999999999", "1.5"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseAllowedRate([]string{text}, 0)
		if n < 0 || n > MaxAllowedRate || err != nil && n != 0 || err == nil && n == 0 && text != "*" {
			t.Errorf("%q is %d, %v", text, n, err)
		}
	})
}

func TestRequestRate(t *testing.T) {
	t.Parallel()
	for rate, want := range map[float64]int{
		0: 0, 0.0001: 1, 0.01: 1, 0.1: 6, 1.1: 66, 2.3: 138, 2.5: 150, 1.01: 61, 0.55: 33, 1: 60, 10: 600, 100_000: 6_000_000, 1e18: MaxAllowedRate,
	} {
		s := Subscription{Delivery: DeliveryPolicy{RateLimit: rate}}
		if got := s.RequestRate(); got != want {
			t.Errorf("%v records a second ask for %d pushes a minute, want %d", rate, got, want)
		}
	}
}

// A permission is for the very URL, tells nothing of it, and is no confirmation.
func TestPermission(t *testing.T) {
	t.Parallel()
	s, now := validating(t)
	s.ValidationCallbackURL = ""
	record := s.ValidationSignature()
	s.ValidationKind = ValidationCloudEvents
	if s.CheckValidation(record, now) {
		t.Error("the signature of a record permits")
	}
	asked := s.ValidationSignature()
	if !s.CheckValidation(asked, now) {
		t.Error("the signature of a request does not permit")
	}
	if s.AllowedRate() != 0 || s.PushOrigin() != "" || s.Validated() {
		t.Errorf("before the permission: %+v", s.Validation)
	}
	s.Permit("herald.example", 120, now.Add(time.Minute))
	if s.State != StateActive || !s.StateSince.Equal(now.Add(time.Minute)) || !s.Validated() || s.AllowedRate() != 120 ||
		s.PushOrigin() != "herald.example" || !s.Validation.NextAt.IsZero() {
		t.Errorf("with the permission: %+v", s)
	}
	if strings.Contains(s.Validation.Confirmed, "data.example") {
		t.Errorf("what was confirmed is %q", s.Validation.Confirmed)
	}
	for what, change := range map[string]func(*Subscription){
		"another path":                     func(s *Subscription) { s.DataCallbackURL += "2" },
		"another kind":                     func(s *Subscription) { s.ValidationKind = ValidationConfirmation },
		"a secret of another subscription": func(s *Subscription) { s.Validation.Secret[0] ^= 1 },
	} {
		c := s.Clone()
		if change(c); c.Validated() {
			t.Errorf("%s is permitted", what)
		}
	}
	c := s.Clone()
	c.ValidationKind = ValidationConfirmation
	if c.AllowedRate() != 0 || c.PushOrigin() != "" || c.CheckValidation(asked, now) {
		t.Error("the permission counts for the other kind")
	}
	c.Confirm(now)
	if c.Validation.AllowedRate != 0 || c.Validation.Origin != "" {
		t.Errorf("a confirmation leaves %+v", c.Validation)
	}
	s.Permit("other.example", 0, now)
	if s.AllowedRate() != 0 || s.PushOrigin() != "other.example" {
		t.Errorf("the next permission leaves %+v", s.Validation)
	}
}
