package daemon_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon/standin"
)

// Row R24: a message reaches the right devices, with the right text, in the form of each provider.

// greeting is a notification in two languages.
func greeting() fields {
	return fields{"body": fields{
		"title": fields{"en": "Hello", "nl": "Hallo"}, "text": fields{"en": "It is on its way.", "nl": "Hij is onderweg."},
	}}
}

func TestContract_Send_R24_ReachesEveryDeviceOfAContact(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	mine := s.app("other-app", nil)
	a.register("android", "ann", "ann-phone", fields{"locale": "nl-BE"})
	a.register("android", "ann", "ann_installation_id_22", fields{"tokenType": "fid", "locale": "en"})
	a.register("ios", "ann", iphone("ann"), fields{"locale": "nl"})
	a.register("web", "ann", "ann-fcm-web", fields{"locale": "fr"})
	object := a.browser("ann", fields{"locale": "nl"})
	text, asText := a.subscription()
	a.register("web", "ann", string(text), nil)
	a.register("android", "bob", "bob-phone", nil)
	a.register("ios", "bob", iphone("bob"), nil)
	mine.register("android", "ann", "ann-phone-of-other-app", nil)

	before := time.Now()
	id := a.send(to("ann"), greeting())
	m := s.ends(id, "SENT")
	same(t, "the message", m, fields{
		"trackingId": id, "implementationId": "shop", "routeeContactId": "ann", "counts": map[string]any{"queued": 0, "sent": 6, "failed": 0},
	})
	info, _ := m["statusInfo"].(map[string]any)
	if reached := moment(t, info["date"]); info["status"] != "SENT" || reached.Before(before.Add(-time.Second)) || reached.After(time.Now().Add(time.Second)) {
		t.Errorf("the message is %v", info)
	}
	if life := moment(t, m["expiresAt"]).Sub(moment(t, m["createdAt"])); (life - 28*24*time.Hour).Abs() > time.Second {
		t.Errorf("without a ttl it lives %v", life)
	}
	listed := s.devices("ann")
	for _, d := range parts(t, m) {
		same(t, "a device", d, fields{"routeeContactId": "ann", "status": "SENT"})
		if !slices.ContainsFunc(listed, func(l map[string]any) bool { return l["id"] == d["deviceId"] && l["type"] == d["type"] }) {
			t.Errorf("the device %v is none of ann's: %v", d, listed)
		}
		if s, _ := d["serviceMessageId"].(string); s == "" {
			t.Errorf("a device has no id of its provider's: %v", d)
		}
		history, _ := d["statuses"].([]any)
		if len(history) != 1 || history[0].(map[string]any)["status"] != "QUEUED" {
			t.Errorf("the earlier statuses are %v", history)
		}
		same(t, "the attempt", attempts(t, d)[0], fields{"outcome": "delivered"})
	}

	nl, en := fields{"title": "Hallo", "body": "Hij is onderweg."}, fields{"title": "Hello", "body": "It is on its way."}
	for device, want := range map[string]struct {
		fid   bool
		shown fields
	}{"ann-phone": {false, nl}, "ann_installation_id_22": {true, en}, "ann-fcm-web": {false, en}} {
		got := s.requests(device)
		if len(got) != 1 || got[0].FID != want.fid || got[0].ValidateOnly {
			t.Errorf("%s got %v", device, got)
			continue
		}
		shown, _ := json.Marshal(at(t, got[0].Body, "message", "notification"))
		holds(t, device, shown, want.shown)
	}
	if p, ok := s.apns.Last(iphone("ann")); !ok || s.apns.Sent(iphone("ann")) != 1 {
		t.Errorf("the iPhone got %d", s.apns.Sent(iphone("ann")))
	} else {
		holds(t, "the iPhone", p.Payload, fields{"aps": fields{"alert": nl}})
	}
	for endpoint, want := range map[string]fields{object: nl, asText: en} {
		got := s.got(endpoint)
		if len(got) != 1 {
			t.Errorf("a browser got %d", len(got))
			continue
		}
		if title, body := at(t, got[0].Payload, "title"), at(t, got[0].Payload, "options", "body"); title != want["title"] || body != want["body"] {
			t.Errorf("a browser shows %s, want %v", got[0].Payload, want)
		}
	}
	if n := s.fcm.Taken(); n != 3 || s.apns.Stats().Sent != 1 || s.web.Accepted() != 2 {
		t.Errorf("FCM took %d, APNs %d, the push service %d", n, s.apns.Stats().Sent, s.web.Accepted())
	}
	metrics := string(s.as("").do("GET", "/metrics", nil).is(200).body)
	for provider, want := range map[string]float64{"fcm": 3, "apns": 1, "webpush": 2} {
		if n := sample(t, metrics, "herald_notification_attempts_total", `provider="`+provider+`"`, `outcome="delivered"`); n != want {
			t.Errorf("%v attempts of %s are counted, want %v", n, provider, want)
		}
	}
	// What it is made of is nobody's to list.
	for _, path := range []string{"/events", "/deliveries"} {
		if list := s.admin().do("GET", path, nil).is(200).list(); len(list) > 0 {
			t.Errorf("%s lists %v", path, list)
		}
	}
}

