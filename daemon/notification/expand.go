package notification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"herald/queue"
	"herald/store"
)

// pageContacts is how many contacts are looked up for one commit.
const pageContacts = 200

// expand takes a message to many contacts apart: page by page it looks up whose devices there are, and accepts what they get together with the
// page itself. So a page that is there is done, and after a crash it goes on with the next.
func (n *Notifier) expand(ctx context.Context, p queue.Push) queue.Outcome {
	out := queue.Outcome{StartedAt: time.Now()}
	err := n.expandAll(ctx, p.Events[0])
	out.Duration = time.Since(out.StartedAt)
	switch wrong := (*store.MessageError)(nil); {
	case err == nil:
		out.Class = queue.ClassDelivered
	case errors.As(err, &wrong), errors.Is(err, store.ErrNotFound):
		out.Class, out.Error = queue.ClassRejected, err.Error()
	default:
		out.Class, out.Innocent, out.Error = queue.ClassRetry, true, err.Error()
	}
	return out
}

func (n *Notifier) expandAll(ctx context.Context, e *queue.Event) error {
	rec, err := decodeMessage(e)
	if err != nil {
		return &store.MessageError{Field: "message", Detail: err.Error()}
	}
	impl, err := n.store.Implementation(ctx, e.AccountID, rec.Implementation)
	if err != nil {
		return fmt.Errorf("implementation of a message: %w", err)
	}
	note := new(store.Notification)
	if err := json.Unmarshal(rec.Notification, note); err != nil {
		return &store.MessageError{Field: "message", Detail: "cannot be read: " + err.Error()}
	}
	r := newRenderer(impl, note)
	for page := 0; page*pageContacts < len(rec.Contacts); page++ {
		_, err := n.queue.Event(ctx, e.AccountID, pageID(trackingID(e.ID), page))
		if errors.Is(err, queue.ErrNotFound) {
			err = n.expandPage(ctx, e, rec, r, page)
		}
		if err != nil {
			return fmt.Errorf("page %d of a message: %w", page, err)
		}
	}
	return nil
}

func (n *Notifier) expandPage(ctx context.Context, e *queue.Event, rec *messageRecord, r *renderer, page int) error {
	contacts := rec.Contacts[page*pageContacts:]
	contacts = contacts[:min(len(contacts), pageContacts)]
	m := &store.Message{AccountID: e.AccountID, Notification: *r.note, CallbackURL: rec.Callback}
	inTrace(m, e)
	if rec.SendAt > 0 {
		m.SendAt = time.UnixMilli(rec.SendAt)
	}
	// The time to live runs from when the message was to be sent.
	start := e.AcceptedAt
	if m.SendAt.After(start) {
		start = m.SendAt
	}
	info := pageRecord{Version: recordVersion, Contacts: len(contacts)}
	subs := make([]queue.Submission, 1, pageContacts+1)
	for _, contact := range contacts {
		devices, err := n.store.Devices(ctx, e.AccountID, contact, rec.Implementation, store.DeviceID{}, store.MaxContactDevices)
		if err != nil {
			return fmt.Errorf("look for devices: %w", err)
		}
		if len(devices) == 0 {
			info.Missing++
		}
		for i := range devices {
			o, err := r.submission(&devices[i], m, start, time.Time{})
			if wrong := (*store.MessageError)(nil); errors.As(err, &wrong) {
				// What it may become was measured when it was accepted; only other credentials since can lead here.
				n.log.Warn("device left out of a message", slog.String("device", devices[i].ID.String()), slog.String("error", wrong.Error()))
				continue
			}
			if err != nil {
				return err
			}
			o.rec.Message = trackingID(e.ID)
			s, err := o.submit()
			if err != nil {
				return err
			}
			subs = append(subs, s)
		}
	}
	info.Devices = len(subs) - 1
	data, err := encode(&info)
	if err != nil {
		return err
	}
	subs[0] = queue.Submission{Event: queue.Event{
		ID: pageID(trackingID(e.ID), page), AccountID: e.AccountID, Type: typePage, Time: time.Now(), Data: data,
	}}
	if _, err := n.queue.Accept(ctx, subs); err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	n.metrics.devices.Add(float64(info.Devices))
	return nil
}
