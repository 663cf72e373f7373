package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"

	"herald/store"
	"herald/store/boltkit"
)

// FileName is what the file is called in the data directory.
const FileName = "store.db"

const (
	schemaName = "herald store"
	// SchemaVersion is the version of the file's format.
	SchemaVersion = 3
	// defaultCacheEntries bounds each cache; a subscription takes about 1 KiB of memory.
	defaultCacheEntries = 65536
	// pageRecords is how many records a listing reads in one read transaction.
	pageRecords = 1000
	// probeWait is the time between two tries whether a full disk has room again.
	probeWait = 5 * time.Second
)

// The buckets; doc.go says what is in them.
var (
	bucketAccount              = []byte("account")
	bucketAccountGone          = []byte("account_gone")
	bucketToken                = []byte("token")
	bucketTokenHash            = []byte("token_hash")
	bucketTokenAccount         = []byte("token_account")
	bucketResource             = []byte("resource")
	bucketSubscription         = []byte("subscription")
	bucketSubscriptionAccount  = []byte("subscription_account")
	bucketImplementation       = []byte("implementation")
	bucketImplementationNumber = []byte("implementation_number")
	bucketDevice               = []byte("device")
	bucketDeviceToken          = []byte("device_token")
	bucketDeviceContact        = []byte("device_contact")
	bucketDeviceSweep          = []byte("device_sweep")
	bucketKey                  = []byte("key")

	keyCheck = []byte("check")
	keyProbe = []byte("probe")

	// bucketsOfDevices came with version 3.
	bucketsOfDevices = [][]byte{
		bucketImplementation, bucketImplementationNumber, bucketDevice, bucketDeviceToken, bucketDeviceContact, bucketDeviceSweep,
	}
	// buckets are all of them; a file that lacks one is damaged.
	buckets = append([][]byte{
		bucketAccount, bucketAccountGone, bucketToken, bucketTokenHash, bucketTokenAccount,
		bucketResource, bucketSubscription, bucketSubscriptionAccount, bucketKey,
	}, bucketsOfDevices...)
	// perAccount are the buckets that have a nested one for each account.
	perAccount = [][]byte{bucketTokenAccount, bucketResource, bucketSubscriptionAccount, bucketImplementation}
)

// checkText is what the key check seals. It is no secret.
const checkText = "herald store: this is the right key"

// Options describe a store.
type Options struct {
	// Path is the file; its directory must exist. A file that does not exist is created, with the account
	// store.DefaultAccount in it.
	Path string
	// Key encrypts the secrets; KeyFor, LoadKey and CreateKey get one. Required. A store that was made
	// with another key is refused.
	Key Key
	// Logger gets a line for what people should know; nil discards them. It never gets a secret.
	Logger *slog.Logger
	// Registerer gets the metrics, until Close; nil: none are registered.
	Registerer prometheus.Registerer
	// CacheEntries bounds each of the caches of tokens, accounts, subscriptions and implementations; 0: 65,536.
	CacheEntries int

	// writeAt stands between bbolt and the file in tests.
	writeAt func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)
}

// Store implements store.Store. Reads work from Open to Close. Changes handed in before Run wait for it;
// after it ended they return store.ErrClosed.
type Store struct {
	db        *boltkit.DB
	committer *boltkit.Committer[*change]
	sealer    *sealer
	logger    *slog.Logger
	metrics   *metrics
	undo      []func() // takes the metrics off their registry

	matcher         store.Matcher
	tokens          *cache[store.TokenHash, store.Token]
	accounts        *cache[string, store.Account]
	subscriptions   *cache[store.SubscriptionID, *store.Subscription]
	implementations *cache[implementationKey, *store.Implementation]

	count               atomic.Int64 // subscriptions without a role
	implementationCount atomic.Int64
	deviceCount         atomic.Int64 // those still to be swept included

	shut atomic.Bool // closed or failed: nothing is answered any more

	// settling is held from the begin of a commit until memory agrees with it, so that Check can
	// compare the two. held and begun are the writer goroutine's.
	settling sync.Mutex
	held     bool
	begun    time.Time

	mu     sync.Mutex
	run    runState
	health error              // why changes cannot be made durable, while they cannot
	full   chan struct{}      // wakes the prober when the disk is found full
	litter chan struct{}      // wakes the sweeper when there are devices to remove
	stop   context.CancelFunc // ends Run
	ended  chan struct{}      // closed when Run has returned
	gone   chan struct{}      // closed when Run will never be called
}

type runState int

const (
	notStarted runState = iota
	running
	over
)

var _ store.Store = (*Store)(nil)

