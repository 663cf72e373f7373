package dispatch

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"herald/queue"
	"herald/store"
)

const (
	// replayAhead is how many pushes of a lane a replay may have made due that were not tried yet, at most, and replayRecords how
	// many deliveries when a push carries several. It is what a cancelled replay has to take back, and what waits before a
	// scheduled retry.
	replayAhead   = 64
	replayRecords = 1000
	// A replay is looked at again after as long as half of that takes at its rate, between replayAtLeast and replayAtMost, and
	// less and less often while nothing of it is taken.
	replayAtLeast = 10 * time.Millisecond
	replayAtMost  = time.Second
	// replayGrain is what is made due together, where the rate leaves time for it: half the processor time of each, and fewer
	// commits for live traffic to wait for.
	replayGrain = 25 * time.Millisecond
	// fastestReplay stands for no rate.
	fastestReplay = 1e6
	// replaysAtOnce is how many replays wait for the disk together, so that they share its commits.
	replaysAtOnce = 32
)

// replaying is the pace of the replay of one lane.
type replaying struct {
	id queue.ReplayID
	// due is when its next delivery becomes due, again when it is looked at again, and idle for how long it was left alone because
	// nothing could be made due.
	due, again time.Time
	idle       time.Duration
	running    bool
}

// Replayed tells the dispatcher that a replay was started. It does not block.
func (d *Dispatcher) Replayed() { rouse(d.replayable) }

// replay is the replayer: it makes the deliveries of replays due, a little ahead of when they go out, at their rate. It ends with
// ctx.
func (d *Dispatcher) replay(ctx context.Context) {
	known := make(map[queue.Lane]*replaying)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.replayable:
			for _, p := range known {
				p.again = time.Time{}
			}
		}
		now := time.Now()
		for _, p := range known {
			p.running = false
		}
		var wg sync.WaitGroup
		places := make(chan struct{}, replaysAtOnce)
		for _, id := range d.queue.Replaying() {
			p := known[id]
			if p == nil {
				p = &replaying{}
				known[id] = p
			}
			if p.running = true; p.again.After(now) {
				continue
			}
			places <- struct{}{}
			wg.Go(func() {
				wait := d.advance(ctx, id, p)
				p.again = time.Now().Add(wait)
				<-places
			})
		}
		wg.Wait()
		next := now.Add(time.Hour)
		for id, p := range known {
			if !p.running {
				delete(known, id)
			} else if p.again.Before(next) {
				next = p.again
			}
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// advance takes a replay as far as it may go now, and returns when to look at it again.
func (d *Dispatcher) advance(ctx context.Context, id queue.Lane, p *replaying) time.Duration {
	sub, err := d.store.Subscription(ctx, store.SubscriptionID(id))
	switch {
	case errors.Is(err, store.ErrNotFound):
		if err := d.queue.DropLane(ctx, id); err != nil && ctx.Err() == nil {
			d.laneDrop.failed(d.log, "drop deliveries", err)
		}
		return storeDelay
	case err != nil:
		if ctx.Err() == nil {
			d.storeRead.failed(d.log, "read subscription", err)
		}
		return storeDelay
	case sub.State != store.StateActive:
		return replayAtMost // Changed says when to look before that
	}
	replays := d.queue.Replays(id)
	i := slices.IndexFunc(replays, func(r queue.Replay) bool { return r.State == queue.ReplayRunning })
	if i < 0 {
		return 0
	}
	r := &replays[i]
	now := time.Now()
	rate := cmp.Or(r.Rate, fastestReplay)
	every := time.Duration(float64(time.Second) / rate)
	waiting := int(d.queue.LaneStats(id).Replayed)
	if p.id != r.ID {
		// What was made due before a restart, or by the one before, goes at its time.
		p.id, p.due = r.ID, now.Add(time.Duration(waiting)*every)
	}
	if p.due.Before(now) {
		p.due = now
	}
	pushes, records := d.shapeOf(id, sub)
	ahead := max(pushes, min(pushes*records, replayRecords))
	pause := min(max(time.Duration(float64(ahead)/2/rate*float64(time.Second)), replayAtLeast), replayAtMost)
	limit := ahead - waiting
	if soon := pause - p.due.Sub(now); soon >= 0 {
		limit = min(limit, 1+int(soon.Seconds()*rate))
	} else {
		return -soon
	}
	if limit <= 0 {
		return p.rest(pause)
	}
	grain := time.Duration(0)
	if every*time.Duration(ahead) > replayGrain {
		grain = replayGrain
	}
	selects := sub.Selects()
	after, n, err := d.queue.AdvanceReplay(ctx, id, queue.ReplayStep{
		Match: func(ev *queue.Event) bool { return selects(ev.Type, ev.Resource, ev.Data) },
		Limit: limit, Records: records, Bytes: maxBatchBytes, Due: p.due, Every: every, Grain: grain,
	})
	switch {
	case errors.Is(err, queue.ErrNotFound), ctx.Err() != nil:
		return 0
	case err != nil:
		d.replayWrite.failed(d.log, "replay events", err)
		return storeDelay
	}
	d.replayWrite.worked(d.log, "replay events")
	p.due = p.due.Add(time.Duration(n) * every)
	if after.State == queue.ReplayDone {
		d.log.Info("replay done", slog.String("subscription", sub.ID.String()), slog.String("replay", after.ID.String()),
			slog.Int64("deliveries", after.Deliveries))
		return 0
	}
	switch {
	case n > 0:
		p.idle = 0
		return max(time.Until(p.due)-pause/2, replayAtLeast)
	case after.Reached.After(r.Reached):
		p.idle = 0
		return 0 // there was nothing for it in what was looked at
	}
	return p.rest(pause) // all is due, and some of it was not tried yet
}

// rest is how long a replay is left alone of which nothing could be made due: longer each time.
func (p *replaying) rest(pause time.Duration) time.Duration {
	p.idle = min(max(2*p.idle, pause), replayAtMost)
	return p.idle
}

// shapeOf is how many pushes of a replay there may be ahead, and how many records each carries: no more than half of what the receiver
// may have at once, so that live traffic finds a place, and no more than the subscription's rate allows for a second.
func (d *Dispatcher) shapeOf(id queue.Lane, sub *store.Subscription) (pushes, records int) {
	p := d.policyOf(sub, d.defaults.Load())
	pushes, records = p.max, p.records
	if p.rate > 0 {
		records = min(records, p.burst)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lanes[id]; l != nil && l.policy != nil {
		pushes = l.limit()
		if l.most > 0 {
			records = min(records, l.most)
		}
	}
	return max(min(pushes/2, replayAhead), 1), records
}
