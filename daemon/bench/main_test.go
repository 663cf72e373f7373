package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
)

// faultPrefix begins the name of the directory that tells the stand-in daemon what to do wrong, so that
// tests with different faults can run at once.
const faultPrefix = "fault-"

// TestMain makes the test binary the program under test as well: started with one of the commands that the
// benchmark starts as a child, it runs that command, with a stand-in for the daemon.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := runChild(ctx, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The stand-in refuses the daemon's own variables, so every test shows that they are kept from it.
	if err := os.Setenv("HERALD_LOG_LEVEL", "debug"); err != nil {
		panic(err)
	}
	// Most of these tests wait for a process and for what it does in its time: several of them share a processor.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func runChild(ctx context.Context, args []string) error {
	var line struct {
		Serve        standIn        `cmd:""`
		BenchIngest  IngestCommand  `cmd:"" name:"bench-ingest" hidden:""`
		BenchDeliver DeliverCommand `cmd:"" name:"bench-deliver" hidden:""`
	}
	parser, err := kong.New(&line)
	if err != nil {
		return err
	}
	k, err := parser.Parse(args)
	if err != nil {
		return err
	}
	switch k.Command() {
	case "serve":
		return line.Serve.Run(ctx)
	case "bench-ingest":
		return line.BenchIngest.Run(ctx, os.Stdout, os.Stderr)
	case "bench-deliver":
		return line.BenchDeliver.Run(ctx, os.Stdout, os.Stderr)
	}
	return fmt.Errorf("no such command: %s", k.Command())
}
