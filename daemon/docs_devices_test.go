package daemon_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"herald/daemon/standin"
)

const devicesDocument = "../docs/devices.md"

// deadToken is the one in the document whose app was uninstalled.
const deadToken = "eXpiredPhone:APA91bOldOldOld"

// iPhone is the token of the one in the document.
const iPhone = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// TestDocs_DevicesCommandsDoWhatTheySay runs every command of the document, in its order, against a daemon with stand-ins in the place of the
// providers. What each prints has to be what stands there, and each JSON in it what a provider, a browser or a receiver was sent.
func TestDocs_DevicesCommandsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	text := document(t, devicesDocument)
	google, err := standin.NewFCM(standin.FCMOptions{Project: "shop-4711", Keep: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer google.Close()
	google.For(deadToken, standin.FCMError("UNREGISTERED"))
	apple, err := standin.NewAPNs(standin.APNsOptions{Topic: "com.example.shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer apple.Close()
	var mu sync.Mutex
	var shown []string // what browsers and iPhones got
	browsers, err := standin.NewWebPush(standin.WebPushOptions{
		Origin: "https://updates.push.services.mozilla.com",
		Received: func(m standin.WebPushMessage) {
			mu.Lock()
			defer mu.Unlock()
			shown = append(shown, string(m.Payload))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer browsers.Close()
	backend := receive(t)

	dir := t.TempDir()
	trusted := apple.CA()
	for _, p := range []interface{ CAFile(string) (string, error) }{google, browsers} {
		path, err := p.CAFile(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		trusted = append(trusted, document(t, path)...)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", trusted)
	h := startWith(t, t.TempDir(), []string{"HERALD_EGRESS_CA_FILE=" + filepath.Join(dir, "ca.pem")}, fmt.Sprintf("providers: {fcm: {url: '%s'}, apns: {url: '%s'}, webpush: {url: '%s'}}",
		google.URL(), apple.URL(), browsers.URL()), "public_url: https://herald.example")
	write("service-account.json", google.ServiceAccount())
	write("AuthKey_ABC123DEFG.p8", apple.Key().PEM)

	pairs := []string{
		"localhost:8420", strings.TrimPrefix(h.URL, "http://"), "ABC123DEFG", apple.Key().KeyID, "TEAM123456", apple.Key().TeamID,
		"https://backend.shop.example", backend.URL, "AuthKey_ABC123DEFG.p8", "AuthKey_ABC123DEFG.p8", "https://oauth2.googleapis.com/token", google.URL() + "/token",
	}
	c := newConsole(t, devicesDocument, pairs...)
	c.dir = dir
	c.prelude = "TOKEN=" + h.token("default", "devices", "send", "subscribe", "publish").token + "\n"
	// sent is all JSON that somebody was sent.
	sent := func() []string {
		mu.Lock()
		list := slices.Clone(shown)
		mu.Unlock()
		for _, r := range google.Requests() {
			list = append(list, string(r.Body))
		}
		if p, ok := apple.Last(iPhone); ok {
			list = append(list, string(p.Payload))
		}
		for _, p := range backend.got() {
			list = append(list, string(p.body))
		}
		return list
	}

	counts := make(map[string]int)
	for _, block := range fences(text) {
		counts[block.language]++
		switch block.language {
		case "sh":
			c.prelude += c.replace.Replace(block.text)
		case "json":
			eventually(t, "somebody is sent "+block.text, func() bool {
				return slices.ContainsFunc(sent(), func(s string) bool { return c.shows(block.text, s, true) })
			})
		case "console":
			for _, cmd := range commands(block) {
				counts["command"]++
				if strings.Contains(cmd.text, "subscription.json") { // which a browser makes, of the key that was made before
					subscribe(t, h, browsers, write)
				}
				c.check(cmd)
			}
		}
	}
	if counts["command"] < 30 || counts["json"] < 5 {
		t.Errorf("only these blocks were found: %v", counts)
	}
	for _, faults := range [][]string{google.Faults(), browsers.Faults()} {
		if len(faults) > 0 {
			t.Errorf("a stand-in finds fault: %v", faults)
		}
	}
}

// subscribe is a browser that subscribes with the key of the implementation shop.
func subscribe(t *testing.T, h *herald, browsers *standin.WebPush, write func(string, []byte)) {
	t.Helper()
	var app struct {
		Web struct {
			VAPID struct{ PublicKey string }
		}
	}
	h.admin().do("GET", "/implementations/shop", nil).is(200).into(&app)
	key, err := base64.RawURLEncoding.DecodeString(app.Web.VAPID.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	subscription, err := browsers.Subscribe(key)
	if err != nil {
		t.Fatal(err)
	}
	write("subscription.json", subscription)
}
