package dispatch

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"time"
	"weak"

	"herald/queue"
	"herald/store"
)

// Defaults is the delivery policy of subscriptions that do not override it.
type Defaults struct {
	// Timeout bounds an attempt, from the dial to the end of the answer, up to MaxTimeout; 0 means 15 s.
	Timeout time.Duration
	// Schedule is the waits between attempts; one without waits means "standard".
	Schedule queue.Schedule
	// Jitter varies each wait by up to this share, 0 (none) to MaxJitter.
	Jitter float64
	// MaxConcurrency is how many pushes of one subscription may be under way at once; 0 means 64.
	MaxConcurrency int
	// RateLimit is how many records a second one subscription may get; 0 is no limit. What may go at once
	// after a rest is those of one second.
	RateLimit float64
	// Ordering is the order of deliveries; "" means store.OrderNone.
	Ordering store.Ordering
	// DisableAfter says how much failing disables a subscription, whatever its Set says; zero members are off.
	DisableAfter store.DisableAfter
	// OnDisabled says what becomes of the deliveries then; "" means store.OnDisabledHold.
	OnDisabled store.OnDisabled

	retries int // of Schedule
}

func (p Defaults) complete() (*Defaults, error) {
	if p.Timeout < 0 || p.Timeout > MaxTimeout {
		return nil, fmt.Errorf("timeout %s is not between 0 and %s", p.Timeout, MaxTimeout)
	}
	p.Timeout = cmp.Or(p.Timeout, 15*time.Second)
	if !(p.Jitter >= 0 && p.Jitter <= MaxJitter) { // in this form it also refuses NaN
		return nil, fmt.Errorf("jitter %v is not between 0 and %v", p.Jitter, MaxJitter)
	}
	if p.MaxConcurrency < 0 {
		return nil, fmt.Errorf("max concurrency %d is negative", p.MaxConcurrency)
	}
	p.MaxConcurrency = cmp.Or(p.MaxConcurrency, 64)
	if !(p.RateLimit >= 0 && !math.IsInf(p.RateLimit, 1)) {
		return nil, fmt.Errorf("rate limit %v is not a number from 0", p.RateLimit)
	}
	p.Ordering = cmp.Or(p.Ordering, store.OrderNone)
	if p.Ordering != store.OrderNone && p.Ordering != store.OrderKey && p.Ordering != store.OrderStrict {
		return nil, fmt.Errorf("ordering %q is not known", p.Ordering)
	}
	if p.DisableAfter.Duration < 0 || p.DisableAfter.Failures < 0 {
		return nil, fmt.Errorf("disable after %s or %d failures is negative", p.DisableAfter.Duration, p.DisableAfter.Failures)
	}
	p.OnDisabled = cmp.Or(p.OnDisabled, store.OnDisabledHold)
	if p.OnDisabled != store.OnDisabledHold && p.OnDisabled != store.OnDisabledDiscard {
		return nil, fmt.Errorf("on disabled %q is not known", p.OnDisabled)
	}
	p.retries = len(p.Schedule.Waits())
	if p.retries == 0 {
		s, err := queue.ParseSchedule("standard")
		if err != nil {
			return nil, fmt.Errorf("default schedule: %w", err)
		}
		p.Schedule, p.retries = s, len(s.Waits())
	}
	return &p, nil
}

// policy is what an active subscription asks for, with the defaults filled in. It is immutable.
type policy struct {
	// sub and defaults are what it was made from. The subscription is not kept in memory by it.
	sub      weak.Pointer[store.Subscription]
	defaults *Defaults
	// target stands for the receiver and the way to prove oneself to it; since is when the subscription
	// came to be active.
	target uint64
	since  time.Time

	timeout      time.Duration
	schedule     queue.Schedule
	retries      int // of schedule
	max          int // pushes at once
	records      int // in one push
	wait         time.Duration
	order        queue.Order
	key          func(*queue.Event) uint64
	keyID        string
	rate         float64 // records a second, 0 for no limit
	burst        int
	allowed      int // pushes a minute, 0 for no limit
	disableAfter store.DisableAfter
	// least is how wide the window is at least, while the breaker is closed.
	least int
	// implementation and lane name a lane of an implementation, for the log; devices says that it leads to a provider.
	implementation, lane string
	devices              bool
}

