package fcm

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

const (
	// brokenOff is the text of an attempt that its daemon gave up.
	brokenOff = "the attempt was broken off because the daemon stops"
	// complainEvery is how often the operator is told of a lasting want.
	complainEvery = time.Minute
)

// describe puts an error of the transport into words for the owner of the app. who is whom the request was for. Nothing of the error's own text goes in,
// which speaks of Go.
func (s *Sender) describe(err error, who, host string, took time.Duration) string {
	if errors.Is(err, context.Canceled) {
		return brokenOff
	}
	if denied, ok := errors.AsType[*egress.DeniedError](err); ok {
		// Its text is made for this: host, address and setting.
		return "the way out is closed by the operator's policy: " + denied.Error()
	}
	via := who
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
		via = "the proxy (egress.proxy)"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the host name " + host + " could not be resolved"
	}
	timeout, ok := errors.AsType[net.Error](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), ok && timeout.Timeout():
		return via + " did not answer within " + took.Round(100*time.Millisecond).String()
	case unknown:
		return "the certificate of " + host + " is not signed by an authority that is trusted here (egress.ca_file adds one)"
	case untrusted:
		return "the certificate of " + host + " is not acceptable"
	case errors.Is(err, syscall.ECONNREFUSED):
		return via + " refused the connection"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return via + " cannot be reached: there is no route to its address"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		s.complain()
		return "this daemon has no file descriptors or ports left for a connection; its operator has to act"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return via + " closed the connection before it answered"
	}
	return "the connection to " + via + " failed before there was an answer"
}

func (s *Sender) complain() {
	now := time.Now().UnixNano()
	last := s.complained.Load()
	if (last == 0 || now-last >= int64(complainEvery)) && s.complained.CompareAndSwap(last, now) {
		s.log.Error("no file descriptors or ports left for connections")
	}
}
