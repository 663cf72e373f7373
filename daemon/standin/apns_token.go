package standin

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What APNs says of provider tokens.
const (
	apnsTokenAge      = time.Hour
	apnsTokenInterval = 20 * time.Minute
	// apnsClockSkew is how far in the future a token may be from.
	apnsClockSkew = time.Minute
)

// apnsToken is the provider token of a connection.
type apnsToken struct {
	mu      sync.Mutex
	text    string
	issued  time.Time
	since   time.Time
	expired bool // the client was told that it is
}

// check tells what is wrong with the authorization of a request over the connection; "" for nothing.
func (t *apnsToken) check(a *APNs, authorization string) (status int, reason, fault string) {
	text, ok := strings.CutPrefix(authorization, "bearer ")
	if !ok {
		return http.StatusForbidden, "MissingProviderToken", "authorization is not bearer and a provider token"
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if text != t.text {
		issued, fault := a.verify(text)
		if fault != "" {
			return http.StatusForbidden, "InvalidProviderToken", fault
		}
		if t.text != "" {
			a.count(func(s *APNsStats) { s.TokenUpdates++ })
			if now.Sub(t.since) < apnsTokenInterval && !t.expired {
				return http.StatusTooManyRequests, "TooManyProviderTokenUpdates", "the provider token was replaced after less than 20 minutes"
			}
		}
		t.text, t.issued, t.since, t.expired = text, issued, now, false
	}
	switch age := now.Sub(t.issued); {
	case age > apnsTokenAge:
		t.expired = true
		return http.StatusForbidden, "ExpiredProviderToken", "the provider token is older than an hour"
	case age < -apnsClockSkew:
		return http.StatusForbidden, "InvalidProviderToken", "the provider token is from the future"
	}
	return 0, "", ""
}

// expire notes that the client was told that its token is too old.
func (t *apnsToken) expire() {
	t.mu.Lock()
	t.expired = true
	t.mu.Unlock()
}

// verify reads a provider token and checks its signature.
func (a *APNs) verify(text string) (issued time.Time, fault string) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return issued, "the provider token has not three parts"
	}
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}
	var claims struct {
		Issuer string `json:"iss"`
		At     *int64 `json:"iat"`
	}
	for n, into := range []any{&header, &claims} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(parts[n])
		if err != nil || json.Unmarshal(b, into) != nil {
			return issued, "a part of the provider token is not base64url of JSON"
		}
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return issued, "the signature of the provider token has not 64 bytes"
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	switch {
	case header.Algorithm != "ES256":
		return issued, "the algorithm of the provider token is not ES256"
	case header.KeyID != a.key.KeyID:
		return issued, "the provider token names another key"
	case claims.Issuer != a.key.TeamID:
		return issued, "the provider token names another team"
	case claims.At == nil:
		return issued, "the provider token does not tell when it was issued"
	case !ecdsa.Verify(&a.private.PublicKey, sum[:], r, s):
		return issued, "the signature of the provider token is wrong"
	}
	return time.Unix(*claims.At, 0), ""
}
