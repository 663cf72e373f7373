package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The document that the daemon serves is the one that the tests judge by, with its version, for anybody. TEST_OPENAPI names a
// file to write it to, for the linters of .ci/run.
func TestContract_OpenAPIIsServed(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := h.as("").do("GET", "/openapi.json", nil).is(200)
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("it is served as %q", got)
	}
	if path := os.Getenv("TEST_OPENAPI"); path != "" {
		if err := os.WriteFile(path, a.body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	served, written := a.object(), map[string]any{}
	text, err := os.ReadFile(filepath.FromSlash(openAPIFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &written); err != nil {
		t.Fatal(err)
	}
	info, _ := served["info"].(map[string]any)
	if info["version"] != "1.2.3-test" {
		t.Errorf("it is of the version %v", info["version"])
	}
	info["version"] = written["info"].(map[string]any)["version"]
	if fmt.Sprint(served) != fmt.Sprint(written) {
		t.Error("another document is served than the one that is written")
	}
	h.as("").do("HEAD", "/openapi.json", nil).is(200)
	names(t, "a query", h.as("").do("GET", "/openapi.json?x=1", nil).problem(400), "x")
}

// What every operation of the document has in common: how it refuses. The harness holds each answer against the document.

// sample is the path of an operation for a subscription that is there; what else it names is not.
func (o *operation) sample(subscription string) string {
	return strings.NewReplacer("{subscription}", subscription, "{type}", "project", "{account}", "none", "{token}", "none", "{id}", "none",
		"{event}", "none", "{delivery}", "none", "{replay}", "none", "{day}", "20261121",
		"{implementation}", "none", "{message}", "android", "{contact}", "none", "{device}", "none").Replace(o.path)
}

// refusing calls every operation that the document says may answer with the status.
func refusing(t *testing.T, status string, subscription string, call func(*operation, string) *answer) {
	t.Helper()
	n := 0
	for _, o := range openAPI().operations {
		if o.answers[status] == nil {
			continue
		}
		n++
		if a := call(o, o.sample(subscription)); status != "431" {
			a.problem(int(status[0]-'0')*100 + int(status[1]-'0')*10 + int(status[2]-'0'))
		} else {
			a.is(431)
		}
	}
	if n == 0 {
		t.Errorf("no operation answers %s", status)
	}
}

func TestContract_OpenAPI_EveryOperationRefusesAsDescribed(t *testing.T) {
	t.Parallel()
	h := start(t, "limits: {body_bytes: 8KiB, payload_bytes: 2KiB}")
	sub := h.subscribe("http://127.0.0.1:8421/", nil)
	h.admin().do("POST", "/implementations", fields{"id": "none"}).is(200)
	other := h.admin().with("Herald-Account", "nobody")
	sender, publisher := h.token("default", "send"), h.token("default", "publish")
	ofDevices := regexp.MustCompile("^/(implementations|messages|contacts|devices)")
	refusing(t, "400", sub, func(o *operation, path string) *answer { return h.admin().do(o.method, path+"?no.such=1", nil) })
	refusing(t, "401", sub, func(o *operation, path string) *answer { return h.as("").do(o.method, path, nil) })
	anonymous := func(path string) bool {
		return strings.HasSuffix(path, "/confirmation") || strings.HasSuffix(path, "/permission")
	}
	refusing(t, "403", sub, func(o *operation, path string) *answer {
		if anonymous(path) {
			path += "?signature=1.wrong"
		}
		if ofDevices.MatchString(path) {
			return publisher.do(o.method, path, nil)
		}
		return sender.do(o.method, path, nil)
	})
	refusing(t, "404", sub, func(o *operation, path string) *answer {
		if anonymous(path) {
			path = strings.Replace(path, sub, missing, 1) + "?signature=1.wrong"
		}
		return other.do(o.method, path, nil)
	})
	refusing(t, "413", sub, func(o *operation, path string) *answer {
		return h.admin().do(o.method, path, `{"x":"`+strings.Repeat("x", 20<<10)+`"}`)
	})
	refusing(t, "415", sub, func(o *operation, path string) *answer {
		return h.admin().with("Content-Type", "text/plain").do(o.method, path, "x")
	})
	refusing(t, "431", sub, func(o *operation, path string) *answer {
		return h.admin().with("X-Large", strings.Repeat("x", 48<<10)).do(o.method, path, nil)
	})
}

func TestContract_OpenAPI_EveryOperationIsLimited(t *testing.T) {
	t.Parallel()
	h := start(t, "limits: {rate_per_token: 0.001}")
	h.admin().do("GET", "/accounts", nil).is(200)
	refusing(t, "429", missing, func(o *operation, path string) *answer { return h.admin().do(o.method, path, nil) })
}

// A call without input takes an empty object as well as no body.
func TestContract_OpenAPI_NoInputMayBeAnEmptyObject(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	sub := h.subscribe(r.URL, nil)
	delivery := h.delivery(h.publish("a.b", "", fields{}), sub, "delivered")["id"].(string)
	for _, path := range []string{"/pause", "/enable", "/validation", "/secret", "/ping", "/retry"} {
		a := h.admin().do("POST", "/subscriptions/"+sub+path, `{}`)
		if !slices.Contains([]int{200, 202}, a.status) {
			t.Errorf("%s: %d %s", a.request, a.status, a.body)
		}
	}
	h.admin().do("POST", "/deliveries/"+delivery+"/retry", ` {} `).is(202)
}

// What a read shows is taken back by PUT and PATCH and changes nothing, for each kind of authentication; PATCH changes each part.
func TestContract_OpenAPI_WhatIsShownIsTakenBack(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, kind := range []struct{ authentication, change fields }{
		{fields{"type": "bearer", "token": "t0"}, fields{"token": "t1", "tokenSet": true}},
		{fields{"type": "basic", "username": "u", "password": "p"}, fields{"username": "v", "password": "q", "passwordSet": true}},
		{fields{"type": "header", "name": "X-Key", "value": "v"}, fields{"name": "X-Other", "value": "w", "valueSet": true}},
		{fields{"type": "query", "name": "key", "value": "v"}, fields{"name": "other", "value": "w", "valueSet": true}},
		{
			fields{"type": "oauth2", "tokenURL": "http://127.0.0.1:8421/t", "clientId": "c", "clientSecret": "s", "scopes": []string{"a"}},
			fields{"tokenURL": "http://127.0.0.1:8421/u", "clientId": "d", "clientSecret": "r", "clientSecretSet": true, "scopes": []string{"b"}},
		},
	} {
		id := h.subscribe("http://127.0.0.1:8421/", fields{"authentication": kind.authentication})
		h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200) // so that there is a stateReason
		before := h.read(id)
		for _, method := range []string{"PUT", "PATCH"} {
			after := h.admin().do(method, "/subscriptions/"+id, before).is(200).object()
			after["updatedAt"] = before["updatedAt"]
			if got, want := fmt.Sprint(after), fmt.Sprint(before); got != want {
				t.Errorf("%s of what was read made\n%s of\n%s", method, got, want)
			}
		}
		shown := h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": kind.change}).is(200).object()["authentication"].(map[string]any)
		for name, value := range kind.change {
			if got, is := shown[name]; is && fmt.Sprint(got) != fmt.Sprint(value) {
				t.Errorf("%v: %s is %v, want %v", kind.authentication["type"], name, got, value)
			}
		}
	}
	h.admin().do("POST", "/accounts", fields{"id": "acc", "name": "A", "suspended": true}).is(200)
	account := h.admin().do("GET", "/accounts/acc", nil).is(200).object()
	if account["suspended"] != true {
		t.Errorf("an account created suspended is %v", account)
	}
	for method, media := range map[string]string{"PUT": "application/json", "PATCH": "application/merge-patch+json"} {
		after := h.admin().with("Content-Type", media).do(method, "/accounts/acc", account).is(200).object()
		if fmt.Sprint(after) != fmt.Sprint(account) {
			t.Errorf("%s of what was read made %v of %v", method, after, account)
		}
	}
	h.catalogue("project/p1")
	resource := h.admin().do("GET", "/resources/project/p1", nil).is(200).object()
	after := h.admin().do("PUT", "/resources/project/p1", resource).is(200).object()
	if fmt.Sprint(after) != fmt.Sprint(resource) {
		t.Errorf("PUT of what was read made %v of %v", after, resource)
	}
}

// The lists of accounts and tokens are read page by page, too.
func TestContract_OpenAPI_AdminListsHavePages(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, id := range []string{"a1", "a2", "a3"} {
		h.account(id, "publish")
	}
	for _, path := range []string{"/accounts", "/tokens"} {
		whole := h.admin().do("GET", path, nil).is(200).list()
		var pages []map[string]any
		for next := path + "?limit=2"; next != ""; {
			a := h.admin().do("GET", next, nil).is(200)
			pages, next = append(pages, a.list()...), ""
			if link := a.header.Get("Link"); link != "" {
				next = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
			}
		}
		if fmt.Sprint(pages) != fmt.Sprint(whole) || len(whole) < 3 {
			t.Errorf("%s: the pages have %v, the whole list %v", path, pages, whole)
		}
	}
}

// Every operator of a filter is taken and shown as it was given.
func TestContract_OpenAPI_FilterOperators(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	filter := fields{
		"$and": []any{fields{"a": fields{"$eq": 1}}, fields{"b": fields{"$gt": 1, "$lte": 3}}},
		"$or":  []any{fields{"c": fields{"$ne": 1, "$nin": []any{2, nil}}}, fields{"c": fields{"$in": []any{1, "x"}}}},
		"$not": fields{"d": fields{"$gte": 5, "$lt": 6}},
		"e":    fields{"$prefix": "x", "$suffix": "y", "$not": fields{"$eq": "xzy"}},
		"f":    fields{"g": fields{"$exists": true}},
		"h":    nil,
	}
	id := h.subscribe(r.URL, fields{"filter": filter})
	if got, want := fmt.Sprint(h.read(id)["filter"]), fmt.Sprint(filter); got != want {
		t.Errorf("the filter is shown as %s, want %s", got, want)
	}
	meets := fields{"a": 1, "b": 2, "c": 3, "d": 7, "e": "xy", "f": fields{"g": nil}, "h": nil}
	wanted := h.publish("a.b", "", meets)
	meets["e"] = "xzy"
	h.publish("a.b", "", meets)
	r.wait(1)
	h.sentinel()
	r.only(wanted)
}

// Data of a CloudEvent in binary mode may say in any way that it is JSON.
func TestContract_OpenAPI_BinaryEventsOfEveryMediaType(t *testing.T) {
	t.Parallel()
	h := start(t)
	for n, media := range []string{"application/json", "text/json", "application/vnd.shop.order+json"} {
		id := h.admin().with("Content-Type", media).with("ce-specversion", "1.0").with("ce-id", fmt.Sprint(n)).with("ce-source", "/shop").
			with("ce-type", "a.b").with("ce-time", "2026-11-21T10:00:00Z").with("ce-subject", "the order").with("ce-resource", "order/1").
			with("ce-dataschema", "https://shop.example/order").do("POST", "/events", `{"x":1}`).is(202).text("id")
		e := h.admin().do("GET", "/events/"+id, nil).is(200).object()
		if got := e["attributes"].(map[string]any)["datacontenttype"]; got != media || e["resource"] != "order/1" {
			t.Errorf("the event of the type %s is %v", media, e)
		}
	}
}

// No more than five signing secrets are in force, and nothing is retried for a subscription that discards.
func TestContract_OpenAPI_Conflicts(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	for range 4 {
		h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200)
	}
	names(t, "a sixth secret", h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).problem(409), "5", "expires")

	r := receive(t)
	r.status(410)
	gone := h.subscribe(r.URL, fields{"delivery": fields{"onDisabled": "discard"}})
	h.publish("a.b", "", fields{})
	h.eventually("it is disabled", func() bool { return h.read(gone)["state"] == "disabled" })
	names(t, "a retry", h.admin().do("POST", "/subscriptions/"+gone+"/retry", nil).problem(409), "discards", "/enable")
	h.admin().do("POST", "/subscriptions/"+gone+"/retry?dryRun=true", nil).is(200)
}

