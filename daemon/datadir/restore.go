package datadir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"herald/daemon/archive"
	"herald/daemon/cli"
	"herald/queue/boltqueue"
	"herald/store/boltkit"
	"herald/store/boltstore"
)

// Restore is the command restore.
type Restore struct {
	File string `arg:"" help:"The backup, or - for standard input."`
	Directory
}

// Help is shown below the summary.
func (Restore) Help() string {
	return `Makes the two databases of a backup in a data directory that has none: it never overwrites. Both are held against the SHA-256 sums of the backup and synced before they get their names.

The key that encrypts secrets is not in a backup. Put it where it was (secrets.key in the data directory, or secrets.key_file), with mode 0600 and owned by the daemon's user, before you start: without it, or with another, 'herald serve' refuses and says why.

What was delivered after the backup was made is delivered again; receivers can tell by the id.

Examples:

    herald restore herald.tar

    herald restore /var/backups/herald/herald-20261122T030000Z.tar --data-dir /var/lib/herald

    zstd -dc herald.tar.zst | herald restore -`
}

// schemas are the versions of the files' formats that this program knows.
var schemas = map[string]int{boltstore.FileName: boltstore.SchemaVersion, boltqueue.FileName: boltqueue.SchemaVersion}

// Run restores the backup.
func (c Restore) Run(ctx context.Context, s cli.Streams) error {
	cfg, err := c.load(s)
	if err != nil {
		return err
	}
	in, size := os.Stdin, int64(0)
	if c.File != "-" {
		if in, err = os.Open(c.File); err != nil {
			return cli.Usage(err)
		}
		defer in.Close() //nolint:errcheck // nothing was written
		if fi, err := in.Stat(); err == nil {
			size = fi.Size()
		}
	}
	p := cli.NewProgress(s.Stderr, "restore", size)
	defer p.End()
	m, err := restore(ctx, cfg.DataDir, io.TeeReader(in, p))
	if err != nil {
		return fmt.Errorf("restore %s: %w", c.File, err)
	}
	p.End()
	if _, err := fmt.Fprintf(s.Stdout, "restored the backup of %s, made by herald %s, to %s\n", m.Time.Format("2006-01-02 15:04:05Z"), m.Version, cfg.DataDir); err != nil {
		return err
	}
	keyFile := cfg.SecretsKeyFile(s.Environ)
	if _, err := os.Stat(keyFile); err != nil {
		_, err := fmt.Fprintf(s.Stderr, "\nThe key that encrypts secrets is not there: put it at %s before you start herald.\n", keyFile)
		return err
	}
	return nil
}

// restore makes the files of the backup in dir.
func restore(ctx context.Context, dir string, r io.Reader) (m archive.Manifest, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, cli.Usage(fmt.Errorf("make the data directory: %w", err))
	}
	// From here on no daemon makes its first files here.
	unlock, err := boltkit.LockDirectory(dir)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for _, name := range files {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			return m, cli.Usage(errors.Join(fmt.Errorf("%s holds a %s already, and nothing is overwritten: move the files there away, or name another directory with --data-dir", dir, name), err))
		}
	}
	var made []*os.File
	defer func() {
		for _, f := range made {
			_ = f.Close() // the one that was written is synced and closed before
			if rerr := os.Remove(f.Name()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	begin := func(got archive.Manifest) error { m = got; return acceptable(got) }
	open := func(archive.File) (io.Writer, error) {
		f, err := os.CreateTemp(dir, ".restore.*.tmp") // mode 0600
		if err != nil {
			return nil, err
		}
		made = append(made, f)
		return interruptible{ctx, f}, nil
	}
	if err := archive.Read(r, begin, open); err != nil {
		return m, err
	}
	for _, f := range made {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return m, err
		}
	}
	// A power cut between the two leaves one, which a start refuses to take for all.
	for i, f := range made {
		if err := os.Rename(f.Name(), filepath.Join(dir, m.Files[i].Name)); err != nil {
			return m, err
		}
	}
	return m, boltkit.SyncDirectory(dir)
}

// acceptable returns why a backup cannot be restored by this program, or nil.
func acceptable(m archive.Manifest) error {
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
		if known, ok := schemas[f.Name]; ok && f.Schema > known {
			return fmt.Errorf("%w (%s): %s has format %d and this version knows up to %d; use herald %s or newer",
				archive.ErrNewer, m.Version, f.Name, f.Schema, known, m.Version)
		}
	}
	slices.Sort(names)
	if want := slices.Sorted(slices.Values(files)); !slices.Equal(names, want) {
		return fmt.Errorf("%w: it holds the files %v, it should hold %v", archive.ErrNotArchive, names, want)
	}
	return nil
}

// interruptible ends writing with its context.
type interruptible struct {
	ctx context.Context //nolint:containedctx // it lives for one call
	w   io.Writer
}

// Write implements io.Writer.
func (i interruptible) Write(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.w.Write(b)
}
