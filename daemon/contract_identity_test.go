package daemon_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// chain fetches the certificates of /certificates/default, without a token.
func (h *herald) chain() []*x509.Certificate {
	h.t.Helper()
	a := h.as("").do("GET", "/certificates/default", nil).is(200)
	if got := a.header.Get("Content-Type"); got != "application/pem-certificate-chain" {
		h.t.Errorf("the chain is %q", got)
	}
	var list []*x509.Certificate
	for rest := a.body; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if len(list) == 0 || len(rest) > 0 || strings.Contains(string(a.body), "PRIVATE") {
				h.t.Fatalf("no chain in PEM: %s", a.body)
			}
			return list
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			h.t.Fatal(err)
		}
		list = append(list, c)
	}
}

// inputs takes Signature-Input apart, as RFC 9421, section 4.1 has it.
var inputs = regexp.MustCompile(`^herald=(\(([^)]*)\);created=(\d+);keyid="([0-9a-f]{64})";alg="([a-z0-9-]+)")$`)

// signedBy returns the certificate whose key signed the push (RFC 9421), in the judgement of this test, which knows the
// chain and the request and nothing else. The scheme and host are what the receiver is reached by.
func signedBy(p push, origin string, chain []*x509.Certificate) (*x509.Certificate, error) {
	in, sig := p.header["Signature-Input"], p.header["Signature"]
	if len(in) != 1 || len(sig) != 1 {
		return nil, fmt.Errorf("signatures %q %q", in, sig)
	}
	m := inputs.FindStringSubmatch(in[0])
	if m == nil {
		return nil, fmt.Errorf("the input is %q", in[0])
	}
	want := `"@method" "@target-uri" "content-digest" "webhook-id" "webhook-timestamp"`
	if p.method == http.MethodGet {
		want = strings.Replace(want, `"content-digest" `, "", 1)
	} else if sum := sha256.Sum256(p.body); p.header.Get("Content-Digest") != "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":" {
		return nil, fmt.Errorf("the digest is %q", p.header.Get("Content-Digest"))
	}
	if m[2] != want || m[3] != p.header.Get("Webhook-Timestamp") {
		return nil, fmt.Errorf("covered are %s, created %s", m[2], m[3])
	}
	var text strings.Builder
	for name := range strings.FieldsSeq(m[2]) {
		value := ""
		switch plain := strings.Trim(name, `"`); plain {
		case "@method":
			value = p.method
		case "@target-uri":
			value = origin + p.url
		default:
			value = p.header.Get(plain)
		}
		text.WriteString(name + ": " + value + "\n")
	}
	text.WriteString(`"@signature-params": ` + m[1])
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(sig[0], "herald=:"), ":"))
	if err != nil {
		return nil, err
	}
	for _, c := range chain {
		if sum := sha256.Sum256(c.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) == m[4] {
			return c, judged(c, m[5], []byte(text.String()), raw)
		}
	}
	return nil, fmt.Errorf("no certificate has the key %s", m[4])
}

func judged(c *x509.Certificate, alg string, text, sig []byte) error {
	ok := false
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(text)
		ok = alg == "ecdsa-p256-sha256" && len(sig) == 64 &&
			ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case *rsa.PublicKey:
		sum := sha512.Sum512(text)
		ok = alg == "rsa-pss-sha512" && rsa.VerifyPSS(k, crypto.SHA512, sum[:], sig, &rsa.PSSOptions{SaltLength: 64}) == nil
	case ed25519.PublicKey:
		ok = alg == "ed25519" && ed25519.Verify(k, text, sig)
	}
	if !ok {
		return fmt.Errorf("the signature by %s is wrong for\n%s", alg, text)
	}
	return nil
}

