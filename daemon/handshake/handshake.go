// Package handshake hands over validation records: the receiver of a subscription that has to be validated is sent a
// confirmation URL and a signature, until it has taken them or their time is over. For store.ValidationCloudEvents the record is a
// request for permission, which is made until the receiver grants it, in an answer or at the URL.
//
// It promises:
//
//   - A record under way is found in the store and goes on after a restart where it was; what is shown of it there (attempts,
//     the next one, the last error) is what happened.
//   - An attempt is a push like any other: it is sent by the same Sender, with the credentials, the format and the signing
//     secrets that the subscription has at that moment.
//   - Receivers that hang hold up nobody: not the pushes, which are made elsewhere, and of the other records only those for the
//     same host.
//   - It decides nothing about subscriptions. What makes one pending or active is the API's and the store's.
package handshake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"herald/queue"
	"herald/store"
)

// Schedule are the waits after failed attempts, bounded by store.ValidationLifetime: they reach beyond it whatever the jitter.
const Schedule = "5s,30s,2m,10m,30m,1h,2h,3h,3h,3h,3h,3h,3h,3h,3h,3h,3h"

const (
	// MaxAttempts is how many attempts are under way at once. There is no hurry: a record that waits for its turn loses
	// seconds of a day.
	MaxAttempts = 16
	// MaxPerHost is how many of them go to the same scheme, host and port. Hosts take turns.
	MaxPerHost = 4
	// MaxTimeout bounds an attempt, also of a subscription whose pushes may take longer.
	MaxTimeout = 30 * time.Second

	// storeDelay is how long a record rests when the store could not be read or written.
	storeDelay = 5 * time.Second
	// pageSize is how many subscriptions are looked at together at the start.
	pageSize = 500
)

// Store is what is needed of a store.Store.
type Store interface {
	Subscription(ctx context.Context, id store.SubscriptionID) (*store.Subscription, error)
	Subscriptions(ctx context.Context, accountID string, after store.SubscriptionID, limit int) ([]*store.Subscription, error)
	UpdateSubscription(ctx context.Context, id store.SubscriptionID, change func(*store.Subscription) error) (*store.Subscription, error)
}

// Sender makes one attempt to hand a push to the subscription's DataCallbackURL and says what it came to. It returns
// soon after ctx ends and is safe for concurrent use.
type Sender interface {
	Send(ctx context.Context, sub *store.Subscription, p queue.Push) queue.Outcome
	// Ask makes one attempt to get permission to push to the DataCallbackURL, which it has when the class is ClassDelivered, at the
	// rate; p has the id and the number of the attempt. callback is where permission may be granted later, or "".
	Ask(ctx context.Context, sub *store.Subscription, p queue.Push, origin, callback string) (out queue.Outcome, rate int)
}

