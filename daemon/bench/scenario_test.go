package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// staged runs a scenario with short stretches.
func staged(t *testing.T, fault string, args ...string) (*ScenarioReport, error) {
	t.Helper()
	return printed[ScenarioReport](t, fault, append([]string{"--duration", "150ms", "--producers", "4"}, args...)...)
}

// whole tells whether a stretch has its figures.
func (s *Stretch) whole() bool {
	return s.Events > 0 && s.EventsPerSecond > 0 && s.AckedPerSecond > 0 && s.EndToEnd.Count >= uint64(s.Events) &&
		s.Ack.P99 > 0 && (s.UsualP99 > 0 || !usual(s.EndToEnd.Count, s.Seconds)) && s.DiskP99 > 0
}

// usual tells whether so many events came, in so many seconds and the two that were cut, that one second has the twenty which make
// a figure of their own. On a busy machine there are fewer.
func usual(events uint64, seconds float64) bool { return float64(events) >= 20*(seconds+2) }

func (c *Condition) whole() bool {
	return c.Paced.whole() && c.Full.whole() && c.Paced.Lateness != nil && c.Full.Lateness == nil && c.Paced.Events == 30
}

func TestRunIsolation(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"plain":   {"--bad", "2", "--bad-pending", "10", "--rounds", "2"},
		"batches": {"--bad", "1", "--bad-pending", "20", "--records", "5", "--batch", "10", "--rounds", "1"},
		"fan-out": {"--bad", "1", "--bad-pending", "5", "--fan-out", "2", "--rounds", "1"},
		"killed":  {"--bad", "1", "--bad-pending", "10", "--kill", "--rounds", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := staged(t, "", args...)
			if err != nil {
				t.Fatal(err)
			}
			i := r.Isolation
			if i == nil || r.Backlog != nil || len(i.Beside) != r.Options.Rounds || len(i.Alone) != len(i.Beside)+1 {
				t.Fatalf("report %+v", i)
			}
			known := true // the usual figures of the paced stretches
			for _, c := range append(i.Alone, i.Beside...) {
				if !c.whole() {
					t.Errorf("condition %+v", c)
				}
				known = known && c.Paced.UsualP99 > 0
			}
			if i.Held != i.Expected || i.Expected != 3*int64(i.Bad)*i.Pending*int64(len(i.Beside)) || r.Lost != 0 || r.Verified == 0 {
				t.Errorf("%d of %d held, findings %+v", i.Held, i.Expected, r.Findings)
			}
			if i.Hanging.Receivers != i.Bad || i.Failing.Receivers != i.Bad || i.Hanging.Pushes == 0 || i.Failing.Pushes == 0 {
				t.Errorf("hanging %+v, failing %+v", i.Hanging, i.Failing)
			}
			if i.PacedP50Ratio <= 0 || i.PacedP99Ratio <= 0 || known && i.PacedUsualP99Ratio <= 0 || i.PacedRateRatio <= 0 || i.FullRateRatio <= 0 || i.FullP99Ratio <= 0 {
				t.Errorf("ratios %+v", i)
			}
			if (i.Kill != nil) != (name == "killed") {
				t.Fatalf("kill %+v", i.Kill)
			}
			if k := i.Kill; k != nil && (k.Stretch.Events != 30 || k.Restart.Stop != "kill" || k.Restart.ReadySeconds <= 0) {
				t.Errorf("kill %+v %+v", k.Stretch, k.Restart)
			}
			if r.Options.DurationSeconds != 0.15 || r.Options.Rate != defaultPace || r.Options.Events != 0 {
				t.Errorf("options %+v", r.Options)
			}
		})
	}
}

