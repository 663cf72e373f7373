package store

import (
	"maps"
	"slices"
	"strings"
)

// Language chooses the language in which the notification is shown on a device of that locale (a language tag, BCP 47, or ""): its title is
// Title[Language], its text Text[Language]. It is ForceLocale when there is one, else the locale, each by its longest prefix that there is
// (RFC 4647, section 3.4: nl-BE, then nl), else English, else the first in the order of the tags. A language that has a title but no
// text, where others have both, or the other way round, is taken only when there is none that is whole. "" when there is neither title nor text.
func (n *Notification) Language(locale string) string {
	for _, has := range [...]func(string) bool{n.whole, n.partly} {
		for _, tag := range [...]string{n.ForceLocale, locale, "en"} {
			for tag = strings.ToLower(tag); tag != ""; tag = tag[:max(strings.LastIndexByte(tag, '-'), 0)] {
				if has(tag) {
					return tag
				}
			}
		}
		for _, texts := range [...]map[string]string{n.Title, n.Text} {
			for _, tag := range slices.Sorted(maps.Keys(texts)) {
				if has(tag) {
					return tag
				}
			}
		}
	}
	return ""
}

// whole says whether nothing that there is in any language is missing in this one.
func (n *Notification) whole(tag string) bool {
	_, title := n.Title[tag]
	_, text := n.Text[tag]
	return (title || text) && (title || len(n.Title) == 0) && (text || len(n.Text) == 0)
}

// partly says whether there is anything in this language.
func (n *Notification) partly(tag string) bool {
	_, title := n.Title[tag]
	_, text := n.Text[tag]
	return title || text
}
