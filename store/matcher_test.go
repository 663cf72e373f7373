package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"herald/store"
)

// long is the longest name.
var long = strings.Repeat("a", store.MaxNameLength)

// checkTable runs one of the rules over a table of good and bad values. Every refusal has to say what would
// be right, so an error without "must" fails as well.
func checkTable(t *testing.T, check func(string) error, good, bad []string) {
	t.Helper()
	for _, s := range good {
		if err := check(s); err != nil {
			t.Errorf("%q is refused: %v", s, err)
		}
	}
	for _, s := range bad {
		if err := check(s); err == nil {
			t.Errorf("%q is accepted", s)
		} else if !strings.Contains(err.Error(), "must") {
			t.Errorf("%q: the error does not say what would be right: %v", s, err)
		}
	}
}

func TestCheckEventType(t *testing.T) {
	t.Parallel()
	checkTable(t, store.CheckEventType, []string{
		"task", "task.create", "a.b.c.d", "A_b-9.Z", "0", "-", "_", "herald.ping", long,
	}, []string{
		"", ".", "..", "task.", ".task", "task..create", "task create", "task.*", "*", "*.create", "tâche", "task/create",
		"task\x00", "task\n", "task,create", "a:b", "“task”", long + "a", "\xff", "task.\u200bcreate", "\u212a", // the last is a Kelvin sign, which folds to k
	})
}

func TestCheckEventPattern(t *testing.T) {
	t.Parallel()
	checkTable(t, store.CheckEventPattern, []string{
		"task", "task.create", "task.*", "*.create", "a.b.*", "*.a.b", long[:126] + ".*", "*." + long[:126], long,
	}, []string{
		"", "*", ".*", "*.", "*.*", "**", "task*", "*task", "task.*.create", "t*.create", "*.task.*", "task.**", "*.*.create",
		"task..*", "*..create", ".task.*", "task .*", "ta?k", long + "a", long[:127] + ".*", "*." + long[:127], "tâche.*",
	})
}

func TestCheckResourceType(t *testing.T) {
	t.Parallel()
	checkTable(t, store.CheckResourceType, []string{"project", "a", "A-b_c.d9", "..", long}, []string{
		"", "a b", "a/b", "*", "a*", "é", "a\x00b", "a\n", long + "a", "\xff",
	})
}

func TestCheckResourceID(t *testing.T) {
	t.Parallel()
	checkTable(t, store.CheckResourceID, []string{"1", "proj1", "a:b", "~!@#$%^&()_+-=[]{}|;'<>?,.\"\\", long}, []string{
		"", " ", "a b", "a/b", "*", "a*", "é", "a\x00", "a\x7f", "a\t", "a\u00a0b", long + "a", "\xff",
	})
}

func TestParseResource(t *testing.T) {
	t.Parallel()
	checkTable(t, func(s string) error { _, err := store.ParseResource(s); return err },
		[]string{"project/proj1", "a/b", long + "/" + long},
		[]string{"", "/", "project", "project/", "/proj1", "project/a/b", "project/*", "*/proj1", "pro ject/1", "project/1 ", "//", long + "a/b"})
	k, err := store.ParseResource("pro.ject/id:1")
	if err != nil || k != (store.ResourceKey{Type: "pro.ject", ID: "id:1"}) || k.String() != "pro.ject/id:1" {
		t.Errorf("got %+v, %v", k, err)
	}
	// Which of the two parts is wrong has to be said.
	if _, err := store.ParseResource("a b/c"); !strings.Contains(err.Error(), "type") {
		t.Errorf("a wrong type: %v", err)
	}
	if _, err := store.ParseResource("a/b c"); !strings.Contains(err.Error(), "id") {
		t.Errorf("a wrong id: %v", err)
	}
}

// pick chooses for an event whose data has no say.
func pick(m *store.Matcher, account, event, resource string) []store.SubscriptionID {
	ids, byData := m.Select(account, event, resource, nil, nil)
	if byData {
		panic("the data had a say")
	}
	return ids
}

