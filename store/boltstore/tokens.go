package boltstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// errMissing: an index names a record that is not there.
var errMissing = errors.New("an index names it, but it is not there")

// CreateToken implements store.Store.
func (s *Store) CreateToken(ctx context.Context, t store.Token) error {
	if err := checkID("token", t.ID, store.MaxNameLength); err != nil {
		return err
	}
	id, value := []byte(t.ID), encodeToken(&t)
	stored, err := decodeToken(id, value)
	if err != nil {
		return err
	}
	return s.do(ctx, &change{weight: 3, bytes: int64(len(value)), apply: func(w *writeTx) (func(), error) {
		if err := requireAccount(w.Tx, stored.AccountID); err != nil {
			return nil, err
		}
		if w.Bucket(bucketToken).Get(id) != nil {
			return nil, fmt.Errorf("token %q: %w", id, store.ErrExists)
		}
		if w.Bucket(bucketTokenHash).Get(stored.Hash[:]) != nil {
			return nil, fmt.Errorf("token %q: another has the same hash: %w", id, store.ErrExists)
		}
		w.put(w.Bucket(bucketToken), id, value)
		w.put(w.Bucket(bucketTokenHash), stored.Hash[:], id)
		w.put(nested(w.Tx, bucketTokenAccount, stored.AccountID), id, nil)
		return func() { s.tokens.set(stored.Hash, stored) }, nil
	}})
}

// TokenByHash implements store.Store. For a token in memory it allocates the scopes it returns, nothing
// else.
func (s *Store) TokenByHash(ctx context.Context, hash store.TokenHash) (store.Token, store.Account, error) {
	if s.shut.Load() {
		return store.Token{}, store.Account{}, store.ErrClosed
	}
	t, writes, ok := s.tokens.get(hash)
	if !ok {
		err := s.view(func(tx *bolt.Tx) error {
			id := tx.Bucket(bucketTokenHash).Get(hash[:])
			if id == nil {
				return fmt.Errorf("token: %w", store.ErrNotFound)
			}
			var err error
			t, err = readToken(tx, id)
			return err
		})
		if err != nil {
			return store.Token{}, store.Account{}, err
		}
		s.tokens.fill(hash, t, writes)
	}
	a, err := s.Account(ctx, t.AccountID)
	if err != nil {
		// The account may have gone since the token was read, and its tokens with it.
		return store.Token{}, store.Account{}, err
	}
	t.Scopes = slices.Clone(t.Scopes)
	return t, a, nil
}

// readToken reads a token that an index names.
func readToken(tx *bolt.Tx, id []byte) (store.Token, error) {
	v := tx.Bucket(bucketToken).Get(id)
	if v == nil {
		return store.Token{}, decodeError("token", id, errMissing)
	}
	return decodeToken(id, v)
}

// Tokens implements store.Store.
func (s *Store) Tokens(ctx context.Context, accountID, after string, limit int) ([]store.Token, error) {
	bucket := top(bucketToken)
	if accountID != "" {
		bucket = of(bucketTokenAccount, accountID)
	}
	var list []store.Token
	err := s.scan(ctx, bucket, nil, []byte(after), limit, func(tx *bolt.Tx, k, _ []byte) error {
		t, err := readToken(tx, k)
		list = append(list, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// DeleteToken implements store.Store.
func (s *Store) DeleteToken(ctx context.Context, accountID, id string) error {
	key := []byte(id)
	return s.do(ctx, &change{weight: 3, apply: func(w *writeTx) (func(), error) {
		v := w.Bucket(bucketToken).Get(key)
		if v == nil {
			return nil, fmt.Errorf("token %q: %w", id, store.ErrNotFound)
		}
		t, err := decodeToken(key, v)
		if err != nil {
			return nil, err
		}
		if accountID != "" && t.AccountID != accountID {
			return nil, fmt.Errorf("token %q: %w", id, store.ErrNotFound)
		}
		w.remove(w.Bucket(bucketToken), key)
		w.remove(w.Bucket(bucketTokenHash), t.Hash[:])
		w.remove(nested(w.Tx, bucketTokenAccount, t.AccountID), key)
		return func() { s.tokens.drop(t.Hash) }, nil
	}})
}
