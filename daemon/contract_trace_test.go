package daemon_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// Traces (W3C Trace Context): what an event was published in goes out with every push of it.

const (
	traceID      = "0af7651916cd43dd8448eb211c80319c"
	aTrace       = "00-" + traceID + "-b7ad6b7169203331-01"
	anotherTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	aState       = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
)

// traced returns a caller whose requests are part of a trace.
func (c *caller) traced(parent, state string) *caller {
	return c.with("traceparent", parent).with("tracestate", state)
}

// inTrace fails the test unless the push has these headers; "" is none.
func (p push) inTrace(t *testing.T, what, parent, state string) {
	t.Helper()
	if got := p.header.Values("traceparent"); strings.Join(got, "|") != parent {
		t.Errorf("%s: traceparent %q, want %q", what, got, parent)
	}
	if got := p.header.Values("tracestate"); strings.Join(got, "|") != state {
		t.Errorf("%s: tracestate %q, want %q", what, got, state)
	}
}

// Every attempt, after a kill too, and a replay say it, and the log line of each names the trace.
func TestContract_Trace_EveryPushOfAnEvent(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address, "log: {level: debug}", "delivery: {jitter: 0, retry_schedule: [1s, 1s, 1h]}")
	c, h := spawnReady(t, config, address)
	r := receive(t)
	r.status(500)
	sub := h.subscribe(r.URL, nil)
	event := h.admin().traced(aTrace, aState).do("POST", "/events", fields{"type": "task.create", "data": fields{}}).is(202).text("id")
	h.delivery(event, sub, "retrying")
	_ = c.cmd.Process.Signal(syscall.SIGKILL)
	_ = c.wait()
	r.status(200)
	c, h = spawnReady(t, config, address)
	h.delivery(event, sub, "delivered")
	before := len(r.got())
	h.replay(sub, fields{"since": "2020-01-01T00:00:00Z"})
	r.wait(before + 1)
	for i, p := range r.got() {
		p.inTrace(t, fmt.Sprint("push ", i+1), aTrace, aState)
	}
	if p := r.got()[before]; p.header.Get("Herald-Replay") != "true" {
		t.Errorf("the last push is of no replay: %v", p.header)
	}
	eventually(t, "the log has a line of the replay's attempt", func() bool {
		return strings.Count(c.out.String(), "msg=attempt") == len(r.got())-1
	})
	for line := range strings.SplitSeq(c.out.String(), "\n") {
		if strings.Contains(line, "msg=attempt") {
			names(t, "a line of the log", line, " trace_id="+traceID, " event="+event+" ")
		}
	}
}

// A header that is not valid is as if it were not there, and nobody is told.
func TestContract_Trace_InvalidIsIgnored(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe(r.URL, nil)
	for i, x := range []struct{ parent, state, wantParent, wantState string }{
		{"", "", "", ""},
		{"", aState, "", ""},
		{strings.ToUpper(aTrace), aState, "", ""},
		{"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", aState, "", ""},
		{"ff" + aTrace[2:], aState, "", ""},
		{aTrace, "Not=Valid", aTrace, ""},
		{aTrace, "k=" + strings.Repeat("v", 256) + ",l=" + strings.Repeat("v", 256), aTrace, ""},
		{"cc" + aTrace[2:] + "-more", "a=1, b=2", "cc" + aTrace[2:] + "-more", "a=1, b=2"},
	} {
		h.admin().traced(x.parent, x.state).do("POST", "/events", fields{"type": "task.create", "data": fields{}}).is(202)
		r.wait(i + 1)[i].inTrace(t, fmt.Sprintf("%q, %q", x.parent, x.state), x.wantParent, x.wantState)
	}
}

