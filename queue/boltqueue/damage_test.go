package boltqueue

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

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

// A file damaged all over is refused with an error, not with a panic of bbolt's.
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
	// One byte wrong in every page but the first ones.
	const page = 4096
	bad := append([]byte(nil), whole...)
	for at := 4 * page; at < len(bad); at += page {
		bad[at+100] ^= 0xff
	}
	name := filepath.Join(dir, "bad.db")
	if err := os.WriteFile(name, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Path: name}); err == nil || strings.Contains(err.Error(), "goroutine") {
		t.Errorf("got %v, want an error", err)
	} else {
		t.Log(err)
	}
}

// A bucket that is not there makes bbolt panic where it is used; Open says what is wrong instead.
func TestOpenWithoutBucket(t *testing.T) {
	t.Parallel()
	for _, name := range buckets() {
		path := filepath.Join(t.TempDir(), "queue.db")
		q, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(q.db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(name) }), q.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Path: path}); !errors.Is(err, boltkit.ErrDamaged) || !strings.Contains(err.Error(), "restore it") {
			t.Errorf("without %s: got %v, want ErrDamaged", name, err)
		}
	}
}

// What no publisher can have published is found in the file, where it would break lists and pushes.
func TestCheckFileLooksIntoEvents(t *testing.T) {
	t.Parallel()
	for what, harm := range map[string]func(*queue.Event){
		"a type":     func(ev *queue.Event) { ev.Type = "task.\xffreate" },
		"data":       func(ev *queue.Event) { ev.Data = []byte("\x00{}") },
		"attributes": func(ev *queue.Event) { ev.Attributes = []byte("[]") },
	} {
		path := filepath.Join(t.TempDir(), "queue.db")
		q, err := Open(Options{Path: path, NoPace: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		<-q.Started()
		bad := event(2, queue.Lane{1})
		harm(&bad.Event)
		_, err = q.Accept(t.Context(), []queue.Submission{event(1, queue.Lane{1}), bad})
		cancel()
		if err := errors.Join(err, <-ended, q.Close()); err != nil {
			t.Fatal(err)
		}
		if q, err = Open(Options{Path: path}); err != nil {
			t.Fatal(err)
		}
		if err := q.CheckFile(t.Context()); !errors.Is(err, boltkit.ErrDamaged) || !strings.Contains(err.Error(), "event 2: ") || strings.Contains(err.Error(), "event 1: ") {
			t.Errorf("%s: got %v", what, err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
