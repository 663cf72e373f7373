package daemon_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Every request and answer of the tests in this package goes through the OpenAPI document (daemon/api/openapi.json), and what
// of the document none of them has touched is told at the end, see TestMain. So neither can say what the other does not do.

// openAPIFile is the document as it is written; the daemon serves it with its version.
const openAPIFile = "api/openapi.json"

// openAPI returns the document, read and compiled once.
var openAPI = sync.OnceValue(func() *specification {
	text, err := os.ReadFile(filepath.FromSlash(openAPIFile))
	if err != nil {
		panic(err)
	}
	s, err := readSpecification(text)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", openAPIFile, err))
	}
	return s
})

// specification is an OpenAPI document, ready to judge by. It is safe for concurrent use.
type specification struct {
	root       any
	operations []*operation
	pushes     map[string]*operation // by the method and the name of the webhook
	problem    *content              // what every failure is answered with

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	seen     map[string]bool // what the tests have touched, as places calls it
}

// operation is a method of a path, or of a webhook.
type operation struct {
	method, path string
	parameters   []parameter
	body         *content // nil: none is taken
	bodyNeeded   bool
	answers      map[string]*content // by status
}

func (o *operation) String() string { return o.method + " " + o.path }

// parameter is one of a request, or a header of an answer.
type parameter struct {
	name, in string
	needed   bool
	schema   *jsonschema.Schema
	pointer  string // to where it is described, which several operations may share
}

// content is a body in its media types, and the headers that come with it.
type content struct {
	media   map[string]*jsonschema.Schema
	headers []parameter
}

// readSpecification reads the document. It panics where the document is not of the form that the linters hold it to.
func readSpecification(text []byte) (*specification, error) {
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	s := &specification{root: root, compiler: jsonschema.NewCompiler(), pushes: make(map[string]*operation), seen: make(map[string]bool)}
	s.compiler.AssertFormat()
	if err := s.compiler.AddResource(openAPIFile, root); err != nil {
		return nil, err
	}
	s.problem = s.content("/components/responses/InternalError")
	paths, at := s.follow("/paths")
	for path := range paths {
		s.operations = append(s.operations, s.item(at, path)...)
	}
	hooks, at := s.follow("/webhooks")
	for name := range hooks {
		for _, o := range s.item(at, name) {
			s.pushes[o.String()] = o
		}
	}
	return s, nil
}

// escape makes a name part of a JSON pointer.
func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }

// follow returns the object at a pointer, through references, and where it really stands.
func (s *specification) follow(pointer string) (map[string]any, string) {
	v := s.root
	for _, part := range strings.Split(pointer, "/")[1:] {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			n, err := strconv.Atoi(part)
			if err != nil {
				panic(pointer)
			}
			v = x[n]
		}
	}
	object, _ := v.(map[string]any)
	if ref, ok := object["$ref"].(string); ok {
		return s.follow(strings.TrimPrefix(ref, "#"))
	}
	return object, pointer
}

// compile returns the schema at a pointer.
func (s *specification) compile(pointer string) *jsonschema.Schema {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compiler.MustCompile(openAPIFile + "#" + (&url.URL{Path: pointer}).EscapedPath())
}

// item reads the operations of a path, and the methods in its x-gone: these are none, and answered with 410.
func (s *specification) item(at, path string) []*operation {
	item, at := s.follow(at + "/" + escape(path))
	var list []*operation
	gone, _ := item["x-gone"].([]any)
	for _, method := range gone {
		answers := map[string]*content{"410": s.problem, "431": s.content("/components/responses/HeaderTooLarge")}
		list = append(list, &operation{method: strings.ToUpper(fmt.Sprint(method)), path: path, answers: answers})
	}
	for method := range item {
		object, at := s.follow(at + "/" + method)
		if object["responses"] == nil {
			continue // what is said of the path as a whole
		}
		o := &operation{method: strings.ToUpper(method), path: path, answers: make(map[string]*content)}
		if parameters, ok := object["parameters"].([]any); ok {
			for i := range parameters {
				o.parameters = append(o.parameters, s.parameter(at+"/parameters/"+strconv.Itoa(i)))
			}
		}
		if object["requestBody"] != nil {
			body, _ := s.follow(at + "/requestBody")
			o.body, o.bodyNeeded = s.content(at+"/requestBody"), body["required"] == true
		}
		answers, at := s.follow(at + "/responses")
		for status := range answers {
			o.answers[status] = s.content(at + "/" + status)
		}
		list = append(list, o)
	}
	return list
}

func (s *specification) parameter(pointer string) parameter {
	object, at := s.follow(pointer)
	p := parameter{needed: object["required"] == true, schema: s.compile(at + "/schema"), pointer: at}
	p.name, _ = object["name"].(string)
	p.in, _ = object["in"].(string)
	return p
}

