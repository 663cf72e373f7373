package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// maxRepeats is how often a request that never arrived is sent again within its attempt.
const maxRepeats = 2

// neverArrived decides whether a request is sent again at once: when the connection was refused, or
// when a connection that had carried requests before turned out to be closed, without a byte of answer.
//
// The second is the ordinary race of a receiver closing an idle connection while a request is on its way
// to it. It cannot be told from a receiver that read the request and then died; but sent again the push
// has the same webhook-id, as it would have after the next wait of the schedule. A new connection
// that breaks is no such race, and is left to the schedule. So is a stream of HTTP/2: there the receiver
// says which requests it has not looked at (RFC 9113, section 8.7), and net/http sends those again.
func neverArrived(err error, x *exchange) bool {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	return x.reused && x.phase.Load() == phaseAnswer && !isTimeout(err) && !overHTTP2(x.conn)
}

func overHTTP2(c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	return ok && t.ConnectionState().NegotiatedProtocol == "h2"
}

// checkRetry is neverArrived in the form retryablehttp asks for.
func checkRetry(ctx context.Context, _ *http.Response, err error) (bool, error) {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	again := err != nil && ctx.Err() == nil && ok && neverArrived(err, x)
	return again, nil
}

// repeatWait is how long to wait before a request is sent again: not at all for the first time, since
// another connection will usually do, then long enough for a receiver that is just being restarted.
// What the receiver may ask for in Retry-After plays no part.
func repeatWait(_, _ time.Duration, repeat int, _ *http.Response) time.Duration {
	if repeat == 0 {
		return 0
	}
	return 50 * time.Millisecond
}

// movedLocation is where tripper keeps the Location of a redirect. No header that came over the wire has
// this key, as those are in canonical form.
const movedLocation = "location of the redirect"

// tripper stands between the clients and the transport, and keeps from them what they would do harm with.
// It has no CloseIdleConnections, which retryablehttp calls after each failed request: one receiver's
// failure would cost all others their connections. And it takes the Location off an answer, which
// http.Client parses even where redirects are not followed, failing on one that is malformed.
type tripper struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t tripper) RoundTrip(req *http.Request) (*http.Response, error) {
	next := t.next
	if x, ok := req.Context().Value(exchangeKey{}).(*exchange); ok {
		x.phase.Store(phaseConnect) // of this try, not of the one before
		x.conn, x.reused = nil, false
		if x.transport != nil {
			next = x.transport
		}
	}
	resp, err := next.RoundTrip(req)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode <= 399 {
		if location, ok := resp.Header["Location"]; ok {
			delete(resp.Header, "Location")
			resp.Header[movedLocation] = location
		}
	}
	return resp, err
}