// What is retried or replayed may be said in the query, in a form of either kind or in a JSON object, but each thing only once.
func TestContract_OpenAPI_SelectionsInEveryForm(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	h.publishAll(2, nil)
	h.publish("user.create", "", fields{})
	h.dead(id, 3)
	type selection struct {
		call   string
		want   float64
		values map[string]string
		json   fields
	}
	since, until := time.Now().UTC().Add(-time.Hour).Format(time.RFC3339Nano), time.Now().UTC().Format(time.RFC3339Nano)
	for _, s := range []selection{
		{"/retry", 2, map[string]string{"reason": "exhausted", "type": "task.create", "rate": "0.5"}, fields{"rate": 0.5}},
		{"/replay", 3, map[string]string{"outcome": "failed", "rate": "1e3"}, fields{"rate": 1e3}},
	} {
		path := "/subscriptions/" + id + s.call
		s.values["since"], s.values["until"], s.values["dryRun"], s.json["dryRun"] = since, until, "true", true
		query, parts := make(url.Values), ""
		for name, value := range s.values {
			query.Set(name, value)
			parts += "--XX\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
			if s.json[name] == nil {
				s.json[name] = value
			}
		}
		form := h.admin().with("Content-Type", "application/x-www-form-urlencoded")
		multi := h.admin().with("Content-Type", "multipart/form-data; boundary=XX")
		for what, a := range map[string]*answer{
			"query":     h.admin().do("POST", path+"?"+query.Encode(), nil),
			"form":      form.do("POST", path, query.Encode()),
			"multipart": multi.do("POST", path, parts+"--XX--\r\n"),
			"JSON":      h.admin().do("POST", path, s.json),
		} {
			if got := a.is(200).object()["count"]; got != s.want {
				t.Errorf("%s by %s counts %v, want %v", s.call, what, got, s.want)
			}
		}
		for what, a := range map[string]*answer{
			"a form":      form.do("POST", path+"?rate=1", "rate=1"),
			"a part":      multi.do("POST", path+"?since="+since, parts+"--XX--\r\n"),
			"JSON":        h.admin().do("POST", path+"?dryRun=true", s.json),
			"twice":       form.do("POST", path, "rate=1&rate=1"),
			"an odd flag": form.do("POST", path, "dryRun=yes"),
			"no number":   form.do("POST", path, "rate=fast"),
			"no time":     form.do("POST", path, "since=yesterday"),
			"unknown":     form.do("POST", path, "ratio=1"),
		} {
			names(t, s.call+" with "+what, a.problem(400), "query and in the body|twice|2 times|true or false|number|time|not known")
		}
	}
	h.dead(id, 3)
}