func TestRunBacklog(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"plain":   {"--backlog", "60"},
		"killed":  {"--backlog", "1200", "--records", "100", "--kill"},
		"counted": {"--backlog", "30", "--no-drain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := staged(t, "", args...)
			if err != nil {
				t.Fatal(err)
			}
			b := r.Backlog
			if b == nil || r.Isolation != nil || !b.Empty.whole() || !b.Beside.whole() || b.Empty.Ingest.AckedPerSecond <= 0 {
				t.Fatalf("report %+v", b)
			}
			if b.Events != r.Options.Backlog || b.Held != b.Events || r.Lost != 0 || b.IngestRatio <= 0 || b.FullRateRatio <= 0 || *b.Rested.Heap != 10<<20 || b.PacedP99Ratio <= 0 {
				t.Errorf("backlog %+v, findings %+v", b, r.Findings)
			}
			if m := b.Filled; *m.Heap != 10<<20 || m.Files == 0 || (runtime.GOOS == "linux" && (*m.RSS < *m.RSSAnon || *m.RSSAnon <= 0 || *m.RSSFile <= 0)) {
				t.Errorf("memory %+v", m)
			}
			if (b.Drain == nil) != (name == "counted") || (b.EmptyAgain == nil) != (name == "counted") || (b.Kill == nil) != (name != "killed") {
				t.Fatalf("report %+v", b)
			}
			if d := b.Drain; d != nil && (d.Records != b.Events || d.RecordsPerSecond <= 0 || d.Pushes == 0 || d.Retried != 0 || !b.EmptyAgain.whole()) {
				t.Errorf("delivered %+v", d)
			}
			if name == "killed" && (b.Drain.Pushes >= 60 || b.Kill.Restart.Stop != "kill") {
				t.Errorf("delivered %+v, kill %+v", b.Drain, b.Kill)
			}
			checkRestarts(t, b)
		})
	}
}

func TestRunReplay(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"plain":   {"--replay", "80", "--replay-rate", "200", "--rounds", "2"},
		"batches": {"--replay", "200", "--records", "5", "--batch", "10", "--rounds", "1"},
		"short":   {"--replay", "40", "--rounds", "1", "--warm-up", "0"},
		"killed":  {"--replay", "600", "--rounds", "1", "--kill"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := staged(t, "", args...)
			if err != nil {
				t.Fatal(err)
			}
			p, rounds := r.Replay, r.Options.Rounds
			if p == nil || r.Isolation != nil || r.Backlog != nil || len(p.Alone) != rounds+1 {
				t.Fatalf("report %+v", p)
			}
			if p.Events != r.Options.Replay || p.Arrived != p.Events || r.Lost != 0 || r.Strays != 0 || r.Verified == 0 || p.Rate != r.Options.ReplayRate || p.FillPerSecond <= 0 {
				t.Errorf("replay %+v, findings %+v", p, r.Findings)
			}
			for n := range p.Alone {
				if s := &p.Alone[n]; !s.whole() || len(s.Each) != 2 || s.Each[0].EndToEnd.P99 <= 0 || s.Each[1].UsualP99 <= 0 && usual(s.Each[1].EndToEnd.Count, s.Seconds) || s.Each[0].EndToEnd.Count+s.Each[1].EndToEnd.Count != s.EndToEnd.Count {
					t.Errorf("alone %+v", s)
				}
			}
			made := int64(0)
			for _, part := range p.Parts {
				made += part.Deliveries
				// A short one may be over before there is a live event, or before it is looked at.
				if part.State != replayDone || name != "short" && (part.Live.Seconds <= 0 || part.Beside != nil && part.Beside.Deliveries == 0) {
					t.Errorf("part %+v", part)
				}
			}
			if made != p.Events || (p.Kill != nil) != (name == "killed") || len(p.Parts) != (&Command{Rounds: rounds, Kill: r.Options.Kill}).replayParts() {
				t.Fatalf("%d deliveries in %d parts, kill %+v", made, len(p.Parts), p.Kill)
			}
			if k := p.Kill; k != nil && (k.Stretch.Events != 30 || k.Restart.Stop != "kill" || k.Restart.ReadySeconds <= 0) {
				t.Errorf("kill %+v %+v", k.Stretch, k.Restart)
			}
			// 300 events at 1,000 a second go on after the live ones of 150 ms; where those take longer nothing is left.
			if rest := p.Parts[0].Rest; name == "killed" {
				left := 300 - p.Parts[0].Beside.Deliveries
				if rest == nil && left != 0 || rest != nil && (rest.Deliveries == 0 || rest.Deliveries != left) {
					t.Errorf("the rest %+v of %d", rest, left)
				}
				// On a busy machine the rest may catch up with the rate, but all of it cannot be far ahead.
				if beside := p.Parts[0].Beside; rest != nil && 300/(beside.Seconds+rest.Seconds) > 2000 {
					t.Errorf("beside live events %+v, and then %+v, at 1,000 a second", beside, rest)
				}
			}
			// The live events end with the replay, unless it took as long as they do alone.
			if part := p.Parts[0]; name == "short" && part.Live.Events >= p.Alone[0].Events && part.Beside.Seconds < p.Alone[0].Seconds/2 {
				t.Errorf("%d events beside a replay of %v s, %d alone in %v s", part.Live.Events, part.Beside.Seconds, p.Alone[0].Events, p.Alone[0].Seconds)
			}
			for i, q := range []ReplayRatios{p.Same, p.Other} {
				known := !slices.ContainsFunc(p.Alone, func(s Stretch) bool { return s.Each[i].UsualP99 == 0 }) &&
					!slices.ContainsFunc(p.Parts, func(part *ReplayPart) bool { return part.Live.Each[i].UsualP99 == 0 })
				if name != "short" && (q.P50Ratio <= 0 || q.P99Ratio <= 0 || known && q.UsualP99Ratio <= 0) {
					t.Errorf("ratios %+v", q)
				}
			}
			if runtime.GOOS == "linux" && (*p.PeakAlone.RSSAnon <= 0 || *p.PeakBeside.RSS < *p.PeakBeside.RSSAnon || *p.Before.RSS <= 0) {
				t.Errorf("memory %+v %+v", p.PeakAlone, p.PeakBeside)
			}
		})
	}
}

