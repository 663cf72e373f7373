package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Limits of one HTTP message; a peer that exceeds them is cut off, so that a lying or broken one cannot
// make the benchmark grow.
const (
	wireBuffer = 8 << 10  // also the longest line
	maxHead    = 32 << 10 // start line, header fields and trailers together
)

var (
	errMalformed = errors.New("malformed message")
	errTooLarge  = errors.New("message too large")
)

// message is one HTTP/1.1 request or response. All its bytes belong to the wire it was read from and
// are overwritten by the next read. Only the fields that the benchmark acts upon are kept.
type message struct {
	method, path []byte // of a request
	status       int    // of a response, 0 for a request

	id, timestamp, signature []byte // the three headers of Standard Webhooks
	retryAfter               []byte
	replayed                 bool  // Herald-Replay: true
	length                   int64 // Content-Length, or -1 without one
	chunked                  bool
	last                     bool // the connection is not used again after this message
	expect                   bool // Expect: 100-continue

	body []byte
}

// wire reads HTTP/1.1 messages (RFC 9112) from one connection. Its memory is bounded by the buffer, the
// head and the body limit, and reused. It is not safe for concurrent use.
type wire struct {
	r       *bufio.Reader
	head    []byte
	body    []byte
	maxBody int
	msg     message
}

func newWire(r io.Reader, maxBody int) *wire {
	return &wire{r: bufio.NewReaderSize(r, wireBuffer), maxBody: maxBody}
}

// readHead reads a start line and its header fields. An end of the stream before the first byte is
// io.EOF, later it is io.ErrUnexpectedEOF.
func (w *wire) readHead() (*message, error) {
	w.head = w.head[:0]
	for {
		n := len(w.head)
		if err := w.line(); err != nil {
			if errors.Is(err, io.EOF) && len(w.head) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(bytes.TrimRight(w.head[n:], "\r\n")) == 0 {
			break
		}
	}
	if err := parseHead(w.head, &w.msg); err != nil {
		return nil, err
	}
	return &w.msg, nil
}

// line appends one line with its line feed to the head.
func (w *wire) line() error {
	l, err := w.r.ReadSlice('\n')
	w.head = append(w.head, l...)
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("%w: line of more than %d bytes", errTooLarge, wireBuffer)
	case err != nil:
		return err
	case len(w.head) > maxHead:
		return fmt.Errorf("%w: head of more than %d bytes", errTooLarge, maxHead)
	}
	return nil
}

// readBody reads the body that the head announced into the message.
func (w *wire) readBody() error {
	m := &w.msg
	w.body = w.body[:0]
	var err error
	switch {
	case m.status == 204 || m.status == 304:
	case m.chunked:
		err = w.chunks()
	case m.length >= 0:
		err = w.take(m.length)
	case m.status != 0:
		// A response without a length ends with its connection (RFC 9112 section 6.3).
		m.last = true
		err = w.rest()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	m.body = w.body
	return err
}

// take appends n bytes to the body.
func (w *wire) take(n int64) error {
	if n > int64(w.maxBody-len(w.body)) {
		return fmt.Errorf("%w: body of more than %d bytes", errTooLarge, w.maxBody)
	}
	at := len(w.body)
	if need := at + int(n); need > cap(w.body) {
		w.body = append(make([]byte, 0, need), w.body...)
	}
	w.body = w.body[:at+int(n)]
	_, err := io.ReadFull(w.r, w.body[at:])
	return err
}

// rest appends everything up to the end of the stream to the body.
func (w *wire) rest() error {
	for {
		if len(w.body) > w.maxBody {
			return fmt.Errorf("%w: body of more than %d bytes", errTooLarge, w.maxBody)
		}
		if _, err := w.r.Peek(1); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		b, _ := w.r.Peek(w.r.Buffered())
		w.body = append(w.body, b...)
		if _, err := w.r.Discard(len(b)); err != nil {
			return err
		}
	}
}

// chunks appends the content of a chunked body (RFC 9112 section 7.1) and reads its trailers away.
func (w *wire) chunks() error {
	for {
		at := len(w.head)
		if err := w.line(); err != nil {
			return err
		}
		n, err := parseChunkSize(w.head[at:])
		// The sizes share the head's buffer, but not its limit: a long body has many of them.
		w.head = w.head[:at]
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := w.take(n); err != nil {
			return err
		}
		var end [2]byte
		if _, err := io.ReadFull(w.r, end[:]); err != nil {
			return err
		}
		if end != [2]byte{'\r', '\n'} {
			return fmt.Errorf("%w: no line end after a chunk", errMalformed)
		}
	}
	for {
		at := len(w.head)
		if err := w.line(); err != nil {
			return err
		}
		if len(bytes.TrimRight(w.head[at:], "\r\n")) == 0 {
			return nil
		}
	}
}

// parseChunkSize reads the size of a chunk and ignores its extensions.
func parseChunkSize(line []byte) (int64, error) {
	line = bytes.TrimRight(line, "\r\n")
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		line = line[:i]
	}
	line = bytes.TrimRight(line, " \t")
	if len(line) == 0 || len(line) > 8 {
		return 0, fmt.Errorf("%w: chunk size", errMalformed)
	}
	var n int64
	for _, c := range line {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | int64(c|0x20-'a'+10)
		default:
			return 0, fmt.Errorf("%w: chunk size", errMalformed)
		}
	}
	return n, nil
}

