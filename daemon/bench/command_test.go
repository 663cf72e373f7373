package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// parse returns a command as the command line would make it.
func parse(t *testing.T, args ...string) *Command {
	t.Helper()
	var c Command
	parser, err := kong.New(&c, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	c.spacedProbes = 5
	return &c
}

// measured runs a benchmark of a daemon with a fault, or none, and returns its report.
func measured(t *testing.T, fault string, args ...string) (*Report, error) {
	t.Helper()
	return printed[Report](t, fault, args...)
}

// printed runs a benchmark of a daemon with a fault, or none, and returns what it prints, which must be the only thing
// it leaves behind.
func printed[R any](t *testing.T, fault string, args ...string) (*R, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), faultPrefix+fault)
	c := parse(t, append([]string{"--json", "--dir", dir, "--grace", "1s", "--warm-up", "20"}, args...)...)
	var out, notes bytes.Buffer
	err := c.Run(t.Context(), &out, &notes)
	left, e := os.ReadDir(dir)
	if e != nil {
		t.Fatal(e)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if notes.Len() != 0 {
		t.Errorf("progress although this is no terminal: %q", notes.String())
	}
	if out.Len() == 0 {
		return nil, err
	}
	var r R
	if e := json.Unmarshal(out.Bytes(), &r); e != nil {
		t.Fatalf("%v in %s", e, out.String())
	}
	return &r, err
}

func TestRunFindsFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fault string
		want  error
		check func(*Report) bool
	}{
		{"lose", ErrLost, func(r *Report) bool { return r == nil }}, // in the warm-up, which has no report
		{"corrupt", ErrWrong, func(r *Report) bool { return r.Corrupted > 0 && r.Forged == 0 }},
		{"forge", ErrWrong, func(r *Report) bool { return r.Forged > 0 && r.Corrupted == 0 }},
		{"header", ErrLost, func(r *Report) bool { return r == nil }},
		{"rename", ErrWrong, func(r *Report) bool { return r == nil }},
		{"short", ErrWrong, func(r *Report) bool { return r == nil }},
	} {
		t.Run(test.fault, func(t *testing.T) {
			t.Parallel()
			r, err := measured(t, test.fault, "--events", "80", "--warm-up", "40", "--no-ceilings", "--producers", "4")
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if !test.check(r) {
				t.Errorf("report %+v", r)
			}
		})
	}
}

func TestRunCountsExactly(t *testing.T) {
	t.Parallel()
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		r, err := measured(t, "lose", "--events", "80", "--no-ceilings")
		if !errors.Is(err, ErrLost) || r == nil || r.Lost != 1 || r.LostEvents != 1 || r.Events != 80 || r.Deliveries != 79 {
			t.Fatalf("error %v, report %+v", err, r)
		}
	})
	t.Run("repeated", func(t *testing.T) {
		t.Parallel()
		r, err := measured(t, "repeat", "--events", "80", "--no-ceilings")
		if err != nil || r.Duplicated != 8 || r.Lost != 0 || r.Deliveries != 80 {
			t.Fatalf("error %v, report %+v", err, r)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		r, err := measured(t, "refuse", "--events", "80", "--no-ceilings")
		if err != nil || r.Refused == 0 || r.Events != 80 || r.Lost != 0 || r.Duplicated != 0 {
			t.Fatalf("error %v, report %+v", err, r)
		}
	})
}

