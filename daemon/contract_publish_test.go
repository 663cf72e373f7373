package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// POST /events: forms, ids, repeats, batches.

// Data goes through byte for byte: into the push, in both forms, and into what a read shows.
func TestContract_DataByteForByte(t *testing.T) {
	t.Parallel()
	h := start(t)
	whole, bare := receive(t), receive(t)
	a := h.subscribe(whole.URL, nil)
	b := h.subscribe(bare.URL, fields{"payload": "data"})
	for i, data := range []string{
		`{}`,
		`{ }`,
		"{\r\n\t\"a\"  :\t1 ,\n \"b\":[ ]\n}",
		`{"n":[1.0e5,1E+5,12345678901234567890,0.10,-0,-0.0,1e-400,1e400,123456789.123456789123456789]}`,
		`{"e":"\u00e9\u0041\/\ud83d\ude00\u2028","raw":"é😀/"}`,
		"{\"line\":\"\u2028\u2029\u007f\"}",
		`{"z":1,"a":2,"A":3,"":4}`,
		`{"html":"<a href='x'>&amp;</a>"}`,
		`{"data":{"data":"}{"},"id":"not the id","type":null}`,
	} {
		for form, body := range map[string]string{
			"object": `{ "type" : "task.create" , "data" : ` + data + `  , "time":"2026-11-21T08:30:00Z" }`,
			"array":  "[\n{\"data\":" + data + `,"type":"task.create"} ]`,
			"NDJSON": `{"data":` + strings.NewReplacer("\r", " ", "\n", " ").Replace(data) + `,"type":"task.create"}`,
		} {
			c, want := h.admin(), data
			if form == "NDJSON" {
				c, want = c.with("Content-Type", "application/x-ndjson"), strings.NewReplacer("\r", " ", "\n", " ").Replace(data)
			}
			answer := c.do("POST", "/events", body).is(202)
			id := ""
			if form == "object" {
				id = answer.text("id")
			} else {
				id = answer.list()[0]["id"].(string)
			}
			h.delivery(id, a, "delivered")
			h.delivery(id, b, "delivered")
			var got struct{ Data json.RawMessage }
			pushed, read := whole.got(), h.admin().do("GET", "/events/"+id, nil).is(200)
			if err := json.Unmarshal(pushed[len(pushed)-1].body, &got); err != nil || string(got.Data) != want {
				t.Errorf("%s %d: the envelope carries %s, want %s", form, i, got.Data, want)
			}
			pushed = bare.got()
			if body := pushed[len(pushed)-1].body; string(body) != want {
				t.Errorf("%s %d: the bare data is %s, want %s", form, i, body, want)
			}
			read.into(&got)
			if string(got.Data) != want {
				t.Errorf("%s %d: the event reads as %s, want %s", form, i, got.Data, want)
			}
		}
	}
}

func TestContract_EventIsReadBack(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	event := h.admin().do("POST", "/events", `{"id":"order-7","type":"task.create","resource":"project/p","time":"2026-11-21T10:30:00.5+02:00","data":{"n":1}}`).is(202)
	if string(event.body) != `{"id":"order-7"}` || event.header.Get("Content-Type") != "application/json" {
		t.Errorf("POST answered %s", event.body)
	}
	h.delivery("order-7", id, "delivered")
	got := h.admin().do("GET", "/events/order-7", nil).is(200).object()
	for m, want := range map[string]any{"id": "order-7", "type": "task.create", "resource": "project/p", "time": "2026-11-21T08:30:00.5Z", "accountId": "default"} {
		if got[m] != want {
			t.Errorf("the event reads with %s %v, want %v", m, got[m], want)
		}
	}
	if d := time.Since(moment(t, got["acceptedAt"])); d < -time.Second || d > patience {
		t.Errorf("the event was accepted at %v", got["acceptedAt"])
	}
	deliveries, _ := got["deliveries"].([]any)
	if len(deliveries) != 1 {
		t.Fatalf("the event has the deliveries %v", got["deliveries"])
	}
	d, _ := deliveries[0].(map[string]any)
	for m, want := range map[string]any{"eventId": "order-7", "eventType": "task.create", "subscriptionId": id, "state": "delivered", "attemptCount": float64(1)} {
		if d[m] != want {
			t.Errorf("the delivery reads with %s %v, want %v", m, d[m], want)
		}
	}
	// Without an id the event gets one, and the time of the moment.
	given := h.publish("task.create", "", fields{})
	if !regexp.MustCompile(`^evt_[0-9a-v]{26}$`).MatchString(given) {
		t.Errorf("the id given is %s", given)
	}
	if at := moment(t, h.admin().do("GET", "/events/"+given, nil).is(200).object()["time"]); time.Since(at) > patience {
		t.Errorf("the time given is %v", at)
	}
	h.admin().do("GET", "/events/none", nil).problem(404)
}

