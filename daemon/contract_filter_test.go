package daemon_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Row I15 as far as filters on payload fields go.

// An event goes to those whose filter its data passes, published alone and in one request with others of its
// kind.
func TestContract_I15_FilterChoosesEvents(t *testing.T) {
	t.Parallel()
	h := start(t)
	type audience struct {
		filter string
		r      *receiver
		want   []string
	}
	audiences := []*audience{
		{filter: `{"customer.country":"NL"}`, want: []string{"dutch", "dutch-rush", "both"}},
		{filter: `{"customer":{"country":{"$in":["BE","DE"]}},"amount":{"$gte":100,"$lt":1e3}}`, want: []string{"big-belgian", "both"}},
		{filter: `{"$or":[{"tags":"rush"},{"placedAt":{"$lt":"2026-01-01T00:00:00+01:00"}}]}`, want: []string{"dutch-rush", "old"}},
		{filter: `{"sku":{"$prefix":"x-","$suffix":"-z","$ne":"x-y-z"},"amount":{"$exists":false}}`, want: []string{"sku"}},
		{filter: `{"$not":{"amount":{"$exists":true}},"/tags/1":"rush"}`, want: []string{"dutch-rush"}},
		{want: []string{"dutch", "dutch-rush", "big-belgian", "both", "old", "sku", "none"}},
	}
	for _, a := range audiences {
		a.r = receive(t)
		settings := fields{"events": []string{"order.*"}}
		if a.filter != "" {
			settings["filter"] = json.RawMessage(a.filter)
		}
		h.subscribe(a.r.URL, settings)
	}
	// Once together, once each alone, with ids that tell the two apart.
	data := map[string]string{
		"dutch":       `{"customer":{"country":"NL"},"amount":5}`,
		"dutch-rush":  `{"customer":[{"country":"FR"},{"country":"N\u004c"}],"tags":["blue","rush"]}`,
		"big-belgian": `{"customer":{"country":"BE"},"amount":1e2}`,
		"both":        `{"customer":[{"country":"NL"},{"country":"DE"}],"amount":999.99}`,
		"old":         `{"placedAt":"2025-12-31T22:59:59.999Z","amount":1000,"customer":{"country":"BE"}}`,
		"sku":         `{"sku":"x-1-z"}`,
		"none":        `{"sku":"x-y-z","customer":"NL","placedAt":"2025"}`,
	}
	var batch []fields
	for name, d := range data {
		event := fields{"id": name, "type": "order.placed", "data": json.RawMessage(d)}
		batch = append(batch, event)
		event = fields{"id": "alone-" + name, "type": "order.placed", "data": json.RawMessage(d)}
		h.admin().do("POST", "/events", event).is(202)
	}
	h.admin().do("POST", "/events", batch).is(202)
	for _, a := range audiences {
		var want []string
		for _, name := range a.want {
			want = append(want, name, "alone-"+name)
		}
		a.r.wait(len(want))
	}
	h.sentinel()
	for _, a := range audiences {
		var want []string
		for _, name := range a.want {
			want = append(want, name, "alone-"+name)
		}
		a.r.only(want...)
	}
}

// A filter is shown as it was given, replaced as a whole, taken away by null and by a PUT without it, and holds
// over a restart.
func TestContract_I15_FilterComesAndGoes(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"filter": json.RawMessage(`{ "n" : 1.50, "big": {"$ne": 123456789012345678901234567890 } }`)})
	shown := func(want string) {
		t.Helper()
		body := string(h.admin().do("GET", "/subscriptions/"+id, nil).is(200).body)
		if want == "" && strings.Contains(body, `"filter"`) || !strings.Contains(body, want) {
			t.Errorf("%s does not show the filter %q", body, want)
		}
	}
	var got []string
	publish := func(data string, wanted bool) {
		t.Helper()
		event := h.publish("task.create", "", json.RawMessage(data))
		if wanted {
			h.delivery(event, id, "delivered")
			got = append(got, event)
		}
	}
	path := "/subscriptions/" + id
	shown(`"filter":{"n":1.50,"big":{"$ne":123456789012345678901234567890}}`)
	publish(`{"n":1.5}`, true)
	publish(`{"n":2}`, false)
	h.admin().do("PATCH", path, fields{"events": []string{"task.*"}}).is(200)
	publish(`{"n":2}`, false)
	h = h.restart()
	shown(`"filter":{"n":1.50,"big":{"$ne":123456789012345678901234567890}}`)
	publish(`{"n":2}`, false)
	publish(`{"n":15e-1,"big":123456789012345678901234567891}`, true)
	publish(`{"n":15e-1,"big":123456789012345678901234567890.0}`, false)
	h.admin().do("PATCH", path, fields{"filter": json.RawMessage(`{"m":null}`)}).is(200) // not merged: n is gone, null is a value
	shown(`"filter":{"m":null}`)
	publish(`{"n":1.5}`, false)
	publish(`{"m":null}`, true)
	h.admin().do("PATCH", path, fields{"filter": nil}).is(200)
	shown("")
	publish(`{"n":2}`, true)
	h.admin().do("PUT", path, fields{"dataCallbackURL": r.URL, "filter": fields{"n": 3}}).is(200)
	shown(`"filter":{"n":3}`)
	publish(`{"n":2}`, false)
	h.admin().do("PUT", path, fields{"dataCallbackURL": r.URL}).is(200)
	shown("")
	publish(`{"n":2}`, true)
	h.sentinel()
	r.only(got...)
}

// An invalid filter is refused, naming each place and what would be right, and changes nothing.
func TestContract_I15_FilterThatIsWrong(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"filter": fields{"n": 1}})
	for _, c := range []struct {
		filter string
		names  []string
	}{
		{`"NL"`, []string{"\nfilter: ", "object"}},
		{`[]`, []string{"\nfilter: ", "object"}},
		{`{}`, []string{"\nfilter: ", "null"}},
		{`{"order":{"$gt":"tomorrow"}}`, []string{"\n/filter/order/$gt: ", "number", "RFC 3339"}},
		{`{"order":["a"]}`, []string{"\n/filter/order: ", "$in"}},
		{`{"order":{"$regex":"a"}}`, []string{"\n/filter/order/$regex: ", "$prefix"}},
		{`{"a/b":{"$in":[]},"$or":[{"c":1},{"d":{"$exists":1}}]}`, []string{"\n/filter/a~1b/$in: ", "1 to 1000", "\n/filter/$or/1/d/$exists: ", "true or false"}},
		{`{"order":{"$gt":1,"total":1}}`, []string{"\n/filter/order: ", "JSON Pointer"}},
		{fmt.Sprintf(`{"order":%q}`, strings.Repeat("x", 17_000)), []string{"\nfilter: ", "16384"}},
	} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			body := fields{"dataCallbackURL": r.URL, "filter": json.RawMessage(c.filter)}
			names(t, fmt.Sprintf("%s with %.60s", method, c.filter), h.admin().do(method, path, body).problem(400), c.names...)
		}
	}
	h.admin().do("POST", "/subscriptions", json.RawMessage(`{"dataCallbackURL":"`+r.URL+`","filter":{"a":1,"a":2}}`)).problem(400)
	if l := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(l) != 1 || fmt.Sprint(l[0]["filter"]) != "map[n:1]" {
		t.Errorf("a refused filter changed something: %v", l)
	}
}
