// Package webhook sends pushes as HTTP requests signed in the manner of Standard Webhooks.
//
// It promises:
//
//   - One call of Send is one attempt: any 2xx is success and nothing else is, redirects are not
//     followed, and no wait that a receiver asks for is slept here.
//   - An attempt ends with its context, and takes no more memory than its request and MaxBody of the
//     answer, whatever the receiver does.
//   - What an Outcome says is written for the owner of the receiver. It never holds a credential, a
//     query string, the path of the callback URL, or anything a receiver could make us repeat beyond
//     its own host name.
//   - It writes nothing: neither to the store nor to the queue.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"herald/daemon/identity"
	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// MaxBody is how much of an answer's body is read, in bytes. The connection of a receiver that sends
// more is closed; of one that sends no more it is used again.
const MaxBody = 64 << 10

// bodyPatience is how long the body of an answer may take once its headers are in. The verdict is in the
// status; what the body is read for is the attempt log, and the reuse of the connection.
const bodyPatience = time.Second

// Options say how a Sender sends.
type Options struct {
	// Transport makes the requests; required. It brings the limits of the way out: which addresses may be
	// dialled, how long a dial and a TLS handshake may take, and how many bytes of headers an answer may
	// have (http.Transport.MaxResponseHeaderBytes).
	Transport http.RoundTripper
	// Certified makes a transport as Transport is one, whose TLS handshakes present the certificate, which is that of
	// Identity (own) or a subscription's. It is called once for each certificate in use. Nil: subscriptions with a client certificate cannot be pushed to.
	Certified func(c *tls.Certificate, own bool) *http.Transport
	// Identity returns what pushes are signed with (RFC 9421), and what subscriptions that ask for it present in the TLS
	// handshake. It is asked for each push and must be quick. Nil: neither is done.
	Identity func() *identity.Credential
	// UserAgent is sent with every push, such as Herald/1.0; required.
	UserAgent string
	// Now is the clock of timestamps, of expiring secrets, and of Retry-After dates; nil means time.Now.
	Now func() time.Time
	// Logger is told, at most once in a minute, that connections fail for a want of this machine's own,
	// which no receiver's owner can cure. Nil discards.
	Logger *slog.Logger
}

// Sender makes attempts. Its methods are safe for concurrent use.
type Sender struct {
	client    retryablehttp.Client
	certified *certified
	identity  func() *identity.Credential
	userAgent string
	now       func() time.Time
	log       *slog.Logger
	scratch   sync.Pool // of *[2 * queue.MaxResponse]byte
	grants    grants
	// complained is when the operator was told last, in nanoseconds of Unix time.
	complained atomic.Int64
}

// New validates the options and returns a Sender.
func New(o Options) (*Sender, error) {
	if o.Transport == nil {
		return nil, errors.New("webhook sender: a transport is required")
	}
	if !validValue(o.UserAgent) || o.UserAgent == "" {
		return nil, errors.New("webhook sender: a user agent is required that fits in a header")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Sender{
		client: retryablehttp.Client{
			HTTPClient: &http.Client{
				Transport: tripper{o.Transport},
				CheckRedirect: func(*http.Request, []*http.Request) error {
					return http.ErrUseLastResponse
				},
			},
			RetryMax:     maxRepeats,
			CheckRetry:   checkRetry,
			Backoff:      repeatWait,
			ErrorHandler: retryablehttp.PassthroughErrorHandler,
		},
		certified: newCertified(o.Certified),
		identity:  o.Identity,
		userAgent: o.UserAgent,
		now:       o.Now,
		log:       o.Logger,
		scratch:   sync.Pool{New: func() any { return new([2 * queue.MaxResponse]byte) }},
		grants:    grants{all: make(map[credentials]*grant)},
	}, nil
}

// Send makes one attempt to hand the push to the receiver of sub and says what it came to. It returns
// soon after ctx ends; its deadline is the timeout of the attempt. Neither sub nor the events are
// changed or kept. The class is
//
//   - ClassDelivered for any 2xx, also when the body that follows breaks off or never ends: by its
//     status the receiver has taken the push.
//   - ClassGone for 410.
//   - ClassRejected for an event whose id cannot be sent in a header.
//   - ClassMisconfigured for a subscription that no request can be made of, or whose client or scopes its
//     token endpoint refuses.
//   - ClassRetry for everything else, also where no access token could be had.
func (s *Sender) Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	// The caller's clock for durations; s.now may be another, for what is sent.
	started := time.Now()
	out := queue.Outcome{StartedAt: started.UTC()}
	s.attempt(ctx, sub, &p, nil, started, &out)
	out.Duration = time.Since(started)
	return out
}

// attempt makes the attempt, with the headers given beside those of every push. It returns those of the answer, if there was one.
func (s *Sender) attempt(ctx context.Context, sub *store.Subscription, p *queue.Push, more http.Header, started time.Time, out *queue.Outcome) http.Header {
	asked := sub
	sub, failure := s.authorized(ctx, asked)
	if failure != nil {
		out.Class, out.Error, out.RetryAfter = failure.class, failure.text, failure.retryAfter
		return nil
	}
	x := newExchange(ctx)
	req, problem := s.request(x, sub, p)
	if problem == nil {
		x.transport, problem = s.transport(sub, req.URL.Scheme)
	}
	if problem != nil {
		out.Class, out.Error = problem.class, problem.text
		return nil
	}
	maps.Copy(req.Header, more)
	resp, err := s.client.Do(req)
	if err != nil {
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close() // an answer that comes with an error is of no use
		}
		out.Class = queue.ClassRetry
		out.Error = describe(err, x, req.URL.Hostname(), time.Since(started))
		if sender.Exhausted(err) {
			s.complain()
		}
		return nil
	}
	out.Status = resp.StatusCode
	out.Response = mask(s.body(resp), &sub.Authentication)
	s.judge(resp, req.URL, out)
	if resp.StatusCode == http.StatusUnauthorized {
		s.refused(asked, sub)
	}
	return resp.Header
}

