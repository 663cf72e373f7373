package boltstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// maxImplementationID is what store.Implementation allows.
const maxImplementationID = 64

// implementationKey is the key of the cache.
type implementationKey struct{ account, id string }

// CreateImplementation implements store.Store. It is encrypted by the writer, which knows its number; implementations are few.
func (s *Store) CreateImplementation(ctx context.Context, i *store.Implementation, maxPerAccount int) (*store.Implementation, error) {
	if err := checkID("implementation", i.ID, maxImplementationID); err != nil {
		return nil, err
	}
	if err := checkOrigins(i); err != nil {
		return nil, err
	}
	given := i.Clone()
	_, _ = rand.Read(given.UID[:]) // never fails, see NewKey
	var stored *store.Implementation
	err := s.do(ctx, &change{weight: 3 + len(given.Lanes()), apply: func(w *writeTx) (func(), error) {
		if err := requireAccount(w.Tx, given.AccountID); err != nil {
			return nil, err
		}
		own := nested(w.Tx, bucketImplementation, given.AccountID)
		if own.Get([]byte(given.ID)) != nil {
			return nil, fmt.Errorf("implementation %q: %w", given.ID, store.ErrExists)
		}
		if n := own.Sequence(); maxPerAccount > 0 && n >= uint64(maxPerAccount) {
			return nil, fmt.Errorf("account %q has %d implementations: %w", given.AccountID, n, store.ErrLimit)
		}
		all := w.Bucket(bucketImplementation)
		last := all.Sequence()
		if last >= math.MaxUint32 {
			return nil, errors.New("no number is left for another implementation")
		}
		given.Number = uint32(last) + 1
		value := encodeImplementation(s.sealer, given)
		var err error
		if stored, err = decodeImplementation(s.sealer, given.AccountID, []byte(given.ID), value); err != nil {
			return nil, err
		}
		w.try(func() error { return all.SetSequence(uint64(given.Number)) })
		w.put(own, []byte(given.ID), value)
		w.try(func() error { return own.SetSequence(own.Sequence() + 1) })
		w.put(w.Bucket(bucketImplementationNumber), numberKey(given.Number), implementationID(given.AccountID, given.ID))
		for _, lane := range stored.Lanes() {
			w.put(w.Bucket(bucketSubscription), lane.ID[:], encodeSubscription(s.sealer, lane))
		}
		return func() {
			s.implementations.set(implementationKey{stored.AccountID, stored.ID}, stored)
			s.implementationCount.Add(1)
		}, nil
	}})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// checkOrigins refuses what could not have a lane each.
func checkOrigins(i *store.Implementation) error {
	if len(i.StatusOrigins) > store.MaxStatusOrigins {
		return fmt.Errorf("implementation %q has callback URLs of %d origins, at most %d are possible: %w",
			i.ID, len(i.StatusOrigins), store.MaxStatusOrigins, store.ErrLimit)
	}
	for n, origin := range i.StatusOrigins {
		if slices.Contains(i.StatusOrigins[:n], origin) {
			return fmt.Errorf("implementation %q names an origin of callback URLs twice", i.ID)
		}
	}
	return nil
}

func numberKey(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// Implementation implements store.Store. For one in memory it allocates nothing.
func (s *Store) Implementation(_ context.Context, accountID, id string) (*store.Implementation, error) {
	if s.shut.Load() {
		return nil, store.ErrClosed
	}
	key := implementationKey{accountID, id}
	i, writes, ok := s.implementations.get(key)
	if ok {
		return i, nil
	}
	err := s.view(func(tx *bolt.Tx) (err error) {
		i, err = s.readImplementation(tx, accountID, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.implementations.fill(key, i, writes)
	return i, nil
}

func (s *Store) readImplementation(tx *bolt.Tx, accountID, id string) (*store.Implementation, error) {
	if b := nested(tx, bucketImplementation, accountID); b != nil {
		if v := b.Get([]byte(id)); v != nil {
			return decodeImplementation(s.sealer, accountID, []byte(id), v)
		}
	}
	return nil, fmt.Errorf("implementation %q: %w", id, store.ErrNotFound)
}

// Implementations implements store.Store.
func (s *Store) Implementations(ctx context.Context, accountID, after string, limit int) ([]*store.Implementation, error) {
	var list []*store.Implementation
	err := s.scan(ctx, of(bucketImplementation, accountID), nil, []byte(after), limit, func(_ *bolt.Tx, k, v []byte) error {
		i, err := decodeImplementation(s.sealer, accountID, k, v)
		list = append(list, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// UpdateImplementation implements store.Store. A panic of change is passed on to the caller.
func (s *Store) UpdateImplementation(ctx context.Context, accountID, id string, update func(*store.Implementation) error) (*store.Implementation, error) {
	var stored *store.Implementation
	err := s.do(ctx, &change{weight: 2, apply: func(w *writeTx) (func(), error) {
		old, err := s.readImplementation(w.Tx, accountID, id)
		if err != nil {
			return nil, err
		}
		next := old.Clone()
		if err := guard(update, next); err != nil {
			return nil, err
		}
		next.AccountID, next.ID, next.UID, next.Number, next.CreatedAt = old.AccountID, old.ID, old.UID, old.Number, old.CreatedAt
		if err := checkOrigins(next); err != nil {
			return nil, err
		}
		for _, origin := range old.StatusOrigins {
			if !slices.Contains(next.StatusOrigins, origin) {
				return nil, fmt.Errorf("implementation %q: an origin of callback URLs cannot be taken away, its lane may hold deliveries", id)
			}
		}
		value := encodeImplementation(s.sealer, next)
		now, err := decodeImplementation(s.sealer, accountID, []byte(id), value)
		if err != nil {
			return nil, err
		}
		lanes, err := s.changedLanes(w.Tx, old, now)
		if err != nil {
			return nil, err
		}
		stored = now
		w.put(nested(w.Tx, bucketImplementation, accountID), []byte(id), value)
		for _, lane := range lanes {
			w.put(w.Bucket(bucketSubscription), lane.ID[:], encodeSubscription(s.sealer, lane))
		}
		return func() {
			s.implementations.set(implementationKey{accountID, id}, now)
			for _, lane := range lanes {
				s.subscriptions.set(lane.ID, lane)
			}
		}, nil
	}})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// changedLanes returns the lanes that come with a change of an implementation, and the status lanes whose secret it changes.
func (s *Store) changedLanes(tx *bolt.Tx, old, now *store.Implementation) ([]*store.Subscription, error) {
	var lanes []*store.Subscription
	for _, lane := range now.Lanes() {
		switch {
		case lane.Role != store.RoleStatus:
		case !slices.Contains(old.StatusOrigins, lane.DataCallbackURL):
			lanes = append(lanes, lane)
		case !bytes.Equal(old.StatusSecret, now.StatusSecret):
			there, err := s.readSubscription(tx, lane.ID)
			if err != nil {
				return nil, err
			}
			there.SigningSecrets, there.UpdatedAt = lane.SigningSecrets, now.UpdatedAt
			lanes = append(lanes, there)
		}
	}
	return lanes, nil
}

// DeleteImplementation implements store.Store.
func (s *Store) DeleteImplementation(ctx context.Context, accountID, id string) ([]store.SubscriptionID, error) {
	var ids []store.SubscriptionID
	err := s.do(ctx, &change{weight: 3 + len(store.LaneKinds()), apply: func(w *writeTx) (func(), error) {
		own := nested(w.Tx, bucketImplementation, accountID)
		if own == nil || own.Get([]byte(id)) == nil {
			return nil, fmt.Errorf("implementation %q: %w", id, store.ErrNotFound)
		}
		i, err := decodeImplementationClear(accountID, []byte(id), own.Get([]byte(id)))
		if err != nil {
			return nil, err
		}
		ids = w.deleteImplementation(i)
		w.remove(own, []byte(id))
		w.try(func() error { return own.SetSequence(own.Sequence() - 1) })
		return func() {
			s.subscriptions.drop(ids...)
			s.forgetImplementations(i)
		}, nil
	}})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// accountImplementations returns the clear parts of the implementations of an account.
func accountImplementations(tx *bolt.Tx, accountID string) ([]*store.Implementation, error) {
	var list []*store.Implementation
	err := nested(tx, bucketImplementation, accountID).ForEach(func(k, v []byte) error {
		i, err := decodeImplementationClear(accountID, k, v)
		list = append(list, i)
		return err
	})
	return list, err
}

// deleteImplementation removes all of an implementation but its record and its devices, leaves those to the sweeper, and returns the ids of
// its lanes. Without its number nobody finds its devices any more.
func (w *writeTx) deleteImplementation(i *store.Implementation) []store.SubscriptionID {
	lanes := i.Lanes()
	ids := make([]store.SubscriptionID, len(lanes))
	for n, lane := range lanes {
		ids[n] = lane.ID
		w.remove(w.Bucket(bucketSubscription), lane.ID[:])
	}
	number := numberKey(i.Number)
	w.remove(w.Bucket(bucketImplementationNumber), number)
	if k, _ := w.Bucket(bucketDevice).Cursor().Seek(number); bytes.HasPrefix(k, number) {
		w.put(w.Bucket(bucketDeviceSweep), number, []byte(i.AccountID))
	}
	return ids
}

// forgetImplementations takes deleted ones out of memory and wakes the sweeper.
func (s *Store) forgetImplementations(gone ...*store.Implementation) {
	for _, i := range gone {
		s.implementations.drop(implementationKey{i.AccountID, i.ID})
	}
	s.implementationCount.Add(-int64(len(gone)))
	select {
	case s.litter <- struct{}{}:
	default: // it has not taken the last one yet, and looks for all there is
	}
}
