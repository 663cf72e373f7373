package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// maxFindings bounds what Check reports: a damaged file can have a finding for every record.
const maxFindings = 100

// Check implements store.Store. It verifies the file itself, each index against its records in both
// directions, that every record is readable and every secret opens, and that the matcher and the caches
// agree with the file. Changes wait while it reads. It works without Run.
func (s *Store) Check(ctx context.Context) error {
	if s.shut.Load() {
		return store.ErrClosed
	}
	if err := s.db.Check(ctx); err != nil {
		// With its pages in disorder, what the file seems to say is not worth comparing.
		return err
	}
	// Between a commit and the moment memory follows it the two differ; nothing commits while this
	// is held.
	s.settling.Lock()
	defer s.settling.Unlock()
	c := checker{ctx: ctx, store: s, accounts: make(map[string]bool), lanes: make(map[store.SubscriptionID]string), owners: make(map[uint32]string)}
	err := s.view(func(tx *bolt.Tx) error {
		c.tx = tx
		if err := requireBuckets(tx); err != nil {
			return err
		}
		if err := s.checkKey(tx); err != nil {
			c.found("%w", err)
		}
		c.checkAccounts()
		c.checkGone()
		c.checkTokens()
		c.checkResources()
		c.checkImplementations()
		c.checkSubscriptions()
		c.checkDevices()
		c.checkCaches()
		return ctx.Err()
	})
	if c.findings > maxFindings {
		c.errs = append(c.errs, fmt.Errorf("%d more findings", c.findings-maxFindings))
	}
	if err = errors.Join(append(c.errs, err)...); err != nil {
		return fmt.Errorf("check %s: %w", s.db.Path(), err)
	}
	return nil
}

type checker struct {
	ctx      context.Context // of the one Check this lives for
	store    *Store
	tx       *bolt.Tx
	accounts map[string]bool
	lanes    map[store.SubscriptionID]string // of every implementation, which is named as implementationID does
	owners   map[uint32]string               // the accounts of the devices, by the number in their ids
	errs     []error
	findings int
}

