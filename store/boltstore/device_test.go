package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	bolt "go.etcd.io/bbolt"

	"herald/store"
	"herald/store/boltkit"
)

func fullImplementation() *store.Implementation {
	fcm := func(n string) *store.FCM {
		return &store.FCM{ProjectID: "p" + n, ClientEmail: "c" + n, TokenURI: "https://token.example/" + n, KeyID: "k" + n, PrivateKey: []byte("secret-fcm-" + n)}
	}
	return &store.Implementation{
		AccountID: "acme", ID: "app", UID: [16]byte{1, 2, 3}, Number: 7, Name: "The app", CreatedAt: at, UpdatedAt: at.Add(time.Hour),
		Android: fcm("android"), IOSFCM: fcm("ios"), WebFCM: fcm("web"), IOSProvider: store.ProviderAPNs,
		APNs: &store.APNs{
			Key: []byte("secret-apns"), KeyID: "KEY", TeamID: "TEAM", Chain: "-----BEGIN CERTIFICATE-----", CertificateKey: []byte("secret-certificate"),
			Topic: "org.example.app", Sandbox: true,
		},
		Web: true, VAPID: &store.VAPID{PrivateKey: []byte("secret-vapid"), PublicKey: []byte("public"), Subject: "mailto:push@example.org"},
		StatusSecret: []byte("secret-status"), StatusOrigins: []string{"https://a.example", "https://b.example"},
	}
}

func fullDevice() *store.Device {
	return &store.Device{
		ID: store.DeviceID{3: 7, 15: 9}, AccountID: "acme", ImplementationID: "app", Contact: "anna@example.org", DeviceToken: store.DeviceToken{
			Platform: store.PlatformWeb, Kind: store.TokenWebPush, Token: "https://push.example/secret", P256DH: []byte("secret-p256dh"), Auth: []byte("secret-auth"),
		},
		Locale: "nl-BE", AppVersion: "1.2.3", RegisteredAt: at, LastSeenAt: at.Add(time.Hour), Proven: true, OtherEnvironment: true, RestUntil: at.Add(time.Minute),
	}
}

// A member that the codec forgets is found here, whoever adds it.
func TestDeviceCodecsKeepEveryMember(t *testing.T) {
	t.Parallel()
	sl, i, d := testSealer(t, 1), fullImplementation(), fullDevice()
	everyMemberIsSet(t, reflect.ValueOf(*i), "Implementation")
	everyMemberIsSet(t, reflect.ValueOf(*d), "Device")
	value := encodeImplementation(sl, i)
	if got, err := decodeImplementation(sl, i.AccountID, []byte(i.ID), value); err != nil || !reflect.DeepEqual(got, i) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, i)
	}
	bare := &store.Implementation{AccountID: "acme", ID: "bare"}
	if got, err := decodeImplementation(sl, "acme", []byte("bare"), encodeImplementation(sl, bare)); err != nil || !reflect.DeepEqual(got, bare) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, bare)
	}
	encoded := encodeDevice(sl, d)
	if got, err := decodeDevice(sl, d.AccountID, d.ImplementationID, d.ID[:], encoded); err != nil || !reflect.DeepEqual(&got, d) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, d)
	}
	for _, x := range [][]byte{value, encoded} {
		if bytes.Contains(x, []byte("secret")) {
			t.Error("a secret is not encrypted")
		}
	}
	// A value does not open in another's place.
	if _, err := decodeImplementation(sl, "other", []byte(i.ID), value); err == nil {
		t.Error("an implementation is read as another account's")
	}
	if _, err := decodeDevice(sl, "", "", append([]byte{1}, d.ID[1:]...), encoded); err == nil {
		t.Error("a device is read as another implementation's")
	}
	for n, x := range map[string][]byte{"implementation": value, "device": encoded} {
		for k := range x {
			damaged := bytes.Clone(x)
			damaged[k] ^= 1
			_, ierr := decodeImplementation(sl, i.AccountID, []byte(i.ID), damaged)
			_, derr := decodeDevice(sl, "", "", d.ID[:], damaged)
			if ierr == nil || derr == nil {
				t.Fatalf("%s with byte %d changed is read", n, k)
			}
		}
	}
}