// everything is a notification with all there is, for a message to a contact.
func everything() fields {
	return fields{
		"body":     fields{"title": "Hello", "text": "It is on its way."},
		"imageUrl": "https://shop.example/box.png", "data": fields{"orderId": "4711", "Deep": "x"},
		"actions": []fields{{"id": "track", "title": "Track", "iconUrl": "https://shop.example/t.png"}, {"id": "call", "title": "Call"}},
		"badge":   3, "sound": "ping.caf", "ttl": 600, "priority": "normal", "collapseKey": "order 4711",
		"android": fields{
			"clickAction": "OPEN_ORDER", "icon": "box", "color": "#a0B1c2", "channelId": "orders", "tag": "o4711",
			"localizedTitle": "title_key", "localizedTitleArgs": []string{"a"}, "localizedText": "text_key", "localizedTextArgs": []string{"b", "c"}, "ttl": 60,
		},
		"apn": fields{
			"localizedTitle": "TITLE", "localizedTitleArgs": []string{"a"}, "localizedText": "TEXT", "localizedTextArgs": []string{"b", "c"},
			"subtitle": "Order", "category": "ORDER", "threadId": "orders", "targetContentId": "w1", "interruptionLevel": "time-sensitive",
			"mutableContent": true, "critical": true, "volume": 0.5, "relevanceScore": 0.75, "ttl": 120,
		},
		"web": fields{
			"iconUrl": "https://shop.example/i.png", "targetUrl": "https://shop.example/orders/4711#top", "badgeUrl": "https://shop.example/b.png",
			"tag": "o4711", "requireInteraction": true, "renotify": true, "ttl": 180,
		},
	}
}

