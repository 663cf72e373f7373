package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"herald/store"
)

// How old a provider token becomes. APNs refuses one older than an hour, and connections on which it changes more often than every 20
// minutes.
const (
	tokenLife     = 50 * time.Minute
	tokenInterval = 20 * time.Minute
)

// tokens mints the provider tokens (JWT, ES256) of one key. It is safe for concurrent use: while one is minted the others wait for it.
type tokens struct {
	key        *ecdsa.PrivateKey
	id, teamID string

	mu sync.Mutex
	// current was minted at, by the wall clock: the monotonic one stands still while a machine sleeps.
	current string
	at      time.Time
	// forced is when a token was last replaced because APNs said that it is expired.
	forced time.Time
	// barred is until when APNs wants no new one.
	barred time.Time
}

func newTokens(a *store.APNs) (*tokens, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(a.Key)
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("parse key: not one of P-256")
	}
	return &tokens{key: key, id: a.KeyID, teamID: a.TeamID}, nil
}

// token returns the one to use now.
func (t *tokens) token() (string, error) {
	now := time.Now().Round(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	age := now.Sub(t.at)
	// A clock that was set back leaves a token from the future, which APNs does not take either.
	if t.current != "" && (age >= 0 && age < tokenLife || now.Before(t.barred)) {
		return t.current, nil
	}
	return t.current, t.mint(now)
}

// expired says that APNs finds that token too old. It returns whether another try makes sense, because there is a newer one by now.
func (t *tokens) expired(used string) (bool, error) {
	now := time.Now().Round(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != used {
		return true, nil
	}
	if now.Before(t.barred) || !t.forced.IsZero() && now.Sub(t.forced).Abs() < tokenInterval {
		return false, nil
	}
	if err := t.mint(now); err != nil {
		return false, err
	}
	t.forced = now
	return true, nil
}

// tooMany says that APNs finds the tokens change too often.
func (t *tokens) tooMany() {
	t.mu.Lock()
	t.barred = time.Now().Round(0).Add(tokenInterval)
	t.mu.Unlock()
}

// mint replaces the token. The lock is held.
func (t *tokens) mint(now time.Time) error {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}{"ES256", t.id})
	if err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	claims, err := json.Marshal(struct {
		Issuer string `json:"iss"`
		At     int64  `json:"iat"`
	}{t.teamID, now.Unix()})
	if err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return fmt.Errorf("sign token: %w", err)
	}
	// RFC 7518, section 3.4: both numbers at full length, one after the other, and not ASN.1.
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	t.current, t.at = signed+"."+base64.RawURLEncoding.EncodeToString(signature), now
	return nil
}
