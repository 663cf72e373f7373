package store

import (
	"fmt"
	"strings"
	"testing"
)

// How many filters an event asks is what a choice costs; it cannot be seen from outside.
func TestFilterIndexAsksFew(t *testing.T) {
	t.Parallel()
	const n = 5000
	for _, x := range []struct {
		name, filter string // with the number for #
		data         string
		most         int
	}{
		{"one value", `{"a":"v#"}`, `{"a":"v77"}`, 1},
		{"no value", `{"a":"v#"}`, `{"b":"v77"}`, 0},
		{"a value all share stands first", `{"shared":1,"also":{"$in":[true,false]},"a":"v#"}`, `{"shared":1,"also":true,"a":"v77"}`, 6},
		{"a value all share stands last", `{"a":"v#","shared":1}`, `{"shared":1,"a":"v77"}`, 2},
		{"in and", `{"$and":[{"b":{"$gt":1}},{"a":{"$in":["v#","w#"]}}]}`, `{"b":2,"a":"w77"}`, 1},
		{"the same value many times", `{"a":"v#"}`, `{"a":[` + strings.Repeat(`"v77",`, 999) + `"v77"]}`, 1},
		{"pointers", `{"/a/0":"v#"}`, `{"a":["v77","v78"]}`, 1},
		{"an array beside the pointers", `{"/b/#":"v"}`, `{"a":["v","v"],"b":[` + strings.Repeat(`"x",`, 20) + `"v"]}`, 1},
	} {
		var m Matcher
		for i := range n {
			f, err := ParseFilter([]byte(strings.ReplaceAll(x.filter, "#", fmt.Sprint(i))))
			if err != nil {
				t.Fatal(err)
			}
			m.Replace(nil, &Subscription{ID: SubscriptionID{byte(i >> 8), byte(i)}, State: StateActive, Filter: f})
		}
		c := &choice{}
		if err := c.data.Read([]byte(x.data)); err != nil {
			t.Fatal(err)
		}
		m.find("", "e", "", c, nil)
		if got := len(c.candidates); got > maxUnindexed+x.most || x.most > 0 && got == maxUnindexed {
			t.Errorf("%s: %d filters are asked beside the first %d, want at most %d", x.name, got-maxUnindexed, maxUnindexed, x.most)
		}
	}
}

// A check has to see an index that would not find what it holds.
func TestFilterIndexIsChecked(t *testing.T) {
	t.Parallel()
	build := func() *Matcher {
		m := &Matcher{}
		for i := range 2 * maxUnindexed {
			f, err := ParseFilter(fmt.Appendf(nil, `{"a":{"$in":["v%d","w%d"]},"/b/0":1}`, i, i))
			if err != nil {
				t.Fatal(err)
			}
			m.Replace(nil, &Subscription{ID: SubscriptionID{byte(i)}, State: StateActive, Filter: f})
		}
		return m
	}
	index := func(m *Matcher) *filterIndex { return m.lists[matchKey{}].filtered }
	last := newHash('"').bytes([]byte(fmt.Sprintf("v%d", 2*maxUnindexed-1)))
	for name, spoil := range map[string]func(x *filterIndex){
		"a place is missing":    func(x *filterIndex) { delete(x.dotted.names["a"].values, uint64(last)) },
		"a place is empty":      func(x *filterIndex) { x.dotted.names["a"].values[uint64(last)].list = nil },
		"a place is wrong":      func(x *filterIndex) { v := x.dotted.names["a"].values; v[1] = v[uint64(last)]; delete(v, uint64(last)) },
		"a place too many":      func(x *filterIndex) { v := x.dotted.names["a"].values; v[1] = &bucket{list: v[uint64(last)].list} },
		"the branch is renamed": func(x *filterIndex) { x.dotted.names["z"] = x.dotted.names["a"]; delete(x.dotted.names, "a") },
		"the branch is another": func(x *filterIndex) { x.dotted, x.pointers = x.pointers, x.dotted },
		"the rest is unsorted":  func(x *filterIndex) { x.rest[0], x.rest[1] = x.rest[1], x.rest[0] },
		"the rest holds one more": func(x *filterIndex) {
			x.rest = append(x.rest, x.dotted.names["a"].values[uint64(last)].list[0])
		},
	} {
		m := build()
		if index(m).dotted.names["a"].values[uint64(last)] == nil {
			t.Fatal("the last is not indexed under its value")
		}
		if !m.Equal(build()) {
			t.Fatal("two that are alike differ")
		}
		spoil(index(m))
		if m.Equal(build()) || build().Equal(m) || m.Equal(m) {
			t.Errorf("%s, and it is not seen", name)
		}
	}
}
