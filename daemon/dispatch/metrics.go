package dispatch

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
)

// returned is why a claimed delivery was given back without an attempt.
type returned int

const (
	returnedHeld     returned = iota // its subscription is paused or disabled
	returnedShutdown                 // the daemon stops
	returnedStore                    // the store could not be read
	returnedOver                     // the queue leased more than there was room for
	returnedCount
)

func (r returned) String() string {
	return [...]string{"held", "shutdown", "store", "over"}[r]
}

// metrics are what the dispatcher tells Prometheus:
//
//	herald_dispatch_attempts_total{outcome}  attempts by what they came to (queue.Classes)
//	herald_dispatch_attempt_seconds          how long they took
//	herald_dispatch_in_flight                deliveries that workers have in hand
//	herald_dispatch_workers                  how many may be in hand at once
//	herald_dispatch_active_lanes             subscriptions that have or lately had deliveries in hand, or are held
//	herald_dispatch_held_lanes               those of them that are held: paused, disabled, or resting
//	herald_dispatch_dead_total{reason}       deliveries given up: exhausted, rejected
//	herald_dispatch_returned_total{reason}   claims given back without an attempt: held, shutdown, store, over
//	herald_dispatch_disabled_total           subscriptions disabled because their receiver is gone
type metrics struct {
	attempts  map[queue.Class]prometheus.Counter
	seconds   prometheus.Histogram
	exhausted prometheus.Counter
	rejected  prometheus.Counter
	returned  [returnedCount]prometheus.Counter
	disabled  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, d *Dispatcher) (*metrics, error) {
	const prefix = "herald_dispatch_"
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "attempts_total", Help: "Attempts by what they came to.",
	}, []string{"outcome"})
	dead := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "dead_total", Help: "Deliveries given up, by reason.",
	}, []string{"reason"})
	back := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "returned_total", Help: "Claimed deliveries given back without an attempt, by reason.",
	}, []string{"reason"})
	m := &metrics{
		attempts: make(map[queue.Class]prometheus.Counter),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "attempt_seconds", Help: "How long attempts took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60},
		}),
		exhausted: dead.WithLabelValues(queue.ReasonExhausted),
		rejected:  dead.WithLabelValues(queue.ReasonRejected),
		disabled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "disabled_total", Help: "Subscriptions disabled because their receiver is gone.",
		}),
	}
	for _, c := range queue.Classes() {
		m.attempts[c] = attempts.WithLabelValues(string(c))
	}
	for r := range returnedCount {
		m.returned[r] = back.WithLabelValues(r.String())
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, func() float64 {
			d.mu.Lock()
			defer d.mu.Unlock()
			return float64(value())
		})
	}
	for _, c := range []prometheus.Collector{
		attempts, dead, back, m.seconds, m.disabled,
		gauge("in_flight", "Deliveries that workers have in hand.", func() int { return d.inFlight }),
		gauge("workers", "How many deliveries may be in hand at once.", func() int { return d.workers }),
		gauge("active_lanes", "Subscriptions that have or lately had deliveries in hand, or are held.", func() int { return len(d.lanes) }),
		gauge("held_lanes", "Subscriptions that are held: paused, disabled, or resting after a failure of the store.", func() int { return d.held }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(out *queue.Outcome, s *queue.Settlement) {
	if c := m.attempts[out.Class]; c != nil {
		c.Inc()
	}
	m.seconds.Observe(out.Duration.Seconds())
	if s.State == queue.StateDead {
		if s.Reason == queue.ReasonRejected {
			m.rejected.Inc()
		} else {
			m.exhausted.Inc()
		}
	}
}
