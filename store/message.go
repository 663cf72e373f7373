package store

import "time"

// Message is a notification to send, and to whom: exactly one of Contact, Contacts and Token is set.
type Message struct {
	AccountID        string
	ImplementationID string
	// Contact has all its devices notified, Contacts those of many, at most MaxContacts.
	Contact  string
	Contacts []string
	// Token is one device, registered or not.
	Token *DeviceToken
	Notification
	// CallbackURL gets the changes of its status; "" for none.
	CallbackURL string
	// SendAt is when it is sent; zero is now.
	SendAt time.Time
	// Key is the caller's own for this message: the same message again with the same key is not sent again. "" for none. Digest stands for the content.
	Key    string
	Digest [16]byte
	// TraceParent and TraceState are those of the request (W3C Trace Context), for its CallbackURL; "" for none.
	TraceParent, TraceState string
	// DryRun checks everything and sends nothing.
	DryRun bool
}

// MessagePrefix begins the types of the events that messages to devices are made of. They are the queue's affair: nobody publishes them,
// and no subscription selects them, by whatever pattern.
const MessagePrefix = OwnPrefix + "message"

// Limits of a message.
const (
	MaxContacts       = 10_000
	MaxMessageKey     = 128
	MaxContactDevices = 1000
)

// Sent answers a Message.
type Sent struct {
	// TrackingID names the message; "" for a dry run.
	TrackingID string
	// Duplicate: it had been accepted before.
	Duplicate bool
	// Devices is how many devices it goes to; 0 when they are not known yet, because there are many contacts.
	Devices int
	// Payloads, of a dry run, is the size in bytes on each platform that is among the devices, and with many contacts on each that the
	// implementation has credentials for.
	Payloads map[Platform]int
}

// MessageError says that a message cannot be sent as it is.
type MessageError struct {
	// Field is the member of the request that is wrong: its name, or its JSON pointer (RFC 6901) when it is nested. Detail says what would
	// be right, without the name of the field before it.
	Field, Detail string
	// Missing: what the field names is not there.
	Missing bool
}

// Error returns the field and the detail.
func (e *MessageError) Error() string { return e.Field + ": " + e.Detail }

// MessageStatus is where a notification is.
type MessageStatus string

// The statuses. A message of many devices is queued while one of them is, sent when any was reached, and failed otherwise.
const (
	MessageQueued MessageStatus = "QUEUED"
	MessageSent   MessageStatus = "SENT"
	MessageFailed MessageStatus = "FAILED"
)

// MessageView is a message as it stands.
type MessageView struct {
	TrackingID       string
	ImplementationID string
	// Contact is whom it was sent to, or whose device; "" for a token that was not registered, or many contacts. Contacts is how many it was sent to, and Expanded how many of them have
	// been looked up so far.
	Contact            string
	Contacts, Expanded int
	CreatedAt          time.Time
	// SendAt is zero when it was sent at once, ExpiresAt when it is given up.
	SendAt, ExpiresAt time.Time
	// Status was reached At, and Reason is why it failed.
	Status MessageStatus
	At     time.Time
	Reason string
	// Queued, Sent and Failed count its devices.
	Queued, Sent, Failed int
	// Devices is a page of them, in the order of sending, and Next where the following page begins, "" after the last.
	Devices []MessageDevice
	Next    string
}

// MessageDevice is a message to one device.
type MessageDevice struct {
	// ID is the zero value for a token that was not registered.
	ID       DeviceID
	Platform Platform
	Contact  string
	Status   MessageStatus
	// Reason is why it failed, for programs, and Error what the provider said, for people.
	Reason, Error string
	// At is when the status was reached, and NextAt when it is tried again; zero when it is not or is due.
	At, NextAt time.Time
	// ProviderID is what the provider calls the message; "" until it is sent.
	ProviderID string
	// Attempts are the tries, oldest first, as far as they are retained.
	Attempts []MessageAttempt
}

// MessageAttempt is one try to hand a message to a provider.
type MessageAttempt struct {
	Number   int
	At       time.Time
	Duration time.Duration
	// HTTPStatus is 0 when there was no answer. Outcome is a queue.Class.
	HTTPStatus int
	Outcome    string
	Error      string
}
