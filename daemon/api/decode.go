package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// readOptional reads the members of a body that may be left out: JSON, or nothing, which has no members.
func (c *call) readOptional(fs *faults) (*fields, error) {
	if t, err := c.readSome(typeJSON); t == "" || err != nil {
		return nothing(fs), err
	}
	n, err := c.parse()
	if err != nil {
		return nil, err
	}
	return object(n, "", fs), nil
}

// readSome reads a body that may be left out, into c.body, and returns its media type, which must be one of those given; "" when
// there is none.
func (c *call) readSome(types ...string) (string, error) {
	if c.r.ContentLength == 0 {
		return "", nil
	}
	if err := c.fill(); err != nil {
		return "", err
	}
	if len(bytes.TrimSpace(c.body.Bytes())) == 0 {
		return "", nil
	}
	return c.mediaType(types)
}

// nothing is an object without members.
func nothing(fs *faults) *fields { return object(&node{kind: jsontext.KindBeginObject}, "", fs) }

// refuseBody lets a call without input pass only when it has no body, or an empty object.
func (c *call) refuseBody() error {
	var fs faults
	fields, err := c.readOptional(&fs)
	if err != nil {
		return err
	}
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
	kind     jsontext.Kind
	text     string // of a string its value, of a number its spelling, of an object what parse was asked for
	members  []member
	items    []node
	from, to int // where an object stands in the body
	costly   any // what reading the value took long to make
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
	// eventLevels is how deep the data of an event lies in a body: in the event, in the array.
	eventLevels = 2
	// maxNodes bounds the values of a body that is read into nodes, because a node takes fifty times
	// the memory of the shortest value.
	maxNodes = 10_000
)

// parse reads c.body as one JSON value. Members of it that are objects and have one of the names given, in
// lower case, keep their text.
func (c *call) parse(verbatim ...string) (*node, error) { return c.parseUpTo(maxNodes, verbatim...) }

// parseUpTo is parse for a body that may hold another number of values.
func (c *call) parseUpTo(budget int, verbatim ...string) (*node, error) {
	c.decoder.Reset(&c.body)
	body := c.body.Bytes()
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, newProblem(badRequest, "the body is empty; JSON is needed")
	}
	most := budget
	n, err := readNode(c.decoder, &budget)
	if budget < 0 {
		err = newProblem(badRequest, "the body holds more than %d values", most)
	}
	if err == nil {
		err = atEnd(c.decoder, body)
	}
	if err != nil {
		return nil, explain(body, err)
	}
	n.keep(body, verbatim)
	return &n, nil
}

// keep has members that are objects, and have one of the names, keep their text.
func (n *node) keep(body []byte, names []string) {
	for i := range n.members {
		m := &n.members[i]
		if m.value.kind == jsontext.KindBeginObject && slices.Contains(names, fold(m.name)) {
			m.value.text = string(body[m.value.from:m.value.to]) // a copy: the body is another call's soon
		}
	}
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
		n.from = int(d.InputOffset()) - 1
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
		n.to = int(d.InputOffset())
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
	// The decoder has a limit of its own, told like any syntax error, at the bracket that is one too
	// many. A bracket at that depth is refused for its depth even if it is wrong otherwise too.
	if (body[at] == '{' || body[at] == '[') && deeperThan(body[:at], maxDepth+eventLevels) {
		return newProblem(badRequest, "the body is nested deeper than %d levels", maxDepth)
	}
	return newProblem(badRequest, "the body is not JSON: %s at %s%s", unexpected(body, at), position(body, at), within)
}

// deeperThan says whether JSON is nested deeper than some levels where it is deepest. The JSON is
// valid, or the beginning of valid JSON. Counting the opening brackets tells almost always, and quickly.
func deeperThan(v []byte, levels int) bool {
	if bytes.Count(v, []byte("{"))+bytes.Count(v, []byte("[")) <= levels {
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(v); i++ {
		switch b := v[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			if depth++; depth > levels {
				return true
			}
		case b == '}' || b == ']':
			depth--
		}
	}
	return false
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
