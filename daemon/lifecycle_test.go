package daemon_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"herald/store"
	"herald/store/boltstore"
)

// remote is the harness for a daemon in another process.
func remote(t *testing.T, address string) *herald {
	return &herald{t: t, URL: "http://" + address}
}

// spawnReady starts a child and waits until it is ready.
func spawnReady(t *testing.T, config, address string, environ ...string) (*child, *herald) {
	t.Helper()
	c := spawn(t, config, environ...)
	h := remote(t, address)
	eventually(t, "the daemon is ready", func() bool {
		resp, err := httpClient.Get(h.URL + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return c, h
}

func TestSecondProcessOnADirectoryExits2(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address)
	first, h := spawnReady(t, config, address)
	second := spawn(t, config)
	if code := second.exit(); code != 2 {
		t.Errorf("the second daemon exited with %d, want 2", code)
	}
	if out := second.out.String(); !strings.Contains(out, "in use by another herald") {
		t.Errorf("the second daemon does not say why:\n%s", out)
	}
	h.admin().do("GET", "/subscriptions", nil).is(200)
	first.signal(syscall.SIGTERM)
	if code := first.exit(); code != 0 {
		t.Errorf("the first daemon exited with %d", code)
	}
}

func TestConfigurationErrorsExit2WithAllOfThem(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(path, []byte("listen: {place: x}\ndelivery:\n  timeout: soon\n  workers: 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := spawn(t, path)
	if code := c.exit(); code != 2 {
		t.Errorf("exited with %d, want 2", code)
	}
	for _, want := range []string{"line 1: listen.place", "line 3: delivery.timeout", "line 4: delivery.workers"} {
		if !strings.Contains(c.out.String(), want) {
			t.Errorf("no %q in:\n%s", want, c.out)
		}
	}
}

func TestTakenAddressIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := spawn(t, configFile(t, t.TempDir(), l.Addr().String()))
	if code := c.exit(); code != 1 {
		t.Errorf("exited with %d, want 1", code)
	}
	if !strings.Contains(c.out.String(), l.Addr().String()) || strings.Contains(c.out.String(), "First start") {
		t.Errorf("it does not name the address, or minted a token first:\n%s", c.out)
	}
}

// A push under way when the daemon is told to stop is finished and recorded, and new requests are refused.
func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address)
	c, h := spawnReady(t, config, address)
	r := receive(t)
	release := make(chan struct{})
	r.respond(func(_ int, _ push, _ http.ResponseWriter) { <-release })
	sub := h.subscribe(r.URL, nil)
	event := h.publish("task.create", "", map[string]any{})
	r.wait(1)
	c.signal(syscall.SIGTERM)
	eventually(t, "no new request is taken", func() bool {
		resp, err := httpClient.Get(h.URL + "/readyz")
		if err != nil {
			return true
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	close(release)
	if code := c.exit(); code != 0 {
		t.Fatalf("exited with %d", code)
	}
	if n := len(r.got()); n != 1 {
		t.Errorf("%d pushes, want 1", n)
	}
	// The outcome was settled before the end: nothing is pushed again after a restart.
	_, h = spawnReady(t, config, address)
	if d := h.delivery(event, sub, "delivered"); d["attemptCount"] != 1.0 {
		t.Errorf("delivered with %v attempts, want 1", d["attemptCount"])
	}
	h.sentinel()
	if n := len(r.got()); n != 1 {
		t.Errorf("%d pushes after the restart, want 1", n)
	}
}

// An attempt that outlives the shutdown's time is no attempt: it is made again after the restart.
func TestShutdownTimeoutCutsOffAttempts(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address, "shutdown_timeout: 1s")
	c, h := spawnReady(t, config, address)
	r := receive(t)
	release := make(chan struct{})
	defer close(release)
	r.respond(func(n int, _ push, _ http.ResponseWriter) {
		if n == 1 {
			<-release
		}
	})
	sub := h.subscribe(r.URL, nil)
	event := h.publish("task.create", "", map[string]any{})
	r.wait(1)
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		t.Fatalf("exited with %d", code)
	}
	_, h = spawnReady(t, config, address)
	if d := h.delivery(event, sub, "delivered"); d["attemptCount"] != 1.0 {
		t.Errorf("%v attempts, want 1", d["attemptCount"])
	}
	got := r.wait(2)
	if got[0].id() != got[1].id() || got[1].header.Get("Herald-Attempt") != "1" {
		t.Errorf("the second push is %v attempt %s, want %v attempt 1", got[1].id(), got[1].header.Get("Herald-Attempt"), got[0].id())
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	c, h := spawnReady(t, configFile(t, dir, address, "shutdown_timeout: 5m"), address)
	r := receive(t)
	release := make(chan struct{})
	defer close(release)
	r.respond(func(_ int, _ push, _ http.ResponseWriter) { <-release })
	h.subscribe(r.URL, nil)
	h.publish("task.create", "", map[string]any{})
	r.wait(1)
	c.signal(syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return strings.Contains(c.out.String(), "signal received") })
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 1 {
		t.Errorf("exited with %d, want 1", code)
	}
}

// Code 2 is for what a new start does not mend. What a new start may mend must not end with it, as Go programs do by themselves.
func TestAbortDoesNotLookLikeWrongUsage(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	c, _ := spawnReady(t, configFile(t, dir, address), address)
	c.signal(syscall.SIGABRT)
	if code := c.exit(); code != -1 {
		t.Errorf("exited with %d, want the end by the signal", code)
	}
	if out := c.out.String(); !strings.Contains(out, "goroutine") {
		t.Errorf("it does not say where it was:\n%s", tail(out, 600))
	}
}

func TestSIGHUPReloadsOrRefuses(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address)
	c, h := spawnReady(t, config, address)
	original, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(c.out.String(), "reload")
		c.signal(syscall.SIGHUP)
		eventually(t, "the reload is over", func() bool { return strings.Count(c.out.String(), "reload") > before })
	}
	body := `{"type":"a.b","data":{"x":"` + strings.Repeat("x", 2000) + `"}}`
	h.admin().do("POST", "/events", body).is(202)

	taken := func() (ok, at float64) {
		t.Helper()
		text := string(h.as("").do("GET", "/metrics", nil).is(200).body)
		return sample(t, text, "herald_config_last_reload_successful"), sample(t, text, "herald_config_last_reload_success_timestamp_seconds")
	}
	ok, atStart := taken()
	if ok != 1 {
		t.Errorf("the start counts as a reload: %v", ok)
	}

	rewrite(string(original) + "limits: {payload_bytes: 1KiB}\n")
	h.admin().do("POST", "/events", body).problem(413)
	if ok, at := taken(); ok != 1 || at <= atStart {
		t.Errorf("after a reload: %v, at %v, after %v", ok, at, atStart)
	}

	rewrite(strings.Replace(string(original), adminToken, adminToken+"-new", 1))
	h.admin().do("GET", "/subscriptions", nil).problem(401)
	h.as(adminToken+"-new").do("POST", "/events", body).is(202)

	for name, c2 := range map[string]struct{ text, want string }{
		"invalid":       {string(original) + "limits: {payload_bytes: -1}\n", "limits.payload_bytes"},
		"needs restart": {strings.Replace(string(original), address, "127.0.0.1:1", 1), "listen.address"},
	} {
		rewrite(c2.text)
		if out := c.out.String(); !strings.Contains(out, "reload refused") || !strings.Contains(out, c2.want) {
			t.Errorf("%s: the refusal does not say %q:\n%s", name, c2.want, tail(out, 600))
		}
		if ok, at := taken(); ok != 0 || at <= atStart {
			t.Errorf("%s: after the refusal: %v, at %v", name, ok, at)
		}
		h.as(adminToken+"-new").do("POST", "/events", body).is(202)
	}
	if strings.Contains(c.out.String(), adminToken) {
		t.Error("the log holds the admin token")
	}
}

