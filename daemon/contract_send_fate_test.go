package daemon_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"herald/daemon/standin"
)

// A device is looked up again when a notification is sent: between that and the message it may have another owner, another token, or be gone.

// holding is an app whose Android devices get nothing until it is released.
func (s *sending) holding(id string) (a *app, release func()) {
	s.t.Helper()
	a = s.app(id, nil)
	a.register("android", "sentry", "sentry-of-"+id, nil)
	s.fcm.For("sentry-of-"+id, standin.FCMError("PERMISSION_DENIED"))
	a.send(to("sentry"), shows("x"))
	s.eventually("the platform is suspended", func() bool { return a.platform("android", "fcm")["state"] == "suspended" })
	return a, func() {
		s.t.Helper()
		s.fcm.Reset()
		s.admin().do("PATCH", "/implementations/"+id, fields{"android": nil}).is(200)
		s.admin().do("PATCH", "/implementations/"+id, fields{"android": s.firebase()}).is(200)
	}
}

func TestContract_Devices_AreLookedUpWhenTheyAreSentTo(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a, release := s.holding("shop")
	for _, contact := range []string{"moved", "renewed", "removed", "deleted", "same"} {
		a.register("android", contact, contact+"-phone", nil)
	}
	ids := map[string]string{}
	for _, contact := range []string{"moved", "renewed", "removed", "deleted", "same"} {
		ids[contact] = a.send(to(contact), shows("for "+contact))
	}
	a.register("android", "bob", "moved-phone", nil)
	a.register("android", "renewed", "renewed-phone-2", fields{"replaces": "renewed-phone"})
	s.admin().do("DELETE", "/devices/"+fmt.Sprint(s.devices("removed")[0]["id"]), nil).is(204)
	s.admin().do("DELETE", "/contacts/deleted", nil).is(204)
	release()
	for contact, want := range map[string]fields{
		"moved": {"status": "FAILED", "reason": "no-device"}, "renewed": {"status": "SENT"}, "removed": {"status": "FAILED", "reason": "no-device"},
		"deleted": {"status": "FAILED", "reason": "no-device"}, "same": {"status": "SENT"},
	} {
		m := s.ends(ids[contact], fmt.Sprint(want["status"]))
		same(t, contact, m, want)
		same(t, contact, part(t, m), want)
	}
	for device, want := range map[string]int{"moved-phone": 0, "renewed-phone": 0, "renewed-phone-2": 1, "removed-phone": 0, "deleted-phone": 0, "same-phone": 1} {
		if n := len(s.requests(device)); n != want {
			t.Errorf("%s got %d, want %d", device, n, want)
		}
	}
}

