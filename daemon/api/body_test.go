package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"herald/queue"
)

// watched is a body that shows how it is read.
type watched struct {
	io.Reader
	read  int64
	watch func(read int64) // before each read
}

func (w *watched) Read(p []byte) (int, error) {
	if w.watch != nil {
		w.watch(w.read)
	}
	n, err := w.Reader.Read(p)
	w.read += int64(n)
	return n, err
}

func (*watched) Close() error { return nil }

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// send publishes a body of a length that may be unknown (-1).
func (b *bed) send(body io.ReadCloser, length int64, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/events", nil)
	r.Body, r.ContentLength = body, length
	r.Header.Set("Authorization", "Bearer pub")
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	return w
}

const oneEvent = `{"type":"a","data":{}}`

func TestBodiesTogetherAreBounded(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		body, limit int64
	}{
		"small bodies": {1000, 128 << 20},
		"the default":  {0, 128 << 20},
		"large bodies": {100 << 20, 200 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, Settings{BodyBytes: x.body})
			others := x.limit - int64(len(oneEvent))
			b.api.held.Store(others) // what other requests hold
			if w := b.request(http.MethodPost, "/events", "pub", oneEvent); w.Code != 202 {
				t.Fatalf("with just enough room: %d %s", w.Code, w.Body)
			}
			b.api.held.Add(1)
			for _, length := range []int64{int64(len(oneEvent)), -1} {
				w := b.send(io.NopCloser(strings.NewReader(oneEvent)), length)
				wantProblem(t, w, 503, "more request bodies are being read than fit in memory; try again in a second")
				if w.Header().Get("Retry-After") != "1" {
					t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
				}
			}
			if n := counter(t, b.reg, "herald_api_publications_refused_total", "reason", reasonBusy); n != 2 {
				t.Errorf("%v refusals counted as busy", n)
			}
			wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", minimal), 503, "more request bodies")
			wantProblem(t, b.request(http.MethodPost, "/subscriptions/x/pause", "sub", strings.Repeat(" ", 100)), 503, "more request bodies")
			if got := b.api.held.Load(); got != others+1 {
				t.Errorf("%d bytes are held, want %d", got, others+1)
			}
			if len(b.queue.events) != 1 {
				t.Errorf("%d events", len(b.queue.events))
			}
		})
	}
}

func TestBodiesAreCountedAsTheyArrive(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	text := `{"type":"a","data":{"x":"` + strings.Repeat("x", 300_000) + `"}}`
	for _, length := range []int64{int64(len(text)), -1} {
		reads := 0
		body := &watched{Reader: strings.NewReader(text)}
		body.watch = func(read int64) {
			reads++
			if held := b.api.held.Load(); held != read {
				t.Errorf("%d bytes are held when %d were read", held, read)
			}
		}
		if w := b.send(body, length); w.Code != 202 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if reads < 2 {
			t.Errorf("the body was read in %d parts", reads)
		}
		if held := b.api.held.Load(); held != 0 {
			t.Errorf("%d bytes are held after the answer", held)
		}
	}
}

// panicQueue panics when it is given events.
type panicQueue struct{ *memQueue }

func (panicQueue) Accept(context.Context, []queue.Submission) ([]queue.Receipt, error) {
	panic("boom")
}

// torn breaks off like a connection.
type torn struct{}

func (torn) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

func TestBodiesAreGivenBackHoweverTheCallEnds(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{BodyBytes: 1000})
	const others = 12345
	b.api.held.Store(others)
	mem := b.api.queue
	for name, x := range map[string]struct {
		queue  queue.Queue
		body   io.Reader
		status int
	}{
		"accepted":     {mem, strings.NewReader(oneEvent), 202},
		"not JSON":     {mem, strings.NewReader("{"), 400},
		"torn":         {mem, io.MultiReader(strings.NewReader(oneEvent), torn{}), 400},
		"too long":     {mem, strings.NewReader(strings.Repeat(" ", 2000)), 413},
		"mistake here": {panicQueue{b.queue}, strings.NewReader(oneEvent), 500},
	} {
		b.api.queue = x.queue
		if w := b.send(io.NopCloser(x.body), -1); w.Code != x.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if held := b.api.held.Load(); held != others {
			t.Errorf("%s: %d bytes are held, want %d", name, held, others)
		}
	}
}

