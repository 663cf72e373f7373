package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/store"
	"herald/store/boltkit"
)

// change is what one caller wants written. Several share a commit, so each looks first and writes only
// when nothing is in its way: one that is refused leaves no trace and does not disturb the others.
type change struct {
	// apply looks, writes, and returns what to do in memory once the commit is durable. It runs in the
	// writer's goroutine, and again when a commit found no room. After an error nothing may have
	// been written.
	apply func(w *writeTx) (visible func(), err error)
	// weight and bytes say how much it is, for the size of a commit.
	weight int
	bytes  int64

	taken   atomic.Int32 // takenBy…
	visible func()
	err     error
	done    chan struct{} // closed when err is final
}

// Who decides about a change: the caller, whose context ended first, or the writer.
const (
	takenByNobody int32 = iota
	takenByWriter
	takenByCaller
)

// do hands a change to the writer and waits until it is durable and visible, or refused.
func (s *Store) do(ctx context.Context, c *change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.done = make(chan struct{})
	if !s.committer.Submit(c) {
		return store.ErrClosed
	}
	var givenUp error
	select {
	case <-c.done:
	case <-ctx.Done():
		givenUp = ctx.Err()
	case <-s.gone:
		givenUp = store.ErrClosed
	}
	if givenUp != nil {
		if c.taken.CompareAndSwap(takenByNobody, takenByCaller) {
			return givenUp
		}
		<-c.done // it is being committed: milliseconds
	}
	if p, ok := errors.AsType[*panicError](c.err); ok {
		panic(p) // of the caller's own function, so it goes to the caller
	}
	return c.err
}

// Commit returns nil when a commit has gone through the writer to the disk, as a change does, and also when it found no room:
// the writer works. It waits as long as the disk takes. store.ErrClosed says that nothing can be written any more.
func (s *Store) Commit(ctx context.Context) error {
	err := s.do(ctx, &change{apply: func(*writeTx) (func(), error) { return nil, nil }})
	if errors.Is(err, store.ErrFull) {
		return nil
	}
	return err
}

// apply writes a batch. An error of it is one of the file, and fatal.
func (s *Store) apply(tx *bolt.Tx, batch []*change) error {
	if !s.held {
		s.settling.Lock()
		s.held = true
	}
	s.begun = time.Now()
	for _, c := range batch {
		if !c.taken.CompareAndSwap(takenByNobody, takenByWriter) && c.taken.Load() == takenByCaller {
			continue
		}
		w := writeTx{Tx: tx}
		c.visible, c.err = c.apply(&w)
		if w.err != nil {
			return w.err
		}
		if c.err != nil && w.wrote {
			return fmt.Errorf("a change was refused after it had written: %w", c.err)
		}
	}
	return nil
}

// settled makes a committed batch visible in memory, in the order of the commits, and then answers.
func (s *Store) settled(batch []*change, err error) {
	s.judge(err)
	durable := 0
	for _, c := range batch {
		switch {
		case c.taken.Load() == takenByCaller:
		case err == nil:
			if c.err == nil {
				durable++
				if c.visible != nil {
					c.visible()
				}
			}
		case boltkit.IsFull(err):
			c.err = fmt.Errorf("%w: %w", store.ErrFull, err)
		default:
			c.err = fmt.Errorf("%w: %w", store.ErrClosed, err)
		}
	}
	if s.held {
		s.held = false
		s.settling.Unlock()
	}
	s.metrics.changes.Add(float64(durable))
	for _, c := range batch {
		close(c.done)
	}
}

// judge takes notice of how a commit ended.
func (s *Store) judge(err error) {
	s.mu.Lock()
	before := s.health
	switch {
	case err == nil:
		s.health = nil
	case boltkit.IsFull(err):
		s.health = fmt.Errorf("%w: %w", store.ErrFull, err)
	default:
		s.health = fmt.Errorf("%w: %w", store.ErrClosed, err)
		s.shut.Store(true)
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		s.metrics.commits.Inc()
		s.metrics.commitSeconds.Observe(time.Since(s.begun).Seconds())
		if before != nil {
			s.logger.Info("store accepts changes again", "path", s.db.Path())
		}
	case boltkit.IsFull(err):
		s.metrics.failures.WithLabelValues(reasonFull).Inc()
		if before == nil {
			s.logger.Error("disk full, the store refuses changes", "path", s.db.Path(), "error", err)
			select {
			case s.full <- struct{}{}:
			default: // the prober has not taken the last one yet
			}
		}
	default:
		s.metrics.failures.WithLabelValues(reasonFatal).Inc()
	}
}

// writeTx is a write transaction that remembers its first error. Such an error is one of the file: keys
// and values are checked before.
type writeTx struct {
	*bolt.Tx
	wrote bool
	err   error
}

func (w *writeTx) try(fn func() error) {
	w.wrote = true
	if w.err == nil {
		w.err = fn()
	}
}

func (w *writeTx) put(b *bolt.Bucket, key, value []byte) {
	w.try(func() error { return b.Put(key, value) })
}

func (w *writeTx) remove(b *bolt.Bucket, key []byte) {
	w.try(func() error { return b.Delete(key) })
}

// panicError carries a panic of a caller's function from the writer's goroutine to the caller's. Let
// loose in the writer it would end the process with every other caller's change.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("panic in a change: %v\n%s", p.value, p.stack)
}

// guard calls a caller's function.
func guard[T any](fn func(T) error, v T) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	return fn(v)
}
