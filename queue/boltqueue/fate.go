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
	// byHand: it was made due by hand and not tried since; reason then says why it had died, if it had.
	byHand bool
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
)

func (s fateState) state() queue.State {
	switch s {
	case fateRetrying:
		return queue.StateRetrying
	case fateDead:
		return queue.StateDead
	case fateDiscarded:
		return queue.StateDiscarded
	case fateDelivered, fateTogether, fateByHand:
	}
	return queue.StateDelivered
}

func (f fate) encode() []byte {
	state := f.state
	switch {
	case f.batch != 0:
		state = fateTogether
	case f.byHand:
		state = fateByHand
	}
	b := append(make([]byte, 0, 24+len(f.reason)), recordVersion, byte(state))
	b = binary.AppendUvarint(b, uint64(f.attempts))
	b = binary.AppendUvarint(b, uint64(f.retries))
	b = binary.AppendUvarint(b, uint64(f.at))
	if f.batch != 0 {
		return binary.AppendUvarint(b, f.batch)
	}
	return append(b, f.reason...)
}

func decodeFate(b []byte) (fate, error) {
	d := decoder{b: b}
	d.version()
	f := fate{state: fateState(d.byte())}
	if f.state < fateRetrying || f.state > fateByHand {
		d.fail("unknown state")
	}
	f.attempts = int(d.number(math.MaxInt32))
	f.retries = int(d.number(math.MaxInt32))
	f.at = int64(d.number(math.MaxInt64))
	if f.state == fateTogether {
		f.state = fateRetrying
		if f.batch = d.number(math.MaxUint64); f.batch == 0 || len(d.b) > 0 {
			d.fail("bad batch")
		}
	} else {
		f.reason = string(d.b)
		if f.state == fateByHand {
			f.state, f.byHand = fateRetrying, true
		}
	}
	if d.err != nil {
		return fate{}, d.err
	}
	return f, nil
}

// waits says whether a fate stands in due: a retrying one does, but of a batch only the first.
func (f fate) waits(seq uint64) bool {
	return f.state == fateRetrying && (f.batch == 0 || f.batch == seq)
}

// indexed says whether a finished fate stands in died: dead ones do, and those whose segment is gone, so
// that they are found when their time is over.
func (f fate) indexed(orphan bool) bool {
	return f.state == fateDead || orphan && f.state != fateRetrying
}
