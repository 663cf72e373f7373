package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"herald/store"
)

// device returns an Android one of the default account that is not registered.
func device(implementation, contact, token string) store.Device {
	return store.Device{
		AccountID: store.DefaultAccount, ImplementationID: implementation, Contact: contact,
		DeviceToken: store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenPlain, Token: token},
	}
}

// put registers a device and reads it back by every way there is.
func (h *house) put(s store.Store, d store.Device, replaces string) store.Device {
	h.Helper()
	got, err := s.PutDevice(ctx, d, replaces)
	h.is(err, nil)
	byID, err := s.Device(ctx, d.AccountID, got.ID)
	h.is(err, nil)
	same(h, byID, got)
	byToken, err := s.DeviceByToken(ctx, d.AccountID, d.ImplementationID, d.Platform, d.Token)
	h.is(err, nil)
	same(h, byToken, got)
	list, err := s.Devices(ctx, d.AccountID, d.Contact, d.ImplementationID, store.DeviceID{}, 0)
	h.is(err, nil)
	if !slices.ContainsFunc(list, func(x store.Device) bool { return x.ID == got.ID }) {
		h.Fatalf("device %s is not among those of %q", got.ID, d.Contact)
	}
	return got
}

// devicesAre fails the test unless these are the contact's devices in the default account, in the order of their ids, which is random
// within a millisecond.
func (h *house) devicesAre(s store.Store, contact, implementation string, want ...store.Device) {
	h.Helper()
	got, err := s.Devices(ctx, store.DefaultAccount, contact, implementation, store.DeviceID{}, 0)
	h.is(err, nil)
	slices.SortFunc(want, func(a, b store.Device) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	same(h, got, want)
}

// recent fails the test unless the time is now, about, in UTC and with milliseconds.
func (h *house) recent(t time.Time) {
	h.Helper()
	if age := time.Since(t); age < -time.Second || age > time.Minute || t.Location() != time.UTC || !t.Equal(t.Truncate(time.Millisecond)) {
		h.Fatalf("the time is %v, want now, in UTC, with milliseconds", t)
	}
}

// later waits until the clock shows another millisecond.
func later() {
	for now := time.Now().Truncate(time.Millisecond); !time.Now().Truncate(time.Millisecond).After(now); {
		time.Sleep(100 * time.Microsecond)
	}
}

func testPutDevice(h *house) {
	var first, web, fid store.Device
	h.step(func(s store.Store) {
		_, err := s.PutDevice(ctx, device("app", "anna", "token"), "")
		h.is(err, store.ErrNotFound)
		h.implementation(store.DefaultAccount, "app")
		d := device("app", "anna", "token")
		d.Locale, d.AppVersion = "nl-BE", "1.0"
		first = h.put(s, d, "")
		h.recent(first.RegisteredAt)
		h.recent(first.LastSeenAt)
		d.ID, d.RegisteredAt, d.LastSeenAt = first.ID, first.RegisteredAt, first.LastSeenAt
		same(h, first, d)
		if id, err := store.ParseDeviceID(first.ID.String()); err != nil || id != first.ID {
			h.Fatalf("the id %s is read as %s, %v", first.ID, id, err)
		}
	})
	// The same again moves nothing, and leaves what it does not say.
	h.step(func(s store.Store) { same(h, h.put(s, device("app", "anna", "token"), ""), first) })
	h.step(func(s store.Store) {
		later()
		d := device("app", "anna", "token")
		d.AppVersion = "2.0"
		got := h.put(s, d, "")
		if got.LastSeenAt.Before(first.LastSeenAt) {
			h.Fatal("last seen before it was seen")
		}
		first.AppVersion, first.LastSeenAt = "2.0", got.LastSeenAt
		same(h, got, first)
	})
	// The same token of another platform, kind or implementation is another device, or not.
	h.step(func(s store.Store) {
		d := device("app", "anna", "token")
		d.Platform, d.Kind, d.P256DH, d.Auth = store.PlatformWeb, store.TokenWebPush, bytes.Repeat([]byte{4}, 65), bytes.Repeat([]byte{9}, 16)
		web = h.put(s, d, "")
		d.P256DH[0], d.Auth[0] = 77, 77 // what was given is not shared
		got, err := s.Device(ctx, "", web.ID)
		h.is(err, nil)
		if got.P256DH[0] != 4 || got.Auth[0] != 9 {
			h.Fatal("the keys are shared with the caller")
		}
		d = device("app", "anna", "token")
		d.Kind = store.TokenFID
		fid = h.put(s, d, "")
		if fid.ID != first.ID || web.ID == first.ID || fid.Kind != store.TokenFID {
			h.Fatalf("ids %s, %s, %s", first.ID, web.ID, fid.ID)
		}
		h.devicesAre(s, "anna", "", fid, web)
	})
	h.step(func(s store.Store) {
		h.implementation(store.DefaultAccount, "other")
		other := h.put(s, device("other", "anna", "token"), "")
		h.devicesAre(s, "anna", "", fid, web, other)
		h.devicesAre(s, "anna", "other", other)
		if n := s.CountDevices(); n != 3 {
			h.Fatalf("%d devices, want 3", n)
		}
	})
	h.step(func(s store.Store) {
		for name, x := range map[string]store.Device{
			"no contact":             device("app", "", "token"),
			"a contact too long":     device("app", strings.Repeat("x", store.MaxContactLength+1), "token"),
			"a contact with a NUL":   device("app", "a\x00b", "token"),
			"no token":               device("app", "anna", ""),
			"a token too long":       device("app", "anna", strings.Repeat("x", store.MaxTokenLength+1)),
			"no such implementation": device("nothing", "anna", "token"),
		} {
			if _, err := s.PutDevice(ctx, x, ""); err == nil {
				h.Fatalf("%s: registered", name)
			}
		}
		longest := device("app", strings.Repeat("ü", store.MaxContactLength/2), strings.Repeat("x", store.MaxTokenLength))
		h.put(s, longest, strings.Repeat("y", store.MaxTokenLength))
		if n := s.CountDevices(); n != 4 {
			h.Fatalf("%d devices, want 4", n)
		}
	})
}

// state has a device know something of its token.
func (h *house) state(s store.Store, id store.DeviceID) store.Device {
	h.Helper()
	h.is(s.UpdateDevice(ctx, id, func(d *store.Device) error {
		d.Proven, d.OtherEnvironment, d.RestUntil = true, true, moment(5)
		return nil
	}), nil)
	d, err := s.Device(ctx, "", id)
	h.is(err, nil)
	return d
}

func testMoveDevice(h *house) {
	var d store.Device
	h.step(func(s store.Store) {
		h.implementation(store.DefaultAccount, "app")
		d = h.state(s, h.put(s, device("app", "anna", "token"), "").ID)
	})
	for _, contact := range []string{"bert", "anna", "ann"} {
		before := d.Contact
		h.step(func(s store.Store) {
			later()
			got := h.put(s, device("app", contact, "token"), "")
			d.Contact, d.LastSeenAt = contact, got.LastSeenAt
			same(h, got, d) // the id, the time of registration, and what is known of the token stay
			h.devicesAre(s, before, "")
			h.devicesAre(s, contact, "", d)
		})
	}
	h.step(func(s store.Store) {
		h.devicesAre(s, "ann", "app", d)
		if n := s.CountDevices(); n != 1 {
			h.Fatalf("%d devices, want 1", n)
		}
	})
}

func testReplaceToken(h *house) {
	var d store.Device
	h.step(func(s store.Store) {
		h.implementation(store.DefaultAccount, "app")
		h.implementation(store.DefaultAccount, "other")
		given := device("app", "anna", "one")
		given.Locale = "nl"
		d = h.state(s, h.put(s, given, "").ID)
	})
	// The device gets the token and keeps its id; what was known of the old token is not known of the new one.
	h.step(func(s store.Store) {
		later()
		got := h.put(s, device("app", "anna", "two"), "one")
		if !got.RegisteredAt.After(d.RegisteredAt) {
			h.Fatal("the new token is as old as the one before")
		}
		d.Token, d.RegisteredAt, d.LastSeenAt = "two", got.RegisteredAt, got.LastSeenAt
		d.Proven, d.OtherEnvironment, d.RestUntil = false, false, time.Time{}
		same(h, got, d)
		_, err := s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, "one")
		h.is(err, store.ErrNotFound)
		h.devicesAre(s, "anna", "", d)
	})
	// The same call again, an unknown token, the token itself: nothing is replaced.
	h.step(func(s store.Store) {
		for _, replaces := range []string{"one", "never", "two", ""} {
			same(h, h.put(s, device("app", "anna", "two"), replaces), d)
		}
		fresh := h.put(s, device("app", "anna", "three"), "never")
		if fresh.ID == d.ID {
			h.Fatal("a token was replaced that was not named")
		}
		h.is(s.DeleteDevice(ctx, "", fresh.ID, nil), nil)
	})
	// Nor is one of another implementation or platform.
	h.step(func(s store.Store) {
		x := h.put(s, device("other", "anna", "three"), "two")
		web := device("app", "anna", "four")
		web.Platform = store.PlatformWeb
		y := h.put(s, web, "two")
		h.devicesAre(s, "anna", "", d, y, x)
		h.is(s.DeleteDevice(ctx, "", x.ID, nil), nil)
		h.is(s.DeleteDevice(ctx, "", y.ID, nil), nil)
	})
	// A device that has the new token already goes, whosever it is, and the other comes to belong to the contact given.
	h.step(func(s store.Store) {
		holder := h.put(s, device("app", "bert", "five"), "")
		later()
		got := h.put(s, device("app", "carl", "five"), "two")
		if got.ID != d.ID || got.Contact != "carl" || got.Locale != "nl" {
			h.Fatalf("got %+v", got)
		}
		_, err := s.Device(ctx, "", holder.ID)
		h.is(err, store.ErrNotFound)
		h.devicesAre(s, "anna", "")
		h.devicesAre(s, "bert", "")
		h.devicesAre(s, "carl", "", got)
		d = got
	})
	h.step(func(s store.Store) {
		h.devicesAre(s, "carl", "", d)
		if n := s.CountDevices(); n != 1 {
			h.Fatalf("%d devices, want 1", n)
		}
		_, err := s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, "two")
		h.is(err, store.ErrNotFound)
	})
}

