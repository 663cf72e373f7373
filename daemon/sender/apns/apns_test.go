package apns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon/sender"
	"herald/daemon/standin"
	"herald/queue"
	"herald/store"
)

const (
	pushID = "0198c0de-0000-7000-8000-000000000001"
	device = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	topic  = "com.example.app"
)

// world is a sender and the stand-in it sends to.
type world struct {
	*Sender
	apns *standin.APNs
	key  *store.APNs
}

func newWorld(t testing.TB, o standin.APNsOptions) *world {
	t.Helper()
	a, err := standin.NewAPNs(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	s := newSender(t, a.URL(), a.CA())
	k := a.Key()
	key := &store.APNs{Key: k.DER, KeyID: k.KeyID, TeamID: k.TeamID, Topic: topic}
	if o.Certificate {
		key = &store.APNs{Chain: k.Chain, CertificateKey: k.CertificateKey, Topic: topic}
	}
	return &world{s, a, key}
}

func newSender(t testing.TB, url string, ca []byte) *Sender {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	s, err := New(Options{URL: url, UserAgent: "Herald/test", Transport: func() *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func push() Push {
	return Push{
		ID: pushID, Token: device, Payload: []byte(`{"aps":{"alert":"x"}}`), Headers: Headers{PushType: "alert", Priority: 10},
		ExpiresAt: time.Unix(1_800_000_000, 0),
	}
}

func (w *world) send(t testing.TB, p Push) sender.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return w.Send(ctx, "default/app/ios", w.key, p)
}

func TestSend(t *testing.T) {
	t.Parallel()
	for _, certificate := range []bool{false, true} {
		w := newWorld(t, standin.APNsOptions{Topic: topic, Certificate: certificate, Sandbox: true})
		p := push()
		p.Headers.CollapseID = "score"
		r := w.send(t, p)
		if r.Class != queue.ClassDelivered || r.Status != 200 || r.MessageID != pushID || r.Device != sender.DeviceSeen || r.Error != "" ||
			!strings.HasPrefix(string(r.Response), `{"apns-id":"`+pushID+`","apns-unique-id":"`) || r.StartedAt.IsZero() || r.Duration <= 0 {
			t.Fatalf("%+v %s", r, r.Response)
		}
		got, _ := w.apns.Last(device)
		for name, want := range map[string]string{
			"Apns-Id": pushID, "Apns-Topic": topic, "Apns-Push-Type": "alert", "Apns-Priority": "10", "Apns-Expiration": "1800000000",
			"Apns-Collapse-Id": "score", "User-Agent": "Herald/test", "Content-Length": "21", "Content-Encoding": "",
		} {
			if g := got.Header.Get(name); g != want {
				t.Errorf("%s is %q, want %q", name, g, want)
			}
		}
		if has := got.Header.Get("Authorization") != ""; has == certificate {
			t.Errorf("certificate: %v, authorization: %v", certificate, has)
		}
		if string(got.Payload) != string(p.Payload) {
			t.Errorf("the payload is %s", got.Payload)
		}

		p.ExpiresAt, p.Token, p.Headers = time.Time{}, "AB12", Headers{PushType: "voip", Priority: 5, TopicSuffix: ".voip"}
		if r := w.send(t, p); r.Class != queue.ClassDelivered {
			t.Fatalf("%+v", r)
		}
		got, _ = w.apns.Last("AB12")
		if e := got.Header["Apns-Expiration"]; !slices.Equal(e, []string{"0"}) {
			t.Errorf("now or never has the expiration %q", e)
		}
		if g := got.Header.Get("Apns-Topic"); g != topic+".voip" {
			t.Errorf("the topic is %q", g)
		}
		if _, has := got.Header["Apns-Collapse-Id"]; has {
			t.Error("without a collapse key there is an apns-collapse-id")
		}
		if f := w.apns.Faults(); len(f) > 0 {
			t.Errorf("faults: %q", f)
		}
	}
}

// A token that could not be one of APNs goes nowhere: it would become a part of the path.
func TestTokenThatIsNotHexadecimal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{})
	for _, token := range []string{"", "xyz", "../x", "ab/cd", "ab?cd", "ab%20", "ab cd", "é"} {
		p := push()
		p.Token = token
		r := w.send(t, p)
		if r.Class != queue.ClassGone || r.Device != sender.DeviceDead || r.Reason != sender.ReasonUnregistered || r.Status != 0 || !r.Innocent || r.Error == "" {
			t.Errorf("%q: %+v", token, r)
		}
	}
	if n := w.apns.Stats().Requests; n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

// Each line of the table in Apple's "Handling notification responses from APNs", and what comes in none of its words.
func TestReactions(t *testing.T) {
	t.Parallel()
	const (
		retry, rejected, gone, misconfigured = queue.ClassRetry, queue.ClassRejected, queue.ClassGone, queue.ClassMisconfigured
		unregistered                         = sender.ReasonUnregistered
	)
	died := time.UnixMilli(1_790_000_000_123).UTC()
	w := newWorld(t, standin.APNsOptions{})
	for _, c := range []struct {
		status   int
		reason   string
		class    queue.Class
		why      string
		device   sender.DeviceFate
		wait     time.Duration
		innocent bool
		requests int
	}{
		{400, "BadDeviceToken", gone, unregistered, sender.DeviceElsewhere, 0, true, 1},
		{400, "DeviceTokenNotForTopic", rejected, unregistered, sender.DeviceForeign, 0, true, 1},
		{400, "BadCollapseId", rejected, "", 0, 0, true, 1},
		{400, "BadExpirationDate", rejected, "", 0, 0, true, 1},
		{400, "BadMessageId", rejected, "", 0, 0, true, 1},
		{400, "BadPriority", rejected, "", 0, 0, true, 1},
		{400, "InvalidPushType", rejected, "", 0, 0, true, 1},
		{400, "PayloadEmpty", rejected, "", 0, 0, true, 1},
		{400, "DuplicateHeaders", rejected, "", 0, 0, true, 1},
		{400, "MissingDeviceToken", rejected, "", 0, 0, true, 1},
		{400, "BadTopic", misconfigured, "", 0, 0, false, 1},
		{400, "MissingTopic", misconfigured, "", 0, 0, false, 1},
		{400, "TopicDisallowed", misconfigured, "", 0, 0, false, 1},
		{400, "IdleTimeout", retry, "", 0, 0, false, 2},
		{403, "ExpiredProviderToken", misconfigured, "", 0, 0, false, 2},
		{403, "InvalidProviderToken", misconfigured, "", 0, 0, false, 1},
		{403, "MissingProviderToken", misconfigured, "", 0, 0, false, 1},
		{403, "BadCertificate", misconfigured, "", 0, 0, false, 1},
		{403, "BadCertificateEnvironment", misconfigured, "", 0, 0, false, 1},
		{403, "BadEnvironmentKeyIdInToken", misconfigured, "", 0, 0, false, 1},
		{403, "BadEnvironmentKeyInToken", misconfigured, "", 0, 0, false, 1},
		{403, "UnrelatedKeyIdInToken", retry, "", 0, 0, false, 2},
		{403, "Forbidden", rejected, "", 0, 0, true, 1},
		{404, "BadPath", rejected, "", 0, 0, true, 1},
		{405, "MethodNotAllowed", rejected, "", 0, 0, true, 1},
		{410, "Unregistered", gone, unregistered, sender.DeviceDead, 0, true, 1},
		{410, "ExpiredToken", gone, unregistered, sender.DeviceDead, 0, true, 1},
		{413, "PayloadTooLarge", rejected, sender.ReasonTooLarge, 0, 0, true, 1},
		{429, "TooManyRequests", retry, "", sender.DeviceThrottled, time.Minute, true, 1},
		{429, "TooManyProviderTokenUpdates", retry, "", 0, time.Minute, false, 1},
		{500, "InternalServerError", retry, "", 0, 15 * time.Minute, false, 1},
		{503, "ServiceUnavailable", retry, "", 0, 15 * time.Minute, false, 1},
		{503, "Shutdown", retry, "", 0, 15 * time.Minute, false, 1},
		// The status decides where the reason is not known, or is another's.
		{400, "SomethingNew", rejected, "", 0, 0, true, 1},
		{400, "BadEnvironmentKeyIdInToken", misconfigured, "", 0, 0, false, 1},
		{403, "SomethingNew", misconfigured, "", 0, 0, false, 1},
		{403, "", misconfigured, "", 0, 0, false, 1},
		{403, "BadDeviceToken", misconfigured, "", 0, 0, false, 1},
		{404, "Unregistered", rejected, "", 0, 0, true, 1},
		{410, "", gone, unregistered, sender.DeviceDead, 0, true, 1},
		{413, "", rejected, sender.ReasonTooLarge, 0, 0, true, 1},
		{418, "", rejected, "", 0, 0, true, 1},
		{429, "", retry, "", 0, time.Minute, false, 1},
		{500, "Unregistered", retry, "", 0, 15 * time.Minute, false, 1},
		{500, "BadTopic", retry, "", 0, 15 * time.Minute, false, 1},
		{502, "", retry, "", 0, 15 * time.Minute, false, 1},
		{204, "", retry, "", 0, 0, false, 1},
		{301, "", retry, "", 0, 0, false, 1},
	} {
		w.Forget("default/app/ios")
		before := w.apns.Stats().Requests
		w.apns.Answer(device, c.requests, standin.APNsAnswer{Status: c.status, Reason: c.reason, Timestamp: died})
		r := w.send(t, push())
		if r.Class != c.class || r.Status != c.status || r.Reason != c.why || r.Device != c.device || r.Wait != c.wait ||
			r.Innocent != c.innocent || r.RetryAfter != 0 || r.MessageID != "" {
			t.Errorf("%d %s: %+v", c.status, c.reason, r)
		}
		if want := c.device == sender.DeviceDead; r.DeadSince.IsZero() == want || want && !r.DeadSince.Equal(died) {
			t.Errorf("%d %s: the device is dead since %s", c.status, c.reason, r.DeadSince)
		}
		if _, known := reactions[c.reason]; known && !strings.Contains(r.Error, c.reason) || r.Error == "" || strings.Contains(r.Error, device) {
			t.Errorf("%d %s: the error is %q", c.status, c.reason, r.Error)
		}
		if n := w.apns.Stats().Requests - before; n != c.requests {
			t.Errorf("%d %s: %d requests, want %d", c.status, c.reason, n, c.requests)
		}
	}
	if f := w.apns.Faults(); len(f) > 0 {
		t.Errorf("faults: %q", f)
	}
}

// What is cured by a second request at once is delivered by it.
func TestSecondRequestCures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		reason string
	}{{400, "IdleTimeout"}, {403, "UnrelatedKeyIdInToken"}, {403, "ExpiredProviderToken"}} {
		w := newWorld(t, standin.APNsOptions{})
		w.apns.Answer("", 1, standin.APNsAnswer{Status: c.status, Reason: c.reason})
		if r := w.send(t, push()); r.Class != queue.ClassDelivered {
			t.Errorf("%s: %+v", c.reason, r)
		}
		s := w.apns.Stats()
		connections, updates := 2, 0
		if c.reason == "ExpiredProviderToken" {
			connections, updates = 1, 1
		}
		if s.Requests != 2 || s.Connections != connections || s.TokenUpdates != updates {
			t.Errorf("%s: %+v", c.reason, s)
		}
		if f := w.apns.Faults(); len(f) > 0 {
			t.Errorf("%s: faults: %q", c.reason, f)
		}
	}
}

