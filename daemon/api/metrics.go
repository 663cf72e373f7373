package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// The reasons why a publication is refused: a closed set, each created at the start.
const (
	reasonInvalid   = "invalid"
	reasonTooLarge  = "too_large"
	reasonConflict  = "conflict"
	reasonFull      = "full"
	reasonBusy      = "busy"
	reasonClosed    = "closed"
	reasonAbandoned = "abandoned" // the client went away while it waited
	reasonError     = "error"
)

func refusals() []string {
	return []string{reasonInvalid, reasonTooLarge, reasonConflict, reasonFull, reasonBusy, reasonClosed, reasonAbandoned, reasonError}
}

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge

	accepted   prometheus.Counter
	duplicates prometheus.Counter
	refused    *prometheus.CounterVec

	backupDone, backupFailed      prometheus.Counter
	backupSuccess, backupDuration prometheus.Gauge

	stray *endpointMetrics // requests that reached no endpoint
}

// newMetrics registers the metrics; unready is asked by each scrape.
func newMetrics(r prometheus.Registerer, unready func(context.Context) error) (*metrics, error) {
	backups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "herald_backups_total", Help: "Backups begun, by how they ended.",
	}, []string{"result"})
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "herald_api_requests_total",
			Help: "Requests answered, by route, method and class of the status.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "herald_api_request_duration_seconds",
			Help:    "Time from the request's header to the end of the answer, by route and method.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_api_requests_in_flight",
			Help: "Requests being answered now.",
		}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "herald_api_events_accepted_total",
			Help: "Events made durable.",
		}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "herald_api_events_duplicate_total",
			Help: "Events submitted again and answered as before.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "herald_api_publications_refused_total",
			Help: "Publishing requests refused after access was granted, by reason.",
		}, []string{"reason"}),
		backupDone: backups.WithLabelValues("done"), backupFailed: backups.WithLabelValues("failed"),
		backupSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_backup_last_success_timestamp_seconds",
			Help: "When the last backup had been sent to its end; 0 if none was since the start.",
		}),
		backupDuration: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_backup_last_duration_seconds",
			Help: "How long the last backup that was sent to its end took, the sending included.",
		}),
	}
	for _, reason := range refusals() {
		m.refused.WithLabelValues(reason)
	}
	m.stray = m.of("none", "any")
	if r == nil {
		return m, nil
	}
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "herald_ready", Help: "1 if an event published now would be made durable, as /readyz has it, else 0.",
	}, func() float64 {
		if unready(context.Background()) != nil {
			return 0
		}
		return 1
	})
	for _, c := range []prometheus.Collector{
		m.requests, m.duration, m.inFlight, m.accepted, m.duplicates, m.refused, backups, m.backupSuccess, m.backupDuration, ready,
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the API: %w", err)
		}
	}
	return m, nil
}

// endpointMetrics are the series of one route and method, looked up once so that a request pays for
// two atomic additions only.
type endpointMetrics struct {
	classes  [6]prometheus.Counter // by the first digit of the status
	duration prometheus.Observer
}

func (m *metrics) of(route, method string) *endpointMetrics {
	e := &endpointMetrics{duration: m.duration.WithLabelValues(route, method)}
	for i := 2; i < len(e.classes); i++ {
		e.classes[i] = m.requests.WithLabelValues(route, method, fmt.Sprintf("%dxx", i))
	}
	return e
}

func (e *endpointMetrics) observe(status int, seconds float64) {
	class := status / 100
	if class < 2 || class > 5 {
		class = http.StatusInternalServerError / 100
	}
	e.classes[class].Inc()
	e.duration.Observe(seconds)
}
