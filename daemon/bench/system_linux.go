package bench

import (
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

// dieWithParent has the kernel end the child when this process dies without a chance to do it.
func dieWithParent(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
