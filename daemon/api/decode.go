package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// The media types of bodies.
const (
	typeJSON       = "application/json"
	typeNDJSON     = "application/x-ndjson"
	typeMergePatch = "application/merge-patch+json"
)

// readBody reads the whole body into c.body and returns its media type, which must be one of those
// given.
func (c *call) readBody(types ...string) (string, error) {
	if c.r.ContentLength == 0 {
		return "", newProblem(badRequest, "the body is empty; %s is needed", types[0])
	}
	got, err := c.mediaType(types)
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

// maxAhead is how much room is made for a body on the word of its Content-Length alone.
const maxAhead = 256 << 10

// fill reads the body into c.body, up to the limit.
func (c *call) fill() error {
	limit := c.settings.BodyBytes
	over := func() error {
		p := newProblem(tooLarge, "the body is larger than the limit of %d bytes", limit)
		return p
	}
	if c.r.ContentLength > limit {
		return over()
	}
	c.body.Reset()
	// ReadFrom wants MinRead bytes of room for the read that finds the end.
	c.body.Grow(int(min(max(c.r.ContentLength, 0), maxAhead)) + bytes.MinRead)
	if _, err := c.body.ReadFrom(http.MaxBytesReader(c.ResponseWriter, c.r.Body, limit)); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return over()
		}
		// What the network did is of no use to the client, if there still is one.
		return newProblem(badRequest, "the body did not arrive whole")
	}
	return nil
}

// refuseBody lets a call without input pass only when it has no body, or an empty object.
func (c *call) refuseBody() error {
	if c.r.ContentLength == 0 {
		return nil
	}
	if err := c.fill(); err != nil {
		return err
	}
	if len(bytes.TrimSpace(c.body.Bytes())) == 0 {
		return nil
	}
	if _, err := c.mediaType([]string{typeJSON}); err != nil {
		return err
	}
	n, err := c.parse()
	if err != nil {
		return err
	}
	var fs faults
	fields := object(n, "", &fs)
	fields.end("this call takes no input")
	return fs.err()
}

// readObject reads a body that is one JSON object, and its members.
func (c *call) readObject(fs *faults, types ...string) (*fields, error) {
	if len(types) == 0 {
		types = []string{typeJSON}
	}
	if _, err := c.readBody(types...); err != nil {
		return nil, err
	}
	n, err := c.parse()
	if err != nil {
		return nil, err
	}
	if n.kind != jsontext.KindBeginObject {
		return nil, newProblem(badRequest, "the body must be a JSON object, not %s", n.what())
	}
	return object(n, "", fs), nil
}

// node is a JSON value read whole. It is for the small bodies of everything but events.
type node struct {
	kind    jsontext.Kind
	text    string // of a string its value, of a number its spelling
	members []member
	items   []node
}

type member struct {
	name  string
	value node
	taken bool
}

// what names the kind of a value, for messages.
func (n *node) what() string { return kindName(n.kind) }

func kindName(k jsontext.Kind) string {
	switch k {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "a boolean"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginObject:
		return "an object"
	case jsontext.KindBeginArray:
		return "an array"
	default:
		return "nothing"
	}
}

const (
	// maxDepth bounds the nesting of a body, and of the data of an event.
	maxDepth = 100
	// maxNodes bounds the values of a body that is read into nodes, because a node takes fifty times
	// the memory of the shortest value.
	maxNodes = 10_000
)

// parse reads c.body as one JSON value.
func (c *call) parse() (*node, error) {
	c.decoder.Reset(&c.body)
	body := c.body.Bytes()
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, newProblem(badRequest, "the body is empty; JSON is needed")
	}
	budget := maxNodes
	n, err := readNode(c.decoder, &budget)
	if err == nil {
		err = atEnd(c.decoder, body)
	}
	if err != nil {
		return nil, explain(body, err)
	}
	return &n, nil
}

// atEnd makes sure that nothing follows the value read.
func atEnd(d *jsontext.Decoder, body []byte) error {
	at := int(d.InputOffset())
	if rest := bytes.TrimLeft(body[at:], " \t\r\n"); len(rest) > 0 {
		at = len(body) - len(rest)
		return newProblem(badRequest, "the body goes on after its end: %s at %s does not belong to it", character(body, at), position(body, at))
	}
	return nil
}

