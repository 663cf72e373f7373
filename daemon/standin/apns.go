package standin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// APNsOptions are what NewAPNs needs.
type APNsOptions struct {
	// Topic is the bundle id of the app; "" takes any.
	Topic string
	// Sandbox: the development environment, which also answers with an apns-unique-id.
	Sandbox bool
	// Certificate asks for a client certificate of the CA's instead of provider tokens.
	Certificate bool
	// Latency is how long every answer takes.
	Latency time.Duration
	// MaxStreams is SETTINGS_MAX_CONCURRENT_STREAMS of a connection, after the first valid request where provider tokens are used;
	// until then it is 1. 0 means 1000.
	MaxStreams uint32
	// Received is told of each notification that was taken, before it is answered; nil for nobody. It is called by many goroutines.
	Received func(APNsPush)
}

// APNs stands in for the Apple Push Notification service: a real server of HTTP/2 over TLS on loopback, as strict as Apple's documents are
// about every header, value and payload, and misbehaving on command. It is safe for concurrent use.
type APNs struct {
	options  APNsOptions
	listener net.Listener
	server   *http.Server
	wg       sync.WaitGroup
	ca       []byte
	key      APNsKey
	private  *ecdsa.PrivateKey

	mu     sync.Mutex
	conns  map[*apnsConn]struct{}
	stats  APNsStats
	faults []string
	orders map[string][]*apnsOrder
	devs   map[string]*apnsDevice
}

// APNsKey are the credentials that the stand-in accepts.
type APNsKey struct {
	// PEM is the signing key, as in Apple's .p8 files; DER is the same in PKCS #8.
	PEM, DER []byte
	// KeyID and TeamID have ten characters, as Apple's.
	KeyID, TeamID string
	// Chain and CertificateKey are a client certificate: PEM, and PKCS #8 in DER.
	Chain          string
	CertificateKey []byte
}

// APNsStats counts.
type APNsStats struct {
	// Connections is how many there ever were, Open how many there are.
	Connections, Open int
	// Requests is how many were answered, Sent how many with 200.
	Requests, Sent int
	// Streams is the most that a connection had at a time, and Overruns how many came beyond the limit of theirs.
	Streams, Overruns int
	// TokenUpdates is how often a connection saw another provider token than before.
	TokenUpdates int
}

// APNsPush is a request that was taken.
type APNsPush struct {
	Header  http.Header
	Payload []byte
	At      time.Time
}

// APNsAnswer is what the stand-in is told to answer. Of Hang and Cut one may be set, instead of a status.
type APNsAnswer struct {
	Status int
	Reason string
	// Timestamp is told with 410; zero is not.
	Timestamp time.Time
	// RetryAfter is the header of that name.
	RetryAfter string
	// Body replaces the JSON of reason and timestamp.
	Body string
	// Hang never answers, Cut closes the connection instead.
	Hang, Cut bool
}

type apnsOrder struct {
	answer APNsAnswer
	left   int // negative: for good
}

type apnsDevice struct {
	sent int
	last APNsPush
}

type apnsAnswerBody struct {
	Reason    string `json:"reason"`
	Timestamp int64  `json:"timestamp,omitempty"`
}

// apnsMaxFaults bounds the faults that are kept.
const apnsMaxFaults = 100

type apnsConnKey struct{}

// NewAPNs starts a stand-in on a free port of loopback. Close ends it.
func NewAPNs(o APNsOptions) (*APNs, error) {
	if o.MaxStreams == 0 {
		o.MaxStreams = 1000
	}
	a := &APNs{
		options: o, conns: make(map[*apnsConn]struct{}), orders: make(map[string][]*apnsOrder), devs: make(map[string]*apnsDevice),
	}
	config, err := a.credentials()
	if err != nil {
		return nil, fmt.Errorf("make credentials: %w", err)
	}
	if a.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // TLS is under it: see apnsConn
	a.server = &http.Server{
		Handler: a, Protocols: protocols, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: int(o.MaxStreams)},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, apnsConnKey{}, c)
		},
	}
	a.wg.Go(func() { _ = a.server.Serve(&apnsListener{a.listener, config, a}) }) // ends with Close
	return a, nil
}

