package handshake

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// errStale says that another record has taken the place of the one that was sent.
var errStale = errors.New("the record is no longer the one under way")

// attempt tries to hand over a record, the one that expires at the moment given, and writes down what came of it. It
// returns how long to wait before the subscription is looked at again, which is 0 unless the store failed.
func (h *Handshake) attempt(ctx context.Context, id store.SubscriptionID, expires time.Time) time.Duration {
	sub, err := h.store.Subscription(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0
	case err != nil:
		h.complain(ctx, "read subscription", err)
		return storeDelay
	}
	v := &sub.Validation
	if v.NextAt.IsZero() || !v.ExpiresAt.Equal(expires) {
		return 0 // it has changed, and is looked at again
	}
	if !time.Now().Before(expires) { // the daemon was not running when it ended
		return h.settle(ctx, sub, v.Attempts, time.Time{}, v.LastError, reasonExpired)
	}

	settings := h.settings.Load()
	timeout := settings.Timeout
	if sub.Delivery.Timeout > 0 {
		timeout = sub.Delivery.Timeout
	}
	limited, cancel := context.WithTimeout(ctx, min(timeout, MaxTimeout))
	started := time.Now()
	var out queue.Outcome
	var rate int
	asking := sub.ValidationKind == store.ValidationCloudEvents
	origin := h.origin()
	if asking {
		out, rate = h.sender.Ask(limited, sub, queue.Push{ID: recordID(sub), Attempt: v.Attempts + 1}, origin, h.callback(sub))
	} else {
		out = h.sender.Send(limited, addressed(sub), h.push(sub))
	}
	cancel()
	ended := time.Now()
	if ctx.Err() != nil && out.Status == 0 {
		return 0 // it was broken off by us, and is no attempt
	}
	next, reason := h.next(&out, v.Attempts, ended, expires, settings.Jitter)
	h.metrics.attempts[out.Class].Inc()
	h.logAttempt(ctx, sub, &out, ended.Sub(started), next, reason)
	if asking && out.Class == queue.ClassDelivered {
		return h.granted(ctx, sub, origin, rate)
	}
	return h.settle(ctx, sub, v.Attempts+1, next, out.Error, reason)
}

// callback is where the receiver of a subscription may grant permission later, for the next request to it; "" for a request that does
// not say so. The header is optional ("HTTP 1.1 Web Hooks for Event Delivery", section 4.1.3) and stands in every other request, from
// the first: there are receivers, made with the Go module of CloudEvents among them, that never grant permission in the answer to a
// request that has it, and by themselves not in another way.
func (h *Handshake) callback(s *store.Subscription) string {
	if s.Validation.Attempts%2 == 1 {
		return ""
	}
	return h.confirmAt(s) + "?signature=" + s.ValidationSignature()
}

// granted hands on that a receiver has granted permission.
func (h *Handshake) granted(ctx context.Context, sent *store.Subscription, origin string, rate int) time.Duration {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeDelay)
	defer cancel()
	if err := h.grant(ctx, sent, origin, rate); err != nil {
		return h.unsettled(ctx, sent.Validation.Attempts+1, err)
	}
	return 0
}

// unsettled is how long a record rests whose attempt could not be written down. Nothing is lost: it is sent once more, as it is after
// a crash.
func (h *Handshake) unsettled(ctx context.Context, attempts int, err error) time.Duration {
	h.complain(ctx, "note a validation attempt", err)
	wait, _ := h.schedule.Next(min(attempts, 2), 0, 0)
	return max(wait, storeDelay)
}

// next says when a record is tried again after this outcome, and why not if it is given up.
func (h *Handshake) next(out *queue.Outcome, attempts int, now, expires time.Time, jitter float64) (time.Time, string) {
	switch out.Class {
	case queue.ClassDelivered:
		return time.Time{}, ""
	case queue.ClassGone:
		return time.Time{}, reasonGone
	case queue.ClassRetry, queue.ClassRejected, queue.ClassMisconfigured:
	}
	wait, ok := h.schedule.Next(attempts, jitter, uniform())
	at := now.Add(max(wait, min(out.RetryAfter, store.ValidationLifetime))).UTC().Truncate(time.Millisecond)
	if !ok || !at.Before(expires) {
		return time.Time{}, reasonExpired
	}
	return at, ""
}

