package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// pastType is the type of the events that are replayed.
	pastType = "bench.past"
	// defaultReplayRate is the API's, for a replay that names none.
	defaultReplayRate = 1000
	// replayedPlace is where the ledger of these events counts replayed pushes, beside those of the first delivery.
	replayedPlace = 1
	// Acceptance is known in milliseconds: so long passes on both sides of the time that parts two parts.
	partGap = 10 * time.Millisecond
	// peakInterval is how often the resident memory is looked at.
	peakInterval = 100 * time.Millisecond
	// replayDone is the state of a replay that has come to its end.
	replayDone = "done"
)

// Replay is what a replay costs the live events beside it.
type Replay struct {
	Events int64   `json:"events"` // delivered to the subscription before, and then replayed
	Rate   float64 `json:"rate"`   // deliveries a second asked for

	FillSeconds   float64 `json:"fillSeconds"` // first request to the first delivery of the last one
	FillPerSecond float64 `json:"fillPerSecond"`

	// Alone has one more than Parts: each part is replayed between two times alone. The live events go to both
	// subscriptions.
	Alone []Stretch     `json:"alone"`
	Parts []*ReplayPart `json:"parts"`

	// Each part's figure over the mean of the two alone around it, and of these the median; end to end.
	Same  ReplayRatios `json:"same"`  // of the subscription that is replayed to
	Other ReplayRatios `json:"other"` // of the other one

	// PeakAlone and PeakBeside are the most that was resident meanwhile, looked at ten times a second.
	PeakAlone  Peak   `json:"peakAlone"`
	PeakBeside Peak   `json:"peakBeside"`
	Before     Memory `json:"before"` // of the first part
	After      Memory `json:"after"`  // the last one

	Arrived    int64 `json:"arrived"`    // events that came replayed
	Duplicated int64 `json:"duplicated"` // replayed pushes beyond the first of an event
	Kill       *Kill `json:"kill,omitempty"`
}

// ReplayRatios are latencies beside a replay over those alone.
type ReplayRatios struct {
	P50Ratio      float64 `json:"p50Ratio"`
	P99Ratio      float64 `json:"p99Ratio"`
	UsualP99Ratio float64 `json:"usualP99Ratio"`
}

// ReplayPart is the replay of some of the events.
type ReplayPart struct {
	Deliveries int64  `json:"deliveries"` // made due, as the daemon says
	State      string `json:"state"`      // at the end

	Live *Stretch `json:"live"` // of live events beside it; it ends with the replay
	// Beside is the replay meanwhile; it is not told of a part in which the daemon is killed.
	Beside *ReplayPace `json:"beside,omitempty"`
	// Rest is the replay after the live events, when some of it was left: what it costs by itself.
	Rest *ReplayPace `json:"rest,omitempty"`
}

// ReplayPace is how fast replayed events came.
type ReplayPace struct {
	Deliveries     int64    `json:"deliveries"`
	Seconds        float64  `json:"seconds"`
	PerSecond      float64  `json:"perSecond"`
	CPUPerDelivery *float64 `json:"cpuPerDelivery,omitempty"` // of the daemon, microseconds; with live events they are in it

	DiskPerDelivery *float64 `json:"diskPerDelivery,omitempty"` // bytes the kernel wrote to the disk for it; the same
}

// Peak is the most memory that was seen, in bytes.
type Peak struct {
	RSS     *int64 `json:"rss,omitempty"`
	RSSAnon *int64 `json:"rssAnon,omitempty"`
}

// replayRate is how many deliveries a second a replay is to make.
func (c *Command) replayRate() float64 { return cmp.Or(c.ReplayRate, defaultReplayRate) }

// replayParts is in how many parts the events are replayed.
func (c *Command) replayParts() int {
	if c.Kill {
		return c.Rounds + 1
	}
	return c.Rounds
}

// replayed is the subscription that is replayed to.
type replayed struct {
	id   string
	book *ledger // of the events that are replayed: their first delivery, and then replayed
	end  int64   // one past the last of them
	next int     // the part that comes next
	// Part n was accepted between the bounds n and n+1.
	bounds []time.Time
	sizes  []int64
}

