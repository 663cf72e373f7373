package notification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"herald/queue"
	"herald/store"
)

var keySeed = maphash.MakeSeed()

// Accept makes a message durable for every device it goes to. Errors: *store.MessageError, which is the sender's to mend;
// store.ErrNotFound when there is no such implementation; *queue.ConflictError when the key stands for another message; those of
// queue.Queue.Accept.
func (n *Notifier) Accept(ctx context.Context, m *store.Message) (store.Sent, error) {
	kind := "contact"
	switch {
	case m.Token != nil:
		kind = "device"
	case len(m.Contacts) > 0:
		kind = "multicast"
	}
	return n.message(ctx, m, kind)
}

func (n *Notifier) message(ctx context.Context, m *store.Message, kind string) (store.Sent, error) {
	impl, err := n.store.Implementation(ctx, m.AccountID, m.ImplementationID)
	if err != nil {
		return store.Sent{}, fmt.Errorf("implementation of a message: %w", err)
	}
	if m.Key == "" {
		return n.accept(ctx, impl, m, kind, "")
	}
	id := keyedID(m.AccountID, m.Key)
	lock := &n.keys[maphash.String(keySeed, id)%uint64(len(n.keys))]
	lock.Lock()
	defer lock.Unlock()
	_, err = n.queue.Event(ctx, m.AccountID, id)
	if errors.Is(err, queue.ErrNotFound) {
		return n.accept(ctx, impl, m, kind, id)
	}
	if err != nil {
		return store.Sent{}, fmt.Errorf("look for the message of a key: %w", err)
	}
	// It is there. The queue says whether with this content.
	if _, err := n.queue.Accept(ctx, []queue.Submission{{Event: queue.Event{ID: id, AccountID: m.AccountID, Type: typeMessage, Time: time.Now(), Data: []byte("{}")}, Digest: m.Digest}}); err != nil {
		return store.Sent{}, fmt.Errorf("accept a message: %w", err)
	}
	return store.Sent{TrackingID: id, Duplicate: true}, nil
}

// accept makes a message durable whose key, if it has one, is new; id is that of its event, "" for one of the queue's.
func (n *Notifier) accept(ctx context.Context, impl *store.Implementation, m *store.Message, kind, id string) (store.Sent, error) {
	now := time.Now()
	r := newRenderer(impl, &m.Notification)
	later := m.SendAt.After(now)
	if len(m.Contacts) > 0 || later && m.Contact != "" {
		// Whose devices they are then is found out when it is sent.
		return n.acceptMany(ctx, impl, m, kind, id, r)
	}
	var devices []store.Device
	if m.Token != nil {
		d, err := n.store.DeviceByToken(ctx, m.AccountID, m.ImplementationID, m.Token.Platform, m.Token.Token)
		if errors.Is(err, store.ErrNotFound) {
			d, err = store.Device{DeviceToken: *m.Token}, nil
		}
		if err != nil {
			return store.Sent{}, fmt.Errorf("look for a device: %w", err)
		}
		devices = []store.Device{d}
	} else {
		var err error
		devices, err = n.store.Devices(ctx, m.AccountID, m.Contact, m.ImplementationID, store.DeviceID{}, store.MaxContactDevices)
		if err != nil {
			return store.Sent{}, fmt.Errorf("look for devices: %w", err)
		}
		if len(devices) == 0 {
			return store.Sent{}, &store.MessageError{Field: "routeeContactId", Missing: true, Detail: "has no device in this implementation; register one with POST /messages/{android|ios|web}"}
		}
	}
	if later && m.Token.Platform == store.PlatformIOS {
		r.note = postponed(r.note, m.SendAt.Sub(now))
	}
	if m.DryRun {
		sizes, err := r.measure(devices)
		return store.Sent{Devices: len(devices), Payloads: sizes}, err
	}
	if err := n.openStatusLane(ctx, impl, m.CallbackURL); err != nil {
		return store.Sent{}, err
	}
	due := time.Time{}
	if later {
		due = m.SendAt
	}
	subs := make([]queue.Submission, 0, len(devices)+1)
	if len(devices) > 1 {
		data, err := encode(&messageRecord{
			Version: recordVersion, Implementation: impl.ID, Contact: m.Contact, Devices: len(devices), Expires: expiry(m, now).UnixMilli(), Callback: m.CallbackURL,
		})
		if err != nil {
			return store.Sent{}, err
		}
		subs = append(subs, queue.Submission{Event: queue.Event{AccountID: m.AccountID, Type: typeMessage, Time: now, Data: data}})
	}
	for i := range devices {
		s, err := r.submission(&devices[i], m, now, due)
		if err != nil {
			return store.Sent{}, err
		}
		s.rec.Offset = len(subs)
		sub, err := s.submit()
		if err != nil {
			return store.Sent{}, err
		}
		subs = append(subs, sub)
	}
	subs[0].ID, subs[0].Digest = id, m.Digest
	receipts, err := n.queue.Accept(ctx, subs)
	if err != nil {
		return store.Sent{}, fmt.Errorf("accept a message: %w", err)
	}
	n.metrics.accepted(kind, len(devices))
	return store.Sent{TrackingID: trackingID(receipts[0].ID), Devices: len(devices)}, nil
}

