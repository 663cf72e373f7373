package config

import (
	"cmp"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minToken is the shortest admin token. 24 characters of base64 are 144 bits, beyond guessing. It is
// also the length from which nothing of the file is repeated in a message.
const minToken = 24

// maxToken keeps the token within a request header that every proxy passes.
const maxToken = 512

// maxSocketPath is the length of sun_path on Linux (108) without its terminating zero; see unix(7).
const maxSocketPath = 107

// validate judges every value that was read, and the values against each other.
func validate(c *Config, d *decoder, env []string) {
	const day = 24 * time.Hour
	j := judge{d}

	j.address("listen.address", c.Listen.Address, true)
	j.tls(c.Listen.TLS)
	j.socket(c, env)
	j.address("admin.address", c.Admin.Address, false)
	if c.Admin.Address != "" && c.Admin.Address == c.Listen.Address && !strings.HasSuffix(c.Admin.Address, ":0") {
		d.refuse("admin.address", "is the same as listen.address; it must be another port or address")
	}
	if problem := publicURL(c.PublicURL); problem != "" {
		j.refuse("public_url", problem)
	}
	j.dataDir(c.DataDir)
	j.adminToken(c)
	j.keyFile(c.Secrets.KeyFile)

	j.oneOf("subscriptions.validation", c.Subscriptions.Validation, "optional", "required")
	within(j, "subscriptions.max_per_account", c.Subscriptions.MaxPerAccount, 1, 10_000_000)

	within(j, "delivery.timeout", c.Delivery.Timeout, time.Second, 5*time.Minute)
	if c.Delivery.Timeout%time.Second != 0 {
		j.refuse("delivery.timeout", "must be whole seconds, as the timeoutSeconds of a subscription is")
	}
	within(j, "delivery.jitter", c.Delivery.Jitter, 0, 0.5)
	within(j, "delivery.max_concurrency", c.Delivery.MaxConcurrency, 1, 10_000)
	within(j, "delivery.workers", c.Delivery.Workers, 1, 100_000)
	orZero(j, "delivery.disable_after.duration", c.Delivery.DisableAfter.Duration, time.Minute, 365*day)
	within(j, "delivery.disable_after.failures", c.Delivery.DisableAfter.Failures, 0, 1_000_000)
	j.oneOf("delivery.on_disabled", c.Delivery.OnDisabled, "hold", "discard")
	j.oneOf("delivery.ordering", c.Delivery.Ordering, "none", "key", "strict")
	orZero(j, "delivery.rate_limit", c.Delivery.RateLimit, 0.0001, 100_000)

	j.proxy(c.Egress.Proxy)
	j.authorities(c.Egress.CAFile)
	j.identity(c.Identity.Cert, c.Identity.Key)

	within(j, "retention.events", c.Retention.Events, time.Second, 3650*day)
	within(j, "retention.attempts", c.Retention.Attempts, time.Second, 3650*day)
	within(j, "retention.dead", c.Retention.Dead, time.Second, 3650*day)
	orZero(j, "retention.max_bytes", c.Retention.MaxBytes, 16<<20, 1<<50)

	within(j, "limits.body_bytes", c.Limits.BodyBytes, 1<<10, 256<<20)
	within(j, "limits.payload_bytes", c.Limits.PayloadBytes, 1<<10, 256<<20)
	if c.Limits.PayloadBytes > c.Limits.BodyBytes && !d.bad["limits.body_bytes"] {
		j.refuse("limits.payload_bytes", "is larger than limits.body_bytes, so that no such payload could arrive")
	}
	within(j, "limits.rate_per_token", c.Limits.RatePerToken, 0, 1_000_000)

	j.provider("providers.fcm.url", c.Providers.FCM.URL)
	j.provider("providers.apns.url", c.Providers.APNs.URL)
	j.provider("providers.webpush.url", c.Providers.WebPush.URL)

	j.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	j.oneOf("log.format", c.Log.Format, "text", "json")
	within(j, "shutdown_timeout", c.ShutdownTimeout, time.Second, 10*time.Minute)
}

// judge refuses values at the place where they were given, each key at most once.
type judge struct{ d *decoder }

func (j judge) refuse(path, problem string) {
	if !j.d.bad[path] {
		j.d.refuse(path, problem)
	}
}

func (j judge) oneOf(path, value string, choices ...string) {
	if !slices.Contains(choices, value) {
		j.refuse(path, "must be one of "+strings.Join(choices, ", "))
	}
}

func within[T cmp.Ordered](j judge, path string, value, least, most T) {
	if value < least || value > most {
		j.refuse(path, "must be from "+show(least)+" to "+show(most))
	}
}

// orZero is within for a key whose zero value switches something off.
func orZero[T cmp.Ordered](j judge, path string, value, least, most T) {
	var zero T
	if value != zero && (value < least || value > most) {
		j.refuse(path, "must be 0, or from "+show(least)+" to "+show(most))
	}
}

// show prints a limit as the file takes it.
func show(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return showDuration(v)
	case Bytes:
		return v.String()
	case int:
		return strconv.Itoa(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return ""
	}
}

// showDuration prints whole days, hours, minutes or seconds by the largest unit that fits.
func showDuration(d time.Duration) string {
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if d >= u.size && d%u.size == 0 {
			return strconv.FormatInt(int64(d/u.size), 10) + u.name
		}
	}
	return d.String()
}

