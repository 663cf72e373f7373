package dispatch

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"time"

	"herald/queue"
	"herald/store"
)

// storeDelay is how long a lane rests when the store could not say what its subscription is, or did
// not take a change: long enough not to hammer a failing disk.
const storeDelay = 5 * time.Second

// deliver sees one claim to its settlement. The outcome has no class when no attempt was made; ended is when
// one did.
func (d *Dispatcher) deliver(j *job) (out queue.Outcome, ended time.Time) {
	switch d.admit(j) {
	case doSend:
		return d.send(j)
	case doDrop:
		d.drop(j)
	case doHold:
		d.giveBack(returnedHeld, []queue.Claim{j.claim})
	case doRest:
		d.giveBack(returnedStore, []queue.Claim{j.claim})
	case doStop:
		d.giveBack(returnedShutdown, []queue.Claim{j.claim})
	case doSeparate:
		d.separate(&j.claim)
	}
	return out, ended
}

type verdict int

const (
	doSend     verdict = iota
	doDrop             // the subscription is no more
	doHold             // it is not to be pushed to for now
	doRest             // the store does not say
	doStop             // the daemon stops
	doSeparate         // it takes fewer records than were claimed together
)

// admit reads the subscription as it is now and decides what becomes of the claim. The decision is
// made under the lock that Changed takes, and only when no Changed came since before the reading: this
// is the moment an attempt starts.
func (d *Dispatcher) admit(j *job) verdict {
	id := store.SubscriptionID(j.lane.id)
	for {
		sub, err := d.store.Subscription(d.hard, id)
		do := doSend
		switch {
		case errors.Is(err, store.ErrNotFound):
			do = doDrop
		case err != nil && d.hard.Err() != nil:
			return doStop
		case err != nil:
			do = doRest
			d.storeRead.failed(d.log, "read subscription", err)
		case sub.State != store.StateActive:
			do = doHold
		case len(j.claim.Deliveries) > max(sub.NumberOfRecords, 1):
			do = doSeparate
		}
		if err == nil {
			d.storeRead.worked(d.log, "read subscription")
			defaults := d.defaults.Load()
			if (do == doSend || do == doSeparate) && !j.policy.fits(sub, defaults) {
				j.policy = d.policyOf(sub, defaults)
			}
		}

		l := j.lane
		d.mu.Lock()
		if l.gen != j.gen {
			j.gen = l.gen
			d.mu.Unlock()
			continue
		}
		switch do {
		case doSend, doSeparate:
			if l.policy != j.policy && l.policy != nil {
				d.refresh(l, j.policy)
			}
			if do == doSend && d.admitted != nil {
				d.admitted(sub)
			}
		case doRest:
			d.holdFor(l, storeDelay)
		default:
			d.setHeld(l, true)
			d.toRead(l)
		}
		d.mu.Unlock()
		j.sub = sub
		return do
	}
}

// drop ends deliveries whose subscription was deleted. The reader, which is on its way, drops the lane.
func (d *Dispatcher) drop(j *job) {
	d.queue.Settle(queue.Settlement{
		Lane: j.claim.Lane, Deliveries: j.claim.Deliveries, State: queue.StateDiscarded, Reason: queue.ReasonUnsubscribed,
	})
}

// send makes the attempt and settles it.
func (d *Dispatcher) send(j *job) (out queue.Outcome, ended time.Time) {
	c := &j.claim
	ctx, cancel := context.WithTimeout(d.hard, j.policy.timeout)
	started := time.Now()
	p := push(j.sub, c)
	out = d.sender.Send(ctx, j.sub, p)
	cancel()
	ended = time.Now()
	if out.StartedAt.IsZero() {
		out.StartedAt, out.Duration = started, ended.Sub(started)
	}
	if out.Class != queue.ClassDelivered && out.Status == 0 && d.hard.Err() != nil {
		// It is the daemon that broke the attempt off, not the receiver.
		d.giveBack(returnedShutdown, []queue.Claim{*c})
		return queue.Outcome{}, ended
	}
	s := d.follow(j, &out, ended)
	s.Attempt = &queue.Attempt{
		Number: c.Attempt, StartedAt: out.StartedAt.UTC().Truncate(time.Millisecond),
		Duration: out.Duration.Truncate(time.Microsecond), Class: out.Class, Status: out.Status,
		Error: queue.ErrorText(out.Error), Response: out.Response[:min(len(out.Response), queue.MaxResponse)],
	}
	d.metrics.observe(&out, &s)
	d.logAttempt(j.sub, c, &p, &out, &s)
	if s.State == queue.StateDead {
		d.tellDead(j.sub, &s, c.Attempt)
	}
	if d.settling != nil && j.sub.Role == store.RoleDevices {
		d.settling(d.hard, j.sub, c.Deliveries[0].Event, &s, &out)
	}
	d.queue.Settle(s)
	return out, ended
}

