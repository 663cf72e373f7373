package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gopkg.in/yaml.v3"

	"herald/daemon/standin"
)

// The rules and the dashboard for Prometheus are held against the document and a running daemon.

const (
	rulesFile     = "../docs/prometheus/alerts.yaml"
	ruleTestsFile = "../docs/prometheus/alerts_test.yaml"
	dashboardFile = "../docs/prometheus/dashboard.json"
)

// readYAML reads a file into v, which has a place for everything in it.
func readYAML(t *testing.T, path string, v any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(document(t, path)))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// alertRule is one of the rules.
type alertRule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func alertRules(t *testing.T) []alertRule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alertRule
		}
	}
	readYAML(t, rulesFile, &file)
	if len(file.Groups) != 1 || len(file.Groups[0].Rules) == 0 {
		t.Fatalf("%s has not one group with rules", rulesFile)
	}
	return file.Groups[0].Rules
}

// The table of what to alert on and the rules say the same, in the same order.
func TestDocs_AlertRulesAreThoseOfTheTable(t *testing.T) {
	t.Parallel()
	row := regexp.MustCompile("(?m)^\\| `(Herald\\w+)` \\| (\\w+) \\| `([^`]+)` \\| (\\w*) ?\\|")
	type line struct{ alert, severity, expr, after string }
	var documented, ruled []line
	for _, m := range row.FindAllStringSubmatch(document(t, monitoringDocument), -1) {
		documented = append(documented, line{m[1], m[2], m[3], m[4]})
	}
	for _, r := range alertRules(t) {
		ruled = append(ruled, line{r.Alert, r.Labels["severity"], r.Expr, r.For})
	}
	for i := range max(len(documented), len(ruled)) {
		var a, b line
		if i < len(documented) {
			a = documented[i]
		}
		if i < len(ruled) {
			b = ruled[i]
		}
		if a != b {
			t.Fatalf("row %d of the table in %s is\n%+v\nand rule %d of %s\n%+v", i+1, monitoringDocument, a, i+1, rulesFile, b)
		}
	}
	if count := fmt.Sprintf("SUCCESS: %d rules found", len(ruled)); !strings.Contains(document(t, monitoringDocument), count) {
		t.Errorf("promtool does not print in %s what it prints: %s", monitoringDocument, count)
	}
}

// What an alert tells is complete, and leads to a heading of a document.
func TestDocs_AlertRulesSayWhatToDo(t *testing.T) {
	t.Parallel()
	for _, r := range alertRules(t) {
		if got := slices.Sorted(maps.Keys(r.Annotations)); !slices.Equal(got, []string{"description", "documentation", "summary"}) {
			t.Errorf("%s has the annotations %v", r.Alert, got)
		}
		if s := r.Labels["severity"]; len(r.Labels) != 1 || s != "critical" && s != "warning" {
			t.Errorf("%s has the labels %v", r.Alert, r.Labels)
		}
		for _, name := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[name], ".") {
				t.Errorf("the %s of %s is no sentence: %q", name, r.Alert, r.Annotations[name])
			}
		}
		path, anchor, _ := strings.Cut(r.Annotations["documentation"], "#")
		if !slices.Contains(anchors(document(t, "../"+path)), anchor) {
			t.Errorf("%s leads to %s, and there is no such heading", r.Alert, r.Annotations["documentation"])
		}
	}
}

