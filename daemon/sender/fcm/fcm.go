// Package fcm sends notifications through Firebase Cloud Messaging, HTTP v1.
//
// It promises:
//
//   - One call of Send is one attempt, and no wait that FCM asks for is slept here. Only a request whose access token is refused is made
//     once more, at once, with a new one.
//   - Each owner has a fixed number of connections and an access token of its own. The token is asked for once, however many wait for it.
//   - An attempt ends with its context, and takes no more memory than its message and MaxBody of the answer.
//   - What an Outcome holds is for the owner of the app: no access token, no key, and not the token of the device.
//   - It writes nothing: neither to the store nor to the queue.
package fcm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

const (
	// DefaultURL is where FCM is.
	DefaultURL = "https://fcm.googleapis.com"
	// DefaultConnections is how many connections an owner has.
	DefaultConnections = 4
	// MaxBody is how much of an answer's body is read, in bytes.
	MaxBody = 64 << 10
	// idleAfter is how long the connections and the token of an owner are kept without use, and sweepEvery how often it is looked for such.
	idleAfter  = time.Hour
	sweepEvery = time.Minute
)

// Options say how a Sender sends.
type Options struct {
	// Transport makes a new transport of the guarded way out; required.
	Transport func() *http.Transport
	// URL is asked in the place of DefaultURL: a stand-in, which also issues the access tokens. "" is DefaultURL.
	URL string
	// UserAgent is sent with every request; "" sends that of net/http.
	UserAgent string
	// Connections is how many connections an owner has to each host; 0 means DefaultConnections.
	Connections int
	// Logger is told, at most once in a minute, that connections fail for a want of this machine's own. Nil discards.
	Logger *slog.Logger
}

// Sender makes attempts. Its methods are safe for concurrent use.
type Sender struct {
	transport   func() *http.Transport
	base        *url.URL
	standin     bool
	userAgent   string
	connections int
	log         *slog.Logger
	complained  atomic.Int64 // when the operator was told last, in nanoseconds of Unix time

	// Calls of token endpoints end with ctx, which Close ends, and are waited for in fetches.
	ctx     context.Context
	cancel  context.CancelFunc
	fetches sync.WaitGroup

	mu     sync.Mutex
	owners map[string]*owner
	swept  time.Time
	closed bool
}

// owner is what an implementation has of its own.
type owner struct {
	pool     *sender.Pool
	underWay int       // guarded by Sender.mu
	used     time.Time // guarded by Sender.mu

	mu    sync.Mutex
	grant *grant // nil before the first
}