func TestContract_D1_TheChainIsServedWithoutAToken(t *testing.T) {
	t.Parallel()
	h := start(t, "public_url: https://push.example.com/base")
	c := h.chain()
	if len(c) != 1 {
		t.Fatalf("%d certificates", len(c))
	}
	leaf := c[0]
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || leaf.Subject.CommonName != "push.example.com" || !slices.Equal(leaf.DNSNames, []string{"push.example.com"}) {
		t.Errorf("the certificate is for %v %v", leaf.Subject, leaf.DNSNames)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || leaf.IsCA {
		t.Errorf("usage %v %v, CA %v", leaf.KeyUsage, leaf.ExtKeyUsage, leaf.IsCA)
	}
	if d := leaf.NotAfter.Sub(leaf.NotBefore); d != 398*24*time.Hour || time.Until(leaf.NotAfter) < 397*24*time.Hour || time.Now().Before(leaf.NotBefore) {
		t.Errorf("valid from %v until %v", leaf.NotBefore, leaf.NotAfter)
	}
	for _, call := range [][2]string{{"POST", "/certificates/default"}, {"DELETE", "/certificates/default"}} {
		h.as("").do(call[0], call[1], nil).problem(405)
	}
	h.as("").do("GET", "/certificates/other", nil).problem(404)
	h.as("").do("HEAD", "/certificates/default", nil).is(200)

	key0 := filepath.Join(h.dir, "data", "identity.key")
	if fi, err := os.Stat(key0); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key is kept with %v, %v", fi, err)
	}
	again := h.restart("public_url: https://push.example.com/base").chain()
	if len(again) != 1 || !again[0].Equal(leaf) {
		t.Error("a restart has another certificate")
	}
}

func TestContract_D1_EveryPushIsSignedByTheCertificate(t *testing.T) {
	t.Parallel()
	h := start(t)
	chain := h.chain()
	for _, f := range []fields{
		{"method": "POST"},
		{"method": "PUT", "payload": "data"},
		{"method": "GET"},
		{"method": "POST", "numberOfRecords": 2, "maxWaitSeconds": 0},
		{"method": "GET", "authentication": fields{"type": "query", "name": "key", "value": "a b/ü&"}},
		{"method": "POST", "signingSecret": nil}, // the one has nothing to do with the other
	} {
		r := receive(t)
		for _, path := range []string{"", "/a%2Fb/ü?x=1&y=%20", "/?"} {
			f["dataCallbackURL"], f["messageSignature"] = r.URL+path, true
			id := h.admin().do("POST", "/subscriptions", f).is(200).text("id")
			event := h.publish("task.create", "project/proj1", fields{"text": "é"})
			h.delivery(event, id, "delivered")
			h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
		}
		pushes := r.wait(3)
		for _, p := range pushes {
			by, err := signedBy(p, r.URL, chain)
			if err != nil || by != chain[0] {
				t.Errorf("%v: %v", f, err)
				continue
			}
			for what, change := range map[string]func(*push){
				"method":    func(p *push) { p.method = "PATCH" },
				"target":    func(p *push) { p.url += "x" },
				"id":        func(p *push) { p.header.Set("Webhook-Id", "other") },
				"timestamp": func(p *push) { p.header.Set("Webhook-Timestamp", "1") },
				"digest":    func(p *push) { p.header.Set("Content-Digest", "sha-256=:AA==:") },
				"body":      func(p *push) { p.body = []byte("{}") },
			} {
				other := p
				other.header = p.header.Clone()
				change(&other)
				if _, err := signedBy(other, r.URL, chain); err == nil && (p.method != "GET" || what != "digest" && what != "body") {
					t.Errorf("%v: the signature does not cover the %s", f, what)
				}
			}
			if _, has := p.header["Content-Digest"]; has == (p.method == "GET") {
				t.Errorf("%v: digest %v", f, has)
			}
		}
	}
}

