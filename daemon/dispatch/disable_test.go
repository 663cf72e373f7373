package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

// press records what is published.
type press struct {
	mu    sync.Mutex
	start time.Time
	err   error
	hold  chan struct{}
	tries int
	all   []published
}

type published struct {
	after       time.Duration
	kind, id    string
	at          time.Time
	data        noticeData
	text        string
	account     string
	wasRepeated bool
}

func (p *press) publish(ctx context.Context, account, kind string, at time.Time, id string, data []byte) error {
	if p.hold != nil {
		<-p.hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries++
	if p.err != nil {
		return p.err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	x := published{after: time.Since(p.start), kind: kind, id: id, at: at, text: string(data), account: account}
	if err := json.Unmarshal(data, &x.data); err != nil {
		return err
	}
	for _, y := range p.all {
		x.wasRepeated = x.wasRepeated || y.id == id
	}
	p.all = append(p.all, x)
	return nil
}

func (p *press) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, x := range p.all {
		if x.kind != TypeDead {
			list = append(list, fmt.Sprintf("%v %s %d", x.after, strings.TrimPrefix(x.kind, "herald.subscription."), x.data.Percent))
		}
	}
	return list
}

func (p *press) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// Failing for as long as the policy says disables: warned of at the exact percentages, decided by a last
// probe at the exact end.
func TestDisableByDuration(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		var f faulty
		var p press
		after := store.DisableAfter{Duration: time.Hour}
		defaults := Defaults{Schedule: mustSchedule(t, "5s,40m,10h"), DisableAfter: after}
		change := func(*store.Subscription) {}
		if own {
			after.Set = true
			defaults.DisableAfter = store.DisableAfter{Failures: 3}
			change = func(s *store.Subscription) { s.Delivery.DisableAfter = after }
		}
		inBubble(t, Options{Sender: sendFunc(f.send), Publish: p.publish, Defaults: defaults}, func(t *testing.T, b *bench) {
			f.start, p.start = time.Now(), time.Now()
			b.subscribe(nth(1), change)
			b.q.add(nth(1), 100)
			synctest.Wait()
			for _, c := range []struct {
				at     time.Duration
				warned int
			}{{30*time.Minute - 1, 0}, {30 * time.Minute, 50}, {45*time.Minute - 1, 50}, {45 * time.Minute, 75}, {54*time.Minute - 1, 75}, {54 * time.Minute, 90}} {
				time.Sleep(c.at - time.Since(f.start))
				synctest.Wait()
				if h := b.sub(nth(1)).Health; h.Warned != c.warned || h.Notice != "" {
					t.Errorf("after %v the store has %+v", c.at, h)
				}
				if s := b.Status(nth(1)); s.Warned != c.warned {
					t.Errorf("after %v the status is %+v", c.at, s)
				}
			}
			time.Sleep(100 * time.Hour)
			synctest.Wait()
			if got := f.times(); !slices.Equal(got, five(5*time.Second, 40*time.Minute+5*time.Second, time.Hour)) {
				t.Errorf("attempts at %v", got)
			}
			s := b.sub(nth(1))
			end := f.start.Add(time.Hour)
			if s.State != store.StateDisabled || s.StateReason != store.ReasonFailing || !s.StateSince.Equal(end) || !s.UpdatedAt.Equal(end) || s.Discarding {
				t.Errorf("subscription %+v", s)
			}
			if !s.Health.FailingSince.Equal(f.start) || s.Health.Failures != 8 || !s.Health.OpenedAt.IsZero() || s.Health.Notice != "" {
				t.Errorf("health %+v", s.Health)
			}
			if got, want := p.list(), []string{"30m0s warning 50", "45m0s warning 75", "54m0s warning 90", "1h0m0s disabled 0"}; !slices.Equal(got, want) {
				t.Errorf("published %v, want %v", got, want)
			}
			w := p.all[0]
			if !w.data.DisableAt.Equal(end) || !w.data.FailingSince.Equal(f.start) || w.data.State != "active" || !w.at.Equal(f.start.Add(30*time.Minute)) || w.account != "default" {
				t.Errorf("warning %+v", w)
			}
			for _, x := range p.all {
				if x.data.DataCallbackHost != "example.com" || x.data.SubscriptionID != s.ID.String() || strings.Contains(x.text, "secret") || len(x.id) != 39 {
					t.Errorf("event %+v", x)
				}
			}
			if n := b.heldLanes(); n != 1 {
				t.Errorf("%d lanes are held", n)
			}
			if n := b.locked(func() int { return b.open + len(b.alarms) }); n != 0 {
				t.Errorf("%d breakers and alarms are left", n)
			}
			b.q.done(t, 0)
			f.mended.Store(true)
			b.change(nth(1), func(s *store.Subscription) {
				s.State, s.StateReason, s.StateSince, s.Health = store.StateActive, "", time.Now(), store.Health{}
			})
			synctest.Wait()
			b.q.done(t, 100)
		})
	}
}

