package webhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// listen serves each connection with handle, until the test ends.
func listen(t *testing.T, handle func(net.Conn)) (address string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String(), connections
}

// readRequest reads one request; false when there is none.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// answering reads a request and writes the answer, then waits to be closed.
func answering(answer string) func(net.Conn) {
	return func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) {
			io.WriteString(c, answer)
			io.Copy(io.Discard, c)
		}
	}
}

// thenClosing reads a request, writes the answer and closes.
func thenClosing(answer string) func(net.Conn) {
	return func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) {
			io.WriteString(c, answer)
		}
	}
}

// flooding reads a request, writes the head and then the rest without end.
func flooding(head, rest string, pause time.Duration) func(net.Conn) {
	b := []byte(rest)
	return func(c net.Conn) {
		if !readRequest(bufio.NewReader(c)) {
			return
		}
		io.WriteString(c, head)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
			if pause > 0 {
				time.Sleep(pause)
			}
		}
	}
}

func reset(c net.Conn) {
	if readRequest(bufio.NewReader(c)) {
		c.(*net.TCPConn).SetLinger(0)
	}
}

func hang(c net.Conn) { io.Copy(io.Discard, c) }

// certificate makes one signed by itself.
func certificate(t *testing.T, host string, from, to time.Time) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, cert
}

// secrets are in every request of these tests, and in none of their outcomes and logs.
var secrets = []string{"secret-path", "secret-query", "secret-token", "secret-user"}

func secretSubscription(scheme, address string) *store.Subscription {
	sub := subscription(scheme + "://" + address + "/secret-path?key=secret-query")
	sub.Authentication = store.Authentication{Type: store.AuthBearer, Token: "secret-token"}
	return sub
}

// words that belong to Go and not into a text for people.
var jargon = []string{"context", "deadline", "EOF", "net/http", "dial tcp", "i/o", "x509", "tls:", "goroutine", "transport", "malformed", "syscall"}

func checkText(t *testing.T, label string, out *queue.Outcome) {
	t.Helper()
	for _, s := range append(secrets, jargon...) {
		if strings.Contains(out.Error, s) {
			t.Errorf("%s: the text says %q: %s", label, s, out.Error)
		}
	}
	if len(out.Error) > 512 || strings.ContainsAny(out.Error, "\r\n\x00") {
		t.Errorf("%s: the text is %q", label, out.Error)
	}
}

