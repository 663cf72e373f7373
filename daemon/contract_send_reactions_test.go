package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/daemon/standin"
)

// What a provider answers, and what becomes of the message, of the device, and of the implementation's way to the platform.

// answered is one line of a reaction table. Each has an implementation, a contact and a device of its own.
type answered struct {
	what string
	// order has the stand-in answer requests for the device.
	order func(device string)

	status, reason string // of the message
	gone           bool   // the device is removed
	suspended      string // the platform is, and this is what the reason names
	soonest        time.Duration
	rests          bool // the device is left alone for so long
	attempts       int  // 0 is one
}

// lines of a table, carried out at the same time.
type table struct {
	*sending
	platform, provider string
	members            fields // of the implementations
	device             func(a *app, contact string) (device string)
	rows               []answered
}

// carryOut sends a message for each row, and holds all that follows against it. It returns the apps that are suspended, and
// the messages they hold.
func (x *table) carryOut() (held map[*app]string) {
	x.t.Helper()
	ops := receive(x.t)
	x.subscribe(ops.URL, fields{"events": []string{"herald.implementation.*"}})
	apps, sent, began := make([]*app, len(x.rows)), make([]string, len(x.rows)), time.Now()
	for i, row := range x.rows {
		a := x.app(fmt.Sprint("app-", i), x.members)
		contact := fmt.Sprint("contact-", i)
		device := x.device(a, contact)
		if row.order != nil {
			row.order(device)
		}
		apps[i], sent[i] = a, a.send(to(contact), shows("x"))
	}
	held = make(map[*app]string)
	for i, row := range x.rows {
		m := x.tried(sent[i], max(row.attempts, 1))
		if row.status != "QUEUED" {
			m = x.ends(sent[i], row.status)
		}
		d := part(x.t, m)
		all := attempts(x.t, d)
		if m["status"] != row.status || fmt.Sprint(m["reason"]) != told(row.reason) || d["status"] != row.status || fmt.Sprint(d["reason"]) != told(row.reason) {
			x.t.Errorf("%s: the message is %v", row.what, m)
		}
		if row.status != "SENT" && fmt.Sprint(d["error"]) == "<nil>" {
			x.t.Errorf("%s: nothing is told of the error: %v", row.what, d)
		}
		tries, next := max(row.attempts, 1), d["nextAttemptAt"]
		if row.soonest > 0 && row.soonest < time.Minute && len(all) > tries {
			next, all = all[tries]["time"], all[:tries] // it took longer than that to get here
		}
		if len(all) != tries {
			x.t.Errorf("%s: it was tried %d times: %v", row.what, len(all), all)
		}
		listed := x.devices(fmt.Sprint("contact-", i))
		if row.gone != (len(listed) == 0) {
			x.t.Errorf("%s: the devices are %v", row.what, listed)
		}
		if row.soonest > 0 {
			last := all[len(all)-1]
			wait := moment(x.t, next).Sub(moment(x.t, last["time"]))
			if wait < row.soonest-20*time.Millisecond || wait > row.soonest+row.soonest/10+2*time.Second {
				x.t.Errorf("%s: it is tried again after %v, want %v", row.what, wait, row.soonest)
			}
		}
		if len(listed) == 1 {
			until, _ := listed[0]["restUntil"].(string)
			if row.rests != (until != "") {
				x.t.Errorf("%s: the device rests until %q", row.what, until)
			}
			if row.rests && moment(x.t, until).Sub(began) < row.soonest {
				x.t.Errorf("%s: the device rests until %v", row.what, until)
			}
		}
		p := apps[i].platform(x.platform, x.provider)
		if row.suspended == "" {
			if p["state"] != "active" || p["reason"] != nil || p["since"] != nil {
				x.t.Errorf("%s: the platform is %v", row.what, p)
			}
			continue
		}
		held[apps[i]] = sent[i]
		x.eventually("the platform is suspended by "+row.what, func() bool {
			p = apps[i].platform(x.platform, x.provider)
			return p["state"] == "suspended" && fmt.Sprint(p["waiting"]) == "1"
		})
		names(x.t, row.what, fmt.Sprint(p["reason"]), row.suspended)
		since, probe := moment(x.t, p["since"]), moment(x.t, p["nextProbeAt"])
		if since.Before(began.Add(-time.Second)) || since.After(time.Now()) || probe.Sub(since) < 14*time.Minute || probe.Sub(since) > 16*time.Minute {
			x.t.Errorf("%s: it is suspended since %v, and probed at %v", row.what, since, probe)
		}
		if d["nextAttemptAt"] != nil && moment(x.t, d["nextAttemptAt"]).After(time.Now().Add(16*time.Minute)) {
			x.t.Errorf("%s: the message waits until %v", row.what, d["nextAttemptAt"])
		}
	}
	x.barred(len(held))
	x.told(ops, "herald.implementation.suspended", held)
	return held
}

