package api

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// route is a path and what may be done with it.
type route struct {
	pattern   string // as http.ServeMux reads it, without method
	endpoints []*endpoint
}

// endpoint is one method of a route.
type endpoint struct {
	method string
	// scopes are alternatives: a token needs one of them.
	scopes []store.Scope
	// open endpoints need no token and answer also while the daemon is not ready.
	open bool
	// anonymous endpoints need no token, and like all others a daemon that is ready.
	anonymous bool
	// query names the parameters the endpoint knows; anyQuery lets all pass.
	query    []string
	anyQuery bool
	// reads says that the endpoint takes a body. The others refuse one that is not empty.
	reads bool
	// publishes makes refusals count as refused publications.
	publishes bool
	do        func(*call) error

	metrics *endpointMetrics
}

// routes is the whole surface but health and metrics.
func (a *API) routes() []route {
	admin := []store.Scope{store.ScopeAdmin}
	publish := []store.Scope{store.ScopePublish}
	subscribe := []store.Scope{store.ScopeSubscribe}
	read := []store.Scope{store.ScopePublish, store.ScopeSubscribe}
	devices := []store.Scope{store.ScopeDevices}
	send := []store.Scope{store.ScopeSend}
	readDevices := []store.Scope{store.ScopeDevices, store.ScopeSend}
	page := []string{"limit", "after"}
	get, post, put, patch, del := http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	return []route{
		{"/accounts", []*endpoint{
			{method: get, scopes: admin, query: page, do: a.listAccounts},
			{method: post, scopes: admin, reads: true, do: a.createAccount},
		}},
		{"/accounts/{account}", []*endpoint{
			{method: get, scopes: admin, do: a.readAccount},
			{method: put, scopes: admin, reads: true, do: a.replaceAccount},
			{method: patch, scopes: admin, reads: true, do: a.patchAccount},
			{method: del, scopes: admin, do: a.deleteAccount},
		}},
		{"/tokens", []*endpoint{
			{method: get, scopes: admin, query: page, do: a.listTokens},
			{method: post, scopes: admin, reads: true, do: a.createToken},
		}},
		{"/tokens/{token}", []*endpoint{
			{method: del, scopes: admin, do: a.deleteToken},
		}},
		{"/resources", []*endpoint{
			{method: get, scopes: read, query: append([]string{"type"}, page...), do: a.listResources},
			{method: put, scopes: publish, reads: true, do: a.putResources},
		}},
		{"/resources/{type}/{id}", []*endpoint{
			{method: get, scopes: read, do: a.readResource},
			{method: put, scopes: publish, reads: true, do: a.putResource},
			{method: del, scopes: publish, do: a.deleteResource},
		}},
		{"/subscriptions", []*endpoint{
			{method: get, scopes: subscribe, query: page, do: a.listSubscriptions},
			{method: post, scopes: subscribe, reads: true, do: a.createSubscription},
		}},
		{"/subscriptions/{subscription}", []*endpoint{
			{method: get, scopes: subscribe, do: a.readSubscription},
			{method: put, scopes: subscribe, reads: true, do: a.replaceSubscription},
			{method: patch, scopes: subscribe, reads: true, do: a.patchSubscription},
			{method: del, scopes: subscribe, do: a.deleteSubscription},
		}},
		{"/subscriptions/{subscription}/enable", []*endpoint{{method: post, scopes: subscribe, do: a.enableSubscription}}},
		{"/subscriptions/{subscription}/pause", []*endpoint{{method: post, scopes: subscribe, do: a.pauseSubscription}}},
		{"/subscriptions/{subscription}/confirmation", []*endpoint{
			{method: post, anonymous: true, query: []string{signatureName}, reads: true, do: a.confirmSubscription},
		}},
		{"/subscriptions/{subscription}/permission", []*endpoint{
			{method: get, anonymous: true, query: []string{signatureName}, do: a.permitSubscription},
			{method: post, anonymous: true, query: []string{signatureName}, reads: true, do: a.permitSubscription},
		}},
		{"/subscriptions/{subscription}/validation", []*endpoint{{method: post, scopes: subscribe, do: a.requestValidation}}},
		{"/subscriptions/{subscription}/secret", []*endpoint{{method: post, scopes: subscribe, do: a.rotateSecret}}},
		{"/subscriptions/{subscription}/ping", []*endpoint{{method: post, scopes: subscribe, do: a.pingSubscription}}},
		{"/subscriptions/{subscription}/status", []*endpoint{{method: get, scopes: subscribe, do: a.readStatus}}},
		{"/subscriptions/{subscription}/retry", []*endpoint{
			{method: post, scopes: subscribe, query: deadMembers(), reads: true, do: a.retrySubscription},
		}},
		{"/subscriptions/{subscription}/replay", []*endpoint{
			{method: post, scopes: subscribe, query: replayMembers(), reads: true, do: a.replaySubscription},
		}},
		{"/subscriptions/{subscription}/replays", []*endpoint{{method: get, scopes: subscribe, query: page, do: a.listReplays}}},
		{"/subscriptions/{subscription}/replays/{replay}", []*endpoint{
			{method: get, scopes: subscribe, do: a.readReplay},
			{method: del, scopes: subscribe, do: a.cancelReplay},
		}},
		{"/implementations", []*endpoint{
			{method: get, scopes: readDevices, query: page, do: a.listImplementations},
			{method: post, scopes: send, reads: true, do: a.createImplementation},
		}},
		{"/implementations/{implementation}", []*endpoint{
			{method: get, scopes: readDevices, do: a.readImplementation},
			{method: patch, scopes: send, reads: true, do: a.patchImplementation},
			{method: del, scopes: send, do: a.deleteImplementation},
		}},
		{"/messages", []*endpoint{{method: post, scopes: send, reads: true, do: a.sendMessage}}},
		{"/messages/multicast", []*endpoint{{method: post, scopes: send, reads: true, do: a.sendMulticast}}},
		// What stands after messages is the type of a device where one is registered, and the tracking id of a message where one is read.
		{"/messages/{message}", []*endpoint{
			{method: get, scopes: send, query: page, do: a.readMessage},
			{method: post, scopes: devices, reads: true, do: a.registerDevice},
		}},
		{"/contacts/{contact}", []*endpoint{{method: del, scopes: devices, do: a.deleteContact}}},
		{"/contacts/{contact}/devices", []*endpoint{
			{method: get, scopes: readDevices, query: append([]string{"implementationId"}, page...), do: a.listDevices},
		}},
		{"/devices/{device}", []*endpoint{
			{method: get, scopes: readDevices, do: a.readDevice},
			{method: del, scopes: devices, do: a.deleteDevice},
		}},
		{"/admin/backup", []*endpoint{{method: get, scopes: admin, do: a.readBackup}}},
		{"/certificates/default", []*endpoint{{method: get, open: true, do: a.readCertificates}}},
		{"/openapi.json", []*endpoint{{method: get, open: true, do: a.readOpenAPI}}},
		{"/events", []*endpoint{
			{method: get, scopes: read, query: page, do: a.listEvents},
			{method: post, scopes: publish, reads: true, publishes: true, do: a.publish},
		}},
		{"/events/{event}", []*endpoint{{method: get, scopes: read, do: a.readEvent}}},
		{"/deliveries", []*endpoint{
			{method: get, scopes: subscribe, query: append([]string{"subscription", "state", "reason", "since", "event"}, page...), do: a.listDeliveries},
		}},
		{"/deliveries/{delivery}", []*endpoint{{method: get, scopes: subscribe, do: a.readDelivery}}},
		{"/deliveries/{delivery}/retry", []*endpoint{{method: post, scopes: subscribe, do: a.retryDelivery}}},
	}
}

