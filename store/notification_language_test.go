package store

import (
	"strings"
	"testing"
)

func TestLanguage(t *testing.T) {
	t.Parallel()
	in := func(tags string) map[string]string {
		m := make(map[string]string)
		for tag := range strings.FieldsSeq(tags) {
			m[tag] = "in " + tag
		}
		return m
	}
	for _, c := range []struct {
		title, text, force, locale, want string
	}{
		{"de en nl nl-be", "de en nl nl-be", "", "nl-BE", "nl-be"},
		{"de en nl", "de en nl", "", "nl-BE", "nl"},
		{"de en nl", "de en nl", "", "NL", "nl"},
		{"en zh zh-hant", "en zh zh-hant", "", "zh-Hant-TW", "zh-hant"},
		{"de en nl", "de en nl", "", "fr-FR", "en"},
		{"de en nl", "de en nl", "", "", "en"},
		{"de nl", "de nl", "", "fr", "de"},
		{"nl de", "nl de", "", "", "de"},
		{"de en nl", "de en nl", "de", "nl", "de"},
		{"de en nl", "de en nl", "de-AT", "nl", "de"},
		// One that is forced but not there is no reason to speak a language that the device does not.
		{"de en nl", "de en nl", "fr", "nl", "nl"},
		// A prefix of letters is no prefix of the tag.
		{"en n nld", "en n nld", "", "nl", "en"},
		{"nl en", "", "", "nl", "nl"},
		{"", "nl en", "", "nl", "nl"},
		// Half of a notification is worse than another language.
		{"nl en", "en", "", "nl", "en"},
		{"de nl", "nl", "", "fr", "nl"},
		{"nl", "en", "", "nl", "nl"},
		{"nl", "de", "", "fr", "nl"},
		{"", "", "", "nl", ""},
		{"", "", "nl", "", ""},
	} {
		n := &Notification{Title: in(c.title), Text: in(c.text), ForceLocale: c.force}
		for range 5 { // maps have no order; the language has
			if got := n.Language(c.locale); got != c.want {
				t.Errorf("title in %q, text in %q, forced %q: a device of %q gets %q, want %q", c.title, c.text, c.force, c.locale, got, c.want)
			}
		}
	}
	if got := (&Notification{}).Language("-"); got != "" {
		t.Errorf("no texts at all are in %q", got)
	}
}
