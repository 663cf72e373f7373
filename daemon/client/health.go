package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Health returns nil when the daemon is alive. It needs no token, as Ready and Metrics do not.
func (c *Client) Health(ctx context.Context) error {
	return c.call(ctx, request{method: http.MethodGet, path: "/healthz"}, nil)
}

// Ready returns nil when the daemon can make events durable, else a *Problem with status 503 whose
// Detail says why not.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, request{method: http.MethodGet, path: "/readyz"}, nil)
}

// maxMetrics bounds the metrics page; a daemon's is some tens of KiB.
const maxMetrics = 16 << 20

// Metrics returns the daemon's metrics in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.page(ctx, "/metrics", maxMetrics)
}

// maxDocument bounds the description of the API, which has some hundred KiB.
const maxDocument = 4 << 20

// OpenAPI returns the description of the daemon's calls, an OpenAPI 3.1 document in JSON. It needs no token.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return c.page(ctx, "/openapi.json", maxDocument)
}

// page reads an answer whole, as it is.
func (c *Client) page(ctx context.Context, path string, most int64) ([]byte, error) {
	res, err := c.send(ctx, request{method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	defer closeBody(res)
	b, err := io.ReadAll(&meter{r: res.Body, left: most})
	if err != nil {
		return nil, fmt.Errorf("read the answer to GET %s: %w", path, err)
	}
	return b, nil
}
