// Package cli holds the commands beside serve: they speak the API like any other client, over the
// unix socket of a daemon on the same machine or over HTTP to one elsewhere.
//
// It promises that a command prints what it was asked for, and nothing else, on standard output, so
// that it can be piped; that explanations and errors go to standard error; that every error says
// what to do next; and that the exit code is 0 for done, 1 for failed, 2 for wrong usage or
// configuration. The commands are structs for kong: their fields are the flags, Run does the work.
package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"herald/daemon/client"
	"herald/daemon/config"
)

// Streams are what a command reads its environment from and writes to.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Environ is the environment as os.Environ returns it.
	Environ []string
}

// Getenv returns the last value of a variable in Environ, or "".
func (s Streams) Getenv(name string) string {
	for _, e := range slices.Backward(s.Environ) {
		if key, value, ok := strings.Cut(e, "="); ok && key == name {
			return value
		}
	}
	return ""
}

// Colour says whether colours may be written to w: it is a terminal that knows them, and NO_COLOR is
// not set (see no-color.org).
func (s Streams) Colour(w io.Writer) bool {
	if s.Getenv("NO_COLOR") != "" || s.Getenv("TERM") == "dumb" {
		return false
	}
	return Terminal(w)
}

// Terminal says whether a stream is a character device other than /dev/null, which for a standard stream means that a person is
// likely to be looking at it.
func Terminal(stream any) bool {
	if in, ok := stream.(*input); ok {
		stream = in.Reader
	}
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// Exit codes of every command.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// usageError is an error with ExitUsage.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// ExitCode makes the process end with 2.
func (e *usageError) ExitCode() int { return ExitUsage }

// Usage marks err as the user's to correct: wrong arguments or a wrong configuration.
func Usage(err error) error { return &usageError{err} }

// silentError ends a command whose output has already said everything.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }
func (e *silentError) ExitCode() int { return e.code }

// Exit prints err for a person and returns the exit code of the process: that of the first error in
// the chain with a method ExitCode, else 1; 0 for nil.
func Exit(s Streams, err error) int {
	if err == nil {
		return ExitDone
	}
	code := ExitFailed
	if coder, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		code = coder.ExitCode()
	}
	if _, silent := errors.AsType[*silentError](err); silent {
		return code
	}
	// The words may be the daemon's, and hold what somebody else has written.
	lines := strings.Split(explain(err), "\n")
	for i := range lines {
		lines[i] = harmless(lines[i])
	}
	text := "herald: " + strings.Join(lines, "\n") + "\n"
	if s.Colour(s.Stderr) {
		text = "\x1b[31mherald:\x1b[0m" + strings.TrimPrefix(text, "herald:")
	}
	// There is nowhere left to report that standard error cannot be written to.
	if logged, err := journal.StderrIsJournalStream(); err == nil && logged {
		// The priority of an error, for each line (sd-daemon(3)).
		text = "<3>" + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n<3>") + "\n"
	}
	_, _ = io.WriteString(s.Stderr, text)
	return code
}

// explain turns an error into what a person can act on. Joined errors are explained one by one.
func explain(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only the outermost is taken apart
		var parts []string
		for _, e := range joined.Unwrap() {
			parts = append(parts, explain(e))
		}
		return strings.Join(parts, "\n")
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	if list, ok := errors.AsType[config.Errors](err); ok {
		lines := []string{"the configuration has problems:"}
		for _, e := range list {
			lines = append(lines, position(e))
		}
		return strings.Join(lines, "\n  ")
	}
	if e, ok := errors.AsType[*client.UnreachableError](err); ok {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Sprintf("not allowed to open %s: the socket is for the daemon's own user and root; "+
				"become one of them, or use --url with HERALD_TOKEN", e.Address)
		}
		if strings.Contains(e.Address, "://") {
			return fmt.Sprintf("no daemon answers at %s (%v): is it running, and is this its address?", e.Address, e.Err)
		}
		return fmt.Sprintf("no daemon answers at %s: is it running? `herald serve` starts it; "+
			"one with a configuration file is found with --config, one elsewhere with --url or HERALD_URL", e.Address)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err.Error() + "\nthe daemon's certificate is judged by --ca or HERALD_CA, else by the system's authorities"
	}
	// The alert of the other side of TLS has no type of its own.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return err.Error() + "\nthe daemon refuses the connection; a client certificate is shown with --cert and --key, or HERALD_CERT and HERALD_KEY"
	}
	if p, ok := errors.AsType[*client.Problem](err); ok {
		text := problemText(p)
		switch p.StatusCode {
		case http.StatusUnauthorized:
			text += "\nput a valid token into HERALD_TOKEN; `herald token create` on the daemon's machine makes one"
		case http.StatusForbidden:
			text += "\nthis needs another token; `herald token create --scope …` on the daemon's machine makes one"
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			if p.RetryAfter > 0 {
				text += fmt.Sprintf("\ntry again in %s", p.RetryAfter)
			}
		}
		return text
	}
	return err.Error()
}

// problemText prints the daemon's words, each wrong field on its own line.
func problemText(p *client.Problem) string {
	var b strings.Builder
	switch {
	case p.Detail != "":
		fmt.Fprintf(&b, "%s (%d)", strings.TrimSuffix(p.Detail, "."), p.StatusCode)
	default:
		fmt.Fprintf(&b, "%s (%d)", p.Title, p.StatusCode)
	}
	for _, e := range p.Errors {
		if strings.Contains(p.Detail, e.Detail) {
			continue // the daemon has already put it into its sentence
		}
		fmt.Fprintf(&b, "\n  %s: %s", e.Field, e.Detail)
	}
	return b.String()
}
