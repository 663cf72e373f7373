package daemon_test

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Authentication by OAuth 2.0: the daemon gets the tokens of its pushes by the client credentials grant.

// The client that every authorizer of the tests knows. The characters are such that the form encoding of RFC
// 6749, section 2.3.1, is needed.
const (
	oauthClient = "herald:at & shop"
	oauthSecret = "oauth-secret+in%hiding"
)

// authorizer is an authorization server on loopback.
type authorizer struct {
	t   *testing.T
	URL string

	mu      sync.Mutex
	secret  string
	calls   int
	scopes  []string
	expires int           // of the tokens, in seconds
	status  int           // answered in the place of tokens, when not 0
	hang    chan struct{} // waited for before an answer, when not nil
	valid   string        // the token given out last
}

func authorize(t *testing.T) *authorizer {
	t.Helper()
	a := &authorizer{t: t, secret: oauthSecret, expires: 3600}
	s := httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(s.Close)
	a.URL = s.URL + "/token"
	return a
}

func (a *authorizer) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.calls++
	hang := a.hang
	a.mu.Unlock()
	if hang != nil {
		<-hang
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	id, secret, basic := r.BasicAuth()
	id, idErr := url.QueryUnescape(id)
	secret, secretErr := url.QueryUnescape(secret)
	err := r.ParseForm()
	switch {
	case a.status != 0:
		w.WriteHeader(a.status)
		fmt.Fprintf(w, `{"error":"server_error","error_description":"you are %s with %s"}`, id, secret)
	case !basic || idErr != nil || secretErr != nil || id != oauthClient || secret != a.secret:
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error":"invalid_client","error_description":"not the secret: %s"}`, secret)
	case err != nil || r.Method != "POST" || r.PostForm.Get("grant_type") != "client_credentials":
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"unsupported_grant_type"}`)
	case strings.Contains(r.PostForm.Get("scope"), "forbidden"):
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_scope"}`)
	default:
		a.scopes = append(a.scopes, r.PostForm.Get("scope"))
		a.valid = fmt.Sprint("access-token-in-hiding-", a.calls)
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, a.valid, a.expires)
	}
}

// set changes the server.
func (a *authorizer) set(change func(*authorizer)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *authorizer) called() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// guard makes the receiver take pushes with the token given out last, and answer 401 to all others.
func (a *authorizer) guard(r *receiver) {
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.valid == "" || p.header.Get("Authorization") != "Bearer "+a.valid {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

// auth is the authentication of a subscription that uses the server.
func (a *authorizer) auth(change fields) fields {
	f := fields{"type": "oauth2", "tokenURL": a.URL, "clientId": oauthClient, "clientSecret": oauthSecret}
	maps.Copy(f, change)
	return f
}

// many are n events to publish at once.
func many(n int) []any {
	list := make([]any, n)
	for i := range list {
		list[i] = fields{"type": "task.create", "data": fields{"n": i}}
	}
	return list
}

// delivered waits until n deliveries of the subscription are delivered.
func (h *herald) delivered(id string, n int) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d deliveries are delivered", n), func() bool {
		return len(h.admin().do("GET", "/deliveries?state=delivered&limit=1000&subscription="+id, nil).is(200).list()) == n
	})
}

func TestContract_OAuth2_PushesCarryAnAccessToken(t *testing.T) {
	t.Parallel()
	h := start(t)
	a, r := authorize(t), receive(t)
	a.guard(r)
	id := h.subscribe(r.URL, fields{"signingSecret": aSecret, "authentication": a.auth(fields{"scopes": []string{"push", "orders:read"}})})
	twin := receive(t)
	a.guard(twin)
	other := h.subscribe(twin.URL, fields{"authentication": a.auth(fields{"scopes": []string{"push", "orders:read"}})})
	const events = 200
	h.admin().do("POST", "/events", many(events)).is(202)
	h.delivered(id, events)
	h.delivered(other, events) // with the same credentials: the same token
	for _, p := range append(r.got(), twin.got()...) {
		if values := p.header["Authorization"]; !slices.Equal(values, []string{"Bearer access-token-in-hiding-1"}) {
			t.Fatalf("a push carries %q", values)
		}
	}
	if p := r.got()[0]; !p.verifies(t, aSecret) {
		t.Error("the push is not signed")
	}
	if a.called() != 1 || !slices.Equal(a.scopes, []string{"push orders:read"}) {
		t.Errorf("%d tokens for %d pushes, with the scopes %q", a.called(), 2*events, a.scopes)
	}
	// A change of the credentials takes effect with the next attempt.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"scopes": nil}}).is(200)
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	if a.called() != 2 || a.scopes[1] != "" {
		t.Errorf("after a change of scopes %d tokens were asked for, with %q", a.called(), a.scopes)
	}
}

