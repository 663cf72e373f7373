package boltstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// lastSeenWait is how old LastSeenAt gets before a registration that says nothing new is written. Apps register at each start.
const lastSeenWait = 24 * time.Hour

// errChanged says that a device was changed by another between the reading and the writing of a change, which is then made anew. So
// all but the comparison happens in the callers' goroutines, encryption above all.
var errChanged = errors.New("device was changed meanwhile")

// readDevice is a device as a caller found it: the value tells whether it still is the same. Without a value there was none.
type readDevice struct {
	store.Device
	value []byte
}

// checkDevice refuses what cannot stand in the file.
func checkDevice(d *store.Device) error {
	if d.Contact == "" || len(d.Contact) > store.MaxContactLength || strings.IndexByte(d.Contact, 0) >= 0 {
		return fmt.Errorf("contact must have 1 to %d bytes, none of them NUL", store.MaxContactLength)
	}
	if d.Token == "" || len(d.Token) > store.MaxTokenLength {
		return fmt.Errorf("token must have 1 to %d bytes", store.MaxTokenLength)
	}
	return nil
}

// PutDevice implements store.Store.
func (s *Store) PutDevice(ctx context.Context, d store.Device, replaces string) (store.Device, error) {
	if err := checkDevice(&d); err != nil {
		return store.Device{}, err
	}
	for {
		stored, err := s.tryPutDevice(ctx, &d, replaces)
		if !errors.Is(err, errChanged) {
			return stored, err
		}
	}
}

