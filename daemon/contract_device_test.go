package daemon_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"
)

// What implementations and the notifications of subscriptions promise beyond the rows.

// everyOption is a notification with all that one may have; texts stands for its texts.
func everyOption(text string) fields {
	return fields{
		"body":     fields{"title": fields{"en": text, "nl": text}, "text": fields{"en": text, "nl": text}, "forceLocale": "nl"},
		"imageUrl": "https://cdn.example/x.png", "data": fields{"orderId": text},
		"android": fields{
			"clickAction": "OPEN", "icon": "i", "color": "#a0b1c2", "channelId": "c", "tag": "t", "localizedTitle": "lt", "localizedTitleArgs": []string{"1"},
			"localizedText": "lx", "localizedTextArgs": []string{"2"}, "ttl": 5,
		},
		"apn": fields{
			"localizedTitle": "lt", "localizedTitleArgs": []string{"1"}, "localizedText": "lx", "localizedTextArgs": []string{"2"}, "subtitle": "s", "category": "c",
			"threadId": "th", "targetContentId": "tc", "interruptionLevel": "critical", "mutableContent": true, "critical": true, "volume": 0.5, "relevanceScore": 0.25, "ttl": 6,
		},
		"web": fields{
			"iconUrl": "https://cdn.example/i", "targetUrl": "https://shop.example/t", "badgeUrl": "https://cdn.example/b", "tag": "w",
			"requireInteraction": true, "renotify": true, "ttl": 7,
		},
		"actions": []any{fields{"id": "yes", "title": "Yes", "iconUrl": "https://cdn.example/y"}},
		"badge":   1, "sound": "default", "ttl": 60, "priority": "normal", "collapseKey": "k",
	}
}

func TestContract_Subscription_NotifiesInPlaceOfAPush(t *testing.T) {
	t.Parallel()
	h, _ := withApp(t)
	c := h.token("default", "subscribe", "send")
	notification := everyOption("Order {{id}}")
	notification["implementationId"], notification["routeeContactId"] = "app", "{{customer.id}}"
	made := c.do("POST", "/subscriptions", fields{"events": []string{"order.*"}, "notification": notification}).is(200).object()
	if made["state"] != "active" || made["signingSecret"] != nil || made["dataCallbackURL"] != nil || fmt.Sprint(made["notification"]) != fmt.Sprint(notification) {
		t.Errorf("made is %v", made)
	}
	path := "/subscriptions/" + made["id"].(string)
	for _, method := range []string{"PUT", "PATCH"} {
		again := c.do(method, path, made).is(200).object()
		again["updatedAt"] = made["updatedAt"]
		if fmt.Sprint(again) != fmt.Sprint(made) {
			t.Errorf("%s of what was read made %v of %v", method, again, made)
		}
	}
	h = h.restart()
	if got := h.read(made["id"].(string)); fmt.Sprint(got["notification"]) != fmt.Sprint(notification) {
		t.Errorf("after the restart it is %v", got)
	}
	c = h.as(c.token)
	for _, action := range []string{"/secret", "/validation"} {
		names(t, action, c.do("POST", path+action, nil).problem(409), "notifies devices")
	}
	silent := fields{"implementationId": "app", "contactId": "c", "silent": true}
	if got := c.do("PATCH", path, fields{"notification": silent}).is(200).object()["notification"].(map[string]any); got["silent"] != true || got["routeeContactId"] != "c" {
		t.Errorf("patched is %v", got)
	}
	names(t, "both", c.do("PATCH", path, fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).problem(400), "notification")
	push := c.do("PATCH", path, fields{"dataCallbackURL": "http://127.0.0.1:8421/", "notification": nil}).is(200).object()
	if push["notification"] != nil || push["method"] != "POST" {
		t.Errorf("as a push it is %v", push)
	}
	wrong := everyOption("{{")
	wrong["implementationId"], wrong["routeeContactId"] = "nope", "{{a..b}}"
	names(t, "a wrong one", c.do("POST", "/subscriptions", fields{"notification": wrong}).problem(400), "fields are wrong", "/notification/routeeContactId")
	notification["implementationId"] = "nope"
	names(t, "no implementation", c.do("POST", "/subscriptions", fields{"notification": notification}).problem(400), "/notification/implementationId")
	names(t, "no scope", h.token("default", "subscribe").do("POST", "/subscriptions", fields{"notification": silent}).problem(403), "send")
}

