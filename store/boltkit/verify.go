package boltkit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The pages of a bbolt file: a header of 16 bytes (number, kind, count of elements, further pages), then the elements, each of 16 bytes,
// then the keys and values they point to.
const (
	pageHeader  = 16
	elementSize = 16

	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindFreelist = 0x10

	elementBucket = 0x01 // the value of a leaf's element is a bucket
	bucketHeader  = 16   // its root page, 0 when its only page follows within the value, and its sequence
)

// maxProblems bounds what Verify reports: in a damaged file every page may be wrong.
const maxProblems = 20

// Verify reads every page of a file that no process has open and says which of them cannot be what bbolt takes them for: what it
// would panic on, or follow out of the file. It needs no memory but one bit for a page and never opens the file with
// bbolt, so it is safe on any file, whatever is in it. It does not compare keys and values, which DB.Check does.
//
// Errors: ErrLocked · ErrDamaged, with what is wrong · those of the file system and of ctx.
func Verify(ctx context.Context, path string) error {
	f, m, err := hold(path)
	if err != nil {
		return err
	}
	if err := verify(ctx, f, m, true); err != nil {
		return errors.Join(fmt.Errorf("check %s: %w", path, err), f.Close())
	}
	return f.Close()
}

// verify looks at the list of free pages and, when whole is set, at every page in use.
func verify(ctx context.Context, f io.ReaderAt, m meta, whole bool) error {
	v := verifier{file: f, meta: m, seen: make([]uint64, m.pages/64+1)}
	if m.freelist != noFreelist {
		if err := v.freelist(); err != nil {
			return err
		}
	}
	if whole {
		v.todo = append(v.todo, m.root)
		for n := 0; len(v.todo) > 0 && len(v.problems) < maxProblems; n++ {
			if n%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			last := len(v.todo) - 1
			id := v.todo[last]
			v.todo = v.todo[:last]
			if err := v.page(id); err != nil {
				return err
			}
		}
	}
	if len(v.problems) > 0 {
		return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(v.problems...))
	}
	return nil
}

type verifier struct {
	file     io.ReaderAt
	meta     meta
	seen     []uint64 // a bit for each page that is in use or free
	todo     []uint64
	problems []error
	header   [pageSize]byte
	more     []byte
}

func (v *verifier) report(id uint64, format string, args ...any) {
	if len(v.problems) < maxProblems {
		v.problems = append(v.problems, fmt.Errorf("page %d: %s", id, fmt.Sprintf(format, args...)))
	}
}

// claim notes that a page is used, and returns false when it was used or free before.
func (v *verifier) claim(id uint64) bool {
	bit := uint64(1) << (id % 64)
	before := v.seen[id/64]&bit != 0
	v.seen[id/64] |= bit
	return !before
}

// run reads the header of the page and claims all its pages. False means that something was reported.
func (v *verifier) run(id uint64) (kind, count int, size int64, err error) {
	if id < 2 || id >= v.meta.pages {
		v.report(id, "is referred to and does not exist; the file has %d", v.meta.pages)
		return 0, 0, 0, nil
	}
	if _, err := v.file.ReadAt(v.header[:], int64(id)*pageSize); err != nil {
		return 0, 0, 0, err
	}
	h := v.header[:]
	if n := binary.NativeEndian.Uint64(h); n != id {
		v.report(id, "says that it is page %d", n)
		return 0, 0, 0, nil
	}
	kind, count = int(binary.NativeEndian.Uint16(h[8:])), int(binary.NativeEndian.Uint16(h[10:]))
	further := uint64(binary.NativeEndian.Uint32(h[12:]))
	if further >= v.meta.pages-id {
		v.report(id, "reaches beyond the end of the file")
		return 0, 0, 0, nil
	}
	for n := id; n <= id+further; n++ {
		if !v.claim(n) {
			v.report(n, "is used twice, or used and free")
			return 0, 0, 0, nil
		}
	}
	return kind, count, int64(further+1) * pageSize, nil
}

// bytes returns n bytes of the page from off on, which lie within it. They are valid until the next call.
func (v *verifier) bytes(id uint64, off, n int64) ([]byte, error) {
	if off+n <= pageSize {
		return v.header[off : off+n], nil
	}
	if int64(cap(v.more)) < n {
		v.more = make([]byte, n)
	}
	v.more = v.more[:n]
	_, err := v.file.ReadAt(v.more, int64(id)*pageSize+off)
	return v.more, err
}

