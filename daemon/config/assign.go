package config

import (
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// given is a value as it was given, by the file or by a variable.
type given struct {
	form form
	text string  // of a scalar
	list []given // of a list
	line int     // in the file, 0 for a variable
}

// form is what YAML took a value for. A variable has no types and is loose: it fits everything.
type form int

const (
	formOther form = iota
	formNull
	formText
	formInt
	formFloat
	formBool
	formList
	formLoose
)

// flaw is a problem of a value, or of one element of it.
type flaw struct {
	line    int    // 0 for that of the key
	suffix  string // "[2]" for the third element
	problem string
}

func flawed(problem string) []flaw { return []flaw{{problem: problem}} }

// fromNode takes a value from the file.
func fromNode(n *yaml.Node) given {
	line := n.Line
	n = resolve(n)
	g := given{text: n.Value, line: line}
	switch n.Kind {
	case yaml.SequenceNode:
		g.form = formList
		for _, e := range n.Content {
			// One level: a list inside a list is of no form that a key takes.
			element := resolve(e)
			g.list = append(g.list, given{form: scalarForm(element), text: element.Value, line: e.Line})
		}
	default:
		g.form = scalarForm(n)
	}
	return g
}

func scalarForm(n *yaml.Node) form {
	if n.Kind != yaml.ScalarNode {
		return formOther
	}
	switch n.Tag {
	case "!!null":
		return formNull
	case "!!str":
		return formText
	case "!!int":
		return formInt
	case "!!float":
		return formFloat
	case "!!bool":
		return formBool
	default:
		return formOther
	}
}

// fromText takes a value from a variable; commas separate the elements of a list.
func fromText(s string) given {
	g := given{form: formLoose, text: s}
	for part := range strings.SplitSeq(s, ",") {
		g.list = append(g.list, given{form: formLoose, text: strings.TrimSpace(part)})
	}
	return g
}

func (g given) is(forms ...form) bool {
	return g.form == formLoose || slices.Contains(forms, g.form)
}

// assign sets v to g, or returns what is wrong with g and leaves v as it was.
func assign(v reflect.Value, g given) []flaw {
	switch v.Interface().(type) {
	case []netip.Prefix:
		return assignNetworks(v, g)
	case Schedule:
		return assignSchedule(v, g)
	}
	if g.form == formNull {
		return flawed("has no value; give one, or remove the line to get the default")
	}
	switch v.Interface().(type) {
	case string, Secret:
		return assignText(v, g)
	case time.Duration:
		d, ok := parseDuration(g.text)
		if !ok || !g.is(formText, formInt) {
			return flawed(wantDuration)
		}
		v.SetInt(int64(d))
	case Bytes:
		n, ok := parseBytes(g.text)
		if !ok || !g.is(formText, formInt) {
			return flawed(wantBytes)
		}
		v.SetInt(int64(n))
	case int:
		n, err := strconv.Atoi(g.text)
		if err != nil || !g.is(formInt) {
			return flawed(wantInt)
		}
		v.SetInt(int64(n))
	case float64:
		n, err := strconv.ParseFloat(g.text, 64)
		if err != nil || !g.is(formInt, formFloat) || math.IsNaN(n) || math.IsInf(n, 0) {
			return flawed(wantFloat)
		}
		v.SetFloat(n)
	case bool:
		if !g.is(formBool) || g.text != "true" && g.text != "false" {
			return flawed(wantBool)
		}
		v.SetBool(g.text == "true")
	default:
		// A new type of field without a reader here; every key is read by a test.
		return flawed("cannot be set: its type " + v.Type().String() + " has no reader")
	}
	return nil
}

// assignText sets text. Line ends and control characters are in no path, address or token, and would
// break the lines of a log.
func assignText(v reflect.Value, g given) []flaw {
	switch {
	case g.form == formList || g.form == formOther:
		return flawed("must be text, a single value")
	case !g.is(formText):
		return flawed(wantText)
	case strings.ContainsFunc(g.text, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return flawed("must not contain control characters or line ends")
	case strings.TrimSpace(g.text) != g.text:
		return flawed("must not begin or end with a space")
	}
	v.SetString(g.text)
	return nil
}

func assignNetworks(v reflect.Value, g given) []flaw {
	switch {
	case g.form == formNull:
		return nil
	case !g.is(formList):
		return flawed("must be a list, such as [10.0.0.0/8, 192.168.1.20]")
	case len(g.list) > maxNetworks:
		return flawed("has more than 1000 entries")
	}
	var networks []netip.Prefix
	var flaws []flaw
	for i, e := range g.list {
		p, problem := parseNetwork(e.text)
		if !e.is(formText) {
			problem = wantNetwork
		}
		if problem != "" {
			flaws = append(flaws, flaw{e.line, "[" + strconv.Itoa(i) + "]", problem})
			continue
		}
		networks = append(networks, p)
	}
	if flaws == nil {
		v.Set(reflect.ValueOf(networks))
	}
	return flaws
}

func assignSchedule(v reflect.Value, g given) []flaw {
	if g.is(formText) && knownSchedule(g.text) {
		v.Set(reflect.ValueOf(Schedule{Name: g.text}))
		return nil
	}
	switch {
	case !g.is(formList):
		return flawed(wantSchedule)
	case len(g.list) == 0:
		return flawed("needs at least one wait")
	case len(g.list) > maxWaits:
		return flawed("has more than 50 waits")
	}
	var s Schedule
	var flaws []flaw
	for i, e := range g.list {
		w, problem := parseWait(e.text)
		if !e.is(formText, formInt) {
			problem = wantDuration
		}
		if problem != "" {
			flaws = append(flaws, flaw{e.line, "[" + strconv.Itoa(i) + "]", problem})
			continue
		}
		s.Waits = append(s.Waits, w)
	}
	if flaws == nil {
		v.Set(reflect.ValueOf(s))
		return nil
	}
	if g.form == formLoose {
		return flawed(wantSchedule)
	}
	return flaws
}
