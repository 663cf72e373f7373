package cli

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"herald/daemon/client"
	"herald/daemon/config"
)

// Remote are the flags that say which daemon a command talks to.
type Remote struct {
	Config string `group:"Which daemon:" placeholder:"FILE" type:"path" help:"The daemon's configuration file, to find its socket. Without it: the defaults and the environment, as for 'herald serve'."`
	Socket string `group:"Which daemon:" placeholder:"PATH" xor:"daemon" help:"The daemon's unix socket, when not the configured one (default data/herald.sock, or /run/herald/herald.sock of the service)."`
	URL    string `group:"Which daemon:" placeholder:"URL" xor:"daemon" help:"Talk to this address with the token in $$HERALD_TOKEN instead of the socket (default: $$HERALD_URL)."`
	CA     string `group:"Which daemon:" placeholder:"FILE" type:"path" help:"Trust these authorities (PEM) at an https:// address, instead of the system's (default: $$HERALD_CA)."`
	Cert   string `group:"Which daemon:" placeholder:"FILE" type:"path" help:"Show this client certificate (PEM) at an https:// address (default: $$HERALD_CERT)."`
	Key    string `group:"Which daemon:" placeholder:"FILE" type:"path" help:"The key of that certificate (PEM; default: $$HERALD_KEY)."`
	// The account has no short form: acting for another tenant should be seen.
	Account string `group:"Which daemon:" placeholder:"ID" help:"The account to act for (default: the token's own; over the socket, 'default')."`
}

// client makes the client of the daemon the flags and the environment name: --url or --socket, else
// HERALD_URL, else the configured socket, else that of the service.
func (r Remote) client(s Streams, version string) (*client.Client, error) {
	o := client.Options{Account: r.Account, UserAgent: "herald/" + version}
	address := r.URL
	if address == "" && r.Socket == "" && r.Config == "" {
		address = s.Getenv("HERALD_URL")
	}
	if address == "" && r.CA+r.Cert+r.Key != "" {
		return nil, Usage(errors.New("--ca, --cert and --key are for an https:// address; the socket has no TLS"))
	}
	switch {
	case address != "":
		o.BaseURL = address
		if o.Token = s.Getenv("HERALD_TOKEN"); o.Token == "" {
			return nil, Usage(fmt.Errorf("%s needs an access token in HERALD_TOKEN; `herald token create` on the daemon's machine makes one", address))
		}
		var err error
		if o.TLS, err = r.tls(s, address); err != nil {
			return nil, Usage(err)
		}
	case r.Socket != "":
		o.Socket = r.Socket
	default:
		c, err := config.Load(r.Config, s.Environ)
		if err != nil {
			return nil, Usage(err)
		}
		o.Socket = c.SocketPath(s.Environ)
		// On the machine of an installed service nobody has to say where that is, unless there is a daemon of one's own.
		if r.Config == "" && !isSocket(o.Socket) && isSocket(serviceSocket) {
			o.Socket = serviceSocket
		}
	}
	c, err := client.New(o)
	if err != nil {
		return nil, Usage(fmt.Errorf("--url (HERALD_URL), HERALD_TOKEN or --account is wrong: %w", err))
	}
	return c, nil
}

// serviceSocket is where the configuration of the packages puts the socket.
const serviceSocket = "/run/herald/herald.sock"

func isSocket(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&os.ModeSocket != 0
}

// tls reads the certificates that the flags name, and for those that are not given the environment; nil without any. What the
// environment names is for whatever https:// address comes up, and of no concern to others.
func (r Remote) tls(s Streams, address string) (*tls.Config, error) {
	if !strings.HasPrefix(strings.ToLower(address), "https://") {
		if r.CA+r.Cert+r.Key != "" {
			return nil, fmt.Errorf("--ca, --cert and --key are for an https:// address, and %s is none", address)
		}
		return nil, nil
	}
	ca, cert, key := cmp.Or(r.CA, s.Getenv("HERALD_CA")), cmp.Or(r.Cert, s.Getenv("HERALD_CERT")), cmp.Or(r.Key, s.Getenv("HERALD_KEY"))
	if ca+cert+key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read the authorities of --ca or HERALD_CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s, of --ca or HERALD_CA, holds no certificate in PEM form", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("a client certificate takes both --cert and --key (HERALD_CERT and HERALD_KEY)")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("load the client certificate of --cert and --key (HERALD_CERT and HERALD_KEY): %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// position prints a problem of a configuration as compilers do, file:line: key: problem, so that
// editors find the place; one of the environment with the variable's name.
func position(e config.Error) string {
	var where string
	switch {
	case e.Variable != "":
		where = e.Variable + ": "
	case e.File != "" && e.Line > 0:
		where = e.File + ":" + strconv.Itoa(e.Line) + ": "
	case e.File != "":
		where = e.File + ": "
	}
	if e.Path != "" && e.Variable == "" {
		where += e.Path + ": "
	}
	return where + e.Problem
}
