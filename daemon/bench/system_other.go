//go:build !linux

package bench

import (
	"errors"
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

// dropCache cannot be done here.
func dropCache(string) error { return errors.ErrUnsupported }

// cachedShare is not told here.
func cachedShare(string) (float64, error) { return -1, nil }

// dieWithParent does nothing where the kernel has no such service; the child ends with its context.
func dieWithParent(*exec.Cmd) {}
