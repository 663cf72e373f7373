package cli

import (
	"context"
	"encoding/json"
	"net/http"

	"herald/daemon/client"
)

// Subscription is the command subscription with its subcommands.
type Subscription struct {
	Create   SubscriptionCreate   `cmd:"" help:"Add a subscription."`
	List     SubscriptionList     `cmd:"" help:"List the subscriptions."`
	Show     SubscriptionShow     `cmd:"" help:"Show a subscription."`
	Update   SubscriptionUpdate   `cmd:"" help:"Change parts of a subscription, or replace it."`
	Delete   SubscriptionDelete   `cmd:"" help:"Delete subscriptions; no push starts afterwards."`
	Status   SubscriptionStatus   `cmd:"" help:"Tell how a subscription fares, once or all the time."`
	Pause    SubscriptionPause    `cmd:"" help:"Hold its deliveries until it is resumed."`
	Resume   SubscriptionResume   `cmd:"" help:"Let a paused subscription go on; the same as enable."`
	Enable   SubscriptionEnable   `cmd:"" help:"Make a paused or disabled subscription active, and forget its failures."`
	Ping     SubscriptionPing     `cmd:"" help:"Send a test push."`
	Validate SubscriptionValidate `cmd:"" help:"Ask the receiver to confirm it, or again."`
	Secret   SubscriptionSecret   `cmd:"" help:"Give it a new signing secret; the old one signs too for 24 hours."`
	Replay   Replay               `cmd:"" help:"Deliver events again."`
	Dead     Dead                 `cmd:"" help:"Deliveries that were given up."`
}

// SubscriptionFields are the flags for what a subscription is made of.
type SubscriptionFields struct {
	DataCallbackURL       string   `name:"data-callback-url" group:"Where to:" api:"dataCallbackURL" placeholder:"URL" help:"Where pushes go."`
	ValidationCallbackURL string   `name:"validation-callback-url" group:"Where to:" api:"validationCallbackURL" placeholder:"URL" help:"Where the receiver is asked to confirm the subscription before it gets pushes."`
	Validation            string   `group:"Where to:" api:"validation" placeholder:"HOW" enum:",confirmation,cloudevents" default:"" help:"How the receiver is asked: confirmation, or cloudevents for its permission by OPTIONS."`
	Resource              string   `group:"What:" api:"resource" placeholder:"TYPE/ID" help:"Only events of this resource, or of a type: project/*. Without it, all."`
	Events                []string `group:"What:" api:"events" placeholder:"PATTERN" help:"Only these types: task.create, task.*, *.delete; repeat for several. Without it, all."`
	Filter                string   `group:"What:" api:"filter" as:"json" placeholder:"JSON" help:"Only with such data: '{\"customer.country\":\"NL\"}'."`
	Method                string   `group:"How:" api:"method" placeholder:"METHOD" enum:",POST,PUT,GET" default:"" help:"POST, PUT or GET."`
	ExportFormat          string   `group:"How:" api:"exportFormat" placeholder:"TYPE" enum:",application/json,application/xml" default:"" help:"application/json or application/xml."`
	Payload               string   `group:"How:" api:"payload" placeholder:"FORM" enum:",envelope,data,cloudevents" default:"" help:"The form of a record: envelope, data or cloudevents."`
	NumberOfRecords       int      `group:"How:" api:"numberOfRecords" placeholder:"N" help:"Most records in one push, 1 to 1000."`
	MaxWaitSeconds        *float64 `group:"How:" api:"maxWaitSeconds" placeholder:"SECONDS" help:"How long a push may wait to fill up."`
	Auth                  string   `group:"Proof:" api:"authentication.type" placeholder:"TYPE" enum:",bearer,basic,header,query,oauth2" default:"" help:"What pushes prove themselves with: bearer (--auth-token), basic (--auth-username, --auth-password), header or query (--auth-name, --auth-value), or oauth2."`
	AuthToken             string   `group:"Proof:" api:"authentication.token" as:"text" placeholder:"FILE" help:"File with the bearer token."`
	AuthUsername          string   `group:"Proof:" api:"authentication.username" placeholder:"NAME" help:"The user of basic."`
	AuthPassword          string   `group:"Proof:" api:"authentication.password" as:"text" placeholder:"FILE" help:"File with the password of basic."`
	AuthName              string   `group:"Proof:" api:"authentication.name" placeholder:"NAME" help:"The name of the header or the query parameter."`
	AuthValue             string   `group:"Proof:" api:"authentication.value" as:"text" placeholder:"FILE" help:"File with its value."`
	AuthTokenURL          string   `name:"auth-token-url" group:"Proof:" api:"authentication.tokenURL" placeholder:"URL" help:"The token endpoint of oauth2."`
	AuthClientID          string   `name:"auth-client-id" group:"Proof:" api:"authentication.clientId" placeholder:"ID" help:"The client of oauth2."`
	AuthClientSecret      string   `group:"Proof:" api:"authentication.clientSecret" as:"text" placeholder:"FILE" help:"File with the client's secret."`
	AuthScopes            []string `group:"Proof:" api:"authentication.scopes" placeholder:"SCOPE" help:"A scope of oauth2; repeat for several."`
	ClientCertificate     *bool    `negatable:"" group:"Proof:" api:"clientCertificate" xor:"certificate" help:"Present Herald's certificate in the TLS handshake."`
	P12                   string   `name:"p12" group:"Proof:" api:"clientCertificate.pkcs12" as:"base64" xor:"certificate" placeholder:"FILE" help:"Present the certificate of this PKCS #12 file instead."`
	P12Password           string   `name:"p12-password" group:"Proof:" api:"clientCertificate.password" as:"text" placeholder:"FILE" help:"File with its password."`
	MessageSignature      *bool    `negatable:"" group:"Proof:" api:"messageSignature" help:"Sign with the key of Herald's certificate, too (RFC 9421)."`
	SignatureScheme       string   `group:"Proof:" api:"signatureScheme" placeholder:"SCHEME" enum:",v1,v1a" default:"" help:"v1 signs with a shared secret, v1a with a key pair."`
	SigningSecret         string   `group:"Proof:" api:"signingSecret" as:"text" placeholder:"FILE" help:"File with the signing secret (whsec_…); without it one is made, and shown once."`
	TimeoutSeconds        float64  `group:"Policy:" api:"delivery.timeoutSeconds" placeholder:"SECONDS" help:"How long one attempt may take."`
	RetrySchedule         []string `group:"Policy:" api:"delivery.retrySchedule" as:"name" placeholder:"WAITS" help:"The waits after failed attempts (5s,5m,1h), or standard, day or quick."`
	MaxConcurrency        int      `group:"Policy:" api:"delivery.maxConcurrency" placeholder:"N" help:"Most pushes under way at once."`
	RateLimit             float64  `group:"Policy:" api:"delivery.rateLimit" placeholder:"N" help:"Most records a second."`
	RateBurst             int      `group:"Policy:" api:"delivery.rateBurst" placeholder:"N" help:"How many records may go at once after a rest."`
	Ordering              string   `group:"Policy:" api:"delivery.ordering" placeholder:"ORDER" enum:",none,key,strict" default:"" help:"none, key or strict."`
	OrderingKey           string   `group:"Policy:" api:"delivery.orderingKey" placeholder:"PATH" help:"The field of the data that is the key."`
	DisableAfterDuration  string   `group:"Policy:" api:"delivery.disableAfter.duration" placeholder:"TIME" help:"Disable it after failing so long: 120h, 5d."`
	DisableAfterFailures  int      `group:"Policy:" api:"delivery.disableAfter.failures" placeholder:"N" help:"Disable it after so many failed pushes in a row."`
	OnDisabled            string   `group:"Policy:" api:"delivery.onDisabled" placeholder:"WHAT" enum:",hold,discard" default:"" help:"What becomes of its deliveries then: hold or discard."`
	Fields
}

