package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"herald/queue"
	"herald/store"
)

// testKeys are made once: an RSA key takes a while.
var testKeys = sync.OnceValue(func() (k struct{ rsa, small, p256, p384 string }) {
	text := func(key any, err error) string {
		if err != nil {
			panic(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			panic(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	k.rsa = text(rsa.GenerateKey(rand.Reader, 2048))
	k.small = text(rsa.GenerateKey(rand.Reader, 1024))
	k.p256 = text(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	k.p384 = text(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	return k
})

func serviceAccount(key string) string {
	return `{"type":"service_account","project_id":"shop-1","private_key_id":"abc","private_key":` + quote(key) +
		`,"client_email":"push@shop-1.iam.gserviceaccount.com","client_id":"1","token_uri":"https://oauth2.googleapis.com/token","universe_domain":"googleapis.com"}`
}

func apnsKey(key string) string {
	return `{"key":` + quote(key) + `,"keyId":"ABCDEFGHIJ","teamId":"KLMNOPQRST","topic":"example.shop","environment":"sandbox"}`
}

// create makes an implementation with the call.
func (b *bed) create(body string) jsonObject {
	b.t.Helper()
	return wantJSON[jsonObject](b.t, b.request("POST", "/implementations", "snd", body), 200)
}

func TestImplementations_CreatedAndShownWithoutSecrets(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	k := testKeys()
	w := b.request("POST", "/implementations", "snd", `{"id":"shop","name":"The shop","android":{"serviceAccount":`+serviceAccount(k.rsa)+`},"ios":`+apnsKey(k.p256)+
		`,"web":{"vapid":{"subject":"mailto:push@shop.example"}}}`)
	made := wantJSON[jsonObject](t, w, 200)
	if w.Header().Get("Location") != "/implementations/shop" || !strings.HasPrefix(fmt.Sprint(made["statusSigningSecret"]), "whsec_") {
		t.Errorf("Location %q: %v", w.Header().Get("Location"), made)
	}
	i, err := b.store.Implementation(t.Context(), "acme", "shop")
	if err != nil || len(i.Android.PrivateKey) == 0 || i.Android.ProjectID != "shop-1" || len(i.APNs.Key) == 0 || !i.APNs.Sandbox || len(i.VAPID.PrivateKey) != 32 || len(i.StatusSecret) != 32 {
		t.Fatalf("stored is %+v (%v)", i, err)
	}
	read := b.request("GET", "/implementations/shop", "dev", "").Body.String()
	for _, secret := range []string{"PRIVATE", "whsec_", base64.RawURLEncoding.EncodeToString(i.VAPID.PrivateKey), base64.StdEncoding.EncodeToString(i.StatusSecret)} {
		if strings.Contains(read, secret) {
			t.Errorf("%s is shown: %s", secret, read)
		}
	}
	for _, word := range []string{`"project_id":"shop-1"`, `"provider":"apns","keyId":"ABCDEFGHIJ"`, `"environment":"sandbox"`, `"publicKey":"` + i.VAPID.PublicText() + `","subject":"mailto:push@shop.example"`} {
		if !strings.Contains(read, word) {
			t.Errorf("%s lacks %s", read, word)
		}
	}
	if v := made["status"].([]any); len(v) != 4 {
		t.Errorf("the status is %v", v)
	}
	list := wantJSON[[]jsonObject](t, b.request("GET", "/implementations", "dev", ""), 200)
	if len(list) != 1 || list[0]["id"] != "shop" {
		t.Errorf("listed are %v", list)
	}
	wantProblem(t, b.request("POST", "/implementations", "snd", `{"id":"shop"}`), 409, "already")
	wantProblem(t, b.request("POST", "/implementations", "dev", `{}`), 403, "send")
	// A generated id, and neither platform nor name.
	if id := fmt.Sprint(b.create(`{}`)["id"]); len(id) != 24 || strings.Trim(id, "0123456789abcdef") != "" {
		t.Errorf("the id is %q", id)
	}
	wantProblem(t, b.request("GET", "/implementations/nope", "snd", ""), 404)
	wantProblem(t, b.request("GET", "/implementations?after=%20", "snd", ""), 400, "after")
}

func TestImplementations_EveryWrongFieldIsNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{FCMTokenOrigin: "https://127.0.0.1:9"})
	k := testKeys()
	account := func(old, new string) string {
		return `{"android":{"serviceAccount":` + strings.Replace(serviceAccount(k.rsa), old, new, 1) + `}}`
	}
	for _, c := range []struct{ body, field, word string }{
		{`{"id":"-x"}`, "id", "begin with"},
		{`{"id":"` + strings.Repeat("x", 65) + `"}`, "id", "64"},
		{`{"name":"a\nb"}`, "name", "control"},
		{`{"android":{}}`, "/android/serviceAccount", "needed"},
		{`{"android":[]}`, "android", "object"},
		{`{"android":{"serviceAccount":` + serviceAccount(k.p256) + `}}`, "/android/serviceAccount/private_key", "this is a P-256 key"},
		{`{"android":{"serviceAccount":` + serviceAccount(k.small) + `}}`, "/android/serviceAccount/private_key", "2048 bits"},
		{`{"android":{"serviceAccount":` + serviceAccount("x") + `}}`, "/android/serviceAccount/private_key", "PEM"},
		{account(`"type":"service_account"`, `"type":"authorized_user"`), "/android/serviceAccount/type", "service_account"},
		{account(`"shop-1"`, `"shop/1"`), "/android/serviceAccount/project_id", "project"},
		{account(`push@shop`, `push.shop`), "/android/serviceAccount/client_email", "e-mail"},
		{account(`https://oauth2.googleapis.com/token`, `https://evil.example/token`), "/android/serviceAccount/token_uri", "googleapis.com"},
		{account(`https://oauth2.googleapis.com/token`, `https://evilgoogleapis.com/token`), "/android/serviceAccount/token_uri", "googleapis.com"},
		{account(`https://oauth2.googleapis.com/token`, `http://oauth2.googleapis.com/token`), "/android/serviceAccount/token_uri", "https"},
		{account(`https://oauth2.googleapis.com/token`, `https://oauth2.googleapis.com:8443/token`), "/android/serviceAccount/token_uri", "https"},
		{`{"ios":{"provider":"fcm"}}`, "/ios/serviceAccount", "android has none"},
		{`{"ios":{"provider":"fcm","topic":"x","serviceAccount":` + serviceAccount(k.rsa) + `}}`, "/ios/topic", "provider fcm"},
		{`{"ios":{"provider":"gcm"}}`, "/ios/provider", "apns or fcm"},
		{`{"ios":{}}`, "/ios/key", ".p8"},
		{`{"ios":` + apnsKey(k.rsa) + `}`, "/ios/key", "this is an RSA key"},
		{`{"ios":` + apnsKey(k.p384) + `}`, "/ios/key", "P-384"},
		{`{"ios":` + strings.Replace(apnsKey(k.p256), "ABCDEFGHIJ", "ABC", 1) + `}`, "/ios/keyId", "10"},
		{`{"ios":` + strings.Replace(apnsKey(k.p256), "KLMNOPQRST", "klmnopqrst", 1) + `}`, "/ios/teamId", "10"},
		{`{"ios":` + strings.Replace(apnsKey(k.p256), "example.shop", "", 1) + `}`, "/ios/topic", "bundle"},
		{`{"ios":` + strings.Replace(apnsKey(k.p256), "sandbox", "test", 1) + `}`, "/ios/environment", "production or sandbox"},
		{`{"ios":{"certificate":"AAAA","password":"x","topic":"a.b"}}`, "/ios/certificate", "PKCS #12"},
		{`{"ios":{"key":"x","certificate":"AAAA","topic":"a.b"}}`, "/ios/certificate", "excludes key"},
		{`{"web":{}}`, "/web/vapid/subject", "mailto:"},
		{`{"web":{"vapid":{"subject":"mailto:herald@localhost"}}}`, "/web/vapid/subject", "host"},
		{`{"web":{"vapid":{"subject":"mailto:a@b.example","privateKey":"AAAA"}}}`, "/web/vapid/privateKey", "32 bytes"},
		{`{"web":{"vapid":{"subject":"mailto:a@b.example","publicKey":"AAAA"}}}`, "/web/vapid/publicKey", "privateKey"},
		{`{"web":{"vapid":null}}`, "/web/vapid", "cannot be removed"},
		{`{"statusSigningSecret":"x"}`, "statusSigningSecret", "whsec_"},
		{`{"frobnicate":1}`, "frobnicate", "not known"},
	} {
		p := wantProblem(t, b.request("POST", "/implementations", "snd", c.body), 400)
		i := slices.IndexFunc(p.Errors, func(f fault) bool { return f.Field == c.field })
		if i < 0 || !strings.Contains(p.Errors[i].Detail, c.word) {
			t.Errorf("%.200s: %+v, want %s: …%s", c.body, p.Errors, c.field, c.word)
		}
		if strings.Contains(fmt.Sprint(p), "BEGIN") && strings.Contains(fmt.Sprint(p), "MII") {
			t.Errorf("a key is repeated: %+v", p)
		}
	}
	b.create(account(`https://oauth2.googleapis.com/token`, `https://127.0.0.1:9/token`))
	wantProblem(t, b.request("POST", "/implementations", "snd", `{"android":{},"ios":{},"web":{}}`), 400, "/android/serviceAccount", "/ios/topic")
}

func TestImplementations_PatchTouchesWhatIsNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	k := testKeys()
	made := b.create(`{"id":"shop","name":"The shop","android":{"serviceAccount":` + serviceAccount(k.rsa) + `},"ios":` + apnsKey(k.p256) +
		`,"web":{"vapid":{"subject":"mailto:push@shop.example"}}}`)
	patch := func(body string) jsonObject {
		t.Helper()
		return wantJSON[jsonObject](t, b.request("PATCH", "/implementations/shop", "snd", body, "Content-Type", typeMergePatch), 200)
	}
	at := func() *store.Implementation {
		t.Helper()
		i, err := b.store.Implementation(t.Context(), "acme", "shop")
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	before := at()
	told := func(kinds ...store.LaneKind) {
		t.Helper()
		var want []store.SubscriptionID
		for _, kind := range kinds {
			want = append(want, before.Lane(kind))
		}
		if !slices.Equal(b.mail.lanes, want) || !slices.Equal(b.changed, want) {
			t.Errorf("told of %v and %v, want %v", b.mail.lanes, b.changed, want)
		}
		b.mail.lanes, b.changed = nil, nil
	}
	// What a read shows may be sent back.
	delete(made, "statusSigningSecret")
	delete(made["ios"].(jsonObject), "certificateInfo")
	patch(quote(made))
	if now := at(); string(now.Android.PrivateKey) != string(before.Android.PrivateKey) || string(now.VAPID.PrivateKey) != string(before.VAPID.PrivateKey) {
		t.Error("a read that was sent back changed a key")
	}
	told()
	if len(b.mail.changes) != 1 || b.mail.changes[0] != "acme shop" {
		t.Errorf("told of %v", b.mail.changes)
	}
	if v := patch(`{"name":"Shop"}`); v["name"] != "Shop" || v["android"] == nil || v["statusSigningSecret"] != nil {
		t.Errorf("%v", v)
	}
	// Suspended for its credentials; others of the same account make it try again.
	lane := before.Lane(store.LaneIOS)
	b.store.subs[lane].Health = store.Health{Suspended: "InvalidProviderToken", OpenedAt: testNow, ProbeAt: testNow.Add(15 * time.Minute)}
	b.queue.laneStats = queue.LaneStats{Pending: 3, Retrying: 2}
	shown := b.request("GET", "/implementations/shop", "snd", "").Body.String()
	if want := `{"platform":"ios","provider":"apns","state":"suspended","reason":"InvalidProviderToken","since":"2026-11-21T08:30:00Z","nextProbeAt":"2026-11-21T08:45:00Z","waiting":5}`; !strings.Contains(shown, want) {
		t.Errorf("%s lacks %s", shown, want)
	}
	patch(`{"ios":{"environment":"production"}}`)
	told(store.LaneIOS)
	if h := b.store.subs[lane].Health; h != (store.Health{}) {
		t.Errorf("the lane still has %+v", h)
	}
	if now := at(); now.APNs.Sandbox || string(now.APNs.Key) != string(before.APNs.Key) || now.APNs.Topic != "example.shop" {
		t.Errorf("%+v", now.APNs)
	}
	// Another key has another id.
	wantProblem(t, b.request("PATCH", "/implementations/shop", "snd", `{"ios":{"key":`+quote(otherP256(t))+`}}`), 400, "/ios/keyId")
	// The key pair of browsers.
	private := base64.RawURLEncoding.EncodeToString(before.VAPID.PrivateKey)
	other, _ := store.GenerateVAPID()
	body := `{"web":{"vapid":{"privateKey":"` + base64.StdEncoding.EncodeToString(other.PrivateKey) + `"%s}}}`
	patch(`{"web":{"vapid":{"privateKey":"` + private + `"}}}`)
	told()
	wantProblem(t, b.request("PATCH", "/implementations/shop", "snd", fmt.Sprintf(body, "")), 400, "/web/vapid/privateKey", "replaceKey")
	patch(fmt.Sprintf(body, `,"replaceKey":true`))
	if now := at(); now.VAPID.PublicText() != other.PublicText() || now.VAPID.Subject != "mailto:push@shop.example" {
		t.Errorf("%+v", now.VAPID)
	}
	told(store.LaneWebPush)
	patch(`{"web":{"vapid":{"replaceKey":true}}}`)
	if at().VAPID.PublicText() == other.PublicText() {
		t.Error("no key pair was made")
	}
	told(store.LaneWebPush)
	// FCM for iOS with Android's key, and what depends on that.
	patch(`{"ios":{"provider":"fcm"}}`)
	told(store.LaneIOS)
	wantProblem(t, b.request("PATCH", "/implementations/shop", "snd", `{"android":null}`), 400, "/ios/serviceAccount")
	if v := patch(`{"android":null,"ios":null,"web":null}`); v["android"] != nil || v["ios"] != nil || v["web"] != nil || len(v["status"].([]any)) != 0 {
		t.Errorf("%v", v)
	}
	told(store.LaneAndroid, store.LaneIOS, store.LaneWebPush, store.LaneWebFCM)
	// The secret of status changes.
	patch(`{"statusSigningSecret":"whsec_` + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 32))) + `"}`)
	if string(at().StatusSecret) != strings.Repeat("x", 32) {
		t.Error("the secret was not set")
	}
	if v := patch(`{"statusSigningSecret":null}`); v["statusSigningSecret"] != secretPrefix+base64.StdEncoding.EncodeToString(at().StatusSecret) {
		t.Errorf("%v", v)
	}
	wantProblem(t, b.request("PATCH", "/implementations/shop", "snd", `{"id":"other"}`), 400, "id")
}

func otherP256(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestImplementations_Certificate(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.now = time.Now()
	file := goodPKCS12(t)
	v := b.create(`{"id":"shop","ios":{"certificate":"` + file + `","password":"secret","topic":"example.shop"}}`)
	ios := v["ios"].(jsonObject)
	if ios["certificateInfo"].(jsonObject)["subject"] == "" || ios["environment"] != "production" || ios["keyId"] != nil {
		t.Errorf("%v", ios)
	}
	wantProblem(t, b.request("POST", "/implementations", "snd", `{"ios":{"certificate":"`+file+`","password":"wrong","topic":"example.shop"}}`), 400, "/ios/password")
	wantProblem(t, b.request("POST", "/implementations", "snd", `{"ios":{"certificate":"`+file+`","password":"secret","keyId":"ABCDEFGHIJ","topic":"example.shop"}}`), 400, "/ios/keyId")
	wantJSON[jsonObject](t, b.request("PATCH", "/implementations/shop", "snd", `{"ios":{"certificate":"`+file+`","password":"secret","topic":"example.shop2"}}`), 200)
	wantJSON[jsonObject](t, b.request("PATCH", "/implementations/shop", "snd", `{"ios":`+apnsKey(testKeys().p256)+`}`), 200)
	if i, _ := b.store.Implementation(t.Context(), "acme", "shop"); i.APNs.Chain != "" || i.APNs.CertificateKey != nil || len(i.APNs.Key) == 0 {
		t.Errorf("%+v", i.APNs)
	}
}

func TestImplementations_DeletedWithTheirLanes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	i := b.newApp("app")
	lanes := allLanes(i)
	wantProblem(t, b.request("GET", "/subscriptions/"+lanes[0].String(), "sub", ""), 404)
	wantProblem(t, b.request("DELETE", "/subscriptions/"+lanes[0].String(), "sub", ""), 404)
	wantProblem(t, b.request("POST", "/subscriptions/"+lanes[0].String()+"/confirmation?signature=x", "", ""), 404)
	if w := b.request("DELETE", "/implementations/app", "snd", ""); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if len(b.queue.dropped) != len(lanes) || len(b.mail.lanes) != len(lanes) || len(b.changed) != len(lanes) {
		t.Errorf("dropped are %v, told of %v and %v", b.queue.dropped, b.mail.lanes, b.changed)
	}
	wantProblem(t, b.request("DELETE", "/implementations/app", "snd", ""), 404)
	wantProblem(t, b.request("PATCH", "/implementations/app", "snd", "{}"), 404)
	b.newApp("app2")
	if w := b.request("DELETE", "/accounts/acme", "adm", ""); w.Code != http.StatusNoContent || b.mail.changes[1] != "acme app2" {
		t.Errorf("%d, told of %v", w.Code, b.mail.changes)
	}
}

func TestImplementations_AsManyAsMayBe(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for n := range maxImplementations {
		b.store.implementations[[2]string{"acme", fmt.Sprint("i", n)}] = &store.Implementation{AccountID: "acme", ID: fmt.Sprint("i", n)}
	}
	wantProblem(t, b.request("POST", "/implementations", "snd", `{}`), 409, "1000")
}

// goodPKCS12 is a file in base64 whose password is secret.
func goodPKCS12(t *testing.T) string {
	t.Helper()
	key, leaf := keyAndLeaf(t, "Apple Push Services: example.shop", nil, nil)
	file, err := pkcs12.Modern2023.WithIterations(2).Encode(key, leaf, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(file)
}
