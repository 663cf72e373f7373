package notification

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"

	"herald/queue"
	"herald/store"
)

// receiptRecord is what is kept as the answer to a notification that was taken.
type receiptRecord struct {
	MessageID string `json:"messageId"`
}

func receipt(messageID string) []byte {
	b, err := json.Marshal(receiptRecord{messageID})
	if err != nil || len(b) > queue.MaxResponse {
		return nil // an id no provider gives
	}
	return b
}

// callbackURL is what the event of a status change says of where it goes.
type callbackURL struct {
	URL string `json:"url"`
}

// Settling tells the callback URL of a message, if it has one, what became of it on a device: durably, before the notification is
// settled. While the queue takes nothing it waits, as long as ctx lasts and not for ever: then the change is lost, and logged.
func (n *Notifier) Settling(ctx context.Context, sub *store.Subscription, e *queue.Event, s *queue.Settlement, out *queue.Outcome) {
	if s.State == queue.StateRetrying || !bytes.Contains(e.Data, []byte(`"u":`)) {
		return
	}
	rec, err := decodeDevice(e)
	if err != nil || rec.Callback == "" {
		return // sendDevice has told
	}
	for patience := time.Now().Add(settlingPatience); ; {
		err = n.tell(ctx, sub, e, rec, s, out)
		if err == nil {
			return
		}
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, queue.ErrGone) || time.Now().After(patience) || !sleep(ctx, settlingPause) {
			break
		}
	}
	n.metrics.lost.Inc()
	n.log.Error("status change of a message lost", slog.String("event", e.ID), slog.String("error", err.Error()))
}

const (
	settlingPatience = 30 * time.Second
	settlingPause    = 250 * time.Millisecond
)

// tell accepts the event of a status change. Its id is made of that of the notification, so that after a crash there is no other.
func (n *Notifier) tell(ctx context.Context, sub *store.Subscription, e *queue.Event, rec *deviceRecord, s *queue.Settlement, out *queue.Outcome) error {
	impl, err := n.store.Implementation(ctx, e.AccountID, sub.ImplementationID)
	if err != nil {
		return fmt.Errorf("implementation of a message: %w", err)
	}
	at, err := origin(rec.Callback)
	if err != nil {
		return err
	}
	message, err := n.messageID(ctx, e, rec)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	status := statusRecord{
		TrackingID: message, ImplementationID: rec.Implementation, DeviceID: rec.Device, DeviceType: rec.Platform, Contact: rec.Contact,
		Status: store.MessageSent, Date: now,
	}
	if s.State == queue.StateDelivered {
		status.ServiceMessageID = messageIDIn(out.Response)
	} else {
		status.Status, status.Reason, status.Error = store.MessageFailed, s.Reason, queue.ErrorText(out.Error)
	}
	data, err := encode(&status)
	if err != nil {
		return err
	}
	way, err := encode(&callbackURL{rec.Callback})
	if err != nil {
		return err
	}
	submission := queue.Submission{
		Event: queue.Event{
			ID: e.ID + "." + string(status.Status), AccountID: e.AccountID, Type: TypeStatus, Time: now, Data: data, Attributes: way, Trace: e.Trace,
		},
		Lanes: []queue.Lane{queue.Lane(impl.StatusLane(at))},
	}
	if _, err := n.queue.Accept(ctx, []queue.Submission{submission}); err != nil {
		return fmt.Errorf("accept a status change: %w", err)
	}
	return nil
}

// messageID is the tracking id of the message that a notification is part of.
func (n *Notifier) messageID(ctx context.Context, e *queue.Event, rec *deviceRecord) (string, error) {
	switch {
	case rec.Message != "":
		return rec.Message, nil
	case rec.Offset == 0:
		return trackingID(e.ID), nil
	}
	first := e.Seq - uint64(rec.Offset)
	events, err := n.queue.EventsFrom(ctx, e.AccountID, first, 1)
	if err != nil {
		return "", fmt.Errorf("look for the message of a notification: %w", err)
	}
	if len(events) == 0 || events[0].Seq != first {
		return trackingID(e.ID), nil // it is not retained any more
	}
	return trackingID(events[0].ID), nil
}

// Describe is what the log says of an attempt for a message beside what it says of all: which message, and of a device by whom it is
// reached. It names no token and no text.
func (n *Notifier) Describe(ctx context.Context, e *queue.Event) []slog.Attr {
	switch e.Type {
	case typeMessage:
		return []slog.Attr{slog.String("tracking_id", trackingID(e.ID))}
	case TypeStatus:
		if s := new(statusRecord); json.Unmarshal(e.Data, s) == nil {
			return []slog.Attr{slog.String("tracking_id", s.TrackingID)}
		}
	case typeDevice:
		rec, err := decodeDevice(e)
		if err != nil {
			return nil // sendDevice has told
		}
		attrs := []slog.Attr{slog.String("platform", string(rec.Platform)), slog.String("provider", string(rec.Provider))}
		if rec.Device != "" {
			attrs = append(attrs, slog.String("device", rec.Device))
		}
		if id, err := n.messageID(ctx, e, rec); err == nil {
			attrs = append(attrs, slog.String("tracking_id", id))
		}
		return attrs
	}
	return nil
}

// messageIDIn reads what receipt wrote.
func messageIDIn(response []byte) string {
	var r receiptRecord
	if json.Unmarshal(response, &r) != nil {
		return ""
	}
	return r.MessageID
}

// pushStatus pushes a status change to its callback URL, like any event to a subscription.
func (n *Notifier) pushStatus(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome {
	e := *p.Events[0]
	var way callbackURL
	if err := json.Unmarshal(e.Attributes, &way); err != nil || way.URL == "" {
		return refused(queue.ReasonRejected, "the callback URL cannot be read")
	}
	to := *sub
	to.DataCallbackURL = way.URL
	e.Attributes = nil
	p.Events = []*queue.Event{&e}
	return n.webhook.Send(ctx, &to, p)
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
