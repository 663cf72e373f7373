package webhook

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"herald/queue"
	"herald/store"
)

// element is XML as a parser that knows nothing of us hands it over.
type element struct {
	name  string
	attrs map[string]string
	text  string
	kids  []*element
}

// parseXML reads a document, as strictly as the parser can.
func parseXML(doc []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(doc))
	d.Strict = true
	root := &element{}
	open := []*element{root}
	for {
		t, err := d.RawToken()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return nil, err
			}
			break
		}
		top := open[len(open)-1]
		switch t := t.(type) {
		case xml.StartElement:
			if t.Name.Space != "" {
				return nil, fmt.Errorf("the name space %q", t.Name.Space)
			}
			e := &element{name: t.Name.Local, attrs: map[string]string{}}
			for _, a := range t.Attr {
				if _, twice := e.attrs[a.Name.Local]; twice || a.Name.Space != "" {
					return nil, fmt.Errorf("the attribute %v of %s", a.Name, e.name)
				}
				e.attrs[a.Name.Local] = a.Value
			}
			top.kids = append(top.kids, e)
			open = append(open, e)
		case xml.EndElement:
			if len(open) == 1 || t.Name.Local != top.name || t.Name.Space != "" {
				return nil, fmt.Errorf("the end of %v within %s", t.Name, top.name)
			}
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) == 1 && strings.TrimSpace(string(t)) != "" {
				return nil, fmt.Errorf("%q outside of the document", t)
			}
			top.text += string(t)
		case xml.ProcInst:
			if t.Target != "xml" || len(open) != 1 || len(root.kids) > 0 {
				return nil, fmt.Errorf("the instruction %s", t.Target)
			}
		default:
			return nil, fmt.Errorf("%T in the document", t)
		}
	}
	if len(open) != 1 || len(root.kids) != 1 {
		return nil, fmt.Errorf("%d roots, %d open elements", len(root.kids), len(open)-1)
	}
	// Once more as programs read it, which looks at more.
	d = xml.NewDecoder(bytes.NewReader(doc))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return root.kids[0], nil
		} else if err != nil {
			return nil, err
		}
	}
}

// heard is a JSON value as far as its XML tells: scalars as their text, nil for null, objects as their members in order,
// each with the values of its array in order.
type heard struct {
	text    string
	null    bool
	members []heardMember
}

type heardMember struct {
	name  string
	value heard
}

// hear is the mapping read backwards.
func (e *element) hear() (heard, error) {
	if e.attrs["nil"] == "true" {
		if e.text != "" || len(e.kids) > 0 {
			return heard{}, fmt.Errorf("null with content: %+v", e)
		}
		return heard{null: true}, nil
	}
	h := heard{text: e.text}
	for _, k := range e.kids {
		v, err := k.hear()
		if err != nil {
			return heard{}, err
		}
		name := k.name
		if named, ok := k.attrs["name"]; ok {
			if name != "field" {
				return heard{}, fmt.Errorf("a name at %s", name)
			}
			name = named
		}
		for a := range k.attrs {
			if a != "name" && a != "nil" {
				return heard{}, fmt.Errorf("the attribute %s", a)
			}
		}
		h.members = append(h.members, heardMember{name, v})
	}
	if len(h.members) > 0 && h.text != "" {
		return heard{}, fmt.Errorf("text %q beside elements", h.text)
	}
	return h, nil
}

// tell says what has to be heard of a value, from the standard library's decoder, which keeps the order.
func tell(d *json.Decoder) (heard, bool, error) {
	t, err := d.Token()
	if err != nil {
		return heard{}, false, err
	}
	switch t := t.(type) {
	case nil:
		return heard{null: true}, false, nil
	case bool:
		return heard{text: fmt.Sprint(t)}, false, nil
	case json.Number:
		return heard{text: t.String()}, false, nil
	case string:
		return heard{text: carried(t)}, false, nil
	}
	array := t == json.Delim('[')
	h := heard{}
	for d.More() {
		name := "item"
		if !array {
			t, err := d.Token()
			if err != nil {
				return heard{}, false, err
			}
			name = carried(t.(string))
		}
		v, list, err := tell(d)
		if err != nil {
			return heard{}, false, err
		}
		if list && !array {
			for _, item := range v.members {
				h.members = append(h.members, heardMember{name, item.value})
			}
			continue
		}
		h.members = append(h.members, heardMember{name, v})
	}
	_, err = d.Token()
	return h, array, err
}

