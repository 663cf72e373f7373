package dispatch

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"herald/queue"
	"herald/store"
)

// warnings are the percentages of DisableAfter at which a failing subscription is warned about, ascending.
var warnings = [...]int{50, 75, 90}

// errMoved stops an update of a subscription that is not any more what it was decided for.
var errMoved = errors.New("subscription has changed")

// disable stops a subscription for a reason, as one step with the notice of it. A subscription whose owner
// has given it another address since, or has stopped it, is left as it is. The error, which has been
// logged, says that the state is unchanged because of the store.
func (d *Dispatcher) disable(sent *store.Subscription, reason string, now time.Time) error {
	kind := TypeDisabled
	if reason == store.ReasonGone {
		kind = TypeGone
	}
	d.mu.Lock()
	var h health
	if l := d.lanes[queue.Lane(sent.ID)]; l != nil && l.trouble != nil {
		h = l.trouble.health
	}
	d.mu.Unlock()
	way := cmp.Or(sent.Delivery.OnDisabled, d.defaults.Load().OnDisabled)
	changed, err := d.store.UpdateSubscription(d.hard, sent.ID, func(s *store.Subscription) error {
		if s.DataCallbackURL != sent.DataCallbackURL || s.State != store.StateActive || !s.StateSince.Equal(sent.StateSince) {
			return errMoved
		}
		s.State, s.StateReason = store.StateDisabled, reason
		s.StateSince = stamp(now)
		s.UpdatedAt = s.StateSince
		s.Discarding = way == store.OnDisabledDiscard
		s.Health = health{failingSince: h.failingSince, failures: h.failures, warned: h.warned}.stored()
		if d.publish != nil {
			s.Health.Notice, s.Health.NoticeAt = kind, s.StateSince
		}
		return nil
	})
	switch {
	case errors.Is(err, errMoved), errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		if d.hard.Err() == nil {
			d.storeWrite.failed(d.log, "disable subscription", err)
		}
		return fmt.Errorf("disable subscription: %w", err)
	}
	d.storeWrite.worked(d.log, "disable subscription")
	d.metrics.disabled[reason].Inc()
	d.log.Warn("subscription disabled", slog.String("subscription", changed.ID.String()),
		slog.String("account", changed.AccountID), slog.String("reason", changed.StateReason),
		slog.Int("failures", int(h.failures)), slog.String("deliveries", string(way)))
	d.mu.Lock()
	d.notify(notice{sub: changed.ID, kind: kind, at: changed.StateSince, stored: true})
	d.mu.Unlock()
	d.Changed(queue.Lane(changed.ID))
	return nil
}

// stopLane disables the subscription of a lane that judge has stopped. When the store does not take it the lane
// goes on as before: with its breaker, whose next failed probe leads here again.
func (d *Dispatcher) stopLane(j *job, reason string, now time.Time) {
	err := d.disable(j.sub, reason, now)
	d.mu.Lock()
	defer d.mu.Unlock()
	l := j.lane
	if l.gen != j.gen {
		return // changed, by disable or by somebody else, and looked at anew
	}
	if err != nil {
		d.holdFor(l, storeDelay)
		return
	}
	d.setHeld(l, false)
	l.policy = nil
	d.toRead(l)
}

// warnMoment is when failing reaches a percentage of the duration.
func warnMoment(h *health, limit time.Duration, percent int) time.Time {
	return moment(h.failingSince).Add(limit/100*time.Duration(percent) + limit%100*time.Duration(percent)/100)
}

// setWarnAt sets the moment of the next warning that comes with time. The caller holds mu.
func (d *Dispatcher) setWarnAt(l *lane, now time.Time) {
	l.warnAt = 0
	if t := l.trouble; t != nil && t.health.failingSince != 0 && l.policy.disableAfter.Duration > 0 {
		for _, p := range warnings {
			if p > int(t.health.warned) {
				l.warnAt = max(d.at(warnMoment(&t.health, l.policy.disableAfter.Duration, p), now), 1)
				break
			}
		}
	}
	d.setAlarm(l)
}

// warnByTime warns about a lane that has been failing for long: once, with the highest percentage that has
// passed. The caller holds mu.
func (d *Dispatcher) warnByTime(l *lane, now time.Time) {
	t := l.trouble
	if t == nil || l.held || l.policy == nil || l.policy.disableAfter.Duration <= 0 {
		return // it is looked at again when its subscription is read
	}
	percent := 0
	for _, p := range warnings {
		if !warnMoment(&t.health, l.policy.disableAfter.Duration, p).After(now) {
			percent = p
		}
	}
	d.warn(l, percent, now)
}

// warnByCount warns about a lane so many of whose pushes have failed in a row. The caller holds mu.
func (d *Dispatcher) warnByCount(l *lane, now time.Time) {
	n := l.policy.disableAfter.Failures
	if n <= 0 {
		return
	}
	percent := 0
	for _, p := range warnings {
		if int(l.trouble.health.failures) >= (n*p+99)/100 {
			percent = p
		}
	}
	d.warn(l, percent, now)
}

// warn notes a warning, unless there was one of that height. The keeper stores it and has it published. The
// caller holds mu.
func (d *Dispatcher) warn(l *lane, percent int, now time.Time) {
	t := l.trouble
	if percent > int(t.health.warned) {
		t.health.warned = int32(percent)
		if d.publish != nil {
			t.notice = TypeWarning
			rouse(d.keepNow)
		}
		d.metrics.warned.Inc()
		d.log.Warn("subscription keeps failing and will be disabled", slog.String("subscription", store.SubscriptionID(l.id).String()),
			slog.Int("percent", percent), slog.Time("failing_since", moment(t.health.failingSince)), slog.Int("failures", int(t.health.failures)))
		d.unsaved(l)
	}
	d.setWarnAt(l, now)
}