func TestContract_RepeatedIDIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, nil)
	const event = `{"id":"order-7","type":"task.create","time":"2026-11-21T08:30:00Z","data":{"n":1}}`
	for i := range 3 {
		if i == 2 {
			h = h.restart()
		}
		if got := string(h.admin().do("POST", "/events", event).is(202).body); got != `{"id":"order-7"}` {
			t.Errorf("repeat %d answered %s", i, got)
		}
	}
	for what, other := range map[string]string{
		"data":     `{"id":"order-7","type":"task.create","time":"2026-11-21T08:30:00Z","data":{"n":2}}`,
		"type":     `{"id":"order-7","type":"task.update","time":"2026-11-21T08:30:00Z","data":{"n":1}}`,
		"resource": `{"id":"order-7","type":"task.create","resource":"a/b","time":"2026-11-21T08:30:00Z","data":{"n":1}}`,
		"time":     `{"id":"order-7","type":"task.create","time":"2026-11-21T08:30:01Z","data":{"n":1}}`,
		"no time":  `{"id":"order-7","type":"task.create","data":{"n":1}}`,
	} {
		names(t, "the same id with another "+what, h.admin().do("POST", "/events", other).problem(409), "order-7")
	}
	h.delivery("order-7", sub, "delivered")
	// An event without a time is the same when it comes again later.
	for range 2 {
		h.admin().do("POST", "/events", `{"id":"timeless","type":"task.create","data":{}}`).is(202)
	}
	h.delivery("timeless", sub, "delivered")
	h.sentinel()
	r.only("order-7", "timeless")
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 2 {
		t.Errorf("the repeats made %d events", len(l))
	}
	// The id is the account's own.
	other := h.account("other", "publish", "subscribe")
	other.do("POST", "/events", `{"id":"order-7","type":"task.create","data":{"n":3}}`).is(202)
	for _, bad := range []any{"", "a b", "é", "a\n", strings.Repeat("x", 129), 7} {
		names(t, fmt.Sprint("the id ", bad), h.admin().do("POST", "/events", fields{"id": bad, "type": "a.b", "data": fields{}}).problem(400), "id")
	}
	h.admin().do("POST", "/events", fields{"id": strings.Repeat("x", 128), "type": "a.b", "data": fields{}}).is(202)
}

func TestContract_IdempotencyKey(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, nil)
	keyed := func() *caller { return h.admin().with("Idempotency-Key", "request 1") }
	const event = `{"type":"task.create","data":{"n":1}}`
	first := keyed().do("POST", "/events", event).is(202)
	if again := keyed().do("POST", "/events", event).is(202); string(again.body) != string(first.body) {
		t.Errorf("the repeat answered %s, before %s", again.body, first.body)
	}
	h.delivery(first.text("id"), sub, "delivered")
	h = h.restart()
	if again := keyed().do("POST", "/events", event).is(202); string(again.body) != string(first.body) {
		t.Errorf("the repeat over a restart answered %s, before %s", again.body, first.body)
	}
	keyed().do("POST", "/events", `{"type":"task.create","data":{"n":2}}`).problem(409)
	keyed().do("POST", "/events", `[`+event+`,`+event+`]`).problem(409) // more than the key stands for
	another := h.admin().with("Idempotency-Key", "request 2").do("POST", "/events", event).is(202)
	if another.text("id") == first.text("id") {
		t.Error("another key led to the same event")
	}
	unkeyed := h.publish("task.create", "", fields{"n": 1})
	for _, id := range []string{another.text("id"), unkeyed} {
		h.delivery(id, sub, "delivered")
	}
	h.sentinel()
	r.only(first.text("id"), another.text("id"), unkeyed)

	// A batch is repeated as a whole.
	batch := func() *caller { return h.admin().with("Idempotency-Key", "batch") }
	const three = `[{"type":"a.b","data":{}},{"type":"a.b","data":{}},{"id":"own","type":"a.b","data":{}}]`
	ids := batch().do("POST", "/events", three).is(202)
	if l := ids.list(); len(l) != 3 || l[0]["id"] == l[1]["id"] || l[2]["id"] != "own" {
		t.Errorf("the batch answered %s", ids.body)
	}
	if again := batch().do("POST", "/events", three).is(202); string(again.body) != string(ids.body) {
		t.Errorf("the repeated batch answered %s, before %s", again.body, ids.body)
	}
	for _, bad := range []string{"", strings.Repeat("k", 256), "ü"} {
		names(t, "the key "+bad, h.admin().with("Idempotency-Key", bad).do("POST", "/events", event).problem(400), "Idempotency-Key")
	}
}

