package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

func TestEventBodiesThatAreWrong(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1)
	for name, x := range map[string]struct {
		body   string
		status int
		field  string // of the first fault, "" when it is not about a field
		words  []string
	}{
		"empty object":          {`{}`, 400, "type", []string{"type", "data"}},
		"no type":               {`{"data":{}}`, 400, "type", []string{"is needed"}},
		"no data":               {`{"type":"a"}`, 400, "data", []string{"is needed"}},
		"null data":             {`{"type":"a","data":null}`, 400, "data", []string{"object, not null"}},
		"null type":             {`{"type":null,"data":{}}`, 400, "type", []string{"string, not null"}},
		"array data":            {`{"type":"a","data":[]}`, 400, "data", []string{"object, not an array"}},
		"string data":           {`{"type":"a","data":"{}"}`, 400, "data", []string{"object, not a string"}},
		"number type":           {`{"type":1,"data":{}}`, 400, "type", []string{"string, not a number"}},
		"boolean id":            {`{"id":true,"type":"a","data":{}}`, 400, "id", []string{"string, not a boolean"}},
		"object time":           {`{"time":{},"type":"a","data":{}}`, 400, "time", []string{"string, not an object"}},
		"empty type":            {`{"type":"","data":{}}`, 400, "type", nil},
		"type with a space":     {`{"type":"a b","data":{}}`, 400, "type", nil},
		"type with two dots":    {`{"type":"a..b","data":{}}`, 400, "type", nil},
		"type that is long":     {`{"type":"` + strings.Repeat("a", 129) + `","data":{}}`, 400, "type", []string{"128"}},
		"reserved type":         {`{"type":"herald.ping","data":{}}`, 400, "type", []string{"herald."}},
		"reserved, upper case":  {`{"type":"HERALD.ping","data":{}}`, 400, "type", []string{"herald."}},
		"resource form":         {`{"type":"a","resource":"proj1","data":{}}`, 400, "resource", []string{"type/id"}},
		"resource of stars":     {`{"type":"a","resource":"project/*","data":{}}`, 400, "resource", nil},
		"empty resource":        {`{"type":"a","resource":"","data":{}}`, 400, "resource", nil},
		"time without zone":     {`{"type":"a","time":"2026-11-21T08:30:00","data":{}}`, 400, "time", []string{"RFC 3339"}},
		"time as a date":        {`{"type":"a","time":"2026-11-21","data":{}}`, 400, "time", []string{"RFC 3339"}},
		"time with a comma":     {`{"type":"a","time":"2026-11-21T08:30:00,5Z","data":{}}`, 400, "time", nil},
		"hour of one digit":     {`{"type":"a","time":"2026-11-21T8:30:00Z","data":{}}`, 400, "time", nil},
		"offset that is none":   {`{"type":"a","time":"2026-11-21T08:30:00+24:00","data":{}}`, 400, "time", nil},
		"time before 1970":      {`{"type":"a","time":"1969-12-31T23:59:59Z","data":{}}`, 400, "time", []string{"1970"}},
		"time after 2199":       {`{"type":"a","time":"2200-01-01T00:00:00Z","data":{}}`, 400, "time", []string{"2199"}},
		"time far off":          {`{"type":"a","time":"10000-01-01T00:00:00Z","data":{}}`, 400, "time", nil},
		"empty id":              {`{"id":"","type":"a","data":{}}`, 400, "id", nil},
		"id that is long":       {`{"id":"` + strings.Repeat("i", 129) + `","type":"a","data":{}}`, 400, "id", []string{"128"}},
		"id with a space":       {`{"id":"a b","type":"a","data":{}}`, 400, "id", nil},
		"id not ASCII":          {`{"id":"é","type":"a","data":{}}`, 400, "id", nil},
		"unknown member":        {`{"type":"a","data":{},"payload":{}}`, 400, "payload", []string{"payload", "id, type, resource, time and data"}},
		"twice":                 {`{"type":"a","type":"b","data":{}}`, 400, "type", []string{"twice"}},
		"twice by case":         {`{"type":"a","TYPE":"b","data":{}}`, 400, "TYPE", []string{"twice"}},
		"twice in data":         {`{"type":"a","data":{"x":{"k":1,"k":2}}}`, 400, "/data/x/k", []string{"twice"}},
		"unknown twice":         {`{"type":"a","data":{},"z":1,"z":2}`, 400, "z", []string{"twice"}},
		"deep data":             {`{"type":"a","data":` + deep + `}`, 400, "data", []string{"100 levels"}},
		"data too deep to read": {`{"type":"a","data":` + strings.Repeat(`{"a":`, 12_000) + "1" + strings.Repeat("}", 12_000) + `}`, 400, "", []string{"nested deeper than 100 levels"}},
		"arrays too deep":       {`{"type":"a","data":` + strings.Repeat(`[`, 12_000), 400, "", []string{"nested deeper than 100 levels"}},
		"bracket out of place":  {`[{"type":"a","data":{"x":"` + strings.Repeat("{", 200) + `"{}}}]`, 400, "", []string{"is not JSON", "the character {"}},
		"error deep inside":     {`[{"type":"a","data":` + strings.Repeat(`{"a":`, 99) + `{"a"{}`, 400, "", []string{"is not JSON", "the character {"}},
		"large data":            {`{"type":"a","data":{"x":"` + strings.Repeat("x", 1000) + `"}}`, 413, "data", []string{"1000 bytes"}},
		"typographic quotes":    {`{“type”:"a","data":{}}`, 400, "", []string{"“", "position 2", "straight quote"}},
		"typographic value":     {`{"type":„a“,"data":{}}`, 400, "", []string{"„", "position 9", "type"}},
		"single quotes":         {`{'type':"a"}`, 400, "", []string{"single quote"}},
		"trailing comma":        {`{"type":"a","data":{},}`, 400, "", []string{"comma after the last"}},
		"trailing bytes":        {`{"type":"a","data":{}} x`, 400, "", []string{"goes on", "x"}},
		"two events":            {`{"type":"a","data":{}}{"type":"b","data":{}}`, 400, "", []string{"goes on"}},
		"cut off":               {`{"type":"a","data":{`, 400, "", []string{"ends in the middle"}},
		"cut in a string":       {`{"type":"a`, 400, "", []string{"ends in the middle"}},
		"invalid UTF-8":         {"{\"type\":\"a\xff\",\"data\":{}}", 400, "", []string{"UTF-8", "0xff", "position 11"}},
		"invalid UTF-8 inside":  {"{\"type\":\"a\",\"data\":{\"x\":\"\xc3\x28\"}}", 400, "", []string{"UTF-8"}},
		"lone surrogate":        {`{"type":"a","data":{"x":"\ud800"}}`, 400, "", []string{"escape sequence", "/data/x"}},
		"control character":     {"{\"type\":\"a\",\"data\":{\"x\":\"\x01\"}}", 400, "", []string{"U+0001"}},
		"second line":           {"{\n\"type\": tru,\n\"data\":{}}", 400, "", []string{"line 2"}},
		"byte order mark":       {"\xef\xbb\xbf{\"type\":\"a\",\"data\":{}}", 400, "", []string{"byte order mark"}},
		"white space":           {"  \n ", 400, "", []string{"empty"}},
		"a string":              {`"x"`, 400, "", []string{"a string"}},
		"null":                  {`null`, 400, "", []string{"null"}},
		"empty array":           {`[]`, 400, "", []string{"empty"}},
		"array of numbers":      {`[1,{"type":"a","data":{}}]`, 400, "/0", []string{"must be an event"}},
		"nested array":          {`[[{"type":"a","data":{}}]]`, 400, "/0", []string{"not an array"}},
		"second of an array":    {`[{"type":"a","data":{}},{"type":"","data":{}}]`, 400, "/1/type", nil},
		"unclosed array":        {`[{"type":"a","data":{}}`, 400, "", []string{"ends in the middle"}},
		"too many events":       {"[" + strings.Repeat(`{},`, maxEvents) + `{}]`, 400, "", []string{"more than 10000"}},
		"error and large":       {`[{"type":"","data":{}},{"type":"a","data":{"x":"` + strings.Repeat("x", 1000) + `"}}]`, 400, "/0/type", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, Settings{PayloadBytes: 1000})
			p := wantProblem(t, b.request(http.MethodPost, "/events", "pub", x.body), x.status, x.words...)
			if got := firstField(p); got != x.field {
				t.Errorf("the fault is of %q, want %q: %+v", got, x.field, p)
			}
			if len(b.queue.events) > 0 {
				t.Error("something was accepted")
			}
		})
	}
}

