package store

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// candidate is a subscription with its filter.
type candidate struct {
	id     SubscriptionID
	filter *Filter
}

func compareCandidates(a, b candidate) int { return compareIDs(a.id, b.id) }

// filterIndex holds the subscriptions with a filter under one key. A filter that demands a value of a field, or
// one of several, stands under that field and each of the values, so the data of an event is walked once
// along the fields there are, and leads to those it can be for. Where a filter demands several, the field
// is chosen under whose values the fewest stand at that moment: the one that tells most apart. What
// is found is a candidate, and its whole filter is asked. The rest are candidates for every event: the filters
// that demand no value, and the first maxUnindexed of any kind, because most keys have few filters, and
// asking those is cheaper than an index is large.
type filterIndex struct {
	rest             []candidate // sorted
	dotted, pointers branch
}

const maxUnindexed = 8

// branch is a place in the data that filters are anchored at, or that leads to one.
type branch struct {
	names  map[string]*branch
	values map[uint64]*bucket // by the hash of a value
}

// bucket holds who demands one value in one place.
type bucket struct {
	number uint64      // tells buckets apart
	list   []candidate // sorted
}

// anchor is a demand that a filter may be found by.
type anchor struct {
	path   *Path
	values []scalar
}

// anchors returns the demands that hold whenever the filter does.
func (f *Filter) anchors() []anchor { return appendAnchors(nil, f.all) }

func appendAnchors(as []anchor, all []clause) []anchor {
	for i := range all {
		switch c := &all[i]; c.kind {
		case clauseAll:
			as = appendAnchors(as, c.of)
		case clauseField:
			for j := range c.want.demand {
				if o := &c.want.demand[j]; o.kind == operatorEqual || o.kind == operatorIn {
					as = append(as, anchor{&c.path, o.values})
				}
			}
		default: // these hold in other ways as well
		}
	}
	return as
}

// root returns where the walk to a path begins.
func (x *filterIndex) root(p *Path) *branch {
	if p.exact {
		return &x.pointers
	}
	return &x.dotted
}

// indexes says whether the subscription stands under one of the anchors.
func (x *filterIndex) indexes(id SubscriptionID, anchors []anchor) bool {
	return slices.ContainsFunc(anchors, func(a anchor) bool {
		b := x.root(a.path).find(a.path.names)
		if b == nil {
			return false
		}
		place := b.values[a.values[0].hash]
		return place != nil && place.index(id) >= 0
	})
}

// add puts a candidate in, once. buckets counts those that were made.
func (x *filterIndex) add(c candidate, buckets *uint64) {
	i, ok := slices.BinarySearchFunc(x.rest, c, compareCandidates)
	if ok {
		return
	}
	anchors := c.filter.anchors()
	if x.indexes(c.id, anchors) {
		return
	}
	if len(anchors) == 0 || len(x.rest) < maxUnindexed {
		x.rest = slices.Insert(x.rest, i, c)
		return
	}
	best, fewest := 0, -1
	for i, a := range anchors {
		load := len(a.values) - 1 // beside what stands there, each value of $in costs a place
		if b := x.root(a.path).find(a.path.names); b != nil {
			for j := range a.values {
				if place := b.values[a.values[j].hash]; place != nil {
					load += len(place.list)
				}
			}
		}
		if fewest < 0 || load < fewest {
			best, fewest = i, load
		}
	}
	b := x.root(anchors[best].path).grow(anchors[best].path.names)
	if b.values == nil {
		b.values = make(map[uint64]*bucket)
	}
	for _, v := range anchors[best].values {
		place := b.values[v.hash]
		if place == nil {
			*buckets++
			place = &bucket{number: *buckets}
			b.values[v.hash] = place
		}
		if i, ok := slices.BinarySearchFunc(place.list, c, compareCandidates); !ok {
			place.list = slices.Insert(place.list, i, c)
		}
	}
}

