package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// SubscriptionID is a UUID, version 7: ascending in the order of creation.
type SubscriptionID [16]byte

// NewSubscriptionID makes a new id from the clock and the system's randomness.
func NewSubscriptionID() (SubscriptionID, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return SubscriptionID{}, fmt.Errorf("make subscription id: %w", err)
	}
	return SubscriptionID(u), nil
}

// ParseSubscriptionID reads the canonical form of 36 characters, hexadecimal in either case.
func ParseSubscriptionID(s string) (SubscriptionID, error) {
	if len(s) != 36 { // the library also takes the urn: and {} forms, which are not ours
		return SubscriptionID{}, errors.New("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return SubscriptionID{}, errors.New("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
	}
	return SubscriptionID(u), nil
}

// String returns the canonical form of 36 lower-case characters.
func (id SubscriptionID) String() string { return uuid.UUID(id).String() }

// Subscription says who wants which events, and where. Values returned by a Store may be shared and
// are read-only; Clone makes one that may be changed.
type Subscription struct {
	ID        SubscriptionID
	AccountID string
	CreatedAt time.Time
	UpdatedAt time.Time

	// DataCallbackURL is where pushes go: absolute, http or https, no user info, no fragment. It may
	// itself be a secret (an unlisted URL), so it is never logged in full.
	DataCallbackURL string
	// ExportFormat is the media type of a push.
	ExportFormat string
	// NumberOfRecords is the most records in one push, from 1.
	NumberOfRecords int
	// MaxWait is how long a push may wait to fill up to NumberOfRecords.
	MaxWait time.Duration
	// Resource selects by what the event happened to: "type/id", "type/*", or "" for all events, also
	// those without a resource.
	Resource string
	// Events selects by type: patterns as Matcher documents them; empty means all.
	Events []string
	// Payload is the form of a record.
	Payload PayloadForm
	// Method is the HTTP method of a push: POST, PUT or GET.
	Method string
	// Authentication is what a push proves itself with, beside the signature.
	Authentication Authentication
	// SigningSecrets are the Standard Webhooks secrets in force, the newest first: each signs every
	// push until it expires. Empty when the owner removed signing.
	SigningSecrets []SigningSecret
	// Delivery overrides the configured policy.
	Delivery DeliveryPolicy

	State State
	// StateReason tells why, for a state that is not active: for people and programs, a short word.
	StateReason string
	// StateSince is when the state was entered.
	StateSince time.Time
}

// Clone returns a deep copy.
func (s *Subscription) Clone() *Subscription {
	c := *s
	c.Events = append([]string(nil), s.Events...)
	c.SigningSecrets = make([]SigningSecret, len(s.SigningSecrets))
	for i, x := range s.SigningSecrets {
		c.SigningSecrets[i] = SigningSecret{Key: append([]byte(nil), x.Key...), ExpiresAt: x.ExpiresAt}
	}
	return &c
}

// PayloadForm is the form of a record in a push.
type PayloadForm string

// The payload forms.
const (
	// PayloadEnvelope: {id, type, resource, time, accountId, data}.
	PayloadEnvelope PayloadForm = "envelope"
	// PayloadData: the bare data, byte for byte as it was published.
	PayloadData PayloadForm = "data"
)

// AuthType is a way of authenticating a push.
type AuthType string

// The ways. An empty type means none: the unlisted URL is the secret.
const (
	AuthNone   AuthType = ""
	AuthBearer AuthType = "bearer"
	AuthBasic  AuthType = "basic"
	AuthHeader AuthType = "header"
	AuthQuery  AuthType = "query"
)

// Authentication holds the credentials of a push. Secret parts are encrypted at rest and never
// returned by the API.
type Authentication struct {
	Type AuthType
	// Token is the secret of AuthBearer.
	Token string
	// Username (not secret) and Password (secret) of AuthBasic.
	Username, Password string
	// Name (not secret) and Value (secret) of AuthHeader and AuthQuery.
	Name, Value string
}

// SigningSecret is one Standard Webhooks symmetric secret: 24 to 64 bytes.
type SigningSecret struct {
	Key []byte
	// ExpiresAt is when an old secret stops signing; zero for the current one.
	ExpiresAt time.Time
}

// DeliveryPolicy overrides the configured delivery policy; zero members mean the configured value.
type DeliveryPolicy struct {
	// Timeout bounds one attempt, from the dial to the end of the response.
	Timeout time.Duration
	// RetrySchedule is the text form of a queue.Schedule: a name, or waits joined by commas.
	RetrySchedule string
	// MaxConcurrency is how many pushes may be under way at once.
	MaxConcurrency int
}

// State is where a subscription is in its life.
type State string

// The states.
const (
	// StatePending waits for validation: it is not selected, nothing is pushed.
	StatePending State = "pending"
	// StateActive is pushed to.
	StateActive State = "active"
	// StatePaused was stopped by its owner; its deliveries are held.
	StatePaused State = "paused"
	// StateDisabled was stopped by the daemon; its deliveries are held until a person enables it.
	StateDisabled State = "disabled"
)

// ReasonGone is the StateReason of a subscription whose receiver answered 410.
const ReasonGone = "gone"