// Every way of misbehaving ends in a clear outcome, in bounded time and memory.
func TestHostileReceivers(t *testing.T) {
	t.Parallel()
	const timeout = 700 * time.Millisecond
	now := time.Now()
	good, root := certificate(t, "127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour))
	expired, expiredRoot := certificate(t, "127.0.0.1", now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyRoot := certificate(t, "127.0.0.1", now.Add(time.Hour), now.Add(2*time.Hour))
	other, otherRoot := certificate(t, "example.com", now.Add(-time.Hour), now.Add(time.Hour))
	stranger, _ := certificate(t, "127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour))
	pool := x509.NewCertPool()
	for _, c := range []*x509.Certificate{root, expiredRoot, earlyRoot, otherRoot} {
		pool.AddCert(c)
	}
	secure := func(cert tls.Certificate, then func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			if s.Handshake() == nil {
				then(s)
			}
		}
	}
	long := strings.Repeat("x", 32<<10)
	const ok = "HTTP/1.1 200 OK\r\n"

	for name, c := range map[string]struct {
		handle  func(net.Conn)
		https   bool
		class   queue.Class // "" is ClassRetry
		status  int
		text    string
		body    string
		after   time.Duration
		atLeast time.Duration // how long the attempt takes at least
		atMost  time.Duration // 0 is the timeout
	}{
		"delivered":            {handle: answering(ok + "Content-Length: 2\r\n\r\nhi"), class: queue.ClassDelivered, status: 200, body: "hi"},
		"delivered over TLS":   {handle: secure(good, answering(ok+"Content-Length: 0\r\n\r\n")), https: true, class: queue.ClassDelivered, status: 200},
		"299":                  {handle: answering("HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n"), class: queue.ClassDelivered, status: 299},
		"after 1xx":            {handle: answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"), class: queue.ClassDelivered, status: 204},
		"HTTP/1.0":             {handle: thenClosing("HTTP/1.0 200 OK\r\n\r\nbye"), class: queue.ClassDelivered, status: 200, body: "bye"},
		"2xx cut off":          {handle: thenClosing(ok + "Content-Length: 100\r\n\r\nhalf"), class: queue.ClassDelivered, status: 200, body: "half"},
		"2xx bad chunks":       {handle: answering(ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), class: queue.ClassDelivered, status: 200},
		"2xx never ends":       {handle: answering(ok + "Content-Length: 100\r\n\r\nhalf"), class: queue.ClassDelivered, status: 200, body: "half"},
		"2xx dribbles":         {handle: flooding(ok+"\r\n", "x", 20*time.Millisecond), class: queue.ClassDelivered, status: 200, body: "xxx…"},
		"2xx endless":          {handle: flooding(ok+"\r\n", long, 0), class: queue.ClassDelivered, status: 200, body: long[:queue.MaxResponse], atMost: timeout / 2},
		"500":                  {handle: answering("HTTP/1.1 500 secret-token\r\nContent-Length: 3\r\n\r\nbad"), status: 500, text: "the receiver answered 500 Internal Server Error", body: "bad"},
		"500 endless":          {handle: flooding("HTTP/1.1 500 E\r\n\r\n", long, 0), status: 500, text: "answered 500", body: long[:queue.MaxResponse], atMost: timeout / 2},
		"599":                  {handle: answering("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n"), status: 599, text: "the receiver answered 599"},
		"999":                  {handle: answering("HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n"), status: 999, text: "the receiver answered 999"},
		"400":                  {handle: answering("HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n"), status: 400, text: "the receiver answered 400 Bad Request"},
		"404":                  {handle: answering("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"), status: 404, text: "the receiver answered 404 Not Found"},
		"410":                  {handle: answering("HTTP/1.1 410 x\r\nContent-Length: 0\r\n\r\n"), class: queue.ClassGone, status: 410, text: "wants no more pushes"},
		"101":                  {handle: answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), status: 101, text: "answered 101 Switching Protocols"},
		"429":                  {handle: answering("HTTP/1.1 429 x\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"), status: 429, text: "answered 429 Too Many Requests", after: 2 * time.Minute},
		"503 huge":             {handle: answering("HTTP/1.1 503 x\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"), status: 503, text: "answered 503", after: sender.MaxRetryAfter},
		"503 negative":         {handle: answering("HTTP/1.1 503 x\r\nRetry-After: -1\r\nContent-Length: 0\r\n\r\n"), status: 503, text: "answered 503"},
		"500 with retry-after": {handle: answering("HTTP/1.1 500 x\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"), status: 500, text: "answered 500"},
		"304":                  {handle: answering("HTTP/1.1 304 x\r\n\r\n"), status: 304, text: "answered 304 Not Modified; redirects are not followed"},
		"301 same host":        {handle: answering("HTTP/1.1 301 x\r\nLocation: /secret-path/\r\nContent-Length: 0\r\n\r\n"), status: 301, text: "redirected to another path of the same host; redirects are not followed"},
		"307 elsewhere":        {handle: answering("HTTP/1.1 307 x\r\nLocation: https://secret-user:secret-token@example.com/secret-path?secret-query\r\nContent-Length: 0\r\n\r\n"), status: 307, text: "redirected to https://example.com; redirects are not followed"},
		"308 malformed":        {handle: answering("HTTP/1.1 308 x\r\nLocation: http://a b/%zz\r\nContent-Length: 0\r\n\r\n"), status: 308, text: "redirected to an unusable address; redirects"},
		"302 other scheme":     {handle: answering("HTTP/1.1 302 x\r\nLocation: gopher://secret-path/\r\nContent-Length: 0\r\n\r\n"), status: 302, text: "redirected to an unusable address"},
		"302 long host":        {handle: answering("HTTP/1.1 302 x\r\nLocation: http://" + strings.Repeat("a.", 500) + "/\r\nContent-Length: 0\r\n\r\n"), status: 302, text: "redirected to an unusable address"},

		"never answers":        {handle: hang, text: "the receiver did not answer within", atLeast: timeout},
		"headers never end":    {handle: answering(ok + "X: y\r\n"), text: "began to answer, but its headers were not complete within", atLeast: timeout},
		"headers dribble":      {handle: flooding(ok, "X: y\r\n", 20*time.Millisecond), text: "its headers were not complete within", atLeast: timeout},
		"headers flood":        {handle: flooding(ok, "X: "+long+"\r\n", 0), text: "headers are too large", atMost: timeout / 2},
		"header line flood":    {handle: flooding(ok+"X: ", long, 0), text: "headers are too large", atMost: timeout / 2},
		"1xx flood":            {handle: flooding("", "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n", 0), text: "not valid HTTP", atMost: timeout / 2},
		"100 flood":            {handle: flooding("", "HTTP/1.1 100 Continue\r\n\r\n", 0), text: "not valid HTTP", atMost: timeout / 2},
		"not HTTP":             {handle: answering("SSH-2.0-OpenSSH_9.9 secret-token\r\n"), text: "not valid HTTP"},
		"bad status":           {handle: answering("HTTP/1.1 abc secret-token\r\n\r\n"), text: "not valid HTTP"},
		"bad header":           {handle: answering(ok + "no colon secret-token\r\n\r\n"), text: "not valid HTTP"},
		"bad length":           {handle: answering(ok + "Content-Length: many\r\n\r\n"), text: "not valid HTTP"},
		"two lengths":          {handle: answering(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), text: "not valid HTTP"},
		"closes at once":       {handle: func(net.Conn) {}, text: "the connection before it answered"},
		"closes after request": {handle: thenClosing(""), text: "the receiver closed the connection before it answered"},
		"closes in status":     {handle: thenClosing("HTTP/1.1 2"), text: "not valid HTTP"},
		"closes in headers":    {handle: thenClosing(ok + "X: "), text: "the receiver closed the connection before its headers were complete"},
		"resets":               {handle: reset, text: "the receiver reset the connection before it answered"},
		"speaks no TLS":        {handle: func(c net.Conn) { c.Read(make([]byte, 4096)); io.WriteString(c, "HTTP/1.1 400 x\r\n\r\n"); hang(c) }, https: true, text: "the receiver does not speak TLS on this port"},
		"TLS garbage":          {handle: func(c net.Conn) { io.WriteString(c, "220 smtp.example.com ESMTP secret-token\r\n"); hang(c) }, https: true, text: "does not speak TLS on this port"},
		"TLS never answers":    {handle: hang, https: true, text: "the TLS handshake with the receiver was not finished within", atLeast: timeout},
		"TLS closes":           {handle: func(c net.Conn) { c.Read(make([]byte, 1)) }, https: true, text: "the connection during the TLS handshake"},
		"TLS alert":            {handle: func(c net.Conn) { c.Read(make([]byte, 4096)); c.Write([]byte{21, 3, 3, 0, 2, 2, 40}); hang(c) }, https: true, text: "the receiver refused the TLS handshake: handshake failure"},
		"TLS too old": {handle: func(c net.Conn) {
			tls.Server(c, &tls.Config{Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS11}).Handshake()
		}, https: true, text: "TLS handshake"},
		"certificate expired":   {handle: secure(expired, hang), https: true, text: "the receiver's certificate expired at " + now.Add(-time.Hour).UTC().Format("2006-01-02")},
		"certificate too early": {handle: secure(early, hang), https: true, text: "the receiver's certificate is not valid before "},
		"certificate of other":  {handle: secure(other, hang), https: true, text: "the receiver's certificate is not for the host name 127.0.0.1"},
		"certificate unknown":   {handle: secure(stranger, hang), https: true, text: "not signed by an authority that is trusted here (egress.ca_file adds one)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, connections := listen(t, c.handle)
			tr := transport(t)
			tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
			var log bytes.Buffer
			s, err := New(Options{Transport: tr, UserAgent: "Herald/test", Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			scheme := "http"
			if c.https {
				scheme = "https"
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			start := time.Now()
			out := s.Send(ctx, secretSubscription(scheme, address), push())
			took := time.Since(start)

			class := c.class
			if class == "" {
				class = queue.ClassRetry
			}
			if out.Class != class || out.Status != c.status || out.RetryAfter != c.after {
				t.Errorf("outcome %+v, want %s %d", out, class, c.status)
			}
			if !strings.Contains(out.Error, c.text) || (out.Error == "") != (class == queue.ClassDelivered) {
				t.Errorf("text %q, want %q", out.Error, c.text)
			}
			switch body, dribble := strings.CutSuffix(c.body, "…"); {
			case dribble && !bytes.HasPrefix(out.Response, []byte(body)), !dribble && string(out.Response) != c.body:
				t.Errorf("kept %d bytes %.20q, want %.20q", len(out.Response), out.Response, c.body)
			}
			checkText(t, name, &out)
			if log.Len() > 0 {
				for _, s := range secrets {
					if strings.Contains(log.String(), s) {
						t.Errorf("the log tells %s: %s", s, log.String())
					}
				}
			}
			atMost := c.atMost
			if atMost == 0 {
				atMost = timeout
			}
			if took < c.atLeast || took > atMost+300*time.Millisecond {
				t.Errorf("took %v, want %v to %v", took, c.atLeast, atMost)
			}
			if out.Duration > took {
				t.Errorf("says that it took %v of %v", out.Duration, took)
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("%d connections were made, want 1: nothing here may be sent twice", n)
			}
		})
	}
}

// With a whole timeout left, the body of an answer is not waited for longer than it is worth.
func TestSlowBodyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, flooding("HTTP/1.1 200 OK\r\n\r\n", "x", 50*time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := newSender(t, transport(t)).Send(ctx, subscription("http://"+address), push())
	if out.Class != queue.ClassDelivered || out.Duration > 3*bodyPatience || len(out.Response) == 0 {
		t.Errorf("outcome %+v", out)
	}
}
