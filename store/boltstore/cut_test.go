package boltstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/store"
)

// The power-cut test. Every page write of a random workload is recorded. An image is what a disk may hold after
// the power went away at some write: everything up to the last sync, and of what was written since
// any part, each write whole, torn at a sector, or not at all. Each image must open, be in order, and
// show what had been acknowledged.
//
// bbolt syncs twice in a commit: the data pages before the meta page is written, and the meta page before
// the commit returns. So a sync lies before and after each write of a meta page (the first two pages).

const (
	cutPage   = 4096
	cutSector = 512
	// cutContacts is how many contacts have devices.
	cutContacts = 4
)

// tape records the writes, and what the store must show after each acknowledged change.
type tape struct {
	mu     sync.Mutex
	base   []byte // the file before the first recorded write, up to the last byte that is not zero
	size   int64  // of the file in the end: what is beyond the image is a hole
	writes []write
	states []state
}

type write struct {
	off  int64
	data []byte
}

func (w write) meta() bool { return w.off < 2*cutPage }

// state is what the store shows after a change that was acknowledged when so many writes were done.
type state struct {
	writes int
	text   string
}

func (p *tape) writeAt(b []byte, off int64, do func([]byte, int64) (int, error)) (int, error) {
	p.mu.Lock()
	p.writes = append(p.writes, write{off, bytes.Clone(b)})
	p.mu.Unlock()
	return do(b, off)
}

// show returns all that a store holds as one text.
func show(s *Store) (string, error) {
	var b bytes.Buffer
	accounts, err := s.Accounts(ctx, "", 0)
	fmt.Fprintln(&b, accounts)
	tokens, terr := s.Tokens(ctx, "", "", 0)
	fmt.Fprintln(&b, tokens)
	subs, serr := s.Subscriptions(ctx, "", store.SubscriptionID{}, 0)
	for _, sub := range subs {
		plain := *sub
		if sub.Filter != nil { // which would print as its address, as would the next
			fmt.Fprintln(&b, sub.Filter.Text())
			plain.Filter = nil
		}
		template, jerr := json.Marshal(sub.Notification)
		fmt.Fprintf(&b, "%s\n", template)
		plain.Notification = nil
		serr = errors.Join(serr, jerr)
		fmt.Fprintln(&b, plain)
	}
	err = errors.Join(err, terr, serr)
	for _, a := range accounts {
		rs, rerr := s.Resources(ctx, a.ID, "", store.ResourceKey{}, 0)
		ids, _ := s.Select(a.ID, "task.create", "project/1", wanted, nil)
		fmt.Fprintln(&b, rs, len(ids))
		err = errors.Join(err, rerr)
		is, ierr := s.Implementations(ctx, a.ID, "", 0)
		text, jerr := json.Marshal(is)
		fmt.Fprintf(&b, "%s\n", text)
		err = errors.Join(err, ierr, jerr)
		for n := range cutContacts {
			ds, derr := s.Devices(ctx, a.ID, fmt.Sprint("contact", n), "", store.DeviceID{}, 0)
			fmt.Fprintln(&b, ds)
			err = errors.Join(err, derr)
		}
	}
	// No listing shows the retired ids, and an account must not go without leaving one.
	verr := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketAccountGone).ForEach(func(k, v []byte) error {
			fmt.Fprintf(&b, "retired %s %x\n", k, v)
			return nil
		})
	})
	return b.String(), errors.Join(err, verr)
}

// record runs the workload, one change after the other, so that after each the state is known.
func record(t *testing.T, changes int) *tape {
	t.Helper()
	p := &tape{}
	path := filepath.Join(t.TempDir(), "store.db")
	s := start(t, Options{Path: path, writeAt: p.writeAt})
	must(t, s.CreateAccount(ctx, store.Account{ID: "first"}))
	var err error
	p.base, err = os.ReadFile(path)
	must(t, err)
	p.base = bytes.TrimRight(p.base, "\x00")
	p.writes = nil // what came before is in base
	note := func() {
		text, err := show(s.Store)
		must(t, err)
		p.mu.Lock() // the sweeper writes meanwhile, what nobody sees
		p.states = append(p.states, state{len(p.writes), text})
		p.mu.Unlock()
	}
	note()
	r := rand.New(rand.NewPCG(1, 2))
	accounts := []string{"default", "first"}
	var subs []store.SubscriptionID
	for i := range changes {
		account := accounts[r.IntN(len(accounts))]
		switch k := r.IntN(15); {
		case k < 3 || len(subs) == 0:
			sub := newSubscription(t)
			sub.AccountID = account
			subs = append(subs, sub.ID)
			must(t, s.CreateSubscription(ctx, sub, 0))
		case k < 5:
			_, err := s.UpdateSubscription(ctx, subs[r.IntN(len(subs))], func(x *store.Subscription) error {
				x.StateReason = fmt.Sprint(i)
				x.Events = append(x.Events, fmt.Sprintf("event%d", i))
				return nil
			})
			if !errors.Is(err, store.ErrNotFound) {
				must(t, err)
			}
		case k < 6:
			n := r.IntN(len(subs))
			if err := s.DeleteSubscription(ctx, "", subs[n]); !errors.Is(err, store.ErrNotFound) {
				must(t, err)
			}
		case k < 7:
			must(t, s.CreateToken(ctx, store.Token{ID: fmt.Sprint("t", i), AccountID: account, Hash: store.TokenHash{byte(i), byte(i >> 8), 1}}))
		case k < 9:
			var rs []store.Resource
			for n := range r.IntN(60) {
				rs = append(rs, store.Resource{ResourceKey: store.ResourceKey{Type: "project", ID: fmt.Sprintf("%d-%d", i, n)}, Name: "A resource"})
			}
			must(t, s.PutResources(ctx, account, rs))
		case k < 10:
			_, err := s.CreateImplementation(ctx, &store.Implementation{AccountID: account, ID: "app", StatusOrigins: []string{"https://a.example"}}, 0)
			if errors.Is(err, store.ErrExists) {
				_, err = s.DeleteImplementation(ctx, account, "app")
			}
			must(t, err)
		case k < 13:
			// Among few contacts and tokens, so that devices move, and tokens are replaced.
			contact, token := fmt.Sprint("contact", r.IntN(cutContacts)), fmt.Sprint("token", r.IntN(12))
			_, err := s.PutDevice(ctx, store.Device{
				AccountID: account, ImplementationID: "app", Contact: contact, DeviceToken: store.DeviceToken{Platform: store.PlatformIOS, Token: token},
			}, fmt.Sprint("token", r.IntN(12)))
			if !errors.Is(err, store.ErrNotFound) {
				must(t, err)
			}
		case k < 14:
			_, err := s.DeleteContact(ctx, account, fmt.Sprint("contact", r.IntN(cutContacts)))
			must(t, err)
		case len(accounts) > 3:
			_, err := s.DeleteAccount(ctx, accounts[2])
			must(t, err)
			accounts = append(accounts[:2], accounts[3:]...)
		default:
			id := fmt.Sprint("a", i)
			accounts = append(accounts, id)
			must(t, s.CreateAccount(ctx, store.Account{ID: id}))
		}
		note()
	}
	s.end()
	info, err := os.Stat(path)
	must(t, err)
	p.size = info.Size()
	return p
}

