package webhook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

// made is a client certificate of a subscription.
func made(t *testing.T) store.ClientCertificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return store.ClientCertificate{Chain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Key: private}
}

// No more certificates keep connections than are allowed; the ones in use stay.
func TestCertificatesInUseAreBounded(t *testing.T) {
	t.Parallel()
	c := newCertified(func(*tls.Certificate, bool) *http.Transport { return &http.Transport{} })
	load := func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	key := func(n int) (k [32]byte) {
		binary.BigEndian.PutUint64(k[:], uint64(n))
		return k
	}
	first, pr := c.get(key(0), false, load)
	if pr != nil {
		t.Fatal(pr.text)
	}
	second, _ := c.get(key(1), false, load)
	for n := range 3 * MaxCertificates {
		if _, pr := c.get(key(n+2), false, load); pr != nil {
			t.Fatal(pr.text)
		}
		if again, _ := c.get(key(0), false, load); again != first {
			t.Fatal("the one in use was dropped")
		}
		if len(c.known) > MaxCertificates {
			t.Fatalf("%d certificates are kept", len(c.known))
		}
	}
	if again, _ := c.get(key(1), false, load); again == second {
		t.Error("one unused for long was kept")
	}
	if _, pr := c.get(key(-1), false, func() (*tls.Certificate, error) { return nil, errors.New("no") }); pr == nil || pr.class != queue.ClassMisconfigured || c.known[key(-1)] != nil {
		t.Errorf("a certificate that cannot be loaded: %+v", pr)
	}
}

// Connections belong to certificates: those of one are used again, by nobody else.
func TestConnectionsAreNotSharedBetweenCertificates(t *testing.T) {
	t.Parallel()
	type shown struct{ from, certificate string }
	got := make(chan shown, 16)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- shown{r.RemoteAddr, string(r.TLS.PeerCertificates[0].Raw)}
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	transports := 0
	s, err := New(Options{
		Transport: transport(t), UserAgent: "Herald/test",
		Certified: func(c *tls.Certificate, _ bool) *http.Transport {
			transports++
			tr := transport(t)
			tr.TLSClientConfig = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{*c}}
			return tr
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := subscription(srv.URL), subscription(srv.URL), subscription(srv.URL)
	a.ClientCertificate, b.ClientCertificate = made(t), made(t)
	c.ClientCertificate = a.ClientCertificate
	var seen []shown
	for _, sub := range []*store.Subscription{a, b, a, c, b} {
		if out := s.Send(t.Context(), sub, push()); out.Class != queue.ClassDelivered {
			t.Fatalf("%+v", out)
		}
		seen = append(seen, <-got)
	}
	if seen[0] != seen[2] || seen[0] != seen[3] || seen[1] != seen[4] || seen[0].from == seen[1].from || seen[0].certificate == seen[1].certificate || transports != 2 {
		t.Errorf("connections %q %q %q %q %q, %d transports", seen[0].from, seen[1].from, seen[2].from, seen[3].from, seen[4].from, transports)
	}
	s.CloseIdleConnections()
	if out := s.Send(t.Context(), a, push()); out.Class != queue.ClassDelivered {
		t.Fatalf("%+v", out)
	}
	if last := <-got; last.from == seen[0].from {
		t.Error("a closed connection was used")
	}

	// The same key with another chain is another certificate.
	longer := subscription(srv.URL)
	longer.ClientCertificate = store.ClientCertificate{Chain: a.ClientCertificate.Chain + b.ClientCertificate.Chain, Key: a.ClientCertificate.Key}
	if out := s.Send(t.Context(), longer, push()); out.Class != queue.ClassDelivered || transports != 3 {
		t.Fatalf("%+v, %d transports", out, transports)
	}
	<-got

	a.ClientCertificate.Key = []byte("x")
	plain := subscription("http://127.0.0.1:1/")
	plain.ClientCertificate = b.ClientCertificate
	own := subscription(srv.URL)
	own.ClientCertificate.Identity = true
	for want, sub := range map[string]*store.Subscription{"set it again": a, "https": plain, "cannot present": own} {
		if out := s.Send(t.Context(), sub, push()); out.Class != queue.ClassMisconfigured || !strings.Contains(out.Error, want) {
			t.Errorf("%+v does not say %q", out, want)
		}
	}
}
