package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// key is one setting: a leaf of Config.
type key struct {
	path     string // as in the file, sections joined by dots
	variable string // as in the environment
	index    []int  // of the field, for reflect.Value.FieldByIndex
	reload   bool
}

// variablePrefix begins the name of every variable that is ours.
const variablePrefix = "HERALD_"

// keys returns every setting in the order of the struct. It walks the types, so that a field added
// to Config is a key of the file, of the environment and of the tests without a second list.
func keys() []key {
	return walk(reflect.TypeFor[Config](), "", nil)
}

func walk(t reflect.Type, prefix string, index []int) []key {
	var list []key
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		path := prefix + name
		at := append(slices.Clone(index), f.Index...)
		if section(f.Type) {
			list = append(list, walk(f.Type, path+".", at)...)
			continue
		}
		list = append(list, key{
			path:     path,
			variable: variablePrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_")),
			index:    at,
			reload:   f.Tag.Get("reload") == "yes",
		})
	}
	return list
}

// section says whether t groups keys rather than being the value of one.
func section(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Schedule]()
}

// Keys returns the path of every setting, such as "listen.address", in the order of the example file.
func Keys() []string {
	var paths []string
	for _, k := range keys() {
		paths = append(paths, k.path)
	}
	return paths
}

// NeedsRestart returns the paths of the settings that differ between the two configurations and that
// a running daemon cannot take over; empty when a reload can apply everything. It names keys only,
// never values.
func NeedsRestart(before, after *Config) []string {
	a, b := reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem()
	var paths []string
	for _, k := range keys() {
		if !k.reload && !same(a.FieldByIndex(k.index), b.FieldByIndex(k.index)) {
			paths = append(paths, k.path)
		}
	}
	return paths
}

// same compares two values of one key. A nil list and an empty one mean the same.
func same(a, b reflect.Value) bool {
	switch x := a.Interface().(type) {
	case []netip.Prefix:
		return slices.Equal(x, b.Interface().([]netip.Prefix))
	case Schedule:
		y := b.Interface().(Schedule)
		return x.Name == y.Name && slices.Equal[[]time.Duration](x.Waits, y.Waits)
	default:
		return a.Equal(b)
	}
}

// suggest returns the candidate that name was most likely meant to be, or "". A slip is at most a
// third of the name, so that a stranger is not taken for a typing error.
func suggest(name string, candidates []string) string {
	// Long names cost time quadratic in their length and are no slips.
	if len(name) > 64 {
		return ""
	}
	normal := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	best, least := "", max(1, len(normal)/3)+1
	for _, c := range candidates {
		if d := distance(normal, strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete or replace to turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
