package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	readyTimeout   = 30 * time.Second
	readyInterval  = 20 * time.Millisecond
	controlTimeout = 10 * time.Second
	// maxControl bounds the answers the control calls read; metrics are the longest.
	maxControl = 4 << 20
	// maxSocketPath is what the address of a unix socket holds on the narrowest system.
	maxSocketPath = 103
	commitsMetric = "herald_queue_commits_total"
)

// server is the daemon under test: a child process with a configuration and a data directory of its own.
type server struct {
	child *child
	start func() (*child, error)  // starts the process, which ends with the context of startServer
	lost  context.CancelCauseFunc // called when the daemon ends unasked
	data  string                  // the data directory
	wg    sync.WaitGroup          // of those who watch for that
	addr  string                  // host and port of the API
	admin string                  // base URL of health, metrics and profiles
	token string
	http  *http.Client
}

// startServer writes a configuration into the directory, to which it adds lines, starts the daemon with it and waits until it is
// ready. The caller stops it; lost is called when it ends by itself.
func startServer(ctx context.Context, dir string, c *Command, add []string, lost context.CancelCauseFunc) (*server, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	s := &server{
		addr: addr, admin: "http://" + addr, token: rand.Text() + rand.Text(), lost: lost,
		data: filepath.Join(dir, "data"),
		http: &http.Client{Timeout: controlTimeout, Transport: &http.Transport{}},
	}
	settings := append(c.settings(dir, addr, s.token), add...)
	if c.CPUProfile != "" {
		admin, err := freeAddress(ctx)
		if err != nil {
			return nil, err
		}
		s.admin = "http://" + admin
		settings = append(settings, "admin:", "  address: "+admin)
	}
	if socket := filepath.Join(dir, "herald.sock"); len(socket) > maxSocketPath {
		return nil, fmt.Errorf("the path %s is too long for a unix socket: choose a shorter --dir", socket)
	}
	if err := os.Mkdir(s.data, 0o700); err != nil {
		return nil, fmt.Errorf("make the daemon's data directory: %w", err)
	}
	file := filepath.Join(dir, "herald.yaml")
	if err := os.WriteFile(file, []byte(strings.Join(settings, "\n")+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write the daemon's configuration: %w", err)
	}
	s.start = func() (*child, error) {
		return startChild(ctx, "serve", []string{"--config", file}, cleanEnv(), nil)
	}
	if err := s.launch(); err != nil {
		return nil, err
	}
	if err := s.ready(ctx, readyTimeout, readyInterval); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// launch starts the process.
func (s *server) launch() error {
	c, err := s.start()
	if err != nil {
		return err
	}
	s.child = c
	s.wg.Go(func() {
		<-c.done
		if !c.asked.Load() {
			s.lost(c.ended())
		}
	})
	return nil
}

// settings is the daemon's configuration, in lines. What the benchmark does not need to set stays at the
// default, because the default is what is measured.
func (c *Command) settings(dir, addr, token string) []string {
	lines := []string{
		"listen:",
		"  address: " + addr,
		"  socket: " + strconv.Quote(filepath.Join(dir, "herald.sock")),
		"data_dir: " + strconv.Quote(filepath.Join(dir, "data")),
		"admin_token: " + token,
		"egress:",
		"  allow_networks: [127.0.0.0/8]",
	}
	if file := c.caFile(dir); file != "" {
		lines = append(lines, "  ca_file: "+strconv.Quote(file))
	}
	lines = append(lines, "log:", "  level: warn", "shutdown_timeout: 2s")
	const defaultPayload, defaultBody, overhead = 1 << 20, 16 << 20, 256
	if body := int64(c.Batch) * int64(c.Size+overhead); c.Size > defaultPayload || body > defaultBody {
		lines = append(lines, "limits:",
			fmt.Sprintf("  payload_bytes: %d", max(c.Size, defaultPayload)),
			fmt.Sprintf("  body_bytes: %d", max(body, defaultBody)))
	}
	return lines
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// ready waits until the daemon can make events durable, asking it in each interval.
func (s *server) ready(ctx context.Context, limit, interval time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the daemon was not ready within %v", limit))
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := s.call(ctx, http.MethodGet, s.admin+"/readyz", nil, nil); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.child.done:
			return s.child.ended()
		case <-ctx.Done():
			return fmt.Errorf("%w%s", context.Cause(ctx), s.child.tail.quote())
		}
	}
}

// stop ends the daemon.
func (s *server) stop() {
	s.child.stop()
	s.wg.Wait()
	s.http.CloseIdleConnections()
}

// call makes one request with the admin token; a 2xx answer is decoded into answer unless it is nil.
func (s *server) call(ctx context.Context, method, url string, body io.Reader, answer any) error {
	return s.callWith(ctx, s.http, method, url, body, answer)
}

// callWith is call over another client, whose patience is different.
func (s *server) callWith(ctx context.Context, client *http.Client, method, url string, body io.Reader, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxControl))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, req.URL.Path, err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: the daemon answered %d: %s", method, req.URL.Path, resp.StatusCode, excerpt(b))
	}
	switch a := answer.(type) {
	case nil:
		return nil
	case *[]byte:
		*a = b
		return nil
	default:
		if err := json.Unmarshal(b, answer); err != nil {
			return fmt.Errorf("%s %s: %w", method, req.URL.Path, err)
		}
		return nil
	}
}

