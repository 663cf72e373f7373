package daemon

import (
	"crypto/tls"
	"net/http"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"

	"herald/daemon/egress"
	"herald/daemon/identity"
)

// openIdentity loads the certificate chain and its key, or makes them in the data directory.
func (d *Daemon) openIdentity(registry prometheus.Registerer) (err error) {
	c := d.o.Config
	host := ""
	if u, err := url.Parse(c.PublicURL); err == nil {
		host = u.Hostname()
	}
	d.identity, err = identity.Open(identity.Options{
		CertFile: c.Identity.Cert, KeyFile: c.Identity.Key, Dir: c.DataDir, Host: host,
		Logger: d.logger.With("part", "identity"), Registerer: registry,
	})
	if err != nil {
		// Nothing of it mends itself: a file of the operator's, or of the data directory, is to be put right.
		return &ExitError{ExitUsage, err}
	}
	return nil
}

// certifiedTransport makes transports whose handshakes present a certificate. Each has its own connections, and keeps as
// many idle as it has a share for: Herald's own certificate may be shown to many receivers, any other is most likely one
// receiver's.
func certifiedTransport(way *egress.Egress, share connectionShare) func(*tls.Certificate, bool) *http.Transport {
	return func(c *tls.Certificate, own bool) *http.Transport {
		t := way.Transport()
		t.MaxIdleConns = share.certified
		if own {
			t.MaxIdleConns = share.own
		}
		t.MaxIdleConnsPerHost = t.MaxIdleConns
		// Of Certificates the library would leave it out when the receiver's list of authorities does not name its issuer, and
		// the receiver could not say more than that there was none.
		t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
		return t
	}
}
