package standin

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// FCMOptions say what a stand-in for Firebase Cloud Messaging is like.
type FCMOptions struct {
	// Project is the id of its one project; "" is "standin".
	Project string
	// Schema is the discovery document of FCM HTTP v1, against which each message is held. Nil: of a message only its target is looked at, which is
	// fast.
	Schema []byte
	// Latency is how long it takes with each message.
	Latency time.Duration
	// Streams is how many requests it takes at a time on a connection; 0 leaves that to net/http.
	Streams int
	// TokenLife is how long an access token lives; 0 is the hour of Google's, less a second.
	TokenLife time.Duration
	// Keep is how many requests are kept for Requests, and with any the sends to each device are counted; 0 keeps and counts none, for benchmarks.
	Keep int
	// Received is told of each message that was taken, before it is answered; nil for nobody. It is called by many goroutines.
	Received func(FCMRequest)
}

// FCM is a stand-in for Firebase Cloud Messaging, HTTP v1, and for Google's token endpoint. Devices are named by their token or Firebase installation
// id.
type FCM struct {
	server
	orders
	faults
	o        FCMOptions
	schema   *schema
	key      *rsa.PrivateKey
	account  []byte
	started  time.Time
	taken    atomic.Int64
	minted   atomic.Int64
	requests recent[FCMRequest]

	mu      sync.Mutex
	tokens  map[string]time.Time // the access tokens that are good, and until when
	devices map[string]int
	minting []Behaviour
}

// FCMRequest is a request for a message.
type FCMRequest struct {
	At time.Time
	// Device is its target, FID whether that is a Firebase installation id.
	Device       string
	FID          bool
	ValidateOnly bool
	Header       http.Header
	Body         []byte
}

// The one client of the stand-in's project.
const (
	fcmKeyID = "0123456789abcdef0123456789abcdef01234567"
	fcmScope = "https://www.googleapis.com/auth/firebase.messaging"
	fcmGrant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// NewFCM starts a stand-in; Close ends it.
func NewFCM(o FCMOptions) (*FCM, error) {
	if o.Project == "" {
		o.Project = "standin"
	}
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour - time.Second
	}
	f := &FCM{o: o, tokens: make(map[string]time.Time), devices: make(map[string]int), requests: recent[FCMRequest]{max: o.Keep}, started: time.Now()}
	if o.Schema != nil {
		var err error
		if f.schema, err = parseSchema(o.Schema); err != nil {
			return nil, err
		}
	}
	var err error
	if f.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, fmt.Errorf("make the key of a service account: %w", err)
	}
	if err := f.start(f, o.Streams); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(f.key)
	if err == nil {
		f.account, err = json.MarshalIndent(map[string]string{
			"type": "service_account", "project_id": o.Project, "private_key_id": fcmKeyID,
			"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
			"client_email": f.email(), "client_id": "123456789012345678901",
			"auth_uri": f.url + "/auth", "token_uri": f.url + "/token", "universe_domain": "googleapis.com",
		}, "", "  ")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make the key file of a service account: %w", err)
	}
	return f, nil
}

func (f *FCM) email() string { return "sender@" + f.o.Project + ".iam.gserviceaccount.com" }

// ServiceAccount returns the key file of a service account that may send, as Google's console hands it out.
func (f *FCM) ServiceAccount() []byte { return bytes.Clone(f.account) }

// Project is the id of the project.
func (f *FCM) Project() string { return f.o.Project }

// Taken is how many messages were taken, without those that were only to be validated.
func (f *FCM) Taken() int { return int(f.taken.Load()) }

// Minted is how many access tokens were handed out.
func (f *FCM) Minted() int { return int(f.minted.Load()) }

// Sent is how many messages were taken for each device, where Options.Keep has them counted.
func (f *FCM) Sent() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.devices)
}

// Requests returns the last requests for messages that could be read, oldest first.
func (f *FCM) Requests() []FCMRequest { return f.requests.all() }

// Revoke makes all access tokens bad that were handed out.
func (f *FCM) Revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.tokens)
}

