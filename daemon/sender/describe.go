package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"herald/daemon/egress"
)

// BrokenOff is the text of an attempt that its daemon gave up.
const BrokenOff = "the attempt was broken off because the daemon stops"

// Describe puts an error of the transport into words for the owner of the app. who is whom the request was for, such as "FCM", host the name
// of the machine, and took how long it was tried. Nothing of the error's own text goes in: it may hold a URL that is a secret, and speaks of
// Go.
func Describe(err error, who, host string, took time.Duration) string {
	if errors.Is(err, context.Canceled) {
		return BrokenOff
	}
	if denied, ok := errors.AsType[*egress.DeniedError](err); ok {
		// Its text is made for this: host, address and setting.
		return "the way out is closed by the operator's policy: " + denied.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
		who = "the proxy (egress.proxy)"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "the host name " + host + " does not exist in the DNS"
		}
		return "the host name " + host + " could not be resolved"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return who + " did not answer within " + took.Round(100*time.Millisecond).String()
	}
	if text := describeTLS(err, who, host); text != "" {
		return text
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return who + " refused the connection"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return who + " cannot be reached: there is no route to its address"
	case Exhausted(err):
		return "this daemon has no file descriptors or ports left for a connection; its operator has to act"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return who + " closed the connection before it answered"
	}
	return "the connection to " + who + " failed before there was an answer"
}

// describeTLS is "" for an error that has nothing to do with TLS.
func describeTLS(err error, who, host string) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the certificate of " + host + " is not signed by an authority that is trusted here (egress.ca_file adds one)"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the certificate of " + host + " is not acceptable"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return who + " does not speak TLS"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return who + " refused the TLS handshake"
	}
	return ""
}

// Exhausted tells that it is this machine that cannot open a connection, to whomever.
func Exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
