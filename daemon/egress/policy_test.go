package egress

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func ruleOf(t *testing.T, err error) Rule {
	t.Helper()
	if err == nil {
		return ""
	}
	d, ok := errors.AsType[*DeniedError](err)
	if !ok {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	if d.Rule == "" || strings.HasSuffix(err.Error(), " is refused") {
		t.Errorf("%q explains nothing", err)
	}
	return d.Rule
}

// Both ends of each special network, and the public addresses beside them.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]Rule{
		"8.8.8.8": "", "1.0.0.0": "", "9.255.255.255": "", "11.0.0.0": "", "100.63.255.255": "", "100.128.0.0": "", "126.255.255.255": "", "128.0.0.0": "",
		"169.253.255.255": "", "169.255.0.0": "", "172.15.255.255": "", "172.32.0.0": "", "192.0.1.0": "", "192.0.3.0": "", "192.167.255.255": "", "192.169.0.0": "",
		"198.17.255.255": "", "198.20.0.0": "", "198.51.99.255": "", "198.51.101.0": "", "203.0.112.255": "", "203.0.114.0": "", "223.255.255.255": "",
		"192.88.98.255": "", "192.88.100.0": "", "168.63.129.15": "", "168.63.129.17": "",

		"0.0.0.0": RuleUnspecified, "0.0.0.1": RuleReserved, "0.255.255.255": RuleReserved,
		"10.0.0.0": RulePrivate, "10.255.255.255": RulePrivate, "172.16.0.0": RulePrivate, "172.31.255.255": RulePrivate, "192.168.0.0": RulePrivate, "192.168.255.255": RulePrivate,
		"100.64.0.0": RuleSharedAddress, "100.127.255.255": RuleSharedAddress,
		"127.0.0.0": RuleLoopback, "127.0.0.1": RuleLoopback, "127.255.255.255": RuleLoopback,
		"169.254.0.0": RuleLinkLocal, "169.254.255.255": RuleLinkLocal,
		"169.254.169.254": RuleMetadata, "169.254.170.2": RuleMetadata, "169.254.170.23": RuleMetadata, "100.100.100.200": RuleMetadata, "192.0.0.192": RuleMetadata, "168.63.129.16": RuleMetadata,
		"192.0.0.0": RuleReserved, "192.0.0.255": RuleReserved, "192.0.2.0": RuleDocumentation, "192.0.2.255": RuleDocumentation,
		"198.51.100.0": RuleDocumentation, "198.51.100.255": RuleDocumentation, "203.0.113.0": RuleDocumentation, "203.0.113.255": RuleDocumentation,
		"192.88.99.0": RuleTranslation, "192.88.99.255": RuleTranslation,
		"198.18.0.0": RuleBenchmarking, "198.19.255.255": RuleBenchmarking,
		"224.0.0.0": RuleMulticast, "239.255.255.255": RuleMulticast, "240.0.0.0": RuleReserved, "255.255.255.254": RuleReserved, "255.255.255.255": RuleBroadcast,

		"2606:4700:4700::1111": "", "2000::": "", "2001:200::1": "", "2001:db7:ffff::1": "", "2001:db9::": "", "2003::": "", "3fff:1000::": "", "3ffe:ffff::": "",

		"::": RuleUnspecified, "::1": RuleLoopback, "::2": RuleTranslation, "::127.0.0.1": RuleTranslation, "::8.8.8.8": RuleTranslation,
		"::ffff:0:8.8.8.8": RuleTranslation, "::1:0:0:0": RuleReserved,
		"::ffff:8.8.8.8": "", "::ffff:127.0.0.1": RuleLoopback, "::ffff:10.1.2.3": RulePrivate, "::ffff:169.254.169.254": RuleMetadata, "::ffff:0.0.0.0": RuleUnspecified,
		"64:ff9b::8.8.8.8": "", "64:ff9b::127.0.0.1": RuleLoopback, "64:ff9b::10.0.0.1": RulePrivate, "64:ff9b::169.254.169.254": RuleMetadata, "64:ff9b::255.255.255.255": RuleBroadcast,
		"64:ff9b:1::": RuleTranslation, "64:ff9b:1:ffff:ffff:ffff:ffff:ffff": RuleTranslation, "64:ff9b:1::8.8.8.8": RuleTranslation, "64:ff9b::1:0:0": RuleReserved, "64:ff9a::": RuleReserved,
		"2002:808:808::1": "", "2002:7f00:1::1": RuleLoopback, "2002:a00:1::": RulePrivate, "2002:c0a8:1::1": RulePrivate, "2002:a9fe:a9fe::": RuleMetadata, "2002:e000:1::": RuleMulticast,
		"2001::": RuleTranslation, "2001:0:4136:e378:8000:63bf:3fff:fdd2": RuleTranslation, "2001:2::1": RuleBenchmarking, "2001:10::1": RuleReserved, "2001:20::1": RuleReserved, "2001:1ff:ffff::": RuleReserved,
		"2001:db8::": RuleDocumentation, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff": RuleDocumentation, "3fff::": RuleDocumentation, "3fff:fff:ffff::": RuleDocumentation,
		"100::": RuleReserved, "100:0:0:1::": RuleReserved, "5f00::": RuleReserved, "4000::": RuleReserved, "1fff:ffff::": RuleReserved, "e000::": RuleReserved,
		"fc00::": RulePrivate, "fdff:ffff::1": RulePrivate, "fd00:ec2::254": RuleMetadata, "fd20:ce::254": RuleMetadata, "fe00::": RuleReserved,
		"fe80::1": RuleLinkLocal, "febf:ffff::": RuleLinkLocal, "fec0::1": RulePrivate, "feff:ffff::": RulePrivate, "ff02::1": RuleMulticast, "ffff::": RuleMulticast,
		"fe80::1%eth0": RuleZone, "2606:4700:4700::1111%1": RuleZone, "::ffff:8.8.8.8%1": RuleZone,
	} {
		var p Policy
		if got := ruleOf(t, p.CheckAddr(netip.AddrPortFrom(netip.MustParseAddr(address), 443))); got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
	var p Policy
	if p.CheckAddr(netip.AddrPort{}) == nil {
		t.Error("no address at all is let out")
	}
}

