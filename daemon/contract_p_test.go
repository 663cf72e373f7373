package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The rows P: what a push is, and what counts as success.

func TestContract_P1_SuccessIsAny2xx(t *testing.T) {
	t.Parallel()
	h := start(t)
	codes := []int{200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 250, 299}
	receivers, subs := make([]*receiver, len(codes)), make([]string, len(codes))
	for i, code := range codes {
		receivers[i] = receive(t)
		receivers[i].status(code)
		subs[i] = h.subscribe(receivers[i].URL, fields{"delivery": promptly(1)})
	}
	event := h.publish("order.create", "", fields{})
	for i, code := range codes {
		tries := attempts(t, h.delivery(event, subs[i], "delivered"))
		if len(tries) != 1 || tries[0]["status"] != float64(code) || tries[0]["outcome"] != "delivered" || tries[0]["error"] != nil {
			t.Errorf("after %d the attempts are %v, want one that delivered", code, tries)
		}
	}
	h.sentinel()
	for i, code := range codes {
		if n := len(receivers[i].got()); n != 1 {
			t.Errorf("a receiver that answers %d was pushed to %d times", code, n)
		}
	}
}

func TestContract_P2_AnythingElseIsFailure(t *testing.T) {
	t.Parallel()
	h := start(t)
	elsewhere := receive(t) // where the redirects point
	codes := []int{300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 406, 408, 409, 413, 418, 422, 425, 429, 451, 500, 501, 502, 503, 504, 599}
	receivers, subs := make([]*receiver, len(codes)), make([]string, len(codes))
	for i, code := range codes {
		receivers[i] = receive(t)
		receivers[i].respond(func(n int, _ push, w http.ResponseWriter) {
			if n > 1 {
				return // 200
			}
			w.Header().Set("Location", elsewhere.URL+"/moved")
			w.WriteHeader(code) // the event has been processed all the same
		})
		subs[i] = h.subscribe(receivers[i].URL, fields{"delivery": promptly(1)})
	}
	event := h.publish("order.create", "", fields{})
	for i, code := range codes {
		tries := attempts(t, h.delivery(event, subs[i], "delivered"))
		if len(tries) != 2 {
			t.Errorf("after %d there are %d attempts, want 2", code, len(tries))
			continue
		}
		if tries[0]["status"] != float64(code) || tries[0]["outcome"] == "delivered" {
			t.Errorf("an answer %d is in the log as %v", code, tries[0])
		}
		if text, _ := tries[0]["error"].(string); text == "" {
			t.Errorf("the attempt answered with %d says no error", code)
		}
		if got := receivers[i].wait(2); got[0].id() != event || got[1].id() != event {
			t.Errorf("the pushes around %d have the ids %q and %q, want %q twice", code, got[0].id(), got[1].id(), event)
		}
	}
	if n := len(elsewhere.got()); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestContract_P4_NeverEnabledAutomatically(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(http.StatusGone)
	id := h.subscribe(r.URL, fields{"delivery": promptly(3)})
	first := h.publish("order.create", "", fields{"n": 1})
	h.delivery(first, id, "held")
	disabled := func(after string) {
		t.Helper()
		if s := h.read(id); s["state"] != "disabled" || s["stateReason"] != "gone" {
			t.Errorf("after %s the subscription is %v (%v), want disabled (gone)", after, s["state"], s["stateReason"])
		}
	}
	disabled("an answer 410")
	r.status(http.StatusOK) // the receiver is well again, and nobody said so

	second := h.publish("order.create", "", fields{"n": 2})
	h.delivery(second, id, "held")
	disabled("another event")
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL + "/new"}).is(200)
	disabled("PATCH")
	h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL + "/newer"}).is(200)
	disabled("PUT")
	names(t, "PATCH of the state", h.admin().do("PATCH", "/subscriptions/"+id, fields{"state": "active"}).problem(400), "state", "enable")
	disabled("PATCH of the state")
	h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200)
	disabled("a new secret")
	h = h.restart()
	disabled("a restart")
	h.sentinel()
	if n := len(r.got()); n != 1 {
		t.Errorf("the disabled subscription got %d pushes, want the one that was answered 410", n)
	}

	if s := h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200).object(); s["state"] != "active" || s["stateReason"] != nil {
		t.Errorf("enabling answered with %v (%v)", s["state"], s["stateReason"])
	}
	for _, event := range []string{first, second} { // held, not lost
		h.delivery(event, id, "delivered")
	}
	r.only(first, first, second)
}

