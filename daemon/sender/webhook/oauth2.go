package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/hashicorp/go-retryablehttp"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// The client credentials grant of OAuth 2.0 (RFC 6749, section 4.4) is ours rather than that of
// golang.org/x/oauth2, whose source of tokens waits for a fetch under a mutex, whatever the deadlines of
// those behind it, reads answers of a megabyte, repeats them in its errors, and has no way to drop a token
// that a receiver does not take.

// Bounds of access tokens and of what may be done to get one.
const (
	// tokenTimeout bounds one call of a token endpoint. It never gets more than tokenShare of the time its
	// attempt has left, so that a slow endpoint leaves some for the push.
	tokenTimeout = 10 * time.Second
	tokenShare   = 0.75
	// maxTokenBody and maxToken bound the answer and the token in it, in bytes.
	maxTokenBody = 64 << 10
	maxToken     = 8 << 10
	// defaultTokenLife is that of a token whose endpoint does not say (RFC 6749, section 5.1, leaves it to the
	// documentation), maxTokenLife the longest that is believed.
	defaultTokenLife = 5 * time.Minute
	maxTokenLife     = 24 * time.Hour
	// tokenMargin is how long before its end a token is used no more, for short lives a quarter of them: the
	// push has to arrive with it, and clocks differ.
	tokenMargin = 30 * time.Second
	// failureHold is how long a failure answers for the endpoint, so that all who wait do not ask one after the
	// other; an endpoint that sends Retry-After is left alone for as long as that, up to maxFailureHold.
	failureHold    = time.Second
	maxFailureHold = time.Minute
	// maxGrants bounds the tokens and failures that are remembered.
	maxGrants = 1024
)

// credentials are what a token is for: whoever has the same shares it.
type credentials struct{ tokenURL, clientID, clientSecret, scopes string }

func credentialsOf(a *store.Authentication) credentials {
	return credentials{a.TokenURL, a.ClientID, a.ClientSecret, a.Scopes}
}

// grant is what is known of some credentials: a token, or why there is none. All of it is guarded by
// grants.mu.
type grant struct {
	token string
	until time.Time // when the token is used no more

	failure  *tokenFailure // what the last call came to; nil for a token
	failedAt time.Time
	// patience is how long the call that failed was given: who has more of it tries again.
	patience time.Duration

	fetching chan struct{} // closed when the call under way ends; nil when there is none
	used     time.Time
}

// tokenFailure is why there is no token, in words for the owner of the subscription.
type tokenFailure struct {
	problem
	retryAfter time.Duration
	timedOut   bool
}

// grants are the access tokens in use. Its methods are safe for concurrent use.
type grants struct {
	mu  sync.Mutex
	all map[credentials]*grant
}

// authorized returns the subscription as the push needs it: one that authenticates by OAuth 2.0 with its access
// token as the bearer token it is (RFC 6750, section 2.1), any other as it is.
func (s *Sender) authorized(ctx context.Context, sub *store.Subscription) (*store.Subscription, *tokenFailure) {
	if sub.Authentication.Type != store.AuthOAuth2 {
		return sub, nil
	}
	token, failure := s.token(ctx, credentialsOf(&sub.Authentication))
	if failure != nil {
		return nil, failure
	}
	bearing := *sub
	// The client's secret stays for mask.
	bearing.Authentication = store.Authentication{Type: store.AuthBearer, Token: token, ClientSecret: sub.Authentication.ClientSecret}
	return &bearing, nil
}

// refused takes notice of a receiver that did not take its access token: the next attempt is made with another.
func (s *Sender) refused(sub, bearing *store.Subscription) {
	if sub.Authentication.Type == store.AuthOAuth2 {
		s.grants.drop(credentialsOf(&sub.Authentication), bearing.Authentication.Token)
	}
}

// token returns an access token. Of all who need the same one calls the endpoint, in its own attempt's time,
// and the others wait for it in theirs.
func (s *Sender) token(ctx context.Context, c credentials) (string, *tokenFailure) {
	started := time.Now()
	for {
		patience := patienceOf(ctx)
		s.grants.mu.Lock()
		g, now := s.grants.of(c), time.Now()
		g.used = now
		if g.token != "" && now.Before(g.until) {
			defer s.grants.mu.Unlock()
			return g.token, nil
		}
		if g.holds(now) && patience <= g.patience+g.patience/4 {
			defer s.grants.mu.Unlock()
			f := *g.failure
			f.retryAfter = max(f.retryAfter-now.Sub(g.failedAt), 0)
			return "", &f
		}
		done := g.fetching
		if done == nil {
			g.fetching = make(chan struct{})
			s.grants.mu.Unlock()
			return s.fetch(ctx, c, g, patience)
		}
		s.grants.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return "", noToken(queue.ClassRetry, sender.BrokenOff)
			}
			return "", noToken(queue.ClassRetry, "the token endpoint did not answer within "+rounded(time.Since(started)))
		}
	}
}