// A push of every form, by each method that has a body.
func TestContract_OpenAPI_PushesOfEveryForm(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	n := 0
	for _, method := range []string{"POST", "PUT"} {
		for _, form := range []fields{
			{"payload": "envelope"},
			{"payload": "data"},
			{"payload": "cloudevents"},
			{"payload": "envelope", "exportFormat": "application/xml"},
			{"payload": "data", "exportFormat": "application/xml"},
		} {
			for _, records := range []int{1, 2} {
				form["method"], form["numberOfRecords"], form["maxWaitSeconds"] = method, records, 0
				h.subscribe(r.URL, form)
				n++
			}
		}
	}
	h.publish("a.b", "project/p", fields{"x": 1})
	r.wait(n)
}

// bounds are values of a member that the document just allows, and such that it just forbids; none where it sets no bounds.
func bounds(s *jsonschema.Schema) (good, bad []any) {
	if s.Enum != nil {
		return s.Enum.Values, []any{"none of them"}
	}
	if s.Minimum == nil || s.Maximum == nil {
		return nil, nil
	}
	low, _ := s.Minimum.Float64()
	high, _ := s.Maximum.Float64()
	below, above := low-1, high+1
	if slices.Contains(s.Types.ToStrings(), "number") {
		above = high * 1.001
		if low > 0 {
			below = low * 0.999
		}
	}
	return []any{low, high}, []any{below, above, "1", true}
}

