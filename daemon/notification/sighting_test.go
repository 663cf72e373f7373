package notification

import (
	"testing"
	"testing/synctest"
	"time"

	"herald/store"
)

// Devices that were reached are noted: those of a second at once, in few commits, as many as there is room for, and the rest with the
// next notification; one that is known to be good once a day.
func TestSightings(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		const many = maxSightings + 50
		for _, token := range numbered("token-", many) {
			h.register(t, "ann", store.PlatformAndroid, token)
		}
		proven := func() (n int) {
			devices, err := h.store.Devices(t.Context(), store.DefaultAccount, "ann", "shop", store.DeviceID{}, store.MaxContactDevices)
			if err != nil {
				t.Fatal(err)
			}
			for i := range devices {
				if devices[i].Proven {
					n++
				}
			}
			return n
		}
		h.send(t, to("ann"))
		if n := proven(); n != 0 {
			t.Errorf("%d were noted at once", n)
		}
		begin := time.Now()
		time.Sleep(sightingGather)
		synctest.Wait()
		if n := proven(); n < maxSightings || n == many {
			t.Errorf("%d of %d were noted, want %d and the one that was waited with", n, many, maxSightings)
		}
		h.send(t, to("ann"))
		time.Sleep(sightingGather)
		synctest.Wait()
		if n := proven(); n != many {
			t.Errorf("%d of %d were noted in the end", n, many)
		}
		seen := func() time.Time {
			d, err := h.store.DeviceByToken(t.Context(), store.DefaultAccount, "shop", store.PlatformAndroid, "token-0000")
			if err != nil {
				t.Fatal(err)
			}
			return d.LastSeenAt
		}
		first := seen()
		if first.Before(begin.Truncate(time.Millisecond)) {
			t.Errorf("seen at %s, before it was", first)
		}
		h.send(t, to("ann"))
		time.Sleep(sightingGather)
		synctest.Wait()
		if at := seen(); !at.Equal(first) {
			t.Errorf("noted again, at %s", at)
		}
		time.Sleep(sightingEvery)
		h.send(t, func(m *store.Message) {
			m.Token = &store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenPlain, Token: "token-0000"}
		})
		time.Sleep(sightingGather)
		synctest.Wait()
		if at := seen(); !at.After(first) {
			t.Error("not noted the next day")
		}
	})
}
