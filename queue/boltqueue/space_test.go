package boltqueue

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store/boltkit"
)

// disk makes the writes of a queue fail with an error.
type disk struct{ err atomic.Pointer[error] }

func (d *disk) fail(err error) { d.err.Store(&err) }

func (d *disk) mend() { d.err.Store(nil) }

func (d *disk) writeAt(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
	if err := d.err.Load(); err != nil {
		return 0, &fs.PathError{Op: "write", Path: "queue.db", Err: *err}
	}
	return write(b, off)
}

func TestFullDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d disk
		q, end := start(t, Options{WriteAt: d.writeAt})
		one, two := queue.Lane{1}, queue.Lane{2}
		if _, err := q.Accept(t.Context(), []queue.Submission{event(1, one, two)}); err != nil {
			t.Fatal(err)
		}
		claims := claimAll(t, q, 2)
		if len(claims) != 2 {
			t.Fatalf("%d claimed", len(claims))
		}
		d.fail(syscall.ENOSPC)
		q.Settle(done(claims[0]))
		_, err := q.Accept(t.Context(), []queue.Submission{event(2, one)})
		if !errors.Is(err, queue.ErrFull) {
			t.Fatalf("on a full disk: %v", err)
		}
		if err := q.Healthy(); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("healthy says %v", err)
		}
		if _, err := q.Accept(t.Context(), []queue.Submission{event(2, one)}); !errors.Is(err, queue.ErrFull) {
			t.Errorf("again: %v", err)
		}
		if err := q.Commit(t.Context()); err != nil {
			t.Errorf("the writer works, and still: %v", err)
		}
		// What was settled waits for room; reading goes on.
		time.Sleep(10 * time.Second)
		if dl, _, err := q.Delivery(t.Context(), "a", claims[0].Delivery(0)); err != nil || dl.State != queue.StateDelivering {
			t.Errorf("meanwhile %+v, %v", dl, err)
		}
		if q.Healthy() == nil {
			t.Error("the disk is full and the queue calls itself healthy")
		}
		d.mend()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := q.Healthy(); err != nil {
			t.Errorf("with room again: %v", err)
		}
		if dl, log, err := q.Delivery(t.Context(), "a", claims[0].Delivery(0)); err != nil || dl.State != queue.StateDelivered || len(log) != 1 {
			t.Errorf("settled on the full disk: %+v, %v, %v", dl, log, err)
		}
		if _, err := q.Accept(t.Context(), []queue.Submission{event(3, one)}); err != nil {
			t.Error(err)
		}
		if s := q.Stats(); s.Events != 2 || s.Pending != 1 {
			t.Errorf("what was refused is there: %+v", s)
		}
		if err := errors.Join(q.Check(t.Context()), end()); err != nil {
			t.Error(err)
		}
	})
}

// TestFullDiskWithCompany: events that share a commit with outcomes fail without them.
func TestFullDiskWithCompany(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), FileName)
		// Room for outcomes, not for events: writes past the end of the file fail.
		limit, reached := int64(math.MaxInt64), int64(0)
		full := func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
			if off+int64(len(b)) > atomic.LoadInt64(&limit) {
				return 0, &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
			}
			reached = max(reached, off+int64(len(b)))
			return write(b, off)
		}
		q, end := start(t, Options{Path: path, WriteAt: full})
		lane := queue.Lane{1}
		for range 20 {
			if _, err := q.Accept(t.Context(), []queue.Submission{event(1, lane)}); err != nil {
				t.Fatal(err)
			}
		}
		claims := claimAll(t, q, 20)
		synctest.Wait()
		atomic.StoreInt64(&limit, reached+64<<10)
		large := event(2, lane)
		large.Data = make([]byte, 1<<20)
		for _, c := range claims {
			q.Settle(done(c))
		}
		if _, err := q.Accept(t.Context(), []queue.Submission{large}); !errors.Is(err, queue.ErrFull) {
			t.Fatalf("a large event: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := q.Stats(); s.Delivering != 0 || s.Pending != 0 || s.Events != 20 {
			t.Errorf("stats: %+v", s)
		}
		if err := errors.Join(q.Check(t.Context()), end()); err != nil {
			t.Error(err)
		}
	})
}

