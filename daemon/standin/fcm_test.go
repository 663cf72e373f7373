package standin

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// caller speaks to a stand-in as a program would that knows nothing of it.
type caller struct {
	t *testing.T
	f *FCM
	c *http.Client
}

func newCaller(t *testing.T, o FCMOptions) *caller {
	t.Helper()
	schema, err := os.ReadFile("testdata/fcm-api.json")
	if err != nil {
		t.Fatal(err)
	}
	o.Schema, o.Keep = schema, 3
	f, err := NewFCM(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.Pool(), MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &caller{t, f, &http.Client{Transport: tr}}
}

func (c *caller) post(path, contentType, authorization, body string) (int, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.f.URL()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Authorization", authorization)
	resp, err := c.c.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// ask asks for an access token with an assertion of these claims and this header.
func (c *caller) ask(claims map[string]any, header string) (int, string) {
	c.t.Helper()
	b, _ := json.Marshal(claims)
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, c.f.key, crypto.SHA256, sum[:])
	if err != nil {
		c.t.Fatal(err)
	}
	form := url.Values{"grant_type": {fcmGrant}, "assertion": {text + "." + base64.RawURLEncoding.EncodeToString(signature)}}
	return c.post("/token", "application/x-www-form-urlencoded", "", form.Encode())
}

const jwtHeader = `{"alg":"RS256","typ":"JWT","kid":"` + fcmKeyID + `"}`

func (c *caller) claims(change map[string]any) map[string]any {
	now := time.Now().Unix()
	m := map[string]any{"iss": c.f.email(), "scope": fcmScope, "aud": c.f.URL() + "/token", "iat": now, "exp": now + 3600}
	maps.Copy(m, change)
	return m
}

func (c *caller) bearer() string {
	c.t.Helper()
	status, body := c.ask(c.claims(nil), jwtHeader)
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
		c.t.Fatalf("%d %s", status, body)
	}
	return "Bearer " + answer.Token
}

