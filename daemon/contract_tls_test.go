package daemon_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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
	"sync/atomic"
	"testing"
	"time"
)

// HTTPS receivers: whom the daemon trusts, and what TLS costs.

// privateRoot is a private certificate authority.
type privateRoot struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPrivateRoot(t *testing.T, name string) *privateRoot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
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
	return &privateRoot{t, cert, key}
}

// file writes the authority's certificate for egress.ca_file.
func (a *privateRoot) file() string {
	a.t.Helper()
	path := filepath.Join(a.t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue makes a server certificate for an address.
func (a *privateRoot) issue(address string, until time.Time) tls.Certificate {
	a.t.Helper()
	return a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.ParseIP(address)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// sign makes a certificate for a new key.
func (a *privateRoot) sign(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.signFor(template, key)
}

// signFor makes a certificate for a key.
func (a *privateRoot) signFor(template *x509.Certificate, key crypto.Signer) tls.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// httpsReceiver is an HTTPS receiver that counts.
type httpsReceiver struct {
	URL        string
	handshakes atomic.Int64
	pushes     atomic.Int64
	http2      atomic.Int64 // of the pushes
}

func receiveTLS(t *testing.T, cert tls.Certificate, http2 bool) *httpsReceiver {
	t.Helper()
	r := &httpsReceiver{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		r.pushes.Add(1)
		if req.ProtoMajor == 2 {
			r.http2.Add(1)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = http2
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
		// Every handshake comes by here, also one that resumes a session.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			r.handshakes.Add(1)
			return nil, nil
		},
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// trusting starts a daemon with egress.ca_file.
func trusting(t *testing.T, a *privateRoot) *herald {
	t.Helper()
	return startWith(t, t.TempDir(), []string{"HERALD_EGRESS_CA_FILE=" + a.file()})
}

func TestContract_PrivateRootIsTrustedWhenConfigured(t *testing.T) {
	t.Parallel()
	ours, foreign := newPrivateRoot(t, "ours"), newPrivateRoot(t, "foreign")
	good := receiveTLS(t, ours.issue("127.0.0.1", time.Now().Add(time.Hour)), true)
	bad := map[string]struct {
		cert  tls.Certificate
		words []string
	}{
		"of another authority": {foreign.issue("127.0.0.1", time.Now().Add(time.Hour)), []string{"authority", "egress.ca_file"}},
		"of another address":   {ours.issue("127.0.0.2", time.Now().Add(time.Hour)), []string{"not for the host name"}},
		"that has expired":     {ours.issue("127.0.0.1", time.Now().Add(-time.Hour)), []string{"expired"}},
	}

	h := trusting(t, ours)
	id := h.subscribe(good.URL, fields{"delivery": patiently()})
	refused, receivers := map[string]string{}, map[string]*httpsReceiver{}
	for what, c := range bad {
		receivers[what] = receiveTLS(t, c.cert, true)
		refused[what] = h.subscribe(receivers[what].URL, fields{"delivery": patiently()})
	}
	event := h.publish("task.create", "", fields{})
	h.delivery(event, id, "delivered")
	for what, sub := range refused {
		x := attempts(t, h.delivery(event, sub, "retrying"))[0]
		names(t, "a certificate "+what, fmt.Sprint(x["error"]), bad[what].words...)
		if receivers[what].pushes.Load() != 0 {
			t.Errorf("a push went to a receiver with a certificate %s", what)
		}
	}

	// Without the setting the same receiver is not trusted.
	before := good.pushes.Load()
	h = start(t)
	id = h.subscribe(good.URL, fields{"delivery": patiently()})
	x := attempts(t, h.delivery(h.publish("task.create", "", fields{}), id, "retrying"))[0]
	names(t, "without egress.ca_file", fmt.Sprint(x["error"]), "authority", "egress.ca_file")
	if good.pushes.Load() != before {
		t.Error("a push went to a receiver that is not trusted")
	}
}

// A handshake costs the daemon many times what a push costs: connections are kept, so that there are a few
// handshakes in a thousand pushes, and none while it goes on, fast or slowly.
func TestContract_TLSConnectionsAreReused(t *testing.T) {
	t.Parallel()
	ours := newPrivateRoot(t, "ours")
	cert := ours.issue("127.0.0.1", time.Now().Add(time.Hour))
	for name, c := range map[string]struct {
		http2       bool
		certified   bool // with a client certificate
		concurrency int
		first, more int64 // most handshakes in the first thousand pushes, and in the thousand after them
	}{
		// A machine that is busy lets some more be dialled while others are on their way back.
		"HTTP/1.1 one by one":  {false, false, 1, 4, 3},
		"HTTP/1.1 four by one": {false, false, 4, 30, 20},
		"a client certificate": {false, true, 16, 60, 20},
		"HTTP/2":               {true, false, 4, 30, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := trusting(t, ours)
			r := receiveTLS(t, cert, c.http2)
			id := h.subscribe(r.URL, fields{"delivery": fields{"maxConcurrency": c.concurrency}, "clientCertificate": c.certified})
			before := int64(0)
			for round, most := range []int64{c.first, c.more} {
				h.admin().do("POST", "/events", many(1000)).is(202)
				// That many are much work for a machine that is busy, and for the race detector.
				within(t, 4*patience, "a thousand pushes more have arrived", func() bool { return r.pushes.Load() >= int64(1000*(round+1)) })
				n := r.handshakes.Load() - before
				before += n
				t.Logf("%s: %d handshakes in the thousand pushes of round %d", name, n, round+1)
				if n > most {
					t.Errorf("%d handshakes in a thousand pushes, want at most %d", n, most)
				}
			}
			// A receiver that gets little keeps its connection just the same.
			const steady = 300
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for range steady {
				<-pace.C
				h.publish("task.create", "", fields{})
			}
			h.eventually("what was published one by one has arrived", func() bool { return r.pushes.Load() >= 2000+steady })
			if n := r.handshakes.Load() - before; n > 2 {
				t.Errorf("%d handshakes in %d pushes one after the other, want at most 2", n, steady)
			}
			if got := r.http2.Load(); (got == r.pushes.Load()) != c.http2 || got != 0 && !c.http2 {
				t.Errorf("%d of %d pushes came over HTTP/2", got, r.pushes.Load())
			}
			h.eventually("nothing waits", func() bool {
				return len(h.admin().do("GET", "/deliveries?state=pending&subscription="+id, nil).is(200).list()) == 0
			})
		})
	}
}

// A daemon with more receivers than attempts at once keeps a connection to each of them all the same.
func TestContract_TLSConnectionsToManyReceiversAreReused(t *testing.T) {
	t.Parallel()
	const receivers, events = 30, 10
	ours := newPrivateRoot(t, "ours")
	cert := ours.issue("127.0.0.1", time.Now().Add(time.Hour))
	h := startWith(t, t.TempDir(), []string{"HERALD_EGRESS_CA_FILE=" + ours.file()}, "delivery: {workers: 4}")
	all := make([]*httpsReceiver, receivers)
	for i := range all {
		all[i] = receiveTLS(t, cert, false)
		h.subscribe(all[i].URL, fields{})
	}
	for n := range events {
		h.publish("task.create", "", fields{})
		for _, r := range all {
			h.eventually("the event has arrived everywhere", func() bool { return r.pushes.Load() >= int64(n+1) })
		}
	}
	handshakes := int64(0)
	for _, r := range all {
		handshakes += r.handshakes.Load()
	}
	if handshakes > receivers+5 {
		t.Errorf("%d handshakes in %d pushes to %d receivers, want one for each receiver", handshakes, receivers*events, receivers)
	}
}