func TestContract_OAuth2_FieldsAreChecked(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := authorize(t)
	const callback = "http://127.0.0.1:8421/"
	id := h.subscribe(callback, fields{"authentication": fields{"type": "bearer", "token": "t"}})
	for _, c := range []struct {
		change fields
		words  []string
	}{
		{fields{"tokenURL": nil}, []string{"/authentication/tokenURL: ", "needed"}},
		{fields{"clientId": nil}, []string{"/authentication/clientId: ", "needed"}},
		{fields{"clientSecret": nil}, []string{"/authentication/clientSecret: ", "needed"}},
		{fields{"tokenURL": "token"}, []string{"/authentication/tokenURL: ", "absolute"}},
		{fields{"tokenURL": "ftp://127.0.0.1/"}, []string{"/authentication/tokenURL: ", "https://"}},
		{fields{"tokenURL": "http://u:p@127.0.0.1:8421/"}, []string{"/authentication/tokenURL: ", "clientId and clientSecret"}},
		{fields{"tokenURL": "http://127.0.0.1:8421/#f"}, []string{"/authentication/tokenURL: ", "fragment"}},
		{fields{"tokenURL": "http://10.1.2.3/token"}, []string{"/authentication/tokenURL: ", "egress.allow_networks"}},
		{fields{"tokenURL": "http://169.254.169.254/token"}, []string{"/authentication/tokenURL: ", "egress.allow_networks"}},
		{fields{"tokenURL": "http://127.0.0.1:25/token"}, []string{"/authentication/tokenURL: ", "port"}},
		{fields{"tokenURL": "http://127.0.0.1:8421/" + strings.Repeat("x", 2048)}, []string{"/authentication/tokenURL: ", "2048"}},
		{fields{"clientId": ""}, []string{"/authentication/clientId: "}},
		{fields{"clientId": "ü"}, []string{"/authentication/clientId: ", "ASCII"}},
		{fields{"clientId": strings.Repeat("x", 257)}, []string{"/authentication/clientId: ", "256"}},
		{fields{"clientSecret": ""}, []string{"/authentication/clientSecret: ", "4096"}},
		{fields{"clientSecret": "a\nb"}, []string{"/authentication/clientSecret: ", "ASCII"}},
		{fields{"clientSecret": strings.Repeat("x", 4097)}, []string{"/authentication/clientSecret: ", "4096"}},
		{fields{"clientSecret": 7}, []string{"/authentication/clientSecret: ", "string"}},
		{fields{"scopes": "push"}, []string{"/authentication/scopes: ", "array"}},
		{fields{"scopes": []any{"push", 1}}, []string{"/authentication/scopes/1: ", "string"}},
		{fields{"scopes": []any{"push", "push"}}, []string{"/authentication/scopes/1: ", "twice"}},
		{fields{"scopes": []any{"push read"}}, []string{"/authentication/scopes/0: ", "one scope"}},
		{fields{"scopes": []any{""}}, []string{"/authentication/scopes/0: ", "one scope"}},
		{fields{"scopes": []any{`a"b`}}, []string{"/authentication/scopes/0: ", "one scope"}},
		{fields{"token": "t"}, []string{"/authentication/token: ", "oauth2"}},
		{fields{"audience": "x"}, []string{"/authentication/audience: ", "oauth2"}},
		{fields{"type": "oauth"}, []string{"/authentication/type: ", "oauth2"}},
	} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			got := h.admin().do(method, path, fields{"dataCallbackURL": callback, "authentication": a.auth(c.change)})
			names(t, fmt.Sprint(method, " with ", c.change), got.problem(400), c.words...)
			if strings.Contains(string(got.body), "in%hiding") {
				t.Errorf("the refusal repeats the secret: %s", got.body)
			}
		}
	}

	// What a read shows, and that it can be sent back.
	id = h.subscribe(callback, fields{"authentication": a.auth(fields{"scopes": []string{"push", "read"}})})
	view := func() map[string]any {
		t.Helper()
		s := h.read(id)
		again := h.admin().do("PUT", "/subscriptions/"+id, s).is(200).object()
		if fmt.Sprint(again["authentication"]) != fmt.Sprint(s["authentication"]) {
			t.Errorf("sending %v back made it %v", s["authentication"], again["authentication"])
		}
		auth, _ := s["authentication"].(map[string]any)
		return auth
	}
	want := map[string]any{"type": "oauth2", "tokenURL": a.URL, "clientId": oauthClient, "scopes": []any{"push", "read"}, "clientSecretSet": true}
	if got := view(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the subscription reads as %v, want %v", got, want)
	}
	names(t, "clientSecretSet", h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"clientSecretSet": false}}).problem(400), "clientSecretSet")
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"clientId": "another"}}).is(200)
	if want["clientId"] = "another"; fmt.Sprint(view()) != fmt.Sprint(want) {
		t.Errorf("after PATCH of the id it reads as %v", view())
	}
	// PUT keeps an absent secret and nothing else.
	h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": callback, "authentication": fields{"type": "oauth2", "tokenURL": a.URL, "clientId": "x"}}).is(200)
	if want["clientId"] = "x"; true {
		delete(want, "scopes")
	}
	if fmt.Sprint(view()) != fmt.Sprint(want) {
		t.Errorf("after PUT it reads as %v", view())
	}
	names(t, "PUT without URL", h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": callback, "authentication": fields{"type": "oauth2", "clientId": "x"}}).problem(400), "tokenURL")
	// Another type keeps nothing of it, and the way back needs the secret again.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "bearer", "token": "t"}}).is(200)
	names(t, "back again", h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "oauth2", "tokenURL": a.URL, "clientId": "x"}}).problem(400), "clientSecret")
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": nil}).is(200)
	if s := h.read(id); s["authentication"] != nil {
		t.Errorf("after null it reads as %v", s)
	}
	if a.called() != 0 {
		t.Errorf("the token endpoint was called %d times for nothing", a.called())
	}
}