// withoutToken takes the admin token out of a configuration file.
func withoutToken(t *testing.T, config string) {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), "admin_token: "+adminToken+"\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// With no token configured the first start mints one, prints it once, and no later start does.
func TestFirstStartMintsAnAdminToken(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address)
	withoutToken(t, config)
	c, h := spawnReady(t, config, address)
	_, after, ok := strings.Cut(c.out.String(), "hrld_")
	if !ok {
		t.Fatalf("no token in:\n%s", c.out)
	}
	token := "hrld_" + strings.Fields(after)[0]
	h.as(token).do("GET", "/accounts", nil).is(200)
	h.as("").do("GET", "/accounts", nil).problem(401)
	c.signal(syscall.SIGTERM)
	c.exit()
	c, h = spawnReady(t, config, address)
	if strings.Contains(c.out.String(), "hrld_") {
		t.Error("the second start printed a token")
	}
	h.as(token).do("GET", "/accounts", nil).is(200)
}

func TestSocketHasAdminRightsForItsOwnUserOnly(t *testing.T) {
	t.Parallel()
	socket := socketPath(t)
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(text), "socket: ") + len("socket: ")
	end := at + strings.IndexByte(string(text[at:]), '}')
	if err := os.WriteFile(config, []byte(string(text[:at])+socket+string(text[end:])), 0o600); err != nil {
		t.Fatal(err)
	}
	// A socket left behind by a process that died is replaced.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	c, _ := spawnReady(t, config, address)
	fi, err := os.Stat(socket)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v; want 0600", fi.Mode(), err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://herald/accounts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !strings.Contains(string(body), `"default"`) {
		t.Errorf("GET /accounts over the socket: %d %s", resp.StatusCode, body)
	}
	c.signal(syscall.SIGTERM)
	c.exit()
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left after a clean stop")
	}
}

