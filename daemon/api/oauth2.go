package api

import (
	"strconv"
	"strings"

	"herald/store"
)

const (
	maxClientID = 256
	// maxScopes bounds the scopes of a subscription's authentication, maxScope one of them, in bytes.
	maxScopes = 50
	maxScope  = 256
)

// oauth2 reads the parts of authentication by an access token, which the daemon gets by the client credentials
// grant (RFC 6749, section 4.4). All but the secret belong to the input of a PUT.
func (p *subscriptionInput) oauth2(f *fields, auth, before *store.Authentication) {
	auth.TokenURL = p.plainPart(f, "tokenURL", before.TokenURL, checkTokenURL)
	auth.ClientID = p.plainPart(f, "clientId", before.ClientID, checkClientID)
	auth.ClientSecret = secretPart(f, "clientSecret", before.ClientSecret, checkVSChars)
	switch list, is := f.texts("scopes", 0, maxScopes, checkOAuthScope); is {
	case given:
		auth.Scopes = strings.Join(list, " ")
	case absent:
		if p.how == patching {
			auth.Scopes = before.Scopes
		}
	case null, wrong:
	}
	setPart(f, "clientSecretSet", auth.ClientSecret != "")
}

func (p *subscriptionInput) tokenURLChanged() bool {
	next := p.next.Authentication.TokenURL
	return next != "" && (p.current == nil || p.current.Authentication.TokenURL != next)
}

// checkTokenURL is checkCallbackURL for a token endpoint (RFC 6749, section 3.2).
func checkTokenURL(s string) error {
	err := checkCallbackURL(s)
	if err == nil {
		return nil
	}
	return textError(strings.Replace(err.Error(), "use authentication", "use clientId and clientSecret", 1))
}

func checkClientID(s string) error {
	if s == "" || len(s) > maxClientID {
		return textError("must have 1 to " + strconv.Itoa(maxClientID) + " characters")
	}
	return checkVSChars(s)
}

// checkVSChars lets through what a client's id and secret may consist of (RFC 6749, appendices A.1 and A.2).
func checkVSChars(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return textError("must consist of printable ASCII characters")
	}
	return nil
}

// checkOAuthScope lets through one scope (RFC 6749, section 3.3).
func checkOAuthScope(s string) error {
	if s == "" || len(s) > maxScope || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		return textError("must be one scope: 1 to " + strconv.Itoa(maxScope) + ` printable ASCII characters without space, " and \`)
	}
	return nil
}
