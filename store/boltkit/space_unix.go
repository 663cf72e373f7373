//go:build unix

package boltkit

import "golang.org/x/sys/unix"

// FreeSpace returns how much room the file system of dir has for us, in bytes.
func FreeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // their types differ between systems
}
