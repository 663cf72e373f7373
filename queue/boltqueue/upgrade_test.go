package boltqueue

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"herald/queue"
)

// Files of older versions, left by daemons that were killed. The first has events of two lanes, one of them paused with retries and first
// attempts waiting, the other dropped; the second a batch that waits to be tried again, and deliveries made due by hand; the third two
// replays under way, with batches that they made; the fourth a planned delivery, and events with attributes, one of them a traceparent.
func TestOpenOlderVersions(t *testing.T) {
	t.Parallel()
	for version, want := range []struct {
		stats      queue.Stats
		deliveries int
		event      string
	}{
		{queue.Stats{Events: 8, Pending: 3, Retrying: 5}, 16, "v1-3"},
		{queue.Stats{Events: 5, Pending: 2, Retrying: 10}, 15, "v2-3"},
		{queue.Stats{Events: 7, Pending: 3, Retrying: 11, Dead: 3}, 19, "v3-3"},
		{queue.Stats{Events: 5, Pending: 2, Retrying: 2, Dead: 1}, 6, "v4-3"},
	} {
		openOlder(t, version+1, want.stats, want.deliveries, want.event)
	}
}

func openOlder(t *testing.T, version int, want queue.Stats, deliveries int, event string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	unpack(t, filepath.Join("testdata", fmt.Sprintf("queue-v%d.db.gz", version)), path)
	for _, opened := range []string{"brought up to date", "opened again"} {
		opened = fmt.Sprintf("version %d, %s", version, opened)
		q, stop := start(t, Options{Path: path})
		if s := q.Stats(); s.Events != want.Events || s.Pending != want.Pending || s.Retrying != want.Retrying || s.Dead != want.Dead {
			t.Errorf("%s: %+v", opened, s)
		}
		list, err := q.Deliveries(t.Context(), queue.DeliveryFilter{Limit: 100})
		if err != nil || len(list) != deliveries {
			t.Errorf("%s: %d deliveries (%v)", opened, len(list), err)
		}
		for _, d := range list {
			// The first version did not count the attempt under way when a lane was dropped.
			if _, log, err := q.Delivery(t.Context(), "", d.ID); err != nil || len(log) != d.Attempts && d.State != queue.StateDiscarded {
				t.Errorf("%s: %+v has %d attempts in its log (%v)", opened, d, len(log), err)
			}
		}
		if _, err := q.Event(t.Context(), "default", event); err != nil {
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
