package webhook

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// XML of a push (Extensible Markup Language 1.0). The mapping is written for receivers, who know what they expect: it
// says nothing about types.
//
//   - A member of an object is an element of its name. A name that is no safe XML name is in <field name="…">.
//   - An array is its member's element, once for each item; an empty one is none at all. An array that is itself an
//     item, or the whole value, is one element with an <item> for each of its items.
//   - null is an empty element with nil="true". Numbers and booleans are as they are spelt in JSON.
//   - A character that XML cannot carry, not even escaped, is U+FFFD: U+0000 to U+001F but tab, line feed and carriage
//     return, lone surrogates, U+FFFE and U+FFFF.
const (
	typeXML   = "application/xml"
	xmlHead   = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
	xmlRecord = "record"
	xmlItem   = "item"
	xmlField  = "field"
)

// How long the XML of a record may be: a name is repeated for each item of an array, so that a payload could make itself
// grow without bound. Real ones grow two or three times.
const (
	xmlRoom   = 64 << 10
	xmlGrowth = 32
)

var errXMLGrown = errors.New("the XML is too long")

// recordXML is the body of a push in XML: one document.
func recordXML(sub *store.Subscription, p *queue.Push) ([]byte, *problem) {
	size := len(xmlHead) + 64
	for _, e := range p.Events {
		size += 2*envelopeSize(e) + 64
	}
	w := xmlWriter{out: append(make([]byte, 0, size), xmlHead...)}
	many := several(sub, p)
	if many {
		w.out = append(w.out, `<push numberOfRecords="`...)
		w.out = strconv.AppendInt(w.out, int64(len(p.Events)), 10)
		w.out = append(w.out, `">`...)
	}
	for _, e := range p.Events {
		var err error
		if sub.Payload == store.PayloadData {
			err = w.record(e.Data)
		} else {
			err = w.envelope(e)
		}
		switch {
		case errors.Is(err, errXMLGrown):
			return nil, &problem{queue.ClassRejected, "the data of the event grows too long as XML: a long name is repeated for each item of its array"}
		case err != nil:
			return nil, &problem{queue.ClassRejected, "the data of the event cannot be read as JSON, and so not be sent as XML"}
		}
	}
	if many {
		w.out = append(w.out, "</push>"...)
	}
	return w.out, nil
}

// xmlWriter writes JSON as XML while it reads it: it holds the names of the elements that are open, and nothing else of
// the value.
type xmlWriter struct {
	out     []byte
	most    int // of out
	decoder *jsontext.Decoder
	source  bytes.Buffer
	names   []byte // of the open elements, as xmlTag refers to them
	scratch []byte
}

// xmlTag is an element's start tag without brackets, in xmlWriter.names: its name up to name, attributes up to to.
type xmlTag struct{ from, name, to int }

func (w *xmlWriter) record(value []byte) error {
	w.begin(value)
	tag := w.plain(xmlRecord)
	if err := w.element(tag); err != nil {
		return err
	}
	return w.end()
}

// envelope writes a record with the members of an event.
func (w *xmlWriter) envelope(e *queue.Event) error {
	w.begin(e.Data)
	w.out = append(w.out, "<record>"...)
	w.text("id", e.ID)
	w.text("type", e.Type)
	if e.Resource != "" {
		w.text("resource", e.Resource)
	}
	w.out = e.Time.UTC().AppendFormat(append(w.out, "<time>"...), time.RFC3339Nano)
	w.out = append(w.out, "</time>"...)
	w.text("accountId", e.AccountID)
	// Data is an object; were it an array it would be one element all the same, as a record is.
	if err := w.element(w.plain("data")); err != nil {
		return err
	}
	w.out = append(w.out, "</record>"...)
	return w.end()
}

