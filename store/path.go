package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// The limits of a path.
const (
	// MaxPathLength bounds the text of a path, in bytes.
	MaxPathLength = 256
	// MaxPathNames bounds the names a path leads through.
	MaxPathNames = 16
)

// Path leads to a field of an event's data. It is written in one of two ways:
//
//   - names joined by dots, such as customer.country. It leads into objects, and through every array it
//     meets to each of the elements, so it may lead to many values.
//   - a JSON Pointer (RFC 6901), beginning with '/', such as /items/0/price or /customer.country. It leads to
//     one value at most: a number names one element of an array, and a dot is a dot.
//
// A Path is immutable and safe for concurrent use. The zero value leads to the data itself.
type Path struct {
	text  string
	names []string
	exact bool // a JSON Pointer

	// spare keeps the memory that Key reads data with; shared by all copies. Nil in the paths of filters, whose
	// data is read once for all of them.
	spare *sync.Pool
}

// ParsePath reads a path. The error says what is wrong and what would be right, for whoever wrote it.
func ParsePath(text string) (Path, error) {
	p, err := parsePath(text)
	if err != nil {
		return Path{}, err
	}
	p.spare = &sync.Pool{}
	return p, nil
}

func parsePath(text string) (Path, error) {
	if len(text) > MaxPathLength {
		return Path{}, fmt.Errorf("must have at most %d bytes", MaxPathLength)
	}
	if strings.HasPrefix(text, "/") {
		return parsePointer(text)
	}
	return parseDotted(text)
}

// parsePointer reads a JSON Pointer, RFC 6901 section 3.
func parsePointer(text string) (Path, error) {
	names := strings.Split(text[1:], "/")
	if len(names) > MaxPathNames {
		return Path{}, fmt.Errorf("must lead through at most %d names", MaxPathNames)
	}
	for i, name := range names {
		for rest := name; ; {
			_, after, ok := strings.Cut(rest, "~")
			if !ok {
				break
			}
			if after == "" || after[0] != '0' && after[0] != '1' {
				return Path{}, errors.New("must spell '~' as ~0 and '/' within a name as ~1, being a JSON Pointer (RFC 6901)")
			}
			rest = after
		}
		names[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
	}
	return Path{text: text, names: names, exact: true}, nil
}

func parseDotted(text string) (Path, error) {
	names := strings.Split(text, ".")
	if len(names) > MaxPathNames {
		return Path{}, fmt.Errorf("must lead through at most %d names", MaxPathNames)
	}
	if slices.Contains(names, "") {
		return Path{}, errors.New("must be names joined by single dots, such as customer.country; " +
			"a name with a dot in it is written as a JSON Pointer, such as /customer.country")
	}
	return Path{text: text, names: names}, nil
}

// String returns the path as it was written.
func (p Path) String() string { return p.text }

// keyAbsent is the key of data without the field.
const keyAbsent = 0

// Key returns a number that stands for what the path leads to in the data: equal for equal JSON values (1 and
// 1.0, "a" and "\u0061", objects in any order of their members), and the same in every process and release,
// so it may be stored. An array at the end of the path counts as one value; where a dotted path leads through an
// array to several values, they count in their order. Data without the field, and data that is no JSON
// object, have one key of their own; null is a value. Two different values have the same key by
// chance only.
func (p Path) Key(data []byte) uint64 {
	if p.spare == nil {
		return p.key(&Data{}, data)
	}
	d, ok := p.spare.Get().(*Data)
	if !ok {
		d = &Data{}
	}
	defer func() {
		if d.reset(); cap(d.nodes) <= keptNodes {
			p.spare.Put(d)
		}
	}()
	return p.key(d, data)
}

func (p Path) key(d *Data, data []byte) uint64 {
	if d.Read(data) != nil {
		return keyAbsent
	}
	if p.exact {
		if at := d.find(p.names); at >= 0 {
			return d.sum(at)
		}
		return keyAbsent
	}
	one, several, n := uint64(0), newHash('['), 0
	for at := range d.ends(0, p.names) {
		one = d.sum(at)
		several = several.number(one)
		n++
	}
	switch n {
	case 0:
		return keyAbsent
	case 1:
		return one
	default:
		return uint64(several)
	}
}

// hash is a running FNV-1a hash of 64 bits. It is written out here because it must be the same for ever,
// and must not allocate.
type hash uint64

// newHash begins a hash with what kind of value it is of.
func newHash(kind byte) hash { return hash(14695981039346656037).byte(kind) }

func (h hash) byte(b byte) hash { return (h ^ hash(b)) * 1099511628211 }

func (h hash) bytes(text []byte) hash {
	for _, b := range text {
		h = h.byte(b)
	}
	return h
}

func (h hash) number(n uint64) hash {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return h.bytes(b[:])
}
