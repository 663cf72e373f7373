// Package apns sends notifications to iOS devices through the Apple Push Notification service, over HTTP/2 with provider tokens or a
// certificate.
//
// It promises that credentials never share a connection, that there are no more connections than configured, that provider tokens are
// replaced neither too late nor too often for APNs, and that each answer has the consequence Apple's documentation gives it. An attempt is
// one request; only where a new token or a new connection is all that was wanting there is a second at once.
package apns

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// Where APNs is.
const (
	productionURL = "https://api.push.apple.com"
	sandboxURL    = "https://api.sandbox.push.apple.com"
)

const (
	defaultConnections = 4
	// unused is after what time connections and token of an owner are dropped; Apple asks to keep connections open, and does not mind an hour
	// without a push.
	unused = time.Hour
	// renewInterval is how long connections are kept at least before all are replaced by new ones.
	renewInterval = 10 * time.Second
	// maxBody is more than any answer of APNs has.
	maxBody = queue.MaxResponse
)

// Options are what New needs.
type Options struct {
	// Transport returns a new transport of the guarded way out; required. The sender may change it.
	Transport func() *http.Transport
	// URL stands for both of Apple's, without a path; "" for Apple's own.
	URL string
	// UserAgent is the User-Agent of every request.
	UserAgent string
	// Connections is how many there may be for each key and environment; 0 means 4.
	Connections int
	// Logger is told when connections are replaced by new ones because APNs wants it; nil discards.
	Logger *slog.Logger
}

// Sender sends to APNs. It is safe for concurrent use.
type Sender struct {
	transport   func() *http.Transport
	url         string
	userAgent   string
	connections int
	log         *slog.Logger

	mu    sync.Mutex
	apps  map[string]*app
	swept time.Time
}

// Push is one notification for one device token.
type Push struct {
	// ID is the apns-id: a canonical lower-case UUID, the same on every attempt.
	ID string
	// Token is the device's, in hexadecimal, of any length.
	Token string
	// OtherEnvironment: it is of the environment that the key does not name.
	OtherEnvironment bool
	// Payload and Headers are what Render made.
	Payload []byte
	Headers Headers
	// ExpiresAt is until when APNs keeps it for a device that cannot be reached; zero: now or never.
	ExpiresAt time.Time
}

