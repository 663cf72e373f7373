package daemon_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rogue is a server that speaks to its clients as the test says, one connection at a time or many.
type rogue struct {
	t       *testing.T
	Address string
	written atomic.Int64 // bytes it has got rid of
	ended   chan struct{}
}

// rogues starts a rogue; serve has the connection until it returns, when it is closed.
func rogues(t *testing.T, serve func(*rogue, net.Conn)) *rogue {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rogue{t: t, Address: l.Addr().String(), ended: make(chan struct{})}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				if serve != nil {
					serve(r, c)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(r.ended)
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

// request reads one request off the connection.
func request(c net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err == nil {
		_, _ = io.Copy(io.Discard, req.Body)
	}
}

// say writes a text, and says whether it could.
func (r *rogue) say(c net.Conn, text string) bool {
	n, err := io.WriteString(c, text)
	r.written.Add(int64(n))
	return err == nil
}

// forever says something again and again, with a pause, until the other end has had enough.
func (r *rogue) forever(c net.Conn, text string, pause time.Duration) {
	for r.say(c, text) {
		if pause == 0 {
			continue
		}
		select {
		case <-r.ended:
			return
		case <-time.After(pause):
		}
	}
}

// reset makes closing the connection an RST.
func reset(c net.Conn) {
	if tc, ok := c.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
}

const (
	okHead   = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	failHead = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n"
)

// TestReceivers meets every kind of broken receiver, all at once. Each has to end in an attempt with a
// clear error, within its timeout and some, while a healthy subscription gets the same events.
func TestReceivers(t *testing.T) {
	t.Parallel()
	type trial struct {
		serve  func(*rogue, net.Conn)
		scheme string  // http
		status float64 // 0: none was heard
		// delivered: a 2xx was heard, and that is all it takes.
		delivered bool
		slow      bool     // it takes the whole timeout
		dribbles  bool     // it may
		words     []string // of the error
	}
	block := func(r *rogue, _ net.Conn) { <-r.ended }
	trials := map[string]trial{
		"never answers":            {serve: func(r *rogue, c net.Conn) { request(c); block(r, c) }, slow: true, words: []string{" within "}},
		"never reads":              {serve: block, slow: true, words: []string{" within "}},
		"closes at once":           {serve: func(_ *rogue, c net.Conn) {}, words: []string{"connection"}},
		"resets at once":           {serve: func(_ *rogue, c net.Conn) { reset(c) }, words: []string{"connection"}},
		"closes without an answer": {serve: func(_ *rogue, c net.Conn) { request(c) }, words: []string{"connection"}},
		"resets without an answer": {serve: func(_ *rogue, c net.Conn) { request(c); reset(c) }, words: []string{"connection"}},
		"closes within the head":   {serve: func(r *rogue, c net.Conn) { request(c); r.say(c, okHead+"X-Half: ") }, words: []string{"connection|answer"}},
		"resets within the head":   {serve: func(r *rogue, c net.Conn) { request(c); r.say(c, okHead); reset(c) }, words: []string{"connection|answer"}},
		"dribbles its head": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, okHead+"X-Long: ")
				r.forever(c, "x", 20*time.Millisecond)
			},
			slow: true, words: []string{" within "},
		},
		"sends endless headers": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, okHead)
				r.forever(c, "X-Again: "+strings.Repeat("y", 100)+"\r\n", 0)
			},
			words: []string{"header"},
		},
		"sends an endless header": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, okHead+"X-Long: ")
				r.forever(c, strings.Repeat("y", 1000), 0)
			},
			words: []string{"header"},
		},
		"hints forever": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.forever(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0)
			},
			words: []string{"answer|informational|1xx|header"},
		},
		"speaks another protocol": {serve: func(r *rogue, c net.Conn) { r.say(c, "220 mail.example.com ESMTP\r\n"); request(c) }, words: []string{"HTTP|closed the connection"}},
		"answers nonsense":        {serve: func(r *rogue, c net.Conn) { request(c); r.say(c, "HTTP/1.1 two hundred\r\n\r\n") }, words: []string{"HTTP"}},
		"fails and promises more": {
			serve:  func(r *rogue, c net.Conn) { request(c); r.say(c, failHead+"Content-Length: 100000\r\n\r\nlittle") },
			status: 500, words: []string{"500"},
		},
		"fails with an endless body": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, failHead+"\r\n")
				r.forever(c, strings.Repeat("z", 1000), 0)
			},
			status: 500, words: []string{"500"},
		},
		"fails with a dribbling body": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, failHead+"\r\n")
				r.forever(c, "z", 20*time.Millisecond)
			},
			status: 500, words: []string{"500"},
		},
		"succeeds and promises more": {
			serve:  func(r *rogue, c net.Conn) { request(c); r.say(c, okHead+"Content-Length: 100000\r\n\r\nlittle") },
			status: 200, delivered: true,
		},
		"succeeds with an endless body": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, okHead+"\r\n")
				r.forever(c, strings.Repeat("z", 1000), 0)
			},
			status: 200, delivered: true,
		},
		"succeeds with a dribbling body": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, okHead+"\r\n")
				r.forever(c, "z", 20*time.Millisecond)
			},
			status: 200, delivered: true,
		},
		"succeeds with a broken chunk": {
			serve: func(r *rogue, c net.Conn) {
				request(c)
				r.say(c, okHead+"Transfer-Encoding: chunked\r\n\r\nzz\r\nnonsense")
			},
			status: 200, delivered: true,
		},
		"never shakes hands":        {serve: block, scheme: "https", slow: true, words: []string{" within "}},
		"does not speak TLS":        {serve: func(r *rogue, c net.Conn) { r.say(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); request(c) }, scheme: "https", words: []string{"TLS|HTTPS"}},
		"closes the handshake":      {serve: func(_ *rogue, c net.Conn) { _, _ = c.Read(make([]byte, 1)) }, scheme: "https", words: []string{"TLS|connection"}},
		"has nobody listening":      {scheme: "refused", words: []string{"refused"}},
		"has a foreign certificate": {scheme: "certificate", words: []string{"certificate"}},
	}
	h := start(t)
	healthy := receive(t)
	beside := h.subscribe(healthy.URL, nil)
	bad, broken := map[string]*rogue{}, map[string]string{}
	for name, c := range trials {
		url := ""
		switch c.scheme {
		case "refused":
			url = "http://" + freeAddress(t)
		case "certificate":
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				t.Error("a push went to a server whose certificate nobody knows")
			}))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			url = s.URL
		default:
			bad[name] = rogues(t, c.serve)
			url = map[string]string{"": "http", "https": "https"}[c.scheme] + "://" + bad[name].Address
		}
		policy := patiently()
		// Only those that wait for it get a short timeout; the machine may be too busy for the others.
		if policy["timeoutSeconds"] = 10; c.slow || c.dribbles {
			policy["timeoutSeconds"] = 1
		}
		broken[name] = h.subscribe(url+"/unlisted-path?key=hidden", fields{"delivery": policy})
	}

	const events = 12
	var list []any
	for i := range events {
		list = append(list, fields{"type": "task.create", "data": fields{"n": i}})
	}
	began := time.Now()
	published := h.admin().do("POST", "/events", list).is(202).list()
	for _, e := range published {
		if d := h.delivery(e["id"].(string), beside, "delivered"); len(attempts(t, d)) != 1 {
			t.Errorf("the healthy receiver took %v", d)
		}
	}
	if took := time.Since(began); took > prompt {
		t.Errorf("the healthy receiver waited %v", took)
	}
	first := published[0]["id"].(string)
	for name, c := range trials {
		t.Run(name, func(t *testing.T) {
			state, outcome := "retrying", "retry"
			if c.delivered {
				state, outcome = "delivered", "delivered"
			}
			x := attempts(t, h.delivery(first, broken[name], state))[0]
			// The machine may be busy; what has no limit would run into the patience of the wait above.
			if ms, _ := x["durationMs"].(float64); ms > 8000 || c.slow && ms < 900 {
				t.Errorf("the attempt took %v ms", ms)
			}
			if status, _ := x["status"].(float64); status != c.status {
				t.Errorf("the status is %v, want %v: %v", x["status"], c.status, x)
			}
			if x["outcome"] != outcome {
				t.Errorf("the outcome is %v: %v", x["outcome"], x)
			}
			text, _ := x["error"].(string)
			if !c.delivered {
				names(t, "the error", text, c.words...)
			}
			if len(text) > 300 {
				t.Errorf("the error has %d bytes", len(text))
			}
			// It is for the receiver's owner, and may be seen by others.
			for _, leak := range []string{
				"hidden", "unlisted-path", "context deadline", "EOF", "dial tcp", "read tcp", "net/http", "tls:", "x509", "malformed", "syscall", "goroutine", "%!",
			} {
				if strings.Contains(fmt.Sprint(x), leak) {
					t.Errorf("the attempt shows %q: %v", leak, x)
				}
			}
			if response, _ := x["response"].(string); len(response) > 4<<10 {
				t.Errorf("%d bytes of the answer were kept", len(response))
			}
			if b := bad[name]; b != nil && b.written.Load() > 64<<20 {
				t.Errorf("%d bytes were taken from the receiver", b.written.Load())
			}
		})
	}
}

