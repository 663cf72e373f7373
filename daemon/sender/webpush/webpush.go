// Package webpush sends notifications to browsers through the push services that those have chosen (RFC 8030, 8188, 8291 and 8292).
//
// It promises:
//
//   - One call of Send is one attempt: it follows no redirect, sleeps no wait, and ends with its context.
//   - What it sends can be read by the browser alone: each push has a key pair and a salt of its own, and its length says little.
//   - An endpoint, which anybody who registers a browser may choose, costs the others of its lane little: an origin that fails or hangs rests,
//     and its word alone does not show that the credentials are wrong.
//   - What a result says is written for the app's owner. It names an origin and never a path, a key or a token.
package webpush

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// defaultConnections is how many connections there are to a host.
const defaultConnections = 4

// maxAnswer is how much of an answer's body is read, in bytes.
const maxAnswer = 4 << 10

// Options say how a Sender sends.
type Options struct {
	// Transport makes a new transport of the guarded way out; required.
	Transport func() *http.Transport
	// URL takes the pushes in the place of each endpoint's own origin: a stand-in of push services. Path and query, the Host header and the audience of the token stay
	// those of the endpoint. "" is for real ones.
	URL string
	// UserAgent is sent with every push, such as Herald/1.0; required.
	UserAgent string
	// Connections is how many connections there are to each host; 0 means 4.
	Connections int
	// Logger is told when an origin begins to rest. Nil discards.
	Logger *slog.Logger
}

// Sender makes attempts. Its methods are safe for concurrent use.
type Sender struct {
	pool      *sender.Pool
	base      *url.URL
	userAgent string
	log       *slog.Logger
	tokens    tokens
	origins   origins
}

