package api

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// fields reads the members of one JSON object, each by its name, and collects what is wrong with
// them. Names match without regard to the case of ASCII letters.
type fields struct {
	faults *faults
	path   string // of the object, a JSON pointer; "" for the body
	node   *node
	asked  []string
}

// object begins reading the members of n. A value that is no object is a fault, and has no members.
func object(n *node, path string, fs *faults) *fields {
	f := &fields{faults: fs, path: path, node: n}
	if n.kind != jsontext.KindBeginObject {
		fs.add(f.name(""), "must be an object, not %s", n.what())
		f.node = &node{kind: jsontext.KindBeginObject}
		return f
	}
	seen := make(map[string]string, len(n.members))
	for i := range n.members {
		m := &n.members[i]
		m.taken = false // a body may be read over again, see rewriteSubscription
		key := fold(m.name)
		if first, twice := seen[key]; twice {
			fs.add(f.name(m.name), "is there twice, before as %s; names are the same in upper and lower case", show(first))
			m.taken = true
		}
		seen[key] = m.name
	}
	return f
}

// fold lowers the ASCII letters of a name.
func fold(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if 'A' <= b[j] && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// name is how a member is called in an answer.
func (f *fields) name(member string) string {
	if f.path == "" {
		if member == "" {
			return "body"
		}
		return clip(member, 100)
	}
	if member == "" {
		return field(f.path)
	}
	return f.path + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(clip(member, 100))
}

func (f *fields) fault(member, format string, args ...any) {
	f.faults.add(f.name(member), format, args...)
}

// take returns a member's value, or nil when it is absent.
func (f *fields) take(name string) *node {
	f.asked = append(f.asked, name)
	key := fold(name)
	for i := range f.node.members {
		if m := &f.node.members[i]; fold(m.name) == key && !m.taken {
			m.taken = true
			return &m.value
		}
	}
	return nil
}

// end reports the members nobody asked for; hint says more about where they are, or "".
func (f *fields) end(hint string) {
	for i := range f.node.members {
		m := &f.node.members[i]
		if m.taken {
			continue
		}
		switch {
		case hint != "":
			f.fault(m.name, "is not known: %s", hint)
		default:
			f.fault(m.name, "is not known; known are %s", strings.Join(f.asked, ", "))
		}
	}
}

// presence says how a member is there.
type presence uint8

const (
	absent presence = iota
	null
	given
	wrong // of another type; the fault is noted
)

// get takes a member of one of the kinds.
func (f *fields) get(name, want string, kinds ...jsontext.Kind) (*node, presence) {
	n := f.take(name)
	switch {
	case n == nil:
		return nil, absent
	case n.kind == jsontext.KindNull:
		return n, null
	case !slices.Contains(kinds, n.kind):
		f.fault(name, "must be %s, not %s", want, n.what())
		return nil, wrong
	}
	return n, given
}

// text takes a string.
func (f *fields) text(name string) (string, presence) {
	n, p := f.get(name, "a string", jsontext.KindString)
	if p != given {
		return "", p
	}
	return n.text, given
}

// boolean takes true or false.
func (f *fields) boolean(name string) (value bool, p presence) {
	n, p := f.get(name, "true or false", jsontext.KindTrue, jsontext.KindFalse)
	return p == given && n.kind == jsontext.KindTrue, p
}

// integer takes a whole number between two limits.
func (f *fields) integer(name string, low, high int) (int, presence) {
	n, p := f.get(name, "a whole number", jsontext.KindNumber)
	if p != given {
		return 0, p
	}
	v, err := strconv.Atoi(n.text)
	if err != nil && !strings.ContainsAny(n.text, ".eE") {
		v, err = math.MaxInt, nil // digits only, but too many of them
	}
	switch {
	case err != nil:
		f.fault(name, "must be a whole number from %d to %d, written without fraction and exponent", low, high)
		return 0, wrong
	case v < low || v > high:
		f.fault(name, "must be between %d and %d", low, high)
		return 0, wrong
	}
	return v, given
}

// number takes a number between two limits, fractions allowed.
func (f *fields) number(name string, low, high float64) (float64, presence) {
	n, p := f.get(name, "a number", jsontext.KindNumber)
	if p != given {
		return 0, p
	}
	v, err := parseNumber(n.text, low, high)
	if err != nil {
		f.fault(name, "%s", err.Error())
		return 0, wrong
	}
	return v, given
}

// parseNumber reads a JSON number between two limits.
func parseNumber(s string, low, high float64) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < low || v > high || jsontext.Value(s).Kind() != jsontext.KindNumber || !jsontext.Value(s).IsValid() {
		return 0, textError("must be a number between " + strconv.FormatFloat(low, 'f', -1, 64) + " and " + strconv.FormatFloat(high, 'f', -1, 64))
	}
	return v, nil
}

// choice takes one of some words.
func (f *fields) choice(name string, words ...string) (string, presence) {
	s, p := f.text(name)
	if p == given && !slices.Contains(words, s) {
		f.fault(name, "must be %s", either(words))
		return "", wrong
	}
	return s, p
}

