package boltqueue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"herald/queue"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	o := Options{Path: filepath.Join(t.TempDir(), FileName), Registerer: registry}
	q, end := start(t, o)
	if _, err := q.Accept(t.Context(), []queue.Submission{event(1, queue.Lane{1}, queue.Lane{2})}); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) != 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
		# HELP herald_queue_accepted_total Events made durable.
		# TYPE herald_queue_accepted_total counter
		herald_queue_accepted_total 1
		# HELP herald_queue_pending Deliveries that wait for their first attempt.
		# TYPE herald_queue_pending gauge
		herald_queue_pending 2
		# HELP herald_queue_full 1 while events are refused for want of room.
		# TYPE herald_queue_full gauge
		herald_queue_full 0
		# HELP herald_queue_commits_total Commits by result.
		# TYPE herald_queue_commits_total counter
		herald_queue_commits_total{result="done"} 1
		herald_queue_commits_total{result="full"} 0
		herald_queue_commits_total{result="failed"} 0
	`), "herald_queue_accepted_total", "herald_queue_pending", "herald_queue_full", "herald_queue_commits_total"); err != nil {
		t.Error(err)
	}
	// Every metric stands in the comment that documents them.
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.Contains(string(source), "//	"+f.GetName()) {
			t.Errorf("%s is not documented", f.GetName())
		}
	}
	if len(families) < 18 {
		t.Errorf("%d metrics", len(families))
	}
	if _, err := Open(Options{Path: filepath.Join(t.TempDir(), "other.db"), Registerer: registry}); err == nil {
		t.Error("two queues on one registry")
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) != 0 {
		t.Errorf("after Close %d metrics are left, %v", len(families), err)
	}
}
