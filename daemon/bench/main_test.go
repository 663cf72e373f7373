package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"gopkg.in/yaml.v3"
)

// faultPrefix begins the name of the directory that tells the stand-in daemon what to do wrong, so that
// tests with different faults can run at once.
const faultPrefix = "fault-"

// TestMain makes the test binary the program under test as well: started with one of the commands that the
// benchmark starts as a child, it runs that command, with a stand-in for the daemon.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := runChild(ctx, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The stand-in refuses the daemon's own variables, so every test shows that they are kept from it.
	if err := os.Setenv("HERALD_LOG_LEVEL", "debug"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func runChild(ctx context.Context, args []string) error {
	var line struct {
		Serve        standIn        `cmd:""`
		BenchIngest  IngestCommand  `cmd:"" name:"bench-ingest" hidden:""`
		BenchDeliver DeliverCommand `cmd:"" name:"bench-deliver" hidden:""`
	}
	parser, err := kong.New(&line)
	if err != nil {
		return err
	}
	k, err := parser.Parse(args)
	if err != nil {
		return err
	}
	switch k.Command() {
	case "serve":
		return line.Serve.Run(ctx)
	case "bench-ingest":
		return line.BenchIngest.Run(ctx, os.Stdout, os.Stderr)
	case "bench-deliver":
		return line.BenchDeliver.Run(ctx, os.Stdout, os.Stderr)
	}
	return fmt.Errorf("no such command: %s", k.Command())
}

// standIn behaves like the daemon on the wire, and badly on request.
type standIn struct {
	Config string `required:""`

	fault   string
	mu      sync.Mutex
	targets []target
	events  atomic.Int64
	pushes  atomic.Int64
	wg      sync.WaitGroup
	slots   chan struct{}
}

type target struct {
	url string
	key *standardwebhooks.Webhook
}

// standInKey is an arbitrary signing secret.
const standInKey = "whsec_c3RhbmQtaW4gc2lnbmluZyBzZWNyZXQgb2YgMzIgYg=="

func (s *standIn) Run(ctx context.Context) error {
	b, err := os.ReadFile(s.Config)
	if err != nil {
		return err
	}
	var config struct {
		Listen     struct{ Address, Socket string }
		Admin      struct{ Address string }
		DataDir    string `yaml:"data_dir"`
		AdminToken string `yaml:"admin_token"`
		Egress     struct {
			AllowNetworks []string `yaml:"allow_networks"`
		}
		Log             struct{ Level string }
		Limits          map[string]int64
		ShutdownTimeout string `yaml:"shutdown_timeout"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&config); err != nil {
		return err
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "HERALD_") {
			return fmt.Errorf("unknown variable %s", v)
		}
	}
	for part := range strings.SplitSeq(config.DataDir, string(os.PathSeparator)) {
		if fault, ok := strings.CutPrefix(part, faultPrefix); ok {
			s.fault = fault
		}
	}
	if s.fault == "start" {
		return fmt.Errorf("cannot start: the data directory is cursed")
	}
	s.slots = make(chan struct{}, 64)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE herald_queue_commits_total counter\nherald_queue_commits_total %d\n", s.pushes.Load()+s.events.Load())
	})
	mux.HandleFunc("GET /debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "profile of %s s", r.URL.Query().Get("seconds"))
	})
	mux.HandleFunc("POST /subscriptions", s.subscribe)
	mux.HandleFunc("POST /events", func(w http.ResponseWriter, r *http.Request) { s.publish(ctx, w, r) })
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("Authorization") != "Bearer "+config.AdminToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
	servers := []*http.Server{{Addr: config.Listen.Address, Handler: api}}
	if config.Admin.Address != "" {
		servers = append(servers, &http.Server{Addr: config.Admin.Address, Handler: mux})
	}
	var wg sync.WaitGroup
	for _, srv := range servers {
		wg.Go(func() { _ = srv.ListenAndServe() })
		defer srv.Close()
	}
	<-ctx.Done()
	for _, srv := range servers {
		_ = srv.Close()
	}
	wg.Wait()
	// Ending takes its time, as the daemon's does; what is left tells that it was given.
	time.Sleep(100 * time.Millisecond)
	return os.WriteFile(filepath.Join(config.DataDir, "ended"), nil, 0o600)
}

func (s *standIn) subscribe(w http.ResponseWriter, r *http.Request) {
	var in struct{ DataCallbackURL string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	key, _ := standardwebhooks.NewWebhook(standInKey)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets = append(s.targets, target{in.DataCallbackURL, key})
	fmt.Fprintf(w, `{"id":"sub-%d","dataCallbackURL":%q,"signingSecret":%q}`, len(s.targets), in.DataCallbackURL, standInKey)
}

type standInEvent struct {
	ID   string          `json:"id"`
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

func (s *standIn) publish(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	array := bytes.HasPrefix(body, []byte("["))
	var events []standInEvent
	if array {
		err = json.Unmarshal(body, &events)
	} else {
		events = make([]standInEvent, 1)
		err = json.Unmarshal(body, &events[0])
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"title":"bad","detail":%q}`, err)
		return
	}
	n := s.events.Add(int64(len(events)))
	switch {
	case s.fault == "refuse" && n%7 == 0:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case s.fault == "broken" && n > 20:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"title":"the disk is gone"}`)
		return
	case s.fault == "die" && n > 20:
		fmt.Fprintln(os.Stderr, "last words of the daemon")
		os.Exit(7)
	case s.fault == "vanish" && n == 60:
		time.AfterFunc(100*time.Millisecond, func() { panic("last words of the daemon") })
	case s.fault == "short" && n > 20:
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `[]`)
		return
	}
	var answers []string
	for i := range events {
		e := &events[i]
		if e.ID == "" {
			e.ID = fmt.Sprintf("evt_%d", n-int64(i))
		}
		answers = append(answers, fmt.Sprintf(`{"id":%q}`, e.ID))
		s.deliver(ctx, *e)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	if array {
		fmt.Fprintf(w, "[%s]", strings.Join(answers, ", "))
	} else {
		fmt.Fprint(w, answers[0])
	}
}

// deliver pushes an event to every target, once unless a fault says otherwise.
func (s *standIn) deliver(ctx context.Context, e standInEvent) {
	s.mu.Lock()
	targets := s.targets
	s.mu.Unlock()
	for _, t := range targets {
		times := 1
		switch n := s.pushes.Add(1); {
		case s.fault == "lose" && n == 30, s.fault == "vanish" && n > 50:
			times = 0
		case s.fault == "repeat" && n%10 == 0:
			times = 2
		}
		s.wg.Go(func() {
			s.slots <- struct{}{}
			defer func() { <-s.slots }()
			for range times {
				s.push(ctx, t, e)
			}
		})
	}
}

func (s *standIn) push(ctx context.Context, t target, e standInEvent) {
	data := []byte(e.Data)
	if s.fault == "corrupt" {
		data = bytes.Replace(data, []byte("member"), []byte("nember"), 1)
	}
	if s.fault == "rename" {
		e.ID += "x"
	}
	body := fmt.Appendf(nil, `{"id": %q, "type":%q,"time":"2026-01-01T00:00:00Z","accountId":"default","data":%s}`, e.ID, e.Type, data)
	now := time.Now()
	signature, _ := t.key.Sign(e.ID, now, body)
	if s.fault == "forge" {
		signature = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	}
	id := e.ID
	if s.fault == "header" {
		id = "evt_other"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	req.Header.Set("webhook-signature", signature)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}
