package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

func (b *bed) lastSent() *store.Message {
	b.t.Helper()
	if len(b.mail.sent) == 0 {
		b.t.Fatal("nothing was sent")
	}
	return b.mail.sent[len(b.mail.sent)-1]
}

func TestMessages_BothPublishedShapesAreSent(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	b.mail.answer = store.Sent{TrackingID: "evt_1", Devices: 2}
	w := b.request("POST", "/messages", "snd", `{"implementationId":"app","routeeContactId":"c",
		"body":{"title":{"en":"Hello","nl-BE":"Hallo"},"text":{"en":"World","nl-BE":"Wereld"},"forceLocale":"NL-be"},
		"imageUrl":"https://cdn.example/x.png#a","data":{"key1":"a","Key1":"b"},
		"android":{"clickAction":"OPEN","icon":"i","color":"#a0B1c2","channelId":"ch","tag":"t","localizedTitle":"lt","localizedTitleArgs":["1"],"localizedText":"lx","localizedTextArgs":["2"],"ttl":0},
		"apn":{"localizedTitle":"lt","subtitle":"s","category":"c","threadId":"th","targetContentId":"tc","interruptionLevel":"time-sensitive","mutableContent":true,"critical":true,"volume":0.5,"relevanceScore":0.25,"ttl":2419200},
		"web":{"iconUrl":"https://a.example/i","targetUrl":"https://a.example/t","badgeUrl":"https://a.example/b","tag":"w","requireInteraction":true,"renotify":true,"ttl":5},
		"actions":[{"id":"yes","title":"Yes","iconUrl":"https://a.example/y"}],"badge":0,"sound":"default","ttl":60,"priority":"normal","collapseKey":"k",
		"callbackUrl":"https://shop.example/status","sendAt":"2026-11-28T08:30:00Z"}`)
	if w.Code != 202 || w.Body.String() != `{"trackingId":"evt_1"}` || w.Header().Get("Location") != "/messages/evt_1" {
		t.Fatalf("%d %s %v", w.Code, w.Body, w.Header())
	}
	zero, seconds5, most, relevance, badge := time.Duration(0), 5*time.Second, store.MaxTTL, 0.25, 0
	want := &store.Message{
		AccountID: "acme", ImplementationID: "app", Contact: "c", CallbackURL: "https://shop.example/status", SendAt: testNow.Add(7 * 24 * time.Hour),
		Notification: store.Notification{
			Title: map[string]string{"en": "Hello", "nl-be": "Hallo"}, Text: map[string]string{"en": "World", "nl-be": "Wereld"}, ForceLocale: "nl-be",
			ImageURL: "https://cdn.example/x.png#a", Data: map[string]string{"key1": "a", "Key1": "b"},
			Actions: []store.Action{{ID: "yes", Title: "Yes", IconURL: "https://a.example/y"}}, Badge: &badge, Sound: "default", TTL: time.Minute, CollapseKey: "k",
			Android: store.AndroidOptions{
				ClickAction: "OPEN", Icon: "i", Color: "#a0B1c2", ChannelID: "ch", Tag: "t",
				LocalizedTitle: "lt", LocalizedTitleArgs: []string{"1"}, LocalizedText: "lx", LocalizedTextArgs: []string{"2"}, TTL: &zero,
			},
			APNs: store.APNsOptions{
				LocalizedTitle: "lt", Subtitle: "s", Category: "c", ThreadID: "th", TargetContent: "tc", InterruptionLevel: "time-sensitive",
				MutableContent: true, Critical: true, Volume: 0.5, RelevanceScore: &relevance, TTL: &most,
			},
			Web: store.WebOptions{
				IconURL: "https://a.example/i", TargetURL: "https://a.example/t", BadgeURL: "https://a.example/b", Tag: "w",
				RequireInteraction: true, Renotify: true, TTL: &seconds5,
			},
		},
	}
	if got := b.lastSent(); !reflect.DeepEqual(got, want) {
		t.Errorf("sent is\n%+v, want\n%+v", got, want)
	}
	for _, c := range []struct {
		target string
		want   store.DeviceToken
	}{
		{`{"type":"ANDROID","token":"t"}`, store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenPlain, Token: "t"}},
		{`{"type":"Apple","token":"aa00"}`, store.DeviceToken{Platform: store.PlatformIOS, Kind: store.TokenPlain, Token: "aa00"}},
		{`{"type":"ios","token":"aa00"}`, store.DeviceToken{Platform: store.PlatformIOS, Kind: store.TokenPlain, Token: "aa00"}},
		{`{"type":"web","token":"t","tokenType":"fid"}`, store.DeviceToken{Platform: store.PlatformWeb, Kind: store.TokenFID, Token: "t"}},
	} {
		w := b.request("POST", "/messages", "snd", `{"implementationId":"app","deviceToken":`+c.target+`,"body":{"text":"x"}}`)
		if w.Code != 202 || !reflect.DeepEqual(*b.lastSent().Token, c.want) {
			t.Errorf("%s: %d %s, sent to %+v", c.target, w.Code, w.Body, b.lastSent().Token)
		}
	}
	w = b.request("POST", "/messages", "snd", `{"implementationId":"app","deviceToken":{"type":"WEB","token":`+webSubscription+`},"body":{"text":"x"}}`)
	if got := b.lastSent().Token; w.Code != 202 || got.Kind != store.TokenWebPush || len(got.Auth) != 16 {
		t.Errorf("%d %s, sent to %+v", w.Code, w.Body, got)
	}
}

