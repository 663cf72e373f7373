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

	// Role is what the subscription is for. Those with a role belong to an implementation, ImplementationID: they select no events,
	// nobody lists them, and nobody but the dispatcher changes them.
	Role             Role
	ImplementationID string
	// Notification makes a notification of each event, in place of a push to DataCallbackURL, which is then "". Nil for a push.
	Notification *Template

	// DataCallbackURL is where pushes go: absolute, http or https, no user info, no fragment. It may
	// itself be a secret (an unlisted URL), so it is never logged in full.
	DataCallbackURL string
	// ValidationCallbackURL is where the validation record goes, of the same form and as secret; "" when the
	// subscription names none.
	ValidationCallbackURL string
	// ValidationKind is how the receiver is asked, when it is.
	ValidationKind ValidationKind
	// Validation is how the handshake stands.
	Validation Validation
	// ExportFormat is the media type of a push.
	ExportFormat string
	// NumberOfRecords is the most records in one push, from 1.
	NumberOfRecords int
	// MaxWait is how long a push may wait to fill up to NumberOfRecords.
	MaxWait time.Duration
	// Resource selects by what the event happened to: "type/id", "type/*", or "" for all events, also
	// those without a resource.
	Resource string
	// Events selects by type: patterns as Matcher documents them; empty means all but Herald's own.
	Events []string
	// Filter selects by the event's data; nil means all. It is shared and immutable.
	Filter *Filter
	// Payload is the form of a record.
	Payload PayloadForm
	// Method is the HTTP method of a push: POST, PUT or GET.
	Method string
	// Authentication is what a push proves itself with, beside the signature.
	Authentication Authentication
	// ClientCertificate is what the TLS handshake of a push presents.
	ClientCertificate ClientCertificate
	// MessageSignature: a push is also signed with the key of Herald's certificate (RFC 9421). That costs about half as much
	// processor time as all else of a push, so it is made for receivers that ask for it.
	MessageSignature bool
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
	// Discarding is set while the subscription is disabled and OnDisabledDiscard is in force: events are not
	// for it, and what waits is discarded.
	Discarding bool
	// Health is how pushes have gone. It is the dispatcher's: everyone else leaves it as it is, or makes
	// it zero where the past says nothing any more.
	Health Health
}

// Role is what a subscription is for.
type Role string

// The roles.
const (
	// RoleNone: somebody subscribed to events.
	RoleNone Role = ""
	// RoleDevices: it is the lane of a platform's devices.
	RoleDevices Role = "devices"
	// RoleExpansion: it is the lane of messages to many contacts.
	RoleExpansion Role = "expansion"
	// RoleStatus: it is the lane of status changes for callback URLs of one origin, which is its DataCallbackURL.
	RoleStatus Role = "status"
)

// Template says what notification an event becomes. The texts may hold {{path}}, in place of which stands the value that the path, as ParsePath
// reads it, leads to in the event's data; so may Contact. It is immutable.
type Template struct {
	ImplementationID string
	Contact          string
	// Notification is what is sent, with such texts in Title, Text and Data.
	Notification Notification
}

// Health is what has to survive a restart of how pushes to a subscription have gone. It changes a few times
// in an outage, never with each push; the zero value says that nothing is known to be wrong.
type Health struct {
	// FailingSince is when the first failed push after the last success was made; zero while they succeed.
	FailingSince time.Time
	// Failures is how many pushes in a row have failed, as far as it was noted.
	Failures int
	// OpenedAt is when the circuit breaker opened; zero while it is closed.
	OpenedAt time.Time
	// Probes is how many probes have failed since, and ProbeAt when the next may go out.
	Probes  int
	ProbeAt time.Time
	// Warned is the highest percentage of DisableAfter a warning was published for.
	Warned int
	// Notice is the type of an operational event about the subscription that is still to be published, NoticeAt
	// when it happened; "" when there is none.
	Notice   string
	NoticeAt time.Time
	// Suspended says why the platform of an implementation is not sent to: its provider does not take the credentials. "" when it is.
	// OpenedAt is then when that began, and ProbeAt when it is tried whether they are taken again.
	Suspended string
}

// Clone returns a deep copy.
func (s *Subscription) Clone() *Subscription {
	c := *s
	c.Events = append([]string(nil), s.Events...)
	if s.Notification != nil {
		n := *s.Notification // what it refers to is never changed
		c.Notification = &n
	}
	c.SigningSecrets = make([]SigningSecret, len(s.SigningSecrets))
	for i, x := range s.SigningSecrets {
		c.SigningSecrets[i] = SigningSecret{Key: append([]byte(nil), x.Key...), Ed25519: x.Ed25519, ExpiresAt: x.ExpiresAt}
	}
	c.Validation.Secret = append([]byte(nil), s.Validation.Secret...)
	c.ClientCertificate.Key = append([]byte(nil), s.ClientCertificate.Key...)
	return &c
}

