package api

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

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

// readiness says whether an event would be made durable now, and if not every reason why.
func (a *API) readiness(c *call) error {
	if err := a.unready(c.r.Context()); err != nil {
		return err
	}
	return c.answer(http.StatusOK, health{"ready", a.version})
}

// unready says why no event would be made durable now, or nil, within a second.
func (a *API) unready(ctx context.Context) error {
	var why []string
	wait := retryStop
	if err := a.ready(); err != nil {
		why = append(why, notServing(err).detail)
	}
	limit, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	events, rest := a.queueHealth.ask(a.queue.Healthy), a.storeHealth.ask(a.store.Healthy)
	for _, engine := range [...]struct {
		what   string
		answer *asked
	}{{"events", events}, {"accounts and subscriptions", rest}} {
		if err := engine.answer.wait(limit); err != nil {
			why = append(why, notDurable(engine.what, err).detail)
			if !closed(err) {
				wait = retryFull
			}
		}
	}
	if why != nil {
		return unavailableFor(wait, "%s", strings.Join(why, "; "))
	}
	return nil
}

// askLimit is how long /readyz waits for the engines: what asks it wants to know within a second.
const askLimit = 500 * time.Millisecond

// errHangs is the answer of an engine that does not come.
var errHangs = errors.New("the disk does not answer")

// inquiry asks an engine for its health, which looks at the disk and so may hang with it. There is one question at a time, however many want to
// know the answer, and so one goroutine, which ends when the disk comes back.
type inquiry struct {
	mu      sync.Mutex
	pending *asked
}

type asked struct {
	done chan struct{}
	err  error // when done is closed
}

// ask asks, or joins in the question under way.
func (i *inquiry) ask(healthy func() error) *asked {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pending == nil {
		q := &asked{done: make(chan struct{})}
		i.pending = q
		go func() {
			q.err = healthy()
			i.mu.Lock()
			i.pending = nil
			i.mu.Unlock()
			close(q.done)
		}()
	}
	return i.pending
}

// wait waits for the answer, as long as the context lasts.
func (q *asked) wait(ctx context.Context) error {
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return errHangs
	}
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
	if closed(err) {
		return unavailableFor(retryStop, "%s cannot be made durable: the daemon is starting, stopping or restarting", what)
	}
	return unavailableFor(retryFull, "%s cannot be made durable: %s", what, strings.Join(reasons(err), "; "))
}

// closed tells an engine that does not run from one that cannot work.
func closed(err error) bool {
	return errors.Is(err, store.ErrClosed) || errors.Is(err, queue.ErrClosed)
}

// reasons are the texts of an error, which may be several joined.
func reasons(err error) []string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") { //nolint:errorlint // only the outermost is taken apart
		var all []string
		for _, e := range joined.Unwrap() {
			all = append(all, reasons(e)...)
		}
		return all
	}
	var errno syscall.Errno
	var path *fs.PathError
	switch {
	case errors.As(err, &errno):
		return []string{"the disk reports: " + errno.Error()}
	case errors.As(err, &path):
		return []string{"the disk reports: " + path.Err.Error()}
	case errors.Is(err, store.ErrFull), errors.Is(err, queue.ErrFull):
		return []string{"the disk is full"}
	}
	return []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
}
