package store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// ValidationKind is how the receiver of a subscription shows that it wants the pushes.
type ValidationKind string

// The kinds.
const (
	// ValidationConfirmation: it is sent a validation record, at ValidationURL, and sends the signature of it back.
	ValidationConfirmation ValidationKind = ""
	// ValidationCloudEvents: it is asked for permission, at DataCallbackURL and for that very URL, as "HTTP 1.1 Web Hooks for Event
	// Delivery" of CloudEvents has it (section 4, Abuse Protection).
	ValidationCloudEvents ValidationKind = "cloudevents"
)

// The headers of section 4 of that specification, in canonical form. The requests of a sender carry the first three, those of a
// receiver, and its answers, the others.
const (
	HeaderRequestOrigin   = "Webhook-Request-Origin"
	HeaderRequestCallback = "Webhook-Request-Callback"
	HeaderRequestRate     = "Webhook-Request-Rate"
	HeaderAllowedOrigin   = "Webhook-Allowed-Origin"
	HeaderAllowedRate     = "Webhook-Allowed-Rate"
)

// MaxAllowedRate is the highest rate that is told from no limit, in pushes a minute: higher ones are taken for it.
const MaxAllowedRate = math.MaxInt32

// RequestRate is how many pushes a minute the subscription asks to be permitted (section 4.1.4), or 0 when it names no limit of its own:
// as many as its records a second come to when each is a push, rounded up to a whole number.
func (s *Subscription) RequestRate() int {
	// Without the small part taken off, 1.1 a second would be 67 a minute: the product is not exact.
	return int(math.Ceil(min(s.Delivery.RateLimit*60, MaxAllowedRate) - 1e-6))
}

// AllowedRate is how many pushes a minute the receiver permits; 0 is no limit.
func (s *Subscription) AllowedRate() int {
	if s.ValidationKind != ValidationCloudEvents {
		return 0
	}
	return s.Validation.AllowedRate
}

// PushOrigin is what each push names as the sender (section 4.1.2); "" when it names none.
func (s *Subscription) PushOrigin() string {
	if s.ValidationKind != ValidationCloudEvents {
		return ""
	}
	return s.Validation.Origin
}

// Permit notes that the receiver has granted permission to push to the subscription as it is now: to the sender that called itself
// origin, at the rate, as ParseAllowedRate returns it. It takes the place of what was permitted before. As with Confirm, a pending
// subscription is active from the moment given.
func (s *Subscription) Permit(origin string, rate int, now time.Time) {
	s.Confirm(now)
	s.Validation.Origin, s.Validation.AllowedRate = origin, rate
}

// errAllowedRate is for the owner of the receiver.
var errAllowedRate = errors.New("WebHook-Allowed-Rate must be one whole number above 0, of requests a minute, or *")

// ParseAllowedRate reads the values of HeaderAllowedRate in a receiver's message and returns the pushes a minute, up to MaxAllowedRate;
// 0 is no limit. Without a value the rate is the one that was requested (section 4.2.2 says so of callbacks; in an answer the header is
// only needed where a rate was requested, which is then the limit all the same). Any number but a positive whole one, or several
// values, are an error, whose text is for the owner of the receiver.
func ParseAllowedRate(values []string, requested int) (int, error) {
	if len(values) == 0 {
		return requested, nil
	}
	text := values[0]
	switch {
	case len(values) > 1:
		return 0, errAllowedRate
	case text == "*":
		return 0, nil
	case text == "" || strings.Trim(text, "0123456789") != "":
		return 0, errAllowedRate
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil { // digits only: it is too large
		n = MaxAllowedRate
	}
	if n == 0 {
		return 0, errAllowedRate
	}
	return int(min(n, MaxAllowedRate)), nil
}

// permitted is what a permission vouches for, in the form of Validation.Confirmed: DataCallbackURL, because that is what section 4.1
// asks for, but not in words, because it may be a secret and Confirmed is none.
func (s *Subscription) permitted() string {
	m := hmac.New(sha256.New, s.Validation.Secret)
	m.Write([]byte("herald permitted 1\n" + s.DataCallbackURL))
	return string(ValidationCloudEvents) + " " + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
