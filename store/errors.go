package store

import "errors"

// The errors of the contract. Engines wrap them with what they were doing.
var (
	// ErrNotFound: there is no such record, or it belongs to another account.
	ErrNotFound = errors.New("not found")
	// ErrExists: the id (or token hash) is taken.
	ErrExists = errors.New("exists already")
	// ErrLimit: the account has as many as it may have.
	ErrLimit = errors.New("limit reached")
	// ErrFull: the disk is full; nothing was changed. Trying again later may succeed.
	ErrFull = errors.New("disk full")
	// ErrClosed: the store is shutting down, or has failed for good.
	ErrClosed = errors.New("store closed")
)