func TestContract_Send_FieldsOfEveryProvider(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	b := s.app("fcm", fields{"ios": fields{"provider": "fcm"}})
	a.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	a.register("web", "ann", "fcm-web", nil)
	endpoint := a.browser("ann", nil)
	b.register("ios", "ann", "iphone-through-fcm", nil)
	began := time.Now()
	s.ends(a.send(to("ann"), everything()), "SENT")
	s.ends(b.send(to("ann"), everything()), "SENT")

	data := fields{"orderId": "4711", "Deep": "x"}
	message := func(device string) []byte {
		got := s.requests(device)
		if len(got) != 1 {
			t.Fatalf("%s got %d messages", device, len(got))
		}
		m, _ := json.Marshal(at(t, got[0].Body, "message"))
		return m
	}
	holds(t, "android", message("phone"), fields{
		"token": "phone", "data": data, "notification": fields{"image": "https://shop.example/box.png"},
		"android": fields{"priority": "NORMAL", "collapseKey": "order 4711", "ttl": "60s", "notification": fields{
			"icon": "box", "color": "#a0B1c2", "sound": "ping.caf", "tag": "o4711", "clickAction": "OPEN_ORDER", "channelId": "orders",
			"titleLocKey": "title_key", "titleLocArgs": []string{"a"}, "bodyLocKey": "text_key", "bodyLocArgs": []string{"b", "c"}, "notificationCount": 3,
		}},
	})
	aps := fields{
		"alert": fields{"subtitle": "Order", "title-loc-key": "TITLE", "title-loc-args": []string{"a"}, "loc-key": "TEXT", "loc-args": []string{"b", "c"}},
		"badge": 3, "sound": fields{"critical": 1, "name": "ping.caf", "volume": 0.5}, "category": "ORDER", "thread-id": "orders", "target-content-id": "w1",
		"interruption-level": "time-sensitive", "mutable-content": 1, "relevance-score": 0.75,
	}
	webActions := []fields{{"action": "track", "title": "Track", "icon": "https://shop.example/t.png"}, {"action": "call", "title": "Call"}}
	topicOf := s.got(endpoint)[0].Topic
	holds(t, "web through FCM", message("fcm-web"), fields{
		"token": "fcm-web", "data": data, "notification": fields{"title": "Hello", "body": "It is on its way."},
		"webpush": fields{
			"headers": fields{"TTL": "180", "Urgency": "normal", "Topic": topicOf}, "fcmOptions": fields{"link": "https://shop.example/orders/4711#top"},
			"notification": fields{
				"icon": "https://shop.example/i.png", "image": "https://shop.example/box.png", "badge": "https://shop.example/b.png", "tag": "o4711",
				"actions": webActions, "requireInteraction": true, "renotify": true,
			},
		},
	})
	through := message("iphone-through-fcm")
	expires := func(what string, v any, ttl time.Duration) {
		t.Helper()
		var seconds int64
		if _, err := fmt.Sscan(fmt.Sprint(v), &seconds); err != nil {
			t.Errorf("%s: apns-expiration is %v", what, v)
		}
		if d := time.Unix(seconds, 0).Sub(began); d < ttl-2*time.Second || d > ttl+30*time.Second {
			t.Errorf("%s expires after %v, want %v", what, d, ttl)
		}
	}
	expires("iOS through FCM", at(t, through, "apns", "headers", "apns-expiration"), 120*time.Second)
	holds(t, "iOS through FCM", through, fields{
		"token": "iphone-through-fcm", "data": data,
		"apns": fields{
			"headers": fields{"apns-push-type": "alert", "apns-priority": "5", "apns-collapse-id": "order 4711", "apns-expiration": at(t, through, "apns", "headers", "apns-expiration")},
			"payload": fields{"aps": aps}, "fcmOptions": fields{"image": "https://shop.example/box.png"},
		},
	})
	p, ok := s.apns.Last(iphone("ann"))
	if !ok {
		t.Fatal("the iPhone got nothing")
	}
	holds(t, "the iPhone", p.Payload, fields{"aps": aps, "orderId": "4711", "Deep": "x", "image-url": "https://shop.example/box.png"})
	for name, want := range map[string]string{"Apns-Push-Type": "alert", "Apns-Priority": "5", "Apns-Collapse-Id": "order 4711", "Apns-Topic": topic} {
		if got := p.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	expires("the iPhone", p.Header.Get("Apns-Expiration"), 120*time.Second)
	w := s.got(endpoint)[0]
	holds(t, "the browser", w.Payload, fields{
		"title": "Hello", "appBadge": 3, "options": fields{
			"body": "It is on its way.", "icon": "https://shop.example/i.png", "image": "https://shop.example/box.png", "badge": "https://shop.example/b.png",
			"tag": "o4711", "actions": webActions, "requireInteraction": true, "renotify": true,
			"data": fields{"orderId": "4711", "Deep": "x", "url": "https://shop.example/orders/4711#top"},
		},
	})
	if w.TTL < 178 || w.TTL > 180 || w.Urgency != "normal" || len(w.Topic) != 32 {
		t.Errorf("the push has the TTL %d, the urgency %s and the topic %s", w.TTL, w.Urgency, w.Topic)
	}
}

func TestContract_Send_Silent(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	b := s.app("fcm", fields{"ios": fields{"provider": "fcm"}})
	a.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	endpoint := a.browser("ann", nil)
	b.register("ios", "ann", "iphone-through-fcm", nil)
	note := fields{"silent": true, "data": fields{"sync": "orders"}, "ttl": 0}
	s.ends(a.send(to("ann"), note), "SENT")
	s.ends(b.send(to("ann"), note), "SENT")
	holds(t, "android", s.requests("phone")[0].Body, fields{"message": fields{
		"token": "phone", "data": fields{"sync": "orders"}, "android": fields{"priority": "NORMAL", "ttl": "0s"},
	}})
	holds(t, "iOS through FCM", s.requests("iphone-through-fcm")[0].Body, fields{"message": fields{
		"token": "iphone-through-fcm", "data": fields{"sync": "orders"}, "apns": fields{
			"headers": fields{"apns-push-type": "background", "apns-priority": "5", "apns-expiration": "0"}, "payload": fields{"aps": fields{"content-available": 1}},
		},
	}})
	p, _ := s.apns.Last(iphone("ann"))
	holds(t, "the iPhone", p.Payload, fields{"aps": fields{"content-available": 1}, "sync": "orders"})
	if p.Header.Get("Apns-Push-Type") != "background" || p.Header.Get("Apns-Priority") != "5" || p.Header.Get("Apns-Expiration") != "0" {
		t.Errorf("the iPhone's headers are %v", p.Header)
	}
	w := s.got(endpoint)[0]
	holds(t, "the browser", w.Payload, fields{"silent": true, "options": fields{"data": fields{"sync": "orders"}}})
	if w.TTL != 0 || w.Urgency != "low" || w.Topic != "" {
		t.Errorf("the push has the TTL %d, the urgency %s and the topic %s", w.TTL, w.Urgency, w.Topic)
	}
	// What shows something is urgent unless it says otherwise.
	s.ends(a.send(to("ann"), shows("x")), "SENT")
	p, _ = s.apns.Last(iphone("ann"))
	if got := at(t, s.requests("phone")[1].Body, "message", "android", "priority"); got != "HIGH" || p.Header.Get("Apns-Priority") != "10" || s.got(endpoint)[1].Urgency != "high" {
		t.Errorf("android has the priority %v, iOS %s, the web %s", got, p.Header.Get("Apns-Priority"), s.got(endpoint)[1].Urgency)
	}
}

func TestContract_Send_Languages(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	for i, locale := range []string{"nl-BE", "NL", "de-AT", "fr", ""} {
		more := fields{}
		if locale != "" {
			more["locale"] = locale
		}
		a.register("android", "ann", fmt.Sprint("phone-", i), more)
	}
	all := fields{"nl": "nl", "nl-BE": "be", "de": "de", "en": "en"}
	sent := 0
	for _, c := range []struct {
		what string
		body fields
		want [5]string
	}{
		{"the closest, else English", fields{"text": all}, [5]string{"be", "nl", "de", "en", "en"}},
		{"forced", fields{"text": all, "forceLocale": "de"}, [5]string{"de", "de", "de", "de", "de"}},
		{"forced, in capitals", fields{"text": all, "forceLocale": "NL-be"}, [5]string{"be", "be", "be", "be", "be"}},
		{"without English the first", fields{"text": fields{"pt": "pt", "it": "it"}}, [5]string{"it", "it", "it", "it", "it"}},
		{"one for all", fields{"text": "x"}, [5]string{"x", "x", "x", "x", "x"}},
		{"what is whole before what is closer", fields{"title": fields{"en": "T", "nl": "T"}, "text": fields{"en": "en", "nl": "nl", "de": "de"}}, [5]string{"nl", "nl", "en", "en", "en"}},
		{"a title for all", fields{"title": "T", "text": all}, [5]string{"be", "nl", "de", "en", "en"}},
	} {
		s.ends(a.send(to("ann"), fields{"body": c.body}), "SENT")
		sent++
		for i, want := range c.want {
			got := s.requests(fmt.Sprint("phone-", i))
			if len(got) != sent {
				t.Fatalf("%s: phone %d got %d", c.what, i, len(got))
			}
			if shown := at(t, got[sent-1].Body, "message", "notification", "body"); shown != want {
				t.Errorf("%s: phone %d shows %v, want %s", c.what, i, shown, want)
			}
			if c.body["title"] != nil && at(t, got[sent-1].Body, "message", "notification", "title") != "T" {
				t.Errorf("%s: phone %d has no title: %s", c.what, i, got[sent-1].Body)
			}
		}
	}
}

// Both published forms of a message: to a contact, and to the token of a device, which need not be registered.
func TestContract_Send_BothPublishedForms(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	a.register("ios", "ann", iphone("ann"), fields{"locale": "nl"})
	published := fields{
		"title": fields{"en": "Hello", "nl": "Hallo"}, "text": fields{"en": "It is on its way.", "nl": "Hij is onderweg."}, "forceLocale": "nl",
	}
	guide := fields{
		"body": published, "imageUrl": "https://shop.example/box.png",
		"android": fields{"clickAction": "OPEN_ACTIVITY_1", "icon": "myIcon", "localizedTitle": "t", "localizedText": "x"},
	}
	m := s.ends(a.send(to("ann"), guide), "SENT")
	same(t, "the message to a contact", m, fields{"routeeContactId": "ann"})
	m = s.ends(a.send(fields{"contactId": "ann"}, guide), "SENT")
	same(t, "the message to a contact of the other name", m, fields{"routeeContactId": "ann"})

	for i, c := range []struct {
		kind, platform string
		token          any
		block          fields
		device         bool
	}{
		{"APPLE", "ios", iphone("ann"), fields{"apn": fields{"ttl": 2419200, "localizedTitle": "T", "localizedText": "X"}}, true},
		{"APPLE", "ios", iphone("nobody"), nil, false},
		{"ios", "ios", iphone("nobody too"), nil, false},
		{"ANDROID", "android", "nobody-phone", fields{"android": fields{"ttl": 0}}, false},
		{"WEB", "web", "nobody-fcm-web", fields{"web": fields{"iconUrl": "https://shop.example/i.png", "targetUrl": "https://shop.example/"}}, false},
	} {
		note := fields{"body": published, "data": fields{"key1": "value1"}}
		maps.Copy(note, c.block)
		a := s.admin().do("POST", "/messages", merged(fields{"implementationId": "shop"}, toToken(c.kind, c.token), note)).is(202)
		id := a.text("trackingId")
		if got := a.header.Get("Location"); got != "/messages/"+id {
			t.Errorf("case %d: Location is %q", i, got)
		}
		m := s.ends(id, "SENT")
		d := part(t, m)
		same(t, c.kind, d, fields{"type": c.platform, "status": "SENT"})
		if (d["deviceId"] != nil) != c.device || (m["routeeContactId"] == "ann") != c.device {
			t.Errorf("case %d: the message is %v", i, m)
		}
	}
	text, endpoint := a.subscription()
	s.ends(a.send(toToken("WEB", json.RawMessage(text)), greeting()), "SENT")
	s.ends(a.send(toToken("web", string(text)), greeting()), "SENT")
	s.ends(a.send(fields{"deviceToken": fields{"type": "ANDROID", "token": "an_installation_id_222", "tokenType": "fid"}}, greeting()), "SENT")
	if n := len(s.got(endpoint)); n != 2 {
		t.Errorf("the browser got %d", n)
	}
	if got := s.requests("an_installation_id_222"); len(got) != 1 || !got[0].FID {
		t.Errorf("the installation id got %v", got)
	}
	if n := s.apns.Sent(iphone("ann")); n != 3 {
		t.Errorf("the iPhone got %d", n)
	}
	if p, _ := s.apns.Last(iphone("nobody")); at(t, p.Payload, "aps", "alert", "title") != "Hallo" {
		t.Errorf("an iPhone that is not registered got %s", p.Payload)
	}
}

// merged is one object of several.
func merged(all ...fields) fields {
	out := fields{}
	for _, f := range all {
		maps.Copy(out, f)
	}
	return out
}

func TestContract_Send_ManyContacts(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	const known, unknown = 330, 120
	contacts := make([]string, 0, known+unknown+1)
	var wants []string
	for i := range known {
		contact := fmt.Sprintf("contact-%03d", i)
		contacts = append(contacts, contact)
		device := fmt.Sprintf("phone-%03d", i)
		a.register("android", contact, device, nil)
		wants = append(wants, device)
		if i%100 == 7 {
			a.register("ios", contact, iphone(contact), nil)
		}
	}
	for i := range unknown {
		contacts = slices.Insert(contacts, i*3, fmt.Sprintf("stranger-%03d", i))
	}
	contacts = append(contacts, "contact-000") // again
	const devices = known + 4
	id := a.post("/messages/multicast", fields{"contacts": contacts}, greeting()).is(202).text("trackingId")
	m := s.ends(id, "SENT")
	same(t, "the message", m, fields{
		"contacts": known + unknown, "contactsLookedUp": known + unknown, "counts": map[string]any{"queued": 0, "sent": devices, "failed": 0},
	})
	if m["routeeContactId"] != nil || len(parts(t, m)) != 100 || m["next"] == nil {
		t.Errorf("the first page is of %v, has %d devices, and is followed by %v", m["routeeContactId"], len(parts(t, m)), m["next"])
	}
	var got []string
	for device, n := range s.fcm.Sent() {
		if n != 1 {
			t.Errorf("%s got %d", device, n)
		}
		got = append(got, device)
	}
	slices.Sort(got)
	if !slices.Equal(got, wants) {
		t.Errorf("%d phones got it, want %d", len(got), len(wants))
	}

	seen := map[string]bool{}
	path := "/messages/" + id + "?limit=90"
	for pages := 1; path != ""; pages++ {
		page := s.admin().do("GET", path, nil).is(200)
		m := page.object()
		for _, d := range parts(t, m) {
			seen[d["deviceId"].(string)] = true
		}
		same(t, "a page", m, fields{"counts": map[string]any{"queued": 0, "sent": devices, "failed": 0}, "status": "SENT"})
		path = ""
		if next, ok := m["next"].(string); ok {
			path = "/messages/" + id + "?limit=90&after=" + next
			if link := page.header.Get("Link"); !strings.Contains(link, "after="+next) || !strings.Contains(link, `rel="next"`) {
				t.Errorf("Link is %q, next %q", link, next)
			}
		} else if page.header.Get("Link") != "" || pages != 4 {
			t.Errorf("page %d is the last, with the Link %q", pages, page.header.Get("Link"))
		}
	}
	if len(seen) != devices {
		t.Errorf("the pages have %d devices, want %d", len(seen), devices)
	}
	for _, bad := range []string{"?limit=0", "?limit=x", "?after=x", "?after=-1"} {
		s.admin().do("GET", "/messages/"+id+bad, nil).problem(400)
	}

	// Where nobody has a device, there is nobody to send to.
	m = s.ends(a.post("/messages/multicast", fields{"routeeContactIds": []string{"stranger-1", "stranger-2"}}, greeting()).is(202).text("trackingId"), "FAILED")
	same(t, "the message to strangers", m, fields{"reason": "no-device", "contacts": 2, "contactsLookedUp": 2})
	if info, _ := m["statusInfo"].(map[string]any); info["reason"] != "no-device" {
		t.Errorf("the message to strangers is %v", info)
	}
	if other := s.account("other", "send"); other.do("GET", "/messages/"+id, nil).problem(404) == "" {
		t.Error("another account's message is found")
	}
	s.admin().do("GET", "/messages/msg_00000000000000000000000000", nil).problem(404)
}

func TestContract_Send_Later(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	a.register("ios", "bob", iphone("bob"), nil)
	due := time.Now().Add(1500 * time.Millisecond).UTC().Truncate(time.Millisecond)
	later := fields{"sendAt": due.Format(time.RFC3339Nano), "ttl": 60}
	ids := map[string]string{
		"a contact":     a.send(to("ann"), merged(greeting(), later)),
		"a token":       a.send(toToken("ANDROID", "unregistered"), merged(greeting(), later)),
		"many contacts": a.post("/messages/multicast", fields{"contacts": []string{"bob", "eve"}}, merged(greeting(), later)).is(202).text("trackingId"),
	}
	for what, id := range ids {
		m := s.message(id)
		same(t, "a later message to "+what, m, fields{"status": "QUEUED"})
		if !moment(t, m["sendAt"]).Equal(due) || !moment(t, m["expiresAt"]).Equal(due.Add(time.Minute)) {
			t.Errorf("to %s it is sent at %v and expires at %v, want %v and a minute later", what, m["sendAt"], m["expiresAt"], due)
		}
	}
	s.again() // which changes nothing of it
	// Whose devices they are is found out when it is sent.
	a.register("android", "ann", "second-phone", nil)
	for what, id := range ids {
		m := s.ends(id, "SENT")
		for _, d := range parts(t, m) {
			if tried := moment(t, attempts(t, d)[0]["time"]); tried.Before(due.Add(-time.Millisecond)) {
				t.Errorf("to %s it went at %v, before %v", what, tried, due)
			}
		}
	}
	for device, want := range map[string]int{"phone": 1, "second-phone": 1, "unregistered": 1} {
		if got := len(s.requests(device)); got != want {
			t.Errorf("%s got %d", device, got)
		}
	}
	if s.apns.Sent(iphone("bob")) != 1 {
		t.Error("bob's iPhone got none")
	}
	m := s.ends(a.send(to("ann"), merged(greeting(), fields{"sendAt": "2020-01-01T00:00:00Z"})), "SENT")
	if m["sendAt"] != nil {
		t.Errorf("a time that is over is told: %v", m["sendAt"])
	}
	detail := a.post("/messages", to("ann"), greeting(), fields{"sendAt": time.Now().AddDate(0, 0, 8).UTC().Format(time.RFC3339)}).problem(400)
	names(t, "too far ahead", detail, "sendAt", "144 hours")
}

func TestContract_Send_RepeatsOfARequest(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	a.register("android", "ann", "phone-2", nil)
	body := merged(fields{"implementationId": "shop"}, to("ann"), shows("one"))
	keyed := s.admin().with("Idempotency-Key", "key 1")
	id := keyed.do("POST", "/messages", body).is(202).text("trackingId")
	s.ends(id, "SENT")
	for range 3 {
		if again := keyed.do("POST", "/messages", body).is(202).text("trackingId"); again != id {
			t.Errorf("the repeat is %s, want %s", again, id)
		}
	}
	other := merged(body, shows("two"))
	names(t, "another message", keyed.do("POST", "/messages", other).problem(409), "Idempotency-Key", "another message")
	at := s.admin().with("Idempotency-Key", "key at once")
	once, answers := merged(body, shows("at once"), toToken("ANDROID", "phone-3")), make([]*answer, 12)
	delete(once, "routeeContactId")
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = at.do("POST", "/messages", once) })
	}
	wg.Wait()
	for _, a := range answers {
		if a.is(202).text("trackingId") != answers[0].text("trackingId") {
			t.Errorf("at once they are %s and %s", a.body, answers[0].body)
		}
	}
	s.ends(answers[0].text("trackingId"), "SENT")
	member := merged(other, fields{"idempotencyKey": "key 2"})
	id2 := s.admin().do("POST", "/messages", member).is(202).text("trackingId")
	if again := s.admin().do("POST", "/messages", member).is(202).text("trackingId"); again != id2 || id2 == id {
		t.Errorf("with the member the messages are %s and %s, the first was %s", id2, again, id)
	}
	s.admin().do("POST", "/messages", merged(body, fields{"idempotencyKey": "key 2"})).problem(409)
	names(t, "two keys", keyed.do("POST", "/messages", member).problem(400), "idempotencyKey", "Idempotency-Key")
	many := merged(fields{"implementationId": "shop", "contacts": []string{"ann"}}, shows("three"))
	multi := s.admin().with("Idempotency-Key", "key 3")
	id3 := multi.do("POST", "/messages/multicast", many).is(202).text("trackingId")
	if again := multi.do("POST", "/messages/multicast", many).is(202).text("trackingId"); again != id3 {
		t.Errorf("the repeat to many is %s, want %s", again, id3)
	}
	multi.do("POST", "/messages/multicast", merged(many, shows("four"))).problem(409)
	if again := s.admin().do("POST", "/messages/multicast", merged(many, fields{"idempotencyKey": "key 4"})).is(202).text("trackingId"); again == id3 {
		t.Error("another key stands for the same message")
	}
	s.ends(id2, "SENT")
	s.ends(id3, "SENT")
	s.eventually("all have arrived", func() bool { return s.fcm.Taken() == 9 })
	if n := s.fcm.Sent(); n["phone"] != 4 || n["phone-2"] != 4 || n["phone-3"] != 1 {
		t.Errorf("the phones got %v", n)
	}
	// An account does not see another's keys.
	s.account("other", "send")
	s.admin().with("Herald-Account", "other").do("POST", "/implementations", fields{"id": "shop", "name": "x", "android": s.firebase()}).is(200)
	foreign := s.admin().with("Herald-Account", "other").with("Idempotency-Key", "key 1")
	got := foreign.do("POST", "/messages", merged(fields{"implementationId": "shop"}, toToken("ANDROID", "foreign"), shows("one"))).is(202).text("trackingId")
	if got == id {
		t.Error("two accounts share a message")
	}
}

