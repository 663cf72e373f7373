package dispatch

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
	"herald/store"
)

// returned is why a claimed delivery was given back without an attempt.
type returned int

const (
	returnedHeld      returned = iota // its subscription is paused or disabled
	returnedShutdown                  // the daemon stops
	returnedStore                     // the store could not be read
	returnedOver                      // the queue leased more than there was room for
	returnedDissolved                 // its subscription takes fewer records in a push than it has
	returnedCount
)

func (r returned) String() string {
	return [...]string{"held", "shutdown", "store", "over", "dissolved"}[r]
}

// metrics are what the dispatcher tells Prometheus:
//
//	herald_dispatch_attempts_total{outcome}        pushes by what they came to (queue.Classes)
//	herald_dispatch_records_total{outcome}         records in these pushes
//	herald_dispatch_attempt_seconds                how long pushes took
//	herald_dispatch_in_flight                      pushes that workers have in hand
//	herald_dispatch_workers                        how many may be in hand at once
//	herald_dispatch_active_lanes                   subscriptions that have or lately had pushes in hand, fail, or are held
//	herald_dispatch_held_lanes                     those of them that are held: paused, disabled, or resting
//	herald_dispatch_open_breakers                  those of them whose circuit breaker is open
//	herald_dispatch_suspended_platforms            platforms of implementations whose provider does not take the credentials
//	herald_dispatch_breaker_transitions_total{to}  what breakers did: open, half-open (a probe goes out), closed
//	herald_dispatch_probes_total{outcome}          probes of open breakers: succeeded, failed
//	herald_dispatch_dead_total{reason}             deliveries given up: exhausted, rejected
//	herald_dispatch_returned_total{reason}         claims given back without an attempt: held, shutdown, store, over, dissolved
//	herald_dispatch_disabled_total{reason}         subscriptions disabled: gone, failing, failures
//	herald_dispatch_warnings_total                 warnings that a subscription will be disabled
//	herald_dispatch_health_writes_total            updates of what the store knows of failing receivers
//	herald_dispatch_notices_total{type}            operational events published
//	herald_dispatch_notices_dropped_total          operational events given up: too many at once, or no room
type metrics struct {
	attempts  map[queue.Class]prometheus.Counter
	records   map[queue.Class]prometheus.Counter
	seconds   prometheus.Histogram
	exhausted prometheus.Counter
	rejected  prometheus.Counter
	returned  [returnedCount]prometheus.Counter
	disabled  map[string]prometheus.Counter

	transitions                   map[BreakerState]prometheus.Counter
	probesSucceeded, probesFailed prometheus.Counter
	warned, healthWrites          prometheus.Counter
	notices                       map[string]prometheus.Counter
	noticesDropped                prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, d *Dispatcher) (*metrics, error) {
	const prefix = "herald_dispatch_"
	var all []prometheus.Collector
	vec := func(name, label, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
		all = append(all, v)
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
		all = append(all, c)
		return c
	}
	attempts := vec("attempts_total", "outcome", "Pushes by what they came to.")
	records := vec("records_total", "outcome", "Records in pushes, by what these came to.")
	dead := vec("dead_total", "reason", "Deliveries given up, by reason.")
	back := vec("returned_total", "reason", "Claims given back without an attempt, by reason.")
	disabled := vec("disabled_total", "reason", "Subscriptions disabled, by reason.")
	transitions := vec("breaker_transitions_total", "to", "Circuit breakers that came to be in a state.")
	probes := vec("probes_total", "outcome", "Probes of open circuit breakers, by whether they succeeded.")
	notices := vec("notices_total", "type", "Operational events published, by type, whether or not somebody subscribes to them.")
	m := &metrics{
		attempts: make(map[queue.Class]prometheus.Counter),
		records:  make(map[queue.Class]prometheus.Counter),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "attempt_seconds", Help: "How long pushes took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60},
		}),
		exhausted: dead.WithLabelValues(queue.ReasonExhausted),
		rejected:  dead.WithLabelValues(queue.ReasonRejected),
		disabled:  make(map[string]prometheus.Counter),

		transitions:     make(map[BreakerState]prometheus.Counter),
		probesSucceeded: probes.WithLabelValues("succeeded"),
		probesFailed:    probes.WithLabelValues("failed"),
		warned:          counter("warnings_total", "Warnings that a failing subscription will be disabled."),
		healthWrites:    counter("health_writes_total", "Updates of what the store knows about failing receivers."),
		notices:         make(map[string]prometheus.Counter),
		noticesDropped:  counter("notices_dropped_total", "Operational events given up because too many came at once, or there was no room."),
	}
	all = append(all, m.seconds)
	for _, c := range queue.Classes() {
		m.attempts[c] = attempts.WithLabelValues(string(c))
		m.records[c] = records.WithLabelValues(string(c))
	}
	for r := range returnedCount {
		m.returned[r] = back.WithLabelValues(r.String())
	}
	for _, r := range []string{store.ReasonGone, store.ReasonFailing, store.ReasonFailures} {
		m.disabled[r] = disabled.WithLabelValues(r)
	}
	for _, s := range []BreakerState{BreakerOpen, BreakerHalfOpen, BreakerClosed} {
		m.transitions[s] = transitions.WithLabelValues(string(s))
	}
	for _, t := range []string{TypeDisabled, TypeGone, TypeWarning, TypeEnabled, TypeSuspended, TypeResumed, TypeDead} {
		m.notices[t] = notices.WithLabelValues(t)
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
	all = append(
		all,
		gauge("in_flight", "Pushes that workers have in hand.", func() int { return d.inFlight }),
		gauge("workers", "How many pushes may be in hand at once.", func() int { return d.workers }),
		gauge("active_lanes", "Subscriptions that have or lately had pushes in hand, fail, or are held.", func() int { return len(d.lanes) }),
		gauge("held_lanes", "Subscriptions that are held: paused, disabled, or resting after a failure of the store.", func() int { return d.held }),
		gauge("open_breakers", "Subscriptions whose circuit breaker is open.", func() int { return d.open }),
		gauge("suspended_platforms", "Platforms of implementations whose provider does not take the credentials.", func() int { return d.barred }),
	)
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(out *queue.Outcome, s *queue.Settlement) {
	n := float64(len(s.Deliveries))
	if c := m.attempts[out.Class]; c != nil {
		c.Inc()
		m.records[out.Class].Add(n)
	}
	m.seconds.Observe(out.Duration.Seconds())
	if s.State == queue.StateDead {
		if s.Reason == queue.ReasonExhausted {
			m.exhausted.Add(n)
		} else {
			m.rejected.Add(n)
		}
	}
}
