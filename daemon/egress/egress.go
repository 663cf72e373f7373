// Package egress is the only way out: every call the daemon makes to another machine goes through one
// of its transports.
//
// It promises that no connection is made to an address the policy closes. The check is made on the
// address really dialled, between the resolution of the name and the connect, so that a name that
// resolves to something else the second time gains nothing. It promises bounds on what a receiver can
// cost before its body is read: dialling, the TLS handshake, the size of the header.
//
// With a proxy the promise is smaller: the proxy resolves the names, so only what the URL itself shows
// is checked here, and the proxy has to guard the rest.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// Limits of every transport.
const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	// A receiver may close an idle connection earlier; net/http then tries the request on a new one when
	// nothing of it was sent.
	idleTimeout       = 90 * time.Second
	maxHeaderBytes    = 64 << 10
	bufferBytes       = 4 << 10
	pingAfter         = 30 * time.Second
	pingTimeout       = 15 * time.Second
	defaultIdle       = 4096
	defaultIdlePerKey = 512
)

// Options are what New needs. The zero value is the default policy without a proxy.
type Options struct {
	// AllowNetworks and DenyNetworks are those of Policy.
	AllowNetworks, DenyNetworks []netip.Prefix
	// HTTPSOnly refuses plain HTTP.
	HTTPSOnly bool
	// Proxy is the URL of an http, https, socks5 or socks5h proxy; empty for none. Its own address is
	// exempt from the policy, because the operator named it. The environment's proxies are not used.
	Proxy string
	// CAFile is a PEM file of authorities trusted beside the system's; empty for none.
	CAFile string
	// MaxIdleConns bounds the idle connections of one transport, MaxIdleConnsPerHost those to one host;
	// 0 is 4096 and 512. The second must not be below the attempts that run to one host at a time, else
	// each of those beyond it costs a new connection.
	MaxIdleConns, MaxIdleConnsPerHost int
	// Resolver resolves the names; nil is the system's.
	Resolver *net.Resolver
}

// Egress makes transports that keep to one policy. It is safe for concurrent use and holds no
// connection itself.
type Egress struct {
	policy    Policy
	proxy     *url.URL
	proxyAddr string
	roots     *x509.CertPool
	guarded   net.Dialer
	plain     net.Dialer
	idle      int
	idleHost  int
}

// New checks the options and reads the CA file. It starts nothing and opens no connection. No error
// repeats the proxy's URL, which may hold a password.
func New(o Options) (*Egress, error) {
	e := &Egress{
		policy:   Policy{Allow: o.AllowNetworks, Deny: o.DenyNetworks, HTTPSOnly: o.HTTPSOnly},
		idle:     o.MaxIdleConns,
		idleHost: o.MaxIdleConnsPerHost,
	}
	for _, n := range append(append([]netip.Prefix(nil), o.AllowNetworks...), o.DenyNetworks...) {
		if !n.IsValid() {
			return nil, errors.New("egress: a network is not valid")
		}
	}
	if e.idle < 0 || e.idleHost < 0 {
		return nil, errors.New("egress: a number of idle connections is negative")
	}
	if e.idle == 0 {
		e.idle = defaultIdle
	}
	if e.idleHost == 0 {
		e.idleHost = defaultIdlePerKey
	}
	if o.Proxy != "" {
		var err error
		if e.proxy, e.proxyAddr, err = parseProxy(o.Proxy); err != nil {
			return nil, err
		}
	}
	if o.CAFile != "" {
		var err error
		if e.roots, err = roots(o.CAFile); err != nil {
			return nil, err
		}
	}
	e.plain = net.Dialer{Timeout: dialTimeout, Resolver: o.Resolver}
	e.guarded = net.Dialer{Timeout: dialTimeout, Resolver: o.Resolver, Control: e.control}
	return e, nil
}

// CheckURL is Policy.CheckURL of the policy of e: use it when a URL is given, so that a wrong one is
// refused at once. The transports check again by themselves.
func (e *Egress) CheckURL(u *url.URL) error { return e.policy.CheckURL(u) }

