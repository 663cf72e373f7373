// Package queuetest is the conformance suite of queue.Queue: what every engine has to do, as tests.
//
// It promises that an engine that passes it keeps each sentence of the contract, also when it is stopped and opened
// again between any two steps, and when it is not stopped but just gone. Time is virtual, so days pass in
// milliseconds.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
)

// Engine is a queue that keeps its data in a directory.
type Engine interface {
	queue.Queue
	// Close releases the directory; Run has returned, or was never called.
	Close() error
}

// Open opens the engine on a directory, whether or not there is a queue in it. It fails the test itself when it cannot. It is
// called within a testing/synctest bubble.
type Open func(t testing.TB, dir string) Engine

// Run runs the suite: every scenario without a break, with a clean restart after each of its steps, and
// with a crash after each: the files are copied while the engine runs, and the copy is opened. With -short, which is for the race
// detector, the clean restarts are left out: after a crash more happens.
func Run(t *testing.T, open Open) {
	modes := []struct {
		name string
		mode mode
	}{{"running", running}, {"restarted", restarted}, {"crashed", crashed}}
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, m := range modes {
				if testing.Short() && m.mode == restarted {
					continue
				}
				t.Run(m.name, func(t *testing.T) {
					dir := t.TempDir()
					synctest.Test(t, func(t *testing.T) {
						r := &rig{t: t, open: open, root: dir, dir: filepath.Join(dir, "0"), mode: m.mode}
						if err := os.Mkdir(r.dir, 0o700); err != nil {
							t.Fatal(err)
						}
						r.start()
						defer r.abort()
						s.run(r)
						r.rest()
						if err := r.q.Check(t.Context()); err != nil {
							t.Errorf("Check after the scenario: %v", err)
						}
						r.stop()
					})
				})
			}
		})
	}
}

type mode int

const (
	running mode = iota
	restarted
	crashed
)

type scenario struct {
	name string
	run  func(r *rig)
}

// rig is an engine under test and what drives it.
type rig struct {
	t         *testing.T
	open      Open
	root, dir string
	mode      mode
	q         Engine
	cancel    context.CancelFunc
	done      chan error
	opened    int
	retention *queue.Retention
}

// start opens the engine and waits until it works.
func (r *rig) start() {
	r.t.Helper()
	r.q = r.open(r.t, r.dir)
	if r.retention != nil {
		r.q.Configure(*r.retention)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.done = make(chan error, 1)
	q := r.q
	go func() { r.done <- q.Run(ctx) }()
	synctest.Wait()
	if err := r.q.Healthy(); errors.Is(err, queue.ErrClosed) {
		r.t.Fatal("the queue was started and does not run")
	}
}

// stop ends the engine cleanly.
func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		r.t.Fatalf("Run: %v", err)
	}
	q := r.q
	r.q = nil
	if err := q.Close(); err != nil {
		r.t.Fatalf("Close: %v", err)
	}
}

// abort ends the engine after a scenario that failed half-way.
func (r *rig) abort() {
	if r.q == nil {
		return
	}
	r.cancel()
	if err := <-r.done; err != nil {
		r.t.Errorf("Run: %v", err)
	}
	if err := r.q.Close(); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}

// rest lets everything that was handed over become durable.
func (r *rig) rest() {
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

// step marks a point at which the engine may be stopped, or vanish. Leases do not survive it.
func (r *rig) step() {
	r.t.Helper()
	r.rest()
	switch r.mode {
	case running:
		return
	case restarted:
		r.stop()
	case crashed:
		r.opened++
		next := filepath.Join(r.root, fmt.Sprint(r.opened))
		if err := os.CopyFS(next, os.DirFS(r.dir)); err != nil {
			r.t.Fatal(err)
		}
		r.stop()
		r.dir = next
	}
	r.start()
	// After a crash an engine may spread overdue retries over a second.
	time.Sleep(time.Second)
}

func (r *rig) configure(c queue.Retention) {
	r.retention = &c
	r.q.Configure(c)
}

const account = "acme"

func laneOf(n int) queue.Lane {
	return queue.Lane{0: 0xAA, 14: byte(n >> 8), 15: byte(n)}
}

// submission returns an event for lanes.
func submission(n int, lanes ...queue.Lane) queue.Submission {
	return queue.Submission{
		Event: queue.Event{
			AccountID: account, Type: "task.create", Resource: fmt.Sprintf("project/%d", n),
			Time: time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC), Data: fmt.Appendf(nil, `{ "n" : %d }`, n),
		},
		Lanes: lanes,
	}
}