// complainEvery is how often the operator is told of a lasting want.
const complainEvery = time.Minute

func (s *Sender) complain() {
	now := time.Now().UnixNano()
	last := s.complained.Load()
	if (last == 0 || now-last >= int64(complainEvery)) && s.complained.CompareAndSwap(last, now) {
		s.log.Error("no file descriptors or ports left for connections")
	}
}

// judge sets the class and the text of an answer.
func (s *Sender) judge(resp *http.Response, asked *url.URL, out *queue.Outcome) {
	switch code := resp.StatusCode; {
	case code >= 200 && code <= 299:
		out.Class = queue.ClassDelivered
	case code == http.StatusGone:
		out.Class = queue.ClassGone
		out.Error = "the receiver answered 410 Gone: it wants no more pushes"
	case code >= 300 && code <= 399:
		out.Class = queue.ClassRetry
		out.Error = redirection(resp, asked)
	default:
		out.Class = queue.ClassRetry
		out.Error = "the receiver answered " + sender.StatusText(code)
		if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
			out.RetryAfter = sender.RetryAfter(resp.Header, s.now())
		}
	}
}

// redirection tells where a receiver wanted to send us, no further than the host: the path may be the
// secret of an unlisted URL, and the usual redirect repeats it.
func redirection(resp *http.Response, asked *url.URL) string {
	const rule = "; redirects are not followed"
	text := "the receiver answered " + sender.StatusText(resp.StatusCode)
	location := resp.Header[movedLocation]
	if len(location) == 0 {
		return text + rule
	}
	to, err := asked.Parse(location[0])
	if err != nil || to.Host == "" || len(to.Host) > 253 || !printable(to.Host) || to.Scheme != "http" && to.Scheme != "https" {
		return text + " and redirected to an unusable address" + rule
	}
	where := "another path of the same host"
	if to.Scheme != asked.Scheme || !strings.EqualFold(to.Host, asked.Host) {
		where = to.Scheme + "://" + to.Host
	}
	return text + ": it redirected to " + where + rule + ", so the callback URL has to name the final address"
}

// body reads and closes the body, up to MaxBody and for no longer than bodyPatience, and returns its
// beginning. A body that ended is what lets the connection be used again.
func (s *Sender) body(resp *http.Response) []byte {
	// A body that fails to close has told all it had to tell.
	defer func() { _ = resp.Body.Close() }()
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	// Closing is what makes a Read return that waits for the receiver.
	patience := time.AfterFunc(bodyPatience, func() { _ = resp.Body.Close() })
	defer patience.Stop()
	buf := s.scratch.Get().(*[2 * queue.MaxResponse]byte)
	defer s.scratch.Put(buf)
	kept, total := 0, 0
	for total < MaxBody {
		dst := buf[kept:queue.MaxResponse]
		if len(dst) == 0 {
			dst = buf[queue.MaxResponse:]
		}
		n, err := resp.Body.Read(dst)
		total += n
		if kept < queue.MaxResponse {
			kept += n
		}
		if err != nil {
			break
		}
	}
	if kept == 0 {
		return nil
	}
	return append([]byte(nil), buf[:kept]...)
}

// mask blanks out the credentials of the subscription in what a receiver answered, because some repeat the
// request they got, and the answer is shown to whoever looks after the delivery.
func mask(body []byte, a *store.Authentication) []byte {
	if len(body) == 0 {
		return body
	}
	secrets := [...]string{a.Token, a.Value, url.QueryEscape(a.Value), a.Password, a.ClientSecret, ""}
	if a.Type == store.AuthBasic {
		secrets[5] = base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + a.Password))
	}
	for _, secret := range secrets {
		// Shorter ones are no secrets, and would take innocent text with them.
		if len(secret) >= 6 && bytes.Contains(body, []byte(secret)) {
			body = bytes.ReplaceAll(body, []byte(secret), []byte("<secret>"))
		}
	}
	return body[:min(len(body), queue.MaxResponse)]
}

// exchange is one attempt as net/http sees it: the context of its request, which also remembers how
// far it got. The hooks may be called from goroutines of the transport, even after the attempt is over,
// so an exchange is never reused.
type exchange struct {
	context.Context
	trace httptrace.ClientTrace
	phase atomic.Int32
	// conn is the connection in use; reused: it has carried a request before. The transport sets them
	// within RoundTrip.
	conn   net.Conn
	reused bool
	// transport makes the request in the place of the sender's own; nil for that.
	transport http.RoundTripper
}

// The phases of an exchange.
const (
	phaseConnect int32 = iota // resolving, dialling
	phaseTLS
	phaseAnswer // the request is being written, or an answer waited for
	phaseHeaders
)

// newExchange makes the exchange of a request within ctx.
func newExchange(ctx context.Context) *exchange {
	x := &exchange{}
	x.trace.GotConn = x.gotConn
	x.trace.TLSHandshakeStart = x.tlsStarted
	x.trace.GotFirstResponseByte = x.answered
	x.Context = httptrace.WithClientTrace(ctx, &x.trace)
	return x
}

type exchangeKey struct{}

// Value implements context.Context.
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return x.Context.Value(key)
}

func (x *exchange) gotConn(info httptrace.GotConnInfo) {
	x.conn, x.reused = info.Conn, info.Reused
	x.phase.Store(phaseAnswer)
}

func (x *exchange) tlsStarted() { x.phase.CompareAndSwap(phaseConnect, phaseTLS) }
func (x *exchange) answered()   { x.phase.Store(phaseHeaders) }