// replay delivers events and replays them in parts, each between live events alone.
func (r *run) replay(ctx context.Context) (*Replay, error) {
	p := &Replay{Rate: r.replayRate()}
	d, err := r.fillPast(ctx, p)
	if err != nil {
		return nil, err
	}
	before := d.book.audit(d.end)
	if err := r.aloneAgain(ctx, p); err != nil {
		return nil, err
	}
	if p.Before, err = r.memory(ctx); err != nil {
		return nil, err
	}
	for n := range r.Rounds {
		var part *ReplayPart
		err := r.peak(&p.PeakBeside, func() (err error) {
			part, err = r.replayPart(ctx, d, n == r.Rounds-1)
			return err
		})
		if err != nil {
			return nil, err
		}
		p.Parts = append(p.Parts, part)
		if err := r.aloneAgain(ctx, p); err != nil {
			return nil, err
		}
	}
	if p.After, err = r.memory(ctx); err != nil {
		return nil, err
	}
	if r.Kill {
		if err := r.killReplay(ctx, p, d); err != nil {
			return nil, err
		}
	}
	a := d.book.audit(d.end)
	r.found.addAudit(a, d.book)
	r.delivered += d.book.delivered.Load()
	p.Arrived, p.Duplicated = d.book.delivered.Load()-p.Events, a.Duplicated-before.Duplicated
	p.compare()
	return p, nil
}

// compare computes the ratios.
func (p *Replay) compare() {
	over := func(receiver int, figure func(*Delay) float64) float64 {
		var list []float64
		for n := range p.Parts[:len(p.Alone)-1] {
			of := func(s *Stretch) float64 { return figure(&s.Each[receiver]) }
			list = append(list, ratio(of(p.Parts[n].Live), of(&p.Alone[n]), of(&p.Alone[n+1])))
		}
		return median(list)
	}
	for receiver, to := range []*ReplayRatios{&p.Other, &p.Same} {
		to.P50Ratio = over(receiver, func(d *Delay) float64 { return d.EndToEnd.P50 })
		to.P99Ratio = over(receiver, func(d *Delay) float64 { return d.EndToEnd.P99 })
		to.UsualP99Ratio = over(receiver, func(d *Delay) float64 { return d.UsualP99 })
	}
}

// problem returns what is wrong with the daemon, or nil. Slowness is not: the ratios tell it; and what did not come is
// in the findings.
func (p *Replay) problem() error {
	for n, part := range p.Parts {
		if part.State != replayDone {
			return fmt.Errorf("%w: after everything had come, the replay of part %d was %s", ErrWrong, n+1, part.State)
		}
	}
	return nil
}

// fillPast publishes the events that are to be replayed, has them delivered, many in a push, and leads their subscription to
// a receiver that takes replays, and live events too. The daemon is started again, so that its memory does not tell of this.
func (r *run) fillPast(ctx context.Context, p *Replay) (*replayed, error) {
	book := newLedger(r.next, 2, time.Now())
	first, err := r.openReceiver(ctx, 0, r.bulk(pastType, 1, nil).batch)
	if err != nil {
		return nil, err
	}
	first.book.Store(book)
	r.rs.addApart(first)
	wishes := map[string]any{"dataCallbackURL": first.url(), "events": []string{pastType}}
	if first.records > 1 {
		wishes["numberOfRecords"], wishes["maxWaitSeconds"] = first.records, r.MaxWait.Seconds()
	}
	d := &replayed{book: book}
	if d.id, err = r.server.subscribe(ctx, first, wishes); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := d.bound(ctx); err != nil {
		return nil, err
	}
	for left, parts := r.Replay, r.replayParts(); parts > 0; parts-- {
		l := r.bulk(pastType, left/int64(parts), book)
		r.progress.follow("publishing what is replayed later", book, l, 1)
		sent, err := l.run(ctx)
		if err != nil {
			return nil, fmt.Errorf("publishing what is replayed later: %w", err)
		}
		r.next += sent.issued
		left -= sent.issued
		d.sizes = append(d.sizes, sent.issued)
		p.Events += sent.issued
		if err := d.bound(ctx); err != nil {
			return nil, err
		}
	}
	d.end = r.next
	r.progress.say("delivering what is replayed later")
	if err := r.arrived(ctx, book, p.Events); err != nil {
		return nil, err
	}
	if n := book.delivered.Load(); n < p.Events {
		return nil, fmt.Errorf("%w: of the %d events to replay, %d arrived the first time", ErrLost, p.Events, n)
	}
	p.FillSeconds = time.Since(begin).Seconds()
	p.FillPerSecond = float64(p.Events) / p.FillSeconds
	if _, err := r.settled(ctx); err != nil {
		return nil, err
	}
	return d, r.lead(ctx, d, first)
}

