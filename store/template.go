package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// The marks of a place in a text of a Template.
const (
	placeBegin = "{{"
	placeEnd   = "}}"
)

// CheckTemplateText judges the places {{path}} of a text. The error says what is wrong and what would be right, for whoever wrote it.
func CheckTemplateText(text string) error {
	return eachPlace(text, func(string) {}, func(Path) {})
}

// eachPlace hands on the parts of a text in their order: what stands there as it is, and the paths of its places.
func eachPlace(text string, plain func(string), place func(Path)) error {
	for {
		before, rest, ok := strings.Cut(text, placeBegin)
		plain(before)
		if !ok {
			return nil
		}
		name, after, ok := strings.Cut(rest, placeEnd)
		if !ok {
			return errors.New("has a {{ without its }}; a place for a value is written {{customer.name}}")
		}
		path, err := parsePath(strings.TrimSpace(name))
		if err != nil {
			return fmt.Errorf("has the place {{%s}}, which %w", clipped(name), err)
		}
		place(path)
		text = after
	}
}

// Fill makes the notification for an event with that data, and says whom it is for. In the place of a path stands the string that it leads
// to, a number or a boolean as JSON has it, and nothing where it leads nowhere or to anything else; of several values the first
// counts. A text of which nothing is left is left out. An error says why nobody can be notified: the data is no JSON object, or
// names no contact.
func (t *Template) Fill(data []byte) (contact string, n Notification, err error) {
	var d Data
	if err := d.Read(data); err != nil {
		return "", Notification{}, err
	}
	fill := func(text string) string {
		var b strings.Builder
		// The text was checked when the template was made; what is wrong with it all the same stays empty.
		_ = eachPlace(text, func(s string) { b.WriteString(s) }, func(p Path) { b.WriteString(d.textAt(&p)) })
		return b.String()
	}
	contact = fill(t.Contact)
	if err := CheckContact(contact); err != nil {
		return "", Notification{}, fmt.Errorf("the contact of the notification, %s, %w", t.Contact, err)
	}
	n = t.Notification
	n.Title, n.Text, n.Data = filled(n.Title, fill), filled(n.Text, fill), filled(n.Data, fill)
	return contact, n, nil
}

// filled returns the texts with their places filled. Those that come out blank are left out, as there must be none.
func filled(texts map[string]string, fill func(string) string) map[string]string {
	if texts == nil {
		return nil
	}
	all := make(map[string]string, len(texts))
	for name, text := range texts {
		if s := fill(text); strings.TrimSpace(s) != "" {
			all[name] = s
		}
	}
	return all
}

// textAt is what a path leads to, as text.
func (d *Data) textAt(p *Path) string {
	at := -1
	if p.exact {
		at = d.find(p.names)
	} else {
		for end := range d.ends(0, p.names) {
			at = end
			break
		}
	}
	if at < 0 {
		return ""
	}
	switch n := &d.nodes[at]; n.kind {
	case jsontext.KindString, jsontext.KindNumber:
		return string(n.text)
	case jsontext.KindTrue, jsontext.KindFalse:
		return strconv.FormatBool(n.kind == jsontext.KindTrue)
	default: // nothing that people could read
		return ""
	}
}
