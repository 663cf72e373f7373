package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"herald/daemon/client"
)

// Replay is the command subscription replay with its subcommands.
type Replay struct {
	Start  ReplayStart  `cmd:"" help:"Deliver the events of a day or a span again."`
	List   ReplayList   `cmd:"" help:"List the replays of a subscription."`
	Show   ReplayShow   `cmd:"" help:"Show a replay."`
	Cancel ReplayCancel `cmd:"" help:"End a replay."`
}

// ReplayStart is the command subscription replay start.
type ReplayStart struct {
	ID      string  `arg:"" help:"The subscription."`
	Date    string  `api:"date" placeholder:"DAY" help:"The day, in UTC: 2026-11-21."`
	Since   string  `api:"since" as:"time" placeholder:"WHEN" help:"Instead of a day: events accepted from then on; an age such as 2h or 7d, a date or a time."`
	Until   string  `api:"until" as:"time" placeholder:"WHEN" help:"Events accepted before that; without it, all up to now."`
	Outcome string  `api:"outcome" placeholder:"failed" enum:",failed" default:"" help:"failed: only what has not arrived."`
	Rate    float64 `api:"rate" placeholder:"N" help:"How many a second become due."`
	DryRun  bool    `api:"dryRun" xor:"until" help:"Count them, and do nothing."`
	Wait    bool    `xor:"until" help:"Wait until each of them was tried, with a progress bar on a terminal. Ctrl-C ends the waiting, not the replay."`
	API
}

// Help is shown below the summary.
func (ReplayStart) Help() string {
	return `Every retained event of that span that matches the subscription as it stands now is delivered again, with its old id, behind live traffic. It goes on when this command has ended.

Examples:

    herald subscription replay start ID --date 2026-11-21 --dry-run

    herald subscription replay start ID --since 6h --outcome failed --rate 50 --wait`
}

// Run starts the replay, and waits for its end when that is wanted.
func (c ReplayStart) Run(ctx context.Context, s Streams, v Version) error {
	if !c.Wait {
		return c.send(ctx, s, v, c, http.MethodPost, "subscriptions", c.ID, "replay")
	}
	body, err := fields(s, c)
	if err != nil {
		return err
	}
	start := client.Call{Method: http.MethodPost, Path: []string{"subscriptions", c.ID, "replay"}, Body: body}
	body["dryRun"] = true
	counted, err := c.ask(ctx, s, v, start)
	if err != nil {
		return err
	}
	var all struct{ Count int64 }
	if err := json.Unmarshal(counted, &all); err != nil {
		return err
	}
	delete(body, "dryRun")
	answer, err := c.ask(ctx, s, v, start)
	if err != nil {
		return err
	}
	bar := progress{w: s.Stderr, shown: Terminal(s.Stderr), total: all.Count, unit: "deliveries", began: time.Now()}
	for {
		var now client.Replay
		if err := json.Unmarshal(answer, &now); err != nil {
			return err
		}
		bar.draw(now.Deliveries, int(now.Deliveries))
		if now.State != client.ReplayRunning || !pause(ctx, replayLook) {
			break
		}
		next, err := c.ask(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"subscriptions", c.ID, "replays", now.ID}})
		if err != nil {
			bar.end()
			return ended(ctx, err)
		}
		answer = next
	}
	bar.end()
	return c.print(s, s.Stdout, answer)
}

// replayLook is how long the command waits between two looks at a replay.
const replayLook = 200 * time.Millisecond

// ReplayList is the command subscription replay list.
type ReplayList struct{ One }

// Help is shown below the summary.
func (ReplayList) Help() string {
	return `Those that run, and the last that have ended.

Example:

    herald subscription replay list ID`
}

// Run prints the replays.
func (c ReplayList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, 0, "ID=id STATE=state SINCE=since UNTIL=until OUTCOME=outcome DELIVERIES=deliveries REACHED=reachedAt",
		"no replays yet: begin one with `herald subscription replay start`", "subscriptions", c.ID, "replays")
}

// ReplayShow is the command subscription replay show.
type ReplayShow struct {
	ID     string `arg:"" help:"The subscription."`
	Replay string `arg:"" help:"The replay, as 'herald subscription replay list' shows it."`
	API
}

// Help is shown below the summary.
func (ReplayShow) Help() string {
	return `Example:

    herald subscription replay show ID REPLAY`
}

// Run prints the replay.
func (c ReplayShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"subscriptions", c.ID, "replays", c.Replay}})
}

// ReplayCancel is the command subscription replay cancel.
type ReplayCancel struct {
	ID     string `arg:"" help:"The subscription."`
	Replay string `arg:"" help:"The replay."`
	Removal
}

// Help is shown below the summary.
func (ReplayCancel) Help() string {
	return `What it has made due and was not tried yet is as it was before.

Example:

    herald subscription replay cancel ID REPLAY`
}

// Run cancels the replay.
func (c ReplayCancel) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, []string{c.Replay}, "What it has not delivered yet is not delivered again.", "subscriptions", c.ID, "replays")
}

// Dead is the command subscription dead with its subcommands.
type Dead struct {
	List  DeadList  `cmd:"" help:"List the dead deliveries of a subscription."`
	Retry DeadRetry `cmd:"" help:"Try dead deliveries again."`
}

// DeadList is the command subscription dead list.
type DeadList struct {
	ID     string `arg:"" api:"subscription" help:"The subscription."`
	State  string `kong:"-" api:"state"`
	Reason string `api:"reason" placeholder:"REASON" enum:",exhausted,rejected,expired" default:"" help:"Only those that are dead because of it: exhausted, rejected or expired."`
	Since  string `api:"since" as:"time" placeholder:"WHEN" help:"Only of events accepted from then on; an age such as 2h or 7d, a date or a time."`
	Listing
}

// Help is shown below the summary.
func (DeadList) Help() string {
	return `Dead is what the retry schedule has been used up for, what can never be sent, and what got too old.

Example:

    herald subscription dead list ID --since 1d`
}

// Run prints the deliveries.
func (c DeadList) Run(ctx context.Context, s Streams, v Version) error {
	c.State = client.DeliveryDead
	return c.list(ctx, s, v, c, c.Limit, deliveryColumns, "nothing is dead", "deliveries")
}

// DeadRetry is the command subscription dead retry.
type DeadRetry struct {
	ID     string  `arg:"" help:"The subscription."`
	Reason string  `api:"reason" placeholder:"REASON" enum:",exhausted,rejected,expired" default:"" help:"Only those that are dead because of it: exhausted, rejected or expired."`
	Type   string  `api:"type" placeholder:"TYPE" help:"Only of events of this type."`
	Since  string  `api:"since" as:"time" placeholder:"WHEN" help:"Only of events accepted from then on; an age such as 2h or 7d, a date or a time."`
	Until  string  `api:"until" as:"time" placeholder:"WHEN" help:"Only of events accepted before that."`
	Rate   float64 `api:"rate" placeholder:"N" help:"How many a second become due; without it, all at once."`
	DryRun bool    `api:"dryRun" help:"Count them, and do nothing."`
	API
}

// Help is shown below the summary.
func (DeadRetry) Help() string {
	return `Their schedule begins anew. It does not wait for them.

Examples:

    herald subscription dead retry ID --dry-run

    herald subscription dead retry ID --reason exhausted --since 1d --rate 20`
}

// Run makes the deliveries due.
func (c DeadRetry) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "subscriptions", c.ID, "retry")
}
