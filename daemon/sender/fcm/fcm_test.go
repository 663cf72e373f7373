package fcm

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"herald/daemon/sender"
	"herald/daemon/standin"
	"herald/queue"
	"herald/store"
)

func start(t testing.TB, o standin.FCMOptions) *standin.FCM {
	t.Helper()
	if o.Keep == 0 {
		o.Keep = 10_000
	}
	if o.Schema == nil {
		schema, err := os.ReadFile("../../standin/testdata/fcm-api.json")
		if err != nil {
			t.Fatal(err)
		}
		o.Schema = schema
	}
	f, err := standin.NewFCM(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// trusting makes transports as those of package egress are, without a policy.
func trusting(f *standin.FCM) func() *http.Transport {
	pool := f.Pool()
	return func() *http.Transport {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
		return &http.Transport{
			TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
			Protocols:          protocols,
			DisableCompression: true,
			IdleConnTimeout:    time.Minute,
		}
	}
}

func newSender(t testing.TB, f *standin.FCM, o Options) *Sender {
	t.Helper()
	o.Transport, o.URL, o.UserAgent = trusting(f), f.URL(), "Herald/test"
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// keyOf reads a key file.
func keyOf(t testing.TB, file []byte) *store.FCM {
	t.Helper()
	var k struct {
		ProjectID  string `json:"project_id"`
		KeyID      string `json:"private_key_id"`
		PrivateKey string `json:"private_key"`
		Email      string `json:"client_email"`
		TokenURI   string `json:"token_uri"`
	}
	if err := json.Unmarshal(file, &k); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(k.PrivateKey))
	return &store.FCM{ProjectID: k.ProjectID, ClientEmail: k.Email, TokenURI: k.TokenURI, KeyID: k.KeyID, PrivateKey: block.Bytes}
}

func hello(t testing.TB, p store.Platform) []byte {
	t.Helper()
	b, err := Render(&store.Notification{
		Title: map[string]string{"en": "Hello"}, Text: map[string]string{"en": "World"}, Data: map[string]string{"k": "v"}, TTL: time.Hour,
	}, p, "")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const device = "device-token:APA91b_1234567890"

func noFaults(t testing.TB, f *standin.FCM) {
	t.Helper()
	for _, fault := range f.Faults() {
		t.Error("fault: " + fault)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	message := hello(t, store.PlatformAndroid)
	before := time.Now()
	for _, c := range []struct {
		to       Target
		validate bool
	}{{Target{Token: device}, false}, {Target{Token: "cXyZ0123456789abcdefgh", FID: true}, false}, {Target{Token: `"quoted\` + "\n"}, false}, {Target{Token: "only-checked"}, true}} {
		r := s.Send(t.Context(), "a/b/1", key, c.to, message, c.validate)
		if r.Class != queue.ClassDelivered || r.Status != 200 || r.Error != "" || r.Device != sender.DeviceSeen || r.StartedAt.Before(before) || r.Duration <= 0 ||
			!strings.HasPrefix(r.MessageID, "projects/standin/messages/") || !bytes.Contains(r.Response, []byte(r.MessageID)) {
			t.Fatalf("%+v", r)
		}
		got := f.Requests()
		last := got[len(got)-1]
		if last.Device != c.to.Token || last.FID != c.to.FID || last.ValidateOnly != c.validate || last.Header.Get("User-Agent") != "Herald/test" {
			t.Errorf("%+v arrived as %+v", c, last)
		}
	}
	if f.Taken() != 3 || f.Minted() != 1 {
		t.Errorf("%d taken with %d access tokens", f.Taken(), f.Minted())
	}
	if string(message) != string(hello(t, store.PlatformAndroid)) {
		t.Error("the message was changed")
	}
	noFaults(t, f)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	made := func() *http.Transport { return &http.Transport{} }
	for _, o := range []Options{
		{},
		{Transport: made, Connections: -1},
		{Transport: made, URL: "fcm.googleapis.com"},
		{Transport: made, URL: "ftp://x"},
		{Transport: made, URL: "https://user@x"},
		{Transport: made, URL: "https://x?y"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	s, err := New(Options{Transport: made, URL: "https://x/fcm/"})
	if err != nil || s.base.String() != "https://x/fcm/" {
		t.Errorf("%v, %v", s, err)
	}
	s, err = New(Options{Transport: made})
	if err != nil || s.base.String() != DefaultURL+"/" || s.connections != DefaultConnections {
		t.Errorf("%v, %v", s, err)
	}
}

func TestWhatCannotBeSent(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	bad := *key
	bad.PrivateKey = []byte("no key")
	for _, c := range []struct {
		key     *store.FCM
		message string
		class   queue.Class
		says    string
	}{
		{nil, "{}", queue.ClassMisconfigured, "no service account"},
		{&store.FCM{}, "{}", queue.ClassMisconfigured, "no service account"},
		{&bad, "{}", queue.ClassMisconfigured, "must be an RSA key"},
		{key, "", queue.ClassRejected, "not one that can be sent"},
		{key, "[]", queue.ClassRejected, "not one that can be sent"},
	} {
		if r := s.Send(t.Context(), "o", c.key, Target{Token: device}, []byte(c.message), false); r.Class != c.class || !strings.Contains(r.Error, c.says) {
			t.Errorf("%q: %+v", c.message, r)
		}
	}
	if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassDelivered {
		t.Errorf("an empty message: %+v", r)
	}
	s.Close()
	if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassRetry {
		t.Errorf("after Close: %+v", r)
	}
	noFaults(t, f)
}

// However many are under way, they go over a fixed number of connections, and with one access token.
func TestConnectionsStayWithinTheirNumber(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{Latency: 50 * time.Millisecond, Streams: 100})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	message := hello(t, store.PlatformAndroid)
	var wg sync.WaitGroup
	for n := range 1000 {
		wg.Go(func() {
			if r := s.Send(t.Context(), "o", key, Target{Token: device + strconv.Itoa(n)}, message, false); r.Class != queue.ClassDelivered {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	if c := f.Connections(); c > DefaultConnections {
		t.Errorf("%d connections", c)
	}
	if f.Minted() != 1 || f.Taken() != 1000 || len(f.Sent()) != 1000 {
		t.Errorf("%d access tokens, %d messages to %d devices", f.Minted(), f.Taken(), len(f.Sent()))
	}
	noFaults(t, f)
}

func TestOwnersShareNothing(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{Connections: 1}), keyOf(t, f.ServiceAccount())
	send := func(owner string) {
		t.Helper()
		if r := s.Send(t.Context(), owner, key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassDelivered {
			t.Fatalf("%+v", r)
		}
	}
	check := func(when string, n int) {
		t.Helper()
		if f.Connections() != n || f.Minted() != n {
			t.Errorf("%s: %d connections, %d access tokens, want %d of each", when, f.Connections(), f.Minted(), n)
		}
	}
	send("a")
	send("a")
	check("one owner", 1)
	send("b")
	check("two", 2)
	s.Forget("a")
	s.Forget("nobody")
	send("b")
	check("one forgotten", 2)
	send("a")
	check("it came again", 3)
}

// A server that wants to see no more requests on a connection costs none.
func TestGoAwayLosesNothing(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{Latency: 5 * time.Millisecond})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	var wg sync.WaitGroup
	var delivered, retried atomic.Int64
	for worker := range 20 {
		wg.Go(func() {
			for n := range 50 {
				if n == 20 && worker%4 == 0 {
					f.Next(2, standin.Behaviour{GoAway: true})
				}
				switch r := s.Send(t.Context(), "o", key, Target{Token: device + strconv.Itoa(worker*50+n)}, []byte("{}"), false); r.Class {
				case queue.ClassDelivered:
					delivered.Add(1)
				case queue.ClassRetry:
					retried.Add(1)
				default:
					t.Errorf("%+v", r)
				}
			}
		})
	}
	wg.Wait()
	if delivered.Load()+retried.Load() != 1000 || int64(f.Taken()) < delivered.Load() || f.Connections() <= DefaultConnections {
		t.Errorf("%d delivered, %d to be tried again, %d taken, over %d connections", delivered.Load(), retried.Load(), f.Taken(), f.Connections())
	}
	if retried.Load() > 0 {
		t.Logf("%d sends have to be tried again", retried.Load())
	}
	noFaults(t, f)
}

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	slow := standin.FCMError("UNREGISTERED")
	slow.Pause = 200 * time.Millisecond
	huge := standin.Behaviour{Status: 500, Body: strings.Repeat("x", 200<<10)}
	for _, c := range []struct {
		name  string
		b     standin.Behaviour
		class queue.Class
		says  string
	}{
		{"a connection that is cut", standin.Behaviour{Cut: true}, queue.ClassRetry, "FCM closed the connection before it answered"},
		{"no answer", standin.Behaviour{Hang: true}, queue.ClassRetry, "FCM did not answer within"},
		{"a huge body", huge, queue.ClassRetry, "FCM answered 500 Internal Server Error"},
		// The status alone does not say that the token is dead.
		{"a body that stalls", slow, queue.ClassMisconfigured, "FCM answered 404 Not Found (NOT_FOUND)"},
		{"a body that stalls after success", standin.Behaviour{Status: 200, Body: strings.Repeat(" ", 1000), Pause: 200 * time.Millisecond}, queue.ClassDelivered, ""},
	} {
		// The first also makes a new connection, and its access token stays.
		if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassDelivered {
			t.Fatalf("%+v", r)
		}
		f.Next(1, c.b)
		ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
		if c.b.Hang {
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		}
		started := time.Now()
		r := s.Send(ctx, "o", key, Target{Token: device}, []byte("{}"), false)
		cancel()
		if r.Class != c.class || !strings.HasPrefix(r.Error, c.says) || len(r.Response) > queue.MaxResponse || r.Device == sender.DeviceDead {
			t.Errorf("%s: %+v", c.name, r)
		}
		if took := time.Since(started); took > 1800*time.Millisecond {
			t.Errorf("%s: took %s", c.name, took)
		}
		f.Reset()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := s.Send(ctx, "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassRetry || r.Error != sender.BrokenOff {
		t.Errorf("%+v", r)
	}
	f.Close()
	if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassRetry || !strings.Contains(r.Error, "FCM") {
		t.Errorf("a server that is gone: %+v", r)
	}
}

// What an answer repeats of the request is not kept, and nothing is logged.
func TestNothingSecretIsKept(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	var log bytes.Buffer
	s, key := newSender(t, f, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}), keyOf(t, f.ServiceAccount())
	if r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassDelivered {
		t.Fatalf("%+v", r)
	}
	bearer := strings.TrimPrefix(f.Requests()[0].Header.Get("Authorization"), "Bearer ")
	f.Next(1, standin.Behaviour{Status: 400, Body: `{"error":{"message":"` + device + ` with ` + bearer + `"}}`})
	r := s.Send(t.Context(), "o", key, Target{Token: device}, []byte("{}"), false)
	text := r.Error + string(r.Response) + log.String()
	if r.Class != queue.ClassRejected || strings.Contains(text, device) || strings.Contains(text, bearer) || !strings.Contains(r.Error, "<token> with <secret>") {
		t.Errorf("%+v %s", r, log.String())
	}
}

func TestDescribeKnowsThePolicyAndTLS(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, err := New(Options{Transport: func() *http.Transport { return &http.Transport{} }, URL: f.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := s.Send(t.Context(), "o", keyOf(t, f.ServiceAccount()), Target{Token: device}, []byte("{}"), false)
	if r.Class != queue.ClassRetry || r.Error != "no access token: the certificate of 127.0.0.1 is not signed by an authority that is trusted here (egress.ca_file adds one)" {
		t.Errorf("%+v", r)
	}
}

// BenchmarkSend is a whole attempt over loopback; the stand-in's share is in it.
func BenchmarkSend(b *testing.B) {
	f, err := standin.NewFCM(standin.FCMOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(f.Close)
	s, key := newSender(b, f, Options{}), keyOf(b, f.ServiceAccount())
	message := hello(b, store.PlatformAndroid)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r := s.Send(b.Context(), "o", key, Target{Token: device}, message, false); r.Class != queue.ClassDelivered {
				b.Errorf("%+v", r)
				return
			}
		}
	})
	if faults := f.Faults(); len(slices.Compact(faults)) > 0 {
		b.Error(faults)
	}
}