// So many failed pushes in a row disable, with warnings when half, three quarters and nine tenths of them,
// rounded up, are reached.
func TestDisableByFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failures int
		warned   []int // failures at which there is a warning, by percentage
	}{{10, []int{5, 8, 9}}, {1, nil}, {2, []int{1}}, {3, []int{2}}, {4, []int{2, 3}}, {100, []int{50, 75, 90}}} {
		var f faulty
		var p press
		o := Options{Sender: sendFunc(f.send), Publish: p.publish, Defaults: Defaults{
			Schedule: mustSchedule(t, "1s"), DisableAfter: store.DisableAfter{Failures: c.failures},
		}}
		inBubble(t, o, func(t *testing.T, b *bench) {
			f.start, p.start = time.Now(), time.Now()
			b.subscribe(nth(1))
			b.q.add(nth(1), 1000)
			time.Sleep(time.Hour)
			synctest.Wait()
			if got := len(f.times()); got != c.failures {
				t.Errorf("%d failures: %d attempts", c.failures, got)
			}
			var want []string
			for i, n := range c.warned {
				want = append(want, fmt.Sprintf("%v warning %d", f.times()[n-1], warnings[i]))
			}
			want = append(want, fmt.Sprintf("%v disabled 0", f.times()[c.failures-1]))
			got := p.list()
			// Several at one moment: only the last matters, and the percentage is what is true by then.
			if c.failures > 4 {
				if len(got) == 0 || got[len(got)-1] != want[len(want)-1] || !slices.Contains(got, want[len(want)-2]) {
					t.Errorf("%d failures: published %v, want %v", c.failures, got, want)
				}
			}
			if s := b.sub(nth(1)); s.State != store.StateDisabled || s.StateReason != store.ReasonFailures || s.Health.Failures != c.failures {
				t.Errorf("%d failures: %+v", c.failures, s)
			}
		})
	}
	l := &lane{policy: &policy{disableAfter: store.DisableAfter{Failures: 10}}}
	d := newBench(t, Options{Sender: sendFunc(failed)}).Dispatcher
	l.policy.defaults = d.defaults.Load()
	l.policy.schedule, l.policy.retries = l.policy.defaults.Schedule, l.policy.defaults.retries
	var warned []int
	for range 9 {
		if d.failure(l, true, 0, time.Now()) != "" {
			t.Error("disabled before its time")
		}
		warned = append(warned, int(l.trouble.health.warned))
	}
	if want := []int{0, 0, 0, 0, 50, 50, 50, 75, 90}; !slices.Equal(warned, want) {
		t.Errorf("warned %v, want %v", warned, want)
	}
	if d.failure(l, true, 0, time.Now()) != store.ReasonFailures {
		t.Error("not disabled")
	}
}

