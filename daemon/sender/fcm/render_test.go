package fcm

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/sender"
	"herald/daemon/standin"
	"herald/queue"
	"herald/store"
)

func in(language, text string) map[string]string { return map[string]string{language: text} }

// full is a notification with all there is.
func full() *store.Notification {
	badge, score, own := 3, 0.5, 90*time.Second
	return &store.Notification{
		Title: map[string]string{"en": "Parcel", "nl": "Pakket <1>"}, Text: map[string]string{"en": "It is here", "nl": "Het is er & \u00e9\u00e9n"},
		ImageURL: "https://example.com/i.png", Data: map[string]string{"id": "7", "a": "b"},
		Actions: []store.Action{{ID: "open", Title: "Open", IconURL: "https://example.com/o.png"}, {ID: "later", Title: "Later"}},
		Badge:   &badge, Sound: "bell", TTL: time.Hour, High: true, CollapseKey: "parcel/7",
		Android: store.AndroidOptions{ClickAction: "OPEN", Icon: "ic", Color: "#aabbcc", ChannelID: "parcels", Tag: "p7", TTL: &own},
		APNs: store.APNsOptions{
			Subtitle: "Today", Category: "PARCEL", ThreadID: "parcels", InterruptionLevel: "time-sensitive", TargetContent: "w", RelevanceScore: &score,
		},
		Web: store.WebOptions{
			IconURL: "https://example.com/ic.png", TargetURL: "https://example.com/7", BadgeURL: "https://example.com/b.png", Tag: "p7",
			RequireInteraction: true, Renotify: true,
		},
	}
}

// with changes a full notification.
func with(change func(n *store.Notification)) *store.Notification {
	n := full()
	change(n)
	return n
}

