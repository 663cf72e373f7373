package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"herald/queue"
)

const aCloudEvent = `{"specversion":"1.0","id":"1","source":"/x","type":"a.b","subject":"project/p","time":"2026-11-21T08:30:00Z","ext":5,"data":{"a":1}}`

// accepted publishes a body and returns the events there are.
func (b *bed) accepted(t *testing.T, body string, header ...string) []*queue.Event {
	t.Helper()
	if w := b.request(http.MethodPost, "/events", "pub", body, header...); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	list, err := b.queue.Events(t.Context(), queue.EventFilter{AccountID: "acme", Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The attributes are kept in one order, with what Herald has members for beside them.
func TestCloudEventAttributes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body   string
		header []string
		want   string
	}{
		"structured": {aCloudEvent, []string{"Content-Type", typeCloudEvent}, `{"datacontenttype":"application/json","ext":5,"id":"1","source":"/x","subject":"project/p"}`},
		"batch":      {"[" + aCloudEvent + "]", []string{"Content-Type", typeCloudEvents}, `{"datacontenttype":"application/json","ext":5,"id":"1","source":"/x","subject":"project/p"}`},
		"binary": {
			`{"a":1}`,
			[]string{"Content-Type", "text/json", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/x", "Ce-Type", "a.b", "Ce-Subject", "project/p", "Ce-Ext", "5", "Ce-Flag", "%22a\\"},
			`{"datacontenttype":"text/json","ext":"5","flag":"\"a\\","id":"1","source":"/x","subject":"project/p"}`,
		},
	} {
		b := newBed(t)
		list := b.accepted(t, c.body, c.header...)
		if len(list) != 1 || string(list[0].Attributes) != c.want || list[0].Resource != "project/p" || list[0].Type != "a.b" || string(list[0].Data) != `{"a":1}` {
			t.Errorf("%s: %+v with %s", name, list[0], list[0].Attributes)
		}
	}
	b := newBed(t)
	if list := b.accepted(t, `{"type":"a.b","data":{}}`, "Content-Type", typeJSON); list[0].Attributes != nil {
		t.Errorf("an event of our own form has the attributes %s", list[0].Attributes)
	}
}

// A header that is there twice says nothing.
func TestCloudEventHeaderTwice(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	w := b.through(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Add("Ce-Id", "2")
		b.h.ServeHTTP(w, r)
	}), http.MethodPost, "/events", "pub", `{}`, "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/x", "Ce-Type", "a.b")
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `{"field":"ce-id","detail":"is there 2 times`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestDecodeHeader(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "a": "a", "a%20b": "a b", "%C3%bc": "ü", "ü": "ü", "100%": "100%", "%": "%", "%2": "%2", "%zz": "%zz", "%25zz": "%zz", "%+1": "%+1",
		`"a b"`: "a b", `"a\"b\\"`: `a"b\`, `"a%20b"`: "a b", `"`: `"`, `""`: "", `"a"b"`: `"a"b"`, `"a\"`: `"a\"`, `a"b`: `a"b`, "\U0001f600": "\U0001f600", "%F0%9F%98%80": "\U0001f600",
	} {
		if got, ok := decodeHeader(in); got != want || !ok {
			t.Errorf("%q is %q (%t), want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{"%ff", "\xff", "a%C3", `"%ff"`} {
		if got, ok := decodeHeader(in); ok {
			t.Errorf("%q is %q", in, got)
		}
	}
}

// Whatever comes as a CloudEvent is refused with reasons, or kept as attributes that are one.
func FuzzCloudEvents(f *testing.F) {
	for _, s := range []string{
		aCloudEvent, "[" + aCloudEvent + "]", `{}`, `[]`, `[{}]`, `{"specversion":"1.0","id":"\u00e9","source":"urn:x","type":"a","data":{},"e":true,"n":null}`,
		`{"specversion":"1.0","id":"1","source":"/x","type":"a","data_base64":"e30="}`, `{"a b":{}}`, `{"data":[`, "\xff",
	} {
		f.Add([]byte(s), uint8(0), "1", "a%20b")
		f.Add([]byte(s), uint8(1), "", "")
		f.Add([]byte(s), uint8(2), `"x"`, "%ff")
	}
	f.Fuzz(func(t *testing.T, body []byte, form uint8, id, note string) {
		b := newBed(t, Settings{PayloadBytes: 4096})
		header := []string{"Content-Type", []string{typeCloudEvent, typeCloudEvents, typeJSON}[form%3]}
		if form%3 == 2 {
			header = append(header, "Ce-Specversion", "1.0", "Ce-Source", "/x", "Ce-Type", "a.b", "Ce-Id", id, "Ce-Note", note)
		}
		w := b.request(http.MethodPost, "/events", "pub", string(body), header...)
		if w.Code != http.StatusAccepted {
			if w.Code != 400 && w.Code != 413 && w.Code != 409 || !json.Valid(w.Body.Bytes()) || !strings.HasPrefix(w.Body.String(), `{"title":`) {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("accepted what is not JSON: %q", body)
		}
		list, err := b.queue.Events(t.Context(), queue.EventFilter{AccountID: "acme", Limit: 100})
		if err != nil || len(list) == 0 {
			t.Fatalf("%d events, %v", len(list), err)
		}
		for _, e := range list {
			var attributes map[string]any
			if err := json.Unmarshal(e.Attributes, &attributes); err != nil || len(e.Attributes) > maxAttributes || !strings.HasPrefix(e.ID, "ce_") {
				t.Fatalf("%q kept the attributes %s of %s: %v", body, e.Attributes, e.ID, err)
			}
			names := make([]string, 0, len(attributes))
			for name, v := range attributes {
				names = append(names, name)
				switch v.(type) {
				case string, float64, bool:
				default:
					t.Fatalf("the attribute %s is %v", name, v)
				}
			}
			for _, needed := range []string{"id", "source", "datacontenttype"} {
				if s, _ := attributes[needed].(string); s == "" {
					t.Fatalf("%s has no %s", e.Attributes, needed)
				}
			}
			if slices.ContainsFunc(names, func(n string) bool { return !attributeName(n) || n == "specversion" || n == "type" || n == "time" }) {
				t.Fatalf("%s has other names", e.Attributes)
			}
		}
	})
}
