//go:build unix

package bench

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// port is a port of loopback that refuses connections but is nobody else's: bound, and not listened on yet.
type port struct {
	fd   int
	addr string
}

// reservePort takes a free port. The caller closes it.
func reservePort() (*port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", os.NewSyscallError("socket", err))
	}
	unix.CloseOnExec(fd)
	p := &port{fd: fd}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		p.close()
		return nil, fmt.Errorf("reserve a port: %w", os.NewSyscallError("bind", err))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("reserve a port: %w", os.NewSyscallError("getsockname", err))
	}
	p.addr = "127.0.0.1:" + strconv.Itoa(name.(*unix.SockaddrInet4).Port)
	return p, nil
}

// listen begins to take connections; the listener lives on when the port is closed.
func (p *port) listen() (net.Listener, error) {
	if err := unix.Listen(p.fd, unix.SOMAXCONN); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", p.addr, os.NewSyscallError("listen", err))
	}
	f := os.NewFile(uintptr(p.fd), p.addr)
	p.fd = -1
	// The listener has a descriptor of its own.
	defer func() { _ = f.Close() }()
	return net.FileListener(f)
}

func (p *port) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}
