package daemon_test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The commands of the documents are run, in their order, in a directory of their own and with the real program on the PATH, and what they
// print is held against the page. Ids, times and sizes are another thing each time, but an id that a page shows again has to be the
// same one again, and a command that names it is given the one that there is.

// fence is a fenced block of a document.
type fence struct{ language, text string }

func fences(text string) []fence {
	var list []fence
	for _, m := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		list = append(list, fence{m[1], m[2]})
	}
	return list
}

// command is a command of a document, with what it is to print.
type command struct{ text, prints string }

// commands reads what stands after $ in a console block, or the lines of a block of shell, with those that go on after a backslash, a pipe
// or an open quotation mark; what follows in a console is printed.
func commands(b fence) []command {
	var list []command
	open := false
	for line := range strings.Lines(b.text) {
		start, ok := strings.CutPrefix(line, "$ ")
		if b.language == "sh" {
			ok = strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "#")
		}
		switch {
		case open:
			list[len(list)-1].text += line
		case ok:
			list = append(list, command{text: start})
		case len(list) > 0:
			list[len(list)-1].prints += line
			continue
		default:
			continue
		}
		text := list[len(list)-1].text
		open = strings.HasSuffix(line, "\\\n") || strings.HasSuffix(line, "|\n") || strings.Count(text, "'")%2 == 1
	}
	return list
}

// varying are the texts that are another thing each time, without white space.
var varying = []struct {
	pattern string
	id      bool // whether a page may show it again
}{
	{`hrld_[\w-]{43}`, true},
	{`msg_[0-9a-f]{32}`, true},
	{`(?:evt|msg|dev|tok|ce)_[0-9a-v]{26}`, true},
	{`dlv_[0-9a-v]{39}`, true},
	{`[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`, true},
	{`whsec_[\w+/]{20,}=*`, true},
	{`\d{13}\.[\w-]{43}`, true}, // the signature of a validation record
	{`whpk_[\w+/]{20,}=*`, false},
	{`\d{4}-\d\d-\d\d(?:T?\d\d:\d\d:\d\d(?:\.\d+)?Z)?`, false},
	{`\d{8}T\d{6}Z`, false},
	{`[A-Z][a-z]{2},\d\d[A-Z][a-z]{2}\d{4}\d\d:\d\d:\d\dGMT`, false},
	{`[A-Z][a-z]{2}\d{1,2}\d\d:\d\d:\d\d\d{4}GMT`, false},
	{`"B[\w-]{86}"`, false}, // a public key of VAPID
	{`[0-9a-f]{64}`, false},
	{`herald_[0-9a-f]{32}`, false},
	{`/m/[\w-]{16}`, false},
	{`projects/[\w-]+/messages/[\w:%-]+`, false},
	{`"tokenHint":"[\w-]+"`, false},
	{`"durationMs":[\d.]+`, false},
	{`duration_ms=[\d.]+`, false},
	{`"attempts":\d+`, false},                      // of a validation record, which is sent again soon
	{`"window":\d+|concurrency\.window\d+`, false}, // follows how fast the receiver was
	{`pid=\d+`, false},
	{`Content-Length:\d+`, false},
	{`[\d.]+[KMG]iB`, false},
	{`\d+(?:\.\d+)?µ?m?s(?:ago)?`, false},
}

var anyVarying = sync.OnceValue(func() *regexp.Regexp {
	groups := make([]string, 0, len(varying))
	for _, v := range varying {
		groups = append(groups, "("+v.pattern+")")
	}
	return regexp.MustCompile(strings.Join(groups, "|"))
})

// lasted is how long an attempt took, in a table, behind its time.
var lasted = regexp.MustCompile(`(:\d\dZ +)[\d.]+( |$)`)

// squeezed is a text without the places where a document folds its lines, and without how long attempts took.
func squeezed(text string) string {
	return strings.Join(strings.Fields(lasted.ReplaceAllString(text, "$1#$2")), "")
}

// pattern is what a text has to look like to be what a document shows, in which … stands for anything, and the ids in the document that are
// not known yet, one for each group of the pattern.
func pattern(document string, known map[string]string) (*regexp.Regexp, []string) {
	var b strings.Builder
	var unknown []string
	literal := func(s string) { b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(s), "…", ".*")) }
	document = squeezed(document)
	at := 0
	for _, m := range anyVarying().FindAllStringSubmatchIndex(document, -1) {
		literal(document[at:m[0]])
		at = m[1]
		text := document[m[0]:m[1]]
		kind := 0
		for m[2+2*kind] < 0 {
			kind++
		}
		switch is, ok := known[text]; {
		case !varying[kind].id:
			b.WriteString("(?:" + varying[kind].pattern + ")")
		case ok:
			literal(is)
		default:
			unknown = append(unknown, text)
			b.WriteString("(" + varying[kind].pattern + ")")
		}
	}
	literal(document[at:])
	return regexp.MustCompile("(?s)" + b.String()), unknown
}

