package daemon_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// The rows I: subscriptions, resources, events.

// Nothing but the event makes the push: the subscriber calls nothing, and what it answers does nothing.
func TestContract_I1_TriggersArePushed(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.respond(func(_ int, _ push, w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"type":"task.delete","data":{"action":"of the receiver"}}`))
	})
	id := h.subscribe(r.URL, nil)
	event := h.publish("task.create", "", fields{"name": "write"})
	h.delivery(event, id, "delivered")
	h.sentinel()
	r.only(event)
	if events := h.admin().do("GET", "/events", nil).is(200).list(); len(events) != 1 {
		t.Errorf("the receiver's answer was taken for an action: %v", events)
	}
}

func TestContract_I2_PushOnlyWhenEventOccurs(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	h.read(id)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"method": "PUT"}).is(200)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200)
	h.catalogue("project/proj1")
	h.sentinel()
	r.only()
	event := h.publish("task.create", "project/proj1", fields{})
	h.delivery(event, id, "delivered")
	h.sentinel()
	r.only(event)
}

func TestContract_I3_URLAndVerb(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, method := range []string{"POST", "PUT"} {
		r := receive(t)
		id := h.subscribe(r.URL+"/hook/a%2Fb?x=1&y=%20", fields{"method": method})
		event := h.publish("task.create", "", fields{"n": 1})
		h.delivery(event, id, "delivered")
		if p := r.got()[0]; p.method != method || p.url != "/hook/a%2Fb?x=1&y=%20" || len(p.body) == 0 {
			t.Errorf("method %s: got %s %s with %d bytes", method, p.method, p.url, len(p.body))
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
	r := receive(t)
	id := h.subscribe(r.URL+"/hook?x=1&y=%20", fields{"method": "GET"})
	first := h.admin().do("POST", "/events", fields{"id": "a&b=c+d", "type": "task.create", "resource": "project/proj1", "data": fields{"n": 1}}).is(202).text("id")
	h.delivery(url.QueryEscape(first), id, "delivered")
	second := h.publish("task.delete", "", fields{})
	h.delivery(second, id, "delivered")
	got := r.wait(2)
	for _, p := range got {
		if p.method != "GET" || len(p.body) != 0 || p.header["Content-Length"] != nil || !strings.HasPrefix(p.url, "/hook?x=1&y=%20&") {
			t.Errorf("method GET: got %s %s with %d bytes", p.method, p.url, len(p.body))
		}
	}
	for i, want := range []url.Values{
		{"x": {"1"}, "y": {" "}, "id": {first}, "type": {"task.create"}, "resource": {"project/proj1"}},
		{"x": {"1"}, "y": {" "}, "id": {second}, "type": {"task.delete"}},
	} {
		u, err := url.Parse(got[i].url)
		if err != nil || u.Query().Encode() != want.Encode() {
			t.Errorf("method GET: the query is %s, want %s", got[i].url, want.Encode())
		}
	}
	for _, method := range []string{"DELETE", "PATCH", "HEAD", "post", ""} {
		names(t, "method "+method, h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "method": method}).problem(400), "method", "POST", "PUT", "GET")
	}
}

func TestContract_I4_AuthenticationByHeader(t *testing.T) {
	t.Parallel()
	h := start(t)
	named, basic := receive(t), receive(t)
	a := h.subscribe(named.URL, fields{"authentication": fields{"type": "header", "name": "X-Api-Key", "value": "k 1:2"}})
	b := h.subscribe(basic.URL, fields{"authentication": fields{"type": "basic", "username": "shop", "password": "pa:ss wörd"}})
	event := h.publish("task.create", "", fields{})
	h.delivery(event, a, "delivered")
	h.delivery(event, b, "delivered")
	if p := named.got()[0]; !slices.Equal(p.header["X-Api-Key"], []string{"k 1:2"}) || p.header["Authorization"] != nil {
		t.Errorf("header: got %v", p.header)
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("shop:pa:ss wörd"))
	if p := basic.got()[0]; !slices.Equal(p.header["Authorization"], []string{want}) {
		t.Errorf("basic: got %q, want %q", p.header["Authorization"], want)
	}
	// A name that is taken is sent: none is refused only when it is too late.
	for _, name := range []string{
		"X-Key", "x-key-2", "Authorization", "Cookie", "Idempotency-Key", "X-Idempotency-Key", "Accept", "Accept-Encoding", "Content-Encoding", "Content-Length", "Date", "Expect",
		"Te", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Signature", "Content-Digest", "Range", "If-Match", "Origin", "Referer", "Via", "!#$%&'*+-.^_`|~",
	} {
		r := receive(t)
		made := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "authentication": fields{"type": "header", "name": name, "value": "v-1"}})
		if made.status != 200 {
			names(t, "the header "+name, made.problem(400), "/authentication/name")
			continue
		}
		ping := h.admin().do("POST", "/subscriptions/"+made.text("id")+"/ping", nil).is(202).text("id")
		var d map[string]any
		h.eventually("the push with "+name+" was tried", func() bool {
			d = h.admin().deliveries(ping)[0]
			return d["state"] == "delivered" || d["state"] == "retrying"
		})
		if d["state"] != "delivered" {
			t.Errorf("the header %s was taken, and the push with it ended as %v", name, h.admin().do("GET", "/deliveries/"+d["id"].(string), nil).is(200).object())
		} else if got := r.got()[0].header[http.CanonicalHeaderKey(name)]; !slices.Equal(got, []string{"v-1"}) {
			t.Errorf("the header %s arrived as %q", name, got)
		}
		h.admin().do("DELETE", "/subscriptions/"+made.text("id"), nil).is(204)
	}
	for _, name := range []string{"", "a b", "Host", "content-length", "Content-Type", "Webhook-Id", "webhook-signature", "Herald-Attempt", "Transfer-Encoding", "User-Agent", "x\r\ny"} {
		names(t, "the header "+name, h.admin().do("POST", "/subscriptions",
			fields{"dataCallbackURL": named.URL, "authentication": fields{"type": "header", "name": name, "value": "v"}}).problem(400), "/authentication/name")
	}
	names(t, "a value with a line end", h.admin().do("POST", "/subscriptions",
		fields{"dataCallbackURL": named.URL, "authentication": fields{"type": "header", "name": "X-Key", "value": "v\r\nX-Other: w"}}).problem(400), "/authentication/value")
}

