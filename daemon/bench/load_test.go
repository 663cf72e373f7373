package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// published runs a load against a handler.
func published(t *testing.T, l *load, h http.HandlerFunc) (loadResult, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	l.shape.host, l.shape.path, l.shape.data = strings.TrimPrefix(srv.URL, "http://"), "/events", buildData(minSize)
	if l.producers == 0 {
		l.producers = 3
	}
	l.batch = max(l.batch, 1)
	return l.run(t.Context())
}

func accept(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"id":"evt_1"}`)
}

func TestLoadFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		load    *load
		want    string
	}{
		"other status":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such thing", 404) }, &load{events: 9}, "404: no such thing"},
		"plain 200":     {func(http.ResponseWriter, *http.Request) {}, &load{events: 9}, "200"},
		"no connection": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, &load{events: 9}, "EOF"},
		"no id":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }, &load{events: 9, book: newLedger(0, 1, time.Now())}, "0 ids for 1 events"},
		"too many ids": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			_, _ = io.WriteString(w, `[{"id":"a"},{"id":"b"}]`)
		}, &load{events: 9, book: newLedger(0, 1, time.Now())}, "more ids than the 1"},
		"another id": {accept, &load{events: 9, shape: requestShape{idPrefix: "own-"}, book: newLedger(0, 1, time.Now())}, `with the id "evt_1"`},
		"full":       {accept, &load{events: 9, book: newLedger(0, 1, time.Now()), base: maxEvents - 4}, errLedgerFull.Error()},
	} {
		_, err := published(t, test.load, test.handler)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := (&load{shape: requestShape{host: l.Addr().String()}, producers: 1, batch: 1, events: 1}).run(t.Context()); err == nil {
		t.Error("no error although nobody listens")
	}
}

func TestLoadSendsEachEventOnce(t *testing.T) {
	t.Parallel()
	var requests, events atomic.Int64
	l := &load{events: 1003, batch: 10}
	res, err := published(t, l, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		requests.Add(1)
		events.Add(int64(strings.Count(string(b), sequenceName)))
		w.WriteHeader(http.StatusAccepted)
	})
	if err != nil || res.issued != 1003 || events.Load() != 1003 || requests.Load() != 101 || l.acked.Load() != 1003 || l.acks.count.Load() != 101 {
		t.Errorf("%v, %+v: %d events in %d requests", err, res, events.Load(), requests.Load())
	}
}

func TestLoadComesAgainWhenRefused(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	l := &load{events: 10, producers: 1}
	_, err := published(t, l, func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			accept(w, r)
		}
	})
	if err != nil || l.refused.Load() != 2 || n.Load() != 12 || l.acked.Load() != 10 || l.acks.quantile(1) < 2*refusalWait {
		t.Errorf("%v, %d refused, %d requests, at most %v", err, l.refused.Load(), n.Load(), l.acks.quantile(1))
	}
}

func TestWaitOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"": refusalWait, "0": refusalWait, "1": time.Second, "999999999999999": maxRefusalWait, "-5": refusalWait, "soon": refusalWait,
		"Wed, 21 Oct 2026 07:28:00 GMT": refusalWait,
	} {
		if got := waitOf([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// A server that stalls must show in an open loop: the requests that were meant to begin meanwhile have waited.
func TestOpenLoopCountsFromTheIntendedStart(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond
	var once atomic.Bool
	l := &load{events: 60, rate: 200, producers: 1}
	if _, err := published(t, l, func(w http.ResponseWriter, r *http.Request) {
		if once.CompareAndSwap(false, true) {
			time.Sleep(stall)
		}
		accept(w, r)
	}); err != nil {
		t.Fatal(err)
	}
	// Forty requests were due within the stall, so the median one waited too.
	if p50 := l.acks.quantile(0.5); p50 < stall/5 {
		t.Errorf("median %v: the stall is hidden", p50)
	}
	if l.acks.quantile(1) < stall || l.lateness.quantile(1) < stall/2 || l.lateness.count.Load() != 60 {
		t.Errorf("at most %v, late at most %v", l.acks.quantile(1), l.lateness.quantile(1))
	}
}

func TestPaceKeepsTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &load{rate: 1000, batch: 7, duration: time.Second}
		tasks := make(chan task, 1024)
		l.pace(t.Context(), time.Now().Add(-time.Hour), 0, tasks)
		close(tasks)
		var n int64
		for task := range tasks {
			if task.first != n || task.count != 7 || task.intent != n*int64(time.Millisecond) {
				t.Fatalf("task %+v at %d", task, n)
			}
			n += 7
		}
		if n != 1001 {
			t.Errorf("%d events in a second", n)
		}
	})
}

func TestPacer(t *testing.T) {
	t.Parallel()
	var p pacer
	defer p.stop()
	for _, d := range []time.Duration{-time.Second, 0, 300 * time.Microsecond, 5 * time.Millisecond} {
		at := time.Now().Add(d)
		if !p.until(t.Context(), at) {
			t.Fatal("the context is alive")
		}
		if early := time.Until(at); early > 20*time.Microsecond {
			t.Errorf("%v: %v early", d, early)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(10*time.Millisecond, cancel).Stop()
	if p.until(ctx, time.Now().Add(time.Hour)) || !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("the wait outlives its context")
	}
}
