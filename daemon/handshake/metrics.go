package handshake

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
)

// The reasons why a record is given up: a closed set, each created at the start.
const (
	reasonExpired = "expired" // its time is over, or would be before the next attempt
	reasonGone    = "gone"    // the receiver answered 410: it does not want to be asked
)

// metrics are what the handshake tells Prometheus:
//
//	herald_handshake_attempts_total{outcome}  attempts to hand over a validation record (queue.Classes)
//	herald_handshake_given_up_total{reason}   records that were never taken: expired, gone
//	herald_handshake_waiting                  records that wait for an attempt
//	herald_handshake_in_flight                attempts under way
type metrics struct {
	attempts map[queue.Class]prometheus.Counter
	givenUp  map[string]prometheus.Counter
	waiting  prometheus.Gauge
	inFlight prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "herald_handshake_attempts_total", Help: "Attempts to hand over a validation record, by what they came to.",
	}, []string{"outcome"})
	givenUp := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "herald_handshake_given_up_total", Help: "Validation records given up, by reason.",
	}, []string{"reason"})
	m := &metrics{
		attempts: make(map[queue.Class]prometheus.Counter), givenUp: make(map[string]prometheus.Counter),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_handshake_waiting", Help: "Validation records that wait for an attempt.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_handshake_in_flight", Help: "Attempts to hand over a validation record that are under way.",
		}),
	}
	for _, c := range queue.Classes() {
		m.attempts[c] = attempts.WithLabelValues(string(c))
	}
	for _, reason := range []string{reasonExpired, reasonGone} {
		m.givenUp[reason] = givenUp.WithLabelValues(reason)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{attempts, givenUp, m.waiting, m.inFlight} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the handshake: %w", err)
		}
	}
	return m, nil
}