func (s *Store) tryPutDevice(ctx context.Context, d *store.Device, replaces string) (store.Device, error) {
	i, err := s.Implementation(ctx, d.AccountID, d.ImplementationID)
	if err != nil {
		return store.Device{}, err
	}
	key, oldKey := deviceTokenKey(i.Number, d.Platform, d.Token), deviceTokenKey(i.Number, d.Platform, replaces)
	replacing := replaces != "" && replaces != d.Token
	var holder, old readDevice // who has the token, and who had the one before
	err = s.view(func(tx *bolt.Tx) (err error) {
		if holder, err = s.deviceWithToken(tx, key); err == nil && replacing {
			old, err = s.deviceWithToken(tx, oldKey)
		}
		return err
	})
	if err != nil {
		return store.Device{}, err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	next, before := registered(i, d, holder, old, now)
	if before != nil && before.ID == holder.ID && now.Sub(before.LastSeenAt) < lastSeenWait && sameDevice(&next, &before.Device) {
		return before.Device, nil
	}
	next.LastSeenAt = now
	value := encodeDevice(s.sealer, &next)
	err = s.do(ctx, &change{weight: 3, bytes: int64(len(value)), apply: func(w *writeTx) (func(), error) {
		if w.Bucket(bucketImplementationNumber).Get(next.ID[:4]) == nil ||
			!holder.stillHas(w.Tx, key) || replacing && !old.stillHas(w.Tx, oldKey) ||
			before == nil && w.Bucket(bucketDevice).Get(next.ID[:]) != nil {
			return nil, errChanged
		}
		return s.writeDevice(w, key, &next, value, before, holder), nil
	}})
	if err != nil {
		return store.Device{}, err
	}
	return next, nil
}

// registered returns what a registration makes of the device that has the token and of the one whose token it succeeds, and which of them it
// was before, nil for none.
func registered(i *store.Implementation, d *store.Device, holder, old readDevice, now time.Time) (next store.Device, before *readDevice) {
	switch {
	case old.value != nil:
		before, next = &old, old.Device
	case holder.value != nil:
		before, next = &holder, holder.Device
	default:
		next = store.Device{ID: newDeviceID(i.Number, now), AccountID: i.AccountID, ImplementationID: i.ID}
	}
	if before == nil || before.Token != d.Token {
		next.RegisteredAt = now
		next.Proven, next.OtherEnvironment, next.RestUntil = false, false, time.Time{}
	}
	next.Contact = d.Contact
	next.DeviceToken = d.DeviceToken
	next.P256DH, next.Auth = slices.Clone(d.P256DH), slices.Clone(d.Auth)
	if d.Locale != "" {
		next.Locale = d.Locale
	}
	if d.AppVersion != "" {
		next.AppVersion = d.AppVersion
	}
	return next, before
}

func newDeviceID(number uint32, now time.Time) store.DeviceID {
	var id store.DeviceID
	binary.BigEndian.PutUint64(id[2:], uint64(now.UnixMilli())) // whose first two bytes are zero for longer than there will be Heralds
	binary.BigEndian.PutUint32(id[:], number)
	_, _ = rand.Read(id[10:]) // never fails, see NewKey
	return id
}

// sameDevice compares by value.
func sameDevice(a, b *store.Device) bool {
	return bytes.Equal(deviceClear(a), deviceClear(b)) && bytes.Equal(deviceSecrets(a), deviceSecrets(b))
}

// writeDevice puts a device in the place of what it was before, and of another that has its token.
func (s *Store) writeDevice(w *writeTx, key tokenKey, next *store.Device, value []byte, before *readDevice, holder readDevice) (visible func()) {
	delta := int64(0)
	devices, contacts, tokens := w.Bucket(bucketDevice), w.Bucket(bucketDeviceContact), w.Bucket(bucketDeviceToken)
	if before != nil && holder.value != nil && holder.ID != before.ID {
		w.removeDevices(storedDevice{holder.ID, holder.AccountID, holder.Contact, key})
		delta--
	}
	if before == nil {
		w.try(func() error { return devices.SetSequence(devices.Sequence() + 1) })
		delta++
	}
	if before != nil && before.Token != next.Token {
		was := deviceTokenKey(numberOf(before.ID), before.Platform, before.Token)
		w.remove(tokens, was[:])
	}
	if before == nil || before.Token != next.Token {
		w.put(tokens, key[:], next.ID[:])
	}
	if before != nil && before.Contact != next.Contact {
		w.remove(contacts, contactKey(before.AccountID, before.Contact, before.ID))
	}
	if before == nil || before.Contact != next.Contact {
		w.put(contacts, contactKey(next.AccountID, next.Contact, next.ID), nil)
	}
	devices.FillPercent = deviceFill
	w.put(devices, next.ID[:], value)
	return func() { s.deviceCount.Add(delta) }
}

// deviceFill is how full pages of devices are left when one is split: ids ascend within an implementation, and little room is needed
// for what changes later.
const deviceFill = 0.9

// deviceWithToken returns the device that has the token of that key, or none.
func (s *Store) deviceWithToken(tx *bolt.Tx, key tokenKey) (readDevice, error) {
	id := tx.Bucket(bucketDeviceToken).Get(key[:])
	if id == nil {
		return readDevice{}, nil
	}
	return s.readDevice(tx, id)
}

// stillHas says whether the token of that key is still held by the device as it was read, or still by none.
func (d *readDevice) stillHas(tx *bolt.Tx, key tokenKey) bool {
	id := tx.Bucket(bucketDeviceToken).Get(key[:])
	if d.value == nil {
		return id == nil
	}
	return bytes.Equal(id, d.ID[:]) && d.unchanged(tx)
}

// unchanged says whether the device is as it was read, and still to be seen.
func (d *readDevice) unchanged(tx *bolt.Tx) bool {
	return tx.Bucket(bucketImplementationNumber).Get(d.ID[:4]) != nil && bytes.Equal(tx.Bucket(bucketDevice).Get(d.ID[:]), d.value)
}

// readDevice reads a device that is to be seen: one of an implementation that exists.
func (s *Store) readDevice(tx *bolt.Tx, id []byte) (readDevice, error) {
	v := tx.Bucket(bucketDevice).Get(id)
	if v == nil || len(id) != len(store.DeviceID{}) {
		return readDevice{}, fmt.Errorf("device %x: %w", id, store.ErrNotFound)
	}
	account, implementation, ok := implementationOf(tx, id)
	if !ok {
		return readDevice{}, fmt.Errorf("device %s: %w", store.DeviceID(id), store.ErrNotFound)
	}
	d, err := decodeDevice(s.sealer, account, implementation, id, v)
	return readDevice{d, bytes.Clone(v)}, err
}

// implementationOf returns whose device it is; not ok when the implementation does not exist any more.
func implementationOf(tx *bolt.Tx, id []byte) (account, implementation string, ok bool) {
	owner := tx.Bucket(bucketImplementationNumber).Get(id[:4])
	a, i, ok := bytes.Cut(owner, []byte{0})
	return string(a), string(i), ok
}

// findDevice returns a device of the account ("" means any).
func (s *Store) findDevice(accountID string, id store.DeviceID) (readDevice, error) {
	var d readDevice
	err := s.view(func(tx *bolt.Tx) (err error) {
		d, err = s.readDevice(tx, id[:])
		return err
	})
	if err == nil && accountID != "" && d.AccountID != accountID {
		err = fmt.Errorf("device %s: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return readDevice{}, err
	}
	return d, nil
}

// Device implements store.Store.
func (s *Store) Device(_ context.Context, accountID string, id store.DeviceID) (store.Device, error) {
	d, err := s.findDevice(accountID, id)
	return d.Device, err
}

// DeviceByToken implements store.Store.
func (s *Store) DeviceByToken(ctx context.Context, accountID, implementation string, p store.Platform, token string) (store.Device, error) {
	i, err := s.Implementation(ctx, accountID, implementation)
	if err != nil {
		return store.Device{}, err
	}
	var d readDevice
	err = s.view(func(tx *bolt.Tx) (err error) {
		d, err = s.deviceWithToken(tx, deviceTokenKey(i.Number, p, token))
		return err
	})
	if err == nil && d.value == nil {
		err = fmt.Errorf("device with that token: %w", store.ErrNotFound)
	}
	return d.Device, err
}

// errEnough ends a scan.
var errEnough = errors.New("enough")

// Devices implements store.Store.
func (s *Store) Devices(ctx context.Context, accountID, contact, implementation string, after store.DeviceID, limit int) ([]store.Device, error) {
	prefix := contactPrefix(accountID, contact)
	var from []byte
	if after != (store.DeviceID{}) {
		from = contactKey(accountID, contact, after)
	}
	if implementation != "" {
		i, err := s.Implementation(ctx, accountID, implementation)
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		prefix = append(prefix, numberKey(i.Number)...)
	}
	var list []store.Device
	err := s.scan(ctx, top(bucketDeviceContact), prefix, from, 0, func(tx *bolt.Tx, k, _ []byte) error {
		d, err := s.readDevice(tx, k[len(k)-len(store.DeviceID{}):])
		if errors.Is(err, store.ErrNotFound) {
			return nil // of a deleted implementation
		}
		if err != nil {
			return err
		}
		list = append(list, d.Device)
		if len(list) == limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return list, nil
}

// UpdateDevice implements store.Store.
func (s *Store) UpdateDevice(ctx context.Context, id store.DeviceID, update func(*store.Device) error) error {
	for {
		old, err := s.findDevice("", id)
		if err != nil {
			return err
		}
		next := old.Device
		next.P256DH, next.Auth = slices.Clone(old.P256DH), slices.Clone(old.Auth)
		if err := update(&next); err != nil {
			return err
		}
		next.ID, next.AccountID, next.ImplementationID, next.Contact = old.ID, old.AccountID, old.ImplementationID, old.Contact
		next.DeviceToken = old.DeviceToken
		if sameDevice(&next, &old.Device) {
			return nil
		}
		value := encodeDevice(s.sealer, &next)
		err = s.do(ctx, &change{bytes: int64(len(value)), apply: func(w *writeTx) (func(), error) {
			if !old.unchanged(w.Tx) {
				return nil, errChanged
			}
			w.put(w.Bucket(bucketDevice), id[:], value)
			return nil, nil
		}})
		if !errors.Is(err, errChanged) {
			return err
		}
	}
}

// DeleteDevice implements store.Store.
func (s *Store) DeleteDevice(ctx context.Context, accountID string, id store.DeviceID, still func(*store.Device) bool) error {
	for {
		d, err := s.findDevice(accountID, id)
		if err != nil {
			return err
		}
		gone := storedDevice{id, d.AccountID, d.Contact, deviceTokenKey(numberOf(id), d.Platform, d.Token)}
		if still != nil && !still(&d.Device) {
			return fmt.Errorf("device %s, as it was: %w", id, store.ErrNotFound)
		}
		err = s.do(ctx, &change{weight: 3, apply: func(w *writeTx) (func(), error) {
			if !d.unchanged(w.Tx) {
				return nil, errChanged
			}
			w.removeDevices(gone)
			return func() { s.deviceCount.Add(-1) }, nil
		}})
		if !errors.Is(err, errChanged) {
			return err
		}
	}
}

// DeleteContact implements store.Store.
func (s *Store) DeleteContact(ctx context.Context, accountID, contact string) (int, error) {
	var gone []storedDevice
	err := s.do(ctx, &change{weight: 3, apply: func(w *writeTx) (func(), error) {
		gone = gone[:0]
		prefix := contactPrefix(accountID, contact)
		c := w.Bucket(bucketDeviceContact).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			id := k[len(prefix):]
			if _, _, ok := implementationOf(w.Tx, id); !ok {
				continue
			}
			d, err := decodeStored(accountID, id, w.Bucket(bucketDevice).Get(id))
			if err != nil {
				return nil, err
			}
			gone = append(gone, d)
		}
		w.removeDevices(gone...)
		return func() { s.deviceCount.Add(-int64(len(gone))) }, nil
	}})
	if err != nil {
		return 0, err
	}
	return len(gone), nil
}

// CountDevices implements store.Store.
func (s *Store) CountDevices() int64 { return s.deviceCount.Load() }

// storedDevice is what has to be known of a device to remove it.
type storedDevice struct {
	id      store.DeviceID
	account string
	contact string
	token   tokenKey
}

func decodeStored(accountID string, key, value []byte) (storedDevice, error) {
	if value == nil {
		return storedDevice{}, decodeError("device", key, errMissing)
	}
	d, token, err := decodeDeviceClear(key, value)
	return storedDevice{d.ID, accountID, d.Contact, token}, err
}

// removeDevices removes devices from their bucket and its indexes.
func (w *writeTx) removeDevices(gone ...storedDevice) {
	if len(gone) == 0 {
		return
	}
	devices := w.Bucket(bucketDevice)
	for _, d := range gone {
		w.remove(w.Bucket(bucketDeviceToken), d.token[:])
		w.remove(w.Bucket(bucketDeviceContact), contactKey(d.account, d.contact, d.id))
		w.remove(devices, d.id[:])
	}
	w.try(func() error { return devices.SetSequence(devices.Sequence() - uint64(len(gone))) })
}
