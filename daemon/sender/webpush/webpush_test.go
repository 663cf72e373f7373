package webpush

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"herald/daemon/egress"
	"herald/daemon/sender"
	"herald/daemon/standin"
	"herald/queue"
	"herald/store"
)

// service starts a stand-in of a push service.
func service(t testing.TB, o standin.WebPushOptions) *standin.WebPush {
	t.Helper()
	s, err := standin.NewWebPush(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// newSender makes a sender that trusts the stand-in given; url is Options.URL.
func newSender(t testing.TB, roots *x509.CertPool, url string) *Sender {
	t.Helper()
	s, err := New(Options{URL: url, UserAgent: "Herald/test", Transport: func() *http.Transport { return transport(roots) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// transport has the limits that the real way out brings.
func transport(roots *x509.CertPool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, Protocols: protocols, DisableCompression: true,
		MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
	}
}

// subscribe makes a push for a new subscription.
func subscribe(t testing.TB, s *standin.WebPush, v *store.VAPID) Push {
	t.Helper()
	text, err := s.Subscribe(v.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	token, err := store.ParseWebSubscription(text)
	if err != nil {
		t.Fatal(err)
	}
	return Push{
		Endpoint: token.Token, P256DH: token.P256DH, Auth: token.Auth, Payload: []byte(`{"title":"Hello"}`),
		Headers: Headers{Urgency: "normal"}, TTL: time.Hour,
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func noFaults(t *testing.T, s *standin.WebPush) {
	t.Helper()
	for _, f := range s.Faults() {
		t.Error(f)
	}
}

func TestPushArrives(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []standin.WebPushMessage
	received := func(m standin.WebPushMessage) {
		mu.Lock()
		got = append(got, m)
		mu.Unlock()
	}
	own := service(t, standin.WebPushOptions{Received: received})
	named := service(t, standin.WebPushOptions{Received: received, Origin: "https://push.example.net"})
	v := newKey(t)
	for _, c := range []struct {
		service *standin.WebPush
		url     string
		payload []byte
		padding int
		headers Headers
		ttl     time.Duration
		seconds int
	}{
		{own, "", []byte(`{"title":"Hello"}`), 111, Headers{Urgency: "high", Topic: "news_1-A"}, 90 * time.Minute, 5400},
		{own, "", nil, 0, Headers{Urgency: "low"}, -time.Second, 0},
		{own, "", bytes.Repeat([]byte("x"), MaxPayload), 0, Headers{Urgency: "normal"}, 1999 * time.Millisecond, 1},
		{own, "", bytes.Repeat([]byte{2}, 2600), 41, Headers{}, store.MaxTTL, 2419200},
		{named, named.URL(), []byte("to another server"), 111, Headers{Urgency: "normal"}, time.Second, 1},
	} {
		s := newSender(t, c.service.Pool(), c.url)
		p := subscribe(t, c.service, v)
		p.Payload, p.Headers, p.TTL = c.payload, c.headers, c.ttl
		got = nil
		r := s.Send(within(t, 10*time.Second), "a", v, p)
		if r.Class != queue.ClassDelivered || r.Status != 201 || r.Device != sender.DeviceSeen || r.Error != "" || r.Duration <= 0 || r.StartedAt.IsZero() ||
			!strings.HasPrefix(r.MessageID, c.service.Origin()+"/m/") {
			t.Errorf("%+v", r)
		}
		noFaults(t, c.service)
		mu.Lock()
		if len(got) != 1 || !bytes.Equal(got[0].Payload, c.payload) || got[0].Padding != c.padding || got[0].TTL != c.seconds ||
			got[0].Urgency != c.headers.Urgency || got[0].Topic != c.headers.Topic || got[0].Endpoint != p.Endpoint {
			t.Errorf("%+v", got)
		}
		mu.Unlock()
	}
}

// Each line of what push services answer, and what is made of it.
func TestReactions(t *testing.T) {
	t.Parallel()
	const origin = "https://push.example.net"
	s := service(t, standin.WebPushOptions{Origin: origin})
	v := newKey(t)
	type want struct {
		class  queue.Class
		device sender.DeviceFate
		reason string
		wait   time.Duration
		life   life
		error  string
	}
	retry := func(wait time.Duration, l life) want {
		return want{class: queue.ClassRetry, wait: wait, life: l}
	}
	throttled := func(wait time.Duration) want {
		w := retry(wait, lifeUnknown)
		w.device, w.error = sender.DeviceThrottled, "there are too many pushes"
		return w
	}
	rejected := func(text string) want { return want{class: queue.ClassRejected, life: lifeGood, error: text} }
	delivered := want{class: queue.ClassDelivered, device: sender.DeviceSeen, life: lifeGood}
	gone := want{class: queue.ClassGone, device: sender.DeviceDead, reason: sender.ReasonUnregistered, life: lifeGood, error: "the subscription is no more"}
	foreign := want{class: queue.ClassRejected, device: sender.DeviceForeign, reason: sender.ReasonUnregistered, life: lifeGood, error: "made with another VAPID key"}
	suspended := want{class: queue.ClassMisconfigured, life: lifeGood, error: "does not take the VAPID key"}
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	for name, c := range map[string]struct {
		answer standin.Behaviour
		want   want
	}{
		"200 (ntfy)":              {standin.Behaviour{Status: 200, Body: `{"id":"x"}`}, delivered},
		"201":                     {standin.Behaviour{Status: 201}, delivered},
		"202":                     {standin.Behaviour{Status: 202}, delivered},
		"204":                     {standin.Behaviour{Status: 204}, delivered},
		"299":                     {standin.Behaviour{Status: 299}, delivered},
		"WNS received":            {standin.Behaviour{Status: 201, Header: header("X-Wns-Status", "received")}, delivered},
		"WNS dropped":             {standin.Behaviour{Status: 201, Header: header("X-Wns-Status", "dropped")}, retry(time.Minute, lifeGood)},
		"WNS throttled":           {standin.Behaviour{Status: 200, Header: header("X-Wns-Status", "channelthrottled")}, retry(time.Minute, lifeGood)},
		"301":                     {standin.Behaviour{Status: 301, Header: header("Location", s.URL()+"/other")}, rejected("redirects are not followed")},
		"302":                     {standin.Behaviour{Status: 302, Header: header("Location", s.URL()+"/other")}, rejected("redirects are not followed")},
		"307":                     {standin.Behaviour{Status: 307, Header: header("Location", s.URL()+"/other")}, rejected("redirects are not followed")},
		"308":                     {standin.Behaviour{Status: 308, Header: header("Location", s.URL()+"/other")}, rejected("redirects are not followed")},
		"400":                     {standin.Behaviour{Status: 400}, rejected("400 Bad Request: it does not take the push")},
		"400 BadTtl":              {standin.Behaviour{Status: 400, Body: `{"reason":"BadTtl"}`}, rejected("(BadTtl)")},
		"400 BadUrgency":          {standin.Behaviour{Status: 400, Body: `{"reason":"BadUrgency"}`}, rejected("(BadUrgency)")},
		"400 BadWebPushRequest":   {standin.Behaviour{Status: 400, Body: `{"reason":"BadWebPushRequest"}`}, rejected("(BadWebPushRequest)")},
		"400 BadWebPushTopic":     {standin.Behaviour{Status: 400, Body: `{"reason":"BadWebPushTopic"}`}, rejected("(BadWebPushTopic)")},
		"400 BadVapidPublicKey":   {standin.Behaviour{Status: 400, Body: `{"reason":"BadVapidPublicKey"}`}, rejected("(BadVapidPublicKey)")},
		"400 errno 111":           {standin.Behaviour{Status: 400, Body: `{"code":400,"errno":111,"error":"Bad Request"}`}, rejected("(errno 111)")},
		"400 with words":          {standin.Behaviour{Status: 400, Body: `{"reason":"<b>see https://evil.example</b>"}`}, rejected("400 Bad Request: it")},
		"400 with a long word":    {standin.Behaviour{Status: 400, Body: `{"reason":"` + strings.Repeat("x", 65) + `"}`}, rejected("400 Bad Request: it")},
		"400 with a flood":        {standin.Behaviour{Status: 400, Body: strings.Repeat("x", 1<<20)}, rejected("400 Bad Request: it")},
		"401":                     {standin.Behaviour{Status: 401}, suspended},
		"401 errno 109":           {standin.Behaviour{Status: 401, Body: `{"code":401,"errno":109}`}, suspended},
		"403 BadJwtToken":         {standin.Behaviour{Status: 403, Body: `{"reason":"BadJwtToken"}`}, suspended},
		"403":                     {standin.Behaviour{Status: 403}, suspended},
		"403 VapidPkHashMismatch": {standin.Behaviour{Status: 403, Body: `{"reason":"VapidPkHashMismatch"}`}, foreign},
		"403 of FCM":              {standin.Behaviour{Status: 403, Body: "the key in the authorization header does not correspond to the sender ID used to subscribe this user."}, foreign},
		"404":                     {standin.Behaviour{Status: 404, Body: `{"errno":102}`}, gone},
		"410":                     {standin.Behaviour{Status: 410}, gone},
		"410 errno 103":           {standin.Behaviour{Status: 410, Body: `{"errno":103}`}, gone},
		"410 errno 105":           {standin.Behaviour{Status: 410, Body: `{"errno":105}`}, gone},
		"410 errno 106":           {standin.Behaviour{Status: 410, Body: `{"errno":106}`}, gone},
		"405":                     {standin.Behaviour{Status: 405}, rejected("405 Method Not Allowed")},
		"406 of WNS":              {standin.Behaviour{Status: 406}, throttled(time.Minute)},
		"406 with a time":         {standin.Behaviour{Status: 406, Header: header("Retry-After", "7")}, throttled(7 * time.Second)},
		"408":                     {standin.Behaviour{Status: 408}, retry(0, lifeBad)},
		"413":                     {standin.Behaviour{Status: 413, Body: `{"errno":104}`}, want{class: queue.ClassRejected, reason: sender.ReasonTooLarge, life: lifeGood, error: "too large"}},
		"429":                     {standin.Behaviour{Status: 429}, throttled(time.Minute)},
		"429 seconds":             {standin.Behaviour{Status: 429, Header: header("Retry-After", "120")}, throttled(2 * time.Minute)},
		"429 date":                {standin.Behaviour{Status: 429, Header: header("Retry-After", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))}, throttled(10 * time.Minute)},
		"429 past date":           {standin.Behaviour{Status: 429, Header: header("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT")}, throttled(time.Minute)},
		"429 zero":                {standin.Behaviour{Status: 429, Header: header("Retry-After", "0")}, throttled(time.Minute)},
		"429 negative":            {standin.Behaviour{Status: 429, Header: header("Retry-After", "-5")}, throttled(time.Minute)},
		"429 words":               {standin.Behaviour{Status: 429, Header: header("Retry-After", "soon")}, throttled(time.Minute)},
		"429 a year":              {standin.Behaviour{Status: 429, Header: header("Retry-After", "31536000")}, throttled(24 * time.Hour)},
		"429 huge":                {standin.Behaviour{Status: 429, Header: header("Retry-After", "99999999999999999999999")}, throttled(24 * time.Hour)},
		"429 far date":            {standin.Behaviour{Status: 429, Header: header("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT")}, throttled(24 * time.Hour)},
		"500":                     {standin.Behaviour{Status: 500}, retry(0, lifeBad)},
		"502":                     {standin.Behaviour{Status: 502, Body: "<html>"}, retry(0, lifeBad)},
		"503":                     {standin.Behaviour{Status: 503, Header: header("Retry-After", "30")}, retry(30*time.Second, lifeBad)},
		"503 errno 201":           {standin.Behaviour{Status: 503, Body: `{"errno":201}`}, retry(0, lifeBad)},
		"503 errno 202":           {standin.Behaviour{Status: 503, Body: `{"errno":202}`}, retry(time.Second, lifeUnknown)},
		"504":                     {standin.Behaviour{Status: 504}, retry(0, lifeBad)},
		"599":                     {standin.Behaviour{Status: 599}, retry(0, lifeBad)},
		"a body that hangs":       {standin.Behaviour{Status: 400, Body: strings.Repeat("x", 1000), Pause: 2 * time.Second}, rejected("400 Bad Request")},
		"hang":                    {standin.Behaviour{Hang: true}, want{class: queue.ClassRetry, life: lifeBad, error: "did not answer within"}},
		"cut":                     {standin.Behaviour{Cut: true}, want{class: queue.ClassRetry, life: lifeBad, error: "closed the connection before it answered"}},
		"goaway":                  {standin.Behaviour{GoAway: true}, delivered},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newSender(t, s.Pool(), s.URL())
			p := subscribe(t, s, v)
			s.For(p.Endpoint, c.answer)
			timeout, slack := 30*time.Second, time.Duration(0)
			if c.answer.Hang {
				timeout = time.Second
			}
			if name == "429 date" { // it was written a while ago
				slack = time.Minute
			}
			r := o.Send(within(t, timeout), "a", v, p)
			w := c.want
			if r.Class != w.class || r.Innocent != (w.class != queue.ClassDelivered && w.class != queue.ClassMisconfigured) || r.Device != w.device || r.Reason != w.reason || r.RetryAfter != 0 ||
				(r.Wait-w.wait).Abs() > slack || (r.Wait == 0) != (w.wait == 0) || !strings.Contains(r.Error, w.error) ||
				(r.Error == "") != (w.class == queue.ClassDelivered) {
				t.Errorf("got  %+v\nwant %+v", r, w)
			}
			if r.Duration > timeout/2 && !c.answer.Hang {
				t.Errorf("it took %s", r.Duration)
			}
			if c.answer.Status != 0 && r.Status != c.answer.Status {
				t.Errorf("status %d", r.Status)
			}
			u, _ := url.Parse(p.Endpoint)
			for _, secret := range []string{u.Path, base64.RawURLEncoding.EncodeToString(p.Auth), "vapid", "evil", s.URL()} {
				if strings.Contains(r.Error, secret) {
					t.Errorf("the error says %q", r.Error)
				}
			}
			if r.Error != "" && !strings.Contains(r.Error, origin) {
				t.Errorf("the error does not name the origin: %q", r.Error)
			}
			failures := 0
			if known, ok := o.origins.standings.get(originKey{"a", origin}); ok {
				if failures = known.failures; known.underWay != 0 {
					t.Errorf("%d are under way", known.underWay)
				}
			}
			if (failures == 1) != (w.life == lifeBad) {
				t.Errorf("%d failures were noted", failures)
			}
		})
	}
	t.Cleanup(func() { noFaults(t, s) })
}

func TestMessageIDIsAWord(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"": "", "/m/1": "/m/1", "https://push.example.net/m/1": "https://push.example.net/m/1", "a b": "", "é": "", strings.Repeat("x", 1025): "",
	} {
		if got := messageID(http.Header{"Location": {location}}); got != want {
			t.Errorf("%q: %q", location, got)
		}
	}
}

func TestWhatCannotBeSentIsNotTried(t *testing.T) {
	t.Parallel()
	s := service(t, standin.WebPushOptions{})
	v := newKey(t)
	o := newSender(t, s.Pool(), "")
	for name, c := range map[string]struct {
		key    *store.VAPID
		change func(*Push)
		class  queue.Class
		reason string
	}{
		"endpoint":  {v, func(p *Push) { p.Endpoint = "http" + strings.TrimPrefix(p.Endpoint, "https") }, queue.ClassRejected, ""},
		"no URL":    {v, func(p *Push) { p.Endpoint = "https://%zz" }, queue.ClassRejected, ""},
		"key":       {v, func(p *Push) { p.P256DH = nil }, queue.ClassRejected, ""},
		"auth":      {v, func(p *Push) { p.Auth = p.Auth[1:] }, queue.ClassRejected, ""},
		"payload":   {v, func(p *Push) { p.Payload = make([]byte, MaxPayload+1) }, queue.ClassRejected, sender.ReasonTooLarge},
		"no VAPID":  {nil, func(*Push) {}, queue.ClassMisconfigured, ""},
		"bad VAPID": {&store.VAPID{PublicKey: v.PublicKey}, func(*Push) {}, queue.ClassMisconfigured, ""},
		"empty":     {&store.VAPID{}, func(*Push) {}, queue.ClassMisconfigured, ""},
	} {
		p := subscribe(t, s, v)
		c.change(&p)
		if r := o.Send(within(t, time.Second), "a", c.key, p); r.Class != c.class || r.Innocent != (c.class == queue.ClassRejected) || r.Reason != c.reason || r.Status != 0 || r.Error == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if s.Requests() != 0 {
		t.Errorf("%d requests were made", s.Requests())
	}
}

func TestNetworkErrorsAreTold(t *testing.T) {
	t.Parallel()
	s := service(t, standin.WebPushOptions{})
	v := newKey(t)
	p := subscribe(t, s, v)
	send := func(o *Sender, p Push) string {
		t.Helper()
		r := o.Send(within(t, 5*time.Second), "a", v, p)
		if r.Class != queue.ClassRetry || !r.Innocent || r.Status != 0 || strings.Contains(r.Error, "/wpush/") {
			t.Errorf("%+v", r)
		}
		return r.Error
	}
	if text := send(newSender(t, nil, ""), p); !strings.Contains(text, "certificate") {
		t.Error(text)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := p
	elsewhere.Endpoint = "https://" + l.Addr().String() + "/wpush/x"
	l.Close()
	if text := send(newSender(t, s.Pool(), ""), elsewhere); !strings.Contains(text, "refused the connection") {
		t.Error(text)
	}
	out, err := egress.New(egress.Options{DenyNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	guarded, err := New(Options{Transport: out.Transport, UserAgent: "Herald/test"})
	if err != nil {
		t.Fatal(err)
	}
	if text := send(guarded, p); !strings.Contains(text, "closed by the operator's policy") {
		t.Error(text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := newSender(t, s.Pool(), "")
	if r := o.Send(ctx, "a", v, p); r.Class != queue.ClassRetry || !r.Innocent || !strings.Contains(r.Error, "daemon stops") || len(o.origins.standings.all) != 0 {
		t.Errorf("%+v", r)
	}
}

// The endpoint of one is answered with 401: it is believed, unless another service takes the same key.
func TestOneServiceAloneDoesNotSuspend(t *testing.T) {
	t.Parallel()
	good, bad := service(t, standin.WebPushOptions{}), service(t, standin.WebPushOptions{})
	roots := good.Pool()
	file, err := bad.CAFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	appendCA(t, roots, file)
	o := newSender(t, roots, "")
	v, other := newKey(t), newKey(t)
	send := func(s *standin.WebPush, owner string, v *store.VAPID, status int) sender.Result {
		p := subscribe(t, s, v)
		if status != 0 {
			s.For(p.Endpoint, standin.Behaviour{Status: status})
		}
		return o.Send(within(t, 5*time.Second), owner, v, p)
	}
	for _, status := range []int{401, 403} {
		if r := send(bad, "a", v, status); r.Class != queue.ClassRetry || !r.Innocent || !strings.Contains(r.Error, "has taken no push yet") {
			t.Errorf("before it has taken any: %+v", r)
		}
	}
	if r := send(bad, "a", v, 0); r.Class != queue.ClassDelivered {
		t.Fatalf("%+v", r)
	}
	if r := send(bad, "a", v, 401); r.Class != queue.ClassMisconfigured || r.Wait != doubtfulWait {
		t.Errorf("what it took itself is no proof: %+v", r)
	}
	if r := send(good, "a", v, 0); r.Class != queue.ClassDelivered {
		t.Fatalf("%+v", r)
	}
	for n := range maxFailures {
		if r := send(bad, "a", v, 401+n%2*2); r.Class != queue.ClassRetry || !r.Innocent || r.Status == 0 || !strings.Contains(r.Error, "another push service does") {
			t.Errorf("after another took one: %+v", r)
		}
	}
	if r := send(bad, "a", v, 0); r.Class != queue.ClassRetry || !r.Innocent || r.Status != 0 || r.Wait <= 0 || r.Wait > minRest || !strings.Contains(r.Error, bad.Origin()) {
		t.Errorf("it does not rest: %+v", r)
	}
	if r := send(good, "a", v, 0); r.Class != queue.ClassDelivered {
		t.Errorf("the other rests as well: %+v", r)
	}
	for owner, v := range map[string]*store.VAPID{"a": other, "b": v} {
		if owner == "b" {
			if r := send(bad, owner, v, 401); r.Class != queue.ClassRetry || strings.Contains(r.Error, "another push service does") {
				t.Errorf("another owner's: %+v", r)
			}
			continue
		}
		if r := send(good, owner, v, 401); r.Class != queue.ClassRetry || strings.Contains(r.Error, "another push service does") {
			t.Errorf("another key: %+v", r)
		}
	}
	o.Forget("a")
	if r := send(bad, "a", v, 401); r.Class != queue.ClassRetry || strings.Contains(r.Error, "another push service does") {
		t.Errorf("after it was forgotten: %+v", r)
	}
}

func TestKnownPushServices(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"fcm.googleapis.com": true, "FCM.googleapis.com": true, "updates.push.services.mozilla.com": true, "web.push.apple.com": true,
		"wns2-par02p.notify.windows.com": true, "push.example.com": false, "fcm.googleapis.com.example.com": false, "xfcm.googleapis.com": false,
		"evilpush.apple.com": false, "127.0.0.1": false, "": false,
	} {
		if got := known(host); got != want {
			t.Errorf("%q is known: %v", host, got)
		}
	}
}

func TestManyPushesShareFourConnections(t *testing.T) {
	t.Parallel()
	s := service(t, standin.WebPushOptions{Latency: 50 * time.Millisecond})
	o := newSender(t, s.Pool(), "")
	v := newKey(t)
	p := subscribe(t, s, v)
	var wg sync.WaitGroup
	var delivered atomic.Int64
	for range 1000 {
		wg.Go(func() {
			if r := o.Send(within(t, 30*time.Second), "a", v, p); r.Class == queue.ClassDelivered {
				delivered.Add(1)
			} else {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	if delivered.Load() != 1000 || s.Connections() > 4 || s.Peak() < 100 {
		t.Errorf("%d arrived over %d connections, up to %d at a time", delivered.Load(), s.Connections(), s.Peak())
	}
	noFaults(t, s)
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	good := Options{Transport: func() *http.Transport { return transport(nil) }, UserAgent: "Herald/test"}
	for name, change := range map[string]func(*Options){
		"transport": func(o *Options) { o.Transport = nil }, "no agent": func(o *Options) { o.UserAgent = "" },
		"agent": func(o *Options) { o.UserAgent = "a\r\nb" }, "connections": func(o *Options) { o.Connections = -1 },
		"URL": func(o *Options) { o.URL = "ftp://x" }, "path": func(o *Options) { o.URL = "https://x/y" }, "host": func(o *Options) { o.URL = "https://" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s is not refused", name)
		}
	}
}

func TestOriginIsThatOfRFC6454(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"https://Push.Example.net/x?y": "https://push.example.net", "https://push.example.net:443/": "https://push.example.net",
		"https://push.example.net:8443/": "https://push.example.net:8443", "https://[2001:DB8::1]:443/": "https://[2001:db8::1]",
		"https://push.example.net:/": "https://push.example.net",
	} {
		u, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if got := originOf(u); got != want {
			t.Errorf("%s: %s", endpoint, got)
		}
	}
}

// FuzzEncrypt holds that a browser, whose code is not ours, reads what was sent, and that lengths say little.
func FuzzEncrypt(f *testing.F) {
	s := service(f, standin.WebPushOptions{})
	p := subscribe(f, s, newKey(f))
	f.Add([]byte(""))
	f.Add([]byte("x\x00\x00\x02"))
	f.Add(bytes.Repeat([]byte{2}, MaxPayload))
	f.Fuzz(func(t *testing.T, payload []byte) {
		payload = payload[:min(len(payload), MaxPayload)]
		body, err := encrypt(payload, p.P256DH, p.Auth)
		if err != nil {
			t.Fatal(err)
		}
		got, padding, err := s.Decrypt(p.Endpoint, body)
		if err != nil || !bytes.Equal(got, payload) || len(payload)+padding != padded(len(payload)) || len(body) != padded(len(payload))+103 {
			t.Fatalf("%d bytes in %d, %d of padding, %v", len(payload), len(body), padding, err)
		}
	})
}

func BenchmarkSend(b *testing.B) {
	s := service(b, standin.WebPushOptions{Opaque: true})
	o := newSender(b, s.Pool(), "")
	v := newKey(b)
	p := subscribe(b, s, v)
	p.Payload = bytes.Repeat([]byte("x"), 400)
	b.ReportAllocs()
	b.SetParallelism(100)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r := o.Send(b.Context(), "a", v, p); r.Class != queue.ClassDelivered {
				b.Errorf("%+v", r)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pushes/s")
}

func appendCA(t *testing.T, roots *x509.CertPool, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
}
