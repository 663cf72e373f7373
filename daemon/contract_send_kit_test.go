package daemon_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon/standin"
)

// topic is the bundle id of the app whose implementations the tests make.
const topic = "example.shop.app"

// providers are stand-ins of all the services that hand notifications to devices.
type providers struct {
	t    *testing.T
	fcm  *standin.FCM
	apns *standin.APNs
	web  *standin.WebPush

	settings    string   // that lead the daemon to them
	environ     []string // that has it trust their certificates
	authorities string   // the file of those

	expected []string // faults that the test makes, by what they hold

	mu    sync.Mutex
	shown map[string][]standin.WebPushMessage // what browsers got, by endpoint
}

// standIns starts the stand-ins, which take so long with each request. What they find wrong with one fails the test at its end.
func standIns(t *testing.T, latency time.Duration) *providers {
	t.Helper()
	schema, err := os.ReadFile(filepath.FromSlash("standin/testdata/fcm-api.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := &providers{t: t, shown: make(map[string][]standin.WebPushMessage)}
	if p.fcm, err = standin.NewFCM(standin.FCMOptions{Schema: schema, Keep: 100_000, Latency: latency}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.fcm.Close)
	if p.apns, err = standin.NewAPNs(standin.APNsOptions{Topic: topic, Latency: latency}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.apns.Close)
	if p.web, err = standin.NewWebPush(standin.WebPushOptions{Latency: latency, Received: func(m standin.WebPushMessage) {
		p.mu.Lock()
		p.shown[m.Endpoint] = append(p.shown[m.Endpoint], m)
		p.mu.Unlock()
	}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.web.Close)
	t.Cleanup(func() {
		for _, fault := range slices.Concat(p.fcm.Faults(), p.apns.Faults(), p.web.Faults()) {
			if !slices.ContainsFunc(p.expected, func(part string) bool { return strings.Contains(fault, part) }) {
				t.Errorf("a provider finds fault: %s", fault)
			}
		}
	})
	p.settings = fmt.Sprintf("providers: {fcm: {url: '%s'}, apns: {url: '%s'}, webpush: {url: '%s'}}", p.fcm.URL(), p.apns.URL(), p.web.URL())
	p.authorities = filepath.Join(t.TempDir(), "providers.pem")
	if err := os.WriteFile(p.authorities, p.apns.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	p.trust(p.fcm)
	p.trust(p.web)
	p.environ = []string{"HERALD_EGRESS_CA_FILE=" + p.authorities}
	return p
}

// trust has daemons that are started from now on trust the certificate of a stand-in as well.
func (p *providers) trust(s interface{ CAFile(string) (string, error) }) {
	p.t.Helper()
	path, err := s.CAFile(p.t.TempDir())
	if err != nil {
		p.t.Fatal(err)
	}
	all, err := os.ReadFile(p.authorities)
	if err != nil {
		p.t.Fatal(err)
	}
	one, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(p.authorities, append(all, one...), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// got returns what the browser of an endpoint got.
func (p *providers) got(endpoint string) []standin.WebPushMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.shown[endpoint])
}

// requests returns the requests that FCM got for a device.
func (p *providers) requests(device string) []standin.FCMRequest {
	var of []standin.FCMRequest
	for _, r := range p.fcm.Requests() {
		if r.Device == device {
			of = append(of, r)
		}
	}
	return of
}

// sending is a daemon whose providers are stand-ins.
type sending struct {
	*herald
	*providers
	t *testing.T
}

// startSending runs a daemon that sends to stand-ins.
func startSending(t *testing.T, settings ...string) *sending {
	t.Helper()
	p := standIns(t, 0)
	return &sending{startWith(t, t.TempDir(), p.environ, append(settings, p.settings)...), p, t}
}

// again drains the daemon and starts it once more on the same data, with the same providers.
func (s *sending) again() {
	s.t.Helper()
	if err := s.stop(); err != nil {
		s.t.Fatalf("stop: %v", err)
	}
	s.herald = startWith(s.t, s.dir, s.environ, s.settings)
}

// firebase is the member of an implementation that goes through FCM.
func (p *providers) firebase() fields {
	return fields{"serviceAccount": json.RawMessage(p.fcm.ServiceAccount())}
}

// apple is the member of an implementation that goes through APNs.
func (p *providers) apple() fields {
	key := p.apns.Key()
	return fields{"key": string(key.PEM), "keyId": key.KeyID, "teamId": key.TeamID, "topic": topic}
}

// app is an implementation.
type app struct {
	*sending
	id     string
	secret string // signs the status changes
	vapid  []byte
}

// app makes an implementation with the credentials of all platforms; more changes that.
func (s *sending) app(id string, more fields) *app {
	s.t.Helper()
	body := fields{
		"id": id, "name": "the app " + id, "android": s.firebase(), "ios": s.apple(), "web": fields{"vapid": fields{"subject": "mailto:push@shop.example"}},
	}
	maps.Copy(body, more)
	var made struct {
		StatusSigningSecret string
		Web                 struct{ VAPID struct{ PublicKey string } }
	}
	s.admin().do("POST", "/implementations", body).is(200).into(&made)
	return &app{s, id, made.StatusSigningSecret, point(s.t, made.Web.VAPID.PublicKey)}
}

// point is a public key as browsers get it, in bytes.
func point(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// register registers a device of a contact.
func (a *app) register(platform, contact string, token any, more fields) {
	a.t.Helper()
	body := fields{"implementationId": a.id, "routeeContactId": contact, "token": token}
	maps.Copy(body, more)
	a.admin().do("POST", "/messages/"+platform, body).is(200)
}

// browser subscribes a browser of a contact, and returns the endpoint.
func (a *app) browser(contact string, more fields) string {
	a.t.Helper()
	text, endpoint := a.subscription()
	a.register("web", contact, json.RawMessage(text), more)
	return endpoint
}

// subscription is one of a browser, and its endpoint.
func (a *app) subscription() (text []byte, endpoint string) {
	a.t.Helper()
	text, err := a.web.Subscribe(a.vapid)
	if err != nil {
		a.t.Fatal(err)
	}
	var read struct{ Endpoint string }
	if err := json.Unmarshal(text, &read); err != nil {
		a.t.Fatal(err)
	}
	return text, read.Endpoint
}

// iphone is a token that APNs could have given.
func iphone(name string) string { return hex.EncodeToString([]byte(name)) }

// shows is a notification that shows a text.
func shows(text string) fields { return fields{"body": fields{"title": "Herald", "text": text}} }

// send sends a message, and returns its tracking id.
func (a *app) send(to, note fields) string {
	a.t.Helper()
	return a.post("/messages", to, note).is(202).text("trackingId")
}

// post makes a request to send a message.
func (a *app) post(path string, parts ...fields) *answer {
	a.t.Helper()
	body := fields{"implementationId": a.id}
	for _, part := range parts {
		maps.Copy(body, part)
	}
	return a.admin().do("POST", path, body)
}

// to is the contact of a message.
func to(contact string) fields { return fields{"routeeContactId": contact} }

// toToken is the one device of a message.
func toToken(kind string, token any) fields {
	return fields{"deviceToken": fields{"type": kind, "token": token}}
}

// message reads how a message stands.
func (s *sending) message(id string) map[string]any {
	s.t.Helper()
	return s.admin().do("GET", "/messages/"+id, nil).is(200).object()
}

// ends waits until a message has the status, and returns how it stands.
func (s *sending) ends(id, status string) map[string]any {
	s.t.Helper()
	return s.stands(id, "is "+status, func(m map[string]any) bool { return m["status"] == status })
}

// tried waits until every device of a message was tried so often, and returns how the message stands.
func (s *sending) tried(id string, attempts int) map[string]any {
	s.t.Helper()
	return s.stands(id, fmt.Sprintf("was tried %d times", attempts), func(m map[string]any) bool {
		list, _ := m["devices"].([]any)
		return len(list) > 0 && !slices.ContainsFunc(list, func(d any) bool {
			made, _ := d.(map[string]any)["attempts"].([]any)
			return len(made) < attempts
		})
	})
}

func (s *sending) stands(id, how string, cond func(map[string]any) bool) (last map[string]any) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if last = s.message(id); cond(last) {
			return last
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %v in vain until the message %s: %v", patience, how, last)
		}
		time.Sleep(wait)
	}
}

// parts are the devices of a message.
func parts(t *testing.T, message map[string]any) []map[string]any {
	t.Helper()
	list, _ := message["devices"].([]any)
	out := make([]map[string]any, len(list))
	for i := range list {
		out[i], _ = list[i].(map[string]any)
	}
	return out
}

// part is the one device of a message.
func part(t *testing.T, message map[string]any) map[string]any {
	t.Helper()
	list := parts(t, message)
	if len(list) != 1 {
		t.Fatalf("not one device in %v", message)
	}
	return list[0]
}

// devices lists the devices of a contact.
func (s *sending) devices(contact string) []map[string]any {
	s.t.Helper()
	return s.admin().do("GET", "/contacts/"+contact+"/devices", nil).is(200).list()
}

// platform tells how an implementation's way to a platform fares.
func (a *app) platform(platform, provider string) map[string]any {
	a.t.Helper()
	var read struct{ Status []map[string]any }
	a.admin().do("GET", "/implementations/"+a.id, nil).is(200).into(&read)
	for _, p := range read.Status {
		if p["platform"] == platform && p["provider"] == provider {
			return p
		}
	}
	a.t.Fatalf("the implementation %s has no %s through %s: %v", a.id, platform, provider, read.Status)
	return nil
}

// at follows a path of members, and of numbers of elements, into JSON.
func at(t *testing.T, text []byte, path ...any) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("no JSON: %v: %s", err, text)
	}
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// holds fails the test unless a payload is the JSON wanted.
func holds(t *testing.T, what string, payload []byte, want any) {
	t.Helper()
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.Unmarshal(payload, &a); err != nil {
		t.Fatalf("%s is no JSON: %v: %s", what, err, payload)
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	if !bytes.Equal(x, y) {
		t.Errorf("%s is\n%s, want\n%s", what, x, y)
	}
}
