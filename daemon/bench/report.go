package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the result of a benchmark, as --json prints it. Times are milliseconds unless the name says
// otherwise; what the system does not tell is absent.
type Report struct {
	Options Options `json:"options"`
	Machine Machine `json:"machine"`
	Disk    *Disk   `json:"disk"`

	Events        int64   `json:"events"`        // acknowledged
	Deliveries    int64   `json:"deliveries"`    // that reached a healthy receiver, each counted once
	Pushes        int64   `json:"pushes"`        // requests that brought them, repeats included
	Requests      int64   `json:"requests"`      // acknowledged requests
	Refused       int64   `json:"refused"`       // answers 429 and 503, after which the request was sent again
	Seconds       float64 `json:"seconds"`       // first request to last arrival
	IngestSeconds float64 `json:"ingestSeconds"` // first request to last acknowledgement

	// EventsPerSecond counts events that reached every healthy receiver, over Seconds.
	EventsPerSecond     float64 `json:"eventsPerSecond"`
	DeliveriesPerSecond float64 `json:"deliveriesPerSecond"` // records per second
	PushesPerSecond     float64 `json:"pushesPerSecond"`
	AckedPerSecond      float64 `json:"ackedPerSecond"` // over IngestSeconds

	Ack      Latency  `json:"ack"`                // request start to 202
	EndToEnd Latency  `json:"endToEnd"`           // request start to arrival
	Lateness *Latency `json:"lateness,omitempty"` // open loop: how late the generator itself was

	Daemon Daemon `json:"daemon"`
	// TLS is what HTTPS cost in handshakes.
	TLS *Handshakes `json:"tls,omitempty"`
	// LoadCPUPerEvent is what generator and receivers cost, in microseconds.
	LoadCPUPerEvent *float64 `json:"loadCPUPerEvent,omitempty"`

	// OthersCores is how many processors other programs and the host took meanwhile: with much of it, the
	// rates and latencies say little.
	OthersCores *float64 `json:"othersCores,omitempty"`

	Findings

	Failing *Unhealthy `json:"failing,omitempty"`
	Hanging *Unhealthy `json:"hanging,omitempty"`

	Ceilings *Ceilings `json:"ceilings,omitempty"`
}

// Options are the flags a report was made with.
type Options struct {
	Events            int64   `json:"events,omitempty"`
	DurationSeconds   float64 `json:"durationSeconds,omitempty"`
	WarmUp            int64   `json:"warmUp"`
	Size              int     `json:"size"`
	FanOut            int     `json:"fanOut"`
	Producers         int     `json:"producers"`
	Batch             int     `json:"batch"`
	Rate              float64 `json:"rate"`
	IDs               bool    `json:"ids"`
	ReceiverLatencyMS float64 `json:"receiverLatency"`
	Failing           float64 `json:"failing"`
	Hanging           float64 `json:"hanging"`
	Records           int     `json:"records"`
	MaxWaitMS         float64 `json:"maxWait"`
	TLS               bool    `json:"tls,omitempty"`
	HTTP2             bool    `json:"http2,omitempty"`
	Bad               int     `json:"bad,omitempty"`
	BadPending        int64   `json:"badPending,omitempty"`
	Rounds            int     `json:"rounds,omitempty"`
	Backlog           int64   `json:"backlog,omitempty"`
	NoDrain           bool    `json:"noDrain,omitempty"`
	Kill              bool    `json:"kill,omitempty"`
	Replay            int64   `json:"replay,omitempty"`
	ReplayRate        float64 `json:"replayRate,omitempty"`
	Devices           int64   `json:"devices,omitempty"`
}

// Machine is where a report was made.
type Machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

// Disk is what 4 KiB appended and synced cost in the same directory right before, exact to the sample, in
// milliseconds: back to back, and one each ten milliseconds.
type Disk struct {
	BusyP50   float64 `json:"busyP50"`
	BusyP99   float64 `json:"busyP99"`
	SpacedP50 float64 `json:"spacedP50"`
	SpacedP99 float64 `json:"spacedP99"`
}