// programsDir is what TestMain removes; empty until programs has made it.
var programsDir string

// programs is a directory with the program, and with the receiver in Go of the documents, built once for all pages.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "herald")
	if err != nil {
		return "", err
	}
	programsDir = dir
	if out, err := exec.Command("go", "build", "-o", dir, "herald", "herald/docs/receivers/go").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return dir, os.Rename(filepath.Join(dir, "go"), filepath.Join(dir, "receiver"))
})

// srv is the working directory in the documents.
const srv = "/srv"

// console runs the commands of a page.
type console struct {
	t       *testing.T
	page    string
	dir     string
	environ []string
	prelude string            // functions, for all commands that come
	replace *strings.Replacer // what a document says by what there is
	restore *strings.Replacer
	set     []string          // the variables that commands have set
	ids     map[string]string // those of the document, by those there are
	running []running
}

// running is a command that does not end by itself.
type running struct {
	*child
	text string
}

// newConsole takes pairs of what a document says and what there is in its place.
func newConsole(t *testing.T, page string, pairs ...string) *console {
	t.Helper()
	for _, tool := range []string{"sh", "curl", "awk", "openssl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	dir, err := os.MkdirTemp("", "herald") // short, because there is a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	back := slices.Clone(pairs)
	for i := 0; i < len(back); i += 2 {
		back[i], back[i+1] = back[i+1], back[i]
	}
	return &console{
		t: t, page: page, dir: dir, replace: strings.NewReplacer(pairs...), restore: strings.NewReplacer(back...), ids: make(map[string]string),
		environ: append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "no_proxy=*"),
	}
}

// script is what sh is given for a command: the variables of those before are there.
func (c *console) script(text string) string {
	text = c.replace.Replace(text)
	for said, is := range c.ids {
		text = strings.ReplaceAll(text, said, is)
	}
	return c.prelude + "\n[ -f .vars ] && . ./.vars\n" + text
}

func (c *console) command(script string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), "sh", "-c", script)
	cmd.Dir, cmd.Env = c.dir, c.environ
	return cmd
}

// run runs a command to its end, and returns what it printed to either.
func (c *console) run(text string) (out, wrong string, err error) {
	c.t.Helper()
	// What a command sets is written down for the next; its exit status is that of all.
	for _, m := range regexp.MustCompile(`\b([A-Z]+)=`).FindAllStringSubmatch(text, -1) {
		c.set = append(c.set, m[1])
	}
	cmd := c.command(c.script(text) + "\nexit=$?; set | grep -E '^(" + strings.Join(c.set, "|") + ")=' >.vars; exit $exit")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	said := func(b bytes.Buffer) string { return strings.ReplaceAll(c.restore.Replace(b.String()), c.dir, srv) }
	return said(stdout), said(stderr), err
}

// quietly runs what a page takes for granted.
func (c *console) quietly(text string) string {
	c.t.Helper()
	out, wrong, err := c.run(text)
	if err != nil {
		c.t.Fatalf("%s: %v\n%s%s", text, err, out, wrong)
	}
	return out
}

// stay starts a command that does not end by itself.
func (c *console) stay(text string) {
	c.t.Helper()
	// The shell makes way for the program, so that a signal reaches it.
	assignments := regexp.MustCompile(`^(?:[A-Z_]+=(?:\$\([^)]*\)|\S)* )*`).FindString(text)
	cmd := c.command(c.script(assignments + "exec " + text[len(assignments):]))
	cmd.WaitDelay = patience
	c.running = append(c.running, running{launch(c.t, text, cmd), text})
}

// shows says whether a text is what the document shows, as a whole or somewhere in it, and remembers the ids.
func (c *console) shows(document, text string, whole bool) bool {
	p, unknown := pattern(document, c.ids)
	text = squeezed(text)
	m := p.FindStringSubmatchIndex(text)
	if m == nil || whole && (m[0] != 0 || m[1] != len(text)) {
		return false
	}
	for i, id := range unknown {
		c.ids[id] = text[m[2+2*i]:m[3+2*i]]
	}
	return true
}

// reading are commands that change nothing, and may be run until they print what they are to print.
var reading = regexp.MustCompile(`^(curl|api|cat|herald \w+ (list|show|status)|herald event show)\b`)

// check runs a command and holds what it prints against the page; where the page shows nothing, it has to succeed.
func (c *console) check(cmd command) {
	c.t.Helper()
	if name, ok := strings.CutSuffix(regexp.MustCompile(`^\w+\(\)`).FindString(cmd.text), "()"); ok && name != "" {
		c.prelude += "\n" + c.replace.Replace(cmd.text)
		return
	}
	again := reading.MatchString(cmd.text) && (!regexp.MustCompile(` (-d|-X|--data-binary) `).MatchString(cmd.text) || strings.Contains(cmd.text, "dryRun"))
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, wrong, err := c.run(cmd.text)
		if cmd.prints == "" && err == nil {
			return
		}
		if cmd.prints != "" && slices.ContainsFunc([]string{out, wrong, wrong + out, out + wrong}, func(s string) bool { return c.shows(cmd.prints, s, true) }) {
			return
		}
		if !again || time.Now().After(deadline) {
			c.t.Fatalf("%s prints\n%s%s(%v)\n%s says\n%s", cmd.text, out, wrong, err, c.page, cmd.prints)
		}
	}
}

