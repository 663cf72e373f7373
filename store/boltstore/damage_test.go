package boltstore

import (
	"errors"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"herald/store"
	"herald/store/boltkit"
)

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

// An account whose bucket is not there, or under another name, is not served as one that has nothing.
func TestOpenWithoutBucketOfAccount(t *testing.T) {
	t.Parallel()
	for _, name := range perAccount {
		path := filepath.Join(t.TempDir(), "store.db")
		start(t, Options{Path: path}).end()
		tamper(t, path, func(tx *bolt.Tx) error { return tx.Bucket(name).DeleteBucket([]byte(store.DefaultAccount)) })
		if _, err := Open(Options{Path: path, Key: testKey}); !errors.Is(err, boltkit.ErrDamaged) {
			t.Errorf("without the one in %s: got %v, want ErrDamaged", name, err)
		}
	}
}