// One success and everything begins anew.
func TestSuccessResetsDisabling(t *testing.T) {
	t.Parallel()
	var f faulty
	var p press
	o := Options{Sender: sendFunc(f.send), Publish: p.publish, Defaults: Defaults{
		Schedule: mustSchedule(t, "10s,10s,10s,10s,10s,10s,10s,10s,10s,10s"), DisableAfter: store.DisableAfter{Duration: 100 * time.Second},
	}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		f.start, p.start = time.Now(), time.Now()
		b.subscribe(nth(1))
		b.q.add(nth(1), 1)
		time.Sleep(65 * time.Second)
		f.mended.Store(true)
		time.Sleep(10 * time.Second)
		f.mended.Store(false)
		b.q.add(nth(1), 1)
		time.Sleep(65 * time.Second)
		synctest.Wait()
		if got, want := p.list(), []string{"50s warning 50", "2m5s warning 50"}; !slices.Equal(got, want) {
			t.Errorf("published %v, want %v", got, want)
		}
		if s := b.sub(nth(1)); s.State != store.StateActive {
			t.Errorf("state %s", s.State)
		}
	})
}

// A restart repeats no warning; after a long stop only the highest that passed is given.
func TestWarningsOutliveRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stop time.Duration
		want []string
	}{
		{time.Minute, []string{"50m0s warning 50", "1h15m0s warning 75", "1h30m0s warning 90"}},
		{40*time.Minute - 1, []string{"50m0s warning 50", "1h39m59.999999999s warning 90"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var f faulty
			var p press
			f.start, p.start = time.Now(), time.Now()
			o := Options{Sender: sendFunc(f.send), Publish: p.publish, Defaults: Defaults{
				Schedule: mustSchedule(t, "1s,1s,1s,1s,1s,700h"), DisableAfter: store.DisableAfter{Duration: 100 * time.Minute},
			}}
			b := newBench(t, o)
			go func() { b.ended <- b.Run(t.Context()) }()
			b.subscribe(nth(1))
			b.q.add(nth(1), 1)
			time.Sleep(time.Hour)
			b.stop(t)
			// The delivery waits for days: the lane is taken up though nothing is due.
			again := newBench(t, o)
			again.s.subs = b.s.subs
			time.Sleep(c.stop)
			go func() { again.ended <- again.Run(t.Context()) }()
			time.Sleep(99*time.Minute + 30*time.Second - time.Since(f.start))
			synctest.Wait()
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := p.list(); !slices.Equal(got, c.want) {
				t.Errorf("published %v, want %v", got, c.want)
			}
			again.stop(t)
		})
	}
}

// Disabled with discard: what waits is discarded, also when the queue does not take that at first.
func TestDisableDiscards(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		var f faulty
		o := Options{Sender: sendFunc(f.send), Defaults: Defaults{DisableAfter: store.DisableAfter{Failures: 2}}}
		change := func(s *store.Subscription) { s.Delivery.OnDisabled = store.OnDisabledDiscard }
		if !own {
			o.Defaults.OnDisabled = store.OnDisabledDiscard
			change = func(*store.Subscription) {}
		}
		inBubble(t, o, func(t *testing.T, b *bench) {
			b.q.dropErr = errors.New("disk on fire")
			b.subscribe(nth(1), change)
			b.q.add(nth(1), 10)
			time.Sleep(storeDelay - 1)
			synctest.Wait()
			if s := b.sub(nth(1)); s.State != store.StateDisabled || !s.Discarding {
				t.Errorf("subscription %+v", s)
			}
			b.q.done(t, 0)
			b.q.mu.Lock()
			b.q.dropErr = nil
			b.q.mu.Unlock()
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			b.q.done(t, 10)
			if b.q.discarded[nth(1)] != 1 || len(b.q.dropped) != 0 || len(f.times()) != 2 {
				t.Errorf("discarded %d, dropped %d, %d attempts", b.q.discarded[nth(1)], len(b.q.dropped), len(f.times()))
			}
		})
	}
}