func TestMessages_WhatIsShownDecidesDefaults(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	for _, c := range []struct {
		members      string
		silent, high bool
	}{
		{`"body":{"title":"x"}`, false, true},
		{`"body":{"title":"x"},"silent":false,"priority":"normal"`, false, false},
		{`"apn":{"localizedText":"x"}`, false, true},
		{`"data":{"a":"b"}`, true, false},
		{`"silent":true`, true, false},
		{`"silent":true,"priority":"high"`, true, true},
	} {
		w := b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c",`+c.members+`}`)
		if m := b.lastSent(); w.Code != 202 || m.Silent != c.silent || m.High != c.high || m.TTL != store.MaxTTL {
			t.Errorf("%s: %d %s, %+v", c.members, w.Code, w.Body, m)
		}
	}
	// One text for all languages, and one that is only in some.
	b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","body":{"title":"x","text":"y"}}`)
	if m := b.lastSent(); !reflect.DeepEqual(m.Title, map[string]string{"": "x"}) || !reflect.DeepEqual(m.Text, map[string]string{"": "y"}) {
		t.Errorf("%v %v", m.Title, m.Text)
	}
	b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","body":{"title":"x","text":{"nl":"y","en":"z"}}}`)
	if m := b.lastSent(); !reflect.DeepEqual(m.Title, map[string]string{"nl": "x", "en": "x"}) {
		t.Errorf("%v", m.Title)
	}
}

