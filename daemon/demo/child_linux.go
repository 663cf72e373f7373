package demo

import "syscall"

// childAttributes put the daemon into a process group of its own, so that Ctrl-C in the terminal is
// the demo's to handle, and have the kernel end it when the demo dies (prctl(2), PR_SET_PDEATHSIG).
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
