//go:build unix && !linux

package demo

import "syscall"

// childAttributes put the daemon into a process group of its own, so that Ctrl-C in the terminal is
// the demo's to handle.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
