package handshake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"herald/queue"
	"herald/store"
)

// memory is a Store that can fail.
type memory struct {
	mu                sync.Mutex
	subs              map[store.SubscriptionID]*store.Subscription
	reading, changing error
	reads             int
}

func (m *memory) Subscription(_ context.Context, id store.SubscriptionID) (*store.Subscription, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.reading != nil {
		return nil, m.reading
	}
	if s := m.subs[id]; s != nil {
		return s, nil
	}
	return nil, store.ErrNotFound
}

func (m *memory) Subscriptions(_ context.Context, _ string, after store.SubscriptionID, limit int) ([]*store.Subscription, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reading != nil {
		return nil, m.reading
	}
	var page []*store.Subscription
	for _, s := range m.subs {
		if slices.Compare(s.ID[:], after[:]) > 0 {
			page = append(page, s)
		}
	}
	slices.SortFunc(page, func(a, b *store.Subscription) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return page[:min(len(page), limit)], nil
}

func (m *memory) UpdateSubscription(_ context.Context, id store.SubscriptionID, change func(*store.Subscription) error) (*store.Subscription, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.subs[id]
	if m.changing != nil {
		return nil, m.changing
	}
	if s == nil {
		return nil, store.ErrNotFound
	}
	next := s.Clone()
	if err := change(next); err != nil {
		return nil, err
	}
	m.subs[id] = next
	return next, nil
}

func (m *memory) fail(reading, changing error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reading, m.changing = reading, changing
}

func (m *memory) readings() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

// sent is one attempt.
type sent struct {
	url, method, format, body string
	push                      queue.Push
	after                     time.Duration // since the bench began
	limit                     time.Duration
}

// bench is a Handshake in a bubble, with what it has sent.
type bench struct {
	*Handshake
	t        *testing.T
	m        *memory
	registry *prometheus.Registry
	log      journal
	began    time.Time
	cancel   context.CancelFunc
	ended    chan error

	mu   sync.Mutex
	got  []sent
	busy int
	most int
	// answer says what comes of an attempt, n of that URL from 1.
	answer func(ctx context.Context, url string, n int) queue.Outcome
	// rate is what Ask answers with, callbacks those it got, and grants what Grant was told, which fails with granting.
	rate      int
	callbacks []string
	grants    []string
	granting  error
}

// Ask implements Sender: the method of what it sends is OPTIONS.
func (b *bench) Ask(ctx context.Context, sub *store.Subscription, p queue.Push, origin, callback string) (queue.Outcome, int) {
	if origin != "herald.example" || len(p.Events) != 0 {
		b.t.Errorf("asked for %q with %d events", origin, len(p.Events))
	}
	b.mu.Lock()
	b.callbacks = append(b.callbacks, callback)
	b.mu.Unlock()
	asking := *sub
	asking.Method = "OPTIONS"
	p.Events = []*queue.Event{{}}
	return b.Send(ctx, &asking, p), b.rate
}

// granted does what the API does.
func (b *bench) granted(_ context.Context, asked *store.Subscription, origin string, rate int) error {
	b.mu.Lock()
	b.grants = append(b.grants, fmt.Sprint(asked.ID[15], " ", origin, " ", rate))
	err := b.granting
	b.mu.Unlock()
	if err == nil {
		b.change(asked, func(s *store.Subscription) { s.Permit(origin, rate, time.Now().UTC()) })
	}
	return err
}

// ask makes a subscription whose receiver is asked for permission.
func (b *bench) ask(n byte, url string) *store.Subscription {
	return b.make(n, func(s *store.Subscription) { s.ValidationKind, s.DataCallbackURL = store.ValidationCloudEvents, url })
}

func (b *bench) Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	limit, _ := ctx.Deadline()
	b.mu.Lock()
	b.got = append(b.got, sent{
		sub.DataCallbackURL, sub.Method, sub.ExportFormat, string(p.Events[0].Data), p, time.Since(b.began), time.Until(limit),
	})
	n := 0
	for _, s := range b.got {
		if s.url == sub.DataCallbackURL {
			n++
		}
	}
	b.busy++
	b.most = max(b.most, b.busy)
	answer := b.answer
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.busy--
		b.mu.Unlock()
	}()
	return answer(ctx, sub.DataCallbackURL, n)
}