func TestMessages_EveryWrongFieldIsNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	for _, c := range []struct{ members, field, word string }{
		{`"deviceToken":{"type":"ANDROID","token":" "}`, "/deviceToken/token", "must not be blank"},
		{`"deviceToken":{"type":"ANDROID"}`, "/deviceToken/token", "must not be blank"},
		{`"deviceToken":{"token":"t"}`, "/deviceToken/type", "invalid value"},
		{`"deviceToken":{"type":"","token":"t"}`, "/deviceToken/type", "invalid value"},
		{`"deviceToken":{"type":"ANDROID","token":"t"},"contactId":"c"`, "deviceToken", "excludes contactId"},
		{`"deviceToken":{"type":"ANDROID","token":"t"},"apn":{"ttl":1}`, "apn", "left out"},
		{`"deviceToken":{"type":"WEB","token":"{}"}`, "/deviceToken/token", "Push API"},
		{``, "routeeContactId", "needed"},
		{`"contactId":" "`, "contactId", "blank"},
		{`"contactId":"c","routeeContactId":"c"`, "contactId", "same"},
		{`"apn":{"ttl":-1}`, "/apn/ttl", "must be greater than or equal to 0"},
		{`"android":{"ttl":2419201}`, "/android/ttl", "must be less than or equal to 2419200"},
		{`"android":{"ttl":99999999999999999999}`, "/android/ttl", "must be less than or equal to 2419200"},
		{`"android":{"ttl":"1"}`, "/android/ttl", "invalid value"},
		{`"ttl":1.5`, "ttl", "invalid value"},
		{`"data":{"key1":""}`, "/data/key1", "must not be blank"},
		{`"data":{"key1":1}`, "/data/key1", "string"},
		{`"data":{}`, "data", "invalid value"},
		{`"data":{"from":"x"}`, "/data/from", "FCM's own"},
		{`"data":{"google.x":"x"}`, "/data/google.x", "FCM's own"},
		{`"data":{"gcmx":"x"}`, "/data/gcmx", "FCM's own"},
		{`"data":{"message_type":"x"}`, "/data/message_type", "FCM's own"},
		{`"body":{"title":{"en":" "}}`, "/body/title/en", "must not be blank"},
		{`"body":{"title":{"!":"x"}}`, "/body/title/!", "language tag"},
		{`"body":{"title":{"en":1}}`, "/body/title/en", "string"},
		{`"body":{"title":{}}`, "/body/title", "at least one"},
		{`"body":{"title":{"nl":"x","NL":"y"}}`, "/body/title/NL", "twice"},
		{`"body":{"text":"\u0007"}`, "/body/text", "control"},
		{`"body":{"title":{"en":"x"},"text":{"nl":"x"},"forceLocale":"nl"}`, "/body/forceLocale", "languages of title"},
		{`"body":{"title":"x","forceLocale":null}`, "/body/forceLocale", "left out"},
		{`"body":{"title":"x"},"silent":true`, "silent", "shows nothing"},
		{`"silent":false`, "body", "needs a title"},
		{`"imageUrl":"http://a.example/x.png"`, "imageUrl", "must be a valid URL that begins with https://"},
		{`"web":{"iconUrl":"x"}`, "/web/iconUrl", "https://"},
		{`"web":{"renotify":true}`, "/web/renotify", "tag"},
		{`"android":{"color":"red"}`, "/android/color", "#rrggbb"},
		{`"android":{"localizedTextArgs":["x"]}`, "/android/localizedTextArgs", "goes with localizedText"},
		{`"android":{"x":1}`, "/android/x", "not known"},
		{`"apn":{"interruptionLevel":"loud"}`, "/apn/interruptionLevel", "passive"},
		{`"apn":{"volume":1}`, "/apn/volume", "critical"},
		{`"apn":{"relevanceScore":2}`, "/apn/relevanceScore", "between 0 and 1"},
		{`"actions":[{"id":"a","title":"A"},{"id":"a","title":"B"}]`, "/actions/1/id", "twice"},
		{`"actions":[{"id":"a"}]`, "/actions/0/title", "needed"},
		{`"badge":-1`, "badge", "between 0"},
		{`"priority":"urgent"`, "priority", "high or normal"},
		{`"collapseKey":"` + strings.Repeat("x", 65) + `"`, "collapseKey", "64"},
		{`"callbackUrl":"ftp://a.example"`, "callbackUrl", "must be a valid URL"},
		{`"callbackUrl":"http://127.0.0.1/"`, "callbackUrl", "loopback"},
		{`"sendAt":"2026-11-28T08:30:01Z"`, "sendAt", "168 hours"},
		{`"sendAt":"tomorrow"`, "sendAt", "RFC 3339"},
		{`"idempotencyKey":""`, "idempotencyKey", "1 to 128"},
		{`"dryRun":1`, "dryRun", "true or false"},
		{`"frobnicate":1`, "frobnicate", "not known"},
	} {
		body := `{"implementationId":"app","x-":0,` + c.members + `}`
		body = strings.Replace(strings.Replace(body, `"x-":0,`, "", 1), ",}", "}", 1)
		p := wantProblem(t, b.request("POST", "/messages", "snd", body), 400)
		i := slices.IndexFunc(p.Errors, func(f fault) bool { return f.Field == c.field })
		if i < 0 || !strings.Contains(p.Errors[i].Detail, c.word) {
			t.Errorf("%s: %+v, want %s: …%s", body, p.Errors, c.field, c.word)
		}
	}
	wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":" ","contactId":"c","silent":true}`), 400, "implementationId: must not be blank")
	wantProblem(t, b.request("POST", "/messages", "dev", `{}`), 403, "send")
	if len(b.mail.sent) != 0 {
		t.Errorf("sent were %d", len(b.mail.sent))
	}
}

