package boltstore

import (
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// cache keeps decoded records by key, at most limit of them; beyond that any one makes room. It never
// serves what was overwritten: the writer sets and drops entries in the order of its commits and
// before a caller is answered, and what a reader found on disk is taken only when nothing was
// written since it began to read. All methods are safe for concurrent use.
type cache[K comparable, V any] struct {
	limit        int
	hits, misses prometheus.Counter

	mu      sync.RWMutex
	entries map[K]V
	writes  uint64 // how often the writer changed something
}

func newCache[K comparable, V any](limit int, m *metrics, name string) *cache[K, V] {
	return &cache[K, V]{
		limit:   limit,
		hits:    m.hits.WithLabelValues(name),
		misses:  m.misses.WithLabelValues(name),
		entries: make(map[K]V),
	}
}

// get returns an entry. When there is none, the number returned must be given to fill with what the
// caller then reads from the file.
func (c *cache[K, V]) get(k K) (v V, writes uint64, ok bool) {
	c.mu.RLock()
	v, ok = c.entries[k]
	writes = c.writes
	c.mu.RUnlock()
	if ok {
		c.hits.Inc()
	} else {
		c.misses.Inc()
	}
	return v, writes, ok
}

// fill takes what a reader found, unless something was written meanwhile: then it may be old.
func (c *cache[K, V]) fill(k K, v V, writes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == writes {
		c.put(k, v)
	}
}

// set is the writer's: k has the value v from now on.
func (c *cache[K, V]) set(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	c.put(k, v)
}

// drop is the writer's: these are gone.
func (c *cache[K, V]) drop(keys ...K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	for _, k := range keys {
		delete(c.entries, k)
	}
}

func (c *cache[K, V]) put(k K, v V) {
	if _, ok := c.entries[k]; !ok && len(c.entries) >= c.limit {
		for other := range c.entries { // begins at a random place
			delete(c.entries, other)
			break
		}
	}
	c.entries[k] = v
}

// all returns a copy of the entries.
func (c *cache[K, V]) all() map[K]V {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.entries)
}

func (c *cache[K, V]) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.entries)
}
