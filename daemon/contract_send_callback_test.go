package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"herald/daemon/standin"
)

// quickly has what a receiver fails to take tried again after a second.
const quickly = "delivery: {jitter: 0, retry_schedule: [1s, 1s, 1s]}"

// statuses waits for n pushes to a callback URL, and returns their data by device id.
func (a *app) statuses(r *receiver, n int) map[string]map[string]any {
	a.t.Helper()
	out := make(map[string]map[string]any)
	for _, p := range r.wait(n) {
		e := p.object(a.t)
		data, _ := e["data"].(map[string]any)
		if e["type"] != "herald.message.status" || e["accountId"] != "default" || e["id"] != p.id() {
			a.t.Errorf("the callback URL got %s", p.body)
		}
		if !p.verifies(a.t, a.secret) {
			a.t.Errorf("the status is not signed with the secret of the implementation: %v", p.header)
		}
		moment(a.t, data["date"])
		device, _ := data["deviceId"].(string)
		if before := out[device]; before != nil && (before["id"] != e["id"] || fmt.Sprint(before["data"]) != fmt.Sprint(e["data"])) {
			a.t.Errorf("of the device %s two things are told: %v and %v", device, before, e)
		}
		out[device] = e
	}
	for device, e := range out {
		out[device] = e["data"].(map[string]any)
	}
	return out
}

// The callback URL of a message is told what became of it on each device, once, in pushes like any other.
func TestContract_Send_CallbackURL(t *testing.T) {
	t.Parallel()
	s := startSending(t, quickly)
	a := s.app("shop", nil)
	r := receive(t)
	r.respond(func(n int, p push, w http.ResponseWriter) {
		if p.header.Get("Herald-Attempt") == "1" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	all := receive(t)
	s.subscribe(all.URL, nil)
	a.register("android", "ann", "phone", nil)
	a.register("android", "ann", "dead-phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	a.browser("ann", nil)
	s.fcm.For("dead-phone", standin.FCMError("UNREGISTERED"))
	before := time.Now()
	id := a.send(to("ann"), merged(shows("x"), fields{"callbackUrl": r.URL + "/status/of?key=4711"}))
	m := s.ends(id, "SENT")
	got := a.statuses(r, 8)
	devices := parts(t, m)
	if len(got) != 4 || len(devices) != 4 {
		t.Fatalf("there are statuses of %d devices, and the message is %v", len(got), m)
	}
	for _, d := range devices {
		data := got[d["deviceId"].(string)]
		want := fields{
			"trackingId": id, "implementationId": "shop", "deviceId": d["deviceId"], "deviceType": d["type"], "routeeContactId": "ann", "status": d["status"],
		}
		if d["status"] == "SENT" {
			want["serviceMessageId"] = d["serviceMessageId"]
		} else {
			want["reason"], want["error"] = "unregistered", d["error"]
		}
		tells(t, "a status", data, want, "date")
		if date := moment(t, data["date"]); date.Before(before.Add(-time.Second)) || date.After(time.Now()) {
			t.Errorf("it was so at %v", date)
		}
	}
	for _, p := range r.got() {
		if p.url != "/status/of?key=4711" || p.method != http.MethodPost || p.header.Get("Content-Type") != "application/json" {
			t.Errorf("it came as %s %s %v", p.method, p.url, p.header)
		}
	}

	// Many contacts, one device that is not registered, and a new secret.
	r.status(http.StatusOK)
	a.register("android", "bob", "bobs-phone", nil)
	many := receive(t)
	id = a.post("/messages/multicast", fields{"contacts": []string{"bob", "nobody"}, "callbackUrl": many.URL}, shows("x")).is(202).text("trackingId")
	for _, data := range a.statuses(many, 1) {
		same(t, "the status of one of many", data, fields{"trackingId": id, "routeeContactId": "bob", "status": "SENT"})
	}
	next := s.admin().do("PATCH", "/implementations/shop", fields{"statusSigningSecret": nil}).is(200).text("statusSigningSecret")
	if next == a.secret {
		t.Error("the secret is the same")
	}
	a.secret = next
	one := receive(t)
	id = a.send(toToken("ANDROID", "unregistered"), merged(shows("x"), fields{"callbackUrl": one.URL}))
	for device, data := range a.statuses(one, 1) {
		same(t, "the status of a token", data, fields{"trackingId": id, "deviceType": "android", "status": "SENT"})
		if device != "" {
			t.Errorf("a token that is not registered has the id %s", device)
		}
	}
	old := receive(t)
	s.tell(a, "phone", old.URL)
	a.statuses(old, 1)

	// Nobody else is told, and nothing of it can be published or listed.
	s.sentinel()
	for what, r := range map[string]*receiver{"the first": r, "that of many": many, "that of one": one} {
		if n, want := len(r.got()), map[string]int{"the first": 8, "that of many": 1, "that of one": 1}[what]; n != want {
			t.Errorf("%s callback URL got %d pushes, want %d", what, n, want)
		}
	}
	if n := len(all.got()); n != 0 {
		t.Errorf("a subscription to everything got %d: %s", n, all.got()[0].body)
	}
	if events := s.admin().do("GET", "/events", nil).is(200).list(); slices.ContainsFunc(events, func(e map[string]any) bool { return e["type"] != "test.sentinel" }) {
		t.Errorf("the events are %v", events)
	}
	s.admin().do("POST", "/events", fields{"type": "herald.message.status", "data": fields{}}).problem(400)
}

// tell sends to a phone, with a callback URL.
func (s *sending) tell(a *app, device, callback string) string {
	s.t.Helper()
	return a.send(toToken("ANDROID", device), merged(shows("x"), fields{"callbackUrl": callback}))
}

// Whatever a callback URL answers, the next message is told to it again: nobody could enable it.
func TestContract_Send_CallbackURLThatRefuses(t *testing.T) {
	t.Parallel()
	s := startSending(t, "delivery: {jitter: 0, retry_schedule: [1s], disable_after: {failures: 2}}")
	a := s.app("shop", nil)
	for _, status := range []int{http.StatusGone, http.StatusBadRequest, http.StatusInternalServerError} {
		r := receive(t)
		r.status(status)
		s.tell(a, "phone", r.URL+"/first")
		first := r.wait(1)[0]
		if status == http.StatusInternalServerError {
			r.wait(2)
		}
		r.status(http.StatusOK)
		s.tell(a, "phone", r.URL+"/second")
		s.eventually(fmt.Sprintf("the callback URL that answered %d is told of the next message", status), func() bool {
			return slices.ContainsFunc(r.got(), func(p push) bool { return p.url == "/second" })
		})
		if first.url != "/first" {
			t.Errorf("the first push went to %s", first.url)
		}
	}
}

// The status of a message that waits is told once it is settled, and not before.
func TestContract_Send_CallbackURLOfWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := startSending(t, quickly)
	a := s.app("shop", nil)
	r := receive(t)
	s.fcm.For("phone", standin.FCMError("PERMISSION_DENIED"))
	id := s.tell(a, "phone", r.URL)
	s.eventually("the platform is suspended", func() bool { return a.platform("android", "fcm")["state"] == "suspended" })
	s.sentinel()
	if n := len(r.got()); n != 0 {
		t.Errorf("of what is held %d statuses are told", n)
	}
	s.again()
	s.fcm.Reset()
	s.admin().do("PATCH", "/implementations/shop", fields{"android": nil}).is(200)
	s.admin().do("PATCH", "/implementations/shop", fields{"android": s.firebase()}).is(200)
	for _, data := range a.statuses(r, 1) {
		same(t, "the status", data, fields{"trackingId": id, "status": "SENT"})
	}
}