// image returns what the disk may hold when the power goes away after n writes, and how many of the first
// states must be behind us. Without barrier the first sync of each commit is taken to do nothing.
func (p *tape) image(r *rand.Rand, n int, barrier bool) (img []byte, least int) {
	synced := 0 // a sync is known to have happened when a later write was issued
	for i := 1; i < n; i++ {
		if p.writes[i-1].meta() || barrier && p.writes[i].meta() {
			synced = i
		}
	}
	for least+1 < len(p.states) && p.states[least+1].writes <= synced {
		least++
	}
	img = bytes.Clone(p.base)
	apply := func(off int64, b []byte) {
		if end := int(off) + len(b); end > len(img) {
			img = append(img, make([]byte, end-len(img))...)
		}
		copy(img[off:], b)
	}
	for i, w := range p.writes[:n] {
		switch {
		case i < synced || r.IntN(3) == 0:
			apply(w.off, w.data)
		case r.IntN(2) == 0:
			for at := 0; at < len(w.data); at += cutSector {
				if r.IntN(2) == 0 {
					apply(w.off+int64(at), w.data[at:min(at+cutSector, len(w.data))])
				}
			}
		}
	}
	return img, least
}

// judge opens an image, verifies its order, and says what is wrong with it.
func (p *tape) judge(path string, img []byte, least int) (err error) {
	if err := os.WriteFile(path, img, 0o600); err != nil {
		return err
	}
	// bbolt makes the file longer, and syncs that, before it writes there.
	if err := os.Truncate(path, p.size); err != nil {
		return err
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	s, err := Open(Options{Path: path, Key: testKey})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	text, err := show(s)
	if err != nil {
		return err
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	// The change under way when the power went may be there or not.
	for _, x := range p.states[least:min(least+2, len(p.states))] {
		if x.text == text {
			return nil
		}
	}
	return fmt.Errorf("the store shows something else than after change %d or the next", least)
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	images := 1500
	if testing.Short() {
		images = 150
	}
	p := record(t, 200)
	if len(p.writes) < 600 {
		t.Fatalf("only %d writes recorded", len(p.writes))
	}
	const parts = 6 // beside each other, because each image waits for the disk
	for part := range parts {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(3, uint64(part)))
			path := filepath.Join(t.TempDir(), "store.db")
			for i := part; i < images; i += parts {
				n := 1 + i*len(p.writes)/images
				img, least := p.image(r, n, true)
				if err := p.judge(path, img, least); err != nil {
					t.Fatalf("image %d, cut after %d of %d writes: %v", i, n, len(p.writes), err)
				}
			}
		})
	}
}

// The same without the sync between data and meta page has to find a bad image, else the test above could
// not find a missing sync. A bad image may make bbolt panic in a goroutine of its own, or go round in a circle for
// ever, so each is opened in a process of its own, which has its time.
func TestPowerCutWithoutBarrier(t *testing.T) {
	t.Parallel()
	const variable = "HERALD_TEST_IMAGE"
	if path := os.Getenv(variable); path != "" {
		s, err := Open(Options{Path: path, Key: testKey})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Check(ctx), s.Close()); err != nil {
			t.Fatal(err)
		}
		return
	}
	p := record(t, 60)
	r := rand.New(rand.NewPCG(5, 6))
	var metas []int // how many writes there were when a meta page had been written and was not synced
	for i, w := range p.writes {
		if w.meta() {
			metas = append(metas, i+1)
		}
	}
	path := filepath.Join(t.TempDir(), "store.db")
	for i := range 200 {
		img, _ := p.image(r, metas[r.IntN(len(metas))], false)
		must(t, os.WriteFile(path, img, 0o600))
		must(t, os.Truncate(path, p.size))
		limit, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		child := exec.CommandContext(limit, os.Args[0], "-test.run=^TestPowerCutWithoutBarrier$") //nolint:gosec // this very program
		child.Env = append(os.Environ(), variable+"="+path)
		out, err := child.CombinedOutput()
		cancel()
		if err != nil {
			t.Logf("image %d is bad, as it must be (%v): %.200s", i+1, err, out)
			return
		}
	}
	t.Fatal("a missing sync was not noticed")
}