// mux makes a router of the routes. Methods are chosen by methods, because the router of the standard
// library would answer a wrong one in plain text.
func (a *API) mux(routes []route) *http.ServeMux {
	m := http.NewServeMux()
	for _, r := range routes {
		h := &methods{}
		for _, e := range r.endpoints {
			e.metrics = a.metrics.of(r.pattern, e.method)
			h.endpoints = append(h.endpoints, e)
			h.allow = append(h.allow, e.method)
			if e.method == http.MethodGet {
				h.allow = append(h.allow, http.MethodHead)
			}
		}
		h.allow = append(h.allow, http.MethodOptions)
		slices.Sort(h.allow)
		m.Handle(r.pattern, h)
	}
	m.Handle("/", &methods{})
	return m
}

// methods chooses the endpoint of a path; without endpoints it is the path that does not exist.
type methods struct {
	endpoints []*endpoint
	allow     []string
}

// ServeHTTP implements http.Handler; the writer is the call.
func (m *methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := w.(*call)
	if !ok {
		panic("a route was called without its call")
	}
	c.r = r
	if len(m.endpoints) == 0 {
		c.fail(newProblem(notFound, "there is no such path; see the documentation for those that are"))
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, e := range m.endpoints {
		if e.method == method {
			c.endpoint = e
			if err := c.run(); err != nil {
				c.fail(err)
			}
			return
		}
	}
	allow := strings.Join(m.allow, ", ")
	if method == http.MethodOptions {
		c.Header().Set("Allow", allow)
		c.WriteHeader(http.StatusNoContent)
		return
	}
	c.fail(newProblem(methodNotAllowed, "%s is not possible here; possible are %s", show(clip(r.Method, 32)), allow).with("Allow", allow))
}

// call is one request on its way through the API. Calls are reused, with their buffers.
type call struct {
	http.ResponseWriter
	api      *API
	r        *http.Request
	endpoint *endpoint
	settings *Settings
	socket   bool
	status   int // 0 while nothing was answered
	problem  *problem

	token   store.Token
	account store.Account // the one acted for

	body    bytes.Buffer
	meter   meter // of what body holds
	decoder *jsontext.Decoder
	out     []byte
	digest  hash.Hash
	lanes   []store.SubscriptionID
}

func newCall(a *API) *call {
	return &call{api: a, meter: meter{sum: &a.held}, decoder: new(jsontext.Decoder), digest: sha256.New()}
}

// maxKept bounds the buffers a call may keep for the next one.
const maxKept = 256 << 10

func (c *call) reset() {
	c.ResponseWriter, c.r, c.endpoint, c.settings, c.problem = nil, nil, nil, nil, nil
	c.socket, c.status = false, 0
	c.token, c.account = store.Token{}, store.Account{}
	if c.body.Cap() > maxKept {
		c.body = bytes.Buffer{}
	}
	if cap(c.out) > maxKept {
		c.out = nil
	}
	if cap(c.lanes) > maxKept/16 {
		c.lanes = nil
	}
	c.body.Reset()
	c.decoder.Reset(&c.body)
}

// Unwrap lets http.ResponseController find what is below.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c *call) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *call) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c.ResponseWriter.Write(b) //nolint:gosec // what repeats a request is JSON and declared as such, never HTML
}

