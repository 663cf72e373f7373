package daemon

// The exit codes of the program.
const (
	// ExitFailed: something went wrong while running.
	ExitFailed = 1
	// ExitUsage: wrong usage or configuration, or the data directory is in use. Starting again without
	// a change will not help, so a supervisor should not try.
	ExitUsage = 2
)

// ExitError is an error that decides the exit code of the program.
type ExitError struct {
	Code int
	Err  error
}

// Error implements error.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode returns the code the program should end with.
func (e *ExitError) ExitCode() int { return e.Code }
