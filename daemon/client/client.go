// Package client speaks Herald's HTTP API: accounts, tokens, resources, subscriptions, events,
// deliveries, health.
//
// It promises that every call ends with its context, that no answer is read without a limit, that a
// failed call returns a *Problem holding the daemon's own words, and that the access token goes to
// the configured daemon only: redirects and links to other places are never followed. It needs
// nothing but the standard library.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultBaseURL is where a daemon without a configuration serves its API.
const DefaultBaseURL = "http://127.0.0.1:8420"

const (
	// maxAnswer bounds an answer that is read whole, and each element of one that is streamed: the
	// largest is an event with its payload, which a daemon may be configured to take up to 256 MiB.
	maxAnswer = 256<<20 + 1<<20
	// maxProblem bounds the body of a failed call; what lies beyond is not ours to explain.
	maxProblem = 1 << 20
	// drain is how much of an answer is read away so that its connection can be used again.
	drain = 64 << 10

	dialTimeout = 10 * time.Second
	// headerTimeout bounds the wait for an answer to begin when the caller's context does not: longer
	// than a daemon under full load ever needs to make a batch durable.
	headerTimeout = 2 * time.Minute
	idleTimeout   = 90 * time.Second
)

// Options configure a Client.
type Options struct {
	// BaseURL is the daemon's address, http or https, with a path when it is served below one; empty
	// means DefaultBaseURL. It excludes Socket.
	BaseURL string
	// Token is the access token; empty sends none, which is right for a Socket.
	Token string
	// Account names the account to act for, for tokens with the admin scope and for a Socket; empty
	// means the token's own.
	Account string
	// Socket is the path of the daemon's unix socket. Over it the daemon's own user and root have
	// admin rights without a token. It excludes BaseURL and HTTPClient.
	Socket string
	// TLS is for a daemon with a certificate of a private authority (RootCAs), or one that asks for a client certificate
	// (Certificates); nil trusts the system's authorities and shows none. It needs a BaseURL that begins with https:// and excludes
	// HTTPClient. It is used as a copy.
	TLS *tls.Config
	// HTTPClient makes the calls; nil means one of the client's own. It is used as a copy that does
	// not follow redirects, because they would take the token elsewhere.
	HTTPClient *http.Client
	// UserAgent is sent with every call; empty means "herald-client".
	UserAgent string
}

// Client makes calls to one daemon. It is safe for concurrent use and holds no state but idle
// connections. It never repeats a call by itself; a Problem says when to (see Problem.RetryAfter),
// and an event with an id may be published again without harm.
type Client struct {
	http    *http.Client
	base    *url.URL
	socket  string
	token   string
	account string
	agent   string
}

// New checks the options and returns a Client. It makes no call.
func New(o Options) (*Client, error) {
	if o.Socket != "" && o.BaseURL != "" {
		return nil, errors.New("a Socket and a BaseURL exclude each other")
	}
	if o.Socket != "" && o.HTTPClient != nil {
		return nil, errors.New("a Socket and an HTTPClient exclude each other")
	}
	if o.TLS != nil && o.HTTPClient != nil {
		return nil, errors.New("a TLS and an HTTPClient exclude each other")
	}
	base, err := parseBase(o)
	if err != nil {
		return nil, err
	}
	if o.TLS != nil && base.Scheme != "https" {
		return nil, errors.New("a TLS is for a BaseURL that begins with https://")
	}
	for name, value := range map[string]string{"Token": o.Token, "Account": o.Account, "UserAgent": o.UserAgent} {
		if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			return nil, fmt.Errorf("the %s holds a character that cannot be sent in a header, at position %d", name, i+1)
		}
	}
	c := &Client{base: base, socket: o.Socket, token: o.Token, account: o.Account, agent: o.UserAgent}
	if c.agent == "" {
		c.agent = "herald-client"
	}
	if o.HTTPClient != nil {
		own := *o.HTTPClient
		c.http = &own
	} else {
		c.http = &http.Client{Transport: transport(o.Socket, o.TLS.Clone())}
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func parseBase(o Options) (*url.URL, error) {
	text := o.BaseURL
	switch {
	case o.Socket != "":
		text = "http://localhost" // a name for the Host header; the dial goes to the socket
	case text == "":
		text = DefaultBaseURL
	}
	u, err := url.Parse(text)
	switch {
	case err != nil: // the error would repeat the text, which may hold a password
		return nil, errors.New("the BaseURL is not a URL such as " + DefaultBaseURL)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("the BaseURL must begin with http:// or https:// and a host, such as " + DefaultBaseURL)
	case u.User != nil:
		return nil, errors.New("the BaseURL must not hold a user or password; give a Token")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the BaseURL must end with the path: no query, no fragment")
	}
	return u, nil
}

// transport is tuned for one destination. There is no proxy for a socket, and for a URL the
// environment's proxy is honoured as every command line tool does.
func transport(socket string, secured *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       secured,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       idleTimeout,
		MaxIdleConnsPerHost:   64,
		ForceAttemptHTTP2:     true,
	}
	if socket != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	return t
}

