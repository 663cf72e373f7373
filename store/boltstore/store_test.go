package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	bolt "go.etcd.io/bbolt"

	"herald/store"
	"herald/store/boltkit"
)

var (
	ctx     = context.Background()
	testKey = Key{bytes: [32]byte{1, 2, 3}}
)

// live is a store whose Run runs. Its end is checked when the test ends, unless the test has ended it.
type live struct {
	*Store
	t     testing.TB
	stop  context.CancelFunc
	ended chan error
	over  bool
}

func start(t testing.TB, o Options) *live {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "store.db")
	}
	if o.Key == (Key{}) {
		o.Key = testKey
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	r := &live{Store: s, t: t, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- s.Run(runCtx) }()
	t.Cleanup(r.end)
	return r
}

func (r *live) end() {
	if r.over {
		return
	}
	r.over = true
	if err := r.Check(ctx); err != nil {
		r.t.Errorf("check at the end: %v", err)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		r.t.Errorf("run: %v", err)
	}
	if err := r.Close(); err != nil {
		r.t.Errorf("close: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wanted is the data of an event that passes the filter of fullSubscription.
var wanted = []byte(`{"customer":{"country":"NL"},"total":100.5}`)

// newSubscription returns an active one of the default account.
func newSubscription(t testing.TB) *store.Subscription {
	t.Helper()
	s := fullSubscription()
	id, err := store.NewSubscriptionID()
	must(t, err)
	s.ID, s.AccountID, s.State, s.Resource = id, store.DefaultAccount, store.StateActive, ""
	return s
}

// No secret can be read in the file, nor in what the daemon logs, whatever happened to its record.
func TestSecretsAreNotInTheFile(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	var secrets [][]byte
	for i := range 20 {
		sub := newSubscription(t)
		secret := func(what string) string {
			text := fmt.Sprintf("hidden-%s-%d-", what, i)
			secrets = append(secrets, []byte(text))
			return text
		}
		set := func(x *store.Subscription, age string) {
			x.DataCallbackURL = "https://receiver.example/" + secret("url"+age)
			x.Authentication.Token = secret("token" + age)
			x.Authentication.Password = secret("password" + age)
			x.Authentication.Value = secret("value" + age)
			x.SigningSecrets = []store.SigningSecret{{Key: []byte(secret("signing" + age))}, {Key: []byte(secret("signed" + age)), ExpiresAt: at}}
		}
		set(sub, "old")
		sub.Authentication.Username = "visible-username"
		must(t, s.CreateSubscription(ctx, sub, 0))
		_, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { set(x, "new"); return nil })
		must(t, err)
		if i%3 == 0 {
			must(t, s.DeleteSubscription(ctx, "", sub.ID))
		}
	}
	s.end()
	secrets = append(secrets, testKey.bytes[:])
	file, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Contains(file, []byte("visible-username")) {
		t.Fatal("not even what is no secret is found in the file: the test looks at nothing")
	}
	for _, x := range secrets {
		if bytes.Contains(file, x) {
			t.Errorf("%q is in the file", x)
		}
		if bytes.Contains(log.Bytes(), x) {
			t.Errorf("%q is in the log", x)
		}
	}
	if bytes.Contains(file, []byte("receiver.example")) || bytes.Contains(file, []byte(checkText)) {
		t.Error("a callback URL or the key check is in the file")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	if _, err := Open(Options{Path: path}); !errors.Is(err, ErrKeyMissing) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refused Open left a file")
	}
	if _, err := Open(Options{Key: testKey}); err == nil {
		t.Error("opened without a path")
	}
	s := start(t, Options{Path: path})
	must(t, s.CreateSubscription(ctx, newSubscription(t), 0))
	if _, err := Open(Options{Path: path, Key: testKey}); !errors.Is(err, boltkit.ErrLocked) {
		t.Errorf("while another has it open: %v", err)
	}
	s.end()
	before, err := os.ReadFile(path)
	must(t, err)
	for name, x := range map[string]struct {
		key  Key
		want error
		text string
	}{
		"no key":      {Key{}, ErrKeyMissing, "key file"},
		"another key": {Key{bytes: [32]byte{9}}, ErrKey, "another key"},
	} {
		_, err := Open(Options{Path: path, Key: x.key})
		if !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.text) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("a refused Open changed the file")
	}
	start(t, Options{Path: path}).end()
}

// A value of a newer Herald is refused when the file is opened, before anything could write it back.
func TestOpenRefusesNewerValues(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path})
	sub := newSubscription(t)
	must(t, s.CreateSubscription(ctx, sub, 0))
	s.end()
	tamper(t, path, func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketSubscription)
		v := bytes.Clone(b.Get(sub.ID[:]))
		v[0]++
		return b.Put(sub.ID[:], v)
	})
	if _, err := Open(Options{Path: path, Key: testKey}); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
}

