package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Fields are the flags for what an object of the API has and the command has no flag for.
type Fields struct {
	File string   `placeholder:"FILE" help:"Begin with the JSON object in FILE ('-' for standard input), as the API takes it; the flags change it."`
	Set  []string `sep:"none" placeholder:"FIELD=VALUE" help:"Set any field of the API by its path (a.b=5 is {\"a\":{\"b\":5}}); repeat for several. What is JSON is taken as JSON (null removes), anything else is text."`
}

// fields gathers the members of a request from a command. Its flags name theirs in a tag: api:"delivery.rateLimit" is
// {"delivery":{"rateLimit":…}}. A second tag says how a flag's text is to be read:
//
//	as:"json"    the text is JSON            as:"text"    the text names a file, whose content is the value
//	as:"time"    an age or a time            as:"object"  the text names a file, whose content is JSON
//	as:"name"    one name, else a list       as:"base64"  the text names a file, whose content is sent in base64
//	                                         as:"lines"   the text names a file, whose lines are the list
//
// A flag that was not given is no member. What Fields say goes before and after the flags.
func fields(s Streams, command any) (map[string]any, error) {
	out := make(map[string]any)
	var set []string
	err := walk(reflect.ValueOf(command), func(f reflect.StructField, v reflect.Value) error {
		switch own := v.Interface().(type) {
		case Fields:
			set = own.Set
			return readObject(s, own.File, out)
		default:
			return nil
		}
	})
	if err != nil {
		return nil, err
	}
	err = walk(reflect.ValueOf(command), func(f reflect.StructField, v reflect.Value) error {
		path := f.Tag.Get("api")
		if path == "" || v.IsZero() {
			return nil
		}
		value, err := read(s, f.Tag.Get("as"), v)
		if err != nil {
			return Usage(fmt.Errorf("--%s: %w", flagName(f), err))
		}
		return put(out, path, value)
	})
	if err != nil {
		return nil, err
	}
	for _, text := range set {
		path, value, ok := strings.Cut(text, "=")
		if !ok || path == "" {
			return nil, Usage(fmt.Errorf("--set %s: write it as --set field=value", text))
		}
		var v any = value
		if json.Valid([]byte(value)) {
			v = json.RawMessage(value)
		}
		if err := put(out, path, v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// flagName is how kong calls the flag of a field.
func flagName(f reflect.StructField) string {
	if name := f.Tag.Get("name"); name != "" {
		return name
	}
	var b strings.Builder
	for i, r := range f.Name {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// parameters are the fields of a command as the query of a list.
func parameters(s Streams, command any) (url.Values, error) {
	members, err := fields(s, command)
	q := make(url.Values)
	for name, value := range members {
		q.Set(name, fmt.Sprint(value))
	}
	return q, err
}

// walk visits the fields of a struct, and of those embedded in it after they themselves.
func walk(v reflect.Value, visit func(reflect.StructField, reflect.Value) error) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if err := visit(f, v.Field(i)); err != nil {
			return err
		}
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if err := walk(v.Field(i), visit); err != nil {
				return err
			}
		}
	}
	return nil
}

func read(s Streams, as string, v reflect.Value) (any, error) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch as {
	case "json":
		if !json.Valid([]byte(v.String())) {
			return nil, errors.New("not JSON")
		}
		return json.RawMessage(v.String()), nil
	case "time":
		return past(v.String(), time.Now())
	case "name":
		// A schedule of waits begins with a digit, its name with a letter.
		if list, ok := reflect.TypeAssert[[]string](v); ok && len(list) == 1 && (list[0] == "" || list[0][0] > '9') {
			return list[0], nil
		}
		return v.Interface(), nil
	case "text", "object", "base64", "lines":
		content, err := readFile(s, v.String())
		switch {
		case err != nil:
			return nil, err
		case as == "text": // editors end a file with a newline
			return strings.TrimRight(string(content), "\r\n"), nil
		case as == "lines":
			return slices.DeleteFunc(strings.Split(strings.ReplaceAll(string(content), "\r", ""), "\n"), func(l string) bool { return l == "" }), nil
		case as == "base64":
			return base64.StdEncoding.EncodeToString(content), nil
		case !json.Valid(content):
			return nil, fmt.Errorf("%s does not hold JSON", v.String())
		}
		return json.RawMessage(content), nil
	default:
		return v.Interface(), nil
	}
}

// put sets the member that a path leads to, and makes the objects on the way.
func put(object map[string]any, path string, value any) error {
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		object[first] = value
		return nil
	}
	inner, ok := object[first].(map[string]any)
	if !ok {
		if object[first] != nil {
			return Usage(fmt.Errorf("%s is not an object, so it has no %s", first, rest))
		}
		inner = make(map[string]any)
		object[first] = inner
	}
	return put(inner, rest, value)
}

// readFile reads a whole file, or standard input when its name is "-".
func readFile(s Streams, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(s.Stdin)
	}
	return os.ReadFile(name)
}

// open is readFile for what may be large. The caller calls done; size is 0 when it is not known.
func open(s Streams, name string) (in io.Reader, size int64, done func(), err error) {
	if name == "-" {
		return s.Stdin, 0, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, nil, Usage(err)
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, func() { _ = f.Close() }, nil
}

// readObject adds the members of the JSON object in a file to out; no name adds nothing.
func readObject(s Streams, name string, out map[string]any) error {
	if name == "" {
		return nil
	}
	content, err := readFile(s, name)
	if err != nil {
		return Usage(fmt.Errorf("--file: %w", err))
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if err := d.Decode(&out); err != nil || d.More() {
		return Usage(fmt.Errorf("--file %s: it has to hold one JSON object and nothing else", name))
	}
	return nil
}

// past reads an age, which means that long ago, or a date, which means its beginning in UTC, or a time.
func past(text string, now time.Time) (string, error) {
	if age, ok := parseAge(text); ok && age >= 0 {
		return now.Add(-age).UTC().Format(time.RFC3339Nano), nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.Format(time.RFC3339), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at.UTC().Format(time.RFC3339Nano), nil
	}
	return "", fmt.Errorf("%s is not an age such as 2h or 7d, a date such as 2026-11-21, or a time such as 2026-11-21T12:00:00Z", text)
}
