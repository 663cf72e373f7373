package bench

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"
)

// The scenarios measure the same load in stretches, under different conditions.
const (
	defaultStretch = 10 * time.Second
	defaultPace    = 200 // events per second of a paced stretch
	// restBefore is what passes before a stretch, so that the one before and its writes are over.
	restBefore = 2 * time.Second
	// maxSeconds bounds the memory of the latencies kept apart for each second, some 60 KB each.
	maxSeconds = 600
)

// Stretch is what one load on the healthy subscriptions came to.
type Stretch struct {
	Events  int64   `json:"events"` // acknowledged
	Refused int64   `json:"refused"`
	Resent  int64   `json:"resent,omitempty"` // requests sent again after the daemon had been killed
	Seconds float64 `json:"seconds"`          // first request to last arrival

	AckedPerSecond  float64 `json:"ackedPerSecond"`  // over the time of the requests
	EventsPerSecond float64 `json:"eventsPerSecond"` // that reached every healthy receiver, over Seconds

	Ack      Latency  `json:"ack"`
	EndToEnd Latency  `json:"endToEnd"`
	Lateness *Latency `json:"lateness,omitempty"`
	// UsualP99 is the median over the seconds of the 99th percentile end to end within each: what another program does
	// to a few seconds does not move it.
	UsualP99 float64 `json:"usualP99"`

	CPUPerEvent *float64 `json:"cpuPerEvent,omitempty"` // of the daemon, microseconds
	OthersCores *float64 `json:"othersCores,omitempty"` // processors that other programs and the host took
	// CommitsPerSecond are the queue's: each is a sync that an acknowledgement may have to wait for.
	CommitsPerSecond *float64 `json:"commitsPerSecond,omitempty"`
	// Each has the latencies of each receiver apart, if that was asked for.
	Each []Delay `json:"each,omitempty"`
	// DiskP50 and DiskP99 are what a sync of 4 KiB cost in the rest before, one each ten milliseconds.
	DiskP50 float64 `json:"diskP50"`
	DiskP99 float64 `json:"diskP99"`
}

// Delay is what the events of a stretch took to one receiver.
type Delay struct {
	EndToEnd Latency `json:"endToEnd"`
	UsualP99 float64 `json:"usualP99"`
}

// Condition is one state of the daemon, measured at a pace and as fast as it goes.
type Condition struct {
	Paced Stretch `json:"paced"`
	Full  Stretch `json:"full"`
}

// stretch is how long each of them lasts.
func (c *Command) stretch() time.Duration { return cmp.Or(c.Duration, defaultStretch) }

// pacedRate is the rate of the paced ones.
func (c *Command) pacedRate() float64 { return cmp.Or(c.Rate, defaultPace) }

// condition measures both stretches, after a rest; with profiled set the second one is profiled if that
// was asked for. Before the first, after its rest, it calls prepare, if there is one.
func (r *run) condition(ctx context.Context, name string, profiled bool, prepare func(context.Context) error) (c Condition, err error) {
	if c.Paced, err = r.measureStretch(ctx, stretchOptions{name: name + ", paced", rate: r.pacedRate(), before: prepare}); err != nil {
		return c, err
	}
	c.Full, err = r.measureStretch(ctx, stretchOptions{name: name + ", as fast as it goes", profiled: profiled})
	return c, err
}

// stretchOptions are the circumstances of a stretch.
type stretchOptions struct {
	name     string
	rate     float64                     // 0 for as fast as it goes
	kind     string                      // type of the events; one that nobody selects is only ingested
	profiled bool                        // write the processor profile
	before   func(context.Context) error // called right before the first request
	amid     func(context.Context) error // called beside the load, in which the daemon may end
	each     bool                        // keep the latencies of the receivers apart
	enough   func() bool                 // tells that the load may end before its time
}

// rest lets the machine come to rest and says what a sync of the disk costs now.
func (r *run) rest(ctx context.Context) (*Disk, error) {
	begin := time.Now()
	d, err := probeDisk(ctx, r.dir, 0, cmp.Or(r.spacedProbes, probeSpaced))
	if err != nil {
		return nil, err
	}
	if r.spacedProbes > 0 {
		return d, nil
	}
	return d, pause(ctx, max(restBefore-time.Since(begin), 0))
}

