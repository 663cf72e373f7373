package store

import "context"

// DeviceStore is the part of the contract that holds implementations and devices.
type DeviceStore interface {
	// CreateImplementation adds an implementation and its lanes, as Implementation.Lanes has them, and returns it with its Number and UID,
	// which the store gives. ErrNotFound when its account does not exist, ErrExists when the id is taken, ErrLimit when the account already has max (0: no limit).
	CreateImplementation(ctx context.Context, i *Implementation, maxPerAccount int) (*Implementation, error)
	// Implementation returns one implementation of the account, or ErrNotFound. What it returns may be shared and must not be
	// changed. It is asked before every attempt and therefore fast: about a microsecond for one in use.
	Implementation(ctx context.Context, accountID, id string) (*Implementation, error)
	// Implementations lists those of an account in ascending order of id, beginning after the id given; a limit of 0 means all.
	Implementations(ctx context.Context, accountID, after string, limit int) ([]*Implementation, error)
	// UpdateImplementation reads it, lets change modify a copy, and stores it, as one step. An error of change is returned as it is.
	// Account, id, UID, Number and creation time cannot be changed; UpdatedAt is change's to set. Each new one of StatusOrigins gets its lane,
	// StatusLane, in the same step, ErrLimit when there would be more than MaxStatusOrigins; none can be taken away. With StatusSecret the secrets
	// of those lanes change.
	UpdateImplementation(ctx context.Context, accountID, id string, change func(*Implementation) error) (*Implementation, error)
	// DeleteImplementation removes it with its lanes, and returns their ids, so that their deliveries can be dropped. Its devices are
	// gone for everybody at once; the room they take comes back little by little, also after a crash.
	DeleteImplementation(ctx context.Context, accountID, id string) ([]SubscriptionID, error)

	// PutDevice registers a token: it adds a device, or brings the one that has the token up to date, which comes to belong to the
	// contact given. Locale and AppVersion that are "" leave what is known. With replaces, the token of the same implementation and platform that
	// this one succeeds, that device gets the new token and keeps its ID; a device that has the new token already goes. When nothing
	// has replaces, it is ignored. A registration that says what is known already, of a device seen less than a day ago, need not
	// be written. ID, RegisteredAt and LastSeenAt are set by the store, from now.
	// ErrNotFound when there is no such implementation; an error when Contact is empty, longer than MaxContactLength, or has a NUL in it, or when
	// Token is empty or longer than MaxTokenLength.
	PutDevice(ctx context.Context, d Device, replaces string) (Device, error)
	// Device returns a device of the account ("" means any), or ErrNotFound.
	Device(ctx context.Context, accountID string, id DeviceID) (Device, error)
	// DeviceByToken returns the device of the implementation that has the token, or ErrNotFound.
	DeviceByToken(ctx context.Context, accountID, implementationID string, p Platform, token string) (Device, error)
	// Devices lists the devices of a contact, in one implementation or, when that is "", in all of the account's, in ascending order of ID,
	// beginning after the ID given; a limit of 0 means all. It takes less than a millisecond among a million devices.
	Devices(ctx context.Context, accountID, contact, implementationID string, after DeviceID, limit int) ([]Device, error)
	// UpdateDevice reads the device, lets change modify it, and stores it, as one step. An error of change is returned as it is and nothing is
	// stored. The ID, the implementation, the contact and the token cannot be changed. When others change the device at the same time, change
	// is called again with what they made of it. ErrNotFound when there is none.
	UpdateDevice(ctx context.Context, id DeviceID, change func(*Device) error) error
	// DeleteDevice removes a device of the account ("" means any) for which still, when it is not nil, returns true; otherwise,
	// and when there is none, ErrNotFound. still may be called again as change of UpdateDevice is.
	DeleteDevice(ctx context.Context, accountID string, id DeviceID, still func(*Device) bool) error
	// DeleteContact removes all devices of a contact and returns how many there were.
	DeleteContact(ctx context.Context, accountID, contact string) (int, error)
	// CountDevices returns how many devices there are; those of deleted implementations count until they are removed. It is cheap.
	CountDevices() int64
}
