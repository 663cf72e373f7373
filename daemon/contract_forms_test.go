package daemon_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	cloudhttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// Row D14 and the forms of CloudEvents 1.0, in and out.

const (
	cloudEvent  = "application/cloudevents+json"
	cloudEvents = "application/cloudevents-batch+json"
	xmlHead     = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
)

// wellFormed fails the test unless a parser takes the push for an XML document.
func (p push) wellFormed(t *testing.T) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(p.body))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the push is no XML: %v: %s", err, p.body)
		}
	}
}

func TestContract_D14_ExportFormatXML(t *testing.T) {
	t.Parallel()
	h := start(t)
	whole, bare, many := receive(t), receive(t), receive(t)
	secret := fields{"exportFormat": "application/xml", "signingSecret": aSecret}
	with := func(more fields) fields {
		f := maps.Clone(secret)
		maps.Copy(f, more)
		return f
	}
	a := h.subscribe(whole.URL, with(nil))
	h.subscribe(bare.URL, with(fields{"payload": "data", "method": "PUT"}))
	h.subscribe(many.URL, with(fields{"payload": "data", "numberOfRecords": 3, "maxWaitSeconds": 3600}))
	if got := h.read(a)["exportFormat"]; got != "application/xml" {
		t.Errorf("the subscription reads with the format %v", got)
	}
	h.admin().do("POST", "/events", `{"id":"x-1","type":"task.create","resource":"project/p","time":"2026-11-21T08:30:00.5Z","data":{"title":"<Call & back>","hours":1.50,"tags":["a","b"],"none":[],"no":null,"unit price":5,"deep":{"grid":[[1],[2,3]]},"ctl":"\u0001\r"}}`).is(202)
	const data = `<title>&lt;Call &amp; back&gt;</title><hours>1.50</hours><tags>a</tags><tags>b</tags><no nil="true"/><field name="unit price">5</field><deep><grid><item>1</item></grid><grid><item>2</item><item>3</item></grid></deep><ctl>` + "\uFFFD" + `&#xD;</ctl>`
	want := map[*receiver]string{
		whole: xmlHead + "<record><id>x-1</id><type>task.create</type><resource>project/p</resource><time>2026-11-21T08:30:00.5Z</time><accountId>default</accountId><data>" + data + "</data></record>",
		bare:  xmlHead + "<record>" + data + "</record>",
	}
	for r, text := range want {
		p := r.wait(1)[0]
		if string(p.body) != text || p.header.Get("Content-Type") != "application/xml" || p.id() != "x-1" || !p.verifies(t, aSecret) || p.verifies(t, anotherSecret) {
			t.Errorf("the push is %s with %v", p.body, p.header)
		}
		p.wellFormed(t)
	}
	if m := bare.got()[0].method; m != "PUT" {
		t.Errorf("the method is %s", m)
	}
	h.admin().do("POST", "/events", `[{"type":"a.b","data":{"n":2}},{"type":"a.b","data":{}}]`).is(202)
	p := many.wait(1)[0]
	if text := xmlHead + `<push numberOfRecords="3"><record>` + data + `</record><record><n>2</n></record><record></record></push>`; string(p.body) != text ||
		p.header.Get("Content-Type") != "application/xml" || !p.verifies(t, aSecret) {
		t.Errorf("the batch is %s with %v", p.body, p.header)
	}
	p.wellFormed(t)

	// A change of the format holds from the next push on, also after a restart.
	h.admin().do("PATCH", "/subscriptions/"+a, fields{"exportFormat": nil}).is(200)
	h = h.restart()
	before := len(whole.got())
	h.publish("task.create", "", fields{})
	p = whole.wait(before + 1)[before]
	if p.header.Get("Content-Type") != "application/json" || !json.Valid(p.body) {
		t.Errorf("after the change came %s", p.body)
	}
	h.publish("task.create", "", fields{"n": 3})
	for _, p := range bare.wait(5) {
		p.wellFormed(t)
	}
}

