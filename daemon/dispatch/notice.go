package dispatch

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"herald/queue"
	"herald/store"
)

// The types of operational events: what Herald itself has to tell about subscriptions and deliveries.
const (
	// TypeDisabled: a subscription was disabled because it kept failing.
	TypeDisabled = "herald.subscription.disabled"
	// TypeGone: a subscription was disabled because its receiver answered 410.
	TypeGone = "herald.subscription.gone"
	// TypeWarning: a subscription keeps failing and will be disabled.
	TypeWarning = "herald.subscription.warning"
	// TypeEnabled: a person enabled a subscription.
	TypeEnabled = "herald.subscription.enabled"
	// TypeSuspended: the provider of an implementation's platform does not take its credentials, and TypeResumed: it is sent to again.
	TypeSuspended = "herald.implementation.suspended"
	TypeResumed   = "herald.implementation.resumed"
	// TypeDead: a delivery was given up.
	TypeDead = "herald.delivery.dead"
)

// ownPrefix is what the types of Herald's own events begin with. About their deliveries there are no events, so
// that none ever causes the next.
const ownPrefix = "herald."

const (
	// maxNotices bounds the notices about subscriptions in memory; those stored are published after the next
	// start at the latest.
	maxNotices = 100_000
	// maxDead bounds the notices about deliveries that wait: they are as many as fail, and a flood of them
	// must not take the memory or the disk.
	maxDead = 1024
	// publishers is how many are published at once: they share the commits of the queue.
	publishers = 32
)

// notice is an operational event that is to be published.
type notice struct {
	sub  store.SubscriptionID
	kind string
	at   time.Time
	// stored: it stands in Subscription.Health, and is taken out when it is published.
	stored bool
	// For TypeDead: one that was given up, or so many that expired.
	dead    *deadNotice
	expired *expiredNotice
}

// expiredNotice is deliveries of one type of event that died of age. They may be very many at once, so they are
// told together.
type expiredNotice struct {
	eventType string
	count     int
}

type deadNotice struct {
	delivery            queue.DeliveryID
	eventID, eventType  string
	reason              string
	attempts            int
	lastStatus          int
	lastError           string
	account, host, stat string
}

// noticeData is the data of an operational event.
type noticeData struct {
	SubscriptionID   string     `json:"subscriptionId,omitempty"`
	ImplementationID string     `json:"implementationId,omitempty"`
	Platform         string     `json:"platform,omitempty"`
	Lane             string     `json:"lane,omitempty"`
	State            string     `json:"state"`
	Reason           string     `json:"reason,omitempty"`
	DataCallbackHost string     `json:"dataCallbackHost,omitempty"`
	FailingSince     *time.Time `json:"failingSince,omitempty"`
	Failures         int        `json:"failures,omitempty"`
	Percent          int        `json:"percent,omitempty"`
	DisableAt        *time.Time `json:"disableAt,omitempty"`
	DisableFailures  int        `json:"disableFailures,omitempty"`
	DeliveryID       string     `json:"deliveryId,omitempty"`
	EventID          string     `json:"eventId,omitempty"`
	EventType        string     `json:"eventType,omitempty"`
	Count            int        `json:"count,omitempty"`
	Attempts         int        `json:"attempts,omitempty"`
	LastStatus       int        `json:"lastStatus,omitempty"`
	LastError        string     `json:"lastError,omitempty"`
}

// Announce publishes an operational event about a subscription as it stands now, such as TypeEnabled. It does
// not wait for that.
func (d *Dispatcher) Announce(id store.SubscriptionID, kind string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(notice{sub: id, kind: kind, at: stamp(time.Now())})
}

// notify hands a notice to the publisher. The caller holds mu.
func (d *Dispatcher) notify(n notice) {
	if d.publish == nil {
		return
	}
	if n.dead != nil {
		if d.deadNotices >= maxDead {
			d.metrics.noticesDropped.Inc()
			d.noticeDrop.failed(d.log, "publish "+TypeDead, errTooMany)
			return
		}
		d.deadNotices++
	} else if len(d.notices)-d.deadNotices >= maxNotices {
		d.metrics.noticesDropped.Inc()
		return
	}
	d.notices = append(d.notices, n)
	rouse(d.noticed)
}

