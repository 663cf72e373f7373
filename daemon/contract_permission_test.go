package daemon_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	cloudhttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// The other kind of validation: the receiver is asked for permission by an OPTIONS request ("HTTP 1.1 Web Hooks for Event Delivery" of
// CloudEvents, section 4).

// asking are the fields of a subscription whose receiver is asked so.
func asking(more fields) fields {
	f := fields{"validation": "cloudevents", "events": []string{"task.*"}}
	maps.Copy(f, more)
	return f
}

// grants makes the receiver answer requests for permission with the headers, given as names and values, and pushes with 200.
func (r *receiver) grants(headers ...string) {
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		if p.method == http.MethodOptions {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Add(headers[i], headers[i+1])
			}
		}
	})
}

// only pushes of a method.
func of(method string, list []push) []push {
	return slices.DeleteFunc(slices.Clone(list), func(p push) bool { return p.method != method })
}

// becomes waits until a subscription has the state.
func (h *herald) becomes(id, state string) {
	h.t.Helper()
	h.eventually("the subscription is "+state, func() bool { return h.state(id) == state })
}

func TestContract_Permission_Granted(t *testing.T) {
	t.Parallel()
	h := start(t, "public_url: https://Push.Example.com:8443/base")
	r := receive(t)
	r.grants("WebHook-Allowed-Origin", "push.example.com", "WebHook-Allowed-Rate", "600", "Allow", "POST")
	a := h.admin().do("POST", "/subscriptions", asking(fields{
		"dataCallbackURL": r.URL + "/in?x=1", "delivery": fields{"rateLimit": 2}, "signingSecret": aSecret,
		"authentication": fields{"type": "bearer", "token": "s3cret-token"},
	})).is(200)
	id := a.text("id")
	if a.text("state") != "pending" || a.text("validation") != "cloudevents" || a.object()["allowedRatePerMinute"] != nil {
		t.Fatalf("a new subscription is %s", a.body)
	}
	asked := r.wait(1)[0]
	callback := asked.header.Get("WebHook-Request-Callback")
	if asked.method != "OPTIONS" || asked.url != "/in?x=1" || len(asked.body) != 0 {
		t.Errorf("asked by %s %s with %q", asked.method, asked.url, asked.body)
	}
	if !strings.HasPrefix(callback, "https://Push.Example.com:8443/base/subscriptions/"+id+"/permission?signature=") {
		t.Errorf("the callback is %q", callback)
	}
	for name, want := range map[string]string{
		"WebHook-Request-Origin": "push.example.com", "WebHook-Request-Rate": "120", "Authorization": "Bearer s3cret-token", "Herald-Attempt": "1",
	} {
		if got := asked.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !asked.verifies(t, aSecret) {
		t.Error("the request is not signed")
	}
	h.becomes(id, "active")
	if s := h.read(id); s["allowedRatePerMinute"] != 600.0 || h.progress(id) != nil {
		t.Errorf("it is %v, the validation %v", s, h.progress(id))
	}
	event := h.publish("task.create", "", fields{})
	p := r.wait(2)[1]
	if p.id() != event || p.method != "POST" || p.header.Get("WebHook-Request-Origin") != "push.example.com" || p.header.Get("WebHook-Request-Callback") != "" {
		t.Errorf("the push is %+v", p)
	}
	// A read can be sent back and changes nothing.
	if s := h.admin().do("PUT", "/subscriptions/"+id, h.read(id)).is(200); s.text("state") != "active" || s.object()["allowedRatePerMinute"] != 600.0 {
		t.Errorf("sent back: %s", s.body)
	}
	h.eventually("the request is counted", func() bool {
		return strings.Contains(string(h.anyone().do("GET", "/metrics", nil).is(200).body), `herald_handshake_attempts_total{outcome="delivered"} 1`)
	})
}

// The judge: a receiver made with the Go module of CloudEvents, which answers the handshake itself. It grants at once in the answer to a
// request without a callback, and with autoACK at the callback; in an answer to a request with one it never does.
func TestContract_Permission_CloudEventsModule(t *testing.T) {
	t.Parallel()
	for _, autoACK := range []bool{true, false} {
		t.Run(fmt.Sprint("autoACK ", autoACK), func(t *testing.T) {
			t.Parallel()
			const minute, events = 120, 5
			h := start(t, "delivery: {jitter: 0}")
			receiver, err := cloudhttp.New(cloudhttp.WithDefaultOptionsHandlerFunc([]string{"POST"}, minute, []string{"127.0.0.1"}, autoACK))
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var got []cloudevents.Event
			var at []time.Time
			var methods []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				methods = append(methods, r.Method)
				if r.Method == "POST" {
					at = append(at, time.Now())
				}
				mu.Unlock()
				receiver.ServeHTTP(w, r)
			}))
			ctx, cancel := context.WithCancel(context.Background())
			var taking sync.WaitGroup
			taking.Go(func() {
				for {
					m, err := receiver.Receive(ctx)
					if err != nil {
						return
					}
					e, err := binding.ToEvent(ctx, m)
					if err != nil {
						t.Errorf("the module cannot read an event: %v", err)
					} else {
						mu.Lock()
						got = append(got, *e)
						mu.Unlock()
					}
					_ = m.Finish(err)
				}
			})
			t.Cleanup(func() {
				server.CloseClientConnections()
				server.Close()
				cancel()
				taking.Wait()
			})
			id := h.subscribe(server.URL, asking(fields{"payload": "cloudevents"}))
			h.becomes(id, "active")
			if s := h.read(id); s["allowedRatePerMinute"] != float64(minute) {
				t.Errorf("it is %v", s)
			}
			var published []string
			began := time.Now()
			for i := range events {
				published = append(published, h.publish("task.create", "", fields{"n": i}))
			}
			h.eventually("all have arrived", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(got) >= events
			})
			mu.Lock()
			defer mu.Unlock()
			for _, e := range got {
				if e.Validate() != nil || !slices.Contains(published, e.ID()) {
					t.Errorf("the receiver got %v", e)
				}
			}
			paced(t, "the permitted rate", began, at, minute/60, 1)
			if want := map[bool]int{true: 1, false: 2}[autoACK]; len(methods) != want+events {
				t.Errorf("it got %v", methods)
			}
		})
	}
}