// either joins words for a sentence.
func either(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// duration takes a duration as text, between two limits of whole days or minutes.
func (f *fields) duration(name string, low, high time.Duration) (time.Duration, presence) {
	s, p := f.text(name)
	if p != given {
		return 0, p
	}
	switch d, ok := parseDuration(s); {
	case !ok:
		f.fault(name, "must be a duration with its unit, such as 90m, 120h, 5d or 1d12h")
	case d < low || d > high:
		f.fault(name, "must be between %gm and %gd", low.Minutes(), high.Hours()/24)
	default:
		return d, given
	}
	return 0, wrong
}

// parseDuration reads a Go duration, which may begin with whole days.
func parseDuration(s string) (time.Duration, bool) {
	const most = 10 * 365 // days; beyond it durations come near to what 64 bits hold
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil || n > most {
		return 0, false
	}
	whole := time.Duration(n) * 24 * time.Hour
	if ok && rest == "" {
		return whole, true
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > most*24*time.Hour || rest[0] < '0' || rest[0] > '9' {
		return 0, false
	}
	return whole + d, true
}

// filterFaults notes what is wrong with a filter, each fault at its place in the body.
func filterFaults(f *fields, err error) {
	list, ok := errors.AsType[store.FilterErrors](err)
	if !ok { // ParseFilter documents no other
		f.fault("filter", "must be an object of conditions on the data")
		return
	}
	for _, e := range list {
		if e.Pointer == "" {
			f.fault("filter", "%s", e.Detail)
		} else {
			f.element("filter"+e.Pointer, "%s", e.Detail)
		}
	}
}

// seconds takes a number of seconds between two limits, with milliseconds as the finest part.
func (f *fields) seconds(name string, low, high time.Duration) (time.Duration, presence) {
	n, p := f.get(name, "a number of seconds", jsontext.KindNumber)
	if p != given {
		return 0, p
	}
	v, err := strconv.ParseFloat(n.text, 64)
	if err != nil || v < low.Seconds() || v > high.Seconds() {
		f.fault(name, "must be between %g and %g seconds", low.Seconds(), high.Seconds())
		return 0, wrong
	}
	return time.Duration(math.Round(v*1000)) * time.Millisecond, given
}

// array takes an array with a number of elements between two limits.
func (f *fields) array(name, of string, low, high int) ([]node, presence) {
	n, p := f.get(name, "an array of "+of, jsontext.KindBeginArray)
	if p != given {
		return nil, p
	}
	if len(n.items) < low || len(n.items) > high {
		f.fault(name, "must have %d to %d elements", low, high)
		return nil, wrong
	}
	return n.items, given
}

// texts takes an array of distinct strings, each checked by check.
func (f *fields) texts(name string, low, high int, check func(string) error) ([]string, presence) {
	items, p := f.array(name, "strings", low, high)
	if p != given {
		return nil, p
	}
	list := make([]string, 0, len(items))
	seen := make(map[string]bool, len(items))
	for i := range items {
		at := name + "/" + strconv.Itoa(i)
		switch item := &items[i]; {
		case item.kind != jsontext.KindString:
			f.element(at, "must be a string, not %s", item.what())
			p = wrong
		case seen[item.text]:
			f.element(at, "is there twice: %s", show(item.text))
			p = wrong
		default:
			seen[item.text] = true
			if err := check(item.text); err != nil {
				f.element(at, "%s", err.Error())
				p = wrong
			}
			list = append(list, item.text)
		}
	}
	return list, p
}

// element notes a fault of something inside a member.
func (f *fields) element(at, format string, args ...any) {
	f.faults.add(f.path+"/"+at, format, args...)
}

// moment takes a time (RFC 3339).
func (f *fields) moment(name string) (time.Time, presence) {
	s, p := f.text(name)
	if p != given {
		return time.Time{}, p
	}
	t, err := parseTime(s)
	if err != nil {
		f.fault(name, "%s", err.Error())
		return time.Time{}, wrong
	}
	return t, given
}

// maxLabel bounds the names people give, in characters.
const maxLabel = 200

// label takes a name for people; null and absence are "".
func (f *fields) label(name string) (string, presence) {
	s, p := f.text(name)
	if p != given {
		return "", p
	}
	if utf8.RuneCountInString(s) > maxLabel {
		f.fault(name, "must have at most %d characters", maxLabel)
		return "", wrong
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		f.fault(name, "must not hold control characters such as line ends")
		return "", wrong
	}
	return s, given
}

// same takes a member that may be given back as it was read, and says so when it is another value.
func (f *fields) same(name, current, advice string) {
	if s, p := f.text(name); p == given && s != current || p == null && current != "" {
		f.fault(name, "cannot be changed here: %s", advice)
	}
}

// ignore takes a member that is only shown.
func (f *fields) ignore(names ...string) {
	for _, name := range names {
		f.take(name)
	}
}

type textError string

func (e textError) Error() string { return string(e) }

// The years an event or an expiry may be in.
const (
	minYear = 1970
	maxYear = 2199
)

// strictTime refuses what the standard library takes beyond RFC 3339, section 5.6: an hour of one
// digit, a comma before the fraction, and offsets that are none.
func strictTime(s string) bool {
	const seconds = len("2006-01-02T15:04:05")
	if len(s) <= seconds || s[len("2006-01-02T15")] != ':' || s[seconds] == ',' {
		return false
	}
	if s[len(s)-1] == 'Z' {
		return true
	}
	zone := s[len(s)-len("+07:00"):]
	return zone[1:3] <= "23" && zone[4:6] <= "59"
}

// parseTime reads an RFC 3339 time, strictly, and returns it in UTC.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || !strictTime(s) {
		return time.Time{}, textError("must be an RFC 3339 time such as 2026-11-21T08:30:00Z")
	}
	t = t.UTC()
	if y := t.Year(); y < minYear || y > maxYear {
		return time.Time{}, textError("must be in the years " + strconv.Itoa(minYear) + " to " + strconv.Itoa(maxYear))
	}
	return t, nil
}