func (s *specification) content(pointer string) *content {
	c := &content{media: make(map[string]*jsonschema.Schema)}
	object, at := s.follow(pointer)
	media, _ := object["content"].(map[string]any)
	for name := range media {
		c.media[name] = s.compile(at + "/content/" + escape(name) + "/schema")
	}
	headers, _ := object["headers"].(map[string]any)
	for name := range headers {
		p := s.parameter(at + "/headers/" + escape(name))
		p.name, p.in = name, "header"
		c.headers = append(c.headers, p)
	}
	return c
}

// find returns the operation of a request, and the methods of its path; none for a path that is not described.
func (s *specification) find(method, path string) (found *operation, methods []string) {
	best := 0
	for _, o := range s.operations {
		fixed, ok := matches(o.path, path)
		switch {
		case !ok || fixed < best:
			continue
		case fixed > best:
			best, found, methods = fixed, nil, nil
		}
		methods = append(methods, o.method)
		if o.method == method || o.method == http.MethodGet && method == http.MethodHead {
			found = o
		}
	}
	return found, methods
}

// matches says whether a path is one of the template, and how many of its parts are the template's own, counted from 1.
func matches(template, path string) (fixed int, ok bool) {
	want, is := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(is) {
		return 0, false
	}
	for i := range want {
		switch {
		case strings.HasPrefix(want[i], "{") && is[i] != "" && is[i] != "." && is[i] != "..":
		case want[i] == is[i]:
			fixed++
		default:
			return 0, false
		}
	}
	return fixed, true
}

// touch marks the properties of a valid value.
func (s *specification) touch(side string, schema *jsonschema.Schema, v any) {
	if schema == nil {
		return
	}
	s.touch(side, schema.Ref, v)
	for _, sub := range schema.AllOf {
		s.touch(side, sub, v)
	}
	for _, sub := range slices.Concat(schema.AnyOf, schema.OneOf) {
		if sub.Validate(v) == nil {
			s.touch(side, sub, v)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if sub := schema.Properties[name]; sub != nil {
				s.mark(propertyPlace(side, schema, name))
				s.touch(side, sub, value)
			} else if sub, ok := schema.AdditionalProperties.(*jsonschema.Schema); ok {
				s.touch(side, sub, value)
			}
		}
	case []any:
		for _, item := range v {
			s.touch(side, schema.Items2020, item)
		}
	}
}

func (s *specification) mark(place string) {
	s.mu.Lock()
	s.seen[place] = true
	s.mu.Unlock()
}

func propertyPlace(side string, schema *jsonschema.Schema, name string) string {
	_, pointer, _ := strings.Cut(schema.Location, "#")
	return side + " " + pointer + ": " + name
}

func (o *operation) mediaPlace(media string) string { return o.String() + ": request of " + media }

// places are all that a test has to touch: of each operation the statuses below 500, the media types and parameters of
// requests, the headers of answers, and each property of what goes either way.
func (s *specification) places() map[string]bool {
	all := make(map[string]bool)
	visited := make(map[string]bool)
	for _, o := range slices.Concat(s.operations, slices.Collect(maps.Values(s.pushes))) {
		sent, taken := "request", "answer"
		if s.pushes[o.String()] == o {
			sent = "push"
		}
		for _, p := range o.parameters {
			if p.in != "path" { // which every request has
				all[sent+" "+p.pointer] = true
			}
		}
		if o.body != nil {
			for media, schema := range o.body.media {
				all[o.mediaPlace(media)] = true
				properties(all, visited, sent, schema)
			}
		}
		if sent == "push" {
			continue // receivers answer as they like
		}
		for status, c := range o.answers {
			if status < "500" {
				all[o.String()+": status "+status] = true
				for _, p := range c.headers {
					all[taken+" "+p.pointer] = true
				}
			}
			for _, schema := range c.media {
				properties(all, visited, taken, schema)
			}
		}
	}
	return all
}

func properties(all, visited map[string]bool, side string, s *jsonschema.Schema) {
	if s == nil || visited[side+s.Location] {
		return
	}
	visited[side+s.Location] = true
	subs := slices.Concat([]*jsonschema.Schema{s.Ref, s.Items2020}, s.AllOf, s.AnyOf, s.OneOf)
	if sub, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		subs = append(subs, sub)
	}
	for name, sub := range s.Properties {
		all[propertyPlace(side, s, name)] = true
		subs = append(subs, sub)
	}
	for _, sub := range subs {
		properties(all, visited, side, sub)
	}
}

// untouched tells what of the document no test has touched, when all of them have run and passed.
func untouched() []string {
	if testing.Short() {
		return nil
	}
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return nil
		}
	}
	s := openAPI()
	var left []string
	for place := range s.places() {
		if !s.seen[place] {
			left = append(left, place)
		}
	}
	slices.Sort(left)
	return left
}
