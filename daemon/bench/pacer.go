package bench

import (
	"context"
	"time"
)

// pacer waits for points in time. The runtime's timers may be a millisecond late on an idle machine,
// which an open loop would count as the daemon's latency; where the system has a finer sleep, the end of a
// wait uses it. One goroutine uses a pacer from its first until to its stop.
type pacer struct {
	fine fineSleep
}

// until waits for a time and tells whether the context is still alive. A time that has passed is no wait.
func (p *pacer) until(ctx context.Context, at time.Time) bool {
	const rough = 2 * time.Millisecond
	if d := time.Until(at) - rough; d > 0 || !fineSleeps {
		if !fineSleeps {
			d = time.Until(at)
		}
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		}
	}
	if d := time.Until(at); d > 0 {
		p.fine.sleep(d)
	}
	return ctx.Err() == nil
}

// stop gives the pacer's thread back.
func (p *pacer) stop() { p.fine.stop() }