// sends returns the attempts to a URL so far.
func (b *bench) sends(url string) []sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []sent
	for _, s := range b.got {
		if url == "" || s.url == url {
			list = append(list, s)
		}
	}
	return list
}

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// waits are the times between the attempts, in seconds.
func (b *bench) waits(url string) []float64 {
	list := b.sends(url)
	var out []float64
	for i := 1; i < len(list); i++ {
		out = append(out, (list[i].after - list[i-1].after).Seconds())
	}
	return out
}

func (b *bench) respond(f func(ctx context.Context, url string, n int) queue.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

func outcome(class queue.Class, status int, text string) func(context.Context, string, int) queue.Outcome {
	return func(context.Context, string, int) queue.Outcome {
		return queue.Outcome{Class: class, Status: status, Error: text}
	}
}

func hanging(ctx context.Context, _ string, _ int) queue.Outcome {
	<-ctx.Done()
	return queue.Outcome{Class: queue.ClassRetry, Error: "the receiver did not answer"}
}

var (
	delivered = outcome(queue.ClassDelivered, 200, "")
	failing   = outcome(queue.ClassRetry, 500, "the receiver answered 500 Internal Server Error")
)

// begin starts Run, again after stop.
func (b *bench) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.ended = make(chan error, 1)
	go func() { b.ended <- b.Run(ctx) }()
	synctest.Wait()
}

func (b *bench) stop() {
	b.t.Helper()
	b.cancel()
	if err := <-b.ended; err != nil {
		b.t.Errorf("Run returned %v", err)
	}
}

// add makes a subscription with a record under way.
func (b *bench) add(n byte, url string) *store.Subscription {
	return b.make(n, func(s *store.Subscription) { s.ValidationCallbackURL = url })
}

func (b *bench) make(n byte, finish func(*store.Subscription)) *store.Subscription {
	b.m.mu.Lock()
	s := &store.Subscription{
		ID: store.SubscriptionID{15: n}, AccountID: "default", State: store.StatePending, Method: "GET", NumberOfRecords: 100,
		ExportFormat: "application/json", DataCallbackURL: "http://data.example/in",
	}
	finish(s)
	s.BeginValidation(time.Now().UTC().Truncate(time.Millisecond))
	b.m.subs[s.ID] = s
	b.m.mu.Unlock()
	b.Changed(s.ID)
	return s
}

// change changes a subscription as the API does.
func (b *bench) change(s *store.Subscription, change func(*store.Subscription)) {
	b.t.Helper()
	if _, err := b.m.UpdateSubscription(b.t.Context(), s.ID, func(s *store.Subscription) error { change(s); return nil }); err != nil {
		b.t.Fatal(err)
	}
	b.Changed(s.ID)
}

func (b *bench) read(s *store.Subscription) store.Validation {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	return b.m.subs[s.ID].Validation
}

