package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// Program is a command line: what it consists of, and what its commands are given beside their flags.
type Program struct {
	// Commands is a pointer to a struct with a field for each command, for kong.
	Commands any
	// Description is shown above the commands.
	Description string
	// Number is the released version, or empty.
	Number string
	// Example is the documented configuration that init writes.
	Example []byte
}

// example is Program.Example as commands ask for it.
type example []byte

// Commands are the commands that speak to a daemon like any client, and those about the program itself.
type Commands struct {
	Init           Init           `cmd:"" help:"Write a commented configuration and make a data directory."`
	CheckConfig    CheckConfig    `cmd:"" help:"Check a configuration file: all its problems at once."`
	Account        Account        `cmd:"" help:"Accounts: the tenants that own everything else."`
	Token          Token          `cmd:"" help:"Create, list and revoke access tokens."`
	Resource       Resource       `cmd:"" help:"The catalogue of what events happen to."`
	Subscription   Subscription   `cmd:"" help:"Subscriptions: who gets which events, and how it goes."`
	Event          Event          `cmd:"" help:"Publish events and look them up."`
	Delivery       Delivery       `cmd:"" help:"Deliveries: each event for each subscription, with its attempts."`
	Tail           Tail           `cmd:"" help:"Watch deliveries as they happen."`
	Implementation Implementation `cmd:"" help:"Apps with their push credentials for FCM, APNs and Web Push."`
	Device         Device         `cmd:"" help:"Device tokens of contacts."`
	Contact        Contact        `cmd:"" help:"Contacts: people with devices."`
	Message        Message        `cmd:"" help:"Send notifications, and see where they are."`
	Backup         Backup         `cmd:"" help:"Make a backup of the running daemon's data."`
	Completion     Completion     `cmd:"" help:"Print the completion script of a shell."`
	Man            Man            `cmd:"" help:"Print the manual page."`
	Version        VersionCommand `cmd:"" help:"Print the version."`
}

// Parser makes the parser of the command line.
func (p Program) Parser(s Streams) (*kong.Kong, error) {
	return kong.New(p.Commands,
		kong.Name("herald"), kong.Description(p.Description), kong.Writers(s.Stdout, s.Stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, NoAppDescFormat: true, WrapUpperBound: 100}),
	)
}

// Run executes one command line and returns the exit code.
func (p Program) Run(args []string, s Streams) int {
	parser, err := p.Parser(s)
	if err != nil {
		return Exit(s, err)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return Exit(s, misunderstood(err, len(args) == 0))
	}
	// Only commands that take a context get the signals this way.
	ctx, stop := context.Background(), func() {}
	in := &input{Reader: s.Stdin, ctx: ctx}
	s.Stdin = in
	defer func() { stop() }()
	err = parsed.BindToProvider(func() (context.Context, error) {
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		in.ctx = ctx
		return ctx, nil
	})
	if err != nil {
		return Exit(s, err)
	}
	return Exit(s, parsed.Run(s, ReadVersion(p.Number), example(p.Example)))
}

// input is standard input for commands that take the signals themselves: a read that waits ends with the context, which nothing
// else can end when it is of a terminal or a pipe.
type input struct {
	io.Reader
	ctx context.Context //nolint:containedctx // it lives for one command line
}

// Read implements io.Reader.
func (r *input) Read(p []byte) (n int, err error) {
	if r.ctx.Done() == nil {
		return r.Reader.Read(p)
	}
	own := make([]byte, len(p)) // what is abandoned may still write to it
	done := make(chan struct{})
	var got int
	var gotErr error
	go func() { // it ends with the process at the latest
		got, gotErr = r.Reader.Read(own)
		close(done)
	}()
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case <-done:
		return copy(p, own[:got]), gotErr
	}
}

// misunderstood is the error for a command line that is not understood: with the place where help is, or, when
// there was nothing on it at all, the help itself.
func misunderstood(err error, empty bool) error {
	path := "herald"
	if e, ok := errors.AsType[*kong.ParseError](err); ok && e.Context != nil {
		if empty {
			if err := e.Context.PrintUsage(false); err != nil {
				return err
			}
			return Usage(errors.New("which command?"))
		}
		if selected := e.Context.Selected(); selected != nil {
			path = selected.FullPath()
		}
	}
	return Usage(fmt.Errorf("%w\n`%s --help` tells more", err, path))
}
