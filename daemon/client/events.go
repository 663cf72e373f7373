package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Event is what happened.
type Event struct {
	// ID makes publishing the same event again harmless: 1 to 128 printable characters without a
	// space. Empty lets the daemon choose.
	ID string `json:"id,omitempty"`
	// Type is such as task.create; required.
	Type string `json:"type"`
	// Resource is type/id, or empty.
	Resource string `json:"resource,omitempty"`
	// Time is when it happened; zero means now.
	Time time.Time `json:"time,omitzero"`
	// Data is a JSON object, published and delivered byte for byte; required.
	Data json.RawMessage `json:"data"`
	// Attributes are those of an event that was published as a CloudEvent, but specversion, type and time; set by the
	// daemon, nil for others.
	Attributes json.RawMessage `json:"attributes,omitempty"`
	// AccountID and AcceptedAt are set by the daemon and not published.
	AccountID  string    `json:"accountId,omitempty"`
	AcceptedAt time.Time `json:"acceptedAt,omitzero"`
	// Deliveries are the first 100 of the event's deliveries; set by Client.Event only.
	Deliveries []Delivery `json:"deliveries,omitempty"`
}

// append writes the event as it is published. It is not left to encoding/json, which would rewrite
// the data: that has to arrive byte for byte.
func (e *Event) append(dst []byte) ([]byte, error) {
	if !json.Valid(e.Data) {
		return nil, errors.New("data is not JSON")
	}
	head, err := encode(struct {
		ID       string    `json:"id,omitempty"`
		Type     string    `json:"type"`
		Resource string    `json:"resource,omitempty"`
		Time     time.Time `json:"time,omitzero"`
	}{e.ID, e.Type, e.Resource, e.Time})
	if err != nil {
		return nil, err
	}
	dst = append(dst, head[:len(head)-1]...)
	dst = append(dst, `,"data":`...)
	dst = append(dst, e.Data...)
	return append(dst, '}'), nil
}

// accepted is the answer to one published event.
type accepted struct {
	ID string `json:"id"`
}

// Publish submits one event and returns its id. When it returns without an error the event is on
// disk, synced. An error other than a *Problem or an *UnreachableError leaves that open: publish it
// again with the same ID. Needs the publish scope.
func (c *Client) Publish(ctx context.Context, e Event) (string, error) {
	body, err := e.append(nil)
	if err != nil {
		return "", fmt.Errorf("encode the event: %w", err)
	}
	var out accepted
	err = c.call(ctx, request{
		method: http.MethodPost, path: "/events", body: bytes.NewReader(body), contentType: "application/json",
	}, &out)
	return out.ID, err
}

// Batch is several events that are accepted all or none.
type Batch struct {
	// Events are 1 to 10,000.
	Events []Event
	// IdempotencyKey makes publishing the same batch again harmless where its events have no ids of
	// their own: 1 to 255 printable characters, or empty for none.
	IdempotencyKey string
}

// PublishBatch submits several events in one request and returns their ids in order. As with
// Publish, no error means that all of them are on disk.
func (c *Client) PublishBatch(ctx context.Context, b Batch) ([]string, error) {
	body := []byte{'['}
	for i := range b.Events {
		if i > 0 {
			body = append(body, ',')
		}
		var err error
		if body, err = b.Events[i].append(body); err != nil {
			return nil, fmt.Errorf("encode event %d: %w", i, err)
		}
	}
	body = append(body, ']')
	return c.publishMany(ctx, bytes.NewReader(body), "application/json", b.IdempotencyKey)
}

// PublishLines submits events written as NDJSON, one on each line, as they are, and returns their
// ids in order. All of them are accepted or none; the key is as in Batch.
func (c *Client) PublishLines(ctx context.Context, lines io.Reader, key string) ([]string, error) {
	return c.publishMany(ctx, lines, "application/x-ndjson", key)
}

func (c *Client) publishMany(ctx context.Context, body io.Reader, contentType, key string) ([]string, error) {
	var out []accepted
	err := c.call(ctx, request{
		method: http.MethodPost, path: "/events", body: body, contentType: contentType, key: key,
	}, &out)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(out))
	for i := range out {
		ids[i] = out[i].ID
	}
	return ids, nil
}

// Event returns a retained event with its deliveries. Needs the publish or the subscribe scope.
func (c *Client) Event(ctx context.Context, id string) (Event, error) {
	var out Event
	path, err := join("/events", id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// EventFilter selects events for a listing; zero members do not restrict.
type EventFilter struct {
	// After is the id of an event: the listing begins with the one accepted before it.
	After string
	// PageSize is how many are asked for at a time, 1 to 1000; 0 means the daemon's default of 100.
	PageSize int
}

// Events lists retained events, newest first, from page to page until the caller stops or the oldest
// is reached.
func (c *Client) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	q := url.Values{}
	paging(q, f.PageSize, f.After)
	return list[Event](ctx, c, "/events", q)
}
