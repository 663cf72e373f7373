package dispatch

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

func limited(rate float64, burst int) func(*store.Subscription) {
	return func(s *store.Subscription) { s.Delivery.RateLimit, s.Delivery.RateBurst = rate, burst }
}

// Each record of a limited subscription goes at its exact moment.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rate  float64
		burst int
		first int // that go at once
		each  time.Duration
	}{
		{1, 0, 1, time.Second},
		{10, 0, 10, 100 * time.Millisecond},
		{10, 1, 1, 100 * time.Millisecond},
		{10, 25, 25, 100 * time.Millisecond},
		{0.1, 0, 1, 10 * time.Second},
		{0.5, 3, 3, 2 * time.Second},
		{2.5, 0, 2, 400 * time.Millisecond},
		{3, 1, 1, 333333333},
	} {
		for _, own := range []bool{true, false} {
			if !own && c.burst != 0 {
				continue
			}
			var calls calls
			o := Options{Sender: calls.wrap(delivered)}
			change := limited(c.rate, c.burst)
			if !own {
				o.Defaults.RateLimit = c.rate
				change = func(*store.Subscription) {}
			}
			inBubble(t, o, func(t *testing.T, b *bench) {
				calls.start = time.Now()
				b.subscribe(nth(1), change)
				const n = 60
				b.q.add(nth(1), n)
				time.Sleep(n * c.each)
				synctest.Wait()
				var want []time.Duration
				for i := range n {
					want = append(want, max(time.Duration(i-c.first+1), 0)*c.each)
				}
				if got := calls.times(); !slices.Equal(got, want) {
					t.Errorf("%+v: records at %v, want %v", c, got, want)
				}
				b.q.done(t, n)
				// It fills up again while nothing goes, and not beyond its size; it is remembered until then.
				time.Sleep(time.Duration(c.first+5) * c.each)
				before := len(calls.times())
				b.q.add(nth(1), n)
				synctest.Wait()
				if got := len(calls.times()) - before; got != c.first {
					t.Errorf("%+v: %d at once after a rest, want %d", c, got, c.first)
				}
				time.Sleep(c.each * n)
			})
		}
	}
}

// A limit that is slower than lanes are forgotten holds all the same.
func TestRateLimitIsNotForgotten(t *testing.T) {
	t.Parallel()
	var c calls
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		c.start = time.Now()
		b.subscribe(nth(1), limited(0.001, 1))
		var want []time.Duration
		for i := range 5 {
			want = append(want, time.Duration(i)*1000*time.Second)
			b.q.add(nth(1), 1)
			time.Sleep(600 * time.Second)
		}
		time.Sleep(5000 * time.Second)
		synctest.Wait()
		if got := c.times(); !slices.Equal(got, want) {
			t.Errorf("records at %v, want %v", got, want)
		}
	})
}

// Batches count by their records: never more than the limit in any span, and one that has to stay together
// goes whole and is waited for afterwards.
func TestRateLimitOfBatches(t *testing.T) {
	t.Parallel()
	var sizes []int
	var c calls
	fail := true
	send := c.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		sizes = append(sizes, len(p.Events))
		if fail {
			fail = false
			return failed(ctx, sub, p)
		}
		return delivered(ctx, sub, p)
	})
	o := Options{Sender: send, Defaults: Defaults{Schedule: mustSchedule(t, "1s,1s,1s")}}
	inBubble(t, o, func(t *testing.T, b *bench) {
		c.start = time.Now()
		b.subscribe(nth(1), limited(5, 20), func(s *store.Subscription) { s.NumberOfRecords, s.Delivery.MaxConcurrency = 100, 1 })
		b.q.add(nth(1), 40)
		time.Sleep(time.Minute)
		synctest.Wait()
		// The burst goes as one batch, which fails. After a second the batch is due again and goes whole, and the others
		// wait for its 20. They do not go one by one then, but the five of a second together.
		total := 0
		for i, at := range c.times() {
			total += sizes[i]
			if allowed := 20 + 20 + int(5*at.Seconds()); total > allowed {
				t.Errorf("%d records by %v, allowed are %d", total, at, allowed)
			}
		}
		if sizes[0] != 20 || !slices.Contains(sizes[1:], 20) || total != 60 {
			t.Errorf("batches of %v at %v", sizes, c.times())
		}
		s := time.Second
		if !slices.Equal(sizes, []int{20, 20, 5, 5, 5, 5}) || !slices.Equal(c.times(), []time.Duration{0, s, 5 * s, 6 * s, 7 * s, 8 * s}) {
			t.Errorf("batches of %v at %v", sizes, c.times())
		}
		b.q.done(t, 40)
	})
}

