package notification

import (
	"context"
	"sync"
	"time"

	"herald/store"
)

// A provider that takes a notification shows that the token is good. That is written down for a token that was not known to be, and once
// a day for all others: those of a second together, because each would be a commit of its own and wait for the disk that messages wait for.
// What is beyond maxSightings waits for the next notification.
const (
	sightingEvery  = 24 * time.Hour
	maxSightings   = 256
	sightingGather = time.Second
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
	list := make([]sighting, 0, maxSightings)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-n.seen:
			list = append(list[:0], s)
		}
		if !sleep(ctx, sightingGather) {
			return nil
		}
		for len(list) < maxSightings && len(n.seen) > 0 {
			list = append(list, <-n.seen)
		}
		now := time.Now().UTC().Truncate(time.Millisecond)
		var wg sync.WaitGroup
		for _, s := range list {
			wg.Go(func() { // so that they share commits
				d := delivery{device: store.Device{ID: s.id, DeviceToken: store.DeviceToken{Token: s.token}}}
				n.update(ctx, &d, func(x *store.Device) { x.Proven, x.LastSeenAt = true, now })
			})
		}
		wg.Wait()
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
