package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/egress"
	"herald/queue"
	"herald/store"
)

// trip is a transport made of a function.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// saying makes an answer.
func saying(r *http.Request, status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{
		StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(body)),
	}
}

// issuer is a transport behind which tokens.test gives out tokens, tok-1 being the first, and every other
// host is a receiver.
type issuer struct {
	issued  atomic.Int64
	answer  func(n int64, r *http.Request) (*http.Response, error) // nil: tok-n for an hour
	receive func(token string) int                                 // nil: 204
	mu      sync.Mutex
	used    []string // the tokens of the pushes
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == "tokens.test" {
		n := i.issued.Add(1)
		if i.answer != nil {
			return i.answer(n, r)
		}
		return saying(r, 200, fmt.Sprintf(`{"access_token":"tok-%d","token_type":"Bearer","expires_in":3600}`, n)), nil
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	i.mu.Lock()
	i.used = append(i.used, token)
	i.mu.Unlock()
	status := 204
	if i.receive != nil {
		status = i.receive(token)
	}
	return saying(r, status, ""), nil
}

const clientSecret = "client-secret-in-hiding"

func oauth2Subscription() *store.Subscription {
	sub := subscription("http://hooks.test/unlisted")
	sub.Authentication = store.Authentication{
		Type: store.AuthOAuth2, TokenURL: "http://tokens.test/token?tenant=in-hiding", ClientID: "client", ClientSecret: clientSecret, Scopes: "push read",
	}
	return sub
}

// within sends one push with a timeout.
func within(t *testing.T, s *Sender, sub *store.Subscription, timeout time.Duration) queue.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	out := s.Send(ctx, sub, push())
	for _, leak := range []string{clientSecret, "in-hiding", "tok-", "unlisted", "context deadline", "Get \"", "Post \""} {
		if strings.Contains(out.Error, leak) || strings.Contains(string(out.Response), leak) {
			t.Errorf("the outcome shows %q: %s %s", leak, out.Error, out.Response)
		}
	}
	return out
}

func TestTokenRequest(t *testing.T) {
	t.Parallel()
	var asked *http.Request
	var form url.Values
	s := newSender(t, trip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Hostname() != "tokens.test" {
			return saying(r, 204, ""), nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		asked = r
		form, err = url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		return saying(r, 200, `{"access_token":"tok-1","token_type":"bearer"}`), nil
	}))
	for _, scopes := range []string{"push a+b&c", ""} {
		sub := oauth2Subscription()
		sub.Authentication.ClientID, sub.Authentication.ClientSecret, sub.Authentication.Scopes = "me:you", "a b%+&=:ü/", scopes
		before := *sub
		if out := within(t, s, sub, time.Second); out.Class != queue.ClassDelivered {
			t.Fatalf("%+v", out)
		}
		if before.Authentication != sub.Authentication {
			t.Error("the subscription was changed")
		}
		credentials, ok := strings.CutPrefix(asked.Header.Get("Authorization"), "Basic ")
		raw, err := base64.StdEncoding.DecodeString(credentials)
		id, secret, colon := strings.Cut(string(raw), ":")
		gotID, idErr := url.QueryUnescape(id)
		gotSecret, secretErr := url.QueryUnescape(secret)
		if !ok || err != nil || !colon || errors.Join(idErr, secretErr) != nil || gotID != "me:you" || gotSecret != "a b%+&=:ü/" || strings.Contains(secret, ":") {
			t.Errorf("the client authenticates by %q", raw)
		}
		if asked.Method != "POST" || asked.URL.RawQuery != "tenant=in-hiding" || asked.Header.Get("Content-Type") != "application/x-www-form-urlencoded" ||
			asked.Header.Get("Accept") != "application/json" || asked.Header.Get("User-Agent") != "Herald/test" {
			t.Errorf("the request is %s %s %v", asked.Method, asked.URL, asked.Header)
		}
		if _, there := form["scope"]; form.Get("grant_type") != "client_credentials" || form.Get("scope") != scopes || there != (scopes != "") {
			t.Errorf("the form is %v", form)
		}
		for name := range asked.Header {
			if strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "Herald-") {
				t.Errorf("the token endpoint is told %s", name)
			}
		}
	}
}

