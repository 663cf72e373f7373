package demo

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"herald/daemon/cli"
)

// TestMain makes the test binary the stand-in when it is started as a daemon would be.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve" && os.Args[2] == "--config" {
		if err := runStandIn(os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// These tests wait for processes and for retries, and hardly work: many of them share a processor.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// play runs the demo on the stand-in.
func play(ctx context.Context, t *testing.T, c Command, fault string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes and waits for retries: not with -short")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.Executable = exe
	var out bytes.Buffer
	// A TMPDIR of its own shows whether anything is left behind. It is not t.TempDir, whose path has the name of the test in
	// it and so may grow too long for a unix socket.
	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	err = c.run(ctx, cli.Streams{
		Stdout: &out, Stderr: &out,
		Environ: append(os.Environ(), faultVariable+"="+fault, "HERALD_LISTEN_ADDRESS=256.0.0.1:x", "HERALD_UNKNOWN=1"),
	}, dir)
	left, e := os.ReadDir(dir)
	if e != nil {
		t.Fatal(e)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, m := range regexp.MustCompile(`process (\d+)`).FindAllStringSubmatch(out.String(), -1) {
		if _, err := os.Stat(filepath.Join("/proc", m[1])); err == nil {
			t.Errorf("process %s is still there", m[1])
		}
	}
	return out.String(), err
}

func TestDemo(t *testing.T) {
	t.Parallel()
	out, err := play(t.Context(), t, Command{}, "")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours, and nobody is watching")
	}
	steps := len((&story{}).steps())
	for i := range steps {
		if !strings.Contains(out, fmt.Sprintf("[%2d/%d]", i+1, steps)) {
			t.Errorf("step %d is not told", i+1)
		}
	}
	for _, want := range []string{
		`lost +0\n`, `daemon killed and restarted +1\n`, `answered 500 on purpose +2\n`,
		`delivered twice +\d+\n`, // the kill may come before what arrived is written down
		`delivered again by the replay +28\n`, `in XML, parsed +1\n`, `decrypted by a browser +2\n`, `validation records, signed +1\n`,
		`curl "\$HERALD/readyz"`, `curl --unix-socket "\$SOCKET" 'http://localhost/tokens'`,
		`-H "Authorization: Bearer \$TOKEN"`, `kill -9 \d+`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("the output lacks %s:\n%s", want, out)
		}
	}
}

// Each fault must be noticed, by the step that is there to notice it.
func TestDemoNoticesFaults(t *testing.T) {
	t.Parallel()
	for fault, step := range map[string]int{
		"does not start":                       1,
		"anyone mints":                         2,
		"forgets resources":                    3,
		"other secret":                         5,
		"forgets the token":                    5,
		"rewrites data":                        5,
		"pushes everything":                    5,
		"delivers repeats":                     7,
		"no conflicts":                         7,
		"takes typos":                          8,
		"vague problems":                       8,
		"subscribes to anything":               8,
		"active at once":                       9,
		"no record":                            9,
		"record of another secret":             9,
		"record leads elsewhere":               9,
		"record without signature":             9,
		"pushes before confirmation":           9,
		"pushes in secret before confirmation": 9,
		"takes any signature":                  9,
		"activates in secret":                  9,
		"takes no signature":                   9,
		"stays pending":                        9,
		"pushes JSON for XML":                  10,
		"ill-formed XML":                       10,
		"XML with a forbidden name":            10,
		"XML with a made-up name":              10,
		"XML without repeats":                  10,
		"XML of other numbers":                 10,
		"XML with more":                        10,
		"XML with less":                        10,
		"XML of another id":                    10,
		"XML of another type":                  10,
		"XML of another root":                  10,
		"XML that goes on":                     10,
		"does not retry":                       11,
		"new id for a retry":                   11,
		"counts wrong":                         11,
		"loses what it holds":                  12,
		"forgets attempts":                     13,
		"counts a replay wrong":                14,
		"replays what it shall count":          14,
		"replays with a new id":                14,
		"replays without saying so":            14,
		"replays not all":                      14,
		"replays twice":                        14,
		"replays what others got":              14,
		"replays other data":                   14,
		"replays with a wrong signature":       14,
		"replays with an old signature":        14,
		"sums a replay up wrong":               14,
		"revoked tokens live on":               15,
		"no VAPID key":                         16,
		"registers somebody else's":            16,
		"sends no notification":                17,
		"signs with another VAPID key":         17,
		"encrypts for another browser":         17,
		"sends another text":                   17,
		"speaks another language":              17,
		"never says SENT":                      17,
		"notifies of no event":                 18,
		"leaves the places empty":              18,
		"only notifies":                        18,
		"mute ping":                            19,
		"pushes after deletion":                20,
		"no metrics":                           21,
		"replays once more later":              22,
		"notifies once more later":             22,
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			out, err := play(t.Context(), t, Command{limit: 12 * time.Second}, fault)
			e, ok := errors.AsType[*StepError](err)
			if !ok || e.Number != step {
				t.Errorf("got %v, want a failure of step %d\n%s", err, step, out)
			}
			if !strings.Contains(out, "✗") {
				t.Error("the output does not mark the failed step")
			}
			if fault == "does not start" && !strings.Contains(err.Error(), "does not feel like starting") {
				t.Errorf("the daemon's last words are not told: %v", err)
			}
		})
	}
}

