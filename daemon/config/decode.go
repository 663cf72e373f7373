package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// decoder fills a Config from a file and the environment and remembers where each value came from,
// so that a problem found later still has its line.
type decoder struct {
	name string
	root reflect.Value
	keys []key
	errs Errors

	lines map[string]int    // of each key the file has, sections too
	vars  map[string]string // the variable of each key the environment has
	bad   map[string]bool   // keys with a problem: their values are not judged again
}

func newDecoder(name string, c *Config) *decoder {
	return &decoder{
		name:  name,
		root:  reflect.ValueOf(c).Elem(),
		keys:  keys(),
		lines: map[string]int{},
		vars:  map[string]string{},
		bad:   map[string]bool{},
	}
}

// refuse records a problem of a key at the place where its value was given.
func (d *decoder) refuse(path, problem string) {
	line := d.lines[path]
	if d.vars[path] != "" {
		line = 0
	}
	d.refuseAt(line, path, problem)
}

func (d *decoder) refuseAt(line int, path, problem string) {
	d.bad[path] = true
	d.errs = append(d.errs, Error{File: d.name, Line: line, Path: path, Variable: d.vars[path], Problem: problem})
}

// file decodes the YAML text. An empty one, or one with comments only, sets nothing.
func (d *decoder) file(data []byte) {
	if len(data) > maxFileBytes {
		d.refuseAt(0, "", "is larger than 1MiB, which no configuration is")
		return
	}
	in := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := in.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			d.syntax(err)
		}
		return
	}
	switch err := in.Decode(&second); {
	case err == nil:
		d.refuseAt(second.Line, "", "a second document begins here; the configuration is one document")
	case !errors.Is(err, io.EOF):
		d.syntax(err)
	}
	if root := doc.Content[0]; !isNull(root) {
		d.section(root, "", d.root.Type())
	}
}

// yamlError takes the line out of the library's messages, which have it only as text.
var yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)

// quotedWord finds the one thing of the file that the library repeats in its messages, the name of an
// unknown anchor: an unquoted token that begins with an asterisk reads as one.
var quotedWord = regexp.MustCompile(`'[^', ]{2,}'`)

func (d *decoder) syntax(err error) {
	line, problem := 0, "not well-formed"
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		// The pattern admits digits only, and a line number that overflows is no line number.
		line, _ = strconv.Atoi(m[1])
		problem = quotedWord.ReplaceAllString(m[2], "(not shown)")
	}
	d.refuseAt(line, "", "not valid YAML here or a little further down: "+problem)
}

// section decodes a mapping into the struct type t, whose keys all begin with prefix.
func (d *decoder) section(n *yaml.Node, prefix string, t reflect.Type) {
	line := n.Line
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		d.refuseAt(line, strings.TrimSuffix(prefix, "."), "must be a group of keys: "+strings.Join(names(t), ", "))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		d.entry(n.Content[i], n.Content[i+1], prefix, t)
	}
}

// entry decodes one key of a section with its value.
func (d *decoder) entry(name, value *yaml.Node, prefix string, t reflect.Type) {
	if name.Kind != yaml.ScalarNode || name.Tag == "!!merge" {
		d.refuseAt(name.Line, strings.TrimSuffix(prefix, "."), "a key must be a plain word; merge keys and nested keys are not supported")
		return
	}
	path := prefix + name.Value
	f, known := field(t, name.Value)
	if !known {
		d.unknown(name, prefix, t)
		return
	}
	if first, twice := d.lines[path]; twice {
		d.refuseAt(name.Line, path, "is given twice, first on line "+strconv.Itoa(first))
		return
	}
	d.lines[path] = name.Line
	if section(f.Type) {
		// A section whose every line is commented out is an empty one.
		if !isNull(value) {
			d.section(value, path+".", f.Type)
		}
		return
	}
	i := slices.IndexFunc(d.keys, func(k key) bool { return k.path == path })
	target := d.root.FieldByIndex(d.keys[i].index)
	for _, flaw := range assign(target, fromNode(value)) {
		line := flaw.line
		if line == 0 {
			line = name.Line
		}
		d.bad[path] = true
		d.refuseAt(line, path+flaw.suffix, flaw.problem)
	}
}

