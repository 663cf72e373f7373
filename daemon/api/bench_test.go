package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"herald/queue"
)

// quickQueue accepts everything at once, so that a benchmark measures the API alone.
type quickQueue struct{ *memQueue }

func (quickQueue) Accept(_ context.Context, subs []queue.Submission) ([]queue.Receipt, error) {
	receipts := make([]queue.Receipt, len(subs))
	for i := range receipts {
		receipts[i].ID = "evt_0123456789abcdefghijklmnop"
	}
	return receipts, nil
}

// nullWriter is a response that costs nothing.
type nullWriter struct {
	header http.Header
	status int
}

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *nullWriter) WriteHeader(status int)      { w.status = status }

type reader struct{ bytes.Reader }

func (*reader) Close() error { return nil }

func benchmarkPublish(b *testing.B, body string, header ...string) {
	bed := newBed(b)
	bed.api.queue = quickQueue{bed.queue}
	wantJSON[jsonObject](b, bed.request(http.MethodPost, "/subscriptions", "both", `{"dataCallbackURL":"https://r.example/x","events":["task.*"]}`), 200)
	u, err := url.Parse("/events")
	if err != nil {
		b.Fatal(err)
	}
	r := &http.Request{
		Method: http.MethodPost, URL: u, RequestURI: "/events", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Authorization": {"Bearer pub"}, "Content-Type": {"application/json"},
		},
		ContentLength: int64(len(body)),
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := &nullWriter{header: http.Header{}}
	var rd reader
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		rd.Reset([]byte(body))
		r.Body = &rd
		bed.h.ServeHTTP(w, r)
		if w.status != http.StatusAccepted {
			b.Fatal(w.status)
		}
	}
}

var _ io.ReadCloser = (*reader)(nil)

func eventOf(size int) string {
	return `{"type":"task.create","resource":"project/proj1","data":{"title":"a task","list":[1,2,3],"text":"` + strings.Repeat("x", size) + `"}}`
}

// eventWithMembers has a payload of many small members, the harder case for a decoder.
func eventWithMembers() string {
	var b strings.Builder
	b.WriteString(`{"type":"task.create","data":{`)
	for i := range 40 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"member` + string(rune('A'+i%26)) + string(rune('a'+i/26)) + `":"value ` + string(rune('0'+i%10)) + `"`)
	}
	b.WriteString(`}}`)
	return b.String()
}

func BenchmarkPublishOne(b *testing.B)     { benchmarkPublish(b, eventOf(900)) }
func BenchmarkPublishMembers(b *testing.B) { benchmarkPublish(b, eventWithMembers()) }
func BenchmarkPublishWithKey(b *testing.B) {
	benchmarkPublish(b, eventOf(900), "Idempotency-Key", "order-17")
}

func BenchmarkPublishHundred(b *testing.B) {
	benchmarkPublish(b, "["+strings.Repeat(eventOf(900)+",", 99)+eventOf(900)+"]")
}
