package bench

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestWireReadsRequests(t *testing.T) {
	t.Parallel()
	stream := "POST /hook HTTP/1.1\r\nHost: a\r\nCONTENT-length: 5\r\nWebhook-Id:  evt_1 \r\nwebhook-timestamp: 7\r\nwebhook-signature: v1,x\r\n\r\nhello" +
		"PUT /x?y=1 HTTP/1.1\nTransfer-Encoding: Chunked\n\n3;name=value\r\nabc\r\nA \r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n" +
		"GET / HTTP/1.0\r\nConnection: keep-alive, Close\r\nExpect: 100-Continue\r\n\r\n"
	for name, reader := range map[string]io.Reader{
		"whole":        strings.NewReader(stream),
		"split":        iotest.OneByteReader(strings.NewReader(stream)),
		"late ending":  iotest.DataErrReader(strings.NewReader(stream)),
		"split halves": iotest.HalfReader(strings.NewReader(stream)),
	} {
		w := newWire(reader, 13)
		read := func() *message {
			t.Helper()
			m, err := w.readHead()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := w.readBody(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return m
		}
		m := read()
		if string(m.method) != "POST" || string(m.path) != "/hook" || string(m.body) != "hello" || string(m.id) != "evt_1" ||
			string(m.timestamp) != "7" || string(m.signature) != "v1,x" || m.last || m.expect {
			t.Errorf("%s: %+v", name, m)
		}
		m = read()
		if string(m.method) != "PUT" || string(m.path) != "/x?y=1" || string(m.body) != "abc0123456789" || m.id != nil {
			t.Errorf("%s: %+v", name, m)
		}
		m = read()
		if string(m.method) != "GET" || len(m.body) != 0 || !m.last || !m.expect {
			t.Errorf("%s: %+v", name, m)
		}
		if _, err := w.readHead(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: the end is %v", name, err)
		}
	}
}

func TestWireReadsResponses(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]struct {
		status int
		body   string
		last   bool
		retry  string
	}{
		"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}rest":                 {202, "{}", false, ""},
		"HTTP/1.1 204\r\n\r\nrest":                                                 {204, "", false, ""},
		"HTTP/1.1 204 \r\nContent-Length: 3\r\n\r\nrest":                           {204, "", false, ""},
		"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n":           {503, "", false, "7"},
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx":       {200, "x", true, ""},
		"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx":                            {200, "x", true, ""},
		"HTTP/1.1 200 OK\r\n\r\nup to the end":                                     {200, "up to the end", true, ""},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n": {200, "x", false, ""},
	} {
		w := newWire(iotest.HalfReader(strings.NewReader(stream)), 100)
		m, err := w.readHead()
		if err == nil {
			err = w.readBody()
		}
		if err != nil {
			t.Errorf("%q: %v", stream, err)
			continue
		}
		if m.status != want.status || string(m.body) != want.body || m.last != want.last || string(m.retryAfter) != want.retry {
			t.Errorf("%q: %+v", stream, m)
		}
	}
}

