//go:build !unix

package boltkit

import "errors"

// FreeSpace is not known here; a full disk shows when a write fails. The error wraps errors.ErrUnsupported.
func FreeSpace(string) (int64, error) { return 0, errors.ErrUnsupported }
