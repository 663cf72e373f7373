package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"herald/daemon/egress"
	"herald/daemon/sender"
)

// describe puts an error of the transport into words for the owner of the receiver. Nothing of the
// error's own text goes in: it may hold the URL with its secrets, and speaks of Go.
func describe(err error, x *exchange, host string, took time.Duration) string {
	phase := x.phase.Load()
	if !printable(host) || len(host) > 253 {
		host = "the host"
	}
	if errors.Is(err, context.Canceled) {
		return sender.BrokenOff
	}
	if denied, ok := errors.AsType[*egress.DeniedError](err); ok {
		// Its text is made for this: host, address and setting.
		return "the way out is closed by the operator's policy: " + denied.Error()
	}
	via := "the receiver"
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
		via = "the proxy (egress.proxy)"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case dns.IsNotFound:
			return "the host name " + host + " does not exist in the DNS"
		case dns.IsTimeout:
			return "the name server did not answer in time for " + host
		}
		return "the host name " + host + " could not be resolved"
	}
	if isTimeout(err) {
		return timedOut(phase, via, took)
	}
	if text := describeTLS(err, host); text != "" {
		return text
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return via + " refused the connection: nothing listens on that port"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return via + " cannot be reached: there is no route to its address"
	case sender.Exhausted(err):
		return "this daemon has no file descriptors or ports left for a connection; its operator has to act"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return via + " reset the connection " + before(phase)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return via + " closed the connection " + before(phase)
	}
	switch phase {
	case phaseHeaders:
		return "the receiver's answer is not valid HTTP, or its headers are too large"
	case phaseAnswer:
		// net/http's own words for this have no type.
		return "the receiver closed the connection before it answered"
	case phaseTLS:
		return "the TLS handshake with the receiver failed"
	}
	return via + " could not be connected to"
}

// isTimeout tells a deadline of ours, or one of the transport's, from a failure of the receiver.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

func timedOut(phase int32, via string, took time.Duration) string {
	within := " within " + took.Round(100*time.Millisecond).String()
	switch phase {
	case phaseConnect:
		return via + " could not be connected to" + within
	case phaseTLS:
		return "the TLS handshake with the receiver was not finished" + within
	case phaseAnswer:
		return "the receiver did not answer" + within
	}
	return "the receiver began to answer, but its headers were not complete" + within
}

func before(phase int32) string {
	switch phase {
	case phaseConnect:
		return "while it was being opened"
	case phaseTLS:
		return "during the TLS handshake"
	case phaseAnswer:
		return "before it answered"
	}
	return "before its headers were complete"
}

// describeTLS is "" for an error that has nothing to do with TLS.
func describeTLS(err error, host string) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the receiver's certificate is not for the host name " + host
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the receiver's certificate is not signed by an authority that is trusted here (egress.ca_file adds one)"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && invalid.Cert != nil {
		if time.Now().Before(invalid.Cert.NotBefore) {
			return "the receiver's certificate is not valid before " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339)
		}
		return "the receiver's certificate expired at " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the receiver's certificate is not acceptable"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return "the receiver does not speak TLS on this port (the callback URL begins with https)"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		// An alert: its Err prints one of the names of RFC 8446, section 6, behind a prefix.
		return "the receiver refused the TLS handshake: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}
