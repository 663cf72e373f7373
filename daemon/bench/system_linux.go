package bench

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const fineSleeps = true

// fineSleep sleeps in the kernel on a thread of its own, with the least timer slack.
type fineSleep struct{ locked bool }

func (f *fineSleep) sleep(d time.Duration) {
	if !f.locked {
		runtime.LockOSThread()
		f.locked = true
		// One nanosecond of slack instead of the default fifty microseconds; a refusal costs accuracy only.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	}
	ts := unix.NsecToTimespec(int64(d))
	// An early return is a request that begins early by some microseconds: not worth a loop.
	_ = unix.Nanosleep(&ts, nil)
}

func (f *fineSleep) stop() {
	if f.locked {
		runtime.UnlockOSThread()
	}
}

// dataSync makes a file's data durable as the storage engine does.
func dataSync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// dropCache writes the files of a directory back and has the kernel forget what it holds of them in memory. No process
// may have them mapped.
func dropCache(dir string) error {
	return eachFile(dir, func(f *os.File) error {
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// cachedShare is how much of the files of a directory the kernel holds in memory, 0 to 1; below zero where it does not
// tell, which Linux does since version 6.5.
func cachedShare(dir string) (float64, error) {
	var cached, size int64
	err := eachFile(dir, func(f *os.File) error {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		var c unix.Cachestat_t
		if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &c, 0); err != nil {
			return err
		}
		cached += int64(c.Cache) * int64(os.Getpagesize())
		size += st.Size()
		return nil
	})
	switch {
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP):
		return -1, nil
	case err != nil || size == 0:
		return -1, err
	}
	return float64(cached) / float64(size), nil
}

// dieWithParent has the kernel end the child when this process dies without a chance to do it.
func dieWithParent(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
