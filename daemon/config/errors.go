package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// maxErrors bounds the list: a file of another kind would otherwise give one line for each of its own.
const maxErrors = 100

// Error is one problem of a configuration.
type Error struct {
	// File is the name given to Load or Parse, also for problems of the environment.
	File string
	// Line is where in the file, from 1; 0 when the problem is not on one line of it.
	Line int
	// Path is the key, as in "listen.address"; empty when the problem is the file's as a whole.
	Path string
	// Variable is the environment variable when the value came from there.
	Variable string
	// Problem says what is wrong and what would be right; it never repeats the value.
	Problem string

	cause error
}

// Error prints "line 12: listen.address: problem", or the variable or the file in place of the line.
func (e Error) Error() string {
	var where []string
	if e.Line > 0 && e.Variable == "" {
		where = append(where, "line "+strconv.Itoa(e.Line))
	}
	switch {
	case e.Variable != "":
		where = append(where, e.Variable)
	case e.Path != "":
		where = append(where, e.Path)
	case e.Line == 0 && e.File != "":
		where = append(where, e.File)
	}
	return strings.Join(append(where, e.Problem), ": ")
}

// Unwrap returns the operating system's error when a file could not be read, else nil.
func (e Error) Unwrap() error { return e.cause }

// Errors is every problem of a configuration, in the order of the file, then those without a line.
// It holds at most 100; when there were more, the last entry says how many.
type Errors []Error

// Error prints one problem per line, without a newline at the end.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the single problems, for errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i := range e {
		list[i] = e[i]
	}
	return list
}

// ordered returns e sorted by line and cut to maxErrors.
func (e Errors) ordered() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		switch {
		case a.Line == b.Line:
			return 0
		case a.Line == 0:
			return 1
		case b.Line == 0:
			return -1
		default:
			return cmp.Compare(a.Line, b.Line)
		}
	})
	if len(e) <= maxErrors {
		return e
	}
	more := len(e) - maxErrors + 1
	return append(e[:maxErrors-1:maxErrors-1], Error{
		File:    e[0].File,
		Problem: "and " + strconv.Itoa(more) + " more problems",
	})
}
