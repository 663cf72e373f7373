package boltstore

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// CreateSubscription implements store.Store.
func (s *Store) CreateSubscription(ctx context.Context, sub *store.Subscription, maxPerAccount int) error {
	if sub.ID == (store.SubscriptionID{}) {
		return errors.New("subscription id must not be zero")
	}
	if sub.Role != store.RoleNone {
		return fmt.Errorf("subscription %s has role %q, which only the lanes of implementations have", sub.ID, sub.Role)
	}
	// Encrypted by the caller, not by the writer. What is kept in memory is what the file says.
	value := encodeSubscription(s.sealer, sub)
	stored, err := decodeSubscription(s.sealer, sub.ID[:], value)
	if err != nil {
		return err
	}
	return s.do(ctx, &change{weight: 2, bytes: int64(len(value)), apply: func(w *writeTx) (func(), error) {
		if err := requireAccount(w.Tx, stored.AccountID); err != nil {
			return nil, err
		}
		if w.Bucket(bucketSubscription).Get(stored.ID[:]) != nil {
			return nil, fmt.Errorf("subscription %s: %w", stored.ID, store.ErrExists)
		}
		index := nested(w.Tx, bucketSubscriptionAccount, stored.AccountID)
		if n := index.Sequence(); maxPerAccount > 0 && n >= uint64(maxPerAccount) {
			return nil, fmt.Errorf("account %q has %d subscriptions: %w", stored.AccountID, n, store.ErrLimit)
		}
		w.put(w.Bucket(bucketSubscription), stored.ID[:], value)
		w.put(index, stored.ID[:], nil)
		w.try(func() error { return index.SetSequence(index.Sequence() + 1) })
		return func() {
			s.matcher.Replace(nil, stored)
			s.subscriptions.set(stored.ID, stored)
			s.count.Add(1)
		}, nil
	}})
}

// Subscription implements store.Store. For a subscription in memory it allocates nothing.
func (s *Store) Subscription(_ context.Context, id store.SubscriptionID) (*store.Subscription, error) {
	if s.shut.Load() {
		return nil, store.ErrClosed
	}
	sub, writes, ok := s.subscriptions.get(id)
	if ok {
		return sub, nil
	}
	err := s.view(func(tx *bolt.Tx) (err error) {
		sub, err = s.readSubscription(tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.subscriptions.fill(id, sub, writes)
	return sub, nil
}

func (s *Store) readSubscription(tx *bolt.Tx, id store.SubscriptionID) (*store.Subscription, error) {
	v := tx.Bucket(bucketSubscription).Get(id[:])
	if v == nil {
		return nil, fmt.Errorf("subscription %s: %w", id, store.ErrNotFound)
	}
	return decodeSubscription(s.sealer, id[:], v)
}

// Subscriptions implements store.Store.
func (s *Store) Subscriptions(ctx context.Context, accountID string, after store.SubscriptionID, limit int) ([]*store.Subscription, error) {
	bucket := top(bucketSubscription)
	if accountID != "" {
		bucket = of(bucketSubscriptionAccount, accountID)
	}
	var from []byte
	if after != (store.SubscriptionID{}) {
		from = after[:]
	}
	var list []*store.Subscription
	err := s.scan(ctx, bucket, nil, from, limit, func(tx *bolt.Tx, k, v []byte) error {
		if accountID != "" {
			v = tx.Bucket(bucketSubscription).Get(k)
		}
		if v == nil {
			return decodeError("subscription", k, errMissing)
		}
		sub, err := decodeSubscription(s.sealer, k, v)
		list = append(list, sub)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// UpdateSubscription implements store.Store. A panic of change is passed on to the caller.
func (s *Store) UpdateSubscription(ctx context.Context, id store.SubscriptionID, update func(*store.Subscription) error) (*store.Subscription, error) {
	var stored *store.Subscription
	err := s.do(ctx, &change{weight: 2, apply: func(w *writeTx) (func(), error) {
		old, err := s.readSubscription(w.Tx, id)
		if err != nil {
			return nil, err
		}
		next := old.Clone()
		if err := guard(update, next); err != nil {
			return nil, err
		}
		next.ID, next.AccountID, next.CreatedAt = old.ID, old.AccountID, old.CreatedAt
		next.Role, next.ImplementationID = old.Role, old.ImplementationID
		value := encodeSubscription(s.sealer, next)
		now, err := decodeSubscription(s.sealer, id[:], value)
		if err != nil {
			return nil, err
		}
		stored = now
		w.put(w.Bucket(bucketSubscription), id[:], value)
		return func() {
			s.matcher.Replace(old, now)
			s.subscriptions.set(id, now)
		}, nil
	}})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// DeleteSubscription implements store.Store.
func (s *Store) DeleteSubscription(ctx context.Context, accountID string, id store.SubscriptionID) error {
	return s.do(ctx, &change{weight: 2, apply: func(w *writeTx) (func(), error) {
		v := w.Bucket(bucketSubscription).Get(id[:])
		if v == nil {
			return nil, fmt.Errorf("subscription %s: %w", id, store.ErrNotFound)
		}
		old, err := decodeClear(id[:], v)
		if err != nil {
			return nil, err
		}
		if accountID != "" && old.AccountID != accountID || old.Role != store.RoleNone {
			return nil, fmt.Errorf("subscription %s: %w", id, store.ErrNotFound)
		}
		index := nested(w.Tx, bucketSubscriptionAccount, old.AccountID)
		w.remove(w.Bucket(bucketSubscription), id[:])
		w.remove(index, id[:])
		w.try(func() error { return index.SetSequence(index.Sequence() - 1) })
		return func() {
			s.matcher.Replace(old, nil)
			s.subscriptions.drop(id)
			s.count.Add(-1)
		}, nil
	}})
}
