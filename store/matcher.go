package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// OwnPrefix begins the types of Herald's own events.
const OwnPrefix = "herald."

// PingType is the type of a test event, which is for one subscription alone, whatever others select. Publishers cannot use it.
const PingType = OwnPrefix + "ping"

// MaxNameLength bounds event types, resource types and resource ids, in bytes.
const MaxNameLength = 128

// CheckEventType says what is wrong with an event type: one to MaxNameLength characters, words of
// letters, digits, '_' and '-' joined by single dots, such as task.create.
func CheckEventType(s string) error {
	if s == "" || len(s) > MaxNameLength {
		return fmt.Errorf("must have 1 to %d characters", MaxNameLength)
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" {
			return fmt.Errorf("must be words joined by single dots, such as task.create")
		}
		for _, c := range word {
			if !isWord(c) {
				return fmt.Errorf("must consist of letters, digits, '_', '-' and '.', such as task.create; %q is none", c)
			}
		}
	}
	return nil
}

// CheckEventPattern says what is wrong with an event pattern: an event type, or words followed by
// ".*", or "*." followed by words.
func CheckEventPattern(s string) error {
	if len(s) > MaxNameLength {
		return fmt.Errorf("must have 1 to %d characters", MaxNameLength)
	}
	rest := s
	if p, ok := strings.CutSuffix(s, ".*"); ok {
		rest = p
	} else if p, ok := strings.CutPrefix(s, "*."); ok {
		rest = p
	}
	if CheckEventType(rest) != nil {
		return fmt.Errorf("must be an event type such as task.create, or task.*, or *.create")
	}
	return nil
}

// CheckResourceType says what is wrong with the type of a resource: 1 to MaxNameLength characters of
// letters, digits, '_', '-' and '.'.
func CheckResourceType(s string) error {
	if s == "" || len(s) > MaxNameLength {
		return fmt.Errorf("must have 1 to %d characters", MaxNameLength)
	}
	for _, c := range s {
		if !isWord(c) && c != '.' {
			return fmt.Errorf("must consist of letters, digits, '_', '-' and '.'; %q is none", c)
		}
	}
	return nil
}

// CheckResourceID says what is wrong with the id of a resource: 1 to MaxNameLength printable ASCII
// characters without space, '/' and '*'.
func CheckResourceID(s string) error {
	if s == "" || len(s) > MaxNameLength {
		return fmt.Errorf("must have 1 to %d characters", MaxNameLength)
	}
	for _, c := range s {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '*' {
			return fmt.Errorf("must consist of printable ASCII characters without space, '/' and '*'; %q is not allowed", c)
		}
	}
	return nil
}

// ParseResource splits type/id and checks both parts.
func ParseResource(s string) (ResourceKey, error) {
	t, id, ok := strings.Cut(s, "/")
	if !ok {
		return ResourceKey{}, fmt.Errorf("must have the form type/id, such as project/proj1")
	}
	if err := CheckResourceType(t); err != nil {
		return ResourceKey{}, fmt.Errorf("the type before the '/' %w", err)
	}
	if err := CheckResourceID(id); err != nil {
		return ResourceKey{}, fmt.Errorf("the id after the '/' %w", err)
	}
	return ResourceKey{t, id}, nil
}

