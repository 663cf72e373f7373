package dispatch

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"herald/queue"
	"herald/store"
)

// How a lane's trouble outlives the process: the opening of its breaker, each failed probe, each warning and
// the end of it are written to Subscription.Health by one goroutine, the keeper. A worker never waits for it,
// and a failing store delays what is written, not what is delivered.
//
// The memory is right and the store follows, with one exception: whoever changes the subscription may make
// its Health zero. The keeper therefore writes only over what it knows to be there, and the reader, which
// comes after each change, takes what is there when it is something else.

// keepers is how many updates are under way at once: they share the commits of the store.
const keepers = 32

// saveDelay is how long the keeper gathers updates: an outage of many receivers then costs the disk, which the events wait for, a
// few commits and not one for each. A crash loses no more than that of what is known of a failing receiver.
const saveDelay = 500 * time.Millisecond

// flushTime is how long the last updates and notices may take when the daemon stops.
const flushTime = 5 * time.Second

// health is a store.Health without its notice, in a fourth of the memory: times are in milliseconds, 0 for
// none.
type health struct {
	failingSince, openedAt, probeAt int64
	failures, probes, warned        int32
	suspended                       string
}

// moment is a time of health.
func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func healthOf(h *store.Health) health {
	ms := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixMilli()
	}
	return health{
		ms(h.FailingSince), ms(h.OpenedAt), ms(h.ProbeAt),
		int32(min(h.Failures, math.MaxInt32)), int32(min(h.Probes, math.MaxInt32)), int32(h.Warned), h.Suspended,
	}
}

func (h health) stored() store.Health {
	return store.Health{
		FailingSince: moment(h.failingSince), OpenedAt: moment(h.openedAt), ProbeAt: moment(h.probeAt),
		Failures: int(h.failures), Probes: int(h.probes), Warned: int(h.warned),
		Suspended: h.suspended,
	}
}

// unsaved has the keeper store the lane's health. The caller holds mu.
func (d *Dispatcher) unsaved(l *lane) {
	t := l.trouble
	t.dirty = true
	if !t.queued {
		t.queued = true
		d.unstored = append(d.unstored, l)
		rouse(d.keep)
	}
}

// adopt takes the health of a lane from the store, when there is none in memory or somebody else has set it.
// The caller holds mu; the lane has its policy.
func (d *Dispatcher) adopt(l *lane, sub *store.Subscription, moved bool, now time.Time) {
	found := healthOf(&sub.Health)
	t := l.trouble
	if t != nil && !moved && (found == t.stored || t.saving && found == t.saved) {
		d.setWarnAt(l, now) // the policy may have another duration
		if t.open() {
			d.probeAt(l, now.Add(time.Duration(t.probeAt-int64(now.Sub(d.epoch)))), now)
		}
		return
	}
	if t == nil && found == (health{}) {
		return
	}
	if t.open() {
		d.open--
	}
	if found.suspended == "" {
		d.unbar(l)
	} else if t != nil && t.health.suspended != "" {
		d.barred--
	}
	old := t
	l.rest, l.failed = 0, found.failingSince != 0
	t = d.newTrouble()
	t.health, t.stored = found, found
	if old != nil {
		t.queued, t.saving, t.saved = old.queued, old.saving, old.saved
		if old.open() && !t.open() {
			d.metrics.transitions[BreakerClosed].Inc()
			l.window = 1
		}
	}
	l.trouble = t
	if t.open() {
		d.open++
		if found.suspended != "" {
			d.barred++
		}
		l.window = 1
		d.probeAt(l, moment(found.probeAt), now)
	}
	if t.over() {
		l.trouble = nil
	}
	d.setWarnAt(l, now)
}

// saving is an update of one lane.
type saving struct {
	l              *lane
	gen, epoch     uint64
	expected, want health
	notice         string
	at             time.Time
	err            error
}

// keepHealth is the keeper. When stop ends it makes a last attempt at what is unsaved.
func (d *Dispatcher) keepHealth(stop context.Context) {
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	var failed []*lane
	for {
		ended := stop.Err() != nil
		more := true
		for more {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(stop), flushTime)
			if !ended {
				cancel()
				ctx, cancel = stop, func() {}
			}
			var bad []*lane
			more, bad = d.saveSome(ctx)
			cancel()
			if len(bad) > 0 {
				if len(failed) == 0 {
					again.Reset(storeDelay)
				}
				failed = append(failed, bad...)
			}
			if ended && len(bad) > 0 {
				return
			}
		}
		if ended {
			return
		}
		select {
		case <-stop.Done():
		case <-d.keep:
			d.gatherUpdates(stop)
			continue
		case <-again.C:
		}
		d.mu.Lock()
		for _, l := range failed {
			if l.trouble != nil && l.trouble.dirty {
				d.unsaved(l)
			}
		}
		d.mu.Unlock()
		failed = nil
	}
}

