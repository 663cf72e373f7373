package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// described is what of the document is held against the routes.
type described struct {
	Info       struct{ Version string }
	Paths      map[string]pathItem
	Components struct{ Parameters map[string]parameter }
}

type pathItem struct {
	Get, Post, Put, Patch, Delete *operation
	Parameters                    []parameter
	Gone                          []string `json:"x-gone"`
}

type operation struct {
	Deprecated bool
	Security   []map[string][]string
	Parameters []parameter
	Body       *reference `json:"requestBody"`
}

// operations are those of the path by their methods. One that is gone stands for nothing but its path.
func (p *pathItem) operations() map[string]*operation {
	all := map[string]*operation{
		http.MethodGet: p.Get, http.MethodPost: p.Post, http.MethodPut: p.Put, http.MethodPatch: p.Patch, http.MethodDelete: p.Delete,
	}
	maps.DeleteFunc(all, func(_ string, o *operation) bool { return o == nil })
	for _, method := range p.Gone {
		all[strings.ToUpper(method)] = &operation{Deprecated: true, Security: []map[string][]string{}, Parameters: p.Parameters}
	}
	return all
}

type reference struct {
	Ref string `json:"$ref"`
}

type parameter struct {
	reference
	Name, In string
}

// parameters are the names of an operation's parameters of one place, sorted.
func (d *described) parameters(list []parameter, in string) []string {
	var names []string
	for _, p := range list {
		if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
			p = d.Components.Parameters[name]
		}
		if p.In == in {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// The document describes every route of the daemon, and none besides: path and method, scopes, query, and whether there is a body.
func TestOpenAPI_RoutesAreThoseServed(t *testing.T) {
	t.Parallel()
	var d described
	if err := json.Unmarshal(describe("1.2.3-\"x\""), &d); err != nil {
		t.Fatal(err)
	}
	if d.Info.Version != "1.2.3-\"x\"" {
		t.Errorf("the version is %q", d.Info.Version)
	}
	a := &API{gatherer: prometheus.NewRegistry()}
	old := a.oldRoutes()
	left := make(map[string]*operation)
	for path, item := range d.Paths {
		for method, o := range item.operations() {
			left[method+" "+path] = o
		}
	}
	for i, r := range slices.Concat(old, a.routes(), a.adminRoutes()) {
		for _, e := range r.endpoints {
			name := e.method + " " + r.pattern
			is, ok := left[name]
			if !ok {
				t.Errorf("%s is served and not described", name)
				continue
			}
			delete(left, name)
			if is.Deprecated != (i < len(old)) {
				t.Errorf("%s: deprecated is %t", name, is.Deprecated)
			}
			want := []string{}
			if !e.open && !e.anonymous {
				want = append(want, "admin")
				for _, s := range e.scopes {
					if s != "admin" {
						want = append(want, string(s))
					}
				}
			}
			got := []string{}
			for _, s := range is.Security {
				got = append(got, slices.Collect(maps.Keys(s))...)
			}
			same(t, name+": scopes", got, want)
			if is.Security == nil {
				t.Errorf("%s: nothing is said of security", name)
			}
			same(t, name+": query", d.parameters(is.Parameters, "query"), e.query)
			var placeholders []string
			for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(r.pattern, -1) {
				placeholders = append(placeholders, m[1])
			}
			same(t, name+": path", d.parameters(is.Parameters, "path"), placeholders)
			takesNothing := is.Body != nil && is.Body.Ref == "#/components/requestBodies/Nothing"
			if (is.Body != nil && !takesNothing) != e.reads {
				t.Errorf("%s: a body is described wrongly", name)
			}
			if takesNothing != (e.method == http.MethodPost && !e.reads && !e.open) {
				t.Errorf("%s: whether it takes an empty object is described wrongly", name)
			}
		}
	}
	for name := range left {
		t.Errorf("%s is described and not served", name)
	}
}

// same compares two sets.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if got, want := fmt.Sprint(slices.Sorted(slices.Values(got))), fmt.Sprint(slices.Sorted(slices.Values(want))); got != want {
		t.Errorf("%s: described are %s, the route has %s", what, got, want)
	}
}
