package boltqueue

import (
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"herald/queue"
)

// BenchmarkOpen opens a queue with a backlog of pending deliveries after a clean stop, with the file in the page cache:
// what it measures is rebuilding memory from the headers of all blocks, and how much memory that is.
func BenchmarkOpen(b *testing.B) {
	const backlog, perCommit, lanes = 200_000, 1000, 1000
	path := filepath.Join(b.TempDir(), FileName)
	q, end := start(b, Options{Path: path, NoPace: true})
	n := 0
	for n < backlog {
		subs := make([]queue.Submission, perCommit)
		for i := range subs {
			n++
			subs[i] = event(n, queue.Lane{byte(n % lanes >> 8), byte(n % lanes)})
		}
		if _, err := q.Accept(b.Context(), subs); err != nil {
			b.Fatal(err)
		}
	}
	if err := end(); err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		began := time.Now()
		q, err := Open(Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Nanoseconds())/backlog, "ns/pending")
		runtime.GC()
		runtime.ReadMemStats(&after)
		if s := q.Stats(); s.Pending != backlog {
			b.Fatalf("%d pending", s.Pending)
		}
		b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/(1<<20), "heap-MiB")
		if err := q.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
