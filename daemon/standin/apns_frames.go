package standin

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
)

// apnsListener accepts TLS connections whose frames can be tampered with.
type apnsListener struct {
	net.Listener
	tls    *tls.Config
	server *APNs
}

// Accept implements net.Listener. The handshake comes with the first read.
func (l *apnsListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := tls.Server(raw, l.tls)
	c := &apnsConn{Conn: t, tls: t, raw: raw, server: l.server, in: bufio.NewReader(t), left: apnsPreface, limit: l.server.firstStreams()}
	return c, nil
}

// The parts of HTTP/2 (RFC 9113) that the stand-in has a hand in.
const (
	apnsPreface     = 24 // bytes of the connection preface, section 3.4
	apnsFrameHeader = 9

	apnsFrameData     = 0x0
	apnsFrameHeaders  = 0x1
	apnsFrameReset    = 0x3
	apnsFrameSettings = 0x4
	apnsFrameGoAway   = 0x7

	apnsFlagAck       = 0x1
	apnsFlagEndStream = 0x1

	apnsSettingMaxStreams = 0x3
)

// apnsConn stands between net/http's server and TLS. The server can neither change its limit on streams while a connection lives nor say
// why it goes away; APNs does both. So the first SETTINGS frame is changed on its way out, further ones and GOAWAY are put between the
// server's frames, and the acknowledgements that the server does not expect are taken out.
type apnsConn struct {
	net.Conn // the TLS connection
	tls      *tls.Conn
	raw      net.Conn
	server   *APNs
	token    apnsToken

	// The reading side, which the server uses from one goroutine.
	in           *bufio.Reader
	header       [apnsFrameHeader]byte
	pending      []byte // what is left of the header
	left         int    // what is left of the preface or a payload
	greeted      bool
	acknowledged bool

	mu       sync.Mutex
	out      []byte // an incomplete frame of the server
	settled  bool   // the server's SETTINGS went out
	limit    uint32 // the streams the client may have
	open     map[uint32]struct{}
	last     uint32 // the highest stream so far
	going    bool   // a GOAWAY went out
	unseen   bool   // and with it the word that nothing under way was looked at
	finished bool
}

// Read implements net.Conn.
func (c *apnsConn) Read(p []byte) (int, error) {
	if !c.greeted {
		c.greeted = true
		if err := c.tls.HandshakeContext(context.Background()); err != nil { // net/http has set a deadline
			return 0, err
		}
		if c.tls.ConnectionState().NegotiatedProtocol != "h2" {
			c.server.fault("the client does not offer HTTP/2 (ALPN h2)")
			return 0, errors.New("HTTP/2 was not negotiated")
		}
		c.server.connected(c)
	}
	for {
		switch {
		case len(c.pending) > 0:
			n := copy(p, c.pending)
			c.pending = c.pending[n:]
			return n, nil
		case c.left > 0:
			n, err := c.in.Read(p[:min(len(p), c.left)])
			c.left -= n
			return n, err
		}
		if _, err := io.ReadFull(c.in, c.header[:]); err != nil {
			return 0, err
		}
		size := int(c.header[0])<<16 | int(c.header[1])<<8 | int(c.header[2])
		if c.admit(c.header[3], c.header[4], binary.BigEndian.Uint32(c.header[5:])) {
			c.pending, c.left = c.header[:], size
		} else if _, err := c.in.Discard(size); err != nil {
			return 0, err
		}
	}
}

// admit decides whether the server gets a frame of the client.
func (c *apnsConn) admit(kind, flags byte, stream uint32) bool {
	if kind == apnsFrameSettings && flags&apnsFlagAck != 0 {
		first := !c.acknowledged
		c.acknowledged = true
		return first
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if stream > c.last {
		if c.going {
			return false // it was told that nothing more is looked at
		}
		if kind == apnsFrameHeaders {
			c.last = stream
			if c.open == nil {
				c.open = make(map[uint32]struct{})
			}
			c.open[stream] = struct{}{}
			c.server.opened(len(c.open), len(c.open) > int(c.limit))
		}
	}
	if kind == apnsFrameReset {
		delete(c.open, stream)
	}
	return true
}

// Write implements net.Conn. It sends whole frames only, so that others can be put between them.
func (c *apnsConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out, p...)
	whole := 0
	for frame := c.out; len(frame) >= apnsFrameHeader; frame = c.out[whole:] {
		size := apnsFrameHeader + int(frame[0])<<16 + int(frame[1])<<8 + int(frame[2])
		if len(frame) < size {
			break
		}
		c.emit(frame[:size])
		whole += size
	}
	if whole == 0 {
		return len(p), nil
	}
	_, err := c.Conn.Write(c.out[:whole])
	c.out = append(c.out[:0], c.out[whole:]...)
	if err != nil {
		return 0, err
	}
	return len(p), c.finish()
}

// emit looks at, and may change, a frame of the server.
func (c *apnsConn) emit(frame []byte) {
	kind, flags, stream := frame[3], frame[4], binary.BigEndian.Uint32(frame[5:])
	switch {
	case kind == apnsFrameSettings && flags&apnsFlagAck == 0 && !c.settled:
		c.settled = true
		for s := frame[apnsFrameHeader:]; len(s) >= 6; s = s[6:] {
			if binary.BigEndian.Uint16(s) == apnsSettingMaxStreams {
				binary.BigEndian.PutUint32(s[2:], c.limit)
			}
		}
	case kind == apnsFrameReset, (kind == apnsFrameHeaders || kind == apnsFrameData) && flags&apnsFlagEndStream != 0:
		delete(c.open, stream)
	}
}

// finish ends a connection that goes away, after its last stream. Only this half is closed: with what the client has sent meanwhile unread,
// the kernel would reset the connection, and the client might never see the GOAWAY. The lock is held.
func (c *apnsConn) finish() error {
	if !c.going || len(c.open) > 0 || c.finished {
		return nil
	}
	c.finished = true
	return c.tls.CloseWrite()
}

// raise lets the client have that many streams.
func (c *apnsConn) raise(limit uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit >= limit {
		return nil
	}
	c.limit = limit
	payload := binary.BigEndian.AppendUint16(nil, apnsSettingMaxStreams)
	return c.inject(apnsFrameSettings, binary.BigEndian.AppendUint32(payload, limit))
}

// goAway tells the client that no further stream is looked at and why. Those under way end, or were not looked at either.
func (c *apnsConn) goAway(reason string, unseen bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.going || !c.settled {
		return nil
	}
	c.going = true
	debug, err := json.Marshal(apnsAnswerBody{Reason: reason})
	if err != nil {
		return err
	}
	last := c.last
	if c.unseen = unseen; unseen {
		last = 0
		clear(c.open)
	}
	payload := binary.BigEndian.AppendUint32(nil, last)
	payload = binary.BigEndian.AppendUint32(payload, 0) // NO_ERROR
	if err := c.inject(apnsFrameGoAway, append(payload, debug...)); err != nil {
		return err
	}
	return c.finish()
}

// looks says whether what is under way may be looked at.
func (c *apnsConn) looks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.unseen
}

// inject sends a frame of the connection. The lock is held.
func (c *apnsConn) inject(kind byte, payload []byte) error {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	frame = append(frame, 0, 0, 0, 0, 0)
	_, err := c.Conn.Write(append(frame, payload...))
	return err
}

// cut ends the connection without a word.
func (c *apnsConn) cut() {
	_ = c.raw.Close() // there is nobody left to tell
}

// Close implements net.Conn.
func (c *apnsConn) Close() error {
	c.server.closed(c)
	return c.Conn.Close()
}
