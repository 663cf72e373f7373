package webhook

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/egress"
	"herald/queue"
)

// roundTrips counts and answers requests without a network.
type roundTrips struct {
	n      int
	answer func(n int, r *http.Request) (*http.Response, error)
}

func (r *roundTrips) RoundTrip(req *http.Request) (*http.Response, error) {
	r.n++
	return r.answer(r.n, req)
}

// closer notes that idle connections were asked to be closed.
type closer struct {
	http.RoundTripper
	closed atomic.Int64
}

func (c *closer) CloseIdleConnections() { c.closed.Add(1) }

// One receiver's failures do not cost the others their connections.
func TestFailureClosesNoOthersConnections(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t)
	refused := unusedAddress(t)
	tr := transport(t)
	c := &closer{RoundTripper: tr}
	s := newSender(t, c)
	deliver(t, s, subscription(srv.URL), push(), got)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if out := s.Send(ctx, subscription("http://"+refused), push()); out.Class != queue.ClassRetry {
		t.Fatalf("outcome %+v", out)
	}
	if n := c.closed.Load(); n != 0 {
		t.Errorf("idle connections were closed %d times", n)
	}
}

func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestConnectionFailures(t *testing.T) {
	t.Parallel()
	dialing := func(err error) *http.Transport {
		tr := transport(t)
		tr.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		return tr
	}
	hanging := transport(t)
	hanging.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	proxied := transport(t)
	proxied.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: unusedAddress(t)})
	guarded, err := egress.New(egress.Options{})
	if err != nil {
		t.Fatal(err)
	}
	deny, err := egress.New(egress.Options{HTTPSOnly: true, AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		rt   http.RoundTripper
		url  string
		text string
	}{
		"refused":            {transport(t), "http://" + unusedAddress(t), "the receiver refused the connection: nothing listens on that port"},
		"dial hangs":         {hanging, "http://example.com", "the receiver could not be connected to within"},
		"no such name":       {dialing(&net.DNSError{Err: "x", Name: "y", IsNotFound: true}), "http://hooks.example.com", "the host name hooks.example.com does not exist"},
		"name server silent": {dialing(&net.DNSError{Err: "x", Name: "y", IsTimeout: true}), "http://hooks.example.com", "the name server did not answer in time"},
		"name server broken": {dialing(&net.DNSError{Err: "server misbehaving", Name: "y"}), "http://hooks.example.com", "could not be resolved"},
		"invalid name":       {transport(t), "http://no-such-name.invalid", "hostname"},
		"no route":           {dialing(&net.OpError{Op: "dial", Err: errnoUnreachable}), "http://example.com", "there is no route to its address"},
		"odd error":          {dialing(errors.New("secret-token: dial tcp goroutine")), "http://example.com", "the receiver could not be connected to"},
		"proxy refused":      {proxied, "http://example.com", "the proxy (egress.proxy) refused the connection"},
		"loopback":           {guarded.Transport(), "http://127.0.0.1:8080", "egress.allow_networks"},
		"name of loopback":   {guarded.Transport(), "http://localhost:8080", "egress.allow_networks"},
		"https only":         {deny.Transport(), "http://127.0.0.1:8080", "egress.https_only"},
		"port":               {deny.Transport(), "https://127.0.0.1:25", "port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSender(t, c.rt)
			sub := secretSubscription("http", "x")
			sub.DataCallbackURL = c.url + "/secret-path?key=secret-query"
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			out := s.Send(ctx, sub, push())
			if name == "invalid name" {
				// What the system's resolver says of it depends on the machine.
				c.text = "no-such-name.invalid"
			}
			if out.Class != queue.ClassRetry || out.Status != 0 || !strings.Contains(out.Error, c.text) {
				t.Errorf("outcome %+v, want %q", out, c.text)
			}
			checkText(t, name, &out)
			if out.Duration > 2*time.Second {
				t.Errorf("took %v", out.Duration)
			}
		})
	}
}