var errTooMany = errors.New("too many deliveries die at once to tell about each")

// Expired tells of deliveries of a subscription that became dead because their event was over age: for which type of
// event, and how many. It does not block, and may be called with the queue's lock held.
func (d *Dispatcher) Expired(id queue.Lane, eventType string, deliveries int) {
	if d.publish == nil || strings.HasPrefix(eventType, ownPrefix) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(notice{
		sub: store.SubscriptionID(id), kind: TypeDead, at: stamp(time.Now()), expired: &expiredNotice{eventType, deliveries},
	})
}

// tellDead notes the deliveries of a claim that were given up.
func (d *Dispatcher) tellDead(sub *store.Subscription, s *queue.Settlement, attempt int) {
	if d.publish == nil || sub.Role != store.RoleNone {
		return
	}
	now := stamp(time.Now())
	for i := range s.Deliveries {
		e := s.Deliveries[i].Event
		if strings.HasPrefix(e.Type, ownPrefix) {
			continue
		}
		n := notice{sub: sub.ID, kind: TypeDead, at: now, dead: &deadNotice{
			delivery: queue.DeliveryID{Seq: s.Deliveries[i].Seq, Lane: s.Lane},
			eventID:  e.ID, eventType: e.Type, reason: s.Reason, attempts: attempt,
			lastStatus: s.Attempt.Status, lastError: s.Attempt.Error,
			account: sub.AccountID, host: host(sub.DataCallbackURL), stat: string(sub.State),
		}}
		d.mu.Lock()
		d.notify(n)
		d.mu.Unlock()
	}
}

// publishNotices is the publisher. When stop ends it makes a last attempt at what is left.
func (d *Dispatcher) publishNotices(stop context.Context) {
	for {
		ended := stop.Err() != nil
		batch := d.nextNotices()
		if len(batch) == 0 {
			if ended {
				return
			}
			select {
			case <-stop.Done():
			case <-d.noticed:
			}
			continue
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(stop), flushTime)
		var wg sync.WaitGroup
		errs := make([]error, len(batch))
		for i := range batch {
			wg.Go(func() { errs[i] = d.publishOne(ctx, &batch[i]) })
		}
		wg.Wait()
		cancel()
		failed := false
		d.mu.Lock()
		for i, err := range errs {
			switch {
			case err == nil:
				d.noticeWrite.worked(d.log, "publish notice")
			case batch[i].dead != nil:
				d.metrics.noticesDropped.Inc()
				d.noticeWrite.failed(d.log, "publish notice", err)
			default:
				failed = true
				d.noticeWrite.failed(d.log, "publish notice", err)
				d.notices = append(d.notices, batch[i])
			}
		}
		d.mu.Unlock()
		if failed && (ended || !sleep(stop, storeDelay) && stop.Err() == nil) {
			return
		}
	}
}

// nextNotices takes the next notices, no two of them about the same subscription: those come in order.
func (d *Dispatcher) nextNotices() []notice {
	d.mu.Lock()
	defer d.mu.Unlock()
	var batch []notice
	seen := make(map[store.SubscriptionID]bool)
	for len(d.notices) > 0 && len(batch) < publishers {
		n := d.notices[0]
		if n.dead == nil && seen[n.sub] {
			break
		}
		if n.dead == nil {
			seen[n.sub] = true
		} else {
			d.deadNotices--
		}
		d.notices[0] = notice{}
		d.notices = d.notices[1:]
		batch = append(batch, n)
	}
	if len(d.notices) == 0 {
		d.notices = nil
	}
	if d.deadNotices == 0 {
		d.noticeDrop.worked(d.log, "publish "+TypeDead)
	}
	return batch
}

