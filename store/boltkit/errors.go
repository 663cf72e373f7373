package boltkit

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	bolterrors "go.etcd.io/bbolt/errors"
)

// The errors of Open. They come wrapped with the path and what to do.
var (
	// ErrLocked: another process has the file open.
	ErrLocked = errors.New("in use by another process")
	// ErrDamaged: the file is empty, cut short, or not a bbolt file.
	ErrDamaged = errors.New("damaged")
	// ErrForeign: it is a bbolt file of something else.
	ErrForeign = errors.New("not a file of this kind")
	// ErrNewer: a newer Herald wrote it.
	ErrNewer = errors.New("written by a newer version of Herald")
)

// ErrClosed is returned by a DB that was closed or has failed.
var ErrClosed = errors.New("file closed")

// FatalError says that a commit failed in a way after which the file handle must not be used: bbolt
// may show pages as written that never reach the disk. The process has to end; what was
// acknowledged before is safe.
type FatalError struct {
	// Path is the file.
	Path string
	// Err is what the commit returned.
	Err error
}

// Error implements error.
func (e *FatalError) Error() string {
	return fmt.Sprintf("commit to %s: %v; nothing more can be made durable before a restart", e.Path, e.Err)
}

// Unwrap returns what the commit returned.
func (e *FatalError) Unwrap() error { return e.Err }

// IsFull says whether a commit failed only because there was no room: the disk or the quota was full
// while pages were written, or the file reached its MaxSize. Such a commit left nothing behind and
// a later one may succeed.
//
// An ENOSPC that comes from a sync is not "full": then written pages may be lost, which is fatal. The
// two are told apart by their type: a write reports *fs.PathError, bbolt's fdatasync a bare errno.
func IsFull(err error) bool {
	if errors.Is(err, bolterrors.ErrMaxSizeReached) {
		return true
	}
	var write *fs.PathError
	if !errors.As(err, &write) || write.Op != "write" {
		return false
	}
	return errors.Is(write.Err, syscall.ENOSPC) || errors.Is(write.Err, syscall.EDQUOT)
}
