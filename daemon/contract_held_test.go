package daemon_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Catching up ends when nothing is left of what was held, not with the next event.
func TestContract_P7_CatchingUpEnds(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	h.publishAll(3, nil)
	g := r.hold(200)
	time.Sleep(2 * time.Millisecond) // acceptance has milliseconds, and what was held is what is older
	h.enable(id)
	h.eventually("it catches up", func() bool { return h.status(id)["catchingUp"] == true })
	g.open()
	r.wait(3)
	h.eventually("catching up has ended", func() bool { return h.status(id)["catchingUp"] == nil })
}

// What is held is not planned for a time.
func TestContract_HeldShowsNoNextAttempt(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	r.status(http.StatusInternalServerError)
	id := h.subscribe(r.URL, fields{"delivery": patiently()})
	e := h.publish("task.create", "", fields{})
	h.delivery(e, id, "retrying")
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	if d := h.delivery(e, id, "held"); d["nextAttemptAt"] != nil {
		t.Errorf("a held delivery says that it is tried again at %v", d["nextAttemptAt"])
	}
}

// A batch that can hold no more because of its size goes at once.
func TestContract_D10_FullBySizeGoesAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, steady)
	r := receive(t)
	h.subscribe(r.URL, fields{"numberOfRecords": 1000, "maxWaitSeconds": 3600})
	pad := strings.Repeat("x", 900<<10)
	h.publishAll(9, func(i int, e fields) { e["data"] = fields{"n": i, "pad": pad} })
	eventually(t, "the full batches have arrived", func() bool { return len(allCarried(t, r.got())) >= 8 })
}
