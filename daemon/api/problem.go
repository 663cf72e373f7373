package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"herald/queue"
	"herald/store"
)

// kind is a class of failure; the catalogue gives each its status and title.
type kind uint8

const (
	badRequest kind = iota
	notRegistered
	unauthorized
	forbidden
	suspended
	notFound
	methodNotAllowed
	conflict
	gone
	tooLarge
	unsupportedMedia
	tooManyRequests
	internal
	unavailable
)

// catalogue is every failure a client can see. 406 and 422 are not in it and must not be.
var catalogue = [...]struct {
	status int
	title  string
}{
	badRequest:       {http.StatusBadRequest, "Bad request"},
	notRegistered:    {http.StatusBadRequest, "error occured"}, //nolint:misspell // the published spelling
	unauthorized:     {http.StatusUnauthorized, "Not authenticated"},
	forbidden:        {http.StatusForbidden, "Not allowed"},
	suspended:        {http.StatusForbidden, "Account suspended"},
	notFound:         {http.StatusNotFound, "Not found"},
	methodNotAllowed: {http.StatusMethodNotAllowed, "Method not allowed"},
	conflict:         {http.StatusConflict, "Conflict"},
	gone:             {http.StatusGone, "Gone"},
	tooLarge:         {http.StatusRequestEntityTooLarge, "Too large"},
	unsupportedMedia: {http.StatusUnsupportedMediaType, "Unsupported media type"},
	tooManyRequests:  {http.StatusTooManyRequests, "Too many requests"},
	internal:         {http.StatusInternalServerError, "Internal error"},
	unavailable:      {http.StatusServiceUnavailable, "Unavailable"},
}

// problem is a failure as the client sees it, after RFC 9457. It is the error type of this package:
// whatever else a handler returns is translated by problemOf.
type problem struct {
	kind   kind
	detail string
	faults []fault
	// reason is the metric label of a refused publication; "" means by the kind.
	reason string
	// header holds what the status asks for (Allow, Retry-After, WWW-Authenticate).
	header [][2]string
}

// fault is one thing wrong with one field: its name, or its JSON pointer (RFC 6901) when it is nested.
type fault struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// Error implements error.
func (p *problem) Error() string { return p.detail }

func (p *problem) with(name, value string) *problem {
	p.header = append(p.header, [2]string{name, value})
	return p
}

func newProblem(k kind, format string, args ...any) *problem {
	return &problem{kind: k, detail: fmt.Sprintf(format, args...)}
}

// retryLater is how many seconds a client should wait when the daemon cannot take something now. A
// commit takes milliseconds, a full disk takes a person, a restart takes seconds.
const (
	retryBusy = 1
	retryFull = 30
	retryStop = 5
)

func unavailableFor(seconds int, format string, args ...any) *problem {
	return newProblem(unavailable, format, args...).with("Retry-After", strconv.Itoa(seconds))
}

// clientGone is for a client that went away: nobody reads it.
const clientGone = "the request was given up before it was answered"

// problemOf translates an error of the engines. The second result says that the error itself has to
// be logged, because the client is not told what it was.
func problemOf(err error) (*problem, bool) {
	if p, ok := errors.AsType[*problem](err); ok {
		return p, false
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		p := unavailableFor(retryBusy, clientGone)
		p.reason = reasonAbandoned
		return p, false
	case errors.Is(err, store.ErrNotFound), errors.Is(err, queue.ErrNotFound):
		return newProblem(notFound, "there is nothing of that id, or it is another account's"), false
	case errors.Is(err, store.ErrExists):
		return newProblem(conflict, "the id is taken"), false
	case errors.Is(err, store.ErrLimit):
		return newProblem(conflict, "the account has as many as it may have"), false
	case errors.Is(err, queue.ErrGone):
		return newProblem(conflict, "the subscription was deleted, so nothing is delivered to it any more"), false
	case errors.Is(err, queue.ErrBusy):
		p := unavailableFor(retryBusy, "more is waiting to be written to disk than can be taken; try again in a second")
		p.reason = reasonBusy
		return p, false
	case errors.Is(err, store.ErrFull), errors.Is(err, queue.ErrFull):
		p := unavailableFor(retryFull, "there is no room on disk to make this durable; nothing was changed")
		p.reason = reasonFull
		return p, false
	case errors.Is(err, store.ErrClosed), errors.Is(err, queue.ErrClosed):
		p := unavailableFor(retryStop, "the daemon is stopping or restarting; nothing was changed")
		p.reason = reasonClosed
		return p, false
	}
	p := unavailableFor(retryStop, "the daemon could not read or write its data; the operator finds the reason in its log")
	p.reason = reasonError
	return p, true
}