// inBubble runs a test on a bench that is running.
func inBubble(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, m: &memory{subs: map[store.SubscriptionID]*store.Subscription{}}, registry: prometheus.NewRegistry(), answer: delivered}
		h, err := New(Options{
			Store: b.m, Sender: b, Settings: Settings{Timeout: 15 * time.Second}, Registerer: b.registry,
			ConfirmationURL: func(s *store.Subscription) string { return "http://herald.example/" + s.ID.String() },
			Origin:          func() string { return "herald.example" }, Grant: b.granted,
			Logger: slog.New(slog.NewTextHandler(&b.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		b.Handshake, b.began = h, time.Now()
		b.begin()
		test(t, b)
		b.stop()
		for name, want := range map[string]float64{"herald_handshake_in_flight": 0, "herald_handshake_waiting": 0} {
			if got := b.metric(name); got != want {
				t.Errorf("%s is %v at the end", name, got)
			}
		}
	})
}

// metric is the value of a series, written as name or name{label="value"}.
func (b *bench) metric(series string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf("{%s=%q}", l.GetName(), l.GetValue())
			}
			if name == series {
				return cmp.Or(m.GetCounter().GetValue(), m.GetGauge().GetValue())
			}
		}
	}
	b.t.Fatalf("there is no %s", series)
	return 0
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := func() Options {
		return Options{
			Store: &memory{}, Sender: &bench{}, Settings: Settings{Timeout: time.Second},
			ConfirmationURL: func(*store.Subscription) string { return "" }, Origin: func() string { return "" },
			Grant: func(context.Context, *store.Subscription, string, int) error { return nil },
		}
	}
	if h, err := New(good()); err != nil || h.Configure(Settings{}) == nil {
		t.Errorf("the right options: %v", err)
	}
	taken := prometheus.NewRegistry()
	if _, err := newMetrics(taken); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Options){
		"no store":            func(o *Options) { o.Store = nil },
		"no sender":           func(o *Options) { o.Sender = nil },
		"no confirmation URL": func(o *Options) { o.ConfirmationURL = nil },
		"no origin":           func(o *Options) { o.Origin = nil },
		"no grant":            func(o *Options) { o.Grant = nil },
		"no timeout":          func(o *Options) { o.Settings.Timeout = 0 },
		"too much jitter":     func(o *Options) { o.Settings.Jitter = 0.51 },
		"negative jitter":     func(o *Options) { o.Settings.Jitter = -0.1 },
		"a taken registry":    func(o *Options) { o.Registerer = taken },
	} {
		o := good()
		spoil(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	if problems, err := testutil.GatherAndLint(taken); err != nil || len(problems) > 0 {
		t.Errorf("the metrics: %v %v", problems, err)
	}
}

// The record goes to the validation URL alone, as one bare record, whatever pushes look like.
func TestRecordIsHandedOver(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		s := b.add(1, "http://ask.example/secret-path")
		synctest.Wait()
		list := b.sends("")
		if len(list) != 1 {
			t.Fatalf("%d attempts", len(list))
		}
		x := list[0]
		if x.url != s.ValidationCallbackURL || x.method != "POST" || x.limit != 15*time.Second || x.push.Attempt != 1 ||
			!strings.HasPrefix(x.push.ID, "val_") || x.push.Events[0].ID != x.push.ID {
			t.Errorf("sent %+v", x)
		}
		var record map[string]string
		if err := json.Unmarshal([]byte(x.body), &record); err != nil || len(record) != 2 ||
			record["confirmationURL"] != "http://herald.example/"+s.ID.String() || !s.CheckValidation(record["signature"], time.Now()) {
			t.Errorf("the record is %s", x.body)
		}
		if v := b.read(s); !v.NextAt.IsZero() || v.Attempts != 1 || v.LastError != "" || !v.ExpiresAt.Equal(s.Validation.ExpiresAt) {
			t.Errorf("noted %+v", v)
		}
		time.Sleep(2 * store.ValidationLifetime)
		synctest.Wait()
		if n := len(b.sends("")); n != 1 {
			t.Errorf("a record that was taken was sent %d times", n)
		}
		if log := b.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "outcome=delivered") ||
			!strings.Contains(log, "next=confirmation") || strings.Contains(log, "secret-path") || strings.Contains(log, record["signature"]) {
			t.Errorf("the log is %s", log)
		}
	})
}

// Without a validation URL the data URL is asked.
func TestRecordFallsBackToTheDataURL(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.add(1, "")
		synctest.Wait()
		if len(b.sends("http://data.example/in")) != 1 {
			t.Errorf("sent %+v", b.sends(""))
		}
	})
}

