package cli

import (
	"errors"
	"fmt"

	"herald/daemon/config"
)

// CheckConfig is the command check-config.
type CheckConfig struct {
	File string `arg:"" help:"The configuration file."`
}

// Help is shown below the summary.
func (CheckConfig) Help() string {
	return `Reads FILE and the HERALD_* variables exactly as 'herald serve --config FILE' would, prints every problem at once as file:line: key: problem, and starts nothing. Exit code 2 means that serve would refuse to start, or a reload be refused.

Example:

    herald check-config /etc/herald/herald.yaml && systemctl reload herald`
}

// Run prints the problems to standard error, or "ok" to standard output; warnings do not make it fail.
func (c CheckConfig) Run(s Streams) error {
	cfg, err := config.Load(c.File, s.Environ)
	if err != nil {
		list, ok := errors.AsType[config.Errors](err)
		if !ok {
			return Usage(err)
		}
		for _, e := range list {
			if _, err := fmt.Fprintln(s.Stderr, position(e)); err != nil {
				return err
			}
		}
		return &silentError{ExitUsage}
	}
	for _, w := range cfg.Warnings() {
		if _, err := fmt.Fprintf(s.Stderr, "%s: warning: %s\n", c.File, w); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(s.Stdout, "%s: ok\n", c.File)
	return err
}
