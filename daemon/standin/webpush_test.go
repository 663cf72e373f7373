package standin

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func webpushDecoded(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 8188, sections 3.1 and 3.2.
func TestWebPushReadsTheRecordsOfRFC8188(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ikm, keyID, body string
		want             webpushContent
	}{
		{
			"yqdlZ-tYemfogSmv7Ws5PQ", "", "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg",
			webpushContent{records: 1, recordSize: 4096},
		},
		{
			"BO3ZVPxUlnLORbVGMpbT1Q", "a1", "uNCkWiNYzKTnBN9ji3-qWAAAABkCYTHOG8chz_gnvgOqdGYovxyjuqRyJFjEDyoF1Fvkj6hQPdPHI51OEUKEpgz3SsLWIqS_uA",
			webpushContent{records: 2, recordSize: 25, padding: 1},
		},
	} {
		body := webpushDecoded(t, c.body)
		open := func(body []byte) (webpushContent, error) {
			return webpushOpen(body, func(id []byte) ([]byte, error) {
				if string(id) != c.keyID {
					t.Errorf("the key id is %q, want %q", id, c.keyID)
				}
				return webpushDecoded(t, c.ikm), nil
			})
		}
		got, err := open(body)
		if err != nil || string(got.text) != "I am the walrus" || got.records != c.want.records || got.padding != c.want.padding || got.recordSize != c.want.recordSize {
			t.Errorf("%+v, %v", got, err)
		}
		for n := range 21 + len(c.keyID) {
			if _, err := webpushOpen(body[:n], func([]byte) ([]byte, error) { return nil, nil }); err == nil {
				t.Errorf("%d bytes were read", n)
			}
		}
		for n := 21 + len(c.keyID); n < len(body); n++ {
			if _, err := open(body[:n]); err == nil {
				t.Errorf("%d bytes were read", n)
			}
			if _, err := open(append(slices.Clone(body[:n]), append([]byte{body[n] ^ 1}, body[n+1:]...)...)); err == nil {
				t.Errorf("a wrong byte at %d was not noticed", n)
			}
		}
	}
}

