package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// The errors of this file say what would be right, for whoever wrote the value.

// CheckContact judges the id of a contact.
func CheckContact(id string) error {
	if strings.TrimSpace(id) == "" {
		return errors.New("must not be blank")
	}
	return checkPlain(id, MaxContactLength)
}

// CheckDeviceToken judges a token, or an installation id, by what every provider's have in common. Their length says nothing.
func CheckDeviceToken(token string) error {
	if strings.TrimSpace(token) == "" {
		return errors.New("must not be blank")
	}
	if strings.ContainsFunc(token, unicode.IsSpace) {
		return errors.New("must not hold spaces or line ends; it is sent as the app was given it")
	}
	return checkPlain(token, MaxTokenLength)
}

// checkPlain refuses what is too long, and what cannot be seen.
func checkPlain(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("must have at most %d bytes", most)
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return errors.New("must not hold control characters such as line ends")
	}
	return nil
}

// minRSABits is what Google's keys have, and the least that is safe.
const minRSABits = 2048

// ParseFCMKey reads the private_key of a service account: an RSA key in PEM, which it returns as PKCS #8 in DER.
func ParseFCMKey(text string) ([]byte, error) {
	key, err := parseKey(text)
	if err != nil {
		return nil, err
	}
	r, ok := key.(*rsa.PrivateKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("must be the RSA key of a service account; this is %s", kindOfKey(key))
	case r.N.BitLen() < minRSABits:
		return nil, fmt.Errorf("must be an RSA key of at least %d bits; this one has %d", minRSABits, r.N.BitLen())
	}
	return marshalKey(key)
}

// ParseAPNsKey reads a .p8 file of Apple: a P-256 key in PEM, which it returns as PKCS #8 in DER.
func ParseAPNsKey(text string) ([]byte, error) {
	key, err := parseKey(text)
	if err != nil {
		return nil, err
	}
	if e, ok := key.(*ecdsa.PrivateKey); !ok || e.Curve != elliptic.P256() {
		return nil, fmt.Errorf("must be the P-256 key of a .p8 file; this is %s", kindOfKey(key))
	}
	return marshalKey(key)
}

// parseKey reads a private key in PEM.
func parseKey(text string) (any, error) {
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, errors.New("must be a private key in PEM, from -----BEGIN PRIVATE KEY----- to its end, with its line ends")
	case strings.TrimSpace(string(rest)) != "":
		return nil, errors.New("must be one private key in PEM; there is more after it")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, errors.New("must be a private key that is not encrypted")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("must be a private key; this is a %s", strings.ToLower(clipped(block.Type)))
	}
	if err != nil {
		return nil, errors.New("must be a private key in PEM; this one is damaged")
	}
	return key, nil
}

// clipped keeps a text from outside short.
func clipped(s string) string { return s[:min(len(s), 40)] }

func kindOfKey(key any) string {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return fmt.Sprintf("an RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PrivateKey:
		return "a " + k.Curve.Params().Name + " key"
	default:
		return "a key of another kind"
	}
}

func marshalKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("must be a private key that can be stored")
	}
	return der, nil
}

// DefaultTokenURI is where Google gives tokens to service accounts.
const DefaultTokenURI = "https://oauth2.googleapis.com/token" //nolint:gosec // an address

// CheckTokenURI judges the token_uri of a service account: whoever is there gets a signed assertion, and Herald asks for whatever it says, so
// it is Google's, or of the origin given, that of the operator's own; "" for none.
func CheckTokenURI(uri, origin string) error {
	u, err := url.Parse(uri)
	if err == nil && u.User == nil && u.Opaque == "" && u.Fragment == "" {
		host := u.Hostname()
		if u.Scheme == "https" && strings.HasSuffix(host, ".googleapis.com") && (u.Port() == "" || u.Port() == "443") {
			return nil
		}
		if origin != "" && u.Scheme+"://"+u.Host == origin {
			return nil
		}
	}
	return errors.New("must be of Google: https:// and a host of googleapis.com, such as " + DefaultTokenURI)
}

// PublicText is the public key as browsers take it for applicationServerKey: base64url without padding.
func (v *VAPID) PublicText() string { return base64.RawURLEncoding.EncodeToString(v.PublicKey) }
