package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Completion is the command completion.
type Completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is shown below the summary.
func (Completion) Help() string {
	return `The script knows the commands, their flags, and the values of flags that have few; for all else it offers files. It is made from the same description as the help.

Examples:

    herald completion bash > /etc/bash_completion.d/herald

    herald completion zsh > "${fpath[1]}/_herald"

    herald completion fish > ~/.config/fish/completions/herald.fish`
}

// Run prints the script.
func (c Completion) Run(s Streams, k *kong.Context) error {
	nodes := visible(k.Model.Node)
	var b strings.Builder
	switch c.Shell {
	case "bash":
		bash(&b, nodes)
	case "zsh":
		zsh(&b, nodes)
	default:
		fish(&b, nodes)
	}
	_, err := io.WriteString(s.Stdout, b.String())
	return err
}

// visible returns a command and all below it, in the order in which they are declared.
func visible(n *kong.Node) []*kong.Node {
	out := []*kong.Node{n}
	for _, child := range n.Children {
		if !child.Hidden {
			out = append(out, visible(child)...)
		}
	}
	return out
}

// ownFlags are the flags of a command that are its own: not --help, which all have.
func ownFlags(n *kong.Node) []*kong.Flag {
	var out []*kong.Flag
	for _, f := range n.Flags {
		if f.Name != "help" && !f.Hidden {
			out = append(out, f)
		}
	}
	return out
}

// path is how a command is called.
func path(n *kong.Node) string { return strings.TrimSpace(n.FullPath()) }

// choices are the values of a flag or an argument that has few, in the order of the help.
func choices(v *kong.Value) []string {
	var out []string
	for _, e := range v.EnumSlice() {
		if e != "" {
			out = append(out, e)
		}
	}
	return out
}

// positional are the choices of the first argument of a command.
func positional(n *kong.Node) []string {
	if len(n.Positional) == 0 {
		return nil
	}
	return choices(n.Positional[0])
}

// quote makes one word of a shell of any text, such as a help text.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// below lists the paths of the commands under the first: those that a word can lead to.
func below(nodes []*kong.Node) string {
	var out []string
	for _, n := range nodes[1:] {
		out = append(out, quote(path(n)))
	}
	return strings.Join(out, "|")
}

func bash(b *strings.Builder, nodes []*kong.Node) {
	fmt.Fprintf(b, `# bash completion for herald
_herald() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=herald words='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$at ${COMP_WORDS[i]}" in
      %s) at="$at ${COMP_WORDS[i]}" ;;
    esac
  done
  case "$at $prev" in
`, below(nodes))
	for _, n := range nodes {
		for _, f := range ownFlags(n) {
			if f.IsBool() {
				continue
			}
			// No words at all means files.
			fmt.Fprintf(b, "    %s) COMPREPLY=($(compgen -W %s -- \"$cur\")); return ;;\n",
				quote(path(n)+" --"+f.Name), quote(strings.Join(choices(f.Value), " ")))
		}
	}
	b.WriteString("  esac\n  case \"$at\" in\n")
	for _, n := range nodes {
		words := positional(n)
		for _, child := range n.Children {
			if !child.Hidden {
				words = append(words, child.Name)
			}
		}
		for _, f := range ownFlags(n) {
			words = append(words, "--"+f.Name)
		}
		fmt.Fprintf(b, "    %s) words=%s ;;\n", quote(path(n)), quote(strings.Join(append(words, "--help"), " ")))
	}
	b.WriteString(`  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _herald herald
`)
}

func zsh(b *strings.Builder, nodes []*kong.Node) {
	// The parameter path is zsh's own, so the place is called at.
	fmt.Fprintf(b, `#compdef herald
# zsh completion for herald
_herald() {
  local at=herald prev=${words[CURRENT-1]} i
  local -a found
  for ((i = 2; i < CURRENT; i++)); do
    case "$at ${words[i]}" in
      %s) at="$at ${words[i]}" ;;
    esac
  done
  case "$at $prev" in
`, below(nodes))
	for _, n := range nodes {
		for _, f := range ownFlags(n) {
			switch values := choices(f.Value); {
			case f.IsBool():
			case len(values) == 0:
				fmt.Fprintf(b, "    %s) _files; return ;;\n", quote(path(n)+" --"+f.Name))
			default:
				fmt.Fprintf(b, "    %s) compadd -- %s; return ;;\n", quote(path(n)+" --"+f.Name), strings.Join(values, " "))
			}
		}
	}
	b.WriteString("  esac\n  case \"$at\" in\n")
	for _, n := range nodes {
		var words []string
		add := func(name, help string) {
			words = append(words, quote(strings.ReplaceAll(name, ":", `\:`)+":"+strings.ReplaceAll(help, ":", `\:`)))
		}
		for _, value := range positional(n) {
			add(value, value)
		}
		for _, child := range n.Children {
			if !child.Hidden {
				add(child.Name, child.Help)
			}
		}
		for _, f := range ownFlags(n) {
			add("--"+f.Name, f.Help)
		}
		add("--help", "Tell more.")
		fmt.Fprintf(b, "    %s) found=(%s) ;;\n", quote(path(n)), strings.Join(words, " "))
	}
	b.WriteString(`  esac
  _describe -V herald found || _files
}
if [ "$funcstack[1]" = "_herald" ]; then
  _herald "$@"
else
  compdef _herald herald
fi
`)
}

func fish(b *strings.Builder, nodes []*kong.Node) {
	var paths []string
	for _, n := range nodes[1:] {
		paths = append(paths, quote(path(n)))
	}
	fmt.Fprintf(b, `# fish completion for herald
function __herald_at
  set -l at herald
  for word in (commandline -opc)[2..-1]
    contains -- "$at $word" %s; and set at "$at $word"
  end
  test "$at" = "$argv"
end
complete -c herald -l help -s h -d 'Tell more.'
`, strings.Join(paths, " "))
	for _, n := range nodes {
		here := "complete -c herald -n " + quote("__herald_at "+path(n))
		if words := positional(n); len(words) > 0 {
			fmt.Fprintf(b, "%s -f -a %s\n", here, quote(strings.Join(words, " ")))
		}
		for _, child := range n.Children {
			if !child.Hidden {
				fmt.Fprintf(b, "%s -f -a %s -d %s\n", here, child.Name, quote(child.Help))
			}
		}
		for _, f := range ownFlags(n) {
			kind := ""
			switch values := choices(f.Value); {
			case f.IsBool():
			case len(values) == 0:
				kind = " -r"
			default:
				kind = " -x -a " + quote(strings.Join(values, " "))
			}
			fmt.Fprintf(b, "%s -l %s%s -d %s\n", here, f.Name, kind, quote(f.Help))
		}
	}
}
