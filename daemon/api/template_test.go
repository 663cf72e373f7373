package api

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/store"
)

const template = `{"implementationId":"app","routeeContactId":"{{customer.id}}","body":{"title":"Order {{id}}","text":{"en":"{{ /items/0/name }}","nl":"x"}},
	"data":{"id":"{{id}}"},"imageUrl":"https://a.example/i","android":{"tag":"t"},"apn":{"critical":true},"web":{"tag":"w","ttl":5},"actions":[{"id":"a","title":"A"}],
	"badge":1,"sound":"default","ttl":60,"priority":"normal","collapseKey":"k"}`

// notifying has a token that may have notifications sent.
func notifying(b *bed) string {
	b.newApp("app")
	b.store.tokens[hashOf("note")] = store.Token{ID: "tok_note", AccountID: "acme", Scopes: []store.Scope{store.ScopeSubscribe, store.ScopeSend}, Hash: hashOf("note")}
	return "note"
}

func TestSubscriptions_NotifyInPlaceOfAPush(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{ValidationRequired: true})
	token := notifying(b)
	made := wantJSON[jsonObject](t, b.request("POST", "/subscriptions", token, `{"events":["order.*"],"notification":`+template+`}`), 200)
	if made["state"] != "active" || made["signingSecretSet"] != false || made["signingSecret"] != nil {
		t.Errorf("%v", made)
	}
	for _, name := range []string{"dataCallbackURL", "exportFormat", "numberOfRecords", "maxWaitSeconds", "payload", "method"} {
		if made[name] != nil {
			t.Errorf("%s is shown: %v", name, made[name])
		}
	}
	path := "/subscriptions/" + fmt.Sprint(made["id"])
	id, _ := store.ParseSubscriptionID(fmt.Sprint(made["id"]))
	s, err := b.store.Subscription(t.Context(), id)
	if err != nil || s.Notification.Contact != "{{customer.id}}" || s.Notification.Notification.TTL != time.Minute || s.Notification.Notification.Data["id"] != "{{id}}" {
		t.Fatalf("%+v (%v)", s.Notification, err)
	}
	// What is shown is taken back, also without the scope to send: it changes nothing.
	before := s.Clone()
	for _, method := range []string{"PUT", "PATCH"} {
		again := wantJSON[jsonObject](t, b.request(method, path, "sub", quote(made)), 200)
		if !reflect.DeepEqual(again, made) {
			t.Errorf("%s: %v, want %v", method, again, made)
		}
	}
	if s, _ := b.store.Subscription(t.Context(), id); !reflect.DeepEqual(s.Notification, before.Notification) {
		t.Errorf("%+v, want %+v", s.Notification, before.Notification)
	}
	for _, call := range []string{"/secret", "/validation"} {
		wantProblem(t, b.request("POST", path+call, "sub", ""), http.StatusConflict, "notifies devices")
	}
	// It becomes a push, and a notification again.
	v := wantJSON[jsonObject](t, b.request("PATCH", path, "sub", `{"notification":null,"dataCallbackURL":"https://a.example/"}`), 200)
	if v["notification"] != nil || v["dataCallbackURL"] != "https://a.example/" || v["state"] != "pending" || v["method"] != "POST" {
		t.Errorf("%v", v)
	}
	wantProblem(t, b.request("PATCH", path, token, `{"notification":`+template+`}`), 400, "notification", "null")
	v = wantJSON[jsonObject](t, b.request("PATCH", path, token, `{"dataCallbackURL":null,"notification":`+template+`}`), 200)
	if v["notification"] == nil || v["state"] != "active" {
		t.Errorf("%v", v)
	}
}

func TestSubscriptions_NotificationsAreJudged(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	token := notifying(b)
	with := func(old, new string) string { return `{"notification":` + strings.Replace(template, old, new, 1) + `}` }
	for _, c := range []struct{ body, field, word string }{
		{`{}`, "dataCallbackURL", "or notification"},
		{`{"notification":` + template + `,"dataCallbackURL":"https://a.example/"}`, "dataCallbackURL", "excludes notification"},
		{`{"notification":1}`, "notification", "object"},
		{with(`"app"`, `"nope"`), "/notification/implementationId", "there is no implementation"},
		{with(`"implementationId":"app",`, ``), "/notification/implementationId", "needed"},
		{with(`{{customer.id}}`, ` `), "/notification/routeeContactId", "blank"},
		{with(`{{customer.id}}`, `{{customer..id}}`), "/notification/routeeContactId", "dots"},
		{with(`Order {{id}}`, `Order {{id`), "/notification/body/title", "without its }}"},
		{with(`{{ /items/0/name }}`, `{{/~5}}`), "/notification/body/text/en", "JSON Pointer"},
		{with(`"id":"{{id}}"`, `"id":"{{}}"`), "/notification/data/id", "dots"},
		{with(`"ttl":60`, `"ttl":-1`), "/notification/ttl", "greater than or equal to 0"},
		{with(`"sound"`, `"sendAt":"2026-11-22T00:00:00Z","sound"`), "/notification/sendAt", "not known"},
		{`{"notification":` + template + `,"signingSecret":"x"}`, "signingSecret", "left out"},
		{`{"notification":` + template + `,"authentication":{"type":"bearer","token":"x"}}`, "authentication", "left out"},
		{`{"notification":` + template + `,"validationCallbackURL":"https://a.example/"}`, "validationCallbackURL", "left out"},
		{`{"notification":` + template + `,"numberOfRecords":2}`, "numberOfRecords", "left out"},
	} {
		p := wantProblem(t, b.request("POST", "/subscriptions", token, c.body), 400)
		i := slices.IndexFunc(p.Errors, func(f fault) bool { return f.Field == c.field })
		if i < 0 || !strings.Contains(p.Errors[i].Detail, c.word) {
			t.Errorf("%s: %+v, want %s: …%s", c.body, p.Errors, c.field, c.word)
		}
	}
	wantProblem(t, b.request("POST", "/subscriptions", "sub", `{"notification":`+template+`}`), 403, "send")
}
