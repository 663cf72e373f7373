package bench

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// scripted listens on loopback and gives each connection to the next of the handlers; it ends with the test.
func scripted(t *testing.T, handlers ...func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, h := range handlers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// answer reads a request for each of the texts and answers it with that.
func answer(t *testing.T, texts ...string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for _, text := range texts {
			req, err := http.ReadRequest(r)
			if err != nil {
				t.Errorf("request: %v", err)
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			for part := range strings.SplitSeq(text, "|") {
				_, _ = io.WriteString(c, part)
			}
		}
	}
}

var plainRequest = []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")

func TestConnection(t *testing.T) {
	t.Parallel()
	addr := scripted(t,
		answer(t,
			"HTTP/1.1 202 Accepted\r\nCont|ent-Length: 3\r\n\r\no|ne",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
			"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 5\r\n\r\nthree"),
		answer(t, "HTTP/1.1 202 Accepted\r\n\r\nfour"),
		answer(t, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"))
	c := &connection{addr: addr}
	defer c.close()
	for _, want := range []string{"one", "two", "three", "four", ""} {
		m, err := c.do(t.Context(), plainRequest)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if string(m.body) != want || (m.status != 202) != (want == "") {
			t.Errorf("%d %s, want %s", m.status, m.body, want)
		}
	}
}

func TestConnectionFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"no answer":       {"", io.EOF},
		"half an answer":  {"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\nhalf", io.ErrUnexpectedEOF},
		"garbage":         {"SSH-2.0-OpenSSH\r\n\r\n", errMalformed},
		"a request":       {"GET / HTTP/1.1\r\n\r\n", errMalformed},
		"a huge answer":   {"HTTP/1.1 202 Accepted\r\nContent-Length: 99999999999\r\n\r\n", errTooLarge},
		"endless headers": {"HTTP/1.1 202 Accepted\r\n" + strings.Repeat("A: b\r\n", maxHead/6+1), errTooLarge},
		"endless interim": {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 10), nil},
	} {
		c := &connection{addr: scripted(t, answer(t, test.text))}
		_, err := c.do(t.Context(), plainRequest)
		if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if c.conn != nil {
			t.Errorf("%s: the connection is still open", name)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := (&connection{addr: l.Addr().String()}).do(t.Context(), plainRequest); err == nil {
		t.Error("no error although nobody listens")
	}
}

func TestConnectionEndsWithItsContext(t *testing.T) {
	t.Parallel()
	addr := scripted(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	defer time.AfterFunc(20*time.Millisecond, func() { cancel(stop) }).Stop()
	c := &connection{addr: addr}
	if _, err := c.do(ctx, plainRequest); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}

func TestConnectionGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		c := &connection{conn: near, wire: newWire(near, 10), used: time.Now(), release: func() bool { return true }}
		begin := time.Now()
		_, err := c.do(t.Context(), plainRequest)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("error %v", err)
		}
		if d := time.Since(begin); d < answerTimeout || d > 2*answerTimeout {
			t.Errorf("gave up after %v", d)
		}
		_ = far.Close()
	})
}

func TestConnectionIsNotReusedAfterARest(t *testing.T) {
	t.Parallel()
	ok := "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
	c := &connection{addr: scripted(t, answer(t, ok), answer(t, ok))}
	defer c.close()
	for range 2 {
		if _, err := c.do(t.Context(), plainRequest); err != nil {
			t.Fatal(err)
		}
		c.used = c.used.Add(-idleReuse)
	}
}
