package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/client"
)

// onTerminal are streams of which the program believes that a person looks at them.
func onTerminal(t *testing.T, environ ...string) Streams {
	t.Helper()
	device, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return Streams{Stdin: device, Stdout: device, Stderr: device, Environ: environ}
}

func TestTableIsTheSameInAPipe(t *testing.T) {
	t.Parallel()
	list := []json.RawMessage{
		json.RawMessage(`{"id":"a","state":"dead\r\n","n":12345678901234567890,"tags":["x","y"],"at":"2026-11-22T08:00:00.5+01:00"}`),
		json.RawMessage(`{"id":"bé\u001b[2J","state":"delivered","in":{"deep":[{"n":1},{"n":2.50},{}]},"o":{"k":"<"}}`),
	}
	cols := columns("ID=id STATE=state N=n TAGS=tags AT=at DEEP=in.deep.n O=o NONE=x.y")
	want := "" +
		"ID      STATE      N                     TAGS  AT                    DEEP    O          NONE\n" +
		"a       dead       12345678901234567890  x,y   2026-11-22 07:00:00Z  -       -          -\n" +
		"bé\uFFFD[2J  delivered  -                     -     -                     1,2.50  {\"k\":\"<\"}  -\n"
	for name, s := range map[string]Streams{"pipe": {Stdout: &bytes.Buffer{}}, "terminal without colours": onTerminal(t, "NO_COLOR=1")} {
		var b bytes.Buffer
		if err := s.rows(&b, list, cols); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%swant\n%s", name, err, b.String(), want)
		}
	}
	var b bytes.Buffer
	if err := onTerminal(t).rows(&b, list, cols); err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"\x1b[31mdead\x1b[0m", "\x1b[32mdelivered\x1b[0m", "\x1b[1mID\x1b[0m"} {
		if !strings.Contains(b.String(), w) {
			t.Errorf("the terminal gets %q, which lacks %q", b.String(), w)
		}
	}
	plain := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[1m", "", "\x1b[0m", "").Replace(b.String())
	if plain != want {
		t.Errorf("the terminal gets other columns:\n%s", plain)
	}
}

func TestObject(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := Streams{Stdout: &b}
	err := s.object(&b, json.RawMessage(`{"id":"e","data":{"a":  [{"b":1}]},"in":{"x":true,"list":[{"p":1},{"q":"r","z":[{}]}]},"none":[],"null":null}`))
	want := "id    e\ndata  {\"a\":  [{\"b\":1}]}\nin.x  true\nnone  -\nnull  -\n\nin.list:\nP  Q\n1  -\n-  r\n"
	if err != nil || b.String() != want {
		t.Errorf("%v\n%swant\n%s", err, b.String(), want)
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	// Nobody answers at this terminal, which is no.
	if err := confirm(onTerminal(t), false, "delete?"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("without an answer: %v", err)
	}
	if err := confirm(onTerminal(t), true, "delete?"); err != nil {
		t.Errorf("with --yes: %v", err)
	}
	if err := confirm(Streams{Stdin: strings.NewReader("n\n"), Stderr: &bytes.Buffer{}}, false, "delete?"); err != nil {
		t.Errorf("in a script: %v", err)
	}
	for answer, want := range map[string]bool{"y\n": true, "Yes\n": true, "y": true, "n\n": false, "\n": false, "": false, "yep\n": false} {
		var out bytes.Buffer
		if err := agreed(strings.NewReader(answer), &out, "delete x?"); (err == nil) != want || out.String() != "delete x? [y/N] " {
			t.Errorf("the answer %q: %v after %q", answer, err, out.String())
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := progress{w: &b, shown: true, total: 200, unit: "events", began: time.Now().Add(-2 * time.Second)}
	p.draw(100, 50)
	p.draw(150, 75) // too soon after
	if got := b.String(); !strings.Contains(got, "[###############...............]  50%  50 events, ") || strings.Contains(got, "75") {
		t.Errorf("the bar is %q", got)
	}
	p.end()
	if !strings.HasSuffix(b.String(), "\r\x1b[K") {
		t.Errorf("the bar is left there: %q", b.String())
	}
	b.Reset()
	silent := progress{w: &b}
	silent.draw(1, 1)
	silent.end()
	if b.Len() != 0 {
		t.Errorf("where nobody looks it printed %q", b.String())
	}
}

// What the daemon asks to wait with is sent again when it said, and not for ever.
func TestPatiently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		busy := &client.Problem{StatusCode: 503, RetryAfter: time.Minute}
		calls, began := 0, time.Now()
		got, err := patiently(t.Context(), func() (string, error) {
			if calls++; calls < 4 {
				return "", busy
			}
			return "done", nil
		})
		if got != "done" || err != nil || calls != 4 || time.Since(began) != 3*time.Minute {
			t.Errorf("got %q, %v after %d calls in %s", got, err, calls, time.Since(began))
		}
		calls = 0
		_, err = patiently(t.Context(), func() (string, error) { calls++; return "", busy })
		if !errors.Is(err, busy) || calls != patience {
			t.Errorf("in vain: %v after %d calls", err, calls)
		}
		calls = 0
		_, err = patiently(t.Context(), func() (string, error) { calls++; return "", &client.Problem{StatusCode: 400} })
		if err == nil || calls != 1 {
			t.Errorf("what is wrong is sent %d times: %v", calls, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = patiently(ctx, func() (string, error) { return "", busy }); !errors.Is(err, busy) {
			t.Errorf("interrupted: %v", err)
		}
	})
}

func TestPast(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"2h": "2026-11-22T06:00:00Z", "7d": "2026-11-15T08:00:00Z", "2026-11-21": "2026-11-21T00:00:00Z",
		"2026-11-21T12:00:00.5+02:00": "2026-11-21T10:00:00.5Z",
	} {
		if got, err := past(text, now); err != nil || got != want {
			t.Errorf("past(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1h", "yesterday", "2026-13-01", "5"} {
		if got, err := past(text, now); err == nil {
			t.Errorf("past(%q) = %s, want an error", text, got)
		}
	}
}

// What somebody else has written reaches a terminal in no form that it would obey, and programs unchanged.
func TestOthersWordsAreHarmless(t *testing.T) {
	t.Parallel()
	evil := "a\x1b[31mb\u009b2Jc\u202ed\x7f"
	o := do(nil, func(Streams) error { return &client.Problem{StatusCode: 400, Detail: evil + "\nsecond line"} })
	if o.stderr != "herald: a\ufffd[31mb\ufffd2Jc\ufffdd\ufffd\nsecond line (400)\n" {
		t.Errorf("an error: %q", o.stderr)
	}
	var b bytes.Buffer
	if err := printJSON(&b, map[string]string{"x": evil}); err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back["x"] != evil {
		t.Errorf("JSON is not the same: %q, %v", back["x"], err)
	}
	if strings.ContainsFunc(strings.ReplaceAll(b.String(), "\n", ""), commands) {
		t.Errorf("JSON: %q", b.String())
	}
}

// A command that waits for what comes on standard input ends when it is told to.
func TestInputEnds(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(r.Close(), w.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	in := &input{Reader: r, ctx: ctx}
	if _, err := w.WriteString("line"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := in.Read(b); string(b[:n]) != "line" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := io.ReadAll(in); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestNullIsNoTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if Terminal(f) || Terminal(&input{Reader: f, ctx: t.Context()}) {
		t.Error("/dev/null is taken for a terminal")
	}
}

// A daemon that is restarted does not end those who watch it.
func TestLull(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	l := lull{s: Streams{Stderr: &errs}}
	gone := fmt.Errorf("look: %w", &client.UnreachableError{Address: "data/herald.sock", Err: errors.New("refused")})
	for range 3 {
		if !l.begins(t.Context(), gone) {
			t.Error("it ends")
		}
	}
	if n := strings.Count(errs.String(), "\n"); n != 1 || !strings.Contains(errs.String(), "data/herald.sock") {
		t.Errorf("told %d times: %s", n, errs.String())
	}
	if l.begins(t.Context(), &client.Problem{StatusCode: 404}) || l.begins(t.Context(), nil) {
		t.Error("a refusal is taken for a restart")
	}
	if !l.begins(t.Context(), gone) || strings.Count(errs.String(), "\n") != 2 {
		t.Errorf("the next one is not told: %s", errs.String())
	}
}

// A connection that breaks leaves open what became of the request, and the words do, too.
func TestFate(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"are not":   fmt.Errorf("publish: %w", &client.Problem{StatusCode: 400}),
		"not known": fmt.Errorf("publish: %w", io.ErrUnexpectedEOF),
	} {
		if got := fate(err); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}
