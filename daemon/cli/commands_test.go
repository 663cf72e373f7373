package cli_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"herald/daemon"
	"herald/daemon/cli"
	"herald/daemon/client"
	"herald/daemon/config"
)

// shell is where a test's commands are typed: beside a running daemon, whose socket they find as a person's do.
type shell struct {
	t   *testing.T
	dir string
	env []string
	url string
}

// result is what a command has printed and returned.
type result struct {
	t              *testing.T
	line           string
	stdout, stderr string
	code           int
}

// beside starts a real daemon and returns a shell beside it.
func beside(t *testing.T) *shell {
	t.Helper()
	dir := t.TempDir()
	cfg, err := config.Parse("test", []byte("data_dir: "+dir+"\nlisten:\n  address: 127.0.0.1:0\negress:\n  allow_networks: [127.0.0.0/8]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(t.Context(), daemon.Options{Config: cfg, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	admin, err := client.New(client.Options{Socket: filepath.Join(dir, "herald.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	until(t, "the daemon is ready", func() bool { return admin.Ready(t.Context()) == nil })
	return &shell{t: t, dir: dir, env: []string{"HERALD_DATA_DIR=" + dir}, url: "http://" + d.Addr().String()}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// run types a command.
func (s *shell) run(args ...string) result { return s.feed("", args...) }

// feed types a command with a standard input.
func (s *shell) feed(in string, args ...string) result {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	code := s.to(&stdout, &stderr, in, args...)
	return result{s.t, strings.Join(args, " "), stdout.String(), stderr.String(), code}
}

func (s *shell) to(stdout, stderr io.Writer, in string, args ...string) int {
	example, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		s.t.Error(err)
	}
	var commands struct {
		cli.Commands `embed:""`
	}
	p := cli.Program{Commands: &commands, Example: example, Number: "1.0"}
	return p.Run(args, cli.Streams{Stdin: strings.NewReader(in), Stdout: stdout, Stderr: stderr, Environ: s.env})
}

// has checks that the command did it, and what it printed.
func (r result) has(want ...string) result {
	r.t.Helper()
	if r.code != 0 {
		r.t.Fatalf("herald %s: exit code %d: %s", r.line, r.code, r.stderr)
	}
	for _, w := range want {
		if !strings.Contains(r.stdout, w) {
			r.t.Errorf("herald %s printed\n%swhich lacks %q (standard error: %s)", r.line, r.stdout, w, r.stderr)
		}
	}
	return r
}

// fails checks that the command did not do it, and what it said.
func (r result) fails(code int, want ...string) {
	r.t.Helper()
	if r.code != code || r.stdout != "" {
		r.t.Errorf("herald %s: exit code %d, want %d; standard output %q", r.line, r.code, code, r.stdout)
	}
	for _, w := range want {
		if !strings.Contains(r.stderr, w) {
			r.t.Errorf("herald %s said\n%swhich lacks %q", r.line, r.stderr, w)
		}
	}
}

// field is the value of a member in what the command printed for a person.
func (r result) field(name string) string {
	r.t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` +(.*)$`).FindStringSubmatch(r.has().stdout)
	if m == nil {
		r.t.Fatalf("herald %s printed no %s:\n%s", r.line, name, r.stdout)
	}
	return m[1]
}

// decode reads what the command printed for a program.
func (r result) decode(out any) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.has().stdout), out); err != nil {
		r.t.Errorf("herald %s: %v in\n%s", r.line, err, r.stdout)
	}
}

