//go:build unix

package boltkit

import (
	"errors"
	"os"
	"syscall"
)

// lockDirectory takes an exclusive lock on the directory and returns what gives it back. It waits:
// the holder only creates a file.
func lockDirectory(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}
