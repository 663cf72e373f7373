package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"herald/daemon/api"
	"herald/store"
)

// listen binds every address, so that a taken port is found before anything is promised.
func (d *Daemon) listen(ctx context.Context) error {
	c := d.o.Config
	listeners := d.o.Listeners
	if len(listeners) == 0 {
		l, err := listenTCP(ctx, c.Listen.Address)
		if err != nil {
			return err
		}
		listeners = []net.Listener{l}
	} else if bound := listeners[0].Addr().String(); bound != c.Listen.Address {
		d.logger.Warn("listen.address is not used: the service manager hands over another socket",
			"configured", c.Listen.Address, "address", bound)
	}
	d.addr = listeners[0].Addr()
	for _, l := range listeners {
		d.serve("api", d.secured(l), d.api.Handler())
		if len(d.o.Listeners) > 0 {
			s := &d.servers[len(d.servers)-1]
			s.owed = &owed{conns: map[net.Conn]struct{}{}}
			s.http.ConnState = s.owed.note
		}
	}
	socket, err := listenSocket(ctx, c.SocketPath(d.o.Environ), d.logger)
	if err != nil {
		return err
	}
	d.serve("socket", socket, d.api.SocketHandler())
	if c.Admin.Address == "" {
		return nil
	}
	a, err := listenTCP(ctx, c.Admin.Address)
	if err != nil {
		return err
	}
	d.adminAddr = a.Addr()
	profiling, end := context.WithCancel(context.Background())
	d.serve("admin", d.secured(a), adminHandler(profiling, d.api))
	// A profile takes as long as who asks for it wants, and none keeps the daemon from stopping. There are no bodies to wait for here.
	s := d.servers[len(d.servers)-1].http
	s.ReadTimeout, s.WriteTimeout = 0, 0
	s.RegisterOnShutdown(end)
	return nil
}

// secured puts TLS on a listener when it is configured.
func (d *Daemon) secured(l net.Listener) net.Listener {
	if d.certificate == nil {
		return l
	}
	return d.certificate.listener(l)
}

// serve registers a server; Run starts it.
func (d *Daemon) serve(name string, l net.Listener, h http.Handler) {
	d.servers = append(d.servers, server{name: name, http: NewServer(h, d.logger), listener: l, ended: make(chan struct{})})
	d.closers = append(d.closers, func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// adminHandler adds the profiles of the Go runtime to metrics and health. Those under way end with the context.
func adminHandler(profiling context.Context, a *api.API) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", a.AdminHandler())
	for path, profile := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
		"block": contended("block", runtime.SetBlockProfileRate, int(10*time.Microsecond)),
		"mutex": contended("mutex", func(rate int) { runtime.SetMutexProfileFraction(rate) }, 10),
	} {
		mux.HandleFunc("GET /debug/pprof/"+path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(profiling, cancel)()
			profile(w, r.WithContext(ctx))
		})
	}
	return mux
}

// contended is a profile of waiting, which the runtime takes only while it is asked to, because it costs every lock: for as long
// as ?seconds= says, at the rate given.
func contended(name string, set func(rate int), rate int) http.HandlerFunc {
	var mu sync.Mutex
	users := 0
	use := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		if users += n; users == 0 {
			set(0)
		} else {
			set(rate)
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		use(1)
		defer use(-1)
		pprof.Handler(name).ServeHTTP(w, r)
	}
}

// Addr returns the address the API listens on, the first when it was handed several.
func (d *Daemon) Addr() net.Addr { return d.addr }

// addresses are all that the API listens on, for people.
func (d *Daemon) addresses() string {
	var list []string
	for _, s := range d.servers {
		if s.name == "api" {
			list = append(list, s.listener.Addr().String())
		}
	}
	return strings.Join(list, ", ")
}

// ready says why the daemon is not ready, or nil. The API adds what store and queue have to say.
func (d *Daemon) ready() error {
	switch d.phase.Load() {
	case starting:
		return errors.New("starting")
	case draining:
		return errors.New("shutting down")
	}
	return nil
}

// Run serves until the context ends and then drains: not ready, no new requests, no new attempts, those
// under way are given the configured time, what happened is settled and synced, the files are closed. It
// returns nil after a clean stop. An error means that something failed for good, such as a commit;
// what was acknowledged is safe, and a new start goes on from there. Run is called once.
func (d *Daemon) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.Close()) }()

	// Each part has a context of its own, ended in the order of the drain, and reports its end here.
	failed := make(chan error, 8+len(d.servers))
	engines := newPart(failed)
	engines.start("store", d.store.Run)
	engines.start("queue", d.queue.Run)
	engines.start("identity", d.identity.Run)
	if d.certificate != nil {
		engines.start("certificate", d.certificate.run)
	}
	watchdog := newPart(failed)
	dispatcher := newPart(failed)
	servers := newPart(failed)
	stopServers := func() {}

	err = d.prepare(ctx)
	if err == nil {
		d.phase.Store(serving) // before the first request is taken
		dispatcher.start("dispatcher", d.dispatcher.Run)
		dispatcher.start("handshake", d.handshake.Run)
		dispatcher.start("notification", d.notifier.Run)
		for _, s := range d.servers {
			servers.start(s.name, func(context.Context) error {
				defer close(s.ended)
				if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
					return fmt.Errorf("serve %s: %w", s.name, err)
				}
				return nil
			})
		}
		stopServers = d.shutdownServers
		d.announce()
		d.notifyReady("")
		if d.o.Watchdog > 0 {
			watchdog.start("watchdog", d.watch)
		}
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}

	if err == nil {
		d.logger.Info("shutting down")
	}
	d.notifyStopping()
	if d.phase.Load() == serving && err == nil {
		d.handBack()
	}
	d.phase.Store(draining)
	stopServers()
	servers.stop()
	dispatcher.stop()
	watchdog.stop()
	engines.stop()
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	if err == nil {
		d.logger.Info("stopped")
	}
	return err
}

