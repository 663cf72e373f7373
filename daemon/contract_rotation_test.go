package daemon_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Rotation while events flow (P10 P11): nothing is lost, nothing goes unsigned, and what has been replaced is not
// used for anything that comes after the answer.

// eventFlow publishes events until it is stopped. Each says in its data how many rotations had been answered when it
// was about to be published.
type eventFlow struct {
	rotations atomic.Int64
	stop      func() []string // the ids of all that was accepted
}

// perRotation bounds what a flow publishes before the first rotation and after each: enough to wait for, and
// no more than a busy machine gets rid of.
const perRotation = 400

func (h *herald) flow() *eventFlow {
	h.t.Helper()
	f := &eventFlow{}
	var ids []string
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		for {
			pause := time.Duration(0)
			if int64(len(ids)) >= perRotation*(f.rotations.Load()+1) {
				pause = time.Millisecond
			}
			select {
			case <-ended:
				return
			case <-time.After(pause):
			}
			if pause > 0 {
				continue
			}
			list := make([]any, 10)
			for i := range list {
				list[i] = fields{"type": "task.create", "data": fields{"rotations": f.rotations.Load(), "n": len(ids) + i}}
			}
			a := h.admin().do("POST", "/events", list)
			if a.status != http.StatusAccepted {
				h.t.Errorf("publishing answered %d: %s", a.status, a.body)
				return
			}
			for _, e := range a.list() {
				ids = append(ids, e["id"].(string))
			}
		}
	})
	f.stop = sync.OnceValue(func() []string {
		close(ended)
		wg.Wait()
		return ids
	})
	h.t.Cleanup(func() { f.stop() })
	return f
}

// rotationsOf is how many rotations had been answered when the event of a push was published.
func rotationsOf(t *testing.T, p push) int {
	t.Helper()
	data, _ := p.object(t)["data"].(map[string]any)
	n, ok := data["rotations"].(float64)
	if !ok {
		t.Fatalf("the push is %s", p.body)
	}
	return int(n)
}

// complete fails the test unless each event was delivered.
func (h *herald) complete(id string, events []string, pushes func() map[string]bool) {
	h.t.Helper()
	missing := 0
	h.eventually("every event has been taken", func() bool {
		taken := pushes()
		missing = 0
		for _, e := range events {
			if !taken[e] {
				missing++
			}
		}
		return missing == 0
	})
	h.eventually("nothing of it waits any more", func() bool {
		s := h.admin().do("GET", "/subscriptions/"+id+"/status", nil).is(200).object()
		waiting, _ := s["deliveries"].(map[string]any)
		return waiting["pending"] == float64(0) && waiting["retrying"] == float64(0) && waiting["delivering"] == float64(0)
	})
	if l := h.admin().do("GET", "/deliveries?state=dead&subscription="+id, nil).is(200).list(); len(l) != 0 {
		h.t.Errorf("%d deliveries are dead", len(l))
	}
}

func TestContract_P11_TokenRotationUnderLoad(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	const rotations, concurrency = 6, 8
	token := func(n int) string { return fmt.Sprint("token-", n) }
	var (
		mu       sync.Mutex
		oldest   int // the oldest token that is taken
		taken    = map[string]bool{}
		rejected = map[int]int{} // pushes with a token that has been replaced, by token
	)
	r := receive(t)
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		var n int
		if _, err := fmt.Sscanf(p.header.Get("Authorization"), "Bearer token-%d", &n); err != nil {
			t.Errorf("a push carries %q", p.header["Authorization"])
		}
		mu.Lock()
		defer mu.Unlock()
		if n < oldest {
			rejected[n]++
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		taken[p.id()] = true
	})
	id := h.subscribe(r.URL, fields{
		"authentication": fields{"type": "bearer", "token": token(0)}, "signingSecret": aSecret,
		"delivery": fields{"retrySchedule": promptly(30)["retrySchedule"], "maxConcurrency": concurrency},
	})
	f := h.flow()
	for n := 1; n <= rotations; n++ {
		r.wait(len(r.got()) + 60)
		h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"type": "bearer", "token": token(n)}}).is(200)
		f.rotations.Store(int64(n))
		mu.Lock() // from now on the receiver takes the new one only
		oldest = n
		mu.Unlock()
	}
	r.wait(len(r.got()) + 60)
	events := f.stop()
	h.complete(id, events, func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		seen := make(map[string]bool, len(taken))
		for e := range taken {
			seen[e] = true
		}
		return seen
	})
	used := map[int]int{}
	for _, p := range r.got() {
		var n int
		_, _ = fmt.Sscanf(p.header.Get("Authorization"), "Bearer token-%d", &n)
		used[n]++
		if since := rotationsOf(t, p); n < since {
			t.Errorf("an event published after rotation %d was pushed with the token %d", since, n)
		}
		if !p.verifies(t, aSecret) {
			t.Errorf("the push %s is not signed: %v", p.id(), p.header)
		}
	}
	for n := range rotations + 1 {
		if used[n] == 0 {
			t.Errorf("no push carried the token %d: %v", n, used)
		}
		// Only what was on its way when the change was answered may still arrive.
		if rejected[n] > concurrency {
			t.Errorf("%d pushes began with the token %d after it had been replaced", rejected[n], n)
		}
	}
	t.Logf("%d events, %d pushes, by token %v, of which rejected %v", len(events), len(r.got()), used, rejected)
}

func TestContract_P10_SecretRotationUnderLoad(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	const rotations = 4 // as many as overlap
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n%10 == 0 { // some are signed again, for a retry
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	id := h.subscribe(r.URL, fields{
		"signingSecret": aSecret, "delivery": fields{"retrySchedule": promptly(30)["retrySchedule"], "maxConcurrency": 8},
	})
	secrets := []string{aSecret}
	f := h.flow()
	for n := 1; n <= rotations; n++ {
		r.wait(len(r.got()) + 60)
		secrets = append(secrets, h.admin().do("POST", "/subscriptions/"+id+"/secret", nil).is(200).text("signingSecret"))
		f.rotations.Store(int64(n))
	}
	r.wait(len(r.got()) + 60)
	events := f.stop()
	h.complete(id, events, func() map[string]bool {
		seen := map[string]bool{}
		for i, p := range r.got() {
			if (i+1)%10 != 0 {
				seen[p.id()] = true
			}
		}
		return seen
	})
	signatures := map[int]int{}
	for _, p := range r.got() {
		since := rotationsOf(t, p)
		// A receiver that has not been changed yet takes all of them, and one that has been takes all that came after.
		for n := range since + 1 {
			if !p.verifies(t, secrets[n]) {
				t.Errorf("an event published after rotation %d is not signed with the secret %d: %v", since, n, p.header["Webhook-Signature"])
			}
		}
		signatures[len(strings.Fields(p.header.Get("Webhook-Signature")))]++
	}
	for n := 1; n <= rotations+1; n++ {
		if signatures[n] == 0 {
			t.Errorf("no push had %d signatures: %v", n, signatures)
		}
	}
	t.Logf("%d events, %d pushes, by number of signatures %v", len(events), len(r.got()), signatures)
}
