package dispatch_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"herald/daemon/dispatch"
	"herald/daemon/sender/webhook"
	"herald/queue"
	"herald/queue/boltqueue"
	"herald/store"
	"herald/store/boltstore"
)

// house is the dispatcher over the engines that ship.
type house struct {
	store *boltstore.Store
	queue *boltqueue.Queue
	d     *dispatch.Dispatcher
	stop  func()
}

func build(t testing.TB, o dispatch.Options) *house {
	t.Helper()
	dir := t.TempDir()
	key, err := boltstore.CreateKey(filepath.Join(dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := boltstore.Open(boltstore.Options{Path: filepath.Join(dir, "store.db"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	q, err := boltqueue.Open(boltqueue.Options{Dir: dir, Retention: queue.Retention{
		Events: 1000 * time.Hour, Attempts: 1000 * time.Hour, Dead: 1000 * time.Hour,
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{store: s, queue: q}
	o.Queue, o.Store = q, s
	if h.d, err = dispatch.New(o); err != nil {
		t.Fatal(err)
	}
	var below, above sync.WaitGroup
	engines, stopEngines := context.WithCancel(context.Background())
	upper, stopUpper := context.WithCancel(context.Background())
	run := func(wg *sync.WaitGroup, what string, f func(context.Context) error, ctx context.Context) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	run(&below, "store", s.Run, engines)
	run(&below, "queue", q.Run, engines)
	for errors.Is(q.Healthy(), queue.ErrClosed) {
		time.Sleep(time.Millisecond)
	}
	run(&above, "dispatcher", h.d.Run, upper)
	h.stop = func() {
		stopUpper()
		above.Wait()
		if err := q.Check(t.Context()); err != nil {
			t.Errorf("check queue: %v", err)
		}
		stopEngines()
		below.Wait()
		if err := errors.Join(q.Close(), s.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	return h
}

var signingKey = []byte("0123456789abcdefghijklmn")

func (h *house) subscribe(t testing.TB, url string, change func(*store.Subscription)) *store.Subscription {
	t.Helper()
	id, err := store.NewSubscriptionID()
	if err != nil {
		t.Fatal(err)
	}
	sub := &store.Subscription{
		ID: id, AccountID: store.DefaultAccount, DataCallbackURL: url, ExportFormat: "application/json",
		NumberOfRecords: 1, Payload: store.PayloadEnvelope, Method: http.MethodPost, State: store.StateActive,
		SigningSecrets: []store.SigningSecret{{Key: signingKey}}, CreatedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC(), StateSince: time.Now().UTC(),
	}
	if change != nil {
		change(sub)
	}
	if err := h.store.CreateSubscription(t.Context(), sub, 0); err != nil {
		t.Fatal(err)
	}
	return sub
}

func (h *house) publish(t testing.TB, n int, lanes ...queue.Lane) {
	t.Helper()
	subs := make([]queue.Submission, n)
	for i := range subs {
		subs[i] = queue.Submission{
			Event: queue.Event{AccountID: store.DefaultAccount, Type: "task.create", Time: time.Now().UTC(), Data: []byte(`{"n": 1}`)},
			Lanes: lanes,
		}
	}
	if _, err := h.queue.Accept(t.Context(), subs); err != nil {
		t.Fatal(err)
	}
}

func (h *house) deliveries(t testing.TB, lane queue.Lane, state queue.State) []*queue.Delivery {
	t.Helper()
	ds, err := h.queue.Deliveries(t.Context(), queue.DeliveryFilter{Lane: lane, State: state, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

type sendFunc func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome

func (f sendFunc) Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	return f(ctx, sub, p)
}

// The named schedules, through the engine that ships: each retry at its instant, to the millisecond
// that the engine keeps, and all attempts on record.
func TestSchedulesOnEngine(t *testing.T) {
	t.Parallel()
	for _, name := range queue.ScheduleNames() {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Time
			send := func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
				at = append(at, time.Now())
				return queue.Outcome{Class: queue.ClassRetry, Status: 500, Error: "the receiver answered 500", StartedAt: time.Now()}
			}
			h := build(t, dispatch.Options{Sender: sendFunc(send)})
			sub := h.subscribe(t, "https://example.com", func(s *store.Subscription) { s.Delivery.RetrySchedule = name })
			schedule, err := queue.ParseSchedule(name)
			if err != nil {
				t.Fatal(err)
			}
			h.publish(t, 1, queue.Lane(sub.ID))
			time.Sleep(100 * time.Hour)
			synctest.Wait()
			want := schedule.Waits()
			if len(at) != len(want)+1 {
				t.Fatalf("%s: %d attempts, want %d", name, len(at), len(want)+1)
			}
			for i, w := range want {
				if got := at[i+1].Sub(at[i]); got < w-time.Millisecond || got > w+2*time.Millisecond {
					t.Errorf("%s: wait %d was %v, want %v", name, i+1, got, w)
				}
			}
			dead := h.deliveries(t, queue.Lane(sub.ID), queue.StateDead)
			if len(dead) != 1 || dead[0].Reason != queue.ReasonExhausted || dead[0].Attempts != len(want)+1 {
				t.Fatalf("%s: dead are %+v", name, dead)
			}
			_, attempts, err := h.queue.Delivery(t.Context(), "", dead[0].ID)
			if err != nil || len(attempts) != len(want)+1 || attempts[len(want)].Number != len(want)+1 {
				t.Errorf("%s: attempts on record: %d, %v", name, len(attempts), err)
			}
			h.stop()
		})
	}
}

// What is held costs no attempt and flows when the subscription is active again; what was deleted is
// discarded.
func TestHoldAndDropOnEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sent := make(map[store.SubscriptionID]int)
		gone := make(map[store.SubscriptionID]bool)
		send := func(_ context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
			mu.Lock()
			defer mu.Unlock()
			if gone[sub.ID] {
				return queue.Outcome{Class: queue.ClassGone, Status: 410}
			}
			if p.Attempt > 2 {
				t.Errorf("attempt %d", p.Attempt)
			}
			sent[sub.ID]++
			return queue.Outcome{Class: queue.ClassDelivered, Status: 204}
		}
		h := build(t, dispatch.Options{Sender: sendFunc(send)})
		paused := h.subscribe(t, "https://a.example", func(s *store.Subscription) { s.State = store.StatePaused })
		vanished := h.subscribe(t, "https://b.example", nil)
		refused := h.subscribe(t, "https://c.example", nil)
		deleted := h.subscribe(t, "https://d.example", func(s *store.Subscription) { s.State = store.StatePaused })
		gone[vanished.ID] = true
		lanes := []queue.Lane{queue.Lane(paused.ID), queue.Lane(vanished.ID), queue.Lane(refused.ID), queue.Lane(deleted.ID)}
		const n = 500
		h.publish(t, n, lanes...)
		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		if sent[paused.ID] != 0 || sent[vanished.ID] != 0 || sent[refused.ID] != n || sent[deleted.ID] != 0 {
			t.Errorf("sent %v", sent)
		}
		gone[vanished.ID] = false
		mu.Unlock()
		if s, err := h.store.Subscription(t.Context(), vanished.ID); err != nil || s.State != store.StateDisabled || s.StateReason != store.ReasonGone {
			t.Errorf("after 410: %+v, %v", s, err)
		}
		for _, id := range []store.SubscriptionID{paused.ID, vanished.ID} {
			if _, err := h.store.UpdateSubscription(t.Context(), id, func(s *store.Subscription) error {
				s.State, s.StateReason = store.StateActive, ""
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			h.d.Changed(queue.Lane(id))
		}
		if err := h.store.DeleteSubscription(t.Context(), "", deleted.ID); err != nil {
			t.Fatal(err)
		}
		h.d.Changed(queue.Lane(deleted.ID))
		time.Sleep(time.Hour)
		synctest.Wait()
		for i, lane := range lanes[:3] {
			if got := len(h.deliveries(t, lane, queue.StateDelivered)); got != n {
				t.Errorf("lane %d: %d were delivered", i, got)
			}
		}
		if stats := h.queue.Stats(); stats.Pending != 0 || stats.Retrying != 0 || stats.Delivering != 0 || stats.Dead != 0 {
			t.Errorf("stats %+v", stats)
		}
		h.stop()
	})
}

// Events go out as signed requests to real receivers, each once when all goes well, whatever a receiver
// that hangs does beside them.
func TestDeliveryOverTheWire(t *testing.T) {
	t.Parallel()
	verifier, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(signingKey))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := make(map[string]int)
	var flaky int
	arrived := make(chan struct{}, 1)
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		if err != nil {
			t.Errorf("request: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if flaky++; flaky%50 == 0 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		seen[r.Header.Get("Webhook-Id")]++
		select {
		case arrived <- struct{}{}:
		default:
		}
	}))
	defer good.Close()
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)

	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	defer tr.CloseIdleConnections()
	sender, err := webhook.New(webhook.Options{Transport: tr, UserAgent: "Herald/test"})
	if err != nil {
		t.Fatal(err)
	}
	h := build(t, dispatch.Options{Sender: sender, Grace: time.Nanosecond, Workers: 16})
	var lanes []queue.Lane
	for i := range 3 {
		sub := h.subscribe(t, good.URL+fmt.Sprintf("/%d", i), func(s *store.Subscription) { s.Delivery.RetrySchedule = "1s,1s,1s" })
		lanes = append(lanes, queue.Lane(sub.ID))
	}
	lost := h.subscribe(t, hanging.URL, nil)
	h.publish(t, 500, append(slices.Clone(lanes), queue.Lane(lost.ID))...)
	deadline := time.After(30 * time.Second)
	for done := false; !done; {
		select {
		case <-deadline:
			t.Error("not all was delivered in time")
			done = true
		case <-arrived:
		case <-time.After(100 * time.Millisecond):
		}
		mu.Lock()
		total := 0
		for _, n := range seen {
			total += n
		}
		done = done || total >= 1500
		mu.Unlock()
	}
	time.Sleep(50 * time.Millisecond)
	mu.Lock()
	for id, n := range seen {
		if n != 3 {
			t.Errorf("event %s arrived %d times, want once in each of three lanes", id, n)
		}
	}
	if len(seen) != 500 {
		t.Errorf("%d events arrived", len(seen))
	}
	mu.Unlock()
	if held := len(h.deliveries(t, queue.Lane(lost.ID), queue.StateDelivered)); held != 0 {
		t.Errorf("%d deliveries to the hanging receiver", held)
	}
	h.stop()
}