func TestContract_I5_AuthenticationByUnlistedURL(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	const path = "/hooks/5b0e8a0d-2f3c~x/%7Bq%7D/a'b(c)*!$&+,;=:@/%2F%e2//.?k=;%3b&/?:@'"
	id := h.subscribe(r.URL+path, nil)
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	p := r.got()[0]
	if p.url != path {
		t.Errorf("the push went to %s, want %s", p.url, path)
	}
	for _, name := range []string{"Authorization", "Cookie", "Referer"} {
		if v := p.header[name]; v != nil {
			t.Errorf("without authentication the push has %s: %q", name, v)
		}
	}
}

func TestContract_I6_AuthenticationByQuery(t *testing.T) {
	t.Parallel()
	h := start(t)
	plain, with, get := receive(t), receive(t), receive(t)
	auth := fields{"type": "query", "name": "api key", "value": "a&b=c/ü+d"}
	if a := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": plain.URL, "authentication": auth}); a.status == 200 {
		t.Error("a parameter's name with a space was taken") // it has to be printable without space
	}
	auth["name"] = "api_key"
	for r, f := range map[*receiver]fields{
		plain: {"dataCallbackURL": plain.URL + "/hook"},
		with:  {"dataCallbackURL": with.URL + "/hook?x=%41"},
		get:   {"dataCallbackURL": get.URL + "/hook", "method": "GET"},
	} {
		f["authentication"] = auth
		id := h.admin().do("POST", "/subscriptions", f).is(200).text("id")
		h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
		p := r.got()[0]
		u, err := url.Parse(p.url)
		if err != nil || !slices.Equal(u.Query()["api_key"], []string{"a&b=c/ü+d"}) {
			t.Errorf("the key is not in the query of %s", p.url)
		}
		if p.header["Authorization"] != nil {
			t.Error("the key is in a header as well")
		}
	}
	if got := with.got()[0].url; !strings.HasPrefix(got, "/hook?x=%41&") {
		t.Errorf("the URL's own query was changed: %s", got)
	}
}

