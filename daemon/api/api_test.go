package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"herald/queue"
	"herald/store"
)

var testNow = time.Date(2026, 11, 21, 8, 30, 0, 0, time.UTC)

// bed is an API on engines in memory, with a token for each need.
type bed struct {
	t       testing.TB
	store   *memStore
	queue   *memQueue
	api     *API
	h       http.Handler
	reg     *prometheus.Registry
	mu      sync.Mutex
	changed []store.SubscriptionID
	told    []string // operational events: type, id and state
	live    map[store.SubscriptionID]LaneStatus
	notYet  error
	now     time.Time
	mail    *memNotifier
}

func hashOf(token string) store.TokenHash { return sha256.Sum256([]byte(token)) }

func newBed(t testing.TB, settings ...Settings) *bed {
	t.Helper()
	b := &bed{t: t, store: newMemStore(), queue: newMemQueue(), reg: prometheus.NewRegistry(), now: testNow, mail: &memNotifier{}}
	b.store.accounts["acme"] = store.Account{ID: "acme", Name: "Acme", CreatedAt: testNow}
	b.store.accounts["other"] = store.Account{ID: "other", CreatedAt: testNow}
	b.store.accounts["frozen"] = store.Account{ID: "frozen", Suspended: true, CreatedAt: testNow}
	for _, x := range []struct {
		token, account string
		scopes         []store.Scope
	}{
		{"pub", "acme", []store.Scope{store.ScopePublish}},
		{"sub", "acme", []store.Scope{store.ScopeSubscribe}},
		{"both", "acme", []store.Scope{store.ScopePublish, store.ScopeSubscribe}},
		{"dev", "acme", []store.Scope{store.ScopeDevices}},
		{"snd", "acme", []store.Scope{store.ScopeSend}},
		{"adm", "default", []store.Scope{store.ScopeAdmin}},
		{"alien", "other", []store.Scope{store.ScopePublish, store.ScopeSubscribe}},
		{"ice", "frozen", []store.Scope{store.ScopePublish, store.ScopeSubscribe}},
	} {
		b.store.tokens[hashOf(x.token)] = store.Token{ID: "tok_" + x.token, AccountID: x.account, Scopes: x.scopes, Hash: hashOf(x.token), CreatedAt: testNow}
	}
	b.store.tokens[hashOf("old")] = store.Token{
		ID: "tok_old", AccountID: "acme", Scopes: []store.Scope{store.ScopePublish}, Hash: hashOf("old"), ExpiresAt: testNow.Add(-time.Second),
	}
	b.store.resources["acme"] = map[store.ResourceKey]store.Resource{
		{Type: "project", ID: "proj1"}: {ResourceKey: store.ResourceKey{Type: "project", ID: "proj1"}, Name: "One"},
		{Type: "project", ID: "proj2"}: {ResourceKey: store.ResourceKey{Type: "project", ID: "proj2"}},
	}
	var s Settings
	if len(settings) > 0 {
		s = settings[0]
	}
	var err error
	b.api, err = New(Options{
		Store: b.store, Queue: b.queue, Settings: s, Registerer: b.reg, Gatherer: b.reg,
		Now: func() time.Time {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.now
		},
		Ready:    func() error { return b.notYet },
		Notifier: b.mail,
		CheckURL: func(u *url.URL) error {
			if u.Hostname() == "127.0.0.1" {
				return errors.New("127.0.0.1 is a loopback address; egress.allow_networks opens it")
			}
			return nil
		},
		Changed: func(id store.SubscriptionID) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.changed = append(b.changed, id)
		},
		Operational: func(_ context.Context, s *store.Subscription, eventType string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.told = append(b.told, fmt.Sprint(eventType, " ", s.ID, " ", s.State))
		},
		Status: func(id store.SubscriptionID) (LaneStatus, bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			l, ok := b.live[id]
			return l, ok
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.h = b.api.Handler()
	return b
}

// request is one call; header pairs follow the body.
func (b *bed) request(method, path, token, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.through(b.h, method, path, token, body, header...)
}

func (b *bed) through(h http.Handler, method, path, token, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// leaks matches what must never be seen by a client: texts of Go, of its libraries, and of its files.
var leaks = regexp.MustCompile(`json: |jsontext|cannot unmarshal|\.go:|goroutine |runtime error|strconv\.|parse "|invalid character|unexpected EOF|unexpected end|http: |0x[0-9a-f]{6,}|<nil>|%!|herald/`)

type problemBody struct {
	Title      string  `json:"title"`
	StatusCode int     `json:"statusCode"`
	Detail     string  `json:"detail"`
	Instance   string  `json:"instance"`
	Errors     []fault `json:"errors"`
}

// wantProblem checks the form of a failure and that the detail has each of the words.
func wantProblem(t testing.TB, w *httptest.ResponseRecorder, status int, words ...string) problemBody {
	t.Helper()
	var p problemBody
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("Content-Type %q: %s", ct, w.Body)
	}
	d := json.NewDecoder(strings.NewReader(w.Body.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if p.Title == "" || p.Detail == "" || p.StatusCode != status || !strings.HasPrefix(p.Instance, "/") && p.Instance != "*" {
		t.Fatalf("an incomplete problem: %s", w.Body)
	}
	if m := leaks.FindString(w.Body.String()); m != "" {
		t.Fatalf("%q leaks: %s", m, w.Body)
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		if !regexp.MustCompile(`^[1-9][0-9]*$`).MatchString(w.Header().Get("Retry-After")) {
			t.Fatalf("Retry-After %q with %d", w.Header().Get("Retry-After"), status)
		}
	}
	for _, word := range words {
		if !strings.Contains(p.Detail, word) {
			t.Fatalf("the detail %q lacks %q", p.Detail, word)
		}
	}
	return p
}

// wantJSON checks an answer and decodes it.
func wantJSON[T any](t testing.TB, w *httptest.ResponseRecorder, status int) T {
	t.Helper()
	var v T
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Fatalf("Content-Type %q", ct)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return v
}

type jsonObject = map[string]any

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	s, q := newMemStore(), newMemQueue()
	for _, o := range []Options{
		{},
		{Store: s},
		{Queue: q},
		{Store: s, Queue: q, Settings: Settings{BodyBytes: -1}},
		{Store: s, Queue: q, Settings: Settings{BodyBytes: 10, PayloadBytes: 11}},
		{Store: s, Queue: q, Settings: Settings{RatePerToken: -1}},
		{Store: s, Queue: q, Settings: Settings{MaxSubscriptionsPerAccount: -1}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v) succeeded", o)
		}
	}
	a, err := New(Options{Store: s, Queue: q})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Configure(Settings{BodyBytes: -1}); err == nil {
		t.Error("Configure took a negative limit")
	}
}

// everyRoute lists each endpoint with a path that reaches it.
func everyRoute(a *API) (list []struct {
	path     string
	endpoint *endpoint
},
) {
	fill := strings.NewReplacer("{account}", "acme", "{token}", "tok_x", "{type}", "project", "{id}", "proj1",
		"{subscription}", "01234567-89ab-7def-8123-456789abcdef", "{event}", "e1",
		"{delivery}", queue.DeliveryID{Seq: 1}.String(), "{implementation}", "app", "{message}", "web", "{contact}", "c", "{device}", store.DeviceID{1}.String())
	for _, r := range append(a.routes(), a.adminRoutes()...) {
		for _, e := range r.endpoints {
			list = append(list, struct {
				path     string
				endpoint *endpoint
			}{fill.Replace(r.pattern), e})
		}
	}
	return list
}

func TestEveryRouteRefusesInTheProblemForm(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	for _, r := range everyRoute(b.api) {
		name := r.endpoint.method + " " + r.path
		if r.endpoint.open {
			if w := b.request(r.endpoint.method, r.path, "", ""); w.Code != http.StatusOK {
				t.Errorf("%s without a token: %d", name, w.Code)
			}
		} else if r.endpoint.anonymous {
			for _, token := range []string{"", "nonsense", "old", "dev", "ice"} {
				wantProblem(t, b.request(r.endpoint.method, r.path, token, ""), http.StatusBadRequest)
			}
			wantProblem(t, b.request(r.endpoint.method, r.path+"?frobnicate=1", "", ""), http.StatusBadRequest, "frobnicate")
		} else {
			w := b.request(r.endpoint.method, r.path, "", "")
			wantProblem(t, w, http.StatusUnauthorized)
			if !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: WWW-Authenticate %q", name, w.Header().Get("WWW-Authenticate"))
			}
			wantProblem(t, b.request(r.endpoint.method, r.path, "nonsense", ""), http.StatusUnauthorized)
			wantProblem(t, b.request(r.endpoint.method, r.path, "old", ""), http.StatusUnauthorized, "expired")
			other := "dev"
			if slices.Contains(r.endpoint.scopes, store.ScopeDevices) {
				other = "sub"
			}
			wantProblem(t, b.request(r.endpoint.method, r.path, other, ""), http.StatusForbidden, string(r.endpoint.scopes[0]))
			wantProblem(t, b.request(r.endpoint.method, r.path, "ice", ""), http.StatusForbidden, "suspended")
			wantProblem(t, b.request(r.endpoint.method, r.path+"?frobnicate=1", "adm", ""), http.StatusBadRequest, "frobnicate")
			p := wantProblem(t, b.request(r.endpoint.method, r.path+"?token=hunter2%zz", "adm", ""), http.StatusBadRequest)
			if strings.Contains(p.Instance+p.Detail, "hunter2") {
				t.Errorf("%s: the query leaks: %+v", name, p)
			}
		}
		w := b.request("BREW", r.path, "", "")
		wantProblem(t, w, http.StatusMethodNotAllowed, r.endpoint.method)
		if allow := ", " + w.Header().Get("Allow") + ","; !strings.Contains(allow, ", "+r.endpoint.method+",") {
			t.Errorf("%s: Allow %q", name, allow)
		}
		wantProblem(t, b.request(r.endpoint.method, r.path+"/x/y/z", "adm", ""), http.StatusNotFound)
		if w := b.request(http.MethodOptions, r.path, "", ""); w.Code != http.StatusNoContent || !strings.Contains(w.Header().Get("Allow"), r.endpoint.method) {
			t.Errorf("OPTIONS %s: %d, Allow %q", r.path, w.Code, w.Header().Get("Allow"))
		}
		if r.endpoint.reads {
			for _, body := range []string{`{`, `{"a":1,"a":2}`, `[1,`, `nonsense`, `{“a”:1}`, "\xff", `{} {}`, `[] x`, `"text"`, `null`, `17`, "\xef\xbb\xbf{}"} {
				w := b.request(r.endpoint.method, r.path, "adm", body, "Herald-Account", "acme")
				if strings.Contains(r.path, "/subscriptions/") {
					continue // 404 comes first; TestSubscriptionBodies has these
				}
				wantProblem(t, w, http.StatusBadRequest)
			}
		}
	}
	b.notYet = errors.New("the daemon is stopping")
	for _, r := range everyRoute(b.api) {
		w := b.request(r.endpoint.method, r.path, "adm", "")
		if r.endpoint.open && r.path != "/readyz" {
			if w.Code != http.StatusOK {
				t.Errorf("%s while not ready: %d", r.path, w.Code)
			}
			continue
		}
		wantProblem(t, w, http.StatusServiceUnavailable, "stopping")
	}
}

func TestPathsThatAreNone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for _, path := range []string{"/", "/nope", "//events", "/events/", "/./events", "/a/../events", "/events/..", "/Events", "/subscriptions//enable", "/%2e%2e/%2E"} {
		wantProblem(t, b.request(http.MethodGet, path, "adm", ""), http.StatusNotFound)
		wantProblem(t, b.request(http.MethodPost, path, "", "{}"), http.StatusNotFound)
	}
	req := httptest.NewRequest(http.MethodOptions, "/", nil)
	req.RequestURI, req.URL = "*", &url.URL{Path: "*"}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, req)
	wantProblem(t, w, http.StatusNotFound)
	long := "/" + strings.Repeat("x", 5000)
	if p := wantProblem(t, b.request(http.MethodGet, long, "", ""), http.StatusNotFound); len(p.Instance) > maxInstance {
		t.Errorf("an instance of %d bytes", len(p.Instance))
	}
}

