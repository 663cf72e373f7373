package store

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Filter is a set of conditions on the data of an event. It is a JSON object; an event is for the subscription
// when all its members hold:
//
//   - A name is a Path, and the value what is asked of the values the path leads to: a string, number, boolean
//     or null they have to equal, or an object of operators, or an object whose names lead on, as
//     {"customer":{"country":"NL"}} is {"customer.country":"NL"}.
//   - $and and $or hold an array of filters, all or one of which must hold, and $not a filter that must not.
//
// The operators of one object are asked together. $eq, $in, $prefix, $suffix, $gt, $gte, $lt and $lte demand
// something: one and the same value has to meet all of them. $ne, $nin and $not forbid something, which
// no value may meet; where there is no value they hold. $exists asks whether there is a value, null included.
// $prefix and $suffix look at strings, the four of order at numbers or, given an RFC 3339 time, at strings that
// are one.
//
// A dotted path that ends at an array leads to its elements, so {"tags":"urgent"} holds when one of the tags is
// "urgent"; of an array, $exists asks whether the array is there. Numbers compare by value, exactly,
// however large they are; strings by their characters.
//
// A Filter is made by ParseFilter, immutable, and safe for concurrent use.
type Filter struct {
	text []byte
	all  []clause
}

// The limits of a filter.
const (
	// MaxFilterLength bounds the text, in bytes.
	MaxFilterLength = 16 << 10
	// MaxFilterConditions bounds the values and operators that a filter compares with.
	MaxFilterConditions = 200
	// MaxFilterDepth bounds how deep objects and arrays stand in each other.
	MaxFilterDepth = 16
	// MaxFilterValues bounds the values of $in and $nin.
	MaxFilterValues = 1000
	// MaxFilterBranches bounds the filters of $and and $or.
	MaxFilterBranches = 100
)

// Text returns the filter as it was given, without the white space around its parts.
func (f *Filter) Text() string { return string(f.text) }

// Match says whether the filter holds for the data. It allocates nothing but for times with an offset.
// Data that was not read without an error matches no filter.
func (f *Filter) Match(d *Data) bool {
	return len(d.nodes) > 0 && allHold(f.all, d)
}

// clause is a part of a filter.
type clause struct {
	kind clauseKind
	of   []clause // the parts of all but clauseField
	path Path
	want *condition
}

type clauseKind uint8

const (
	clauseField clauseKind = iota // the condition on what the path leads to
	clauseAll                     // $and
	clauseAny                     // $or
	clauseNone                    // $not: what is in it does not hold as a whole
)

func allHold(cs []clause, d *Data) bool {
	for i := range cs {
		if !cs[i].holds(d) {
			return false
		}
	}
	return true
}

func (c *clause) holds(d *Data) bool {
	switch c.kind {
	case clauseAll:
		return allHold(c.of, d)
	case clauseNone:
		return !allHold(c.of, d)
	case clauseAny:
		for i := range c.of {
			if c.of[i].holds(d) {
				return true
			}
		}
		return false
	default:
		return c.want.holds(&c.path, d)
	}
}

// condition is what is asked of the values at one path.
type condition struct {
	demand []operator  // one value has to meet all of them
	forbid []condition // none of which may hold
	exists presence
}

type presence uint8

const (
	presenceAny presence = iota
	presenceNeeded
	presenceForbidden
)

func (c *condition) holds(p *Path, d *Data) bool {
	if c.exists != presenceAny && (c.exists == presenceNeeded) != d.meets(p, nil) {
		return false
	}
	if len(c.demand) > 0 && !d.meets(p, c.demand) {
		return false
	}
	for i := range c.forbid {
		if c.forbid[i].holds(p, d) {
			return false
		}
	}
	return true
}

// meets says whether one of the values at the path meets all the demands; without any, whether the path leads
// somewhere.
func (d *Data) meets(p *Path, demand []operator) bool {
	if p.exact {
		at := d.find(p.names)
		return at >= 0 && d.nodes[at].meets(demand)
	}
	return d.meetsFrom(0, p.names, demand)
}

func (d *Data) meetsFrom(at int, names []string, demand []operator) bool {
	for {
		n := &d.nodes[at]
		switch {
		case len(names) == 0 && (len(demand) == 0 || n.kind != jsontext.KindBeginArray):
			return n.meets(demand)
		case n.kind == jsontext.KindBeginArray:
			for i := at + 1; i < n.end; i = d.nodes[i].end {
				if d.meetsFrom(i, names, demand) {
					return true
				}
			}
			return false
		case n.kind == jsontext.KindBeginObject:
			if at = d.member(at, names[0]); at < 0 {
				return false
			}
			names = names[1:]
		default:
			return false
		}
	}
}