// carried is a text with what XML 1.0 has no characters for replaced (section 2.2, Char).
func carried(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 {
			return r
		}
		return utf8.RuneError
	}, s)
}

// appendXML appends the document of one record, which is value.
func appendXML(dst, value []byte) ([]byte, error) {
	w := xmlWriter{out: append(dst, xmlHead...)}
	err := w.record(value)
	return w.out, err
}

// checkXML encodes JSON and holds against it what an independent parser finds.
func checkXML(t *testing.T, value []byte) {
	t.Helper()
	doc, err := appendXML([]byte("before"), value)
	if err != nil {
		if json.Valid(value) && !errors.Is(err, errXMLGrown) && !deep(value) {
			t.Fatalf("%q: %v", value, err)
		}
		return
	}
	doc = bytes.TrimPrefix(doc, []byte("before"))
	if len(doc) > 200+xmlRoom+xmlGrowth*len(value) {
		t.Fatalf("%d bytes of JSON made %d of XML", len(value), len(doc))
	}
	root, err := parseXML(doc)
	if err != nil {
		t.Fatalf("%q became\n%s\nwhich is no XML: %v", value, doc, err)
	}
	if !utf8.Valid(value) {
		return // the two decoders replace wrong bytes in ways of their own
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	want, _, err := tell(d)
	if err != nil {
		t.Fatalf("%q was taken and is no JSON: %v", value, err)
	}
	got, err := root.hear()
	if err != nil || root.name != "record" || !reflect.DeepEqual(got, want) {
		t.Fatalf("%q became\n%s\nheard: %+v, %v\nwant: %+v", value, doc, got, err, want)
	}
}

// deep tells whether JSON is nested deeper than the decoder goes.
func deep(value []byte) bool {
	return bytes.Count(value, []byte("["))+bytes.Count(value, []byte("{")) > 10_000
}

var xmlSamples = []string{
	`{}`, `[]`, `null`, `true`, `"text"`, `-0.0e+10`, `[1,[2,[]],{"a":[[3],4,null]}]`,
	`{"a":null,"b":[],"c":[null],"d":{},"e":"","f":[[]],"g":[{}],"h":false}`,
	`{"n":1.50,"big":123456789012345678901234567890,"tiny":1E-400,"neg":-0}`,
	`{"a b":1,"":2,"1a":3,"xml":4,"XmLish":5,"a:b":6,"field":7,"-a":8,".":9,"a.b-c_1":10,"größe":11,"名前":12,"\u0301x":13,"ȡ":14,"a\"<&>'":[1,2]}`,
	`{"\u0000\t\n\r\u001f":"\u0000\t\n\r\u001f\u007f\u0085\u2028\ufffe\uffff\ud800x\udc00\ud83d\ude00]]>&lt;<!-- --><![CDATA["}`,
	`{"item":[1,2],"push":{"record":3},"a":{"a":{"a":[{"a":1},{"a":2}]}}}`,
	` { "a" : [ 1 , 2 ] } `, `{"a":1,"a":2}`, `{"a":[1],"A":[2]}`,
	"{\"a\":\"\xff\xfe\"}", `{"a":`, `{"a":1}}`, `{"a":1} {}`, ``, `nul`, `{"a" 1}`, `[1,]`, `[1}`, "\ufeff{}",
}

func TestXML(t *testing.T) {
	t.Parallel()
	for _, s := range xmlSamples {
		checkXML(t, []byte(s))
		if s = strings.TrimSpace(s); !json.Valid([]byte(s)) && !strings.Contains(s, "\xff") {
			if _, err := appendXML(nil, []byte(s)); err == nil {
				t.Errorf("%q was taken for JSON", s)
			}
		}
	}
}

func FuzzXML(f *testing.F) {
	for _, s := range xmlSamples {
		f.Add([]byte(s))
	}
	f.Fuzz(checkXML)
}

// FuzzXMLText puts any text where a text can be: also bytes that the JSON of a fuzzer hardly ever has.
func FuzzXMLText(f *testing.F) {
	for _, s := range []string{"a", "a b", "\x00", "xmlns", "\xff", "\uffff", "]]>", "\r\n", "é", "\U0010ffff"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		value, err := json.Marshal(map[string]any{name: []string{text, name}})
		if err != nil {
			t.Fatal(err)
		}
		checkXML(t, value)
	})
}

