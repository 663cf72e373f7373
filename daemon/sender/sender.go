// Package sender is what the senders have in common: the result of an attempt, what is read of answers and said of errors, parts of the
// payloads, and a pool with a fixed number of connections.
package sender

import (
	"time"

	"herald/queue"
)

// Result is what one attempt to hand a notification to a provider came to.
type Result struct {
	queue.Outcome
	// MessageID is what the provider calls the message; "" when it was not taken.
	MessageID string
	// Device is what the answer says of the device's token.
	Device DeviceFate
	// DeadSince, with DeviceDead, is when the token died: one that was registered later lives. Zero: any is dead.
	DeadSince time.Time
}

// Failed is the result of an attempt that brought no answer, with its text for the owner of the app.
func Failed(class queue.Class, text string) Result {
	return Result{Outcome: queue.Outcome{Class: class, Error: text}}
}

// DeviceFate is what an answer says of a device's token.
type DeviceFate int

// The fates.
const (
	// DeviceUnknown: nothing.
	DeviceUnknown DeviceFate = iota
	// DeviceSeen: it is good.
	DeviceSeen
	// DeviceDead: it will never do again.
	DeviceDead
	// DeviceForeign: it belongs to other credentials. When no other is taken, it is rather those that are wrong.
	DeviceForeign
	// DeviceThrottled: it is to be left alone for Outcome.Wait.
	DeviceThrottled
	// DeviceElsewhere: it may belong to the other APNs environment.
	DeviceElsewhere
)

// Reasons of notifications that were given up, beside those of package queue.
const (
	// ReasonUnregistered: the device's token is dead.
	ReasonUnregistered = "unregistered"
	// ReasonNoDevice: the device was removed, or the contact has none.
	ReasonNoDevice = "no-device"
	// ReasonTooLarge: the provider found the payload too large.
	ReasonTooLarge = "too-large"
)