// Close breaks off what is under way and ends the server.
func (a *APNs) Close() {
	_ = a.server.Close() // a listener on loopback has nothing to lose
	a.mu.Lock()
	conns := a.live()
	a.mu.Unlock()
	for _, c := range conns {
		c.cut()
	}
	a.wg.Wait()
}

// URL is where it is, such as https://127.0.0.1:40123.
func (a *APNs) URL() string { return "https://" + a.listener.Addr().String() }

// CA is the authority of its certificate, as PEM.
func (a *APNs) CA() []byte { return a.ca }

// Key returns the credentials it accepts.
func (a *APNs) Key() APNsKey { return a.key }

// Answer has the next n requests for a device token answered like that; n below 0 is all of them. A token of "" is for any that has no
// orders of its own. Orders are carried out one after the other. Such requests are checked before like any.
func (a *APNs) Answer(token string, n int, with APNsAnswer) {
	a.mu.Lock()
	a.orders[token] = append(a.orders[token], &apnsOrder{with, n})
	a.mu.Unlock()
}

// Forget takes all orders back.
func (a *APNs) Forget() {
	a.mu.Lock()
	clear(a.orders)
	a.mu.Unlock()
}

// GoAway has every connection told to go away, and why. What is under way is answered or, with unseen, was never looked at.
func (a *APNs) GoAway(reason string, unseen bool) error {
	a.mu.Lock()
	conns := a.live()
	a.mu.Unlock()
	var errs []error
	for _, c := range conns {
		errs = append(errs, c.goAway(reason, unseen))
	}
	return errors.Join(errs...)
}

// Stats returns the counts so far.
func (a *APNs) Stats() APNsStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats
}

// Sent returns how many notifications were taken for a device token.
func (a *APNs) Sent(token string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.devs[token]; d != nil {
		return d.sent
	}
	return 0
}

// Last returns what was taken last for a device token.
func (a *APNs) Last(token string) (APNsPush, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.devs[token]; d != nil {
		return d.last, true
	}
	return APNsPush{}, false
}

// Faults returns what was wrong with requests, the first hundred times.
func (a *APNs) Faults() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.faults...)
}

// ServeHTTP implements http.Handler.
func (a *APNs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(apnsConnKey{}).(*apnsConn)
	if a.options.Latency > 0 {
		select {
		case <-time.After(a.options.Latency):
		case <-r.Context().Done():
			return
		}
	}
	if !c.looks() {
		return // the client may not have closed the connection yet, and sends this again
	}
	payload, err := io.ReadAll(io.LimitReader(r.Body, 4*apnsMaxPayload))
	if err != nil {
		return // the client broke it off
	}
	id := r.Header.Get("Apns-Id")
	if id == "" {
		id = uuid.NewString()
	}
	w.Header().Set("Apns-Id", id)
	token, wrong := a.check(c, r, payload)
	if wrong.status != 0 {
		a.fault(wrong.fault)
		a.answer(w, &APNsAnswer{Status: wrong.status, Reason: wrong.reason})
		return
	}
	do := a.order(token)
	switch {
	case do.Hang:
		<-r.Context().Done()
		return
	case do.Cut:
		c.cut()
		return
	case do.Reason == "ExpiredProviderToken":
		c.token.expire()
	}
	if do.Status != http.StatusForbidden { // the token is valid
		if err := c.raise(a.options.MaxStreams); err != nil {
			return // the connection is gone
		}
	}
	if do.Status == http.StatusOK {
		a.mu.Lock()
		d := a.devs[token]
		if d == nil {
			d = new(apnsDevice)
			a.devs[token] = d
		}
		d.sent++
		push := APNsPush{r.Header, payload, time.Now()}
		d.last = push
		a.mu.Unlock()
		if a.options.Received != nil {
			a.options.Received(push)
		}
		if a.options.Sandbox {
			w.Header().Set("Apns-Unique-Id", uuid.NewString())
		}
	}
	a.answer(w, &do)
}

// check finds the first thing that is wrong with a request.
func (a *APNs) check(c *apnsConn, r *http.Request, payload []byte) (string, apnsWrong) {
	token, wrong := apnsTarget(r)
	if wrong.status != 0 {
		return "", wrong
	}
	if !a.options.Certificate {
		if status, reason, fault := c.token.check(a, r.Header.Get("Authorization")); status != 0 {
			return "", apnsWrong{status, reason, fault}
		}
	} else if r.Header.Get("Authorization") != "" {
		return "", apnsWrong{http.StatusForbidden, "InvalidProviderToken", "there is a provider token beside the certificate"}
	}
	if wrong = a.apnsHeaders(r.Header, token); wrong.status == 0 {
		wrong = apnsPayload(r.Header.Get("Apns-Push-Type"), payload)
	}
	return token, wrong
}

