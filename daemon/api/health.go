package api

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"herald/queue"
	"herald/store"
)

// adminRoutes are health and metrics: they need no token and answer also while the rest does not.
func (a *API) adminRoutes() []route {
	scrape := promhttp.HandlerFor(a.gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return []route{
		{"/healthz", []*endpoint{{method: http.MethodGet, open: true, anyQuery: true, do: a.health}}},
		{"/readyz", []*endpoint{{method: http.MethodGet, open: true, anyQuery: true, do: a.readiness}}},
		{"/metrics", []*endpoint{{method: http.MethodGet, open: true, anyQuery: true, do: func(c *call) error {
			scrape.ServeHTTP(c, c.r)
			return nil
		}}}},
	}
}

type health struct {
	Status  string `json:"status"`
	Version string `json:"version,omitempty"`
}

// health says that the process answers, and nothing more: what restarts a hung process should not
// restart one whose disk is full.
func (a *API) health(c *call) error {
	return c.answer(http.StatusOK, health{"ok", a.version})
}

// readiness says whether an event would be made durable now.
func (a *API) readiness(c *call) error {
	if err := a.unready(); err != nil {
		return err
	}
	return c.answer(http.StatusOK, health{"ready", a.version})
}

// unready says why no event would be made durable now, or nil.
func (a *API) unready() error {
	if err := a.ready(); err != nil {
		return notServing(err)
	}
	if err := a.queue.Healthy(); err != nil {
		return notDurable("events", err)
	}
	if err := a.store.Healthy(); err != nil {
		return notDurable("accounts and subscriptions", err)
	}
	return nil
}

// notServing is for the times before and after the daemon serves.
func notServing(err error) *problem {
	p := unavailableFor(retryStop, "the daemon does not serve now: %s", err.Error())
	p.reason = reasonClosed
	return p
}

// notDurable tells why, without the paths and wrappings of an engine's error: of what the system
// reported its own words, else what the engine says to people.
func notDurable(what string, err error) *problem {
	if errors.Is(err, store.ErrClosed) || errors.Is(err, queue.ErrClosed) {
		return unavailableFor(retryStop, "%s cannot be made durable: the daemon is starting, stopping or restarting", what)
	}
	var errno syscall.Errno
	var path *fs.PathError
	why := err.Error()
	switch {
	case errors.As(err, &errno):
		why = "the disk reports: " + errno.Error()
	case errors.As(err, &path):
		why = "the disk reports: " + path.Err.Error()
	case errors.Is(err, store.ErrFull), errors.Is(err, queue.ErrFull):
		why = "the disk is full"
	}
	return unavailableFor(retryFull, "%s cannot be made durable: %s", what, strings.ReplaceAll(why, "\n", "; "))
}
