package notification

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// viewPage is how many deliveries are read at once to count them.
const viewPage = 1000

// span is a part of a message's devices: so many events from one number on.
type span struct {
	first uint64
	n     int
}

// Message returns a message of the account as it stands, with the devices after the cursor ("" begins with the first), at most
// limit. store.ErrNotFound: there is no such message, or it is not retained any more.
func (n *Notifier) Message(ctx context.Context, accountID, tracking, after string, limit int) (*store.MessageView, error) {
	skip := 0
	if after != "" {
		var err error
		if skip, err = strconv.Atoi(after); err != nil || skip < 0 {
			return nil, &store.MessageError{Field: "after", Detail: "must be the next of the page before"}
		}
	}
	e, err := n.queue.Event(ctx, accountID, eventID(tracking))
	if errors.Is(err, queue.ErrNotFound) || err == nil && (e.Type != typeMessage && e.Type != typeDevice || trackingID(e.ID) != tracking) {
		return nil, fmt.Errorf("message %s: %w", tracking, store.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read a message: %w", err)
	}
	v := &store.MessageView{TrackingID: tracking, CreatedAt: e.AcceptedAt}
	if e.Type == typeDevice {
		rec, err := decodeDevice(e)
		if err != nil {
			return nil, err
		}
		if rec.Offset > 0 || rec.Message != "" {
			return nil, fmt.Errorf("message %s: %w", tracking, store.ErrNotFound) // a part of one
		}
		v.ImplementationID, v.Contact = rec.Implementation, rec.Contact
		v.ExpiresAt = time.UnixMilli(rec.Expires).UTC()
		if sent := v.ExpiresAt.Add(-time.Duration(rec.TTL) * time.Second); sent.Sub(v.CreatedAt) > time.Second {
			v.SendAt = sent
		}
		return v, n.fill(ctx, accountID, v, []span{{e.Seq, 1}}, skip, limit)
	}
	rec, err := decodeMessage(e)
	if err != nil {
		return nil, err
	}
	v.ImplementationID, v.Contact, v.ExpiresAt = rec.Implementation, rec.Contact, time.UnixMilli(rec.Expires).UTC()
	if rec.SendAt > 0 {
		v.SendAt = time.UnixMilli(rec.SendAt).UTC()
	}
	spans := []span{{e.Seq + 1, rec.Devices}}
	if len(rec.Contacts) > 0 {
		v.Contacts = len(rec.Contacts)
		if spans, err = n.pages(ctx, accountID, v); err != nil {
			return nil, err
		}
	}
	if err := n.fill(ctx, accountID, v, spans, skip, limit); err != nil {
		return nil, err
	}
	return v, n.unexpanded(ctx, accountID, e, v)
}

// pages returns the parts of a message to many contacts that have been made so far.
func (n *Notifier) pages(ctx context.Context, accountID string, v *store.MessageView) ([]span, error) {
	var spans []span
	for page := 0; page*pageContacts < v.Contacts; page++ {
		e, err := n.queue.Event(ctx, accountID, pageID(v.TrackingID, page))
		if errors.Is(err, queue.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read a page of a message: %w", err)
		}
		rec, err := decodePage(e)
		if err != nil {
			return nil, err
		}
		v.Expanded += rec.Contacts
		spans = append(spans, span{e.Seq + 1, rec.Devices})
	}
	return spans, nil
}

// unexpanded corrects the status of a message to many contacts by what has become of its expansion.
func (n *Notifier) unexpanded(ctx context.Context, accountID string, e *queue.Event, v *store.MessageView) error {
	if v.Contacts == 0 {
		return nil
	}
	if v.Expanded < v.Contacts {
		ds, err := n.queue.DeliveriesFrom(ctx, accountID, e.Seq, 1)
		if err != nil {
			return fmt.Errorf("read the expansion of a message: %w", err)
		}
		v.Status, v.Reason = store.MessageQueued, ""
		if len(ds) == 1 {
			if status := statusOf(ds[0].State); status == store.MessageFailed {
				v.Status, v.Reason = status, ds[0].Reason
			}
		}
		return nil
	}
	if v.Queued+v.Sent+v.Failed == 0 {
		v.Status, v.Reason = store.MessageFailed, sender.ReasonNoDevice
	}
	return nil
}

// fill counts the devices of a message and describes a page of them.
func (n *Notifier) fill(ctx context.Context, accountID string, v *store.MessageView, spans []span, skip, limit int) error {
	now := time.Now()
	at := 0                // how many came before
	reached := v.CreatedAt // when the last of those described got where it is
	for _, s := range spans {
		for s.n > 0 {
			part := span{s.first, min(s.n, viewPage)}
			s.first, s.n = s.first+uint64(part.n), s.n-part.n
			ds, err := n.queue.DeliveriesFrom(ctx, accountID, part.first, part.n)
			if err != nil {
				return fmt.Errorf("read the deliveries of a message: %w", err)
			}
			var events []*queue.Event
			for i, d := range ds {
				if at+i < skip || len(v.Devices) == limit {
					count(v, statusOf(d.State), d.Reason, now)
					continue
				}
				if events == nil {
					if events, err = n.queue.EventsFrom(ctx, accountID, part.first, part.n); err != nil {
						return fmt.Errorf("read the notifications of a message: %w", err)
					}
				}
				device, err := n.describe(ctx, accountID, d, events, now)
				if err != nil {
					return err
				}
				count(v, device.Status, device.Reason, now)
				if device.At.After(reached) {
					reached = device.At
				}
				v.Devices = append(v.Devices, device)
			}
			at += len(ds)
		}
	}
	if skip+len(v.Devices) < at {
		v.Next = strconv.Itoa(skip + len(v.Devices))
	}
	switch {
	case v.Queued > 0:
		v.Status, v.Reason = store.MessageQueued, ""
	case v.Sent > 0:
		v.Status, v.Reason = store.MessageSent, ""
	default:
		v.Status = store.MessageFailed
	}
	if v.At = v.CreatedAt; v.Status != store.MessageQueued {
		v.At = reached
	}
	return nil
}

func statusOf(s queue.State) store.MessageStatus {
	switch s {
	case queue.StateDelivered:
		return store.MessageSent
	case queue.StateDead, queue.StateDiscarded:
		return store.MessageFailed
	case queue.StatePending, queue.StateDelivering, queue.StateRetrying, queue.StateHeld:
	}
	return store.MessageQueued
}

// count takes a device into the counts of its message. What waits beyond the time to live has failed, though nobody has looked.
func count(v *store.MessageView, status store.MessageStatus, reason string, now time.Time) {
	if status == store.MessageQueued && now.After(v.ExpiresAt.Add(nowOrNever)) {
		status, reason = store.MessageFailed, queue.ReasonExpired
	}
	switch status {
	case store.MessageQueued:
		v.Queued++
	case store.MessageSent:
		v.Sent++
	case store.MessageFailed:
		v.Failed++
		v.Reason = reason
	}
}

// describe tells of one device of a message.
func (n *Notifier) describe(ctx context.Context, accountID string, d *queue.Delivery, events []*queue.Event, now time.Time) (store.MessageDevice, error) {
	// State and attempts have to be of one moment, which that of the page is not.
	current, attempts, err := n.queue.Delivery(ctx, accountID, d.ID)
	switch {
	case err == nil:
		d = current
	case !errors.Is(err, queue.ErrNotFound):
		return store.MessageDevice{}, fmt.Errorf("read the attempts of a notification: %w", err)
	}
	device := store.MessageDevice{Status: statusOf(d.State), Reason: d.Reason, At: d.AcceptedAt}
	if d.NextAttemptAt.After(now) { // one that is due waits for its platform
		device.NextAt = d.NextAttemptAt
	}
	var e *queue.Event
	for _, x := range events {
		if x.Seq == d.ID.Seq {
			e = x
		}
	}
	if e == nil {
		return device, nil // it went between the two readings
	}
	rec, err := decodeDevice(e)
	if err != nil {
		return device, err
	}
	device.Platform, device.Contact = rec.Platform, rec.Contact
	if rec.Device != "" {
		if device.ID, err = store.ParseDeviceID(rec.Device); err != nil {
			return device, fmt.Errorf("read a notification: %w", err)
		}
	}
	for i := range attempts {
		a := &attempts[i]
		device.Attempts = append(device.Attempts, store.MessageAttempt{
			Number: a.Number, At: a.StartedAt, Duration: a.Duration, HTTPStatus: a.Status, Outcome: string(a.Class), Error: a.Error,
		})
		device.Error = a.Error
		if a.Class == queue.ClassDelivered {
			device.ProviderID = messageIDIn(a.Response)
		}
		if device.Status != store.MessageQueued {
			device.At = a.StartedAt.Add(a.Duration).Truncate(time.Millisecond)
		}
	}
	if at := time.UnixMilli(rec.Expires); device.Status == store.MessageQueued && d.State != queue.StateDelivering && rec.TTL > 0 && now.After(at) {
		device.Status, device.Reason, device.At, device.NextAt = store.MessageFailed, queue.ReasonExpired, at.UTC(), time.Time{}
	}
	return device, nil
}