func TestTokenIsKeptUntilShortlyBeforeItsEnd(t *testing.T) {
	t.Parallel()
	for expires, life := range map[string]time.Duration{
		`,"expires_in":3600`:                     time.Hour - 30*time.Second,
		`,"expires_in":"3600"`:                   time.Hour - 30*time.Second,
		`,"expires_in":60.0`:                     45 * time.Second,
		`,"expires_in":1`:                        750 * time.Millisecond,
		``:                                       270 * time.Second,
		`,"expires_in":null`:                     270 * time.Second,
		`,"expires_in":0`:                        270 * time.Second,
		`,"expires_in":-7`:                       270 * time.Second,
		`,"expires_in":"soon"`:                   270 * time.Second,
		`,"expires_in":"NaN"`:                    270 * time.Second,
		`,"expires_in":{"a":[]}`:                 270 * time.Second,
		`,"expires_in":9223372036854775807`:      24*time.Hour - 30*time.Second,
		`,"expires_in":1e400`:                    24*time.Hour - 30*time.Second,
		`,"expires_in":120,"refresh_token":"no"`: 90 * time.Second,
	} {
		t.Run(expires, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: func(n int64, r *http.Request) (*http.Response, error) {
					return saying(r, 200, fmt.Sprintf(`{"access_token":"tok-%d","token_type":"Bearer"%s}`, n, expires)), nil
				}}
				s, sub := newSender(t, i), oauth2Subscription()
				for _, step := range []struct {
					wait time.Duration
					want int64
				}{{0, 1}, {life / 2, 1}, {life - life/2 - time.Millisecond, 1}, {time.Millisecond, 2}, {life - time.Millisecond, 2}, {time.Millisecond, 3}} {
					time.Sleep(step.wait)
					if out := within(t, s, sub, 15*time.Second); out.Class != queue.ClassDelivered {
						t.Fatalf("%+v", out)
					}
					if n := i.issued.Load(); n != step.want {
						t.Fatalf("%v later %d tokens were asked for, want %d", step.wait, n, step.want)
					}
				}
				if got := strings.Join(i.used, " "); got != "tok-1 tok-1 tok-1 tok-2 tok-2 tok-3" {
					t.Errorf("the pushes carried %s", got)
				}
			})
		})
	}
}

// together makes n attempts at once and returns their outcomes.
func together(t *testing.T, s *Sender, sub *store.Subscription, n int, timeout time.Duration) []queue.Outcome {
	t.Helper()
	outs := make([]queue.Outcome, n)
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() { outs[k] = within(t, s, sub, timeout) })
	}
	wg.Wait()
	return outs
}

func TestTokenIsFetchedOnceForMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.answer = func(n int64, r *http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			return saying(r, 200, fmt.Sprintf(`{"access_token":"tok-%d","token_type":"Bearer","expires_in":100}`, n)), nil
		}
		s, sub := newSender(t, i), oauth2Subscription()
		for round := range 3 {
			for _, out := range together(t, s, sub, 64, 15*time.Second) {
				if out.Class != queue.ClassDelivered {
					t.Fatalf("%+v", out)
				}
			}
			if n := i.issued.Load(); n != int64(round+1) {
				t.Fatalf("%d tokens were asked for in round %d", n, round)
			}
			// Its life began when it was asked for, two seconds before it came.
			time.Sleep(73*time.Second - time.Millisecond)
			if within(t, s, sub, 15*time.Second); i.issued.Load() != int64(round+1) {
				t.Fatalf("a token of 100 s is used for less than 75 s")
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func TestTokenIsThatOfItsCredentials(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	s := newSender(t, i)
	change := []func(a *store.Authentication){
		func(*store.Authentication) {},
		func(a *store.Authentication) { a.TokenURL = "http://tokens.test/other" },
		func(a *store.Authentication) { a.ClientID = "other" },
		func(a *store.Authentication) { a.ClientSecret = "other-secret" },
		func(a *store.Authentication) { a.Scopes = "push" },
		func(a *store.Authentication) { a.ClientID, a.ClientSecret = "clien", "t"+clientSecret },
	}
	for range 2 {
		for _, f := range change {
			sub := oauth2Subscription()
			f(&sub.Authentication)
			within(t, s, sub, time.Second)
		}
	}
	// Another subscription shares the token of the same credentials.
	other := oauth2Subscription()
	other.ID, other.DataCallbackURL = store.SubscriptionID{9}, "http://elsewhere.test/"
	within(t, s, other, time.Second)
	if n := i.issued.Load(); n != int64(len(change)) {
		t.Errorf("%d tokens for %d credentials", n, len(change))
	}
	if got := strings.Join(i.used, " "); got != "tok-1 tok-2 tok-3 tok-4 tok-5 tok-6 tok-1 tok-2 tok-3 tok-4 tok-5 tok-6 tok-1" {
		t.Errorf("the pushes carried %s", got)
	}
}

func TestRefusedTokenIsDropped(t *testing.T) {
	t.Parallel()
	i := &issuer{receive: func(token string) int {
		if token == "tok-1" {
			return http.StatusUnauthorized
		}
		return http.StatusForbidden
	}}
	s, sub := newSender(t, i), oauth2Subscription()
	for k, want := range []struct {
		status int
		issued int64
	}{{401, 1}, {403, 2}, {403, 2}} { // 403 is no word about the token
		if out := within(t, s, sub, time.Second); out.Status != want.status || i.issued.Load() != want.issued || out.Class != queue.ClassRetry {
			t.Errorf("attempt %d: %+v after %d tokens", k+1, out, i.issued.Load())
		}
	}
	// A late 401 to a token that was replaced meanwhile does not cost the new one.
	s.grants.drop(credentialsOf(&sub.Authentication), "tok-1")
	if within(t, s, sub, time.Second); i.issued.Load() != 2 {
		t.Error("the answer to an old token dropped the new one")
	}
	// Other authentication has no token to drop.
	plain := subscription("http://hooks.test/")
	plain.Authentication = store.Authentication{Type: store.AuthBearer, Token: "tok-1"}
	if out := within(t, s, plain, time.Second); out.Status != 401 {
		t.Errorf("%+v", out)
	}
}

func TestTokenEndpointThatFailsIsHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.answer = func(n int64, r *http.Request) (*http.Response, error) {
			switch {
			case n <= 2:
				return saying(r, 500, `{"error":"`+clientSecret+`"}`), nil
			case n == 3:
				return saying(r, 503, "", "Retry-After", "20"), nil
			case n == 4:
				return saying(r, 429, "", "Retry-After", "86400"), nil
			}
			return saying(r, 200, `{"access_token":"tok-9","token_type":"Bearer"}`), nil
		}
		s, sub := newSender(t, i), oauth2Subscription()
		all := func(calls int64, text string, after time.Duration) {
			t.Helper()
			for _, out := range together(t, s, sub, 64, 15*time.Second) {
				if out.Class != queue.ClassRetry || out.Status != 0 || out.Error != text || out.RetryAfter != after {
					t.Fatalf("%+v, want %q and %v", out, text, after)
				}
			}
			if n := i.issued.Load(); n != calls {
				t.Fatalf("%d calls of the endpoint, want %d", n, calls)
			}
		}
		all(1, "no access token: the token endpoint answered 500 Internal Server Error", 0)
		time.Sleep(999 * time.Millisecond)
		all(1, "no access token: the token endpoint answered 500 Internal Server Error", 0)
		// Other credentials are not held back for it.
		other := oauth2Subscription()
		other.Authentication.ClientID = "other"
		if within(t, s, other, time.Second); i.issued.Load() != 2 {
			t.Errorf("%d calls", i.issued.Load())
		}
		time.Sleep(time.Millisecond)
		all(3, "no access token: the token endpoint answered 503 Service Unavailable", 20*time.Second)
		time.Sleep(15 * time.Second)
		all(3, "no access token: the token endpoint answered 503 Service Unavailable", 5*time.Second)
		time.Sleep(5 * time.Second)
		all(4, "no access token: the token endpoint answered 429 Too Many Requests", 24*time.Hour)
		time.Sleep(time.Minute) // no endpoint keeps itself shut for longer
		if out := within(t, s, sub, time.Second); out.Class != queue.ClassDelivered || len(i.used) != 1 {
			t.Errorf("%+v", out)
		}
	})
}

