package daemon_test

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// exchange is a request and its answer.
type exchange struct {
	spec   *specification
	t      *testing.T
	name   string
	op     *operation
	header http.Header // of the request
	body   []byte
	status int
	head   bool // the answer has no body
}

func (x *exchange) errorf(format string, args ...any) {
	x.t.Helper()
	x.t.Errorf("%s is not as %s has it: %s", x.name, openAPIFile, fmt.Sprintf(format, args...))
}

// judge fails the test where a request that the daemon took, or its answer, is not as the document says.
func (s *specification) judge(t *testing.T, req *http.Request, body []byte, resp *http.Response, text []byte) {
	t.Helper()
	path := req.URL.EscapedPath()
	x := &exchange{spec: s, t: t, name: fmt.Sprintf("%s %s with the answer %d", req.Method, path, resp.StatusCode), header: req.Header, body: body, status: resp.StatusCode, head: req.Method == http.MethodHead}
	op, methods := s.find(req.Method, path)
	allow := slices.Clone(methods)
	if slices.Contains(methods, http.MethodGet) {
		allow = append(allow, http.MethodHead)
	}
	allow = slices.Sorted(slices.Values(append(allow, http.MethodOptions)))
	switch {
	case op != nil:
		x.op = op
	case len(methods) == 0 && x.status == http.StatusNotFound:
		x.content("answer", s.problem, resp.Header, text)
		return
	case len(methods) > 0 && (x.status == http.StatusMethodNotAllowed || req.Method == http.MethodOptions && x.status == http.StatusNoContent):
		if got := resp.Header.Get("Allow"); got != strings.Join(allow, ", ") {
			x.errorf("the path has the methods %v, and Allow is %q", allow, got)
		}
		if x.status == http.StatusMethodNotAllowed {
			x.content("answer", s.problem, resp.Header, text)
		}
		return
	default:
		x.errorf("the operation is not described")
		return
	}
	status := strconv.Itoa(x.status)
	answer := op.answers[status]
	if answer == nil {
		if status, answer = "default", op.answers["default"]; answer == nil {
			x.errorf("the status is not described: %s", text)
			return
		}
	}
	s.mark(op.String() + ": status " + status)
	x.content("answer", answer, resp.Header, text)
	if x.status < 400 {
		x.request(req.URL)
	}
}

