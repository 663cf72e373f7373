package store

import (
	"bytes"
	"cmp"
)

// maxExponent is where exponents are cut off. A number of a filter stays far below it, so what is cut off
// still compares rightly with it.
const maxExponent = 1_000_000_000_000_000_000

// decimal is a JSON number, exactly: plus or minus 0.d1d2d3... times ten to the power exponent. Its first
// and its last digit are not zero, so each number has one form only; zero has no digits. The digits stand in two
// pieces of the text, because there may be a point between them.
type decimal struct {
	whole, fraction []byte
	exponent        int64
	negative        bool
}

// readDecimal reads a number of valid JSON (RFC 8259 section 6).
func readDecimal(text []byte) decimal {
	var n decimal
	n.whole = text
	if len(text) > 0 && text[0] == '-' {
		n.negative, n.whole = true, text[1:]
	}
	if i := bytes.IndexAny(n.whole, "eE"); i >= 0 {
		n.exponent, n.whole = readExponent(n.whole[i+1:]), n.whole[:i]
	}
	if i := bytes.IndexByte(n.whole, '.'); i >= 0 {
		n.whole, n.fraction = n.whole[:i], n.whole[i+1:]
	}
	n.whole = bytes.TrimLeft(n.whole, "0")
	if n.exponent += int64(len(n.whole)); len(n.whole) == 0 {
		significant := bytes.TrimLeft(n.fraction, "0")
		n.exponent -= int64(len(n.fraction) - len(significant))
		n.fraction = significant
	}
	if n.fraction = bytes.TrimRight(n.fraction, "0"); len(n.fraction) == 0 {
		n.whole = bytes.TrimRight(n.whole, "0")
	}
	if len(n.whole)+len(n.fraction) == 0 {
		return decimal{}
	}
	return n
}

// readExponent reads what follows the e, up to maxExponent in size.
func readExponent(text []byte) int64 {
	negative := false
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		negative, text = text[0] == '-', text[1:]
	}
	n := int64(0)
	for _, c := range text {
		if n >= maxExponent/10 {
			n = maxExponent
			break
		}
		n = n*10 + int64(c-'0')
	}
	if negative {
		return -n
	}
	return n
}

func (n *decimal) sign() int {
	switch {
	case len(n.whole)+len(n.fraction) == 0:
		return 0
	case n.negative:
		return -1
	default:
		return 1
	}
}

// digit returns the digit at that place, the first being 0.
func (n *decimal) digit(i int) byte {
	if i < len(n.whole) {
		return n.whole[i]
	}
	return n.fraction[i-len(n.whole)]
}

// compare returns -1, 0 or 1 as n is less than, equal to or greater than m.
func (n *decimal) compare(m *decimal) int {
	sign := n.sign()
	if c := cmp.Compare(sign, m.sign()); c != 0 || sign == 0 {
		return c
	}
	if c := cmp.Compare(n.exponent, m.exponent); c != 0 {
		return c * sign
	}
	long, other := len(n.whole)+len(n.fraction), len(m.whole)+len(m.fraction)
	for i := range min(long, other) {
		if c := cmp.Compare(n.digit(i), m.digit(i)); c != 0 {
			return c * sign
		}
	}
	return cmp.Compare(long, other) * sign
}

// sum adds the number to a hash.
func (n decimal) sum(h hash) hash {
	return h.byte(byte(n.sign() + 1)).number(uint64(n.exponent)).bytes(n.whole).bytes(n.fraction)
}
