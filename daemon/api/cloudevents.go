package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// Events in the forms of CloudEvents 1.0.2 over HTTP (HTTP Protocol Binding, section 3): structured, batched, and binary,
// where the attributes are headers and the body is the data.

const (
	typeCloudEvent  = "application/cloudevents+json"
	typeCloudEvents = "application/cloudevents-batch+json"
	// cloudHeader is how a binary event is known (HTTP Protocol Binding, section 3.1); cloudPrefix begins the names
	// of its headers in their canonical form.
	cloudHeader = "Ce-Specversion"
	cloudPrefix = "Ce-"
	// specVersion is the version of CloudEvents that is taken.
	specVersion = "1.0"
	// maxAttributes bounds the context attributes that are kept with an event, in bytes.
	maxAttributes = 8 << 10
)

// form is how the events of a request are written.
type form uint8

const (
	formOwn form = iota
	formCloudEvent
	formCloudEvents
	formBinary
)

// readEvents reads the body and says which form it has.
func (c *call) readEvents() (form, string, error) {
	if _, binary := c.r.Header[cloudHeader]; binary {
		if media := c.binaryMedia(); media != "" {
			_, err := c.readBody(media)
			return formBinary, media, err
		}
	}
	media, err := c.readBody(typeJSON, typeNDJSON, typeCloudEvent, typeCloudEvents)
	switch media {
	case typeCloudEvent:
		return formCloudEvent, media, err
	case typeCloudEvents:
		return formCloudEvents, media, err
	default:
		return formOwn, media, err
	}
}

// binaryMedia returns the media type that the body of a binary event has to have: its own if it is one of JSON. For a body
// that has the attributes in itself, which the headers may repeat, it is "".
func (c *call) binaryMedia() string {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	switch {
	case media == typeCloudEvent, media == typeCloudEvents:
		return ""
	case err != nil || !jsonMedia(media):
		return typeJSON
	default:
		return media
	}
}

// jsonMedia tells whether a media type, in lower case, is one of JSON (CloudEvents JSON Event Format, section 3.1).
func jsonMedia(media string) bool {
	return media == typeJSON || media == "text/json" || strings.HasSuffix(media, "+json")
}

// readCloud reads the events of the body, which are in the form given.
func (b *batch) readCloud(f form) error {
	d := b.c.decoder
	d.Reset(&b.c.body)
	b.single = f != formCloudEvents
	kind, want := d.PeekKind(), jsontext.KindBeginObject
	if !b.single {
		want = jsontext.KindBeginArray
	}
	var err error
	switch {
	case f == formBinary:
		err = b.readBinary(d)
	case kind == want && b.single:
		err = b.readCloudEvent(d)
	case kind == want:
		err = b.readArray(d, (*batch).readCloudEvent)
	default:
		v, err := d.ReadValue()
		if err != nil {
			return explain(b.body, err)
		}
		if b.single {
			return newProblem(badRequest, "the body must be one CloudEvent, an object, not %s; several are sent as %s", kindName(v.Kind()), typeCloudEvents)
		}
		return newProblem(badRequest, "the body must be an array of CloudEvents, not %s; one is sent as %s", kindName(v.Kind()), typeCloudEvent)
	}
	if err != nil {
		return explain(b.body, err)
	}
	return atEnd(d, b.body)
}

// cloudReader is the state of one CloudEvent being read.
type cloudReader struct {
	eventReader
	attributes []attribute
}

// attribute is a context attribute that is kept as it is; value is JSON.
type attribute struct {
	name  string
	value []byte
}

// newCloud begins the next event.
func (b *batch) newCloud() (*cloudReader, error) {
	if len(b.subs) == maxEvents {
		return nil, newProblem(badRequest, "the request has more than %d events; send it in parts", maxEvents)
	}
	return &cloudReader{eventReader: eventReader{batch: b, index: len(b.subs)}}, nil
}

