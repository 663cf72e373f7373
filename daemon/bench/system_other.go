//go:build !linux

package bench

import (
	"os"
	"os/exec"
	"time"
)

const fineSleeps = false

type fineSleep struct{}

func (*fineSleep) sleep(time.Duration) {}
func (*fineSleep) stop()               {}

// dataSync makes a file durable.
func dataSync(f *os.File) error { return f.Sync() }

// dieWithParent does nothing where the kernel has no such service; the child ends with its context.
func dieWithParent(*exec.Cmd) {}