func TestContract_D1_AConfiguredIdentity(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, key := range map[string]crypto.Signer{"ed25519": ed, "rsa-pss-sha512": long} {
		ca := authority(t)
		dir := t.TempDir()
		cert, private := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
		write := func(key crypto.Signer) {
			t.Helper()
			leaf := ca.issue(t, "herald.example", key)
			if err := os.WriteFile(cert, append(pemOf("CERTIFICATE", leaf.Raw), pemOf("CERTIFICATE", ca.cert.Raw)...), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(private, pemOf("PRIVATE KEY", pkcs8(t, key)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(key)
		h := start(t, fmt.Sprintf("identity: {cert: %s, key: %s}", cert, private))
		chain := h.chain()
		if len(chain) != 2 || !chain[1].Equal(ca.cert) || chain[0].CheckSignatureFrom(ca.cert) != nil {
			t.Errorf("the chain is %v", chain)
		}
		r := receive(t)
		id := h.subscribe(r.URL, fields{"messageSignature": true})
		h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
		p := r.wait(1)[0]
		if by, err := signedBy(p, r.URL, chain); err != nil || by != chain[0] || !strings.Contains(p.header.Get("Signature-Input"), `alg="`+algorithm+`"`) {
			t.Errorf("%s: %v, %v", algorithm, by, err)
		}
		if _, err := os.Stat(filepath.Join(h.dir, "data", "identity.key")); err == nil {
			t.Error("a key was made although one is configured")
		}
	}
}

// SIGHUP has a configured identity read at once.
func TestContract_D1_AConfiguredIdentityIsReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, private := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writeCertificate(t, cert, private, 1)
	address := freeAddress(t)
	c, h := spawnReady(t, configFile(t, dir, address, fmt.Sprintf("identity: {cert: %s, key: %s}", cert, private)), address)
	first := h.chain()
	if len(first) != 1 || first[0].SerialNumber.Int64() != 1 {
		t.Fatalf("the chain is %v", first)
	}
	writeCertificate(t, cert, private, 2_000_000) // of another size
	c.signal(syscall.SIGHUP)
	h.eventually("the new certificate is served", func() bool { return h.chain()[0].SerialNumber.Int64() == 2_000_000 })
	if chain := h.chain(); len(chain) != 2 || !chain[1].Equal(first[0]) {
		t.Errorf("the one before is gone: %d certificates", len(chain))
	}
}

// issuer is an authority of the tests.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func authority(t *testing.T) *issuer {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func (i *issuer) issue(t *testing.T, name string, key crypto.Signer) *x509.Certificate {
	t.Helper()
	return i.issueUntil(t, name, key, time.Now().Add(time.Hour))
}

func (i *issuer) issueUntil(t *testing.T, name string, key crypto.Signer, until time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// strict is a receiver over TLS that takes nobody without a client certificate. It answers with the fingerprint of the one it was
// shown, and the port it was called from, which tells connections apart.
func strict(t *testing.T, ca *issuer) *receiver {
	t.Helper()
	r := &receiver{t: t}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		p := push{req.Method, req.URL.String(), req.Header.Clone(), body, time.Now()}
		sum := sha256.Sum256(req.TLS.PeerCertificates[0].Raw)
		p.header.Set("Test-Certificate", hex.EncodeToString(sum[:]))
		p.header.Set("Test-Certificates", strconv.Itoa(len(req.TLS.PeerCertificates)))
		p.header.Set("Test-Connection", req.RemoteAddr)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.pushes = append(r.pushes, p)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes are meant to fail here
	key := newKey(t)
	s.TLS = &tls.Config{
		ClientAuth:   tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{ca.issue(t, "localhost", key).Raw}, PrivateKey: key}},
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// startTrusting runs a daemon that trusts the authority as the receivers' one.
func startTrusting(t *testing.T, ca *issuer, dir string) *herald {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pemOf("CERTIFICATE", ca.cert.Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	return startWith(t, dir, []string{"HERALD_EGRESS_CA_FILE=" + path})
}

func TestContract_D1_ClientCertificateOfHerald(t *testing.T) {
	t.Parallel()
	ca := authority(t)
	h := startTrusting(t, ca, t.TempDir())
	r := strict(t, ca)
	created := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "clientCertificate": true, "messageSignature": true, "delivery": patiently()}).is(200).object()
	id, _ := created["id"].(string)
	if created["clientCertificate"] != true || h.read(id)["clientCertificate"] != true {
		t.Errorf("it is shown as %v", created)
	}
	for range 3 {
		h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	}
	sum := sha256.Sum256(h.chain()[0].Raw)
	pushes := r.wait(3)
	for _, p := range pushes {
		if p.header.Get("Test-Certificate") != hex.EncodeToString(sum[:]) || p.header.Get("Test-Connection") != pushes[0].header.Get("Test-Connection") {
			t.Errorf("shown was %q over %q", p.header.Get("Test-Certificate"), p.header.Get("Test-Connection"))
		}
		if _, err := signedBy(p, r.URL, h.chain()); err != nil {
			t.Error(err)
		}
	}
	// Without it the receiver refuses, and says so.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"clientCertificate": false}).is(200)
	if _, has := h.read(id)["clientCertificate"]; has {
		t.Error("it is still shown")
	}
	d := h.delivery(h.publish("task.create", "", fields{}), id, "retrying")
	if a := attempts(t, d); !strings.Contains(fmt.Sprint(a[0]["error"]), "certificate") {
		t.Errorf("the attempt says %v", a[0])
	}
	// PUT takes it back to the default, as it is no secret.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"clientCertificate": true}).is(200)
	h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL}).is(200)
	if _, has := h.read(id)["clientCertificate"]; has {
		t.Error("PUT kept it")
	}
}

