package apns

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"

	"herald/daemon/egress"
)

// describe puts an error of the transport into words for the owner of the app. Nothing of its own text goes in, which speaks of Go.
func describe(err error) string {
	if errors.Is(err, context.Canceled) {
		return "the attempt was broken off because the daemon stops"
	}
	if denied, ok := errors.AsType[*egress.DeniedError](err); ok {
		// Its text is made for this: host, address and setting.
		return "the way out is closed by the operator's policy: " + denied.Error()
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the host name of APNs could not be resolved"
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return "APNs did not answer in time"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the certificate that the host of APNs shows is not acceptable"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return "APNs refused the TLS handshake"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "APNs cannot be reached"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this daemon has no file descriptors or ports left for a connection; its operator has to act"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "APNs closed the connection before it answered"
	}
	return "the connection to APNs failed"
}
