package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// batchOf returns the body of a push of the events from first on, as the daemon makes it.
func batchOf(first int64, count, size int) []byte {
	b := fmt.Appendf(nil, `{"numberOfRecords":%d,"records":[`, count)
	data := buildData(size)
	for i := range count {
		if i > 0 {
			b = append(b, ',')
		}
		seq := first + int64(i)
		putSequence(data[1+len(sequenceName):], seq)
		b = fmt.Appendf(b, `{"id":"evt_%d","type":%q,"resource":null,"time":"2026-01-01T00:00:00Z","accountId":"default","data":%s}`, seq, eventType, data)
	}
	return append(b, ']', '}')
}

// read collects the records of a body as texts.
func read(body []byte, size int) (announced int64, list []string, ok bool) {
	announced, found, ok := eachRecord(body, size, func(r record) {
		list = append(list, string(r.id)+"="+strconv.FormatInt(r.seq, 10))
	})
	return announced, list, ok && found == len(list)
}

func TestEachRecord(t *testing.T) {
	t.Parallel()
	const size = 200
	good := string(batchOf(7, 3, size))
	data := string(buildData(size))
	all := []string{"evt_7=7", "evt_8=8", "evt_9=9"}
	for name, test := range map[string]struct {
		body      string
		announced int64
		want      []string
		ok        bool
	}{
		"as made":       {good, 3, all, true},
		"blanks":        {strings.NewReplacer(`"id":`, ` "id" : `, `"records":[`, "\r\n\t\"records\" : [ ").Replace(good) + "\n", 3, all, true},
		"other order":   {`{"records":[{"data":` + data + `,"id":"a"}],"numberOfRecords":1}`, 1, []string{"a=0"}, true},
		"one":           {string(batchOf(1, 1, size)), 1, []string{"evt_1=1"}, true},
		"none":          {`{"numberOfRecords":0,"records":[]}`, 0, nil, true},
		"not announced": {`{"records":[{"id":"a","data":` + data + `}]}`, -1, []string{"a=0"}, true},
		"wrong number":  {strings.Replace(good, `:3,`, `:4,`, 1), 4, all, true},

		"empty":         {"", -1, nil, false},
		"bare record":   {`{"id":"a","data":` + data + `}`, -1, nil, false},
		"cut":           {good[:len(good)-1], 3, all, false},
		"cut in a data": {good[:len(good)-50], 3, all[:2], false},
		"more behind":   {good + "x", 3, all, false},
		"no id":         {strings.Replace(good, `"id":"evt_8",`, ``, 1), 3, all[:1], false},
		"empty id":      {strings.Replace(good, `evt_8"`, `"`, 1), 3, all[:1], false},
		"escaped id":    {strings.Replace(good, `evt_8"`, `evt\u005f8"`, 1), 3, all[:1], false},
		"other data":    {strings.Replace(good, `{"benchSequence":"000000000008`, `{"benchSequense":"000000000008`, 1), 3, all[:1], false},
		"bad sequence":  {strings.Replace(good, `"000000000008`, `"00000000000x`, 1), 3, all[:1], false},
		"longer data":   {strings.Replace(good, `"000000000008"`, `"000000000008" `, 1), 3, all[:1], false},
		"no comma":      {strings.Replace(good, `}},{`, `}}{`, 1), 3, all[:1], false},
		"nested":        {strings.Replace(good, `"resource":null`, `"resource":{}`, 1), 3, nil, false},
		"word":          {strings.Replace(good, `:3,`, `:three,`, 1), -1, nil, false},
		"negative":      {strings.Replace(good, `:3,`, `:-3,`, 1), -1, nil, false},
		"an array":      {`[` + good + `]`, -1, nil, false},
	} {
		announced, list, ok := read([]byte(test.body), size)
		if ok != test.ok || !slices.Equal(list, test.want) || (announced != test.announced && test.ok) {
			t.Errorf("%s: announced %d, %v, %v", name, announced, list, ok)
		}
	}
}

func TestEachRecordAllocatesNothing(t *testing.T) {
	body := batchOf(0, 100, 1024)
	var sum int64
	if n := testing.AllocsPerRun(20, func() {
		_, _, _ = eachRecord(body, 1024, func(r record) { sum += r.seq + int64(len(r.id)) })
	}); n > 0 {
		t.Errorf("%v allocations for 100 records", n)
	}
}

