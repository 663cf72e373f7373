package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"herald/queue"
	"herald/store"
)

// storeDelay is how long a lane rests when the store could not say what its subscription is, or did
// not take a change: long enough not to hammer a failing disk.
const storeDelay = 5 * time.Second

// maxErrorText is what an attempt keeps of Outcome.Error, in bytes.
const maxErrorText = 512

// deliver sees one claim to its settlement. The outcome has no class when no attempt was made.
func (d *Dispatcher) deliver(j *job) (out queue.Outcome) {
	sub, do := d.admit(j)
	switch do {
	case doSend:
		return d.send(sub, j)
	case doDrop:
		d.drop(j)
	case doHold:
		d.giveBack(returnedHeld, []queue.Claim{j.claim})
	case doRest:
		d.giveBack(returnedStore, []queue.Claim{j.claim})
	case doStop:
		d.giveBack(returnedShutdown, []queue.Claim{j.claim})
	}
	return out
}

type verdict int

const (
	doSend verdict = iota
	doDrop         // the subscription is no more
	doHold         // it is not to be pushed to for now
	doRest         // the store does not say
	doStop         // the daemon stops
)

// admit reads the subscription as it is now and decides what becomes of the claim. The decision is
// made under the lock that Changed takes, and only when no Changed came since before the reading: this
// is the moment an attempt starts.
func (d *Dispatcher) admit(j *job) (*store.Subscription, verdict) {
	id := store.SubscriptionID(j.lane.id)
	for {
		sub, err := d.store.Subscription(d.hard, id)
		do := doSend
		switch {
		case errors.Is(err, store.ErrNotFound):
			do = doDrop
		case err != nil && d.hard.Err() != nil:
			return nil, doStop
		case err != nil:
			do = doRest
			d.storeRead.failed(d.log, "read subscription", err)
		case sub.State != store.StateActive:
			do = doHold
		}
		if err == nil {
			d.storeRead.worked(d.log, "read subscription")
		}

		l := j.lane
		d.mu.Lock()
		if l.gen != j.gen {
			j.gen = l.gen
			d.mu.Unlock()
			continue
		}
		switch do {
		case doSend:
			l.max = sub.Delivery.MaxConcurrency
			if d.admitted != nil {
				d.admitted(sub)
			}
		case doRest:
			d.holdFor(l, storeDelay)
		default:
			d.setHeld(l, true)
		}
		d.mu.Unlock()
		return sub, do
	}
}

// drop ends a delivery whose subscription was deleted, and tells the queue that its lane is.
func (d *Dispatcher) drop(j *job) {
	d.queue.Settle(queue.Settlement{
		Lane: j.claim.Lane, Deliveries: j.claim.Deliveries, State: queue.StateDiscarded, Reason: queue.ReasonUnsubscribed,
	})
	err := d.queue.DropLane(d.hard, j.lane.id)
	d.mu.Lock()
	if err == nil {
		d.setHeld(j.lane, false)
	} else {
		// Until the queue knows, the lane keeps coming up.
		d.holdFor(j.lane, storeDelay)
	}
	d.mu.Unlock()
	switch {
	case err == nil:
		d.laneDrop.worked(d.log, "drop lane")
	case d.hard.Err() == nil:
		d.laneDrop.failed(d.log, "drop lane", err)
	}
}

// send makes the attempt and settles it.
func (d *Dispatcher) send(sub *store.Subscription, j *job) queue.Outcome {
	policy := d.defaults.Load()
	c := &j.claim
	ctx, cancel := context.WithTimeout(d.hard, cmp.Or(sub.Delivery.Timeout, policy.Timeout))
	started := time.Now()
	out := d.sender.Send(ctx, sub, queue.Push{ID: c.Deliveries[0].Event.ID, Events: []*queue.Event{c.Deliveries[0].Event}, Attempt: c.Attempt})
	cancel()
	now := time.Now()
	if out.StartedAt.IsZero() {
		out.StartedAt, out.Duration = started, now.Sub(started)
	}
	if out.Class != queue.ClassDelivered && out.Status == 0 && d.hard.Err() != nil {
		// It is the daemon that broke the attempt off, not the receiver.
		d.giveBack(returnedShutdown, []queue.Claim{*c})
		return queue.Outcome{}
	}
	s := d.follow(sub, c, &out, policy, now)
	s.Attempt = &queue.Attempt{
		Number: c.Attempt, StartedAt: out.StartedAt.UTC().Truncate(time.Millisecond),
		Duration: out.Duration.Truncate(time.Microsecond), Class: out.Class, Status: out.Status,
		Error: cut(out.Error, maxErrorText), Response: out.Response[:min(len(out.Response), queue.MaxResponse)],
	}
	d.metrics.observe(&out, &s)
	d.logAttempt(sub, c, &out, &s)
	d.queue.Settle(s)
	return out
}

