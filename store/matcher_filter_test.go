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

// number makes ids that ascend.
func number(i int) store.SubscriptionID {
	return store.SubscriptionID{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

// filtered returns an active subscription of acme; an empty filter is none.
func filtered(t testing.TB, id int, filter string, events ...string) *store.Subscription {
	t.Helper()
	s := &store.Subscription{ID: number(id), AccountID: "acme", Events: events, State: store.StateActive}
	if filter != "" {
		s.Filter = compile(t, filter)
	}
	return s
}

// chosen returns who gets an event without a resource, ascending.
func chosen(m *store.Matcher, event, data string) (ids []int, byData bool) {
	got, byData := m.Select("acme", event, "", []byte(data), nil)
	for _, id := range got {
		ids = append(ids, int(id[0])<<24|int(id[1])<<16|int(id[2])<<8|int(id[3]))
	}
	slices.Sort(ids)
	return ids, byData
}

func TestMatcherOwnEvents(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		events []string
		want   []string // of the events below
	}{
		{nil, []string{"task.disabled", "heralds.a.disabled", "herald"}},
		{[]string{"herald.*"}, []string{"herald.subscription.disabled", "herald.delivery.dead"}},
		{[]string{"herald.subscription.*"}, []string{"herald.subscription.disabled"}},
		{[]string{"herald.subscription.disabled"}, []string{"herald.subscription.disabled"}},
		{[]string{"*.disabled"}, []string{"task.disabled", "heralds.a.disabled"}},
		{[]string{"*.subscription.disabled"}, nil},
		{[]string{"herald"}, []string{"herald"}},
		{[]string{"*.disabled", "herald.*", "herald.delivery.dead"}, []string{"herald.subscription.disabled", "herald.delivery.dead", "task.disabled", "heralds.a.disabled"}},
	} {
		for _, filter := range []string{"", `{"a":1}`} {
			var m store.Matcher
			m.Replace(nil, filtered(t, 1, filter, x.events...))
			for _, event := range []string{"herald.subscription.disabled", "herald.delivery.dead", "task.disabled", "heralds.a.disabled", "herald"} {
				got, _ := chosen(&m, event, `{"a":1}`)
				if want := slices.Contains(x.want, event); (len(got) == 1) != want || len(got) > 1 {
					t.Errorf("%q %s: chosen %v for %s, want %v", x.events, filter, got, event, want)
				}
			}
		}
	}
}

// A disabled subscription that discards is as if it were not there; discarding means nothing in another state.
func TestMatcherDiscarding(t *testing.T) {
	t.Parallel()
	for _, state := range []store.State{store.StatePending, store.StateActive, store.StatePaused, store.StateDisabled} {
		for _, filter := range []string{"", `{"a":1}`} {
			holding := filtered(t, 1, filter)
			holding.State = state
			discarding := *holding
			discarding.Discarding = true
			var m store.Matcher
			m.Replace(nil, &discarding)
			got, _ := chosen(&m, "x", `{"a":1}`)
			if want := state == store.StateActive || state == store.StatePaused; (len(got) == 1) != want {
				t.Errorf("%s, discarding: chosen %v, want %v", state, got, want)
			}
			m.Replace(&discarding, holding)
			if got, _ := chosen(&m, "x", `{"a":1}`); (len(got) == 1) != (state != store.StatePending) {
				t.Errorf("%s, no longer discarding: chosen %v", state, got)
			}
			m.Replace(holding, &discarding)
			m.Replace(&discarding, nil)
			if !m.Equal(&store.Matcher{}) {
				t.Errorf("%s: something is left", state)
			}
		}
	}
}

func TestMatcherSaysWhenDataCounts(t *testing.T) {
	t.Parallel()
	var m store.Matcher
	m.Replace(nil, filtered(t, 1, ""))
	m.Replace(nil, filtered(t, 2, `{"a":1}`, "task.*"))
	for _, x := range []struct {
		event, data string
		ids         []int
		byData      bool
	}{
		{"list.create", `{"a":1}`, []int{1}, false},
		{"list.create", `not even read`, []int{1}, false},
		{"task.create", `{"a":1}`, []int{1, 2}, true},
		{"task.create", `{"a":2}`, []int{1}, true},
		{"task.create", `{}`, []int{1}, true},
		{"task.create", `[{"a":1}]`, []int{1}, true}, // no data passes a filter by being none
		{"task.create", ``, []int{1}, true},
	} {
		if ids, byData := chosen(&m, x.event, x.data); !slices.Equal(ids, x.ids) || byData != x.byData {
			t.Errorf("%s with %s: got %v, %v, want %v, %v", x.event, x.data, ids, byData, x.ids, x.byData)
		}
	}
	m.Replace(filtered(t, 2, `{"a":1}`, "task.*"), nil)
	if _, byData := chosen(&m, "task.create", `{"a":1}`); byData {
		t.Error("the data counts after the last filter went")
	}
}

// The data counts as well where only the resource leads to a filter.
func TestMatcherFiltersByResource(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		selector, on  string
		found, byData bool
	}{
		{"shop/*", "shop/1", true, true},
		{"shop/1", "shop/1", true, true},
		{"shop/1", "shop/2", false, false},
		{"shop/*", "", false, false},
	} {
		var m store.Matcher
		s := filtered(t, 1, `{"a":1}`)
		s.Resource = x.selector
		m.Replace(nil, s)
		for data, passes := range map[string]bool{`{"a":1}`: true, `{"a":2}`: false} {
			ids, byData := m.Select("acme", "x", x.on, []byte(data), nil)
			if (len(ids) == 1) != (x.found && passes) || byData != x.byData {
				t.Errorf("%s, event on %q with %s: %d chosen, by data %v", x.selector, x.on, data, len(ids), byData)
			}
		}
	}
}