// told is how a missing reason prints.
func told(reason string) string {
	if reason == "" {
		return "<nil>"
	}
	return reason
}

// barred fails the test unless so many platforms are suspended, by the metric.
func (s *sending) barred(want int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%d platforms are suspended", want), func() bool {
		return sample(s.t, string(s.as("").do("GET", "/metrics", nil).is(200).body), "herald_dispatch_suspended_platforms") == float64(want)
	})
}

// told waits until the operator was told something of all the apps.
func (x *table) told(ops *receiver, eventType string, of map[*app]string) {
	x.t.Helper()
	x.eventually(fmt.Sprintf("%d times %s was told", len(of), eventType), func() bool {
		n := 0
		for _, p := range ops.got() {
			e := p.object(x.t)
			data, _ := e["data"].(map[string]any)
			if e["type"] != eventType {
				continue
			}
			for a := range of {
				if data["implementationId"] == a.id {
					n++
					same(x.t, eventType, data, fields{"platform": x.platform, "state": map[bool]string{true: "suspended", false: "active"}[strings.HasSuffix(eventType, "suspended")]})
				}
			}
		}
		return n >= len(of)
	})
}

// mended has what is held flow once the credentials are others.
func (x *table) mended(held map[*app]string, patch func() fields) {
	x.t.Helper()
	ops := receive(x.t)
	x.subscribe(ops.URL, fields{"events": []string{"herald.implementation.resumed"}})
	for a := range held {
		a.send(fields{"routeeContactId": strings.Replace(a.id, "app", "contact", 1)}, shows("y")) // it waits as well
		x.admin().do("PATCH", "/implementations/"+a.id, patch()).is(200)
	}
	for a, id := range held {
		m := x.ends(id, "SENT")
		if n := len(attempts(x.t, part(x.t, m))); n < 2 {
			x.t.Errorf("%s: the message that was held was tried %d times", a.id, n)
		}
		x.eventually("nothing waits", func() bool { return a.platform(x.platform, x.provider)["waiting"] == 0.0 })
		same(x.t, a.id, a.platform(x.platform, x.provider), fields{"state": "active"})
	}
	x.barred(0)
	x.told(ops, "herald.implementation.resumed", held)
}

