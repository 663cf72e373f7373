package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// typed runs one command line and returns what it printed.
func typed(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := program().Run(args, cli.Streams{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}); code != 0 {
		t.Fatalf("herald %s: exit code %d: %s", strings.Join(args, " "), code, errs.String())
	}
	return out.String()
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

// What the pages show is understood too: whole calls in their blocks, and the names of commands in their sentences. The blocks of
// docs/cli.md are those of --help.
func TestExamplesOfPages(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.FromSlash("docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool) // the commands there are, and the groups of them
	for _, n := range parser(t).Model.Leaves(false) {
		for words := strings.Fields(n.FullPath()); len(words) > 0; words = words[:len(words)-1] {
			named[strings.Join(words, " ")] = true
		}
	}
	block := regexp.MustCompile("(?ms)^```(?:sh|console)\n(.*?)^```$")
	n := 0
	for _, path := range append(pages, "README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			if filepath.Base(path) == "cli.md" {
				break
			}
			for line := range strings.Lines(strings.ReplaceAll(m[1], "\\\n", " ")) {
				line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "sudo "), "./")
				for _, args := range calls(regexp.MustCompile(`^([A-Z]+=\$\()\./`).ReplaceAllString(line, "$1")) {
					if len(args) == 0 {
						continue // the name of a certificate, say
					}
					n++
					if _, err := parser(t).Parse(args); err != nil {
						t.Errorf("%s shows `herald %s`, which is not understood: %v", path, strings.Join(args, " "), err)
					}
				}
			}
		}
		for _, m := range regexp.MustCompile("`(herald(?: [a-z][a-z-]*)+)").FindAllStringSubmatch(block.ReplaceAllString(string(text), ""), -1) {
			n++
			words := strings.Fields(m[1])
			for len(words) > 1 && !named[strings.Join(words, " ")] { // arguments come last
				words = words[:len(words)-1]
			}
			if len(words) == 1 {
				t.Errorf("%s names `%s`, which is no command", path, m[1])
			}
		}
	}
	if n < 80 {
		t.Errorf("only %d calls were found", n)
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

func TestDocumentIsWhatTheProgramSays(t *testing.T) {
	t.Parallel()
	got, err := os.ReadFile(filepath.FromSlash("docs/cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := typed(t, "man", "--markdown")
	if string(got) != want {
		t.Error("docs/cli.md is out of date; write it anew with: go run . man --markdown > docs/cli.md")
	}
	for _, n := range parser(t).Model.Leaves(true) {
		path := strings.TrimSpace(n.FullPath())
		_, section, found := strings.Cut(want, "# "+path+"\n")
		if !found {
			t.Errorf("%s is not in it", path)
			continue
		}
		section, _, _ = strings.Cut(section, "\n#")
		_, shared, _ := strings.Cut(want, "## The flags of all that speak to a daemon\n")
		for _, f := range n.Flags {
			if mention := regexp.MustCompile(`--(\[no-\])?` + f.Name + "[=`]"); f.Name != "help" && !mention.MatchString(section) && !mention.MatchString(shared) {
				t.Errorf("%s --%s is not in it", path, f.Name)
			}
		}
	}
}

func TestManualPage(t *testing.T) {
	t.Parallel()
	page := typed(t, "man")
	for _, want := range []string{".TH HERALD 1 ", ".SS herald subscription create\n", `\fB\-\-data\-callback\-url=URL\fR`, ".SH EXIT CODES\n", "\nHERALD_URL"} {
		if !strings.Contains(strings.ReplaceAll(page, `\fB`+"HERALD", "HERALD"), want) && !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !regexp.MustCompile(`^\.(TH|SH|SS|PP|TP|RS|RE|nf|fi|B|I)\b`).MatchString(line) {
			t.Errorf("this line is taken as a request: %q", line)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("without groff nobody judges the page")
	}
	cmd := exec.CommandContext(t.Context(), groff, "-man", "-ww", "-z", "-Tutf8")
	cmd.Stdin = strings.NewReader(page)
	if said, err := cmd.CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("groff: %v\n%s", err, said)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := typed(t, "completion", shell)
		for _, n := range parser(t).Model.Leaves(true) {
			path := strings.TrimSpace(n.FullPath())
			if !strings.Contains(script, path) {
				t.Errorf("%s: %s is not completed", shell, path)
			}
			for _, f := range n.Flags {
				if f.Name != "help" && !strings.Contains(script, "--"+f.Name) && !strings.Contains(script, "-l "+f.Name+" ") {
					t.Errorf("%s: %s --%s is not completed", shell, path, f.Name)
				}
			}
		}
		if strings.Contains(script, "bench-ingest") {
			t.Errorf("%s: what is hidden is completed", shell)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // the others are checked all the same
		}
		file := filepath.Join(t.TempDir(), "herald")
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.CommandContext(t.Context(), path, "-n", file).CombinedOutput(); err != nil || len(said) > 0 {
			t.Errorf("%s -n: %v\n%s", shell, err, said)
		}
		if shell == "bash" {
			bashCompletes(t, path, file)
		}
	}
}

// bashCompletes asks a real bash what it offers.
func bashCompletes(t *testing.T, bash, file string) {
	t.Helper()
	for line, want := range map[string]string{
		"herald subscription re":            "resume replay",
		"herald subscription replay ":       "start list show cancel --help",
		"herald token create --scope s":     "subscribe send",
		"herald completion ":                "bash zsh fish --help",
		"herald account list --j":           "--json",
		"herald account show list --acc":    "--account",
		"herald event publish --type ":      "",
		"herald delivery list --state deli": "delivering delivered",
		"herald nonsense tok":               "token",
	} {
		words := strings.Split(line, " ")
		for i := range words {
			words[i] = fmt.Sprintf("'%s'", words[i])
		}
		ask := fmt.Sprintf(`source %s; COMP_WORDS=(%s); COMP_CWORD=%d; _herald; echo "${COMPREPLY[*]}"`, file, strings.Join(words, " "), len(words)-1)
		got, err := exec.CommandContext(t.Context(), bash, "-c", ask).CombinedOutput()
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%q is completed with %q (%v), want %q", line, strings.TrimSpace(string(got)), err, want)
		}
	}
}
