package fcm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// google is a token endpoint and FCM in one, over pipes, which can be in a bubble of virtual time.
type google struct {
	minted  atomic.Int64
	token   atomic.Pointer[http.HandlerFunc] // answers for the token endpoint; nil: with the next token
	asked   chan *url.URL
	forms   chan url.Values
	bearers sync.Map
	conns   chan net.Conn
}

func (g *google) Accept() (net.Conn, error) {
	c, ok := <-g.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (g *google) Close() error   { return nil }
func (g *google) Addr() net.Addr { return &net.TCPAddr{} }

func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.HasSuffix(r.URL.Path, "messages:send") {
		g.bearers.Store(r.Header.Get("Authorization"), true)
		io.WriteString(w, `{"name":"projects/p/messages/1"}`)
		return
	}
	form, _ := url.ParseQuery(string(body))
	g.forms <- form
	g.asked <- r.URL
	if h := g.token.Load(); h != nil {
		(*h)(w, r)
		return
	}
	fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":3599,"token_type":"Bearer"}`, g.minted.Add(1))
}

func (g *google) answer(h http.HandlerFunc) {
	if h == nil {
		g.token.Store(nil)
		return
	}
	g.token.Store(&h)
}

// bubble runs f in a bubble with a Sender that speaks to a google.
func bubble(t *testing.T, f func(t *testing.T, s *Sender, g *google)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &google{asked: make(chan *url.URL, 100), forms: make(chan url.Values, 100), conns: make(chan net.Conn)}
		srv := &http.Server{Handler: g}
		go srv.Serve(g)
		s, err := New(Options{URL: "http://fcm.test", Transport: func() *http.Transport {
			return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				g.conns <- theirs
				return ours, nil
			}}
		}})
		if err != nil {
			t.Fatal(err)
		}
		f(t, s, g)
		s.Close()
		close(g.conns)
		srv.Close()
		synctest.Wait()
	})
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func rsaAccount(t *testing.T) *store.FCM {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	return &store.FCM{ProjectID: "p", ClientEmail: "a@p.iam.gserviceaccount.com", TokenURI: "https://oauth2.googleapis.com/token", KeyID: "k1", PrivateKey: der}
}

func sendNow(t *testing.T, s *Sender, key *store.FCM, want queue.Class) queue.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := s.Send(ctx, "o", key, Target{Token: device}, []byte("{}"), false)
	if r.Class != want {
		t.Errorf("%s, want %s: %s", r.Class, want, r.Error)
	}
	return r.Outcome
}

func TestTokenLife(t *testing.T) {
	key := rsaAccount(t)
	bubble(t, func(t *testing.T, s *Sender, g *google) {
		check := func(when string, minted int64) {
			t.Helper()
			sendNow(t, s, key, queue.ClassDelivered)
			if g.minted.Load() != minted {
				t.Errorf("%s: %d tokens, want %d", when, g.minted.Load(), minted)
			}
		}
		check("at first", 1)
		if u := <-g.asked; u.Path != "/token" {
			t.Errorf("a stand-in's tokens are asked for at %s", u)
		}
		time.Sleep(54*time.Minute + 58*time.Second)
		check("within its life", 1)
		time.Sleep(2 * time.Second)
		check("five minutes before its end", 2)
		other := *key
		other.KeyID = "k2"
		key = &other
		check("another key", 3)
		same := other
		key = &same
		check("the same key again", 3)
		// Whoever sends nothing for an hour has nothing; the sweep is made by the others.
		if r := s.Send(t.Context(), "other", key, Target{Token: device}, []byte("{}"), false); r.Class != queue.ClassDelivered {
			t.Fatalf("%+v", r)
		}
		time.Sleep(59 * time.Minute)
		_ = s.Send(t.Context(), "other", key, Target{Token: device}, []byte("{}"), false)
		s.mu.Lock()
		if len(s.owners) != 2 {
			t.Errorf("%d owners after 59 minutes", len(s.owners))
		}
		s.mu.Unlock()
		time.Sleep(time.Minute)
		_ = s.Send(t.Context(), "other", key, Target{Token: device}, []byte("{}"), false)
		s.mu.Lock()
		if len(s.owners) != 1 || s.owners["other"] == nil {
			t.Errorf("%d owners after an hour", len(s.owners))
		}
		s.mu.Unlock()
	})
}