// New validates the options and returns a Sender. It starts nothing.
func New(o Options) (*Sender, error) {
	if o.Transport == nil {
		return nil, errors.New("fcm sender: a transport is required")
	}
	if o.Connections < 0 {
		return nil, errors.New("fcm sender: the number of connections is negative")
	}
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	standin := o.URL != ""
	if !standin {
		o.URL = DefaultURL
	}
	base, err := url.Parse(strings.TrimRight(o.URL, "/") + "/") // with the slash JoinPath makes absolute paths of all
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("fcm sender: the URL must be an absolute http or https URL without user, query and fragment")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Sender{
		transport: o.Transport, base: base, standin: standin, userAgent: o.UserAgent, connections: o.Connections, log: o.Logger,
		owners: make(map[string]*owner),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Target is one device: its registration token, or with FID its Firebase installation id.
type Target struct {
	Token string
	FID   bool
}

// Send makes one attempt to hand a message to FCM for one device and says what it came to. It returns soon after ctx ends, whose deadline is
// the timeout of the attempt. owner names the implementation, which has connections and an access token of its own; message is what Render
// made, and is not changed. With validateOnly FCM checks the message and delivers nothing.
func (s *Sender) Send(ctx context.Context, owner string, key *store.FCM, to Target, message []byte, validateOnly bool) sender.Result {
	started := time.Now()
	r := s.send(ctx, owner, key, to, message, validateOnly)
	r.StartedAt, r.Duration = started.UTC(), time.Since(started)
	return r
}

func (s *Sender) send(ctx context.Context, name string, key *store.FCM, to Target, message []byte, validateOnly bool) sender.Result {
	if key == nil || key.ProjectID == "" {
		return sender.Failed(queue.ClassMisconfigured, "the implementation has no service account for FCM")
	}
	body := request(to, message, validateOnly)
	if body == nil {
		return innocent(sender.Failed(queue.ClassRejected, "the message is not one that can be sent"))
	}
	o := s.begin(name)
	if o == nil {
		return sender.Failed(queue.ClassRetry, sender.BrokenOff)
	}
	defer s.end(o)
	for again := false; ; again = true {
		token, failure := s.token(ctx, o, key)
		if failure != nil {
			r := sender.Failed(failure.class, "no access token: "+failure.text)
			r.RetryAfter = failure.retryAfter
			return r
		}
		r, refused := s.post(ctx, o, key, to, token, body)
		if !refused || again { // a new one that is refused stays, so that the many who try at once do not each ask for another
			return r
		}
		o.drop(token)
	}
}

// post makes the request, and tells whether it was the access token that was refused.
func (s *Sender) post(ctx context.Context, o *owner, key *store.FCM, to Target, token string, body []byte) (_ sender.Result, refused bool) {
	started := time.Now()
	u := s.base.JoinPath("v1", "projects", url.PathEscape(key.ProjectID), "messages:send")
	resp, err := o.pool.RoundTrip(s.newRequest(ctx, u, "application/json", body, "Bearer "+token)) //nolint:bodyclose // ReadBody closes it
	if err != nil {
		return sender.Failed(queue.ClassRetry, s.describe(err, "FCM", u.Hostname(), time.Since(started))), false
	}
	// An answer may repeat what it was asked.
	answer := masked(masked(sender.ReadBody(resp, MaxBody), to.Token, "<token>"), token, "<secret>")
	r, refused := judge(resp.StatusCode, resp.Header, answer, key.ProjectID, time.Now())
	r.Response = answer[:min(len(answer), queue.MaxResponse)]
	return r, refused
}

// newRequest makes a POST. Its body can be sent again by the transport, on another connection, where the server says that it did not look at it
// (RFC 9113, section 8.7).
func (s *Sender) newRequest(ctx context.Context, u *url.URL, contentType string, body []byte, authorization string) *http.Request {
	h := http.Header{"Content-Type": {contentType}, "Accept": {"application/json"}}
	if authorization != "" {
		h["Authorization"] = []string{authorization}
	}
	if s.userAgent != "" {
		h["User-Agent"] = []string{s.userAgent}
	}
	content := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r := &http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, ContentLength: int64(len(body)), GetBody: content,
	}
	r.Body, _ = content()
	return r.WithContext(ctx)
}

// request puts the target into the message. Nil when the message is no JSON object.
func request(to Target, message []byte, validateOnly bool) []byte {
	if len(message) < 2 || message[0] != '{' {
		return nil
	}
	b := make([]byte, 0, len(message)+len(to.Token)+64)
	b = append(b, '{')
	if validateOnly {
		b = append(b, `"validateOnly":true,`...)
	}
	b = append(b, `"message":{"token":`...)
	if to.FID {
		b = append(b[:len(b)-len(`"token":`)], `"fid":`...)
	}
	b, err := jsontext.AppendQuote(b, strings.ToValidUTF8(to.Token, "\uFFFD"))
	if err != nil { // of invalid UTF-8 alone
		return nil
	}
	if message[1] != '}' {
		b = append(b, ',')
	}
	return append(append(b, message[1:]...), '}')
}

// masked is the body with other words in the place of a secret.
func masked(body []byte, secret, words string) []byte {
	if len(secret) < 6 || !bytes.Contains(body, []byte(secret)) { // shorter ones are none, and would take innocent text with them
		return body
	}
	return bytes.ReplaceAll(body, []byte(secret), []byte(words))
}

// begin returns what the owner has, for one attempt. Nil when the Sender is closed.
func (s *Sender) begin(name string) *owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	now := time.Now()
	if now.Sub(s.swept) >= sweepEvery {
		s.swept = now
		for name, o := range s.owners {
			if o.underWay == 0 && now.Sub(o.used) >= idleAfter {
				delete(s.owners, name)
				o.pool.Close()
			}
		}
	}
	o := s.owners[name]
	if o == nil {
		o = &owner{pool: sender.NewPool(s.connections, s.transport)}
		s.owners[name] = o
	}
	o.underWay++
	o.used = now
	return o
}

func (s *Sender) end(o *owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.underWay--
	o.used = time.Now()
}

// Forget lets the connections and the access token of an owner go, because its credentials were changed or it is no more. Attempts under
// way end on the old connections.
func (s *Sender) Forget(owner string) {
	s.mu.Lock()
	o := s.owners[owner]
	delete(s.owners, owner)
	s.mu.Unlock()
	if o != nil {
		o.pool.Renew() // closes also those that are busy, when they no longer are
	}
}

// Close lets everything go and waits for calls of token endpoints to end. Attempts that begin afterwards fail.
func (s *Sender) Close() {
	s.mu.Lock()
	s.closed = true
	owners := s.owners
	s.owners = nil
	s.mu.Unlock()
	s.cancel()
	s.fetches.Wait()
	for _, o := range owners {
		o.pool.Renew()
	}
}

// innocent marks a result that says nothing of FCM or the credentials.
func innocent(r sender.Result) sender.Result {
	r.Innocent = true
	return r
}
