package boltkit

import (
	"reflect"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// bbolt writes every page through one private function value, which it keeps for its own tests. Tests of
// power cuts and broken disks have to stand exactly there, so this file, and only it, reaches in. It does
// nothing unless Options.WriteAt is set. A bbolt that renames the fields makes
// reflect panic in the first test.

func interpose(db *bolt.DB, hook func([]byte, int64, func([]byte, int64) (int, error)) (int, error)) {
	field := reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt")
	writeAt := (*func([]byte, int64) (int, error))(unsafe.Pointer(field.UnsafeAddr())) //nolint:gosec // see above
	write := *writeAt
	*writeAt = func(b []byte, off int64) (int, error) { return hook(b, off, write) }
}
