//go:build !unix

package boltkit

// lockDirectory does nothing where directories cannot be locked: there two processes must not be
// started for the first time in the same moment.
func lockDirectory(string) (unlock func() error, err error) { return func() error { return nil }, nil }
