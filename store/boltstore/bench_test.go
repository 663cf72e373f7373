package boltstore

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"herald/store"
)

// The paths every event takes: answered from memory, they allocate nothing but what they return.

func TestHitsAllocateNothing(t *testing.T) {
	s := start(t, Options{})
	sub := newSubscription(t)
	sub.Filter = nil // what a filter costs is the matcher's to test
	must(t, s.CreateSubscription(ctx, sub, 0))
	token := store.Token{ID: "t", AccountID: store.DefaultAccount, Hash: store.TokenHash{1}, Scopes: []store.Scope{store.ScopePublish}}
	must(t, s.CreateToken(ctx, token))
	dst := make([]store.SubscriptionID, 0, 8)
	for name, x := range map[string]struct {
		call func() error
		most float64
	}{
		"Subscription": {func() error { _, err := s.Subscription(ctx, sub.ID); return err }, 0},
		"TokenByHash":  {func() error { _, _, err := s.TokenByHash(ctx, token.Hash); return err }, 1}, // the scopes
		"Account":      {func() error { _, err := s.Account(ctx, store.DefaultAccount); return err }, 0},
		"Select":       {func() error { dst, _ = s.Select(store.DefaultAccount, "task.create", "", wanted, dst[:0]); return nil }, 0},
	} {
		must(t, x.call()) // fills the caches
		if got := testing.AllocsPerRun(100, func() { _ = x.call() }); got > x.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, x.most)
		}
	}
}

func BenchmarkTokenByHash(b *testing.B) {
	s := start(b, Options{})
	token := store.Token{ID: "t", AccountID: store.DefaultAccount, Hash: store.TokenHash{1}, Scopes: []store.Scope{store.ScopePublish}}
	must(b, s.CreateToken(ctx, token))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.TokenByHash(ctx, token.Hash); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSubscription(b *testing.B) {
	for _, x := range []struct {
		name  string
		cache int
	}{{"InMemory", 0}, {"FromFile", 1}} {
		b.Run(x.name, func(b *testing.B) {
			s := start(b, Options{CacheEntries: x.cache})
			var ids []store.SubscriptionID
			for range 16 {
				sub := newSubscription(b)
				ids = append(ids, sub.ID)
				must(b, s.CreateSubscription(ctx, sub, 0))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := s.Subscription(ctx, ids[i%len(ids)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkSubscriptionParallel(b *testing.B) {
	s := start(b, Options{})
	sub := newSubscription(b)
	must(b, s.CreateSubscription(ctx, sub, 0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Subscription(ctx, sub.ID); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkUpdateSubscription(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := start(b, Options{})
			sub := newSubscription(b)
			must(b, s.CreateSubscription(ctx, sub, 0))
			b.ReportAllocs()
			b.SetParallelism(max(1, callers/2))
			if callers == 1 {
				for b.Loop() {
					if _, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.NumberOfRecords++; return nil }); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.UpdateSubscription(ctx, sub.ID, func(x *store.Subscription) error { x.NumberOfRecords++; return nil }); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// fill makes a store of n subscriptions in one account and returns its path.
func fill(b *testing.B, n int) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "store.db")
	s := start(b, Options{Path: path})
	must(b, s.CreateAccount(ctx, store.Account{ID: "acme"}))
	var next atomic.Int64
	done := make(chan error, 256)
	for range cap(done) {
		go func() {
			for next.Add(1) <= int64(n) {
				sub := newSubscription(b)
				sub.AccountID, sub.Resource = "acme", "project/"+sub.ID.String()
				if err := s.CreateSubscription(ctx, sub, 0); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		must(b, <-done)
	}
	s.end()
	return path
}

func BenchmarkOpen100k(b *testing.B) {
	path := fill(b, 100_000)
	for b.Loop() {
		s, err := Open(Options{Path: path, Key: testKey})
		must(b, err)
		must(b, s.Close())
	}
}

func BenchmarkDeleteAccount100k(b *testing.B) {
	path := fill(b, 100_000)
	s := start(b, Options{Path: path})
	rs := make([]store.Resource, 100_000)
	for i := range rs {
		rs[i] = store.Resource{ResourceKey: store.ResourceKey{Type: "project", ID: fmt.Sprint(i)}, Name: "A resource"}
	}
	must(b, s.PutResources(ctx, "acme", rs))
	began := time.Now()
	ids, err := s.DeleteAccount(ctx, "acme")
	must(b, err)
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/account")
	if len(ids) != 100_000 {
		b.Fatalf("%d went", len(ids))
	}
}