// Each rule has a test in which it fires, and one in which it does not although there is what it looks at. Whether they
// pass is promtool's to say.
func TestDocs_AlertRulesAreTested(t *testing.T) {
	t.Parallel()
	var file struct {
		RuleFiles          []string `yaml:"rule_files"`
		EvaluationInterval string   `yaml:"evaluation_interval"`
		Tests              []struct {
			Name, Interval string
			InputSeries    []struct{ Series, Values string } `yaml:"input_series"`
			AlertRuleTest  []struct {
				EvalTime  string `yaml:"eval_time"`
				Alertname string
				ExpAlerts []struct {
					ExpLabels      map[string]string `yaml:"exp_labels"`
					ExpAnnotations map[string]string `yaml:"exp_annotations"`
				} `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, ruleTestsFile, &file)
	if !slices.Equal(file.RuleFiles, []string{filepath.Base(rulesFile)}) {
		t.Errorf("%s tests %v", ruleTestsFile, file.RuleFiles)
	}
	fires, rests := make(map[string]bool), make(map[string]bool)
	for _, test := range file.Tests {
		given := make(map[string]bool)
		for _, s := range test.InputSeries {
			name, _, _ := strings.Cut(s.Series, "{")
			given[name] = true
		}
		for _, c := range test.AlertRuleTest {
			i := slices.IndexFunc(alertRules(t), func(r alertRule) bool { return r.Alert == c.Alertname })
			if i < 0 {
				t.Errorf("%s tests %s, which is no rule", ruleTestsFile, c.Alertname)
				continue
			}
			read, _ := selectors(alertRules(t)[i].Expr)
			whole := !slices.ContainsFunc(read, func(s selector) bool { return !given[s.metric] })
			fires[c.Alertname] = fires[c.Alertname] || len(c.ExpAlerts) > 0
			rests[c.Alertname] = rests[c.Alertname] || len(c.ExpAlerts) == 0 && whole
		}
	}
	for _, r := range alertRules(t) {
		if !fires[r.Alert] || !rests[r.Alert] {
			t.Errorf("%s: a test in which it fires: %v; in which it does not: %v", r.Alert, fires[r.Alert], rests[r.Alert])
		}
	}
}

// selector is what an expression reads.
type selector struct {
	metric   string
	matchers []matcher
}

type matcher struct{ label, operator, value string }

// selectors finds what an expression in PromQL reads, and the labels by which it groups and joins. It knows as much of the
// language as the rules and the dashboard use; that they are valid is promtool's to say.
func selectors(expr string) (list []selector, labels []string) {
	groups := regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	for _, m := range groups.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			labels = append(labels, strings.TrimSpace(l))
		}
	}
	expr = regexp.MustCompile(`\[[^]]*\]`).ReplaceAllString(groups.ReplaceAllString(expr, ""), "")
	for _, m := range regexp.MustCompile(`\b([A-Za-z_]\w*)(\s*\()?(?:\{([^}]*)\})?`).FindAllStringSubmatch(expr, -1) {
		if m[2] != "" || slices.Contains([]string{"and", "or", "unless"}, m[1]) {
			continue // a function or an operator
		}
		s := selector{metric: m[1]}
		for _, l := range regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`).FindAllStringSubmatch(m[3], -1) {
			s.matchers = append(s.matchers, matcher{l[1], l[2], l[3]})
		}
		list = append(list, s)
	}
	return list, labels
}

// scraped are the series that a scrape gets: by metric, the labels of each.
type scraped map[string][]map[string]string

func readSeries(text string) scraped {
	all := make(scraped)
	for _, m := range regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(text, -1) {
		labels := make(map[string]string)
		for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = l[2]
		}
		all[m[1]] = append(all[m[1]], labels)
	}
	return all
}

// prometheusOwn are labels of Prometheus's own making.
var prometheusOwn = []string{"instance", "job"}

