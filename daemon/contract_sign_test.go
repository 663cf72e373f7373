package daemon_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Signatures, in the judgement of the reference library of Standard Webhooks.

func TestContract_EveryPayloadFormIsSigned(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, f := range []fields{
		{"method": "POST", "payload": "envelope"},
		{"method": "POST", "payload": "data"},
		{"method": "PUT", "payload": "envelope"},
		{"method": "PUT", "payload": "data"},
		{"method": "GET"},
		{"authentication": fields{"type": "bearer", "token": "t"}},
		{"authentication": fields{"type": "query", "name": "key", "value": "v"}},
	} {
		r := receive(t)
		f["dataCallbackURL"] = r.URL
		created := h.admin().do("POST", "/subscriptions", f).is(200)
		secret := created.text("signingSecret")
		if !regexp.MustCompile(`^whsec_[A-Za-z0-9+/]{43}=$`).MatchString(secret) || created.object()["signingSecretSet"] != true {
			t.Errorf("the generated secret is %q: %s", secret, created.body)
		}
		id := created.text("id")
		for _, data := range []string{`{}`, `{"ü":"` + strings.Repeat("é😀", 500) + `", "n": 1.0e5}`} {
			event := h.admin().do("POST", "/events", `{"type":"task.create","data":`+data+`}`).is(202).text("id")
			h.delivery(event, id, "delivered")
		}
		for _, p := range r.wait(2) {
			if !p.verifies(t, secret) {
				t.Errorf("%v: the signature %q does not verify", f, p.header["Webhook-Signature"])
			}
			if p.verifies(t, aSecret) {
				t.Errorf("%v: the signature verifies with another secret", f)
			}
			broken := p
			broken.body = append([]byte("x"), p.body...)
			if broken.verifies(t, secret) {
				t.Errorf("%v: the signature does not cover the body", f)
			}
			sig := p.header["Webhook-Signature"]
			if len(sig) != 1 || !regexp.MustCompile(`^v1,[A-Za-z0-9+/]{43}=$`).MatchString(sig[0]) {
				t.Errorf("%v: the signature is %q", f, sig)
			}
			at, err := strconv.ParseInt(p.header.Get("Webhook-Timestamp"), 10, 64)
			if d := time.Since(time.Unix(at, 0)); err != nil || d < -time.Second || d > patience {
				t.Errorf("%v: the timestamp is %q", f, p.header.Get("Webhook-Timestamp"))
			}
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
}

// Each attempt is signed anew, at its own time.
func TestContract_RetriesAreSignedAnew(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n < 2 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	id := h.subscribe(r.URL, fields{"signingSecret": aSecret, "delivery": promptly(1)})
	event := h.publish("task.create", "", fields{})
	h.delivery(event, id, "delivered")
	seen := map[string]bool{}
	for i, p := range r.wait(2) {
		if !p.verifies(t, aSecret) {
			t.Errorf("attempt %d does not verify", i+1)
		}
		if p.id() != event || p.header.Get("Herald-Attempt") != strconv.Itoa(i+1) || p.header.Get("Herald-Subscription") != id {
			t.Errorf("attempt %d has %v", i+1, p.header)
		}
		seen[p.header.Get("Webhook-Timestamp")] = true
	}
	if len(seen) != 2 {
		t.Errorf("two attempts a second apart have the timestamps %v", seen)
	}
}

func TestContract_RotationSignsWithBoth(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"signingSecret": aSecret})
	push := func(n int) push {
		t.Helper()
		h.delivery(h.publish("task.create", "", fields{"n": n}), id, "delivered")
		return r.wait(n)[n-1]
	}
	if p := push(1); !p.verifies(t, aSecret) {
		t.Error("before the rotation the secret does not verify")
	}
	a := h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200)
	second := a.text("signingSecret")
	if second == aSecret || strings.Contains(string(a.body), aSecret) {
		t.Fatalf("the rotation answered %s", a.body)
	}
	p := push(2)
	if !p.verifies(t, aSecret) || !p.verifies(t, second) {
		t.Errorf("during the rotation the signature %q verifies with the old secret %v, with the new one %v",
			p.header["Webhook-Signature"], p.verifies(t, aSecret), p.verifies(t, second))
	}
	if parts := strings.Split(p.header.Get("Webhook-Signature"), " "); len(parts) != 2 || parts[0] == parts[1] {
		t.Errorf("during the rotation the signature is %q, want two", p.header.Get("Webhook-Signature"))
	}
	h = h.restart() // both are remembered
	if p := push(3); !p.verifies(t, aSecret) || !p.verifies(t, second) {
		t.Error("after a restart in the middle of a rotation not both secrets verify")
	}
	// A secret that is set replaces them all at once, and null takes the signature away.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"signingSecret": anotherSecret}).is(200)
	if p := push(4); !p.verifies(t, anotherSecret) || p.verifies(t, aSecret) || p.verifies(t, second) {
		t.Error("after a secret was set, it does not verify, or an old one does")
	}
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"signingSecret": nil}).is(200)
	if p := push(5); p.header["Webhook-Signature"] != nil || p.id() == "" {
		t.Errorf("without a secret the push has %v", p.header)
	}
	if h.read(id)["signingSecretSet"] != false {
		t.Error("without a secret the subscription says that one is set")
	}
}

func TestContract_SigningSecretForm(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	for _, bad := range []any{"", "whsec_", "secret", "whsec_c2hvcnQ=", aSecret[len("whsec_"):], aSecret + "=", strings.ToUpper(aSecret[:5]) + aSecret[5:], "whsec_" + strings.Repeat("QUJD", 30), "whsec_" + strings.Repeat("-_-_", 10), 7, []string{aSecret}} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			a := h.admin().do(method, path, fields{"dataCallbackURL": "http://127.0.0.1:8421/", "signingSecret": bad})
			names(t, fmt.Sprint(method, " of the secret ", bad), a.problem(400), "signingSecret")
			if s, _ := bad.(string); len(s) > 20 && strings.Contains(string(a.body), s) {
				t.Errorf("the refusal repeats the secret: %s", a.body)
			}
		}
	}
	for _, good := range []string{"whsec_" + strings.Repeat("QUJD", 8), "whsec_" + strings.Repeat("QUJD", 21) + "QQ=="} { // 24 and 64 bytes
		h.subscribe("http://127.0.0.1:8421/", fields{"signingSecret": good})
	}
}