// begin makes value what is read.
func (w *xmlWriter) begin(value []byte) {
	w.source = *bytes.NewBuffer(slices.Clip(value))
	if w.decoder == nil {
		w.decoder = jsontext.NewDecoder(&w.source, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	} else {
		w.decoder.Reset(&w.source, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	}
	w.names = w.names[:0]
	w.most = len(w.out) + xmlRoom + xmlGrowth*len(value)
}

// end makes sure that nothing follows the value.
func (w *xmlWriter) end() error {
	if len(w.out) > w.most {
		return errXMLGrown
	}
	if _, err := w.decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("the JSON goes on after its end")
	}
	return nil
}

func (w *xmlWriter) text(name, s string) {
	w.out = append(append(append(w.out, '<'), name...), '>')
	w.scratch = append(w.scratch[:0], s...)
	w.out = appendXMLText(w.out, w.scratch, false)
	w.out = append(append(append(w.out, "</"...), name...), '>')
}

// element writes the next value as one element.
func (w *xmlWriter) element(tag xmlTag) error {
	if len(w.out) > w.most {
		return errXMLGrown
	}
	d := w.decoder
	w.out = append(append(w.out, '<'), w.names[tag.from:tag.to]...)
	switch kind := d.PeekKind(); kind {
	case jsontext.KindBeginObject, jsontext.KindBeginArray:
		if _, err := d.ReadToken(); err != nil {
			return err
		}
		w.out = append(w.out, '>')
		each := w.member
		if kind == jsontext.KindBeginArray {
			each = w.item
		}
		for k := d.PeekKind(); k != jsontext.KindEndObject && k != jsontext.KindEndArray; k = d.PeekKind() {
			if err := each(); err != nil {
				return err
			}
		}
		if _, err := d.ReadToken(); err != nil {
			return err
		}
	default:
		v, err := d.ReadValue()
		switch {
		case err != nil:
			return err
		case v.Kind() == jsontext.KindNull:
			w.out = append(w.out, ` nil="true"/>`...)
			return nil
		case v.Kind() == jsontext.KindString:
			// An error only tells of lone surrogates and of bytes that are not UTF-8, which become U+FFFD.
			w.scratch, _ = jsontext.AppendUnquote(w.scratch[:0], v)
			w.out = appendXMLText(append(w.out, '>'), w.scratch, false)
		default:
			w.out = append(append(w.out, '>'), v...)
		}
	}
	w.out = append(append(append(w.out, "</"...), w.names[tag.from:tag.name]...), '>')
	return nil
}

// member writes the next member of an object: one element, or one for each item of an array.
func (w *xmlWriter) member() error {
	d := w.decoder
	name, err := d.ReadValue()
	if err != nil {
		return err
	}
	tag := w.named(name)
	defer func() { w.names = w.names[:tag.from] }()
	if d.PeekKind() != jsontext.KindBeginArray {
		return w.element(tag)
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for k := d.PeekKind(); k != jsontext.KindEndArray; k = d.PeekKind() {
		if err := w.element(tag); err != nil {
			return err
		}
	}
	_, err = d.ReadToken()
	return err
}

// item writes the next item of an array whose items have no name of their own.
func (w *xmlWriter) item() error {
	tag := w.plain(xmlItem)
	defer func() { w.names = w.names[:tag.from] }()
	return w.element(tag)
}

// plain opens a name that is a safe one.
func (w *xmlWriter) plain(name string) xmlTag {
	from := len(w.names)
	w.names = append(w.names, name...)
	return xmlTag{from, len(w.names), len(w.names)}
}

// named opens the name of a member.
func (w *xmlWriter) named(quoted jsontext.Value) xmlTag {
	w.scratch, _ = jsontext.AppendUnquote(w.scratch[:0], quoted)
	tag := xmlTag{from: len(w.names)}
	if safeXMLName(w.scratch) {
		w.names = append(w.names, w.scratch...)
		tag.name, tag.to = len(w.names), len(w.names)
		return tag
	}
	w.names = append(w.names, xmlField...)
	tag.name = len(w.names)
	w.names = append(w.names, ` name="`...)
	w.names = append(appendXMLText(w.names, w.scratch, true), '"')
	tag.to = len(w.names)
	return tag
}

// appendXMLText appends text as character data (section 2.4), or as the value of an attribute in double quotes (section
// 2.3), such that a parser hands on the very characters: what it would normalize (sections 2.11 and 3.3.3) is escaped.
func appendXMLText(dst, text []byte, attribute bool) []byte {
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError || r == 0xFFFE || r == 0xFFFF {
				dst = append(dst, "\uFFFD"...)
			} else {
				dst = append(dst, text[i:i+n]...)
			}
			i += n
			continue
		}
		i++
		switch {
		case c == '<':
			dst = append(dst, "&lt;"...)
		case c == '>': // after ]] it must not stand in text
			dst = append(dst, "&gt;"...)
		case c == '&':
			dst = append(dst, "&amp;"...)
		case c == '\r':
			dst = append(dst, "&#xD;"...)
		case c == '"' && attribute:
			dst = append(dst, "&quot;"...)
		case c == '\n' && attribute:
			dst = append(dst, "&#xA;"...)
		case c == '\t' && attribute:
			dst = append(dst, "&#x9;"...)
		case c < ' ' && c != '\n' && c != '\t':
			dst = append(dst, "\uFFFD"...)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// safeXMLName tells whether a name can be an element's: it is a name to every edition of XML 1.0 (section 2.3; the
// fifth allows more than the first four), it has no colon, which means a namespace, and it does not begin with xml in
// any case, which is reserved.
func safeXMLName(name []byte) bool {
	if len(name) == 0 {
		return false
	}
	if len(name) >= 3 && name[0]|0x20 == 'x' && name[1]|0x20 == 'm' && name[2]|0x20 == 'l' {
		return false
	}
	for i := 0; i < len(name); {
		c := name[i]
		if c < utf8.RuneSelf {
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
			if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '.') {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(name[i:])
		if !xmlLetter(r) {
			return false
		}
		i += n
	}
	return true
}

// xmlLetter tells the letters beyond ASCII that are name characters, also at the beginning, in every edition: the ranges
// of the living scripts that the productions BaseChar and Ideographic of the first four and NameStartChar of the fifth
// have in common.
func xmlLetter(r rune) bool {
	for _, x := range [...][2]rune{
		{0xC0, 0xD6},
		{0xD8, 0xF6},
		{0xF8, 0x131},
		{0x134, 0x13E},
		{0x141, 0x148},
		{0x14A, 0x17E}, // Latin
		{0x38E, 0x3A1},
		{0x3A3, 0x3CE}, // Greek
		{0x401, 0x40C},
		{0x40E, 0x44F},
		{0x451, 0x45C},
		{0x45E, 0x481}, // Cyrillic
		{0x561, 0x586}, // Armenian
		{0x5D0, 0x5EA}, // Hebrew
		{0x621, 0x63A},
		{0x641, 0x64A},   // Arabic
		{0x905, 0x939},   // Devanagari
		{0x10D0, 0x10F6}, // Georgian
		{0x3041, 0x3094}, // Hiragana
		{0x30A1, 0x30FA}, // Katakana
		{0x4E00, 0x9FA5}, // Chinese characters
		{0xAC00, 0xD7A3}, // Hangul
	} {
		if r < x[0] {
			return false
		}
		if r <= x[1] {
			return true
		}
	}
	return false
}
