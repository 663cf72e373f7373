package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refusalWait is the pause after a 503 or 429 that names no time, maxRefusalWait the longest one
	// taken: the generator wants to know soon when the daemon takes events again.
	refusalWait    = 20 * time.Millisecond
	maxRefusalWait = time.Second
	// resendLimit is how long a request whose connection breaks is sent again: until a killed daemon is back.
	resendLimit = 2 * time.Minute
)

// load is one run of the generator: a number of producers, each with a connection of its own, that post
// events as fast as they are acknowledged (closed loop) or at a given rate (open loop).
type load struct {
	shape     requestShape
	compose   compose // nil: events of the shape; otherwise one thing to a request
	success   int     // the status of an acknowledgement; 0 for 202
	producers int
	batch     int
	rate      float64       // events per second, 0 for a closed loop
	events    int64         // how many to send, 0 for as many as fit into the duration
	duration  time.Duration // how long to send when events is 0
	book      *ledger       // nil: answers are only counted
	base      int64         // first sequence number
	resend    bool          // send a request again whose connection broke; its events need ids of their own
	enough    func() bool   // tells that it may end before the duration has passed
	begun     func()        // called when all connections are there, right before the first request

	next     atomic.Int64 // events handed out
	acked    atomic.Int64
	refused  atomic.Int64 // 503 and 429 answers
	resent   atomic.Int64 // requests sent again because their connection broke
	acks     histogram    // request start to answer; in an open loop from the intended start
	lateness histogram    // open loop: how late the generator itself began a request
}

// compose appends the request with that sequence number to b, and with a key of its own when it may be sent again.
type compose func(b []byte, seq int64, keyed bool) []byte

// loadResult is what a run of the generator took.
type loadResult struct {
	issued  int64
	elapsed time.Duration // first request to last answer
}

// task is a batch of events to send: the offset of the first, how many, and in an open loop the time
// its request is meant to begin.
type task struct {
	first  int64
	count  int
	intent int64 // nanoseconds after the epoch; below zero: now
}