// An event's own extension goes before the header, and a pushed CloudEvent has the one it came with, else the header's.
func TestContract_Trace_CloudEvents(t *testing.T) {
	t.Parallel()
	h := start(t)
	cloud, own := receive(t), receive(t)
	h.subscribe(cloud.URL, fields{"payload": "cloudevents"})
	h.subscribe(own.URL, nil)
	event := func(id string, more fields) fields {
		return merged(fields{"specversion": "1.0", "id": id, "source": "/s", "type": "task.create", "data": fields{}}, more)
	}
	for i, x := range []struct {
		contentType         string
		body                any
		header              [2]string
		parent, state       string // of the push
		attribute, attState any    // of the CloudEvent
	}{
		{"application/cloudevents+json", event("1", fields{"traceparent": aTrace, "tracestate": aState}), [2]string{anotherTrace, "a=1"}, aTrace, aState, aTrace, aState},
		{"application/cloudevents+json", event("2", fields{"traceparent": aTrace}), [2]string{anotherTrace, "a=1"}, aTrace, "", aTrace, nil},
		{"application/cloudevents+json", event("3", nil), [2]string{anotherTrace, "a=1"}, anotherTrace, "a=1", anotherTrace, "a=1"},
		{"application/cloudevents+json", event("4", fields{"traceparent": "mine"}), [2]string{anotherTrace, ""}, anotherTrace, "", "mine", nil},
		{"application/cloudevents+json", event("5", fields{"traceparent": 5}), [2]string{}, "", "", 5.0, nil},
		// A tracestate without its traceparent is no trace, and is not put together with another's.
		{"application/cloudevents+json", event("7", fields{"tracestate": "z=1"}), [2]string{anotherTrace, "a=1"}, anotherTrace, "a=1", nil, "z=1"},
		{"application/json", fields{"type": "task.create", "data": fields{}}, [2]string{aTrace, aState}, aTrace, aState, aTrace, aState},
		{"application/json", fields{"type": "task.create", "data": fields{}}, [2]string{}, "", "", nil, nil},
	} {
		h.admin().traced(x.header[0], x.header[1]).with("Content-Type", x.contentType).do("POST", "/events", x.body).is(202)
		p := cloud.wait(i + 1)[i]
		p.inTrace(t, fmt.Sprint("CloudEvent ", i), x.parent, x.state)
		if e := p.object(t); e["traceparent"] != x.attribute || e["tracestate"] != x.attState {
			t.Errorf("CloudEvent %d: %v", i, e)
		}
		p = own.wait(i + 1)[i]
		p.inTrace(t, fmt.Sprint("envelope ", i), x.parent, x.state)
		if strings.Contains(string(p.body), "trace") {
			t.Errorf("an envelope has the trace: %s", p.body)
		}
	}
	// In binary mode the extension is a header with the prefix of the others.
	h.admin().traced(anotherTrace, "a=1").with("ce-specversion", "1.0").with("ce-id", "6").with("ce-source", "/s").with("ce-type", "task.create").
		with("ce-traceparent", aTrace).do("POST", "/events", fields{}).is(202)
	cloud.wait(9)[8].inTrace(t, "binary", aTrace, "")
}

// A push of several records says what they have in common, and as CloudEvents each says its own.
func TestContract_Trace_Batches(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe(r.URL, fields{"payload": "cloudevents", "numberOfRecords": 2, "maxWaitSeconds": 3600})
	send := func(parent, state string) {
		h.admin().traced(parent, state).do("POST", "/events", fields{"type": "task.create", "data": fields{}}).is(202)
	}
	for i, x := range []struct{ first, second, want [2]string }{
		{[2]string{aTrace, aState}, [2]string{aTrace, aState}, [2]string{aTrace, aState}},
		{[2]string{aTrace, aState}, [2]string{aTrace, "a=1"}, [2]string{aTrace, ""}},
		{[2]string{aTrace, aState}, [2]string{anotherTrace, aState}, [2]string{}},
		{[2]string{aTrace, aState}, [2]string{}, [2]string{}},
	} {
		send(x.first[0], x.first[1])
		send(x.second[0], x.second[1])
		p := r.wait(i + 1)[i]
		p.inTrace(t, fmt.Sprint("batch ", i), x.want[0], x.want[1])
		for _, parent := range []string{x.first[0], x.second[0]} {
			if parent != "" && !strings.Contains(string(p.body), `"traceparent":"`+parent+`"`) {
				t.Errorf("batch %d does not say %s: %s", i, parent, p.body)
			}
		}
	}
}