func FuzzImplementation(f *testing.F) {
	sl, i := testSealer(f, 1), fullImplementation()
	f.Add(encodeImplementation(sl, i))
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (*store.Implementation, error) {
			return decodeImplementationClear("acme", []byte("app"), b)
		},
			func(i *store.Implementation) []byte { return encodeImplementation(sl, i) })
	})
}

func FuzzImplementationSecrets(f *testing.F) {
	f.Add(implementationSecrets(fullImplementation()))
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (*store.Implementation, error) {
			i := fullImplementation()
			return i, decodeImplementationSecrets(i, b)
		}, implementationSecrets)
	})
}

func FuzzDevice(f *testing.F) {
	sl, d := testSealer(f, 1), fullDevice()
	f.Add(encodeDevice(sl, d))
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (store.Device, error) { x, _, err := decodeDeviceClear(d.ID[:], b); return x, err },
			func(d store.Device) []byte { return encodeDevice(sl, &d) })
	})
}

func FuzzDeviceSecrets(f *testing.F) {
	f.Add(deviceSecrets(fullDevice()))
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (*store.Device, error) {
			d := &store.Device{}
			return d, decodeDeviceSecrets(d, b)
		}, deviceSecrets)
	})
}

// phone is a device of an implementation of the default account.
func phone(app, contact, token string) store.Device {
	return store.Device{
		AccountID: store.DefaultAccount, ImplementationID: app, Contact: contact,
		DeviceToken: store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenPlain, Token: token},
	}
}

func newApp(t testing.TB, s *Store, id string) *store.Implementation {
	t.Helper()
	i, err := s.CreateImplementation(ctx, &store.Implementation{AccountID: store.DefaultAccount, ID: id}, 0)
	must(t, err)
	return i
}

// No credential and no token can be read in the file, whatever happened to its record.
func TestDeviceSecretsAreNotInTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path})
	i := fullImplementation()
	i.AccountID = store.DefaultAccount
	_, err := s.CreateImplementation(ctx, i, 0)
	must(t, err)
	for n := range 20 {
		d := phone("app", "visible-contact", fmt.Sprint("secret-token-", n))
		d.P256DH = []byte("secret-key")
		_, err := s.PutDevice(ctx, d, fmt.Sprint("secret-token-", n-2))
		must(t, err)
	}
	s.end()
	file, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Contains(file, []byte("visible-contact")) {
		t.Fatal("not even what is no secret is found in the file: the test looks at nothing")
	}
	if bytes.Contains(file, []byte("secret-")) {
		t.Error("a secret is in the file")
	}
}

// An app registers at each start: what is known already is written once a day.
func TestKnownDeviceIsWrittenDaily(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{})
		newApp(t, s.Store, "app")
		first, err := s.PutDevice(ctx, phone("app", "anna", "token"), "")
		must(t, err)
		put := func(d store.Device, changes float64) store.Device {
			t.Helper()
			before := testutil.ToFloat64(s.metrics.changes)
			got, err := s.PutDevice(ctx, d, "gone")
			must(t, err)
			if n := testutil.ToFloat64(s.metrics.changes) - before; n != changes {
				t.Errorf("%v changes, want %v", n, changes)
			}
			return got
		}
		time.Sleep(24*time.Hour - time.Millisecond)
		if got := put(phone("app", "anna", "token"), 0); !reflect.DeepEqual(got, first) {
			t.Errorf("got %+v, want %+v", got, first)
		}
		time.Sleep(time.Millisecond)
		got := put(phone("app", "anna", "token"), 1)
		if want := first.LastSeenAt.Add(24 * time.Hour); !got.LastSeenAt.Equal(want) || !got.RegisteredAt.Equal(first.RegisteredAt) {
			t.Errorf("seen %v, registered %v", got.LastSeenAt, got.RegisteredAt)
		}
		put(phone("app", "anna", "token"), 0)
		// What is new is written at once.
		d := phone("app", "anna", "token")
		d.Locale = "nl"
		put(d, 1)
		put(phone("app", "bert", "token"), 1)
		// And a change that changes nothing is none.
		before := testutil.ToFloat64(s.metrics.changes)
		must(t, s.UpdateDevice(ctx, first.ID, func(*store.Device) error { return nil }))
		if testutil.ToFloat64(s.metrics.changes) != before {
			t.Error("an update that changes nothing was written")
		}
		s.end()
	})
}