func TestContract_I7_PayloadIsObjectOfTheEvent(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	whole, bare := receive(t), receive(t)
	a := h.subscribe(whole.URL, fields{"payload": "envelope"})
	b := h.subscribe(bare.URL, fields{"payload": "data"})
	const data = `{"task":{"id":7,"name":"write"}}`
	event := h.admin().do("POST", "/events", `{"type":"task.create","resource":"project/proj1","time":"2026-11-21T09:30:00.25+01:00","data":`+data+`}`).is(202).text("id")
	h.delivery(event, a, "delivered")
	h.delivery(event, b, "delivered")
	got := whole.got()[0].object(t)
	if m := members(got); !slices.Equal(m, []string{"accountId", "data", "id", "resource", "time", "type"}) {
		t.Errorf("the envelope has the members %v", m)
	}
	if got["id"] != event || got["type"] != "task.create" || got["resource"] != "project/proj1" || got["time"] != "2026-11-21T08:30:00.25Z" {
		t.Errorf("the envelope is %v", got)
	}
	if task := fmt.Sprint(got["data"]); task != "map[task:map[id:7 name:write]]" {
		t.Errorf("the data is %s", task)
	}
	if got := string(bare.got()[0].body); got != data {
		t.Errorf("the bare event object is %s, want %s", got, data)
	}
	for _, data := range []string{`null`, `[]`, `"text"`, `7`, `true`} {
		names(t, "data "+data, h.admin().do("POST", "/events", `{"type":"task.create","data":`+data+`}`).problem(400), "data")
	}
	names(t, "no data", h.admin().do("POST", "/events", `{"type":"task.create"}`).problem(400), "data")
	// Without a resource there is no such member.
	event = h.publish("task.create", "", fields{})
	h.delivery(event, a, "delivered")
	if m := members(whole.wait(2)[1].object(t)); !slices.Equal(m, []string{"accountId", "data", "id", "time", "type"}) {
		t.Errorf("the envelope of an event without resource has the members %v", m)
	}
}

func TestContract_I8_PayloadNamesTheAccount(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, account := range []string{"default", "shop-1"} {
		r := receive(t)
		var c *caller
		if account == "default" {
			c = h.token(account, "publish", "subscribe")
		} else {
			c = h.account(account, "publish", "subscribe")
		}
		c.do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL}).is(200)
		c.do("POST", "/events", fields{"type": "task.create", "data": fields{}}).is(202)
		if got := r.wait(1)[0].object(t)["accountId"]; got != account {
			t.Errorf("the payload names the account %v, want %s", got, account)
		}
	}
}

func TestContract_I9_EventIsPostedAsJSON(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL+"/hook", nil)
	event := h.publish("task.create", "", fields{"name": "write"})
	h.delivery(event, id, "delivered")
	p := r.got()[0]
	if p.method != "POST" || p.url != "/hook" || p.object(t)["id"] != event {
		t.Errorf("got %s %s with %s", p.method, p.url, p.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "Herald/1.2.3-test", "Webhook-Id": event,
		"Herald-Attempt": "1", "Herald-Subscription": id, "Content-Length": fmt.Sprint(len(p.body)),
	} {
		if got := p.header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("the push has %s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"Webhook-Timestamp", "Webhook-Signature"} {
		if len(p.header[name]) != 1 {
			t.Errorf("the push has %s: %q", name, p.header[name])
		}
	}
}

func TestContract_I10_CreateUpdateDelete(t *testing.T) {
	t.Parallel()
	h := start(t)
	c := h.token("default", "subscribe")
	id := c.do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/a"}).is(200).text("id")
	if got := c.do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/b"}).is(200).object(); got["dataCallbackURL"] != "http://127.0.0.1:8421/b" || got["id"] != id {
		t.Errorf("PUT answered with %v", got)
	}
	if got := h.read(id)["dataCallbackURL"]; got != "http://127.0.0.1:8421/b" {
		t.Errorf("after PUT the URL is %v", got)
	}
	c.do("DELETE", "/subscriptions/"+id, nil).is(204)
	c.do("GET", "/subscriptions/"+id, nil).problem(404)
	if l := c.do("GET", "/subscriptions", nil).is(200).list(); len(l) != 0 {
		t.Errorf("after DELETE there is %v", l)
	}
}

