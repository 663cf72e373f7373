// Herald is a self-hosted push daemon: events come in over HTTP, are made durable, and go out as
// signed webhooks. This file is its command line; what the commands do is below daemon/.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"herald/daemon"
	"herald/daemon/bench"
	"herald/daemon/cli"
	"herald/daemon/demo"
)

// number is the released version, set by the linker: -ldflags "-X main.number=1.2.0".
var number string

const description = `A push daemon in one file: events in over HTTP, durable, signed webhooks out.

See it work:      herald demo
Run it:           herald serve
Give access:      herald token create --name shop --scope publish --scope subscribe
Then:             curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8420/subscriptions`

// commands is the command line: one field for each command, its fields are the flags.
type commands struct {
	Serve       serveCommand       `cmd:"" help:"Run the daemon."`
	Demo        demo.Command       `cmd:"" help:"See the whole of it at work in a few seconds; needs nothing."`
	Token       cli.Token          `cmd:"" help:"Create, list and revoke access tokens."`
	CheckConfig cli.CheckConfig    `cmd:"" help:"Check a configuration file: all its problems at once."`
	Bench       benchCommand       `cmd:"" help:"Measure the whole path on this machine."`
	Version     cli.VersionCommand `cmd:"" help:"Print the version."`

	// The benchmark starts these as its own children.
	BenchIngest  ingestCommand  `cmd:"" hidden:""`
	BenchDeliver deliverCommand `cmd:"" hidden:""`
}

type serveCommand struct {
	Config string `placeholder:"FILE" type:"path" help:"Configuration in YAML. Without it every setting has its default: data in ./data, API on 127.0.0.1:8420."`
}

// Help is shown below the summary.
func (serveCommand) Help() string {
	return `The first start makes the data directory and an admin token, and prints the token this one time. Every setting can also come from the environment: HERALD_LISTEN_ADDRESS for listen.address. config.example.yaml documents them all.

SIGTERM or Ctrl-C stops in good order, a second one at once, which is safe too. SIGHUP reads the configuration again.

Examples:

    herald serve

    herald serve --config /etc/herald/herald.yaml

    HERALD_DATA_DIR=/srv/herald HERALD_LISTEN_ADDRESS=:8420 herald serve

What next: 'herald token create' on the same machine mints tokens for publishers and subscribers.`
}

// Run serves until a signal. The daemon handles signals itself, because their number matters to it.
func (c serveCommand) Run(s cli.Streams, v cli.Version) error {
	return daemon.Serve(context.Background(), daemon.ServeOptions{
		ConfigPath: c.Config, Version: v.Number, Stdout: s.Stdout, Stderr: s.Stderr,
	})
}

type benchCommand struct{ bench.Command }

func (c *benchCommand) Run(ctx context.Context, s cli.Streams) error {
	return c.Command.Run(ctx, s.Stdout, s.Stderr)
}

type ingestCommand struct{ bench.IngestCommand }

func (c *ingestCommand) Run(ctx context.Context, s cli.Streams) error {
	return c.IngestCommand.Run(ctx, s.Stdout, s.Stderr)
}

type deliverCommand struct{ bench.DeliverCommand }

func (c *deliverCommand) Run(ctx context.Context, s cli.Streams) error {
	return c.DeliverCommand.Run(ctx, s.Stdout, s.Stderr)
}

func main() {
	os.Exit(run(os.Args[1:], cli.Streams{Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}))
}

// run executes one command line and returns the exit code.
func run(args []string, s cli.Streams) int {
	parser, err := kong.New(&commands{},
		kong.Name("herald"), kong.Description(description), kong.Writers(s.Stdout, s.Stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, NoAppDescFormat: true, WrapUpperBound: 100}),
	)
	if err != nil {
		return cli.Exit(s, err)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return cli.Exit(s, usage(err, len(args) == 0))
	}
	// Only commands that take a context get the signals this way.
	ctx, stop := context.Background(), func() {}
	defer func() { stop() }()
	err = parsed.BindToProvider(func() (context.Context, error) {
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		return ctx, nil
	})
	if err != nil {
		return cli.Exit(s, err)
	}
	return cli.Exit(s, parsed.Run(s, cli.ReadVersion(number)))
}

// usage is the error for a command line that is not understood: with the place where help is, or, when
// there was nothing on it at all, the help itself.
func usage(err error, empty bool) error {
	path := "herald"
	if e, ok := errors.AsType[*kong.ParseError](err); ok && e.Context != nil {
		if empty {
			if err := e.Context.PrintUsage(false); err != nil {
				return err
			}
			return cli.Usage(errors.New("which command?"))
		}
		if selected := e.Context.Selected(); selected != nil {
			path = selected.FullPath()
		}
	}
	return cli.Usage(fmt.Errorf("%w\n`%s --help` tells more", err, path))
}
