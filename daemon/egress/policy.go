package egress

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Policy decides which calls may leave. The zero value lets out http and https to every public address,
// on every port that does not belong to another protocol. It is not changed once in use and may then be
// shared by any number of goroutines.
type Policy struct {
	// Allow opens networks that are closed by default, except for metadata addresses inside them, which
	// only an entry of that single address opens. IPv4 networks also cover their IPv4-mapped IPv6
	// addresses.
	Allow []netip.Prefix
	// Deny closes networks and wins over Allow. It also closes what a NAT64 or 6to4 address leads to.
	Deny []netip.Prefix
	// HTTPSOnly refuses plain HTTP.
	HTTPSOnly bool
}

// CheckURL says whether u may be called, as far as that can be seen without resolving a name: its
// scheme, host, port, and a literal address. The error is a *DeniedError. It neither blocks nor, when
// the URL may be called, allocates.
//
// A name passes here, whatever it resolves to; CheckAddr at dial time judges that. The exception is
// localhost (RFC 6761 section 6.3), which is judged as the loopback addresses it always is.
func (p *Policy) CheckURL(u *url.URL) error {
	host := u.Hostname()
	deny := func(rule Rule, setting string) error {
		return &DeniedError{Host: shown(host), Rule: rule, Setting: setting}
	}
	switch u.Scheme {
	case "https":
	case "http":
		if p.HTTPSOnly {
			return deny(RulePlain, SettingHTTPSOnly)
		}
	default:
		return deny(RuleScheme, "")
	}
	switch {
	case u.Opaque != "" || host == "":
		return deny(RuleURL, "")
	case u.User != nil:
		return deny(RuleUserInfo, "")
	}
	port, ok := portOf(u)
	if !ok || badPort(port) {
		return deny(RulePort, "")
	}
	// The brackets decide the kind, as they do for the dialler: Hostname has taken them away.
	if strings.HasPrefix(u.Host, "[") || strings.IndexByte(host, ':') >= 0 {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return deny(RuleHost, "")
		}
		return p.check(host, netip.AddrPortFrom(a, port))
	}
	kind := kindOf(host)
	switch kind {
	case hostAddress:
		a, err := netip.ParseAddr(host)
		if err != nil {
			return deny(RuleNumeric, "")
		}
		return p.check(host, netip.AddrPortFrom(a, port))
	case hostLocal:
		// Open when either of the two loopbacks is: the dialler takes the one that is.
		if p.check(host, netip.AddrPortFrom(netip.IPv6Loopback(), port)) == nil {
			return nil
		}
		return p.check(host, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	case hostName:
		return nil
	default:
		return deny(RuleHost, "")
	}
}

// CheckAddr says whether an address may be dialled. The error is a *DeniedError. It does not block.
func (p *Policy) CheckAddr(ap netip.AddrPort) error { return p.check("", ap) }

func (p *Policy) check(host string, ap netip.AddrPort) error {
	rule, setting := p.rule(ap)
	if rule == "" {
		return nil
	}
	return &DeniedError{Host: host, Addr: ap, Rule: rule, Setting: setting}
}

// rule returns the rule that closes ap and the setting that decides, or two empty strings.
func (p *Policy) rule(ap netip.AddrPort) (Rule, string) {
	a := ap.Addr()
	switch {
	case !a.IsValid():
		return RuleURL, ""
	case a.Zone() != "":
		return RuleZone, ""
	case badPort(ap.Port()):
		return RulePort, ""
	}
	a = a.Unmap()
	inner, translated := embedded(a)
	if contains(p.Deny, a) || translated && contains(p.Deny, inner) {
		return RuleDenied, SettingDeny
	}
	target := a
	if translated {
		target = inner
	}
	for _, m := range metadata {
		if target == m {
			if alone(p.Allow, target) || alone(p.Allow, a) {
				return "", ""
			}
			return RuleMetadata, SettingAllow
		}
	}
	if contains(p.Allow, a) || translated && contains(p.Allow, inner) {
		return "", ""
	}
	if rule := judge(target); rule != "" {
		return rule, SettingAllow
	}
	return "", ""
}

// contains says whether one of the networks holds an unmapped address.
func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
		// A network given in mapped form holds IPv4 addresses that Contains does not compare with it.
		if a.Is4() && n.Addr().Is4In6() && n.Contains(netip.AddrFrom16(a.As16())) {
			return true
		}
	}
	return false
}

// alone says whether one of the networks is the single address.
func alone(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.IsSingleIP() && n.Addr().Unmap() == a {
			return true
		}
	}
	return false
}

// portOf returns the port that u is called on.
func portOf(u *url.URL) (uint16, bool) {
	text := u.Port()
	if text == "" {
		if u.Scheme == "http" {
			return 80, true
		}
		return 443, true
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil
}

type hostKind int

const (
	hostBad hostKind = iota
	hostName
	hostLocal
	hostAddress
)

// kindOf tells names from addresses. A host whose last label is a number is an address to some
// resolvers and proxies, in decimal, octal or hexadecimal and with one to four parts (inet_aton(3), and
// the URL standard's "ends in a number"), so it is one here. A host that is not ASCII would be mapped
// to another spelling on the way (full-width digits to digits), so it is none.
func kindOf(host string) hostKind {
	for i := range len(host) {
		c := host[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return hostBad
		}
	}
	name := strings.TrimSuffix(host, ".")
	if name == "" || len(name) > 253 || name[0] == '.' || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return hostBad
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case number(last):
		return hostAddress
	case strings.EqualFold(last, "localhost"):
		return hostLocal
	default:
		return hostName
	}
}

// number says whether a label is a number in decimal, octal or hexadecimal.
func number(label string) bool {
	digits := label
	hex := len(label) >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X')
	if hex {
		digits = label[2:]
	}
	for i := range len(digits) {
		c := digits[i]
		if c >= '0' && c <= '9' || hex && (c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			continue
		}
		return false
	}
	return true
}

// shown bounds what of a host that may be anything goes into a text.
func shown(host string) string {
	if len(host) > 253 {
		return host[:253] + "…"
	}
	return host
}
