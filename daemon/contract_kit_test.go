package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// missing is the id of a subscription that does not exist.
const missing = "01890000-0000-7000-8000-000000000000"

// aSecret and anotherSecret are signing secrets of the Standard Webhooks form.
const (
	aSecret       = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
	anotherSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
)

// fields is a JSON object in the making.
type fields = map[string]any

// patiently is a delivery policy whose retries are far away, so that a failed delivery stays as it is.
func patiently() fields { return fields{"retrySchedule": []string{"1h"}} }

// promptly is a delivery policy that retries n times, after a second each.
func promptly(n int) fields { return fields{"retrySchedule": slices.Repeat([]string{"1s"}, n)} }

// names fails the test unless a text has every one of the words. Alternatives are joined by '|'.
func names(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !slices.ContainsFunc(strings.Split(w, "|"), func(w string) bool { return strings.Contains(text, w) }) {
			t.Errorf("%s: %q does not name %q", what, text, w)
		}
	}
}

// verifies says whether the push is signed with the secret, in the judgement of the reference library.
func (p push) verifies(t *testing.T, secret string) bool {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return w.Verify(p.body, p.header) == nil
}

// deliveries lists the deliveries of an event.
func (c *caller) deliveries(event string) []map[string]any {
	c.h.t.Helper()
	return c.do("GET", "/deliveries?event="+event, nil).is(200).list()
}

// read answers with a subscription.
func (h *herald) read(id string) map[string]any {
	h.t.Helper()
	return h.admin().do("GET", "/subscriptions/"+id, nil).is(200).object()
}

// account makes an account and returns a caller with a token of it that has the scopes.
func (h *herald) account(id string, scopes ...string) *caller {
	h.t.Helper()
	h.admin().do("POST", "/accounts", fields{"id": id, "name": "the account " + id}).is(200)
	return h.token(id, scopes...)
}

// catalogue puts resources into the catalogue of the default account.
func (h *herald) catalogue(resources ...string) {
	h.t.Helper()
	for _, r := range resources {
		h.admin().do("PUT", "/resources/"+r, fields{"name": "the name of " + r}).is(200)
	}
}

// attempts returns the attempts of a delivery that was read.
func attempts(t *testing.T, delivery map[string]any) []map[string]any {
	t.Helper()
	list, ok := delivery["attempts"].([]any)
	if !ok {
		t.Fatalf("no attempts in %v", delivery)
	}
	out := make([]map[string]any, len(list))
	for i := range list {
		out[i], _ = list[i].(map[string]any)
		if out[i]["number"] != float64(i+1) {
			t.Errorf("attempt %d has the number %v", i+1, out[i]["number"])
		}
	}
	return out
}

// ids are the event ids of pushes in the envelope form, in the order of arrival.
func ids(t *testing.T, pushes []push) []string {
	t.Helper()
	out := make([]string, len(pushes))
	for i, p := range pushes {
		out[i], _ = p.object(t)["id"].(string)
	}
	return out
}

// only fails the test unless the receiver has got exactly the events given, each once, in any order.
func (r *receiver) only(events ...string) {
	r.t.Helper()
	got := ids(r.t, r.got())
	slices.Sort(got)
	want := slices.Sorted(slices.Values(events))
	if !slices.Equal(got, want) {
		r.t.Errorf("the receiver got the events %v, want %v", got, want)
	}
}

// moment reads an RFC 3339 time in UTC.
func moment(t *testing.T, v any) time.Time {
	t.Helper()
	s, _ := v.(string)
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || !strings.HasSuffix(s, "Z") {
		t.Fatalf("%v is no RFC 3339 time in UTC", v)
	}
	return at
}