func TestContract_Implementation_CertificateAndKeys(t *testing.T) {
	t.Parallel()
	h := start(t)
	c := h.token("default", "send")
	file := clientFile(t)
	ios := fields{"provider": "apns", "certificate": file, "password": "secret", "topic": "example.shop", "environment": "production"}
	made := c.do("POST", "/implementations", fields{"id": "app", "ios": ios, "web": fields{"vapid": fields{
		"privateKey": "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94", "subject": "mailto:push@shop.example",
		"publicKey": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
	}}}).is(200).object()
	shown, _ := made["ios"].(map[string]any)["certificateInfo"].(map[string]any)
	if !strings.Contains(fmt.Sprint(shown["subject"]), "CN=") {
		t.Errorf("the certificate is shown as %v", made["ios"])
	}
	moment(t, shown["notAfter"])
	delete(made, "statusSigningSecret")
	c.do("PATCH", "/implementations/app", made).is(200)
	rotated := c.do("PATCH", "/implementations/app", fields{"statusSigningSecret": nil}).is(200).text("statusSigningSecret")
	if !strings.HasPrefix(rotated, "whsec_") {
		t.Errorf("the new secret is %q", rotated)
	}
	c.do("PATCH", "/implementations/app", fields{"statusSigningSecret": aSecret}).is(200)
	ios["password"] = "wrong"
	names(t, "a wrong password", c.do("PATCH", "/implementations/app", fields{"ios": ios}).problem(400), "/ios/password")
	names(t, "a wrong kind of key", c.do("PATCH", "/implementations/app", fields{"ios": fields{"key": privateKeys().rsa, "keyId": "ABCDEFGHIJ", "teamId": "KLMNOPQRST"}}).problem(400), "/ios/key", "RSA")
	account := account4711()
	account["token_uri"] = "https://collector.example/token"
	names(t, "a foreign token_uri", c.do("PATCH", "/implementations/app", fields{"android": fields{"serviceAccount": account}}).problem(400), "token_uri", "googleapis.com")
	names(t, "another key pair", c.do("PATCH", "/implementations/app", fields{"web": fields{"vapid": fields{"privateKey": "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"}}}).problem(400), "replaceKey")
}

// A lane of an implementation is nobody's subscription, and a device of one implementation is found by it.
func TestContract_Devices_OfOneImplementation(t *testing.T) {
	t.Parallel()
	h, c := withApp(t)
	h.admin().do("POST", "/implementations", allPlatforms("two")).is(200)
	if list := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(list) != 0 {
		t.Errorf("the subscriptions are %v", list)
	}
	for _, app := range []string{"app", "two"} {
		body := registration("c", "a-token-of-"+app)
		body["implementationId"] = app
		c.do("POST", "/messages/android", body).is(200)
	}
	if list := c.do("GET", "/contacts/c/devices?implementationId=two", nil).is(200).list(); len(list) != 1 || list[0]["implementationId"] != "two" {
		t.Errorf("of one implementation there are %v", list)
	}
	h.admin().do("DELETE", "/implementations/two", nil).is(204)
	if list := c.devices("c"); len(list) != 1 || list[0]["implementationId"] != "app" {
		t.Errorf("after the other was deleted there are %v", list)
	}
}

// clientFile is a PKCS #12 file in base64 whose password is secret.
func clientFile(t *testing.T) string {
	t.Helper()
	key := newKey(t)
	file, err := pkcs12.Modern2023.WithIterations(2).Encode(key, authority(t).issue(t, "Apple Push Services: example.shop", key), nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(file)
}
