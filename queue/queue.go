// Package queue is the domain of Herald's durable delivery queue: events, deliveries, attempts,
// outcomes and retry schedules, with the contract an engine must fulfil.
//
// It promises to be pure: types and rules, no I/O, no goroutine, nothing of Herald imported. The
// engine that ships is queue/boltqueue; queue/queuetest is the conformance suite of the contract.
package queue

import (
	"context"
	"time"
)

// Queue is the contract of an engine: at-least-once delivery of accepted events to lanes.
//
// Its operations are whole steps. Accept makes events and their deliveries durable; Claim leases due
// deliveries to the caller; Settle records what became of them. A lease lives in memory only: after
// a restart every delivery without a durable settlement is due again, with the same event id.
//
// All methods are safe for concurrent use. They work while Run runs; before and after that they
// return ErrClosed.
type Queue interface {
	// Run does the engine's work (commits, retention) until the context ends; it then commits what was
	// handed to Accept and Settle and returns nil. Any other return is an error after which nothing can
	// be made durable any more: the process has to end and be started again.
	Run(ctx context.Context) error

	// Accept stores the events and their deliveries, all or none, and returns when they are synced to
	// disk: from then on they survive any crash. The receipts are in the order of the submissions, and those events
	// that are stored have consecutive numbers (Event.Seq) in that order.
	//
	// A submission whose ID names an event of the same account that is still retained is not stored
	// again: with the same Digest its receipt says Duplicate, with another Accept returns a
	// *ConflictError and stores nothing. The same holds for two submissions of one call.
	//
	// ErrFull: there is no room (disk or retention limit) · ErrBusy: too much is waiting to be
	// committed · ErrClosed. A context that ends while waiting returns its error; the events may
	// then have been stored or not. The slices given must not be changed after the call, also when it
	// failed.
	Accept(ctx context.Context, subs []Submission) ([]Receipt, error)

	// Claim leases due deliveries, lanes taking turns, and appends them to dst: at least one claim unless it
	// returns an error, at most limit. It waits until there is one or the context ends.
	//
	// For each lane with due work it asks room how much of that lane may be claimed now, and how. A lane
	// that may have no push is set aside until Wake names it. room is called with the engine's lock held:
	// it must be quick and must not call the queue. Only one Claim may be under way at a time.
	//
	// A lane's first attempts come oldest first, and take turns with its due retries; those a replay made
	// due come only while there is no first attempt. Deliveries that were
	// tried together and are to be tried again come together again, as one claim, however small Room.Records is
	// by then.
	Claim(ctx context.Context, limit int, room func(Lane) Room, dst []Claim) ([]Claim, error)

	// Wake makes Claim consider lanes again that were set aside. Waking a lane that was not is harmless.
	Wake(lanes ...Lane)

	// Settle ends leases: it records the attempts made and what follows from them. It returns at once,
	// unless far more is settled than the disk can take, when it waits. What it was given becomes
	// durable with the next commits; a crash before that means another attempt. A settlement of a
	// delivery that is not leased is ignored.
	Settle(ss ...Settlement)

	// Retry makes a delivery due now, whatever its state: a scheduled retry is replaced, a dead,
	// discarded or delivered one is tried again, on its own, and its schedule begins anew. One that waits for its
	// Submission.Due no longer does. A delivery that is pending or under way is left as it is. ErrNotFound when it does not exist or is not the account's
	// ("" means any account); ErrGone when its lane was dropped.
	Retry(ctx context.Context, accountID string, id DeliveryID) error

	// RetryDead makes the dead deliveries of a lane due that the selection names, and returns how many: also those that an earlier
	// call has made due and that were not tried yet, so that a rate can be corrected. ErrGone when the lane was
	// dropped. When the context ends or the engine fails on the way, those counted are due.
	RetryDead(ctx context.Context, lane Lane, s DeadSelection) (int, error)

	// StartReplay makes a replay durable and returns it as it is kept, with its ID. Nothing becomes due by that; see
	// AdvanceReplay. ErrTooMany: MaxReplays of the lane are running · ErrGone when the lane was dropped.
	StartReplay(ctx context.Context, r Replay) (Replay, error)

	// CountReplay returns how many deliveries the replay would make due if it were started and ran now. It reads the whole
	// span, and does not wait for the disk.
	CountReplay(ctx context.Context, r Replay, match func(*Event) bool) (int, error)

	// AdvanceReplay goes on with the oldest running replay of a lane: it looks at further events, makes deliveries of those that
	// match due, and notes durably how far it has come, all or nothing. Those that wait for their first attempt are left as
	// they are. It returns the replay as it stands then and how
	// many became due, which may be none also when there are others further on. A replay all of whose deliveries were tried
	// is done. ErrNotFound when none is running. Only one AdvanceReplay for a lane may be under way at a time.
	AdvanceReplay(ctx context.Context, lane Lane, s ReplayStep) (Replay, int, error)

	// CancelReplay ends a replay. What it has made due and was not tried yet is as it was before. One that has ended
	// stays as it is. ErrNotFound when the lane has no such replay.
	CancelReplay(ctx context.Context, lane Lane, id ReplayID) error

	// Replays returns the replays of a lane, oldest first; it is cheap.
	Replays(lane Lane) []Replay

	// Replaying returns the lanes that have running replays; it is cheap.
	Replaying() []Lane

	// Hasten makes the scheduled retries of a lane due now, in the order of acceptance. Those made due by hand, and those that
	// wait for their Submission.Due, keep their time. It is for a lane that was held. A lane the queue does not know has none.
	Hasten(ctx context.Context, lane Lane) error

	// Discard gives up all deliveries of a lane accepted before, with the reason, but not later ones. Those leased at
	// this moment are not tried again. It costs the same however many there are. Repeating it is harmless.
	Discard(ctx context.Context, lane Lane, reason string) error

	// DropLane discards all deliveries of a lane that are not finished, and all it gets later. It is
	// for a lane whose subscription was deleted and is repeatable. Leased deliveries are settled by
	// whoever holds them; whatever the settlement says, they are not tried again.
	DropLane(ctx context.Context, lane Lane) error

	// Lanes returns the lanes that have been given deliveries and were not dropped.
	Lanes(ctx context.Context) ([]Lane, error)

	// Event returns a retained event of the account, or ErrNotFound.
	Event(ctx context.Context, accountID, id string) (*Event, error)

	// Events lists retained events, newest first.
	Events(ctx context.Context, f EventFilter) ([]*Event, error)

	// EventsFrom returns the events with the numbers seq to seq+n-1 that are retained and the account's ("" means any
	// account), in the order of their numbers. It reads them together: a thousand cost little more than a few.
	EventsFrom(ctx context.Context, accountID string, seq uint64, n int) ([]*Event, error)

	// Delivery returns one delivery of the account ("" means any account) with its attempts as far as
	// they are retained, oldest first, or ErrNotFound.
	Delivery(ctx context.Context, accountID string, id DeliveryID) (*Delivery, []Attempt, error)

	// DeliveriesFrom returns the deliveries of the events that EventsFrom would return, in the order of the events' numbers, one
	// for each lane of an event; none is StateHeld. It reads them together, too, and not their attempts.
	DeliveriesFrom(ctx context.Context, accountID string, seq uint64, n int) ([]*Delivery, error)

	// Deliveries lists deliveries, newest event first.
	Deliveries(ctx context.Context, f DeliveryFilter) ([]*Delivery, error)

	// Stats returns counters of the moment; it is cheap.
	Stats() Stats

	// LaneStats returns the counters of one lane; it is cheap. A lane the queue does not know has none.
	LaneStats(lane Lane) LaneStats

	// Configure changes how long things are kept; it takes effect within seconds.
	Configure(r Retention)

	// Healthy returns nil while events can be made durable, else the reason why not, for people, or errors.Join of several.
	Healthy() error

	// Check verifies every index against its records, and the file itself, and returns one error that
	// joins everything found. It reads all data: seconds to minutes on a large queue.
	Check(ctx context.Context) error
}

