// Package config turns a YAML file and the environment into one validated Config.
//
// It promises that a Config it hands out is complete and within every documented limit, that a bad
// one is refused with all its problems at once, each with its line, and that no message of this
// package repeats a configured value: a token pasted under the wrong key is never printed.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"
)

// maxFileBytes bounds the configuration file. The complete commented example is under 20 KiB; the
// limit keeps a wrong path (a log, a database) from being parsed at all.
const maxFileBytes = 1 << 20

// Config is everything an operator can set. It is not changed after Load or Parse returned it, so it
// may be read by any number of goroutines; a reload makes a new one and compares the two with
// NeedsRestart.
//
// A field tagged `reload:"yes"` is meant to be applied by a reload of a running daemon; all others
// take effect at the next start.
type Config struct {
	Listen Listen `yaml:"listen"`
	Admin  Admin  `yaml:"admin"`
	// PublicURL is the base under which receivers and clients reach the API, without a trailing
	// slash; empty to derive it from the listening address, see ExternalURL.
	PublicURL string `yaml:"public_url"`
	// DataDir is the directory of the database files; created when absent.
	DataDir string `yaml:"data_dir"`
	// AdminToken is a fixed admin token beside those in the database; empty for none. Use
	// ResolveAdminToken, which knows AdminTokenFile too.
	AdminToken Secret `yaml:"admin_token" reload:"yes"`
	// AdminTokenFile is a file holding that token; it excludes AdminToken.
	AdminTokenFile string        `yaml:"admin_token_file" reload:"yes"`
	Secrets        Secrets       `yaml:"secrets"`
	Subscriptions  Subscriptions `yaml:"subscriptions"`
	Delivery       Delivery      `yaml:"delivery"`
	Egress         Egress        `yaml:"egress"`
	Identity       Identity      `yaml:"identity"`
	Retention      Retention     `yaml:"retention"`
	Limits         Limits        `yaml:"limits"`
	Providers      Providers     `yaml:"providers"`
	Log            Log           `yaml:"log"`
	// ShutdownTimeout is how long attempts under way may take to end after SIGTERM, 1s to 10m.
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout" reload:"yes"`

	// notes are warnings that only Load can know of, such as the mode of the file itself.
	notes []string
}

// Listen is where the API is served.
type Listen struct {
	// Address is host:port; an empty host means all addresses, port 0 any free port.
	Address string `yaml:"address"`
	TLS     TLS    `yaml:"tls"`
	// Socket is the path of the unix socket; empty for the default, see SocketPath.
	Socket string `yaml:"socket"`
}

// TLS is how the API and the admin address are served, by PEM files: a certificate chain and its private key, both or neither.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA holds the authorities one of which has to have issued the certificate of every client; empty asks for none. It
	// needs Cert.
	ClientCA string `yaml:"client_ca"`
}

// Admin is the listener for the operator's own eyes.
type Admin struct {
	// Address is host:port of metrics, health and profiles; empty to serve metrics and health with
	// the API and no profiles.
	Address string `yaml:"address"`
}

// Secrets says how secrets are kept on disk.
type Secrets struct {
	// KeyFile holds the key that encrypts them; empty for the default, see SecretsKeyFile.
	KeyFile string `yaml:"key_file"`
}

// Subscriptions holds the rules for creating subscriptions.
type Subscriptions struct {
	// Validation is "optional" or "required".
	Validation string `yaml:"validation" reload:"yes"`
	// MaxPerAccount is the most subscriptions of one account, 1 to 10,000,000.
	MaxPerAccount int `yaml:"max_per_account" reload:"yes"`
}

// Delivery holds the policy of subscriptions that do not set their own, and the size of the engine.
type Delivery struct {
	// Timeout bounds one attempt from dialling to the last byte of the answer, in whole seconds, 1s
	// to 5m.
	Timeout time.Duration `yaml:"timeout" reload:"yes"`
	// RetrySchedule is the waits between attempts.
	RetrySchedule Schedule `yaml:"retry_schedule" reload:"yes"`
	// Jitter is the share by which a wait is randomly lengthened or shortened, 0 to 0.5.
	Jitter float64 `yaml:"jitter" reload:"yes"`
	// MaxConcurrency is the most attempts of one subscription at the same time, 1 to 10,000.
	MaxConcurrency int `yaml:"max_concurrency" reload:"yes"`
	// Workers is the most attempts of all subscriptions at the same time, 1 to 100,000.
	Workers      int          `yaml:"workers"`
	DisableAfter DisableAfter `yaml:"disable_after"`
	// OnDisabled is "hold" or "discard".
	OnDisabled string `yaml:"on_disabled" reload:"yes"`
	// Ordering is "none", "key" or "strict".
	Ordering string `yaml:"ordering" reload:"yes"`
	// RateLimit is the most records a second to one subscription, 0.0001 to 100,000; 0 is no limit.
	RateLimit float64 `yaml:"rate_limit" reload:"yes"`
}

// DisableAfter says when a failing subscription is disabled: whichever is set and comes first.
type DisableAfter struct {
	// Duration of failing without one success, 1m to 365 days; 0 is off.
	Duration time.Duration `yaml:"duration" reload:"yes"`
	// Failures in a row, 1 to 1,000,000; 0 is off.
	Failures int `yaml:"failures" reload:"yes"`
}

