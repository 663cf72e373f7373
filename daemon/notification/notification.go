// Package notification turns messages into notifications on devices.
//
// It promises:
//
//   - A message is rendered into what the provider of each device takes, and measured, before it is accepted; what was accepted is in
//     the queue, once for each device, and goes the way of every delivery.
//   - A device is looked up again at each attempt: one that got another token is reached by that, and one that was removed, or came
//     to belong to another contact, gets nothing.
//   - What a provider says of a token is acted upon before the notification is settled: dead ones are removed, and only for the reasons
//     that say so.
//   - Every change of a message's status is in the queue, for its callback URL, before the notification is settled.
//   - Nothing of a token, a text or a payload is logged.
package notification

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/daemon/sender"
	"herald/daemon/sender/apns"
	"herald/daemon/sender/fcm"
	"herald/daemon/sender/webpush"
	"herald/queue"
	"herald/store"
)

// The types of the events that messages are made of. They are nobody's to publish or to list.
const (
	// typeMessage is a message to several devices, or to many contacts.
	typeMessage = store.MessagePrefix
	// typeDevice is a message to one device.
	typeDevice = store.MessagePrefix + ".device"
	// typePage is a page of a message to many contacts: its devices follow.
	typePage = store.MessagePrefix + ".page"
	// TypeStatus is a change of status, for a callback URL.
	TypeStatus = store.MessagePrefix + ".status"
)

// Pusher makes an attempt to push an event to an HTTP callback.
type Pusher interface {
	Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome
}

// What makes attempts to reach devices.
type (
	// FCM is a *fcm.Sender.
	FCM interface {
		Send(ctx context.Context, owner string, key *store.FCM, to fcm.Target, message []byte, validateOnly bool) sender.Result
		Forget(owner string)
	}
	// APNs is an *apns.Sender.
	APNs interface {
		Send(ctx context.Context, owner string, key *store.APNs, p apns.Push) sender.Result
		Forget(owner string)
	}
	// WebPush is a *webpush.Sender.
	WebPush interface {
		Send(ctx context.Context, owner string, key *store.VAPID, p webpush.Push) sender.Result
		Forget(owner string)
	}
)

// Options are what a Notifier works with; all but Logger and Registerer are required.
type Options struct {
	Store store.Store
	Queue queue.Queue
	// FCM, APNs and WebPush reach devices, Webhook everybody else.
	FCM     FCM
	APNs    APNs
	WebPush WebPush
	Webhook Pusher
	// Logger gets what the operator should know; nil discards it.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means they are not registered.
	Registerer prometheus.Registerer
}

// Notifier accepts messages and is the dispatcher's Sender. It is safe for concurrent use.
type Notifier struct {
	store   store.Store
	queue   queue.Queue
	fcm     FCM
	apns    APNs
	webpush WebPush
	webhook Pusher
	log     *slog.Logger
	metrics *metrics
	strays  strays
	seen    chan sighting
	// keys are held while a message with a key of its caller's is accepted, so that two of the same key are one.
	keys [64]sync.Mutex
}

// New validates the options.
func New(o Options) (*Notifier, error) {
	if o.Store == nil || o.Queue == nil || o.FCM == nil || o.APNs == nil || o.WebPush == nil || o.Webhook == nil {
		return nil, errors.New("notification: a store, a queue and the senders are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("notification: %w", err)
	}
	return &Notifier{
		store: o.Store, queue: o.Queue, fcm: o.FCM, apns: o.APNs, webpush: o.WebPush, webhook: o.Webhook, log: o.Logger, metrics: m,
		strays: strays{rows: make(map[store.SubscriptionID]int)}, seen: make(chan sighting, maxSightings),
	}, nil
}

// Send implements dispatch.Sender: it makes one attempt at whatever the lane of the subscription leads to.
func (n *Notifier) Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	switch {
	case sub.Role == store.RoleDevices:
		return n.sendDevice(ctx, sub, p)
	case sub.Role == store.RoleExpansion:
		return n.expand(ctx, p)
	case sub.Role == store.RoleStatus:
		return n.pushStatus(ctx, sub, p)
	case sub.Notification != nil:
		return n.sendEvent(ctx, sub, p)
	}
	return n.webhook.Send(ctx, sub, p)
}

// Changed lets go of what is kept for the credentials of lanes of an implementation.
func (n *Notifier) Changed(_, _ string, lanes []store.SubscriptionID) {
	for _, id := range lanes {
		owner := ownerOf(id)
		n.fcm.Forget(owner)
		n.apns.Forget(owner)
		n.webpush.Forget(owner)
		n.strays.reset(id)
	}
}

// ownerOf is what senders keep connections and tokens by.
func ownerOf(lane store.SubscriptionID) string { return lane.String() }

// sendEvent makes a message of an event.
func (n *Notifier) sendEvent(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	out := queue.Outcome{StartedAt: time.Now()}
	e := p.Events[0]
	contact, note, err := sub.Notification.Fill(e.Data)
	if err != nil {
		out.Class, out.Error = queue.ClassRejected, err.Error()
		return out
	}
	m := store.Message{
		AccountID: sub.AccountID, ImplementationID: sub.Notification.ImplementationID, Contact: contact, Notification: note,
		// The same event is the same message, also when it is known only after a crash that it had become one. A replay is another.
		Key: p.ID + "\x00" + sub.ID.String(),
	}
	inTrace(&m, e)
	if p.Replay {
		m.Key += "\x00" + time.Now().UTC().Format(time.RFC3339)
	}
	sent, err := n.message(ctx, &m, "event")
	out.Duration = time.Since(out.StartedAt)
	if err == nil {
		out.Class = queue.ClassDelivered
		out.Response = []byte(`{"trackingId":"` + sent.TrackingID + `"}`)
		return out
	}
	out.Class, out.Error = queue.ClassRetry, "the notification was not accepted: "+err.Error()
	if wrong := (*store.MessageError)(nil); errors.As(err, &wrong) {
		out.Class = queue.ClassRejected
	} else if errors.Is(err, store.ErrNotFound) {
		out.Class, out.Error = queue.ClassMisconfigured, fmt.Sprintf("there is no implementation %q", m.ImplementationID)
	}
	return out
}