func firstField(p problemBody) string {
	if len(p.Errors) == 0 {
		return ""
	}
	return p.Errors[0].Field
}

func TestAllFaultsOfAnEventAreNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	p := wantProblem(t, b.request(http.MethodPost, "/events", "pub", `{"id":"a b","type":"x y","resource":"z","time":"now","data":[],"more":1}`), 400, "6 fields")
	var got []string
	for _, f := range p.Errors {
		got = append(got, f.Field)
	}
	if s := strings.Join(got, " "); s != "id type resource time data more" {
		t.Errorf("faults of %s", s)
	}
	many := "[" + strings.Repeat(`{"x":1},`, 99) + `{"x":1}]`
	if p := wantProblem(t, b.request(http.MethodPost, "/events", "pub", many), 400, "300 fields"); len(p.Errors) != maxFaults {
		t.Errorf("%d faults", len(p.Errors))
	}
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{BodyBytes: 2000})
	const one = `{"type":"a","data":{}}`
	for name, x := range map[string]struct {
		body   string
		header []string
		status int
		words  []string
	}{
		"charset":           {one, []string{"Content-Type", "application/json; charset=UTF-8"}, 202, nil},
		"upper case":        {one, []string{"Content-Type", "Application/JSON"}, 202, nil},
		"other parameter":   {one, []string{"Content-Type", "application/json;profile=x"}, 202, nil},
		"latin":             {one, []string{"Content-Type", "application/json; charset=iso-8859-1"}, 415, []string{"iso-8859-1"}},
		"no type":           {one, []string{"Content-Type", ""}, 415, []string{"application/json or application/x-ndjson"}},
		"form":              {one, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, []string{"form"}},
		"text":              {one, []string{"Content-Type", "text/plain"}, 415, nil},
		"plus json":         {one, []string{"Content-Type", "application/vnd.x+json"}, 415, nil},
		"nonsense":          {one, []string{"Content-Type", ";;;"}, 415, nil},
		"gzip":              {one, []string{"Content-Encoding", "gzip"}, 415, []string{"gzip"}},
		"identity":          {one, []string{"Content-Encoding", "identity"}, 202, nil},
		"any Accept":        {one, []string{"Accept", "image/png"}, 202, nil},
		"NDJSON":            {one, []string{"Content-Type", "application/x-ndjson"}, 202, nil},
		"too large":         {`{"type":"a","data":{"x":"` + strings.Repeat("x", 2000) + `"}}`, nil, 413, []string{"2000 bytes"}},
		"NDJSON for others": {one, []string{"Content-Type", "application/x-ndjson"}, 202, nil},
	} {
		w := b.request(http.MethodPost, "/events", "pub", x.body, x.header...)
		if x.status == 202 {
			if w.Code != 202 {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
			continue
		}
		wantProblem(t, w, x.status, x.words...)
	}
	wantProblem(t, b.request(http.MethodPost, "/events", "pub", ""), 400, "empty")
	wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", "{}", "Content-Type", "application/x-ndjson"), 415)
	wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", "{}", "Content-Type", "application/merge-patch+json"), 415)
}

