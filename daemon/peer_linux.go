package daemon

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUser returns the user id of the process at the other end of a unix socket, as the kernel
// recorded it when the connection was made (unix(7), SO_PEERCRED).
func peerUser(c net.Conn) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("a %T has no peer user", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read the peer's user: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("read the peer's user: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("read the peer's user: %w", credErr)
	}
	return int(cred.Uid), nil
}
