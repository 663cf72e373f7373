package bench

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Backlog is what many events that wait for a subscription that is down cost.
type Backlog struct {
	Events int64 `json:"events"` // acknowledged for the subscription that is down

	FillSeconds   float64 `json:"fillSeconds"`
	FillPerSecond float64 `json:"fillPerSecond"` // events, in requests of many
	FillRefused   int64   `json:"fillRefused"`

	// The daemon before there was a backlog, with it, and, unless it was not drained, after it was delivered.
	Empty      Situation  `json:"empty"`
	Beside     Situation  `json:"beside"`
	EmptyAgain *Situation `json:"emptyAgain,omitempty"`

	// Beside, over the mean of what was measured without a backlog.
	IngestRatio   float64 `json:"ingestRatio"`
	FullRateRatio float64 `json:"fullRateRatio"`
	PacedP99Ratio float64 `json:"pacedP99Ratio"`
	// The daemon's processor time for an event: unlike the rates, other programs hardly move it.
	IngestCPURatio float64 `json:"ingestCPURatio"`
	FullCPURatio   float64 `json:"fullCPURatio"`

	Filled Memory `json:"filled"` // right after the filling
	Rested Memory `json:"rested"` // and some seconds later

	Restarts []*Restart `json:"restarts"`
	Held     int64      `json:"held"` // deliveries that waited after everything else
	Kill     *Kill      `json:"kill,omitempty"`
	Drain    *Drain     `json:"drain,omitempty"`
}

// Situation is one state of the daemon, with its loads.
type Situation struct {
	Ingest Stretch `json:"ingest"` // of events that no subscription selects, as fast as it goes
	Condition
	Memory Memory `json:"memory"`
}

// Drain is the delivery of the backlog after its receiver came up.
type Drain struct {
	Records          int64   `json:"records"`
	Seconds          float64 `json:"seconds"` // first to last arrival
	RecordsPerSecond float64 `json:"recordsPerSecond"`
	Pushes           int64   `json:"pushes"`
	FirstSeconds     float64 `json:"firstSeconds"` // from the order to flow to the first arrival
	Retried          int64   `json:"retried"`      // deliveries that waited for a retry, and were made due
}

// backlog measures the daemon empty, with a backlog, starting again with it, and, after it was delivered, empty again.
func (r *run) backlog(ctx context.Context) (*Backlog, error) {
	b := &Backlog{}
	var err error
	if b.Empty, err = r.situation(ctx, "empty", false); err != nil {
		return nil, err
	}
	d, err := r.openDown(ctx)
	if err != nil {
		return nil, err
	}
	defer d.port.close()
	if err := r.fill(ctx, b, d); err != nil {
		return nil, err
	}
	if b.Beside, err = r.situation(ctx, "beside the backlog", true); err != nil {
		return nil, err
	}
	if b.Restarts, err = r.restarts(ctx, b.Events); err != nil {
		return nil, err
	}
	if b.Held, err = r.held(ctx, b.Events); err != nil {
		return nil, err
	}
	if !r.NoDrain {
		if b.Drain, err = r.drain(ctx, d); err != nil {
			return nil, err
		}
		again, err := r.situation(ctx, "empty again", false)
		if err != nil {
			return nil, err
		}
		b.EmptyAgain = &again
	}
	b.compare()
	return b, nil
}

// compare computes the ratios.
func (b *Backlog) compare() {
	over := func(figure func(*Situation) float64) float64 {
		others := []float64{figure(&b.Empty)}
		if b.EmptyAgain != nil {
			others = append(others, figure(b.EmptyAgain))
		}
		return ratio(figure(&b.Beside), others...)
	}
	b.IngestRatio = over(func(s *Situation) float64 { return s.Ingest.AckedPerSecond })
	b.FullRateRatio = over(func(s *Situation) float64 { return s.Full.EventsPerSecond })
	b.PacedP99Ratio = over(func(s *Situation) float64 { return s.Paced.EndToEnd.P99 })
	b.IngestCPURatio = over(func(s *Situation) float64 { return told(s.Ingest.CPUPerEvent) })
	b.FullCPURatio = over(func(s *Situation) float64 { return told(s.Full.CPUPerEvent) })
}

// problem returns what is wrong with the daemon, or nil. Slowness is not: the ratios tell it.
func (b *Backlog) problem() error {
	for _, t := range b.Restarts {
		if err := missing(t.Held, b.Events, fmt.Sprintf("after a %s stop, %s", t.Stop, t.Cache)); err != nil {
			return err
		}
	}
	return missing(b.Held, b.Events, "before the backlog was delivered")
}

// situation measures ingestion alone and the load of the healthy subscriptions.
func (r *run) situation(ctx context.Context, name string, profiled bool) (s Situation, err error) {
	if s.Ingest, err = r.measureStretch(ctx, stretchOptions{name: name + ", ingestion", kind: unheardType}); err != nil {
		return s, err
	}
	if s.Condition, err = r.condition(ctx, name, profiled, nil); err != nil {
		return s, err
	}
	s.Memory, err = r.memory(ctx)
	return s, err
}

// down is the subscription that cannot be reached, with the account of its events.
type down struct {
	id     string
	port   *port
	secret *receiver // not served yet
	book   *ledger
	load   *load
}

