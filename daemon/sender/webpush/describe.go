package webpush

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"

	"herald/daemon/egress"
)

// describe puts an error of the transport into words for the app's owner. Nothing of the error's own text goes in: it holds the endpoint, which
// is a secret.
func describe(err error, origin string, took time.Duration) string {
	if errors.Is(err, context.Canceled) {
		return "the attempt was broken off because the daemon stops"
	}
	if denied, ok := errors.AsType[*egress.DeniedError](err); ok {
		// Its text is made for this: host, address and setting.
		return "the way out is closed by the operator's policy: " + denied.Error()
	}
	service := "the push service " + origin
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return service + " does not exist in the DNS"
		}
		return "the host name of " + service + " could not be resolved"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return service + " did not answer within " + took.Round(100*time.Millisecond).String()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the certificate of " + service + " is not one that is trusted here"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return service + " does not speak TLS"
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return service + " refused the connection"
	}
	return "the connection to " + service + " could not be made, or broke before the answer"
}