// Lane is one receiver's part of the queue: its deliveries are counted, limited and held on their own.
// It is the id of the subscription.
type Lane [16]byte

// Event is what happened. It is immutable once accepted; an *Event from a queue is shared and must not
// be changed.
type Event struct {
	// Seq is the engine's number of the event, as in DeliveryID; 0 before the event is accepted.
	Seq uint64
	// ID is unique within the account while the event is retained: chosen by the publisher, 1 to
	// MaxIDLength characters, or given by the queue ("evt_" and 26 characters).
	ID        string
	AccountID string
	// Type is such as task.create.
	Type string
	// Resource is type/id, or "" for none.
	Resource string
	// Time is when it happened, as the publisher says, in UTC with nanoseconds.
	Time time.Time
	// AcceptedAt is when Herald made it durable, in UTC with milliseconds.
	AcceptedAt time.Time
	// Data is a JSON object, byte for byte as published.
	Data []byte
	// Attributes is what an event that was published as a CloudEvent has, and the members above have no place for: a
	// JSON object of its context attributes but specversion, type and time. Nil for all other events.
	Attributes []byte
	// Trace is what it was published in; nil for none. It is no part of the event's content.
	Trace *Trace
}

// MaxIDLength bounds the ids publishers give their events, in bytes.
const MaxIDLength = 128

