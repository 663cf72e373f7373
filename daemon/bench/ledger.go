package bench

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The ledger grows in chunks that never move, so that the generator and the receivers work on it
// without a lock.
const (
	chunkEvents = 1 << 14
	maxChunks   = 1 << 12
	maxEvents   = chunkEvents * maxChunks // 67 million in one run
)

var errLedgerFull = errors.New("the run is too long for one ledger")

// entry is what is known of one event. Times are nanoseconds after the ledger's epoch.
type entry struct {
	start    atomic.Int64  // when its request began, or was meant to begin; plus one, zero is not sent
	acked    atomic.Uint64 // hash of the id the daemon answered with, zero is not acknowledged
	arrived  atomic.Uint64 // hash of the id that arrived first
	complete atomic.Uint32 // receivers it has reached
}

type ledgerChunk struct {
	entries  [chunkEvents]entry
	arrivals []atomic.Uint32 // per event and receiver, how often
}

// ledger keeps account of every event of a run: sent, acknowledged, and how often it arrived at each
// healthy receiver. The sequence number inside the payload is the event's identity here, because an
// event may arrive before the answer that tells its id. All methods but audit may be called
// concurrently; audit wants the traffic to have ended.
type ledger struct {
	base      int64 // first sequence number
	receivers int
	epoch     time.Time
	seed      maphash.Seed

	chunks [maxChunks]atomic.Pointer[ledgerChunk]
	grow   sync.Mutex

	delivered atomic.Int64 // first arrivals
	completed atomic.Int64 // events that reached every receiver
	first     atomic.Int64 // time of the first arrival of all, 0 before it
	last      atomic.Int64 // time of the last first arrival
	strays    atomic.Int64 // arrivals of a sequence number that was never sent
	unwanted  atomic.Int64 // arrivals where the event was not to go
	delays
	// each has the latencies of each receiver apart; there are none unless they were asked for.
	each []*delays
}

// delays are latencies from the start of a request to the arrival of its event.
type delays struct {
	endToEnd histogram
	// seconds are the same latencies apart for each second of the epoch in which an event's request began; there are
	// none unless they were asked for.
	seconds []atomic.Pointer[histogram]
}

func newLedger(base int64, receivers int, epoch time.Time) *ledger {
	return &ledger{base: base, receivers: receivers, epoch: epoch, seed: maphash.MakeSeed()}
}

// now is the current time in the ledger's terms.
func (l *ledger) now() int64 { return int64(time.Since(l.epoch)) }

// chunk returns the chunk of a sequence number and the place in it, or nil when it has none.
func (l *ledger) chunk(seq int64) (*ledgerChunk, int) {
	i := seq - l.base
	if i < 0 || i >= maxEvents {
		return nil, 0
	}
	return l.chunks[i/chunkEvents].Load(), int(i % chunkEvents)
}

// begin notes that the request of an event starts at a time. It is called once for an event, before the
// first byte is sent.
func (l *ledger) begin(seq, at int64) error {
	i := seq - l.base
	if i < 0 || i >= maxEvents {
		return errLedgerFull
	}
	p := &l.chunks[i/chunkEvents]
	c := p.Load()
	if c == nil {
		l.grow.Lock()
		if c = p.Load(); c == nil {
			c = &ledgerChunk{arrivals: make([]atomic.Uint32, chunkEvents*l.receivers)}
			p.Store(c)
		}
		l.grow.Unlock()
	}
	c.entries[i%chunkEvents].start.Store(at + 1)
	return nil
}

// ack notes the id under which an event was acknowledged.
func (l *ledger) ack(seq int64, id []byte) {
	if c, i := l.chunk(seq); c != nil {
		c.entries[i].acked.Store(l.hash(id))
	}
}