func TestWireRefuses(t *testing.T) {
	t.Parallel()
	post := "POST / HTTP/1.1\r\n"
	for name, test := range map[string]struct {
		stream string
		want   error
	}{
		"nothing":                  {"", io.EOF},
		"half a line":              {"POST / HT", io.ErrUnexpectedEOF},
		"half a head":              {post + "Host: a\r\n", io.ErrUnexpectedEOF},
		"half a body":              {post + "Content-Length: 5\r\n\r\nabc", io.ErrUnexpectedEOF},
		"half a chunk":             {post + "Transfer-Encoding: chunked\r\n\r\n5\r\nabc", io.ErrUnexpectedEOF},
		"no last chunk":            {post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", io.ErrUnexpectedEOF},
		"no end of trailers":       {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n", io.ErrUnexpectedEOF},
		"empty first line":         {"\r\n\r\n", errMalformed},
		"garbage":                  {"\x16\x03\x01\x00\xa5\x01\n\n", errMalformed},
		"HTTP/2 preface":           {"PRI * HTTP/2.0\r\n\r\n", errMalformed},
		"no version":               {"GET /\r\n\r\n", errMalformed},
		"blank in the target":      {"GET /a b HTTP/1.1\r\n\r\n", errMalformed},
		"short status":             {"HTTP/1.1 20\r\n\r\n", errMalformed},
		"long status":              {"HTTP/1.1 2000\r\n\r\n", errMalformed},
		"no digits in the status":  {"HTTP/1.1 2x0 OK\r\n\r\n", errMalformed},
		"small status":             {"HTTP/1.1 099 OK\r\n\r\n", errMalformed},
		"no colon":                 {post + "Content-Length 5\r\n\r\n", errMalformed},
		"no name":                  {post + ": 5\r\n\r\n", errMalformed},
		"blank before the colon":   {post + "Content-Length : 5\r\n\r\n", errMalformed},
		"folded":                   {post + "A: b\r\n c\r\n\r\n", errMalformed},
		"negative length":          {post + "Content-Length: -1\r\n\r\n", errMalformed},
		"signed length":            {post + "Content-Length: +1\r\n\r\n", errMalformed},
		"empty length":             {post + "Content-Length:\r\n\r\n", errMalformed},
		"endless length":           {post + "Content-Length: 99999999999999999999\r\n\r\n", errMalformed},
		"two lengths":              {post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", errMalformed},
		"list of lengths":          {post + "Content-Length: 1, 1\r\n\r\n", errMalformed},
		"length and chunks":        {post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", errMalformed},
		"other encoding":           {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", errMalformed},
		"encoded twice":            {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", errMalformed},
		"chunk size of letters":    {post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", errMalformed},
		"empty chunk size":         {post + "Transfer-Encoding: chunked\r\n\r\n\r\n", errMalformed},
		"endless chunk size":       {post + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", errMalformed},
		"no line end after chunk":  {post + "Transfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n", errMalformed},
		"long line":                {post + "A: " + strings.Repeat("a", wireBuffer) + "\r\n\r\n", errTooLarge},
		"long head":                {post + strings.Repeat("A: "+strings.Repeat("a", 100)+"\r\n", maxHead/100) + "\r\n", errTooLarge},
		"long trailers":            {post + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: "+strings.Repeat("a", 100)+"\r\n", maxHead/100) + "\r\n", errTooLarge},
		"long body":                {post + "Content-Length: 101\r\n\r\n" + strings.Repeat("a", 101), errTooLarge},
		"long body in chunks":      {post + "Transfer-Encoding: chunked\r\n\r\n60\r\n" + strings.Repeat("a", 96) + "\r\n5\r\naaaaa\r\n0\r\n\r\n", errTooLarge},
		"one huge chunk":           {post + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n", errTooLarge},
		"long body without length": {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("a", 101), errTooLarge},
	} {
		for split, reader := range map[string]io.Reader{
			"whole": strings.NewReader(test.stream),
			"split": iotest.OneByteReader(strings.NewReader(test.stream)),
		} {
			w := newWire(reader, 100)
			_, err := w.readHead()
			if err == nil {
				err = w.readBody()
			}
			if !errors.Is(err, test.want) {
				t.Errorf("%s, %s: %v, want %v", name, split, err, test.want)
			}
			if cap(w.head) > 2*(maxHead+wireBuffer) || cap(w.body) > 200+wireBuffer {
				t.Errorf("%s, %s: grew to %d and %d bytes", name, split, cap(w.head), cap(w.body))
			}
		}
	}
}

func TestWirePassesReadErrorsOn(t *testing.T) {
	t.Parallel()
	w := newWire(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("GET / HTTP/1.1\r\n\r\n"))), 10)
	if _, err := w.readHead(); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("error %v", err)
	}
}

func TestWireDoesNotAllocatePerMessage(t *testing.T) {
	one := []byte("POST /hook HTTP/1.1\r\nContent-Length: 5\r\nwebhook-id: evt_1\r\n\r\nhello")
	r := bytes.NewReader(nil)
	w := newWire(r, 100)
	n := testing.AllocsPerRun(1000, func() {
		r.Reset(one)
		if _, err := w.readHead(); err != nil {
			t.Fatal(err)
		}
		if err := w.readBody(); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzWire(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 1000
		read := func(r io.Reader) (bodies []string, err error) {
			w := newWire(r, limit)
			for {
				m, err := w.readHead()
				if err == nil {
					err = w.readBody()
				}
				if err != nil {
					return bodies, err
				}
				if len(m.body) > limit {
					t.Fatalf("body of %d bytes", len(m.body))
				}
				if (m.status == 0) == (len(m.method) == 0) {
					t.Fatalf("neither request nor response: %+v", m)
				}
				bodies = append(bodies, string(m.body))
			}
		}
		whole, err1 := read(bytes.NewReader(stream))
		split, err2 := read(iotest.OneByteReader(bytes.NewReader(stream)))
		if strings.Join(whole, "|") != strings.Join(split, "|") || err1.Error() != err2.Error() {
			t.Fatalf("whole: %q, %v; split: %q, %v", whole, err1, split, err2)
		}
	})
}
