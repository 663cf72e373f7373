package fcm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// Access tokens are had for an assertion signed with the key of a service account (RFC 7523, section 2.1).
const (
	scope = "https://www.googleapis.com/auth/firebase.messaging"
	// assertionLife is how long an assertion may be used: the longest that Google allows.
	assertionLife = time.Hour
	// tokenTimeout bounds one call of a token endpoint.
	tokenTimeout = 10 * time.Second
	// tokenMargin is how long before its end a token is used no more, for short lives a quarter of them, and maxTokenLife the longest that is believed.
	tokenMargin  = 5 * time.Minute
	maxTokenLife = 24 * time.Hour
	// maxToken bounds an access token, in bytes.
	maxToken = 8 << 10
	// failureHold is how long a failure answers for the endpoint, so that all who wait do not ask one after the other.
	failureHold = time.Second
)

// grant is what is known of a key: an access token, or why there is none. All but key is guarded by owner.mu.
type grant struct {
	key      store.FCM
	token    string
	until    time.Time
	failure  *tokenFailure
	failedAt time.Time
	fetching chan struct{} // closed when the call under way ends; nil when there is none
}

// tokenFailure is why there is no token, in words for the owner of the app.
type tokenFailure struct {
	class      queue.Class
	text       string
	retryAfter time.Duration
}

func sameKey(a, b *store.FCM) bool {
	return a.ProjectID == b.ProjectID && a.ClientEmail == b.ClientEmail && a.TokenURI == b.TokenURI && a.KeyID == b.KeyID &&
		bytes.Equal(a.PrivateKey, b.PrivateKey)
}

// drop forgets an access token that FCM refused, unless it has been replaced already.
func (o *owner) drop(token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.grant != nil && o.grant.token == token {
		o.grant.token = ""
	}
}

// token returns an access token for the key. The call that asks for one belongs to nobody: all who need it wait, each for as long as its own
// attempt may take.
func (s *Sender) token(ctx context.Context, o *owner, key *store.FCM) (string, *tokenFailure) {
	o.mu.Lock()
	if o.grant == nil || !sameKey(&o.grant.key, key) {
		o.grant = &grant{key: *key}
	}
	g := o.grant
	for waited := false; ; waited = true {
		now := time.Now()
		if g.token != "" && now.Before(g.until) {
			defer o.mu.Unlock()
			return g.token, nil
		}
		if g.failure != nil && g.fetching == nil && (waited || now.Sub(g.failedAt) < failureHold) {
			defer o.mu.Unlock()
			return "", g.failure
		}
		if g.fetching == nil && !s.fetch(o, g) {
			defer o.mu.Unlock()
			return "", &tokenFailure{class: queue.ClassRetry, text: sender.BrokenOff}
		}
		done := g.fetching
		o.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return "", &tokenFailure{class: queue.ClassRetry, text: sender.BrokenOff}
			}
			return "", &tokenFailure{class: queue.ClassRetry, text: "the token endpoint did not answer in the time of the attempt"}
		}
		o.mu.Lock()
	}
}

// fetch starts a call of the token endpoint for all who wait for g. False when the Sender is closed. The caller holds o.mu.
func (s *Sender) fetch(o *owner, g *grant) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	done := make(chan struct{})
	g.fetching = done
	s.fetches.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, tokenTimeout)
		defer cancel()
		asked := time.Now() // the life of a token is counted from before it was made
		token, life, failure := s.ask(ctx, o, &g.key)
		o.mu.Lock()
		defer o.mu.Unlock()
		g.token, g.failure = token, failure
		g.until = asked.Add(life - min(tokenMargin, life/4))
		g.failedAt = time.Now()
		g.fetching = nil
		close(done)
	})
	return true
}