func TestContract_Send_Reactions_FCM(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	on := func(b standin.Behaviour) func(string) { return func(device string) { s.fcm.For(device, b) } }
	says := func(code string) func(string) { return on(standin.FCMError(code)) }
	after := func(code, wait string) func(string) {
		b := standin.FCMError(code)
		b.Header = b.Header.Clone()
		b.Header.Set("Retry-After", wait)
		return on(b)
	}
	x := &table{sending: s, platform: "android", provider: "fcm", members: fields{"ios": nil, "web": nil}, device: func(a *app, contact string) string {
		a.register("android", contact, "phone-of-"+contact, nil)
		return "phone-of-" + contact
	}, rows: []answered{
		{what: "200", status: "SENT"},
		{what: "400 INVALID_ARGUMENT", order: says("INVALID_ARGUMENT"), status: "FAILED", reason: "rejected"},
		{what: "400 of a token that is none", order: says("TOKEN_INVALID"), status: "FAILED", reason: "unregistered", gone: true},
		{what: "401 THIRD_PARTY_AUTH_ERROR", order: says("THIRD_PARTY_AUTH_ERROR"), status: "QUEUED", suspended: "APNs"},
		{what: "401 UNAUTHENTICATED", order: says("UNAUTHENTICATED"), status: "QUEUED", suspended: "UNAUTHENTICATED"},
		{what: "403 SENDER_ID_MISMATCH", order: says("SENDER_ID_MISMATCH"), status: "FAILED", reason: "unregistered", gone: true},
		{what: "403 PERMISSION_DENIED", order: says("PERMISSION_DENIED"), status: "QUEUED", suspended: "PERMISSION_DENIED"},
		{what: "404 UNREGISTERED", order: says("UNREGISTERED"), status: "FAILED", reason: "unregistered", gone: true},
		{what: "404 of the project", order: says("NOT_FOUND"), status: "QUEUED", suspended: "project"},
		{what: "404 of a page", order: says("HTML_NOT_FOUND"), status: "QUEUED", suspended: "404"},
		{what: "429 QUOTA_EXCEEDED", order: says("QUOTA_EXCEEDED"), status: "QUEUED", soonest: time.Minute},
		{what: "429 with Retry-After", order: after("QUOTA_EXCEEDED", "90"), status: "QUEUED", soonest: 90 * time.Second},
		{what: "429 of one device", order: says("DEVICE_QUOTA_EXCEEDED"), status: "QUEUED", soonest: time.Minute, rests: true},
		{what: "429 of one device with Retry-After", order: after("DEVICE_QUOTA_EXCEEDED", "120"), status: "QUEUED", soonest: 2 * time.Minute, rests: true},
		{what: "500 INTERNAL", order: says("INTERNAL"), status: "QUEUED", soonest: 10 * time.Second},
		{what: "502", order: says("HTML_BAD_GATEWAY"), status: "QUEUED", soonest: 10 * time.Second},
		{what: "504", order: on(standin.Behaviour{Status: http.StatusGatewayTimeout}), status: "QUEUED", soonest: 10 * time.Second},
		{what: "503 UNAVAILABLE", order: says("UNAVAILABLE"), status: "QUEUED", soonest: 10 * time.Second},
		{what: "503 with Retry-After", order: after("UNAVAILABLE", "45"), status: "QUEUED", soonest: 45 * time.Second},
		{what: "no answer", order: on(standin.Behaviour{Cut: true}), status: "QUEUED", soonest: 10 * time.Second},
	}}
	held := x.carryOut()
	s.fcm.Reset()
	x.mended(held, func() fields {
		account := map[string]any{}
		if err := json.Unmarshal(s.fcm.ServiceAccount(), &account); err != nil {
			t.Fatal(err)
		}
		account["token_uri"] = "https://oauth2.googleapis.com/token" // another key for Herald, the same for the stand-in
		return fields{"android": fields{"serviceAccount": account}}
	})
	if n := s.fcm.Sent(); n["phone-of-contact-0"] != 1 {
		t.Errorf("the first phone got %d", n["phone-of-contact-0"])
	}
}