// arrive notes that an event reached a receiver at a time.
func (l *ledger) arrive(receiver int, seq, at int64, id []byte) {
	c, i := l.chunk(seq)
	if c == nil || c.entries[i].start.Load() == 0 {
		l.strays.Add(1)
		return
	}
	if receiver >= l.receivers {
		l.unwanted.Add(1)
		return
	}
	e := &c.entries[i]
	if c.arrivals[i*l.receivers+receiver].Add(1) > 1 {
		return
	}
	e.arrived.CompareAndSwap(0, l.hash(id))
	start := e.start.Load() - 1
	l.note(start, at)
	if receiver < len(l.each) {
		l.each[receiver].note(start, at)
	}
	l.first.CompareAndSwap(0, max(at, 1))
	for old := l.last.Load(); at > old && !l.last.CompareAndSwap(old, at); {
		old = l.last.Load()
	}
	if int(e.complete.Add(1)) == l.receivers {
		l.completed.Add(1)
	}
	l.delivered.Add(1)
}

// bySecond has the latencies kept apart by second from now on, for so long.
func (d *delays) bySecond(long time.Duration) {
	d.seconds = make([]atomic.Pointer[histogram], min(int(long/time.Second)+2, maxSeconds))
}

// note takes in an event whose request began and that arrived at these times.
func (d *delays) note(start, at int64) {
	d.endToEnd.add(time.Duration(at - start))
	if second := int(start / int64(time.Second)); second < len(d.seconds) {
		d.second(second).add(time.Duration(at - start))
	}
}

func (d *delays) second(i int) *histogram {
	h := d.seconds[i].Load()
	if h == nil {
		d.seconds[i].CompareAndSwap(nil, &histogram{})
		h = d.seconds[i].Load()
	}
	return h
}

// usualP99 is the median over the seconds of the 99th percentile within each, or 0 without seconds. What another
// program does to a few seconds does not move it.
func (d *delays) usualP99() time.Duration {
	const least = 20 // events of a second that count: the first and the last one are only parts
	var list []time.Duration
	for i := range d.seconds {
		if h := d.seconds[i].Load(); h != nil && h.count.Load() >= least {
			list = append(list, h.quantile(0.99))
		}
	}
	slices.Sort(list)
	return quantileOf(list, 0.5)
}

// hash never returns zero, which stands for no id.
func (l *ledger) hash(id []byte) uint64 { return maphash.Bytes(l.seed, id) | 1 }

// audit is the account of a run.
type audit struct {
	Sent, Acked   int64
	LostEvents    int64 // acknowledged events that did not reach every receiver
	Lost          int64 // deliveries of acknowledged events that never arrived
	Duplicated    int64 // arrivals beyond the first of an event at a receiver
	Unacked       int64 // events that arrived although nothing was promised
	Misidentified int64 // events that were pushed under another id than the one answered
}

// audit walks over every event up to the end, which is one past the last sequence number.
func (l *ledger) audit(end int64) audit {
	var a audit
	for seq := l.base; seq < end; seq++ {
		c, i := l.chunk(seq)
		if c == nil || c.entries[i].start.Load() == 0 {
			continue
		}
		a.Sent++
		e := &c.entries[i]
		var missing int64
		for r := range l.receivers {
			switch n := c.arrivals[i*l.receivers+r].Load(); n {
			case 0:
				missing++
			default:
				a.Duplicated += int64(n) - 1
			}
		}
		acked, arrived := e.acked.Load(), e.arrived.Load()
		switch {
		case acked == 0:
			if arrived != 0 {
				a.Unacked++
			}
			continue
		case arrived != 0 && arrived != acked:
			a.Misidentified++
		}
		a.Acked++
		if missing > 0 {
			a.LostEvents++
			a.Lost += missing
		}
	}
	return a
}

// problem returns what an audit finds wrong with the daemon, or nil. Repeats are allowed: delivery is at
// least once.
func (a audit) problem() error {
	switch {
	case a.Lost > 0:
		return fmt.Errorf("%w: %d deliveries of %d acknowledged events never arrived", ErrLost, a.Lost, a.LostEvents)
	case a.Misidentified > 0:
		return fmt.Errorf("%w: %d events arrived under another id than the one answered", ErrWrong, a.Misidentified)
	}
	return nil
}
