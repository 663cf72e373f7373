package dispatch

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// complainEvery is how often a lasting failure is logged.
const complainEvery = 30 * time.Second

// complaint logs one kind of failure: the first at once, then one line in complainEvery that counts
// the others, and one line when it is over. The zero value is ready.
type complaint struct {
	failing atomic.Bool // so that success costs one load

	mu      sync.Mutex
	last    time.Time
	skipped int
}

func (c *complaint) failed(log *slog.Logger, operation string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing.Store(true)
	now := time.Now()
	if !c.last.IsZero() && now.Sub(c.last) < complainEvery {
		c.skipped++
		return
	}
	log.Error("operation failed",
		slog.String("operation", operation), slog.String("error", err.Error()), slog.Int("not_logged", c.skipped))
	c.last, c.skipped = now, 0
}

func (c *complaint) worked(log *slog.Logger, operation string) {
	if !c.failing.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.failing.Swap(false) {
		return
	}
	log.Info("operation works again", slog.String("operation", operation), slog.Int("not_logged", c.skipped))
	c.last, c.skipped = time.Time{}, 0
}