// A token is good for some time only: it is renewed before its end, and when the receiver refuses it.
func TestContract_OAuth2_TokenIsRenewed(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	a, r := authorize(t), receive(t)
	a.guard(r)
	id := h.subscribe(r.URL, fields{"authentication": a.auth(nil), "delivery": promptly(5)})
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	// It is revoked: the attempt with it fails, the next one has another.
	a.set(func(a *authorizer) { a.valid = "" })
	d := h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	if tries := attempts(t, d); len(tries) != 2 || tries[0]["status"] != float64(401) || tries[1]["status"] != float64(200) || a.called() != 2 {
		t.Errorf("after a revocation %d tokens were asked for: %v", a.called(), tries)
	}
	// One of a second is used for three quarters of it.
	a.set(func(a *authorizer) { a.valid, a.expires = "", 1 })
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	calls := a.called()
	time.Sleep(time.Second)
	d = h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	if tries := attempts(t, d); len(tries) != 1 || a.called() != calls+1 {
		t.Errorf("after its end %d tokens were asked for: %v", a.called()-calls, tries)
	}
}

func TestContract_OAuth2_RefusedClientIsMisconfigured(t *testing.T) {
	t.Parallel()
	h := start(t)
	a, r := authorize(t), receive(t)
	a.set(func(a *authorizer) { a.secret = "rotated-in-hiding" })
	id := h.subscribe(r.URL, fields{"authentication": a.auth(nil), "delivery": patiently()})
	event := h.publish("task.create", "", fields{})
	d := h.delivery(event, id, "retrying")
	x := attempts(t, d)[0]
	if x["outcome"] != "misconfigured" || x["status"] != nil || !strings.Contains(x["error"].(string), "token endpoint refused the client id and secret (invalid_client)") {
		t.Errorf("the attempt is %v", x)
	}
	if len(r.got()) != 0 {
		t.Error("the push went out without a token")
	}
	if s := h.read(id); s["state"] != "active" {
		t.Errorf("the subscription is %v", s["state"])
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"clientSecret": "rotated-in-hiding", "scopes": []string{"forbidden"}}}).is(200)
	event = h.publish("task.create", "", fields{})
	if x := attempts(t, h.delivery(event, id, "retrying"))[0]; x["outcome"] != "misconfigured" || !strings.Contains(x["error"].(string), "invalid_scope") {
		t.Errorf("the attempt is %v", x)
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"scopes": nil}}).is(200)
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	event = h.publish("task.create", "", fields{})
	h.delivery(event, id, "delivered")
	h.admin().do("POST", "/deliveries/"+d["id"].(string)+"/retry", nil).is(202)
	r.wait(2)
}

