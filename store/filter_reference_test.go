package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// reference is the documentation of Filter once more, over trees of any, without an eye to speed.
type reference struct{ data any }

func readTree(t testing.TB, text string) any {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func (r reference) filter(f map[string]any, prefix string) bool {
	for name, v := range f {
		ok := false
		switch {
		case prefix == "" && name == "$and":
			ok = true
			for _, x := range v.([]any) {
				ok = ok && r.filter(x.(map[string]any), "")
			}
		case prefix == "" && name == "$or":
			for _, x := range v.([]any) {
				ok = ok || r.filter(x.(map[string]any), "")
			}
		case prefix == "" && name == "$not":
			ok = !r.filter(v.(map[string]any), "")
		default:
			ok = r.field(prefix+name, v)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r reference) field(path string, v any) bool {
	there, leaves := r.values(path)
	m, ok := v.(map[string]any)
	if !ok {
		return contains(leaves, v)
	}
	for name := range m {
		if name[0] != '$' {
			return r.filter(m, path+".")
		}
	}
	return operators(m, there, leaves)
}

func operators(m map[string]any, there bool, leaves []any) bool {
	demands := false
	for name, v := range m {
		switch name {
		case "$exists":
			if v.(bool) != there {
				return false
			}
		case "$ne":
			if contains(leaves, v) {
				return false
			}
		case "$nin":
			for _, x := range v.([]any) {
				if contains(leaves, x) {
					return false
				}
			}
		case "$not":
			if x, ok := v.(map[string]any); ok && operators(x, there, leaves) || !ok && contains(leaves, v) {
				return false
			}
		default:
			demands = true
		}
	}
	if !demands {
		return true
	}
	for _, leaf := range leaves {
		all := true
		for name, v := range m {
			all = all && demanded(name, v, leaf)
		}
		if all {
			return true
		}
	}
	return false
}

func demanded(name string, v, leaf any) bool {
	text, _ := v.(string)
	s, isString := leaf.(string)
	switch name {
	case "$eq":
		return equal(v, leaf)
	case "$in":
		return contains(v.([]any), leaf)
	case "$prefix":
		return isString && strings.HasPrefix(s, text)
	case "$suffix":
		return isString && strings.HasSuffix(s, text)
	case "$gt", "$gte", "$lt", "$lte":
		order := 0
		if n, ok := v.(json.Number); ok {
			m, ok := leaf.(json.Number)
			if !ok {
				return false
			}
			order = rational(m).Cmp(rational(n))
		} else {
			want, _ := time.Parse(time.RFC3339Nano, text)
			got, err := time.Parse(time.RFC3339Nano, s)
			if !isString || err != nil {
				return false
			}
			order = got.Compare(want)
		}
		return map[string]bool{"$gt": order > 0, "$gte": order >= 0, "$lt": order < 0, "$lte": order <= 0}[name]
	}
	return true // one that forbids
}

func rational(n json.Number) *big.Rat {
	x, ok := new(big.Rat).SetString(n.String())
	if !ok {
		panic(n)
	}
	return x
}

func equal(a, b any) bool {
	x, isNumber := a.(json.Number)
	if y, ok := b.(json.Number); ok && isNumber {
		return rational(x).Cmp(rational(y)) == 0
	}
	switch a.(type) {
	case map[string]any, []any:
		return false
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	return a == b
}

func contains(list []any, v any) bool {
	for _, x := range list {
		if equal(x, v) {
			return true
		}
	}
	return false
}

func (r reference) values(path string) (there bool, leaves []any) {
	if strings.HasPrefix(path, "/") {
		v := r.data
		for name := range strings.SplitSeq(path[1:], "/") {
			name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
			switch x := v.(type) {
			case map[string]any:
				y, ok := x[name]
				if !ok {
					return false, nil
				}
				v = y
			case []any:
				i, err := strconv.Atoi(name)
				if err != nil || i < 0 || i >= len(x) || strconv.Itoa(i) != name {
					return false, nil
				}
				v = x[i]
			default:
				return false, nil
			}
		}
		return true, []any{v}
	}
	at := []any{r.data}
	for name := range strings.SplitSeq(path, ".") {
		var next []any
		for _, v := range flatten(at) {
			if m, ok := v.(map[string]any); ok {
				if x, ok := m[name]; ok {
					next = append(next, x)
				}
			}
		}
		at = next
	}
	return len(at) > 0, flatten(at)
}

func flatten(list []any) (flat []any) {
	for _, v := range list {
		if x, ok := v.([]any); ok {
			flat = append(flat, flatten(x)...)
		} else {
			flat = append(flat, v)
		}
	}
	return flat
}

// The random filters and data have few names and values, spelt in many ways, so that they meet.
var (
	filterNames  = []string{"a", "b", "c", "0", "1"}
	filterValues = []string{
		`"x"`, `"xy"`, `"yx"`, `"\u0078"`, `"é"`, `""`, `null`, `true`, `false`, `0`, `-0.0`, `1`, `1.0`, `10e-1`, `1.5`, `-1`, `15e-1`, `0.05`, `5e-2`, `0.5`, `100`, `1e2`, `9007199254740993`, `9007199254740992`,
		`"2026-11-21T08:30:00Z"`, `"2026-11-21T09:30:00+01:00"`, `"2026-11-21T08:30:00.5Z"`,
	}
	filterNumbers = []string{`0`, `1`, `1.00`, `-1`, `1.5`, `100`, `9007199254740992.5`}
	filterTimes   = []string{`"2026-11-21T08:30:00Z"`, `"2026-11-21T08:30:00.5Z"`, `"2026-11-21T07:00:00-01:30"`}
)

func one[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func randomData(r *rand.Rand, depth int) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, n := range r.Perm(len(filterNames))[:r.IntN(4)] {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", filterNames[n], randomValue(r, depth-1))
	}
	return b.String() + "}"
}

func randomValue(r *rand.Rand, depth int) string {
	switch n := r.IntN(8); {
	case depth > 0 && n < 3:
		return randomData(r, depth)
	case depth > 0 && n < 5:
		items := make([]string, r.IntN(4))
		for i := range items {
			items[i] = randomValue(r, depth-1)
		}
		return "[" + strings.Join(items, ",") + "]"
	default:
		return one(r, filterValues)
	}
}

func randomPath(r *rand.Rand) string {
	names := make([]string, 1+r.IntN(3))
	for i := range names {
		names[i] = one(r, filterNames)
	}
	if r.IntN(4) == 0 {
		return "/" + strings.Join(names, "/")
	}
	return strings.Join(names, ".")
}

func randomList(r *rand.Rand) string {
	items := make([]string, 1+r.IntN(4))
	for i := range items {
		items[i] = one(r, filterValues)
	}
	return "[" + strings.Join(items, ",") + "]"
}

func randomOperators(r *rand.Rand, depth int) string {
	all := []string{"$eq", "$ne", "$in", "$nin", "$prefix", "$suffix", "$gt", "$gte", "$lt", "$lte", "$exists", "$not"}
	var parts []string
	for _, n := range r.Perm(len(all))[:1+r.IntN(2)] {
		v := ""
		switch name := all[n]; name {
		case "$eq", "$ne":
			v = one(r, filterValues)
		case "$in", "$nin":
			v = randomList(r)
		case "$prefix", "$suffix":
			v = one(r, []string{`"x"`, `"y"`, `"xy"`, `"2026"`, `"Z"`})
		case "$exists":
			v = one(r, []string{"true", "false"})
		case "$not":
			if v = one(r, filterValues); depth > 0 && r.IntN(2) == 0 {
				v = randomOperators(r, depth-1)
			}
		default:
			if v = one(r, filterNumbers); r.IntN(3) == 0 {
				v = one(r, filterTimes)
			}
		}
		parts = append(parts, fmt.Sprintf("%q:%s", all[n], v))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func randomFilter(r *rand.Rand, depth int) string {
	seen := make(map[string]bool)
	var parts []string
	add := func(name, v string) {
		if !seen[name] {
			seen[name] = true
			parts = append(parts, fmt.Sprintf("%q:%s", name, v))
		}
	}
	for range 1 + r.IntN(2) {
		switch n := r.IntN(10); {
		case depth > 0 && n < 2:
			branches := make([]string, 1+r.IntN(3))
			for i := range branches {
				branches[i] = randomFilter(r, depth-1)
			}
			add(one(r, []string{"$and", "$or"}), "["+strings.Join(branches, ",")+"]")
		case depth > 0 && n == 2:
			add("$not", randomFilter(r, depth-1))
		case n == 3:
			add(one(r, filterNames), fmt.Sprintf("{%q:%s,%q:%s}", "a", one(r, filterValues), "b.c", randomOperators(r, 1)))
		case n < 7:
			add(randomPath(r), one(r, filterValues))
		default:
			add(randomPath(r), randomOperators(r, 2))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestFilterAgreesWithReference(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	yes := 0
	const rounds = 60_000
	for range rounds {
		text, data := randomFilter(r, 3), randomData(r, 4)
		want := reference{readTree(t, data)}.filter(readTree(t, text).(map[string]any), "")
		if got := holds(t, compile(t, text), data); got != want {
			t.Fatalf("%s on %s: got %v, want %v", text, data, got, want)
		}
		if want {
			yes++
		}
	}
	if yes < rounds/20 || yes > rounds*19/20 {
		t.Errorf("%d of %d hold: the test looks at one side only", yes, rounds)
	}
}

func FuzzParseFilter(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		f.Add([]byte(randomFilter(r, 3)))
	}
	for _, s := range []string{`{}`, `{"a":`, `{"a":{"$gt":"2026-11-21T08:30:00+24:00"}}`, `{"a":1e-99999999999999999999}`, `{"$or":[{"a":1},{"a":1}]}`, " {\"a\" :\t1}\n", `{"/~01":0}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		x, err := store.ParseFilter(text)
		if err != nil {
			if x != nil || err.Error() == "" {
				t.Fatalf("%q: %v, %v", text, x, err)
			}
			return
		}
		y, err := store.ParseFilter([]byte(x.Text()))
		if err != nil || y.Text() != x.Text() {
			t.Fatalf("%q does not survive: %v, %v", text, y, err)
		}
		var before, after any
		if json.Unmarshal(text, &before) == nil && json.Unmarshal([]byte(x.Text()), &after) == nil && fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatalf("%q says something else as %q", text, x.Text())
		}
	})
}

// readable says whether a text is JSON of RFC 8259, in UTF-8 and without lone surrogates, which encoding/json
// lets pass. Names that come twice are the publisher's business.
func readable(text []byte) bool {
	return jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true))
}

func FuzzMatch(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 40 {
		f.Add([]byte(randomFilter(r, 3)), []byte(randomData(r, 4)))
	}
	f.Add([]byte(`{"a":{"$gt":"2026-11-21T08:30:00Z"}}`), []byte(`{"a":"2026-11-21T08:30:00+1"}`))
	f.Add([]byte(`{"a":-1.50}`), []byte(`{"a":-15000000000000000000000e-99999999999999999999999}`))
	f.Add([]byte(`{"/a/0":null}`), []byte(`{"a":[null],"a":[]}`))
	f.Fuzz(func(t *testing.T, text, data []byte) {
		var d store.Data
		err := d.Read(data)
		if object := bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")); err == nil != (object && readable(data)) {
			t.Fatalf("%q: %v", data, err)
		}
		x, ferr := store.ParseFilter(text)
		if ferr != nil {
			return
		}
		got := x.Match(&d)
		if err != nil && got {
			t.Fatalf("%q passes, and is none", data)
		}
		var m store.Matcher
		m.Replace(nil, &store.Subscription{ID: store.SubscriptionID{1}, State: store.StateActive, Filter: x})
		if ids, _ := m.Select("", "a", "", data, nil); (len(ids) == 1) != got {
			t.Fatalf("%q on %q: %v alone, %v chosen", text, data, got, ids)
		}
		not, ferr := store.ParseFilter([]byte(`{"$not":` + x.Text() + `}`))
		if ferr == nil && err == nil && not.Match(&d) == got {
			t.Fatalf("%q on %q: it and its opposite are both %v", text, data, got)
		}
		for _, name := range []string{"a", "a.b", "/a/0", "b.c.a"} {
			p, perr := store.ParsePath(name)
			if perr != nil {
				t.Fatal(perr)
			}
			if p.Key(data) != p.Key(bytes.Clone(data)) {
				t.Fatalf("%q has two keys", data)
			}
		}
	})
}
