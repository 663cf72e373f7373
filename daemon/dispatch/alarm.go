package dispatch

import (
	"container/heap"
	"context"
	"time"

	"herald/queue"
)

// alarms is a heap of the lanes that wait for a moment, the next first. One timer serves them all, so that a
// lane that waits costs its place in the heap and nothing else.
type alarms []*lane

func (h alarms) Len() int           { return len(h) }
func (h alarms) Less(i, j int) bool { return h[i].alarm < h[j].alarm }
func (h alarms) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].alarmAt, h[j].alarmAt = i+1, j+1
}

// Push implements heap.Interface.
func (h *alarms) Push(x any) {
	l := x.(*lane)
	*h = append(*h, l)
	l.alarmAt = len(*h)
}

// Pop implements heap.Interface.
func (h *alarms) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	l.alarmAt = 0
	return l
}

// never is a moment that does not come.
const never = int64(1<<63 - 1)

// clock is the time by which lanes wait, in nanoseconds: a clock that is set does not move it.
func (d *Dispatcher) clock() int64 { return int64(time.Since(d.epoch)) }

// at is the moment t on the clock; now has to be from time.Now.
func (d *Dispatcher) at(t, now time.Time) int64 { return int64(now.Sub(d.epoch)) + int64(t.Sub(now)) }

// setAlarm puts the lane where its moments belong. It is called whenever one of them changed, with mu held.
func (d *Dispatcher) setAlarm(l *lane) {
	next := never
	for _, t := range [...]int64{l.heldUntil, l.until, l.warnAt} {
		if t > 0 {
			next = min(next, t)
		}
	}
	if next == never {
		if l.alarmAt > 0 {
			heap.Remove(&d.alarms, l.alarmAt-1)
		}
		return
	}
	if l.alarmAt > 0 && l.alarm == next {
		return
	}
	l.alarm = next
	if l.alarmAt == 0 {
		heap.Push(&d.alarms, l)
	} else {
		heap.Fix(&d.alarms, l.alarmAt-1)
	}
	if l.alarmAt == 1 {
		rouse(d.alarmed)
	}
}

// rouse fills a channel of capacity 1 that somebody waits on.
func rouse(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// alarmBatch is how many lanes are seen to at once, with mu held.
const alarmBatch = 256

// ring wakes the lanes whose moment has come, until ctx ends.
func (d *Dispatcher) ring(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var wake []queue.Lane
	for {
		wake = wake[:0]
		d.mu.Lock()
		now := time.Now()
		clock := int64(now.Sub(d.epoch))
		for n := 0; n < alarmBatch && len(d.alarms) > 0 && d.alarms[0].alarm <= clock; n++ {
			if l := d.alarms[0]; d.fire(l, now, clock) {
				wake = append(wake, l.id)
			}
		}
		wait := time.Hour
		if len(d.alarms) > 0 {
			wait = max(time.Duration(d.alarms[0].alarm-clock), 0)
		}
		d.mu.Unlock()
		if len(wake) > 0 {
			d.queue.Wake(wake...)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-d.alarmed:
		case <-timer.C:
		}
	}
}

// fire does what was to be done with a lane by now, and says whether the queue has to consider it again. The
// caller holds mu.
func (d *Dispatcher) fire(l *lane, now time.Time, clock int64) (wake bool) {
	if l.heldUntil > 0 && l.heldUntil <= clock {
		d.setHeld(l, false)
		l.policy = nil
		d.toRead(l)
	}
	if l.until > 0 && l.until <= clock {
		l.until = 0
		if l.refused && !l.held && l.policy != nil {
			l.refused = false
			wake = true
		}
	}
	if l.warnAt > 0 && l.warnAt <= clock {
		l.warnAt = 0
		d.warnByTime(l, now)
	}
	d.setAlarm(l)
	return wake
}