// measureStretch puts a load on the healthy subscriptions and waits until everything has arrived.
func (r *run) measureStretch(ctx context.Context, o stretchOptions) (s Stretch, err error) {
	r.progress.say(o.name + ": resting")
	disk, err := r.rest(ctx)
	if err != nil {
		return s, err
	}
	if o.before != nil {
		if err := o.before(ctx); err != nil {
			return s, err
		}
	}
	before, err := r.sample(ctx)
	if err != nil {
		return s, err
	}
	receivers := r.destinations()
	if o.kind != "" {
		receivers = 0
	}
	book := newLedger(r.next, receivers, time.Now())
	book.bySecond(r.stretch())
	if o.each {
		for range receivers {
			d := &delays{}
			d.bySecond(r.stretch())
			book.each = append(book.each, d)
		}
	}
	l := r.newLoad(book)
	l.shape.kind, l.rate, l.events, l.duration = o.kind, o.rate, 0, r.stretch()
	l.enough = o.enough
	if o.amid != nil {
		l.resend, l.shape.idPrefix = true, r.ownIDs
	}
	r.keep(book)
	var begin int64
	r.progress.follow(o.name, book, l, receivers)

	var beside errgroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	beside.fail = cancel
	l.begun = func() {
		begin = book.now()
		if o.amid != nil { // not before the load is connected, which does not try that again
			beside.run(func() error { return o.amid(ctx) })
		}
	}
	if o.profiled && r.CPUProfile != "" {
		beside.run(func() error { return r.server.profile(ctx, r.CPUProfile, l.duration) })
	}
	sent, err := l.run(ctx)
	if e := beside.wait(); err == nil {
		err = e
	}
	if err == nil && receivers > 0 {
		err = r.arrivals(ctx, book, l)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", o.name, err)
	}
	after, err := r.sample(ctx)
	if err != nil {
		return s, err
	}
	r.next += sent.issued
	a := book.audit(r.next)
	r.found.addAudit(a, book)
	r.delivered += book.delivered.Load()

	s = Stretch{
		Events: a.Acked, Refused: l.refused.Load(), Resent: l.resent.Load(),
		Seconds: time.Duration(max(book.last.Load()-begin, 0)).Seconds(),
		Ack:     l.acks.latency(), EndToEnd: book.endToEnd.latency(),
		UsualP99: millis(book.usualP99()),
		DiskP50:  disk.SpacedP50, DiskP99: disk.SpacedP99,
		OthersCores: othersOf(before, after), CommitsPerSecond: per(before.commits, after.commits, after.at.Sub(before.at).Seconds()),
		CPUPerEvent: per(int64(before.daemon.CPU), int64(after.daemon.CPU), float64(a.Acked)*float64(time.Microsecond)),
	}
	for _, d := range book.each {
		s.Each = append(s.Each, Delay{EndToEnd: d.endToEnd.latency(), UsualP99: millis(d.usualP99())})
	}
	if l.rate > 0 {
		late := l.lateness.latency()
		s.Lateness = &late
	}
	if sent.elapsed > 0 {
		s.AckedPerSecond = float64(a.Acked) / sent.elapsed.Seconds()
	}
	if s.Seconds > 0 {
		s.EventsPerSecond = float64(book.completed.Load()) / s.Seconds
	}
	return s, nil
}

// errgroup runs what goes on beside a load; the first error ends the load.
type errgroup struct {
	fail context.CancelCauseFunc
	wg   sync.WaitGroup
	once sync.Once
	err  error
}

func (g *errgroup) run(f func() error) {
	g.wg.Go(func() {
		if err := f(); err != nil {
			g.once.Do(func() {
				g.err = err
				g.fail(err)
			})
		}
	})
}

func (g *errgroup) wait() error {
	g.wg.Wait()
	return g.err
}

// othersOf is how many processors programs other than daemon and benchmark took between two samples, or nil
// where the system does not tell.
func othersOf(before, after sample) *float64 {
	b, e := before.daemon, after.daemon
	took := after.at.Sub(before.at)
	if took <= 0 || before.machine < 0 || after.machine < 0 || b.CPU < 0 || e.CPU < b.CPU {
		return nil
	}
	// The clock ticks of the three sums do not fall together, so a quiet machine may come out below zero.
	others := max(after.machine-before.machine-(e.CPU-b.CPU)-(after.self-before.self), 0)
	cores := others.Seconds() / took.Seconds()
	return &cores
}
