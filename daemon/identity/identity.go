// Package identity is who Herald is towards receivers: a private key, the X.509 chain that tells its public half,
// and the HTTP message signatures (RFC 9421) made with it.
//
// It promises:
//
//   - There is always a key to sign with, one that fits its certificate, which receivers can get before they need it: of
//     the self-made ones a new certificate is published Lead before it signs anything, and the old one until it
//     expires, so that whoever fetches the chain once a day never meets a signature it cannot verify.
//   - Configured files are taken up when they change and fit together; until then what was there stays.
//   - The self-made key is readable by the daemon's own user only, and on disk, synced, before it is published.
//   - Signing takes no lock and makes no system call.
package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Lead is how long a self-made certificate is published before its key signs.
const Lead = 7 * 24 * time.Hour

// checkEvery is how often Run looks at the files and the age of the certificates. It is half a minute and not a
// day, because a configured certificate is often replaced in the hour it expires.
const checkEvery = 30 * time.Second

// Options say where the identity comes from.
type Options struct {
	// CertFile and KeyFile are PEM files of the chain, Herald's own certificate first, and of its private key. Both
	// or neither are set; without them the identity is self-made.
	CertFile, KeyFile string
	// Dir is the directory a self-made identity is kept in; required without files. It must exist.
	Dir string
	// Host is what a self-made certificate names: a host name or an IP address; "" means herald.
	Host string
	// Logger is told of new certificates and of files that cannot be used; nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Identity holds the key and the chain in force. Its methods are safe for concurrent use.
type Identity struct {
	o       Options
	log     *slog.Logger
	current atomic.Pointer[Credential]
	chain   atomic.Pointer[[]byte]
	expiry  prometheus.Gauge

	mu       sync.Mutex  // guards what follows, which only loading needs
	pairs    []pair      // self-made: the oldest first
	stamp    [2]stamp    // of the configured files as loaded
	previous *Credential // configured: the one before, still published
	broken   string      // what was logged last of unusable files
}

// Credential is a key with its chain. It is immutable.
type Credential struct {
	// KeyID names the key in signatures: the SHA-256 of the certificate's SubjectPublicKeyInfo in DER, in 64 lower-case
	// hexadecimal digits.
	KeyID string
	// Algorithm is how the key signs, a name of the HTTP Signature Algorithms registry (RFC 9421, section 6.2.2).
	Algorithm string
	// TLS is the same for a TLS handshake; its Leaf is set. It is read-only.
	TLS *tls.Certificate

	sign func(text []byte) ([]byte, error)
}

// Open loads the configured files, or the self-made identity, which it makes at the first time. It starts nothing: Run
// keeps the identity fresh afterwards. An expired configured certificate is no error, because a signature made with
// its key still tells who signed; it is logged.
func Open(o Options) (*Identity, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Host == "" {
		o.Host = "herald"
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("identity: the certificate and the key are set together")
	}
	if o.CertFile == "" && o.Dir == "" {
		return nil, errors.New("identity: a directory is required for a self-made identity")
	}
	i := &Identity{
		o: o, log: o.Logger,
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "herald_identity_expiry_timestamp_seconds",
			Help: "When the certificate expires that Herald signs with, in Unix time.",
		}),
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.load(time.Now()); err != nil {
		return nil, err
	}
	if o.Registerer != nil {
		if err := o.Registerer.Register(i.expiry); err != nil {
			return nil, fmt.Errorf("register the metrics of the identity: %w", err)
		}
	}
	return i, nil
}

// Credential returns the key in force and its chain.
func (i *Identity) Credential() *Credential { return i.current.Load() }

// Chain returns the certificates that receivers verify with, as PEM: that of the key in force first, with its
// intermediates, then those that are about to sign or did so lately. The bytes are shared and read-only.
func (i *Identity) Chain() []byte { return *i.chain.Load() }

// Run renews what is self-made and takes up files that change, until ctx ends. It returns nil.
func (i *Identity) Run(ctx context.Context) error {
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			i.Refresh()
		}
	}
}