// NextToken has each of the next n requests for an access token meet with that behaviour.
func (f *FCM) NextToken(n int, b Behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.minting = append(f.minting, b)
	}
}

// FCMError returns the answer that FCM gives with that code: one of FcmError's errorCode, a status of the API that has none, or one of these, which
// tell apart what has the same code:
//
//   - TOKEN_INVALID is INVALID_ARGUMENT for a token that is none,
//   - DEVICE_QUOTA_EXCEEDED is QUOTA_EXCEEDED for one device,
//   - HTML_NOT_FOUND and HTML_BAD_GATEWAY are pages of Google's front.
func FCMError(code string) Behaviour {
	const quota = `,{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"%s","description":"%s"}]}`
	switch code {
	case "INVALID_ARGUMENT":
		return fcmError(400, code, "INVALID_ARGUMENT", "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration), Illegal duration format",
			`,{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.android.ttl","description":"Illegal duration format"}]}`)
	case "TOKEN_INVALID":
		return fcmError(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token", "")
	case "UNREGISTERED":
		return fcmError(404, code, "NOT_FOUND", "Requested entity was not found.", "")
	case "SENDER_ID_MISMATCH":
		return fcmError(403, code, "PERMISSION_DENIED", "SenderId mismatch", "")
	case "THIRD_PARTY_AUTH_ERROR":
		return fcmError(401, code, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service",
			`,{"@type":"type.googleapis.com/google.firebase.fcm.v1.ApnsError","statusCode":403,"reason":"InvalidProviderToken"}`)
	case "QUOTA_EXCEEDED":
		return fcmError(429, code, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Messages' and limit 'Messages per minute' of service 'fcm.googleapis.com'.",
			fmt.Sprintf(quota, "project:standin", "Message rate quota exceeded"))
	case "DEVICE_QUOTA_EXCEEDED":
		return fcmError(429, "QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED", "Message rate exceeded for the message target.", fmt.Sprintf(quota, "device", "Device message rate exceeded"))
	case "UNAVAILABLE":
		return fcmError(503, code, code, "The service is currently unavailable.", "")
	case "INTERNAL":
		return fcmError(500, code, code, "Internal error encountered.", "")
	case "UNAUTHENTICATED":
		return fcmError(401, "", code, "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.", "")
	case "PERMISSION_DENIED":
		return fcmError(403, "", code, "Permission 'cloudmessaging.messages.create' denied on resource '//cloudresourcemanager.googleapis.com/projects/standin' (or it may not exist).", "")
	case "NOT_FOUND":
		return fcmError(404, "", code, "Requested entity was not found.", "")
	case "HTML_BAD_GATEWAY":
		return page(http.StatusBadGateway)
	}
	return page(http.StatusNotFound)
}

// fcmError is an error in the form of Google's APIs, with a FcmError unless code is "".
func fcmError(status int, code, name, text, more string) Behaviour {
	details := strings.TrimPrefix(more, ",")
	if code != "" {
		details = `{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"` + code + `"}` + more
	}
	if details != "" {
		details = `,"details":[` + details + `]`
	}
	quoted, _ := json.Marshal(text) // of a string it does not fail
	return Behaviour{
		Status: status, Header: http.Header{"Content-Type": {"application/json; charset=UTF-8"}},
		Body: `{"error":{"code":` + strconv.Itoa(status) + `,"message":` + string(quoted) + `,"status":"` + name + `"` + details + `}}`,
	}
}

// page is an error page for people.
func page(status int) Behaviour {
	return Behaviour{
		Status: status, Header: http.Header{"Content-Type": {"text/html; charset=UTF-8"}},
		Body: "<!DOCTYPE html>\n<html lang=en>\n<title>Error " + strconv.Itoa(status) + "</title>\n<p><b>" + strconv.Itoa(status) + ".</b> <ins>That’s an error.</ins>\n",
	}
}

// ServeHTTP implements http.Handler.
func (f *FCM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/token":
		f.serveToken(w, r)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v1/projects/") && strings.HasSuffix(r.URL.Path, "/messages:send"):
		f.serveMessage(w, r)
	default:
		f.add("%s %s: there is no such call", r.Method, r.URL.Path)
		b := page(http.StatusNotFound)
		b.perform(w, r)
	}
}