// When the store does not take the disabling, the lane goes on as before, and it is tried again.
func TestDisableWithFailingStore(t *testing.T) {
	t.Parallel()
	var f faulty
	o := Options{Sender: sendFunc(f.send), Defaults: Defaults{
		Schedule: mustSchedule(t, "1m,1m,1m,1m,1m,1m,1m"), DisableAfter: store.DisableAfter{Duration: 90 * time.Second},
	}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		f.start = time.Now()
		b.s.updateErr = errors.New("disk on fire")
		b.subscribe(nth(1))
		b.q.add(nth(1), 20)
		time.Sleep(100 * time.Second)
		synctest.Wait()
		n := len(f.times())
		if n < 7 || f.times()[6] != 90*time.Second {
			t.Errorf("attempts at %v", f.times())
		}
		b.s.mu.Lock()
		b.s.updateErr = nil
		b.s.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := b.sub(nth(1)); s.State != store.StateDisabled || s.StateReason != store.ReasonFailing {
			t.Errorf("subscription %+v", s)
		}
		if m := len(f.times()); m != n+1 {
			t.Errorf("attempts at %v", f.times())
		}
	})
}

// A failing publisher delays notices and nothing else; what was stored with the state is cleared when it is
// told, and told after a restart otherwise, as the same event.
func TestNoticesSurvive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f faulty
		var p press
		f.start, p.start = time.Now(), time.Now()
		p.err = errors.New("disk on fire")
		o := Options{Sender: sendFunc(f.send), Publish: p.publish, Defaults: Defaults{DisableAfter: store.DisableAfter{Failures: 1}}}
		b := newBench(t, o)
		go func() { b.ended <- b.Run(t.Context()) }()
		b.subscribe(nth(1))
		b.subscribe(nth(2))
		b.q.add(nth(1), 10)
		time.Sleep(time.Minute)
		synctest.Wait()
		if h := b.sub(nth(1)).Health; h.Notice != TypeDisabled || !h.NoticeAt.Equal(f.start) {
			t.Errorf("the store has %+v", h)
		}
		if p.tries < 10 || p.tries > 14 {
			t.Errorf("%d tries in a minute, want one in %v", p.tries, storeDelay)
		}
		f.mended.Store(true)
		other := b.q.add(nth(2), 10)
		synctest.Wait()
		if !other[9].done {
			t.Error("another lane waits for the publisher")
		}
		b.stop(t)
		p.fail(nil)
		for range 2 {
			again := newBench(t, o)
			again.s.subs = b.s.subs
			go func() { again.ended <- again.Run(t.Context()) }()
			time.Sleep(time.Minute)
			again.stop(t)
		}
		if got := p.list(); len(got) != 1 || !strings.HasSuffix(got[0], " disabled 0") || !p.all[0].at.Equal(f.start) {
			t.Errorf("published %v", got)
		}
		if h := b.sub(nth(1)).Health; h.Notice != "" || !h.NoticeAt.IsZero() || h.Failures != 1 {
			t.Errorf("the store has %+v", h)
		}
		x, y := notice{sub: store.SubscriptionID(nth(1)), kind: TypeDisabled, at: f.start}, notice{sub: store.SubscriptionID(nth(1)), kind: TypeDisabled, at: f.start, stored: true}
		if x.id() != y.id() || x.id() != p.all[0].id {
			t.Error("the id of an event is not the same every time")
		}
		y.at = y.at.Add(time.Millisecond)
		if x.id() == y.id() {
			t.Error("two events have the same id")
		}
	})
}

// 410 is told as gone, enabling as it is announced.
func TestGoneAndEnabledAreTold(t *testing.T) {
	t.Parallel()
	var p press
	send := func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
		return queue.Outcome{Class: queue.ClassGone, Status: 410}
	}
	inBubble(t, Options{Sender: sendFunc(send), Publish: p.publish}, func(t *testing.T, b *bench) {
		p.start = time.Now()
		b.subscribe(nth(1))
		b.q.add(nth(1), 10)
		synctest.Wait()
		if h := b.sub(nth(1)).Health; h.Notice != "" {
			t.Errorf("health %+v", h)
		}
		b.Announce(store.SubscriptionID(nth(1)), TypeEnabled)
		b.Announce(store.SubscriptionID(nth(9)), TypeEnabled) // of one deleted meanwhile
		synctest.Wait()
		if got, want := p.list(), []string{"0s gone 0", "0s enabled 0"}; !slices.Equal(got, want) {
			t.Errorf("published %v, want %v", got, want)
		}
		if d := p.all[0].data; d.State != "disabled" || d.Reason != store.ReasonGone {
			t.Errorf("told %+v", d)
		}
	})
}

