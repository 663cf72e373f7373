package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"herald/queue"
	"herald/store"
)

// problem is why no request can be made; text is for the owner of the subscription.
type problem struct {
	class queue.Class
	text  string
}

func misconfigured(text string) *problem { return &problem{queue.ClassMisconfigured, text} }

// request makes the request of a push.
func (s *Sender) request(x *exchange, sub *store.Subscription, p *queue.Push) (*retryablehttp.Request, *problem) {
	if !validValue(p.ID) || p.ID == "" {
		return nil, &problem{queue.ClassRejected, "the event's id cannot be sent: it is empty, has a space at an end, or holds control characters"}
	}
	u, err := url.Parse(sub.DataCallbackURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, misconfigured("the callback URL of the subscription cannot be used: it must be an absolute http or https URL")
	}
	u.Fragment, u.RawFragment = "", ""
	content, pr := contentType(sub)
	if pr != nil {
		return nil, pr
	}
	var body []byte
	method := sub.Method
	switch method {
	case http.MethodPost, http.MethodPut:
		if body, pr = encode(sub, p); pr != nil {
			return nil, pr
		}
	case http.MethodGet:
		if len(p.Events) != 1 {
			return nil, misconfigured("several records in one push need the method POST or PUT")
		}
		e := p.Events[0]
		addQuery(u, "id", e.ID)
		addQuery(u, "type", e.Type)
		if e.Resource != "" {
			addQuery(u, "resource", e.Resource)
		}
	case http.MethodOptions: // see Ask
	default:
		return nil, misconfigured("the method of the subscription is not one of POST, PUT and GET")
	}

	now := s.now()
	stamp := strconv.FormatInt(now.Unix(), 10)
	h := make(http.Header, 8) // a map of 8 is one allocation; the signature by certificate makes it grow
	// One array for the values: a slice each would be an allocation each.
	values := [...]string{
		p.ID, stamp, s.userAgent, strconv.Itoa(p.Attempt), sub.ID.String(), content,
		signatures(sub.SigningSecrets, now, p.ID, stamp, body), "",
	}
	v := values[:]
	h["Webhook-Id"] = v[0:1:1]
	h["Webhook-Timestamp"] = v[1:2:2]
	h["User-Agent"] = v[2:3:3]
	h["Herald-Attempt"] = v[3:4:4]
	h["Herald-Subscription"] = v[4:5:5]
	if p.Replay {
		h["Herald-Replay"] = replayed
	}
	if t := p.Trace(); t != nil {
		// In lower case, as the specification wants it. Herald makes no span of its own, so nothing is changed (W3C Trace Context, section 3.4).
		h["traceparent"] = []string{t.Parent}
		if t.State != "" {
			h["tracestate"] = []string{t.State}
		}
	}
	if body != nil {
		h["Content-Type"] = v[5:6:6]
	}
	if origin := sub.PushOrigin(); origin != "" {
		h[store.HeaderRequestOrigin] = []string{origin}
	}
	if v[6] != "" {
		h["Webhook-Signature"] = v[6:7:7]
	}
	if pr := authenticate(sub, u, h, v[7:8:8]); pr != nil {
		return nil, pr
	}
	if sub.MessageSignature && s.identity != nil { // last, because the query may hold credentials
		if pr := sign(s.identity(), u, h, method, p.ID, stamp, now, body); pr != nil {
			return nil, pr
		}
	}

	req := (&http.Request{
		Method: method, URL: u, Host: u.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(x)
	r := &retryablehttp.Request{Request: req}
	if body != nil {
		if err := r.SetBody(body); err != nil {
			return nil, misconfigured("the body of the push cannot be sent")
		}
	}
	return r, nil
}

// replayed is the value of Herald-Replay, shared because nothing changes it.
var replayed = []string{"true"}

// authenticate puts the credentials of the subscription where they belong. value is a slice of one, for
// the header's value.
func authenticate(sub *store.Subscription, u *url.URL, h http.Header, value []string) *problem {
	key := "Authorization"
	switch a := &sub.Authentication; a.Type {
	case store.AuthNone:
		return nil
	case store.AuthBearer:
		value[0] = "Bearer " + a.Token
	case store.AuthBasic: // RFC 7617
		if strings.Contains(a.Username, ":") {
			return misconfigured("the user name of the subscription's authentication contains a colon, which basic authentication cannot send")
		}
		value[0] = "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password))
	case store.AuthHeader:
		if !validName(a.Name) {
			return misconfigured("the header name of the subscription's authentication is not a valid one")
		}
		key = textproto.CanonicalMIMEHeaderKey(a.Name)
		if reserved(key) {
			return misconfigured("the header name of the subscription's authentication is one that Herald or HTTP itself sets: " + key)
		}
		value[0] = a.Value
	case store.AuthQuery:
		addQuery(u, a.Name, a.Value)
		return nil
	default:
		return misconfigured("the authentication type of the subscription is not one that can be sent")
	}
	if !validValue(value[0]) {
		return misconfigured("the subscription's authentication holds characters that no header can carry")
	}
	h[key] = value
	return nil
}

// reserved tells the headers, in canonical form, that authentication must not replace: ours, and those
// that net/http would ignore or frame the message by.
func reserved(key string) bool {
	switch key {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Trailer", "Te",
		"Upgrade", "Expect", "Keep-Alive", "Proxy-Connection", "User-Agent", "Idempotency-Key", "X-Idempotency-Key", "Accept-Encoding",
		"Content-Digest", "Signature", "Signature-Input", "Traceparent", "Tracestate":
		return true
	}
	return strings.HasPrefix(key, "Webhook-") || strings.HasPrefix(key, "Herald-")
}

// addQuery appends a parameter and leaves the query that is there as it is, byte for byte.
func addQuery(u *url.URL, name, value string) {
	var b strings.Builder
	b.WriteString(u.RawQuery)
	if u.RawQuery != "" {
		b.WriteByte('&')
	}
	b.WriteString(url.QueryEscape(name))
	b.WriteByte('=')
	b.WriteString(url.QueryEscape(value))
	u.RawQuery = b.String()
}

// signatures is the webhook-signature of Standard Webhooks: for each secret in force
// "v1," and the base64 HMAC-SHA256 of id.timestamp.body, or "v1a," and the Ed25519 signature of it, joined by spaces.
func signatures(secrets []store.SigningSecret, now time.Time, id, stamp string, body []byte) string {
	var text []byte
	for i := range secrets {
		secret := &secrets[i]
		if at := secret.ExpiresAt; !at.IsZero() && !now.Before(at) {
			continue
		}
		if text != nil {
			text = append(text, ' ')
		} else {
			text = make([]byte, 0, len(secrets)*48)
		}
		if secret.Ed25519 {
			text = appendAsymmetric(text, secret, id, stamp, body)
			continue
		}
		mac := hmac.New(sha256.New, secret.Key)
		var head [queue.MaxIDLength + 32]byte
		mac.Write(append(append(append(append(head[:0], id...), '.'), stamp...), '.'))
		mac.Write(body)
		var sum [sha256.Size]byte
		text = append(text, "v1,"...)
		text = base64.StdEncoding.AppendEncode(text, mac.Sum(sum[:0]))
	}
	return string(text)
}

// validValue tells whether a text arrives as it is when sent as a header's value (RFC 9110, section
// 5.5): no control characters, and no space at an end, which receivers take off.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " \t")
}

// validName tells whether a text is a token, as a header's name must be (RFC 9110, section 5.6.2).
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		word := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !word && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// printable tells whether a text is printable ASCII without space.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