func TestContract_D1_ClientCertificateOfTheSubscription(t *testing.T) {
	t.Parallel()
	ca := authority(t)
	h := startTrusting(t, ca, t.TempDir())
	r := strict(t, ca)
	var ids, prints []string
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for n, c := range []struct {
		encoder *pkcs12.Encoder
		key     crypto.Signer
	}{{pkcs12.LegacyRC2, newKey(t)}, {pkcs12.LegacyDES, long}, {pkcs12.Modern2023, newKey(t)}} {
		name := fmt.Sprintf("client-%d", n)
		leaf := ca.issue(t, name, c.key)
		file, err := c.encoder.Encode(c.key, leaf, []*x509.Certificate{ca.cert}, "pass wörd")
		if err != nil {
			t.Fatal(err)
		}
		text := base64.StdEncoding.EncodeToString(file)
		a := h.admin().do("POST", "/subscriptions", fields{
			"dataCallbackURL": r.URL, "clientCertificate": fields{"pkcs12": text, "password": "pass wörd"}, "events": []string{"to." + name},
		}).is(200)
		view, _ := a.object()["clientCertificate"].(map[string]any)
		if view["pkcs12Set"] != true || view["subject"] != "CN="+name || view["notAfter"] != leaf.NotAfter.UTC().Format(time.RFC3339) || len(view) != 3 {
			t.Errorf("it is shown as %v", view)
		}
		if strings.Contains(string(a.body), text[:40]) || strings.Contains(string(a.body), "wörd") {
			t.Error("the file or the password is shown")
		}
		sum := sha256.Sum256(leaf.Raw)
		ids, prints = append(ids, a.text("id")), append(prints, hex.EncodeToString(sum[:]))
	}
	connections := make(map[string]string)
	check := func(h *herald) {
		t.Helper()
		for round := range 2 {
			for n, id := range ids {
				before := len(r.got())
				h.delivery(h.publish(fmt.Sprintf("to.client-%d", n), "", fields{}), id, "delivered")
				p := r.wait(before + 1)[before]
				if p.header.Get("Test-Certificate") != prints[n] || p.header.Get("Test-Certificates") != "2" {
					t.Errorf("client-%d: shown was %s", n, p.header.Get("Test-Certificate"))
				}
				at := p.header.Get("Test-Connection")
				if of, known := connections[at]; known && of != id || round > 0 && !known { // a changed subscription keeps its connection
					t.Errorf("client-%d: a connection of %q was used", n, of)
				}
				connections[at] = id
			}
		}
	}
	check(h)
	// What was read may be sent back, PUT without it keeps it, PATCH of something else too.
	for _, id := range ids {
		read := h.read(id)
		h.admin().do("PUT", "/subscriptions/"+id, read).is(200)
		h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "events": read["events"]}).is(200)
		h.admin().do("PATCH", "/subscriptions/"+id, fields{"maxWaitSeconds": 2}).is(200)
	}
	check(h)
	// The key is sealed on disk, and there after a restart.
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(filepath.Join(h.dir, "data", "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	if der := pkcs8(t, long); bytes.Contains(disk, der[30:90]) {
		t.Error("the private key is in the clear on the disk")
	}
	h = startTrusting(t, ca, h.dir)
	check(h)
	h.admin().do("PATCH", "/subscriptions/"+ids[0], fields{"clientCertificate": nil}).is(200)
	if _, has := h.read(ids[0])["clientCertificate"]; has {
		t.Error("null does not remove it")
	}
}

