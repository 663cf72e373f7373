package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The rows D: the REST surface. Beside this file stand those of the validation handshake (contract_validation_test.go), of the
// certificate (contract_identity_test.go) and of the older paths (contract_old_test.go).

// readOnly are the members of a subscription that only a read shows.
func readOnly() []string {
	return []string{"createdAt", "id", "signingSecretSet", "state", "stateSince", "updatedAt"}
}

func TestContract_D2_ListHasOnlyOnesOwn(t *testing.T) {
	t.Parallel()
	h := start(t)
	one, two := h.account("one", "subscribe"), h.account("two", "subscribe")
	if a := one.do("GET", "/subscriptions", nil).is(200); string(a.body) != "[]" {
		t.Errorf("the empty list is %s", a.body)
	}
	want := map[*caller][]string{}
	for i := range 4 {
		for _, c := range []*caller{one, two} {
			want[c] = append(want[c], c.do("POST", "/subscriptions", fields{"dataCallbackURL": fmt.Sprint("http://127.0.0.1:8421/", i)}).is(200).text("id"))
		}
	}
	h.subscribe("http://127.0.0.1:8421/", nil)
	for c, list := range want {
		var got []string
		for _, s := range c.do("GET", "/subscriptions", nil).is(200).list() {
			got = append(got, s["id"].(string))
		}
		slices.Sort(got)
		slices.Sort(list)
		if !slices.Equal(got, list) {
			t.Errorf("the list has %v, want %v", got, list)
		}
	}
}

func TestContract_D3_Create(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", "exportFormat": "application/json", "numberOfRecords": 1, "maxWaitSeconds": 3}).is(200)
	got := a.object()
	if got["state"] != "active" || got["numberOfRecords"] != float64(1) || got["maxWaitSeconds"] != float64(3) || got["exportFormat"] != "application/json" {
		t.Errorf("POST answered %s", a.body)
	}
	if l := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(l) != 1 || l[0]["id"] != got["id"] {
		t.Errorf("after POST the list is %v", l)
	}
	for _, m := range []string{"stateSince", "createdAt", "updatedAt"} {
		moment(t, got[m])
	}
	for _, m := range readOnly() { // a new subscription cannot bring them
		names(t, "POST with "+m, h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/", m: got[m]}).problem(400), m)
	}
}

func TestContract_D4_ReadByID(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := h.subscribe("http://127.0.0.1:8421/a", nil)
	b := h.subscribe("http://127.0.0.1:8421/b", nil)
	for id, url := range map[string]string{a: "http://127.0.0.1:8421/a", b: "http://127.0.0.1:8421/b"} {
		if s := h.read(id); s["id"] != id || s["dataCallbackURL"] != url {
			t.Errorf("GET answered %v, want %s with %s", s, id, url)
		}
	}
	for _, id := range []string{missing, "1", "none", strings.Repeat("0", 36), strings.ReplaceAll(a, "-", "")} {
		h.admin().do("GET", "/subscriptions/"+id, nil).problem(404)
	}
}

func TestContract_D5_PutReplaces(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	r := receive(t)
	id := h.subscribe(r.URL, fields{
		"resource": "project/proj1", "events": []string{"task.create"}, "payload": "data", "method": "PUT", "maxWaitSeconds": 9,
		"delivery": fields{"timeoutSeconds": 5}, "signingSecret": aSecret, "authentication": fields{"type": "bearer", "token": "kept"},
	})
	before := h.read(id)
	got := h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL + "/new"}).is(200).object()
	for m, want := range map[string]any{ // absent members are at their defaults again
		"dataCallbackURL": r.URL + "/new", "resource": nil, "events": nil, "payload": "envelope", "method": "POST", "maxWaitSeconds": float64(1),
		"delivery": nil, "id": id, "state": "active", "createdAt": before["createdAt"], "signingSecretSet": true,
	} {
		if got[m] != want {
			t.Errorf("after PUT %s is %v, want %v", m, got[m], want)
		}
	}
	event := h.publish("project.delete", "", fields{}) // the new selection is everything
	h.delivery(event, id, "delivered")
	p := r.got()[0]
	if p.url != "/new" || p.method != "POST" || p.header.Get("Authorization") != "Bearer kept" || !p.verifies(t, aSecret) {
		t.Errorf("absent secrets were not kept: %s %s %v", p.method, p.url, p.header)
	}

	// null removes what is kept otherwise.
	got = h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "signingSecret": nil, "authentication": nil}).is(200).object()
	if got["signingSecretSet"] != false || got["authentication"] != nil {
		t.Errorf("after null in PUT the subscription is %v", got)
	}
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	if p := r.got()[1]; p.header["Webhook-Signature"] != nil || p.header["Authorization"] != nil {
		t.Errorf("removed secrets are in the push: %v", p.header)
	}

	// What was read can be sent back, and changes nothing.
	read := h.read(id)
	again := h.admin().do("PUT", "/subscriptions/"+id, read).is(200).object()
	delete(read, "updatedAt")
	delete(again, "updatedAt")
	if fmt.Sprint(read) != fmt.Sprint(again) {
		t.Errorf("sending %v back made it %v", read, again)
	}
	names(t, "PUT without URL", h.admin().do("PUT", "/subscriptions/"+id, fields{}).problem(400), "dataCallbackURL")
	names(t, "PUT with another id", h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "id": missing}).problem(400), "id")
	h.admin().do("PUT", "/subscriptions/"+missing, fields{"dataCallbackURL": r.URL}).problem(404)
}

