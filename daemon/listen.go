package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// The limits of every HTTP server the daemon runs. A client that is slower than these is cut off, so
// that slow or idle connections cannot pile up.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = time.Minute
	// writeTimeout bounds a whole answer; a complete list of a million subscriptions takes seconds.
	writeTimeout   = 5 * time.Minute
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 32 << 10
)

// NewServer returns the HTTP server as the daemon configures it, for the handler given. Errors of
// single connections (a failed TLS handshake, say) are logged at debug level.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// listenTCP binds an address.
func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// listenSocket binds the unix socket for the daemon's own user and root. A socket left behind by a
// process that died is replaced; one that answers is not.
func listenSocket(ctx context.Context, path string, logger *slog.Logger) (net.Listener, error) {
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen on %s: another process answers there", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove the stale socket: %w", err)
			}
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The mode keeps others out on systems that cannot tell who the peer is; where they can, every
	// connection is checked too, which also covers the moment before this call.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("protect the socket: %w", err)
	}
	return &peerListener{Listener: l, logger: logger}, nil
}

// peerListener accepts connections of the daemon's own user and of root, and closes all others.
type peerListener struct {
	net.Listener
	logger *slog.Logger
}

// Accept implements net.Listener.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUser(c)
		if err == nil && (uid == 0 || uid == os.Getuid()) {
			return c, nil
		}
		if err != nil {
			l.logger.Warn("socket connection refused", "error", err)
		} else {
			l.logger.Warn("socket connection refused", "uid", uid)
		}
		_ = c.Close()
	}
}