// A token that its environment of APNs has taken once is not tried in the other.
func TestContract_Devices_TokenThatWasGoodIsNotTriedElsewhere(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a := s.app("shop", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	registered := s.devices("ann")[0]["lastSeenAt"]
	s.ends(a.send(to("ann"), shows("x")), "SENT")
	s.eventually("it is noted that the device was seen", func() bool { return s.devices("ann")[0]["lastSeenAt"] != registered })
	before := s.apns.Stats().Requests
	s.apns.Answer(iphone("ann"), -1, standin.APNsAnswer{Status: http.StatusBadRequest, Reason: "BadDeviceToken"})
	s.ends(a.send(to("ann"), shows("x")), "FAILED")
	if n := s.apns.Stats().Requests - before; n != 1 || len(s.devices("ann")) != 0 {
		t.Errorf("it took %d requests, and the devices are %v", n, s.devices("ann"))
	}
}

// What is for an implementation that is deleted is given up, and nothing of it is left.
func TestContract_Devices_OfADeletedImplementation(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a, _ := s.holding("shop")
	a.register("android", "ann", "phone", nil)
	id := a.send(to("ann"), shows("x"))
	s.admin().do("DELETE", "/implementations/shop", nil).is(204)
	s.fcm.Reset()
	same(t, "the message", s.ends(id, "FAILED"), fields{"implementationId": "shop", "reason": "unsubscribed"})
	a.post("/messages", to("ann"), shows("x")).problem(404)
	b := s.app("shop", nil)
	b.post("/messages", to("ann"), shows("x")).problem(404)
	if n := len(s.devices("ann")) + len(s.requests("phone")); n != 0 {
		t.Errorf("%d things of it are left", n)
	}
	s.barred(0)
}

// What a suspended platform holds beyond its time to live has failed.
func TestContract_Devices_HeldBeyondTheTimeToLive(t *testing.T) {
	t.Parallel()
	s := startSending(t, quickly)
	a, release := s.holding("shop")
	a.register("android", "ann", "phone", nil)
	r := receive(t)
	id := a.send(to("ann"), merged(shows("x"), fields{"ttl": 1, "callbackUrl": r.URL}))
	longer := a.send(to("ann"), merged(shows("y"), fields{"ttl": 600}))
	m := s.ends(id, "FAILED")
	same(t, "the message", m, fields{"reason": "expired"})
	if d := part(t, m); len(attempts(t, d)) != 0 || !moment(t, d["date"]).Equal(moment(t, m["expiresAt"])) {
		t.Errorf("the device is %v", d)
	}
	release()
	s.ends(longer, "SENT")
	for _, data := range a.statuses(r, 1) {
		same(t, "the status", data, fields{"trackingId": id, "status": "FAILED", "reason": "expired"})
	}
	if got := s.requests("phone"); len(got) != 1 || at(t, got[0].Body, "message", "notification", "body") != "y" {
		t.Errorf("the phone got %v", got)
	}
	if until := at(t, s.requests("phone")[0].Body, "message", "android", "ttl"); until != "600s" {
		t.Errorf("its time to live is %v", until)
	}
}

// An implementation without credentials for a platform, which it had, holds what is for it.
func TestContract_Devices_WithoutCredentialsAnyMore(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	s.admin().do("PATCH", "/implementations/shop", fields{"android": nil}).is(200)
	id := a.send(to("ann"), shows("x"))
	s.eventually("the iPhone got it", func() bool { return s.apns.Sent(iphone("ann")) == 1 })
	same(t, "the message", s.message(id), fields{"status": "QUEUED"})
	a.post("/messages", toToken("ANDROID", "phone"), shows("x")).problem(404)
	s.admin().do("PATCH", "/implementations/shop", fields{"android": s.firebase()}).is(200)
	s.ends(id, "SENT")
}

// A host of callback URLs is remembered, and there are only so many.
func TestContract_Send_CallbackHosts(t *testing.T) {
	t.Parallel()
	s := startSending(t, quickly)
	a := s.app("shop", nil)
	for i := range 100 {
		s.tell(a, "phone", fmt.Sprintf("http://127.0.0.1:%d/", 20_000+i))
	}
	s.tell(a, "phone", "http://127.0.0.1:20000/another")
	names(t, "a host too many", a.post("/messages", toToken("ANDROID", "phone"), shows("x"), fields{"callbackUrl": "http://127.0.0.1:20100/"}).problem(400), "callbackUrl", "100 hosts", "trackingId")
}

// A certificate of Apple's does as well as a key, and one that is not valid suspends.
func TestContract_Send_WithACertificate(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	apple, err := standin.NewAPNs(standin.APNsOptions{Topic: topic, Certificate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(apple.Close)
	dir := t.TempDir()
	path := filepath.Join(dir, "apple.pem")
	if err := os.WriteFile(path, apple.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startWith(t, dir, []string{"HERALD_EGRESS_CA_FILE=" + path}, fmt.Sprintf("providers: {apns: {url: '%s'}}", apple.URL()))
	s.herald = h
	key := apple.Key()
	leaf, _ := pem.Decode([]byte(key.Chain))
	certificate, err := x509.ParseCertificate(leaf.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(key.CertificateKey)
	if err != nil {
		t.Fatal(err)
	}
	file, err := pkcs12.Modern2023.WithIterations(2).Encode(private, certificate, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	a := s.app("shop", fields{"android": nil, "web": nil, "ios": fields{
		"certificate": base64.StdEncoding.EncodeToString(file), "password": "secret", "topic": topic, "environment": "sandbox",
	}})
	a.register("ios", "ann", iphone("ann"), nil)
	s.ends(a.send(to("ann"), shows("x")), "SENT")
	p, ok := apple.Last(iphone("ann"))
	if !ok || p.Header.Get("Authorization") != "" {
		t.Errorf("the iPhone got %v", p.Header)
	}
	apple.Answer("", 1, standin.APNsAnswer{Status: http.StatusForbidden, Reason: "BadCertificate"})
	id := a.send(to("ann"), shows("y"))
	s.eventually("the platform is suspended", func() bool { return a.platform("ios", "apns")["state"] == "suspended" })
	same(t, "the message", s.message(id), fields{"status": "QUEUED"})
	if faults := apple.Faults(); len(faults) > 0 {
		t.Errorf("APNs finds fault: %v", faults)
	}
}

// A provider that does not answer holds up nobody but those who are reached through it, of the same app.
func TestContract_Send_ProviderThatHangsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a, b := s.app("shop", nil), s.app("other", nil)
	for i := range 40 {
		a.register("android", "slow", fmt.Sprint("slow-phone-", i), nil)
		s.fcm.For(fmt.Sprint("slow-phone-", i), standin.Behaviour{Hang: true})
	}
	b.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	endpoint := a.browser("ann", nil)
	slow := a.send(to("slow"), shows("x"))
	s.eventually("the first is under way", func() bool { return len(s.fcm.Requests()) > 0 })
	began := time.Now()
	for range 3 {
		s.ends(a.send(to("ann"), shows("x")), "SENT")
		s.ends(b.send(to("ann"), shows("x")), "SENT")
	}
	if took := time.Since(began); took > prompt {
		t.Errorf("beside the slow ones the others took %v", took)
	}
	if len(s.requests("phone")) != 3 || s.apns.Sent(iphone("ann")) != 3 || len(s.got(endpoint)) != 3 {
		t.Error("not everybody got three")
	}
	same(t, "the slow message", s.message(slow), fields{"status": "QUEUED", "counts": map[string]any{"queued": 40, "sent": 0, "failed": 0}})
	s.fcm.Close() // else the daemon waits for it at its end
}

// A push service is chosen by whoever registers a browser. One that hangs holds up no other.
func TestContract_Send_PushServiceThatHangsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	p := standIns(t, 0)
	slow, err := standin.NewWebPush(standin.WebPushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(slow.Close)
	p.trust(slow)
	s := &sending{startWith(t, t.TempDir(), p.environ, steady), p, t} // endpoints lead to where they say
	a := s.app("shop", fields{"android": nil, "ios": nil})
	endpoint := a.browser("ann", nil)
	for range 20 {
		text, err := slow.Subscribe(a.vapid)
		if err != nil {
			t.Fatal(err)
		}
		slow.For(fmt.Sprint(at(t, text, "endpoint")), standin.Behaviour{Hang: true})
		a.register("web", "eve", json.RawMessage(text), nil)
	}
	a.send(to("eve"), shows("x"))
	s.eventually("the slow ones are tried", func() bool { return slow.Requests() > 0 })
	began := time.Now()
	s.ends(a.send(to("ann"), shows("x")), "SENT")
	if took := time.Since(began); took > prompt || len(s.got(endpoint)) != 1 {
		t.Errorf("beside the slow ones a browser got %d after %v", len(s.got(endpoint)), took)
	}
	slow.Close()
}