// follow says what an outcome means for the deliveries.
func (d *Dispatcher) follow(j *job, out *queue.Outcome, now time.Time) queue.Settlement {
	c := &j.claim
	s := queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries}
	switch {
	case out.Class == queue.ClassDelivered:
		s.State = queue.StateDelivered
		return s
	case tooLarge(c, out), out.Class == queue.ClassRejected && len(c.Deliveries) > 1:
		// Of what is rejected together, only some may be at fault: alone, each shows what it is.
		s.State, s.Due, s.Dissolve = queue.StateRetrying, now.UTC(), true
		return s
	case out.Class == queue.ClassRejected, out.Class == queue.ClassGone && j.sub.Role != store.RoleNone:
		// A token that is dead, or a callback URL of a message: neither says anything of the others of the lane, which nobody could enable.
		s.State, s.Reason = queue.StateDead, cmp.Or(out.Reason, queue.ReasonRejected)
		return s
	case out.Class == queue.ClassMisconfigured && j.sub.Role == store.RoleDevices:
		// It is none of the message's doing, and judge keeps the lane from trying on.
		s.State, s.Due, s.Dissolve = queue.StateRetrying, now.UTC(), true
		return s
	case out.Class == queue.ClassGone:
		s.State, s.Due = queue.StateRetrying, now.UTC()
		if err := d.disable(j.sub, store.ReasonGone, now); err != nil {
			// Nothing stops the next attempt now, so it must not be at once, and the others wait as well.
			s.Due = s.Due.Add(storeDelay)
			d.mu.Lock()
			if j.lane.gen == j.gen {
				d.holdFor(j.lane, storeDelay)
			}
			d.mu.Unlock()
		}
		return s
	}
	// ClassRetry, ClassMisconfigured, and what a later class may be: time may help, and trying again
	// is what loses nothing.
	wait, ok := j.policy.schedule.Next(c.Retries, j.policy.defaults.Jitter, d.rand())
	if !ok {
		s.State, s.Reason = queue.StateDead, queue.ReasonExhausted
		return s
	}
	s.State = queue.StateRetrying
	s.Due = now.UTC().Add(max(wait, min(max(out.RetryAfter, out.Wait), MaxRetryAfter)))
	return s
}

// logAttempt writes the one line of an attempt, with everything about it under keys that are always the same. A success costs
// nothing when debug is off.
func (d *Dispatcher) logAttempt(sub *store.Subscription, c *queue.Claim, p *queue.Push, out *queue.Outcome, s *queue.Settlement) {
	level := slog.LevelInfo
	if out.Class == queue.ClassDelivered {
		level = slog.LevelDebug
	}
	if !d.log.Enabled(d.hard, level) {
		return
	}
	e := c.Deliveries[0].Event
	attrs := append(make([]slog.Attr, 0, 24), slog.String("account", e.AccountID))
	if sub.Role == store.RoleNone {
		attrs = append(attrs, slog.String("subscription", sub.ID.String()))
	} else {
		attrs = append(attrs, slog.String("implementation", sub.ImplementationID), slog.String("lane", laneName(sub)))
		if d.describe != nil {
			attrs = append(attrs, d.describe(d.hard, e)...)
		}
	}
	// The host says whom to call. The path and the query of a callback may be secrets.
	if u, err := url.Parse(sub.DataCallbackURL); err == nil && u.Host != "" {
		attrs = append(attrs, slog.String("host", u.Host))
	}
	attrs = append(attrs,
		slog.String("delivery", c.Delivery(0).String()),
		slog.String("event", e.ID),
		slog.String("type", e.Type),
	)
	if p.ID != e.ID {
		attrs = append(attrs, slog.String("push", p.ID))
	}
	attrs = append(attrs,
		slog.Int("records", len(c.Deliveries)),
		slog.Int("attempt", c.Attempt),
		slog.String("outcome", string(out.Class)),
		slog.Int("status", out.Status),
		slog.Float64("duration_ms", float64(out.Duration.Microseconds())/1000),
	)
	if c.Replay {
		attrs = append(attrs, slog.Bool("replay", true))
	}
	if out.Error != "" {
		attrs = append(attrs, slog.String("error", s.Attempt.Error))
	}
	if s.Reason != "" {
		attrs = append(attrs, slog.String("reason", s.Reason))
	}
	switch {
	case out.Class == queue.ClassGone && s.State == queue.StateRetrying:
		attrs = append(attrs, slog.String("next", string(queue.StateHeld)))
	case s.State == queue.StateRetrying:
		attrs = append(attrs, slog.Time("next", s.Due))
	default:
		attrs = append(attrs, slog.String("next", string(s.State)))
	}
	if t := p.Trace(); t != nil {
		attrs = append(attrs, slog.String("trace_id", t.ID()))
	}
	d.log.LogAttrs(d.hard, level, "attempt", attrs...)
}
