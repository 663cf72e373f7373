package daemon_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon/standin"
)

const devicesDocument = "../docs/devices.md"

// deadToken is the one in the document whose app was uninstalled.
const deadToken = "eXpiredPhone:APA91bOldOldOld"

// iPhone is the token of the one in the document.
const iPhone = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// command is a command of a document, with what it is to print.
type command struct{ text, prints string }

// fence is a fenced block of a document.
type fence struct{ language, text string }

func fences(text string) []fence {
	var list []fence
	for _, m := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		list = append(list, fence{m[1], m[2]})
	}
	return list
}

// commands reads what stands after $ in a console block, with lines that go on after a backslash or an open quotation mark, and what follows.
func commands(block string) []command {
	var list []command
	open := false
	for line := range strings.Lines(block) {
		switch start, ok := strings.CutPrefix(line, "$ "); {
		case open:
			list[len(list)-1].text += line
		case ok:
			list = append(list, command{text: start})
		case len(list) > 0:
			list[len(list)-1].prints += line
			continue
		}
		open = strings.HasSuffix(line, "\\\n") || len(list) > 0 && strings.Count(list[len(list)-1].text, "'")%2 == 1
	}
	return list
}

// variable is what is another thing each time.
var variable = regexp.MustCompile(strings.Join([]string{
	`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, `"durationMs":[\d.]+`, `"tokenHint":"[\w-]+"`, `herald_[0-9a-f]{32}`, `(msg|dev|evt|dlv)_[0-9a-v]+`, `whsec_[\w+/=]+`, `B[\w-]{86}`,
	`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, `/m/[\w-]{16}`, `projects/[\w-]+/messages/[\w:%-]+`,
}, "|"))

// skeleton is a text without what is another thing each time, and without the places where a document folds its lines.
func skeleton(text string) string {
	text = variable.ReplaceAllStringFunc(strings.Join(strings.Fields(text), ""), func(s string) string {
		return "<" + regexp.MustCompile(`^("durationMs"|"tokenHint"|herald_|[a-z]{3}_|whsec_|/m/|projects/)?`).FindString(s) + ">"
	})
	return text
}

// printed says whether a text is what a document shows, in which … stands for anything.
func printed(document, text string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(skeleton(document)), "…", ".*")
	return regexp.MustCompile("(?s)^" + pattern + "$").MatchString(skeleton(text))
}

// shell runs commands one after the other, with the variables of those before.
type shell struct {
	t       *testing.T
	dir     string
	prelude string
	replace *strings.Replacer // what a document says by what there is
	restore *strings.Replacer
}

func (s *shell) run(text string) string {
	s.t.Helper()
	// What a command sets is written down for the next.
	script := s.prelude + "\n[ -f vars ] && . ./vars\n" + s.replace.Replace(text) + "\nset | grep -E '^(KEY|[A-Z])=' >vars.new; mv vars.new vars"
	cmd := exec.CommandContext(s.t.Context(), "sh", "-c", script)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "no_proxy=*")
	var out, wrong bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &wrong
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%s: %v\n%s", text, err, wrong.String())
	}
	return s.restore.Replace(out.String())
}

// check runs a command until it prints what it is to print; one that changes something, once.
func (s *shell) check(c command) {
	s.t.Helper()
	var out string
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if out = s.run(c.text); printed(c.prints, out) {
			return
		}
		if strings.Contains(c.text, " -d ") || time.Now().After(deadline) {
			s.t.Fatalf("%s prints\n%s\n%s says\n%s", c.text, out, devicesDocument, c.prints)
		}
	}
}

