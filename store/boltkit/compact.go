package boltkit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// compactSuffix is that of the new file until it takes the old one's place.
const compactSuffix = ".compact"

// compactBytes is how many bytes of keys and values one transaction of a compaction writes: what it holds in memory.
const compactBytes = 1 << 20

// tidyBytes is the size from which on a file is compacted at the start.
const tidyBytes = 64 << 20

// Usage is what a file takes on the disk, and how much of that holds nothing, in bytes.
type Usage struct{ Bytes, Free int64 }

// UsageOf reads the usage of a file that no process has open from its first pages and its list of free ones. A file that was not closed
// cleanly may have no such list; then what is free within it is not known and not counted.
//
// Errors: ErrLocked · ErrDamaged · those of the file system.
func UsageOf(path string) (Usage, error) {
	f, m, err := hold(path)
	if err != nil {
		return Usage{}, err
	}
	u, err := usage(f, m)
	if err = errors.Join(err, f.Close()); err != nil {
		return Usage{}, fmt.Errorf("read %s: %w", path, err)
	}
	return u, nil
}

func usage(f *os.File, m meta) (Usage, error) {
	fi, err := f.Stat()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Bytes: fi.Size(), Free: fi.Size() - m.size()}
	if m.freelist == noFreelist || m.freelist >= m.pages {
		return u, nil
	}
	b := make([]byte, pageHeader+8)
	if _, err := f.ReadAt(b, int64(m.freelist)*pageSize); err != nil {
		return u, err
	}
	n := uint64(binary.NativeEndian.Uint16(b[10:]))
	if n == 0xFFFF {
		n = binary.NativeEndian.Uint64(b[pageHeader:])
	}
	u.Free += int64(min(n, m.pages)) * pageSize
	return u, nil
}

// Compact rewrites a file that no process has open, without the pages that hold nothing, and returns its usage before and its
// length after. The new file stands beside the old one, whole and synced, before it takes its place: a power cut leaves
// the one or the other, and what fails leaves the old one as it was. It needs as much room as the new file
// takes, and some MiB of memory. A damaged file is refused, because copying would make the damage look whole. When copied is not nil
// it is called from time to time with how many bytes have been copied, of about so many.
//
// Errors: ErrLocked · ErrDamaged · those of the file system and of ctx.
func Compact(ctx context.Context, path string, copied func(n, of int64)) (before Usage, after int64, err error) {
	f, m, err := hold(path)
	if err != nil {
		return before, 0, err
	}
	before, err = usage(f, m)
	var old os.FileInfo
	if err == nil {
		old, err = f.Stat()
	}
	if err == nil {
		err = verify(ctx, f, m, true)
	}
	if err != nil {
		return before, 0, errors.Join(fmt.Errorf("compact %s: %w", path, err), f.Close())
	}
	from, err := openBolt(Options{}, path, 0, f) // which keeps the lock until the new file is in place
	if err != nil {
		return before, 0, err
	}
	tmp := path + compactSuffix
	c := compaction{ctx: ctx, copied: func(n int64) {
		if copied != nil {
			copied(n, before.Bytes-before.Free)
		}
	}}
	if err := c.into(from, tmp, old); err != nil {
		if rerr := os.Remove(tmp); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return before, 0, errors.Join(fmt.Errorf("compact %s: %w", path, err), from.Close())
	}
	err = os.Rename(tmp, path)
	if err == nil {
		err = SyncDirectory(filepath.Dir(path))
	}
	var fi os.FileInfo
	if err == nil {
		fi, err = os.Stat(path)
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return before, 0, fmt.Errorf("compact %s: %w", path, err)
	}
	return before, fi.Size(), nil
}

