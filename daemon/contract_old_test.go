package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The rows of version 1.1: what has only another name is redirected to it, what has changed its method or
// meaning is gone and told so, and what bodies and answers had then is not there any more.

// follow makes a request as a client does that follows redirects, and returns the answer.
func (c *caller) follow(method, path, body string) *answer {
	c.h.t.Helper()
	req, err := http.NewRequest(method, c.h.URL+path, strings.NewReader(body))
	if err != nil {
		c.h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if body == "" {
		req.Body, req.GetBody, req.ContentLength = http.NoBody, nil, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		c.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.h.t.Fatal(err)
	}
	return &answer{c.h.t, resp.StatusCode, resp.Header, text, method + " " + path}
}

// oldCalls are the calls of version 1.1 that have only another name now.
func oldCalls(id string) [][3]string {
	return [][3]string{
		{"GET", "/subscription", "/subscriptions"},
		{"HEAD", "/subscription", "/subscriptions"},
		{"GET", "/subscription?limit=2&after=" + missing, "/subscriptions?limit=2&after=" + missing},
		{"GET", "/subscription?a=%41+b&&c", "/subscriptions?a=%41+b&&c"},
		{"POST", "/subscription", "/subscriptions"},
		{"GET", "/subscription/" + id, "/subscriptions/" + id},
		{"HEAD", "/subscription/" + id, "/subscriptions/" + id},
		{"PUT", "/subscription/" + id + "?x=1", "/subscriptions/" + id + "?x=1"},
		{"DELETE", "/subscription/" + id, "/subscriptions/" + id},
		{"GET", "/subscription/a%2Fb%3f%20c", "/subscriptions/a%2Fb%3F%20c"},
		{"GET", "/subscription/%2F%2Felsewhere.test", "/subscriptions/%2F%2Felsewhere.test"},
		{"GET", "/cert.pem", "/certificates/default"},
		{"HEAD", "/cert.pem", "/certificates/default"},
	}
}

func TestContract_D24_OldPathsRedirect(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	for _, c := range oldCalls(id) {
		for who, caller := range map[string]*caller{"nobody": h.as(""), "admin": h.admin(), "somebody unknown": h.as("hrld_unknown")} {
			a := caller.do(c[0], c[1], nil).is(http.StatusPermanentRedirect)
			if got := a.header["Location"]; !slices.Equal(got, []string{c[2]}) || len(a.body) != 0 {
				t.Errorf("%s %s of %s leads to %q (%q), want %s", c[0], c[1], who, got, a.body, c[2])
			}
		}
	}
	h.read(id) // DELETE was only told where to go
	if l := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(l) != 1 {
		t.Errorf("POST did more than tell: %v", l)
	}
	// A body comes along, of whatever size the new path takes.
	big := `{"dataCallbackURL":"http://127.0.0.1:8421/` + strings.Repeat("x", 1<<20) + `"}`
	h.as("").do("POST", "/subscription", big).is(http.StatusPermanentRedirect)
	// What version 1.1 had not is not there either.
	for _, path := range []string{"/subscription/", "/subscription/" + id + "/confirmation", "/subscription/" + id + "/enable", "/cert.pem/x", "/Subscription"} {
		h.admin().do("GET", path, nil).problem(404)
	}
	for path, allowed := range map[string]string{
		"/subscription":           "GET, HEAD, OPTIONS, POST",
		"/subscription/" + id:     "DELETE, GET, HEAD, OPTIONS, PUT",
		"/cert.pem":               "GET, HEAD, OPTIONS",
		"/verify/" + id:           "GET, HEAD, OPTIONS",
		"/repush/" + id + "/1":    "GET, HEAD, OPTIONS",
		"/sandbox/generate/" + id: "OPTIONS, POST",
	} {
		a := h.as("").do("PATCH", path, `{}`)
		a.problem(405)
		if got := a.header.Get("Allow"); got != allowed {
			t.Errorf("%s allows %q, want %q", path, got, allowed)
		}
		h.as("").do("OPTIONS", path, nil).is(204)
	}
}

// A client that follows redirects works on the old paths, with the names and answers of today.
func TestContract_D24_OldPathsWorkForThoseWhoFollow(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	c := h.admin()
	id := c.follow("POST", "/subscription", `{"dataCallbackURL":"`+r.URL+`","exportFormat":"application/json"}`).is(200).text("id")
	c.follow("PUT", "/subscription/"+id, `{"dataCallbackURL":"`+r.URL+`/new"}`).is(200)
	if s := c.follow("GET", "/subscription/"+id, "").is(200).object(); s["dataCallbackURL"] != r.URL+"/new" {
		t.Errorf("GET answered %v", s)
	}
	if l := c.follow("GET", "/subscription?limit=1", "").is(200).list(); len(l) != 1 || l[0]["id"] != id {
		t.Errorf("the list is %v", l)
	}
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	c.follow("DELETE", "/subscription/"+id, "").is(204)
	c.follow("GET", "/subscription/"+id, "").problem(404)
	h.as("").follow("GET", "/subscription", "").problem(401)
}

// gone are the calls of version 1.1 that have been replaced, and the words that tell by what.
func gone(id string) [][]string {
	sub := "/subscriptions/" + id
	return [][]string{
		{"GET", "/verify/" + id, "POST " + sub + "/confirmation", "signature"},
		{"GET", "/verify/" + id + "?signature=hidden-signature", "POST " + sub + "/confirmation"},
		{"GET", "/verify/none", "POST /subscriptions/{id}/confirmation"},
		{"GET", "/repush/" + id + "/2026-11-21", "POST " + sub + "/replay", "date"},
		{"GET", "/repush/none/1", "POST /subscriptions/{id}/replay"},
		{"POST", "/sandbox/generate/" + id, "replay", "POST " + sub + "/replay", "POST " + sub + "/ping"},
		{"POST", "/sandbox/generate/%25s%0A", "POST /subscriptions/{id}/replay", "POST /subscriptions/{id}/ping"},
	}
}

func checkGone(t *testing.T, what string, keep func(call []string) bool) {
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	n := 0
	for _, call := range gone(id) {
		if !keep(call) {
			continue
		}
		n++
		for _, caller := range []*caller{h.as(""), h.admin(), h.as("hrld_unknown")} {
			a := caller.do(call[0], call[1], nil)
			names(t, what, a.problem(http.StatusGone), call[2:]...)
			if m := members(a.object()); !slices.Equal(m, []string{"detail", "instance", "statusCode", "title"}) {
				t.Errorf("%s %s answered with the members %v", call[0], call[1], m)
			}
			if strings.Contains(string(a.body), "hidden-signature") || strings.Contains(string(a.body), "%!") {
				t.Errorf("%s %s answered %s", call[0], call[1], a.body)
			}
		}
	}
	if n == 0 {
		t.Errorf("no call of %s was made", what)
	}
	if s := h.read(id); s["state"] != "active" {
		t.Errorf("the subscription is %v", s)
	}
}

func TestContract_D24_VerifyIsGone(t *testing.T) {
	t.Parallel()
	checkGone(t, "verify", func(call []string) bool { return strings.HasPrefix(call[1], "/verify") })
}

func TestContract_D28_RepushIsGone(t *testing.T) {
	t.Parallel()
	checkGone(t, "repush", func(call []string) bool { return strings.HasPrefix(call[1], "/repush") })
}

func TestContract_D29_SandboxIsGone(t *testing.T) {
	t.Parallel()
	checkGone(t, "sandbox", func(call []string) bool { return strings.HasPrefix(call[1], "/sandbox") })
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	h.admin().do("POST", "/sandbox/generate/"+id, fields{}).problem(http.StatusGone) // with a body too
	if l := h.admin().do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("events were made: %v", l)
	}
}

