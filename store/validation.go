package store

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ValidationLifetime is how long a validation record can be confirmed, and is tried to be handed over.
const ValidationLifetime = 24 * time.Hour

// validationKey is the length of Validation.Secret in bytes.
const validationKey = 32

// ValidationURL is where the validation record goes: ValidationCallbackURL, else DataCallbackURL.
func (s *Subscription) ValidationURL() string {
	if s.ValidationCallbackURL != "" {
		return s.ValidationCallbackURL
	}
	return s.DataCallbackURL
}

// Vouched is what a validation of the subscription as it is now vouches for, in the form of Validation.Confirmed. For
// ValidationConfirmation that is scheme://host:port of DataCallbackURL and, where it is another, that of ValidationURL: it does not
// change with a path or query. For ValidationCloudEvents it is the whole DataCallbackURL, sealed.
func (s *Subscription) Vouched() string {
	if s.ValidationKind == ValidationCloudEvents {
		return s.permitted()
	}
	data, asked := Origin(s.DataCallbackURL), Origin(s.ValidationURL())
	if asked == data {
		return data
	}
	return data + " " + asked
}

// Origin is scheme://host:port of a URL, in lower case and with the port of the scheme where it names none. It is "" for
// what is no URL with a host.
func Origin(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// Validated says whether what was confirmed is the subscription as it is now.
func (s *Subscription) Validated() bool {
	return s.Validation.Confirmed != "" && s.Validation.Confirmed == s.Vouched()
}

// BeginValidation puts a new validation record under way, to be handed over at once. It replaces the one there was; what
// was confirmed before stays so. The state of the subscription is the caller's to set.
func (s *Subscription) BeginValidation(now time.Time) {
	v := &s.Validation
	if len(v.Secret) == 0 {
		v.Secret = make([]byte, validationKey)
		_, _ = rand.Read(v.Secret) // documented never to fail: the process ends first
	}
	v.ExpiresAt, v.NextAt = now.Add(ValidationLifetime), now
	v.Attempts, v.LastError = 0, ""
}

// EndValidation takes back the record under way, if there is one. Its signature is not void with that.
func (s *Subscription) EndValidation() {
	v := &s.Validation
	v.ExpiresAt, v.NextAt = time.Time{}, time.Time{}
	v.Attempts, v.LastError = 0, ""
}

// Confirm notes that the receiver has confirmed the subscription as it is now, and makes it active at the moment given
// if it was pending; in any other state it stays as it is.
func (s *Subscription) Confirm(now time.Time) {
	s.EndValidation()
	v := &s.Validation
	v.Confirmed, v.Origin, v.AllowedRate = s.Vouched(), "", 0
	if s.State == StatePending {
		s.State, s.StateReason, s.StateSince = StateActive, "", now
	}
}

// ValidationSignature is the signature of the record under way, the same for each attempt to hand it over: the moment
// it expires, in milliseconds of Unix time, a dot, and in base64url what CheckValidation compares. It is ASCII that needs no
// escapes in a URL, a form or JSON.
func (s *Subscription) ValidationSignature() string {
	return s.validationSignature(s.Validation.ExpiresAt.UnixMilli())
}

// CheckValidation says whether the signature is one of a validation record of this subscription with the URLs it has now,
// and has not expired. How long that takes does not tell how much of a signature is right.
func (s *Subscription) CheckValidation(signature string, now time.Time) bool {
	head, _, _ := strings.Cut(signature, ".")
	at, err := strconv.ParseInt(head, 10, 64)
	if err != nil || len(s.Validation.Secret) == 0 {
		return false
	}
	// The texts are compared, not what they decode to: each signature has one spelling.
	return hmac.Equal([]byte(signature), []byte(s.validationSignature(at))) && now.Before(time.UnixMilli(at))
}

func (s *Subscription) validationSignature(expires int64) string {
	return strconv.FormatInt(expires, 10) + "." + base64.RawURLEncoding.EncodeToString(s.validationMAC(expires))
}

// validationMAC binds a signature to the subscription, the kind of its validation, both its URLs and the moment it expires. Each text is
// preceded by its length, so that no two subscriptions sign the same bytes.
func (s *Subscription) validationMAC(expires int64) []byte {
	m := hmac.New(sha256.New, s.Validation.Secret)
	label := "herald validation 1\n"
	if s.ValidationKind == ValidationCloudEvents { // whose signature counts in a GET too, as the other's must not
		label = "herald permission 1\n"
	}
	b := append([]byte(label), s.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	for _, text := range []string{s.DataCallbackURL, s.ValidationURL()} {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(text))), text...)
	}
	m.Write(b)
	return m.Sum(nil)
}