func TestRender(t *testing.T) {
	t.Parallel()
	zero := 0
	const apnsHead = `{"apns":{"headers":{"apns-expiration":"946688400","apns-priority":"10","apns-push-type":"alert"`
	for name, c := range map[string]struct {
		n        *store.Notification
		platform store.Platform
		locale   string
		want     string
	}{
		"android": {full(), store.PlatformAndroid, "nl-BE", `{"notification":{"title":"Pakket <1>","body":"Het is er & één","image":"https://example.com/i.png"},"data":{"a":"b","id":"7"},` +
			`"android":{"priority":"HIGH","collapseKey":"parcel/7","ttl":"90s","notification":{"icon":"ic","color":"#aabbcc","sound":"bell","tag":"p7","clickAction":"OPEN","channelId":"parcels","notificationCount":3}}}`},
		"ios": {full(), store.PlatformIOS, "en", `{"data":{"a":"b","id":"7"},"apns":{"headers":{"apns-collapse-id":"parcel/7","apns-expiration":"946688400","apns-priority":"10","apns-push-type":"alert"},` +
			`"payload":{"aps":{"alert":{"title":"Parcel","subtitle":"Today","body":"It is here"},"badge":3,"sound":"bell","category":"PARCEL","thread-id":"parcels","mutable-content":1,"target-content-id":"w","interruption-level":"time-sensitive","relevance-score":0.5}},` +
			`"fcmOptions":{"image":"https://example.com/i.png"}}}`},
		"web": {full(), store.PlatformWeb, "", `{"notification":{"title":"Parcel","body":"It is here"},"data":{"a":"b","id":"7"},` +
			`"webpush":{"headers":{"TTL":"3600","Topic":"` + sender.PushTopic("parcel/7") + `","Urgency":"high"},"notification":{"icon":"https://example.com/ic.png","image":"https://example.com/i.png","badge":"https://example.com/b.png","tag":"p7",` +
			`"actions":[{"action":"open","title":"Open","icon":"https://example.com/o.png"},{"action":"later","title":"Later"}],"requireInteraction":true,"renotify":true},"fcmOptions":{"link":"https://example.com/7"}}}`},
		"android, little": {&store.Notification{Title: in("en", "Hi")}, store.PlatformAndroid, "", `{"notification":{"title":"Hi"},"android":{"priority":"NORMAL","ttl":"0s"}}`},
		"ios, little":     {&store.Notification{Title: in("en", "Hi")}, store.PlatformIOS, "", `{"apns":{"headers":{"apns-expiration":"0","apns-priority":"5","apns-push-type":"alert"},"payload":{"aps":{"alert":{"title":"Hi"}}}}}`},
		"web, little":     {&store.Notification{Title: in("en", "Hi"), CollapseKey: "k-1_A"}, store.PlatformWeb, "", `{"notification":{"title":"Hi"},"webpush":{"headers":{"TTL":"0","Topic":"k-1_A","Urgency":"normal"}}}`},
		"android, silent": {with(func(n *store.Notification) { n.Silent = true }), store.PlatformAndroid, "", `{"data":{"a":"b","id":"7"},"android":{"priority":"HIGH","collapseKey":"parcel/7","ttl":"90s"}}`},
		"ios, silent": {with(func(n *store.Notification) { n.Silent = true }), store.PlatformIOS, "", `{"data":{"a":"b","id":"7"},` +
			`"apns":{"headers":{"apns-collapse-id":"parcel/7","apns-expiration":"946688400","apns-priority":"5","apns-push-type":"background"},"payload":{"aps":{"content-available":1}}}}`},
		"web, silent": {with(func(n *store.Notification) { n.Silent, n.CollapseKey = true, "" }), store.PlatformWeb, "", `{"data":{"a":"b","id":"7"},"webpush":{"headers":{"TTL":"3600","Urgency":"high"}}}`},
		"android, localized": {&store.Notification{Title: in("en", "Hi"), Text: in("en", "You"), Android: store.AndroidOptions{
			LocalizedTitle: "t", LocalizedTitleArgs: []string{"1", "2"}, LocalizedText: "b", LocalizedTextArgs: []string{"3"},
		}}, store.PlatformAndroid, "", `{"android":{"priority":"NORMAL","ttl":"0s","notification":{"titleLocKey":"t","titleLocArgs":["1","2"],"bodyLocKey":"b","bodyLocArgs":["3"]}}}`},
		"ios, localized": {&store.Notification{Title: in("en", "Hi"), Text: in("en", "You"), TTL: time.Hour, High: true, APNs: store.APNsOptions{
			LocalizedTitle: "t", LocalizedTitleArgs: []string{"1", "2"}, LocalizedText: "b", LocalizedTextArgs: []string{"3"},
		}}, store.PlatformIOS, "", apnsHead + `},"payload":{"aps":{"alert":{"title-loc-key":"t","title-loc-args":["1","2"],"loc-key":"b","loc-args":["3"]}}}}}`},
		"ios, critical": {&store.Notification{Text: in("en", "Fire"), TTL: time.Hour, High: true, Badge: &zero, APNs: store.APNsOptions{Critical: true, Volume: 0.8, MutableContent: true}}, store.PlatformIOS, "", apnsHead +
			`},"payload":{"aps":{"alert":{"body":"Fire"},"badge":0,"sound":{"critical":1,"name":"default","volume":0.8},"mutable-content":1}}}}`},
		"web, renotify without a tag": {&store.Notification{Title: in("en", "Hi"), Web: store.WebOptions{Renotify: true}}, store.PlatformWeb, "", `{"notification":{"title":"Hi"},"webpush":{"headers":{"TTL":"0","Urgency":"normal"}}}`},
		"forced":                      {with(func(n *store.Notification) { *n = store.Notification{Title: n.Title, ForceLocale: "en"} }), store.PlatformAndroid, "nl", `{"notification":{"title":"Parcel"},"android":{"priority":"NORMAL","ttl":"0s"}}`},
		"the longest life":            {&store.Notification{TTL: store.MaxTTL, Title: in("de", "x")}, store.PlatformAndroid, "", `{"notification":{"title":"x"},"android":{"priority":"NORMAL","ttl":"2419200s"}}`},
	} {
		synctest.Test(t, func(t *testing.T) { // where it is midnight of 2000-01-01
			got, err := Render(c.n, c.platform, c.locale)
			if err != nil || string(got) != c.want {
				t.Errorf("%s: %v\n%s, want\n%s", name, err, got, c.want)
			}
		})
	}
}

