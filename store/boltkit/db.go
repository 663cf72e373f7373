package boltkit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// pageSize is fixed, whatever the machine's, so that files can be moved between machines.
const pageSize = 4096

// freelistLimit is the number of free pages up to which the freelist is written with every commit:
// 32 KiB of it cost nothing noticeable and make opening instant. Beyond it writing it costs more than
// the scan at the next open after a crash.
const freelistLimit = 4096

// AddressSpace is reserved for the mapping of a file so that it grows without waiting for readers, also while one
// copies it. It costs no memory.
const AddressSpace = min(64<<30, math.MaxInt/8) // the second on machines of 32 bits

// verifyBytes is the size up to which every page of a file is looked at when it is opened: some 50 milliseconds.
const verifyBytes = 64 << 20

// lockTimeout is how long Open waits for a file another process holds: long enough for one that
// is just ending.
const lockTimeout = time.Second

// Options say which file to open and what must be in it.
type Options struct {
	// Path is the file; its directory must exist.
	Path string
	// Name is the name of the schema, such as "herald queue". A file of another name is refused.
	Name string
	// Version is the version of the schema this program writes; a file of a higher one is refused.
	Version int
	// Init creates the buckets of a new file, in the transaction that creates it.
	Init func(tx *bolt.Tx) error
	// Migrate brings a file of an older version up to Version, in the transaction that notes it; required where
	// Version is above 1. from is the file's version.
	Migrate func(tx *bolt.Tx, from int) error
	// MaxSize bounds the file, in bytes; 0 is no bound.
	MaxSize int64
	// InitialMmapSize reserves address space, in bytes, so that the file can grow to this size without
	// waiting for readers. 0 reserves the file's own size.
	InitialMmapSize int
	// Logger gets a line for what people should know; nil discards them.
	Logger *slog.Logger
	// WriteAt, when set, stands between bbolt and the file: it is called for every write with the
	// function that does it. It is for tests that record writes or make them fail.
	WriteAt func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)
}

// DB is an open file. Its methods are safe for concurrent use.
type DB struct {
	bolt    *bolt.DB
	path    string
	version int
	info    os.FileInfo // of the open file
	clean   bool        // the stop before this Open was clean
	marked  atomic.Bool
	worked  atomic.Bool // something was committed, or a committer ended well
	failed  atomic.Bool
	views   atomic.Int64
	used    atomic.Int64 // high-water mark of the file, in bytes
	begun   atomic.Int64 // when the commit under way began, in nanoseconds of Unix time; 0 when there is none

	write  sync.Mutex // one writer at a time, and none while Check reads the freelist
	closed bool       // guarded by write
}

// The bucket that says what the file is. Engines do not touch it.
var (
	formatBucket = []byte("format")
	nameKey      = []byte("name")
	versionKey   = []byte("version")
	cleanKey     = []byte("clean")
)

// Open opens the file, or creates it when it does not exist, with mode 0600.
//
// Errors: ErrLocked (after a second) · ErrDamaged · ErrForeign · ErrNewer · those of the file system.
func Open(o Options) (*DB, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Path == "" || o.Name == "" || o.Version < 1 || o.Init == nil || o.Version > 1 && o.Migrate == nil {
		return nil, errors.New("open a bbolt file: Path, Name, Version, Init and, above version 1, Migrate are required")
	}
	_, err := os.Lstat(o.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		d, err := create(o)
		if !errors.Is(err, os.ErrExist) {
			return d, err
		}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", o.Path, err)
	}
	f, m, err := hold(o.Path)
	if err != nil {
		return nil, err
	}
	// bbolt trusts what it reads here. Where the free pages were not written it reads every page, in a goroutine of its own, whose
	// panic nobody could recover: so all are looked at before. So are those of a file that is read in no time.
	if err := verify(context.Background(), f, m, m.freelist == noFreelist || m.size() <= verifyBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w; restore it from a backup", o.Path, err), f.Close())
	}
	// Left behind by a compaction that was cut off; whoever holds the lock may remove it.
	if err := os.Remove(o.Path + compactSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Path, err), f.Close())
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Path, err), f.Close())
	}
	db, err := openBolt(o, o.Path, o.MaxSize, f)
	if err != nil {
		return nil, err
	}
	d := &DB{bolt: db, path: o.Path, version: o.Version, info: info}
	from, err := d.identify(o)
	d.marked.Store(d.clean)
	if err == nil && from < o.Version {
		err = d.migrate(o, from)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return d, nil
}

