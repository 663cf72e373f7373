package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"herald/queue"
	"herald/store"
)

type deliveryView struct {
	ID             string    `json:"id"`
	EventID        string    `json:"eventId"`
	EventType      string    `json:"eventType"`
	SubscriptionID string    `json:"subscriptionId"`
	State          string    `json:"state"`
	Reason         string    `json:"reason,omitempty"`
	AttemptCount   int       `json:"attemptCount"`
	AcceptedAt     time.Time `json:"acceptedAt"`
	NextAttemptAt  time.Time `json:"nextAttemptAt,omitzero"`
}

// deliveryDetail is a delivery with the log of its attempts.
type deliveryDetail struct {
	deliveryView
	Attempts []attemptView `json:"attempts"`
}

type attemptView struct {
	Number     int       `json:"number"`
	Time       time.Time `json:"time"`
	DurationMs float64   `json:"durationMs"`
	Status     int       `json:"status,omitzero"`
	Outcome    string    `json:"outcome"`
	Error      string    `json:"error,omitempty"`
	Response   string    `json:"response,omitempty"`
}

func viewDelivery(d *queue.Delivery) deliveryView {
	v := deliveryView{
		ID: d.ID.String(), EventID: d.EventID, EventType: d.EventType,
		SubscriptionID: store.SubscriptionID(d.ID.Lane).String(),
		State:          string(d.State), Reason: d.Reason, AttemptCount: d.Attempts, AcceptedAt: d.AcceptedAt.UTC(),
	}
	if !d.NextAttemptAt.IsZero() && d.State != queue.StateHeld {
		v.NextAttemptAt = d.NextAttemptAt.UTC()
	}
	return v
}

// viewAttempt shows an attempt. What a receiver answered may be in any encoding; what is not UTF-8
// in it is replaced.
func viewAttempt(x *queue.Attempt) attemptView {
	return attemptView{
		Number: x.Number, Time: x.StartedAt.UTC(), DurationMs: float64(x.Duration.Microseconds()) / 1000,
		Status: x.Status, Outcome: string(x.Class),
		Error:    strings.ToValidUTF8(x.Error, "\uFFFD"),
		Response: strings.ToValidUTF8(string(x.Response), "\uFFFD"),
	}
}

// held returns what tells the queue which lanes are held: those of paused and disabled subscriptions.
// Each lane is asked of the store once per request, and only when one of its deliveries is met.
func (c *call) held() func(queue.Lane) bool {
	ctx, known := c.r.Context(), make(map[queue.Lane]bool)
	return func(lane queue.Lane) bool {
		h, ok := known[lane]
		if !ok {
			h = c.api.isHeld(ctx, lane)
			known[lane] = h
		}
		return h
	}
}

func (a *API) isHeld(ctx context.Context, lane queue.Lane) bool {
	// A deleted subscription holds nothing; neither does one that cannot be read just now.
	s, err := a.store.Subscription(ctx, store.SubscriptionID(lane))
	return err == nil && s.State != store.StateActive
}

func (a *API) listDeliveries(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit := limitOf(q, &fs, defaultLimit)
	f := queue.DeliveryFilter{AccountID: c.account.ID, EventID: q.Get("event"), State: queue.State(q.Get("state")), Held: c.held(), Without: store.MessagePrefix}
	if s := q.Get("subscription"); s != "" {
		id, err := store.ParseSubscriptionID(s)
		if err != nil {
			fs.add("subscription", "is %s", err.Error())
		}
		f.Lane = queue.Lane(id)
	}
	if f.EventID != "" && checkEventID(f.EventID) != nil {
		fs.add("event", "must be the id of an event")
	}
	if f.State != "" && !slices.Contains(queue.States(), f.State) {
		fs.add("state", "must be one of %s", stateNames())
	}
	if s := q.Get("reason"); s != "" {
		f.Reason = s
		checkReason(s, f.State, &fs)
	}
	if s := q.Get("since"); s != "" {
		var err error
		if f.Since, err = parseTime(s); err != nil {
			fs.add("since", "%s", err.Error())
		}
	}
	if s := q.Get("after"); s != "" {
		var err error
		if f.After, err = queue.ParseDeliveryID(s); err != nil {
			fs.add("after", "is %s", err.Error())
		}
	}
	if err := fs.err(); err != nil {
		return err
	}
	return stream(c, q, limit, func(_ **queue.Delivery, n int) ([]*queue.Delivery, error) {
		f.Limit = n
		list, err := a.queue.Deliveries(c.r.Context(), f)
		if f.After.IsZero() && errors.Is(err, queue.ErrNotFound) {
			return nil, nil // no event of that id, so no deliveries
		}
		return list, afterError(err)
	}, func(d **queue.Delivery) string { return (*d).ID.String() },
		viewOf(func(d **queue.Delivery) deliveryView { return viewDelivery(*d) }))
}

