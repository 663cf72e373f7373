package daemon_test

import (
	"net/http"
	"testing"
	"time"
)

// The limits of a subscription: how many records a second, and how many pushes at once.

// paced fails the test unless the n-th record, from 0, came no sooner than a limit of rate and burst allows to what was
// published at began. That holds however busy the machine is; that it came soon enough is checked roughly.
func paced(t *testing.T, what string, began time.Time, arrivals []time.Time, rate float64, burst int) {
	t.Helper()
	for i, at := range arrivals {
		want := time.Duration(float64(max(i-burst+1, 0)) / rate * float64(time.Second))
		// A millisecond for what is kept of a time.
		if took := at.Sub(began); took < want-time.Millisecond {
			t.Errorf("%s: record %d came after %v, the limit allows it after %v", what, i, took, want)
		} else if took > want+prompt {
			t.Errorf("%s: record %d came after %v, the limit allows it after %v", what, i, took, want)
		}
	}
}

// times are when the records of pushes arrived.
func times(pushes []push, records func(push) int) []time.Time {
	var out []time.Time
	for _, p := range pushes {
		for range records(p) {
			out = append(out, p.at)
		}
	}
	return out
}

func TestContract_Limit_RateAndBurst(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	const events = 9
	one := func(push) int { return 1 }
	of := func(p push) int { return len(p.records(t)) }
	limits := []struct {
		what     string
		settings fields
		rate     float64
		burst    int
		records  func(push) int
	}{
		{"10 a second", fields{"delivery": fields{"rateLimit": 10, "rateBurst": 1}}, 10, 1, one},
		{"a burst of 6", fields{"delivery": fields{"rateLimit": 4, "rateBurst": 6}}, 4, 6, one},
		{"5 a second, and so many at once", fields{"delivery": fields{"rateLimit": 5}}, 5, 5, one},
		{"batches", fields{"numberOfRecords": 3, "maxWaitSeconds": 0.1, "delivery": fields{"rateLimit": 10, "rateBurst": 3}}, 10, 3, of},
		{"batches larger than the burst", fields{"numberOfRecords": 4, "maxWaitSeconds": 0.1, "delivery": fields{"rateLimit": 10, "rateBurst": 2}}, 10, 2, of},
		{"in strict order", fields{"delivery": fields{"rateLimit": 10, "rateBurst": 1, "ordering": "strict"}}, 10, 1, one},
	}
	receivers := make([]*receiver, len(limits))
	for i, l := range limits {
		receivers[i] = receive(t)
		h.subscribe(receivers[i].URL, l.settings)
	}
	free, crawling := receive(t), receive(t)
	h.subscribe(free.URL, nil)
	h.subscribe(crawling.URL, fields{"delivery": fields{"rateLimit": 0.001, "rateBurst": 6}})
	began := time.Now()
	h.publishAll(events, nil)
	free.wait(events)
	// A burst goes at once: one by one the second would come after a quarter of an hour, as the seventh does. Nobody waits for it.
	if n := len(crawling.wait(6)); n != 6 {
		t.Errorf("%d came in a burst of 6", n)
	}
	if took := time.Since(began); took > prompt {
		t.Errorf("a subscription without a limit waited %v", took)
	}
	for i, l := range limits {
		var arrivals []time.Time
		eventually(t, l.what+": all have arrived", func() bool {
			arrivals = times(receivers[i].got(), l.records)
			return len(arrivals) >= events
		})
		paced(t, l.what, began, arrivals, l.rate, l.burst)
	}
}

// Retries count as well, and a change of the limit holds for what waits.
func TestContract_Limit_RetriesAndChanges(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r, later := receive(t), receive(t)
	r.failing(3, func(push) bool { return true })
	h.subscribe(r.URL, fields{"delivery": fields{"rateLimit": 5, "rateBurst": 1, "retrySchedule": []string{"1s"}}})
	slow := h.subscribe(later.URL, fields{"delivery": fields{"rateLimit": 0.001, "rateBurst": 2}})
	began := time.Now()
	h.publishAll(6, nil)
	later.wait(2)
	later.quiet("beyond the burst", 200*time.Millisecond)
	h.admin().do("PATCH", "/subscriptions/"+slow, fields{"delivery": fields{"rateLimit": nil, "rateBurst": nil}}).is(200)
	later.wait(6)
	paced(t, "with retries", began, times(r.wait(9), func(push) int { return 1 }), 5, 1)
}

func TestContract_Limit_MaxConcurrency(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	limits := []int{1, 2, 5}
	receivers, busy, subs := make([]*receiver, len(limits)), make([]*inFlight, len(limits)), make([]string, len(limits))
	for i, n := range limits {
		receivers[i], busy[i] = receive(t), &inFlight{}
		receivers[i].respond(func(int, push, http.ResponseWriter) {
			busy[i].enter()
			defer busy[i].leave()
			<-time.After(10 * time.Millisecond) // a slow receiver
		})
		subs[i] = h.subscribe(receivers[i].URL, fields{"delivery": fields{"maxConcurrency": n}})
	}
	const events = 60
	h.publishAll(events, nil)
	for i, n := range limits {
		receivers[i].wait(events)
		if most := busy[i].atMost(); most != n {
			t.Errorf("with maxConcurrency %d there were %d at once", n, most)
		}
		if c := h.status(subs[i])["concurrency"].(fields); c["max"] != float64(n) {
			t.Errorf("with maxConcurrency %d the status says %v", n, c)
		}
	}
}
