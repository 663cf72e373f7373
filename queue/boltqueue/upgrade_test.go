package boltqueue

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"herald/queue"
)

// A file of the first version, left by a daemon that was killed: events of two lanes, one of them paused with retries and first
// attempts waiting, the other dropped.
func TestOpenFirstVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), FileName)
	unpack(t, filepath.Join("testdata", "queue-v1.db.gz"), path)
	for _, opened := range []string{"brought up to date", "opened again"} {
		q, stop := start(t, Options{Path: path})
		if s := q.Stats(); s.Events != 8 || s.Pending != 3 || s.Retrying != 5 {
			t.Errorf("%s: %+v", opened, s)
		}
		list, err := q.Deliveries(t.Context(), queue.DeliveryFilter{Limit: 100})
		if err != nil || len(list) != 16 {
			t.Errorf("%s: %d deliveries (%v)", opened, len(list), err)
		}
		for _, d := range list {
			// The first version did not count the attempt under way when a lane was dropped.
			if _, log, err := q.Delivery(t.Context(), "", d.ID); err != nil || len(log) != d.Attempts && d.State != queue.StateDiscarded {
				t.Errorf("%s: %+v has %d attempts in its log (%v)", opened, d, len(log), err)
			}
		}
		if _, err := q.Event(t.Context(), "default", "v1-3"); err != nil {
			t.Errorf("%s: %v", opened, err)
		}
		if err := q.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", opened, err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.LimitReader(z, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