// New checks the options. It opens no connection.
func New(o Options) (*Sender, error) {
	s := &Sender{transport: o.Transport, url: strings.TrimSuffix(o.URL, "/"), userAgent: o.UserAgent, connections: o.Connections, log: o.Logger, apps: make(map[string]*app)}
	if s.transport == nil {
		return nil, errors.New("apns: a transport is needed")
	}
	if s.url != "" {
		if u, err := url.Parse(s.url); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
			return nil, errors.New("apns: the URL is not one of a host alone, such as https://127.0.0.1:2197")
		}
	}
	if s.connections < 0 {
		return nil, errors.New("apns: the number of connections is negative")
	}
	if s.connections == 0 {
		s.connections = defaultConnections
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Send makes one attempt. owner names the implementation, which has connections and provider tokens of its own, one pool of connections for
// each environment. It blocks until APNs has answered or ctx ends.
func (s *Sender) Send(ctx context.Context, owner string, key *store.APNs, p Push) sender.Result {
	started := time.Now()
	r := s.attempt(ctx, owner, key, &p)
	r.StartedAt, r.Duration = started, time.Since(started)
	return r
}

// Forget drops the connections and the token of an owner; what is under way ends.
func (s *Sender) Forget(owner string) {
	s.mu.Lock()
	a := s.apps[owner]
	delete(s.apps, owner)
	s.mu.Unlock()
	if a != nil {
		a.close()
	}
}

// Close drops all of them.
func (s *Sender) Close() {
	s.mu.Lock()
	old := s.apps
	s.apps = make(map[string]*app)
	s.mu.Unlock()
	for _, a := range old {
		a.close()
	}
}

func (s *Sender) attempt(ctx context.Context, owner string, key *store.APNs, p *Push) sender.Result {
	if !hexadecimal(p.Token) {
		r := sender.Failed(queue.ClassGone, "the device token is none of APNs, which are hexadecimal; an app that gets its tokens from FCM goes with the provider fcm")
		r.Innocent, r.Reason, r.Device = true, sender.ReasonUnregistered, sender.DeviceDead
		return r
	}
	a, err := s.app(owner, key)
	if err != nil {
		return unusable
	}
	base, pool := s.environment(a, key.Sandbox != p.OtherEnvironment)
	for second := false; ; second = true {
		r, reason, token := s.once(ctx, a, key, p, base, pool)
		again := false
		switch reason {
		case reasonExpiredToken:
			if a.tokens != nil {
				if again, err = a.tokens.expired(token); err != nil {
					return unusable
				}
			}
		case reasonTooManyTokens:
			if a.tokens != nil {
				a.tokens.tooMany()
			}
		case reasonUnrelatedKey, reasonIdleTimeout:
			s.renew(pool, owner, reason)
			again = true
		case reasonShutdown:
			s.renew(pool, owner, reason)
		}
		if !again || second {
			return r
		}
	}
}

// unusable is the result when the key or the certificate cannot be used; it was whole when it was stored.
var unusable = sender.Failed(queue.ClassMisconfigured, "the key or certificate for APNs cannot be used; set it again")

// once makes one request. The reason is that of the answer, and token the provider token it was made with.
func (s *Sender) once(ctx context.Context, a *app, key *store.APNs, p *Push, base string, pool *connections) (r sender.Result, reason, token string) {
	r.StartedAt = time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/3/device/"+p.Token, bytes.NewReader(p.Payload))
	if err != nil { // the token is hexadecimal, and the base was checked
		return unusable, "", ""
	}
	req.Header = http.Header{
		"Content-Type":    {"application/json"},
		"User-Agent":      {s.userAgent},
		"Apns-Id":         {p.ID},
		"Apns-Topic":      {key.Topic + p.Headers.TopicSuffix},
		"Apns-Push-Type":  {p.Headers.PushType},
		"Apns-Priority":   {strconv.Itoa(p.Headers.Priority)},
		"Apns-Expiration": {"0"},
	}
	if !p.ExpiresAt.IsZero() {
		req.Header["Apns-Expiration"] = []string{strconv.FormatInt(p.ExpiresAt.Unix(), 10)}
	}
	if p.Headers.CollapseID != "" {
		req.Header["Apns-Collapse-Id"] = []string{p.Headers.CollapseID}
	}
	if a.tokens != nil {
		if token, err = a.tokens.token(); err != nil {
			return unusable, "", ""
		}
		req.Header["Authorization"] = []string{"bearer " + token}
	}
	resp, err := pool.RoundTrip(req)
	if err != nil {
		r.Class, r.Error = queue.ClassRetry, sender.Describe(err, "APNs", req.URL.Hostname(), time.Since(r.StartedAt))
		return r, "", token
	}
	defer func() { _ = resp.Body.Close() }() // it has told all it had to tell
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil && resp.StatusCode != http.StatusOK {
		// The status stands, and what is missing of the body decides nothing.
		body = nil
	}
	reason = judge(&r, resp, body)
	return r, reason, token
}

// judge fills in what the answer means, and returns its reason.
func judge(r *sender.Result, resp *http.Response, body []byte) string {
	r.Status = resp.StatusCode
	if r.Status == http.StatusOK {
		r.Class, r.Device, r.MessageID = queue.ClassDelivered, sender.DeviceSeen, resp.Header.Get("Apns-Id")
		// Two short strings always marshal.
		r.Response, _ = json.Marshal(struct {
			ID     string `json:"apns-id"`
			Unique string `json:"apns-unique-id,omitempty"`
		}{r.MessageID, resp.Header.Get("Apns-Unique-Id")})
		r.Response = r.Response[:min(len(r.Response), queue.MaxResponse)]
		return ""
	}
	said := parse(body)
	do := react(r.Status, said.reason)
	r.Class, r.Device, r.Wait, r.Innocent, r.Reason = do.class, do.device, do.wait, do.innocent, do.why
	r.Error, r.Response = words(r.Status, said.reason, &do), body
	if do.device == sender.DeviceDead {
		r.DeadSince = said.since
	}
	if asked := sender.RetryAfter(resp.Header, time.Now()); do.class == queue.ClassRetry && asked > 0 {
		r.Wait = max(r.Wait, asked)
		if !do.innocent {
			r.RetryAfter = asked
		}
	}
	return said.reason
}

// hexadecimal tells whether APNs could have given that device token. Nothing else may get into the path.
func hexadecimal(token string) bool {
	return token != "" && strings.Trim(token, "0123456789abcdefABCDEF") == ""
}

// app is what an owner has.
type app struct {
	key *store.APNs
	// tokens is nil with a certificate, certificate with a key.
	tokens      *tokens
	certificate *tls.Certificate
	// Guarded by Sender.mu: used is when it was last used, and pools are made on first use, of production and of the sandbox.
	used  time.Time
	pools [2]*connections
}

// connections are a pool that remembers when it was renewed.
type connections struct {
	*sender.Pool
	mu      sync.Mutex
	renewed time.Time
}

// renew opens new connections, unless it has just done so: many may ask at once, and a key that is never taken must not open them without end.
func (s *Sender) renew(c *connections, owner, reason string) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.renewed.IsZero() && now.Sub(c.renewed) < renewInterval {
		return
	}
	c.renewed = now
	c.Renew()
	s.log.Info("connections to apns renewed", "owner", owner, "reason", reason)
}

