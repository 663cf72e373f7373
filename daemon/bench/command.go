// Package bench measures a whole Herald: events posted over HTTP, made durable, pushed to receivers with a
// signature, the outcome durable again. It starts the real daemon as a child process on a temporary
// directory, loads it from this process and receives its pushes in this process, over loopback.
//
// It promises that the account is exact (every acknowledged event is looked for at every healthy receiver, every
// arrival beyond the first is counted), that latencies are honest (in an open loop they count from the
// moment a request was meant to begin, so that waiting is not left out), that its own part is cheap (HTTP/1.1
// over bare connections, no allocation for an event), and that nothing stays behind: the child ends and the
// directory is removed, whatever happens.
package bench

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxFanOut    = 1000
	maxProducers = 4096
	maxBatch     = 10000
	maxRequest   = 64 << 20 // one request
	maxRequests  = 1 << 30  // the requests of all producers together, which are held in memory

	settleInterval = 50 * time.Millisecond
	settleLimit    = 3 * time.Second
	arrivalCheck   = 5 * time.Millisecond
)

// Command is `herald bench`: its fields are the flags. A Command made without a command line needs its
// fields set as Validate describes; the defaults in the tags are the parser's.
type Command struct {
	Events   int64         `help:"Events to send." default:"20000"`
	Duration time.Duration `help:"Send for this long instead of a number of events." placeholder:"DURATION"`
	WarmUp   int64         `help:"Events sent, and awaited, before the measurement begins." default:"1000"`

	Size      int     `help:"Size of an event's data in bytes." default:"1024"`
	FanOut    int     `help:"Subscriptions, and receivers, for each event." default:"1"`
	Producers int     `help:"Connections that post events." default:"96"`
	Batch     int     `help:"Events in one request." default:"1"`
	Rate      float64 `help:"Events per second, with latencies counted from the intended start; 0 for as fast as it goes." default:"0"`
	IDs       bool    `name:"ids" help:"Give the events ids instead of taking the daemon's."`

	ReceiverLatency time.Duration `help:"How long a receiver takes to answer." default:"0s"`
	Failing         float64       `help:"Share of the receivers that answer 500 (0 to 1)." default:"0"`
	Hanging         float64       `help:"Share of the receivers that never answer (0 to 1)." default:"0"`
	Grace           time.Duration `help:"How long nothing may arrive until what is missing counts as lost." default:"30s"`

	Dir        string `help:"Directory in which the temporary data directory is made: the disk that is measured." type:"path" placeholder:"DIR"`
	Keep       bool   `help:"Keep the temporary directory and print its path."`
	NoCeilings bool   `help:"Do not measure what the machine reaches without queue and disk."`
	JSON       bool   `name:"json" help:"Print the report as JSON."`
	CPUProfile string `name:"cpuprofile" help:"Write a processor profile of the daemon to this file; needs --duration." type:"path" placeholder:"FILE"`

	spacedProbes int // 0 for the default; fewer make the tests shorter
}

// Validate checks the flags; its error names the flag and what would be right. The command line calls it
// before Run, which calls it too.
func (c *Command) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Duration < 0 || c.Duration > 24*time.Hour:
		bad("--duration must be between 0 and 24h")
	case c.Duration == 0 && (c.Events < 1 || c.Events > maxEvents):
		bad("--events must be between 1 and %d", maxEvents)
	}
	if c.WarmUp < 0 || c.WarmUp > maxEvents {
		bad("--warm-up must be between 0 and %d", maxEvents)
	}
	if c.Size < minSize || c.Size > maxSize {
		bad("--size must be between %d and %d bytes", minSize, maxSize)
	}
	if c.FanOut < 1 || c.FanOut > maxFanOut {
		bad("--fan-out must be between 1 and %d", maxFanOut)
	}
	if c.Producers < 1 || c.Producers > maxProducers {
		bad("--producers must be between 1 and %d", maxProducers)
	}
	switch request := int64(c.Batch) * int64(c.Size+256); {
	case c.Batch < 1 || c.Batch > maxBatch:
		bad("--batch must be between 1 and %d", maxBatch)
	case request > maxRequest:
		bad("--batch times --size must not exceed %d bytes", maxRequest)
	case request*int64(c.Producers) > maxRequests:
		bad("--producers times --batch times --size must not exceed %d bytes", maxRequests)
	}
	if !(c.Rate >= 0) || c.Rate > 1e6 {
		bad("--rate must be between 0 and 1000000")
	}
	if c.ReceiverLatency < 0 || c.ReceiverLatency > time.Minute {
		bad("--receiver-latency must be between 0 and 1m")
	}
	if c.Grace < time.Second || c.Grace > time.Hour {
		bad("--grace must be between 1s and 1h")
	}
	if !(c.Failing >= 0 && c.Failing <= 1) || !(c.Hanging >= 0 && c.Hanging <= 1) {
		bad("--failing and --hanging must be between 0 and 1")
	} else if n := c.receiverCounts(); n[healthy] < 1 && c.FanOut >= 1 {
		bad("--failing and --hanging leave no healthy receiver of %d: raise --fan-out", c.FanOut)
	}
	if c.CPUProfile != "" && c.Duration == 0 {
		bad("--cpuprofile needs --duration")
	}
	return sentence(errs)
}

