package config

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"0": 0, "15s": 15 * time.Second, "1.5h": 90 * time.Minute, "-3s": -3 * time.Second, "7d": 7 * day, "1d12h": 36 * time.Hour, "0d": 0,
		"1d0.5s": day + 500*time.Millisecond, "106751d": 106751 * day,
	} {
		if got, ok := parseDuration(s); got != want || !ok {
			t.Errorf("%q: got %s, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "d", "15", "1 d", "-1d", "+1d", "1.5d", "1d-12h", "1d+1h", "1d 1h", "1d1d", "1dd", "1h1d", "106752d", "106751d24h", "99999999999d", "4294967296d", "s", "1w"} {
		if got, ok := parseDuration(s); ok {
			t.Errorf("%q is taken for %s", s, got)
		}
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Bytes{
		"0": 0, "1": 1, "1KiB": 1024, "16MiB": 16 << 20, "2GiB": 2 << 30, "3TiB": 3 << 40, "9223372036854775807": math.MaxInt64, "8388607TiB": 8388607 << 40,
	} {
		if got, ok := parseBytes(s); got != want || !ok {
			t.Errorf("%q: got %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "KiB", "-1", "+1", "1.5KiB", "1kib", "1KB", "1K", "1 KiB", "1_000", "0x10", "1e3", "9223372036854775808", "8388608TiB", "1KiBMiB"} {
		if got, ok := parseBytes(s); ok {
			t.Errorf("%q is taken for %d", s, got)
		}
	}
}

func TestBytesString(t *testing.T) {
	t.Parallel()
	for b, want := range map[Bytes]string{0: "0", 1023: "1023", 1024: "1KiB", 1025: "1025", 16 << 20: "16MiB", 3 << 39: "1536GiB", -1024: "-1024"} {
		if got := b.String(); got != want {
			t.Errorf("%d: got %s, want %s", int64(b), got, want)
		}
	}
}

func TestScheduleString(t *testing.T) {
	t.Parallel()
	s := Schedule{Waits: []time.Duration{5 * time.Second, 90 * time.Second, 5 * time.Minute, time.Hour, 90 * time.Minute, 48 * time.Hour, 10 * time.Minute}}
	if got := s.String(); got != "5s,1m30s,5m,1h,1h30m,48h,10m" {
		t.Errorf("got %s", got)
	}
	if got := (Schedule{Name: "day"}).String(); got != "day" {
		t.Errorf("got %s", got)
	}
}

func TestScheduleLength(t *testing.T) {
	t.Parallel()
	for n, ok := range map[int]bool{1: true, maxWaits: true, maxWaits + 1: false} {
		_, err := Parse("", nil, []string{"HERALD_DELIVERY_RETRY_SCHEDULE=" + strings.TrimSuffix(strings.Repeat("1s,", n), ",")})
		if (err == nil) != ok {
			t.Errorf("%d waits: %v", n, err)
		}
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	all := Keys()
	for name, want := range map[string]string{
		"data-dir": "data_dir", "dataDir": "data_dir", "DATA_DIR": "data_dir", "listen.adress": "listen.address", "zzz": "", "": "", strings.Repeat("listen.address", 100): "",
	} {
		if got := suggest(name, all); got != want {
			t.Errorf("%.30q: got %q, want %q", name, got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		":0": true, "127.0.0.1:8420": true, "[::1]:8420": true, "[fe80::1%eth0]:80": true, "localhost:80": true, "my_host.example.com:65535": true,
		"127.0.0.1": false, "::1:80": false, "127.1:80": false, "127.0.0.01:80": false, "2130706433:80": false, "a b:80": false, "-a:80": false, "a..b:80": false,
		"a:": false, "a:-1": false, "a:+1": false, "a:080": false, "a:65536": false, "a:http": false, "http://a:80": false, strings.Repeat("a", 64) + ":80": false,
	} {
		c := Default()
		c.Listen.Address = address
		d := newDecoder("", &c)
		judge{d}.address("listen.address", address, true)
		if got := len(d.errs) == 0; got != ok {
			t.Errorf("%q: %v", address, d.errs)
		}
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{
		"": true, "http://a": true, "https://a.example.com:8443/base": true, "http://[::1]:80": true,
		"a": false, "//a": false, "ftp://a": false, "http:": false, "http:a": false, "http://": false, "http://:80": false, "http://a:": false, "http://a:0": false,
		"http://a:70000": false, "http://a/": false, "http://a?": false, "http://a?x": false, "http://a#": false, "http://u@a": false, "http://a b": false,
	} {
		if got := publicURL(s) == ""; got != ok {
			t.Errorf("%q: %q", s, publicURL(s))
		}
	}
	for s, ok := range map[string]bool{
		"http://p:3128": true, "https://u:p@p": true, "socks5://p:1080/": true, "socks5h://[::1]:1080": true,
		"p:3128": false, "socks4://p": false, "http://": false, "http://p/path": false, "http://p?x": false, "http://p:x": false,
	} {
		_, err := Parse("", nil, []string{"HERALD_EGRESS_PROXY=" + s})
		if (err == nil) != ok {
			t.Errorf("proxy %q: %v", s, err)
		}
	}
}
