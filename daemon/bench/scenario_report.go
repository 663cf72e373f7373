package bench

import (
	"fmt"
	"io"
	"strconv"
)

// ScenarioReport is the result of --bad, --backlog, --replay and --devices, as --json prints it. Times are milliseconds unless the
// name says otherwise.
type ScenarioReport struct {
	Options Options `json:"options"`
	Machine Machine `json:"machine"`
	Disk    *Disk   `json:"disk"`
	IdleRSS *int64  `json:"idleRSS,omitempty"` // bytes resident before the load

	Isolation *Isolation `json:"isolation,omitempty"`
	Backlog   *Backlog   `json:"backlog,omitempty"`
	Replay    *Replay    `json:"replay,omitempty"`
	Devices   *Devices   `json:"devices,omitempty"`

	Deliveries int64 `json:"deliveries"` // that arrived at receivers that were meant to get them, each counted once
	Findings
}

// problem returns what the report says is wrong with the daemon, or nil. Missed goals are not: a busy machine
// misses them, too.
func (r *ScenarioReport) problem() error {
	err := r.Findings.problem(r.Deliveries)
	if err == nil && r.Isolation != nil {
		err = r.Isolation.problem()
	}
	if err == nil && r.Backlog != nil {
		err = r.Backlog.problem()
	}
	if err == nil && r.Replay != nil {
		err = r.Replay.problem()
	}
	if err == nil && r.Devices != nil {
		err = r.Devices.problem()
	}
	return err
}

// writeTable prints the report for people.
func (r *ScenarioReport) writeTable(w io.Writer) error {
	t, row := table(w)
	o := r.Options
	shape := fmt.Sprintf("events of %d bytes, fan-out %d, %d producers, batch %d, up to %d records in a push", o.Size, o.FanOut, o.Producers, o.Batch, o.Records)
	if r.Devices != nil {
		shape = fmt.Sprintf("notifications of one device each, %d producers", o.Producers)
	}
	row("load", shape)
	row("stretches", fmt.Sprintf("%s s each, paced ones at %s events/s", number(o.DurationSeconds, 0), number(o.Rate, 0)))
	row("machine", fmt.Sprintf("%s/%s, %d processors, %s", r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go))
	row("memory, MiB", mebibytes(r.IdleRSS), "resident before the load")
	row()
	if r.Isolation != nil {
		r.Isolation.rows(row)
	}
	if r.Backlog != nil {
		r.Backlog.rows(row)
	}
	if r.Replay != nil {
		r.Replay.rows(row)
	}
	if r.Devices != nil {
		r.Devices.rows(row)
	}
	row()
	r.findingRows(row, r.Deliveries)
	return t.Flush()
}

// stretchHead and stretchRow print stretches as a table.
func stretchHead(row func(...string)) {
	row("stretch", "events/s", "ack p50", "p99", "end to end p50", "p99", "usual p99", "max ms", "CPU µs/event", "commits/s", "others", "disk p99")
}

func (s *Stretch) row(row func(...string), name string) {
	rate := s.EventsPerSecond
	if rate == 0 {
		rate = s.AckedPerSecond // nobody received them
	}
	cells := []string{"  " + name, number(rate, 0), number(s.Ack.P50, 2), number(s.Ack.P99, 2), "", "", "", ""}
	if s.EndToEnd.Count > 0 {
		cells = append(cells[:4], number(s.EndToEnd.P50, 2), number(s.EndToEnd.P99, 2), number(s.UsualP99, 2), number(s.EndToEnd.Max, 1))
	}
	row(append(cells, optional(s.CPUPerEvent, 1), optional(s.CommitsPerSecond, 0), optional(s.OthersCores, 2), number(s.DiskP99, 2))...)
}

func (c *Condition) rows(row func(...string), name string) {
	c.Paced.row(row, name+", paced")
	c.Full.row(row, name+", full")
}

// goal prints a ratio with what is asked of it.
func goal(row func(...string), name string, value float64, asked string) {
	row(name, number(value, 2), "asked "+asked)
}