// What is broken at one token endpoint is no other subscription's trouble, nor is the endpoint hammered.
func TestContract_OAuth2_BrokenEndpointHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {workers: 8, jitter: 0}")
	hanging, failing := authorize(t), authorize(t)
	gate := make(chan struct{})
	hanging.set(func(a *authorizer) { a.hang = gate })
	failing.set(func(a *authorizer) { a.status = http.StatusInternalServerError })
	opened := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(opened)
	stuck, broken, healthy := receive(t), receive(t), receive(t)
	policy := promptly(40)
	policy["timeoutSeconds"] = 2
	subs := []string{
		h.subscribe(stuck.URL, fields{"authentication": hanging.auth(nil), "delivery": policy}),
		h.subscribe(broken.URL, fields{"authentication": failing.auth(nil), "delivery": policy}),
	}
	beside := h.subscribe(healthy.URL, nil)
	const events = 200
	began := time.Now()
	h.admin().do("POST", "/events", many(events)).is(202)
	h.delivered(beside, events)
	if took := time.Since(began); took > prompt {
		t.Errorf("the healthy receiver waited %v", took)
	}
	h.eventually("both endpoints were tried", func() bool { return hanging.called() > 0 && failing.called() > 0 })
	for what, a := range map[string]*authorizer{"hanging": hanging, "failing": failing} {
		// Once a second is what a failure is held back for.
		if most := int(time.Since(began)/time.Second) + 2; a.called() > most {
			t.Errorf("the %s endpoint was called %d times in %v", what, a.called(), time.Since(began))
		}
	}
	if n := len(stuck.got()) + len(broken.got()); n != 0 {
		t.Errorf("%d pushes went out without a token", n)
	}
	// When they are well again, so is everything.
	hanging.set(func(a *authorizer) { a.hang = nil })
	failing.set(func(a *authorizer) { a.status = 0 })
	opened()
	for _, id := range subs {
		h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
		h.delivered(id, events)
	}
}

// Neither the client's secret nor the tokens are to be found anywhere.
func TestContract_OAuth2_SecretsAreNeverReadable(t *testing.T) {
	t.Parallel()
	h := start(t)
	a, r := authorize(t), receive(t)
	r.respond(func(_ int, p push, w http.ResponseWriter) { // repeats what it got
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, p.header)
	})
	id := h.subscribe(r.URL, fields{"authentication": a.auth(nil), "delivery": patiently()})
	bad := authorize(t)
	bad.set(func(a *authorizer) { a.status = http.StatusBadGateway })
	badID := h.subscribe(r.URL, fields{"authentication": bad.auth(nil), "delivery": patiently()})
	event := h.publish("task.create", "", fields{})
	hidden := []string{
		oauthSecret, url.QueryEscape(oauthSecret), "access-token-in-hiding",
		base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(oauthClient) + ":" + url.QueryEscape(oauthSecret))),
	}
	check := func(what, text string) {
		t.Helper()
		for _, s := range hidden {
			if strings.Contains(text, s) {
				t.Errorf("%s shows %q", what, s)
			}
		}
	}
	for _, sub := range []string{id, badID} {
		d := h.delivery(event, sub, "retrying")
		text := fmt.Sprint(d)
		check("the delivery", text)
		if sub == id && !strings.Contains(text, "Bearer <secret>") {
			t.Errorf("what the receiver repeated is not there: %v", d)
		}
		check("the subscription", string(h.admin().do("GET", "/subscriptions/"+sub, nil).is(200).body))
	}
	check("the list", string(h.admin().do("GET", "/subscriptions", nil).is(200).body))
	check("the metrics", string(h.as("").do("GET", "/metrics", nil).is(200).body))
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(filepath.Join(h.dir, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		check("the file "+e.Name(), string(content))
		return err
	})
	if err != nil || files < 2 {
		t.Errorf("%d files were searched: %v", files, err)
	}
}
