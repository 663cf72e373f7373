package boltstore

import (
	"errors"

	"herald/store/boltkit"
)

// The errors of opening a store, beside those of boltkit (ErrLocked, ErrDamaged).
var (
	// ErrKey: the key is not the one that the store's secrets are encrypted with.
	ErrKey = errors.New("wrong secrets key")
	// ErrKeyMissing: the store is there and its key is not.
	ErrKeyMissing = errors.New("secrets key missing")
	// ErrNewer: the file, or a value in it, was written by a newer Herald.
	ErrNewer = boltkit.ErrNewer
)