// patienceOf is how long a call of a token endpoint may take in an attempt.
func patienceOf(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return tokenTimeout
	}
	return min(tokenTimeout, time.Duration(tokenShare*float64(time.Until(end))))
}

// holds says whether a failure still answers for the endpoint.
func (g *grant) holds(now time.Time) bool {
	return g.failure != nil && now.Sub(g.failedAt) < max(failureHold, min(g.failure.retryAfter, maxFailureHold))
}

// fetch calls the endpoint for all who wait for g.
func (s *Sender) fetch(ctx context.Context, c credentials, g *grant, patience time.Duration) (token string, failure *tokenFailure) {
	started := time.Now() // the life of a token is counted from before it was made
	var life time.Duration
	defer func() { // also when this panics: the others must not wait for ever
		s.grants.mu.Lock()
		defer s.grants.mu.Unlock()
		close(g.fetching)
		g.fetching = nil
		g.token, g.failure = token, nil
		switch {
		case failure == nil:
			g.until = started.Add(life - min(tokenMargin, life/4))
		case errors.Is(ctx.Err(), context.Canceled): // the attempt's own end, which says nothing of the endpoint
		default:
			g.failure, g.failedAt, g.patience = failure, time.Now(), tokenTimeout
			if failure.timedOut {
				g.patience = patience
			}
		}
	}()
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.ask(within, c, &life)
}

// ask makes one call of the token endpoint and sets the life of the token it returns.
func (s *Sender) ask(ctx context.Context, c credentials, life *time.Duration) (string, *tokenFailure) {
	u, err := url.Parse(c.tokenURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", noToken(queue.ClassMisconfigured, "the token URL of the subscription cannot be used: it must be an absolute http or https URL")
	}
	started := time.Now()
	x := newExchange(ctx)
	form := "grant_type=client_credentials"
	if c.scopes != "" {
		form += "&scope=" + url.QueryEscape(c.scopes)
	}
	req := &retryablehttp.Request{Request: (&http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			// Each half is form-encoded before it is joined (RFC 6749, section 2.3.1).
			"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(c.clientID)+":"+url.QueryEscape(c.clientSecret)))},
			"Content-Type":  {"application/x-www-form-urlencoded"},
			"Accept":        {"application/json"},
			"User-Agent":    {s.userAgent},
		},
	}).WithContext(x)}
	if err := req.SetBody([]byte(form)); err != nil {
		return "", noToken(queue.ClassMisconfigured, "the request for it cannot be made")
	}
	failed := func(err error) *tokenFailure {
		if sender.Exhausted(err) {
			s.complain()
		}
		f := noToken(queue.ClassRetry, ofEndpoint(describe(err, x, u.Hostname(), time.Since(started))))
		f.timedOut = isTimeout(err)
		return f
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close() // an answer that comes with an error is of no use
		}
		return "", failed(err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody+1))
	_ = resp.Body.Close() // what it had to tell was read
	switch {
	case isTimeout(err):
		f := noToken(queue.ClassRetry, "the token endpoint began to answer, but did not finish within "+rounded(time.Since(started)))
		f.timedOut = true
		return "", f
	case errors.Is(err, context.Canceled):
		return "", failed(err)
	case err != nil:
		return "", noToken(queue.ClassRetry, "the token endpoint's answer broke off")
	case len(body) > maxTokenBody:
		return "", noToken(queue.ClassRetry, "the token endpoint's answer is larger than "+strconv.Itoa(maxTokenBody)+" bytes")
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return "", s.declined(resp, body)
	}
	return granted(body, life)
}

