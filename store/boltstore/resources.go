package boltstore

import (
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// PutResources implements store.Store. Of two resources with the same key the later one stays.
func (s *Store) PutResources(ctx context.Context, accountID string, rs []store.Resource) error {
	type pair struct{ key, value []byte }
	pairs := make([]pair, 0, len(rs))
	size := 0
	for i := range rs {
		if err := store.CheckResourceType(rs[i].Type); err != nil {
			return fmt.Errorf("resource type %q %w", rs[i].Type, err)
		}
		if err := store.CheckResourceID(rs[i].ID); err != nil {
			return fmt.Errorf("resource id %q %w", rs[i].ID, err)
		}
		p := pair{resourceKey(rs[i].ResourceKey), encodeResource(&rs[i])}
		size += len(p.key) + len(p.value)
		pairs = append(pairs, p)
	}
	return s.do(ctx, &change{weight: len(pairs), bytes: int64(size), apply: func(w *writeTx) (func(), error) {
		if err := requireAccount(w.Tx, accountID); err != nil {
			return nil, err
		}
		b := nested(w.Tx, bucketResource, accountID)
		for _, p := range pairs {
			w.put(b, p.key, p.value)
		}
		return nil, nil
	}})
}

// Resource implements store.Store.
func (s *Store) Resource(_ context.Context, accountID string, key store.ResourceKey) (store.Resource, error) {
	var x store.Resource
	err := s.view(func(tx *bolt.Tx) error {
		k := resourceKey(key)
		v, err := readResource(tx, accountID, key)
		if err != nil {
			return err
		}
		x, err = decodeResource(k, v)
		return err
	})
	return x, err
}

func readResource(tx *bolt.Tx, accountID string, key store.ResourceKey) ([]byte, error) {
	if b := nested(tx, bucketResource, accountID); b != nil {
		if v := b.Get(resourceKey(key)); v != nil {
			return v, nil
		}
	}
	return nil, fmt.Errorf("resource %q: %w", key, store.ErrNotFound)
}

// HasResourceType implements store.Store.
func (s *Store) HasResourceType(ctx context.Context, accountID, resourceType string) (bool, error) {
	found := false
	err := s.scan(ctx, of(bucketResource, accountID), typePrefix(resourceType), nil, 1, func(_ *bolt.Tx, _, _ []byte) error {
		found = true
		return nil
	})
	return found, err
}

func typePrefix(resourceType string) []byte { return append([]byte(resourceType), 0) }

// Resources implements store.Store.
func (s *Store) Resources(ctx context.Context, accountID, resourceType string, after store.ResourceKey, limit int) ([]store.Resource, error) {
	var prefix, from []byte
	if resourceType != "" {
		prefix = typePrefix(resourceType)
	}
	if after != (store.ResourceKey{}) {
		from = resourceKey(after)
	}
	var list []store.Resource
	err := s.scan(ctx, of(bucketResource, accountID), prefix, from, limit, func(_ *bolt.Tx, k, v []byte) error {
		x, err := decodeResource(k, v)
		list = append(list, x)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// DeleteResource implements store.Store.
func (s *Store) DeleteResource(ctx context.Context, accountID string, key store.ResourceKey) error {
	return s.do(ctx, &change{apply: func(w *writeTx) (func(), error) {
		if _, err := readResource(w.Tx, accountID, key); err != nil {
			return nil, err
		}
		w.remove(nested(w.Tx, bucketResource, accountID), resourceKey(key))
		return nil, nil
	}})
}
