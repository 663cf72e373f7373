package daemon_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documents are part of what Herald promises; these tests hold them against a running daemon.

const (
	apiDocument        = "../docs/api.md"
	receivingDocument  = "../docs/receiving.md"
	monitoringDocument = "../docs/monitoring.md"
	operationsDocument = "../docs/operations.md"
)

func document(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// prose is a document without its fenced examples.
func prose(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		} else if !fenced {
			b.WriteString(line)
		}
	}
	return b.String()
}

// metric is one metric family of the daemon's own.
type metric struct {
	kind   string
	labels string // names in the order of the alphabet, joined by commas
}

// difference reports what one side has and the other has not, or has otherwise.
func difference(t *testing.T, exposed, documented map[string]metric) {
	t.Helper()
	for name, is := range exposed {
		switch says, ok := documented[name]; {
		case !ok:
			t.Errorf("%s is exposed and stands nowhere in %s", name, monitoringDocument)
		case says != is:
			t.Errorf("%s is a %s with the labels [%s]; %s says a %s with [%s]",
				name, is.kind, is.labels, monitoringDocument, says.kind, says.labels)
		}
	}
	for name := range documented {
		if _, ok := exposed[name]; !ok {
			t.Errorf("%s stands in %s and is not exposed", name, monitoringDocument)
		}
	}
}

func TestDocs_MetricsAreThoseExposed(t *testing.T) {
	t.Parallel()
	h := newTLSFiles(t).start()
	exposed := exposition(t, string(h.as("").do("GET", "/metrics", nil).is(http.StatusOK).body))
	text := document(t, monitoringDocument)

	documented := make(map[string]metric)
	row := regexp.MustCompile("(?m)^\\| `(herald_\\w+)` \\| (\\w+) \\|([^|]*)\\|")
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		if _, twice := documented[m[1]]; twice {
			t.Errorf("%s has two rows", m[1])
		}
		documented[m[1]] = metric{m[2], sorted(regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[3], -1))}
	}
	if len(exposed) < 40 {
		t.Errorf("only %d metrics are exposed: %v", len(exposed), exposed)
	}
	difference(t, exposed, documented)

	// A name in an alert or a sentence is one of the table too, or a series of a histogram of it.
	for _, name := range regexp.MustCompile(`\bherald_\w+`).FindAllString(text, -1) {
		family := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if _, whole := documented[name]; !whole && documented[family].kind != "histogram" && name != "herald_" {
			t.Errorf("%s names %s, which is no metric", monitoringDocument, name)
		}
	}
}