func TestContract_BatchIsAllOrNothing(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, nil)
	good := fields{"type": "task.create", "data": fields{}}
	h.admin().do("POST", "/events", `{"id":"taken","type":"task.create","data":{"first":true}}`).is(202)
	h.delivery("taken", sub, "delivered")
	for what, c := range map[string]struct {
		bad    any
		status int
		word   string
	}{
		"a bad type":          {fields{"type": "a b", "data": fields{}}, 400, "type"},
		"no data":             {fields{"type": "a.b"}, 400, "data"},
		"an unknown member":   {fields{"type": "a.b", "data": fields{}, "surprise": 1}, 400, "surprise"},
		"no object":           {7, 400, "1"},
		"a reserved type":     {fields{"type": "herald.x", "data": fields{}}, 400, "type"},
		"a conflicting id":    {fields{"id": "taken", "type": "task.create", "data": fields{}}, 409, "taken"},
		"a conflict of twins": {fields{"id": "twin", "type": "task.create", "data": fields{"n": 2}}, 409, "twin"},
	} {
		twin := fields{"id": "twin", "type": "task.create", "data": fields{"n": 1}}
		names(t, "an array with "+what, h.admin().do("POST", "/events", []any{twin, c.bad, good}).problem(c.status), c.word)
		detail := h.admin().with("Content-Type", "application/x-ndjson").do("POST", "/events", lines(t, twin, c.bad, good)).problem(c.status)
		names(t, "NDJSON with "+what, detail, c.word)
		if c.status == 400 {
			names(t, "NDJSON with "+what, detail, "line 2")
		}
	}
	h.sentinel()
	r.only("taken")
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 1 {
		t.Errorf("refused batches left %v", l)
	}
	// Whole ones are taken in their order.
	for _, form := range []string{"application/json", "application/x-ndjson"} {
		var list []any
		var want []string
		for i := range 20 {
			id := fmt.Sprintf("%s-%d", strings.ReplaceAll(form, "/", "."), i)
			want = append(want, id)
			list = append(list, fields{"id": id, "type": "task.create", "data": fields{"n": i}})
		}
		body := lines(t, list...)
		if form == "application/json" {
			text, _ := json.Marshal(list)
			body = string(text)
		} else {
			body = "\n" + strings.ReplaceAll(body, "}\n", "}\r\n\n") // empty lines and other line ends
		}
		var got []string
		for _, e := range h.admin().with("Content-Type", form).do("POST", "/events", body).is(202).list() {
			got = append(got, e["id"].(string))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s answered %v, want %v", form, got, want)
		}
		for _, id := range want {
			h.delivery(id, sub, "delivered")
		}
	}
	if n := len(r.got()); n != 41 {
		t.Errorf("%d pushes arrived, want 41", n)
	}
}

func TestContract_NDJSONNamesTheLine(t *testing.T) {
	t.Parallel()
	h := start(t)
	const good = `{"type":"a.b","data":{}}`
	nd := h.admin().with("Content-Type", "application/x-ndjson")
	for body, line := range map[string]string{
		good + "\n" + good + "\n{":                                                     "line 3",
		good + "\n\n\nnothing\n" + good:                                                "line 4",
		good + good + "\n":                                                             "line 1",
		good + "\n" + `{"type":"a.b","data":{},"type":"c.d"}`:                          "line 2",
		good + "\n" + `{"type":"a.b","data":{"x":1,"x":2}}`:                            "line 2",
		good + "\n" + `{“type”:"a.b","data":{}}` + "\n":                                "line 2",
		good + "\n[" + good + "]":                                                      "line 2",
		good + "\n" + `{"type":"a.b",` + "\n" + `"data":{}}`:                           "line 2",
		strings.Repeat(good+"\n", 99) + `{"type":"a.b","data":{"x":"` + "\xff" + `"}}`: "line 100",
	} {
		names(t, fmt.Sprintf("%.60q", body), nd.do("POST", "/events", body).problem(400), line)
	}
	nd.do("POST", "/events", "").problem(400)
	nd.do("POST", "/events", "\n\n").problem(400)
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("refused lines left %v", l)
	}
}