func (c *checker) found(format string, args ...any) {
	c.findings++
	if c.findings <= maxFindings {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

// each visits what is in a bucket, until the context ends.
func (c *checker) each(b *bolt.Bucket, visit func(k, v []byte)) {
	cur := b.Cursor()
	for k, v := cur.First(); k != nil && c.ctx.Err() == nil; k, v = cur.Next() {
		visit(k, v)
	}
}

func (c *checker) checkAccounts() {
	c.each(c.tx.Bucket(bucketAccount), func(k, v []byte) {
		c.accounts[string(k)] = true
		if _, err := decodeAccount(k, v); err != nil {
			c.found("%w", err)
		}
		for _, name := range perAccount {
			if nested(c.tx, name, string(k)) == nil {
				c.found("account %q has no bucket in %s", k, name)
			}
		}
	})
	for _, name := range perAccount {
		c.each(c.tx.Bucket(name), func(k, v []byte) {
			if v != nil {
				c.found("%s holds %q, which is not a bucket", name, k)
			} else if !c.accounts[string(k)] {
				c.found("%s has a bucket for account %q, which does not exist", name, k)
			}
		})
	}
}

// checkGone looks for ids that are retired and in use. It needs the accounts that checkAccounts found.
func (c *checker) checkGone() {
	c.each(c.tx.Bucket(bucketAccountGone), func(k, v []byte) {
		if _, err := decodeGone(k, v); err != nil {
			c.found("%w", err)
		}
		if c.accounts[string(k)] {
			c.found("account %q exists though its id is retired", k)
		}
	})
}

// indexed says whether an account's index names the record.
func (c *checker) indexed(index []byte, account string, key []byte) bool {
	b := nested(c.tx, index, account)
	return b != nil && b.Get(key) != nil
}

// eachIndexed visits the entries of an index that is nested by account.
func (c *checker) eachIndexed(index []byte, visit func(account string, b *bolt.Bucket)) {
	parent := c.tx.Bucket(index)
	c.each(parent, func(account, _ []byte) {
		if b := parent.Bucket(account); b != nil {
			visit(string(account), b)
		}
	})
}

func (c *checker) checkTokens() {
	tokens := c.tx.Bucket(bucketToken)
	c.each(tokens, func(k, v []byte) {
		t, err := decodeToken(k, v)
		if err != nil {
			c.found("%w", err)
			return
		}
		if !c.accounts[t.AccountID] {
			c.found("token %q belongs to account %q, which does not exist", k, t.AccountID)
		}
		if id := c.tx.Bucket(bucketTokenHash).Get(t.Hash[:]); !bytes.Equal(id, k) {
			c.found("token %q is not found by its hash", k)
		}
		if !c.indexed(bucketTokenAccount, t.AccountID, k) {
			c.found("token %q is not in the index of account %q", k, t.AccountID)
		}
	})
	c.each(c.tx.Bucket(bucketTokenHash), func(hash, id []byte) {
		v := tokens.Get(id)
		if v == nil {
			c.found("a hash names token %q, which does not exist", id)
		} else if t, err := decodeToken(id, v); err == nil && !bytes.Equal(t.Hash[:], hash) {
			c.found("a hash names token %q, which has another hash", id)
		}
	})
	c.eachIndexed(bucketTokenAccount, func(account string, b *bolt.Bucket) {
		c.each(b, func(id, _ []byte) {
			v := tokens.Get(id)
			if v == nil {
				c.found("the index of account %q names token %q, which does not exist", account, id)
			} else if t, err := decodeToken(id, v); err == nil && t.AccountID != account {
				c.found("the index of account %q names token %q, which belongs to %q", account, id, t.AccountID)
			}
		})
	})
}

func (c *checker) checkResources() {
	c.eachIndexed(bucketResource, func(account string, b *bolt.Bucket) {
		c.each(b, func(k, v []byte) {
			x, err := decodeResource(k, v)
			if err == nil {
				err = errors.Join(store.CheckResourceType(x.Type), store.CheckResourceID(x.ID))
			}
			if err != nil {
				c.found("resource %q of account %q: %w", k, account, err)
			}
		})
	})
}

func (c *checker) checkSubscriptions() {
	var fresh store.Matcher
	records := c.tx.Bucket(bucketSubscription)
	count := int64(0)
	c.each(records, func(k, v []byte) {
		sub, err := decodeSubscription(c.store.sealer, k, v)
		if err != nil {
			c.found("%w", err)
			// Its clear part may still be what the matcher was filled with.
			if sub, err = decodeClear(k, v); err != nil {
				count++
				return
			}
		}
		if sub.Role != store.RoleNone {
			if owner, ok := c.lanes[sub.ID]; !ok || owner != string(implementationID(sub.AccountID, sub.ImplementationID)) {
				c.found("subscription %s is no lane of implementation %q of account %q", sub.ID, sub.ImplementationID, sub.AccountID)
			}
			if c.indexed(bucketSubscriptionAccount, sub.AccountID, k) {
				c.found("subscription %s is a lane and in the index of account %q", sub.ID, sub.AccountID)
			}
			return
		}
		count++
		fresh.Replace(nil, sub)
		if !c.accounts[sub.AccountID] {
			c.found("subscription %s belongs to account %q, which does not exist", sub.ID, sub.AccountID)
		}
		if !c.indexed(bucketSubscriptionAccount, sub.AccountID, k) {
			c.found("subscription %s is not in the index of account %q", sub.ID, sub.AccountID)
		}
	})
	c.eachIndexed(bucketSubscriptionAccount, func(account string, b *bolt.Bucket) {
		n := uint64(0)
		c.each(b, func(k, _ []byte) {
			n++
			v := records.Get(k)
			if v == nil {
				c.found("the index of account %q names subscription %x, which does not exist", account, k)
			} else if sub, err := decodeClear(k, v); err == nil && sub.AccountID != account {
				c.found("the index of account %q names subscription %s, which belongs to %q", account, sub.ID, sub.AccountID)
			}
		})
		if n != b.Sequence() && c.ctx.Err() == nil {
			c.found("account %q has %d subscriptions and counts %d", account, n, b.Sequence())
		}
	})
	if c.ctx.Err() != nil {
		return
	}
	if !fresh.Equal(&c.store.matcher) {
		c.found("the selection in memory does not agree with the subscriptions in the file")
	}
	if n := c.store.count.Load(); n != count {
		c.found("there are %d subscriptions, memory counts %d", count, n)
	}
}

// checkImplementations looks at the implementations, their numbers, and those of deleted ones. It needs the accounts, and finds the lanes
// that there have to be, and whose devices are which.
func (c *checker) checkImplementations() {
	all, numbers := c.tx.Bucket(bucketImplementation), c.tx.Bucket(bucketImplementationNumber)
	count := int64(0)
	c.eachIndexed(bucketImplementation, func(account string, b *bolt.Bucket) {
		n := uint64(0)
		c.each(b, func(k, v []byte) {
			n++
			i, err := decodeImplementation(c.store.sealer, account, k, v)
			if err != nil {
				c.found("%w", err)
				if i, err = decodeImplementationClear(account, k, v); err != nil {
					return
				}
			}
			if name := implementationID(account, i.ID); !bytes.Equal(numbers.Get(numberKey(i.Number)), name) {
				c.found("implementation %q of account %q is not found by its number %d", k, account, i.Number)
			}
			for _, lane := range i.Lanes() {
				c.lanes[lane.ID] = string(implementationID(account, i.ID))
				if c.tx.Bucket(bucketSubscription).Get(lane.ID[:]) == nil {
					c.found("implementation %q of account %q has no lane %s", k, account, lane.ID)
				}
			}
		})
		if n != b.Sequence() && c.ctx.Err() == nil {
			c.found("account %q has %d implementations and counts %d", account, n, b.Sequence())
		}
	})
	number := func(k []byte) uint32 {
		if len(k) != 4 || uint64(binary.BigEndian.Uint32(k)) > all.Sequence() {
			c.found("the implementation number %x was never given", k)
			return 0
		}
		return binary.BigEndian.Uint32(k)
	}
	c.each(numbers, func(k, name []byte) {
		count++
		n := number(k)
		account, id, _ := bytes.Cut(name, []byte{0})
		c.owners[n] = string(account)
		if b := nested(c.tx, bucketImplementation, string(account)); b == nil || b.Get(id) == nil {
			c.found("number %d names implementation %q of account %q, which does not exist", n, id, account)
		} else if i, err := decodeImplementationClear(string(account), id, b.Get(id)); err == nil && i.Number != n {
			c.found("number %d names implementation %q of account %q, which has number %d", n, id, account, i.Number)
		}
	})
	c.each(c.tx.Bucket(bucketDeviceSweep), func(k, account []byte) {
		n := number(k)
		if _, ok := c.owners[n]; ok {
			c.found("number %d is that of an implementation and of a deleted one", n)
		}
		c.owners[n] = string(account)
	})
	if n := c.store.implementationCount.Load(); n != count && c.ctx.Err() == nil {
		c.found("there are %d implementations, memory counts %d", count, n)
	}
}

// checkDevices needs what checkImplementations found.
func (c *checker) checkDevices() {
	devices, tokens, contacts := c.tx.Bucket(bucketDevice), c.tx.Bucket(bucketDeviceToken), c.tx.Bucket(bucketDeviceContact)
	count := uint64(0)
	c.each(devices, func(k, v []byte) {
		count++
		if _, err := decodeDevice(c.store.sealer, "", "", k, v); err != nil {
			c.found("%w", err)
		}
		d, token, err := decodeDeviceClear(k, v)
		if err != nil {
			return
		}
		account, ok := c.owners[numberOf(d.ID)]
		if !ok {
			c.found("device %s belongs to implementation number %d, which does not exist", d.ID, numberOf(d.ID))
			return
		}
		if !bytes.Equal(tokens.Get(token[:]), k) {
			c.found("device %s is not found by its token", d.ID)
		}
		if contacts.Get(contactKey(account, d.Contact, d.ID)) == nil {
			c.found("device %s is not in the index of its contact", d.ID)
		}
	})
	c.each(tokens, func(key, id []byte) {
		v := devices.Get(id)
		if v == nil {
			c.found("a device token names device %x, which does not exist", id)
		} else if d, token, err := decodeDeviceClear(id, v); err == nil && !bytes.Equal(token[:], key) {
			c.found("a device token names device %s, which has another token", d.ID)
		}
	})
	c.each(contacts, func(key, _ []byte) {
		id := key[max(0, len(key)-len(store.DeviceID{})):]
		v := devices.Get(id)
		if v == nil {
			c.found("the index of contacts names device %x, which does not exist", id)
		} else if d, _, err := decodeDeviceClear(id, v); err == nil && !bytes.Equal(key, contactKey(c.owners[numberOf(d.ID)], d.Contact, d.ID)) {
			c.found("the index of contacts names device %s for another contact", d.ID)
		}
	})
	if c.ctx.Err() != nil {
		return
	}
	if n := devices.Sequence(); n != count {
		c.found("there are %d devices and the file counts %d", count, n)
	}
	if n := c.store.deviceCount.Load(); n != int64(count) {
		c.found("there are %d devices, memory counts %d", count, n)
	}
}

func (c *checker) checkCaches() {
	for hash, t := range c.store.tokens.all() {
		id := c.tx.Bucket(bucketTokenHash).Get(hash[:])
		if string(id) != t.ID || !bytes.Equal(c.tx.Bucket(bucketToken).Get(id), encodeToken(&t)) {
			c.found("token %q in memory does not agree with the file", t.ID)
		}
	}
	for id, a := range c.store.accounts.all() {
		if id != a.ID || !bytes.Equal(c.tx.Bucket(bucketAccount).Get([]byte(id)), encodeAccount(&a)) {
			c.found("account %q in memory does not agree with the file", id)
		}
	}
	for key, i := range c.store.implementations.all() {
		there, err := c.store.readImplementation(c.tx, key.account, key.id)
		if err != nil || key != (implementationKey{i.AccountID, i.ID}) ||
			!bytes.Equal(implementationClear(there), implementationClear(i)) || !bytes.Equal(implementationSecrets(there), implementationSecrets(i)) {
			c.found("implementation %q in memory does not agree with the file", key.id)
		}
	}
	for id, sub := range c.store.subscriptions.all() {
		there, err := c.store.readSubscription(c.tx, id)
		if err != nil || id != sub.ID ||
			!bytes.Equal(clearPart(there), clearPart(sub)) || !bytes.Equal(secretPart(there), secretPart(sub)) {
			c.found("subscription %s in memory does not agree with the file", id)
		}
	}
}
