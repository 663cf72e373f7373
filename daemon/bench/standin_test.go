package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"gopkg.in/yaml.v3"
)

// standIn behaves like the daemon on the wire, and badly on request. What it has acknowledged survives a kill,
// because its journal does.
type standIn struct {
	Config string `required:""`

	fault  string
	client *http.Client
	events atomic.Int64
	pushes atomic.Int64
	wg     sync.WaitGroup
	slots  chan struct{}

	mu      sync.Mutex
	journal *os.File
	targets []*target
	known   map[string]*standInEvent   // events by id
	open    map[delivery]*standInEvent // not delivered yet
	replays map[string]*standInReplay  // by id
	starts  int
	devices standInDevices
}

type target struct {
	ID      string
	URL     string
	Records int
	Types   []string
	dropped bool
}

type standInEvent struct {
	ID   string          `json:"id"`
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
	At   time.Time       `json:"-"` // of acceptance
}

// delivery is an event's and a target's id, and that of the replay it belongs to.
type delivery struct{ Event, Target, Replay string }

// standInReplay is a replay, which is paced by flow alone.
type standInReplay struct {
	ID, Target   string
	Since, Until time.Time
	Rate         float64
	Deliveries   int
}

// entry of the journal: one of its fields.
type journalEntry struct {
	Start  bool          `json:",omitempty"`
	Target *target       `json:",omitempty"`
	Event  *standInEvent `json:",omitempty"`
	At     time.Time     `json:",omitzero"` // of the event
	Done   *delivery     `json:",omitempty"`
	Drop   string        `json:",omitempty"`
	Change *target       `json:",omitempty"`

	Replay *standInReplay `json:",omitempty"`

	App      *standInApp     `json:",omitempty"`
	Contact  string          `json:",omitempty"` // of the token
	Token    json.RawMessage `json:",omitempty"`
	Message  *standInMessage `json:",omitempty"`
	Notified string          `json:",omitempty"` // id of a message
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
			CAFile        string   `yaml:"ca_file"`
		}
		Providers       map[string]struct{ URL string }
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
	s.client = http.DefaultClient
	if file := config.Egress.CAFile; file != "" {
		if s.client, err = trusting(file); err != nil {
			return err
		}
	}
	if s.fault == "start" {
		return fmt.Errorf("cannot start: the data directory is cursed")
	}
	s.slots = make(chan struct{}, 64)
	if err := s.openSenders(config.Providers); err != nil {
		return err
	}
	if err := s.resume(filepath.Join(config.DataDir, "journal")); err != nil {
		return err
	}
	if s.fault == "once" && s.starts > 1 {
		return errors.New("this one starts only once")
	}
	mux := s.routes(ctx)
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Header.Get("Authorization") != "Bearer "+config.AdminToken {
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
	s.flow(ctx, func(delivery) bool { return true })
	s.notifyOpen(ctx)
	<-ctx.Done()
	for _, srv := range servers {
		_ = srv.Close()
	}
	wg.Wait()
	if s.fault == "unclean" {
		return errors.New("cannot stop in good order")
	}
	// Ending takes its time, as the daemon's does; what is left tells that it was given.
	time.Sleep(100 * time.Millisecond)
	return os.WriteFile(filepath.Join(config.DataDir, "ended"), nil, 0o600)
}

// trusting returns a client that trusts the authority in a file, and keeps sessions.
func trusting(file string) (*http.Client, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, errors.New("no certificate in the file of authorities")
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
	}}, nil
}