func checkRestarts(t *testing.T, b *Backlog) {
	t.Helper()
	ways := make([]string, 0, 4)
	for _, s := range b.Restarts {
		ways = append(ways, s.Stop+" "+s.Cache)
		if s.ReadySeconds <= 0 || s.DeliverySeconds < s.ReadySeconds || s.Held != b.Events || s.Memory == nil || s.StopSeconds < 0 {
			t.Errorf("restart %+v", s)
		}
		if s.Stop == "clean" && s.StopSeconds < 0.1 {
			t.Errorf("the daemon was not left to end: %+v", s)
		}
		if s.Cached != nil && s.Cache == "cold" && *s.Cached > 0.1 {
			t.Errorf("not cold: %v", *s.Cached)
		}
	}
	want := "clean warm, kill warm, clean cold, kill cold"
	if got := strings.Join(ways, ", "); got != want && (runtime.GOOS == "linux" || got != "clean warm, kill warm") {
		t.Errorf("restarts %s", got)
	}
}

func TestRunStagedFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault string
		args  []string
		want  error
		text  string
	}{
		"bad-forget":  {"forget", []string{"--bad", "1", "--bad-pending", "10", "--kill", "--rounds", "1"}, ErrLost, "29 of 30 deliveries waited"},
		"forget":      {"forget", []string{"--backlog", "30", "--no-drain"}, ErrLost, "29 of 30"},
		"fill-forget": {"forget", []string{"--backlog", "3000", "--kill"}, ErrLost, "after filling"},
		"bad-corrupt": {"corrupt", []string{"--bad", "1", "--bad-pending", "1", "--rounds", "1"}, ErrWrong, ""},
		"forge":       {"forge", []string{"--backlog", "5"}, ErrWrong, ""},
		"omit":        {"omit", []string{"--replay", "20", "--rounds", "1"}, ErrLost, "1 deliveries of 1"},
		"unmarked":    {"unmarked", []string{"--replay", "20", "--rounds", "1"}, ErrLost, "20 deliveries of 20"},
		"endless":     {"endless", []string{"--replay", "20", "--rounds", "1"}, ErrWrong, "the replay of part 1 was running"},
		"marked":      {"marked", []string{"--replay", "20", "--rounds", "1"}, ErrLost, "warming up"},
		"unclean":     {"unclean", []string{"--backlog", "5"}, nil, "did not end in good order"},
		"once":        {"once", []string{"--backlog", "5"}, errEnded, "this one starts only once"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := staged(t, test.fault, test.args...)
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %v, %q", err, test.want, test.text)
			}
		})
	}
}

