package cli

import (
	"fmt"
	"os"
	"strconv"

	"herald/daemon/client"
	"herald/daemon/config"
)

// Remote are the flags that say which daemon a command talks to.
type Remote struct {
	Config string `group:"Which daemon:" placeholder:"FILE" type:"path" help:"The daemon's configuration file, to find its socket. Without it: the defaults and the environment, as for 'herald serve'."`
	Socket string `group:"Which daemon:" placeholder:"PATH" xor:"daemon" help:"The daemon's unix socket, when not the configured one (default data/herald.sock, or /run/herald/herald.sock of the service)."`
	URL    string `group:"Which daemon:" placeholder:"URL" xor:"daemon" help:"Talk to this address with the token in $$HERALD_TOKEN instead of the socket (default: $$HERALD_URL)."`
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
	switch {
	case address != "":
		o.BaseURL = address
		if o.Token = s.Getenv("HERALD_TOKEN"); o.Token == "" {
			return nil, Usage(fmt.Errorf("%s needs an access token in HERALD_TOKEN; `herald token create` on the daemon's machine makes one", address))
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
		return nil, Usage(err)
	}
	return c, nil
}

// serviceSocket is where the configuration of the packages puts the socket.
const serviceSocket = "/run/herald/herald.sock"

func isSocket(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&os.ModeSocket != 0
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