// members returns the member names of an object, sorted.
func members(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// gate is an answer that waits until it is opened, or until the test ends.
type gate struct {
	arrived chan struct{}
	opened  chan struct{}
	open    func()
}

// hold makes the receiver wait before it answers, until the gate is opened.
func (r *receiver) hold(status int) *gate {
	g := &gate{arrived: make(chan struct{}, 1000), opened: make(chan struct{})}
	shut := make(chan struct{}, 1)
	shut <- struct{}{}
	g.open = func() {
		select {
		case <-shut:
			close(g.opened)
		default:
		}
	}
	r.t.Cleanup(g.open)
	r.respond(func(_ int, _ push, w http.ResponseWriter) {
		g.arrived <- struct{}{}
		<-g.opened
		w.WriteHeader(status)
	})
	return g
}

// taken waits until n pushes have arrived at the gate.
func (g *gate) taken(t *testing.T, n int) {
	t.Helper()
	late := time.After(patience)
	for i := range n {
		select {
		case <-g.arrived:
		case <-late:
			t.Fatalf("only %d of %d pushes arrived within %v", i, n, patience)
		}
	}
}

// lines joins events to NDJSON.
func lines(t *testing.T, events ...any) string {
	t.Helper()
	var b strings.Builder
	for _, e := range events {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", text)
	}
	return b.String()
}

// route is one call of the API as the contract has it.
type route struct {
	method string
	path   string   // of something that does not exist
	scopes []string // any of which suffices, beside admin
	body   string   // a right one, or "" when the call takes none
}

func (r route) sample() any {
	if r.body == "" {
		return nil
	}
	return r.body
}

// routes are all calls of the API that need a token.
func routes() []route {
	var list []route
	add := func(path string, body string, scopes []string, methods ...string) {
		for _, m := range methods {
			b := body
			if m == "GET" || m == "DELETE" {
				b = ""
			}
			list = append(list, route{m, path, scopes, b})
		}
	}
	publish, subscribe, both := []string{"publish"}, []string{"subscribe"}, []string{"publish", "subscribe"}
	subscription := "/subscriptions/" + missing
	add("/accounts", `{"id":"made","name":"x"}`, nil, "GET", "POST")
	add("/accounts/none", `{"name":"x"}`, nil, "GET", "PUT", "PATCH", "DELETE")
	add("/tokens", `{"accountId":"default","name":"x","scopes":["publish"]}`, nil, "GET", "POST")
	add("/tokens/none", "", nil, "DELETE")
	add("/admin/backup", "", nil, "GET")
	add("/resources", `[{"type":"project","id":"p","name":"x"}]`, both, "GET")
	add("/resources", `[{"type":"project","id":"p","name":"x"}]`, publish, "PUT")
	add("/resources/project/none", `{"name":"x"}`, publish, "DELETE", "PUT")
	add("/subscriptions", `{"dataCallbackURL":"http://127.0.0.1:8421/","events":["no.such"]}`, subscribe, "GET", "POST")
	add(subscription, `{"dataCallbackURL":"http://127.0.0.1:8421/","events":["no.such"]}`, subscribe, "GET", "PUT", "PATCH", "DELETE")
	for _, act := range []string{"/enable", "/pause", "/secret", "/ping", "/retry", "/replay", "/validation"} {
		add(subscription+act, "", subscribe, "POST")
	}
	add(subscription+"/status", "", subscribe, "GET")
	add(subscription+"/replays", "", subscribe, "GET")
	add(subscription+"/replays/none", "", subscribe, "GET", "DELETE")
	add("/events", `{"type":"task.create","data":{}}`, publish, "POST")
	add("/events", "", both, "GET")
	add("/events/none", "", both, "GET")
	add("/deliveries", "", subscribe, "GET")
	add("/deliveries/none", "", subscribe, "GET")
	add("/deliveries/none/retry", "", subscribe, "POST")
	send, devices, either := []string{"send"}, []string{"devices"}, []string{"devices", "send"}
	add("/implementations", "", either, "GET")
	add("/implementations", `{"name":"x"}`, send, "POST")
	add("/implementations/none", "", either, "GET")
	add("/implementations/none", `{"name":"x"}`, send, "PATCH", "DELETE")
	add("/messages", `{"implementationId":"none","routeeContactId":"c","silent":true}`, send, "POST")
	add("/messages/multicast", `{"implementationId":"none","contacts":["c"],"silent":true}`, send, "POST")
	add("/messages/none", "", send, "GET")
	add("/messages/android", `{"routeeContactId":"c","token":"t","implementationId":"none"}`, devices, "POST")
	add("/contacts/none", "", devices, "DELETE")
	add("/contacts/c/devices", "", either, "GET")
	add("/devices/none", "", either, "GET")
	add("/devices/none", "", devices, "DELETE")
	return list
}

// methodsOf are the methods of each path.
func methodsOf(list []route) map[string][]string {
	out := map[string][]string{"/resources/project/none": {"GET"}, "/messages/none": {"POST"}} // which is for types of devices
	for _, r := range list {
		out[r.path] = append(out[r.path], r.method)
	}
	return out
}
