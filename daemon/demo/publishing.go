package demo

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"herald/daemon/client"
)

func (t *story) publish(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	// The spelling of the numbers and the spaces have to survive.
	data := []byte(`{"title":"Call back",  "hours":1.50,"tags":["<new>","grün"]}`)
	id, err := api.Publish(ctx, client.Event{Type: "task.create", Resource: "project/proj1", Data: data})
	if err != nil {
		return err
	}
	durable := time.Now()
	t.out.note("202: on disk, synced, as %s", id)
	t.expect(id, data)
	as, err := t.arrived(ctx, id)
	if err != nil {
		return err
	}
	after := "before the answer was read"
	if d := as[0].at.Sub(durable); d > 0 {
		after = round(d) + " after it"
	}
	t.out.proved("arrived %s: signature verified, token right, data byte for byte: %s", after, as[0].data)

	other, err := api.Publish(ctx, client.Event{Type: "task.create", Resource: "project/proj2", Data: data})
	if err != nil {
		return err
	}
	t.accepted++
	if err := t.unwanted(ctx, other); err != nil {
		return err
	}
	t.out.proved("the same on project/proj2 is kept as an event, and pushed to nobody")
	return nil
}

func (t *story) publishMany(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	var events []client.Event
	for i := range 3 {
		events = append(events, client.Event{
			Type: "task.update", Resource: "project/proj1", Data: []byte(`{"task":` + strconv.Itoa(i+1) + `}`),
		})
	}
	ids, err := api.PublishBatch(ctx, client.Batch{Events: events})
	if err != nil {
		return err
	}
	lines := `{"type":"task.update","resource":"project/proj1","data":{"task":4}}
{"type":"task.delete","resource":"project/proj1","data":{"task":5}}`
	more, err := api.PublishLines(ctx, strings.NewReader(lines), "")
	if err != nil {
		return err
	}
	ids = append(ids, more...)
	if len(ids) != 5 {
		return fmt.Errorf("5 events were published and answered with %d ids", len(ids))
	}
	for i, id := range ids {
		t.expect(id, []byte(`{"task":`+strconv.Itoa(i+1)+`}`))
	}
	as, err := t.arrived(ctx, ids...)
	if err != nil {
		return err
	}
	t.out.proved("%d of 5 arrived, each verified", len(as))
	return nil
}

// publishXML subscribes a receiver of XML and publishes what is hard to say in XML.
func (t *story) publishXML(ctx context.Context) error {
	in := t.input()
	in.DataCallbackURL, in.ExportFormat = t.receiver.url+xmlPath, "application/xml"
	in.Resource, in.Events, in.Delivery = "order/o-77", []string{"order.*"}, nil
	api, err := t.as()
	if err != nil {
		return err
	}
	s, err := api.CreateSubscription(ctx, in)
	if err != nil {
		return err
	}
	if err := t.receiver.trust(xmlPath, s.SigningSecret, in.ExportFormat, readXML); err != nil {
		return err
	}
	data := []byte(`{"total":250.00,"customer":{"name":"Grün & Söhne"},"items":[{"sku":"A-1","count":2},{"sku":"B-7","count":1}],"unit price":"< 125 €"}`)
	id, err := api.Publish(ctx, client.Event{Type: "order.paid", Resource: in.Resource, Data: data})
	if err != nil {
		return err
	}
	t.expect(id, data)
	as, err := t.arrived(ctx, id)
	if err != nil {
		return err
	}
	if a := as[0]; a.path != xmlPath || a.eventType != "order.paid" || a.resource != in.Resource {
		return fmt.Errorf("the push came to %s and tells of %q on %q", a.path, a.eventType, a.resource)
	}
	t.out.note("%s", as[0].data)
	t.out.proved("verified, parsed, and compared with the JSON: members are elements, the array is repeated, a name that XML forbids is in an attribute")
	return nil
}

func (t *story) repeat(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	e := client.Event{ID: "invoice-4711", Type: "task.create", Resource: "project/proj1", Data: []byte(`{"invoice":4711}`)}
	first, err := api.Publish(ctx, e)
	if err != nil {
		return err
	}
	t.expect(first, e.Data)
	again, err := api.Publish(ctx, e)
	if err != nil {
		return err
	}
	if first != e.ID || again != e.ID {
		return fmt.Errorf("the answers name %q and %q, not %q", first, again, e.ID)
	}
	stored, err := api.Event(ctx, e.ID)
	if err != nil {
		return err
	}
	if len(stored.Deliveries) != 1 {
		return fmt.Errorf("the event has %d deliveries, it should have 1", len(stored.Deliveries))
	}
	if _, err := t.arrived(ctx, e.ID); err != nil {
		return err
	}
	t.out.proved("published twice, answered the same, one delivery")
	e.Data = []byte(`{"invoice":4712}`)
	_, err = api.Publish(ctx, e)
	p, err := refused(err, http.StatusConflict)
	if err != nil {
		return fmt.Errorf("publish other content under the same id: %w", err)
	}
	t.out.proved("the same id with other content is refused: %d, %s", p.StatusCode, p.Detail)
	return nil
}

func (t *story) badRequest(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	lines := `{"type":"task.create","resuorce":"project/proj1","data":{}}`
	_, err = api.PublishLines(ctx, strings.NewReader(lines), "")
	p, err := refused(err, http.StatusBadRequest)
	if err != nil {
		return fmt.Errorf("publish an event with a misspelt member: %w", err)
	}
	if !strings.Contains(p.Error(), "resuorce") {
		return fmt.Errorf("the problem does not name the misspelt member: %w", p)
	}
	t.showProblem(p)
	in := t.input()
	in.Resource = "project/nowhere"
	in.NumberOfRecords = 5000
	_, err = api.CreateSubscription(ctx, in)
	if p, err = refused(err, http.StatusBadRequest); err != nil {
		return fmt.Errorf("subscribe with wrong fields: %w", err)
	}
	t.showProblem(p)
	t.out.proved("400 both times, and each wrong member is named")
	return nil
}

func (t *story) showProblem(p *client.Problem) {
	if len(p.Errors) == 0 {
		t.out.note("%d %s: %s", p.StatusCode, p.Title, p.Detail)
		return
	}
	t.out.note("%d %s", p.StatusCode, p.Title)
	for _, e := range p.Errors {
		t.out.note("  %s: %s", e.Field, e.Detail)
	}
}