func (n *node) meets(demand []operator) bool {
	for i := range demand {
		if !demand[i].holds(n) {
			return false
		}
	}
	return true
}

// operator is one demand on one value.
type operator struct {
	kind   operatorKind
	values []scalar // what it compares with: one, or those of operatorIn, sorted by their sum
	time   time.Time
}

type operatorKind uint8

const (
	operatorEqual operatorKind = iota
	operatorIn
	operatorPrefix
	operatorSuffix
	operatorGreater
	operatorGreaterOrEqual
	operatorLess
	operatorLessOrEqual
)

// scalar is a string, number, boolean or null of a filter.
type scalar struct {
	node
	hash   uint64
	number *decimal // of a number
}

func (o *operator) holds(n *node) bool {
	switch o.kind {
	case operatorEqual:
		return o.values[0].equals(n)
	case operatorIn:
		if n.kind == jsontext.KindBeginObject || n.kind == jsontext.KindBeginArray {
			return false
		}
		hash := n.sum()
		i, _ := slices.BinarySearchFunc(o.values, hash, compareHash)
		for ; i < len(o.values) && o.values[i].hash == hash; i++ {
			if o.values[i].equals(n) {
				return true
			}
		}
		return false
	case operatorPrefix:
		return n.kind == jsontext.KindString && bytes.HasPrefix(n.text, o.values[0].text)
	case operatorSuffix:
		return n.kind == jsontext.KindString && bytes.HasSuffix(n.text, o.values[0].text)
	case operatorGreater:
		order, ok := o.compare(n)
		return ok && order > 0
	case operatorGreaterOrEqual:
		order, ok := o.compare(n)
		return ok && order >= 0
	case operatorLess:
		order, ok := o.compare(n)
		return ok && order < 0
	default:
		order, ok := o.compare(n)
		return ok && order <= 0
	}
}

// compare orders the value against the operator's; not ok when it has no order with it.
func (o *operator) compare(n *node) (order int, ok bool) {
	v := &o.values[0]
	if n.kind != v.kind {
		return 0, false
	}
	if v.number != nil {
		x := readDecimal(n.text)
		return x.compare(v.number), true
	}
	t, ok := readTime(n.text)
	return t.Compare(o.time), ok
}

// equals says whether the value equals this one, as JSON values do.
func (s *scalar) equals(n *node) bool {
	if n.kind != s.kind {
		return false
	}
	if bytes.Equal(n.text, s.text) {
		return true
	}
	if s.number == nil {
		return false
	}
	x := readDecimal(n.text)
	return x.compare(s.number) == 0
}

func compareHash(s scalar, hash uint64) int {
	switch {
	case s.hash < hash:
		return -1
	case s.hash > hash:
		return 1
	default:
		return 0
	}
}

// readTime reads an RFC 3339 time, strictly, to the nanosecond.
func readTime(text []byte) (t time.Time, ok bool) {
	// Most texts are no times, and an error costs more than a look. What the standard library takes beyond
	// RFC 3339 section 5.6 is an hour of one digit, a comma before the fraction, and offsets that are none.
	const seconds, longest = len("2006-01-02T15:04:05"), 64
	if len(text) <= seconds || len(text) > longest || text[4] != '-' || text[10] != 'T' || text[13] != ':' || text[seconds] == ',' {
		return time.Time{}, false
	}
	if zone := text[len(text)-len("+07:00"):]; text[len(text)-1] != 'Z' && (string(zone[1:3]) > "23" || string(zone[4:]) > "59") {
		return time.Time{}, false
	}
	err := t.UnmarshalText(text)
	return t, err == nil
}

// FilterError is one thing that is wrong with a filter.
type FilterError struct {
	// Pointer is the place in the filter, as a JSON Pointer (RFC 6901); "" is the filter itself.
	Pointer string
	// Detail says what would be right, as what follows the name of the place.
	Detail string
}

// Error returns the place and the detail.
func (e FilterError) Error() string {
	if e.Pointer == "" {
		return "the filter " + e.Detail
	}
	return e.Pointer + " " + e.Detail
}

// FilterErrors is what ParseFilter found, in the order of the text, at most MaxFilterErrors.
type FilterErrors []FilterError

// MaxFilterErrors bounds what ParseFilter tells at once.
const MaxFilterErrors = 20

// Error returns all of them.
func (e FilterErrors) Error() string {
	texts := make([]string, len(e))
	for i := range e {
		texts[i] = e[i].Error()
	}
	return strings.Join(texts, "; ")
}