// appears waits until one of the running commands has printed what the page shows.
func (c *console) appears(text string) {
	c.t.Helper()
	eventually(c.t, "somebody prints "+text, func() bool {
		return slices.ContainsFunc(c.running, func(r running) bool { return c.shows(text, c.restore.Replace(r.out.String()), false) })
	})
}

// interrupt ends the running commands that have the text in them, as Ctrl-C does.
func (c *console) interrupt(part string) {
	c.t.Helper()
	c.running = slices.DeleteFunc(c.running, func(r running) bool {
		if !strings.Contains(r.text, part) {
			return false
		}
		r.signal(syscall.SIGINT)
		r.exit()
		return true
	})
}

// page is how the commands of a document are run.
type page struct {
	file string
	// setUp makes what the page takes for granted; nil is nothing but an empty directory.
	setUp func(c *console)
	// pairs are further texts of the document, each with what takes its place.
	pairs []string
	// stays are the beginnings of the commands that go on running beside those that follow.
	stays []string
	// before has something done before the command that begins so.
	before map[string]func(c *console)
	// not has the beginnings of commands, and of blocks that show what they print, that are not run, and why.
	not map[string]string
}

// begins returns the element that a text begins with.
func begins(text string, list []string) (string, bool) {
	i := slices.IndexFunc(list, func(s string) bool { return strings.HasPrefix(text, s) })
	if i < 0 {
		return "", false
	}
	return list[i], true
}

// ports counts the ports that pages were given.
var ports atomic.Int64

// ownPort is a port of loopback for a program that listens later, and again after an end. So it is below those that the system gives to
// whoever asks for any (from 32768 on), and of this process among those that run the tests.
func ownPort(t *testing.T) string {
	t.Helper()
	const first, blocks, size = 20000, 600, 20
	for range size {
		port := strconv.Itoa(first + os.Getpid()%blocks*size + int(ports.Add(1)%size))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// run runs all of the page. What it does not run, and what it does before a command, has to be there.
func (p page) run(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the program: not with -short")
	}
	built, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	api, hooks := ownPort(t), ownPort(t)
	// A page has the days it was written on; some of its commands are about today, or a day to come.
	now := time.Now().UTC()
	c := newConsole(t, p.file, append(p.pairs, "2026-11-22", now.Format(time.DateOnly), "2027-01-01", now.AddDate(1, 0, 0).Format(time.DateOnly), "localhost:8420", "localhost:"+api, "127.0.0.1:8420", "127.0.0.1:"+api,
		"localhost:9000", "localhost:"+hooks, "127.0.0.1:9000", "127.0.0.1:"+hooks)...)
	// What failed waits longer than a page takes, however busy the machine is.
	c.environ = append(c.environ, "HERALD_DELIVERY_RETRY_SCHEDULE=1h", "HERALD_LISTEN_ADDRESS=127.0.0.1:"+api, "RECEIVER_PORT="+hooks)
	for _, name := range []string{"herald", "receiver"} {
		if err := os.Symlink(filepath.Join(built, name), filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if p.setUp != nil {
		p.setUp(c)
	}
	used := make(map[string]bool)
	not, before := slices.Collect(maps.Keys(p.not)), slices.Collect(maps.Keys(p.before))
	ran := 0
	for _, b := range fences(document(t, p.file)) {
		if b.language != "console" && b.language != "sh" && b.language != "" {
			continue
		}
		list := commands(b)
		if len(list) == 0 {
			if why, ok := begins(b.text, not); ok {
				used[why] = true
				continue
			}
			for line := range strings.Lines(b.text) {
				c.appears(line)
			}
		}
		for _, cmd := range list {
			if why, ok := begins(cmd.text, not); ok {
				used[why] = true
				continue
			}
			if what, ok := begins(cmd.text, before); ok {
				used[what] = true
				p.before[what](c)
			}
			ran++
			if _, ok := begins(cmd.text, p.stays); ok {
				c.stay(strings.TrimSpace(cmd.text))
				if cmd.prints != "" {
					c.appears(cmd.prints)
				}
				continue
			}
			c.check(cmd)
		}
	}
	for _, s := range append(not, before...) {
		if !used[s] {
			t.Errorf("%s has nothing that begins with %q", p.file, s)
		}
	}
	if ran == 0 && len(not) == 0 {
		t.Errorf("%s has no commands", p.file)
	}
}