func TestContract_D6_Delete(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	keep := h.subscribe("http://127.0.0.1:8421/", nil)
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	for _, call := range []string{"GET ", "DELETE ", "POST /enable", "POST /pause", "POST /secret", "POST /ping", "POST /retry"} {
		method, sub, _ := strings.Cut(call, " ")
		h.admin().do(method, "/subscriptions/"+id+sub, nil).problem(404)
	}
	h.read(keep)
	h = h.restart()
	h.admin().do("GET", "/subscriptions/"+id, nil).problem(404)
	h.read(keep)
}

func TestContract_D9_DataCallbackURL(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.admin().do("POST", "/subscriptions", `{"DataCallbackUrl":"`+r.URL+`"}`).is(200).text("id") // names have no case
	s := h.read(id)
	if _, there := s["exportEndpoint"]; there || s["dataCallbackURL"] != r.URL {
		t.Errorf("the subscription reads as %v", s)
	}
	names(t, "the old name", h.admin().do("POST", "/subscriptions", fields{"exportEndpoint": r.URL}).problem(400), "exportEndpoint", "dataCallbackURL")
	names(t, "both names", h.admin().do("POST", "/subscriptions", fields{"exportEndpoint": r.URL, "dataCallbackURL": r.URL}).problem(400), "exportEndpoint")
}

func TestContract_D10_NumberOfRecords(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"numberOfRecords": 1})
	s := h.read(id)
	if _, there := s["documentAmount"]; there || s["numberOfRecords"] != float64(1) {
		t.Errorf("the subscription reads as %v", s)
	}
	if s := h.read(h.subscribe("http://127.0.0.1:8421/", fields{"events": []string{"no.such"}})); s["numberOfRecords"] != float64(1) {
		t.Errorf("by default numberOfRecords is %v", s["numberOfRecords"])
	}
	event := h.publish("task.create", "", fields{})
	h.delivery(event, id, "delivered")
	if p := r.got()[0].object(t); p["id"] != event || p["records"] != nil || p["numberOfRecords"] != nil {
		t.Errorf("with numberOfRecords 1 the body is %v, want the record itself", p)
	}
	names(t, "the old name", h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "documentAmount": 1}).problem(400), "documentAmount")
	for _, n := range []any{0, -1, 1001, 1.5, "1", true, []int{1}} {
		names(t, fmt.Sprint("numberOfRecords ", n), h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "numberOfRecords": n}).problem(400), "numberOfRecords")
	}
}

