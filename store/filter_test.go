package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"herald/store"
)

// compile returns a filter that has to be right.
func compile(t testing.TB, text string) *store.Filter {
	t.Helper()
	f, err := store.ParseFilter([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return f
}

// holds says whether a filter holds for data.
func holds(t testing.TB, f *store.Filter, data string) bool {
	t.Helper()
	var d store.Data
	if err := d.Read([]byte(data)); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return f.Match(&d)
}

func TestFilterOperators(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		filter string
		yes    []string
		no     []string
	}{
		// Equality.
		{
			`{"a":"x"}`,
			[]string{`{"a":"x"}`, `{"a":"\u0078"}`, `{"b":1,"a":"x"}`, `{"a":["x"]}`, `{"a":["y","x"]}`, `{"a":[["y"],["x"]]}`},
			[]string{`{}`, `{"a":"X"}`, `{"a":"x "}`, `{"a":""}`, `{"a":null}`, `{"A":"x"}`, `{"a":{"x":"x"}}`, `{"a":{}}`, `{"a":[]}`, `{"b":{"a":"x"}}`, `{"a":[{"a":"x"}]}`},
		},
		{`{"a":"\u00e9\ud83d\ude00\""}`, []string{`{"a":"é😀\u0022"}`}, []string{`{"a":"é😀"}`}},
		{`{"\u0061":{"$e\u0071":"x"}}`, []string{`{"a":"x"}`}, []string{`{"a":"y"}`}},
		{
			`{"a":1}`,
			[]string{`{"a":1}`, `{"a":1.0}`, `{"a":1e0}`, `{"a":0.1E1}`, `{"a":10e-1}`, `{"a":1.000000e+00}`, `{"a":100e-2}`},
			[]string{`{"a":"1"}`, `{"a":true}`, `{"a":-1}`, `{"a":1.0000000000000000000000001}`, `{"a":10}`, `{"a":0.1}`, `{"a":11}`, `{"a":1e99999999999999999999999}`, `{"a":1e-99999999999999999999999}`},
		},
		{`{"a":9007199254740993}`, []string{`{"a":9007199254740993}`, `{"a":9007199254740993.0}`, `{"a":9.007199254740993e15}`}, []string{`{"a":9007199254740992}`, `{"a":9007199254740994}`}},
		{`{"a":0}`, []string{`{"a":0}`, `{"a":-0}`, `{"a":0.00}`, `{"a":0e5}`, `{"a":-0.0E-99999999999999999999}`}, []string{`{"a":1}`, `{"a":null}`, `{"a":false}`, `{"a":1e-400}`, `{"a":""}`}},
		{`{"a":-12.50}`, []string{`{"a":-12.5}`, `{"a":-125e-1}`}, []string{`{"a":12.5}`, `{"a":-125}`, `{"a":-12.05}`, `{"a":-1.25}`}},
		{`{"a":0.05}`, []string{`{"a":5e-2}`, `{"a":0.0500}`, `{"a":0.005e1}`}, []string{`{"a":0.5}`, `{"a":0.005}`, `{"a":5}`, `{"a":0.50}`, `{"a":0.0005e1}`}},
		{`{"a":1e400}`, []string{`{"a":1e400}`, `{"a":10e399}`}, []string{`{"a":1e401}`, `{"a":1e399}`}},
		{`{"a":true}`, []string{`{"a":true}`, `{"a":[false,true]}`}, []string{`{"a":false}`, `{"a":"true"}`, `{"a":1}`, `{}`}},
		{`{"a":false}`, []string{`{"a":false}`}, []string{`{"a":true}`, `{"a":null}`, `{"a":0}`, `{}`}},
		{`{"a":null}`, []string{`{"a":null}`, `{"a":[1,null]}`}, []string{`{}`, `{"a":false}`, `{"a":0}`, `{"a":""}`, `{"a":[]}`, `{"a":{}}`}},
		{`{"a":{"$eq":"x"}}`, []string{`{"a":"x"}`, `{"a":["z","x"]}`}, []string{`{"a":"y"}`, `{}`}},
		{`{"a":{"$eq":null}}`, []string{`{"a":null}`}, []string{`{}`}},
		{`{"a":{"$ne":"x"}}`, []string{`{"a":"y"}`, `{"a":1}`, `{"a":null}`, `{}`, `{"a":[]}`, `{"a":["y","z"]}`, `{"a":{"b":"x"}}`}, []string{`{"a":"x"}`, `{"a":["y","x"]}`}},
		// Several values.
		{`{"a":{"$in":["x",1,null]}}`, []string{`{"a":"x"}`, `{"a":1.0}`, `{"a":null}`, `{"a":[7,"x"]}`}, []string{`{"a":"1"}`, `{"a":"y"}`, `{}`, `{"a":[]}`, `{"a":{}}`, `{"a":true}`}},
		{`{"a":{"$nin":["x",1]}}`, []string{`{"a":"y"}`, `{}`, `{"a":[]}`, `{"a":{}}`, `{"a":["y",2]}`}, []string{`{"a":"x"}`, `{"a":1e0}`, `{"a":["y","x"]}`}},
		// Parts of strings.
		{`{"a":{"$prefix":"ab"}}`, []string{`{"a":"ab"}`, `{"a":"abc"}`, `{"a":"\u0061bc"}`, `{"a":["x","abx"]}`}, []string{`{"a":"a"}`, `{"a":"xab"}`, `{"a":"AB"}`, `{"a":null}`, `{}`, `{"a":1}`}},
		{`{"a":{"$suffix":"@x.test"}}`, []string{`{"a":"me@x.test"}`, `{"a":"@x.test"}`}, []string{`{"a":"me@x.test."}`, `{"a":"x.test"}`, `{}`, `{"a":7}`}},
		{`{"a":{"$prefix":"1"}}`, nil, []string{`{"a":1}`, `{"a":12}`, `{"a":true}`}},
		// Order of numbers.
		{`{"a":{"$gt":10}}`, []string{`{"a":11}`, `{"a":10.0000000000000000001}`, `{"a":1e2}`, `{"a":1e999999999999999999999}`, `{"a":[1,20]}`}, []string{`{"a":10}`, `{"a":10.0}`, `{"a":9}`, `{"a":-11}`, `{"a":"11"}`, `{}`, `{"a":null}`, `{"a":1e-99}`, `{"a":-1e99}`, `{"a":[1,2]}`, `{"a":"2026-11-21T08:30:00Z"}`}},
		{`{"a":{"$gte":10}}`, []string{`{"a":10}`, `{"a":1e1}`, `{"a":11}`}, []string{`{"a":9.999999999999999999999}`, `{}`}},
		{`{"a":{"$lt":-1.5}}`, []string{`{"a":-2}`, `{"a":-1.51}`, `{"a":-1e30}`}, []string{`{"a":-1.5}`, `{"a":-1.4}`, `{"a":0}`, `{"a":2}`, `{}`}},
		{`{"a":{"$lte":-1.5}}`, []string{`{"a":-1.5}`, `{"a":-1.50}`, `{"a":-15e-1}`}, []string{`{"a":-1.49999}`, `{}`}},
		{`{"a":{"$lt":0}}`, []string{`{"a":-0.1}`, `{"a":-1e-99999999999999999999}`}, []string{`{"a":0}`, `{"a":-0.0}`, `{"a":1e-99999999999999999999}`}},
		{`{"a":{"$gt":18446744073709551615}}`, []string{`{"a":18446744073709551616}`}, []string{`{"a":18446744073709551615}`, `{"a":18446744073709551614}`}},
		{`{"a":{"$gte":1,"$lt":5}}`, []string{`{"a":1}`, `{"a":4.9}`, `{"a":[0,3,9]}`}, []string{`{"a":0}`, `{"a":5}`, `{"a":[0,5]}`, `{}`}}, // by one and the same value
		// Order of times.
		{
			`{"a":{"$gt":"2026-11-21T08:30:00Z"}}`,
			[]string{`{"a":"2026-11-21T08:30:00.000000001Z"}`, `{"a":"2026-11-21T08:31:00Z"}`, `{"a":"2026-11-21T08:30:00-00:01"}`, `{"a":"2026-11-21T10:30:01+02:00"}`, `{"a":["x","2027-01-01T00:00:00Z"]}`},
			[]string{
				`{"a":"2026-11-21T08:30:00Z"}`, `{"a":"2026-11-21T10:30:00+02:00"}`, `{"a":"2026-11-21T08:29:59.999999999Z"}`, `{"a":"2027"}`, `{"a":"2027-01-01"}`, `{"a":"z"}`, `{"a":1e12}`, `{}`,
				`{"a":"2027-13-01T00:00:00Z"}`, `{"a":"2027-01-01T0:00:00Z00"}`, `{"a":"2027-01-01T00:00:00,5Z"}`, `{"a":"2027-01-01 00:00:00Z"}`, `{"a":"2027-01-01T00:00:00+24:00"}`, `{"a":"2027-01-01T00:00:00+23:60"}`, `{"a":"2027-01-01T00:00:00"}`,
				`{"a":"2027-01-01T00:00:00.` + strings.Repeat("1", 60) + `Z"}`,
			},
		},
		{`{"a":{"$gte":"2026-11-21T08:30:00.5+02:00"}}`, []string{`{"a":"2026-11-21T06:30:00.5Z"}`}, []string{`{"a":"2026-11-21T06:30:00.499999999Z"}`, `{"a":"2026-11-21T08:30:00.5+02:01"}`}},
		{`{"a":{"$lt":"2026-11-21T08:30:00Z"}}`, []string{`{"a":"2026-11-21T08:29:59.999999999Z"}`}, []string{`{"a":"2026-11-21T08:30:00Z"}`, `{"a":""}`, `{"a":"1999"}`}},
		{`{"a":{"$lte":"2026-11-21T08:30:00Z"}}`, []string{`{"a":"2026-11-21T09:30:00+01:00"}`}, []string{`{"a":"2026-11-21T08:30:00.1Z"}`}},
		// Existence.
		{`{"a":{"$exists":true}}`, []string{`{"a":1}`, `{"a":null}`, `{"a":[]}`, `{"a":{}}`, `{"a":[[]]}`}, []string{`{}`, `{"b":1}`}},
		{`{"a":{"$exists":false}}`, []string{`{}`, `{"b":{"a":1}}`}, []string{`{"a":1}`, `{"a":null}`, `{"a":[]}`}},
		{`{"a.b":{"$exists":true}}`, []string{`{"a":{"b":null}}`, `{"a":[{},{"b":1}]}`}, []string{`{"a":{}}`, `{"a":[]}`, `{"a":"b"}`, `{"a.b":1}`, `{"a":null}`}},
		// Not.
		{`{"a":{"$not":"x"}}`, []string{`{"a":"y"}`, `{}`}, []string{`{"a":"x"}`, `{"a":["x"]}`}},
		{`{"a":{"$not":{"$gt":1,"$lt":5}}}`, []string{`{"a":1}`, `{"a":5}`, `{}`, `{"a":"x"}`, `{"a":[0,9]}`}, []string{`{"a":2}`, `{"a":[0,2]}`}},
		{`{"a":{"$not":{"$exists":true}}}`, []string{`{}`}, []string{`{"a":1}`}},
		{`{"a":{"$not":{"$ne":"x"}}}`, []string{`{"a":"x"}`, `{"a":["x","y"]}`}, []string{`{}`, `{"a":"y"}`}},
		{`{"a":{"$not":{"$not":{"$in":[1,2]}}}}`, []string{`{"a":2}`}, []string{`{"a":3}`, `{}`}},
		{`{"$not":{"a":"x","b":"y"}}`, []string{`{}`, `{"a":"x"}`, `{"b":"y"}`, `{"a":"x","b":"z"}`}, []string{`{"a":"x","b":"y"}`}},
		// What is demanded is demanded of one value, what is forbidden of all.
		{`{"a":{"$prefix":"x","$ne":"xx"}}`, []string{`{"a":"xy"}`, `{"a":["xy","y"]}`}, []string{`{"a":"xx"}`, `{"a":["xy","xx"]}`, `{}`}},
		{`{"a":{"$exists":true,"$ne":"x"}}`, []string{`{"a":1}`, `{"a":[]}`}, []string{`{}`, `{"a":"x"}`}},
		{`{"a":{"$prefix":"a","$suffix":"z"}}`, []string{`{"a":"az"}`, `{"a":["b","a-z"]}`}, []string{`{"a":["ab","bz"]}`}},
		// And, or.
		{`{"a":1,"b":2}`, []string{`{"a":1,"b":2}`}, []string{`{"a":1}`, `{"b":2}`, `{"a":2,"b":2}`}},
		{`{"$and":[{"a":1},{"b":2}]}`, []string{`{"a":1,"b":2}`}, []string{`{"a":1}`, `{"b":2}`}},
		{`{"$or":[{"a":1},{"b":2,"c":3}]}`, []string{`{"a":1}`, `{"b":2,"c":3}`}, []string{`{}`, `{"b":2}`, `{"c":3}`}},
		{`{"$or":[{"a":1},{"b":2}],"c":3}`, []string{`{"a":1,"c":3}`, `{"b":2,"c":3}`}, []string{`{"a":1}`, `{"c":3}`}},
		{`{"$or":[{"$and":[{"a":1},{"$not":{"b":2}}]},{"c":{"$gt":0}}]}`, []string{`{"a":1}`, `{"a":1,"b":3}`, `{"c":1}`}, []string{`{"a":1,"b":2}`, `{"c":0}`}},
		// Paths.
		{`{"customer.country":"NL"}`, []string{`{"customer":{"country":"NL"}}`, `{"customer":[{"country":"BE"},{"country":"NL"}]}`, `{"customer":[[{"country":["NL"]}]]}`}, []string{`{"customer.country":"NL"}`, `{"customer":{"country":{"x":"NL"}}}`, `{"customer":"NL"}`}},
		{`{"customer":{"country":"NL","address":{"zip":{"$prefix":"10"}}}}`, []string{`{"customer":{"country":"NL","address":{"zip":"1012"}}}`}, []string{`{"customer":{"country":"NL"}}`, `{"customer":{"address":{"zip":"1012"}}}`}},
		{`{"a":{"b.c":1}}`, []string{`{"a":{"b":{"c":1}}}`}, []string{`{"a":{"b.c":1}}`}},
		{`{"0":1}`, []string{`{"0":1}`}, []string{`{"a":1}`}},
		{`{"a.0":1}`, []string{`{"a":{"0":1}}`, `{"a":[{"0":1}]}`}, []string{`{"a":[1]}`}}, // only a pointer counts elements
		{`{"/customer.country":"NL"}`, []string{`{"customer.country":"NL"}`}, []string{`{"customer":{"country":"NL"}}`}},
		{`{"/a/1":2}`, []string{`{"a":[1,2]}`, `{"a":{"1":2}}`}, []string{`{"a":[2,1]}`, `{"a":[[2],[1]]}`, `{"a":[2]}`, `{"a":2}`, `{"a":[1,[2]]}`}},
		{`{"/a/01":2}`, []string{`{"a":{"01":2}}`}, []string{`{"a":[1,2]}`}},
		{`{"/a/-":2}`, []string{`{"a":{"-":2}}`}, []string{`{"a":[2]}`}},
		{`{"/a/+0":2}`, nil, []string{`{"a":[2]}`}},
		{`{"/a/99999999999999999999":2}`, nil, []string{`{"a":[2]}`}},
		{`{"/a":"x"}`, []string{`{"a":"x"}`}, []string{`{"a":["x"]}`}}, // a pointer leads to the array, not into it
		{`{"/a/1":{"$exists":true}}`, []string{`{"a":[0,null]}`, `{"a":[0,[]]}`}, []string{`{"a":[0]}`, `{"a":[]}`}},
		{`{"/a~1b/~0c":1}`, []string{`{"a/b":{"~c":1}}`}, []string{`{"a":{"b":1}}`}},
		{`{"/":1}`, []string{`{"":1}`}, []string{`{"a":1}`}},
		{`{"/$id":1}`, []string{`{"$id":1}`}, []string{`{"id":1}`}},
		{`{"/a":{"$ne":1}}`, []string{`{}`, `{"a":[1]}`}, []string{`{"a":1}`}},
		{`{"items.price":{"$gt":5}}`, []string{`{"items":[{"price":1},{"price":9}]}`}, []string{`{"items":[{"price":1},{"cost":9}]}`, `{"items":[]}`}},
	} {
		f := compile(t, x.filter)
		for _, d := range x.yes {
			if !holds(t, f, d) {
				t.Errorf("%s does not hold for %s", x.filter, d)
			}
		}
		for _, d := range x.no {
			if holds(t, f, d) {
				t.Errorf("%s holds for %s", x.filter, d)
			}
		}
	}
}

// A number may be written with an exponent of any length, and still has its place in the order.
func TestFilterHugeExponents(t *testing.T) {
	t.Parallel()
	above, below := compile(t, `{"a":{"$gt":1e999999}}`), compile(t, `{"a":{"$gt":0,"$lt":1e-999998}}`)
	for digits := 8; digits < 45; digits++ {
		for _, first := range []string{"1", "5", "9"} {
			exponent := first + strings.Repeat("9", digits)
			if huge := `{"a":1e+` + exponent + `}`; !holds(t, above, huge) || holds(t, below, huge) {
				t.Errorf("%s is not above 1e999999", huge)
			}
			if tiny := `{"a":1e-` + exponent + `}`; holds(t, above, tiny) || !holds(t, below, tiny) {
				t.Errorf("%s is not between 0 and 1e-999998", tiny)
			}
			if negative := `{"a":-1e` + exponent + `}`; holds(t, above, negative) || holds(t, below, negative) {
				t.Errorf("%s is above 0", negative)
			}
		}
	}
}

// What is no object passes nothing, not even a filter that asks for nothing to be there; and a Data that failed
// is as good as new.
func TestDataThatIsNone(t *testing.T) {
	t.Parallel()
	f := compile(t, `{"a":{"$exists":false}}`)
	var d store.Data
	if f.Match(&d) {
		t.Error("data that was not read passes")
	}
	for _, text := range []string{"", " ", "1", `"a"`, "null", `[]`, `{`, `{"b":1`, `{"b":}`, `{"b":1}}`, `{"b":1} {}`, `{"b":"` + "\xff" + `"}`, `{"b":01}`, `{b:1}`, strings.Repeat(`{"b":`, 20_000)} {
		if err := d.Read([]byte(text)); err == nil {
			t.Errorf("%.40q is read", text)
		}
		if f.Match(&d) {
			t.Errorf("%.40q passes", text)
		}
		if err := d.Read([]byte(` {"b":1} `)); err != nil || !f.Match(&d) {
			t.Errorf("after %.40q: %v", text, err)
		}
	}
}

func TestParseFilterRefuses(t *testing.T) {
	t.Parallel()
	many := func(n int, format string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = strings.ReplaceAll(format, "#", fmt.Sprint(i))
		}
		return strings.Join(parts, ",")
	}
	for _, x := range []struct {
		text    string
		pointer string
		detail  string // a part of it
	}{
		{``, "", "valid JSON"},
		{`{"a":1`, "", "valid JSON"},
		{`{"a":1}x`, "", "valid JSON"},
		{`{"a":1}{}`, "", "valid JSON"},
		{`{"a":“x”}`, "/a", "from byte 6"},
		{"{\"a\":\"\xff\"}", "/a", "valid JSON"},
		{`{"a":"\ud800"}`, "/a", "valid JSON"},
		{`null`, "", "not null"},
		{`[]`, "", "not an array"},
		{`"a"`, "", "not a string"},
		{`1`, "", "not a number"},
		{`true`, "", "not a boolean"},
		{`{}`, "", "leave it out"},
		{`{"a":"` + strings.Repeat("x", store.MaxFilterLength) + `"}`, "", "16384 bytes"},
		{`{"a":1,"a":2}`, "/a", "twice"},
		{`{"a":1,"\u0061":2}`, "/a", "twice"},
		{`{"a":{"$gt":1,"$gt":2}}`, "/a/$gt", "twice"},
		{`{"$or":[{"a":1}],"$or":[{"a":2}]}`, "/$or", "twice"},
		{`{"a":{"b":1,"b":2}}`, "/a/b", "twice"},
		{`{"a":["x"]}`, "/a", "$in"},
		{`{"a":{}}`, "/a", "$exists"},
		{`{"a":{"$gt":1,"b":2}}`, "/a", "not both"},
		{`{"a":{"$gt":"x"}}`, "/a/$gt", "no order"},
		{`{"order":{"$gt":""}}`, "/order/$gt", "RFC 3339"},
		{`{"a":{"$gte":"2026-11-21"}}`, "/a/$gte", "RFC 3339"},
		{`{"a":{"$lt":"2026-11-21T08:30:00"}}`, "/a/$lt", "RFC 3339"},
		{`{"a":{"$lte":true}}`, "/a/$lte", "not a boolean"},
		{`{"a":{"$lte":null}}`, "/a/$lte", "not null"},
		{`{"a":{"$gt":[1]}}`, "/a/$gt", "not an array"},
		{`{"a":{"$gt":1e1000001}}`, "/a/$gt", "digits"},
		{`{"a":1e-1000002}`, "/a", "digits"},
		{`{"a":1e99999999999999999999}`, "/a", "digits"},
		{`{"a":{"$eq":{}}}`, "/a/$eq", "not an object"},
		{`{"a":{"$eq":[1]}}`, "/a/$eq", "not an array"},
		{`{"a":{"$ne":{"b":1}}}`, "/a/$ne", "not an object"},
		{`{"a":{"$in":"x"}}`, "/a/$in", "not a string"},
		{`{"a":{"$in":[]}}`, "/a/$in", "1 to 1000"},
		{`{"a":{"$nin":[]}}`, "/a/$nin", "1 to 1000"},
		{`{"a":{"$in":[` + many(1001, "#") + `]}}`, "/a/$in", "has 1001"},
		{`{"a":{"$in":[1,[2]]}}`, "/a/$in/1", "not an array"},
		{`{"a":{"$nin":[{"b":1}]}}`, "/a/$nin/0", "not an object"},
		{`{"a":{"$prefix":1}}`, "/a/$prefix", "not a number"},
		{`{"a":{"$prefix":""}}`, "/a/$prefix", "not be empty"},
		{`{"a":{"$suffix":null}}`, "/a/$suffix", "not null"},
		{`{"a":{"$suffix":""}}`, "/a/$suffix", "not be empty"},
		{`{"a":{"$exists":1}}`, "/a/$exists", "true or false"},
		{`{"a":{"$exists":"true"}}`, "/a/$exists", "true or false"},
		{`{"a":{"$not":[1]}}`, "/a/$not", "$nin"},
		{`{"a":{"$not":{}}}`, "/a/$not", "operators"},
		{`{"a":{"$not":{"b":1}}}`, "/a/$not", "operators"},
		{`{"a":{"$not":{"$gt":1,"b":1}}}`, "/a/$not", "operators"},
		{`{"a":{"$not":{"$gt":"x"}}}`, "/a/$not/$gt", "no order"},
		{`{"a":{"$regex":"x"}}`, "/a/$regex", "not known"},
		{`{"a":{"$GT":1}}`, "/a/$GT", "not known"},
		{`{"a":{"$":1}}`, "/a/$", "not known"},
		{`{"a":{"$or":[{"b":1}]}}`, "/a/$or", "around fields"},
		{`{"a":{"$and":[]}}`, "/a/$and", "around fields"},
		{`{"$gt":1}`, "/$gt", "$and, $or or $not"},
		{`{"$id":1}`, "/$id", "JSON Pointer"},
		{`{"$and":{"a":1}}`, "/$and", "not an object"},
		{`{"$and":[]}`, "/$and", "1 to 100"},
		{`{"$or":[]}`, "/$or", "1 to 100"},
		{`{"$or":[` + many(101, `{"a":#}`) + `]}`, "/$or", "has 101"},
		{`{"$or":[1]}`, "/$or/0", "not a number"},
		{`{"$or":[{"a":1},{}]}`, "/$or/1", "leave it out"},
		{`{"$not":{}}`, "/$not", "leave it out"},
		{`{"$not":1}`, "/$not", "not a number"},
		{`{"$not":[{"a":1}]}`, "/$not", "not an array"},
		{`{"$or":[{"a":1},{"a~/b":{"$gt":"x"}}]}`, "/$or/1/a~0~1b/$gt", "no order"},
		{`{"":1}`, "/", "joined by single dots"},
		{`{"a..b":1}`, "/a..b", "joined by single dots"},
		{`{".a":1}`, "/.a", "joined by single dots"},
		{`{"a.":1}`, "/a.", "joined by single dots"},
		{`{"a":{"":1}}`, "/a/", "joined by single dots"},
		{`{"/a~2":1}`, "/~1a~02", "RFC 6901"},
		{`{"/a~":1}`, "/~1a~0", "RFC 6901"},
		{`{"a":{"/b":1}}`, "/a/~1b", "JSON Pointer"},
		{`{"/a":{"b":1}}`, "/~1a", "one name"},
		{`{"` + strings.Repeat("a", 257) + `":1}`, "/" + strings.Repeat("a", 257), "256 bytes"},
		{`{"` + strings.Repeat("a", 200) + `":{"` + strings.Repeat("b", 56) + `":1}}`, "/" + strings.Repeat("a", 200) + "/" + strings.Repeat("b", 56), "256 bytes"},
		{`{"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a":1}`, "/a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a", "16 names"},
		{`{"/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a":1}`, "/" + strings.Repeat("~1a", 17), "16 names"},
		{`{"a.a.a.a.a.a.a.a":{"b.b.b.b.b.b.b.b.b":1}}`, "/a.a.a.a.a.a.a.a/b.b.b.b.b.b.b.b.b", "with the names around"},
		{strings.Repeat(`{"$not":`, 16) + `{"a":1}` + strings.Repeat("}", 16), strings.Repeat("/$not", 16), "16 levels"},
		{`{` + many(201, `"a#":1`) + `}`, "", "200 conditions, and has 201"},
		{`{"a":{"$nin":[1],"$gt":0},"$or":[{` + many(199, `"a#":{"$ne":1}`) + `}]}`, "", "has 201"},
	} {
		f, err := store.ParseFilter([]byte(x.text))
		list, ok := errors.AsType[store.FilterErrors](err)
		if f != nil || !ok || len(list) != 1 {
			t.Errorf("%.100s: got %v, %v", x.text, f, err)
			continue
		}
		if list[0].Pointer != x.pointer || !strings.Contains(list[0].Detail, x.detail) {
			t.Errorf("%.100s: got %q at %q, want %q at %q", x.text, list[0].Detail, list[0].Pointer, x.detail, x.pointer)
		}
		if d := list[0].Detail; !strings.HasPrefix(d, "must ") && !strings.HasPrefix(d, "is ") {
			t.Errorf("%.100s: the detail does not follow a name: %q", x.text, d)
		}
		if !strings.Contains(err.Error(), list[0].Detail) {
			t.Errorf("%.100s: the text has not the detail: %v", x.text, err)
		}
	}
}

