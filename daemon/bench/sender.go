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
	data      []byte
}

// newBareSender prepares to push the payload to the targets, with so many attempts at once for each.
func newBareSender(targets []string, concurrency int, data []byte) (*bareSender, error) {
	way, err := egress.New(egress.Options{
		AllowNetworks:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		MaxIdleConnsPerHost: concurrency,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the sender: %w", err)
	}
	s := &bareSender{transport: way.Transport(), data: data}
	if s.webhook, err = webhook.New(webhook.Options{Transport: s.transport, UserAgent: "Herald/bench"}); err != nil {
		return nil, fmt.Errorf("prepare the sender: %w", err)
	}
	for i, target := range targets {
		s.subs = append(s.subs, &store.Subscription{
			ID: store.SubscriptionID{byte(i >> 8), byte(i)}, AccountID: "default", DataCallbackURL: target,
			ExportFormat: "application/json", NumberOfRecords: 1, Payload: store.PayloadEnvelope,
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
	e := &queue.Event{
		ID: "evt_" + strconv.FormatInt(1e15+number, 10), AccountID: "default", Type: eventType, Time: now, AcceptedAt: now, Data: s.data,
	}
	out := s.webhook.Send(ctx, s.subs[target], queue.Push{ID: e.ID, Events: []*queue.Event{e}, Attempt: 1})
	if out.Class != queue.ClassDelivered {
		return fmt.Errorf("status %d: %s", out.Status, out.Error)
	}
	return nil
}

// close gives the connections back.
func (s *bareSender) close() { s.transport.CloseIdleConnections() }
