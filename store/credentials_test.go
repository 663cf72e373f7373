package store

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
)

func block(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Each kind of key is told from the other, in every form that files come in.
func TestKeysAreToldApart(t *testing.T) {
	t.Parallel()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return block(t, "PRIVATE KEY", der, err)
	}
	sec1, err := x509.MarshalECPrivateKey(e)
	public, perr := x509.MarshalPKIXPublicKey(e.Public())
	for _, c := range []struct{ text, fcm, apns string }{
		{pkcs8(r), "", "this is an RSA key of 2048 bits"},
		{block(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil), "", "this is an RSA key"},
		{"\n" + pkcs8(e) + "\n", "this is a P-256 key", ""},
		{block(t, "EC PRIVATE KEY", sec1, err), "this is a P-256 key", ""},
		{pkcs8(ed), "another kind", "another kind"},
		{block(t, "PUBLIC KEY", public, perr), "this is a public key", "this is a public key"},
		{block(t, "ENCRYPTED PRIVATE KEY", []byte("x"), nil), "not encrypted", "not encrypted"},
		{block(t, "PRIVATE KEY", []byte("x"), nil), "damaged", "damaged"},
		{pkcs8(e) + pkcs8(e), "more after it", "more after it"},
		{"", "PEM", "PEM"},
		{strings.ReplaceAll(pkcs8(r), "\n", ""), "line ends", "line ends"},
	} {
		for _, is := range []struct {
			parse func(string) ([]byte, error)
			want  string
		}{{ParseFCMKey, c.fcm}, {ParseAPNsKey, c.apns}} {
			der, err := is.parse(c.text)
			if is.want == "" {
				if _, perr := x509.ParsePKCS8PrivateKey(der); err != nil || perr != nil {
					t.Errorf("%.40q: %v, %v", c.text, err, perr)
				}
			} else if err == nil || !strings.Contains(err.Error(), is.want) {
				t.Errorf("%.40q: %v, want …%s", c.text, err, is.want)
			}
		}
	}
}

func TestCheckTokenURI(t *testing.T) {
	t.Parallel()
	for uri, ok := range map[string]bool{
		DefaultTokenURI: true, "https://sts.googleapis.com:443/v1/token": true, "http://127.0.0.1:9/token": true,
		"": false, "https://googleapis.com.evil.example/": false, "https://xgoogleapis.com/": false, "http://oauth2.googleapis.com/token": false,
		"https://u@oauth2.googleapis.com/token": false, "https://oauth2.googleapis.com:8443/token": false, "http://127.0.0.1:90/token": false,
		"https:oauth2.googleapis.com": false, "https://oauth2.googleapis.com/#x": false,
	} {
		if err := CheckTokenURI(uri, "http://127.0.0.1:9"); (err == nil) != ok {
			t.Errorf("%q: %v", uri, err)
		}
	}
	if CheckTokenURI("://", "") == nil || CheckTokenURI("/token", "") == nil {
		t.Error("what is no absolute URL is taken")
	}
}

func TestCheckContactAndTokens(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{
		"+31 6 12345678": true, "a@b.example": true, "64be7af142fe590001a22923": true, "a/b": true, strings.Repeat("x", 256): true,
		"": false, " \t": false, "a\x00b": false, "a\u0085": false, strings.Repeat("x", 257): false,
	} {
		if err := CheckContact(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
	for token, ok := range map[string]bool{"t": true, strings.Repeat("x", MaxTokenLength): true, "": false, " ": false, "a b": false, "a\n": false, strings.Repeat("x", MaxTokenLength+1): false} {
		if err := CheckDeviceToken(token); (err == nil) != ok {
			t.Errorf("%.20q: %v", token, err)
		}
	}
}