// acceptMany makes a message durable whose devices are looked up when it is sent.
func (n *Notifier) acceptMany(ctx context.Context, impl *store.Implementation, m *store.Message, kind, id string, r *renderer) (store.Sent, error) {
	sizes, err := r.measureAll()
	if err != nil {
		return store.Sent{}, err
	}
	if len(sizes) == 0 {
		return store.Sent{}, &store.MessageError{Field: "implementationId", Missing: true, Detail: "names an implementation without credentials for any platform"}
	}
	if m.DryRun {
		return store.Sent{Payloads: sizes}, nil
	}
	if err := n.openStatusLane(ctx, impl, m.CallbackURL); err != nil {
		return store.Sent{}, err
	}
	now := time.Now()
	contacts := m.Contacts
	if m.Contact != "" {
		contacts = []string{m.Contact}
	}
	note, err := json.Marshal(&m.Notification)
	if err != nil {
		return store.Sent{}, fmt.Errorf("write a notification: %w", err)
	}
	rec := messageRecord{
		Version: recordVersion, Implementation: impl.ID, Contact: m.Contact, Contacts: contacts, Notification: note,
		Expires: expiry(m, now).UnixMilli(), Callback: m.CallbackURL,
	}
	s := queue.Submission{
		Event: queue.Event{ID: id, AccountID: m.AccountID, Type: typeMessage, Time: now, Trace: traceOf(m)}, Digest: m.Digest,
		Lanes: []queue.Lane{queue.Lane(impl.Lane(store.LaneExpansion))},
	}
	if m.SendAt.After(now) {
		rec.SendAt, s.Due = m.SendAt.UnixMilli(), m.SendAt
	}
	if s.Data, err = encode(&rec); err != nil {
		return store.Sent{}, err
	}
	receipts, err := n.queue.Accept(ctx, []queue.Submission{s})
	if err != nil {
		return store.Sent{}, fmt.Errorf("accept a message: %w", err)
	}
	n.metrics.accepted(kind, 0)
	return store.Sent{TrackingID: trackingID(receipts[0].ID)}, nil
}

// postponed is the notification for an iOS device that is rendered long before it is sent: through FCM the time to live is that of rendering.
func postponed(n *store.Notification, by time.Duration) *store.Notification {
	c := *n
	if own := n.APNs.TTL; own != nil {
		c.TTL, c.APNs.TTL = *own, nil
	}
	if c.TTL > 0 {
		c.TTL += by
	}
	return &c
}

// expiry is when a message is given up: its longest time to live after it is sent.
func expiry(m *store.Message, now time.Time) time.Time {
	if m.SendAt.After(now) {
		now = m.SendAt
	}
	ttl := m.TTL
	for _, own := range []*time.Duration{m.Android.TTL, m.APNs.TTL, m.Web.TTL} {
		if own != nil {
			ttl = max(ttl, *own)
		}
	}
	return now.Add(ttl)
}

// traceOf is the trace that a message was sent in. Its devices' providers are told nothing of it.
func traceOf(m *store.Message) *queue.Trace {
	if m.TraceParent == "" {
		return nil
	}
	return &queue.Trace{Parent: m.TraceParent, State: m.TraceState}
}

// inTrace gives a message the trace of the event it is made of.
func inTrace(m *store.Message, e *queue.Event) {
	if e.Trace != nil {
		m.TraceParent, m.TraceState = e.Trace.Parent, e.Trace.State
	}
}

// openStatusLane sees to it that the origin of a callback URL has a lane.
func (n *Notifier) openStatusLane(ctx context.Context, impl *store.Implementation, callback string) error {
	if callback == "" {
		return nil
	}
	at, err := origin(callback)
	if err != nil || slices.Contains(impl.StatusOrigins, at) {
		return err
	}
	_, err = n.store.UpdateImplementation(ctx, impl.AccountID, impl.ID, func(i *store.Implementation) error {
		switch {
		case slices.Contains(i.StatusOrigins, at):
		case len(i.StatusOrigins) >= store.MaxStatusOrigins:
			return &store.MessageError{Field: "callbackUrl", Detail: fmt.Sprintf(
				"must be on one of the %d hosts that this implementation's callback URLs have been on so far; use one host, and tell messages apart by trackingId", store.MaxStatusOrigins)}
		default:
			i.StatusOrigins = append(i.StatusOrigins, at)
		}
		return nil
	})
	if wrong := (*store.MessageError)(nil); errors.As(err, &wrong) {
		return wrong
	}
	if err != nil {
		return fmt.Errorf("open the lane of a callback URL: %w", err)
	}
	return nil
}