// reads fails the test unless there is all that an expression reads: each metric, and each label with the value that it names. It
// returns the labels there are.
func (all scraped) reads(t *testing.T, what, expr string) []string {
	t.Helper()
	list, grouped := selectors(expr)
	if len(list) == 0 {
		t.Errorf("%s reads nothing: %s", what, expr)
	}
	known := slices.Clone(prometheusOwn)
	for _, s := range list {
		if s.metric != "up" && len(all[s.metric]) == 0 {
			t.Errorf("%s reads %s, which is no metric", what, s.metric)
		}
		for _, labels := range all[s.metric] {
			known = slices.AppendSeq(known, maps.Keys(labels))
		}
		for _, m := range s.matchers {
			want := regexp.MustCompile("^(?:" + regexp.QuoteMeta(m.value) + ")$")
			if strings.HasSuffix(m.operator, "~") {
				want = regexp.MustCompile("^(?:" + m.value + ")$")
			}
			if !slices.Contains(prometheusOwn, m.label) && !slices.ContainsFunc(all[s.metric], func(l map[string]string) bool {
				value, ok := l[m.label]
				return ok && want.MatchString(value)
			}) {
				t.Errorf("%s reads %s with %s%s%q, and there is none with that value", what, s.metric, m.label, m.operator, m.value)
			}
		}
	}
	for _, l := range grouped {
		if !slices.Contains(known, l) {
			t.Errorf("%s groups by %s, and nothing it reads has that label", what, l)
		}
	}
	return known
}

// mentions fails the test unless the metrics that a text names are there.
func (all scraped) mentions(t *testing.T, what, text string) {
	t.Helper()
	for _, name := range regexp.MustCompile(`\bherald_\w+`).FindAllString(text, -1) {
		if len(all[name]) == 0 {
			t.Errorf("%s mentions %s, which is no metric", what, name)
		}
	}
}

func TestDocs_AlertRulesReadWhatIsServed(t *testing.T) {
	t.Parallel()
	all := readSeries(string(newTLSFiles(t).start().as("").do("GET", "/metrics", nil).is(200).body))
	for _, r := range alertRules(t) {
		known := all.reads(t, r.Alert, r.Expr)
		for _, text := range r.Annotations {
			all.mentions(t, r.Alert, text)
			for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if !slices.Contains(known, m[1]) {
					t.Errorf("%s tells the label %s, which nothing has that it reads", r.Alert, m[1])
				}
			}
		}
	}
	// What the test goes by can tell.
	list, labels := selectors(`sum by (le, a) (rate(m_total{x="1",y=~"2|3"}[5m])) > 0.5 and on (b) n unless (o or time() - p{})`)
	if fmt.Sprint(list, labels) != `[{m_total [{x = 1} {y =~ 2|3}]} {n []} {o []} {p []}] [le a b]` {
		t.Errorf("of an expression were read %v and %v", list, labels)
	}
}

// panel is one of the dashboard, or a row of them.
type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ Type, UID string }
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ RefID, Expr, LegendFormat string }
}

type dashboard struct {
	Title         string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
	Panels []panel
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(document(t, dashboardFile)), &d); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	return d
}

func TestDocs_DashboardShowsWhatIsServed(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	all := readSeries(string(newTLSFiles(t).start().as("").do("GET", "/metrics", nil).is(200).body))
	var rows []string
	taken := make(map[[2]int]string) // what stands at a place of the grid
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%q has the id of another panel", p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				place := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[place]; other != "" || place[0] >= 24 {
					t.Fatalf("%q lies over %q or the edge", p.Title, other)
				}
				taken[place] = p.Title
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("panel %d %q lacks a title, a description, a unit, a query, or the data source of the variable", p.ID, p.Title)
		}
		if units := []string{"none", "s", "bytes", "percentunit", "bool_yes_no", "ops", "reqps", "eps", "recps", "mps"}; !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
			t.Errorf("%q has the unit %q, which is none of %v", p.Title, p.FieldConfig.Defaults.Unit, units)
		}
		all.mentions(t, p.Title, p.Description)
		for _, q := range p.Targets {
			expr := strings.ReplaceAll(q.Expr, "$instance", ".*")
			for _, l := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				if !slices.Contains(all.reads(t, p.Title, expr), l[1]) {
					t.Errorf("a legend of %q names the label %s, which nothing has that it reads", p.Title, l[1])
				}
			}
			if list, _ := selectors(q.Expr); strings.Count(q.Expr, `instance=~"$instance"`) != len(list) {
				t.Errorf("%q is not all of the instance chosen: %s", p.Title, q.Expr)
			}
		}
	}
	if want := []string{"Overview", "Publishing", "Delivery", "Queue", "Notifications", "Store", "Process"}; !slices.Equal(rows, want) {
		t.Errorf("the rows are %v, want %v", rows, want)
	}
	variables := make(map[string]string)
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
		if text := fmt.Sprint(v.Query); v.Type == "query" {
			all.mentions(t, "the variable "+v.Name, text)
		}
	}
	if want := map[string]string{"datasource": "datasource", "instance": "query"}; !maps.Equal(variables, want) {
		t.Errorf("the variables are %v, want %v", variables, want)
	}
}