// All that is wrong comes at once, in order, up to a bound.
func TestParseFilterFindsAll(t *testing.T) {
	t.Parallel()
	_, err := store.ParseFilter([]byte(`{"a":[1],"b":{"$gt":"x","$in":[],"$x":1},"$or":[{},{"c":{"$exists":0}}]}`))
	list, _ := errors.AsType[store.FilterErrors](err)
	var got []string
	for _, e := range list {
		got = append(got, e.Pointer)
	}
	if want := "/a /b/$gt /b/$in /b/$x /$or/0 /$or/1/c/$exists"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, " "), want)
	}
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, `,"a%d":[]`, i)
	}
	_, err = store.ParseFilter([]byte("{" + b.String()[1:] + "}"))
	if list, _ := errors.AsType[store.FilterErrors](err); len(list) != store.MaxFilterErrors {
		t.Errorf("%d errors, want %d", len(list), store.MaxFilterErrors)
	}
}

// At each limit a filter is still taken.
func TestParseFilterTakesTheLimits(t *testing.T) {
	t.Parallel()
	parts := func(n int, format string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = strings.ReplaceAll(format, "#", fmt.Sprint(i))
		}
		return strings.Join(list, ",")
	}
	for _, text := range []string{
		`{"a":"` + strings.Repeat("x", store.MaxFilterLength-8) + `"}`,
		`{` + parts(200, `"a#":1`) + `}`,
		`{"a":{"$in":[` + parts(1000, "#") + `]}}`,
		`{"$or":[` + parts(100, `{"a":#}`) + `]}`,
		`{"` + strings.Repeat("a", 256) + `":1}`,
		`{"` + strings.Repeat("a", 200) + `":{"` + strings.Repeat("b", 55) + `":1}}`,
		`{"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a":1}`,
		`{"/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a":1}`,
		strings.Repeat(`{"$not":`, 15) + `{"a":1}` + strings.Repeat("}", 15),
		`{"a":{"$lt":1e999999,"$gt":-1e-900000}}`,
	} {
		f := compile(t, text)
		if f.Text() != text {
			t.Errorf("%.60s came back as %.60s", text, f.Text())
		}
	}
}

