package daemon_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"herald/daemon"
	"herald/daemon/archive"
	"herald/daemon/cli"
	"herald/daemon/config"
	"herald/daemon/datadir"
)

// runCommand runs a command as the command line does, and returns its exit code and what it wrote.
func runCommand(t *testing.T, run func(cli.Streams) error) (code int, stdout, stderr string) {
	t.Helper()
	var out, bad bytes.Buffer
	s := cli.Streams{Stdout: &out, Stderr: &bad}
	code = cli.Exit(s, run(s))
	return code, out.String(), bad.String()
}

func (h *herald) backup(file string, keep int) (int, string, string) {
	h.t.Helper()
	return runCommand(h.t, func(s cli.Streams) error {
		return cli.Backup{File: file, Keep: keep, Remote: cli.Remote{Socket: h.socket}}.Run(h.t.Context(), s, cli.Version{Number: "test"})
	})
}

func restore(t *testing.T, file, dir string) (int, string, string) {
	t.Helper()
	return runCommand(t, func(s cli.Streams) error {
		return datadir.Restore{File: file, Directory: datadir.Directory{DataDir: dir}}.Run(t.Context(), s)
	})
}

func check(t *testing.T, dir string) (int, string, string) {
	t.Helper()
	return runCommand(t, func(s cli.Streams) error {
		return datadir.Check{Directory: datadir.Directory{DataDir: dir}}.Run(t.Context(), s)
	})
}