// Beyond the filters that are asked one by one, each way to a value leads to those anchored there.
func TestMatcherAnchors(t *testing.T) {
	t.Parallel()
	const n = 60
	for _, x := range []struct {
		filter string // with the number for #
		data   string
		want   []int
	}{
		{`{"/a/#":"x"}`, `{"a":["y","x",["x"],"x"]}`, []int{1, 3}},
		{`{"/a/#":"x"}`, `{"a":{"7":"x","07":"x","8":["x"],"9":"x"}}`, []int{7, 9}},
		{`{"/a/#/b":1}`, `{"a":[{"b":1},{"b":2},{"b":1.0}],"b":1}`, []int{0, 2}},
		{`{"/#":null}`, `{"5":null,"6":0,"7":{}}`, []int{5}},
		{`{"a.#":true}`, `{"a":[{"5":true},{"6":false},true],"7":true}`, []int{5}},
		{`{"a":#}`, `{"a":[[5,6.0],[[7e0]],"8",{"a":9}]}`, []int{5, 6, 7}},
		{`{"a":{"$in":["v#","w#","v1"]}}`, `{"a":["v1","v1","v30","w30","x"]}`, nil}, // all, each once
		{`{"$and":[{"$and":[{"a":"v#"}]},{"b":{"$ne":"v3"}}]}`, `{"a":["v2","v3","v2"]}`, []int{2, 3}},
		{`{"$or":[{"a":"v#"}],"b":1}`, `{"a":"v7","b":1}`, []int{7}},
		{`{"a":{"$not":{"$ne":"v#"}}}`, `{"a":"v7"}`, []int{7}},
	} {
		m := crowded(t, n, func(i int) string { return strings.ReplaceAll(x.filter, "#", fmt.Sprint(i)) })
		want := x.want
		if want == nil {
			for i := range n {
				want = append(want, i)
			}
		}
		if got, _ := chosen(m, "e", x.data); !slices.Equal(got, want) {
			t.Errorf("%s on %s: got %v, want %v", x.filter, x.data, got, want)
		}
	}
}