// tamper writes to a closed store as no engine would.
func tamper(t *testing.T, path string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := boltkit.Open(boltkit.Options{Path: path, Name: schemaName, Version: SchemaVersion, Init: func(*bolt.Tx) error { return nil }, Migrate: migrate})
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
}

// Each kind of disorder is found and named; nothing else is.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	one, two := fullSubscription(), fullSubscription()
	one.ID, two.ID = store.SubscriptionID{1}, store.SubscriptionID{2}
	token := store.Token{ID: "t", AccountID: "acme", Hash: store.TokenHash{1}}
	sub := func(b *bolt.Bucket, child string) *bolt.Bucket { return b.Bucket([]byte(child)) }
	for name, x := range map[string]struct {
		tamper func(tx *bolt.Tx) error
		want   string
	}{
		"nothing":                {func(*bolt.Tx) error { return nil }, ""},
		"token hash gone":        {func(tx *bolt.Tx) error { return tx.Bucket(bucketTokenHash).Delete(token.Hash[:]) }, "not found by its hash"},
		"token hash of nothing":  {func(tx *bolt.Tx) error { return tx.Bucket(bucketTokenHash).Put(make([]byte, 32), []byte("x")) }, `names token "x", which does not exist`},
		"second token hash":      {func(tx *bolt.Tx) error { return tx.Bucket(bucketTokenHash).Put(make([]byte, 32), []byte("t")) }, "has another hash"},
		"token not in index":     {func(tx *bolt.Tx) error { return sub(tx.Bucket(bucketTokenAccount), "acme").Delete([]byte("t")) }, "not in the index"},
		"index of no token":      {func(tx *bolt.Tx) error { return sub(tx.Bucket(bucketTokenAccount), "acme").Put([]byte("x"), nil) }, `names token "x", which does not exist`},
		"index of other's token": {func(tx *bolt.Tx) error { return sub(tx.Bucket(bucketTokenAccount), "default").Put([]byte("t"), nil) }, `belongs to "acme"`},
		"token gone":             {func(tx *bolt.Tx) error { return tx.Bucket(bucketToken).Delete([]byte("t")) }, `names token "t", which does not exist`},
		"token damaged":          {func(tx *bolt.Tx) error { return tx.Bucket(bucketToken).Put([]byte("t"), []byte{1, 2}) }, "damaged"},
		"account gone":           {func(tx *bolt.Tx) error { return tx.Bucket(bucketAccount).Delete([]byte("acme")) }, "which does not exist"},
		"account damaged":        {func(tx *bolt.Tx) error { return tx.Bucket(bucketAccount).Put([]byte("acme"), []byte{1}) }, "damaged"},
		"account newer":          {func(tx *bolt.Tx) error { return tx.Bucket(bucketAccount).Put([]byte("acme"), []byte{2}) }, "newer version"},
		"account also retired":   {func(tx *bolt.Tx) error { return tx.Bucket(bucketAccountGone).Put([]byte("acme"), encodeGone(at)) }, "its id is retired"},
		"retired damaged":        {func(tx *bolt.Tx) error { return tx.Bucket(bucketAccountGone).Put([]byte("x"), []byte{1}) }, "damaged"},
		"retired newer":          {func(tx *bolt.Tx) error { return tx.Bucket(bucketAccountGone).Put([]byte("x"), []byte{2}) }, "newer version"},
		"no retired bucket":      {func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketAccountGone) }, "account_gone is missing"},
		"no resource bucket":     {func(tx *bolt.Tx) error { return tx.Bucket(bucketResource).DeleteBucket([]byte("acme")) }, "no bucket in resource"},
		"value for a bucket":     {func(tx *bolt.Tx) error { return tx.Bucket(bucketResource).Put([]byte("x"), []byte("y")) }, "not a bucket"},
		"bucket of no account":   {func(tx *bolt.Tx) error { _, err := tx.Bucket(bucketResource).CreateBucket([]byte("x")); return err }, `account "x", which does not exist`},
		"resource damaged":       {func(tx *bolt.Tx) error { return sub(tx.Bucket(bucketResource), "acme").Put([]byte("a\x00b"), nil) }, "damaged"},
		"resource of no type": {func(tx *bolt.Tx) error {
			return sub(tx.Bucket(bucketResource), "acme").Put([]byte("\x00b"), []byte{1, 0})
		}, "must have 1"},
		"subscription gone": {func(tx *bolt.Tx) error { return tx.Bucket(bucketSubscription).Delete(one.ID[:]) }, "which does not exist"},
		"not in its index":  {func(tx *bolt.Tx) error { return sub(tx.Bucket(bucketSubscriptionAccount), "acme").Delete(one.ID[:]) }, "not in the index"},
		"in another's index": {func(tx *bolt.Tx) error {
			return sub(tx.Bucket(bucketSubscriptionAccount), "default").Put(one.ID[:], nil)
		}, `belongs to "acme"`},
		"wrong count": {func(tx *bolt.Tx) error { return sub(tx.Bucket(bucketSubscriptionAccount), "acme").SetSequence(9) }, "counts 9"},
		"swapped secrets": {func(tx *bolt.Tx) error {
			// The same clear part, so that only the id differs.
			return tx.Bucket(bucketSubscription).Put(one.ID[:], bytes.Clone(tx.Bucket(bucketSubscription).Get(two.ID[:])))
		}, "does not decrypt"},
		"key check gone": {func(tx *bolt.Tx) error { return tx.Bucket(bucketKey).Put(keyCheck, []byte("x")) }, "another key"},
		"bucket gone":    {func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketKey) }, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(Options{Path: filepath.Join(t.TempDir(), "store.db"), Key: testKey})
			must(t, err)
			defer s.Close() //nolint:errcheck // judged below
			runCtx, stop := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() { ended <- s.Run(runCtx) }()
			must(t, s.CreateAccount(ctx, store.Account{ID: "acme"}))
			must(t, s.CreateToken(ctx, token))
			must(t, s.PutResources(ctx, "acme", []store.Resource{{ResourceKey: store.ResourceKey{Type: "a", ID: "c"}}}))
			must(t, s.CreateSubscription(ctx, one, 0))
			must(t, s.CreateSubscription(ctx, two, 0))
			stop()
			must(t, <-ended)
			must(t, s.Check(ctx))
			must(t, s.db.Update(x.tamper))
			err = s.Check(ctx)
			if x.want == "" {
				must(t, err)
			} else if err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("got %v, want %q in it", err, x.want)
			}
		})
	}
}

