// Package demo is the command demo: it shows the whole of Herald's main job on a real daemon, step by
// step, and checks every step.
//
// It promises that nothing is staged: the daemon is this same program as a child process on a
// temporary directory, the receiver verifies each push with an independent library, every curl line
// is made from the request that was really sent, the browser decrypts what was encrypted for it, and a step that does not come out as told fails the
// command. The browser and its push service alone are stand-ins, strict ones. Whatever happens, the daemon is ended and the directory removed.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"herald/daemon/cli"
)

// Command is the command demo.
type Command struct {
	Keep bool `help:"Leave the daemon and the receiver running afterwards, to play with, until Ctrl-C."`
	// Executable is the program to start the daemon with; empty means the one that is running.
	Executable string `kong:"-"`

	// limit bounds one step; 0 means stepLimit.
	limit time.Duration
}

// Help is shown below the summary.
func (Command) Help() string {
	return `Needs nothing but this program: it starts a daemon of its own on a free port of the loopback interface and in a temporary directory, and beside it a receiver and a browser. Each step is printed as it happens, with the curl command that does the same. Takes a few seconds, touches nothing else, and cleans up.

Exit code 0 means that every step came out as told; 1 names the one that did not.

Examples:

    herald demo

    herald demo --keep`
}

// stepLimit bounds one step. The longest one waits for two retries, three seconds; the rest is room
// for a slow machine.
const stepLimit = 20 * time.Second

// StepError says which step of the demo did not come out as told.
type StepError struct {
	// Number counts the steps from 1, Title is as printed.
	Number int
	Title  string
	Err    error
}

// Error names the step and the cause.
func (e *StepError) Error() string {
	return fmt.Sprintf("demo: step %d (%s): %v", e.Number, e.Title, e.Err)
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// Run tells the story. It returns a *StepError for a step that failed, and nil otherwise; with Keep it
// returns when the context ends, or with an error when the daemon ends before that.
func (c Command) Run(ctx context.Context, s cli.Streams) error {
	// A reader that goes away (demo | head) must end in the same clean-up as Ctrl-C does.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGPIPE)
	defer stop()
	return c.run(ctx, s, "")
}

// run is Run in a directory below parent, the system's temporary one when that is empty.
func (c Command) run(ctx context.Context, s cli.Streams, parent string) (err error) {
	executable := c.Executable
	if executable == "" {
		if executable, err = os.Executable(); err != nil {
			return fmt.Errorf("demo: find this program: %w", err)
		}
	}
	dir, err := os.MkdirTemp(parent, "herald-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	out := &printer{w: s.Stdout, colour: s.Colour(s.Stdout)}
	rec, err := newReceiver()
	if err != nil {
		return fmt.Errorf("demo: start the receiver: %w", err)
	}
	defer func() { err = errors.Join(err, rec.close()) }()

	b, err := newBrowser(dir)
	if err != nil {
		return fmt.Errorf("demo: start the browser: %w", err)
	}
	defer b.service.Close()

	d := &daemon{executable: executable, dir: dir, environ: s.Environ, log: filepath.Join(dir, "daemon.log"), caFile: b.caFile}
	defer func() {
		err = errors.Join(err, d.stop())
		if words := d.lastWords(); err != nil && ctx.Err() == nil && len(words) > 0 {
			err = fmt.Errorf("%w\nthe daemon's last words:\n  %s", err, strings.Join(words, "\n  "))
		}
	}()

	t := newStory(out, d, rec, b)
	t.limit = cmp.Or(c.limit, stepLimit)
	if err := t.tell(ctx); err != nil {
		return err
	}
	if c.Keep {
		return t.keep(ctx)
	}
	return out.err
}

// tell runs the steps one after the other.
func (t *story) tell(ctx context.Context) error {
	steps := t.steps()
	t.out.opening(len(steps))
	for i, step := range steps {
		t.out.step(i+1, len(steps), step.title)
		if err := t.run(ctx, step); err != nil {
			t.out.failed()
			return &StepError{Number: i + 1, Title: step.title, Err: err}
		}
		if t.out.err != nil {
			return fmt.Errorf("demo: print: %w", t.out.err)
		}
	}
	t.out.summary(t.figures())
	return nil
}

func (t *story) run(ctx context.Context, step step) error {
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	return step.do(ctx)
}