// However many are told that the key is another than that of the connection, the connections are renewed once.
func TestManyRenewOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{Latency: 20 * time.Millisecond})
	w.send(t, push())
	w.apns.Answer("", 100, standin.APNsAnswer{Status: 403, Reason: "UnrelatedKeyIdInToken"})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r := w.send(t, push()); r.Class != queue.ClassDelivered && r.Class != queue.ClassRetry {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	if n := w.apns.Stats().Connections; n > 2*defaultConnections {
		t.Errorf("%d connections", n)
	}
}

func TestShutdownLeavesTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{})
	w.apns.Answer("", 1, standin.APNsAnswer{Status: 503, Reason: "Shutdown"})
	w.send(t, push())
	if r := w.send(t, push()); r.Class != queue.ClassDelivered {
		t.Errorf("%+v", r)
	}
	if n := w.apns.Stats().Connections; n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{})
	for _, c := range []struct {
		status               int
		reason, header       string
		wantWait, wantOthers time.Duration
	}{
		{429, "TooManyRequests", "120", 2 * time.Minute, 0},
		{429, "TooManyRequests", "5", time.Minute, 0},
		{503, "ServiceUnavailable", "30", 15 * time.Minute, 30 * time.Second},
		{503, "ServiceUnavailable", "1800", 30 * time.Minute, 30 * time.Minute},
		{503, "ServiceUnavailable", "99999999999999999999", 24 * time.Hour, 24 * time.Hour},
		{503, "ServiceUnavailable", "9223372036854775807", 24 * time.Hour, 24 * time.Hour},
		{503, "ServiceUnavailable", "-1", 15 * time.Minute, 0},
		{503, "ServiceUnavailable", "soon", 15 * time.Minute, 0},
		{503, "ServiceUnavailable", "Thu, 01 Jan 1970 00:00:00 GMT", 15 * time.Minute, 0},
		{503, "ServiceUnavailable", "Fri, 31 Dec 9999 23:59:59 GMT", 24 * time.Hour, 24 * time.Hour},
		{410, "Unregistered", "30", 0, 0},
	} {
		w.apns.Answer("", 1, standin.APNsAnswer{Status: c.status, Reason: c.reason, RetryAfter: c.header})
		if r := w.send(t, push()); r.Wait != c.wantWait || r.RetryAfter != c.wantOthers {
			t.Errorf("%s %s: waits %s and the others %s", c.reason, c.header, r.Wait, r.RetryAfter)
		}
	}
}

func TestNetworkTrouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{})
	check := func(what string, r sender.Result, words string) {
		t.Helper()
		if r.Class != queue.ClassRetry || r.Status != 0 || r.Innocent || r.Device != sender.DeviceUnknown || !strings.HasPrefix(r.Error, words) {
			t.Errorf("%s: %+v", what, r)
		}
	}
	w.apns.Answer("", 1, standin.APNsAnswer{Cut: true})
	check("cut", w.send(t, push()), "APNs closed the connection before it answered")
	w.apns.Answer("", 1, standin.APNsAnswer{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	check("hang", w.Send(ctx, "default/app/ios", w.key, push()), "APNs did not answer within ")
	cancel()
	check("stopping", w.Send(ctx, "default/app/ios", w.key, push()), "APNs did not answer within ")
	stranger := newSender(t, w.apns.URL(), nil)
	check("unknown authority", stranger.Send(t.Context(), "a", w.key, push()), "the certificate of 127.0.0.1 is not signed by an authority that is trusted here (egress.ca_file adds one)")
	w.apns.Close()
	w.Forget("default/app/ios")
	check("nobody there", w.send(t, push()), "APNs refused the connection")
}

func TestUnusableCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{})
	for _, k := range []*store.APNs{{}, {Key: []byte("x")}, {Chain: "x", CertificateKey: []byte("x")}} {
		if r := w.Send(t.Context(), "a", k, push()); r.Class != queue.ClassMisconfigured || r.Error == "" {
			t.Errorf("%+v", r)
		}
	}
	for _, o := range []Options{{}, {Transport: w.transport, URL: "ftp://x"}, {Transport: w.transport, URL: "https://x/y"}, {Transport: w.transport, Connections: -1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// Owners and environments share neither connections nor anything else.
func TestOwnersAndEnvironmentsAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{})
	connections := func(want int, after string) {
		t.Helper()
		if n := w.apns.Stats().Connections; n != want {
			t.Fatalf("%d connections after %s, want %d", n, after, want)
		}
	}
	send := func(owner string, key *store.APNs, other bool) {
		t.Helper()
		p := push()
		p.OtherEnvironment = other
		if r := w.Send(t.Context(), owner, key, p); r.Class != queue.ClassDelivered {
			t.Fatalf("%+v", r)
		}
	}
	send("a", w.key, false)
	send("a", w.key, false)
	connections(1, "the same again")
	send("a", w.key, true)
	connections(2, "the other environment")
	send("b", w.key, false)
	connections(3, "another owner")
	copied := *w.key
	copied.Sandbox = true
	send("a", &copied, true)
	connections(3, "the same credentials with the other environment for their own")
	copied.Topic = "com.example.other"
	send("a", &copied, true)
	connections(4, "another topic")
	w.Forget("a")
	send("a", &copied, true)
	connections(5, "forgetting")
	w.mu.Lock()
	w.swept = time.Time{}
	w.apps["a"].used = time.Now().Add(-unused)
	w.mu.Unlock()
	send("b", w.key, false)
	w.mu.Lock()
	if _, kept := w.apps["a"]; kept || len(w.apps) != 1 {
		t.Error("what was not used for an hour is kept")
	}
	w.mu.Unlock()
}

