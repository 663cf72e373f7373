package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// endGrace is how long a child may take to end after it was asked to, before it is killed.
	endGrace = 10 * time.Second
	// endNotice is how long after a broken connection the end of the peer may be noticed.
	endNotice = 200 * time.Millisecond
	// logTail is how much of a child's output an error quotes.
	logTail = 4 << 10
)

// child is a process started by the benchmark, which is this same program with another command. It ends
// with the context it was started with, with stop, and on Linux with this process.
type child struct {
	name   string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	done   chan struct{} // closed when the process has ended
	err    error         // how it ended; to be read after done
	asked  atomic.Bool   // it was told to end
	tail   *tail
	wg     sync.WaitGroup
}

// startChild starts this program with a command and flags. What it writes to standard error is kept for
// error texts; its standard output goes there too, unless out is given. A nil environment is this process's own.
func startChild(ctx context.Context, name string, args, env []string, out io.Writer) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &child{name: name, cancel: cancel, done: make(chan struct{}), tail: &tail{}}
	c.cmd = exec.CommandContext(ctx, exe, append([]string{name}, args...)...) //nolint:gosec // the program is this one, the arguments are ours
	c.cmd.Env = env
	c.cmd.Stdout, c.cmd.Stderr = out, c.tail
	if out == nil {
		c.cmd.Stdout = c.tail
	}
	c.cmd.Cancel = func() error {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return c.cmd.Process.Kill()
		}
		return nil
	}
	c.cmd.WaitDelay = endGrace
	dieWithParent(c.cmd)
	if err := c.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.wg.Go(func() {
		defer close(c.done)
		c.err = c.cmd.Wait()
	})
	return c, nil
}

// stop ends the process, gently first, and returns when it is gone. It may be called more than once.
func (c *child) stop() {
	c.asked.Store(true)
	c.cancel()
	c.wg.Wait()
}

// end makes the process end, in good order or by a kill, and returns how long that took. It fails when the
// process does not end within the limit, or not in good order though it was let.
func (c *child) end(ctx context.Context, kill bool, limit time.Duration) (time.Duration, error) {
	c.asked.Store(true)
	signal := os.Signal(syscall.SIGTERM)
	if kill {
		signal = os.Kill
	}
	begin := time.Now()
	if err := c.cmd.Process.Signal(signal); err != nil {
		return 0, fmt.Errorf("end %s: %w", c.name, err)
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		return 0, fmt.Errorf("%s did not end within %v after it was told to%s", c.name, limit, c.tail.quote())
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if !kill && c.err != nil {
		return 0, fmt.Errorf("%s did not end in good order: %w%s", c.name, c.err, c.tail.quote())
	}
	return time.Since(begin), nil
}

// ended describes a process that ended by itself.
func (c *child) ended() error {
	<-c.done
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%w: %s: %s%s", errEnded, c.name, how, c.tail.quote())
}

// explain returns an error of talking to the process, or how the process ended if that was the cause: a
// broken connection is noticed a little before the end.
func (c *child) explain(err error) error {
	if errors.Is(err, errEnded) {
		return err
	}
	t := time.NewTimer(endNotice)
	defer t.Stop()
	select {
	case <-c.done:
		return errors.Join(err, c.ended())
	case <-t.C:
		return err
	}
}

var errEnded = errors.New("the process ended unexpectedly")

// tail keeps the last bytes written to it. It may be used concurrently.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - logTail; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// quote returns what is kept as the end of an error text.
func (t *tail) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := strings.TrimSpace(string(t.b)); s != "" {
		return "; its last output:\n" + s
	}
	return ""
}

// cleanEnv is this process's environment without the daemon's own variables, so that a benchmark measures
// the configuration it wrote and nothing else.
func cleanEnv() []string {
	env := os.Environ()
	kept := env[:0:0]
	for _, v := range env {
		if !strings.HasPrefix(v, "HERALD_") {
			kept = append(kept, v)
		}
	}
	return kept
}