// usual are headers that any answer may have; info.description tells of Cache-Control and Allow.
var usual = []string{"Date", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Cache-Control", "Allow"}

// headers judges the headers of an answer.
func (x *exchange) headers(c *content, h http.Header) {
	x.t.Helper()
	known := slices.Clone(usual)
	for _, p := range c.headers {
		name := http.CanonicalHeaderKey(p.name)
		known = append(known, name)
		x.parameter("answer", p, h[name])
	}
	for name := range h {
		if !slices.Contains(known, name) {
			x.errorf("the header %s of the answer is not described", name)
		}
	}
}

// parameter judges one parameter or header.
func (x *exchange) parameter(side string, p parameter, values []string) {
	x.t.Helper()
	if len(values) == 0 {
		if p.needed {
			x.errorf("the %s has no %s %s", side, p.in, p.name)
		}
		return
	}
	if err := p.schema.Validate(written(p.schema, values[0])); err != nil {
		x.errorf("%s %s of the %s is %q: %v", p.in, p.name, side, values[0], err)
	}
	x.spec.mark(side + " " + p.pointer)
}

// written is the value of a text that stands for one of the schema: numbers and booleans are written as in JSON.
func written(s *jsonschema.Schema, text string) any {
	if hasType(s, "string") {
		return text
	}
	if v, err := jsonschema.UnmarshalJSON(strings.NewReader(text)); err == nil {
		return v
	}
	return text
}

func hasType(s *jsonschema.Schema, name string) bool {
	for s.Ref != nil {
		s = s.Ref
	}
	return s.Types == nil || slices.Contains(s.Types.ToStrings(), name)
}

// content judges a body and the headers with it.
func (x *exchange) content(side string, c *content, h http.Header, text []byte) {
	x.t.Helper()
	if side == "answer" {
		x.headers(c, h)
	}
	if x.head || len(text) == 0 && len(c.media) == 0 {
		return
	}
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	schema := c.media[media]
	if side == "request" {
		kind, _, _ := strings.Cut(media, "/")
		for _, wider := range []string{kind + "/*", "*/*"} {
			if schema == nil {
				media, schema = wider, c.media[wider]
			}
		}
	}
	if err != nil || schema == nil {
		x.errorf("the %s has the content type %q, which is not described: %s", side, h.Get("Content-Type"), text)
		return
	}
	if side != "answer" {
		x.spec.mark(x.op.mediaPlace(media))
	}
	for _, v := range x.values(schema, media, params["boundary"], text) {
		if side == "request" {
			v = spell(schema, v, !strings.Contains(media, "cloudevents"))
		}
		schema := x.choose(schema, v)
		if err := schema.Validate(v); err != nil {
			x.errorf("the %s is not valid: %v\n%s", side, err, text)
			continue
		}
		if m, ok := v.(map[string]any); ok && media == "application/problem+json" && fmt.Sprint(m["statusCode"]) != strconv.Itoa(x.status) {
			x.errorf("the problem says %v", m["statusCode"])
		}
		x.spec.touch(side, schema, v)
	}
}

// values reads a body; one that is no JSON is a text, a form an object of what its fields say.
func (x *exchange) values(schema *jsonschema.Schema, media, boundary string, text []byte) []any {
	x.t.Helper()
	switch {
	case media == "application/x-ndjson":
		var list []any
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			if len(bytes.TrimSpace(line)) > 0 {
				list = append(list, x.decode(line))
			}
		}
		return list
	case media == "application/x-www-form-urlencoded", media == "multipart/form-data":
		form, err := url.ParseQuery(string(text))
		if boundary != "" {
			var parts *multipart.Form
			if parts, err = multipart.NewReader(bytes.NewReader(text), boundary).ReadForm(1 << 20); err == nil {
				form = parts.Value
			}
		}
		if err != nil {
			x.errorf("the form cannot be read: %v", err)
		}
		for schema.Ref != nil {
			schema = schema.Ref
		}
		m := make(map[string]any)
		for name := range form {
			m[name] = form.Get(name)
			if sub := schema.Properties[name]; sub != nil {
				m[name] = written(sub, form.Get(name))
			}
		}
		return []any{m}
	case media == "application/*", strings.HasSuffix(media, "json"):
		return []any{x.decode(text)}
	default:
		return []any{string(text)}
	}
}

func (x *exchange) decode(text []byte) any {
	x.t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		x.errorf("%v: %s", err, text)
	}
	return v
}

// choose returns the schema of a body where another could pass for it: what any object is valid by must not excuse an event that
// is not. Without the headers of binary mode an event is not the data of a CloudEvent, and what looks like an envelope is one.
func (x *exchange) choose(schema *jsonschema.Schema, v any) *jsonschema.Schema {
	m, _ := v.(map[string]any)
	records, _ := m["records"].([]any)
	switch {
	case len(schema.AnyOf) == 3 && x.op.String() == "POST /events": // an event, several, the data of one
		_, several := v.([]any)
		switch {
		case x.header.Get("ce-specversion") != "":
			return schema.AnyOf[2]
		case several:
			return schema.AnyOf[1]
		}
		return schema.AnyOf[0]
	case len(schema.AnyOf) == 4 && strings.HasSuffix(x.op.path, "push"): // an envelope, several, several data, the data of one
		switch {
		case isEnvelope(m):
			return schema.AnyOf[0]
		case len(records) > 0 && isEnvelope(records[0]):
			return schema.AnyOf[1]
		case len(records) > 0 && m["numberOfRecords"] != nil:
			return schema.AnyOf[2]
		}
	}
	return schema
}

