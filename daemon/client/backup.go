package client

import (
	"context"
	"io"
	"net/http"
)

// Backup makes a backup of the daemon's files and returns it, a tar file, with its length, as it is sent; the caller closes it. What
// ends before its length is not whole, and reading it fails. The key that encrypts secrets is not in it. It needs the
// admin scope.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, int64, error) {
	res, err := c.send(ctx, request{method: http.MethodGet, path: "/admin/backup"})
	if err != nil {
		return nil, 0, err
	}
	return res.Body, res.ContentLength, nil
}
