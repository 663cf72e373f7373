package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
)

// Resource is a thing events happen to, written type/id where one is named.
type Resource struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	// Name is for people, at most 200 characters.
	Name string `json:"name,omitempty"`
}

// PutResource adds a resource to the account's catalogue, or replaces it; needs the publish scope.
func (c *Client) PutResource(ctx context.Context, r Resource) (Resource, error) {
	var out Resource
	path, err := join("/resources", r.Type, r.ID)
	if err != nil {
		return out, err
	}
	in := struct {
		Name string `json:"name,omitempty"`
	}{r.Name}
	err = c.submit(ctx, http.MethodPut, path, in, &out)
	return out, err
}

// PutResources adds or replaces many resources, all or none.
func (c *Client) PutResources(ctx context.Context, rs []Resource) error {
	if rs == nil {
		rs = []Resource{} // an array on the wire, not null
	}
	return c.submit(ctx, http.MethodPut, "/resources", rs, nil)
}

// Resource returns one resource of the catalogue.
func (c *Client) Resource(ctx context.Context, resourceType, id string) (Resource, error) {
	var out Resource
	path, err := join("/resources", resourceType, id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// Resources lists the catalogue, of one type or, when resourceType is empty, of all, ascending by
// type and id. The whole list is streamed: it may be of any length. Needs the publish or the
// subscribe scope.
func (c *Client) Resources(ctx context.Context, resourceType string) iter.Seq2[Resource, error] {
	q := url.Values{}
	if resourceType != "" {
		q.Set("type", resourceType)
	}
	return list[Resource](ctx, c, "/resources", q)
}

// DeleteResource removes a resource from the catalogue. Subscriptions that name it stay.
func (c *Client) DeleteResource(ctx context.Context, resourceType, id string) error {
	path, err := join("/resources", resourceType, id)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}
