package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"herald/store"
)

// memNotifier remembers what it was given, and answers as it is told.
type memNotifier struct {
	mu      sync.Mutex
	fail    error
	sent    []*store.Message
	answer  store.Sent
	view    *store.MessageView
	changes []string // account, id
	lanes   []store.SubscriptionID
}

func (n *memNotifier) Send(_ context.Context, m *store.Message) (store.Sent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return store.Sent{}, n.fail
	}
	n.sent = append(n.sent, m)
	return n.answer, nil
}

func (n *memNotifier) Message(_ context.Context, account, id, after string, limit int) (*store.MessageView, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return nil, n.fail
	}
	if n.view == nil || account != "acme" || id != n.view.TrackingID {
		return nil, store.ErrNotFound
	}
	v := *n.view
	if after != "" || len(v.Devices) <= limit {
		v.Next = ""
	}
	v.Devices = v.Devices[:min(limit, len(v.Devices))]
	return &v, nil
}

func (n *memNotifier) Changed(account, id string, lanes []store.SubscriptionID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes, n.lanes = append(n.changes, account+" "+id), append(n.lanes, lanes...)
}

// newApp puts an implementation into the store that reaches all platforms.
func (b *bed) newApp(id string) *store.Implementation {
	b.t.Helper()
	vapid, err := store.GenerateVAPID()
	if err != nil {
		b.t.Fatal(err)
	}
	vapid.Subject = "mailto:push@shop.example"
	i, err := b.store.CreateImplementation(b.t.Context(), &store.Implementation{
		AccountID: "acme", ID: id, Name: "App", CreatedAt: testNow, UpdatedAt: testNow,
		Android:     &store.FCM{ProjectID: "shop-1", ClientEmail: "a@shop-1.iam.gserviceaccount.com", TokenURI: store.DefaultTokenURI, PrivateKey: []byte("k")},
		IOSProvider: store.ProviderAPNs, APNs: &store.APNs{Key: []byte("k"), KeyID: "ABCDEFGHIJ", TeamID: "KLMNOPQRST", Topic: "example.shop"},
		Web: true, VAPID: vapid, StatusSecret: []byte(strings.Repeat("s", 32)),
	}, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return i
}

const webSubscription = `{"endpoint":"https://push.example/abcdefgh123456","expirationTime":null,"keys":{"p256dh":"BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4","auth":"BTBZMqHH6r4Tts7J_aSIgg"}}`

func quote(s any) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestDevices_RegisteredAndAnsweredAsPublished(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	for _, c := range []struct {
		path, body, want string
		kind             store.TokenKind
		token            string
	}{
		{"android", `{"routeeContactId":"+31612345678","token":"tok-android","implementationId":"app"}`, `{"routeeContactId":"+31612345678"}`, store.TokenPlain, "tok-android"},
		{"android", `{"contactId":"a@b.example","token":"cXyz","tokenType":"fid","implementationId":"app"}`, `{"contactId":"a@b.example"}`, store.TokenFID, "cXyz"},
		{"ios", `{"ROUTEECONTACTID":"c","token":"00aaff","implementationId":"app","locale":"nl-BE","appVersion":"1.2"}`, `{"routeeContactId":"c"}`, store.TokenPlain, "00aaff"},
		{"web", `{"contactId":"c","token":"fcm-web","implementationId":"app"}`, `{"contactId":"c"}`, store.TokenPlain, "fcm-web"},
		{"web", `{"contactId":"c","token":` + webSubscription + `,"implementationId":"app"}`, `{"contactId":"c"}`, store.TokenWebPush, "https://push.example/abcdefgh123456"},
		{"web", `{"contactId":"d","token":` + quote(webSubscription) + `,"implementationId":"app"}`, `{"contactId":"d"}`, store.TokenWebPush, "https://push.example/abcdefgh123456"},
	} {
		w := b.request("POST", "/messages/"+c.path, "dev", c.body)
		if w.Code != http.StatusOK || w.Body.String() != c.want {
			t.Errorf("%s: %d %s, want %s", c.body, w.Code, w.Body, c.want)
			continue
		}
		d, err := b.store.DeviceByToken(t.Context(), "acme", "app", store.Platform(c.path), c.token)
		if err != nil || d.Kind != c.kind {
			t.Errorf("%s: stored is %+v (%v)", c.body, d, err)
		}
		if c.kind == store.TokenWebPush && (len(d.P256DH) != 65 || len(d.Auth) != 16) {
			t.Errorf("%s: the keys are %x and %x", c.body, d.P256DH, d.Auth)
		}
	}
	if n := b.store.CountDevices(); n != 5 {
		t.Errorf("%d devices, want 5: the same subscription moves to another contact", n)
	}
}

func TestDevices_RefusedAsPublished(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	none := b.newApp("none")
	b.store.implementations[[2]string{"acme", "none"}] = &store.Implementation{AccountID: "acme", ID: "none", UID: none.UID}
	for _, c := range []struct {
		path, body, begin, word string
	}{
		{"android", `{"routeeContactId":"c","token":"t","implementationId":"nope"}`, "Routee Details not Found: implementationId: ", "nope"},
		{"android", `{"routeeContactId":"c","token":"t","implementationId":"none"}`, "Device Config not found: implementationId: ", "android"},
		{"ios", `{"routeeContactId":"c","token":"t","implementationId":"none"}`, "Device Config not found: ", "ios"},
		{"web", `{"routeeContactId":"c","token":"t","implementationId":"none"}`, "Device Config not found: ", "web"},
		{"android", `{"routeeContactId":" ","token":"t","implementationId":"app"}`, "Error in getting routee Contact: routeeContactId: ", "blank"},
		{"android", `{"contactId":"","token":"t","implementationId":"app"}`, "Error in getting routee Contact: contactId: ", "blank"},
		{"android", `{"contactId":"a\nb","token":"t","implementationId":"app"}`, "Error in getting routee Contact: contactId: ", "control"},
		{"android", `{"contactId":"` + strings.Repeat("x", 257) + `","token":"t","implementationId":"app"}`, "Error in getting routee Contact: contactId: ", "256 bytes"},
	} {
		p := wantProblem(t, b.request("POST", "/messages/"+c.path, "dev", c.body), 400, c.word)
		//nolint:misspell // the published spelling
		if p.Title != "error occured" || !strings.HasPrefix(p.Detail, c.begin) || len(p.Errors) != 1 {
			t.Errorf("%s: %+v", c.body, p)
		}
	}
	// Another account's implementation is none.
	b.store.tokens[hashOf("dev2")] = store.Token{ID: "tok_dev2", AccountID: "other", Scopes: []store.Scope{store.ScopeDevices}, Hash: hashOf("dev2")}
	p := wantProblem(t, b.request("POST", "/messages/android", "dev2", `{"routeeContactId":"c","token":"t","implementationId":"app"}`), 400)
	if !strings.HasPrefix(p.Detail, noRouteeDetails) {
		t.Errorf("another account is told: %s", p.Detail)
	}
}

func TestDevices_WrongFieldsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	for _, c := range []struct {
		path, body string
		fields     []string
	}{
		{"android", `{}`, []string{"routeeContactId", "token", "implementationId"}},
		{"android", `{"routeeContactId":null,"token":" ","implementationId":""}`, []string{"routeeContactId", "token", "implementationId"}},
		{"android", `{"routeeContactId":1,"token":{},"implementationId":[]}`, []string{"routeeContactId", "token", "implementationId"}},
		{"android", `{"contactId":"c","routeeContactId":"c","token":"a b","implementationId":"app","x":1}`, []string{"contactId", "token", "x"}},
		{"android", `{"contactId":"c","token":"t","implementationId":"app","locale":"!","appVersion":"a\tb","replaces":"","tokenType":"x"}`, []string{"locale", "appVersion", "replaces", "tokenType"}},
		{"android", `{"contactId":"c","token":"` + strings.Repeat("x", 4097) + `","implementationId":"app"}`, []string{"token"}},
		{"ios", `{"contactId":"c","token":"aa","tokenType":"fid","implementationId":"app"}`, []string{"tokenType"}},
		{"web", `{"contactId":"c","token":{"endpoint":"http://push.example"},"implementationId":"app"}`, []string{"token"}},
		{"web", `{"contactId":"c","token":"{}","implementationId":"app"}`, []string{"token"}},
		{"web", `{"contactId":"c","tokenType":"fid","token":` + webSubscription + `,"implementationId":"app"}`, []string{"tokenType"}},
		{"web", `{"contactId":"c","token":` + strings.Replace(webSubscription, "push.example", "127.0.0.1", 1) + `,"implementationId":"app"}`, []string{"token"}},
	} {
		p := wantProblem(t, b.request("POST", "/messages/"+c.path, "dev", c.body), 400)
		var got []string
		for _, f := range p.Errors {
			got = append(got, f.Field)
		}
		same(t, c.body, got, c.fields)
		if p.Title != "error occured" { //nolint:misspell // the published spelling
			t.Errorf("%s: title %s", c.body, p.Title)
		}
	}
	wantProblem(t, b.request("POST", "/messages/windows", "dev", `{}`), 404, "windows", "android")
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
		w := b.request(method, "/messages/android", "snd", "")
		if w.Code != 405 || !strings.Contains(w.Header().Get("Allow"), "POST") {
			t.Errorf("%s: %d, Allow %q", method, w.Code, w.Header().Get("Allow"))
		}
	}
	wantProblem(t, b.request("POST", "/messages/android", "sub", `{}`), 403, "devices")
	wantProblem(t, b.request("POST", "/messages/android", "dev", `{}`, "Content-Type", "text/plain"), 415)
}