// What is in memory is compared too.
func TestCheckFindsInMemory(t *testing.T) {
	t.Parallel()
	sub := fullSubscription()
	sub.State = store.StateActive // a disabled one that discards is not chosen
	token := store.Token{ID: "t", AccountID: "acme", Hash: store.TokenHash{1}}
	for name, x := range map[string]struct {
		spoil func(s *Store)
		want  string
	}{
		"selection gone":  {func(s *Store) { s.matcher.Replace(sub, nil) }, "selection in memory"},
		"selection added": {func(s *Store) { s.matcher.Replace(nil, &store.Subscription{State: store.StateActive}) }, "selection in memory"},
		"count":           {func(s *Store) { s.count.Add(1) }, "memory counts 2"},
		"old token":       {func(s *Store) { x := token; x.Name = "old"; s.tokens.set(token.Hash, x) }, `token "t" in memory`},
		"deleted token":   {func(s *Store) { s.tokens.set(store.TokenHash{2}, token) }, `token "t" in memory`},
		"old account":     {func(s *Store) { s.accounts.set("acme", store.Account{ID: "acme", Name: "old"}) }, `account "acme" in memory`},
		"deleted account": {func(s *Store) { s.accounts.set("x", store.Account{ID: "x"}) }, `account "x" in memory`},
		"old secret": {func(s *Store) {
			x := fullSubscription()
			x.SigningSecrets[0].Key[0]++
			s.subscriptions.set(x.ID, x)
		}, "in memory does not agree"},
		"deleted subscription": {func(s *Store) { s.subscriptions.set(store.SubscriptionID{9}, sub) }, "in memory does not agree"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{})
			must(t, s.CreateAccount(ctx, store.Account{ID: "acme"}))
			must(t, s.CreateToken(ctx, token))
			must(t, s.CreateSubscription(ctx, sub, 0))
			must(t, s.Check(ctx))
			x.spoil(s.Store)
			if err := s.Check(ctx); err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("got %v, want %q in it", err, x.want)
			}
			s.over = true
			must(t, s.Close())
		})
	}
}

