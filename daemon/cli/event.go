package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"herald/daemon/client"
)

// Event is the command event with its subcommands.
type Event struct {
	Publish EventPublish `cmd:"" help:"Publish one event, or a file of them."`
	List    EventList    `cmd:"" help:"List the retained events, newest first."`
	Show    EventShow    `cmd:"" help:"Show an event with its deliveries."`
}

// EventList is the command event list.
type EventList struct {
	After string `api:"after" placeholder:"ID" help:"Go on after this event."`
	Listing
}

// Help is shown below the summary.
func (EventList) Help() string {
	return `Examples:

    herald event list --limit 20

    herald event list --limit 0 --json > events.json`
}

// Run prints the events.
func (c EventList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, c.Limit, "ID=id TYPE=type RESOURCE=resource TIME=time ACCEPTED=acceptedAt",
		"no events: publish one with `herald event publish`", "events")
}

// EventShow is the command event show.
type EventShow struct {
	ID string `arg:"" help:"The event."`
	API
}

// Help is shown below the summary.
func (EventShow) Help() string {
	return `Example:

    herald event show order-17`
}

// Run prints the event.
func (c EventShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"events", c.ID}})
}

// EventPublish is the command event publish.
type EventPublish struct {
	File           string    `arg:"" optional:"" help:"Events as NDJSON, one on each line as the API takes it; '-' is standard input."`
	ID             string    `placeholder:"ID" help:"Its id, which makes publishing it again harmless; without it one is made."`
	Type           string    `placeholder:"TYPE" help:"What happened, such as task.create."`
	Resource       string    `placeholder:"TYPE/ID" help:"What it happened to."`
	Time           time.Time `placeholder:"TIME" help:"When it happened (2026-11-21T12:00:00Z); without it, now."`
	Data           string    `default:"{}" placeholder:"JSON" help:"Its data, a JSON object, delivered byte for byte; '-' reads it from standard input."`
	Batch          int       `default:"500" placeholder:"N" help:"How many events of a file go in one request, 1 to 10000; they are accepted all or none."`
	IdempotencyKey string    `placeholder:"KEY" help:"Makes publishing the same file again, with the same --batch, harmless where its events have no ids."`
	API
}

// Help is shown below the summary.
func (EventPublish) Help() string {
	return `When it ends with exit code 0 everything is on disk, synced. One event is answered with its id. Of a file, the number of events is printed when it is done, or with --json a line {"id":…} for each; when the daemon asks to wait, it waits.

Examples:

    herald event publish --type task.create --data '{"title":"Call back"}'

    jq -n '{title:"Call back"}' | herald event publish --id order-17 --type task.create --resource project/proj1 --data -

    herald event publish events.ndjson --idempotency-key import-1

    herald event publish - < events.ndjson`
}

// Run publishes.
func (c EventPublish) Run(ctx context.Context, s Streams, v Version) error {
	switch {
	case c.File == "" && c.Type == "":
		return Usage(errors.New("what is to be published? Give --type and --data for one event, or a file of events ('-' for standard input)"))
	case c.File != "" && (c.Type != "" || c.ID != "" || c.Resource != "" || !c.Time.IsZero() || c.Data != "{}"):
		return Usage(errors.New("a file of events has what --id, --type, --resource, --time and --data say of one event: leave these out"))
	case c.Batch < 1 || c.Batch > 10000:
		return Usage(fmt.Errorf("--batch %d: it has to be 1 to 10000", c.Batch))
	}
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	if c.File != "" {
		return c.file(ctx, s, api)
	}
	data := []byte(c.Data)
	if c.Data == "-" {
		if data, err = io.ReadAll(s.Stdin); err != nil {
			return err
		}
		data = bytes.TrimSpace(data)
	}
	if !json.Valid(data) {
		return Usage(errors.New("--data is not JSON: it has to be an object such as '{\"title\":\"Call back\"}'"))
	}
	id, err := api.Publish(ctx, client.Event{ID: c.ID, Type: c.Type, Resource: c.Resource, Time: c.Time, Data: data})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.Stdout, map[string]string{"id": id})
	}
	_, err = fmt.Fprintln(s.Stdout, printable(id))
	return err
}

// maxBatch bounds the bytes of one request, below what a daemon takes by default.
const maxBatch = 8 << 20

// batch is the lines of one request.
type batch struct {
	body        bytes.Buffer
	first, last int // numbers of its lines in the file
	events      int
}

// fate tells what became of a request that was answered with err.
func fate(err error) string {
	_, refused := errors.AsType[*client.Problem](err)
	_, unsent := errors.AsType[*client.UnreachableError](err)
	if refused || unsent {
		return "are not published"
	}
	return "may be published or not: it is not known"
}

// before is how many lines there are before those of the batch; when it has none, before the one being read.
func (b *batch) before(read int) int {
	if b.events == 0 {
		return read
	}
	return b.first - 1
}

// file publishes the lines of a file, batch by batch.
func (c EventPublish) file(ctx context.Context, s Streams, api *client.Client) error {
	in, size, done, err := open(s, c.File)
	if err != nil {
		return err
	}
	defer done()
	bar := progress{w: s.Stderr, shown: Terminal(s.Stderr), total: size, unit: "events", began: time.Now()}
	lines := bufio.NewReaderSize(in, 64<<10)
	out := bufio.NewWriter(s.Stdout)
	published, read, number := 0, int64(0), 0
	b := batch{}
	send := func() error {
		if b.events == 0 {
			return nil
		}
		key := ""
		if c.IdempotencyKey != "" {
			key = fmt.Sprintf("%s/%d", c.IdempotencyKey, b.first)
		}
		ids, err := patiently(ctx, func() ([]string, error) { return api.PublishLines(ctx, bytes.NewReader(b.body.Bytes()), key) })
		if err != nil {
			bar.end()
			return errors.Join(fmt.Errorf("lines %d to %d %s, the %d events before them are; go on with: tail -n +%d FILE | herald event publish -",
				b.first, b.last, fate(err), published, b.first), err, out.Flush())
		}
		published += b.events
		b = batch{}
		bar.draw(read, published)
		if c.JSON {
			for _, id := range ids {
				if _, err := fmt.Fprintf(out, "{\"id\":%q}\n", id); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			bar.end()
			return errors.Join(fmt.Errorf("read %s: the %d events of the first %d lines are published; go on with: tail -n +%d FILE | herald event publish -",
				c.File, published, b.before(number), b.before(number)+1), err, out.Flush())
		}
		over := err != nil
		number++
		read += int64(len(line))
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if b.body.Len()+len(line) >= maxBatch {
				if err := send(); err != nil {
					return err
				}
			}
			if b.events == 0 {
				b.first = number
			}
			b.last = number
			b.events++
			b.body.Write(line)
			b.body.WriteByte('\n')
		}
		if b.events == c.Batch || over {
			if err := send(); err != nil {
				return err
			}
		}
		if over {
			break
		}
	}
	bar.end()
	if !c.JSON {
		if _, err := fmt.Fprintf(out, "%d events\n", published); err != nil {
			return err
		}
	}
	return out.Flush()
}

// patience is how often in a row a request is repeated that the daemon asked to wait with.
const patience = 20

// patiently makes a call again after the time the daemon asks for; it has done nothing when it says so.
func patiently[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		out, err := call()
		p, ok := errors.AsType[*client.Problem](err)
		if !ok || p.RetryAfter == 0 || n == patience || !pause(ctx, p.RetryAfter) {
			return out, err
		}
	}
}