// rfc8291 is the browser and the body of RFC 8291, section 5.
func rfc8291(t testing.TB) (*webpushBrowser, []byte) {
	t.Helper()
	key, err := ecdh.P256().NewPrivateKey(webpushDecoded(t, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		t.Fatal(err)
	}
	return &webpushBrowser{key: key, auth: [16]byte(webpushDecoded(t, "BTBZMqHH6r4Tts7J_aSIgg"))},
		webpushDecoded(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"+
			"yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
}

func TestWebPushReadsTheBodyOfRFC8291(t *testing.T) {
	t.Parallel()
	b, body := rfc8291(t)
	text, padding, err := webpushDecrypt(b, body)
	if err != nil || string(text) != "When I grow up, I want to be a watermelon" || padding != 0 {
		t.Errorf("%q, %d, %v", text, padding, err)
	}
	other := &webpushBrowser{key: b.key}
	if _, _, err := webpushDecrypt(other, body); err == nil {
		t.Error("another authentication secret reads it")
	}
	if _, _, err := webpushDecrypt(b, append(bytes.Clone(body), 0)); err == nil {
		t.Error("a byte more was not noticed")
	}
}

// FuzzWebPushDecrypt holds that no body brings the stand-in down, and that none but the right one is read.
func FuzzWebPushDecrypt(f *testing.F) {
	b, body := rfc8291(f)
	f.Add(body)
	f.Add(body[:86])
	f.Add(slices.Concat(body[:16], []byte{0, 0, 0, 18}, body[20:]))
	f.Fuzz(func(t *testing.T, got []byte) {
		if text, _, err := webpushDecrypt(b, got); err == nil && !bytes.Equal(got, body) {
			t.Fatalf("%x is read as %q", got, text)
		}
	})
}

// webpushSign makes an Authorization header with those claims.
func webpushSign(t *testing.T, key *ecdsa.PrivateKey, head, claims string) string {
	t.Helper()
	input := base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return "vapid t=" + input + "." + base64.RawURLEncoding.EncodeToString(sig) + ", k=" + base64.RawURLEncoding.EncodeToString(webpushPublic(t, key))
}

// What is wrong with a request is answered as push services do, and remembered.
func TestWebPushIsStrict(t *testing.T) {
	t.Parallel()
	const origin, head = "https://push.example.net", `{"typ":"JWT","alg":"ES256"}`
	var keys [2]*ecdsa.PrivateKey
	for n := range keys {
		var err error
		if keys[n], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	public := webpushPublic(t, keys[0])
	in := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	claims := func(aud, exp, sub string) string {
		return `{"aud":"` + aud + `","exp":` + exp + `,"sub":"` + sub + `"}`
	}
	right := claims(origin, in(12*time.Hour), "mailto:push@example.com")
	// Opaque: the header of a body is right, its record is not.
	body := slices.Concat(make([]byte, 16), []byte{0, 0, 0x10, 0, 65}, public, make([]byte, 17))
	token := func(head, claims string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", webpushSign(t, keys[0], head, claims)) }
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	del := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	with := func(body []byte) func(*http.Request) {
		return func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body)) }
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		says   string
	}{
		"right":             {func(*http.Request) {}, 201, ""},
		"topic":             {set("Topic", "a-Z_9"), 201, ""},
		"urgency":           {set("Urgency", "very-low"), 201, ""},
		"https subject":     {token(head, claims(origin, in(time.Hour), "https://example.com")), 201, ""},
		"method":            {func(r *http.Request) { r.Method = "PUT" }, 405, "method"},
		"host":              {func(r *http.Request) { r.Host = "other.example" }, 421, "host"},
		"path":              {func(r *http.Request) { r.URL.Path += "x" }, 404, "no such endpoint"},
		"query":             {func(r *http.Request) { r.URL.RawQuery = "x" }, 404, "no such endpoint"},
		"no TTL":            {del("Ttl"), 400, "TTL is missing"},
		"TTL":               {set("Ttl", "1.5"), 400, "TTL is"},
		"negative TTL":      {set("Ttl", "-1"), 400, "TTL is"},
		"long TTL":          {set("Ttl", "2419201"), 400, "TTL is"},
		"two TTL":           {func(r *http.Request) { r.Header.Add("Ttl", "60") }, 400, "more than once"},
		"wrong urgency":     {set("Urgency", "urgent"), 400, "Urgency"},
		"empty topic":       {set("Topic", ""), 400, "Topic"},
		"long topic":        {set("Topic", strings.Repeat("x", 33)), 400, "Topic"},
		"wrong topic":       {set("Topic", "a.b"), 400, "Topic"},
		"encoding":          {set("Content-Encoding", "aesgcm"), 400, "content encoding"},
		"type":              {set("Content-Type", "text/plain"), 400, "content encoding"},
		"no body":           {with(nil), 400, "header of a key"},
		"no record":         {with(body[:len(body)-1]), 400, "header of a key"},
		"another key id":    {with(slices.Concat(body[:20], []byte{64}, body[21:])), 400, "header of a key"},
		"long body":         {with(append(slices.Clone(body), make([]byte, 4096)...)), 413, "longer than 4096"},
		"no token":          {del("Authorization"), 401, "no vapid token"},
		"bearer":            {set("Authorization", "Bearer x"), 401, "no vapid token"},
		"not a token":       {set("Authorization", "vapid t=x, k=x"), 401, "three parts"},
		"not base64":        {set("Authorization", "vapid t=!.x.x, k=x"), 401, "not base64url"},
		"no point":          {set("Authorization", "vapid t=e30.e30.e30, k=AAAA"), 401, "header of the token"},
		"another algorithm": {token(`{"typ":"JWT","alg":"none"}`, right), 401, "header of the token"},
		"no type":           {token(`{"alg":"ES256"}`, right), 401, "header of the token"},
		"claims":            {token(head, `[]`), 401, "claims"},
		"audience":          {token(head, claims(origin+"/", in(time.Hour), "mailto:a@b.example")), 403, "is for"},
		"expired":           {token(head, claims(origin, in(-time.Second), "mailto:a@b.example")), 403, "has expired"},
		"longer than a day": {token(head, claims(origin, in(24*time.Hour+time.Minute), "mailto:a@b.example")), 403, "longer than a day"},
		"no subject":        {token(head, claims(origin, in(time.Hour), "")), 403, "no subject"},
		"signature": {func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "k=", "k="+base64.RawURLEncoding.EncodeToString(webpushPublic(t, keys[1]))+",x=", 1))
		}, 403, "signature"},
		"another sender": {func(r *http.Request) { r.Header.Set("Authorization", webpushSign(t, keys[1], head, right)) }, 403, "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := NewWebPush(WebPushOptions{Origin: origin, Opaque: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			text, err := s.Subscribe(public)
			if err != nil {
				t.Fatal(err)
			}
			var subscription struct{ Endpoint string }
			if err := json.Unmarshal(text, &subscription); err != nil {
				t.Fatal(err)
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+strings.TrimPrefix(subscription.Endpoint, origin), bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "push.example.net"
			r.Header = http.Header{
				"Ttl": {"60"}, "Content-Encoding": {"aes128gcm"}, "Content-Type": {"application/octet-stream"},
				"Authorization": {webpushSign(t, keys[0], head, right)},
			}
			c.change(r)
			tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Pool()}, ForceAttemptHTTP2: true}
			defer tr.CloseIdleConnections()
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			found := s.Faults()
			if err != nil || resp.StatusCode != c.status || resp.ProtoMajor != 2 || s.Requests() != 1 || (s.Accepted() == 1) != (c.status == 201) {
				t.Errorf("%d %s, %v", resp.StatusCode, answer, err)
			}
			if (c.says == "") != (len(found) == 0) || c.says != "" && (!strings.Contains(found[0], c.says) || !strings.Contains(string(answer), c.says)) {
				t.Errorf("%s, faults %q", answer, found)
			}
			if name == "another sender" && !strings.Contains(string(answer), `"VapidPkHashMismatch"`) {
				t.Errorf("%s", answer)
			}
			if c.status != 201 {
				return
			}
			s.Unsubscribe(subscription.Endpoint)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if resp, err = tr.RoundTrip(r); err != nil || resp.StatusCode != 410 || len(s.Faults()) != 0 {
				t.Errorf("after it is gone: %v, %v, %q", resp, err, s.Faults())
			}
			// What no push service can see, the browser does.
			if _, _, err := s.Decrypt(subscription.Endpoint, body); err == nil {
				t.Error("a record of zeros was decrypted")
			}
		})
	}
}

func webpushPublic(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWebPushOriginIsChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"x", "http://push.example.net", "https://", "https://push.example.net/", "https://u@push.example.net"} {
		if s, err := NewWebPush(WebPushOptions{Origin: bad}); err == nil {
			s.Close()
			t.Errorf("%q was taken", bad)
		}
	}
}
