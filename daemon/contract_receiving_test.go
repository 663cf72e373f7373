package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The receivers of docs/receivers do what docs/receiving.md says, against a real daemon. The one in Go runs wherever the
// tests do. TEST_RECEIVERS names a copy of docs/receivers in which the libraries of the others are installed; without it, or
// without their runtime or library, they are skipped.

func TestContract_P14_ReceiverInGo(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "receiver")
	if out, err := exec.Command("go", "build", "-o", program, "herald/docs/receivers/go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	receives(t, func() *exec.Cmd { return exec.Command(program) })
}

func TestContract_P14_ReceiverInNode(t *testing.T) {
	t.Parallel()
	dir := installed(t, "node", "node", "--input-type=module", "--eval", `import "standardwebhooks"`)
	receives(t, func() *exec.Cmd { return exec.Command("node", filepath.Join(dir, "receiver.js")) })
}

func TestContract_P14_ReceiverInPython(t *testing.T) {
	t.Parallel()
	dir := installed(t, "python", "python3", "-c", "import standardwebhooks")
	receives(t, func() *exec.Cmd { return exec.Command("python3", filepath.Join(dir, "receiver.py")) })
}

// installed is the directory of a receiver, in which the command given proves that its library can be imported.
func installed(t *testing.T, name string, proof ...string) string {
	t.Helper()
	copied := os.Getenv("TEST_RECEIVERS")
	if copied == "" {
		t.Skip("TEST_RECEIVERS does not name a directory with the receivers and their libraries")
	}
	if _, err := exec.LookPath(proof[0]); err != nil {
		t.Skipf("there is no %s to run the receiver", proof[0])
	}
	dir := filepath.Join(copied, name)
	cmd := exec.Command(proof[0], proof[1:]...)
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		t.Skip("the library standardwebhooks is not installed for " + name)
	}
	return dir
}

// program is a receiver in a process of its own.
type program struct {
	*child
	address string
}

// runReceiver starts a receiver on a port ("0" for any) with a secret.
func runReceiver(t *testing.T, cmd *exec.Cmd, port, secret string) program {
	t.Helper()
	cmd.Env = append(os.Environ(), "RECEIVER_PORT="+port, "SIGNING_SECRETS="+secret)
	p := program{child: launch(t, "the receiver", cmd)}
	eventually(t, "the receiver listens", func() bool {
		if m := regexp.MustCompile(`(?m)^listening (\S+)$`).FindStringSubmatch(p.out.String()); m != nil {
			p.address = m[1]
		}
		return p.address != ""
	})
	return p
}

