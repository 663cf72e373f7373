// Package bench measures a whole Herald: events posted over HTTP, made durable, pushed to receivers with a
// signature, the outcome durable again. It starts the real daemon as a child process on a temporary
// directory, loads it from this process and receives its pushes in this process, over loopback.
//
// It promises that the account is exact (every acknowledged event is looked for at every healthy receiver, every
// arrival beyond the first is counted), that latencies are honest (in an open loop they count from the
// moment a request was meant to begin, so that waiting is not left out), that its own part is cheap (HTTP/1.1
// over bare connections, no allocation for an event, unless receivers with HTTP/2 are asked for), and that nothing
// stays behind: the child ends and the directory is removed, whatever happens.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	maxFanOut    = 1000
	maxRecords   = 1000 // of a push, by the daemon's contract
	maxProducers = 4096
	maxBatch     = 10000
	maxRequest   = 64 << 20 // one request
	maxRequests  = 1 << 30  // the requests of all producers together, which are held in memory

	// The scenarios are bounded by what one machine bears: two ports for three bad subscriptions, and the ledger.
	maxBad        = 1000
	maxBadPending = 1_000_000
	maxRounds     = 100
	maxBacklog    = 20_000_000
	maxReplay     = 20_000_000
	minReplayRate = 1       // less would not come within the time of grace
	maxReplayRate = 100_000 // the daemon's bound
	minDevices    = 3
	maxDevices    = 10_000_000

	settleInterval = 50 * time.Millisecond
	settleLimit    = 3 * time.Second
	arrivalCheck   = 5 * time.Millisecond
)

// Command is `herald bench`: its fields are the flags. A Command made without a command line needs its
// fields set as Validate describes; the defaults in the tags are the parser's.
type Command struct {
	Events   int64         `help:"Events to send." default:"20000"`
	Duration time.Duration `help:"Send for this long instead of a number of events. With --bad, --backlog, --replay and --devices: for each stretch of load, 10s when not given." placeholder:"DURATION"`
	WarmUp   int64         `help:"Events sent, and awaited, before the measurement begins." default:"1000"`

	Size      int     `help:"Size of an event's data in bytes." default:"1024"`
	FanOut    int     `help:"Subscriptions, and receivers, for each event." default:"1"`
	Producers int     `help:"Connections that post events." default:"96"`
	Batch     int     `help:"Events in one request." default:"1"`
	Rate      float64 `help:"Events per second, with latencies counted from the intended start; 0 for as fast as it goes. With --bad, --backlog, --replay and --devices: of the paced stretches, 0 for 200." default:"0"`
	IDs       bool    `name:"ids" help:"Give the events ids instead of taking the daemon's."`

	Records int           `help:"Most records in one push (numberOfRecords of the subscriptions)." default:"1"`
	MaxWait time.Duration `help:"How long a push may wait to fill up to --records (maxWaitSeconds)." default:"50ms"`

	TLS   bool `name:"tls" help:"Have the receivers serve HTTPS, with a certificate that the daemon trusts by egress.ca_file, and count the TLS handshakes."`
	HTTP2 bool `name:"http2" help:"With --tls: over HTTP/2; without it over HTTP/1.1."`

	ReceiverLatency time.Duration `help:"How long a receiver takes to answer; with --devices a stand-in of a provider, 50ms when 0." default:"0s"`
	Failing         float64       `help:"Share of the receivers that answer 500 (0 to 1)." default:"0"`
	Hanging         float64       `help:"Share of the receivers that never answer (0 to 1)." default:"0"`
	Grace           time.Duration `help:"How long nothing may arrive until what is missing counts as lost." default:"30s"`

	Bad        int   `help:"Measure isolation: a healthy subscription alone, then beside so many that hang, as many that refuse connections and as many that answer 500, then alone again." default:"0" placeholder:"N"`
	BadPending int64 `help:"Events that wait for each of the --bad subscriptions." default:"2000"`
	Rounds     int   `help:"How often the --bad subscriptions come and go, or in how many parts the --replay goes; the ratios are the medians." default:"3"`
	Backlog    int64 `help:"Measure a backlog: so many events for a subscription that is down, the load beside it, memory, and starting again." default:"0" placeholder:"N"`
	NoDrain    bool  `help:"Do not deliver the backlog at the end to account for every event of it; only count it."`
	Kill       bool  `help:"Kill the daemon in the midst of the bad subscriptions, of filling the backlog, of a last part of the replay, or of the notifications through each provider, and account for everything it had acknowledged."`

	Replay     int64   `help:"Measure a replay: so many events, delivered before, are replayed to a subscription; the live events of it and of another one, alone and beside the replay." default:"0" placeholder:"N"`
	ReplayRate float64 `help:"Deliveries per second of the --replay; 0 for 1000, as the API has it, 100000 for as fast as it goes." default:"0"`

	Devices int64 `help:"Measure the way to phones and browsers: so many devices are registered, and then notified one by one through stand-ins of FCM, APNs and a push service." default:"0" placeholder:"N"`

	Dir        string `help:"Directory in which the temporary data directory is made: the disk that is measured." type:"path" placeholder:"DIR"`
	Keep       bool   `help:"Keep the temporary directory and print its path."`
	NoCeilings bool   `help:"Do not measure what the machine reaches without queue and disk."`
	JSON       bool   `name:"json" help:"Print the report as JSON."`
	CPUProfile string `name:"cpuprofile" help:"Write a processor profile of the daemon to this file; needs --duration, --bad, --backlog, --replay or --devices." type:"path" placeholder:"FILE"`

	spacedProbes int // 0 for the default; fewer make the tests shorter
}

