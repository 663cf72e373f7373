package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// attemptTimeout is the daemon's default for one attempt.
const attemptTimeout = 15 * time.Second

// sender sends signed pushes the way the daemon does. It may be used concurrently.
type sender struct {
	targets   []string
	transport *http.Transport
	key       *standardwebhooks.Webhook
	before    string // the envelope up to the id
	after     string // and from there
}

// newSender prepares the envelope of the payload for the targets; concurrency is how many connections to
// keep for each.
func newSender(targets []string, concurrency int, data []byte) (*sender, error) {
	key, err := standardwebhooks.NewWebhookRaw([]byte("a key that only the ceiling uses"))
	if err != nil {
		return nil, fmt.Errorf("prepare the sender: %w", err)
	}
	return &sender{
		targets: targets,
		transport: &http.Transport{
			MaxIdleConns: concurrency * len(targets), MaxIdleConnsPerHost: concurrency,
			IdleConnTimeout: 90 * time.Second, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
		key:    key,
		before: `{"id":"`,
		after:  `","type":"` + eventType + `","time":"2026-01-01T00:00:00.000Z","accountId":"default","data":` + string(data) + `}`,
	}, nil
}

// send makes one attempt and returns nil for a 2xx answer.
func (s *sender) send(ctx context.Context, target int, number int64) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	id := "evt_" + strconv.FormatInt(number, 10)
	body := []byte(s.before + id + s.after)
	now := time.Now()
	signature, err := s.key.Sign(id, now, body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.targets[target], bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header["Content-Type"] = []string{"application/json"}
	req.Header["User-Agent"] = []string{"Herald/bench"}
	req.Header["Webhook-Id"] = []string{id}
	req.Header["Webhook-Timestamp"] = []string{strconv.FormatInt(now.Unix(), 10)}
	req.Header["Webhook-Signature"] = []string{signature}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close()
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return err
}

// close gives the connections back.
func (s *sender) close() { s.transport.CloseIdleConnections() }
