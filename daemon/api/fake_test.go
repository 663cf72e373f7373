package api

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"herald/queue"
	"herald/store"
)

// memStore is a store in memory. With fail set, everything that reads or writes returns that error.
type memStore struct {
	mu        sync.Mutex
	fail      error
	unhealthy error
	accounts  map[string]store.Account
	tokens    map[store.TokenHash]store.Token
	resources map[string]map[store.ResourceKey]store.Resource
	subs      map[store.SubscriptionID]*store.Subscription
	matcher   store.Matcher
	failAfter int // list pages that succeed before fail applies
	memDevices
}

func newMemStore() *memStore {
	return &memStore{
		accounts:   map[string]store.Account{store.DefaultAccount: {ID: store.DefaultAccount}},
		tokens:     map[store.TokenHash]store.Token{},
		resources:  map[string]map[store.ResourceKey]store.Resource{},
		subs:       map[store.SubscriptionID]*store.Subscription{},
		memDevices: newMemDevices(),
	}
}

func (m *memStore) lock() (func(), error) {
	m.mu.Lock()
	if m.fail != nil {
		if m.failAfter > 0 {
			m.failAfter--
		} else {
			defer m.mu.Unlock()
			return nil, m.fail
		}
	}
	return m.mu.Unlock, nil
}

func (m *memStore) setFail(err error, after int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.failAfter = err, after
}

func (m *memStore) CreateAccount(_ context.Context, a store.Account) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := m.accounts[a.ID]; ok {
		return store.ErrExists
	}
	m.accounts[a.ID] = a
	return nil
}

func (m *memStore) Account(_ context.Context, id string) (store.Account, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Account{}, err
	}
	defer unlock()
	a, ok := m.accounts[id]
	if !ok {
		return a, store.ErrNotFound
	}
	return a, nil
}

// page sorts and cuts a listing as the contract says.
func page[T any](all []T, compare func(T) int, byKey func(a, b T) int, limit int) []T {
	slices.SortFunc(all, byKey)
	var out []T
	for _, x := range all {
		if compare(x) > 0 && (limit == 0 || len(out) < limit) {
			out = append(out, x)
		}
	}
	return out
}

func (m *memStore) Accounts(_ context.Context, after string, limit int) ([]store.Account, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []store.Account
	for _, a := range m.accounts {
		all = append(all, a)
	}
	return page(all, func(a store.Account) int { return cmp.Compare(a.ID, after) },
		func(a, b store.Account) int { return cmp.Compare(a.ID, b.ID) }, limit), nil
}

func (m *memStore) UpdateAccount(_ context.Context, id string, change func(*store.Account) error) (store.Account, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Account{}, err
	}
	defer unlock()
	a, ok := m.accounts[id]
	if !ok {
		return a, store.ErrNotFound
	}
	if err := change(&a); err != nil {
		return a, err
	}
	m.accounts[id] = a
	return a, nil
}

func (m *memStore) DeleteAccount(_ context.Context, id string) ([]store.SubscriptionID, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := m.accounts[id]; !ok {
		return nil, store.ErrNotFound
	}
	delete(m.accounts, id)
	delete(m.resources, id)
	var gone []store.SubscriptionID
	for sid, s := range m.subs {
		if s.AccountID == id && s.Role == store.RoleNone {
			gone = append(gone, sid)
			m.matcher.Replace(s, nil)
			delete(m.subs, sid)
		}
	}
	for k, i := range m.implementations {
		if k[0] == id {
			gone = append(gone, m.dropImplementation(i)...)
		}
	}
	for h, t := range m.tokens {
		if t.AccountID == id {
			delete(m.tokens, h)
		}
	}
	return gone, nil
}

func (m *memStore) CreateToken(_ context.Context, t store.Token) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := m.accounts[t.AccountID]; !ok {
		return store.ErrNotFound
	}
	m.tokens[t.Hash] = t
	return nil
}

func (m *memStore) TokenByHash(_ context.Context, hash store.TokenHash) (store.Token, store.Account, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Token{}, store.Account{}, err
	}
	defer unlock()
	t, ok := m.tokens[hash]
	if !ok {
		return t, store.Account{}, store.ErrNotFound
	}
	return t, m.accounts[t.AccountID], nil
}

func (m *memStore) Tokens(_ context.Context, account, after string, limit int) ([]store.Token, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []store.Token
	for _, t := range m.tokens {
		if account == "" || t.AccountID == account {
			all = append(all, t)
		}
	}
	return page(all, func(t store.Token) int { return cmp.Compare(t.ID, after) },
		func(a, b store.Token) int { return cmp.Compare(a.ID, b.ID) }, limit), nil
}

