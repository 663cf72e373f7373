package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"herald/store"
)

// keyAndLeaf makes a key with its certificate.
func keyAndLeaf(t testing.TB, name string, issuer *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	if issuer == nil {
		issuer, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, leaf
}

// The rounds of deriving keys are seen in every form of encryption, before any of them is done.
func TestDerivationIsSeen(t *testing.T) {
	t.Parallel()
	key, leaf := keyAndLeaf(t, "a", nil, nil)
	for name, c := range map[string]struct {
		encoder *pkcs12.Encoder
		want    int64
	}{
		"RC2":        {pkcs12.LegacyRC2.WithIterations(1001), 3 * 1001},
		"triple DES": {pkcs12.LegacyDES.WithIterations(1001), 3 * 1001},
		"AES":        {pkcs12.Modern2023.WithIterations(1001), 3 * 1001},
		"PBMAC1":     {pkcs12.Modern2026.WithIterations(1001), 3 * 1001},
		"none":       {pkcs12.Passwordless, 0},
	} {
		password := "word"
		if name == "none" {
			password = ""
		}
		file, err := c.encoder.Encode(key, leaf, nil, password)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := derivation(file); !ok || got < c.want || got > c.want+2 {
			t.Errorf("%s: %d rounds, want %d", name, got, c.want)
		}
		if d := decodePKCS12(base64.StdEncoding.EncodeToString(file), password, time.Now()); d.fault != "" {
			t.Errorf("%s: %s", name, d.fault)
		}
	}
	file, err := pkcs12.Modern2023.WithIterations(700_000).Encode(key, leaf, nil, "word")
	if err != nil {
		t.Fatal(err)
	}
	if d := decodePKCS12(base64.StdEncoding.EncodeToString(file), "wrong, and not tried", time.Now()); d.field != "pkcs12" {
		t.Errorf("too many rounds: %+v", d)
	}
	nested := []byte{0x04, 0x00}
	for range 1000 {
		if nested, err = asn1.Marshal(nested); err != nil {
			t.Fatal(err)
		}
	}
	if seen(nested, 0) <= maxDerivation {
		t.Error("a value nested without end is looked into")
	}
}

func TestChainOfAFileIsOrdered(t *testing.T) {
	t.Parallel()
	rootKey, root := keyAndLeaf(t, "root", nil, nil)
	middleKey, middle := keyAndLeaf(t, "middle", root, rootKey)
	key, leaf := keyAndLeaf(t, "leaf", middle, middleKey)
	_, stranger := keyAndLeaf(t, "stranger", nil, nil)
	// The file has its certificates in disorder, and one that does not belong there.
	d := certificateOf(key, stranger, []*x509.Certificate{root, leaf, middle}, time.Now())
	if d.fault != "" {
		t.Fatal(d.fault)
	}
	pair, err := tls.X509KeyPair([]byte(d.certificate.Chain), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: d.certificate.Key}))
	if err != nil {
		t.Fatal(err)
	}
	if len(pair.Certificate) != 3 || string(pair.Certificate[0]) != string(leaf.Raw) || string(pair.Certificate[1]) != string(middle.Raw) || string(pair.Certificate[2]) != string(root.Raw) {
		t.Errorf("the chain has %d certificates, in another order", len(pair.Certificate))
	}
}

// Only key pairs whose signatures can come are shown.
func TestPublicKeysInForce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	first, text := newSigningSecret(true)
	old, _ := newSigningSecret(true)
	gone, _ := newSigningSecret(true)
	symmetric, secret := newSigningSecret(false)
	old.ExpiresAt, gone.ExpiresAt = now.Add(time.Second), now
	list := publicKeys([]store.SigningSecret{first, old, symmetric, gone}, now)
	want := append(publicKeys([]store.SigningSecret{first}, now), publicKeys([]store.SigningSecret{old}, now)...)
	if len(list) != 2 || !slices.Equal(list, want) || text != "" || secret == "" {
		t.Errorf("shown are %v", list)
	}
}

// A receiver that refused one certificate may take another: what is known of it is forgotten.
func TestHealthIsForgottenWithTheCertificate(t *testing.T) {
	t.Parallel()
	ill := store.Health{FailingSince: testNow, Failures: 9}
	b := newBed(t)
	_, path := b.subscribe(`{"dataCallbackURL":"https://r.example/x"}`)
	for _, want := range []store.Health{{}, ill} { // the second time it is the same
		b.set(func(s *store.Subscription) { s.Health = ill })
		wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"clientCertificate":true}`), 200)
		if got := b.stored().Health; got != want {
			t.Errorf("health %+v, want %+v", got, want)
		}
	}
}

// While a file takes long, others are told to come back.
func TestFilesAreReadOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &API{decoding: make(chan struct{}, 1), now: time.Now}
		a.decoding <- struct{}{}
		began := time.Now()
		d, p := a.decoder(t.Context())("QUJD", "")
		if d != nil || p == nil || p.kind != unavailable || time.Since(began) != decodingPatience {
			t.Errorf("%+v, %+v after %v", d, p, time.Since(began))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("gone"))
		if d, p = a.decoder(ctx)("QUJD", ""); d != nil || p == nil {
			t.Errorf("%+v, %+v for a client that has gone", d, p)
		}
		<-a.decoding
		if d, p = a.decoder(t.Context())("QUJD", ""); d == nil || d.fault == "" || p != nil || len(a.decoding) != 0 {
			t.Errorf("%+v, %+v when there is room", d, p)
		}
	})
}

// FuzzPKCS12 asks of any file that it is refused with words, or gives a chain and a key that fit.
func FuzzPKCS12(f *testing.F) {
	key, leaf := keyAndLeaf(f, "a", nil, nil)
	for _, e := range []*pkcs12.Encoder{pkcs12.LegacyRC2, pkcs12.LegacyDES, pkcs12.Modern2023.WithIterations(2), pkcs12.Passwordless} {
		password := "word"
		if e == pkcs12.Passwordless {
			password = ""
		}
		file, err := e.Encode(key, leaf, nil, password)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file, password)
	}
	f.Fuzz(func(t *testing.T, file []byte, password string) {
		if rounds, ok := derivation(file); ok && rounds > 100_000 {
			return // would only take long
		}
		d := decodePKCS12(base64.StdEncoding.EncodeToString(file), password, time.Now())
		if d.fault != "" {
			if d.field != "pkcs12" && d.field != "password" {
				t.Errorf("the fault %q is of the field %q", d.fault, d.field)
			}
			return
		}
		if _, err := tls.X509KeyPair([]byte(d.certificate.Chain), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: d.certificate.Key})); err != nil {
			t.Errorf("taken, but %v", err)
		}
	})
}