func TestMessages_RefusedForTheirImplementation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	i := b.newApp("app")
	wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"nope","contactId":"c","silent":true}`), 404, "No implementation found")
	bare := &store.Implementation{AccountID: "acme", ID: "bare", UID: i.UID}
	b.store.implementations[[2]string{"acme", "bare"}] = bare
	for target, kind := range map[string]string{
		`{"type":"ANDROID","token":"t"}`: "FCM", `{"type":"APPLE","token":"aa"}`: "APNS", `{"type":"WEB","token":"t"}`: "FCM",
		`{"type":"WEB","token":` + webSubscription + `}`: "VAPID",
	} {
		wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"bare","deviceToken":`+target+`,"silent":true}`), 404,
			"Credential with type: "+kind+" does not exist for given implementation")
	}
	bare.IOSProvider = store.ProviderFCM
	wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"bare","deviceToken":{"type":"IOS","token":"t"},"silent":true}`), 404, "Credential with type: FCM ")
	for _, c := range []struct {
		err    error
		status int
		word   string
	}{
		{&store.MessageError{Field: "contactId", Detail: "has no devices", Missing: true}, 404, "contactId: has no devices"},
		{&store.MessageError{Field: "/body/text", Detail: "is too large"}, 400, "/body/text: is too large"},
		{fmt.Errorf("send: %w", store.ErrNotFound), 404, "No implementation found"},
		{&queue.ConflictError{ID: "x"}, 409, "Idempotency-Key"},
		{queue.ErrFull, 503, "disk"},
		{queue.ErrBusy, 503, "second"},
		{errors.New("secret path"), 503, "could not"},
	} {
		b.mail.fail = c.err
		wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","silent":true}`), c.status, c.word)
	}
}