func (m *memStore) DeleteToken(_ context.Context, account, id string) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for h, t := range m.tokens {
		if t.ID == id && (account == "" || account == t.AccountID) {
			delete(m.tokens, h)
			return nil
		}
	}
	return store.ErrNotFound
}

func (m *memStore) PutResources(_ context.Context, account string, rs []store.Resource) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := m.accounts[account]; !ok {
		return store.ErrNotFound
	}
	if m.resources[account] == nil {
		m.resources[account] = map[store.ResourceKey]store.Resource{}
	}
	for _, r := range rs {
		m.resources[account][r.ResourceKey] = r
	}
	return nil
}

func (m *memStore) Resource(_ context.Context, account string, key store.ResourceKey) (store.Resource, error) {
	unlock, err := m.lock()
	if err != nil {
		return store.Resource{}, err
	}
	defer unlock()
	r, ok := m.resources[account][key]
	if !ok {
		return r, store.ErrNotFound
	}
	return r, nil
}

func (m *memStore) HasResourceType(ctx context.Context, account, kind string) (bool, error) {
	rs, err := m.Resources(ctx, account, kind, store.ResourceKey{}, 1)
	return len(rs) > 0, err
}

func (m *memStore) Resources(_ context.Context, account, kind string, after store.ResourceKey, limit int) ([]store.Resource, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []store.Resource
	for _, r := range m.resources[account] {
		if kind == "" || r.Type == kind {
			all = append(all, r)
		}
	}
	compare := func(a, b store.ResourceKey) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
	}
	return page(all, func(r store.Resource) int { return compare(r.ResourceKey, after) },
		func(a, b store.Resource) int { return compare(a.ResourceKey, b.ResourceKey) }, limit), nil
}

func (m *memStore) DeleteResource(_ context.Context, account string, key store.ResourceKey) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := m.resources[account][key]; !ok {
		return store.ErrNotFound
	}
	delete(m.resources[account], key)
	return nil
}

func (m *memStore) CreateSubscription(_ context.Context, s *store.Subscription, most int) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	n := 0
	for _, x := range m.subs {
		if x.AccountID == s.AccountID && x.Role == store.RoleNone {
			n++
		}
	}
	if most > 0 && n >= most {
		return store.ErrLimit
	}
	m.subs[s.ID] = s.Clone()
	m.matcher.Replace(nil, m.subs[s.ID])
	return nil
}

func (m *memStore) Subscription(_ context.Context, id store.SubscriptionID) (*store.Subscription, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, ok := m.subs[id]
	if !ok {
		return nil, store.ErrNotFound
	}
	return s, nil
}

func (m *memStore) Subscriptions(_ context.Context, account string, after store.SubscriptionID, limit int) ([]*store.Subscription, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []*store.Subscription
	for _, s := range m.subs {
		if account == "" || s.AccountID == account && s.Role == store.RoleNone {
			all = append(all, s)
		}
	}
	return page(all, func(s *store.Subscription) int { return bytes.Compare(s.ID[:], after[:]) },
		func(a, b *store.Subscription) int { return bytes.Compare(a.ID[:], b.ID[:]) }, limit), nil
}

func (m *memStore) UpdateSubscription(_ context.Context, id store.SubscriptionID, change func(*store.Subscription) error) (*store.Subscription, error) {
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, ok := m.subs[id]
	if !ok {
		return nil, store.ErrNotFound
	}
	next := s.Clone()
	if err := change(next); err != nil {
		return nil, err
	}
	m.matcher.Replace(s, next)
	m.subs[id] = next
	return next, nil
}

func (m *memStore) DeleteSubscription(_ context.Context, account string, id store.SubscriptionID) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, ok := m.subs[id]
	if !ok || account != "" && s.AccountID != account || s.Role != store.RoleNone {
		return store.ErrNotFound
	}
	m.matcher.Replace(s, nil)
	delete(m.subs, id)
	return nil
}

func (m *memStore) Select(account, eventType, resource string, data []byte, dst []store.SubscriptionID) (ids []store.SubscriptionID, byData bool) {
	return m.matcher.Select(account, eventType, resource, data, dst)
}

func (m *memStore) Healthy() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unhealthy
}
func (m *memStore) Check(context.Context) error { return nil }

// memQueue remembers what it was given and has one delivery for each lane of an event.
type memQueue struct {
	mu         sync.Mutex
	fail       error
	unhealthy  error
	events     []*queue.Event
	digests    map[string][16]byte
	deliveries []*queue.Delivery
	attempts   map[queue.DeliveryID][]queue.Attempt
	dropped    []queue.Lane
	hastened   []queue.Lane
	discarded  []queue.Lane
	retried    []queue.DeliveryID
	selections []queue.DeadSelection
	laneStats  queue.LaneStats
	replays    []queue.Replay
}

func newMemQueue() *memQueue {
	return &memQueue{digests: map[string][16]byte{}, attempts: map[queue.DeliveryID][]queue.Attempt{}}
}

