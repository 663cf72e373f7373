//go:build !linux

package boltkit

// Unmap does nothing on this system; see the one for Linux.
func (d *DB) Unmap(int64) bool { return false }