// shutdownServers stops accepting connections and lets requests under way finish. The limit is the
// same as for attempts; what takes longer was not acknowledged and is cut off.
func (d *Daemon) shutdownServers() {
	ctx, cancel := context.WithTimeout(context.Background(), d.shutdownTimeout())
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range d.servers {
		wg.Go(func() {
			if err := s.http.Shutdown(ctx); err != nil {
				_ = s.http.Close()
				d.logger.Warn("requests cut off by the shutdown", "server", s.name)
			}
		})
	}
	wg.Wait()
}

func (d *Daemon) shutdownTimeout() time.Duration {
	d.reload.Lock()
	defer d.reload.Unlock()
	return d.config.ShutdownTimeout
}

// Close releases what New took, last in, first out. Run does it by itself.
func (d *Daemon) Close() error {
	var errs []error
	for len(d.closers) > 0 {
		last := len(d.closers) - 1
		errs = append(errs, d.closers[last]())
		d.closers = d.closers[:last]
	}
	return errors.Join(errs...)
}

// part is a group of goroutines that are stopped and waited for together.
type part struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan<- error
}

func newPart(failed chan<- error) *part {
	p := &part{failed: failed}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// start runs f until the part is stopped; an error of f is reported.
func (p *part) start(name string, f func(context.Context) error) {
	p.wg.Go(func() {
		if err := f(p.ctx); err != nil {
			p.failed <- fmt.Errorf("%s: %w", name, err)
		}
	})
}

func (p *part) stop() {
	p.cancel()
	p.wg.Wait()
}

// prepare does what needs the engines running but comes before the first request and attempt.
func (d *Daemon) prepare(ctx context.Context) error {
	<-d.queue.Started() // its Run has been started
	err := d.dropOrphans(ctx)
	if err == nil {
		err = d.firstToken(ctx)
	}
	return openError(d.o.Config.DataDir, err)
}

// dropOrphans repeats the second half of deleting a subscription for those whose deletion a crash cut
// in two: the store forgot them, the queue did not. The queue's own lanes are the list to go by.
func (d *Daemon) dropOrphans(ctx context.Context) error {
	lanes, err := d.queue.Lanes(ctx)
	if err != nil {
		return fmt.Errorf("list lanes: %w", err)
	}
	for _, lane := range lanes {
		_, err := d.store.Subscription(ctx, store.SubscriptionID(lane))
		if err == nil {
			continue
		}
		if !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("read subscription: %w", err)
		}
		if err := d.queue.DropLane(ctx, lane); err != nil {
			return fmt.Errorf("drop the lane of a deleted subscription: %w", err)
		}
		d.logger.Info("deliveries of a deleted subscription dropped", "subscription", store.SubscriptionID(lane).String())
	}
	return nil
}

// firstToken mints an admin token when nobody could get in otherwise: there is no token at all and none
// is configured. It is shown once, to the person who starts Herald, and never logged; where it would be, none is made.
func (d *Daemon) firstToken(ctx context.Context) error {
	fixed, err := d.o.Config.ResolveAdminToken()
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	if fixed != "" {
		return nil
	}
	tokens, err := d.store.Tokens(ctx, "", "", 1)
	if err != nil {
		return fmt.Errorf("look for tokens: %w", err)
	}
	if len(tokens) > 0 {
		return nil
	}
	if d.o.Announce == nil {
		d.logger.Warn("there is no access token yet; root makes one on this machine",
			"command", "herald token create --name first --scope admin")
		return nil
	}
	id, secret := api.NewToken()
	err = d.store.CreateToken(ctx, store.Token{
		ID: id, AccountID: store.DefaultAccount, Name: "first start", Scopes: []store.Scope{store.ScopeAdmin},
		Hash: sha256.Sum256([]byte(secret)), CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
	})
	if err != nil {
		return fmt.Errorf("store the admin token: %w", err)
	}
	_, err = fmt.Fprintf(d.o.Announce, `
First start: this admin token is shown once and stored only as a hash. Keep it.

    %s

`, secret)
	return err
}

func (d *Daemon) announce() {
	c := d.o.Config
	attrs := []any{"version", d.o.Version, "address", d.addresses(), "socket", c.SocketPath(d.o.Environ), "data_dir", c.DataDir}
	if d.adminAddr != nil {
		attrs = append(attrs, "admin_address", d.adminAddr.String())
	}
	d.logger.Info("serving", append(attrs, "pid", os.Getpid())...)
}
