package dispatch_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/dispatch"
	"herald/queue"
	"herald/store"
)

// book records pushes by subscription.
type book struct {
	mu     sync.Mutex
	start  time.Time
	pushes map[store.SubscriptionID][]entry
}

type entry struct {
	at      time.Duration
	id      string
	attempt int
	data    []string
}

func (b *book) wrap(f sendFunc) sendFunc {
	b.pushes, b.start = make(map[store.SubscriptionID][]entry), time.Now()
	return func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		x := entry{at: time.Since(b.start), id: p.ID, attempt: p.Attempt}
		for _, e := range p.Events {
			x.data = append(x.data, string(e.Data))
		}
		b.mu.Lock()
		b.pushes[sub.ID] = append(b.pushes[sub.ID], x)
		b.mu.Unlock()
		return f(ctx, sub, p)
	}
}

func (b *book) of(sub *store.Subscription) []entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.pushes[sub.ID])
}

// number publishes n events with data {"n":i,"k":i%keys}.
func (h *house) number(t testing.TB, from, n, keys int, lanes ...queue.Lane) {
	t.Helper()
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = queue.Submission{
			Event: queue.Event{
				AccountID: store.DefaultAccount, Type: "task.create", Resource: fmt.Sprintf("project/%d", (from+i)%keys), Time: time.Now().UTC(),
				Data: fmt.Appendf(nil, `{"n":%d,"k":%d}`, from+i, (from+i)%keys),
			},
			Lanes: lanes,
		}
	}
	if _, err := h.queue.Accept(t.Context(), subs); err != nil {
		t.Fatal(err)
	}
}

func ok() queue.Outcome {
	return queue.Outcome{Class: queue.ClassDelivered, Status: 204, StartedAt: time.Now(), Duration: time.Millisecond}
}

func broken() queue.Outcome {
	return queue.Outcome{Class: queue.ClassRetry, Status: 500, Error: "the receiver answered 500", StartedAt: time.Now(), Duration: time.Millisecond}
}

// Strict order through the engine: one at a time, a failing head holds its lane for its retries, and when it
// is dead the lane goes on and says so.
func TestStrictOrderOnEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b book
		var told []string
		var mu sync.Mutex
		now, most := 0, 0
		send := b.wrap(func(_ context.Context, _ *store.Subscription, p queue.Push) queue.Outcome {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			now--
			if strings.HasPrefix(string(p.Events[0].Data), `{"n":3,`) {
				return broken()
			}
			return ok()
		})
		h := build(t, dispatch.Options{Sender: send, Publish: func(_ context.Context, _, kind string, _ time.Time, _ string, data []byte) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, kind+string(data))
			return nil
		}})
		sub := h.subscribe(t, "https://example.com/x", func(s *store.Subscription) {
			s.Delivery.Ordering, s.Delivery.RetrySchedule = store.OrderStrict, "1m,1m"
		})
		h.number(t, 0, 10, 3, queue.Lane(sub.ID))
		time.Sleep(30 * time.Second)
		h.number(t, 10, 10, 3, queue.Lane(sub.ID))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		var got []string
		for _, x := range b.of(sub) {
			got = append(got, fmt.Sprintf("%s/%d", x.data[0][5:strings.Index(x.data[0], ",")], x.attempt))
		}
		want := []string{"0/1", "1/1", "2/1", "3/1", "3/2", "3/3"}
		for i := 4; i < 20; i++ {
			want = append(want, fmt.Sprintf("%d/1", i))
		}
		if !slices.Equal(got, want) || most != 1 {
			t.Errorf("pushes %v, want %v; %d at once", got, want, most)
		}
		if at := b.of(sub)[6].at; at < 2*time.Minute || at > 2*time.Minute+time.Second {
			t.Errorf("the lane went on at %v", at)
		}
		mu.Lock()
		if len(told) != 1 || !strings.HasPrefix(told[0], dispatch.TypeDead) || !strings.Contains(told[0], `"reason":"exhausted"`) {
			t.Errorf("told %v", told)
		}
		mu.Unlock()
		h.stop()
	})
}

// Order by key: each key in order, one at a time, the keys beside each other; a failing one holds its own.
func TestKeyOrderOnEngine(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"", "k"} {
		synctest.Test(t, func(t *testing.T) {
			const keys, n = 8, 400
			var b book
			var mu sync.Mutex
			busy := make(map[string]int)
			most := 0
			key := func(p *queue.Push) string { return p.Events[0].Resource }
			send := b.wrap(func(_ context.Context, _ *store.Subscription, p queue.Push) queue.Outcome {
				mu.Lock()
				if busy[key(&p)]++; busy[key(&p)] > 1 {
					t.Errorf("two pushes of %s at once", key(&p))
				}
				all := 0
				for _, x := range busy {
					all += x
				}
				most = max(most, all)
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				busy[key(&p)]--
				if p.Attempt == 1 && strings.Contains(string(p.Events[0].Data), `7,"k":5`) {
					return broken()
				}
				return ok()
			})
			h := build(t, dispatch.Options{Sender: send})
			sub := h.subscribe(t, "https://example.com/x", func(s *store.Subscription) {
				s.Delivery.Ordering, s.Delivery.OrderingKey, s.Delivery.RetrySchedule = store.OrderKey, field, "1m,1m"
			})
			h.number(t, 0, n, keys, queue.Lane(sub.ID))
			time.Sleep(time.Hour)
			synctest.Wait()
			last, done := make(map[string]int), 0
			for _, x := range b.of(sub) {
				var i, k int
				if _, err := fmt.Sscanf(x.data[0], `{"n":%d,"k":%d}`, &i, &k); err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprint(k)
				if before, seen := last[name]; seen && i < before {
					t.Errorf("key %d: %d after %d", k, i, before)
				}
				last[name] = i
				done++
			}
			if want := n + len(h.failedOnce(n, keys)); done != want {
				t.Errorf("%d pushes, want %d", done, want)
			}
			if most < 4 || most > keys {
				t.Errorf("%d keys at once", most)
			}
			if got := len(h.deliveries(t, queue.Lane(sub.ID), queue.StateDelivered)); got != n {
				t.Errorf("%d delivered", got)
			}
			h.stop()
		})
	}
}