// run sends everything and returns when the last answer is there. It fails with the first request that
// got no answer, or one that is neither an acknowledgement nor a request to come later.
func (l *load) run(ctx context.Context) (loadResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := make([]*connection, l.producers)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.close()
			}
		}
	}()
	for i := range conns {
		conns[i] = &connection{addr: l.shape.host}
		if err := conns[i].open(ctx); err != nil {
			return loadResult{}, fmt.Errorf("connect to the daemon: %w", err)
		}
	}
	epoch := time.Now()
	if l.book != nil {
		epoch = l.book.epoch
	}
	if l.begun != nil {
		l.begun()
	}
	begin := time.Since(epoch)

	var wg sync.WaitGroup
	source := l.closedLoop(epoch, begin)
	if l.rate > 0 {
		tasks := make(chan task, 1024)
		wg.Go(func() {
			defer close(tasks)
			l.pace(ctx, epoch, begin, tasks)
		})
		source = func() (task, bool) {
			t, ok := <-tasks
			return t, ok
		}
	}
	for _, c := range conns {
		wg.Go(func() {
			p := &producer{load: l, conn: c, epoch: epoch}
			if l.compose == nil {
				p.full = l.shape.build(l.batch, l.batch > 1)
			}
			for ctx.Err() == nil {
				t, ok := source()
				if !ok {
					return
				}
				if err := p.send(ctx, t); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	res := loadResult{issued: l.next.Load(), elapsed: time.Since(epoch) - begin}
	return res, context.Cause(ctx)
}

// closedLoop hands out batches as fast as they are asked for.
func (l *load) closedLoop(epoch time.Time, begin time.Duration) func() (task, bool) {
	return func() (task, bool) {
		if l.events == 0 {
			if time.Since(epoch)-begin >= l.duration || l.over() {
				return task{}, false
			}
			return task{first: l.next.Add(int64(l.batch)) - int64(l.batch), count: l.batch, intent: -1}, true
		}
		for {
			first := l.next.Load()
			count := min(int64(l.batch), l.events-first)
			if count <= 0 {
				return task{}, false
			}
			if l.next.CompareAndSwap(first, first+count) {
				return task{first: first, count: int(count), intent: -1}, true
			}
		}
	}
}

// over tells that a load with a duration may end before it.
func (l *load) over() bool { return l.enough != nil && l.enough() }

// pace hands out batches at the rate. A batch's intended start follows from its number alone, so that a
// stall of the daemon (or of the generator) is not hidden by fewer requests: what waits is counted as waiting.
func (l *load) pace(ctx context.Context, epoch time.Time, begin time.Duration, tasks chan<- task) {
	var clock pacer
	defer clock.stop()
	for ctx.Err() == nil {
		first := l.next.Load()
		at := begin + time.Duration(float64(first)/l.rate*float64(time.Second))
		count := int64(l.batch)
		if l.events > 0 {
			count = min(count, l.events-first)
		} else if at-begin >= l.duration || l.over() {
			return
		}
		if count <= 0 || !clock.until(ctx, epoch.Add(at)) {
			return
		}
		l.next.Store(first + count)
		select {
		case tasks <- task{first: first, count: int(count), intent: int64(at)}:
		case <-ctx.Done():
			return
		}
	}
}

// producer sends batches over one connection.
type producer struct {
	load  *load
	conn  *connection
	epoch time.Time
	full  *request
	made  []byte // of compose
}

// request returns the bytes of a request for a task, valid until the next call.
func (p *producer) request(t task) []byte {
	l := p.load
	if l.compose != nil {
		p.made = l.compose(p.made[:0], l.base+t.first, l.resend)
		return p.made
	}
	req := p.full
	if t.count != l.batch {
		req = l.shape.build(t.count, true)
	}
	req.number(l.base + t.first)
	return req.bytes
}

// send posts one batch until it is acknowledged.
func (p *producer) send(ctx context.Context, t task) error {
	l := p.load
	req := p.request(t)
	start := int64(time.Since(p.epoch))
	if t.intent >= 0 {
		l.lateness.add(time.Duration(start - t.intent))
		start = t.intent
	}
	if l.book != nil {
		for i := range t.count {
			if err := l.book.begin(l.base+t.first+int64(i), start); err != nil {
				return err
			}
		}
	}
	for first := time.Now(); ; {
		m, err := p.conn.do(ctx, req)
		if err != nil {
			if !l.resend || ctx.Err() != nil || time.Since(first) > resendLimit {
				return fmt.Errorf("publish: %w", err)
			}
			l.resent.Add(1)
			if err := pause(ctx, refusalWait); err != nil {
				return err
			}
			continue
		}
		switch m.status {
		case cmp.Or(l.success, 202):
			l.acks.add(time.Since(p.epoch) - time.Duration(start))
			l.acked.Add(int64(t.count))
			return p.note(m.body, t)
		case 429, 503:
			l.refused.Add(1)
			if err := pause(ctx, waitOf(m.retryAfter)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("publish: the daemon answered %d: %s", m.status, excerpt(m.body))
		}
	}
}

// pause waits, and returns why the context ended if it does before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// note takes the ids of an answer into the ledger.
func (p *producer) note(body []byte, t task) error {
	if p.load.book == nil {
		return nil
	}
	if p.load.compose != nil { // what arrives has no id to compare with
		p.load.book.ack(p.load.base+t.first, nil)
		return nil
	}
	rest := body
	for i := range t.count {
		id, after, ok := nextID(rest)
		if !ok {
			return fmt.Errorf("%w: %d ids for %d events: %s", ErrWrong, i, t.count, excerpt(body))
		}
		rest = after
		if prefix := p.load.shape.idPrefix; prefix != "" && !ownID(id, prefix, p.load.base+t.first+int64(i)) {
			return fmt.Errorf("%w: event %d was answered with the id %q", ErrWrong, p.load.base+t.first+int64(i), id)
		}
		p.load.book.ack(p.load.base+t.first+int64(i), id)
	}
	if _, _, more := nextID(rest); more {
		return fmt.Errorf("%w: more ids than the %d events: %s", ErrWrong, t.count, excerpt(body))
	}
	return nil
}

// ownID tells whether an id is the one the generator gave.
func ownID(id []byte, prefix string, seq int64) bool {
	if len(id) != len(prefix)+sequenceDigits || string(id[:len(prefix)]) != prefix {
		return false
	}
	n, err := strconv.ParseInt(string(id[len(prefix):]), 10, 64)
	return err == nil && n == seq
}

// waitOf turns a Retry-After in seconds into a bounded pause.
func waitOf(retryAfter []byte) time.Duration {
	n, err := parseLength(retryAfter)
	if err != nil {
		return refusalWait
	}
	return min(max(time.Duration(min(n, 60))*time.Second, refusalWait), maxRefusalWait)
}

// excerpt shortens an answer for an error text.
func excerpt(b []byte) string {
	const most = 300
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}

var (
	// ErrLost is returned by Command.Run when an acknowledged event did not arrive at every healthy receiver.
	ErrLost = errors.New("events were lost")
	// ErrWrong is returned by Command.Run when what arrived is not what was sent and answered: a wrong signature, a
	// changed payload, another id.
	ErrWrong = errors.New("the daemon's pushes are wrong")
)