// unknown refuses a key that Config does not have. The name is shown only while it is too short to be
// a token, see minToken: a forgotten space after the colon makes a key of both.
func (d *decoder) unknown(name *yaml.Node, prefix string, t reflect.Type) {
	path := prefix + name.Value
	if len(name.Value) >= minToken || strings.ContainsFunc(name.Value, notInKey) {
		path = prefix + "?"
	}
	problem := "unknown key"
	switch near := suggest(name.Value, names(t)); {
	case strings.Contains(name.Value, ":"):
		problem += "; is there no space after its colon?"
	case near != "":
		problem += "; did you mean " + prefix + near + "?"
	case d.elsewhere(prefix+name.Value) != "":
		problem += "; did you mean " + d.elsewhere(prefix+name.Value) + "?"
	}
	// Not refuseAt: two unknown keys may well share the shown path.
	d.errs = append(d.errs, Error{File: d.name, Line: name.Line, Path: path, Problem: problem})
}

// notInKey says whether r cannot stand in the name of a key.
func notInKey(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
		return false
	default:
		return true
	}
}

// elsewhere finds the key for a name that stands in the wrong section, or that was written with dots
// where the file nests.
func (d *decoder) elsewhere(path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	found := ""
	for _, k := range d.keys {
		if k.path == path {
			return strings.ReplaceAll(k.path, ".", ": ") + ", one level per line"
		}
		if k.path == last || strings.HasSuffix(k.path, "."+last) {
			if found != "" {
				return ""
			}
			found = k.path
		}
	}
	return found
}

// environment applies the variables, which win over the file. Empty ones count as unset.
func (d *decoder) environment(env []string) {
	given := map[string]string{}
	for _, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if ok && strings.HasPrefix(name, variablePrefix) {
			given[name] = value
		}
	}
	for _, k := range d.keys {
		value := given[k.variable]
		delete(given, k.variable)
		if value == "" {
			continue
		}
		d.vars[k.path] = k.variable
		delete(d.bad, k.path)
		for _, flaw := range assign(d.root.FieldByIndex(k.index), fromText(value)) {
			d.bad[k.path] = true
			d.errs = append(d.errs, Error{File: d.name, Path: k.path, Variable: k.variable, Problem: flaw.problem})
		}
	}
	// The command line of the same binary is told of a daemon elsewhere by these.
	for _, name := range []string{"HERALD_URL", "HERALD_TOKEN", "HERALD_CA", "HERALD_CERT", "HERALD_KEY"} {
		delete(given, name)
	}
	var variables []string
	for _, k := range d.keys {
		variables = append(variables, k.variable)
	}
	for _, name := range sortedKeys(given) {
		if given[name] == "" {
			continue
		}
		problem := "unknown variable"
		if serviceLink.MatchString(name) {
			problem += "; Kubernetes sets it for a service called herald: set enableServiceLinks: false in the pod"
		} else if near := suggest(name, variables); near != "" {
			problem += "; did you mean " + near + "?"
		}
		d.errs = append(d.errs, Error{File: d.name, Variable: name, Problem: problem})
	}
}

// serviceLink matches the variables that Kubernetes puts into every pod for a service of our name.
var serviceLink = regexp.MustCompile(`^HERALD_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func sortedKeys(m map[string]string) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// names returns the keys of a section in the order of the struct.
func names(t reflect.Type) []string {
	var list []string
	for f := range t.Fields() {
		if name := f.Tag.Get("yaml"); name != "" {
			list = append(list, name)
		}
	}
	return list
}

// field finds the field of t for a key of the file.
func field(t reflect.Type, name string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if tag := f.Tag.Get("yaml"); tag != "" && tag == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// resolve follows an alias to what it stands for. The parser makes no alias of an alias, and a value
// here has at most one level of list, so that no expansion can grow beyond the file.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// isNull says whether a key has nothing behind its colon.
func isNull(n *yaml.Node) bool {
	n = resolve(n)
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}
