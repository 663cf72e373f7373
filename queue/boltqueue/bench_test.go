package boltqueue

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"herald/queue"
)

// BenchmarkQueue takes events through accept, claim and settle: K events per call, each for F of 1000 lanes. It reports
// the processor time and the bytes written for one event.
func BenchmarkQueue(b *testing.B) {
	lanes := make([]queue.Lane, 1000)
	for i := range lanes {
		lanes[i] = queue.Lane{byte(i >> 8), byte(i), 1}
	}
	data := make([]byte, 1024)
	for _, f := range []int{1, 10, 100} {
		for _, k := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("F=%d/K=%d", f, k), func(b *testing.B) {
				var written atomic.Int64
				q := running(b, Options{
					NoPace: true, Retention: queue.Retention{Events: time.Hour, MaxBytes: 256 << 20},
					WriteAt: func(p []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
						written.Add(int64(len(p)))
						return write(p, off)
					},
				})
				var claims []queue.Claim
				n := 0
				began, start := cpuTime(), time.Now()
				written.Store(0)
				for b.Loop() {
					subs := make([]queue.Submission, k)
					for i := range subs {
						subs[i] = queue.Submission{Event: queue.Event{AccountID: "a", Type: "task.create", Time: start, Data: data}, Lanes: make([]queue.Lane, f)}
						for j := range f {
							subs[i].Lanes[j] = lanes[(n*31+j*7)%len(lanes)]
						}
						n++
					}
					if _, err := q.Accept(b.Context(), subs); err != nil {
						b.Fatal(err)
					}
					for left := k * f; left > 0; left -= len(claims) {
						var err error
						if claims, err = q.Claim(b.Context(), left, anyRoom, claims[:0]); err != nil {
							b.Fatal(err)
						}
						ss := make([]queue.Settlement, len(claims))
						for i, c := range claims {
							ss[i] = queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StateDelivered, Attempt: &queue.Attempt{StartedAt: start, Duration: time.Millisecond, Class: queue.ClassDelivered, Status: 200}}
						}
						q.Settle(ss...)
					}
				}
				wall := time.Since(start)
				b.ReportMetric(float64((cpuTime()-began).Nanoseconds())/1e3/float64(n), "cpu-us/event")
				b.ReportMetric(float64(written.Load())/float64(n), "written-B/event")
				b.ReportMetric(float64(n)/wall.Seconds(), "events/s")
			})
		}
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFanOut accepts one event for very many lanes: what the publisher waits for grows by a few bytes a lane.
func BenchmarkFanOut(b *testing.B) {
	for _, f := range []int{1, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("F=%d", f), func(b *testing.B) {
			q := running(b, Options{NoPace: true})
			lanes := make([]queue.Lane, f)
			for i := range lanes {
				lanes[i] = queue.Lane{byte(i >> 16), byte(i >> 8), byte(i), 1}
			}
			accept := func() {
				_, err := q.Accept(b.Context(), []queue.Submission{{
					Event: queue.Event{AccountID: "a", Type: "task.create", Time: time.Now(), Data: []byte(`{}`)}, Lanes: lanes,
				}})
				if err != nil {
					b.Fatal(err)
				}
			}
			accept() // gives the lanes their numbers
			for b.Loop() {
				accept()
			}
		})
	}
}

// BenchmarkFrom reads the deliveries of 10,000 events, as many of each state, in pages of 1000.
func BenchmarkFrom(b *testing.B) {
	const events, page = 10_000, 1000
	q := running(b, Options{NoPace: true})
	for from := 0; from < events; from += page {
		subs := make([]queue.Submission, page)
		for i := range subs {
			subs[i] = event(i, queue.Lane{1})
			subs[i].Data = make([]byte, 1024)
			if i%4 == 0 {
				subs[i].Due = time.Now().Add(time.Hour)
			}
		}
		if _, err := q.Accept(b.Context(), subs); err != nil {
			b.Fatal(err)
		}
	}
	for n := 0; n < events/2; {
		claims := claimAll(b, q, 1000)
		for i, c := range claims {
			s := done(c)
			if i%2 == 0 {
				s.State, s.Reason = queue.StateDead, queue.ReasonRejected
			}
			q.Settle(s)
		}
		n += len(claims)
	}
	for b.Loop() {
		n := 0
		for from := uint64(1); from <= events; from += page {
			list, err := q.DeliveriesFrom(b.Context(), "a", from, page)
			if err != nil {
				b.Fatal(err)
			}
			n += len(list)
		}
		if n != events {
			b.Fatalf("%d deliveries", n)
		}
	}
}
