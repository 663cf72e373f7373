package queuetest

import (
	"slices"
	"time"

	"herald/queue"
)

// replaying is what the model says of one replay.
type replaying struct {
	queue.Replay
	to, next uint64
}

// waitsReplay says whether a replay made the delivery due and it was not tried since.
func (i *item) waitsReplay() bool { return i.replay && i.byHand }

// loose says whether the delivery keeps nothing waiting until it is leased.
func (i *item) loose() bool { return i.byHand || i.replay || i.extra }

// undo makes the delivery what it was before a replay made it due; false when only the replay made it.
func (i *item) undo() bool {
	i.state, i.batch, i.replay, i.byHand = i.was, nil, false, false
	if i.was == queue.StateRetrying {
		i.due = i.wasDue
	}
	return i.was != ""
}

func (w *world) head(l queue.Lane) *replaying {
	list := w.replays[l]
	if at := slices.IndexFunc(list, func(p *replaying) bool { return p.State == queue.ReplayRunning }); at >= 0 {
		return list[at]
	}
	return nil
}

// replay starts, advances or cancels a replay of some lane.
func (w *world) replay() {
	l := laneOf(w.rnd.IntN(6))
	switch p := w.head(l); {
	case p == nil || w.rnd.IntN(8) == 0 && len(w.replays[l]) < queue.MaxReplays:
		made := w.r.startReplay(queue.Replay{Lane: l, Failed: w.rnd.IntN(3) == 0})
		w.replays[l] = append(w.replays[l], &replaying{Replay: made, to: w.seq, next: 1})
	case w.rnd.IntN(8) == 0:
		w.cancel(l)
	default:
		w.advance(l, p)
	}
}

func (w *world) advance(l queue.Lane, p *replaying) {
	t := w.r.t
	step := queue.ReplayStep{Match: all, Limit: 1 + w.rnd.IntN(20), Records: w.shapes[l].records}
	got, n, err := w.r.q.AdvanceReplay(t.Context(), l, step)
	if err != nil || got.ID != p.ID {
		t.Fatalf("AdvanceReplay: %+v (%v), the model has %+v", got, err, p)
	}
	var taken []*item
	for ; p.next <= p.to && len(taken) < step.Limit; p.next++ {
		if x := w.replayable(p, p.next); x != nil {
			taken = append(taken, x)
		}
	}
	done := len(taken) == 0 && p.next > p.to && !slices.ContainsFunc(w.items, func(x *item) bool { return x.id.Lane == l && x.waitsReplay() })
	if p.Deliveries += int64(len(taken)); n != len(taken) || got.Deliveries != p.Deliveries || (got.State == queue.ReplayDone) != done {
		t.Fatalf("%d became due, want %d: %+v", n, len(taken), got)
	}
	p.State = got.State
	for from := 0; from < len(taken); from += step.Records {
		var batch []uint64
		for _, x := range taken[from:min(from+step.Records, len(taken))] {
			w.apart(x)
			x.wasDue = x.due
			x.was, x.state, x.retries, x.due, x.byHand, x.replay, x.batch = x.state, queue.StateRetrying, 0, time.Now(), true, true, nil
			batch = append(batch, x.id.Seq)
		}
		for _, seq := range batch {
			if len(batch) > 1 {
				w.byID[queue.DeliveryID{Seq: seq, Lane: l}].batch = batch
			}
		}
	}
}

// replayable is the delivery of an event that the replay makes due, made when there was none; nil when it passes it over.
func (w *world) replayable(p *replaying, seq uint64) *item {
	x := w.byID[queue.DeliveryID{Seq: seq, Lane: p.Lane}]
	switch {
	case x == nil && p.Failed:
		return nil
	case x == nil:
		x = &item{id: queue.DeliveryID{Seq: seq, Lane: p.Lane}, key: w.keys[seq-1], extra: true}
		w.items, w.byID[x.id] = append(w.items, x), x
	case x.state == queue.StatePending, x.state == queue.StateDelivering, x.planned && x.unfinished(), x.waitsReplay(), x.state == queue.StateDelivered && p.Failed:
		return nil
	}
	return x
}

func (w *world) cancel(l queue.Lane) {
	list := w.replays[l]
	p := list[w.rnd.IntN(len(list))]
	if err := w.r.q.CancelReplay(w.r.t.Context(), l, p.ID); err != nil {
		w.r.t.Fatal(err)
	}
	if p == w.head(l) {
		w.items = slices.DeleteFunc(w.items, func(x *item) bool {
			gone := x.id.Lane == l && x.state == queue.StateRetrying && x.waitsReplay() && !x.undo()
			if gone {
				delete(w.byID, x.id)
			}
			return gone
		})
	}
	if p.State == queue.ReplayRunning {
		p.State = queue.ReplayCancelled
	}
}

// replaysInOrder checks that no older group that a replay made due waits in one of the keys of a claim.
func (w *world) replaysInOrder(c *queue.Claim, s *shape, seqs []uint64) {
	if s.order == queue.OrderNone || !c.Replay {
		return
	}
	for _, o := range w.items {
		if o.id.Lane != c.Lane || !o.replay || o.state != queue.StateRetrying || slices.Contains(seqs, o.id.Seq) {
			continue
		}
		first := o.id.Seq
		if len(o.batch) > 0 {
			first = o.batch[0]
		}
		shares := slices.ContainsFunc(seqs, func(seq uint64) bool { return s.order == queue.OrderStrict || w.keys[seq-1] == o.key })
		if first < seqs[0] && shares {
			w.r.t.Fatalf("%v was replayed before %+v (%+v)", seqs, o, s)
		}
	}
}
