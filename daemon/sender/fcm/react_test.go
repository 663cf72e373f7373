package fcm

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"herald/daemon/sender"
	"herald/daemon/standin"
	"herald/queue"
	"herald/store"
)

// Each line of the table of reactions, from the stand-in's answer to the result.
func TestReactions(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	type result struct {
		class      queue.Class
		device     sender.DeviceFate
		reason     string
		innocent   bool
		retryAfter time.Duration
		wait       time.Duration
	}
	header := func(b standin.Behaviour, retryAfter string) standin.Behaviour {
		b.Header = b.Header.Clone()
		b.Header.Set("Retry-After", retryAfter)
		return b
	}
	plain := func(status int, body string) standin.Behaviour {
		return standin.Behaviour{Status: status, Header: http.Header{}, Body: body}
	}
	const fcmError = `{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"}`
	const noToken = "The registration token is not a valid FCM registration token"
	gone := result{class: queue.ClassGone, device: sender.DeviceDead, reason: sender.ReasonUnregistered, innocent: true}
	rejected := result{class: queue.ClassRejected, innocent: true}
	retry := result{class: queue.ClassRetry}
	misconfigured := result{class: queue.ClassMisconfigured}
	rest := func(d time.Duration) result { return result{class: queue.ClassRetry, retryAfter: d} }
	throttled := func(d time.Duration) result {
		return result{class: queue.ClassRetry, device: sender.DeviceThrottled, innocent: true, wait: d}
	}
	for _, c := range []struct {
		name string
		b    standin.Behaviour
		want result
		says string
	}{
		{"bad request", standin.FCMError("INVALID_ARGUMENT"), rejected, "400 Bad Request (INVALID_ARGUMENT): Invalid value at 'message.android.ttl'"},
		{"no token", standin.FCMError("TOKEN_INVALID"), gone, noToken},
		{"no token, but a member is to blame", plain(400, `{"error":{"status":"INVALID_ARGUMENT","message":"`+noToken+`","details":[`+fcmError+`,{"@type":"type.googleapis.com/google.rpc.BadRequest"}]}}`), rejected, noToken},
		{"no token, but not in FCM's words", plain(400, `{"error":{"status":"INVALID_ARGUMENT","message":"`+noToken+`"}}`), rejected, noToken},
		{"FCM's words for something else", plain(400, `{"error":{"status":"INVALID_ARGUMENT","message":"Too large","details":[`+fcmError+`]}}`), rejected, "Too large"},
		{"a page for success", plain(200, "<html>"), retry, "no answer of FCM"},
		{"a page for a bad request", plain(400, "<html>"), rejected, "400 Bad Request"},
		{"the project's APNs key", standin.FCMError("THIRD_PARTY_AUTH_ERROR"), misconfigured, "key for APNs"},
		{"the access token", standin.FCMError("UNAUTHENTICATED"), misconfigured, "access token of the service account"},
		{"a page for unauthorized", plain(401, "<html>"), misconfigured, "401 Unauthorized"},
		{"another project's token", standin.FCMError("SENDER_ID_MISMATCH"), result{class: queue.ClassRejected, device: sender.DeviceForeign, reason: sender.ReasonUnregistered, innocent: true}, "another Firebase project"},
		{"no permission", standin.FCMError("PERMISSION_DENIED"), misconfigured, "may not send for the project standin"},
		{"a page for forbidden", plain(403, ""), misconfigured, "403 Forbidden"},
		{"unregistered", standin.FCMError("UNREGISTERED"), gone, "404 Not Found (UNREGISTERED): Requested entity was not found"},
		{"no such project", standin.FCMError("NOT_FOUND"), misconfigured, "there is no project standin"},
		{"a page for not found", standin.FCMError("HTML_NOT_FOUND"), misconfigured, "there is no project standin"},
		{"quota", standin.FCMError("QUOTA_EXCEEDED"), rest(time.Minute), "429 Too Many Requests (QUOTA_EXCEEDED)"},
		{"quota until", header(standin.FCMError("QUOTA_EXCEEDED"), "90"), rest(90 * time.Second), "QUOTA_EXCEEDED"},
		{"quota until now", header(standin.FCMError("QUOTA_EXCEEDED"), "0"), rest(time.Minute), "QUOTA_EXCEEDED"},
		{"a page for too many requests", plain(429, "<html>"), rest(time.Minute), "429"},
		{"quota of a device", standin.FCMError("DEVICE_QUOTA_EXCEEDED"), throttled(time.Minute), "QUOTA_EXCEEDED"},
		{"quota of a device until", header(standin.FCMError("DEVICE_QUOTA_EXCEEDED"), "7"), throttled(7 * time.Second), "QUOTA_EXCEEDED"},
		{"quota of a device in the message", plain(429, `{"error":{"status":"RESOURCE_EXHAUSTED","message":"Topic quota exceeded."}}`), throttled(time.Minute), "Topic quota"},
		{"internal", standin.FCMError("INTERNAL"), retry, "500 Internal Server Error (INTERNAL)"},
		{"internal until", header(standin.FCMError("INTERNAL"), "9"), retry, "INTERNAL"},
		{"a page for a bad gateway", standin.FCMError("HTML_BAD_GATEWAY"), retry, "502 Bad Gateway"},
		{"gateway timeout", plain(504, ""), retry, "504 Gateway Timeout"},
		{"unavailable", standin.FCMError("UNAVAILABLE"), retry, "503 Service Unavailable (UNAVAILABLE)"},
		{"unavailable until", header(standin.FCMError("UNAVAILABLE"), "120"), rest(2 * time.Minute), "UNAVAILABLE"},
		{"unavailable for long", header(standin.FCMError("UNAVAILABLE"), "99999999999999999999"), rest(24 * time.Hour), "UNAVAILABLE"},
		{"unavailable until nonsense", header(standin.FCMError("UNAVAILABLE"), "-3"), retry, "UNAVAILABLE"},
		// What a failing server says of a token is not believed.
		{"a server that fails with a verdict", plain(500, `{"error":{"details":[{"errorCode":"UNREGISTERED"}]}}`), retry, "500"},
		{"a redirect", plain(302, ""), retry, "redirects are not followed"},
		{"too large", plain(413, ""), result{class: queue.ClassRejected, reason: sender.ReasonTooLarge, innocent: true}, "413"},
		{"a status for nothing", plain(418, ""), rejected, "418"},
		{"a timeout of the server", plain(408, ""), retry, "408"},
		{"the code counts, not the status", plain(400, `{"error":{"status":"INVALID_ARGUMENT","details":[{"errorCode":"UNREGISTERED"}]}}`), gone, "UNREGISTERED"},
		{"the status counts where there is no code", plain(400, `{"error":{"status":"PERMISSION_DENIED","details":[{"errorCode":"UNSPECIFIED_ERROR"}]}}`), misconfigured, "PERMISSION_DENIED"},
		{"members of other types", plain(404, `{"error":{"status":5,"message":[],"details":[{"errorCode":"UNREGISTERED","violations":"x"}]}}`), gone, "UNREGISTERED"},
	} {
		f.For(device, c.b)
		r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false)
		got := result{r.Class, r.Device, r.Reason, r.Innocent, r.RetryAfter, r.Wait}
		if got != c.want || r.Status != c.b.Status || !strings.Contains(r.Error, c.says) || r.MessageID != "" || string(r.Response) != c.b.Body {
			t.Errorf("%s: %+v\nwant %+v and %q in %+v", c.name, got, c.want, c.says, r)
		}
	}
	noFaults(t, f)
}