// publishOne publishes a notice and takes it out of the store. One about a subscription that is no more is
// dropped.
func (d *Dispatcher) publishOne(ctx context.Context, n *notice) error {
	var account string
	var data noticeData
	if n.dead != nil {
		account, data = n.dead.account, n.dead.data(n.sub)
	} else {
		sub, err := d.store.Subscription(ctx, n.sub)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err // logged with its operation
		}
		account, data = sub.AccountID, d.noticeOf(sub, n)
		if n.expired != nil {
			data = noticeData{
				SubscriptionID: sub.ID.String(), State: string(sub.State), Reason: queue.ReasonExpired,
				DataCallbackHost: host(sub.DataCallbackURL), EventType: n.expired.eventType, Count: n.expired.count,
			}
		}
	}
	text, err := json.Marshal(data)
	if err != nil {
		d.log.Error("notice cannot be written", slog.String("type", n.kind), slog.String("error", err.Error()))
		return nil
	}
	if err := d.publish(ctx, account, n.kind, n.at, n.id(), text); err != nil {
		return err // logged with its operation
	}
	d.metrics.notices[n.kind].Inc()
	if !n.stored {
		return nil
	}
	_, err = d.store.UpdateSubscription(ctx, n.sub, func(s *store.Subscription) error {
		if s.Health.Notice != n.kind || !s.Health.NoticeAt.Equal(n.at) {
			return errMoved
		}
		s.Health.Notice, s.Health.NoticeAt = "", time.Time{}
		return nil
	})
	if err != nil && !errors.Is(err, errMoved) && !errors.Is(err, store.ErrNotFound) {
		return err // logged with its operation
	}
	return nil
}

// id is the same for the same notice, so that one that is published again after a crash is a repeat.
func (n *notice) id() string {
	b := append([]byte(n.kind), 0)
	b = append(b, n.sub[:]...)
	if n.expired != nil {
		b = binary.BigEndian.AppendUint64(append(b, n.expired.eventType...), uint64(n.expired.count)) //nolint:gosec // a count
	}
	if n.dead != nil {
		b = binary.BigEndian.AppendUint64(b, n.dead.delivery.Seq)
		b = binary.BigEndian.AppendUint64(b, uint64(n.dead.attempts))
	} else {
		b = binary.BigEndian.AppendUint64(b, uint64(n.at.UnixMilli()))
	}
	sum := sha256.Sum256(b)
	return "herald_" + hex.EncodeToString(sum[:16])
}

// noticeOf describes a subscription; about a warning, when it will be disabled.
func (d *Dispatcher) noticeOf(sub *store.Subscription, n *notice) noticeData {
	h := &sub.Health
	if sub.Role == store.RoleDevices {
		return suspensionData(sub, n)
	}
	data := noticeData{
		SubscriptionID: sub.ID.String(), State: string(sub.State), Reason: sub.StateReason,
		DataCallbackHost: host(sub.DataCallbackURL), Failures: h.Failures,
	}
	if !h.FailingSince.IsZero() {
		t := h.FailingSince.UTC()
		data.FailingSince = &t
	}
	if n.kind != TypeWarning {
		return data
	}
	after := effectiveDisableAfter(sub, d.defaults.Load())
	data.Percent, data.DisableFailures = h.Warned, after.Failures
	if after.Duration > 0 && data.FailingSince != nil {
		t := data.FailingSince.Add(after.Duration)
		data.DisableAt = &t
	}
	return data
}

func (n *deadNotice) data(sub store.SubscriptionID) noticeData {
	return noticeData{
		SubscriptionID: sub.String(), State: n.stat, Reason: n.reason, DataCallbackHost: n.host,
		DeliveryID: n.delivery.String(), EventID: n.eventID, EventType: n.eventType,
		Attempts: n.attempts, LastStatus: n.lastStatus, LastError: n.lastError,
	}
}

// host is what may be told of a callback: never its path or query, which may be a secret.
func host(callback string) string {
	u, err := url.Parse(callback)
	if err != nil {
		return ""
	}
	return u.Host
}
