package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The rows R: the registry of device tokens, and the implementations that reach the devices.

// privateKeys are made once: an RSA key takes a while.
var privateKeys = sync.OnceValue(func() (k struct{ rsa, p256 string }) {
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
	k.p256 = text(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	return k
})

// account4711 is a service account.
func account4711() fields {
	return fields{
		"type": "service_account", "project_id": "shop-4711", "private_key_id": "8d1c", "private_key": privateKeys().rsa,
		"client_email": "push@shop-4711.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
	}
}

// allPlatforms is an implementation that reaches every kind of device.
func allPlatforms(id string) fields {
	return fields{
		"id": id, "name": "The app " + id, "android": fields{"serviceAccount": account4711()},
		"ios": fields{"key": privateKeys().p256, "keyId": "ABCDEFGHIJ", "teamId": "KLMNOPQRST", "topic": "example.shop", "environment": "sandbox"},
		"web": fields{"vapid": fields{"subject": "mailto:push@shop.example"}},
	}
}

// browser is a subscription of the Push API.
func browser() fields {
	return fields{"endpoint": "https://push.example/s/4711-abcdef", "expirationTime": nil, "keys": fields{
		"p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "auth": "BTBZMqHH6r4Tts7J_aSIgg",
	}}
}

// registration is the published body.
func registration(contact, token string) fields {
	return fields{"routeeContactId": contact, "token": token, "implementationId": "app"}
}

// ofTypes are the types of devices with a token of each.
func ofTypes() map[string]string {
	return map[string]string{"android": "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1", "web": "fcm-web-token:APA91b", "ios": "740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad"}
}

// devices lists the devices of a contact.
func (c *caller) devices(contact string) []map[string]any {
	c.h.t.Helper()
	return c.do("GET", "/contacts/"+url.PathEscape(contact)+"/devices", nil).is(200).list()
}

// withApp starts a daemon that has the implementation app, and returns a caller that registers devices.
func withApp(t *testing.T) (*herald, *caller) {
	t.Helper()
	h := start(t)
	h.admin().do("POST", "/implementations", allPlatforms("app")).is(200)
	return h, h.token("default", "devices")
}

func TestContract_R1_TokensAreStored(t *testing.T) {
	t.Parallel()
	h, c := withApp(t)
	c.do("POST", "/messages/android", registration("c", ofTypes()["android"])).is(200)
	before := c.devices("c")
	h = h.restart()
	after := h.admin().devices("c")
	if len(before) != 1 || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before the restart %v, after it %v", before, after)
	}
}

