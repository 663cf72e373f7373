package sender

import (
	"net/http"
	"sync"
)

// Pool sends requests over a fixed number of HTTP/2 connections to each host: providers take many connections for an attack, and
// throttle each that is new. A request goes over the one that has the fewest under way, and waits when all are full. A
// Pool is safe for concurrent use.
type Pool struct {
	made  func() *http.Transport
	plain *http.Transport
	mu    sync.Mutex
	line  []*pooled
}

// pooled is one transport, which has at most one connection to a host.
type pooled struct {
	transport *http.Transport
	underWay  int
	retired   bool
}

// plainConnections is how many connections without TLS there may be to a host.
const plainConnections = 256

// NewPool returns a pool of n connections to each host. made makes a transport of its own for each of them, which the pool may change. Plain HTTP is for
// stand-ins of a provider, which
// speak HTTP/1.1 then, and has more.
func NewPool(n int, made func() *http.Transport) *Pool {
	p := &Pool{made: made, plain: made(), line: make([]*pooled, n)}
	p.plain.MaxConnsPerHost = plainConnections
	for i := range p.line {
		p.line[i] = p.fresh()
	}
	return p
}

func (p *Pool) fresh() *pooled {
	t := p.made()
	h2 := http.HTTP2Config{}
	if t.HTTP2 != nil {
		h2 = *t.HTTP2
	}
	h2.StrictMaxConcurrentRequests = true
	t.HTTP2 = &h2
	t.MaxConnsPerHost = 1
	return &pooled{transport: t}
}

// RoundTrip implements http.RoundTripper.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		return p.plain.RoundTrip(r)
	}
	p.mu.Lock()
	c := p.line[0]
	for _, other := range p.line[1:] {
		if other.underWay < c.underWay {
			c = other
		}
	}
	c.underWay++
	p.mu.Unlock()
	resp, err := c.transport.RoundTrip(r)
	p.mu.Lock()
	c.underWay--
	idle := c.retired && c.underWay == 0
	p.mu.Unlock()
	if idle {
		c.transport.CloseIdleConnections()
	}
	return resp, err
}

// Renew has all further requests go over new connections; those under way end on the old ones.
func (p *Pool) Renew() {
	p.mu.Lock()
	old := p.line
	p.line = make([]*pooled, len(old))
	for i := range p.line {
		p.line[i] = p.fresh()
	}
	for _, c := range old {
		c.retired = true
	}
	p.mu.Unlock()
	for _, c := range old {
		c.transport.CloseIdleConnections()
	}
}

// Close closes the connections that are idle.
func (p *Pool) Close() {
	p.plain.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.line {
		c.transport.CloseIdleConnections()
	}
}