func TestContract_D1_ClientCertificatesThatCannotBe(t *testing.T) {
	t.Parallel()
	h := start(t)
	ca := authority(t)
	key := newKey(t)
	encode := func(e *pkcs12.Encoder, key crypto.Signer, leaf *x509.Certificate) string {
		t.Helper()
		file, err := e.Encode(key, leaf, nil, "secretword")
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(file)
	}
	good := encode(pkcs12.Modern2023, key, ca.issue(t, "a", key))
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	const target = "https://127.0.0.1:8421/"
	id := h.subscribe(target, nil)
	for _, c := range []struct {
		value any
		field string
		words []string
	}{
		{"yes", "clientCertificate", []string{"true, false or an object"}},
		{1, "clientCertificate", []string{"true, false or an object"}},
		{fields{}, "/clientCertificate/pkcs12", []string{"is needed"}},
		{fields{"password": "secretword"}, "/clientCertificate/pkcs12", []string{"is needed"}},
		{fields{"pkcs12": nil}, "/clientCertificate/pkcs12", []string{"is needed"}},
		{fields{"pkcs12": 1, "password": "secretword"}, "/clientCertificate/pkcs12", []string{"string"}},
		{fields{"pkcs12": good, "password": 7}, "/clientCertificate/password", []string{"string"}},
		{fields{"pkcs12": "", "password": "secretword"}, "/clientCertificate/pkcs12", []string{"base64"}},
		{fields{"pkcs12": "%%%", "password": "secretword"}, "/clientCertificate/pkcs12", []string{"base64"}},
		{fields{"pkcs12": strings.Repeat("QUJD", 20000)}, "/clientCertificate/pkcs12", []string{"64 KiB"}},
		{fields{"pkcs12": "QUJDRA==", "password": "secretword"}, "/clientCertificate/pkcs12", []string{"PKCS #12"}},
		{fields{"pkcs12": good[:len(good)/8*4], "password": "secretword"}, "/clientCertificate/pkcs12", []string{"PKCS #12"}},
		{fields{"pkcs12": good, "password": "otherword"}, "/clientCertificate/password", []string{"does not open"}},
		{fields{"pkcs12": good}, "/clientCertificate/password", []string{"does not open"}},
		{fields{"pkcs12": good, "password": strings.Repeat("x", 5000)}, "/clientCertificate/password", []string{"4096"}},
		{fields{"pkcs12": good, "password": "secretword", "passphrase": "x"}, "/clientCertificate/passphrase", []string{"not known"}},
		{fields{"pkcs12Set": true}, "/clientCertificate/pkcs12Set", []string{"only shown"}},
		{fields{"pkcs12": encode(pkcs12.Modern2023, key, ca.issueUntil(t, "a", key, time.Now().Add(-time.Minute))), "password": "secretword"}, "/clientCertificate/pkcs12", []string{"expired"}},
		{fields{"pkcs12": encode(pkcs12.Modern2023, key, ca.issue(t, "a", newKey(t))), "password": "secretword"}, "/clientCertificate/pkcs12", []string{"certificate of its private key"}},
		{fields{"pkcs12": encode(pkcs12.Modern2023, short, ca.issue(t, "a", short)), "password": "secretword"}, "/clientCertificate/pkcs12", []string{"2048"}},
	} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			a := h.admin().do(method, path, fields{"dataCallbackURL": target, "clientCertificate": c.value})
			names(t, fmt.Sprint(method, " ", c.field), a.problem(400), append(c.words, "\n"+c.field+": ")...)
			if strings.Contains(string(a.body), "secretword") {
				t.Errorf("the refusal repeats the password: %s", a.body)
			}
		}
	}
	for _, value := range []any{true, fields{"pkcs12": good, "password": "secretword"}} {
		names(t, "a client certificate without TLS",
			h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "clientCertificate": value}).problem(400), "\nclientCertificate: ", "https://")
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"clientCertificate": true}).is(200)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).problem(400)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/", "clientCertificate": nil}).is(200)
}

