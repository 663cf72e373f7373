package boltqueue

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// replay is a replay as it stands on disk, and in memory with its lane. One in memory is replaced, never changed.
type replay struct {
	queue.Replay
	// to is the newest event when it was made, next the first it has not looked at.
	to, next uint64
}

// ceilMs is a time in milliseconds, which is what acceptance has: the first that is not before it.
func ceilMs(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// The states of a replay on disk.
var replayStates = []queue.ReplayState{queue.ReplayRunning, queue.ReplayDone, queue.ReplayCancelled}

func (r *replay) encode() []byte {
	failed := byte(0)
	if r.Failed {
		failed = 1
	}
	b := []byte{recordVersion, byte(slices.Index(replayStates, r.State)), failed}
	b = appendText(b, r.AccountID)
	b = binary.AppendVarint(b, ceilMs(r.Since))
	b = binary.AppendVarint(b, ceilMs(r.Until))
	b = big.AppendUint64(b, math.Float64bits(r.Rate))
	for _, t := range []time.Time{r.CreatedAt, r.EndedAt, r.Reached} {
		ms := int64(0)
		if !t.IsZero() {
			ms = t.UnixMilli()
		}
		b = binary.AppendUvarint(b, uint64(ms))
	}
	for _, n := range []uint64{uint64(r.Deliveries), r.to, r.next} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func decodeReplay(lane queue.Lane, k, v []byte) (*replay, error) {
	if len(k) != 20 {
		return nil, fmt.Errorf("replay %x: %w: bad key", k, errDamaged)
	}
	r := &replay{}
	r.Lane = lane
	copy(r.ID[:], k[4:])
	d := decoder{b: v}
	d.version()
	state, failed := d.byte(), d.byte()
	if int(state) >= len(replayStates) || failed > 1 {
		d.fail("unknown state")
		state = 0
	}
	r.State, r.Failed = replayStates[state], failed == 1
	r.AccountID = d.text()
	r.Since, r.Until = timeOf(d.varint()), timeOf(d.varint())
	if raw := d.bytes(8); d.err == nil {
		if r.Rate = math.Float64frombits(big.Uint64(raw)); !(r.Rate >= 0) { // in this form it also refuses NaN
			d.fail("bad rate")
		}
	}
	for _, t := range []*time.Time{&r.CreatedAt, &r.EndedAt, &r.Reached} {
		if ms := d.number(math.MaxInt64); ms != 0 {
			*t = timeOf(int64(ms))
		}
	}
	r.Deliveries = int64(d.number(math.MaxInt64))
	r.to, r.next = d.number(math.MaxUint64), d.number(math.MaxUint64)
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("replay %s: %w", r.ID, err)
	}
	return r, nil
}

// keyReplay is the key of replay: the lane, then the id, so that those of a lane stand together, oldest first.
func keyReplay(lane uint32, id queue.ReplayID) []byte { return append(key32(lane), id[:]...) }

// replaysOf reads the replays of a lane, oldest first.
func replaysOf(tx *bolt.Tx, l *lane) ([]*replay, error) {
	var list []*replay
	prefix := string(key32(l.number))
	c := tx.Bucket(bucketReplay).Cursor()
	for k, v := c.Seek([]byte(prefix)); len(k) >= 4 && string(k[:4]) == prefix; k, v = c.Next() {
		r, err := decodeReplay(l.id, k, v)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// firstRunning returns the oldest that runs, or nil.
func firstRunning(list []*replay) *replay {
	if i := slices.IndexFunc(list, func(r *replay) bool { return r.State == queue.ReplayRunning }); i >= 0 {
		return list[i]
	}
	return nil
}

// setReplays gives a lane its replays, as they stand on disk. The lock is held.
func (q *Queue) setReplays(l *lane, list []*replay) {
	l.replays = list
	if firstRunning(list) != nil {
		q.replaying[l] = true
	} else {
		delete(q.replaying, l)
	}
}

// putReplay writes a replay, among the others of its lane. With one that has ended the oldest goes that is too many.
func putReplay(tx *bolt.Tx, number uint32, list []*replay, r *replay) ([]*replay, error) {
	b := tx.Bucket(bucketReplay)
	if err := b.Put(keyReplay(number, r.ID), r.encode()); err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	if i := slices.IndexFunc(list, func(x *replay) bool { return x.ID == r.ID }); i >= 0 {
		list[i] = r
	} else {
		list = append(list, r)
	}
	ended := 0
	for i, x := range slices.Backward(list) {
		if x.State == queue.ReplayRunning {
			continue
		}
		if ended++; ended > queue.KeptReplays {
			if err := b.Delete(keyReplay(number, x.ID)); err != nil {
				return nil, err
			}
			list = slices.Delete(list, i, i+1)
		}
	}
	return list, nil
}

// StartReplay implements queue.Queue.
func (q *Queue) StartReplay(ctx context.Context, r queue.Replay) (queue.Replay, error) {
	if err := ctx.Err(); err != nil {
		return queue.Replay{}, err
	}
	id, err := queue.NewReplayID()
	if err != nil {
		return queue.Replay{}, err
	}
	made := &replay{Replay: r}
	made.Since, made.Until = timeOf(ceilMs(r.Since)), timeOf(ceilMs(r.Until))
	var l *lane
	var list []*replay
	err = q.do(ctx, &operation{
		write: func(tx *bolt.Tx, st *stage) error {
			var err error
			if l, err = q.intern(tx, st, r.Lane); err != nil {
				return err
			}
			if list, err = replaysOf(tx, l); err != nil {
				return err
			}
			n := 0
			for _, x := range list {
				if x.State == queue.ReplayRunning {
					n++
				}
			}
			q.mu.Lock()
			gone := l.dropped
			q.mu.Unlock()
			switch {
			case gone:
				return refuse(queue.ErrGone)
			case n >= queue.MaxReplays:
				return refuse(queue.ErrTooMany)
			}
			made.ID, made.State, made.CreatedAt, made.to, made.next = id, queue.ReplayRunning, timeOf(st.nowMs), st.seq, 1
			made.EndedAt, made.Reached, made.Deliveries = time.Time{}, time.Time{}, 0
			list, err = putReplay(tx, l.number, list, made)
			return err
		},
		after: func(*stage) { q.setReplays(l, list) },
	})
	if err != nil {
		return queue.Replay{}, err
	}
	return made.Replay, nil
}

// Replays implements queue.Queue.
func (q *Queue) Replays(id queue.Lane) []queue.Replay {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[id]
	if l == nil {
		return nil
	}
	list := make([]queue.Replay, len(l.replays))
	for i, r := range l.replays {
		list[i] = r.Replay
	}
	return list
}

// Replaying implements queue.Queue.
func (q *Queue) Replaying() []queue.Lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	lanes := make([]queue.Lane, 0, len(q.replaying))
	for l := range q.replaying {
		lanes = append(lanes, l.id)
	}
	return lanes
}
