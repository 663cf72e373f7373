package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// stopLimit and restartLimit are how long the daemon may take to stop and to be ready before the run is given up.
	stopLimit       = 2 * time.Minute
	restartLimit    = 5 * time.Minute
	restartInterval = 2 * time.Millisecond
)

// Restart is one end and new start of the daemon.
type Restart struct {
	Stop        string   `json:"stop"`             // "clean" or "kill"
	Cache       string   `json:"cache"`            // "warm", or "cold": the data files are not in memory
	Cached      *float64 `json:"cached,omitempty"` // share of the data files that was in memory at the start
	StopSeconds float64  `json:"stopSeconds"`

	// From the start of the process:
	ReadySeconds    float64 `json:"readySeconds"`              // until /readyz answered 200
	DeliverySeconds float64 `json:"deliverySeconds,omitempty"` // until an event published then was delivered

	Held   int64   `json:"held,omitempty"`   // deliveries that wait, when it is up
	Memory *Memory `json:"memory,omitempty"` // then
}

// restart ends the daemon, by a kill or in good order, and starts it again. With cold set the kernel
// is made to forget the data files in between; errors.ErrUnsupported when it cannot be.
func (r *run) restart(ctx context.Context, kill, cold bool) (*Restart, error) {
	t := &Restart{Stop: "clean", Cache: "warm"}
	if kill {
		t.Stop = "kill"
	}
	took, err := r.server.child.end(ctx, kill, stopLimit)
	if err != nil {
		return nil, err
	}
	t.StopSeconds = took.Seconds()
	r.server.http.CloseIdleConnections()
	var forget error
	if cold {
		t.Cache = "cold"
		forget = dropCache(r.server.data)
	}
	share, err := cachedShare(r.server.data)
	if err != nil {
		return nil, fmt.Errorf("ask for the cached part of the data: %w", err)
	}
	if share >= 0 {
		t.Cached = &share
	}
	begin := time.Now()
	if err := r.server.launch(); err != nil {
		return nil, err
	}
	if err := r.server.ready(ctx, restartLimit, restartInterval); err != nil {
		return nil, fmt.Errorf("starting again after the end by %s: %w", t.Stop, err)
	}
	t.ReadySeconds = time.Since(begin).Seconds()
	if forget != nil {
		return nil, fmt.Errorf("drop the cached data: %w", forget)
	}
	return t, nil
}

// restarts ends and starts the daemon in every way, and each time publishes one event, counts what waits and
// looks at the memory.
func (r *run) restarts(ctx context.Context, expected int64) ([]*Restart, error) {
	var list []*Restart
	for _, cold := range []bool{false, true} {
		for _, kill := range []bool{false, true} {
			t, err := r.restartIdle(ctx, kill, cold, expected)
			if cold && errors.Is(err, errors.ErrUnsupported) {
				return list, nil // the daemon is up again
			}
			if err != nil {
				return nil, err
			}
			list = append(list, t)
		}
	}
	return list, nil
}

// restartIdle is restart without a load, with a look at the daemon afterwards.
func (r *run) restartIdle(ctx context.Context, kill, cold bool, expected int64) (*Restart, error) {
	how := "stopping"
	if kill {
		how = "killing"
	}
	if cold {
		how += ", cold cache"
	}
	r.progress.say(how + " and starting again")
	t, err := r.restart(ctx, kill, cold)
	if err != nil {
		return nil, err
	}
	book := newLedger(r.next, len(r.rs.healthy), time.Now())
	l := r.newLoad(book)
	l.rate, l.events, l.producers = 0, 1, 1
	r.rs.keep(book)
	if _, err = l.run(ctx); err == nil {
		err = r.arrivals(ctx, book, l)
	}
	if err != nil {
		return nil, fmt.Errorf("the first event after the start: %w", err)
	}
	r.next++
	r.found.addAudit(book.audit(r.next), book)
	r.delivered += book.delivered.Load()
	t.DeliverySeconds = t.ReadySeconds + time.Duration(book.last.Load()).Seconds()
	if t.Held, err = r.held(ctx, expected); err != nil {
		return nil, err
	}
	m, err := r.memory(ctx)
	t.Memory = &m
	return t, err
}

// held counts the deliveries that wait, or were given up. It waits up to the time of grace for the expected number, because
// the outcomes of the last pushes are still on their way.
func (r *run) held(ctx context.Context, expected int64) (int64, error) {
	for begin := time.Now(); ; {
		sums, err := r.server.metrics(ctx, "herald_queue_pending", "herald_queue_retrying", "herald_queue_delivering", "herald_queue_dead")
		if err != nil {
			return 0, err
		}
		var n int64
		for _, v := range sums {
			n += int64(v)
		}
		if n == expected || time.Since(begin) >= r.Grace {
			return n, nil
		}
		if err := pause(ctx, settleInterval); err != nil {
			return n, err
		}
	}
}

// missing is the error for deliveries that do not wait any more though they should, or that nobody asked for.
func missing(held, expected int64, when string) error {
	switch {
	case held < expected:
		return fmt.Errorf("%w: %s, %d of %d deliveries waited", ErrLost, when, held, expected)
	case held > expected:
		return fmt.Errorf("%w: %s, %d deliveries waited instead of %d", ErrWrong, when, held, expected)
	}
	return nil
}
