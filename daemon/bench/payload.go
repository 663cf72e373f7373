package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
)

const (
	// sequenceDigits is the fixed width of a sequence number, so that a body is built once and only
	// these digits change.
	sequenceDigits = 12
	sequenceName   = `"benchSequence":"`
	eventType      = "bench.event"

	minSize = 64
	maxSize = 8 << 20
)

// buildData returns a JSON object of exactly size bytes (at least minSize) whose first member is the
// sequence number, all zeros, followed by some thirty members of text and numbers, as events have them.
func buildData(size int) []byte {
	b := make([]byte, 0, size)
	b = append(b, '{')
	b = append(b, sequenceName...)
	b = append(b, bytes.Repeat([]byte{'0'}, sequenceDigits)...)
	b = append(b, '"')
	const closing = len(`,"padding":""}`)
	// Thirty members share the size; a tiny payload has fewer, a large one ends in one long text.
	width := max((size-len(b)-closing)/30, 24)
	for i := range 30 {
		var member []byte
		if i%5 == 4 {
			member = fmt.Appendf(nil, `,"number%02d":%0*d`, i, 3, 100+i*7919%899)
		} else {
			member = fmt.Appendf(nil, `,"member%02d":"`, i)
			for j := 0; len(member) < min(width, 96)-1; j++ {
				member = append(member, "a quick reference of 64 letters, digits "[(i*7+j)%40])
			}
			member = append(member, '"')
		}
		if len(b)+len(member)+closing > size {
			break
		}
		b = append(b, member...)
	}
	if fill := size - len(b) - closing; fill >= 0 {
		b = append(b, `,"padding":"`...)
		for i := range fill {
			b = append(b, 'a'+byte(i%26))
		}
		return append(b, '"', '}')
	}
	for len(b) < size-1 {
		b = append(b, ' ')
	}
	return append(b, '}')
}

// putSequence writes a sequence number over the fixed digits at the start of b.
func putSequence(b []byte, seq int64) {
	for i := sequenceDigits - 1; i >= 0; i-- {
		b[i] = '0' + byte(seq%10)
		seq /= 10
	}
}

// findSequence returns the sequence number in a pushed body.
func findSequence(body []byte) (int64, bool) {
	i := bytes.Index(body, []byte(sequenceName))
	if i < 0 || len(body) < i+len(sequenceName)+sequenceDigits {
		return 0, false
	}
	var n int64
	for _, c := range body[i+len(sequenceName):][:sequenceDigits] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// nextID returns the value of the first member named id in a JSON text and what follows it. The payload
// of the benchmark has no such member, and ids have no escapes.
func nextID(b []byte) (id, rest []byte, ok bool) {
	const blanks = " \t\r\n"
	for {
		i := bytes.Index(b, []byte(`"id"`))
		if i < 0 {
			return nil, nil, false
		}
		b = bytes.TrimLeft(b[i+len(`"id"`):], blanks)
		if len(b) == 0 || b[0] != ':' {
			continue
		}
		b = bytes.TrimLeft(b[1:], blanks)
		if len(b) == 0 || b[0] != '"' {
			continue
		}
		end := bytes.IndexByte(b[1:], '"')
		if end <= 0 {
			return nil, nil, false
		}
		return b[1 : 1+end], b[end+2:], true
	}
}

// request is a complete POST of one or more events, built once; before each use the sequence numbers
// (and with them the client's own ids) are written into their places.
type request struct {
	bytes  []byte
	places [][]int // per event, where its digits stand
}

// requestShape is what the requests of one run have in common.
type requestShape struct {
	host, path, token string
	kind              string // type of the events, eventType unless it says otherwise
	data              []byte // from buildData
	idPrefix          string // non-empty: events carry an id of this prefix and the sequence number
}

// build returns a request of n events: a bare one for 1, else a JSON array.
func (s requestShape) build(n int, array bool) *request {
	var body []byte
	r := &request{places: make([][]int, n)}
	zeros := bytes.Repeat([]byte{'0'}, sequenceDigits)
	if array {
		body = append(body, '[')
	}
	for i := range n {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, '{')
		if s.idPrefix != "" {
			body = append(append(body, `"id":"`...), s.idPrefix...)
			r.places[i] = append(r.places[i], len(body))
			body = append(append(body, zeros...), `",`...)
		}
		body = append(body, `"type":"`+cmp.Or(s.kind, eventType)+`","data":`...)
		r.places[i] = append(r.places[i], len(body)+1+len(sequenceName))
		body = append(append(body, s.data...), '}')
	}
	if array {
		body = append(body, ']')
	}
	head := "POST " + s.path + " HTTP/1.1\r\nHost: " + s.host + "\r\n"
	if s.token != "" {
		head += "Authorization: Bearer " + s.token + "\r\n"
	}
	head += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	for i := range r.places {
		for j := range r.places[i] {
			r.places[i][j] += len(head)
		}
	}
	r.bytes = append([]byte(head), body...)
	return r
}

// number writes the sequence numbers from first on into the request.
func (r *request) number(first int64) {
	for i, places := range r.places {
		for _, at := range places {
			putSequence(r.bytes[at:], first+int64(i))
		}
	}
}
