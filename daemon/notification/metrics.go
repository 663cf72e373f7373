package notification

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"herald/queue"
	"herald/store"
)

// metrics are what the Notifier tells Prometheus:
//
//	herald_notification_messages_total{to}                   messages accepted: to a contact, a device, many contacts (multicast), or made of an event
//	herald_notification_devices_total                        notifications made of them, one for each device
//	herald_notification_attempts_total{provider,outcome}     attempts to hand one to its provider, by what they came to (queue.Classes)
//	herald_notification_devices_removed_total{provider}      devices removed because their provider said that the token is dead
//	herald_notification_devices_throttled_total              answers that asked to leave one device alone for a while
//	herald_notification_statuses_lost_total                  status changes for callback URLs that the queue did not take in time
type metrics struct {
	messages        map[string]prometheus.Counter
	devices         prometheus.Counter
	attempts        map[store.Provider]map[queue.Class]prometheus.Counter
	pruned          map[store.Provider]prometheus.Counter
	throttled, lost prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const prefix = "herald_notification_"
	var all []prometheus.Collector
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
		all = append(all, v)
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
		all = append(all, c)
		return c
	}
	messages := vec("messages_total", "Messages accepted, by whom they are to.", "to")
	attempts := vec("attempts_total", "Attempts to hand a notification to its provider, by what they came to.", "provider", "outcome")
	removed := vec("devices_removed_total", "Devices removed because their provider said that the token is dead.", "provider")
	m := &metrics{
		messages:  make(map[string]prometheus.Counter),
		devices:   counter("devices_total", "Notifications made of messages, one for each device."),
		attempts:  make(map[store.Provider]map[queue.Class]prometheus.Counter),
		pruned:    make(map[store.Provider]prometheus.Counter),
		throttled: counter("devices_throttled_total", "Answers of providers that asked to leave one device alone for a while."),
		lost:      counter("statuses_lost_total", "Status changes for callback URLs that the queue did not take in time."),
	}
	for _, to := range []string{"contact", "device", "multicast", "event"} {
		m.messages[to] = messages.WithLabelValues(to)
	}
	for _, p := range []store.Provider{store.ProviderFCM, store.ProviderAPNs, store.ProviderWebPush} {
		m.pruned[p] = removed.WithLabelValues(string(p))
		m.attempts[p] = make(map[queue.Class]prometheus.Counter)
		for _, c := range queue.Classes() {
			m.attempts[p][c] = attempts.WithLabelValues(string(p), string(c))
		}
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) accepted(to string, devices int) {
	m.messages[to].Inc()
	m.devices.Add(float64(devices))
}

// attempt counts one. A class that is not known here is a fault of this program, which counting does not mend.
func (m *metrics) attempt(p store.Provider, c queue.Class) {
	if counter := m.attempts[p][c]; counter != nil {
		counter.Inc()
	}
}