// The permitted rate is of pushes, not records; it survives a restart, and the next permission takes its place.
func TestContract_Permission_RateIsKept(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.grants("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "60")
	id := h.subscribe(r.URL, asking(fields{"numberOfRecords": 4, "maxWaitSeconds": 0.1}))
	h.becomes(id, "active")
	h = h.restart(steady)
	if s := h.read(id); s["allowedRatePerMinute"] != 60.0 || s["state"] != "active" {
		t.Fatalf("after the restart: %v", s)
	}
	began := time.Now()
	h.publishAll(10, nil)
	var pushes []push
	h.eventually("all have arrived", func() bool {
		pushes = of("POST", r.got())
		n := 0
		for _, p := range pushes {
			n += len(p.records(t))
		}
		return n == 10
	})
	if len(pushes) != 3 {
		t.Errorf("ten records came in %d pushes", len(pushes))
	}
	paced(t, "pushes", began, times(pushes, func(push) int { return 1 }), 1, 1)
	// Its own limit is the lower one, or not, whatever is permitted.
	r.grants("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "*")
	h.admin().do("POST", "/subscriptions/"+id+"/validation", nil).is(202)
	h.eventually("there is no limit", func() bool { return h.read(id)["allowedRatePerMinute"] == nil })
	if h.state(id) != "active" {
		t.Errorf("it is %s", h.state(id))
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"numberOfRecords": 1}).is(200)
	n := len(r.got())
	h.publishAll(50, nil)
	r.wait(n + 50)
}

// What the receiver does not grant it does not get, and its owner sees why.
func TestContract_Permission_Refused(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	for what, c := range map[string]struct {
		headers []string
		words   []string
	}{
		"silence":         {nil, []string{"WebHook-Allowed-Origin"}},
		"another origin":  {[]string{"WebHook-Allowed-Origin", "evil.example"}, []string{"127.0.0.1", "*"}},
		"a rate of none":  {[]string{"WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "0"}, []string{"WebHook-Allowed-Rate", "above 0"}},
		"a negative rate": {[]string{"WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "-1"}, []string{"WebHook-Allowed-Rate"}},
		"a rate in words": {[]string{"WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "fast"}, []string{"WebHook-Allowed-Rate"}},
	} {
		r := receive(t)
		r.grants(c.headers...)
		id := h.subscribe(r.URL, asking(nil))
		h.eventually("the refusal is noted", func() bool { return h.progress(id)["attempts"] == 1.0 })
		v := h.progress(id)
		names(t, what, fmt.Sprint(v["lastError"]), c.words...)
		if d := time.Until(moment(t, v["nextAttemptAt"])); h.state(id) != "pending" || d > 5*time.Second {
			t.Errorf("%s: it is %s and asked again in %v", what, h.state(id), d)
		}
	}
	moved := receive(t)
	elsewhere := receive(t)
	elsewhere.grants("WebHook-Allowed-Origin", "*")
	moved.respond(func(_ int, _ push, w http.ResponseWriter) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	id := h.subscribe(moved.URL, asking(nil))
	h.eventually("the redirect is noted", func() bool { return h.progress(id)["attempts"] == 1.0 })
	names(t, "a redirect", fmt.Sprint(h.progress(id)["lastError"]), "307", "not followed")
	h.publish("task.create", "", fields{})
	h.sentinel()
	if len(elsewhere.got()) != 0 || len(of("POST", moved.got())) != 0 || h.state(id) != "pending" {
		t.Errorf("it is %s; the other got %d requests", h.state(id), len(elsewhere.got()))
	}
	// Who is asked again, and grants it then, gets the pushes.
	moved.grants("WebHook-Allowed-Origin", "*")
	h.admin().do("POST", "/subscriptions/"+id+"/validation", nil).is(202)
	h.becomes(id, "active")
	names(t, "enabled while pending", h.admin().do("POST", "/subscriptions/"+h.subscribe(receive(t).URL, asking(nil))+"/enable", nil).problem(409), "confirmation")
}

// Permission at the callback URL: by GET or POST, with the signature in the URL; nothing of it works for the other kind.
func TestContract_Permission_Callback(t *testing.T) {
	t.Parallel()
	h := start(t)
	ask := func(more fields) (id, callback string) {
		r := receive(t)
		id = h.subscribe(r.URL, asking(more))
		callback, ok := strings.CutPrefix(r.wait(1)[0].header.Get("WebHook-Request-Callback"), h.URL)
		if !ok {
			t.Fatalf("the callback is %q", callback)
		}
		return id, callback
	}
	for _, method := range []string{"GET", "POST"} {
		id, callback := ask(nil)
		h.anyone().do("HEAD", callback, nil).is(200)
		if h.state(id) != "pending" {
			t.Fatal("HEAD granted it")
		}
		for _, rate := range []string{"0", "-1", "1.5", "x", ""} {
			names(t, rate, h.anyone().with("WebHook-Allowed-Rate", rate).do(method, callback, nil).problem(400), "WebHook-Allowed-Rate")
		}
		for _, wrong := range []string{"?signature=1.x", "?signature=" + url.QueryEscape("9999999999999."+strings.Repeat("x", 43))} {
			names(t, wrong, h.anyone().do(method, "/subscriptions/"+id+"/permission"+wrong, nil).problem(403), "signature")
		}
		names(t, "no signature", h.anyone().do(method, "/subscriptions/"+id+"/permission", nil).problem(400), "signature")
		if h.state(id) != "pending" {
			t.Fatal("it was granted")
		}
		a := h.anyone().with("WebHook-Allowed-Rate", "90").do(method, callback, nil).is(200)
		if a.text("state") != "active" || a.object()["allowedRatePerMinute"] != 90.0 {
			t.Errorf("%s is answered with %s", method, a.body)
		}
		since := h.read(id)["stateSince"]
		h.anyone().with("WebHook-Allowed-Rate", "90").do(method, callback, nil).is(200)
		h.anyone().with("WebHook-Allowed-Rate", "30").do(method, callback, nil).is(200)
		if s := h.read(id); s["stateSince"] != since || s["allowedRatePerMinute"] != 30.0 || h.progress(id) != nil {
			t.Errorf("after another permission: %v", s)
		}
	}
	// Without a rate it is the one that was asked for (section 4.2.2); what is sent along is not looked at.
	id, callback := ask(fields{"delivery": fields{"rateLimit": 0.5}})
	h.anyone().with("Content-Type", "text/plain").do("POST", callback, "yes").is(200)
	if s := h.read(id); s["allowedRatePerMinute"] != 30.0 || s["state"] != "active" {
		t.Errorf("without a rate: %v", s)
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		h.anyone().do(method, callback, nil).problem(405)
	}
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	h.anyone().do("GET", callback, nil).problem(404)
	h.anyone().do("GET", "/subscriptions/none/permission?signature=1.x", nil).problem(404)

	// D24: the signature of a record is one for POST at its own URL, and a permission is no confirmation.
	r := receive(t)
	record := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
	x := r.records(1)[0]
	for _, method := range []string{"GET", "POST"} {
		h.anyone().do(method, "/subscriptions/"+record+"/permission?signature="+x.signature, nil).problem(403)
	}
	id, callback = ask(nil)
	h.anyone().do("POST", strings.Replace(callback, "/permission", "/confirmation", 1), nil).problem(403)
	if h.state(record) != "pending" || h.state(id) != "pending" {
		t.Errorf("they are %s and %s", h.state(record), h.state(id))
	}
	// Another kind makes the signature void.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"validation": "confirmation", "validationCallbackURL": r.URL}).is(200)
	h.anyone().do("GET", callback, nil).problem(403)
}

// Permission is for the very URL; what was queued waits for the next one.
func TestContract_Permission_Changes(t *testing.T) {
	t.Parallel()
	h := start(t)
	one, two := receive(t), receive(t)
	one.grants("WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", "600")
	id := h.subscribe(one.URL, fields{"events": []string{"task.*"}})
	change := func(f fields, want string) *answer {
		t.Helper()
		a := h.admin().do("PATCH", "/subscriptions/"+id, f).is(200)
		if a.text("state") != want {
			t.Fatalf("after %v: %s", f, a.body)
		}
		return a
	}
	change(fields{"validation": "cloudevents"}, "pending")
	h.becomes(id, "active")
	change(fields{"numberOfRecords": 1}, "active")
	if a := change(fields{"dataCallbackURL": two.URL}, "pending"); a.object()["allowedRatePerMinute"] != nil {
		t.Errorf("for the new URL is shown %s", a.body)
	}
	h.publish("task.create", "", fields{}) // not for one that is pending
	if a := change(fields{"dataCallbackURL": one.URL}, "active"); a.object()["allowedRatePerMinute"] != 600.0 {
		t.Errorf("back at the old URL: %s", a.body)
	}
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	event := h.publish("task.create", "", fields{})
	change(fields{"dataCallbackURL": one.URL + "/path"}, "paused")
	if s := h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200).text("state"); s == "paused" {
		t.Errorf("enabled it is %s", s)
	}
	h.becomes(id, "active")
	h.delivery(event, id, "delivered")
	// The ordinary kind asks for nothing here, so nothing limits it either.
	if a := change(fields{"validation": nil}, "active"); a.object()["validation"] != nil || a.object()["allowedRatePerMinute"] != nil {
		t.Errorf("without the kind: %s", a.body)
	}
	n := len(of("POST", one.got()))
	h.publishAll(40, nil)
	h.eventually("all have arrived", func() bool { return len(of("POST", one.got())) == n+40 })
	if p := one.got()[len(one.got())-1]; p.header.Get("WebHook-Request-Origin") != "" {
		t.Error("a push names the origin")
	}
}

// The kind that is chosen is used where the operator requires one.
func TestContract_Permission_WhereValidationIsRequired(t *testing.T) {
	t.Parallel()
	h := start(t, "subscriptions: {validation: required}")
	r, other := receive(t), receive(t)
	r.grants("WebHook-Allowed-Origin", "*")
	h.becomes(h.subscribe(r.URL, asking(nil)), "active")
	h.subscribe(other.URL, fields{"validation": "confirmation", "events": []string{"no.such"}})
	other.records(1)
	if got := r.got(); len(got) != 1 || got[0].method != "OPTIONS" {
		t.Errorf("it was asked with %+v", got)
	}
}

func TestContract_Permission_InputIsChecked(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"validationCallbackURL": r.URL, "events": []string{"no.such"}})
	for what, c := range map[string]struct {
		change fields
		words  []string
	}{
		"another word":   {fields{"validation": "options"}, []string{"validation", "confirmation or cloudevents"}},
		"in capitals":    {fields{"validation": "CloudEvents"}, []string{"confirmation or cloudevents"}},
		"a number":       {fields{"validation": 1}, []string{"validation", "string"}},
		"both URLs":      {fields{"validation": "cloudevents", "validationCallbackURL": r.URL}, []string{"validationCallbackURL", "dataCallbackURL"}},
		"another method": {fields{"validation": "cloudevents", "validationCallbackURL": nil, "method": "PUT"}, []string{"method", "POST", "PUT"}},
		"a GET":          {fields{"validation": "cloudevents", "validationCallbackURL": nil, "method": "GET"}, []string{"method", "POST"}},
	} {
		body := fields{"dataCallbackURL": r.URL}
		maps.Copy(body, c.change)
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			names(t, method+" "+what, h.admin().do(method, path, body).problem(400), c.words...)
		}
	}
	names(t, "a patch of one of two", h.admin().do("PATCH", "/subscriptions/"+id, fields{"validation": "cloudevents"}).problem(400), "validationCallbackURL")
	names(t, "a rate", h.admin().do("POST", "/subscriptions", asking(fields{"dataCallbackURL": r.URL, "allowedRatePerMinute": 5})).problem(400), "allowedRatePerMinute", "daemon")
	if s := h.read(id); s["validation"] != nil || s["validationCallbackURL"] != r.URL {
		t.Errorf("refused changes left %v", s)
	}
}
