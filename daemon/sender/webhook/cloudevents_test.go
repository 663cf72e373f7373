package webhook

import (
	"encoding/json"
	"testing"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"herald/queue"
	"herald/store"
)

func TestCloudEvents(t *testing.T) {
	t.Parallel()
	came := event()
	came.ID, came.Resource = "ce_derived", "project/proj1"
	came.Attributes = []byte(`{"datacontenttype":"application/json; charset=utf-8","id":"1 2","sequence":7,"source":"/shop","subject":"x","traced":true}`)
	plain := event()
	plain.ID, plain.Resource, plain.AccountID = `a"\`, "", "shop-1"
	sub := subscription("http://127.0.0.1:1/")
	sub.Payload = store.PayloadCloudEvents
	const own = `{"specversion":"1.0","type":"task.create","time":"2026-11-21T10:20:30.123456789Z","id":"evt_1","source":"urn:herald:default","subject":"project/proj1","datacontenttype":"application/json","data":{ "n":1.0,"text":"\u00e9ä<>" }}`
	const kept = `{"specversion":"1.0","type":"task.create","time":"2026-11-21T10:20:30.123456789Z","datacontenttype":"application/json; charset=utf-8","id":"1 2","sequence":7,"source":"/shop","subject":"x","traced":true,"data":{ "n":1.0,"text":"\u00e9ä<>" }}`
	const bare = `{"specversion":"1.0","type":"task.create","time":"2026-11-21T10:20:30.123456789Z","id":"a\"\\","source":"urn:herald:shop-1","datacontenttype":"application/json","data":{ "n":1.0,"text":"\u00e9ä<>" }}`
	for _, c := range []struct {
		records int
		events  []*queue.Event
		want    string
	}{
		{1, []*queue.Event{event()}, own},
		{1, []*queue.Event{came}, kept},
		{1, []*queue.Event{plain}, bare},
		{2, []*queue.Event{came}, "[" + kept + "]"},
		{10, []*queue.Event{came, plain, event()}, "[" + kept + "," + bare + "," + own + "]"},
	} {
		sub.NumberOfRecords = c.records
		got, pr := encode(sub, &queue.Push{Events: c.events})
		if pr != nil || string(got) != c.want {
			t.Fatalf("%s (%v), want\n%s", got, pr, c.want)
		}
		list := make([]cloudevents.Event, 1)
		var into any = &list[0]
		if c.records > 1 {
			into = &list
		}
		if err := json.Unmarshal(got, into); err != nil || len(list) != len(c.events) {
			t.Fatalf("%s: %v", got, err)
		}
		for i, e := range list {
			if err := e.Validate(); err != nil {
				t.Errorf("%s: %v", got, err)
			}
			if string(e.Data()) != string(c.events[i].Data) || e.Type() != c.events[i].Type || !e.Time().Equal(c.events[i].Time) {
				t.Errorf("%s reads as %s", got, e)
			}
		}
	}
}