// Latency sums up many durations, in milliseconds. The quantiles are within 0.4 %, the rest is exact.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Daemon is what the run cost the daemon.
type Daemon struct {
	CPUPerEvent      *float64 `json:"cpuPerEvent,omitempty"`      // microseconds, user and system
	CPUPerDelivery   *float64 `json:"cpuPerDelivery,omitempty"`   // microseconds, for each push that arrived anywhere
	Cores            *float64 `json:"cores,omitempty"`            // processors kept busy
	IdleRSS          *int64   `json:"idleRSS,omitempty"`          // bytes resident before the load
	PeakRSS          *int64   `json:"peakRSS,omitempty"`          // bytes resident at most
	DiskPerEvent     *float64 `json:"diskPerEvent,omitempty"`     // bytes the kernel wrote to the disk for it
	WrittenPerEvent  *float64 `json:"writtenPerEvent,omitempty"`  // bytes passed to write calls, sockets included
	CommitsPerSecond *float64 `json:"commitsPerSecond,omitempty"` // of the queue
	EventsPerCommit  *float64 `json:"eventsPerCommit,omitempty"`
}

// Unhealthy is what receivers of one bad kind got, the warm-up included.
type Unhealthy struct {
	Receivers int   `json:"receivers"`
	Pushes    int64 `json:"pushes"`
}

// Ceilings is what the same machine reaches in the same minute without queue and disk.
type Ceilings struct {
	Ingest  float64 `json:"ingest"`  // events per second a server takes that discards them
	Deliver float64 `json:"deliver"` // deliveries per second of the daemon's sender alone
	Bound   float64 `json:"bound"`   // events per second if the processors did these two and nothing else
	Ratio   float64 `json:"ratio"`   // end-to-end rate over the bound
}

// newCeilings relates a rate to the ceilings: an event costs one ingestion and a delivery for each receiver.
func newCeilings(ingest, deliver float64, receivers int, rate float64) *Ceilings {
	c := &Ceilings{Ingest: ingest, Deliver: deliver}
	if ingest > 0 && deliver > 0 {
		c.Bound = 1 / (1/ingest + float64(receivers)/deliver)
		c.Ratio = rate / c.Bound
	}
	return c
}

// outcome is everything the measured phase produced.
type outcome struct {
	load          *load
	book          *ledger
	sent          loadResult
	audit         audit
	wall          time.Duration
	before, after sample
	busyCommits   int64
	busyTime      time.Duration
	receivers     *receivers
}

// options returns the flags as the report shows them.
func (c *Command) options() Options {
	o := Options{
		Events: c.Events, DurationSeconds: c.Duration.Seconds(), WarmUp: c.WarmUp, Size: c.Size, FanOut: c.FanOut,
		Producers: c.Producers, Batch: c.Batch, Rate: c.Rate, IDs: c.IDs,
		ReceiverLatencyMS: millis(c.ReceiverLatency), Failing: c.Failing, Hanging: c.Hanging,
		Records: c.Records, MaxWaitMS: millis(c.MaxWait), TLS: c.TLS, HTTP2: c.HTTP2, Bad: c.Bad, Backlog: c.Backlog, NoDrain: c.NoDrain, Kill: c.Kill,
	}
	if c.Bad > 0 {
		o.BadPending, o.Rounds = c.BadPending, c.Rounds
	}
	if c.Replay > 0 {
		o.Replay, o.ReplayRate, o.Rounds = c.Replay, c.replayRate(), c.Rounds
	}
	if c.Devices > 0 {
		o.Devices, o.ReceiverLatencyMS = c.Devices, millis(c.standInLatency())
	}
	if c.Duration > 0 || c.scenario() {
		o.Events = 0
	}
	if c.scenario() {
		o.DurationSeconds, o.Rate = c.stretch().Seconds(), c.pacedRate()
	}
	return o
}

// setIdle notes what the daemon held before the load.
func (r *Report) setIdle(u usage) { r.Daemon.IdleRSS = known(u.RSS) }

// known returns a counter, or nil for one the system does not tell.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// per returns the difference of two counters for each of n, or nil when one is unknown or n is none.
func per(before, after int64, n float64) *float64 {
	if before < 0 || after < before || n <= 0 {
		return nil
	}
	v := float64(after-before) / n
	return &v
}