func (s *shell) file(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// receiver takes pushes, or refuses them while broken is set.
type receiver struct {
	*httptest.Server
	broken atomic.Bool
	pushes atomic.Int64
	header sync.Map
}

func listen(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.header.Store("authorization", req.Header.Get("Authorization"))
		if r.broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "out of order")
			return
		}
		r.pushes.Add(1)
	}))
	t.Cleanup(r.Close)
	return r
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	s := beside(t)
	s.run("account", "create", "shop-1", "--name", "The shop").has("id         shop-1\nname       The shop\nsuspended  false\n")
	s.run("account", "list").has("ID       NAME      SUSPENDED  CREATED", "default  Default   false", "shop-1   The shop  false")
	s.run("account", "show", "shop-1").has("The shop")
	s.run("account", "update", "shop-1", "--name", "").has("name       -\n")
	s.run("account", "suspend", "shop-1").has("suspended  true")
	s.run("account", "resume", "shop-1").has("suspended  false")
	var list []client.Account
	s.run("account", "list", "--json").decode(&list)
	if len(list) != 2 || list[1].ID != "shop-1" {
		t.Errorf("--json gave %+v", list)
	}
	s.run("account", "create", "shop-1").fails(1, "409")
	s.run("account", "delete", "shop-1").has("deleted shop-1\n")
	s.run("account", "delete", "shop-1", "nobody").fails(1, "shop-1", "nobody", "(404)")
	s.run("account", "delete", "default").fails(1, "(409)")

	// From another machine: the same with an address and a token.
	token := strings.TrimSpace(s.run("token", "create", "--scope", "admin").has("hrld_").stdout)
	far := &shell{t: t, env: []string{"HERALD_URL=" + s.url, "HERALD_TOKEN=" + token}}
	far.run("account", "list").has("default")
	far.env[1] = "HERALD_TOKEN=hrld_wrong"
	far.run("account", "list").fails(1, "(401)", "HERALD_TOKEN")
}

func TestResources(t *testing.T) {
	t.Parallel()
	s := beside(t)
	s.run("resource", "list").has("")
	s.run("resource", "put", "project", "proj1", "--name", "Website").has("name  Website")
	var many strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&many, "{\"type\":\"task\",\"id\":\"t%d\"}\n", i)
	}
	s.feed(many.String(), "resource", "import").has("2500 resources\n")
	list := s.run("resource", "list", "--json").has().stdout
	s.feed(list, "resource", "import", "-").has("2501 resources\n")
	s.run("resource", "import", s.file("r.json", ` [{"type":"a","id":"b"}] `)).has("1 resources\n")
	s.run("resource", "list", "--type", "project").has("TYPE     ID     NAME\nproject  proj1  Website\n")
	s.run("resource", "show", "project", "proj1").has("proj1")
	s.run("resource", "delete", "project", "proj1").has("deleted proj1")
	s.run("resource", "show", "project", "proj1").fails(1, "(404)")
	s.feed(`[{"type":"a","id":"c"}, {"type":`, "resource", "import").fails(2, "object 2")
	s.feed(`[{"type":"a","id":"c"}`, "resource", "import").fails(2, "object 2")
	s.feed(`{"type":"a","id":"c"} nonsense`, "resource", "import").fails(2, "object 2")
	s.feed(`[{"type":"a b","id":"c"}]`, "resource", "import").fails(1, "resources 1 to 1 were not taken", "(400)")
	s.run("resource", "import", "/nowhere.json").fails(2, "/nowhere.json")
}

