package standin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

func newAPNs(t *testing.T, o APNsOptions) *APNs {
	t.Helper()
	a, err := NewAPNs(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// trusting is a client of HTTP/2 that trusts the stand-in.
func (a *APNs) trusting(t *testing.T) *http.Transport {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.CA())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// bearer is a provider token with these claims.
func (a *APNs) bearer(t *testing.T, keyID, team string, issued time.Time) string {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	signed := enc(fmt.Appendf(nil, `{"alg":"ES256","kid":%q}`, keyID)) + "." + enc(fmt.Appendf(nil, `{"iss":%q,"iat":%d}`, team, issued.Unix()))
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.private, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return "bearer " + signed + "." + enc(signature)
}

// Each thing that can be wrong with a request is answered as APNs does, and told.
func TestAPNsIsStrict(t *testing.T) {
	t.Parallel()
	a := newAPNs(t, APNsOptions{Topic: "com.example.app"})
	key := a.Key()
	now := time.Now()
	good := a.bearer(t, key.KeyID, key.TeamID, now)
	type h = map[string]string
	const payload = `{"aps":{"alert":"x"}}`
	for _, c := range []struct {
		method, path, payload string
		change                h
		status                int
		reason                string
	}{
		{"POST", "/3/device/ab12", payload, nil, 200, ""},
		{"POST", "/3/device/ab12", payload, h{"apns-priority": "", "apns-expiration": "", "apns-id": "", "apns-collapse-id": ""}, 200, ""},
		{"POST", "/3/device/ab12", `{"aps":{"content-available":1},"a":"b"}`, h{"apns-push-type": "background", "apns-priority": "5"}, 200, ""},
		{"POST", "/3/device/ab12", payload, h{"apns-push-type": "voip", "apns-topic": "com.example.app.voip"}, 200, ""},
		{"GET", "/3/device/ab12", "", nil, 405, "MethodNotAllowed"},
		{"POST", "/3/devices/ab12", payload, nil, 404, "BadPath"},
		{"POST", "/3/device/", payload, nil, 400, "MissingDeviceToken"},
		{"POST", "/3/device/xyz", payload, nil, 400, "BadDeviceToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": ""}, 403, "MissingProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": "bearer x.y.z"}, 403, "InvalidProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": good[:len(good)-4] + "AAAA"}, 403, "InvalidProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": a.bearer(t, "OTHERKEY00", key.TeamID, now)}, 403, "InvalidProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": a.bearer(t, key.KeyID, "OTHERTEAM0", now)}, 403, "InvalidProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": a.bearer(t, key.KeyID, key.TeamID, now.Add(-61*time.Minute))}, 403, "ExpiredProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"authorization": a.bearer(t, key.KeyID, key.TeamID, now.Add(time.Hour))}, 403, "InvalidProviderToken"},
		{"POST", "/3/device/ab12", payload, h{"apns-topic": ""}, 400, "MissingTopic"},
		{"POST", "/3/device/ab12", payload, h{"apns-topic": "com.example.other"}, 400, "TopicDisallowed"},
		{"POST", "/3/device/ab12", payload, h{"apns-push-type": "voip"}, 400, "BadTopic"},
		{"POST", "/3/device/ab12", payload, h{"apns-push-type": "x"}, 400, "InvalidPushType"},
		{"POST", "/3/device/ab12", payload, h{"apns-push-type": "background", "apns-priority": "10"}, 400, "BadPriority"},
		{"POST", "/3/device/ab12", payload, h{"apns-push-type": "background", "apns-priority": "5"}, 400, "InvalidPushType"},
		{"POST", "/3/device/ab12", payload, h{"apns-priority": "7"}, 400, "BadPriority"},
		{"POST", "/3/device/ab12", payload, h{"apns-id": "0198C0DE-0000-7000-8000-000000000001"}, 400, "BadMessageId"},
		{"POST", "/3/device/ab12", payload, h{"apns-expiration": "soon"}, 400, "BadExpirationDate"},
		{"POST", "/3/device/ab12", payload, h{"apns-collapse-id": strings.Repeat("x", 65)}, 400, "BadCollapseId"},
		{"POST", "/3/device/ab12", payload, h{"content-encoding": "gzip"}, 400, "PayloadEmpty"},
		{"POST", "/3/device/ab12", "", nil, 400, "PayloadEmpty"},
		{"POST", "/3/device/ab12", "[]", nil, 400, "PayloadEmpty"},
		{"POST", "/3/device/ab12", `{"aps":{"alert":"` + strings.Repeat("x", 4096) + `"}}`, nil, 413, "PayloadTooLarge"},
	} {
		tr := a.trusting(t) // a connection of its own, because of the provider tokens
		req, err := http.NewRequestWithContext(t.Context(), c.method, a.URL()+c.path, bytes.NewReader([]byte(c.payload)))
		if err != nil {
			t.Fatal(err)
		}
		headers := h{
			"authorization": good, "apns-topic": "com.example.app", "apns-push-type": "alert", "apns-priority": "10", "apns-expiration": "0",
			"apns-id": "0198c0de-0000-7000-8000-000000000001", "apns-collapse-id": "x",
		}
		maps.Copy(headers, c.change)
		for name, value := range headers {
			if value != "" {
				req.Header.Set(name, value)
			}
		}
		before := len(a.Faults())
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		var said apnsAnswerBody
		_ = json.NewDecoder(resp.Body).Decode(&said)
		resp.Body.Close()
		if resp.StatusCode != c.status || said.Reason != c.reason || len(a.Faults())-before != min(1, c.status/201) || resp.Header.Get("apns-id") == "" {
			t.Errorf("%s %s %.30s %v: %d %s %q", c.method, c.path, c.payload, c.change, resp.StatusCode, said.Reason, a.Faults()[before:])
		}
	}
}

// A connection may not change its provider token twice within 20 minutes; who does not speak HTTP/2 or shows no certificate is not let in.
func TestAPNsConnections(t *testing.T) {
	t.Parallel()
	a := newAPNs(t, APNsOptions{})
	key := a.Key()
	send := func(a *APNs, tr *http.Transport, authorization string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.URL()+"/3/device/ab", strings.NewReader(`{"aps":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {authorization}, "Apns-Topic": {"x"}, "Apns-Push-Type": {"alert"}}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	tr := a.trusting(t)
	for n, want := range []int{200, 429} {
		if got, err := send(a, tr, a.bearer(t, key.KeyID, key.TeamID, time.Now().Add(time.Duration(n)*time.Second))); got != want || err != nil {
			t.Errorf("token %d: %d %v", n, got, err)
		}
	}
	old := a.trusting(t)
	old.ForceAttemptHTTP2 = false
	old.Protocols = new(http.Protocols)
	old.Protocols.SetHTTP1(true)
	if got, err := send(a, old, ""); err == nil {
		t.Errorf("without HTTP/2: %d", got)
	}
	c := newAPNs(t, APNsOptions{Certificate: true})
	if got, err := send(c, c.trusting(t), ""); err == nil {
		t.Errorf("without a certificate: %d", got)
	}
	if s := a.Stats(); s.TokenUpdates != 1 || s.Connections != 1 || s.Sent != 1 {
		t.Errorf("%+v", s)
	}
}