// Devices of a deleted implementation are out of sight at once, and a removal that a crash ended goes on with the next start.
func TestSweepGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	const n = 3*sweepDevices + 10
	dir := t.TempDir()
	s := start(t, Options{Path: filepath.Join(dir, "store.db")})
	gone, kept := newApp(t, s.Store, "gone"), newApp(t, s.Store, "kept")
	fillDevices(t, s.Store, "gone", n)
	fillDevices(t, s.Store, "kept", 10)
	s.end()
	deleteHalf(t, filepath.Join(dir, "store.db"), gone)

	again, err := Open(Options{Path: filepath.Join(dir, "store.db"), Key: testKey})
	must(t, err)
	must(t, again.Check(ctx)) // in the middle of it
	if got := again.CountDevices(); got != n+10-sweepDevices {
		t.Errorf("%d devices, want one page less than %d", got, n+10)
	}
	if list, err := again.Devices(ctx, store.DefaultAccount, "contact", "", store.DeviceID{}, 0); err != nil || len(list) != 10 {
		t.Errorf("%d devices are seen, want 10; %v", len(list), err)
	}
	must(t, again.Close())

	s = start(t, Options{Path: filepath.Join(dir, "store.db")})
	for range 5000 {
		if s.CountDevices() == 10 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	must(t, s.view(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket(bucketDeviceSweep).Cursor().First(); k != nil {
			t.Errorf("number %x is still to be swept", k)
		}
		for _, b := range [][]byte{bucketDevice, bucketDeviceToken, bucketDeviceContact} {
			if got := tx.Bucket(b).Stats().KeyN; got != 10 {
				t.Errorf("%d left in %s, want 10", got, b)
			}
		}
		return nil
	}))
	if list, err := s.Devices(ctx, store.DefaultAccount, "contact", kept.ID, store.DeviceID{}, 0); err != nil || len(list) != 10 {
		t.Errorf("%d devices of the other implementation, want 10; %v", len(list), err)
	}
}

// fillDevices registers n devices of one contact.
func fillDevices(t testing.TB, s *Store, app string, n int) {
	t.Helper()
	done := make(chan error, 64)
	for k := range cap(done) {
		go func() {
			for i := k; i < n; i += cap(done) {
				if _, err := s.PutDevice(ctx, phone(app, "contact", fmt.Sprint("token", i)), ""); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		must(t, <-done)
	}
}

// deleteHalf leaves a closed store as a crash does that comes when the implementation was deleted, beside another, and one page of its devices was
// removed.
func deleteHalf(t testing.TB, path string, i *store.Implementation) {
	t.Helper()
	s, err := Open(Options{Path: path, Key: testKey})
	must(t, err)
	must(t, s.db.Update(func(tx *bolt.Tx) error {
		w := &writeTx{Tx: tx}
		w.deleteImplementation(i)
		own := nested(tx, bucketImplementation, i.AccountID)
		w.remove(own, []byte(i.ID))
		w.try(func() error { return own.SetSequence(own.Sequence() - 1) })
		if _, err := w.sweepPage(); err != nil {
			return err
		}
		return w.err
	}))
	must(t, s.Close())
}

// Sweeping waits while the disk is full, and goes on.
func TestSweepOnAFullDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store.db")
		s := start(t, Options{Path: path})
		i := newApp(t, s.Store, "app")
		fillDevices(t, s.Store, "app", 2*sweepDevices)
		s.end()
		deleteHalf(t, path, i)
		d := &disk{}
		d.errno.Store(int64(syscall.ENOSPC))
		s = start(t, Options{Path: path, writeAt: d.writeAt})
		time.Sleep(3 * probeWait)
		if got := s.CountDevices(); got != sweepDevices {
			t.Errorf("%d devices while the disk is full, want %d", got, sweepDevices)
		}
		d.errno.Store(0)
		time.Sleep(2 * probeWait)
		synctest.Wait()
		if got := s.CountDevices(); got != 0 {
			t.Errorf("%d devices are left", got)
		}
		must(t, s.Healthy())
		s.end()
	})
}

