package daemon

import "testing"

func TestConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ workers, files, attempts, idle int }{
		{512, 0, 512, 512},
		{512, 1 << 20, 512, 512},
		{512, 1024, 496, 248},
		{512, 64, 16, 8},
		{8, 64, 8, 8},
		{512, 10, 4, 2},
		{1, 3, 1, 1},
	} {
		attempts, idle := connections(c.workers, c.files)
		if attempts != c.attempts || idle != c.idle {
			t.Errorf("%d workers, %d files: %d and %d, want %d and %d", c.workers, c.files, attempts, idle, c.attempts, c.idle)
		}
	}
}
