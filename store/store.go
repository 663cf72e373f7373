// Package store is the domain of what Herald remembers about its users: accounts, access tokens,
// the catalogue of resources, subscriptions, implementations and devices, with the rules they obey and
// the contract an engine must fulfil.
//
// It promises to be pure: types and rules, no I/O, no goroutine, nothing of Herald imported. The
// engine that ships is store/boltstore; store/storetest is the conformance suite of the contract.
package store

import (
	"context"
	"time"
)

// Store is the contract of an engine. All methods are safe for concurrent use.
//
// A method that changes something returns only after the change is durable (synced to disk) and
// visible to every later call, including Select: a subscription that was created is chosen for the
// next event, and one that was deleted is not. A change is applied whole or not at all.
//
// Values given to and returned by the store are not shared with it: callers may keep and change
// what they get, with the exception of Subscription, which is documented below to be read-only.
//
// Errors are the sentinels of errors.go, to be tested with errors.Is. Any other error means that the
// engine could not read or write; nothing is known to have changed. When the context ends before
// the change was taken up, its error is returned and nothing changes.
type Store interface {
	DeviceStore

	// CreateAccount adds an account; ErrExists when the id is taken, ErrRetired when it was the id of an
	// account that has been deleted.
	CreateAccount(ctx context.Context, a Account) error
	// Account returns one account, or ErrNotFound.
	Account(ctx context.Context, id string) (Account, error)
	// Accounts lists at most limit accounts in ascending order of id, beginning after the id given;
	// "" begins with the first, a limit of 0 means all.
	Accounts(ctx context.Context, after string, limit int) ([]Account, error)
	// UpdateAccount reads the account, lets change modify it, and stores it, as one step. An error of
	// change is returned as it is and nothing is stored. The id cannot be changed.
	UpdateAccount(ctx context.Context, id string, change func(*Account) error) (Account, error)
	// DeleteAccount removes the account with its tokens, resources, subscriptions, implementations and devices. It returns the
	// ids of the subscriptions that went, lanes of implementations among them, so that their deliveries can be dropped. The room
	// its devices take comes back little by little, as with DeleteImplementation. ErrNotFound when there is no such account. The id is retired in the same step, for good: CreateAccount refuses it from
	// then on, so that nobody comes to own what a queue still keeps under it.
	DeleteAccount(ctx context.Context, id string) ([]SubscriptionID, error)

	// CreateToken adds a token under its Hash; ErrNotFound when its account does not exist, ErrExists
	// when the id or the hash is taken.
	CreateToken(ctx context.Context, t Token) error
	// TokenByHash returns the token with that hash and the account it belongs to, or ErrNotFound. It
	// does not judge expiry, scopes or suspension. It is on the path of every request and therefore
	// fast: no more than a few microseconds for a token used before.
	TokenByHash(ctx context.Context, hash TokenHash) (Token, Account, error)
	// Tokens lists the tokens of one account, or of all when accountID is "", in ascending order of
	// id, beginning after the id given; a limit of 0 means all.
	Tokens(ctx context.Context, accountID, after string, limit int) ([]Token, error)
	// DeleteToken removes a token of that account, or of any account when accountID is ""; it is
	// refused from this moment on. ErrNotFound when there is none.
	DeleteToken(ctx context.Context, accountID, id string) error

	// PutResources adds or replaces resources of one account, all or none; ErrNotFound when the
	// account does not exist.
	PutResources(ctx context.Context, accountID string, rs []Resource) error
	// Resource returns one resource, or ErrNotFound.
	Resource(ctx context.Context, accountID string, key ResourceKey) (Resource, error)
	// HasResourceType says whether the account's catalogue has at least one resource of that type.
	HasResourceType(ctx context.Context, accountID, resourceType string) (bool, error)
	// Resources lists the resources of an account in ascending order of type and id, of one type or of
	// all when resourceType is "", beginning after the key given (zero: the first); a limit of 0 means
	// all. Callers stream a long list by asking for page after page.
	Resources(ctx context.Context, accountID, resourceType string, after ResourceKey, limit int) ([]Resource, error)
	// DeleteResource removes one resource, or returns ErrNotFound. Subscriptions that name it stay.
	DeleteResource(ctx context.Context, accountID string, key ResourceKey) error

	// CreateSubscription adds a subscription. ErrNotFound when its account does not exist, ErrExists
	// when the id is taken, ErrLimit when the account already has max subscriptions (0: no limit), lanes not counted. One with
	// a Role is refused: CreateImplementation and UpdateImplementation make those.
	CreateSubscription(ctx context.Context, s *Subscription, maxPerAccount int) error
	// Subscription returns one subscription of any account, or ErrNotFound. What it returns may be
	// shared with other callers and must not be changed. It is asked before every attempt and
	// therefore fast: about a microsecond for a subscription in use.
	Subscription(ctx context.Context, id SubscriptionID) (*Subscription, error)
	// Subscriptions lists the subscriptions of an account, or of all when accountID is "", in
	// ascending order of id (which is the order of creation), beginning after the id given (zero: the
	// first); a limit of 0 means all. The lanes of implementations (Subscription with Role) are in the list of all, and in
	// that of no account; Subscription and UpdateSubscription find them.
	Subscriptions(ctx context.Context, accountID string, after SubscriptionID, limit int) ([]*Subscription, error)
	// UpdateSubscription reads the subscription, lets change modify a copy, and stores it, as one
	// step; the old selection stops and the new one starts in the same moment. An error of change is
	// returned as it is and nothing is stored. Id, account, role with its implementation, and creation time cannot
	// be changed; UpdatedAt is change's to set.
	UpdateSubscription(ctx context.Context, id SubscriptionID, change func(*Subscription) error) (*Subscription, error)
	// DeleteSubscription removes a subscription of that account, or of any when accountID is "".
	// ErrNotFound when there is none; so it is for the lane of an implementation, which goes with that.
	DeleteSubscription(ctx context.Context, accountID string, id SubscriptionID) error

	// Select appends to dst the ids of the account's subscriptions that want an event of this type on
	// this resource ("" for none) with this data, each once, in no particular order; Matcher has the rules.
	// Subscriptions in StatePending and disabled ones that discard are not chosen; paused and other disabled
	// ones are, because their events are held. byData says that filters were asked: another event of the same type
	// and resource may be for others; while it is false the data was not looked at. It runs in memory
	// and costs by what it finds, not by how many subscriptions there are.
	Select(accountID, eventType, resource string, data []byte, dst []SubscriptionID) (ids []SubscriptionID, byData bool)

	// Healthy returns nil while changes can be made durable, else the reason why not.
	Healthy() error
	// Check verifies every index against its records, and the file itself, and returns one error that
	// joins everything found. It reads all data: seconds on a large store.
	Check(ctx context.Context) error
}

