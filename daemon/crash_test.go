package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"herald/queue/boltqueue"
	"herald/store/boltstore"
)

// TestCrash kills the daemon with SIGKILL at random moments under load, again and again. Every event that
// was acknowledged has to arrive at every subscription, and after every kill each index has to be whole.
func TestCrash(t *testing.T) {
	t.Parallel()
	cycles := 25
	if testing.Short() {
		cycles = 6
	}
	c := newCrash(t, "")
	for i := range cycles {
		if i == cycles-4 {
			c.replay() // the last kills hit it
		}
		c.cycle()
	}
	c.finish()
	if n := c.notReplayed(); n > 0 {
		t.Errorf("%d of %d events were not replayed", n, len(c.wanted))
	}
	if missing := c.missing(); len(missing) > 0 {
		t.Fatalf("%d of %d acknowledged deliveries were lost, such as %s", len(missing), len(crashReceivers())*len(c.acked), missing[0])
	}
	t.Logf("%d kills, %d events acknowledged, %d of them before the replay, %d pushes", cycles+1, len(c.acked), len(c.wanted), c.pushes.Load())
}

// TestCrashFindsEarlyAcknowledgement is the proof that TestCrash can fail: with a front that answers 202
// before the event is on disk it has to find losses.
func TestCrashFindsEarlyAcknowledgement(t *testing.T) {
	t.Parallel()
	c := newCrash(t, freeAddress(t))
	for range 20 {
		c.cycle()
		c.forgetArrived()
		if len(c.acked) > 0 {
			// What is acknowledged and has not arrived may still be in the queue; only a run to the end tells.
			c.finish()
			if len(c.missing()) > 0 {
				return
			}
		}
	}
	t.Fatal("events acknowledged before they were durable went unnoticed")
}

// Variables of a child that acknowledges too early: the address of the front, and of the daemon behind it.
const (
	earlyVariable  = "TEST_EARLY"
	behindVariable = "TEST_BEHIND"
)