// refusal builds a daemon that is not to start and returns what it says.
func refusal(t *testing.T, data string) string {
	t.Helper()
	c, err := config.Parse("test", fmt.Appendf(nil, "listen: {address: '127.0.0.1:0', socket: %s}\ndata_dir: %s\n", socketPath(t), data), nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(t.Context(), daemon.Options{Config: c})
	if err == nil {
		t.Fatal("it starts", d.Close())
	}
	if code, ok := errors.AsType[*daemon.ExitError](err); !ok || code.ExitCode() != daemon.ExitUsage {
		t.Errorf("a supervisor would start it again: %v", err)
	}
	return err.Error()
}

func TestContract_BackupAndRestore(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(500)
	sub := h.subscribe(r.URL, fields{"delivery": patiently()})
	var events []string
	for i := range 20 {
		events = append(events, h.publish("task.create", "", fields{"n": i, "x": strings.Repeat("x", 10_000)}))
	}
	file := filepath.Join(t.TempDir(), "b.tar")
	if code, out, bad := h.backup(file, 0); code != 0 || !strings.Contains(out, file) || bad != "" {
		t.Fatalf("exit code %d: %s%s", code, out, bad)
	}
	if code, _, bad := h.backup(file, 0); code != 2 || !strings.Contains(bad, "there already") {
		t.Errorf("over a file: exit code %d: %s", code, bad)
	}
	after := h.publish("task.create", "", fields{})
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	code, out, bad := restore(t, file, data)
	if code != 0 || !strings.Contains(out, "made by herald 1.2.3-test") || !strings.Contains(bad, "secrets.key") {
		t.Fatalf("exit code %d: %s%s", code, out, bad)
	}
	if code, _, bad := restore(t, file, data); code != 2 || !strings.Contains(bad, "nothing is overwritten") {
		t.Errorf("over data: exit code %d: %s", code, bad)
	}
	// Without the key it does not start, and with another neither.
	if why := refusal(t, data); !strings.Contains(why, "secrets.key does not exist") {
		t.Errorf("without the key: %s", why)
	}
	if code, out, bad := check(t, data); code != 1 || !strings.Contains(out, "restore the key file") || strings.Contains(bad, "move the files") {
		t.Errorf("check without the key: exit code %d: %s%s", code, out, bad)
	}
	key, err := os.ReadFile(filepath.Join(h.dir, "data", "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, bytes.TrimSpace(key)) {
		t.Error("the key is in the backup")
	}
	if err := os.WriteFile(filepath.Join(data, "secrets.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, bad := check(t, data); code != 0 || strings.Count(out, "  ok\n") != 2 {
		t.Errorf("check of what was restored: exit code %d: %s%s", code, out, bad)
	}
	h = startIn(t, dir)
	for _, id := range events {
		if list := h.admin().deliveries(id); len(list) != 1 || list[0]["subscriptionId"] != sub {
			t.Errorf("event %s: %v", id, list)
		}
	}
	h.admin().do("GET", "/events/"+after, nil).problem(404) // it came after the backup
}

func TestContract_BackupKeepsTheNewest(t *testing.T) {
	t.Parallel()
	h := start(t)
	dir := t.TempDir()
	for _, name := range []string{"herald-20250101T000000Z.tar", "herald-20250102T000000Z.tar", "herald-20250103T000000Z.tar", "herald-other.tar"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, out, bad := h.backup(dir, 2); code != 0 || strings.Count(out, "removed ") != 2 {
		t.Fatalf("exit code %d: %s%s", code, out, bad)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 3 || filepath.Base(left[0]) != "herald-20250103T000000Z.tar" || filepath.Base(left[2]) != "herald-other.tar" {
		t.Errorf("left: %v", left)
	}
	if code, _, bad := h.backup(filepath.Join(dir, "x.tar"), 2); code != 2 || !strings.Contains(bad, "--keep") {
		t.Errorf("--keep with a file: exit code %d: %s", code, bad)
	}
}

func TestContract_BackupOverHTTP(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.publish("task.create", "", fields{})
	h.token("default", "publish").do("GET", "/admin/backup", nil).problem(403)
	a := h.admin().do("GET", "/admin/backup", nil).is(http.StatusOK)
	if n := a.header.Get("Content-Length"); n != strconv.Itoa(len(a.body)) {
		t.Errorf("Content-Length is %s of %d", n, len(a.body))
	}
	h.eventually("the metrics tell of it", func() bool {
		text := string(h.as("").do("GET", "/metrics", nil).is(http.StatusOK).body)
		age := float64(time.Now().Unix()) - sample(t, text, "herald_backup_last_success_timestamp_seconds")
		return sample(t, text, "herald_backups_total", `"done"`) == 1 && age < 600 && sample(t, text, "herald_backup_last_duration_seconds") > 0
	})
	var names []string
	tr := tar.NewReader(bytes.NewReader(a.body))
	for {
		f, err := tr.Next()
		if err != nil {
			break
		}
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "manifest.json queue.db store.db" {
		t.Errorf("it holds %s", got)
	}
	left, err := filepath.Glob(filepath.Join(h.dir, "data", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left beside the data: %v", left)
	}
}

func TestContract_RestoreRefuses(t *testing.T) {
	t.Parallel()
	h := start(t)
	whole := h.admin().do("GET", "/admin/backup", nil).is(http.StatusOK).body
	at := func(n int) []byte { b := bytes.Clone(whole); b[n] ^= 1; return b }
	manifest := func(from, to string) []byte { return bytes.Replace(bytes.Clone(whole), []byte(from), []byte(to), 1) }
	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"a bit of the queue":  {at(5000), "queue.db is not what was written"},
		"a bit of the store":  {at(len(whole) - 20_000), "store.db is not what was written"},
		"cut short":           {whole[:len(whole)/2], "ends in the middle of"},
		"empty":               {nil, "not a whole backup"},
		"something else":      {bytes.Repeat([]byte("text"), 1000), "not a whole backup"},
		"a newer format":      {manifest(`"format": 1`, `"format": 2`), "newer version"},
		"a newer queue":       {manifest(`"schema": 5`, `"schema": 9`), "use herald 1.2.3-test or newer"},
		"a path out":          {manifest(`"queue.db"`, `"../ue.db"`), "it names a file"},
		"another file":        {manifest(`"queue.db"`, `"other.db"`), "it holds the files"},
		"another digest form": {manifest(`"sha256": "`, `"sha255": "`), "not what was written"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "b.tar")
			if err := os.WriteFile(file, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			code, _, bad := restore(t, file, filepath.Join(dir, "data"))
			if code != 1 || !strings.Contains(bad, c.says) {
				t.Errorf("exit code %d, want 1 and %q: %s", code, c.says, bad)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "data")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	if err := archive.Read(bytes.NewReader(whole), func(archive.Manifest) error { return nil },
		func(archive.File) (io.Writer, error) { return io.Discard, nil }); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// A directory that lacks one of its files, or has a damaged one, is never taken for a fresh one.
func TestContract_DamagedDataIsRefused(t *testing.T) {
	t.Parallel()
	h := start(t)
	for i := range 50 {
		h.publish("task.create", "", fields{"n": i, "x": strings.Repeat("x", 5000)})
	}
	data := filepath.Join(h.dir, "data")
	if code, _, bad := check(t, data); code != 2 || !strings.Contains(bad, "stop it first") {
		t.Errorf("check beside a daemon: exit code %d: %s", code, bad)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	compact := func(dir string) (int, string, string) {
		return runCommand(t, func(s cli.Streams) error {
			return datadir.Compact{Directory: datadir.Directory{DataDir: dir}}.Run(t.Context(), s)
		})
	}
	if code, out, bad := compact(data); code != 0 || strings.Count(out, " before, ") != 2 {
		t.Fatalf("compact: exit code %d: %s%s", code, out, bad)
	}
	if code, out, bad := check(t, data); code != 0 {
		t.Fatalf("check after it: exit code %d: %s%s", code, out, bad)
	}
	for _, name := range []string{"store.db", "queue.db"} {
		path := filepath.Join(data, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		for what, why := range map[string]string{"serve": refusal(t, data), "check": fmt.Sprint(check(t, data)), "compact": fmt.Sprint(compact(data))} {
			if !strings.Contains(why, "no "+name) || !strings.Contains(why, "herald restore") {
				t.Errorf("%s without %s: %s", what, name, why)
			}
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was made anew", name)
		}
		other, err := os.ReadFile(filepath.Join(data, map[string]string{"store.db": "queue.db", "queue.db": "store.db"}[name]))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, other, 0o600); err != nil {
			t.Fatal(err)
		}
		if why := refusal(t, data); !strings.Contains(why, "not a file of this kind") || !strings.Contains(why, "herald restore") {
			t.Errorf("the other file as %s: %s", name, why)
		}
		bad := bytes.Clone(whole)
		for at := 3 * 4096; at < len(bad); at += 4096 {
			bad[at] ^= 0xff
		}
		for what, content := range map[string][]byte{"damaged": bad, "cut short": whole[:4*4096], "empty": {}} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if why := refusal(t, data); !strings.Contains(why, name) || !strings.Contains(why, "herald restore") || strings.Contains(why, "goroutine") {
				t.Errorf("%s, %s: %s", name, what, why)
			}
			code, out, why := check(t, data)
			if code != 1 || !strings.Contains(out, "WRONG") || !strings.Contains(out, "  ok\n") || !strings.Contains(why, "herald restore") {
				t.Errorf("check of %s, %s: exit code %d: %s%s", name, what, code, out, why)
			}
			if code, _, why := compact(data); code != 1 || !strings.Contains(why, "damaged") {
				t.Errorf("compact of %s, %s: exit code %d: %s", name, what, code, why)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startIn(t, h.dir) // as it was
}