func TestContract_D1_OldCertificatePath(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := h.as("").do("GET", "/cert.pem", nil).is(http.StatusPermanentRedirect)
	if got := a.header.Get("Location"); got != "/certificates/default" {
		t.Errorf("/cert.pem leads to %q", got)
	}
	old, now := h.as("").follow("GET", "/cert.pem", "").is(200), h.as("").do("GET", "/certificates/default", nil).is(200)
	if string(old.body) != string(now.body) || !strings.Contains(string(old.body), "BEGIN CERTIFICATE") {
		t.Errorf("/cert.pem leads to %q, /certificates/default is %q", old.body, now.body)
	}
}

// The names of version 1.1 are refused by what they are called now, beside whatever else is wrong.
func TestContract_OldNamesAreToldTheNew(t *testing.T) {
	t.Parallel()
	h := start(t)
	const callback = "http://127.0.0.1:8421/"
	id := h.subscribe(callback, nil)
	for _, c := range []struct {
		row   string
		body  fields
		words []string
	}{
		{"D9", fields{"exportEndpoint": callback}, []string{"exportEndpoint: ", "it is dataCallbackURL now"}},
		{"D9", fields{"ExportEndpoint": callback, "dataCallbackURL": callback}, []string{"ExportEndpoint|exportEndpoint: ", "it is dataCallbackURL now"}},
		{"D9", fields{"exportEndpoint": nil, "dataCallbackURL": callback}, []string{"it is dataCallbackURL now"}},
		{"D10", fields{"dataCallbackURL": callback, "documentAmount": 5}, []string{"documentAmount: ", "it is numberOfRecords now"}},
		{"D12", fields{"exportEndpoint": callback}, []string{"validationCallbackURL", "the same URL"}},
		{"D14", fields{"dataCallbackURL": callback, "exportFormat": "json"}, []string{"exportFormat: ", "application/json"}},
		{"D14", fields{"dataCallbackURL": callback, "exportFormat": "xml"}, []string{"exportFormat: ", "application/xml"}},
		{"all of them", fields{"exportEndpoint": callback, "documentAmount": 1, "exportFormat": "json"}, []string{"dataCallbackURL now", "numberOfRecords now", "application/json"}},
	} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			names(t, fmt.Sprint(c.row, " by ", method, " of ", c.body), h.admin().do(method, path, c.body).problem(400), c.words...)
		}
	}
	// Nobody is recommended an old name.
	detail := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": callback, "surprise": 1}).problem(400)
	if strings.Contains(detail, "exportEndpoint") || strings.Contains(detail, "documentAmount") || !strings.Contains(detail, "numberOfRecords") {
		t.Errorf("an unknown member is answered with %q", detail)
	}
}