func TestContract_D14_ExportFormat(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	for _, f := range []fields{{}, {"exportFormat": "application/json"}, {"exportFormat": nil}} {
		id := h.subscribe(r.URL, f)
		if got := h.read(id)["exportFormat"]; got != "application/json" {
			t.Errorf("with %v the format is %v", f, got)
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
	for bad, right := range map[string]string{"json": "application/json", "xml": "application/xml", "JSON": "application/json", "Xml": "application/xml"} {
		names(t, "the old value "+bad, h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "exportFormat": bad}).problem(400), "exportFormat", right)
	}
	for _, bad := range []any{"", "text/plain", "application/JSON", "application/json; charset=utf-8"} {
		names(t, fmt.Sprint("the format ", bad), h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "exportFormat": bad}).problem(400), "exportFormat", "application/json")
	}
	id := h.subscribe(r.URL, nil)
	names(t, "PATCH to json", h.admin().do("PATCH", "/subscriptions/"+id, fields{"exportFormat": "json"}).problem(400), "exportFormat", "application/json")
	names(t, "PUT to xml", h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "exportFormat": "xml"}).problem(400), "exportFormat", "application/xml")
}

func TestContract_D15_PostAndPutAnswer200(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, url := range []string{"http://127.0.0.1:8421/a", "http://127.0.0.1:8421/b"} {
		id := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": url}).is(200).text("id")
		h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": url}).is(200)
		h.admin().do("PATCH", "/subscriptions/"+id, fields{"maxWaitSeconds": 2}).is(200)
	}
	h.admin().do("POST", "/accounts", fields{"id": "a1", "name": "A"}).is(200)
	h.admin().do("PUT", "/accounts/a1", fields{"name": "B"}).is(200)
	h.admin().do("POST", "/tokens", fields{"accountId": "a1", "name": "t", "scopes": []string{"publish"}}).is(200)
	h.admin().do("PUT", "/resources/project/p", fields{"name": "P"}).is(200)
}

func TestContract_D16_AnswerIsTheInput(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	const input = `{"dataCallbackURL":"http://127.0.0.1:8421/hook?x=1","exportFormat":"application/json","numberOfRecords":1,"maxWaitSeconds":2.5,
		"resource":"project/proj1","events":["task.create","*.delete"],"payload":"data","method":"PUT",
		"delivery":{"timeoutSeconds":2.5,"retrySchedule":["1s","5m"],"maxConcurrency":7}}`
	var want map[string]any
	if err := json.Unmarshal([]byte(input), &want); err != nil {
		t.Fatal(err)
	}
	check := func(what string, got map[string]any) {
		t.Helper()
		for m, v := range want {
			if fmt.Sprint(got[m]) != fmt.Sprint(v) {
				t.Errorf("%s answered with %s %v, want %v", what, m, got[m], v)
			}
		}
		for m := range got {
			if _, sent := want[m]; !sent && m != "signingSecret" && !slices.Contains(readOnly(), m) {
				t.Errorf("%s answered with a member %s that nobody sent", what, m)
			}
		}
	}
	got := h.admin().do("POST", "/subscriptions", input).is(200).object()
	check("POST", got)
	id := got["id"].(string)
	check("PUT", h.admin().do("PUT", "/subscriptions/"+id, input).is(200).object())
	check("GET", h.read(id))
	want["method"] = "POST"
	check("PATCH", h.admin().do("PATCH", "/subscriptions/"+id, `{"method":null}`).is(200).object())
}

