package api

import "net/http"

const typeCertificates = "application/pem-certificate-chain" // RFC 8555, section 9.1

// readCertificates answers the chain that receivers verify pushes with. It may be kept for an hour, which is far less than
// a certificate is published before it is used.
func (a *API) readCertificates(c *call) error {
	h := c.Header()
	h.Set("Content-Type", typeCertificates)
	h.Set("Cache-Control", "public, max-age=3600")
	c.WriteHeader(http.StatusOK)
	_, _ = c.Write(a.certificates()) // a client that has gone cannot be told
	return nil
}