// Whatever an event holds, its XML is a document.
func TestContract_D14_WellFormedForEveryEvent(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe(r.URL, fields{"exportFormat": "application/xml"})
	list := []string{
		`{}`, `{"":""}`, `{"xml":{"xml":[]}}`, `{"a:b":{"c:d":[[],[[]]]}}`, `{"]]>":"]]>","<!--":"-->","<?x":"?>","&amp;":"&#0;"}`,
		`{"\u0000":"\u0000\u0008\u000b\u000c\u001f","\ufffe":"\uffff","\ud83d\ude00":"\ud83d\ude00","\u2028":"\u0085"}`,
		`{"n":[1e400,-0,0.10,123456789012345678901234567890,true,null,"",{}]}`, `{"field":{"field":[{"name":"x","nil":"true"}]}}`,
		strings.Repeat(`{"d":`, 90) + `1` + strings.Repeat(`}`, 90), `{"long":"` + strings.Repeat(`<&>`, 50_000) + `"}`,
	}
	for i, data := range list {
		h.admin().do("POST", "/events", fmt.Sprintf(`{"id":"e%d","type":"a.b","data":%s}`, i, data)).is(202)
	}
	for _, p := range r.wait(len(list)) {
		p.wellFormed(t)
	}
}

// An event whose XML would be far too long is told as rejected, and takes none of its batch along.
func TestContract_D14_OneRecordTooLong(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, fields{"exportFormat": "application/xml", "numberOfRecords": 3, "maxWaitSeconds": 3600, "payload": "data"})
	bomb := `{"` + strings.Repeat("n", 1000) + `":[` + strings.Repeat("1,", 50_000) + `1]}`
	h.admin().do("POST", "/events", `[{"id":"a","type":"a.b","data":{"n":1}},{"id":"bomb","type":"a.b","data":`+bomb+`},{"id":"c","type":"a.b","data":{"n":3}}]`).is(202)
	for _, id := range []string{"a", "c"} {
		h.delivery(id, sub, "delivered")
	}
	d := h.delivery("bomb", sub, "dead")
	if list := attempts(t, d); d["reason"] != "rejected" || len(list) == 0 || list[len(list)-1]["outcome"] != "rejected" {
		t.Errorf("the delivery that cannot be: %v", d)
	} else {
		names(t, "the last attempt", fmt.Sprint(list[len(list)-1]["error"]), "too long as XML")
	}
	for _, p := range r.got() {
		p.wellFormed(t)
	}
}

func TestContract_D14_WrongValues(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"no.such"}})
	clash := fields{"exportFormat": "application/xml", "payload": "cloudevents"}
	for _, c := range []struct {
		body  fields
		field string
		word  string
	}{
		{fields{"exportFormat": "xml"}, "exportFormat", "application/xml"},
		{fields{"exportFormat": "XML"}, "exportFormat", "application/xml"},
		{fields{"exportFormat": "json"}, "exportFormat", "application/json"},
		{fields{"exportFormat": "text/xml"}, "exportFormat", "application/json or application/xml"},
		{fields{"exportFormat": "application/xml; charset=utf-8"}, "exportFormat", "application/xml"},
		{fields{"exportFormat": "Application/XML"}, "exportFormat", "application/xml"},
		{fields{"exportFormat": cloudEvent}, "exportFormat", "application/json"},
		{fields{"exportFormat": ""}, "exportFormat", "application/json"},
		{fields{"exportFormat": []string{"application/xml"}}, "exportFormat", "string"},
		{fields{"payload": "cloudevent"}, "payload", "envelope, data or cloudevents"},
		{fields{"payload": "CloudEvents"}, "payload", "cloudevents"},
		{clash, "payload", "application/json"},
		{fields{"payload": "cloudevents", "method": "GET"}, "payload", "POST or PUT"},
	} {
		c.body["dataCallbackURL"] = r.URL
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			names(t, fmt.Sprintf("%s with %v", method, c.body), h.admin().do(method, path, c.body).problem(400), "\n"+c.field+": ", c.word)
		}
	}
	// The same when one comes to the other.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"payload": "cloudevents"}).is(200)
	for _, patch := range []fields{{"exportFormat": "application/xml"}, {"method": "GET"}} {
		names(t, fmt.Sprint(patch), h.admin().do("PATCH", "/subscriptions/"+id, patch).problem(400), "\npayload: ")
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"payload": nil, "exportFormat": "application/xml"}).is(200)
	names(t, "cloudevents", h.admin().do("PATCH", "/subscriptions/"+id, fields{"payload": "cloudevents"}).problem(400), "\npayload: ")
}

