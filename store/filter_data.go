package store

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Data is the data of an event, read once so that many filters can look at it. The zero value is ready to
// Read, and may read one event after another: it uses its memory again. It is not safe for concurrent use
// while it reads; any number of filters may match what was read at the same time.
type Data struct {
	nodes   []node // a value stands before what it holds
	text    []byte
	input   bytes.Buffer
	decoder jsontext.Decoder
}

// node is one value of the data.
type node struct {
	name []byte // unescaped; nil outside of objects
	text []byte // a string unescaped, a number as it is written; nil for all others
	end  int    // the index after the last value that it holds
	kind jsontext.Kind
}

// Read reads the data of an event, which must be one JSON object (RFC 8259). It holds on to the text, which
// must not change, until the next Read. After an error the data matches no filter.
func (d *Data) Read(text []byte) error {
	if err := d.read(text, jsontext.AllowDuplicateNames(true)); err != nil {
		return err
	}
	if d.nodes[0].kind != jsontext.KindBeginObject {
		d.reset()
		return errors.New("read data: it is no JSON object")
	}
	return nil
}

// read reads one JSON value of any kind.
func (d *Data) read(text []byte, options ...jsontext.Options) error {
	d.reset()
	d.text = text
	d.input = *bytes.NewBuffer(text)
	d.decoder.Reset(&d.input, options...)
	err := d.value(nil)
	if err == nil && len(bytes.TrimLeft(text[d.decoder.InputOffset():], " \t\r\n")) > 0 {
		err = errors.New("there is more after the value")
	}
	if err != nil {
		d.reset()
		return fmt.Errorf("read data: %w", err)
	}
	return nil
}

// reset forgets what was read and lets go of its text.
func (d *Data) reset() {
	clear(d.nodes)
	d.nodes, d.text, d.input = d.nodes[:0], nil, bytes.Buffer{}
	d.decoder.Reset(&d.input)
}

// value reads the value that comes next. The decoder bounds how deep this goes.
func (d *Data) value(name []byte) error {
	at := len(d.nodes)
	kind := d.decoder.PeekKind()
	d.nodes = append(d.nodes, node{name: name, kind: kind})
	switch kind {
	case jsontext.KindBeginObject, jsontext.KindBeginArray:
		if _, err := d.decoder.ReadToken(); err != nil {
			return err
		}
		isObject, end := kind == jsontext.KindBeginObject, jsontext.KindEndArray
		if isObject {
			end = jsontext.KindEndObject
		}
		for d.decoder.PeekKind() != end {
			var name []byte
			if isObject {
				raw, err := d.scalar()
				if err != nil {
					return err
				}
				name = plain(raw)
			}
			if err := d.value(name); err != nil {
				return err
			}
		}
		if _, err := d.decoder.ReadToken(); err != nil {
			return err
		}
	default:
		raw, err := d.scalar()
		if err != nil {
			return err
		}
		switch kind {
		case jsontext.KindString:
			d.nodes[at].text = plain(raw)
		case jsontext.KindNumber:
			d.nodes[at].text = raw
		default: // the kind says it all
		}
	}
	d.nodes[at].end = len(d.nodes)
	return nil
}

// scalar reads a value without others in it, and returns its place in the text: what the decoder returns
// is good until it reads on.
func (d *Data) scalar() ([]byte, error) {
	raw, err := d.decoder.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(d.decoder.InputOffset())
	return d.text[end-len(raw) : end : end], nil
}

// plain returns the text of a JSON string that was found to be valid.
func plain(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return nil // never: the decoder has read it
	}
	return text
}

// find returns where names lead as a JSON Pointer, or -1.
func (d *Data) find(names []string) int {
	if len(d.nodes) == 0 {
		return -1
	}
	at := 0
	for _, name := range names {
		switch d.nodes[at].kind {
		case jsontext.KindBeginObject:
			at = d.member(at, name)
		case jsontext.KindBeginArray:
			at = d.element(at, name)
		default:
			return -1
		}
		if at < 0 {
			return -1
		}
	}
	return at
}

// member returns the member of the object at that index, or -1.
func (d *Data) member(at int, name string) int {
	for i := at + 1; i < d.nodes[at].end; i = d.nodes[i].end {
		if string(d.nodes[i].name) == name {
			return i
		}
	}
	return -1
}

// element returns the element of the array at that index, or -1. A number has no leading zero (RFC 6901
// section 4); the '-' of that section names no element that is there.
func (d *Data) element(at int, name string) int {
	n, err := strconv.ParseUint(name, 10, 31)
	if err != nil || len(name) > 1 && name[0] == '0' {
		return -1
	}
	for i := at + 1; i < d.nodes[at].end; i = d.nodes[i].end {
		if n == 0 {
			return i
		}
		n--
	}
	return -1
}

// ends yields where names lead as a dotted path from the value at that index: through arrays on the way, and
// not into the one at the end.
func (d *Data) ends(at int, names []string) iter.Seq[int] {
	return func(yield func(int) bool) { d.yieldEnds(at, names, yield) }
}

func (d *Data) yieldEnds(at int, names []string, yield func(int) bool) bool {
	if len(names) == 0 {
		return yield(at)
	}
	switch d.nodes[at].kind {
	case jsontext.KindBeginObject:
		if i := d.member(at, names[0]); i >= 0 {
			return d.yieldEnds(i, names[1:], yield)
		}
	case jsontext.KindBeginArray:
		for i := at + 1; i < d.nodes[at].end; i = d.nodes[i].end {
			if !d.yieldEnds(i, names, yield) {
				return false
			}
		}
	default: // nothing leads on
	}
	return true
}

// sum returns a hash of the value at that index: equal for equal JSON values.
func (d *Data) sum(at int) uint64 {
	n := &d.nodes[at]
	switch n.kind {
	case jsontext.KindBeginObject:
		total := uint64(0) // a sum, because members have no order
		for i := at + 1; i < n.end; i = d.nodes[i].end {
			total += uint64(newHash(':').bytes(d.nodes[i].name).number(d.sum(i)))
		}
		return uint64(newHash(byte(n.kind)).number(total))
	case jsontext.KindBeginArray:
		h := newHash(byte(n.kind))
		for i := at + 1; i < n.end; i = d.nodes[i].end {
			h = h.number(d.sum(i))
		}
		return uint64(h)
	default:
		return n.sum()
	}
}

// sum returns the hash of a value without others in it.
func (n *node) sum() uint64 {
	h := newHash(byte(n.kind))
	switch n.kind {
	case jsontext.KindString:
		h = h.bytes(n.text)
	case jsontext.KindNumber:
		h = readDecimal(n.text).sum(h)
	default: // the kind says it all
	}
	return uint64(h)
}