func (q *memQueue) lock() (func(), error) {
	q.mu.Lock()
	if q.fail != nil {
		defer q.mu.Unlock()
		return nil, q.fail
	}
	return q.mu.Unlock, nil
}

func (q *memQueue) setFail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fail = err
}

func (q *memQueue) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (q *memQueue) Accept(_ context.Context, subs []queue.Submission) ([]queue.Receipt, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	receipts := make([]queue.Receipt, len(subs))
	fresh := map[string][16]byte{}
	for i := range subs {
		s := &subs[i]
		if s.ID == "" {
			receipts[i] = queue.Receipt{ID: "evt_" + lowerHex32([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, byte(len(q.events) >> 8), byte(len(q.events) + i)})}
			continue
		}
		key := s.AccountID + "\x00" + s.ID
		old, ok := q.digests[key]
		if !ok {
			old, ok = fresh[key]
		}
		if ok && old != s.Digest {
			return nil, &queue.ConflictError{Index: i, ID: s.ID}
		}
		fresh[key] = s.Digest
		receipts[i] = queue.Receipt{ID: s.ID, Duplicate: ok}
	}
	for i := range subs {
		if receipts[i].Duplicate {
			continue
		}
		e := subs[i].Event
		e.Seq, e.ID = uint64(len(q.events))+1, receipts[i].ID
		e.AcceptedAt = testNow
		q.digests[e.AccountID+"\x00"+e.ID] = subs[i].Digest
		q.events = append(q.events, &e)
		for _, lane := range subs[i].Lanes {
			q.deliveries = append(q.deliveries, &queue.Delivery{
				ID: queue.DeliveryID{Seq: uint64(len(q.events)), Lane: lane}, AccountID: e.AccountID, EventID: e.ID,
				EventType: e.Type, State: queue.StatePending, AcceptedAt: testNow,
			})
		}
	}
	return receipts, nil
}

