package webpush

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"herald/store"
)

func TestRender(t *testing.T) {
	t.Parallel()
	three := 3
	for _, c := range []struct {
		n       store.Notification
		locale  string
		want    string
		headers Headers
	}{
		{
			store.Notification{Title: map[string]string{"en": "Hello"}},
			"",
			`{"title":"Hello","options":{"lang":"en","data":{}}}`,
			Headers{Urgency: "normal"},
		},
		{
			store.Notification{
				Title: map[string]string{"en": "Hello", "nl": "Hallo <&>"}, Text: map[string]string{"en": "There", "nl": "Daar"},
				ImageURL: "https://x.example/i.png", Data: map[string]string{"b": "2", "a": "1", "url": "no"}, High: true, CollapseKey: "news", Badge: &three,
				Actions: []store.Action{{ID: "ok", Title: "OK", IconURL: "https://x.example/ok.png"}, {ID: "no", Title: "No"}},
				Web: store.WebOptions{
					IconURL: "https://x.example/icon.png", TargetURL: "https://x.example/t", BadgeURL: "https://x.example/b.png", Tag: "t",
					RequireInteraction: true, Renotify: true,
				},
			},
			"nl-BE",
			`{"title":"Hallo <&>","appBadge":3,"options":{"body":"Daar","lang":"nl","icon":"https://x.example/icon.png","image":"https://x.example/i.png",` +
				`"badge":"https://x.example/b.png","tag":"t","actions":[{"action":"ok","title":"OK","icon":"https://x.example/ok.png"},{"action":"no","title":"No"}],` +
				`"requireInteraction":true,"renotify":true,"data":{"a":"1","b":"2","url":"https://x.example/t"}}}`,
			Headers{Urgency: "high", Topic: "news"},
		},
		{ // without a tag showNotification would throw
			store.Notification{Text: map[string]string{"en": "There"}, Web: store.WebOptions{Renotify: true}},
			"fr",
			`{"title":"","options":{"body":"There","lang":"en","data":{}}}`,
			Headers{Urgency: "normal"},
		},
		{
			store.Notification{Silent: true, Data: map[string]string{"sync": "1"}, Title: map[string]string{"en": "no"}, Web: store.WebOptions{Tag: "t"}},
			"",
			`{"silent":true,"options":{"data":{"sync":"1"}}}`,
			Headers{Urgency: "low"},
		},
		{
			store.Notification{Silent: true, High: true, Badge: new(int)},
			"",
			`{"silent":true,"appBadge":0,"options":{"data":{}}}`,
			Headers{Urgency: "high"},
		},
	} {
		got, h, err := Render(&c.n, c.locale)
		if err != nil || string(got) != c.want || h != c.headers {
			t.Errorf("got  %s %+v %v\nwant %s %+v", got, h, err, c.want, c.headers)
		}
	}
	n := store.Notification{Data: map[string]string{"url": "kept"}, Web: store.WebOptions{TargetURL: "https://x.example"}}
	if _, _, err := Render(&n, ""); err != nil || !reflect.DeepEqual(n.Data, map[string]string{"url": "kept"}) {
		t.Errorf("the notification was changed: %v, %v", n.Data, err)
	}
}

func TestHeadersAreStoredShort(t *testing.T) {
	t.Parallel()
	for h, want := range map[Headers]string{{Urgency: "normal"}: `{"u":"normal"}`, {Urgency: "high", Topic: "x"}: `{"u":"high","t":"x"}`} {
		text, err := json.Marshal(h)
		var back Headers
		if err != nil || string(text) != want || json.Unmarshal(text, &back) != nil || back != h {
			t.Errorf("%s, %v", text, err)
		}
	}
}

func TestTooLargeSaysByHowMuch(t *testing.T) {
	t.Parallel()
	const around = len(`{"title":"","options":{"body":"","lang":"en","data":{"k":""}}}`)
	make := func(body, data int) *store.Notification {
		return &store.Notification{
			Title: map[string]string{"en": ""}, Text: map[string]string{"en": strings.Repeat("x", body)},
			Data: map[string]string{"k": strings.Repeat("y", data)},
		}
	}
	text, _, err := Render(make(3000, MaxPayload-around-3000), "")
	if err != nil || len(text) != MaxPayload {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	for _, c := range []struct {
		n    *store.Notification
		want store.MessageError
	}{
		{make(3000, MaxPayload-around-3000+1), store.MessageError{Field: "body", Detail: "is 3,994 bytes for web, 1 more than the 3,993 that push services take; shorten the text"}},
		{make(100, 4310-around-100), store.MessageError{Field: "data", Detail: "is 4,310 bytes for web, 317 more than the 3,993 that push services take; shorten the data"}},
		{make(1_234_567-around, 0), store.MessageError{Field: "body", Detail: "is 1,234,567 bytes for web, 1,230,574 more than the 3,993 that push services take; shorten the text"}},
	} {
		_, _, err := Render(c.n, "")
		wrong, ok := errors.AsType[*store.MessageError](err)
		if !ok || *wrong != c.want {
			t.Errorf("got  %v\nwant %v", err, &c.want)
		}
	}
}