// Submission is an event to accept, and who gets it.
type Submission struct {
	// Event with an ID of the publisher's or "" for one of the queue's; Seq and AcceptedAt are set by the queue.
	Event
	// Digest stands for the content as it was submitted; used only when ID is set.
	Digest [16]byte
	// Lanes get one delivery each; none may repeat. An event without lanes is stored all the same.
	Lanes []Lane
	// Due is when the first attempts may be made at the earliest; zero, or a moment that has passed, is at once. Until then
	// the deliveries are StateRetrying with no attempt, and come like retries: each on its own, in turns with first attempts.
	Due time.Time
}

// Receipt answers a submission.
type Receipt struct {
	// ID is the event's id, given or chosen.
	ID string
	// Duplicate says that the event had been accepted before and nothing was stored now.
	Duplicate bool
}

// Room says how much of a lane may be claimed, and how.
type Room struct {
	// Pushes is how many claims there may be; with 0 or less the lane is set aside.
	Pushes int
	// Records is the most deliveries in one claim; less than 1 counts as 1.
	Records int
	// Bytes bounds the data of a claim of several first attempts; one alone comes however large it is. 0 is no bound.
	Bytes int64
	// Total is the most deliveries in all claims together; 0 is no bound. Deliveries that have to come together
	// come also when they are more than are left of it.
	Total int
	// Wait is how long a claim of first attempts that could hold more waits for them, from the acceptance of
	// its oldest.
	Wait time.Duration
	// Order is the order in which deliveries of the lane are leased, and Key tells the key of OrderKey. Key is
	// called with the engine's lock held, once or a few times for each event, and must always answer the same for the
	// same event. When an engine learns of another Order, or of another KeyID, it begins anew with what is not
	// leased.
	Order Order
	Key   func(*Event) uint64
	// KeyID stands for Key: two functions with the same KeyID answer the same.
	KeyID string
}

// Order is the order in which the deliveries of a lane are leased.
type Order uint8

// The orders. A delivery is unfinished until it is delivered, dead or discarded; the order holds for first attempts
// and scheduled retries. One made due by hand goes when it is due and nothing of its key is leased, and until then keeps
// nothing waiting. So does what a replay made due until it is finished, but among themselves replayed deliveries keep the order; and
// what only a replay has made a delivery of. So does one accepted with a Submission.Due until it was tried; from then on it is a
// scheduled retry, though it may have gone before older first attempts.
const (
	// OrderNone: first attempts in order of acceptance, as many at once as there is room for.
	OrderNone Order = iota
	// OrderStrict: nothing is leased while an older delivery of the lane is leased, or waits for its retry.
	OrderStrict
	// OrderKey: nothing is leased while an older delivery of the lane with the same key is leased, or waits
	// for its retry.
	OrderKey
)

// Claim is a lease of the deliveries of one push.
type Claim struct {
	Lane Lane
	// Deliveries is at least one, in the order of acceptance.
	Deliveries []Leased
	// Attempt is the number of the attempt to be made, from 1.
	Attempt int
	// Retries is how many retries of the schedule were used: 0 for the first attempt, also after a
	// manual retry.
	Retries int
	// Replay: the deliveries were made due by a replay, and have not arrived since.
	Replay bool
}

// Leased is one delivery of a claim.
type Leased struct {
	// Seq is the event's number in the queue, as in DeliveryID.
	Seq uint64
	// Event is shared and must not be changed.
	Event *Event
}

// Delivery returns the id of the i-th delivery.
func (c *Claim) Delivery(i int) DeliveryID { return DeliveryID{c.Deliveries[i].Seq, c.Lane} }

// Settlement ends a lease.
type Settlement struct {
	Lane Lane
	// Deliveries are those of the claim.
	Deliveries []Leased
	// Attempt is what was tried; nil when nothing was, and then no attempt is counted.
	Attempt *Attempt
	// State is what the deliveries are now: StateDelivered, StateDead, StateDiscarded, StateRetrying
	// (due again at Due), or StatePending (given back, due as before).
	State State
	// Due is when retrying deliveries are due again.
	Due time.Time
	// Dissolve makes retrying deliveries that were tried together come one by one from now on. It uses up no retry of
	// their schedule: it was not them that failed, but their number. Nor does it for a delivery that was tried alone, with
	// which nothing was wrong either.
	Dissolve bool
	// Reason is a short word why deliveries are dead or discarded.
	Reason string
}

// DeadSelection says which dead deliveries of a lane are meant; zero members do not restrict.
type DeadSelection struct {
	// Reason is why they died.
	Reason string
	// EventType is the type of their events.
	EventType string
	// Since and Until bound the acceptance of their events: at Since or later, before Until.
	Since, Until time.Time
	// Rate is how many a second become due: the first now, the others one after the other; 0 is all at once.
	Rate float64
	// DryRun only counts.
	DryRun bool
}