// maxRequest bounds the body of a request, in bytes.
const maxRequest = 1 << 20

var errTooLong = errors.New("the body is too long")

// read reads a body; nil when it broke off.
func read(r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > maxRequest {
		b, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
		if len(b) > maxRequest {
			return nil, errTooLong
		}
		return b, err
	}
	b := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, b)
	return b, err
}

func (f *FCM) serveMessage(w http.ResponseWriter, r *http.Request) {
	body, err := read(r)
	if err != nil {
		if errors.Is(err, errTooLong) {
			f.add("the body has more than %d bytes", maxRequest)
			b := page(http.StatusRequestEntityTooLarge)
			b.perform(w, r)
		}
		return // else the client is gone
	}
	if !f.authorized(r.Header.Get("Authorization")) {
		b := FCMError("UNAUTHENTICATED")
		b.perform(w, r)
		return
	}
	if project := r.URL.Path[len("/v1/projects/") : len(r.URL.Path)-len("/messages:send")]; project != f.o.Project {
		b := FCMError("NOT_FOUND")
		b.perform(w, r)
		return
	}
	m, wrong := readMessage(body)
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); t != "application/json" {
		wrong = append(wrong, "the Content-Type is "+strconv.Quote(t)+", not application/json")
	}
	if r.ProtoMajor != 2 {
		wrong = append(wrong, "the request came over "+r.Proto)
	}
	if f.schema != nil && len(wrong) == 0 {
		wrong = f.schema.check(body)
	}
	if len(wrong) > 0 {
		for _, text := range wrong {
			f.add("message: %s", text)
		}
		b := fcmError(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Request contains an invalid argument: "+strings.Join(wrong, "; "),
			`,{"@type":"type.googleapis.com/google.rpc.BadRequest"}`)
		b.perform(w, r)
		return
	}
	if f.o.Keep > 0 {
		m.At, m.Header, m.Body = time.Now(), r.Header, body
		f.requests.put(m)
	}
	if b, ok := f.take(m.Device); ok && b.perform(w, r) {
		return
	}
	if !wait(r.Context(), f.o.Latency) {
		return
	}
	id := "fake_message_id"
	if !m.ValidateOnly {
		id = "0:" + strconv.FormatInt(f.started.UnixMicro()+f.taken.Add(1), 10) + "%31bd1c9631bd1c96"
		if f.o.Keep > 0 {
			f.mu.Lock()
			f.devices[m.Device]++
			f.mu.Unlock()
		}
		if f.o.Received != nil {
			m.At, m.Header, m.Body = time.Now(), r.Header, body
			f.o.Received(m)
		}
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_, _ = io.WriteString(w, "{\n  \"name\": \"projects/"+f.o.Project+"/messages/"+id+"\"\n}\n") // the client may be gone
}

// readMessage reads the target of a request, without looking at the rest of the message, and says what is wrong with it.
func readMessage(body []byte) (m FCMRequest, wrong []string) {
	targets := 0
	d := jsontext.NewDecoder(bytes.NewBuffer(body))
	err := members(d, func(name string) error {
		switch name {
		case "validateOnly":
			t, err := d.ReadToken()
			m.ValidateOnly = err == nil && t.Kind() == jsontext.KindTrue
			return err
		case "message":
			return members(d, func(name string) error {
				switch name {
				case "token", "fid", "topic", "condition":
					targets++
					v, err := d.ReadToken()
					if err == nil && v.Kind() == jsontext.KindString {
						m.Device, m.FID = v.String(), name == "fid"
					}
					return err
				}
				return d.SkipValue()
			})
		}
		return d.SkipValue()
	})
	if err == nil {
		if _, err = d.ReadToken(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("there is more after it")
		}
	}
	switch {
	case err != nil:
		wrong = append(wrong, "the body is not the JSON object it should be: "+err.Error())
	case targets != 1:
		wrong = append(wrong, strconv.Itoa(targets)+" of token, fid, topic and condition are there, not one")
	case m.Device == "":
		wrong = append(wrong, "the target is empty, or no string")
	}
	return m, wrong
}

