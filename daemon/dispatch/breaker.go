package dispatch

import (
	"time"

	"herald/queue"
	"herald/store"
)

// breakerAfter is how many pushes in a row have to fail before the circuit breaker of a lane opens.
const breakerAfter = 5

// trouble is what is known of a lane whose receiver fails. It is there from the first failed push until the
// success that ends it is written down. It is guarded by Dispatcher.mu.
type trouble struct {
	// health is how it stands, stored what the store has of it. See health.go.
	health, stored health
	// notice is an operational event that is to be written down with the next update.
	notice string
	// dirty: health is to be stored; queued: the lane stands in Dispatcher.unsaved; saving: an update with the
	// health of saved is under way.
	dirty, queued, saving bool
	saved                 health
	// epoch is another one whenever health was taken from the store.
	epoch uint64

	// probeAt is health.probeAt by Dispatcher.clock.
	probeAt int64
	// probing: the probe is under way.
	probing bool
}

// newTrouble returns one with an epoch of its own. The caller holds mu.
func (d *Dispatcher) newTrouble() *trouble {
	d.troubles++
	return &trouble{epoch: d.troubles}
}

// open says whether the circuit breaker is. A lane without trouble has a closed one.
func (t *trouble) open() bool { return t != nil && t.health.openedAt != 0 }

// over says whether there is nothing left to remember.
func (t *trouble) over() bool {
	return !t.dirty && !t.saving && t.health == health{} && t.stored == health{}
}

// stamp is a time as it is stored.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// judge draws the conclusions from a push for its lane. When the subscription has to be disabled it returns
// the reason, and nothing more of the lane is claimed. The caller holds mu.
//
// A failure is what time or the operator has to mend. One message that the receiver rejects, or a batch that
// is too large for it, counts neither way: it has answered, but that says nothing about the others. After
// such an answer to a probe the next one goes out at once. What was sent to where the subscription pointed
// before a change says nothing about it now.
func (d *Dispatcher) judge(j *job, out *queue.Outcome, now time.Time) (disable string) {
	l := j.lane
	if l.gen != j.gen || l.policy == nil || l.held {
		return ""
	}
	switch {
	case out.Class == queue.ClassDelivered:
		l.proven, l.failed, l.slow = true, false, out.Duration >= slowAfter
		l.learn(out, l.policy.max)
		if l.trouble != nil {
			d.recovered(l, j.probe)
		}
	case tooLarge(&j.claim, out):
		half := len(j.claim.Deliveries) / 2
		if l.most == 0 || half < l.most {
			l.most = half
		}
	case out.Class == queue.ClassMisconfigured && j.sub.Role == store.RoleDevices:
		l.failed = true
		d.bar(l, j.probe, out.Error, out.Wait, now)
	case out.Innocent, out.Class == queue.ClassRejected, out.Class == queue.ClassGone:
	default:
		l.failed = true
		l.learn(out, l.policy.max)
		return d.failure(l, j.probe, min(out.RetryAfter, MaxRetryAfter), now)
	}
	return ""
}

// slowAfter is from when on a success counts as slow for share.
const slowAfter = time.Second

// troubled counts a failed push in the trouble of its lane, which begins with the first. The caller holds mu.
func (d *Dispatcher) troubled(l *lane, now time.Time) *trouble {
	if l.trouble == nil {
		l.trouble = d.newTrouble()
	}
	h := &l.trouble.health
	h.failures++
	if h.failingSince == 0 {
		h.failingSince = now.UnixMilli()
		d.setWarnAt(l, now)
	}
	return l.trouble
}

// failure counts a failed push: it opens the breaker, or puts the next probe off, and says whether that was
// one too many. The caller holds mu.
func (d *Dispatcher) failure(l *lane, probe bool, retryAfter time.Duration, now time.Time) (disable string) {
	t := d.troubled(l, now)
	h := &t.health
	switch {
	case t.open() && probe:
		h.probes++
		d.metrics.probesFailed.Inc()
		d.metrics.transitions[BreakerOpen].Inc()
		d.nextProbe(l, retryAfter, now)
		d.unsaved(l)
	case t.open():
		// It began before the breaker opened.
		if at := int64(now.Sub(d.epoch)) + int64(retryAfter); retryAfter > 0 && at > t.probeAt {
			d.probeAt(l, now.Add(retryAfter), now)
		}
	case h.failures >= breakerAfter, retryAfter > 0 && l.policy.devices:
		// A provider that asks for a pause is asking all of the app's notifications, and with the breaker the pause survives a restart.
		h.openedAt, h.probes = now.UnixMilli(), 0
		l.window = 1
		d.open++
		d.metrics.transitions[BreakerOpen].Inc()
		d.nextProbe(l, retryAfter, now)
		d.unsaved(l)
		if l.policy.devices {
			rouse(d.keepNow)
		}
	case retryAfter > 0:
		l.rest = max(l.rest, int64(now.Sub(d.epoch))+int64(retryAfter))
	}
	after := l.policy.disableAfter
	switch {
	case after.Duration > 0 && now.Sub(moment(h.failingSince)) >= after.Duration:
		return store.ReasonFailing
	case after.Failures > 0 && int(h.failures) >= after.Failures:
		return store.ReasonFailures
	}
	d.warnByCount(l, now)
	return ""
}

// nextProbe sets the next probe by the schedule, whose last wait repeats. The caller holds mu.
func (d *Dispatcher) nextProbe(l *lane, retryAfter time.Duration, now time.Time) {
	p := l.policy
	wait, _ := p.schedule.Next(min(int(l.trouble.health.probes), p.retries-1), p.defaults.Jitter, d.rand())
	d.probeAt(l, now.Add(max(wait, retryAfter)), now)
}

// probeAt sets the next probe: at t, but not later than the moment when failing disables the subscription,
// so that this is decided by a push of that moment. The caller holds mu.
func (d *Dispatcher) probeAt(l *lane, t, now time.Time) {
	h := &l.trouble.health
	if limit := l.policy.disableAfter.Duration; limit > 0 {
		if last := moment(h.failingSince).Add(limit); t.After(last) && last.After(now) {
			t = last
		}
	}
	h.probeAt = t.UnixMilli()
	l.trouble.probeAt = max(d.at(t, now), 1)
}

// recovered ends the trouble of a lane with its first success. The caller holds mu.
func (d *Dispatcher) recovered(l *lane, probe bool) {
	t := l.trouble
	if t.open() {
		d.open--
		if probe {
			d.metrics.probesSucceeded.Inc()
		}
		d.metrics.transitions[BreakerClosed].Inc()
	}
	d.unbar(l)
	t.health, t.notice, t.probeAt = health{}, "", 0
	l.warnAt = 0
	d.setAlarm(l)
	known := t.stored
	if t.saving {
		known = t.saved
	}
	if t.health != known {
		d.unsaved(l)
	} else {
		t.dirty = false
	}
	if t.over() {
		l.trouble = nil
	}
}

// forgetTrouble drops what is known of a lane that is not pushed to any more. The caller holds mu.
func (d *Dispatcher) forgetTrouble(l *lane) {
	if l.trouble.open() {
		d.open--
		if l.trouble.health.suspended != "" {
			d.barred--
		}
	}
	l.trouble, l.warnAt, l.rest = nil, 0, 0
	l.failed = false
	d.setAlarm(l)
}
