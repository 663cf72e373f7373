package queue

import (
	"strings"
	"testing"
)

const (
	sampleID     = "0af7651916cd43dd8448eb211c80319c"
	sampleParent = "00-" + sampleID + "-b7ad6b7169203331-01"
)

func TestTraceParent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value string
		valid bool
	}{
		"of the specification":            {sampleParent, true},
		"not sampled":                     {sampleParent[:53] + "00", true},
		"with flags not known yet":        {sampleParent[:53] + "ff", true},
		"with ids that are zero but once": {"00-00000000000000000000000000000001-0000000000000001-00", true},
		"empty":                           {"", false},
		"cut short":                       {sampleParent[:54], false},
		"cut after a dash":                {sampleParent[:53], false},
		"too long for version 00":         {sampleParent + "0", false},
		"version 00 with more":            {sampleParent + "-00", false},
		"version 00 with a dash":          {sampleParent + "-", false},
		"trace id zero":                   {"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", false},
		"parent id zero":                  {"00-" + sampleID + "-0000000000000000-01", false},
		"trace id in upper case":          {strings.Replace(sampleParent, "af", "AF", 1), false},
		"parent id in upper case":         {strings.Replace(sampleParent, "b7ad", "B7AD", 1), false},
		"flags in upper case":             {sampleParent[:53] + "0A", false},
		"version in upper case":           {"CC" + sampleParent[2:], false},
		"no hex in the trace id":          {strings.Replace(sampleParent, "651", "6x1", 1), false},
		"no hex in the parent id":         {strings.Replace(sampleParent, "b7ad", "b7.d", 1), false},
		"no hex in the flags":             {sampleParent[:53] + "0.", false},
		"no hex in the version":           {".0" + sampleParent[2:], false},
		"version ff":                      {"ff" + sampleParent[2:], false},
		"another delimiter":               {strings.Replace(sampleParent, "-b7", "_b7", 1), false},
		"a space before":                  {" " + sampleParent, false},
		"a space behind":                  {sampleParent + " ", false},
		"a later version":                 {"cc" + sampleParent[2:], true},
		"a later version with more":       {"cc" + sampleParent[2:] + "-what-the-future-brings", true},
		"a later version with a dash":     {"cc" + sampleParent[2:] + "-", true},
		"a later version without a dash":  {"cc" + sampleParent[2:] + ".what", false},
		"a later version, cut short":      {"cc" + sampleParent[2:54], false},
		"a later version with a space":    {"cc" + sampleParent[2:] + "-a b", false},
		"a later version, not of ASCII":   {"cc" + sampleParent[2:] + "-é", false},
		"a later version, trace id zero":  {"cc-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", false},
		"a later version, very long":      {"cc" + sampleParent[2:] + "-" + strings.Repeat("x", maxTraceParent-56), true},
		"a later version, too long":       {"cc" + sampleParent[2:] + "-" + strings.Repeat("x", maxTraceParent-55), false},
	} {
		got := ParseTrace([]string{c.value}, nil)
		if (got != nil) != c.valid {
			t.Errorf("%s: %q gives %+v", name, c.value, got)
			continue
		}
		if got != nil && (got.Parent != c.value || len(got.ID()) != 32 || !strings.Contains(c.value, "-"+got.ID()+"-")) {
			t.Errorf("%s: %q became %+v with the id %q", name, c.value, got, got.ID())
		}
	}
	if got := ParseTrace([]string{sampleParent, sampleParent}, nil); got != nil {
		t.Errorf("two headers give %+v", got)
	}
	if got := ParseTrace(nil, []string{"a=b"}); got != nil || got.ID() != "" {
		t.Errorf("a tracestate alone gives %+v", got)
	}
	if got := ParseTrace([]string{"00-" + sampleID}, []string{"a=b"}); got != nil {
		t.Errorf("a tracestate beside an invalid traceparent gives %+v", got)
	}
}