func TestDemoNoticesABadStop(t *testing.T) {
	t.Parallel()
	if out, err := play(t.Context(), t, Command{}, "stops badly"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the exit status of the daemon\n%s", err, out)
	}
}

func TestDemoKeeps(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watcher{t: t, done: cancel}
	if testing.Short() {
		t.Skip("starts processes and waits for retries: not with -short")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := Command{Keep: true, Executable: exe}
	if err := c.run(ctx, cli.Streams{Stdout: w, Stderr: w, Environ: os.Environ()}, dir); err != nil {
		t.Fatalf("%v\n%s", err, w.all.String())
	}
	if !w.arrived {
		t.Errorf("the published event was not shown:\n%s", w.all.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// watcher plays the person at the terminal: it runs the printed curl line's request once the demo
// keeps still, and presses Ctrl-C when the push is shown.
type watcher struct {
	t       *testing.T
	all     bytes.Buffer
	done    func()
	asked   bool
	arrived bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.all.Write(p)
	text := w.all.String()
	_, after, kept := strings.Cut(text, "Yours to play with")
	if kept && !w.asked && strings.Contains(after, "herald token list") {
		w.asked = true
		find := func(expr string) string {
			m := regexp.MustCompile(expr).FindStringSubmatch(after)
			if m == nil {
				w.t.Errorf("no %s in %s", expr, after)
				return ""
			}
			return m[1]
		}
		base, token := find(`HERALD=(\S+)`), find(`TOKEN=(\S+)`)
		// Not from here: the demo is in the middle of printing.
		go func() {
			req, err := http.NewRequest(http.MethodPost, base+"/events", strings.NewReader(`{"type":"x.y","data":{"mine":1}}`))
			if err != nil {
				w.t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				w.t.Error(err)
				w.done()
				return
			}
			_ = res.Body.Close()
		}()
	}
	if kept && strings.Contains(after, `{"mine":1}`) {
		w.arrived = true
		w.done()
	}
	return len(p), nil
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out, err := play(ctx, t, Command{}, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDemoWithoutReader(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts processes: not with -short")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = Command{Executable: exe}.run(t.Context(), cli.Streams{Stdout: closedPipe{}, Stderr: closedPipe{}, Environ: os.Environ()}, dir)
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v, want the error of the output", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestQuote(t *testing.T) {
	t.Parallel()
	names := map[string]string{"http://127.0.0.1:1": "HERALD", "hrld_x": "TOKEN"}
	for word, want := range map[string]string{
		"":                             `''`,
		"a'b":                          `'a'\''b'`,
		"http://127.0.0.1:1/events":    `"$HERALD/events"`,
		"http://127.0.0.1:1":           `"$HERALD"`,
		"http://127.0.0.1:1?a=b":       `"$HERALD?a=b"`,
		"http://127.0.0.1:12/x":        `'http://127.0.0.1:12/x'`,
		"Authorization: Bearer hrld_x": `"Authorization: Bearer $TOKEN"`,
		"hrld_xy":                      `'hrld_xy'`,
		"`rm`hrld_x":                   "'`rm`hrld_x'",
		"http://127.0.0.1:1/a$b":       `'http://127.0.0.1:1/a$b'`,
	} {
		if got := shell(word, names); got != want {
			t.Errorf("shell(%q) = %s, want %s", word, got, want)
		}
	}
}

// What is printed must make the very request that was sent.
func TestPrintedCurlIsTheRequest(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl")
	}
	type seen struct{ method, target, contentType, auth, key, body string }
	got := make(chan seen, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body)
		got <- seen{r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"), b.String()}
	}))
	defer s.Close()
	for i, c := range []struct{ method, path, contentType, body string }{
		{"GET", "/x?limit=5&after=a%20b", "", ""},
		{"POST", "/x/ping", "", ""},
		{"DELETE", "/x/1", "", ""},
		{"PUT", "/x", "application/json", `{"a":"it's \"$HOME\" ` + "`id`" + ` \\ %d"}`},
		{"POST", "/x/confirmation", "application/x-www-form-urlencoded", "signature=1.a%2Bb-_%3D"},
		{"POST", "/x", "application/x-ndjson", "{\"a\":1}\n\n{\"b\":\"ü\"}\n"},
	} {
		var out bytes.Buffer
		p := &printer{w: &out}
		names := map[string]string{s.URL: "HERALD", "t0": "TOKEN"}
		client := &http.Client{Transport: &tracer{next: http.DefaultTransport, out: p, names: names}}
		var body *strings.Reader
		req, err := http.NewRequest(c.method, s.URL+c.path, nil)
		if c.body != "" {
			body = strings.NewReader(c.body)
			req, err = http.NewRequest(c.method, s.URL+c.path, body)
		}
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer t0")
		if c.contentType != "" {
			req.Header.Set("Content-Type", c.contentType)
		}
		req.Header.Set("Idempotency-Key", "k "+strconv.Itoa(i))
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		want := <-got
		line := strings.TrimPrefix(strings.TrimSpace(out.String()), "$ ")
		cmd := exec.Command("sh", "-c", "HERALD="+s.URL+"\nTOKEN=t0\n"+line+" -s")
		cmd.Env = append(os.Environ(), "no_proxy=*")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, b)
		}
		if have := <-got; have != want {
			t.Errorf("%s\nmade    %+v\nwas sent %+v", line, have, want)
		}
	}
}
