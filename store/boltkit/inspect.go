package boltkit

import (
	"encoding/binary"
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
	offRoot      = metaHeader + 16
	offFreelist  = metaHeader + 32
	offHighWater = metaHeader + 40
	offTxid      = metaHeader + 48
	offChecksum  = metaHeader + 56
)

// noFreelist stands in a meta page where the free pages were not written.
const noFreelist = ^uint64(0)

// meta is what the newest valid meta page says.
type meta struct {
	txid     uint64
	root     uint64 // page of the root bucket
	freelist uint64 // page of the list of free pages, or noFreelist
	pages    uint64 // all pages are below this one
}

// size is the length the file must have at least, in bytes.
func (m meta) size() int64 { return int64(m.pages) * pageSize }

// inspectFile finds what bbolt would take for a new file (an empty one), and what would kill the process
// with a bus error once mapped (one that is shorter than its own meta page says).
func inspectFile(f *os.File) (m meta, problem string, err error) {
	fi, err := f.Stat()
	if err != nil {
		return m, "", err
	}
	if !fi.Mode().IsRegular() {
		return m, "it is not a regular file", nil
	}
	if fi.Size() < 4*pageSize {
		return m, fmt.Sprintf("it has only %d bytes", fi.Size()), nil
	}
	buf := make([]byte, 2*pageSize)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, fi.Size()), buf); err != nil {
		return m, "", err
	}
	m, ok := newestMeta(buf)
	if !ok {
		return m, "it has no valid bbolt meta page", nil
	}
	if fi.Size() < m.size() {
		return m, fmt.Sprintf("it was cut short: %d bytes of %d", fi.Size(), m.size()), nil
	}
	return m, "", nil
}

// newestMeta returns the newest of the valid meta pages.
func newestMeta(pages []byte) (best meta, found bool) {
	for at := 0; at+pageSize <= len(pages); at += pageSize {
		p := pages[at:]
		sum := fnv.New64a()
		_, _ = sum.Write(p[metaHeader:offChecksum])
		field := func(off int) uint64 { return binary.NativeEndian.Uint64(p[off:]) }
		if binary.NativeEndian.Uint32(p[metaHeader:]) != metaMagic ||
			field(offChecksum) != sum.Sum64() ||
			binary.NativeEndian.Uint32(p[offPageSize:]) != pageSize ||
			field(offHighWater) > 1<<50/pageSize {
			continue
		}
		if m := (meta{field(offTxid), field(offRoot), field(offFreelist), field(offHighWater)}); !found || m.txid > best.txid {
			best, found = m, true
		}
	}
	return best, found
}
