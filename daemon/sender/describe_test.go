package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"herald/daemon/egress"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	dial := func(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }
	call := func(errno syscall.Errno) error { return dial("dial", os.NewSyscallError("connect", errno)) }
	denied := &egress.DeniedError{Host: "push.example"}
	for want, errs := range map[string][]error{
		BrokenOff: {context.Canceled},
		"the way out is closed by the operator's policy: " + denied.Error():                                            {dial("dial", denied)},
		"the host name push.example does not exist in the DNS":                                                         {dial("dial", &net.DNSError{Err: "no such host", IsNotFound: true})},
		"the host name push.example could not be resolved":                                                             {dial("dial", &net.DNSError{Err: "x"}), dial("dial", &net.DNSError{Err: "x", IsTimeout: true})},
		"the service did not answer within 2.5s":                                                                       {context.DeadlineExceeded, fmt.Errorf("hangs: %w", context.DeadlineExceeded), dial("read", os.ErrDeadlineExceeded)},
		"the proxy (egress.proxy) did not answer within 2.5s":                                                          {dial("proxyconnect", os.ErrDeadlineExceeded)},
		"the certificate of push.example is not signed by an authority that is trusted here (egress.ca_file adds one)": {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}},
		"the certificate of push.example is not acceptable":                                                            {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}}},
		"the service does not speak TLS":                                                                               {tls.RecordHeaderError{Msg: "x"}},
		"the service refused the TLS handshake":                                                                        {dial("remote error", tls.AlertError(40))},
		"the service refused the connection":                                                                           {call(syscall.ECONNREFUSED)},
		"the proxy (egress.proxy) refused the connection":                                                              {dial("proxyconnect", call(syscall.ECONNREFUSED))},
		"the service cannot be reached: there is no route to its address":                                              {call(syscall.EHOSTUNREACH), call(syscall.ENETUNREACH)},
		"this daemon has no file descriptors or ports left for a connection; its operator has to act":                  {call(syscall.EMFILE), call(syscall.ENFILE), call(syscall.EADDRNOTAVAIL)},
		"the service closed the connection before it answered":                                                         {call(syscall.ECONNRESET), call(syscall.EPIPE), io.EOF, io.ErrUnexpectedEOF},
		"the connection to the service failed before there was an answer":                                              {errors.New("of Go, with a secret")},
	} {
		for _, err := range errs {
			for _, err := range []error{err, &url.Error{Op: "Post", URL: "https://push.example/secret", Err: err}} {
				if got := Describe(err, "the service", "push.example", 2512*time.Millisecond); got != want {
					t.Errorf("%v: %s, want %s", err, got, want)
				}
			}
		}
	}
}
