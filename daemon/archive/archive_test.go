package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func source(name, content string, err error) Source {
	return Source{Name: name, Schema: 7, Copy: func(_ context.Context, w io.Writer) (int64, error) {
		n, werr := io.WriteString(w, content)
		return int64(n), errors.Join(err, werr)
	}}
}

func read(r io.Reader) (m Manifest, contents map[string]string, err error) {
	made := make(map[string]*bytes.Buffer)
	err = Read(r, func(got Manifest) error { m = got; return nil }, func(f File) (io.Writer, error) {
		made[f.Name] = new(bytes.Buffer)
		return made[f.Name], nil
	})
	contents = make(map[string]string)
	for name, b := range made {
		contents[name] = b.String()
	}
	return m, contents, err
}

func TestArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := Make(t.Context(), dir, "1.2.3", source("a.db", strings.Repeat("a", 100_000), nil), source("b.db", "", nil))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for range 2 { // it can be written again
		b.Reset()
		if n, err := a.WriteTo(&b); err != nil || n != a.Size() || int64(b.Len()) != n {
			t.Fatalf("%d of %d bytes were written, %d announced: %v", b.Len(), n, a.Size(), err)
		}
	}
	m, contents, err := read(bytes.NewReader(b.Bytes()))
	if err != nil || m.Version != "1.2.3" || m.Time.IsZero() || len(m.Files) != 2 || m.Files[0].Schema != 7 ||
		contents["a.db"] != strings.Repeat("a", 100_000) || contents["b.db"] != "" {
		t.Errorf("read %+v: %v", m, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the copies have names: %v", left)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	// Cut off anywhere but in the zeros at the end, it is not taken.
	for n := 0; n < b.Len()-1024; n += 997 {
		if _, _, err := read(bytes.NewReader(b.Bytes()[:n])); !errors.Is(err, ErrNotArchive) {
			t.Fatalf("of %d bytes: %v", n, err)
		}
	}
	broken := errors.New("broken")
	if _, err := Make(t.Context(), dir, "", source("a.db", "", nil), source("b.db", "", broken)); !errors.Is(err, broken) || !strings.Contains(err.Error(), "b.db") {
		t.Errorf("a copy that fails: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	a, err := Make(context.Background(), f.TempDir(), "1", source("a.db", "content", nil))
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := a.WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, contents, err := read(bytes.NewReader(b))
		if err == nil && len(contents) > len(m.Files) {
			t.Errorf("%d files of %d", len(contents), len(m.Files))
		}
	})
}
