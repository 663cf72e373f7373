package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"herald/daemon/client"
)

// Tail is the command tail.
type Tail struct {
	Subscription string        `placeholder:"ID" help:"Only of this subscription."`
	State        []string      `placeholder:"STATE" enum:"pending,delivering,delivered,retrying,dead,held,discarded" help:"Only changes to this state; repeat for several."`
	Since        string        `placeholder:"WHEN" help:"Begin with the events accepted from then on; an age such as 2h, a date or a time. Without it, with those that come."`
	Interval     time.Duration `default:"2s" placeholder:"TIME" help:"How long it waits between two looks, at least 100ms."`
	Output
	Remote
}

// Help is shown below the summary.
func (Tail) Help() string {
	return `Prints a line whenever a delivery is new or its state has changed, and what went wrong where something did, until Ctrl-C, also over a restart of the daemon. It asks the daemon from time to time, and looks at up to 1,000 of the newest deliveries: on a busy daemon choose a subscription.

Examples:

    herald tail

    herald tail --state retrying --state dead --json | jq .eventType

    herald tail --subscription ID --since 10m`
}

const (
	// tailWindow is how many deliveries one look goes back at most.
	tailWindow = 1000
	// tailDetails is how many failures of one look are asked for their reason.
	tailDetails = 20
)

// tailed is what tail knows of a delivery.
type tailed struct {
	State      string    `json:"state"`
	Attempts   int       `json:"attemptCount"`
	ID         string    `json:"id"`
	EventType  string    `json:"eventType"`
	Subscriber string    `json:"subscriptionId"`
	AcceptedAt time.Time `json:"acceptedAt"`
	raw        json.RawMessage
}

func (d tailed) unfinished() bool {
	return slices.Contains([]string{client.DeliveryPending, client.DeliveryDelivering, client.DeliveryRetrying, client.DeliveryHeld}, d.State)
}

// Run polls until it is interrupted.
func (c Tail) Run(ctx context.Context, s Streams, v Version) error {
	if c.Interval < minInterval {
		return Usage(fmt.Errorf("--interval %s is too short: at least %s", c.Interval, minInterval))
	}
	since := ""
	if c.Since != "" {
		var err error
		if since, err = past(c.Since, time.Now()); err != nil {
			return Usage(fmt.Errorf("--since: %w", err))
		}
	}
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	var seen map[string]tailed
	if since == "" {
		// What is there already is where it begins; the daemon's clock counts, not ours.
		if _, since, err = c.look(ctx, s, api, "", nil, 1); err != nil {
			return ended(ctx, err)
		}
		if seen, since, err = c.look(ctx, s, api, since, nil, tailWindow); err != nil {
			return ended(ctx, err)
		}
	} else {
		seen = make(map[string]tailed)
	}
	rest := lull{s: s}
	for {
		now, next, err := c.look(ctx, s, api, since, seen, tailWindow)
		switch {
		case err == nil:
			seen, since = now, next
		case !rest.begins(ctx, err):
			return ended(ctx, err)
		}
		if !pause(ctx, c.Interval) {
			return nil
		}
	}
}

// look lists what was accepted since then, and prints what has changed; nothing when seen is nil. It returns what is there, and
// since when the next look has to list: the oldest delivery that can still change.
func (c Tail) look(ctx context.Context, s Streams, api *client.Client, since string, seen map[string]tailed, window int) (map[string]tailed, string, error) {
	query := url.Values{"limit": {fmt.Sprint(window)}}
	for name, value := range map[string]string{"subscription": c.Subscription, "since": since} {
		if value != "" {
			query.Set(name, value)
		}
	}
	now := make(map[string]tailed)
	var changed []tailed
	next, fresh := time.Time{}, true
	for raw, err := range api.List(ctx, []string{"deliveries"}, query) {
		if err != nil {
			return nil, "", err
		}
		d := tailed{raw: raw}
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, "", err
		}
		if next.IsZero() || d.unfinished() {
			next = d.AcceptedAt // they come newest first
		}
		before, known := seen[d.ID]
		if !known || before.State != d.State || before.Attempts != d.Attempts {
			changed = append(changed, d)
		}
		fresh = fresh && !known
		now[d.ID] = d
		if len(now) == window {
			break
		}
	}
	if !next.IsZero() {
		since = next.UTC().Format(time.RFC3339Nano)
	}
	if seen == nil {
		return now, since, nil
	}
	if len(now) == window && fresh {
		if _, err := fmt.Fprintf(s.Stderr, "more than %d deliveries since the last look: some are not shown\n", window); err != nil {
			return nil, "", err
		}
	}
	slices.Reverse(changed)
	details := tailDetails
	for _, d := range changed {
		if len(c.State) > 0 && !slices.Contains(c.State, d.State) {
			continue
		}
		if err := c.line(ctx, s, api, d, &details); err != nil {
			return nil, "", err
		}
	}
	return now, since, nil
}

// line prints one delivery. Columns are wide enough for what is usual, because nobody knows what will come.
func (c Tail) line(ctx context.Context, s Streams, api *client.Client, d tailed, details *int) error {
	if c.JSON {
		var b bytes.Buffer
		if err := json.Compact(&b, d.raw); err != nil {
			return err
		}
		b.WriteByte('\n')
		_, err := s.Stdout.Write(escaped(b.Bytes()))
		return err
	}
	why := ""
	if d.Attempts > 0 && (d.State == client.DeliveryRetrying || d.State == client.DeliveryDead) && *details > 0 {
		*details--
		answer, err := api.Do(ctx, client.Call{Method: http.MethodGet, Path: []string{"deliveries", d.ID}})
		if err != nil {
			return err
		}
		var full client.Delivery
		if err := json.Unmarshal(answer, &full); err != nil {
			return err
		}
		if n := len(full.Attempts); n > 0 {
			why = "  " + printable(full.Attempts[n-1].Error)
		}
	}
	state := d.State
	if s.Colour(s.Stdout) {
		state = paint(state, false)
	}
	_, err := io.WriteString(s.Stdout, fmt.Sprintf("%s  %s%s  %2d  %-24s  %s  %s%s\n", moment(d.AcceptedAt), state,
		strings.Repeat(" ", max(0, 10-len(d.State))), d.Attempts, printable(d.EventType), printable(d.ID), printable(d.Subscriber), why))
	return err
}
