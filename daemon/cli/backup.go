package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"herald/daemon/archive"
)

// Backup is the command backup.
type Backup struct {
	File string `arg:"" help:"Where to write it: a file that is not there yet, a directory, or - for standard output."`
	Keep int    `placeholder:"N" help:"With a directory: keep the newest N backups there and remove older ones."`
	Remote
}

// Help is shown below the summary.
func (Backup) Help() string {
	return `The daemon goes on working meanwhile. The backup is one tar file with both databases and a manifest; it is complete, checked against its SHA-256 sums and synced when it appears under its name. The daemon needs as much room beside its data, for the time it takes.

The key that encrypts secrets (secrets.key in the data directory, or secrets.key_file) is NOT in the backup: keep a copy elsewhere. Without it a restored daemon refuses to start.

Examples:

    herald backup herald.tar

    herald backup --keep 14 /var/backups/herald

    herald backup - | zstd | ssh backup@host 'cat > herald.tar.zst'

What next: 'herald restore' makes a data directory of it.`
}

// Validate is called by the command line.
func (c *Backup) Validate() error {
	if c.Keep < 0 {
		return errors.New("--keep must be 1 or more")
	}
	return nil
}

// Run makes the backup.
func (c Backup) Run(ctx context.Context, s Streams, v Version) error {
	name := c.File
	info, err := os.Stat(name)
	switch {
	case c.File != "-" && err == nil && info.IsDir():
		name = filepath.Join(c.File, "herald-"+time.Now().UTC().Format("20060102T150405Z")+".tar")
	case c.Keep > 0:
		return Usage(fmt.Errorf("--keep is for a directory, and %s is none", c.File))
	}
	if _, err := os.Lstat(name); c.File != "-" && err == nil {
		return Usage(fmt.Errorf("%s is there already; name another file", name))
	}
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	body, size, err := api.Backup(ctx)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // it is read to its end, or given up
	p := NewProgress(s.Stderr, "backup", size)
	defer p.End()
	if c.File == "-" {
		return receive(io.TeeReader(body, io.MultiWriter(s.Stdout, p)))
	}
	if err := c.save(name, io.TeeReader(body, p)); err != nil {
		return err
	}
	p.End()
	if _, err := fmt.Fprintf(s.Stdout, "%s  %s\n", name, Size(size)); err != nil {
		return err
	}
	if c.Keep == 0 {
		return nil
	}
	return prune(s.Stdout, c.File, c.Keep)
}

// receive checks a backup while it is read.
func receive(r io.Reader) error {
	err := archive.Read(r, func(archive.Manifest) error { return nil }, func(archive.File) (io.Writer, error) { return io.Discard, nil })
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what fills the last block of the tar file
	}
	if errors.Is(err, archive.ErrNotArchive) {
		err = fmt.Errorf("%w; try again", err)
	}
	if err != nil {
		return fmt.Errorf("receive the backup: %w", err)
	}
	return nil
}

// save writes the backup beside its name and gives it the name when it is whole and synced.
func (c Backup) save(name string, r io.Reader) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".herald-backup.*.tmp") // mode 0600
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	err = receive(io.TeeReader(r, &steadyWriter{f: f}))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// steadyBytes is how much of a backup is written before it is synced.
const steadyBytes = 8 << 20

// steadyWriter syncs what it writes bit by bit. On a disk that is also the daemon's, one sync of all of it in the end would hold up
// the daemon's own for seconds.
type steadyWriter struct {
	f       *os.File
	pending int
}

// Write implements io.Writer.
func (s *steadyWriter) Write(b []byte) (int, error) {
	n, err := s.f.Write(b)
	if s.pending += n; err == nil && s.pending >= steadyBytes {
		s.pending = 0
		err = s.f.Sync()
	}
	return n, err
}

// ownName is what Backup calls a file in a directory: the order of the names is that of time.
var ownName = regexp.MustCompile(`^herald-\d{8}T\d{6}Z\.tar$`)

// prune removes the oldest backups of a directory, and nothing that has another name.
func prune(w io.Writer, dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && ownName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for len(names) > keep {
		path := filepath.Join(dir, names[0])
		if err := os.Remove(path); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "removed %s\n", path); err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}