// The mapping as it is documented.
func TestXMLMapping(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`{"title":"Call back","hours":1.50,"done":false}`: `<title>Call back</title><hours>1.50</hours><done>false</done>`,
		`{"tags":["a","b"]}`:                              `<tags>a</tags><tags>b</tags>`,
		`{"tags":["a"]}`:                                  `<tags>a</tags>`,
		`{"tags":"a"}`:                                    `<tags>a</tags>`,
		`{"tags":[]}`:                                     ``,
		`{"tags":null}`:                                   `<tags nil="true"/>`,
		`{"tags":[null,""]}`:                              `<tags nil="true"/><tags></tags>`,
		`{"tags":{}}`:                                     `<tags></tags>`,
		`{"grid":[[1,2],[3],[]]}`:                         `<grid><item>1</item><item>2</item></grid><grid><item>3</item></grid><grid></grid>`,
		`{"grid":[[[1]]]}`:                                `<grid><item><item>1</item></item></grid>`,
		`{"at":{"x":1},"to":[{"x":2},{"x":3}]}`:           `<at><x>1</x></at><to><x>2</x></to><to><x>3</x></to>`,
		`{"unit price":5}`:                                `<field name="unit price">5</field>`,
		`{"a:b":[1,null]}`:                                `<field name="a:b">1</field><field name="a:b" nil="true"/>`,
		`{"1st":1,"xml":2,"":3}`:                          `<field name="1st">1</field><field name="xml">2</field><field name="">3</field>`,
		`{"größe":1,"field":2}`:                           `<größe>1</größe><field>2</field>`,
		`{"a\"<\n":"<&>\"\r\n"}`:                          "<field name=\"a&quot;&lt;&#xA;\">&lt;&amp;&gt;\"&#xD;\n</field>",
		`{"t":"\u0000\ud800\uffff"}`:                      "<t>\uFFFD\uFFFD\uFFFD</t>",
		`[1,{"a":2}]`:                                     `<item>1</item><item><a>2</a></item>`,
		`"text"`:                                          `text`,
	} {
		got, err := appendXML(nil, []byte(value))
		if want = xmlHead + "<record>" + want + "</record>"; err != nil || string(got) != want {
			t.Errorf("%s became\n%s (%v), want\n%s", value, got, err, want)
		}
	}
	if got, err := appendXML(nil, []byte("null")); err != nil || string(got) != xmlHead+`<record nil="true"/>` {
		t.Errorf("null became %s, %v", got, err)
	}
}

// Whatever we take for a name is one to a parser, wherever it stands in it, and every letter of our ranges is used.
func TestXMLNames(t *testing.T) {
	t.Parallel()
	safe := 0
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) || r > 0xFFFF && r%997 != 0 {
			continue
		}
		for _, name := range []string{string(r), "a" + string(r)} {
			if !safeXMLName([]byte(name)) {
				continue
			}
			safe++
			if root, err := parseXML([]byte("<" + name + "></" + name + ">")); err != nil || root.name != name {
				t.Fatalf("%q (%U) is no name: %v", name, r, err)
			}
		}
	}
	if safe < 60_000 {
		t.Errorf("only %d names are safe", safe)
	}
	for _, name := range []string{"", "xml", "XML", "xMl-a", "xmlns", "a:b", "1", "-", ".", "a b", "a\x00", "\xff", "a\xff", "×", "÷", "a/b", "ns:"} {
		if safeXMLName([]byte(name)) {
			t.Errorf("%q is taken for a safe name", name)
		}
	}
}

// A payload cannot make itself grow without bound by a long name that is repeated for each item.
func TestXMLGrowth(t *testing.T) {
	t.Parallel()
	bomb := `{"` + strings.Repeat("n", 1000) + `":[` + strings.Repeat("1,", 100_000) + `1]}`
	out, err := appendXML(nil, []byte(bomb))
	if !errors.Is(err, errXMLGrown) || len(out) > 2*(xmlRoom+xmlGrowth*len(bomb)) {
		t.Errorf("%d bytes of XML, %v", len(out), err)
	}
	sub := subscription("http://127.0.0.1:1/")
	sub.ExportFormat = typeXML
	for _, form := range []store.PayloadForm{store.PayloadEnvelope, store.PayloadData} {
		e := event()
		sub.Payload, e.Data = form, []byte(bomb)
		if _, pr := encode(sub, &queue.Push{Events: []*queue.Event{e}}); pr == nil || pr.class != queue.ClassRejected || !strings.Contains(pr.text, "long") {
			t.Errorf("%s: %+v", form, pr)
		}
		e.Data = []byte(`{"a":`)
		if _, pr := encode(sub, &queue.Push{Events: []*queue.Event{e}}); pr == nil || pr.class != queue.ClassRejected || !strings.Contains(pr.text, "JSON") {
			t.Errorf("%s: %+v", form, pr)
		}
	}
	// Real ones may be as dense as this.
	if _, err := appendXML(nil, []byte(`{"temperatureReadings":[`+strings.Repeat("1,", 100_000)+`1]}`)); err != nil {
		t.Error(err)
	}
}