func TestRunBacklogMakesRetriesDue(t *testing.T) {
	t.Parallel()
	r, err := staged(t, "stuck", "--backlog", "20", "--grace", "20s")
	if err != nil || r.Backlog.Drain.Retried != 1 || r.Backlog.Drain.Records != 20 {
		t.Fatalf("error %v, report %+v", err, r)
	}
}

func TestRunScenarioTables(t *testing.T) {
	t.Parallel()
	for scenario, wants := range map[string][]string{
		"--replay=60": {"beside, killed", "same p50", "asked 1.5 at most", "most beside", "events replayed, of 60", "s until ready again"},
		"--bad=1":     {"beside, full", "beside, killed", "asked 1.5 at most", "usual p99", "deliveries to the bad, of 15", "duplicated"},
		"--devices=6": {"notifications of one device each", "apns, full", "webpush, killed", "asked 5000 at least", "to fcm, asked 4 at most", "registered", "s until ready again"},
		"--backlog=9": {"empty again, ingestion", "heap in use", "ready", "asked 0.80 at least", "of the backlog in", "killed"},
	} {
		t.Run(scenario, func(t *testing.T) {
			t.Parallel()
			c := parse(t, scenario, "--bad-pending", "5", "--rounds", "1", "--kill", "--duration", "200ms", "--dir", filepath.Join(t.TempDir(), "d"), "--warm-up", "5")
			var out, notes bytes.Buffer
			if err := c.Run(t.Context(), &out, &notes); err != nil {
				t.Fatal(err)
			}
			for _, want := range wants {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in the table:\n%s", want, out.String())
				}
			}
		})
	}
}

