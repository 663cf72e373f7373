package standin

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// WebPushOptions say how a WebPush behaves.
type WebPushOptions struct {
	// Origin begins the endpoints of subscriptions, such as https://push.example.net, where the stand-in takes the place of another
	// server; "" is its own.
	Origin string
	// Latency is how long each answer takes.
	Latency time.Duration
	// Streams is how many requests may be under way on a connection; 0 leaves that to net/http.
	Streams int
	// Opaque: bodies are not decrypted, which takes most of the time; their headers are still checked.
	Opaque bool
	// Received is told of each push that was taken, before it is answered; nil for nobody. It is called by many goroutines.
	Received func(WebPushMessage)
}

// WebPushMessage is a push as it arrived.
type WebPushMessage struct {
	// Endpoint names the subscription.
	Endpoint string
	// Body is what came, which Decrypt reads.
	Body []byte
	// Payload is what the browser would get; nil with Opaque.
	Payload []byte
	// Padding is how many bytes of padding came after it.
	Padding int
	// TTL is in seconds. Urgency and Topic are "" when missing.
	TTL            int
	Urgency, Topic string
	// Authorization is the whole header of that name, Header all of them.
	Authorization string
	Header        http.Header
}

// WebPush is a push service and the browsers that have subscribed to it (RFC 8030, 8188, 8291, 8292), in the manner of Mozilla's. What is wrong with a
// request that a push service would take, because only the browser can notice, is a fault as well.
type WebPush struct {
	server
	orders
	faults
	options  WebPushOptions
	host     string
	browsers sync.Map // of *webpushBrowser by path

	tokens struct {
		sync.RWMutex
		verified map[string]webpushClaims
	}
	requests, accepted, underWay, peak atomic.Int64
}

// webpushBrowser is one subscription.
type webpushBrowser struct {
	key    *ecdh.PrivateKey
	auth   [16]byte
	sender string // the base64url of the application server's key
	gone   atomic.Bool
}

// webpushClaims are those of a token whose signature was verified.
type webpushClaims struct {
	Audience string  `json:"aud"`
	Expires  float64 `json:"exp"`
	Subject  string  `json:"sub"`
}

const (
	webpushPath      = "/wpush/v2/"
	webpushMaxBody   = 4096
	webpushMaxTTL    = 2_419_200
	webpushMaxTokens = 10_000
)

// NewWebPush starts a stand-in on loopback. The caller closes it.
func NewWebPush(o WebPushOptions) (*WebPush, error) {
	s := &WebPush{options: o}
	s.tokens.verified = make(map[string]webpushClaims)
	if err := s.start(http.HandlerFunc(s.serve), o.Streams); err != nil {
		return nil, err
	}
	if s.options.Origin == "" {
		s.options.Origin = s.url
	}
	u, err := url.Parse(s.options.Origin)
	if err != nil || u.Scheme != "https" || u.Host == "" || s.options.Origin != "https://"+u.Host {
		s.Close()
		return nil, errors.New("stand-in of a push service: the origin must be https:// and a host")
	}
	s.host = u.Host
	return s, nil
}

// Origin is what the endpoints of its subscriptions begin with.
func (s *WebPush) Origin() string { return s.options.Origin }

// Subscribe makes a browser's subscription for pushes signed with that key, a point of 65 bytes, and returns what PushSubscription.toJSON would.
func (s *WebPush) Subscribe(vapidPublicKey []byte) ([]byte, error) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a subscription: %w", err)
	}
	b := &webpushBrowser{key: key, sender: base64.RawURLEncoding.EncodeToString(vapidPublicKey)}
	var id [16]byte
	_, _ = rand.Read(b.auth[:]) // which never fails
	_, _ = rand.Read(id[:])
	path := webpushPath + base64.RawURLEncoding.EncodeToString(id[:])
	s.browsers.Store(path, b)
	text, err := json.Marshal(map[string]any{
		"endpoint": s.options.Origin + path, "expirationTime": nil,
		"keys": map[string]string{
			"p256dh": base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()),
			"auth":   base64.RawURLEncoding.EncodeToString(b.auth[:]),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("write a subscription: %w", err)
	}
	return text, nil
}

// Unsubscribe has pushes to the endpoint answered with 410.
func (s *WebPush) Unsubscribe(endpoint string) {
	if b, ok := s.browsers.Load(strings.TrimPrefix(endpoint, s.options.Origin)); ok {
		b.(*webpushBrowser).gone.Store(true)
	}
}

