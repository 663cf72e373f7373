package webpush

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"herald/store"
)

// A token is made twice a day, whatever is forgotten between: its end is tied to the clock, and its signature is deterministic (RFC 6979), so that
// one that is made again, also by another process, is the same. Apple wants none to be renewed more than once an hour.
const (
	tokenUse = 12 * time.Hour
	// tokenLife is how long a token is valid from the beginning of its use. At most 24 hours are allowed (RFC 8292, section 2); an
	// hour is for clocks that differ.
	tokenLife = 23 * time.Hour
)

// tokenHeader is {"typ":"JWT","alg":"ES256"}.
const tokenHeader = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9" //nolint:gosec // it is the same in every token

// tokenKey names a token. x is the key's coordinate.
type tokenKey struct {
	owner, subject, origin string
	x                      [32]byte
}

type token struct {
	// until is when another is to be used.
	until  time.Time
	header string
}

// tokens keeps the Authorization headers of pushes to each origin (RFC 8292), those used last. It is safe for concurrent use.
type tokens struct {
	mu  sync.Mutex
	all recent[tokenKey, token]
}

// errBadVAPID: the implementation's key pair is of no use.
var errBadVAPID = errors.New("the VAPID key of the implementation is not a key pair of the curve P-256")

// header returns the Authorization header for pushes to the origin.
func (t *tokens) header(owner string, v *store.VAPID, origin string, now time.Time) (string, error) {
	if len(v.PublicKey) != 65 {
		return "", errBadVAPID
	}
	k := tokenKey{owner: owner, subject: v.Subject, origin: origin, x: [32]byte(v.PublicKey[1:33])}
	t.mu.Lock()
	kept, ok := t.all.get(k)
	t.mu.Unlock()
	if ok && now.Before(kept.until) && !now.Before(kept.until.Add(-tokenUse)) {
		return kept.header, nil
	}
	begin := now.Truncate(tokenUse)
	input, err := signingInput(origin, v.Subject, begin.Add(tokenLife))
	if err != nil {
		return "", err
	}
	signature, err := sign(v, input)
	if err != nil {
		return "", err
	}
	made := token{begin.Add(tokenUse), "vapid t=" + input + "." + signature + ", k=" + base64.RawURLEncoding.EncodeToString(v.PublicKey)}
	t.mu.Lock()
	t.all.put(k, made)
	t.mu.Unlock()
	return made.header, nil
}

// forget drops what is kept for the owner.
func (t *tokens) forget(owner string) {
	t.mu.Lock()
	t.all.remove(func(k tokenKey) bool { return k.owner == owner })
	t.mu.Unlock()
}

// signingInput is what the signature of a token is made of (RFC 7515, section 5.1).
func signingInput(origin, subject string, expires time.Time) (string, error) {
	claims, err := json.Marshal(struct {
		Audience string `json:"aud"`
		Expires  int64  `json:"exp"`
		Subject  string `json:"sub"`
	}{origin, expires.Unix(), subject})
	if err != nil {
		return "", fmt.Errorf("write the claims of a token: %w", err)
	}
	return tokenHeader + "." + base64.RawURLEncoding.EncodeToString(claims), nil
}

// sign makes the signature of a token: r and s, 32 bytes each (RFC 7518, section 3.4).
func sign(v *store.VAPID, input string) (string, error) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), v.PrivateKey)
	if err != nil {
		return "", errBadVAPID
	}
	sum := sha256.Sum256([]byte(input))
	der, err := key.Sign(nil, sum[:], crypto.SHA256) // without randomness it is deterministic
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	var parts struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &parts); err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	var signature [64]byte
	parts.R.FillBytes(signature[:32])
	parts.S.FillBytes(signature[32:])
	return base64.RawURLEncoding.EncodeToString(signature[:]), nil
}