func TestContract_D17_AnswerHasTheID(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).is(200)
	id := a.text("id")
	if h.read(id)["id"] != id {
		t.Errorf("the id %s leads to %v", id, h.read(id))
	}
	// The status object of the older version is gone.
	for what, got := range map[string]map[string]any{
		"POST":   a.object(),
		"PUT":    h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).is(200).object(),
		"PATCH":  h.admin().do("PATCH", "/subscriptions/"+id, fields{}).is(200).object(),
		"enable": h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200).object(),
	} {
		for _, m := range []string{"code", "message", "timestamp", "status", "data"} {
			if _, there := got[m]; there {
				t.Errorf("%s answered with %s: %v", what, m, got)
			}
		}
		if got["id"] != id {
			t.Errorf("%s answered with the id %v, want %s", what, got["id"], id)
		}
	}
}

func TestContract_D26_ReadsAreNotWrapped(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	want := []string{
		"createdAt", "dataCallbackURL", "exportFormat", "id", "maxWaitSeconds", "method", "numberOfRecords", "payload",
		"signingSecretSet", "state", "stateSince", "updatedAt",
	}
	if m := members(h.read(id)); !slices.Equal(m, want) {
		t.Errorf("GET one has the members %v, want %v", m, want)
	}
	list := h.admin().do("GET", "/subscriptions", nil).is(200).list()
	if len(list) != 1 || !slices.Equal(members(list[0]), want) {
		t.Errorf("GET all answered %v", list)
	}
	if fmt.Sprint(list[0]) != fmt.Sprint(h.read(id)) {
		t.Errorf("GET all has %v, GET one %v", list[0], h.read(id))
	}
}

func TestContract_D33_DeleteAnswers204(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	h.admin().do("POST", "/accounts", fields{"id": "gone", "name": "x"}).is(200)
	token := h.admin().do("POST", "/tokens", fields{"accountId": "default", "name": "t", "scopes": []string{"publish"}}).is(200).text("id")
	for _, path := range []string{
		"/subscriptions/" + h.subscribe("http://127.0.0.1:8421/", nil), "/resources/project/proj1", "/tokens/" + token, "/accounts/gone",
	} {
		h.admin().do("DELETE", path, nil).is(204)
		h.admin().do("DELETE", path, nil).problem(404)
	}
}

func TestContract_D34_204HasNoBody(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.catalogue("project/proj1")
	for _, path := range []string{"/subscriptions/" + h.subscribe("http://127.0.0.1:8421/", nil), "/resources/project/proj1"} {
		a := h.admin().do("DELETE", path, nil).is(204)
		if len(a.body) != 0 || a.header.Get("Content-Type") != "" || a.header.Get("Content-Length") != "" {
			t.Errorf("DELETE %s answered with a body: %q %v", path, a.body, a.header)
		}
	}
}

func TestContract_D35_403(t *testing.T) {
	t.Parallel()
	h := start(t)
	pub := h.token("default", "publish")
	names(t, "a missing scope", pub.do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).problem(403), "subscribe")
	names(t, "a missing scope", h.token("default", "subscribe").do("POST", "/events", fields{"type": "a.b", "data": fields{}}).problem(403), "publish")
	names(t, "a missing scope", pub.do("GET", "/accounts", nil).problem(403), "admin")
	names(t, "another account", pub.with("Herald-Account", "other").do("GET", "/resources", nil).problem(403), "Herald-Account", "admin")
}

