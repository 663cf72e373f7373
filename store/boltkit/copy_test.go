package boltkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// contents is everything in a file, as text.
func contents(t *testing.T, path string) string {
	t.Helper()
	d := open(t, options(path))
	var b strings.Builder
	var walk func(depth int, bucket *bolt.Bucket) error
	walk = func(depth int, bucket *bolt.Bucket) error {
		fmt.Fprintf(&b, " (%d)\n", bucket.Sequence())
		return bucket.ForEach(func(k, v []byte) error {
			fmt.Fprintf(&b, "%d %x %x", depth, k, v)
			if v == nil {
				return walk(depth+1, bucket.Bucket(k))
			}
			b.WriteByte('\n')
			return nil
		})
	}
	err := d.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error { b.Write(name); return walk(0, bucket) })
	})
	if err := errors.Join(err, d.Check(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fill makes a file with buckets in buckets, small and large values, sequences, and many free pages.
func fill(t *testing.T, path string) {
	t.Helper()
	d := open(t, options(path))
	random := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		err := d.Update(func(tx *bolt.Tx) error {
			top := tx.Bucket(things)
			for i := range 40 {
				b, err := top.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket %d", i))
				if err != nil {
					return err
				}
				_ = b.SetSequence(uint64(i))
				small, err := b.CreateBucketIfNotExists([]byte("small"))
				if err != nil {
					return err
				}
				_ = small.Put([]byte("k"), nil)
				for j := range 50 {
					_ = b.Put(fmt.Appendf(nil, "key %d", j), bytes.Repeat([]byte{byte(j)}, random.IntN(8000)/(1+i%7)))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := d.Update(func(tx *bolt.Tx) error {
		for i := range 30 {
			if err := tx.Bucket(things).DeleteBucket(fmt.Appendf(nil, "bucket %d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestCompact(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	fill(t, path)
	d := open(t, options(path))
	for _, key := range []string{"large", "larger"} { // more than one transaction takes
		if err := d.Update(put(key, strings.Repeat(key, compactBytes/8))); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	want := contents(t, path)
	copyFile(t, path, path+compactSuffix) // what a compaction that was killed leaves behind
	u, err := UsageOf(path)
	if err != nil || u.Free*2 < u.Bytes {
		t.Fatalf("usage %+v, %v", u, err)
	}
	var told []int64
	before, after, err := Compact(t.Context(), path, func(n, of int64) {
		if of != u.Bytes-u.Free || n > of*5/4 {
			t.Errorf("told of %d bytes of %d", n, of)
		}
		told = append(told, n)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(told) || len(told) == 0 {
		t.Errorf("told of %v", told)
	}
	if fi, _ := os.Stat(path); before != u || after != fi.Size() || after > (u.Bytes-u.Free)*5/4 {
		t.Errorf("from %+v to %d, the file has %d", before, after, fi.Size())
	}
	if got := contents(t, path); got != want {
		t.Error("the contents differ")
	}
	if _, err := os.Stat(path + compactSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left behind: %v", err)
	}
	if err := Verify(t.Context(), path); err != nil {
		t.Error(err)
	}
	if d := open(t, options(path)); !d.Clean() {
		t.Error("the mark of a clean stop is lost")
	} else if err := d.Update(put("more", strings.Repeat("x", 1<<20))); err != nil { // it can grow
		t.Error(err)
	}
}

func TestCompactRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	fill(t, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if _, left := os.Stat(path + compactSuffix); err != nil || !bytes.Equal(b, whole) || left == nil {
			t.Errorf("%s: the file was changed or something is left behind", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Compact(ctx, path, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context at an end: %v", err)
	}
	same("interrupted")
	d := open(t, options(path))
	for what, f := range map[string]func() error{
		"compact": func() error { _, _, err := Compact(t.Context(), path, nil); return err },
		"verify":  func() error { return Verify(t.Context(), path) },
		"usage":   func() error { _, err := UsageOf(path); return err },
	} {
		if err := f(); !errors.Is(err, ErrLocked) {
			t.Errorf("%s, in use: %v", what, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if whole, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	m, _ := newestMeta(whole[:2*pageSize])
	whole[m.root*pageSize+8] = 0x40
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Compact(t.Context(), path, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	same("damaged")
}

// A file is compacted at the start when more than half of a large one is free, and never otherwise.
func TestTidy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values, removed int // of 1 MiB
		want            string
	}{
		"half empty and large": {70, 60, "file compacted"},
		"small":                {10, 10, ""},
		"full":                 {70, 10, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "x.db")
			d, err := Open(Options{Path: path, Name: "test", Version: 1, Init: func(tx *bolt.Tx) error {
				_, err := tx.CreateBucket([]byte("b"))
				return err
			}})
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.values + c.removed {
				err := d.Update(func(tx *bolt.Tx) error {
					if i >= c.values {
						return tx.Bucket([]byte("b")).Delete(fmt.Appendf(nil, "%03d", i-c.values))
					}
					return tx.Bucket([]byte("b")).Put(fmt.Appendf(nil, "%03d", i), bytes.Repeat([]byte("x"), 1<<20))
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			Tidy(t.Context(), path, slog.New(slog.NewTextHandler(&log, nil)))
			after, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if done := after.Size() < before.Size()/2; done != (c.want != "") || !strings.Contains(log.String(), c.want) || c.want == "" && log.Len() > 0 {
				t.Errorf("from %d to %d bytes: %s", before.Size(), after.Size(), log.String())
			}
		})
	}
}

// A file that is replaced while someone waits for its lock is not used by the one who waited.
func TestOpenReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	fill(t, path)
	f, _, err := hold(path)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		d, err := Open(options(path))
		if err == nil {
			err = errors.Join(d.Present(), d.Close())
		}
		opened <- err
	}()
	copyFile(t, path, path+".new")
	if err := errors.Join(os.Rename(path+".new", path), f.Close()); err != nil {
		t.Fatal(err)
	}
	// It came after the replacement, and has the new file, or before, and has none.
	if err := <-opened; err != nil && !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
}

// A copy holds what was committed before it, and nothing of what is committed while it is made.
func TestCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	fill(t, path)
	want := contents(t, path)
	o := options(path)
	o.InitialMmapSize = AddressSpace // without it the first write for which the file grows would wait for the copy
	d := open(t, o)
	to, err := os.Create(filepath.Join(dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	writes := 0
	n, err := d.Copy(t.Context(), writerFunc(func(b []byte) (int, error) {
		if writes++; writes < 200 {
			// Every page of the file is written anew meanwhile, and writers do not wait.
			err := d.Update(func(tx *bolt.Tx) error {
				return tx.Bucket(things).Put(fmt.Appendf(nil, "later %d", writes), bytes.Repeat([]byte("x"), 100_000))
			})
			if err != nil {
				return 0, err
			}
		}
		return to.Write(b)
	}))
	if err != nil || writes < 20 {
		t.Fatalf("after %d writes: %v", writes, err)
	}
	if fi, _ := to.Stat(); fi.Size() != n {
		t.Errorf("%d bytes were counted, the file has %d", n, fi.Size())
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, to.Name()); got != want {
		t.Error("the contents differ")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Copy(ctx, to); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context at an end: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Whatever stands in a file, verifying and opening it end with an answer. What Verify passes can be read to its end: the
// test would die of a fault otherwise.
func TestVerifyAnyDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	fill(t, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := newestMeta(whole[:2*pageSize])
	if !ok {
		t.Fatal("no meta page")
	}
	random := rand.New(rand.NewPCG(3, 4))
	found := 0
	bad := filepath.Join(dir, "bad.db")
	for range 200 {
		b := bytes.Clone(whole)
		page := 2 + random.IntN(int(m.pages)-2)
		if random.IntN(4) == 0 {
			page = int([]uint64{m.root, m.freelist}[random.IntN(2)])
		}
		// Where a page says what it is and where its elements are.
		at := page*pageSize + random.IntN(64)
		b[at] ^= byte(1 + random.IntN(255))
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := Verify(t.Context(), bad)
		if err != nil {
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "page ") {
				t.Errorf("byte %d: %v", at, err)
			}
			found++
			continue
		}
		if d, err := Open(options(bad)); err == nil {
			_ = d.Check(t.Context())
			_ = d.Close()
		}
	}
	if found < 20 {
		t.Errorf("damage was found in %d files only", found)
	}
}

// Without a list of free pages bbolt would read the whole tree in a goroutine of its own, and die of what it finds there.
func TestOpenDamagedWithoutFreelist(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	fill(t, path)
	d := open(t, options(path))
	big := func(tx *bolt.Tx) error {
		for i := range 2 * freelistLimit {
			if err := tx.Bucket(things).Put(fmt.Appendf(nil, "big %06d", i), bytes.Repeat([]byte("x"), 3000)); err != nil {
				return err
			}
		}
		return nil
	}
	none := func(tx *bolt.Tx) error { return errors.Join(tx.DeleteBucket(things), options(path).Init(tx)) }
	if err := errors.Join(d.Update(big), d.Update(none), d.Update(put("a", "1")), d.Update(put("a", "2"))); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(dir, "crashed.db")
	copyFile(t, path, crashed)
	b, err := os.ReadFile(crashed)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := newestMeta(b[:2*pageSize])
	if !ok || m.freelist != noFreelist {
		t.Fatalf("the file has a list of free pages: %+v", m)
	}
	if c := open(t, options(crashed)); get(t, c, "a") != "2" {
		t.Error("after a crash something is lost")
	} else if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		b[int(m.root)*pageSize+i] ^= 0xff
	}
	if err := os.WriteFile(crashed, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first leaves no lock behind
		if _, err := Open(options(crashed)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("got %v, want ErrDamaged", err)
		}
	}
}

// Root compacts, and the daemon's user still owns the file.
func TestCompactKeepsTheOwner(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "x.db")
	d, err := Open(Options{Path: path, Name: "test", Version: 1, Init: func(*bolt.Tx) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), os.Chown(path, 4321, 1234), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Compact(t.Context(), path, nil); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) {
		t.Fatal("it was not rewritten")
	}
	if owner := func(fi os.FileInfo) string {
		st := reflect.ValueOf(fi.Sys()).Elem()
		return fmt.Sprint(st.FieldByName("Uid"), st.FieldByName("Gid"), fi.Mode())
	}; owner(after) != owner(before) {
		t.Errorf("owner, group and mode are %s, were %s", owner(after), owner(before))
	}
}
