package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is what this binary is.
type Version struct {
	// Number is the released version, such as "1.2.0", or "dev".
	Number string `json:"version"`
	// Commit is the revision it was built from, with "-dirty" when the tree had changes; empty when
	// it was built outside of a repository.
	Commit string `json:"commit,omitempty"`
	// Built is the time of that revision.
	Built string `json:"built,omitempty"`
	// Go is the toolchain, Platform the system it was built for.
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// ReadVersion makes the Version from the number set by the linker, or, where that is empty, from what
// the toolchain recorded.
func ReadVersion(number string) Version {
	v := Version{Number: number, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if v.Number == "" && info.Main.Version != "(devel)" {
			v.Number = info.Main.Version
		}
		dirty := false
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.time":
				v.Built = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
		if dirty && v.Commit != "" {
			v.Commit += "-dirty"
		}
	}
	if v.Number == "" {
		v.Number = "dev"
	}
	return v
}

// VersionCommand is the command version.
type VersionCommand struct {
	JSON bool `name:"json" help:"Print as JSON."`
}

// Help is shown below the summary.
func (VersionCommand) Help() string {
	return `Example:

    herald version --json | jq -r .commit`
}

// Run prints the version.
func (c VersionCommand) Run(s Streams, v Version) error {
	if c.JSON {
		return printJSON(s.Stdout, v)
	}
	text := "herald " + v.Number
	if v.Commit != "" {
		text += fmt.Sprintf(" (commit %.12s, %s)", v.Commit, v.Built)
	}
	_, err := fmt.Fprintf(s.Stdout, "%s, %s, %s\n", text, v.Go, v.Platform)
	return err
}