// A hanging endpoint is called by one attempt at a time, and none takes longer than it may.
func TestHangingTokenEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: func(_ int64, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}}
		s, sub := newSender(t, i), oauth2Subscription()
		began := time.Now()
		for _, out := range together(t, s, sub, 64, 4*time.Second) {
			if out.Class != queue.ClassRetry || !strings.HasPrefix(out.Error, "no access token: the token endpoint ") || !strings.HasSuffix(out.Error, " within 3s") {
				t.Fatalf("%+v", out)
			}
		}
		if took := time.Since(began); took != 3*time.Second || i.issued.Load() != 1 {
			t.Errorf("64 attempts took %v and %d calls", took, i.issued.Load())
		}
		// Who has more patience is not bound by that.
		began = time.Now()
		if out := within(t, s, sub, time.Minute); time.Since(began) != 10*time.Second || i.issued.Load() != 2 || !strings.HasSuffix(out.Error, " within 10s") {
			t.Errorf("%v: %+v", time.Since(began), out)
		}
		// Who has less is, and other subscriptions do not notice any of it.
		began = time.Now()
		if out := within(t, s, sub, time.Second); time.Since(began) != 0 || i.issued.Load() != 2 || out.Class != queue.ClassRetry {
			t.Errorf("%v: %+v", time.Since(began), out)
		}
		time.Sleep(time.Minute)
		var wg sync.WaitGroup
		wg.Go(func() { together(t, s, sub, 64, 15*time.Second) })
		synctest.Wait()
		began = time.Now()
		if out := within(t, s, subscription("http://hooks.test/"), time.Second); out.Class != queue.ClassDelivered || time.Since(began) != 0 {
			t.Errorf("a subscription beside it: %+v", out)
		}
		wg.Wait()
	})
}

// An attempt that waits for another's call is not lost when that one is broken off.
func TestTokenFetchSurvivesItsFetcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.answer = func(n int64, r *http.Request) (*http.Response, error) {
			if n == 1 {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return saying(r, 200, `{"access_token":"tok-2","token_type":"Bearer"}`), nil
		}
		s, sub := newSender(t, i), oauth2Subscription()
		first, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if out := s.Send(first, sub, push()); out.Class != queue.ClassRetry || !strings.Contains(out.Error, "the daemon stops") {
				t.Errorf("%+v", out)
			}
		})
		synctest.Wait()
		second, stopSecond := context.WithCancel(t.Context())
		wg.Go(func() {
			if out := s.Send(second, sub, push()); out.Class != queue.ClassRetry || !strings.Contains(out.Error, "the daemon stops") {
				t.Errorf("%+v", out)
			}
		})
		wg.Go(func() {
			if out := within(t, s, sub, 15*time.Second); out.Class != queue.ClassDelivered {
				t.Errorf("%+v", out)
			}
		})
		synctest.Wait()
		stopSecond()
		synctest.Wait()
		stop()
		wg.Wait()
	})
}

