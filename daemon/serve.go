package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"

	"herald/daemon/config"
)

// ServeOptions are the command line of `herald serve`.
type ServeOptions struct {
	// ConfigPath is the configuration file; "" for the defaults and the environment.
	ConfigPath string
	// Version is the version of the program.
	Version string
	// Stdout gets the lines for the person who starts Herald, Stderr the log.
	Stdout, Stderr io.Writer
}

// ballast is address space that is never touched and so takes no memory. The garbage collector
// counts it as live and lets that much more garbage gather before it runs: the live heap of a few
// megabytes would have it run hundreds of times a second under load. A higher GOGC would do the same
// for a small heap, but would let a large one grow by its own size several times over.
const ballast = 32 << 20

// Serve runs Herald as a process until ctx ends or a signal says so. SIGTERM and SIGINT drain; a second
// one exits at once, which is safe. SIGHUP reloads the configuration, or refuses with the reason.
// It returns nil after a clean stop; an *ExitError decides the exit code, every other error is 1.
func Serve(ctx context.Context, o ServeOptions) error {
	c, err := config.Load(o.ConfigPath, os.Environ())
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	// A panic, and the SIGABRT of a watchdog, would end a Go program with code 2, which tells a supervisor not to start it
	// again. So they end it by the signal.
	debug.SetTraceback("crash")
	idle := make([]byte, ballast)
	defer runtime.KeepAlive(idle)
	level := new(slog.LevelVar)
	level.Set(logLevel(c))
	logged, err := journal.StderrIsJournalStream()
	logger := newLogger(c.Log.Format, level, o.Stderr, err == nil && logged)
	// net/http reports odd receivers to the standard logger, with what they sent. That is no business of
	// the daemon's log beyond that it happened.
	log.SetFlags(0)
	log.SetOutput(strays{logger})
	for _, w := range c.Warnings() {
		logger.Warn("configuration", "warning", w)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(stop)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	listeners, err := handedOver()
	if err != nil {
		return err
	}
	watchdog, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("the watchdog of the service manager: %w", err)
	}
	announce := o.Stdout
	if logged, err := journal.StdoutIsJournalStream(); err == nil && logged {
		announce = nil // a log is no place for a token
	}
	d, err := New(ctx, Options{
		Config: c, Environ: os.Environ(), Version: o.Version, Logger: logger, Level: level, Announce: announce,
		Listeners: listeners, Notify: notifySystemd, Watchdog: watchdog,
	})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		stopping := false
		for {
			select {
			case <-done:
				return
			case s := <-stop:
				if stopping {
					logger.Warn("second signal, exiting at once", "signal", s.String())
					os.Exit(ExitFailed)
				}
				stopping = true
				logger.Info("signal received", "signal", s.String())
				cancel()
			case <-hangup:
				d.Reload(o.ConfigPath, os.Environ())
			}
		}
	})
	err = d.Run(ctx)
	close(done)
	wg.Wait()
	return err
}

// strays takes what libraries write to the standard logger.
type strays struct{ logger *slog.Logger }

// Write implements io.Writer. Quoted text, which came over the network, is cut off.
func (s strays) Write(p []byte) (int, error) {
	text, _, _ := strings.Cut(strings.TrimSpace(string(p)), "\"")
	s.logger.Debug("a library complained", "text", text)
	return len(p), nil
}

// Reload reads the configuration again and applies it, all or nothing: a file that does not validate, or
// that changes something only a restart can change, is refused with the reason in the log, and
// everything stays as it was.
func (d *Daemon) Reload(path string, environ []string) {
	d.notifyReloading()
	if err := d.tryReload(path, environ); err != nil {
		d.metrics.reloaded(false)
		d.logger.Error("reload refused, nothing has changed", "reason", err)
		d.notifyReady("; the last reload was refused, the log says why")
		return
	}
	d.metrics.reloaded(true)
	d.logger.Info("configuration reloaded")
	d.notifyReady("")
}

func (d *Daemon) tryReload(path string, environ []string) error {
	c, err := config.Load(path, environ)
	if err != nil {
		return err
	}
	d.reload.Lock()
	defer d.reload.Unlock()
	if keys := config.NeedsRestart(d.config, c); len(keys) > 0 {
		return fmt.Errorf("only a restart can change %v", keys)
	}
	policy, err := deliveryPolicy(c)
	if err != nil {
		return err
	}
	settings, err := apiSettings(c)
	if err != nil {
		return err
	}
	// Everything that can fail has been done; from here on it is applied.
	if err := errors.Join(d.dispatcher.Configure(policy), d.handshake.Configure(handshakeSettings(c)), d.api.Configure(settings)); err != nil {
		return err
	}
	d.queue.Configure(retention(c))
	// These log by themselves what they find: a certificate is no reason to refuse the rest.
	d.identity.Refresh()
	if d.certificate != nil {
		d.certificate.refresh()
	}
	if d.o.Level != nil {
		d.o.Level.Set(logLevel(c))
	}
	d.config = c
	return nil
}
