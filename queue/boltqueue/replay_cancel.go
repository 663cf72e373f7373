package boltqueue

import (
	"context"
	"errors"
	"slices"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// CancelReplay implements queue.Queue.
func (q *Queue) CancelReplay(ctx context.Context, id queue.Lane, replayID queue.ReplayID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := cancellation{q: q}
	return q.do(ctx, &operation{
		keep: true,
		write: func(tx *bolt.Tx, st *stage) error {
			c.undone, c.lane = nil, nil
			q.mu.Lock()
			l := q.lanes[id]
			dropped := l == nil || l.dropped
			q.mu.Unlock()
			if dropped {
				return refuse(queue.ErrNotFound)
			}
			list, err := replaysOf(tx, l)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(r *replay) bool { return r.ID == replayID })
			switch {
			case i < 0:
				return refuse(queue.ErrNotFound)
			case list[i].State != queue.ReplayRunning:
				return nil
			}
			c.lane = l
			// Nothing of the lane is claimed until this is on disk: what is taken back must not be read as it was before.
			q.mu.Lock()
			l.cancelling = true
			q.mu.Unlock()
			if firstRunning(list) == list[i] {
				// What waits was made due by this one: they take turns.
				if err := c.undo(tx, st); err != nil {
					return err
				}
			}
			c.list, err = putReplay(tx, l.number, list, list[i].cancelled(st.nowMs))
			return err
		},
		after: c.after,
	})
}

func (r *replay) cancelled(nowMs int64) *replay {
	c := *r
	c.State, c.EndedAt = queue.ReplayCancelled, timeOf(nowMs)
	return &c
}

// cancelReplays cancels all replays of a lane that run, and returns what there is then.
func cancelReplays(tx *bolt.Tx, l *lane, nowMs int64) ([]*replay, error) {
	list, err := replaysOf(tx, l)
	for r := firstRunning(list); r != nil && err == nil; r = firstRunning(list) {
		list, err = putReplay(tx, l.number, list, r.cancelled(nowMs))
	}
	return list, err
}

// dropReplays removes all replays of a lane.
func dropReplays(tx *bolt.Tx, l *lane) error {
	list, err := replaysOf(tx, l)
	for _, r := range list {
		err = errors.Join(err, tx.Bucket(bucketReplay).Delete(keyReplay(l.number, r.ID)))
	}
	return err
}

// cancellation takes back what a replay has made due and was not tried.
type cancellation struct {
	q      *Queue
	lane   *lane
	list   []*replay
	undone []changed
}

// changed is a fate that took the place of another; its state is 0 where there is none any more.
type changed struct {
	key      leaseKey
	old, now fate
}

func (c *cancellation) undo(tx *bolt.Tx, st *stage) error {
	var firsts []leaseKey
	prefix := string(key32(c.lane.number))
	cur := tx.Bucket(bucketDue).Cursor()
	for k, v := cur.Seek([]byte(prefix)); len(k) == 20 && string(k[:4]) == prefix; k, v = cur.Next() {
		if _, _, seq, _ := parseLaneTime(k); len(v) > 0 && !c.q.leased(leaseKey{seq, c.lane.number}) {
			firsts = append(firsts, leaseKey{seq, c.lane.number})
		}
	}
	for _, first := range firsts {
		members := []uint64{first.seq}
		if tx.Bucket(bucketBatch).Get(keySeqLane(first.seq, first.lane)) != nil {
			d, err := dissolve(tx, first)
			if err != nil {
				return err
			}
			members = append(members, d.rest...)
		}
		for _, seq := range members {
			if err := c.undoOne(tx, leaseKey{seq, first.lane}, st.nowMs); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cancellation) undoOne(tx *bolt.Tx, key leaseKey, nowMs int64) error {
	f, err := recordedFate(tx, key)
	if err != nil {
		return err
	}
	orphan := !c.q.retains(key.seq)
	now, ended := f.undone(nowMs)
	switch {
	case ended:
	case f.was == fateRetrying:
		now = f
		now.byHand, now.replay, now.was, now.at, now.wasAt = false, false, 0, f.wasAt, 0
	default:
		if err := withdraw(tx, key, f, orphan); err != nil {
			return err
		}
		if err := tx.Bucket(bucketFate).Delete(keySeqLane(key.seq, key.lane)); err != nil {
			return err
		}
		c.undone = append(c.undone, changed{key: key, old: f})
		if orphan {
			return unkeep(tx, key.seq)
		}
		return nil
	}
	c.undone = append(c.undone, changed{key: key, old: f, now: now})
	return replaceFate(tx, key, f, now, orphan)
}

func (c *cancellation) after(st *stage) {
	if c.lane == nil {
		return
	}
	c.q.setReplays(c.lane, c.list)
	for i := range c.undone {
		c.q.gaveWay(c.lane, &c.undone[i])
	}
	c.lane.cancelling = false
	c.lane.reloadRetries()
	c.q.place(c.lane, st.nowMs)
}

// gaveWay brings the counts up to date with a retry in whose place something else stands. The lock is held.
func (q *Queue) gaveWay(l *lane, c *changed) {
	l.recount(c.old, c.now)
	if c.now.state == fateRetrying {
		return
	}
	l.addRetrying(q, -1)
	s := q.segmentOf(c.key.seq)
	if s != nil {
		s.unfinished--
	}
	if c.now.state != 0 {
		q.ended(l, c.now, s == nil)
	}
}
