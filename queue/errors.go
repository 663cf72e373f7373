package queue

import (
	"errors"
	"fmt"
)

// The errors of the contract. Engines wrap them with what they were doing.
var (
	// ErrNotFound: there is no such record, or it belongs to another account, or it is not retained any
	// more.
	ErrNotFound = errors.New("not found")
	// ErrFull: there is no room to make an event durable. Deliveries go on, and may make room.
	ErrFull = errors.New("no room")
	// ErrBusy: more is waiting to be committed than the engine takes. Trying again in a second is right.
	ErrBusy = errors.New("too much waiting to be committed")
	// ErrGone: the lane was dropped.
	ErrGone = errors.New("lane dropped")
	// ErrTooMany: there are as many already as there may be.
	ErrTooMany = errors.New("too many")
	// ErrClosed: the queue does not run.
	ErrClosed = errors.New("queue closed")
)

// ConflictError says that an event id was used before for another content.
type ConflictError struct {
	// Index is the position of the submission.
	Index int
	// ID is the event id in conflict.
	ID string
}

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("submission %d: event id %q was used for another content", e.Index, e.ID)
}
