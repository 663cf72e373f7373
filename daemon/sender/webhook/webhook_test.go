package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"herald/queue"
	"herald/store"
)

var (
	keyA = bytes.Repeat([]byte("a"), 24)
	keyB = []byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr")
)

// transport has the limits that the real way out brings.
func transport(t testing.TB) *http.Transport {
	t.Helper()
	tr := &http.Transport{
		MaxIdleConnsPerHost:    128,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        90 * time.Second,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func newSender(t testing.TB, rt http.RoundTripper) *Sender {
	t.Helper()
	s, err := New(Options{Transport: rt, UserAgent: "Herald/test"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func subscription(url string) *store.Subscription {
	return &store.Subscription{
		ID: store.SubscriptionID{1, 2, 3}, AccountID: "default", DataCallbackURL: url,
		ExportFormat: "application/json", NumberOfRecords: 1, Payload: store.PayloadEnvelope,
		Method: http.MethodPost, State: store.StateActive,
		SigningSecrets: []store.SigningSecret{{Key: keyA}},
	}
}

func event() *queue.Event {
	return &queue.Event{
		ID: "evt_1", AccountID: "default", Type: "task.create", Resource: "project/proj1",
		Time: time.Date(2026, 11, 21, 10, 20, 30, 123456789, time.UTC),
		Data: []byte(`{ "n":1.0,"text":"\u00e9ä<>" }`),
	}
}

func push(e ...*queue.Event) queue.Push {
	if len(e) == 0 {
		e = []*queue.Event{event()}
	}
	return queue.Push{ID: e[0].ID, Events: e, Attempt: 3}
}

// seen is a request as a receiver saw it.
type seen struct {
	Method, Query, Path, Host string
	Header                    http.Header
	Body                      []byte
}

// receiver answers 204 and hands on what it sees.
func receiver(t testing.TB) (*httptest.Server, <-chan seen) {
	t.Helper()
	got := make(chan seen, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read body: %v", err)
		}
		got <- seen{r.Method, r.URL.RawQuery, r.URL.EscapedPath(), r.Host, r.Header, body}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	return srv, got
}

func deliver(t *testing.T, s *Sender, sub *store.Subscription, p queue.Push, got <-chan seen) seen {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out := s.Send(ctx, sub, p)
	if out.Class != queue.ClassDelivered || out.Status != http.StatusNoContent || out.Error != "" {
		t.Fatalf("outcome %+v, want delivered", out)
	}
	if out.StartedAt.IsZero() || out.StartedAt.Location() != time.UTC || out.Duration <= 0 {
		t.Errorf("times of the outcome: %v %v", out.StartedAt, out.Duration)
	}
	return <-got
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"no transport":   {UserAgent: "x"},
		"no user agent":  {Transport: http.DefaultTransport},
		"bad user agent": {Transport: http.DefaultTransport, UserAgent: "x\ny"},
	} {
		if s, err := New(o); err == nil || s != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Every combination of method, payload form, secrets and authentication arrives whole, and its
// signature satisfies the independent library.
func TestEveryCombinationIsVerified(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"access_token":"to.ken","token_type":"Bearer"}`)
	}))
	t.Cleanup(tokens.Close)
	s := newSender(t, transport(t))
	secrets := map[string][]store.SigningSecret{
		"none": nil,
		"one":  {{Key: keyA}},
		"two":  {{Key: keyA}, {Key: keyB, ExpiresAt: time.Now().Add(time.Hour)}},
		"old":  {{Key: keyA}, {Key: keyB, ExpiresAt: time.Now().Add(-time.Second)}},
	}
	auths := []store.Authentication{
		{},
		{Type: store.AuthBearer, Token: "to.ken"},
		{Type: store.AuthBasic, Username: "üser", Password: "p:w"},
		{Type: store.AuthHeader, Name: "x-api-key", Value: "v al"},
		{Type: store.AuthQuery, Name: "key&", Value: "a b&c=d"},
		{Type: store.AuthOAuth2, TokenURL: tokens.URL, ClientID: "client", ClientSecret: "secret"},
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodGet} {
		for _, form := range []store.PayloadForm{store.PayloadEnvelope, store.PayloadData} {
			for name, keys := range secrets {
				for _, auth := range auths {
					sub := subscription(srv.URL + "/hook%2Fx?keep=%7e&a=1")
					sub.Method, sub.Payload, sub.SigningSecrets, sub.Authentication = method, form, keys, auth
					r := deliver(t, s, sub, push(), got)
					label := method + " " + string(form) + " " + name + " " + string(auth.Type)
					checkRequest(t, label, sub, r)
					checkSignature(t, label, name, r)
				}
			}
		}
	}
}

func checkRequest(t *testing.T, label string, sub *store.Subscription, r seen) {
	t.Helper()
	want := map[string]string{
		"Webhook-Id": "evt_1", "User-Agent": "Herald/test", "Herald-Attempt": "3",
		"Herald-Subscription": sub.ID.String(), "Content-Type": "application/json",
	}
	query := "keep=%7e&a=1"
	body := ""
	switch {
	case sub.Method == http.MethodGet:
		delete(want, "Content-Type")
		query += "&id=evt_1&type=task.create&resource=project%2Fproj1"
	case sub.Payload == store.PayloadData:
		body = string(event().Data)
	default:
		body = `{"id":"evt_1","type":"task.create","resource":"project/proj1","time":"2026-11-21T10:20:30.123456789Z",` +
			`"accountId":"default","data":` + string(event().Data) + `}`
	}
	switch a := sub.Authentication; a.Type {
	case store.AuthBearer, store.AuthOAuth2:
		want["Authorization"] = "Bearer to.ken"
	case store.AuthBasic:
		want["Authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte("üser:p:w"))
	case store.AuthHeader:
		want["X-Api-Key"] = a.Value
	case store.AuthQuery:
		query += "&key%26=a+b%26c%3Dd"
	case store.AuthNone:
	}
	for k, v := range want {
		if got := r.Header.Values(k); !slices.Equal(got, []string{v}) {
			t.Errorf("%s: header %s is %q, want %q", label, k, got, v)
		}
	}
	allowed := []string{"Accept-Encoding", "Content-Length", "Webhook-Timestamp", "Webhook-Signature"}
	for k := range r.Header {
		if _, ok := want[k]; !ok && !slices.Contains(allowed, k) {
			t.Errorf("%s: unexpected header %s: %q", label, k, r.Header[k])
		}
	}
	if r.Method != sub.Method || r.Path != "/hook%2Fx" || r.Query != query || string(r.Body) != body {
		t.Errorf("%s: got %s %s?%s %q\nwant %s ?%s %q", label, r.Method, r.Path, r.Query, r.Body, sub.Method, query, body)
	}
	stamp, err := strconv.ParseInt(r.Header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(stamp, 0)).Abs() > time.Minute {
		t.Errorf("%s: timestamp %q", label, r.Header.Get("Webhook-Timestamp"))
	}
}

func checkSignature(t *testing.T, label, name string, r seen) {
	t.Helper()
	count := map[string]int{"none": 0, "one": 1, "two": 2, "old": 1}[name]
	if got := len(strings.Fields(r.Header.Get("Webhook-Signature"))); got != count {
		t.Errorf("%s: %d signatures, want %d", label, got, count)
	}
	if count == 0 {
		return
	}
	for i, key := range [][]byte{keyA, keyB} {
		hook, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(key))
		if err != nil {
			t.Fatal(err)
		}
		err = hook.Verify(r.Body, r.Header)
		if valid := err == nil; valid != (i < count) {
			t.Errorf("%s: key %d: %v", label, i, err)
		}
		if hook.Verify(append(r.Body, ' '), r.Header) == nil {
			t.Errorf("%s: another body is accepted", label)
		}
	}
}

// The vector that the Standard Webhooks libraries are tested with.
func TestSignatureVector(t *testing.T) {
	t.Parallel()
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	at := time.Unix(1614265330, 0)
	got := signatures([]store.SigningSecret{{Key: key}}, at, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// A secret signs up to its expiry and not at it.
func TestSecretExpiresExactly(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	keys := []store.SigningSecret{{Key: keyA, ExpiresAt: at}}
	if signatures(keys, at.Add(-1), "i", "1", nil) == "" {
		t.Error("does not sign a nanosecond before it expires")
	}
	if signatures(keys, at, "i", "1", nil) != "" {
		t.Error("still signs when it has expired")
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	plain := event()
	bare := event()
	bare.Resource, bare.Time = "", time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	odd := event()
	odd.ID, odd.AccountID = "a\"\\\u2028ä\x01\xff", "acc/ö"
	for _, e := range []*queue.Event{plain, bare, odd} {
		sub := subscription("http://x")
		body := record(sub, &queue.Push{Events: []*queue.Event{e}})
		var got struct {
			ID, Type, AccountID string
			Resource            *string
			Time                time.Time
			Data                json.RawMessage
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if got.ID != strings.ToValidUTF8(e.ID, "\ufffd") || got.Type != e.Type || got.AccountID != e.AccountID ||
			(got.Resource == nil) != (e.Resource == "") || !got.Time.Equal(e.Time) || !bytes.Contains(body, append([]byte(`"data":`), e.Data...)) {
			t.Errorf("wrong envelope: %s", body)
		}
	}
	if body := record(subscription("http://x"), &queue.Push{Events: []*queue.Event{bare}}); !bytes.Contains(body, []byte(`"2026-01-02T02:04:05Z"`)) {
		t.Errorf("the time is not in UTC: %s", body)
	}
	sub := subscription("http://x")
	sub.NumberOfRecords, sub.Payload = 5, store.PayloadData
	if got := string(record(sub, &queue.Push{Events: []*queue.Event{{Data: []byte(`{"a":1}`)}}})); got != `{"numberOfRecords":1,"records":[{"a":1}]}` {
		t.Errorf("one of several: %s", got)
	}
	if got := string(record(sub, &queue.Push{Events: []*queue.Event{{Data: []byte(`{}`)}, {Data: []byte(`{"b":2}`)}}})); got != `{"numberOfRecords":2,"records":[{},{"b":2}]}` {
		t.Errorf("two of several: %s", got)
	}
	sub.Payload = store.PayloadEnvelope
	if body := record(sub, &queue.Push{Events: []*queue.Event{plain, odd}}); !json.Valid(body) {
		t.Errorf("not valid: %s", body)
	}
}

// What cannot be sent is said to be, and nothing goes out.
func TestUnsendable(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t)
	s := newSender(t, transport(t))
	for name, c := range map[string]struct {
		change func(*store.Subscription, *queue.Push)
		class  queue.Class
	}{
		"id empty":         {func(_ *store.Subscription, p *queue.Push) { p.ID = "" }, queue.ClassRejected},
		"id line break":    {func(_ *store.Subscription, p *queue.Push) { p.ID = "a\r\nX: y" }, queue.ClassRejected},
		"id space":         {func(_ *store.Subscription, p *queue.Push) { p.ID = "a " }, queue.ClassRejected},
		"url relative":     {func(s *store.Subscription, _ *queue.Push) { s.DataCallbackURL = "/secret" }, queue.ClassMisconfigured},
		"url scheme":       {func(s *store.Subscription, _ *queue.Push) { s.DataCallbackURL = "ftp://secret/" }, queue.ClassMisconfigured},
		"url broken":       {func(s *store.Subscription, _ *queue.Push) { s.DataCallbackURL = "http://a b/secret" }, queue.ClassMisconfigured},
		"method":           {func(s *store.Subscription, _ *queue.Push) { s.Method = "PATCH" }, queue.ClassMisconfigured},
		"format":           {func(s *store.Subscription, _ *queue.Push) { s.ExportFormat = "text/csv" }, queue.ClassMisconfigured},
		"get of several":   {func(s *store.Subscription, p *queue.Push) { s.Method = "GET"; p.Events = append(p.Events, event()) }, queue.ClassMisconfigured},
		"bearer break":     {auth(store.Authentication{Type: store.AuthBearer, Token: "secret\n"}), queue.ClassMisconfigured},
		"basic colon":      {auth(store.Authentication{Type: store.AuthBasic, Username: "a:b", Password: "secret"}), queue.ClassMisconfigured},
		"header name":      {auth(store.Authentication{Type: store.AuthHeader, Name: "a b", Value: "secret"}), queue.ClassMisconfigured},
		"header no name":   {auth(store.Authentication{Type: store.AuthHeader, Value: "secret"}), queue.ClassMisconfigured},
		"header reserved":  {auth(store.Authentication{Type: store.AuthHeader, Name: "content-length", Value: "1"}), queue.ClassMisconfigured},
		"header of ours":   {auth(store.Authentication{Type: store.AuthHeader, Name: "webhook-signature", Value: "secret"}), queue.ClassMisconfigured},
		"header value":     {auth(store.Authentication{Type: store.AuthHeader, Name: "a", Value: "secret\x00"}), queue.ClassMisconfigured},
		"unknown auth":     {auth(store.Authentication{Type: "oauth9", Token: "secret"}), queue.ClassMisconfigured},
		"header of spaces": {auth(store.Authentication{Type: store.AuthHeader, Name: "a", Value: " secret"}), queue.ClassMisconfigured},
	} {
		sub, p := subscription(srv.URL), push()
		c.change(sub, &p)
		out := s.Send(t.Context(), sub, p)
		if out.Class != c.class || out.Status != 0 || out.Error == "" || strings.Contains(out.Error, "secret") {
			t.Errorf("%s: %+v", name, out)
		}
	}
	select {
	case r := <-got:
		t.Errorf("something was sent: %+v", r)
	default:
	}
}

func auth(a store.Authentication) func(*store.Subscription, *queue.Push) {
	return func(s *store.Subscription, _ *queue.Push) { s.Authentication = a }
}

func FuzzEnvelope(f *testing.F) {
	f.Add("evt", "default", "project/1")
	f.Add("\"\\\n\x00\xff\u2028", "", "")
	f.Fuzz(func(t *testing.T, id, account, resource string) {
		body := appendEnvelope(nil, &queue.Event{ID: id, AccountID: account, Resource: resource, Data: []byte(`{}`)})
		var got struct{ ID, AccountID, Resource string }
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		// encoding/json replaces each bad byte by itself, as the envelope does.
		if got.ID != utf8Of(id) || got.AccountID != utf8Of(account) || got.Resource != utf8Of(resource) {
			t.Errorf("%q: %+v", body, got)
		}
	})
}

func utf8Of(s string) string { return string([]rune(s)) }