// v1a says whether the push is signed with the private half of a whpk_ key, as the Standard Webhooks specification
// has it: Ed25519 over id, timestamp and body.
func (p push) v1a(t *testing.T, public string) bool {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(public, "whpk_"))
	if err != nil || len(key) != ed25519.PublicKeySize || !strings.HasPrefix(public, "whpk_") {
		t.Fatalf("%q is no public key", public)
	}
	for s := range strings.FieldsSeq(p.header.Get("Webhook-Signature")) {
		sig, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "v1a,"))
		text := p.header.Get("Webhook-Id") + "." + p.header.Get("Webhook-Timestamp") + "." + string(p.body)
		if err == nil && strings.HasPrefix(s, "v1a,") && ed25519.Verify(key, []byte(text), sig) {
			return true
		}
	}
	return false
}

// one returns the only public key of a list.
func one(t *testing.T, v any) string {
	t.Helper()
	list, _ := v.([]any)
	if len(list) != 1 {
		t.Fatalf("the public keys are %v", v)
	}
	s, _ := list[0].(string)
	return s
}

func TestContract_D1_AsymmetricSignatures(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	created := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "signatureScheme": "v1a"}).is(200).object()
	id, _ := created["id"].(string)
	if _, has := created["signingSecret"]; has || created["signatureScheme"] != "v1a" || created["signingSecretSet"] != true {
		t.Errorf("it is made as %v", created)
	}
	first := one(t, h.read(id)["signingPublicKeys"])
	if first != one(t, created["signingPublicKeys"]) {
		t.Error("the read shows another key")
	}
	pushed := func() push {
		t.Helper()
		n := len(r.got())
		h.delivery(h.publish("task.create", "", fields{"a": "ü"}), id, "delivered")
		return r.wait(n + 1)[n]
	}
	if p := pushed(); !p.v1a(t, first) || !regexp.MustCompile(`^v1a,[A-Za-z0-9+/]{86}==$`).MatchString(p.header.Get("Webhook-Signature")) {
		t.Errorf("the signature is %q", p.header.Get("Webhook-Signature"))
	}
	// A rotation makes a key pair, and both sign.
	rotated := h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200).object()
	keys, _ := rotated["signingPublicKeys"].([]any)
	if len(keys) != 2 || keys[1] != first || rotated["signingSecret"] != nil {
		t.Fatalf("the rotation answers %v", rotated)
	}
	second, _ := keys[0].(string)
	if p := pushed(); !p.v1a(t, first) || !p.v1a(t, second) || first == second {
		t.Errorf("the signatures are %q", p.header.Get("Webhook-Signature"))
	}
	// A key pair of the caller's, in both forms.
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mine := "whpk_" + base64.StdEncoding.EncodeToString(public)
	for _, form := range [][]byte{private, private.Seed()} {
		a := h.admin().do("PATCH", "/subscriptions/"+id, fields{"signingSecret": "whsk_" + base64.StdEncoding.EncodeToString(form)}).is(200)
		if one(t, a.object()["signingPublicKeys"]) != mine || strings.Contains(string(a.body), "whsk_") {
			t.Errorf("it is shown as %s", a.body)
		}
		if p := pushed(); !p.v1a(t, mine) || p.v1a(t, first) {
			t.Errorf("the signature is %q", p.header.Get("Webhook-Signature"))
		}
	}
	// Sent back as it was read, and after a restart, it is the same.
	h.admin().do("PUT", "/subscriptions/"+id, h.read(id)).is(200)
	if one(t, h.read(id)["signingPublicKeys"]) != mine {
		t.Error("PUT has changed the key")
	}
	h = h.restart()
	if p := pushed(); !p.v1a(t, mine) {
		t.Errorf("after a restart the signature is %q", p.header.Get("Webhook-Signature"))
	}
	// Back to the symmetric scheme.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"signingSecret": aSecret, "signatureScheme": "v1"}).is(200)
	if s := h.read(id); s["signatureScheme"] != nil || s["signingPublicKeys"] != nil {
		t.Errorf("it is shown as %v", s)
	}
	if p := pushed(); !p.verifies(t, aSecret) {
		t.Errorf("the signature is %q", p.header.Get("Webhook-Signature"))
	}

	broken := bytes.Clone(private)
	broken[40] ^= 1
	for _, f := range []fields{
		{"signatureScheme": "v2"},
		{"signatureScheme": "v1a", "signingSecret": aSecret},
		{"signatureScheme": "v1", "signingSecret": "whsk_" + base64.StdEncoding.EncodeToString(private)},
		{"signatureScheme": "v1a", "signingSecret": nil},
	} {
		f["dataCallbackURL"] = r.URL
		names(t, fmt.Sprint(f), h.admin().do("POST", "/subscriptions", f).problem(400), "\nsignatureScheme: ")
	}
	names(t, "another scheme alone", h.admin().do("PATCH", "/subscriptions/"+id, fields{"signatureScheme": "v1a"}).problem(400), "\nsignatureScheme: ", "signingSecret")
	for _, key := range [][]byte{broken, private[:31], private[:33], nil} {
		names(t, "a key that is none", h.admin().do("PATCH", "/subscriptions/"+id, fields{"signingSecret": "whsk_" + base64.StdEncoding.EncodeToString(key)}).problem(400), "\nsigningSecret: ", "whsk_")
	}
}

// A push has the signature of Herald's certificate when its subscription asks for it, and not otherwise.
func TestContract_D1_MessageSignatureIsAsked(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	n := 0
	signed := func(want bool) {
		t.Helper()
		n++
		h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
		p := r.wait(n)[n-1]
		for _, name := range []string{"Signature", "Signature-Input", "Content-Digest"} {
			if got := p.header.Get(name) != ""; got != want {
				t.Errorf("%s: %q", name, p.header.Get(name))
			}
		}
		shown, _ := h.read(id)["messageSignature"].(bool)
		if shown != want {
			t.Errorf("it is shown as %v", shown)
		}
	}
	signed(false)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"messageSignature": true}).is(200)
	signed(true)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"numberOfRecords": 1}).is(200)
	signed(true)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"messageSignature": nil}).is(200)
	signed(false)
	h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "messageSignature": true}).is(200)
	signed(true)
	h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL}).is(200)
	signed(false)
	for _, wrong := range []any{"yes", 1, fields{}} {
		h.admin().do("PATCH", "/subscriptions/"+id, fields{"messageSignature": wrong}).problem(400)
	}
}
