package boltqueue

import (
	"encoding/binary"
	"math"

	"herald/queue"
)

// A fate is what became of a delivery that left the first-attempt stage in any way but the usual
// one, which is to be delivered by its one attempt and needs no record at all.
type fate struct {
	state    fateState
	attempts int
	// byHand: it was made due by hand, by a replay, or for a time its publisher chose, and not tried since; reason then says
	// why it had died, if it had.
	byHand bool
	// planned: its publisher chose the time, and it was not tried since.
	planned bool
	// replay: a retrying delivery was made due by a replay, and has not arrived since.
	replay bool
	// was is what became of it before the replay, 0 when it had no delivery; it is known while replay and byHand are set.
	was fateState
	// wasAt is when it was due then, if it was retrying.
	wasAt int64
	// extra: it is of an event that does not name its lane: only a replay has made a delivery of it.
	extra bool
	// batch is the first event of the batch a retrying delivery belongs to, itself perhaps; 0 for none.
	batch uint64
	// retries is how many waits of the schedule were used.
	retries int
	// at is when a retrying delivery is due, or when another came to its end, in milliseconds.
	at     int64
	reason string
}

type fateState byte

// The values stand on disk.
const (
	fateRetrying  fateState = 1
	fateDelivered fateState = 2
	fateDead      fateState = 3
	fateDiscarded fateState = 4
	// fateTogether is fateRetrying in a batch; it is only seen on disk.
	fateTogether fateState = 5
	// fateByHand is fateRetrying of one made due by hand; it is only seen on disk.
	fateByHand fateState = 6
	// fatePlanned is fateRetrying of one accepted for later and not tried since; it is only seen on disk.
	fatePlanned fateState = 7
)

// These are added to a state on disk: made due by a replay and tried since, made due by one and not tried since, extra.
const (
	flagReplay  = 0x10
	flagReplays = 0x20
	flagExtra   = 0x40
)

// waitsReplay says whether a fate was made due by a replay and not tried since.
func (f fate) waitsReplay() bool { return f.replay && f.byHand }

// undone is what a fate was before a replay made it due, so that it ends as that where the replay comes to nothing. It is
// false for one whose delivery the replay has made, and for one that waited for a retry.
func (f fate) undone(nowMs int64) (fate, bool) {
	if !f.waitsReplay() || f.was == 0 || f.was == fateRetrying {
		return fate{}, false
	}
	return fate{state: f.was, attempts: f.attempts, at: nowMs, reason: f.reason, extra: f.extra}, true
}

func (s fateState) state() queue.State {
	switch s {
	case fateRetrying:
		return queue.StateRetrying
	case fateDead:
		return queue.StateDead
	case fateDiscarded:
		return queue.StateDiscarded
	case fateDelivered, fateTogether, fateByHand, fatePlanned:
	}
	return queue.StateDelivered
}

func (f fate) encode() []byte {
	state := f.state
	switch {
	case f.batch != 0:
		state = fateTogether
	case f.planned:
		state = fatePlanned
	case f.byHand:
		state = fateByHand
	}
	switch {
	case f.waitsReplay():
		state |= flagReplays
	case f.replay:
		state |= flagReplay
	}
	if f.extra {
		state |= flagExtra
	}
	b := append(make([]byte, 0, 24+len(f.reason)), recordVersion, byte(state))
	b = binary.AppendUvarint(b, uint64(f.attempts))
	b = binary.AppendUvarint(b, uint64(f.retries))
	b = binary.AppendUvarint(b, uint64(f.at))
	if f.waitsReplay() {
		if b = append(b, byte(f.was)); f.was == fateRetrying {
			b = binary.AppendUvarint(b, uint64(f.wasAt))
		}
	}
	if f.batch != 0 {
		b = binary.AppendUvarint(b, f.batch)
	}
	return append(b, f.reason...)
}

func decodeFate(b []byte) (fate, error) {
	d := decoder{b: b}
	d.version()
	state := fateState(d.byte())
	f := fate{state: state &^ (flagReplay | flagReplays | flagExtra), extra: state&flagExtra != 0, replay: state&(flagReplay|flagReplays) != 0}
	if f.state < fateRetrying || f.state > fatePlanned || f.replay && f.state.ended() || state > fatePlanned && f.state == fatePlanned {
		d.fail("unknown state")
	}
	f.attempts = int(d.number(math.MaxInt32))
	f.retries = int(d.number(math.MaxInt32))
	f.at = int64(d.number(math.MaxInt64))
	if state&flagReplays != 0 {
		f.byHand = true
		if f.was = fateState(d.byte()); f.was > fateDiscarded {
			d.fail("unknown state before the replay")
		}
		if f.was == fateRetrying {
			f.wasAt = int64(d.number(math.MaxInt64))
		}
	}
	switch f.state {
	case fateTogether:
		f.state = fateRetrying
		if f.batch = d.number(math.MaxUint64); f.batch == 0 || len(d.b) > 0 && !f.byHand {
			d.fail("bad batch")
		}
	case fateByHand:
		f.state, f.byHand = fateRetrying, true
	case fatePlanned:
		f.state, f.byHand, f.planned = fateRetrying, true, true
		if f.attempts > 0 || f.retries > 0 || len(d.b) > 0 {
			d.fail("tried before its time")
		}
	default:
	}
	f.reason = string(d.b)
	if d.err != nil {
		return fate{}, d.err
	}
	return f, nil
}

// isExtra says whether a record is of an event that does not name its lane.
func isExtra(v []byte) bool { return len(v) > 1 && fateState(v[1])&flagExtra != 0 }

// ended says whether nothing more happens by itself.
func (s fateState) ended() bool { return s == fateDelivered || s == fateDead || s == fateDiscarded }

// waits says whether a fate stands in due: a retrying one does, but of a batch only the first.
func (f fate) waits(seq uint64) bool {
	return f.state == fateRetrying && (f.batch == 0 || f.batch == seq)
}

// indexed says whether a finished fate stands in died: dead ones do, and those whose segment is gone, so
// that they are found when their time is over.
func (f fate) indexed(orphan bool) bool {
	return f.state == fateDead || orphan && f.state != fateRetrying
}
