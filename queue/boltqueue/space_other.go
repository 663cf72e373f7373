//go:build !unix

package boltqueue

import "errors"

// freeBytes is not known here; a full disk shows when a commit fails.
func freeBytes(string) (int64, error) { return 0, errors.New("not known on this system") }