func TestEventsAreAcceptedByteForByte(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		`{}`, `{ "a" : 1.0e+2 , "b":[ ] }`, "{\n\t\"a\":\"\\u0041\\/\"}", `{"big":123456789012345678901234567890.10}`, `{"é":"😀","\u00e9x":"\ud83d\ude00"}`,
		`{"` + strings.Repeat("k", 500) + `":[{},{},[[]]]}`, strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth),
		`{"braces":"` + strings.Repeat(`{[\"`, 200) + `"}`,
	} {
		b := newBed(t)
		body := `{"type":"task.create", "DATA" : ` + data + ` ,"Id":"e1","time":"2026-11-21T10:00:00.123456789+02:00","resource":null}`
		got := wantJSON[map[string]string](t, b.request(http.MethodPost, "/events", "pub", body), 202)
		if len(got) != 1 || got["id"] != "e1" {
			t.Fatalf("answer %v", got)
		}
		e := b.queue.events[0]
		if string(e.Data) != data {
			t.Errorf("data %s, want %s", e.Data, data)
		}
		if e.AccountID != "acme" || e.Type != "task.create" || e.Resource != "" || !e.Time.Equal(time.Date(2026, 11, 21, 8, 0, 0, 123456789, time.UTC)) || e.Time.Location() != time.UTC {
			t.Errorf("event %+v", e)
		}
		w := b.request(http.MethodGet, "/events/e1", "sub", "")
		wantJSON[jsonObject](t, w, 200)
		if !strings.Contains(w.Body.String(), `"data":`+data+`,"deliveries":[]`) {
			t.Errorf("read %s", w.Body)
		}
		w = b.request(http.MethodGet, "/events", "sub", "")
		wantJSON[[]jsonObject](t, w, 200)
		if !strings.Contains(w.Body.String(), `"data":`+data+`}]`) {
			t.Errorf("listed %s", w.Body)
		}
	}
}