// A file of version 2, which knew no devices, is brought up to date, and what is in it stays.
func TestFileOfVersionTwo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path})
	must(t, s.CreateAccount(ctx, store.Account{ID: "acme"}))
	want := withoutRole(fullSubscription())
	must(t, s.CreateSubscription(ctx, want, 0))
	s.end()
	tamper(t, path, func(tx *bolt.Tx) error {
		for _, name := range bucketsOfDevices {
			must(t, tx.DeleteBucket(name))
		}
		must(t, tx.Bucket(bucketSubscription).Put(want.ID[:], golden3(t, s.sealer, want)))
		return tx.Bucket([]byte("format")).Put([]byte("version"), binary.BigEndian.AppendUint32(nil, 2))
	})
	for range 2 { // a second time it is one of this version
		s = start(t, Options{Path: path})
		got, err := s.Subscription(ctx, want.ID)
		if err != nil || !sameSubscription(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
		must(t, s.Check(ctx))
		s.end()
	}
	s = start(t, Options{Path: path})
	for _, account := range []string{"acme", store.DefaultAccount} {
		_, err := s.CreateImplementation(ctx, &store.Implementation{AccountID: account, ID: "app"}, 0)
		must(t, err)
	}
	_, err := s.PutDevice(ctx, phone("app", "anna", "token"), "")
	must(t, err)
	s.end()
	// What an older Herald would not understand it refuses.
	_, err = boltkit.Open(boltkit.Options{
		Path: path, Name: schemaName, Version: 2, Init: func(*bolt.Tx) error { return nil }, Migrate: func(*bolt.Tx, int) error { return nil },
	})
	if !errors.Is(err, ErrNewer) {
		t.Errorf("opened as version 2: %v", err)
	}
}

// golden3 writes a subscription as version 3 did: without its last members.
func golden3(t *testing.T, sl *sealer, s *store.Subscription) []byte {
	t.Helper()
	clear, ok := bytes.CutSuffix(clearPart(s), []byte{0, 0, 0, 0}) // no role, implementation, notification, suspension
	if !ok {
		t.Fatal("the subscription has what version 3 did not know")
	}
	return sl.sealValue(3, subscriptionPlace(s.ID[:], clear), secretPart(s))
}

