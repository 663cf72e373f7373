package boltqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// tendEvery is how often the queue looks for what is over. Configure and a full disk make it look
// at once.
const tendEvery = 5 * time.Second

// mappedLimit is how much of files may be resident in memory, in bytes, before the queue's is given back to the system.
const mappedLimit = 64 << 20

// pageExpired is how many deliveries of a segment that is over age become dead in one commit.
const pageExpired = 4000

// pinnedAgain is when a lane's records that are over, but whose event is still there, are looked at again.
const pinnedAgain = time.Minute

// retain drops what is over, in small steps within ordinary commits, until the context ends.
func (q *Queue) retain(ctx context.Context) {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		var probe <-chan time.Time
		if q.space.tight() {
			probe = time.After(probeEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-q.tend:
		case <-probe:
		}
		q.space.recheck(ctx, q)
		for ctx.Err() == nil {
			more, err := q.tendOnce(ctx)
			if errors.Is(err, queue.ErrFull) || errors.Is(err, queue.ErrClosed) || ctx.Err() != nil {
				break
			}
			if err != nil {
				q.log.Error("queue retention", "error", err)
				break
			}
			if !more {
				break
			}
		}
		q.checkQuota()
		q.space.report(q.log)
		q.db.Unmap(mappedLimit)
	}
}

// tendOnce does one step; more says that there may be another.
func (q *Queue) tendOnce(ctx context.Context) (more bool, err error) {
	q.mu.Lock()
	if n := len(q.converting); n > 0 {
		// It is taken out first: whoever asks for it meanwhile asks for another time.
		l := q.converting[0]
		q.converting = slices.Delete(q.converting, 0, 1)
		q.mu.Unlock()
		left, err := q.convertPage(ctx, l)
		if err != nil || left {
			q.mu.Lock()
			if !slices.Contains(q.converting, l) {
				q.converting = append(q.converting, l)
			}
			q.mu.Unlock()
		}
		return err == nil, err
	}
	nowMs := time.Now().UnixMilli()
	r := q.retention
	var tail *segment
	if n := len(q.segments); n > 0 && !q.segments[n-1].sealed {
		tail = q.segments[n-1]
	}
	sealNow := tail != nil && (nowMs-tail.minMs >= segmentAge.Milliseconds() || nowMs-tail.maxMs >= r.Events.Milliseconds() ||
		tail.unfinished == 0 && q.overQuota())
	victim := q.victim(nowMs, r)
	q.mu.Unlock()
	switch {
	case sealNow:
		return true, q.sealTail(ctx, tail.first)
	case victim != nil:
		return q.retire(ctx, victim, nowMs)
	}
	for _, step := range []func(context.Context, int64, queue.Retention) (bool, error){q.dropAttempts, q.dropIDs, q.expireDead, q.forgetLanes} {
		if more, err := step(ctx, nowMs, r); more || err != nil {
			return more, err
		}
	}
	return false, nil
}

// victim returns the segment to be dropped next, or nil: the oldest whose newest event is over age, or, over
// the byte limit, the oldest whose deliveries are all finished. The lock is held.
func (q *Queue) victim(nowMs int64, r queue.Retention) *segment {
	if len(q.segments) == 0 {
		return nil
	}
	if s := q.segments[0]; s.sealed && nowMs-s.maxMs >= r.Events.Milliseconds() && (!s.retiring || s.leased == 0) {
		return s
	}
	if !q.overQuota() {
		return nil
	}
	for _, s := range q.segments {
		if s.sealed && s.unfinished == 0 && s.leased == 0 {
			return s
		}
	}
	return nil
}

// overQuota says whether the live data exceeds Retention.MaxBytes.
func (q *Queue) overQuota() bool {
	return q.retention.MaxBytes > 0 && q.db.Stats().LiveBytes > q.retention.MaxBytes
}

func (q *Queue) retentionNow() queue.Retention {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.retention
}

// checkQuota notes whether events have to be refused, and asks for a drop where there is something to drop.
func (q *Queue) checkQuota() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.retention.MaxBytes <= 0 {
		q.space.quota.Store(false)
		return
	}
	over := q.overQuota()
	droppable := false
	if over {
		for _, s := range q.segments {
			if s.unfinished == 0 && s.leased == 0 {
				droppable = true
				break
			}
		}
	}
	if droppable {
		q.tend.rouse()
	}
	q.space.quota.Store(over && !droppable)
}

