package dispatch

import (
	"cmp"
	"log/slog"
	"time"

	"herald/queue"
	"herald/store"
)

// suspendedProbe is the time between two tries whether a provider takes the credentials of a platform again. They are mended by people, and
// providers block who keeps knocking.
const suspendedProbe = 15 * time.Minute

// bar suspends a platform whose provider does not take the credentials: its breaker opens at once, and stays so until a probe
// succeeds or the credentials are changed. What is queued waits. wait is until the next probe, 0 for suspendedProbe. The caller holds mu.
func (d *Dispatcher) bar(l *lane, probe bool, why string, wait time.Duration, now time.Time) {
	t := d.troubled(l, now)
	h := &t.health
	first := h.suspended == ""
	switch {
	case first:
		d.barred++
		if !t.open() {
			d.open++
		}
		h.openedAt, h.probes = now.UnixMilli(), 0
		l.window = 1
		if d.publish != nil {
			t.notice = TypeSuspended
			rouse(d.keepNow)
		}
		d.log.Warn("credentials refused, platform suspended", slog.String("implementation", l.policy.implementation),
			slog.String("lane", l.policy.lane), slog.String("error", queue.ErrorText(why)))
	case probe:
		h.probes++
		d.metrics.probesFailed.Inc()
	default:
		return // it began before
	}
	h.suspended = cmp.Or(queue.ErrorText(why), "the credentials are refused")
	d.metrics.transitions[BreakerOpen].Inc()
	d.probeAt(l, now.Add(cmp.Or(wait, suspendedProbe)), now)
	d.setAlarm(l)
	d.unsaved(l)
}

// unbar tells that a platform is sent to again, if it was suspended. The caller holds mu, and changes the health.
func (d *Dispatcher) unbar(l *lane) {
	if l.trouble == nil || l.trouble.health.suspended == "" {
		return
	}
	d.barred--
	d.notify(notice{sub: store.SubscriptionID(l.id), kind: TypeResumed, at: stamp(time.Now())})
	d.log.Info("platform resumed", slog.String("implementation", l.policy.implementation), slog.String("lane", l.policy.lane))
}

// suspensionData describes the platform of an implementation.
func suspensionData(sub *store.Subscription, n *notice) noticeData {
	data := noticeData{
		ImplementationID: sub.ImplementationID, State: "active", Reason: sub.Health.Suspended,
		Platform: string(sub.Lane().Platform()), Lane: laneName(sub),
	}
	if n.kind == TypeSuspended {
		data.State = "suspended"
		if at := sub.Health.OpenedAt.UTC(); !at.IsZero() {
			data.FailingSince = &at
		}
	}
	return data
}

// laneName is what a lane of an implementation leads to, for logs.
func laneName(sub *store.Subscription) string {
	switch sub.Role {
	case store.RoleDevices:
		return sub.Lane().String()
	case store.RoleExpansion, store.RoleStatus, store.RoleNone:
	}
	return string(sub.Role)
}