func TestTraceState(t *testing.T) {
	t.Parallel()
	members := func(n int) string { return strings.TrimSuffix(strings.Repeat("k=v,", n), ",") }
	for name, c := range map[string]struct {
		values []string
		want   string
	}{
		"none":                           {nil, ""},
		"one":                            {[]string{"congo=t61rcWkgMzE"}, "congo=t61rcWkgMzE"},
		"two":                            {[]string{"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"},
		"in two headers":                 {[]string{"a=1,b=2", "c=3"}, "a=1,b=2,c=3"},
		"white space around members":     {[]string{" a=1 \t, b=2 "}, "a=1 \t, b=2"},
		"a key of a tenant":              {[]string{"fw529a3039@dt=FfwgEdQ"}, "fw529a3039@dt=FfwgEdQ"},
		"a key that begins with a digit": {[]string{"0a=1"}, "0a=1"},
		"every character of a key":       {[]string{"a0_-*/@z=1"}, "a0_-*/@z=1"},
		"every kind of value":            {[]string{"a= !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~"}, "a= !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~"},
		"the same key twice":             {[]string{"a=1,a=2"}, "a=1,a=2"},
		"empty members":                  {[]string{"a=1,,b=2,"}, "a=1,,b=2,"},
		"an empty header beside one":     {[]string{"", "a=1"}, ",a=1"},
		"32 members":                     {[]string{members(32)}, members(32)},
		"a key of 256":                   {[]string{strings.Repeat("k", 256) + "=v"}, strings.Repeat("k", 256) + "=v"},
		"a value of 256":                 {[]string{"k=" + strings.Repeat("v", 256)}, "k=" + strings.Repeat("v", 256)},
		"512 characters":                 {[]string{"k=" + strings.Repeat("v", 256) + ",l=" + strings.Repeat("v", 251)}, "k=" + strings.Repeat("v", 256) + ",l=" + strings.Repeat("v", 251)},
		"513 characters":                 {[]string{"k=" + strings.Repeat("v", 256) + ",l=" + strings.Repeat("v", 252)}, ""},
		"33 members":                     {[]string{members(33)}, ""},
		"33 members in two headers":      {[]string{members(32), "k=v"}, ""},
		"a key of 257":                   {[]string{strings.Repeat("k", 257) + "=v"}, ""},
		"a value of 257":                 {[]string{"k=" + strings.Repeat("v", 257)}, ""},
		"empty":                          {[]string{""}, ""},
		"nothing but commas":             {[]string{", ,"}, ""},
		"no equals sign":                 {[]string{"a"}, ""},
		"two equals signs":               {[]string{"a=b=c"}, ""},
		"no key":                         {[]string{"=b"}, ""},
		"no value":                       {[]string{"a=,b=1"}, ""},
		"a value of spaces":              {[]string{"a=  "}, ""},
		"upper case in a key":            {[]string{"A=1"}, ""},
		"a space behind a key":           {[]string{"a =1"}, ""},
		"a dot in a key":                 {[]string{"a.b=1"}, ""},
		"a key that begins with @":       {[]string{"@a=1"}, ""},
		"a key that begins with a dash":  {[]string{"-a=1"}, ""},
		"a tab in a value":               {[]string{"a=1\t2"}, ""},
		"not ASCII":                      {[]string{"a=é"}, ""},
		"one bad member of two":          {[]string{"a=1,b"}, ""},
	} {
		got := ParseTrace([]string{sampleParent}, c.values)
		if got == nil || got.Parent != sampleParent || got.State != c.want {
			t.Errorf("%s: %q gives %+v", name, c.values, got)
		}
	}
}

func TestPushTrace(t *testing.T) {
	t.Parallel()
	other := strings.Replace(sampleParent, "b7ad", "b7ae", 1)
	of := func(parent, state string) *Event { return &Event{Trace: &Trace{parent, state}} }
	for name, c := range map[string]struct {
		events []*Event
		want   *Trace
	}{
		"no records":             {nil, nil},
		"one without":            {[]*Event{{}}, nil},
		"one":                    {[]*Event{of(sampleParent, "a=1")}, &Trace{sampleParent, "a=1"}},
		"all the same":           {[]*Event{of(sampleParent, "a=1"), of(sampleParent, "a=1")}, &Trace{sampleParent, "a=1"}},
		"another tracestate":     {[]*Event{of(sampleParent, "a=1"), of(sampleParent, "a=2"), of(sampleParent, "a=1")}, &Trace{sampleParent, ""}},
		"another traceparent":    {[]*Event{of(sampleParent, ""), of(other, "")}, nil},
		"one without, the last":  {[]*Event{of(sampleParent, ""), {}}, nil},
		"one without, the first": {[]*Event{{}, of(sampleParent, "")}, nil},
	} {
		p := Push{Events: c.events}
		got := p.Trace()
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func FuzzTrace(f *testing.F) {
	f.Add(sampleParent, "a=1", "b=2")
	f.Add("cc"+sampleParent[2:]+"-x", "a=1, ", ",")
	f.Add(strings.ToUpper(sampleParent), "", "")
	f.Fuzz(func(t *testing.T, parent, state, more string) {
		got := ParseTrace([]string{parent}, []string{state, more})
		if got == nil {
			return
		}
		// What is passed on is what came, can stand in a header, and is read the same by the next.
		if got.Parent != parent || len(got.ID()) != 32 || got.ID() != strings.ToLower(got.ID()) {
			t.Errorf("%q became %+v", parent, got)
		}
		if got.State != "" && !strings.Contains(state+","+more, got.State) {
			t.Errorf("%q and %q became %q", state, more, got.State)
		}
		for _, s := range []string{got.Parent, got.State} {
			if s != strings.TrimSpace(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }) {
				t.Errorf("%q is no value of a header", s)
			}
		}
		if again := ParseTrace([]string{got.Parent}, []string{got.State}); again == nil || *again != *got {
			t.Errorf("%+v became %+v", got, again)
		}
	})
}