// cloud makes a CloudEvent with the reference library.
func cloud(t *testing.T, id, source string, more func(*cloudevents.Event)) cloudevents.Event {
	t.Helper()
	e := cloudevents.New()
	e.SetID(id)
	e.SetSource(source)
	e.SetType("task.create")
	e.SetTime(time.Date(2026, 11, 21, 8, 30, 0, 500, time.UTC))
	if err := e.SetData("application/json", json.RawMessage(`{"n":1.50,"t":"é"}`)); err != nil {
		t.Fatal(err)
	}
	if more != nil {
		more(&e)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	return e
}

// structured publishes events as the reference library writes them: one, or a batch.
func (c *caller) structured(events ...cloudevents.Event) *answer {
	c.h.t.Helper()
	kind, value := cloudEvents, any(events)
	if len(events) == 1 {
		kind, value = cloudEvent, any(events[0])
	}
	text, err := json.Marshal(value)
	if err != nil {
		c.h.t.Fatal(err)
	}
	return c.with("Content-Type", kind).do("POST", "/events", text)
}

// binary publishes an event in binary mode as the reference library writes it.
func (c *caller) binary(e cloudevents.Event) *answer {
	c.h.t.Helper()
	ctx := binding.WithForceBinary(c.h.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.h.URL, nil)
	if err != nil {
		c.h.t.Fatal(err)
	}
	if err := cloudhttp.WriteRequest(ctx, binding.ToMessage(&e), req); err != nil {
		c.h.t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		c.h.t.Fatal(err)
	}
	for name := range req.Header {
		c = c.with(name, req.Header.Get(name))
	}
	return c.do("POST", "/events", body)
}

// cloudEvents reads a push with the reference library.
func (p push) cloudEvents(t *testing.T) []cloudevents.Event {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/", bytes.NewReader(p.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = p.header
	var list []cloudevents.Event
	if cloudhttp.IsHTTPBatch(p.header) {
		list, err = cloudhttp.NewEventsFromHTTPRequest(req)
	} else {
		var e *cloudevents.Event
		if e, err = cloudhttp.NewEventFromHTTPRequest(req); err == nil {
			list = append(list, *e)
		}
	}
	if err != nil {
		t.Fatalf("the push is no CloudEvent: %v: %s", err, p.body)
	}
	for _, e := range list {
		if err := e.Validate(); err != nil {
			t.Errorf("the push is no valid CloudEvent: %v: %s", err, p.body)
		}
	}
	return list
}

func TestContract_CloudEventsIn(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe(r.URL, nil)
	full := func(e *cloudevents.Event) {
		e.SetSubject("project/proj1")
		e.SetDataSchema("https://schemas.example/task")
		e.SetExtension("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		e.SetExtension("note", `"a" 100% – ü`)
	}
	for mode, publish := range map[string]func(*caller, cloudevents.Event) *answer{
		"structured": func(c *caller, e cloudevents.Event) *answer { return c.structured(e) },
		"binary":     (*caller).binary,
		"batch": func(c *caller, e cloudevents.Event) *answer {
			text, _ := json.Marshal([]cloudevents.Event{e})
			return c.with("Content-Type", cloudEvents).do("POST", "/events", text)
		},
	} {
		e := cloud(t, mode, "/shop", full)
		a := publish(h.admin(), e).is(202)
		id := strings.Trim(strings.NewReplacer("[", "", "]", "", `{"id":`, "", "}", "").Replace(string(a.body)), `"`)
		if batch := a.body[0] == '['; batch != (mode == "batch") || !strings.HasPrefix(id, "ce_") {
			t.Fatalf("%s answered %s", mode, a.body)
		}
		// A repeat is the same event, in any mode and with the attributes in any order.
		for range 2 {
			for again, body := range map[string]*answer{"structured": h.admin().structured(e).is(202), "binary": h.admin().binary(e).is(202)} {
				if body.text("id") != id {
					t.Errorf("%s, then %s: %s", mode, again, body.body)
				}
			}
		}
		got := h.admin().do("GET", "/events/"+id, nil).is(200).object()
		want := map[string]any{
			"id": mode, "source": "/shop", "subject": "project/proj1", "dataschema": "https://schemas.example/task", "datacontenttype": "application/json",
			"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "note": `"a" 100% – ü`,
		}
		if a, _ := got["attributes"].(map[string]any); !maps.Equal(a, want) || got["type"] != "task.create" || got["resource"] != "project/proj1" || got["time"] != "2026-11-21T08:30:00.0000005Z" {
			t.Errorf("%s reads as %v", mode, got)
		}
	}
	for _, p := range r.wait(3) {
		o := p.object(t)
		if !bytes.Contains(p.body, []byte(`"data":{"n":1.50,"t":"é"}}`)) || o["resource"] != "project/proj1" || o["type"] != "task.create" {
			t.Errorf("the envelope is %s", p.body)
		}
	}
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 3 {
		t.Errorf("the repeats made %d events", len(l))
	}
}

// In CloudEvents an id is its source's own.
func TestContract_CloudEventsAreTheirSources(t *testing.T) {
	t.Parallel()
	h := start(t)
	seen := map[string]bool{}
	publish := func(id, source string) string {
		got := h.admin().structured(cloud(t, id, source, nil)).is(202).text("id")
		if seen[got] {
			t.Errorf("the id %s of %s was there before", id, source)
		}
		seen[got] = true
		return got
	}
	first := publish("1", "/a")
	publish("1", "/b")
	publish("2", "/a")
	publish("a1", "/")
	publish("1", "/aa")
	h = h.restart()
	if again := h.admin().structured(cloud(t, "1", "/a", nil)).is(202).text("id"); again != first {
		t.Errorf("the repeat over a restart answered %s, before %s", again, first)
	}
	for what, change := range map[string]func(*cloudevents.Event){
		"data":         func(e *cloudevents.Event) { _ = e.SetData("application/json", json.RawMessage(`{"n":2}`)) },
		"type":         func(e *cloudevents.Event) { e.SetType("task.update") },
		"time":         func(e *cloudevents.Event) { e.SetTime(time.Date(2026, 11, 21, 8, 30, 1, 0, time.UTC)) },
		"subject":      func(e *cloudevents.Event) { e.SetSubject("x") },
		"an extension": func(e *cloudevents.Event) { e.SetExtension("more", "1") },
	} {
		names(t, "the same with another "+what, h.admin().structured(cloud(t, "1", "/a", change)).problem(409), first)
	}
	// A batch is all or none.
	names(t, "a batch", h.admin().structured(cloud(t, "7", "/a", nil), cloud(t, "1", "/a", func(e *cloudevents.Event) { e.SetSubject("x") })).problem(409), "/1/id", first)
	names(t, "a batch", h.admin().structured(cloud(t, "7", "/a", nil), cloud(t, "8", "/a", func(e *cloudevents.Event) { e.SetType("a/b") })).problem(400), "/1/type")
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != len(seen) {
		t.Errorf("there are %d events, want %d", len(l), len(seen))
	}
	list := h.admin().structured(cloud(t, "7", "/a", nil), cloud(t, "8", "/a", nil)).is(202).list()
	if len(list) != 2 || list[0]["id"] == list[1]["id"] {
		t.Errorf("the batch answered %v", list)
	}
}

// What becomes the resource: the extension, else a subject that has the form of one.
func TestContract_CloudEventsResource(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/p")
	r := receive(t)
	h.subscribe(r.URL, fields{"resource": "project/p", "payload": "cloudevents"})
	for i, c := range []struct {
		subject, extension string
		want               any
	}{
		{"project/p", "", "project/p"},
		{"", "project/p", "project/p"},
		{"mail from Ü", "project/p", "project/p"},
		{"project/other", "project/p", "project/p"},
		{"project/p", "project/other", "project/other"},
		{"a/b/c", "", nil},
		{"plain", "", nil},
		{"", "", nil},
	} {
		id := h.admin().structured(cloud(t, fmt.Sprint(i), "/x", func(e *cloudevents.Event) {
			e.SetSubject(c.subject)
			if c.extension != "" {
				e.SetExtension("resource", c.extension)
			}
		})).is(202).text("id")
		got := h.admin().do("GET", "/events/"+id, nil).is(200).object()
		attributes, _ := got["attributes"].(map[string]any)
		if got["resource"] != c.want || c.subject != "" && attributes["subject"] != c.subject {
			t.Errorf("%+v reads as %v", c, got)
		}
	}
	h.sentinel()
	if got := r.wait(4); len(got) != 4 {
		t.Errorf("%d events were selected by the resource", len(got))
	}
}

func TestContract_CloudEventsWrongValues(t *testing.T) {
	t.Parallel()
	h := start(t, "limits: {body_bytes: 64KiB, payload_bytes: 1KiB}")
	const good = `"specversion":"1.0","id":"1","source":"/x","type":"task.create"`
	for _, c := range []struct {
		members string // of the event; "-name" leaves one out of the good ones
		field   string
		words   []string
	}{
		{`"specversion":"0.3","id":"1","source":"/x","type":"a.b","data":{}`, "specversion", []string{"1.0"}},
		{`"specversion":"1.1","id":"1","source":"/x","type":"a.b","data":{}`, "specversion", []string{"1.0"}},
		{`"specversion":1.0,"id":"1","source":"/x","type":"a.b","data":{}`, "specversion", []string{"number"}},
		{`"id":"1","source":"/x","type":"a.b","data":{}`, "specversion", []string{"needed"}},
		{`"specversion":"1.0","source":"/x","type":"a.b","data":{}`, "id", []string{"needed"}},
		{`"specversion":"1.0","id":null,"source":"/x","type":"a.b","data":{}`, "id", []string{"needed"}},
		{`"specversion":"1.0","id":"","source":"/x","type":"a.b","data":{}`, "id", []string{"empty"}},
		{`"specversion":"1.0","id":1,"source":"/x","type":"a.b","data":{}`, "id", []string{"string"}},
		{`"specversion":"1.0","id":"1","type":"a.b","data":{}`, "source", []string{"needed"}},
		{`"specversion":"1.0","id":"1","source":"","type":"a.b","data":{}`, "source", []string{"URI"}},
		{`"specversion":"1.0","id":"1","source":"http://[","type":"a.b","data":{}`, "source", []string{"URI"}},
		{`"specversion":"1.0","id":"1","source":"a b","type":"a.b","data":{}`, "source", []string{"URI"}},
		{`"specversion":"1.0","id":"1","source":"/x","data":{}`, "type", []string{"needed"}},
		{`"specversion":"1.0","id":"1","source":"/x","type":"a b","data":{}`, "type", []string{"letters"}},
		{`"specversion":"1.0","id":"1","source":"/x","type":"a/b","data":{}`, "type", []string{"letters"}},
		{`"specversion":"1.0","id":"1","source":"/x","type":"herald.x","data":{}`, "type", []string{"herald."}},
		{good, "data", []string{"needed"}},
		{good + `,"data":null`, "data", []string{"object", "null"}},
		{good + `,"data":[1]`, "data", []string{"object", "array"}},
		{good + `,"data":"text"`, "data", []string{"object", "string"}},
		{good + `,"data_base64":"e30="`, "data_base64", []string{"data"}},
		{good + `,"datacontenttype":"text/xml","data":{}`, "datacontenttype", []string{"application/json", "text/xml"}},
		{good + `,"datacontenttype":"","data":{}`, "datacontenttype", []string{"application/json"}},
		{good + `,"datacontenttype":"application/json; charset=latin1","data":{}`, "datacontenttype", []string{"UTF-8"}},
		{good + `,"dataschema":"/relative","data":{}`, "dataschema", []string{"absolute"}},
		{good + `,"subject":"","data":{}`, "subject", []string{"empty"}},
		{good + `,"subject":7,"data":{}`, "subject", []string{"string"}},
		{good + `,"time":"yesterday","data":{}`, "time", []string{"RFC 3339"}},
		{good + `,"time":"1066-10-14T00:00:00Z","data":{}`, "time", []string{"1970"}},
		{good + `,"resource":"nothing","data":{}`, "resource", []string{"type/id"}},
		{good + `,"Type":"a.b","data":{}`, "Type", []string{"lower-case"}},
		{good + `,"my_ext":"a","data":{}`, "my_ext", []string{"lower-case"}},
		{good + `,"a b":"a","data":{}`, "a b", []string{"lower-case"}},
		{good + `,"ext":{"a":1},"data":{}`, "ext", []string{"object"}},
		{good + `,"ext":[],"data":{}`, "ext", []string{"array"}},
		{good + `,"ext":1.5,"data":{}`, "ext", []string{"whole number"}},
		{good + `,"ext":2147483648,"data":{}`, "ext", []string{"whole number"}},
		{good + `,"ext":"a\u0007b","data":{}`, "ext", []string{"control"}},
		{good + `,"ext":"\ufdd0","data":{}`, "ext", []string{"noncharacters"}},
		{good + `,"ext":"` + strings.Repeat("x", 9000) + `","data":{}`, "ext", []string{"8192"}},
	} {
		one := h.admin().with("Content-Type", cloudEvent).do("POST", "/events", "{"+c.members+"}").problem(400)
		names(t, c.members, one, append(c.words, "\n"+c.field+": ")...)
		batch := h.admin().with("Content-Type", cloudEvents).do("POST", "/events", `[{"specversion":"1.0","id":"0","source":"/x","type":"a.b","data":{}},{`+c.members+"}]").problem(400)
		names(t, "a batch with "+c.members, batch, append(c.words, "\n/1/"+c.field+": ")...)
	}
	for _, c := range []struct {
		kind, body string
		status     int
		word       string
	}{
		{cloudEvent, ``, 400, "empty"},
		{cloudEvents, ``, 400, "empty"},
		{cloudEvents, `[]`, 400, "empty"},
		{cloudEvent, `[{` + good + `,"data":{}}]`, 400, cloudEvents},
		{cloudEvents, `{` + good + `,"data":{}}`, 400, cloudEvent},
		{cloudEvents, `[7]`, 400, "/0: "},
		{cloudEvent, `7`, 400, "number"},
		{cloudEvent, `{` + good + `,"data":{}} {}`, 400, "goes on"},
		{cloudEvent, `{` + good + `,"data":{}`, 400, "ends in the middle"},
		{cloudEvent, `{` + good + `,"id":"2","data":{}}`, 400, "twice"},
		{cloudEvent, `{` + good + `,"data":{"a":1,"a":2}}`, 400, "twice"},
		{cloudEvent, `{` + good + `,"ext":"\ud800","data":{}}`, 400, "JSON"},
		{cloudEvent, `{` + good + `,"data":{"a":"` + strings.Repeat("x", 1100) + `"}}`, 413, "1024"},
		{cloudEvent + "; charset=latin1", `{` + good + `,"data":{}}`, 415, "UTF-8"},
		{"application/cloudevents", `{` + good + `,"data":{}}`, 415, cloudEvent},
		{"application/cloudevents+xml", `<event/>`, 415, cloudEvent},
		{"application/xml", `<event/>`, 415, cloudEvents},
		{"text/json", `{` + good + `,"data":{}}`, 415, "application/json"},
		{"application/json", `{` + good + `,"data":{}}`, 400, "specversion"}, // it is another form
	} {
		names(t, c.kind+" with "+c.body, h.admin().with("Content-Type", c.kind).do("POST", "/events", c.body).problem(c.status), c.word)
	}
	if text := h.admin().with("Content-Type", cloudEvent).do("POST", "/events", `{`+good+`,"data_base64":"e30="}`).problem(400); strings.Contains(text, "needed") {
		t.Errorf("data in base64 is called missing: %s", text)
	}
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("refused events were stored: %v", l)
	}
	// What is only unusual is taken.
	for _, members := range []string{
		good + `,"data":{},"datacontenttype":"application/vnd.task+json","ext":-5,"flag":false,"none":null,"subject":null,"resource":null,"time":null`,
		`"data":{"a":1},"type":"x","source":"urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66","id":"\u00e9 /?","specversion":"1.0","averylongnameofanextensionattribute":"2147483647"`,
	} {
		h.admin().with("Content-Type", cloudEvent+"; charset=UTF-8").do("POST", "/events", "{"+members+"}").is(202)
	}
}

func TestContract_CloudEventsBinary(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe(r.URL, fields{"payload": "cloudevents"})
	good := map[string]string{"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "task.create"}
	call := func(change map[string]string) *caller {
		c := h.admin()
		for _, set := range []map[string]string{good, change} {
			for k, v := range set {
				c = c.with(k, v)
			}
		}
		for k, v := range change {
			if v == "" {
				delete(c.headers, k)
			}
		}
		return c
	}
	for _, c := range []struct {
		change map[string]string
		body   string
		status int
		words  []string
	}{
		{map[string]string{"ce-specversion": "0.3"}, `{}`, 400, []string{"\nce-specversion: ", "1.0"}},
		{map[string]string{"ce-id": ""}, `{}`, 400, []string{"\nce-id: ", "needed"}},
		{map[string]string{"ce-source": ""}, `{}`, 400, []string{"\nce-source: ", "needed"}},
		{map[string]string{"ce-type": ""}, `{}`, 400, []string{"\nce-type: ", "needed"}},
		{map[string]string{"ce-type": "a b"}, `{}`, 400, []string{"\nce-type: "}},
		{map[string]string{"ce-time": "now"}, `{}`, 400, []string{"\nce-time: ", "RFC 3339"}},
		{map[string]string{"ce-resource": "x"}, `{}`, 400, []string{"\nce-resource: ", "type/id"}},
		{map[string]string{"ce-datacontenttype": "application/json"}, `{}`, 400, []string{"\nce-datacontenttype: ", "Content-Type"}},
		{map[string]string{"ce-my-ext": "x"}, `{}`, 400, []string{"\nce-my-ext: ", "letters"}},
		{map[string]string{"ce-note": "%"}, `[]`, 400, []string{"\ndata: "}}, // the note is let pass
		{map[string]string{"ce-note": "%ff"}, `{}`, 400, []string{"\nce-note: ", "UTF-8"}},
		{map[string]string{"ce-note": "%07"}, `{}`, 400, []string{"\nce-note: ", "control"}},
		{nil, ``, 400, []string{"empty"}},
		{nil, `[]`, 400, []string{"\ndata: ", "object"}},
		{nil, `{} {}`, 400, []string{"goes on"}},
		{nil, `{"a":}`, 400, []string{"JSON"}},
		{map[string]string{"Content-Type": "text/plain"}, `{}`, 415, []string{"application/json"}},
		{map[string]string{"Content-Type": "application/x-ndjson"}, `{}`, 415, []string{"application/json"}},
		{map[string]string{"Content-Type": "application/json; charset=latin1"}, `{}`, 415, []string{"UTF-8"}},
	} {
		names(t, fmt.Sprintf("%v with %q", c.change, c.body), call(c.change).do("POST", "/events", c.body).problem(c.status), c.words...)
	}
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("refused events were stored: %v", l)
	}
	// The body is the data, whatever members it has, and its media type is kept.
	const data = `{ "type":"x", "data":[1.0] }`
	call(map[string]string{"Content-Type": "application/vnd.task+json", "ce-note": `"a%20\"b\""`, "ce-subject": "%C3%BC"}).do("POST", "/events", data).is(202)
	p := r.wait(1)[0]
	o := p.object(t)
	if !bytes.Contains(p.body, []byte(`,"data":`+data+`}`)) || o["datacontenttype"] != "application/vnd.task+json" || o["note"] != `a "b"` || o["subject"] != "ü" || o["source"] != "/x" || o["id"] != "1" {
		t.Errorf("the push is %s", p.body)
	}
	// The headers may stand beside an event that has them in itself.
	call(map[string]string{"Content-Type": cloudEvent}).do("POST", "/events", `{"specversion":"1.0","id":"2","source":"/y","type":"a.b","data":{}}`).is(202)
	if o := r.wait(2)[1].object(t); o["id"] != "2" || o["source"] != "/y" {
		t.Errorf("the structured one is %v", o)
	}
}

func TestContract_CloudEventsOut(t *testing.T) {
	t.Parallel()
	h := start(t)
	one, many := receive(t), receive(t)
	one.status(500) // so that the events outlast a restart
	h.subscribe(one.URL, fields{"payload": "cloudevents", "signingSecret": aSecret, "delivery": promptly(20), "method": "PUT"})
	h.subscribe(many.URL, fields{"payload": "cloudevents", "signingSecret": aSecret, "numberOfRecords": 3, "maxWaitSeconds": 3600})
	const data = `{ "n":1.50, "t":"\u00e9é<>" }`
	h.admin().do("POST", "/events", `{"id":"own-1","type":"task.create","resource":"project/p","time":"2026-11-21T08:30:00.5Z","data":`+data+`}`).is(202)
	h.admin().do("POST", "/events", `{"id":"own-2","type":"task.create","data":{}}`).is(202)
	came := cloud(t, "1", "https://shop.example/orders", func(e *cloudevents.Event) {
		e.SetSubject("not a resource")
		e.SetDataSchema("https://schemas.example/task")
		e.SetExtension("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		e.SetExtension("sequence", int32(7))
		e.SetExtension("sampled", true)
	})
	h.admin().structured(came).is(202)
	batch := many.wait(1)[0]
	if kind := batch.header.Get("Content-Type"); kind != cloudEvents || !batch.verifies(t, aSecret) {
		t.Errorf("the batch came as %s", kind)
	}
	one.wait(3)
	h = h.restart()
	one.status(200)
	singles := map[string]cloudevents.Event{}
	eventually(t, "all have come again", func() bool {
		for _, p := range one.got() {
			if kind := p.header.Get("Content-Type"); kind != cloudEvent || !p.verifies(t, aSecret) || p.method != "PUT" {
				t.Fatalf("a push came as %s with %s", kind, p.method)
			}
			if p.header.Get("Herald-Attempt") != "1" {
				e := p.cloudEvents(t)[0]
				singles[e.ID()] = e
			}
		}
		return len(singles) == 3
	})
	list := batch.cloudEvents(t)
	if len(list) != 3 {
		t.Fatalf("the batch has %d events: %s", len(list), batch.body)
	}
	for _, e := range list {
		if s := singles[e.ID()]; s.String() != e.String() {
			t.Errorf("in the batch it is\n%s, alone\n%s", e, s)
		}
	}
	e := singles["own-1"]
	if e.SpecVersion() != "1.0" || e.Source() != "urn:herald:default" || e.Type() != "task.create" || e.Subject() != "project/p" ||
		!e.Time().Equal(time.Date(2026, 11, 21, 8, 30, 0, 5e8, time.UTC)) || e.DataContentType() != "application/json" || string(e.Data()) != data || len(e.Extensions()) != 0 {
		t.Errorf("the event is %s", e)
	}
	if e := singles["own-2"]; e.Subject() != "" || e.Source() != "urn:herald:default" {
		t.Errorf("the event without resource is %s", e)
	}
	if e := singles["1"]; e.String() != came.String() || string(e.Data()) != string(came.Data()) {
		t.Errorf("what came as\n%s\nwent as\n%s", came, e)
	}
	// A batch that holds one is a batch all the same.
	h.admin().structured(cloud(t, "2", "/x", nil), cloud(t, "3", "/x", nil), cloud(t, "4", "/x", nil)).is(202)
	var got []string
	for _, e := range many.wait(2)[1].cloudEvents(t) {
		got = append(got, e.ID())
	}
	if !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("the second batch has %v", got)
	}
}

// One Herald can publish to another: what goes out is what comes in.
func TestContract_CloudEventsFromHeraldToHerald(t *testing.T) {
	t.Parallel()
	from, to := start(t), start(t)
	r := receive(t)
	to.subscribe(r.URL, fields{"payload": "cloudevents"})
	for _, records := range []int{1, 2} {
		from.subscribe(to.URL+"/events", fields{
			"payload": "cloudevents", "numberOfRecords": records, "maxWaitSeconds": 0, "authentication": fields{"type": "bearer", "token": adminToken},
		})
	}
	from.publish("task.create", "project/p", fields{"n": 1})
	from.admin().structured(cloud(t, "1", "/shop", func(e *cloudevents.Event) { e.SetExtension("more", "x") })).is(202)
	sources := map[string]string{}
	for _, p := range r.wait(2) {
		e := p.cloudEvents(t)[0]
		sources[e.Source()] = e.Subject() + fmt.Sprint(e.Extensions()["more"])
	}
	if want := map[string]string{"urn:herald:default": "project/p<nil>", "/shop": "x"}; !maps.Equal(sources, want) {
		t.Errorf("came from %v, want %v", sources, want)
	}
	// They came twice, by two subscriptions, and are each one event.
	from.eventually("all is delivered", func() bool {
		return len(from.admin().do("GET", "/deliveries?state=delivered", nil).is(200).list()) == 4
	})
	if l := to.admin().do("GET", "/events", nil).is(200).list(); len(l) != 2 {
		t.Errorf("the receiving Herald has %d events", len(l))
	}
}