// gatherUpdates waits until more is to be stored, or something that must not wait.
func (d *Dispatcher) gatherUpdates(stop context.Context) {
	t := time.NewTimer(d.saveDelay)
	defer t.Stop()
	select {
	case <-stop.Done():
	case <-d.keepNow:
	case <-t.C:
	}
}

// saveSome stores the health of some lanes, and says whether there are more, and which failed.
func (d *Dispatcher) saveSome(ctx context.Context) (more bool, failed []*lane) {
	jobs := make([]saving, 0, keepers)
	d.mu.Lock()
	for len(d.unstored) > 0 && len(jobs) < keepers {
		l := d.unstored[0]
		d.unstored[0] = nil
		d.unstored = d.unstored[1:]
		t := l.trouble
		if t == nil {
			continue
		}
		t.queued = false
		if !t.dirty {
			continue
		}
		t.dirty, t.saving, t.saved = false, true, t.health
		jobs = append(jobs, saving{
			l: l, gen: l.gen, epoch: t.epoch, expected: t.stored, want: t.health, notice: t.notice, at: stamp(time.Now()),
		})
		t.notice = ""
	}
	if more = len(d.unstored) > 0; !more {
		select {
		case <-d.keepNow: // what did not want to wait is among them
		default:
		}
	}
	d.mu.Unlock()
	if len(jobs) == 0 {
		return more, nil
	}
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Go(func() { jobs[i].err = d.save(ctx, &jobs[i]) })
	}
	wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range jobs {
		if d.savedOne(&jobs[i]) {
			failed = append(failed, jobs[i].l)
		}
	}
	return more, failed
}

// save updates one subscription, unless it is not what the memory takes it for.
func (d *Dispatcher) save(ctx context.Context, j *saving) error {
	_, err := d.store.UpdateSubscription(ctx, store.SubscriptionID(j.l.id), func(s *store.Subscription) error {
		if s.State != store.StateActive || healthOf(&s.Health) != j.expected {
			return errMoved
		}
		notice, at := s.Health.Notice, s.Health.NoticeAt
		s.Health = j.want.stored()
		s.Health.Notice, s.Health.NoticeAt = notice, at
		if j.notice != "" {
			s.Health.Notice, s.Health.NoticeAt = j.notice, j.at
		}
		return nil
	})
	return err // savedOne tells what it was and logs it with its operation
}

// savedOne takes the result of an update; it says whether it has to be tried again. The caller holds mu.
func (d *Dispatcher) savedOne(j *saving) (again bool) {
	l, t := j.l, j.l.trouble
	if t == nil {
		return false
	}
	t.saving = false
	switch {
	case errors.Is(j.err, errMoved), errors.Is(j.err, store.ErrNotFound):
		d.toRead(l)
	case j.err != nil:
		if d.hard.Err() == nil {
			d.healthWrite.failed(d.log, "store health", j.err)
		}
		if t.epoch == j.epoch {
			t.dirty = true
			if t.notice == "" && t.health.warned == j.want.warned {
				t.notice = j.notice
			}
			again = true
		}
		return again
	default:
		d.healthWrite.worked(d.log, "store health")
		d.metrics.healthWrites.Inc()
		if t.epoch == j.epoch {
			t.stored = j.want
		}
		if j.notice != "" {
			d.notify(notice{sub: store.SubscriptionID(l.id), kind: j.notice, at: j.at, stored: true})
		}
		if l.gen != j.gen {
			d.toRead(l) // it may have read the health before this update, or what came after it
		}
	}
	if l.trouble.over() {
		l.trouble = nil
	}
	return false
}

// scan goes through all subscriptions once, after the start: it publishes what a crash left unpublished, and
// takes up those that were failing, so that their warnings come though nothing is due for them.
func (d *Dispatcher) scan(ctx context.Context) {
	const page = 500
	var after store.SubscriptionID
	for {
		subs, err := d.store.Subscriptions(ctx, "", after, page)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
				return
			}
			d.storeRead.failed(d.log, "list subscriptions", err)
			if !sleep(ctx, storeDelay) {
				return
			}
			continue
		}
		d.mu.Lock()
		for _, s := range subs {
			if h := &s.Health; h.Notice != "" {
				d.notify(notice{sub: s.ID, kind: h.Notice, at: h.NoticeAt, stored: true})
			}
			if s.State == store.StateActive && !s.Health.FailingSince.IsZero() {
				d.laneOf(queue.Lane(s.ID))
			}
		}
		d.mu.Unlock()
		if len(subs) < page {
			return
		}
		after = subs[len(subs)-1].ID
	}
}

// sleep waits, and says whether it did so to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
