package bench

import (
	"bytes"
	"context"
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
	// maxReceiverConns bounds the connections of one receiver.
	maxReceiverConns = 8192
)

// receiver is one destination of pushes on loopback, on a port of its own like receivers in the field,
// so that the daemon's connections are pooled for each of them. It costs few microseconds a push.
type receiver struct {
	index     int // among the healthy ones
	behaviour behaviour
	latency   time.Duration
	maxBody   int
	data      []byte // the payload as it was sent, for the content check
	listener  net.Listener

	book   atomic.Pointer[ledger] // nil: count only
	verify atomic.Pointer[standardwebhooks.Webhook]

	pushes    atomic.Int64 // requests read completely
	booked    atomic.Int64 // of these, noted in a ledger
	verified  atomic.Int64 // signatures checked
	forged    atomic.Int64 // of these, wrong ones
	corrupted atomic.Int64 // payloads that are not what was sent
	alien     atomic.Int64 // pushes without the right webhook-id, or that are no event of the benchmark
	broken    atomic.Int64 // requests that were not HTTP/1.1 or exceeded a limit

	done  chan struct{}
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once closed
	wg    sync.WaitGroup
}

// newReceiver listens on a free loopback port; it serves when run is called.
func newReceiver(ctx context.Context, b behaviour, index int, latency time.Duration, data []byte) (*receiver, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open receiver: %w", err)
	}
	return &receiver{
		index: index, behaviour: b, latency: latency, data: data, listener: l,
		maxBody: len(data) + 64<<10,
		conns:   map[net.Conn]struct{}{},
		done:    make(chan struct{}),
	}, nil
}

// url is where the receiver takes pushes.
func (r *receiver) url() string { return "http://" + r.listener.Addr().String() + "/hook" }

// run serves until close is called and returns when every connection has ended.
func (r *receiver) run() {
	defer r.wg.Wait()
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
	book := r.book.Load()
	if book == nil || r.behaviour != healthy {
		return
	}
	at := book.now()
	id, _, ok := nextID(m.body)
	seq, found := findSequence(m.body)
	if !ok || !found || !bytes.Equal(id, m.id) {
		r.alien.Add(1)
		return
	}
	book.arrive(r.index, seq, at, id)
	if r.booked.Add(1)%verifyEvery == 1 {
		r.check(m, seq)
	}
}

// check verifies a push as a receiver in the field would, with the library of the Standard Webhooks
// project, and compares the payload byte for byte.
func (r *receiver) check(m *message, seq int64) {
	if v := r.verify.Load(); v != nil {
		r.verified.Add(1)
		h := http.Header{}
		h.Set(standardwebhooks.HeaderWebhookID, string(m.id))
		h.Set(standardwebhooks.HeaderWebhookTimestamp, string(m.timestamp))
		h.Set(standardwebhooks.HeaderWebhookSignature, string(m.signature))
		if v.Verify(m.body, h) != nil {
			r.forged.Add(1)
		}
	}
	want := bytes.Clone(r.data)
	putSequence(want[1+len(sequenceName):], seq)
	if !bytes.Contains(m.body, want) {
		r.corrupted.Add(1)
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
func openReceivers(ctx context.Context, counts [3]int, latency time.Duration, data []byte) (*receivers, error) {
	rs := &receivers{}
	for kind, n := range counts {
		for i := range n {
			r, err := newReceiver(ctx, behaviour(kind), i, latency, data)
			if err != nil {
				rs.close()
				return nil, err
			}
			rs.all = append(rs.all, r)
			if behaviour(kind) == healthy {
				rs.healthy = append(rs.healthy, r)
			}
			rs.wg.Go(r.run)
		}
	}
	return rs, nil
}

// close ends all receivers and waits for them.
func (rs *receivers) close() {
	for _, r := range rs.all {
		r.close()
	}
	rs.wg.Wait()
}

// keep has every receiver note its pushes in a ledger, or only count them when it is nil.
func (rs *receivers) keep(l *ledger) {
	for _, r := range rs.all {
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