// At a high rate several go at a time, and still no more than the limit in any span.
func TestHighRateLimit(t *testing.T) {
	t.Parallel()
	var c calls
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		c.start = time.Now()
		b.subscribe(nth(1), limited(10_000, 100))
		b.q.add(nth(1), 2000)
		time.Sleep(time.Second)
		synctest.Wait()
		for i, at := range c.times() {
			if allowed := 100 + int(at/(100*time.Microsecond)); i+1 > allowed {
				t.Fatalf("%d records by %v", i+1, at)
			}
		}
		if last := c.times()[1999]; last > 200*time.Millisecond {
			t.Errorf("the last went at %v", last)
		}
		if b.q.asks > 600 {
			t.Errorf("asked %d times in half a second", b.q.asks)
		}
	})
}

// A changed limit holds at once; the change is no way around it.
func TestRateLimitChanges(t *testing.T) {
	t.Parallel()
	var c calls
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		c.start = time.Now()
		b.subscribe(nth(1), limited(1, 1))
		b.q.add(nth(1), 30)
		time.Sleep(2500 * time.Millisecond)
		for range 10 {
			b.change(nth(1), func(s *store.Subscription) { s.Resource += "x" })
			synctest.Wait()
		}
		b.change(nth(1), limited(10, 1))
		time.Sleep(time.Second)
		b.change(nth(1), limited(0, 0))
		synctest.Wait()
		want := []time.Duration{0, time.Second, 2 * time.Second}
		for i := range 10 {
			want = append(want, 2600*time.Millisecond+time.Duration(i)*100*time.Millisecond)
		}
		got := c.times()
		if len(got) != 30 || got[29] != 3500*time.Millisecond {
			t.Errorf("records at %v", got)
		}
		if got := got[:12]; !slices.Equal(got, want[:12]) {
			t.Errorf("records at %v, want %v", got, want[:12])
		}
	})
}

// The bucket against a reckoning in another form, with random limits and claims.
func TestBucketAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		rate, burst := float64(1+r.IntN(1000))/float64(1+r.IntN(20)), 1+r.IntN(50)
		var b bucket
		b.set(rate, burst, 1, 0)
		tokens, last := float64(burst), int64(0)
		for now := int64(0); now < int64(10*time.Second); now += r.Int64N(int64(300 * time.Millisecond)) {
			tokens = min(tokens+float64(now-last)/float64(b.interval), float64(burst))
			last = now
			got := b.available(now)
			if want := max(int(tokens+1e-6), 0); got != want && got != max(int(tokens-1e-6), 0) {
				t.Fatalf("seed %d: %d available, want %d", seed, got, want)
			}
			next := b.next(now)
			if (next == 0) != (got > 0) {
				t.Fatalf("seed %d: %d available, and next is %d", seed, got, next)
			}
			if next > 0 {
				if next <= now || b.available(next) < 1 {
					t.Fatalf("seed %d: at %d there are %d", seed, next, b.available(next))
				}
				several := int(min(max(int64(time.Second)/limitGrain/b.interval, 1), int64(burst)))
				if b.available(next) != several || b.available(next-1) >= several {
					t.Fatalf("seed %d: %d at the next moment, %d before, want %d", seed, b.available(next), b.available(next-1), several)
				}
			}
			if n := r.IntN(got + 1); n > 0 || r.IntN(20) == 0 {
				if r.IntN(20) == 0 {
					n += r.IntN(30) // has to stay together
				}
				b.take(n, now)
				tokens -= float64(n)
			}
		}
	}
	var b bucket
	for _, c := range []struct {
		rate  float64
		burst int
	}{{1e-9, math.MaxInt}, {1e12, math.MaxInt}, {0.0001, 100_000}, {100_000, 100_000}} {
		b = bucket{}
		b.set(c.rate, c.burst, 1, 1<<60)
		if n := b.available(1 << 60); n < 1 {
			t.Errorf("%+v: %d available", c, n)
		}
		b.take(b.available(1<<60), 1<<60)
		if b.available(1<<60) != 0 || b.next(1<<60) <= 1<<60 {
			t.Errorf("%+v: it does not limit", c)
		}
	}
}

