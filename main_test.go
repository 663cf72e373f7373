package main

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"herald/daemon/cli"
)

func program() cli.Program {
	return cli.Program{Commands: &commands{}, Description: description, Number: "1.0", Example: example}
}

func parser(t *testing.T) *kong.Kong {
	t.Helper()
	p, err := program().Parser(cli.Streams{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every command teaches by example, and what it shows is understood by the program.
func TestExamples(t *testing.T) {
	t.Parallel()
	p := parser(t)
	check := func(where, text string) (shown []string) {
		for line := range strings.Lines(text) {
			for _, args := range calls(line) {
				// Each parse is for itself: the values of one must not be seen by the next.
				if _, err := parser(t).Parse(args); err != nil {
					t.Errorf("%s shows `herald %s`, which is not understood: %v", where, strings.Join(args, " "), err)
				}
				shown = append(shown, "herald "+strings.Join(args, " ")+" ")
			}
		}
		return shown
	}
	for _, n := range p.Model.Leaves(true) {
		path := strings.TrimSpace(n.FullPath())
		var code strings.Builder
		for line := range strings.Lines(n.Detail) {
			if strings.HasPrefix(line, "    ") {
				code.WriteString(line)
			}
		}
		shown := check(path+" --help", code.String())
		if !slices.ContainsFunc(shown, func(s string) bool { return strings.HasPrefix(s, path+" ") }) {
			t.Errorf("%s --help has no example of it", path)
		}
		if n.Help == "" || !strings.HasSuffix(n.Help, ".") {
			t.Errorf("%s: the summary %q is no sentence", path, n.Help)
		}
		for _, f := range n.Flags {
			if f.Help == "" && !f.Hidden {
				t.Errorf("%s --%s has no help", path, f.Name)
			}
		}
		for _, a := range n.Positional {
			if a.Help == "" {
				t.Errorf("%s %s has no help", path, a.Name)
			}
		}
	}
	if len(check("herald --help", regexp.MustCompile(`(?m)^.*:   +`).ReplaceAllString(description, ""))) < 5 {
		t.Error("herald --help shows too little")
	}
}

// calls finds the calls of herald in a line of shell, as words. It knows quotes, and where a command ends.
func calls(line string) (out [][]string) {
	var words []string
	word, quote, begun := "", rune(0), false
	end := func() {
		if begun {
			words = append(words, word)
		}
		word, begun = "", false
	}
	finish := func() {
		end()
		for len(words) > 0 && strings.Contains(words[0], "=") {
			words = words[1:] // variables set for the command
		}
		if len(words) > 0 && words[0] == "herald" {
			out = append(out, words[1:])
		}
		words = nil
	}
	text, _, _ := strings.Cut(strings.TrimSpace(line), "   ") // what stands apart behind an example explains it
	for _, r := range strings.ReplaceAll(text, "$(herald", " herald") {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case strings.ContainsRune("|&;<>)", r):
			finish()
		case r == ' ' || r == '\n':
			end()
		default:
			word, begun = word+string(r), true
		}
	}
	finish()
	return out
}
