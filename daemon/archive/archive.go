// Package archive is the format of a backup: one tar file with a manifest, queue.db and store.db, in this order.
//
// It promises that what is read without an error is, byte for byte, what was written: every file is held against the length and the
// SHA-256 in the manifest. The key that encrypts the secrets in store.db is never in it.
package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Format is the version of the format this program writes; it reads no higher one.
const Format = 1

// manifestName is the first file of an archive.
const manifestName = "manifest.json"

// maxManifest bounds what is read of a manifest, which has some hundred bytes.
const maxManifest = 64 << 10

// ErrNotArchive says that it is not a backup of Herald, or a damaged or incomplete one.
var ErrNotArchive = errors.New("not a whole backup of herald")

// ErrNewer says that a newer Herald wrote it.
var ErrNewer = errors.New("written by a newer version of herald")

// Manifest says what is in an archive.
type Manifest struct {
	Format int `json:"format"`
	// Version is that of the Herald that made it.
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	// Files are the databases, in the order in which they follow.
	Files []File `json:"files"`
}

// File is one database of an archive.
type File struct {
	// Name is what it is called in the data directory, Schema the version of its format.
	Name   string `json:"name"`
	Schema int    `json:"schema"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Source is a database to be backed up.
type Source struct {
	Name   string
	Schema int
	// Copy writes it as it is at one moment to a local file.
	Copy func(ctx context.Context, w io.Writer) (int64, error)
}

// Archive is a backup that was made and not sent yet. Its copies stand in files without a name, which are gone with the process.
type Archive struct {
	head  []byte // the manifest, as it stands in the tar file
	files []*os.File
	list  []File
	size  int64
}

// Make copies the sources, one after the other, beside the data in dir: no network holds up the reading of a
// database. It needs as much room there as the databases take.
func Make(ctx context.Context, dir, version string, sources ...Source) (_ *Archive, err error) {
	a := &Archive{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	m := Manifest{Format: Format, Version: version, Time: time.Now().UTC().Truncate(time.Second)}
	for _, s := range sources {
		f, err := nameless(dir)
		if err != nil {
			return nil, fmt.Errorf("back up %s: %w", s.Name, err)
		}
		a.files = append(a.files, f)
		sum := sha256.New()
		n, err := s.Copy(ctx, io.MultiWriter(f, sum))
		if err != nil {
			return nil, fmt.Errorf("back up %s: %w", s.Name, err)
		}
		m.Files = append(m.Files, File{Name: s.Name, Schema: s.Schema, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	}
	a.list = m.Files
	if a.head, err = json.MarshalIndent(m, "", "  "); err != nil {
		return nil, err
	}
	a.head = append(a.head, '\n')
	// The length is known when all but the contents has been written once.
	var counted counter
	if err := a.write(&counted, m.Time, func(_ int, size int64) io.Reader { return io.LimitReader(zeros{}, size) }); err != nil {
		return nil, err
	}
	a.size = int64(counted)
	return a, nil
}

// nameless makes a file that is gone when it is closed.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".backup.*.tmp") // mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Size is the length of the archive in bytes.
func (a *Archive) Size() int64 { return a.size }

// WriteTo writes the archive. It may be called again.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	var m Manifest
	if err := json.Unmarshal(a.head, &m); err != nil {
		return 0, err
	}
	var counted counter
	err := a.write(io.MultiWriter(w, &counted), m.Time, func(i int, size int64) io.Reader { return io.NewSectionReader(a.files[i], 0, size) })
	return int64(counted), err
}

func (a *Archive) write(w io.Writer, at time.Time, content func(i int, size int64) io.Reader) error {
	t := tar.NewWriter(w)
	header := func(name string, size int64) error {
		return t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: at})
	}
	if err := header(manifestName, int64(len(a.head))); err != nil {
		return err
	}
	if _, err := t.Write(a.head); err != nil {
		return err
	}
	for i, f := range a.list {
		if err := header(f.Name, f.Size); err != nil {
			return err
		}
		if _, err := io.Copy(t, content(i, f.Size)); err != nil {
			return err
		}
	}
	return t.Close()
}

// Close gives the room of the copies back.
func (a *Archive) Close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	a.files = nil
	return errors.Join(errs...)
}

// Read reads an archive to its end: begin is called with the manifest first, then open for each file, and what it returns gets the
// content. What was written must not be used unless Read returns nil.
//
// Errors: ErrNotArchive · ErrNewer · those of begin, open and of reading and writing.
func Read(r io.Reader, begin func(Manifest) error, open func(File) (io.Writer, error)) error {
	t := tar.NewReader(r)
	m, err := readManifest(t)
	if err != nil {
		return err
	}
	if err := begin(m); err != nil {
		return err
	}
	for _, f := range m.Files {
		h, err := t.Next()
		if unreadable(err) {
			return err
		}
		if err != nil {
			return broken("%s is missing: %v", f.Name, err)
		}
		if h.Name != f.Name || h.Size != f.Size {
			return broken("%s of %d bytes stands where %s of %d is announced", h.Name, h.Size, f.Name, f.Size)
		}
		w, err := open(f)
		if err != nil {
			return err
		}
		sum := sha256.New()
		if _, err := io.CopyN(io.MultiWriter(w, sum), t, f.Size); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return broken("it ends in the middle of %s", f.Name)
			}
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
			return broken("the content of %s is not what was written: its SHA-256 is %s, it should be %s", f.Name, got, f.SHA256)
		}
	}
	if _, err := t.Next(); unreadable(err) {
		return err
	} else if !errors.Is(err, io.EOF) {
		return broken("something follows the last file")
	}
	return nil
}

// unreadable says whether err is of what is read from, or of what gets a copy of it: it says nothing against the archive.
func unreadable(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, tar.ErrHeader)
}

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotArchive, fmt.Sprintf(format, args...))
}

func readManifest(t *tar.Reader) (m Manifest, err error) {
	h, err := t.Next()
	if unreadable(err) {
		return m, err
	}
	if err != nil || h.Name != manifestName || h.Size > maxManifest {
		return m, broken("it does not begin with a %s", manifestName)
	}
	b, err := io.ReadAll(io.LimitReader(t, maxManifest))
	if unreadable(err) {
		return m, err
	}
	if err != nil {
		return m, broken("it ends in the middle of %s", manifestName)
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Format < 1 {
		return m, broken("its %s cannot be read", manifestName)
	}
	if m.Format > Format {
		return m, fmt.Errorf("%w: the backup has format %d and this version knows up to %d", ErrNewer, m.Format, Format)
	}
	for _, f := range m.Files {
		if f.Name != filepath.Base(f.Name) || f.Name == manifestName || f.Size < 0 {
			return m, broken("it names a file %q", f.Name)
		}
	}
	return m, nil
}

// counter counts what is written to it.
type counter int64

// Write implements io.Writer.
func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// zeros is as many zero bytes as are read.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