// settle writes down how an attempt ended, if the record is still the one under way. reason is why it is given up, or "".
func (h *Handshake) settle(ctx context.Context, sent *store.Subscription, attempts int, next time.Time, text, reason string) time.Duration {
	// What happened is to be known after a restart, also when it was the last thing before it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeDelay)
	defer cancel()
	_, err := h.store.UpdateSubscription(ctx, sent.ID, func(s *store.Subscription) error {
		v := &s.Validation
		if v.NextAt.IsZero() || !v.ExpiresAt.Equal(sent.Validation.ExpiresAt) {
			return errStale
		}
		v.Attempts, v.NextAt, v.LastError = attempts, next, queue.ErrorText(text)
		return nil
	})
	switch {
	case errors.Is(err, errStale), errors.Is(err, store.ErrNotFound):
		return 0
	case err != nil:
		return h.unsettled(ctx, attempts, err)
	}
	if reason != "" {
		h.metrics.givenUp[reason].Inc()
	}
	return 0
}

// addressed is the subscription as the Sender is to see it: a push of one bare record goes to the validation URL.
func addressed(s *store.Subscription) *store.Subscription {
	c := *s
	c.DataCallbackURL, c.Method, c.Payload, c.NumberOfRecords = s.ValidationURL(), http.MethodPost, store.PayloadData, 1
	return &c
}

// recordType is the type of the record.
const recordType = "herald.validation"

// recordID is the id of the push that a record is: the same on every attempt, and another for another record.
func recordID(s *store.Subscription) string {
	return "val_" + strings.ReplaceAll(s.ID.String(), "-", "") + strconv.FormatInt(s.Validation.ExpiresAt.UnixMilli(), 36)
}

// push is the record as a push.
func (h *Handshake) push(s *store.Subscription) queue.Push {
	id := recordID(s)
	// Neither text can fail to be quoted: both are ASCII, or at worst have bytes replaced.
	data, _ := jsontext.AppendQuote([]byte(`{"confirmationURL":`), h.confirmAt(s))
	data, _ = jsontext.AppendQuote(append(data, `,"signature":`...), s.ValidationSignature())
	return queue.Push{
		ID: id, Attempt: s.Validation.Attempts + 1,
		Events: []*queue.Event{{
			ID: id, AccountID: s.AccountID, Type: recordType,
			Time: s.Validation.ExpiresAt.Add(-store.ValidationLifetime), Data: append(data, '}'),
		}},
	}
}

// logAttempt writes the one line of an attempt. Its keys are those of every attempt. Of the URL it names the
// host, because a path may be a secret.
func (h *Handshake) logAttempt(ctx context.Context, s *store.Subscription, out *queue.Outcome, took time.Duration, next time.Time, reason string) {
	attrs := append(make([]slog.Attr, 0, 12), slog.String("account", s.AccountID), slog.String("subscription", s.ID.String()))
	if u, err := url.Parse(s.ValidationURL()); err == nil {
		attrs = append(attrs, slog.String("host", u.Host))
	}
	attrs = append(attrs,
		slog.String("event", recordID(s)), slog.String("type", recordType), slog.Int("records", 1), slog.Int("attempt", s.Validation.Attempts+1),
		slog.String("outcome", string(out.Class)), slog.Int("status", out.Status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
	)
	if out.Error != "" {
		attrs = append(attrs, slog.String("error", queue.ErrorText(out.Error)))
	}
	switch {
	case !next.IsZero():
		attrs = append(attrs, slog.Time("next", next))
	case reason != "":
		attrs = append(attrs, slog.String("next", reason))
	case s.ValidationKind == store.ValidationCloudEvents:
		attrs = append(attrs, slog.String("next", "granted"))
	default:
		attrs = append(attrs, slog.String("next", "confirmation"))
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "validation attempt", attrs...)
}