func testDevicesOfAccounts(h *house) {
	var mine, theirs store.Device
	h.step(func(s store.Store) {
		h.account("acme")
		h.implementation(store.DefaultAccount, "app")
		h.implementation("acme", "app")
		mine = h.put(s, device("app", "anna", "token"), "")
		d := device("app", "anna", "token")
		d.AccountID = "acme"
		theirs = h.put(s, d, "")
	})
	h.step(func(s store.Store) {
		h.devicesAre(s, "anna", "", mine)
		list, err := s.Devices(ctx, "acme", "anna", "", store.DeviceID{}, 0)
		h.is(err, nil)
		same(h, list, []store.Device{theirs})
		_, err = s.Device(ctx, "acme", mine.ID)
		h.is(err, store.ErrNotFound)
		h.is(s.DeleteDevice(ctx, "acme", mine.ID, nil), store.ErrNotFound)
		n, err := s.DeleteContact(ctx, "acme", "anna")
		h.is(err, nil)
		if n != 1 {
			h.Fatalf("%d removed, want 1", n)
		}
		h.devicesAre(s, "anna", "", mine)
	})
	h.step(func(s store.Store) {
		_, err := s.Device(ctx, "", theirs.ID)
		h.is(err, store.ErrNotFound)
		got, err := s.Device(ctx, "", mine.ID)
		h.is(err, nil)
		same(h, got, mine)
	})
}

