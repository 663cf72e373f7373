package webhook

import (
	"context"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"herald/queue"
	"herald/store"
)

const herald = "herald.example"

// asked makes one request for permission that is answered by the function.
func asked(t *testing.T, sub *store.Subscription, callback string, answer http.HandlerFunc) (queue.Outcome, int) {
	t.Helper()
	server := httptest.NewServer(answer)
	defer server.Close()
	sub.DataCallbackURL = server.URL + strings.TrimPrefix(sub.DataCallbackURL, "http://target.example")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return newSender(t, transport(t)).Ask(ctx, sub, queue.Push{ID: "val_1", Attempt: 2}, herald, callback)
}

func asking() *store.Subscription {
	s := subscription("http://target.example/in?x=1")
	s.ValidationKind = store.ValidationCloudEvents
	return s
}

// The request is an OPTIONS without content to the very URL, with the headers of section 4.1, authenticated and signed.
func TestAskSends(t *testing.T) {
	t.Parallel()
	sub := asking()
	sub.Delivery.RateLimit = 2.5
	sub.Authentication = store.Authentication{Type: store.AuthBearer, Token: "s3cret-token"}
	sub.Validation.Origin = "granted.before.example"
	var got *http.Request
	out, rate := asked(t, sub, "https://herald.example/cb?signature=1.x", func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err != nil || len(b) != 0 {
			t.Errorf("the request has the content %q", b)
		}
		got = r
		w.Header().Set("WebHook-Allowed-Origin", herald)
		w.Header().Set("WebHook-Allowed-Rate", "100")
	})
	if out.Class != queue.ClassDelivered || rate != 100 || out.Error != "" || out.Status != 200 || out.Duration <= 0 || out.StartedAt.IsZero() {
		t.Errorf("%+v, %d", out, rate)
	}
	if got.Method != "OPTIONS" || got.URL.String() != "/in?x=1" {
		t.Errorf("asked %s %s", got.Method, got.URL)
	}
	for name, want := range map[string]string{
		"WebHook-Request-Origin": herald, "WebHook-Request-Callback": "https://herald.example/cb?signature=1.x", "WebHook-Request-Rate": "150",
		"Authorization": "Bearer s3cret-token", "Webhook-Id": "val_1", "Herald-Attempt": "2", "Content-Type": "", "Content-Length": "",
		"User-Agent": "Herald/test",
	} {
		if v := got.Header.Values(name); strings.Join(v, "|") != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	w, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(keyA))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Verify(nil, got.Header); err != nil {
		t.Errorf("the request is not signed: %v", err)
	}
	if sub.Method != http.MethodPost {
		t.Error("the subscription was changed")
	}
	// Without a callback and a limit there are no headers of them.
	sub = asking()
	asked(t, sub, "", func(_ http.ResponseWriter, r *http.Request) { got = r })
	if got.Header["Webhook-Request-Callback"] != nil || got.Header["Webhook-Request-Rate"] != nil {
		t.Errorf("asked with %v", got.Header)
	}
}