func isWord(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// Matcher chooses the subscriptions of an event, in memory. It indexes each subscription under its
// account, its resource selector and each of its event patterns; an event then asks for the few
// keys that can match it, so a choice costs by what it finds and not by how many subscriptions
// there are. Selectors match exactly, case included:
//
//   - resource: "" matches every event; "type/*" every event on a resource of that type; "type/id"
//     that one.
//   - event pattern: "task.create" that type; "task.*" every type that begins with "task.";
//     "*.create" every type that ends with ".create"; no pattern at all matches every type.
//     Herald's own events, whose types begin with OwnPrefix, are for those only who ask for them by a
//     pattern that begins so as well.
//   - filter: as Filter says. Under one key the filters are indexed by a value they demand (filterIndex).
//
// The zero value is ready for use. All methods are safe for concurrent use.
type Matcher struct {
	mu      sync.RWMutex
	lists   map[matchKey]selected
	buckets uint64 // how many buckets were ever made

	// choices keeps what a choice by data needs while it is made, for the next one.
	choices sync.Pool
}

// selected is who is found under one key.
type selected struct {
	ids      []SubscriptionID // those without a filter, sorted
	filtered *filterIndex     // those with one; nil when there is none
}

// matchKey is one way to be found. The kind of each selector is kept beside its fixed text, without
// the star: the texts an event asks for are then parts of its own type and resource, and asking
// allocates nothing.
type matchKey struct {
	account  string
	scope    selectorKind // every, exact or prefix ("type/*", resource holding "type")
	resource string
	kind     selectorKind
	event    string
}

type selectorKind uint8

const (
	selectEvery  selectorKind = iota // no condition
	selectExact                      // the whole text
	selectPrefix                     // "task.*", event holding "task."
	selectSuffix                     // "*.create", event holding ".create"
)

// Replace takes out the selection of old and puts in that of new, as one step: no Select sees both
// or neither. Either may be nil. Not put in are subscriptions with a role or in StatePending, and disabled
// ones that discard. What it keeps of new are texts, the id and the filter, so new may be changed afterwards.
func (m *Matcher) Replace(old, new *Subscription) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lists == nil {
		m.lists = make(map[matchKey]selected)
	}
	if old != nil && old.wantsEvents() {
		for _, k := range keysOf(old) {
			s := m.lists[k]
			if old.Filter == nil {
				if i, ok := slices.BinarySearchFunc(s.ids, old.ID, compareIDs); ok {
					s.ids = slices.Delete(s.ids, i, i+1)
				}
			} else if s.filtered != nil {
				if s.filtered.remove(old.ID, old.Filter); s.filtered.empty() {
					s.filtered = nil
				}
			}
			if len(s.ids) == 0 && s.filtered == nil {
				delete(m.lists, k)
			} else {
				m.lists[k] = s
			}
		}
	}
	if new != nil && new.wantsEvents() {
		for _, k := range keysOf(new) {
			s := m.lists[k]
			// A pattern may be named twice; the id is put in once.
			if new.Filter == nil {
				if i, ok := slices.BinarySearchFunc(s.ids, new.ID, compareIDs); !ok {
					s.ids = slices.Insert(s.ids, i, new.ID)
				}
			} else {
				if s.filtered == nil {
					s.filtered = &filterIndex{}
				}
				s.filtered.add(candidate{new.ID, new.Filter}, &m.buckets)
			}
			m.lists[k] = s
		}
	}
}

// wantsEvents says whether events are for the subscription, by its role and in its state.
func (s *Subscription) wantsEvents() bool {
	return s.Role == RoleNone && s.State != StatePending && (s.State != StateDisabled || !s.Discarding)
}

// Selects returns a function that says whether an event of this type, on this resource, with this data is one that the
// subscription wants, by its selection as it is now and whatever its state, as Matcher.Select does for all; never a test event, which was for one subscription, nor a part of a
// message to devices. The function is not
// safe for concurrent use.
func (s *Subscription) Selects() func(eventType, resource string, data []byte) bool {
	var m Matcher
	m.Replace(nil, &Subscription{ID: s.ID, AccountID: s.AccountID, State: StateActive, Resource: s.Resource, Events: s.Events, Filter: s.Filter})
	var ids []SubscriptionID
	return func(eventType, resource string, data []byte) bool {
		if eventType == PingType || strings.HasPrefix(eventType, MessagePrefix) {
			return false
		}
		ids, _ = m.Select(s.AccountID, eventType, resource, data, ids[:0])
		return len(ids) > 0
	}
}

func compareIDs(a, b SubscriptionID) int { return bytes.Compare(a[:], b[:]) }

// keysOf returns the keys of a subscription.
func keysOf(s *Subscription) []matchKey {
	k := matchKey{account: s.AccountID}
	if t, ok := strings.CutSuffix(s.Resource, "/*"); ok {
		k.scope, k.resource = selectPrefix, t
	} else if s.Resource != "" {
		k.scope, k.resource = selectExact, s.Resource
	}
	if len(s.Events) == 0 {
		return []matchKey{k}
	}
	keys := make([]matchKey, 0, len(s.Events))
	for _, e := range s.Events {
		if p, ok := strings.CutSuffix(e, "*"); ok && strings.HasSuffix(p, ".") {
			k.kind, k.event = selectPrefix, p
		} else if p, ok := strings.CutPrefix(e, "*"); ok && strings.HasPrefix(p, ".") {
			k.kind, k.event = selectSuffix, p
		} else {
			k.kind, k.event = selectExact, e
		}
		keys = append(keys, k)
	}
	return keys
}

