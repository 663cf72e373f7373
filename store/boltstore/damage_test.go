package boltstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"herald/store"
	"herald/store/boltkit"
)

// content is a closed store with more than one page in its larger buckets, as bytes. It was closed cleanly:
// only then does bbolt read its list of free pages and looks for none in a goroutine of its own, where
// a panic is beyond anybody's reach.
func content(t *testing.T) (file []byte, pages int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path})
	must(t, s.CreateAccount(ctx, store.Account{ID: "acme"}))
	must(t, s.CreateAccount(ctx, store.Account{ID: "gone"}))
	for i := range 40 {
		must(t, s.CreateSubscription(ctx, newSubscription(t), 0))
		must(t, s.CreateToken(ctx, store.Token{ID: string(rune('A' + i)), AccountID: "acme", Hash: store.TokenHash{byte(i)}}))
	}
	_, err := s.DeleteAccount(ctx, "gone")
	must(t, err)
	s.end()
	tamper(t, path, func(tx *bolt.Tx) error {
		pages = int(tx.Size() / cutPage)
		return nil
	})
	file, err = os.ReadFile(path)
	must(t, err)
	// bbolt makes a file longer than it has use for, and this one is written once for every damage.
	return file[:pages*cutPage], pages
}

// Whatever byte of a file is wrong, opening it works or says what to do. It never panics.
func TestOpenDamaged(t *testing.T) {
	t.Parallel()
	file, pages := content(t)
	if pages < 20 {
		t.Fatalf("only %d pages", pages)
	}
	// The header of a page and of its first elements byte by byte, the rest here and there.
	var at []int
	for i := range cutPage {
		if i < 40 || i%211 == 0 {
			at = append(at, i)
		}
	}
	step := 5 // each damage costs a few syncs of the disk
	if testing.Short() {
		step = 20
	}
	dir, opened, damaged, tried := t.TempDir(), 0, 0, 0
	for page := 0; page < pages; page += step {
		tried++
		for _, i := range at {
			for _, flip := range []byte{0xff, 0x01} {
				b := &file[page*cutPage+i]
				*b ^= flip
				err := openBytes(t, dir, file)
				*b ^= flip
				switch {
				case err == nil:
					opened++
				case errors.Is(err, boltkit.ErrDamaged):
					damaged++
				}
			}
		}
		must(t, openBytes(t, dir, file)) // put right again
	}
	t.Logf("%d pages: %d opened, %d refused as damaged", tried, opened, damaged)
	if opened == 0 || damaged < tried {
		t.Errorf("%d damaged files were opened and %d refused as damaged; want some and at least %d", opened, damaged, tried)
	}
}

// openBytes opens a store of these bytes. A panic inside bbolt.Open leaves its file locked, so that each gets
// a file of its own.
func openBytes(t *testing.T, dir string, file []byte) error {
	t.Helper()
	path := filepath.Join(dir, "store.db")
	must(t, os.WriteFile(path, file, 0o600))
	defer func() { must(t, os.Remove(path)) }()
	s, err := Open(Options{Path: path, Key: testKey})
	if err != nil {
		return err
	}
	return s.Close()
}

// What panics when a bucket is used is told before, for each of them.
func TestOpenWithoutBucket(t *testing.T) {
	t.Parallel()
	for _, name := range buckets {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			start(t, Options{Path: path}).end()
			tamper(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket(name) })
			for range 2 { // the first leaves no lock behind
				if _, err := Open(Options{Path: path, Key: testKey}); !errors.Is(err, boltkit.ErrDamaged) {
					t.Fatalf("got %v, want ErrDamaged", err)
				}
			}
		})
	}
}
