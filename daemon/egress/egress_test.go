package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// names is a resolver in memory: answer gives the addresses of a name for the nth A query from 0. It
// speaks DNS over a stream (RFC 1035 section 4.2.2) and has no address for IPv6.
func names(answer func(name string, n int) []string) *net.Resolver {
	var queries atomic.Int64
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, query); err != nil {
					return
				}
				var labels []string
				end := 12
				for query[end] != 0 {
					labels = append(labels, string(query[end+1:end+1+int(query[end])]))
					end += 1 + int(query[end])
				}
				end += 5
				var addresses []string
				if binary.BigEndian.Uint16(query[end-4:]) == 1 {
					addresses = answer(strings.Join(labels, "."), int(queries.Add(1)-1))
				}
				reply := append([]byte(nil), query[:end]...)
				copy(reply[2:], []byte{0x81, 0x80, 0, 1, 0, byte(len(addresses)), 0, 0, 0, 0})
				for _, a := range addresses {
					reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
					reply = append(reply, netip.MustParseAddr(a).AsSlice()...)
				}
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

func fixed(addresses ...string) *net.Resolver {
	return names(func(string, int) []string { return addresses })
}

func build(t *testing.T, o Options) *Egress {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func client(t *testing.T, o Options) *http.Client {
	t.Helper()
	c := build(t, o).Client()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// get makes one bounded call and returns the body.
func get(t *testing.T, c *http.Client, target string) (string, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), resp, err
}

// receiver serves on one loopback address and port ("0" for any) and counts connections.
func receiver(t *testing.T, address string, h http.Handler) (s *httptest.Server, port string, opened *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("needs the address %s: %v", address, err)
	}
	opened = new(atomic.Int64)
	s = httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return s, port, opened
}

