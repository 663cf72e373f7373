// Package api is Herald's HTTP interface: routes, access, decoding, and one file for each resource.
//
// It promises that every failure, whoever finds it, is answered as application/problem+json with
// words for people and without anything of the program's inside; that a body is taken whole or
// refused with all its faults named; that the bodies of all requests together hold a bounded part of
// the memory; that a list of any length is streamed from pages of the store and never held in memory;
// and that a 2xx to POST /events means that the events are synced to disk.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"herald/queue"
	"herald/store"
)

// Options are what an API is built from.
type Options struct {
	// Store and Queue are the engines; required. The queue has to run while requests are served.
	Store store.Store
	Queue queue.Queue
	// Settings are the limits; Configure changes them later.
	Settings Settings
	// Version is told by GET /healthz and GET /openapi.json; "" leaves it out.
	Version string
	// CheckURL judges the URL of a callback by the policy for outgoing calls. Its error is shown to the
	// caller and therefore written for people. It must be quick: it resolves no names. Nil allows all.
	CheckURL func(*url.URL) error
	// Changed is called after a subscription was changed or deleted durably, before the answer. It
	// must not block. Nil is allowed.
	Changed func(store.SubscriptionID)
	// Operational publishes an operational event about a subscription of the account's own, as it is now, to whoever
	// subscribes to such events; it is called after the change is durable and before the answer. What
	// fails is its own to log. Nil publishes nothing.
	Operational func(ctx context.Context, s *store.Subscription, eventType string)
	// Status tells how pushes to a subscription go, and false when nothing is known of it because none has
	// been under way. It must be quick. Nil knows nothing.
	Status func(store.SubscriptionID) (LaneStatus, bool)
	// Notifier sends messages to devices; without one, POST /messages answers 503.
	Notifier Notifier
	// Subject is what VAPID tokens name where an implementation names nothing (RFC 8292, section 2.1): a mailto: or https: URI under
	// which push services reach the operator. It must be quick. Nil, or "", has implementations name their own.
	Subject func() string
	// Certificates returns the chain of GET /certificates/default as PEM, which is not changed. It must be quick. Nil
	// makes it empty.
	Certificates func() []byte
	// Backup makes a backup of all there is, which is closed when it is sent; its error is shown to the caller. Nil makes none.
	Backup func(context.Context) (Backup, error)
	// Origin is what Herald calls itself towards receivers that are asked for permission: a host name. It must be quick. Nil makes it
	// empty.
	Origin func() string
	// Ready returns nil while requests are to be served, else the reason why not, for people; every
	// request but health and metrics is then answered with 503. It is asked for each request and must
	// be quick. Nil means always ready.
	Ready func() error
	// Logger gets the API's log; nil discards it.
	Logger *slog.Logger
	// Registerer takes the API's metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Gatherer is what GET /metrics shows; nil shows nothing.
	Gatherer prometheus.Gatherer
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// Settings are the limits of an API, which can be changed while it serves.
type Settings struct {
	// AdminToken is the hash of a fixed admin token that is valid beside those of the store; zero: none.
	AdminToken store.TokenHash
	// BodyBytes bounds the body of a request; 0 means 16 MiB.
	BodyBytes int64
	// PayloadBytes bounds the data of one event; 0 means 1 MiB. It is at most BodyBytes.
	PayloadBytes int64
	// RatePerToken is how many requests per second one access token may make, with bursts of one
	// second's worth; 0 means no limit. The unix socket is not limited.
	RatePerToken float64
	// MaxSubscriptionsPerAccount bounds the subscriptions of an account; 0 means no limit.
	MaxSubscriptionsPerAccount int
	// ValidationRequired has every subscription confirmed by its receiver, also one that names no URL for it.
	ValidationRequired bool
	// Policy is the configured delivery policy of subscriptions that do not set their own. Of it the API
	// needs MaxConcurrency, DisableAfter and OnDisabled; with zero members they are not told, never, and hold.
	Policy store.DeliveryPolicy
	// FCMTokenOrigin is the origin (https://host) of a token endpoint that service accounts may name beside Google's; "" for none.
	FCMTokenOrigin string
	// SendAhead is how far ahead a message may be scheduled; 0 means seven days.
	SendAhead time.Duration
	// AdminMoved takes health and metrics off Handler, because AdminHandler is served elsewhere.
	AdminMoved bool
}

const (
	defaultBodyBytes    = 16 << 20
	defaultPayloadBytes = 1 << 20
	defaultSendAhead    = 7 * 24 * time.Hour
)

// complete checks the settings and fills in the defaults.
func (s Settings) complete() (*Settings, error) {
	if s.BodyBytes == 0 {
		s.BodyBytes = defaultBodyBytes
	}
	if s.PayloadBytes == 0 {
		s.PayloadBytes = min(defaultPayloadBytes, s.BodyBytes)
	}
	if s.SendAhead == 0 {
		s.SendAhead = defaultSendAhead
	}
	switch {
	case s.SendAhead < 0:
		return nil, fmt.Errorf("messages scheduled %s ahead is not a limit", s.SendAhead)
	case s.BodyBytes < 0 || s.BodyBytes > math.MaxInt32:
		return nil, fmt.Errorf("a body limit of %d bytes is not between 1 and %d", s.BodyBytes, math.MaxInt32)
	case s.PayloadBytes < 0 || s.PayloadBytes > s.BodyBytes:
		return nil, fmt.Errorf("a payload limit of %d bytes is not between 1 and the body limit of %d", s.PayloadBytes, s.BodyBytes)
	case s.RatePerToken < 0 || math.IsNaN(s.RatePerToken) || math.IsInf(s.RatePerToken, 0):
		return nil, fmt.Errorf("a rate of %g requests per second is not a limit", s.RatePerToken)
	case s.MaxSubscriptionsPerAccount < 0:
		return nil, fmt.Errorf("%d subscriptions per account is not a limit", s.MaxSubscriptionsPerAccount)
	}
	return &s, nil
}

// API answers requests. Its handlers are safe for concurrent use.
type API struct {
	store       store.Store
	queue       queue.Queue
	settings    atomic.Pointer[Settings]
	version     string
	description []byte // in OpenAPI
	checkURL    func(*url.URL) error
	changed     func(store.SubscriptionID)
	operational func(context.Context, *store.Subscription, string)
	status      func(store.SubscriptionID) (LaneStatus, bool)
	ready       func() error
	logger      *slog.Logger
	gatherer    prometheus.Gatherer
	now         func() time.Time
	origin      func() string
	notifier    Notifier
	subject     func() string

	backup    func(context.Context) (Backup, error)
	backingUp atomic.Bool // one at a time

	certificates func() []byte
	decoding     chan struct{} // holds a value while a PKCS #12 file is read

	metrics  *metrics
	limiter  limiter
	calls    sync.Pool
	held     atomic.Int64   // bytes of bodies, of all calls
	outage   rate.Sometimes // keeps a broken engine from filling the log
	all      *http.ServeMux // every route
	business *http.ServeMux // without health and metrics
	admin    *http.ServeMux // health and metrics only

	queueHealth, storeHealth inquiry
}

// New checks the options and builds the routes. It starts nothing.
func New(o Options) (*API, error) {
	if o.Store == nil || o.Queue == nil {
		return nil, errors.New("an API needs a Store and a Queue")
	}
	s, err := o.Settings.complete()
	if err != nil {
		return nil, err
	}
	a := &API{
		store: o.Store, queue: o.Queue, version: o.Version, description: describe(o.Version),
		checkURL: o.CheckURL, changed: o.Changed, operational: o.Operational, status: o.Status, ready: o.Ready,
		logger: o.Logger, gatherer: o.Gatherer, now: o.Now,
		certificates: o.Certificates, decoding: make(chan struct{}, 1), origin: o.Origin, notifier: o.Notifier, subject: o.Subject, backup: o.Backup,
		outage: rate.Sometimes{Interval: time.Second},
	}
	a.settings.Store(s)
	if a.checkURL == nil {
		a.checkURL = func(*url.URL) error { return nil }
	}
	if a.changed == nil {
		a.changed = func(store.SubscriptionID) {}
	}
	if a.operational == nil {
		a.operational = func(context.Context, *store.Subscription, string) {}
	}
	if a.status == nil {
		a.status = func(store.SubscriptionID) (LaneStatus, bool) { return LaneStatus{}, false }
	}
	if a.origin == nil {
		a.origin = func() string { return "" }
	}
	if a.notifier == nil {
		a.notifier = noNotifier{}
	}
	if a.subject == nil {
		a.subject = func() string { return "" }
	}
	if a.backup == nil {
		a.backup = noBackup
	}
	if a.certificates == nil {
		a.certificates = func() []byte { return nil }
	}
	if a.ready == nil {
		a.ready = func() error { return nil }
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.gatherer == nil {
		a.gatherer = prometheus.NewRegistry()
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.calls.New = func() any { return newCall(a) }
	if a.metrics, err = newMetrics(o.Registerer, a.unready); err != nil {
		return nil, err
	}
	a.limiter.entries = make(map[store.TokenHash]*limit)
	business, admin := append(a.routes(), a.oldRoutes()...), a.adminRoutes()
	a.business = a.mux(business)
	a.admin = a.mux(admin)
	a.all = a.mux(append(business, admin...))
	return a, nil
}

// Configure changes the settings for the requests that come after it.
func (a *API) Configure(s Settings) error {
	c, err := s.complete()
	if err != nil {
		return err
	}
	a.settings.Store(c)
	return nil
}

// Handler serves the API, with health and metrics unless Settings.AdminMoved.
func (a *API) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.settings.Load().AdminMoved {
			a.serve(w, r, a.business, false)
		} else {
			a.serve(w, r, a.all, false)
		}
	})
}

// SocketHandler serves all of it with admin rights and without a token, for a listener that has
// checked who is at the other end. Without a Herald-Account header it acts for the default account.
func (a *API) SocketHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, a.all, true) })
}

// AdminHandler serves health and metrics and nothing else.
func (a *API) AdminHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, a.admin, false) })
}
