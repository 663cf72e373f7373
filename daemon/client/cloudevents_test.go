package client_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"herald/daemon/client"
)

func TestCloudEvents(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	got := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("Content-Type") + " " + string(body)
	}))
	t.Cleanup(receiver.Close)
	s := must[client.Subscription](t)(c.CreateSubscription(t.Context(), client.SubscriptionInput{DataCallbackURL: receiver.URL, Payload: "cloudevents"}))
	if s.Payload != "cloudevents" {
		t.Errorf("the subscription is %+v", s)
	}
	const event = `{"specversion":"1.0","id":"1","source":"/x","type":"a.b","data":{ "n":1.0 },"ext":true}`
	id := must[string](t)(c.PublishCloudEvent(t.Context(), json.RawMessage(event)))
	if push := <-got; !strings.HasPrefix(push, "application/cloudevents+json {") || !strings.Contains(push, `"ext":true`) || !strings.Contains(push, `"data":{ "n":1.0 }`) {
		t.Errorf("the push is %s", push)
	}
	if e := must[client.Event](t)(c.Event(t.Context(), id)); !strings.HasPrefix(id, "ce_") || string(e.Attributes) != `{"datacontenttype":"application/json","ext":true,"id":"1","source":"/x"}` {
		t.Errorf("the event %s reads as %+v", id, e)
	}
	ids := must[[]string](t)(c.PublishCloudEvents(t.Context(), []json.RawMessage{json.RawMessage(event), json.RawMessage(strings.Replace(event, `"/x"`, `"/y"`, 1))}))
	if len(ids) != 2 || ids[0] != id || ids[1] == id {
		t.Errorf("the ids are %v, the first was %s", ids, id)
	}
	if push := <-got; !strings.Contains(push, `"/y"`) {
		t.Errorf("the push is %s", push)
	}
	for _, bad := range []string{``, `{`, `{} {}`} {
		if _, err := c.PublishCloudEvent(t.Context(), json.RawMessage(bad)); err == nil {
			t.Errorf("%q was published", bad)
		}
		if _, err := c.PublishCloudEvents(t.Context(), []json.RawMessage{json.RawMessage(event), json.RawMessage(bad)}); err == nil {
			t.Errorf("%q was published", bad)
		}
	}
	if _, err := c.PublishCloudEvents(t.Context(), nil); err == nil {
		t.Error("a batch of none was published")
	}

	// In XML.
	s = must[client.Subscription](t)(c.PatchSubscription(t.Context(), s.ID, map[string]any{"payload": "data", "exportFormat": "application/xml"}))
	if s.ExportFormat != "application/xml" {
		t.Errorf("the subscription is %+v", s)
	}
	must[string](t)(c.Publish(t.Context(), client.Event{Type: "a.b", Data: json.RawMessage(`{"n":[1,2]}`)}))
	if push := <-got; !strings.HasPrefix(push, "application/xml <?xml ") || !strings.HasSuffix(push, "<record><n>1</n><n>2</n></record>") {
		t.Errorf("the push is %s", push)
	}
}
