package bench

import (
	"context"
	"net"
	"net/http"
)

// Types of events that only some subscriptions of a scenario select, or none.
const (
	badType     = "bench.bad"
	backlogType = "bench.backlog"
	unheardType = "bench.unheard"
)

// Isolation is what bad subscriptions cost healthy ones.
type Isolation struct {
	Bad     int   `json:"bad"`     // subscriptions of each bad kind: hanging, refusing connections, answering 500
	Pending int64 `json:"pending"` // events that waited for each of them

	Alone      Condition `json:"alone"`
	Beside     Condition `json:"beside"`
	AloneAgain Condition `json:"aloneAgain"` // the bad ones deleted

	// Beside, over the mean of both times alone. Latencies are end to end.
	PacedP50Ratio      float64 `json:"pacedP50Ratio"`
	PacedP99Ratio      float64 `json:"pacedP99Ratio"`
	PacedRateRatio     float64 `json:"pacedRateRatio"`
	PacedUsualP99Ratio float64 `json:"pacedUsualP99Ratio"`
	FullP99Ratio       float64 `json:"fullP99Ratio"`
	FullRateRatio      float64 `json:"fullRateRatio"`

	Hanging Unhealthy `json:"hanging"`
	Failing Unhealthy `json:"failing"`

	// Held is how many deliveries to the bad waited at the end; each acknowledged event should for each of them.
	Held     int64 `json:"held"`
	Expected int64 `json:"expected"`

	Kill *Kill `json:"kill,omitempty"`
}

// Kill is a kill -9 in the midst of a load.
type Kill struct {
	Stretch *Stretch `json:"stretch,omitempty"` // the load, its requests repeated until they are acknowledged
	Resent  int64    `json:"resent"`            // requests whose connection broke
	Restart *Restart `json:"restart"`
}

// stage runs the scenario that was asked for.
func (r *run) stage(ctx context.Context, report *ScenarioReport) error {
	idle, err := r.begin(ctx, eventType)
	if err != nil {
		return err
	}
	report.IdleRSS = known(idle.RSS)
	if r.Bad > 0 {
		report.Isolation, err = r.isolation(ctx)
	} else {
		report.Backlog, err = r.backlog(ctx)
	}
	r.found.collectFrom(r.rs)
	report.Findings, report.Deliveries = r.found, r.delivered
	return err
}

// isolation measures the healthy subscriptions alone, beside bad ones, and alone again.
func (r *run) isolation(ctx context.Context) (_ *Isolation, err error) {
	i := &Isolation{Bad: r.Bad, Pending: r.BadPending, Expected: 3 * int64(r.Bad) * r.BadPending}
	if i.Alone, err = r.condition(ctx, "alone", false, nil); err != nil {
		return nil, err
	}
	bad, err := r.openBad(ctx)
	defer bad.close()
	if err != nil {
		return nil, err
	}
	// What they get comes right before the first request of the healthy, so that the worst is measured too.
	if i.Beside, err = r.condition(ctx, "beside the bad", true, func(ctx context.Context) error {
		return r.publish(ctx, badType, r.BadPending)
	}); err != nil {
		return nil, err
	}
	if r.Kill {
		if i.Kill, err = r.killed(ctx); err != nil {
			return nil, err
		}
	}
	r.progress.say("counting what waits for the bad")
	if i.Held, err = r.held(ctx, i.Expected); err != nil {
		return nil, err
	}
	i.Hanging, i.Failing = r.rs.unhealthy(hanging), r.rs.unhealthy(failing)
	r.progress.say("deleting the bad subscriptions")
	for _, id := range bad.ids {
		if err := r.server.call(ctx, http.MethodDelete, r.server.api("/subscriptions/"+id), nil, nil); err != nil {
			return nil, err
		}
	}
	if i.AloneAgain, err = r.condition(ctx, "alone again", false, nil); err != nil {
		return nil, err
	}
	i.compare()
	return i, nil
}