func TestAccess(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{AdminToken: hashOf("fixed")})
	for name, x := range map[string]struct {
		header []string
		status int
	}{
		"lower case scheme":       {[]string{"Authorization", "bearer sub"}, 200},
		"spaces":                  {[]string{"Authorization", "Bearer   sub"}, 200},
		"basic":                   {[]string{"Authorization", "Basic c3ViOg=="}, 401},
		"no token":                {[]string{"Authorization", "Bearer"}, 401},
		"very long":               {[]string{"Authorization", "Bearer " + strings.Repeat("x", 4000)}, 401},
		"fixed admin":             {[]string{"Authorization", "Bearer fixed"}, 200},
		"fixed admin for acme":    {[]string{"Authorization", "Bearer fixed", "Herald-Account", "acme"}, 200},
		"admin for acme":          {[]string{"Authorization", "Bearer adm", "Herald-Account", "acme"}, 200},
		"admin for nobody":        {[]string{"Authorization", "Bearer adm", "Herald-Account", "nobody"}, 404},
		"admin for nonsense":      {[]string{"Authorization", "Bearer adm", "Herald-Account", "../x"}, 404},
		"own account named":       {[]string{"Authorization", "Bearer sub", "Herald-Account", "acme"}, 200},
		"another's account named": {[]string{"Authorization", "Bearer sub", "Herald-Account", "other"}, 403},
		"unknown, not admin":      {[]string{"Authorization", "Bearer sub", "Herald-Account", "nobody"}, 403},
	} {
		w := b.request(http.MethodGet, "/subscriptions", "", "", x.header...)
		if w.Code != x.status {
			t.Errorf("%s: %d, want %d: %s", name, w.Code, x.status, w.Body)
		}
		if w.Code != 200 {
			wantProblem(t, w, x.status)
		}
	}
	// Over the socket there is no token, and all rights.
	if w := b.through(b.api.SocketHandler(), http.MethodGet, "/accounts", "", ""); w.Code != 200 {
		t.Errorf("the socket: %d", w.Code)
	}
	wantProblem(t, b.through(b.api.SocketHandler(), http.MethodGet, "/subscriptions", "", "", "Herald-Account", "nobody"), 404)
	// Two headers of a kind are no choice of ours.
	req := httptest.NewRequest(http.MethodGet, "/subscriptions", nil)
	req.Header["Authorization"] = []string{"Bearer sub", "Bearer adm"}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, req)
	wantProblem(t, w, 401)
	req.Header["Authorization"] = []string{"Bearer adm"}
	req.Header["Herald-Account"] = []string{"acme", "other"}
	w = httptest.NewRecorder()
	b.h.ServeHTTP(w, req)
	wantProblem(t, w, 400)
	// The fixed token goes when the settings change.
	if err := b.api.Configure(Settings{}); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.request(http.MethodGet, "/subscriptions", "fixed", ""), 401)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{RatePerToken: 2})
	for i := range 2 {
		if w := b.request(http.MethodGet, "/subscriptions", "sub", ""); w.Code != 200 {
			t.Fatalf("request %d: %d", i, w.Code)
		}
	}
	w := b.request(http.MethodGet, "/subscriptions", "sub", "")
	wantProblem(t, w, 429, "2 requests per second")
	if got := w.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %s", got)
	}
	if w := b.request(http.MethodGet, "/subscriptions", "both", ""); w.Code != 200 {
		t.Errorf("another token: %d", w.Code)
	}
	b.mu.Lock()
	b.now = b.now.Add(500 * time.Millisecond)
	b.mu.Unlock()
	if w := b.request(http.MethodGet, "/subscriptions", "sub", ""); w.Code != 200 {
		t.Errorf("half a second later: %d", w.Code)
	}
	wantProblem(t, b.request(http.MethodGet, "/subscriptions", "sub", ""), 429)
	if err := b.api.Configure(Settings{RatePerToken: 0.1}); err != nil {
		t.Fatal(err)
	}
	if got := b.request(http.MethodGet, "/subscriptions", "sub", "").Header().Get("Retry-After"); got == "" || got == "1" {
		t.Errorf("after a lower rate: Retry-After %q", got)
	}
}