func TestContract_EventFieldsAreChecked(t *testing.T) {
	t.Parallel()
	h := start(t)
	for body, words := range map[string][]string{
		`{"data":{}}`:                                            {"type"},
		`{"type":7,"data":{}}`:                                   {"type"},
		`{"type":"","data":{}}`:                                  {"type"},
		`{"type":"task.*","data":{}}`:                            {"type"},
		`{"type":"herald.subscription.disabled","data":{}}`:      {"type", "herald."},
		`{"type":"a.b","resource":"project","data":{}}`:          {"resource"},
		`{"type":"a.b","resource":"project/*","data":{}}`:        {"resource"},
		`{"type":"a.b","time":"2026-11-21","data":{}}`:           {"time"},
		`{"type":"a.b","time":"2026-11-21T08:30:00","data":{}}`:  {"time"},
		`{"type":"a.b","time":"2026-13-21T08:30:00Z","data":{}}`: {"time"},
		`{"type":"a.b","time":"1969-12-31T23:59:59Z","data":{}}`: {"time"},
		`{"type":"a.b","time":1763713800,"data":{}}`:             {"time"},
		`{"type":"a.b","data":{},"extra":true}`:                  {"extra"},
		`{"type":"a.b","data":{},"Data":{}}`:                     {"Data|data"},
		`{"type":"a.b","data":{"a":1,"a":2}}`:                    {"a"},
		`{"type":"a.b","data":{"deep":[{"twice":1,"twice":2}]}}`: {"twice"},
		`{"type":"a.b","data":{}} {}`:                            {""},
		`{"type":"a.b","data":{},}`:                              {""},
		`{"type":"a.b","data":{'x':1}}`:                          {""},
		`{“type”:"a.b","data":{}}`:                               {"“"},
		`{"type":"a.b","data":{"x":01}}`:                         {""},
		`{"type":"a.b","data":{"x":NaN}}`:                        {""},
		`{"type":"a.b","data":{"x":"\ud800"}}`:                   {""},
		"{\"type\":\"a.b\",\"data\":{\"x\":\"\xff\"}}":           {"UTF-8"},
		`{"type":"a.b","data":` + strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200) + `}`: {"deep|depth|nest"},
	} {
		detail := h.admin().do("POST", "/events", body).problem(400)
		names(t, fmt.Sprintf("%.70q", body), detail, words...)
		for _, leak := range []string{"json:", "jsontext", "unmarshal", ".go:", "Go value", "offset", "struct"} {
			if strings.Contains(detail, leak) {
				t.Errorf("%.70q: the detail shows %q: %s", body, leak, detail)
			}
		}
	}
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("refused events left %v", l)
	}
	// Names of members have no case.
	h.admin().do("POST", "/events", `{"Type":"a.b","DATA":{}}`).is(202)
}

func TestContract_SizesAreLimited(t *testing.T) {
	t.Parallel()
	h := start(t, "limits: {body_bytes: 8KiB, payload_bytes: 2KiB}")
	r := receive(t)
	sub := h.subscribe(r.URL, fields{"payload": "data"})
	data := func(n int) string { return `{"x":"` + strings.Repeat("y", n-len(`{"x":""}`)) + `"}` }
	exact := h.admin().do("POST", "/events", `{"type":"a.b","data":`+data(2048)+`}`).is(202).text("id")
	h.delivery(exact, sub, "delivered")
	if body := r.got()[0].body; string(body) != data(2048) {
		t.Errorf("the largest payload arrived with %d bytes", len(body))
	}
	names(t, "a large payload", h.admin().do("POST", "/events", `{"type":"a.b","data":`+data(2049)+`}`).problem(413), "2048")
	h.admin().do("POST", "/events", `[{"type":"a.b","data":{}},{"type":"a.b","data":`+data(2049)+`}]`).problem(413)
	for _, path := range []string{"/events", "/subscriptions", "/accounts", "/tokens"} {
		names(t, "a large body for "+path, h.admin().do("POST", path, bytes.Repeat([]byte(" "), 8193)).problem(413), "8192")
		h.admin().do("POST", path, bytes.Repeat([]byte(" "), 8192)).problem(400) // not too large, only empty
	}
	h.admin().do("PUT", "/resources", bytes.Repeat([]byte("["), 9000)).problem(413)
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 1 {
		t.Errorf("too large events left %d", len(l))
	}
}

