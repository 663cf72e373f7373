package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"herald/store/boltkit"
)

// The pieces values are made of: unsigned and zigzag varints as encoding/binary has them, texts and
// byte strings with their length before them, and times.

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendText(b []byte, v string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendTime writes 0 for the zero time, else 1, seconds since 1970 and nanoseconds. The zone is not
// kept: all times are UTC.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	b = binary.AppendVarint(append(b, 1), t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

var errShort = fmt.Errorf("value is %w: it ends early or a length in it is wrong", boltkit.ErrDamaged)

// reader takes a value apart. After the first error it returns only zeros, so that a decoder looks
// at the error once, at its end. What it returns shares no memory with the value.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errShort
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) bool() bool {
	v := r.byte()
	if v > 1 {
		r.fail()
	}
	return v == 1
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// uint32 reads four bytes, big-endian.
func (r *reader) uint32() uint32 {
	b := r.view(4)
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// view returns the next n bytes, still part of the value.
func (r *reader) view(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string { return string(r.view(r.uint())) }

func (r *reader) bytes() []byte {
	v := r.view(r.uint())
	if len(v) == 0 {
		return nil
	}
	return append([]byte(nil), v...)
}

// count returns the number of elements that follow, each of which takes at least one byte: a damaged
// number cannot make a decoder reserve more than the value's own size.
func (r *reader) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) time() time.Time {
	if !r.bool() {
		return time.Time{}
	}
	sec, nsec := r.int(), r.uint()
	if nsec >= uint64(time.Second) {
		r.fail()
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

// end returns the first error, and an error when anything is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return errors.New("value is damaged: it goes on after its end")
	}
	return r.err
}
