package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// answerTimeout is how long the daemon may take for one answer before the run is given up.
	answerTimeout = 30 * time.Second
	// idleReuse is how long a connection may rest and still be used again: shorter than any server's
	// idle timeout, so that a request is never sent into a connection that is just being closed.
	idleReuse = 5 * time.Second
	// maxAnswer bounds the answer to one request; a batch's answer has some 50 bytes an event.
	maxAnswer = 16 << 20
)

// connection is one keep-alive HTTP/1.1 connection of the load generator. It sends requests that were
// built before and costs no allocation. It is not safe for concurrent use.
type connection struct {
	addr     string
	conn     net.Conn
	wire     *wire
	used     time.Time
	deadline time.Time
	release  func() bool
}

// open connects, unless a usable connection is there. When the context ends, a call that waits for the
// peer returns at once.
func (c *connection) open(ctx context.Context) error {
	if c.conn != nil && time.Since(c.used) < idleReuse {
		return nil
	}
	c.close()
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	c.conn = conn
	if c.wire == nil {
		c.wire = newWire(conn, maxAnswer)
	} else {
		c.wire.r.Reset(conn)
	}
	c.deadline, c.used = time.Time{}, time.Now()
	c.release = context.AfterFunc(ctx, func() { _ = conn.Close() })
	return nil
}

// close ends the connection; the next call of do opens another.
func (c *connection) close() {
	if c.conn == nil {
		return
	}
	c.release()
	_ = c.conn.Close()
	c.conn = nil
}

// do sends one complete request and returns the answer, valid until the next call. After an error the
// connection is closed, and whether the peer acted on the request is unknown.
func (c *connection) do(ctx context.Context, request []byte) (*message, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	m, err := c.exchange(request)
	if err != nil {
		c.close()
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	c.used = time.Now()
	if m.last {
		c.close()
	}
	return m, nil
}

func (c *connection) exchange(request []byte) (*message, error) {
	// Setting a deadline costs a timer operation; renewing it about once a second keeps the bound. The
	// last use is at most idleReuse ago, so every answer has at least answerTimeout.
	if least := c.used.Add(answerTimeout + idleReuse); least.After(c.deadline) {
		c.deadline = least.Add(time.Second)
		if err := c.conn.SetDeadline(c.deadline); err != nil {
			return nil, err
		}
	}
	if _, err := c.conn.Write(request); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	// Interim answers come before the real one (RFC 9110 section 15.2); a handful is plenty.
	for range 5 {
		m, err := c.wire.readHead()
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		if m.status == 0 {
			return nil, fmt.Errorf("read answer: %w: not a status line", errMalformed)
		}
		if m.status < 200 {
			continue
		}
		if err := c.wire.readBody(); err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		return m, nil
	}
	return nil, errors.New("read answer: interim answers without end")
}
