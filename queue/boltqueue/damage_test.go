package boltqueue

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store/boltkit"
)

// A file that was removed or replaced under the queue takes no more events: the next start would not find them.
func TestFileGoneFromItsPath(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"removed":  os.Remove,
		"renamed":  func(path string) error { return os.Rename(path, path+".old") },
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte("x"), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "queue.db")
				q, end := start(t, Options{Path: path})
				if _, err := q.Accept(t.Context(), []queue.Submission{event(1, queue.Lane{1})}); err != nil {
					t.Fatal(err)
				}
				if err := harm(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * probeEvery)
				if _, err := q.Accept(t.Context(), []queue.Submission{event(2, queue.Lane{1})}); !errors.Is(err, queue.ErrFull) {
					t.Errorf("accept: got %v, want ErrFull", err)
				}
				if err := q.Healthy(); !errors.Is(err, boltkit.ErrReplaced) || !strings.Contains(err.Error(), "put the file back") {
					t.Errorf("healthy: %v", err)
				}
				if claims := claimAll(t, q, 1); len(claims) != 1 {
					t.Errorf("%d claimed: what is there goes on being delivered", len(claims))
				}
				end()
			})
		})
	}
}

// Whatever page is damaged, opening the file works or says so; it never panics in the caller's goroutine.
func TestDamagedPagesAreNoPanic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "queue.db")
	q, err := Open(Options{Path: path, NoPace: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	<-q.Started()
	for i := range 40 {
		if _, err := q.Accept(t.Context(), []queue.Submission{event(i, queue.Lane{1}, queue.Lane{byte(i)})}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := errors.Join(<-ended, q.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	refused := 0
	for at := 2 * page; at < min(len(whole), 60*page); at += page {
		// The freelist was written by the clean stop, so that opening walks no pages in a goroutine of bbolt's.
		bad := append([]byte(nil), whole...)
		for _, off := range []int{24, 100, 2000} {
			bad[at+off] ^= 0xff
		}
		name := filepath.Join(dir, "bad.db")
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		q, err := Open(Options{Path: name})
		if err != nil {
			refused++
			continue
		}
		if err := q.Close(); err != nil {
			t.Errorf("page %d: close: %v", at/page, err)
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d damaged files refused", refused)
}
