package config

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// SocketPath returns the path of the unix socket: listen.socket, else herald.sock in systemd's
// runtime directory (RUNTIME_DIRECTORY in env), else herald.sock in the data directory. A Config from
// Load or Parse with the same env has one that the system takes, of at most 107 bytes.
func (c *Config) SocketPath(env []string) string {
	if c.Listen.Socket != "" {
		return c.Listen.Socket
	}
	// systemd separates several runtime directories by colons (systemd.exec(5)); the first is ours.
	if dir, _, _ := strings.Cut(lookup(env, "RUNTIME_DIRECTORY"), ":"); dir != "" {
		return filepath.Join(dir, "herald.sock")
	}
	return filepath.Join(c.DataDir, "herald.sock")
}

// SecretsKeyFile returns the path of the key that encrypts secrets at rest: secrets.key_file, else
// the systemd credential herald-secrets-key (in CREDENTIALS_DIRECTORY of env) when there is such a
// file, else secrets.key in the data directory. The last one need not exist yet.
func (c *Config) SecretsKeyFile(env []string) string {
	if c.Secrets.KeyFile != "" {
		return c.Secrets.KeyFile
	}
	if dir := lookup(env, "CREDENTIALS_DIRECTORY"); dir != "" {
		path := filepath.Join(dir, "herald-secrets-key")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return filepath.Join(c.DataDir, "secrets.key")
}

// ResolveAdminToken returns the fixed admin token from admin_token or, read anew, from
// admin_token_file; empty when neither is set. Load and Parse have checked it once, so that it fails
// only when the file has changed since.
func (c *Config) ResolveAdminToken() (Secret, error) {
	token, problem := c.adminToken()
	if problem != "" {
		return "", errors.New("admin token " + problem)
	}
	return token, nil
}

// adminToken reads and judges the token. A file may end in a newline, as editors write it.
func (c *Config) adminToken() (token Secret, problem string) {
	token = c.AdminToken
	if c.AdminTokenFile != "" {
		data, problem := regular(c.AdminTokenFile)
		if problem != "" {
			return "", problem
		}
		token = Secret(strings.TrimRight(string(data), "\r\n"))
		if token == "" {
			return "", "is an empty file"
		}
	}
	switch {
	case token == "":
		return "", ""
	case len(token) < minToken:
		return "", "holds a token of less than 24 characters, which can be guessed"
	case len(token) > maxToken:
		return "", "holds a token of more than 512 characters"
	case !bearer(token.Reveal()):
		return "", "holds a token with characters that a bearer token cannot have: only letters, digits and -._~+/ (and = at the end)"
	}
	return token, ""
}

// bearer says whether s is a b64token of RFC 6750 section 2.1, the form the Authorization header
// takes.
func bearer(s string) bool {
	s = strings.TrimRight(s, "=")
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return notInKey(r) && r != '~' && r != '+' && r != '/'
	})
}

// ExternalURL returns the base URL under which others reach the API, without a trailing slash:
// public_url, else one made of address, the address really listened on ("" for listen.address). All
// addresses ("0.0.0.0", "::" or none) become localhost, which at least this machine can reach.
func (c *Config) ExternalURL(address string) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	if address == "" {
		address = c.Listen.Address
	}
	scheme, standard := "http", "80"
	if c.Listen.TLS.Cert != "" {
		scheme, standard = "https", "443"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return scheme + "://" + address
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if port != standard {
		return scheme + "://" + net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host
}

// Warnings returns what is allowed but seldom meant: secret files that others may read, certificates not valid now, tokens
// sent in the clear, profiles open to the network. It looks at the files each time it is called.
func (c *Config) Warnings() []string {
	list := append([]string(nil), c.notes...)
	keyFile := c.SecretsKeyFile(nil)
	for _, f := range []struct{ key, path string }{
		{"admin_token_file", c.AdminTokenFile},
		{"secrets.key_file", keyFile},
		{"listen.tls.key", c.Listen.TLS.Key},
		{"identity.key", c.Identity.Key},
	} {
		if f.path == "" {
			continue
		}
		if info, err := os.Stat(f.path); err == nil && exposed(info.Mode()) {
			list = append(list, f.key+": every user of this machine can read the file, or its group change it (mode "+info.Mode().Perm().String()+"); chmod 600 it")
		}
	}
	list = append(list, c.doubtful(time.Now())...)
	if c.Listen.TLS.Cert == "" && !local(c.Listen.Address) && !strings.HasPrefix(c.PublicURL, "https://") {
		list = append(list, "listen.address: other machines can reach it and listen.tls is not set, so access tokens travel unencrypted; "+
			"set listen.tls, or public_url to the https URL of the proxy in front")
	}
	if c.Admin.Address != "" && !local(c.Admin.Address) && c.Listen.TLS.ClientCA == "" {
		list = append(list, "admin.address: other machines can reach it, and it answers metrics and profiles without a token")
	}
	return list
}

// exposed says whether a secret file is open to more than its owner and, for reading, its group: a
// file of root that a service's group may read is a usual and sound arrangement.
func exposed(mode fs.FileMode) bool { return mode.Perm()&0o027 != 0 }

// local says whether only this machine can reach a listening address.
func local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// holdsSecret says whether the file, rather than the environment, gave a secret.
func (c *Config) holdsSecret(env []string) bool {
	return c.AdminToken != "" && lookup(env, "HERALD_ADMIN_TOKEN") == "" ||
		c.Egress.Proxy != "" && lookup(env, "HERALD_EGRESS_PROXY") == "" && strings.Contains(c.Egress.Proxy.Reveal(), "@")
}

// lookup returns the value of a variable in env; of several the last, as a process would see it.
func lookup(env []string, name string) string {
	value := ""
	for _, e := range env {
		if n, v, ok := strings.Cut(e, "="); ok && n == name {
			value = v
		}
	}
	return value
}