func TestDevices_ReplacedTokenKeepsItsDevice(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	register := func(body string) {
		t.Helper()
		if w := b.request("POST", "/messages/android", "dev", body); w.Code != 200 {
			t.Fatalf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	register(`{"contactId":"c","token":"old-token","implementationId":"app"}`)
	old, _ := b.store.DeviceByToken(t.Context(), "acme", "app", store.PlatformAndroid, "old-token")
	register(`{"contactId":"c","token":"fid-22-characters","tokenType":"fid","replaces":"old-token","implementationId":"app"}`)
	now, err := b.store.DeviceByToken(t.Context(), "acme", "app", store.PlatformAndroid, "fid-22-characters")
	if err != nil || now.ID != old.ID || now.Kind != store.TokenFID {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestDevices_ListedNewestFirstAndDeleted(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	b.newApp("two")
	for _, x := range []string{"app 1111aaaaaaa1", "two 2222aaaaaaa2", "app 3333aaaaaaa3", "two 4444aaaaaaa4"} {
		app, token, _ := strings.Cut(x, " ")
		if w := b.request("POST", "/messages/android", "dev", `{"contactId":"a/b","token":"`+token+`","implementationId":"`+app+`"}`); w.Code != 200 {
			t.Fatal(w.Body)
		}
	}
	list := func(query string) (hints, ids []string, next string) {
		t.Helper()
		w := b.request("GET", "/contacts/a%2Fb/devices"+query, "dev", "")
		var all []deviceView
		if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil || w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "1111aaaaaaa1") {
			t.Errorf("a token is shown: %s", w.Body)
		}
		for _, d := range all {
			hints, ids = append(hints, d.TokenHint), append(ids, d.ID)
		}
		return hints, ids, w.Header().Get("Link")
	}
	hints, ids, _ := list("")
	if got := strings.Join(hints, " "); got != "aa4 aa3 aa2 aa1" {
		t.Errorf("listed are %s", got)
	}
	hints, _, next := list("?limit=2")
	if got := strings.Join(hints, " "); got != "aa4 aa3" || !strings.Contains(next, "after="+ids[1]) {
		t.Errorf("the first page is %s, then %s", got, next)
	}
	if hints, _, next = list("?limit=2&after=" + ids[1]); strings.Join(hints, " ") != "aa2 aa1" || next != "" {
		t.Errorf("the second page is %v, then %s", hints, next)
	}
	if hints, _, _ = list("?implementationId=two"); strings.Join(hints, " ") != "aa4 aa2" {
		t.Errorf("those of one implementation are %v", hints)
	}
	wantProblem(t, b.request("GET", "/contacts/c/devices?after=x", "dev", ""), 400, "after")
	if w := b.request("GET", "/devices/"+ids[0], "snd", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"routeeContactId":"a/b"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, b.request("DELETE", "/devices/"+ids[0], "snd", ""), 403)
	for _, code := range []int{204, 404} {
		if w := b.request("DELETE", "/devices/"+ids[0], "dev", ""); w.Code != code {
			t.Errorf("%d, want %d", w.Code, code)
		}
	}
	wantProblem(t, b.request("GET", "/devices/"+ids[0], "dev", ""), 404)
	wantProblem(t, b.request("GET", "/devices/dev_x", "dev", ""), 404)
	wantProblem(t, b.request("DELETE", "/devices/dev_x", "dev", ""), 404)
	for _, code := range []int{204, 404} {
		if w := b.request("DELETE", "/contacts/a%2Fb", "dev", ""); w.Code != code {
			t.Errorf("%d, want %d", w.Code, code)
		}
	}
	if n := b.store.CountDevices(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

// Hexadecimal is one token however it is written.
func TestDevices_HexadecimalTokensAreOne(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	for _, token := range []string{"ABab01", "abAB01", "abab01"} {
		if r := b.request("POST", "/messages/ios", "dev", `{"contactId":"c","token":"`+token+`","implementationId":"app"}`); r.Code != 200 {
			t.Fatalf("%s: %d", token, r.Code)
		}
	}
	if n := len(b.store.devices); n != 1 {
		t.Errorf("there are %d devices", n)
	}
}
