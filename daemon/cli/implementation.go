package cli

import (
	"context"
	"net/http"

	"herald/daemon/client"
)

// Implementation is the command implementation with its subcommands.
type Implementation struct {
	Create ImplementationCreate `cmd:"" help:"Add an app with its credentials."`
	List   ImplementationList   `cmd:"" help:"List the apps."`
	Show   ImplementationShow   `cmd:"" help:"Show an app, and how its platforms fare."`
	Update ImplementationUpdate `cmd:"" help:"Change the credentials of an app."`
	Delete ImplementationDelete `cmd:"" help:"Delete apps with their devices."`
}

// ImplementationFields are the flags for what an implementation is made of.
type ImplementationFields struct {
	Name                string `api:"name" placeholder:"NAME" help:"For people."`
	ServiceAccount      string `group:"Android:" api:"android.serviceAccount" as:"object" placeholder:"FILE" help:"The JSON file of a service account, as Google gives it."`
	IOSProvider         string `name:"ios-provider" group:"iOS:" api:"ios.provider" placeholder:"PROVIDER" enum:",apns,fcm" default:"" help:"apns, or fcm for apps whose iOS devices have FCM tokens."`
	APNSKey             string `name:"apns-key" group:"iOS:" api:"ios.key" as:"text" placeholder:"FILE" help:"Apple's .p8 file; it needs --apns-key-id and --apns-team-id."`
	APNSKeyID           string `name:"apns-key-id" group:"iOS:" api:"ios.keyId" placeholder:"ID" help:"The id of the key."`
	APNSTeamID          string `name:"apns-team-id" group:"iOS:" api:"ios.teamId" placeholder:"ID" help:"The id of the team."`
	P12                 string `name:"p12" group:"iOS:" api:"ios.certificate" as:"base64" placeholder:"FILE" help:"A certificate in a .p12 file, in place of the key."`
	P12Password         string `name:"p12-password" group:"iOS:" api:"ios.password" as:"text" placeholder:"FILE" help:"File with its password."`
	Topic               string `group:"iOS:" api:"ios.topic" placeholder:"BUNDLE" help:"The bundle id of the app."`
	Environment         string `group:"iOS:" api:"ios.environment" placeholder:"WHICH" enum:",production,sandbox" default:"" help:"production or sandbox."`
	VAPIDPrivateKey     string `name:"vapid-private-key" group:"Web:" api:"web.vapid.privateKey" as:"text" placeholder:"FILE" help:"File with the private key, 32 bytes in base64url, of the pair that browsers' subscriptions are bound to."`
	VAPIDSubject        string `name:"vapid-subject" group:"Web:" api:"web.vapid.subject" placeholder:"URI" help:"mailto: or https: where push services reach you; it is all that browsers need, a key pair is made."`
	VAPIDReplaceKey     bool   `name:"vapid-replace-key" group:"Web:" api:"web.vapid.replaceKey" help:"Let another key pair take the place of the one there is: all browsers have to subscribe again."`
	StatusSigningSecret string `api:"statusSigningSecret" as:"text" placeholder:"FILE" help:"File with what is pushed to callback URLs of messages is signed with (whsec_…); without it one is made, and shown once."`
	Fields
}

// ImplementationCreate is the command implementation create.
type ImplementationCreate struct {
	ID string `arg:"" optional:"" api:"id" help:"Its id; without it one is made."`
	ImplementationFields
	API
}

// Help is shown below the summary.
func (ImplementationCreate) Help() string {
	return `A platform for which nothing is given has no credentials. Keys are read when they are set, kept encrypted, and never shown again.

Examples:

    herald implementation create shop --service-account firebase.json

    herald implementation create shop --apns-key AuthKey_ABC123DEFG.p8 --apns-key-id ABC123DEFG --apns-team-id DEF123GHIJ --topic example.shop

    herald implementation create shop --vapid-subject mailto:push@shop.example`
}

// Run adds the app.
func (c ImplementationCreate) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "implementations")
}

// ImplementationList is the command implementation list.
type ImplementationList struct{ API }

// Help is shown below the summary.
func (ImplementationList) Help() string {
	return `Example:

    herald implementation list`
}

// Run prints the apps.
func (c ImplementationList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, 0, "ID=id NAME=name PLATFORMS=status.platform STATES=status.state WAITING=status.waiting CREATED=createdAt",
		"no implementations yet: add one with `herald implementation create`", "implementations")
}

// ImplementationShow is the command implementation show.
type ImplementationShow struct {
	ID string `arg:"" help:"The implementation."`
	API
}

// Help is shown below the summary.
func (ImplementationShow) Help() string {
	return `The web.vapid.publicKey is what browsers subscribe with, as their applicationServerKey.

Example:

    herald implementation show shop`
}

// Run prints the app.
func (c ImplementationShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"implementations", c.ID}})
}

// ImplementationUpdate is the command implementation update.
type ImplementationUpdate struct {
	ID string `arg:"" help:"The implementation."`
	ImplementationFields
	API
}

// Help is shown below the summary.
func (ImplementationUpdate) Help() string {
	return `Changes what is given and nothing else; what waits because of wrong credentials is tried at once. --set ios=null takes a platform away.

Examples:

    herald implementation update shop --service-account new.json

    herald implementation update shop --set ios=null`
}

// Run changes the app.
func (c ImplementationUpdate) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPatch, "implementations", c.ID)
}

// ImplementationDelete is the command implementation delete.
type ImplementationDelete struct {
	IDs []string `arg:"" name:"id" help:"The implementations."`
	Removal
}

// Help is shown below the summary.
func (ImplementationDelete) Help() string {
	return `Its devices go with it, and what waits for them is discarded.

Example:

    herald implementation delete shop`
}

// Run deletes the apps.
func (c ImplementationDelete) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, c.IDs, "All its devices go with it.", "implementations")
}