// A refused body must not stay in memory while its rest is read, or while a slow client is answered.
func TestRefusedBodiesAreLetGoAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	fill := func(body io.ReadCloser) (*call, error) {
		c := newCall(b.api)
		c.ResponseWriter, c.settings = httptest.NewRecorder(), b.api.settings.Load()
		c.r = httptest.NewRequest(http.MethodPost, "/events", nil)
		c.r.Body, c.r.ContentLength = body, -1
		return c, c.fill()
	}
	b.api.held.Store(minHeld - 1<<20)
	c, err := fill(io.NopCloser(zeros{}))
	if p, ok := errors.AsType[*problem](err); !ok || p.kind != unavailable || c.body.Cap() != 0 || b.api.held.Load() != minHeld-1<<20 {
		t.Errorf("over the sum: %v, %d bytes kept, %d held", err, c.body.Cap(), b.api.held.Load())
	}
	b.api.held.Store(0)
	drained := false
	body := &watched{Reader: zeros{}}
	body.watch = func(read int64) {
		if read > defaultBodyBytes {
			drained = true
			if held := b.api.held.Load(); held != 0 {
				t.Fatalf("%d bytes are held while the rest is thrown away", held)
			}
		}
	}
	c, err = fill(body)
	if p, ok := errors.AsType[*problem](err); !ok || p.kind != tooLarge || c.body.Cap() != 0 || !drained {
		t.Errorf("over the limit: %v, %d bytes kept, drained: %t", err, c.body.Cap(), drained)
	}
}

func TestTheRestOfALongBodyIsReadWithinBounds(t *testing.T) {
	t.Parallel()
	const limit = 1000
	b := newBed(t, Settings{BodyBytes: limit})
	for name, x := range map[string]struct {
		length int64
		expect string
		read   int64
	}{
		"length unknown":         {-1, "", limit + 1 + maxDrain},
		"length known":           {limit + 5000, "", limit + 5000},
		"longest that is read":   {limit + maxDrain, "", limit + maxDrain},
		"too long to be read":    {limit + maxDrain + 1, "", 0},
		"nothing was sent yet":   {limit + 1, "100-Continue", 0},
		"unknown, with 100":      {-1, "100-continue", limit + 1},
		"within the limit, long": {limit, "", limit},
	} {
		length := x.length
		if length < 0 {
			length = 1 << 40
		}
		body := &watched{Reader: io.LimitReader(zeros{}, length)}
		w := b.send(body, x.length, "Expect", x.expect)
		if x.length == limit {
			wantProblem(t, w, 400)
		} else {
			wantProblem(t, w, 413, "1000 bytes")
		}
		if body.read != x.read {
			t.Errorf("%s: %d bytes were read, want %d", name, body.read, x.read)
		}
	}
}

// A client that sends everything before it reads anything gets the answer, not a broken connection.
func TestLongBodiesAreAnsweredAfterTheyWereSent(t *testing.T) {
	t.Parallel()
	s := serve(t, newBed(t))
	const size = defaultBodyBytes + 1
	const head = "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pub\r\nContent-Type: application/json\r\n"
	text := strings.Repeat("x", size)
	for name, request := range map[string]string{
		"length known":   fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, size, text),
		"length unknown": fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", head, size, text, 8<<20, text[:8<<20]),
	} {
		t.Run(name, func(t *testing.T) {
			if res, body := raw(t, s, request); res.StatusCode != 413 || !strings.Contains(body, "larger than the limit of 16777216 bytes") {
				t.Errorf("%d %s", res.StatusCode, body)
			}
		})
	}
}

// A client that never sends the rest is answered when the server's read timeout is over.
func TestTheRestIsAwaitedUntilTheReadTimeout(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{BodyBytes: 1000})
	s := httptest.NewUnstartedServer(b.h)
	s.Config.ReadTimeout = 100 * time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pub\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("status %d", res.StatusCode)
	}
}