func TestTokenIsAskedForOnce(t *testing.T) {
	key := rsaAccount(t)
	bubble(t, func(t *testing.T, s *Sender, g *google) {
		g.answer(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(3 * time.Second)
			g.answer(nil)
			fmt.Fprintf(w, `{"access_token":"slow","expires_in":3599}`)
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { sendNow(t, s, key, queue.ClassDelivered) })
		}
		// One with less time than the others ends by itself, and nothing for them.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		started := time.Now()
		r := s.Send(ctx, "o", key, Target{Token: device}, []byte("{}"), false)
		if r.Class != queue.ClassRetry || time.Since(started) != time.Second || !strings.Contains(r.Error, "did not answer in the time of the attempt") {
			t.Errorf("%+v after %s", r, time.Since(started))
		}
		wg.Wait()
		if n := len(g.forms); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if _, ok := g.bearers.Load("Bearer slow"); !ok {
			t.Error("the token was not used")
		}
	})
}

func TestTokenEndpointFails(t *testing.T) {
	key := rsaAccount(t)
	says := func(status int, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	bubble(t, func(t *testing.T, s *Sender, g *google) {
		for _, c := range []struct {
			name  string
			h     http.HandlerFunc
			class queue.Class
			says  string
			after time.Duration
		}{
			{"invalid grant", says(400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`), queue.ClassMisconfigured, "400 Bad Request invalid_grant: Invalid JWT Signature; the key of the service account was deleted", 0},
			{"invalid client", says(401, `{"error":"invalid_client"}`), queue.ClassMisconfigured, "invalid_client; the service account does not exist", 0},
			{"unauthorized", says(401, `{"error":"unauthorized_client"}`), queue.ClassMisconfigured, "unauthorized_client", 0},
			{"a page", says(404, `<html>`), queue.ClassMisconfigured, "404 Not Found", 0},
			{"too many", says(429, ``, "Retry-After", "30"), queue.ClassRetry, "429", 30 * time.Second},
			{"unavailable", says(503, ``, "Retry-After", "30"), queue.ClassRetry, "503", 30 * time.Second},
			{"failing", says(500, `{"error":"invalid_grant"}`), queue.ClassRetry, "500", 0},
			{"a redirect", says(302, ``, "Location", "http://fcm.test/x"), queue.ClassRetry, "302", 0},
			{"nonsense", says(200, `<html>`), queue.ClassRetry, "not the JSON object", 0},
			{"no token", says(200, `{"expires_in":3599}`), queue.ClassRetry, "no access_token", 0},
			{"a token with a line feed", says(200, `{"access_token":"a\nb","expires_in":3599}`), queue.ClassRetry, "no access_token", 0},
			{"no life", says(200, `{"access_token":"a"}`), queue.ClassRetry, "no expires_in", 0},
			{"a cut answer", says(200, `{}`, "Content-Length", "50"), queue.ClassRetry, "closed the connection", 0},
			{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, queue.ClassRetry, "did not answer within 10s", 0},
			{"an echo", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(400)
				f := <-g.forms
				g.forms <- f
				fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"got %s"}`, f.Get("assertion"))
			}, queue.ClassMisconfigured, "got <secret>;", 0},
		} {
			for len(g.forms) > 0 {
				<-g.forms
			}
			g.answer(c.h)
			out := sendNow(t, s, key, c.class)
			if !strings.HasPrefix(out.Error, "no access token: ") || !strings.Contains(out.Error, c.says) || out.RetryAfter != c.after || out.Status != 0 {
				t.Errorf("%s: %+v", c.name, out)
			}
			// The failure answers for the endpoint for a moment.
			sendNow(t, s, key, c.class)
			if len(g.forms) != 1 {
				t.Errorf("%s: asked %d times", c.name, len(g.forms))
			}
			time.Sleep(failureHold)
		}
		g.answer(nil)
		sendNow(t, s, key, queue.ClassDelivered)
	})
}

