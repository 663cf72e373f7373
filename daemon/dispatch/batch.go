package dispatch

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net/http"
	"strings"
	"time"

	"herald/queue"
	"herald/store"
)

// batchEncoding is that of the other ids of the queue.
var batchEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// batchID returns "bat_" and 26 lower-case letters and digits, which say which deliveries of which
// subscription a push carries: the same ones have the same id in every attempt, also after a restart.
func batchID(c *queue.Claim) string {
	b := make([]byte, 0, 512)
	b = append(b, c.Lane[:]...)
	for i := range c.Deliveries {
		b = binary.BigEndian.AppendUint64(b, c.Deliveries[i].Seq)
	}
	sum := sha256.Sum256(b)
	return "bat_" + strings.ToLower(batchEncoding.EncodeToString(sum[:16]))
}

// push is the request that a claim makes. A subscription that takes several records gets the form of many,
// and its id, also with one.
func push(sub *store.Subscription, c *queue.Claim) queue.Push {
	p := queue.Push{Attempt: c.Attempt, Replay: c.Replay, Events: make([]*queue.Event, len(c.Deliveries))}
	for i := range c.Deliveries {
		p.Events[i] = c.Deliveries[i].Event
	}
	if sub.NumberOfRecords > 1 {
		p.ID = batchID(c)
	} else {
		p.ID = p.Events[0].ID
	}
	return p
}

// tooLarge says that the receiver refused the size of a batch: smaller ones may do.
func tooLarge(c *queue.Claim, out *queue.Outcome) bool {
	return out.Status == http.StatusRequestEntityTooLarge && len(c.Deliveries) > 1
}

// separate gives deliveries back that were claimed together but may not be sent so any more, because the
// subscription takes fewer records in a push than when they were. It is no attempt.
func (d *Dispatcher) separate(c *queue.Claim) {
	d.metrics.returned[returnedDissolved].Inc()
	s := queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StatePending}
	if c.Attempt > 1 {
		// They were tried together, and only a retry can be dissolved.
		s.State, s.Due, s.Dissolve = queue.StateRetrying, time.Now().UTC(), true
	}
	d.queue.Settle(s)
}