// An access token that FCM no longer takes is replaced at once.
func TestRevokedAccessToken(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	for n := range 3 {
		if r := s.Send(t.Context(), "o", key, Target{Token: device}, hello(t, store.PlatformWeb), false); r.Class != queue.ClassDelivered || f.Minted() != n+1 {
			t.Errorf("%d access tokens: %+v", f.Minted(), r)
		}
		f.Revoke()
	}
	// One that is refused for good costs one more call, not one for ever.
	f.For(device, standin.FCMError("UNAUTHENTICATED"))
	minted := f.Minted()
	if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassMisconfigured || f.Minted() != minted+1 {
		t.Errorf("%d more: %+v", f.Minted()-minted, r)
	}
	f.For(device, standin.FCMError("THIRD_PARTY_AUTH_ERROR"))
	minted = f.Minted()
	if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassMisconfigured || f.Minted() != minted {
		t.Errorf("%d more: %+v", f.Minted()-minted, r)
	}
}

// A project may be called anything.
func TestQuotaOfAProjectOfDevices(t *testing.T) {
	t.Parallel()
	body := `{"error":{"status":"RESOURCE_EXHAUSTED","message":"Quota of my-device-app exceeded","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"project:my-device-app"}]}]}}`
	if r, _ := judge(429, http.Header{}, []byte(body), "my-device-app", time.Now()); r.Innocent || r.RetryAfter != time.Minute {
		t.Errorf("%+v", r)
	}
	if r, _ := judge(429, http.Header{}, []byte(body), "another", time.Now()); !r.Innocent || r.Wait != time.Minute {
		t.Errorf("%+v", r)
	}
}

func FuzzJudge(f *testing.F) {
	for _, code := range []string{"INVALID_ARGUMENT", "TOKEN_INVALID", "UNREGISTERED", "SENDER_ID_MISMATCH", "DEVICE_QUOTA_EXCEEDED", "UNAVAILABLE", "HTML_NOT_FOUND"} {
		b := standin.FCMError(code)
		f.Add(b.Status, "10", []byte(b.Body))
	}
	f.Add(200, "", []byte(`{"name":"projects/p/messages/1"}`))
	f.Add(200, "", []byte(`<html>`))
	f.Add(404, "Sun, 22 Nov 2026 12:00:30 GMT", []byte(`{"error":{"details":[null,{"errorCode":"UNREGISTERED"}]}}`))
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		r, refused := judge(status, http.Header{"Retry-After": {after}}, body, "p", now)
		ok := r.Class == queue.ClassDelivered
		text := strings.TrimSpace(string(body)) // an object, or cut off before it began
		switch {
		case ok != (status >= 200 && status <= 299 && (text == "" || text[0] == '{')), ok != (r.Error == ""), ok != (r.Device == sender.DeviceSeen):
			t.Error("success is not where it belongs")
		case r.RetryAfter < 0 || r.RetryAfter > sender.MaxRetryAfter || r.Wait < 0 || r.Wait > sender.MaxRetryAfter:
			t.Error("a wait out of bounds")
		case (status >= 500 || status < 400) && (r.Class == queue.ClassGone || r.Class == queue.ClassMisconfigured || r.Class == queue.ClassRejected):
			t.Error("a server's failure was taken for a verdict")
		case r.Class == queue.ClassGone && (r.Device != sender.DeviceDead || !strings.Contains(string(body), "errorCode")):
			t.Error("a token was dropped without FCM's word")
		case refused && r.Class != queue.ClassMisconfigured:
			t.Error("a refused access token is not that of the credentials")
		case len(r.Error) > queue.MaxErrorText || !utf8.ValidString(r.Error) || strings.ContainsAny(r.Error, "\n\r\x00"):
			t.Errorf("the text %q", r.Error)
		}
	})
}
