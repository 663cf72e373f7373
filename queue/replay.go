package queue

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// ReplayID names a replay: a UUID of version 7, so that ids sort by age.
type ReplayID [16]byte

// NewReplayID makes an id.
func NewReplayID() (ReplayID, error) {
	u, err := uuid.NewV7()
	return ReplayID(u), err
}

// ParseReplayID reads what String wrote, in exactly that form.
func ParseReplayID(s string) (ReplayID, error) {
	u, err := uuid.Parse(s)
	if err != nil || u.String() != s {
		return ReplayID{}, errors.New("not the id of a replay (a UUID in lower case)")
	}
	return ReplayID(u), nil
}

// String returns the id in the form of a UUID.
func (id ReplayID) String() string { return uuid.UUID(id).String() }

// Replay is the wish that a lane gets retained events of a span of time again, or for the first time.
//
// It takes the events of its account in the order of acceptance, those that are accepted before it is made only. A
// delivery that waits for its first attempt, or is under way, is left as it is; every other becomes due, by hand as
// after Queue.Retry, with its schedule begun anew. Until it has been tried it goes behind first attempts. An event that had no
// delivery for the lane gets one. In a lane with an order replayed deliveries keep that order among themselves, and
// keep nothing else waiting.
type Replay struct {
	ID        ReplayID
	Lane      Lane
	AccountID string
	// Since and Until bound the acceptance of the events: at Since or later, before Until.
	Since, Until time.Time
	// Failed: only deliveries that were tried or given up and have not arrived: those that are retrying, dead or
	// discarded.
	Failed bool
	// Rate is how many deliveries a second are to become due, 0 for as many as possible. The queue keeps it for whoever
	// advances the replay.
	Rate float64

	// The rest is set by the queue.

	State ReplayState
	// CreatedAt is when it was made, EndedAt when it was done or cancelled; in UTC with milliseconds.
	CreatedAt, EndedAt time.Time
	// Reached is the acceptance of the last event it has looked at; zero before the first.
	Reached time.Time
	// Deliveries is how many it has made due.
	Deliveries int64
}

// ReplayState is how far a replay is.
type ReplayState string

// The states of a replay.
const (
	// ReplayRunning has deliveries to make due, or some that were not tried yet.
	ReplayRunning ReplayState = "running"
	// ReplayDone has come to its end: everything it made due was tried at least once.
	ReplayDone ReplayState = "done"
	// ReplayCancelled was ended before that, by hand or because the deliveries of the lane were given up.
	ReplayCancelled ReplayState = "cancelled"
)

// MaxReplays is how many replays of one lane may be running; they take turns, the oldest first.
const MaxReplays = 10

// KeptReplays is how many replays that have ended are kept of one lane: the newest.
const KeptReplays = 20

// ReplayStep says how much of a replay becomes due next.
type ReplayStep struct {
	// Match says which events the lane wants as things are. It is called without locks held and must not call the queue.
	Match func(*Event) bool
	// Limit is the most deliveries that become due, at least 1.
	Limit int
	// Records is how many deliveries go out as one push, and Bytes the most data of one with several, 0 for no bound.
	// Less than 1 counts as 1.
	Records int
	Bytes   int64
	// Due is when the first becomes due, and Every how much later each that follows; both are rounded up to a multiple of
	// Grain, or of a millisecond. Those that become due together are claimed and written down together, which costs less.
	Due   time.Time
	Every time.Duration
	Grain time.Duration
}
