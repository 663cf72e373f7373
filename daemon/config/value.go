package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes.
type Bytes int64

// String returns the size with the largest of the units KiB, MiB, GiB and TiB that divides it, as
// the configuration file takes it.
func (b Bytes) String() string {
	for _, u := range units {
		if b >= u.bytes && b%u.bytes == 0 {
			return strconv.FormatInt(int64(b/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

type unit struct {
	name  string
	bytes Bytes
}

// units are the size suffixes, largest first.
var units = [...]unit{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// Schedule is a retry schedule: one of the built-in ones by name, or a list of waits. Exactly one of
// the two is set.
type Schedule struct {
	// Name is "standard", "day" or "quick".
	Name string
	// Waits are the pauses before the second attempt, the third and so on, each 1s to 30 days, at most
	// 50.
	Waits []time.Duration
}

// String returns the name, or the waits as Go durations separated by commas ("5s,5m,48h").
func (s Schedule) String() string {
	if s.Name != "" {
		return s.Name
	}
	waits := make([]string, len(s.Waits))
	for i, w := range s.Waits {
		waits[i] = short(w)
	}
	return strings.Join(waits, ",")
}

// short prints a duration without the zero minutes and seconds that Go appends.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Limits of a list. The shortest wait keeps a dead receiver from being hammered;
// the longest is the default retention of what is dead.
const (
	maxWaits    = 50
	shortest    = time.Second
	longest     = 30 * 24 * time.Hour
	maxNetworks = 1000
)

// scheduleNames are the built-in schedules.
var scheduleNames = [...]string{"standard", "day", "quick"}

// The problems below are complete sentences of what would be right. None holds the value.
const (
	wantDuration = "must be a duration with its unit, such as 500ms, 15s, 5m, 2h, 7d or 1d12h"
	wantBytes    = "must be a size in bytes, in whole numbers, such as 65536, 64KiB, 16MiB or 2GiB"
	wantInt      = "must be a whole number"
	wantFloat    = "must be a number, such as 0.1"
	wantBool     = "must be true or false"
	wantText     = "must be text; put quotes around it"
	wantNetwork  = "must be a network such as 10.0.0.0/8 or fd00::/8, or a single address"
	wantSchedule = "must be standard, day, quick or a list of waits such as [5s, 5m, 1h]"
)

// parseDuration reads a Go duration that may begin with whole days, which Go does not have.
func parseDuration(s string) (time.Duration, bool) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		d, err := time.ParseDuration(s)
		return d, err == nil
	}
	const day = 24 * time.Hour
	n, err := strconv.ParseUint(days, 10, 32)
	if err != nil || n > uint64(math.MaxInt64/int64(day)) {
		return 0, false
	}
	d := time.Duration(n) * day
	if rest == "" {
		return d, true
	}
	// A sign here would make 1d-12h a valid spelling of twelve hours.
	if rest[0] < '0' || rest[0] > '9' {
		return 0, false
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more > math.MaxInt64-d {
		return 0, false
	}
	return d + more, true
}

// parseBytes reads a whole number with an optional unit.
func parseBytes(s string) (Bytes, bool) {
	factor := Bytes(1)
	for _, u := range units {
		if digits, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = digits, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || Bytes(n) > math.MaxInt64/factor {
		return 0, false
	}
	return Bytes(n) * factor, true
}

// parseNetwork reads a prefix or a single address and returns it in one canonical form: masked, an
// IPv4-mapped one as IPv4. The problem is empty when it is well.
func parseNetwork(s string) (netip.Prefix, string) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return netip.Prefix{}, wantNetwork
		case a.Zone() != "":
			return netip.Prefix{}, wantNetwork + ", without a zone"
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, wantNetwork
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Sprintf("has bits set beyond its length; the network is %s, the single address has no length", p.Masked())
	}
	return p, ""
}

// parseWait reads one element of a schedule.
func parseWait(s string) (time.Duration, string) {
	d, ok := parseDuration(s)
	switch {
	case !ok:
		return 0, wantDuration
	case d < shortest || d > longest:
		return 0, "must be from 1s to 30d"
	}
	return d, ""
}

// knownSchedule says whether name is built in.
func knownSchedule(name string) bool { return slices.Contains(scheduleNames[:], name) }