func TestContract_Send_Reactions_APNs(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	answer := func(n int, with standin.APNsAnswer) func(string) {
		return func(device string) { s.apns.Answer(device, n, with) }
	}
	says := func(status int, reason string) func(string) {
		return answer(-1, standin.APNsAnswer{Status: status, Reason: reason})
	}
	once := func(status int, reason string) func(string) {
		return answer(1, standin.APNsAnswer{Status: status, Reason: reason})
	}
	died := func(reason string, at time.Time) func(string) {
		return answer(-1, standin.APNsAnswer{Status: http.StatusGone, Reason: reason, Timestamp: at})
	}
	x := &table{sending: s, platform: "ios", provider: "apns", members: fields{"android": nil, "web": nil}, device: func(a *app, contact string) string {
		a.register("ios", contact, iphone(contact), nil)
		return iphone(contact)
	}, rows: []answered{
		{what: "200", status: "SENT"},
		{what: "400 BadDeviceToken of both environments", order: says(400, "BadDeviceToken"), status: "FAILED", reason: "unregistered", gone: true},
		{what: "400 BadDeviceToken of one environment", order: once(400, "BadDeviceToken"), status: "SENT"},
		{what: "400 DeviceTokenNotForTopic", order: says(400, "DeviceTokenNotForTopic"), status: "FAILED", reason: "unregistered", gone: true},
		{what: "400 IdleTimeout", order: once(400, "IdleTimeout"), status: "SENT"},
		{what: "403 ExpiredProviderToken", order: once(403, "ExpiredProviderToken"), status: "SENT"},
		{what: "403 ExpiredProviderToken of each token", order: says(403, "ExpiredProviderToken"), status: "QUEUED", suspended: "clock"},
		{what: "403 UnrelatedKeyIdInToken", order: once(403, "UnrelatedKeyIdInToken"), status: "SENT"},
		{what: "403 Forbidden", order: says(403, "Forbidden"), status: "FAILED", reason: "rejected"},
		{what: "404 BadPath", order: says(404, "BadPath"), status: "FAILED", reason: "rejected"},
		{what: "405 MethodNotAllowed", order: says(405, "MethodNotAllowed"), status: "FAILED", reason: "rejected"},
		{what: "410 Unregistered", order: died("Unregistered", time.Now().Add(time.Hour)), status: "FAILED", reason: "unregistered", gone: true},
		{what: "410 Unregistered before it was registered", order: died("Unregistered", time.Now().Add(-time.Hour)), status: "FAILED", reason: "unregistered"},
		{what: "410 ExpiredToken", order: died("ExpiredToken", time.Now().Add(time.Hour)), status: "FAILED", reason: "unregistered", gone: true},
		{what: "410 ExpiredToken before it was registered", order: died("ExpiredToken", time.Now().Add(-time.Hour)), status: "FAILED", reason: "unregistered"},
		{what: "410 without a time", order: says(410, "Unregistered"), status: "FAILED", reason: "unregistered", gone: true},
		{what: "413 PayloadTooLarge", order: says(413, "PayloadTooLarge"), status: "FAILED", reason: "too-large"},
		{what: "429 TooManyRequests", order: says(429, "TooManyRequests"), status: "QUEUED", soonest: time.Minute, rests: true},
		{what: "429 TooManyProviderTokenUpdates", order: says(429, "TooManyProviderTokenUpdates"), status: "QUEUED", soonest: time.Minute},
		{what: "500 InternalServerError", order: says(500, "InternalServerError"), status: "QUEUED", soonest: 15 * time.Minute},
		{what: "503 ServiceUnavailable", order: says(503, "ServiceUnavailable"), status: "QUEUED", soonest: 15 * time.Minute},
		{what: "503 Shutdown", order: says(503, "Shutdown"), status: "QUEUED", soonest: 15 * time.Minute},
		{what: "no answer", order: answer(-1, standin.APNsAnswer{Cut: true}), status: "QUEUED", soonest: 10 * time.Second},
	}}
	for _, reason := range []string{
		"BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority", "InvalidPushType", "PayloadEmpty", "DuplicateHeaders", "MissingDeviceToken",
	} {
		x.rows = append(x.rows, answered{what: "400 " + reason, order: says(400, reason), status: "FAILED", reason: "rejected"})
	}
	for _, reason := range []string{"BadTopic", "MissingTopic", "TopicDisallowed"} {
		x.rows = append(x.rows, answered{what: "400 " + reason, order: says(400, reason), status: "QUEUED", suspended: reason})
	}
	for _, reason := range []string{
		"InvalidProviderToken", "MissingProviderToken", "BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken",
	} {
		x.rows = append(x.rows, answered{what: "403 " + reason, order: says(403, reason), status: "QUEUED", suspended: reason})
	}
	held := x.carryOut()
	s.apns.Forget()
	// Which environment took the token is remembered.
	before := s.apns.Stats().Requests
	other := slices.IndexFunc(x.rows, func(r answered) bool { return strings.HasSuffix(r.what, "of one environment") })
	again := &app{sending: s, id: fmt.Sprint("app-", other)}
	s.ends(again.send(to(fmt.Sprint("contact-", other)), shows("again")), "SENT")
	if n := s.apns.Stats().Requests - before; n != 1 {
		t.Errorf("a token whose environment is known takes %d requests", n)
	}
	x.mended(held, func() fields { return fields{"ios": fields{"environment": "sandbox"}} })
}