func TestContract_D36_Never406Or422(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	for _, accept := range []string{"application/xml", "text/html", "image/png;q=1", "*/*;q=0", "application/json;q=0", "nonsense", ""} {
		for _, path := range []string{"/subscriptions", "/subscriptions/" + id, "/resources", "/events", "/deliveries", "/accounts", "/tokens"} {
			a := h.admin().with("Accept", accept).do("GET", path, nil).is(200)
			if got := a.header.Get("Content-Type"); got != "application/json" {
				t.Errorf("GET %s accepting %q has the Content-Type %q", path, accept, got)
			}
		}
		h.admin().with("Accept", accept).do("GET", "/subscriptions/"+missing, nil).problem(404)
	}
	// Well-formed and still not right: 400, where other services say 422.
	for path, bodies := range map[string][]string{
		"/subscriptions": {`{}`, `{"dataCallbackURL":"x"}`, `{"dataCallbackURL":"http://127.0.0.1:8421/","numberOfRecords":5000}`, `[]`, `null`},
		"/events":        {`{}`, `{"type":"a b","data":{}}`, `{"type":"a.b","data":[]}`, `{"type":"a.b","data":{},"time":"yesterday"}`, `[]`, `7`, `null`},
		"/accounts":      {`{}`, `{"id":"a b","name":"x"}`, `[]`},
		"/tokens":        {`{}`, `{"accountId":"default","name":"x","scopes":["everything"]}`, `{"accountId":"default","name":"x","scopes":[]}`},
	} {
		for _, body := range bodies {
			h.admin().do("POST", path, body).problem(400)
		}
	}
}

func TestContract_D37_ProblemHasFourMembers(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, c := range []struct {
		a      *answer
		status int
		path   string
	}{
		{h.admin().do("POST", "/subscriptions?token=hidden", `{`), 400, "/subscriptions"},
		{h.as("").do("GET", "/subscriptions", nil), 401, "/subscriptions"},
		{h.token("default", "publish").do("GET", "/subscriptions", nil), 403, "/subscriptions"},
		{h.admin().do("GET", "/subscriptions/"+missing, nil), 404, "/subscriptions/" + missing},
		{h.admin().do("GET", "/no/such/path", nil), 404, "/no/such/path"},
		{h.admin().do("PUT", "/subscriptions", `{}`), 405, "/subscriptions"},
		{h.admin().with("Content-Type", "text/plain").do("POST", "/subscriptions", `{}`), 415, "/subscriptions"},
	} {
		c.a.problem(c.status)
		got := c.a.object()
		if m := members(got); !slices.Equal(m, []string{"detail", "instance", "statusCode", "title"}) && !slices.Equal(m, []string{"detail", "errors", "instance", "statusCode", "title"}) {
			t.Errorf("%s answered with the members %v", c.a.request, m)
		}
		if got["instance"] != c.path || got["statusCode"] != float64(c.status) {
			t.Errorf("%s answered with %v", c.a.request, got)
		}
		if strings.Contains(string(c.a.body), "hidden") {
			t.Errorf("the query is in the problem: %s", c.a.body)
		}
		for _, old := range []string{"code", "message", "timestamp"} { // of the older version
			if _, there := got[old]; there {
				t.Errorf("%s answered with %s", c.a.request, old)
			}
		}
	}
	// Several wrong fields are listed.
	var p struct {
		Errors []struct{ Field, Detail string }
	}
	h.admin().do("POST", "/subscriptions", fields{"method": "DELETE", "payload": "all"}).is(400).into(&p)
	var got []string
	for _, e := range p.Errors {
		got = append(got, e.Field)
		if e.Detail == "" {
			t.Errorf("the field %s has no detail", e.Field)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"dataCallbackURL", "method", "payload"}) {
		t.Errorf("the wrong fields are %v", got)
	}
}