func TestScheduleEndsWithTheRecord(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(failing)
		s := b.add(1, "http://ask.example/")
		synctest.Wait()
		if v := b.read(s); v.Attempts != 1 || !v.NextAt.Equal(time.Now().Add(5*time.Second)) || !strings.Contains(v.LastError, "500") {
			t.Errorf("after the first attempt: %+v", v)
		}
		if got := b.metric("herald_handshake_waiting"); got != 1 {
			t.Errorf("%v records wait", got)
		}
		time.Sleep(2 * store.ValidationLifetime)
		synctest.Wait()
		want := []float64{5, 30, 120, 600, 1800, 3600, 7200, 10800, 10800, 10800, 10800, 10800, 10800}
		if got := b.waits(""); !slices.Equal(got, want) {
			t.Errorf("the waits are %v, want %v", got, want)
		}
		list := b.sends("")
		for i, x := range list {
			if x.push.Attempt != i+1 || x.push.ID != list[0].push.ID || x.body != list[0].body {
				t.Errorf("attempt %d: %+v", i+1, x)
			}
		}
		if last := list[len(list)-1].after; last >= store.ValidationLifetime {
			t.Errorf("the last attempt was made after %v", last)
		}
		if v := b.read(s); v.Attempts != len(list) || !v.NextAt.IsZero() || v.ExpiresAt.IsZero() || !strings.Contains(v.LastError, "500") {
			t.Errorf("at the end: %+v", v)
		}
		if n := b.metric(`herald_handshake_given_up_total{reason="expired"}`); n != 1 {
			t.Errorf("%v given up", n)
		}
		if n := b.metric(`herald_handshake_attempts_total{outcome="retry"}`); n != float64(len(list)) {
			t.Errorf("%v attempts counted, %d made", n, len(list))
		}
		if !strings.Contains(b.log.String(), "next=expired") {
			t.Errorf("the log does not say that it was given up: %s", b.log.String())
		}
	})
}

// Whatever the jitter, the schedule reaches to the end of the record's life.
func TestScheduleIsLongEnough(t *testing.T) {
	t.Parallel()
	s, err := queue.ParseSchedule(Schedule)
	if err != nil {
		t.Fatal(err)
	}
	sum := time.Duration(0)
	for i := range s.Waits() {
		wait, _ := s.Next(i, 0.5, 0.3) // four fifths of each wait
		sum += wait
	}
	if sum < store.ValidationLifetime {
		t.Errorf("the shortened waits are %v together", sum)
	}
}

func TestJitterVariesTheWaits(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(failing)
		if err := b.Configure(Settings{Timeout: time.Second, Jitter: 0.5}); err != nil {
			t.Fatal(err)
		}
		for i := range byte(20) {
			b.add(i+1, fmt.Sprintf("http://ask%d.example/", i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		seen := map[float64]bool{}
		for i := range 20 {
			w := b.waits(fmt.Sprintf("http://ask%d.example/", i))[0]
			seen[w] = true
			if w < 2.5 || w > 7.5 {
				t.Errorf("a wait of %v", w)
			}
		}
		if len(seen) < 10 {
			t.Errorf("the waits are only %v", seen)
		}
	})
}

// A receiver that asks for time gets it, but no more than the record has.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(func(_ context.Context, _ string, n int) queue.Outcome {
			return queue.Outcome{Class: queue.ClassRetry, Status: 503, RetryAfter: []time.Duration{0, time.Hour, time.Second, 300 * time.Hour}[n]}
		})
		s := b.add(1, "http://ask.example/")
		time.Sleep(20 * time.Hour)
		synctest.Wait()
		if got, want := b.waits(""), []float64{3600, 30}; !slices.Equal(got, want) {
			t.Errorf("the waits are %v, want %v", got, want)
		}
		if v := b.read(s); !v.NextAt.IsZero() {
			t.Errorf("it is still to be tried: %+v", v)
		}
	})
}

func TestGoneEndsIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(outcome(queue.ClassGone, 410, "the receiver answered 410 Gone"))
		s := b.add(1, "http://ask.example/")
		time.Sleep(time.Hour)
		synctest.Wait()
		if v := b.read(s); len(b.sends("")) != 1 || !v.NextAt.IsZero() || v.ExpiresAt.IsZero() || !strings.Contains(v.LastError, "410") {
			t.Errorf("%d attempts, %+v", len(b.sends("")), v)
		}
		if n := b.metric(`herald_handshake_given_up_total{reason="gone"}`); n != 1 {
			t.Errorf("%v given up", n)
		}
		// Asked for again, it is tried again.
		b.respond(delivered)
		b.change(s, func(s *store.Subscription) { s.BeginValidation(time.Now()) })
		synctest.Wait()
		if len(b.sends("")) != 2 {
			t.Error("a new record was not sent")
		}
	})
}