// Open opens the store, or creates it, and reads what it keeps in memory: a third of a second for
// 100,000 subscriptions. It starts nothing.
//
// Errors: ErrKey, ErrKeyMissing, ErrNewer, boltkit.ErrLocked, boltkit.ErrDamaged, boltkit.ErrForeign,
// those of the file system.
func Open(o Options) (*Store, error) {
	if o.Path == "" {
		return nil, errors.New("open the store: Path is required")
	}
	if o.Key == (Key{}) {
		if _, err := os.Stat(o.Path); err == nil {
			return nil, fmt.Errorf("open %s: %w: its secrets are encrypted; give the key file it was made with", o.Path, ErrKeyMissing)
		}
		return nil, fmt.Errorf("open %s: %w: a store needs a key for its secrets", o.Path, ErrKeyMissing)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheEntries <= 0 {
		o.CacheEntries = defaultCacheEntries
	}
	sl, err := newSealer(o.Key)
	if err != nil {
		return nil, err
	}
	m := newMetrics()
	s := &Store{
		sealer:          sl,
		logger:          o.Logger,
		metrics:         m,
		tokens:          newCache[store.TokenHash, store.Token](o.CacheEntries, m, cacheToken),
		accounts:        newCache[string, store.Account](o.CacheEntries, m, cacheAccount),
		subscriptions:   newCache[store.SubscriptionID, *store.Subscription](o.CacheEntries, m, cacheSubscription),
		implementations: newCache[implementationKey, *store.Implementation](o.CacheEntries, m, cacheImplementation),
		full:            make(chan struct{}, 1),
		litter:          make(chan struct{}, 1),
		ended:           make(chan struct{}),
		gone:            make(chan struct{}),
	}
	if err := s.openFile(o); err != nil {
		return nil, err
	}
	s.committer = boltkit.NewCommitter(boltkit.CommitterOptions[*change]{
		DB: s.db, Apply: s.apply, Settled: s.settled,
		Cost: func(c *change) boltkit.Cost { return boltkit.Cost{Weight: max(1, c.weight), Bytes: c.bytes} },
	})
	if err := s.register(o.Registerer); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

// openFile opens the file and reads what is kept in memory, and leaves nothing open when it fails.
//
// bbolt trusts the pages it reads: where they are damaged it panics, or follows a length out of the mapped
// file, which is a fault. Both are turned into an error here, because the first thing an operator does
// with a damaged file is to start on it; boltkit.Open sees to those inside bbolt.Open.
func (s *Store) openFile(o Options) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open %s: %w (%v); restore it from a backup", o.Path, boltkit.ErrDamaged, p)
		}
		if err != nil && s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
	}()
	s.db, err = boltkit.Open(boltkit.Options{
		Path: o.Path, Name: schemaName, Version: SchemaVersion, Init: s.initialize, Migrate: migrate,
		InitialMmapSize: boltkit.AddressSpace, Logger: o.Logger, WriteAt: o.writeAt,
	})
	if err != nil {
		return err
	}
	if err := s.load(); err != nil {
		return fmt.Errorf("open %s: %w", o.Path, err)
	}
	return nil
}

// migrate brings a file of an older version up to this one. Version 2 knows more of a subscription; what an older file says of it is
// read as it is, and written anew with the next change. Version 3 has implementations and devices.
func migrate(tx *bolt.Tx, _ int) error {
	if err := createBuckets(tx, bucketsOfDevices); err != nil {
		return err
	}
	accounts := tx.Bucket(bucketAccount)
	if accounts == nil {
		return nil // Open says so
	}
	return accounts.ForEach(func(id, _ []byte) error {
		_, err := tx.Bucket(bucketImplementation).CreateBucket(id)
		return err
	})
}

func createBuckets(tx *bolt.Tx, names [][]byte) error {
	for _, name := range names {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

// initialize fills a new file.
func (s *Store) initialize(tx *bolt.Tx) error {
	if err := createBuckets(tx, buckets); err != nil {
		return err
	}
	if err := tx.Bucket(bucketKey).Put(keyCheck, s.sealer.seal(nil, checkPlace(), []byte(checkText))); err != nil {
		return err
	}
	w := writeTx{Tx: tx}
	w.createAccount(store.DefaultAccount, encodeAccount(&store.Account{
		ID: store.DefaultAccount, Name: "Default", CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
	}))
	return w.err
}

func checkPlace() place {
	return place{bucket: string(bucketKey), id: keyCheck, field: "text"}
}

// load tells whether the key is the right one, fills the matcher, and counts. It reads no device, of which there may be millions.
func (s *Store) load() error {
	return s.db.View(func(tx *bolt.Tx) error {
		if err := requireBuckets(tx); err != nil {
			return err
		}
		if err := s.checkKey(tx); err != nil {
			return err
		}
		if err := requireAccounts(tx); err != nil {
			return err
		}
		c := tx.Bucket(bucketSubscription).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			sub, err := decodeClear(k, v)
			if err != nil {
				return err
			}
			if sub.Role == store.RoleNone {
				s.matcher.Replace(nil, sub)
				s.count.Add(1)
			}
		}
		c = tx.Bucket(bucketImplementationNumber).Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			s.implementationCount.Add(1)
		}
		s.deviceCount.Store(int64(tx.Bucket(bucketDevice).Sequence()))
		return nil
	})
}