func TestTokenEndpointAnswers(t *testing.T) {
	t.Parallel()
	const long = 9000
	for name, c := range map[string]struct {
		status int
		body   string
		class  queue.Class
		text   string // after the common beginning
	}{
		"invalid client":        {401, `{"error":"invalid_client","error_description":"` + clientSecret + `"}`, queue.ClassMisconfigured, "the token endpoint refused the client id and secret (invalid_client)"},
		"invalid client by 400": {400, `{"error":"invalid_client"}`, queue.ClassMisconfigured, "the token endpoint refused the client id and secret (invalid_client)"},
		"invalid scope":         {400, `{"error":"invalid_scope"}`, queue.ClassMisconfigured, "the token endpoint refused the scopes (invalid_scope)"},
		"unauthorized client":   {400, `{"error":"unauthorized_client"}`, queue.ClassMisconfigured, "the token endpoint does not allow this client the client credentials grant (unauthorized_client)"},
		"unsupported grant":     {400, `{"error":"unsupported_grant_type"}`, queue.ClassMisconfigured, "the token endpoint does not know the client credentials grant (unsupported_grant_type)"},
		"invalid request":       {400, `{"error":"invalid_request"}`, queue.ClassMisconfigured, "the token endpoint refused the request (invalid_request)"},
		"401 without words":     {401, `no`, queue.ClassMisconfigured, "the token endpoint refused the client id and secret (401 Unauthorized)"},
		"unknown code":          {400, `{"error":"` + clientSecret + `"}`, queue.ClassRetry, "the token endpoint answered 400 Bad Request"},
		"code of another type":  {400, `{"error":["invalid_client"]}`, queue.ClassRetry, "the token endpoint answered 400 Bad Request"},
		"not found":             {404, ``, queue.ClassRetry, "the token endpoint answered 404 Not Found"},
		"failure with a code":   {500, `{"error":"invalid_client"}`, queue.ClassRetry, "the token endpoint answered 500 Internal Server Error"},
		"redirect":              {302, ``, queue.ClassRetry, "the token endpoint answered 302 Found; redirects are not followed, so the token URL has to name the final address"},
		"empty":                 {200, ``, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"no content":            {204, ``, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"a page":                {200, `<html>`, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"an array":              {200, `[]`, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"a number as token":     {200, `{"access_token":7}`, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"two tokens":            {200, `{"access_token":"tok-1","access_token":"tok-2"}`, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"something after it":    {200, `{"access_token":"tok-1"} tok-2`, queue.ClassRetry, "the token endpoint's answer is not the JSON object it should be"},
		"no token":              {200, `{"error":"invalid_client"}`, queue.ClassRetry, "the token endpoint's answer has no access_token"},
		"an empty token":        {200, `{"access_token":"","token_type":"Bearer"}`, queue.ClassRetry, "the token endpoint's answer has no access_token"},
		"a header in the token": {200, `{"access_token":"tok-1\r\nX-Evil: 1","token_type":"Bearer"}`, queue.ClassRetry, "the token endpoint's access_token cannot be sent: it must be printable ASCII of at most 8192 bytes"},
		"a long token":          {200, `{"access_token":"` + strings.Repeat("x", long) + `","token_type":"Bearer"}`, queue.ClassRetry, "the token endpoint's access_token cannot be sent: it must be printable ASCII of at most 8192 bytes"},
		"another type of token": {200, `{"access_token":"tok-1","token_type":"mac"}`, queue.ClassRetry, "the token endpoint's token_type is not Bearer, the only one that can be sent"},
		"a large answer":        {200, `{"access_token":"tok-1","x":"` + strings.Repeat("x", 64<<10) + `"}`, queue.ClassRetry, "the token endpoint's answer is larger than 65536 bytes"},
		"a large refusal":       {400, `{"error":"invalid_client","x":"` + strings.Repeat("x", 64<<10) + `"}`, queue.ClassRetry, "the token endpoint's answer is larger than 65536 bytes"},
		"bearer in small":       {200, `{"access_token":"tok-1","token_type":"bearer"}`, queue.ClassDelivered, ""},
		"no type":               {201, `{"access_token":"tok-1"}`, queue.ClassDelivered, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := &issuer{answer: func(_ int64, r *http.Request) (*http.Response, error) {
				return saying(r, c.status, c.body, "Location", "http://elsewhere.test/tok-in-hiding"), nil
			}}
			s, sub := newSender(t, i), oauth2Subscription()
			out := within(t, s, sub, 10*time.Second)
			want := "no access token: " + c.text
			if c.text == "" {
				want = ""
			}
			if out.Class != c.class || out.Error != want || (out.Status == 204) != (c.class == queue.ClassDelivered) {
				t.Errorf("%+v, want %s and %q", out, c.class, want)
			}
			if pushes := len(i.used); (pushes == 1) != (c.class == queue.ClassDelivered) {
				t.Errorf("%d pushes", pushes)
			}
		})
	}
}

// endless is a body without an end that counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

func (e *endless) Close() error { return nil }

func TestTokenAnswerIsReadToALimit(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 500} {
		body := &endless{}
		i := &issuer{answer: func(_ int64, r *http.Request) (*http.Response, error) {
			resp := saying(r, status, "")
			resp.Body, resp.ContentLength = body, -1
			return resp, nil
		}}
		out := within(t, newSender(t, i), oauth2Subscription(), 10*time.Second)
		if !strings.Contains(out.Error, "larger than 65536 bytes") || body.read > maxTokenBody+1 {
			t.Errorf("after %d bytes of the answer %d: %+v", body.read, status, out)
		}
	}
}

// Token endpoints over the network, each broken in its own way.
func TestHostileTokenEndpoints(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	for name, c := range map[string]struct {
		handle func(net.Conn)
		text   string
	}{
		"hangs":                   {hang, " within "},
		"resets":                  {reset, "the token endpoint reset the connection"},
		"breaks off":              {thenClosing(head + "Content-Length: 100\r\n\r\n{\"access"), "the token endpoint's answer broke off"},
		"floods with a body":      {flooding(head+"\r\n", strings.Repeat(" ", 1000), 0), "the token endpoint's answer is larger than 65536 bytes"},
		"floods with headers":     {flooding(head, "X-A: "+strings.Repeat("y", 1000)+"\r\n", 0), "headers are too large"},
		"dribbles":                {flooding(head+"\r\n", " ", 20*time.Millisecond), "did not finish within 1.5s"},
		"speaks something else":   {thenClosing("220 mail.test ESMTP\r\n"), "the token endpoint's answer is not valid HTTP"},
		"closes without a word":   {thenClosing(""), "the token endpoint closed the connection before it answered"},
		"does not speak TLS":      {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); hang(c) }, "the token endpoint does not speak TLS on this port (the token URL begins with https)"},
		"nobody listens on there": {nil, "the token endpoint refused the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scheme, address := "http", unusedAddress(t)
			if c.handle != nil {
				address, _ = listen(t, c.handle)
			}
			if name == "does not speak TLS" {
				scheme = "https"
			}
			s, sub := newSender(t, transport(t)), oauth2Subscription()
			sub.Authentication.TokenURL = scheme + "://" + address + "/token-in-hiding"
			began := time.Now()
			out := within(t, s, sub, 2*time.Second)
			if out.Class != queue.ClassRetry || !strings.HasPrefix(out.Error, "no access token: ") || !strings.Contains(out.Error, c.text) || strings.Contains(out.Error, "receiver") {
				t.Errorf("%+v, want %q", out, c.text)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestTokenEndpointBehindThePolicy(t *testing.T) {
	t.Parallel()
	way, err := egress.New(egress.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, sub := newSender(t, way.Transport()), oauth2Subscription()
	sub.Authentication.TokenURL = "http://127.0.0.1:8421/token"
	out := within(t, s, sub, 5*time.Second)
	if out.Class != queue.ClassRetry || !strings.Contains(out.Error, "no access token: the way out is closed by the operator's policy: 127.0.0.1:8421") || !strings.Contains(out.Error, "egress.allow_networks") {
		t.Errorf("%+v", out)
	}
	sub.Authentication.TokenURL = "nowhere"
	if out := within(t, s, sub, 5*time.Second); out.Class != queue.ClassMisconfigured || !strings.Contains(out.Error, "token URL") {
		t.Errorf("%+v", out)
	}
}

func TestTokensTakeBoundedRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		s, kept := newSender(t, i), oauth2Subscription()
		for k := range 3 * maxGrants {
			sub := oauth2Subscription()
			sub.Authentication.ClientID = fmt.Sprint("client-", k)
			within(t, s, sub, time.Second)
			within(t, s, kept, time.Second)
			time.Sleep(time.Millisecond)
			if n := len(s.grants.all); n > maxGrants {
				t.Fatalf("%d credentials are remembered", n)
			}
		}
		if n := i.issued.Load(); n != 3*maxGrants+1 {
			t.Errorf("%d tokens were asked for: the one in use was forgotten", n)
		}
		time.Sleep(time.Hour) // all have expired
		sub := oauth2Subscription()
		sub.Authentication.ClientID = "late"
		if within(t, s, sub, time.Second); len(s.grants.all) != 1 {
			t.Errorf("%d credentials are remembered when all but one have expired", len(s.grants.all))
		}
	})
}

func TestTokenIsMasked(t *testing.T) {
	t.Parallel()
	s := newSender(t, trip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Hostname() == "tokens.test" {
			return saying(r, 200, `{"access_token":"tok-123456","token_type":"Bearer"}`), nil
		}
		return saying(r, 400, "you sent "+r.Header.Get("Authorization")+" and know "+clientSecret), nil
	}))
	if out := within(t, s, oauth2Subscription(), time.Second); string(out.Response) != "you sent Bearer <secret> and know <secret>" {
		t.Errorf("the answer is kept as %q", out.Response)
	}
}

// A want of this machine is the operator's to know, whoever the call was for.
func TestTokenWantIsLogged(t *testing.T) {
	t.Parallel()
	s := newSender(t, trip(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
	}))
	out := within(t, s, oauth2Subscription(), time.Second)
	if !strings.Contains(out.Error, "file descriptors") || s.complained.Load() == 0 {
		t.Errorf("%+v", out)
	}
}

func FuzzToken(f *testing.F) {
	for _, seed := range []string{`{"access_token":"a","token_type":"Bearer","expires_in":3600}`, `{"access_token":"a","expires_in":"1e9"}`, `{}`, `{"access_token":"a\u0000"}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var life time.Duration
		token, failure := granted(body, &life)
		switch {
		case failure != nil:
			if token != "" || failure.text == "" {
				t.Errorf("%q and %+v", token, failure)
			}
		case token == "" || len(token) > maxToken || !validValue(token) || life <= 0 || life > maxTokenLife:
			t.Errorf("the token %q for %v", token, life)
		}
	})
}
