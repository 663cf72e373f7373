package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"time"

	"herald/store"
)

// memDevices are the implementations and devices of a memStore.
type memDevices struct {
	implementations map[[2]string]*store.Implementation // by account and id
	devices         map[store.DeviceID]store.Device
	numbers         uint32 // of implementations
	registered      uint32 // devices ever
}

func newMemDevices() memDevices {
	return memDevices{implementations: map[[2]string]*store.Implementation{}, devices: map[store.DeviceID]store.Device{}}
}

func (m *memStore) CreateImplementation(_ context.Context, i *store.Implementation, most int) (*store.Implementation, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, n := [2]string{i.AccountID, i.ID}, 0
	for k := range m.implementations {
		if k[0] == i.AccountID {
			n++
		}
	}
	switch _, account := m.accounts[i.AccountID]; {
	case !account:
		return nil, store.ErrNotFound
	case m.implementations[key] != nil:
		return nil, store.ErrExists
	case most > 0 && n >= most:
		return nil, store.ErrLimit
	}
	c := i.Clone()
	m.numbers++
	c.Number = m.numbers
	binary.BigEndian.PutUint32(c.UID[:], c.Number)
	m.implementations[key] = c
	for _, lane := range c.Lanes() {
		m.subs[lane.ID] = lane
	}
	return c.Clone(), nil
}

func (m *memStore) Implementation(_ context.Context, account, id string) (*store.Implementation, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	i := m.implementations[[2]string{account, id}]
	if i == nil {
		return nil, store.ErrNotFound
	}
	return i.Clone(), nil
}

func (m *memStore) Implementations(_ context.Context, account, after string, limit int) ([]*store.Implementation, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []*store.Implementation
	for k, i := range m.implementations {
		if k[0] == account {
			all = append(all, i.Clone())
		}
	}
	return page(all, func(i *store.Implementation) int { return cmp.Compare(i.ID, after) },
		func(a, b *store.Implementation) int { return cmp.Compare(a.ID, b.ID) }, limit), nil
}

func (m *memStore) UpdateImplementation(_ context.Context, account, id string, change func(*store.Implementation) error) (*store.Implementation, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	key := [2]string{account, id}
	if m.implementations[key] == nil {
		return nil, store.ErrNotFound
	}
	next := m.implementations[key].Clone()
	if err := change(next); err != nil {
		return nil, err
	}
	m.implementations[key] = next
	for _, lane := range next.Lanes() {
		if there := m.subs[lane.ID]; there == nil || lane.Role == store.RoleStatus {
			m.subs[lane.ID] = lane
		}
	}
	return next.Clone(), nil
}

func (m *memStore) DeleteImplementation(_ context.Context, account, id string) ([]store.SubscriptionID, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	i := m.implementations[[2]string{account, id}]
	if i == nil {
		return nil, store.ErrNotFound
	}
	return m.dropImplementation(i), nil
}

func (m *memStore) dropImplementation(i *store.Implementation) (gone []store.SubscriptionID) {
	delete(m.implementations, [2]string{i.AccountID, i.ID})
	for _, lane := range i.Lanes() {
		gone = append(gone, lane.ID)
		delete(m.subs, lane.ID)
	}
	for id, d := range m.devices {
		if d.AccountID == i.AccountID && d.ImplementationID == i.ID {
			delete(m.devices, id)
		}
	}
	return gone
}

// holder returns the device that has the token, or the zero value.
func (m *memStore) holder(account, implementation string, p store.Platform, token string) store.Device {
	for _, d := range m.devices {
		if d.AccountID == account && d.ImplementationID == implementation && d.Platform == p && d.Token == token {
			return d
		}
	}
	return store.Device{}
}

func (m *memStore) PutDevice(_ context.Context, d store.Device, replaces string) (store.Device, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Device{}, err
	}
	defer unlock()
	i := m.implementations[[2]string{d.AccountID, d.ImplementationID}]
	if i == nil {
		return store.Device{}, store.ErrNotFound
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	holder, old := m.holder(d.AccountID, d.ImplementationID, d.Platform, d.Token), store.Device{}
	if replaces != "" {
		old = m.holder(d.AccountID, d.ImplementationID, d.Platform, replaces)
	}
	before := old
	if before.Token == "" {
		before = holder
	} else if holder.ID != before.ID {
		delete(m.devices, holder.ID)
	}
	d.ID, d.RegisteredAt, d.LastSeenAt = before.ID, before.RegisteredAt, now
	d.Locale, d.AppVersion = cmp.Or(d.Locale, before.Locale), cmp.Or(d.AppVersion, before.AppVersion)
	d.Proven, d.OtherEnvironment, d.RestUntil = before.Proven, before.OtherEnvironment, before.RestUntil
	if before.Token != d.Token {
		d.RegisteredAt, d.Proven, d.OtherEnvironment, d.RestUntil = now, false, false, time.Time{}
	}
	if before.Token == "" {
		m.registered++
		binary.BigEndian.PutUint32(d.ID[:], i.Number)
		binary.BigEndian.PutUint32(d.ID[12:], m.registered)
	}
	m.devices[d.ID] = d
	return d, nil
}

func (m *memStore) Device(_ context.Context, account string, id store.DeviceID) (store.Device, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Device{}, err
	}
	defer unlock()
	d, ok := m.devices[id]
	if !ok || account != "" && d.AccountID != account {
		return store.Device{}, store.ErrNotFound
	}
	return d, nil
}

func (m *memStore) DeviceByToken(_ context.Context, account, implementation string, p store.Platform, token string) (store.Device, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Device{}, err
	}
	defer unlock()
	d := m.holder(account, implementation, p, token)
	if d.Token == "" {
		return d, store.ErrNotFound
	}
	return d, nil
}

func (m *memStore) Devices(_ context.Context, account, contact, implementation string, after store.DeviceID, limit int) ([]store.Device, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []store.Device
	for _, d := range m.devices {
		if d.AccountID == account && d.Contact == contact && (implementation == "" || d.ImplementationID == implementation) {
			all = append(all, d)
		}
	}
	return page(all, func(d store.Device) int { return bytes.Compare(d.ID[:], after[:]) },
		func(a, b store.Device) int { return bytes.Compare(a.ID[:], b.ID[:]) }, limit), nil
}

func (m *memStore) UpdateDevice(_ context.Context, id store.DeviceID, change func(*store.Device) error) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	d, ok := m.devices[id]
	if !ok {
		return store.ErrNotFound
	}
	if err := change(&d); err != nil {
		return err
	}
	m.devices[id] = d
	return nil
}

func (m *memStore) DeleteDevice(_ context.Context, account string, id store.DeviceID, still func(*store.Device) bool) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	d, ok := m.devices[id]
	if !ok || account != "" && d.AccountID != account || still != nil && !still(&d) {
		return store.ErrNotFound
	}
	delete(m.devices, id)
	return nil
}

func (m *memStore) DeleteContact(ctx context.Context, account, contact string) (int, error) {
	list, err := m.Devices(ctx, account, contact, "", store.DeviceID{}, 0)
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range list {
		delete(m.devices, d.ID)
	}
	return len(list), nil
}

func (m *memStore) CountDevices() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.devices))
}