// Close ends a call that hangs, and all who wait for it.
func TestCloseEndsTheCallOfATokenEndpoint(t *testing.T) {
	key := rsaAccount(t)
	bubble(t, func(t *testing.T, s *Sender, g *google) {
		g.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		var wg sync.WaitGroup
		wg.Go(func() {
			if out := sendNow(t, s, key, queue.ClassRetry); !strings.Contains(out.Error, sender.BrokenOff) {
				t.Errorf("%+v", out)
			}
		})
		synctest.Wait()
		started := time.Now()
		s.Close()
		wg.Wait()
		if time.Since(started) != 0 {
			t.Errorf("took %s", time.Since(started))
		}
	})
}

func TestAssertion(t *testing.T) {
	key := rsaAccount(t)
	now := time.Unix(1_700_000_000, 0)
	text, err := assert(key, "https://oauth2.googleapis.com/token", now)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatal(text)
	}
	for i, want := range []string{
		`{"alg":"RS256","typ":"JWT","kid":"k1"}`,
		`{"iss":"a@p.iam.gserviceaccount.com","scope":"https://www.googleapis.com/auth/firebase.messaging","aud":"https://oauth2.googleapis.com/token","iat":1700000000,"exp":1700003600}`,
	} {
		if got, err := base64.RawURLEncoding.DecodeString(parts[i]); err != nil || string(got) != want || !json.Valid(got) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, sum[:], signature); err != nil {
		t.Error(err)
	}
}

// The key file says where tokens are asked for, but not anywhere.
func TestTokenURIIsPinned(t *testing.T) {
	t.Parallel()
	made := func() *http.Transport { return &http.Transport{} }
	own, _ := New(Options{Transport: made})
	other, _ := New(Options{Transport: made, URL: "https://127.0.0.1:9443"})
	for uri, want := range map[string][2]string{
		"https://oauth2.googleapis.com/token":             {"https://oauth2.googleapis.com/token", "https://127.0.0.1:9443/token"},
		"https://www.googleapis.com/oauth2/v4/token":      {"https://www.googleapis.com/oauth2/v4/token", "https://127.0.0.1:9443/token"},
		"https://oauth2.googleapis.com:443/token":         {"https://oauth2.googleapis.com:443/token", "https://127.0.0.1:9443/token"},
		"http://oauth2.googleapis.com/token":              {"", "https://127.0.0.1:9443/token"},
		"https://googleapis.com.example.org/token":        {"", "https://127.0.0.1:9443/token"},
		"https://evilgoogleapis.com/token":                {"", "https://127.0.0.1:9443/token"},
		"https://user@oauth2.googleapis.com/token":        {"", "https://127.0.0.1:9443/token"},
		"https://oauth2.googleapis.com:8443/token":        {"", "https://127.0.0.1:9443/token"},
		"https://169.254.169.254/x.googleapis.com":        {"", "https://127.0.0.1:9443/token"},
		"https://127.0.0.1:9443/other":                    {"", "https://127.0.0.1:9443/other"},
		"http://127.0.0.1:9443/other":                     {"", "https://127.0.0.1:9443/token"},
		"https://127.0.0.1:9443@oauth2.example.org/token": {"", "https://127.0.0.1:9443/token"},
		"":     {"", "https://127.0.0.1:9443/token"},
		"\x7f": {"", "https://127.0.0.1:9443/token"},
	} {
		for i, s := range []*Sender{own, other} {
			u, audience := s.endpoint(uri)
			got := ""
			if u != nil {
				got = u.String()
			}
			if got != want[i] || audience != want[i] {
				t.Errorf("%q: asked at %q for %q, want %q", uri, got, audience, want[i])
			}
		}
	}
	key := rsaAccount(t)
	key.TokenURI = "https://example.org/token"
	if out := sendNow(t, own, key, queue.ClassMisconfigured); !strings.Contains(out.Error, "token_uri of the service account is not an https URL of googleapis.com") {
		t.Errorf("%+v", out)
	}
}