// order is the answer to a request that is in order.
func (a *APNs) order(token string) APNsAnswer {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, whose := range []string{token, ""} {
		for len(a.orders[whose]) > 0 {
			o := a.orders[whose][0]
			if o.left != 0 {
				o.left--
				return o.answer
			}
			a.orders[whose] = a.orders[whose][1:]
		}
	}
	return APNsAnswer{Status: http.StatusOK}
}

func (a *APNs) answer(w http.ResponseWriter, with *APNsAnswer) {
	a.count(func(s *APNsStats) {
		s.Requests++
		if with.Status == http.StatusOK {
			s.Sent++
		}
	})
	body := []byte(with.Body)
	if with.Status != http.StatusOK && with.Body == "" {
		said := apnsAnswerBody{Reason: with.Reason}
		if !with.Timestamp.IsZero() {
			said.Timestamp = with.Timestamp.UnixMilli()
		}
		body, _ = json.Marshal(said) // a string and a number always do
	}
	if with.RetryAfter != "" {
		w.Header().Set("Retry-After", with.RetryAfter)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(with.Status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}

func (a *APNs) count(f func(s *APNsStats)) {
	a.mu.Lock()
	f(&a.stats)
	a.mu.Unlock()
}

func (a *APNs) fault(text string) {
	a.mu.Lock()
	if len(a.faults) < apnsMaxFaults {
		a.faults = append(a.faults, text)
	}
	a.mu.Unlock()
}

// connected counts a connection, opened a stream of one, closed the end of one.
func (a *APNs) connected(c *apnsConn) {
	a.mu.Lock()
	a.conns[c] = struct{}{}
	a.stats.Connections++
	a.stats.Open = len(a.conns)
	a.mu.Unlock()
}

func (a *APNs) opened(streams int, over bool) {
	a.count(func(s *APNsStats) {
		s.Streams = max(s.Streams, streams)
		if over {
			s.Overruns++
		}
	})
}

func (a *APNs) closed(c *apnsConn) {
	a.mu.Lock()
	delete(a.conns, c)
	a.stats.Open = len(a.conns)
	a.mu.Unlock()
}

// live returns the connections there are. The lock is held.
func (a *APNs) live() []*apnsConn {
	all := make([]*apnsConn, 0, len(a.conns))
	for c := range a.conns {
		all = append(all, c)
	}
	return all
}

// firstStreams is how many streams a new connection may have.
func (a *APNs) firstStreams() uint32 {
	if a.options.Certificate {
		return a.options.MaxStreams
	}
	return 1
}

// credentials makes the authority, the certificates and the key.
func (a *APNs) credentials() (*tls.Config, error) {
	caKey, ca, err := apnsIssue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "APNs stand-in"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return nil, err
	}
	key, leaf, err := apnsIssue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	if err != nil {
		return nil, err
	}
	clientKey, client, err := apnsIssue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Apple Push Services: " + a.options.Topic}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, caKey)
	if err != nil {
		return nil, err
	}
	if a.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	a.key = APNsKey{KeyID: "STANDIN" + apnsDigits(), TeamID: "TEAMSTD" + apnsDigits()}
	if a.key.DER, err = x509.MarshalPKCS8PrivateKey(a.private); err != nil {
		return nil, err
	}
	if a.key.CertificateKey, err = x509.MarshalPKCS8PrivateKey(clientKey); err != nil {
		return nil, err
	}
	a.key.PEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: a.key.DER})
	a.key.Chain = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Raw}))
	a.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}},
	}
	if a.options.Certificate {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AddCert(ca)
	}
	return config, nil
}

// apnsIssue makes a key and its certificate, signed by a parent or by itself.
func apnsIssue(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, by = template, key
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(der)
	return key, c, err
}

// apnsDigits are three characters that tell the key of one stand-in from that of another.
func apnsDigits() string { return strings.ToUpper(uuid.NewString()[:3]) }