// New validates the options and returns a Sender.
func New(o Options) (*Sender, error) {
	if o.Transport == nil {
		return nil, errors.New("webpush sender: a transport is required")
	}
	if o.UserAgent == "" || strings.ContainsFunc(o.UserAgent, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errors.New("webpush sender: a user agent is required that fits in a header")
	}
	if o.Connections < 0 {
		return nil, errors.New("webpush sender: the number of connections is negative")
	}
	if o.Connections == 0 {
		o.Connections = defaultConnections
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Sender{userAgent: o.UserAgent, log: o.Logger}
	if o.URL != "" {
		u, err := url.Parse(o.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, errors.New("webpush sender: the URL in place of push services must be http or https, with a host and no path")
		}
		s.base = u
	}
	s.pool = sender.NewPool(o.Connections, o.Transport)
	return s, nil
}

// Push is one notification for one browser subscription.
type Push struct {
	// Endpoint, P256DH and Auth are the subscription, as store.ParseWebSubscription reads it.
	Endpoint     string
	P256DH, Auth []byte
	// Payload is what the page's service worker gets, at most MaxPayload bytes.
	Payload []byte
	Headers Headers
	// TTL is what is left of the time for which the push service is to keep it.
	TTL time.Duration
}

// Send makes one attempt to hand a push to its push service, with the key of the implementation that owner names, and says what it came to. It
// returns soon after ctx ends. A push to an origin that rests is not tried: it is ClassRetry without a Status, and says how long to wait. All that is not
// delivered is Innocent, but for ClassMisconfigured.
func (s *Sender) Send(ctx context.Context, owner string, key *store.VAPID, p Push) sender.Result {
	started := time.Now()
	r := s.attempt(ctx, owner, key, &p, started)
	// The push services of a lane are many: what one says is of its own device, but for what it says of the key.
	r.Innocent = r.Class != queue.ClassDelivered && r.Class != queue.ClassMisconfigured
	r.StartedAt, r.Duration = started.UTC(), time.Since(started)
	return r
}

// Forget drops what is kept for an owner: it is gone, or its key is another.
func (s *Sender) Forget(owner string) {
	s.tokens.forget(owner)
	s.origins.forget(owner)
}

// Close closes the connections that are idle.
func (s *Sender) Close() { s.pool.Close() }

func (s *Sender) attempt(ctx context.Context, owner string, key *store.VAPID, p *Push, now time.Time) sender.Result {
	u, err := url.Parse(p.Endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return sender.Failed(queue.ClassRejected, "the endpoint of the subscription is not an https URL")
	}
	if len(p.Payload) > MaxPayload {
		r := sender.Failed(queue.ClassRejected, "the payload is longer than the "+sender.Thousands(MaxPayload)+" bytes that push services take")
		r.Reason = sender.ReasonTooLarge
		return r
	}
	if key == nil {
		return sender.Failed(queue.ClassMisconfigured, "the implementation has no VAPID key")
	}
	origin := originOf(u)
	leave, rest := s.origins.enter(owner, origin, now)
	if rest > 0 {
		r := sender.Failed(queue.ClassRetry, "the push service "+origin+" fails or does not answer; it is not tried for "+rest.Round(time.Second).String())
		r.Wait = rest
		return r
	}
	if leave.hurried {
		var done func()
		ctx, done = s.origins.hurry(ctx, leave)
		defer done()
	}
	r, l := s.exchange(ctx, owner, key, p, u, origin)
	now = time.Now()
	signer := signerKey{owner: owner}
	copy(signer.x[:], key.PublicKey[min(1, len(key.PublicKey)):])
	switch {
	case r.Class == queue.ClassDelivered:
		s.origins.took(signer, origin, now)
	case r.Class == queue.ClassMisconfigured && r.Status != 0 && s.origins.takenElsewhere(signer, origin, now):
		r.Class, l = queue.ClassRetry, lifeBad
		r.Error += "; another push service does, so it is tried again later"
	case r.Class != queue.ClassMisconfigured || r.Status == 0 || s.base != nil || known(u.Hostname()):
	case s.origins.tookBefore(signer, origin):
		r.Wait = doubtfulWait
	default:
		// Anybody may have named it, and it has yet to show that it is a push service.
		r.Class, r.Innocent, l = queue.ClassRetry, true, lifeBad
		r.Error += "; it has taken no push yet, so it is tried again later, and the others go on"
	}
	if began := s.origins.leave(leave, l, r.Status != 0, now); began > 0 {
		s.log.Warn("push service rests", "owner", owner, "origin", origin, "duration", began, "error", r.Error)
	}
	return r
}

// exchange makes the request and reads the answer.
func (s *Sender) exchange(ctx context.Context, owner string, key *store.VAPID, p *Push, u *url.URL, origin string) (sender.Result, life) {
	started := time.Now()
	authorization, err := s.tokens.header(owner, key, origin, started)
	if err != nil {
		return sender.Failed(queue.ClassMisconfigured, err.Error()), lifeUnknown
	}
	body, err := encrypt(p.Payload, p.P256DH, p.Auth)
	if err != nil {
		return sender.Failed(queue.ClassRejected, err.Error()), lifeUnknown
	}
	req, err := s.request(ctx, u, body)
	if err != nil {
		return sender.Failed(queue.ClassRejected, "no request can be made to the endpoint of the subscription"), lifeUnknown
	}
	h := req.Header
	h["Authorization"] = []string{authorization}
	h["Content-Encoding"] = []string{"aes128gcm"}
	h["Content-Type"] = []string{"application/octet-stream"}
	h["Ttl"] = []string{strconv.FormatInt(int64(max(p.TTL, 0)/time.Second), 10)}
	h["User-Agent"] = []string{s.userAgent}
	if p.Headers.Urgency != "" {
		h["Urgency"] = []string{p.Headers.Urgency}
	}
	if p.Headers.Topic != "" {
		h["Topic"] = []string{p.Headers.Topic}
	}
	resp, err := s.pool.RoundTrip(req) //nolint:bodyclose // ReadBody closes it
	if err != nil {
		l := lifeBad
		if errors.Is(context.Cause(ctx), errHangs) {
			err = errHangs
		} else if errors.Is(err, context.Canceled) {
			l = lifeUnknown // it is the daemon that stops
		}
		return sender.Failed(queue.ClassRetry, sender.Describe(err, "the push service "+origin, u.Hostname(), time.Since(started))), l
	}
	return react(origin, resp.StatusCode, resp.Header, sender.ReadBody(resp, maxAnswer), time.Now())
}

// request makes the request without its headers. The Host header is that of the endpoint wherever it goes.
func (s *Sender) request(ctx context.Context, u *url.URL, body []byte) (*http.Request, error) {
	to := *u
	to.Fragment = ""
	if s.base != nil {
		to.Scheme, to.Host = s.base.Scheme, s.base.Host
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	req.URL, req.Host = &to, u.Host
	return req, nil
}

// originOf is the origin of an endpoint (RFC 6454, section 6.2), which is the audience of its tokens (RFC 8292, section 2).
func originOf(u *url.URL) string {
	return "https://" + strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(u.Host), ":443"), ":")
}