func say(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func TestNameOfForbiddenAddressIsDeniedAtDial(t *testing.T) {
	t.Parallel()
	s, port, opened := receiver(t, "127.0.0.1:0", say("reached"))
	s.Start()
	for _, address := range []string{"127.0.0.1", "10.0.0.7", "169.254.169.254", "0.0.0.0"} {
		o := Options{Resolver: fixed(address)}
		target, err := url.Parse("http://hooks.example.com:" + port)
		if err != nil {
			t.Fatal(err)
		}
		if err := build(t, o).CheckURL(target); err != nil {
			t.Fatalf("a name is judged before it is resolved: %v", err)
		}
		_, _, err = get(t, client(t, o), target.String())
		d, ok := errors.AsType[*DeniedError](err)
		if !ok {
			t.Errorf("%s: got %v", address, err)
			continue
		}
		if d.Host != "hooks.example.com" || d.Addr.Addr().String() != address || d.Setting != SettingAllow || d.Rule == "" {
			t.Errorf("%s: got %+v", address, *d)
		}
		if want := "hooks.example.com is " + address + ":" + port + ","; !strings.HasPrefix(d.Error(), want) {
			t.Errorf("%s: the text is %q", address, d)
		}
	}
	if n := opened.Load(); n != 0 {
		t.Errorf("%d connections reached the forbidden receiver", n)
	}
	body, _, err := get(t, client(t, Options{Resolver: fixed("127.0.0.1"), AllowNetworks: prefixes("127.0.0.1/32")}), "http://hooks.example.com:"+port)
	if body != "reached" || err != nil {
		t.Errorf("opened, it answers %q, %v", body, err)
	}
}

// A name that is let out once and then points inside gains nothing, and of several addresses only an
// open one is dialled.
func TestRebindingGainsNothing(t *testing.T) {
	t.Parallel()
	inside, port, opened := receiver(t, "127.0.0.1:0", say("inside"))
	inside.Start()
	outside, _, _ := receiver(t, "127.0.0.2:"+port, say("outside"))
	outside.Start()
	o := Options{AllowNetworks: prefixes("127.0.0.2/32")}

	o.Resolver = names(func(_ string, n int) []string {
		if n == 0 {
			return []string{"127.0.0.2"}
		}
		return []string{"127.0.0.1"}
	})
	c := client(t, o)
	if body, _, err := get(t, c, "http://rebind.example.com:"+port); body != "outside" || err != nil {
		t.Fatalf("first: %q, %v", body, err)
	}
	c.CloseIdleConnections()
	if _, _, err := get(t, c, "http://rebind.example.com:"+port); ruleOf(t, err) != RuleLoopback {
		t.Errorf("rebound: %v", err)
	}

	o.Resolver = fixed("127.0.0.1", "127.0.0.2", "127.0.0.1")
	if body, _, err := get(t, client(t, o), "http://both.example.com:"+port); body != "outside" || err != nil {
		t.Errorf("both: %q, %v", body, err)
	}
	if n := opened.Load(); n != 0 {
		t.Errorf("%d connections reached the forbidden receiver", n)
	}
}

func TestTransportChecksTheURL(t *testing.T) {
	t.Parallel()
	s, port, opened := receiver(t, "127.0.0.1:0", say("reached"))
	s.Start()
	for _, tt := range []struct {
		o    Options
		url  string
		want Rule
	}{
		{Options{}, "http://127.0.0.1:" + port, RuleLoopback},
		{Options{}, "http://localhost:" + port, RuleLoopback},
		{Options{}, "http://2130706433:" + port, RuleNumeric},
		{Options{}, "http://１２７.０.０.１:" + port, RuleHost},
		{Options{AllowNetworks: prefixes("127.0.0.0/8")}, "http://127.0.0.1:25", RulePort},
		{Options{AllowNetworks: prefixes("127.0.0.0/8"), HTTPSOnly: true}, "http://127.0.0.1:" + port, RulePlain},
		{Options{AllowNetworks: prefixes("127.0.0.0/8"), DenyNetworks: prefixes("127.0.0.1/32")}, "http://127.0.0.1:" + port, RuleDenied},
	} {
		if _, _, err := get(t, client(t, tt.o), tt.url); err == nil || ruleOf(t, err) != tt.want {
			t.Errorf("%s: got %v, want %s", tt.url, err, tt.want)
		}
	}
	if n := opened.Load(); n != 0 {
		t.Errorf("%d connections were opened", n)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	s, _, _ := receiver(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	s.Start()
	_, resp, err := get(t, client(t, Options{AllowNetworks: prefixes("127.0.0.0/8")}), s.URL)
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect || hits.Load() != 1 {
		t.Errorf("got %v, %v after %d requests", resp, err, hits.Load())
	}
}

// The environment's proxy must not be used; the sandbox of a test is the place where it often is set.
func TestEnvironmentProxyIsIgnored(t *testing.T) {
	s, port, _ := receiver(t, "127.0.0.1:0", say("direct"))
	s.Start()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	body, _, err := get(t, client(t, Options{AllowNetworks: prefixes("127.0.0.0/8"), Resolver: fixed("127.0.0.1")}), "http://direct.example.com:"+port)
	if body != "direct" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	target, targetPort, _ := receiver(t, "127.0.0.1:0", say("target"))
	target.StartTLS()

	var mu sync.Mutex
	var seen []string
	proxy, proxyPort, opened := receiver(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.Host)
		mu.Unlock()
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			_, _ = io.WriteString(w, "forwarded "+r.URL.String())
			return
		}
		// Whatever name was asked for, the tunnel ends at the target.
		up, err := net.Dial("tcp", "127.0.0.1:"+targetPort)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer up.Close()
		w.WriteHeader(http.StatusOK)
		down, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(up, buffered); _ = up.(*net.TCPConn).CloseWrite() })
		_, _ = io.Copy(down, up)
		_ = down.Close()
		wg.Wait()
	}))
	proxy.Start()

	// Nothing on loopback is open but the proxy itself.
	o := Options{Proxy: "http://u:p@127.0.0.1:" + proxyPort, CAFile: caFile(t, target), Resolver: fixed()}
	c := client(t, o)
	if body, _, err := get(t, c, "http://plain.example.com/x"); body != "forwarded http://plain.example.com/x" || err != nil {
		t.Errorf("plain: %q, %v", body, err)
	}
	// The certificate of httptest is for example.com.
	if body, _, err := get(t, c, "https://example.com/x"); body != "target" || err != nil {
		t.Errorf("tunnel: %q, %v", body, err)
	}
	before := opened.Load()
	for target, want := range map[string]Rule{
		"http://127.0.0.1:" + proxyPort: RuleLoopback, "https://10.0.0.1": RulePrivate, "http://169.254.169.254/": RuleMetadata, "http://localhost": RuleLoopback,
		"http://0x7f.1": RuleNumeric, "http://１２７.０.０.１": RuleHost, "http://example.com:25": RulePort,
	} {
		if _, _, err := get(t, c, target); err == nil || ruleOf(t, err) != want {
			t.Errorf("%s: got %v, want %s", target, err, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(seen, ", "); got != "GET plain.example.com, CONNECT example.com:443" || opened.Load() != before {
		t.Errorf("the proxy saw %s", got)
	}
}

func TestOnlyTheProxyIsExempt(t *testing.T) {
	t.Parallel()
	e := build(t, Options{Proxy: "http://127.0.0.1:3128"})
	if _, err := e.dial(t.Context(), "tcp", "127.0.0.1:3129"); ruleOf(t, err) != RuleLoopback {
		t.Errorf("another port of the proxy's host: %v", err)
	}
}

func TestOnlyTheNamedHostIsExempt(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer s.Close()
	base, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string) error {
		c := http.Client{Transport: build(t, Options{HTTPSOnly: true, Proxy: "http://127.0.0.1:1"}).TransportTo(base)}
		resp, err := c.Get(url)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := get(s.URL + "/token"); err != nil {
		t.Errorf("the named host: %v", err)
	}
	if err := get("https://127.0.0.1:3129/"); ruleOf(t, err) != RuleLoopback {
		t.Errorf("another port of it: %v", err)
	}
	if err := get("http://example.com/"); ruleOf(t, err) != RulePlain {
		t.Errorf("another host without TLS: %v", err)
	}
}

func caFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLS(t *testing.T) {
	t.Parallel()
	loopback := prefixes("127.0.0.0/8")
	s, _, opened := receiver(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	s.EnableHTTP2 = true
	s.StartTLS()
	if _, _, err := get(t, client(t, Options{AllowNetworks: loopback}), s.URL); err == nil {
		t.Error("an unknown authority is trusted")
	} else if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("an unknown authority gives %v", err)
	}
	c := client(t, Options{AllowNetworks: loopback, CAFile: caFile(t, s)})
	before := opened.Load()
	for range 3 {
		if body, _, err := get(t, c, s.URL); body != "HTTP/2.0" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
	}
	if n := opened.Load() - before; n != 1 {
		t.Errorf("three requests took %d connections", n)
	}

	one, _, _ := receiver(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	one.StartTLS()
	if body, _, err := get(t, client(t, Options{AllowNetworks: loopback, CAFile: caFile(t, one)}), one.URL); body != "HTTP/1.1" || err != nil {
		t.Errorf("without HTTP/2: %q, %v", body, err)
	}

	old, _, _ := receiver(t, "127.0.0.1:0", say("old"))
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	if _, _, err := get(t, client(t, Options{AllowNetworks: loopback, CAFile: caFile(t, old)}), old.URL); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
}

// Each transport has its own pool and its own certificates.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	s, _, _ := receiver(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 1 {
			_, _ = io.WriteString(w, "known")
		}
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	e := build(t, Options{AllowNetworks: prefixes("127.0.0.0/8"), CAFile: caFile(t, s)})
	with, without := e.Transport(), e.Transport()
	with.TLSClientConfig.Certificates = s.TLS.Certificates
	for want, tr := range map[string]*http.Transport{"known": with, "": without} {
		t.Cleanup(tr.CloseIdleConnections)
		if body, _, err := get(t, &http.Client{Transport: tr}, s.URL); body != want || err != nil {
			t.Errorf("got %q, %v, want %q", body, err, want)
		}
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	const callers, rounds = 64, 10
	s, _, opened := receiver(t, "127.0.0.1:0", say("ok"))
	s.Start()
	c := client(t, Options{AllowNetworks: prefixes("127.0.0.0/8")})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range rounds {
				if body, _, err := get(t, c, s.URL); body != "ok" || err != nil {
					t.Errorf("got %q, %v", body, err)
					return
				}
			}
		})
	}
	wg.Wait()
	// A caller may start a dial and then get a connection that became free first.
	if n := opened.Load(); n > 2*callers {
		t.Errorf("%d callers took %d connections for %d requests", callers, n, callers*rounds)
	}
}

