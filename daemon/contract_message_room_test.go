package daemon_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"herald/daemon/standin"
)

// A message that cannot be made durable is answered 503, and nothing of it is sent; what was accepted waits while the credentials are wrong, over a
// restart too, goes out when they are mended, and then there is room again.
func TestContract_NoRoomForMessagesIs503(t *testing.T) {
	t.Parallel()
	provider, err := standin.NewFCM(standin.FCMOptions{Keep: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.Close)
	ca, err := provider.CAFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var good map[string]string
	if err := json.Unmarshal(provider.ServiceAccount(), &good); err != nil {
		t.Fatal(err)
	}
	good["token_uri"] = "https://oauth2.googleapis.com/token"
	wrong := maps.Clone(good)
	wrong["client_email"] = "another@standin.iam.gserviceaccount.com"
	account := func(a map[string]string) map[string]any {
		return map[string]any{"name": "Shop", "android": map[string]any{"serviceAccount": a}}
	}
	environ := []string{"HERALD_EGRESS_CA_FILE=" + ca, "HERALD_PROVIDERS_FCM_URL=" + provider.URL()}
	dir, settings := t.TempDir(), "retention: {max_bytes: 16MiB}"
	h := startWith(t, dir, environ, settings)
	made := account(wrong)
	made["id"] = "shop"
	h.admin().do("POST", "/implementations", made).is(200)
	const devices = 20
	for n := range devices {
		h.admin().do("POST", "/messages/android", map[string]any{"implementationId": "shop", "routeeContactId": "ann", "token": fmt.Sprintf("device-%d-of-ann", n)}).is(200)
	}
	message := func(n int) map[string]any {
		return map[string]any{
			"implementationId": "shop", "routeeContactId": "ann", "body": map[string]any{"text": map[string]string{"en": "Hello"}},
			"data": map[string]string{"number": strconv.Itoa(n), "filler": strings.Repeat("x", 3000)}, "ttl": 3600,
		}
	}
	taken := 0
	var full *answer
	for n := 0; full == nil && n < 1000; n++ {
		switch a := h.admin().do("POST", "/messages", message(n)); a.status {
		case 202:
			taken++
		default:
			full = a
		}
	}
	if full == nil || taken < 10 {
		t.Fatalf("with 16 MiB %d messages to %d devices were accepted", taken, devices)
	}
	full.problem(503)
	if s, err := strconv.Atoi(full.header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("503 with Retry-After %q", full.header.Get("Retry-After"))
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = startWith(t, dir, environ, settings)
	h.admin().do("PATCH", "/implementations/shop", account(good)).is(200)
	h.eventually("everything that was accepted has been sent", func() bool { return provider.Taken() >= taken*devices })
	h.eventually("there is room again", func() bool { return h.admin().do("POST", "/messages", message(0)).status == 202 })
	h.eventually("and it is sent", func() bool { return provider.Taken() == (taken+1)*devices })
	for device, n := range provider.Sent() {
		if n != taken+1 {
			t.Errorf("%s got %d notifications of %d", device, n, taken+1)
		}
	}
}
