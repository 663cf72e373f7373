package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The signature schemes of a subscription (Standard Webhooks).
const (
	// SchemeSymmetric signs with a secret that the receiver has too (HMAC-SHA256).
	SchemeSymmetric = "v1"
	// SchemeAsymmetric signs with a key pair (Ed25519) of which the receiver has the public half.
	SchemeAsymmetric = "v1a"
)

// Certificate is what the TLS handshake of a push presents. Set one of Identity and PKCS12.
type Certificate struct {
	// Identity presents the daemon's own chain, see Client.Certificates.
	Identity bool
	// PKCS12 is a file with a private key and its certificate, and Password what opens it.
	PKCS12   []byte
	Password string
}

// MarshalJSON writes true for the daemon's own chain, else the file.
func (c Certificate) MarshalJSON() ([]byte, error) {
	switch {
	case c.Identity && len(c.PKCS12) > 0:
		return nil, errors.New("the daemon's own chain and a PKCS #12 file exclude each other")
	case c.Identity:
		return []byte("true"), nil
	case len(c.PKCS12) == 0:
		return nil, errors.New("a client certificate is the daemon's own chain or a PKCS #12 file")
	}
	return encode(struct {
		PKCS12   string `json:"pkcs12"`
		Password string `json:"password"`
	}{base64.StdEncoding.EncodeToString(c.PKCS12), c.Password})
}

// CertificateInfo is a Certificate as the daemon shows it.
type CertificateInfo struct {
	// Identity says that it is the daemon's own chain, of which nothing more is told here.
	Identity bool
	// Subject names the subscription's own certificate, and NotAfter is when it expires.
	Subject  string
	NotAfter time.Time
}

// UnmarshalJSON reads both forms.
func (c *CertificateInfo) UnmarshalJSON(b []byte) error {
	*c = CertificateInfo{}
	if json.Unmarshal(b, &c.Identity) == nil {
		return nil
	}
	var own struct {
		Subject  string    `json:"subject"`
		NotAfter time.Time `json:"notAfter"`
	}
	if err := json.Unmarshal(b, &own); err != nil {
		return fmt.Errorf("read a client certificate: %w", err)
	}
	c.Subject, c.NotAfter = own.Subject, own.NotAfter
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads, which is also what a PUT takes back.
func (c CertificateInfo) MarshalJSON() ([]byte, error) {
	if c.Identity {
		return []byte("true"), nil
	}
	return encode(struct {
		Set      bool      `json:"pkcs12Set"`
		Subject  string    `json:"subject"`
		NotAfter time.Time `json:"notAfter"`
	}{true, c.Subject, c.NotAfter})
}

// maxChain bounds the certificates of the daemon, which are some KiB.
const maxChain = 1 << 20

// Certificates returns the daemon's X.509 chain as PEM, with which receivers verify who sent a push. It needs no token.
func (c *Client) Certificates(ctx context.Context) ([]byte, error) {
	return c.page(ctx, "/certificates/default", maxChain)
}