func TestFilterText(t *testing.T) {
	t.Parallel()
	for _, x := range [][2]string{
		{" {\n\t\"a\" : 1.50 ,\r\"b\":{ \"$in\":[ 1E+2, \"\\u0041 \\/ \" ]} } ", `{"a":1.50,"b":{"$in":[1E+2,"\u0041 \/ "]}}`},
		{`{"z":1,"a":-0.0,"m":123456789012345678901234567890}`, `{"z":1,"a":-0.0,"m":123456789012345678901234567890}`},
	} {
		given := []byte(x[0])
		f, err := store.ParseFilter(given)
		if err != nil {
			t.Fatal(err)
		}
		clear(given) // the filter is its own
		if f.Text() != x[1] {
			t.Errorf("%s came back as %s", x[0], f.Text())
		}
	}
}

// eventData is data of about 1 KiB, such as an order.
func eventData(customer int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"customer":{"id":"c%d","country":"NL","name":"Jo Q. Public","vip":false},"amount":%d.50,"currency":"EUR","items":[`, customer, customer%1000)
	for i := range 8 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"sku":"sku-%d-%d","title":"A thing of some kind","quantity":%d,"price":12.25,"tags":["new","blue"]}`, customer, i, i+1)
	}
	b.WriteString(`],"placedAt":"2026-11-21T08:30:00.123Z","note":"left at the \"back\" door"}`)
	return b.String()
}

