package sender

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"
)

// Pool sends requests over a fixed number of HTTP/2 connections to each host: providers take many connections for an attack, and
// throttle each that is new. A request goes over the one that has the fewest under way, and waits when all are full. A
// Pool is safe for concurrent use.
//
// It keeps to what a server says of concurrent streams where net/http does not. Until that has been said, net/http takes a connection to
// bear a hundred, and APNs allows one before it has seen a valid provider token: over a new connection one request goes ahead,
// and the others follow when it is answered. And net/http counts the requests that wait for a stream like those that have one, so that
// as many as the server's limit wait for ever: here one waits at a time. For the same reason a request that the server has certainly not
// looked at, because it was going away, is tried again here and not there.
type Pool struct {
	made  func() *http.Transport
	plain *http.Transport
	mu    sync.Mutex
	line  []*pooled
}

// pooled is one transport, which has at most one connection to a host. All but the transport is guarded by Pool.mu.
type pooled struct {
	transport *http.Transport
	// underWay counts the requests that wait, or whose answer is not closed.
	underWay int
	retired  bool
	// ways are the hosts, by their addresses: one that hangs is nothing to the others.
	ways map[string]*way
}

// way is a host of a pooled.
type way struct {
	// turn holds a token while a request is on its way to having a stream.
	turn chan struct{}
	// The rest is guarded by Pool.mu. underWay is as that of pooled.
	underWay int
	// cold: no request has been answered since a connection was dialled.
	cold bool
}

// maxWays is how many hosts a pooled remembers beyond those that have requests under way.
const maxWays = 256

// to returns the way to a host. The lock is held.
func (c *pooled) to(host string) *way {
	w := c.ways[host]
	if w == nil {
		if len(c.ways) >= maxWays {
			maps.DeleteFunc(c.ways, func(_ string, w *way) bool { return w.underWay == 0 })
		}
		w = &way{turn: make(chan struct{}, 1), cold: true}
		c.ways[host] = w
	}
	return w
}

// dialled notes that a connection is new: to that address, or, where that is a proxy's, to whichever host. The lock is held.
func (c *pooled) dialled(address string) {
	if w := c.ways[address]; w != nil {
		w.cold = true
		return
	}
	for _, w := range c.ways {
		w.cold = true
	}
}

// addressOf is what a transport dials for a URL.
func addressOf(u *url.URL) string { return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")) }

// plainConnections is how many connections without TLS there may be to a host.
const plainConnections = 256

// maxUnseen is how often a request is tried that the server has not looked at.
const maxUnseen = 5

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
	// A transport with a dialer of its own leaves HTTP/2 unless it is told.
	t.ForceAttemptHTTP2 = true
	c := &pooled{transport: t, ways: make(map[string]*way)}
	dial := t.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		p.mu.Lock()
		c.dialled(address)
		p.mu.Unlock()
		return dial(ctx, network, address)
	}
	return c
}

// RoundTrip implements http.RoundTripper.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		return p.plain.RoundTrip(r)
	}
	for tries := 1; ; tries++ {
		resp, err := p.try(r)
		if tries == maxUnseen || r.GetBody == nil || !errors.Is(err, errUnseen) {
			return resp, err
		}
		again := *r
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
		r = &again
	}
}

// errUnseen: the server has certainly not looked at the request.
var errUnseen = errors.New("the server went away before it looked at the request")

func (p *Pool) try(r *http.Request) (*http.Response, error) {
	c, w, err := p.take(r.Context(), addressOf(r.URL))
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // it was not read
		}
		return nil, err
	}
	passed := sync.OnceFunc(func() { <-w.turn })
	ahead := false // guarded by Pool.mu
	traced := r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		WroteHeaders: func() {
			p.mu.Lock()
			ahead = w.cold
			follow := !ahead
			p.mu.Unlock()
			if follow {
				passed()
			}
		},
	}))
	if r.GetBody != nil {
		// net/http asks for the body again only when it is safe to send the request again.
		traced.GetBody = func() (io.ReadCloser, error) { return nil, errUnseen }
	}
	resp, err := c.transport.RoundTrip(traced)
	if err != nil {
		passed()
		p.done(c, w)
		return nil, err
	}
	p.mu.Lock()
	if ahead {
		w.cold = false
	}
	p.mu.Unlock()
	passed()
	resp.Body = &answer{ReadCloser: resp.Body, done: sync.OnceFunc(func() { p.done(c, w) })}
	return resp, nil
}

// take waits for the turn on the connection to the host that has the fewest requests under way.
func (p *Pool) take(ctx context.Context, host string) (*pooled, *way, error) {
	for {
		p.mu.Lock()
		c := p.line[0]
		w := c.to(host)
		for _, other := range p.line[1:] {
			if way := other.to(host); way.underWay < w.underWay {
				c, w = other, way
			}
		}
		c.underWay++
		w.underWay++
		p.mu.Unlock()
		select {
		case w.turn <- struct{}{}:
		case <-ctx.Done():
			p.done(c, w)
			return nil, nil, ctx.Err()
		}
		p.mu.Lock()
		retired := c.retired
		p.mu.Unlock()
		if !retired {
			return c, w, nil
		}
		<-w.turn
		p.done(c, w)
	}
}

// done has one request less under way, and closes a retired connection after its last.
func (p *Pool) done(c *pooled, w *way) {
	p.mu.Lock()
	c.underWay--
	w.underWay--
	idle := c.retired && c.underWay == 0
	p.mu.Unlock()
	if idle {
		c.close()
	}
}

// close closes a connection that has nothing under way, also when net/http has not noticed yet that its last stream has ended.
func (c *pooled) close() {
	c.transport.CloseIdleConnections()
	time.AfterFunc(time.Second, c.transport.CloseIdleConnections)
}

// answer is the body of an answer, with which its request ends.
type answer struct {
	io.ReadCloser
	done func()
}

// Close closes the body.
func (a *answer) Close() error {
	defer a.done()
	return a.ReadCloser.Close()
}

// Renew has all further requests go over new connections; those under way end on the old ones.
func (p *Pool) Renew() {
	p.mu.Lock()
	old := p.line
	p.line = make([]*pooled, len(old))
	for i := range p.line {
		p.line[i] = p.fresh()
	}
	p.mu.Unlock()
	p.retire(old)
}

// Close closes the connections, each when nothing is under way over it any more. Whoever still sends gets new ones.
func (p *Pool) Close() {
	p.plain.CloseIdleConnections()
	p.Renew()
}

func (p *Pool) retire(line []*pooled) {
	p.mu.Lock()
	for _, c := range line {
		c.retired = true
	}
	p.mu.Unlock()
	for _, c := range line {
		c.close()
	}
}
