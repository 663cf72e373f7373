package webhook

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"sync"

	"herald/queue"
	"herald/store"
)

// MaxCertificates bounds the client certificates whose connections are kept. Beyond it the one unused for the longest loses
// its connections, and its next push opens a new one.
const MaxCertificates = 128

// certified keeps a transport for each client certificate, so that no connection is ever used under another than it was
// opened with. Its methods are safe for concurrent use.
type certified struct {
	make func(c *tls.Certificate, own bool) *http.Transport

	mu    sync.Mutex
	turn  uint64 // counts uses, to tell which is the oldest
	known map[[sha256.Size]byte]*certifiedTransport
}

type certifiedTransport struct {
	*http.Transport
	used uint64
}

func newCertified(transport func(c *tls.Certificate, own bool) *http.Transport) *certified {
	return &certified{make: transport, known: make(map[[sha256.Size]byte]*certifiedTransport)}
}

// transport is the one the push has to go through: nil for the sender's own.
func (s *Sender) transport(sub *store.Subscription, scheme string) (http.RoundTripper, *problem) {
	c := &sub.ClientCertificate
	if !c.Identity && c.Chain == "" {
		return nil, nil
	}
	if scheme != "https" {
		return nil, misconfigured("the subscription has a client certificate, which only an https URL can be shown")
	}
	if s.certified.make == nil || c.Identity && s.identity == nil {
		return nil, misconfigured("this daemon cannot present client certificates")
	}
	if c.Identity {
		t := s.identity().TLS
		return s.certified.get(sha256.Sum256(t.Leaf.Raw), true, func() (*tls.Certificate, error) { return t, nil })
	}
	h := sha256.New()
	h.Write([]byte(c.Chain))
	h.Write([]byte{0})
	h.Write(c.Key)
	return s.certified.get([sha256.Size]byte(h.Sum(nil)), false, func() (*tls.Certificate, error) {
		key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: c.Key})
		t, err := tls.X509KeyPair([]byte(c.Chain), key)
		return &t, err
	})
}

// get returns the transport of a certificate, Herald's own or not, which load gives when there is none yet.
func (c *certified) get(key [sha256.Size]byte, own bool, load func() (*tls.Certificate, error)) (http.RoundTripper, *problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	if t := c.known[key]; t != nil {
		t.used = c.turn
		return t.Transport, nil
	}
	certificate, err := load()
	if err != nil { // it was whole when it was stored
		return nil, &problem{queue.ClassMisconfigured, "the client certificate of the subscription cannot be used; set it again"}
	}
	if len(c.known) >= MaxCertificates {
		c.drop()
	}
	t := &certifiedTransport{c.make(certificate, own), c.turn}
	c.known[key] = t
	return t.Transport, nil
}

// drop forgets the transport unused for the longest. What it has under way is finished; a connection that comes back to it
// afterwards is closed by its own limit on idle time.
func (c *certified) drop() {
	var oldest [sha256.Size]byte
	var found *certifiedTransport
	for key, t := range c.known {
		if found == nil || t.used < found.used {
			oldest, found = key, t
		}
	}
	found.CloseIdleConnections()
	delete(c.known, oldest)
}

// CloseIdleConnections closes the idle connections that present client certificates. Options.Transport is its owner's.
func (s *Sender) CloseIdleConnections() {
	s.certified.mu.Lock()
	defer s.certified.mu.Unlock()
	for _, t := range s.certified.known {
		t.CloseIdleConnections()
	}
}