// The metrics of a daemon of which everything was asked are those of one that was asked nothing, with other values: each
// series is there from the start, so that increase() sees the first of anything. promtool, which TEST_PROMTOOL names, finds
// no fault with them.
func TestMetricsAfterTrafficOfEveryKind(t *testing.T) {
	t.Parallel()
	p := standIns(t, 0)
	dir, address := t.TempDir(), freeAddress(t)
	c, h := spawnReady(t, configFile(t, dir, address, p.settings), address, p.environ...)
	s := &sending{h, p, t}
	scrape := func() []byte { return h.as("").do("GET", "/metrics", nil).is(200).body }
	before := readSeries(string(scrape()))
	s.traffic()
	reloads := strings.Count(c.out.String(), "configuration reloaded")
	c.signal(syscall.SIGHUP)
	h.eventually("the reload is over", func() bool { return strings.Count(c.out.String(), "configuration reloaded") > reloads })

	moving := [][]string{
		{"herald_api_publications_refused_total", `"invalid"`},
		{"herald_api_publications_refused_total", `"conflict"`},
		{"herald_api_events_duplicate_total"},
		{"herald_ready"},
		{"herald_data_free_bytes"},
		{"herald_config_last_reload_successful"},
		{"herald_backups_total", `"done"`},
		{"herald_backup_last_success_timestamp_seconds"},
		{"herald_dispatch_attempts_total", `"delivered"`},
		{"herald_dispatch_attempts_total", `"retry"`},
		{"herald_dispatch_attempts_total", `"gone"`},
		{"herald_dispatch_disabled_total", `"gone"`},
		{"herald_dispatch_dead_total", `"exhausted"`},
		{"herald_handshake_attempts_total", `"delivered"`},
		{"herald_queue_replayed_total"},
		{"herald_notification_attempts_total", `"fcm"`, `"delivered"`},
		{"herald_notification_attempts_total", `"webpush"`, `"delivered"`},
		{"herald_notification_attempts_total", `"apns"`, `"gone"`},
		{"herald_notification_devices_removed_total", `"apns"`},
	}
	var text []byte
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("not counted yet: %v", moving)
		}
	})
	h.eventually("everything is counted", func() bool {
		text = scrape()
		moving = slices.DeleteFunc(moving, func(m []string) bool { return sample(t, string(text), m[0], m[1:]...) > 0 })
		return len(moving) == 0
	})

	key := func(name string, labels map[string]string) string { return fmt.Sprint(name, labels) }
	known := make(map[string]bool)
	for name, list := range before {
		for _, labels := range list {
			known[key(name, labels)] = true
		}
	}
	for name, list := range readSeries(string(text)) {
		for _, labels := range list {
			if strings.HasPrefix(name, "herald_") && !known[key(name, labels)] {
				t.Errorf("%s%v was not there at the start", name, labels)
			}
		}
	}
	if os.Getenv("TEST_PROMTOOL") != "" {
		if out := promtool(t, bytes.NewReader(text), "check", "metrics"); out != "" {
			t.Errorf("promtool finds fault with the metrics:\n%s", out)
		}
	}
}