func TestMatcherRules(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		resource string // of the subscription
		events   []string
		event    string
		on       string
		want     bool
	}{
		{"", nil, "task.create", "", true},
		{"", nil, "task.create", "project/1", true},
		{"", nil, "x", "project/1", true},
		{"project/1", nil, "task.create", "project/1", true},
		{"project/1", nil, "task.create", "project/2", false},
		{"project/1", nil, "task.create", "project/11", false},
		{"project/1", nil, "task.create", "Project/1", false},
		{"project/1", nil, "task.create", "", false},
		{"project/*", nil, "task.create", "project/1", true},
		{"project/*", nil, "task.create", "projects/1", false},
		{"project/*", nil, "task.create", "proj/1", false},
		{"project/*", nil, "task.create", "task/project", false},
		{"project/*", nil, "task.create", "", false},
		{"", []string{"task.create"}, "task.create", "", true},
		{"", []string{"task.create"}, "task.created", "", false},
		{"", []string{"task.create"}, "task", "", false},
		{"", []string{"task.create"}, "Task.create", "", false},
		{"", []string{"task"}, "task.create", "", false},
		{"", []string{"task.*"}, "task.create", "", true},
		{"", []string{"task.*"}, "task.a.b", "", true},
		{"", []string{"task.*"}, "task", "", false},
		{"", []string{"task.*"}, "tasks.create", "", false},
		{"", []string{"task.*"}, "my.task.create", "", false},
		{"", []string{"a.b.*"}, "a.b.c", "", true},
		{"", []string{"a.b.*"}, "a.b", "", false},
		{"", []string{"a.b.*"}, "a.bc.d", "", false},
		{"", []string{"*.create"}, "task.create", "", true},
		{"", []string{"*.create"}, "a.b.create", "", true},
		{"", []string{"*.create"}, "create", "", false},
		{"", []string{"*.create"}, "task.recreate", "", false},
		{"", []string{"*.create"}, "task.create.x", "", false},
		{"", []string{"*.b.c"}, "a.b.c", "", true},
		{"", []string{"*.b.c"}, "b.c", "", false},
		{"", []string{"x", "task.*"}, "task.create", "", true},
		{"", []string{"x", "y.*"}, "task.create", "", false},
		{"project/1", []string{"task.*"}, "task.create", "project/1", true},
		{"project/1", []string{"task.*"}, "list.create", "project/1", false},
		{"project/1", []string{"task.*"}, "task.create", "project/2", false},
		{"project/*", []string{"*.create", "*.delete"}, "task.delete", "project/2", true},
		// A pattern's text never matches as a type, nor a selector's as a resource.
		{"", []string{"task.*"}, "task.", "", true},
		{"", []string{"task.create"}, "task.*", "", false},
		{"project/*", nil, "task.create", "project/*", true},
	} {
		var m store.Matcher
		s := &store.Subscription{ID: store.SubscriptionID{1}, AccountID: "acme", Resource: x.resource, Events: x.events, State: store.StateActive}
		m.Replace(nil, s)
		if got := len(pick(&m, "acme", x.event, x.on)) == 1; got != x.want {
			t.Errorf("%q %q, event %s on %q: chosen %v, want %v", x.resource, x.events, x.event, x.on, got, x.want)
		}
		if len(pick(&m, "other", x.event, x.on)) != 0 {
			t.Errorf("%q %q is chosen for another account", x.resource, x.events)
		}
		m.Replace(s, nil)
		if !m.Equal(&store.Matcher{}) {
			t.Errorf("%q %q: something is left after it was taken out", x.resource, x.events)
		}
	}
}

func TestMatcherStates(t *testing.T) {
	t.Parallel()
	states := []store.State{store.StatePending, store.StateActive, store.StatePaused, store.StateDisabled}
	for _, before := range states {
		for _, after := range states {
			var m store.Matcher
			one := &store.Subscription{ID: store.SubscriptionID{1}, State: before}
			two := &store.Subscription{ID: store.SubscriptionID{1}, State: after}
			m.Replace(nil, one)
			if got := len(pick(&m, "", "x", "")) == 1; got != (before != store.StatePending) {
				t.Errorf("%s: chosen %v", before, got)
			}
			m.Replace(one, two)
			if got := len(pick(&m, "", "x", "")) == 1; got != (after != store.StatePending) {
				t.Errorf("%s, then %s: chosen %v", before, after, got)
			}
			m.Replace(two, two) // repeatable
			m.Replace(two, nil)
			m.Replace(two, nil)
			m.Replace(nil, nil)
			if !m.Equal(&store.Matcher{}) {
				t.Errorf("%s, then %s: something is left", before, after)
			}
		}
	}
}