// State is where a delivery is.
type State string

// The states of a delivery.
const (
	// StatePending waits for its first attempt.
	StatePending State = "pending"
	// StateDelivering is leased: an attempt is under way.
	StateDelivering State = "delivering"
	// StateDelivered was answered with a 2xx.
	StateDelivered State = "delivered"
	// StateRetrying waits for its next attempt, or for the first when it was accepted with a Submission.Due.
	StateRetrying State = "retrying"
	// StateDead failed for good: by schedule, by the receiver's word, or by retention.
	StateDead State = "dead"
	// StateHeld would be pending or retrying, but its lane is paused or disabled.
	StateHeld State = "held"
	// StateDiscarded will not be tried because nobody wants it any more.
	StateDiscarded State = "discarded"
)

// States lists every state of a delivery, in the order of a life.
func States() []State {
	return []State{StatePending, StateDelivering, StateDelivered, StateRetrying, StateDead, StateHeld, StateDiscarded}
}

// Reasons of dead and discarded deliveries.
const (
	// ReasonExhausted: every retry of the schedule failed.
	ReasonExhausted = "exhausted"
	// ReasonRejected: the message will never be deliverable.
	ReasonRejected = "rejected"
	// ReasonExpired: the event reached its retention age before it could be delivered.
	ReasonExpired = "expired"
	// ReasonUnsubscribed: the subscription was deleted.
	ReasonUnsubscribed = "unsubscribed"
	// ReasonDisabled: the subscription was disabled, and does not want what waited then.
	ReasonDisabled = "disabled"
)

// Delivery is one event for one lane, as it stands.
type Delivery struct {
	ID        DeliveryID
	AccountID string
	EventID   string
	EventType string
	State     State
	// Reason is set for dead and discarded deliveries.
	Reason string
	// Attempts is how many were made.
	Attempts int
	// AcceptedAt is when the event was made durable.
	AcceptedAt time.Time
	// NextAttemptAt is set for retrying deliveries.
	NextAttemptAt time.Time
}

// EventFilter selects events for a listing.
type EventFilter struct {
	// AccountID is required; "" means every account.
	AccountID string
	// Without leaves out the events whose type begins with it; "" leaves out none.
	Without string
	// After is the id of the last event of the page before; "" begins with the newest. An id that is
	// not there is ErrNotFound.
	After string
	// Limit is the most to return, at least 1.
	Limit int
}

// DeliveryFilter selects deliveries for a listing; zero members do not restrict.
type DeliveryFilter struct {
	AccountID string
	Lane      Lane
	EventID   string
	State     State
	// Reason selects dead and discarded deliveries by why they are.
	Reason string
	// Without leaves out the deliveries of events whose type begins with it; "" leaves out none.
	Without string
	// Since: only events accepted at this time or later.
	Since time.Time
	// After is the last delivery of the page before.
	After DeliveryID
	// Limit is the most to return, at least 1.
	Limit int
	// Held says which lanes are held, so that pending and retrying deliveries of theirs are reported
	// and selected as StateHeld. Nil: none is. It must be quick and must not call the queue.
	Held func(Lane) bool
}

// Stats are counters of the moment.
type Stats struct {
	// Events is the number of retained events.
	Events int64
	// Pending, Retrying, Delivering and Dead count deliveries in these states; Pending does not include
	// those being delivered.
	Pending, Retrying, Delivering, Dead int64
	// OldestDue is the acceptance time of the oldest event that waits for a first attempt; zero if none.
	OldestDue time.Time
	// FileBytes is the size of the storage, FreeBytes the part of it that is free for reuse.
	FileBytes, FreeBytes int64
}

// LaneStats are counters of one lane.
type LaneStats struct {
	// Pending wait for their first attempt, Retrying for another or for their Submission.Due, Delivering are leased, Dead were given up.
	Pending, Retrying, Delivering, Dead int64
	// OldestPending is the acceptance time of the oldest event that waits for its first attempt; zero if none.
	OldestPending time.Time
	// NextRetry is when the next of those Retrying is due; zero if none waits.
	NextRetry time.Time
	// Replayed, among those that are Retrying or Delivering, were made due by a replay, and the queue was not told of an attempt
	// since.
	Replayed int64
}

// Retention says how long things are kept.
type Retention struct {
	// Events is how long an event is kept after it was accepted. A delivery that is not finished by then
	// becomes dead with ReasonExpired.
	Events time.Duration
	// Attempts is how long the log of attempts is kept.
	Attempts time.Duration
	// Dead is how long a dead delivery is kept, with its event, after it died.
	Dead time.Duration
	// MaxBytes bounds the live data; 0 means no bound but the disk. Over it the oldest events whose
	// deliveries are all finished go early; when there are none Accept returns ErrFull.
	MaxBytes int64
}