// subscribe creates a subscription, gives the receiver its secret, and returns the subscription's id. A nil
// receiver needs none.
func (s *server) subscribe(ctx context.Context, r *receiver, wishes map[string]any) (string, error) {
	var created struct {
		ID            string `json:"id"`
		SigningSecret string `json:"signingSecret"`
	}
	body, err := json.Marshal(wishes)
	if err != nil {
		return "", err
	}
	if err := s.call(ctx, http.MethodPost, s.api("/subscriptions"), bytes.NewReader(body), &created); err != nil {
		return "", err
	}
	if created.ID == "" || created.SigningSecret == "" {
		return "", errors.New("POST /subscriptions: the answer has no id or no signingSecret")
	}
	if r == nil {
		return created.ID, nil
	}
	return created.ID, r.secret(created.SigningSecret)
}

// api returns the URL of a call.
func (s *server) api(path string) string { return "http://" + s.addr + path }

// metrics returns the sums of metrics, in the order of the names; below zero is what the daemon does not tell.
func (s *server) metrics(ctx context.Context, names ...string) ([]float64, error) {
	var text []byte
	if err := s.call(ctx, http.MethodGet, s.admin+"/metrics", nil, &text); err != nil {
		return nil, err
	}
	sums := make([]float64, len(names))
	for i, name := range names {
		v, ok, err := sumMetric(string(text), name)
		if err != nil {
			return nil, err
		}
		if sums[i] = v; !ok {
			sums[i] = -1
		}
	}
	return sums, nil
}

// commits returns the commits of the queue so far, or -1 when the daemon does not tell.
func (s *server) commits(ctx context.Context) (int64, error) {
	sums, err := s.metrics(ctx, commitsMetric)
	if err != nil {
		return -1, err
	}
	return int64(sums[0]), nil
}

// sumMetric adds up the samples of a metric in the Prometheus text format, whatever their labels.
func sumMetric(text, name string) (sum float64, found bool, err error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || (rest[0] != '{' && rest[0] != ' ' && rest[0] != '\t') {
			continue
		}
		if rest[0] == '{' {
			// A label's value may hold a brace, so the end is the last one.
			i := strings.LastIndexByte(rest, '}')
			if i < 0 {
				return 0, false, fmt.Errorf("metric %s: no end of the labels", name)
			}
			rest = rest[i+1:]
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return 0, false, fmt.Errorf("metric %s: no value", name)
		}
		v, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, false, fmt.Errorf("metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	return sum, found, nil
}

// profile has the daemon profile its processor use and writes the profile to a file.
func (s *server) profile(ctx context.Context, file string, d time.Duration) error {
	seconds := max(int(d/time.Second), 1)
	url := s.admin + "/debug/pprof/profile?seconds=" + strconv.Itoa(seconds)
	client := &http.Client{Transport: s.http.Transport, Timeout: d + controlTimeout}
	var b []byte
	if err := s.callWith(ctx, client, http.MethodGet, url, nil, &b); err != nil {
		return err
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("write the profile: %w", err)
	}
	return nil
}