func TestContract_Send_DryRun(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("ann"), nil)
	endpoint := a.browser("ann", nil)
	dry := fields{"dryRun": true}
	got := a.post("/messages", to("ann"), greeting(), dry).is(200).object()
	same(t, "the dry run", got, fields{"dryRun": true, "devices": 3})
	s.ends(a.send(to("ann"), greeting()), "SENT")
	p, _ := s.apns.Last(iphone("ann"))
	message, _ := json.Marshal(at(t, s.requests("phone")[0].Body, "message"))
	want := map[string]any{
		"android": float64(len(message) - len(`"token":"phone",`)), "ios": float64(len(p.Payload)), "web": float64(len(s.got(endpoint)[0].Payload)),
	}
	if fmt.Sprint(got["payloadBytes"]) != fmt.Sprint(want) {
		t.Errorf("the dry run tells the sizes %v, and they are %v", got["payloadBytes"], want)
	}
	got = a.post("/messages", toToken("APPLE", iphone("x")), greeting(), dry).is(200).object()
	same(t, "the dry run to a token", got, fields{"dryRun": true, "devices": 1})
	got = a.post("/messages/multicast", fields{"contacts": []string{"ann", "bob"}}, greeting(), dry).is(200).object()
	if sizes, _ := got["payloadBytes"].(map[string]any); len(sizes) != 3 {
		t.Errorf("the dry run to many is %v", got)
	}
	a.post("/messages", to("nobody"), greeting(), dry).problem(404)
	a.post("/messages", to("ann"), fields{"body": fields{"text": strings.Repeat("x", 4097)}}, dry).problem(400)
	if n := s.fcm.Taken() + s.apns.Stats().Sent + s.web.Accepted(); n != 3 {
		t.Errorf("the providers took %d", n)
	}
}