// Validation is how the handshake of a subscription stands, in which its receiver shows that it wants the pushes.
type Validation struct {
	// Secret makes the signatures of validation records: 32 random bytes, made with the first.
	Secret []byte
	// Confirmed is what was confirmed, as Subscription.Vouched has it; "" for nothing.
	Confirmed string
	// Origin and AllowedRate are what was permitted with that by ValidationCloudEvents: what Herald called itself, which every push
	// is to repeat, and the pushes a minute, 0 for no limit.
	Origin      string
	AllowedRate int
	// ExpiresAt is until when the record under way can be confirmed, and is tried to be handed over; zero when none is.
	ExpiresAt time.Time
	// Attempts is how often it was tried, NextAt when it is tried again; zero when it arrived or is given up.
	Attempts int
	NextAt   time.Time
	// LastError says why the last attempt failed, for the owner of the receiver; "" when it did not.
	LastError string
}

// ClientCertificate is what the TLS handshake of a push presents; the zero value is nothing.
type ClientCertificate struct {
	// Identity: the chain of Herald itself, that of /certificates/default.
	Identity bool
	// Chain is the subscription's own, as PEM, its certificate first, and Key its private key, as PKCS #8 in DER, which is a
	// secret. Both or neither are set, and not with Identity.
	Chain string
	Key   []byte
}

// PayloadForm is the form of a record in a push.
type PayloadForm string

// The payload forms.
const (
	// PayloadEnvelope: {id, type, resource, time, accountId, data}.
	PayloadEnvelope PayloadForm = "envelope"
	// PayloadData: the bare data, byte for byte as it was published.
	PayloadData PayloadForm = "data"
	// PayloadCloudEvents: CloudEvents 1.0, structured; a batch of them where a push may have several records.
	PayloadCloudEvents PayloadForm = "cloudevents"
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
	// AuthOAuth2: a bearer token that the client credentials grant gives (RFC 6749, section 4.4).
	AuthOAuth2 AuthType = "oauth2"
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
	// TokenURL, ClientID and Scopes (joined by single spaces), none of them secret, and ClientSecret of AuthOAuth2.
	TokenURL, ClientID, Scopes string
	ClientSecret               string
}

// SigningSecret is one Standard Webhooks secret: a symmetric one (v1) of 24 to 64 bytes, or the seed of an Ed25519 key pair (v1a) of
// 32 bytes.
type SigningSecret struct {
	Key []byte
	// Ed25519: the signature is an asymmetric one.
	Ed25519 bool
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
	// RateLimit is how many records a second may go out, fractions allowed.
	RateLimit float64
	// RateBurst is how many records may go out at once after a rest; 0 means those of one second, at least 1.
	RateBurst int
	// Ordering is the order of deliveries.
	Ordering Ordering
	// OrderingKey is the field of the data whose value is the key of OrderKey, as ParsePath reads it; ""
	// means the event's resource.
	OrderingKey string
	// DisableAfter says when failing disables the subscription.
	DisableAfter DisableAfter
	// OnDisabled says what becomes of the deliveries of the disabled subscription.
	OnDisabled OnDisabled
}

// Ordering is the order in which a subscription's deliveries are made.
type Ordering string

// The orders. Empty means the configured one.
const (
	// OrderNone: as fast as it goes, about in the order of acceptance.
	OrderNone Ordering = "none"
	// OrderKey: in the order of acceptance for each value of the key, the values beside each other.
	OrderKey Ordering = "key"
	// OrderStrict: one push at a time, in the order of acceptance.
	OrderStrict Ordering = "strict"
)

// DisableAfter says how much failing disables a subscription: whichever is set and comes first.
type DisableAfter struct {
	// Set says that this overrides the configuration, also where it switches disabling off.
	Set bool
	// Duration of failing without one success; 0 is off.
	Duration time.Duration
	// Failures is how many failed pushes in a row; 0 is off.
	Failures int
}

// OnDisabled says what becomes of a disabled subscription's deliveries.
type OnDisabled string

// The ways. Empty means the configured one.
const (
	// OnDisabledHold: they wait, as long as they are retained, and flow when the subscription is enabled.
	OnDisabledHold OnDisabled = "hold"
	// OnDisabledDiscard: what waits is discarded, and events that come meanwhile are not for it.
	OnDisabledDiscard OnDisabled = "discard"
)

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

// The StateReasons of a disabled subscription.
const (
	// ReasonGone: its receiver answered 410.
	ReasonGone = "gone"
	// ReasonFailing: it failed for DisableAfter.Duration without one success.
	ReasonFailing = "failing"
	// ReasonFailures: DisableAfter.Failures pushes in a row failed.
	ReasonFailures = "failures"
)