func TestMatcherEqual(t *testing.T) {
	t.Parallel()
	sub := func(n byte, resource string) *store.Subscription {
		return &store.Subscription{ID: store.SubscriptionID{n}, Resource: resource, State: store.StateActive}
	}
	var a, b store.Matcher
	a.Replace(nil, sub(1, ""))
	a.Replace(nil, sub(2, ""))
	b.Replace(nil, sub(2, ""))
	if a.Equal(&b) || b.Equal(&a) {
		t.Error("one has a subscription more, and they are equal")
	}
	b.Replace(nil, sub(1, ""))
	if !a.Equal(&b) {
		t.Error("filled in another order they differ")
	}
	b.Replace(sub(1, ""), sub(1, "a/1"))
	if a.Equal(&b) {
		t.Error("one has another selector, and they are equal")
	}
}

// matches is the documentation of Matcher, word for word, without an index.
func matches(s *store.Subscription, account, event, resource string) bool {
	if s.AccountID != account || s.State == store.StatePending || s.State == store.StateDisabled && s.Discarding {
		return false
	}
	own := strings.HasPrefix(event, "herald.")
	if s.Resource != "" && s.Resource != resource {
		kind, isType := strings.CutSuffix(s.Resource, "*")
		if !isType || !strings.HasPrefix(resource, kind) {
			return false
		}
	}
	if len(s.Events) == 0 {
		return !own
	}
	for _, p := range s.Events {
		if own && !strings.HasPrefix(p, "herald.") {
			continue
		}
		if begin, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(event, begin) {
			return true
		}
		if end, ok := strings.CutPrefix(p, "*"); ok && strings.HasSuffix(event, end) {
			return true
		}
		if p == event {
			return true
		}
	}
	return false
}

// The words are few and begin and end alike, so that random ones meet.
var words = []string{"a", "aa", "b", "ab", "a-b", "A"}

func randomType(r *rand.Rand) string {
	parts := make([]string, 1+r.IntN(4))
	for i := range parts {
		parts[i] = words[r.IntN(len(words))]
	}
	return strings.Join(parts, ".")
}

func randomSubscription(r *rand.Rand, id byte) *store.Subscription {
	states := []store.State{store.StatePending, store.StateActive, store.StatePaused, store.StateDisabled}
	s := &store.Subscription{ID: store.SubscriptionID{id}, AccountID: words[r.IntN(2)], State: states[r.IntN(len(states))]}
	switch r.IntN(3) {
	case 0:
		s.Resource = words[r.IntN(3)] + "/*"
	case 1:
		s.Resource = words[r.IntN(3)] + "/" + words[r.IntN(3)]
	}
	for range r.IntN(5) {
		p := randomType(r)
		switch r.IntN(3) {
		case 0:
			p += ".*"
		case 1:
			p = "*." + p
		}
		if err := store.CheckEventPattern(p); err != nil {
			panic(err)
		}
		s.Events = append(s.Events, p)
	}
	return s
}

func TestMatcherAgreesWithoutIndex(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		var m store.Matcher
		subs := make(map[byte]*store.Subscription)
		hits := 0
		for range 400 {
			id := byte(r.IntN(40))
			var next *store.Subscription
			if r.IntN(4) > 0 {
				next = randomSubscription(r, id)
			}
			m.Replace(subs[id], next)
			if delete(subs, id); next != nil {
				subs[id] = next
			}
			account, event, resource := words[r.IntN(2)], randomType(r), ""
			if r.IntN(3) > 0 {
				resource = words[r.IntN(3)] + "/" + words[r.IntN(3)]
			}
			var want []byte
			for id, s := range subs {
				if matches(s, account, event, resource) {
					want = append(want, id)
				}
			}
			var got []byte
			for _, id := range pick(&m, account, event, resource) {
				got = append(got, id[0])
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s, %s on %q: got %v, want %v", seed, account, event, resource, got, want)
			}
			hits += len(want)
		}
		var fresh store.Matcher
		for _, s := range subs {
			fresh.Replace(nil, s)
		}
		if !fresh.Equal(&m) {
			t.Fatalf("seed %d: the matcher differs from one filled anew", seed)
		}
		if hits < 100 {
			t.Fatalf("seed %d: only %d matches, the test looks at nothing", seed, hits)
		}
	}
}

