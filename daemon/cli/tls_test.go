package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keyPair writes a certificate that vouches for itself, and its key, below dir.
func keyPair(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: text}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestPrivateAuthorityAndClientCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := keyPair(t, dir, "server")
	mine, myKey := keyPair(t, dir, "mine")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(mine)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(text)
	s := httptest.NewUnstartedServer(&api{status: 200, answer: `[]`})
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	token := "HERALD_TOKEN=hrld_mine"
	env := []string{"HERALD_URL=" + s.URL, token, "HERALD_CA=" + cert, "HERALD_CERT=" + mine, "HERALD_KEY=" + myKey}

	for name, c := range map[string]struct {
		environ []string
		r       Remote
		code    int
		says    string
	}{
		"flags":                   {[]string{token}, Remote{URL: s.URL, CA: cert, Cert: mine, Key: myKey}, 0, ""},
		"environment":             {env, Remote{}, 0, ""},
		"flags and environment":   {[]string{token, env[2], env[3]}, Remote{URL: s.URL, Key: myKey}, 0, ""},
		"flags win":               {env, Remote{Cert: cert, Key: key}, 1, "--cert and --key"},
		"no authority":            {env[:2], Remote{Cert: mine, Key: myKey}, 1, "--ca or HERALD_CA"},
		"another authority":       {env[:2], Remote{CA: mine, Cert: mine, Key: myKey}, 1, "--ca or HERALD_CA"},
		"no certificate":          {env[:3], Remote{}, 1, "--cert and --key"},
		"no key":                  {env[:4], Remote{}, 2, "takes both --cert and --key"},
		"a key that does not fit": {env[:2], Remote{CA: cert, Cert: mine, Key: key}, 2, "private key does not match"},
		"no file":                 {env[:2], Remote{CA: dir + "/none"}, 2, "no such file"},
		"no PEM":                  {env[:2], Remote{CA: empty}, 2, "holds no certificate in PEM form"},
		"flags for plain HTTP":    {[]string{token}, Remote{URL: "http://127.0.0.1:1", CA: cert}, 2, "https://"},
		"flags for a socket":      {nil, Remote{Socket: dir + "/s", CA: cert}, 2, "https://"},
		"environment, plain HTTP": {env[1:], Remote{URL: "http://127.0.0.1:1"}, 1, "no daemon answers"},
		"environment, a socket":   {env[1:], Remote{Socket: dir + "/s"}, 1, "no daemon answers"},
	} {
		got := do(c.environ, func(s Streams) error { return TokenList{JSON: true, Remote: c.r}.Run(t.Context(), s, v1) })
		if got.code != c.code || !strings.Contains(got.stderr, c.says) || c.code == 0 && got.stdout != "[]\n" {
			t.Errorf("%s: %+v, want exit code %d and %q", name, got, c.code, c.says)
		}
	}
}
