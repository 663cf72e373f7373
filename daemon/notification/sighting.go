package notification

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"herald/store"
)

// A provider that takes a notification shows that the token is good. That is written down for a token that was not known to be, and once
// a day for all others; how many at once is bounded, and what is beyond waits for the next notification.
const (
	sightingEvery = 24 * time.Hour
	maxSightings  = 256
	sightingRate  = 200 // a second
)

// sighting is a device whose token was taken.
type sighting struct {
	id    store.DeviceID
	token string
}

// sight notes that the provider took a notification for the device.
func (n *Notifier) sight(d *delivery) {
	if d.device.ID == (store.DeviceID{}) || d.device.Proven && d.now.Sub(d.device.LastSeenAt) < sightingEvery {
		return
	}
	select {
	case n.seen <- sighting{d.device.ID, d.device.Token}:
	default:
	}
}

// Run writes down which devices were reached, until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	limit := rate.NewLimiter(sightingRate, 1)
	for {
		var s sighting
		select {
		case <-ctx.Done():
			return nil
		case s = <-n.seen:
		}
		if limit.Wait(ctx) != nil {
			return nil //nolint:nilerr // ctx has ended
		}
		now := time.Now().UTC().Truncate(time.Millisecond)
		d := delivery{device: store.Device{ID: s.id, DeviceToken: store.DeviceToken{Token: s.token}}}
		n.update(ctx, &d, func(x *store.Device) { x.Proven, x.LastSeenAt = true, now })
	}
}

// maxStrays is how many devices in a row have to belong to other credentials before it is these that are taken to be wrong.
const maxStrays = 10

// strays counts, for each lane, the devices in a row that belonged to other credentials.
type strays struct {
	mu   sync.Mutex
	rows map[store.SubscriptionID]int
}

func (s *strays) add(lane store.SubscriptionID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[lane]++
	return s.rows[lane]
}

func (s *strays) reset(lane store.SubscriptionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rows, lane)
}
