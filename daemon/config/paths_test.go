package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketPath(t *testing.T) {
	t.Parallel()
	c := Default()
	for _, tt := range []struct {
		socket string
		env    []string
		want   string
	}{
		{"", nil, "data/herald.sock"},
		{"", []string{"RUNTIME_DIRECTORY="}, "data/herald.sock"},
		{"", []string{"RUNTIME_DIRECTORY=/run/herald"}, "/run/herald/herald.sock"},
		{"", []string{"RUNTIME_DIRECTORY=/run/a:/run/b"}, "/run/a/herald.sock"},
		{"", []string{"RUNTIME_DIRECTORY=/run/a", "RUNTIME_DIRECTORY=/run/b"}, "/run/b/herald.sock"},
		{"/s", []string{"RUNTIME_DIRECTORY=/run/herald"}, "/s"},
	} {
		c.Listen.Socket = tt.socket
		if got := c.SocketPath(tt.env); got != tt.want {
			t.Errorf("%q with %q: got %s, want %s", tt.socket, tt.env, got, tt.want)
		}
	}
}

func TestSocketPathLength(t *testing.T) {
	t.Parallel()
	for n, ok := range map[int]bool{107: true, 108: false} {
		_, err := Parse("x.yaml", []byte("listen: {socket: /"+strings.Repeat("s", n-1)+"}"), nil)
		if (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestSecretsKeyFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := []string{"CREDENTIALS_DIRECTORY=" + dir}
	c := Default()
	if got := c.SecretsKeyFile(env); got != "data/secrets.key" {
		t.Errorf("without a credential: %s", got)
	}
	credential := filepath.Join(dir, "herald-secrets-key")
	if err := os.WriteFile(credential, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.SecretsKeyFile(env); got != credential {
		t.Errorf("with a credential: %s", got)
	}
	c.Secrets.KeyFile = "k"
	if got := c.SecretsKeyFile(env); got != "k" {
		t.Errorf("with a configured file: %s", got)
	}
}

func TestExternalURL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ public, listen, bound, cert, want string }{
		{"", "127.0.0.1:8420", "", "", "http://127.0.0.1:8420"},
		{"", ":8420", "", "", "http://localhost:8420"},
		{"", "0.0.0.0:0", "0.0.0.0:34567", "", "http://localhost:34567"},
		{"", "[::]:443", "", "c", "https://localhost"},
		{"", "[2001:db8::1]:80", "", "", "http://[2001:db8::1]"},
		{"", "[2001:db8::1]:80", "", "c", "https://[2001:db8::1]:80"},
		{"https://h.example.com", ":8420", ":1", "", "https://h.example.com"},
	} {
		c := Config{PublicURL: tt.public, Listen: Listen{Address: tt.listen, TLS: TLS{Cert: tt.cert}}}
		if got := c.ExternalURL(tt.bound); got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open, closed := file("open", 0o644), file("closed", 0o640)
	for _, tt := range []struct {
		name  string
		set   func(*Config)
		wants []string
	}{
		{"defaults", func(*Config) {}, nil},
		{"closed files", func(c *Config) { c.AdminTokenFile, c.Secrets.KeyFile, c.Listen.TLS.Key = closed, closed, closed }, nil},
		{"open files", func(c *Config) { c.AdminTokenFile, c.Secrets.KeyFile, c.Listen.TLS.Key = open, open, open }, []string{"admin_token_file:", "secrets.key_file:", "listen.tls.key:"}},
		{"in the clear", func(c *Config) { c.Listen.Address = ":8420" }, []string{"listen.address:"}},
		{"behind a proxy", func(c *Config) { c.Listen.Address, c.PublicURL = ":8420", "https://h.example.com" }, nil},
		{"public profiles", func(c *Config) { c.Admin.Address = "0.0.0.0:9" }, []string{"admin.address:"}},
		{"own profiles", func(c *Config) { c.Admin.Address = "localhost:9" }, nil},
	} {
		c := Default()
		c.DataDir = dir
		tt.set(&c)
		got := c.Warnings()
		if len(got) != len(tt.wants) {
			t.Errorf("%s: %q", tt.name, got)
			continue
		}
		for i, want := range tt.wants {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: %q, want %q", tt.name, got[i], want)
			}
		}
	}
}