// remove takes a subscription out, wherever its filter may have been put.
func (x *filterIndex) remove(id SubscriptionID, f *Filter) {
	if i, ok := slices.BinarySearchFunc(x.rest, candidate{id: id}, compareCandidates); ok {
		x.rest = slices.Delete(x.rest, i, i+1)
		return
	}
	for _, a := range f.anchors() {
		b := x.root(a.path).find(a.path.names)
		if b == nil {
			continue
		}
		for _, v := range a.values {
			place := b.values[v.hash]
			if place == nil {
				continue
			}
			if i := place.index(id); i >= 0 {
				place.list = slices.Delete(place.list, i, i+1)
			}
			if len(place.list) == 0 {
				delete(b.values, v.hash)
			}
		}
		x.root(a.path).prune(a.path.names)
	}
}

func (x *filterIndex) empty() bool {
	return len(x.rest) == 0 && x.dotted.empty() && x.pointers.empty()
}

// index returns where a subscription stands in the bucket, or -1.
func (b *bucket) index(id SubscriptionID) int {
	if i, ok := slices.BinarySearchFunc(b.list, candidate{id: id}, compareCandidates); ok {
		return i
	}
	return -1
}

func (b *branch) empty() bool { return len(b.names) == 0 && len(b.values) == 0 }

// find returns the branch the names lead to, or nil.
func (b *branch) find(names []string) *branch {
	for _, name := range names {
		if b = b.names[name]; b == nil {
			return nil
		}
	}
	return b
}

// grow returns the branch the names lead to, and makes what is missing of the way.
func (b *branch) grow(names []string) *branch {
	for _, name := range names {
		next := b.names[name]
		if next == nil {
			if b.names == nil {
				b.names = make(map[string]*branch)
			}
			next = &branch{}
			b.names[name] = next
		}
		b = next
	}
	return b
}

// prune takes away what leads nowhere any more.
func (b *branch) prune(names []string) {
	if len(names) == 0 {
		return
	}
	if next := b.names[names[0]]; next != nil {
		if next.prune(names[1:]); next.empty() {
			delete(b.names, names[0])
		}
	}
}

// choice is the memory of one choice by data.
type choice struct {
	data       Data
	buckets    []*bucket
	candidates []candidate
	sources    int // how many lists the candidates come from
}

// What is kept for the next choice is bounded: an event with very many values, or for very many, gives
// its memory back.
const (
	keptNodes      = 4 << 10
	keptCandidates = 4 << 10
)

// reset forgets what was chosen.
func (c *choice) reset() {
	c.data.reset()
	clear(c.candidates)
	clear(c.buckets)
	c.candidates, c.buckets, c.sources = c.candidates[:0], c.buckets[:0], 0
	if cap(c.data.nodes) > keptNodes {
		c.data.nodes = nil
	}
	if cap(c.candidates) > keptCandidates {
		c.candidates = nil
	}
	if cap(c.buckets) > keptCandidates {
		c.buckets = nil
	}
}

// collect adds to a choice who of the index may be meant by its data.
func (x *filterIndex) collect(c *choice) {
	if len(x.rest) > 0 {
		c.candidates = append(c.candidates, x.rest...)
		c.sources++
	}
	c.buckets = c.buckets[:0]
	c.walkDotted(&x.dotted, 0)
	c.walkPointers(&x.pointers, 0)
	if len(c.buckets) > 1 {
		// An array may hold the same value many times.
		slices.SortFunc(c.buckets, func(a, b *bucket) int { return cmp.Compare(a.number, b.number) })
		c.buckets = slices.Compact(c.buckets)
	}
	for _, b := range c.buckets {
		c.candidates = append(c.candidates, b.list...)
		c.sources++
	}
}