// TestBrokenDisk: after any other failure nothing is acknowledged, and everything acknowledged is found again.
func TestBrokenDisk(t *testing.T) {
	for name, breakIt := range map[string]func(*testing.T, *Queue, *disk){
		"write": func(_ *testing.T, _ *Queue, d *disk) { d.fail(syscall.EIO) },
		"sync": func(t *testing.T, q *Queue, _ *disk) {
			if err := q.db.BreakSync(); errors.Is(err, errors.ErrUnsupported) {
				t.Skip("breaking syncs is possible on Linux only")
			} else if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var d disk
				path := filepath.Join(t.TempDir(), FileName)
				q, err := Open(Options{Path: path, WriteAt: d.writeAt})
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- q.Run(context.Background()) }()
				<-q.Started()
				r, err := q.Accept(t.Context(), []queue.Submission{event(1, queue.Lane{1})})
				if err != nil {
					t.Fatal(err)
				}
				breakIt(t, q, &d)
				_, err = q.Accept(t.Context(), []queue.Submission{event(2, queue.Lane{1})})
				var fatal *boltkit.FatalError
				if !errors.Is(err, queue.ErrClosed) || !errors.As(err, &fatal) {
					t.Errorf("Accept: %v", err)
				}
				if err := <-ended; !errors.As(err, &fatal) {
					t.Errorf("Run: %v", err)
				}
				if _, err := q.Accept(t.Context(), []queue.Submission{event(3)}); !errors.Is(err, queue.ErrClosed) {
					t.Errorf("Accept after the end: %v", err)
				}
				if err := q.Commit(t.Context()); !errors.Is(err, queue.ErrClosed) {
					t.Errorf("Commit after the end: %v", err)
				}
				if err := q.Healthy(); !errors.Is(err, queue.ErrClosed) {
					t.Errorf("Healthy after the end: %v", err)
				}
				d.mend()
				_ = q.Close() // a broken descriptor may not even unlock; its end frees the file
				again, end := start(t, Options{Path: path})
				if again.Clean() {
					t.Error("the stop counts as clean")
				}
				if _, err := again.Event(t.Context(), "a", r[0].ID); err != nil {
					t.Errorf("what was acknowledged: %v", err)
				}
				if err := errors.Join(again.Check(t.Context()), end()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestLowWater(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		q, end := start(t, Options{MinFree: math.MaxInt64})
		_, err := q.Accept(t.Context(), []queue.Submission{event(1)})
		if !errors.Is(err, queue.ErrFull) || q.Healthy() == nil {
			t.Errorf("with less room than is kept in reserve: %v, healthy: %v", err, q.Healthy())
		}
		q.space.mu.Lock()
		q.o.MinFree = 1 // as if the disk had been cleaned up
		q.space.mu.Unlock()
		time.Sleep(2 * probeEvery)
		synctest.Wait()
		if err := q.Healthy(); err != nil {
			t.Errorf("with room again: %v", err)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

func TestMaxSize(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		q, end := start(t, Options{MaxSize: 24 << 20, Retention: queue.Retention{Events: time.Hour}})
		large := event(1, queue.Lane{1})
		large.Data = make([]byte, 1<<20)
		var err error
		n := 0
		for ; err == nil && n < 50; n++ {
			_, err = q.Accept(t.Context(), []queue.Submission{large})
		}
		if !errors.Is(err, queue.ErrFull) || n < 4 {
			t.Fatalf("after %d MiB: %v", n, err)
		}
		for _, c := range claimAll(t, q, 50) {
			q.Settle(done(c))
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if _, err := q.Accept(t.Context(), []queue.Submission{large}); err != nil {
			t.Errorf("after retention: %v", err)
		}
		if err := errors.Join(q.Check(t.Context()), end()); err != nil {
			t.Error(err)
		}
	})
}

// TestBusy: what waits for the disk is bounded, for Accept by refusal and for Settle by waiting.
func TestBusy(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	var held atomic.Bool
	o := Options{MaxWaiting: 10, MaxWaitingBytes: 1 << 20, MaxUnsettled: 5, Path: filepath.Join(t.TempDir(), FileName)}
	o.WriteAt = func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if held.Load() {
			<-hold
		}
		return write(b, off)
	}
	q := running(t, o)
	subs := make([]queue.Submission, 20)
	for i := range subs {
		subs[i] = event(i, queue.Lane{1})
	}
	if _, err := q.Accept(t.Context(), subs); err != nil {
		t.Fatalf("one call over the bound, with nothing before it: %v", err)
	}
	claims, err := q.Claim(t.Context(), 20, anyRoom, nil)
	if err != nil || len(claims) != 20 {
		t.Fatal(len(claims), err)
	}
	held.Store(true)
	answers := make(chan error, 2)
	accept := func(s ...queue.Submission) { _, err := q.Accept(t.Context(), s); answers <- err }
	go accept(subs[:9]...)
	for q.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := q.Accept(t.Context(), subs[:2]); !errors.Is(err, queue.ErrBusy) {
		t.Errorf("over the bound of events: %v", err)
	}
	large := event(1)
	large.Data = make([]byte, 2<<20)
	if _, err := q.Accept(t.Context(), []queue.Submission{large}); !errors.Is(err, queue.ErrBusy) {
		t.Errorf("over the bound of bytes: %v", err)
	}
	go accept(subs[0])
	settled := make(chan int, 20)
	go func() {
		for i, c := range claims {
			q.Settle(done(c))
			settled <- i
		}
		close(settled)
	}()
	for i := range 5 {
		if <-settled != i {
			t.Error("out of order")
		}
	}
	select {
	case <-settled:
		t.Error("Settle did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	held.Store(false)
	close(hold)
	for range settled {
	}
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if w, b := q.waiting.Load(), q.waitingBytes.Load(); w != 0 || b != 0 {
		t.Errorf("%d events and %d bytes count as waiting", w, b)
	}
}

// TestRestartSpreadsRetries: after a crash overdue retries come within a second, not in one moment; after a clean stop at
// once.
func TestRestartSpreadsRetries(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := t.TempDir()
		path, crashed := filepath.Join(dir, FileName), filepath.Join(dir, "crashed.db")
		q, end := start(t, Options{Path: path})
		const lanes = 200
		for i := range lanes {
			if _, err := q.Accept(t.Context(), []queue.Submission{event(i, queue.Lane{byte(i), 1})}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range claimAll(t, q, lanes) {
			q.Settle(queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StateRetrying, Due: time.Now().Add(time.Second)})
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(crashed, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for path, least := range map[string]int{path: lanes, crashed: 0} {
			q, end := start(t, Options{Path: path})
			if got := len(claimAll(t, q, lanes)); got < least || least == 0 && got > lanes/2 {
				t.Errorf("%s: %d of %d at once", filepath.Base(path), got, lanes)
			}
			time.Sleep(afterCrash)
			claimAll(t, q, lanes)
			if s := q.Stats(); s.Delivering != lanes {
				t.Errorf("%s: %d of %d after a second", filepath.Base(path), s.Delivering, lanes)
			}
			if err := errors.Join(q.Check(t.Context()), end()); err != nil {
				t.Error(err)
			}
		}
	})
}

// An empty commit comes back when the disk has taken it, and not before.
func TestCommitWaitsForTheDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		close(hang)
		gate := &hang
		var mu sync.Mutex
		q, end := start(t, Options{WriteAt: func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
			mu.Lock()
			g := *gate
			mu.Unlock()
			<-g
			return write(b, off)
		}})
		if err := q.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		hang = make(chan struct{})
		mu.Unlock()
		patient := make(chan error, 1)
		go func() { patient <- q.Commit(context.Background()) }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := q.Commit(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the disk hangs: %v", err)
		}
		close(hang)
		if err := <-patient; err != nil {
			t.Errorf("when it goes on: %v", err)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// A commit that does not come back is told of, and so is that no more may wait, without waiting for either.
func TestHangingDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var hangs atomic.Pointer[chan struct{}]
		q, end := start(t, Options{MaxWaiting: 2, WriteAt: func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
			if c := hangs.Load(); c != nil {
				<-*c
			}
			return write(b, off)
		}})
		if err := q.Healthy(); err != nil {
			t.Error(err)
		}
		back := make(chan struct{})
		hangs.Store(&back)
		accepted := make(chan error, 2)
		for i := range 2 {
			go func() {
				_, err := q.Accept(t.Context(), []queue.Submission{event(i)})
				accepted <- err
			}()
		}
		synctest.Wait()
		if err := q.Healthy(); err == nil || !strings.Contains(err.Error(), "may wait") {
			t.Errorf("with all that may wait: %v", err)
		}
		time.Sleep(boltkit.HangingAfter)
		if err := q.Healthy(); err == nil || !strings.Contains(err.Error(), "the disk hangs: a commit has been under way for 5 s") {
			t.Errorf("while it hangs: %v", err)
		}
		close(back)
		if err := errors.Join(<-accepted, <-accepted); err != nil {
			t.Error(err)
		}
		if err := q.Healthy(); err != nil {
			t.Errorf("after it came back: %v", err)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}