// into makes the new file, with the owner and the mode of the old one, and leaves it synced.
func (c *compaction) into(from *bolt.DB, tmp string, old os.FileInfo) (err error) {
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := openBolt(Options{InitialMmapSize: AddressSpace}, tmp, 0, nil)
	if err != nil {
		return err
	}
	defer func() {
		if to != nil {
			err = errors.Join(err, to.Close())
		}
	}()
	to.NoSync = true // nothing of it counts before all of it is there
	c.to = to
	defer func() {
		if c.tx != nil {
			err = errors.Join(err, c.tx.Rollback())
		}
	}()
	err = from.View(func(tx *bolt.Tx) error {
		if err := c.begin(); err != nil {
			return err
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return c.bucket([][]byte{name}, b) })
	})
	if err != nil {
		return err
	}
	to.NoFreelistSync = false // the last commit writes it
	if err := c.commit(); err != nil {
		return err
	}
	var size int64
	if err := to.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		return err
	}
	if err := to.Close(); err != nil {
		return err
	}
	to = nil
	return finish(tmp, size, old)
}

// finish cuts off what bbolt reserved at the end of a file that nobody has open, gives it to the owner of the old one, whose daemon has
// to open it also when root compacts, and syncs it.
func finish(path string, size int64, old os.FileInfo) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(max(size, 4*pageSize)), f.Chmod(old.Mode().Perm()), giveTo(f, old), f.Sync(), f.Close())
}

// Tidy compacts a file when more than half of it holds nothing and it is large enough to be worth it. What stands in the way is
// logged and is no reason not to start: opening the file says what is wrong with it.
func Tidy(ctx context.Context, path string, logger *slog.Logger) {
	u, err := UsageOf(path)
	if err != nil || u.Bytes <= tidyBytes || u.Free*2 <= u.Bytes {
		return
	}
	before, after, err := Compact(ctx, path, nil)
	if err != nil {
		logger.Warn("file not compacted", "file", filepath.Base(path), "error", err)
		return
	}
	logger.Info("file compacted", "file", filepath.Base(path), "bytes_before", before.Bytes, "bytes_after", after)
}

// compaction copies buckets in transactions of a bounded size.
type compaction struct {
	ctx  context.Context //nolint:containedctx // it lives for one call
	to   *bolt.DB
	tx   *bolt.Tx
	size int
	// done is how many bytes have been copied in all, of which copied is told with each transaction.
	done   int64
	copied func(n int64)
	turn   int // counts transactions: buckets of an earlier one are not used in a later
}

func (c *compaction) begin() (err error) {
	c.tx, err = c.to.Begin(true)
	c.size = 0
	c.turn++
	return err
}

func (c *compaction) commit() error {
	tx := c.tx
	c.tx = nil
	return tx.Commit()
}

// room makes place for n more bytes in a transaction.
func (c *compaction) room(n int) error {
	c.size += n
	c.done += int64(n)
	if c.size <= compactBytes {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	c.copied(c.done)
	return c.begin()
}

// bucket copies a bucket, which stands at the path, with all that is in it.
func (c *compaction) bucket(path [][]byte, from *bolt.Bucket) error {
	if err := c.room(len(path[len(path)-1]) + bucketHeader); err != nil {
		return err
	}
	name := path[len(path)-1]
	var to *bolt.Bucket
	var err error
	if len(path) == 1 {
		to, err = c.tx.CreateBucket(name)
	} else {
		to, err = c.find(path[:len(path)-1]).CreateBucket(name)
	}
	if err != nil {
		return err
	}
	if err := to.SetSequence(from.Sequence()); err != nil {
		return err
	}
	turn := c.turn
	return from.ForEach(func(k, v []byte) error {
		if v == nil {
			return c.bucket(append(slices.Clone(path), k), from.Bucket(k))
		}
		if err := c.room(len(k) + len(v)); err != nil {
			return err
		}
		if turn != c.turn {
			to, turn = c.find(path), c.turn
		}
		to.FillPercent = 1 // keys come in order, so every page is filled
		return to.Put(k, v)
	})
}

// find returns a bucket that was made before.
func (c *compaction) find(path [][]byte) *bolt.Bucket {
	b := c.tx.Bucket(path[0])
	for _, name := range path[1:] {
		b = b.Bucket(name)
	}
	return b
}
