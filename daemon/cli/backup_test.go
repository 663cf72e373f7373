package cli

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"herald/daemon/archive"
)

// What fails while a backup is read or written is told as it is, and not taken for a bad backup.
func TestReceiveTellsTheCause(t *testing.T) {
	t.Parallel()
	if err := receive(iotest.ErrReader(syscall.ENOSPC)); !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "try again") {
		t.Errorf("a full disk: %v", err)
	}
	if err := receive(io.LimitReader(strings.NewReader("no tar"), 3)); !errors.Is(err, archive.ErrNotArchive) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a bad backup: %v", err)
	}
}