// Version 1.1 needed one callback URL for validation and data. One URL still suffices, and it may be given for both.
func TestContract_D12_OneURLSuffices(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	if s := h.read(id); s["state"] != "active" || s["dataCallbackURL"] != r.URL || s["exportEndpoint"] != nil {
		t.Errorf("with one URL the subscription is %v", s)
	}
	h.delivery(h.publish("task.create", "", fields{}), id, "delivered")
	if got := r.got(); len(got) != 1 || strings.Contains(string(got[0].body), "validationUrl") {
		t.Errorf("the URL got %v", got)
	}
}

// The status object of version 1.1 is in no answer, on the old paths as little as on the new.
func TestContract_D18_NoStatusObject(t *testing.T) {
	t.Parallel()
	h := start(t)
	const input = `{"dataCallbackURL":"http://127.0.0.1:8421/"}`
	for _, base := range []string{"/subscription", "/subscriptions"} {
		made := h.admin().follow("POST", base, input).is(200)
		id := made.text("id")
		noStatus(t, made)
		noStatus(t, h.admin().follow("PUT", base+"/"+id, input).is(200))
	}
}

func TestContract_D27_NoWrapper(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	for _, base := range []string{"/subscription", "/subscriptions"} {
		one := h.admin().follow("GET", base+"/"+id, "").is(200)
		noStatus(t, one)
		list := h.admin().follow("GET", base, "").is(200).list()
		if one.object()["id"] != id || len(list) != 1 || list[0]["id"] != id {
			t.Errorf("%s answers with %s and %v", base, one.body, list)
		}
	}
}

// noStatus fails the test when an answer has members of the status object.
func noStatus(t *testing.T, a *answer) {
	t.Helper()
	for m := range a.object() {
		if slices.Contains([]string{"code", "message", "timestamp", "status", "data"}, strings.ToLower(m)) {
			t.Errorf("%s answered with %s: %s", a.request, m, a.body)
		}
	}
}

func TestContract_D38_NoErrorObject(t *testing.T) {
	t.Parallel()
	h := start(t)
	failures := []*answer{
		h.admin().follow("GET", "/subscription/"+missing, ""),
		h.admin().follow("POST", "/subscription", `{`),
		h.as("").follow("GET", "/subscription", ""),
		h.as("").do("PATCH", "/subscription", `{}`),
		h.admin().do("POST", "/subscriptions", fields{"exportEndpoint": "x"}),
	}
	for _, call := range gone(missing) {
		failures = append(failures, h.as("").do(call[0], call[1], nil))
	}
	for _, a := range failures {
		a.problem(a.status)
		noStatus(t, a)
		if a.status < 400 {
			t.Errorf("%s answered %d", a.request, a.status)
		}
	}
}

// The error rules hold for the old paths too.
func TestContract_D39_ErrorRulesHoldForOldPaths(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, path := range []string{"/subscription", "/subscription/" + missing, "/cert.pem", "/verify/" + missing, "/repush/" + missing + "/1", "/sandbox/generate/" + missing} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PURGE"} {
			switch a := h.as("").do(method, path, nil); a.status {
			case http.StatusPermanentRedirect:
			case http.StatusGone, http.StatusMethodNotAllowed:
				a.problem(a.status)
				if got := a.object()["instance"]; got != path {
					t.Errorf("%s %s: the instance is %v", method, path, got)
				}
			default:
				t.Errorf("%s %s answered %d: %s", method, path, a.status, a.body)
			}
		}
	}
}
