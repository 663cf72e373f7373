package boltstore

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the store:
//
//	herald_store_commits_total                      commits that became durable
//	herald_store_commit_failures_total{reason}      commits that did not: "full" (no room) or "fatal"
//	herald_store_commit_seconds                     how long a commit took, from its begin to the last sync
//	herald_store_changes_total                      changes that became durable; several share a commit
//	herald_store_cache_hits_total{cache}            asked and answered from memory: "token", "account", "subscription",
//	                                                "implementation"
//	herald_store_cache_misses_total{cache}          asked and read from the file
//	herald_store_cache_entries{cache}               how many are in memory
//	herald_store_subscriptions                      how many there are, lanes not counted
//	herald_store_implementations                    how many there are
//	herald_store_devices                            how many there are, those still to be swept included
//	herald_store_full                               1 while changes fail because the disk is full
//	herald_store_file_bytes                         size of the file
//	herald_store_file_free_bytes                    part of it that holds nothing
type metrics struct {
	commits       prometheus.Counter
	failures      *prometheus.CounterVec
	commitSeconds prometheus.Histogram
	changes       prometheus.Counter
	hits, misses  *prometheus.CounterVec
}

// The values of the label "cache".
const (
	cacheToken          = "token"
	cacheAccount        = "account"
	cacheSubscription   = "subscription"
	cacheImplementation = "implementation"
)

// The values of the label "reason".
const (
	reasonFull  = "full"
	reasonFatal = "fatal"
)

func newMetrics() *metrics {
	m := &metrics{
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "herald_store_commits_total", Help: "Commits of the store that became durable.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "herald_store_commit_failures_total", Help: "Commits of the store that failed, by reason.",
		}, []string{"reason"}),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "herald_store_commit_seconds", Help: "Time a commit of the store took, syncs included.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5},
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "herald_store_changes_total", Help: "Changes that became durable.",
		}),
		hits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "herald_store_cache_hits_total", Help: "Records asked for and found in memory, by cache.",
		}, []string{"cache"}),
		misses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "herald_store_cache_misses_total", Help: "Records asked for and read from the file, by cache.",
		}, []string{"cache"}),
	}
	for _, r := range []string{reasonFull, reasonFatal} {
		m.failures.WithLabelValues(r)
	}
	return m
}

// register puts the metrics on the registry; the gauges are read from the store when it is scraped. After
// an error none of them is left there.
func (s *Store) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	}
	entries := func(name string, size func() int) prometheus.Collector {
		return gauge("herald_store_cache_entries", "Records in memory, by cache.",
			prometheus.Labels{"cache": name}, func() float64 { return float64(size()) })
	}
	m := s.metrics
	for _, c := range []prometheus.Collector{
		m.commits, m.failures, m.commitSeconds, m.changes, m.hits, m.misses,
		entries(cacheToken, s.tokens.size), entries(cacheAccount, s.accounts.size), entries(cacheSubscription, s.subscriptions.size),
		entries(cacheImplementation, s.implementations.size),
		gauge("herald_store_subscriptions", "Subscriptions in the store.", nil, func() float64 { return float64(s.count.Load()) }),
		gauge("herald_store_implementations", "Implementations in the store.", nil, func() float64 { return float64(s.implementationCount.Load()) }),
		gauge("herald_store_devices", "Devices in the store.", nil, func() float64 { return float64(s.deviceCount.Load()) }),
		gauge("herald_store_full", "Whether changes fail because the disk is full.", nil, func() float64 {
			if s.isFull() {
				return 1
			}
			return 0
		}),
		gauge("herald_store_file_bytes", "Size of the store's file.", nil, func() float64 { return float64(s.db.Stats().FileBytes) }),
		gauge("herald_store_file_free_bytes", "Part of the store's file that holds nothing.", nil, func() float64 {
			return float64(s.db.Stats().FreeBytes)
		}),
	} {
		if err := r.Register(c); err != nil {
			s.unregister()
			return fmt.Errorf("register the store's metrics: %w", err)
		}
		s.undo = append(s.undo, func() { r.Unregister(c) })
	}
	return nil
}

// unregister takes the metrics off the registry, so that a closed store is not asked for its figures.
func (s *Store) unregister() {
	for _, undo := range s.undo {
		undo()
	}
	s.undo = nil
}
