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
	res, err := c.send(ctx, request{method: http.MethodGet, path: "/metrics"})
	if err != nil {
		return nil, err
	}
	defer closeBody(res)
	b, err := io.ReadAll(&meter{r: res.Body, left: maxMetrics})
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	return b, nil
}
