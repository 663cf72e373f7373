package api

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"herald/store"
)

type tokenView struct {
	ID        string        `json:"id"`
	AccountID string        `json:"accountId"`
	Name      string        `json:"name"`
	Scopes    []store.Scope `json:"scopes"`
	CreatedAt time.Time     `json:"createdAt"`
	ExpiresAt time.Time     `json:"expiresAt,omitzero"`
	Token     string        `json:"token,omitempty"`
}

func viewToken(t *store.Token) tokenView {
	v := tokenView{ID: t.ID, AccountID: t.AccountID, Name: t.Name, Scopes: t.Scopes, CreatedAt: t.CreatedAt.UTC()}
	if !t.ExpiresAt.IsZero() {
		v.ExpiresAt = t.ExpiresAt.UTC()
	}
	return v
}

// listTokens lists the tokens of all accounts, or of the one the Herald-Account header names.
func (a *API) listTokens(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit, after := limitOf(q, &fs, 0), q.Get("after")
	if err := fs.err(); err != nil {
		return err
	}
	return stream(c, q, limit, func(last *store.Token, n int) ([]store.Token, error) {
		if last != nil {
			after = last.ID
		}
		return a.store.Tokens(c.r.Context(), c.tokenAccount(), after, n)
	}, func(t *store.Token) string { return t.ID }, viewOf(viewToken))
}

// tokenAccount restricts calls about tokens to the account that was named, if one was.
func (c *call) tokenAccount() string {
	if c.named() {
		return c.account.ID
	}
	return ""
}

func (a *API) createToken(c *call) error {
	var fs faults
	f, err := c.readObject(&fs)
	if err != nil {
		return err
	}
	t := store.Token{AccountID: c.account.ID, CreatedAt: a.moment()}
	if id, p := f.text("accountId"); p == given {
		t.AccountID = id
		if err := checkChosenID(id); err != nil {
			f.fault("accountId", "%s", err.Error())
		}
	}
	t.Name, _ = f.label("name")
	names, p := f.texts("scopes", 1, len(store.Scopes()), checkScope)
	if p == absent || p == null {
		f.fault("scopes", "is needed: an array of what the token may do, of %s", scopeNames())
	}
	for _, n := range names {
		t.Scopes = append(t.Scopes, store.Scope(n))
	}
	if at, p := f.moment("expiresAt"); p == given {
		t.ExpiresAt = at.Truncate(time.Millisecond)
		if t.Expired(t.CreatedAt) {
			f.fault("expiresAt", "must be in the future; leave it out for a token that does not expire")
		}
	}
	f.end("")
	if err := fs.err(); err != nil {
		return err
	}
	var secret string
	t.ID, secret = NewToken()
	t.Hash = sha256.Sum256([]byte(secret))
	if err := a.store.CreateToken(c.r.Context(), t); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			fs.add("accountId", "there is no account %s; create it with POST /accounts", show(t.AccountID))
			return fs.err()
		}
		return err
	}
	v := viewToken(&t)
	v.Token = secret
	return c.answer(http.StatusOK, v)
}

// NewToken makes the id of an access token and its secret: 256 random bits, so that its plain hash may be kept.
func NewToken() (id, secret string) {
	var b [48]byte
	_, _ = rand.Read(b[:]) // documented never to fail: the process ends first
	return "tok_" + lowerHex32(b[:16]), "hrld_" + base64.RawURLEncoding.EncodeToString(b[16:])
}

// lowerHex32 is base32hex (RFC 4648, section 7) in lower case without padding: 26 characters of 16 bytes.
func lowerHex32(b []byte) string {
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

func checkScope(s string) error {
	if !slices.Contains(store.Scopes(), store.Scope(s)) {
		return textError("must be one of " + scopeNames())
	}
	return nil
}

func scopeNames() string {
	names := make([]string, 0, len(store.Scopes()))
	for _, s := range store.Scopes() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

func (a *API) deleteToken(c *call) error {
	if err := a.store.DeleteToken(c.r.Context(), c.tokenAccount(), c.r.PathValue("token")); err != nil {
		return err
	}
	return c.empty()
}
