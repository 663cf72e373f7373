package boltstore

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
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
	newApp(t, s.Store, "app")
	dst := make([]store.SubscriptionID, 0, 8)
	for name, x := range map[string]struct {
		call func() error
		most float64
	}{
		"Subscription":   {func() error { _, err := s.Subscription(ctx, sub.ID); return err }, 0},
		"TokenByHash":    {func() error { _, _, err := s.TokenByHash(ctx, token.Hash); return err }, 1}, // the scopes
		"Implementation": {func() error { _, err := s.Implementation(ctx, store.DefaultAccount, "app"); return err }, 0},
		"Account":        {func() error { _, err := s.Account(ctx, store.DefaultAccount); return err }, 0},
		"Select":         {func() error { dst, _ = s.Select(store.DefaultAccount, "task.create", "", wanted, dst[:0]); return nil }, 0},
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

// benchDevices is how many devices BenchmarkDevices finds registered: HERALD_BENCH_DEVICES, or few, so that it is over soon.
func benchDevices(b *testing.B) int {
	b.Helper()
	n := 10_000
	if text := os.Getenv("HERALD_BENCH_DEVICES"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		must(b, err)
	}
	return n
}

// benchDevice has a token of the length of FCM's. Two devices in a row have the same contact.
func benchDevice(n int64) store.Device {
	return store.Device{
		AccountID: store.DefaultAccount, ImplementationID: "app", Contact: fmt.Sprintf("person-%d@example.org", n/2), Locale: "nl-BE", AppVersion: "1.2.3",
		DeviceToken: store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenPlain, Token: fmt.Sprintf("%0152d", n)},
	}
}

// register has 64 callers register the devices from one number to before another.
func register(b *testing.B, s *live, from, to int64) {
	b.Helper()
	var next atomic.Int64
	next.Store(from)
	done := make(chan error, 64)
	for range cap(done) {
		go func() {
			for n := next.Add(1) - 1; n < to; n = next.Add(1) - 1 {
				if _, err := s.PutDevice(ctx, benchDevice(n), ""); err != nil {
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
}

// memory returns what the process holds, on Linux: RssAnon is its own, RssFile pages of files that the system may take back.
func memory() string {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/status") // empty elsewhere
	rss := regexp.MustCompile(`Rss(Anon|File):\s+\d+ kB`).FindAllString(string(status), -1)
	return fmt.Sprintf("heap %d KiB, from the system %d MiB, %s", m.HeapAlloc>>10, m.Sys>>20, strings.Join(rss, ", "))
}

// BenchmarkDevices measures what is done with devices among as many as benchDevices says.
func BenchmarkDevices(b *testing.B) {
	n := benchDevices(b)
	s := start(b, Options{})
	for _, app := range []string{"app", "other"} {
		_, err := s.CreateImplementation(ctx, &store.Implementation{AccountID: store.DefaultAccount, ID: app}, 0)
		must(b, err)
	}
	for _, part := range []int{n / 10, n} { // the memory of ten times as many is the same
		began, before := time.Now(), s.CountDevices()
		register(b, s, before, int64(part))
		rate := float64(int64(part)-before) / time.Since(began).Seconds()
		b.Logf("%d devices: %.0f registered/s, file %d MiB, %s", part, rate, s.db.Stats().FileBytes>>20, memory())
	}
	next := int64(n)
	b.Run("PutDevice/New", func(b *testing.B) {
		register(b, s, next, next+int64(b.N))
		next += int64(b.N)
	})
	b.Run("PutDevice/Known", func(b *testing.B) {
		var i atomic.Int64
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.PutDevice(ctx, benchDevice(i.Add(1)*7919%int64(n)), ""); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("Devices", func(b *testing.B) {
		i := 0
		for b.Loop() {
			d := benchDevice(int64(i * 7919 % n))
			if list, err := s.Devices(ctx, d.AccountID, d.Contact, "", store.DeviceID{}, 0); err != nil || len(list) != 2 {
				b.Fatalf("%d devices of a contact, %v", len(list), err)
			}
			i++
		}
	})
	began := time.Now()
	must(b, s.Check(ctx))
	b.Logf("check: %v", time.Since(began))
	began = time.Now()
	_, err := s.DeleteImplementation(ctx, store.DefaultAccount, "app")
	must(b, err)
	deleted := time.Since(began)
	longest, puts := time.Duration(0), int64(0)
	for s.CountDevices() > puts {
		d := benchDevice(next + puts)
		d.ImplementationID = "other"
		at := time.Now()
		_, err := s.PutDevice(ctx, d, "")
		must(b, err)
		longest = max(longest, time.Since(at))
		puts++
	}
	b.Logf("deleted in %v, swept in %v, a registration meanwhile took up to %v; %s", deleted, time.Since(began), longest, memory())
}