// sealTail seals the open segment, if it still is the one meant.
func (q *Queue) sealTail(ctx context.Context, first uint64) error {
	return q.do(ctx, &operation{keep: true, write: func(tx *bolt.Tx, st *stage) error {
		if st.tail == nil || st.tail.first != first {
			return nil
		}
		return st.seal(tx)
	}})
}

// retire takes a segment a step further towards its end: nothing of it is claimed any more; what is not
// finished becomes dead, page by page; then it is dropped.
func (q *Queue) retire(ctx context.Context, s *segment, nowMs int64) (more bool, err error) {
	q.mu.Lock()
	s.retiring = true
	leased := s.leased
	q.forget(s)
	q.mu.Unlock()
	if leased > 0 {
		return false, nil // the end of the last lease asks again
	}
	r := retirement{q: q, s: s, aged: nowMs-s.maxMs >= q.retentionNow().Events.Milliseconds()}
	err = q.do(ctx, &operation{keep: true, write: r.write, after: r.after})
	return err == nil, err
}

// retirement is one step of dropping a segment.
type retirement struct {
	q *Queue
	s *segment
	// aged: it is over age; else it goes to make room, and only when nothing of it is unfinished.
	aged    bool
	gone    bool
	spared  bool
	expired []expiry
	// dissolved are the batches something of which expired.
	dissolved []*dissolved
}

type expiry struct {
	changed
	kind  string // type of the event, when somebody is told
	fresh bool
}

type fateChange struct {
	key leaseKey
	f   fate
}

func (r *retirement) write(tx *bolt.Tx, st *stage) error {
	r.expired, r.dissolved, r.gone = nil, nil, false
	if st.tail != nil && st.tail.first == r.s.first {
		return nil
	}
	r.q.mu.Lock()
	busy, unfinished := r.s.leased > 0, r.s.unfinished > 0
	r.q.mu.Unlock()
	if busy {
		return nil
	}
	if unfinished && !r.aged {
		r.spared = true // a delivery of it was made due again
		return nil
	}
	if unfinished {
		full, err := r.expire(tx, st)
		if err != nil || full {
			return err
		}
	}
	full, err := r.clean(tx, st)
	if err != nil || full {
		return err
	}
	return r.drop(tx)
}

// expire makes unfinished deliveries dead; full says that the step is as large as a step may be.
func (r *retirement) expire(tx *bolt.Tx, st *stage) (full bool, err error) {
	bucket := tx.Bucket(bucketEvent).Bucket(key64(r.s.first))
	bits := newBitReader(tx)
	var b block
	var marks []mark
	c := bucket.Cursor()
	// First attempts that were never made.
	for k, v := c.First(); k != nil && !full; k, v = c.Next() {
		if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
			return false, err
		}
		for i := range b.events {
			targets, err := b.targets(i)
			if err != nil {
				return false, err
			}
			for j, n := range targets {
				ordinal := b.events[i].ordinal + uint32(j)
				set, err := bits.get(r.s.first, ordinal)
				if err != nil {
					return false, err
				}
				if set || r.q.gaveUp(n, b.first+uint64(i)) {
					continue
				}
				if len(r.expired) >= pageExpired {
					full = true
					break
				}
				now := fate{state: fateDead, at: st.nowMs, reason: queue.ReasonExpired}
				kind := ""
				if r.q.o.Expired != nil {
					ev, err := b.event(i)
					if err != nil {
						return false, err
					}
					kind = ev.Type
				}
				r.expired = append(r.expired, expiry{changed: changed{key: leaseKey{b.first + uint64(i), n}, now: now}, kind: kind, fresh: true})
				marks = append(marks, mark{r.s.first, ordinal})
			}
		}
	}
	st.marks = append(st.marks, marks...)
	// Retries that will not be made.
	reader := eventReader{tx: tx}
	fates := tx.Bucket(bucketFate).Cursor()
	for k, v := fates.Seek(key64(r.s.first)); k != nil && !full; k, v = fates.Next() {
		seq, number, ok := parseSeqLane(k)
		if !ok || seq >= r.s.next {
			break
		}
		f, err := decodeFate(v)
		if err != nil {
			return false, fmt.Errorf("delivery %d/%d: %w", seq, number, err)
		}
		if f.state != fateRetrying {
			continue
		}
		if len(r.expired) >= pageExpired {
			full = true
			break
		}
		now, undone := f.undone(st.nowMs)
		switch {
		case undone:
		case r.q.isDropped(number):
			now = fate{state: fateDiscarded, attempts: f.attempts, at: st.nowMs, reason: queue.ReasonUnsubscribed, extra: f.extra}
		default:
			now = fate{state: fateDead, attempts: f.attempts, at: st.nowMs, reason: queue.ReasonExpired, extra: f.extra}
		}
		kind := ""
		if r.q.o.Expired != nil && now.state == fateDead && !undone {
			ev, err := reader.event(r.s.first, seq)
			if err != nil || ev == nil {
				return false, fmt.Errorf("event %d: %w", seq, orDamaged(err))
			}
			kind = ev.Type
		}
		r.expired = append(r.expired, expiry{changed: changed{leaseKey{seq, number}, f, now}, kind: kind})
	}
	for i := range r.expired {
		e := &r.expired[i]
		if e.old.batch != 0 {
			// Another delivery of the same batch may have dissolved it a moment ago.
			f, _, err := readFate(tx, e.key)
			if err != nil {
				return false, err
			}
			if f.batch != 0 {
				d, err := dissolve(tx, leaseKey{f.batch, e.key.lane})
				if err != nil {
					return false, err
				}
				r.dissolved = append(r.dissolved, d)
			}
			e.old.batch = 0
		}
		if err := replaceFate(tx, e.key, e.old, e.now, false); err != nil {
			return false, err
		}
	}
	// A step that changed something ends here: the bits are written at the end of the commit.
	return full || len(r.expired) > 0, nil
}