func TestContract_Send_Reactions_WebPush(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	on := func(status int, body string, headers ...string) func(string) {
		b := standin.Behaviour{Status: status, Body: body, Header: http.Header{}}
		for i := 0; i < len(headers); i += 2 {
			b.Header.Set(headers[i], headers[i+1])
		}
		return func(device string) { s.web.For(device, b) }
	}
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	x := &table{sending: s, platform: "web", provider: "webpush", members: fields{"android": nil, "ios": nil}, device: func(a *app, contact string) string {
		return a.browser(contact, nil)
	}, rows: []answered{
		{what: "201", status: "SENT"},
		{what: "200", order: on(200, ""), status: "SENT"},
		{what: "202", order: on(202, ""), status: "SENT"},
		{what: "301", order: on(301, "", "Location", "https://127.0.0.1:1/"), status: "FAILED", reason: "rejected"},
		{what: "302", order: on(302, "", "Location", "https://127.0.0.1:1/"), status: "FAILED", reason: "rejected"},
		{what: "307", order: on(307, "", "Location", "https://127.0.0.1:1/"), status: "FAILED", reason: "rejected"},
		{what: "308", order: on(308, "", "Location", "https://127.0.0.1:1/"), status: "FAILED", reason: "rejected"},
		{what: "400", order: on(400, `{"reason":"BadWebPushTopic"}`), status: "FAILED", reason: "rejected"},
		{what: "401", order: on(401, `{"errno":109}`), status: "QUEUED", suspended: "VAPID"},
		{what: "403 BadJwtToken", order: on(403, `{"reason":"BadJwtToken"}`), status: "QUEUED", suspended: "BadJwtToken"},
		{what: "403 VapidPkHashMismatch", order: on(403, `{"reason":"VapidPkHashMismatch"}`), status: "FAILED", reason: "unregistered", gone: true},
		{
			what: "403 of another sender", order: on(403, "the key in the authorization header does not correspond to the sender ID used to subscribe this user"),
			status: "FAILED", reason: "unregistered", gone: true,
		},
		{what: "404", order: on(404, `{"errno":102}`), status: "FAILED", reason: "unregistered", gone: true},
		{what: "410", order: on(410, `{"errno":106}`), status: "FAILED", reason: "unregistered", gone: true},
		{what: "413", order: on(413, `{"errno":104}`), status: "FAILED", reason: "too-large"},
		{what: "429", order: on(429, ""), status: "QUEUED", soonest: time.Minute, rests: true},
		{what: "429 with Retry-After", order: on(429, "", "Retry-After", "90"), status: "QUEUED", soonest: 90 * time.Second, rests: true},
		// The date is as much later than what is asked for as the rows may take until it is read.
		{what: "429 with a date", order: on(429, "", "Retry-After", in(5*time.Minute+25*time.Second)), status: "QUEUED", soonest: 298 * time.Second, rests: true},
		{what: "406 of Windows", order: on(406, ""), status: "QUEUED", soonest: time.Minute, rests: true},
		{what: "dropped by Windows", order: on(200, "", "X-WNS-Status", "dropped"), status: "QUEUED", soonest: time.Minute},
		{what: "throttled by Windows", order: on(201, "", "X-WNS-Status", "channelthrottled"), status: "QUEUED", soonest: time.Minute},
		{what: "500", order: on(500, ""), status: "QUEUED", soonest: 10 * time.Second},
		{what: "503 errno 201", order: on(503, `{"errno":201}`), status: "QUEUED", soonest: 10 * time.Second},
		{what: "503 errno 202", order: on(503, `{"errno":202}`), status: "QUEUED", soonest: 10 * time.Second},
		{what: "503 with Retry-After", order: on(503, "", "Retry-After", "75"), status: "QUEUED", soonest: 75 * time.Second},
		{what: "no answer", order: func(device string) { s.web.For(device, standin.Behaviour{Cut: true}) }, status: "QUEUED", soonest: 10 * time.Second},
	}}
	held := x.carryOut()
	s.web.Reset()
	x.mended(held, func() fields { return fields{"web": fields{"vapid": fields{"subject": "mailto:other@shop.example"}}} })
}