func isEnvelope(v any) bool {
	m, _ := v.(map[string]any)
	return m["accountId"] != nil && m["data"] != nil
}

// request judges a request that the daemon took.
func (x *exchange) request(u *url.URL) {
	x.t.Helper()
	query := u.Query()
	if x.op.answers["400"] != nil { // the others let any query pass
		for name := range query {
			if !slices.ContainsFunc(x.op.parameters, func(p parameter) bool { return p.in == "query" && p.name == name }) {
				x.errorf("the query parameter %s is not described", name)
			}
		}
	}
	want, is := strings.Split(x.op.path, "/"), strings.Split(u.EscapedPath(), "/")
	for _, p := range x.op.parameters {
		switch p.in {
		case "query":
			x.parameter("request", p, query[p.name])
		case "header":
			x.parameter("request", p, x.header[http.CanonicalHeaderKey(p.name)])
		case "path":
			if value, err := url.PathUnescape(is[slices.Index(want, "{"+p.name+"}")]); err == nil {
				x.parameter("request", p, []string{value})
			}
		}
	}
	switch {
	case x.op.body == nil: // a body is not looked at
	case len(bytes.TrimSpace(x.body)) > 0:
		x.content("request", x.op.body, x.header, x.body)
	case x.op.bodyNeeded:
		x.errorf("a body is needed, and there was none")
	}
}

// spell writes the names of members as the schema has them, where they are matched without regard to case.
func spell(s *jsonschema.Schema, v any, fold bool) any {
	if !fold || s == nil {
		return v
	}
	if s.Ref != nil {
		v = spell(s.Ref, v, fold)
	}
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for _, sub := range list {
			v = spell(sub, v, fold)
		}
	}
	switch x := v.(type) {
	case map[string]any:
		if len(s.Properties) == 0 {
			return v
		}
		out := make(map[string]any, len(x))
		for name, value := range x {
			for proper, sub := range s.Properties {
				if strings.EqualFold(name, proper) {
					name, value = proper, spell(sub, value, fold)
				}
			}
			out[name] = value
		}
		return out
	case []any:
		for i := range x {
			x[i] = spell(s.Items2020, x[i], fold)
		}
	}
	return v
}

// judgePush fails the test where a push is not as the document says.
func (s *specification) judgePush(t *testing.T, p push) {
	t.Helper()
	name := p.method + " push"
	if strings.HasPrefix(p.id(), "val_") {
		name = p.method + " validation"
	}
	u, err := url.Parse(p.url)
	if err != nil {
		t.Error(err)
		return
	}
	x := &exchange{spec: s, t: t, name: "the " + name, op: s.pushes[name], header: p.header, body: p.body}
	if x.op == nil {
		x.errorf("it is not described")
		return
	}
	described := make(map[string]bool)
	for _, param := range x.op.parameters {
		described[http.CanonicalHeaderKey(param.name)] = true
		values := p.header[http.CanonicalHeaderKey(param.name)]
		if param.in == "query" {
			values = u.Query()[param.name]
		}
		x.parameter("push", param, values)
	}
	for name := range p.header { // the others are HTTP's and those of the authentication
		if own := strings.HasPrefix(name, "Herald-") || strings.HasPrefix(name, "Webhook-"); own && !described[name] {
			x.errorf("the header %s is not described", name)
		}
	}
	if x.op.body != nil {
		x.content("push", x.op.body, p.header, p.body)
	} else if len(p.body) > 0 {
		x.errorf("it has a body: %s", p.body)
	}
}

// readBody returns the body of a request that is about to be sent.
func readBody(t *testing.T, req *http.Request) []byte {
	t.Helper()
	if req.GetBody == nil {
		return nil
	}
	r, err := req.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