// Close ends the idle connections. The client may be used afterwards.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Address says where the daemon is, for messages: the base URL, or the path of the socket.
func (c *Client) Address() string {
	if c.socket != "" {
		return c.socket
	}
	return strings.TrimSuffix(c.base.String(), "/")
}

// UnreachableError says that no connection to the daemon could be made, so nothing was sent.
type UnreachableError struct {
	// Address is Client.Address.
	Address string
	// Err is the cause.
	Err error
}

// Error names the address and the cause.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no daemon answers at %s: %v", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// request is one call. The path is already escaped.
type request struct {
	method      string
	path        string
	query       url.Values
	body        io.Reader
	contentType string
	key         string // Idempotency-Key
}

type (
	traceKey struct{}
	trace    struct{ parent, state string }
)

// WithTrace returns a context whose calls say that they are part of a trace: the values of the headers traceparent and tracestate (W3C
// Trace Context), as a library for tracing has them; state may be empty. The events published and the messages sent with it take it
// along: pushes of them carry it. The daemon ignores what is not valid.
func WithTrace(ctx context.Context, parent, state string) context.Context {
	return context.WithValue(ctx, traceKey{}, trace{parent, state})
}

// call makes a call and decodes the answer into out, or reads it away when out is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	res, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer closeBody(res)
	if out == nil {
		return nil
	}
	d := json.NewDecoder(&meter{r: res.Body, left: maxAnswer})
	if err := d.Decode(out); err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", r.method, r.path, err)
	}
	return nil
}

// send makes a call and returns a response with a 2xx status, whose body the caller closes.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	target := strings.TrimSuffix(c.base.String(), "/") + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, r.body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.account != "" {
		req.Header.Set("Herald-Account", c.account)
	}
	if t, ok := ctx.Value(traceKey{}).(trace); ok && t.parent != "" {
		req.Header.Set("traceparent", t.parent)
		if t.state != "" {
			req.Header.Set("tracestate", t.state)
		}
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json, application/problem+json")

	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.failure(r, err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		defer closeBody(res)
		return nil, problem(res)
	}
	return res, nil
}

// failure names a call that got no answer. The URL that net/http repeats in its error is replaced by
// the path, which is enough to know what was asked.
func (c *Client) failure(r request, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Op == "dial" {
		return &UnreachableError{Address: c.Address(), Err: oe.Err}
	}
	return fmt.Errorf("%s %s at %s: %w", r.method, r.path, c.Address(), err)
}

// closeBody reads away what little may be left, so that the connection can be used again.
func closeBody(res *http.Response) {
	// Nothing that fails here changes what the caller has already got.
	_, _ = io.CopyN(io.Discard, res.Body, drain)
	_ = res.Body.Close()
}

// encode is json.Marshal without the escapes for HTML, which nobody needs here.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// submit sends v as JSON and decodes the answer into out.
func (c *Client) submit(ctx context.Context, method, path string, v, out any) error {
	return c.submitAs(ctx, method, path, "application/json", v, out)
}

func (c *Client) submitAs(ctx context.Context, method, path, contentType string, v, out any) error {
	r := request{method: method, path: path}
	if err := r.json(contentType, v); err != nil {
		return err
	}
	return c.call(ctx, r, out)
}

// json makes v the body of the request.
func (r *request) json(contentType string, v any) error {
	body, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	r.body, r.contentType = bytes.NewReader(body), contentType
	return nil
}

// join makes a path of segments given by the caller. An empty one, or one that a server takes as a
// step up, would make it another path altogether, so these are refused here.
func join(prefix string, segments ...string) (string, error) {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return "", fmt.Errorf("%q cannot be an id below %s", s, prefix)
		}
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String(), nil
}

// errTooLarge ends the reading of an answer beyond its limit.
var errTooLarge = errors.New("the answer is larger than this client reads")

// meter is a reader that fails once more than left bytes were read since it was last set.
type meter struct {
	r    io.Reader
	left int64
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > m.left {
		p = p[:m.left]
	}
	n, err := m.r.Read(p)
	m.left -= int64(n)
	return n, err
}

// isJSON says whether a content type is JSON, also of a kind such as application/problem+json.
func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}