// Select appends the ids of the account's subscriptions that want an event of this type, on this resource
// ("" for none), with this data, each once and in no particular order. byData says that filters were asked: an
// event of the same type on the same resource may then be for others. The data is read only if there are
// filters to ask, and one that is no JSON object passes none of them. It allocates nothing while dst has room
// and the memory of an earlier choice is at hand.
func (m *Matcher) Select(accountID, eventType, resource string, data []byte, dst []SubscriptionID) (ids []SubscriptionID, byData bool) {
	ids, byData = m.find(accountID, eventType, resource, nil, dst)
	if !byData {
		return ids, false
	}
	// Neither the reading of the data nor the filters are waited for by whoever changes a subscription,
	// and behind them everyone: only the look into the index is under the lock.
	c, ok := m.choices.Get().(*choice)
	if !ok {
		c = &choice{}
	}
	if c.data.Read(data) == nil {
		ids, _ = m.find(accountID, eventType, resource, c, dst)
		ids = c.decide(ids)
	}
	c.reset()
	m.choices.Put(c)
	return ids, true
}

// find appends the ids of those without a filter, and collects those with one into c, if there is one. byData
// says that there are any.
func (m *Matcher) find(accountID, eventType, resource string, c *choice, dst []SubscriptionID) (ids []SubscriptionID, byData bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	k := matchKey{account: accountID}
	dst, byData = m.findEvents(k, eventType, c, dst)
	if t, _, ok := strings.Cut(resource, "/"); ok {
		var more bool
		k.scope, k.resource = selectPrefix, t
		dst, more = m.findEvents(k, eventType, c, dst)
		byData = byData || more
		k.scope, k.resource = selectExact, resource
		dst, more = m.findEvents(k, eventType, c, dst)
		byData = byData || more
	}
	return dst, byData
}

// findEvents asks for each pattern that can match the type, within the one resource selector of k.
func (m *Matcher) findEvents(k matchKey, eventType string, c *choice, dst []SubscriptionID) (ids []SubscriptionID, byData bool) {
	start := len(dst)
	found := 0
	ask := func(kind selectorKind, event string) {
		k.kind, k.event = kind, event
		s, ok := m.lists[k]
		if !ok {
			return
		}
		if len(s.ids) > 0 {
			dst = append(dst, s.ids...)
			found++
		}
		if s.filtered != nil {
			byData = true
			if c != nil {
				s.filtered.collect(c)
			}
		}
	}
	own := strings.HasPrefix(eventType, OwnPrefix)
	if !own {
		ask(selectEvery, "")
	}
	ask(selectExact, eventType)
	for i := range len(eventType) {
		if eventType[i] == '.' {
			ask(selectPrefix, eventType[:i+1])
			if !own {
				ask(selectSuffix, eventType[i:])
			}
		}
	}
	if found < 2 {
		return dst, byData
	}
	// A subscription has one resource selector but several patterns, so only two lists of the same
	// selector can repeat it.
	got := dst[start:]
	slices.SortFunc(got, compareIDs)
	return dst[:start+len(slices.Compact(got))], byData
}

// Equal says whether both hold the same selections, and each of them would find all it holds. An engine's check
// compares the matcher in use with one built anew from its records. Neither is locked for longer than it
// takes to copy it.
func (m *Matcher) Equal(other *Matcher) bool {
	return maps.EqualFunc(m.snapshot(), other.snapshot(), func(a, b snapshot) bool {
		return slices.Equal(a.ids, b.ids) && a.sound && b.sound && maps.Equal(a.filters, b.filters)
	})
}

// snapshot is a copy of selected.
type snapshot struct {
	ids     []SubscriptionID
	filters map[SubscriptionID]string // the texts
	sound   bool                      // the index of the filters holds each where it is looked for
}

func (m *Matcher) snapshot() map[matchKey]snapshot {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := make(map[matchKey]snapshot, len(m.lists))
	for k, s := range m.lists {
		x := snapshot{ids: slices.Clone(s.ids), sound: true}
		if s.filtered != nil {
			x.filters, x.sound = s.filtered.texts()
		}
		c[k] = x
	}
	return c
}