func TestAllowAndDeny(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		allow, deny []string
		address     string
		want        Rule
	}{
		{[]string{"10.0.0.0/8"}, nil, "10.1.2.3", ""},
		{[]string{"10.0.0.0/8"}, nil, "::ffff:10.1.2.3", ""},
		{[]string{"::ffff:10.0.0.0/104"}, nil, "10.1.2.3", ""},
		{[]string{"::ffff:10.0.0.0/104"}, nil, "11.1.2.3", ""},
		{[]string{"::ffff:10.0.0.0/104"}, nil, "127.0.0.1", RuleLoopback},
		{[]string{"10.0.0.0/8"}, nil, "64:ff9b::10.1.2.3", ""},
		{[]string{"10.0.0.0/8"}, nil, "2002:a01:203::1", ""},
		{[]string{"10.0.0.0/8"}, nil, "192.168.0.1", RulePrivate},
		{[]string{"10.0.0.0/8"}, nil, "::10.1.2.3", RuleTranslation},
		{[]string{"::/0"}, nil, "10.1.2.3", RulePrivate},
		{[]string{"0.0.0.0/0"}, nil, "::1", RuleLoopback},
		{[]string{"0.0.0.0/0"}, nil, "127.0.0.1", ""},
		{[]string{"::1/128"}, nil, "::1", ""},
		{[]string{"fe80::/10"}, nil, "fe80::1%eth0", RuleZone},
		{[]string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "10.1.2.3", RuleDenied},
		{[]string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "10.2.2.3", ""},
		{[]string{"10.1.2.3/32"}, []string{"10.0.0.0/8"}, "10.1.2.3", RuleDenied},
		{nil, []string{"8.8.8.0/24"}, "8.8.8.8", RuleDenied},
		{nil, []string{"8.8.8.0/24"}, "::ffff:8.8.8.8", RuleDenied},
		{nil, []string{"8.8.8.0/24"}, "64:ff9b::8.8.8.8", RuleDenied},
		{nil, []string{"8.8.8.0/24"}, "2002:808:808::", RuleDenied},
		{[]string{"64:ff9b::/96"}, []string{"8.8.8.0/24"}, "64:ff9b::8.8.8.8", RuleDenied},
		{nil, []string{"64:ff9b::/96"}, "64:ff9b::8.8.4.4", RuleDenied},
		{nil, []string{"::ffff:8.8.8.8/128"}, "8.8.8.8", RuleDenied},
		// A network does not open the metadata address in it; the address itself does.
		{[]string{"0.0.0.0/0", "::/0"}, nil, "169.254.169.254", RuleMetadata},
		{[]string{"0.0.0.0/0", "::/0"}, nil, "64:ff9b::169.254.169.254", RuleMetadata},
		{[]string{"fd00::/8"}, nil, "fd00:ec2::254", RuleMetadata},
		{[]string{"169.254.169.254/32"}, nil, "169.254.169.254", ""},
		{[]string{"169.254.169.254/32"}, nil, "::ffff:169.254.169.254", ""},
		{[]string{"169.254.169.254/32"}, []string{"169.254.0.0/16"}, "169.254.169.254", RuleDenied},
		{[]string{"fd00:ec2::254/128"}, nil, "fd00:ec2::254", ""},
	} {
		p := Policy{Allow: prefixes(tt.allow...), Deny: prefixes(tt.deny...)}
		if got := ruleOf(t, p.CheckAddr(netip.AddrPortFrom(netip.MustParseAddr(tt.address), 443))); got != tt.want {
			t.Errorf("%s with allow %q and deny %q: got %q, want %q", tt.address, tt.allow, tt.deny, got, tt.want)
		}
	}
}