// handled are the ids of the events that the receiver has worked on, in its order.
func (p program) handled() []string {
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^event (\S+) task\.create$`).FindAllStringSubmatch(p.out.String(), -1) {
		list = append(list, m[1])
	}
	return list
}

// handles waits until the receiver has worked on all of the events, and fails the test unless it did so once.
func (p program) handles(events []string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%d events have been worked on", len(events)), func() bool { return len(p.handled()) >= len(events) })
	want, got := slices.Sorted(slices.Values(events)), slices.Sorted(slices.Values(p.handled()))
	if !slices.Equal(got, want) {
		p.t.Errorf("the receiver worked on %d events, want %d, each once: %.1000s", len(got), len(want), fmt.Sprint(got))
	}
}

// ended asks the receiver to stop, and fails the test unless it does so with 0.
func (p program) ended() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if code := p.exit(); code != 0 {
		p.t.Errorf("the receiver ended with %d", code)
	}
}

// post sends a request as a stranger could, and returns the status; 0 means that the connection broke.
func (p program) post(path string, body []byte, header http.Header) int {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+p.address+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header = header
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// signature is what a push of that id and body carries, if it is made with the secret at the time.
func signature(t *testing.T, secret, id string, at time.Time, body []byte) http.Header {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := w.Sign(id, at, body)
	if err != nil {
		t.Fatal(err)
	}
	return http.Header{
		"Content-Type": {"application/json"}, "Webhook-Id": {id}, "Webhook-Timestamp": {fmt.Sprint(at.Unix())}, "Webhook-Signature": {signed},
	}
}

// envelope is the body of a push that carries an event of that id.
func envelope(t *testing.T, id string) []byte {
	t.Helper()
	text, err := json.Marshal(fields{"id": id, "type": "task.create", "time": "2026-11-22T09:00:00Z", "accountId": "default", "data": fields{}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// receives takes a receiver through its life.
func receives(t *testing.T, command func() *exec.Cmd) {
	t.Helper()
	h := start(t, "delivery: {jitter: 0}")
	p := runReceiver(t, command(), "0", aSecret)

	// It confirms the subscription, and takes single events and a batch.
	id := h.subscribe("http://"+p.address+"/hook", fields{
		"validationCallbackURL": "http://" + p.address + "/validate", "signingSecret": aSecret, "delivery": promptly(30),
	})
	h.eventually("the subscription is confirmed", func() bool { return h.state(id) == "active" })
	var events []string
	publish := func(n int) {
		t.Helper()
		list := make([]any, n)
		for i := range list {
			list[i] = fields{"type": "task.create", "data": fields{"text": "é", "n": i}}
		}
		for _, e := range h.admin().do("POST", "/events", list).is(202).list() {
			events = append(events, e["id"].(string))
		}
	}
	publish(20)
	p.handles(events)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"numberOfRecords": 10}).is(200)
	publish(25)
	p.handles(events)

	p.refusesStrangers(t)
	p.knows(t, events[0])
	events = append(events, "in-a-batch")

	// The secret is rotated: both sign, so the receiver that has the old one goes on, and the one with the new one too. What
	// is published between them waits.
	secret := h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200).text("signingSecret")
	publish(5)
	p.handles(events)
	events = append(events, p.takesMany(t)...)
	p.ended() // but not before it has worked on all that it has answered
	p.handles(events)
	events = nil
	publish(5)
	_, port, _ := strings.Cut(p.address, ":")
	p = runReceiver(t, command(), port, secret)
	p.handles(events)
	h.eventually("all 55 that were published are delivered", func() bool {
		return len(h.admin().do("GET", "/deliveries?state=delivered&subscription="+id, nil).is(200).list()) == 55
	})
	p.ended()
}

// takesMany gives the receiver so many events in one push that it has hardly worked on them when it has answered, and
// returns their ids.
func (p program) takesMany(t *testing.T) []string {
	t.Helper()
	const many = 5000
	ids, records := make([]string, many), make([][]byte, many)
	for i := range ids {
		ids[i] = fmt.Sprint("one-of-many-", i)
		records[i] = envelope(t, ids[i])
	}
	body := slices.Concat([]byte(`{"numberOfRecords":5000,"records":[`), bytes.Join(records, []byte(",")), []byte("]}"))
	if status := p.post("/hook", body, signature(t, aSecret, "bat_many", time.Now(), body)); status/100 != 2 {
		t.Errorf("a batch of %d is answered %d", many, status)
	}
	return ids
}

// refusesStrangers fails the test unless the receiver refuses what was not signed with its secret just now.
func (p program) refusesStrangers(t *testing.T) {
	t.Helper()
	const id = "of-a-stranger"
	now, body := time.Now(), envelope(t, id)
	with := func(name, value string) http.Header {
		header := signature(t, aSecret, id, now, body)
		if value == "" {
			header.Del(name)
		} else {
			header.Set(name, value)
		}
		return header
	}
	right := with("Webhook-Id", id).Get("Webhook-Signature")
	for name, header := range map[string]http.Header{
		"another secret":         signature(t, anotherSecret, id, now, body),
		"another body":           signature(t, aSecret, id, now, envelope(t, "another")),
		"another id":             with("Webhook-Id", "another"),
		"no id":                  with("Webhook-Id", ""),
		"no timestamp":           with("Webhook-Timestamp", ""),
		"no signature":           with("Webhook-Signature", ""),
		"nothing signed":         with("Webhook-Signature", "v1,"),
		"half a signature":       with("Webhook-Signature", right[:len(right)/2]),
		"a signature, no scheme": with("Webhook-Signature", strings.TrimPrefix(right, "v1,")),
		"another scheme":         with("Webhook-Signature", "v2"+strings.TrimPrefix(right, "v1")),
		"not base64":             with("Webhook-Signature", "v1,!"),
		"many commas":            with("Webhook-Signature", ",,v1,,"),
		"a timestamp of no time": with("Webhook-Timestamp", "yesterday"),
		"an old timestamp":       signature(t, aSecret, id, now.Add(-10*time.Minute), body),
		"a timestamp to come":    signature(t, aSecret, id, now.Add(10*time.Minute), body),
	} {
		for _, path := range []string{"/hook", "/validate"} {
			if status := p.post(path, body, header); status != http.StatusUnauthorized {
				t.Errorf("%s with %s is answered %d", path, name, status)
			}
		}
	}
	large := append(envelope(t, id), bytes.Repeat([]byte(" "), 9<<20)...)
	if status := p.post("/hook", large, signature(t, aSecret, id, now, large)); status != 0 && status != http.StatusRequestEntityTooLarge {
		t.Errorf("9 MiB are answered %d", status)
	}

	// Nobody else makes it call a URL, and a confirmation that fails is asked for again.
	elsewhere := receive(t)
	elsewhere.status(http.StatusForbidden)
	record, err := json.Marshal(fields{"confirmationURL": elsewhere.URL, "signature": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if status := p.post("/validate", record, signature(t, anotherSecret, id, now, record)); status != http.StatusUnauthorized || len(elsewhere.got()) != 0 {
		t.Errorf("a stranger's validation is answered %d, and led to %d calls", status, len(elsewhere.got()))
	}
	if status := p.post("/validate", record, signature(t, aSecret, id, now, record)); status != http.StatusServiceUnavailable || len(elsewhere.got()) != 1 {
		t.Errorf("a validation whose confirmation fails is answered %d after %d calls", status, len(elsewhere.got()))
	}
}

// knows fails the test unless the receiver takes a known event again with 2xx, alone and in a batch. What it
// works on is told by the next call of handles: the one record that is new.
func (p program) knows(t *testing.T, event string) {
	t.Helper()
	single := envelope(t, event)
	batch := slices.Concat([]byte(`{"numberOfRecords":2,"records":[`), single, []byte(","), envelope(t, "in-a-batch"), []byte("]}"))
	for range 2 {
		for id, body := range map[string][]byte{event: single, "bat_1": batch, "bat_2": batch} {
			if status := p.post("/hook", body, signature(t, aSecret, id, time.Now(), body)); status/100 != 2 {
				t.Errorf("a repeat as %s is answered %d", id, status)
			}
		}
	}
}