func TestRunReportsTheDaemonsEnd(t *testing.T) {
	t.Parallel()
	for fault, test := range map[string]struct {
		want   string
		events string
	}{
		"start":  {"the data directory is cursed", "500"},
		"die":    {"last words of the daemon", "500"},
		"broken": {"the disk is gone", "500"},
		// It has answered everything by then: its end must be noticed without waiting out the time of grace.
		"vanish": {"last words of the daemon", "40"},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			r, err := measured(t, fault, "--events", test.events, "--no-ceilings", "--grace", "20s")
			if r != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, report %+v", err, r)
			}
			if time.Since(begin) > 15*time.Second {
				t.Errorf("noticed after %v", time.Since(begin))
			}
			if fault != "broken" && !errors.Is(err, errEnded) {
				t.Errorf("error %v, want %v", err, errEnded)
			}
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args   []string
		events int64
		fan    int64
	}{
		"plain":        {[]string{"--events", "500", "--no-ceilings"}, 500, 1},
		"tiny":         {[]string{"--events", "1", "--no-ceilings", "--size", "64", "--warm-up", "0", "--producers", "1"}, 1, 1},
		"own ids":      {[]string{"--events", "300", "--no-ceilings", "--ids"}, 300, 1},
		"uneven batch": {[]string{"--events", "303", "--no-ceilings", "--batch", "10", "--ids"}, 303, 1},
		"fan-out":      {[]string{"--events", "100", "--no-ceilings", "--fan-out", "5"}, 100, 5},
		"slow":         {[]string{"--events", "40", "--no-ceilings", "--receiver-latency", "1s"}, 40, 1},
		"large":        {[]string{"--events", "10", "--no-ceilings", "--size", "2000000", "--producers", "2"}, 10, 1},
		"ceilings":     {[]string{"--events", "200"}, 200, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := measured(t, "", test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Events != test.events || r.Deliveries != test.events*test.fan || r.Lost+r.Duplicated+r.Strays != 0 {
				t.Errorf("report %+v", r)
			}
			if r.EndToEnd.Count != uint64(r.Deliveries) || r.Ack.Count != uint64(r.Requests) || r.EndToEnd.P50 <= 0 || r.EndToEnd.Max < r.EndToEnd.P99 {
				t.Errorf("latencies %+v and %+v", r.Ack, r.EndToEnd)
			}
			if r.EventsPerSecond <= 0 || r.Verified == 0 || r.Disk.BusyP50 <= 0 || r.Disk.SpacedP99 < r.Disk.SpacedP50 {
				t.Errorf("report %+v", r)
			}
			if runtime.GOOS == "linux" && (r.Daemon.CPUPerEvent == nil || *r.Daemon.PeakRSS <= 0 || *r.Daemon.WrittenPerEvent < 64) {
				t.Errorf("daemon %+v", r.Daemon)
			}
			if name == "slow" && r.EndToEnd.P50 > r.Ack.P50+900 {
				t.Errorf("the receiver's latency counts as the daemon's: %+v", r.EndToEnd)
			}
			if (r.Ceilings != nil) != (name == "ceilings") {
				t.Fatalf("ceilings %+v", r.Ceilings)
			}
			if c := r.Ceilings; c != nil && (c.Ingest < 100 || c.Deliver < 100 || c.Bound >= c.Ingest || c.Ratio <= 0) {
				t.Errorf("ceilings %+v", c)
			}
		})
	}
}

func TestRunBatches(t *testing.T) {
	t.Parallel()
	args := []string{"--events", "200", "--no-ceilings", "--producers", "2", "--batch", "10", "--records", "10", "--warm-up", "40"}
	for _, test := range []struct {
		fault string
		want  error
		check func(*Report) bool
	}{
		{"", nil, func(r *Report) bool {
			return r.Deliveries == 200 && r.Pushes == 20 && r.Lost+r.Duplicated+r.Strays == 0 && r.Verified == 1 &&
				r.DeliveriesPerSecond > 9*r.PushesPerSecond
		}},
		{"repeat", nil, func(r *Report) bool { return r.Deliveries == 200 && r.Duplicated == 20 && r.Pushes == 22 }},
		{"drop", ErrLost, func(r *Report) bool { return r.Lost == 20 && r.LostEvents == 20 && r.Miscounted == 0 }},
		{"miscount", ErrWrong, func(r *Report) bool { return r.Miscounted == 24 && r.Lost == 0 }},
		{"corrupt", ErrWrong, func(r *Report) bool { return r.Corrupted == 1 && r.Forged == 0 }},
		{"forge", ErrWrong, func(r *Report) bool { return r.Forged == 1 && r.Corrupted == 0 }},
		{"rename", ErrWrong, func(r *Report) bool { return r == nil }}, // in the warm-up
	} {
		t.Run(test.fault, func(t *testing.T) {
			t.Parallel()
			r, err := measured(t, test.fault, args...)
			if !errors.Is(err, test.want) || !test.check(r) {
				t.Errorf("error %v, report %+v", err, r)
			}
		})
	}
}