func testDevices(h *house) {
	var all []store.Device // of anna, in the order of id
	h.step(func(s store.Store) {
		for _, app := range []string{"a", "b"} { // whose numbers ascend
			h.implementation(store.DefaultAccount, app)
			for n := range 5 {
				later()
				for _, contact := range []string{"ann", "anna", "anna ", "anna\x01"} {
					d := h.put(s, device(app, contact, fmt.Sprint(contact, n)), "")
					if contact == "anna" {
						all = append(all, d)
					}
				}
			}
		}
	})
	h.step(func(s store.Store) {
		for _, x := range []struct {
			app         string
			after       store.DeviceID
			limit, from int
			want        int
		}{
			{"", store.DeviceID{}, 0, 0, 10},
			{"", store.DeviceID{}, 3, 0, 3},
			{"", all[2].ID, 4, 3, 4},
			{"", all[9].ID, 0, 10, 0},
			{"", store.DeviceID{1: 0, 15: 1}, 1, 0, 1}, // need not exist
			{"a", store.DeviceID{}, 0, 0, 5},
			{"a", all[3].ID, 0, 4, 1},
			{"a", all[7].ID, 0, 5, 0},
			{"b", store.DeviceID{}, 2, 5, 2},
			{"b", all[1].ID, 0, 5, 5},
			{"b", all[6].ID, 100, 7, 3},
			{"nothing", store.DeviceID{}, 0, 0, 0},
		} {
			got, err := s.Devices(ctx, store.DefaultAccount, "anna", x.app, x.after, x.limit)
			h.is(err, nil)
			same(h, got, all[x.from:x.from+x.want])
		}
		for _, contact := range []string{"an", "annaa", ""} {
			h.devicesAre(s, contact, "")
		}
	})
}