// The limits are those of the providers, and who is over them is told by how much, before anything is accepted.
func TestContract_Send_Sizes(t *testing.T) {
	t.Parallel()
	s := startSending(t, "limits: {body_bytes: 1MiB}")
	a := s.app("shop", nil)
	b := s.app("fcm", fields{"ios": fields{"provider": "fcm"}})
	text, endpoint := a.subscription()
	for _, c := range []struct {
		what, platform, kind, limit string
		by                          *app
		token                       any
	}{
		{"android", "android", "ANDROID", "4,096", a, "phone"},
		{"iOS", "ios", "APPLE", "4,096", a, iphone("phone")},
		{"iOS through FCM", "ios", "APPLE", "4,096", b, "iphone"},
		{"web through FCM", "web", "WEB", "4,096", a, "fcm-web"},
		{"a browser", "web", "WEB", "3,993", a, json.RawMessage(text)},
	} {
		filled := func(n int) fields {
			return fields{"body": fields{"text": "x"}, "data": fields{"fill": strings.Repeat("x", n)}}
		}
		size := func(n int) int {
			sizes := c.by.post("/messages", toToken(c.kind, c.token), filled(n), fields{"dryRun": true}).is(200).object()["payloadBytes"].(map[string]any)
			return int(sizes[c.platform].(float64))
		}
		var limit int
		if _, err := fmt.Sscan(strings.ReplaceAll(c.limit, ",", ""), &limit); err != nil {
			t.Fatal(err)
		}
		n := 100 + limit - size(100)
		s.ends(c.by.send(toToken(c.kind, c.token), filled(n)), "SENT")
		for _, over := range []int{1, 1500} {
			detail := c.by.post("/messages", toToken(c.kind, c.token), filled(n+over)).problem(400)
			names(t, c.what, detail, "data: is ", c.platform, c.limit, map[int]string{1: "1 more than", 1500: "1,500 more than"}[over])
		}
		names(t, c.what, c.by.post("/messages", toToken(c.kind, c.token), fields{"body": fields{"title": "x", "text": strings.Repeat("x", 4090)}}).problem(400), "body: is ", c.platform, c.limit)
	}
	if n := len(s.got(endpoint)); n != 1 {
		t.Errorf("the browser got %d", n)
	}
	// Of a contact, and of many, all devices count.
	a.register("android", "ann", "ann-phone", nil)
	a.browser("ann", nil)
	between := fields{"body": fields{"text": "x"}, "data": fields{"fill": strings.Repeat("x", 3950)}}
	names(t, "a contact", a.post("/messages", to("ann"), between).problem(400), "web", "3,993")
	names(t, "many contacts", a.post("/messages/multicast", fields{"contacts": []string{"bob"}}, between).problem(400), "web", "3,993")
	// A body that is too large for any is refused as such.
	a.post("/messages", to("ann"), fields{"data": fields{"fill": strings.Repeat("x", 2<<20)}}).problem(413)
}