// What can be cured by the owner of the subscription is tried again.
func TestMisconfiguredIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, class := range []queue.Class{queue.ClassMisconfigured, queue.ClassRejected} {
		inBubble(t, func(t *testing.T, b *bench) {
			b.respond(outcome(class, 0, strings.Repeat("é", queue.MaxErrorText)))
			s := b.add(1, "http://ask.example/")
			time.Sleep(time.Minute)
			synctest.Wait()
			v := b.read(s)
			if v.Attempts != 3 || len(v.LastError) != queue.MaxErrorText || strings.ToValidUTF8(v.LastError, "") != v.LastError {
				t.Errorf("%s: %+v", class, v)
			}
		})
	}
}

// A restart goes on where it was; what was over meanwhile is not sent.
func TestRestart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(failing)
		early := b.add(1, "http://early.example/")
		time.Sleep(40 * time.Second)
		synctest.Wait()
		late := b.add(2, "http://late.example/")
		synctest.Wait()
		b.stop()
		b.takeChanged()
		time.Sleep(10 * time.Hour)
		if n := len(b.sends("")); n != 4 {
			t.Fatalf("%d attempts before the restart", n)
		}
		b.begin()
		for url, n := range map[string]int{"http://early.example/": 4, "http://late.example/": 2} {
			list := b.sends(url)
			if len(list) != n || list[n-1].push.Attempt != n {
				t.Errorf("%s got %d attempts, want %d, the overdue one at once", url, len(list), n)
			}
		}
		b.stop()
		time.Sleep(24 * time.Hour)
		b.begin()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(b.sends("")); n != 6 {
			t.Errorf("%d attempts: expired records were sent", n)
		}
		for _, s := range []*store.Subscription{early, late} {
			if v := b.read(s); !v.NextAt.IsZero() || v.LastError == "" || v.Attempts == 0 {
				t.Errorf("an expired record: %+v", v)
			}
		}
		if n := b.metric(`herald_handshake_given_up_total{reason="expired"}`); n != 2 {
			t.Errorf("%v given up", n)
		}
	})
}

// More than a page of subscriptions is found at the start, and those with nothing under way are let be.
func TestLoadPages(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.stop()
		for i := range 2*pageSize + 1 {
			s := b.add(0, fmt.Sprintf("http://ask%d.example/", i))
			b.m.mu.Lock()
			delete(b.m.subs, s.ID)
			s.ID = store.SubscriptionID{1, 14: byte(i >> 8), 15: byte(i)}
			if i%2 == 1 {
				s.EndValidation()
			}
			b.m.subs[s.ID] = s
			b.m.mu.Unlock()
		}
		b.takeChanged()
		b.begin()
		if n := len(b.sends("")); n != pageSize+1 {
			t.Errorf("%d attempts, want %d", n, pageSize+1)
		}
	})
}

// An attempt that the end of the daemon breaks off is none: it is made again.
func TestStopBreaksOff(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(hanging)
		s := b.add(1, "http://ask.example/")
		time.Sleep(time.Second)
		before := time.Now()
		b.stop()
		if took := time.Since(before); took != 0 {
			t.Errorf("the end took %v", took)
		}
		if v := b.read(s); v.Attempts != 0 || v.LastError != "" || v.NextAt.IsZero() {
			t.Errorf("noted %+v", v)
		}
		b.respond(delivered)
		b.begin()
		if v := b.read(s); v.Attempts != 1 || !v.NextAt.IsZero() || len(b.sends("")) != 2 {
			t.Errorf("after the restart: %+v", v)
		}
	})
}