// traffic has the daemon do something of everything it can do, and waits until it is done.
func (s *sending) traffic() {
	s.t.Helper()
	good, bad, gone, several := receive(s.t), receive(s.t), receive(s.t), receive(s.t)
	bad.status(500)
	gone.status(410)
	ok := s.subscribe(good.URL, fields{"exportFormat": "application/xml"})
	failing := s.subscribe(bad.URL, fields{"delivery": promptly(1)})
	leaving := s.subscribe(gone.URL, nil)
	batches := s.subscribe(several.URL, fields{"numberOfRecords": 10})
	s.subscribe(good.URL, fields{"validationCallbackURL": good.URL, "events": []string{"no.such"}})

	event := s.publish("task.create", "", fields{"n": 1})
	s.admin().do("POST", "/events", []any{fields{"id": "one", "type": "task.create", "data": fields{}}, fields{"type": "task.delete", "data": fields{}}}).is(202)
	s.admin().do("POST", "/events", fields{"id": "one", "type": "task.create", "data": fields{}}).is(202)
	s.admin().do("POST", "/events", fields{"id": "one", "type": "task.create", "data": fields{"n": 2}}).problem(409)
	s.admin().do("POST", "/events", `{`).problem(400)
	s.as("").do("POST", "/events", `{}`).problem(401)
	s.admin().do("GET", "/nowhere", nil).problem(404)
	for subscription, state := range map[string]string{ok: "delivered", batches: "delivered", failing: "dead", leaving: "held"} {
		s.delivery(event, subscription, state)
	}
	s.ended(ok, s.replay(ok, fields{"since": "2020-01-01T00:00:00Z"}))

	a := s.app("shop", nil)
	s.apns.Answer(iphone("old"), 1, standin.APNsAnswer{Status: 410, Reason: "Unregistered"})
	a.register("android", "ann", "phone", nil)
	a.register("ios", "ann", iphone("old"), nil)
	a.browser("ann", nil)
	message := a.send(to("ann"), shows("hello"))
	s.tried(message, 1)
	s.eventually("the dead device is removed", func() bool { return len(s.devices("ann")) == 2 })
	s.admin().do("GET", "/admin/backup", nil).is(200)
}

// promtool has Prometheus's own tool judge something, and returns what it prints.
func promtool(t *testing.T, input io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv("TEST_PROMTOOL"), args...)
	cmd.Stdin = input
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The rules and their tests, and the expressions of the dashboard, in the judgement of promtool, which TEST_PROMTOOL names.
func TestDocs_PrometheusJudged(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_PROMTOOL") == "" {
		t.Skip("TEST_PROMTOOL does not name promtool")
	}
	t.Run("rules", func(t *testing.T) {
		t.Parallel()
		checkRules(t, rulesFile, len(alertRules(t)))
	})
	t.Run("tests of the rules", func(t *testing.T) {
		t.Parallel()
		if out := promtool(t, nil, "test", "rules", ruleTestsFile); !strings.Contains(out, "SUCCESS") {
			t.Errorf("promtool says\n%s", out)
		}
	})
	t.Run("dashboard", func(t *testing.T) {
		t.Parallel()
		type rule struct{ Record, Expr string }
		var rules []rule
		for _, p := range readDashboard(t).Panels {
			for _, q := range p.Targets {
				expr := strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m").Replace(q.Expr)
				rules = append(rules, rule{fmt.Sprintf("panel%d:%s", p.ID, strings.ToLower(q.RefID)), expr})
			}
		}
		text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "dashboard.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		checkRules(t, path, len(rules))
	})
}

// checkRules fails the test unless promtool finds so many rules in a file and no fault with them.
func checkRules(t *testing.T, path string, n int) {
	t.Helper()
	if out := promtool(t, nil, "check", "rules", path); !strings.Contains(out, fmt.Sprintf("SUCCESS: %d rules found", n)) {
		t.Errorf("promtool says\n%s", out)
	}
}