// requireBuckets returns boltkit.ErrDamaged when one is missing: what uses them takes them for granted.
func requireBuckets(tx *bolt.Tx) error {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %s is missing; restore it from a backup", boltkit.ErrDamaged, name)
		}
	}
	return nil
}

// requireAccounts does the same for the buckets of each account. Without one the account would be served as if it had nothing.
func requireAccounts(tx *bolt.Tx) error {
	return tx.Bucket(bucketAccount).ForEach(func(id, _ []byte) error {
		for _, name := range perAccount {
			if nested(tx, name, string(id)) == nil {
				return fmt.Errorf("%w: account %q has no bucket in %s; restore it from a backup", boltkit.ErrDamaged, id, name)
			}
		}
		return nil
	})
}

func (s *Store) checkKey(tx *bolt.Tx) error {
	b := tx.Bucket(bucketKey)
	if b.Get(keyCheck) == nil {
		return fmt.Errorf("%w: it has no key check; restore it from a backup", boltkit.ErrDamaged)
	}
	text, err := s.sealer.open(checkPlace(), b.Get(keyCheck))
	if err != nil || !bytes.Equal(text, []byte(checkText)) {
		return fmt.Errorf("%w: its secrets were encrypted with another key; give the key file it was made with "+
			"(a new key cannot read them)", ErrKey)
	}
	return nil
}

// Clean says whether the file was closed cleanly before it was opened now. After an unclean stop nothing is
// lost; a careful program calls Check before it serves.
func (s *Store) Clean() bool { return s.db.Clean() }

// Copy writes the file as it is at one moment to w, a local file, while the store works; see boltkit.DB.Copy.
func (s *Store) Copy(ctx context.Context, w io.Writer) (int64, error) { return s.db.Copy(ctx, w) }

// Run makes changes durable until the context ends; it then commits what was handed in before, and returns
// nil. Any other return is an error after which nothing can be made durable any more: the process
// has to end and be started again. Run may be called once.
func (s *Store) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.run != notStarted {
		s.mu.Unlock()
		return errors.New("run the store: it runs already or has run")
	}
	s.run = running
	ctx, s.stop = context.WithCancel(ctx)
	s.mu.Unlock()
	defer close(s.ended)
	defer s.stop()

	var wg sync.WaitGroup
	wg.Go(func() { s.probe(ctx) })
	wg.Go(func() { s.sweep(ctx) })
	err := s.committer.Run(ctx)
	s.stop() // the end of the prober and the sweeper, when the committer failed
	wg.Wait()

	s.mu.Lock()
	s.run = over
	s.mu.Unlock()
	if boltkit.IsFull(err) {
		// Those whose changes found no room were told so; there is nothing left to do.
		err = nil
	}
	return err
}

// probe tries, while the disk is full, whether it has room again. Without it a program that asks Healthy
// before it sends changes would wait for ever.
func (s *Store) probe(ctx context.Context) {
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.full:
		}
		for s.isFull() {
			timer.Reset(probeWait)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			s.committer.Submit(&change{done: make(chan struct{}), apply: func(w *writeTx) (func(), error) {
				w.put(w.Bucket(bucketKey), keyProbe, []byte(time.Now().UTC().Format(time.RFC3339)))
				return nil, nil
			}})
		}
	}
}

// Close ends Run, when it runs, and closes the file. It is repeatable.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.stop == nil && s.run == over {
		s.mu.Unlock()
		return nil // closed before, without a run
	}
	started, stop := s.run != notStarted, s.stop
	if !started {
		s.run = over
		close(s.gone)
	}
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	if started {
		stop()
		<-s.ended
	}
	for _, f := range undo {
		f()
	}
	s.shut.Store(true)
	return s.db.Close()
}

// Healthy returns nil while changes can be made durable, else the reason why not: store.ErrFull or
// store.ErrClosed, wrapped with it, or that the disk hangs.
func (s *Store) Healthy() error {
	if err := s.db.Hanging(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.health != nil:
		return s.health
	case s.run == running:
		return nil
	case s.run == over:
		return fmt.Errorf("the store has stopped: %w", store.ErrClosed)
	default:
		return fmt.Errorf("the store has not started yet: %w", store.ErrClosed)
	}
}

func (s *Store) isFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.health, store.ErrFull)
}

// view runs fn in a read transaction.
func (s *Store) view(fn func(*bolt.Tx) error) error {
	if s.shut.Load() {
		return store.ErrClosed
	}
	err := s.db.View(fn)
	if errors.Is(err, boltkit.ErrClosed) {
		return store.ErrClosed
	}
	return err
}

// Select implements store.Store.
func (s *Store) Select(accountID, eventType, resource string, data []byte, dst []store.SubscriptionID) (ids []store.SubscriptionID, byData bool) {
	return s.matcher.Select(accountID, eventType, resource, data, dst)
}
