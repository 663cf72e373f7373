package daemon

import "testing"

func TestConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		workers, files int
		want           connectionShare
	}{
		{512, 0, connectionShare{attempts: 512, kept: 4096, own: 4096, certified: 512}},
		{512, 1 << 20, connectionShare{attempts: 512, kept: 4096, own: 4096, certified: 512}},
		{8192, 1 << 20, connectionShare{attempts: 8192, kept: 8192, own: 8192, certified: 1023}},
		{512, 1024, connectionShare{attempts: 496, kept: 248, own: 124, certified: 1}},
		{512, 64, connectionShare{attempts: 16, kept: 8, own: 4, certified: 1}},
		{8, 64, connectionShare{attempts: 8, kept: 8, own: 4, certified: 1}},
		{512, 10, connectionShare{attempts: 4, kept: 2, own: 1, certified: 1}},
		{1, 3, connectionShare{attempts: 1, kept: 2, own: 1, certified: 1}},
	} {
		if got := connections(c.workers, c.files); got != c.want {
			t.Errorf("%d workers, %d files: %+v, want %+v", c.workers, c.files, got, c.want)
		}
	}
}
