package boltkit

import (
	"errors"
	"os"
	"reflect"
	"syscall"
	"unsafe"
)

// BreakSync makes every later sync of the file fail while writes go on to succeed, as a dying disk may
// do. It is for tests; the handle can only be closed afterwards. The file's descriptor becomes one of
// /dev/zero, which takes writes and forgets them, and cannot be synced.
func (d *DB) BreakSync() error {
	d.write.Lock()
	defer d.write.Unlock()
	field := reflect.ValueOf(d.bolt).Elem().FieldByName("file")
	file := *(**os.File)(unsafe.Pointer(field.UnsafeAddr())) //nolint:gosec // see fault.go
	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(syscall.Dup3(int(zero.Fd()), int(file.Fd()), syscall.O_CLOEXEC), zero.Close())
}
