package bench

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load returns a run of the generator with the command's shape.
func (c *Command) load(addr, token string, data []byte) *load {
	events := c.Events
	if c.Duration > 0 {
		events = 0
	}
	return &load{
		shape:     requestShape{host: addr, path: "/events", token: token, data: data},
		producers: c.Producers,
		batch:     c.Batch,
		rate:      c.Rate,
		events:    events,
		duration:  c.Duration,
	}
}

// withCeilings tells whether a ratio to the machine's ceilings means anything: only for a daemon that is
// driven as fast as it goes, with all its receivers taking part.
func (c *Command) withCeilings() bool {
	return !c.NoCeilings && c.Rate == 0 && c.Failing == 0 && c.Hanging == 0 && !c.scenario()
}

// run is one benchmark in progress.
type run struct {
	*Command
	dir       string
	data      []byte
	progress  *progress
	rs        *receivers
	providers providers // with --devices
	server    *server
	idPrefix  string    // of the events' ids, if the generator gives them
	ownIDs    string    // the same for a load that is sent again when the daemon is killed; ids cost time, so others do without
	next      int64     // the sequence number of the next event
	aim       *provider // whose devices are notified; nil: events are published, for the receivers

	// Of the stretches of a scenario so far:
	found     Findings
	delivered int64 // events that arrived at a healthy receiver
}

// result is what a benchmark ends with.
type result interface {
	writeTable(w io.Writer) error
	problem() error
}

// measure does everything in order and returns the report.
func (r *run) measure(ctx context.Context) (result, error) {
	r.progress.say("measuring the disk")
	disk, err := probeDisk(ctx, r.dir, probeCount, cmp.Or(r.spacedProbes, probeSpaced))
	if err != nil {
		return nil, err
	}
	shape := receiverShape{latency: r.ReceiverLatency, records: r.Records, data: r.data}
	if r.TLS {
		if shape.tls, err = certify(r.caFile(r.dir)); err != nil {
			return nil, err
		}
		shape.http2 = r.HTTP2
	}
	if r.rs, err = openReceivers(ctx, r.receiverCounts(), shape); err != nil {
		return nil, err
	}
	defer r.rs.close()
	if r.Devices > 0 {
		if r.providers, err = openProviders(r.standInLatency(), r.caFile(r.dir)); err != nil {
			return nil, err
		}
		defer r.providers.close()
	}
	if r.scenario() {
		report := &ScenarioReport{Options: r.options(), Machine: thisMachine(), Disk: disk}
		return report, r.underDaemon(ctx, func(ctx context.Context) error { return r.stage(ctx, report) })
	}

	report := &Report{Options: r.options(), Machine: thisMachine(), Disk: disk}
	bare := ceilings{caFile: r.caFile(r.dir)}
	if r.withCeilings() {
		r.progress.say("measuring the ceilings")
		if err := bare.measure(ctx, r.Command, r.data, r.rs); err != nil {
			return nil, err
		}
	}
	if err := r.underDaemon(ctx, func(ctx context.Context) error { return r.path(ctx, report) }); err != nil {
		return nil, err
	}
	if r.withCeilings() {
		r.progress.say("measuring the ceilings again")
		if err := bare.measure(ctx, r.Command, r.data, r.rs); err != nil {
			return nil, err
		}
		ingest, deliver := bare.rates()
		report.Ceilings = newCeilings(ingest, deliver, len(r.rs.healthy), report.EventsPerSecond)
	}
	return report, nil
}

// underDaemon calls f while a daemon of the run's own works; it has ended when underDaemon returns. When it ends
// unasked, the context of f does, too.
func (r *run) underDaemon(outer context.Context, f func(context.Context) error) (err error) {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	r.progress.say("starting the daemon")
	if r.server, err = startServer(ctx, r.dir, r.Command, r.providers.settings(), cancel); err != nil {
		return err
	}
	defer r.server.stop()
	if err = f(ctx); err == nil {
		return nil
	}
	if outer.Err() != nil {
		// The end of the daemon is then a consequence, or has the same cause: an interrupt from a terminal
		// goes to both.
		return context.Cause(outer)
	}
	return r.server.child.explain(err)
}

// begin subscribes the receivers, warms up, and returns what the daemon held before.
func (r *run) begin(ctx context.Context, events string) (idle usage, err error) {
	for _, rc := range r.rs.all {
		if _, err := r.server.subscribe(ctx, rc, r.wishes(rc.url(), events)); err != nil {
			return idle, err
		}
	}
	if idle, err = usageOf("/proc", r.server.child.cmd.Process.Pid); err != nil {
		return idle, err
	}
	r.ownIDs = "bench-" + strings.ToLower(rand.Text()[:8]) + "-"
	if r.IDs {
		r.idPrefix = r.ownIDs
	}
	if r.WarmUp > 0 {
		err = r.warmUp(ctx)
	}
	return idle, err
}

// wishes are the fields of a subscription to a type of events, or to all without one.
func (r *run) wishes(url, events string) map[string]any {
	m := map[string]any{"dataCallbackURL": url}
	if r.Records > 1 {
		m["numberOfRecords"], m["maxWaitSeconds"] = r.Records, r.MaxWait.Seconds()
	}
	if events != "" {
		m["events"] = []string{events}
	}
	return m
}