// ask makes one call of the token endpoint.
func (s *Sender) ask(ctx context.Context, o *owner, key *store.FCM) (string, time.Duration, *tokenFailure) {
	u, audience := s.endpoint(key.TokenURI)
	if u == nil {
		return "", 0, &tokenFailure{class: queue.ClassMisconfigured, text: "the token_uri of the service account is not an https URL of googleapis.com"}
	}
	started := time.Now()
	assertion, err := assert(key, audience, started)
	if err != nil {
		return "", 0, &tokenFailure{class: queue.ClassMisconfigured, text: "the private key of the service account cannot be used: it must be an RSA key; set it again"}
	}
	form := "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=" + assertion
	resp, err := o.pool.RoundTrip(s.newRequest(ctx, u, "application/x-www-form-urlencoded", []byte(form), ""))
	unread := func(err error) *tokenFailure {
		return &tokenFailure{class: queue.ClassRetry, text: s.describe(err, "the token endpoint", u.Hostname(), time.Since(started))}
	}
	if err != nil {
		return "", 0, unread(err)
	}
	// Unlike that of a message, this answer is nothing without its body.
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	_ = resp.Body.Close() // what it had to tell was read
	if err != nil {
		return "", 0, unread(err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", 0, declined(resp.StatusCode, resp.Header, masked(body, assertion, "<secret>"))
	}
	return granted(body)
}

// endpoint is where tokens are asked for, and the audience of the assertion: what the key file names, as long as it is Google's. With a
// stand-in it is the stand-in's own, so that no test asks Google.
func (s *Sender) endpoint(tokenURI string) (*url.URL, string) {
	u, err := url.Parse(tokenURI)
	if s.standin {
		if err != nil || u.Scheme != s.base.Scheme || u.Host != s.base.Host || u.User != nil {
			u = s.base.JoinPath("token")
		}
		return u, u.String()
	}
	if err != nil || u.Scheme != "https" || u.User != nil || u.Port() != "" && u.Port() != "443" ||
		!strings.HasSuffix(strings.ToLower(u.Hostname()), ".googleapis.com") {
		return nil, ""
	}
	return u, tokenURI
}

// assert makes the signed assertion (RFC 7523, section 3).
func assert(key *store.FCM, audience string, now time.Time) (string, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(key.PrivateKey)
	if err != nil {
		return "", err
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return "", errors.New("not an RSA key")
	}
	header, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
		Kid string `json:"kid,omitzero"`
	}{"RS256", "JWT", key.KeyID})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(struct {
		Iss   string `json:"iss"`
		Scope string `json:"scope"`
		Aud   string `json:"aud"`
		Iat   int64  `json:"iat"`
		Exp   int64  `json:"exp"`
	}{key.ClientEmail, scope, audience, now.Unix(), now.Add(assertionLife).Unix()})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// granted reads the answer that holds a token (RFC 6749, section 5.1).
func granted(body []byte) (string, time.Duration, *tokenFailure) {
	var answer struct {
		Token   string  `json:"access_token"`
		Expires float64 `json:"expires_in"`
	}
	switch err := json.Unmarshal(body, &answer); {
	case err != nil:
		return "", 0, &tokenFailure{class: queue.ClassRetry, text: "the token endpoint's answer is not the JSON object it should be"}
	case answer.Token == "" || len(answer.Token) > maxToken || strings.ContainsFunc(answer.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", 0, &tokenFailure{class: queue.ClassRetry, text: "the token endpoint's answer has no access_token that can be sent"}
	case !(answer.Expires > 0): // nor NaN
		return "", 0, &tokenFailure{class: queue.ClassRetry, text: "the token endpoint's answer has no expires_in"}
	}
	return answer.Token, time.Duration(min(answer.Expires, maxTokenLife.Seconds()) * float64(time.Second)), nil
}

// declined reads an answer without a token (RFC 6749, section 5.2).
func declined(status int, h http.Header, body []byte) *tokenFailure {
	f := &tokenFailure{class: queue.ClassRetry, text: "the token endpoint answered " + sender.StatusText(status)}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		f.retryAfter = sender.RetryAfter(h, time.Now())
	}
	if status < 400 || status > 499 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return f
	}
	f.class = queue.ClassMisconfigured
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Error != "" {
		f.text += " " + said(answer.Error)
		if answer.Description != "" {
			f.text += ": " + said(answer.Description)
		}
	}
	switch answer.Error {
	case "invalid_grant":
		f.text += "; the key of the service account was deleted or is not its own, or this machine's clock is wrong"
	case "invalid_client", "unauthorized_client":
		f.text += "; the service account does not exist, or may not do this"
	}
	return f
}
