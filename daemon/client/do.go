package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
)

// Call is a call as it is written in the documentation of the API, for programs that hand through what the daemon says, such as
// a command line, rather than work with it.
type Call struct {
	// Method is the HTTP method.
	Method string
	// Path are the segments of the path, as they are: "subscriptions", id.
	Path []string
	// Query holds the parameters.
	Query url.Values
	// Body is anything that encodes as JSON; nil sends none.
	Body any
}

func (c Call) request() (request, error) {
	r := request{method: c.Method, query: c.Query}
	if len(c.Path) == 0 {
		return r, errors.New("a call needs a path")
	}
	path, err := join("/"+c.Path[0], c.Path[1:]...)
	if err != nil {
		return r, err
	}
	r.path = path
	if c.Body == nil {
		return r, nil
	}
	return r, r.json("application/json", c.Body)
}

// Do makes a call and returns the daemon's answer as it came; nil when that is empty.
func (c *Client) Do(ctx context.Context, call Call) (json.RawMessage, error) {
	r, err := call.request()
	if err != nil {
		return nil, err
	}
	var out json.RawMessage
	err = c.call(ctx, r, &out)
	if errors.Is(err, io.EOF) {
		return nil, nil // such as 204
	}
	return out, err
}

// List walks a list from page to page and yields its elements as they came. An error ends it.
func (c *Client) List(ctx context.Context, path []string, query url.Values) iter.Seq2[json.RawMessage, error] {
	r, err := Call{Method: http.MethodGet, Path: path}.request()
	if err != nil {
		return func(yield func(json.RawMessage, error) bool) { yield(nil, err) }
	}
	return list[json.RawMessage](ctx, c, r.path, query)
}