// members calls f with the name of each member of the object that comes next; f reads the value.
func members(d *jsontext.Decoder, f func(name string) error) error {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != jsontext.KindBeginObject {
		return errors.New("not an object")
	}
	for d.PeekKind() != jsontext.KindEndObject {
		t, err := d.ReadToken()
		if err != nil {
			return err
		}
		if err := f(t.String()); err != nil {
			return err
		}
	}
	_, err = d.ReadToken()
	return err
}

// authorized looks at the access token.
func (f *FCM) authorized(header string) bool {
	token, ok := strings.CutPrefix(header, "Bearer ")
	f.mu.Lock()
	until := f.tokens[token]
	f.mu.Unlock()
	return ok && time.Now().Before(until)
}

// serveToken hands out an access token for an assertion (RFC 7523).
func (f *FCM) serveToken(w http.ResponseWriter, r *http.Request) {
	body, err := read(r)
	if err != nil {
		return
	}
	f.mu.Lock()
	var b Behaviour
	ordered := len(f.minting) > 0
	if ordered {
		b, f.minting = f.minting[0], f.minting[1:]
	}
	f.mu.Unlock()
	if ordered && b.perform(w, r) {
		return
	}
	code, why := f.checkGrant(r, body)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if code != "" {
		f.add("token: %s: %s", code, why)
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": why}) // the client may be gone
		return
	}
	var random [24]byte
	_, _ = rand.Read(random[:]) // it never fails
	token := "ya29.standin-" + hex.EncodeToString(random[:])
	f.minted.Add(1)
	f.mu.Lock()
	f.tokens[token] = time.Now().Add(f.o.TokenLife)
	f.mu.Unlock()
	_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":%d,"token_type":"Bearer"}`, token, int(f.o.TokenLife/time.Second))
}

// checkGrant returns the error code of RFC 6749, section 5.2, and what is wrong; "" when nothing is.
func (f *FCM) checkGrant(r *http.Request, body []byte) (code, why string) {
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); r.Method != http.MethodPost || t != "application/x-www-form-urlencoded" {
		return "invalid_request", "not a POST of a form"
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || form.Get("grant_type") != fcmGrant {
		return "unsupported_grant_type", "Invalid grant_type: " + form.Get("grant_type")
	}
	parts := strings.Split(form.Get("assertion"), ".")
	if len(parts) != 3 {
		return "invalid_grant", "the assertion is no JWT"
	}
	var header struct{ Alg, Typ, Kid string }
	var claims struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	for i, into := range []any{&header, &claims} {
		part, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(part, into) != nil {
			return "invalid_grant", "the assertion is no JWT"
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return "invalid_grant", "the assertion is no JWT"
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := time.Now().Unix()
	const skew = 300
	switch {
	case header.Alg != "RS256" || header.Typ != "JWT" || header.Kid != fcmKeyID:
		return "invalid_grant", "Invalid JWT header: alg, typ or kid"
	case rsa.VerifyPKCS1v15(&f.key.PublicKey, crypto.SHA256, sum[:], signature) != nil:
		return "invalid_grant", "Invalid JWT Signature."
	case claims.Iss != f.email():
		return "invalid_grant", "Invalid grant: account not found"
	case claims.Aud != f.url+"/token":
		return "invalid_grant", "Invalid JWT: Failed audience check."
	case claims.Scope != fcmScope:
		return "invalid_scope", "Invalid OAuth scope or ID token audience provided."
	case claims.Iat > now+skew || claims.Exp < now || claims.Exp > claims.Iat+3600 || claims.Iat < now-3600:
		return "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
	}
	return "", ""
}