func TestContract_P7_DeliversAfterEnable(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(http.StatusGone)
	id := h.subscribe(r.URL, nil)
	h.delivery(h.publish("order.create", "", fields{}), id, "held")
	r.status(http.StatusOK)
	h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200)
	event := h.publish("order.create", "", fields{"new": true})
	if tries := attempts(t, h.delivery(event, id, "delivered")); len(tries) != 1 {
		t.Errorf("a new event took %d attempts after enabling", len(tries))
	}
	if s := h.read(id); s["state"] != "active" {
		t.Errorf("the subscription is %v after a success", s["state"])
	}
}

func TestContract_P8_BearerTokenInEveryPush(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	const token = "eyJhbGciOi.J9._-~+/A=="
	id := h.subscribe(r.URL, fields{"authentication": fields{"type": "bearer", "token": token}, "delivery": patiently()})
	event := h.publish("order.create", "", fields{})
	d := h.delivery(event, id, "retrying")
	h.admin().do("POST", "/deliveries/"+d["id"].(string)+"/retry", nil).is(202)
	h.delivery(event, id, "delivered")
	ping := h.admin().do("POST", "/subscriptions/"+id+"/ping", nil).is(202).text("id")
	h.delivery(ping, id, "delivered")
	got := r.wait(3)
	for i, p := range got {
		if values := p.header["Authorization"]; !slices.Equal(values, []string{"Bearer " + token}) {
			t.Errorf("push %d has the Authorization %q", i+1, values)
		}
	}

	plain := receive(t) // without authentication there is no such header
	id = h.subscribe(plain.URL, nil)
	h.delivery(h.publish("order.create", "", fields{}), id, "delivered")
	if v, there := plain.got()[0].header["Authorization"]; there {
		t.Errorf("a push of a subscription without authentication has the Authorization %q", v)
	}
}

func TestContract_P9_404ForTokenTroubleIsFailure(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		if p.header.Get("Authorization") != "Bearer right" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	id := h.subscribe(r.URL, fields{"authentication": fields{"type": "bearer", "token": "wrong"}, "delivery": patiently()})
	event := h.publish("order.create", "", fields{})
	d := h.delivery(event, id, "retrying")
	if tries := attempts(t, d); len(tries) != 1 || tries[0]["status"] != float64(404) || tries[0]["outcome"] == "delivered" {
		t.Errorf("the answer 404 is in the log as %v", tries)
	}
	if s := h.read(id); s["state"] != "active" {
		t.Errorf("404 made the subscription %v; only 410 may", s["state"])
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "bearer", "token": "right"}}).is(200)
	h.admin().do("POST", "/deliveries/"+d["id"].(string)+"/retry", nil).is(202)
	h.delivery(event, id, "delivered")
}

func TestContract_P10_TokenReplacedAnyTime(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"authentication": fields{"type": "bearer", "token": "token-0"}})
	for i := range 4 {
		if i > 0 {
			a := h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "bearer", "token": fmt.Sprint("token-", i)}}).is(200)
			if strings.Contains(string(a.body), "token-") {
				t.Errorf("the answer shows the token: %s", a.body)
			}
		}
		h.delivery(h.publish("order.create", "", fields{"n": i}), id, "delivered")
		if got, want := r.wait(i + 1)[i].header.Get("Authorization"), fmt.Sprint("Bearer token-", i); got != want {
			t.Errorf("push %d carries %q, want %q", i+1, got, want)
		}
	}
}