func FuzzEachRecord(f *testing.F) {
	f.Add(batchOf(0, 2, minSize))
	f.Add([]byte(`{"records":[{"id":"a","data":{}}],"numberOfRecords":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		_, found, ok := eachRecord(body, minSize, func(r record) {
			if len(r.id) == 0 || len(r.data) != minSize || r.seq < 0 {
				t.Errorf("record %+v", r)
			}
		})
		if ok && found > len(body)/minSize {
			t.Errorf("%d records in %d bytes", found, len(body))
		}
		if !bytes.Equal(body, before) {
			t.Error("the body was changed")
		}
	})
}

func TestReceiverTakesBatches(t *testing.T) {
	t.Parallel()
	const size = 200
	for name, test := range map[string]struct {
		change  func(*http.Request, []byte) []byte
		counter func(*receiver) *atomic.Int64
		arrived int64
	}{
		"well":   {func(_ *http.Request, b []byte) []byte { return b }, func(r *receiver) *atomic.Int64 { return &r.verified }, 3},
		"forged": {func(q *http.Request, b []byte) []byte { q.Header.Set("webhook-signature", "v1,AAAA"); return b }, func(r *receiver) *atomic.Int64 { return &r.forged }, 3},
		"no id":  {func(q *http.Request, b []byte) []byte { q.Header.Del("webhook-id"); return b }, func(r *receiver) *atomic.Int64 { return &r.alien }, 0},
		"payload": {func(_ *http.Request, b []byte) []byte {
			return bytes.Replace(b, []byte("member01"), []byte("nember01"), 1)
		}, func(r *receiver) *atomic.Int64 { return &r.corrupted }, 3},
		"number":    {func(_ *http.Request, b []byte) []byte { return bytes.Replace(b, []byte(":3,"), []byte(":2,"), 1) }, func(r *receiver) *atomic.Int64 { return &r.miscounted }, 3},
		"too many":  {func(*http.Request, []byte) []byte { return batchOf(0, 4, size) }, func(r *receiver) *atomic.Int64 { return &r.miscounted }, 3},
		"none":      {func(*http.Request, []byte) []byte { return []byte(`{"numberOfRecords":0,"records":[]}`) }, func(r *receiver) *atomic.Int64 { return &r.miscounted }, 0},
		"bare":      {func(*http.Request, []byte) []byte { return []byte(`{"id":"evt_0"}`) }, func(r *receiver) *atomic.Int64 { return &r.alien }, 0},
		"truncated": {func(_ *http.Request, b []byte) []byte { return b[:len(b)-1] }, func(r *receiver) *atomic.Int64 { return &r.alien }, 3},
	} {
		rs, err := openReceivers(t.Context(), [3]int{healthy: 1}, receiverShape{records: 3, data: buildData(size)})
		if err != nil {
			t.Fatal(err)
		}
		r, book := rs.all[0], newLedger(0, 1, time.Now())
		rs.keep(book)
		if err := r.secret(standInKey); err != nil {
			t.Fatal(err)
		}
		for seq := range int64(3) {
			if err := book.begin(seq, 1); err != nil {
				t.Fatal(err)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		now, body := time.Now(), batchOf(0, 3, size)
		req.Header.Set("webhook-id", "push_1")
		req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
		body = test.change(req, body)
		if req.Header.Get("webhook-signature") == "" {
			key, err := standardwebhooks.NewWebhook(standInKey)
			if err != nil {
				t.Fatal(err)
			}
			signature, err := key.Sign("push_1", now, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("webhook-signature", signature)
		}
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		if code := send(t, req); code != 200 {
			t.Errorf("%s: answer %d", name, code)
		}
		rs.close()
		if test.counter(r).Load() != 1 || book.delivered.Load() != test.arrived {
			t.Errorf("%s: not noticed, or %d arrived", name, book.delivered.Load())
		}
		wrong := r.forged.Load() + r.alien.Load() + r.corrupted.Load() + r.miscounted.Load() + r.broken.Load()
		if want := int64(1); (name == "well" && wrong != 0) || (name != "well" && wrong != want) {
			t.Errorf("%s: %d things are wrong", name, wrong)
		}
	}
}

// BenchmarkReceiver is what a push of a hundred records costs the receiver, without its connection.
func BenchmarkReceiver(b *testing.B) {
	const records, size = 100, 1024
	body := batchOf(0, records, size)
	r := newReceiver(nil, healthy, 0, receiverShape{records: records, data: buildData(size)})
	book := newLedger(0, 1, time.Now())
	for seq := range int64(records) {
		if err := book.begin(seq, 1); err != nil {
			b.Fatal(err)
		}
	}
	r.book.Store(book)
	m := &message{id: []byte("push_1"), body: body}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r.take(m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/record")
}
