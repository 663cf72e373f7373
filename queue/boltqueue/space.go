package boltqueue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
	"herald/store/boltkit"
)

// probeEvery is how often a queue that found no room looks again, and how often the free room is read.
const probeEvery = time.Second

// probeBytes is what a probe writes: enough that only a disk with room takes it.
const probeBytes = 64 << 10

// space knows whether there is room for events.
type space struct {
	quota atomic.Bool // over Retention.MaxBytes with nothing to drop
	full  atomic.Bool // reason is not nil

	mu      sync.Mutex
	reason  error     // why a commit found no room
	low     error     // why no commit is tried
	damage  error     // why the queue cannot deliver what it holds
	checked time.Time // when low was found out
	probed  time.Time
	told    bool // the log says that events are refused
}

// report logs when events begin to be refused, with the reason, and when they are accepted again.
func (s *space) report(log *slog.Logger) {
	err := s.healthy()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.told:
		log.Error("events are refused", "reason", err)
	case err == nil && s.told:
		log.Info("events are accepted again")
	}
	s.told = err != nil
}

// admit says whether an event may be accepted.
func (s *space) admit(q *Queue) error {
	if s.quota.Load() {
		return fmt.Errorf("%w: the retention limit is reached and nothing can be dropped yet", queue.ErrFull)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.low
	s.look(q)
	if err := errors.Join(s.reason, s.low); err != nil {
		if before == nil && s.low != nil {
			q.tend.rouse() // looks again on its own from now on
		}
		return fmt.Errorf("%w: %w", queue.ErrFull, err)
	}
	return nil
}

// look reads how much room the disk has, at most once in probeEvery. s.mu is held.
func (s *space) look(q *Queue) {
	if time.Since(s.checked) < probeEvery {
		return
	}
	s.checked = time.Now()
	if err := q.db.Present(); err != nil {
		s.low = fmt.Errorf("%w: stop the daemon, and put the file back", err)
		return
	}
	if q.o.MinFree < 0 {
		s.low = nil
		return
	}
	free, err := boltkit.FreeSpace(filepath.Dir(q.o.Path))
	switch {
	case err != nil:
		s.low = nil // not knowing is no reason to refuse; a commit will tell
	case free < q.o.MinFree:
		s.low = fmt.Errorf("disk full: %d MiB are free and %d MiB are kept in reserve", free>>20, q.o.MinFree>>20)
	default:
		s.low = nil
	}
}

// filled notes that a commit found no room; first says that the one before had found some.
func (s *space) filled(err error) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = s.reason == nil
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err
	}
	s.reason = fmt.Errorf("disk full: %w", err)
	s.full.Store(true)
	return first
}

// broken notes that what is stored cannot be read.
func (s *space) broken(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage = err
}

// clear notes that a commit found room.
func (s *space) clear() {
	if !s.full.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = nil
	s.full.Store(false)
}

// tight says whether there is no room at the moment.
func (s *space) tight() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason != nil || s.low != nil
}

func (s *space) healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var quota error
	if s.quota.Load() {
		quota = errors.New("the retention limit is reached and nothing can be dropped yet")
	}
	return errors.Join(s.damage, s.reason, s.low, quota)
}

// recheck tries, where the last commit found no room, whether there is some now, by writing something.
func (s *space) recheck(ctx context.Context, q *Queue) {
	s.mu.Lock()
	s.look(q)
	try := s.reason != nil && s.low == nil && time.Since(s.probed) >= probeEvery
	if try {
		s.probed = time.Now()
	}
	s.mu.Unlock()
	if !try {
		return
	}
	err := q.do(ctx, &operation{write: func(tx *bolt.Tx, _ *stage) error {
		return tx.Bucket(bucketProbe).Put([]byte("p"), make([]byte, probeBytes))
	}})
	if err == nil {
		s.clear()
	}
}