func TestCheckObeysItsContext(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Check(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := prometheus.NewPedanticRegistry()
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path, Registerer: r})
	sub := newSubscription(t)
	must(t, s.CreateSubscription(ctx, sub, 0))
	for range 3 {
		_, err := s.Subscription(ctx, sub.ID)
		must(t, err)
	}
	_, _, err := s.TokenByHash(ctx, store.TokenHash{})
	if !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	must(t, testutil.GatherAndCompare(r, strings.NewReader(`
# HELP herald_store_changes_total Changes that became durable.
# TYPE herald_store_changes_total counter
herald_store_changes_total 1
# HELP herald_store_commits_total Commits of the store that became durable.
# TYPE herald_store_commits_total counter
herald_store_commits_total 1
# HELP herald_store_commit_failures_total Commits of the store that failed, by reason.
# TYPE herald_store_commit_failures_total counter
herald_store_commit_failures_total{reason="fatal"} 0
herald_store_commit_failures_total{reason="full"} 0
# HELP herald_store_cache_hits_total Records asked for and found in memory, by cache.
# TYPE herald_store_cache_hits_total counter
herald_store_cache_hits_total{cache="account"} 0
herald_store_cache_hits_total{cache="implementation"} 0
herald_store_cache_hits_total{cache="subscription"} 3
herald_store_cache_hits_total{cache="token"} 0
# HELP herald_store_cache_misses_total Records asked for and read from the file, by cache.
# TYPE herald_store_cache_misses_total counter
herald_store_cache_misses_total{cache="account"} 0
herald_store_cache_misses_total{cache="implementation"} 0
herald_store_cache_misses_total{cache="subscription"} 0
herald_store_cache_misses_total{cache="token"} 1
# HELP herald_store_cache_entries Records in memory, by cache.
# TYPE herald_store_cache_entries gauge
herald_store_cache_entries{cache="account"} 0
herald_store_cache_entries{cache="implementation"} 0
herald_store_cache_entries{cache="subscription"} 1
herald_store_cache_entries{cache="token"} 0
# HELP herald_store_subscriptions Subscriptions in the store.
# TYPE herald_store_subscriptions gauge
herald_store_subscriptions 1
# HELP herald_store_full Whether changes fail because the disk is full.
# TYPE herald_store_full gauge
herald_store_full 0
`), "herald_store_changes_total", "herald_store_commits_total", "herald_store_commit_failures_total",
		"herald_store_cache_hits_total", "herald_store_cache_misses_total", "herald_store_cache_entries",
		"herald_store_subscriptions", "herald_store_full"))
	families, err := r.Gather()
	must(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, f := range families {
		if f.GetName() == "herald_store_file_bytes" && f.GetMetric()[0].GetGauge().GetValue() < 4096 {
			t.Error("the file has no size")
		}
	}
	s.end()
	if families, err := r.Gather(); err != nil || len(families) != 0 {
		t.Errorf("after Close %d metrics are left, %v", len(families), err)
	}
	// A name that is taken fails Open and leaves the registry as it was.
	r = prometheus.NewPedanticRegistry()
	must(t, r.Register(prometheus.NewGauge(prometheus.GaugeOpts{Name: "herald_store_full", Help: "Mine."})))
	if _, err := Open(Options{Path: path, Key: testKey, Registerer: r}); err == nil {
		t.Error("opened with a metric that is taken")
	}
	if families, err := r.Gather(); err != nil || len(families) != 1 {
		t.Errorf("after a refused Open %d metrics are left, %v", len(families), err)
	}
}

