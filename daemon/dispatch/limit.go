package dispatch

import (
	"math"
	"time"

	"herald/queue"
)

// Catching up: what waited while a subscription was paused or disabled flows at a bounded rate.
const (
	// catchUpRate is its records a second.
	catchUpRate = 1000
	// catchUpBurst is how many of them may go at once.
	catchUpBurst = 100
)

// limitGrain is about how often in a second a limited lane is looked at, at most: with a high rate several
// records go each time.
const limitGrain = 200

// bucket is a rate limit, counted in whole nanoseconds so that it neither drifts nor rounds: the generic
// cell rate algorithm (ITU-T I.371). Times are those of Dispatcher.clock. The zero value does not limit.
type bucket struct {
	// interval is the nanoseconds of one record; 0 is no limit.
	interval int64
	burst    int64
	// least is how many have to be available for any to go: a batch does not go one by one because that is how the
	// limit lets them.
	least int64
	// full is when the bucket will be, or was, full again.
	full int64
}

// set changes the limit; what was used up under the old one still counts, as far as the new one can tell.
func (b *bucket) set(rate float64, burst, least int, now int64) {
	if rate <= 0 {
		*b = bucket{}
		return
	}
	interval := max(int64(math.Round(float64(time.Second)/max(rate, 1e-6))), 1)
	b.interval = interval
	b.burst = max(min(int64(burst), math.MaxInt64/4/interval), 1) // so that their product does not overflow
	b.least = max(min(int64(least), b.burst), 1)
	b.full = min(b.full, now+b.burst*interval)
}

// available is how many records may go now.
func (b *bucket) available(now int64) int {
	return int(max((now+b.burst*b.interval-max(b.full, now))/b.interval, 0))
}

// take counts records that go now; they may be more than are available, and are waited for afterwards.
func (b *bucket) take(n int, now int64) {
	if b.interval > 0 {
		b.full = max(b.full, now) + int64(n)*b.interval
	}
}

// next is when records may go again, or 0 when some may now.
func (b *bucket) next(now int64) int64 {
	if b.interval == 0 || int64(b.available(now)) >= b.least {
		return 0
	}
	several := max(min(max(int64(time.Second)/limitGrain/b.interval, 1), b.burst), b.least)
	return b.full - (b.burst-several)*b.interval
}

// limitLane sets the buckets of the lane to what its policy asks for, that of records to less while it catches up. The caller
// holds mu.
func (d *Dispatcher) limitLane(l *lane, now int64) {
	p := l.policy
	rate, burst := p.rate, p.burst
	if !l.catchUp.IsZero() && (rate == 0 || rate > catchUpRate) {
		most := max(catchUpBurst, p.records)
		if rate > 0 {
			most = min(most, burst)
		}
		rate, burst = catchUpRate, most
	}
	// What fills a batch is gathered for as long as it may wait to fill, and for a second at least.
	least := min(float64(p.records), max(rate*max(p.wait, time.Second).Seconds(), 1))
	l.bucket.set(rate, burst, int(least), now)

	fresh := l.pushes.interval == 0
	rate, burst = spread(p.allowed)
	l.pushes.set(rate, burst, 1, now)
	if fresh {
		// Nobody knows what went out before the start, so that counts as a push at the start: a restart is no way around the limit.
		l.pushes.take(burst, 0)
	}
}

// spread makes a rate a second and a burst of so many pushes a minute, such that no minute has more: at the rate alone the burst would
// come on top. Up to limitGrain a second they go one by one.
func spread(minute int) (rate float64, burst int) {
	if minute <= 0 {
		return 0, 0
	}
	burst = max(minute/(60*limitGrain), 1)
	// In whole nanoseconds and rounded up, or one more could go at the very end of a minute.
	interval := math.Ceil(float64(time.Minute) / float64(minute-burst+1))
	return float64(time.Second) / interval, burst
}

// limitedAs says whether the policies have the same limits.
func (p *policy) limitedAs(q *policy) bool {
	return p != nil && p.rate == q.rate && p.burst == q.burst && p.records == q.records && p.allowed == q.allowed
}

// count takes the push of a claim and its records from the buckets. The first delivery that came after the subscription was
// enabled ends the catching up. The caller of it holds mu.
func (l *lane) count(c *queue.Claim, now int64, d *Dispatcher) {
	l.bucket.take(len(c.Deliveries), now)
	l.pushes.take(1, now)
	if l.catchUp.IsZero() || c.Attempt > 1 || l.policy == nil {
		return
	}
	newest := c.Deliveries[len(c.Deliveries)-1].Event
	if !newest.AcceptedAt.Before(l.catchUp) {
		l.catchUp = time.Time{}
		d.limitLane(l, now)
	}
}
