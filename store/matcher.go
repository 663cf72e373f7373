package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

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
//
// The zero value is ready for use. All methods are safe for concurrent use.
type Matcher struct {
	mu  sync.RWMutex
	ids map[matchKey][]SubscriptionID // each list sorted
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
// or neither. Either may be nil. Subscriptions in StatePending are not put in. What it keeps of new
// are texts and the id, so new may be changed afterwards.
func (m *Matcher) Replace(old, new *Subscription) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ids == nil {
		m.ids = make(map[matchKey][]SubscriptionID)
	}
	if old != nil && old.State != StatePending {
		for _, k := range keysOf(old) {
			ids := m.ids[k]
			if i, ok := slices.BinarySearchFunc(ids, old.ID, compareIDs); ok {
				ids = slices.Delete(ids, i, i+1)
			}
			if len(ids) == 0 {
				delete(m.ids, k)
			} else {
				m.ids[k] = ids
			}
		}
	}
	if new != nil && new.State != StatePending {
		for _, k := range keysOf(new) {
			ids := m.ids[k]
			// A pattern may be named twice; the id is put in once.
			if i, ok := slices.BinarySearchFunc(ids, new.ID, compareIDs); !ok {
				m.ids[k] = slices.Insert(ids, i, new.ID)
			}
		}
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

// Select appends the ids of the account's subscriptions that want this event, each once, in no
// particular order. It allocates nothing while dst has room.
func (m *Matcher) Select(accountID, eventType, resource string, dst []SubscriptionID) []SubscriptionID {
	m.mu.RLock()
	defer m.mu.RUnlock()
	k := matchKey{account: accountID}
	dst = m.selectEvents(k, eventType, dst)
	if t, _, ok := strings.Cut(resource, "/"); ok {
		k.scope, k.resource = selectPrefix, t
		dst = m.selectEvents(k, eventType, dst)
		k.scope, k.resource = selectExact, resource
		dst = m.selectEvents(k, eventType, dst)
	}
	return dst
}

// selectEvents asks for each pattern that can match the type, within the one resource selector of k.
func (m *Matcher) selectEvents(k matchKey, eventType string, dst []SubscriptionID) []SubscriptionID {
	start := len(dst)
	found := 0
	ask := func(kind selectorKind, event string) {
		k.kind, k.event = kind, event
		if ids := m.ids[k]; len(ids) > 0 {
			dst = append(dst, ids...)
			found++
		}
	}
	ask(selectEvery, "")
	ask(selectExact, eventType)
	for i := range len(eventType) {
		if eventType[i] == '.' {
			ask(selectPrefix, eventType[:i+1])
			ask(selectSuffix, eventType[i:])
		}
	}
	if found < 2 {
		return dst
	}
	// A subscription has one resource selector but several patterns, so only two lists of the same
	// selector can repeat it.
	got := dst[start:]
	slices.SortFunc(got, compareIDs)
	return dst[:start+len(slices.Compact(got))]
}

// Equal says whether both hold the same selections. An engine's check compares the matcher in use
// with one built anew from its records. Neither is locked for longer than it takes to copy it.
func (m *Matcher) Equal(other *Matcher) bool {
	return maps.EqualFunc(m.snapshot(), other.snapshot(), slices.Equal[[]SubscriptionID])
}

func (m *Matcher) snapshot() map[matchKey][]SubscriptionID {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := make(map[matchKey][]SubscriptionID, len(m.ids))
	for k, ids := range m.ids {
		c[k] = slices.Clone(ids)
	}
	return c
}