// Ports stay closed also where the address is opened.
func TestPorts(t *testing.T) {
	t.Parallel()
	p := Policy{Allow: prefixes("127.0.0.0/8")}
	for port, open := range map[uint16]bool{
		80: true, 443: true, 8080: true, 8443: true, 8420: true, 3000: true, 5000: true, 65535: true, 24: true, 3128: true,
		0: false, 1: false, 22: false, 25: false, 53: false, 110: false, 138: false, 143: false, 465: false, 587: false, 636: false, 2049: false, 4190: false,
		5060: false, 6000: false, 6665: false, 6669: false, 6697: false, 10080: false,
	} {
		want := Rule("")
		if !open {
			want = RulePort
		}
		if got := ruleOf(t, p.CheckAddr(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))); got != want {
			t.Errorf("port %d: got %q, want %q", port, got, want)
		}
	}
}

// One address has many spellings; each is judged as what the dialler, a resolver or a proxy may make
// of it.
func TestURLs(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Rule{
		"http://example.com": "", "https://example.com/": "", "HTTPS://EXAMPLE.com./x?y": "", "https://example.com:8443": "", "https://8.8.8.8": "", "https://[2606:4700:4700::1111]:8443/": "",
		"https://xn--bcher-kva.example": "", "https://my_host.example.com": "", "https://1e100.net": "", "https://3com.com": "", "https://0xexample.com": "", "https://localhost.example.com": "",
		"https://web1": "", "https://127.0.0.1.example.com/": "", "https://127.0.0.1.nip.io": "", "https://host.0xz": "",

		"http://127.0.0.1": RuleLoopback, "http://127.0.0.1:8080/x": RuleLoopback, "http://127.255.255.254": RuleLoopback, "https://10.0.0.1": RulePrivate, "http://0.0.0.0": RuleUnspecified,
		"http://169.254.169.254/latest/meta-data/": RuleMetadata, "http://[fd00:ec2::254]/": RuleMetadata,
		"http://[::1]": RuleLoopback, "http://[0:0:0:0:0:0:0:1]:8080": RuleLoopback, "http://[::]": RuleUnspecified, "http://[::ffff:127.0.0.1]": RuleLoopback, "http://[::ffff:7f00:1]": RuleLoopback,
		"http://[::127.0.0.1]": RuleTranslation, "http://[64:ff9b::7f00:1]": RuleLoopback, "http://[2002:7f00:1::]": RuleLoopback, "http://[fe80::1%25eth0]": RuleZone, "http://[::1%25lo]": RuleZone,
		"http://[FE80::1]": RuleLinkLocal, "http://[fc00::1]": RulePrivate,

		// Decimal, octal, hexadecimal, short and padded spellings of 127.0.0.1, and numbers that are none.
		"http://2130706433": RuleNumeric, "http://017700000001": RuleNumeric, "http://0x7f000001": RuleNumeric, "http://0X7F000001": RuleNumeric, "http://127.1": RuleNumeric, "http://127.0.1": RuleNumeric,
		"http://0177.0.0.1": RuleNumeric, "http://0x7f.0.0.1": RuleNumeric, "http://0x7f.1": RuleNumeric, "http://127.0.0.01": RuleNumeric, "http://127.0.0.001": RuleNumeric,
		"http://127.0.0.1.": RuleNumeric, "http://2130706433.": RuleNumeric, "http://8.8.8.8.": RuleNumeric, "http://256.256.256.256": RuleNumeric, "http://1.2.3.4.5": RuleNumeric, "http://0": RuleNumeric,
		"http://0x": RuleNumeric, "http://example.1": RuleNumeric, "http://example.0x1f": RuleNumeric, "http://4294967297": RuleNumeric, "http://[127.0.0.1]": "-",

		"http://localhost": RuleLoopback, "http://LOCALHOST:8080": RuleLoopback, "http://localhost.": RuleLoopback, "http://a.localhost": RuleLoopback,

		"http://user@example.com": RuleUserInfo, "http://user:pw@example.com": RuleUserInfo, "http://example.com@127.0.0.1": RuleUserInfo, "http://127.0.0.1@example.com": RuleUserInfo, "http://@example.com": RuleUserInfo,

		"http://bücher.example": RuleHost, "http://１２７.０.０.１": RuleHost, "http://①②⑦.0.0.1": RuleHost, "http://127。0。0。1": RuleHost, "http://localhoſt": RuleHost, "http://ex%C3%A4mple.com": RuleHost,
		"http://a..b": RuleHost, "http://.a": RuleHost, "http://.": RuleHost, "http://a..": RuleHost, "http://127.0.0.1..": RuleHost, "http://a!b": RuleHost, "http://a,b": RuleHost, "http://a*b": RuleHost,
		"http://[::1%25]x": "-", "http://" + strings.Repeat("a.", 127) + "com": RuleHost,

		"ftp://example.com": RuleScheme, "file:///etc/passwd": RuleScheme, "gopher://127.0.0.1:70/": RuleScheme, "//example.com": RuleScheme, "example.com": RuleScheme, "": RuleScheme, "unix:///x": RuleScheme, "javascript:x": RuleScheme,
		"http:": RuleURL, "http:example.com": RuleURL, "http:///x": RuleURL, "http://:80": RuleURL, "https:/example.com": RuleURL,
		"http://example.com:25": RulePort, "http://example.com:0": RulePort, "http://example.com:65536": RulePort, "http://example.com:99999999999999999999": RulePort, "https://example.com:22/": RulePort,
		"http://127.0.0.1:6667": RulePort, "http://example.com:00443": "", "http://example.com:": "",
	} {
		u, err := url.Parse(s)
		if err != nil {
			if want != "-" {
				t.Errorf("%s does not parse: %v", s, err)
			}
			continue
		}
		var p Policy
		if got := ruleOf(t, p.CheckURL(u)); got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
}

func TestURLsWithSettings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		policy Policy
		url    string
		want   Rule
	}{
		{Policy{HTTPSOnly: true}, "http://example.com", RulePlain},
		{Policy{HTTPSOnly: true}, "https://example.com", ""},
		{Policy{Allow: prefixes("127.0.0.0/8")}, "http://127.0.0.1:9000", ""},
		{Policy{Allow: prefixes("127.0.0.0/8")}, "http://[::ffff:127.0.0.1]:9000", ""},
		{Policy{Allow: prefixes("127.0.0.0/8")}, "http://localhost:9000", ""},
		{Policy{Allow: prefixes("::1/128")}, "http://localhost:9000", ""},
		{Policy{Allow: prefixes("10.0.0.0/8")}, "http://localhost:9000", RuleLoopback},
		{Policy{Allow: prefixes("127.0.0.0/8")}, "http://2130706433", RuleNumeric},
		{Policy{Allow: prefixes("127.0.0.0/8")}, "http://127.0.0.1:25", RulePort},
		{Policy{Deny: prefixes("8.8.8.8/32")}, "https://8.8.8.8", RuleDenied},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := ruleOf(t, tt.policy.CheckURL(u)); got != tt.want {
			t.Errorf("%s with %+v: got %q, want %q", tt.url, tt.policy, got, tt.want)
		}
	}
}