// route is the pattern of the request, for logs and metrics.
func (c *call) route() string {
	if c.endpoint == nil {
		return "none"
	}
	return c.r.Pattern
}

// serve answers one request.
func (a *API) serve(w http.ResponseWriter, r *http.Request, mux *http.ServeMux, socket bool) {
	start := time.Now()
	a.metrics.inFlight.Inc()
	c, _ := a.calls.Get().(*call)
	c.ResponseWriter, c.r, c.socket, c.settings = w, r, socket, a.settings.Load()
	whole := false // a call that panicked is not used again
	defer func() {
		c.meter.release()
		if whole {
			c.reset()
			a.calls.Put(c)
		}
	}()
	defer a.finish(c, start)
	// The handlers see a problem instead of the redirects and texts of the standard router.
	if path := r.URL.EscapedPath(); r.RequestURI == "*" || !strings.HasPrefix(path, "/") || unclean(path) {
		c.fail(newProblem(notFound, "there is no such path; paths begin with one '/' and have no empty or dotted part"))
	} else {
		mux.ServeHTTP(c, r)
	}
	whole = true
}

// unclean says whether the standard router would redirect the path to a shorter form.
func unclean(path string) bool {
	return strings.Contains(path, "//") || strings.Contains(path, "/./") || strings.Contains(path, "/../") ||
		strings.HasSuffix(path, "/.") || strings.HasSuffix(path, "/..")
}

// finish turns a panic into an answer and counts the request.
func (a *API) finish(c *call, start time.Time) {
	defer a.metrics.inFlight.Dec()
	v := recover()
	abort := isAbort(v)
	if v != nil && !abort {
		a.logger.ErrorContext(c.r.Context(), "a request panicked", "route", c.route(), "panic", v, "stack", string(debug.Stack()))
		if c.status == 0 {
			c.fail(newProblem(internal, "the daemon made a mistake; the operator finds it in the log"))
		} else {
			abort = true
		}
	}
	m := a.metrics.stray
	if c.endpoint != nil {
		m = c.endpoint.metrics
		if c.problem != nil && c.endpoint.publishes {
			a.countRefusal(c.problem)
		}
	}
	m.observe(c.status, time.Since(start).Seconds())
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// isAbort says whether a panic is the wish to break the connection.
func isAbort(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// countRefusal counts a publication that was refused for what it holds or for want of room. Refusals
// of access are not among them: they say nothing of events.
func (a *API) countRefusal(p *problem) {
	reason := p.reason
	if reason == "" {
		switch p.kind {
		case badRequest, unsupportedMedia:
			reason = reasonInvalid
		case tooLarge:
			reason = reasonTooLarge
		case conflict:
			reason = reasonConflict
		case unavailable, internal:
			reason = reasonError
		default:
			return
		}
	}
	a.metrics.refused.WithLabelValues(reason).Inc()
}

// run is what every endpoint has in common.
func (c *call) run() error {
	e := c.endpoint
	if !e.open {
		if err := c.api.ready(); err != nil {
			return notServing(err)
		}
		if !e.anonymous {
			if p := c.admit(); p != nil {
				return p
			}
		}
	}
	if c.r.URL.RawQuery != "" && !e.anyQuery {
		if err := c.checkQuery(); err != nil {
			return err
		}
	}
	if !e.reads && !e.open && e.method == http.MethodPost {
		if err := c.refuseBody(); err != nil {
			return err
		}
	}
	return e.do(c)
}

// answer writes a value as JSON.
func (c *call) answer(status int, v any) error {
	// What users wrote in JSON is shown as they wrote it.
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.PreserveRawStrings(true))
	if err != nil {
		return err
	}
	c.raw(status, b)
	return nil
}

// raw writes JSON that is complete.
func (c *call) raw(status int, b []byte) {
	h := c.Header()
	h["Content-Type"] = jsonType
	h["Cache-Control"] = noStore
	c.WriteHeader(status)
	_, _ = c.Write(b) // a client that has gone cannot be told
}

// empty answers 204.
func (c *call) empty() error {
	c.WriteHeader(http.StatusNoContent)
	return nil
}

// Header values that are the same in every answer, shared to spare an allocation each. Nothing
// appends to them: a header is replaced, never extended, in this package.
var (
	jsonType    = []string{"application/json"}
	problemType = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
)