// bound ends a part of the events, and begins the next one.
func (d *replayed) bound(ctx context.Context) error {
	if err := pause(ctx, partGap); err != nil {
		return err
	}
	d.bounds = append(d.bounds, time.Now())
	return pause(ctx, partGap)
}

// lead has the subscription push to a receiver like the others of the run from now on.
func (r *run) lead(ctx context.Context, d *replayed, first *receiver) error {
	rc, err := r.openReceiver(ctx, len(r.rs.healthy), r.Records)
	if err != nil {
		return err
	}
	rc.latency = r.ReceiverLatency
	rc.again.Store(d.book)
	rc.verify.Store(first.verify.Load())
	r.rs.add(rc)
	wishes := r.wishes(rc.url(), "")
	wishes["events"] = []string{eventType, pastType}
	if r.Records == 1 {
		wishes["numberOfRecords"], wishes["maxWaitSeconds"] = nil, nil
	}
	body, err := json.Marshal(wishes)
	if err != nil {
		return err
	}
	if err := r.server.call(ctx, http.MethodPatch, r.server.api("/subscriptions/"+d.id), bytes.NewReader(body), nil); err != nil {
		return err
	}
	r.progress.say("starting the daemon again")
	if _, err := r.restart(ctx, false, false); err != nil || r.WarmUp == 0 {
		return err
	}
	return r.warmUp(ctx)
}

// openReceiver opens a healthy receiver that takes so many records in a push. It serves once it is added to the set.
func (r *run) openReceiver(ctx context.Context, index, records int) (*receiver, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open receiver: %w", err)
	}
	return newReceiver(l, healthy, index, receiverShape{records: records, data: r.data}), nil
}

// aloneAgain measures the live events alone.
func (r *run) aloneAgain(ctx context.Context, p *Replay) error {
	return r.peak(&p.PeakAlone, func() error {
		s, err := r.measureStretch(ctx, stretchOptions{name: "alone", rate: r.pacedRate(), each: true})
		p.Alone = append(p.Alone, s)
		return err
	})
}

// replayPart replays the next part, first beside live events.
func (r *run) replayPart(ctx context.Context, d *replayed, profiled bool) (*ReplayPart, error) {
	book, part := d.book, &ReplayPart{}
	goal := book.delivered.Load() + d.sizes[d.next]
	var replay string
	var from paceMark
	live, err := r.measureStretch(ctx, stretchOptions{
		name: "beside the replay", rate: r.pacedRate(), each: true, profiled: profiled,
		before: func(ctx context.Context) (err error) {
			if from, err = r.mark(book); err == nil {
				replay, err = r.startReplay(ctx, d)
			}
			return err
		},
		enough: func() bool { return book.delivered.Load() >= goal },
	})
	if err != nil {
		return nil, err
	}
	part.Live = &live
	middle, err := r.mark(book)
	if err != nil {
		return nil, err
	}
	part.Beside = from.pace(middle)
	r.progress.say("replaying the rest")
	if err := r.arrived(ctx, book, goal); err != nil {
		return nil, err
	}
	if middle.delivered < goal {
		to, err := r.mark(book)
		if err != nil {
			return nil, err
		}
		part.Rest = middle.pace(to)
	}
	return part, r.ended(ctx, d.id, replay, part)
}

