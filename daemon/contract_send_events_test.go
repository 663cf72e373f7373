package daemon_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Events that become notifications: a subscription notifies devices in the place of a callback.

// notifies makes a subscription whose events become notifications, and returns its id.
func (a *app) notifies(notification fields, more fields) string {
	a.t.Helper()
	body := merged(fields{"notification": merged(fields{"implementationId": a.id}, notification)}, more)
	return a.admin().do("POST", "/subscriptions", body).is(200).text("id")
}

func TestContract_Send_AnEventReachesAWebhookAndAPhone(t *testing.T) {
	t.Parallel()
	s := startSending(t, steady)
	a := s.app("shop", nil)
	a.register("android", "c-4711", "phone", fields{"locale": "nl"})
	a.register("ios", "c-4711", iphone("ann"), nil)
	r, ops := receive(t), receive(t)
	hook := s.subscribe(r.URL, fields{"events": []string{"order.*"}})
	s.subscribe(ops.URL, fields{"events": []string{"herald.delivery.dead"}})
	phones := a.notifies(fields{
		"routeeContactId": "c-{{customer.id}}",
		"body": fields{
			"title": fields{"en": "Order {{order.number}}", "nl": "Bestelling {{order.number}}"}, "text": fields{"en": "{{order.state}}, {{ express }}!", "nl": "{{order.state}}!"},
		},
		"data": fields{"order": "{{order.number}}", "nothing": "{{no.such}}"}, "ttl": 600, "collapseKey": "orders",
	}, fields{"events": []string{"order.*"}})
	read := s.read(phones)
	if read["dataCallbackURL"] != nil || read["notification"] == nil || read["state"] != "active" {
		t.Errorf("the subscription is %v", read)
	}

	event := s.publish("order.sent", "", fields{"customer": fields{"id": 4711}, "order": fields{"number": "A-1", "state": "on its way"}, "express": true})
	s.delivery(event, hook, "delivered")
	d := s.delivery(event, phones, "delivered")
	tracking, _ := at(t, []byte(fmt.Sprint(attempts(t, d)[0]["response"])), "trackingId").(string)
	m := s.ends(tracking, "SENT")
	same(t, "the message", m, fields{"routeeContactId": "c-4711", "implementationId": "shop", "counts": map[string]any{"queued": 0, "sent": 2, "failed": 0}})
	holds(t, "the phone", s.requests("phone")[0].Body, fields{"message": fields{
		"token": "phone", "notification": fields{"title": "Bestelling A-1", "body": "on its way!"}, "data": fields{"order": "A-1"},
		"android": fields{"priority": "HIGH", "ttl": "600s", "collapseKey": "orders"},
	}})
	p, _ := s.apns.Last(iphone("ann"))
	holds(t, "the iPhone", p.Payload, fields{"aps": fields{"alert": fields{"title": "Order A-1", "body": "on its way, true!"}}, "order": "A-1"})
	if got := r.wait(1)[0].object(t); got["id"] != event {
		t.Errorf("the webhook got %v", got)
	}

	// A replay notifies again.
	s.admin().do("POST", "/subscriptions/"+phones+"/replay", fields{"since": "2020-01-01T00:00:00Z"}).is(202)
	s.eventually("the replay notifies again", func() bool { return s.apns.Sent(iphone("ann")) == 2 })

	// Nobody can be notified: the deliveries are dead, and say why.
	for what, c := range map[string]struct {
		data  fields
		names []string
	}{
		"no contact in the data":    {fields{"customer": "x", "order": fields{}}, []string{"device"}},
		"a contact without devices": {fields{"customer": fields{"id": 12}}, []string{"routeeContactId", "no device"}},
		"a text that is too long":   {fields{"customer": fields{"id": 4711}, "order": fields{"state": strings.Repeat("x", 5000)}}, []string{"more than the 4,096"}},
	} {
		event := s.publish("order.sent", "", c.data)
		d := s.delivery(event, phones, "dead")
		if d["reason"] != "rejected" {
			t.Errorf("%s: the delivery is dead by %v", what, d["reason"])
		}
		names(t, what, fmt.Sprint(attempts(t, d)[0]["error"]), c.names...)
		s.delivery(event, hook, "delivered")
	}
	missing := a.notifies(fields{"routeeContactId": "{{customer.id}}", "body": fields{"text": "x"}}, fields{"events": []string{"basket.*"}})
	event = s.publish("basket.left", "", fields{"customer": fields{}})
	d = s.delivery(event, missing, "dead")
	names(t, "a template whose contact is missing", fmt.Sprint(attempts(t, d)[0]["error"]), "the contact of the notification, {{customer.id}}", "blank")
	s.eventually("it stands among the dead letters, alone", func() bool {
		got := s.found(missing, "state=dead&reason=rejected")
		return len(got) == 1 && got[0] == event
	})
	s.eventually("the operator is told of the four", func() bool { return len(ops.got()) == 4 })
	for _, p := range ops.got() {
		data, _ := p.object(t)["data"].(map[string]any)
		if data["reason"] != "rejected" || data["lastError"] == nil || data["subscriptionId"] != phones && data["subscriptionId"] != missing {
			t.Errorf("the operator is told %s", p.body)
		}
	}

	// Once the contact has a device, the dead letter is retried.
	a.register("android", "c-12", "late-phone", nil)
	if n := s.retryDead(phones, "?reason=rejected", nil); n != 3 {
		t.Errorf("%d dead deliveries are retried", n)
	}
	s.eventually("the late phone got it", func() bool { return len(s.requests("late-phone")) == 1 })

	// The template is changed as a whole, and gives way to a callback.
	s.admin().do("PATCH", "/subscriptions/"+missing, fields{"notification": fields{"implementationId": "shop", "contactId": "c-12", "body": fields{"text": "Hi {{name}}"}}}).is(200)
	event = s.publish("basket.left", "", fields{"name": "Ann"})
	s.delivery(event, missing, "delivered")
	s.eventually("the late phone got the other text", func() bool {
		got := s.requests("late-phone")
		return len(got) == 2 && at(t, got[1].Body, "message", "notification", "body") == "Hi Ann"
	})
	s.admin().do("PATCH", "/subscriptions/"+missing, fields{"notification": nil, "dataCallbackURL": r.URL}).is(200)
	names(t, "both", s.admin().do("PATCH", "/subscriptions/"+missing, fields{"notification": fields{"implementationId": "shop", "contactId": "x", "body": fields{"text": "x"}}}).problem(400), "dataCallbackURL")
	event = s.publish("basket.left", "", fields{})
	s.delivery(event, missing, "delivered")
}

