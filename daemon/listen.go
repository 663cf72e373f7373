package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"herald/daemon/config"
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

// withTLS wraps a listener in TLS when a certificate is configured, and closes it when that does not load.
func withTLS(l net.Listener, t config.TLS) (net.Listener, error) {
	if t.Cert == "" {
		return l, nil
	}
	c := &certificate{certFile: t.Cert, keyFile: t.Key}
	if _, err := c.get(nil); err != nil {
		_ = l.Close()
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: c.get,
	}), nil
}

// certificateCheck is how often a handshake looks whether the certificate files have changed.
const certificateCheck = 10 * time.Second

// certificate serves a key pair from files and takes up new files by itself. While the new files do
// not fit together, as in the moment between replacing the one and the other, the old pair stays.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	pair    *tls.Certificate
	stamp   [2]fileStamp
	checked time.Time
}

// fileStamp changes when a file is rewritten or replaced.
type fileStamp struct {
	modified time.Time
	size     int64
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.pair != nil && now.Sub(c.checked) < certificateCheck {
		return c.pair, nil
	}
	c.checked = now
	var stamp [2]fileStamp
	for i, name := range []string{c.certFile, c.keyFile} {
		if fi, err := os.Stat(name); err == nil {
			stamp[i] = fileStamp{fi.ModTime(), fi.Size()}
		}
	}
	if c.pair != nil && stamp == c.stamp {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if c.pair != nil {
			return c.pair, nil
		}
		return nil, fmt.Errorf("load the certificate of the API: %w", err)
	}
	c.pair, c.stamp = &pair, stamp
	return c.pair, nil
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