func testUpdateDevice(h *house) {
	var d store.Device
	h.step(func(s store.Store) {
		h.implementation(store.DefaultAccount, "app")
		d = h.put(s, device("app", "anna", "token"), "")
	})
	h.step(func(s store.Store) {
		got := h.state(s, d.ID)
		d.Proven, d.OtherEnvironment, d.RestUntil = true, true, moment(5)
		same(h, got, d)
		mine := errors.New("mine")
		if err := s.UpdateDevice(ctx, d.ID, func(x *store.Device) error { x.Proven = false; return mine }); err != mine { //nolint:errorlint // as it is, not wrapped
			h.Fatalf("got error %v, want the one of change as it is", err)
		}
		h.is(s.UpdateDevice(ctx, store.DeviceID{1}, func(*store.Device) error {
			h.Error("change was called for a device that does not exist")
			return nil
		}), store.ErrNotFound)
		// Refused or put right, but never changed.
		_ = s.UpdateDevice(ctx, d.ID, func(x *store.Device) error {
			x.ID, x.AccountID, x.ImplementationID, x.Contact = store.DeviceID{1}, "acme", "other", "bert"
			x.Platform, x.Kind, x.Token, x.Auth = store.PlatformWeb, store.TokenFID, "other", []byte{1}
			return nil
		})
		h.devicesAre(s, "anna", "app", d)
		h.devicesAre(s, "bert", "")
	})
	h.step(func(s store.Store) { h.devicesAre(s, "anna", "app", d) })
}

func testDeleteDevice(h *house) {
	var one, two store.Device
	h.step(func(s store.Store) {
		h.implementation(store.DefaultAccount, "app")
		one, two = h.put(s, device("app", "anna", "one"), ""), h.put(s, device("app", "anna", "two"), "")
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteDevice(ctx, "", one.ID, func(d *store.Device) bool { same(h, *d, one); return false }), store.ErrNotFound)
		h.devicesAre(s, "anna", "", one, two)
		h.is(s.DeleteDevice(ctx, "", one.ID, func(d *store.Device) bool { return d.Token == "one" }), nil)
		h.devicesAre(s, "anna", "", two)
	})
	h.step(func(s store.Store) {
		h.devicesAre(s, "anna", "", two)
		for _, err := range []error{
			s.DeleteDevice(ctx, "", one.ID, func(*store.Device) bool { h.Error("asked about a device that is gone"); return true }),
			s.DeleteDevice(ctx, store.DefaultAccount, one.ID, nil),
		} {
			h.is(err, store.ErrNotFound)
		}
		_, err := s.Device(ctx, "", one.ID)
		h.is(err, store.ErrNotFound)
		_, err = s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, "one")
		h.is(err, store.ErrNotFound)
		// Registered again it is a new one.
		again := h.put(s, device("app", "anna", "one"), "")
		if again.ID == one.ID {
			h.Fatal("the id of a deleted device was given again")
		}
		h.is(s.DeleteDevice(ctx, store.DefaultAccount, two.ID, nil), nil)
		h.devicesAre(s, "anna", "", again)
	})
}

