package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
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

	// Alone has one more than Beside: each time beside the bad stands between two alone, the bad ones deleted.
	Alone  []Condition `json:"alone"`
	Beside []Condition `json:"beside"`

	// Each round's figure beside the bad over the mean of the two around it, and of these the median. Latencies are end
	// to end.
	PacedP50Ratio      float64 `json:"pacedP50Ratio"`
	PacedP99Ratio      float64 `json:"pacedP99Ratio"`
	PacedUsualP99Ratio float64 `json:"pacedUsualP99Ratio"`
	PacedRateRatio     float64 `json:"pacedRateRatio"`
	FullP99Ratio       float64 `json:"fullP99Ratio"`
	FullRateRatio      float64 `json:"fullRateRatio"`
	FullCPURatio       float64 `json:"fullCPURatio"` // the daemon's processor time for an event, which other programs hardly move

	Hanging Unhealthy `json:"hanging"`
	Failing Unhealthy `json:"failing"`

	// Held is how many deliveries to the bad waited at the end of the rounds; each acknowledged event should for each of
	// them.
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
	if r.Devices > 0 {
		return r.stageDevices(ctx, report)
	}
	idle, err := r.begin(ctx, eventType)
	if err != nil {
		return err
	}
	report.IdleRSS = known(idle.RSS)
	switch {
	case r.Bad > 0:
		report.Isolation, err = r.isolation(ctx)
	case r.Backlog > 0:
		report.Backlog, err = r.backlog(ctx)
	default:
		report.Replay, err = r.replay(ctx)
	}
	r.found.collectFrom(r.rs)
	report.Findings, report.Deliveries = r.found, r.delivered
	return err
}

// isolation measures the healthy subscriptions alone, beside bad ones, and alone again, as often as there are rounds.
func (r *run) isolation(ctx context.Context) (_ *Isolation, err error) {
	i := &Isolation{Bad: r.Bad, Pending: r.BadPending}
	alone, err := r.condition(ctx, "alone", false, nil)
	if err != nil {
		return nil, err
	}
	i.Alone = append(i.Alone, alone)
	bad, err := r.openBad(ctx)
	defer bad.close()
	if err != nil {
		return nil, err
	}
	for n := range r.Rounds {
		if err := r.round(ctx, i, bad, n == r.Rounds-1); err != nil {
			return nil, err
		}
	}
	i.Hanging, i.Failing = r.rs.unhealthy(hanging), r.rs.unhealthy(failing)
	i.compare()
	return i, nil
}

// round measures once beside the bad and once alone. In the last one the daemon is profiled, or killed, if that was
// asked for.
func (r *run) round(ctx context.Context, i *Isolation, bad *badReceivers, last bool) error {
	r.progress.say("creating the bad subscriptions")
	var ids []string
	for _, url := range bad.urls {
		id, err := r.server.subscribe(ctx, nil, r.wishes(url, badType))
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	// What they get comes right before the first request of the healthy, so that the worst is measured too.
	beside, err := r.condition(ctx, "beside the bad", last, func(ctx context.Context) error {
		return r.publish(ctx, badType, r.BadPending)
	})
	if err != nil {
		return err
	}
	i.Beside = append(i.Beside, beside)
	if last && r.Kill {
		if i.Kill, err = r.killed(ctx, r.pacedRate()); err != nil {
			return err
		}
	}
	r.progress.say("counting what waits for the bad")
	expected := int64(len(ids)) * r.BadPending
	held, err := r.held(ctx, expected)
	if err != nil {
		return err
	}
	i.Held, i.Expected = i.Held+held, i.Expected+expected
	r.progress.say("deleting the bad subscriptions")
	for _, id := range ids {
		if err := r.server.call(ctx, http.MethodDelete, r.server.api("/subscriptions/"+id), nil, nil); err != nil {
			return err
		}
	}
	alone, err := r.condition(ctx, "alone again", false, nil)
	i.Alone = append(i.Alone, alone)
	return err
}

// compare computes the ratios.
func (i *Isolation) compare() {
	over := func(figure func(*Condition) float64) float64 {
		var list []float64
		for n := range i.Beside {
			list = append(list, ratio(figure(&i.Beside[n]), figure(&i.Alone[n]), figure(&i.Alone[n+1])))
		}
		return median(list)
	}
	i.PacedP50Ratio = over(func(c *Condition) float64 { return c.Paced.EndToEnd.P50 })
	i.PacedP99Ratio = over(func(c *Condition) float64 { return c.Paced.EndToEnd.P99 })
	i.PacedUsualP99Ratio = over(func(c *Condition) float64 { return c.Paced.UsualP99 })
	i.PacedRateRatio = over(func(c *Condition) float64 { return c.Paced.EventsPerSecond })
	i.FullP99Ratio = over(func(c *Condition) float64 { return c.Full.EndToEnd.P99 })
	i.FullRateRatio = over(func(c *Condition) float64 { return c.Full.EventsPerSecond })
	i.FullCPURatio = over(func(c *Condition) float64 { return told(c.Full.CPUPerEvent) })
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

// told is a figure, or 0 when the system does not tell it.
func told(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

// median is the middle of some figures, or the mean of the two in the middle; 0 of none.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}

// killed kills the daemon in the middle of a load at that rate (0 for as fast as it goes), and starts it again.
func (r *run) killed(ctx context.Context, rate float64) (*Kill, error) {
	k := &Kill{}
	s, err := r.measureStretch(ctx, stretchOptions{name: "killing it", rate: rate, amid: func(ctx context.Context) (err error) {
		if err := pause(ctx, r.stretch()/2); err != nil {
			return err
		}
		k.Restart, err = r.restart(ctx, true, false)
		return err
	}})
	k.Stretch, k.Resent = &s, s.Resent
	return k, err
}

// badReceivers are those of the isolation scenario: where the bad subscriptions lead.
type badReceivers struct {
	urls  []string
	ports []*port
}

// openBad opens the bad receivers. What is returned is to be closed, whatever the error.
func (r *run) openBad(ctx context.Context) (*badReceivers, error) {
	b := &badReceivers{}
	shape := receiverShape{records: r.Records, data: r.data}
	var lc net.ListenConfig
	for n := range r.Bad {
		p, err := reservePort()
		if err != nil {
			return b, err
		}
		b.ports = append(b.ports, p)
		b.urls = append(b.urls, "http://"+p.addr+"/hook")
		for _, kind := range []behaviour{hanging, failing} {
			l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return b, fmt.Errorf("open receiver: %w", err)
			}
			rc := newReceiver(l, kind, n, shape)
			r.rs.add(rc)
			b.urls = append(b.urls, rc.url())
		}
	}
	return b, nil
}

func (b *badReceivers) close() {
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
