package boltkit

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

var things = []byte("things")

func options(path string) Options {
	return Options{Path: path, Name: "herald test", Version: 3, Init: func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(things)
		return err
	}, Migrate: func(*bolt.Tx, int) error { return nil }}
}

func open(t *testing.T, o Options) *DB {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func put(key, value string) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error { return tx.Bucket(things).Put([]byte(key), []byte(value)) }
}

func get(t *testing.T, d *DB, key string) string {
	t.Helper()
	var v string
	if err := d.View(func(tx *bolt.Tx) error { v = string(tx.Bucket(things).Get([]byte(key))); return nil }); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	good := filepath.Join(t.TempDir(), "good.db")
	d := open(t, options(good))
	if err := d.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	ruin := func(at, n int) []byte {
		c := bytes.Clone(content)
		for i := at; i < at+n; i++ {
			c[i] ^= 0x5A
		}
		return c
	}
	alter := func(f func(*Options)) func(*Options) { return f }
	for name, c := range map[string]struct {
		content []byte
		alter   func(*Options)
		want    error
		text    string
	}{
		"empty":         {content: []byte{}, want: ErrDamaged, text: "0 bytes"},
		"one page":      {content: content[:4096], want: ErrDamaged, text: "4096 bytes"},
		"cut short":     {content: content[:4*4096], want: ErrDamaged, text: "cut short"},
		"not bbolt":     {content: bytes.Repeat([]byte("text"), 10000), want: ErrDamaged, text: "meta page"},
		"both metas":    {content: ruin(16, 8192), want: ErrDamaged, text: "meta page"},
		"another name":  {content: content, alter: alter(func(o *Options) { o.Name = "other" }), want: ErrForeign},
		"older program": {content: content, alter: alter(func(o *Options) { o.Version = 2 }), want: ErrNewer, text: "newer Herald"},
		"no options":    {content: content, alter: alter(func(o *Options) { o.Init = nil }), text: "required"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(filepath.Join(t.TempDir(), "x.db"))
			if c.alter != nil {
				c.alter(&o)
			}
			if err := os.WriteFile(o.Path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			d, err := Open(o)
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("error is %v, want %v with %q", err, c.want, c.text)
			}
			left, err := os.ReadFile(o.Path)
			if err != nil || !bytes.Equal(left, c.content) {
				t.Error("a refused file was changed")
			}
		})
	}
	t.Run("one damaged meta page is made good by the other", func(t *testing.T) {
		t.Parallel()
		for _, at := range []int{0, 4096} {
			path := filepath.Join(t.TempDir(), "x.db")
			if err := os.WriteFile(path, ruin(at+16, 64), 0o600); err != nil {
				t.Fatal(err)
			}
			d := open(t, options(path))
			if err := d.Check(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	if _, err := Open(options(filepath.Join(dir, "missing", "x.db"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	o := options(path)
	o.Init = func(*bolt.Tx) error { return errors.New("no") }
	if _, err := Open(o); err == nil {
		t.Fatal("created although Init failed")
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Fatalf("a failed creation left %v", names)
	}
	// What a cut during creation left behind.
	if err := os.WriteFile(path+".tmp", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, options(path))
	if names, _ := os.ReadDir(dir); len(names) != 1 || names[0].Name() != "x.db" {
		t.Fatalf("the directory holds %v", names)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode is %v, %v", fi.Mode(), err)
	}
	if !d.Clean() {
		t.Error("a new file is not clean")
	}
	if _, err := Open(options(path)); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// TestCreateTogether starts several openers of one new file: one gets it, and nothing it wrote is lost.
func TestCreateTogether(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	var wg sync.WaitGroup
	got := make(chan *DB, 8)
	for range 8 {
		wg.Go(func() {
			d, err := Open(options(path))
			if err == nil {
				err = d.Update(put("mine", "yes"))
			}
			switch {
			case err == nil:
				got <- d
			case !errors.Is(err, ErrLocked):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(got) != 1 {
		t.Fatalf("%d of 8 have the file", len(got))
	}
	if err := (<-got).Close(); err != nil {
		t.Fatal(err)
	}
	if v := get(t, open(t, options(path)), "mine"); v != "yes" {
		t.Fatalf("what the first wrote is %q", v)
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	d := open(t, options(path))
	if err := d.Update(put("a", "1")); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(dir, "crashed.db")
	copyFile(t, path, crashed)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if c := open(t, options(crashed)); c.Clean() || get(t, c, "a") != "1" {
		t.Error("after a crash the file calls itself clean, or lost something")
	}
	d = open(t, options(path))
	if !d.Clean() {
		t.Error("after Close the file is not clean")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d = open(t, options(path)); !d.Clean() {
		t.Error("opened and closed, the file is not clean any more")
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("Close, again: %v", err)
		}
	}
	if err := d.View(func(*bolt.Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("View after Close: %v", err)
	}
	if err := d.Update(put("a", "2")); !errors.Is(err, ErrClosed) {
		t.Errorf("Update after Close: %v", err)
	}
	if err := d.Check(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Check after Close: %v", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIsFull(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, true},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, true},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.EIO}, false},
		{&fs.PathError{Op: "sync", Path: "x", Err: syscall.ENOSPC}, false},
		{syscall.ENOSPC, false}, // what bbolt's fdatasync returns
		{bolterrors.ErrMaxSizeReached, true},
		{errors.New("no space left on device"), false},
	} {
		if got := IsFull(c.err); got != c.want {
			t.Errorf("IsFull(%v) = %v", c.err, got)
		}
	}
}

// TestFreelistSwitch: many free pages are not written with every commit, but at a clean stop they are.
func TestFreelistSwitch(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	d := open(t, options(path))
	value := strings.Repeat("v", 3000)
	fill := func(tx *bolt.Tx) error {
		for i := range 2 * freelistLimit {
			if err := tx.Bucket(things).Put([]byte{byte(i >> 8), byte(i)}, []byte(value)); err != nil {
				return err
			}
		}
		return nil
	}
	empty := func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(things); err != nil {
			return err
		}
		_, err := tx.CreateBucket(things)
		return err
	}
	for _, step := range []func(*bolt.Tx) error{fill, empty, put("a", "1"), put("a", "2")} {
		if err := d.Update(step); err != nil {
			t.Fatal(err)
		}
	}
	if !d.bolt.NoFreelistSync {
		t.Error("a large freelist is written with every commit")
	}
	if s := d.Stats(); s.FreeBytes < freelistLimit*pageSize || s.LiveBytes > 1<<20 || s.FileBytes < s.FreeBytes || s.FreelistBytes == 0 {
		t.Errorf("stats: %+v", s)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, options(path))
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Update(put("a", "3")); err != nil {
		t.Fatal(err)
	}
}

func FuzzMeta(f *testing.F) {
	path := filepath.Join(f.TempDir(), "x.db")
	d, err := Open(options(path))
	if err != nil {
		f.Fatal(err)
	}
	if err := d.Close(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:2*pageSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := newestMeta(b); ok && m.size() < 0 {
			t.Errorf("size %d", m.size())
		}
	})
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f.db")
	o := options(path)
	o.Version = 1
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Update(func(tx *bolt.Tx) error { return tx.Bucket(things).Put([]byte("k"), []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// A step that fails leaves the file as it was.
	o.Version, o.Migrate = 3, func(tx *bolt.Tx, _ int) error {
		return errors.Join(tx.Bucket(things).Delete([]byte("k")), errors.New("not today"))
	}
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Fatalf("a failing step: %v", err)
	}
	calls := 0
	o.Migrate = func(tx *bolt.Tx, from int) error {
		calls++
		if from != 1 || tx.Bucket(things).Get([]byte("k")) == nil {
			t.Errorf("brought up from %d", from)
		}
		return tx.Bucket(things).Put([]byte("new"), []byte("x"))
	}
	for range 2 {
		d, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Clean() {
			t.Error("the stop before does not count as clean")
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 {
		t.Errorf("brought up %d times", calls)
	}
	o.Version = 1
	if _, err := Open(o); !errors.Is(err, ErrNewer) {
		t.Errorf("by an older program: %v", err)
	}
	o.Version, o.Migrate = 3, nil
	if _, err := Open(o); err == nil {
		t.Error("without Migrate")
	}
}

// What reading has mapped can be given back, and is read again as before.
func TestUnmap(t *testing.T) {
	t.Parallel()
	d := open(t, options(filepath.Join(t.TempDir(), "f.db")))
	value := bytes.Repeat([]byte("x"), 8<<20)
	if err := d.Update(func(tx *bolt.Tx) error { return tx.Bucket(things).Put([]byte("k"), value) }); err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		if err := d.View(func(tx *bolt.Tx) error {
			if !bytes.Equal(tx.Bucket(things).Get([]byte("k")), value) {
				t.Error("another value was read")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if d.Unmap(1 << 40) {
		t.Error("given back below the limit")
	}
	if got := d.Unmap(0); got != (runtime.GOOS == "linux") {
		t.Errorf("given back: %v", got)
	}
	read()
}
