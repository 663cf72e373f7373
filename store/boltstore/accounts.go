package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// maxAccountID is what store.Account allows.
const maxAccountID = 64

// checkID refuses what cannot be a key of the file.
func checkID(kind, id string, limit int) error {
	if id == "" || len(id) > limit {
		return fmt.Errorf("%s id must have 1 to %d characters", kind, limit)
	}
	if strings.IndexByte(id, 0) >= 0 { // which stands between the parts of a key
		return fmt.Errorf("%s id must not have a NUL in it", kind)
	}
	return nil
}

// CreateAccount implements store.Store.
func (s *Store) CreateAccount(ctx context.Context, a store.Account) error {
	if err := checkID("account", a.ID, maxAccountID); err != nil {
		return err
	}
	value := encodeAccount(&a)
	stored, err := decodeAccount([]byte(a.ID), value)
	if err != nil {
		return err
	}
	return s.do(ctx, &change{bytes: int64(len(value)), apply: func(w *writeTx) (func(), error) {
		if w.Bucket(bucketAccount).Get([]byte(a.ID)) != nil {
			return nil, fmt.Errorf("account %q: %w", a.ID, store.ErrExists)
		}
		// Whatever the mark says, a value that cannot be read included: that it is there is enough.
		if w.Bucket(bucketAccountGone).Get([]byte(a.ID)) != nil {
			return nil, fmt.Errorf("account %q: %w", a.ID, store.ErrRetired)
		}
		w.createAccount(a.ID, value)
		return func() { s.accounts.set(a.ID, stored) }, nil
	}})
}

// createAccount writes an account and its nested buckets.
func (w *writeTx) createAccount(id string, value []byte) {
	w.put(w.Bucket(bucketAccount), []byte(id), value)
	for _, name := range perAccount {
		w.try(func() error {
			_, err := w.Bucket(name).CreateBucket([]byte(id))
			return err
		})
	}
}

// Account implements store.Store.
func (s *Store) Account(_ context.Context, id string) (store.Account, error) {
	if s.shut.Load() {
		return store.Account{}, store.ErrClosed
	}
	a, writes, ok := s.accounts.get(id)
	if ok {
		return a, nil
	}
	err := s.view(func(tx *bolt.Tx) (err error) {
		a, err = readAccount(tx, id)
		return err
	})
	if err != nil {
		return store.Account{}, err
	}
	s.accounts.fill(a.ID, a, writes)
	return a, nil
}

func readAccount(tx *bolt.Tx, id string) (store.Account, error) {
	v := tx.Bucket(bucketAccount).Get([]byte(id))
	if v == nil {
		return store.Account{}, fmt.Errorf("account %q: %w", id, store.ErrNotFound)
	}
	return decodeAccount([]byte(id), v)
}

// requireAccount returns ErrNotFound when there is no such account.
func requireAccount(tx *bolt.Tx, id string) error {
	if tx.Bucket(bucketAccount).Get([]byte(id)) == nil {
		return fmt.Errorf("account %q: %w", id, store.ErrNotFound)
	}
	return nil
}

