package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxOperandExponent bounds the exponent of a number in a filter.
const maxOperandExponent = 1_000_000

// ParseFilter reads a filter and compiles it. The error is a FilterErrors with all that is wrong, as far as
// it can be seen at once.
func ParseFilter(text []byte) (*Filter, error) {
	if len(text) > MaxFilterLength {
		return nil, FilterErrors{{Detail: fmt.Sprintf("must have at most %d bytes", MaxFilterLength)}}
	}
	c := compiler{}
	compact := jsontext.Value(bytes.Clone(text))
	err := compact.Compact(jsontext.AllowDuplicateNames(true))
	if err == nil {
		// An engine compiles all its filters when it starts. Each value but the first stands after one of these.
		c.data.nodes = make([]node, 0, 1+bytes.Count(compact, []byte(","))+bytes.Count(compact, []byte("{"))+bytes.Count(compact, []byte("[")))
		err = c.data.read(compact, jsontext.AllowDuplicateNames(true))
	}
	if err != nil {
		return nil, FilterErrors{syntaxFault(err)}
	}
	if kind := c.data.nodes[0].kind; kind != jsontext.KindBeginObject {
		c.fault("must be an object of conditions, such as {\"customer.country\":\"NL\"}, not %s", kindText(kind))
		return nil, c.faults
	}
	f := &Filter{text: compact, all: c.filter(0)}
	if c.conditions > MaxFilterConditions && len(c.faults) < MaxFilterErrors {
		c.faults = append(c.faults, FilterError{Detail: fmt.Sprintf("must have at most %d conditions, and has %d", MaxFilterConditions, c.conditions)})
	}
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	return f, nil
}

// syntaxFault tells of a text that is no JSON.
func syntaxFault(err error) FilterError {
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return FilterError{
			Pointer: string(e.JSONPointer),
			Detail:  fmt.Sprintf("must be valid JSON (RFC 8259); it is not from byte %d of the filter on", e.ByteOffset+1),
		}
	}
	return FilterError{Detail: "must be one JSON object (RFC 8259) with nothing after it"}
}

// compiler turns the text of a filter, read like the data of an event, into its clauses.
type compiler struct {
	data       Data
	place      []string // the names and positions that lead to what is being read
	faults     FilterErrors
	conditions int
}

