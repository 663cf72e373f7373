package store

import "errors"

// The errors of the contract. Engines wrap them with what they were doing.
var (
	// ErrNotFound: there is no such record, or it belongs to another account.
	ErrNotFound = errors.New("not found")
	// ErrExists: the id (or token hash) is taken.
	ErrExists = errors.New("exists already")
	// ErrRetired: the id was an account's that has been deleted. It is not given again: events and
	// deliveries of the old account may outlast it elsewhere, and they are told apart by the id alone.
	ErrRetired = errors.New("id of a deleted account")
	// ErrLimit: the account has as many as it may have.
	ErrLimit = errors.New("limit reached")
	// ErrFull: the disk is full; nothing was changed. Trying again later may succeed.
	ErrFull = errors.New("disk full")
	// ErrClosed: the store is shutting down, or has failed for good.
	ErrClosed = errors.New("store closed")
)