func (i *Isolation) rows(row func(...string)) {
	row("bad", strconv.Itoa(i.Bad), fmt.Sprintf("hanging, as many refusing connections, as many answering 500; %d events waiting for each", i.Pending))
	row()
	stretchHead(row)
	for n := range i.Beside {
		i.Alone[n].rows(row, "alone")
		i.Beside[n].rows(row, "beside")
	}
	i.Alone[len(i.Alone)-1].rows(row, "alone")
	if i.Kill != nil {
		i.Kill.Stretch.row(row, "beside, killed")
	}
	row()
	row("beside/alone", "paced", "", "each beside over the mean of the two alone around it, the median of the rounds; latencies end to end")
	row("  p50", number(i.PacedP50Ratio, 2))
	goal(row, "  p99", i.PacedP99Ratio, "1.5 at most")
	row("  usual p99", number(i.PacedUsualP99Ratio, 2), "the median of the 99th percentiles of single seconds")
	row("  rate", number(i.PacedRateRatio, 2))
	row("beside/alone", "full")
	row("  p99", number(i.FullP99Ratio, 2))
	goal(row, "  rate", i.FullRateRatio, "0.90 at least")
	row("  CPU/event", number(i.FullCPURatio, 2))
	row()
	row("hanging", strconv.Itoa(i.Hanging.Receivers), fmt.Sprintf("%d pushes never answered", i.Hanging.Pushes))
	row("failing", strconv.Itoa(i.Failing.Receivers), fmt.Sprintf("%d pushes answered 500", i.Failing.Pushes))
	row("waiting", strconv.FormatInt(i.Held, 10), fmt.Sprintf("deliveries to the bad, of %d", i.Expected))
	i.Kill.rows(row)
}

func (k *Kill) rows(row func(...string)) {
	if k == nil {
		return
	}
	row("killed", number(k.Restart.ReadySeconds, 2), fmt.Sprintf("s until ready again; %d requests broke and were sent again", k.Resent))
}

func (b *Backlog) rows(row func(...string)) {
	row("backlog", strconv.FormatInt(b.Events, 10), fmt.Sprintf("events, published in %s s: %s events/s, %d requests refused and sent again",
		number(b.FillSeconds, 1), number(b.FillPerSecond, 0), b.FillRefused))
	b.Kill.rows(row)
	row()
	stretchHead(row)
	b.Empty.rows(row, "empty")
	b.Beside.rows(row, "beside")
	if b.EmptyAgain != nil {
		b.EmptyAgain.rows(row, "empty again")
	}
	row()
	goal(row, "ingestion", b.IngestRatio, "0.80 at least; beside over the mean without a backlog")
	row("  CPU/event", number(b.IngestCPURatio, 2))
	row("full rate", number(b.FullRateRatio, 2))
	row("  CPU/event", number(b.FullCPURatio, 2))
	row("paced p99", number(b.PacedP99Ratio, 2))
	row()
	row("memory, MiB", "resident", "anonymous", "files", "peak", "heap in use", "on disk")
	b.Empty.Memory.row(row, "empty")
	b.Filled.row(row, "filled")
	b.Rested.row(row, "rested")
	b.Beside.Memory.row(row, "beside")
	for _, t := range b.Restarts {
		t.Memory.row(row, t.Stop+", "+t.Cache)
	}
	if b.EmptyAgain != nil {
		b.EmptyAgain.Memory.row(row, "empty again")
	}
	row("", "asked: resident under 200 at 1,000,000, heap under 150 at 5,000,000")
	row()
	row("starting, s", "stopped", "ready", "delivered", "cached", "waiting")
	for _, t := range b.Restarts {
		cached := "n/a"
		if t.Cached != nil {
			cached = number(*t.Cached*100, 0) + " %"
		}
		row("  "+t.Stop+", "+t.Cache, number(t.StopSeconds, 2), number(t.ReadySeconds, 3), number(t.DeliverySeconds, 3), cached, strconv.FormatInt(t.Held, 10))
	}
	row("", "asked: ready within 3 s warm and 10 s cold; cold: data written back and dropped with posix_fadvise")
	if g := b.Drain; g != nil {
		row()
		row("delivered", strconv.FormatInt(g.Records, 10), fmt.Sprintf("of the backlog in %s s: %s records/s in %d pushes; the first after %s s, %d made due by hand",
			number(g.Seconds, 1), number(g.RecordsPerSecond, 0), g.Pushes, number(g.FirstSeconds, 2), g.Retried))
	}
}

func (s *Situation) rows(row func(...string), name string) {
	s.Ingest.row(row, name+", ingestion")
	s.Condition.rows(row, name)
}

func (m *Memory) row(row func(...string), name string) {
	row("  "+name, mebibytes(m.RSS), mebibytes(m.RSSAnon), mebibytes(m.RSSFile), mebibytes(m.PeakRSS), mebibytes(m.Heap), mebibytes(&m.Files))
}