func TestContract_I11_CreationNamesTheResource(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	other := h.account("other", "publish")
	other.do("PUT", "/resources/folder/of-another-account", fields{}).is(200)
	for _, resource := range []string{"project/proj1", "project/*"} {
		got := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "resource": resource}).is(200).object()
		if got["resource"] != resource || h.read(got["id"].(string))["resource"] != resource {
			t.Errorf("the resource %s was taken as %v", resource, got["resource"])
		}
	}
	before := len(h.admin().do("GET", "/subscriptions", nil).is(200).list())
	for _, resource := range []any{"project/proj2", "folder/*", "folder/of-another-account", "project", "project/", "/proj1", "*", "*/*", "", 7, []string{"project/proj1"}} {
		names(t, fmt.Sprint("the resource ", resource),
			h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "resource": resource}).problem(400), "resource")
	}
	if after := len(h.admin().do("GET", "/subscriptions", nil).is(200).list()); after != before {
		t.Errorf("refused subscriptions were stored: %d after %d", after, before)
	}
}

func TestContract_I12_ResourcesCanBeListed(t *testing.T) {
	t.Parallel()
	h := start(t)
	pub, sub := h.token("default", "publish"), h.token("default", "subscribe")
	if got := string(pub.do("PUT", "/resources/project/proj1", fields{"name": "First"}).is(200).body); got != `{"id":"proj1","type":"project","name":"First"}` {
		t.Errorf("PUT answered %s", got)
	}
	got := pub.do("PUT", "/resources", []fields{{"type": "project", "id": "proj2", "name": "Second"}, {"type": "folder", "id": "f1", "name": "Ü & \"q\""}}).is(200).object()
	if got["resources"] != float64(2) {
		t.Errorf("the bulk PUT answered %v", got)
	}
	for query, want := range map[string]string{
		"?type=project": `[{"id":"proj1","type":"project","name":"First"},{"id":"proj2","type":"project","name":"Second"}]`,
		"?type=folder":  `[{"id":"f1","type":"folder","name":"Ü & \"q\""}]`,
		"?type=task":    `[]`,
		"":              `[{"id":"f1","type":"folder","name":"Ü & \"q\""},{"id":"proj1","type":"project","name":"First"},{"id":"proj2","type":"project","name":"Second"}]`,
	} {
		a := sub.do("GET", "/resources"+query, nil).is(200)
		if string(a.body) != want || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("GET /resources%s answered %s %s, want %s", query, a.header.Get("Content-Type"), a.body, want)
		}
	}
	pub.do("PUT", "/resources/project/proj1", fields{"name": "Renamed"}).is(200)
	if a := pub.do("DELETE", "/resources/project/proj2", nil).is(204); len(a.body) != 0 {
		t.Errorf("DELETE answered with a body: %s", a.body)
	}
	pub.do("DELETE", "/resources/project/proj2", nil).problem(404)
	if got := string(sub.do("GET", "/resources?type=project", nil).is(200).body); got != `[{"id":"proj1","type":"project","name":"Renamed"}]` {
		t.Errorf("after a new name and a deletion the list is %s", got)
	}
	// The bulk call is all or nothing.
	pub.do("PUT", "/resources", []fields{{"type": "project", "id": "proj9", "name": "x"}, {"type": "pro ject", "id": "y", "name": "y"}}).problem(400)
	if got := string(sub.do("GET", "/resources?type=project", nil).is(200).body); strings.Contains(got, "proj9") {
		t.Errorf("a refused bulk left %s", got)
	}
}

func TestContract_I13_CreationNamesTheEvents(t *testing.T) {
	t.Parallel()
	h := start(t)
	events := []any{"task.create", "task.update", "project.*", "*.delete"}
	got := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "events": events}).is(200).object()
	if !slices.Equal(got["events"].([]any), events) || !slices.Equal(h.read(got["id"].(string))["events"].([]any), events) {
		t.Errorf("the events %v were taken as %v", events, got["events"])
	}
	for _, bad := range []any{
		"task.create", []any{}, []any{""}, []any{"*"}, []any{"*.*"}, []any{"task."}, []any{".create"}, []any{"task create"}, []any{"task.create", "task.create"}, []any{7}, []any{"ta*.create"}, fields{},
	} {
		names(t, fmt.Sprint("the events ", bad),
			h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "events": bad}).problem(400), "events")
	}
}