func TestRunOpenLoop(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	r, err := measured(t, "", "--duration", "1s", "--rate", "100", "--no-ceilings")
	if err != nil {
		t.Fatal(err)
	}
	if r.Events != 100 || r.Lateness == nil || r.Lateness.Count != 100 || time.Since(begin) < time.Second {
		t.Fatalf("report %+v", r)
	}
	if r.EventsPerSecond < 10 || r.EventsPerSecond > 120 {
		t.Errorf("%v events/s, want about 100", r.EventsPerSecond)
	}
}

func TestRunClosedLoopForATime(t *testing.T) {
	t.Parallel()
	profile := filepath.Join(t.TempDir(), "cpu.out")
	r, err := measured(t, "", "--duration", "1s", "--no-ceilings", "--producers", "4", "--cpuprofile", profile)
	if err != nil || r.Events == 0 || r.IngestSeconds < 1 {
		t.Fatalf("error %v, report %+v", err, r)
	}
	if b, err := os.ReadFile(profile); err != nil || string(b) != "profile of 1 s" {
		t.Errorf("profile %q, %v", b, err)
	}
}

func TestRunUnhealthyReceivers(t *testing.T) {
	t.Parallel()
	r, err := measured(t, "", "--events", "40", "--fan-out", "4", "--failing", "0.25", "--hanging", "0.25")
	if err != nil {
		t.Fatal(err)
	}
	if r.Deliveries != 80 || r.Lost != 0 || r.Ceilings != nil {
		t.Errorf("report %+v", r)
	}
	if r.Failing == nil || r.Failing.Receivers != 1 || r.Failing.Pushes == 0 || r.Hanging == nil || r.Hanging.Receivers != 1 || r.Hanging.Pushes == 0 {
		t.Errorf("failing %+v, hanging %+v", r.Failing, r.Hanging)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := parse(t, "--duration", "1h", "--rate", "50", "--no-ceilings", "--dir", dir, "--warm-up", "0")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := c.Run(ctx, &out, &out); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errEnded) {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunKeeps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := parse(t, "--events", "10", "--no-ceilings", "--dir", dir, "--keep")
	var out, notes bytes.Buffer
	if err := c.Run(t.Context(), &out, &notes); err != nil {
		t.Fatal(err)
	}
	kept, ok := strings.CutPrefix(strings.TrimSpace(notes.String()), "kept: ")
	if st, err := os.Stat(filepath.Join(kept, "herald.yaml")); !ok || err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%q: %v", notes.String(), err)
	}
	if _, err := os.Stat(filepath.Join(kept, "data", "ended")); err != nil {
		t.Errorf("the daemon was not left to end in order: %v", err)
	}
	for _, want := range []string{"events/s", "deliveries/s", "p99", "CPU µs/event", "commits/s", "lost", "duplicated", "one each 10 ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the table:\n%s", want, out.String())
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := Command{Events: 1, Size: 64, FanOut: 1, Producers: 1, Batch: 1, Records: 1, Grace: time.Second}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Command){
		"isolation": func(c *Command) { c.Bad, c.BadPending, c.Rounds, c.Kill, c.CPUProfile = 1, 1, 1, true, "x" },
		"replay": func(c *Command) {
			c.Replay, c.Rounds, c.ReplayRate, c.Kill, c.CPUProfile = 4, 3, maxReplayRate, true, "x"
		},
		"HTTPS":   func(c *Command) { c.TLS, c.HTTP2 = true, true },
		"backlog": func(c *Command) { c.Backlog, c.NoDrain, c.Kill = 1, true, true },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	nan := 0.0
	nan /= nan
	for want, change := range map[string]func(*Command){
		"--events":           func(c *Command) { c.Events = 0 },
		"--events must":      func(c *Command) { c.Events = maxEvents + 1 },
		"--duration":         func(c *Command) { c.Duration = -1 },
		"--warm-up":          func(c *Command) { c.WarmUp = -1 },
		"--size":             func(c *Command) { c.Size = 63 },
		"--size must":        func(c *Command) { c.Size = maxSize + 1 },
		"--fan-out":          func(c *Command) { c.FanOut = 0 },
		"--fan-out must":     func(c *Command) { c.FanOut = maxFanOut + 1 },
		"--producers":        func(c *Command) { c.Producers = 0 },
		"--batch":            func(c *Command) { c.Batch = 0 },
		"--batch times":      func(c *Command) { c.Batch, c.Size = maxBatch, 1<<20 },
		"--producers times":  func(c *Command) { c.Producers, c.Batch, c.Size = 4096, 100, 1<<14 },
		"--rate":             func(c *Command) { c.Rate = -1 },
		"--rate must":        func(c *Command) { c.Rate = nan },
		"--receiver-latency": func(c *Command) { c.ReceiverLatency = time.Hour },
		"--grace":            func(c *Command) { c.Grace = 0 },
		"--failing":          func(c *Command) { c.Failing = 1.5 },
		"no healthy":         func(c *Command) { c.Hanging = 0.1 },
		"--cpuprofile":       func(c *Command) { c.CPUProfile = "x" },
		"--records":          func(c *Command) { c.Records = 0 },
		"--records must":     func(c *Command) { c.Records = maxRecords + 1 },
		"--records times":    func(c *Command) { c.Records, c.Size = maxRecords, 1<<20 },
		"--max-wait":         func(c *Command) { c.MaxWait = -1 },
		"--max-wait must":    func(c *Command) { c.MaxWait = 2 * time.Hour },
		"--bad":              func(c *Command) { c.Bad, c.BadPending = -1, 1 },
		"--bad must":         func(c *Command) { c.Bad, c.BadPending = maxBad+1, 1 },
		"--bad-pending":      func(c *Command) { c.Bad = 1 },
		"--bad-pending must": func(c *Command) { c.Bad, c.BadPending = 1, maxBadPending+1 },
		"--rounds":           func(c *Command) { c.Bad, c.BadPending = 1, 1 },
		"--rounds must":      func(c *Command) { c.Bad, c.BadPending, c.Rounds = 1, 1, maxRounds+1 },
		"--backlog":          func(c *Command) { c.Backlog = -1 },
		"--backlog must":     func(c *Command) { c.Backlog = maxBacklog + 1 },
		"--rounds must be":   func(c *Command) { c.Replay = 5 },
		"--replay must":      func(c *Command) { c.Replay = maxReplay + 1 },
		"--replay must be":   func(c *Command) { c.Replay = -1 },
		"for each part":      func(c *Command) { c.Replay, c.Rounds, c.Kill = 3, 3, true },
		"--replay-rate":      func(c *Command) { c.Replay, c.Rounds, c.ReplayRate = 5, 1, maxReplayRate+1 },
		"between 1 and 1000": func(c *Command) { c.Replay, c.Rounds, c.ReplayRate = 5, 1, 0.5 },
		"--replay-rate must": func(c *Command) { c.Replay, c.Rounds, c.ReplayRate = 5, 1, nan },
		"needs --replay":     func(c *Command) { c.ReplayRate = 100 },
		"without --replay":   func(c *Command) { c.Replay, c.Rounds, c.FanOut = 5, 1, 2 },
		"are different":      func(c *Command) { c.Backlog, c.Replay, c.Rounds = 1, 5, 1 },
		"--bad, --backlog":   func(c *Command) { c.Bad, c.BadPending, c.Backlog = 1, 1, 1 },
		"without --bad":      func(c *Command) { c.Backlog, c.FanOut, c.Failing = 1, 2, 0.5 },
		"--kill":             func(c *Command) { c.Kill = true },
		"--no-drain":         func(c *Command) { c.NoDrain = true },
		"--http2 needs":      func(c *Command) { c.HTTP2 = true },
		"--tls is for":       func(c *Command) { c.Backlog, c.TLS = 1, true },
		"--devices":          func(c *Command) { c.Devices = -1 },
		"one for each":       func(c *Command) { c.Devices = minDevices - 1 },
		"--devices must be":  func(c *Command) { c.Devices = maxDevices + 1 },
		"--batch, --records": func(c *Command) { c.Devices, c.Batch = 3, 2 },
		"no events":          func(c *Command) { c.Devices, c.IDs = 3, true },
		"give one of them":   func(c *Command) { c.Devices, c.Backlog = 3, 1 },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", c, err, want)
		}
	}
	c := good
	c.Size, c.Batch = 0, 0
	if err := c.Validate(); err == nil || strings.Count(err.Error(), "; ") != 1 {
		t.Errorf("not all errors at once: %v", err)
	}
}