// acknowledgeEarly is a deliberately broken front: it answers before the daemon has.
func acknowledgeEarly(address, behind string) {
	var n atomic.Int64
	l, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	start := time.Now().UnixNano()
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ev map[string]any
		_ = json.NewDecoder(r.Body).Decode(&ev)
		id := fmt.Sprintf("early-%d-%d", start, n.Add(1))
		ev["id"] = id
		body, _ := json.Marshal(ev)
		auth := r.Header.Get("Authorization")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"id":%q}`, id)
		go func() {
			req, _ := http.NewRequest("POST", "http://"+behind+"/events", bytes.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", auth)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}))
}

// crashReceiver is a receiver, and how its subscription wants its deliveries.
type crashReceiver struct {
	fails   int64 // every so manieth push; 0 for none
	members string
	policy  string
	batches bool
	ordered bool
}

// crashReceivers are one that always works, and those whose failures let the kills hit retries of every kind.
func crashReceivers() []crashReceiver {
	return []crashReceiver{
		{},
		{fails: 3},
		{fails: 4, members: `"numberOfRecords":10,"maxWaitSeconds":0.1,`, batches: true},
		{fails: 10, members: `"numberOfRecords":200,"maxWaitSeconds":0.1,`, policy: `"ordering":"strict",`, batches: true, ordered: true},
		{fails: 60, policy: `"ordering":"key","orderingKey":"n",`},
	}
}

// arrive notes a delivery. The ids that the daemon gives sort by acceptance, so in strict order none arrives for the first
// time after a later one has.
func (c *crash) arrive(receiver int, id string, ordered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := fmt.Sprint(receiver, id)
	if ordered && !c.arrived[key] {
		if strings.HasPrefix(id, "evt_") && id < c.latest {
			c.t.Errorf("%s arrived after %s, in strict order", id, c.latest)
		}
		c.latest = id
	}
	c.arrived[key] = true
}

type crash struct {
	t       *testing.T
	dir     string
	address string // of the daemon
	publish string // where events are published
	config  string
	environ []string
	pushes  atomic.Int64

	mu      sync.Mutex
	acked   map[string]bool
	arrived map[string]bool // receiver and event id
	latest  string          // at the receiver in strict order

	always   string          // the subscription whose receiver always works
	wanted   []string        // events acknowledged before the replay to it
	replayed map[string]bool // by event id
}

func newCrash(t *testing.T, front string) *crash {
	c := &crash{
		t: t, dir: t.TempDir(), address: freeAddress(t), acked: map[string]bool{}, arrived: map[string]bool{}, replayed: map[string]bool{},
	}
	c.publish = c.address
	c.config = configFile(t, c.dir, c.address, "log: {level: warn}")
	if front != "" {
		c.publish = front
		c.environ = []string{earlyVariable + "=" + front, behindVariable + "=" + c.address}
	}
	d := c.start()
	for i, x := range crashReceivers() {
		var pushes atomic.Int64
		r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if c.pushes.Add(1); err != nil || x.fails > 0 && pushes.Add(1)%x.fails == 0 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			if id := r.Header.Get("Webhook-Id"); r.Header.Get("Herald-Replay") != "" {
				c.mu.Lock()
				c.replayed[id] = true
				c.mu.Unlock()
				return
			}
			var batch struct{ Records []struct{ ID string } }
			if x.batches && json.Unmarshal(text, &batch) == nil {
				for _, record := range batch.Records {
					c.arrive(i, record.ID, x.ordered)
				}
			} else {
				c.arrive(i, r.Header.Get("Webhook-Id"), x.ordered)
			}
		}))
		t.Cleanup(r.Close)
		waits := strings.TrimSuffix(strings.Repeat(`"1s",`, 50), ",")
		body := fmt.Sprintf(`{"dataCallbackURL":%q,%s"delivery":{%s"retrySchedule":[%s]}}`, r.URL, x.members, x.policy, waits)
		text, err := c.post(c.address, "/subscriptions", body)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			var made struct{ ID string }
			if err := json.Unmarshal(text, &made); err != nil {
				t.Fatal(err)
			}
			c.always = made.ID
		}
	}
	d.signal(syscall.SIGKILL)
	d.exit()
	return c
}

// replay has the daemon start a replay of all there is, and kills it.
func (c *crash) replay() {
	c.t.Helper()
	d := c.start()
	c.mu.Lock()
	c.wanted = slices.Collect(maps.Keys(c.acked))
	c.mu.Unlock()
	if _, err := c.post(c.address, "/subscriptions/"+c.always+"/replay", `{"since":"2020-01-01T00:00:00Z","rate":3000}`); err != nil {
		c.t.Fatal(err)
	}
	d.signal(syscall.SIGKILL)
	d.exit()
	c.check()
}

func (c *crash) notReplayed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, id := range c.wanted {
		if !c.replayed[id] {
			n++
		}
	}
	return n
}

// start runs the daemon until it is ready.
func (c *crash) start() *child {
	c.t.Helper()
	d := spawn(c.t, c.config, c.environ...)
	eventually(c.t, "the daemon is ready", func() bool {
		resp, err := http.Get("http://" + c.address + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return d
}

func (c *crash) post(address, path, body string) ([]byte, error) {
	req, err := http.NewRequest("POST", "http://"+address+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return text, nil
}

// cycle starts the daemon, publishes from several goroutines, and kills it.
func (c *crash) cycle() {
	c.t.Helper()
	d := c.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for p := range 6 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if p == 0 && c.publish == c.address {
					err = c.publishBatch(n)
				} else {
					err = c.publishOne(n)
				}
				if err != nil {
					return // it was killed
				}
			}
		})
	}
	time.Sleep(time.Duration(20+rand.IntN(200)) * time.Millisecond)
	d.signal(syscall.SIGKILL)
	d.exit()
	close(stop)
	wg.Wait()
	c.check()
}

func (c *crash) publishOne(n int) error {
	text, err := c.post(c.publish, "/events", fmt.Sprintf(`{"type":"crash.one","data":{"n":%d}}`, n))
	if err != nil {
		return err
	}
	var got struct{ ID string }
	if err := json.Unmarshal(text, &got); err != nil || got.ID == "" {
		return fmt.Errorf("answer %s: %w", text, err)
	}
	c.acknowledged(got.ID)
	return nil
}

func (c *crash) publishBatch(n int) error {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, `,{"type":"crash.batch","data":{"n":%d,"i":%d,"fill":%q}}`, n, i, strings.Repeat("x", rand.IntN(3000)))
	}
	text, err := c.post(c.publish, "/events", "["+b.String()[1:]+"]")
	if err != nil {
		return err
	}
	var got []struct{ ID string }
	if err := json.Unmarshal(text, &got); err != nil || len(got) != 20 {
		return fmt.Errorf("answer %s: %w", text, err)
	}
	for _, g := range got {
		c.acknowledged(g.ID)
	}
	return nil
}

func (c *crash) acknowledged(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[id] = true
}

// check verifies every index of copies of the files, so that the next start finds what the kill left.
func (c *crash) check() {
	c.t.Helper()
	dir := c.t.TempDir()
	for _, name := range []string{"store.db", "queue.db", "secrets.key"} {
		text, err := os.ReadFile(filepath.Join(c.dir, "data", name))
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	defer os.RemoveAll(dir)
	key, err := boltstore.LoadKey(filepath.Join(dir, "secrets.key"))
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := boltstore.Open(boltstore.Options{Path: filepath.Join(dir, "store.db"), Key: key})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := s.Check(context.Background()); err != nil {
		c.t.Errorf("the store after a kill: %v", err)
	}
	if err := s.Close(); err != nil {
		c.t.Error(err)
	}
	q, err := boltqueue.Open(boltqueue.Options{Path: filepath.Join(dir, "queue.db")})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	<-q.Started()
	if err := q.Check(context.Background()); err != nil {
		c.t.Errorf("the queue after a kill: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		c.t.Error(err)
	}
	if err := q.Close(); err != nil {
		c.t.Error(err)
	}
}

// missing returns the acknowledged deliveries that have not arrived.
func (c *crash) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for id := range c.acked {
		for r := range crashReceivers() {
			if key := fmt.Sprint(r, id); !c.arrived[key] {
				out = append(out, key)
			}
		}
	}
	return out
}

func (c *crash) forgetArrived() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.acked {
		everywhere := true
		for r := range crashReceivers() {
			everywhere = everywhere && c.arrived[fmt.Sprint(r, id)]
		}
		if everywhere {
			delete(c.acked, id)
		}
	}
}

// finish runs the daemon until nothing is pending any more, and stops it in good order.
func (c *crash) finish() {
	c.t.Helper()
	d := c.start()
	c.drained()
	c.end(d)
}

// drained waits until nothing is pending any more.
func (c *crash) drained() {
	c.t.Helper()
	within(c.t, 2*time.Minute, "nothing is pending any more", func() bool {
		resp, err := http.Get("http://" + c.address + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		for _, name := range []string{"herald_queue_pending", "herald_queue_retrying", "herald_queue_delivering", "herald_queue_replays"} {
			if !strings.Contains(string(text), "\n"+name+" 0\n") {
				return false
			}
		}
		return true
	})
}

// end stops the daemon in good order.
func (c *crash) end(d *child) {
	c.t.Helper()
	d.signal(syscall.SIGTERM)
	if code := d.exit(); code != 0 {
		c.t.Errorf("the drained daemon exited with %d", code)
	}
}