func (s *standIn) routes(ctx context.Context) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		waiting := len(s.open)
		s.mu.Unlock()
		fmt.Fprintf(w, "# TYPE herald_queue_commits_total counter\nherald_queue_commits_total %d\n", s.pushes.Load()+s.events.Load())
		fmt.Fprintf(w, "herald_queue_pending %d\nherald_queue_retrying 0\nherald_queue_delivering 0\nherald_queue_dead 0\n", waiting)
		fmt.Fprint(w, "go_memstats_heap_inuse_bytes 1.048576e+07\n")
	})
	mux.HandleFunc("GET /debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "profile of %s s", r.URL.Query().Get("seconds"))
	})
	mux.HandleFunc("POST /subscriptions", s.subscribe)
	mux.HandleFunc("DELETE /subscriptions/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.write(journalEntry{Drop: r.PathValue("id")})
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("PATCH /subscriptions/{id}", s.change)
	mux.HandleFunc("POST /subscriptions/{id}/replay", func(w http.ResponseWriter, r *http.Request) { s.startReplay(ctx, w, r) })
	mux.HandleFunc("GET /subscriptions/{id}/replays/{replay}", s.readReplay)
	mux.HandleFunc("POST /subscriptions/{id}/enable", func(_ http.ResponseWriter, r *http.Request) {
		stuck := s.fault == "stuck"
		s.flow(ctx, func(d delivery) bool {
			if d.Target != r.PathValue("id") || stuck {
				stuck = stuck && d.Target != r.PathValue("id")
				return false
			}
			return true
		})
	})
	mux.HandleFunc("GET /deliveries", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		list := []map[string]string{}
		for d := range s.open {
			if d.Target == r.URL.Query().Get("subscription") && r.URL.Query().Get("state") == "retrying" {
				list = append(list, map[string]string{"id": d.Event})
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("POST /deliveries/{id}/retry", func(_ http.ResponseWriter, r *http.Request) {
		s.flow(ctx, func(d delivery) bool { return d.Event == r.PathValue("id") })
	})
	mux.HandleFunc("POST /events", func(w http.ResponseWriter, r *http.Request) { s.publish(ctx, w, r) })
	s.deviceRoutes(ctx, mux)
	return mux
}

// resume reads the journal and begins the next part of it.
func (s *standIn) resume(path string) error {
	s.known, s.open, s.replays = map[string]*standInEvent{}, map[delivery]*standInEvent{}, map[string]*standInReplay{}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range bytes.Lines(b) {
		var e journalEntry
		if err := json.Unmarshal(line, &e); err != nil {
			break // what was being written when it was killed
		}
		s.apply(e)
	}
	if s.fault == "forget" && s.starts > 0 && len(s.open) > 0 {
		// The oldest waits for a receiver that takes nothing. A newer one may have arrived before the kill, and be no loss.
		delete(s.open, slices.MinFunc(slices.Collect(maps.Keys(s.open)), func(a, b delivery) int { return s.open[a].At.Compare(s.open[b].At) }))
	}
	if s.journal, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	s.write(journalEntry{Start: true})
	return nil
}

// write notes an entry where a kill does not reach it, and applies it. s.mu is held once the servers are up.
func (s *standIn) write(e journalEntry) {
	b, err := json.Marshal(e)
	if err == nil {
		_, err = s.journal.Write(append(b, '\n'))
	}
	if err != nil {
		panic(err)
	}
	s.apply(e)
}

func (s *standIn) apply(e journalEntry) {
	switch {
	case e.Start:
		s.starts++
	case e.Target != nil:
		s.targets = append(s.targets, e.Target)
	case e.Event != nil:
		e.Event.At = e.At
		s.known[e.Event.ID] = e.Event
		for _, t := range s.targets {
			if !t.dropped && (len(t.Types) == 0 || slices.Contains(t.Types, e.Event.Type) || (s.fault == "overhear" && t.ID == "sub-1")) {
				s.open[delivery{e.Event.ID, t.ID, ""}] = e.Event
			}
		}
	case e.Change != nil:
		for i, t := range s.targets {
			if t.ID == e.Change.ID {
				s.targets[i] = e.Change
			}
		}
	case e.Replay != nil:
		s.replays[e.Replay.ID] = e.Replay
		for _, event := range s.known {
			if !event.At.Before(e.Replay.Since) && event.At.Before(e.Replay.Until) {
				s.open[delivery{event.ID, e.Replay.Target, e.Replay.ID}] = event
				e.Replay.Deliveries++
			}
		}
	case e.Done != nil:
		delete(s.open, *e.Done)
	case e.Drop != "":
		for _, t := range s.targets {
			t.dropped = t.dropped || t.ID == e.Drop
		}
		for d := range s.open {
			if d.Target == e.Drop {
				delete(s.open, d)
			}
		}
	default:
		s.applyDevices(e)
	}
}

// change is a merge patch of a subscription.
func (s *standIn) change(w http.ResponseWriter, r *http.Request) {
	var in struct {
		DataCallbackURL string
		NumberOfRecords *int
		MaxWaitSeconds  *float64
		Events          []string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || (in.NumberOfRecords == nil) != (in.MaxWaitSeconds == nil) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	t := &target{ID: r.PathValue("id"), URL: in.DataCallbackURL, Records: 1, Types: in.Events}
	if in.NumberOfRecords != nil {
		t.Records = *in.NumberOfRecords
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(journalEntry{Change: t})
}

// startReplay replays events, to all of whose types the target must have listened.
func (s *standIn) startReplay(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	made := &standInReplay{Target: r.PathValue("id")}
	if err := json.NewDecoder(r.Body).Decode(made); err != nil || made.Rate <= 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	made.ID = fmt.Sprintf("replay-%d", len(s.replays)+1)
	s.write(journalEntry{Replay: made})
	if s.fault == "omit" {
		for d := range s.open {
			if d.Replay == made.ID {
				delete(s.open, d)
				break
			}
		}
	}
	s.mu.Unlock()
	s.flow(ctx, func(d delivery) bool { return d.Replay == made.ID })
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"id":%q,"state":"running"}`, made.ID)
}

// readReplay tells how far a replay is.
func (s *standIn) readReplay(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := s.replays[r.PathValue("replay")]
	if made == nil || made.Target != r.PathValue("id") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	state := replayDone
	for d := range s.open {
		if d.Replay == made.ID {
			state = "running"
		}
	}
	if s.fault == "endless" {
		state = "running"
	}
	fmt.Fprintf(w, `{"id":%q,"state":%q,"deliveries":%d}`, made.ID, state, made.Deliveries)
}

func (s *standIn) subscribe(w http.ResponseWriter, r *http.Request) {
	in := struct {
		DataCallbackURL string
		NumberOfRecords int
		MaxWaitSeconds  float64
		Events          []string
	}{NumberOfRecords: 1}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || (in.NumberOfRecords > 1) != (in.MaxWaitSeconds > 0) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &target{ID: fmt.Sprintf("sub-%d", len(s.targets)+1), URL: in.DataCallbackURL, Records: in.NumberOfRecords, Types: in.Events}
	s.write(journalEntry{Target: t})
	fmt.Fprintf(w, `{"id":%q,"dataCallbackURL":%q,"signingSecret":%q}`, t.ID, t.URL, standInKey)
}

func (s *standIn) publish(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	array := bytes.HasPrefix(body, []byte("["))
	var events []*standInEvent
	if array {
		err = json.Unmarshal(body, &events)
	} else {
		events = []*standInEvent{{}}
		err = json.Unmarshal(body, events[0])
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
	fresh := map[string]bool{}
	s.mu.Lock()
	for i, e := range events {
		if e.ID == "" {
			e.ID = fmt.Sprintf("evt_%d_%d", s.starts, n-int64(i))
		}
		answers = append(answers, fmt.Sprintf(`{"id":%q}`, e.ID))
		if s.known[e.ID] == nil {
			s.write(journalEntry{Event: e, At: time.Now()})
			fresh[e.ID] = true
		}
	}
	s.mu.Unlock()
	s.flow(ctx, func(d delivery) bool { return fresh[d.Event] })
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	if array {
		fmt.Fprintf(w, "[%s]", strings.Join(answers, ", "))
	} else {
		fmt.Fprint(w, answers[0])
	}
}

// flow pushes the open deliveries that are wanted to their targets.
func (s *standIn) flow(ctx context.Context, wanted func(delivery) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.targets {
		lists := map[string][]*standInEvent{}
		for d, e := range s.open {
			if d.Target == t.ID && wanted(d) {
				lists[d.Replay] = append(lists[d.Replay], e)
			}
		}
		for replay, list := range lists {
			n := 0
			for chunk := range slices.Chunk(list, t.Records) {
				var wait time.Duration
				if r := s.replays[replay]; r != nil {
					wait = time.Duration(float64(n) / r.Rate * float64(time.Second))
				}
				n += len(chunk)
				s.deliver(ctx, t, chunk, replay, wait)
			}
		}
	}
}

// deliver makes a push, once unless a fault says otherwise; one of a replay waits for its time.
func (s *standIn) deliver(ctx context.Context, t *target, events []*standInEvent, replay string, wait time.Duration) {
	times := 1
	n := s.pushes.Add(1)
	switch {
	case s.fault == "lose" && n == 30, s.fault == "vanish" && n > 50:
		times = 0
	case s.fault == "repeat" && n%10 == 0:
		times = 2
	}
	s.wg.Go(func() {
		if pause(ctx, wait) != nil {
			return
		}
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
		for range times {
			s.push(ctx, t, events, replay, n)
		}
	})
}

func (s *standIn) push(ctx context.Context, t *target, events []*standInEvent, replay string, n int64) {
	var records [][]byte
	for _, e := range events {
		id, data := e.ID, []byte(e.Data)
		if s.fault == "corrupt" {
			data = bytes.Replace(data, []byte("member"), []byte("nember"), 1)
		}
		if s.fault == "rename" {
			id += "x"
		}
		records = append(records, fmt.Appendf(nil, `{"id": %q, "type":%q,"time":"2026-01-01T00:00:00Z","accountId":"default","data":%s}`, id, e.Type, data))
	}
	id, body := events[0].ID, records[0]
	if s.fault == "rename" {
		id += "x"
	}
	if t.Records > 1 {
		count := len(records)
		if s.fault == "miscount" {
			count++
		}
		if s.fault == "drop" && n > 4 && count > 1 {
			records = records[1:]
			count--
		}
		id = "batch_" + id
		body = fmt.Appendf(nil, `{"numberOfRecords":%d,"records":[%s]}`, count, bytes.Join(records, []byte(",")))
	}
	key, _ := standardwebhooks.NewWebhook(standInKey)
	now := time.Now()
	signature, _ := key.Sign(id, now, body)
	if s.fault == "forge" {
		signature = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	}
	if s.fault == "header" {
		id = "evt_other"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(body))
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	req.Header.Set("webhook-signature", signature)
	if (replay != "" && s.fault != "unmarked") || s.fault == "marked" {
		req.Header.Set("Herald-Replay", "true")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return
	}
	if s.fault == "reconnect" {
		defer s.client.CloseIdleConnections()
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		s.write(journalEntry{Done: &delivery{e.ID, t.ID, replay}})
	}
}