// A throttled device is left alone while the others of the app flow, and a throttled app rests as a whole; a restart changes neither, nor what is
// suspended.
func TestContract_Send_ThrottlingAndSuspensionOutliveARestart(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a, b, c := s.app("device-quota", nil), s.app("app-quota", nil), s.app("denied", nil)
	for i, x := range []*app{a, b, c} {
		for n := range 2 {
			x.register("android", "ann", fmt.Sprintf("phone-%d-%d", i, n), nil)
		}
	}
	s.fcm.For("phone-0-0", standin.FCMError("DEVICE_QUOTA_EXCEEDED"))
	s.fcm.For("phone-1-0", standin.FCMError("QUOTA_EXCEEDED"))
	s.fcm.For("phone-2-0", standin.FCMError("PERMISSION_DENIED"))
	throttled := a.send(toToken("ANDROID", "phone-0-0"), shows("x"))
	resting := b.send(toToken("ANDROID", "phone-1-0"), shows("x"))
	denied := c.send(toToken("ANDROID", "phone-2-0"), shows("x"))
	for _, id := range []string{throttled, resting, denied} {
		s.tried(id, 1)
	}
	s.eventually("the platform is suspended", func() bool { return c.platform("android", "fcm")["state"] == "suspended" })
	suspended := c.platform("android", "fcm")

	flows := func() {
		t.Helper()
		s.ends(a.send(toToken("ANDROID", "phone-0-1"), shows("y")), "SENT")
		rests := a.send(toToken("ANDROID", "phone-0-0"), shows("y"))
		waits, held := b.send(toToken("ANDROID", "phone-1-1"), shows("y")), c.send(toToken("ANDROID", "phone-2-1"), shows("y"))
		if d := part(t, s.tried(rests, 1)); attempts(t, d)[0]["status"] != nil {
			t.Errorf("a device that rests was sent to: %v", d)
		}
		s.sentinel()
		s.ends(a.send(toToken("ANDROID", "phone-0-1"), shows("z")), "SENT")
		for what, id := range map[string]string{"rests": waits, "is suspended": held} {
			m := s.message(id)
			if d := part(t, m); m["status"] != "QUEUED" || len(attempts(t, d)) != 0 {
				t.Errorf("while the app %s: %v", what, m)
			}
		}
	}
	flows()
	before := len(s.fcm.Requests())
	s.again()
	s.barred(1)
	after := c.platform("android", "fcm")
	if after["state"] != "suspended" || after["reason"] != suspended["reason"] || after["since"] != suspended["since"] || after["waiting"] != 2.0 {
		t.Errorf("after the restart the platform is %v, before it was %v", after, suspended)
	}
	if d := s.devices("ann"); !slices.ContainsFunc(d, func(x map[string]any) bool { return x["restUntil"] != nil }) {
		t.Errorf("after the restart no device rests: %v", d)
	}
	s.ends(a.send(toToken("ANDROID", "phone-0-1"), shows("y")), "SENT")
	rests := a.send(toToken("ANDROID", "phone-0-0"), shows("y"))
	if d := part(t, s.tried(rests, 1)); attempts(t, d)[0]["status"] != nil {
		t.Errorf("after the restart a device that rests was sent to: %v", d)
	}
	held := c.send(toToken("ANDROID", "phone-2-1"), shows("y"))
	s.ends(a.send(toToken("ANDROID", "phone-0-1"), shows("z")), "SENT")
	if m := s.message(held); m["status"] != "QUEUED" {
		t.Errorf("after the restart the suspended platform sends: %v", m)
	}
	var devices []string
	for _, r := range s.fcm.Requests()[before:] {
		devices = append(devices, r.Device)
	}
	if want := []string{"phone-0-1", "phone-0-1"}; !slices.Equal(devices, want) {
		t.Errorf("after the restart FCM got requests for %v, want %v", devices, want)
	}
}