func TestTheBodyIsNotKept(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for i := range 20 {
		b.request(http.MethodPost, "/events", "pub", fmt.Sprintf(`{"id":"e%d","type":"t%d","resource":"r/%d","data":{"n":%d}}`, i, i, i, i))
	}
	for i, e := range b.queue.events {
		if e.ID != fmt.Sprintf("e%d", i) || e.Type != fmt.Sprintf("t%d", i) || string(e.Data) != fmt.Sprintf(`{"n":%d}`, i) {
			t.Errorf("event %d became %+v", i, e)
		}
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	w := b.request(http.MethodPost, "/events", "pub", `[{"id":"a","type":"x","data":{}}, {"id":"b","type":"y","data":{"n":1}}]`)
	if got := wantJSON[[]map[string]string](t, w, 202); len(got) != 2 || got[0]["id"] != "a" || got[1]["id"] != "b" {
		t.Errorf("answer %v", got)
	}
	w = b.request(http.MethodPost, "/events", "pub", "\n{\"id\":\"c\",\"type\":\"x\",\"data\":{}}\r\n\n  {\"id\":\"d\",\"type\":\"y\",\"data\":{}}  \n\n", "Content-Type", "application/x-ndjson")
	if got := wantJSON[[]map[string]string](t, w, 202); len(got) != 2 || got[0]["id"] != "c" || got[1]["id"] != "d" {
		t.Errorf("answer %v", got)
	}
	if len(b.queue.events) != 4 {
		t.Errorf("%d events", len(b.queue.events))
	}
	for body, words := range map[string][]string{
		"{\"type\":\"a\",\"data\":{}}\n\n{\"type\":\"\",\"data\":{}}\n": {"/1/type", "line 3"},
		"{\"type\":\"a\",\"data\":{}} {\"type\":\"b\",\"data\":{}}":     {"line 1", "goes on"},
		"{\"type\":\"a\",\n\"data\":{}}":                                {"line 1", "over the end"},
		"{\"type\":\"a\",\"data\":{}}\n[{\"type\":\"a\",\"data\":{}}]":  {"line 2", "not an array"},
		"{\"type\": tru}": {"line 1", "position 13"},
		"{\"type\":\"a\",\"data\":{}}\n{\"type\":\"a\"":                      {"ends in the middle", "line 2, position 12"},
		"{\"type\":\"a\",\"data\":{}}\n{\"type\":\u201ca\u201d,\"data\":{}}": {"line 2, position 9", "“"},
		"\n \n": {"empty", "line of its own"},
		"":      {"empty", "line of its own"},
		"{\"type\":\"a\",\"data\":{}}\n{\"data\":" + strings.Repeat("[", 12_000): {"line 2", "deeper than 100 levels"},
	} {
		wantProblem(t, b.request(http.MethodPost, "/events", "pub", body, "Content-Type", "application/x-ndjson"), 400, words...)
	}
	if len(b.queue.events) != 4 {
		t.Errorf("%d events after refusals", len(b.queue.events))
	}
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	post := func(body string, header ...string) string {
		t.Helper()
		w := b.request(http.MethodPost, "/events", "pub", body, header...)
		if w.Code != 202 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	// An id makes a repeat a no-op, with the same time left out too.
	first := post(`{"id":"a","type":"x","data":{"n":1}}`)
	b.mu.Lock()
	b.now = b.now.Add(time.Hour)
	b.mu.Unlock()
	if again := post(`{"data":{"n":1},"type":"x","id":"a"}`); again != first {
		t.Errorf("%s and %s", first, again)
	}
	for _, other := range []string{
		`{"id":"a","type":"y","data":{"n":1}}`, `{"id":"a","type":"x","data":{"n":2}}`, `{"id":"a","type":"x","data":{"n": 1}}`,
		`{"id":"a","type":"x","resource":"r/1","data":{"n":1}}`, `{"id":"a","type":"x","time":"2026-11-21T08:30:00Z","data":{"n":1}}`,
	} {
		p := wantProblem(t, b.request(http.MethodPost, "/events", "pub", other), 409, `"a"`)
		if firstField(p) != "id" {
			t.Errorf("%+v", p)
		}
	}
	// In a batch the answer names which it was.
	p := wantProblem(t, b.request(http.MethodPost, "/events", "pub", `[{"id":"z","type":"x","data":{}},{"id":"a","type":"q","data":{}}]`), 409)
	if firstField(p) != "/1/id" {
		t.Errorf("%+v", p)
	}
	wantProblem(t, b.request(http.MethodPost, "/events", "pub", "\n{\"id\":\"z\",\"type\":\"x\",\"data\":{}}\n\n{\"id\":\"a\",\"type\":\"q\",\"data\":{}}", "Content-Type", "application/x-ndjson"), 409, "line 4")
	// A key gives events without an id one that is always the same, of the form of a chosen one.
	keyed := post(`[{"type":"x","data":{}},{"type":"y","data":{}},{"id":"own","type":"z","data":{}}]`, "Idempotency-Key", "order 17")
	if !regexp.MustCompile(`^\[\{"id":"evt_[0-9a-v]{26}"\},\{"id":"evt_[0-9a-v]{26}"\},\{"id":"own"\}\]$`).MatchString(keyed) {
		t.Errorf("ids %s", keyed)
	}
	n := len(b.queue.events)
	if again := post(`[{"type":"x","data":{}},{"type":"y","data":{}},{"id":"own","type":"z","data":{}}]`, "Idempotency-Key", "order 17"); again != keyed || len(b.queue.events) != n {
		t.Errorf("%s and %s", keyed, again)
	}
	if other := post(`{"type":"x","data":{}}`, "Idempotency-Key", "order 18"); strings.Contains(keyed, other[7:30]) {
		t.Error("another key gave the same id")
	}
	alien := b.request(http.MethodPost, "/events", "alien", `{"type":"x","data":{}}`, "Idempotency-Key", "order 17")
	if alien.Code != 202 || strings.Contains(keyed, strings.Trim(alien.Body.String(), "{}")) {
		t.Error("another account's key gave the same id")
	}
	lines := "{\"type\":\"x\",\"data\":{}}\n{\"type\":\"y\",\"data\":{}}\n{\"id\":\"own\",\"type\":\"z\",\"data\":{}}"
	if again := post(lines, "Idempotency-Key", "order 17", "Content-Type", "application/x-ndjson"); again != keyed || len(b.queue.events) != n+2 {
		t.Errorf("the same list as lines: %s and %s", keyed, again)
	}
	// Whatever differs, in whichever event, makes it another request; the new ids of the others do not
	// let the keyed ones pass.
	for _, body := range []string{
		`[{"type":"x","data":{}},{"type":"y","data":{"n":1}},{"id":"own","type":"z","data":{}}]`,
		`[{"type":"x","data":{}}]`,
		`{"type":"x","data":{}}`,
		`[{"type":"x","data":{}},{"type":"y","data":{}},{"id":"new","type":"z","data":{}}]`,
		`[{"type":"x","data":{}},{"type":"y","data":{}},{"id":"own2","type":"w","data":{}}]`,
		`[{"type":"x","data":{}},{"type":"y","data":{}},{"type":"z","data":{}}]`,
		`[{"type":"x","data":{}},{"id":"own","type":"z","data":{}},{"type":"y","data":{}}]`,
		`[{"type":"x","data":{}},{"type":"y","data":{}},{"id":"own","type":"z","data":{}},{"id":"own3","type":"z","data":{}}]`,
		`[{"type":"x","data":{}},{"id":"own4","type":"y","data":{}},{"id":"own","type":"z","data":{}}]`,
	} {
		p := wantProblem(t, b.request(http.MethodPost, "/events", "pub", body, "Idempotency-Key", "order 17"), 409, "Idempotency-Key")
		if firstField(p) != "Idempotency-Key" {
			t.Errorf("%+v", p)
		}
	}
	wantProblem(t, b.request(http.MethodPost, "/events", "pub", `[{"type":"x","data":{}}]`, "Idempotency-Key", "order 18"), 409, "Idempotency-Key")
	for _, key := range []string{strings.Repeat("k", 256), "k\x01", "ké"} {
		wantProblem(t, b.request(http.MethodPost, "/events", "pub", `{"type":"x","data":{}}`, "Idempotency-Key", key), 400, "Idempotency-Key")
	}
}

func TestEventsFindTheirSubscriptions(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	make1 := func(token, body string) store.SubscriptionID {
		t.Helper()
		got := wantJSON[jsonObject](t, b.request(http.MethodPost, "/subscriptions", token, body), 200)
		id, err := store.ParseSubscriptionID(got["id"].(string))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	one := make1("sub", `{"dataCallbackURL":"https://r.example/1","resource":"project/proj1","events":["task.*"]}`)
	all := make1("sub", `{"dataCallbackURL":"https://r.example/2"}`)
	make1("alien", `{"dataCallbackURL":"https://r.example/3"}`)
	body := `[{"id":"1","type":"task.create","resource":"project/proj1","data":{}},{"id":"2","type":"task.create","resource":"project/proj2","data":{}},
		{"id":"3","type":"task.create","resource":"project/proj1","data":{}},{"id":"4","type":"note.create","resource":"project/proj1","data":{}}]`
	if w := b.request(http.MethodPost, "/events", "pub", body); w.Code != 202 {
		t.Fatal(w.Body)
	}
	got := map[string]int{}
	for _, d := range b.queue.deliveries {
		switch d.ID.Lane {
		case queue.Lane(one):
			got[d.EventID] |= 1
		case queue.Lane(all):
			got[d.EventID] |= 2
		default:
			t.Error("another account's subscription was chosen")
		}
	}
	if fmt.Sprint(got) != "map[1:3 2:2 3:3 4:2]" {
		t.Errorf("deliveries %v", got)
	}
	w := b.request(http.MethodGet, "/events/1", "sub", "")
	if list := wantJSON[jsonObject](t, w, 200)["deliveries"].([]any); len(list) != 2 {
		t.Errorf("deliveries %v", list)
	}
}

func TestReadingEvents(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for i := range 250 {
		b.request(http.MethodPost, "/events", "pub", fmt.Sprintf(`{"id":"e%03d","type":"x","data":{}}`, i))
	}
	b.request(http.MethodPost, "/events", "alien", `{"id":"secret","type":"x","data":{}}`)
	var ids []string
	next, pages := "/events", 0
	for ; next != "" && pages < 10; pages++ {
		w := b.request(http.MethodGet, next, "pub", "")
		for _, e := range wantJSON[[]jsonObject](t, w, 200) {
			ids = append(ids, e["id"].(string))
		}
		next = nextOf(w.Header())
	}
	if pages != 3 || len(ids) != 250 || ids[0] != "e249" || ids[249] != "e000" {
		t.Errorf("%d pages, %d events", pages, len(ids))
	}
	for path, field := range map[string]string{
		"/events?limit=0": "limit", "/events?limit=1001": "limit", "/events?limit=x": "limit", "/events?limit=-1": "limit", "/events?limit=": "limit",
		"/events?limit=1&limit=2": "limit", "/events?after=nope": "after", "/events?after=a%20b": "after", "/events?page=2": "page",
	} {
		if p := wantProblem(t, b.request(http.MethodGet, path, "pub", ""), 400); firstField(p) != field {
			t.Errorf("%s: %+v", path, p)
		}
	}
	for _, id := range []string{"nope", "secret", "a%20b", "a%2Fb", strings.Repeat("x", 200)} {
		wantProblem(t, b.request(http.MethodGet, "/events/"+id, "pub", ""), 404)
	}
}

func nextOf(h http.Header) string {
	m := regexp.MustCompile(`^<([^>]*)>; rel="next"$`).FindStringSubmatch(h.Get("Link"))
	if m == nil {
		return ""
	}
	return m[1]
}

func TestTooManyDeliveriesAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.api.store = crowd{b.store}
	var body strings.Builder
	for i := range 5 {
		fmt.Fprintf(&body, `{"type":"t%d","data":{}}`+"\n", i)
	}
	wantProblem(t, b.request(http.MethodPost, "/events", "pub", body.String(), "Content-Type", typeNDJSON), 413, "in parts")
	same := strings.Repeat(`{"type":"t","data":{}}`+"\n", 5)
	if w := b.request(http.MethodPost, "/events", "pub", same, "Content-Type", typeNDJSON); w.Code != 202 {
		t.Errorf("events of one kind: %d %s", w.Code, w.Body)
	}
}

// Events of one kind with different data have different subscribers, also in one request; those without a
// filter in their way share theirs.
func TestEventsAreChosenByData(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	lanes := make(map[string]queue.Lane)
	for name, body := range map[string]string{
		"NL":  `"filter":{"country":"NL"}`,
		"big": `"filter":{"amount":{"$gt":100}},"events":["order.*"]`,
		"all": `"events":["order.placed"]`,
	} {
		_, path := b.subscribe(`{"dataCallbackURL":"https://r.example/in",` + body + `}`)
		id, err := store.ParseSubscriptionID(strings.TrimPrefix(path, "/subscriptions/"))
		if err != nil {
			t.Fatal(err)
		}
		lanes[name] = queue.Lane(id)
	}
	var body strings.Builder
	events := []struct {
		text string
		want []string
	}{
		{`"type":"order.placed","data":{"country":"NL","amount":100}`, []string{"NL", "all"}},
		{`"type":"order.placed","data":{"country":"NL","amount":99}`, []string{"NL", "all"}},
		{`"type":"order.placed","data":{"country":"BE","amount":101}`, []string{"all", "big"}},
		{`"type":"order.placed","data":{"country":"BE","amount":"101"}`, []string{"all"}},
		{`"type":"order.placed","data":{"country":["BE","NL"],"amount":1e3}`, []string{"NL", "all", "big"}},
		{`"type":"order.paid","data":{"amount":1e3}`, []string{"big"}},
		{`"type":"order.paid","data":{}`, nil},
		{`"type":"order.placed","data":{}`, []string{"all"}},
		{`"type":"task.done","data":{"country":"N\u004c"}`, []string{"NL"}},
	}
	for i, e := range events {
		fmt.Fprintf(&body, `{"id":"e%d",%s}`+"\n", i, e.text)
	}
	if w := b.request(http.MethodPost, "/events", "pub", body.String(), "Content-Type", typeNDJSON); w.Code != 202 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for i, e := range events { // once more, alone
		if w := b.request(http.MethodPost, "/events", "pub", fmt.Sprintf(`{"id":"alone%d",%s}`, i, e.text)); w.Code != 202 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	got := make(map[string][]string)
	for _, d := range b.queue.deliveries {
		for name, lane := range lanes {
			if lane == d.ID.Lane {
				got[d.EventID] = append(got[d.EventID], name)
			}
		}
	}
	for i, e := range events {
		for _, id := range []string{fmt.Sprintf("e%d", i), fmt.Sprintf("alone%d", i)} {
			if slices.Sort(got[id]); !slices.Equal(got[id], e.want) {
				t.Errorf("%s, %s: is for %v, want %v", id, e.text, got[id], e.want)
			}
		}
	}
}

// fickle has as many subscribers for every event as it was told, chosen by the data, never the same twice.
type fickle struct {
	*memStore
	n, calls *int
}

func (f fickle) Select(_, _, _ string, _ []byte, dst []store.SubscriptionID) (ids []store.SubscriptionID, byData bool) {
	*f.calls++
	for i := range *f.n {
		dst = append(dst, store.SubscriptionID{byte(*f.calls), byte(i), byte(i >> 8), byte(i >> 16)})
	}
	return dst, true
}

// Where the data chooses, every event counts towards the deliveries a request may have, and a caller who has
// gone is not worked for.
func TestTooManyDeliveriesByData(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	n, calls := 1<<20, 0
	b.api.store = fickle{b.store, &n, &calls}
	same := strings.Repeat(`{"type":"t","data":{}}`+"\n", 5)
	wantProblem(t, b.request(http.MethodPost, "/events", "pub", same, "Content-Type", typeNDJSON), 413, "in parts")
	n = 10
	if w := b.request(http.MethodPost, "/events", "pub", same, "Content-Type", typeNDJSON); w.Code != 202 {
		t.Errorf("few by data: %d %s", w.Code, w.Body)
	}
	if len(b.queue.deliveries) != 50 {
		t.Errorf("%d deliveries, want 50", len(b.queue.deliveries))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls = 0
	body := batch{c: &call{api: b.api, r: httptest.NewRequestWithContext(ctx, http.MethodPost, "/events", nil)}, subs: make([]queue.Submission, 2)}
	if err := body.chooseLanes(); !errors.Is(err, context.Canceled) || calls > 0 {
		t.Errorf("the caller is gone: %v after %d choices", err, calls)
	}
}

// crowd has a million subscriptions to everything.
type crowd struct{ *memStore }

func (crowd) Select(_, _, _ string, _ []byte, dst []store.SubscriptionID) (ids []store.SubscriptionID, byData bool) {
	return append(dst, make([]store.SubscriptionID, 1<<20)...), false
}

func FuzzEvents(f *testing.F) {
	for _, s := range []string{
		`{"type":"a.b","data":{}}`, `[{"type":"a","data":{"x":[1,2,{"y":null}]}},{"id":"i","type":"b","time":"2026-11-21T08:30:00Z","resource":"p/1","data":{}}]`,
		"{\"type\":\"a\",\"data\":{}}\n\n{\"type\":\"b\",\"data\":{}}\n", `{"TYPE":"a","d\u0061ta":{"a":"\ud83d\ude00"}}`, `{"type":„a“}`, "\xef\xbb\xbf{}", `[[[[`, `{"data":{"a":1,"a":2}}`,
	} {
		f.Add([]byte(s), false, "")
		f.Add([]byte(s), true, "key")
	}
	f.Fuzz(func(t *testing.T, body []byte, lines bool, key string) {
		b := newBed(t, Settings{PayloadBytes: 4096})
		kind := typeJSON
		if lines {
			kind = typeNDJSON
		}
		w := b.request(http.MethodPost, "/events", "pub", string(body), "Content-Type", kind)
		if w.Code != http.StatusAccepted {
			if w.Code != 400 && w.Code != 413 && w.Code != 409 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if !json.Valid(w.Body.Bytes()) || !strings.HasPrefix(w.Body.String(), `{"title":`) {
				t.Fatalf("not a problem: %q", w.Body)
			}
			return
		}
		if !json.Valid(body) && !lines {
			t.Fatalf("accepted what is not JSON: %q", body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("answered %q", w.Body)
		}
		for _, e := range b.queue.events {
			if !bytes.Contains(body, e.Data) || !json.Valid(e.Data) || e.Data[0] != '{' {
				t.Fatalf("data %q of %q", e.Data, body)
			}
			if store.CheckEventType(e.Type) != nil || checkEventID(e.ID) != nil || e.Time.Year() < minYear || e.Time.Year() > maxYear {
				t.Fatalf("event %+v of %q", e, body)
			}
			if list := b.request(http.MethodGet, "/events", "pub", ""); !json.Valid(list.Body.Bytes()) {
				t.Fatalf("listed %q", list.Body)
			}
		}
	})
}

// What notifications are made of is nobody's event, and no delivery of one.
func TestMessagesAreNoEvents(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	lane := queue.Lane{1}
	receipts, err := b.queue.Accept(t.Context(), []queue.Submission{
		{Event: queue.Event{AccountID: "acme", ID: "m1", Type: "herald.message.device", Data: []byte("{}")}, Lanes: []queue.Lane{lane}},
		{Event: queue.Event{AccountID: "acme", ID: "e1", Type: "herald.ping", Data: []byte("{}")}, Lanes: []queue.Lane{lane}},
	})
	if err != nil || len(receipts) != 2 {
		t.Fatal(receipts, err)
	}
	for _, path := range []string{"/events", "/deliveries"} {
		if list := wantJSON[[]jsonObject](t, b.request("GET", path, "both", ""), 200); len(list) != 1 || strings.Contains(fmt.Sprint(list), "m1") {
			t.Errorf("%s: %v", path, list)
		}
	}
	wantProblem(t, b.request("GET", "/events/m1", "both", ""), 404)
	id := b.queue.deliveries[0].ID.String()
	if b.queue.deliveries[0].EventID != "m1" {
		id = b.queue.deliveries[1].ID.String()
	}
	wantProblem(t, b.request("GET", "/deliveries/"+id, "both", ""), 404)
	wantProblem(t, b.request("POST", "/deliveries/"+id+"/retry", "both", ""), 404)
	if len(b.queue.retried) != 0 {
		t.Errorf("retried are %v", b.queue.retried)
	}
}