// granted reads the answer that holds a token (RFC 6749, section 5.1).
func granted(body []byte, life *time.Duration) (string, *tokenFailure) {
	var answer struct {
		Token   string         `json:"access_token"`
		Type    string         `json:"token_type"`
		Expires jsontext.Value `json:"expires_in"`
	}
	switch err := json.Unmarshal(body, &answer); {
	case err != nil:
		return "", noToken(queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be")
	case answer.Token == "":
		return "", noToken(queue.ClassRetry, "the token endpoint's answer has no access_token")
	case len(answer.Token) > maxToken || !printable(answer.Token):
		return "", noToken(queue.ClassRetry, "the token endpoint's access_token cannot be sent: it must be printable ASCII of at most "+strconv.Itoa(maxToken)+" bytes")
	case answer.Type != "" && !strings.EqualFold(answer.Type, "Bearer"):
		// A token of a type that is not understood must not be used (RFC 6749, section 7.1).
		return "", noToken(queue.ClassRetry, "the token endpoint's token_type is not Bearer, the only one that can be sent")
	}
	*life = lifeOf(answer.Expires)
	return answer.Token, nil
}

// lifeOf reads expires_in: seconds, which some write as a string. What says nothing is the default.
func lifeOf(v jsontext.Value) time.Duration {
	text := string(v)
	if v.Kind() == jsontext.KindString {
		text = strings.Trim(text, `"`)
	}
	seconds, err := strconv.ParseFloat(text, 64)
	switch {
	case seconds >= maxTokenLife.Seconds(): // also one that is out of the range of a float
		return maxTokenLife
	case err != nil || !(seconds > 0): // nor NaN
		return defaultTokenLife
	}
	return time.Duration(seconds * float64(time.Second))
}

// declined reads an answer without a token (RFC 6749, section 5.2). Of its words only the registered codes are
// understood, and none are repeated.
func (s *Sender) declined(resp *http.Response, body []byte) *tokenFailure {
	code := resp.StatusCode
	answered := "the token endpoint answered " + sender.StatusText(code)
	if code >= 300 && code <= 399 {
		return noToken(queue.ClassRetry, answered+"; redirects are not followed, so the token URL has to name the final address")
	}
	if code >= 400 && code <= 499 && code != http.StatusTooManyRequests {
		var answer struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(body, &answer) != nil {
			answer.Error = ""
		}
		switch answer.Error {
		case "invalid_client":
			return noToken(queue.ClassMisconfigured, "the token endpoint refused the client id and secret (invalid_client)")
		case "invalid_scope":
			return noToken(queue.ClassMisconfigured, "the token endpoint refused the scopes (invalid_scope)")
		case "unauthorized_client":
			return noToken(queue.ClassMisconfigured, "the token endpoint does not allow this client the client credentials grant (unauthorized_client)")
		case "unsupported_grant_type":
			return noToken(queue.ClassMisconfigured, "the token endpoint does not know the client credentials grant (unsupported_grant_type)")
		case "invalid_request", "invalid_grant":
			return noToken(queue.ClassMisconfigured, "the token endpoint refused the request ("+answer.Error+")")
		}
		if code == http.StatusUnauthorized {
			return noToken(queue.ClassMisconfigured, "the token endpoint refused the client id and secret (401 Unauthorized)")
		}
	}
	f := noToken(queue.ClassRetry, answered)
	if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
		f.retryAfter = sender.RetryAfter(resp.Header, s.now())
	}
	return f
}

// ofEndpoint makes what describe says of a receiver and its URL a sentence about the token endpoint.
func ofEndpoint(text string) string {
	return strings.NewReplacer("the receiver", "the token endpoint", "the callback URL", "the token URL").Replace(text)
}

func noToken(class queue.Class, why string) *tokenFailure {
	return &tokenFailure{problem: problem{class, "no access token: " + why}}
}

func rounded(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }

// of returns what is known of c, or makes room for it. The caller holds mu.
func (k *grants) of(c credentials) *grant {
	g := k.all[c]
	if g == nil {
		if len(k.all) >= maxGrants {
			k.forget()
		}
		g = &grant{}
		k.all[c] = g
	}
	return g
}

// forget takes out what has had its time, and if that is nothing the one that was not used for the longest.
// Calls under way stay: there are no more of them than attempts.
func (k *grants) forget() {
	now := time.Now()
	var oldest credentials
	var since time.Time
	before := len(k.all)
	for c, g := range k.all {
		switch {
		case g.fetching != nil:
		case !now.Before(g.until) && !g.holds(now):
			delete(k.all, c)
		case since.IsZero() || g.used.Before(since):
			oldest, since = c, g.used
		}
	}
	if len(k.all) == before && !since.IsZero() {
		delete(k.all, oldest)
	}
}

// drop forgets a token, unless it has been replaced already.
func (k *grants) drop(c credentials, token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g := k.all[c]; g != nil && g.fetching == nil && g.token == token {
		delete(k.all, c)
	}
}