// gaveUp says whether a first attempt is not to be made.
func (q *Queue) gaveUp(number uint32, seq uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.numbers[number]
	if l == nil {
		return true
	}
	_, yes := l.gaveUp(seq)
	return yes
}

func (q *Queue) isDropped(number uint32) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.numbers[number]
	return l == nil || l.dropped
}

// clean removes the records of finished deliveries and keeps the events dead ones refer to.
func (r *retirement) clean(tx *bolt.Tx, st *stage) (full bool, err error) {
	fates, keep := tx.Bucket(bucketFate), tx.Bucket(bucketKeep)
	var remove []leaseKey
	var rescue []uint64
	c := fates.Cursor()
	for k, v := c.Seek(key64(r.s.first)); k != nil; k, v = c.Next() {
		seq, number, ok := parseSeqLane(k)
		if !ok || seq >= r.s.next {
			break
		}
		f, err := decodeFate(v)
		if err != nil {
			return false, fmt.Errorf("delivery %d/%d: %w", seq, number, err)
		}
		if f.state != fateDead {
			if remove = append(remove, leaseKey{seq, number}); len(remove) >= pageRecords {
				full = true
				break
			}
			continue
		}
		if n := len(rescue); (n == 0 || rescue[n-1] != seq) && keep.Get(key64(seq)) == nil {
			if rescue = append(rescue, seq); len(rescue) >= pageRecords {
				full = true
				break
			}
		}
	}
	for _, key := range remove {
		if err := fates.Delete(keySeqLane(key.seq, key.lane)); err != nil {
			return false, err
		}
	}
	if len(rescue) == 0 {
		return full, nil
	}
	reader := eventReader{tx: tx}
	known := r.q.openIDs(tx, st)
	for _, seq := range rescue {
		ev, err := reader.event(r.s.first, seq)
		if err == nil && ev == nil {
			err = fmt.Errorf("%w: event %d is missing", errDamaged, seq)
		}
		if err != nil {
			return false, err
		}
		key := keyOfID(ev.AccountID, ev.ID)
		c, chosen, err := known.find(key)
		if err != nil {
			return false, err
		}
		chosen = chosen && c.seq == seq
		if !chosen {
			c = claimedID{seq: seq}
		}
		if err := keep.Put(key64(seq), encodeKept(ev, chosen, c.digest)); err != nil {
			return false, err
		}
		if err := tx.Bucket(bucketKeepID).Put(key[:], c.encode()); err != nil {
			return false, err
		}
	}
	return full, nil
}

// drop removes the segment.
func (r *retirement) drop(tx *bolt.Tx) error {
	if err := tx.Bucket(bucketEvent).DeleteBucket(key64(r.s.first)); err != nil {
		return err
	}
	if err := deleteBits(tx, r.s.first, r.s.deliveries); err != nil {
		return err
	}
	r.gone = true
	return tx.Bucket(bucketSeg).Delete(key64(r.s.first))
}