func TestContract_P11_NewTokenFromTheNextAttempt(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t) // expects the old token
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		if p.header.Get("Authorization") != "Bearer old" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	busy := receive(t)
	busy.status(http.StatusServiceUnavailable)
	id := h.subscribe(r.URL, fields{"authentication": fields{"type": "bearer", "token": "old"}, "delivery": patiently()})
	queued := h.subscribe(busy.URL, fields{"authentication": fields{"type": "bearer", "token": "old"}, "delivery": patiently()})
	event := h.publish("order.create", "", fields{})
	h.delivery(event, id, "delivered")
	waiting := h.delivery(event, queued, "retrying")

	for _, s := range []string{id, queued} {
		h.admin().do("PATCH", "/subscriptions/"+s, fields{"authentication": fields{"type": "bearer", "token": "new"}}).is(200)
	}
	// A delivery that was queued before takes the new token too.
	busy.status(http.StatusOK)
	h.admin().do("POST", "/deliveries/"+waiting["id"].(string)+"/retry", nil).is(202)
	h.delivery(event, queued, "delivered")
	if got := busy.wait(2); got[0].header.Get("Authorization") != "Bearer old" || got[1].header.Get("Authorization") != "Bearer new" {
		t.Errorf("the queued delivery was pushed with %q and %q", got[0].header.Get("Authorization"), got[1].header.Get("Authorization"))
	}
	// The receiver that still expects the old one rejects, and that is a failure.
	event = h.publish("order.create", "", fields{"n": 2})
	if tries := attempts(t, h.delivery(event, id, "retrying")); tries[0]["status"] != float64(401) || tries[0]["outcome"] == "delivered" {
		t.Errorf("the rejected push is in the log as %v", tries[0])
	}
	if got := r.got()[1].header.Get("Authorization"); got != "Bearer new" {
		t.Errorf("after the change a push carries %q", got)
	}
}

func TestContract_P12_PayloadHasReferenceAndBarcode(t *testing.T) {
	t.Parallel()
	h := start(t)
	whole, bare := receive(t), receive(t)
	a := h.subscribe(whole.URL, nil)
	b := h.subscribe(bare.URL, fields{"payload": "data"})
	event := h.publish("shipment.create", "", fields{"orderReference": "2026-000471", "barcode": "3SABCD0123456"})
	h.delivery(event, a, "delivered")
	h.delivery(event, b, "delivered")
	data, _ := whole.got()[0].object(t)["data"].(map[string]any)
	for where, got := range map[string]map[string]any{"envelope": data, "data": bare.got()[0].object(t)} {
		if len(got) != 2 || got["orderReference"] != "2026-000471" || got["barcode"] != "3SABCD0123456" {
			t.Errorf("the payload %s carries %v", where, got)
		}
	}
}

func TestContract_P13_OpinionAndTransportFailAlike(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	opinion, broken := receive(t), receive(t)
	opinion.respond(func(_ int, _ push, w http.ResponseWriter) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = w.Write([]byte(`{"error":"this order cannot be changed"}`))
	})
	broken.respond(func(int, push, http.ResponseWriter) { panic(http.ErrAbortHandler) })
	urls := map[string]string{"an opinion": opinion.URL, "a broken connection": broken.URL, "a closed port": "http://" + freeAddress(t)}
	subs := map[string]string{}
	for what, url := range urls {
		subs[what] = h.subscribe(url, fields{"delivery": patiently()})
	}
	event := h.publish("order.create", "", fields{})
	for what, id := range subs {
		d := h.delivery(event, id, "retrying")
		tries := attempts(t, d)
		if len(tries) != 1 || d["attemptCount"] != float64(1) || tries[0]["outcome"] != "retry" {
			t.Errorf("%s counts as %v, want one attempt to be retried", what, d)
			continue
		}
		wait := moment(t, d["nextAttemptAt"]).Sub(moment(t, tries[0]["time"]))
		if wait < time.Hour || wait > time.Hour+patience {
			t.Errorf("%s is retried after %v, want an hour", what, wait)
		}
		if s := h.read(id); s["state"] != "active" {
			t.Errorf("%s made the subscription %v", what, s["state"])
		}
	}
}