// readNode reads the next value. Its errors are for explain.
func readNode(d *jsontext.Decoder, budget *int) (node, error) {
	if *budget--; *budget < 0 {
		return node{}, newProblem(badRequest, "the body holds more than %d values", maxNodes)
	}
	if d.StackDepth() >= maxDepth {
		return node{}, newProblem(badRequest, "the body is nested deeper than %d levels", maxDepth)
	}
	t, err := d.ReadToken()
	if err != nil {
		return node{}, err
	}
	n := node{kind: t.Kind()}
	switch n.kind {
	case jsontext.KindString, jsontext.KindNumber:
		n.text = t.String()
	case jsontext.KindBeginObject:
		for d.PeekKind() != jsontext.KindEndObject {
			name, err := d.ReadToken()
			if err != nil {
				return node{}, err
			}
			// The token is void with the next read.
			m := member{name: name.String()}
			if m.value, err = readNode(d, budget); err != nil {
				return node{}, err
			}
			n.members = append(n.members, m)
		}
		_, err = d.ReadToken()
	case jsontext.KindBeginArray:
		for d.PeekKind() != jsontext.KindEndArray {
			item, err := readNode(d, budget)
			if err != nil {
				return node{}, err
			}
			n.items = append(n.items, item)
		}
		_, err = d.ReadToken()
	default:
	}
	return n, err
}

// explain turns an error of the decoder into words for the sender of the body: what is wrong, where,
// and what would be right. The library's own text goes no further.
func explain(body []byte, err error) error {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		return newProblem(badRequest, "the body begins with a byte order mark; JSON begins without one")
	}
	if at := invalidUTF8(body); at >= 0 {
		return newProblem(badRequest, "the body is not valid UTF-8: the byte 0x%02x at %s", body[at], position(body, at))
	}
	s, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return newProblem(badRequest, "the body is not JSON")
	}
	within := ""
	if p := string(s.JSONPointer); p != "" {
		within = " in " + field(clip(strings.ToValidUTF8(p, "\uFFFD"), 200))
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		f := field(clip(strings.ToValidUTF8(string(s.JSONPointer), "\uFFFD"), 200))
		return &problem{
			kind: badRequest, detail: "the member " + f + " is there twice, again at " + position(body, int(s.ByteOffset)),
			faults: []fault{{f, "is there twice; give it once"}},
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || int(s.ByteOffset) >= len(body) {
		return newProblem(badRequest, "the body ends in the middle of a value, at %s%s", position(body, len(body)), within)
	}
	at := int(s.ByteOffset)
	return newProblem(badRequest, "the body is not JSON: %s at %s%s", unexpected(body, at), position(body, at), within)
}

// unexpected says what stands at a place where JSON ends.
func unexpected(body []byte, at int) string {
	r, _ := utf8.DecodeRune(body[at:])
	switch r {
	case '“', '”', '„', '‟', '«', '»', '‹', '›', '‘', '’', '‚', '‛', '″':
		return fmt.Sprintf("the typographic quote %c (JSON takes the straight quote \" only)", r)
	case '\'':
		return "the single quote ' (JSON takes the double quote \" only)"
	case '\\':
		return "an escape sequence that stands for no character"
	case ',':
		if rest := bytes.TrimLeft(body[at+1:], " \t\r\n"); len(rest) > 0 && (rest[0] == '}' || rest[0] == ']') {
			return "a comma after the last element"
		}
	}
	return character(body, at) + ", which does not belong there,"
}

// character names what stands at a place, in a form that is visible.
func character(body []byte, at int) string {
	r, _ := utf8.DecodeRune(body[at:])
	if r > ' ' && r != utf8.RuneError && unicode.IsPrint(r) {
		return "the character " + string(r)
	}
	return fmt.Sprintf("the character U+%04X", r)
}

// position tells a place to people: counted in characters, from 1.
func position(body []byte, at int) string {
	before := body[:at]
	line := 1 + bytes.Count(before, []byte("\n"))
	col := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	if line == 1 && !bytes.Contains(bytes.TrimRight(body, "\r\n"), []byte("\n")) {
		return fmt.Sprintf("position %d", col)
	}
	return fmt.Sprintf("line %d, position %d", line, col)
}

// invalidUTF8 returns where the body stops being UTF-8, or -1.
func invalidUTF8(body []byte) int {
	for i := 0; i < len(body); {
		if body[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// field makes a field's name of a JSON pointer: the bare name of a member of the top, the pointer of
// anything below and of the elements of an array.
func field(pointer string) string {
	if name, ok := strings.CutPrefix(pointer, "/"); ok && !strings.Contains(name, "/") && strings.Trim(name, "0123456789") != "" {
		return strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	return pointer
}
