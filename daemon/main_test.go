package daemon_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"herald/daemon"
)

// The test binary is also the daemon: run with this variable it serves the configuration it names, as
// `herald serve` does, so that tests can send it signals and kill it.
const serveVariable = "TEST_SERVE"

func TestMain(m *testing.M) {
	if path := os.Getenv(serveVariable); path != "" {
		os.Exit(serveChild(path))
	}
	// Most of these tests wait for retries and for one another's answers: several of them share a processor.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := m.Run()
	if programsDir != "" {
		_ = os.RemoveAll(programsDir)
	}
	if left := untouched(); code == 0 && len(left) > 0 {
		fmt.Printf("%d things stand in %s, and no test has touched them:\n%s\n", len(left), openAPIFile, strings.Join(left, "\n"))
		code = 1
	}
	os.Exit(code)
}

func serveChild(path string) int {
	front := os.Getenv(earlyVariable)
	if front != "" {
		go acknowledgeEarly(front, os.Getenv(behindVariable))
	}
	err := daemon.Serve(context.Background(), daemon.ServeOptions{
		ConfigPath: path, Version: "test", Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "herald:", err)
	if code, ok := errors.AsType[*daemon.ExitError](err); ok {
		return code.ExitCode()
	}
	return daemon.ExitFailed
}

// child is a process of its own: a daemon, or a receiver.
type child struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *output
	wait func() error
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// configFile writes a configuration for a child and returns its path: a fixed address, and the directory's data.
func configFile(t *testing.T, dir, address string, settings ...string) string {
	t.Helper()
	text := fmt.Sprintf("listen: {address: '%s', socket: %s}\ndata_dir: %s\nadmin_token: %s\negress: {allow_networks: [127.0.0.0/8]}\n%s\n",
		address, socketPath(t), filepath.Join(dir, "data"), adminToken, strings.Join(settings, "\n"))
	path := filepath.Join(dir, "herald.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// spawn starts a child without waiting for anything.
func spawn(t *testing.T, config string, environ ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// A variable of the tests' own is none that a daemon knows.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HERALD_") })
	cmd.Env = append(append(cmd.Env, serveVariable+"="+config), environ...)
	return launch(t, "the daemon", cmd)
}

// launch starts a process that is killed at the end of the test, if it is still there.
func launch(t *testing.T, what string, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{t: t, out: &output{}, cmd: cmd}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.wait = sync.OnceValue(c.cmd.Wait)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.wait()
		if t.Failed() {
			t.Logf("%s printed:\n%s", what, tail(c.out.String(), 4000))
		}
	})
	return c
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("send %v: %v", s, err)
	}
}

// exit waits for the end and returns the exit code; -1 means killed by a signal.
func (c *child) exit() int {
	_ = c.wait()
	return c.cmd.ProcessState.ExitCode()
}
