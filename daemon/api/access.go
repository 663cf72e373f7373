package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"herald/store"
)

// maxTokenText bounds what is taken for an access token at all; ours have 48 characters.
const maxTokenText = 512

// admit finds out who calls, whether it may, and for which account (RFC 6750).
func (c *call) admit() *problem {
	if c.socket {
		c.token = store.Token{ID: "socket", AccountID: store.DefaultAccount, Scopes: []store.Scope{store.ScopeAdmin}}
		return c.actFor(store.Account{ID: store.DefaultAccount}, true)
	}
	hash, p := c.credential()
	if p != nil {
		return p
	}
	own, p := c.identify(hash)
	if p != nil {
		return p
	}
	if wait := c.api.limiter.take(hash, c.settings.RatePerToken, c.api.now()); wait > 0 {
		return newProblem(tooManyRequests, "this access token may make %s requests per second; try again later",
			strconv.FormatFloat(c.settings.RatePerToken, 'g', -1, 64)).
			with("Retry-After", strconv.Itoa(wait))
	}
	admin := c.token.Has(store.ScopeAdmin)
	if own.Suspended && !admin {
		return newProblem(suspended, "the account %s is suspended; ask the operator of this service", own.ID)
	}
	if !admin && !c.hasOneOf(c.endpoint.scopes) {
		return lacking(c.endpoint.scopes)
	}
	return c.actFor(own, admin)
}

// credential reads the bearer token and hashes it.
func (c *call) credential() (store.TokenHash, *problem) {
	values := c.r.Header["Authorization"]
	if len(values) == 0 {
		return store.TokenHash{}, newProblem(unauthorized, "send an access token as Authorization: Bearer hrld_…").
			with("WWW-Authenticate", `Bearer realm="herald"`)
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxTokenText {
		return store.TokenHash{}, newProblem(unauthorized, "the Authorization header must be one, of the form: Bearer, a space, the access token").
			with("WWW-Authenticate", `Bearer realm="herald", error="invalid_request"`)
	}
	var buf [maxTokenText]byte
	return sha256.Sum256(buf[:copy(buf[:], token)]), nil
}

// identify finds the token and the account it belongs to.
func (c *call) identify(hash store.TokenHash) (store.Account, *problem) {
	if fixed := c.settings.AdminToken; fixed != (store.TokenHash{}) && subtle.ConstantTimeCompare(fixed[:], hash[:]) == 1 {
		c.token = store.Token{ID: "configured", AccountID: store.DefaultAccount, Scopes: []store.Scope{store.ScopeAdmin}}
		return store.Account{ID: store.DefaultAccount}, nil
	}
	token, account, err := c.api.store.TokenByHash(c.r.Context(), hash)
	invalid := `Bearer realm="herald", error="invalid_token"`
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Account{}, newProblem(unauthorized, "the access token is not known: it may be mistyped or revoked").
			with("WWW-Authenticate", invalid)
	case err != nil:
		return store.Account{}, c.translate(err)
	case token.Expired(c.api.now()):
		return store.Account{}, newProblem(unauthorized, "the access token expired at %s; use a new one", token.ExpiresAt.UTC().Format(time.RFC3339)).
			with("WWW-Authenticate", invalid)
	}
	c.token = token
	return account, nil
}

// translate is for code that returns problems: it logs what problemOf hides.
func (c *call) translate(err error) *problem {
	p, hidden := problemOf(err)
	if hidden {
		c.api.outage.Do(func() {
			c.api.logger.ErrorContext(c.r.Context(), "an engine failed", "route", c.route(), "error", err)
		})
	}
	return p
}

func (c *call) hasOneOf(scopes []store.Scope) bool {
	return slices.ContainsFunc(scopes, c.token.Has)
}

func lacking(scopes []store.Scope) *problem {
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	return newProblem(forbidden, "the access token lacks the scope %s", strings.Join(names, " or ")).
		with("WWW-Authenticate", `Bearer realm="herald", error="insufficient_scope", scope="`+strings.Join(names, " ")+`"`)
}

// accountHeader names the account an admin acts for.
const accountHeader = "Herald-Account"

// actFor settles which account the call is about: the token's own, or the one an admin names.
func (c *call) actFor(own store.Account, admin bool) *problem {
	values := c.r.Header[accountHeader]
	if len(values) > 1 {
		return newProblem(badRequest, "the %s header must name one account", accountHeader)
	}
	if len(values) == 0 || values[0] == own.ID {
		c.account = own
		return nil
	}
	if !admin {
		return newProblem(forbidden, "only a token with the scope admin may act for another account, as the %s header asks", accountHeader)
	}
	unknown := newProblem(notFound, "there is no account %s, which the %s header names", show(values[0]), accountHeader)
	if checkChosenID(values[0]) != nil {
		return unknown
	}
	account, err := c.api.store.Account(c.r.Context(), values[0])
	switch {
	case errors.Is(err, store.ErrNotFound):
		return unknown
	case err != nil:
		return c.translate(err)
	}
	c.account = account
	return nil
}

// named says whether the caller named an account in the header.
func (c *call) named() bool { return len(c.r.Header[accountHeader]) > 0 }

// limiter holds one token bucket for each access token in use.
type limiter struct {
	mu      sync.Mutex
	entries map[store.TokenHash]*limit
}

type limit struct {
	bucket *rate.Limiter
	used   time.Time
}

// maxLimits bounds the buckets. Only valid tokens get one, so that more of them in use at once than
// this is rare; a bucket that is thrown away is full when it comes back, which errs on the kind side.
const maxLimits = 10_000

// take takes one request out of the bucket. It returns 0, or how many seconds to wait.
func (l *limiter) take(hash store.TokenHash, perSecond float64, now time.Time) int {
	if perSecond <= 0 {
		return 0
	}
	burst := max(1, int(math.Ceil(perSecond)))
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[hash]
	if e == nil {
		if len(l.entries) >= maxLimits {
			l.evict(now)
		}
		e = &limit{bucket: rate.NewLimiter(rate.Limit(perSecond), burst)}
		l.entries[hash] = e
	}
	e.used = now
	if e.bucket.Limit() != rate.Limit(perSecond) || e.bucket.Burst() != burst {
		e.bucket.SetLimitAt(now, rate.Limit(perSecond))
		e.bucket.SetBurstAt(now, burst)
	}
	r := e.bucket.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return 0
	}
	r.CancelAt(now)
	return max(1, int(math.Ceil(wait.Seconds())))
}

// evict makes room: buckets that were not used for a minute go, and where that is not enough a tenth
// of all, so that the search is not repeated for each newcomer.
func (l *limiter) evict(now time.Time) {
	for hash, e := range l.entries {
		if now.Sub(e.used) > time.Minute {
			delete(l.entries, hash)
		}
	}
	for hash := range l.entries {
		if len(l.entries) <= maxLimits*9/10 {
			return
		}
		delete(l.entries, hash)
	}
}

// checkChosenID says what is wrong with an id that its owner chooses: of an account, or of an implementation.
func checkChosenID(id string) error {
	if id == "" || len(id) > 64 {
		return errors.New("must have 1 to 64 characters")
	}
	for i, r := range id {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '.' && r != '_' && r != '-') {
			return errors.New("must begin with a letter or a digit and consist of letters, digits, '.', '_' and '-'")
		}
	}
	return nil
}