// Refresh does at once what Run does by and by. What cannot be done is logged, once for each reason, and leaves everything
// as it was.
func (i *Identity) Refresh() {
	i.mu.Lock()
	defer i.mu.Unlock()
	err := i.load(time.Now())
	switch {
	case err == nil && i.broken != "":
		i.broken = ""
		i.log.Info("the identity can be refreshed again")
	case err != nil && err.Error() != i.broken:
		i.broken = err.Error()
		i.log.Error("the identity was not refreshed and stays as it was", "error", err)
	}
}

func (i *Identity) load(now time.Time) error {
	if i.o.CertFile != "" {
		return i.loadFiles(now)
	}
	return i.loadOwn(now)
}

// publish puts a credential in force and composes the chain: its own certificates, then the leaves of others.
func (i *Identity) publish(c *Credential, others ...*x509.Certificate) {
	var b bytes.Buffer
	write := func(der []byte) {
		// A write to a buffer does not fail, and the block has no headers to be refused.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	for _, der := range c.TLS.Certificate {
		write(der)
	}
	for _, o := range others {
		write(o.Raw)
	}
	chain := b.Bytes()
	i.chain.Store(&chain)
	i.current.Store(c)
	i.expiry.Set(float64(c.TLS.Leaf.NotAfter.Unix()))
}

// stamp changes when a file is rewritten or replaced.
type stamp struct {
	modified time.Time
	size     int64
}

// loadFiles reads the configured files, if they have changed.
func (i *Identity) loadFiles(now time.Time) error {
	before := i.current.Load()
	var at [2]stamp
	for n, name := range []string{i.o.CertFile, i.o.KeyFile} {
		if fi, err := os.Stat(name); err == nil {
			at[n] = stamp{fi.ModTime(), fi.Size()}
		}
	}
	gone := i.previous != nil && now.After(i.previous.TLS.Leaf.NotAfter)
	if before != nil && at == i.stamp && !gone {
		return nil
	}
	loaded, err := tls.LoadX509KeyPair(i.o.CertFile, i.o.KeyFile)
	if err != nil {
		return fmt.Errorf("load the identity: %w", err)
	}
	c, err := newCredential(&loaded)
	if err != nil {
		return fmt.Errorf("load the identity from %s: %w", i.o.CertFile, err)
	}
	i.stamp = at
	if before != nil && before.KeyID != c.KeyID {
		i.previous, gone = before, now.After(before.TLS.Leaf.NotAfter)
	}
	if gone {
		i.previous = nil
	}
	var others []*x509.Certificate
	if i.previous != nil && i.previous.KeyID != c.KeyID {
		others = append(others, i.previous.TLS.Leaf)
	}
	i.publish(c, others...)
	leaf := c.TLS.Leaf
	i.log.Info("identity loaded", "file", i.o.CertFile, "key_id", c.KeyID, "algorithm", c.Algorithm, "not_after", leaf.NotAfter.UTC())
	switch {
	case now.After(leaf.NotAfter):
		i.log.Warn("the certificate of the identity has expired", "not_after", leaf.NotAfter.UTC())
	case now.Before(leaf.NotBefore):
		i.log.Warn("the certificate of the identity is not valid yet", "not_before", leaf.NotBefore.UTC())
	}
	return nil
}

// newCredential judges a key by making a signature with it and verifying it, so that no push meets a key that cannot.
func newCredential(t *tls.Certificate) (*Credential, error) {
	if t.Leaf == nil {
		leaf, err := x509.ParseCertificate(t.Certificate[0])
		if err != nil {
			return nil, fmt.Errorf("parse the certificate: %w", err)
		}
		t.Leaf = leaf
	}
	key, ok := t.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	algorithm, sign, err := method(key)
	if err != nil {
		return nil, err
	}
	c := &Credential{KeyID: KeyID(t.Leaf), Algorithm: algorithm, TLS: t, sign: sign}
	sample := []byte("a text to try the key with")
	signature, err := c.sign(sample)
	if err != nil {
		return nil, fmt.Errorf("try the private key: %w", err)
	}
	if err := verify(t.Leaf, algorithm, sample, signature); err != nil {
		return nil, fmt.Errorf("try the private key: %w", err)
	}
	return c, nil
}