// deadReasons and discardReasons are why deliveries of these states are in them.
func deadReasons() []string {
	return []string{queue.ReasonExhausted, queue.ReasonRejected, queue.ReasonExpired}
}

func discardReasons() []string { return []string{queue.ReasonUnsubscribed, queue.ReasonDisabled} }

// checkReason judges ?reason= beside ?state=.
func checkReason(reason string, state queue.State, fs *faults) {
	right := append(deadReasons(), discardReasons()...)
	switch state {
	case queue.StateDead:
		right = deadReasons()
	case queue.StateDiscarded:
		right = discardReasons()
	case queue.StatePending, queue.StateDelivering, queue.StateDelivered, queue.StateRetrying, queue.StateHeld:
		fs.add("reason", "is for deliveries that are dead or discarded; others have none")
		return
	}
	if !slices.Contains(right, reason) {
		fs.add("reason", "must be %s", either(right))
	}
}

func stateNames() string {
	names := make([]string, 0, len(queue.States()))
	for _, s := range queue.States() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

// delivery answers the delivery of the path as it stands.
func (a *API) delivery(c *call, status int) error {
	id, err := c.deliveryID()
	if err != nil {
		return err
	}
	d, attempts, err := a.shownDelivery(c.r.Context(), c.account.ID, id)
	if err != nil {
		return err
	}
	v := deliveryDetail{viewDelivery(d), make([]attemptView, len(attempts))}
	for i := range attempts {
		v.Attempts[i] = viewAttempt(&attempts[i])
	}
	if (d.State == queue.StatePending || d.State == queue.StateRetrying) && a.isHeld(c.r.Context(), id.Lane) {
		v.State, v.NextAttemptAt = string(queue.StateHeld), time.Time{}
	}
	return c.answer(status, v)
}

// shownDelivery finds a delivery, unless it is of a notification.
func (a *API) shownDelivery(ctx context.Context, accountID string, id queue.DeliveryID) (*queue.Delivery, []queue.Attempt, error) {
	d, attempts, err := a.queue.Delivery(ctx, accountID, id)
	if errors.Is(err, queue.ErrNotFound) || err == nil && strings.HasPrefix(d.EventType, store.MessagePrefix) {
		return nil, nil, errNoDelivery()
	}
	return d, attempts, err
}

func (c *call) deliveryID() (queue.DeliveryID, error) {
	id, err := queue.ParseDeliveryID(c.r.PathValue("delivery"))
	if err != nil {
		return id, errNoDelivery()
	}
	return id, nil
}

func errNoDelivery() *problem {
	return newProblem(notFound, "there is no such delivery of this account, or it is not retained any more; GET /deliveries lists those there are")
}

func (a *API) readDelivery(c *call) error { return a.delivery(c, http.StatusOK) }

// refuseDiscarding says that nothing can be retried for a disabled subscription of the account that discards what waits.
func (a *API) refuseDiscarding(ctx context.Context, accountID string, id store.SubscriptionID) error {
	s, err := a.store.Subscription(ctx, id)
	if err == nil && s.AccountID == accountID && s.State == store.StateDisabled && s.Discarding {
		return newProblem(conflict, "the subscription is disabled and discards what waits for it; enable it first, with POST /subscriptions/{id}/enable")
	}
	return nil // also when it cannot be read: the queue knows of deliveries whose subscription is gone
}

// retryDelivery makes a delivery due now and answers with what it has become.
func (a *API) retryDelivery(c *call) error {
	id, err := c.deliveryID()
	if err != nil {
		return err
	}
	if err := a.refuseDiscarding(c.r.Context(), c.account.ID, store.SubscriptionID(id.Lane)); err != nil {
		return err
	}
	if _, _, err := a.shownDelivery(c.r.Context(), c.account.ID, id); err != nil {
		return err
	}
	err = a.queue.Retry(c.r.Context(), c.account.ID, id)
	if errors.Is(err, queue.ErrNotFound) {
		return errNoDelivery()
	}
	if err != nil {
		return err
	}
	return a.delivery(c, http.StatusAccepted)
}
