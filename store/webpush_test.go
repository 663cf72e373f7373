package store

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

// The keys of RFC 8291, section 5.
const (
	exampleP256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
	exampleAuth   = "BTBZMqHH6r4Tts7J_aSIgg"
)

func webSubscription(endpoint, p256dh, auth string) string {
	return `{"endpoint":"` + endpoint + `","expirationTime":null,"keys":{"p256dh":"` + p256dh + `","auth":"` + auth + `"}}`
}

func standard(s string, padding int) string {
	return strings.NewReplacer("-", "+", "_", "/").Replace(s) + strings.Repeat("=", padding)
}

func TestWebSubscriptionIsRead(t *testing.T) {
	t.Parallel()
	const endpoint = "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV?x=1"
	point, err := base64.RawURLEncoding.DecodeString(exampleP256DH)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"as browsers write it": webSubscription(endpoint, exampleP256DH, exampleAuth),
		"padded":               webSubscription(endpoint, exampleP256DH+"=", exampleAuth+"=="),
		"standard alphabet":    webSubscription(endpoint, standard(exampleP256DH, 1), standard(exampleAuth, 2)),
		"with a date":          strings.Replace(webSubscription(endpoint, exampleP256DH, exampleAuth), "null", "1796000000000", 1),
		"other members":        strings.Replace(webSubscription(endpoint, exampleP256DH, exampleAuth), "{", `{"contentEncoding":"aes128gcm",`, 1),
		"no expiration":        strings.Replace(webSubscription(endpoint, exampleP256DH, exampleAuth), `"expirationTime":null,`, "", 1),
	} {
		got, err := ParseWebSubscription([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Platform != PlatformWeb || got.Kind != TokenWebPush || got.Token != endpoint || !bytes.Equal(got.P256DH, point) || len(got.Auth) != 16 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWebSubscriptionIsRefusedWithTheMember(t *testing.T) {
	t.Parallel()
	const good = "https://push.example.net/p/1"
	with := func(endpoint string) string { return webSubscription(endpoint, exampleP256DH, exampleAuth) }
	for text, want := range map[string]string{
		``:                            "the subscription is not a JSON object",
		`[]`:                          "the subscription is not a JSON object",
		`"x"`:                         "the subscription is not a JSON object",
		`{}`:                          "endpoint is missing",
		with(good) + "x":              "the subscription is not a JSON object",
		`{"endpoint":"` + good + `"}`: "keys is missing",
		`{"endpoint":7}`:              "endpoint is not of the type",
		`{"endpoint":"` + good + `","keys":{"p256dh":7}}`:          "keys.p256dh is not of the type",
		`{"endpoint":"` + good + `","keys":{"auth":"x"}}`:          "keys.p256dh is missing",
		`{"endpoint":"` + good + `","keys":{"p256dh":"x"}}`:        "keys.auth is missing",
		`{"endpoint":"` + good + `","endpoint":"` + good + `"}`:    "the subscription is not a JSON object",
		with("http://push.example.net/p"):                          "endpoint is not an absolute https URL",
		with("/p"):                                                 "endpoint is not an absolute https URL",
		with("https:///p"):                                         "endpoint is not an absolute https URL",
		with("https:push.example.net"):                             "endpoint is not an absolute https URL",
		with("https://push.exämple.net/p"):                         "endpoint is not an absolute https URL",
		with("https://push.example.net/a b"):                       "endpoint is not an absolute https URL",
		with("https://push.example.net:0/p"):                       "endpoint has a port",
		with("https://push.example.net:65536/p"):                   "endpoint has a port",
		with("https://u:p@push.example.net/p"):                     "endpoint has a user name",
		with("https://push.example.net/p#"):                        "endpoint has a fragment",
		with(good + strings.Repeat("x", 2048)):                     "endpoint is longer than 2048 bytes",
		with(good) + strings.Repeat(" ", 8<<10):                    "the subscription is longer than 8192 bytes",
		webSubscription(good, exampleP256DH[:86]+"A", exampleAuth): "keys.p256dh is not a point",
		webSubscription(good, "BA", exampleAuth):                   "keys.p256dh is not a point",
		webSubscription(good, "", exampleAuth):                     "keys.p256dh is not a point",
		webSubscription(good, "!", exampleAuth):                    "keys.p256dh is not a point",
		webSubscription(good, exampleP256DH, exampleAuth[:21]):     "keys.auth is not 16 bytes",
		webSubscription(good, exampleP256DH, exampleAuth+"AA"):     "keys.auth is not 16 bytes",
		webSubscription(good, exampleP256DH, `\n`+exampleAuth):     "keys.auth is not 16 bytes",
	} {
		_, err := ParseWebSubscription([]byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.100s: %v, want %s…", text, err, want)
		}
	}
}

// FuzzParseWebSubscription holds that what is read is what the registry may keep and a sender can use.
func FuzzParseWebSubscription(f *testing.F) {
	f.Add([]byte(webSubscription("https://push.example.net/p/1", exampleP256DH, exampleAuth)))
	f.Add([]byte(webSubscription("https://[::1]:443/", standard(exampleP256DH, 1), standard(exampleAuth, 2))))
	f.Add([]byte(`{"endpoint":"https://a","keys":{"p256dh":"","auth":null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ParseWebSubscription(text)
		if err != nil {
			if got.Token != "" || got.P256DH != nil || got.Auth != nil {
				t.Fatalf("an error and %+v", got)
			}
			return
		}
		again, err := ParseWebSubscription([]byte(webSubscription(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(got.Token),
			base64.StdEncoding.EncodeToString(got.P256DH), base64.RawURLEncoding.EncodeToString(got.Auth))))
		if err != nil || again.Token != got.Token || !bytes.Equal(again.P256DH, got.P256DH) || !bytes.Equal(again.Auth, got.Auth) {
			t.Fatalf("%+v is read again as %+v, %v", got, again, err)
		}
		if len(got.Token) > MaxEndpointLength || !strings.HasPrefix(strings.ToLower(got.Token), "https://") || !validPoint(got.P256DH) || len(got.Auth) != 16 {
			t.Fatalf("%+v", got)
		}
	})
}

func TestVAPIDIsMadeAndRead(t *testing.T) {
	t.Parallel()
	made, err := GenerateVAPID()
	if err != nil {
		t.Fatal(err)
	}
	private, public := base64.RawURLEncoding.EncodeToString(made.PrivateKey), base64.RawURLEncoding.EncodeToString(made.PublicKey)
	const subject = "mailto:push@example.com"
	for _, publicKey := range []string{"", public, public + "=", standard(public, 1)} {
		got, err := ParseVAPID(standard(private, 1), publicKey, subject)
		if err != nil || !bytes.Equal(got.PrivateKey, made.PrivateKey) || !bytes.Equal(got.PublicKey, made.PublicKey) || got.Subject != subject {
			t.Errorf("%q: %+v, %v", publicKey, got, err)
		}
	}
	other, err := GenerateVAPID()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ private, public, subject, want string }{
		{"", public, subject, "privateKey is not 32 bytes"},
		{private[:40], public, subject, "privateKey is not 32 bytes"},
		{strings.Repeat("A", 43), public, subject, "privateKey is not a key"},
		{strings.Repeat("_", 42) + "8", public, subject, "privateKey is not a key"},
		{private, "BA", subject, "publicKey is not a point"},
		{private, base64.RawURLEncoding.EncodeToString(other.PublicKey), subject, "publicKey does not belong"},
		{private, public, "", "subject is not"},
	} {
		if _, err := ParseVAPID(c.private, c.public, c.subject); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestVAPIDSubjectHasARealHost(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"mailto:push@example.com", "mailto:a.b+c@Push.Example.co.uk", "https://example.com", "https://example.com:8443/contact?x=1",
	} {
		if err := CheckVAPIDSubject(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "push@example.com", "mailto:", "mailto:push", "mailto:@example.com", "mailto:push@", "mailto:push@localhost", "mailto:push@host.local",
		"mailto:push@x.invalid", "mailto:push@127.0.0.1", "mailto:<push@example.com>", "mailto:a@example.com,b@example.com", "mailto:a@b@example.com",
		"mailto:push@example.com?subject=x", "mailto:push@-a.com", "mailto:push@example..com", "mailto:pu sh@example.com", "mailto:püsh@example.com",
		"http://example.com", "https://", "https://localhost/x", "https://a.LOCAL", "https://10.0.0.1/", "https://[2001:db8::1]/", "https://u@example.com",
		"https://sub.localhost", "https://example", "tel:+3112345", "https://example.com/" + strings.Repeat("x", 256),
	} {
		if err := CheckVAPIDSubject(bad); err == nil || !strings.HasPrefix(err.Error(), "subject ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
