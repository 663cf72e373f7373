package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// everything sets each key that this version takes to something else than its default, in a directory
// that has the files it names.
func everything(t *testing.T) (text, dir string) {
	t.Helper()
	dir = t.TempDir()
	cert, key := pair(t)
	for name, data := range map[string][]byte{
		"cert.pem": cert, "key.pem": key, "ca.pem": cert, "key": []byte("anything"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return strings.ReplaceAll(`
listen:
  address: ":9000"
  tls: {cert: DIR/cert.pem, key: DIR/key.pem, client_ca: DIR/ca.pem}
  socket: DIR/s
admin: {address: "[::1]:9001"}
public_url: https://push.example.com:8443/base
data_dir: DIR
admin_token: abcdefghijklmnopqrstuvwx==
secrets: {key_file: DIR/key}
subscriptions: {max_per_account: 7}
delivery:
  timeout: 2m
  retry_schedule: [1s, 1d12h]
  jitter: 0.25
  max_concurrency: 3
  workers: 4
  disable_after: {duration: 2d12h, failures: 50}
  on_disabled: discard
  ordering: key
  rate_limit: 0.5
egress:
  allow_networks: [10.0.0.0/8, "::ffff:192.168.0.0/112", fd00::1]
  deny_networks: [10.1.2.3]
  proxy: http://user:secretword@proxy.example.com:3128
  ca_file: DIR/ca.pem
  https_only: true
identity: {cert: DIR/cert.pem, key: DIR/key.pem}
retention: {events: 1d, attempts: 36h, dead: 30m, max_bytes: 2GiB}
limits: {body_bytes: 2097152, payload_bytes: 64KiB, rate_per_token: 2.5}
log: {level: debug, format: json}
shutdown_timeout: 1m30s
`, "DIR", dir), dir
}

func pair(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	c, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestParseEverything(t *testing.T) {
	t.Parallel()
	text, dir := everything(t)
	c, err := Parse("x.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen = Listen{Address: ":9000", TLS: TLS{dir + "/cert.pem", dir + "/key.pem", dir + "/ca.pem"}, Socket: dir + "/s"}
	want.Admin.Address = "[::1]:9001"
	want.PublicURL = "https://push.example.com:8443/base"
	want.DataDir = dir
	want.AdminToken = "abcdefghijklmnopqrstuvwx=="
	want.Secrets.KeyFile = dir + "/key"
	want.Subscriptions.MaxPerAccount = 7
	want.Delivery.Timeout = 2 * time.Minute
	want.Delivery.RetrySchedule = Schedule{Waits: []time.Duration{time.Second, 36 * time.Hour}}
	want.Delivery.Jitter = 0.25
	want.Delivery.MaxConcurrency = 3
	want.Delivery.Workers = 4
	want.Delivery.DisableAfter = DisableAfter{Duration: 60 * time.Hour, Failures: 50}
	want.Delivery.OnDisabled = "discard"
	want.Delivery.Ordering = "key"
	want.Delivery.RateLimit = 0.5
	want.Egress = Egress{
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fd00::1/128")},
		DenyNetworks:  []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")},
		Proxy:         "http://user:secretword@proxy.example.com:3128",
		CAFile:        dir + "/ca.pem",
		HTTPSOnly:     true,
	}
	want.Identity = Identity{dir + "/cert.pem", dir + "/key.pem"}
	want.Retention = Retention{24 * time.Hour, 36 * time.Hour, 30 * time.Minute, 2 << 30}
	want.Limits = Limits{2 << 20, 64 << 10, 2.5}
	want.Log = Log{"debug", "json"}
	want.ShutdownTimeout = 90 * time.Second
	if !reflect.DeepEqual(*c, want) {
		t.Errorf("parsed\n%+v\nwant\n%+v", *c, want)
	}
}

// The same values by the environment give the same Config, and win over a file.
func TestEnvironmentSetsEveryKey(t *testing.T) {
	t.Parallel()
	text, _ := everything(t)
	want, err := Parse("x.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	seen := map[string]bool{}
	for _, k := range keys() {
		if seen[k.variable] {
			t.Errorf("two keys have the variable %s", k.variable)
		}
		seen[k.variable] = true
		if value := variableText(reflect.ValueOf(want).Elem().FieldByIndex(k.index)); value != "" {
			env = append(env, k.variable+"="+value)
		}
	}
	file := "delivery: {timeout: 1s, retry_schedule: quick}\negress: {allow_networks: [172.16.0.0/12]}\nlog: {level: warn}\n"
	got, err := Parse("x.yaml", []byte(file), append(env, "HERALD_URL=x", "HERALD_TOKEN=y", "HERALD_CA=a", "HERALD_CERT=c", "HERALD_KEY=k", "HERALD_NONSENSE=", "OTHER=1"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the environment gives\n%+v\nthe file\n%+v", *got, *want)
	}
}

func variableText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return x
	case Secret:
		return x.Reveal()
	case []netip.Prefix:
		var list []string
		for _, p := range x {
			list = append(list, p.String())
		}
		return strings.Join(list, ", ")
	case time.Duration:
		return x.String()
	case Bytes:
		return x.String()
	case Schedule:
		return x.String()
	case bool:
		if x {
			return "true"
		}
		return ""
	default:
		return show(x)
	}
}

func TestEnvironmentRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, file, env, want string }{
		{"unknown", "", "HERALD_LISTEN_ADRESSE=:1", "HERALD_LISTEN_ADRESSE: unknown variable; did you mean HERALD_LISTEN_ADDRESS?"},
		{"unknown and far", "", "HERALD_QQQQQ=1", "HERALD_QQQQQ: unknown variable"},
		{"service link", "", "HERALD_PORT_8420_TCP_ADDR=10.0.0.1", "HERALD_PORT_8420_TCP_ADDR: unknown variable; Kubernetes sets it for a service called herald: set enableServiceLinks: false in the pod"},
		{"type", "", "HERALD_DELIVERY_WORKERS=many", "HERALD_DELIVERY_WORKERS: must be a whole number"},
		{"range", "delivery:\n  workers: 5\n", "HERALD_DELIVERY_WORKERS=0", "HERALD_DELIVERY_WORKERS: must be from 1 to 100000"},
		{"list element", "", "HERALD_EGRESS_ALLOW_NETWORKS=10.0.0.0/8,,x", "HERALD_EGRESS_ALLOW_NETWORKS: " + wantNetwork + "\nHERALD_EGRESS_ALLOW_NETWORKS: " + wantNetwork},
		{"schedule", "", "HERALD_DELIVERY_RETRY_SCHEDULE=5s,slow", "HERALD_DELIVERY_RETRY_SCHEDULE: " + wantSchedule},
		{"bool", "", "HERALD_EGRESS_HTTPS_ONLY=1", "HERALD_EGRESS_HTTPS_ONLY: must be true or false"},
		{"word", "", "HERALD_DELIVERY_ORDERING=fifo", "HERALD_DELIVERY_ORDERING: must be one of none, key, strict"},
		{"tiny rate", "", "HERALD_DELIVERY_RATE_LIMIT=1e-9", "HERALD_DELIVERY_RATE_LIMIT: must be 0, or from 0.0001 to 100000"},
		{"short time", "", "HERALD_DELIVERY_DISABLE_AFTER_DURATION=59s", "HERALD_DELIVERY_DISABLE_AFTER_DURATION: must be 0, or from 1m to 365d"},
		{"the file stays wrong", "delivery: {workers: x}\n", "HERALD_DELIVERY_WORKERS=3", "line 1: delivery.workers: must be a whole number"},
		{"contradicts the file", "admin_token: abcdefghijklmnopqrstuvwx\n", "HERALD_ADMIN_TOKEN_FILE=f", "HERALD_ADMIN_TOKEN_FILE: excludes admin_token; set one of the two"},
		{"socket from systemd", "", "RUNTIME_DIRECTORY=/" + strings.Repeat("r", 100), "listen.socket: the path of the unix socket is longer than 107 bytes, which the system does not take; set a shorter one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("x.yaml", []byte(tt.file), []string{tt.env})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestEmptyFilesGiveTheDefaults(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "{}", "~", "\xef\xbb\xbf", "log:\nlisten: {tls: }\negress: {allow_networks: , deny_networks: []}\n"} {
		c, err := Parse("x.yaml", []byte(text), nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if want := Default(); NeedsRestart(c, &want) != nil || c.Log != want.Log {
			t.Errorf("%q gives %+v", text, *c)
		}
	}
}

func TestAliases(t *testing.T) {
	t.Parallel()
	c, err := Parse("x.yaml", []byte("egress: {allow_networks: &a [10.0.0.0/8], deny_networks: *a}"), nil)
	if err != nil || !slices.Equal(c.Egress.AllowNetworks, c.Egress.DenyNetworks) || len(c.Egress.DenyNetworks) != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
	// Nine levels of nine aliases each would be 387 million elements.
	bomb := "egress:\n  allow_networks:\n    - &a [x, x, x, x, x, x, x, x, x]\n"
	for l := 'b'; l < 'k'; l++ {
		bomb += "    - &" + string(l) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(l-1)+", ", 9), ", ") + "]\n"
	}
	start := time.Now()
	_, err = Parse("x.yaml", []byte(bomb), nil)
	if errs, ok := errors.AsType[Errors](err); !ok || len(errs) != 10 {
		t.Errorf("a bomb gives %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("a bomb takes %s", took)
	}
	for _, text := range []string{"log: &a {level: *a}", "log: &a\n  level: [*a]\n", "&a log: *a\n"} {
		if _, err := Parse("x.yaml", []byte(text), nil); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	fits := strings.Repeat("#", maxFileBytes)
	if _, err := Parse("x.yaml", []byte(fits), nil); err != nil {
		t.Error(err)
	}
	if _, err := Parse("x.yaml", []byte(fits+"#"), nil); err == nil || err.Error() != "x.yaml: is larger than 1MiB, which no configuration is" {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(path, []byte(fits+"\n\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "is larger than 1MiB") {
		t.Error(err)
	}
}

func TestManyProblemsAreCut(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("strange: 1\n", 5000)
	_, err := Parse("x.yaml", []byte(text), nil)
	errs, _ := errors.AsType[Errors](err)
	if len(errs) != maxErrors || errs[maxErrors-1].Problem != "and 4901 more problems" {
		t.Errorf("%d problems, the last is %q", len(errs), errs[len(errs)-1])
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "none.yaml")
	if _, err := Load(missing, nil); !errors.Is(err, fs.ErrNotExist) || err.Error() != missing+": cannot be read: no such file or directory" {
		t.Errorf("a missing file gives %v", err)
	}
	if _, err := Load(dir, nil); err == nil || err.Error() != dir+": cannot be read: is a directory" {
		t.Errorf("a directory gives %v", err)
	}
	if c, err := Load("", nil); err != nil || !reflect.DeepEqual(*c, Default()) {
		t.Errorf("no file gives %+v, %v", c, err)
	}
	path := filepath.Join(dir, "open.yaml")
	if err := os.WriteFile(path, []byte("admin_token: abcdefghijklmnopqrstuvwx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, warned := range map[fs.FileMode]bool{0o600: false, 0o640: false, 0o660: true, 0o644: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(c.Warnings()) == 1; got != warned {
			t.Errorf("mode %s: warnings %q", mode, c.Warnings())
		}
	}
}

func TestKeyPairs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := pair(t)
	_, otherKey := pair(t)
	for name, data := range map[string][]byte{"cert": cert, "key": key, "other": otherKey, "empty": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ cert, key, want string }{
		{"cert", "key", ""},
		{"cert", "other", "line 1: listen.tls.cert: does not load together with listen.tls.key: tls: private key does not match public key"},
		{"empty", "key", "line 1: listen.tls.cert: does not load together with listen.tls.key: tls: failed to find any PEM data in certificate input"},
		{"cert", "none", "line 1: listen.tls.key: cannot be read: no such file or directory"},
		{"cert", "", "line 1: listen.tls.key: must be set too when listen.tls.cert is"},
		{"", "key", "line 1: listen.tls.cert: must be set too when listen.tls.key is"},
	} {
		in := func(name string) string {
			if name == "" {
				return `""`
			}
			return filepath.Join(dir, name)
		}
		_, err := Parse("x.yaml", []byte("listen: {tls: {cert: "+in(tt.cert)+", key: "+in(tt.key)+"}}"), nil)
		if got := text(err); got != tt.want {
			t.Errorf("%s and %s: got %q, want %q", tt.cert, tt.key, got, tt.want)
		}
	}
}

func TestFilesOfTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := pair(t)
	other, otherKey := pair(t)
	damaged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not DER")})
	for name, data := range map[string][]byte{
		"cert": cert, "key": key, "other": otherKey, "two": append(slices.Clone(cert), other...), "damaged": damaged, "empty": nil,
		"cut": append(slices.Clone(cert), other[:len(other)/2]...), "cut key": key[:len(key)/2],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		cert, key, ca string
		file, want    string // the file at fault, and what follows its name; in the configuration a key stands for it
	}{
		{"cert", "key", "two", "", ""},
		{"two", "key", "cert", "", ""},
		{"cut", "key", "", "cert", "holds a PEM block that is cut off or damaged"},
		{"cert", "cut key", "", "key", "holds a PEM block that is cut off or damaged"},
		{"cert", "key", "cut", "client_ca", "holds a PEM block that is cut off or damaged"},
		{"cert", "key", "damaged", "client_ca", "holds a certificate that does not parse: x509: "},
		{"cert", "key", "key", "client_ca", "holds no certificate in PEM form"},
		{"cert", "key", "empty", "client_ca", "holds no certificate in PEM form"},
		{"cert", "key", "none", "client_ca", "cannot be read: no such file or directory"},
		{"cert", "other", "", "cert", "does not load together with KEY: tls: private key does not match public key"},
	} {
		files := TLS{filepath.Join(dir, tt.cert), filepath.Join(dir, tt.key), ""}
		if tt.ca != "" {
			files.ClientCA = filepath.Join(dir, tt.ca)
		}
		_, err := Parse("x.yaml", fmt.Appendf(nil, "listen:\n  tls:\n    cert: %s\n    key: %s\n    client_ca: %s\n", files.Cert, files.Key, files.ClientCA), nil)
		at := map[string]int{"cert": 3, "key": 4, "client_ca": 5}[tt.file]
		want := fmt.Sprintf("line %d: listen.tls.%s: %s", at, tt.file, strings.Replace(tt.want, "KEY", "listen.tls.key", 1))
		if (err != nil) != (tt.want != "") || err != nil && !strings.HasPrefix(text(err), want) {
			t.Errorf("%v: Parse says %q, want %q", tt, text(err), want)
		}
		_, clients, err := files.Load()
		path := map[string]string{"cert": files.Cert, "key": files.Key, "client_ca": files.ClientCA}[tt.file]
		want = path + " " + strings.Replace(tt.want, "KEY", files.Key, 1)
		if (err != nil) != (tt.want != "") || err != nil && !strings.HasPrefix(text(err), want) {
			t.Errorf("%v: Load says %q, want %q", tt, text(err), want)
		}
		if err == nil && clients == nil {
			t.Errorf("%v: no authorities", tt)
		}
	}
	want := "line 1: listen.tls.client_ca: needs listen.tls.cert and listen.tls.key: without TLS nobody shows a certificate"
	if _, err := Parse("x.yaml", []byte("listen: {tls: {client_ca: "+dir+"/cert}}"), nil); text(err) != want {
		t.Errorf("authorities alone: %q, want %q", text(err), want)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNeedsRestart(t *testing.T) {
	t.Parallel()
	full, _ := everything(t)
	after, err := Parse("x.yaml", []byte(full), nil)
	if err != nil {
		t.Fatal(err)
	}
	before := Default()
	want := []string{
		"listen.address", "listen.tls.cert", "listen.tls.key", "listen.tls.client_ca", "listen.socket", "admin.address", "public_url", "data_dir",
		"secrets.key_file", "delivery.workers", "egress.allow_networks", "egress.deny_networks", "egress.proxy",
		"egress.ca_file", "egress.https_only", "identity.cert", "identity.key", "log.format",
	}
	if got := NeedsRestart(&before, after); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := NeedsRestart(after, after); got != nil {
		t.Errorf("no change needs a restart for %q", got)
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	for _, tt := range []struct{ content, token, want string }{
		{"abcdefghijklmnopqrstuvwx\n", "abcdefghijklmnopqrstuvwx", ""},
		{"abcdefghijklmnopqrstuvwx\r\n", "abcdefghijklmnopqrstuvwx", ""},
		{"\n", "", "line 1: admin_token_file: is an empty file"},
		{"short\n", "", "line 1: admin_token_file: holds a token of less than 24 characters, which can be guessed"},
		{"two\n" + strings.Repeat("x", 24), "", "line 1: admin_token_file: holds a token with characters that a bearer token cannot have: only letters, digits and -._~+/ (and = at the end)"},
		{strings.Repeat("x", 513), "", "line 1: admin_token_file: holds a token of more than 512 characters"},
		{strings.Repeat("=", 30), "", "line 1: admin_token_file: holds a token with characters that a bearer token cannot have: only letters, digits and -._~+/ (and = at the end)"},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Parse("x.yaml", []byte("admin_token_file: "+path), nil)
		if text(err) != tt.want {
			t.Errorf("%q: got %v, want %s", tt.content, err, tt.want)
		}
		if err != nil {
			continue
		}
		if token, err := c.ResolveAdminToken(); token.Reveal() != tt.token || err != nil {
			t.Errorf("%q: token %q, %v", tt.content, token.Reveal(), err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ResolveAdminToken(); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("a vanished file gives %v", err)
		}
	}
	none := Default()
	if token, err := none.ResolveAdminToken(); token != "" || err != nil {
		t.Errorf("no token is %q, %v", token.Reveal(), err)
	}
}
