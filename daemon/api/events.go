package api

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// defaultLimit is the length of a page of events or deliveries.
const defaultLimit = 100

// appendString appends a JSON string. What is not UTF-8 is replaced.
func appendString(dst []byte, s string) []byte {
	b, err := jsontext.AppendQuote(dst, s)
	if err != nil { // it tells of replaced bytes
		b, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(s, "\uFFFD"))
	}
	return b
}

// appendEvent appends an event without its closing brace. The data is as it was published, byte for
// byte, which is why an encoder does not write it.
func appendEvent(dst []byte, e *queue.Event) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, e.ID)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, e.Type)
	if e.Resource != "" {
		dst = append(dst, `,"resource":`...)
		dst = appendString(dst, e.Resource)
	}
	dst = append(dst, `,"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","acceptedAt":"`...)
	dst = e.AcceptedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","accountId":`...)
	dst = appendString(dst, e.AccountID)
	dst = append(dst, `,"data":`...)
	dst = append(dst, e.Data...)
	if len(e.Attributes) > 0 {
		dst = append(append(dst, `,"attributes":`...), e.Attributes...)
	}
	return dst
}

func (a *API) listEvents(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	f := queue.EventFilter{AccountID: c.account.ID, After: q.Get("after"), Without: store.MessagePrefix}
	limit := limitOf(q, &fs, defaultLimit)
	if f.After != "" && checkEventID(f.After) != nil {
		fs.add("after", "must be the id of an event")
	}
	if err := fs.err(); err != nil {
		return err
	}
	return stream(c, q, limit, func(_ **queue.Event, n int) ([]*queue.Event, error) {
		f.Limit = n
		events, err := a.queue.Events(c.r.Context(), f)
		return events, afterError(err)
	}, func(e **queue.Event) string { return (*e).ID }, func(dst []byte, e **queue.Event) ([]byte, error) {
		return append(appendEvent(dst, *e), '}'), nil
	})
}

// afterError tells a page that begins after something that is gone.
func afterError(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		var fs faults
		fs.add("after", "names nothing that is still retained; begin again without it")
		return fs.err()
	}
	return err
}

// readEvent answers an event with the first of its deliveries.
func (a *API) readEvent(c *call) error {
	id := c.r.PathValue("event")
	gone := newProblem(notFound, "there is no event %s of this account, or it is not retained any more", show(id))
	if checkEventID(id) != nil {
		return gone
	}
	e, err := a.queue.Event(c.r.Context(), c.account.ID, id)
	if errors.Is(err, queue.ErrNotFound) || err == nil && strings.HasPrefix(e.Type, store.MessagePrefix) {
		return gone
	}
	if err != nil {
		return err
	}
	deliveries, err := a.queue.Deliveries(c.r.Context(), queue.DeliveryFilter{
		AccountID: c.account.ID, EventID: id, Limit: defaultLimit, Held: c.held(),
	})
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	b := append(appendEvent(c.out[:0], e), `,"deliveries":[`...)
	for i, d := range deliveries {
		if i > 0 {
			b = append(b, ',')
		}
		v, err := json.Marshal(viewDelivery(d))
		if err != nil {
			return err
		}
		b = append(b, v...)
	}
	c.out = append(b, "]}"...)
	c.raw(http.StatusOK, c.out)
	return nil
}