// Transport returns a new transport, with its own pool of connections, for HTTP/1.1 and, where a TLS
// server offers it, HTTP/2. The caller keeps it for as long as it makes calls, and may change its
// TLSClientConfig before the first, to present a client certificate; Proxy and DialContext carry the
// policy and stay as they are. A call that the policy refuses fails with an error that unwraps to a
// *DeniedError, before anything is sent.
//
// A transport follows no redirect, asks for no compression, reads at most 64 KiB of header, and sets no
// limit to the wait for the answer: that is the request's context's.
func (e *Egress) Transport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		Proxy:                  e.route,
		DialContext:            e.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.roots},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConns:           e.idle,
		MaxIdleConnsPerHost:    e.idleHost,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		WriteBufferSize:        bufferBytes,
		ReadBufferSize:         bufferBytes,
		Protocols:              protocols,
		// A receiver that vanished without closing would otherwise hold every stream of its connection
		// until each attempt's deadline.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// TransportTo returns a transport like Transport that may also reach the host and port of base, whatever the policy says of its
// address and scheme, and without the proxy: the operator has named it.
func (e *Egress) TransportTo(base *url.URL) *http.Transport {
	t := e.Transport()
	named := hostPort(base)
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		if hostPort(r.URL) == named {
			return nil, nil
		}
		return e.route(r)
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == named {
			return e.plain.DialContext(ctx, network, address)
		}
		return e.dial(ctx, network, address)
	}
	return t
}

// hostPort is the address a transport dials for a URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "http":
		port = "80"
	default:
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// Client returns a client over a new Transport that hands out a redirect as the answer it is instead
// of following it. It has no timeout: the request's context is to have one.
func (e *Egress) Client() *http.Client {
	return &http.Client{
		Transport:     e.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// route is the Proxy function of the transports. They call it before they choose a connection, kept or
// new, which makes it the place where no request gets past CheckURL. Only a request that joins a kept
// HTTP/2 connection skips it: to the scheme, host and port that passed when that connection was made.
func (e *Egress) route(r *http.Request) (*url.URL, error) {
	if err := e.policy.CheckURL(r.URL); err != nil {
		return nil, err
	}
	return e.proxy, nil
}

// dial connects to the proxy when there is one, else to an address that the policy lets out.
func (e *Egress) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if e.proxy != nil && address == e.proxyAddr {
		return e.plain.DialContext(ctx, network, address)
	}
	c, err := e.guarded.DialContext(ctx, network, address)
	if err == nil {
		return c, nil
	}
	// The hook saw the address only; the name is what the person who set the URL knows.
	if denied, ok := errors.AsType[*DeniedError](err); ok {
		named := *denied
		if host, _, splitErr := net.SplitHostPort(address); splitErr == nil {
			named.Host = shown(host)
		}
		return nil, &named
	}
	return nil, err
}

// control is called with each address about to be connected to, after resolution and for each of the
// several that a name may have. Nothing between here and the connect can change it.
func (e *Egress) control(network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return &DeniedError{Rule: RuleScheme}
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address to dial: %w", err)
	}
	return e.policy.CheckAddr(ap)
}

// parseProxy reads the proxy's URL and the address by which the transport will dial it.
func parseProxy(s string) (*url.URL, string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, "", errors.New("egress: the proxy is not a URL")
	}
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "http":
			port = "80"
		case "https":
			port = "443"
		case "socks5", "socks5h":
			port = "1080"
		}
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return nil, "", errors.New("egress: the proxy must be an http, https, socks5 or socks5h URL")
	}
	host := u.Hostname()
	if host == "" || u.Opaque != "" {
		return nil, "", errors.New("egress: the proxy's URL has no host")
	}
	// The transport would map other characters before it dials, and the address would not be known again.
	if kindOf(host) == hostBad && !strings.Contains(host, ":") {
		return nil, "", errors.New("egress: the proxy's host is not a name in ASCII")
	}
	return u, net.JoinHostPort(host, port), nil
}

// roots returns the system's authorities and those of the file.
func roots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("egress: read the authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("egress: load the system's authorities: %w", err)
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("egress: no certificate in PEM form in %s", path)
	}
	return pool, nil
}