func TestContract_I14_OnlyTheChosenResource(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1", "project/proj2", "folder/proj1")
	one, kind, all := receive(t), receive(t), receive(t)
	a := h.subscribe(one.URL, fields{"resource": "project/proj1"})
	b := h.subscribe(kind.URL, fields{"resource": "project/*"})
	c := h.subscribe(all.URL, nil)
	events := map[string]string{}
	for _, resource := range []string{"project/proj1", "project/proj2", "folder/proj1", "project/proj10", ""} {
		events[resource] = h.publish("task.create", resource, fields{})
		h.delivery(events[resource], c, "delivered")
	}
	h.delivery(events["project/proj1"], a, "delivered")
	for _, resource := range []string{"project/proj1", "project/proj2", "project/proj10"} {
		h.delivery(events[resource], b, "delivered")
	}
	h.sentinel()
	one.only(events["project/proj1"])
	kind.only(events["project/proj1"], events["project/proj2"], events["project/proj10"])
	if n := len(all.got()); n != 5 {
		t.Errorf("without a resource %d of 5 events arrived", n)
	}
	for resource, want := range map[string]int{"project/proj1": 3, "project/proj2": 2, "folder/proj1": 1, "project/proj10": 2, "": 1} {
		if l := h.admin().deliveries(events[resource]); len(l) != want {
			t.Errorf("the event on %q has the deliveries %v, want %d", resource, l, want)
		}
	}
}

func TestContract_I15_OnlyTheSelectedEvents(t *testing.T) {
	t.Parallel()
	h := start(t)
	patterns := []string{"task.create", "task.*", "*.delete"}
	receivers, subs := make([]*receiver, len(patterns)), make([]string, len(patterns))
	for i, p := range patterns {
		receivers[i] = receive(t)
		subs[i] = h.subscribe(receivers[i].URL, fields{"events": []string{p}})
	}
	want := make([][]string, len(patterns))
	for kind, matches := range map[string][3]bool{
		"task.create": {true, true, false}, "task.delete": {false, true, true}, "project.delete": {false, false, true},
		"project.create": {}, "tasks.create": {}, "task.created": {false, true, false},
	} {
		event := h.publish(kind, "", fields{})
		n := 0
		for i := range patterns {
			if matches[i] {
				want[i] = append(want[i], event)
				h.delivery(event, subs[i], "delivered")
				n++
			}
		}
		if l := h.admin().deliveries(event); len(l) != n {
			t.Errorf("%s has the deliveries %v, want %d", kind, l, n)
		}
	}
	h.sentinel()
	for i, r := range receivers {
		r.only(want[i]...)
	}
}

func TestContract_I16_CreationTakesAllFour(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	r := receive(t)
	all := fields{
		"dataCallbackURL": r.URL, "authentication": fields{"type": "bearer", "token": "user-access-token"},
		"resource": "project/proj1", "events": []string{"task.create"},
	}
	got := h.admin().do("POST", "/subscriptions", all).is(200).object()
	event := h.publish("task.create", "project/proj1", fields{})
	h.delivery(event, got["id"].(string), "delivered")
	if p := r.got()[0]; p.header.Get("Authorization") != "Bearer user-access-token" {
		t.Errorf("the push carries %q", p.header.Get("Authorization"))
	}
	for _, url := range []any{nil, "", "/hook", "example.com/hook", "ftp://example.com/", "http://", "http:///x", "https://user:pass@example.com/", "https://user@example.com/", "https://example.com/#part", "https://example.com/#", "https://example.com/a b", "https://example.com:99999/", "https://example.com/" + strings.Repeat("x", 2048), 7, true, fields{}} {
		body := fields{"authentication": all["authentication"], "resource": all["resource"], "events": all["events"], "dataCallbackURL": url}
		names(t, fmt.Sprint("the URL ", url), h.admin().do("POST", "/subscriptions", body).problem(400), "dataCallbackURL")
	}
	names(t, "no URL", h.admin().do("POST", "/subscriptions", fields{"events": []string{"task.create"}}).problem(400), "dataCallbackURL")
	for _, auth := range []any{fields{}, fields{"type": "bearer"}, fields{"type": "bearer", "token": ""}, fields{"type": "bearer", "token": nil}, fields{"type": "bearer", "token": "a b"}, fields{"type": "digest", "token": "x"}, "Bearer x", fields{"type": "bearer", "token": "x", "password": "y"}} {
		names(t, fmt.Sprint("the authentication ", auth),
			h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "authentication": auth}).problem(400), "authentication")
	}
	// Everything that is wrong is said at once.
	a := h.admin().do("POST", "/subscriptions", fields{"resource": "project/none", "events": []string{"a b"}, "authentication": fields{"type": "bearer"}, "method": "DELETE", "surprise": 1})
	names(t, "all at once", a.problem(400), "dataCallbackURL: ", "resource: ", "/events/0: ", "/authentication/token: ", "method: ", "surprise: ")
}

