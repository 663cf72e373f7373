package config

import (
	"fmt"
	"io"
	"log/slog"
)

// hidden is what every printing of a Secret shows.
const hidden = "<secret>"

// Secret is text that no printer, encoder or logger shows: all of them give "<secret>", or nothing
// when it is empty, so that one can see whether it is set. Reveal is the only way to the text.
type Secret string

// Reveal returns the text itself. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string { return string(s) }

// String returns "<secret>", or the empty string when the secret is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format prints String for every verb, also those that would bypass it, such as %x.
func (s Secret) Format(f fmt.State, _ rune) {
	// A fmt.State has nowhere to report a failed write; fmt itself drops it too.
	_, _ = io.WriteString(f, s.String())
}

// MarshalText returns String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON returns String as a JSON string.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// MarshalYAML returns String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue returns String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
