package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// handedOver returns the listeners that the service manager has bound for the API and hands over with LISTEN_FDS
// (sd_listen_fds(3)). They stay bound while the daemon restarts, so that who connects meanwhile waits and is not refused.
func handedOver() ([]net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over the sockets of LISTEN_FDS: %w", err)
	}
	for _, l := range listeners {
		// The socket with admin rights checks who connects, which takes a path and a mode of the daemon's own making.
		if _, ok := l.(*net.TCPListener); !ok {
			return nil, &ExitError{ExitUsage, errors.New("a socket handed over with LISTEN_FDS is not one of TCP that listens: " +
				"give ListenStream= of the socket unit host:port or a port; the unix socket is made by herald itself, see listen.socket")}
		}
	}
	return listeners, nil
}

// owed are the connections that were accepted and not answered yet.
type owed struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// note is the server's ConnState.
func (o *owed) note(c net.Conn, state http.ConnState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		o.conns[c] = struct{}{}
	} else {
		delete(o.conns, c)
	}
}

func (o *owed) none() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.conns) == 0
}

// handBackWait is how long a connection may take to bring its request and get its answer; what takes longer gets the
// treatment of every shutdown.
const handBackWait = 2 * time.Second

// handBack leaves the sockets that were handed over to the next daemon: it accepts nothing more, and answers those it has
// accepted as if there were no shutdown. A server that is shut down drops requests which it reads after that moment
// (net/http), and the API refuses them; the next daemon would have served them.
func (d *Daemon) handBack() {
	deadline := time.NewTimer(handBackWait)
	defer deadline.Stop()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for _, s := range d.servers {
		if s.owed == nil {
			continue
		}
		_ = s.listener.Close() // the service manager has it too
		<-s.ended
		s.http.SetKeepAlivesEnabled(false)
		for !s.owed.none() {
			select {
			case <-deadline.C:
				return
			case <-look.C:
			}
		}
	}
}

// notify tells the service manager, where there is one (NOTIFY_SOCKET, sd_notify(3)).
func (d *Daemon) notify(state ...string) {
	if d.o.Notify == nil {
		return
	}
	if err := d.o.Notify(strings.Join(state, "\n")); err != nil {
		d.logger.Warn("the service manager cannot be told", "error", err)
	}
}

// notifySystemd sends one message; without a service manager it does nothing.
func notifySystemd(state string) error {
	_, err := systemd.SdNotify(false, state)
	return err
}

// notifyReady says that the daemon serves, with a remark for people; it says nothing while it does not.
func (d *Daemon) notifyReady(remark string) {
	if d.phase.Load() == serving {
		d.notify(systemd.SdNotifyReady, status("Serving on "+d.addresses()+remark))
	}
}

// status is a line for people, shown by systemctl status.
func status(text string) string { return "STATUS=" + text }

// notifyReloading says that a reload has begun; notifyReady ends it. The time is for units of Type=notify-reload (since
// systemd 253).
func (d *Daemon) notifyReloading() {
	if d.phase.Load() == serving {
		d.notify(systemd.SdNotifyReloading, strings.TrimSuffix(systemd.SdNotifyMonotonicUsec(), "\n"), status("Reading the configuration again"))
	}
}

// notifyStopping asks for as much time as the drain may take: requests and attempts each have the shutdown's, and then there
// are the files to close. So TimeoutStopSec= need not follow shutdown_timeout.
func (d *Daemon) notifyStopping() {
	most := 2*d.shutdownTimeout() + 30*time.Second
	d.notify(systemd.SdNotifyStopping, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", most.Microseconds()),
		status("Shutting down: requests and attempts under way may end"))
}

// watch feeds the watchdog of the service manager as long as both files are committed to: each time a commit has gone
// through the writer of each, to the disk and back. Where the disk hangs the commit does not come back, nor does what waits
// for it, and the service manager ends the process; a new one goes on from what is on disk.
func (d *Daemon) watch(ctx context.Context) error {
	// A third of the limit leaves a commit two thirds of it to come back.
	ticker := time.NewTicker(d.o.Watchdog / 3)
	defer ticker.Stop()
	for {
		err := errors.Join(d.queue.Commit(ctx), d.store.Commit(ctx))
		if err != nil {
			return nil //nolint:nilerr // the context ended; or the file cannot be written any more, which ends the daemon by itself
		}
		d.notify(systemd.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