// What was held flows, in order, at a bounded rate, until the first delivery is claimed that came later.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*store.Subscription)
		burst  int
		rate   int
	}{
		{"unlimited", func(*store.Subscription) {}, 100, 1000},
		{"above", limited(5000, 50), 50, 1000},
		{"below", limited(100, 7), 7, 100},
		{"batches", func(s *store.Subscription) { s.NumberOfRecords = 250 }, 250, 1000},
	} {
		var calls calls
		var records []int
		send := calls.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
			records = append(records, len(p.Events))
			return delivered(ctx, sub, p)
		})
		inBubble(t, Options{Sender: send, Defaults: Defaults{MaxConcurrency: 1}}, func(t *testing.T, b *bench) {
			b.subscribe(nth(1), inState(store.StatePaused), c.change)
			const n = 600
			held := b.q.add(nth(1), n)
			time.Sleep(time.Hour)
			b.q.stats[nth(1)] = queue.LaneStats{Pending: n, OldestPending: held[0].Deliveries[0].Event.AcceptedAt}
			calls.start = time.Now()
			b.change(nth(1), func(s *store.Subscription) { s.State, s.StateSince = store.StateActive, time.Now() })
			time.Sleep(time.Millisecond) // later, so that what comes now is after it
			b.q.add(nth(1), 700)
			time.Sleep(200*time.Millisecond - time.Millisecond)
			synctest.Wait()
			if s := b.Status(nth(1)); !s.CatchingUp {
				t.Errorf("%s: status %+v", c.name, s)
			}
			time.Sleep(8 * time.Second)
			synctest.Wait()
			total := 0
			var caughtUp time.Duration
			for i, at := range calls.times() {
				if total < n {
					if total += records[i]; total > c.burst+int(at/time.Millisecond)*c.rate/1000 && total <= n {
						t.Errorf("%s: %d records by %v", c.name, total, at)
					}
					caughtUp = at
				} else {
					total += records[i]
				}
			}
			want := time.Duration(n-c.burst) * time.Second / time.Duration(c.rate)
			// The last batch goes when the limit would let a full one go.
			late := 20 * time.Millisecond
			if c.name == "batches" {
				late += 150 * time.Millisecond
			}
			if caughtUp < want-10*time.Millisecond || caughtUp > want+late {
				t.Errorf("%s: caught up at %v, want %v", c.name, caughtUp, want)
			}
			if s := b.Status(nth(1)); !s.Known || s.CatchingUp {
				t.Errorf("%s: status %+v", c.name, s)
			}
			all := calls.times()
			if rest := all[len(all)-1] - caughtUp; c.name == "unlimited" && rest > 50*time.Millisecond {
				t.Errorf("what came later took %v", rest)
			}
			for i, id := range calls.ids[:1] {
				if c.name != "batches" && id != held[i].Deliveries[0].Event.ID {
					t.Errorf("%s: the first is %s", c.name, id)
				}
			}
			if c.rate == 1000 && total != n+700 {
				t.Errorf("%s: %d records in all", c.name, total)
			}
		})
	}
}

// Without a backlog of before there is nothing to catch up with.
func TestNoCatchUp(t *testing.T) {
	t.Parallel()
	for name, stats := range map[string]queue.LaneStats{
		"nothing waits": {},
		"only new":      {Pending: 5, OldestPending: time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)},
		"later retry":   {Retrying: 5, NextRetry: time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)},
	} {
		inBubble(t, Options{Sender: sendFunc(delivered)}, func(t *testing.T, b *bench) {
			b.q.stats[nth(1)] = stats
			b.subscribe(nth(1), func(s *store.Subscription) { s.StateSince = time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC) })
			b.q.add(nth(1), 1500)
			synctest.Wait()
			b.q.done(t, 1500)
			if s := b.Status(nth(1)); s.CatchingUp {
				t.Errorf("%s: %+v", name, s)
			}
		})
	}
}