func TestContract_R2_MapsADeviceToItsContact(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for kind, token := range ofTypes() {
		c.do("POST", "/messages/"+kind, registration("contact of "+kind, token)).is(200)
	}
	for kind, token := range ofTypes() {
		got := c.devices("contact of " + kind)
		if len(got) != 1 || got[0]["type"] != kind || got[0]["implementationId"] != "app" || !strings.HasSuffix(token, got[0]["tokenHint"].(string)) {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

func TestContract_R3_TypesAreHandledDifferently(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	ios := registration("c", "an-installation-id-000")
	ios["tokenType"] = "fid"
	names(t, "an installation id for APNs", c.do("POST", "/messages/ios", ios).problem(400), "tokenType", "APNs")
	web := registration("c", "")
	web["token"] = browser()
	c.do("POST", "/messages/web", web).is(200)
	names(t, "an object for Android", c.do("POST", "/messages/android", web).problem(400), "token", "string")
	names(t, "another type", c.do("POST", "/messages/windows", web).problem(404), "android", "ios", "web")
}

func TestContract_R4_ManyTokensOfManyContacts(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	const contacts, each = 5, 30
	for i := range contacts * each {
		c.do("POST", "/messages/android", registration(fmt.Sprint("c", i%contacts), fmt.Sprint("a-token-with-number-", i))).is(200)
	}
	for i := range contacts {
		var all []string
		path := fmt.Sprint("/contacts/c", i, "/devices?limit=7")
		for path != "" {
			a := c.do("GET", path, nil).is(200)
			for _, d := range a.list() {
				all = append(all, d["id"].(string))
			}
			link, ok := strings.CutSuffix(a.header.Get("Link"), `>; rel="next"`)
			path = strings.TrimPrefix(link, "<")
			if !ok {
				path = ""
			}
		}
		slices.Sort(all)
		if len(slices.Compact(all)) != each {
			t.Errorf("contact %d has %d devices, want %d", i, len(all), each)
		}
	}
}

func TestContract_R5_ImplementationsAreAddedAndVisible(t *testing.T) {
	t.Parallel()
	h := start(t)
	c := h.token("default", "send")
	one := c.do("POST", "/implementations", allPlatforms("app")).is(200)
	if one.header.Get("Location") != "/implementations/app" || !strings.HasPrefix(one.text("statusSigningSecret"), "whsec_") {
		t.Errorf("%s at %q", one.body, one.header.Get("Location"))
	}
	fcm := c.do("POST", "/implementations", fields{
		"name": "through FCM", "ios": fields{"provider": "fcm", "serviceAccount": account4711()}, "web": fields{
			"vapid": fields{"subject": "https://shop.example/push"}, "serviceAccount": account4711(),
		}, "statusSigningSecret": aSecret,
	}).is(200)
	if id := fcm.text("id"); len(id) != 24 || strings.Contains(string(fcm.body), aSecret) {
		t.Errorf("%s", fcm.body)
	}
	list := h.token("default", "devices").do("GET", "/implementations", nil).is(200)
	if n := len(list.list()); n != 2 {
		t.Errorf("%d are listed: %s", n, list.body)
	}
	for _, secret := range []string{"PRIVATE KEY", "whsec_"} {
		if strings.Contains(string(list.body), secret) {
			t.Errorf("the list has %s", secret)
		}
	}
	first := c.do("GET", "/implementations?limit=1", nil).is(200)
	rest := c.do("GET", "/implementations?limit=1&after="+first.list()[0]["id"].(string), nil).is(200).list()
	if !strings.Contains(first.header.Get("Link"), "after=") || len(rest) != 1 || rest[0]["id"] != "app" {
		t.Errorf("then %v", rest)
	}
	names(t, "the same id", c.do("POST", "/implementations", fields{"id": "app"}).problem(409), "already")
	public := c.do("GET", "/implementations/app", nil).is(200).object()["web"].(map[string]any)["vapid"].(map[string]any)["publicKey"]
	patched := c.with("Content-Type", "application/merge-patch+json").do("PATCH", "/implementations/app", fields{"name": "Another", "web": fields{"vapid": fields{"replaceKey": true}}, "ios": nil}).is(200).object()
	if patched["name"] != "Another" || patched["ios"] != nil || patched["web"].(map[string]any)["vapid"].(map[string]any)["publicKey"] == public {
		t.Errorf("%v", patched)
	}
	// What is shown is taken back.
	shown := c.do("GET", "/implementations/app", nil).is(200).object()
	again := c.do("PATCH", "/implementations/app", shown).is(200).object()
	again["updatedAt"] = shown["updatedAt"]
	if fmt.Sprint(again) != fmt.Sprint(shown) {
		t.Errorf("%v, want %v", again, shown)
	}
	c.do("DELETE", "/implementations/app", nil).is(204)
	c.do("GET", "/implementations/app", nil).problem(404)
}

func TestContract_R6_Android(t *testing.T) { t.Parallel(); registers(t, "android") }

func TestContract_R7_Web(t *testing.T) { t.Parallel(); registers(t, "web") }

func TestContract_R8_IOS(t *testing.T) { t.Parallel(); registers(t, "ios") }

// registers says that a token of that type is registered, and once only.
func registers(t *testing.T, kind string) {
	t.Helper()
	_, c := withApp(t)
	body := registration("test1", ofTypes()[kind])
	for range 2 {
		if a := c.do("POST", "/messages/"+kind, body).is(200); string(a.body) != `{"routeeContactId":"test1"}` {
			t.Errorf("the answer is %s", a.body)
		}
	}
	list := c.devices("test1")
	if len(list) != 1 || list[0]["type"] != kind || strings.Contains(fmt.Sprint(list), ofTypes()[kind]) {
		t.Fatalf("%v", list)
	}
	// With another contact the device moves there.
	c.do("POST", "/messages/"+kind, registration("test2", ofTypes()[kind])).is(200)
	if moved := c.devices("test2"); len(c.devices("test1")) != 0 || len(moved) != 1 {
		t.Errorf("moved to %v", moved)
	}
	one := c.do("GET", "/devices/"+c.devices("test2")[0]["id"].(string), nil).is(200).object()
	if one["routeeContactId"] != "test2" {
		t.Errorf("%v", one)
	}
	c.do("DELETE", "/devices/"+one["id"].(string), nil).is(204)
	c.do("DELETE", "/devices/"+one["id"].(string), nil).problem(404)
}

func TestContract_R9_MethodIsPost(t *testing.T) {
	t.Parallel()
	h, _ := withApp(t)
	for kind := range ofTypes() {
		for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
			a := h.admin().do(method, "/messages/"+kind, nil)
			a.problem(405)
			names(t, "Allow", a.header.Get("Allow"), "POST")
		}
	}
}

func TestContract_R10_ContentType(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	text, _ := json.Marshal(registration("c", "t"))
	c.with("Content-Type", "application/json; charset=utf-8").do("POST", "/messages/android", string(text)).is(200)
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded"} {
		c.with("Content-Type", kind).do("POST", "/messages/android", string(text)).problem(415)
	}
}

func TestContract_R11_AccessTokenIsNeeded(t *testing.T) {
	t.Parallel()
	h, _ := withApp(t)
	h.as("").do("POST", "/messages/android", registration("c", "t")).problem(401)
	h.as("wrong").do("POST", "/messages/android", registration("c", "t")).problem(401)
	h.token("default", "publish", "subscribe", "send").do("POST", "/messages/android", registration("c", "t")).problem(403)
	h.admin().do("POST", "/messages/android", registration("c", "t")).is(200)
}

func TestContract_R12_ContactIsNeeded(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	needsString(t, c, "routeeContactId")
}

// needsString says that a member of a registration is needed, and a string.
func needsString(t *testing.T, c *caller, member string) {
	t.Helper()
	for _, wrong := range []any{nil, 17, true, []string{"x"}} {
		body := registration("c", "t")
		body[member] = wrong
		names(t, fmt.Sprint(wrong), c.do("POST", "/messages/android", body).problem(400), member)
	}
	body := registration("c", "t")
	delete(body, member)
	names(t, "without it", c.do("POST", "/messages/android", body).problem(400), member)
}

func TestContract_R13_ContactMayBeAnyID(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for i, contact := range []string{"+31612345678", "someone@shop.example", "64be7af142fe590001a22923", "a/b c?d=e&f", "Žluťoučký", "{{x}}"} {
		a := c.do("POST", "/messages/android", registration(contact, fmt.Sprint("some-token-of-them-", i))).is(200)
		if a.text("routeeContactId") != contact || len(c.devices(contact)) != 1 {
			t.Errorf("%s: %s", contact, a.body)
		}
		c.do("DELETE", "/contacts/"+url.PathEscape(contact), nil).is(204)
		if n := len(c.devices(contact)); n != 0 {
			t.Errorf("%s: %d devices are left", contact, n)
		}
	}
}

func TestContract_R14_TokenIsNeeded(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	needsString(t, c, "token")
	names(t, "a blank one", c.do("POST", "/messages/android", registration("c", " ")).problem(400), "token", "blank")
	// The token that succeeds another has its device.
	c.do("POST", "/messages/android", registration("c", "the-older-token")).is(200)
	id := c.devices("c")[0]["id"]
	body := registration("c", "cXyz-22-characters-id")
	body["replaces"], body["tokenType"], body["locale"], body["appVersion"] = "the-older-token", "fid", "nl-BE", "2.1"
	c.do("POST", "/messages/android", body).is(200)
	got := c.devices("c")
	if len(got) != 1 || got[0]["id"] != id || got[0]["tokenType"] != "fid" || got[0]["locale"] != "nl-BE" || got[0]["appVersion"] != "2.1" {
		t.Errorf("%v", got)
	}
}

func TestContract_R15_ImplementationIsNeeded(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	needsString(t, c, "implementationId")
	body := registration("c", "t")
	body["implementationId"] = " "
	names(t, "a blank one", c.do("POST", "/messages/android", body).problem(400), "implementationId", "blank")
}

func TestContract_R16_ImplementationIsOnesOwn(t *testing.T) {
	t.Parallel()
	h, c := withApp(t)
	other := h.account("other", "devices", "send")
	published(t, other.do("POST", "/messages/android", registration("c", "t")), "Routee Details not Found")
	other.do("POST", "/implementations", allPlatforms("app")).is(200)
	other.do("POST", "/messages/android", registration("c", "t")).is(200)
	if n := len(c.devices("c")); n != 0 {
		t.Errorf("%d devices of another account are listed", n)
	}
	id := other.devices("c")[0]["id"].(string)
	c.do("GET", "/devices/"+id, nil).problem(404)
	c.do("DELETE", "/devices/"+id, nil).problem(404)
	c.do("DELETE", "/contacts/c", nil).problem(404)
}

func TestContract_R17_SuccessIs200(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for kind, token := range ofTypes() {
		a := c.do("POST", "/messages/"+kind, registration("c", token)).is(200)
		if got := a.header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

func TestContract_R18_AnswerHasWhatWasSent(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for _, name := range []string{"routeeContactId", "contactId"} {
		body := registration("", "t")
		delete(body, "routeeContactId")
		body[name] = "“12345678”"
		if got := c.do("POST", "/messages/android", body).is(200).object(); len(got) != 1 || got[name] != "“12345678”" {
			t.Errorf("%v", got)
		}
	}
}

func TestContract_R19_TheSameForAllTypes(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for kind := range ofTypes() {
		if a := c.do("POST", "/messages/"+kind, registration("c", "00aa11bb")).is(200); string(a.body) != `{"routeeContactId":"c"}` {
			t.Errorf("%s: %s", kind, a.body)
		}
	}
	if n := len(c.devices("c")); n != 3 {
		t.Errorf("%d devices", n)
	}
}

// published says that a registration was refused as it is published: the title, no code, and the beginning of the detail.
func published(t *testing.T, a *answer, begin string) {
	t.Helper()
	detail := a.problem(http.StatusBadRequest)
	got := a.object()
	//nolint:misspell // the published spelling
	if got["title"] != "error occured" || got["code"] != nil || !strings.HasPrefix(detail, begin) {
		t.Errorf("refused with %s, want %s", a.body, begin)
	}
}

func TestContract_R20_ErrorsAre400(t *testing.T) {
	t.Parallel()
	h, c := withApp(t)
	h.admin().do("POST", "/implementations", fields{"id": "bare"}).is(200)
	for _, wrong := range []fields{
		{"routeeContactId": "c", "token": "t", "implementationId": "nope"},
		{"routeeContactId": "c", "token": "t", "implementationId": "bare"},
		{"routeeContactId": " ", "token": "t", "implementationId": "app"},
	} {
		published(t, c.do("POST", "/messages/android", wrong), "")
	}
}

func TestContract_R21_NoSuchImplementation(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for kind := range ofTypes() {
		body := registration("c", "00aa")
		body["implementationId"] = "64be7af142fe590001a22923"
		published(t, c.do("POST", "/messages/"+kind, body), "Routee Details not Found")
	}
}

func TestContract_R22_NoCredentials(t *testing.T) {
	t.Parallel()
	h, c := withApp(t)
	h.admin().do("PATCH", "/implementations/app", fields{"ios": nil, "web": nil}).is(200)
	for kind := range ofTypes() {
		a := c.do("POST", "/messages/"+kind, registration("c", "00aa"))
		if kind == "android" {
			a.is(200)
		} else {
			published(t, a, "Device Config not found")
		}
	}
}

func TestContract_R23_NoContact(t *testing.T) {
	t.Parallel()
	_, c := withApp(t)
	for _, contact := range []string{"", " ", "a\nb", strings.Repeat("x", 257)} {
		published(t, c.do("POST", "/messages/android", registration(contact, "t")), "Error in getting routee Contact")
	}
}