// fault notes what is wrong with the place being read.
func (c *compiler) fault(format string, args ...any) {
	if len(c.faults) == MaxFilterErrors {
		return
	}
	var pointer strings.Builder
	for _, name := range c.place {
		pointer.WriteByte('/')
		pointer.WriteString(strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1"))
	}
	c.faults = append(c.faults, FilterError{Pointer: pointer.String(), Detail: fmt.Sprintf(format, args...)})
}

// each calls read for each member or element of a value, at its place.
func (c *compiler) each(at int, read func(at int, name string)) {
	nodes := c.data.nodes
	isObject := nodes[at].kind == jsontext.KindBeginObject
	for i, position := at+1, 0; i < nodes[at].end; i, position = nodes[i].end, position+1 {
		name := string(nodes[i].name)
		if !isObject {
			name = strconv.Itoa(position)
		}
		c.place = append(c.place, name)
		switch {
		case isObject && c.repeats(at, i):
			c.fault("is there twice; each name stands once in an object")
		case len(c.place) >= MaxFilterDepth && (nodes[i].kind == jsontext.KindBeginObject || nodes[i].kind == jsontext.KindBeginArray):
			c.fault("is nested deeper than %d levels", MaxFilterDepth)
		default:
			read(i, name)
		}
		c.place = c.place[:len(c.place)-1]
	}
}

// repeats says whether a member of an object has the name of one before it. It looks at all of them, so it
// stops looking when the filter is refused anyway, for more than it may have.
func (c *compiler) repeats(object, member int) bool {
	if c.conditions > MaxFilterConditions || len(c.faults) == MaxFilterErrors {
		return false
	}
	nodes := c.data.nodes
	for i := object + 1; i < member; i = nodes[i].end {
		if bytes.Equal(nodes[i].name, nodes[member].name) {
			return true
		}
	}
	return false
}

// filter reads an object of conditions: the whole, or one within $and, $or or $not.
func (c *compiler) filter(at int) []clause {
	if kind := c.data.nodes[at].kind; kind != jsontext.KindBeginObject {
		c.fault("must be a filter, such as {\"customer.country\":\"NL\"}, not %s", kindText(kind))
		return nil
	}
	if c.empty(at) {
		if len(c.place) == 0 {
			c.fault("must have a condition; leave it out, or make it null, to have all events")
		} else {
			c.fault("must have a condition; leave it out when there is none")
		}
		return nil
	}
	operators, names := c.count(at)
	all := make([]clause, 0, operators+names)
	c.each(at, func(at int, name string) {
		switch name {
		case "$and":
			all = append(all, clause{kind: clauseAll, of: c.branches(at)})
		case "$or":
			all = append(all, clause{kind: clauseAny, of: c.branches(at)})
		case "$not":
			all = append(all, clause{kind: clauseNone, of: c.filter(at)})
		default:
			if strings.HasPrefix(name, "$") {
				c.fault("must be $and, $or or $not, or the path of a field, whose conditions stand in its value, " +
					"such as {\"amount\":{\"$gt\":10}}; a field whose name begins with '$' is written as a JSON Pointer, such as /$id")
				return
			}
			path, err := parsePath(name)
			if err != nil {
				c.fault("%s", err.Error())
				return
			}
			all = append(all, c.field(at, path)...)
		}
	})
	return all
}

func (c *compiler) empty(at int) bool { return c.data.nodes[at].end == at+1 }

// branches reads the filters of $and and $or.
func (c *compiler) branches(at int) []clause {
	if kind := c.data.nodes[at].kind; kind != jsontext.KindBeginArray {
		c.fault("must be an array of filters, not %s", kindText(kind))
		return nil
	}
	var of []clause
	n := 0
	c.each(at, func(at int, _ string) {
		if n++; n <= MaxFilterBranches {
			of = append(of, clause{kind: clauseAll, of: c.filter(at)})
		}
	})
	if n == 0 || n > MaxFilterBranches {
		c.fault("must have 1 to %d filters, and has %d", MaxFilterBranches, n)
	}
	return of
}

// field reads what is asked of the field at the path.
func (c *compiler) field(at int, path Path) []clause {
	switch c.data.nodes[at].kind {
	case jsontext.KindBeginArray:
		c.fault("must be one value, or operators; {\"$in\":[...]} takes several values")
		return nil
	case jsontext.KindBeginObject:
	default:
		c.conditions++
		want := &condition{demand: []operator{{kind: operatorEqual, values: []scalar{c.scalar(at)}}}}
		return []clause{{path: path, want: want}}
	}
	operators, names := c.count(at)
	switch {
	case operators+names == 0:
		c.fault("must have a condition; {\"$exists\":true} asks whether the field is there")
	case operators > 0 && names > 0:
		c.fault("must have operators, whose names begin with '$', or the names of fields, not both; " +
			"a field whose name begins with '$' is written as a JSON Pointer, such as /$id")
	case operators > 0:
		return []clause{{path: path, want: c.operators(at)}}
	case path.exact:
		c.fault("must be a value or operators: a JSON Pointer leads to the field itself, so write all of it in one name")
	default:
		return c.nested(at, path)
	}
	return nil
}

// count returns how many names of an object are operators, and how many are not.
func (c *compiler) count(at int) (operators, names int) {
	nodes := c.data.nodes
	for i := at + 1; i < nodes[at].end; i = nodes[i].end {
		if bytes.HasPrefix(nodes[i].name, []byte("$")) {
			operators++
		} else {
			names++
		}
	}
	return operators, names
}

// nested reads an object whose names lead on from the path.
func (c *compiler) nested(at int, path Path) []clause {
	var all []clause
	c.each(at, func(at int, name string) {
		if strings.HasPrefix(name, "/") {
			c.fault("must be names joined by dots: a JSON Pointer leads from the whole data, so it stands in no other field")
			return
		}
		if _, err := parsePath(name); err != nil {
			c.fault("%s", err.Error())
			return
		}
		further, err := parsePath(path.text + "." + name)
		if err != nil {
			c.fault("%s, with the names around it", err.Error())
			return
		}
		all = append(all, c.field(at, further)...)
	})
	return all
}

// operators reads an object of operators, which has been found to be one.
func (c *compiler) operators(at int) *condition {
	want := &condition{}
	c.each(at, func(at int, name string) {
		c.conditions++
		switch name {
		case "$eq":
			if c.isScalar(at) {
				want.demand = append(want.demand, operator{kind: operatorEqual, values: []scalar{c.scalar(at)}})
			}
		case "$ne":
			if c.isScalar(at) {
				want.forbid = append(want.forbid, condition{demand: []operator{{kind: operatorEqual, values: []scalar{c.scalar(at)}}}})
			}
		case "$in":
			want.demand = append(want.demand, operator{kind: operatorIn, values: c.values(at)})
		case "$nin":
			want.forbid = append(want.forbid, condition{demand: []operator{{kind: operatorIn, values: c.values(at)}}})
		case "$prefix":
			want.demand = append(want.demand, c.affix(at, operatorPrefix))
		case "$suffix":
			want.demand = append(want.demand, c.affix(at, operatorSuffix))
		case "$gt":
			want.demand = append(want.demand, c.order(at, operatorGreater))
		case "$gte":
			want.demand = append(want.demand, c.order(at, operatorGreaterOrEqual))
		case "$lt":
			want.demand = append(want.demand, c.order(at, operatorLess))
		case "$lte":
			want.demand = append(want.demand, c.order(at, operatorLessOrEqual))
		case "$exists":
			want.exists = c.presence(at)
		case "$not":
			if forbidden := c.not(at); forbidden != nil {
				want.forbid = append(want.forbid, *forbidden)
			}
		case "$and", "$or":
			c.fault("must stand around fields, not in one, such as {%q:[{\"amount\":{\"$gt\":10}},{\"vip\":true}]}", name)
		default:
			c.fault("is not known; the operators are $eq, $ne, $in, $nin, $prefix, $suffix, $gt, $gte, $lt, $lte, $exists and $not")
		}
	})
	return want
}

// not reads what the operator $not forbids.
func (c *compiler) not(at int) *condition {
	switch c.data.nodes[at].kind {
	case jsontext.KindBeginArray:
		c.fault("must be one value, or operators; $nin takes several values")
		return nil
	case jsontext.KindBeginObject:
		if operators, names := c.count(at); operators == 0 || names > 0 {
			c.fault("must be a value, or an object of operators, whose names begin with '$'; to forbid fields together, $not stands around them")
			return nil
		}
		return c.operators(at)
	default:
		return &condition{demand: []operator{{kind: operatorEqual, values: []scalar{c.scalar(at)}}}}
	}
}

// isScalar says whether a value can be compared with, and notes it when it cannot.
func (c *compiler) isScalar(at int) bool {
	kind := c.data.nodes[at].kind
	if kind == jsontext.KindBeginObject || kind == jsontext.KindBeginArray {
		c.fault("must be a string, number, boolean or null, not %s", kindText(kind))
		return false
	}
	return true
}

// scalar reads a value to compare with.
func (c *compiler) scalar(at int) scalar {
	s := scalar{node: c.data.nodes[at]}
	if s.kind == jsontext.KindNumber {
		number := readDecimal(s.text)
		s.number = &number
		if number.exponent > maxOperandExponent || number.exponent < -maxOperandExponent {
			c.fault("must be a number of at most %d digits before and after the point", maxOperandExponent)
		}
	}
	s.name, s.end, s.hash = nil, 0, s.sum()
	return s
}

// values reads the values of $in and $nin.
func (c *compiler) values(at int) []scalar {
	if kind := c.data.nodes[at].kind; kind != jsontext.KindBeginArray {
		c.fault("must be an array of values, not %s", kindText(kind))
		return nil
	}
	n := 0
	var values []scalar
	c.each(at, func(at int, _ string) {
		if n++; n <= MaxFilterValues && c.isScalar(at) {
			values = append(values, c.scalar(at))
		}
	})
	if n == 0 || n > MaxFilterValues {
		c.fault("must have 1 to %d values, and has %d", MaxFilterValues, n)
	}
	slices.SortFunc(values, func(a, b scalar) int { return compareHash(a, b.hash) })
	return values
}

// affix reads the text of $prefix and $suffix.
func (c *compiler) affix(at int, kind operatorKind) operator {
	if n := &c.data.nodes[at]; n.kind != jsontext.KindString {
		c.fault("must be a string, not %s", kindText(n.kind))
	} else if len(n.text) == 0 {
		c.fault("must not be empty; {\"$exists\":true} asks whether the field is there")
	}
	return operator{kind: kind, values: []scalar{{node: c.data.nodes[at]}}}
}

// order reads what $gt and its like compare with.
func (c *compiler) order(at int, kind operatorKind) operator {
	const right = "must be a number, or a time as RFC 3339 has it, such as \"2026-11-21T08:30:00Z\""
	o := operator{kind: kind}
	n := &c.data.nodes[at]
	switch n.kind {
	case jsontext.KindNumber:
		o.values = []scalar{c.scalar(at)}
	case jsontext.KindString:
		var ok bool
		if o.time, ok = readTime(n.text); !ok {
			c.fault(right + "; other texts have no order")
		}
		o.values = []scalar{c.scalar(at)}
	default:
		c.fault(right+", not %s", kindText(n.kind))
	}
	return o
}

// presence reads what $exists asks for.
func (c *compiler) presence(at int) presence {
	kind := c.data.nodes[at].kind
	switch kind {
	case jsontext.KindTrue:
		return presenceNeeded
	case jsontext.KindFalse:
		return presenceForbidden
	default:
		c.fault("must be true or false, not %s", kindText(kind))
		return presenceAny
	}
}

// kindText names a kind of value for people.
func kindText(k jsontext.Kind) string {
	switch k {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "a boolean"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginArray:
		return "an array"
	default:
		return "an object"
	}
}
