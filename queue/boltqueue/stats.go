package boltqueue

import (
	"time"

	"herald/queue"
)

// oldestDue caches Stats.OldestDue where finding it is work.
type oldestDue struct {
	at    time.Time
	value time.Time
}

// Stats implements queue.Queue.
func (q *Queue) Stats() queue.Stats {
	file := q.db.Stats()
	q.mu.Lock()
	defer q.mu.Unlock()
	return queue.Stats{
		Events: q.events, Pending: q.pending, Retrying: q.retrying - q.leasedRetries, Dead: q.dead, Delivering: int64(len(q.leases)),
		OldestDue: q.findOldest(), FileBytes: file.FileBytes, FreeBytes: file.FreeBytes,
	}
}

// findOldest returns the acceptance time of the oldest event that waits for a first attempt. With very
// many lanes the answer may be a second old. The lock is held.
func (q *Queue) findOldest() time.Time {
	if q.pending == 0 {
		return time.Time{}
	}
	if len(q.lanes) > 10_000 && time.Since(q.oldest.at) < time.Second && !q.oldest.value.IsZero() {
		return q.oldest.value
	}
	oldest := int64(0)
	for _, l := range q.numbers {
		if l.pending == 0 || l.dropped {
			continue
		}
		if ms := q.firstPending(l); ms != 0 && (oldest == 0 || ms < oldest) {
			oldest = ms
		}
	}
	q.oldest = oldestDue{at: time.Now()}
	if oldest != 0 {
		q.oldest.value = timeOf(oldest)
	}
	return q.oldest.value
}

func (q *Queue) firstPending(l *lane) int64 {
	for _, r := range l.window[l.head:] {
		if s := q.segmentOf(r.seq); s != nil {
			return s.acceptedAt(r.seq)
		}
	}
	for _, sh := range l.shares {
		if sh.count > 0 && q.segmentOf(sh.segment.first) == sh.segment {
			return sh.segment.acceptedAt(max(l.cursor, sh.segment.first))
		}
	}
	return 0
}

// LaneStats implements queue.Queue.
func (q *Queue) LaneStats(id queue.Lane) queue.LaneStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[id]
	if l == nil || l.dropped {
		return queue.LaneStats{}
	}
	s := queue.LaneStats{Pending: l.pending, Retrying: l.retrying - l.leasedRetries, Dead: l.dead, Delivering: l.leased, Replayed: l.replayed - l.replayedNow}
	if ms := q.firstPending(l); l.pending > 0 && ms != 0 {
		s.OldestPending = timeOf(ms)
	}
	if due, ok := l.dueAt(); ok {
		s.NextRetry = timeOf(due)
	}
	return s
}
