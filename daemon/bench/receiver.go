package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// behaviour is how a receiver answers.
type behaviour int

const (
	healthy behaviour = iota // 200 after the configured latency
	failing                  // 500 at once
	hanging                  // reads the request and never answers
)

const (
	// verifyEvery is the share of pushes whose signature and content are checked in full: the checks
	// would otherwise cost as much as the receiver does.
	verifyEvery = 64
	// recordOverhead is what the envelope of an event takes at most, in bytes.
	recordOverhead = 1 << 10
	// maxReceiverConns bounds the connections of one receiver.
	maxReceiverConns = 8192
)

// receiverShape is what the receivers of a run have in common.
type receiverShape struct {
	latency time.Duration // how long an answer takes
	records int           // most records in a push; above 1 every push has the form for several
	data    []byte        // the payload as it was sent, for the content check
	tls     *tls.Config   // nil: plain HTTP
	http2   bool          // with tls, HTTP/2 and nothing else; otherwise HTTP/1.1
}

// receiver is one destination of pushes on loopback, on a port of its own like receivers in the field,
// so that the daemon's connections are pooled for each of them. It costs few microseconds a push.
type receiver struct {
	receiverShape
	index     int // among the healthy ones
	behaviour behaviour
	maxBody   int
	listener  net.Listener

	book   atomic.Pointer[ledger] // nil: count only
	again  atomic.Pointer[ledger] // of replayed pushes; nil: there are to be none
	verify atomic.Pointer[standardwebhooks.Webhook]

	pushes     atomic.Int64 // requests read completely
	booked     atomic.Int64 // of these, noted in a ledger
	verified   atomic.Int64 // signatures checked
	forged     atomic.Int64 // of these, wrong ones
	corrupted  atomic.Int64 // payloads that are not what was sent
	alien      atomic.Int64 // pushes without the right webhook-id, that are no event of the benchmark, or replayed for no reason
	miscounted atomic.Int64 // pushes whose numberOfRecords is not their number of records, or too large
	broken     atomic.Int64 // requests that were not HTTP or exceeded a limit

	connections atomic.Int64 // accepted
	handshakes  atomic.Int64 // of TLS
	resumed     atomic.Int64 // of these, with a session of an earlier connection

	done  chan struct{}
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once closed
	wg    sync.WaitGroup
}

// newReceiver returns a receiver for a listener; it serves when run is called.
func newReceiver(l net.Listener, b behaviour, index int, shape receiverShape) *receiver {
	r := &receiver{
		receiverShape: shape, index: index, behaviour: b, listener: l,
		maxBody: max(shape.records, 1)*(len(shape.data)+recordOverhead) + 64<<10,
		conns:   map[net.Conn]struct{}{},
		done:    make(chan struct{}),
	}
	if r.tls != nil {
		r.tls = r.tls.Clone()
		r.tls.VerifyConnection = r.shook
	}
	return r
}

// url is where the receiver takes pushes.
func (r *receiver) url() string {
	scheme := "http"
	if r.tls != nil {
		scheme = "https"
	}
	return scheme + "://" + r.listener.Addr().String() + "/hook"
}

// run serves until close is called and returns when every connection has ended.
func (r *receiver) run() {
	defer r.wg.Wait()
	if r.http2 {
		r.serveHTTP2()
		return
	}
	for {
		c, err := r.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: the connection waits in the backlog meanwhile.
			if !r.pause(5 * time.Millisecond) {
				return
			}
			continue
		}
		if !r.enter(c) {
			_ = c.Close()
			continue
		}
		r.wg.Go(func() {
			defer r.leave(c)
			if r.tls != nil {
				r.serve(tls.Server(c, r.tls))
				return
			}
			r.serve(c)
		})
	}
}

// pause waits and tells whether the receiver is still open.
func (r *receiver) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.done:
		return false
	}
}

// close ends the listener and every connection; it may be called more than once.
func (r *receiver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		return
	}
	close(r.done)
	_ = r.listener.Close()
	for c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

func (r *receiver) enter(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil || len(r.conns) >= maxReceiverConns {
		return false
	}
	r.conns[c] = struct{}{}
	r.connections.Add(1)
	return true
}

