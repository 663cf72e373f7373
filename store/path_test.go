package store_test

import (
	"strings"
	"testing"

	"herald/store"
)

func parsePath(t testing.TB, text string) store.Path {
	t.Helper()
	p, err := store.ParsePath(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return p
}

func TestParsePath(t *testing.T) {
	t.Parallel()
	checkTable(t, func(s string) error {
		p, err := store.ParsePath(s)
		if err == nil && p.String() != s {
			t.Errorf("%q comes back as %q", s, p.String())
		}
		return err
	}, []string{
		"a", "a.b", "customer.country", "a b.ü", "$a", "a/b", "a~2", "/", "//", "/a", "/a.b/0", "/~0~1", "/a~1b", strings.Repeat("a", 256), strings.Repeat("a.", 15) + "a", strings.Repeat("/a", 16),
	}, []string{
		"", ".", "a.", ".a", "a..b", "/~", "/a~", "/~2", "/~01~", "/a~/b", strings.Repeat("a", 257), strings.Repeat("a.", 16) + "a", strings.Repeat("/a", 17),
	})
}

func TestPathKey(t *testing.T) {
	t.Parallel()
	// In each row the data on the left have one key, and each of the data on the right another.
	for _, x := range []struct {
		path         string
		same, others []string
	}{
		{"a", []string{`{"a":1}`, `{"a":1.0}`, `{"a":10e-1,"b":2}`, ` { "a" : 0.1e1 } `}, []string{`{"a":2}`, `{"a":"1"}`, `{"a":-1}`, `{"a":10}`, `{"a":[1]}`, `{}`, `{"a":true}`}},
		{"a", []string{`{"a":123456789012345678901}`, `{"a":123456789012345678901.0}`}, []string{`{"a":123456789012345678902}`, `{"a":1.23456789012345678901}`}},
		{"a", []string{`{"a":0}`, `{"a":-0}`, `{"a":0e9}`}, []string{`{"a":null}`, `{"a":false}`, `{"a":""}`, `{"a":1}`}},
		{"a", []string{`{"a":"x"}`, `{"a":"\u0078"}`}, []string{`{"a":"y"}`, `{"a":"X"}`, `{"a":""}`, `{"a":["x"]}`, `{"a":{"x":1}}`}},
		{"a", []string{`{"a":null}`}, []string{`{}`, `{"a":[]}`, `{"a":{}}`, `{"a":0}`, `{"a":"null"}`}},
		{"a", []string{`{"a":{"b":1,"c":[2]}}`, `{"a":{"c":[2.0],"b":1}}`}, []string{`{"a":{"b":[2],"c":1}}`, `{"a":{"b":1}}`, `{"a":{"b":1,"c":2}}`}},
		{"a", []string{`{"a":[1,2]}`, `{"a":[1.0,2]}`}, []string{`{"a":[2,1]}`, `{"a":[1,2,3]}`, `{"a":[[1,2]]}`, `{"a":[12]}`}},
		{"a.b", []string{`{"a":{"b":1}}`, `{"a":[{"b":1}]}`, `{"a":[{"c":1},{"b":1},3]}`}, []string{`{"a":[{"b":1},{"b":1}]}`, `{"a.b":1}`, `{"a":1}`}},
		{"a.b", []string{`{"a":[{"b":1},{"b":2}]}`}, []string{`{"a":[{"b":2},{"b":1}]}`, `{"a":[{"b":1}]}`}},
		{"/a.b", []string{`{"a.b":1}`}, []string{`{"a":{"b":1}}`}},
		{"/a/1", []string{`{"a":[0,"x"]}`, `{"a":["y","x","z"]}`, `{"a":{"1":"x"}}`}, []string{`{"a":["x"]}`, `{"a":[0,"y"]}`, `{"a":"x"}`}},
		// Nothing found is one key, as is what is no object.
		{"a.b", []string{`{}`, `{"a":1}`, `{"a":{}}`, `{"a":[]}`, `{"b":1}`, ``, `nonsense`, `[1]`, `{"a":{"b":1}`}, []string{`{"a":{"b":null}}`, `{"a":{"b":0}}`}},
		{"/a/b", []string{`{}`, `{"a":[1]}`, `"a"`}, []string{`{"a":{"b":null}}`}},
	} {
		p := parsePath(t, x.path)
		key := p.Key([]byte(x.same[0]))
		for _, d := range x.same {
			if got := p.Key([]byte(d)); got != key {
				t.Errorf("%s: %s and %s differ", x.path, x.same[0], d)
			}
		}
		for _, d := range x.others {
			if got := p.Key([]byte(d)); got == key {
				t.Errorf("%s: %s and %s have the same key", x.path, x.same[0], d)
			}
		}
	}
}

// A key may be stored, so it is the same for ever.
func TestPathKeyIsFixed(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		data string
		want uint64
	}{
		{`{}`, 0},
		{`{"a":null}`, 12638194897137039473},
		{`{"a":true}`, 12638201494206808739},
		{`{"a":"x"}`, 561907649492571847},
		{`{"a":12.50}`, 3048539790534534933},
		{`{"a":-1e100}`, 13701357827656501341},
		{`{"a":[1,{"b":2,"c":"d"}]}`, 2804571432948144063},
	} {
		if got := parsePath(t, "a").Key([]byte(x.data)); got != x.want {
			t.Errorf("%s has the key %d, not %d", x.data, got, x.want)
		}
	}
}

func BenchmarkPathKey(b *testing.B) {
	p := parsePath(b, "customer.id")
	data := []byte(eventData(7))
	b.ReportAllocs()
	for b.Loop() {
		if p.Key(data) == 0 {
			b.Fatal("nothing found")
		}
	}
}