// A receiver that hangs holds up its own subscription only, however much waits for it, and what it did
// not take is there when it is well again.
func TestReceiverHangsAndRecovers(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {workers: 4, jitter: 0}")
	stuck, healthy := receive(t), receive(t)
	g := stuck.hold(http.StatusOK)
	policy := promptly(40)
	policy["timeoutSeconds"] = 1
	a := h.subscribe(stuck.URL, fields{"delivery": policy})
	b := h.subscribe(healthy.URL, nil)
	const events = 200
	var list []any
	for i := range events {
		list = append(list, fields{"type": "task.create", "data": fields{"n": i}})
	}
	published := h.admin().do("POST", "/events", list).is(202).list()
	g.taken(t, 1)
	healthy.wait(events)
	if n := len(h.admin().do("GET", "/deliveries?state=delivered&limit=1000&subscription="+a, nil).is(200).list()); n != 0 {
		t.Errorf("%d deliveries to the hanging receiver are delivered", n)
	}
	g.open()
	stuck.status(http.StatusOK)
	for _, id := range []string{a, b} {
		h.eventually("everything is delivered", func() bool {
			return len(h.admin().do("GET", "/deliveries?state=delivered&limit=1000&subscription="+id, nil).is(200).list()) == events
		})
	}
	seen := map[string]bool{}
	for _, p := range stuck.got() {
		seen[p.id()] = true
	}
	for _, e := range published {
		if !seen[e["id"].(string)] {
			t.Errorf("the event %v never reached the receiver that had hung", e["id"])
		}
	}
	var want []string
	for _, e := range published {
		want = append(want, e["id"].(string))
	}
	healthy.only(want...)
}