// A want of this machine is told to its operator, and not once for each attempt.
func TestOwnWantIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &roundTrips{answer: func(int, *http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
		}}
		var log bytes.Buffer
		s, err := New(Options{Transport: rt, UserAgent: "Herald/test", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 121 {
			out := s.Send(t.Context(), secretSubscription("http", "example.com"), push())
			if out.Class != queue.ClassRetry || !strings.Contains(out.Error, "no file descriptors or ports") {
				t.Fatalf("outcome %+v", out)
			}
			time.Sleep(time.Second)
		}
		if n := strings.Count(log.String(), "\n"); n != 3 || strings.Contains(log.String(), "secret") {
			t.Errorf("log of two minutes:\n%s", log.String())
		}
	})
}

// Over HTTP/2 the outcomes are the same.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var aborted atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came over %s", r.Proto)
		}
		switch r.URL.Path {
		case "/hang":
			<-release
		case "/abort":
			aborted.Add(1)
			panic(http.ErrAbortHandler)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		default:
			io.Copy(w, r.Body)
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	tr := transport(t)
	tr.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	tr.ForceAttemptHTTP2 = true
	s := newSender(t, tr)
	for _, c := range []struct {
		path, text string
		class      queue.Class
		status     int
	}{
		{"/", "", queue.ClassDelivered, 200},
		{"/gone", "wants no more pushes", queue.ClassGone, 410},
		{"/hang", "the receiver did not answer within", queue.ClassRetry, 0},
		{"/abort", "the receiver", queue.ClassRetry, 0},
		{"/", "", queue.ClassDelivered, 200},
	} {
		sub := subscription(srv.URL + c.path)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		out := s.Send(ctx, sub, push())
		cancel()
		if out.Class != c.class || out.Status != c.status || !strings.Contains(out.Error, c.text) {
			t.Errorf("%s: %+v", c.path, out)
		}
		if c.class == queue.ClassDelivered && !bytes.Equal(out.Response, record(sub, &queue.Push{Events: []*queue.Event{event()}})) {
			t.Errorf("%s: the body came as %q", c.path, out.Response)
		}
		checkText(t, c.path, &out)
	}
	if n := aborted.Load(); n != 1 {
		t.Errorf("what the receiver aborted was sent %d times", n)
	}
}

// An attempt that the daemon breaks off says so.
func TestCancelled(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, hang)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	out := newSender(t, transport(t)).Send(ctx, subscription("http://"+address), push())
	if out.Class != queue.ClassRetry || out.Status != 0 || !strings.Contains(out.Error, "broken off") {
		t.Errorf("outcome %+v", out)
	}
}

// A connection that was refused is tried twice more within the attempt, and no more.
func TestRefusedIsRepeated(t *testing.T) {
	t.Parallel()
	for fails, want := range map[int]queue.Class{0: queue.ClassDelivered, 2: queue.ClassDelivered, 3: queue.ClassRetry} {
		var bodies []string
		rt := &roundTrips{answer: func(n int, r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			bodies = append(bodies, string(b))
			if n <= fails {
				return nil, &net.OpError{Op: "dial", Err: errnoRefused}
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}}
		out := newSender(t, rt).Send(t.Context(), subscription("http://example.com"), push())
		if out.Class != want || rt.n != min(fails, 2)+1 {
			t.Errorf("%d refusals: %+v after %d tries", fails, out, rt.n)
		}
		for _, b := range bodies {
			if b == "" || b != bodies[0] {
				t.Errorf("bodies differ: %q", bodies)
			}
		}
		if out.Duration > time.Second {
			t.Errorf("took %v", out.Duration)
		}
	}
}

// What came back with a status is never sent again within the attempt, whatever it asks for.
func TestAnswersAreNotRepeated(t *testing.T) {
	t.Parallel()
	for _, code := range []int{200, 301, 400, 408, 425, 429, 500, 502, 503, 504} {
		rt := &roundTrips{answer: func(_ int, r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {"3600"}}, Body: http.NoBody, Request: r}, nil
		}}
		out := newSender(t, rt).Send(t.Context(), subscription("http://example.com"), push())
		if rt.n != 1 || out.Status != code || out.Duration > time.Second {
			t.Errorf("%d: %+v after %d tries", code, out, rt.n)
		}
	}
}