// killReplay kills the daemon in the midst of the last part, and of live events, and starts it again.
func (r *run) killReplay(ctx context.Context, p *Replay, d *replayed) error {
	book, part, k := d.book, &ReplayPart{}, &Kill{}
	had, size := book.delivered.Load(), d.sizes[d.next]
	var replay string
	s, err := r.measureStretch(ctx, stretchOptions{
		name: "killing it", rate: r.pacedRate(), each: true,
		before: func(ctx context.Context) (err error) {
			replay, err = r.startReplay(ctx, d)
			return err
		},
		amid: func(ctx context.Context) error {
			// Half of it, or of what comes in the time.
			if err := r.arrived(ctx, book, had+min(size, int64(p.Rate*r.stretch().Seconds()))/2); err != nil {
				return err
			}
			var err error
			k.Restart, err = r.restart(ctx, true, false)
			return err
		},
	})
	if err != nil {
		return err
	}
	part.Live, k.Stretch, k.Resent = &s, &s, s.Resent
	p.Parts, p.Kill = append(p.Parts, part), k
	r.progress.say("replaying the rest")
	if err := r.arrived(ctx, book, had+size); err != nil {
		return err
	}
	return r.ended(ctx, d.id, replay, part)
}

// replayAnswer is what the daemon says of a replay.
type replayAnswer struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	Deliveries int64  `json:"deliveries"`
}

// startReplay has the next part replayed and returns the id of its replay.
func (r *run) startReplay(ctx context.Context, d *replayed) (string, error) {
	body, err := json.Marshal(map[string]any{
		"since": d.bounds[d.next].UTC().Format(time.RFC3339Nano), "until": d.bounds[d.next+1].UTC().Format(time.RFC3339Nano),
		"rate": r.replayRate(),
	})
	if err != nil {
		return "", err
	}
	var made replayAnswer
	if err := r.server.call(ctx, http.MethodPost, r.server.api("/subscriptions/"+d.id+"/replay"), bytes.NewReader(body), &made); err != nil {
		return "", err
	}
	if made.ID == "" {
		return "", errors.New("POST /subscriptions/{id}/replay: the answer has no id")
	}
	d.next++
	return made.ID, nil
}

// ended waits until the daemon says that a replay is done, up to the time of grace.
func (r *run) ended(ctx context.Context, subscription, replay string, part *ReplayPart) error {
	for begin := time.Now(); ; {
		var now replayAnswer
		if err := r.server.call(ctx, http.MethodGet, r.server.api("/subscriptions/"+subscription+"/replays/"+replay), nil, &now); err != nil {
			return err
		}
		part.State, part.Deliveries = now.State, now.Deliveries
		if now.State == replayDone || time.Since(begin) >= r.Grace {
			return nil
		}
		if err := pause(ctx, settleInterval); err != nil {
			return err
		}
	}
}

// arrived waits until so many deliveries are in a ledger, or nothing has come for the time of grace.
func (r *run) arrived(ctx context.Context, book *ledger, goal int64) error {
	for seen, since := int64(-1), time.Now(); ; {
		n := book.delivered.Load()
		if n >= goal {
			return nil
		}
		if n != seen {
			seen, since = n, time.Now()
		} else if time.Since(since) >= r.Grace {
			return nil
		}
		if err := pause(ctx, arrivalCheck); err != nil {
			return err
		}
	}
}

// paceMark is a moment of a replay.
type paceMark struct {
	at, last  int64 // in the ledger's time; last is the last arrival
	delivered int64
	daemon    usage
}

func (r *run) mark(book *ledger) (m paceMark, err error) {
	u, err := usageOf("/proc", r.server.child.cmd.Process.Pid)
	return paceMark{at: book.now(), last: book.last.Load(), delivered: book.delivered.Load(), daemon: u}, err
}

// pace is what came between two moments; the time ends with the last arrival.
func (from paceMark) pace(to paceMark) *ReplayPace {
	p := &ReplayPace{Deliveries: to.delivered - from.delivered, Seconds: time.Duration(max(to.last-from.at, 1)).Seconds()}
	p.PerSecond = float64(p.Deliveries) / p.Seconds
	p.CPUPerDelivery = per(int64(from.daemon.CPU), int64(to.daemon.CPU), float64(p.Deliveries)*float64(time.Microsecond))
	p.DiskPerDelivery = per(from.daemon.DiskBytes, to.daemon.DiskBytes, float64(p.Deliveries))
	return p
}

