package boltkit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
)

// item is something to write.
type item struct {
	name   string
	weight int
	bytes  int64
	lazy   bool
	keep   bool
}

// rig drives a Committer and remembers its commits.
type rig struct {
	*Committer[item]
	d       *DB
	mu      sync.Mutex
	commits []commit
	done    chan error
	cancel  context.CancelFunc
	// fault, when set, makes writes fail.
	fault atomic.Pointer[error]
}

type commit struct {
	at    time.Duration
	names []string
	err   error
}

func newRig(t *testing.T, pace bool, adjust func(*CommitterOptions[item])) *rig {
	t.Helper()
	r := &rig{done: make(chan error, 1)}
	o := options(filepath.Join(t.TempDir(), "x.db"))
	o.WriteAt = func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if err := r.fault.Load(); err != nil {
			return 0, &fs.PathError{Op: "write", Path: o.Path, Err: *err}
		}
		return write(b, off)
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r.d = d
	start := time.Now()
	co := CommitterOptions[item]{
		DB: d, Pace: pace,
		Apply: func(tx *bolt.Tx, batch []item) error {
			for _, it := range batch {
				if it.name == "broken" {
					return errors.New("cannot be written")
				}
				if err := put(it.name, "x")(tx); err != nil {
					return err
				}
			}
			return nil
		},
		Settled: func(batch []item, err error) {
			c := commit{at: time.Since(start), err: err}
			for _, it := range batch {
				c.names = append(c.names, it.name)
			}
			r.mu.Lock()
			r.commits = append(r.commits, c)
			r.mu.Unlock()
		},
		Cost: func(it item) Cost { return Cost{Weight: max(it.weight, 1), Bytes: it.bytes, Lazy: it.lazy} },
		Keep: func(it item) bool { return it.keep },
	}
	if adjust != nil {
		adjust(&co)
	}
	r.Committer = NewCommitter(co)
	return r
}

func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx) }()
	synctest.Wait()
}

func (r *rig) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := errors.Join(<-r.done, r.d.Close()); err != nil {
		t.Error(err)
	}
}

func (r *rig) log() []commit {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.commits)
}

func (r *rig) want(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, c := range r.log() {
		text := fmt.Sprintf("%v%v", c.at, c.names)
		if c.err != nil {
			text += " failed"
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		t.Errorf("commits are\n%q, want\n%q", got, want)
	}
}

func TestPacing(t *testing.T) {
	t.Parallel()
	urgent := func(name string, weight int) item { return item{name: name, weight: weight} }
	lazy := func(name string, weight int) item { return item{name: name, weight: weight, lazy: true} }
	for _, c := range []struct {
		name string
		pace bool
		run  func(r *rig)
		want []string
	}{
		{"a lone item is committed at once", true, func(r *rig) { r.Submit(urgent("a", 1)) }, []string{"0s[a]"}},
		{"lazy items wait for company", true, func(r *rig) {
			r.Submit(lazy("a", 1))
			time.Sleep(3 * time.Millisecond)
			synctest.Wait()
			r.Submit(lazy("b", 1))
			time.Sleep(10 * time.Millisecond)
		}, []string{"5ms[a b]"}},
		{"company ends the wait", true, func(r *rig) {
			r.Submit(lazy("a", 1))
			time.Sleep(3 * time.Millisecond)
			r.Submit(urgent("b", 1))
			time.Sleep(10 * time.Millisecond)
		}, []string{"3ms[a b]"}},
		{"many lazy items do not wait", true, func(r *rig) {
			r.Submit(lazy("a", LazyLimit-1))
			time.Sleep(time.Millisecond)
			r.Submit(lazy("b", 1))
			time.Sleep(10 * time.Millisecond)
		}, []string{"1ms[a b]"}},
		{"without pacing lazy items go at once", false, func(r *rig) { r.Submit(lazy("a", 1)) }, []string{"0s[a]"}},
		{"under load commits start apart", true, func(r *rig) {
			r.Submit(urgent("a", PaceWeight))
			synctest.Wait()
			time.Sleep(PaceGap / 4)
			r.Submit(urgent("b", 1))
			time.Sleep(PaceGap / 4)
			r.Submit(urgent("c", 1))
			time.Sleep(10 * time.Millisecond)
			r.Submit(urgent("d", 1))
			synctest.Wait()
			r.Submit(urgent("e", 1))
		}, []string{"0s[a]", "2ms[b c]", "11ms[d]", "11ms[e]"}},
		{"below the load they do not", true, func(r *rig) {
			r.Submit(urgent("a", PaceWeight-1))
			synctest.Wait()
			r.Submit(urgent("b", 1))
		}, []string{"0s[a]", "0s[b]"}},
		{"without pacing they never do", false, func(r *rig) {
			r.Submit(urgent("a", PaceWeight))
			synctest.Wait()
			r.Submit(urgent("b", 1))
		}, []string{"0s[a]", "0s[b]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.pace, nil)
				r.start()
				c.run(r)
				r.want(t, c.want...)
				r.stop(t)
			})
		})
	}
}

func TestBatchLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, func(o *CommitterOptions[item]) { o.MaxBatch, o.MaxBytes = 10, 100 })
		r.Submit(item{name: "a", weight: 6}, item{name: "b", weight: 4}, item{name: "c", weight: 1},
			item{name: "d", bytes: 90}, item{name: "e", bytes: 20}, item{name: "f", weight: 50}, item{name: "g", bytes: 500}, item{name: "h"})
		if w, b := r.Waiting(); w != 6+4+1+1+1+50+1+1 || b != 610 {
			t.Errorf("waiting: %d, %d", w, b)
		}
		r.start()
		r.want(t, "0s[a b]", "0s[c d]", "0s[e]", "0s[f]", "0s[g]", "0s[h]")
		if w, b := r.Waiting(); w != 0 || b != 0 {
			t.Errorf("waiting: %d, %d", w, b)
		}
		r.stop(t)
	})
}

