package cli

import (
	"context"
	"net/http"

	"herald/daemon/client"
)

// Account is the command account with its subcommands.
type Account struct {
	Create  AccountCreate  `cmd:"" help:"Add an account."`
	List    AccountList    `cmd:"" help:"List the accounts."`
	Show    AccountShow    `cmd:"" help:"Show an account."`
	Update  AccountUpdate  `cmd:"" help:"Change the name of an account."`
	Suspend AccountSuspend `cmd:"" help:"Refuse an account's tokens until it is resumed."`
	Resume  AccountResume  `cmd:"" help:"Take a suspended account's tokens again."`
	Delete  AccountDelete  `cmd:"" help:"Delete accounts with all they own."`
}

// AccountCreate is the command account create.
type AccountCreate struct {
	ID   string `arg:"" api:"id" help:"1 to 64 letters, digits, dots, hyphens and underscores; it cannot be changed."`
	Name string `api:"name" placeholder:"NAME" help:"For people."`
	API
}

// Help is shown below the summary.
func (AccountCreate) Help() string {
	return `An account owns tokens, resources, subscriptions, events and devices, and sees nothing of another's. 'default' is there from the start.

Example:

    herald account create shop-1 --name "The shop"

    herald token create --account shop-1 --scope publish`
}

// Run adds the account.
func (c AccountCreate) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPost, "accounts")
}

// AccountList is the command account list.
type AccountList struct{ API }

// Help is shown below the summary.
func (AccountList) Help() string {
	return `Example:

    herald account list`
}

// Run prints the accounts.
func (c AccountList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, 0, "ID=id NAME=name SUSPENDED=suspended CREATED=createdAt", "no accounts", "accounts")
}

// AccountShow is the command account show.
type AccountShow struct {
	ID string `arg:"" help:"The account."`
	API
}

// Help is shown below the summary.
func (AccountShow) Help() string {
	return `Example:

    herald account show shop-1`
}

// Run prints the account.
func (c AccountShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"accounts", c.ID}})
}

// AccountUpdate is the command account update.
type AccountUpdate struct {
	ID   string  `arg:"" help:"The account."`
	Name *string `required:"" api:"name" placeholder:"NAME" help:"For people."`
	API
}

// Help is shown below the summary.
func (AccountUpdate) Help() string {
	return `Example:

    herald account update shop-1 --name "The other shop"`
}

// Run changes the account.
func (c AccountUpdate) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPatch, "accounts", c.ID)
}

// AccountSuspend is the command account suspend.
type AccountSuspend struct {
	ID string `arg:"" help:"The account."`
	API
}

// Help is shown below the summary.
func (AccountSuspend) Help() string {
	return `Its tokens are answered 403 from that moment on. What was accepted before is delivered all the same.

Example:

    herald account suspend shop-1`
}

// Run suspends the account.
func (c AccountSuspend) Run(ctx context.Context, s Streams, v Version) error {
	return c.suspend(ctx, s, v, c.ID, true)
}

func (a API) suspend(ctx context.Context, s Streams, v Version, id string, suspended bool) error {
	return a.show(ctx, s, v, client.Call{
		Method: http.MethodPatch, Path: []string{"accounts", id}, Body: map[string]bool{"suspended": suspended},
	})
}

// AccountResume is the command account resume.
type AccountResume struct {
	ID string `arg:"" help:"The account."`
	API
}

// Help is shown below the summary.
func (AccountResume) Help() string {
	return `Example:

    herald account resume shop-1`
}

// Run ends the suspension.
func (c AccountResume) Run(ctx context.Context, s Streams, v Version) error {
	return c.suspend(ctx, s, v, c.ID, false)
}

// AccountDelete is the command account delete.
type AccountDelete struct {
	IDs []string `arg:"" name:"id" help:"The accounts."`
	Removal
}

// Help is shown below the summary.
func (AccountDelete) Help() string {
	return `Its tokens, resources, subscriptions, implementations and devices go with it, and what waits is not delivered any more. The id is never given again.

Example:

    herald account delete shop-1 --yes`
}

// Run deletes the accounts.
func (c AccountDelete) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, c.IDs, "All it owns goes with it, and what waits is not delivered.", "accounts")
}