// A thousand at a time take no more than the connections allowed, and none of these has more streams than APNs allows it.
func TestThousandAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{Latency: 200 * time.Millisecond})
	started := time.Now()
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			for range 3 {
				if r := w.send(t, push()); r.Class != queue.ClassDelivered {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	wg.Wait()
	s := w.apns.Stats()
	if s.Connections != defaultConnections || s.Overruns != 0 || s.Sent != 3000 || s.TokenUpdates != 0 {
		t.Errorf("%+v", s)
	}
	if s.Streams < 100 { // a slow machine does not come to 250 before the first are answered
		t.Errorf("there were never more than %d streams of a connection", s.Streams)
	}
	if f := w.apns.Faults(); len(f) > 0 {
		t.Errorf("faults: %q", f)
	}
	t.Logf("3,000 in %s, %+v", time.Since(started), s)
}

// A connection that goes away takes nothing with it that is under way.
func TestGoAwayMidStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{Latency: 30 * time.Millisecond})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if r := w.send(t, push()); r.Class != queue.ClassDelivered {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for range 3 {
		select {
		case <-time.After(150 * time.Millisecond):
		case <-done:
		}
		if err := w.apns.GoAway("Shutdown", false); err != nil {
			t.Error(err)
		}
	}
	<-done
	s := w.apns.Stats()
	if s.Sent != 1000 || s.Overruns != 0 {
		t.Errorf("%+v", s)
	}
	if s.Connections <= defaultConnections || s.Connections > 4*defaultConnections {
		t.Errorf("%d connections", s.Connections)
	}
	t.Logf("%+v", s)
}