// walkDotted follows the value at that index along the branch as dotted paths lead.
func (c *choice) walkDotted(b *branch, at int) {
	nodes := c.data.nodes
	switch n := &nodes[at]; n.kind {
	case jsontext.KindBeginArray:
		for i := at + 1; i < n.end; i = nodes[i].end {
			c.walkDotted(b, i)
		}
	case jsontext.KindBeginObject:
		if len(b.names) == 0 {
			return
		}
		for i := at + 1; i < n.end; i = nodes[i].end {
			if next := b.names[string(nodes[i].name)]; next != nil {
				c.walkDotted(next, i)
			}
		}
	default:
		c.take(b, n)
	}
}

// walkPointers follows the value at that index along the branch as JSON Pointers lead.
func (c *choice) walkPointers(b *branch, at int) {
	nodes := c.data.nodes
	switch n := &nodes[at]; n.kind {
	case jsontext.KindBeginArray:
		if len(b.names) == 0 {
			return
		}
		var position [20]byte
		for i, k := at+1, int64(0); i < n.end; i, k = nodes[i].end, k+1 {
			if next := b.names[string(strconv.AppendInt(position[:0], k, 10))]; next != nil {
				c.walkPointers(next, i)
			}
		}
	case jsontext.KindBeginObject:
		if len(b.names) == 0 {
			return
		}
		for i := at + 1; i < n.end; i = nodes[i].end {
			if next := b.names[string(nodes[i].name)]; next != nil {
				c.walkPointers(next, i)
			}
		}
	default:
		c.take(b, n)
	}
}

func (c *choice) take(b *branch, n *node) {
	if len(b.values) == 0 || len(n.text) > MaxFilterLength && n.kind == jsontext.KindString {
		return
	}
	if found := b.values[n.sum()]; found != nil {
		c.buckets = append(c.buckets, found)
	}
}

// decide asks the filters and appends the ids of those that hold.
func (c *choice) decide(dst []SubscriptionID) []SubscriptionID {
	if c.sources > 1 {
		slices.SortFunc(c.candidates, compareCandidates)
		c.candidates = slices.CompactFunc(c.candidates, func(a, b candidate) bool { return a.id == b.id })
	}
	for i := range c.candidates {
		if c.candidates[i].filter.Match(&c.data) {
			dst = append(dst, c.candidates[i].id)
		}
	}
	return dst
}

// texts returns the filters by subscription, and whether each stands where an event looks for it: among the
// rest, or under all values of one of its anchors.
func (x *filterIndex) texts() (filters map[SubscriptionID]string, sound bool) {
	filters = make(map[SubscriptionID]string)
	places := make(map[SubscriptionID]int)
	filter := make(map[SubscriptionID]*Filter)
	sound = slices.IsSortedFunc(x.rest, compareCandidates)
	note := func(list []candidate) {
		sound = sound && slices.IsSortedFunc(list, compareCandidates)
		for _, c := range list {
			filters[c.id] = c.filter.Text()
			filter[c.id] = c.filter
			places[c.id]++
		}
	}
	note(x.rest)
	x.dotted.each(note)
	x.pointers.each(note)
	for id, f := range filter {
		sound = sound && x.holds(id, f, places[id])
	}
	return filters, sound
}

// holds says whether a subscription stands in its places, and in no other.
func (x *filterIndex) holds(id SubscriptionID, f *Filter, places int) bool {
	if _, ok := slices.BinarySearchFunc(x.rest, candidate{id: id}, compareCandidates); ok {
		return places == 1
	}
	return slices.ContainsFunc(f.anchors(), func(a anchor) bool {
		b := x.root(a.path).find(a.path.names)
		if b == nil {
			return false
		}
		hashes := make(map[uint64]bool)
		for _, v := range a.values {
			hashes[v.hash] = true
			if place := b.values[v.hash]; place == nil || place.index(id) < 0 {
				return false
			}
		}
		return len(hashes) == places
	})
}

// each calls f with every list of candidates in the branch.
func (b *branch) each(f func([]candidate)) {
	for _, x := range b.values {
		f(x.list)
	}
	for _, next := range b.names {
		next.each(f)
	}
}