// A kept connection that the receiver closes under a request is not the receiver's failure: the request
// goes out again on another one. One that breaks under its first request is not sent again.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	address, connections := listen(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if !readRequest(r) {
			return
		}
		served.Add(1)
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		if connections := served.Load(); connections == 1 {
			readRequest(r) // and close, without a byte of answer
			return
		}
		for readRequest(r) {
			served.Add(1)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	s := newSender(t, transport(t))
	for i := range 3 {
		if out := s.Send(t.Context(), subscription("http://"+address), push()); out.Class != queue.ClassDelivered {
			t.Errorf("push %d: %+v", i, out)
		}
	}
	if n := connections.Load(); n != 2 || served.Load() != 3 {
		t.Errorf("%d connections, %d served; want 2 and 3", n, served.Load())
	}
}

// A kept connection on which no answer comes is waited for, not replaced.
func TestSilentKeptConnection(t *testing.T) {
	t.Parallel()
	address, connections := listen(t, func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			hang(c)
		}
	})
	s := newSender(t, transport(t))
	if out := s.Send(t.Context(), subscription("http://"+address), push()); out.Class != queue.ClassDelivered {
		t.Fatalf("first push: %+v", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	out := s.Send(ctx, subscription("http://"+address), push())
	if out.Class != queue.ClassRetry || !strings.Contains(out.Error, "did not answer within") || connections.Load() != 1 {
		t.Errorf("second push: %+v over %d connections", out, connections.Load())
	}
}

// Connections are used again after every answer that ends, also one with a body or a failure.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	answers := []string{
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000),
		"HTTP/1.1 500 E\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("x", 60000),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
	}
	address, connections := listen(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for readRequest(r) {
			io.WriteString(c, answers[int(n.Add(1)-1)%len(answers)])
		}
	})
	s := newSender(t, transport(t))
	for range 2 * len(answers) {
		if out := s.Send(t.Context(), subscription("http://"+address), push()); out.Status == 0 {
			t.Fatalf("outcome %+v", out)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// Floods do not pile up in memory.
func TestFloodsTakeNoMemory(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	address, _ := listen(t, flooding("HTTP/1.1 200 OK\r\n\r\n", long, 0))
	s := newSender(t, transport(t))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const rounds = 20
	for range rounds {
		if out := s.Send(t.Context(), subscription("http://"+address), push()); out.Class != queue.ClassDelivered {
			t.Fatalf("outcome %+v", out)
		}
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / rounds; per > 256<<10 {
		t.Errorf("%d bytes were allocated per flood", per)
	}
}

var (
	errnoRefused     error = syscall.ECONNREFUSED
	errnoUnreachable error = syscall.EHOSTUNREACH
)

func TestNeverArrived(t *testing.T) {
	t.Parallel()
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		err    error
		reused bool
		phase  int32
		want   bool
	}{
		{refused, false, phaseConnect, true},
		{io.EOF, false, phaseConnect, false},
		{io.EOF, false, phaseAnswer, false},
		{io.EOF, true, phaseAnswer, true},
		{syscall.ECONNRESET, true, phaseAnswer, true},
		{io.EOF, true, phaseHeaders, false},
		{timeout, true, phaseAnswer, false},
		{timeout, false, phaseConnect, false},
	} {
		x := &exchange{reused: c.reused}
		x.phase.Store(c.phase)
		if got := neverArrived(c.err, x); got != c.want {
			t.Errorf("%v, reused %v, phase %d: %v", c.err, c.reused, c.phase, got)
		}
	}
}

// What an outcome tells is how far the last try came, not the one before.
func TestPhaseIsOfLastTry(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if readRequest(r) {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			readRequest(r) // and close, without a byte of answer
		}
	})
	tr := transport(t)
	var dials atomic.Int64
	tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) > 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	s := newSender(t, tr)
	if out := s.Send(t.Context(), subscription("http://"+address), push()); out.Class != queue.ClassDelivered {
		t.Fatalf("first push: %+v", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	out := s.Send(ctx, subscription("http://"+address), push())
	if out.Class != queue.ClassRetry || !strings.Contains(out.Error, "could not be connected to within") || dials.Load() != 2 {
		t.Errorf("second push: %+v after %d dials", out, dials.Load())
	}
}