// account fills the report from the measured phase.
func (r *Report) account(o outcome) {
	a, rs := o.audit, o.receivers
	r.Events, r.Deliveries = a.Acked, o.book.delivered.Load()
	r.Requests, r.Refused = int64(o.load.acks.count.Load()), o.load.refused.Load()
	r.Seconds, r.IngestSeconds = o.wall.Seconds(), o.sent.elapsed.Seconds()
	r.Pushes = o.after.pushes[healthy] - o.before.pushes[healthy]
	if o.wall > 0 {
		r.PushesPerSecond = float64(r.Pushes) / r.Seconds
		r.EventsPerSecond = float64(o.book.completed.Load()) / r.Seconds
		r.DeliveriesPerSecond = float64(r.Deliveries) / r.Seconds
	} else {
		r.Seconds = 0
	}
	if o.sent.elapsed > 0 {
		r.AckedPerSecond = float64(a.Acked) / r.IngestSeconds
	}
	r.Ack, r.EndToEnd = o.load.acks.latency(), o.book.endToEnd.latency()
	if o.load.rate > 0 {
		late := o.load.lateness.latency()
		r.Lateness = &late
	}

	if r.TLS != nil {
		r.TLS.account(o.before.shaken, o.after.shaken, r.Pushes)
	}

	events := float64(a.Acked)
	var pushes [3]int64
	var all float64
	for kind := range pushes {
		pushes[kind] = o.after.pushes[kind] - o.before.pushes[kind]
		all += float64(pushes[kind])
	}
	b, e := o.before.daemon, o.after.daemon
	const micro = float64(time.Microsecond)
	r.Daemon.CPUPerEvent = per(int64(b.CPU), int64(e.CPU), events*micro)
	r.Daemon.CPUPerDelivery = per(int64(b.CPU), int64(e.CPU), all*micro)
	r.Daemon.Cores = per(int64(b.CPU), int64(e.CPU), float64(o.wall))
	r.Daemon.PeakRSS = known(e.PeakRSS)
	r.Daemon.DiskPerEvent = per(b.DiskBytes, e.DiskBytes, events)
	r.Daemon.WrittenPerEvent = per(b.Written, e.Written, events)
	r.Daemon.CommitsPerSecond = per(o.before.commits, o.busyCommits, o.busyTime.Seconds())
	if n := o.after.commits - o.before.commits; o.before.commits >= 0 && n > 0 {
		v := events / float64(n)
		r.Daemon.EventsPerCommit = &v
	}
	r.LoadCPUPerEvent = per(int64(o.before.self), int64(o.after.self), events*micro)

	r.OthersCores = othersOf(o.before, o.after)
	r.addAudit(a, o.book)
	r.collectFrom(rs)
	counts := [3]int{}
	for _, rc := range rs.all {
		counts[rc.behaviour]++
	}
	if counts[failing] > 0 {
		r.Failing = &Unhealthy{counts[failing], o.after.pushes[failing]}
	}
	if counts[hanging] > 0 {
		r.Hanging = &Unhealthy{counts[hanging], o.after.pushes[hanging]}
	}
}

// problem returns what the report says is wrong with the daemon, or nil.
func (r *Report) problem() error { return r.Findings.problem(r.Deliveries) }

// writeJSON prints a report as one indented JSON object.
func writeJSON(w io.Writer, report any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(report)
}

// table is what a report for people is written in, row by row, and flushed at the end.
func table(w io.Writer) (t *tabwriter.Writer, row func(cells ...string)) {
	t = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	return t, func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")) }
}

