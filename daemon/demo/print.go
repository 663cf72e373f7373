package demo

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// printer writes the story. The first error is kept and ends the printing; the story looks at it
// between the steps.
type printer struct {
	w      io.Writer
	colour bool

	mu  sync.Mutex // kept demos print what arrives as it comes
	err error
}

// The colours, as SGR parameters of ECMA-48.
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
)

const indent = "        "

func (p *printer) paint(sgr, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (p *printer) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	_, p.err = fmt.Fprintf(p.w, format, args...)
}

func (p *printer) opening(steps int) {
	p.printf("%s\n", p.paint(bold, "Herald demo: events in, durable, signed pushes out"))
	p.printf("%d steps on a real daemon, a receiver that verifies every push, and a browser, played by a stand-in, that decrypts what it is sent.\nLines with $ can be pasted into a shell.\n", steps)
}

func (p *printer) step(n, of int, title string) {
	p.printf("\n%s\n", p.paint(bold, fmt.Sprintf("[%2d/%d]  %s", n, of, title)))
}

// command prints what a person would type. Continued lines are indented, so that it can be pasted.
func (p *printer) command(text string) {
	p.printf("%s%s\n", indent, p.paint(faint, "$ "+text))
}

// note tells what happened.
func (p *printer) note(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		p.printf("%s%s\n", indent, line)
	}
}

// proved tells what was checked and found right.
func (p *printer) proved(format string, args ...any) {
	p.printf("%s%s %s\n", indent, p.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// failed marks the step that is being told.
func (p *printer) failed() {
	p.printf("%s%s this did not come out as told\n", indent, p.paint(red, "✗"))
}

// figure is one line of the summary.
type figure struct{ name, value string }

func (p *printer) summary(fs []figure) {
	p.printf("\n%s\n", p.paint(bold, "Summary"))
	width := 0
	for _, f := range fs {
		width = max(width, len(f.name))
	}
	for _, f := range fs {
		p.printf("%s%-*s  %8s\n", indent, width, f.name, f.value)
	}
	p.printf("\n%s every step came out as told\n", p.paint(green, "✓"))
}

// tracer prints each request that passes as the curl command that makes the same one, with values
// that stand in a shell variable replaced by it.
type tracer struct {
	next http.RoundTripper
	out  *printer
	// names maps a value to the variable it was printed under.
	names map[string]string
	// socket is the path when the requests go to a unix socket.
	socket string
}

// RoundTrip implements http.RoundTripper.
func (t *tracer) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.GetBody != nil {
		r, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		if body, err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	t.out.command(curl(req, body, t.socket, t.names))
	return t.next.RoundTrip(req)
}

// curl writes the command line for a request. Headers that curl sends by itself, and those that say
// who we are and what we read, are left out.
func curl(req *http.Request, body []byte, socket string, names map[string]string) string {
	words := []string{"curl"}
	if socket != "" {
		words = append(words, "--unix-socket "+shell(socket, names))
	}
	natural := http.MethodGet
	if body != nil {
		natural = http.MethodPost
	}
	if req.Method != natural {
		words = append(words, "-X "+req.Method)
	}
	words = append(words, shell(req.URL.String(), names))
	var headers []string
	for name := range req.Header {
		if name != "User-Agent" && name != "Accept" {
			headers = append(headers, name)
		}
	}
	slices.Sort(headers)
	for _, name := range headers {
		words = append(words, "-H "+shell(name+": "+req.Header.Get(name), names))
	}
	if body != nil {
		words = append(words, "-d "+quote(string(body)))
	}
	return wrap(words)
}

// wrap breaks a command into lines that a shell reads as one.
func wrap(words []string) string {
	const width = 100
	var b strings.Builder
	column := 0
	for i, w := range words {
		switch {
		case i == 0:
		case column+len(w) > width:
			b.WriteString(" \\\n" + indent + "    ")
			column = len(indent) + 4
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(w)
		column += len(w)
	}
	return b.String()
}

// shell quotes a word, with known values in it replaced by their variables where what follows cannot
// be taken for a part of the name.
func shell(word string, names map[string]string) string {
	replaced := word
	for _, value := range slices.Sorted(maps.Keys(names)) {
		before, after, ok := strings.Cut(replaced, value)
		if ok && (after == "" || strings.ContainsRune("/?&", rune(after[0]))) {
			replaced = before + "$" + names[value] + after
		}
	}
	if replaced == word || !plain(word) {
		return quote(word)
	}
	return `"` + replaced + `"`
}

// plain says whether text has nothing that is special between double quotes.
func plain(text string) bool { return !strings.ContainsAny(text, "\"$`\\!\n") }

// quote makes one word of any text for a POSIX shell.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
