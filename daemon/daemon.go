// Package daemon is the composition root: it builds Herald from a configuration, serves, reloads and
// drains, and owns every goroutine that lives as long as the process.
//
// It promises an order. Starting: the files are locked and opened, the addresses bound, and only then is
// anything served. Stopping: not ready, no new requests, no new attempts, those under way are given
// their time, everything is settled and synced, the files are closed. A crash at any moment is safe;
// the order only spares receivers repeats.
package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/daemon/api"
	"herald/daemon/config"
	"herald/daemon/dispatch"
	"herald/daemon/egress"
	"herald/daemon/handshake"
	"herald/daemon/identity"
	"herald/daemon/notification"
	"herald/daemon/sender/webhook"
	"herald/queue"
	"herald/queue/boltqueue"
	"herald/store"
	"herald/store/boltstore"
)

// Options are what a daemon is built from.
type Options struct {
	// Config is required and must not change afterwards.
	Config *config.Config
	// Environ is the environment for the defaults of paths, as os.Environ returns it.
	Environ []string
	// Version is told to receivers and in the metrics.
	Version string
	// Logger gets the daemon's log; nil discards it.
	Logger *slog.Logger
	// Level is the level of Logger, changed by a reload; may be nil.
	Level *slog.LevelVar
	// Announce gets the few lines meant for the person who starts Herald: the addresses and, at the
	// first start, the admin token. Nil where nobody alone reads them: then no token is made.
	Announce io.Writer
	// Listeners are where the API is served, bound by whoever hands them over; Run closes them. Without any
	// New binds listen.address.
	Listeners []net.Listener
	// Notify tells the service manager what becomes of the daemon, in the words of sd_notify(3); may be nil.
	Notify func(state string) error
	// Watchdog is how long the service manager waits for a sign of life; 0 when it wants none.
	Watchdog time.Duration
}

// Daemon is one running Herald.
type Daemon struct {
	o      Options
	logger *slog.Logger

	metrics    *metrics
	store      *boltstore.Store
	queue      *boltqueue.Queue
	identity   *identity.Identity
	notifier   *notification.Notifier
	dispatcher *dispatch.Dispatcher
	handshake  *handshake.Handshake
	api        *api.API
	// certificate is the TLS of the TCP addresses; nil without.
	certificate *certificate
	closers     []func() error // undone last in, first out

	addr      net.Addr
	adminAddr net.Addr
	servers   []server
	phase     atomic.Int32

	reload sync.Mutex
	config *config.Config // guarded by reload
}

// server is an HTTP server with the listener it will serve.
type server struct {
	name     string
	http     *http.Server
	listener net.Listener
	owed     *owed         // of a listener that is handed over, else nil
	ended    chan struct{} // closed when nothing is accepted any more
}

// The phases of a daemon's life, for readiness.
const (
	starting int32 = iota
	serving
	draining
)

