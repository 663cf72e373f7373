package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// PublishCloudEvent submits one event in the JSON event format of CloudEvents 1.0, as it is, and returns the id that the
// daemon derives from its source and id. As with Publish, no error means that it is on disk; publishing the same event
// again is harmless. Its data has to be a JSON object. Needs the publish scope.
func (c *Client) PublishCloudEvent(ctx context.Context, event json.RawMessage) (string, error) {
	if !json.Valid(event) {
		return "", errors.New("the event is not JSON")
	}
	var out accepted
	err := c.call(ctx, request{
		method: http.MethodPost, path: "/events", body: bytes.NewReader(event), contentType: "application/cloudevents+json",
	}, &out)
	return out.ID, err
}

// PublishCloudEvents submits several events of that form, 1 to 10,000, and returns their ids in order. All of them are
// accepted or none.
func (c *Client) PublishCloudEvents(ctx context.Context, events []json.RawMessage) ([]string, error) {
	for i, e := range events {
		if !json.Valid(e) {
			return nil, fmt.Errorf("event %d is not JSON", i)
		}
	}
	body := append(append([]byte{'['}, bytes.Join(rawBytes(events), []byte{','})...), ']')
	return c.publishMany(ctx, bytes.NewReader(body), "application/cloudevents-batch+json", "")
}

func rawBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}