// Accounts implements store.Store.
func (s *Store) Accounts(ctx context.Context, after string, limit int) ([]store.Account, error) {
	var list []store.Account
	err := s.scan(ctx, top(bucketAccount), nil, []byte(after), limit, func(_ *bolt.Tx, k, v []byte) error {
		a, err := decodeAccount(k, v)
		list = append(list, a)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// UpdateAccount implements store.Store. A panic of change is passed on to the caller.
func (s *Store) UpdateAccount(ctx context.Context, id string, update func(*store.Account) error) (store.Account, error) {
	var stored store.Account
	err := s.do(ctx, &change{apply: func(w *writeTx) (func(), error) {
		a, err := readAccount(w.Tx, id)
		if err != nil {
			return nil, err
		}
		if err := guard(update, &a); err != nil {
			return nil, err
		}
		// The id is the key, whatever became of it in a.
		value := encodeAccount(&a)
		if stored, err = decodeAccount([]byte(id), value); err != nil {
			return nil, err
		}
		w.put(w.Bucket(bucketAccount), []byte(id), value)
		return func() { s.accounts.set(id, stored) }, nil
	}})
	if err != nil {
		return store.Account{}, err
	}
	return stored, nil
}

// DeleteAccount implements store.Store. All that belongs to the account but its devices goes in the same commit, and the
// mark that retires its id comes with it: a crash leaves the account whole or its id retired. The devices, of which there may be
// millions, are out of sight with their implementations, and left to the sweeper.
func (s *Store) DeleteAccount(ctx context.Context, id string) ([]store.SubscriptionID, error) {
	var ids []store.SubscriptionID
	err := s.do(ctx, &change{apply: func(w *writeTx) (func(), error) {
		if err := requireAccount(w.Tx, id); err != nil {
			return nil, err
		}
		tokens, err := accountTokens(w.Tx, id)
		if err != nil {
			return nil, err
		}
		subs, err := accountSubscriptions(w.Tx, id)
		if err != nil {
			return nil, err
		}
		implementations, err := accountImplementations(w.Tx, id)
		if err != nil {
			return nil, err
		}
		hashes := make([]store.TokenHash, 0, len(tokens))
		for _, t := range tokens {
			hashes = append(hashes, t.Hash)
			w.remove(w.Bucket(bucketToken), []byte(t.ID))
			w.remove(w.Bucket(bucketTokenHash), t.Hash[:])
		}
		ids = make([]store.SubscriptionID, 0, len(subs))
		for _, sub := range subs {
			ids = append(ids, sub.ID)
			w.remove(w.Bucket(bucketSubscription), sub.ID[:])
		}
		for _, i := range implementations {
			ids = append(ids, w.deleteImplementation(i)...)
		}
		for _, name := range perAccount {
			w.try(func() error { return w.Bucket(name).DeleteBucket([]byte(id)) })
		}
		w.remove(w.Bucket(bucketAccount), []byte(id))
		w.put(w.Bucket(bucketAccountGone), []byte(id), encodeGone(time.Now()))
		return func() {
			s.tokens.drop(hashes...)
			for _, sub := range subs {
				s.matcher.Replace(sub, nil)
			}
			s.subscriptions.drop(ids...)
			s.accounts.drop(id)
			s.count.Add(-int64(len(subs)))
			s.forgetImplementations(implementations...)
		}, nil
	}})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// accountTokens returns the tokens of an account.
func accountTokens(tx *bolt.Tx, id string) ([]store.Token, error) {
	var list []store.Token
	c := nested(tx, bucketTokenAccount, id).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		t, err := readToken(tx, k)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// accountSubscriptions returns the clear parts of the subscriptions of an account.
func accountSubscriptions(tx *bolt.Tx, id string) ([]*store.Subscription, error) {
	var list []*store.Subscription
	records := tx.Bucket(bucketSubscription)
	c := nested(tx, bucketSubscriptionAccount, id).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		v := records.Get(k)
		if v == nil {
			return nil, decodeError("subscription", k, errMissing)
		}
		sub, err := decodeClear(k, v)
		if err != nil {
			return nil, err
		}
		list = append(list, sub)
	}
	return list, nil
}

// top chooses a bucket of the file.
func top(name []byte) func(*bolt.Tx) *bolt.Bucket {
	return func(tx *bolt.Tx) *bolt.Bucket { return tx.Bucket(name) }
}

// nested returns the bucket of an account that exists.
func nested(tx *bolt.Tx, name []byte, account string) *bolt.Bucket {
	return tx.Bucket(name).Bucket([]byte(account))
}

// of chooses the nested bucket of an account, nil when there is no such account.
func of(name []byte, account string) func(*bolt.Tx) *bolt.Bucket {
	return func(tx *bolt.Tx) *bolt.Bucket { return nested(tx, name, account) }
}

// scan visits the records of a bucket in ascending order of their keys: those that begin with prefix and
// come after the key given (empty: from the first), at most limit (0: all). It reads page by
// page, a short transaction for each, so that a long list holds up no writer; what is written
// meanwhile may or may not be seen. Keys and values are valid during the visit only.
func (s *Store) scan(ctx context.Context, bucket func(*bolt.Tx) *bolt.Bucket, prefix, after []byte, limit int,
	visit func(tx *bolt.Tx, k, v []byte) error,
) error {
	total := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		more := false
		err := s.view(func(tx *bolt.Tx) error {
			b := bucket(tx)
			if b == nil {
				return nil
			}
			c := b.Cursor()
			start := after
			if bytes.Compare(start, prefix) < 0 {
				start = prefix
			}
			k, v := c.Seek(start)
			if len(after) > 0 && bytes.Equal(k, after) {
				k, v = c.Next()
			}
			for n := 0; k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
				if limit > 0 && total == limit {
					return nil
				}
				if n == pageRecords {
					more = true
					return nil
				}
				if err := visit(tx, k, v); err != nil {
					return err
				}
				after = bytes.Clone(k)
				n++
				total++
			}
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}