// Everything that a message may show stands in a template as well, and is read as it was given.
func TestContract_Send_TemplateOfEverything(t *testing.T) {
	t.Parallel()
	s := startSending(t)
	a := s.app("shop", nil)
	whole := merged(everything(), fields{"contactId": "{{who}}", "body": fields{"title": fields{"nl": "Hallo", "en": "Hello"}, "text": fields{"nl": "Ja", "en": "Yes"}, "forceLocale": "nl"}})
	read := s.read(a.notifies(whole, fields{"events": []string{"a.b"}}))["notification"].(map[string]any)
	for name, want := range whole {
		if name == "contactId" {
			name = "routeeContactId"
		}
		if got := read[name]; fmt.Sprint(plain(t, got)) != fmt.Sprint(plain(t, want)) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	silent := s.read(a.notifies(fields{"routeeContactId": "x", "silent": true, "data": fields{"a": "b"}}, nil))["notification"].(map[string]any)
	same(t, "a silent one", silent, fields{"silent": true, "priority": "normal", "ttl": 2419200.0, "implementationId": "shop"})
	for what, c := range map[string]struct {
		notification fields
		names        string
	}{
		"no contact":             {fields{"body": fields{"text": "x"}}, "routeeContactId"},
		"a place without an end": {fields{"contactId": "x", "body": fields{"text": "{{x"}}, "without its }}"},
		"an unknown member":      {fields{"contactId": "x", "body": fields{"text": "x"}, "colour": 1}, "colour"},
	} {
		body := fields{"notification": merged(fields{"implementationId": "shop"}, c.notification)}
		names(t, what, s.admin().do("POST", "/subscriptions", body).problem(400), c.names)
	}
	for what, body := range map[string]fields{
		"no such implementation": {"notification": fields{"implementationId": "nope", "contactId": "x", "body": fields{"text": "x"}}},
		"batches":                {"notification": fields{"implementationId": "shop", "contactId": "x", "body": fields{"text": "x"}}, "numberOfRecords": 5},
	} {
		if a := s.admin().do("POST", "/subscriptions", body); a.status/100 != 4 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
}

// plain is a value as JSON has it.
func plain(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return at(t, text)
}