func TestRunOnceAndCloseWithoutRun(t *testing.T) {
	t.Parallel()
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "store.db"), Key: testKey})
	must(t, err)
	if s.Healthy() == nil {
		t.Error("healthy before Run")
	}
	if _, err := s.Account(ctx, store.DefaultAccount); err != nil {
		t.Errorf("reading before Run: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- s.CreateAccount(ctx, store.Account{ID: "acme"}) }()
	must(t, s.Close())
	if err := <-waiting; !errors.Is(err, store.ErrClosed) {
		t.Errorf("a change that waited for a Run that never came: %v", err)
	}
	must(t, s.Close())
	if s.Run(ctx) == nil {
		t.Error("ran after Close")
	}
	r := start(t, Options{})
	must(t, r.CreateAccount(ctx, store.Account{ID: "acme"}))
	if r.Run(ctx) == nil {
		t.Error("ran twice")
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	s := start(t, Options{CacheEntries: 10})
	for range 50 {
		must(t, s.CreateSubscription(ctx, newSubscription(t), 0))
	}
	list, err := s.Subscriptions(ctx, "", store.SubscriptionID{}, 0)
	must(t, err)
	for _, sub := range list {
		_, err := s.Subscription(ctx, sub.ID)
		must(t, err)
	}
	if n := s.subscriptions.size(); n != 10 {
		t.Errorf("%d entries, want 10", n)
	}
}

// What a reader found before a write is not taken after it.
func TestCacheTakesNothingOld(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	c := newCache[int, string](10, m, cacheToken)
	_, writes, ok := c.get(1)
	if ok {
		t.Fatal("found in an empty cache")
	}
	c.set(1, "new")
	c.fill(1, "old", writes)
	if v, _, _ := c.get(1); v != "new" {
		t.Errorf("got %q after an old value was filled in", v)
	}
	_, writes, _ = c.get(2)
	c.drop(2)
	c.fill(2, "deleted", writes)
	if v, _, ok := c.get(2); ok {
		t.Errorf("got %q, which was deleted", v)
	}
	_, writes, _ = c.get(2)
	c.fill(2, "two", writes)
	if v, _, _ := c.get(2); v != "two" {
		t.Errorf("got %q, want what was filled in", v)
	}
}

// A long list is read in several short transactions, so that it holds up no writer.
func TestListsAreReadInPages(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	rs := make([]store.Resource, 2*pageRecords+1)
	for i := range rs {
		rs[i] = store.Resource{ResourceKey: store.ResourceKey{Type: "project", ID: fmt.Sprintf("%05d", i)}}
	}
	must(t, s.PutResources(ctx, store.DefaultAccount, rs))
	seen := make(map[*bolt.Tx]int)
	must(t, s.scan(ctx, of(bucketResource, store.DefaultAccount), nil, nil, 0, func(tx *bolt.Tx, _, _ []byte) error {
		seen[tx]++
		return nil
	}))
	if len(seen) != 3 {
		t.Errorf("read in %d transactions, want 3", len(seen))
	}
	// One that ends with its context does so between pages.
	ended, cancel := context.WithCancel(ctx)
	n := 0
	err := s.scan(ended, of(bucketResource, store.DefaultAccount), nil, nil, 0, func(*bolt.Tx, []byte, []byte) error {
		n++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != pageRecords {
		t.Errorf("after %d records: %v", n, err)
	}
}