// The limits of the document are those of the daemon: what is just within is taken, what is just beyond is refused.
func TestContract_OpenAPI_LimitsAreExact(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	seen := 0
	for _, object := range []struct {
		schema string
		within func(fields) *answer
	}{
		{"SubscriptionSettings", func(f fields) *answer { return h.admin().do("PATCH", "/subscriptions/"+id, f) }},
		{"DeliveryPolicy", func(f fields) *answer {
			if f["rateBurst"] != nil {
				f["rateLimit"] = 1
			}
			return h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": f})
		}},
		{"DeliveryPolicy/properties/disableAfter", func(f fields) *answer {
			return h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": fields{"disableAfter": f}})
		}},
		{"DeadSelection", func(f fields) *answer { return h.admin().do("POST", "/subscriptions/"+id+"/retry", f) }},
		{"ReplaySelection", func(f fields) *answer {
			f["since"], f["dryRun"] = "2020-01-01T00:00:00Z", true
			return h.admin().do("POST", "/subscriptions/"+id+"/replay", f)
		}},
	} {
		for name, s := range openAPI().compile("/components/schemas/" + object.schema).Properties {
			if name == "signatureScheme" { // which goes with a secret only
				continue
			}
			good, bad := bounds(s)
			seen += len(good)
			for _, v := range good {
				if a := object.within(fields{name: v}); a.status >= 300 {
					t.Errorf("%s of %s is %v by the document: %s", name, object.schema, v, a.body)
				}
			}
			for _, v := range bad {
				names(t, fmt.Sprintf("%s of %s is %v", name, object.schema, v), object.within(fields{name: v}).problem(400), name)
			}
			if len(good) > 0 {
				object.within(fields{name: nil}) // so that it does not stand in the way of the next
			}
		}
	}
	if seen < 25 {
		t.Errorf("only %d bounds were looked at", seen)
	}
}