func TestMessages_KeysAndDryRuns(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	send := func(body string, header ...string) *store.Message {
		t.Helper()
		if w := b.request("POST", "/messages", "snd", body, header...); w.Code != 202 && w.Code != 200 {
			t.Fatalf("%s: %d %s", body, w.Code, w.Body)
		}
		return b.lastSent()
	}
	one := send(`{"implementationId":"app","contactId":"c","silent":true}`, "Idempotency-Key", "k")
	same := send("{\"silent\":true, \"contactId\":\"c\",\"implementationId\":\"\\u0061pp\"}", "Idempotency-Key", "k")
	other := send(`{"implementationId":"app","contactId":"d","silent":true}`, "Idempotency-Key", "k")
	if one.Key != "k" || one.Digest != same.Digest || one.Digest == other.Digest || one.Digest == ([16]byte{}) {
		t.Errorf("%x %x %x", one.Digest, same.Digest, other.Digest)
	}
	if m := send(`{"implementationId":"app","contactId":"c","silent":true,"idempotencyKey":"m"}`); m.Key != "m" {
		t.Errorf("%+v", m)
	}
	if m := send(`{"implementationId":"app","contactId":"c","silent":true}`); m.Key != "" || m.Digest != ([16]byte{}) {
		t.Errorf("%+v", m)
	}
	wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","silent":true,"idempotencyKey":"m"}`, "Idempotency-Key", "k"), 400, "idempotencyKey")
	wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","silent":true}`, "Idempotency-Key", strings.Repeat("k", 129)), 400, "128")
	// A time that is over is now.
	if m := send(`{"implementationId":"app","contactId":"c","silent":true,"sendAt":"2026-11-20T00:00:00Z"}`); !m.SendAt.IsZero() {
		t.Errorf("%+v", m)
	}
	b.mail.answer = store.Sent{Devices: 3, Payloads: map[store.Platform]int{store.PlatformAndroid: 120}}
	w := b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","silent":true,"dryRun":true}`)
	if w.Code != 200 || w.Body.String() != `{"dryRun":true,"devices":3,"payloadBytes":{"android":120}}` || !b.lastSent().DryRun {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestMessages_Multicast(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	b.mail.answer = store.Sent{TrackingID: "evt_2"}
	many := make([]string, store.MaxContacts)
	for i := range many {
		many[i] = fmt.Sprint("c", i)
	}
	w := b.request("POST", "/messages/multicast", "snd", `{"implementationId":"app","contacts":`+quote(many)+`,"body":{"title":"x"},"android":{"tag":"a"},"apn":{"category":"b"},"web":{"tag":"c"}}`)
	if w.Code != 202 || w.Body.String() != `{"trackingId":"evt_2"}` || len(b.lastSent().Contacts) != len(many) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	w = b.request("POST", "/messages/multicast", "snd", `{"implementationId":"app","routeeContactIds":["a","b","a"],"silent":true}`)
	if got := b.lastSent().Contacts; w.Code != 202 || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%d %s: %v", w.Code, w.Body, got)
	}
	for body, field := range map[string]string{
		`{"implementationId":"app","silent":true}`:                                               "contacts",
		`{"implementationId":"app","contacts":[],"silent":true}`:                                 "contacts",
		`{"implementationId":"app","contacts":["a"," "],"silent":true}`:                          "/contacts/1",
		`{"implementationId":"app","contacts":["a",1],"silent":true}`:                            "/contacts/1",
		`{"implementationId":"app","contactId":"a","silent":true}`:                               "contactId",
		`{"implementationId":"app","contacts":` + quote(append(many, "one")) + `,"silent":true}`: "contacts",
	} {
		wantProblem(t, b.request("POST", "/messages/multicast", "snd", body), 400, field)
	}
	wantProblem(t, b.request("GET", "/messages/multicast", "snd", ""), 405)
}

func TestMessages_Read(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	id := store.DeviceID{1, 2}
	b.mail.view = &store.MessageView{
		TrackingID: "evt_1", ImplementationID: "app", Contact: "c", Contacts: 1, CreatedAt: testNow, ExpiresAt: testNow.Add(time.Hour),
		Status: store.MessageFailed, At: testNow.Add(time.Second), Reason: "unregistered", Failed: 2, Next: "1",
		Devices: []store.MessageDevice{
			{
				ID: id, Platform: store.PlatformAndroid, Contact: "c", Status: store.MessageFailed, Reason: "unregistered", Error: "UNREGISTERED", At: testNow.Add(time.Second),
				Attempts: []store.MessageAttempt{{Number: 1, At: testNow, Duration: 1500 * time.Microsecond, HTTPStatus: 404, Outcome: "gone", Error: "UNREGISTERED"}},
			},
			{Platform: store.PlatformIOS, Status: store.MessageQueued, At: testNow, NextAt: testNow.Add(time.Minute), ProviderID: "p"},
		},
	}
	w := b.request("GET", "/messages/evt_1?limit=1", "snd", "")
	want := `{"trackingId":"evt_1","implementationId":"app","routeeContactId":"c","createdAt":"2026-11-21T08:30:00Z","expiresAt":"2026-11-21T09:30:00Z",` +
		`"status":"FAILED","reason":"unregistered","statusInfo":{"status":"FAILED","date":"2026-11-21T08:30:01Z","reason":"unregistered"},"counts":{"queued":0,"sent":0,"failed":2},` +
		`"devices":[{"deviceId":"` + id.String() + `","type":"android","routeeContactId":"c","status":"FAILED","reason":"unregistered","error":"UNREGISTERED","date":"2026-11-21T08:30:01Z",` +
		`"statuses":[{"status":"QUEUED","date":"2026-11-21T08:30:00Z"}],"attempts":[{"number":1,"time":"2026-11-21T08:30:00Z","durationMs":1.5,"status":404,"outcome":"gone","error":"UNREGISTERED"}]}],"next":"1"}`
	if w.Code != 200 || w.Body.String() != want || !strings.Contains(w.Header().Get("Link"), "after=1") {
		t.Errorf("%d %s, want\n%s", w.Code, w.Body, want)
	}
	var v messageView
	if err := json.Unmarshal(b.request("GET", "/messages/evt_1", "snd", "").Body.Bytes(), &v); err != nil || v.Next != "" || len(v.Devices) != 2 ||
		v.Devices[1].ServiceMessageID != "p" || len(v.Devices[1].Statuses) != 0 || v.Devices[1].NextAttemptAt.IsZero() {
		t.Errorf("%+v (%v)", v, err)
	}
	b.mail.view.Contact, b.mail.view.Contacts, b.mail.view.Expanded = "", 3, 2
	if got := b.request("GET", "/messages/evt_1", "snd", "").Body.String(); !strings.Contains(got, `"contacts":3,"contactsLookedUp":2`) {
		t.Error(got)
	}
	wantProblem(t, b.request("GET", "/messages/evt_2", "snd", ""), 404, "evt_2")
	wantProblem(t, b.request("GET", "/messages/evt_1?limit=0", "snd", ""), 400, "limit")
	wantProblem(t, b.request("GET", "/messages/evt_1", "dev", ""), 403)
}

func TestMessages_WithoutNotifier(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.newApp("app")
	b.api.notifier = noNotifier{}
	wantProblem(t, b.request("POST", "/messages", "snd", `{"implementationId":"app","contactId":"c","silent":true}`), 503, "notifications")
	wantProblem(t, b.request("GET", "/messages/evt_1", "snd", ""), 404)
	if w := b.request("DELETE", "/implementations/app", "snd", ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