func (r *receiver) leave(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// serve answers the pushes of one connection.
func (r *receiver) serve(c net.Conn) {
	w := newWire(c, r.maxBody)
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	if r.behaviour == failing {
		answer = []byte("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
	}
	for {
		m, err := w.readHead()
		if err == nil && m.status != 0 {
			err = errMalformed
		}
		if err == nil && m.expect {
			_, err = c.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
		}
		if err == nil {
			err = w.readBody()
		}
		if err != nil {
			if errors.Is(err, errMalformed) || errors.Is(err, errTooLarge) {
				r.broken.Add(1)
				_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
			}
			return
		}
		r.take(m)
		if r.behaviour == hanging {
			// The read ends when the daemon gives up or the run is over.
			_, _ = w.r.Peek(1)
			return
		}
		if r.latency > 0 && !r.pause(r.latency) {
			return
		}
		if _, err := c.Write(answer); err != nil || m.last {
			return
		}
	}
}

// take notes one push.
func (r *receiver) take(m *message) {
	r.pushes.Add(1)
	book, place := r.book.Load(), r.index
	if m.replayed {
		if book, place = r.again.Load(), replayedPlace; book == nil {
			r.alien.Add(1)
		}
	}
	if book == nil || r.behaviour != healthy {
		return
	}
	at := book.now()
	if r.records > 1 {
		r.takeBatch(book, place, m, at)
		return
	}
	id, _, ok := nextID(m.body)
	seq, found := findSequence(m.body)
	if !ok || !found || !bytes.Equal(id, m.id) {
		r.alien.Add(1)
		return
	}
	book.arrive(place, seq, at, id)
	if r.booked.Add(1)%verifyEvery == 1 {
		r.check(m, seq)
	}
}

// takeBatch notes a push of several records, which has an id of its own, at a place of the ledger.
func (r *receiver) takeBatch(book *ledger, place int, m *message, at int64) {
	if len(m.id) == 0 {
		r.alien.Add(1)
		return
	}
	announced, found, ok := eachRecord(m.body, len(r.data), func(rec record) {
		book.arrive(place, rec.seq, at, rec.id)
	})
	switch {
	case !ok || announced < 0:
		r.alien.Add(1)
	case announced != int64(found) || found < 1 || found > r.records:
		r.miscounted.Add(1)
	}
	if found == 0 || r.booked.Add(1)%verifyEvery != 1 {
		return
	}
	r.checkSignature(m)
	want, same := bytes.Clone(r.data), true
	_, _, _ = eachRecord(m.body, len(r.data), func(rec record) {
		putSequence(want[1+len(sequenceName):], rec.seq)
		same = same && bytes.Equal(rec.data, want)
	})
	if !same {
		r.corrupted.Add(1)
	}
}

// check verifies a push of one record, and compares the payload byte for byte.
func (r *receiver) check(m *message, seq int64) {
	r.checkSignature(m)
	want := bytes.Clone(r.data)
	putSequence(want[1+len(sequenceName):], seq)
	if !bytes.Contains(m.body, want) {
		r.corrupted.Add(1)
	}
}

// checkSignature verifies the whole body as a receiver in the field would, with the library of the Standard
// Webhooks project.
func (r *receiver) checkSignature(m *message) {
	v := r.verify.Load()
	if v == nil {
		return
	}
	r.verified.Add(1)
	h := http.Header{}
	h.Set(standardwebhooks.HeaderWebhookID, string(m.id))
	h.Set(standardwebhooks.HeaderWebhookTimestamp, string(m.timestamp))
	h.Set(standardwebhooks.HeaderWebhookSignature, string(m.signature))
	if v.Verify(m.body, h) != nil {
		r.forged.Add(1)
	}
}

// secret sets the signing secret to check signatures with.
func (r *receiver) secret(s string) error {
	v, err := standardwebhooks.NewWebhook(strings.TrimSpace(s))
	if err != nil {
		return fmt.Errorf("read the subscription's signing secret: %w", err)
	}
	r.verify.Store(v)
	return nil
}

// receivers is the set of a run.
type receivers struct {
	all     []*receiver
	healthy []*receiver
	wg      sync.WaitGroup
}

// openReceivers opens healthy, failing and hanging receivers and serves them until close.
func openReceivers(ctx context.Context, counts [3]int, shape receiverShape) (*receivers, error) {
	rs := &receivers{}
	var lc net.ListenConfig
	for kind, n := range counts {
		for i := range n {
			l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				rs.close()
				return nil, fmt.Errorf("open receiver: %w", err)
			}
			rs.add(newReceiver(l, behaviour(kind), i, shape))
		}
	}
	return rs, nil
}

// add has the set serve a receiver until it is closed.
func (rs *receivers) add(r *receiver) {
	if r.behaviour == healthy {
		rs.healthy = append(rs.healthy, r)
	}
	rs.addApart(r)
}

// addApart is add for a receiver with a ledger of its own.
func (rs *receivers) addApart(r *receiver) {
	rs.all = append(rs.all, r)
	rs.wg.Go(r.run)
}

// close ends all receivers and waits for them.
func (rs *receivers) close() {
	for _, r := range rs.all {
		r.close()
	}
	rs.wg.Wait()
}

// keep has the healthy receivers note their pushes in a ledger, or only count them when it is nil.
func (rs *receivers) keep(l *ledger) {
	for _, r := range rs.healthy {
		r.book.Store(l)
	}
}

// sum adds one counter over the receivers of a behaviour.
func (rs *receivers) sum(b behaviour, counter func(*receiver) *atomic.Int64) int64 {
	var n int64
	for _, r := range rs.all {
		if r.behaviour == b {
			n += counter(r).Load()
		}
	}
	return n
}