// A subscription from its making over failing and recovering to its end, and what becomes of its deliveries.
func TestSubscriptionsEventsAndDeliveries(t *testing.T) {
	t.Parallel()
	s := beside(t)
	r := listen(t)
	s.run("subscription", "list").has("")
	created := s.run("subscription", "create", "--data-callback-url", r.URL, "--events", "task.*", "--events", "*.delete",
		"--auth", "bearer", "--auth-token", s.file("token", "s3cret\n"), "--retry-schedule", "10s,1m", "--rate-limit", "500",
		"--disable-after-duration", "2d", "--filter", `{"n":{"$gte":1}}`, "--max-wait-seconds", "0", "--set", "numberOfRecords=1")
	created.has("signingSecret", "whsec_", `filter                          {"n":{"$gte":1}}`, "maxWaitSeconds                  0\n")
	if created.field("state") != "active" || created.field("events") != "task.*,*.delete" || created.field("delivery.retrySchedule") != "10s,1m" ||
		created.field("authentication.tokenSet") != "true" || created.field("delivery.disableAfter.duration") != "48h" {
		t.Errorf("created\n%s", created.stdout)
	}
	id := created.field("id")
	s.run("subscription", "list").has("ID ", "STATE ", id, "active")
	if shown := s.run("subscription", "show", id); strings.Contains(shown.stdout, "whsec_") {
		t.Error("the secret is shown a second time")
	}

	// Events, one and many.
	s.run("event", "publish", "--id", "order-17", "--type", "task.create", "--data", `{"n":1,  "x":1.50}`).has("order-17\n")
	until(t, "the first push has arrived", func() bool { return r.pushes.Load() == 1 })
	if got, _ := r.header.Load("authorization"); got != "Bearer s3cret" {
		t.Errorf("the push proves itself with %q", got)
	}
	until(t, "the delivery is delivered", func() bool {
		return strings.Contains(s.run("event", "show", "order-17").has("deliveries:", `{"n":1,  "x":1.50}`).stdout, "delivered")
	})
	s.feed(`{"n":2}`, "event", "publish", "--type", "task.create", "--data", "-", "--json").has(`"id": "evt_`)
	var lines strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&lines, "{\"type\":\"other\",\"data\":{\"n\":%d}}\r\n\n", i)
	}
	s.feed(lines.String(), "event", "publish", "-", "--batch", "100", "--idempotency-key", "k").has("1200 events\n")
	s.feed(lines.String(), "event", "publish", "-", "--batch", "100", "--idempotency-key", "k").has("1200 events\n")
	var events []client.Event
	s.run("event", "list", "--limit", "0", "--json").decode(&events)
	if len(events) != 1202 {
		t.Errorf("%d events after a file of 1200 was published twice with the same key, want 1202", len(events))
	}
	if ids := s.run("event", "publish", s.file("one", `{"type":"other","data":{}}`), "--json").has().stdout; !strings.HasPrefix(ids, `{"id":"evt_`) || strings.Count(ids, "\n") != 1 {
		t.Errorf("the ids are %q", ids)
	}
	s.run("event", "list", "--limit", "2").has("ID ", "other")
	s.feed("{\"type\":\"a\",\"data\":{}}\n{\"type\":\"a\",\"data\":{}}\nnonsense\n", "event", "publish", "-", "--batch", "2").
		fails(1, "lines 3 to 3 are not published, the 2 events before them are", "tail -n +3", "(400)")
	s.run("event", "publish").fails(2, "--type")
	s.run("event", "publish", "-", "--type", "a").fails(2, "--type")
	s.run("event", "publish", "--type", "a", "--data", "{").fails(2, "--data")
	s.run("event", "publish", "-", "--batch", "0").fails(2, "--batch")
	s.run("event", "publish", "/nowhere").fails(2, "/nowhere")
	s.run("event", "show", "nothing").fails(1, "(404)")

	// A receiver that is down, and what can be done about it.
	r.broken.Store(true)
	s.run("event", "publish", "--id", "bad", "--type", "task.create", "--data", `{"n":3}`)
	var delivery string
	until(t, "the delivery is to be tried again", func() bool {
		list := s.run("delivery", "list", "--event", "bad", "--state", "retrying", "--since", "1h")
		delivery, _, _ = strings.Cut(regexp.MustCompile(`dlv_\S+`).FindString(list.stdout), " ")
		return delivery != ""
	})
	s.run("delivery", "show", delivery).has("attempts:", "NUMBER", "500", "out of order")
	s.run("subscription", "status", id).has("deliveries.retrying", "breaker.state")
	r.broken.Store(false)
	s.run("delivery", "retry", delivery).has(delivery)
	until(t, "it is delivered", func() bool { return s.run("delivery", "show", delivery).field("state") == "delivered" })
	s.run("delivery", "list", "--state", "nonsense").fails(2, "--state")
	s.run("delivery", "list", "--since", "soon").fails(2, "--since: soon", "2h")
	s.run("delivery", "list", "--subscription", id, "--limit", "1").has("ID ")

	// Life.
	if s.run("subscription", "pause", id).field("state") != "paused" || s.run("subscription", "resume", id).field("state") != "active" ||
		s.run("subscription", "pause", id).field("state") != "paused" || s.run("subscription", "enable", id).field("state") != "active" {
		t.Error("pause, resume and enable do something else")
	}
	s.run("subscription", "ping", id).has("id  evt_")
	s.run("subscription", "secret", id).has("signingSecret  whsec_")
	s.run("subscription", "validate", id).has("expiresAt")
	before := s.run("subscription", "show", id)
	after := s.run("subscription", "update", id, "--rate-limit", "7", "--set", "filter=null", "--set", "numberOfRecords=5")
	if after.field("delivery.rateLimit") != "7" || after.field("numberOfRecords") != "5" || strings.Contains(after.stdout, "filter") ||
		after.field("events") != before.field("events") {
		t.Errorf("updated to\n%s", after.stdout)
	}
	var whole map[string]any
	s.run("subscription", "show", id, "--json").decode(&whole)
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	replaced := s.feed(string(text), "subscription", "update", id, "--replace", "--file", "-", "--events", "order.*")
	if replaced.field("events") != "order.*" || replaced.field("delivery.rateLimit") != "7" {
		t.Errorf("replaced by\n%s", replaced.stdout)
	}
	s.run("subscription", "update", id, "--events", "task.*").has()

	// Replays, and the dead.
	s.run("subscription", "replay", "start", id, "--since", "1h", "--dry-run").has("count")
	replay := s.run("subscription", "replay", "start", id, "--since", "1h", "--rate", "1").field("id")
	s.run("subscription", "replay", "list", id).has("ID ", replay)
	s.run("subscription", "replay", "show", id, replay).has("state", "rate")
	s.run("subscription", "replay", "cancel", id, replay).has("deleted " + replay)
	s.run("subscription", "replay", "start", id).fails(1, "(400)", "date")
	s.run("subscription", "replay", "start", id, "--since", "1h", "--wait").has("state", "done", "endedAt")
	s.run("subscription", "replay", "start", id, "--wait").fails(1, "(400)", "date")
	s.run("subscription", "replay", "start", id, "--wait", "--dry-run").fails(2, "--wait", "--dry-run")
	s.run("subscription", "dead", "list", id).has("")
	s.run("subscription", "dead", "retry", id, "--dry-run").has("count  0\n")
	s.run("subscription", "dead", "retry", id, "--reason", "exhausted", "--since", "1d").has("retried  0\n")

	s.run("subscription", "delete", id).has("deleted " + id)
	s.run("subscription", "delete", id).fails(1, "(404)")

	// What a person gets wrong.
	s.run("subscription", "create").fails(1, "(400)", "dataCallbackURL")
	s.run("subscription", "create", "--data-callback-url", "ftp://x").fails(1, "(400)", "http")
	s.run("subscription", "create", "--filter", "{").fails(2, "--filter: not JSON")
	s.run("subscription", "create", "--auth-token", "/nowhere").fails(2, "--auth-token: ", "/nowhere")
	s.run("subscription", "create", "--set", "x").fails(2, "field=value")
	s.run("subscription", "create", "--set", "events=x", "--set", "events.y=z").fails(2, "not an object")
	s.feed("[]", "subscription", "create", "--file", "-").fails(2, "one JSON object")
	s.run("subscription", "create", "--payload", "xml").fails(2, "--payload")
}

