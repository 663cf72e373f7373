package apns

import (
	"errors"
	"math"
	"strings"
	"testing"

	"herald/store"
)

func TestRender(t *testing.T) {
	t.Parallel()
	texts := func(pairs ...string) map[string]string {
		m := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	alert := Headers{PushType: "alert", Priority: 5}
	for _, c := range []struct {
		name   string
		n      store.Notification
		locale string
		want   string
		h      Headers
	}{
		{"a text alone", store.Notification{Text: texts("en", "é<&>")}, "", `{"aps":{"alert":"é<&>"}}`, alert},
		{
			"in the language of the device",
			store.Notification{Title: texts("en", "Hello", "nl", "Dag"), Text: texts("en", "there", "nl", "daar")},
			"nl-BE",
			`{"aps":{"alert":{"title":"Dag","body":"daar"}}}`, alert,
		},
		{"urgent", store.Notification{Text: texts("en", "x"), High: true, CollapseKey: "k"}, "", `{"aps":{"alert":"x"}}`, Headers{PushType: "alert", Priority: 10, CollapseID: "k"}},
		{"the badge is taken away", store.Notification{Badge: new(int)}, "", `{"aps":{"badge":0}}`, alert},
		{"a badge", store.Notification{Badge: new(7), Sound: "default"}, "", `{"aps":{"badge":7,"sound":"default"}}`, alert},
		{
			"an image",
			store.Notification{Text: texts("en", "x"), ImageURL: "https://example.com/a.png?x=1&y"},
			"",
			`{"aps":{"alert":"x","mutable-content":1},"image-url":"https://example.com/a.png?x=1&y"}`, alert,
		},
		{
			"data",
			store.Notification{Text: texts("en", "x"), Data: texts("b", "2", "a", "1", "image-url", "y")},
			"",
			`{"a":"1","aps":{"alert":"x"},"b":"2","image-url":"y"}`, alert,
		},
		{
			"silent",
			store.Notification{Text: texts("en", "x"), Silent: true, High: true, Badge: new(3), Sound: "s", Data: texts("a", "1")},
			"",
			`{"a":"1","aps":{"content-available":1}}`,
			Headers{PushType: "background", Priority: 5},
		},
		{
			"all of it",
			store.Notification{
				Title: texts("en", "T"), Text: texts("en", "X"), Sound: "bell.caf",
				APNs: store.APNsOptions{
					LocalizedTitle: "TK", LocalizedTitleArgs: []string{"1", "2"}, LocalizedText: "XK", LocalizedTextArgs: []string{"3"}, Subtitle: "S",
					Category: "C", ThreadID: "TH", InterruptionLevel: "time-sensitive", TargetContent: "TC", MutableContent: true,
					Critical: true, Volume: 0.5, RelevanceScore: new(0.0),
				},
			},
			"",
			`{"aps":{"alert":{"subtitle":"S","title-loc-key":"TK","title-loc-args":["1","2"],"loc-key":"XK","loc-args":["3"]},` +
				`"sound":{"critical":1,"name":"bell.caf","volume":0.5},"category":"C","thread-id":"TH","mutable-content":1,"target-content-id":"TC",` +
				`"interruption-level":"time-sensitive","relevance-score":0}}`, alert,
		},
		{"critical without a name", store.Notification{APNs: store.APNsOptions{Critical: true, Volume: 1}}, "", `{"aps":{"sound":{"critical":1,"name":"default","volume":1}}}`, alert},
		{"nothing", store.Notification{}, "", `{"aps":{}}`, alert},
	} {
		got, h, err := Render(&c.n, c.locale)
		if err != nil || string(got) != c.want || h != c.h {
			t.Errorf("%s: %v\n%s %+v, want\n%s %+v", c.name, err, got, h, c.want, c.h)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	long := func(n int) map[string]string { return map[string]string{"en": strings.Repeat("x", n)} }
	around := len(`{"aps":{"alert":""}}`)
	if b, _, err := Render(&store.Notification{Text: long(store.MaxPayload - around)}, ""); err != nil || len(b) != store.MaxPayload {
		t.Errorf("4,096 bytes: %v", err)
	}
	for _, c := range []struct {
		n             store.Notification
		field, detail string
	}{
		{store.Notification{Text: long(4310 - around)}, "body", "is 4,310 bytes for ios, 214 more than the 4,096 that APNs takes; shorten the text"},
		{store.Notification{Title: long(5000), Text: long(1)}, "body", "is 5,041 bytes for ios, 945 more than the 4,096 that APNs takes; shorten the title"},
		{store.Notification{Text: long(10), Data: long(5000)}, "data", "is 5,038 bytes for ios, 942 more than the 4,096 that APNs takes; shorten the data"},
		{store.Notification{Data: map[string]string{"aps": "x"}}, "data", "has the member aps, which the payload for ios has a use of its own for; name it otherwise"},
		{
			store.Notification{ImageURL: "https://x", Data: map[string]string{"image-url": "x"}},
			"data",
			"has the member image-url, which the payload for ios has a use of its own for; name it otherwise",
		},
		{store.Notification{APNs: store.APNsOptions{Critical: true, Volume: math.NaN()}}, "body", "cannot be put into a payload for ios: a number is not one that JSON has"},
	} {
		_, _, err := Render(&c.n, "")
		if e, ok := errors.AsType[*store.MessageError](err); !ok || e.Field != c.field || e.Detail != c.detail {
			t.Errorf("%v, want %s: %s", err, c.field, c.detail)
		}
	}
}