// Account is a tenant; everything else belongs to one.
type Account struct {
	// ID is chosen by the operator: 1 to 64 characters of [A-Za-z0-9._-], beginning with a letter or
	// a digit.
	ID string
	// Name is for people, at most 200 characters.
	Name string
	// Suspended accounts are refused by the API (403); their queued deliveries go on.
	Suspended bool
	CreatedAt time.Time
}

// DefaultAccount is the id of the account that exists from the start. It cannot be deleted.
const DefaultAccount = "default"

// TokenHash is the SHA-256 of an access token. A token has 256 bits of randomness, so a plain hash
// is enough: there is nothing to guess.
type TokenHash [32]byte

// Token is an access token of an account. Its secret is not here: it is shown once when minted.
type Token struct {
	// ID names the token for listing and revoking; it is not the secret.
	ID        string
	AccountID string
	// Name is for people, at most 200 characters.
	Name   string
	Scopes []Scope
	Hash   TokenHash
	// CreatedAt and ExpiresAt are in UTC; a zero ExpiresAt means never.
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Has says whether the token carries the scope; ScopeAdmin carries all.
func (t *Token) Has(s Scope) bool {
	for _, x := range t.Scopes {
		if x == s || x == ScopeAdmin {
			return true
		}
	}
	return false
}

// Expired says whether the token's time is over at the moment given.
func (t *Token) Expired(now time.Time) bool {
	return !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt)
}

// Scope is what a token may do.
type Scope string

// The scopes. ScopeAdmin includes all others, for any account.
const (
	// ScopePublish: publish and read events, keep the resource catalogue.
	ScopePublish Scope = "publish"
	// ScopeSubscribe: manage the account's subscriptions and deliveries, read resources.
	ScopeSubscribe Scope = "subscribe"
	// ScopeDevices: register, list and delete devices, read implementations.
	ScopeDevices Scope = "devices"
	// ScopeSend: send notifications, manage implementations, read devices.
	ScopeSend Scope = "send"
	// ScopeAdmin: all of it for any account, and accounts and tokens.
	ScopeAdmin Scope = "admin"
)

// Scopes lists every scope, in the order of the documentation.
func Scopes() []Scope {
	return []Scope{ScopePublish, ScopeSubscribe, ScopeDevices, ScopeSend, ScopeAdmin}
}

// ResourceKey names a resource within its account, written type/id.
type ResourceKey struct{ Type, ID string }

// String returns type/id.
func (k ResourceKey) String() string { return k.Type + "/" + k.ID }

// Resource is a thing events happen to, as the publisher's catalogue knows it.
type Resource struct {
	ResourceKey
	// Name is for people, at most 200 characters.
	Name string
}
