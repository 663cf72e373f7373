package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"herald/daemon/client"
)

// outcome is what a command printed and returned.
type outcome struct {
	stdout, stderr string
	code           int
}

// do runs a command as main does.
func do(environ []string, run func(Streams) error) outcome {
	var out, errs bytes.Buffer
	s := Streams{Stdout: &out, Stderr: &errs, Environ: environ}
	code := Exit(s, run(s))
	return outcome{out.String(), errs.String(), code}
}

var v1 = Version{Number: "1.0"}

// api is a daemon as far as tokens go. It answers every request the same way and keeps what it saw.
type api struct {
	status int
	answer string
	header http.Header
	seen   []string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	a.seen = append(a.seen, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.Header.Get("Authorization"), b)))
	if a.status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.answer)
}

// remote serves a over TCP and returns the environment that leads there.
func remote(t *testing.T, a *api) []string {
	t.Helper()
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	return []string{"HERALD_URL=" + s.URL, "HERALD_TOKEN=hrld_mine"}
}

func TestTokenCreate(t *testing.T) {
	t.Parallel()
	a := &api{status: 200, answer: `{"id":"tok_1","accountId":"default","name":"ci","scopes":["publish","subscribe"],"token":"hrld_new"}`}
	env := remote(t, a)
	c := TokenCreate{Name: "ci", Scope: []string{"publish", "subscribe"}, Remote: Remote{Account: "default"}}
	got := do(env, func(s Streams) error { return c.Run(t.Context(), s, v1) })
	if got.code != 0 || got.stdout != "hrld_new\n" {
		t.Errorf("got %+v: standard output has to be the token alone", got)
	}
	for _, want := range []string{"cannot be shown again", "herald token revoke tok_1", "publish, subscribe", "never", "Authorization: Bearer"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("the explanation lacks %q:\n%s", want, got.stderr)
		}
	}
	if strings.Contains(got.stderr, "hrld_new") {
		t.Error("the token is printed twice")
	}
	want := `POST /tokens Bearer hrld_mine {"accountId":"default","name":"ci","scopes":["publish","subscribe"]}`
	if len(a.seen) != 1 || a.seen[0] != want {
		t.Errorf("sent %q, want %q", a.seen, want)
	}

	c.JSON = true
	got = do(env, func(s Streams) error { return c.Run(t.Context(), s, v1) })
	var token client.Token
	if err := json.Unmarshal([]byte(got.stdout), &token); err != nil || token.Secret != "hrld_new" || got.stderr != "" {
		t.Errorf("--json gave %+v, %v", got, err)
	}
}

func TestTokenList(t *testing.T) {
	t.Parallel()
	a := &api{status: 200, answer: `[{"id":"tok_1","accountId":"default","name":"ci\u001b[2J","scopes":["publish"],"createdAt":"2026-11-22T08:00:00.5Z"},
		{"id":"tok_22","accountId":"a","name":"","scopes":["send","admin"],"expiresAt":"2027-01-01T00:00:00Z"}]`}
	env := remote(t, a)
	got := do(env, func(s Streams) error { return TokenList{}.Run(t.Context(), s, v1) })
	want := "" +
		"ID      ACCOUNT  NAME    SCOPES      CREATED               EXPIRES\n" +
		"tok_1   default  ci\uFFFD[2J  publish     2026-11-22 08:00:00Z  never\n" +
		"tok_22  a        -       send,admin  -                     2027-01-01 00:00:00Z\n"
	if got.stdout != want || got.code != 0 {
		t.Errorf("got\n%s, want\n%s", got.stdout, want)
	}
	got = do(env, func(s Streams) error { return TokenList{JSON: true}.Run(t.Context(), s, v1) })
	var tokens []client.Token
	if err := json.Unmarshal([]byte(got.stdout), &tokens); err != nil || len(tokens) != 2 {
		t.Errorf("--json gave %q, %v", got.stdout, err)
	}
	a.answer = `[]`
	got = do(env, func(s Streams) error { return TokenList{}.Run(t.Context(), s, v1) })
	if got.stdout != "" || !strings.Contains(got.stderr, "herald token create") || got.code != 0 {
		t.Errorf("no tokens: %+v", got)
	}
	got = do(env, func(s Streams) error { return TokenList{JSON: true}.Run(t.Context(), s, v1) })
	if got.stdout != "[]\n" {
		t.Errorf("no tokens as JSON: %q", got.stdout)
	}
}

