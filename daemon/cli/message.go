package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"herald/daemon/client"
)

// Message is the command message with its subcommands.
type Message struct {
	Send      MessageSend      `cmd:"" help:"Send a notification to a contact, or to one device."`
	Multicast MessageMulticast `cmd:"" help:"Send a notification to many contacts."`
	Show      MessageShow      `cmd:"" help:"Tell where a message is, once or until it is done."`
}

// MessageFields are the flags for what a notification is made of.
type MessageFields struct {
	Implementation string            `api:"implementationId" placeholder:"ID" help:"The app."`
	Title          string            `group:"What:" api:"body.title" placeholder:"TEXT" help:"Its title; by language with --set body.title.nl=Hallo."`
	Text           string            `group:"What:" api:"body.text" placeholder:"TEXT" help:"Its text, likewise."`
	ImageURL       string            `name:"image-url" group:"What:" api:"imageUrl" placeholder:"URL" help:"A picture."`
	Data           map[string]string `group:"What:" api:"data" placeholder:"KEY=VALUE" mapsep:"none" help:"A pair for the app; repeat for several."`
	Badge          *int              `group:"What:" api:"badge" placeholder:"N" help:"The number at the app's icon; 0 takes it away."`
	Sound          string            `group:"What:" api:"sound" placeholder:"NAME" help:"A sound of the app, or default."`
	Silent         bool              `group:"What:" api:"silent" help:"Show nothing, wake the app."`
	TTL            *int              `name:"ttl" group:"How:" api:"ttl" placeholder:"SECONDS" help:"How long it is kept for a device that cannot be reached."`
	Priority       string            `group:"How:" api:"priority" placeholder:"PRIORITY" enum:",high,normal" default:"" help:"high or normal."`
	CollapseKey    string            `group:"How:" api:"collapseKey" placeholder:"KEY" help:"Replaces what still waits with the same key."`
	SendAt         string            `group:"How:" api:"sendAt" placeholder:"TIME" help:"When to send it, at most seven days ahead: 2026-11-21T12:00:00Z."`
	CallbackURL    string            `name:"callback-url" group:"How:" api:"callbackUrl" placeholder:"URL" help:"Where changes of its status are pushed to."`
	IdempotencyKey string            `group:"How:" api:"idempotencyKey" placeholder:"KEY" help:"Makes sending it again harmless."`
	DryRun         bool              `group:"How:" api:"dryRun" help:"Check it, and send nothing."`
	Fields
}

// MessageSend is the command message send.
type MessageSend struct {
	Contact    string `group:"To whom:" api:"routeeContactId" xor:"whom" placeholder:"ID" help:"To all devices of this contact."`
	Token      string `group:"To whom:" api:"deviceToken.token" xor:"whom" and:"token" placeholder:"TOKEN" help:"To this device, registered or not."`
	DeviceType string `group:"To whom:" api:"deviceToken.type" and:"token" placeholder:"TYPE" help:"Its type: ANDROID, APPLE or WEB."`
	MessageFields
	API
}

// Help is shown below the summary.
func (MessageSend) Help() string {
	return `When it ends with exit code 0 the message is on disk. The trackingId it prints is what 'herald message show' takes. What has no flag is set with --set or --file; docs/api.md tells the fields.

Examples:

    herald message send --implementation shop --contact +31612345678 --title Hello --text "Your order is on its way."

    herald message send --implementation shop --device-type WEB --token "$(cat subscription.json)" --text Hello --dry-run

    herald message send --file message.json --set apn.threadId=orders`
}

// Run sends the message.
func (c MessageSend) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "messages")
}

// MessageMulticast is the command message multicast.
type MessageMulticast struct {
	Contacts     []string `arg:"" optional:"" api:"contacts" help:"The contacts, up to 10,000."`
	ContactsFile string   `api:"contacts" as:"lines" placeholder:"FILE" help:"Instead: a file with a contact on each line; '-' is standard input."`
	MessageFields
	API
}

// Help is shown below the summary.
func (MessageMulticast) Help() string {
	return `Examples:

    herald message multicast --implementation shop --text "Sale today" +31612345678 +31687654321

    herald message multicast --implementation shop --text "Sale today" --contacts-file contacts.txt`
}

// Run sends the message.
func (c MessageMulticast) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "messages", "multicast")
}

// MessageShow is the command message show.
type MessageShow struct {
	ID    string `arg:"" help:"The trackingId."`
	Limit int    `default:"100" placeholder:"N" help:"Show at most N of its devices, 1 to 1000."`
	After string `placeholder:"NEXT" help:"Go on with the devices after those that were shown: what they had as next."`
	Watching
	API
}

// Help is shown below the summary.
func (MessageShow) Help() string {
	return `With --watch it ends when the message is no longer QUEUED. The statuses before and the attempts of each device are shown with --json.

Examples:

    herald message show TRACKING-ID

    herald message show TRACKING-ID --watch`
}

// Run prints the message.
func (c MessageShow) Run(ctx context.Context, s Streams, v Version) error {
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	query := url.Values{"limit": {strconv.Itoa(c.Limit)}}
	if c.After != "" {
		query.Set("after", c.After)
	}
	return c.watch(ctx, s, c.API, func() (json.RawMessage, bool, error) {
		answer, err := api.Do(ctx, client.Call{Method: http.MethodGet, Path: []string{"messages", c.ID}, Query: query})
		if err != nil {
			return nil, false, err
		}
		var m client.MessageStatus
		err = json.Unmarshal(answer, &m)
		return answer, m.Status != client.MessageQueued, err
	})
}