// path measures the whole path in one stretch of load.
func (r *run) path(ctx context.Context, report *Report) error {
	before := r.rs.handshakes()
	idle, err := r.begin(ctx, "")
	if err != nil {
		return err
	}
	if r.TLS {
		report.TLS = &Handshakes{WarmUp: r.rs.handshakes().Handshakes - before.Handshakes}
	}
	report.setIdle(idle)
	return r.phase(ctx, report)
}

// warmUp sends events as fast as it goes and waits until they have arrived: connections are open, buffers
// grown, files preallocated.
func (r *run) warmUp(ctx context.Context) error {
	book := newLedger(r.next, r.destinations(), time.Now())
	l := r.newLoad(book)
	l.events, l.rate, l.duration = r.WarmUp, 0, 0
	r.keep(book)
	r.progress.say("warming up")
	if _, err := l.run(ctx); err != nil {
		return err
	}
	if err := r.arrivals(ctx, book, l); err != nil {
		return err
	}
	r.next += l.next.Load()
	if err := book.audit(r.next).problem(); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	return nil
}

// newLoad returns a load whose events are numbered from the next one on.
func (r *run) newLoad(book *ledger) *load {
	l := r.load(r.server.addr, r.server.token, r.data)
	l.shape.idPrefix, l.book, l.base = r.idPrefix, book, r.next
	if r.aim != nil {
		l.compose = r.aim.message(l.shape, r.ownIDs)
	}
	return l
}

// destinations is how many there are of what a load is for.
func (r *run) destinations() int {
	if r.aim != nil {
		return 1
	}
	return len(r.rs.healthy)
}

// keep has them note what they get in a ledger.
func (r *run) keep(book *ledger) {
	if r.aim != nil {
		r.aim.book.Store(book)
		return
	}
	r.rs.keep(book)
}

// sample is what is read before and after the measured phase.
type sample struct {
	daemon  usage
	at      time.Time
	self    time.Duration // processor time of generator and receivers
	machine time.Duration // and of everything on the machine
	commits int64
	pushes  [3]int64
	shaken  Handshakes
}

func (r *run) sample(ctx context.Context) (s sample, err error) {
	if s.daemon, err = usageOf("/proc", r.server.child.cmd.Process.Pid); err != nil {
		return s, err
	}
	self, err := usageOf("/proc", os.Getpid())
	if err != nil {
		return s, err
	}
	s.self, s.at = self.CPU, time.Now()
	if s.machine, err = machineBusy("/proc"); err != nil {
		return s, err
	}
	for kind := range s.pushes {
		s.pushes[kind] = r.rs.sum(behaviour(kind), func(r *receiver) *atomic.Int64 { return &r.pushes })
	}
	s.shaken = r.rs.handshakes()
	s.commits, err = r.server.commits(ctx)
	return s, err
}

// phase is the measured part.
func (r *run) phase(ctx context.Context, report *Report) error {
	// Numbers go on after those of the warm-up, whose repeats are strays here and not mistaken for events.
	book := newLedger(r.next, len(r.rs.healthy), time.Now())
	l := r.newLoad(book)
	r.rs.keep(book)
	before, err := r.sample(ctx)
	if err != nil {
		return err
	}
	var begin int64
	l.begun = func() { begin = book.now() }
	var profiling sync.WaitGroup
	var profileErr error
	if r.CPUProfile != "" {
		profiling.Go(func() { profileErr = r.server.profile(ctx, r.CPUProfile, r.Duration) })
	}
	r.progress.follow("", book, l, len(r.rs.healthy))
	sent, err := l.run(ctx)
	if err == nil {
		err = r.arrivals(ctx, book, l)
	}
	profiling.Wait()
	if err = errors.Join(err, profileErr); err != nil {
		return err
	}
	busy, err := r.server.commits(ctx)
	if err != nil {
		return err
	}
	measured := time.Duration(book.now() - begin)
	r.progress.say("waiting for the last outcomes")
	after, err := r.settled(ctx)
	if err != nil {
		return err
	}
	r.next += sent.issued
	report.account(outcome{
		load: l, book: book, sent: sent, audit: book.audit(r.next),
		wall:   time.Duration(book.last.Load() - begin),
		before: before, after: after, busyCommits: busy, busyTime: measured, receivers: r.rs,
	})
	return nil
}

// arrivals waits until every acknowledged event has arrived everywhere, or nothing has arrived for the
// time of grace.
func (r *run) arrivals(ctx context.Context, book *ledger, l *load) error {
	tick := time.NewTicker(arrivalCheck)
	defer tick.Stop()
	seen, since := int64(-1), time.Now()
	for {
		n := book.delivered.Load()
		if book.completed.Load() >= l.acked.Load() {
			return nil
		}
		if n != seen {
			seen, since = n, time.Now()
		} else if time.Since(since) >= r.Grace {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settled waits until the daemon commits no more, so that the outcomes of the last pushes are in the
// figures, and reads them. With failing receivers it never rests; then the limit ends the wait.
func (r *run) settled(ctx context.Context) (sample, error) {
	tick := time.NewTicker(settleInterval)
	defer tick.Stop()
	last := int64(-2)
	for begin := time.Now(); ; {
		s, err := r.sample(ctx)
		if err != nil || s.commits == last || time.Since(begin) > settleLimit {
			return s, err
		}
		last = s.commits
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// thisMachine describes where the figures come from.
func thisMachine() Machine {
	return Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version()}
}
