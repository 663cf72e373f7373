package bench

import (
	"bytes"
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
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// certificateLife is more than the longest run takes.
const certificateLife = 48 * time.Hour

// caFile is where the certificates of HTTPS receivers, or of the stand-ins of providers, lie in the directory of a run, for those who
// push to them to trust; empty without HTTPS.
func (c *Command) caFile(dir string) string {
	if !c.TLS && c.Devices == 0 {
		return ""
	}
	return filepath.Join(dir, "receivers.pem")
}

// certify makes a certificate for receivers on loopback, which is its own authority, writes it to the file and returns
// how to serve with it.
func certify(file string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for the receivers: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "herald bench"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for the receivers: %w", err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, fmt.Errorf("write the certificate of the receivers: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, nil
}

// shook counts a handshake. The library calls it in each, also in one that resumes a session.
func (r *receiver) shook(s tls.ConnectionState) error {
	r.handshakes.Add(1)
	if s.DidResume {
		r.resumed.Add(1)
	}
	return nil
}

// serveHTTP2 is run for HTTP/2, by the library's server: what it costs is not the daemon's.
func (r *receiver) serveHTTP2() {
	only := new(http.Protocols)
	only.SetHTTP2(true)
	s := &http.Server{
		Handler: http.HandlerFunc(r.answer), Protocols: only, TLSConfig: r.tls, ReadHeaderTimeout: controlTimeout,
		ErrorLog: log.New(io.Discard, "", 0), // a connection that breaks is the daemon's to notice
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				r.connections.Add(1)
			}
		},
	}
	// With the listener the server ends, but leaves its connections open.
	_ = s.ServeTLS(r.listener, "", "")
	_ = s.Close()
}

// bodies are the buffers that pushes over HTTP/2 are read into.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// answer answers a push that came over HTTP/2.
func (r *receiver) answer(w http.ResponseWriter, req *http.Request) {
	if !r.begin() {
		panic(http.ErrAbortHandler)
	}
	defer r.wg.Done()
	body := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(body)
	body.Reset()
	if n, err := body.ReadFrom(io.LimitReader(req.Body, int64(r.maxBody)+1)); err != nil || n > int64(r.maxBody) {
		if err == nil {
			r.broken.Add(1)
		}
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	field := func(name string) []byte { return []byte(req.Header.Get(name)) }
	r.take(&message{
		id: field("webhook-id"), timestamp: field("webhook-timestamp"), signature: field("webhook-signature"), body: body.Bytes(),
	})
	switch {
	case r.behaviour == hanging:
		select {
		case <-req.Context().Done():
		case <-r.done:
		}
		panic(http.ErrAbortHandler)
	case r.behaviour == failing:
		w.WriteHeader(http.StatusInternalServerError)
	case r.latency > 0 && !r.pause(r.latency):
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "ok")
	}
}

// begin has run wait for one request more, unless the receiver is closed; wg.Done ends it.
func (r *receiver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		return false
	}
	r.wg.Add(1)
	return true
}

// Handshakes are what the healthy receivers' connections cost, beside the pushes they carried.
type Handshakes struct {
	Handshakes  int64   `json:"handshakes"`    // full and resumed
	Resumed     int64   `json:"resumed"`       // of these
	Connections int64   `json:"connections"`   // accepted
	Per1000     float64 `json:"per1000Pushes"` // handshakes
	WarmUp      int64   `json:"warmUp"`        // handshakes before all this, while warming up
}

// handshakes reads the counters of the healthy receivers.
func (rs *receivers) handshakes() Handshakes {
	return Handshakes{
		Handshakes:  rs.sum(healthy, func(r *receiver) *atomic.Int64 { return &r.handshakes }),
		Resumed:     rs.sum(healthy, func(r *receiver) *atomic.Int64 { return &r.resumed }),
		Connections: rs.sum(healthy, func(r *receiver) *atomic.Int64 { return &r.connections }),
	}
}

// account fills in what was counted between two readings, while so many pushes arrived.
func (h *Handshakes) account(before, after Handshakes, pushes int64) {
	h.Handshakes = after.Handshakes - before.Handshakes
	h.Resumed = after.Resumed - before.Resumed
	h.Connections = after.Connections - before.Connections
	h.Per1000 = 1000 * float64(h.Handshakes) / float64(max(pushes, 1))
}

// row prints them.
func (h *Handshakes) row(row func(...string)) {
	row("TLS handshakes", number(h.Per1000, 2), fmt.Sprintf("per 1,000 pushes: %d, of them %d resumed, %d connections accepted; %d while warming up",
		h.Handshakes, h.Resumed, h.Connections, h.WarmUp))
}
