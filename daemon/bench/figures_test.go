package bench

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	write := func(files map[string]string) string {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "42"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(root, "42", name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	const (
		stat   = "42 (a (b) c) S 1 42 42 0 -1 4194560 2000 0 7 0 120 34 5 6 20 0 9 0 100 1000000 500 1844\n"
		counts = "rchar: 1\nwchar: 4096\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 8192\ncancelled_write_bytes: 7\n"
		status = "Name:\therald\nVmPeak:\t  900 kB\nVmHWM:\t   80 kB\nVmRSS:\t   50 kB\nRssAnon:\t   30 kB\nRssFile:\t   19 kB\nRssShmem:\t    1 kB\nThreads:\t9\n"
	)
	for name, test := range map[string]struct {
		files map[string]string
		want  usage
		err   bool
	}{
		"all": {
			map[string]string{"stat": stat, "io": counts, "status": status},
			usage{CPU: 1540 * time.Millisecond, Written: 4096, DiskBytes: 8192, RSS: 50 << 10, RSSAnon: 30 << 10, RSSFile: 19 << 10, PeakRSS: 80 << 10},
			false,
		},
		"none":          {nil, unknownUsage, false},
		"a zombie":      {map[string]string{"status": "Name:\therald\n"}, unknownUsage, false},
		"no name":       {map[string]string{"stat": "42 herald S"}, unknownUsage, true},
		"few fields":    {map[string]string{"stat": "42 (herald) S 1 2 3"}, unknownUsage, true},
		"no number":     {map[string]string{"stat": strings.Replace(stat, "120", "many", 1)}, unknownUsage, true},
		"no count":      {map[string]string{"io": "wchar: lots\n"}, unknownUsage, true},
		"no size":       {map[string]string{"status": "VmRSS:\t50 MB\n"}, unknownUsage, true},
		"negative tick": {map[string]string{"stat": strings.Replace(stat, "120", "1e2", 1)}, unknownUsage, true},
	} {
		got, err := usageOf(write(test.files), 42)
		if got != test.want || (err != nil) != test.err {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if u, err := usageOf("/proc", os.Getpid()); runtime.GOOS == "linux" && (err != nil || u.PeakRSS < u.RSS || u.RSS < 1<<20) {
		t.Errorf("this process: %+v, %v", u, err)
	}
}

func TestMachineBusy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"cpu  100 20 30 9999 8888 4 5 6 70 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n": 1650 * time.Millisecond,
		"cpu  100 20 30 9999\n":                   -1,
		"cpu0 100 20 30 9999 8888 4 5 6 70 8\n":   -1,
		"cpu  100 20 30 9999 8888 4 5 six 70 8\n": -1,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := machineBusy(dir); got != want || (err == nil) != (want >= 0) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if got, err := machineBusy(t.TempDir()); got != -1 || err != nil {
		t.Errorf("without the file: %v, %v", got, err)
	}
}

func TestSumMetric(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		sum   float64
		found bool
		err   bool
	}{
		"": {},
		"# HELP herald_queue_commits_total x\n# TYPE herald_queue_commits_total counter\n": {},
		"herald_queue_commits_total 7\n": {7, true, false},
		"herald_queue_commits_total{kind=\"a\"} 7\nother 5\nherald_queue_commits_total{kind=\"b}\"} 1.5e1 1700000000\n": {22, true, false},
		"herald_queue_commits_total_more 7\nherald_queue_commits 1\n":                                                   {},

		"herald_queue_commits_total{ 7\n":    {0, false, true},
		"herald_queue_commits_total{}\n":     {0, false, true},
		"herald_queue_commits_total seven\n": {0, false, true},
	} {
		sum, found, err := sumMetric(text, commitsMetric)
		if sum != want.sum || found != want.found || (err != nil) != want.err {
			t.Errorf("%q: %v, %v, %v", text, sum, found, err)
		}
	}
}

func TestQuantileOf(t *testing.T) {
	t.Parallel()
	times := make([]time.Duration, 100)
	for i := range times {
		times[i] = time.Duration(i + 1)
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.01: 1, 0.5: 50, 0.505: 51, 0.9: 90, 0.99: 99, 1: 100} {
		if got := quantileOf(times, q); got != want {
			t.Errorf("%v: %d, want %d", q, got, want)
		}
	}
	if quantileOf(nil, 0.5) != 0 || quantileOf(times[:1], 0.99) != 1 {
		t.Error("short samples")
	}
}

func TestProbeDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := probeDisk(t.Context(), dir, 10, 3)
	if err != nil || d.BusyP50 <= 0 || d.BusyP99 < d.BusyP50 || d.SpacedP50 <= 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := probeDisk(t.Context(), filepath.Join(dir, "absent"), 10, 3); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestNewCeilings(t *testing.T) {
	t.Parallel()
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9*math.Max(a, b) }
	if c := newCeilings(60000, 30000, 1, 10000); !near(c.Bound, 20000) || !near(c.Ratio, 0.5) {
		t.Errorf("%+v", c)
	}
	// Ten deliveries an event: 1/(1/60000 + 10/30000).
	if c := newCeilings(60000, 30000, 10, 2000); !near(c.Bound, 20000.0/7) || !near(c.Ratio, 0.7) {
		t.Errorf("%+v", c)
	}
	if c := newCeilings(0, 30000, 1, 1); c.Bound != 0 || c.Ratio != 0 {
		t.Errorf("%+v", c)
	}
}