// Decrypt is what the browser of that endpoint makes of a body: the payload, and how long its padding was.
func (s *WebPush) Decrypt(endpoint string, body []byte) (payload []byte, padding int, err error) {
	b, ok := s.browsers.Load(strings.TrimPrefix(endpoint, s.options.Origin))
	if !ok {
		return nil, 0, errors.New("there is no such endpoint")
	}
	return webpushDecrypt(b.(*webpushBrowser), body)
}

// Requests is how many requests have come.
func (s *WebPush) Requests() int { return int(s.requests.Load()) }

// Accepted is how many pushes were taken.
func (s *WebPush) Accepted() int { return int(s.accepted.Load()) }

// Peak is how many requests were under way at a time, at most.
func (s *WebPush) Peak() int { return int(s.peak.Load()) }

// webpushRefusal is an answer in Mozilla's form.
type webpushRefusal struct {
	status, errno int
	reason        string // Apple's
	text          string
}

func (e *webpushRefusal) Error() string { return e.text }

func webpushRefuse(status, errno int, format string, args ...any) error {
	return &webpushRefusal{status: status, errno: errno, text: fmt.Sprintf(format, args...)}
}

func (s *WebPush) serve(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	now := s.underWay.Add(1)
	defer s.underWay.Add(-1)
	for peak := s.peak.Load(); now > peak && !s.peak.CompareAndSwap(peak, now); peak = s.peak.Load() {
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, webpushMaxBody+1))
	if err != nil {
		return // the client is gone
	}
	b, m, err := s.check(r, body)
	if !wait(r.Context(), s.options.Latency) {
		return
	}
	if refusal, ok := errors.AsType[*webpushRefusal](err); ok {
		if refusal.status != http.StatusGone {
			s.add("%s: %s", m.Endpoint, refusal.text)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(refusal.status)
		_ = json.NewEncoder(w).Encode(map[string]any{ // a client that is gone does not mind
			"code": refusal.status, "errno": refusal.errno, "error": http.StatusText(refusal.status), "message": refusal.text, "reason": refusal.reason,
		})
		return
	}
	if order, ok := s.take(m.Endpoint); ok && order.perform(w, r) {
		return
	}
	if !s.options.Opaque {
		if m.Payload, m.Padding, err = webpushDecrypt(b, body); err != nil {
			s.add("%s: %v", m.Endpoint, err)
		}
	}
	s.accepted.Add(1)
	if err == nil && s.options.Received != nil {
		s.options.Received(m)
	}
	var id [12]byte
	_, _ = rand.Read(id[:]) // which never fails
	w.Header().Set("Location", s.options.Origin+"/m/"+base64.RawURLEncoding.EncodeToString(id[:]))
	w.Header().Set("TTL", strconv.Itoa(m.TTL))
	w.WriteHeader(http.StatusCreated)
}

// check finds what a push service would refuse.
func (s *WebPush) check(r *http.Request, body []byte) (*webpushBrowser, WebPushMessage, error) {
	m := WebPushMessage{Endpoint: s.options.Origin + r.URL.RequestURI(), Body: body, Header: r.Header.Clone()}
	kept, ok := s.browsers.Load(r.URL.RequestURI())
	switch {
	case r.Method != http.MethodPost:
		return nil, m, webpushRefuse(http.StatusMethodNotAllowed, 0, "the method is %s", r.Method)
	case r.Host != s.host:
		return nil, m, webpushRefuse(http.StatusMisdirectedRequest, 0, "the host is %s", r.Host)
	case !ok:
		return nil, m, webpushRefuse(http.StatusNotFound, 102, "there is no such endpoint")
	}
	b := kept.(*webpushBrowser)
	if b.gone.Load() {
		return nil, m, webpushRefuse(http.StatusGone, 106, "the subscription is no more")
	}
	h := r.Header
	for _, name := range []string{"Ttl", "Urgency", "Topic", "Content-Encoding", "Content-Type", "Authorization"} {
		if len(h[name]) > 1 {
			return nil, m, webpushRefuse(http.StatusBadRequest, 110, "the header %s stands more than once", name)
		}
	}
	if err := s.authorized(h.Get("Authorization"), b.sender, time.Now()); err != nil {
		return nil, m, err
	}
	ttl := h.Get("Ttl")
	if ttl == "" {
		return nil, m, webpushRefuse(http.StatusBadRequest, 111, "the header TTL is missing")
	}
	n, err := strconv.ParseUint(ttl, 10, 31)
	if err != nil || n > webpushMaxTTL {
		return nil, m, webpushRefuse(http.StatusBadRequest, 112, "the header TTL is %q", ttl)
	}
	m.TTL, m.Urgency, m.Topic, m.Authorization = int(n), h.Get("Urgency"), h.Get("Topic"), h.Get("Authorization")
	switch m.Urgency {
	case "", "very-low", "low", "normal", "high":
	default:
		return nil, m, webpushRefuse(http.StatusBadRequest, 0, "the header Urgency is %q", m.Urgency)
	}
	if _, has := h["Topic"]; has && !webpushTopic(m.Topic) {
		return nil, m, webpushRefuse(http.StatusBadRequest, 113, "the header Topic is %q", m.Topic)
	}
	if e, t := h.Get("Content-Encoding"), h.Get("Content-Type"); e != "aes128gcm" || t != "application/octet-stream" {
		return nil, m, webpushRefuse(http.StatusBadRequest, 110, "the content encoding is %q and its type %q", e, t)
	}
	if len(body) > webpushMaxBody {
		return nil, m, webpushRefuse(http.StatusRequestEntityTooLarge, 104, "the body is longer than %d bytes", webpushMaxBody)
	}
	if len(body) < 86+17 || body[20] != 65 {
		return nil, m, webpushRefuse(http.StatusBadRequest, 110, "the body has not the header of a key and one record")
	}
	return b, m, nil
}