// TestStop: what was submitted before the end is committed, also what would have waited; later nothing is taken.
func TestStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, nil)
		r.start()
		r.Submit(item{name: "a", weight: PaceWeight})
		synctest.Wait()
		r.Submit(item{name: "b", lazy: true})
		r.stop(t)
		r.want(t, "0s[a]", "0s[b]")
		if r.Submit(item{name: "c"}) {
			t.Error("an ended Committer took an item")
		}
		d := open(t, options(r.d.path))
		if !d.Clean() || get(t, d, "b") != "x" {
			t.Error("the stop was not clean")
		}
	})
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, nil)
		r.start()
		full := error(syscall.ENOSPC)
		r.fault.Store(&full)
		r.Submit(item{name: "a"}, item{name: "k1", keep: true}, item{name: "b"})
		synctest.Wait()
		r.Submit(item{name: "c"}, item{name: "k2", keep: true})
		time.Sleep(FullWait + time.Millisecond)
		r.fault.Store(nil)
		time.Sleep(FullWait)
		r.want(t, "0s[a b] failed", "250ms[c] failed", "500ms[k1 k2]")
		for _, c := range r.log()[:2] {
			if !IsFull(c.err) {
				t.Errorf("%v is not full", c.err)
			}
		}
		// Items nobody needs to keep end at once, and others are taken again.
		r.fault.Store(&full)
		r.Submit(item{name: "d"})
		synctest.Wait()
		r.fault.Store(nil)
		r.Submit(item{name: "e"})
		r.want(t, "0s[a b] failed", "250ms[c] failed", "500ms[k1 k2]", "501ms[d] failed", "501ms[e]")
		if err := r.d.Check(t.Context()); err != nil {
			t.Error(err)
		}
		r.stop(t)
		d := open(t, options(r.d.path))
		if get(t, d, "a") != "" || get(t, d, "k1") != "x" || get(t, d, "e") != "x" {
			t.Error("the file does not hold what was said")
		}
	})
}

// TestFullDiskAtTheEnd: what had to be kept is settled with the error, and Run returns it.
func TestFullDiskAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, nil)
		r.start()
		full := error(syscall.EDQUOT)
		r.fault.Store(&full)
		r.Submit(item{name: "k", keep: true})
		synctest.Wait()
		r.cancel()
		if err := <-r.done; !IsFull(err) {
			t.Errorf("Run returned %v", err)
		}
		r.want(t, "0s[k] failed")
		if err := r.d.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestMaxSize(t *testing.T) {
	t.Parallel()
	o := options(filepath.Join(t.TempDir(), "x.db"))
	o.MaxSize = 20 << 20
	d := open(t, o)
	big := string(make([]byte, 6<<20))
	var err error
	for i := 0; err == nil && i < 10; i++ {
		err = d.Update(put(fmt.Sprint(i), big))
	}
	if !IsFull(err) {
		t.Fatalf("over MaxSize: %v", err)
	}
	if err := d.Update(func(tx *bolt.Tx) error { return tx.Bucket(things).Delete([]byte("0")) }); err != nil {
		t.Errorf("making room: %v", err)
	}
	if err := d.Update(put("small", "x")); err != nil {
		t.Errorf("after making room: %v", err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestFatal: any other failure ends the Committer, and nothing is written on that handle again.
func TestFatal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		breakIt func(t *testing.T, r *rig) item
	}{
		{"a write fails", func(_ *testing.T, r *rig) item {
			broken := error(syscall.EIO)
			r.fault.Store(&broken)
			return item{name: "a"}
		}},
		{"a sync fails", func(t *testing.T, r *rig) item {
			if err := r.d.BreakSync(); errors.Is(err, errors.ErrUnsupported) {
				t.Skip("breaking syncs is possible on Linux only")
			} else if err != nil {
				t.Fatal(err)
			}
			return item{name: "a"}
		}},
		{"an item cannot be written", func(*testing.T, *rig) item { return item{name: "broken", keep: true} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, true, func(o *CommitterOptions[item]) { o.MaxBatch = 1 })
				r.start()
				r.Submit(item{name: "before"})
				synctest.Wait()
				r.Submit(c.breakIt(t, r), item{name: "behind"})
				err := <-r.done
				var fatal *FatalError
				if !errors.As(err, &fatal) || fatal.Path != r.d.path || IsFull(err) {
					t.Fatalf("Run returned %v", err)
				}
				log := r.log()
				if len(log) != 2 || log[0].err != nil || len(log[1].names) != 2 || !errors.As(log[1].err, &fatal) {
					t.Errorf("commits: %+v", log)
				}
				if r.Submit(item{name: "later"}) {
					t.Error("a failed Committer took an item")
				}
				if err := r.d.Update(put("x", "y")); !errors.Is(err, ErrClosed) {
					t.Errorf("Update after the failure: %v", err)
				}
				r.fault.Store(nil)
				path := r.d.path
				if err := r.d.Close(); err != nil && c.name != "a sync fails" {
					t.Errorf("Close: %v", err)
				}
				d := open(t, options(path))
				if d.Clean() || get(t, d, "before") != "x" {
					t.Error("after a failure the file calls itself clean, or lost what was acknowledged")
				}
			})
		})
	}
}

func BenchmarkSubmit(b *testing.B) {
	d, err := Open(options(filepath.Join(b.TempDir(), "x.db")))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	c := NewCommitter(CommitterOptions[int]{DB: d, Apply: func(*bolt.Tx, []int) error { return nil }, Settled: func([]int, error) {}})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	for i := 0; b.Loop(); i++ {
		c.Submit(i)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