// readCloudEvent reads one event in the JSON event format. What is wrong with its members is noted; an error means that the
// body cannot be read on.
func (b *batch) readCloudEvent(d *jsontext.Decoder) error {
	e, err := b.newCloud()
	if err != nil {
		return err
	}
	if d.PeekKind() != jsontext.KindBeginObject {
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		e.fault("", "must be a CloudEvent, not %s", kindName(v.Kind()))
		b.subs = append(b.subs, e.s)
		return nil
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != jsontext.KindEndObject {
		quoted, err := d.ReadValue()
		if err != nil {
			return err
		}
		name := unquote(quoted) // before the next read, which may void it
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		e.member(name, v)
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	e.finish()
	return nil
}

// member judges and keeps a member. The decoder has made sure that each is there once.
func (e *cloudReader) member(name string, v jsontext.Value) {
	if v.Kind() != jsontext.KindNull || name == "data" {
		e.seen |= cloudBit(name)
	}
	switch {
	case name == "data":
		e.data(v)
		return
	case name == "data_base64":
		e.fault(name, "is not taken: an event's data has to be a JSON object, in data")
		return
	case !attributeName(name):
		e.fault(name, "is no name of a context attribute; they consist of lower-case letters and digits")
		return
	}
	switch v.Kind() {
	case jsontext.KindNull: // an attribute that is not set
	case jsontext.KindString:
		e.attribute(name, unquote(v))
	case jsontext.KindNumber:
		if text := string(v); !integer(text) {
			e.fault(name, "must be a whole number from %d to %d, a string or a boolean; %s is none", math.MinInt32, math.MaxInt32, show(text))
		} else {
			e.other(name, v)
		}
	case jsontext.KindTrue, jsontext.KindFalse:
		e.other(name, v)
	default:
		e.fault(name, "must be a string, a whole number or a boolean, not %s; what an event carries belongs into data", kindName(v.Kind()))
	}
}

// The bits of attributes that only CloudEvents have.
const (
	hasSource = hasData << (1 + iota)
	hasVersion
)

// cloudBit is the bit of a member of a CloudEvent that matters for others, or 0.
func cloudBit(name string) uint8 {
	switch name {
	case "specversion":
		return hasVersion
	case "id":
		return hasID
	case "source":
		return hasSource
	case "type":
		return hasType
	case "resource":
		return hasResource
	case "time":
		return hasTime
	case "data", "data_base64":
		return hasData
	default:
		return 0
	}
}

// integer tells whether a number is one of CloudEvents, whose integers have 32 bits.
func integer(text string) bool {
	n, err := strconv.ParseInt(text, 10, 32)
	return err == nil && strconv.FormatInt(n, 10) == text
}

// other keeps the value of an extension that is no string.
func (e *cloudReader) other(name string, v jsontext.Value) {
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "resource":
		e.fault(name, "must be a string, not %s", kindName(v.Kind()))
		return
	}
	e.keep(name, slices.Clone(v))
}

func (e *cloudReader) keep(name string, value []byte) {
	e.attributes = append(e.attributes, attribute{name, value})
}

// attributeName tells whether a text is one (CloudEvents, section 3, naming convention).
func attributeName(s string) bool {
	for i := range len(s) {
		if (s[i] < 'a' || s[i] > 'z') && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != "" && s != "data"
}

// attribute judges and keeps a context attribute that is a string.
func (e *cloudReader) attribute(name, s string) {
	if at := strings.IndexFunc(s, unspeakable); at >= 0 {
		e.fault(name, "must not hold control characters or noncharacters; %s is one", character([]byte(s), at))
		return
	}
	wrong := ""
	switch name {
	case "specversion":
		if s != specVersion {
			e.fault(name, "must be %s, not %s", specVersion, show(s))
		}
		return
	case "type":
		e.text(hasType, s)
		return
	case "time":
		e.text(hasTime, s)
		return
	case "resource":
		e.text(hasResource, s)
	case "id", "subject":
		if s == "" {
			wrong = "must not be empty"
		}
	case "source":
		if _, err := url.Parse(s); s == "" || err != nil || strings.Contains(s, " ") {
			wrong = "must be a URI or a relative reference, such as https://shop.example/orders, urn:shop:orders or /orders"
		}
	case "dataschema":
		if u, err := url.Parse(s); err != nil || !u.IsAbs() || strings.Contains(s, " ") {
			wrong = "must be an absolute URI"
		}
	case "datacontenttype":
		wrong = checkContentType(s)
	}
	if wrong != "" {
		e.fault(name, "%s", wrong)
		return
	}
	e.keep(name, appendString(nil, s))
}

func checkContentType(s string) string {
	media, params, err := mime.ParseMediaType(s)
	if err != nil || !jsonMedia(media) {
		return "must be application/json or another media type of JSON, because data is a JSON object; " + show(s) + " is none"
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return "must not name the charset " + show(charset) + "; JSON is sent as UTF-8"
	}
	return ""
}

// unspeakable tells the characters that no string of CloudEvents may hold (section 3.1, type system).
func unspeakable(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f || r&0xFFFE == 0xFFFE || r >= 0xFDD0 && r <= 0xFDEF
}

// finish judges the event as a whole and adds it.
func (e *cloudReader) finish() {
	values := map[string][]byte{}
	for _, a := range e.attributes {
		values[a.name] = a.value
	}
	if e.seen&hasVersion == 0 {
		e.fault("specversion", "is needed: %s", specVersion)
	}
	if e.seen&hasID == 0 {
		e.fault("id", "is needed: what tells the event from all others of its source")
	}
	if e.seen&hasSource == 0 {
		e.fault("source", "is needed: where the event comes from, such as /orders")
	}
	if id, source := values["id"], values["source"]; id != nil && source != nil {
		e.s.ID = cloudID(source, id)
	}
	if subject := values["subject"]; subject != nil && e.seen&hasResource == 0 {
		if s := unquote(subject); resourceForm(s) {
			e.s.Resource = s
		}
	}
	if values["datacontenttype"] == nil {
		e.keep("datacontenttype", []byte(`"`+typeJSON+`"`))
	}
	// In one order, so that a repeat is the same event, however it is written.
	slices.SortFunc(e.attributes, func(a, b attribute) int { return cmp.Compare(a.name, b.name) })
	e.s.Attributes = objectOf(e.attributes)
	e.same = e.s.Attributes
	if values[traceParent] != nil || values[traceState] != nil {
		e.s.Trace = queue.ParseTrace(texts(values[traceParent]), texts(values[traceState]))
		// A publisher that repeats an event may do so in another trace.
		e.same = objectOf(slices.DeleteFunc(slices.Clone(e.attributes), func(a attribute) bool { return a.name == traceParent || a.name == traceState }))
	}
	if len(e.s.Attributes) > maxAttributes {
		longest := slices.MaxFunc(e.attributes, func(a, b attribute) int { return cmp.Compare(len(a.value), len(b.value)) })
		e.fault(longest.name, "is too long: the context attributes have more than %d bytes together; what an event carries belongs into data", maxAttributes)
	}
	e.eventReader.finish()
	e.subs = append(e.subs, e.s)
}

// The attributes of the extension Distributed Tracing (CloudEvents, extensions/distributed-tracing). An event keeps them as it keeps
// those of every extension; what they say goes before what the request's headers do.
const (
	traceParent = "traceparent"
	traceState  = "tracestate"
)

// texts is the value of an attribute that is a string, as the values of a header.
func texts(value jsontext.Value) []string {
	if value == nil || value.Kind() != jsontext.KindString {
		return nil
	}
	return []string{unquote(value)}
}

// objectOf is a JSON object of attributes.
func objectOf(attributes []attribute) []byte {
	text := []byte{'{'}
	for i, a := range attributes {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(append(append(text, '"'), a.name...), `":`...), a.value...)
	}
	return append(text, '}')
}

// resourceForm tells whether a subject names a resource.
func resourceForm(s string) bool {
	_, err := store.ParseResource(s)
	return err == nil
}

// cloudID makes the id of an event: in CloudEvents an id is its source's own.
func cloudID(source, id []byte) string {
	h := sha256.New()
	for _, s := range [...][]byte{source, id} { // JSON strings, whose quotes tell where they end
		_, _ = h.Write(s)
	}
	return "ce_" + lowerHex32(h.Sum(nil)[:16])
}

// readBinary reads the event whose attributes are the request's headers.
func (b *batch) readBinary(d *jsontext.Decoder) error {
	e, err := b.newCloud()
	if err != nil {
		return err
	}
	e.headers = true
	names := make([]string, 0, 8)
	for name := range b.c.r.Header {
		if strings.HasPrefix(name, cloudPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, header := range names {
		name := strings.ToLower(header[len(cloudPrefix):])
		values := b.c.r.Header[header]
		switch {
		case name == "datacontenttype":
			e.fault(name, "is not taken: Content-Type says what the data is")
			continue
		case !attributeName(name):
			e.fault(name, "is no name of a context attribute; after Ce- they consist of letters and digits")
			continue
		case len(values) != 1:
			e.fault(name, "is there %d times; give it once", len(values))
			continue
		}
		s, ok := decodeHeader(values[0])
		if !ok {
			e.fault(name, "must be UTF-8, also when it is percent-encoded")
			continue
		}
		e.seen |= cloudBit(name)
		e.attribute(name, s)
	}
	content := b.c.r.Header.Get("Content-Type")
	e.keep("datacontenttype", appendString(nil, content))
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	e.seen |= hasData
	e.data(v)
	e.finish()
	return nil
}

// decodeHeader decodes the value of a header (HTTP Protocol Binding, section 3.1.3.2): quotes around the whole, and what is
// percent-encoded. Common libraries do not encode what they send; what cannot have been encoded stays as it is. It
// returns false for what is not UTF-8.
func decodeHeader(s string) (string, bool) {
	b := []byte(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		if inner, ok := unescape(s[1 : len(s)-1]); ok {
			b = inner
		}
	}
	out := b[:0]
	for i := 0; i < len(b); i++ {
		if b[i] == '%' && i+2 < len(b) {
			if n, err := hex.DecodeString(string(b[i+1 : i+3])); err == nil {
				out = append(out, n[0])
				i += 2
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out), utf8.Valid(out)
}

// unescape takes the backslashes off a quoted text. It returns false for one that has a quote of its own, or ends within
// an escape.
func unescape(s string) ([]byte, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '"' {
			return nil, false
		}
		if s[i] == '\\' {
			if i++; i == len(s) {
				return nil, false
			}
		}
		b = append(b, s[i])
	}
	return b, true
}

// cloud refuses what the payload cloudevents has no form for.
func (p *subscriptionInput) cloud() {
	if p.next.Payload != store.PayloadCloudEvents {
		return
	}
	if p.next.ExportFormat == typeXML {
		p.fault("payload", "must not be cloudevents with the exportFormat %s, in which CloudEvents have no form; use %s, or another payload", typeXML, typeJSON)
	}
	if p.next.Method == http.MethodGet {
		p.fault("payload", "must not be cloudevents with the method GET, which has no body; use POST or PUT")
	}
}
