package cli

import (
	"context"
	"net/http"

	"herald/daemon/client"
)

// Device is the command device with its subcommands.
type Device struct {
	Register DeviceRegister `cmd:"" help:"Register the token of a device for a contact."`
	List     DeviceList     `cmd:"" help:"List the devices of a contact."`
	Show     DeviceShow     `cmd:"" help:"Show a device."`
	Delete   DeviceDelete   `cmd:"" help:"Remove devices; their apps may register them again."`
}

// DeviceRegister is the command device register.
type DeviceRegister struct {
	Type           string `arg:"" enum:"android,ios,web" help:"android, ios or web."`
	Contact        string `required:"" api:"routeeContactId" placeholder:"ID" help:"Whose device it is: a phone number, an e-mail address or any other id."`
	Implementation string `required:"" api:"implementationId" placeholder:"ID" help:"The app on it."`
	Token          string `required:"" api:"token" placeholder:"TOKEN" help:"What the app was given; for web also the JSON text of a subscription of the Push API."`
	TokenType      string `api:"tokenType" placeholder:"TYPE" enum:",token,fid" default:"" help:"fid for a Firebase installation id."`
	Replaces       string `api:"replaces" placeholder:"TOKEN" help:"The token that this one succeeds."`
	Locale         string `api:"locale" placeholder:"TAG" help:"Its language: nl-BE."`
	AppVersion     string `api:"appVersion" placeholder:"VERSION" help:"For people."`
	API
}

// Help is shown below the summary.
func (DeviceRegister) Help() string {
	return `The same token again is harmless; for another contact it moves the device there.

Example:

    herald device register ios --contact +31612345678 --implementation shop --locale nl-BE --token 740f4707…`
}

// Run registers the device.
func (c DeviceRegister) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "messages", c.Type)
}

const (
	deviceColumns = "ID=id TYPE=type IMPLEMENTATION=implementationId TOKEN=tokenHint LOCALE=locale REGISTERED=registeredAt SEEN=lastSeenAt"
	noDevices     = "no devices: register one with `herald device register`"
)

// DeviceList is the command device list.
type DeviceList struct {
	Contact        string `required:"" placeholder:"ID" help:"The contact."`
	Implementation string `api:"implementationId" placeholder:"ID" help:"Only those with this app."`
	Listing
}

// Help is shown below the summary.
func (DeviceList) Help() string {
	return `Tokens are not shown, only how they end.

Example:

    herald device list --contact +31612345678`
}

// Run prints the devices.
func (c DeviceList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, c.Limit, deviceColumns, noDevices, "contacts", c.Contact, "devices")
}

// DeviceShow is the command device show.
type DeviceShow struct {
	ID string `arg:"" help:"The device, as 'herald device list' shows it."`
	API
}

// Help is shown below the summary.
func (DeviceShow) Help() string {
	return `Example:

    herald device show dev_00000081k828cing79d56560do`
}

// Run prints the device.
func (c DeviceShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"devices", c.ID}})
}

// DeviceDelete is the command device delete.
type DeviceDelete struct {
	IDs []string `arg:"" name:"id" help:"The devices."`
	Removal
}

// Help is shown below the summary.
func (DeviceDelete) Help() string {
	return `Example:

    herald device delete dev_00000081k828cing79d56560do`
}

// Run removes the devices.
func (c DeviceDelete) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, c.IDs, "Nothing is sent to it until its app registers it again.", "devices")
}

// Contact is the command contact with its subcommands.
type Contact struct {
	Devices ContactDevices `cmd:"" help:"List the devices of a contact."`
	Delete  ContactDelete  `cmd:"" help:"Remove all devices of a contact."`
}

// ContactDevices is the command contact devices.
type ContactDevices struct {
	ID string `arg:"" help:"The contact."`
	Listing
}

// Help is shown below the summary.
func (ContactDevices) Help() string {
	return `Example:

    herald contact devices +31612345678`
}

// Run prints the devices.
func (c ContactDevices) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, c.Limit, deviceColumns, noDevices, "contacts", c.ID, "devices")
}

// ContactDelete is the command contact delete.
type ContactDelete struct {
	IDs []string `arg:"" name:"id" help:"The contacts."`
	Removal
}

// Help is shown below the summary.
func (ContactDelete) Help() string {
	return `Example:

    herald contact delete +31612345678 --yes`
}

// Run removes the devices of the contacts.
func (c ContactDelete) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, c.IDs, "All its devices are removed.", "contacts")
}