// Credentials that are wrong from the beginning hold all there is, and lose nothing when they are replaced.
func TestContract_Send_WrongCredentialsHoldEverything(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	s.expected = []string{"invalid_grant"}
	a := s.app("shop", nil)
	account := map[string]any{}
	if err := json.Unmarshal(s.fcm.ServiceAccount(), &account); err != nil {
		t.Fatal(err)
	}
	account["private_key_id"] = "another"
	s.admin().do("PATCH", "/implementations/shop", fields{"android": fields{"serviceAccount": account}}).is(200)
	contacts := make([]string, 60)
	for i := range contacts {
		contacts[i] = fmt.Sprint("contact-", i)
		a.register("android", contacts[i], fmt.Sprint("phone-", i), nil)
	}
	a.register("ios", "contact-0", iphone("contact"), nil)
	many := a.post("/messages/multicast", fields{"contacts": contacts}, shows("x")).is(202).text("trackingId")
	s.eventually("the platform is suspended", func() bool { return a.platform("android", "fcm")["state"] == "suspended" })
	s.eventually("the iPhone got it", func() bool { return s.apns.Sent(iphone("contact")) == 1 })
	one := a.send(to("contact-1"), shows("y"))
	same(t, "the message to many", s.message(many), fields{"status": "QUEUED", "counts": map[string]any{"queued": 60, "sent": 1, "failed": 0}})
	if p := a.platform("android", "fcm"); p["waiting"] != 61.0 {
		t.Errorf("the platform is %v", p)
	}
	if ios := a.platform("ios", "apns"); ios["state"] != "active" {
		t.Errorf("iOS is %v", ios)
	}
	if n := s.fcm.Minted(); n != 0 {
		t.Errorf("%d tokens were given for a wrong key", n)
	}
	s.admin().do("PATCH", "/implementations/shop", fields{"android": s.firebase()}).is(200)
	s.ends(many, "SENT")
	s.ends(one, "SENT")
	for i := range contacts {
		want := 1
		if i == 1 {
			want = 2
		}
		if n := s.fcm.Sent()[fmt.Sprint("phone-", i)]; n != want {
			t.Errorf("phone %d got %d, want %d", i, n, want)
		}
	}
	s.barred(0)
	// An access token that is revoked is replaced, and nobody notices.
	minted := s.fcm.Minted()
	s.fcm.Revoke()
	m := s.ends(a.send(to("contact-2"), shows("z")), "SENT")
	if n := len(attempts(t, part(t, m))); n != 1 || s.fcm.Minted() != minted+1 {
		t.Errorf("after %d attempts, and with %d new tokens", n, s.fcm.Minted()-minted)
	}
}

// When not one token in a row belongs to the credentials, it is they that are wrong: then no device is removed any more.
func TestContract_Send_ManyForeignTokensSuspend(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a := s.app("shop", nil)
	contacts := make([]string, 15)
	for i := range contacts {
		contacts[i] = fmt.Sprintf("contact-%02d", i)
		a.register("android", contacts[i], "phone-"+contacts[i], nil)
		s.fcm.For("phone-"+contacts[i], standin.FCMError("SENDER_ID_MISMATCH"))
	}
	var ids []string
	for _, c := range contacts {
		ids = append(ids, a.send(to(c), shows("x")))
		if len(ids) < 10 {
			s.ends(ids[len(ids)-1], "FAILED")
		}
	}
	s.eventually("the platform is suspended", func() bool { return a.platform("android", "fcm")["state"] == "suspended" })
	names(t, "the reason", fmt.Sprint(a.platform("android", "fcm")["reason"]), "belong to other credentials")
	for i, c := range contacts {
		if left := len(s.devices(c)); left != map[bool]int{true: 0, false: 1}[i < 9] {
			t.Errorf("of contact %d there are %d devices", i, left)
		}
		if i >= 9 {
			same(t, "a later message", s.message(ids[i]), fields{"status": "QUEUED"})
		}
	}
	if n := len(s.fcm.Requests()); n > len(contacts) {
		t.Errorf("FCM got %d requests for %d messages", n, len(contacts))
	}
}

// A notification is tried again when its provider has asked for it, and arrives.
func TestContract_Send_IsTriedAgain(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	s.fcm.Next(1, standin.FCMError("UNAVAILABLE"))
	id := a.send(to("ann"), shows("x"))
	m := s.tried(id, 1)
	same(t, "after the first attempt", part(t, m), fields{"status": "QUEUED"})
	m = s.ends(id, "SENT")
	all := attempts(t, part(t, m))
	if wait := moment(t, all[1]["time"]).Sub(moment(t, all[0]["time"])); len(all) != 2 || wait < 10*time.Second {
		t.Errorf("it was tried after %v: %v", wait, all)
	}
	same(t, "the first attempt", all[0], fields{"status": 503, "outcome": "retry"})
}