// openDown subscribes a receiver whose port refuses connections.
func (r *run) openDown(ctx context.Context) (*down, error) {
	p, err := reservePort()
	if err != nil {
		return nil, err
	}
	d := &down{port: p}
	d.secret = newReceiver(nil, healthy, 0, receiverShape{records: r.Records, data: r.data})
	if d.id, err = r.server.subscribe(ctx, d.secret, r.wishes("http://"+p.addr+"/hook", backlogType)); err != nil {
		p.close()
		return nil, err
	}
	return d, nil
}

// fill publishes the backlog, in which the daemon is killed and started again if that was asked for, and waits until
// all of it is seen to wait.
func (r *run) fill(ctx context.Context, b *Backlog, d *down) error {
	d.book = newLedger(r.next, 1, time.Now())
	d.secret.book.Store(d.book)
	l := r.bulk(backlogType, r.Backlog, d.book)
	if r.Kill {
		l.resend, l.shape.idPrefix = true, r.ownIDs
	}
	d.load = l
	r.progress.follow("filling the backlog", d.book, l, 1)

	var beside errgroup
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	beside.fail = cancel
	if r.Kill {
		b.Kill = &Kill{}
		beside.run(func() (err error) {
			for l.acked.Load() < r.Backlog/2 {
				if err := pause(inner, arrivalCheck); err != nil {
					return err
				}
			}
			b.Kill.Restart, err = r.restart(inner, true, false)
			return err
		})
	}
	sent, err := l.run(inner)
	if e := beside.wait(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("filling the backlog: %w", err)
	}
	r.next += sent.issued
	b.Events, b.FillRefused, b.FillSeconds = l.acked.Load(), l.refused.Load(), sent.elapsed.Seconds()
	b.FillPerSecond = float64(b.Events) / b.FillSeconds
	if b.Kill != nil {
		b.Kill.Resent = l.resent.Load()
	}
	r.progress.say("counting the backlog")
	held, err := r.held(ctx, b.Events)
	if err != nil {
		return err
	}
	if err := missing(held, b.Events, "after filling the backlog"); err != nil {
		return err
	}
	if b.Filled, err = r.memory(ctx); err != nil {
		return err
	}
	r.progress.say("resting")
	if err := pause(ctx, min(r.stretch(), restBefore)); err != nil {
		return err
	}
	b.Rested, err = r.memory(ctx)
	return err
}

const (
	// drainQuiet is how long nothing may arrive until the deliveries that wait for a retry are made due.
	drainQuiet = 2 * time.Second
	drainCheck = 20 * time.Millisecond
	// retryPage is how many of them are asked for at once.
	retryPage = 1000
)

// drain opens the receiver of the backlog, has the subscription flow, and waits until every event has arrived.
func (r *run) drain(ctx context.Context, d *down) (*Drain, error) {
	l, err := d.port.listen()
	if err != nil {
		return nil, err
	}
	d.secret.listener = l
	r.rs.addApart(d.secret)
	r.progress.follow("delivering the backlog", d.book, d.load, 1)
	ordered := d.book.now()
	if err := r.flow(ctx, d); err != nil {
		return nil, err
	}
	g := &Drain{}
	seen, since, retried := int64(0), time.Now(), time.Now()
	for d.book.completed.Load() < d.load.acked.Load() {
		switch n := d.book.delivered.Load(); {
		case n > seen:
			seen, since = n, time.Now()
		case time.Since(since) >= r.Grace:
			goto ended
		case time.Since(since) >= drainQuiet && time.Since(retried) >= drainQuiet:
			n, err := r.retryScheduled(ctx, d.id)
			if err != nil {
				return nil, err
			}
			g.Retried += n
			retried = time.Now()
		}
		if err := pause(ctx, drainCheck); err != nil {
			return nil, err
		}
	}
ended:
	a := d.book.audit(r.next)
	r.found.addAudit(a, d.book)
	r.delivered += d.book.delivered.Load()
	g.Records, g.Pushes = d.book.delivered.Load(), d.secret.pushes.Load()
	if first := d.book.first.Load(); first > 0 {
		g.FirstSeconds = time.Duration(first - ordered).Seconds()
		g.Seconds = time.Duration(max(d.book.last.Load()-first, 1)).Seconds()
		g.RecordsPerSecond = float64(g.Records) / g.Seconds
	}
	return g, nil
}

// flow has the daemon try the subscription again now: an enabled one need not wait for its next probe.
func (r *run) flow(ctx context.Context, d *down) error {
	return r.server.call(ctx, http.MethodPost, r.server.api("/subscriptions/"+d.id+"/enable"), nil, nil)
}

// retryScheduled makes deliveries due that wait for a retry, and returns how many.
func (r *run) retryScheduled(ctx context.Context, subscription string) (int64, error) {
	var list []struct {
		ID string `json:"id"`
	}
	url := r.server.api(fmt.Sprintf("/deliveries?subscription=%s&state=retrying&limit=%d", subscription, retryPage))
	if err := r.server.call(ctx, http.MethodGet, url, nil, &list); err != nil {
		return 0, err
	}
	for _, e := range list {
		if err := r.server.call(ctx, http.MethodPost, r.server.api("/deliveries/"+e.ID+"/retry"), nil, nil); err != nil {
			return 0, err
		}
	}
	return int64(len(list)), nil
}
