//go:build !unix

package bench

import (
	"fmt"
	"net"
)

// port is a port of loopback that refuses connections. Nothing keeps others from taking it here.
type port struct{ addr string }

// reservePort finds a free port.
func reservePort() (*port, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	return &port{l.Addr().String()}, l.Close()
}

// listen begins to take connections.
func (p *port) listen() (net.Listener, error) { return net.Listen("tcp", p.addr) }

func (*port) close() {}