// peak calls f and notes the most that the daemon holds meanwhile.
func (r *run) peak(p *Peak, f func() error) error {
	pid := r.server.child.cmd.Process.Pid
	done := make(chan struct{})
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		tick := time.NewTicker(peakInterval)
		defer tick.Stop()
		for failed == nil {
			var u usage
			u, failed = usageOf("/proc", pid)
			p.note(u)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	err := f()
	close(done)
	wg.Wait()
	return cmp.Or(err, failed)
}

func (p *Peak) note(u usage) {
	higher := func(to **int64, n int64) {
		if *to == nil || n > **to {
			*to = known(n)
		}
	}
	higher(&p.RSS, u.RSS)
	higher(&p.RSSAnon, u.RSSAnon)
}

func (p *Replay) rows(row func(...string)) {
	row("replay", strconv.FormatInt(p.Events, 10), fmt.Sprintf("events, published and delivered in %s s: %s events/s; replayed in %d parts, %s deliveries/s asked for",
		number(p.FillSeconds, 1), number(p.FillPerSecond, 0), len(p.Parts), number(p.Rate, 0)))
	row()
	stretchHead(row)
	p.eachStretch(func(name string, s *Stretch) { s.row(row, name) })
	row()
	row("live events, ms", "same p50", "p99", "usual p99", "other p50", "p99", "usual p99", "", "same: the subscription that is replayed to")
	p.eachStretch(func(name string, s *Stretch) {
		cells := []string{"  " + name}
		for _, receiver := range []int{1, 0} {
			d := &s.Each[receiver]
			cells = append(cells, number(d.EndToEnd.P50, 2), number(d.EndToEnd.P99, 2), number(d.UsualP99, 2))
		}
		row(cells...)
	})
	row()
	row("beside/alone", "same", "other", "each part over the mean of the two alone around it, the median of the parts; latencies end to end")
	row("  p50", number(p.Same.P50Ratio, 2), number(p.Other.P50Ratio, 2))
	row("  p99", number(p.Same.P99Ratio, 2), number(p.Other.P99Ratio, 2), "asked 1.5 at most")
	row("  usual p99", number(p.Same.UsualP99Ratio, 2), number(p.Other.UsualP99Ratio, 2), "the median of the 99th percentiles of single seconds")
	row()
	row("replayed", "deliveries", "per s", "CPU µs each", "bytes to the disk")
	for _, part := range p.Parts {
		if part.Beside != nil {
			part.Beside.row(row, "beside live events", "the live events' time is in it")
		}
		if part.Rest != nil {
			part.Rest.row(row, "the rest", "")
		}
	}
	row()
	row("memory, MiB", "resident", "anonymous", "files", "peak", "heap in use", "on disk")
	p.Before.row(row, "before")
	p.After.row(row, "after")
	row("  most alone", mebibytes(p.PeakAlone.RSS), mebibytes(p.PeakAlone.RSSAnon))
	row("  most beside", mebibytes(p.PeakBeside.RSS), mebibytes(p.PeakBeside.RSSAnon))
	row()
	row("arrived", strconv.FormatInt(p.Arrived, 10), fmt.Sprintf("events replayed, of %d; %d replayed pushes more than once", p.Events, p.Duplicated))
	p.Kill.rows(row)
}

// eachStretch calls f for every stretch in its order.
func (p *Replay) eachStretch(f func(name string, s *Stretch)) {
	for n := range p.Alone {
		f("alone", &p.Alone[n])
		if n < len(p.Parts) && n < len(p.Alone)-1 {
			f("beside", p.Parts[n].Live)
		}
	}
	if p.Kill != nil {
		f("beside, killed", p.Kill.Stretch)
	}
}

func (p *ReplayPace) row(row func(...string), name, note string) {
	row("  "+name, strconv.FormatInt(p.Deliveries, 10), number(p.PerSecond, 0), optional(p.CPUPerDelivery, 1), optional(p.DiskPerDelivery, 0), note)
}
