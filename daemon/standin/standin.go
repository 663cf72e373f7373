// Package standin has stand-ins for the services that hand notifications to devices: real HTTP/2 servers over TLS on loopback, for tests,
// benchmarks and the demo. Each is strict about what it is sent, answers a wrong request as the service would and remembers it as a fault, and
// misbehaves on command.
package standin

import (
	"context"
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
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Behaviour is what a stand-in does with a request in the place of what it would do. The zero value is not useful.
type Behaviour struct {
	// Status, Header and Body are the answer.
	Status int
	Header http.Header
	Body   string
	// Delay is how long it waits first.
	Delay time.Duration
	// Pause is how long it waits before each 16 bytes of the body; the headers go out at once.
	Pause time.Duration
	// Hang: no answer comes at all, until the client gives up.
	Hang bool
	// Cut: the connection is cut, with all that is under way on it.
	Cut bool
	// GoAway: the request is served as usual, but the server wants to see no further one on its connection (RFC 9113, section 6.8).
	GoAway bool
}

// orders are what a stand-in was told to do. Its methods are safe for concurrent use.
type orders struct {
	given atomic.Bool // spares the lock when there are none
	mu    sync.Mutex
	next  []Behaviour
	fixed map[string]Behaviour
}

// Next has each of the next n requests, whoever they are for, meet with that behaviour.
func (o *orders) Next(n int, b Behaviour) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next = append(o.next, slices.Repeat([]Behaviour{b}, n)...)
	o.given.Store(true)
}

// For has all requests for that device meet with that behaviour, until Reset.
func (o *orders) For(device string, b Behaviour) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fixed == nil {
		o.fixed = make(map[string]Behaviour)
	}
	o.fixed[device] = b
	o.given.Store(true)
}

// Reset takes all orders back.
func (o *orders) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next, o.fixed = nil, nil
	o.given.Store(false)
}

// take returns what is to be done with a request for that device: that of the device first.
func (o *orders) take(device string) (Behaviour, bool) {
	if !o.given.Load() {
		return Behaviour{}, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if b, ok := o.fixed[device]; ok {
		return b, true
	}
	if len(o.next) == 0 {
		return Behaviour{}, false
	}
	b := o.next[0]
	o.next = o.next[1:]
	return b, true
}

// perform does what was ordered, and returns false when the request is to be served as usual after it.
func (b *Behaviour) perform(w http.ResponseWriter, r *http.Request) bool {
	if !wait(r.Context(), b.Delay) {
		return true
	}
	switch {
	case b.Hang:
		<-r.Context().Done()
		return true
	case b.Cut:
		if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			_ = c.Close() // nobody is to learn anything of it
		}
		return true
	case b.GoAway:
		w.Header().Set("Connection", "close") // to which the server of net/http makes GOAWAY
		return false
	}
	maps.Copy(w.Header(), b.Header)
	w.WriteHeader(b.Status)
	rest := b.Body
	for b.Pause > 0 && rest != "" {
		_ = http.NewResponseController(w).Flush() // a client that is gone is noticed by wait
		if !wait(r.Context(), b.Pause) {
			return true
		}
		n := min(16, len(rest))
		_, _ = io.WriteString(w, rest[:n]) //nolint:gosec // it is what the test ordered, for no browser
		rest = rest[n:]
	}
	_, _ = io.WriteString(w, rest) //nolint:gosec // as above
	return true
}

// wait returns false when ctx ended before.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// maxFaults bounds the faults that are remembered in words.
const maxFaults = 100

// faults are what requests were found to be wrong with. Its methods are safe for concurrent use.
type faults struct {
	mu    sync.Mutex
	texts []string
	count int
}

// Faults returns what was wrong with requests, the first hundred in words.
func (f *faults) Faults() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	texts := slices.Clone(f.texts)
	if f.count > len(f.texts) {
		texts = append(texts, "and "+strconv.Itoa(f.count-len(f.texts))+" more")
	}
	return texts
}

func (f *faults) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if len(f.texts) < maxFaults {
		f.texts = append(f.texts, fmt.Sprintf(format, args...))
	}
}

// recent keeps the last of what is put into it. Its methods are safe for concurrent use.
type recent[T any] struct {
	mu   sync.Mutex
	max  int
	ring []T
	at   int // where the next goes once the ring is full
}

func (r *recent[T]) put(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) < r.max {
		r.ring = append(r.ring, v)
		return
	}
	if r.max > 0 {
		r.ring[r.at] = v
		r.at = (r.at + 1) % r.max
	}
}

// all returns them in the order in which they came.
func (r *recent[T]) all() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(r.ring[r.at:]), r.ring[:r.at]...)
}

// server is an HTTP/2 server over TLS on loopback.
type server struct {
	http        http.Server
	url         string
	ca          []byte
	served      sync.WaitGroup
	connections atomic.Int64
}

type connKey struct{}

// start serves with h, with at most streams requests at a time on a connection; 0 leaves that to net/http.
func (s *server) start(h http.Handler, streams int) error {
	certificate, ca, err := selfSigned()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // listening on loopback does not block
	if err != nil {
		return fmt.Errorf("listen for a stand-in: %w", err)
	}
	s.ca, s.url = ca, "https://"+l.Addr().String()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	s.http = http.Server{
		Handler:           h,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streams},
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			s.connections.Add(1)
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	s.served.Go(func() { _ = s.http.ServeTLS(l, "", "") }) // it ends with Close
	return nil
}

// Close cuts all connections and waits for the server to end.
func (s *server) Close() {
	_ = s.http.Close() // what a listener says at its end is of no interest
	s.served.Wait()
}

// URL is where it is: https, without a slash at its end.
func (s *server) URL() string { return s.url }

// Connections is how many connections there have been.
func (s *server) Connections() int { return int(s.connections.Load()) }

// CA is its certificate, as PEM.
func (s *server) CA() []byte { return s.ca }

// Pool trusts its certificate.
func (s *server) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(s.ca)
	return p
}

// CAFile writes its certificate, as PEM, into a file in dir and returns the file's path.
func (s *server) CAFile(dir string) (string, error) {
	path := filepath.Join(dir, "standin-"+s.url[len("https://127.0.0.1:"):]+".pem")
	if err := os.WriteFile(path, s.ca, 0o600); err != nil {
		return "", fmt.Errorf("write the certificate of a stand-in: %w", err)
	}
	return path, nil
}

// selfSigned makes a certificate for loopback, and returns it as PEM as well.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make the key of a stand-in: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "stand-in"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make the certificate of a stand-in: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