func TestAskJudges(t *testing.T) {
	t.Parallel()
	type headers = map[string][]string
	for name, c := range map[string]struct {
		status  int
		headers headers
		limit   float64 // records a second
		class   queue.Class
		rate    int
		words   string
	}{
		"granted":                   {200, headers{"WebHook-Allowed-Origin": {herald}, "WebHook-Allowed-Rate": {"120"}}, 0, queue.ClassDelivered, 120, ""},
		"granted to all":            {200, headers{"WebHook-Allowed-Origin": {"*"}, "WebHook-Allowed-Rate": {"*"}}, 1, queue.ClassDelivered, 0, ""},
		"in capitals":               {200, headers{"WEBHOOK-ALLOWED-ORIGIN": {"Herald.Example"}, "webhook-allowed-rate": {" 7 "}}, 0, queue.ClassDelivered, 7, ""},
		"without content":           {204, headers{"WebHook-Allowed-Origin": {"*"}, "WebHook-Allowed-Rate": {"1"}}, 0, queue.ClassDelivered, 1, ""},
		"no word of the rate":       {200, headers{"WebHook-Allowed-Origin": {"*"}}, 0, queue.ClassDelivered, 0, ""},
		"the rate asked for":        {200, headers{"WebHook-Allowed-Origin": {"*"}}, 2, queue.ClassDelivered, 120, ""},
		"methods without POST":      {200, headers{"WebHook-Allowed-Origin": {"*"}, "Allow": {"GET"}}, 0, queue.ClassDelivered, 0, ""},
		"more than asked for":       {200, headers{"WebHook-Allowed-Origin": {"*"}, "WebHook-Allowed-Rate": {"600"}}, 2, queue.ClassDelivered, 600, ""},
		"not granted":               {200, headers{"Allow": {"POST"}}, 0, queue.ClassRetry, 0, "no WebHook-Allowed-Origin"},
		"only a rate":               {200, headers{"WebHook-Allowed-Rate": {"120"}}, 0, queue.ClassRetry, 0, "no WebHook-Allowed-Origin"},
		"answered to a browser":     {204, headers{"Access-Control-Allow-Origin": {"*"}}, 0, queue.ClassRetry, 0, "no WebHook-Allowed-Origin"},
		"another origin":            {200, headers{"WebHook-Allowed-Origin": {"evil.example"}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"a part of it":              {200, headers{"WebHook-Allowed-Origin": {"herald.exam"}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"a pattern":                 {200, headers{"WebHook-Allowed-Origin": {"*.example"}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"several origins":           {200, headers{"WebHook-Allowed-Origin": {"*", herald}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"origins in a list":         {200, headers{"WebHook-Allowed-Origin": {"*, " + herald}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"an empty origin":           {200, headers{"WebHook-Allowed-Origin": {""}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"a large origin":            {200, headers{"WebHook-Allowed-Origin": {strings.Repeat("x", 30<<10)}}, 0, queue.ClassRetry, 0, "must be herald.example or *"},
		"a rate of none":            {200, headers{"WebHook-Allowed-Origin": {"*"}, "WebHook-Allowed-Rate": {"0"}}, 0, queue.ClassRetry, 0, "WebHook-Allowed-Rate must be"},
		"a negative rate":           {200, headers{"WebHook-Allowed-Origin": {"*"}, "WebHook-Allowed-Rate": {"-5"}}, 0, queue.ClassRetry, 0, "WebHook-Allowed-Rate must be"},
		"a rate in words":           {200, headers{"WebHook-Allowed-Origin": {"*"}, "WebHook-Allowed-Rate": {"s3cret-token"}}, 0, queue.ClassRetry, 0, "WebHook-Allowed-Rate must be"},
		"headers beyond the bounds": {200, headers{"WebHook-Allowed-Origin": {"*"}, "X": {strings.Repeat("x", 70<<10)}}, 0, queue.ClassRetry, 0, "header"},
		"an error that grants":      {500, headers{"WebHook-Allowed-Origin": {"*"}}, 0, queue.ClassRetry, 0, "500"},
		"not a method":              {405, nil, 0, queue.ClassRetry, 0, "405"},
		"gone":                      {410, headers{"WebHook-Allowed-Origin": {"*"}}, 0, queue.ClassGone, 0, "410"},
		"a redirect that grants":    {302, headers{"WebHook-Allowed-Origin": {"*"}, "Location": {"/elsewhere"}}, 0, queue.ClassRetry, 0, "not followed"},
		"too many requests":         {429, headers{"WebHook-Allowed-Origin": {"*"}, "Retry-After": {"60"}}, 0, queue.ClassRetry, 0, "429"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := asking()
			sub.Delivery.RateLimit = c.limit
			requests := 0
			out, rate := asked(t, sub, "", func(w http.ResponseWriter, _ *http.Request) {
				requests++
				maps.Copy(w.Header(), c.headers)
				w.WriteHeader(c.status)
			})
			if out.Class != c.class || rate != c.rate || requests != 1 {
				t.Errorf("%+v at %d after %d requests", out, rate, requests)
			}
			if !strings.Contains(out.Error, c.words) || (c.words == "") != (out.Error == "") || strings.Contains(out.Error, "s3cret") || len(out.Error) > 300 {
				t.Errorf("the error is %.400q", out.Error)
			}
			if c.status == 429 && out.RetryAfter != time.Minute {
				t.Errorf("to come back in %v", out.RetryAfter)
			}
		})
	}
}

// An answer without an end, and a receiver that never answers, cost no more than a push.
func TestAskIsBounded(t *testing.T) {
	t.Parallel()
	out, _ := asked(t, asking(), "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WebHook-Allowed-Origin", "*")
		line := []byte(strings.Repeat("x", 1<<10))
		for r.Context().Err() == nil {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	})
	if out.Class != queue.ClassDelivered || len(out.Response) > queue.MaxResponse {
		t.Errorf("%v, %d bytes are kept", out.Class, len(out.Response))
	}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	sub := asking()
	sub.DataCallbackURL = server.URL
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if out, _ := newSender(t, transport(t)).Ask(ctx, sub, queue.Push{ID: "val_1", Attempt: 1}, herald, ""); out.Class != queue.ClassRetry || out.Error == "" {
		t.Errorf("of one that hangs: %+v", out)
	}
}

// Every push to who has granted permission names the origin that it was granted to (section 4.1.2), and no other push does.
func TestPushesNameTheOrigin(t *testing.T) {
	t.Parallel()
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	for _, kind := range []store.ValidationKind{store.ValidationConfirmation, store.ValidationCloudEvents} {
		sub := subscription(server.URL)
		sub.ValidationKind, sub.Validation.Origin = kind, herald
		if out := newSender(t, transport(t)).Send(t.Context(), sub, push()); out.Class != queue.ClassDelivered {
			t.Fatal(out)
		}
		want := map[store.ValidationKind]string{store.ValidationCloudEvents: herald}[kind]
		if v := got.Get("WebHook-Request-Origin"); v != want {
			t.Errorf("%q: the origin is %q", kind, v)
		}
	}
}

// FuzzPermission reads headers of any kind: only the origin or * grants, and no answer is repeated in the error.
func FuzzPermission(f *testing.F) {
	f.Add(herald, "120", false)
	f.Add("*", "*", true)
	f.Add("*.example", "0", false)
	f.Fuzz(func(t *testing.T, origin, rate string, twice bool) {
		h := http.Header{store.HeaderAllowedOrigin: {origin}, store.HeaderAllowedRate: {rate}}
		if twice {
			h.Add(store.HeaderAllowedOrigin, origin)
		}
		n, refusal := permission(h, herald, 60)
		if granted := refusal == ""; granted && (twice || origin != "*" && !strings.EqualFold(origin, herald)) || n < 0 || !granted && n != 0 {
			t.Errorf("%q at %q: %d, %q", origin, rate, n, refusal)
		}
		if refusal != "" && !slices.Contains(refusals, refusal) {
			t.Errorf("%q is none of ours", refusal)
		}
	})
}

// refusals are all texts there are.
var refusals = func() []string {
	var all []string
	for _, h := range []http.Header{
		{}, {store.HeaderAllowedOrigin: {"x"}}, {store.HeaderAllowedOrigin: {"*"}, store.HeaderAllowedRate: {"x"}},
	} {
		_, text := permission(h, herald, 0)
		all = append(all, text)
	}
	return all
}()
