package egress

import (
	"net/netip"
	"strings"
)

// The settings that a DeniedError may name.
const (
	// SettingAllow opens a special network.
	SettingAllow = "egress.allow_networks"
	// SettingDeny is the operator's own list of closed networks.
	SettingDeny = "egress.deny_networks"
	// SettingHTTPSOnly forbids plain HTTP.
	SettingHTTPSOnly = "egress.https_only"
)

// DeniedError is a call that the policy does not let out. Its text is fit for the person who gave the
// URL: it says what is refused and which setting of the operator would open it. It holds the host and
// the address, never user info, path or query.
type DeniedError struct {
	// Host is the host of the URL as given, or the name that was dialled; empty for CheckAddr.
	Host string
	// Addr is the address that was refused; not valid when the URL was refused for another reason.
	Addr netip.AddrPort
	// Rule is why, from a closed set of a few dozen lower-case words, such as "loopback", "private" or
	// "port": fit for a metric label.
	Rule Rule
	// Setting is the configuration key that decides; empty when no setting opens it.
	Setting string
}

// Error prints such as "hooks.example.com is 10.0.0.7:443, a private address, which only
// egress.allow_networks opens".
func (e *DeniedError) Error() string {
	var b strings.Builder
	switch {
	case e.Addr.IsValid() && e.Host != "" && e.Host != e.Addr.Addr().String():
		b.WriteString(e.Host + " is " + e.Addr.String())
	case e.Addr.IsValid():
		b.WriteString(e.Addr.String())
	case e.Host != "":
		b.WriteString(e.Host)
	default:
		b.WriteString("the URL")
	}
	b.WriteString(e.Rule.words(e.Addr.IsValid()))
	return b.String()
}
