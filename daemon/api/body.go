package api

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
)

// The media types of bodies.
const (
	typeJSON       = "application/json"
	typeNDJSON     = "application/x-ndjson"
	typeMergePatch = "application/merge-patch+json"
	typeXML        = "application/xml" // of pushes only
)

// readBody reads the whole body into c.body and returns its media type, which must be one of those
// given.
func (c *call) readBody(types ...string) (string, error) {
	got, err := c.mediaType(types)
	if c.r.ContentLength == 0 {
		if err == nil && got == typeNDJSON {
			return "", emptyLines()
		}
		return "", newProblem(badRequest, "the body is empty; %s is needed", types[0])
	}
	if err != nil {
		return "", err
	}
	if err := c.fill(); err != nil {
		return "", err
	}
	return got, nil
}

// mediaType checks Content-Type and Content-Encoding (RFC 9110, sections 8.3 and 8.4).
func (c *call) mediaType(types []string) (string, error) {
	h := c.r.Header
	for _, e := range h["Content-Encoding"] {
		if e != "" && !strings.EqualFold(e, "identity") {
			return "", newProblem(unsupportedMedia, "a body with the Content-Encoding %s is not taken; send it as it is", show(e))
		}
	}
	values := h["Content-Type"]
	if len(values) != 1 || values[0] == "" {
		return "", newProblem(unsupportedMedia, "the request must say what its body is, with one Content-Type header: %s", strings.Join(types, " or "))
	}
	if values[0] == types[0] {
		return types[0], nil
	}
	got, params, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", newProblem(unsupportedMedia, "the Content-Type %s cannot be read; send %s", show(values[0]), strings.Join(types, " or "))
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return "", newProblem(unsupportedMedia, "the charset %s is not taken; JSON is sent as UTF-8", show(charset))
	}
	for _, t := range types {
		if got == t {
			return t, nil
		}
	}
	return "", newProblem(unsupportedMedia, "a body of the type %s is not taken here; send %s", show(got), strings.Join(types, " or "))
}

// emptyLines refuses an NDJSON body without an event.
func emptyLines() error {
	return newProblem(badRequest, "the body is empty; at least one event is needed, each on a line of its own")
}

const (
	// maxAhead is how much room is made for a body on the word of its Content-Length alone. It is not
	// counted as held, so it is no more than what a connection costs anyway.
	maxAhead = 16 << 10
	// minHeld is how many bytes of bodies the requests of an API may hold together, where two bodies of
	// the largest size do not need more.
	minHeld = 128 << 20
	// maxDrain is how much beyond the limit is read and thrown away of a body that is too large.
	maxDrain = 32 << 20
)

// meter hands on what it reads from a body and counts it as held, in the sum of its API too. The
// bytes are counted when they arrive: a Content-Length is only a word, and a chunked body has none.
type meter struct {
	sum    *atomic.Int64 // of all calls
	limit  int64         // of sum
	held   int64         // of this call
	source io.Reader
}

// Read implements io.Reader. When more is held than may be, its error is the answer.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.source.Read(p)
	m.held += int64(n)
	if m.sum.Add(int64(n)) > m.limit {
		busy := unavailableFor(retryBusy, "more request bodies are being read than fit in memory; try again in a second")
		busy.reason = reasonBusy
		return n, busy
	}
	return n, err
}

// release gives back what is held.
func (m *meter) release() {
	m.sum.Add(-m.held)
	m.held, m.source = 0, nil
}

// fill reads the body into c.body, up to the limit. Of a body that is refused nothing is kept.
func (c *call) fill() error {
	limit := c.settings.BodyBytes
	if c.r.ContentLength > limit {
		return c.tooLong(c.r.ContentLength)
	}
	c.body.Reset()
	// ReadFrom wants MinRead bytes of room for the read that finds the end.
	c.body.Grow(int(min(max(c.r.ContentLength, 0), maxAhead)) + bytes.MinRead)
	c.meter.limit = max(minHeld, 2*limit)
	c.meter.source = http.MaxBytesReader(c.ResponseWriter, c.r.Body, limit)
	_, err := c.body.ReadFrom(&c.meter)
	if err == nil {
		return nil
	}
	c.body = bytes.Buffer{}
	c.meter.release()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return c.tooLong(maxDrain)
	}
	if busy, ok := errors.AsType[*problem](err); ok {
		return busy
	}
	// What the network did is of no use to the client, if there still is one.
	return newProblem(badRequest, "the body did not arrive whole")
}

// tooLong refuses a body over the limit. Many clients read no answer before they have sent all of the
// body, and see nothing but a broken connection when the server stops listening; so the rest, whose
// length this is or the most that is taken of it, is read and thrown away first, until the server's
// read timeout. A client that waits for 100 Continue (RFC 9110, section 10.1.1) need not begin to
// send, and where the rest is too long to be read to its end nothing would be won.
func (c *call) tooLong(rest int64) error {
	limit := c.settings.BodyBytes
	if rest <= limit+maxDrain && !strings.EqualFold(c.r.Header.Get("Expect"), "100-continue") {
		// Whether the rest arrives changes nothing in the answer.
		_, _ = io.CopyN(io.Discard, c.r.Body, rest)
	}
	return newProblem(tooLarge, "the body is larger than the limit of %d bytes", limit)
}
