package store

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// Limits of web push.
const (
	// MaxEndpointLength bounds the endpoint of a web subscription, in bytes.
	MaxEndpointLength = 2048
	// MaxVAPIDSubject bounds VAPID.Subject, in bytes.
	MaxVAPIDSubject = 256
	// maxWebSubscription bounds the text of a web subscription, in bytes: browsers may add members of their own.
	maxWebSubscription = 8 << 10

	publicKeyLength  = 65
	privateKeyLength = 32
	authLength       = 16
)

// ParseWebSubscription reads a subscription of the Push API as the browser's PushSubscription.toJSON gives it: endpoint, expirationTime, and the keys
// p256dh and auth. Other members are ignored. The keys may be written in either base64 alphabet, padded or not. An error names the
// member that is wrong and what would be right, and repeats nothing of it.
func ParseWebSubscription(text []byte) (DeviceToken, error) {
	if len(text) > maxWebSubscription {
		return DeviceToken{}, fmt.Errorf("the subscription is longer than %d bytes", maxWebSubscription)
	}
	var read struct {
		Endpoint       *string  `json:"endpoint"`
		ExpirationTime *float64 `json:"expirationTime"`
		Keys           *struct {
			P256DH *string `json:"p256dh"`
			Auth   *string `json:"auth"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		if wrong, ok := errors.AsType[*json.SemanticError](err); ok && wrong.JSONPointer != "" {
			return DeviceToken{}, errors.New(member(string(wrong.JSONPointer)) + " is not of the type that a PushSubscription has there")
		}
		return DeviceToken{}, errors.New("the subscription is not a JSON object as the browser's PushSubscription.toJSON gives it")
	}
	switch {
	case read.Endpoint == nil:
		return DeviceToken{}, errors.New("endpoint is missing")
	case read.Keys == nil:
		return DeviceToken{}, errors.New("keys is missing: it has p256dh and auth")
	case read.Keys.P256DH == nil:
		return DeviceToken{}, errors.New("keys.p256dh is missing")
	case read.Keys.Auth == nil:
		return DeviceToken{}, errors.New("keys.auth is missing")
	}
	if err := checkEndpoint(*read.Endpoint); err != nil {
		return DeviceToken{}, fmt.Errorf("endpoint %w", err)
	}
	t := DeviceToken{Platform: PlatformWeb, Kind: TokenWebPush, Token: *read.Endpoint}
	var ok bool
	if t.P256DH, ok = decodeKey(*read.Keys.P256DH); !ok || !validPoint(t.P256DH) {
		return DeviceToken{}, errors.New("keys.p256dh is not a point on the curve P-256 in uncompressed form, 65 bytes in base64url")
	}
	if t.Auth, ok = decodeKey(*read.Keys.Auth); !ok || len(t.Auth) != authLength {
		return DeviceToken{}, errors.New("keys.auth is not 16 bytes in base64url")
	}
	return t, nil
}

// member writes a JSON pointer to one of the members of a subscription as people do.
func member(pointer string) string {
	return strings.ReplaceAll(strings.TrimPrefix(pointer, "/"), "/", ".")
}

// checkEndpoint says what is wrong with the endpoint of a web subscription. Whether the way out is open to it, is not checked here.
func checkEndpoint(s string) error {
	if len(s) > MaxEndpointLength {
		return fmt.Errorf("is longer than %d bytes", MaxEndpointLength)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || !printable(s) {
		return errors.New("is not an absolute https URL")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has a port that is not one of 1 to 65535")
		}
	}
	if u.User != nil {
		return errors.New("has a user name or password, which no endpoint has")
	}
	if strings.Contains(s, "#") {
		return errors.New("has a fragment, which no endpoint has")
	}
	return nil
}

// printable tells whether a text is printable ASCII without space.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// decodeKey reads base64 of either alphabet, padded or not: libraries of the browser's side write both.
func decodeKey(s string) ([]byte, bool) {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	if strings.ContainsAny(s, "\r\n") { // which the decoder skips
		return nil, false
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	return b, err == nil
}

func validPoint(b []byte) bool {
	_, err := ecdh.P256().NewPublicKey(b)
	return err == nil
}

// GenerateVAPID makes a key pair. Its Subject is left to the caller.
func GenerateVAPID() (*VAPID, error) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make vapid key: %w", err)
	}
	return &VAPID{PrivateKey: key.Bytes(), PublicKey: key.PublicKey().Bytes()}, nil
}

// ParseVAPID reads a key pair as tools for web push write it, each key in base64 of either alphabet: the private one of 32 bytes, and the public one of
// 65, which must belong to it, or "". An error names the member that is wrong, privateKey, publicKey or subject, and repeats nothing
// of it.
func ParseVAPID(privateKey, publicKey, subject string) (*VAPID, error) {
	private, ok := decodeKey(privateKey)
	if !ok || len(private) != privateKeyLength {
		return nil, errors.New("privateKey is not 32 bytes in base64url")
	}
	key, err := ecdh.P256().NewPrivateKey(private)
	if err != nil {
		return nil, errors.New("privateKey is not a key of the curve P-256")
	}
	v := &VAPID{PrivateKey: private, PublicKey: key.PublicKey().Bytes(), Subject: subject}
	if publicKey != "" {
		public, ok := decodeKey(publicKey)
		if !ok || len(public) != publicKeyLength {
			return nil, errors.New("publicKey is not a point on the curve P-256 in uncompressed form, 65 bytes in base64url")
		}
		if !bytes.Equal(public, v.PublicKey) {
			return nil, errors.New("publicKey does not belong to privateKey; it may be left out")
		}
	}
	if err := CheckVAPIDSubject(subject); err != nil {
		return nil, err
	}
	return v, nil
}

// CheckVAPIDSubject says what is wrong with VAPID.Subject: it is to be a mailto: or https: URI (RFC 8292, section 2.1) with a host that may exist. Apple
// takes no token that names another, and says no more than that the token is bad.
func CheckVAPIDSubject(subject string) error {
	const right = ", such as mailto:push@example.com or https://example.com/contact"
	if len(subject) > MaxVAPIDSubject {
		return fmt.Errorf("subject is longer than %d bytes", MaxVAPIDSubject)
	}
	host := ""
	if address, ok := strings.CutPrefix(subject, "mailto:"); ok {
		local, domain, _ := strings.Cut(address, "@")
		if local == "" || strings.ContainsAny(address, `?,;:"<>()[]\%`) {
			return errors.New("subject is not mailto: and one address" + right)
		}
		host = domain
	} else {
		u, err := url.Parse(subject)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return errors.New("subject is not a mailto: or https: URI" + right)
		}
		host = u.Hostname()
	}
	if !printable(subject) || !realHost(host) {
		return errors.New("subject names no host that push services take" + right)
	}
	return nil
}

// realHost tells whether a name may be one of the DNS that others can ask for: with a dot, and not under one of the names that lead
// nowhere or to whoever asks (RFC 6761, RFC 6762).
func realHost(host string) bool {
	host = strings.ToLower(host)
	labels := strings.Split(host, ".")
	if len(labels) < 2 || len(host) > 253 {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasPrefix(l, "-") || strings.HasSuffix(l, "-") {
			return false
		}
	}
	switch labels[len(labels)-1] {
	case "localhost", "local", "invalid":
		return false
	}
	return true
}