func testDeleteContact(h *house) {
	var kept store.Device
	h.step(func(s store.Store) {
		for _, app := range []string{"a", "b"} {
			h.implementation(store.DefaultAccount, app)
			h.parallel(16, 40, func(i int) error { _, err := s.PutDevice(ctx, device(app, "anna", fmt.Sprint(i)), ""); return err })
		}
		kept = h.put(s, device("a", "anna2", "kept"), "")
	})
	h.step(func(s store.Store) {
		for _, want := range []int{80, 0} {
			n, err := s.DeleteContact(ctx, store.DefaultAccount, "anna")
			h.is(err, nil)
			if n != want {
				h.Fatalf("%d removed, want %d", n, want)
			}
		}
		h.devicesAre(s, "anna", "")
	})
	h.step(func(s store.Store) {
		h.devicesAre(s, "anna", "")
		h.devicesAre(s, "anna2", "", kept)
		if n := s.CountDevices(); n != 1 {
			h.Fatalf("%d devices, want 1", n)
		}
	})
}

// However many register a token at once, there is one device of it, which belongs to one of their contacts.
func testConcurrentPutDevice(h *house) {
	const n = 64
	h.step(func(s store.Store) {
		h.implementation(store.DefaultAccount, "app")
		var mu sync.Mutex
		ids := make(map[store.DeviceID]bool)
		h.parallel(n, n, func(i int) error {
			d, err := s.PutDevice(ctx, device("app", fmt.Sprint("contact", i%4), "token"), "")
			mu.Lock()
			defer mu.Unlock()
			ids[d.ID] = true
			return err
		})
		if len(ids) != 1 || s.CountDevices() != 1 {
			h.Fatalf("%d devices of one token, %d in all", len(ids), s.CountDevices())
		}
	})
	h.step(func(s store.Store) {
		found := 0
		for i := range 4 {
			list, err := s.Devices(ctx, store.DefaultAccount, fmt.Sprint("contact", i), "", store.DeviceID{}, 0)
			h.is(err, nil)
			found += len(list)
		}
		if found != 1 {
			h.Fatalf("found with %d contacts", found)
		}
		// A chain of tokens, each of which succeeds the one before, stays one device, and no update of it is lost.
		d, err := s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, "token")
		h.is(err, nil)
		h.is(s.UpdateDevice(ctx, d.ID, func(d *store.Device) error { d.AppVersion = ""; return nil }), nil)
		h.parallel(8, n, func(int) error {
			return s.UpdateDevice(ctx, d.ID, func(d *store.Device) error { d.AppVersion += "x"; return nil })
		})
		if d, err = s.Device(ctx, "", d.ID); err != nil || len(d.AppVersion) != n {
			h.Fatalf("after %d updates: %+v, %v", n, d, err)
		}
	})
	// Of those who replace the same token each ends with a device that has its token.
	h.step(func(s store.Store) {
		h.parallel(n, n, func(i int) error {
			_, err := s.PutDevice(ctx, device("app", "anna", fmt.Sprint("new", i)), "token")
			return err
		})
		for i := range n {
			_, err := s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, fmt.Sprint("new", i))
			h.is(err, nil)
		}
		if got := s.CountDevices(); got != n {
			h.Fatalf("%d devices, want %d", got, n)
		}
		// Deletes beside registrations: each delete removes what it has seen.
		h.parallel(16, n, func(i int) error {
			token := fmt.Sprint("new", i/2)
			if i%2 == 0 {
				_, err := s.PutDevice(ctx, device("app", "bert", token), "")
				return err
			}
			d, err := s.DeviceByToken(ctx, store.DefaultAccount, "app", store.PlatformAndroid, token)
			if err != nil {
				return err
			}
			err = s.DeleteDevice(ctx, "", d.ID, func(x *store.Device) bool { return x.Contact == "bert" })
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			return nil
		})
		h.is(s.Check(ctx), nil)
	})
}