// SubscriptionCreate is the command subscription create.
type SubscriptionCreate struct {
	SubscriptionFields
	API
}

// Help is shown below the summary.
func (SubscriptionCreate) Help() string {
	return `What has no flag is set with --set or --file; docs/api.md tells the fields. Secrets are read from files, so that they do not show in the list of processes. The signingSecret is shown this one time: give it to the receiver.

Examples:

    herald subscription create --data-callback-url https://example.com/hook --events 'task.*'

    herald subscription create --data-callback-url https://example.com/hook --auth bearer --auth-token token.txt --retry-schedule 10s,1m,1h

    herald subscription create --file subscription.json --set numberOfRecords=100`
}

// Run adds the subscription.
func (c SubscriptionCreate) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "subscriptions")
}

// SubscriptionList is the command subscription list.
type SubscriptionList struct{ API }

// Help is shown below the summary.
func (SubscriptionList) Help() string {
	return `Examples:

    herald subscription list

    herald subscription list --json | jq -r '.[] | select(.state == "disabled") | .id'`
}

// Run prints the subscriptions.
func (c SubscriptionList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, 0, "ID=id STATE=state EVENTS=events RESOURCE=resource URL=dataCallbackURL CREATED=createdAt",
		"no subscriptions yet: add one with `herald subscription create`", "subscriptions")
}

// One is the argument of commands on one subscription, and what they do.
type One struct {
	ID string `arg:"" help:"The subscription, as 'herald subscription list' shows it."`
	API
}

func (c One) act(ctx context.Context, s Streams, v Version, method string, action ...string) error {
	return c.show(ctx, s, v, client.Call{Method: method, Path: append([]string{"subscriptions", c.ID}, action...)})
}

// SubscriptionShow is the command subscription show.
type SubscriptionShow struct{ One }

// Help is shown below the summary.
func (SubscriptionShow) Help() string {
	return `Secrets are not shown, only whether they are set.

Example:

    herald subscription show 01a2028d-6410-75c6-afb6-c070567ab1e9`
}