// Hosts that hang take their share of the attempts and no more; what is for them waits its turn.
func TestHangingHostHoldsUpNobody(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(func(ctx context.Context, url string, n int) queue.Outcome {
			if strings.Contains(url, "well") {
				return delivered(ctx, url, n)
			}
			return hanging(ctx, url, n)
		})
		for i := range byte(50) {
			b.add(i+1, fmt.Sprintf("http://hangs.example/%d", i))
		}
		synctest.Wait()
		if n := len(b.sends("")); n != MaxPerHost {
			t.Errorf("%d attempts at once to one host", n)
		}
		if n := b.metric("herald_handshake_in_flight"); n != MaxPerHost {
			t.Errorf("%v attempts in flight", n)
		}
		well := b.add(100, "http://well.example/")
		synctest.Wait()
		if v := b.read(well); v.Attempts != 1 || !v.NextAt.IsZero() {
			t.Errorf("beside the hanging host: %+v", v)
		}
		// Each of the 50 gets its first attempt in turn, though those before it come to be due again.
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for i := range 50 {
			if len(b.sends(fmt.Sprintf("http://hangs.example/%d", i))) == 0 {
				t.Errorf("the record for path %d was never sent", i)
			}
		}
		// Forgotten while they wait: nothing is sent any more.
		b.m.mu.Lock()
		for id := range b.m.subs {
			delete(b.m.subs, id)
			b.Changed(id)
		}
		b.m.mu.Unlock()
		synctest.Wait()
		n := len(b.sends(""))
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := len(b.sends("")); got != n {
			t.Errorf("%d attempts for deleted subscriptions", got-n)
		}
		if n := b.metric("herald_handshake_waiting"); n != 0 {
			t.Errorf("%v records wait", n)
		}
	})
}

// Records that leave the queue of a host by a change leave no gap in it: what waits behind them has its turn all the same.
func TestChangedWhileWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(hanging)
		var all []*store.Subscription
		for i := range byte(30) {
			all = append(all, b.add(i+1, fmt.Sprintf("http://hangs.example/%d", i)))
		}
		synctest.Wait()
		at := map[string]bool{} // where an attempt is under way
		for _, x := range b.sends("") {
			at[x.url] = true
		}
		// All but a few of them go elsewhere, are confirmed, or come back to where they were.
		for i, s := range all {
			switch i % 4 {
			case 1:
				b.change(s, func(s *store.Subscription) {
					s.ValidationCallbackURL = strings.Replace(s.ValidationCallbackURL, "hangs", "elsewhere", 1)
					s.BeginValidation(time.Now())
				})
			case 2:
				b.change(s, func(s *store.Subscription) { s.Confirm(time.Now()) })
			case 3:
				b.change(s, func(s *store.Subscription) { s.EndValidation() })
				synctest.Wait()
				b.change(s, func(s *store.Subscription) { s.BeginValidation(time.Now()) })
			}
			synctest.Wait()
		}
		b.respond(delivered)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for i, s := range all {
			url := fmt.Sprintf("http://hangs.example/%d", i)
			if i%4 == 1 {
				url = strings.Replace(url, "hangs", "elsewhere", 1)
			}
			n := len(b.sends(url))
			if v := b.read(s); !v.NextAt.IsZero() || n == 0 && i%4 != 2 || n > 3 || i%4 == 2 && n > 0 && !at[url] {
				t.Errorf("record %d was sent %d times: %+v", i, n, v)
			}
		}
	})
}

func TestAttemptsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(hanging)
		for i := range byte(60) {
			b.add(i+1, fmt.Sprintf("http://hangs%d.example/", i))
		}
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if b.most != MaxAttempts {
			t.Errorf("%d attempts at once, want %d", b.most, MaxAttempts)
		}
		for i := range 60 {
			if len(b.sends(fmt.Sprintf("http://hangs%d.example/", i))) == 0 {
				t.Errorf("host %d was never asked", i)
			}
		}
	})
}

// An attempt has the subscription's own time, within bounds.
func TestTimeout(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		for n, c := range map[byte]struct{ own, want time.Duration }{
			1: {0, 15 * time.Second}, 2: {2 * time.Second, 2 * time.Second}, 3: {5 * time.Minute, MaxTimeout},
		} {
			url := fmt.Sprintf("http://ask%d.example/", n)
			s := b.add(n, url)
			b.change(s, func(s *store.Subscription) { s.Delivery.Timeout = c.own })
			synctest.Wait()
			if list := b.sends(url); len(list) != 1 || list[0].limit != c.want {
				t.Errorf("a timeout of %v: %+v", c.own, list)
			}
		}
	})
}

