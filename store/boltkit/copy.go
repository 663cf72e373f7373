package boltkit

import (
	"context"
	"fmt"
	"io"

	bolt "go.etcd.io/bbolt"
)

// Copy writes the file to w as it is at one moment, while others go on reading and writing, in a buffer of
// some KiB, and returns its length. What was committed before is in it, what is committed meanwhile is not.
//
// One read transaction lasts as long as w takes, and until it ends the file grows instead of using the pages that
// become free. So w must be a local file, never a network. Writers do not wait for it as long as the file fits into the
// address space that was reserved (Options.InitialMmapSize).
func (d *DB) Copy(ctx context.Context, w io.Writer) (n int64, err error) {
	err = d.View(func(tx *bolt.Tx) error {
		n, err = tx.WriteTo(contextWriter{ctx, w})
		return err
	})
	if ctx.Err() != nil {
		err = ctx.Err() // which bbolt has turned into text
	}
	if err != nil {
		return n, fmt.Errorf("copy %s: %w", d.path, err)
	}
	return n, nil
}

// contextWriter stops writing when its context ends.
type contextWriter struct {
	ctx context.Context //nolint:containedctx // it lives for one call
	w   io.Writer
}

// Write implements io.Writer.
func (c contextWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}
