package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Load reads the files anew: the certificate chain with its key and, with ClientCA, the authorities that clients are judged by, else
// nil. It takes exactly what Parse takes, so that files which a running daemon takes up also let it start. The error names each file
// and what is wrong with it; that a certificate is not valid now is none.
func (t TLS) Load() (chain tls.Certificate, clients *x509.CertPool, err error) {
	chain, certProblem, keyProblem, err := loadPair(t.Cert, t.Key)
	clients, clientProblem := loadAuthorities(t.ClientCA)
	var errs []error
	for _, f := range []struct{ path, problem string }{{t.Cert, certProblem}, {t.Key, keyProblem}, {t.ClientCA, clientProblem}} {
		if f.problem != "" {
			errs = append(errs, errors.New(f.path+" "+f.problem))
		}
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("%s does not load together with %s: %w", t.Cert, t.Key, err))
	}
	return chain, clients, errors.Join(errs...)
}

// loadPair reads a certificate chain and its key. The error is for files that are each in order and do not load together; the
// library's words name the fault (no PEM data, a key of another certificate) and hold nothing of the files.
func loadPair(cert, key string) (pair tls.Certificate, certProblem, keyProblem string, err error) {
	chain, certProblem := readPEM(cert)
	private, keyProblem := readPEM(key)
	if certProblem == "" && keyProblem == "" {
		pair, err = tls.X509KeyPair(chain, private)
	}
	return pair, certProblem, keyProblem, err
}

// loadAuthorities reads certificates to trust; there are none without a path.
func loadAuthorities(path string) (pool *x509.CertPool, problem string) {
	certs, problem := readCertificates(path)
	if len(certs) == 0 {
		return nil, problem
	}
	pool = x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, ""
}

func readCertificates(path string) (certs []*x509.Certificate, problem string) {
	if path == "" {
		return nil, ""
	}
	data, problem := readPEM(path)
	if problem != "" {
		return nil, problem
	}
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, "holds a certificate that does not parse: " + err.Error()
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, "holds no certificate in PEM form"
	}
	return certs, ""
}

// readPEM reads a file whose PEM blocks are all whole. The library passes over one that is cut off, as in a file that is being
// written, and would take the chain for a shorter one or trust fewer authorities than are meant.
func readPEM(path string) (data []byte, problem string) {
	data, problem = regular(path)
	if problem != "" {
		return nil, problem
	}
	begun, whole := bytes.Count(append([]byte{'\n'}, data...), []byte("\n-----BEGIN ")), 0
	for rest := data; ; whole++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
	}
	if whole < begun {
		return nil, "holds a PEM block that is cut off or damaged"
	}
	return data, ""
}

// Validity tells of a certificate that is not valid now, or soon not any more, in words that stay the same until that changes; ""
// when all is well. Soon is two weeks, or a third of its life where that is less: those of a few days are renewed that late.
func Validity(c *x509.Certificate, now time.Time) string {
	soon := min(14*24*time.Hour, c.NotAfter.Sub(c.NotBefore)/3)
	switch {
	case now.After(c.NotAfter):
		return "the certificate expired at " + c.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(c.NotBefore):
		return "the certificate is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	case now.Add(soon).After(c.NotAfter):
		return "the certificate expires soon, at " + c.NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}

// lasting is the certificate of a file of authorities that is valid the longest: while one is replaced by another, the old one may
// well be expired.
func lasting(certs []*x509.Certificate) *x509.Certificate {
	var last *x509.Certificate
	for _, c := range certs {
		if last == nil || c.NotAfter.After(last.NotAfter) {
			last = c
		}
	}
	return last
}

// tls judges the files of listen.tls.
func (j judge) tls(t TLS) {
	j.pair("listen.tls", t.Cert, t.Key)
	if t.ClientCA == "" {
		return
	}
	if t.Cert == "" {
		j.refuse("listen.tls.client_ca", "needs listen.tls.cert and listen.tls.key: without TLS nobody shows a certificate")
		return
	}
	if _, problem := loadAuthorities(t.ClientCA); problem != "" {
		j.refuse("listen.tls.client_ca", problem)
	}
}

// doubtful are the warnings of certificate files: what is not valid now, or not much longer. Nothing is refused for it: its owner may
// have no other just now.
func (c *Config) doubtful(now time.Time) []string {
	var list []string
	warn := func(key string, cert *x509.Certificate) {
		if w := Validity(cert, now); w != "" {
			list = append(list, key+": "+w)
		}
	}
	for _, f := range []struct{ key, path string }{{"listen.tls.cert", c.Listen.TLS.Cert}, {"identity.cert", c.Identity.Cert}} {
		if certs, _ := readCertificates(f.path); len(certs) > 0 {
			warn(f.key, certs[0])
		}
	}
	if certs, _ := readCertificates(c.Listen.TLS.ClientCA); len(certs) > 0 {
		warn("listen.tls.client_ca", lasting(certs))
	}
	return list
}