func TestDeniedErrorText(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"http://10.0.0.7/secret?token=x":  "10.0.0.7:80, a private address, which only egress.allow_networks opens",
		"http://localhost:9000":           "localhost is 127.0.0.1:9000, a loopback address, which only egress.allow_networks opens",
		"http://169.254.169.254":          "169.254.169.254:80, a cloud provider's metadata address, which is opened only by naming it alone in egress.allow_networks",
		"https://9.9.9.9":                 "9.9.9.9:443, in a network that egress.deny_networks closes",
		"https://example.com:25":          "example.com is given a port that is reserved for another protocol than HTTP",
		"ftp://example.com":               "example.com must be called by http or https",
		"http://u:secret@example.com":     "example.com: user name and password must not be in the URL",
		"http://0x7f.1":                   "0x7f.1 is an address in an unusual spelling; write IPv4 as four decimal numbers",
		"https://[64:ff9b::127.0.0.1]:80": "64:ff9b::127.0.0.1 is [64:ff9b::7f00:1]:80, a loopback address, which only egress.allow_networks opens",
		"http:":                           "the URL is not an absolute http or https URL of a host",
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		p := Policy{Deny: prefixes("9.9.9.0/24")}
		if err := p.CheckURL(u); err == nil || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", s, err, want)
		}
	}
}

