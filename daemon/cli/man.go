package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Man is the command man.
type Man struct {
	Markdown bool `help:"Write Markdown instead, as in docs/cli.md."`
}

// Help is shown below the summary.
func (Man) Help() string {
	return `One page, herald(1), with all commands; it is made from the same description as the help.

Examples:

    herald man | man -l -

    herald man > /usr/local/share/man/man1/herald.1`
}

// Run prints the page.
func (c Man) Run(s Streams, v Version, k *kong.Context) error {
	var p page = &roff{}
	if c.Markdown {
		p = &markdown{}
	}
	_, err := io.WriteString(s.Stdout, manual(p, v, k.Model))
	return err
}

// page is a document in one of the two notations.
type page interface {
	title(name, description string, v Version)
	heading(level int, text string)
	paragraph(text string)
	// code is lines that stay as they are.
	code(lines string)
	// term is a flag or an argument, and what it means.
	term(name, text string)
	String() string
}

// daemonGroup is the group of flags that every command has which speaks to a daemon. They are told once.
const daemonGroup = "Which daemon:"

// manual writes all commands into the page.
func manual(p page, v Version, app *kong.Application) string {
	p.title(app.Name, app.Help, v)
	for _, n := range visible(app.Node)[1:] {
		level := strings.Count(path(n), " ")
		p.heading(level, path(n))
		p.paragraph(n.Help)
		if n.Leaf() {
			p.code(path(n) + usageOf(n))
			detail(p, n.Detail)
			terms(p, n)
		}
	}
	p.heading(1, "The flags of all that speak to a daemon")
	for _, n := range app.Leaves(true) {
		if flags := inGroup(n, daemonGroup); len(flags) > 0 {
			for _, f := range flags {
				p.term(flagUsage(f), f.Help)
			}
			break
		}
	}
	p.heading(1, "Exit codes")
	p.term("0", "It is done.")
	p.term("1", "It failed; standard error says why, and what to do next.")
	p.term("2", "The command line or the configuration is wrong.")
	p.heading(1, "Environment")
	p.term("HERALD_URL", "The address of the daemon to talk to, in place of the socket.")
	p.term("HERALD_TOKEN", "The access token for that address.")
	p.term("HERALD_CA, HERALD_CERT, HERALD_KEY", "The files of --ca, --cert and --key, for an https:// address.")
	p.term("HERALD_LISTEN_ADDRESS and the like", "Each setting of the configuration; config.example.yaml documents them.")
	p.term("NO_COLOR", "When set to anything, nothing is coloured. Nothing is either where the output is no terminal.")
	return p.String()
}

// usageOf is what follows the name of a command.
func usageOf(n *kong.Node) string {
	words := []string{""}
	for _, a := range n.Positional {
		words = append(words, a.Summary())
	}
	if len(ownFlags(n)) > 0 {
		words = append(words, "[flags]")
	}
	return strings.Join(words, " ")
}

func flagUsage(f *kong.Flag) string {
	name := "--" + f.Name
	if f.Tag.Negatable != "" {
		name = "--[no-]" + f.Name
	}
	if f.Short != 0 {
		name = fmt.Sprintf("-%c, %s", f.Short, name)
	}
	if !f.IsBool() {
		name += "=" + strings.TrimSuffix(f.FormatPlaceHolder(), ",...")
	}
	return name
}

func groupOf(f *kong.Flag) string {
	if f.Group == nil {
		return ""
	}
	return f.Group.Key
}

func inGroup(n *kong.Node, group string) []*kong.Flag {
	return slices.DeleteFunc(ownFlags(n), func(f *kong.Flag) bool { return groupOf(f) != group })
}

// terms writes the arguments and the flags of a command.
func terms(p page, n *kong.Node) {
	for _, a := range n.Positional {
		p.term(a.Summary(), a.Help)
	}
	for _, f := range ownFlags(n) {
		if groupOf(f) != daemonGroup {
			p.term(flagUsage(f), f.Help)
		}
	}
	if len(inGroup(n, daemonGroup)) > 0 {
		p.paragraph("It also has the flags of all that speak to a daemon.")
	}
}

// detail writes the long help: paragraphs, and examples indented by four spaces.
func detail(p page, text string) {
	var code []string
	for part := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(part, "    ") {
			for line := range strings.Lines(part) {
				code = append(code, strings.TrimPrefix(strings.TrimRight(line, "\n"), "    "))
			}
			continue
		}
		if code != nil {
			p.code(strings.Join(code, "\n"))
			code = nil
		}
		if part != "" {
			p.paragraph(part)
		}
	}
	if code != nil {
		p.code(strings.Join(code, "\n"))
	}
}

// markdown is a page for a repository.
type markdown struct {
	strings.Builder
	listing bool
}

func (m *markdown) block(text string) {
	m.listing = false
	m.WriteString("\n" + text + "\n")
}

func (m *markdown) title(_, description string, _ Version) {
	m.WriteString("# The command line\n")
	m.block("This page is written by `herald man --markdown`; `herald man` writes it as a manual page, and `--help` of each command has its part.")
	intro(m, description)
}

// intro writes the description of the program: a sentence, then lines of examples.
func intro(p page, description string) {
	sentence, examples, _ := strings.Cut(description, "\n\n")
	p.paragraph(sentence)
	p.code(examples)
}

func (m *markdown) heading(level int, text string) {
	m.block(strings.Repeat("#", level+1) + " " + text)
}

// plain takes from Markdown what the texts do not mean by it.
var plain = strings.NewReplacer("<", "&lt;", "*", `\*`, "_", `\_`)

func (m *markdown) paragraph(text string) { m.block(plain.Replace(text)) }
func (m *markdown) code(lines string)     { m.block("```sh\n" + lines + "\n```") }

func (m *markdown) term(name, text string) {
	if !m.listing {
		m.WriteByte('\n')
		m.listing = true
	}
	fmt.Fprintf(&m.Builder, "- `%s`: %s\n", name, plain.Replace(text))
}

// roff is a page for man, in the macros of man(7).
type roff struct{ strings.Builder }

// escape keeps text from being taken as a request, and a hyphen from becoming a dash.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...").Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

func (r *roff) title(name, description string, v Version) {
	sentence, _, _ := strings.Cut(description, "\n\n")
	fmt.Fprintf(&r.Builder, ".TH %s 1 \"\" \"herald %s\"\n.SH NAME\n%s \\- %s\n.SH SYNOPSIS\n.B %s\n.I command\n[flags]\n.SH DESCRIPTION\n",
		strings.ToUpper(name), escape(v.Number), name, escape(strings.TrimSuffix(sentence, ".")), name)
	intro(r, description)
}

func (r *roff) heading(level int, text string) {
	if level == 1 {
		fmt.Fprintf(&r.Builder, ".SH %s\n", escape(strings.ToUpper(text)))
		return
	}
	fmt.Fprintf(&r.Builder, ".SS %s\n", escape(text))
}

func (r *roff) paragraph(text string) { fmt.Fprintf(&r.Builder, ".PP\n%s\n", escape(text)) }
func (r *roff) code(lines string) {
	fmt.Fprintf(&r.Builder, ".PP\n.RS 4\n.nf\n%s\n.fi\n.RE\n", escape(lines))
}

func (r *roff) term(name, text string) {
	fmt.Fprintf(&r.Builder, ".TP\n\\fB%s\\fR\n%s\n", escape(name), escape(text))
}
