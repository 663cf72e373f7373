package daemon_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"herald/daemon"
)

// The API over TLS: which certificate it shows, what it takes, and whom it lets in.

// tlsFiles are the files of listen.tls in a directory of their own.
type tlsFiles struct {
	t             *testing.T
	root          *privateRoot // of the server's certificates
	cert, key, ca string
}

func newTLSFiles(t *testing.T) *tlsFiles {
	t.Helper()
	dir := t.TempDir()
	f := &tlsFiles{t: t, root: newPrivateRoot(t, "servers"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), ca: filepath.Join(dir, "ca.pem")}
	f.write(f.server(1, time.Hour))
	return f
}

// server issues a certificate of the daemon, told by its serial number, that is valid from an hour ago.
func (f *tlsFiles) server(serial int64, valid time.Duration) tls.Certificate {
	f.t.Helper()
	return f.root.sign(&x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// client issues a certificate for a client.
func (a *privateRoot) client(until time.Time) tls.Certificate {
	a.t.Helper()
	return a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// pool is the authority as one to trust.
func (a *privateRoot) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// encoded is a pair as the two files have it.
func encoded(t *testing.T, c tls.Certificate) (chain, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (f *tlsFiles) write(c tls.Certificate) {
	f.t.Helper()
	chain, key := encoded(f.t, c)
	put(f.t, f.cert, chain)
	put(f.t, f.key, key)
}

// put writes a file and renames it into its place.
func put(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// setting is listen.tls by environment, which wins over the configuration of the harness.
func (f *tlsFiles) setting() []string {
	return []string{"HERALD_LISTEN_TLS_CERT=" + f.cert, "HERALD_LISTEN_TLS_KEY=" + f.key}
}

// trust is a client's configuration, with its certificates.
func (f *tlsFiles) trust(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: f.root.pool(), Certificates: certs, MinVersion: tls.VersionTLS12}
}

// caller calls a daemon over TLS with the admin token.
func (f *tlsFiles) caller(address string, c *tls.Config) *caller {
	return (&herald{t: f.t, URL: "https://" + address, client: f.client(c)}).admin()
}

// client has connections of its own.
func (f *tlsFiles) client(c *tls.Config) *http.Client {
	tr := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Timeout: patience, Transport: tr}
}

// spawn starts a daemon with the files and waits until it answers who shows the certificate.
func (f *tlsFiles) spawn(client []tls.Certificate, environ []string, settings ...string) (*child, string) {
	f.t.Helper()
	address := freeAddress(f.t)
	c := spawn(f.t, configFile(f.t, f.t.TempDir(), address, settings...), append(f.setting(), environ...)...)
	eventually(f.t, "the daemon serves", func() bool { return strings.Contains(c.out.String(), "msg=serving") })
	f.caller(address, f.trust(client...)).do("GET", "/openapi.json", nil).is(200)
	return c, address
}

// reload sends SIGHUP and waits until that is done.
func (c *child) reload() {
	c.t.Helper()
	const done = "msg=\"configuration reloaded\""
	before := strings.Count(c.out.String(), done)
	c.signal(syscall.SIGHUP)
	eventually(c.t, "the reload is over", func() bool { return strings.Count(c.out.String(), done) > before })
}

// serial is the serial number of the certificate that a new connection is shown.
func serial(address string, c *tls.Config) (int64, error) {
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

// While the certificate is replaced, by a symbolic link that is put in the place of another as Kubernetes does and by renaming on SIGHUP,
// no request is lost, and open connections go on.
func TestContract_TLS_NewCertificateUnderLoadLosesNoRequest(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	old, live := filepath.Dir(f.cert), filepath.Join(t.TempDir(), "live")
	if err := os.Symlink(old, live); err != nil {
		t.Fatal(err)
	}
	f.cert, f.key = filepath.Join(live, "cert.pem"), filepath.Join(live, "key.pem")
	c, address := f.spawn(nil, nil)

	open, err := tls.Dial("tcp", address, f.trust())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	fromOpen := func() {
		t.Helper()
		fmt.Fprintf(open, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(open), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("the open connection does not go on: %v, %v", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	fromOpen()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	finish := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer finish()
	for i := range 4 {
		wg.Go(func() {
			tr := &http.Transport{TLSClientConfig: f.trust(), ForceAttemptHTTP2: i%2 == 0, DisableKeepAlives: i < 2}
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: patience}
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, err := http.NewRequest("POST", "https://"+address+"/events", strings.NewReader(`{"type":"a.b","data":{}}`))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+adminToken)
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusAccepted {
					t.Errorf("a request was answered %d", resp.StatusCode)
					return
				}
			}
		})
	}

	next := t.TempDir()
	chain, key := encoded(t, f.server(2, time.Hour))
	put(t, filepath.Join(next, "cert.pem"), chain)
	put(t, filepath.Join(next, "key.pem"), key)
	if err := errors.Join(os.Symlink(next, live+".new"), os.Rename(live+".new", live)); err != nil {
		t.Fatal(err)
	}
	shown := func() int64 {
		n, err := serial(address, f.trust())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the second certificate is shown", func() bool { return shown() == 2 })
	f.write(f.server(3, time.Hour))
	c.reload()
	if n := shown(); n != 3 {
		t.Errorf("after SIGHUP the certificate %d is shown, want 3", n)
	}
	fromOpen()
	finish()
}

// Files that are half written, do not fit together or are not valid now are never shown; the ones before go on, and the log and a metric
// tell of it.
func TestContract_TLS_UnfitFilesAreRefused(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	c, address := f.spawn(nil, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	finish := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer finish()
	wg.Go(func() {
		last := int64(0)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, err := serial(address, f.trust())
			if err != nil || n < last || n > 2 {
				t.Errorf("after the certificate %d a connection is shown %d: %v", last, n, err)
				return
			}
			last = n
		}
	})
	failures := func() string {
		text := string(f.caller(address, f.trust()).do("GET", "/metrics", nil).is(200).body)
		return regexp.MustCompile(`(?m)^herald_api_certificate_reload_failures_total (.*)$`).FindStringSubmatch(text)[1]
	}
	refused := func(words string) int {
		n := 0
		for line := range strings.Lines(c.out.String()) {
			if strings.Contains(line, `level=ERROR msg="certificate files refused`) && strings.Contains(line, words) {
				n++
			}
		}
		return n
	}

	second := f.server(2, time.Hour)
	chain, key := encoded(t, second)
	if err := os.WriteFile(f.cert, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	mismatch := f.cert + " does not load together with " + f.key
	eventually(t, "the pair that does not fit is refused", func() bool { return refused(mismatch) == 1 })
	if err := os.WriteFile(f.key, key[:len(key)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	c.signal(syscall.SIGHUP)
	eventually(t, "half a key is refused on SIGHUP, with all the configuration", func() bool {
		return strings.Contains(c.out.String(), "HERALD_LISTEN_TLS_KEY: holds a PEM block that is cut off")
	})
	if err := os.WriteFile(f.key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	c.reload()
	if n, err := serial(address, f.trust()); n != 2 {
		t.Errorf("when the pair is complete, %d is shown, %v", n, err)
	}
	f.write(f.server(3, -time.Minute))
	c.reload()
	if n := refused(f.cert + ": the certificate expired at "); n != 1 {
		t.Errorf("%d lines tell of the expired certificate, want 1", n)
	}
	early := f.root.sign(&x509.Certificate{SerialNumber: big.NewInt(4), NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)})
	f.write(early)
	c.reload()
	if n := refused(f.cert + ": the certificate is not valid before "); n != 1 {
		t.Errorf("%d lines tell of the certificate to come, want 1", n)
	}
	finish()
	if n := refused(mismatch); n != 1 {
		t.Errorf("%d lines tell of the pair that does not fit, want 1", n)
	}
	lines := refused("")
	if got := failures(); got != fmt.Sprint(lines) {
		t.Errorf("the metric counts %s refusals, the log has %d", got, lines)
	}
}

// TLS 1.2 and 1.3 are served, and of 1.2 nothing but forward secrecy with authenticated encryption.
func TestContract_TLS_VersionsAndSuites(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string][]string{
		"ECDSA": {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
		"RSA":   {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
	} {
		f := newTLSFiles(t)
		if kind == "RSA" {
			template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
			f.write(f.root.signFor(template, private))
		}
		address := f.start().address()
		for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
			c := f.trust()
			c.MinVersion, c.MaxVersion = version, version
			if _, err := serial(address, c); (err == nil) != want {
				t.Errorf("%s, %s: %v", kind, tls.VersionName(version), err)
			}
		}
		var got []string
		for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			c := f.trust()
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{s.ID}
			if !slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
				continue
			}
			if _, err := serial(address, c); err == nil {
				got = append(got, s.Name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the suites of TLS 1.2 are %v, want %v", kind, got, want)
		}
	}
}

// start runs a daemon in this process.
func (f *tlsFiles) start(settings ...string) *herald {
	f.t.Helper()
	return startClient(f.t, f.client(f.trust()), f.t.TempDir(), f.setting(), settings...)
}

// address is where the daemon listens.
func (h *herald) address() string { return h.URL[strings.Index(h.URL, "://")+3:] }

// HTTP/2 and HTTP/1.1 are agreed on in the handshake; plain HTTP gets an answer that says what is wrong; the unix socket has no TLS.
func TestContract_TLS_Protocols(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	h := f.start()
	for offered, want := range map[string]string{"h2": "h2", "http/1.1": "http/1.1", "": ""} {
		c := f.trust()
		if offered != "" {
			c.NextProtos = []string{offered}
		}
		conn, err := tls.Dial("tcp", h.address(), c)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != want {
			t.Errorf("with %q offered, %q was agreed on", offered, got)
		}
		conn.Close()
	}
	f.caller(h.address(), f.trust()).do("GET", "/accounts", nil).is(200)
	(&herald{t: t, URL: "http://localhost", socket: h.socket}).overSocket().do("GET", "/accounts", nil).is(200)
	plainGetsHint(t, h.address())

	if _, err := exec.LookPath("curl"); err != nil {
		return
	}
	for arg, want := range map[string]string{"--http2": "2 200", "--http1.1": "1.1 200"} {
		out, err := exec.Command("curl", "-sS", arg, "--cacert", f.root.file(), "-o", os.DevNull, "-w", "%{http_version} %{http_code}",
			"-H", "Authorization: Bearer "+adminToken, "https://"+h.address()+"/accounts").CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("curl %s: %s, %v", arg, out, err)
		}
	}
}

// plainGetsHint sends plain HTTP to an address with TLS.
func plainGetsHint(t *testing.T, address string) {
	t.Helper()
	resp, err := httpClient.Get("http://" + address + "/accounts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 400 || !strings.Contains(string(text), "HTTP request to an HTTPS server") {
		t.Errorf("plain HTTP is answered %d %q, %v", resp.StatusCode, text, err)
	}
}

// Many connections whose handshake never ends hold up nobody.
func TestContract_TLS_UnfinishedHandshakesHoldUpNobody(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	h := f.start()
	hello := []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3} // the beginning of a ClientHello of 512 bytes
	for i := range 1000 {
		c, err := net.Dial("tcp", h.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if i%2 == 0 {
			if _, err := c.Write(hello); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 20 {
		f.caller(h.address(), f.trust()).do("GET", "/accounts", nil).is(200)
	}
}

// The servers of the daemon give a handshake and a body only so much time, over HTTP/2 as over HTTP/1.1. The limits are shortened here.
func TestServersEndSlowClients(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		got := make(chan error, 1)
		s := daemon.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			got <- err
		}), slog.New(slog.DiscardHandler))
		if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 {
			t.Fatalf("a limit is not set: %+v", s)
		}
		s.ReadHeaderTimeout, s.ReadTimeout = 200*time.Millisecond, 200*time.Millisecond
		server := &httptest.Server{Config: s, Listener: listener(t), EnableHTTP2: http2}
		server.StartTLS()
		t.Cleanup(server.Close)

		silent, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("HTTP/2 %v: a handshake that does not begin ends with %v, want a closed connection", http2, err)
		}
		// The handshake shares the limit of a header, and this machine may be busy: the body is what is slow here.
		slow, stalled := io.Pipe()
		defer stalled.Close()
		eventually(t, "a body is begun", func() bool {
			req, err := http.NewRequest("POST", server.URL, slow)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if resp, err := server.Client().Do(req); err == nil {
					_ = resp.Body.Close()
				}
			}()
			select {
			case err := <-got:
				if err == nil {
					t.Errorf("HTTP/2 %v: a body that does not end was read to its end", http2)
				}
				return true
			case <-time.After(patience / 4):
				return false
			}
		})
	}
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// frame is a frame of HTTP/2 (RFC 9113, section 4.1).
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

const (
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
)

// rawHTTP2 is a connection that has sent the preface and its settings.
func rawHTTP2(t *testing.T, f *tlsFiles, address string) *tls.Conn {
	t.Helper()
	config := f.trust()
	config.NextProtos = []string{"h2"}
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(frameSettings, 0, 0, nil)...)); err != nil {
		t.Fatal(err)
	}
	return c
}

// readFrame returns the next frame's type and payload.
func readFrame(c io.Reader) (kind byte, payload []byte, err error) {
	head := make([]byte, 9)
	if _, err := io.ReadFull(c, head); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	_, err = io.ReadFull(c, payload)
	return head[3], payload, err
}

// HTTP/2 has limits of its own: on streams, on headers, and on who resets streams or changes settings without end. Who goes beyond loses
// the connection, and nobody else notices.
func TestContract_TLS_HTTP2Limits(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	h := f.start()
	c := rawHTTP2(t, f, h.address())
	kind, payload, err := readFrame(c)
	if err != nil || kind != frameSettings {
		t.Fatalf("the first frame is %d, %v", kind, err)
	}
	settings := map[uint16]uint32{}
	for ; len(payload) >= 6; payload = payload[6:] {
		settings[binary.BigEndian.Uint16(payload)] = binary.BigEndian.Uint32(payload[2:])
	}
	if streams, header := settings[3], settings[6]; streams == 0 || streams > 250 || header == 0 || header > 64<<10 {
		t.Errorf("the server allows %d streams (want at most 250) and %d bytes of header (want at most 64 KiB)", streams, header)
	}
	for _, http2 := range []bool{true, false} {
		tr := &http.Transport{TLSClientConfig: f.trust(), ForceAttemptHTTP2: http2}
		t.Cleanup(tr.CloseIdleConnections)
		req, err := http.NewRequest("GET", h.URL+"/accounts", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["X-Long"] = []string{strings.Repeat("x", 24<<10), strings.Repeat("y", 24<<10)}
		resp, err := (&http.Client{Timeout: patience, Transport: tr}).Do(req)
		if http2 && err != nil && strings.Contains(err.Error(), "larger than peer's advertised limit") {
			continue // the client has read the limit before it asked
		}
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 431 || (resp.ProtoMajor == 2) != http2 {
			t.Errorf("a header of 48 KiB over %s is answered %d, want 431", resp.Proto, resp.StatusCode)
		}
	}

	// :method GET, :scheme https, :path /, :authority x (RFC 7541, appendix A)
	header := []byte{0x82, 0x87, 0x84, 0x41, 1, 'x'}
	cancel := []byte{0, 0, 0, 8}
	var resets bytes.Buffer
	for stream := uint32(1); stream < 20_000; stream += 2 {
		resets.Write(frame(frameHeaders, 0x5, stream, header)) // END_STREAM, END_HEADERS
		resets.Write(frame(frameReset, 0, stream, cancel))
	}
	var wg sync.WaitGroup
	for name, frames := range map[string][]byte{"resets": resets.Bytes(), "settings": bytes.Repeat(frame(frameSettings, 0, 0, nil), 10_000)} {
		flood := rawHTTP2(t, f, h.address())
		wg.Go(func() {
			// It may be cut off, or be taken to its end.
			if _, err := flood.Write(frames); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a flood of %s is neither taken nor ended", name)
			}
		})
	}
	other := f.caller(h.address(), f.trust())
	for range 20 {
		other.do("POST", "/events", `{"type":"a.b","data":{}}`).is(202)
	}
	wg.Wait()
	other.do("GET", "/accounts", nil).is(200)
}

// With client_ca every connection over TCP needs a certificate of one of these authorities, and a token besides.
func TestContract_TLS_ClientCertificates(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	ours, foreign := newPrivateRoot(t, "ours"), newPrivateRoot(t, "foreign")
	put(t, f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ours.cert.Raw}))
	right := ours.client(time.Now().Add(time.Hour))
	admin := freeAddress(t)
	c, address := f.spawn([]tls.Certificate{right}, []string{"HERALD_LISTEN_TLS_CLIENT_CA=" + f.ca}, "log: {level: debug}", "admin: {address: '"+admin+"'}")

	// try and refusal connect and return why that is refused. In TLS 1.3 a client learns it with what it reads first.
	try := func(address string, config *tls.Config) error {
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		_, err = io.ReadAll(conn)
		return err
	}
	refusal := func(address string, version uint16, certs ...tls.Certificate) error {
		config := f.trust(certs...)
		config.MinVersion, config.MaxVersion = version, version
		// Without this Go's client keeps a certificate to itself that the server would not take.
		if len(certs) > 0 {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
		}
		return try(address, config)
	}
	serverOnly := ours.sign(&x509.Certificate{SerialNumber: big.NewInt(8), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	for _, a := range []string{address, admin} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if err := refusal(a, version, right); err != nil {
				t.Errorf("%s: the right certificate is refused: %v", tls.VersionName(version), err)
			}
			for what, x := range map[string]struct {
				certs []tls.Certificate
				alert string
			}{
				"none":                   {nil, "certificate required|bad certificate|handshake failure"},
				"of another authority":   {[]tls.Certificate{foreign.client(time.Now().Add(time.Hour))}, "unknown certificate authority"},
				"expired":                {[]tls.Certificate{ours.client(time.Now().Add(-time.Hour))}, "expired certificate"},
				"for servers only":       {[]tls.Certificate{serverOnly}, "bad certificate"},
				"of the server's issuer": {[]tls.Certificate{f.root.client(time.Now().Add(time.Hour))}, "unknown certificate authority"},
			} {
				err := refusal(a, version, x.certs...)
				if err == nil {
					t.Errorf("%s: a certificate %s is taken", tls.VersionName(version), what)
					continue
				}
				names(t, tls.VersionName(version)+", a certificate "+what, err.Error(), "remote error", x.alert)
			}
		}
	}
	eventually(t, "the log tells why", func() bool {
		return regexp.MustCompile(`level=DEBUG msg="http: TLS handshake error from .* client didn't provide a certificate`).MatchString(c.out.String())
	})

	// The certificate gives no right.
	mine := f.caller(address, f.trust(right))
	mine.do("GET", "/accounts", nil).is(200)
	(&caller{h: mine.h, client: mine.client}).do("GET", "/accounts", nil).problem(401)

	// Another authority: who has its certificate comes in, who has not stays until the connection ends, which no session outlives.
	put(t, f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: foreign.cert.Raw}))
	old := f.trust(right)
	old.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	for range 2 {
		if err := try(address, old); err != nil {
			t.Errorf("the authority in force: %v", err)
		}
	}
	c.reload()
	mine.do("GET", "/accounts", nil).is(200)
	if err := try(address, old); err == nil {
		t.Error("a certificate of the authority before is taken")
	} else {
		names(t, "the authority before", err.Error(), "unknown certificate authority|certificate required|bad certificate")
	}
	f.caller(address, f.trust(foreign.client(time.Now().Add(time.Hour)))).do("GET", "/accounts", nil).is(200)

	if _, err := exec.LookPath("curl"); err != nil {
		return
	}
	chain, key := encoded(t, foreign.client(time.Now().Add(time.Hour)))
	dir := t.TempDir()
	put(t, filepath.Join(dir, "me.pem"), chain)
	put(t, filepath.Join(dir, "me.key"), key)
	out, err := exec.Command("curl", "-sS", "--cacert", f.root.file(), "--cert", filepath.Join(dir, "me.pem"), "--key", filepath.Join(dir, "me.key"),
		"-H", "Authorization: Bearer "+adminToken, "https://"+address+"/accounts/default").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"id":"default"`) {
		t.Errorf("curl: %s, %v", out, err)
	}
}

// Without client certificates sessions are resumed, also after the certificate was replaced.
func TestContract_TLS_SessionsAreResumed(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	c, address := f.spawn(nil, nil)
	config := f.trust()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	resumed := func() bool {
		t.Helper()
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if _, err := io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().DidResume
	}
	if resumed() || !resumed() {
		t.Error("the first connection has to be new, and the second resumed")
	}
	f.write(f.server(2, time.Hour))
	c.reload()
	resumed()
	config.ClientSessionCache = nil
	if n, err := serial(address, config); n != 2 {
		t.Errorf("a new session is shown %d, %v", n, err)
	}
}