func TestReportArithmetic(t *testing.T) {
	t.Parallel()
	rs := &receivers{}
	for kind := range behaviour(3) {
		r := &receiver{behaviour: kind}
		rs.all = append(rs.all, r)
		if kind == healthy {
			rs.healthy = append(rs.healthy, r)
			r.verified.Store(3)
		}
	}
	book := newLedger(0, 1, time.Now())
	l := &load{rate: 100}
	for seq := range int64(100) {
		if err := book.begin(seq, seq); err != nil {
			t.Fatal(err)
		}
		book.arrive(0, seq, seq+int64(2*time.Millisecond), []byte("x"))
		book.ack(seq, []byte("x"))
		l.acks.add(time.Millisecond)
	}
	l.refused.Store(5)
	var r Report
	r.account(outcome{
		load: l, book: book, sent: loadResult{issued: 100, elapsed: 250 * time.Millisecond}, audit: book.audit(100),
		wall: 500 * time.Millisecond,
		before: sample{
			daemon: usage{CPU: time.Second, Written: 1000, DiskBytes: 0, RSS: 1, PeakRSS: 2}, self: time.Second, commits: 10,
			pushes: [3]int64{5, 5, 5}, machine: time.Minute, at: time.Unix(100, 0),
		},
		after: sample{
			daemon: usage{CPU: time.Second + 10*time.Millisecond, Written: 201000, DiskBytes: 409600, RSS: 1 << 20, PeakRSS: 3 << 20},
			self:   time.Second + 2*time.Millisecond, commits: 60, pushes: [3]int64{105, 85, 25},
			machine: time.Minute + 512*time.Millisecond, at: time.Unix(101, 0),
		},
		busyCommits: 50, busyTime: 500 * time.Millisecond, receivers: rs,
	})
	for name, pair := range map[string][2]float64{
		"events/s":     {r.EventsPerSecond, 200},
		"deliveries/s": {r.DeliveriesPerSecond, 200},
		"acked/s":      {r.AckedPerSecond, 400},
		"CPU/event":    {*r.Daemon.CPUPerEvent, 100},
		"CPU/delivery": {*r.Daemon.CPUPerDelivery, 50}, // 200 pushes, to all kinds of receivers
		"cores":        {*r.Daemon.Cores, 0.02},
		"disk":         {*r.Daemon.DiskPerEvent, 4096},
		"written":      {*r.Daemon.WrittenPerEvent, 2000},
		"commits/s":    {*r.Daemon.CommitsPerSecond, 80},
		"events each":  {*r.Daemon.EventsPerCommit, 2},
		"load":         {*r.LoadCPUPerEvent, 20},
		"peak":         {float64(*r.Daemon.PeakRSS), 3 << 20},
		"failing":      {float64(r.Failing.Pushes), 85},
		"hanging":      {float64(r.Hanging.Pushes), 25},
		"others":       {*r.OthersCores, 0.5},
		"refused":      {float64(r.Refused), 5},
		"requests":     {float64(r.Requests), 100},
		"verified":     {float64(r.Verified), 3},
		"end to end":   {r.EndToEnd.Max, 2},
		"ack":          {r.Ack.P50, 1},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-6*pair[1] {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	if err := r.problem(); err != nil {
		t.Error(err)
	}

	var unknown Report
	unknown.setIdle(unknownUsage)
	unknown.account(outcome{
		load: &load{}, book: newLedger(0, 1, time.Now()), receivers: rs,
		before: sample{daemon: unknownUsage, self: -1, machine: -1, commits: -1}, after: sample{daemon: unknownUsage, self: -1, machine: -1, commits: -1}, busyCommits: -1,
	})
	if unknown.Daemon != (Daemon{}) || unknown.LoadCPUPerEvent != nil || unknown.OthersCores != nil {
		t.Errorf("figures from nowhere: %+v", unknown.Daemon)
	}
	var out strings.Builder
	if err := unknown.writeTable(&out); err != nil || strings.Count(out.String(), "n/a") < 8 {
		t.Errorf("%v:\n%s", err, out.String())
	}
	out.Reset()
	if err := writeJSON(&out, unknown); err != nil || strings.Contains(out.String(), "cpuPerEvent") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}

func TestReportProblems(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		report Report
		want   error
	}{
		"well":          {Report{Deliveries: 9, Findings: Findings{Verified: 1, Duplicated: 4, Strays: 2}}, nil},
		"lost":          {Report{Deliveries: 9, Findings: Findings{Verified: 1, Lost: 1}}, ErrLost},
		"misidentified": {Report{Deliveries: 9, Findings: Findings{Verified: 1, Misidentified: 1}}, ErrWrong},
		"alien":         {Report{Deliveries: 9, Findings: Findings{Verified: 1, Alien: 1}}, ErrWrong},
		"forged":        {Report{Deliveries: 9, Findings: Findings{Verified: 1, Forged: 1}}, ErrWrong},
		"corrupted":     {Report{Deliveries: 9, Findings: Findings{Verified: 1, Corrupted: 1}}, ErrWrong},
		"broken":        {Report{Deliveries: 9, Findings: Findings{Verified: 1, Broken: 1}}, ErrWrong},
		"unwanted":      {Report{Deliveries: 9, Findings: Findings{Verified: 1, Unwanted: 1}}, ErrWrong},
		"miscounted":    {Report{Deliveries: 9, Findings: Findings{Verified: 1, Miscounted: 1}}, ErrWrong},
		"unverified":    {Report{Deliveries: 9}, ErrWrong},
	} {
		if err := test.report.problem(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	text := func(size, batch int) string {
		return strings.Join((&Command{Size: size, Batch: batch}).settings("/a \"dir\"", "127.0.0.1:1", "secret"), "\n")
	}
	small := text(1024, 100)
	for _, want := range []string{`socket: "/a \"dir\"/herald.sock"`, "admin_token: secret", "allow_networks: [127.0.0.0/8]", "level: warn"} {
		if !strings.Contains(small, want) {
			t.Errorf("no %s in\n%s", want, small)
		}
	}
	if strings.Contains(small, "limits") || !strings.Contains(text(2<<20, 1), "payload_bytes: 2097152\n  body_bytes: 16777216") ||
		!strings.Contains(text(1<<20, 20), "payload_bytes: 1048576\n  body_bytes: 20976640") {
		t.Errorf("limits:\n%s\n%s", text(2<<20, 1), text(1<<20, 20))
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	var out tail
	if out.quote() != "" {
		t.Error("a silent process is quoted")
	}
	for range 1000 {
		_, _ = out.Write([]byte("0123456789\n"))
	}
	_, _ = out.Write([]byte("the end\n"))
	if len(out.b) != logTail || !strings.HasSuffix(out.quote(), "the end") {
		t.Errorf("%d bytes kept", len(out.b))
	}
}

func TestDeliverCommandStaysAtHome(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"http://192.0.2.1/", "http://localhost/", "http://[2001:db8::1]:80/", "%"} {
		c := DeliverCommand{Target: []string{target}, Concurrency: 1, Workers: 1, Size: 64, Records: 1, Duration: time.Second}
		if err := c.Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "target") {
			t.Errorf("%s: %v", target, err)
		}
	}
	if err := (DeliverCommand{}).Run(t.Context(), nil, nil); err == nil {
		t.Error("no limits")
	}
}