// Egress is the policy of the way out.
type Egress struct {
	// AllowNetworks opens networks that are closed by default.
	AllowNetworks []netip.Prefix `yaml:"allow_networks"`
	// DenyNetworks closes networks and wins over AllowNetworks.
	DenyNetworks []netip.Prefix `yaml:"deny_networks"`
	// Proxy is the URL of a proxy for every outgoing call (http, https or socks5); empty for none.
	// It may carry a password and is therefore a Secret.
	Proxy Secret `yaml:"proxy"`
	// CAFile is a PEM file of certificate authorities trusted beside the system's; empty for none.
	CAFile string `yaml:"ca_file"`
	// HTTPSOnly refuses callbacks without TLS.
	HTTPSOnly bool `yaml:"https_only"`
}

// Identity is the certificate chain with which the daemon proves who it is, and its key: PEM files, both or neither
// set. Without them both are self-made.
type Identity struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Retention says how long what is done with is kept; every age is 1s to 3650 days.
type Retention struct {
	// Events is how long an event is kept after it was accepted, finished or not.
	Events time.Duration `yaml:"events" reload:"yes"`
	// Attempts is the age at which the log of an attempt is removed.
	Attempts time.Duration `yaml:"attempts" reload:"yes"`
	// Dead is the age at which a delivery that used up its schedule is removed.
	Dead time.Duration `yaml:"dead" reload:"yes"`
	// MaxBytes is how much the queue may hold, at least 16MiB; 0 for no limit but the disk's.
	MaxBytes Bytes `yaml:"max_bytes" reload:"yes"`
}

// Limits bounds what clients may send.
type Limits struct {
	// BodyBytes is the largest request body, 1KiB to 256MiB.
	BodyBytes Bytes `yaml:"body_bytes" reload:"yes"`
	// PayloadBytes is the largest payload of one event, 1KiB to BodyBytes.
	PayloadBytes Bytes `yaml:"payload_bytes" reload:"yes"`
	// RatePerToken is the most requests a second of one access token, 0 (no limit) to 1,000,000.
	RatePerToken float64 `yaml:"rate_per_token" reload:"yes"`
}

// Providers says where the push providers are.
type Providers struct {
	FCM     Provider `yaml:"fcm"`
	APNs    Provider `yaml:"apns"`
	WebPush Provider `yaml:"webpush"`
}

// Provider is one push provider.
type Provider struct {
	// URL is the base URL used in place of the provider's own; empty for the provider's own.
	URL string `yaml:"url"`
}

// Log says what is logged, and how.
type Log struct {
	// Level is "debug", "info", "warn" or "error".
	Level string `yaml:"level" reload:"yes"`
	// Format is "text" or "json".
	Format string `yaml:"format"`
}

// Default returns the configuration of an empty file in an empty environment. The caller owns it.
func Default() Config {
	const day = 24 * time.Hour
	return Config{
		Listen:        Listen{Address: "127.0.0.1:8420"},
		DataDir:       "./data",
		Subscriptions: Subscriptions{Validation: "optional", MaxPerAccount: 10_000},
		Delivery: Delivery{
			Timeout:        15 * time.Second,
			RetrySchedule:  Schedule{Name: "standard"},
			Jitter:         0.1,
			MaxConcurrency: 64,
			Workers:        1536,
			DisableAfter:   DisableAfter{Duration: 5 * day},
			OnDisabled:     "hold",
			Ordering:       "none",
		},
		Retention:       Retention{Events: 7 * day, Attempts: 7 * day, Dead: 30 * day},
		Limits:          Limits{BodyBytes: 16 << 20, PayloadBytes: 1 << 20},
		Log:             Log{Level: "info", Format: "text"},
		ShutdownTimeout: 20 * time.Second,
	}
}

// Load reads the file at path and applies env, a list of NAME=value as os.Environ returns it. An
// empty path means no file: the defaults and the environment. The error is always an Errors; a file
// that could not be read is one entry that unwraps to the cause.
func Load(path string, env []string) (*Config, error) {
	if path == "" {
		return Parse("", nil, env)
	}
	data, mode, err := readFile(path)
	if err != nil {
		return nil, Errors{{File: path, Problem: "cannot be read: " + reason(err), cause: err}}
	}
	c, err := Parse(path, data, env)
	if err != nil {
		return nil, err
	}
	if mode.IsRegular() && exposed(mode) && c.holdsSecret(env) {
		c.notes = append(c.notes, "the configuration file holds a secret, and every user of this machine can read it, or its group change it (mode "+
			mode.Perm().String()+"); chmod 600 it")
	}
	return c, nil
}

// Parse is Load for the bytes of a file; name stands for it where a problem has no line. Files that
// the configuration names are looked at, nothing is created or changed.
func Parse(name string, data []byte, env []string) (*Config, error) {
	c := Default()
	d := newDecoder(name, &c)
	d.file(data)
	d.environment(env)
	validate(&c, d, env)
	if err := d.errs.ordered(); len(err) > 0 {
		return nil, err
	}
	return &c, nil
}

// readFile reads at most one byte more than the limit, so that an oversized file is seen as such
// without being read whole.
func readFile(path string) (data []byte, mode fs.FileMode, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err = io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	return data, info.Mode(), err
}

// reason is the cause of a file error without the path, which is a configured value and may be a
// secret put under the wrong key.
func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return "unexpected error of type " + fmt.Sprintf("%T", err)
}