// ErrReplaced says that the open file is not the one at its path any more.
var ErrReplaced = errors.New("removed, renamed or replaced while it is open")

// Present returns nil while the file that is open stands at its path. Otherwise what is written now would
// not be found by the next Open, and the error wraps ErrReplaced. It costs one stat(2).
func (d *DB) Present() error {
	info, err := os.Stat(d.path)
	if err == nil && os.SameFile(d.info, info) || err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil // not being able to look is no proof
	}
	return fmt.Errorf("%s was %w", filepath.Base(d.path), ErrReplaced)
}

// openBolt opens the file with bbolt: f, which is locked and is closed when that fails, or without one that at path.
func openBolt(o Options, path string, maxSize int64, f *os.File) (db *bolt.DB, err error) {
	openFile := os.OpenFile
	if f != nil {
		openFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("open %s: %w (%v); restore it from a backup", path, ErrDamaged, p)
			}
			if err != nil {
				_ = f.Close() // bbolt may have closed it; when it panicked it has not, and the lock goes with it
			}
		}()
	}
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		OpenFile:        openFile,
		Timeout:         lockTimeout,
		FreelistType:    bolt.FreelistMapType,
		PageSize:        pageSize,
		InitialMmapSize: o.InitialMmapSize,
		MaxSize:         int(maxSize),
		// True at first, so that opening a file whose freelist was not written does not write it;
		// every commit decides anew.
		NoFreelistSync: true,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w", path, ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, fmt.Errorf("open %s: %w (%w); restore it from a backup", path, ErrDamaged, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if o.WriteAt != nil {
		interpose(db, o.WriteAt)
	}
	return db, nil
}

// migrate brings the file up to the version of this program, in one step.
func (d *DB) migrate(o Options, from int) error {
	err := d.commit(func(tx *bolt.Tx) error {
		if err := o.Migrate(tx, from); err != nil {
			return err
		}
		return tx.Bucket(formatBucket).Put(versionKey, binary.BigEndian.AppendUint32(nil, uint32(o.Version)))
	}, false)
	if err != nil {
		return fmt.Errorf("bring %s from format %d to %d: %w", d.path, from, o.Version, err)
	}
	o.Logger.Info("file brought to a newer format", "file", filepath.Base(d.path), "from", from, "to", o.Version)
	return nil
}

// identify reads what the file says it is, and returns its version.
func (d *DB) identify(o Options) (version int, err error) {
	err = d.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(formatBucket)
		if b == nil || string(b.Get(nameKey)) != o.Name {
			return fmt.Errorf("open %s: %w: want %q", d.path, ErrForeign, o.Name)
		}
		v := b.Get(versionKey)
		if len(v) != 4 {
			return fmt.Errorf("open %s: %w: no version; restore it from a backup", d.path, ErrDamaged)
		}
		if n := binary.BigEndian.Uint32(v); n > uint32(o.Version) {
			return fmt.Errorf("open %s: %w: it has format %d and this version knows up to %d; use a newer Herald",
				d.path, ErrNewer, n, o.Version)
		}
		version = int(binary.BigEndian.Uint32(v))
		d.clean = b.Get(cleanKey) != nil
		d.used.Store(tx.Size())
		return nil
	})
	return version, err
}

// Path returns the file's path.
func (d *DB) Path() string { return d.path }

// View runs fn in a read transaction. It must be short and do no I/O of its own: the pages freed while
// it is open cannot be reused, and what fn returns must be copied out of the transaction.
func (d *DB) View(fn func(*bolt.Tx) error) error {
	d.views.Add(1)
	defer d.views.Add(-1)
	err := d.bolt.View(fn)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return fmt.Errorf("read %s: %w", d.path, ErrClosed)
	}
	return err
}

// Update runs fn in a write transaction of its own, for work before a Committer runs. An error
// other than "full" (IsFull) that does not come from fn is a *FatalError.
func (d *DB) Update(fn func(*bolt.Tx) error) error {
	var own error
	err := d.commit(func(tx *bolt.Tx) error { own = fn(tx); return own }, false)
	if err == nil || own != nil || IsFull(err) || errors.Is(err, ErrClosed) {
		return err
	}
	d.failed.Store(true)
	return &FatalError{d.path, err}
}

