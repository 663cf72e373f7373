package dispatch

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
	"herald/store"
)

// endless always has a delivery due in each of its lanes, and costs next to nothing.
type endless struct {
	queue.Queue
	leased  [1]queue.Leased
	lanes   []queue.Lane
	turn    int
	aside   []atomic.Bool
	work    chan struct{}
	settled atomic.Int64
	enough  int64
	end     context.CancelFunc
}

func (q *endless) Claim(ctx context.Context, limit int, room func(queue.Lane) queue.Room, dst []queue.Claim) ([]queue.Claim, error) {
	for {
		for range q.lanes {
			q.turn = (q.turn + 1) % len(q.lanes)
			i := q.turn
			if q.aside[i].Load() {
				continue
			}
			q.aside[i].Store(true) // before room: a Wake after it must not be lost
			n := room(q.lanes[i]).Pushes
			if n <= 0 {
				continue
			}
			q.aside[i].Store(false)
			for range min(n, limit-len(dst)) {
				dst = append(dst, queue.Claim{Lane: q.lanes[i], Deliveries: q.leased[:], Attempt: 1})
			}
			if len(dst) == limit {
				return dst, nil
			}
		}
		if len(dst) > 0 {
			return dst, nil
		}
		select {
		case <-ctx.Done():
			return dst, ctx.Err()
		case <-q.work:
		}
	}
}

func (q *endless) Replaying() []queue.Lane { return nil }

func (q *endless) Wake(lanes ...queue.Lane) {
	for _, l := range lanes {
		q.aside[l[15]].Store(false)
	}
	select {
	case q.work <- struct{}{}:
	default:
	}
}

func (q *endless) Settle(ss ...queue.Settlement) {
	if q.settled.Add(int64(len(ss))) == q.enough {
		q.end()
	}
}

// BenchmarkDispatch is what a delivery costs beside the queue and the sender.
func BenchmarkDispatch(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run("lanes="+strconv.Itoa(n), func(b *testing.B) {
			ctx, end := context.WithCancel(b.Context())
			defer end()
			q := &endless{work: make(chan struct{}, 1), aside: make([]atomic.Bool, n), enough: int64(b.N), end: end}
			q.leased[0] = queue.Leased{Seq: 1, Event: &queue.Event{ID: "evt_1"}}
			s := &fakeStore{subs: make(map[store.SubscriptionID]*store.Subscription)}
			for i := range n {
				id := nth(byte(i))
				q.lanes = append(q.lanes, id)
				s.subs[store.SubscriptionID(id)] = &store.Subscription{ID: store.SubscriptionID(id), State: store.StateActive}
			}
			d, err := New(Options{Queue: q, Store: s, Sender: sendFunc(delivered), Registerer: prometheus.NewRegistry()})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			if err := d.Run(ctx); err != nil {
				b.Fatal(err)
			}
		})
	}
}
