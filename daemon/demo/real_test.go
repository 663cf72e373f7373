package demo

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The demo on the real daemon, as a person runs it: the program as it is built, nothing else.
func TestDemoOfTheRealProgram(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs the whole program: not with -short")
	}
	dir, temp := t.TempDir(), t.TempDir()
	herald := filepath.Join(dir, "herald")
	if b, err := exec.CommandContext(t.Context(), "go", "build", "-o", herald, "herald").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, herald, "demo")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	for _, want := range []string{`lost +0\n`, `delivered +33\n`, `decrypted by a browser +2\n`, `daemon killed and restarted +1\n`} {
		if !regexp.MustCompile(want).Match(stdout.Bytes()) {
			t.Errorf("the output lacks %s:\n%s", want, stdout.String())
		}
	}
	if stderr.Len() != 0 || strings.Contains(stdout.String(), "\x1b") {
		t.Errorf("standard error %q; colours: %t", stderr.String(), strings.Contains(stdout.String(), "\x1b"))
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the directory it ran in holds %v, %v", left, err)
	}
}