// address judges host:port. Port names are refused: what they stand for differs between machines.
func (j judge) address(path, value string, required bool) {
	if value == "" {
		if required {
			j.refuse(path, "must not be empty; it is host:port, such as 127.0.0.1:8420 or :8420")
		}
		return
	}
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		j.refuse(path, "must be host:port, such as 127.0.0.1:8420, [::1]:8420 or :8420")
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		j.refuse(path, "must end in a port number from 0 to 65535")
		return
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostName(host) && host != "" {
		j.refuse(path, "must begin with an IP address, a host name, or nothing for all addresses")
	}
}

// hostName says whether s can be a host name: RFC 1123 section 2.1, with the underscore that private
// names often have. A name that ends in a number would be an address spelled unusually.
func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		last = label
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool { return notInKey(r) || r == '.' }) {
			return false
		}
	}
	return strings.Trim(last, "0123456789") != ""
}

// publicURL returns what is wrong with the base URL, or "".
func publicURL(s string) string {
	const want = "must be an absolute http or https URL, such as https://herald.example.com"
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", !urlPort(u):
		return want
	case u.User != nil:
		return want + ", without user name and password"
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return want + ", without query and fragment"
	case strings.HasSuffix(s, "/"):
		return want + ", without a slash at the end"
	}
	return ""
}

// urlPort says whether the port of u is absent or one to connect to.
func urlPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

func (j judge) provider(path, value string) {
	if problem := publicURL(value); problem != "" {
		j.refuse(path, problem)
	}
}

// proxy judges the proxy's URL. Its message has to do without the value, which may hold a password.
func (j judge) proxy(value Secret) {
	if value == "" {
		return
	}
	u, err := url.Parse(value.Reveal())
	if err == nil {
		switch u.Scheme {
		case "http", "https", "socks5", "socks5h":
		default:
			err = net.UnknownNetworkError(u.Scheme)
		}
	}
	if err != nil || u.Hostname() == "" || !urlPort(u) || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		j.refuse("egress.proxy", "must be an http, https, socks5 or socks5h URL of host and port, such as http://proxy.example.com:3128")
	}
}

// socket judges the path the socket will have, wherever it comes from.
func (j judge) socket(c *Config, env []string) {
	path := c.SocketPath(env)
	switch {
	case len(path) > maxSocketPath:
		j.refuse("listen.socket", "the path of the unix socket is longer than 107 bytes, which the system does not take; set a shorter one")
	case strings.HasPrefix(path, "@"):
		j.refuse("listen.socket", "must be a path in the file system: an abstract socket has no owner and no mode to protect it")
	case strings.HasSuffix(path, "/"):
		j.refuse("listen.socket", "must be the path of the socket itself, not of its directory")
	}
}

func (j judge) dataDir(path string) {
	if path == "" {
		j.refuse("data_dir", "must not be empty")
		return
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		j.refuse("data_dir", "is a file; it must be a directory, or not exist yet")
	case err != nil && !os.IsNotExist(err):
		j.refuse("data_dir", "cannot be looked at: "+reason(err))
	}
}

// adminToken judges the token itself, or the file of it.
func (j judge) adminToken(c *Config) {
	if c.AdminToken != "" && c.AdminTokenFile != "" {
		j.refuse("admin_token_file", "excludes admin_token; set one of the two")
		return
	}
	path := "admin_token"
	if c.AdminTokenFile != "" {
		path = "admin_token_file"
	}
	if j.d.bad[path] {
		return
	}
	if _, problem := c.adminToken(); problem != "" {
		j.refuse(path, problem)
	}
}

// keyFile judges the file of the encryption key, which may not exist yet.
func (j judge) keyFile(path string) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		j.refuse("secrets.key_file", "is not a regular file")
	case err != nil && !os.IsNotExist(err):
		j.refuse("secrets.key_file", "cannot be looked at: "+reason(err))
	}
}

// pair judges a certificate chain and its key, which are of use only together.
func (j judge) pair(section, cert, key string) {
	certPath, keyPath := section+".cert", section+".key"
	switch {
	case cert == "" && key == "":
		return
	case key == "":
		j.d.refuseAt(j.d.lines[certPath], keyPath, "must be set too when "+certPath+" is")
		return
	case cert == "":
		j.d.refuseAt(j.d.lines[keyPath], certPath, "must be set too when "+keyPath+" is")
		return
	}
	_, certProblem, keyProblem, err := loadPair(cert, key)
	if certProblem != "" {
		j.refuse(certPath, certProblem)
	}
	if keyProblem != "" {
		j.refuse(keyPath, keyProblem)
	}
	if err != nil {
		j.refuse(certPath, "does not load together with "+keyPath+": "+err.Error())
	}
}

func (j judge) authorities(path string) {
	if path == "" {
		return
	}
	data, problem := regular(path)
	if problem == "" && !x509.NewCertPool().AppendCertsFromPEM(data) {
		problem = "holds no certificate in PEM form"
	}
	if problem != "" {
		j.refuse("egress.ca_file", problem)
	}
}

// regular reads a file that has to be there. Anything but a regular file is refused before it is
// opened, because opening a pipe or a terminal would wait for its other side.
func regular(path string) (data []byte, problem string) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "cannot be read: " + reason(err)
	}
	if !info.Mode().IsRegular() {
		return nil, "is not a regular file"
	}
	data, _, err = readFile(path)
	switch {
	case err != nil:
		return nil, "cannot be read: " + reason(err)
	case len(data) > maxFileBytes:
		return nil, "is larger than 1MiB"
	}
	return data, ""
}
