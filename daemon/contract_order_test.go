package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The orders of a subscription: strict, and by key.

// inFlight counts the pushes under way at a receiver.
type inFlight struct {
	mu        sync.Mutex
	now, most int
}

func (f *inFlight) enter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now++
	f.most = max(f.most, f.now)
}

func (f *inFlight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now--
}

func (f *inFlight) atMost() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// failing makes the receiver answer 500 to the first n pushes that pick chooses, and notes how many were under way at
// once.
func (r *receiver) failing(n int, pick func(push) bool) *inFlight {
	f := &inFlight{}
	var mu sync.Mutex
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		f.enter()
		defer f.leave()
		<-time.After(2 * time.Millisecond) // long enough for another one to come, if it may
		mu.Lock()
		defer mu.Unlock()
		if n > 0 && pick(p) {
			n--
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	return f
}

// numbered picks the push of the event with this number as data.
func numbered(t *testing.T, n int) func(push) bool {
	return func(p push) bool {
		data, _ := p.object(t)["data"].(map[string]any)
		return data["n"] == float64(n)
	}
}

// numbers are those of the events in pushes, in the order of arrival.
func numbers(t *testing.T, pushes []push) []int {
	t.Helper()
	out := make([]int, len(pushes))
	for i, p := range pushes {
		data, _ := p.object(t)["data"].(map[string]any)
		n, _ := data["n"].(float64)
		out[i] = int(n)
	}
	return out
}

func TestContract_Order_StrictHoldsOverFailuresAndRestart(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	strict := fields{"ordering": "strict", "retrySchedule": []string{"1s", "1s", "1s"}, "maxConcurrency": 8}
	r, batches := receive(t), receive(t)
	f := r.failing(2, numbered(t, 1))
	batched := batches.failing(1, func(p push) bool { return len(p.records(t)) > 0 })
	h.subscribe(r.URL, fields{"delivery": strict})
	h.subscribe(batches.URL, fields{"delivery": strict, "numberOfRecords": 3, "maxWaitSeconds": 0.1})
	events := h.publishAll(5, nil)
	r.wait(2) // the second one is failing
	h = h.restart(steady)
	events = append(events, h.publishAll(3, func(i int, e fields) { e["data"] = fields{"n": 5 + i} })...)
	if got, want := numbers(t, r.wait(10)), []int{0, 1, 1, 1, 2, 3, 4, 5, 6, 7}; !slices.Equal(got, want) {
		t.Errorf("in strict order came %v, want %v", got, want)
	}
	if n := f.atMost(); n != 1 {
		t.Errorf("in strict order %d pushes were under way at once", n)
	}
	eventually(t, "all records have arrived", func() bool { return len(allCarried(t, batches.got())) >= 11 })
	got := batches.got()
	if first := carried(t, got[0]); !slices.Equal(first, carried(t, got[1])) || got[0].id() != got[1].id() {
		t.Errorf("after the failed batch %v came %v", first, carried(t, got[1]))
	}
	if got := allCarried(t, got[1:]); !slices.Equal(got, events) {
		t.Errorf("in strict order the batches carry %v, want %v", got, events)
	}
	if n := batched.atMost(); n != 1 {
		t.Errorf("in strict order %d batches were under way at once", n)
	}
}

// The head holds up what comes after it, at no cost to others, until it is dead; then the next goes, and those who asked
// are told.
func TestContract_Order_StrictGoesOnAfterDeadHead(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, free, told := receive(t), receive(t), receive(t)
	r.failing(1000, numbered(t, 0))
	id := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "delivery": fields{"ordering": "strict", "retrySchedule": []string{"1s"}}})
	h.subscribe(free.URL, fields{"events": []string{"task.*"}})
	h.subscribe(told.URL, fields{"events": []string{"herald.delivery.dead"}})
	events := h.publishAll(4, nil)
	free.wait(4)
	if got := numbers(t, r.wait(1)); !slices.Equal(got, []int{0}) {
		t.Errorf("behind a failing head came %v", got)
	}
	h.eventually("three wait behind the head", func() bool { return counts(h.status(id)) == "dead 0 delivering 0 held 0 pending 3 retrying 1" })
	if got, want := numbers(t, r.wait(5)), []int{0, 0, 1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("with a head that dies came %v, want %v", got, want)
	}
	if d := h.delivery(events[0], id, "dead"); d["reason"] != "exhausted" {
		t.Errorf("the head is %v", d)
	}
	if data, _ := told.wait(1)[0].object(t)["data"].(map[string]any); data["eventId"] != events[0] || data["subscriptionId"] != id {
		t.Errorf("told of the dead head was %v", data)
	}
	// Retried by hand it comes out of order, and nothing waits for it.
	r.status(http.StatusOK)
	dead := h.delivery(events[0], id, "dead")
	h.admin().do("POST", "/deliveries/"+dead["id"].(string)+"/retry", nil).is(202)
	h.delivery(events[0], id, "delivered")
}