func TestMatcherEqualComparesFilters(t *testing.T) {
	t.Parallel()
	var a, b store.Matcher
	for i := range 60 {
		a.Replace(nil, filtered(t, i, fmt.Sprintf(`{"x":%d,"y":{"$in":[%d,"z"]},"/q/0":1}`, i%7, i)))
		// The other way round, where other fields tell most apart.
		b.Replace(nil, filtered(t, 59-i, fmt.Sprintf(`{"x":%d,"y":{"$in":[%d,"z"]},"/q/0":1}`, (59-i)%7, 59-i)))
	}
	if !a.Equal(&b) || !b.Equal(&a) {
		t.Error("filled in another order they differ")
	}
	for _, i := range []int{0, 7, 30, 59} {
		old := filtered(t, i, fmt.Sprintf(`{"x":%d,"y":{"$in":[%d,"z"]},"/q/0":1}`, i%7, i))
		for _, other := range []string{"", fmt.Sprintf(`{"x":%d,"y":{"$in":[%d,"z"]},"/q/0":2}`, i%7, i)} {
			b.Replace(old, filtered(t, i, other))
			if a.Equal(&b) || b.Equal(&a) {
				t.Errorf("%d: one has the filter %q, and they are equal", i, other)
			}
			b.Replace(filtered(t, i, other), old)
		}
		b.Replace(old, nil)
		if a.Equal(&b) || b.Equal(&a) {
			t.Errorf("%d: one has a subscription more, and they are equal", i)
		}
		b.Replace(nil, old)
		if !a.Equal(&b) {
			t.Errorf("%d: put back, they differ", i)
		}
	}
}

// An event finds the same with the index as by asking every subscription, whatever came and went before.
func TestMatcherWithFiltersAgreesWithoutIndex(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 9))
		var m store.Matcher
		subs := make(map[int]*store.Subscription)
		hits, misses := 0, 0
		for range 800 {
			id := r.IntN(90)
			var next *store.Subscription
			if r.IntN(5) > 0 {
				next = filtered(t, id, "")
				if r.IntN(4) > 0 {
					next.Events = append(next.Events, one(r, []string{"a", "a.*", "*.b"}), one(r, []string{"a", "a.*", "*.b"}))
				}
				if r.IntN(8) > 0 {
					next.Filter = compile(t, randomFilter(r, 2))
				}
			}
			m.Replace(subs[id], next)
			if delete(subs, id); next != nil {
				subs[id] = next
			}
			event, data := one(r, []string{"a", "a.b", "c.b"}), randomData(r, 4)
			tree := readTree(t, data)
			var want []int
			for i, s := range subs {
				if matches(s, "acme", event, "") {
					if s.Filter == nil || (reference{tree}).filter(readTree(t, s.Filter.Text()).(map[string]any), "") {
						want = append(want, i)
						hits++
					} else {
						misses++
					}
				}
			}
			slices.Sort(want)
			if got, _ := chosen(&m, event, data); !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s with %s: got %v, want %v", seed, event, data, got, want)
			}
		}
		var fresh store.Matcher
		for _, s := range subs {
			fresh.Replace(nil, s)
		}
		if !fresh.Equal(&m) {
			t.Fatalf("seed %d: the matcher differs from one filled anew", seed)
		}
		for _, s := range subs {
			m.Replace(s, nil)
		}
		if !m.Equal(&store.Matcher{}) {
			t.Fatalf("seed %d: something is left", seed)
		}
		if hits < 500 || misses < 500 {
			t.Fatalf("seed %d: %d hits and %d misses, the test looks at little", seed, hits, misses)
		}
	}
}

// Whoever asks during a Replace finds the old or the new filter, never none or both.
func TestMatcherReplaceOfFiltersIsOneStep(t *testing.T) {
	t.Parallel()
	var m store.Matcher
	for i := range 40 { // beyond those that are not indexed
		m.Replace(nil, filtered(t, 100+i, fmt.Sprintf(`{"a":"other%d"}`, i)))
	}
	one := filtered(t, 1, `{"a":"x"}`, "a.*")
	two := filtered(t, 1, `{"b":{"$in":["y","z"]}}`, "*.b")
	m.Replace(nil, one)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if ids, _ := chosen(&m, "a.b", `{"a":["x","x"],"b":["y","z"]}`); len(ids) != 1 {
					t.Errorf("chosen %v", ids)
					return
				}
			}
		})
	}
	for range 3000 {
		m.Replace(one, two)
		m.Replace(two, one)
	}
	close(done)
	wg.Wait()
}

