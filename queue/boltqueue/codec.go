package boltqueue

import (
	"encoding/binary"
	"fmt"

	"herald/store/boltkit"
)

// errDamaged says that a value on disk is not what was written.
var errDamaged = fmt.Errorf("%w record", boltkit.ErrDamaged)

// recordVersion is the first byte of every record; a reader refuses any other.
const recordVersion = 1

// decoder reads a record. The first thing that is wrong makes everything after it read as zero; err
// tells in the end.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", errDamaged, what)
		d.b = nil
	}
}

func (d *decoder) version() {
	if v := d.byte(); d.err == nil && v != recordVersion {
		d.fail("unknown version")
	}
}

func (d *decoder) byte() byte {
	if len(d.b) < 1 {
		d.fail("cut short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uvarint() uint64 {
	// Most numbers here are small.
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads a number of things that take at least one byte each, so that no damaged count makes a
// reader allocate more than the record's own size.
func (d *decoder) count() int {
	v := d.uvarint()
	if v > uint64(len(d.b)) {
		d.fail("count out of range")
		return 0
	}
	return int(v)
}

// number reads a number of at most limit.
func (d *decoder) number(limit uint64) uint64 {
	v := d.uvarint()
	if v > limit {
		d.fail("number out of range")
		return 0
	}
	return v
}

// bytes returns the next n bytes, not copied.
func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("cut short")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// text reads a length and that many bytes, copied.
func (d *decoder) text() string { return string(d.bytes(d.count())) }

// end checks that nothing follows.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes left over")
	}
	return d.err
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