// exposition reads the families that begin with herald_ from the text format of Prometheus.
func exposition(t *testing.T, text string) map[string]metric {
	t.Helper()
	families := make(map[string]metric)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (herald_\w+) (\w+)$`).FindAllStringSubmatch(text, -1) {
		kind := m[2]
		series := regexp.MustCompile(`(?m)^` + m[1] + `(?:_bucket)?(?:\{(.*)\})? \S+$`).FindStringSubmatch(text)
		if series == nil {
			t.Errorf("%s has no series", m[1])
			continue
		}
		labels := slices.DeleteFunc(regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(series[1], -1), func(l []string) bool {
			return kind == "histogram" && l[1] == "le"
		})
		families[m[1]] = metric{kind, sorted(labels)}
	}
	return families
}

// sorted joins the first groups of matches, in the order of the alphabet.
func sorted(matches [][]string) string {
	list := make([]string, 0, len(matches))
	for _, m := range matches {
		list = append(list, m[1])
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// The values of labels are closed sets, so they stand in the document too. Routes and methods are the
// API's own, and the version is anyone's.
func TestDocs_MetricLabelsHaveTheirValues(t *testing.T) {
	t.Parallel()
	h := start(t)
	exposed := string(h.as("").do("GET", "/metrics", nil).is(http.StatusOK).body)
	rows := document(t, monitoringDocument)
	seen := 0
	for _, m := range regexp.MustCompile(`(?m)^(herald_\w+)\{(.*)\} \S+$`).FindAllStringSubmatch(exposed, -1) {
		for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			if slices.Contains([]string{"le", "route", "method", "version"}, l[1]) {
				continue
			}
			seen++
			row := regexp.MustCompile("(?m)^\\| `" + m[1] + "` .*$").FindString(rows)
			// What hits and misses have in common stands in the first of the rows.
			if l[1] == "cache" {
				row = regexp.MustCompile("(?m)^\\| `herald_store_cache_hits_total` .*$").FindString(rows)
			}
			if !strings.Contains(row, "`"+l[2]+"`") {
				t.Errorf("the row of %s does not name the value %q of %s", m[1], l[2], l[1])
			}
		}
	}
	if seen == 0 {
		t.Error("no label has been looked at")
	}
}

// documentedRoutes are the calls that the document names in its sentences and tables, as method and path.
func documentedRoutes(t *testing.T, path string) [][2]string {
	t.Helper()
	var list [][2]string
	for _, m := range regexp.MustCompile("`(GET|POST|PUT|PATCH|DELETE) (/[^`?]*)[^`]*`").FindAllStringSubmatch(prose(document(t, path)), -1) {
		if call := [2]string{m[1], m[2]}; !slices.Contains(list, call) {
			list = append(list, call)
		}
	}
	return list
}

func TestDocs_RoutesAreServed(t *testing.T) {
	t.Parallel()
	h := start(t)
	placeholder := regexp.MustCompile(`\{\w+\}`)
	var documented [][2]string
	for _, path := range []string{apiDocument, devicesDocument, receivingDocument, monitoringDocument, operationsDocument} {
		calls := documentedRoutes(t, path)
		if len(calls) == 0 {
			t.Errorf("%s names no call", path)
		}
		documented = append(documented, calls...)
	}
	for _, call := range documented {
		// The part that a placeholder stands for does not exist, so that nothing is changed by this.
		a := h.admin().do(call[0], placeholder.ReplaceAllString(call[1], "none"), nil)
		switch {
		case a.status == http.StatusMethodNotAllowed:
			t.Errorf("%s %s is documented, and the path has no such method", call[0], call[1])
		case a.status == http.StatusNotFound && strings.Contains(string(a.body), "no such path"):
			t.Errorf("%s %s is documented, and there is no such path", call[0], call[1])
		case a.status >= http.StatusInternalServerError:
			t.Errorf("%s %s answers %d: %s", call[0], call[1], a.status, a.body)
		}
	}
	// What an answer to an unknown path looks like is what the loop above depends on.
	if detail := h.admin().do("GET", "/nowhere", nil).problem(http.StatusNotFound); !strings.Contains(detail, "no such path") {
		t.Errorf("an unknown path is answered with %q", detail)
	}

	// The other way round: each call of the contract is documented.
	served := routes()
	served = append(served, route{method: "GET", path: "/resources/project/none"},
		route{method: "GET", path: "/healthz"}, route{method: "GET", path: "/readyz"}, route{method: "GET", path: "/metrics"}, route{method: "GET", path: "/openapi.json"})
	for _, r := range served {
		if !slices.ContainsFunc(documentedRoutes(t, apiDocument), func(call [2]string) bool {
			pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(call[1]), `[^/]+`)
			return call[0] == r.method && regexp.MustCompile("^"+pattern+"$").MatchString(r.path)
		}) {
			t.Errorf("%s %s is served and does not stand in %s", r.method, r.path, apiDocument)
		}
	}
}

// Every example calls a path that exists.
func TestDocs_ExamplesCallPathsThatExist(t *testing.T) {
	t.Parallel()
	h := start(t)
	n := 0
	for _, path := range []string{"../README.md", apiDocument, devicesDocument, receivingDocument, monitoringDocument} {
		text := document(t, path)
		for _, m := range regexp.MustCompile(`(?:localhost:8420|127\.0\.0\.1:8420|http://localhost|\bapi '?)(/[\w/$-]+)`).FindAllStringSubmatch(text, -1) {
			n++
			// GET is the method of which every answer but "no such path" means that the path exists.
			a := h.admin().do("GET", regexp.MustCompile(`\$\w+`).ReplaceAllString(m[1], "none"), nil)
			if a.status == http.StatusNotFound && strings.Contains(string(a.body), "no such path") {
				t.Errorf("an example of %s calls %s, which does not exist", path, m[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d examples were found", n)
	}
}

// Relative links lead to files that exist, and to headings that are there.
func TestDocs_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.FromSlash("../docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, filepath.FromSlash("../README.md"))
	n := 0
	for _, path := range paths {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(prose(document(t, path)), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			n++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), filepath.FromSlash(file))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(document(t, target)), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", path, m[1])
			}
		}
	}
	if n == 0 {
		t.Error("no relative link was found")
	}
}

// anchors are the headings of a document as links name them.
func anchors(text string) []string {
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(prose(text), -1) {
		plain := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		list = append(list, strings.ReplaceAll(plain, " ", "-"))
	}
	return list
}

// The commands that make a private authority and client certificates are run, and those of curl that use them.
func TestDocs_TLSCommandsWork(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"openssl", "curl", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	_, text, ok := strings.Cut(document(t, operationsDocument), "### A private authority\n")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	if !ok || len(blocks) != 4 {
		t.Fatalf("%d blocks of commands, want 4", len(blocks))
	}
	dir := t.TempDir()
	run := func(script, address string) {
		t.Helper()
		script = regexp.MustCompile("(?m)^HERALD_URL=.*$").ReplaceAllString(script, "") // the tests of the commands run these
		cmd := exec.Command("bash", "-e", "-c", strings.ReplaceAll(script, "localhost:8420", address))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "HERALD_TOKEN="+adminToken)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		} else if strings.Contains(string(out), `"statusCode":4`) {
			t.Errorf("%s: %s", script, out)
		}
	}
	run(blocks[0][1], "")
	run(blocks[2][1], "")
	in := func(name string) string { return filepath.Join(dir, name) }
	pem, err := os.ReadFile(in("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	mine, err := tls.LoadX509KeyPair(in("shop.pem"), in("shop.key"))
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"HERALD_LISTEN_TLS_CERT=" + in("fullchain.pem"), "HERALD_LISTEN_TLS_KEY=" + in("privkey.pem")}
	for block, environ := range map[int][]string{1: files, 3: append(files, "HERALD_LISTEN_TLS_CLIENT_CA="+in("clients.pem"))} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{mine}}}
		t.Cleanup(tr.CloseIdleConnections)
		h := startClient(t, &http.Client{Transport: tr}, t.TempDir(), environ)
		run(blocks[block][1], h.address())
	}
}