func (v *verifier) freelist() error {
	id := v.meta.freelist
	kind, count, size, err := v.run(id)
	if size == 0 || err != nil {
		return err
	}
	if kind != kindFreelist {
		v.report(id, "should be the list of free pages and is of kind %#x", kind)
		return nil
	}
	n, off := uint64(count), int64(pageHeader)
	if count == 0xFFFF { // too many for the header: the first entry is the count
		n, off = binary.NativeEndian.Uint64(v.header[pageHeader:]), off+8
	}
	if n > uint64(size-off)/8 {
		v.report(id, "lists %d free pages, more than fit into it", n)
		return nil
	}
	var entry [pageSize]byte
	for n > 0 {
		some := min(n, pageSize/8)
		if _, err := v.file.ReadAt(entry[:some*8], int64(id)*pageSize+off); err != nil {
			return err
		}
		for i := range some {
			free := binary.NativeEndian.Uint64(entry[i*8:])
			if free < 2 || free >= v.meta.pages || !v.claim(free) {
				v.report(id, "lists page %d as free, which does not exist, is used or was listed before", free)
				return nil
			}
		}
		n, off = n-some, off+int64(some*8)
	}
	return nil
}

// page looks at one page of the tree.
func (v *verifier) page(id uint64) error {
	kind, count, size, err := v.run(id)
	if size == 0 || err != nil {
		return err
	}
	if kind != kindBranch && kind != kindLeaf || kind == kindBranch && count == 0 {
		v.report(id, "is no page of data: kind %#x with %d elements", kind, count)
		return nil
	}
	if pageHeader+int64(count)*elementSize > size {
		v.report(id, "has %d elements, more than fit into it", count)
		return nil
	}
	part, err := v.bytes(id, pageHeader, int64(count)*elementSize)
	if err != nil {
		return err
	}
	elements := append([]byte(nil), part...)
	for i := range count {
		e := elements[i*elementSize:]
		at := pageHeader + int64(i)*elementSize
		if kind == kindBranch {
			if !within(at, e[0:], size, e[4:]) {
				v.report(id, "the key of element %d is outside of the page", i)
				return nil
			}
			v.todo = append(v.todo, binary.NativeEndian.Uint64(e[8:]))
			continue
		}
		if !within(at, e[4:], size, e[8:], e[12:]) {
			v.report(id, "element %d is outside of the page", i)
			return nil
		}
		if binary.NativeEndian.Uint32(e)&elementBucket != 0 {
			value := at + number(e[4:]) + number(e[8:])
			if err := v.bucket(id, value, number(e[12:])); err != nil {
				return err
			}
		}
	}
	return nil
}

func number(b []byte) int64 { return int64(binary.NativeEndian.Uint32(b)) }

// within says whether an element at at, whose content begins pos behind it, ends within size.
func within(at int64, pos []byte, size int64, lengths ...[]byte) bool {
	end := at + number(pos)
	for _, l := range lengths {
		end += number(l)
	}
	return number(pos) >= elementSize && end <= size
}

// bucket looks at a bucket, the value of n bytes at off within page id.
func (v *verifier) bucket(id uint64, off, n int64) error {
	if n < bucketHeader {
		v.report(id, "holds a bucket of %d bytes", n)
		return nil
	}
	b, err := v.bytes(id, off, min(n, pageSize))
	if err != nil {
		return err
	}
	if root := binary.NativeEndian.Uint64(b); root != 0 {
		v.todo = append(v.todo, root)
		return nil
	}
	// A bucket within a page is one leaf, smaller than a page, without buckets of its own.
	inner := b[bucketHeader:]
	if n > pageSize || len(inner) < pageHeader || binary.NativeEndian.Uint16(inner[8:]) != kindLeaf {
		v.report(id, "holds a small bucket that is none")
		return nil
	}
	count, size := int(binary.NativeEndian.Uint16(inner[10:])), int64(len(inner))
	for i := range count {
		at := pageHeader + int64(i)*elementSize
		if at+elementSize > size || !within(at, inner[at+4:], size, inner[at+8:], inner[at+12:]) ||
			binary.NativeEndian.Uint32(inner[at:])&elementBucket != 0 {
			v.report(id, "holds a small bucket whose element %d is outside of it", i)
			return nil
		}
	}
	return nil
}

// hold opens a file that exists, takes the lock on it that bbolt takes, and looks at its meta pages. What is there to be said against
// the file is said under the lock, so that a daemon at work is not taken for damage; and the file locked is the one at
// the path, not one that was replaced meanwhile.
func hold(path string) (_ *os.File, m meta, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, m, fmt.Errorf("open %s: %w", path, pathless(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open %s: %w", path, err), f.Close())
		}
	}()
	if err := lockFile(f, lockTimeout); err != nil {
		return nil, m, err
	}
	mine, err := f.Stat()
	if err != nil {
		return nil, m, err
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(mine, now) {
		return nil, m, ErrLocked // the one who replaced it has the new one
	}
	m, problem, err := inspectFile(f)
	if err != nil {
		return nil, m, err
	}
	if problem != "" {
		return nil, m, fmt.Errorf("%w: %s; restore it from a backup", ErrDamaged, problem)
	}
	return f, m, nil
}

// pathless takes the path from an error that will be wrapped with it.
func pathless(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