// The published errors of a message, and Herald's own.
func TestContract_Send_Refusals(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	s.admin().do("POST", "/implementations", fields{"id": "bare", "name": "nothing"}).is(200)
	s.admin().do("POST", "/implementations", fields{"id": "android-only", "name": "x", "android": s.firebase()}).is(200)
	contact, phone, text := to("ann"), toToken("ANDROID", "phone"), shows("x")
	token := func(kind, token any) fields { return fields{"deviceToken": fields{"type": kind, "token": token}} }
	impl := func(id any) fields { return fields{"implementationId": id} }
	body := func(title, text any) fields { return fields{"body": fields{"title": title, "text": text}} }
	data := func(d any) fields { return fields{"data": d} }
	for _, c := range []struct {
		what   string
		body   fields
		status int
		names  []string
	}{
		// The published ones.
		{"no implementation", merged(contact, text, impl("")), 400, []string{"implementationId: must not be blank"}},
		{"a blank implementation", merged(contact, text, impl(" ")), 400, []string{"implementationId: must not be blank"}},
		{"an unknown implementation", merged(contact, text, impl("nope")), 404, []string{"No implementation found"}},
		{"no credentials for Android", merged(phone, text, impl("bare")), 404, []string{"Credential with type: FCM does not exist for given implementation"}},
		{"no credentials for iOS", merged(toToken("APPLE", "ab"), text, impl("android-only")), 404, []string{"Credential with type: APNS does not exist for given implementation"}},
		{"ttl below 0", merged(contact, text, fields{"apn": fields{"ttl": -1}}), 400, []string{"apn/ttl: must be greater than or equal to 0"}},
		{"ttl above the limit", merged(contact, text, fields{"android": fields{"ttl": 2419201}}), 400, []string{"android/ttl: must be less than or equal to 2419200"}},
		{"ttl no number", merged(contact, text, fields{"android": fields{"ttl": "soon"}}), 400, []string{"android/ttl", "invalid value"}},
		{"ttl in parts of a second", merged(contact, text, fields{"ttl": 1.5}), 400, []string{"ttl: invalid value"}},
		{"a blank token", merged(token("ANDROID", " "), text), 400, []string{"deviceToken/token: must not be blank"}},
		{"a null token", merged(token("ANDROID", nil), text), 400, []string{"deviceToken/token: must not be blank"}},
		{"a blank type", merged(token("", "x"), text), 400, []string{"deviceToken/type: invalid value"}},
		{"a null type", merged(token(nil, "x"), text), 400, []string{"deviceToken/type: invalid value"}},
		{"another type", merged(token("WINDOWS", "x"), text), 400, []string{"deviceToken/type: invalid value", "APPLE"}},
		{"an empty value", merged(contact, text, data(fields{"key1": ""})), 400, []string{"data/key1: must not be blank"}},
		{"empty data", merged(contact, text, data(fields{})), 400, []string{"data: invalid value"}},
		{"a callback that is none", merged(contact, text, fields{"callbackUrl": "nowhere"}), 400, []string{"callbackUrl: must be a valid URL"}},
		{"a blank title", merged(contact, body(fields{"en": ""}, fields{"en": "x"})), 400, []string{"body/title/en: must not be blank"}},
		{"a blank text", merged(contact, body(fields{"en": "x"}, fields{"en": " "})), 400, []string{"body/text/en: must not be blank"}},
		{"a title without the forced language", merged(contact, fields{"body": fields{"title": fields{"en": "x"}, "text": fields{"en": "x", "nl": "x"}, "forceLocale": "nl"}}), 400, []string{"forceLocale", "title"}},
		{"no forced language", merged(contact, fields{"body": fields{"text": fields{"en": "x"}, "forceLocale": nil}}), 400, []string{"forceLocale"}},
		{"a language that is none", merged(contact, body(nil, fields{"English language": "x"})), 400, []string{"body/text/", "language tag"}},
		{"an insecure image", merged(contact, text, fields{"imageUrl": "http://shop.example/x.png"}), 400, []string{"imageUrl: must be a valid URL that begins with https://"}},
		{"an insecure icon", merged(contact, text, fields{"web": fields{"iconUrl": "http://shop.example/x.png"}}), 400, []string{"web/iconUrl", "https://"}},
		{"an insecure target", merged(contact, text, fields{"web": fields{"targetUrl": "javascript:alert(1)"}}), 400, []string{"web/targetUrl", "https://"}},
		{"data named from", merged(contact, text, data(fields{"from": "x"})), 400, []string{"data/from", "must have another key"}},
		{"data named message_type", merged(contact, text, data(fields{"message_type": "x"})), 400, []string{"data/message_type", "must have another key"}},
		{"data of google's", merged(contact, text, data(fields{"google.x": "x"})), 400, []string{"data/google.x", "must have another key"}},
		{"data of gcm's", merged(contact, text, data(fields{"gcm": "x"})), 400, []string{"data/gcm", "must have another key"}},
		{"data that is no text", merged(contact, text, data(fields{"n": 1})), 400, []string{"data/n: must be a string"}},
		{"options of another platform", merged(phone, text, fields{"apn": fields{"category": "x"}}), 400, []string{"apn: must be left out"}},
		// Herald's own.
		{"nobody", text, 400, []string{"routeeContactId: is needed"}},
		{"a contact and a token", merged(contact, phone, text), 400, []string{"deviceToken: excludes routeeContactId"}},
		{"two names of a contact", merged(contact, fields{"contactId": "ann"}, text), 400, []string{"contactId: means the same"}},
		{"a blank contact", merged(to(" "), text), 400, []string{"routeeContactId"}},
		{"a contact without devices", merged(to("nobody"), text), 404, []string{"routeeContactId: has no device in this implementation"}},
		{"nothing to show", contact, 400, []string{"body: needs a title or a text"}},
		{"silent with a text", merged(contact, text, fields{"silent": true}), 400, []string{"silent"}},
		{"an unknown member", merged(contact, text, fields{"colour": "x"}), 400, []string{"colour"}},
		{"an unknown member within", merged(contact, text, fields{"android": fields{"colour": "x"}}), 400, []string{"android/colour"}},
		{"another priority", merged(contact, text, fields{"priority": "urgent"}), 400, []string{"priority", "high", "normal"}},
		{"a badge below 0", merged(contact, text, fields{"badge": -1}), 400, []string{"badge"}},
		{"a collapse key that is too long", merged(contact, text, fields{"collapseKey": strings.Repeat("x", 65)}), 400, []string{"collapseKey", "64"}},
		{"no color", merged(contact, text, fields{"android": fields{"color": "red"}}), 400, []string{"android/color", "#rrggbb"}},
		{"a volume without critical", merged(contact, text, fields{"apn": fields{"volume": 0.5}}), 400, []string{"apn/volume", "critical"}},
		{"arguments without a key", merged(contact, text, fields{"apn": fields{"localizedTextArgs": []string{"x"}}}), 400, []string{"apn/localizedTextArgs", "goes with localizedText"}},
		{"renotify without a tag", merged(contact, text, fields{"web": fields{"renotify": true}}), 400, []string{"web/renotify", "tag"}},
		{"actions of one id", merged(contact, text, fields{"actions": []fields{{"id": "a", "title": "x"}, {"id": "a", "title": "y"}}}), 400, []string{"actions/1/id", "twice"}},
		{"an iPhone's token that is none", merged(toToken("APPLE", "not hexadecimal"), text), 400, []string{"deviceToken/token"}},
		{"an installation id with APNs", merged(fields{"deviceToken": fields{"type": "APPLE", "token": "ab", "tokenType": "fid"}}, text), 400, []string{"deviceToken/tokenType"}},
		{"a browser's subscription that is none", merged(toToken("WEB", fields{"endpoint": "https://push.example/x"}), text), 400, []string{"deviceToken/token", "PushSubscription.toJSON"}},
		{"no key", merged(contact, text, fields{"idempotencyKey": ""}), 400, []string{"idempotencyKey"}},
		{"no time", merged(contact, text, fields{"sendAt": "tomorrow"}), 400, []string{"sendAt"}},
		{"a callback to where none may go", merged(contact, text, fields{"callbackUrl": "http://169.254.169.254/"}), 400, []string{"callbackUrl", "egress.allow_networks"}},
	} {
		detail := s.admin().do("POST", "/messages", merged(impl("shop"), c.body)).problem(c.status)
		names(t, c.what, detail, c.names...)
	}
	many := make([]string, 10_001)
	for i := range many {
		many[i] = fmt.Sprint("c", i)
	}
	for _, c := range []struct {
		what   string
		body   fields
		status int
		names  []string
	}{
		{"no contacts", text, 400, []string{"contacts: is needed"}},
		{"an empty list", merged(fields{"contacts": []string{}}, text), 400, []string{"contacts"}},
		{"too many", merged(fields{"contacts": many}, text), 400, []string{"contacts", "10000|10,000"}},
		{"a blank contact", merged(fields{"contacts": []string{"ann", " "}}, text), 400, []string{"contacts/1"}},
		{"a contact that is no text", merged(fields{"contacts": []any{"ann", 1}}, text), 400, []string{"contacts/1: must be a string"}},
		{"no credentials at all", merged(fields{"contacts": []string{"ann"}}, text, impl("bare")), 404, []string{"without credentials"}},
		{"an unknown implementation", merged(fields{"contacts": []string{"ann"}}, text, impl("nope")), 404, []string{"No implementation found"}},
		{"a single contact", merged(contact, text), 400, []string{"routeeContactId"}},
	} {
		names(t, c.what, s.admin().do("POST", "/messages/multicast", merged(impl("shop"), c.body)).problem(c.status), c.names...)
	}
	names(t, "typographic quotes", s.admin().do("POST", "/messages", "{“implementationId”:“shop”}").problem(400), "quote")
	s.admin().with("Content-Type", "text/plain").do("POST", "/messages", "x").problem(415)
	s.admin().do("GET", "/messages/android", nil).problem(http.StatusMethodNotAllowed)
	if n := s.fcm.Taken(); n != 0 {
		t.Errorf("of all that was refused, FCM got %d", n)
	}
}

// What a provider does not take in its time is given up.
func TestContract_Send_Expires(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	a.register("android", "ann", "phone", nil)
	s.fcm.For("phone", standin.FCMError("INTERNAL"))
	id := a.send(to("ann"), merged(shows("x"), fields{"ttl": 1}))
	m := s.ends(id, "FAILED")
	same(t, "the message", m, fields{"reason": "expired"})
	same(t, "its device", part(t, m), fields{"status": "FAILED", "reason": "expired"})
}