// TestDocs_DevicesCommandsDoWhatTheySay runs every command of the document, in its order, against a daemon with stand-ins in the place of the
// providers. What each prints has to be what stands there, and each JSON in it what a provider, a browser or a receiver was sent.
func TestDocs_DevicesCommandsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"sh", "curl", "awk"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	text := document(t, devicesDocument)
	dir := t.TempDir()

	google, err := standin.NewFCM(standin.FCMOptions{Project: "shop-4711", Keep: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer google.Close()
	google.For(deadToken, standin.FCMError("UNREGISTERED"))
	apple, err := standin.NewAPNs(standin.APNsOptions{Topic: "com.example.shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer apple.Close()
	var mu sync.Mutex
	var shown []string // what browsers and iPhones got
	browsers, err := standin.NewWebPush(standin.WebPushOptions{
		Origin: "https://updates.push.services.mozilla.com",
		Received: func(m standin.WebPushMessage) {
			mu.Lock()
			defer mu.Unlock()
			shown = append(shown, string(m.Payload))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer browsers.Close()
	backend := receive(t)

	trusted := apple.CA()
	for _, p := range []interface{ CAFile(string) (string, error) }{google, browsers} {
		path, err := p.CAFile(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		trusted = append(trusted, document(t, path)...)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", trusted)
	h := startWith(t, t.TempDir(), []string{"HERALD_EGRESS_CA_FILE=" + filepath.Join(dir, "ca.pem")}, fmt.Sprintf("providers: {fcm: {url: '%s'}, apns: {url: '%s'}, webpush: {url: '%s'}}",
		google.URL(), apple.URL(), browsers.URL()), "public_url: https://herald.example")
	write("service-account.json", google.ServiceAccount())
	write("AuthKey_ABC123DEFG.p8", apple.Key().PEM)

	pairs := []string{
		"localhost:8420", strings.TrimPrefix(h.URL, "http://"), "ABC123DEFG", apple.Key().KeyID, "TEAM123456", apple.Key().TeamID,
		"https://backend.shop.example", backend.URL, "AuthKey_ABC123DEFG.p8", "AuthKey_ABC123DEFG.p8", "https://oauth2.googleapis.com/token", google.URL() + "/token",
	}
	back := slices.Clone(pairs)
	slices.Reverse(back)
	s := &shell{
		t: t, dir: dir, replace: strings.NewReplacer(pairs...), restore: strings.NewReplacer(back...),
		prelude: "TOKEN=" + h.token("default", "devices", "send", "subscribe", "publish").token + "\n",
	}
	// sent is all JSON that somebody was sent.
	sent := func() []string {
		mu.Lock()
		list := slices.Clone(shown)
		mu.Unlock()
		for _, r := range google.Requests() {
			list = append(list, string(r.Body))
		}
		if p, ok := apple.Last(iPhone); ok {
			list = append(list, string(p.Payload))
		}
		for _, p := range backend.got() {
			list = append(list, string(p.body))
		}
		return list
	}

	counts := make(map[string]int)
	for _, block := range fences(text) {
		counts[block.language]++
		switch block.language {
		case "sh":
			s.prelude += s.replace.Replace(block.text)
		case "json":
			eventually(t, "somebody is sent "+block.text, func() bool {
				return slices.ContainsFunc(sent(), func(s string) bool { return printed(block.text, s) })
			})
		case "console":
			for _, c := range commands(block.text) {
				counts["command"]++
				if strings.Contains(c.text, "subscription.json") { // which a browser makes, of the key that was made before
					subscribe(t, h, browsers, write)
				}
				s.check(c)
			}
		}
	}
	if counts["command"] < 30 || counts["json"] < 5 {
		t.Errorf("only these blocks were found: %v", counts)
	}
	for _, faults := range [][]string{google.Faults(), browsers.Faults()} {
		if len(faults) > 0 {
			t.Errorf("a stand-in finds fault: %v", faults)
		}
	}
}

// subscribe is a browser that subscribes with the key of the implementation shop.
func subscribe(t *testing.T, h *herald, browsers *standin.WebPush, write func(string, []byte)) {
	t.Helper()
	var app struct {
		Web struct {
			VAPID struct{ PublicKey string }
		}
	}
	h.admin().do("GET", "/implementations/shop", nil).is(200).into(&app)
	key, err := base64.RawURLEncoding.DecodeString(app.Web.VAPID.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	subscription, err := browsers.Subscribe(key)
	if err != nil {
		t.Fatal(err)
	}
	write("subscription.json", subscription)
}
