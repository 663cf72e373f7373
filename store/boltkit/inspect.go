package boltkit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The two meta pages of a bbolt file: a page header of 16 bytes, then these fields.
const (
	metaHeader   = 16
	metaMagic    = 0xED0CDAED
	offPageSize  = metaHeader + 8
	offHighWater = metaHeader + 40
	offTxid      = metaHeader + 48
	offChecksum  = metaHeader + 56
)

// inspect refuses what bbolt would take for a new file (an empty one), and what would kill the process
// with a bus error once mapped (one that is shorter than its own meta page says).
func inspect(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	problem, err := inspectFile(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if problem != "" {
		return fmt.Errorf("open %s: %w: %s; restore it from a backup", path, ErrDamaged, problem)
	}
	return nil
}

func inspectFile(f *os.File) (problem string, err error) {
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "it is not a regular file", nil
	}
	if fi.Size() < 4*pageSize {
		return fmt.Sprintf("it has only %d bytes", fi.Size()), nil
	}
	buf := make([]byte, 2*pageSize)
	if _, err := io.ReadFull(f, buf); err != nil {
		return "", err
	}
	size, ok := highWater(buf)
	if !ok {
		return "it has no valid bbolt meta page", nil
	}
	if fi.Size() < size {
		return fmt.Sprintf("it was cut short: %d bytes of %d", fi.Size(), size), nil
	}
	return "", nil
}

// highWater returns the length the newest valid meta page asks for, in bytes.
func highWater(pages []byte) (int64, bool) {
	var best, size uint64
	found := false
	for at := 0; at+pageSize <= len(pages); at += pageSize {
		m := pages[at:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[metaHeader:offChecksum])
		if binary.NativeEndian.Uint32(m[metaHeader:]) != metaMagic ||
			binary.NativeEndian.Uint64(m[offChecksum:]) != sum.Sum64() ||
			binary.NativeEndian.Uint32(m[offPageSize:]) != pageSize {
			continue
		}
		if txid := binary.NativeEndian.Uint64(m[offTxid:]); !found || txid > best {
			best, found = txid, true
			size = binary.NativeEndian.Uint64(m[offHighWater:])
		}
	}
	if size > 1<<50 {
		return 0, false
	}
	return int64(size) * pageSize, found
}