func (r *retirement) after(st *stage) {
	q := r.q
	for _, d := range r.dissolved {
		q.scatter(d)
	}
	q.metrics.expired.Add(float64(len(r.expired)))
	r.tell()
	for i := range r.expired {
		e := &r.expired[i]
		r.s.unfinished--
		l := q.numbers[e.key.lane]
		if l == nil {
			continue
		}
		if e.fresh {
			l.addPending(q, -1)
		} else {
			l.addRetrying(q, -1)
			l.recount(e.old, e.now)
			l.removeRetry(retryRef{due: e.old.at, seq: e.key.seq})
			l.retryVersion++
		}
		q.ended(l, e.now, false)
		q.place(l, st.nowMs)
	}
	if r.spared {
		r.s.retiring = false
	}
	if r.gone {
		q.events -= int64(r.s.next - r.s.first)
		q.removeSegment(r.s)
	}
}

// tell tells of what expired, lane by lane and type by type.
func (r *retirement) tell() {
	if r.q.o.Expired == nil {
		return
	}
	type subject struct {
		lane uint32
		kind string
	}
	counts := map[subject]int{}
	for i := range r.expired {
		if e := &r.expired[i]; e.kind != "" {
			counts[subject{e.key.lane, e.kind}]++
		}
	}
	for s, n := range counts {
		if l := r.q.numbers[s.lane]; l != nil {
			r.q.o.Expired(l.id, s.kind, n)
		}
	}
}

// dropAttempts drops one segment of the attempt log whose last attempt is over age.
func (q *Queue) dropAttempts(ctx context.Context, nowMs int64, r queue.Retention) (bool, error) {
	over := nowMs - r.Attempts.Milliseconds()
	return q.dropBucket(ctx, bucketAtt, func(_ []byte, b *bolt.Bucket) bool { return int64(b.Sequence()) <= over })
}

// dropIDs drops one slice of publishers' ids none of whose events is left.
func (q *Queue) dropIDs(ctx context.Context, nowMs int64, r queue.Retention) (bool, error) {
	q.mu.Lock()
	oldest := q.seq + 1
	if len(q.segments) > 0 {
		oldest = q.segments[0].first
	}
	q.mu.Unlock()
	// The slice that new ids go into stays: an id may be on its way into it.
	current := uint64(nowMs - nowMs%sliceWidth(r))
	return q.dropBucket(ctx, bucketIdem, func(name []byte, b *bolt.Bucket) bool {
		return b.Sequence() < oldest && big.Uint64(name) < current
	})
}

// dropBucket drops the first bucket within root for which over says so. It looks in a short read
// transaction first, so that nothing is committed for nothing.
func (q *Queue) dropBucket(ctx context.Context, root []byte, over func(name []byte, b *bolt.Bucket) bool) (bool, error) {
	var name []byte
	err := q.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(root)
		c := b.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if inner := b.Bucket(k); inner != nil && over(k, inner) {
				name = slices.Clone(k)
				return nil
			}
		}
		return nil
	})
	if err != nil || name == nil {
		return false, err
	}
	err = q.do(ctx, &operation{keep: true, write: func(tx *bolt.Tx, _ *stage) error {
		b := tx.Bucket(root)
		if inner := b.Bucket(name); inner == nil || !over(name, inner) {
			return nil
		}
		return b.DeleteBucket(name)
	}})
	return err == nil, err
}

// expireDead removes records of deliveries that ended long ago and whose segment is gone, with the events
// kept for them. A dead delivery of a retained event stays as long as the event.
func (q *Queue) expireDead(ctx context.Context, nowMs int64, r queue.Retention) (bool, error) {
	over := nowMs - r.Dead.Milliseconds()
	q.mu.Lock()
	var due []*lane
	first := q.seq + 1
	if len(q.segments) > 0 {
		first = q.segments[0].first
	}
	for _, l := range q.numbers {
		if l.oldestDied != 0 && l.oldestDied <= over {
			due = append(due, l)
		}
	}
	q.mu.Unlock()
	for _, l := range due {
		keys, earliest, err := q.findExpired(l, over, first)
		if err != nil {
			return false, err
		}
		if len(keys) > 0 {
			return true, q.removeExpired(ctx, keys)
		}
		q.mu.Lock()
		if l.oldestDied <= over {
			l.oldestDied = earliest
		}
		q.mu.Unlock()
	}
	return false, nil
}