// Deliveries that are given up are told, each; those of Herald's own events are not. A flood of them is cut
// off, counted, and holds nobody up.
func TestDeadDeliveriesAreTold(t *testing.T) {
	t.Parallel()
	var p press
	send := func(context.Context, *store.Subscription, queue.Push) queue.Outcome {
		return queue.Outcome{Class: queue.ClassRejected, Status: 400, Error: "the receiver answered 400"}
	}
	synctest.Test(t, func(t *testing.T) {
		p.hold = make(chan struct{})
		b := newBench(t, Options{Sender: sendFunc(send), Publish: p.publish})
		go func() { b.ended <- b.Run(t.Context()) }()
		p.start = time.Now()
		b.subscribe(nth(1), func(s *store.Subscription) { s.NumberOfRecords = 10 })
		b.q.addTyped(nth(1), 20, "herald.subscription.disabled")
		b.q.addTyped(nth(1), 5, "herald.ping")
		synctest.Wait()
		first := b.q.add(nth(1), 20)
		synctest.Wait()
		b.q.add(nth(1), 5000)
		synctest.Wait()
		b.q.done(t, 5045)
		close(p.hold)
		synctest.Wait()
		if n := len(p.all); n < maxDead || n > maxDead+2*publishers {
			t.Errorf("%d were told", n)
		}
		if log := b.log.String(); strings.Count(log, "too many deliveries die") != 1 {
			t.Errorf("the log says %d times that some are not told", strings.Count(log, "too many deliveries die"))
		}
		slices.SortFunc(p.all, func(a, b published) int { return strings.Compare(a.data.DeliveryID, b.data.DeliveryID) })
		got, it := p.all[0], first[0]
		if d := got.data; got.kind != TypeDead || d.DeliveryID != it.Delivery(0).String() || d.EventID != it.Deliveries[0].Event.ID || d.EventType != "task.create" ||
			d.Reason != queue.ReasonRejected || d.Attempts != 2 || d.LastStatus != 400 || d.LastError != "the receiver answered 400" || d.DataCallbackHost != "example.com" {
			t.Errorf("told %+v", got)
		}
		for _, x := range p.all {
			if x.wasRepeated || strings.Contains(x.text, "secret") {
				t.Errorf("told %+v", x)
			}
		}
		b.stop(t)
	})
}

// Warnings never come early, late or twice, whatever happens.
func TestWarningsAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var f faulty
		var p press
		limit := time.Duration(1+r.IntN(100)) * time.Minute
		var mu sync.Mutex
		random := func() float64 {
			mu.Lock()
			defer mu.Unlock()
			return r.Float64()
		}
		o := Options{Sender: sendFunc(f.send), Publish: p.publish, Rand: random, Defaults: Defaults{
			Jitter: 0.5, Schedule: mustSchedule(t, "5s,1m,7m,20m"), DisableAfter: store.DisableAfter{Duration: limit},
		}}
		inBubble(t, o, func(t *testing.T, b *bench) {
			f.start, p.start = time.Now(), time.Now()
			b.subscribe(nth(1))
			b.q.add(nth(1), 100)
			for range 20 {
				time.Sleep(time.Duration(random() * float64(limit/10)))
				b.change(nth(1), func(s *store.Subscription) { s.Resource += "x" })
			}
			time.Sleep(2 * limit)
			synctest.Wait()
			var want []string
			for _, w := range warnings {
				want = append(want, fmt.Sprintf("%v warning %d", limit/100*time.Duration(w), w))
			}
			want = append(want, fmt.Sprintf("%v disabled 0", limit))
			if got := p.list(); !slices.Equal(got, want) {
				t.Errorf("seed %d: published %v, want %v", seed, got, want)
			}
		})
	}
}
