package dispatch

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

// allowed is a subscription whose receiver permits so many pushes a minute.
func allowed(minute int) func(*store.Subscription) {
	return func(s *store.Subscription) {
		s.ValidationKind = store.ValidationCloudEvents
		s.Validation.Origin, s.Validation.AllowedRate = "herald.example", minute
	}
}

// mostInAMinute is how many of the moments lie in any minute.
func mostInAMinute(times []time.Duration) int {
	most := 0
	for i, from := range times {
		n, _ := slices.BinarySearch(times[i:], from+time.Minute)
		most = max(most, n)
	}
	return most
}

// No minute has more pushes than the receiver permits, whatever the records of them, and none fewer than it could.
func TestAllowedRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		minute, events int
		change         func(*store.Subscription)
		most           int // of a minute, as far as they last
	}{
		{1, 4, nil, 1},
		{7, 40, nil, 7},
		{120, 400, nil, 120},
		{30, 100, func(s *store.Subscription) { s.Delivery.Ordering = store.OrderStrict }, 30},
		// The lower one holds.
		{600, 100, limited(0.5, 1), 30},
		{30, 100, limited(10, 10), 30},
		// Records are no pushes: ten of them go in one.
		{6, 300, func(s *store.Subscription) { s.NumberOfRecords, s.MaxWait = 10, time.Second }, 6},
	} {
		var calls calls
		var records []int
		var mu sync.Mutex
		send := calls.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
			mu.Lock()
			records = append(records, len(p.Events))
			mu.Unlock()
			return delivered(ctx, sub, p)
		})
		inBubble(t, Options{Sender: send}, func(t *testing.T, b *bench) {
			calls.start = time.Now()
			changes := []func(*store.Subscription){allowed(c.minute)}
			if c.change != nil {
				changes = append(changes, c.change)
			}
			b.subscribe(nth(1), changes...)
			b.q.add(nth(1), c.events)
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			got := calls.times()
			if most := mostInAMinute(got); most != c.most {
				t.Errorf("%d a minute: %d pushes in one", c.minute, most)
			}
			total := 0
			for _, n := range records {
				total += n
			}
			if total != c.events {
				t.Errorf("%d a minute: %d of %d records have gone", c.minute, total, c.events)
			}
			// The start counts as a push: before it there may have been another process.
			if first := time.Minute / time.Duration(c.minute); got[0] < min(first, 5*time.Millisecond) {
				t.Errorf("%d a minute: the first push is at %v", c.minute, got[0])
			}
		})
	}
}

// Taken as greedily as can be, a minute has what is permitted and not one more, whatever the rate.
func TestSpread(t *testing.T) {
	t.Parallel()
	for _, minute := range []int{1, 2, 7, 59, 60, 61, 999, 11_999, 12_000, 24_000, 60_001, 1_000_003, store.MaxAllowedRate} {
		var b bucket
		rate, burst := spread(minute)
		b.set(rate, burst, 1, 0)
		if last := int64(time.Minute) - 1; minute > 2_000_000 {
			// Too many to go through: all that comes in a minute is the burst and what flows.
			if n := int64(burst) + last/b.interval; n > int64(minute) || n < int64(minute)/2 {
				t.Errorf("%d a minute: %d", minute, n)
			}
			continue
		}
		taken := 0
		for now := int64(0); now < int64(time.Minute); {
			n := b.available(now)
			b.take(n, now)
			taken += n
			now = b.next(now)
		}
		if taken > minute || taken < minute-minute/1000 {
			t.Errorf("%d a minute: %d were taken", minute, taken)
		}
	}
	if rate, burst := spread(0); rate != 0 || burst != 0 {
		t.Errorf("without a limit: %v, %d", rate, burst)
	}
}

// Retries are pushes too.
func TestAllowedRateOfRetries(t *testing.T) {
	t.Parallel()
	var c calls
	fails := 20
	send := c.wrap(func(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
		if fails--; fails%2 == 0 && fails > 0 {
			return failed(ctx, sub, p)
		}
		return delivered(ctx, sub, p)
	})
	inBubble(t, Options{Sender: send, Defaults: Defaults{Schedule: mustSchedule(t, "1s,1s,1s,1s")}}, func(t *testing.T, b *bench) {
		c.start = time.Now()
		b.subscribe(nth(1), allowed(6), func(s *store.Subscription) { s.Delivery.MaxConcurrency = 1 })
		b.q.add(nth(1), 20)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := c.times(); mostInAMinute(got) > 6 || len(got) < 25 {
			t.Errorf("pushes at %v", got)
		}
		b.q.done(t, 20)
	})
}

// Another permission holds at once, no change or pause is a way around the old one, and without one nothing is held back.
func TestAllowedRateChanges(t *testing.T) {
	t.Parallel()
	var c calls
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		time.Sleep(time.Hour)
		c.start = time.Now()
		b.subscribe(nth(1), allowed(6))
		b.q.add(nth(1), 100)
		time.Sleep(25 * time.Second)
		for range 5 {
			b.change(nth(1), func(s *store.Subscription) { s.Resource += "x" })
			synctest.Wait()
			b.change(nth(1), inState(store.StatePaused))
			synctest.Wait()
			b.change(nth(1), inState(store.StateActive))
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		want := []time.Duration{0, 10 * time.Second, 20 * time.Second, 30 * time.Second}
		if got := c.times(); !slices.Equal(got, want) {
			t.Errorf("pushes at %v, want %v", got, want)
		}
		b.change(nth(1), allowed(60))
		time.Sleep(10 * time.Second)
		if got := c.times(); mostInAMinute(got[4:]) < 9 || len(got) > 15 {
			t.Errorf("with 60 a minute: %v", got)
		}
		b.change(nth(1), allowed(0))
		synctest.Wait()
		b.q.done(t, 100)
	})
	// The permission is not one of the other kind of validation.
	c = calls{}
	inBubble(t, Options{Sender: c.wrap(delivered)}, func(t *testing.T, b *bench) {
		b.subscribe(nth(1), allowed(1), func(s *store.Subscription) { s.ValidationKind = store.ValidationConfirmation })
		b.q.add(nth(1), 50)
		synctest.Wait()
		b.q.done(t, 50)
	})
}
