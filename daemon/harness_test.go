package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon"
	"herald/daemon/config"
)

// adminToken is the fixed token of every daemon the tests start.
const adminToken = "test-admin-token-0123456789abcdef"

// patience is how long a test waits for something that should happen. It is long because the machine
// may be busy; nothing waits for it in a test that passes.
const patience = 20 * time.Second

// prompt is within what time a delivery arrives that nothing holds up, on a busy machine as well. One that waits for a receiver or a
// provider that hangs takes longer.
const prompt = patience / 2

// herald is a running daemon that is driven over HTTP only.
type herald struct {
	t      *testing.T
	URL    string
	dir    string
	socket string
	client *http.Client // nil for httpClient

	stop func() error // drains and returns what Run returned; repeatable
}

// start runs a daemon on a directory of its own. The settings are YAML added to a minimal
// configuration that lets pushes reach loopback.
func start(t *testing.T, settings ...string) *herald {
	t.Helper()
	return startIn(t, t.TempDir(), settings...)
}

// startIn runs a daemon on the data directory given, as after a restart.
func startIn(t *testing.T, dir string, settings ...string) *herald {
	t.Helper()
	return startWith(t, dir, nil, settings...)
}

// startWith is startIn with environment variables, which win over the settings.
func startWith(t *testing.T, dir string, environ []string, settings ...string) *herald {
	t.Helper()
	return startClient(t, nil, dir, environ, settings...)
}

// startClient is startWith for a daemon that is called by a client of the test's own; nil is that of the harness, for plain HTTP.
func startClient(t *testing.T, client *http.Client, dir string, environ []string, settings ...string) *herald {
	t.Helper()
	socket := socketPath(t)
	yaml := fmt.Sprintf("listen: {address: '127.0.0.1:0', socket: %s}\ndata_dir: %s\nadmin_token: %s\negress: {allow_networks: [127.0.0.0/8]}\n%s\n",
		socket, filepath.Join(dir, "data"), adminToken, strings.Join(settings, "\n"))
	c, err := config.Parse("test", []byte(yaml), environ)
	if err != nil {
		t.Fatalf("configuration: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.New(ctx, daemon.Options{Config: c, Version: "1.2.3-test"})
	if err != nil {
		cancel()
		t.Fatalf("build the daemon: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	h := &herald{t: t, URL: "http://" + d.Addr().String(), dir: dir, socket: socket, client: client}
	if c.Listen.TLS.Cert != "" {
		h.URL = "https://" + d.Addr().String()
	}
	h.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("the daemon ended with: %v", err)
		}
	})
	h.eventually("the daemon is ready", func() bool {
		return h.as("").do("GET", "/readyz", nil).status == http.StatusOK
	})
	return h
}

// socketPath returns a path short enough for a unix socket, which a test's own directory may not be.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "herald")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// restart drains the daemon and starts it again on the same data.
func (h *herald) restart(settings ...string) *herald {
	h.t.Helper()
	if err := h.stop(); err != nil {
		h.t.Fatalf("stop: %v", err)
	}
	return startIn(h.t, h.dir, settings...)
}

// eventually waits until the condition holds.
func (h *herald) eventually(what string, cond func() bool) {
	h.t.Helper()
	eventually(h.t, what, cond)
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, patience, what, cond)
}

// within is eventually for what takes longer.
func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for wait := time.Millisecond; !cond(); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", limit, what)
		}
		time.Sleep(wait)
	}
}

// caller makes requests with one token.
type caller struct {
	h       *herald
	token   string
	headers map[string]string
	client  *http.Client // nil for the network
}

// admin calls with the admin token.
func (h *herald) admin() *caller { return h.as(adminToken) }

// as calls with the token given; "" sends none.
func (h *herald) as(token string) *caller { return &caller{h: h, token: token, client: h.client} }

// overSocket calls over the unix socket, without a token.
func (h *herald) overSocket() *caller {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.socket)
	}}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &caller{h: h, client: &http.Client{Timeout: httpClient.Timeout, Transport: transport}}
}

// with returns a caller that also sends the header.
func (c *caller) with(name, value string) *caller {
	n := &caller{h: c.h, token: c.token, headers: map[string]string{name: value}, client: c.client}
	for k, v := range c.headers {
		if k != name {
			n.headers[k] = v
		}
	}
	return n
}

// answer is what came back.
type answer struct {
	t       *testing.T
	status  int
	header  http.Header
	body    []byte
	request string
}

// do sends a request. A body that is a string or []byte goes out as it is, anything else as JSON; both
// are application/json unless the caller says otherwise.
func (c *caller) do(method, path string, body any) *answer {
	c.h.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			c.h.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, c.h.URL+path, r)
	if err != nil {
		c.h.t.Fatal(err)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range c.headers {
		req.Header.Set(k, v)
	}
	client := httpClient
	if c.client != nil {
		client = c.client
	}
	resp, err := client.Do(req)
	if err != nil {
		c.h.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.h.t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	openAPI().judge(c.h.t, req, readBody(c.h.t, req), resp, text)
	return &answer{c.h.t, resp.StatusCode, resp.Header, text, method + " " + path}
}

var httpClient = &http.Client{
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// is fails the test unless the answer has the status, and returns the answer.
func (a *answer) is(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s answered %d, want %d: %s", a.request, a.status, status, a.body)
	}
	return a
}

// problem fails the test unless the answer is a problem document with that status, and returns its detail
// with the fields of its errors.
func (a *answer) problem(status int) string {
	a.t.Helper()
	a.is(status)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Fatalf("%s answered with Content-Type %q, want a problem: %s", a.request, got, a.body)
	}
	var p struct {
		Title      string
		StatusCode int
		Detail     string
		Instance   string
		Errors     []struct{ Field, Detail string }
	}
	a.into(&p)
	if p.Title == "" || p.StatusCode != status || p.Detail == "" || p.Instance == "" {
		a.t.Fatalf("%s answered with an incomplete problem: %s", a.request, a.body)
	}
	for _, e := range p.Errors {
		p.Detail += "\n" + e.Field + ": " + e.Detail
	}
	return p.Detail
}

