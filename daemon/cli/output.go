package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printJSON writes v indented, which both people and programs can read.
func printJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escaped(b.Bytes()))
	return err
}

// escaped writes those characters of a JSON text that a terminal would obey, and JSON allows in a text as they are, by their numbers: the
// same JSON for a program.
func escaped(text []byte) []byte {
	if !bytes.ContainsFunc(text, obeyed) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if obeyed(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

// obeyed are those of commands that stand in JSON as they are; line ends and tabs are between its texts.
func obeyed(r rune) bool { return r >= 0x7f && commands(r) }

// table writes rows in columns under a heading, the same on a terminal and into a pipe. Cells come from the daemon's data: what
// is not printable is replaced, so that a name cannot move the cursor of the terminal.
func (s Streams) table(w io.Writer, heading []string, rows [][]string) error {
	colour := s.Colour(s.Stdout)
	widths := make([]int, len(heading))
	all := append([][]string{heading}, rows...)
	for _, row := range all {
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	for n, row := range all {
		for i, cell := range row {
			padding := ""
			if i < len(row)-1 {
				padding = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
			if colour {
				cell = paint(cell, n == 0)
			}
			b.WriteString(cell + padding)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// paint colours the words that say how something stands: green for well, yellow for not yet, red for not at all.
func paint(cell string, heading bool) string {
	code := ""
	switch {
	case heading:
		code = "1"
	case slices.Contains([]string{"active", "delivered", "done", "closed", "SENT"}, cell):
		code = "32"
	case slices.Contains([]string{"pending", "paused", "retrying", "held", "running", "half-open", "QUEUED"}, cell):
		code = "33"
	case slices.Contains([]string{"dead", "disabled", "suspended", "open", "FAILED"}, cell):
		code = "31"
	default:
		return cell
	}
	return "\x1b[" + code + "m" + cell + "\x1b[0m"
}

// column is one of a table: its heading, and the path of the member that is shown under it.
type column struct{ heading, path string }

// columns reads "ID=id STATE=state", the notation in which commands choose theirs.
func columns(spec string) []column {
	var out []column
	for part := range strings.FieldsSeq(spec) {
		heading, path, _ := strings.Cut(part, "=")
		out = append(out, column{heading, path})
	}
	return out
}

// row picks the cells of a JSON object.
func row(object json.RawMessage, cols []column) ([]string, error) {
	v, err := decode(object)
	if err != nil {
		return nil, err
	}
	cells := make([]string, len(cols))
	for i, c := range cols {
		cells[i] = cell(lookup(v, strings.Split(c.path, ".")))
	}
	return cells, nil
}

// decode reads a JSON value with its numbers as they are written.
func decode(raw json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// lookup follows a path through objects, and through every element of an array.
func lookup(v any, path []string) any {
	if len(path) == 0 {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		return lookup(v[path[0]], path[1:])
	case []any:
		var out []any
		for _, e := range v {
			if found := lookup(e, path); found != nil {
				out = append(out, found)
			}
		}
		return out
	default:
		return nil
	}
}

// cell is a JSON value as text: times to the second, lists joined by commas, objects as JSON.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			return moment(at)
		}
		return v
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = cell(e)
		}
		return strings.Join(parts, ",")
	default:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return ""
		}
		return strings.TrimSuffix(b.String(), "\n")
	}
}

// whole are the members whose value is other people's JSON: it is shown as it is, not taken apart.
var whole = []string{"data", "attributes", "filter"}

// object writes the members of a JSON object, one on each line under the name the API gives it, and below them its lists of
// objects as tables.
func (s Streams) object(w io.Writer, raw json.RawMessage) error {
	var lines [][]string
	var lists []member
	if err := flatten("", raw, &lines, &lists); err != nil {
		return err
	}
	width := 0
	for _, l := range lines {
		width = max(width, utf8.RuneCountInString(l[0]))
	}
	var b strings.Builder
	for _, l := range lines {
		value := printable(l[1])
		if s.Colour(s.Stdout) {
			value = paint(value, false)
		}
		b.WriteString(printable(l[0]) + strings.Repeat(" ", width-utf8.RuneCountInString(l[0])+2) + value + "\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	for _, l := range lists {
		if _, err := io.WriteString(w, "\n"+l.name+":\n"); err != nil {
			return err
		}
		if err := s.elements(w, l.value); err != nil {
			return err
		}
	}
	return nil
}

// elements writes an array of objects as a table with a column for each member that any of them has. Lists of objects inside
// them are left to --json.
func (s Streams) elements(w io.Writer, raw json.RawMessage) error {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	var cols []column
	for _, e := range list {
		var lines [][]string
		var lists []member
		if err := flatten("", e, &lines, &lists); err != nil {
			return err
		}
		for _, l := range lines {
			if c := (column{strings.ToUpper(l[0]), l[0]}); !slices.Contains(cols, c) {
				cols = append(cols, c)
			}
		}
	}
	return s.rows(w, list, cols)
}

// rows writes a table of JSON objects.
func (s Streams) rows(w io.Writer, list []json.RawMessage, cols []column) error {
	heading := make([]string, len(cols))
	for i, c := range cols {
		heading[i] = c.heading
	}
	rows := make([][]string, len(list))
	for i, raw := range list {
		var err error
		if rows[i], err = row(raw, cols); err != nil {
			return err
		}
	}
	return s.table(w, heading, rows)
}

// member is a member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members returns those of a JSON object in their order, which encoding/json has no other way to tell.
func members(raw json.RawMessage) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var out []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{}
		m.name, _ = name.(string)
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// flatten adds a line for each member of an object, those of objects in it under their path, and sets lists of objects aside.
func flatten(prefix string, raw json.RawMessage, lines *[][]string, lists *[]member) error {
	list, err := members(raw)
	if err != nil {
		return err
	}
	for _, m := range list {
		name := prefix + m.name
		switch {
		case slices.Contains(whole, m.name):
			*lines = append(*lines, []string{name, string(m.value)})
		case m.value[0] == '{':
			if err := flatten(name+".", m.value, lines, lists); err != nil {
				return err
			}
		case bytes.HasPrefix(m.value, []byte("[{")):
			*lists = append(*lists, member{name, m.value})
		default:
			v, err := decode(m.value)
			if err != nil {
				return err
			}
			*lines = append(*lines, []string{name, cell(v)})
		}
	}
	return nil
}

func printable(s string) string {
	s = strings.TrimRight(s, "\r\n") // with which the texts of programs end
	if s == "" {
		return "-"
	}
	return harmless(s)
}

// harmless replaces what a terminal would obey, or what turns the order of what stands around it. U+FFFD is what invalid bytes decode
// to.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if commands(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// commands says whether a character tells a terminal what to do: C0, DEL, C1, and the embeddings, overrides and isolates of bidirectional text.
func commands(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || unicode.Is(unicode.Bidi_Control, r) && r >= '\u202a'
}

// moment prints a time to the second, in UTC.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