// parseHead parses a head that ends with an empty line. The message refers to its bytes.
func parseHead(head []byte, m *message) error {
	*m = message{length: -1}
	first, rest, _ := bytes.Cut(head, []byte("\n"))
	if err := parseStart(bytes.TrimSuffix(first, []byte("\r")), m); err != nil {
		return err
	}
	for {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		rest = after
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 || !found {
			break
		}
		i := bytes.IndexByte(line, ':')
		// A blank before the colon, or at the start (the obsolete folding), is how messages are smuggled:
		// RFC 9112 sections 5.1 and 5.2 have them refused.
		if i <= 0 || line[0] == ' ' || line[0] == '\t' || line[i-1] == ' ' || line[i-1] == '\t' {
			return fmt.Errorf("%w: header field", errMalformed)
		}
		if err := m.field(line[:i], bytes.Trim(line[i+1:], " \t")); err != nil {
			return err
		}
	}
	if m.chunked && m.length >= 0 {
		return fmt.Errorf("%w: both a length and a transfer encoding", errMalformed)
	}
	return nil
}

// parseStart parses a request line or a status line.
func parseStart(line []byte, m *message) error {
	if version, after, ok := bytes.Cut(line, []byte(" ")); ok && bytes.HasPrefix(version, []byte("HTTP/")) {
		if !knownVersion(version, m) || len(after) < 3 || (len(after) > 3 && after[3] != ' ') {
			return fmt.Errorf("%w: status line", errMalformed)
		}
		for _, c := range after[:3] {
			if c < '0' || c > '9' {
				return fmt.Errorf("%w: status line", errMalformed)
			}
			m.status = m.status*10 + int(c-'0')
		}
		if m.status < 100 {
			return fmt.Errorf("%w: status line", errMalformed)
		}
		return nil
	}
	method, after, ok := bytes.Cut(line, []byte(" "))
	path, version, more := bytes.Cut(after, []byte(" "))
	if !ok || !more || len(method) == 0 || len(path) == 0 || !knownVersion(version, m) {
		return fmt.Errorf("%w: request line", errMalformed)
	}
	m.method, m.path = method, path
	return nil
}

// knownVersion tells whether it is a version of HTTP/1; 1.0 does not keep the connection.
func knownVersion(v []byte, m *message) bool {
	m.last = string(v) == "HTTP/1.0"
	return m.last || string(v) == "HTTP/1.1"
}

// field takes one header field into the message, if it is one of those that matter.
func (m *message) field(name, value []byte) error {
	switch {
	case isName(name, "content-length"):
		n, err := parseLength(value)
		if err != nil {
			return err
		}
		if m.length >= 0 && m.length != n {
			return fmt.Errorf("%w: two content lengths", errMalformed)
		}
		m.length = n
	case isName(name, "transfer-encoding"):
		if !bytes.EqualFold(value, []byte("chunked")) || m.chunked {
			return fmt.Errorf("%w: transfer encoding", errMalformed)
		}
		m.chunked = true
	case isName(name, "connection"):
		for token := range bytes.SplitSeq(value, []byte(",")) {
			if bytes.EqualFold(bytes.Trim(token, " \t"), []byte("close")) {
				m.last = true
			}
		}
	case isName(name, "expect"):
		m.expect = bytes.EqualFold(value, []byte("100-continue"))
	case isName(name, "webhook-id"):
		m.id = value
	case isName(name, "webhook-timestamp"):
		m.timestamp = value
	case isName(name, "webhook-signature"):
		m.signature = value
	case isName(name, "herald-replay"):
		m.replayed = string(value) == "true"
	case isName(name, "retry-after"):
		m.retryAfter = value
	}
	return nil
}

// isName compares a field name with a lower-case one; the length decides most cases at no cost.
func isName(name []byte, lower string) bool {
	return len(name) == len(lower) && bytes.EqualFold(name, []byte(lower))
}

// parseLength reads a Content-Length: digits only, at most 15 of them.
func parseLength(v []byte) (int64, error) {
	if len(v) == 0 || len(v) > 15 {
		return 0, fmt.Errorf("%w: content length", errMalformed)
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%w: content length", errMalformed)
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}