// findExpired reads which records of a lane are over, and, when none is, the time of the next.
func (q *Queue) findExpired(l *lane, over int64, first uint64) (keys []leaseKey, earliest int64, err error) {
	err = q.view(func(tx *bolt.Tx) error {
		prefix := string(key32(l.number))
		c := tx.Bucket(bucketDied).Cursor()
		for k, _ := c.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix && len(keys) < pageRecords; k, _ = c.Next() {
			_, ms, seq, _ := parseLaneTime(k)
			switch {
			case ms > over:
				if earliest == 0 {
					earliest = ms
				}
				return nil
			case seq < first:
				keys = append(keys, leaseKey{seq, l.number})
			case earliest == 0:
				earliest = over + pinnedAgain.Milliseconds() // stays as long as its segment
			}
		}
		return nil
	})
	return keys, earliest, err
}

func (q *Queue) removeExpired(ctx context.Context, keys []leaseKey) error {
	var removed []fateChange
	return q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, _ *stage) error {
			removed = removed[:0]
			for _, key := range keys {
				if q.retains(key.seq) {
					continue
				}
				v := tx.Bucket(bucketFate).Get(keySeqLane(key.seq, key.lane))
				if v == nil {
					continue
				}
				f, err := decodeFate(v)
				if err != nil {
					return fmt.Errorf("delivery %d/%d: %w", key.seq, key.lane, err)
				}
				if f.state == fateRetrying {
					continue // made due again meanwhile
				}
				if err := tx.Bucket(bucketDied).Delete(keyLaneTime(key.lane, f.at, key.seq)); err != nil {
					return err
				}
				if err := tx.Bucket(bucketFate).Delete(keySeqLane(key.seq, key.lane)); err != nil {
					return err
				}
				if err := unkeep(tx, key.seq); err != nil {
					return err
				}
				removed = append(removed, fateChange{key, f})
			}
			return nil
		},
		after: func(*stage) {
			for _, c := range removed {
				if l := q.numbers[c.key.lane]; l != nil && c.f.state == fateDead {
					l.dead--
					q.dead--
				}
			}
		},
	})
}

// unkeep removes a kept event when no record refers to it any more.
func unkeep(tx *bolt.Tx, seq uint64) error {
	if k, _ := tx.Bucket(bucketFate).Cursor().Seek(key64(seq)); len(k) == 12 && big.Uint64(k) == seq {
		return nil
	}
	ev, err := kept(tx, seq)
	if err != nil || ev == nil {
		return err
	}
	if err := tx.Bucket(bucketKeep).Delete(key64(seq)); err != nil {
		return err
	}
	key := keyOfID(ev.AccountID, ev.ID)
	if v := tx.Bucket(bucketKeepID).Get(key[:]); v != nil {
		c, err := decodeClaimedID(v)
		if err != nil {
			return err
		}
		if c.seq == seq {
			return tx.Bucket(bucketKeepID).Delete(key[:])
		}
	}
	return nil
}

// forgetLanes removes the numbers of dropped lanes no event names any more.
func (q *Queue) forgetLanes(ctx context.Context, _ int64, _ queue.Retention) (bool, error) {
	q.mu.Lock()
	oldest := q.seq + 1
	if len(q.segments) > 0 {
		oldest = q.segments[0].first
	}
	var idle []*lane
	for _, l := range q.numbers {
		if l.dropped && l.lastUse < oldest && l.dead == 0 && l.retrying == 0 && l.leasedRetries == 0 && l.oldestDied == 0 {
			if idle = append(idle, l); len(idle) == pageRecords {
				break
			}
		}
	}
	q.mu.Unlock()
	if len(idle) == 0 {
		return false, nil
	}
	err := q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			// An event of this very commit may name one of them.
			used := map[uint32]bool{}
			for i := range st.placed {
				for _, n := range st.placed[i].lanes {
					used[n] = true
				}
			}
			idle = slices.DeleteFunc(idle, func(l *lane) bool { return used[l.number] })
			for _, l := range idle {
				if err := tx.Bucket(bucketLane).Delete(key32(l.number)); err != nil {
					return err
				}
			}
			return nil
		},
		after: func(*stage) {
			for _, l := range idle {
				delete(q.numbers, l.number)
				delete(q.lanes, l.id)
			}
			q.laneEpoch++
		},
	})
	return err == nil && len(idle) > 0, err
}
