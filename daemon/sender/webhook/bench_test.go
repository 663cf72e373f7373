//go:build unix

package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"herald/queue"
	"herald/store"
)

// discard answers every request with 204 as cheaply as it can: what is measured is the sender.
func discard(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	answer := []byte("HTTP/1.1 204 No Content\r\n\r\n")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				have := 0
				for {
					n, err := c.Read(buf[have:])
					if err != nil {
						return
					}
					have += n
					// Every request of a benchmark ends with the data's last brace.
					if bytes.HasSuffix(buf[:have], []byte("}")) {
						have = 0
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// reportCPU reports the processor time of the whole process, which other loads on the machine blur less
// than the time of the clock.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op") }
}

func kilobyte() *queue.Event {
	e := event()
	e.Data = append(append([]byte(`{"x":"`), bytes.Repeat([]byte("x"), 1015)...), `"}`...)
	return e
}

// BenchmarkSend is a whole attempt over loopback; the receiver's share is in it.
func BenchmarkSend(b *testing.B) {
	sub := subscription("http://" + discard(b) + "/hook")
	s := newSender(b, transport(b))
	e := kilobyte()
	b.ReportAllocs()
	defer reportCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		p := queue.Push{ID: e.ID, Events: []*queue.Event{e}, Attempt: 1}
		for pb.Next() {
			if out := s.Send(b.Context(), sub, p); out.Class != queue.ClassDelivered {
				b.Errorf("outcome %+v", out)
				return
			}
		}
	})
}

// BenchmarkBare is what net/http alone takes for the same bytes over the same way.
func BenchmarkBare(b *testing.B) {
	url := "http://" + discard(b) + "/hook"
	tr := transport(b)
	body := record(subscription(url), &queue.Push{Events: []*queue.Event{kilobyte()}})
	b.ReportAllocs()
	defer reportCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			resp.Body.Close()
		}
	})
}

func answerAtOnce(_ int, r *http.Request) (*http.Response, error) {
	r.Body.Close()
	return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

type atOnce struct{}

func (atOnce) RoundTrip(r *http.Request) (*http.Response, error) { return answerAtOnce(0, r) }

// BenchmarkSendAlone is the sender without a network.
func BenchmarkSendAlone(b *testing.B) {
	s := newSender(b, atOnce{})
	sub := subscription("http://example.com/hook")
	e := kilobyte()
	p := queue.Push{ID: e.ID, Events: []*queue.Event{e}, Attempt: 1}
	b.ReportAllocs()
	for b.Loop() {
		s.Send(b.Context(), sub, p)
	}
}

// BenchmarkClients compares what the layers above a transport take.
func BenchmarkClients(b *testing.B) {
	body := []byte("{}")
	b.Run("transport", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://example.com", bytes.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			resp, err := atOnce{}.RoundTrip(req)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
		}
	})
	b.Run("retryablehttp", func(b *testing.B) {
		c := retryablehttp.NewClient()
		c.Logger = nil
		c.HTTPClient = &http.Client{Transport: tripper{atOnce{}}}
		b.ReportAllocs()
		for b.Loop() {
			req, err := retryablehttp.NewRequestWithContext(b.Context(), http.MethodPost, "http://example.com", body)
			if err != nil {
				b.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
		}
	})
}

func BenchmarkSignature(b *testing.B) {
	secrets := []store.SigningSecret{{Key: keyA}}
	body := kilobyte().Data
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		signatures(secrets, now, "evt_1", "1700000000", body)
	}
}

func BenchmarkHash(b *testing.B) {
	mac := hmac.New(sha256.New, keyA)
	body := kilobyte().Data
	b.ReportAllocs()
	for b.Loop() {
		mac.Reset()
		mac.Write(body)
		mac.Sum(nil)
	}
}

func BenchmarkEnvelope(b *testing.B) {
	e := kilobyte()
	p := &queue.Push{Events: []*queue.Event{e}}
	sub := subscription("http://x")
	b.ReportAllocs()
	for b.Loop() {
		io.Discard.Write(record(sub, p))
	}
}