// New opens the files, binds the addresses and builds everything; it serves nothing yet. Run has to
// follow, or Close. An *ExitError says that starting again without a change is no use.
func New(ctx context.Context, o Options) (_ *Daemon, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{o: o, logger: o.Logger, config: o.Config}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	registry := prometheus.NewRegistry()
	if d.metrics, err = newMetrics(registry, o.Version, o.Config.DataDir); err != nil {
		return nil, err
	}
	if err := d.openFiles(ctx, registry); err != nil {
		return nil, err
	}
	if err := d.openIdentity(registry); err != nil {
		return nil, err
	}
	if err := d.build(registry); err != nil {
		return nil, err
	}
	if files := o.Config.Listen.TLS; files.Cert != "" {
		if d.certificate, err = openCertificate(files, d.logger.With("part", "tls"), registry); err != nil {
			return nil, err
		}
	}
	if err := d.listen(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

func retention(c *config.Config) queue.Retention {
	return queue.Retention{
		Events: c.Retention.Events, Attempts: c.Retention.Attempts, Dead: c.Retention.Dead, MaxBytes: int64(c.Retention.MaxBytes),
	}
}

// build makes the parts above the files and ties them together.
func (d *Daemon) build(registry *prometheus.Registry) error {
	c := d.o.Config
	share := connections(c.Delivery.Workers, descriptors())
	workers := share.attempts
	if workers < c.Delivery.Workers {
		d.logger.Warn("fewer attempts at once than configured, because of the limit of open files",
			"workers", workers, "configured", c.Delivery.Workers, "open_files", descriptors())
	}
	way, err := egress.New(egress.Options{
		AllowNetworks: c.Egress.AllowNetworks, DenyNetworks: c.Egress.DenyNetworks, HTTPSOnly: c.Egress.HTTPSOnly,
		Proxy: c.Egress.Proxy.Reveal(), CAFile: c.Egress.CAFile,
		MaxIdleConns: share.kept, MaxIdleConnsPerHost: share.kept,
	})
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	transport := way.Transport()
	d.closers = append(d.closers, func() error { transport.CloseIdleConnections(); return nil })
	sender, err := webhook.New(webhook.Options{
		Transport: transport, UserAgent: "Herald/" + d.o.Version, Logger: d.logger.With("part", "webhook"),
		Certified: certifiedTransport(way, share), Identity: d.identity.Credential,
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() error { sender.CloseIdleConnections(); return nil })
	if err := d.buildNotifier(way, sender, registry); err != nil {
		return err
	}
	policy, err := deliveryPolicy(c)
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	d.dispatcher, err = dispatch.New(dispatch.Options{
		Queue: d.queue, Store: d.store, Sender: d.notifier, Workers: workers, Defaults: policy,
		Publish: d.publishOperational, Settling: d.notifier.Settling, Describe: d.notifier.Describe,
		Grace: c.ShutdownTimeout, Logger: d.logger.With("part", "dispatch"), Registerer: registry,
	})
	if err != nil {
		return err
	}
	d.handshake, err = handshake.New(handshake.Options{
		Store: d.store, Sender: sender, Settings: handshakeSettings(c), ConfirmationURL: d.confirmationURL,
		Origin: d.origin,
		Grant: func(ctx context.Context, asked *store.Subscription, origin string, rate int) error {
			return d.api.Grant(ctx, asked, origin, rate)
		},
		Logger: d.logger.With("part", "handshake"), Registerer: registry,
	})
	if err != nil {
		return err
	}
	settings, err := apiSettings(c)
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	d.api, err = api.New(api.Options{
		Store: d.store, Queue: nudging{d.queue, d.dispatcher.Nudge, d.dispatcher.Replayed}, Settings: settings, Version: d.o.Version,
		CheckURL: way.CheckURL, Certificates: d.identity.Chain, Origin: d.origin,
		Changed: func(id store.SubscriptionID) {
			d.dispatcher.Changed(queue.Lane(id))
			d.handshake.Changed(id)
		},
		Operational: func(_ context.Context, s *store.Subscription, eventType string) {
			d.dispatcher.Announce(s.ID, eventType)
		},
		Notifier: messages{d.notifier}, Subject: d.subject, Backup: d.backup,
		Status:     d.laneStatus,
		Ready:      d.ready,
		Logger:     d.logger.With("part", "api"),
		Registerer: registry, Gatherer: registry,
	})
	return err
}

// deliveryPolicy is the policy of subscriptions that do not set their own.
func deliveryPolicy(c *config.Config) (dispatch.Defaults, error) {
	schedule, err := queue.ParseSchedule(c.Delivery.RetrySchedule.String())
	if err != nil {
		return dispatch.Defaults{}, fmt.Errorf("delivery.retry_schedule: %w", err)
	}
	return dispatch.Defaults{
		Timeout: c.Delivery.Timeout, Schedule: schedule, Jitter: c.Delivery.Jitter, MaxConcurrency: c.Delivery.MaxConcurrency,
		RateLimit: c.Delivery.RateLimit, Ordering: store.Ordering(c.Delivery.Ordering),
		DisableAfter: store.DisableAfter{Duration: c.Delivery.DisableAfter.Duration, Failures: c.Delivery.DisableAfter.Failures},
		OnDisabled:   store.OnDisabled(c.Delivery.OnDisabled),
	}, nil
}

// handshakeSettings are those of the attempts to hand over validation records.
func handshakeSettings(c *config.Config) handshake.Settings {
	return handshake.Settings{Timeout: c.Delivery.Timeout, Jitter: c.Delivery.Jitter}
}

// confirmationURL is where a receiver confirms a subscription. It is asked for when the listener has its address.
func (d *Daemon) confirmationURL(s *store.Subscription) string {
	path := "/subscriptions/" + s.ID.String() + "/confirmation"
	if s.ValidationKind == store.ValidationCloudEvents {
		path = "/subscriptions/" + s.ID.String() + "/permission"
	}
	return d.o.Config.ExternalURL(d.addr.String()) + path
}

// origin is the host name under which receivers know this daemon. It is asked for when the listener has its address.
func (d *Daemon) origin() string {
	u, err := url.Parse(d.o.Config.ExternalURL(d.addr.String()))
	if err != nil { // the configuration was checked for it
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// laneStatus is what the dispatcher knows of a subscription, in the words of the API.
func (d *Daemon) laneStatus(id store.SubscriptionID) (api.LaneStatus, bool) {
	s := d.dispatcher.Status(queue.Lane(id))
	return api.LaneStatus{
		Breaker: string(s.Breaker), Since: s.Since, Failures: s.Failures, FailingSince: s.FailingSince, ProbeAt: s.ProbeAt,
		InFlight: s.InFlight, Window: s.Window, Max: s.Max, RestUntil: s.RestUntil, CatchingUp: s.CatchingUp,
		Warned: s.Warned, BatchLimit: s.BatchLimit,
	}, s.Known
}

// apiSettings are the limits of the API.
func apiSettings(c *config.Config) (api.Settings, error) {
	token, err := c.ResolveAdminToken()
	if err != nil {
		return api.Settings{}, err
	}
	s := api.Settings{
		BodyBytes: int64(c.Limits.BodyBytes), PayloadBytes: int64(c.Limits.PayloadBytes), RatePerToken: c.Limits.RatePerToken,
		SendAhead: sendAhead(c.Retention.Events), FCMTokenOrigin: c.Providers.FCM.URL,
		MaxSubscriptionsPerAccount: c.Subscriptions.MaxPerAccount, ValidationRequired: c.Subscriptions.Validation == "required", AdminMoved: c.Admin.Address != "",
		Policy: store.DeliveryPolicy{
			MaxConcurrency: c.Delivery.MaxConcurrency, OnDisabled: store.OnDisabled(c.Delivery.OnDisabled),
			DisableAfter: store.DisableAfter{Set: true, Duration: c.Delivery.DisableAfter.Duration, Failures: c.Delivery.DisableAfter.Failures},
		},
	}
	if token != "" {
		s.AdminToken = sha256.Sum256([]byte(token.Reveal()))
	}
	return s, nil
}

// filesReserved is how many open files are left to the API, the data files and the rest.
const filesReserved = 32

// keptConnections is how many connections are kept idle at most, when neither files nor workers say otherwise. A receiver that
// is pushed to now and then needs one, whether anything is under way to it or not: without it each push costs it and the
// daemon a TLS handshake. A kept one takes some 60 KiB of memory, until it has not been used for the idle time of egress.
const keptConnections = 4096

// connectionShare says how many connections there may be.
type connectionShare struct {
	attempts  int // under way at once
	kept      int // idle, without a client certificate
	own       int // idle, with Herald's own
	certified int // idle, with any other: for each certificate
}

// connections divides the files the process may open (0: no limit is known). Attempts under way take at most half of
// what is not reserved and kept connections the other half: a quarter those without a client certificate, an eighth those
// with Herald's own, an eighth those with all others. Without want of files as many are kept with each as can be under
// way, at the least: one that is not costs the next push a new one.
func connections(workers, files int) connectionShare {
	most := max(workers, keptConnections)
	if files <= 0 {
		return connectionShare{workers, most, most, workers}
	}
	room := max(files-filesReserved, 8)
	return connectionShare{
		attempts:  min(workers, room/2),
		kept:      min(most, room/4),
		own:       min(most, room/8),
		certified: min(workers, max(room/8/webhook.MaxCertificates, 1)),
	}
}