// What is rendered is what the discovery document has, with each kind of target.
func TestRenderedMessagesKeepToTheSchema(t *testing.T) {
	t.Parallel()
	f := start(t, standin.FCMOptions{})
	s, key := newSender(t, f, Options{}), keyOf(t, f.ServiceAccount())
	zero, never := 0, time.Duration(0)
	for name, n := range map[string]*store.Notification{
		"full":      full(),
		"empty":     {},
		"title":     {Title: in("en", "x")},
		"text":      {Text: in("de", "x"), TTL: store.MaxTTL},
		"silent":    with(func(n *store.Notification) { n.Silent = true }),
		"data":      {Silent: true, Data: map[string]string{"k": "\u2028\x00\"\\</script>"}},
		"badge":     {Badge: &zero},
		"now":       with(func(n *store.Notification) { n.Android.TTL, n.APNs.TTL, n.Web.TTL = &never, &never, &never }),
		"normal":    with(func(n *store.Notification) { n.High = false }),
		"critical":  with(func(n *store.Notification) { n.APNs.Critical, n.APNs.Volume = true, 1 }),
		"localized": with(func(n *store.Notification) { n.Android.LocalizedTitle, n.APNs.LocalizedText = "t", "b" }),
		"broken":    {Title: in("en", "half a \xe2\x82 character"), Data: map[string]string{"k": "\xff"}},
		"collapse":  with(func(n *store.Notification) { n.CollapseKey = strings.Repeat("é", 32) }),
	} {
		for _, p := range store.Platforms() {
			message, err := Render(n, p, "")
			if err != nil {
				t.Errorf("%s for %s: %v", name, p, err)
				continue
			}
			for _, to := range []Target{{Token: device}, {Token: "cXyZ0123456789abcdefgh", FID: true}} {
				if r := s.Send(t.Context(), "o", key, to, message, false); r.Class != queue.ClassDelivered {
					t.Errorf("%s for %s: %s\n%s", name, p, r.Error, message)
				}
			}
		}
	}
	noFaults(t, f)
}

func TestRenderTooLarge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n      store.Notification
		field  string
		ending string
	}{
		{store.Notification{Text: in("en", strings.Repeat("x", 5000))}, "body", "shorten the text"},
		{store.Notification{Title: in("en", strings.Repeat("x", 5000)), Text: in("en", "x")}, "body", "shorten the title"},
		{store.Notification{Text: in("en", "x"), Data: map[string]string{"k": strings.Repeat("x", 5000)}}, "data", "shorten the data"},
	} {
		for _, p := range store.Platforms() {
			_, err := Render(&c.n, p, "")
			m, ok := errors.AsType[*store.MessageError](err)
			if !ok || m.Field != c.field || m.Missing || !strings.HasSuffix(m.Detail, c.ending) || !strings.Contains(m.Detail, " for "+string(p)+", ") {
				t.Errorf("%v", err)
			}
		}
	}
	// The limit itself is not over it.
	n := store.Notification{Text: in("en", "")}
	empty, _ := Render(&n, store.PlatformAndroid, "")
	frame := len(empty) + len(`"notification":{"body":""},`)
	n.Text["en"] = strings.Repeat("x", store.MaxPayload-frame)
	if b, err := Render(&n, store.PlatformAndroid, ""); err != nil || len(b) != store.MaxPayload {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	n.Text["en"] += strings.Repeat("x", 214)
	if _, err := Render(&n, store.PlatformAndroid, ""); err == nil || err.Error() != "body: is 4,310 bytes for android, 214 more than the 4,096 that FCM takes; shorten the text" {
		t.Errorf("%v", err)
	}
	none := math.NaN()
	if _, err := Render(&store.Notification{APNs: store.APNsOptions{RelevanceScore: &none}}, store.PlatformIOS, ""); err == nil {
		t.Error("no error")
	}
}

func BenchmarkRender(b *testing.B) {
	n := full()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Render(n, store.PlatformAndroid, "nl-BE"); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("token", "Hi", false)
	f.Add("\"\\\xff", "\u2028", true)
	f.Fuzz(func(t *testing.T, token, text string, fid bool) {
		message, err := Render(&store.Notification{Text: in("en", text), Data: map[string]string{text: text}}, store.PlatformAndroid, "")
		if err != nil {
			return
		}
		var got struct {
			Message map[string]any `json:"message"`
		}
		if err := json.Unmarshal(request(Target{token, fid}, message, true), &got); err != nil {
			t.Fatal(err)
		}
		member := map[bool]string{false: "token", true: "fid"}[fid]
		if got.Message[member] != strings.ToValidUTF8(token, "\uFFFD") {
			t.Errorf("%q went out as %q", token, got.Message[member])
		}
	})
}
