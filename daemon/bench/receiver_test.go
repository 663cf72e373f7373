package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// opened returns receivers that end with the test.
func opened(t *testing.T, counts [3]int, latency time.Duration) *receivers {
	t.Helper()
	rs, err := openReceivers(t.Context(), counts, receiverShape{latency: latency, data: buildData(200)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rs.close)
	return rs
}

// pushOf returns a push of an event as the daemon makes it.
func pushOf(t *testing.T, url string, seq int64) *http.Request {
	t.Helper()
	data := buildData(200)
	putSequence(data[1+len(sequenceName):], seq)
	id := fmt.Sprint("evt_", seq)
	body := fmt.Sprintf(`{"id":%q,"type":%q,"data":%s}`, id, eventType, data)
	key, err := standardwebhooks.NewWebhook(standInKey)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(id, time.Now(), []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", fmt.Sprint(time.Now().Unix()))
	req.Header.Set("webhook-signature", signature)
	return req
}

func send(t *testing.T, req *http.Request) int {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestReceiverNotesPushes(t *testing.T) {
	t.Parallel()
	rs := opened(t, [3]int{healthy: 2}, 0)
	book := newLedger(0, 2, time.Now())
	rs.keep(book)
	for _, r := range rs.all {
		if err := r.secret(standInKey); err != nil {
			t.Fatal(err)
		}
	}
	for seq := range int64(3) {
		if err := book.begin(seq, book.now()); err != nil {
			t.Fatal(err)
		}
		for _, r := range rs.all {
			req := pushOf(t, r.url(), seq)
			if seq == 1 {
				// Without a length net/http sends the body in chunks.
				req.ContentLength, req.GetBody = -1, nil
				req.Body = io.NopCloser(req.Body)
			}
			if code := send(t, req); code != 200 {
				t.Errorf("answer %d", code)
			}
		}
		book.ack(seq, fmt.Append(nil, "evt_", seq))
	}
	want := audit{Sent: 3, Acked: 3}
	if got := book.audit(3); got != want {
		t.Errorf("audit %+v", got)
	}
	for _, r := range rs.all {
		if r.pushes.Load() != 3 || r.verified.Load() != 1 || r.forged.Load()+r.corrupted.Load()+r.alien.Load()+r.broken.Load() != 0 {
			t.Errorf("receiver %+v", r)
		}
	}
}

func TestReceiverNoticesWrongPushes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(*http.Request)
		counter func(*receiver) *atomic.Int64
		noted   bool
	}{
		"signature":    {func(q *http.Request) { q.Header.Set("webhook-signature", "v1,AAAA") }, func(r *receiver) *atomic.Int64 { return &r.forged }, true},
		"no signature": {func(q *http.Request) { q.Header.Del("webhook-signature") }, func(r *receiver) *atomic.Int64 { return &r.forged }, true},
		"old": {
			func(q *http.Request) { q.Header.Set("webhook-timestamp", "1000000000") },
			func(r *receiver) *atomic.Int64 { return &r.forged }, true,
		},
		"id":      {func(q *http.Request) { q.Header.Set("webhook-id", "evt_7") }, func(r *receiver) *atomic.Int64 { return &r.alien }, false},
		"no id":   {func(q *http.Request) { q.Header.Del("webhook-id") }, func(r *receiver) *atomic.Int64 { return &r.alien }, false},
		"no body": {func(q *http.Request) { q.Body, q.ContentLength = http.NoBody, 0 }, func(r *receiver) *atomic.Int64 { return &r.alien }, false},
		"payload": {func(q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			b = bytes.Replace(b, []byte(`"member00":`), []byte(`"member00": `), 1)
			q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		}, func(r *receiver) *atomic.Int64 { return &r.corrupted }, true},
	} {
		rs := opened(t, [3]int{healthy: 1}, 0)
		r, book := rs.all[0], newLedger(0, 1, time.Now())
		rs.keep(book)
		if err := errors.Join(r.secret(standInKey), book.begin(0, 1)); err != nil {
			t.Fatal(err)
		}
		req := pushOf(t, r.url(), 0)
		test.change(req)
		send(t, req)
		if test.counter(r).Load() != 1 || (book.delivered.Load() == 1) != test.noted {
			t.Errorf("%s: not noticed, or noted as arrived: %d", name, book.delivered.Load())
		}
	}
}

// unanswered pushes to a receiver that hangs, and gives up when the push has arrived and no answer has come for a moment.
func unanswered(t *testing.T, client *http.Client, r *receiver) {
	t.Helper()
	before := r.pushes.Load()
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		resp, err := client.Do(pushOf(t, r.url(), 1).WithContext(ctx))
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	for r.pushes.Load() == before {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-answered:
		t.Errorf("hanging: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
}

func TestReceiverBehaviours(t *testing.T) {
	t.Parallel()
	rs := opened(t, [3]int{healthy: 1, failing: 1, hanging: 1}, 30*time.Millisecond)
	begin := time.Now()
	if code := send(t, pushOf(t, rs.all[0].url(), 1)); code != 200 || time.Since(begin) < 30*time.Millisecond {
		t.Errorf("healthy: %d after %v", code, time.Since(begin))
	}
	if code := send(t, pushOf(t, rs.all[1].url(), 1)); code != 500 {
		t.Errorf("failing: %d", code)
	}
	unanswered(t, http.DefaultClient, rs.all[2])
	for kind := range behaviour(3) {
		if n := rs.sum(kind, func(r *receiver) *atomic.Int64 { return &r.pushes }); n != 1 {
			t.Errorf("%d pushes at the receivers of kind %d", n, kind)
		}
	}
}

func TestReceiverRefusesGarbage(t *testing.T) {
	t.Parallel()
	for name, stream := range map[string]string{
		"garbage":      "\x16\x03\x01\r\n\r\n",
		"response":     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"huge header":  "POST / HTTP/1.1\r\nA: " + strings.Repeat("a", 2*maxHead) + "\r\n\r\n",
		"many headers": "POST / HTTP/1.1\r\n" + strings.Repeat("A: aaaa\r\n", maxHead/8),
		"huge body":    "POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
	} {
		rs := opened(t, [3]int{healthy: 1}, 0)
		c, err := net.Dial("tcp", rs.all[0].listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, stream) }()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		// A reset instead of the answer is possible when unread bytes are left behind.
		if err == nil && (resp.StatusCode != 400 || !resp.Close) {
			t.Errorf("%s: %v", name, resp)
		}
		_ = c.Close()
		rs.close()
		if rs.all[0].broken.Load() != 1 || rs.all[0].pushes.Load() != 0 {
			t.Errorf("%s: not counted", name)
		}
	}
}

func TestReceiverContinues(t *testing.T) {
	t.Parallel()
	rs := opened(t, [3]int{healthy: 1}, 0)
	c, err := net.Dial("tcp", rs.all[0].listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(c, "hi")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
}

func TestReceiversClose(t *testing.T) {
	t.Parallel()
	rs := opened(t, [3]int{healthy: 1, hanging: 1}, time.Hour)
	for _, r := range rs.all {
		c, err := net.Dial("tcp", r.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for r.pushes.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	rs.close() // waits for both, although one answers in an hour and the other never
	rs.close()
}

func TestReceiverSecret(t *testing.T) {
	t.Parallel()
	if err := (&receiver{}).secret("whsec_!"); err == nil {
		t.Error("a secret that is no base64 is taken")
	}
}