func TestValidationAndCertificates(t *testing.T) {
	t.Parallel()
	s := beside(t)
	created := s.run("subscription", "create", "--data-callback-url", "https://127.0.0.1:9999/x", "--client-certificate",
		"--signature-scheme", "v1a", "--no-message-signature", "--validation-callback-url", "http://127.0.0.1:9999/")
	created.has("clientCertificate", "state                  pending\n", "whpk_")
	s.run("subscription", "status", created.field("id")).has("validation.expiresAt")
	s.run("subscription", "create", "--client-certificate", "--p12", "x").fails(2, "--p12")
}

// tail prints what comes, with why it failed, and what changes.
func TestTail(t *testing.T) {
	t.Parallel()
	s := beside(t)
	r := listen(t)
	r.broken.Store(true)
	id := s.run("subscription", "create", "--data-callback-url", r.URL, "--retry-schedule", "1s,1s,1s,1s,1s").field("id")
	s.run("event", "publish", "--id", "old", "--type", "old.event").has()
	s.run("tail", "--interval", "1ms").fails(2, "--interval")
	s.run("tail", "--since", "soon").fails(2, "soon")

	var out locked
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		tail := cli.Tail{Subscription: id, Interval: 100 * time.Millisecond, Since: "1h"}
		done <- tail.Run(ctx, cli.Streams{Stdout: &out, Stderr: &out, Environ: s.env}, cli.Version{})
	}()
	s.run("event", "publish", "--id", "new", "--type", "new.event").has()
	until(t, "the failure is shown with its reason", func() bool {
		return regexp.MustCompile(`retrying +1 +new\.event +dlv_\S+ +` + id + ` .*500`).MatchString(out.String())
	})
	r.broken.Store(false)
	until(t, "the recovery is shown", func() bool {
		return regexp.MustCompile(`delivered +\d+ +new\.event`).MatchString(out.String()) && regexp.MustCompile(`delivered +\d+ +old\.event`).MatchString(out.String())
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("interrupted it ended with %v", err)
	}

	// Without --since what is there already is not shown, and --state chooses.
	var second locked
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		tail := cli.Tail{State: []string{"delivered"}, Interval: 100 * time.Millisecond, Output: cli.Output{JSON: true}}
		done <- tail.Run(ctx, cli.Streams{Stdout: &second, Stderr: &second, Environ: s.env}, cli.Version{})
	}()
	n := 0
	until(t, "an event published after it began is shown", func() bool {
		n++
		s.run("event", "publish", "--type", fmt.Sprintf("later.n%d", n)).has()
		return strings.Contains(second.String(), "later.")
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("interrupted it ended with %v", err)
	}
	for line := range strings.Lines(second.String()) {
		var d client.Delivery
		if err := json.Unmarshal([]byte(line), &d); err != nil || d.State != "delivered" || !strings.HasPrefix(d.EventType, "later.") {
			t.Errorf("the line %q, %v", line, err)
		}
	}
}