// failedOnce lists the numbers that TestKeyOrderOnEngine refuses at first.
func (*house) failedOnce(n, keys int) (list []int) {
	for i := range n {
		if i%10 == 7 && i%keys == 5 {
			list = append(list, i)
		}
	}
	return list
}

// Batches through the engine: full ones at once, the last after its wait; the same again after a failure and a
// breaker; dissolved when refused.
func TestBatchesOnEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b book
		fail := true
		var mu sync.Mutex
		send := b.wrap(func(_ context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case sub.DataCallbackURL == "https://small.example" && len(p.Events) > 5:
				out := broken()
				out.Status = 413
				return out
			case fail && sub.DataCallbackURL == "https://bad.example":
				return broken()
			}
			return ok()
		})
		h := build(t, dispatch.Options{Sender: send})
		bad := h.subscribe(t, "https://bad.example", func(s *store.Subscription) {
			s.NumberOfRecords, s.MaxWait, s.Delivery.RetrySchedule = 100, time.Second, "1m,1m,1m,1m"
		})
		small := h.subscribe(t, "https://small.example", func(s *store.Subscription) {
			s.NumberOfRecords, s.MaxWait = 40, 0
		})
		h.number(t, 0, 950, 1, queue.Lane(bad.ID), queue.Lane(small.ID))
		time.Sleep(30 * time.Second)
		mu.Lock()
		fail = false
		mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		ids := make(map[string]string)
		for i, x := range b.of(bad) {
			text := strings.Join(x.data, "")
			if known, seen := ids[x.id]; seen && known != text || !strings.HasPrefix(x.id, "bat_") {
				t.Errorf("push %d: id %s stands for other records than before", i, x.id)
			}
			ids[x.id] = text
		}
		if len(ids) != 10 || len(b.of(bad)) != 15 {
			t.Errorf("%d batches in %d pushes", len(ids), len(b.of(bad)))
		}
		for _, sub := range []*store.Subscription{bad, small} {
			if got := len(h.deliveries(t, queue.Lane(sub.ID), queue.StateDelivered)); got != 950 {
				t.Errorf("%s: %d delivered", sub.DataCallbackURL, got)
			}
		}
		if s := h.d.Status(queue.Lane(small.ID)); s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
		h.stop()
	})
}

// What a disabled subscription does not want is discarded; what is held flows when it is enabled, oldest first,
// at a bounded rate.
func TestDisabledOnEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b book
		var mu sync.Mutex
		fail := true
		send := b.wrap(func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
			mu.Lock()
			defer mu.Unlock()
			if fail {
				return broken()
			}
			return ok()
		})
		h := build(t, dispatch.Options{Sender: send, Defaults: dispatch.Defaults{DisableAfter: store.DisableAfter{Failures: 3}}})
		hold := h.subscribe(t, "https://hold.example", func(s *store.Subscription) { s.Delivery.MaxConcurrency = 1 })
		discard := h.subscribe(t, "https://discard.example", func(s *store.Subscription) { s.Delivery.OnDisabled = store.OnDisabledDiscard })
		const n = 3000
		h.number(t, 0, n, 1, queue.Lane(hold.ID), queue.Lane(discard.ID))
		time.Sleep(time.Hour)
		synctest.Wait()
		for sub, want := range map[*store.Subscription]queue.LaneStats{hold: {Pending: n - 3, Retrying: 3}, discard: {}} {
			got := h.queue.LaneStats(queue.Lane(sub.ID))
			if got.Pending != want.Pending || got.Retrying != want.Retrying || got.Delivering != 0 {
				t.Errorf("%s: %+v", sub.DataCallbackURL, got)
			}
			if got := len(b.of(sub)); got != 3 {
				t.Errorf("%s: %d attempts", sub.DataCallbackURL, got)
			}
			s, err := h.store.Subscription(t.Context(), sub.ID)
			if err != nil || s.State != store.StateDisabled || s.StateReason != store.ReasonFailures || s.Discarding != (sub == discard) {
				t.Errorf("%s: %+v, %v", sub.DataCallbackURL, s, err)
			}
		}
		mu.Lock()
		fail = false
		mu.Unlock()
		enabled := time.Now()
		if _, err := h.store.UpdateSubscription(t.Context(), hold.ID, func(s *store.Subscription) error {
			s.State, s.StateReason, s.StateSince, s.Health = store.StateActive, "", enabled, store.Health{}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		h.d.Changed(queue.Lane(hold.ID))
		time.Sleep(time.Minute)
		synctest.Wait()
		flowed := b.of(hold)[3:]
		if len(flowed) != n {
			t.Fatalf("%d flowed", len(flowed))
		}
		took := flowed[n-1].at - flowed[0].at
		if took < 2800*time.Millisecond || took > 3200*time.Millisecond {
			t.Errorf("%d took %v", n, took)
		}
		next := 3
		for _, x := range flowed {
			if x.attempt > 1 {
				continue
			}
			if want := fmt.Sprintf(`{"n":%d,"k":0}`, next); x.data[0] != want {
				t.Fatalf("%s flowed when %s was to", x.data[0], want)
			}
			next++
		}
		h.stop()
	})
}