func TestMatchAllocatesNothing(t *testing.T) {
	f := compile(t, `{"customer.id":{"$in":["c1","c2","c7"]},"amount":{"$gte":7,"$lt":1e3},"placedAt":{"$gt":"2026-01-01T00:00:00Z"},"/items/0/quantity":1,"$or":[{"items.tags":"blue"},{"x":null}],"note":{"$suffix":"door","$ne":"x"}}`)
	text := []byte(eventData(7))
	var d store.Data
	if got := testing.AllocsPerRun(100, func() {
		if err := d.Read(text); err != nil || !f.Match(&d) {
			t.Fatalf("it does not hold (%v)", err)
		}
	}); got > 1 { // the one text with escapes
		t.Errorf("%v allocations, want 1", got)
	}
}

func BenchmarkDataRead(b *testing.B) {
	text := []byte(eventData(7))
	var d store.Data
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Read(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	f := compile(b, `{"customer.id":"c7","amount":{"$gte":7,"$lt":1e3},"items.tags":"blue"}`)
	var d store.Data
	if err := d.Read([]byte(eventData(7))); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !f.Match(&d) {
			b.Fatal("it does not hold")
		}
	}
}

func BenchmarkParseFilter(b *testing.B) {
	text := []byte(`{"customer.country":"NL","currency":{"$in":["EUR","USD"]},"amount":{"$gte":1,"$lt":2e3},"customer.id":"c7"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.ParseFilter(text); err != nil {
			b.Fatal(err)
		}
	}
}