// writeCertificate writes a certificate that vouches for itself, and its key.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// With an admin address, metrics, health and profiles are there and nowhere else.
func TestAdminAddress(t *testing.T) {
	t.Parallel()
	dir, address, admin := t.TempDir(), freeAddress(t), freeAddress(t)
	spawn(t, configFile(t, dir, address, "admin: {address: '"+admin+"'}"))
	get := func(host, path string) int {
		resp, err := httpClient.Get("http://" + host + path)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	eventually(t, "it is ready", func() bool { return get(admin, "/readyz") == 200 })
	for path, want := range map[string][2]int{
		"/metrics": {404, 200}, "/healthz": {404, 200}, "/readyz": {404, 200}, "/debug/pprof/": {404, 200}, "/subscriptions": {401, 404},
	} {
		if got := [2]int{get(address, path), get(admin, path)}; got != want {
			t.Errorf("%s answers %v on the API and the admin address, want %v", path, got, want)
		}
	}
}

// Profiles are on the admin address alone, whatever is configured, take as long as they are asked to, and hold up no shutdown.
func TestProfiles(t *testing.T) {
	t.Parallel()
	paths := []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine", "/debug/pprof/allocs", "/debug/pprof/block", "/debug/pprof/mutex", "/debug/pprof/cmdline"}
	h := start(t)
	for _, path := range append(paths, "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=1") {
		h.admin().do("GET", path, nil).is(404)
		h.overSocket().do("GET", path, nil).is(404)
	}
	dir, address, admin := t.TempDir(), freeAddress(t), freeAddress(t)
	// Longer than a test may take: it would not end while a profile is waited for.
	c, api := spawnReady(t, configFile(t, dir, address, "admin: {address: '"+admin+"'}", "shutdown_timeout: 10m"), admin)
	api.URL = "http://" + address
	for _, path := range paths {
		api.admin().do("GET", path, nil).is(404)
		resp, err := httpClient.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || len(text) == 0 {
			t.Errorf("%s: %d bytes with status %d, %v", path, len(text), resp.StatusCode, err)
		}
	}
	// Longer than a server lets an answer take.
	begun := make(chan error, 2)
	ended := make(chan error, 2)
	for _, path := range []string{"/debug/pprof/profile?seconds=3600", "/debug/pprof/block?seconds=3600"} {
		go func() {
			conn, err := net.Dial("tcp", admin)
			if err == nil {
				_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			}
			begun <- err
			if err == nil {
				_, err = io.ReadAll(conn)
			}
			ended <- err
		}()
	}
	for range 2 {
		if err := <-begun; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the profiles are taken", func() bool {
		resp, err := httpClient.Get("http://" + admin + "/debug/pprof/goroutine?debug=2")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return strings.Contains(string(text), "pprof.Profile(") && strings.Contains(string(text), "pprof.handler.serveDeltaProfile(")
	})
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 || strings.Contains(c.out.String(), "cut off") {
		t.Errorf("exited with %d:\n%s", code, c.out.String())
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A deletion that a crash cut in two, after the store and before the queue, is finished at the next start.
func TestDeliveriesOfDeletedSubscriptionsAreDropped(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(500)
	sub := h.subscribe(r.URL, map[string]any{"delivery": map[string]any{"retrySchedule": []string{"1h"}}})
	event := h.publish("task.create", "", map[string]any{})
	h.delivery(event, sub, "retrying")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	forgetSubscription(t, h.dir, sub)
	h = startIn(t, h.dir)
	h.eventually("the delivery is discarded", func() bool {
		l := h.admin().do("GET", "/deliveries?event="+event, nil).is(200).list()
		return len(l) == 1 && l[0]["state"] == "discarded" && l[0]["reason"] == "unsubscribed"
	})
}

// forgetSubscription deletes a subscription from the store alone, as if the daemon had died in the middle.
func forgetSubscription(t *testing.T, dir, id string) {
	t.Helper()
	key, err := boltstore.LoadKey(filepath.Join(dir, "data", "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := boltstore.Open(boltstore.Options{Path: filepath.Join(dir, "data", "store.db"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	sub, err := store.ParseSubscriptionID(id)
	if err == nil {
		err = s.DeleteSubscription(ctx, "", sub)
	}
	cancel()
	for _, e := range []error{err, <-ended, s.Close()} {
		if e != nil {
			t.Fatal(fmt.Errorf("forget the subscription: %w", e))
		}
	}
}