const maxInstance = 512

// fail answers with a problem. Where the answer has begun already it breaks the connection instead,
// so that nobody takes a torn list for a whole one.
func (c *call) fail(err error) {
	p, hidden := problemOf(err)
	if hidden {
		c.api.outage.Do(func() {
			c.api.logger.ErrorContext(c.r.Context(), "an engine failed", "route", c.route(), "error", err)
		})
	}
	if c.status != 0 {
		panic(http.ErrAbortHandler)
	}
	c.problem = p
	// The path only: a query may hold what does not belong into logs and error trackers.
	instance := c.r.URL.EscapedPath()
	if instance == "" { // of a CONNECT, which has no path
		instance = "/"
	}
	if len(instance) > maxInstance {
		instance = instance[:maxInstance]
	}
	entry := catalogue[p.kind]
	body, merr := json.Marshal(struct {
		Title    string  `json:"title"`
		Status   int     `json:"statusCode"`
		Detail   string  `json:"detail"`
		Instance string  `json:"instance"`
		Errors   []fault `json:"errors,omitempty"`
	}{entry.title, entry.status, strings.ToValidUTF8(p.detail, "\uFFFD"), instance, p.faults})
	if merr != nil { // every string in it is valid UTF-8, so this is a mistake in this file
		panic(fmt.Sprintf("encode a problem: %v", merr))
	}
	h := c.Header()
	for _, kv := range p.header {
		h.Set(kv[0], kv[1])
	}
	h["Content-Type"] = problemType
	h["Cache-Control"] = noStore
	c.WriteHeader(entry.status)
	_, _ = c.Write(body) // a client that has gone cannot be told
}

// faults collects what is wrong with the fields of a body.
type faults struct {
	list []fault
	more int // found beyond maxFaults
}

// maxFaults bounds an answer: who has more wrong than this corrects these first.
const maxFaults = 25

func (f *faults) add(field, format string, args ...any) {
	if len(f.list) == maxFaults {
		f.more++
		return
	}
	f.list = append(f.list, fault{
		strings.ToValidUTF8(clip(field, 300), "\uFFFD"),
		strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD"),
	})
}

// problem returns all that was found as one failure of that kind, or nil.
func (f *faults) problem(k kind) *problem {
	switch len(f.list) {
	case 0:
		return nil
	case 1:
		return &problem{kind: k, detail: f.list[0].Field + ": " + f.list[0].Detail, faults: f.list}
	}
	const named = 3
	var b strings.Builder
	fmt.Fprintf(&b, "%d fields are wrong: ", len(f.list)+f.more)
	for i, x := range f.list {
		if i == named {
			b.WriteString("; and more, see errors")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(x.Field + ": " + x.Detail)
	}
	return &problem{kind: k, detail: b.String(), faults: f.list}
}

// err is problem as an error; nil when nothing is wrong.
func (f *faults) err() error {
	if p := f.problem(badRequest); p != nil {
		return p
	}
	return nil
}

// clip shortens text that came from outside to at most n bytes, at a character's border.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// show quotes a value that came from outside, for a message.
func show(s string) string { return strconv.Quote(clip(s, 64)) }