func TestTokenRevoke(t *testing.T) {
	t.Parallel()
	a := &api{status: 204}
	env := remote(t, a)
	got := do(env, func(s Streams) error { return TokenRevoke{IDs: []string{"tok_1", "tok_2"}}.Run(t.Context(), s, v1) })
	if got != (outcome{"revoked tok_1\nrevoked tok_2\n", "", 0}) || len(a.seen) != 2 {
		t.Errorf("got %+v, %q", got, a.seen)
	}
	a.seen = nil
	got = do(env, func(s Streams) error {
		return TokenRevoke{IDs: []string{"tok_1", "hrld_secret"}}.Run(t.Context(), s, v1)
	})
	if got.code != 2 || len(a.seen) != 0 || strings.Contains(got.stderr, "hrld_secret") {
		t.Errorf("a token in place of an id: %+v, sent %q", got, a.seen)
	}
	a.status, a.answer = 404, `{"title":"Not found","statusCode":404,"detail":"x","instance":"/tokens/y"}`
	got = do(env, func(s Streams) error { return TokenRevoke{IDs: []string{"tok_8", "tok_9"}}.Run(t.Context(), s, v1) })
	if got.code != 1 || len(a.seen) != 2 || !strings.Contains(got.stderr, "tok_8") || !strings.Contains(got.stderr, "tok_9") ||
		!strings.Contains(got.stderr, "herald token list") {
		t.Errorf("unknown ids: %+v, sent %q", got, a.seen)
	}
}

func TestErrorsSayWhatNext(t *testing.T) {
	t.Parallel()
	problem := func(status int) *api {
		return &api{status: status, answer: `{"title":"T","statusCode":0,"detail":"the detail.","instance":"/tokens","errors":[{"field":"scopes","detail":"are wrong"}]}`}
	}
	busy := problem(503)
	busy.header = http.Header{"Retry-After": {"7"}}
	dir := t.TempDir()
	closed := httptest.NewServer(nil)
	closed.Close()
	file := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(file, []byte("listen:\n  lisetn: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := func(r Remote) func(Streams) error {
		return func(s Streams) error { return TokenList{Remote: r}.Run(t.Context(), s, v1) }
	}
	for _, c := range []struct {
		name    string
		environ []string
		run     func(Streams) error
		code    int
		want    []string
	}{
		{"no daemon at the socket", nil, list(Remote{Socket: dir + "/no.sock"}), 1, []string{"no daemon answers at " + dir + "/no.sock", "herald serve", "--url"}},
		{"no daemon at the URL", []string{"HERALD_TOKEN=x"}, list(Remote{URL: closed.URL}), 1, []string{"no daemon answers at " + closed.URL, "is it running"}},
		{"no token", []string{"HERALD_URL=http://127.0.0.1:1"}, list(Remote{}), 2, []string{"HERALD_TOKEN", "herald token create"}},
		{"bad URL", []string{"HERALD_TOKEN=x"}, list(Remote{URL: "nonsense"}), 2, []string{"http://"}},
		{"bad configuration", nil, list(Remote{Config: file}), 2, []string{file + ":2:", "lisetn"}},
		{"no configuration", nil, list(Remote{Config: dir + "/none.yaml"}), 2, []string{"none.yaml"}},
		{"unknown variable", []string{"HERALD_LISETN_ADDRESS=x"}, list(Remote{}), 2, []string{"HERALD_LISETN_ADDRESS"}},
		{"401", remote(t, problem(401)), list(Remote{}), 1, []string{"the detail (401)", "HERALD_TOKEN", "scopes: are wrong"}},
		{"403", remote(t, problem(403)), list(Remote{}), 1, []string{"the detail (403)", "herald token create --scope"}},
		{"503", remote(t, busy), list(Remote{}), 1, []string{"the detail (503)", "try again in 7s"}},
		{"interrupted", remote(t, problem(400)), func(s Streams) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return TokenList{}.Run(ctx, s, v1)
		}, 1, []string{"interrupted"}},
		{"expiry", nil, func(s Streams) error { return TokenCreate{Expires: "soon"}.Run(t.Context(), s, v1) }, 2, []string{"--expires soon", "90d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := do(c.environ, c.run)
			if got.code != c.code || got.stdout != "" || !strings.HasPrefix(got.stderr, "herald: ") {
				t.Errorf("got %+v, want code %d", got, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("%q lacks %q", got.stderr, want)
				}
			}
		})
	}
}