// commit runs fn in a write transaction and keeps the freelist's switch and the clean marker.
func (d *DB) commit(fn func(*bolt.Tx) error, last bool) error {
	d.begun.Store(time.Now().UnixNano())
	defer d.begun.Store(0)
	d.write.Lock()
	defer d.write.Unlock()
	if d.closed || d.failed.Load() {
		return fmt.Errorf("write %s: %w", d.path, ErrClosed)
	}
	st := d.bolt.Stats()
	d.bolt.NoFreelistSync = !last && st.FreePageN+st.PendingPageN > freelistLimit
	var used int64
	err := d.bolt.Update(func(tx *bolt.Tx) error {
		if !last && d.marked.Load() {
			if err := tx.Bucket(formatBucket).Delete(cleanKey); err != nil {
				return err
			}
		}
		if err := fn(tx); err != nil {
			return err
		}
		used = tx.Size()
		return nil
	})
	if err != nil {
		return err
	}
	d.used.Store(used)
	d.marked.Store(last)
	d.worked.Store(true)
	return nil
}

// HangingAfter is how long a commit may take before the disk counts as one that hangs. A slow one takes a second.
const HangingAfter = 5 * time.Second

// Hanging returns nil, or, for people, that the commit under way does not come back from the disk. It never waits.
func (d *DB) Hanging() error {
	at := d.begun.Load()
	if at == 0 {
		return nil
	}
	if took := time.Since(time.Unix(0, at)); took >= HangingAfter {
		return fmt.Errorf("the disk hangs: a commit has been under way for %d s", int(took.Seconds()))
	}
	return nil
}

// Clean says whether the file was closed cleanly before it was opened now. After an unclean stop nothing
// is lost, but a careful program verifies the file before it serves.
func (d *DB) Clean() bool { return d.clean }

// Check runs bbolt's own verification of the file and joins all it finds. Commits wait for it: it
// reads the freelist, which belongs to the writer. It reads every page.
func (d *DB) Check(ctx context.Context) error {
	d.write.Lock()
	defer d.write.Unlock()
	if d.closed {
		return fmt.Errorf("check %s: %w", d.path, ErrClosed)
	}
	var found []error
	err := d.View(func(tx *bolt.Tx) error {
		for e := range tx.Check() {
			// The channel has to be drained: its sender holds the transaction.
			if ctx.Err() == nil {
				found = append(found, e)
			}
		}
		return ctx.Err()
	})
	if err = errors.Join(append(found, err)...); err != nil {
		return fmt.Errorf("check %s: %w", d.path, err)
	}
	return nil
}

// Stats are figures of the moment.
type Stats struct {
	// FileBytes is the size of the file; FreeBytes the part of it that holds nothing.
	FileBytes, FreeBytes int64
	// LiveBytes is what the data takes: up to the last page ever used, less the free ones.
	LiveBytes int64
	// FreelistBytes is how much the freelist takes when it is written.
	FreelistBytes int64
	// OpenViews is the number of read transactions under way.
	OpenViews int64
}

// Stats returns figures of the moment; it is cheap.
func (d *DB) Stats() Stats {
	st := d.bolt.Stats()
	s := Stats{FreelistBytes: int64(st.FreelistInuse), OpenViews: d.views.Load()}
	free := int64(st.FreePageN+st.PendingPageN) * pageSize
	used := d.used.Load()
	s.LiveBytes = max(used-free, 0)
	s.FileBytes = used
	if fi, err := os.Stat(d.path); err == nil {
		s.FileBytes = fi.Size()
	}
	s.FreeBytes = max(s.FileBytes-s.LiveBytes, 0)
	return s
}

// Close closes the file after open views ended. After a healthy run it first writes the freelist and the
// mark of a clean stop. It is repeatable; no Committer may run.
func (d *DB) Close() error {
	var err error
	if !d.failed.Load() && d.worked.Load() && !d.marked.Load() {
		err = d.commit(func(tx *bolt.Tx) error { return tx.Bucket(formatBucket).Put(cleanKey, []byte{1}) }, true)
		if errors.Is(err, ErrClosed) || IsFull(err) {
			err = nil // without room the file is as good as after a crash: whole, but not marked
		}
	}
	d.write.Lock()
	defer d.write.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if cerr := d.bolt.Close(); cerr != nil {
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", d.path, err)
	}
	return nil
}
