package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"herald/daemon/client"
)

const (
	// readyLimit bounds the start of the daemon, which takes a fraction of a second.
	readyLimit = 15 * time.Second
	// stopLimit is how long the daemon may take to stop; it drains for five seconds at most.
	stopLimit = 10 * time.Second
	// poll is the pause between two looks at something that does not announce itself.
	poll = 20 * time.Millisecond
)

// daemon is the daemon as a child process, which may be killed and started again.
type daemon struct {
	executable string
	dir        string
	log        string
	environ    []string
	caFile     string // of the browser's push service

	url string

	cmd    *exec.Cmd
	ready  bool // the process has been ready, so it must be able to stop in order
	wg     sync.WaitGroup
	exited chan struct{} // closed when the process has ended
	waited error         // how it ended; to be read after exited
}

func (d *daemon) configFile() string { return filepath.Join(d.dir, "herald.yaml") }
func (d *daemon) socket() string     { return filepath.Join(d.dir, "data", "herald.sock") }

// configure chooses a free port and writes the configuration.
func (d *daemon) configure() error {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // listening on loopback does not block
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	d.url = "http://" + address
	text := fmt.Sprintf(`# Made by herald demo.
listen:
  address: %s
  socket: %q
data_dir: %q
egress:
  # The receiver of the demo and the push service of its browser are on this machine, where callbacks may not go by default.
  allow_networks: [127.0.0.0/8]
  # The push service has a certificate of its own making.
  ca_file: %q
shutdown_timeout: 5s
`, address, d.socket(), filepath.Join(d.dir, "data"), d.caFile)
	return os.WriteFile(d.configFile(), []byte(text), 0o600)
}

// start starts the process and waits until it is ready.
func (d *daemon) start(ctx context.Context) error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// Not bound to the context: its end would be a kill, and ending the daemon is stop's work.
	cmd := exec.Command(d.executable, "serve", "--config", d.configFile()) //nolint:gosec,noctx // this same program
	cmd.Env = ownEnvironment(d.environ)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	err = cmd.Start()
	// The child has its own handle of the log by now, or never will.
	err = errors.Join(err, log.Close())
	if err != nil {
		return fmt.Errorf("start %s: %w", d.executable, err)
	}
	exited := make(chan struct{})
	d.cmd, d.exited, d.ready = cmd, exited, false
	d.wg.Go(func() {
		d.waited = cmd.Wait()
		close(exited)
	})
	if err := d.awaitReady(ctx); err != nil {
		return err
	}
	d.ready = true
	return nil
}

func (d *daemon) awaitReady(ctx context.Context) error {
	api, err := client.New(client.Options{BaseURL: d.url})
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var last error
	err = until(ctx, func() (bool, error) {
		select {
		case <-d.exited:
			return false, fmt.Errorf("the daemon ended: %w", d.ended())
		default:
		}
		last = api.Ready(ctx)
		return last == nil, nil
	})
	if err != nil && last != nil && ctx.Err() != nil {
		return fmt.Errorf("wait until the daemon is ready: %w; its last answer: %w", ctx.Err(), last)
	}
	return err
}

// ended says how the process ended; only after exited is closed.
func (d *daemon) ended() error {
	if d.waited != nil {
		return d.waited
	}
	return errors.New("with exit code 0")
}

// kill ends the process at once, as kill -9 does, and returns when it is gone.
func (d *daemon) kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	<-d.exited
	return nil
}

// stop ends the process in an orderly way, or by force when that takes too long. It is harmless when
// there is none.
func (d *daemon) stop() error {
	if d.cmd == nil {
		return nil
	}
	defer d.wg.Wait()
	select {
	case <-d.exited:
		return nil
	default:
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return d.kill() // a system without that signal
	}
	late := time.NewTimer(stopLimit)
	defer late.Stop()
	select {
	case <-d.exited:
	case <-late.C:
		return errors.Join(fmt.Errorf("the daemon did not stop within %s and was killed", stopLimit), d.kill())
	}
	if d.waited != nil && d.ready {
		return fmt.Errorf("stop the daemon: %w", d.waited)
	}
	return nil
}

// lastWords returns the end of the daemon's log.
func (d *daemon) lastWords() []string {
	const most, tail = 20, 16 << 10
	f, err := os.Open(d.log)
	if err != nil {
		return nil // it was never started
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return nil
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[max(len(lines)-most, 0):]
}

// ownEnvironment is the environment without what would configure the daemon: this one is configured
// by its file alone.
func ownEnvironment(environ []string) []string {
	own := make([]string, 0, len(environ))
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case strings.HasPrefix(name, "HERALD_"), name == "RUNTIME_DIRECTORY", name == "CREDENTIALS_DIRECTORY",
			name == "NOTIFY_SOCKET", name == "LISTEN_FDS", name == "LISTEN_PID":
		default:
			own = append(own, e)
		}
	}
	return own
}

// until asks again and again until done, an error, or the end of the context.
func until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
