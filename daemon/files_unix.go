//go:build unix

package daemon

import (
	"math"
	"syscall"
)

// descriptors returns how many files the process may open at once, 0 when that is not known. The Go
// runtime has raised the soft limit to the hard one.
func descriptors() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > math.MaxInt32 {
		return 0
	}
	return int(l.Cur)
}
