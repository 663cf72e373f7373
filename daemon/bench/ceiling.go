package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"herald/daemon"
)

const (
	// ceilingWarm and ceilingTime are how long a ceiling runs before and while it is measured. Each is
	// measured twice, before and after the daemon, so that a machine that speeds up or slows down meanwhile
	// moves both sides of the ratio.
	ceilingWarm = 250 * time.Millisecond
	ceilingTime = time.Second
	// defaultConcurrency and defaultWorkers are the daemon's defaults for attempts at once, for one
	// subscription and in all.
	defaultConcurrency = 64
	defaultWorkers     = 1536
)

// IngestCommand is a hidden command: the bare server the ingest ceiling is measured against. It has
// the settings of the daemon's listener, reads and discards what is posted, and answers 202.
type IngestCommand struct{}

// Run listens on a free loopback port, prints its address as the first line and serves until the context
// ends.
func (IngestCommand) Run(ctx context.Context, stdout, _ io.Writer) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("open the ingest ceiling: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", discard)
	srv := daemon.NewServer(mux, slog.New(slog.DiscardHandler))
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if _, err := fmt.Fprintln(stdout, l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the ingest ceiling: %w", err)
	}
	return nil
}

// discard answers a publish without doing anything with it.
func discard(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxRequest)); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"id":"evt_00000000000000000000000000"}`)
}

// DeliverCommand is a hidden command: the bare client the delivery ceiling is measured with. It has the
// daemon's way of sending a webhook and nothing else: no queue, no disk.
type DeliverCommand struct {
	Target      []string      `help:"URL of a receiver; may be given several times." required:""`
	Concurrency int           `help:"Attempts at once for each receiver." default:"64"`
	Workers     int           `help:"Attempts at once in all." default:"1536"`
	CAFile      string        `name:"ca-file" help:"PEM file of authorities to trust."`
	Size        int           `help:"Payload size in bytes." default:"1024"`
	Records     int           `help:"Records in a push." default:"1"`
	Warm        time.Duration `help:"How long to send before the measurement." default:"250ms"`
	Duration    time.Duration `help:"How long to measure." default:"1s"`
}

// deliverResult is what the deliver command prints, as one JSON object.
type deliverResult struct {
	Deliveries int64   `json:"deliveries"` // records
	Failures   int64   `json:"failures"`
	Seconds    float64 `json:"seconds"`
}

// Run sends to the receivers as fast as they answer and prints the number of records delivered.
func (c DeliverCommand) Run(ctx context.Context, stdout, _ io.Writer) error {
	if c.Concurrency < 1 || c.Workers < 1 || c.Size < minSize || c.Size > maxSize || c.Records < 1 || c.Records > maxRecords || c.Duration <= 0 {
		return errors.New("concurrency, workers, size, records and duration must be positive and within their limits")
	}
	for _, t := range c.Target {
		u, err := url.Parse(t)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		// The command exists for receivers of the same machine; it is no load generator for others.
		if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("target %s: not a loopback address", u.Redacted())
		}
	}
	sender, err := newBareSender(c.Target, c.CAFile, c.Concurrency, c.Records, buildData(c.Size))
	if err != nil {
		return err
	}
	defer sender.close()

	ctx, cancel := context.WithTimeout(ctx, c.Warm+c.Duration)
	defer cancel()
	var sent, failed, next atomic.Int64
	var wg sync.WaitGroup
	for i := range min(c.Workers, c.Concurrency*len(c.Target)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := sender.send(ctx, i%len(c.Target), next.Add(1))
				switch {
				case err == nil:
					sent.Add(int64(c.Records))
				case ctx.Err() == nil:
					failed.Add(1)
				}
			}
		})
	}
	warm := time.NewTimer(c.Warm)
	defer warm.Stop()
	select {
	case <-warm.C:
	case <-ctx.Done():
	}
	from, begin := sent.Load(), time.Now()
	<-ctx.Done()
	res := deliverResult{Deliveries: sent.Load() - from, Failures: failed.Load(), Seconds: time.Since(begin).Seconds()}
	wg.Wait()
	return json.NewEncoder(stdout).Encode(res)
}

// ceilings adds up the two measurements of each ceiling.
type ceilings struct {
	caFile               string // of HTTPS receivers; empty for others
	ingested, delivered  float64
	ingestTime, sendTime time.Duration
}

// rates returns the ceilings per second.
func (c *ceilings) rates() (ingest, deliver float64) {
	return c.ingested / c.ingestTime.Seconds(), c.delivered / c.sendTime.Seconds()
}

// measure runs both ceilings once.
func (c *ceilings) measure(ctx context.Context, o *Command, data []byte, rs *receivers) error {
	if err := c.ingest(ctx, o, data); err != nil {
		return fmt.Errorf("measure the ingest ceiling: %w", err)
	}
	if err := c.deliver(ctx, o, rs); err != nil {
		return fmt.Errorf("measure the delivery ceiling: %w", err)
	}
	return nil
}

// ingest runs the load generator against a bare server.
func (c *ceilings) ingest(ctx context.Context, o *Command, data []byte) error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	srv, err := startChild(ctx, "bench-ingest", nil, nil, in)
	_ = in.Close()
	if err != nil {
		return err
	}
	defer srv.stop()
	addr, err := readLine(ctx, out, srv)
	if err != nil {
		return err
	}
	for _, d := range []time.Duration{ceilingWarm, ceilingTime} {
		l := o.load(addr, "", data)
		l.events, l.duration, l.rate = 0, d, 0
		res, err := l.run(ctx)
		if err != nil {
			return err
		}
		if d == ceilingTime {
			c.ingested += float64(l.acked.Load())
			c.ingestTime += res.elapsed
		}
	}
	return nil
}

// readLine reads the one line a child prints when it is ready.
func readLine(ctx context.Context, out *os.File, c *child) (string, error) {
	if err := out.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line := make([]byte, 0, 64)
	for !bytes.HasSuffix(line, []byte("\n")) && len(line) < cap(line) {
		n, err := out.Read(line[len(line):cap(line)])
		line = line[:len(line)+n]
		switch {
		case context.Cause(ctx) != nil:
			return "", context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return "", c.ended()
		case err != nil:
			return "", fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return strings.TrimSpace(string(line)), nil
}

// deliver runs the daemon's way of sending against the run's own receivers.
func (c *ceilings) deliver(ctx context.Context, o *Command, rs *receivers) error {
	args := []string{
		"--concurrency", strconv.Itoa(defaultConcurrency), "--workers", strconv.Itoa(defaultWorkers),
		"--size", strconv.Itoa(o.Size), "--records", strconv.Itoa(o.Records), "--warm", ceilingWarm.String(), "--duration", ceilingTime.String(),
	}
	if c.caFile != "" {
		args = append(args, "--ca-file", c.caFile)
	}
	for _, r := range rs.healthy {
		args = append(args, "--target", r.url())
	}
	rs.keep(nil)
	var out bytes.Buffer
	p, err := startChild(ctx, "bench-deliver", args, nil, &out)
	if err != nil {
		return err
	}
	defer p.stop()
	limit := time.NewTimer(ceilingWarm + ceilingTime + readyTimeout)
	defer limit.Stop()
	select {
	case <-p.done:
	case <-limit.C:
		return errors.New("the sender did not end in time")
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var res deliverResult
	if err := json.Unmarshal(out.Bytes(), &res); err != nil || p.err != nil {
		return p.ended()
	}
	if res.Failures > 0 || res.Seconds <= 0 {
		return fmt.Errorf("%d of the sender's requests failed", res.Failures)
	}
	c.delivered += float64(res.Deliveries)
	c.sendTime += time.Duration(res.Seconds * float64(time.Second))
	return nil
}
