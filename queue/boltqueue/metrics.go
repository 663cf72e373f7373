package boltqueue

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
	"herald/store/boltkit"
)

// metrics are what the queue tells Prometheus. No label is an id.
//
//	herald_queue_accepted_total          events made durable
//	herald_queue_settled_total           outcomes made durable
//	herald_queue_expired_total           deliveries that became dead because their event was over age
//	herald_queue_replayed_total          deliveries that became due by replays
//	herald_queue_commits_total{result}   commits: done, full (no room), failed (the last one)
//	herald_queue_commit_seconds          time from one commit's start until it was synced
//	herald_queue_commit_events           events per commit
//	herald_queue_commit_outcomes         outcomes per commit
//	herald_queue_events                  retained events
//	herald_queue_pending                 deliveries that wait for their first attempt
//	herald_queue_retrying                deliveries that wait for another attempt
//	herald_queue_delivering              deliveries under way
//	herald_queue_dead                    dead deliveries
//	herald_queue_replays                 replays that are running
//	herald_queue_oldest_due_seconds      age of the oldest event that waits for a first attempt; 0 if none
//	herald_queue_unsettled               outcomes not yet on disk
//	herald_queue_file_bytes              size of the file
//	herald_queue_free_bytes              part of the file that can be used again
//	herald_queue_freelist_bytes          size of the list of free pages
//	herald_queue_open_views              read transactions under way
//	herald_queue_full                    1 while events are refused for want of room, else 0
type metrics struct {
	q        *Queue
	accepted prometheus.Counter
	settled  prometheus.Counter
	expired  prometheus.Counter
	replayed prometheus.Counter
	commits  *prometheus.CounterVec
	seconds  prometheus.Histogram
	events   prometheus.Histogram
	outcomes prometheus.Histogram
	gauges   []gauge

	started time.Time // of the commit under way; writer only
}

// gauge is read when Prometheus asks.
type gauge struct {
	desc  *prometheus.Desc
	value func(m *moment) float64
}

// moment is what all gauges of one scrape are computed from.
type moment struct {
	file                                                   boltkit.Stats
	events, pending, retrying, delivering, dead, unsettled int64
	replays                                                int
	oldest                                                 time.Time
	full                                                   bool
}

const metricPrefix = "herald_queue_"

func newMetrics(q *Queue) *metrics {
	counts := prometheus.ExponentialBuckets(1, 4, 8)
	m := &metrics{
		q:        q,
		accepted: prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "accepted_total", Help: "Events made durable."}),
		settled:  prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "settled_total", Help: "Outcomes made durable."}),
		expired:  prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "expired_total", Help: "Deliveries that became dead because their event was over age."}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "replayed_total", Help: "Deliveries that became due by replays."}),
		commits:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricPrefix + "commits_total", Help: "Commits by result."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricPrefix + "commit_seconds", Help: "Time from the start of a commit until it was synced.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		events:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricPrefix + "commit_events", Help: "Events per commit.", Buckets: counts}),
		outcomes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricPrefix + "commit_outcomes", Help: "Outcomes per commit.", Buckets: counts}),
	}
	for _, result := range []string{"done", "full", "failed"} {
		m.commits.WithLabelValues(result)
	}
	add := func(name, help string, value func(*moment) float64) {
		m.gauges = append(m.gauges, gauge{prometheus.NewDesc(metricPrefix+name, help, nil, nil), value})
	}
	add("events", "Retained events.", func(n *moment) float64 { return float64(n.events) })
	add("pending", "Deliveries that wait for their first attempt.", func(n *moment) float64 { return float64(n.pending) })
	add("retrying", "Deliveries that wait for another attempt.", func(n *moment) float64 { return float64(n.retrying) })
	add("delivering", "Deliveries under way.", func(n *moment) float64 { return float64(n.delivering) })
	add("dead", "Dead deliveries.", func(n *moment) float64 { return float64(n.dead) })
	add("replays", "Replays that are running.", func(n *moment) float64 { return float64(n.replays) })
	add("oldest_due_seconds", "Age of the oldest event that waits for a first attempt.", func(n *moment) float64 {
		if n.oldest.IsZero() {
			return 0
		}
		return max(time.Since(n.oldest).Seconds(), 0)
	})
	add("unsettled", "Outcomes not yet on disk.", func(n *moment) float64 { return float64(n.unsettled) })
	add("file_bytes", "Size of the file.", func(n *moment) float64 { return float64(n.file.FileBytes) })
	add("free_bytes", "Part of the file that can be used again.", func(n *moment) float64 { return float64(n.file.FreeBytes) })
	add("freelist_bytes", "Size of the list of free pages.", func(n *moment) float64 { return float64(n.file.FreelistBytes) })
	add("open_views", "Read transactions under way.", func(n *moment) float64 { return float64(n.file.OpenViews) })
	add("full", "1 while events are refused for want of room.", func(n *moment) float64 {
		if n.full {
			return 1
		}
		return 0
	})
	return m
}

// Describe implements prometheus.Collector for the gauges.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range m.gauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector for the gauges.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	q := m.q
	n := moment{file: q.db.Stats(), full: q.space.tight() || q.space.quota.Load()}
	q.mu.Lock()
	n.events, n.pending, n.dead, n.unsettled = q.events, q.pending, q.dead, int64(q.unsettled)
	n.retrying, n.delivering = q.retrying-q.leasedRetries, int64(len(q.leases))
	n.oldest = q.findOldest()
	for l := range q.replaying {
		for _, r := range l.replays {
			if r.State == queue.ReplayRunning {
				n.replays++
			}
		}
	}
	q.mu.Unlock()
	for _, g := range m.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(&n))
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m, m.accepted, m.settled, m.expired, m.replayed, m.commits, m.seconds, m.events, m.outcomes}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for i, c := range m.collectors() {
		if err := r.Register(c); err != nil {
			for _, c := range m.collectors()[:i] {
				r.Unregister(c)
			}
			return err
		}
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	for _, c := range m.collectors() {
		r.Unregister(c)
	}
}

func (m *metrics) begin() { m.started = time.Now() }

func (m *metrics) committed(st *stage) {
	m.seconds.Observe(time.Since(m.started).Seconds())
	m.commits.WithLabelValues("done").Inc()
	m.events.Observe(float64(st.nAccepted))
	m.outcomes.Observe(float64(st.nOutcomes))
	m.accepted.Add(float64(st.nAccepted))
	m.settled.Add(float64(st.nOutcomes))
}

func (m *metrics) failed(err error) {
	var fatal *boltkit.FatalError
	switch {
	case boltkit.IsFull(err):
		m.commits.WithLabelValues("full").Inc()
	case errors.As(err, &fatal):
		m.commits.WithLabelValues("failed").Inc()
	}
}