// The check is on the path of every request, so it may cost no memory.
func TestCheckURLDoesNotAllocate(t *testing.T) {
	p := Policy{Allow: prefixes("127.0.0.0/8")}
	for _, s := range []string{"https://hooks.example.com/x?y=z", "http://127.0.0.1:9000/hook", "https://[2606:4700:4700::1111]:8443/"} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() {
			if err := p.CheckURL(u); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%s costs %v allocations", s, n)
		}
	}
}

func BenchmarkCheckURL(b *testing.B) {
	p := Policy{Allow: prefixes("127.0.0.0/8")}
	for name, s := range map[string]string{"name": "https://hooks.example.com/x?y=z", "address": "http://127.0.0.1:9000/hook"} {
		u, err := url.Parse(s)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.CheckURL(u); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What passes is a plain name or an address that may be dialled.
func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1", "https://[::1%25lo]:443", "http://0x7f.1", "http://１２７.０.０.１", "https://u:p@h:25/", "http:opaque", "https://a.example.com./"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		var p Policy
		if err := p.CheckURL(u); err != nil {
			if ruleOf(t, err) == "" || len(err.Error()) > 600 {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Hostname() == "" {
			t.Errorf("%q passes", s)
		}
		if a, err := netip.ParseAddr(strings.TrimSuffix(u.Hostname(), ".")); err == nil {
			if err := p.CheckAddr(netip.AddrPortFrom(a, 443)); err != nil {
				t.Errorf("%q passes although %v", s, err)
			}
		}
		for _, r := range u.Hostname() {
			if r > 0x7e {
				t.Errorf("%q passes", s)
			}
		}
	})
}