// sentence joins errors on one line; it is nil for none.
func sentence(errs []error) error {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// usageError marks flags that are out of their limits, for the exit code.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// ExitCode makes the process end with 2, wrong usage.
func (e *usageError) ExitCode() int { return 2 }

// receiverCounts is how many receivers behave in which way; a share above zero is at least one.
func (c *Command) receiverCounts() [3]int {
	count := func(share float64) int {
		if share <= 0 {
			return 0
		}
		return max(int(math.Round(share*float64(c.FanOut))), 1)
	}
	f, h := count(c.Failing), count(c.Hanging)
	return [3]int{healthy: c.FanOut - f - h, failing: f, hanging: h}
}

// Run measures and prints the report to stdout; stderr gets a progress line when it is a terminal. It
// returns ErrLost or ErrWrong, after the report, when events are missing or pushes are not what they should be,
// and other errors when there is nothing to report. The child and the directory are gone when it returns.
func (c *Command) Run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	if err := c.Validate(); err != nil {
		return &usageError{err}
	}
	if c.Dir != "" {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return fmt.Errorf("make the directory: %w", err)
		}
	}
	dir, err := os.MkdirTemp(c.Dir, "herald-bench-")
	if err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	defer func() {
		if c.Keep {
			_, _ = fmt.Fprintln(stderr, "kept:", dir)
			return
		}
		if e := os.RemoveAll(dir); e != nil && err == nil {
			err = fmt.Errorf("remove the data directory: %w", e)
		}
	}()
	progress := newProgress(stderr)
	defer progress.stop()

	r := &run{Command: c, dir: dir, progress: progress, data: buildData(c.Size)}
	report, err := r.measure(ctx)
	progress.stop()
	if err != nil {
		return err
	}
	if c.JSON {
		err = report.writeJSON(stdout)
	} else {
		err = report.writeTable(stdout)
	}
	if err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return report.problem()
}

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
	return !c.NoCeilings && c.Rate == 0 && c.Failing == 0 && c.Hanging == 0
}

// run is one benchmark in progress.
type run struct {
	*Command
	dir      string
	data     []byte
	progress *progress
	rs       *receivers
	server   *server
	idPrefix string
}

// measure does everything in order and returns the report.
func (r *run) measure(ctx context.Context) (*Report, error) {
	report := &Report{Options: r.options(), Machine: thisMachine()}
	var err error
	r.progress.say("measuring the disk")
	if report.Disk, err = probeDisk(ctx, r.dir, cmp.Or(r.spacedProbes, probeSpaced)); err != nil {
		return nil, err
	}
	if r.rs, err = openReceivers(ctx, r.receiverCounts(), r.ReceiverLatency, r.data); err != nil {
		return nil, err
	}
	defer r.rs.close()

	var bare ceilings
	if r.withCeilings() {
		r.progress.say("measuring the ceilings")
		if err := bare.measure(ctx, r.Command, r.data, r.rs); err != nil {
			return nil, err
		}
	}
	if err := r.path(ctx, report); err != nil {
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

// path measures the whole path through a daemon of its own, which has ended when it returns.
func (r *run) path(ctx context.Context, report *Report) (err error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.progress.say("starting the daemon")
	if r.server, err = startServer(ctx, r.dir, r.Command); err != nil {
		return err
	}
	defer r.server.stop()
	defer func() {
		switch {
		case err == nil:
		case outer.Err() != nil:
			// The end of the daemon is then a consequence, or has the same cause: an interrupt from a terminal
			// goes to both.
			err = context.Cause(outer)
		default:
			err = r.server.child.explain(err)
		}
	}()
	var watch sync.WaitGroup
	defer watch.Wait()
	ended := make(chan struct{})
	defer close(ended)
	watch.Go(func() {
		select {
		case <-r.server.child.done:
			cancel(r.server.child.ended())
		case <-ended:
		}
	})
	for _, rc := range r.rs.all {
		if err := r.server.subscribe(ctx, rc); err != nil {
			return err
		}
	}
	idle, err := usageOf("/proc", r.server.child.cmd.Process.Pid)
	if err != nil {
		return err
	}
	report.setIdle(idle)

	if r.IDs {
		r.idPrefix = "bench-" + strings.ToLower(rand.Text()[:8]) + "-"
	}
	if r.WarmUp > 0 {
		if err := r.warmUp(ctx); err != nil {
			return err
		}
	}
	return r.phase(ctx, report)
}

// warmUp sends events as fast as it goes and waits until they have arrived: connections are open, buffers
// grown, files preallocated.
func (r *run) warmUp(ctx context.Context) error {
	book := newLedger(0, len(r.rs.healthy), time.Now())
	l := r.newLoad(book, 0)
	l.events, l.rate = r.WarmUp, 0
	r.rs.keep(book)
	r.progress.say("warming up")
	if _, err := l.run(ctx); err != nil {
		return err
	}
	if err := r.arrivals(ctx, book, l); err != nil {
		return err
	}
	if err := book.audit(l.next.Load()).problem(); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	return nil
}

func (r *run) newLoad(book *ledger, base int64) *load {
	l := r.load(r.server.addr, r.server.token, r.data)
	l.shape.idPrefix, l.book, l.base = r.idPrefix, book, base
	return l
}

// sample is what is read before and after the measured phase.
type sample struct {
	daemon  usage
	at      time.Time
	self    time.Duration // processor time of generator and receivers
	machine time.Duration // and of everything on the machine
	commits int64
	pushes  [3]int64
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
	s.commits, err = r.server.commits(ctx)
	return s, err
}

// phase is the measured part.
func (r *run) phase(ctx context.Context, report *Report) error {
	// Numbers go on after those of the warm-up, whose repeats are strays here and not mistaken for events.
	book := newLedger(r.WarmUp, len(r.rs.healthy), time.Now())
	l := r.newLoad(book, r.WarmUp)
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
	r.progress.follow(book, l, len(r.rs.healthy))
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
	report.account(outcome{
		load: l, book: book, sent: sent, audit: book.audit(r.WarmUp + sent.issued),
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