// What a server that goes away has not looked at is sent again, within the limit of the new connection.
func TestGoAwayUnseen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, standin.APNsOptions{Latency: 300 * time.Millisecond})
	w.send(t, push())
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if r := w.send(t, push()); r.Class != queue.ClassDelivered {
				t.Errorf("%+v", r)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); w.apns.Stats().Streams < 20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not enough is under way: %+v", w.apns.Stats())
		}
	}
	if err := w.apns.GoAway("Shutdown", true); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if s := w.apns.Stats(); s.Sent != 201 || s.Overruns != 0 || s.Connections > 2*defaultConnections {
		t.Errorf("%+v", s)
	}
}

// The parser of answers takes whatever comes, and believes no time that is none.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"reason":"Unregistered","timestamp":1790000000123}`, `{"reason":"BadDeviceToken"}`, ``, `null`, `[]`, `{"timestamp":"x"}`, `{"reason":1}`,
		`{"reason":"Unregistered","timestamp":1e300}`, `{"reason":"Unregistered","timestamp":-1}`, `{"reason":"Unregistered","timestamp":9223372036854775807}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a := parse(body)
		if !a.since.IsZero() && (a.since.Year() < 1970 || a.since.Year() > 9999) {
			t.Errorf("%q: since %s", body, a.since)
		}
		for status := 200; status < 600; status++ {
			r := react(status, a.reason)
			if r.class == "" || r.text == "" || r.device == sender.DeviceDead != (status == 410) {
				t.Errorf("%d %q: %+v", status, body, r)
			}
			if words := words(status, a.reason, &r); len(words) > 200 {
				t.Errorf("%d %q: %q", status, body, words)
			}
		}
	})
}
