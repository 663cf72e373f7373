package boltstore

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadKeyRefuses(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for _, x := range []struct {
		name, text string
		mode       fs.FileMode
		want       string // in the error: what to do
	}{
		{"empty", "", 0o600, "44 characters"},
		{"only a line end", "\n", 0o600, "44 characters"},
		{"31 bytes", base64.StdEncoding.EncodeToString(make([]byte, 31)), 0o600, "31 bytes"},
		{"33 bytes", base64.StdEncoding.EncodeToString(make([]byte, 33)), 0o600, "33 bytes"},
		{"zero bytes", base64.StdEncoding.EncodeToString(make([]byte, 32)), 0o600, "only zero bytes"},
		{"garbage", "not a key at all", 0o600, "not base64"},
		{"hexadecimal", strings.Repeat("0a", 32), 0o600, "48 bytes"},
		{"base64 of URLs", strings.Repeat("-_", 21) + "8=", 0o600, "not base64"},
		{"without padding", strings.TrimRight(good, "="), 0o600, "not base64"},
		{"bits after the end", good[:42] + "d=", 0o600, "not base64"},
		{"space before", " " + good, 0o600, "not base64"},
		{"comment", "# the key\n" + good + "\n", 0o600, "one line"},
		{"two lines", good[:20] + "\n" + good[20:] + "\n", 0o600, "one line"},
		{"two line ends", good + "\n\n", 0o600, "one line"},
		{"much too long", strings.Repeat(good, 100), 0o600, "too long"},
		{"readable by all", good, 0o604, "chmod 600"},
		{"readable by all and the group", good, 0o644, "chmod 600"},
		{"writable by the group", good, 0o620, "chmod 600"},
		{"writable by all", good, 0o602, "chmod 600"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, x.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadKey(path)
			if err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got error %v, want the path and %q in it", err, x.want)
			}
			if len(x.text) > 8 && strings.Contains(err.Error(), strings.TrimSpace(x.text)[:8]) {
				t.Fatalf("the error quotes the file: %v", err)
			}
		})
	}
}

func TestLoadKeyAccepts(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for _, text := range []string{good, good + "\n", good + "\r\n"} {
		for _, mode := range []fs.FileMode{0o600, 0o400, 0o440, 0o640, 0o700} {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			k, err := LoadKey(path)
			if err != nil || k.bytes != [32]byte(bytes.Repeat([]byte{7}, 32)) {
				t.Errorf("%q, mode %o: %v", text, mode, err)
			}
		}
	}
}

func TestLoadKeyOfNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := LoadKey(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := LoadKey(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := LoadKey("/dev/null"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a device: %v", err)
	}
}

func TestCreateKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	k, err := CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 45 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if got, err := LoadKey(path); err != nil || got != k {
		t.Errorf("read back: %v, the same: %v", err, got == k)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created over another: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the key that was there is not there any more")
	}
	other, err := CreateKey(filepath.Join(dir, "other"))
	if err != nil || other == k {
		t.Errorf("a second key: %v, the same: %v", err, other == k)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
	if _, err := CreateKey(filepath.Join(dir, "none", "key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestKeyFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keyPath, storePath := filepath.Join(dir, "key"), filepath.Join(dir, "store.db")
	k, err := KeyFor(keyPath, storePath)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := KeyFor(keyPath, storePath); err != nil || again != k {
		t.Errorf("a second time: %v, the same: %v", err, again == k)
	}
	if err := os.WriteFile(storePath, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := KeyFor(keyPath, storePath); err != nil || again != k {
		t.Errorf("with a store: %v, the same: %v", err, again == k)
	}
	if err := os.Remove(keyPath); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFor(keyPath, storePath); !errors.Is(err, ErrKeyMissing) {
		t.Errorf("a store without its key: %v", err)
	}
	if _, err := os.Stat(keyPath); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a new key was made for a store that has another")
	}
}

func TestKeyNeverPrints(t *testing.T) {
	t.Parallel()
	k, err := ParseKey(base64.StdEncoding.EncodeToString([]byte("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345")))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t"} {
		fmt.Fprintf(&b, verb+" ", k)
		fmt.Fprintf(&b, verb+" ", &k)
		fmt.Fprintf(&b, verb+" ", Options{Key: k})
		fmt.Fprintf(&b, verb+" ", []Key{k})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("a line", "key", k, "pointer", &k, "options", Options{Key: k})
	}
	if err := json.NewEncoder(&b).Encode(map[string]any{"key": k}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"ABCD", "QUJD", "4142", "65 66", "[65", "0x41", "101 102", "1000001"} {
		if strings.Contains(b.String(), bad) {
			t.Errorf("the key shows as %q: %s", bad, b.String())
		}
	}
}
