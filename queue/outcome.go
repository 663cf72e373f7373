package queue

import (
	"time"
	"unicode/utf8"
)

// Class says who must act after an attempt. It is what behaviour depends on, and a metric label.
type Class string

// The classes. Network errors, timeouts and 5xx are always ClassRetry.
const (
	// ClassDelivered: nobody, it arrived.
	ClassDelivered Class = "delivered"
	// ClassRetry: time; try again later.
	ClassRetry Class = "retry"
	// ClassRejected: this message will never be taken.
	ClassRejected Class = "rejected"
	// ClassGone: the receiver unsubscribed, or the device token is dead.
	ClassGone Class = "gone"
	// ClassMisconfigured: our own credentials or settings are wrong; the operator has to act.
	ClassMisconfigured Class = "misconfigured"
)

// Classes lists every class.
func Classes() []Class {
	return []Class{ClassDelivered, ClassRetry, ClassRejected, ClassGone, ClassMisconfigured}
}

// MaxResponse is how much of a receiver's answer is kept with an attempt, in bytes.
const MaxResponse = 4 << 10

// MaxErrorText is how much of Outcome.Error is kept with an attempt, in bytes.
const MaxErrorText = 512

// ErrorText is the beginning of an error's text as it is kept: at most MaxErrorText bytes, and no half character at
// its end.
func ErrorText(s string) string {
	if len(s) <= MaxErrorText {
		return s
	}
	n := MaxErrorText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Outcome is what one attempt came to.
type Outcome struct {
	Class Class
	// Status is the HTTP status, 0 when there was no response.
	Status int
	// Error says in words for the receiver's owner what went wrong; "" for ClassDelivered. It holds no
	// secret.
	Error string
	// Response is the beginning of the response body, at most MaxResponse bytes.
	Response []byte
	// RetryAfter is how long the receiver asked to be left alone; 0 when it did not.
	RetryAfter time.Duration
	// Wait is how long this delivery waits at least before it is tried again; unlike RetryAfter it says nothing of others.
	Wait time.Duration
	// Innocent: it is not for the receiver as a whole that the attempt failed, but for this message or the one device it was for.
	Innocent bool
	// Reason is why the delivery is dead when it is rejected or gone; "" means ReasonRejected.
	Reason    string
	StartedAt time.Time
	Duration  time.Duration
}

// Attempt is one recorded try of a delivery.
type Attempt struct {
	// Number counts the delivery's attempts from 1.
	Number int
	// StartedAt is in UTC, with milliseconds; Duration has microseconds.
	StartedAt time.Time
	Duration  time.Duration
	Class     Class
	// Status is the HTTP status, 0 when there was no response.
	Status int
	// Error is Outcome.Error, cut to 512 bytes.
	Error string
	// Response is Outcome.Response.
	Response []byte
}

// Push is one request to a receiver, carrying one or more records.
type Push struct {
	// ID goes out as webhook-id and is the same on every attempt: the event's id for a single record.
	ID string
	// Events are the records in order; at least one. They are shared and must not be changed.
	Events []*Event
	// Attempt is the number of this attempt, from 1.
	Attempt int
	// Replay: the events are delivered again at somebody's wish.
	Replay bool
}
