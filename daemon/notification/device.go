package notification

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"herald/daemon/sender"
	"herald/daemon/sender/apns"
	"herald/daemon/sender/fcm"
	"herald/daemon/sender/webpush"
	"herald/queue"
	"herald/store"
)

// storePause is how long a notification waits when the store could not be read.
const storePause = 5 * time.Second

// nowOrNever is how long a message without a time to live may take to its first attempt.
const nowOrNever = 30 * time.Second

// delivery is one attempt to reach one device.
type delivery struct {
	sub    *store.Subscription
	event  *queue.Event
	rec    *deviceRecord
	impl   *store.Implementation
	device store.Device // of an ID only when it is registered
	now    time.Time
}

// sendDevice makes one attempt to reach a device.
func (n *Notifier) sendDevice(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	d := &delivery{sub: sub, event: p.Events[0], now: time.Now()}
	out, ok := n.prepare(ctx, d, p.Attempt)
	if !ok {
		out.StartedAt, out.Duration = d.now, time.Since(d.now)
		return out
	}
	r := n.attempt(ctx, d, d.device.OtherEnvironment)
	if r.Device == sender.DeviceElsewhere {
		r = n.elsewhere(ctx, d, r)
	}
	n.react(ctx, d, &r)
	n.metrics.attempt(d.rec.Provider, r.Class)
	if r.Class == queue.ClassDelivered {
		r.Response = receipt(r.MessageID)
	}
	return r.Outcome
}

// prepare finds out where the device is and whether it is still to be reached. Not ok: the outcome says why not.
func (n *Notifier) prepare(ctx context.Context, d *delivery, attempt int) (out queue.Outcome, ok bool) {
	var err error
	if d.rec, err = decodeDevice(d.event); err != nil {
		n.log.Error("notification cannot be read", slog.String("event", d.event.ID), slog.String("error", err.Error()))
		return refused(queue.ReasonRejected, err.Error()), false
	}
	rec := d.rec
	if d.impl, err = n.store.Implementation(ctx, d.event.AccountID, rec.Implementation); err != nil {
		return n.unread("implementation", err, "the implementation was deleted"), false
	}
	if at := time.UnixMilli(rec.Expires); d.now.After(at) && (rec.TTL > 0 || attempt > 1 || d.now.After(at.Add(nowOrNever))) {
		return refused(queue.ReasonExpired, fmt.Sprintf("its time to live of %d s ended at %s", rec.TTL, at.UTC().Format(time.RFC3339))), false
	}
	if rec.Token != nil {
		d.device = store.Device{DeviceToken: store.DeviceToken{
			Platform: rec.Platform, Kind: rec.Token.Kind, Token: rec.Token.Token, P256DH: rec.Token.P256DH, Auth: rec.Token.Auth,
		}}
	} else {
		id, err := store.ParseDeviceID(rec.Device)
		if err != nil {
			return refused(queue.ReasonRejected, err.Error()), false
		}
		if d.device, err = n.store.Device(ctx, d.event.AccountID, id); err != nil {
			return n.unread("device", err, "the device was removed"), false
		}
		if rec.Contact != d.device.Contact {
			return refused(sender.ReasonNoDevice, "the device belongs to another contact now"), false
		}
	}
	if rest := d.device.RestUntil.Sub(d.now); rest > 0 {
		return queue.Outcome{
			Class: queue.ClassRetry, Innocent: true, Wait: rest,
			Error: "the provider wants nothing more for this device before " + d.device.RestUntil.UTC().Format(time.RFC3339),
		}, false
	}
	switch by := d.impl.Provider(rec.Platform, d.device.Kind); by {
	case rec.Provider:
		return out, true
	case "":
		return queue.Outcome{
			Class: queue.ClassMisconfigured,
			Error: fmt.Sprintf("the implementation has no credentials for %s devices any more", rec.Platform),
		}, false
	default:
		return refused(queue.ReasonRejected, fmt.Sprintf("the implementation reaches %s devices through %s now, and the message was made for %s", rec.Platform, by, rec.Provider)), false
	}
}

// refused is the outcome of what was not tried, and will never do.
func refused(reason, why string) queue.Outcome {
	return queue.Outcome{Class: queue.ClassRejected, Reason: reason, Error: why}
}

// unread is the outcome when something could not be read from the store: because it is gone, or for now.
func (n *Notifier) unread(what string, err error, gone string) queue.Outcome {
	if errors.Is(err, store.ErrNotFound) {
		return refused(sender.ReasonNoDevice, gone)
	}
	n.log.Error("store cannot be read", slog.String("what", what), slog.String("error", err.Error()))
	return queue.Outcome{Class: queue.ClassRetry, Innocent: true, Wait: storePause, Error: "the " + what + " could not be read"}
}

