package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Memory is what the daemon holds, in bytes; what the system or the daemon does not tell is absent.
type Memory struct {
	RSS     *int64 `json:"rss,omitempty"`
	RSSAnon *int64 `json:"rssAnon,omitempty"` // its own: heap and stacks
	RSSFile *int64 `json:"rssFile,omitempty"` // pages of mapped files, the queue's among them
	PeakRSS *int64 `json:"peakRSS,omitempty"` // since the start of the process
	Heap    *int64 `json:"heap,omitempty"`    // in use (go_memstats_heap_inuse_bytes)
	Files   int64  `json:"files"`             // on disk, in the data directory
}

// memory reads what the daemon holds now.
func (r *run) memory(ctx context.Context) (m Memory, err error) {
	u, err := usageOf("/proc", r.server.child.cmd.Process.Pid)
	if err != nil {
		return m, err
	}
	heap, err := r.server.metrics(ctx, "go_memstats_heap_inuse_bytes")
	if err != nil {
		return m, err
	}
	m = Memory{RSS: known(u.RSS), RSSAnon: known(u.RSSAnon), RSSFile: known(u.RSSFile), PeakRSS: known(u.PeakRSS), Heap: known(int64(heap[0]))}
	return m, eachFile(r.server.data, func(f *os.File) error {
		st, err := f.Stat()
		if err == nil {
			m.Files += st.Size()
		}
		return err
	})
}

// eachFile opens each regular file below a directory in turn.
func eachFile(dir string, do func(*os.File) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := do(f); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, path), err)
		}
		return nil
	})
}