func TestContract_I17_SubscriptionSurvivesRestart(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	r := receive(t)
	id := h.subscribe(r.URL+"/hook", fields{
		"resource": "project/proj1", "events": []string{"task.*"}, "signingSecret": aSecret,
		"authentication": fields{"type": "bearer", "token": "kept"}, "delivery": fields{"timeoutSeconds": 2.5, "retrySchedule": []string{"1s", "2s"}, "maxConcurrency": 3},
	})
	before := h.admin().do("GET", "/subscriptions/"+id, nil).is(200).body
	h = h.restart()
	if after := h.admin().do("GET", "/subscriptions/"+id, nil).is(200).body; string(after) != string(before) {
		t.Errorf("after a restart the subscription is %s, before it was %s", after, before)
	}
	if got := string(h.admin().do("GET", "/resources", nil).is(200).body); !strings.Contains(got, `"proj1"`) {
		t.Errorf("after a restart the catalogue is %s", got)
	}
	event := h.publish("task.create", "project/proj1", fields{})
	other := h.publish("project.create", "project/proj1", fields{})
	h.delivery(event, id, "delivered")
	h.sentinel()
	r.only(event)
	if p := r.got()[0]; p.url != "/hook" || p.header.Get("Authorization") != "Bearer kept" || !p.verifies(t, aSecret) {
		t.Errorf("after a restart the push is %s with %v", p.url, p.header)
	}
	if l := h.admin().deliveries(other); len(l) != 0 {
		t.Errorf("after a restart the selection lets %v pass", l)
	}
}

func TestContract_I18_AnyOfTheSelectedEvents(t *testing.T) {
	t.Parallel()
	h := start(t)
	r, everything := receive(t), receive(t)
	created := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "events": []string{"task.create", "task.delete", "project.update"}}).is(200).object()
	if created["state"] != "active" {
		t.Fatalf("a new subscription is %v, want active at once", created["state"])
	}
	id := created["id"].(string)
	all := h.subscribe(everything.URL, nil)
	var want []string
	for _, kind := range []string{"task.create", "task.delete", "project.update"} {
		want = append(want, h.publish(kind, "", fields{}))
	}
	for _, event := range want {
		h.delivery(event, id, "delivered")
		h.delivery(event, all, "delivered")
	}
	r.only(want...)
	everything.only(want...) // absent means all
}

func TestContract_I19_UniqueID(t *testing.T) {
	t.Parallel()
	h := start(t)
	seen := map[string]bool{}
	for range 20 {
		id := h.subscribe("http://127.0.0.1:8421/", nil)
		u, err := uuid.Parse(id)
		if err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 || u.String() != id || seen[id] {
			t.Errorf("the id %s is no UUID of version 7, or not unique", id)
		}
		seen[id] = true
	}
	h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "id": missing}).problem(400)
}

