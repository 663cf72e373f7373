//go:build !unix

package boltkit

import (
	"os"
	"time"
)

// LockDirectory does nothing where directories cannot be locked: there two processes must not be
// started for the first time in the same moment.
func LockDirectory(string) (unlock func() error, err error) { return func() error { return nil }, nil }

// lockFile does nothing here: bbolt takes the lock when it opens the file.
func lockFile(*os.File, time.Duration) error { return nil }

// giveTo does nothing where files have no such owners.
func giveTo(*os.File, os.FileInfo) error { return nil }
