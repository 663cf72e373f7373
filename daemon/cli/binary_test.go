package cli_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build makes the real program, once for each test that asks.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the program: not with -short")
	}
	path := filepath.Join(t.TempDir(), "herald")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.number=7.8.9", "-o", path, "herald").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	herald := build(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("listen:\n  address: 5\nnonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		env    []string
		code   int
		stdout []string
		stderr []string
	}{
		{name: "nothing", code: 2, stdout: []string{"Usage: herald <command>", "herald demo", "check-config"}, stderr: []string{"which command?"}},
		{name: "help", args: []string{"--help"}, stdout: []string{"Usage: herald <command>", "herald serve", "herald token create"}},
		{name: "help of serve", args: []string{"serve", "--help"}, stdout: []string{"Examples:", "HERALD_LISTEN_ADDRESS", "127.0.0.1:8420"}},
		{name: "help of demo", args: []string{"demo", "--help"}, stdout: []string{"--keep", "Exit code"}},
		{name: "help of token", args: []string{"token", "--help"}, stdout: []string{"create", "list", "revoke"}},
		{name: "help of token create", args: []string{"token", "create", "--help"}, stdout: []string{"--scope", "$HERALD_URL", "90d"}},
		{name: "help of bench", args: []string{"bench", "--help"}, stdout: []string{"--fan-out", "--json"}},
		{name: "help of check-config", args: []string{"check-config", "--help"}, stdout: []string{"file:line"}},
		{name: "help of subscription create", args: []string{"subscription", "create", "--help"}, stdout: []string{"Examples:", "Policy:", "--retry-schedule", "Which daemon:"}},
		{name: "half a command of two", args: []string{"subscription", "replay"}, code: 2, stderr: []string{"start", "herald subscription replay --help"}},
		{name: "delete without an id", args: []string{"account", "delete"}, code: 2, stderr: []string{"<id>"}},
		{name: "no daemon to tail", args: []string{"tail"}, code: 1, stderr: []string{"is it running?", "HERALD_URL"}},
		{name: "no daemon to publish to", args: []string{"event", "publish", "--type", "a"}, code: 1, stderr: []string{"is it running?"}},
		{name: "completion", args: []string{"completion", "bash"}, stdout: []string{"complete -o default -F _herald herald"}},
		{name: "completion of what is no shell", args: []string{"completion", "cmd"}, code: 2, stderr: []string{"bash", "fish"}},
		{name: "manual", args: []string{"man"}, stdout: []string{".TH HERALD 1", "herald 7.8.9"}},
		{name: "help of backup", args: []string{"backup", "--help"}, stdout: []string{"--keep", "NOT in the backup", "herald restore"}},
		{name: "help of restore", args: []string{"restore", "--help"}, stdout: []string{"it never", "secrets.key"}},
		{name: "help of check", args: []string{"check", "--help"}, stdout: []string{"Stop the daemon first", "Exit code"}},
		{name: "help of compact", args: []string{"compact", "--help"}, stdout: []string{"Stop the daemon first", "64 MiB"}},
		{name: "backup without a daemon", args: []string{"backup", "x.tar"}, code: 1, stderr: []string{"no daemon answers"}},
		{name: "backup keeps less than none", args: []string{"backup", "--keep=-1", "."}, code: 2, stderr: []string{"--keep"}},
		{name: "restore of nothing", args: []string{"restore", "none.tar"}, code: 2, stderr: []string{"none.tar"}},
		{name: "check of nothing", args: []string{"check"}, code: 2, stderr: []string{"--data-dir"}},
		{name: "compact of nothing", args: []string{"compact"}, code: 2, stderr: []string{"--data-dir"}},
		{name: "unknown command", args: []string{"sevre"}, code: 2, stderr: []string{"sevre", "herald --help"}},
		{name: "unknown flag", args: []string{"serve", "--confg", "x"}, code: 2, stderr: []string{"--confg", "herald serve --help"}},
		{name: "extra argument", args: []string{"serve", "x"}, code: 2, stderr: []string{"x", "--help"}},
		{name: "flag without a value", args: []string{"serve", "--config"}, code: 2, stderr: []string{"--config"}},
		{name: "missing argument", args: []string{"check-config"}, code: 2, stderr: []string{"<file>", "herald check-config --help"}},
		{name: "half a command", args: []string{"token"}, code: 2, stderr: []string{"create"}},
		{name: "no scope", args: []string{"token", "create"}, code: 2, stderr: []string{"--scope"}},
		{name: "unknown scope", args: []string{"token", "create", "--scope", "root"}, code: 2, stderr: []string{"--scope", "publish"}},
		{name: "two daemons", args: []string{"token", "list", "--socket", "x", "--url", "http://x"}, code: 2, stderr: []string{"--socket", "--url"}},
		{name: "no daemon", args: []string{"token", "list"}, code: 1, stderr: []string{"no daemon answers at data/herald.sock", "herald serve"}},
		{name: "no token", args: []string{"token", "list"}, env: []string{"HERALD_URL=http://127.0.0.1:1"}, code: 2, stderr: []string{"HERALD_TOKEN"}},
		{name: "version", args: []string{"version"}, stdout: []string{"herald 7.8.9"}},
		{name: "version as JSON", args: []string{"version", "--json"}, stdout: []string{`"version": "7.8.9"`}},
		{name: "good configuration", args: []string{"check-config", "/dev/null"}, stdout: []string{"/dev/null: ok"}},
		{name: "bad configuration", args: []string{"check-config", bad}, code: 2, stderr: []string{bad + ":2: listen.address: ", bad + ":3: "}},
		{name: "serve with a bad configuration", args: []string{"serve", "--config", bad}, code: 2, stderr: []string{bad + ":2: listen.address: ", bad + ":3: "}},
		{name: "serve without its file", args: []string{"serve", "--config", dir + "/none"}, code: 2, stderr: []string{"none: cannot be read"}},
		{name: "bench with a wrong flag", args: []string{"bench", "--events", "0"}, code: 2, stderr: []string{"--events"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), herald, c.args...)
			cmd.Dir = t.TempDir()
			cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, c.env...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			code := 0
			if e, ok := errors.AsType[*exec.ExitError](err); ok {
				code = e.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for stream, text := range map[string]string{"standard output": stdout.String(), "standard error": stderr.String()} {
				want := c.stdout
				if stream == "standard error" {
					want = c.stderr
				}
				for _, w := range want {
					if !strings.Contains(text, w) {
						t.Errorf("%s lacks %q:\n%s", stream, w, text)
					}
				}
				if len(want) == 0 && text != "" {
					t.Errorf("%s is not empty:\n%s", stream, text)
				}
				if strings.Contains(text, "\x1b") {
					t.Errorf("%s has colours", stream)
				}
			}
			if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) != 0 {
				t.Errorf("the command left %v, %v", left, err)
			}
		})
	}
}
