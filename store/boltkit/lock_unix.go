//go:build unix

package boltkit

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// LockDirectory takes an exclusive lock on the directory and returns what gives it back. Whoever creates a file
// in it that Open opens holds it from looking whether there is one until it is there. It waits: the holder
// only creates a file.
func LockDirectory(dir string) (unlock func() error, err error) {
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

// lockFile takes the lock that bbolt takes, on the open file itself, so that bbolt finds it taken by its own. It
// waits as long as given and returns ErrLocked then.
func lockFile(f *os.File, timeout time.Duration) error {
	for end := time.Now().Add(timeout); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return err
		case time.Now().After(end):
			return ErrLocked
		default:
			<-time.After(lockPoll)
		}
	}
}

const lockPoll = 20 * time.Millisecond

// giveTo gives the file to the owner and the group of another one.
func giveTo(f *os.File, other os.FileInfo) error {
	want, ok := other.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if is, ok := info.Sys().(*syscall.Stat_t); ok && is.Uid == want.Uid && is.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}