// targetSeed makes the targets of one process comparable, and of no use to anyone else.
var targetSeed = maphash.MakeSeed()

// browserWindow is the least window of a lane to browsers. Their push services are many, and its sender paces each on its own: one that
// hangs, which anybody who registers a browser may choose, must not hold a window that is still narrow. It has room for several of them.
const browserWindow = 256

// policyOf compiles the policy of a subscription. What is not valid, which the API does not let in, falls
// back to the default and is logged.
func (d *Dispatcher) policyOf(sub *store.Subscription, defaults *Defaults) *policy {
	own := &sub.Delivery
	p := &policy{
		sub: weak.Make(sub), defaults: defaults, target: targetOf(sub), since: sub.StateSince,
		timeout:  cmp.Or(own.Timeout, defaults.Timeout),
		schedule: defaults.Schedule, retries: defaults.retries,
		max:     max(cmp.Or(own.MaxConcurrency, defaults.MaxConcurrency), 1),
		records: max(sub.NumberOfRecords, 1),
		rate:    defaults.RateLimit, allowed: sub.AllowedRate(), disableAfter: effectiveDisableAfter(sub, defaults), least: 1,
	}
	if sub.Role == store.RoleDevices && sub.Lane() == store.LaneWebPush {
		p.least = browserWindow
	}
	if sub.Role != store.RoleNone {
		p.implementation, p.lane, p.devices = sub.ImplementationID, laneName(sub), sub.Role == store.RoleDevices
	}
	if own.RetrySchedule != "" {
		s, err := queue.ParseSchedule(own.RetrySchedule)
		if err != nil {
			d.invalid(sub, "retry schedule", err)
		} else {
			p.schedule, p.retries = s, len(s.Waits())
		}
	}
	if p.records > 1 {
		p.wait = sub.MaxWait
	}
	if own.RateLimit > 0 {
		p.rate = own.RateLimit
	}
	if p.rate > 0 {
		p.burst = max(cmp.Or(own.RateBurst, int(min(p.rate, math.MaxInt32))), 1)
	}
	switch cmp.Or(own.Ordering, defaults.Ordering) {
	case store.OrderStrict:
		p.order, p.max = queue.OrderStrict, 1
	case store.OrderKey:
		p.order, p.key = queue.OrderKey, resourceKey
		if own.OrderingKey != "" {
			path, err := store.ParsePath(own.OrderingKey)
			if err != nil {
				d.invalid(sub, "ordering key", err)
			} else {
				p.keyID = path.String()
				p.key = func(e *queue.Event) uint64 { return path.Key(e.Data) }
			}
		}
	case store.OrderNone:
	}
	return p
}

func (d *Dispatcher) invalid(sub *store.Subscription, what string, err error) {
	d.log.Warn("policy of the subscription is not valid, using the default",
		slog.String("subscription", sub.ID.String()), slog.String("member", what), slog.String("error", err.Error()))
}

func effectiveDisableAfter(sub *store.Subscription, defaults *Defaults) store.DisableAfter {
	if sub.Delivery.DisableAfter.Set {
		return sub.Delivery.DisableAfter
	}
	return defaults.DisableAfter
}

// fits says whether the policy is still that of the subscription.
func (p *policy) fits(sub *store.Subscription, defaults *Defaults) bool {
	return p != nil && p.defaults == defaults && p.sub.Value() == sub
}

// resourceKey is the key of an event whose subscription is ordered by resource. It must be the same after a
// restart: FNV-1a, 64 bits.
func resourceKey(e *queue.Event) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(e.Resource) {
		h = (h ^ uint64(e.Resource[i])) * 1099511628211
	}
	return h
}

func targetOf(sub *store.Subscription) uint64 {
	var h maphash.Hash
	h.SetSeed(targetSeed)
	maphash.WriteComparable(&h, sub.Authentication)
	maphash.WriteComparable(&h, sub.DataCallbackURL)
	maphash.WriteComparable(&h, sub.Method)
	return h.Sum64()
}
