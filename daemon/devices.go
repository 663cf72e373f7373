package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/daemon/egress"
	"herald/daemon/notification"
	"herald/daemon/sender/apns"
	"herald/daemon/sender/fcm"
	"herald/daemon/sender/webhook"
	"herald/daemon/sender/webpush"
	"herald/store"
)

// buildNotifier makes the senders of notifications, and what turns messages into them.
func (d *Daemon) buildNotifier(way *egress.Egress, pusher *webhook.Sender, registry prometheus.Registerer) error {
	c := &d.o.Config.Providers
	agent := "Herald/" + d.o.Version
	toFCM, err := wayTo(way, c.FCM.URL)
	if err != nil {
		return err
	}
	toAPNs, err := wayTo(way, c.APNs.URL)
	if err != nil {
		return err
	}
	toBrowsers, err := wayTo(way, c.WebPush.URL)
	if err != nil {
		return err
	}
	f, err := fcm.New(fcm.Options{Transport: toFCM, URL: c.FCM.URL, UserAgent: agent, Logger: d.logger.With("part", "fcm")})
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	d.closers = append(d.closers, func() error { f.Close(); return nil })
	a, err := apns.New(apns.Options{Transport: toAPNs, URL: c.APNs.URL, UserAgent: agent, Logger: d.logger.With("part", "apns")})
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	d.closers = append(d.closers, func() error { a.Close(); return nil })
	w, err := webpush.New(webpush.Options{Transport: toBrowsers, URL: c.WebPush.URL, UserAgent: agent, Logger: d.logger.With("part", "webpush")})
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	d.closers = append(d.closers, func() error { w.Close(); return nil })
	d.notifier, err = notification.New(notification.Options{
		Store: d.store, Queue: d.queue, FCM: f, APNs: a, WebPush: w, Webhook: pusher,
		Logger: d.logger.With("part", "notification"), Registerer: registry,
	})
	if err != nil {
		return fmt.Errorf("build the notifier: %w", err)
	}
	return nil
}

// wayTo makes the transports to a provider: the guarded way out, which leads also to a stand-in that the operator named.
func wayTo(way *egress.Egress, standin string) (func() *http.Transport, error) {
	if standin == "" {
		return way.Transport, nil
	}
	u, err := url.Parse(standin)
	if err != nil || u.Host == "" {
		return nil, &ExitError{ExitUsage, errors.New("the URL of a provider is not one")} // the configuration was checked for it
	}
	return func() *http.Transport { return way.TransportTo(u) }, nil
}

// messages is the notifier in the words of the API.
type messages struct{ *notification.Notifier }

// Send makes a message durable for every device it goes to.
func (m messages) Send(ctx context.Context, message *store.Message) (store.Sent, error) {
	return m.Accept(ctx, message)
}

// subject is under what push services reach the operator: the public URL, as far as it is one.
func (d *Daemon) subject() string {
	u, err := url.Parse(d.o.Config.PublicURL)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	subject := "https://" + u.Hostname()
	if store.CheckVAPIDSubject(subject) != nil {
		return ""
	}
	return subject
}

// sendAhead is how far ahead a message may be scheduled: so that a day is left to send it, or half of the time for which events are kept.
func sendAhead(kept time.Duration) time.Duration {
	const day = 24 * time.Hour
	return max(min(kept-day, 365*day), kept/2)
}