// A repeat in another trace is a repeat; what was stored first goes out.
func TestContract_Trace_RepeatsInAnother(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe(r.URL, nil)
	cloud := func(parent string) fields {
		return fields{"specversion": "1.0", "id": "1", "source": "/s", "type": "task.create", "data": fields{}, "traceparent": parent, "x": "y"}
	}
	for _, parent := range []string{aTrace, anotherTrace, ""} {
		c := h.admin().traced(parent, "")
		c.do("POST", "/events", fields{"id": "one", "type": "task.create", "data": fields{}}).is(202)
		c.with("Idempotency-Key", "k").do("POST", "/events", fields{"type": "task.create", "data": fields{}}).is(202)
		h.admin().with("Content-Type", "application/cloudevents+json").do("POST", "/events", cloud(parent)).is(202)
	}
	// So is one with another tracestate alone.
	for _, state := range []string{"a=1", "a=2"} {
		alone := cloud("")
		delete(alone, "traceparent")
		h.admin().with("Content-Type", "application/cloudevents+json").do("POST", "/events", merged(alone, fields{"id": "2", "tracestate": state})).is(202)
	}
	other := cloud(aTrace)
	other["x"] = "z"
	h.admin().with("Content-Type", "application/cloudevents+json").do("POST", "/events", other).problem(409)
	traced := 0
	for _, p := range r.wait(4) {
		if p.header.Get("traceparent") != "" {
			traced++
			p.inTrace(t, "push", aTrace, "")
		}
	}
	if traced != 3 {
		t.Errorf("%d pushes in the trace, want 3", traced)
	}
	h.sentinel()
	if n := len(r.got()); n != 4 {
		t.Errorf("%d pushes, want 4", n)
	}
}

// The statuses of a message go out in its trace, also when it is taken apart later, or was made of an event; the providers see nothing of it.
func TestContract_Trace_Messages(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	r := receive(t)
	a.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	endpoint := a.browser("ann", nil)
	message := merged(shows("x"), fields{"implementationId": "shop", "callbackUrl": r.URL})
	id := a.admin().traced(aTrace, aState).do("POST", "/messages", merged(message, to("ann"))).is(202).text("trackingId")
	s.ends(id, "SENT")
	for i, p := range r.wait(3) {
		p.inTrace(t, fmt.Sprint("status ", i), aTrace, aState)
	}
	id = a.admin().traced(anotherTrace, "").do("POST", "/messages/multicast", merged(message, fields{"contacts": []string{"ann"}})).is(202).text("trackingId")
	s.ends(id, "SENT")
	for i, p := range r.wait(6)[3:] {
		p.inTrace(t, fmt.Sprint("status of many ", i), anotherTrace, "")
	}
	var told []string // what the providers were
	for _, q := range s.requests("phone") {
		told = append(told, fmt.Sprintf("%v %s", q.Header, q.Body))
	}
	for _, m := range s.got(endpoint) {
		told = append(told, fmt.Sprintf("%v %s", m.Header, m.Payload))
	}
	last, _ := s.apns.Last(iphone("ann"))
	told = append(told, fmt.Sprintf("%v %s", last.Header, last.Payload))
	if len(told) != 5 {
		t.Errorf("the providers got %d requests: %q", len(told), told)
	}
	for _, text := range told {
		for _, trace := range []string{"traceparent", "tracestate", traceID, anotherTrace[3:35]} {
			if strings.Contains(strings.ToLower(text), trace) {
				t.Errorf("a provider got %s", text)
			}
		}
	}
}

// What Herald itself tells is part of no trace: validation records, and events of its own.
func TestContract_Trace_NotOfHeraldsOwn(t *testing.T) {
	t.Parallel()
	h := start(t)
	r, notices := receive(t), receive(t)
	h.subscribe(notices.URL, fields{"events": []string{"herald.subscription.gone"}})
	r.respond(func(_ int, _ push, w http.ResponseWriter) { w.WriteHeader(http.StatusGone) })
	c := h.admin().traced(aTrace, aState)
	c.do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "validationCallbackURL": r.URL}).is(200)
	r.wait(1)[0].inTrace(t, "a validation record", "", "")
	h.subscribe(r.URL, nil)
	c.do("POST", "/events", fields{"type": "task.create", "data": fields{}}).is(202)
	notices.wait(1)[0].inTrace(t, "an operational event", "", "")
}