func TestContract_I20_UpdateOfTheEvents(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"PUT", "PATCH"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			h := start(t)
			r := receive(t)
			id := h.subscribe(r.URL, fields{"events": []string{"task.create"}})
			first := h.publish("task.create", "", fields{})
			early := h.publish("task.delete", "", fields{})
			h.delivery(first, id, "delivered")
			body := fields{"events": []string{"task.delete"}}
			if method == "PUT" {
				body["dataCallbackURL"] = r.URL
			}
			got := h.admin().do(method, "/subscriptions/"+id, body).is(200).object()
			if fmt.Sprint(got["events"]) != "[task.delete]" || got["dataCallbackURL"] != r.URL {
				t.Errorf("%s answered %v", method, got)
			}
			old := h.publish("task.create", "", fields{})
			second := h.publish("task.delete", "", fields{})
			h.delivery(second, id, "delivered")
			h.sentinel()
			r.only(first, second)
			for _, event := range []string{early, old} {
				if l := h.admin().deliveries(event); len(l) != 0 {
					t.Errorf("an event that is not selected has the deliveries %v", l)
				}
			}
			h.admin().do(method, "/subscriptions/"+missing, body).problem(404)
		})
	}
}

func TestContract_I21_NoPushAfterDelete(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	event := h.publish("task.create", "", fields{})
	h.delivery(event, id, "delivered")
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	later := h.publish("task.create", "", fields{})
	h.sentinel()
	r.only(event)
	if l := h.admin().deliveries(later); len(l) != 0 {
		t.Errorf("an event after the deletion has the deliveries %v", l)
	}
}

func TestContract_I22_DeleteAnswersSuccessOrFailure(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	keep := h.subscribe("http://127.0.0.1:8421/", nil)
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	for _, unknown := range []string{id, missing, "no-id", "1"} {
		h.admin().do("DELETE", "/subscriptions/"+unknown, nil).problem(404)
	}
	if l := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(l) != 1 || l[0]["id"] != keep {
		t.Errorf("after the deletion there is %v", l)
	}
}

func TestContract_I23_DeleteVerb(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	h.admin().do("POST", "/subscriptions/"+id+"/delete", nil).problem(404)
	h.admin().do("POST", "/subscriptions/"+id, nil).problem(405)
	h.admin().do("DELETE", "/subscriptions", nil).problem(405)
	h.read(id)
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	h.admin().do("GET", "/subscriptions/"+id, nil).problem(404)
}

func TestContract_I24_ContentTypeOfJSON(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, f := range []fields{{}, {"payload": "data"}, {"method": "PUT"}, {"exportFormat": "application/json"}} {
		r := receive(t)
		id := h.subscribe(r.URL, f)
		h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
		if got := r.got()[0].header["Content-Type"]; !slices.Equal(got, []string{"application/json"}) {
			t.Errorf("with %v the Content-Type is %q", f, got)
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
	for _, path := range []string{"/subscriptions", "/resources", "/events", "/deliveries", "/accounts", "/tokens", "/healthz", "/readyz"} {
		if got := h.admin().do("GET", path, nil).is(200).header["Content-Type"]; !slices.Equal(got, []string{"application/json"}) {
			t.Errorf("GET %s has the Content-Type %q", path, got)
		}
	}
}

func TestContract_I25_JSONIsWellFormed(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	for i, data := range []string{
		`{}`, `{"":""}`, `{"a\u0000b":"\u0007\ud83d\ude00\\\"\/"}`, `{"x":[1e999,-0,1.5E-7,[],{}]}`, `{"t":"</script>&<>\u2028"}`,
		"{\"raw\":\"\u2028\u2029 é 😀\"}", "{\n\t\"a\" : [ 1 , 2 ]\r\n}", `{"deep":` + strings.Repeat(`{"a":`, 60) + `1` + strings.Repeat(`}`, 60) + `}`,
	} {
		event := h.admin().do("POST", "/events", fields{"id": fmt.Sprintf("event-\"<&>'%d", i), "type": "task.create", "data": json.RawMessage(data)}).is(202).text("id")
		h.delivery(url.QueryEscape(event), id, "delivered")
		p := r.wait(i + 1)[i]
		// The strict reader also refuses duplicate members and bytes that are not UTF-8.
		var got struct{ ID string }
		if err := json.Unmarshal(p.body, &got); err != nil || !jsontext.Value(p.body).IsValid() || got.ID != event {
			t.Errorf("the push of %s is not well-formed: %s", data, p.body)
		}
		if a := h.admin().do("GET", "/events/"+url.PathEscape(event), nil).is(200); !jsontext.Value(a.body).IsValid() {
			t.Errorf("the event with %s reads as %s", data, a.body)
		}
	}
}