// By key: in order within each, and none holds up another.
func TestContract_Order_ByKey(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	policy := func(key string) fields {
		p := fields{"ordering": "key", "retrySchedule": []string{"1s", "1s"}, "maxConcurrency": 8}
		if key != "" {
			p["orderingKey"] = key
		}
		return fields{"delivery": p}
	}
	byResource, byPath := receive(t), receive(t)
	h.subscribe(byResource.URL, policy(""))
	h.subscribe(byPath.URL, policy("customer.id"))
	keys := []string{"a", "b", "", "c"} // of event i: i%4; none is a key like any other
	key := func(p push) string {
		n := numbers(t, []push{p})[0]
		return keys[n%4]
	}
	for _, r := range []*receiver{byResource, byPath} {
		r.failing(1, numbered(t, 4)) // the second one of a
	}
	const events = 24
	h.publishAll(events, func(i int, e fields) {
		data := fields{"n": i}
		if k := keys[i%4]; k != "" {
			e["resource"] = "customer/" + k
			data["customer"] = fields{"id": k}
		}
		e["data"] = data
	})
	for what, r := range map[string]*receiver{"resource": byResource, "path": byPath} {
		got := r.wait(events + 1)
		of := map[string][]int{}
		last := map[string]time.Time{}
		var tried []time.Time
		for _, p := range got {
			k := key(p)
			of[k] = append(of[k], numbers(t, []push{p})[0])
			last[k] = p.at
			if numbered(t, 4)(p) {
				tried = append(tried, p.at)
			}
		}
		for i, k := range keys {
			var want []int
			for n := i; n < events; n += 4 {
				want = append(want, n)
				if n == 4 {
					want = append(want, 4)
				}
			}
			if !slices.Equal(of[k], want) {
				t.Errorf("by %s: of the key %q came %v, want %v", what, k, of[k], want)
			}
			if k != "a" && len(tried) == 2 && !last[k].Before(tried[1]) {
				t.Errorf("by %s: the key %q had to wait for another, which was tried at %v: its last came at %v", what, k, tried, last[k])
			}
		}
	}
}