// attempt hands the notification to the provider.
func (n *Notifier) attempt(ctx context.Context, d *delivery, otherEnvironment bool) sender.Result {
	owner := ownerOf(d.sub.ID)
	switch d.rec.Provider {
	case store.ProviderAPNs:
		p := apns.Push{
			ID: messageUUID(d.event), Token: d.device.Token, OtherEnvironment: otherEnvironment, Payload: d.rec.Payload,
		}
		if d.rec.APNs != nil {
			p.Headers = *d.rec.APNs
		}
		if d.rec.TTL > 0 {
			p.ExpiresAt = time.UnixMilli(d.rec.Expires)
		}
		return n.apns.Send(ctx, owner, d.impl.APNs, p)
	case store.ProviderWebPush:
		p := webpush.Push{
			Endpoint: d.device.Token, P256DH: d.device.P256DH, Auth: d.device.Auth, Payload: d.rec.Payload,
			TTL: max(time.UnixMilli(d.rec.Expires).Sub(d.now).Truncate(time.Second), 0),
		}
		if d.rec.Web != nil {
			p.Headers = *d.rec.Web
		}
		return n.webpush.Send(ctx, owner, d.impl.VAPID, p)
	case store.ProviderFCM:
	}
	to := fcm.Target{Token: d.device.Token, FID: d.device.Kind == store.TokenFID}
	return n.fcm.Send(ctx, owner, d.impl.FCM(d.rec.Platform), to, d.rec.Payload, false)
}

// elsewhere tries the other environment of APNs for a token that none has taken yet: apps are signed for one of two, and
// which one their tokens do not tell.
func (n *Notifier) elsewhere(ctx context.Context, d *delivery, r sender.Result) sender.Result {
	dead := r
	dead.Device = sender.DeviceDead
	if d.device.Proven {
		return dead
	}
	other := n.attempt(ctx, d, !d.device.OtherEnvironment)
	switch other.Class {
	case queue.ClassDelivered:
		n.update(ctx, d, func(x *store.Device) { x.OtherEnvironment, x.Proven = !d.device.OtherEnvironment, true })
		return other
	case queue.ClassRetry:
		other.Innocent = true // its environment is not the lane's
		return other
	case queue.ClassGone, queue.ClassRejected, queue.ClassMisconfigured:
	}
	return dead
}

// react does what an answer asks for beyond the notification.
func (n *Notifier) react(ctx context.Context, d *delivery, r *sender.Result) {
	if r.Class == queue.ClassDelivered {
		n.strays.reset(d.sub.ID)
	}
	switch r.Device {
	case sender.DeviceSeen:
		n.sight(d)
	case sender.DeviceForeign:
		if n.strays.add(d.sub.ID) >= maxStrays {
			// Not one token in a row was made for these credentials: then it is they that are wrong, and no token's fault.
			r.Class, r.Reason, r.Innocent = queue.ClassMisconfigured, "", false
			r.Error = fmt.Sprintf("the last %d devices belong to other credentials: %s", maxStrays, r.Error)
			return
		}
		n.prune(ctx, d, r)
	case sender.DeviceDead:
		n.prune(ctx, d, r)
	case sender.DeviceThrottled:
		until := d.now.Add(cmp.Or(max(r.Wait, r.RetryAfter), time.Minute)).UTC().Truncate(time.Millisecond)
		n.metrics.throttled.Inc()
		n.update(ctx, d, func(x *store.Device) { x.RestUntil = until })
	case sender.DeviceUnknown, sender.DeviceElsewhere:
	}
}

// prune removes a device whose token is dead, unless it has got another one meanwhile.
func (n *Notifier) prune(ctx context.Context, d *delivery, r *sender.Result) {
	if d.device.ID == (store.DeviceID{}) {
		return
	}
	err := n.store.DeleteDevice(ctx, d.event.AccountID, d.device.ID, func(x *store.Device) bool {
		return x.Token == d.device.Token && (r.DeadSince.IsZero() || !x.RegisteredAt.After(r.DeadSince))
	})
	switch {
	case err == nil:
		n.metrics.pruned[d.rec.Provider].Inc()
		n.log.Info("device removed", slog.String("device", d.device.ID.String()), slog.String("implementation", d.impl.ID),
			slog.String("provider", string(d.rec.Provider)), slog.String("error", r.Error))
	case !errors.Is(err, store.ErrNotFound):
		// The next notification finds it again.
		n.log.Error("device not removed", slog.String("device", d.device.ID.String()), slog.String("error", err.Error()))
	}
}

// update changes what is known of a registered device that still has the token.
func (n *Notifier) update(ctx context.Context, d *delivery, change func(*store.Device)) {
	if d.device.ID == (store.DeviceID{}) {
		return
	}
	err := n.store.UpdateDevice(ctx, d.device.ID, func(x *store.Device) error {
		if x.Token != d.device.Token {
			return store.ErrNotFound
		}
		change(x)
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		n.log.Error("device not updated", slog.String("device", d.device.ID.String()), slog.String("error", err.Error()))
	}
}

// messageUUID is the id of a notification that is the same at every attempt.
func messageUUID(e *queue.Event) string {
	sum := sha256.Sum256([]byte(e.ID))
	u := uuid.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8 of RFC 9562, section 5.8: of one's own making
	return u.String()
}