func (r *rig) accept(subs ...queue.Submission) []queue.Receipt {
	r.t.Helper()
	receipts, err := r.q.Accept(r.t.Context(), subs)
	if err != nil {
		r.t.Fatalf("Accept: %v", err)
	}
	if len(receipts) != len(subs) {
		r.t.Fatalf("Accept: %d receipts for %d submissions", len(receipts), len(subs))
	}
	return receipts
}

func unlimited(queue.Lane) queue.Room { return queue.Room{Pushes: 1 << 20} }

// claim claims up to limit deliveries that are due now; none is no error.
func (r *rig) claim(limit int) []queue.Claim { return r.claimWith(limit, unlimited) }

func (r *rig) claimWith(limit int, room func(queue.Lane) queue.Room) []queue.Claim {
	r.t.Helper()
	var all []queue.Claim
	for len(all) < limit {
		// Long enough for an engine to read from its disk, in no real time.
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Millisecond)
		got, err := r.q.Claim(ctx, limit-len(all), room, all)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			r.t.Fatalf("Claim: %v", err)
		}
		if len(got) == len(all) || len(got) > limit {
			r.t.Fatalf("Claim appended %d to %d, limit %d", len(got)-len(all), len(all), limit)
		}
		all = got
	}
	return all
}

// roomOnce gives the lanes room the first time they are asked about, and none later.
func roomOnce(room map[queue.Lane]int) func(queue.Lane) queue.Room {
	return func(l queue.Lane) queue.Room {
		n := room[l]
		room[l] = 0
		return queue.Room{Pushes: n}
	}
}

// claimOne claims exactly the one delivery that is due.
func (r *rig) claimOne() queue.Claim {
	r.t.Helper()
	got := r.claim(2)
	if len(got) != 1 {
		r.t.Fatalf("%d deliveries are due, want 1", len(got))
	}
	return got[0]
}

// none checks that nothing is due.
func (r *rig) none() {
	r.t.Helper()
	if got := r.claim(1); len(got) != 0 {
		r.t.Fatalf("%v is due, want nothing", got[0].Delivery(0))
	}
}

func attempt(class queue.Class, status int) *queue.Attempt {
	a := &queue.Attempt{StartedAt: time.Now(), Duration: 1234567 * time.Nanosecond, Class: class, Status: status}
	if class != queue.ClassDelivered {
		a.Error = "the receiver answered " + fmt.Sprint(status)
		a.Response = []byte("no")
	}
	return a
}

func delivered(c queue.Claim) queue.Settlement {
	return queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, Attempt: attempt(queue.ClassDelivered, 204), State: queue.StateDelivered}
}

func retrying(c queue.Claim, wait time.Duration) queue.Settlement {
	return queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, Attempt: attempt(queue.ClassRetry, 500), State: queue.StateRetrying, Due: time.Now().Add(wait)}
}

func dead(c queue.Claim) queue.Settlement {
	return queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, Attempt: attempt(queue.ClassRejected, 400), State: queue.StateDead, Reason: queue.ReasonRejected}
}

func (r *rig) settle(ss ...queue.Settlement) {
	r.q.Settle(ss...)
	r.rest()
}

// want checks how a delivery stands.
func (r *rig) want(id queue.DeliveryID, state queue.State, attempts int) *queue.Delivery {
	r.t.Helper()
	d, log, err := r.q.Delivery(r.t.Context(), account, id)
	if err != nil {
		r.t.Fatalf("Delivery(%v): %v", id, err)
	}
	if d.State != state || d.Attempts != attempts || len(log) != attempts {
		r.t.Fatalf("delivery is %s after %d attempts, %d in the log; want %s after %d", d.State, d.Attempts, len(log), state, attempts)
	}
	for i, a := range log {
		if a.Number != i+1 {
			r.t.Fatalf("attempt %d has number %d", i+1, a.Number)
		}
	}
	return d
}

func (r *rig) wantErr(got, want error) {
	r.t.Helper()
	if !errors.Is(got, want) {
		r.t.Fatalf("error is %v, want %v", got, want)
	}
}

func (r *rig) wantStats(pending, retrying, delivering, dead int64) {
	r.t.Helper()
	s := r.q.Stats()
	if s.Pending != pending || s.Retrying != retrying || s.Delivering != delivering || s.Dead != dead {
		r.t.Fatalf("stats are %d pending, %d retrying, %d delivering, %d dead; want %d, %d, %d, %d",
			s.Pending, s.Retrying, s.Delivering, s.Dead, pending, retrying, delivering, dead)
	}
}

func scenarios() []scenario {
	return slices.Concat(acceptScenarios(), claimScenarios(), settleScenarios(), dueScenarios(), adminScenarios(), listScenarios(), retentionScenarios(), policyScenarios(), replayScenarios(), randomScenarios(), shapedScenarios())
}