// crowded holds n subscriptions of acme without another selector than the filter the function returns.
func crowded(t testing.TB, n int, filter func(i int) string) *store.Matcher {
	var m store.Matcher
	for i := range n {
		m.Replace(nil, filtered(t, i, filter(i)))
	}
	return &m
}

// crowds are matchers of n subscriptions by filter, of which an event of customer c7 is for ten.
func crowds(t testing.TB, n int) map[string]*store.Matcher {
	groups := n / 10
	return map[string]*store.Matcher{
		"equality": crowded(t, n, func(i int) string { return fmt.Sprintf(`{"customer.id":"c%d"}`, i%groups) }),
		"mixed": crowded(t, n, func(i int) string {
			// What all share stands first, and does not make the choice slow.
			return fmt.Sprintf(`{"customer.country":"NL","currency":{"$in":["EUR","USD"]},"amount":{"$gte":1,"$lt":2e3},"customer.id":"c%d"}`, i%groups)
		}),
		"in": crowded(t, n, func(i int) string {
			return fmt.Sprintf(`{"$and":[{"items.quantity":{"$gt":7}},{"customer":{"id":{"$in":["c%d","d%d","e%d"]}}}]}`, i%groups, i, i)
		}),
	}
}

func TestSelectByFilterAllocatesNothing(t *testing.T) {
	for name, m := range crowds(t, 2000) {
		dst := make([]store.SubscriptionID, 0, 64)
		data := []byte(strings.ReplaceAll(eventData(7), `\"`, "")) // an escape allocates
		choose := func() {
			var byData bool
			if dst, byData = m.Select("acme", "order.placed", "shop/1", data, dst[:0]); len(dst) != 10 || !byData {
				t.Fatalf("%s: %d chosen, want 10", name, len(dst))
			}
		}
		// The memory of the choice before may have been collected, and the race detector makes a pool
		// forget on purpose: what counts is the best of many.
		best := testing.AllocsPerRun(1, choose)
		for range 100 {
			best = min(best, testing.AllocsPerRun(1, choose))
		}
		if best > 0 {
			t.Errorf("%s: %v allocations, want none", name, best)
		}
	}
}

func BenchmarkSelectByFilter(b *testing.B) {
	const n = 100_000
	data := []byte(eventData(7))
	run := func(name string, m *store.Matcher, event, resource string) {
		b.Run(name, func(b *testing.B) {
			dst := make([]store.SubscriptionID, 0, 64)
			b.ReportAllocs()
			for b.Loop() {
				if dst, _ = m.Select("acme", event, resource, data, dst[:0]); len(dst) != 10 {
					b.Fatalf("%d chosen, want 10", len(dst))
				}
			}
		})
	}
	for name, m := range crowds(b, n) {
		run(name, m, "order.placed", "shop/1")
	}
	// By type and resource, where each key has few, and ten of those found have filters.
	var m store.Matcher
	for i := range n {
		s := filtered(b, i, `{"customer.country":"NL","amount":{"$gte":1}}`, fmt.Sprintf("order%d.*", i/10))
		s.Resource = fmt.Sprintf("shop/s%d", i/10)
		m.Replace(nil, s)
	}
	run("type and resource", &m, "order42.placed", "shop/s42")
	// Filters that demand no value are asked one by one.
	var ranges store.Matcher
	for i := range 1000 {
		ranges.Replace(nil, filtered(b, i, fmt.Sprintf(`{"amount":{"$gte":%d,"$lt":%d}}`, i-9, i+1)))
	}
	data = []byte(eventData(700))
	run("1000 ranges", &ranges, "order.placed", "shop/1")
}

func BenchmarkReplaceFilter(b *testing.B) {
	m := crowds(b, 100_000)["mixed"]
	x := filtered(b, 1<<20, `{"customer.country":"NL","customer.id":"c7"}`)
	y := filtered(b, 1<<20, `{"customer.country":"NL","customer.id":"c8"}`)
	b.ReportAllocs()
	m.Replace(nil, x)
	for b.Loop() {
		m.Replace(x, y)
		m.Replace(y, x)
	}
}
