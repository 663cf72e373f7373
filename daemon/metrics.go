package daemon

import (
	"fmt"
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"herald/store/boltkit"
)

// metrics are what the daemon as a whole tells Prometheus, beside the figures of the Go runtime and of the process:
//
//	herald_build_info{version}                               always 1
//	herald_data_free_bytes                                   room that the file system of the data directory has for us
//	herald_config_last_reload_successful                     1, or 0 when the last reload was refused
//	herald_config_last_reload_success_timestamp_seconds      when the configuration in force was read
type metrics struct {
	reloadSuccessful, reloadSuccess prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, version, dataDir string) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		reloadSuccessful: gauge("herald_config_last_reload_successful", "Whether the last reload of the configuration was taken."),
		reloadSuccess:    gauge("herald_config_last_reload_success_timestamp_seconds", "When the configuration in force was read."),
	}
	m.reloaded(true)
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "herald_build_info", Help: "Always 1; the label tells the version.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	free := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "herald_data_free_bytes", Help: "Room that the file system of the data directory has for the daemon; NaN where it is not known.",
	}, func() float64 {
		n, err := boltkit.FreeSpace(dataDir)
		if err != nil {
			return math.NaN()
		}
		return float64(n)
	})
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, free, m.reloadSuccessful, m.reloadSuccess,
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// reloaded notes how a reload went. The start counts as one: the configuration was read then.
func (m *metrics) reloaded(ok bool) {
	if !ok {
		m.reloadSuccessful.Set(0)
		return
	}
	m.reloadSuccessful.Set(1)
	m.reloadSuccess.SetToCurrentTime()
}