// Options are what a Handshake is made from.
type Options struct {
	// Store and Sender are required.
	Store  Store
	Sender Sender
	// ConfirmationURL returns where the receiver is to confirm the subscription, which the kind of its validation decides too;
	// required, as are Origin and Grant. It has no query. All are asked while Run runs.
	ConfirmationURL func(*store.Subscription) string
	// Origin is what Herald calls itself towards receivers of store.ValidationCloudEvents: a host name.
	Origin func() string
	// Grant notes that a receiver has granted permission in its answer: that of the subscription as it was when it was asked, to the
	// origin, at the rate (pushes a minute, 0 for no limit). It does nothing when the subscription has become another or is gone.
	Grant func(ctx context.Context, asked *store.Subscription, origin string, rate int) error
	// Settings can be changed later by Configure.
	Settings Settings
	// Logger gets one line for each attempt; nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Settings are what the operator may change while it runs.
type Settings struct {
	// Timeout bounds an attempt for a subscription that does not set its own; above MaxTimeout it is MaxTimeout.
	Timeout time.Duration
	// Jitter varies each wait by up to this share, from 0 to 0.5.
	Jitter float64
}

func (s Settings) check() error {
	if s.Timeout <= 0 {
		return fmt.Errorf("a timeout of %s is not above 0", s.Timeout)
	}
	if !(s.Jitter >= 0 && s.Jitter <= 0.5) || math.IsNaN(s.Jitter) {
		return fmt.Errorf("a jitter of %v is not from 0 to 0.5", s.Jitter)
	}
	return nil
}

// Handshake hands over validation records. Its methods are safe for concurrent use.
type Handshake struct {
	store     Store
	sender    Sender
	confirmAt func(*store.Subscription) string
	origin    func() string
	grant     func(context.Context, *store.Subscription, string, int) error
	settings  atomic.Pointer[Settings]
	schedule  queue.Schedule
	log       *slog.Logger
	metrics   *metrics
	outage    rate.Sometimes // keeps a broken store from filling the log

	mu      sync.Mutex
	changed map[store.SubscriptionID]struct{} // guarded by mu
	wake    chan struct{}
}

// New validates the options. It starts nothing.
func New(o Options) (*Handshake, error) {
	if o.Store == nil || o.Sender == nil || o.ConfirmationURL == nil || o.Origin == nil || o.Grant == nil {
		return nil, errors.New("handshake: a Store, a Sender, a ConfirmationURL, an Origin and a Grant are required")
	}
	schedule, err := queue.ParseSchedule(Schedule)
	if err != nil {
		return nil, fmt.Errorf("handshake: schedule: %w", err)
	}
	h := &Handshake{
		store: o.Store, sender: o.Sender, confirmAt: o.ConfirmationURL, origin: o.Origin, grant: o.Grant, schedule: schedule, log: o.Logger,
		outage:  rate.Sometimes{Interval: time.Minute},
		changed: make(map[store.SubscriptionID]struct{}), wake: make(chan struct{}, 1),
	}
	if err := h.Configure(o.Settings); err != nil {
		return nil, err
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, err
	}
	return h, nil
}

// Configure changes the settings for the attempts that come after it.
func (h *Handshake) Configure(s Settings) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	h.settings.Store(&s)
	return nil
}

// Changed is to be called after a subscription was made, changed or deleted durably. It does not block.
func (h *Handshake) Changed(id store.SubscriptionID) {
	h.mu.Lock()
	h.changed[id] = struct{}{}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default: // the loop is going to look
	}
}

// takeChanged returns what has changed since the last call.
func (h *Handshake) takeChanged() map[store.SubscriptionID]struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := h.changed
	h.changed = make(map[store.SubscriptionID]struct{})
	return ids
}

// Run hands over records until ctx ends. Attempts under way are then broken off and waited for; they are made again after
// the next start. It returns nil; a store that fails is waited for. Run is called once.
func (h *Handshake) Run(ctx context.Context) error {
	l := newLoop(h)
	defer l.stop()
	if !h.load(ctx, l) {
		return nil
	}
	l.run(ctx)
	return nil
}

// load finds the records under way. It returns false when ctx ended.
func (h *Handshake) load(ctx context.Context, l *loop) bool {
	var after store.SubscriptionID
	for {
		page, err := h.store.Subscriptions(ctx, "", after, pageSize)
		if err != nil {
			h.complain(ctx, "list subscriptions", err)
			if !rest(ctx, storeDelay) {
				return false
			}
			continue
		}
		for _, s := range page {
			l.schedule(s)
		}
		if len(page) < pageSize {
			return ctx.Err() == nil
		}
		after = page[len(page)-1].ID
	}
}

// rest waits, and returns false when ctx ended meanwhile.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// complain logs that the store failed, unless it is only that the daemon stops.
func (h *Handshake) complain(ctx context.Context, operation string, err error) {
	if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
		return
	}
	h.outage.Do(func() {
		h.log.LogAttrs(ctx, slog.LevelError, "operation failed", slog.String("operation", operation), slog.Any("error", err))
	})
}

// uniform is a random number in [0, 1).
func uniform() float64 { return rand.Float64() } //nolint:gosec // jitter is no secret