func (q *memQueue) Claim(ctx context.Context, _ int, _ func(queue.Lane) queue.Room, _ []queue.Claim) ([]queue.Claim, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (q *memQueue) Wake(...queue.Lane)         {}
func (q *memQueue) Settle(...queue.Settlement) {}

func (q *memQueue) find(account string, id queue.DeliveryID) (*queue.Delivery, error) {
	for _, d := range q.deliveries {
		if d.ID == id && (account == "" || d.AccountID == account) {
			return d, nil
		}
	}
	return nil, queue.ErrNotFound
}

func (q *memQueue) Retry(_ context.Context, account string, id queue.DeliveryID) error {
	unlock, err := q.lock()
	if err != nil {
		return err
	}
	defer unlock()
	d, err := q.find(account, id)
	if err != nil {
		return err
	}
	if slices.Contains(q.dropped, id.Lane) {
		return queue.ErrGone
	}
	d.State = queue.StatePending
	q.retried = append(q.retried, id)
	return nil
}

func (q *memQueue) RetryDead(_ context.Context, lane queue.Lane, s queue.DeadSelection) (int, error) {
	unlock, err := q.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	q.selections = append(q.selections, s)
	n := 0
	for _, d := range q.deliveries {
		if d.ID.Lane != lane || d.State != queue.StateDead || s.Reason != "" && d.Reason != s.Reason || s.EventType != "" && d.EventType != s.EventType {
			continue
		}
		n++
		if !s.DryRun {
			d.State = queue.StatePending
		}
	}
	return n, nil
}

// Hasten implements queue.Queue.
func (q *memQueue) Hasten(_ context.Context, lane queue.Lane) error {
	unlock, err := q.lock()
	if err != nil {
		return err
	}
	defer unlock()
	q.hastened = append(q.hastened, lane)
	for _, d := range q.deliveries {
		if d.ID.Lane == lane && d.State == queue.StateRetrying {
			d.NextAttemptAt = time.Time{}
		}
	}
	return nil
}

func (q *memQueue) Discard(_ context.Context, lane queue.Lane, reason string) error {
	unlock, err := q.lock()
	if err != nil {
		return err
	}
	defer unlock()
	q.discarded = append(q.discarded, lane)
	for _, d := range q.deliveries {
		if d.ID.Lane == lane && (d.State == queue.StatePending || d.State == queue.StateRetrying) {
			d.State, d.Reason = queue.StateDiscarded, reason
		}
	}
	return nil
}

func (q *memQueue) DropLane(_ context.Context, lane queue.Lane) error {
	unlock, err := q.lock()
	if err != nil {
		return err
	}
	defer unlock()
	q.dropped = append(q.dropped, lane)
	return nil
}

func (q *memQueue) Lanes(context.Context) ([]queue.Lane, error) { return nil, nil }

func (q *memQueue) Event(_ context.Context, account, id string) (*queue.Event, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, e := range q.events {
		if e.ID == id && e.AccountID == account {
			return e, nil
		}
	}
	return nil, queue.ErrNotFound
}

func (q *memQueue) Events(_ context.Context, f queue.EventFilter) ([]*queue.Event, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []*queue.Event
	on := f.After == ""
	for _, e := range slices.Backward(q.events) {
		switch {
		case f.AccountID != "" && e.AccountID != f.AccountID, f.Without != "" && strings.HasPrefix(e.Type, f.Without):
		case !on:
			on = e.ID == f.After
		case len(out) < f.Limit:
			out = append(out, e)
		}
	}
	if !on {
		return nil, queue.ErrNotFound
	}
	return out, nil
}

func (q *memQueue) EventsFrom(_ context.Context, account string, seq uint64, n int) ([]*queue.Event, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []*queue.Event
	for _, e := range q.events {
		if e.Seq >= seq && e.Seq-seq < uint64(n) && (account == "" || e.AccountID == account) {
			out = append(out, e)
		}
	}
	return out, nil
}

func (q *memQueue) DeliveriesFrom(_ context.Context, account string, seq uint64, n int) ([]*queue.Delivery, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []*queue.Delivery
	for _, d := range q.deliveries {
		if d.ID.Seq >= seq && d.ID.Seq-seq < uint64(n) && (account == "" || d.AccountID == account) {
			c := *d
			out = append(out, &c)
		}
	}
	return out, nil
}

func (q *memQueue) Delivery(_ context.Context, account string, id queue.DeliveryID) (*queue.Delivery, []queue.Attempt, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	d, err := q.find(account, id)
	if err != nil {
		return nil, nil, err
	}
	c := *d
	return &c, q.attempts[id], nil
}

func (q *memQueue) Deliveries(_ context.Context, f queue.DeliveryFilter) ([]*queue.Delivery, error) {
	unlock, err := q.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []*queue.Delivery
	on := f.After.IsZero()
	for _, d := range slices.Backward(q.deliveries) {
		c := *d
		if (c.State == queue.StatePending || c.State == queue.StateRetrying) && f.Held != nil && f.Held(c.ID.Lane) {
			c.State = queue.StateHeld
		}
		switch {
		case f.AccountID != "" && c.AccountID != f.AccountID, f.Lane != (queue.Lane{}) && c.ID.Lane != f.Lane,
			f.EventID != "" && c.EventID != f.EventID, f.State != "" && c.State != f.State, f.Reason != "" && c.Reason != f.Reason, f.Without != "" && strings.HasPrefix(c.EventType, f.Without),
			!f.Since.IsZero() && c.AcceptedAt.Before(f.Since):
		case !on:
			on = c.ID == f.After
		case len(out) < f.Limit:
			out = append(out, &c)
		}
	}
	if !on {
		return nil, queue.ErrNotFound
	}
	return out, nil
}

func (q *memQueue) Stats() queue.Stats { return queue.Stats{} }
func (q *memQueue) LaneStats(queue.Lane) queue.LaneStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.laneStats
}
func (q *memQueue) Configure(queue.Retention) {}
func (q *memQueue) Healthy() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unhealthy
}
func (q *memQueue) Check(context.Context) error { return nil }

func (q *memQueue) StartReplay(_ context.Context, r queue.Replay) (queue.Replay, error) {
	unlock, err := q.lock()
	if err != nil {
		return queue.Replay{}, err
	}
	defer unlock()
	if len(q.replays) == queue.MaxReplays {
		return queue.Replay{}, queue.ErrTooMany
	}
	r.ID, r.State, r.CreatedAt = queue.ReplayID{15: byte(len(q.replays) + 1)}, queue.ReplayRunning, testNow
	q.replays = append(q.replays, r)
	return r, nil
}

func (q *memQueue) CountReplay(_ context.Context, r queue.Replay, match func(*queue.Event) bool) (int, error) {
	unlock, err := q.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	n := 0
	for _, ev := range q.events {
		if ev.AccountID == r.AccountID && match(ev) {
			n++
		}
	}
	return n, nil
}

func (q *memQueue) AdvanceReplay(context.Context, queue.Lane, queue.ReplayStep) (queue.Replay, int, error) {
	return queue.Replay{}, 0, queue.ErrNotFound
}

func (q *memQueue) CancelReplay(_ context.Context, _ queue.Lane, id queue.ReplayID) error {
	unlock, err := q.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for i := range q.replays {
		if q.replays[i].ID == id {
			q.replays[i].State, q.replays[i].EndedAt = queue.ReplayCancelled, testNow
		}
	}
	return nil
}

func (q *memQueue) Replays(queue.Lane) []queue.Replay {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.replays)
}

func (q *memQueue) Replaying() []queue.Lane { return nil }
