package sender

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"7":                              7 * time.Second,
		" 7 ":                            7 * time.Second,
		"-5":                             0,
		"+5":                             0,
		"1.5":                            0,
		"1e9":                            0,
		"5s":                             0,
		"soon":                           0,
		"86400":                          MaxRetryAfter,
		"86401":                          MaxRetryAfter,
		"9223372036":                     MaxRetryAfter,
		"99999999999999999999999999999":  MaxRetryAfter,
		"Sun, 22 Nov 2026 08:01:00 GMT":  time.Minute,
		"Sunday, 22-Nov-26 08:01:00 GMT": time.Minute,
		"Sun Nov 22 08:01:00 2026":       time.Minute,
		"Sun, 22 Nov 2026 07:59:00 GMT":  0,
		"Fri, 31 Dec 9999 23:59:59 GMT":  MaxRetryAfter,
		"Sun, 32 Nov 2026 08:01:00 GMT":  0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := RetryAfter(http.Header{}, now); got != 0 {
		t.Errorf("absent: %v", got)
	}
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	f.Add("120")
	f.Add("Sun, 22 Nov 2026 08:01:00 GMT")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, text string) {
		if got := RetryAfter(http.Header{"Retry-After": {text}}, now); got < 0 || got > MaxRetryAfter {
			t.Errorf("%q: %v", text, got)
		}
	})
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]string{404: "404 Not Found", 499: "499"} {
		if got := StatusText(code); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// watched notes whether a body was closed.
type watched struct {
	io.Reader
	closed bool
}

func (w *watched) Close() error {
	w.closed = true
	return nil
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   io.Reader
		want   int
	}{
		"short":        {400, bytes.NewReader(make([]byte, 9)), 9},
		"at the limit": {400, bytes.NewReader(make([]byte, 10)), 10},
		"endless":      {400, endless{}, 10},
		"no HTTP":      {http.StatusSwitchingProtocols, endless{}, 0},
	} {
		body := &watched{Reader: c.body}
		if got := ReadBody(&http.Response{StatusCode: c.status, Body: body}, 10); len(got) != c.want || !body.closed {
			t.Errorf("%s: %d bytes, closed %t", name, len(got), body.closed)
		}
	}
}

func TestReadBodyIsNotPatient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe() // whose Read returns when it is closed, as that of net/http does
		go func() { _, _ = w.Write([]byte("begun")) }()
		started := time.Now()
		if got := ReadBody(&http.Response{Body: r}, 10); string(got) != "begun" || time.Since(started) != bodyPatience {
			t.Errorf("%q after %s", got, time.Since(started))
		}
	})
}