// locked is a buffer that one goroutine writes and another reads.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestStatusWatch(t *testing.T) {
	t.Parallel()
	s := beside(t)
	id := s.run("subscription", "create", "--data-callback-url", "http://127.0.0.1:9999/").field("id")
	var out locked
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		c := cli.SubscriptionStatus{
			Watching: cli.Watching{Watch: true, Interval: 100 * time.Millisecond},
			One:      cli.One{ID: id},
		}
		done <- c.Run(ctx, cli.Streams{Stdout: &out, Stderr: &out, Environ: s.env}, cli.Version{})
	}()
	until(t, "the status is shown", func() bool { return strings.Contains(out.String(), "active") })
	s.run("subscription", "pause", id).has()
	until(t, "its change is shown", func() bool { return strings.Contains(out.String(), "paused") })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("interrupted it ended with %v", err)
	}
	if n := strings.Count(out.String(), "stateSince"); n < 2 || n > 4 {
		t.Errorf("the status was printed %d times for one change", n)
	}
	s.run("subscription", "status", id, "--watch", "--interval", "1ms").fails(2, "--interval")
}

func TestDevicesAndMessages(t *testing.T) {
	t.Parallel()
	s := beside(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	account, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	google, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "shop-1", "private_key_id": "k", "private_key": pkcs8(t, account),
		"client_email": "push@shop-1.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	created := s.run("implementation", "create", "shop", "--name", "The shop", "--apns-key", s.file("k.p8", pkcs8(t, ec)),
		"--apns-key-id", "ABC123DEFG", "--apns-team-id", "DEF123GHIJ", "--topic", "example.shop", "--environment", "sandbox",
		"--service-account", s.file("sa.json", string(google)), "--vapid-subject", "mailto:push@shop.example")
	created.has("web.vapid.publicKey", "mailto:push@shop.example", "shop-1", "statusSigningSecret", "whsec_")
	if strings.Contains(created.stdout, "PRIVATE") {
		t.Error("a key is printed")
	}
	s.run("implementation", "list").has("ID    NAME", "android,ios,web", "active,active,active")
	s.run("implementation", "show", "shop").has("status:\nPLATFORM  PROVIDER  STATE")
	if got := s.run("implementation", "update", "shop", "--set", "ios=null", "--name", "Shop").has("Shop").stdout; strings.Contains(got, "ios.") {
		t.Errorf("iOS is still there:\n%s", got)
	}
	if got := s.run("implementation", "create", "web-only", "--vapid-subject", "mailto:a@b.example").has("web.vapid.publicKey").stdout; strings.Contains(got, "android") {
		t.Errorf("created\n%s", got)
	}
	s.run("implementation", "create", "x", "--service-account", s.file("bad", "{")).fails(2, "--service-account: ", "JSON")
	s.run("implementation", "create", "x", "--apns-key", "/nowhere").fails(2, "--apns-key: ")
	s.run("implementation", "create", "x", "--p12", s.file("bad.p12", "x"), "--topic", "a.b").fails(1, "(400)", "certificate")

	phone := "+31612345678"
	s.run("device", "register", "android", "--contact", phone, "--implementation", "shop", "--token", "abcdefghijklmnopqrst:APA91b", "--locale", "nl-BE").
		has("routeeContactId  " + phone)
	list := s.run("device", "list", "--contact", phone, "--implementation", "shop").has("TYPE", "android", "nl-BE").stdout
	device := regexp.MustCompile(`dev_\S+`).FindString(list)
	s.run("device", "show", device).has("tokenHint")
	s.run("contact", "devices", phone).has(device)
	s.run("device", "register", "windows", "--contact", phone, "--implementation", "shop", "--token", "x").fails(2, "windows")

	send := []string{"message", "send", "--implementation", "shop", "--title", "Hello", "--set", "body.text.nl=Hallo", "--data", "order=17;a", "--badge", "0", "--ttl", "60"}
	s.run(append(send, "--contact", phone, "--dry-run")...).has("devices", "1")
	s.run(append(send, "--token", "abcdefghijklmnopqrst:APA91b", "--device-type", "ANDROID", "--dry-run")...).has("payloadBytes.android")
	s.run(append(send, "--token", "x")...).fails(2, "--device-type")
	s.run("message", "send", "--implementation", "shop", "--contact", "nobody", "--text", "x").fails(1, "(404)", "no device")
	sent := s.run("message", "multicast", "--implementation", "shop", "--text", "Sale", "a", "b").field("trackingId")
	s.run("message", "show", sent, "--watch", "--interval", "100ms").has("FAILED")
	var m client.MessageStatus
	s.run("message", "show", sent, "--json").decode(&m)
	if m.TrackingID != sent {
		t.Errorf("--json gave %+v", m)
	}
	many := s.run("message", "multicast", "--implementation", "shop", "--text", "Sale", "--contacts-file", s.file("c", "a\r\nb\n\nc\n")).field("trackingId")
	if n := s.run("message", "show", many).field("contacts"); n != "3" {
		t.Errorf("it goes to %s contacts, want 3", n)
	}

	s.run("device", "delete", device).has("deleted " + device)
	s.run("contact", "devices", phone).has("")
	s.run("contact", "delete", phone).fails(1, "(404)")
	s.run("implementation", "delete", "shop", "web-only").has("deleted shop\ndeleted web-only\n")
}

func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// What init writes is what serve and check-config read, and nothing is ever overwritten.
func TestInit(t *testing.T) {
	t.Parallel()
	s := &shell{t: t}
	dir := filepath.Join(t.TempDir(), "a \"b\"", "herald")
	file := filepath.Join(dir, "herald.yaml")
	r := s.run("init", dir).has(file+"\n", filepath.Join(dir, "data")+"\n")
	if !strings.Contains(r.stderr, "herald serve --config") {
		t.Errorf("it does not say what next: %q", r.stderr)
	}
	s.run("check-config", file).has("ok")
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.DataDir = filepath.Join(dir, "data")
	if cfg.DataDir != want.DataDir || cfg.Listen != want.Listen {
		t.Errorf("the file says %+v", cfg)
	}
	for path, mode := range map[string]os.FileMode{file: 0o600, want.DataDir: 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	s.run("init", dir).fails(1, file+" is there already", "overwrites nothing")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.run("init", dir).fails(1, "data is there already")
	if _, err := os.Stat(file); err == nil {
		t.Error("a refused init has written the file")
	}
}