// raw serves the bytes that write sends to whoever connects.
func raw(t *testing.T, write func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					write(c)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

func TestEndlessHeaderIsCut(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	target := raw(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		line := []byte("X: " + strings.Repeat("x", 1000) + "\r\n")
		for {
			n, err := c.Write(line)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	_, _, err := get(t, client(t, Options{AllowNetworks: prefixes("127.0.0.0/8")}), target)
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an endless header gives %v", err)
	}
	// Most of what was sent is in the buffers of the two sockets.
	if n := sent.Load(); n > 32<<20 {
		t.Errorf("%d bytes of header were taken", n)
	}
}

func TestCompressionIsNotAskedFor(t *testing.T) {
	t.Parallel()
	s, _, _ := receiver(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Accept-Encoding"))
	}))
	s.Start()
	if body, _, err := get(t, client(t, Options{AllowNetworks: prefixes("127.0.0.0/8")}), s.URL); body != "" || err != nil {
		t.Errorf("asked for %q, %v", body, err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"proxy scheme": {Proxy: "ftp://u:secretword@h"}, "proxy url": {Proxy: "http://u:secretword@h:x"}, "proxy host": {Proxy: "http://u:secretword@:80"}, "proxy opaque": {Proxy: "http:secretword"},
		"proxy name": {Proxy: "http://u:secretword@bücher.example"}, "ca missing": {CAFile: empty + "x"}, "ca empty": {CAFile: empty},
		"network": {AllowNetworks: []netip.Prefix{{}}}, "idle": {MaxIdleConns: -1},
	} {
		e, err := New(o)
		if err == nil || e != nil || strings.Contains(err.Error(), "secretword") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProxyAddresses(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"http://p": "p:80", "https://p": "p:443", "socks5://p": "p:1080", "socks5h://p:9": "p:9", "http://u:p@[::1]:3128": "[::1]:3128",
	} {
		if _, got, err := parseProxy(s); got != want || err != nil {
			t.Errorf("%s: got %s, %v", s, got, err)
		}
	}
}

// What the guard adds to a request on a kept connection.
func BenchmarkRequest(b *testing.B) {
	s := httptest.NewServer(say("ok"))
	defer s.Close()
	e, err := New(Options{AllowNetworks: prefixes("127.0.0.0/8")})
	if err != nil {
		b.Fatal(err)
	}
	bare := e.Transport()
	bare.Proxy, bare.DialContext = nil, nil
	for name, tr := range map[string]*http.Transport{"guarded": e.Transport(), "bare": bare} {
		b.Run(name, func(b *testing.B) {
			defer tr.CloseIdleConnections()
			b.ReportAllocs()
			for b.Loop() {
				r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, s.URL, nil)
				if err != nil {
					b.Fatal(err)
				}
				resp, err := tr.RoundTrip(r)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
