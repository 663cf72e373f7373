package boltstore_test

import (
	"path/filepath"
	"testing"

	"herald/store/boltstore"
	"herald/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	key := boltstore.NewKey()
	storetest.Run(t, func(dir string) (storetest.Engine, error) {
		return boltstore.Open(boltstore.Options{Path: filepath.Join(dir, "store.db"), Key: key})
	})
}

func TestConformanceWithTinyCaches(t *testing.T) {
	t.Parallel()
	key := boltstore.NewKey()
	storetest.Run(t, func(dir string) (storetest.Engine, error) {
		return boltstore.Open(boltstore.Options{Path: filepath.Join(dir, "store.db"), Key: key, CacheEntries: 1})
	})
}
