// Herald is a self-hosted push daemon: events come in over HTTP, are made durable, and go out as
// signed webhooks. This file is its command line; what the commands do is below daemon/.
package main

import (
	"context"
	_ "embed"
	"os"

	"herald/daemon"
	"herald/daemon/bench"
	"herald/daemon/cli"
	"herald/daemon/datadir"
	"herald/daemon/demo"
)

// number is the released version, set by the linker: -ldflags "-X main.number=1.2.0".
var number string

// example is the documented configuration, which init writes.
//
//go:embed config.example.yaml
var example []byte

const description = `A push daemon in one file: events in over HTTP, durable, signed webhooks out.

See it work:      herald demo
Run it:           herald serve
Give access:      herald token create --name shop --scope publish --scope subscribe
Subscribe:        herald subscription create --data-callback-url https://example.com/hook
Publish:          herald event publish --type task.create --data '{"title":"Call back"}'
See it arrive:    herald tail`

// commands is the command line: one field for each command, its fields are the flags.
type commands struct {
	Serve        serveCommand    `cmd:"" help:"Run the daemon."`
	Demo         demo.Command    `cmd:"" help:"See the whole of it at work in a few seconds; needs nothing."`
	Bench        benchCommand    `cmd:"" help:"Measure the whole path on this machine."`
	Restore      datadir.Restore `cmd:"" help:"Make a data directory of a backup."`
	Check        datadir.Check   `cmd:"" help:"Verify the data of a stopped daemon: every page, record and index."`
	Compact      datadir.Compact `cmd:"" help:"Rewrite the data files of a stopped daemon smaller."`
	cli.Commands `embed:""`

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
	program := cli.Program{Commands: &commands{}, Description: description, Number: number, Example: example}
	os.Exit(program.Run(os.Args[1:], cli.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}))
}