// What cannot be made durable is answered 503, and nothing of it is there; with room it goes on.
func TestContract_NoRoomIs503(t *testing.T) {
	t.Parallel()
	h := start(t, "retention: {max_bytes: 16MiB}")
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	data := `{"x":"` + strings.Repeat("y", 1<<20-8) + `"}`
	var taken []string
	var full *answer
	for i := range 40 {
		a := h.admin().do("POST", "/events", fmt.Sprintf(`{"id":"big-%d","type":"a.b","data":%s}`, i, data))
		if a.status != 202 {
			full = a
			break
		}
		taken = append(taken, a.text("id"))
	}
	if full == nil || len(taken) < 8 {
		t.Fatalf("with 16 MiB %d events of 1 MiB were accepted", len(taken))
	}
	full.problem(503)
	names(t, "readiness", h.as("").do("GET", "/readyz", nil).problem(503), "events cannot be made durable", "the retention limit is reached")
	if s, err := strconv.Atoi(full.header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("503 with Retry-After %q", full.header.Get("Retry-After"))
	}
	h.admin().do("GET", fmt.Sprintf("/events/big-%d", len(taken)), nil).problem(404)
	h = h.restart("retention: {max_bytes: 16MiB}") // what was acknowledged is there
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	r.wait(len(taken))                                // the events may go early once they are delivered, and that is known to the queue
	for _, small := range []string{"small", "last"} { // what is to be dropped goes by and by
		h.eventually("there is room for a small one", func() bool {
			return h.admin().do("POST", "/events", `{"id":"`+small+`","type":"a.b","data":{}}`).status == 202
		})
	}
	r.wait(len(taken) + 2)
	r.only(append(taken, "small", "last")...)
	h.eventually("there is room again", func() bool {
		return h.admin().do("POST", "/events", `{"type":"a.b","data":`+data+`}`).status == 202
	})
}

// Repeats that come at the same moment are one event all the same.
func TestContract_ConcurrentRepeats(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, nil)
	const callers = 16
	for round := range 5 {
		keyed := h.admin().with("Idempotency-Key", fmt.Sprint("round-", round))
		bodies := map[string]*caller{
			fmt.Sprintf(`{"id":"own-%d","type":"a.b","data":{}}`, round): h.admin(),
			`{"type":"a.b","data":{}}`:                                   keyed,
		}
		for body, c := range bodies {
			answers := make([]*answer, callers)
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() { answers[i] = c.do("POST", "/events", body) })
			}
			wg.Wait()
			for _, a := range answers {
				if a.is(202).text("id") != answers[0].text("id") {
					t.Errorf("repeats answered %s and %s", a.body, answers[0].body)
				}
			}
			h.delivery(answers[0].text("id"), sub, "delivered")
		}
	}
	h.sentinel()
	if n := len(r.got()); n != 10 {
		t.Errorf("10 events made %d pushes", n)
	}
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 10 {
		t.Errorf("10 events are listed as %d", len(l))
	}
}

// Whatever id is taken names the event in every call after that.
func TestContract_EveryIDIsReachable(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, nil)
	var want []string
	for _, id := range []string{".", "..", "a/b", "a/../b", "a//b", "a/", "/a", "/", "//", "%2e%2e", "%", "?", "#x", "a;b", "a&b=c", "+", "~", `\`, `"`, "<id>", "[1]", "evt_1"} {
		if a := h.admin().do("POST", "/events", fields{"id": id, "type": "a.b", "data": fields{}}); a.status != 202 {
			names(t, "the id "+id, a.problem(400), "id")
			continue
		}
		want = append([]string{id}, want...)
		encoded := ""
		for i := range len(id) {
			encoded += fmt.Sprintf("%%%02X", id[i])
		}
		h.delivery(encoded, sub, "delivered")
		got := r.got()
		if last := got[len(got)-1]; last.id() != id || last.object(t)["id"] != id {
			t.Errorf("the event %s was pushed as %s", id, last.id())
		}
		if a := h.admin().do("GET", "/events/"+encoded, nil); a.status != 200 || a.text("id") != id {
			t.Errorf("the event %s was taken, and reads as %d %s", id, a.status, a.body)
		}
	}
	if got := slices.Concat(h.admin().pages("/events?limit=2", "id")...); !slices.Equal(got, want) {
		t.Errorf("in pages the events are %v, want %v", got, want)
	}
}
