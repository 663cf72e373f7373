package cli

import (
	"context"
	"net/http"

	"herald/daemon/client"
)

// Delivery is the command delivery with its subcommands.
type Delivery struct {
	List  DeliveryList  `cmd:"" help:"List deliveries, the newest event first."`
	Show  DeliveryShow  `cmd:"" help:"Show a delivery with its attempts."`
	Retry DeliveryRetry `cmd:"" help:"Try a delivery again now."`
}

const deliveryColumns = "ID=id EVENT=eventType STATE=state REASON=reason ATTEMPTS=attemptCount ACCEPTED=acceptedAt NEXT=nextAttemptAt SUBSCRIPTION=subscriptionId"

// DeliveryList is the command delivery list.
type DeliveryList struct {
	Subscription string `api:"subscription" placeholder:"ID" help:"Only of this subscription."`
	Event        string `api:"event" placeholder:"ID" help:"Only of this event."`
	State        string `api:"state" placeholder:"STATE" enum:",pending,delivering,delivered,retrying,dead,held,discarded" default:"" help:"Only in this state: pending, delivering, delivered, retrying, dead, held or discarded."`
	Reason       string `api:"reason" placeholder:"REASON" help:"Only dead or discarded ones because of it: exhausted, rejected, expired, unsubscribed or disabled."`
	Since        string `api:"since" as:"time" placeholder:"WHEN" help:"Only of events accepted from then on; an age such as 2h or 7d, a date or a time."`
	After        string `api:"after" placeholder:"ID" help:"Go on after this delivery."`
	Listing
}

// Help is shown below the summary.
func (DeliveryList) Help() string {
	return `Examples:

    herald delivery list --state retrying

    herald delivery list --subscription ID --since 1h --limit 0 --json`
}

// Run prints the deliveries.
func (c DeliveryList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, c.Limit, deliveryColumns, "no such deliveries", "deliveries")
}

// DeliveryShow is the command delivery show.
type DeliveryShow struct {
	ID string `arg:"" help:"The delivery, as 'herald delivery list' shows it."`
	API
}

// Help is shown below the summary.
func (DeliveryShow) Help() string {
	return `Each attempt tells when it was, what the receiver answered, and what went wrong.

Example:

    herald delivery show dlv_00000000000060d209vbsi3iq2qp17eordcpufo`
}

// Run prints the delivery.
func (c DeliveryShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"deliveries", c.ID}})
}

// DeliveryRetry is the command delivery retry.
type DeliveryRetry struct {
	ID string `arg:"" help:"The delivery."`
	API
}

// Help is shown below the summary.
func (DeliveryRetry) Help() string {
	return `Whatever its state, it becomes due, and its schedule begins anew. 'herald subscription dead retry' does it for many.

Example:

    herald delivery retry dlv_00000000000060d209vbsi3iq2qp17eordcpufo`
}

// Run makes the delivery due.
func (c DeliveryRetry) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodPost, Path: []string{"deliveries", c.ID, "retry"}})
}
