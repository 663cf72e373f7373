package egress

import "net/netip"

// Rule is the reason of a refusal.
type Rule string

// The rules about what a URL looks like. No setting opens them, except RuleScheme for plain HTTP.
const (
	RuleURL      Rule = "url"       // not an absolute URL of a host
	RuleScheme   Rule = "scheme"    // neither http nor https
	RulePlain    Rule = "plain"     // http while only https is allowed
	RuleUserInfo Rule = "user_info" // user name or password in the URL
	RuleHost     Rule = "host"      // not a host name in ASCII
	RuleNumeric  Rule = "numeric"   // an address in another spelling than the usual one
	RulePort     Rule = "port"      // the port of another protocol
	RuleZone     Rule = "zone"      // an IPv6 address with a zone
)

// The rules about what an address is for.
const (
	RuleDenied        Rule = "denied" // named by egress.deny_networks
	RuleUnspecified   Rule = "unspecified"
	RuleLoopback      Rule = "loopback"
	RulePrivate       Rule = "private"
	RuleLinkLocal     Rule = "link_local"
	RuleSharedAddress Rule = "shared" // carrier-grade NAT
	RuleMetadata      Rule = "metadata"
	RuleMulticast     Rule = "multicast"
	RuleBroadcast     Rule = "broadcast"
	RuleDocumentation Rule = "documentation"
	RuleBenchmarking  Rule = "benchmarking"
	RuleTranslation   Rule = "translation" // IPv4 reached through IPv6
	RuleReserved      Rule = "reserved"
)

// words continues the sentence that an address or a host begins.
func (r Rule) words(address bool) string {
	switch r {
	case RuleURL:
		return " is not an absolute http or https URL of a host"
	case RuleScheme:
		return " must be called by http or https"
	case RulePlain:
		return " must be called by https: " + SettingHTTPSOnly + " is set"
	case RuleUserInfo:
		return ": user name and password must not be in the URL"
	case RuleHost:
		return " is not a host name in ASCII; write an international name in its xn-- form"
	case RuleNumeric:
		return " is an address in an unusual spelling; write IPv4 as four decimal numbers"
	case RulePort:
		if address {
			return " has a port that is reserved for another protocol than HTTP"
		}
		return " is given a port that is reserved for another protocol than HTTP"
	case RuleZone:
		return ", an address with a zone, which has no meaning to another machine"
	case RuleDenied:
		return ", in a network that " + SettingDeny + " closes"
	case RuleMetadata:
		return ", a cloud provider's metadata address, which is opened only by naming it alone in " + SettingAllow
	case RuleUnspecified, RuleLoopback, RulePrivate, RuleMulticast, RuleBroadcast, RuleDocumentation, RuleBenchmarking, RuleTranslation, RuleReserved, RuleLinkLocal, RuleSharedAddress:
		return ", " + r.article() + " address, which only " + SettingAllow + " opens"
	default:
		return " is refused"
	}
}

func (r Rule) article() string {
	switch r {
	case RuleUnspecified:
		return "an unspecified"
	case RuleLinkLocal:
		return "a link-local"
	case RuleSharedAddress:
		return "a carrier-grade NAT"
	case RuleTranslation:
		return "an IPv4 translation"
	default:
		return "a " + string(r)
	}
}

type special struct {
	prefix netip.Prefix
	rule   Rule
}

func specials(list ...special) []special { return list }

func in(prefix string, rule Rule) special { return special{netip.MustParsePrefix(prefix), rule} }

// special4 is what of IPv4 is not an ordinary public address: the IANA IPv4 Special-Purpose Address
// Registry (RFC 6890 and its successors), multicast, and what the clouds put beside it. The first
// match names the rule.
var special4 = specials(
	in("0.0.0.0/32", RuleUnspecified),
	in("0.0.0.0/8", RuleReserved),            // this network, RFC 791 section 3.2; Linux takes 0.0.0.0 for loopback
	in("10.0.0.0/8", RulePrivate),            // RFC 1918
	in("100.64.0.0/10", RuleSharedAddress),   // RFC 6598
	in("127.0.0.0/8", RuleLoopback),          // RFC 1122 section 3.2.1.3
	in("169.254.0.0/16", RuleLinkLocal),      // RFC 3927
	in("172.16.0.0/12", RulePrivate),         // RFC 1918
	in("192.0.0.0/24", RuleReserved),         // IETF protocol assignments, RFC 6890 section 2.1
	in("192.0.2.0/24", RuleDocumentation),    // RFC 5737
	in("192.88.99.0/24", RuleTranslation),    // 6to4 relay anycast, withdrawn by RFC 7526
	in("192.168.0.0/16", RulePrivate),        // RFC 1918
	in("198.18.0.0/15", RuleBenchmarking),    // RFC 2544
	in("198.51.100.0/24", RuleDocumentation), // RFC 5737
	in("203.0.113.0/24", RuleDocumentation),  // RFC 5737
	in("224.0.0.0/4", RuleMulticast),         // RFC 5771
	in("255.255.255.255/32", RuleBroadcast),  // RFC 919
	in("240.0.0.0/4", RuleReserved),          // RFC 1112 section 4
)

// special6 is the same for IPv6. What is outside 2000::/3 and not named here is reserved too: only that
// block holds global unicast addresses (RFC 4291 section 2.4 and IANA's registry of it).
var special6 = specials(
	in("::/128", RuleUnspecified),
	in("::1/128", RuleLoopback),
	in("::/96", RuleTranslation),           // IPv4-compatible, withdrawn by RFC 4291 section 2.5.5.1
	in("::ffff:0:0:0/96", RuleTranslation), // IPv4-translated, RFC 2765
	in("64:ff9b:1::/48", RuleTranslation),  // NAT64 for local use, RFC 8215
	in("100::/64", RuleReserved),           // discard only, RFC 6666
	in("2001::/32", RuleTranslation),       // Teredo, RFC 4380
	in("2001:2::/48", RuleBenchmarking),    // RFC 5180
	in("2001::/23", RuleReserved),          // IETF protocol assignments, RFC 2928
	in("2001:db8::/32", RuleDocumentation), // RFC 3849
	in("3fff::/20", RuleDocumentation),     // RFC 9637
	in("fc00::/7", RulePrivate),            // unique local, RFC 4193
	in("fe80::/10", RuleLinkLocal),         // RFC 4291 section 2.5.6
	in("fec0::/10", RulePrivate),           // site-local, withdrawn by RFC 3879
	in("ff00::/8", RuleMulticast),          // RFC 4291 section 2.7
)

// metadata are the addresses at which the clouds hand out credentials to whoever asks from inside.
// Some lie in networks an operator opens for other reasons, one is public, so each must be named alone.
var metadata = [...]netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // most clouds
	netip.MustParseAddr("169.254.170.2"),   // AWS containers
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS pod identity
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("168.63.129.16"),   // Azure's platform
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS pod identity
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("fd00:42::42"),     // Scaleway
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 section 2.1
	sixToFour     = netip.MustParsePrefix("2002::/16")    // RFC 3056 section 2
)

// judge returns the rule that closes an address by default, or "". The address is unmapped.
func judge(a netip.Addr) Rule {
	table := special6
	if a.Is4() {
		table = special4
	}
	for _, s := range table {
		if s.prefix.Contains(a) {
			return s.rule
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) && !nat64.Contains(a) {
		return RuleReserved
	}
	return ""
}

// embedded returns the IPv4 address that an IPv6 address leads to by a translator on the way.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case !a.Is6():
		return netip.Addr{}, false
	case nat64.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	default:
		return netip.Addr{}, false
	}
}
