package boltstore

import (
	"bytes"
	"context"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// sweepDevices is how many devices of a deleted implementation are removed in one change. Each has a page of its own to be written in
// two indexes, so that a change is some 2 MiB, and callers wait for it some ten milliseconds.
const sweepDevices = 200

// sweep removes the devices of deleted implementations, until the context ends. What an earlier run left it finds at its begin. It rests as
// long as it works, so that half of the writer's time is everybody else's.
func (s *Store) sweep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		began := time.Now()
		more, err := s.sweepSome(ctx)
		rest := time.Since(began)
		switch {
		case errors.Is(err, store.ErrFull):
			rest = probeWait
		case ctx.Err() != nil || errors.Is(err, store.ErrClosed):
			return
		case err != nil:
			s.logger.Error("devices of a deleted implementation cannot be removed", "path", s.db.Path(), "error", err)
			return
		case !more:
			select {
			case <-ctx.Done():
				return
			case <-s.litter:
			}
		}
		timer.Reset(rest)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// sweepSome removes devices of the first implementation that has some to remove. The mark goes with the last of them.
func (s *Store) sweepSome(ctx context.Context) (more bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		k, _ := tx.Bucket(bucketDeviceSweep).Cursor().First()
		more = k != nil
		return nil
	})
	if err != nil || !more {
		return false, err
	}
	return true, s.do(ctx, &change{weight: 3 * sweepDevices, apply: func(w *writeTx) (func(), error) {
		n, err := w.sweepPage()
		return func() { s.deviceCount.Add(-int64(n)) }, err
	}})
}

// sweepPage removes the first devices that are to be removed, and returns how many.
func (w *writeTx) sweepPage() (int, error) {
	number, account := w.Bucket(bucketDeviceSweep).Cursor().First()
	number, accountID := bytes.Clone(number), string(account)
	var gone []storedDevice
	c := w.Bucket(bucketDevice).Cursor()
	k, v := c.Seek(number)
	for ; bytes.HasPrefix(k, number) && len(gone) < sweepDevices; k, v = c.Next() {
		d, err := decodeStored(accountID, k, v)
		if err != nil {
			return 0, err
		}
		gone = append(gone, d)
	}
	last := !bytes.HasPrefix(k, number)
	w.removeDevices(gone...)
	if last {
		w.remove(w.Bucket(bucketDeviceSweep), number)
	}
	return len(gone), nil
}
