package webpush

import "container/list"

// maxKept bounds each of the things that are kept by origin: endpoints are chosen by whoever registers a browser.
const maxKept = 10_000

// recent is a map that keeps the maxKept entries used last. The zero value is ready for use.
type recent[K comparable, V any] struct {
	all  map[K]*list.Element
	used list.List
}

type kept[K comparable, V any] struct {
	key   K
	value V
}

func (r *recent[K, V]) get(k K) (v V, ok bool) {
	e, ok := r.all[k]
	if !ok {
		return v, false
	}
	r.used.MoveToFront(e)
	return e.Value.(*kept[K, V]).value, true
}

func (r *recent[K, V]) put(k K, v V) {
	if e, ok := r.all[k]; ok {
		e.Value.(*kept[K, V]).value = v
		r.used.MoveToFront(e)
		return
	}
	if r.all == nil {
		r.all = make(map[K]*list.Element)
	}
	r.all[k] = r.used.PushFront(&kept[K, V]{k, v})
	if len(r.all) > maxKept {
		last := r.used.Remove(r.used.Back()).(*kept[K, V])
		delete(r.all, last.key)
	}
}

// remove drops the entries of which which says so.
func (r *recent[K, V]) remove(which func(K) bool) {
	for k, e := range r.all {
		if which(k) {
			r.used.Remove(e)
			delete(r.all, k)
		}
	}
}

// drop drops one entry.
func (r *recent[K, V]) drop(k K) {
	if e, ok := r.all[k]; ok {
		r.used.Remove(e)
		delete(r.all, k)
	}
}