// Whoever asks during a Replace finds the old or the new selection, never none or both.
func TestMatcherReplaceIsOneStep(t *testing.T) {
	t.Parallel()
	var m store.Matcher
	one := &store.Subscription{ID: store.SubscriptionID{1}, Events: []string{"a.*"}, State: store.StateActive}
	two := &store.Subscription{ID: store.SubscriptionID{1}, Events: []string{"*.b"}, State: store.StatePaused}
	m.Replace(nil, one)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			var dst []store.SubscriptionID
			for {
				select {
				case <-done:
					return
				default:
				}
				if dst, _ = m.Select("", "a.b", "", nil, dst[:0]); len(dst) != 1 {
					t.Errorf("chosen %d times", len(dst))
					return
				}
			}
		})
	}
	for range 5000 {
		m.Replace(one, two)
		m.Replace(two, one)
	}
	close(done)
	wg.Wait()
}

// bigMatcher holds n subscriptions, ten of which want an event of the type and resource returned, by every
// kind of selector.
func bigMatcher(n int) (m *store.Matcher, event, resource string) {
	m = &store.Matcher{}
	add := func(i int, resource string, events ...string) {
		m.Replace(nil, &store.Subscription{
			ID: store.SubscriptionID{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, AccountID: "acme",
			Resource: resource, Events: events, State: store.StateActive,
		})
	}
	for i := range n - 10 {
		switch i % 4 {
		case 0:
			add(i, fmt.Sprintf("project/p%d", i), "task.*")
		case 1:
			add(i, fmt.Sprintf("kind%d/*", i), "*.create", "*.delete")
		case 2:
			add(i, "", fmt.Sprintf("task%d.create", i))
		case 3:
			add(i, "project/chosen", fmt.Sprintf("list%d.*", i))
		}
	}
	for i, x := range []struct{ resource, event string }{
		{"", ""},
		{"", "task.create"},
		{"", "task.*"},
		{"", "*.create"},
		{"project/*", "task.*"},
		{"project/*", "*.create"},
		{"project/chosen", ""},
		{"project/chosen", "task.create"},
		{"project/chosen", "task.*"},
		{"project/chosen", "*.create"},
	} {
		if x.event == "" {
			add(n-10+i, x.resource)
		} else {
			add(n-10+i, x.resource, x.event)
		}
	}
	return m, "task.create", "project/chosen"
}

func TestSelectAllocatesNothing(t *testing.T) {
	m, event, resource := bigMatcher(1000)
	dst := make([]store.SubscriptionID, 0, 64)
	if got := testing.AllocsPerRun(100, func() {
		if dst, _ = m.Select("acme", event, resource, nil, dst[:0]); len(dst) != 10 {
			t.Fatalf("%d chosen, want 10", len(dst))
		}
	}); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func BenchmarkSelect(b *testing.B) {
	m, event, resource := bigMatcher(100_000)
	dst := make([]store.SubscriptionID, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		if dst, _ = m.Select("acme", event, resource, nil, dst[:0]); len(dst) != 10 {
			b.Fatalf("%d chosen, want 10", len(dst))
		}
	}
}

func BenchmarkReplace(b *testing.B) {
	m, _, _ := bigMatcher(100_000)
	one := &store.Subscription{ID: store.SubscriptionID{0xff}, AccountID: "acme", Events: []string{"task.*"}, State: store.StateActive}
	two := &store.Subscription{ID: store.SubscriptionID{0xff}, AccountID: "acme", Resource: "project/chosen", State: store.StateActive}
	b.ReportAllocs()
	m.Replace(nil, one)
	for b.Loop() {
		m.Replace(one, two)
		m.Replace(two, one)
	}
}