func TestContract_P14_200IsEnough(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.respond(func(_ int, _ push, w http.ResponseWriter) {
		_, _ = w.Write([]byte(`{"error":"the order was thrown away","status":500}`))
	})
	id := h.subscribe(r.URL, fields{"delivery": promptly(1)})
	d := h.delivery(h.publish("order.create", "", fields{}), id, "delivered")
	tries := attempts(t, d)
	if len(tries) != 1 || tries[0]["response"] != `{"error":"the order was thrown away","status":500}` {
		t.Errorf("the attempts are %v, want one with what the receiver said", tries)
	}
	if _, there := d["nextAttemptAt"]; there {
		t.Errorf("a delivered delivery has a next attempt: %v", d)
	}
	h.sentinel()
	if n := len(r.got()); n != 1 {
		t.Errorf("what the receiver does with the data made %d pushes", n)
	}
}

func TestContract_P15_StatusElement(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"payload": "data"})
	for i, status := range []string{"CREATED", "SCANNED", "DELIVERED"} {
		h.delivery(h.publish("shipment.update", "", fields{"status": status}), id, "delivered")
		if got := string(r.wait(i + 1)[i].body); got != `{"status":"`+status+`"}` {
			t.Errorf("the payload is %s, want the status %s", got, status)
		}
	}
}

// The original promises its best effort only; Herald promises at least once.
func TestContract_P16_AtLeastOnce(t *testing.T) {
	t.Parallel()
	h := start(t)
	lossy, late := receive(t), receive(t)
	lossy.respond(func(n int, _ push, _ http.ResponseWriter) {
		if n == 1 { // processed, and the answer gets lost
			panic(http.ErrAbortHandler)
		}
	})
	late.status(http.StatusBadGateway)
	a := h.subscribe(lossy.URL, fields{"delivery": promptly(2)})
	b := h.subscribe(late.URL, fields{"delivery": promptly(30)})
	event := h.publish("order.create", "", fields{"n": 1})
	late.wait(1)
	h = h.restart() // in the middle of it
	late.status(http.StatusOK)
	for _, id := range []string{a, b} {
		h.delivery(event, id, "delivered")
	}
	for what, r := range map[string]*receiver{"the lossy receiver": lossy, "the late receiver": late} {
		got := r.wait(2)
		for _, p := range got {
			if p.id() != event || string(p.body) != string(got[0].body) {
				t.Errorf("%s cannot tell a repeat: %q %s after %q %s", what, p.id(), p.body, got[0].id(), got[0].body)
			}
		}
	}
}

func TestContract_P17_DoesNotWaitForProcessing(t *testing.T) {
	t.Parallel()
	h := start(t)
	const events = 12
	r, narrow := receive(t), receive(t)
	id := h.subscribe(r.URL, nil)
	bounded := h.subscribe(narrow.URL, fields{"delivery": fields{"maxConcurrency": 2}})
	var list []any
	for i := range events {
		list = append(list, fields{"type": "order.create", "data": fields{"n": i}})
	}
	for _, e := range h.admin().do("POST", "/events", list).is(202).list() { // the receivers show that they answer
		h.delivery(e["id"].(string), id, "delivered")
		h.delivery(e["id"].(string), bounded, "delivered")
	}
	wide, two := r.hold(http.StatusOK), narrow.hold(http.StatusOK)
	published := h.admin().do("POST", "/events", list).is(202).list()
	wide.taken(t, events) // all are there although none was answered
	two.taken(t, 2)
	if n := len(h.admin().do("GET", "/deliveries?state=delivering&subscription="+id, nil).is(200).list()); n != events {
		t.Errorf("while the receiver holds them %d deliveries are delivering, want %d", n, events)
	}
	h.sentinel()
	if n := len(narrow.got()) - events; n != 2 {
		t.Errorf("with maxConcurrency 2 there are %d pushes at once", n)
	}
	wide.open()
	two.open()
	for _, e := range published {
		h.delivery(e["id"].(string), id, "delivered")
		h.delivery(e["id"].(string), bounded, "delivered")
	}
}