// A record that takes the place of one that is being sent is sent at once, and what comes of the other is nobody's.
func TestNewRecordDuringAnAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(hanging)
		s := b.add(1, "http://old.example/")
		time.Sleep(time.Second)
		b.respond(delivered)
		b.change(s, func(s *store.Subscription) {
			s.ValidationCallbackURL = "http://new.example/"
			s.BeginValidation(time.Now())
		})
		synctest.Wait()
		list := b.sends("http://new.example/")
		if len(list) != 1 || list[0].push.Attempt != 1 || list[0].push.ID == b.sends("http://old.example/")[0].push.ID {
			t.Errorf("the new record: %+v", list)
		}
		if v := b.read(s); v.Attempts != 1 || !v.NextAt.IsZero() || v.LastError != "" {
			t.Errorf("noted %+v", v)
		}
	})
}

// A receiver may confirm before it answers; the attempt then ends in peace and changes nothing.
func TestConfirmedDuringAnAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		broken := false
		b.respond(func(ctx context.Context, _ string, _ int) queue.Outcome {
			select {
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
				broken = true
			}
			return queue.Outcome{Class: queue.ClassRetry, Status: 500, Error: "late"}
		})
		s := b.add(1, "http://ask.example/")
		time.Sleep(time.Second)
		b.change(s, func(s *store.Subscription) { s.Confirm(time.Now()) })
		time.Sleep(time.Hour)
		synctest.Wait()
		if v := b.read(s); broken || v.LastError != "" || v.Attempts != 0 || !v.NextAt.IsZero() || len(b.sends("")) != 1 {
			t.Errorf("broken off: %v; noted %+v", broken, v)
		}
	})
}

func TestDeletedDuringAnAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(hanging)
		s := b.add(1, "http://ask.example/")
		time.Sleep(time.Second)
		b.m.mu.Lock()
		delete(b.m.subs, s.ID)
		b.m.mu.Unlock()
		b.Changed(s.ID)
		synctest.Wait()
		if n := b.metric("herald_handshake_in_flight"); n != 0 {
			t.Error("the attempt goes on")
		}
	})
}

// A store that cannot be read is asked again, at the start and later; it is complained of once.
func TestStoreCannotBeRead(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.stop()
		s := b.add(1, "http://ask.example/")
		b.m.fail(errors.New("disk on fire"), nil)
		b.takeChanged()
		b.begin()
		time.Sleep(12 * time.Second)
		if len(b.sends("")) != 0 || strings.Count(b.log.String(), "disk on fire") != 1 {
			t.Errorf("the log is %s", b.log.String())
		}
		b.m.fail(nil, nil)
		time.Sleep(storeDelay)
		synctest.Wait()
		if len(b.sends("")) != 1 {
			t.Fatal("nothing was sent after the store was well again")
		}
		// Later, when a change is announced.
		b.change(s, func(s *store.Subscription) {
			s.BeginValidation(time.Now())
			b.m.reading = errors.New("disk on fire")
		})
		synctest.Wait()
		reads := b.m.readings()
		time.Sleep(storeDelay + time.Second)
		synctest.Wait()
		if n := b.m.readings() - reads; n > 2 {
			t.Errorf("%d reads of a broken store", n)
		}
		b.m.fail(nil, nil)
		time.Sleep(storeDelay)
		synctest.Wait()
		if len(b.sends("")) != 2 {
			t.Errorf("%d attempts after the store was well again", len(b.sends("")))
		}
	})
}

// What cannot be written down is done again, not quickly, and noted when it can be.
func TestStoreCannotBeWritten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.m.fail(nil, store.ErrFull)
		s := b.add(1, "http://ask.example/")
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if n := len(b.sends("")); n < 2 || n > 10 {
			t.Errorf("%d attempts in three minutes", n)
		}
		if !strings.Contains(b.log.String(), "note a validation attempt") {
			t.Errorf("the log is %s", b.log.String())
		}
		b.m.fail(nil, nil)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if v := b.read(s); v.Attempts != 1 || !v.NextAt.IsZero() {
			t.Errorf("noted %+v", v)
		}
	})
}
