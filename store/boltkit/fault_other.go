//go:build !linux

package boltkit

import "errors"

// BreakSync is for tests and works on Linux only.
func (d *DB) BreakSync() error { return errors.ErrUnsupported }