// Help is shown below the summary of the command.
func (Command) Help() string {
	return `The real daemon is started as a child on a temporary directory, loaded over HTTP, and its pushes are received and checked here; every acknowledged event is accounted for. Nothing leaves this machine.

One stretch of load (the default):

    herald bench                              the rate of single requests
    herald bench --rate 200 --events 2000     latency at a given rate
    herald bench --batch 100 --records 100    many events in a request, and in a push
    herald bench --fan-out 10                 one event for many subscriptions
    herald bench --tls                        receivers behind HTTPS, and how many handshakes they see

Isolation: what bad subscriptions cost a healthy one. It is measured alone, beside the bad ones and alone again, in rounds, each at --rate and as fast as it goes; each time beside is set against the mean of the two times alone around it:

    herald bench --bad 50

Backlog: what a million waiting events cost the others, how much memory they take, and how soon the daemon is back after a stop and after a kill, with a warm and with a cold page cache:

    herald bench --backlog 1000000 --records 100

Replay: what a replay costs the live events of the same subscription and of another one. Both are measured alone, beside a part of the replay and alone again, in rounds, at --rate:

    herald bench --replay 100000
    herald bench --replay 1000000 --replay-rate 100000

Devices: how fast they are registered and found, and what a notification costs through stand-ins of FCM, APNs and a push service of browsers, each at --rate and as fast as it goes. A message is of some 250 bytes and goes to one contact with one device; --size is of events:

    herald bench --devices 9000
    herald bench --devices 1000000 --producers 64

Add --kill to any of the four to have the daemon killed in the middle. Exit code 1: an event was lost or a push was wrong.`
}

// Validate checks the flags; its error names the flag and what would be right. The command line calls it
// before Run, which calls it too.
func (c *Command) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Duration < 0 || c.Duration > 24*time.Hour:
		bad("--duration must be between 0 and 24h")
	case c.Duration == 0 && (c.Events < 1 || c.Events > maxEvents):
		bad("--events must be between 1 and %d", maxEvents)
	}
	if c.WarmUp < 0 || c.WarmUp > maxEvents {
		bad("--warm-up must be between 0 and %d", maxEvents)
	}
	if c.Size < minSize || c.Size > maxSize {
		bad("--size must be between %d and %d bytes", minSize, maxSize)
	}
	if c.FanOut < 1 || c.FanOut > maxFanOut {
		bad("--fan-out must be between 1 and %d", maxFanOut)
	}
	if c.Producers < 1 || c.Producers > maxProducers {
		bad("--producers must be between 1 and %d", maxProducers)
	}
	switch request := int64(c.Batch) * int64(c.Size+256); {
	case c.Batch < 1 || c.Batch > maxBatch:
		bad("--batch must be between 1 and %d", maxBatch)
	case request > maxRequest:
		bad("--batch times --size must not exceed %d bytes", maxRequest)
	case request*int64(c.Producers) > maxRequests:
		bad("--producers times --batch times --size must not exceed %d bytes", maxRequests)
	}
	if !(c.Rate >= 0) || c.Rate > 1e6 {
		bad("--rate must be between 0 and 1000000")
	}
	if c.ReceiverLatency < 0 || c.ReceiverLatency > time.Minute {
		bad("--receiver-latency must be between 0 and 1m")
	}
	if c.Records < 1 || c.Records > maxRecords {
		bad("--records must be between 1 and %d", maxRecords)
	} else if int64(c.Records)*int64(c.Size+recordOverhead) > maxRequest {
		bad("--records times --size must not exceed %d bytes", maxRequest)
	}
	if c.MaxWait < 0 || c.MaxWait > time.Hour {
		bad("--max-wait must be between 0 and 1h")
	}
	if c.Grace < time.Second || c.Grace > time.Hour {
		bad("--grace must be between 1s and 1h")
	}
	if !(c.Failing >= 0 && c.Failing <= 1) || !(c.Hanging >= 0 && c.Hanging <= 1) {
		bad("--failing and --hanging must be between 0 and 1")
	} else if n := c.receiverCounts(); n[healthy] < 1 && c.FanOut >= 1 {
		bad("--failing and --hanging leave no healthy receiver of %d: raise --fan-out", c.FanOut)
	}
	if c.CPUProfile != "" && c.Duration == 0 && !c.scenario() {
		bad("--cpuprofile needs --duration, --bad, --backlog, --replay or --devices")
	}
	if c.HTTP2 && !c.TLS {
		bad("--http2 needs --tls")
	}
	c.validateScenario(bad)
	return sentence(errs)
}