func TestFCMTokens(t *testing.T) {
	t.Parallel()
	c := newCaller(t, FCMOptions{})
	c.bearer()
	if len(c.f.Faults()) != 0 || c.f.Minted() != 1 {
		t.Errorf("%v, %d", c.f.Faults(), c.f.Minted())
	}
	now := time.Now().Unix()
	for name, change := range map[string]map[string]any{
		"another account": {"iss": "x"}, "another audience": {"aud": "https://oauth2.googleapis.com/token"}, "another scope": {"scope": "x"},
		"too long a life": {"exp": now + 3700}, "over": {"iat": now - 3000, "exp": now - 10}, "not yet": {"iat": now + 900, "exp": now + 1800},
	} {
		if status, body := c.ask(c.claims(change), jwtHeader); status != 400 || !strings.Contains(body, "invalid_") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for _, header := range []string{`{"alg":"none","typ":"JWT","kid":"` + fcmKeyID + `"}`, `{"alg":"RS256","typ":"JWT","kid":"x"}`, `[]`} {
		if status, body := c.ask(c.claims(nil), header); status != 400 {
			t.Errorf("%s: %d %s", header, status, body)
		}
	}
	if status, _ := c.post("/token", "application/x-www-form-urlencoded", "", "grant_type="+url.QueryEscape(fcmGrant)+"&assertion=a.b.c"); status != 400 {
		t.Errorf("%d", status)
	}
	if status, _ := c.post("/token", "application/json", "", "{}"); status != 400 {
		t.Errorf("%d", status)
	}
	if n := len(c.f.Faults()); n != 11 || c.f.Minted() != 1 {
		t.Errorf("%d faults, %d tokens", n, c.f.Minted())
	}
	var account map[string]string
	if err := json.Unmarshal(c.f.ServiceAccount(), &account); err != nil || account["type"] != "service_account" || account["token_uri"] != c.f.URL()+"/token" || account["project_id"] != "standin" {
		t.Errorf("%v %v", account, err)
	}
}

func TestFCMIsStrict(t *testing.T) {
	t.Parallel()
	c := newCaller(t, FCMOptions{})
	bearer := c.bearer()
	const send, typ = "/v1/projects/standin/messages:send", "application/json; charset=utf-8"
	for _, body := range []string{
		`{"message":{"token":"a"}}`,
		`{"message":{"fid":"a","data":{"k":"v"},"android":{"ttl":"3.5s","priority":"HIGH","notification":{"notificationCount":3,"lightSettings":{"color":{"red":0.5},"lightOnDuration":"1s","lightOffDuration":"1s"}}}},"validateOnly":true}`,
		`{"message":{"token":"a","apns":{"headers":{"apns-priority":"5"},"payload":{"aps":{"content-available":1},"own":[{}]}},"webpush":{"fcmOptions":{"link":"https://x"}}}}`,
	} {
		if status, answer := c.post(send, typ, bearer, body); status != 200 {
			t.Errorf("%s: %s", body, answer)
		}
	}
	if len(c.f.Faults()) != 0 || c.f.Taken() != 2 || c.f.Sent()["a"] != 2 {
		t.Errorf("%v, %d", c.f.Faults(), c.f.Taken())
	}
	for _, w := range []struct{ body, says string }{
		{``, "JSON"},
		{`{"message":{"token":"a"}`, "JSON"},
		{`[]`, "not an object"},
		{`{"message":{"token":"a"}}x`, "JSON"},
		{`{"message":{}}`, "0 of token"},
		{`{"message":{"token":"a","fid":"b"}}`, "2 of token"},
		{`{"message":{"token":""}}`, "empty"},
		{`{"message":{"token":5}}`, "no string"},
		{`{"message":{"token":"a","tokens":1}}`, `no member \"tokens\"`},
		{`{"validate_only":true,"message":{"token":"a"}}`, `no member \"validate_only\"`},
		{`{"message":{"token":"a","data":{"k":1}}}`, "message.data.k: is not a string"},
		{`{"message":{"token":"a","data":[]}}`, "is not an object"},
		{`{"message":{"token":"a","android":{"priority":"high"}}}`, "not one of NORMAL, HIGH"},
		{`{"message":{"token":"a","android":{"ttl":"1h"}}}`, "no google-duration"},
		{`{"message":{"token":"a","android":{"ttl":"2419201s"}}}`, "four weeks"},
		{`{"message":{"token":"a","android":{"notification":{"notificationCount":1.5}}}}`, "no int32"},
		{`{"message":{"token":"a","android":{"notification":{"bodyLocArgs":"x"}}}}`, "not an array"},
		{`{"message":{"token":"a","android":{"notification":{"sticky":"x"}}}}`, "not a boolean"},
		{`{"message":{"token":"a","android":{"notification":{"eventTime":"now"}}}}`, "no google-datetime"},
		{`{"message":{"token":"a","data":{"google.x":"v"}}}`, "reserved"},
		{`{"message":{"token":"a","android":{},"androidV2":{}}}`, "exclude each other"},
		{`{"message":{"token":"a","name":"x"}}`, "output only"},
		{`{"message":{"token":"a","data":{"k":"v","k":"v"}}}`, "duplicate"},
		{`{"message":{"token":"a","webpush":{"fcmOptions":{"link":"http://x"}}}}`, "no https URL"},
		{`{"message":{"token":"a","apns":{"headers":{"apns-priority":"10"},"payload":{"aps":{"content-available":1}}}}}`, "not 5"},
		{`{"message":{"token":"a","data":{"k":"` + strings.Repeat("x", 4096) + `"}}}`, "more than 4096"},
	} {
		before := len(c.f.Faults())
		if status, answer := c.post(send, typ, bearer, w.body); status != 400 || !strings.Contains(answer, w.says) || len(c.f.Faults()) == before {
			t.Errorf("%s: %d %s, want %q", w.body, status, answer, w.says)
		}
	}
	for _, w := range []struct {
		path, typ, bearer string
		status            int
	}{
		{send, "text/plain", bearer, 400}, {send, typ, "", 401}, {send, typ, "Bearer x", 401}, {"/v1/projects/x/messages:send", typ, bearer, 404}, {"/v1/projects/standin/messages", typ, bearer, 404},
	} {
		if status, answer := c.post(w.path, w.typ, w.bearer, `{"message":{"token":"a"}}`); status != w.status {
			t.Errorf("%+v: %d %s", w, status, answer)
		}
	}
	c.f.Revoke()
	if status, _ := c.post(send, typ, bearer, `{"message":{"token":"a"}}`); status != 401 {
		t.Errorf("%d", status)
	}
	if got := c.f.Requests(); len(got) != 3 || got[2].Device != "a" || !bytes.Contains(got[1].Body, []byte("validateOnly")) {
		t.Errorf("%+v", got)
	}
}

func TestFCMMisbehaves(t *testing.T) {
	t.Parallel()
	c := newCaller(t, FCMOptions{Latency: time.Millisecond})
	bearer := c.bearer()
	send := func(device string) int {
		status, _ := c.post("/v1/projects/standin/messages:send", "application/json", bearer, `{"message":{"token":"`+device+`"}}`)
		return status
	}
	c.f.For("dead", FCMError("UNREGISTERED"))
	c.f.Next(2, FCMError("HTML_BAD_GATEWAY"))
	for n, want := range []int{404, 502, 404, 502, 200, 404} {
		device := "a"
		if want == 404 {
			device = "dead"
		}
		if got := send(device); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
	connections := c.f.Connections()
	c.f.Next(1, Behaviour{Cut: true})
	if got := send("a"); got != 0 && got != 200 {
		t.Errorf("%d over a connection that was cut", got)
	}
	c.f.Next(1, Behaviour{GoAway: true})
	if got := send("a"); got != 200 {
		t.Errorf("%d with GOAWAY", got)
	}
	if got := send("a"); got != 200 || c.f.Connections() != connections+2 {
		t.Errorf("%d, %d connections more", got, c.f.Connections()-connections)
	}
	c.f.Next(1, FCMError("INTERNAL"))
	c.f.Reset()
	if send("a") != 200 || send("dead") != 200 {
		t.Error("an order outlasted Reset")
	}
	c.f.NextToken(1, Behaviour{Status: 500})
	if status, _ := c.ask(c.claims(nil), jwtHeader); status != 500 {
		t.Errorf("%d", status)
	}
	path, err := c.f.CAFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
		t.Errorf("%s %v", b, err)
	}
}