// Run prints the subscription.
func (c SubscriptionShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.act(ctx, s, v, http.MethodGet)
}

// SubscriptionUpdate is the command subscription update.
type SubscriptionUpdate struct {
	ID      string `arg:"" help:"The subscription."`
	Replace bool   `help:"Replace it as a whole: what is not given goes back to its default, only secrets are kept."`
	SubscriptionFields
	API
}

// Help is shown below the summary.
func (SubscriptionUpdate) Help() string {
	return `Changes what is given and nothing else, in one step. --set FIELD=null puts a field back to its default.

Examples:

    herald subscription update ID --events task.create --events task.delete

    herald subscription update ID --auth-token new-token.txt

    herald subscription update ID --set filter=null --rate-limit 10`
}

// Run changes the subscription.
func (c SubscriptionUpdate) Run(ctx context.Context, s Streams, v Version) error {
	method := http.MethodPatch
	if c.Replace {
		method = http.MethodPut
	}
	return c.send(ctx, s, v, c, method, "subscriptions", c.ID)
}

// SubscriptionDelete is the command subscription delete.
type SubscriptionDelete struct {
	IDs []string `arg:"" name:"id" help:"The subscriptions."`
	Removal
}

// Help is shown below the summary.
func (SubscriptionDelete) Help() string {
	return `What waits is discarded.

Example:

    herald subscription delete 01a2028d-6410-75c6-afb6-c070567ab1e9`
}

// Run deletes the subscriptions.
func (c SubscriptionDelete) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, c.IDs, "What waits is discarded.", "subscriptions")
}

// SubscriptionStatus is the command subscription status.
type SubscriptionStatus struct {
	Watching
	One
}

// Help is shown below the summary.
func (SubscriptionStatus) Help() string {
	return `Tells what waits, how the receiver does, when the next push is tried, and when the subscription is disabled if it goes on failing.

Examples:

    herald subscription status ID

    herald subscription status ID --watch`
}

// Run prints the status.
func (c SubscriptionStatus) Run(ctx context.Context, s Streams, v Version) error {
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	return c.watch(ctx, s, c.API, func() (json.RawMessage, bool, error) {
		answer, err := api.Do(ctx, client.Call{Method: http.MethodGet, Path: []string{"subscriptions", c.ID, "status"}})
		return answer, false, err
	})
}

// SubscriptionPause is the command subscription pause.
type SubscriptionPause struct{ One }

// Help is shown below the summary.
func (SubscriptionPause) Help() string {
	return `Events are queued for it all the same, and held.

Example:

    herald subscription pause ID`
}

// Run pauses the subscription.
func (c SubscriptionPause) Run(ctx context.Context, s Streams, v Version) error {
	return c.act(ctx, s, v, http.MethodPost, "pause")
}

// SubscriptionEnable is the command subscription enable.
type SubscriptionEnable struct{ One }

// Help is shown below the summary.
func (SubscriptionEnable) Help() string {
	return `What was held flows, at a bounded rate until it has caught up. An active subscription that waits for a retry is tried at once.

Example:

    herald subscription enable ID`
}

// Run enables the subscription.
func (c SubscriptionEnable) Run(ctx context.Context, s Streams, v Version) error {
	return c.act(ctx, s, v, http.MethodPost, "enable")
}

// SubscriptionResume is the command subscription resume.
type SubscriptionResume struct{ SubscriptionEnable }

// Help is shown below the summary.
func (SubscriptionResume) Help() string {
	return `What was held flows.

Example:

    herald subscription resume ID`
}

// SubscriptionPing is the command subscription ping.
type SubscriptionPing struct{ One }

// Help is shown below the summary.
func (SubscriptionPing) Help() string {
	return `Pushes an event of the type herald.ping to this subscription alone, whatever it selects. It does not wait: 'herald event show' with the id it prints tells how it went.

Example:

    herald subscription ping ID`
}

// Run sends the push.
func (c SubscriptionPing) Run(ctx context.Context, s Streams, v Version) error {
	return c.act(ctx, s, v, http.MethodPost, "ping")
}

// SubscriptionValidate is the command subscription validate.
type SubscriptionValidate struct{ One }

// Help is shown below the summary.
func (SubscriptionValidate) Help() string {
	return `Sends a new validation record, or asks for permission anew. The subscription keeps its state meanwhile.

Example:

    herald subscription validate ID`
}

// Run asks the receiver.
func (c SubscriptionValidate) Run(ctx context.Context, s Streams, v Version) error {
	return c.act(ctx, s, v, http.MethodPost, "validation")
}

// SubscriptionSecret is the command subscription secret.
type SubscriptionSecret struct{ One }

// Help is shown below the summary.
func (SubscriptionSecret) Help() string {
	return `The new secret is shown this one time. With a key pair (v1a) there is nothing secret to show, and the public keys are printed.

Example:

    herald subscription secret ID`
}

// Run rotates the secret.
func (c SubscriptionSecret) Run(ctx context.Context, s Streams, v Version) error {
	return c.act(ctx, s, v, http.MethodPost, "secret")
}