func TestLimiterStaysBounded(t *testing.T) {
	t.Parallel()
	l := limiter{entries: map[store.TokenHash]*limit{}}
	for i := range 3 * maxLimits {
		l.take(hashOf(fmt.Sprint(i)), 1, testNow)
	}
	if n := len(l.entries); n > maxLimits {
		t.Errorf("%d buckets", n)
	}
	for i := range maxLimits {
		l.take(hashOf(fmt.Sprint("late", i)), 1, testNow.Add(2*time.Minute))
	}
	for i := range maxLimits {
		if l.entries[hashOf(fmt.Sprint("late", i))] == nil {
			t.Fatal("a bucket in use went while idle ones could go")
		}
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.api.store = panicStore{b.store}
	p := wantProblem(t, b.request(http.MethodGet, "/subscriptions", "sub", ""), 500)
	if strings.Contains(p.Detail, "boom") {
		t.Errorf("the panic leaks: %s", p.Detail)
	}
}

type panicStore struct{ *memStore }

func (panicStore) TokenByHash(context.Context, store.TokenHash) (store.Token, store.Account, error) {
	panic("boom at herald/store")
}

func TestEngineFailuresAreTranslated(t *testing.T) {
	t.Parallel()
	for err, status := range map[error]int{
		errors.New("open /var/lib/herald/store.db: input/output error"): 503,
		fmt.Errorf("commit: %w", store.ErrFull):                         503,
		fmt.Errorf("commit: %w", store.ErrClosed):                       503,
	} {
		b := newBed(t)
		b.store.setFail(err, 0)
		p := wantProblem(t, b.request(http.MethodGet, "/subscriptions", "sub", ""), status)
		if strings.Contains(p.Detail, "/var") {
			t.Errorf("a path leaks: %s", p.Detail)
		}
	}
	for err, reason := range map[error]string{
		errors.New("write /var/lib/herald/queue.db: input/output error"): reasonError,
		queue.ErrFull:    reasonFull,
		queue.ErrBusy:    reasonBusy,
		queue.ErrClosed:  reasonClosed,
		context.Canceled: reasonAbandoned,
	} {
		b := newBed(t)
		b.queue.setFail(err)
		wantProblem(t, b.request(http.MethodPost, "/events", "pub", `{"type":"a.b","data":{}}`), 503)
		if got := counter(t, b.reg, "herald_api_publications_refused_total", "reason", reason); got != 1 {
			t.Errorf("%s: counted %g", reason, got)
		}
	}
}

// An engine that does not answer keeps nobody who asks waiting, and is asked once however many do.
func TestInquiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var i inquiry
		back, calls, ill := make(chan struct{}), 0, errors.New("ill")
		healthy := func() error { calls++; <-back; return ill }
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), askLimit)
			if err := i.ask(healthy).wait(ctx); !errors.Is(err, errHangs) {
				t.Errorf("while it hangs: %v", err)
			}
			cancel()
		}
		late := i.ask(healthy)
		close(back)
		if err := late.wait(t.Context()); !errors.Is(err, ill) || calls != 1 {
			t.Errorf("after %d calls: %v", calls, err)
		}
		if err := i.ask(healthy).wait(t.Context()); !errors.Is(err, ill) || calls != 2 {
			t.Errorf("asked again: %v, %d calls", err, calls)
		}
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if got := wantJSON[jsonObject](t, b.request(http.MethodGet, "/healthz", "", ""), 200)["status"]; got != "ok" {
		t.Errorf("health: %v", got)
	}
	ready := func(want string) {
		t.Helper()
		if text := b.request(http.MethodGet, "/metrics", "", "").Body.String(); !strings.Contains(text, "\nherald_ready "+want+"\n") {
			t.Errorf("herald_ready is not %s", want)
		}
	}
	wantJSON[jsonObject](t, b.request(http.MethodGet, "/readyz", "", ""), 200)
	ready("1")
	b.queue.unhealthy = errors.New("the disk is full")
	wantProblem(t, b.request(http.MethodGet, "/readyz", "", ""), 503, "events", "the disk is full")
	ready("0")
	b.queue.unhealthy = errors.Join(fmt.Errorf("commit: %w", &os.PathError{Op: "write", Path: "/var/lib/herald/queue.db", Err: syscall.ENOSPC}), errors.New("another"))
	if p := wantProblem(t, b.request(http.MethodGet, "/readyz", "", ""), 503, "no space left on device", "another"); strings.Contains(p.Detail, "/var") {
		t.Errorf("a path leaks: %s", p.Detail)
	}
	b.queue.unhealthy = queue.ErrFull
	wantProblem(t, b.request(http.MethodGet, "/readyz", "", ""), 503, "disk is full")
	// All there is to say is said at once.
	b.notYet, b.store.unhealthy = errors.New("shutting down"), errors.New("the disk hangs")
	if w := b.request(http.MethodGet, "/readyz", "", ""); w.Header().Get("Retry-After") != "30" {
		t.Errorf("Retry-After: %v", w.Header())
	}
	wantProblem(t, b.request(http.MethodGet, "/readyz", "", ""), 503, "shutting down", "events cannot be made durable: the disk is full", "accounts and subscriptions cannot be made durable: the disk hangs")
	b.notYet, b.queue.unhealthy = nil, nil
	b.store.unhealthy = fmt.Errorf("commit: %w", store.ErrClosed)
	wantProblem(t, b.request(http.MethodGet, "/readyz", "", ""), 503, "stopping")
	if w := b.request(http.MethodGet, "/healthz", "", ""); w.Code != 200 {
		t.Errorf("alive: %d", w.Code)
	}
	if err := b.api.Configure(Settings{AdminMoved: true}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		wantProblem(t, b.request(http.MethodGet, path, "", ""), 404)
		if w := b.through(b.api.AdminHandler(), http.MethodGet, path, "", ""); w.Code == 404 {
			t.Errorf("%s is not at the admin address", path)
		}
		if w := b.through(b.api.SocketHandler(), http.MethodGet, path, "", ""); w.Code == 404 {
			t.Errorf("%s is not at the socket", path)
		}
	}
	wantProblem(t, b.through(b.api.AdminHandler(), http.MethodGet, "/subscriptions", "adm", ""), 404)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.request(http.MethodPost, "/events", "pub", `{"id":"a","type":"a.b","data":{}}`)
	b.request(http.MethodPost, "/events", "pub", `{"id":"a","type":"a.b","data":{}}`)
	b.request(http.MethodPost, "/events", "pub", `{"id":"a","type":"a.b","data":{"other":1}}`)
	b.request(http.MethodPost, "/events", "pub", `{"type":"a.b"}`)
	b.request(http.MethodPost, "/events", "nobody", `{"type":"a.b"}`)
	b.request(http.MethodGet, "/secret-path", "", "")
	w := b.request(http.MethodGet, "/metrics", "", "")
	text := w.Body.String()
	for _, line := range []string{
		`herald_api_requests_total{method="POST",route="/events",status="2xx"} 2`,
		`herald_api_requests_total{method="POST",route="/events",status="4xx"} 3`,
		`herald_api_requests_total{method="any",route="none",status="4xx"} 1`,
		`herald_api_events_accepted_total 1`,
		`herald_api_events_duplicate_total 1`,
		`herald_api_publications_refused_total{reason="invalid"} 1`,
		`herald_api_publications_refused_total{reason="conflict"} 1`,
		`herald_api_publications_refused_total{reason="full"} 0`,
		`herald_api_requests_in_flight 1`,
		`herald_api_request_duration_seconds_count{method="POST",route="/events"} 5`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("lacks %s", line)
		}
	}
	if strings.Contains(text, "secret-path") {
		t.Error("a path became a label")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

func counter(t testing.TB, g prometheus.Gatherer, name, label, value string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	t.Fatalf("no %s with %s=%s", name, label, value)
	return 0
}
