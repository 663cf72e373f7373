package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signed writes a key with its certificate and returns their paths.
func signed(t *testing.T, key crypto.Signer, from, until time.Time) (cert, private string) {
	t.Helper()
	dir := t.TempDir()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until}
	c, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, private = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c}, private: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, private
}

func curve(t *testing.T, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bits(t *testing.T, n int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, n)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestIdentityKeyHasToSignMessages(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key crypto.Signer
		ok  bool
	}{
		"P-256": {curve(t, elliptic.P256()), true}, "P-384": {curve(t, elliptic.P384()), true}, "P-521": {curve(t, elliptic.P521()), false},
		"Ed25519": {ed, true}, "RSA": {bits(t, 2048), true}, "short RSA": {bits(t, 1024), false},
	} {
		now := time.Now()
		cert, key := signed(t, c.key, now.Add(-time.Hour), now.Add(time.Hour))
		_, err := Parse("x.yaml", []byte("identity:\n  cert: "+cert+"\n  key: "+key+"\n"), nil)
		const want = "line 3: identity.key: must be ECDSA (P-256 or P-384), Ed25519, or RSA of at least 2048 bits"
		if c.ok && err != nil || !c.ok && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cert, _ := signed(t, ed, time.Now(), time.Now().Add(time.Hour))
	_, other := signed(t, curve(t, elliptic.P256()), time.Now(), time.Now().Add(time.Hour))
	if _, err := Parse("x.yaml", []byte("identity: {cert: "+cert+", key: "+other+"}"), nil); err == nil || !strings.Contains(err.Error(), "does not load together") {
		t.Errorf("a key of another certificate: %v", err)
	}
}

func TestCertificatesNotValidNowAreWarnedOf(t *testing.T) {
	t.Parallel()
	now, day := time.Now(), 24*time.Hour
	for name, c := range map[string]struct {
		from, until time.Time
		want        string
	}{
		"expired":      {now.Add(-2 * day), now.Add(-day), "the certificate expired at "},
		"not yet":      {now.Add(day), now.Add(100 * day), "the certificate is not valid before "},
		"expires soon": {now.Add(-50 * day), now.Add(13 * day), "the certificate expires soon, at "},
		"of few days":  {now.Add(-4 * day), now.Add(day), "the certificate expires soon, at "},
		"new":          {now.Add(-day), now.Add(5 * day), ""},
		"sound":        {now.Add(-day), now.Add(15 * day), ""},
	} {
		cert, key := signed(t, curve(t, elliptic.P256()), c.from, c.until)
		good, goodKey := signed(t, curve(t, elliptic.P256()), now, now.Add(365*day))
		for place, text := range map[string]string{
			"identity.cert":        "identity: {cert: " + cert + ", key: " + key + "}",
			"listen.tls.cert":      "listen: {tls: {cert: " + cert + ", key: " + key + "}}",
			"listen.tls.client_ca": "listen: {tls: {cert: " + good + ", key: " + goodKey + ", client_ca: " + cert + "}}",
		} {
			config, err := Parse("x.yaml", []byte(text), nil)
			if err != nil {
				t.Fatalf("%s %s: it is refused: %v", place, name, err)
			}
			got := strings.Join(config.Warnings(), "\n")
			if c.want == "" && strings.Contains(got, "certificate") || c.want != "" && !strings.Contains(got, place+": "+c.want) {
				t.Errorf("%s %s: warned %q, want %q", place, name, got, c.want)
			}
		}
	}
}