func webpushTopic(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// authorized checks the Authorization header (RFC 8292, sections 2 and 3) against the key that the subscription was made with.
func (s *WebPush) authorized(header, key string, now time.Time) error {
	scheme, parameters, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "vapid") {
		return webpushRefuse(http.StatusUnauthorized, 109, "there is no vapid token")
	}
	var t, k string
	for p := range strings.SplitSeq(parameters, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch name {
		case "t":
			t = value
		case "k":
			k = value
		}
	}
	claims, err := s.verified(t, k)
	switch {
	case err != nil:
		return err
	case claims.Audience != s.options.Origin:
		return webpushRefuse(http.StatusForbidden, 109, "the token is for %q", claims.Audience)
	case claims.Expires <= float64(now.Unix()):
		return webpushRefuse(http.StatusForbidden, 109, "the token has expired")
	case claims.Expires > float64(now.Add(24*time.Hour).Unix()):
		return webpushRefuse(http.StatusForbidden, 109, "the token is valid for longer than a day")
	case !strings.HasPrefix(claims.Subject, "mailto:") && !strings.HasPrefix(claims.Subject, "https://"):
		return webpushRefuse(http.StatusForbidden, 109, "the token has no subject")
	case k != key:
		return &webpushRefusal{http.StatusForbidden, 109, "VapidPkHashMismatch", "the subscription was made with another key"}
	}
	return nil
}

// verified reads a token whose signature is good. Those that are used again are remembered, as push services do.
func (s *WebPush) verified(t, k string) (c webpushClaims, err error) {
	s.tokens.RLock()
	c, ok := s.tokens.verified[t+" "+k]
	s.tokens.RUnlock()
	if ok {
		return c, nil
	}
	parts := strings.Split(t, ".")
	if len(parts) != 3 {
		return c, webpushRefuse(http.StatusUnauthorized, 109, "the token has not three parts")
	}
	var decoded [4][]byte
	for n, part := range append(parts, k) {
		if decoded[n], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return c, webpushRefuse(http.StatusUnauthorized, 109, "the token or its key is not base64url without padding")
		}
	}
	var head struct{ Typ, Alg string }
	if json.Unmarshal(decoded[0], &head) != nil || head.Typ != "JWT" || head.Alg != "ES256" {
		return c, webpushRefuse(http.StatusUnauthorized, 109, "the header of the token is %q", decoded[0])
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), decoded[3])
	if err != nil {
		return c, webpushRefuse(http.StatusUnauthorized, 109, "the key of the token is no point on P-256")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if sig := decoded[2]; len(sig) != 64 || !ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return c, webpushRefuse(http.StatusForbidden, 109, "the signature of the token is wrong")
	}
	if err := json.Unmarshal(decoded[1], &c); err != nil {
		return c, webpushRefuse(http.StatusUnauthorized, 109, "the claims of the token are %q", decoded[1])
	}
	s.tokens.Lock()
	defer s.tokens.Unlock()
	if len(s.tokens.verified) >= webpushMaxTokens {
		clear(s.tokens.verified)
	}
	s.tokens.verified[t+" "+k] = c
	return c, nil
}
