package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"herald/daemon/api"
	"herald/daemon/archive"
	"herald/daemon/datadir"
	"herald/queue"
	"herald/queue/boltqueue"
	"herald/store/boltkit"
	"herald/store/boltstore"
)

// openFiles makes the data directory and opens the two files in it. The store comes first: its lock
// is what keeps a second daemon out.
func (d *Daemon) openFiles(ctx context.Context, registry *prometheus.Registry) error {
	c := d.o.Config
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return &ExitError{ExitUsage, fmt.Errorf("make the data directory: %w", err)}
	}
	if err := datadir.Complete(c.DataDir); err != nil {
		return &ExitError{ExitUsage, err}
	}
	storePath := filepath.Join(c.DataDir, boltstore.FileName)
	key, err := boltstore.KeyFor(c.SecretsKeyFile(d.o.Environ), storePath)
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	boltkit.Tidy(ctx, storePath, d.logger)
	d.store, err = boltstore.Open(boltstore.Options{
		Path: storePath, Key: key, Logger: d.logger.With("part", "store"), Registerer: registry,
	})
	if err != nil {
		return openError(c.DataDir, err)
	}
	d.closers = append(d.closers, d.store.Close)
	queuePath := filepath.Join(c.DataDir, boltqueue.FileName)
	boltkit.Tidy(ctx, queuePath, d.logger)
	d.queue, err = boltqueue.Open(boltqueue.Options{
		Path: queuePath, Retention: retention(c),
		Expired: func(lane queue.Lane, eventType string, n int) { d.dispatcher.Expired(lane, eventType, n) },
		Logger:  d.logger.With("part", "queue"), Registerer: registry,
	})
	if err != nil {
		return openError(c.DataDir, err)
	}
	d.closers = append(d.closers, d.queue.Close)
	return nil
}

// openError says what to do about a file that cannot be opened, or read at the start. A directory in use and a wrong key are
// matters of usage and configuration, and starting again does not mend a damaged file either.
func openError(dir string, err error) error {
	switch {
	case errors.Is(err, boltkit.ErrLocked):
		return &ExitError{ExitUsage, fmt.Errorf("the data directory %s is in use by another herald; stop that one, or name another directory with data_dir", dir)}
	case errors.Is(err, boltstore.ErrKey), errors.Is(err, boltstore.ErrKeyMissing), errors.Is(err, boltkit.ErrNewer):
		return &ExitError{ExitUsage, err}
	case errors.Is(err, boltkit.ErrDamaged), errors.Is(err, boltkit.ErrForeign):
		return &ExitError{ExitUsage, fmt.Errorf("%w\n%s", err, datadir.Remedy(dir))}
	}
	return err
}

// backupReserve is how much room a backup leaves on the disk for the daemon's own work.
const backupReserve = 256 << 20

// backup copies both files beside the data, for the API to send. The queue comes first: what is in it refers to what is in the
// store, so the store must not be the older one.
func (d *Daemon) backup(ctx context.Context) (api.Backup, error) {
	dir := d.o.Config.DataDir
	var need int64 = backupReserve
	for _, name := range []string{boltqueue.FileName, boltstore.FileName} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("back up: %w", err)
		}
		need += fi.Size()
	}
	if free, err := boltkit.FreeSpace(dir); err == nil && free < need {
		return nil, api.NoRoom("a backup needs %d MiB beside the data for its time, and there are %d: free some, or stop the daemon and copy its files",
			need>>20, free>>20)
	}
	a, err := archive.Make(ctx, dir, d.o.Version,
		archive.Source{Name: boltqueue.FileName, Schema: boltqueue.SchemaVersion, Copy: d.queue.Copy},
		archive.Source{Name: boltstore.FileName, Schema: boltstore.SchemaVersion, Copy: d.store.Copy})
	if err != nil {
		return nil, err
	}
	return a, nil
}