func (a *app) close() {
	for _, p := range a.pools {
		if p != nil {
			p.Close()
		}
	}
}

// app returns what an owner has, made anew when the credentials are others than before.
func (s *Sender) app(owner string, key *store.APNs) (*app, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	old := s.apps[owner]
	if old != nil && same(old.key, key) {
		old.used = now
		return old, nil
	}
	a := &app{key: key, used: now}
	var err error
	switch {
	case len(key.Key) == 0:
		a.certificate, err = certificate(key)
	case old != nil && old.tokens != nil && signsAlike(old.key, key):
		a.tokens = old.tokens // APNs counts how often they change
	default:
		a.tokens, err = newTokens(key)
	}
	if err != nil {
		return nil, err
	}
	if old != nil {
		old.close()
	}
	s.apps[owner] = a
	return a, nil
}

// sweep drops what has not been used for long.
func (s *Sender) sweep(now time.Time) {
	if now.Sub(s.swept) < unused/4 {
		return
	}
	s.swept = now
	for owner, a := range s.apps {
		if now.Sub(a.used) >= unused {
			a.close()
			delete(s.apps, owner)
		}
	}
}

// environment returns the URL of an environment and the connections to it.
func (s *Sender) environment(a *app, sandbox bool) (string, *connections) {
	base, n := productionURL, 0
	if sandbox {
		base, n = sandboxURL, 1
	}
	if s.url != "" {
		base = s.url
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.pools[n] == nil {
		a.pools[n] = &connections{Pool: sender.NewPool(s.connections, func() *http.Transport {
			t := s.transport()
			t.IdleConnTimeout = unused
			if a.certificate != nil {
				if t.TLSClientConfig == nil {
					t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
				}
				t.TLSClientConfig.Certificates = []tls.Certificate{*a.certificate}
			}
			return t
		})}
	}
	return base, a.pools[n]
}

func certificate(key *store.APNs) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair([]byte(key.Chain), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key.CertificateKey}))
	return &c, err
}

// same tells whether both may use the same connections: APNs ties one to key and topics.
func same(a, b *store.APNs) bool {
	return a == b || signsAlike(a, b) && a.Topic == b.Topic && a.Chain == b.Chain && bytes.Equal(a.CertificateKey, b.CertificateKey)
}

// signsAlike tells whether both have the same provider tokens.
func signsAlike(a, b *store.APNs) bool {
	return a.KeyID == b.KeyID && a.TeamID == b.TeamID && bytes.Equal(a.Key, b.Key)
}
