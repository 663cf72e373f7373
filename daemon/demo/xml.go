package demo

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
)

// element is an element of any name, as encoding/xml reads it.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []element  `xml:",any"`
}

// member is the start of an element that is the member of an object, as it should be for its name. The names of the demo
// are ASCII; of them XML forbids the ones with a space.
func member(name string) string {
	if strings.Contains(name, " ") {
		return "field name=" + name
	}
	return name
}

// start is the element's name, with its attributes.
func (e *element) start() string {
	words := []string{e.XMLName.Local}
	for _, a := range e.Attrs {
		words = append(words, a.Name.Local+"="+a.Value)
	}
	return strings.Join(words, " ")
}

// carries checks that the element says what the JSON says, no more and no less.
func (e *element) carries(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err
	}
	return e.says(v)
}

// says compares the element with one value. There is no null in what the demo publishes, and no array within an array.
func (e *element) says(v any) error {
	object, ok := v.(map[string]any)
	if !ok {
		// A number is spelt as in the JSON: it is a string here, too.
		if want := fmt.Sprint(v); len(e.Children) > 0 || e.Text != want {
			return fmt.Errorf("<%s> is %q with %d elements, it should be %q", e.start(), e.Text, len(e.Children), want)
		}
		return nil
	}
	if strings.TrimSpace(e.Text) != "" {
		return fmt.Errorf("<%s> has the text %q, it should have elements", e.start(), e.Text)
	}
	found := map[string][]element{}
	for _, c := range e.Children {
		found[c.start()] = append(found[c.start()], c)
	}
	for name, value := range object {
		start := member(name)
		values, many := value.([]any)
		if !many {
			values = []any{value}
		}
		if len(found[start]) != len(values) {
			return fmt.Errorf("<%s> is there %d time(s), it should be %d", start, len(found[start]), len(values))
		}
		for i, value := range values {
			if err := found[start][i].says(value); err != nil {
				return err
			}
		}
		delete(found, start)
	}
	var errs []error
	for start := range found {
		errs = append(errs, fmt.Errorf("<%s> is in no member's place", start))
	}
	return errors.Join(errs...)
}
