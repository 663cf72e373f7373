package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"herald/daemon/egress"
	"herald/daemon/sender/webhook"
	"herald/queue"
	"herald/store"
)

// attemptTimeout is the daemon's default for one attempt.
const attemptTimeout = 15 * time.Second

// bareSender sends signed pushes with the daemon's own sender over its own way out, and nothing of the
// daemon around it. It may be used concurrently.
type bareSender struct {
	transport *http.Transport
	webhook   *webhook.Sender
	subs      []*store.Subscription
	records   int
	data      []byte
}

// newBareSender prepares to push the payload to the targets, so many records in a push and with so many attempts at
// once for each. Authorities are trusted as by egress.Options.
func newBareSender(targets []string, caFile string, concurrency, records int, data []byte) (*bareSender, error) {
	way, err := egress.New(egress.Options{
		AllowNetworks:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		CAFile:              caFile,
		MaxIdleConnsPerHost: concurrency,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the sender: %w", err)
	}
	s := &bareSender{transport: way.Transport(), records: records, data: data}
	if s.webhook, err = webhook.New(webhook.Options{Transport: s.transport, UserAgent: "Herald/bench"}); err != nil {
		return nil, fmt.Errorf("prepare the sender: %w", err)
	}
	for i, target := range targets {
		s.subs = append(s.subs, &store.Subscription{
			ID: store.SubscriptionID{byte(i >> 8), byte(i)}, AccountID: "default", DataCallbackURL: target,
			ExportFormat: "application/json", NumberOfRecords: records, Payload: store.PayloadEnvelope,
			Method: http.MethodPost, State: store.StateActive,
			SigningSecrets: []store.SigningSecret{{Key: []byte("a key that only the ceiling uses")}},
		})
	}
	return s, nil
}

// send makes one attempt and returns nil when it was delivered.
func (s *bareSender) send(ctx context.Context, target int, number int64) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	now := time.Now().UTC()
	events := make([]*queue.Event, s.records)
	for i := range events {
		id := "evt_" + strconv.FormatInt(1e15+number*int64(s.records)+int64(i), 10)
		events[i] = &queue.Event{ID: id, AccountID: "default", Type: eventType, Time: now, AcceptedAt: now, Data: s.data}
	}
	out := s.webhook.Send(ctx, s.subs[target], queue.Push{ID: events[0].ID, Events: events, Attempt: 1})
	if out.Class != queue.ClassDelivered {
		return fmt.Errorf("status %d: %s", out.Status, out.Error)
	}
	return nil
}

// close gives the connections back.
func (s *bareSender) close() { s.transport.CloseIdleConnections() }
