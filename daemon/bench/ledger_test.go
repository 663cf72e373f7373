package bench

import (
	"errors"
	"sync"
	"testing"
	"time"
)

func TestLedgerAudit(t *testing.T) {
	t.Parallel()
	const base = 1000
	l := newLedger(base, 2, time.Now())
	id := func(seq int64) []byte { return append([]byte("evt_"), byte(seq)) }
	step := func(seq int64, ack bool, arrivals ...int) {
		t.Helper()
		if err := l.begin(seq, 10); err != nil {
			t.Fatal(err)
		}
		for _, r := range arrivals {
			l.arrive(r, seq, 15, id(seq))
		}
		if ack {
			l.ack(seq, id(seq))
		}
	}
	step(base, true, 0, 1)         // well
	step(base+1, true, 0)          // lost at one
	step(base+2, true)             // lost at both
	step(base+3, true, 0, 0, 0, 1) // repeated twice
	step(base+4, false, 0, 1)      // arrived, though not acknowledged
	step(base+5, false)            // neither
	step(base+6, true, 1, 0)
	l.ack(base+6, []byte("another"))
	l.arrive(0, base-1, 1, nil)             // of an earlier run
	l.arrive(0, base+7, 1, nil)             // not sent yet
	l.arrive(0, base+maxEvents, 1, nil)     // beyond everything
	l.arrive(0, base+5*chunkEvents, 1, nil) // in a chunk that does not exist

	l.arrive(2, base, 1, nil) // at a receiver that is not meant
	want := audit{Sent: 7, Acked: 5, LostEvents: 2, Lost: 3, Duplicated: 2, Unacked: 1, Misidentified: 1}
	if got := l.audit(base + 8); got != want {
		t.Errorf("audit %+v, want %+v", got, want)
	}
	if l.strays.Load() != 4 || l.unwanted.Load() != 1 || l.delivered.Load() != 9 || l.completed.Load() != 4 || l.last.Load() != 15 {
		t.Errorf("strays %d, delivered %d, completed %d, last %d", l.strays.Load(), l.delivered.Load(), l.completed.Load(), l.last.Load())
	}
	if h := &l.endToEnd; h.count.Load() != 9 || h.quantile(0.5) != 5 {
		t.Errorf("%d latencies, median %v", h.count.Load(), h.quantile(0.5))
	}
	if !errors.Is(want.problem(), ErrLost) || !errors.Is((audit{Misidentified: 1}).problem(), ErrWrong) || (audit{Duplicated: 1, Unacked: 1}).problem() != nil {
		t.Error("the audit judges wrongly")
	}
}

func TestLedgerIsBounded(t *testing.T) {
	t.Parallel()
	l := newLedger(5, 1, time.Now())
	for _, seq := range []int64{4, 5 + maxEvents} {
		if err := l.begin(seq, 1); !errors.Is(err, errLedgerFull) {
			t.Errorf("event %d: %v", seq, err)
		}
	}
	if err := l.begin(4+maxEvents, 1); err != nil {
		t.Error(err)
	}
}

func TestLedgerConcurrently(t *testing.T) {
	t.Parallel()
	const events, receivers = 2 * chunkEvents, 3
	l := newLedger(0, receivers, time.Now())
	var wg sync.WaitGroup
	for part := range int64(4) {
		wg.Go(func() {
			for seq := part; seq < events; seq += 4 {
				if err := l.begin(seq, l.now()); err != nil {
					t.Error(err)
				}
				var arrivals sync.WaitGroup
				if seq%1024 < 4 {
					// A few events arrive at all receivers at once, and twice.
					for r := range 2 * receivers {
						arrivals.Go(func() { l.arrive(r%receivers, seq, l.now(), []byte("id")) })
					}
				} else {
					for r := range 2 * receivers {
						l.arrive(r%receivers, seq, l.now(), []byte("id"))
					}
				}
				l.ack(seq, []byte("id"))
				arrivals.Wait()
			}
		})
	}
	wg.Wait()
	want := audit{Sent: events, Acked: events, Duplicated: events * receivers}
	if got := l.audit(events); got != want || l.completed.Load() != events || l.delivered.Load() != events*receivers {
		t.Errorf("audit %+v, completed %d, delivered %d", got, l.completed.Load(), l.delivered.Load())
	}
}