// The order of keys holds over a restart that comes while one of them fails, and for batches.
func TestContract_Order_KeysOverRestart(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, batches := receive(t), receive(t)
	r.failing(1, numbered(t, 0))
	batches.failing(1, func(push) bool { return true })
	policy := fields{"ordering": "key", "retrySchedule": []string{"1s", "1s"}}
	h.subscribe(r.URL, fields{"delivery": policy})
	h.subscribe(batches.URL, fields{"delivery": policy, "numberOfRecords": 4, "maxWaitSeconds": 0})
	resource := func(i int, e fields) { e["resource"] = fmt.Sprint("customer/", i%2) }
	first := h.publishAll(4, resource)
	r.wait(3) // the first of one key failed, both of the other came
	batches.wait(1)
	h = h.restart(steady)
	later := h.publishAll(4, func(i int, e fields) {
		resource(i, e)
		e["data"] = fields{"n": 4 + i}
	})
	var even, odd []int
	for _, n := range numbers(t, r.wait(9)) {
		if n%2 == 0 {
			even = append(even, n)
		} else {
			odd = append(odd, n)
		}
	}
	if !slices.Equal(even, []int{0, 0, 2, 4, 6}) || !slices.Equal(odd, []int{1, 3, 5, 7}) {
		t.Errorf("of the keys came %v and %v", even, odd)
	}
	eventually(t, "all records have arrived", func() bool { return len(allCarried(t, batches.got())) >= 12 })
	got := batches.got()
	if !slices.Equal(carried(t, got[0]), first) {
		t.Errorf("the first batch carries %v, want %v", carried(t, got[0]), first)
	}
	// Both keys wait in the batch that failed.
	if !slices.Equal(carried(t, got[1]), first) || got[1].id() != got[0].id() {
		t.Errorf("after a failed batch came %v", carried(t, got[1]))
	}
	if got := allCarried(t, got[2:]); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(later))) {
		t.Errorf("after the batch came %v, want %v", got, later)
	}
}

// A batch that is taken apart keeps the order.
func TestContract_Order_DissolvedBatchKeepsIt(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	for _, order := range []string{"strict", "key"} { // of one key
		r := receive(t)
		r.respond(func(_ int, p push, w http.ResponseWriter) {
			if len(p.records(t)) > 1 {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
		})
		id := h.subscribe(r.URL, fields{"events": []string{"task.*"}, "numberOfRecords": 4, "maxWaitSeconds": 0.1, "delivery": fields{"ordering": order}})
		events := h.publishAll(6, nil)
		for _, e := range events {
			h.delivery(e, id, "delivered")
		}
		var taken []string
		for _, p := range r.got() {
			if c := carried(t, p); len(c) == 1 {
				taken = append(taken, c[0])
			}
		}
		if !slices.Equal(taken, events) {
			t.Errorf("%s: one by one came %v, want %v", order, taken, events)
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
}

// A change of the order holds for what waits already.
func TestContract_Order_ChosenLater(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	g := r.hold(http.StatusOK)
	id := h.subscribe(r.URL, nil)
	const events = 20
	h.publishAll(events, nil)
	g.taken(t, 1)
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"delivery": fields{"ordering": "strict"}}).is(200)
	f := r.failing(0, nil)
	under := len(r.got())
	g.open()
	if got := numbers(t, r.wait(events))[under:]; !slices.IsSorted(got) || len(got) != events-under {
		t.Errorf("after the change came %v", got)
	}
	if n := f.atMost(); n != 1 {
		t.Errorf("after the change %d were under way at once", n)
	}
}

// Keys are told apart as values: numbers by what they are worth, and not by how they or a text are spelled.
func TestContract_Order_KeysAreValues(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.failing(1, numbered(t, 0))
	h.subscribe(r.URL, fields{"delivery": fields{"ordering": "key", "orderingKey": "k", "retrySchedule": []string{"3s"}}})
	var events []string // in one call, so that all are there long before the retry
	for i, k := range []string{`1`, `1.0`, `"1"`, `"\u0031"`, `1e0`, `true`, `null`, `{"a":1}`, `[1]`, `10`} {
		events = append(events, fmt.Sprintf(`{"type":"task.create","data":{"n":%d,"k":%s}}`, i, k))
	}
	h.admin().do("POST", "/events", "["+strings.Join(events, ",")+"]").is(202)
	got := numbers(t, r.wait(11))
	at := slices.Index(got[1:], 0) + 1
	// The key that waits is the number one.
	if of := slices.DeleteFunc(slices.Clone(got), func(n int) bool { return n != 0 && n != 1 && n != 4 }); !slices.Equal(of, []int{0, 0, 1, 4}) {
		t.Errorf("of the key 1 came %v", of)
	}
	for _, n := range []int{2, 3, 5, 6, 9} {
		if slices.Index(got, n) > at {
			t.Errorf("there came %v: %d has waited for the key of 0", got, n)
		}
	}
}
