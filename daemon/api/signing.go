package api

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"time"

	"herald/store"
)

// The schemes of the Standard Webhooks specification: a secret that both sides have (HMAC-SHA256), or a key pair (Ed25519) of
// which the receiver has the public half.
const (
	symmetricScheme  = "v1"
	asymmetricScheme = "v1a"
)

// The forms of keys in the Standard Webhooks specification.
const (
	secretPrefix  = "whsec_"
	privatePrefix = "whsk_"
	publicPrefix  = "whpk_"
	minSecret     = 24
	maxSecret     = 64
)

// signing reads what pushes are signed with. The scheme follows from the secret that is given; where one is to be generated,
// the caller chooses.
func (p *subscriptionInput) signing() {
	scheme, schemeIs := p.choice("signatureScheme", symmetricScheme, asymmetricScheme)
	s, is := p.text("signingSecret")
	switch is {
	case absent:
		switch {
		case p.how == creating:
			var made store.SigningSecret
			made, p.generated = newSigningSecret(scheme == asymmetricScheme)
			p.next.SigningSecrets = []store.SigningSecret{made}
		case schemeIs == given && scheme != schemeOf(p.next.SigningSecrets):
			p.fault("signatureScheme", "changes with the secret: send a signingSecret of that scheme along")
		}
	case null:
		p.next.SigningSecrets = nil
		if schemeIs == given {
			p.fault("signatureScheme", "must be left out when the signingSecret is removed")
		}
	case given:
		secret, ok := parseSigningSecret(s)
		switch {
		case !ok:
			p.fault("signingSecret", "must be whsec_ and 24 to 64 bytes in base64, or for v1a whsk_ and the 32 or 64 bytes of an Ed25519 private key; leave it out to have one generated")
			return
		case schemeIs == given && secret.Ed25519 != (scheme == asymmetricScheme):
			p.fault("signatureScheme", "must be that of the signingSecret: v1 for whsec_, v1a for whsk_; or leave it out")
		}
		p.next.SigningSecrets = []store.SigningSecret{secret}
	case wrong:
	}
}

// newSigningSecret makes a secret, and the text to hand to the receiver, which an asymmetric one has not.
func newSigningSecret(asymmetric bool) (secret store.SigningSecret, text string) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // documented never to fail: the process ends first
	if asymmetric {
		return store.SigningSecret{Key: key, Ed25519: true}, ""
	}
	return store.SigningSecret{Key: key}, secretPrefix + base64.StdEncoding.EncodeToString(key)
}

func parseSigningSecret(s string) (secret store.SigningSecret, ok bool) {
	text, asymmetric := strings.CutPrefix(s, privatePrefix)
	if !asymmetric {
		if text, ok = strings.CutPrefix(s, secretPrefix); !ok {
			return secret, false
		}
	}
	if strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return secret, false
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	switch {
	case err != nil:
		return secret, false
	case !asymmetric:
		return store.SigningSecret{Key: key}, len(key) >= minSecret && len(key) <= maxSecret
	case len(key) == ed25519.PrivateKeySize && !bytes.Equal(ed25519.NewKeyFromSeed(key[:ed25519.SeedSize]), key):
		return secret, false // the second half is the public key, of another
	case len(key) != ed25519.PrivateKeySize && len(key) != ed25519.SeedSize:
		return secret, false
	}
	return store.SigningSecret{Key: key[:ed25519.SeedSize:ed25519.SeedSize], Ed25519: true}, true
}

// schemeOf is the scheme of the secret in force, or "" for none.
func schemeOf(secrets []store.SigningSecret) string {
	switch {
	case len(secrets) == 0:
		return ""
	case secrets[0].Ed25519:
		return asymmetricScheme
	}
	return symmetricScheme
}

// shownScheme is the scheme where it is not the default.
func shownScheme(secrets []store.SigningSecret) string {
	if scheme := schemeOf(secrets); scheme != symmetricScheme {
		return scheme
	}
	return ""
}

// publicKeys are the public halves of the key pairs in force, the newest first.
func publicKeys(secrets []store.SigningSecret, now time.Time) []string {
	var list []string
	for _, s := range secrets {
		if !s.Ed25519 || !s.ExpiresAt.IsZero() && !now.Before(s.ExpiresAt) {
			continue
		}
		if public, ok := ed25519.NewKeyFromSeed(s.Key).Public().(ed25519.PublicKey); ok {
			list = append(list, publicPrefix+base64.StdEncoding.EncodeToString(public))
		}
	}
	return list
}