// validateScenario checks the flags of isolation, backlog, replay and devices.
func (c *Command) validateScenario(bad func(format string, args ...any)) {
	if c.Bad < 0 || c.Bad > maxBad {
		bad("--bad must be between 0 and %d", maxBad)
	}
	if c.Bad > 0 && (c.BadPending < 1 || c.BadPending > maxBadPending) {
		bad("--bad-pending must be between 1 and %d", maxBadPending)
	}
	if (c.Bad > 0 || c.Replay > 0) && (c.Rounds < 1 || c.Rounds > maxRounds) {
		bad("--rounds must be between 1 and %d", maxRounds)
	}
	if c.Backlog < 0 || c.Backlog > maxBacklog {
		bad("--backlog must be between 0 and %d", maxBacklog)
	}
	switch parts := int64(c.replayParts()); {
	case c.Replay < 0 || c.Replay > maxReplay:
		bad("--replay must be between 0 and %d", maxReplay)
	case c.Replay > 0 && c.Replay < parts:
		bad("--replay must be at least %d, an event for each part: --rounds, and one for --kill", parts)
	case c.Replay == 0 && c.ReplayRate != 0:
		bad("--replay-rate needs --replay")
	}
	if c.ReplayRate != 0 && !(c.ReplayRate >= minReplayRate && c.ReplayRate <= maxReplayRate) {
		bad("--replay-rate must be between %v and %v, or 0 for %v", minReplayRate, maxReplayRate, defaultReplayRate)
	}
	if c.Replay > 0 && c.FanOut > 1 {
		bad("--fan-out is for runs without --replay, whose events go to two subscriptions")
	}
	if c.Devices != 0 && (c.Devices < minDevices || c.Devices > maxDevices) {
		bad("--devices must be between %d, one for each provider, and %d", minDevices, maxDevices)
	}
	if c.Devices > 0 && (c.FanOut > 1 || c.Batch > 1 || c.Records > 1 || c.IDs) {
		bad("--fan-out, --batch, --records and --ids are for runs without --devices, which has no events")
	}
	if n := min(c.Bad, 1) + int(min(c.Backlog, 1)+min(c.Replay, 1)+min(c.Devices, 1)); n > 1 {
		bad("--bad, --backlog, --replay and --devices are different measurements: give one of them")
	}
	if c.scenario() && (c.Failing > 0 || c.Hanging > 0) {
		bad("--failing and --hanging are for runs without --bad, --backlog, --replay and --devices, which have their own receivers")
	}
	if c.scenario() && c.TLS {
		bad("--tls is for runs without --bad, --backlog, --replay and --devices")
	}
	if c.Kill && !c.scenario() {
		bad("--kill needs --bad, --backlog, --replay or --devices")
	}
	if c.NoDrain && c.Backlog == 0 {
		bad("--no-drain needs --backlog")
	}
}

// scenario tells whether more than one stretch of load is measured.
func (c *Command) scenario() bool { return c.Bad > 0 || c.Backlog > 0 || c.Replay > 0 || c.Devices > 0 }

// sentence joins errors on one line; it is nil for none.
func sentence(errs []error) error {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// usageError marks flags that are out of their limits, for the exit code.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// ExitCode makes the process end with 2, wrong usage.
func (e *usageError) ExitCode() int { return 2 }

// receiverCounts is how many receivers behave in which way; a share above zero is at least one.
func (c *Command) receiverCounts() [3]int {
	count := func(share float64) int {
		if share <= 0 {
			return 0
		}
		return max(int(math.Round(share*float64(c.FanOut))), 1)
	}
	f, h := count(c.Failing), count(c.Hanging)
	return [3]int{healthy: c.FanOut - f - h, failing: f, hanging: h}
}

// Run measures and prints the report to stdout; stderr gets a progress line when it is a terminal. It
// returns ErrLost or ErrWrong, after the report, when events are missing or pushes are not what they should be,
// and other errors when there is nothing to report. The child and the directory are gone when it returns.
func (c *Command) Run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	if err := c.Validate(); err != nil {
		return &usageError{err}
	}
	if c.Dir != "" {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return fmt.Errorf("make the directory: %w", err)
		}
	}
	dir, err := os.MkdirTemp(c.Dir, "herald-bench-")
	if err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	defer func() {
		if c.Keep {
			_, _ = fmt.Fprintln(stderr, "kept:", dir)
			return
		}
		if e := os.RemoveAll(dir); e != nil && err == nil {
			err = fmt.Errorf("remove the data directory: %w", e)
		}
	}()
	progress := newProgress(stderr)
	defer progress.stop()

	r := &run{Command: c, dir: dir, progress: progress, data: buildData(c.Size)}
	report, err := r.measure(ctx)
	progress.stop()
	if err != nil {
		return err
	}
	if c.JSON {
		err = writeJSON(stdout, report)
	} else {
		err = report.writeTable(stdout)
	}
	if err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return report.problem()
}
