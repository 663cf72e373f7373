package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"herald/daemon/client"
)

// step is one thing the demo shows and checks.
type step struct {
	title string
	do    func(context.Context) error
}

// story is what the steps share: who there is, and what must have arrived in the end.
type story struct {
	out      *printer
	daemon   *daemon
	receiver *receiver
	browser  *browser
	began    time.Time
	limit    time.Duration // of one step

	// transport goes to the daemon's address; names are the shell variables printed so far.
	transport *http.Transport
	names     map[string]string

	token        client.Token
	subscription client.Subscription

	// due is what each event that must arrive carries, by its id.
	due map[string][]byte
	// accepted counts the events answered with 202, also those nobody wanted.
	accepted int
	restarts int
	// retried is the event whose first pushes were answered with 500.
	retried string
	// replayed are the events that must have arrived once more by a replay.
	replayed []string
}

func newStory(out *printer, d *daemon, r *receiver, b *browser) *story {
	return &story{
		out: out, daemon: d, receiver: r, browser: b,
		began:     time.Now(),
		transport: &http.Transport{Proxy: nil},
		names:     map[string]string{},
		due:       map[string][]byte{},
	}
}

func (t *story) steps() []step {
	return []step{
		{"Start a daemon and wait until it is ready", t.start},
		{"Mint an access token over the unix socket", t.mint},
		{"Put resources into the catalogue", t.catalogue},
		{"Subscribe: who wants which events, and where", t.subscribe},
		{"Publish an event; it arrives, signed", t.publish},
		{"Publish several: a JSON array, and NDJSON", t.publishMany},
		{"Repeat an id: nothing happens twice", t.repeat},
		{"Send a bad request: the answer says what is wrong", t.badRequest},
		{"Ask the receiver first: nothing is pushed until it has confirmed", t.confirm},
		{"Push as XML: the receiver parses it and finds what was published", t.publishXML},
		{"The receiver fails and recovers: the same push comes again", t.failAndRecover},
		{"Kill the daemon (kill -9) with work in its hands: nothing is lost", t.killAndRestart},
		{"Look after deliveries: every attempt is on record", t.deliveryLog},
		{"The receiver has lost everything: replay it", t.replay},
		{"Replace the access token without a gap", t.rotateToken},
		{"Register a browser: a token of a contact's device", t.registerBrowser},
		{"Notify the contact: its browser decrypts and shows it", t.notify},
		{"One event, two ways: to a webhook, and as a notification", t.notifyOfEvents},
		{"Ping the subscription", t.ping},
		{"Delete the subscription: no push starts afterwards", t.unsubscribe},
		{"Look at the metrics", t.metrics},
		{"Count: all that was accepted has arrived", t.account},
	}
}

// connection is how a client reaches the daemon.
type connection struct {
	secret string
	socket bool
	quiet  bool
}

// api returns a client whose requests are printed, unless it is to be quiet.
func (t *story) api(c connection) (*client.Client, error) {
	o := client.Options{BaseURL: t.daemon.url, Token: c.secret}
	var next http.RoundTripper = t.transport
	socket := ""
	if c.socket {
		o.BaseURL = "http://localhost"
		socket = t.daemon.socket()
		next = &http.Transport{
			// One connection each time: nothing is left open to a daemon that will be killed.
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		}
	}
	if !c.quiet {
		next = &tracer{next: next, out: t.out, names: t.names, socket: socket}
	}
	o.HTTPClient = &http.Client{Transport: next}
	return client.New(o)
}

// as is api with the current token.
func (t *story) as() (*client.Client, error) { return t.api(connection{secret: t.token.Secret}) }

// quietly is api with the current token, not printed: for looks that are repeated until they succeed.
func (t *story) quietly() (*client.Client, error) {
	return t.api(connection{secret: t.token.Secret, quiet: true})
}

// variable prints a value as a shell variable, by which the curl lines call it from now on.
func (t *story) variable(name, value string) {
	for v, n := range t.names {
		if n == name {
			delete(t.names, v)
		}
	}
	t.names[value] = name
	t.out.command(name + "=" + value)
}

// expect notes that an event must arrive.
func (t *story) expect(id string, data []byte) {
	t.due[id] = data
	t.accepted++
}

// arrived waits for pushes and checks that each carries its data: byte for byte, or all of it as XML.
func (t *story) arrived(ctx context.Context, ids ...string) ([]arrival, error) {
	as, err := t.receiver.awaitTaken(ctx, ids...)
	if err != nil {
		return nil, err
	}
	for _, a := range as {
		if a.content != nil {
			if err := a.content.carries(t.due[a.id]); err != nil {
				return nil, fmt.Errorf("the XML of %s is not what was published: %w:\n%s", a.id, err, a.data)
			}
		} else if !bytes.Equal(a.data, t.due[a.id]) {
			return nil, fmt.Errorf("the data of %s is %q, published was %q", a.id, a.data, t.due[a.id])
		}
	}
	return as, nil
}

// unwanted checks that an event has no delivery at all.
func (t *story) unwanted(ctx context.Context, id string) error {
	api, err := t.quietly()
	if err != nil {
		return err
	}
	e, err := api.Event(ctx, id)
	if err != nil {
		return err
	}
	if len(e.Deliveries) != 0 {
		return fmt.Errorf("event %s has %d deliveries, it should have none", id, len(e.Deliveries))
	}
	return nil
}

// refused checks that a call was refused with the status, and returns the problem.
func refused(err error, status int) (*client.Problem, error) {
	if err == nil {
		return nil, fmt.Errorf("it was not refused; it should be, with %d", status)
	}
	p, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return nil, err
	}
	if p.StatusCode != status {
		return nil, fmt.Errorf("it was refused with another status than %d: %w", status, p)
	}
	if p.Title == "" || p.Detail == "" || p.Instance == "" {
		return nil, fmt.Errorf("the problem lacks a title, a detail or an instance: %w", p)
	}
	return p, nil
}

// round prints a duration for people.
func round(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