// into decodes the body.
func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s answered with what is not the JSON expected: %v: %s", a.request, err, a.body)
	}
}

// object decodes the body as a JSON object.
func (a *answer) object() map[string]any {
	a.t.Helper()
	var m map[string]any
	a.into(&m)
	return m
}

// list decodes the body as a JSON array of objects.
func (a *answer) list() []map[string]any {
	a.t.Helper()
	var l []map[string]any
	a.into(&l)
	return l
}

// text returns a member of the body that is a string.
func (a *answer) text(member string) string {
	a.t.Helper()
	s, ok := a.object()[member].(string)
	if !ok {
		a.t.Fatalf("%s: no text %q in %s", a.request, member, a.body)
	}
	return s
}

// token mints an access token for an account, with the scopes.
func (h *herald) token(account string, scopes ...string) *caller {
	h.t.Helper()
	return h.as(h.admin().do("POST", "/tokens", map[string]any{"accountId": account, "name": "test", "scopes": scopes}).is(200).text("token"))
}

// subscribe makes a subscription of the fields in the default account and returns its id.
func (h *herald) subscribe(url string, fields map[string]any) string {
	h.t.Helper()
	body := map[string]any{"dataCallbackURL": url}
	maps.Copy(body, fields)
	return h.admin().do("POST", "/subscriptions", body).is(200).text("id")
}

// publish accepts an event of the default account and returns its id.
func (h *herald) publish(eventType, resource string, data any) string {
	h.t.Helper()
	body := map[string]any{"type": eventType, "data": data}
	if resource != "" {
		body["resource"] = resource
	}
	return h.admin().do("POST", "/events", body).is(202).text("id")
}

// delivery waits until the deliveries of an event to a subscription are in the state, and returns the
// newest of them.
func (h *herald) delivery(event, subscription, state string) map[string]any {
	h.t.Helper()
	var last []map[string]any
	h.eventually(fmt.Sprintf("the delivery of %s is %s (it is %v)", event, state, last), func() bool {
		last = h.admin().do("GET", "/deliveries?event="+event+"&subscription="+subscription, nil).is(200).list()
		return len(last) > 0 && last[0]["state"] == state
	})
	return h.admin().do("GET", "/deliveries/"+last[0]["id"].(string), nil).is(200).object()
}

// push is one request a receiver got.
type push struct {
	method string
	url    string
	header http.Header
	body   []byte
	at     time.Time
}

func (p push) id() string { return p.header.Get("Webhook-Id") }

// object decodes the body as a JSON object.
func (p push) object(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(p.body, &m); err != nil {
		t.Fatalf("the push is not a JSON object: %v: %s", err, p.body)
	}
	return m
}

// receiver takes pushes on loopback.
type receiver struct {
	t   *testing.T
	URL string

	mu     sync.Mutex
	pushes []push
	answer func(n int, p push, w http.ResponseWriter)
}

// receive starts a receiver that answers 200 until told otherwise.
func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		p := push{req.Method, req.URL.String(), req.Header.Clone(), body, time.Now()}
		if p.header.Get("Herald-Subscription") != "" {
			openAPI().judgePush(t, p)
		}
		r.mu.Lock()
		r.pushes = append(r.pushes, p)
		n, answer := len(r.pushes), r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(n, p, w)
		}
	}))
	t.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// status makes the receiver answer with a code from now on.
func (r *receiver) status(code int) {
	r.respond(func(_ int, _ push, w http.ResponseWriter) { w.WriteHeader(code) })
}

// respond makes the receiver answer by the function from now on; n counts its pushes from 1.
func (r *receiver) respond(f func(n int, p push, w http.ResponseWriter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// got returns the pushes so far.
func (r *receiver) got() []push {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]push(nil), r.pushes...)
}

// wait waits for n pushes and returns all there are.
func (r *receiver) wait(n int) []push {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d pushes have arrived", n), func() bool { return len(r.got()) >= n })
	return r.got()
}

// sentinel publishes an event in an account of its own, to a subscription of its own, and waits until it
// arrives: what was published before it to a working receiver has been pushed by then, or will not be.
func (h *herald) sentinel() {
	h.t.Helper()
	r := receive(h.t)
	if a := h.admin().do("POST", "/accounts", map[string]any{"id": "sentinel"}); a.status != http.StatusConflict {
		a.is(200)
	}
	c := h.admin().with("Herald-Account", "sentinel")
	id := c.do("POST", "/subscriptions", map[string]any{"dataCallbackURL": r.URL}).is(200).text("id")
	c.do("POST", "/events", map[string]any{"type": "test.sentinel", "data": map[string]any{}}).is(202)
	r.wait(1)
	c.do("DELETE", "/subscriptions/"+id, nil).is(204)
}

// freeAddress returns an address of loopback on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