func TestXMLDepth(t *testing.T) {
	t.Parallel()
	for _, n := range []int{100, 5000, 20_000} {
		checkXML(t, []byte(strings.Repeat(`{"a":`, n)+`1`+strings.Repeat(`}`, n)))
		checkXML(t, []byte(strings.Repeat(`[`, n)+strings.Repeat(`]`, n)))
	}
}

func TestXMLPushes(t *testing.T) {
	t.Parallel()
	odd := event()
	odd.ID, odd.Resource, odd.AccountID, odd.Data = `<&">`, "", "a&b", []byte(`{"a":[1,2]}`)
	const head = `<id>evt_1</id><type>task.create</type><resource>project/proj1</resource><time>2026-11-21T10:20:30.123456789Z</time><accountId>default</accountId>`
	for name, c := range map[string]struct {
		payload store.PayloadForm
		records int
		events  []*queue.Event
		want    string
	}{
		"envelope":           {store.PayloadEnvelope, 1, []*queue.Event{event()}, "<record>" + head + "<data><n>1.0</n><text>éä&lt;&gt;</text></data></record>"},
		"data":               {store.PayloadData, 1, []*queue.Event{event()}, "<record><n>1.0</n><text>éä&lt;&gt;</text></record>"},
		"a batch of one":     {store.PayloadData, 2, []*queue.Event{odd}, `<push numberOfRecords="1"><record><a>1</a><a>2</a></record></push>`},
		"a batch":            {store.PayloadData, 9, []*queue.Event{odd, event()}, `<push numberOfRecords="2"><record><a>1</a><a>2</a></record><record><n>1.0</n><text>éä&lt;&gt;</text></record></push>`},
		"a batch, enveloped": {store.PayloadEnvelope, 9, []*queue.Event{odd}, `<push numberOfRecords="1"><record><id>&lt;&amp;"&gt;</id><type>task.create</type><time>2026-11-21T10:20:30.123456789Z</time><accountId>a&amp;b</accountId><data><a>1</a><a>2</a></data></record></push>`},
	} {
		sub := subscription("http://127.0.0.1:1/")
		sub.ExportFormat, sub.Payload, sub.NumberOfRecords = typeXML, c.payload, c.records
		before := string(c.events[0].Data)
		got, pr := encode(sub, &queue.Push{Events: c.events})
		if pr != nil || string(got) != xmlHead+c.want {
			t.Errorf("%s:\n%s\nwant\n%s (%v)", name, got, xmlHead+c.want, pr)
		}
		if _, err := parseXML(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if string(c.events[0].Data) != before {
			t.Errorf("%s: the data was changed", name)
		}
	}
}

// The content type of each form, and what has none.
func TestContentType(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format  string
		payload store.PayloadForm
		records int
		want    string
	}{
		{"application/json", store.PayloadEnvelope, 1, "application/json"},
		{"application/json", store.PayloadData, 2, "application/json"},
		{"application/xml", store.PayloadEnvelope, 1, "application/xml"},
		{"application/xml", store.PayloadData, 2, "application/xml"},
		{"application/json", store.PayloadCloudEvents, 1, "application/cloudevents+json"},
		{"application/json", store.PayloadCloudEvents, 2, "application/cloudevents-batch+json"},
		{"application/xml", store.PayloadCloudEvents, 1, ""},
		{"text/plain", store.PayloadEnvelope, 1, ""},
		{"", store.PayloadCloudEvents, 1, ""},
	} {
		sub := subscription("http://127.0.0.1:1/")
		sub.ExportFormat, sub.Payload, sub.NumberOfRecords, sub.Method = c.format, c.payload, c.records, http.MethodPut
		p := push()
		req, pr := newSender(t, http.DefaultTransport).request(&exchange{Context: t.Context()}, sub, &p)
		if c.want == "" {
			if pr == nil || pr.class != queue.ClassMisconfigured {
				t.Errorf("%+v: %+v", c, pr)
			}
		} else if pr != nil || req.Header.Get("Content-Type") != c.want {
			t.Errorf("%+v: %v", c, pr)
		}
	}
}