// Each kind of disorder is found and named.
func TestCheckFindsInDevices(t *testing.T) {
	t.Parallel()
	var app, other *store.Implementation
	var d, e store.Device
	key := func(d store.Device) []byte { k := deviceTokenKey(numberOf(d.ID), d.Platform, d.Token); return k[:] }
	contact := func(d store.Device) []byte { return contactKey(d.AccountID, d.Contact, d.ID) }
	record := func(tx *bolt.Tx) *bolt.Bucket { return nested(tx, bucketImplementation, store.DefaultAccount) }
	for _, x := range []struct {
		want   string
		tamper func(tx *bolt.Tx) error
	}{
		{"", func(*bolt.Tx) error { return nil }},
		{"is not found by its number", func(tx *bolt.Tx) error { return tx.Bucket(bucketImplementationNumber).Delete(numberKey(app.Number)) }},
		{"which does not exist", func(tx *bolt.Tx) error { return record(tx).Delete([]byte("app")) }},
		{"which has number 2", func(tx *bolt.Tx) error {
			return tx.Bucket(bucketImplementationNumber).Put(numberKey(1), implementationID(store.DefaultAccount, "other"))
		}},
		{"was never given", func(tx *bolt.Tx) error {
			return tx.Bucket(bucketImplementationNumber).Put(numberKey(9), implementationID(store.DefaultAccount, "app"))
		}},
		{"was never given", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceSweep).Put([]byte("x"), []byte("acme")) }},
		{"of a deleted one", func(tx *bolt.Tx) error {
			return tx.Bucket(bucketDeviceSweep).Put(numberKey(1), []byte(store.DefaultAccount))
		}},
		{"and counts 9", func(tx *bolt.Tx) error { return record(tx).SetSequence(9) }},
		{"does not decrypt", func(tx *bolt.Tx) error {
			return record(tx).Put([]byte("other"), bytes.Clone(record(tx).Get([]byte("app"))))
		}},
		{"damaged", func(tx *bolt.Tx) error { return record(tx).Put([]byte("app"), []byte{1, 2}) }},
		{"has no lane", func(tx *bolt.Tx) error {
			id := app.Lane(store.LaneIOS)
			return tx.Bucket(bucketSubscription).Delete(id[:])
		}},
		{"is no lane of implementation", func(tx *bolt.Tx) error {
			i := *app
			i.UID[0]++
			return tx.Bucket(bucketSubscription).Put(i.Lanes()[0].ID[:], encodeSubscription(testSealerOf(testKey), i.Lanes()[0]))
		}},
		{"is a lane and in the index", func(tx *bolt.Tx) error {
			id := other.Lane(store.LaneIOS)
			return nested(tx, bucketSubscriptionAccount, store.DefaultAccount).Put(id[:], nil)
		}},
		{"is not found by its token", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceToken).Delete(key(d)) }},
		{"is not found by its token", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceToken).Put(key(d), e.ID[:]) }},
		{"which has another token", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceToken).Put(make([]byte, 16), d.ID[:]) }},
		{"a device token names device", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceToken).Put(make([]byte, 16), []byte("x")) }},
		{"not in the index of its contact", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceContact).Delete(contact(d)) }},
		{"for another contact", func(tx *bolt.Tx) error {
			return tx.Bucket(bucketDeviceContact).Put(contactKey(store.DefaultAccount, "bert", d.ID), nil)
		}},
		{"for another contact", func(tx *bolt.Tx) error {
			return tx.Bucket(bucketDeviceContact).Put(contactKey("acme", d.Contact, d.ID), nil)
		}},
		{"the index of contacts names device", func(tx *bolt.Tx) error { return tx.Bucket(bucketDeviceContact).Put([]byte("x"), nil) }},
		{"the index of contacts names device", func(tx *bolt.Tx) error { return tx.Bucket(bucketDevice).Delete(d.ID[:]) }},
		{"implementation number 9, which does not exist", func(tx *bolt.Tx) error {
			x := d
			x.ID[3] = 9
			return tx.Bucket(bucketDevice).Put(x.ID[:], encodeDevice(testSealerOf(testKey), &x))
		}},
		{"does not decrypt", func(tx *bolt.Tx) error {
			return tx.Bucket(bucketDevice).Put(d.ID[:], bytes.Clone(tx.Bucket(bucketDevice).Get(e.ID[:])))
		}},
		{"damaged", func(tx *bolt.Tx) error { return tx.Bucket(bucketDevice).Put(d.ID[:], []byte{1}) }},
		{"newer version", func(tx *bolt.Tx) error { return tx.Bucket(bucketDevice).Put(d.ID[:], []byte{2}) }},
		{"the file counts 5", func(tx *bolt.Tx) error { return tx.Bucket(bucketDevice).SetSequence(5) }},
	} {
		s, err := Open(Options{Path: filepath.Join(t.TempDir(), "store.db"), Key: testKey})
		must(t, err)
		runCtx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(runCtx) }()
		app, other = newApp(t, s, "app"), newApp(t, s, "other")
		d, err = s.PutDevice(ctx, phone("app", "anna", "one"), "")
		must(t, err)
		e, err = s.PutDevice(ctx, phone("app", "anna", "two"), "")
		must(t, err)
		stop()
		must(t, <-ended)
		must(t, s.Check(ctx))
		must(t, s.db.Update(x.tamper))
		if err := s.Check(ctx); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("got %v, want %q in it", err, x.want)
		}
		must(t, s.Close())
	}
}

func testSealerOf(k Key) *sealer {
	sl, err := newSealer(k)
	if err != nil {
		panic(err)
	}
	return sl
}

// What is in memory is compared too.
func TestCheckFindsDevicesInMemory(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(s *Store){
		"there are 1 devices, memory counts 2":         func(s *Store) { s.deviceCount.Add(1) },
		"there are 1 implementations, memory counts 2": func(s *Store) { s.implementationCount.Add(1) },
		`implementation "app" in memory`: func(s *Store) {
			i, _ := s.Implementation(ctx, store.DefaultAccount, "app")
			i = i.Clone()
			i.StatusSecret = []byte("old")
			s.implementations.set(implementationKey{i.AccountID, i.ID}, i)
		},
		`implementation "gone" in memory`: func(s *Store) {
			s.implementations.set(implementationKey{"acme", "gone"}, &store.Implementation{AccountID: "acme", ID: "gone"})
		},
	} {
		s := start(t, Options{})
		newApp(t, s.Store, "app")
		_, err := s.PutDevice(ctx, phone("app", "anna", "one"), "")
		must(t, err)
		must(t, s.Check(ctx))
		spoil(s.Store)
		if err := s.Check(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
		s.over = true
		must(t, s.Close())
	}
}