// The error rules hold for every call there is: the walk has each of them.
func TestContract_D39_ErrorRulesHoldForAllCalls(t *testing.T) {
	t.Parallel()
	h := start(t)
	powerless := h.token("default", "publish")
	powerlessToo := h.token("default", "subscribe")
	h.admin().do("POST", "/implementations", fields{"id": "some"}).is(200)
	for _, r := range routes() {
		h.as("").do(r.method, r.path, r.sample()).problem(401)
		a := h.as("hrld_nobody-knows-this-token").do(r.method, r.path, r.sample())
		a.problem(401)
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s %s: 401 with WWW-Authenticate %q", r.method, r.path, a.header.Get("WWW-Authenticate"))
		}
		for scope, c := range map[string]*caller{"publish": powerless, "subscribe": powerlessToo} {
			if !slices.Contains(r.scopes, scope) {
				c.do(r.method, r.path, r.sample()).problem(403)
			}
		}
		if strings.Contains(r.path, missing) || strings.Contains(r.path, "none") && r.method != "PUT" {
			h.admin().do(r.method, r.path, r.sample()).problem(404)
		}
		h.admin().do(r.method, r.path+"?surprise=1", r.sample()).problem(400)
		if r.body != "" {
			path := strings.NewReplacer("/accounts/none", "/accounts/default", "/implementations/none", "/implementations/some").Replace(r.path)
			if strings.Contains(path, missing) {
				continue // 404 comes first
			}
			for _, body := range []string{"", "{", "{}}", "nothing", `{"surprise":1}`, "\xff", `{"a":1,"a":2}`, `{“name”:1}`, strings.Repeat(`[`, 200)} {
				if body == "" && path == "/resources/project/none" {
					continue // whose only member, the name, may be absent
				}
				h.admin().do(r.method, path, body).problem(400)
			}
			h.admin().with("Content-Type", "application/xml").do(r.method, path, r.body).problem(415)
			h.admin().with("Content-Type", "application/json; charset=latin1").do(r.method, path, r.body).problem(415)
			h.admin().with("Content-Encoding", "gzip").do(r.method, path, r.body).problem(415)
		}
	}
	for path, allowed := range methodsOf(routes()) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PURGE"} {
			if slices.Contains(allowed, method) {
				continue
			}
			a := h.admin().do(method, path, nil)
			a.problem(405)
			got := strings.Split(a.header.Get("Allow"), ", ")
			for _, m := range allowed {
				if !slices.Contains(got, m) {
					t.Errorf("%s %s: Allow is %q and lacks %s", method, path, got, m)
				}
			}
			if slices.Contains(got, method) {
				t.Errorf("%s %s: Allow is %q", method, path, got)
			}
		}
		a := h.admin().do("OPTIONS", path, nil).is(http.StatusNoContent)
		if got := strings.Split(a.header.Get("Allow"), ", "); len(got) < len(allowed) || !slices.Contains(got, allowed[0]) {
			t.Errorf("OPTIONS %s: Allow is %q, want %q", path, got, allowed)
		}
		a = h.as("").do("HEAD", path, nil)
		if len(a.body) != 0 || a.status != 401 && a.status != 405 || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("HEAD %s without a token: %d %v", path, a.status, a.header)
		}
	}
	for _, path := range []string{"/accounts", "/tokens", "/resources", "/subscriptions", "/events", "/deliveries", "/accounts/default"} {
		get := h.admin().do("GET", path, nil).is(200)
		head := h.admin().do("HEAD", path, nil).is(200)
		if len(head.body) != 0 || head.header.Get("Content-Type") != "application/json" || len(get.body) == 0 {
			t.Errorf("HEAD %s answered %v %q", path, head.header, head.body)
		}
	}
	for _, kind := range []string{"application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"} {
		h.admin().with("Content-Type", kind).do("POST", "/events", `{"type":"a.b","data":{}}`).is(202)
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "nonsense", "application/problem+json"} {
		h.admin().with("Content-Type", kind).do("POST", "/events", `{"type":"a.b","data":{}}`).problem(415)
	}
	h.admin().with("Content-Type", "application/x-ndjson").do("POST", "/subscriptions", `{}`).problem(415)
	h.admin().with("Content-Type", "application/merge-patch+json").do("POST", "/subscriptions", `{}`).problem(415)
	for _, path := range []string{"/", "/none", "/subscriptions/", "/subscriptions/" + missing + "/none", "//events", "/events/../events", "/Events"} {
		h.admin().do("GET", path, nil).problem(404)
	}
}