// compare computes the ratios.
func (i *Isolation) compare() {
	over := func(figure func(*Condition) float64) float64 {
		return ratio(figure(&i.Beside), figure(&i.Alone), figure(&i.AloneAgain))
	}
	i.PacedP50Ratio = over(func(c *Condition) float64 { return c.Paced.EndToEnd.P50 })
	i.PacedP99Ratio = over(func(c *Condition) float64 { return c.Paced.EndToEnd.P99 })
	i.PacedUsualP99Ratio = over(func(c *Condition) float64 { return c.Paced.UsualP99 })
	i.PacedRateRatio = over(func(c *Condition) float64 { return c.Paced.EventsPerSecond })
	i.FullP99Ratio = over(func(c *Condition) float64 { return c.Full.EndToEnd.P99 })
	i.FullRateRatio = over(func(c *Condition) float64 { return c.Full.EventsPerSecond })
}

// problem returns what is wrong with the daemon, or nil. Slowness is not: the ratios tell it.
func (i *Isolation) problem() error {
	return missing(i.Held, i.Expected, "beside the bad subscriptions")
}

// ratio is a figure over the mean of others, or 0 when they are 0.
func ratio(figure float64, others ...float64) float64 {
	var sum float64
	for _, v := range others {
		sum += v
	}
	if sum == 0 {
		return 0
	}
	return figure / (sum / float64(len(others)))
}

// killed kills the daemon in the middle of a paced load, and starts it again.
func (r *run) killed(ctx context.Context) (*Kill, error) {
	k := &Kill{}
	s, err := r.measureStretch(ctx, stretchOptions{name: "killing it", rate: r.pacedRate(), amid: func(ctx context.Context) (err error) {
		k.Restart, err = r.restart(ctx, true, false)
		return err
	}})
	k.Stretch, k.Resent = &s, s.Resent
	return k, err
}

// badSubscriptions are those of the isolation scenario.
type badSubscriptions struct {
	ids   []string
	ports []*port
}

// openBad opens the bad receivers and subscribes them. What is returned is to be closed, whatever the error.
func (r *run) openBad(ctx context.Context) (*badSubscriptions, error) {
	r.progress.say("opening the bad subscriptions")
	b := &badSubscriptions{}
	subscribe := func(url string) error {
		id, err := r.server.subscribe(ctx, nil, r.wishes(url, badType))
		b.ids = append(b.ids, id)
		return err
	}
	shape := receiverShape{records: r.Records, data: r.data}
	var lc net.ListenConfig
	for n := range r.Bad {
		p, err := reservePort()
		if err != nil {
			return b, err
		}
		b.ports = append(b.ports, p)
		urls := []string{"http://" + p.addr + "/hook"}
		for _, kind := range []behaviour{hanging, failing} {
			l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return b, err
			}
			rc := newReceiver(l, kind, n, shape)
			r.rs.add(rc)
			urls = append(urls, rc.url())
		}
		for _, url := range urls {
			if err := subscribe(url); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

func (b *badSubscriptions) close() {
	for _, p := range b.ports {
		p.close()
	}
}

// publish posts events that are not followed, many in a request.
func (r *run) publish(ctx context.Context, kind string, events int64) error {
	l := r.bulk(kind, events, nil)
	_, err := l.run(ctx)
	r.next += events
	return err
}

// bulk is a load of many events in few requests.
func (r *run) bulk(kind string, events int64, book *ledger) *load {
	l := r.newLoad(book)
	l.shape.kind, l.rate, l.events, l.duration = kind, 0, events, 0
	l.batch = max(min(bulkEvents, bulkBytes/(r.Size+256)), 1)
	l.producers = bulkProducers
	return l
}

const (
	bulkEvents    = 500
	bulkBytes     = 4 << 20
	bulkProducers = 8
)

// unhealthy counts what the receivers of a bad kind got.
func (rs *receivers) unhealthy(b behaviour) Unhealthy {
	var u Unhealthy
	for _, r := range rs.all {
		if r.behaviour == b {
			u.Receivers++
			u.Pushes += r.pushes.Load()
		}
	}
	return u
}