// follow says what an outcome means for the delivery, and acts where it means something for the
// subscription.
func (d *Dispatcher) follow(sub *store.Subscription, c *queue.Claim, out *queue.Outcome, policy *Defaults, now time.Time) queue.Settlement {
	s := queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries}
	switch out.Class {
	case queue.ClassDelivered:
		s.State = queue.StateDelivered
		return s
	case queue.ClassRejected:
		s.State, s.Reason = queue.StateDead, queue.ReasonRejected
		return s
	case queue.ClassGone:
		s.State, s.Due = queue.StateRetrying, now.UTC()
		err := d.disable(sub, now)
		if err == nil {
			return s
		}
		// Nothing stops the next attempt now, so it must not be at once.
		s.Due = s.Due.Add(storeDelay)
		return s
	default:
		// ClassRetry, ClassMisconfigured, and what a later class may be: time may help, and trying again
		// is what loses nothing.
	}
	schedule := policy.Schedule
	if text := sub.Delivery.RetrySchedule; text != "" {
		own, err := queue.ParseSchedule(text)
		if err != nil {
			d.log.Warn("retry schedule of the subscription is not valid, using the default",
				slog.String("subscription", sub.ID.String()), slog.String("error", err.Error()))
		} else {
			schedule = own
		}
	}
	wait, ok := schedule.Next(c.Retries, policy.Jitter, d.rand())
	if !ok {
		s.State, s.Reason = queue.StateDead, queue.ReasonExhausted
		return s
	}
	s.State = queue.StateRetrying
	s.Due = now.UTC().Add(max(wait, min(out.RetryAfter, MaxRetryAfter)))
	return s
}

// errMoved stops the disabling of a subscription that is not any more what the receiver refused.
var errMoved = errors.New("subscription has changed")

// disable stops a subscription whose receiver answered that it is gone for good. A subscription whose
// owner has given it another address since, or has stopped it, is left as it is. The error, which has
// been logged, says that the state is unchanged because of the store.
func (d *Dispatcher) disable(sent *store.Subscription, now time.Time) error {
	changed, err := d.store.UpdateSubscription(d.hard, sent.ID, func(s *store.Subscription) error {
		if s.DataCallbackURL != sent.DataCallbackURL || s.State != store.StateActive {
			return errMoved
		}
		s.State, s.StateReason = store.StateDisabled, store.ReasonGone
		s.StateSince = now.UTC().Truncate(time.Millisecond)
		s.UpdatedAt = s.StateSince
		return nil
	})
	switch {
	case errors.Is(err, errMoved), errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		d.storeWrite.failed(d.log, "disable subscription", err)
		return fmt.Errorf("disable subscription: %w", err)
	}
	d.storeWrite.worked(d.log, "disable subscription")
	d.metrics.disabled.Inc()
	d.log.Warn("subscription disabled", slog.String("subscription", changed.ID.String()),
		slog.String("account", changed.AccountID), slog.String("reason", changed.StateReason))
	d.Changed(queue.Lane(changed.ID))
	return nil
}

// logAttempt writes the one line of an attempt. A success costs nothing when debug is off.
func (d *Dispatcher) logAttempt(sub *store.Subscription, c *queue.Claim, out *queue.Outcome, s *queue.Settlement) {
	level := slog.LevelInfo
	if out.Class == queue.ClassDelivered {
		level = slog.LevelDebug
	}
	if !d.log.Enabled(d.hard, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs,
		slog.String("subscription", sub.ID.String()),
		slog.String("delivery", c.Delivery(0).String()),
		slog.String("event", c.Deliveries[0].Event.ID),
		slog.Int("attempt", c.Attempt),
		slog.String("outcome", string(out.Class)),
		slog.Int("status", out.Status),
		slog.Float64("duration_ms", float64(out.Duration.Microseconds())/1000),
	)
	if out.Error != "" {
		attrs = append(attrs, slog.String("error", s.Attempt.Error))
	}
	switch {
	case out.Class == queue.ClassGone:
		attrs = append(attrs, slog.String("next", string(queue.StateHeld)))
	case s.State == queue.StateRetrying:
		attrs = append(attrs, slog.Time("next", s.Due))
	default:
		attrs = append(attrs, slog.String("next", string(s.State)))
	}
	d.log.LogAttrs(d.hard, level, "attempt", attrs...)
}

// cut shortens a text to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