func TestSocketOfAnotherUser(t *testing.T) {
	t.Parallel()
	err := &client.UnreachableError{Address: "/run/herald/herald.sock", Err: &os.SyscallError{Syscall: "connect", Err: syscall.EACCES}}
	got := do(nil, func(Streams) error { return err })
	if got.code != 1 || !strings.Contains(got.stderr, "not allowed") || !strings.Contains(got.stderr, "--url") {
		t.Errorf("got %+v", got)
	}
}

// The configured socket is used when nothing else is said, and HERALD_URL is not when --socket or
// --config is.
func TestWhichDaemon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "herald.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(&api{status: 200, answer: `[]`})
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	file := filepath.Join(dir, "h.yaml")
	if err := os.WriteFile(file, []byte("data_dir: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	far := []string{"HERALD_URL=http://127.0.0.1:1", "HERALD_TOKEN=x"}
	for name, c := range map[string]struct {
		environ []string
		r       Remote
	}{
		"configuration":                    {nil, Remote{Config: file}},
		"environment":                      {[]string{"HERALD_DATA_DIR=" + dir}, Remote{}},
		"systemd's directory":              {[]string{"RUNTIME_DIRECTORY=" + dir}, Remote{}},
		"socket":                           {nil, Remote{Socket: dir + "/herald.sock"}},
		"configuration beats HERALD_URL":   {far, Remote{Config: file}},
		"socket beats HERALD_URL":          {far, Remote{Socket: dir + "/herald.sock"}},
		"the last of two variables counts": {append([]string{"HERALD_DATA_DIR=/nowhere"}, "HERALD_DATA_DIR="+dir), Remote{}},
	} {
		got := do(c.environ, func(s Streams) error { return TokenList{JSON: true, Remote: c.r}.Run(t.Context(), s, v1) })
		if got.code != 0 || got.stdout != "[]\n" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yaml", "listen:\n  address: 127.0.0.1:9000\n")
	got := do(nil, CheckConfig{good}.Run)
	if got.code != 0 || got.stdout != good+": ok\n" {
		t.Errorf("good: %+v", got)
	}
	bad := write("bad.yaml", "listen:\n  address: 5\nlog:\n  level: loud\nunknown: 1\n")
	got = do([]string{"HERALD_DATA_DIR=", "HERALD_NONSENSE=1"}, CheckConfig{bad}.Run)
	if got.code != 2 || got.stdout != "" {
		t.Errorf("bad: %+v", got)
	}
	for _, want := range []string{bad + ":4: log.level: ", bad + ":5: ", "HERALD_NONSENSE: "} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("the problems lack %q:\n%s", want, got.stderr)
		}
	}
	for line := range strings.Lines(got.stderr) {
		if !strings.HasPrefix(line, bad+":") && !strings.HasPrefix(line, "HERALD_") {
			t.Errorf("line without a place: %q", line)
		}
	}
	got = do(nil, CheckConfig{dir + "/none.yaml"}.Run)
	if got.code != 2 || !strings.Contains(got.stderr, "none.yaml: ") {
		t.Errorf("no file: %+v", got)
	}
	open := write("open.yaml", "admin_token: t0123456789012345678901234567\n")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	got = do(nil, CheckConfig{open}.Run)
	if got.code != 0 || !strings.Contains(got.stderr, "warning: ") || strings.Contains(got.stderr, "0123456789") {
		t.Errorf("a secret that others can read: %+v", got)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	v := Version{Number: "1.2", Commit: "0123456789abcdef", Built: "2026-11-22T08:00:00Z", Go: "go1.26", Platform: "linux/amd64"}
	got := do(nil, func(s Streams) error { return VersionCommand{}.Run(s, v) })
	if want := "herald 1.2 (commit 0123456789ab, 2026-11-22T08:00:00Z), go1.26, linux/amd64\n"; got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
	got = do(nil, func(s Streams) error { return VersionCommand{JSON: true}.Run(s, v) })
	var again Version
	if err := json.Unmarshal([]byte(got.stdout), &again); err != nil || again != v {
		t.Errorf("--json gave %q, %v", got.stdout, err)
	}
	if r := ReadVersion("9.9"); r.Number != "9.9" || r.Go == "" {
		t.Errorf("ReadVersion: %+v", r)
	}
	if r := ReadVersion(""); r.Number == "" {
		t.Errorf("ReadVersion without a number: %+v", r)
	}
}

func TestParseExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                          {},
		"90d":                       now.AddDate(0, 0, 90),
		"2w":                        now.AddDate(0, 0, 14),
		"12h":                       now.Add(12 * time.Hour),
		"1h30m":                     now.Add(90 * time.Minute),
		"2026-11-22":                time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC),
		"2027-01-31T12:00:00+02:00": time.Date(2027, 1, 31, 10, 0, 0, 0, time.UTC),
	} {
		if got, err := parseExpiry(text, now); err != nil || !got.Equal(want) {
			t.Errorf("parseExpiry(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"0d", "-1h", "0s", "d", "1.5d", "-3d", "99999999d", "2026-11-21", "2026-13-01", "2026-11-22T07:59:59Z", "tomorrow", "90"} {
		if got, err := parseExpiry(text, now); err == nil {
			t.Errorf("parseExpiry(%q) = %s, want an error", text, got)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{Usage(errors.New("x")), 2},
		{fmt.Errorf("a: %w", Usage(errors.New("x"))), 2},
		{errors.Join(nil, Usage(errors.New("x"))), 2},
		{&silentError{2}, 2},
	} {
		if got := do(nil, func(Streams) error { return c.err }); got.code != c.code {
			t.Errorf("%v: code %d, want %d", c.err, got.code, c.code)
		}
	}
	if got := do(nil, func(Streams) error { return &silentError{2} }); got.stderr != "" {
		t.Errorf("a silent error said %q", got.stderr)
	}
	joined := errors.Join(errors.New("one"), &client.Problem{StatusCode: 500, Detail: "two"})
	if got := do(nil, func(Streams) error { return joined }); got.stderr != "herald: one\ntwo (500)\n" {
		t.Errorf("joined errors: %q", got.stderr)
	}
}

func TestColour(t *testing.T) {
	t.Parallel()
	device, err := os.OpenFile("/dev/zero", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		name    string
		environ []string
		w       io.Writer
		want    bool
	}{
		{"character device", nil, device, true},
		{"NO_COLOR", []string{"NO_COLOR=1"}, device, false},
		{"empty NO_COLOR", []string{"NO_COLOR="}, device, true},
		{"dumb", []string{"TERM=dumb"}, device, false},
		{"file", nil, file, false},
		{"buffer", nil, &bytes.Buffer{}, false},
	} {
		if got := (Streams{Environ: c.environ}).Colour(c.w); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
