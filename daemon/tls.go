package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"herald/daemon/config"
)

// certificateCheck is how often the files of listen.tls are looked at. It costs three calls of stat, and handshakes none.
const certificateCheck = time.Second

// suites are those of TLS 1.2 with forward secrecy and authenticated encryption; TLS 1.3 has no others. Go would also take CBC with
// SHA-1, for clients of before 2014, which scanners object to and HTTP/2 prohibits (RFC 9113, appendix A).
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// certificate is the TLS of every TCP address: what listen.tls names, as the files hold it now. New files are taken up by handshakes to
// come when they fit together and are valid; until then what was there stays. Open connections go on as they are.
type certificate struct {
	files    config.TLS
	log      *slog.Logger
	current  atomic.Pointer[tls.Config] // immutable
	expiry   prometheus.Gauge
	failures prometheus.Counter

	mu      sync.Mutex        // guards what follows
	leaf    *x509.Certificate // in force
	loaded  stamps            // of the files in force
	seen    stamps            // at the last look
	refused refusal           // the last one, until files are in order again
	told    string            // what was logged last of the validity of leaf
}

// refusal is of files that cannot be used.
type refusal struct {
	files  stamps
	reason string
}

// stamps tell whether files were rewritten or replaced, also by way of a symbolic link; nil is a file that is not there.
type stamps [3]os.FileInfo

func (s stamps) same(o stamps) bool {
	for i, a := range s {
		b := o[i]
		if (a == nil) != (b == nil) {
			return false
		}
		if a != nil && (!os.SameFile(a, b) || !a.ModTime().Equal(b.ModTime()) || a.Size() != b.Size()) {
			return false
		}
	}
	return true
}

// openCertificate loads the files. A certificate that is not valid now is served all the same, because there is no other; the
// warnings of the configuration tell of it.
func openCertificate(files config.TLS, logger *slog.Logger, registry prometheus.Registerer) (*certificate, error) {
	c := &certificate{
		files: files, log: logger,
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_api_certificate_expiry_timestamp_seconds",
			Help: "When the certificate expires that the API is served with, in Unix time.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "herald_api_certificate_reload_failures_total",
			Help: "New files of listen.tls that were refused.",
		}),
	}
	at := c.stat()
	if err := c.load(at, time.Time{}); err != nil {
		return nil, &ExitError{ExitUsage, fmt.Errorf("load the certificate of the API: %w", err)}
	}
	c.seen, c.told = at, config.Validity(c.leaf, time.Now())
	for _, m := range []prometheus.Collector{c.expiry, c.failures} {
		if err := registry.Register(m); err != nil {
			return nil, fmt.Errorf("register the metrics of the API's certificate: %w", err)
		}
	}
	return c, nil
}

// listener serves TLS on l. A handshake is part of a connection's first read, so that it holds up no other.
func (c *certificate) listener(l net.Listener) net.Listener {
	return tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil },
	})
}

// run looks at the files until ctx ends. It returns nil.
func (c *certificate) run(ctx context.Context) error {
	t := time.NewTicker(certificateCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			c.look()
		}
	}
}

// look takes up files that have changed, once they have been the same for two looks: what is being written may well load, as a
// chain without its end.
func (c *certificate) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.stat()
	settled := at.same(c.seen)
	c.seen = at
	if settled {
		c.take(at)
	}
}

// refresh takes up files that have changed at once, for somebody who says that they are complete.
func (c *certificate) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(c.stat())
}

func (c *certificate) take(at stamps) {
	now := time.Now()
	if at.same(c.loaded) {
		if c.refused.reason != "" {
			c.log.Info("the certificate files are again those in force")
		}
		c.refused = refusal{}
	} else if err := c.load(at, now); err != nil {
		// The same files are tried again, because time or a changed mode may mend them.
		if r := (refusal{at, err.Error()}); r.reason != c.refused.reason || !at.same(c.refused.files) {
			c.failures.Inc()
			c.log.Error("certificate files refused, the ones before stay in force", "reason", r.reason)
			c.refused = r
		}
	} else {
		c.refused = refusal{}
		c.log.Info("certificate loaded", "file", c.files.Cert, "serial", c.leaf.SerialNumber.Text(16), "not_after", c.leaf.NotAfter.UTC())
	}
	if v := config.Validity(c.leaf, now); v != c.told {
		c.told = v
		if v != "" {
			c.log.Warn("the certificate of the API has to be replaced", "file", c.files.Cert, "reason", v)
		}
	}
}

// load puts the files in force. Unless now is zero, the certificate has to be valid then.
func (c *certificate) load(at stamps, now time.Time) error {
	chain, clients, err := c.files.Load()
	if err != nil {
		return err
	}
	if !now.IsZero() && (now.After(chain.Leaf.NotAfter) || now.Before(chain.Leaf.NotBefore)) {
		return fmt.Errorf("%s: %s", c.files.Cert, config.Validity(chain.Leaf, now))
	}
	t := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{chain},
	}
	if clients != nil {
		t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, clients
		// A session that is resumed (RFC 8446, section 2.2) would bring along what was decided of its client's certificate by
		// authorities that may have been replaced since.
		t.SessionTicketsDisabled = true
	}
	c.current.Store(t)
	c.leaf, c.loaded = chain.Leaf, at
	c.expiry.Set(float64(chain.Leaf.NotAfter.Unix()))
	return nil
}

func (c *certificate) stat() stamps {
	var s stamps
	for i, name := range []string{c.files.Cert, c.files.Key, c.files.ClientCA} {
		if fi, err := os.Stat(name); err == nil {
			s[i] = fi
		}
	}
	return s
}