// writeTable prints the report for people.
func (r *Report) writeTable(w io.Writer) error {
	t, row := table(w)
	o := r.Options
	row("run", fmt.Sprintf("%d events of %d bytes, fan-out %d, %d producers, batch %d, %s%s", r.Events, o.Size, o.FanOut, o.Producers, o.Batch, o.pace(), o.protocol()))
	row("machine", fmt.Sprintf("%s/%s, %d processors, %s", r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go))
	row("events/s", number(r.EventsPerSecond, 0), fmt.Sprintf("end to end, %s s", number(r.Seconds, 2)))
	if o.Records > 1 {
		row("records/s", number(r.DeliveriesPerSecond, 0), fmt.Sprintf("delivered, up to %d in a push", o.Records))
		row("pushes/s", number(r.PushesPerSecond, 0), fmt.Sprintf("%s records each", number(float64(r.Deliveries)/float64(max(r.Pushes, 1)), 1)))
	} else {
		row("deliveries/s", number(r.DeliveriesPerSecond, 0))
	}
	row("acknowledged/s", number(r.AckedPerSecond, 0), fmt.Sprintf("%d requests, %d refused and sent again", r.Requests, r.Refused))
	row()
	row("latency, ms", "p50", "p90", "p99", "max")
	latency := func(name string, l Latency) {
		row(name, number(l.P50, 2), number(l.P90, 2), number(l.P99, 2), number(l.Max, 2))
	}
	latency("  acknowledged", r.Ack)
	latency("  delivered", r.EndToEnd)
	if r.Lateness != nil {
		latency("  generator late", *r.Lateness)
	}
	if d := r.Disk; d != nil {
		row("  disk, 4 KiB synced", number(d.BusyP50, 2), "", number(d.BusyP99, 2), "", "back to back")
		row("  ", number(d.SpacedP50, 2), "", number(d.SpacedP99, 2), "", "one each 10 ms")
	}
	row()
	d := r.Daemon
	row("CPU µs/event", optional(d.CPUPerEvent, 1), fmt.Sprintf("%s processors busy; load and receivers %s µs/event", optional(d.Cores, 2), optional(r.LoadCPUPerEvent, 1)))
	if o.Records > 1 {
		row("CPU µs/push", optional(d.CPUPerDelivery, 1))
	} else {
		row("CPU µs/delivery", optional(d.CPUPerDelivery, 1))
	}
	row("others", optional(r.OthersCores, 2), "processors taken by other programs and the host meanwhile")
	row("memory, MiB", mebibytes(d.PeakRSS), fmt.Sprintf("resident at the peak; %s before the load", mebibytes(d.IdleRSS)))
	row("bytes/event", optional(d.DiskPerEvent, 0), fmt.Sprintf("to the disk; %s in write calls with sockets", optional(d.WrittenPerEvent, 0)))
	row("commits/s", optional(d.CommitsPerSecond, 0), optional(d.EventsPerCommit, 1)+" events each")
	if r.TLS != nil {
		r.TLS.row(row)
	}
	row()
	r.findingRows(row, r.Deliveries)
	if u := r.Failing; u != nil {
		row("failing receivers", strconv.Itoa(u.Receivers), fmt.Sprintf("%d pushes answered 500; the figures above are the healthy receivers'", u.Pushes))
	}
	if u := r.Hanging; u != nil {
		row("hanging receivers", strconv.Itoa(u.Receivers), fmt.Sprintf("%d pushes never answered; the figures above are the healthy receivers'", u.Pushes))
	}
	if c := r.Ceilings; c != nil {
		row()
		row("ceilings", number(c.Ingest, 0), "events/s into a bare server")
		row("  ", number(c.Deliver, 0), "deliveries/s of the bare sender")
		row("  ", number(c.Bound, 0), "events/s from both on the same processors")
		row("ratio", number(c.Ratio, 2), "end to end over that bound")
	}
	return t.Flush()
}

// pace says how the load was driven.
func (o Options) pace() string {
	if o.Rate > 0 {
		return number(o.Rate, 0) + " events/s"
	}
	return "as fast as it goes"
}

// protocol says how the pushes travelled, if not as usual.
func (o Options) protocol() string {
	switch {
	case o.HTTP2:
		return ", HTTPS with HTTP/2"
	case o.TLS:
		return ", HTTPS with HTTP/1.1"
	default:
		return ""
	}
}

func number(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

// optional prints a figure the system may not tell.
func optional(v *float64, digits int) string {
	if v == nil {
		return "n/a"
	}
	return number(*v, digits)
}

func mebibytes(n *int64) string {
	if n == nil {
		return "n/a"
	}
	return number(float64(*n)/(1<<20), 1)
}