func TestScenarioProblems(t *testing.T) {
	t.Parallel()
	well := Findings{Verified: 1}
	for name, test := range map[string]struct {
		report ScenarioReport
		want   error
	}{
		"well":            {ScenarioReport{Deliveries: 1, Findings: well, Isolation: &Isolation{Held: 3, Expected: 3}}, nil},
		"too few":         {ScenarioReport{Deliveries: 1, Findings: well, Isolation: &Isolation{Held: 2, Expected: 3}}, ErrLost},
		"too many":        {ScenarioReport{Deliveries: 1, Findings: well, Isolation: &Isolation{Held: 4, Expected: 3}}, ErrWrong},
		"lost":            {ScenarioReport{Deliveries: 1, Findings: Findings{Verified: 1, Lost: 1}}, ErrLost},
		"backlog":         {ScenarioReport{Deliveries: 1, Findings: well, Backlog: &Backlog{Events: 5, Held: 5, Restarts: []*Restart{{Held: 5}}}}, nil},
		"backlog too few": {ScenarioReport{Deliveries: 1, Findings: well, Backlog: &Backlog{Events: 5, Held: 4}}, ErrLost},
		"replay":          {ScenarioReport{Deliveries: 1, Findings: well, Replay: &Replay{Parts: []*ReplayPart{{State: replayDone}}}}, nil},
		"replay runs on":  {ScenarioReport{Deliveries: 1, Findings: well, Replay: &Replay{Parts: []*ReplayPart{{State: "running"}}}}, ErrWrong},
		"devices":         {ScenarioReport{Deliveries: 1, Findings: well, Devices: &Devices{Providers: []*Notification{{Connections: maxConnections}}}}, nil},
		"connections":     {ScenarioReport{Deliveries: 1, Findings: well, Devices: &Devices{Providers: []*Notification{{Connections: maxConnections + 1}}}}, ErrWrong},
		"faults":          {ScenarioReport{Deliveries: 1, Findings: well, Devices: &Devices{Faults: []string{"apns: no topic"}}}, ErrWrong},
		"after a restart": {ScenarioReport{Deliveries: 1, Findings: well, Backlog: &Backlog{Events: 5, Held: 5, Restarts: []*Restart{{Held: 4}}}}, ErrLost},
	} {
		if err := test.report.problem(); !errors.Is(err, test.want) || (test.want == nil && err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRatios(t *testing.T) {
	t.Parallel()
	if ratio(3, 1, 2) != 2 || ratio(3) != 0 || ratio(3, 0, 0) != 0 {
		t.Error("ratio")
	}
	c := func(p50, p99, usual, rate, fullP99, fullRate float64) Condition {
		return Condition{
			Stretch{EndToEnd: Latency{P50: p50, P99: p99}, UsualP99: usual, EventsPerSecond: rate},
			Stretch{EndToEnd: Latency{P99: fullP99}, EventsPerSecond: fullRate},
		}
	}
	cpu := 3.0
	if told(nil) != 0 || told(&cpu) != 3 {
		t.Error("told")
	}
	if median(nil) != 0 || median([]float64{3, 1, 2}) != 2 || median([]float64{4, 1, 2, 3}) != 2.5 {
		t.Error("median")
	}
	i := Isolation{
		Alone:  []Condition{c(1, 2, 4, 200, 10, 1000), c(2, 6, 4, 200, 30, 500), c(2, 6, 4, 200, 30, 500), c(2, 6, 4, 200, 30, 500)},
		Beside: []Condition{c(3, 8, 10, 100, 40, 600), c(1, 1, 1, 1, 1, 1), c(900, 900, 900, 900, 900, 900)},
	}
	i.compare()
	if i.PacedP50Ratio != 2 || i.PacedP99Ratio != 2 || i.PacedUsualP99Ratio != 2.5 || i.PacedRateRatio != 0.5 || i.FullP99Ratio != 2 || i.FullRateRatio != 0.8 {
		t.Errorf("%+v", i)
	}
	each := func(other, same float64) Stretch {
		d := func(v float64) Delay { return Delay{Latency{P50: v, P99: 10 * v}, 100 * v} }
		return Stretch{Each: []Delay{d(other), d(same)}}
	}
	beside := func(other, same float64) *ReplayPart {
		s := each(other, same)
		return &ReplayPart{Live: &s}
	}
	p := Replay{
		Alone: []Stretch{each(1, 2), each(3, 2), each(3, 2), each(3, 2)},
		// The last one is that of the kill.
		Parts: []*ReplayPart{beside(4, 3), beside(6, 8), beside(3, 2), beside(90, 90)},
	}
	p.compare()
	if p.Other != (ReplayRatios{2, 2, 2}) || p.Same != (ReplayRatios{1.5, 1.5, 1.5}) {
		t.Errorf("%+v", p)
	}
	if a := (paceMark{at: 1e9, delivered: 5, daemon: usage{CPU: time.Second}}).pace(paceMark{at: 9e9, last: 3e9, delivered: 25, daemon: usage{CPU: 1002 * time.Millisecond, DiskBytes: 80}}); a.Deliveries != 20 || a.Seconds != 2 || a.PerSecond != 10 || *a.CPUPerDelivery != 100 || *a.DiskPerDelivery != 4 {
		t.Errorf("%+v", a)
	}
	b := Backlog{
		Empty:      Situation{Ingest: Stretch{AckedPerSecond: 100}, Condition: c(0, 1, 0, 0, 0, 50)},
		Beside:     Situation{Ingest: Stretch{AckedPerSecond: 80}, Condition: c(0, 4, 0, 0, 0, 30)},
		EmptyAgain: &Situation{Ingest: Stretch{AckedPerSecond: 60}, Condition: c(0, 3, 0, 0, 0, 10)},
	}
	b.compare()
	if b.IngestRatio != 1 || b.FullRateRatio != 1 || b.PacedP99Ratio != 2 {
		t.Errorf("%+v", b)
	}
	b.EmptyAgain = nil
	if b.compare(); b.IngestRatio != 0.8 || b.FullRateRatio != 0.6 || b.PacedP99Ratio != 4 {
		t.Errorf("%+v", b)
	}
}

func TestLedgerUsualP99(t *testing.T) {
	t.Parallel()
	l := newLedger(0, 1, time.Now())
	l.seconds = make([]atomic.Pointer[histogram], 5)
	// Four whole seconds of 1, 2, 300 and 3 ms, one that is only begun, and one beyond the end.
	seq := int64(0)
	for second, ms := range []int64{1, 2, 300, 3, 900, 900} {
		n := int64(100)
		if second == 4 {
			n = 3
		}
		for range n {
			at := int64(second) * int64(time.Second)
			if err := l.begin(seq, at); err != nil {
				t.Fatal(err)
			}
			l.arrive(0, seq, at+ms*int64(time.Millisecond), []byte("x"))
			seq++
		}
	}
	if got := l.usualP99(); got != 2*time.Millisecond {
		t.Errorf("usual %v", got)
	}
	if l.endToEnd.count.Load() != uint64(seq) || l.endToEnd.quantile(0.99) < 290*time.Millisecond {
		t.Errorf("%d in all, p99 %v", l.endToEnd.count.Load(), l.endToEnd.quantile(0.99))
	}
	if newLedger(0, 1, time.Now()).usualP99() != 0 {
		t.Error("from nothing")
	}
}

func TestPort(t *testing.T) {
	t.Parallel()
	p, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	dial := func() error {
		c, err := net.DialTimeout("tcp", p.addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port that nobody listens on: %v", err)
	}
	if l, err := net.Listen("tcp", p.addr); err == nil && runtime.GOOS == "linux" {
		_ = l.Close()
		t.Error("somebody else took the port")
	}
	l, err := p.listen()
	if err != nil {
		t.Fatal(err)
	}
	p.close()
	if err := dial(); err != nil || l.Addr().String() != p.addr {
		t.Errorf("listening on %s: %v", l.Addr(), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestDropCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	warm, err := cachedShare(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := dropCache(dir); err != nil {
		if runtime.GOOS == "linux" || !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		return
	}
	cold, err := cachedShare(dir)
	// A file system in memory forgets nothing.
	if err != nil || (warm >= 0 && cold > 0.01 && cold < 0.99) {
		t.Errorf("cached before %v, after %v, %v", warm, cold, err)
	}
	if err := dropCache(filepath.Join(dir, "absent")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

func TestLoadSendsAgainWhatBroke(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	h := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if n := requests.Add(1); n%4 == 2 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusAccepted)
	}
	l := &load{events: 20, producers: 2, resend: true}
	if _, err := published(t, l, h); err != nil || l.acked.Load() != 20 || l.resent.Load() == 0 || l.resent.Load() != requests.Load()-20 {
		t.Errorf("%v: %d acknowledged, %d sent again of %d", err, l.acked.Load(), l.resent.Load(), requests.Load())
	}
	// The end of the run ends the repeating too.
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	l = &load{events: 1, producers: 1, batch: 1, resend: true}
	l.shape = requestShape{host: strings.TrimPrefix(srv.URL, "http://"), path: "/events", data: buildData(minSize)}
	if _, err := l.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
